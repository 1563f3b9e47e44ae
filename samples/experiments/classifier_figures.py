"""What a line of classifiers found, as figures with intervals.

Each seed has tested every picture once. A figure is the mean over seeds of what the pictures of one seed give; its
interval is over patients (or groups) that are drawn anew, with the same draws for all arms, so that differences are
paired. How far seeds differ is told beside it.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from dicom_io.cohort import Cohort
from models.compare import holm, mcnemar
from models.evaluation import bootstrap, classification
from models.evaluation.bootstrap import Array
from samples.experiments.classifier_lines import PROFILES, Line, ProfileName, folds_of, seeds_of

Figures = Mapping[str, Any]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Tested:
    """All pictures as one arm tested them with one seed, in the same order for all.

    probabilities: (n, classes). called: any class but the first, by the threshold of the picture's fold.
    """

    probabilities: Array
    called: npt.NDArray[np.bool_]


# (what was tested, true classes (n,), weights (draws, n)) -> values (draws,) by name
Measure = Callable[[Tested, Labels, Array], Mapping[str, Array]]


def figures_of(
    outcomes: Sequence[Figures],
    name: str,
    line: Line,
    profile: ProfileName,
    cohort: Cohort,
    shortcuts: Mapping[str, Figures],
) -> dict[str, Any]:
    """Everything that the report says, and what each picture was taken for beneath it."""
    draws, seeds = PROFILES[profile].draws, seeds_of(line, profile)
    pictures, patients, labels = _pictures(outcomes)
    own = {arm.name: [each for each in outcomes if each["arm"] == arm.slug] for arm in line.arms}
    tested = {
        arm: [_tested([each for each in found if each["seed"] == seed], pictures) for seed in range(seeds)]
        for arm, found in own.items()
    }
    measured = _compared(tested, labels, patients, draws, _of_pictures)
    figures = {
        "experiment": name,
        "title": line.title,
        "profile": profile,
        "folds": folds_of(line, profile),
        "seeds": seeds,
        "bootstrap_draws": draws,
        "budget_cpu_minutes": line.budget_cpu_minutes,
        "spent_cpu_minutes": round(sum(each["cpu_s"] for each in outcomes) / 60, 1),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "description": cohort.description,
        "split_unit": cohort.split_unit,
        "pictures": len(labels),
        "patients": len(set(patients)),
        "classes": {label: int((labels == number).sum()) for number, label in enumerate(cohort.labels)},
        "views": dict(line.views),
        "caution": line.caution,
        "primary": line.primary,
        "least_sensitivity": line.least_sensitivity,
        "rows": [{"arm": arm} | _cost(own[arm]) | measured[arm] for arm in tested],
        "tests": _tests(tested, labels),
        "shortcuts": dict(shortcuts),
    }
    if line.subset:
        figures["subset"] = _subset(tested, labels, patients, cohort.labels[1:], draws)
    if line.pairs:
        figures["pairs"] = [{"arm": arm} | _pairs(runs, labels, patients) for arm, runs in tested.items()]
    figures["tested"] = {"pictures": pictures, "labels": labels.tolist()} | {
        arm: [each.probabilities.round(4).tolist() for each in runs] for arm, runs in tested.items()
    }
    return figures


def _pictures(outcomes: Sequence[Figures]) -> tuple[list[str], list[str], Labels]:
    """Names, patients and classes of all pictures, by name."""
    told = {
        picture: (patient, label)
        for each in outcomes
        for picture, patient, label in zip(each["pictures"], each["patients"], each["labels"], strict=True)
    }
    names = sorted(told)
    return names, [told[name][0] for name in names], np.array([told[name][1] for name in names], np.int64)


def _tested(folds: Sequence[Figures], pictures: Sequence[str]) -> Tested:
    """The folds of one arm and seed, put together.

    Raises:
        ValueError: a picture was tested twice.
    """
    rows: dict[str, tuple[Sequence[float], bool]] = {}
    for fold in folds:
        for picture, row in zip(fold["pictures"], fold["probabilities"], strict=True):
            if picture in rows:
                raise ValueError(f"{picture} was tested twice by {fold['arm']} with seed {fold['seed']}")
            rows[picture] = (row, 1 - row[0] >= fold["threshold"])
    return Tested(np.array([rows[name][0] for name in pictures]), np.array([rows[name][1] for name in pictures]))


# --- figures of all arms ------------------------------------------------------------------------------------------


def _compared(
    tested: Mapping[str, Sequence[Tested]], labels: Labels, patients: Sequence[str], draws: int, measure: Measure
) -> dict[str, dict[str, Any]]:
    """By arm: "metrics" with intervals, "by_seed", and "first_minus" with the first arm's metrics minus its own."""
    first = next(iter(tested))

    def figures(w: Array) -> dict[str, Array]:
        means = {arm: _mean([measure(run, labels, w) for run in runs]) for arm, runs in tested.items()}
        alone = {f"metrics/{arm}/{key}": value for arm, found in means.items() for key, value in found.items()}
        return alone | {
            f"first_minus/{arm}/{key}": means[first][key] - value
            for arm, found in means.items()
            if arm != first
            for key, value in found.items()
        }

    found = bootstrap.intervals(figures, patients, draws)
    once = np.ones((1, len(labels)))

    def part(name: str) -> dict[str, Any]:
        return {key.removeprefix(name): dict(value.as_json()) for key, value in found.items() if key.startswith(name)}

    return {
        arm: {
            "metrics": part(f"metrics/{arm}/"),
            "first_minus": part(f"first_minus/{arm}/"),
            "by_seed": [
                {key: round(float(value[0]), 4) for key, value in measure(run, labels, once).items()} for run in runs
            ],
        }
        for arm, runs in tested.items()
    }


