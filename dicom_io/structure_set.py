"""RT Structure Sets: the polygons of a region as a mask on an image's grid (PS3.3 C.8.8.5, C.8.8.6)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dicom_io.errors import Rejected
from dicom_io.volume import Float64, Volume

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
# A contour must lie in a slice's plane; half a step away it could as well belong to the next.
_MOST_OFF_PLANE = 0.25


def roi_names(rtstruct: Dataset) -> tuple[str, ...]:
    """ROI Name (3006,0026) of each region, in the object's order."""
    return tuple(name for _, name in regions(rtstruct))


def regions(rtstruct: Dataset) -> tuple[tuple[int, str], ...]:
    """ROI Number (3006,0022) and ROI Name (3006,0026) of each region, in the object's order.

    Raises:
        Rejected: a region has no number, or two have the same.
    """
    found = []
    for item in rtstruct.get("StructureSetROISequence") or ():
        if item.get("ROINumber") is None:
            raise Rejected(f"{_named(rtstruct)} has a region without ROINumber (3006,0022); export it again")
        found.append((int(item.ROINumber), str(item.get("ROIName") or "")))
    if len({number for number, _ in found}) < len(found):
        raise Rejected(f"{_named(rtstruct)} has two regions of one ROINumber (3006,0022); export it again")
    return tuple(found)


def mask(rtstruct: Dataset, roi: str | int, grid: Volume) -> Volume:
    """1 where a voxel's centre lies inside the region, else 0, on the grid of the image that it was drawn on.

    Polygons of one slice are combined even-odd, so that holes, whether drawn as a second polygon or through a keyhole,
    stay open. A polygon belongs to the slice whose plane it lies in. roi: its name, or its ROI Number (3006,0022).

    Raises:
        Rejected: no such region, several of this name, no closed contour, another frame of reference, or a contour that
            lies in no slice.
    """
    number, roi_name = _region(rtstruct, roi)
    contours = list(_contours(rtstruct, number, roi_name, grid))
    if not contours:
        raise Rejected(f"region {roi_name!r} of {_named(rtstruct)} has no closed contour; name another region")
    _, rows, columns = grid.spatial_shape
    inside = np.zeros(grid.spatial_shape, bool)
    for points in contours:
        index = np.linalg.solve(grid.affine, np.c_[points, np.ones(len(points))].T)[:3].T
        inside[_slice_of(index, roi_name, grid)] ^= polygon(index[:, 1:], rows, columns)
    return grid.with_voxels(inside.astype(np.float32), units="1")


def polygon(vertices: Float64, rows: int, columns: int) -> npt.NDArray[np.bool_]:
    """(rows, columns): whether each pixel's centre lies inside. vertices: (n, 2) of (row, column) indices.

    Even-odd rule along each row. Edges are half-open (an edge from row a to row b counts for a <= row < b, a crossing
    at column c for columns >= c), so neighbouring polygons that share an edge share no pixel and leave none out.
    """
    crossed = np.zeros((rows, columns + 1), np.int64)
    start_row, start_column = vertices.T
    end_row, end_column = np.roll(vertices, -1, axis=0).T
    for a_row, a_column, b_row, b_column in zip(start_row, start_column, end_row, end_column, strict=True):
        low, high = min(a_row, b_row), max(a_row, b_row)
        at = np.arange(max(int(np.ceil(low)), 0), min(int(np.ceil(high)), rows))
        if at.size:
            column = a_column + (at - a_row) * (b_column - a_column) / (b_row - a_row)
            crossed[at, np.clip(np.ceil(column), 0, columns).astype(np.int64)] += 1
    return np.asarray(np.cumsum(crossed, axis=1)[:, :columns] % 2 == 1)


def _region(rtstruct: Dataset, roi: str | int) -> tuple[int, str]:
    found = [one for one in regions(rtstruct) if roi in one]
    if len(found) > 1:
        numbers = " and ".join(str(number) for number, _ in found)
        raise Rejected(f"{_named(rtstruct)} has {len(found)} regions {roi!r}; ask by ROINumber (3006,0022) {numbers}")
    if not found:
        known = ", ".join(name for _, name in regions(rtstruct)) or "none"
        raise Rejected(f"{_named(rtstruct)} has no region {roi!r}; it has {known}")
    return found[0]


def _contours(rtstruct: Dataset, number: int, roi_name: str, grid: Volume) -> Iterable[Float64]:
    """(points, 3) in patient LPS mm for each closed contour of the region."""
    for region in rtstruct.StructureSetROISequence:
        if region.ROINumber != number:
            continue
        frame = str(region.get("ReferencedFrameOfReferenceUID") or "")
        if frame and grid.frame_of_reference_uid and frame != grid.frame_of_reference_uid:
            raise Rejected(
                f"region {roi_name!r} of {_named(rtstruct)} lies in frame of reference {frame}, the image in "
                f"{grid.frame_of_reference_uid}; register them first"
            )
        for item in rtstruct.get("ROIContourSequence") or ():
            if item.get("ReferencedROINumber") == number:
                for contour in item.get("ContourSequence") or ():
                    if contour.get("ContourGeometricType") in _CLOSED:
                        yield _points(contour, roi_name)


def _points(contour: Dataset, roi_name: str) -> Float64:
    """Contour Data (3006,0050), x\\y\\z triplets; parsed here, as pydicom makes an object of each number."""
    raw = contour.get_item("ContourData")
    value = raw.value if raw is not None else ()
    try:
        numbers = value.decode("ascii").split("\\") if isinstance(value, bytes) else list(value)
        points = np.array(numbers, np.float64).reshape(-1, 3)
        if not len(points) or not np.isfinite(points).all():
            raise ValueError(f"{len(points)} points, not all of them places")
        return points
    except (ValueError, TypeError) as error:
        raise Rejected(f"region {roi_name!r}: a contour's points cannot be read ({error}); export it again") from error


def _slice_of(index: Float64, roi_name: str, grid: Volume) -> int:
    nearest = round(float(np.median(index[:, 0])))
    off = float(np.abs(index[:, 0] - nearest).max())
    if off > _MOST_OFF_PLANE or not 0 <= nearest < grid.spatial_shape[0]:
        raise Rejected(
            f"region {roi_name!r}: a contour lies {off * grid.spacing_mm[0]:.1f} mm off slice {nearest + 1} of "
            f"{grid.spatial_shape[0]}; give the image that it was drawn on"
        )
    return nearest


def _named(rtstruct: Dataset) -> str:
    return f"structure set {rtstruct.get('SOPInstanceUID', 'without a UID')}"
