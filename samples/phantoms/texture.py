"""Smooth random fields: what makes tissue look like tissue."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Field = npt.NDArray[np.floating[Any]]


def smooth_field(rng: np.random.Generator, shape: Sequence[int], scale: Sequence[float] | float) -> Field:
    """Gaussian noise with a correlation length of `scale` grid steps; mean 0, standard deviation 1."""
    noise = rng.standard_normal(shape, dtype=np.float32)
    field = ndimage.gaussian_filter(noise, scale, mode="wrap", truncate=3.0)
    return (field - field.mean()) / field.std()


def power_law_field(rng: np.random.Generator, shape: tuple[int, int], exponent: float) -> Field:
    """Two-dimensional noise with a power spectrum of 1 / f ** exponent; mean 0, standard deviation 1.

    Mammographic parenchyma has an exponent near 3 (Burgess, Jacobson & Judy, Med. Phys. 28:419, 2001).
    """
    down, across = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None, :]
    frequency = np.hypot(down, across)
    frequency[0, 0] = 1.0
    spectrum = np.fft.rfft2(rng.standard_normal(shape)) / frequency ** (exponent / 2)
    spectrum[0, 0] = 0.0
    field = np.fft.irfft2(spectrum, shape)
    return (field / field.std()).astype(np.float32)


class Lattice:
    """A smooth random field in space, sampled anywhere: mean 0, standard deviation near 1, periodic.

    between_zeros_mm: mean distance between two changes of sign along a straight line.
    """

    # A Gaussian-filtered field of width sigma changes its sign every pi * sqrt(2) * sigma on average (Rice, 1945).
    _ZEROS_PER_SIGMA = float(np.pi * np.sqrt(2))
    # Two cells per sigma: then the linear interpolation between cells does not show.
    _CELLS_PER_SIGMA = 2.0

    def __init__(self, rng: np.random.Generator, between_zeros_mm: float, *, cells: int = 64) -> None:
        self.sigma_mm = between_zeros_mm / self._ZEROS_PER_SIGMA
        self.values = smooth_field(rng, (cells,) * 3, self._CELLS_PER_SIGMA)

    def __call__(self, *position_mm: Field) -> Field:
        indices = np.stack([axis * np.float32(self._CELLS_PER_SIGMA / self.sigma_mm) for axis in position_mm])
        return ndimage.map_coordinates(self.values, indices, order=1, mode="grid-wrap", output=np.float32)


def inside(signed_distance_mm: Field, edge_mm: float = 1.0) -> Field:
    """1 where the signed distance is negative (inside), 0 outside, a ramp of `edge_mm` between: a soft boundary."""
    return np.clip(0.5 - signed_distance_mm / np.float32(edge_mm), 0, 1)


def ellipsoid(position: Sequence[Field], centre: Sequence[float], semi_axes: Sequence[float | Field]) -> Field:
    """Signed distance to an ellipsoid in mm, negative inside: exact in sign and to first order near the surface.

    position, centre, semi_axes: any number of axes; two make an elliptic cylinder.
    """
    scaled = [(p - np.float32(c)) / np.float32(r) for p, c, r in zip(position, centre, semi_axes, strict=True)]
    steep = [s / np.float32(r) for s, r in zip(scaled, semi_axes, strict=True)]
    k0 = np.sqrt(sum(s * s for s in scaled))
    k1 = np.sqrt(sum(s * s for s in steep)) + np.float32(1e-6)
    return k0 * (k0 - 1) / k1


def joined(one: Field, other: Field, round_mm: float) -> Field:
    """Union of two bodies given by signed distances, with a fillet of `round_mm` where they meet."""
    overlap = np.clip(1 - np.abs(one - other) / np.float32(round_mm), 0, None)
    return np.minimum(one, other) - overlap * overlap * np.float32(round_mm / 4)


def tube(position: Sequence[Field], points: Sequence[Sequence[float]]) -> Field:
    """Signed distance to a chain of round cones. points: (x, y, z, radius) in mm."""
    nearest = np.full(position[0].shape, np.inf, np.float32)
    for start, stop in pairwise(points):
        axis = np.subtract(stop[:3], start[:3])
        away = [p - np.float32(s) for p, s in zip(position, start[:3], strict=True)]
        along = sum(a * np.float32(u) for a, u in zip(away, axis / (axis @ axis), strict=True))
        along = np.clip(along, 0, 1)
        squared = sum((a - along * np.float32(u)) ** 2 for a, u in zip(away, axis, strict=True))
        radius = np.float32(start[3]) + along * np.float32(stop[3] - start[3])
        np.minimum(nearest, np.sqrt(squared) - radius, out=nearest)
    return nearest
