"""What finds the tumour without learning: two thresholds, and the geometry of the crop without looking at a pixel.

Each crop of the sarcoma data set is its lesion plus 50 mm on every side, so the box 50 mm inside the crop is the
lesion's bounding box, and a slice less than 50 mm from the crop's end holds no lesion. A model that learns the place in
the crop learns this; results count only beside it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dicom_io.volume import Float64, Volume

MARGIN_MM = 50.0
SUV_THRESHOLD = 2.5  # g/ml, the oldest fixed threshold of FDG PET
SHARE_OF_MAXIMUM = 0.41  # EANM 2010 procedure guideline for tumour PET

Mask = npt.NDArray[np.bool_]


def above_fixed_suv(suv: Volume) -> Mask:
    """(slices, rows, columns): SUV of 2.5 and more."""
    return suv.voxels >= SUV_THRESHOLD


def above_share_of_maximum(suv: Volume) -> Mask:
    """(slices, rows, columns): 41 % of the crop's SUVmax and more."""
    return suv.voxels >= SHARE_OF_MAXIMUM * suv.voxels.max()


def inside_margin(suv: Volume) -> Mask:
    """(slices, rows, columns): voxels at least 50 mm from every end of the crop. Looks at no voxel."""
    per_axis = [
        distance_from_end_mm(count, step) >= MARGIN_MM
        for count, step in zip(suv.spatial_shape, suv.spacing_mm, strict=True)
    ]
    return per_axis[0][:, None, None] & per_axis[1][None, :, None] & per_axis[2][None, None, :]


def inscribed_ellipsoid(suv: Volume) -> Mask:
    """(slices, rows, columns): the ellipsoid inside that box; tumours are round. Looks at no voxel.

    Empty where the crop is smaller than its margins, so that there is no box.
    """
    box = np.argwhere(inside_margin(suv))
    if not len(box):
        return np.zeros(suv.spatial_shape, np.bool_)
    low, high = box.min(axis=0), box.max(axis=0)
    centre, radius = (low + high) / 2, (high - low + 1) / 2
    index = np.moveaxis(np.indices(suv.spatial_shape), 0, -1)
    return (((index - centre) / radius) ** 2).sum(axis=-1) <= 1


def slice_distance_mm(suv: Volume) -> Float64:
    """(slices,): distance of each slice from the nearer end of the crop; the geometry baseline of slice classifiers."""
    return distance_from_end_mm(suv.spatial_shape[0], suv.spacing_mm[0])


def slice_maximum(suv: Volume) -> Float64:
    """(slices,): SUVmax of each slice."""
    return suv.voxels.max(axis=(1, 2)).astype(np.float64)


def distance_from_end_mm(count: int, step_mm: float) -> Float64:
    """(count,): distance of a voxel from the nearer end of a row of `count` voxels, centre to centre."""
    index = np.arange(count)
    return np.minimum(index, count - 1 - index) * step_mm
