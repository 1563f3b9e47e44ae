"""Picture -> picture: a U-Net for translation between channels (pix2pix: Isola 2017) and for finer pixels.

For finer pixels the given picture is enlarged first (bicubic), and what the network finds is added to it (Kim 2016), so
that an untrained one is bicubic interpolation. Own code: MONAI's UNet doubles by transposed convolution, which leaves a
checkerboard (Odena 2016), and has no way to leave out norms, which cost sharpness in finer pixels (Lim 2017).
"""

# torch leaves Tensor.split without types.
# mypy: disallow-untyped-calls=False

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.doubling import doubling
from models.networks.norm import layer

_BATCH = 16


class Translator(nn.Module):
    """Pictures (B, given, rows, columns) -> (B, planes, factor * rows, factor * columns), mostly in [-1, 1].

    channels: per level, each level halves the image. residual_blocks: per level, on the way down and on the way up.
    norm: batch, instance, group or none. factor: 1, or how much finer the pixels become; then given equals planes.
    """

    def __init__(
        self, given: int, planes: int, channels: Sequence[int], residual_blocks: int, norm: str, factor: int = 1
    ) -> None:
        super().__init__()
        if factor > 1 and given != planes:
            raise ValueError(f"finer pixels of {given} planes are {given} planes, not {planes}")
        self.factor, self.planes = factor, planes
        self.step = 2 ** (len(channels) - 1)

        def stage(width: int) -> nn.Sequential:
            return nn.Sequential(*(Residual(width, norm) for _ in range(residual_blocks)))

        self.first = nn.Conv2d(given, channels[0], 3, padding=1)
        self.down = nn.ModuleList(stage(width) for width in channels)
        self.halving = nn.ModuleList(
            nn.Conv2d(before, after, 4, stride=2, padding=1) for before, after in itertools.pairwise(channels)
        )
        self.doubling = nn.ModuleList(doubling(2, before, after) for after, before in itertools.pairwise(channels))
        self.join = nn.ModuleList(nn.Conv2d(2 * width, width, 1) for width in channels[:-1])
        self.up = nn.ModuleList(stage(width) for width in channels[:-1])
        self.picture = nn.Conv2d(channels[0], planes, 3, padding=1)
        if factor > 1:
            nn.init.zeros_(self.picture.weight)
            nn.init.zeros_(self.picture.bias)  # type: ignore[arg-type]

    def forward(self, given: Tensor) -> Tensor:
        """rows and columns: multiples of `step` after enlarging."""
        shown = enlarged(given, self.factor)
        maps, skips = self.first(shown), []
        for stage, halve in zip(self.down, self.halving, strict=False):
            maps = stage(maps)
            skips.append(maps)
            maps = halve(maps)
        maps = self.down[-1](maps)
        for double, join, stage in reversed([*zip(self.doubling, self.join, self.up, strict=True)]):
            maps = stage(join(torch.cat([double(maps), skips.pop()], 1)))
        found: Tensor = self.picture(maps)
        return shown + found if self.factor > 1 else found

    @torch.inference_mode()
    def make_from(self, given: Tensor, source: torch.Generator) -> Tensor:
        """One picture of any size, its edge repeated to fill it up: see `models.networks.from_picture`."""
        return self._of(given[None])[0]

    @torch.inference_mode()
    def make_many_from(self, given: Tensor, sources: Sequence[torch.Generator], on: torch.device) -> Tensor:
        return torch.cat([self._of(batch.to(on)).cpu() for batch in given.split(_BATCH)])

    def _of(self, given: Tensor) -> Tensor:
        rows, columns = given.shape[-2:]
        # A margin on every side: at its own border a convolution sees zeros, and draws spots into the corners.
        margin, factor = self.step, self.factor
        below, right = margin + -rows % self.step, margin + -columns % self.step
        filled = F.pad(given, [margin, right, margin, below], mode="replicate")
        top = margin * factor
        made: Tensor = self(filled)[..., top : top + rows * factor, top : top + columns * factor].float()
        return made.clamp(-1, 1)


def enlarged(pictures: Tensor, factor: int) -> Tensor:
    """Bicubic (Keys 1981, a = -0.5, which torch takes with `antialias` alone; without, its -0.75 bends ramps).

    A pixel becomes factor x factor that cover the same square: nothing moves by half a pixel.
    """
    if factor == 1:
        return pictures
    return F.interpolate(pictures, scale_factor=factor, mode="bicubic", align_corners=False, antialias=True)


class Residual(nn.Module):
    """Two convolutions with norms, added to what came in."""

    def __init__(self, channels: int, norm: str) -> None:
        super().__init__()
        self.parts = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            layer(norm, channels),
            nn.LeakyReLU(0.2),
            nn.Conv2d(channels, channels, 3, padding=1),
            layer(norm, channels),
        )

    def forward(self, maps: Tensor) -> Tensor:
        changed: Tensor = maps + self.parts(maps)
        return changed
