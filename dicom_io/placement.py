"""Frames of a multi-frame object that say where they lie (PS3.3 C.7.6.16.2) -> voxels of a grid.

A frame is placed by Plane Position (0020,9113), Plane Orientation (0020,9116) and Pixel Measures (0028,9110), never by
its number. Where the frames are planes of the wanted grid, moved by whole pixels at most, their values are copied;
elsewhere each voxel of the grid takes the nearest of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from dicom_io.errors import GapInSeries, MissingAttribute, Rejected
from dicom_io.volume import Float32, Float64, Volume

# What a frame shows, by its number, from 0; made when it is laid, since all at once would not fit into memory.
Shown = Callable[[int], npt.NDArray[Any]]
# Puts a plane onto what lies there already: (there, new) -> merged.
Merge = Callable[[Float32, Float32], Float32]


def highest(there: Float32, new: Float32) -> Float32:
    """Where frames overlap, the higher value stays; 0 where there is none."""
    return np.maximum(there, new)


def latest(there: Float32, new: Float32) -> Float32:
    """A frame's values as they are, whatever their sign; of two at one place the later one."""
    return new


@dataclass(frozen=True, eq=False)
class Places:
    """Where the frames of one object lie.

    named: what to call the object in a message, "SEG 1.2.3". positions: (frames, 3), of each first pixel, LPS in mm.
    in_plane: (3, 2), the step of a row and of a column index, LPS in mm. shape: (rows, columns).
    steps_mm: what the object says of the distance of its planes: Spacing Between Slices, Slice Thickness; None absent.
    """

    named: str
    frame_of_reference_uid: str
    positions: Float64
    in_plane: Float64
    shape: tuple[int, int]
    steps_mm: tuple[float | None, float | None]


def group(dataset: Dataset, frame: Dataset, macro: str, named: str) -> Dataset:
    """A functional group's item, per frame or shared (PS3.3 C.7.6.16).

    Raises:
        MissingAttribute: it is neither.
    """
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    items = frame.get(macro) or shared.get(macro)
    if not items:
        raise MissingAttribute(f"{named} has no {macro}, so what its frames show is not known")
    found: Dataset = items[0]
    return found


def places(dataset: Dataset, named: str) -> Places:
    """Where the frames of an object lie.

    Raises:
        MissingAttribute: the object does not say so.
        Rejected: the frames are not parallel, or their number is not that of their functional groups.
    """
    items = dataset.get("PerFrameFunctionalGroupsSequence") or []
    if not items or len(items) != int(dataset.get("NumberOfFrames") or 1):
        raise Rejected(f"{named} has {dataset.get('NumberOfFrames')} frames and says of {len(items)} where they lie")
    steps, positions = [], []
    for item in items:
        orientation = group(dataset, item, "PlaneOrientationSequence", named).ImageOrientationPatient
        right, down = np.array(orientation, np.float64).reshape(2, 3)
        step_down, step_right = map(float, group(dataset, item, "PixelMeasuresSequence", named).PixelSpacing)
        steps.append(np.column_stack([down * step_down, right * step_right]))
        position = group(dataset, item, "PlanePositionSequence", named).ImagePositionPatient
        positions.append(np.array(position, np.float64))
    if np.abs(np.array(steps) - steps[0]).max() > 1e-3 * np.abs(steps[0]).max():
        raise Rejected(f"the frames of {named} are not parallel, so they are no volume")
    measures = group(dataset, items[0], "PixelMeasuresSequence", named)
    between, thickness = (measures.get(keyword) for keyword in ("SpacingBetweenSlices", "SliceThickness"))
    return Places(
        named=named,
        frame_of_reference_uid=str(dataset.get("FrameOfReferenceUID") or ""),
        positions=np.array(positions),
        in_plane=steps[0],
        shape=(int(dataset.Rows), int(dataset.Columns)),
        steps_mm=(float(between) if between else None, float(thickness) if thickness else None),
    )


def lay(at: Places, numbers: Sequence[int], shown: Shown, grid: Volume | None, *, merge: Merge = highest) -> Volume:
    """Frames as a (slices, rows, columns) volume of units "1": on the grid, or on the frames' own.

    numbers: of the frames that are laid, from 0. shown: what each of them shows, (rows, columns). The own grid goes
    from the first frame of the object to the last along the normal, whichever of them are laid.

    Raises:
        Rejected: another frame of reference than the grid's.
        GapInSeries: the frames lie on no regular stack, so that they have no grid of their own.
    """
    if grid is not None:
        _require_same_frame_of_reference(at, grid)
        placed = _placed(at, numbers, shown, grid, merge)
        if placed is not None:
            return grid.with_voxels(placed, units="1")
    own = _on_own_grid(at, numbers, shown, merge)
    return own if grid is None else _nearest(own, grid)


