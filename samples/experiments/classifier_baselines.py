"""What is said of a picture without a network: what its file says, how bright it is, where its edges run, or nothing.

Each baseline learns on training, takes the setting whose probabilities are nearest to the truth on validation (Brier),
and meets the test pictures once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from skimage.feature import hog
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from dicom_io.cohort import Cohort, Item, load_image
from dicom_io.volume import Float64, Projection

_SEED = 20261130
_LEAST_LEAF = 3
_PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
_DEPTHS = (1, 2, 3, 4, 6, 8)
Features = Callable[[Cohort, Sequence[Item]], Float64]


@dataclass(frozen=True, eq=False)
class Said:
    """(n, classes) probabilities of the pictures of validation and test; chosen: the setting, in words, "" for none."""

    validation: Float64
    test: Float64
    chosen: str


def shares(cohort: Cohort) -> Said:
    """The share of each class in training, for every picture."""
    counts = np.bincount(_labels(cohort.training), minlength=len(cohort.labels))
    row = counts / counts.sum()
    return Said(np.tile(row, (len(cohort.validation), 1)), np.tile(row, (len(cohort.test), 1)), "")


def size_alone(cohort: Cohort) -> Said:
    """A decision tree on width and height of the file, their ratio, and whether it is grey or in colours."""
    return _chosen(_TREES, _of_size, cohort)


def file_alone(cohort: Cohort) -> Said:
    """A decision tree on the same, the bytes of the file, and bytes per pixel."""
    return _chosen(_TREES, _of_file, cohort)


def gradients(cohort: Cohort) -> Said:
    """Logistic regression on histograms of oriented gradients (Dalal and Triggs, CVPR 2005)."""
    return _chosen(_REGRESSIONS, _of_gradients, cohort)


def brightness(cohort: Cohort) -> Said:
    """Logistic regression on the breast's area, the mean and spread of its grey levels, and its dense share."""
    return _chosen(_REGRESSIONS, _of_breast, cohort)


BASELINES: Mapping[str, Callable[[Cohort], Said]] = {
    "shares": shares,
    "size": size_alone,
    "file": file_alone,
    "gradients": gradients,
    "brightness": brightness,
}


def _regression(penalty: float) -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression(C=penalty, max_iter=3000))


_TREES: Mapping[str, Callable[[], Any]] = {
    f"depth {depth}": partial(DecisionTreeClassifier, max_depth=depth, min_samples_leaf=_LEAST_LEAF, random_state=_SEED)
    for depth in _DEPTHS
}
_REGRESSIONS: Mapping[str, Callable[[], Any]] = {f"C {each:g}": partial(_regression, each) for each in _PENALTIES}


def _chosen(candidates: Mapping[str, Callable[[], Any]], features: Features, cohort: Cohort) -> Said:
    training, validation, test = (
        features(cohort, items) for items in (cohort.training, cohort.validation, cohort.test)
    )
    truth = np.eye(len(cohort.labels))[_labels(cohort.validation)]
    fitted = {words: make().fit(training, _labels(cohort.training)) for words, make in candidates.items()}
    told = {words: _probabilities(model, validation, len(cohort.labels)) for words, model in fitted.items()}
    best = min(told, key=lambda words: float(((told[words] - truth) ** 2).sum()))
    return Said(told[best], _probabilities(fitted[best], test, len(cohort.labels)), best)


def _probabilities(model: Any, features: Float64, classes: int) -> Float64:
    """(n, classes); a class that training did not have gets 0."""
    found = np.zeros((len(features), classes))
    found[:, model.classes_] = model.predict_proba(features)
    return found


def _labels(items: Sequence[Item]) -> np.ndarray:
    return np.array([item.label for item in items], np.int64)


def _of_size(cohort: Cohort, items: Sequence[Item]) -> Float64:
    files = [item.provenance["file"] for item in items]
    sides = [(file["width"], file["height"]) for file in files]
    rows = [(*side, side[0] / side[1], file["mode"] == "L") for side, file in zip(sides, files, strict=True)]
    return np.array(rows, np.float64)


def _of_file(cohort: Cohort, items: Sequence[Item]) -> Float64:
    files = [item.provenance["file"] for item in items]
    weights = [(file["bytes"], file["bytes"] / (file["width"] * file["height"])) for file in files]
    return np.hstack([_of_size(cohort, items), np.array(weights, np.float64)])


def _of_gradients(cohort: Cohort, items: Sequence[Item]) -> Float64:
    return np.array([hog(_pixels(cohort, item), orientations=9, pixels_per_cell=(8, 8)) for item in items], np.float64)


def _of_breast(cohort: Cohort, items: Sequence[Item]) -> Float64:
    return np.array(
        [[item.provenance["breast"][name] for name in ("area", "mean", "spread", "dense")] for item in items]
    )


def _pixels(cohort: Cohort, item: Item) -> np.ndarray:
    image = load_image(cohort, item)
    assert isinstance(image, Projection)
    return np.asarray(image.pixels[0])
