"""Variational autoencoders of classes, own code: MONAI's VarAutoEncoder and AutoencoderKL know no labels.

The encoder turns an image and its class into the mean and log variance of a normal law over the latent, the decoder a
latent and a class into an image. Only the decoder is released: it makes pictures of noise, and holds nothing that could
be asked about a given picture.

Conditioning is by one vector for each class in encoder and decoder, and by a prior for each class (Sohn 2015, section
4.1), from which samples are drawn: slices of one class lie elsewhere in the latent than those of another. Vectors and
priors begin at zero (a standard normal law), and zero they stay for a class that is withheld: a network that learnt
without labels is the same function on the day the labels come in.

Convolutional networks: 3 x 3 convolution, group norm and SiLU in every block, average pooling on the way down,
up-sampling on the way up (resize-convolution: Odena 2016). Group norm keeps a picture free of its batch. The brain-
tumour study led maps of the encoder around the latent into the decoder; a sample then needs a patient's image and
copies it (`models.networks.variation`): "skip" here hands on the latent (Dieng 2019, "Generative skip models").
"""

from __future__ import annotations

import abc
import itertools
import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.doubling import doubling
from models.networks.latent import FromNoise

# Mean and log variance, each (B, latent).
Law = tuple[Tensor, Tensor]
# Of the class vectors that decoders are given beside the latent.
CLASS_WIDTH = 16
# Beyond these a variance is 0 or without bound to float32, and one step would end the training.
_LOG_VARIANCE = (-20.0, 10.0)


class ClassVector(nn.Module):
    """Class numbers (B,) -> (B, width). The number `classes`, and None, are the class withheld: a vector of zeros."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.classes, self.width = classes, width
        self.table = nn.Embedding(classes + 1, width, padding_idx=classes) if classes else None
        if self.table is not None:
            nn.init.zeros_(self.table.weight)

    def forward(self, labels: Tensor | None, like: Tensor) -> Tensor:
        """like: (B, ...), for number and device."""
        if self.table is None:
            return like.new_zeros(len(like), self.width)
        if labels is None:
            labels = torch.full((len(like),), self.classes, device=like.device)
        vectors: Tensor = self.table(labels)
        return vectors


class Block(nn.Module):
    """Convolution, group norm, SiLU; where it is residual, plus what came in. doubles: maps come out twice as large."""

    def __init__(self, before: int, after: int, *, residual: bool, doubles: bool = False) -> None:
        super().__init__()
        self.doubles = doubles
        self.convolution = doubling(2, before, after) if doubles else nn.Conv2d(before, after, 3, padding=1)
        self.norm = nn.GroupNorm(math.gcd(8, after), after)
        around = nn.Identity() if before == after else nn.Conv2d(before, after, 1)
        self.around = around if residual else None

    def forward(self, maps: Tensor, mark: Tensor | None = None) -> Tensor:
        """maps: (B, before, rows, columns); mark: (B, after), added after the norm, which would take it away again."""
        made = self.norm(self.convolution(maps))
        made = F.silu(made if mark is None else made + mark[:, :, None, None])
        if self.around is None:
            return made
        around = self.around(maps)
        return made + (F.interpolate(around, scale_factor=2.0, mode="nearest") if self.doubles else around)


class Level(nn.Module):
    """The blocks of one resolution; the first takes the mark, and doubles."""

    def __init__(self, before: int, after: int, count: int, *, residual: bool, doubles: bool = False) -> None:
        super().__init__()
        self.first = Block(before, after, residual=residual, doubles=doubles)
        self.rest = nn.Sequential(*(Block(after, after, residual=residual) for _ in range(count - 1)))

    def forward(self, maps: Tensor, mark: Tensor | None = None) -> Tensor:
        made: Tensor = self.rest(self.first(maps, mark))
        return made


def per_level(image_px: int, blocks: int) -> list[int]:
    """Blocks at each resolution from the full one down; each is halved, not below 4 px. The deep ones have more."""
    levels = min(blocks, int(math.log2(image_px)) - 2)
    return [blocks // levels + (level >= levels - blocks % levels) for level in range(levels)]


def _require_links(links: str) -> None:
    if links not in ("plain", "residual", "skip"):
        raise ValueError(f"links {links!r} is none of plain, residual, skip")


def widths_of(features: int, levels: int) -> list[int]:
    return [min(features * 2**level, features * 8) for level in range(levels)]


class ConvolutionalEncoder(nn.Module):
    """Pictures (B, planes, image_px, image_px) and class numbers (B,) -> mean and log variance, each (B, latent)."""

    def __init__(
        self, image_px: int, features: int, latent: int, blocks: int, links: str, classes: int, planes: int = 1
    ) -> None:
        super().__init__()
        _require_links(links)
        counts = per_level(image_px, blocks)
        widths = widths_of(features, len(counts))
        self.class_vector = ClassVector(classes, features)
        self.levels = nn.ModuleList(
            Level(before, width, count, residual=links == "residual")
            for before, width, count in zip([planes, *widths[:-1]], widths, counts, strict=True)
        )
        self.law = nn.Linear(widths[-1] * (image_px >> len(counts)) ** 2, 2 * latent)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Law:
        law, _ = self.with_maps(images, labels)
        return law

    def with_maps(self, images: Tensor, labels: Tensor | None) -> tuple[Law, list[Tensor]]:
        """The maps of every level beside the law, from full size down."""
        maps, mark, passed = images, self.class_vector(labels, images), []
        for level in self.levels:
            passed.append(level(maps, mark))
            maps, mark = F.avg_pool2d(passed[-1], 2), None
        return _law(self.law(maps.flatten(1))), passed


class Decoder(FromNoise, abc.ABC):
    """Noise (B, latent) of N(0, 1) and class numbers (B,) -> pictures (B, planes, image_px, image_px) in [-1, 1].

    Noise is placed in the prior of its class first; latents of a posterior go to `decode`.
    """

    def __init__(self, latent: int, classes: int) -> None:
        super().__init__(latent, "normal", classes)
        self.class_vector = ClassVector(classes, CLASS_WIDTH)
        self.class_prior = ClassVector(classes, 2 * latent)

    def prior(self, labels: Tensor | None, like: Tensor) -> Law:
        """Of the class of each image. like: (B, ...), for number and device."""
        return _law(self.class_prior(labels, like))

    def forward(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        mean, log_variance = self.prior(labels, noise)
        return self.decode(mean + (log_variance / 2).exp() * noise, labels)

    @abc.abstractmethod
    def decode(self, latent: Tensor, labels: Tensor | None) -> Tensor:
        """latent: (B, latent), as a posterior has them -> images."""


class ConvolutionalDecoder(Decoder):
    """`Decoder` of convolutions, as many as its encoder has, and one that makes the picture."""

    def __init__(
        self, image_px: int, features: int, latent: int, blocks: int, links: str, classes: int = 0, planes: int = 1
    ) -> None:
        super().__init__(latent, classes)
        _require_links(links)
        counts = per_level(image_px, blocks)[::-1]
        widths = widths_of(features, len(counts))[::-1]
        self.low_px = image_px >> len(counts)
        known = latent + CLASS_WIDTH
        self.project = nn.Linear(known, widths[0] * self.low_px**2)
        self.levels = nn.ModuleList(
            Level(before, width, count, residual=links == "residual", doubles=True)
            for before, width, count in zip([widths[0], *widths[:-1]], widths, counts, strict=True)
        )
        self.skips = nn.ModuleList(nn.Linear(known, width) for width in widths) if links == "skip" else None
        self.picture = nn.Conv2d(widths[-1], planes, 3, padding=1)

    def decode(self, latent: Tensor, labels: Tensor | None) -> Tensor:
        known = torch.cat([latent, self.class_vector(labels, latent)], 1)
        maps = self.project(known).unflatten(1, (-1, self.low_px, self.low_px))
        for number, level in enumerate(self.levels):
            maps = level(maps, None if self.skips is None else self.skips[number](known))
        return torch.tanh(self.picture(maps))


class DenseEncoder(nn.Module):
    """As `ConvolutionalEncoder`, of fully connected layers."""

    def __init__(self, image_px: int, widths: Sequence[int], latent: int, classes: int, planes: int = 1) -> None:
        super().__init__()
        self.class_vector = ClassVector(classes, widths[0])
        self.first = nn.Linear(planes * image_px**2, widths[0])
        self.rest = _dense(widths)
        self.law = nn.Linear(widths[-1], 2 * latent)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Law:
        known = F.silu(self.first(images.flatten(1)) + self.class_vector(labels, images))
        return _law(self.law(self.rest(known)))


class DenseDecoder(Decoder):
    """`Decoder` of fully connected layers. widths: in the encoder's order."""

    def __init__(self, image_px: int, widths: Sequence[int], latent: int, classes: int = 0, planes: int = 1) -> None:
        super().__init__(latent, classes)
        self.shape = (planes, image_px, image_px)
        self.first = nn.Linear(latent + CLASS_WIDTH, widths[-1])
        self.rest = _dense(widths[::-1])
        self.picture = nn.Linear(widths[0], planes * image_px**2)

    def decode(self, latent: Tensor, labels: Tensor | None) -> Tensor:
        known = F.silu(self.first(torch.cat([latent, self.class_vector(labels, latent)], 1)))
        return torch.tanh(self.picture(self.rest(known))).reshape(-1, *self.shape)


