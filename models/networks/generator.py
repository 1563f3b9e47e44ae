"""DCGAN, own code: MONAI's Generator and Discriminator have neither resize-convolution nor minibatch statistics.

Resize-convolution instead of transposed convolution (no checkerboard, Odena 2016); GroupNorm in the generator, so that
a sample does not depend on its batch; no norm in the discriminator (R1 regularises it); minibatch standard deviation
against collapse (Karras 2018, section 3). Everything else is a choice of the recipe.

With labels: norms of the generator whose gain and bias belong to the class (de Vries 2017), and a discriminator that
adds the inner product of its features with a vector of the class (projection: Miyato and Koyama 2018, equation 4).
"""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm as spectral

from models.networks import spatial
from models.networks.doubling import doubling
from models.networks.latent import FromNoise
from models.networks.norm import ClassNorm, layer
from models.networks.spatial import convolution, pixel_axes, to_maps

# So many neighbours of a batch are compared with each other.
GROUP = 4


class Generator(FromNoise):
    """Noise (B, latent) -> pictures (B, planes, *size) in [-1, 1]. classes: 0 makes unlabelled ones. dims: 3 makes
    volumes."""

    def __init__(
        self,
        image_px: int,
        features: int,
        latent: int,
        *,
        law: str = "normal",
        norm: str = "group",
        dropout: float = 0.0,
        classes: int = 0,
        planes: int = 1,
        dims: int = 2,
    ) -> None:
        super().__init__(latent, law, classes)
        self.planes, self.dims = planes, dims
        doublings = int(math.log2(image_px)) - 2
        # As DCGAN counts: `features` at half resolution, half as many at full, at most eight times as many.
        widths = [min(features * 2**level, features * 16) // 2 for level in range(doublings, -1, -1)]
        self.widths = widths
        self.project = nn.Linear(latent, widths[0] * 4**dims)
        self.first_norm = layer(norm, widths[0], classes, dims)
        self.blocks = nn.ModuleList(
            Block(
                # Where doubling was a layer of its own: names of weights stay.
                nn.Identity(),
                doubling(dims, before, after, bias=norm == "none"),
                layer(norm, after, classes, dims),
                nn.ReLU(),
                *([spatial.dropout(dims, dropout)] if dropout else []),
            )
            for before, after in itertools.pairwise(widths)
        )
        self.picture = convolution(dims, widths[-1], planes, 3, padding=1)

    def forward(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        _, maps = self.maps(noise, labels, len(self.blocks))
        return torch.tanh(self.picture(maps))

    def maps(self, noise: Tensor, labels: Tensor | None, doublings: int) -> tuple[Tensor, Tensor]:
        """Maps of 4 px, doubled so many times, once before the last doubling and once after it."""
        first = self.project(noise).unflatten(1, (-1, *[4] * self.dims))
        before = maps = F.relu(_normed(self.first_norm, first, labels))
        for block in itertools.islice(self.blocks, doublings):
            before, maps = maps, block(maps, labels)
        return before, maps


class Block(nn.Sequential):
    """Layers one after the other; norms of classes are told the classes."""

    def forward(self, image: Tensor, labels: Tensor | None = None) -> Tensor:
        for each in self:
            image = _normed(each, image, labels)
        return image


def _normed(each: nn.Module, image: Tensor, labels: Tensor | None) -> Tensor:
    made: Tensor = each(image, labels) if isinstance(each, ClassNorm) else each(image)
    return made


class Discriminator(nn.Module):
    """Pictures (B, planes, *size) [and class numbers (B,)] -> logit of being real (B,)."""

    def __init__(
        self,
        image_px: int,
        features: int,
        *,
        norm: str = "none",
        dropout: float = 0.0,
        spectral_norm: bool = False,
        minibatch: bool = True,
        classes: int = 0,
        planes: int = 1,
        dims: int = 2,
    ) -> None:
        super().__init__()
        bounded = spectral if spectral_norm else _as_it_is
        halvings = int(math.log2(image_px)) - 2
        self.dims, self.spectral_norm = dims, spectral_norm
        self.widths = widths = [planes] + [min(features * 2**level, features * 8) for level in range(halvings)]
        parts = [
            (
                bounded(convolution(dims, before, after, 4, stride=2, padding=1)),
                # No norm on the first layer (Radford 2015): it would take the brightness away.
                *([layer(norm, after, dims=dims)] if norm != "none" and number else []),
                nn.LeakyReLU(0.2),
                *([spatial.dropout(dims, dropout)] if dropout else []),
            )
            for number, (before, after) in enumerate(itertools.pairwise(widths))
        ]
        self._begins = [*itertools.accumulate(map(len, parts), initial=0)]
        self.blocks = nn.Sequential(*itertools.chain(*parts))
        self.minibatch = minibatch
        self.mix = bounded(convolution(dims, widths[-1] + minibatch, widths[-1], 3, padding=1))
        self.verdict = bounded(nn.Linear(widths[-1] * 4**dims, 1))
        self.class_vectors = bounded(nn.Embedding(classes, widths[-1])) if classes else None

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.verdict_on(self.blocks(images), labels)

    def through(self, maps: Tensor, first: int, last: int) -> Tensor:
        """Past the halvings first, first + 1, ..., last - 1. maps: of `widths[first]` channels."""
        for part in itertools.islice(self.blocks, self._begins[first], self._begins[last]):
            maps = part(maps)
        return maps

    def verdict_on(self, maps: Tensor, labels: Tensor | None) -> Tensor:
        """maps: of 4 px, past all halvings."""
        if self.minibatch:
            maps = torch.cat([maps, minibatch_deviation(maps)], 1)
        maps = F.leaky_relu(self.mix(maps), 0.2)
        verdict: Tensor = self.verdict(maps.flatten(1)).squeeze(1)
        if self.class_vectors is None or labels is None:
            return verdict
        return verdict + (self.class_vectors(labels) * maps.sum(dim=pixel_axes(maps))).sum(1)


def _as_it_is(module: nn.Module) -> nn.Module:
    return module


def minibatch_deviation(maps: Tensor, group: int = GROUP) -> Tensor:
    """(B, C, *size) -> (B, 1, *size): mean standard deviation over groups of four neighbours in the batch."""
    size = math.gcd(group, len(maps))
    groups = maps.float().reshape(len(maps) // size, size, *maps.shape[1:])
    # Written out: torch's own variance along an outer axis takes five times as long.
    variance = (groups - groups.mean(dim=1, keepdim=True)).square().mean(dim=1)
    deviation = (variance + 1e-8).sqrt().flatten(1).mean(1).to(maps.dtype)
    return to_maps(deviation.repeat_interleave(size)[:, None], maps).expand(-1, 1, *maps.shape[2:])
