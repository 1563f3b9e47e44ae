"""Lesion figures against counts by hand and scikit-image; thresholds and classes against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from skimage import measure
from sklearn import metrics as sklearn_metrics

from models.calibration import operating_point, youden_threshold
from models.evaluation import classification, lesions


def masks(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(3, 13, 3))
    smooth = ndimage.gaussian_filter(rng.standard_normal(shape), 1)
    other = ndimage.gaussian_filter(smooth + 0.6 * rng.standard_normal(shape), 0.6)
    return other > np.quantile(smooth, 0.8), smooth > np.quantile(smooth, 0.85)


def test_a_lesion_is_found_by_one_voxel_and_lesions_touch_by_corners():
    truth, ours = np.zeros((3, 6, 8), bool), np.zeros((3, 6, 8), bool)
    truth[0, 0, 0] = truth[1, 1, 1] = True  # one, by a corner
    truth[0, 5, 7] = True
    truth[2, 4:6, 3:6] = True
    ours[1, 1, 1] = True
    ours[2, 0, 4] = True  # none
    ours[2, 5, 5] = ours[2, 4, 6] = True  # one, half outside
    found = lesions.figures(ours, truth, (3.0, 1.0, 1.0))
    assert found["lesion_recall"] == pytest.approx(2 / 3) and found["lesion_precision"] == pytest.approx(2 / 3)
    assert found["lesion_f1"] == pytest.approx(2 / 3)
    assert found["absolute_volume_difference"] == pytest.approx(5 / 9)
    # 0.003 ml a voxel: of 2, of 1 and of 6.
    assert lesions.by_size(ours, truth, 0.1) == {
        "below 0.05 ml": (0, 0),
        "0.05 to 0.5 ml": (1, 2),
        "0.5 ml and more": (1, 1),
    }


def test_without_lesions_nothing_is_missed_and_nothing_is_wrong():
    none, some = np.zeros((2, 3, 4), bool), np.zeros((2, 3, 4), bool)
    some[0, 0, 0] = True
    both = lesions.figures(none, none, (1, 1, 1))
    assert both["lesion_recall"] == both["lesion_precision"] == both["lesion_f1"] == 1
    assert np.isnan(both["absolute_volume_difference"]) and np.isnan(both["h95_in_plane_mm"])
    missed = lesions.figures(none, some, (1, 1, 1))
    assert (missed["lesion_recall"], missed["lesion_precision"], missed["lesion_f1"]) == (0, 1, 0)
    assert missed["absolute_volume_difference"] == 1


@pytest.mark.parametrize("seed", range(12))
def test_lesions_and_edges_are_those_of_another_library_and_of_a_count_by_hand(seed):
    ours, truth = masks(seed)
    spacing = np.random.default_rng(seed).uniform(0.7, 4, 3)
    numbered = [measure.label(mask, connectivity=3) for mask in (ours, truth)]
    recall = len(np.unique(numbered[1][ours & truth])) / numbered[1].max()
    precision = len(np.unique(numbered[0][ours & truth])) / numbered[0].max()
    found = lesions.figures(ours, truth, spacing)
    assert (found["lesion_recall"], found["lesion_precision"]) == pytest.approx((recall, precision))

    points = [np.array(edge(mask)) * spacing for mask in (ours, truth)]
    apart = np.linalg.norm(points[0][:, None] - points[1][None], axis=2)
    expected = max(np.percentile(apart.min(1), 95), np.percentile(apart.min(0), 95))
    assert found["h95_in_plane_mm"] == pytest.approx(expected, rel=1e-12)


def edge(mask: np.ndarray) -> list[tuple[int, int, int]]:
    """Voxels with one of their eight neighbours in the slice outside the mask; outside the image nothing counts."""
    return [
        (at, row, column)
        for at, row, column in np.argwhere(mask).tolist()
        if not mask[at, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2].all()
    ]


# Classes and operating points.


def test_figures_of_classes_are_those_of_scikit_learn():
    rng = np.random.default_rng(3)
    labels, called = rng.integers(0, 4, 200), rng.integers(0, 4, 200)
    called[:120] = labels[:120]
    found = classification.of_classes(classification.tables(called, labels, 4, np.ones((1, 200))))
    values = {name: float(value[0]) for name, value in found.items()}
    assert values["macro_f1"] == pytest.approx(sklearn_metrics.f1_score(labels, called, average="macro"))
    assert values["micro_f1"] == pytest.approx(sklearn_metrics.f1_score(labels, called, average="micro"))
    assert values["balanced_accuracy"] == pytest.approx(sklearn_metrics.balanced_accuracy_score(labels, called))
    precision, recall, f1, _ = sklearn_metrics.precision_recall_fscore_support(labels, called)
    for number in range(4):
        assert [values[f"{name}_{number}"] for name in ("precision", "sensitivity", "f1")] == pytest.approx(
            [precision[number], recall[number], f1[number]]
        )


def test_classes_of_another_cohort_are_not_counted_by_number():
    rng = np.random.default_rng(5)
    probabilities = rng.dirichlet((1, 1, 1), 20)
    labels, patients = rng.integers(0, 4, 20), [f"p{number}" for number in range(20)]
    common = {"threshold": 0.5, "prevalence": 0.5, "draws": 100}
    report = classification.evaluate(probabilities, labels, patients, **common, by_class=False)
    assert "by_class" not in report and "confusion_by_class" not in report
    report = classification.evaluate(probabilities, labels % 3, patients, **common)
    assert np.sum(report["confusion_by_class"]) == 20


def test_a_class_that_is_neither_there_nor_called_counts_for_nothing():
    found = classification.of_classes(
        classification.tables(np.array([0, 1, 1]), np.array([0, 1, 0]), 3, np.ones((1, 3)))
    )
    assert np.isnan(found["f1_2"][0]) and found["macro_f1"][0] == pytest.approx(2 / 3)


@pytest.mark.parametrize("least", [0.5, 0.8, 0.95, 1.0])
def test_the_operating_point_is_the_highest_threshold_that_is_sensitive_enough(least):
    rng = np.random.default_rng(4)
    positive = rng.random(400) < 0.3
    probabilities = np.clip(0.3 * positive + rng.random(400) * 0.7, 0, 1)
    threshold = operating_point(probabilities, positive, least)
    assert (probabilities[positive] >= threshold).mean() >= least
    higher = np.sort(probabilities[probabilities >= threshold])[1]
    kept = probabilities[positive & (probabilities >= higher)]
    dropped = positive[probabilities >= threshold].sum() - len(kept)
    assert dropped == 0 or len(kept) / positive.sum() < least


def test_without_a_wanted_sensitivity_or_positives_the_threshold_is_as_it_was():
    probabilities, positive = np.array([0.1, 0.4, 0.6, 0.9]), np.array([False, False, True, True])
    assert operating_point(probabilities, positive, None) == youden_threshold(probabilities, positive) == 0.5
    assert operating_point(probabilities, np.zeros(4, bool), 0.95) == 0.5
