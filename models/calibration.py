"""What is fixed on validation, once a network has learned: temperature, and the threshold of the operating point."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import Tensor


def fixed_on(logits: Tensor, judged: Tensor, least_sensitivity: float | None) -> tuple[float, float]:
    """Temperature and threshold by the logits of validation and its class numbers: `fit_temperature`,
    `operating_point`."""
    temperature = fit_temperature(logits, judged)
    suspicion = (1 - torch.softmax(logits / temperature, 1)[:, 0]).numpy()
    return temperature, operating_point(suspicion, (judged > 0).numpy(), least_sensitivity)


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Temperature T of softmax(logits / T) by maximum a posteriori (Guo 2017, with ln T ~ N(0, 1)).

    The prior weighs as much as one image: it keeps a handful of separable validation images from claiming certainty.
    """

    def cost(log_temperature: float) -> float:
        scaled = logits.double() / np.exp(log_temperature)
        return float(F.cross_entropy(scaled, labels, reduction="sum")) + log_temperature**2 / 2

    return float(np.exp(minimize_scalar(cost, bounds=(-3.0, 3.0), method="bounded").x))


def operating_point(probabilities: np.ndarray, positive: np.ndarray, least_sensitivity: float | None) -> float:
    """The highest threshold that calls this share of the positives, or for None `youden_threshold`.

    0.5 where no positive is there. Midway to the next lower probability, as there.
    """
    if least_sensitivity is None or not positive.any():
        return youden_threshold(probabilities, positive)
    values = np.sort(probabilities[positive])
    # So many positives may lie below; a little slack, for shares such as 0.95 have no exact float.
    missed = int(np.floor((1 - least_sensitivity) * len(values) + 1e-9))
    last = values[missed]
    below = probabilities[probabilities < last]
    return float((last + below.max()) / 2) if len(below) else float(last)


def youden_threshold(probabilities: np.ndarray, positive: np.ndarray) -> float:
    """The threshold of the best sensitivity + specificity (Youden 1950), midway to the next lower probability.

    0.5 where only one kind is there.
    """
    if positive.all() or not positive.any():
        return 0.5
    values = np.unique(probabilities)
    cuts = np.concatenate([[values[0]], (values[1:] + values[:-1]) / 2])
    at_least = probabilities[None, :] >= cuts[:, None]
    youden = at_least[:, positive].mean(1) - at_least[:, ~positive].mean(1)
    return float(cuts[youden.argmax()])
