"""Classification: ranking, calibration, and everything that follows from one confusion matrix at one threshold.

Symbols: p (n,) probability of being positive (any class but the first), y (n,) truth, w (draws, n) weights. Each
function gives one value per draw, nan where it is undefined.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from models.evaluation import bootstrap, curves, groups
from models.evaluation.bootstrap import Array
from models.evaluation.curves import BINS, Truth

# What is told of each group of patients.
OF_GROUPS = ("auroc", "sensitivity", "specificity")


def auroc(p: Array, y: Truth) -> float:
    """Area under the ROC curve of unweighted data, ties counted half; nan where one kind is absent."""
    return float(_auroc(p, y, np.ones((1, len(p))))[0])


def _auroc(p: Array, y: Truth, w: Array) -> Array:
    order, starts = _tied(p)
    positive = np.add.reduceat((w * y)[:, order], starts, axis=1)
    negative = np.add.reduceat((w * ~y)[:, order], starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative
    pairs = positive.sum(1) * negative.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(pairs > 0, (positive * (below + negative / 2)).sum(1) / pairs, np.nan)


def _average_precision(p: Array, y: Truth, w: Array) -> Array:
    """Sum over thresholds of (recall step) * precision."""
    order, starts = _tied(-p)
    positive = np.add.reduceat((w * y)[:, order], starts, axis=1)
    called = np.cumsum(np.add.reduceat(w[:, order], starts, axis=1), axis=1)
    total = positive.sum(1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(called > 0, np.cumsum(positive, axis=1) / called, 0.0)
        return np.where(total[:, 0] > 0, (positive / total * precision).sum(1), np.nan)


def _tied(p: Array) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Ascending order, and where each group of equal values starts in it."""
    order = np.argsort(p, kind="stable")
    return order, np.flatnonzero(np.concatenate([[True], np.diff(p[order]) != 0]))


def _brier(p: Array, y: Truth, w: Array) -> Array:
    return w @ (p - y) ** 2 / w.sum(1)


def expected_calibration_error(p: Array, y: Truth, w: Array) -> Array:
    """Ten bins of equal width: mean distance between confidence and frequency, weighted by the bins' sizes."""
    in_bin = np.eye(BINS)[np.minimum((p * BINS).astype(int), BINS - 1)]
    return np.abs((w * (p - y)) @ in_bin).sum(1) / w.sum(1)


def confusion(p: Array, y: Truth, threshold: float, w: Array) -> dict[str, Array]:
    """The four (weighted) counts at one threshold, from which every other figure below follows."""
    called = p >= threshold
    cells = {"tp": called & y, "fp": called & ~y, "fn": ~called & y, "tn": ~called & ~y}
    return {name: w @ cell.astype(np.float64) for name, cell in cells.items()}


