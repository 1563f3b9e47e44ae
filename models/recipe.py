"""A recipe: one YAML that names input chain, network, loss, optimiser, augmentation, schedule and evaluation.

Read with the safe loader and checked key by key: an unknown key is an error that names the file and the key. Units are
in the names. Recipes that ship lie in `models/recipes`; copy one to change it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from dicom_io.errors import Rejected
from models.preprocessing import INTENSITY, check_steps

SHIPPED = Path(__file__).parent / "recipes"

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]


class Settings(BaseModel):
    """Keys that are not listed here are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Optimiser(Settings):
    """AdamW. learning_rate: at its peak, after warm-up. weight_decay: per step, decoupled."""

    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2


class AdversarialOptimiser(Settings):
    """Adam for generator and discriminator. r1_gamma: None takes 0.0002 * px^2 / batch (StyleGAN2-ADA)."""

    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    beta_1: Share = 0.0
    beta_2: Share = 0.99
    r1_gamma: float | None = None
    r1_every_steps: Positive = 16


class Schedule(Settings):
    """All counts are images, so that they mean the same at any batch size.

    report_images: between two validations with checkpoint. ema_half_life_images: of the running average that is kept.
    precision: "auto" takes bfloat16 where the machine has it; weights stay float32, but differ between machines.
    """

    total_images: Positive
    batch_size: Positive = 16
    report_images: Positive = 2000
    warm_up_images: Annotated[int, Field(ge=0)] = 500
    ema_half_life_images: Positive = 1000
    precision: Literal["float32", "auto"] = "float32"


class Augmentation(Settings):
    """Drawn anew for every image. Flips only where left and right, up and down mean nothing.

    translation, scale: shares of the image size. gain: share by which values are multiplied; offset, noise: in the
    units of the network's input (after the input chain).
    """

    flip_rows: bool = False
    flip_columns: bool = False
    rotation_degrees: Annotated[float, Field(ge=0, le=180)] = 0.0
    translation: Share = 0.0
    scale: Share = 0.0
    gain: Share = 0.0
    offset: Annotated[float, Field(ge=0)] = 0.0
    noise: Annotated[float, Field(ge=0)] = 0.0


class Evaluation(Settings):
    """bootstrap_draws: patient-cluster resamples behind every 95 % interval."""

    bootstrap_draws: Annotated[int, Field(ge=100)] = 2000


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


class DCGAN(Settings):
    """Resize-convolution generator with GroupNorm, strided discriminator. features: channels at half resolution."""

    image_px: Annotated[int, Field(ge=16)] = 64
    features: Annotated[int, Field(ge=16)] = 32
    latent: Positive = 128

    @model_validator(mode="after")
    def _power_of_two(self) -> Self:
        if self.image_px & (self.image_px - 1) or self.features % 16:
            raise ValueError("image_px must be a power of two and features a multiple of 16")
        return self


class CrossEntropy(Settings):
    label_smoothing: Share = 0.05


class DiceCrossEntropy(Settings):
    """Weights of the two terms of MONAI's DiceCELoss; Dice is pooled over the batch, so empty slices stay finite."""

    dice: Annotated[float, Field(ge=0)] = 1.0
    cross_entropy: Annotated[float, Field(ge=0)] = 1.0


class NonSaturating(Settings):
    """Non-saturating logistic loss; DiffAugment policies (Zhao 2020) on real and fake alike, as shares of the image."""

    translation: Share = 0.125
    cutout: Share = 0.5


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


class _Recipe(Settings):
    name: str
    seed: int = 0
    preprocessing: tuple[dict[str, Any], ...] = ()
    evaluation: Evaluation = Evaluation()

    @model_validator(mode="after")
    def _chain_is_harmless(self) -> Self:
        check_steps(self.preprocessing)
        return self


def _require_grid(steps: tuple[dict[str, Any], ...], why: str) -> None:
    for step in steps:
        if step["_target_"] not in INTENSITY:
            raise ValueError(f"preprocessing: {step['_target_']} changes the grid; {why}")


class ClassificationRecipe(_Recipe):
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
            _require_grid(self.preprocessing, "windows are cut from the cohort's own grid")
        return self


class SegmentationRecipe(_Recipe):
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
        _require_grid(self.preprocessing, "a segmenter must keep it")
        smallest = 2 ** (len(self.network.channels) - 1)
        if self.windows.window_px % smallest:
            raise ValueError(
                f"windows.window_px: {self.windows.window_px} is no multiple of {smallest} (network.channels)"
            )
        return self


class GenerationRecipe(_Recipe):
    """Noise -> slice: the first channel of the cohort, after `preprocessing`, scaled from pixel_range to [-1, 1].

    pixel_range: in the units that the chain leaves; values outside are clipped and samples come back inside it.
    minimum_signal: slices whose 99th percentile lies below this share of the range are left out (air).
    """

    task: Literal["generation"]
    network: DCGAN = DCGAN()
    loss: NonSaturating = NonSaturating()
    optimiser: AdversarialOptimiser = AdversarialOptimiser()
    augmentation: Augmentation = Augmentation()
    schedule: Schedule
    pixel_range: tuple[float, float]
    minimum_signal: Share = 0.02
    audit_samples: Annotated[int, Field(ge=16)] = 256

    @model_validator(mode="after")
    def _range_is_open(self) -> Self:
        if self.pixel_range[0] >= self.pixel_range[1]:
            raise ValueError(f"pixel_range: {self.pixel_range[0]} is not below {self.pixel_range[1]}")
        return self


Recipe = ClassificationRecipe | SegmentationRecipe | GenerationRecipe
_ADAPTER: TypeAdapter[Recipe] = TypeAdapter(Annotated[Recipe, Field(discriminator="task")])


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
        # The discriminator leads the location; the person wrote the keys after it.
        keys = [str(key) for key in first["loc"] if key not in ("classification", "segmentation", "generation")]
        reason = first["msg"].removeprefix("Value error, ")
        where = f"key {'.'.join(keys)!r}: " if keys else ""
        value = "" if first["type"] in ("missing", "value_error") else f" (found {first['input']!r})"
        raise Rejected(f"{origin}: {where}{reason}{value}; shipped recipes show every key") from error


def dump(recipe: Recipe) -> str:
    """The recipe as YAML, every default written out; `load` reads it back equal."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)