def _mean(found: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    return {key: np.mean([each[key] for each in found], axis=0) for key in found[0]}


def _of_pictures(run: Tested, labels: Labels, w: Array) -> dict[str, Array]:
    """Of the most probable class; and of "any class but the first", ranked, calibrated, and at the threshold."""
    positive = labels > 0
    ranked = classification.metrics(1 - run.probabilities[:, 0], positive, 0.5, w)
    at = classification.from_confusion(**classification.confusion(run.called.astype(np.float64), positive, 0.5, w))
    return (
        _of_classes(run, labels, w)
        | {key: ranked[key] for key in ("auroc", "brier", "ece")}
        | {key: at[key] for key in ("sensitivity", "specificity")}
    )


def _of_classes(run: Tested, labels: Labels, w: Array) -> dict[str, Array]:
    classes = run.probabilities.shape[1]
    found = classification.of_classes(classification.tables(run.probabilities.argmax(1), labels, classes, w))
    kept = {key: found[key] for key in ("macro_f1", "balanced_accuracy", *(f"f1_{each}" for each in range(classes)))}
    return kept | {"accuracy": found["micro_f1"]}


def _subset(
    tested: Mapping[str, Sequence[Tested]],
    labels: Labels,
    patients: Sequence[str],
    classes: Sequence[str],
    draws: int,
) -> dict[str, Any]:
    """Which of the classes but the first, of the pictures that are of one of them."""
    kept = labels > 0
    inner = {arm: [_without_first(run, kept) for run in runs] for arm, runs in tested.items()}
    owners = [patient for patient, keep in zip(patients, kept, strict=True) if keep]
    found = _compared(inner, labels[kept] - 1, owners, draws, _of_classes)
    return {
        "pictures": int(kept.sum()),
        "classes": list(classes),
        "rows": [{"arm": arm} | found[arm] for arm in tested],
    }


def _without_first(run: Tested, kept: npt.NDArray[np.bool_]) -> Tested:
    rest = run.probabilities[kept, 1:]
    return Tested(rest / np.maximum(rest.sum(1, keepdims=True), 1e-12), run.called[kept])


# --- tests --------------------------------------------------------------------------------------------------------


def _tests(tested: Mapping[str, Sequence[Tested]], labels: Labels) -> list[dict[str, Any]]:
    """The first arm's most probable classes against each other arm's, right or wrong, of seed 0: McNemar, Holm."""
    right = {arm: runs[0].probabilities.argmax(1) == labels for arm, runs in tested.items()}
    first, *others = right
    counts = [(int((right[first] & ~right[arm]).sum()), int((right[arm] & ~right[first]).sum())) for arm in others]
    values = [mcnemar(*each) for each in counts]
    return [
        {"arm": arm, "only_first_right": better, "only_this_right": worse, "p": p, "p_holm": corrected}
        for arm, (better, worse), p, corrected in zip(others, counts, values, holm(values), strict=True)
    ]


def _pairs(runs: Sequence[Tested], labels: Labels, patients: Sequence[str]) -> dict[str, Any]:
    """Of patients with one picture of each kind, in how many the positive one has the higher probability.

    by_seed; and of the mean of the seeds' probabilities, with the exact two-sided p against chance, for which those of
    equal probabilities do not count (`told_apart` do). Both pictures are in one fold: models are never mixed.
    """
    whose = np.asarray(patients)
    couples = [
        (int(mine[labels[mine] > 0][0]), int(mine[labels[mine] == 0][0]))
        for patient in sorted(set(patients))
        for mine in [np.flatnonzero(whose == patient)]
        if len(mine) == 2 and len(set((labels[mine] > 0).tolist())) == 2
    ]
    rows = [1 - run.probabilities[:, 0] for run in runs]

    def right(row: Array) -> int:
        return sum(bool(row[positive] > row[negative]) for positive, negative in couples)

    mean = np.mean(rows, axis=0)
    told_apart = sum(bool(mean[positive] != mean[negative]) for positive, negative in couples)
    return {
        "patients": len(couples),
        "by_seed": [right(row) for row in rows],
        "right": right(mean),
        "told_apart": told_apart,
        "p": float(stats.binomtest(right(mean), told_apart, 0.5).pvalue) if told_apart else None,
    }


def _cost(outcomes: Sequence[Figures]) -> dict[str, Any]:
    """chosen: setting -> in how many folds it was chosen. images_seen, parameters: of each training; None of a fit."""
    chosen: dict[str, int] = {}
    for each in outcomes:
        chosen[each["chosen"]] = chosen.get(each["chosen"], 0) + 1
    return {
        "images_seen": outcomes[0]["images_seen"],
        "parameters": outcomes[0]["parameters"],
        "cpu_s": round(sum(each["cpu_s"] for each in outcomes), 1),
        "chosen": {} if outcomes[0]["parameters"] else dict(sorted(chosen.items())),
        "warnings": sorted({warning for each in outcomes for warning in each["warnings"]}),
    }
