"""Phantoms: anatomically plausible, valid DICOM studies computed from a seed, and the truth about them.

They are synthetic and say so: Synthetic Data (0008,001C) = YES, and every patient's identifier starts with PHANTOM.
"""

from __future__ import annotations

from pathlib import Path

from samples.phantoms import brain_mr, breast_pet, histology, mammography
from samples.phantoms.patient import KINDS, Kind
from samples.phantoms.study import PhantomStudy, read

__all__ = ["KINDS", "Kind", "PhantomStudy", "read", "write_patients"]

_MOST_PATIENTS = 1000


def write_patients(
    kind: Kind, count: int, folder: Path, seed: int = 0, *, synthetic: bool = True
) -> list[PhantomStudy]:
    """Write `count` patients of one kind below `folder`, one study each; they are all different.

    The mixture is fixed, so that small sets hold everything: in breast PET each third patient has no lesion; mammograms
    go round mass, calcification, normal, and each fourth patient, from the second on, is stored as MONOCHROME1; each
    fourth slide has no carcinoma.

    Raises:
        ValueError: an unknown kind, a negative seed, or more than 1000 patients (they would be those of seed + 1).
    """
    if kind not in KINDS:
        raise ValueError(f"there is no phantom {kind!r}; there are {', '.join(KINDS)}")
    if not 0 <= count <= _MOST_PATIENTS:
        raise ValueError(f"{count} patients cannot be made from one seed; ask for 0 to {_MOST_PATIENTS}")
    return [_patient(kind, index, folder, seed * _MOST_PATIENTS + index, synthetic) for index in range(count)]


def _patient(kind: Kind, index: int, folder: Path, seed: int, synthetic: bool) -> PhantomStudy:
    if kind == "brain-mr":
        return brain_mr.study(seed, folder, synthetic=synthetic)
    if kind == "breast-pet":
        return breast_pet.study(seed, folder, lesions=index % 3 != 2, synthetic=synthetic)
    if kind == "histology":
        return histology.study(seed, folder, carcinoma=index % 4 != 3, synthetic=synthetic)
    return mammography.study(
        seed,
        folder,
        finding=mammography.FINDINGS[index % 3],
        photometric="MONOCHROME1" if index % 4 == 1 else "MONOCHROME2",
        synthetic=synthetic,
    )