def from_confusion(tp: Array, fp: Array, fn: Array, tn: Array) -> dict[str, Array]:
    """Sensitivity, specificity, precision, F1, accuracy and balanced accuracy of one matrix.

    macro_f1: the mean of the F1 of positives and of negatives. The micro F1 of two classes is the accuracy.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        sensitivity, specificity = tp / (tp + fn), tn / (tn + fp)
        return {
            "sensitivity": sensitivity,
            "specificity": specificity,
            "precision": tp / (tp + fp),
            "f1": 2 * tp / (2 * tp + fp + fn),
            "macro_f1": tp / (2 * tp + fp + fn) + tn / (2 * tn + fp + fn),
            "accuracy": (tp + tn) / (tp + fp + fn + tn),
            "balanced_accuracy": (sensitivity + specificity) / 2,
        }


def metrics(p: Array, y: Truth, threshold: float, w: Array) -> dict[str, Array]:
    """All figures, (draws,) each."""
    ranking = {"auroc": _auroc(p, y, w), "average_precision": _average_precision(p, y, w)}
    calibration = {"brier": _brier(p, y, w), "ece": expected_calibration_error(p, y, w)}
    return ranking | calibration | from_confusion(**confusion(p, y, threshold, w))


def evaluate(
    probabilities: Array,
    labels: npt.NDArray[np.int64],
    patients: Sequence[str],
    *,
    threshold: float,
    prevalence: float,
    draws: int,
    by_class: bool = True,
    stated: Sequence[Mapping[str, str]] = (),
) -> dict[str, Any]:
    """The report of a classifier on images that it has not seen.

    probabilities: (n, classes). labels: (n,). by_class: whether labels are numbers of these classes, so that more than
    "any class but the first" can be told. prevalence: share of positives in training; the trivial baseline says it
    for every image. stated: of each image its groups, by kind. `difference` is ours minus the baseline's, with the same
    draws.
    """
    p, y = 1 - probabilities[:, 0].astype(np.float64), labels > 0
    constant = np.full(len(p), prevalence)

    def both(w: Array) -> dict[str, Array]:
        ours, theirs = metrics(p, y, threshold, w), metrics(constant, y, 0.5, w)
        apart = {f"difference.{name}": ours[name] - theirs[name] for name in ("auroc", "average_precision", "brier")}
        return (
            {f"model.{name}": ours[name] for name in ours}
            | {f"baseline.{name}": theirs[name] for name in theirs}
            | apart
        )

    found = bootstrap.intervals(both, patients, draws)
    matrix = confusion(p, y, threshold, np.ones((1, len(p))))

    def part(prefix: str) -> dict[str, Any]:
        return {name.split(".")[1]: value.as_json() for name, value in found.items() if name.startswith(prefix)}

    report: dict[str, Any] = {
        "images": len(p),
        "patients": len(set(patients)),
        "prevalence": round(float(y.mean()), 4),
        "threshold": threshold,
        "confusion": {name: int(value[0]) for name, value in matrix.items()},
        "curves": curves.evaluate(p, y),
        "metrics": part("model."),
        "baseline": {
            "name": f"the training prevalence, {prevalence:.3f}, for every image",
            "metrics": part("baseline."),
        },
        "difference": part("difference."),
        "per_patient": _per_patient(p, y, patients, threshold),
        "primary": {"metric": "auroc", "baseline": 0.5} | dict(found["model.auroc"].as_json()),
        "beats_baseline": bool(found["difference.auroc"].low > 0),
    }
    if probabilities.shape[1] > 2 and by_class:
        called = probabilities.argmax(1)
        classes = probabilities.shape[1]
        report["confusion_by_class"] = (
            tables(called, labels, classes, np.ones((1, len(labels))))[0].astype(int).tolist()
        )
        several = bootstrap.intervals(lambda w: of_classes(tables(called, labels, classes, w)), patients, draws)
        report["by_class"] = {name: value.as_json() for name, value in several.items()}

    def of_group(chosen: groups.Chosen) -> dict[str, bootstrap.Interval]:
        def told(w: Array) -> dict[str, Array]:
            figures = metrics(p[chosen], y[chosen], threshold, w)
            return {name: figures[name] for name in OF_GROUPS}

        return bootstrap.intervals(told, np.asarray(patients)[chosen].tolist(), draws)

    return report | {"groups": groups.evaluate(stated, patients, of_group)}


def tables(
    called: npt.NDArray[np.int64], labels: npt.NDArray[np.int64], classes: int, w: Array
) -> npt.NDArray[np.float64]:
    """(draws, classes, classes): weighted counts by truth and by the most probable class."""
    cells = np.eye(classes * classes)[labels * classes + called]
    counted: npt.NDArray[np.float64] = (w @ cells).reshape(-1, classes, classes)
    return counted


def of_classes(table: npt.NDArray[np.float64]) -> dict[str, Array]:
    """Of the most probable class, from confusion tables (draws, classes, classes).

    sensitivity, precision and F1 of each class, by its number; macro_f1, the mean over classes that are there or are
    called; micro_f1, which is the accuracy where each image has one class; balanced_accuracy, the mean sensitivity of
    classes that are there.
    """
    right = np.diagonal(table, axis1=1, axis2=2)
    there, called = table.sum(2), table.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        f1 = np.where(there + called > 0, 2 * right / (there + called), np.nan)
        sensitivity, precision = right / there, right / called
        micro = right.sum(1) / table.sum((1, 2))
    found = {"macro_f1": np.nanmean(f1, 1), "micro_f1": micro, "balanced_accuracy": np.nanmean(sensitivity, 1)}
    for number in range(table.shape[1]):
        found |= {f"sensitivity_{number}": sensitivity[:, number], f"precision_{number}": precision[:, number]}
        found[f"f1_{number}"] = f1[:, number]
    return found


def _per_patient(p: Array, y: Truth, patients: Sequence[str], threshold: float) -> list[Mapping[str, Any]]:
    whose = np.asarray(patients)
    lines: list[Mapping[str, Any]] = []
    for patient in sorted(set(patients)):
        mine = whose == patient
        matrix = confusion(p[mine], y[mine], threshold, np.ones((1, int(mine.sum()))))
        area = auroc(p[mine], y[mine])
        cells = {name: int(value[0]) for name, value in matrix.items()}
        told = {"patient": patient, "images": int(mine.sum()), "auroc": None if np.isnan(area) else area} | cells
        lines.append(told | {"highest_probability": round(float(p[mine].max()), 6)})
    return lines
