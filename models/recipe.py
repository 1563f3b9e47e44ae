"""A recipe: one YAML that names input chain, network, loss, optimiser, augmentation, schedule and evaluation.

Read with the safe loader and checked key by key: an unknown key is an error that names the file and the key. Units are
in the names. Recipes that ship lie in `models/recipes`; copy one to change it. Predictors' recipes are here; each
family of generators has its own module, and one line in `Recipe`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Discriminator, Field, Tag, TypeAdapter, ValidationError, model_validator

from dicom_io.errors import Rejected
from models.adversarial_recipe import AdversarialRecipe
from models.diffusion_recipe import DiffusionRecipe
from models.paired_recipe import PairedRecipe
from models.recipe_parts import (
    Augmentation,
    NotNegative,
    Positive,
    Rate,
    RecipeBase,
    Schedule,
    Settings,
    Share,
    require_grid,
)
from models.unpaired_recipe import UnpairedRecipe
from models.variational_recipe import VariationalRecipe

SHIPPED = Path(__file__).parent / "recipes"


class Optimiser(Settings):
    """AdamW. learning_rate: at its peak, after warm-up. weight_decay: per step, decoupled."""

    learning_rate: Rate = 1e-3
    weight_decay: NotNegative = 1e-2


class Norm(Settings):
    """batch keeps absolute intensity (SUV!); instance and group normalise it away image by image."""

    norm: Literal["batch", "instance", "group"] = "batch"


class UNet(Norm):
    """MONAI UNet, two-dimensional. channels: per level, each level halves the image."""

    channels: Annotated[tuple[Positive, ...], Field(min_length=2)] = (16, 32, 64, 128)
    residual_units: Annotated[int, Field(ge=0)] = 1
    dropout: Share = 0.0


class ResNet(Norm):
    """MONAI ResNet, two-dimensional, basic blocks. blocks, channels: per stage, four stages."""

    blocks: tuple[Positive, Positive, Positive, Positive] = (1, 1, 1, 1)
    channels: tuple[Positive, Positive, Positive, Positive] = (16, 32, 64, 128)
    first_kernel_px: Positive = 7
    first_stride_px: Positive = 2


class CrossEntropy(Settings):
    label_smoothing: Share = 0.05


class DiceCrossEntropy(Settings):
    """Weights of the two terms of MONAI's DiceCELoss; Dice is pooled over the batch, so empty slices stay finite."""

    dice: NotNegative = 1.0
    cross_entropy: NotNegative = 1.0


class Windows(Settings):
    """What the network is shown: random in-plane windows of one size, so that the place in the image is hidden.

    foreground_share: share of windows that must hold a foreground pixel (anywhere in the window). border_share: share
    in which a strip at a random side is blanked, so that the edge of a cropped image tells nothing about the lesion.
    overlap: of neighbouring windows when serving.
    """

    window_px: Positive = 96
    foreground_share: Share = 0.5
    border_share: Share = 0.0
    overlap: Annotated[float, Field(ge=0, lt=1)] = 0.5


class ClassificationRecipe(RecipeBase):
    """Slice or projection -> class probabilities.

    windows: None shows whole images; else the network is shown windows, a window has the largest class of its mask, and
    a slice the probabilities of its most suspicious window (needs a cohort of volumes with masks).
    """

    task: Literal["classification"]
    network: ResNet = ResNet()
    loss: CrossEntropy = CrossEntropy()
    optimiser: Optimiser = Optimiser()
    augmentation: Augmentation = Augmentation()
    windows: Windows | None = None
    schedule: Schedule

    @model_validator(mode="after")
    def _grid_is_kept(self) -> Self:
        if self.windows:
            require_grid(self.preprocessing, "windows are cut from the cohort's own grid")
        return self


