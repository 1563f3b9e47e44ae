"""What a classifier is told and shown: losses of soft labels, images in pairs, slices by class."""

# torch leaves Tensor.unique without types.
# mypy: disallow-untyped-calls=False

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from scipy.special import betaincinv
from torch import Tensor

from models import cases
from models.cases import Case
from models.classification_recipe import ClassificationLoss
from models.predictor_parts import Windows
from models.training.windows import Slices


def loss_of(settings: ClassificationLoss, logits: Tensor, wanted: Tensor, weights: Tensor | None) -> Tensor:
    """The mean over images of cross-entropy, focal where the recipe says so.

    logits, wanted: (B, classes), wanted as shares that add up to 1. weights: (classes,), None weighs all alike.
    """
    each = F.cross_entropy(logits, wanted, reduction="none", label_smoothing=settings.label_smoothing)
    if settings.focal_gamma:
        right = (wanted * torch.softmax(logits, 1)).sum(1)
        # Where nothing is left to learn, a root has a slope without bound.
        each = each * (1 - right).clamp_min(1e-6) ** settings.focal_gamma
    if weights is not None:
        each = each * (wanted @ weights.to(wanted))
    return each.mean()


def class_weights(labels: Tensor, classes: int) -> Tensor:
    """(classes,) n / (classes that are there * n of the class); 0 of a class that is not."""
    counts = torch.bincount(labels, minlength=classes).float()
    return torch.where(counts > 0, len(labels) / ((counts > 0).sum() * counts.clamp_min(1)), 0.0)


def mixed(images: Tensor, wanted: Tensor, alpha: float, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Each image with another of the batch, in shares of the law Beta(alpha, alpha), and so what is wanted of them."""
    if not alpha:
        return images, wanted
    level = torch.rand(len(images), generator=draw, dtype=torch.float64)
    share = torch.from_numpy(betaincinv(alpha, alpha, level.numpy())).to(images)
    other = torch.randperm(len(images), generator=draw).to(images.device)
    of_images, of_wanted = share.reshape(-1, *[1] * (images.ndim - 1)), share[:, None].to(wanted)
    return images[other].lerp(images, of_images), wanted[other].lerp(wanted, of_wanted)


class Whole:
    """Whole slices and projections. count: how many of the cases are drawn from; balanced: every class that is there as
    often, else every slice.

    Raises:
        Rejected: the chain left images of different sizes, here or among the cases that are not drawn from.
    """

    def __init__(self, every: Sequence[Case], count: int, *, balanced: bool = False) -> None:
        cases.one_size(every)
        self._images, labels, _ = cases.one_size(every[:count])
        assert labels is not None
        self._labels = labels
        self._of_class = [torch.nonzero(labels == label)[:, 0] for label in labels.unique()] if balanced else []

    def draw(self, count: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        """(count, C, rows, columns) images and (count,) class numbers."""
        if not self._of_class:
            chosen = torch.randint(len(self._images), (count,), generator=draw)
            return self._images[chosen], self._labels[chosen]
        which = torch.randint(len(self._of_class), (count,), generator=draw).tolist()
        within = torch.rand(count, generator=draw).tolist()
        pairs = zip(which, within, strict=True)
        chosen = torch.stack([self._of_class[one][int(at * len(self._of_class[one]))] for one, at in pairs])
        return self._images[chosen], self._labels[chosen]


class Windowed:
    """Random windows of slices; a window has the largest class number that its mask holds."""

    def __init__(self, training: Sequence[Case], settings: Windows) -> None:
        self._slices = Slices(training)
        self._settings = settings

    def draw(self, count: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        """(count, C, window, window) images and (count,) class numbers."""
        images, masks = self._slices.windows(self._settings, count, draw)
        return images, masks.flatten(1).amax(1)
