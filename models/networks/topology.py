"""How deep a U-Net is along each axis, and how large its windows are: nnU-Net's rules (Isensee 2021, Nature Methods 18,
203; "Methods", rule-based parameters), as its second version has them.

An axis is halved while half of it has four values or more, and while its step is less than twice that of the finest
axis that may still be halved; kernels are 1 along an axis until its step is less than twice the finest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

LEAST = 4
# Steps that differ by less than this factor count as alike.
ALIKE = 2.0
# Convolutions at each level: two on the way down, two on the way up, and the one that doubles.
_CONVOLUTIONS = 2

Axes = tuple[int, ...]


def levels(spacing_mm: Sequence[float], size: Sequence[int]) -> tuple[tuple[Axes, ...], tuple[Axes, ...]]:
    """Strides and kernels of each level, for windows of `size`; the first level has strides of 1."""
    spacing, left = [*spacing_mm], [*size]
    kernel = [1] * len(size)
    strides: list[Axes] = [(1,) * len(size)]
    kernels: list[Axes] = []
    while halved := _halved(spacing, left):
        kernel = [3 if k == 3 or step < ALIKE * min(spacing) else 1 for k, step in zip(kernel, spacing, strict=True)]
        kernels.append(tuple(kernel))
        strides.append(tuple(2 if axis in halved else 1 for axis in range(len(size))))
        for axis in halved:
            spacing[axis] *= 2
            left[axis] = math.ceil(left[axis] / 2)
    return tuple(strides), (*kernels, (3,) * len(size))


def _halved(spacing_mm: Sequence[float], size: Sequence[int]) -> list[int]:
    may = [axis for axis, length in enumerate(size) if length >= 2 * LEAST]
    finest = min((spacing_mm[axis] for axis in may), default=0.0)
    axes = [axis for axis in may if spacing_mm[axis] < ALIKE * finest]
    # One axis alone is not halved down to the least.
    return [] if len(axes) == 1 and size[axes[0]] < 3 * LEAST else axes


def slices_halved(spacing_mm: Sequence[float], slices: int, steps: int) -> tuple[Axes, ...]:
    """Strides of a U-Net that halves rows and columns at each of its steps: slices where they are still as near."""
    between, across = spacing_mm[0], min(spacing_mm[1:])
    strides: list[Axes] = []
    for _ in range(steps):
        halved = slices >= 2 * LEAST and between < ALIKE * across
        strides.append((2 if halved else 1, 2, 2))
        slices, between = (slices // 2, between * 2) if halved else (slices, between)
        across *= 2
    return tuple(strides)


def factors(strides: Sequence[Axes]) -> Axes:
    """What the windows must be multiples of."""
    return tuple(math.prod(steps) for steps in zip(*strides, strict=True))


def feature_values(size: Sequence[int], strides: Sequence[Axes], channels: Sequence[int], planes: int) -> int:
    """Values of all feature maps of one window, by which nnU-Net's first version judges what a GPU holds.

    planes: channels of the image and classes of the answer together.
    """
    total = planes * math.prod(size)
    left = [*size]
    for level, (step, width) in enumerate(zip(strides, channels, strict=True)):
        left = [length // each for length, each in zip(left, step, strict=True)]
        maps = _CONVOLUTIONS if level == len(strides) - 1 else 2 * _CONVOLUTIONS + 1
        total += maps * width * math.prod(left)
    return total


def window(
    spacing_mm: Sequence[float], shape: Sequence[int], most: int, values: Callable[[Axes], int]
) -> tuple[int, ...]:
    """The median image, made smaller along the axis that shows the largest share of it until `values` of it are no more
    than `most`; square in the plane.

    Raises:
        ValueError: nothing is left.
    """
    side = max(shape[-2:])
    whole = (*shape[:-2], side, side)
    steps = factors(levels(spacing_mm, whole)[0])
    size = tuple(math.ceil(length / step) * step for length, step in zip(whole, steps, strict=True))
    while values(size) > most:
        steps = factors(levels(spacing_mm, size)[0])
        share = [length / of for length, of in zip(size, whole, strict=True)]
        plane = len(size) == 2 or share[-1] >= share[0]
        smaller = [
            length - step if plane == (axis >= len(size) - 2) else length
            for axis, (length, step) in enumerate(zip(size, steps, strict=True))
        ]
        size = _divisible(spacing_mm, smaller)
    return size


def _divisible(spacing_mm: Sequence[float], size: Sequence[int]) -> tuple[int, ...]:
    """Made smaller until every axis can be halved as often as it is."""
    size = tuple(size)
    while min(size) > 0:
        steps = factors(levels(spacing_mm, size)[0])
        smaller = tuple(length - length % step for length, step in zip(size, steps, strict=True))
        if smaller == size:
            return size
        size = smaller
    raise ValueError("network.feature_values: too few for any window; give more, or give the windows")