def _dense(widths: Sequence[int]) -> nn.Sequential:
    return nn.Sequential(
        *(part for before, after in itertools.pairwise(widths) for part in (nn.Linear(before, after), nn.SiLU()))
    )


def _law(both: Tensor) -> Law:
    mean, log_variance = both.float().chunk(2, 1)
    return mean, log_variance.clamp(*_LOG_VARIANCE)


class VAE(nn.Module):
    """Encoder and decoder, as they train."""

    def __init__(self, encoder: nn.Module, decoder: Decoder) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, images: Tensor, noise: Tensor, labels: Tensor | None) -> tuple[Tensor, Law, Law]:
        """images: (B, planes, image_px, image_px); noise: (B, latent) of N(0, 1), which chooses in the posterior.

        Returns what the decoder makes of them, the posteriors, and the priors.
        """
        mean, log_variance = self.encoder(images, labels)
        made = self.decoder.decode(mean + (log_variance / 2).exp() * noise, labels)
        return made, (mean, log_variance), self.decoder.prior(labels, images)

    def noise(self, count: int, source: torch.Generator) -> Tensor:
        """(count, latent) of N(0, 1)."""
        return self.decoder.noise(count, source)

    def convolutions(self) -> Iterator[nn.Parameter]:
        """See `convolutions`."""
        return convolutions(self)


def convolutions(network: nn.Module) -> Iterator[nn.Parameter]:
    """Weights of all convolutions and of their norms; labels, projections and skips are not among them."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.GroupNorm):
            yield from module.parameters()
