"""Wider pixels, and where they lie: a coarse pixel covers factor x factor fine ones, so that its centre lies between
theirs, (factor - 1) / 2 fine pixels from the first one's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dicom_io.errors import Rejected
from dicom_io.volume import Float64, Projection, Volume
from models.domain import channels_of
from models.evaluation.agreement import coarsened

_LEVELS = 256


def coarser(image: Volume | Projection, factor: int) -> Volume | Projection:
    """Means of factor x factor pixels in every slice; rows and columns that are left over are cut off.

    Raises:
        Rejected: the image has fewer rows or columns than one coarse pixel.
    """
    values = image.pixels if isinstance(image, Projection) else image.voxels
    if min(values.shape[-2:]) < factor:
        raise Rejected(f"an image of {values.shape[-2]} x {values.shape[-1]} pixels has none {factor} times as wide")
    flat = coarsened(torch.from_numpy(values.reshape(-1, 1, *values.shape[-2:])), factor)
    means = flat.reshape(*values.shape[:-2], *flat.shape[-2:]).numpy()
    if isinstance(image, Projection):
        spacing = image.spacing_mm and (image.spacing_mm[0] * factor, image.spacing_mm[1] * factor)
        return replace(image, pixels=means, spacing_mm=spacing)
    return replace(image, voxels=means, affine=rescaled(image.affine, factor))


def rescaled(affine: Float64, times: float) -> Float64:
    """The affine of a grid with rows and columns `times` as far apart (below 1: nearer), of the same outer edge."""
    made = affine.copy()
    made[:3, 1:3] *= times
    # The first centre lies half a pixel from the edge, before and after.
    made[:3, 3] += (affine[:3, 1] + affine[:3, 2]) * (times - 1) / 2
    return made


def on_scale_of(seen: Tensor, wide: Volume | Projection, fine: Volume | Projection, factor: int) -> Tensor:
    """The fine picture, (channels, slices, rows, columns), by the map of grey levels that made `seen`, the same of the
    coarse one, of `wide`. What the coarse pixels do not cover is cut off.

    A chain's percentiles or mean are others on fine pixels, and serving has coarse ones alone: the truth follows them.
    """
    rows, columns = (size * factor for size in seen.shape[-2:])
    values = channels_of(fine)[..., :rows, :columns]
    mapped = [_mapped(*each) for each in zip(values, channels_of(wide), seen.numpy(), strict=True)]
    made = torch.from_numpy(np.stack(mapped)).float()
    return made.reshape(*seen.shape[:2], rows, columns)


def _mapped(
    values: npt.NDArray[np.float32], levels: npt.NDArray[np.float32], seen: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """Piecewise linear through levels, evenly chosen, and what was seen of them; beyond the last ones the line goes on,
    inside [-1, 1]."""
    known, first = np.unique(levels.astype(np.float64), return_index=True)
    chosen = np.unique(known.searchsorted(np.linspace(known[0], known[-1], _LEVELS)))
    known, made = known[chosen], seen.ravel()[first[chosen]].astype(np.float64)
    found = np.interp(values, known, made)
    if len(known) > 1:
        for end, beside, beyond in ((0, 1, values < known[0]), (-1, -2, values > known[-1])):
            slope = (made[end] - made[beside]) / (known[end] - known[beside])
            found = np.where(beyond, made[end] + slope * (values - known[end]), found)
    return found.clip(-1, 1)
