"""Normalisation layers: as MONAI's factories name them, and as modules of our own networks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from models.networks.spatial import batch_norm, instance_norm, to_maps


def definition(name: str, channels: Sequence[int]) -> Any:
    """MONAI's form of "batch", "instance" or "group"; channels: of every layer, cut into eight groups or fewer."""
    if name == "group":
        return ["group", {"num_groups": math.gcd(8, *channels)}]
    return [name, {"affine": True}]


def layer(name: str, channels: int, classes: int = 0, dims: int = 2) -> nn.Module:
    """The layer for (B, channels, rows, columns) maps, or of volumes; with classes, a `ClassNorm`.

    Raises:
        ValueError: another name than batch, instance, group or none.
    """
    plain = _plain(name, channels, dims, affine=not classes)
    return ClassNorm(plain, channels, classes) if classes else plain


def _plain(name: str, channels: int, dims: int, *, affine: bool) -> nn.Module:
    if name == "group":
        return nn.GroupNorm(math.gcd(8, channels), channels, affine=affine)
    if name == "batch":
        return batch_norm(dims, channels, affine=affine)
    if name == "instance":
        return instance_norm(dims, channels, affine=affine)
    if name == "none":
        return nn.Identity()
    raise ValueError(f"norm {name!r} is none of batch, instance, group, none")


class ClassNorm(nn.Module):
    """A norm whose gain and bias belong to the image's class; where there is no norm, a gain and bias alone."""

    def __init__(self, norm: nn.Module, channels: int, classes: int) -> None:
        super().__init__()
        self.norm = norm
        self.gain = nn.Embedding(classes, channels)
        self.bias = nn.Embedding(classes, channels)
        nn.init.ones_(self.gain.weight)
        nn.init.zeros_(self.bias.weight)

    def forward(self, maps: Tensor, labels: Tensor | None) -> Tensor:
        if labels is None:
            raise ValueError("a generator of classes makes no image without one")
        gain, bias = (to_maps(each(labels), maps) for each in (self.gain, self.bias))
        normed: Tensor = self.norm(maps) * gain + bias
        return normed
