"""What a generator's training draws from: all slices as likely, or all classes as likely."""

from __future__ import annotations

import torch
from torch import Tensor

from dicom_io.errors import Rejected
from models.cases import Squares


class Batches:
    """Reals and, where the recipe is conditional, their classes.

    names: of the cohort's labels; empty draws without labels.

    Raises:
        Rejected: with names, fewer than two classes have slices.
    """

    def __init__(self, reals: Squares, names: tuple[str, ...]) -> None:
        self._reals = reals
        self.counts: tuple[int, ...] = ()
        self._of_class: list[Tensor] = []
        if names:
            assert reals.labels is not None
            self.counts = tuple(torch.bincount(reals.labels, minlength=len(names)).tolist())
            if sum(count > 0 for count in self.counts) < 2:
                raise Rejected("conditional: training slices are of one class only; set it to false, or add classes")
            self._of_class = [torch.nonzero(reals.labels == label)[:, 0] for label in self.present]

    @property
    def present(self) -> list[int]:
        """The classes that have slices."""
        return [label for label, count in enumerate(self.counts) if count]

    def draw(self, count: int, source: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """(count, planes, px, px), and (count,) class numbers where there are any."""
        if not self._of_class:
            return self._reals.take(torch.randint(len(self._reals), (count,), generator=source)), None
        which = torch.randint(len(self._of_class), (count,), generator=source)
        within = torch.rand(count, generator=source)
        chosen = [
            self._of_class[c][int(share * len(self._of_class[c]))] for c, share in zip(which, within, strict=True)
        ]
        return self._reals.take(torch.stack(chosen)), torch.tensor(self.present)[which]


def withheld(labels: Tensor | None, share: float, classes: int, draw: torch.Generator) -> Tensor | None:
    """Class numbers (B,), a share of them replaced by `classes`, the number that says nothing."""
    if labels is None or not share:
        return labels
    return torch.where(torch.rand(len(labels), generator=draw) < share, classes, labels)
