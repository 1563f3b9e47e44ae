"""Each pixel repeated along every axis, then a convolution of 3 pixels (Odena 2016): in one pass over the small maps.

A pixel of the doubled maps sees only two of the small ones along an axis, so that kernels can be added up first: the
two layers are one transposed convolution of 4 pixels and stride 2, with 2.25 times fewer multiplications (volumes: 3.4
times). Weights, their names and their start are those of the convolution; results differ from the two layers' by
rounding.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class DoublingConv2d(nn.Conv2d):
    """(B, before, rows, columns) -> (B, after, 2 rows, 2 columns)."""

    def __init__(self, before: int, after: int, *, bias: bool = True) -> None:
        super().__init__(before, after, 3, padding=1, bias=bias)

    def forward(self, maps: Tensor) -> Tensor:
        return F.conv_transpose2d(maps, merged(self.weight), self.bias, stride=2, padding=1)


class DoublingConv3d(nn.Conv3d):
    """(B, before, slices, rows, columns) -> twice as many along each."""

    def __init__(self, before: int, after: int, *, bias: bool = True) -> None:
        super().__init__(before, after, 3, padding=1, bias=bias)

    def forward(self, maps: Tensor) -> Tensor:
        return F.conv_transpose3d(maps, merged(self.weight), self.bias, stride=2, padding=1)


def doubling(dims: int, before: int, after: int, *, bias: bool = True) -> DoublingConv2d | DoublingConv3d:
    return (DoublingConv3d if dims == 3 else DoublingConv2d)(before, after, bias=bias)


def merged(weight: Tensor) -> Tensor:
    """(after, before, 3, ...) -> (before, after, 4, ...): along each axis [c, b + c, a + b, a] of [a, b, c]."""
    kernel = weight.transpose(0, 1).flip([*range(2, weight.ndim)])
    for axis in range(weight.ndim - 2):
        start, end = [0, 0] * axis + [1, 0], [0, 0] * axis + [0, 1]
        kernel = F.pad(kernel, start) + F.pad(kernel, end)
    return kernel
