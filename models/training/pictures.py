"""What every family of generators trains on, and what it leaves: slices in, a description of what it makes out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dicom_io.cohort import Cohort
from dicom_io.errors import Rejected
from models import cases, domain
from models.cases import Case, Squares
from models.recipe_parts import GenerationBase
from models.training import summary
from models.version import Description

FEW_PATIENTS = 20


def input_chain(recipe: GenerationBase) -> tuple[dict[str, Any], ...]:
    """The recipe's chain, then pixel_range to [-1, 1]."""
    low, high = recipe.pixel_range
    return (
        *recipe.preprocessing,
        {
            "_target_": "ScaleIntensityRanged",
            "keys": "image",
            "a_min": low,
            "a_max": high,
            "b_min": -1.0,
            "b_max": 1.0,
            "clip": True,
        },
    )


def read(cohort: Cohort, split: str, recipe: GenerationBase, image_px: int) -> tuple[list[Case], Squares]:
    """A split's cases, and its slices as the networks see them, with labels where the recipe is conditional.

    Raises:
        Rejected: the recipe is conditional and the cohort has no labels, or no slice is left.
    """
    if recipe.conditional and not cohort.labels:
        raise Rejected(f"conditional: cohort {cohort.name!r} has no labels; set it to false, or import it with labels")
    found = cases.load(cohort, cohort.splits[split], input_chain(recipe), masks=False, labels=recipe.conditional)
    return found, cases.squares(found, image_px, recipe.minimum_signal)


def few_patients(reals: Squares, names: Sequence[str]) -> list[str]:
    """A sentence for every class (or for all together) of which fewer than 20 patients have slices."""
    owners = {"": set(reals.patients)}
    if names and reals.labels is not None:
        pairs = list(zip(reals.labels.tolist(), reals.patients, strict=True))
        owners = {
            f" of {name!r}": {who for label, who in pairs if label == number} for number, name in enumerate(names)
        }
    return [
        f"{len(who)} training patients{of} are fewer than {FEW_PATIENTS}: the generator will repeat what it saw"
        for of, who in owners.items()
        if 0 < len(who) < FEW_PATIENTS
    ]


def description(
    recipe: GenerationBase,
    cohort: Cohort,
    data_hash: str,
    training: Sequence[Case],
    image_px: int,
    images_seen: int,
    label_slices: tuple[int, ...],
) -> Description:
    """What sampling needs beside the network: range, units, spacing, and which labels there were slices of."""
    return Description(
        name=recipe.name,
        task="generation",
        labels=cohort.labels,
        channels=cohort.channels[:1],
        domain=domain.observed([case.source for case in training], cohort.channels),
        saw=summary.saw(recipe, cohort, data_hash, training, images_seen),
        pixel_range=recipe.pixel_range,
        units="1" if recipe.preprocessing else cohort.channels[0].units,
        spacing_mm=cases.square_spacing_mm(training, image_px),
        minimum_signal=recipe.minimum_signal,
        audit_samples=recipe.audit_samples,
        label_slices=label_slices,
    )
