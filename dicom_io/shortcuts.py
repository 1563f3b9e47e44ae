"""Shortcuts: how well what has nothing to do with the disease tells the classes of a cohort apart.

A network that can read the class from a picture's size, its black border or the scanner's name learns that, and fails
elsewhere (Zech et al., PLOS Medicine 2018; Geirhos et al., Nature Machine Intelligence 2020). For each family of such
nuisance features a small decision tree is trained and tested by cross-validation that keeps patients together:

    B   balanced accuracy, the mean over the classes of the share that is recognised; 1/K by chance for K classes
    A   area under the ROC curve, one class against the rest, mean over the classes; 0.5 by chance

with 95 % intervals by a bootstrap of patients (Efron and Tibshirani 1993, percentiles). A family is `suspicious` where
the lower end of the interval of A, over all classes or of one, is above chance by `MARGIN`, or that of B by as large a
share of its way from chance to 1. It is a reason to look, not a proof: intensity can be the disease itself, and so can
the position of a slice in a body that is imaged whole. What the tree cannot read, a network may still read.

Classes are those of the items, or those of the slices where slices are labelled. Synthetic items stay out.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.tree import DecisionTreeClassifier

from dicom_io import border
from dicom_io.cohort import SPLITS, Cohort, Item, load_image
from dicom_io.errors import Rejected
from dicom_io.volume import Float32, Float64, Volume

Unit = Literal["item", "slice"]
Ints = npt.NDArray[np.int64]
Progress = Callable[[int, int, str], None]
# One example's values of one family: numbers, or words that become one column each.
_Row = Mapping[str, float | str]

# A tree of four questions holds a threshold or two per column, and cannot learn examples by heart.
_DEPTH, _SMALLEST_LEAF, _LEAF_SHARE = 4, 3, 0.01
_FOLDS, _RESAMPLES, _SEED = 5, 400, 20240
# Above chance: less is what small imbalances between sites give, and what no network would prefer to the disease.
MARGIN = 0.1

FAMILIES = {
    "size": "rows, columns and their ratio",
    "file": "format, size and colour mode of the file before import (provenance 'file')",
    "border": "share of constant border on each side, and its value",
    "spacing": "distance between slices, rows and columns in mm",
    "slices": "number of slices",
    "scanner": "manufacturer and model (provenance 'scanner')",
    "place": "where the middle of the volume lies in the patient coordinate system, and how large it is, in mm",
    "position": "where the slice lies in its volume: index from either end, share of the length",
    "intensity": "least, greatest and mean value, their spread and percentiles, without regard to place",
}


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Shortcut:
    """What one family of nuisance features says about the class.

    examples, patients: that had a value. auroc: mean over the classes. auroc_of: each class against the rest.
    """

    family: str
    what: str
    examples: int
    patients: int
    balanced_accuracy: Estimate
    auroc: Estimate
    auroc_of: Mapping[str, Estimate]
    suspicious: bool


@dataclass(frozen=True)
class Shortcuts:
    """unit: what is classified. chance: balanced accuracy of guessing. majority: accuracy of always saying the most
    frequent class. not_measured: family -> why.
    """

    unit: Unit
    classes: tuple[str, ...]
    examples: int
    patients: int
    chance: float
    majority: float
    measured: tuple[Shortcut, ...]
    not_measured: Mapping[str, str]

    @property
    def suspicious(self) -> tuple[Shortcut, ...]:
        return tuple(each for each in self.measured if each.suspicious)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, eq=False)
class _Example:
    patient: str
    label: int
    rows: Mapping[str, _Row]


def _silent(done: int, total: int, what: str) -> None:
    """Tells nobody."""


def report(cohort: Cohort, *, progress: Progress = _silent) -> Shortcuts:
    """Measure every family on all real items of a cohort.

    Raises:
        Rejected: the cohort has no labels, only one class, or a class that too few patients have to be tested.
    """
    items = [item for split in SPLITS for item in cohort.splits.get(split, ()) if not item.synthetic]
    unit = _unit(cohort, items)
    examples: list[_Example] = []
    for done, item in enumerate(items):
        progress(done, len(items), "images to measure")
        examples.extend(_examples(cohort, item, unit))
    progress(len(items), len(items), "images to measure")
    labels = np.array([example.label for example in examples])
    patients = np.unique([example.patient for example in examples], return_inverse=True)[1]
    names = _testable(cohort, labels, patients)
    measured, not_measured = [], {}
    for family in FAMILIES:
        columns = _columns([example.rows.get(family, {}) for example in examples])
        why_not = _why_not(columns)
        if why_not:
            not_measured[family] = why_not
        else:
            measured.append(_shortcut(family, columns, labels, patients, names))
    return Shortcuts(
        unit=unit,
        classes=names,
        examples=len(labels),
        patients=len(np.unique(patients)),
        chance=1 / len(names),
        majority=float(np.bincount(labels).max() / len(labels)),
        measured=tuple(measured),
        not_measured=not_measured,
    )


def _unit(cohort: Cohort, items: Sequence[Item]) -> Unit:
    if items and all(item.label is not None for item in items):
        return "item"
    if items and all(item.slice_labels for item in items):
        return "slice"
    raise Rejected(
        f"cohort {cohort.name!r} has real items without a label, so nothing can be said of shortcuts to it; "
        "give every item a label, or every slice one"
    )


def _testable(cohort: Cohort, labels: Ints, patients: Ints) -> tuple[str, ...]:
    """Names of the classes that occur; every one must be there in at least two patients."""
    found = np.unique(labels)
    if len(found) < 2:
        raise Rejected(
            f"cohort {cohort.name!r} has {len(found)} class in its real items; shortcuts need two to tell apart"
        )
    for label in found:
        if len(np.unique(patients[labels == label])) < 2:
            raise Rejected(
                f"cohort {cohort.name!r}: class {cohort.labels[label]!r} has a single patient, and one cannot both "
                "teach and test; add others, or take the class out"
            )
    return tuple(cohort.labels[label] for label in found)


# --- features -----------------------------------------------------------------------------------------------------


def _examples(cohort: Cohort, item: Item, unit: Unit) -> Iterator[_Example]:
    image = load_image(cohort, item)
    voxels = image.voxels if isinstance(image, Volume) else image.pixels[:, None]
    of_item = _of_item(item, image if isinstance(image, Volume) else None, voxels)
    if unit == "item":
        assert item.label is not None
        middle = voxels[0, voxels.shape[1] // 2]
        rows = of_item | {"border": _border(middle), "intensity": _intensity(voxels)}
        yield _Example(item.patient, item.label, rows)
        return
    for index, label in enumerate(item.slice_labels):
        plane = voxels[:, index]
        rows = of_item | {
            "border": _border(plane[0]),
            "intensity": _intensity(plane),
            "position": _position(index, len(item.slice_labels)),
        }
        yield _Example(item.patient, label, rows)


def _of_item(item: Item, volume: Volume | None, voxels: Float32) -> dict[str, _Row]:
    slices, rows, columns = voxels.shape[-3:]
    spacing = item.geometry.get("spacing_mm")
    found: dict[str, _Row] = {
        "size": {"rows": rows, "columns": columns, "ratio": rows / columns},
        "file": _words(item.provenance.get("file")),
        "scanner": _words(item.provenance.get("scanner")),
    }
    if spacing:
        found["spacing"] = {f"spacing {axis}": float(step) for axis, step in enumerate(spacing)}
    if volume is not None:
        found["slices"] = {"slices": slices}
        middle = volume.position_mm([(side - 1) / 2 for side in volume.spatial_shape])
        extent = np.array(volume.spatial_shape) * volume.spacing_mm
        found["place"] = {f"middle {axis}": float(x) for axis, x in zip("LPS", middle, strict=True)} | {
            f"extent {axis}": float(x) for axis, x in enumerate(extent)
        }
    return found


def _words(stated: Any) -> _Row:
    """A mapping from provenance; numbers stay numbers. Another form, such as a hash of the scanner, is one word."""
    if not stated:
        return {}
    stated = stated if isinstance(stated, Mapping) else {"it": stated}
    return {str(name): value if isinstance(value, (int, float)) else str(value) for name, value in stated.items()}


def _border(picture: Float32) -> _Row:
    sides = zip(("above", "below", "left", "right"), border.margins(picture), strict=True)
    return {name: float(share) for name, share in sides} | {"value": border.value(picture)}


def _intensity(values: Float32) -> _Row:
    """values: (channels, ...)."""
    found: dict[str, float | str] = {}
    for channel, each in enumerate(values):
        for percentile, value in zip((0, 5, 50, 95, 100), np.percentile(each, (0, 5, 50, 95, 100)), strict=True):
            found[f"{channel} percentile {percentile}"] = float(value)
        found |= {f"{channel} mean": float(each.mean()), f"{channel} spread": float(each.std())}
    return found


def _position(index: int, slices: int) -> _Row:
    return {
        "from the first": index,
        "from the last": slices - 1 - index,
        "from the nearer end": min(index, slices - 1 - index),
        "share": index / max(slices - 1, 1),
    }


def _columns(rows: Sequence[_Row]) -> Float64:
    """(examples, columns): numbers as they are, a column of 0 and 1 for each word that occurs; NaN where not stated."""
    names = sorted({name for row in rows for name in row})
    columns: list[list[float]] = []
    for name in names:
        values = [row.get(name) for row in rows]
        words = sorted({value for value in values if isinstance(value, str)})
        if words:
            columns += [[np.nan if value is None else float(str(value) == word) for value in values] for word in words]
        else:
            columns.append([np.nan if value is None else float(value) for value in values])
    return np.array(columns, np.float64).reshape(len(columns), len(rows)).T


def _why_not(columns: Float64) -> str:
    if not np.isfinite(columns).any():
        return "nothing states it"
    if all(len(np.unique(column)) == 1 for column in columns.T):
        return "the same in all items"
    return ""


# --- measurement --------------------------------------------------------------------------------------------------


def _shortcut(family: str, columns: Float64, labels: Ints, patients: Ints, names: Sequence[str]) -> Shortcut:
    coded = np.unique(labels, return_inverse=True)[1]
    probabilities = _out_of_fold(columns, coded, patients, len(names))
    balanced, auroc, of_class = _estimates(probabilities, coded, patients)
    stated = np.isfinite(columns).any(axis=1)
    chance = 1 / len(names)
    areas = max(each.low for each in (auroc, *of_class))
    return Shortcut(
        family=family,
        what=FAMILIES[family],
        examples=int(stated.sum()),
        patients=len(np.unique(patients[stated])),
        balanced_accuracy=balanced,
        auroc=auroc,
        auroc_of=dict(zip(names, of_class, strict=True)),
        # From 0.5 to 1 is the way that A can go; B is held to the same share of its own.
        suspicious=areas > 0.5 + MARGIN or (balanced.low - chance) / (1 - chance) > 2 * MARGIN,
    )


def _out_of_fold(columns: Float64, labels: Ints, patients: Ints, classes: int) -> Float64:
    """(examples, classes) probability of each class from a tree that saw no example of the same patient."""
    least = min(len(np.unique(patients[labels == label])) for label in range(classes))
    probabilities = np.full((len(labels), classes), 1 / classes)
    folds = StratifiedGroupKFold(min(_FOLDS, least), shuffle=True, random_state=_SEED)
    with warnings.catch_warnings():
        # Where few patients hold a class a fold may lack it; then that fold says less, and nothing is wrong.
        warnings.filterwarnings("ignore", message="The least populated class")
        parts = list(folds.split(columns, labels, patients))
    for teach, test in parts:
        tree = DecisionTreeClassifier(
            max_depth=_DEPTH,
            min_samples_leaf=max(_SMALLEST_LEAF, int(_LEAF_SHARE * len(teach))),
            class_weight="balanced",
            random_state=_SEED,
        ).fit(columns[teach], labels[teach])
        found = np.zeros((len(test), classes))
        found[:, tree.classes_] = tree.predict_proba(columns[test])
        probabilities[test] = found
    return probabilities


def _estimates(probabilities: Float64, labels: Ints, patients: Ints) -> tuple[Estimate, Estimate, list[Estimate]]:
    """Balanced accuracy, mean area and area of each class, each with the interval over resampled patients."""
    ranks = [_Ranks.of(probabilities[:, label], labels == label) for label in range(probabilities.shape[1])]
    right = probabilities.argmax(axis=1) == labels
    rng = np.random.default_rng(_SEED)
    count = int(patients.max()) + 1
    drawn = [np.bincount(rng.integers(0, count, count), minlength=count)[patients] for _ in range(_RESAMPLES)]
    weightings = [np.ones(len(labels)), *drawn]
    balanced = np.array([_balanced(right, labels, weights) for weights in weightings])
    areas = np.array([[one.area(weights) for one in ranks] for weights in weightings])
    held = areas[np.isfinite(areas).all(axis=1)]  # a sample that lacks a class has no area
    return _interval(balanced), _interval(held.mean(axis=1)), [_interval(column) for column in held.T]


def _interval(values: Float64) -> Estimate:
    """values: of the cohort itself, then of each sample."""
    low, high = np.percentile(values[1:], (2.5, 97.5))
    return Estimate(float(values[0]), float(low), float(high))


def _balanced(right: npt.NDArray[np.bool_], labels: Ints, weights: npt.NDArray[Any]) -> float:
    """Mean share that is right over the classes that the sample holds."""
    total = np.bincount(labels, weights)
    correct = np.bincount(labels, weights * right)
    return float((correct[total > 0] / total[total > 0]).mean())


@dataclass(frozen=True, eq=False)
class _Ranks:
    """Examples in order of their score, so that the area for other weights costs no sorting.

    starts: where each run of equal scores begins.
    """

    order: Ints
    positive: Float64
    starts: Ints

    @classmethod
    def of(cls, scores: Float64, positive: npt.NDArray[np.bool_]) -> _Ranks:
        order = np.argsort(scores, kind="stable")
        ordered = scores[order]
        starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        return cls(order, positive[order].astype(np.float64), starts)

    def area(self, weights: npt.NDArray[Any]) -> float:
        """Weighted chance that a positive example scores higher than a negative one, equal scores counting half."""
        ordered = weights[self.order]
        above = np.add.reduceat(ordered * self.positive, self.starts)
        below = np.add.reduceat(ordered * (1 - self.positive), self.starts)
        lower = np.cumsum(below) - below
        pairs = float(above.sum() * below.sum())
        return float((above * (lower + below / 2)).sum()) / pairs if pairs else np.nan
