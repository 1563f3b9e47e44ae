"""Wider pixels, and where they lie: a coarse pixel covers factor x factor fine ones, so that its centre lies between
theirs, (factor - 1) / 2 fine pixels from the first one's."""

from __future__ import annotations

from dataclasses import replace

import torch

from dicom_io.errors import Rejected
from dicom_io.volume import Float64, Projection, Volume
from models.evaluation.agreement import coarsened


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
