"""The U-Net of a denoiser: residual blocks that are told noise level and class, attention where the image is small.

The layout is that of MONAI's DiffusionModelUNet, and so are its residual blocks and its embedding of a number. The
whole of it cannot be built here: its attention wants the package einops, which MONAI does not bring, and has no dropout
in its blocks. Attention is torch's own, with a last layer that begins at zero, as the output does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from monai.networks.nets.diffusion_model_unet import DiffusionUNetResnetBlock, get_timestep_embedding
from torch import Tensor, nn

from models.networks.doubling import doubling
from models.networks.spatial import convolution


class UNet(nn.Module):
    """Pictures (B, planes, *size), a number (B,) and, with classes, class numbers (B,) -> as many pictures.

    given: planes that are laid beside a picture and say what it should show.

    channels: per level, each level halves the image; multiples of 4. residual_blocks: per level on the way down, one
    more on the way up. attention_levels: so many of the coarsest attend; the middle always does. classes: how many
    class numbers there are; 0 takes none.
    """

    def __init__(
        self,
        channels: Sequence[int],
        residual_blocks: int,
        attention_levels: int,
        dropout: float,
        classes: int,
        planes: int = 1,
        dims: int = 2,
        given: int = 0,
    ) -> None:
        super().__init__()
        told, group = 4 * channels[0], math.gcd(32, *channels)
        self.first_channels = channels[0]
        self.level = nn.Sequential(nn.Linear(channels[0], told), nn.SiLU(), nn.Linear(told, told))
        self.class_vectors = nn.Embedding(classes, told) if classes else None
        self.first = convolution(dims, planes + given, channels[0], 3, padding=1)
        attended = [level >= len(channels) - attention_levels for level in range(len(channels))]

        def stage(before: int, after: int, attend: bool) -> Stage:
            return Stage(dims, before, after, told, group, dropout, attend)

        now, skipped = channels[0], [channels[0]]
        self.down = nn.ModuleList()
        for level, width in enumerate(channels):
            if level:
                self.down.append(Half(dims, now))
                skipped.append(now)
            for _ in range(residual_blocks):
                self.down.append(stage(now, width, attended[level]))
                now = width
                skipped.append(now)
        self.middle = nn.ModuleList([stage(now, now, True), stage(now, now, False)])
        self.up = nn.ModuleList()
        for level, width in reversed([*enumerate(channels)]):
            for _ in range(residual_blocks + 1):
                self.up.append(stage(now + skipped.pop(), width, attended[level]))
                now = width
            if level:
                self.up.append(Double(dims, now))
        self.last = nn.Sequential(
            nn.GroupNorm(group, now), nn.SiLU(), _silent(convolution(dims, now, planes, 3, padding=1))
        )

    def forward(self, images: Tensor, number: Tensor, labels: Tensor | None = None) -> Tensor:
        told = self.level(get_timestep_embedding(number, self.first_channels))
        if self.class_vectors is not None:
            if labels is None:
                raise ValueError("a denoiser of classes needs class numbers")
            told = told + self.class_vectors(labels)
        image = self.first(images)
        skips = [image]
        for part in self.down:
            image = part(image, told)
            skips.append(image)
        for part in self.middle:
            image = part(image, told)
        for part in self.up:
            image = part(image if isinstance(part, Double) else torch.cat([image, skips.pop()], 1), told)
        cleaned: Tensor = self.last(image)
        return cleaned


class Stage(nn.Module):
    """A residual block with dropout before its second convolution (as in DDPM and EDM), and attention."""

    def __init__(self, dims: int, before: int, after: int, told: int, group: int, dropout: float, attend: bool) -> None:
        super().__init__()
        self.block = DiffusionUNetResnetBlock(dims, before, told, after, norm_num_groups=group)
        self.block.conv2 = nn.Sequential(nn.Dropout(dropout), self.block.conv2)
        self.attention = Attention(dims, after, group) if attend else nn.Identity()

    def forward(self, image: Tensor, told: Tensor) -> Tensor:
        changed: Tensor = self.attention(self.block(image, told))
        return changed


class Attention(nn.Module):
    """Every pixel looks at all others, in heads of `per_head` channels; what it finds is added."""

    def __init__(self, dims: int, channels: int, per_head: int) -> None:
        super().__init__()
        self.per_head = per_head
        self.norm = nn.GroupNorm(per_head, channels)
        self.asked = convolution(dims, channels, 3 * channels, 1)
        self.found = _silent(convolution(dims, channels, channels, 1))

    def forward(self, image: Tensor) -> Tensor:
        batch, channels = image.shape[:2]
        heads = self.asked(self.norm(image)).reshape(batch, 3, channels // self.per_head, self.per_head, -1)
        query, key, value = heads.transpose(-1, -2).unbind(1)
        seen = F.scaled_dot_product_attention(query, key, value)
        return image + self.found(seen.transpose(-1, -2).reshape(image.shape))


class Half(nn.Module):
    """Half the size along every axis, by a strided convolution."""

    def __init__(self, dims: int, channels: int) -> None:
        super().__init__()
        self.convolution = convolution(dims, channels, channels, 3, stride=2, padding=1)

    def forward(self, image: Tensor, told: Tensor) -> Tensor:
        halved: Tensor = self.convolution(image)
        return halved


class Double(nn.Module):
    """Twice the size along every axis: pixels repeated, then a convolution (no checkerboard)."""

    def __init__(self, dims: int, channels: int) -> None:
        super().__init__()
        self.convolution = doubling(dims, channels, channels)

    def forward(self, image: Tensor, told: Tensor) -> Tensor:
        doubled: Tensor = self.convolution(image)
        return doubled


def _silent(layer: nn.Module) -> nn.Module:
    """With weights of zero, so that a branch begins by adding nothing."""
    for weight in layer.parameters():
        nn.init.zeros_(weight)
    return layer
