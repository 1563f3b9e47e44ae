"""Networks that make a picture of noise in one pass (`models.networks.maker`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

_BATCH = 32


class FromNoise(nn.Module):
    """Noise (B, latent) [and class numbers (B,)] -> pictures (B, planes, *size), mostly in [-1, 1].

    size: (image_px, image_px), or three times image_px for volumes. law: of each number of the noise, "normal" N(0, 1)
    or "uniform" U(-1, 1). classes: 0 where it knows no labels.
    """

    def __init__(self, latent: int, law: str, classes: int) -> None:
        super().__init__()
        if law not in ("normal", "uniform"):
            raise ValueError(f"law {law!r} is neither normal nor uniform")
        self.latent = latent
        self.law = law
        self.classes = classes

    @staticmethod
    def noise_shape(definition: Mapping[str, Any]) -> tuple[int, list[int]]:
        """Channels and pixels of the noise: a vector has no pixels."""
        return definition["latent"], []

    def noise(self, count: int, source: torch.Generator) -> Tensor:
        """(count, latent), by the law that the network was trained on."""
        shape = (count, self.latent)
        uniform = self.law == "uniform"
        return torch.rand(shape, generator=source) * 2 - 1 if uniform else torch.randn(shape, generator=source)

    def make(self, source: torch.Generator, label: int | None = None) -> Tensor:
        """One picture (planes, *size) in [-1, 1]: a function of the source's state and the label alone."""
        labels = None if label is None else torch.tensor([label])
        picture: Tensor = self(self.noise(1, source), labels)[0]
        return picture.clamp(-1, 1)

    @torch.inference_mode()
    def make_many(self, sources: Sequence[torch.Generator], labels: Tensor | None, on: torch.device) -> Tensor:
        """(n, planes, *size) in [-1, 1] on the CPU. labels: (n,), on the CPU."""
        made = []
        for start in range(0, len(sources), _BATCH):
            latent = torch.cat([self.noise(1, source) for source in sources[start : start + _BATCH]]).to(on)
            known = None if labels is None else labels[start : start + _BATCH].to(on)
            made.append(self(latent, known).clamp(-1, 1).cpu())
        return torch.cat(made)
