"""The breast in a mammogram: which pixels it has, where its chest wall is, and the picture cut and turned to it.

Axes are (row, column); the chest wall is on the left or the right of the picture. Bright is dense, as in `Projection`.
Threshold: Otsu, IEEE Trans. Syst. Man Cybern. 9:62 (1979), between air and tissue, halved, as the skin line is dark.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from dicom_io.errors import Rejected
from dicom_io.magnetic_resonance import otsu
from dicom_io.volume import Float32, Float64, Projection

Side = Literal["left", "right", ""]
Mask = npt.NDArray[np.bool_]

# Less than this share more breast on one side than on the other, and the picture does not say where the chest wall is.
_CLEAR_SHARE = 0.2
# Shapes are judged in a picture of about this many rows; what is thinner than twice the radius there (0.8 % of the
# height: writing, scratches, the gap between a label and the skin) does not join two things.
_COARSE_ROWS, _RADIUS = 512, 4
# At its chest wall the breast reaches the picture's edge, to this share of the width, over this share of its height.
_AT_THE_EDGE, _LEAST_CONTACT = 0.01, 0.5
# A column belongs to the picture, not to the black frame around a film, where this share is above the darkest value.
_LEAST_PICTURE = 0.05
# A breast is larger than this share of the picture; labels are smaller.
_LEAST_SHARE = 0.02


@dataclass(frozen=True)
class Placement:
    """Where a picture that was cut out, and perhaps mirrored left to right, lies in the one it was made from.

    whole, part: (rows, columns) of the two. start: (row, column) of the whole at which the part begins. mirrored: the
    part's columns run the other way.
    """

    whole: tuple[int, int]
    part: tuple[int, int]
    start: tuple[int, int] = (0, 0)
    mirrored: bool = False

    def cut(self, whole: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """(..., rows, columns) of the whole -> of the part: a mask, or another picture of the same breast."""
        self._check(whole, self.whole)
        part = whole[(..., *self._block())]
        return np.ascontiguousarray(part[..., ::-1] if self.mirrored else part)

    def restore(self, part: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """(..., rows, columns) of the part -> of the whole; 0 (False) where the part has nothing. `cut` undoes it."""
        self._check(part, self.part)
        whole = np.zeros((*part.shape[:-2], *self.whole), part.dtype)
        whole[(..., *self._block())] = part[..., ::-1] if self.mirrored else part
        return whole

    def restore_positions(self, positions: npt.ArrayLike) -> Float64:
        """(..., 2) of (row, column) indices, whole numbers at pixel centres: of the part -> of the whole."""
        rows, columns = np.moveaxis(np.asarray(positions, np.float64), -1, 0)
        if self.mirrored:
            columns = self.part[1] - 1 - columns
        return np.stack([rows + self.start[0], columns + self.start[1]], axis=-1)

    def cut_positions(self, positions: npt.ArrayLike) -> Float64:
        """(..., 2) of (row, column) indices of the whole -> of the part; those outside the part are outside it then."""
        rows, columns = np.moveaxis(np.asarray(positions, np.float64), -1, 0)
        rows, columns = rows - self.start[0], columns - self.start[1]
        return np.stack([rows, self.part[1] - 1 - columns if self.mirrored else columns], axis=-1)

    def then(self, other: Placement) -> Placement:
        """Both steps as one: `other` was made from the part of this."""
        if other.whole != self.part:
            raise ValueError(f"a placement in {other.whole} does not follow one of {self.part} pixels")
        first = self.part[1] - other.start[1] - other.part[1] if self.mirrored else other.start[1]
        start = (self.start[0] + other.start[0], self.start[1] + first)
        return Placement(self.whole, other.part, start, self.mirrored != other.mirrored)

    def _block(self) -> tuple[slice, slice]:
        (row, column), (rows, columns) = self.start, self.part
        return slice(row, row + rows), slice(column, column + columns)

    def _check(self, array: npt.NDArray[Any], expected: tuple[int, int]) -> None:
        if array.shape[-2:] != expected:
            raise ValueError(f"an array of {array.shape[-2:]} is not of the {expected} pixels that were placed")


def mask(values: Float32, valid: Mask | None = None, side: Side = "") -> Mask:
    """(rows, columns) -> what is breast: the largest object that reaches the left or right edge, its holes filled.

    side: where the chest wall is, if that is known: only there is looked then, and not at a film's bright rim opposite.
    valid: as `mammography.valid` gives it; pixels that are padding are never breast, and the edge is that of the rest.
    Labels and markers that lie apart from the breast are left out.

    Raises:
        Rejected: all pixels have one value or are padding, or nothing of a breast's size reaches the edge.
    """
    valid = np.ones(values.shape, np.bool_) if valid is None else valid
    seen = _padding_as_air(values, valid)
    if float(seen.min()) == float(seen.max()):
        raise Rejected("all pixels of the mammogram have one value, so there is no breast in it; send another view")
    above = seen > threshold(seen)
    step = max(values.shape[0] // _COARSE_ROWS, 1)
    object_ = _largest_at_an_edge(_opened(above[::step, ::step]), seen[::step, ::step], side)
    near = ndimage.binary_dilation(object_, iterations=_RADIUS)
    fine = above & near.repeat(step, axis=0).repeat(step, axis=1)[: values.shape[0], : values.shape[1]]
    return np.asarray(ndimage.binary_fill_holes(_largest(fine)) & valid, np.bool_)


def threshold(values: Float32) -> float:
    """Between air and tissue, from some 256 rows and columns of the picture."""
    coarse = values[:: max(values.shape[0] // 256, 1), :: max(values.shape[1] // 256, 1)]
    low = float(np.median(np.sort(coarse, axis=None)[: max(coarse.size // 20, 1)]))
    return low + (otsu(coarse) - low) / 2


def chest_wall_side(values: Float32) -> Side:
    """Side of the picture that the chest wall is on, from the picture: there the breast reaches the border.

    "" where both outer tenths hold much the same share of what is above the threshold.
    """
    coarse = values[:: max(values.shape[0] // 256, 1), :: max(values.shape[1] // 256, 1)]
    if float(coarse.min()) == float(coarse.max()):
        return ""
    above = coarse > threshold(values)
    outer = max(coarse.shape[1] // 10, 1)
    left, right = float(above[:, :outer].mean()), float(above[:, -outer:].mean())
    if abs(left - right) < _CLEAR_SHARE * max(left + right, 1e-9):
        return ""
    return "left" if left > right else "right"


def crop(projection: Projection, breast: Mask, margin_pixels: int = 0) -> tuple[Projection, Placement]:
    """The smallest block that holds `breast` and a margin, where the picture has one; and where it lies.

    Raises:
        Rejected: the mask is empty, of another size, or the margin is negative.
    """
    whole = _size(projection)
    if breast.shape != whole:
        raise Rejected(f"a mask of {breast.shape} pixels is not of the mammogram's {whole}; give one made from it")
    if margin_pixels < 0:
        raise Rejected(f"a margin of {margin_pixels} pixels cuts into the breast; give one of 0 or more")
    found = np.argwhere(breast)
    if not len(found):
        raise Rejected("the mask of the breast is empty, so there is nothing to crop to; give one with a breast")
    first = np.maximum(found.min(axis=0) - margin_pixels, 0).tolist()
    last = np.minimum(found.max(axis=0) + 1 + margin_pixels, whole).tolist()
    placement = Placement(whole, (last[0] - first[0], last[1] - first[1]), (first[0], first[1]))
    return replace(projection, pixels=placement.cut(projection.pixels)), placement


def to_side(projection: Projection, side: Literal["left", "right"]) -> tuple[Projection, Placement]:
    """The picture with its chest wall on `side`, mirrored if need be; and how it lies in the one that was given.

    Laterality and view stay what they are: they are of the patient, not of the picture.

    Raises:
        Rejected: the projection does not say where its chest wall is.
    """
    if projection.breast_side not in ("left", "right"):
        raise Rejected(
            f"mammogram {projection.source.sop_instance_uid if projection.source else 'without a source'}: the side of "
            "the chest wall is not known, so it cannot be turned; add Patient Orientation (0020,0020)"
        )
    whole = _size(projection)
    placement = Placement(whole, whole, mirrored=projection.breast_side != side)
    return replace(projection, pixels=placement.cut(projection.pixels), breast_side=side), placement


def _size(projection: Projection) -> tuple[int, int]:
    rows, columns = projection.pixels.shape[-2:]
    return rows, columns


def _padding_as_air(values: Float32, valid: Mask) -> Float32:
    """Padding is no tissue, whatever its value: it counts as the darkest pixel."""
    if not valid.any():
        raise Rejected("all pixels of the mammogram are padding (0028,0120), so there is no breast in it; send another")
    return np.where(valid, values, values[valid].min())


def _opened(above: Mask) -> Mask:
    row, column = np.mgrid[-_RADIUS : _RADIUS + 1, -_RADIUS : _RADIUS + 1]
    disk = row**2 + column**2 <= _RADIUS**2
    return np.asarray(ndimage.binary_opening(above, disk), np.bool_)


def _largest_at_an_edge(objects: Mask, seen: Float32, side: Side) -> Mask:
    """The largest object that reaches the edge of the picture on this side, or on one of both, as a breast does."""
    first, last = _picture_columns(seen)
    reach = max(round(_AT_THE_EDGE * (last - first)), 1)
    edges = {"left": slice(first, first + reach), "right": slice(last - reach, last)}
    labelled, _ = ndimage.label(objects)
    sizes = np.bincount(labelled.ravel())
    for number in np.argsort(sizes[1:])[::-1] + 1:
        if sizes[number] < _LEAST_SHARE * seen[:, first:last].size:
            break
        one = np.asarray(labelled == number, np.bool_)
        height = np.count_nonzero(one.any(axis=1))
        contacts = [np.count_nonzero(one[:, edges[name]].any(axis=1)) for name in edges if side in (name, "")]
        if max(contacts) >= _LEAST_CONTACT * height:
            return one
    raise Rejected(
        f"nothing of a breast's size reaches the {side or 'left or the right'} edge of the mammogram; send a view that "
        "shows the breast up to the chest wall"
    )


def _picture_columns(seen: Float32) -> tuple[int, int]:
    """First column of the picture and the one after its last."""
    columns = np.flatnonzero((seen > seen.min()).mean(axis=0) >= _LEAST_PICTURE)
    return (int(columns[0]), int(columns[-1]) + 1) if len(columns) else (0, seen.shape[1])


def _largest(objects: Mask) -> Mask:
    labelled, count = ndimage.label(objects)
    if count < 2:
        return objects
    return np.asarray(labelled == np.argmax(np.bincount(labelled.ravel())[1:]) + 1, np.bool_)
