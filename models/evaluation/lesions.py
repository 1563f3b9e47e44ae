"""Lesion by lesion, as the white-matter challenge of 2017 counts (Kuijf 2019, section II.D): what Dice hides.

Voxels that touch by a face, an edge or a corner are one lesion; a lesion is found where one voxel of it is; precision
is the share of our lesions that touch a true one; surfaces are those of the slices. All as its evaluation.py of 2020
has it, whose figures come out here to the last digits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Mask = npt.NDArray[np.bool_]
Distances = npt.NDArray[np.float64]
_TOUCHING = np.ones((3, 3, 3), bool)
_IN_PLANE = np.ones((1, 3, 3), bool)
# Upper ends of the sizes by which found lesions are counted, in ml; the last has none.
SIZES_ML = (0.05, 0.5)


def figures(ours: Mask, truth: Mask, spacing_mm: Sequence[float]) -> dict[str, float]:
    """ours, truth: (slices, rows, columns); spacing_mm: (slice, row, column).

    absolute_volume_difference: share of the true volume, nan where there is none. lesion_recall, lesion_precision: 1
    where there is no lesion that could be found, or none was; lesion_f1: their harmonic mean. h95_in_plane_mm: of
    surfaces that are the edges of slices, nan where a mask is empty.
    """
    mine, true = int(ours.sum()), int(truth.sum())
    recall, precision = _share_touched(truth, ours), _share_touched(ours, truth)
    both = recall + precision
    return {
        "absolute_volume_difference": abs(mine - true) / true if true else float("nan"),
        "lesion_recall": recall,
        "lesion_precision": precision,
        "lesion_f1": 2 * recall * precision / both if both else 0.0,
        "h95_in_plane_mm": h95_in_plane_mm(ours, truth, spacing_mm),
    }


def _share_touched(lesions: Mask, other: Mask) -> float:
    numbered, count = ndimage.label(lesions, _TOUCHING)
    return len(np.unique(numbered[other & lesions])) / count if count else 1.0


def h95_in_plane_mm(ours: Mask, truth: Mask, spacing_mm: Sequence[float]) -> float:
    """`h95_mm` of the edges of lesions in their slices."""
    # What lies outside the image counts as lesion, as in ITK.
    ours, truth = (mask & ~ndimage.binary_erosion(mask, _IN_PLANE, border_value=1) for mask in (ours, truth))
    return h95_mm(ours, truth, spacing_mm)


def h95_mm(ours: Mask, truth: Mask, spacing_mm: Sequence[float]) -> float:
    """95th percentile of the distances from each voxel of one to the nearest of the other, the larger of both
    directions; nan where one has none."""
    if not ours.any() or not truth.any():
        return float("nan")
    return max(float(np.percentile(distances, 95)) for distances in distances_mm(ours, truth, spacing_mm))


def distances_mm(ours: Mask, truth: Mask, spacing_mm: Sequence[float]) -> tuple[Distances, Distances]:
    """Of each voxel of ours to the nearest of truth, and of each of truth to the nearest of ours; both have some.

    By distance transforms: SciPy's KDTree, which the challenge takes, crashed in a process that had loaded SimpleITK.
    """
    to_ours, to_truth = (ndimage.distance_transform_edt(~mask, sampling=spacing_mm) for mask in (ours, truth))
    return to_truth[ours], to_ours[truth]


def by_size(ours: Mask, truth: Mask, voxel_ml: float) -> dict[str, tuple[int, int]]:
    """Of true lesions below 0.05 ml, below 0.5 ml, and of the others: how many were found, and how many there are."""
    numbered, count = ndimage.label(truth, _TOUCHING)
    sizes = np.bincount(numbered.ravel(), minlength=count + 1)[1:] * voxel_ml
    found = np.isin(np.arange(1, count + 1), numbered[ours & truth])
    band = np.searchsorted(SIZES_ML, sizes, side="right")
    return {
        name: (int((found & (band == number)).sum()), int((band == number).sum()))
        for number, name in enumerate(size_names())
    }


def size_names() -> list[str]:
    """Of the sizes that `by_size` tells apart."""
    least, most = SIZES_ML
    return [f"below {least} ml", f"{least} to {most} ml", f"{most} ml and more"]
