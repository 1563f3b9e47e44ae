"""The networks of the PET and mammography study (224 x 224 grey), layer by layer, in two profiles.

"faithful" keeps what the study did, quirks included: data in [0, 1] (our [-1, 1] is turned on the way in and out), a
dense generator that ends in tanh all the same, a DCGAN that ends in a sigmoid, convolutions of its discriminator that
apply ReLU, so that the LeakyReLU behind them does nothing, batch norm with Keras' momentum and epsilon.
"corrected": tanh and data in [-1, 1], LeakyReLU alone, GroupNorm in place of batch norm.

Convolutions pad as Keras' "same" does: where the sum is odd, one more below and on the right. Weights start by Glorot's
uniform law, biases at 0. The sigmoid of the discriminators is part of the loss here, which takes logits. Own code:
no library has these.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.latent import FromNoise

_KERAS_EPSILON = 1e-3
_WIDTHS = (64, 32, 16, 8, 4, 4)  # of the generators' maps, from image_px / 32 to image_px


def _is_faithful(profile: str) -> bool:
    if profile not in ("faithful", "corrected"):
        raise ValueError(f"profile {profile!r} is neither faithful nor corrected")
    return profile == "faithful"


def _start(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _group(channels: int) -> nn.Module:
    return nn.GroupNorm(math.gcd(8, channels), channels)


def _norm1d(faithful: bool, momentum: float, features: int) -> nn.Module:
    return nn.BatchNorm1d(features, eps=_KERAS_EPSILON, momentum=momentum) if faithful else _group(features)


def _norm2d(faithful: bool, channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels, eps=_KERAS_EPSILON, momentum=0.1) if faithful else _group(channels)


class _Same(nn.Module):
    """Keras' padding "same" for a kernel of `kernel_px` and a stride that divides the image."""

    def __init__(self, kernel_px: int, stride_px: int = 1) -> None:
        super().__init__()
        total = max(kernel_px - stride_px, 0)
        self.pads = (total // 2, total - total // 2) * 2

    def forward(self, maps: Tensor) -> Tensor:
        return F.pad(maps, self.pads)


class _Trimmed(nn.Module):
    """Keras' padding "same" of a transposed convolution: what sticks out is cut off, one more below and right."""

    def __init__(self, kernel_px: int) -> None:
        super().__init__()
        self.first, self.last = (kernel_px - 1) // 2, kernel_px // 2

    def forward(self, maps: Tensor) -> Tensor:
        rows, columns = maps.shape[-2:]
        return maps[..., self.first : rows - self.last, self.first : columns - self.last]


def _convolution(before: int, after: int, kernel_px: int, stride_px: int = 1) -> list[nn.Module]:
    return [_Same(kernel_px, stride_px), nn.Conv2d(before, after, kernel_px, stride_px)]


def _transposed(before: int, after: int, kernel_px: int) -> list[nn.Module]:
    return [nn.ConvTranspose2d(before, after, kernel_px), _Trimmed(kernel_px)]


class DenseGenerator(FromNoise):
    """Noise (B, latent) -> (B, 1, image_px, image_px). 52,102,912 parameters at 224 px and latent 32, faithful.

    Faithful images reach from -3 to 1: tanh was compared with data in [0, 1], and half of its range had no counterpart.
    """

    def __init__(self, image_px: int, latent: int, law: str, dropout: float, profile: str) -> None:
        super().__init__(latent, law, 0)
        self.faithful = _is_faithful(profile)
        self.image_px = image_px
        self.layers = nn.Sequential(
            *(
                part
                for before, after in itertools.pairwise((latent, 256, 512, 1024))
                for part in (
                    nn.Linear(before, after),
                    nn.LeakyReLU(0.2),
                    nn.Dropout(dropout),
                    _norm1d(self.faithful, 0.2, after),
                )
            ),
            nn.Linear(1024, image_px**2),
            nn.Tanh(),
        )
        _start(self)

    def forward(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        images: Tensor = self.layers(noise).unflatten(1, (1, self.image_px, self.image_px))
        return images * 2 - 1 if self.faithful else images


class DenseDiscriminator(nn.Module):
    """Images -> logits (B,). 25,822,209 parameters at 224 px, in both profiles."""

    def __init__(self, image_px: int, dropout: float, profile: str) -> None:
        super().__init__()
        self.faithful = _is_faithful(profile)
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(image_px**2, 512),
            nn.LeakyReLU(0.2),
            nn.Dropout(dropout),
            nn.Linear(512, 256),
            nn.LeakyReLU(0.2),
            nn.Dropout(dropout),
            nn.Linear(256, 1),
        )
        _start(self)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        logits: Tensor = self.layers((images + 1) / 2 if self.faithful else images)
        return logits.squeeze(1)


class DCGANGenerator(FromNoise):
    """Noise (B, latent) -> (B, 1, image_px, image_px). 184,853 parameters at 224 px and latent 32, faithful."""

    def __init__(self, image_px: int, latent: int, law: str, dropout: float, profile: str) -> None:
        super().__init__(latent, law, 0)
        self.faithful = _is_faithful(profile)
        first_px = image_px // 32
        self.layers = nn.Sequential(
            nn.Linear(latent, _WIDTHS[0] * first_px**2),
            _norm1d(self.faithful, 0.1, _WIDTHS[0] * first_px**2),
            nn.ReLU(),
            nn.Unflatten(1, (_WIDTHS[0], first_px, first_px)),
            nn.Dropout(dropout),
            *_doublings(5, partial(_norm2d, self.faithful)),
            *_convolution(_WIDTHS[-1], 1, 5),
            nn.Sigmoid() if self.faithful else nn.Tanh(),
        )
        _start(self)

    def forward(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        images: Tensor = self.layers(noise)
        return images * 2 - 1 if self.faithful else images


def _doublings(kernel_px: int, norm: Callable[[int], nn.Module] | None) -> list[nn.Module]:
    return [
        part
        for before, after in itertools.pairwise(_WIDTHS)
        for part in (
            nn.Upsample(scale_factor=2, mode="nearest"),
            *_transposed(before, after, kernel_px),
            *([norm(after)] if norm else []),
            nn.ReLU(),
        )
    ]


class DCGANDiscriminator(nn.Module):
    """Images -> logits (B,). 4,407,553 parameters at 224 px, faithful."""

    def __init__(self, image_px: int, dropout: float, profile: str) -> None:
        super().__init__()
        self.faithful = _is_faithful(profile)
        widths = (1, 64, 128, 256, 512)
        parts: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            bent = [nn.LeakyReLU(0.2), _norm2d(self.faithful, after)]
            # The first block has its norm before the LeakyReLU.
            bent = bent[::-1] if before == 1 else bent
            dead = [nn.ReLU()] if self.faithful else []
            parts += [*_convolution(before, after, 5, 2), *dead, *bent, nn.Dropout(dropout)]
        self.layers = nn.Sequential(*parts, nn.Flatten(), nn.Linear(512 * (image_px // 16) ** 2, 1))
        _start(self)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        logits: Tensor = self.layers((images + 1) / 2 if self.faithful else images)
        return logits.squeeze(1)


class WGANGenerator(FromNoise):
    """Noise (B, latent) -> (B, 1, image_px, image_px) in [-1, 1]. 453,569 parameters at 224 px and latent 128.

    The study's own has no norm; "corrected" adds GroupNorm after every doubling.
    """

    def __init__(self, image_px: int, latent: int, law: str, profile: str) -> None:
        super().__init__(latent, law, 0)
        first_px = image_px // 32
        self.layers = nn.Sequential(
            nn.Linear(latent, _WIDTHS[0] * first_px**2),
            nn.ReLU(),
            nn.Unflatten(1, (_WIDTHS[0], first_px, first_px)),
            *_doublings(4, None if _is_faithful(profile) else _group),
            *_convolution(_WIDTHS[-1], 64, 4),
            nn.ReLU(),
            *_convolution(64, 1, 4),
            nn.Tanh(),
        )
        _start(self)

    def forward(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        images: Tensor = self.layers(noise)
        return images


class WGANCritic(nn.Module):
    """Images -> scores (B,). 1,951,233 parameters at 224 px, in both profiles."""

    def __init__(self, image_px: int, dropout: float) -> None:
        super().__init__()
        widths: Sequence[tuple[int, int, int]] = ((1, 64, 2), (64, 128, 2), (128, 256, 2), (256, 512, 1))
        self.layers = nn.Sequential(
            *(
                part
                for before, after, stride_px in widths
                for part in (*_convolution(before, after, 3, stride_px), nn.LeakyReLU(0.2), nn.Dropout(dropout))
            ),
            nn.Flatten(),
            nn.Linear(512 * (image_px // 8) ** 2, 1),
        )
        _start(self)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        scores: Tensor = self.layers(images)
        return scores.squeeze(1)


def parameters(network: nn.Module) -> int:
    """As Keras counts: weights, and the running mean and variance of batch norms."""
    running = sum(value.numel() for name, value in network.named_buffers() if "running_" in name)
    return running + sum(value.numel() for value in network.parameters())
