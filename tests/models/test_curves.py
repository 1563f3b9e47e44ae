"""Points to draw: against scikit-learn, and against the figures that they must add up to."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from models.evaluation import classification, curves
from models.evaluation.bootstrap import Array
from models.evaluation.curves import Truth


def ranked(count: int, seed: int, decimals: int) -> tuple[Array, Truth]:
    """Probabilities with ties, and truths that follow them loosely; fewer positives than negatives."""
    rng = np.random.default_rng(seed)
    p = np.round(rng.random(count) ** 2, decimals)
    return p, rng.random(count) < p


def test_the_trapezoid_under_the_roc_is_the_auroc_ties_and_all() -> None:
    p, y = ranked(130, 1, 1)
    found = curves.roc(p, y)
    area = np.trapezoid(found["sensitivity"], found["false_positive_rate"])
    assert area == pytest.approx(classification.auroc(p, y), abs=1e-12)
    x, ordinate, thresholds = sklearn_metrics.roc_curve(y, p, drop_intermediate=False)
    np.testing.assert_allclose(found["false_positive_rate"], x)
    np.testing.assert_allclose(found["sensitivity"], ordinate)
    np.testing.assert_allclose(found["threshold"], thresholds)


def test_the_steps_of_precision_over_recall_add_up_to_the_average_precision() -> None:
    p, y = ranked(130, 2, 2)
    found = curves.precision_recall(p, y)
    total = float((np.diff(found["recall"], prepend=0) * found["precision"]).sum())
    assert total == pytest.approx(float(classification.metrics(p, y, 0.5, np.ones((1, 130)))["average_precision"][0]))
    precision, recall, thresholds = sklearn_metrics.precision_recall_curve(y, p)
    theirs = {(round(r, 9), round(q, 9)) for r, q in zip(recall, precision, strict=True)}
    assert {(round(r, 9), round(q, 9)) for r, q in zip(found["recall"], found["precision"], strict=True)} <= theirs
    assert set(found["threshold"]) <= set(thresholds)


def test_the_calibration_error_is_the_mean_gap_of_the_bins() -> None:
    p, y = ranked(210, 3, 3)
    p[:3] = 1.0
    bins = curves.reliability(p, y)
    assert sum(each["images"] for each in bins) == 210
    gap = sum(each["images"] * abs(each["mean_probability"] - each["frequency"]) for each in bins) / 210
    assert gap == pytest.approx(float(classification.expected_calibration_error(p, y, np.ones((1, 210)))[0]), abs=1e-5)


def test_long_curves_are_thinned_and_keep_their_ends_and_their_area() -> None:
    p, y = ranked(9000, 4, 6)
    found = curves.evaluate(p, y)
    for name in ("roc", "precision_recall"):
        assert 100 < len(found[name]["threshold"]) <= curves.MOST_POINTS
    roc = found["roc"]
    assert roc["threshold"][0] is None
    assert (roc["false_positive_rate"][0], roc["sensitivity"][0]) == (0, 0)
    assert (roc["false_positive_rate"][-1], roc["sensitivity"][-1]) == (1, 1)
    area = np.trapezoid(roc["sensitivity"], roc["false_positive_rate"])
    assert area == pytest.approx(classification.auroc(p, y), abs=0.001)
    assert len(json.dumps(found, allow_nan=False)) < 20_000


def test_a_curve_that_needs_what_is_absent_is_left_out() -> None:
    p = np.array([0.1, 0.7, 0.7])
    assert set(curves.evaluate(p, np.zeros(3, bool))) == {"reliability"}
    assert set(curves.evaluate(p, np.ones(3, bool))) == {"reliability", "precision_recall"}


def test_the_operating_point_lies_on_both_curves() -> None:
    p, y = ranked(150, 5, 2)
    report = classification.evaluate(
        np.stack([1 - p, p], 1), y.astype(np.int64), [f"p{n // 6}" for n in range(150)],
        threshold=0.3, prevalence=0.2, draws=100,
    )  # fmt: skip
    told, roc = report["metrics"], report["curves"]["roc"]
    points = np.stack([roc["false_positive_rate"], roc["sensitivity"]], 1)
    point = [1 - told["specificity"]["value"], told["sensitivity"]["value"]]
    assert np.abs(points - point).sum(1).min() < 1e-5
