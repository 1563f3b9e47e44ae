"""What serving, reports and audits ask of every network that makes pictures of pictures (`models.networks.maker` is for
those that make them of noise alone)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class FromPicture(Protocol):
    """Makes pictures of given ones: masks, other channels, or coarser pixels."""

    def make_from(self, given: Tensor, source: torch.Generator) -> Tensor:
        """(planes, rows, columns) in [-1, 1] -> the same of what is made: a function of `given` and of the source's
        state alone, to the bit. Networks without a choice draw nothing of the source."""

    def make_many_from(self, given: Tensor, sources: Sequence[torch.Generator], on: torch.device) -> Tensor:
        """(n, planes, rows, columns) in batches, for looking at: on the CPU, equal up to rounding."""
