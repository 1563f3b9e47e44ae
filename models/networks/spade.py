"""Mask -> picture (SPADE: Park 2019): norms whose gain and bias are read off the mask, pixel by pixel.

A code of random numbers is the style, so that one mask gives many pictures; in training an encoder finds the code of
the true picture (section 3, "multi-modal synthesis"), and is not released.

The residual blocks and the encoder are MONAI's. Its SPADENet as a whole is not: the last block narrows the maps to as
many channels as the picture has at half its size, so that the mask is never seen at full size and edges come in steps
of two pixels; and it reverses and lengthens the caller's list of channels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from monai.networks.nets.spade_network import SPADEEncoder, SPADENetResBlock
from torch import Tensor, nn

_BATCH = 32
_SLOPE = 0.2
_FIRST_PX = 4


def _widths(image_px: int, features: int) -> list[int]:
    """Channels of the maps from 4 px to image_px, `features` at full size."""
    doublings = int(math.log2(image_px // _FIRST_PX))
    return [min(features * 2**level, features * 8) for level in range(doublings, -1, -1)]


class Spade(nn.Module):
    """Mask (B, labels, image_px, image_px) and code (B, latent) -> pictures (B, planes, image_px, image_px).

    labels: planes of the mask, one for each label but the background, -1 where it is not and 1 where it is. features:
    channels at full size. hidden: channels between a mask and a norm's gain and bias.

    Raises:
        ValueError: image_px is no power of two, or below 8.
    """

    def __init__(self, image_px: int, labels: int, planes: int, features: int, hidden: int, latent: int) -> None:
        super().__init__()
        if image_px < 2 * _FIRST_PX or image_px & (image_px - 1):
            raise ValueError(f"image_px {image_px} is no power of two from 8 on")
        self.image_px, self.latent = image_px, latent
        widths = _widths(image_px, features)
        self.project = nn.Linear(latent, widths[0] * _FIRST_PX**2)
        # Batch norm, as in the paper: the mean of a map over the image, which instance norm takes away, is style.
        self.blocks = nn.ModuleList(
            SPADENetResBlock(2, before, after, labels, hidden, norm=("batch", {"affine": False}))
            for before, after in itertools.pairwise([widths[0], *widths])
        )
        self.picture = nn.Conv2d(widths[-1], planes, 3, padding=1)

    @staticmethod
    def noise_shape(definition: Mapping[str, Any]) -> tuple[int, list[int]]:
        """Channels and pixels of the noise: a vector has no pixels."""
        return definition["latent"], []

    def forward(self, mask: Tensor, code: Tensor) -> Tensor:
        maps = self.project(code).unflatten(1, (-1, _FIRST_PX, _FIRST_PX))
        for number, block in enumerate(self.blocks):
            maps = F.interpolate(maps, scale_factor=2, mode="nearest") if number else maps
            maps = block(maps, mask)
        return torch.tanh(self.picture(F.leaky_relu(maps, _SLOPE)))

    def code(self, source: torch.Generator) -> Tensor:
        """(1, latent) of N(0, 1)."""
        return torch.randn((1, self.latent), generator=source)

    @torch.inference_mode()
    def make_from(self, given: Tensor, source: torch.Generator) -> Tensor:
        """One picture (planes, image_px, image_px): see `models.networks.from_picture`."""
        picture: Tensor = self(given[None], self.code(source))[0]
        return picture

    @torch.inference_mode()
    def make_many_from(self, given: Tensor, sources: Sequence[torch.Generator], on: torch.device) -> Tensor:
        made = []
        for start in range(0, len(sources), _BATCH):
            code = torch.cat([self.code(source) for source in sources[start : start + _BATCH]])
            made.append(self(given[start : start + _BATCH].to(on), code.to(on)).cpu())
        return torch.cat(made)


class Style(nn.Module):
    """Pictures (B, planes, image_px, image_px) -> mean and log variance of their codes, (B, latent) each.

    No norm: brightness and contrast are style, too.
    """

    def __init__(self, image_px: int, planes: int, features: int, latent: int) -> None:
        super().__init__()
        widths = _widths(image_px, features)[:-1][::-1]
        self.encoder = SPADEEncoder(2, planes, latent, widths, [image_px, image_px], norm=None)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = self.encoder(pictures)
        return mean, log_variance
