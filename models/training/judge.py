"""How a generator does, report by report: samples of fixed seeds beside unseen patients, and their spread beside reals.

The spread is within classes (`models.evaluation.fidelity.spread`), and masks are looked at by themselves: neither a
loss shows them nor the distance, in which an empty mask weighs little.
"""

# torch leaves Tensor.split and Tensor.unique without types.
# mypy: disallow-untyped-calls=False

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dicom_io.errors import Rejected
from models.cases import Squares
from models.evaluation import label_shares
from models.evaluation.features import RandomFeatures
from models.evaluation.fidelity import centre_and_scale, kid, spread
from models.generator import source_of
from models.networks.maker import Sampler

AT_MOST = 512
SAMPLES = 256


@dataclass(frozen=True, eq=False)
class Panel:
    """Samples of fixed seeds. images: (count, planes, px, px) on the CPU; labels: (count,), where there are classes."""

    images: Tensor
    labels: Tensor | None


class Judge:
    """present: the classes that samples are made of, in turn; none for an unlabelled generator. samples: at most so
    many to a panel, as long as every class has 16.

    Raises:
        Rejected: validation has fewer than two slices (of any one class).
    """

    def __init__(self, reals: Squares, unseen: Squares, present: list[int], samples: int = SAMPLES) -> None:
        if len(unseen) < 2:
            raise Rejected("validation has fewer than two slices above minimum_signal; nothing can be compared with it")
        self._features = RandomFeatures(reals.planes)
        self._present = present
        self._mask_planes = reals.mask_planes
        self._with_label = self.with_label(reals.take(_some(reals)))
        of_unseen, of_reals = (self._features(each.take(_some(each))) for each in (unseen, reals))
        # On all reals: a few unseen patients may differ so little in some feature that it would rule the distance.
        self._centre, self._scale = centre_and_scale(torch.cat([of_unseen, of_reals]))
        self._unseen = _by_class(self._scaled(of_unseen), _labels(unseen, present))
        self._reals = _by_class(of_reals, _labels(reals, present))
        if all(len(features) < 2 for features in self._unseen.values()):
            raise Rejected("conditional: no class has two validation slices; import the cohort with other shares")
        self._count = max(16, min(len(of_unseen), samples))

    def _scaled(self, features: Tensor) -> Tensor:
        return (features - self._centre) / self._scale

    def panel(self, network: Sampler, on: torch.device) -> Panel:
        """At least 16 samples (of each class), classes in turn."""
        classes = len(self._present)
        count = max(self._count, 16 * classes)
        labels = torch.tensor(self._present)[torch.arange(count) % classes] if classes else None
        return Panel(network.make_many([source_of(0, index) for index in range(count)], labels, on), labels)

    def kid(self, panel: Panel) -> float:
        """To unseen patients; with classes, the mean over those that validation has at least two slices of."""
        made = _by_class(self._scaled(self._features(panel.images)), panel.labels)
        known = [label for label, features in self._unseen.items() if len(features) > 1 and label in made]
        return sum(kid(made[label], self._unseen[label]) for label in known) / max(len(known), 1)

    def with_label(self, images: Tensor) -> list[float]:
        """Of each label of the mask: the share of the pictures (N, planes, *size) that show it."""
        return label_shares.frequency(images[:, -self._mask_planes :]) if self._mask_planes else []

    def labels(self, panel: Panel) -> list[tuple[float, float]]:
        """Of each label of the mask: the share of samples and of reals that show it."""
        return [*zip(self.with_label(panel.images), self._with_label, strict=True)]

    def spread(self, panel: Panel) -> dict[int, float]:
        """Of every class (-1 where there are none) that has two reals that differ."""
        made = _by_class(self._features(panel.images), panel.labels)
        found = {label: spread(made[label], real) for label, real in self._reals.items() if label in made}
        return {label: ratio for label, ratio in found.items() if not math.isnan(ratio)}


def _some(squares: Squares) -> Tensor:
    """Numbers of at most 512 slices, evenly spaced, so that every patient stays."""
    return torch.linspace(0, len(squares) - 1, min(AT_MOST, len(squares))).long()


def _labels(squares: Squares, present: list[int]) -> Tensor | None:
    """Of the slices that `_some` takes, where there are classes."""
    return squares.labels[_some(squares)] if present and squares.labels is not None else None


def _by_class(features: Tensor, labels: Tensor | None) -> dict[int, Tensor]:
    if labels is None:
        return {-1: features}
    return {int(label): features[labels == label] for label in labels.unique()}
