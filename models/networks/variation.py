"""The second autoencoder of the brain-tumour study: image and noise in, another picture of the same out.

Maps of the encoder go around the latent into the decoder (Ronneberger 2015), so that a picture needs a patient's image,
and repeats it: the copy audit says how much. It is for that comparison alone, and is neither released nor served.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from models.networks.vae import ConvolutionalEncoder, Law, Level, convolutions, per_level, widths_of

_BATCH = 32


class Variation(nn.Module):
    """Pictures (B, planes, image_px, image_px) and noise (B, latent) of N(0, 1) -> pictures like them."""

    def __init__(self, image_px: int, features: int, latent: int, blocks: int, links: str, planes: int = 1) -> None:
        super().__init__()
        self.latent = latent
        self.encoder = ConvolutionalEncoder(image_px, features, latent, blocks, links, 0, planes)
        counts = per_level(image_px, blocks)[::-1]
        widths = widths_of(features, len(counts))[::-1]
        self.low_px = image_px >> len(counts)
        self.project = nn.Linear(latent, widths[0] * self.low_px**2)
        self.levels = nn.ModuleList(
            Level(before, width, count, residual=links == "residual", doubles=True)
            for before, width, count in zip([widths[0], *widths[:-1]], widths, counts, strict=True)
        )
        self.join = nn.ModuleList(nn.Conv2d(2 * width, width, 1) for width in widths)
        self.picture = nn.Conv2d(widths[-1], planes, 3, padding=1)

    def forward(self, images: Tensor, noise: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Law, Law]:
        """noise chooses in the posterior. Returns what is made of them, the posteriors, and the prior N(0, 1)."""
        (mean, log_variance), around = self.encoder.with_maps(images, None)
        latent = mean + (log_variance / 2).exp() * noise
        maps = self.project(latent).unflatten(1, (-1, self.low_px, self.low_px))
        for level, join in zip(self.levels, self.join, strict=True):
            maps = join(torch.cat([level(maps), around.pop()], 1))
        prior = torch.zeros_like(mean), torch.zeros_like(log_variance)
        return torch.tanh(self.picture(maps)), (mean, log_variance), prior

    def noise(self, count: int, source: torch.Generator) -> Tensor:
        """(count, latent) of N(0, 1)."""
        return torch.randn((count, self.latent), generator=source)

    @torch.inference_mode()
    def make_from(self, given: Tensor, source: torch.Generator) -> Tensor:
        """One picture (planes, image_px, image_px) in [-1, 1]: see `models.networks.from_picture`."""
        made: Tensor = self(given[None], self.noise(1, source))[0][0]
        return made

    @torch.inference_mode()
    def make_many_from(self, given: Tensor, sources: Sequence[torch.Generator], on: torch.device) -> Tensor:
        made = []
        for start in range(0, len(sources), _BATCH):
            noise = torch.cat([self.noise(1, source) for source in sources[start : start + _BATCH]])
            made.append(self(given[start : start + _BATCH].to(on), noise.to(on))[0].cpu())
        return torch.cat(made)

    def convolutions(self) -> Iterator[nn.Parameter]:
        """See `convolutions`."""
        return convolutions(self)
