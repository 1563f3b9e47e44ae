"""Which of the real images are compared: evenly thinned ones, and halves of the patients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

AT_MOST = 1000


def evenly(count: int, most: int) -> Tensor:
    """Numbers of at most `most` of `count` things, evenly spaced, the first and the last among them."""
    return torch.from_numpy(np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(int)))


def thinned(images: Tensor, patients: Sequence[str], most: int = AT_MOST) -> tuple[Tensor, list[str]]:
    """At most `most` images, evenly spaced, so that every patient stays."""
    chosen = evenly(len(images), most)
    return images[chosen], [patients[index] for index in chosen.tolist()]


def halvings(patients: Sequence[str], draws: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Random halves of the patients, as numbers of their images; none below two patients.

    A draw that leaves fewer than two images on one side is passed over.
    """
    names, number = np.unique(np.asarray(patients), return_inverse=True)
    rng = np.random.default_rng(2)
    for _ in range(draws if len(names) > 1 else 0):
        first = np.isin(number, rng.permutation(len(names))[: len(names) // 2])
        halves = torch.from_numpy(np.flatnonzero(first)), torch.from_numpy(np.flatnonzero(~first))
        if min(map(len, halves)) > 1:
            yield halves