class SegmentationRecipe(RecipeBase):
    """Slices of a volume -> mask, one window at a time."""

    task: Literal["segmentation"]
    network: UNet = UNet()
    loss: DiceCrossEntropy = DiceCrossEntropy()
    optimiser: Optimiser = Optimiser()
    augmentation: Augmentation = Augmentation()
    windows: Windows = Windows()
    schedule: Schedule

    @model_validator(mode="after")
    def _grid_is_kept(self) -> Self:
        require_grid(self.preprocessing, "a segmenter must keep it")
        smallest = 2 ** (len(self.network.channels) - 1)
        if self.windows.window_px % smallest:
            raise ValueError(
                f"windows.window_px: {self.windows.window_px} is no multiple of {smallest} (network.channels)"
            )
        return self


Recipe = (
    ClassificationRecipe
    | SegmentationRecipe
    | AdversarialRecipe
    | DiffusionRecipe
    | PairedRecipe
    | UnpairedRecipe
    | VariationalRecipe
)
# Families of generators beside the tasks; recipes from before there was a choice name none.
_KINDS = ("classification", "segmentation", "adversarial", "diffusion", "paired", "unpaired", "variational")
# Where the parser came by; the person wrote only the keys between them.
_TAGS = {*_KINDS, "dcgan", "pet", "brain-wcgan", "convolutional", "dense", "spade", "translator"}


def _kind(value: Any) -> Any:
    given = value if isinstance(value, dict) else {}
    return given.get("family", "adversarial") if given.get("task") == "generation" else given.get("task")


_ADAPTER: TypeAdapter[Recipe] = TypeAdapter(
    Annotated[
        Annotated[ClassificationRecipe, Tag("classification")]
        | Annotated[SegmentationRecipe, Tag("segmentation")]
        | Annotated[AdversarialRecipe, Tag("adversarial")]
        | Annotated[DiffusionRecipe, Tag("diffusion")]
        | Annotated[PairedRecipe, Tag("paired")]
        | Annotated[UnpairedRecipe, Tag("unpaired")]
        | Annotated[VariationalRecipe, Tag("variational")],
        Discriminator(
            _kind,
            custom_error_type="task",
            custom_error_message=(
                "it is none of classification, segmentation, generation (of family adversarial, diffusion, paired, "
                "unpaired, variational)"
            ),
        ),
    ]
)


def shipped() -> tuple[str, ...]:
    """Names of the recipes that come with the package."""
    return tuple(sorted(path.stem for path in SHIPPED.glob("*.yaml")))


def load(path: Path | str) -> Recipe:
    """Read a recipe from a file, or a shipped one by name ("segmenter").

    Raises:
        Rejected: no such file or name, no YAML, or a key is unknown, missing or has a value it may not have.
    """
    file = Path(path)
    if not file.is_file() and (SHIPPED / f"{path}.yaml").is_file():
        file = SHIPPED / f"{path}.yaml"
    if not file.is_file():
        raise Rejected(f"there is no recipe {str(path)!r}: give a YAML file or one of {', '.join(shipped())}")
    try:
        document = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        raise Rejected(f"{file} is no YAML: {' '.join(str(error).split())}") from error
    return parse(document, str(file))


def parse(document: object, origin: str) -> Recipe:
    """A recipe from its plain form; `origin` names it in errors.

    Raises:
        Rejected: as for `load`.
    """
    try:
        return _ADAPTER.validate_python(document)
    except ValidationError as error:
        first = error.errors()[0]
        keys = [str(key) for key in first["loc"] if key not in _TAGS]
        # A discriminator names what it chooses among, not the key that it goes by.
        keys += [first["type"]] if first["type"] in ("task", "kind") else []
        reason = first["msg"].removeprefix("Value error, ")
        where = f"key {'.'.join(keys)!r}: " if keys else ""
        value = "" if first["type"] in ("missing", "value_error", "task", "kind") else f" (found {first['input']!r})"
        raise Rejected(f"{origin}: {where}{reason}{value}; shipped recipes show every key") from error


def dump(recipe: RecipeBase) -> str:
    """The recipe as YAML, every default written out; `load` reads it back equal."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)