def _require_same_frame_of_reference(at: Places, grid: Volume) -> None:
    if grid.frame_of_reference_uid != at.frame_of_reference_uid:
        raise Rejected(
            f"{at.named} lies in frame of reference {at.frame_of_reference_uid or 'none'}, the grid in "
            f"{grid.frame_of_reference_uid}; they are not comparable"
        )


def _placed(at: Places, numbers: Sequence[int], shown: Shown, grid: Volume, merge: Merge) -> Float32 | None:
    """The frames where they are planes of the grid, moved by whole pixels at most; None where they are not."""
    if np.abs(at.in_plane - grid.affine[:3, 1:3]).max() > 1e-3 * min(grid.spacing_mm[1:]):
        return None
    slices, rows, columns = grid.spatial_shape
    height, width = at.shape
    voxels = np.zeros(grid.spatial_shape, np.float32)
    for number in numbers:
        index = grid.index_at(at.positions[number].tolist())
        slice_index, row, column = (int(value) for value in np.rint(index))
        # A grid through uneven slices is off by up to a quarter step along the normal, by nothing in the plane.
        if (np.abs(index - np.rint(index)) > (0.25, 0.02, 0.02)).any():
            return None
        if not 0 <= slice_index < slices:
            continue
        top, left, bottom, right = max(row, 0), max(column, 0), min(row + height, rows), min(column + width, columns)
        if top < bottom and left < right:
            window = shown(number)[top - row : bottom - row, left - column : right - column]
            there = voxels[slice_index, top:bottom, left:right]
            there[:] = merge(there, window.astype(np.float32, copy=False))
    return voxels


def _on_own_grid(at: Places, numbers: Sequence[int], shown: Shown, merge: Merge) -> Volume:
    normal = np.cross(at.in_plane[:, 1], at.in_plane[:, 0])
    normal /= np.linalg.norm(normal)
    heights = at.positions @ normal
    step = _slice_step(at, np.unique(np.round(heights, 3)))
    slices = (heights - heights.min()) / step
    if np.abs(slices - np.rint(slices)).max() > 0.25:
        raise GapInSeries(
            f"the frames of {at.named} are no regular stack with steps of {step:.2f} mm; "
            "read it on the grid of its source"
        )
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1:3] = normal * step, at.in_plane
    affine[:3, 3] = at.positions[int(np.argmin(heights))]
    voxels = np.zeros((int(np.rint(slices.max())) + 1, *at.shape), np.float32)
    for number in numbers:
        there = voxels[int(np.rint(slices[number]))]
        there[:] = merge(there, shown(number).astype(np.float32, copy=False))
    return Volume(voxels, affine, at.frame_of_reference_uid, "1")


def _slice_step(at: Places, heights: Float64) -> float:
    """Distance of neighbouring planes: what the object says, else the smallest between frames, else the thickness."""
    between, thickness = at.steps_mm
    smallest = float(np.diff(heights).min()) if len(heights) > 1 else 0.0
    for step in (between, smallest, thickness):
        if step:
            return abs(step)
    return 1.0


def _nearest(own: Volume, grid: Volume) -> Volume:
    """Values on another grid: each voxel takes the nearest of the frames', 0 outside of them."""
    to_own = np.linalg.solve(own.affine, grid.affine)
    voxels = np.zeros(grid.spatial_shape, np.float32)
    rows, columns = np.meshgrid(*(np.arange(n) for n in grid.spatial_shape[1:]), indexing="ij")
    limits = np.array(own.spatial_shape)[:, np.newaxis, np.newaxis]
    for number in range(grid.spatial_shape[0]):
        index = np.tensordot(to_own[:3, :3], np.stack([np.full_like(rows, number), rows, columns]), axes=1)
        nearest = np.rint(index + to_own[:3, 3, np.newaxis, np.newaxis]).astype(int)
        inside = ((nearest >= 0) & (nearest < limits)).all(axis=0)
        voxels[number][inside] = own.voxels[tuple(nearest[:, inside])]
    return grid.with_voxels(voxels, units="1")
