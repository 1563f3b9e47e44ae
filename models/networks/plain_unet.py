"""The U-Net that won the white-matter challenge of 2017 (Li 2018), any number of channels and classes.

Two convolutions and a ReLU each at every level, the first of 5 px; halved by maxima; doubled by repeated pixels, beside
what the level had on the way down (Ronneberger 2015); one convolution of 1 px at the end. 19 convolutions and 8.28
million weights with its widths. MONAI's BasicUNet has other widths on the way up, norms and no larger first kernel.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.norm import layer


class PlainUNet(nn.Module):
    """(B, in_channels, rows, columns), multiples of 2 ** (levels - 1) -> logits (B, classes, rows, columns).

    channels: per level; norm: "none" is as it was.
    """

    def __init__(
        self, in_channels: int, classes: int, channels: Sequence[int], norm: str, first_kernel_px: int
    ) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            _level(before, after, norm, first_kernel_px if number == 0 else 3)
            for number, (before, after) in enumerate(itertools.pairwise([in_channels, *channels]))
        )
        self.up = nn.ModuleList(
            _level(deep + flat, flat, norm, 3) for flat, deep in reversed([*itertools.pairwise(channels)])
        )
        self.last = nn.Conv2d(channels[0], classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        passed: list[Tensor] = []
        maps = images
        for number, level in enumerate(self.down):
            maps = level(F.max_pool2d(maps, 2) if number else maps)
            passed.append(maps)
        passed.pop()
        for level in self.up:
            maps = level(torch.cat([F.interpolate(maps, scale_factor=2.0, mode="nearest"), passed.pop()], 1))
        logits: Tensor = self.last(maps)
        return logits


def _level(before: int, after: int, norm: str, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        *itertools.chain.from_iterable(
            (nn.Conv2d(width, after, kernel, padding=kernel // 2), layer(norm, after), nn.ReLU())
            for width in (before, after)
        )
    )
