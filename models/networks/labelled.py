"""The grid of the brain-tumour study's WCGAN-GP: two generators, two critics, one class at a time.

Given there: G1 is transposed convolution, batch norm and LeakyReLU; G2 is up-sampling, convolution and batch norm; D1
is convolution, LeakyReLU and dropout; D2 is convolution, batch norm and LeakyReLU. The latent has 64 or 128 numbers.

Not given, and chosen here: widths (halved at each doubling of the image, `features` at half resolution), kernels (4 for
strided layers, 3 for others), LeakyReLU of 0.2 after G2's norm, tanh, no norm on the first layer of D2, and how a label
comes in: one-hot numbers beside the noise, and one-hot planes beside the image (Mirza 2014). Own code: no library has
these.
"""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.networks import spatial
from models.networks.doubling import doubling
from models.networks.latent import FromNoise
from models.networks.spatial import batch_norm, convolution, to_maps, transposed


def _widths(image_px: int, features: int) -> list[int]:
    """From half resolution down to 4 px."""
    return [min(features * 2**level, features * 8) for level in range(int(math.log2(image_px)) - 2)]


def _bigger(kind: str, dims: int, before: int, after: int) -> list[nn.Module]:
    if kind == "G1":
        return [transposed(dims, before, after, 4, stride=2, padding=1, bias=False)]
    if kind == "G2":
        # Where doubling was a layer of its own: names of weights stay.
        return [nn.Identity(), doubling(dims, before, after, bias=False)]
    raise ValueError(f"generator {kind!r} is neither G1 nor G2")


class LabelledGenerator(FromNoise):
    """Noise (B, latent) and class numbers (B,) -> pictures (B, planes, *size) in [-1, 1]. dims: 3 makes volumes."""

    def __init__(
        self,
        kind: str,
        image_px: int,
        features: int,
        latent: int,
        law: str,
        classes: int,
        planes: int = 1,
        dims: int = 2,
    ) -> None:
        super().__init__(latent, law, classes)
        widths = [*_widths(image_px, features)[::-1], features]
        self.dims = dims
        self.project = nn.Linear(latent + classes, widths[0] * 4**dims)
        self.blocks = nn.Sequential(
            batch_norm(dims, widths[0]),
            nn.LeakyReLU(0.2),
            *(
                part
                for before, after in itertools.pairwise(widths)
                for part in (*_bigger(kind, dims, before, after), batch_norm(dims, after), nn.LeakyReLU(0.2))
            ),
            convolution(dims, features, planes, 3, padding=1),
        )

    def forward(self, noise: Tensor, labels: Tensor | None) -> Tensor:
        if labels is None:
            raise ValueError("a generator of classes makes no image without one")
        known = torch.cat([noise, F.one_hot(labels, self.classes).to(noise.dtype)], 1)
        return torch.tanh(self.blocks(self.project(known).unflatten(1, (-1, *[4] * self.dims))))


class LabelledCritic(nn.Module):
    """Pictures (B, planes, *size) and class numbers (B,) -> scores (B,)."""

    def __init__(
        self,
        kind: str,
        image_px: int,
        features: int,
        dropout: float,
        classes: int,
        planes: int = 1,
        dims: int = 2,
    ) -> None:
        super().__init__()
        if kind not in ("D1", "D2"):
            raise ValueError(f"critic {kind!r} is neither D1 nor D2")
        self.classes = classes
        widths = [planes + classes, *_widths(image_px, features)]
        parts: list[nn.Module] = []
        for number, (before, after) in enumerate(itertools.pairwise(widths)):
            parts.append(convolution(dims, before, after, 4, stride=2, padding=1))
            parts += [batch_norm(dims, after)] if kind == "D2" and number else []
            parts.append(nn.LeakyReLU(0.2))
            parts += [spatial.dropout(dims, dropout)] if kind == "D1" else []
        self.blocks = nn.Sequential(*parts, nn.Flatten(), nn.Linear(widths[-1] * 4**dims, 1))

    def forward(self, images: Tensor, labels: Tensor | None) -> Tensor:
        if labels is None:
            raise ValueError("a critic of classes judges no image without one")
        known = to_maps(F.one_hot(labels, self.classes).to(images.dtype), images)
        planes = known.expand(-1, -1, *images.shape[2:])
        scores: Tensor = self.blocks(torch.cat([images, planes], 1))
        return scores.squeeze(1)
