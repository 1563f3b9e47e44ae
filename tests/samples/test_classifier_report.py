"""The report of a line of classifiers: figures against scikit-learn's, and sentences that say no more than they do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from dicom_io.cohort import Channel, Cohort, SplitUnit
from samples.experiments.classifier_figures import figures_of
from samples.experiments.classifier_lines import Arm, Line
from samples.experiments.classifier_report import needed, report_of

CLASSES = ("none", "one", "two")
LABELS = np.array([0, 1, 2, 1, 0, 2, 2, 1, 0, 0, 1, 2] * 4)
ARMS = (Arm("net", "view"), Arm("edges", "view", "gradients"), Arm("shares", "view", "shares"))


def cohort(unit: SplitUnit = "near-duplicate group", classes: tuple[str, ...] = CLASSES) -> Cohort:
    channels = (Channel("picture", "MR", "1"),)
    return Cohort(Path(), "toy", "classification", classes, channels, {}, unit, "24 groups among 48 pictures")


def line(**changes: Any) -> Line:
    usual = {"folds": 2, "seeds": 2, "primary": "macro_f1", "caution": "Toys.", "subset": True}
    return Line("Toys", lambda *_: None, {"view": "all of it"}, ARMS, **usual | changes)


def outcome(arm: Arm, seed: int, fold: int, probabilities: np.ndarray, labels: np.ndarray = LABELS) -> dict[str, Any]:
    """Half of the pictures; two neighbours are of one patient."""
    mine = [number for number in range(len(labels)) if number // 2 % 2 == fold]
    return {
        "arm": arm.slug,
        "seed": seed,
        "fold": fold,
        "pictures": [f"{number:02d}.nii.gz" for number in mine],
        "patients": [f"P{number // 2:02d}" for number in mine],
        "labels": labels[mine].tolist(),
        "probabilities": probabilities[mine].tolist(),
        "threshold": 0.5 + 0.2 * fold,
        "chosen": "C 0.1",
        "images_seen": None if arm.baseline else 640,
        "parameters": None if arm.baseline else 4000,
        "cpu_s": 3.0,
        "warnings": [],
    }


def guesses(sharpness: float, seed: int, labels: np.ndarray = LABELS, classes: int = 3) -> np.ndarray:
    logits = sharpness * np.eye(classes)[labels] + np.random.default_rng(seed).normal(size=(len(labels), classes))
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def outcomes(sharp: float = 2.0, edges: float = 0.5) -> list[dict[str, Any]]:
    return [
        outcome(arm, seed, fold, guesses(sharpness, 10 * seed))
        for arm, sharpness in zip(ARMS, (sharp, edges, 0.0), strict=True)
        for seed in range(2)
        for fold in range(2)
    ]


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    return figures_of(outcomes(), "toy", line(), "full", cohort(), {})


def row(figures: dict[str, Any], arm: str) -> dict[str, Any]:
    (found,) = [each for each in figures["rows"] if each["arm"] == arm]
    return found


def test_figures_are_the_mean_over_seeds_of_what_scikit_learn_gives(figures):
    for arm, sharpness in (("net", 2.0), ("edges", 0.5)):
        told = [guesses(sharpness, 10 * seed) for seed in range(2)]
        macro = [f1_score(LABELS, each.argmax(1), average="macro") for each in told]
        areas = [roc_auc_score(LABELS > 0, 1 - each[:, 0]) for each in told]
        found = row(figures, arm)
        assert found["metrics"]["macro_f1"]["value"] == pytest.approx(np.mean(macro), abs=1e-6)
        assert found["metrics"]["auroc"]["value"] == pytest.approx(np.mean(areas), abs=1e-6)
        assert [each["macro_f1"] for each in found["by_seed"]] == pytest.approx(macro, abs=1e-4)
        assert found["metrics"]["accuracy"]["low"] < found["metrics"]["accuracy"]["value"]


def test_a_picture_is_called_by_the_threshold_of_its_own_fold(figures):
    cuts = np.where(np.arange(len(LABELS)) // 2 % 2, 0.7, 0.5)
    shares = [
        ((1 - guesses(2.0, 10 * seed)[:, 0] >= cuts) & (LABELS > 0)).sum() / (LABELS > 0).sum() for seed in (0, 1)
    ]
    assert row(figures, "net")["metrics"]["sensitivity"]["value"] == pytest.approx(np.mean(shares), abs=1e-6)


def test_which_class_it_is_counts_pictures_of_one_alone_and_leaves_the_first_class_out(figures):
    kept = LABELS > 0
    called = [guesses(2.0, 10 * seed)[kept, 1:].argmax(1) for seed in range(2)]
    wanted = np.mean([f1_score(LABELS[kept] - 1, each, average="macro") for each in called])
    assert figures["subset"]["pictures"] == kept.sum() == 32
    assert figures["subset"]["rows"][0]["metrics"]["macro_f1"]["value"] == pytest.approx(wanted, abs=1e-6)


def test_differences_are_of_the_first_arm_and_paired(figures):
    net, edges = row(figures, "net"), row(figures, "edges")
    apart = edges["first_minus"]["macro_f1"]
    value, other = (each["metrics"]["macro_f1"]["value"] for each in (net, edges))
    assert apart["value"] == pytest.approx(value - other, abs=2e-6)
    assert net["first_minus"] == {}
    same = figures_of(outcomes(edges=2.0), "toy", line(), "full", cohort(), {})
    assert set(row(same, "edges")["first_minus"]["macro_f1"].values()) == {0.0}


@pytest.mark.parametrize(
    ("sharp", "edges", "words"),
    [(6.0, 0.0, "is better than"), (0.0, 6.0, "is worse than"), (1.0, 1.0, "is not shown to differ from")],
)
def test_a_difference_is_called_one_only_where_its_interval_says_so(sharp, edges, words):
    report = report_of(figures_of(outcomes(sharp, edges), "toy", line(), "full", cohort(), {}))
    assert f"- In macro F1 *net* {words} *edges*." in report


def test_a_picture_that_was_tested_twice_is_an_error():
    twice = [*outcomes(), outcomes()[0]]
    with pytest.raises(ValueError, match="was tested twice by net with seed 0"):
        figures_of(twice, "toy", line(), "full", cohort(), {})


def test_the_report_says_what_keeps_pictures_together(figures):
    report = report_of(figures)
    assert "2 folds by groups of near-duplicates (patients are not known: slices of one may lie in two folds)" in report
    assert (
        "none of ImageNet were at hand" in report and "Toys." in report and "Nothing here is for clinical use" in report
    )
    for arm in ARMS:
        assert f"| {arm.name} | " in report
    by_patient = figures_of(outcomes(), "toy", line(), "full", cohort("patient"), {})
    assert "2 folds by patients. 2 seed(s)" in report_of(by_patient)


# Pairs within a patient


def test_pairs_are_those_of_patients_with_one_picture_of_each_kind_and_equal_ones_do_not_count():
    # Patients of (0, 1), (1, 1), (1, 0), (0, 0), (0, 1), (0, 1).
    labels = np.array([0, 1, 1, 1, 1, 0, 0, 0, 0, 1, 0, 1])
    suspicion = np.array([0.2, 0.9, 0.5, 0.5, 0.1, 0.8, 0.4, 0.4, 0.3, 0.6, 0.5, 0.5])
    both = np.stack([1 - suspicion, suspicion], 1)
    found = figures_of(
        [outcome(arm, seed, fold, both, labels) for arm in ARMS for seed in range(2) for fold in range(2)],
        "toy",
        line(primary="auroc", subset=False, pairs=True),
        "full",
        cohort("patient", ("normal", "abnormal")),
        {},
    )
    net = found["pairs"][0]
    assert (net["patients"], net["by_seed"], net["right"], net["told_apart"]) == (4, [2, 2], 2, 3)
    assert net["p"] == pytest.approx(1.0)
    assert "## Within a patient: 4 have one picture of each kind" in report_of(found)


def test_what_so_few_pairs_can_show_is_said_in_numbers():
    # 2 * 0.5 ** 8 = 0.008 and 2 * 9 * 0.5 ** 8 = 0.07; 0.025 ** (1 / 8) = 0.63.
    assert needed(8).startswith("With 8 pairs, 8 must be right to be told from chance (p < 0.05)")
    assert "from 0.63 to 1.00 (95 %, exact)" in needed(8)
    assert needed(5) == "With 5 pairs nothing can be told from chance, not even if all are right."
