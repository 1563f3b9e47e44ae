"""What sampling, panels and audits ask of every network that generates, of whatever family.

A picture has planes: the channels of its image, then one for each label of its mask, where it has one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor


class Sampler(Protocol):
    """Makes many pictures, for looking at and for comparing."""

    def make_many(self, sources: Sequence[torch.Generator], labels: Tensor | None, on: torch.device) -> Tensor:
        """(n, planes, rows, columns) in [-1, 1] on the CPU: what `Maker.make` makes, equal up to rounding."""


class Maker(Sampler, Protocol):
    """Makes pictures from sources of random numbers, and from class numbers where it knows classes."""

    @staticmethod
    def noise_shape(definition: Mapping[str, Any]) -> tuple[int, list[int]]:
        """Channels and (rows, columns), or [], of the noise that one picture is made of, from its `network_def`."""

    def make(self, source: torch.Generator, label: int | None = None) -> Tensor:
        """One picture (planes, rows, columns) in [-1, 1]: a function of the source's state and the label alone, to the
        bit."""
