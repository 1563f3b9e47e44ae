"""What a classifier's figures are made of, as points to draw: ROC, precision over recall, reliability.

Of the same p and y, with ties taken together, as `models.evaluation.classification` has them: the trapezoid under the
whole ROC is the AUROC, the sum of (recall step) * precision the average precision, and the bins are those of the
calibration error. Curves of more than `MOST_POINTS` are thinned, which moves the trapezoid by less than 0.01.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from models.evaluation.bootstrap import Array

Truth = npt.NDArray[np.bool_]
BINS = 10
MOST_POINTS = 200


def evaluate(p: Array, y: Truth) -> dict[str, Any]:
    """p: (n,) probability of being positive; y: (n,). A curve that needs the kind of images that is absent is left out.

    roc: threshold, false_positive_rate and sensitivity, from (0, 0) at no threshold (null) to (1, 1).
    precision_recall: threshold, recall and precision, wherever recall grows. reliability: of each bin that is not empty
    low, high, images, mean_probability and frequency.
    """
    found: dict[str, Any] = {"reliability": reliability(p, y)}
    if y.any():
        found["precision_recall"] = _points(precision_recall(p, y), along="recall")
        if not y.all():
            found["roc"] = _points(roc(p, y), along="both")
    return found


def roc(p: Array, y: Truth) -> dict[str, Array]:
    """A point for each threshold that is some image's probability, and one above all."""
    threshold, positive, negative = _called(p, y)
    none_yet = ((np.inf, threshold), (0.0, positive), (0.0, negative))
    threshold, positive, negative = (np.concatenate([[start], each]) for start, each in none_yet)
    false_positive_rate, sensitivity = negative / negative[-1], positive / positive[-1]
    return {"threshold": threshold, "false_positive_rate": false_positive_rate, "sensitivity": sensitivity}


def precision_recall(p: Array, y: Truth) -> dict[str, Array]:
    """A point for each threshold that calls more of the positives than the one above."""
    threshold, positive, negative = _called(p, y)
    grows = np.diff(positive, prepend=0) > 0
    precision = positive / (positive + negative)
    return {"threshold": threshold[grows], "recall": positive[grows] / positive[-1], "precision": precision[grows]}


def _called(p: Array, y: Truth) -> tuple[Array, Array, Array]:
    """Thresholds from the highest, and how many positives and negatives each of them calls positive."""
    threshold, number = np.unique(-p, return_inverse=True)
    positive, negative = (np.bincount(number, kind.astype(np.float64), len(threshold)) for kind in (y, ~y))
    return -threshold, np.cumsum(positive), np.cumsum(negative)


def reliability(p: Array, y: Truth) -> list[dict[str, float]]:
    """The bins of `classification.expected_calibration_error`, which is the mean of their gaps, weighted by images."""
    number = np.minimum((p * BINS).astype(int), BINS - 1)
    return [
        {
            "low": each / BINS,
            "high": (each + 1) / BINS,
            "images": int((number == each).sum()),
            "mean_probability": round(float(p[number == each].mean()), 6),
            "frequency": round(float(y[number == each].mean()), 6),
        }
        for each in np.unique(number).tolist()
    ]


def _points(curve: dict[str, Array], along: str) -> dict[str, list[float | None]]:
    """As JSON, thinned evenly along the way: of the ROC in both axes, or steep parts would be lost."""
    way = curve["recall"] if along == "recall" else curve["false_positive_rate"] + curve["sensitivity"]
    kept = _thinned(way)
    return {
        name: [None if np.isinf(value) else round(float(value), 6) for value in values[kept]]
        for name, values in curve.items()
    }


def _thinned(way: Array) -> npt.NDArray[np.int64]:
    """Numbers of at most `MOST_POINTS` points; way: ascending."""
    if len(way) <= MOST_POINTS:
        return np.arange(len(way))
    wanted = np.linspace(way[0], way[-1], MOST_POINTS)
    return np.unique(np.searchsorted(way, wanted).clip(0, len(way) - 1))
