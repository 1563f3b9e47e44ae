"""Frechet distance (FD) of two sets of features, as if each were Gaussian, beside the distance of real from real.

D. C. Dowson and B. V. Landau, "The Frechet distance between multivariate normal distributions", J. Multivariate Anal.
12, 1982; between features of samples and of reals: M. Heusel et al., "GANs trained by a two time-scale update rule",
NeurIPS 2017 (there of a network of photographs, so no figure here compares with an FID). All in float64.

The estimate grows as images get fewer, so both sides, and both halves of the floor, have the same number of them. A
full covariance of d features needs 2 d images; below that only its diagonal is used, and the report says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from models.evaluation import bootstrap
from models.evaluation.subsets import evenly, halvings

Covariance = Literal["full", "diagonal"]
HALVINGS = 50


def covariance_of(images: int, dimensions: int) -> Covariance:
    """Which covariance so many images can carry."""
    return "full" if images >= 2 * dimensions else "diagonal"


def distance(x: Tensor, y: Tensor, covariance: Covariance) -> float:
    """|m_x - m_y|^2 + tr(S_x + S_y - 2 (S_x S_y)^(1/2)) of features (n, d) (Dowson and Landau 1982).

    diagonal: features are taken for independent, and the trace becomes the squared difference of deviations.

    Raises:
        ValueError: full, of fewer than 2 d images.
    """
    if covariance == "full" and covariance_of(min(len(x), len(y)), x.shape[1]) == "diagonal":
        raise ValueError(f"{min(len(x), len(y))} images are too few for a covariance of {x.shape[1]} features")
    x, y = x.double(), y.double()
    apart = (x.mean(0) - y.mean(0)).square().sum()
    if covariance == "diagonal":
        return float(apart + (x.std(0) - y.std(0)).square().sum())
    s_x, s_y = _covariance(x), _covariance(y)
    # The trace of (S_x S_y)^(1/2) is the sum of singular values of S_x^(1/2) S_y^(1/2), which has no complex roots.
    cross = torch.linalg.svdvals(_root(s_x) @ _root(s_y)).sum()
    return float(apart + s_x.trace() + s_y.trace() - 2 * cross)


def _covariance(features: Tensor) -> Tensor:
    centred = features - features.mean(0)
    return centred.T @ centred / (len(features) - 1)


def _root(symmetric: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(symmetric)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T


def evaluate(
    made: Tensor,
    seen: Tensor,
    unseen: Tensor,
    patients: Sequence[str],
    controls: Mapping[str, Tensor],
    *,
    draws: int,
) -> dict[str, Any]:
    """FD of samples to held-out and to training images, over that of two halves of the patients of the same size.

    made, seen, unseen: features (n, d) of samples, training and held-out images. patients: of `seen`, then `unseen`.
    controls: features of the held-out images made worse. `floor`: mean and 95 % range over halvings; `ratio`: FD to
    held-out over the floor's mean, None where a control is not farther than the floor's upper end.
    """
    halves = list(halvings(patients, min(draws, HALVINGS)))
    count = min([len(made), len(unseen), len(seen), *(len(half) for pair in halves for half in pair)])
    covariance = covariance_of(count, made.shape[1])

    def between(x: Tensor, y: Tensor) -> float:
        return distance(x[evenly(len(x), count)], y[evenly(len(y), count)], covariance)

    real = torch.cat([seen, unseen])
    drawn = np.array([between(real[a], real[b]) for a, b in halves])
    floor = bootstrap.interval(float(drawn.mean()) if len(drawn) else np.nan, drawn)
    far = {name: between(features, unseen) for name, features in controls.items()}
    to_held_out = between(made, unseen)
    usable = all(value > floor.high for value in far.values())
    return {
        "to_held_out": round(to_held_out, 6),
        "to_training": round(between(made, seen), 6),
        "floor": floor.as_json(),
        "ratio": round(to_held_out / floor.value, 3) if usable else None,
        "controls": {name: round(value, 6) for name, value in far.items()},
        "usable": usable,
        "covariance": covariance,
        "images_each": count,
    }
