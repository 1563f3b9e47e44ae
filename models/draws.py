"""Random numbers for each image of a batch, which several processes may share (`models.training.ranks`).

All processes draw the same numbers for the whole batch, and each keeps those of its own images: how many there are
changes nothing. A plain `torch.Generator` draws for the images alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor


class Draws(torch.Generator):
    """A source that is the same in all processes. number: of this one, from 0; count: of all."""

    number, count = 0, 1


def uniform(images: int, source: torch.Generator, *shape: int) -> Tensor:
    """(images, *shape) in [0, 1). images: of this process."""
    return _own(torch.rand, images, source, shape)


def normal(images: int, source: torch.Generator, *shape: int) -> Tensor:
    """As `uniform`, of N(0, 1)."""
    return _own(torch.randn, images, source, shape)


def below(limit: int, images: int, source: torch.Generator, *shape: int) -> Tensor:
    """As `uniform`, whole numbers from 0 to limit - 1."""
    return _own(partial(torch.randint, limit), images, source, shape)


def _own(law: Callable[..., Tensor], images: int, source: torch.Generator, shape: tuple[int, ...]) -> Tensor:
    number, count = (source.number, source.count) if isinstance(source, Draws) else (0, 1)
    return law((images * count, *shape), generator=source)[number * images : (number + 1) * images]
