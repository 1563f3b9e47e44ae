"""What every family records about a training before its model is written."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dicom_io.cohort import Cohort
from dicom_io.errors import Rejected
from models.recipe_parts import RecipeBase
from models.version import Saw


def device_named(name: str) -> torch.device:
    """ "cpu", "cuda", or for "auto" the GPU where there is one.

    Raises:
        Rejected: another word, or "cuda" where there is no GPU.
    """
    if name not in ("auto", "cpu", "cuda") or (name == "cuda" and not torch.cuda.is_available()):
        raise Rejected(f"device {name!r} is not there; ask for cpu, or for auto, which takes a GPU where there is one")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    # Denormal numbers slow a CPU tenfold and mean nothing here.
    torch.set_flush_denormal(True)
    return torch.device(name)


def require_splits(cohort: Cohort) -> None:
    """Raises Rejected where training or validation is empty."""
    for split in ("training", "validation"):
        if not cohort.splits.get(split):
            raise Rejected(f"cohort {cohort.name!r} has no {split} images; import it with shares for all three splits")


def body_parts(cohort: Cohort) -> tuple[str, ...]:
    """Of the training images, where all of them say one."""
    stated = [str(item.provenance.get("body_part") or "") for item in cohort.training]
    return tuple(sorted(set(stated))) if all(stated) else ()


def saw(recipe: RecipeBase, cohort: Cohort, data_hash: str, owners: Sequence[str], images_seen: int) -> Saw:
    """The record for card and metadata. owners: the patient of each slice (or volume) that is drawn from."""
    synthetic = {item.patient for item in cohort.training if item.synthetic}
    return Saw(
        cohort=cohort.name,
        data_hash=data_hash,
        split_unit=cohort.split_unit,
        patients=len(set(owners)),
        validation_patients=len({item.patient for item in cohort.validation}),
        images=len(owners),
        synthetic_images=sum(owner in synthetic for owner in owners),
        images_seen=images_seen,
        seed=recipe.seed,
        recipe=recipe.name,
    )
