"""Do samples look real, and do they cover what is real? Counted by balls around each image, to its k-th neighbour.

Precision and recall: T. Kynkaanniemi et al., "Improved precision and recall metric for assessing generative models",
NeurIPS 2019. Density and coverage, which a single outlier moves less: M. F. Naeem et al., "Reliable fidelity and
diversity metrics for generative models", ICML 2020. Their sizes depend on the number of images, so both sides have the
same, and real images of other patients, judged in the same way, say what can be reached.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from models.evaluation.subsets import evenly

K = 5


def radii(features: Tensor, k: int = K) -> Tensor:
    """(n,): distance of each of (n, d) to its k-th nearest other."""
    return torch.cdist(features, features).kthvalue(k + 1, dim=1).values


def precision(real: Tensor, made: Tensor, k: int = K) -> float:
    """Share of samples inside the ball of any real."""
    return float((torch.cdist(made, real) <= radii(real, k)).any(1).double().mean())


def recall(real: Tensor, made: Tensor, k: int = K) -> float:
    """Share of reals inside the ball of any sample."""
    return precision(made, real, k)


def density(real: Tensor, made: Tensor, k: int = K) -> float:
    """Mean over samples of the balls of reals that they lie in, over k; may pass 1."""
    return float((torch.cdist(made, real) <= radii(real, k)).sum(1).double().mean() / k)


def coverage(real: Tensor, made: Tensor, k: int = K) -> float:
    """Share of reals with a sample in their ball."""
    return float((torch.cdist(real, made).min(1).values <= radii(real, k)).double().mean())


FIGURES = {"precision": precision, "recall": recall, "density": density, "coverage": coverage}


def evaluate(made: Tensor, seen: Tensor, unseen: Tensor) -> dict[str, Any]:
    """The four figures of samples, and of training images, against held-out images: features (n, d).

    `samples` and `training` hold None where there are too few images for k neighbours.
    """
    count = min(len(made), len(seen), len(unseen))
    real = unseen[evenly(len(unseen), count)]

    def of(features: Tensor) -> Mapping[str, float | None]:
        chosen = features[evenly(len(features), count)]
        return {name: round(figure(real, chosen), 4) if count > K else None for name, figure in FIGURES.items()}

    return {"k": K, "images_each": count, "samples": of(made), "training": of(seen)}
