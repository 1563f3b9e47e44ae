"""What sampling, panels and audits ask of every network that generates, of whatever family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor


class Maker(Protocol):
    """Makes pictures from sources of random numbers, and from class numbers where it knows classes."""

    def make(self, source: torch.Generator, label: int | None = None) -> Tensor:
        """One picture (rows, columns) in [-1, 1]: a function of the source's state and the label alone, to the bit."""

    def make_many(self, sources: Sequence[torch.Generator], labels: Tensor | None, on: torch.device) -> Tensor:
        """The same pictures in batches, for looking at: (n, 1, rows, columns) on the CPU, equal up to rounding."""
