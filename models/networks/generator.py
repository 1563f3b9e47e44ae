"""DCGAN, own code: MONAI's Generator and Discriminator have neither resize-convolution nor minibatch statistics.

Resize-convolution instead of transposed convolution (no checkerboard, Odena 2016); GroupNorm in the generator, so that
a sample does not depend on its batch; no norm in the discriminator (R1 regularises it); minibatch standard deviation
against collapse (Karras 2018, section 3).
"""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Generator(nn.Module):
    """Noise (B, latent) -> images (B, 1, image_px, image_px) in [-1, 1]."""

    def __init__(self, image_px: int, features: int, latent: int) -> None:
        super().__init__()
        doublings = int(math.log2(image_px)) - 2
        # As DCGAN counts: `features` at half resolution, half as many at full, at most eight times as many.
        widths = [min(features * 2**level, features * 16) // 2 for level in range(doublings, -1, -1)]
        self.latent = latent
        self.project = nn.Linear(latent, widths[0] * 16)
        self.first_norm = nn.GroupNorm(8, widths[0])
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Upsample(scale_factor=2, mode="nearest"),
                nn.Conv2d(before, after, 3, padding=1, bias=False),
                nn.GroupNorm(8, after),
                nn.ReLU(),
            )
            for before, after in itertools.pairwise(widths)
        )
        self.picture = nn.Conv2d(widths[-1], 1, 3, padding=1)

    def forward(self, noise: Tensor) -> Tensor:
        image = F.relu(self.first_norm(self.project(noise).unflatten(1, (-1, 4, 4))))
        for block in self.blocks:
            image = block(image)
        return torch.tanh(self.picture(image))


class Discriminator(nn.Module):
    """Images (B, 1, image_px, image_px) -> logit of being real (B,)."""

    def __init__(self, image_px: int, features: int) -> None:
        super().__init__()
        halvings = int(math.log2(image_px)) - 2
        widths = [1] + [min(features * 2**level, features * 8) for level in range(halvings)]
        self.blocks = nn.Sequential(
            *(
                layer
                for before, after in itertools.pairwise(widths)
                for layer in (nn.Conv2d(before, after, 4, stride=2, padding=1), nn.LeakyReLU(0.2))
            )
        )
        self.mix = nn.Conv2d(widths[-1] + 1, widths[-1], 3, padding=1)
        self.verdict = nn.Linear(widths[-1] * 16, 1)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.blocks(images)
        maps = F.leaky_relu(self.mix(torch.cat([maps, minibatch_deviation(maps)], 1)), 0.2)
        return self.verdict(maps.flatten(1)).squeeze(1)


def minibatch_deviation(maps: Tensor, group: int = 4) -> Tensor:
    """(B, C, H, W) -> (B, 1, H, W): mean standard deviation over groups of four neighbours in the batch."""
    size = math.gcd(group, len(maps))
    groups = maps.reshape(len(maps) // size, size, *maps.shape[1:])
    deviation = (groups.var(dim=1, unbiased=False) + 1e-8).sqrt().mean(dim=(1, 2, 3))
    return deviation.repeat_interleave(size)[:, None, None, None].expand(-1, 1, *maps.shape[2:])
