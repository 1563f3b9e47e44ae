"""What anyone could have given for the picture, without a network.

For finer pixels: bicubic interpolation. For another channel, of each given one: the channel as it is, and by a table
that gives for every grey level the mean of what is wanted there (on training), which is the best that a map of grey
levels can do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from models.networks.translator import enlarged

Trivial = Callable[[Tensor], Tensor]
_BINS = 128


def baselines(given: Tensor, wanted: Tensor, names: Sequence[str], factor: int) -> dict[str, Trivial]:
    """By name, functions of given pictures (N, planes, rows, columns) in [-1, 1].

    given, wanted: of training; names: of the given planes. A mask has none: grey levels of a label are no picture.
    """
    if factor > 1:
        return {"bicubic": lambda pictures: enlarged(pictures, factor).clamp(-1, 1)}
    planes = wanted.shape[1]
    found: dict[str, Trivial] = {}
    for number, name in enumerate(names):
        found[f"{name} as it is"] = _as_it_is(number, planes)
        found[f"{name} by a table"] = _by_table(given[:, number], wanted, number)
    return found


def _as_it_is(plane: int, times: int) -> Trivial:
    return lambda pictures: pictures[:, plane : plane + 1].expand(-1, times, -1, -1)


def _by_table(given: Tensor, wanted: Tensor, plane: int) -> Trivial:
    levels = _bins(given)
    count = torch.bincount(levels.flatten(), minlength=_BINS).double()
    seen = np.flatnonzero(count.numpy())
    columns = []
    for made in wanted.unbind(1):
        total = torch.bincount(levels.flatten(), made.flatten().double(), minlength=_BINS)
        mean = (total / count).numpy()[seen]
        columns.append(torch.from_numpy(np.interp(np.arange(_BINS), seen, mean)).float())
    table = torch.stack(columns)
    return lambda pictures: table[:, _bins(pictures[:, plane])].transpose(0, 1)


def _bins(pictures: Tensor) -> Tensor:
    return ((pictures + 1) / 2 * _BINS).long().clamp(0, _BINS - 1)
