"""WMH Segmentation Challenge 2017: white-matter hyperintensities on T1 and FLAIR, SITE/SUBJECT/{pre,orig}, wmh.nii.gz.

H. J. Kuijf et al., IEEE Trans. Med. Imaging 38:2556, 2019. pre/ holds bias-corrected images, with T1 on the grid of
FLAIR, on which the mask lies too. In the mask 1 is white-matter hyperintensity, and 2 other pathology, which the
challenge leaves out of every count; here it becomes background, and its number of voxels is kept in the provenance.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from dicom_io import cohort as cohorts
from dicom_io import nifti
from dicom_io.cohort import Channel, Cohort, Item
from dicom_io.errors import Rejected
from dicom_io.pseudonym import hidden_volume, pseudonym
from samples.importers import pictures
from samples.importers.by_patient import Plan, Progress, gather, split
from samples.importers.foreign import volume

NAME = "wmh-challenge"
CONTRASTS = ("T1", "FLAIR")
LESION, OTHER_PATHOLOGY = 1, 2


def lesions(source: Path, out: Path, key: bytes, progress: Progress) -> Cohort:
    """T1 and FLAIR of pre/ with the lesion mask, for segmenters; channels as in our own brain phantoms."""
    plan = Plan(
        name=NAME,
        description="White-matter hyperintensities on T1 and FLAIR, bias-corrected, T1 on the grid of FLAIR",
        task="segmentation",
        labels=("background", "white-matter lesion"),
        channels=tuple(Channel(contrast, "MR", "1", contrast) for contrast in CONTRASTS),
    )
    return gather(plan, out, split(subjects_in(source), plan.name), partial(_items, source, out, key), progress)


def subjects_in(source: Path) -> list[str]:
    """Paths of the subjects' folders below `source`, e.g. "Utrecht/0" or "Amsterdam/GE3T/100".

    Raises:
        Rejected: no folder holds wmh.nii.gz beside pre/ with T1 and FLAIR.
    """
    homes = (path.parent for path in source.rglob("wmh.nii.gz"))
    whole = [home for home in homes if all((home / "pre" / f"{name}.nii.gz").is_file() for name in CONTRASTS)]
    if not whole:
        raise Rejected(
            f"{source} holds no SITE/SUBJECT/ with wmh.nii.gz, pre/T1.nii.gz and pre/FLAIR.nii.gz; give the folder "
            "that holds the sites"
        )
    return sorted(home.relative_to(source).as_posix() for home in whole)


def _items(source: Path, out: Path, key: bytes, subject: str) -> list[Item]:
    home, name = source / subject, pseudonym(key, subject, prefix="P")
    t1, flair = (volume(home / "pre" / f"{contrast}.nii.gz", units="1", frame=subject) for contrast in CONTRASTS)
    if not t1.same_grid_as(flair, tolerance_mm=0.1):
        raise Rejected(
            f"{subject}/pre/T1.nii.gz has {t1.spatial_shape} voxels and is not on the grid of FLAIR, "
            f"{flair.spatial_shape}; resample it onto FLAIR first"
        )
    t1 = flair.with_voxels(t1.voxels)  # headers differ by a rounding
    mask = nifti.mask_on(home / "wmh.nii.gz", flair)
    labels = np.rint(mask.voxels)
    item = cohorts.add_volume(
        out,
        name,
        {contrast: hidden_volume(key, one) for contrast, one in zip(CONTRASTS, (t1, flair), strict=True)},
        name,
        mask=hidden_volume(key, mask.with_voxels((labels == LESION).astype(np.float32))),
        provenance=pictures.provenance(
            NAME, site=Path(subject).parent.as_posix(), other_pathology_voxels=int((labels == OTHER_PATHOLOGY).sum())
        ),
    )
    return [item]
