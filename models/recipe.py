"""A recipe: one YAML that names input chain, network, loss, optimiser, augmentation, schedule and evaluation.

Read with the safe loader and checked key by key: an unknown key is an error that names the file and the key. Units are
in the names. Recipes that ship lie in `models/recipes`; copy one to change it. Predictors' recipes are here; each
family of generators has its own module, and one line in `Recipe`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Discriminator, Tag, TypeAdapter, ValidationError

from dicom_io.errors import Rejected
from models.adversarial_recipe import AdversarialRecipe
from models.classification_recipe import ClassificationRecipe
from models.diffusion_recipe import DiffusionRecipe
from models.paired_recipe import PairedRecipe
from models.recipe_parts import RecipeBase
from models.segmentation_recipe import SegmentationRecipe
from models.unpaired_recipe import UnpairedRecipe
from models.variational_recipe import VariationalRecipe

SHIPPED = Path(__file__).parent / "recipes"


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
_TAGS |= {"resnet", "small-cnn", "histology", "unet", "wmh-unet", "dynunet", "densenet169", "efficientnet-b0"}


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
