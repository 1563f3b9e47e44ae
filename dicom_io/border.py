"""The constant border of a picture: padding, air around what was imaged, letterboxes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dicom_io.volume import Float32

# Of the range of values: what differs from the border by less belongs to it. JPEG leaves 3 % of noise in black.
_CONTRAST = 0.1
# A row or column with a smaller share of content is border: letters and dust do not hold it.
_SHARE = 0.02


def value(picture: Float32) -> float:
    """Median of the outermost rows and columns of a (rows, columns) picture, in its own units."""
    edge = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    return float(np.median(edge))


def content(picture: Float32) -> tuple[slice, slice]:
    """Rows and columns of what is left without the border; empty slices where the picture is all border."""
    low, high = np.percentile(picture, (0.5, 99.5))
    differs = np.abs(picture - np.float32(value(picture))) > _CONTRAST * (high - low)
    return _extent(differs.mean(axis=1)), _extent(differs.mean(axis=0))


def margins(picture: Float32) -> npt.NDArray[np.float64]:
    """(4,) share of the picture's side that is border above, below, to the left and to the right."""
    rows, columns = content(picture)
    height, width = picture.shape
    above, left = rows.start / height, columns.start / width
    return np.array([above, 1 - rows.stop / height, left, 1 - columns.stop / width])


def _extent(share: npt.NDArray[np.floating]) -> slice:
    inside = np.flatnonzero(share > _SHARE)
    return slice(int(inside[0]), int(inside[-1]) + 1) if inside.size else slice(0, 0)
