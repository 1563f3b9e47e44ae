"""Progressive growing (Karras 2018, section 2): a DCGAN that begins with small pictures and doubles their size, new
layers faded in.

Both halves are those of `models.networks.generator`, which alone are released; around them are, for training, a layer
to pictures (for the critic, one from pictures) at every size below the full one. MONAI has no such networks.

    picture of a stage     a * new + (1 - a) * doubled(old)        a: how far the new size is faded in
    maps for the critic    a * block(from new) + (1 - a) * from old(halved picture)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm as spectral

from models.networks.generator import Discriminator, Generator
from models.networks.latent import FromNoise
from models.networks.spatial import convolution

# Side of the pictures from which the first doubling starts.
SMALLEST_PX = 4


class Stage(nn.Module):
    """Where growing is. doublings: of the 4 px that a generator begins with; faded: the share of the newest size."""

    faded: Tensor

    def __init__(self, image_px: int) -> None:
        super().__init__()
        self.last = int(math.log2(image_px // SMALLEST_PX))
        self.doublings = self.last
        # A tensor, for a compiled network is compiled again for every other number.
        self.register_buffer("faded", torch.ones(()), persistent=False)

    def set(self, doublings: int, faded: float) -> None:
        self.doublings = doublings
        self.faded.fill_(faded)

    @property
    def whole(self) -> bool:
        """Full size, and nothing of a smaller one left."""
        return self.doublings == self.last and bool(self.faded == 1)


class GrowingGenerator(FromNoise):
    """Noise (B, latent) [and class numbers (B,)] -> pictures of the stage's size. `make_many` brings them to the full
    one. whole: the generator that is released."""

    def __init__(self, whole: Generator, first: int) -> None:
        """first: doublings of the smallest pictures that are made."""
        super().__init__(whole.latent, whole.law, whole.classes)
        self.whole = whole
        self.stage = Stage(SMALLEST_PX * 2 ** len(whole.blocks))
        self.smaller = nn.ModuleDict(
            {
                str(n): convolution(whole.dims, whole.widths[n], whole.planes, 3, padding=1)
                for n in range(first, self.stage.last)
            }
        )

    def forward(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        before, maps = self.whole.maps(noise, labels, self.stage.doublings)
        made = self._picture(self.stage.doublings, maps)
        if str(self.stage.doublings - 1) not in self.smaller:
            return made
        old = doubled(self._picture(self.stage.doublings - 1, before))
        return old.lerp(made, self.stage.faded.to(made))

    def _picture(self, doublings: int, maps: Tensor) -> Tensor:
        layer = self.smaller[str(doublings)] if doublings < self.stage.last else self.whole.picture
        return torch.tanh(layer(maps))

    @torch.inference_mode()
    def make_many(self, sources: Sequence[torch.Generator], labels: Tensor | None, on: torch.device) -> Tensor:
        """As `FromNoise`; small pictures come in the full size, their pixels repeated."""
        made = super().make_many(sources, labels, on)
        for _ in range(self.stage.last - self.stage.doublings):
            made = doubled(made)
        return made


class GrowingCritic(nn.Module):
    """Pictures of the stage's size [and class numbers (B,)] -> logit of being real (B,). whole: the critic of full
    size."""

    def __init__(self, whole: Discriminator, image_px: int, first: int) -> None:
        super().__init__()
        self.whole = whole
        self.stage = Stage(image_px)
        planes, *_ = whole.widths
        bounded = spectral if whole.spectral_norm else nn.Identity()
        # By doublings; of as many channels as the block before would leave.
        self.smaller = nn.ModuleDict(
            {
                str(n): bounded(convolution(whole.dims, planes, whole.widths[self.stage.last - n], 1))
                for n in range(first, self.stage.last)
            }
        )

    def forward(self, pictures: Tensor, labels: Tensor | None = None) -> Tensor:
        doublings, passed = self.stage.doublings, self.stage.last - self.stage.doublings
        maps = self._entered(doublings, pictures)
        if doublings and str(doublings - 1) in self.smaller:
            maps = self.whole.through(maps, passed, passed + 1)
            old = self._entered(doublings - 1, halved(pictures))
            maps, passed = old.lerp(maps, self.stage.faded.to(maps)), passed + 1
        return self.whole.verdict_on(self.whole.through(maps, passed, self.stage.last), labels)

    def _entered(self, doublings: int, pictures: Tensor) -> Tensor:
        if doublings == self.stage.last:
            return pictures
        return F.leaky_relu(self.smaller[str(doublings)](pictures), 0.2)


def doubled(pictures: Tensor) -> Tensor:
    """Twice as many pixels along every axis, each repeated."""
    return F.interpolate(pictures, scale_factor=2, mode="nearest")


def halved(pictures: Tensor) -> Tensor:
    """Half as many pixels along every axis, each the mean of those that it takes the place of."""
    return (F.avg_pool3d if pictures.ndim == 5 else F.avg_pool2d)(pictures, 2)
