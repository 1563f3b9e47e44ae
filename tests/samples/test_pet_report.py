"""The report of the sarcoma experiment: figures by hand, and sentences that say no more than the figures."""

from __future__ import annotations

import json

import numpy as np
import pytest

from samples.experiments.pet_report import MASKS, SCORES, Outcome, Plan, figures_of, report_of

FIXED, SHARE, BOX, ELLIPSOID = MASKS
HOTTEST, DISTANCE = SCORES
PLAN = Plan(patients=20, deal=5, folds=5, seeds=2, total_images=100)


def outcome(
    number: int, model: float, rules: float, *, slices: float = 0.9, slice_rules: float = 0.8, **changes: object
) -> Outcome:
    """model, rules: Dice of the model (mean over two seeds, 0.02 apart) and of all rules; slices: likewise AUROC."""
    fields = {
        "patient": f"STS_{number:03d}",
        "fold": number % 5,
        "dice": dict.fromkeys(MASKS, rules),
        "sensitivity": dict.fromkeys(MASKS, rules / 2),
        "slice_auroc": dict.fromkeys(SCORES, slice_rules),
        "model_dice": (model - 0.01, model + 0.01),
        "model_sensitivity": (model / 2, model / 2),
        "model_slice_auroc": (slices - 0.02, slices + 0.02),
        "model_slice_sensitivity": (0.6, 0.8),
        "model_slice_specificity": (0.5, 0.7),
    }
    return Outcome(**fields | changes)


def report(outcomes: list[Outcome]) -> str:
    return report_of(figures_of(outcomes, PLAN), outcomes, PLAN, "full")


def verdicts(outcomes: list[Outcome]) -> list[str]:
    return [line for line in report(outcomes).splitlines() if line.startswith("- In ")]


VARIED = np.linspace(-0.05, 0.05, 12)


def test_figures_are_means_over_patients_of_means_over_seeds():
    figures = figures_of([outcome(1, 0.6, 0.5), outcome(2, 0.9, 0.4), outcome(3, 0.6, 0.3)], PLAN)
    assert figures["patients"] == 3
    assert figures["dice"]["model"]["value"] == pytest.approx(0.7)
    assert figures["dice"][BOX]["value"] == pytest.approx(0.4)
    assert figures["dice_difference"][BOX]["value"] == pytest.approx(0.3)
    assert figures["dice_by_seed"] == [0.69, 0.71]
    assert figures["sensitivity"]["model"]["value"] == pytest.approx(0.35)
    assert figures["sensitivity"][SHARE]["value"] == pytest.approx(0.2)
    assert figures["slice_auroc"]["model"]["value"] == pytest.approx(0.9)
    assert figures["slice_auroc_by_seed"] == [0.88, 0.92]
    assert figures["slice_auroc_difference"][DISTANCE]["value"] == pytest.approx(0.1)
    assert figures["slice_sensitivity"]["value"] == pytest.approx(0.7)
    assert figures["slice_specificity"]["value"] == pytest.approx(0.6)
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures


def test_each_method_is_compared_with_its_own_figures():
    one = outcome(1, 0.6, 0.5, dice={FIXED: 0.1, SHARE: 0.2, BOX: 0.7, ELLIPSOID: 0.75})
    two = outcome(2, 0.8, 0.5, dice={FIXED: 0.3, SHARE: 0.2, BOX: 0.7, ELLIPSOID: 0.65})
    figures = figures_of([one, two], PLAN)
    differences = {name: round(figures["dice_difference"][name]["value"], 6) for name in MASKS}
    assert differences == {FIXED: 0.5, SHARE: 0.5, BOX: 0.0, ELLIPSOID: 0.0}


def test_differences_are_paired_so_that_what_patients_share_does_not_widen_them():
    # Patients differ by 0.6 in Dice, the model is better by 0.05 to 0.07 in each.
    outcomes = [outcome(n, 0.2 + 0.05 * n + 0.05 + 0.002 * (n % 10), 0.2 + 0.05 * n) for n in range(12)]
    figures = figures_of(outcomes, PLAN)
    whole, paired = figures["dice"]["model"], figures["dice_difference"][FIXED]
    assert whole["high"] - whole["low"] > 0.15
    assert 0.04 < paired["low"] < paired["value"] < paired["high"] < 0.08


def test_a_model_that_is_better_in_every_patient_is_called_better():
    said = verdicts([outcome(n, 0.7 + v, 0.5 - v) for n, v in enumerate(VARIED)])
    assert said[: len(MASKS)] == [f"- In Dice the model is better than *{name}*." for name in MASKS]


def test_a_model_that_is_worse_in_every_patient_is_called_worse():
    outcomes = [outcome(n, 0.3 + v, 0.5, slices=0.6 + v, slice_rules=0.95) for n, v in enumerate(VARIED)]
    assert verdicts(outcomes) == [
        *(f"- In Dice the model is worse than *{name}*." for name in MASKS),
        *(f"- In slice AUROC the model is worse than *{name}*." for name in SCORES),
    ]


@pytest.mark.parametrize("rules", [0.499, 0.501])
def test_a_difference_whose_interval_holds_zero_is_not_called_one(rules):
    said = verdicts([outcome(n, 0.5 + v, rules) for n, v in enumerate(VARIED)])
    assert said[: len(MASKS)] == [f"- In Dice the model is not shown to differ from *{name}*." for name in MASKS]


def test_each_verdict_is_about_its_own_baseline():
    outcomes = [
        outcome(n, 0.6 + v, 0.5, dice={FIXED: 0.2, SHARE: 0.6, BOX: 0.9, ELLIPSOID: 0.2}) for n, v in enumerate(VARIED)
    ]
    words = [line.removeprefix("- In Dice the model ").split(" *")[0] for line in verdicts(outcomes)[: len(MASKS)]]
    assert words == ["is better than", "is not shown to differ from", "is worse than", "is better than"]


def test_one_patient_is_too_few_for_a_verdict_however_large_the_difference():
    said = verdicts([outcome(1, 0.95, 0.1)])
    assert said == [
        *(f"- In Dice the model cannot be compared (too few patients) with *{name}*." for name in MASKS),
        *(f"- In slice AUROC the model cannot be compared (too few patients) with *{name}*." for name in SCORES),
    ]


def test_a_patient_without_both_kinds_of_slices_is_left_out_of_the_auroc_alone():
    undefined = outcome(
        3,
        0.9,
        0.5,
        slice_auroc=dict.fromkeys(SCORES, float("nan")),
        model_slice_auroc=(float("nan"), float("nan")),
        model_slice_specificity=(float("nan"), float("nan")),
    )
    figures = figures_of([outcome(1, 0.6, 0.5), outcome(2, 0.6, 0.5), undefined], PLAN)
    assert figures["slice_auroc"]["model"]["value"] == pytest.approx(0.9)
    assert figures["slice_auroc_by_seed"] == [0.88, 0.92]
    assert figures["slice_specificity"]["value"] == pytest.approx(0.6)
    assert figures["dice"]["model"]["value"] == pytest.approx(0.7)
    json.dumps(figures, allow_nan=False)


@pytest.mark.filterwarnings("ignore:Mean of empty slice")
def test_figures_that_are_undefined_for_all_are_said_to_be_so():
    nan = float("nan")
    lonely = outcome(1, 0.6, 0.5, slice_auroc=dict.fromkeys(SCORES, nan), model_slice_auroc=(nan, nan))
    text = report([lonely, lonely])
    assert "| ResNet, most suspicious 16 px window | undefined | |" in text
    assert f"In slice AUROC the model cannot be compared (too few patients) with *{HOTTEST}*." in text


def test_the_report_names_plan_methods_and_each_patient_once_in_order():
    outcomes = [outcome(3, 0.61, 0.5), outcome(1, 0.72, 0.25), outcome(2, 0.83, 0.5)]
    text = report(outcomes)
    assert text.startswith("# Sarcomas on FDG PET\n")
    assert "Profile `full`: 20 patients, 5 of 5 folds by patient, 2 seeds, 3 held-out patients" in text
    rows = [line for line in text.splitlines() if line.startswith("| STS_")]
    assert rows == [
        "| STS_001 | 2 | 0.720 | 0.250 | 0.250 | 0.250 | 0.250 |",
        "| STS_002 | 3 | 0.830 | 0.500 | 0.500 | 0.500 | 0.500 |",
        "| STS_003 | 4 | 0.610 | 0.500 | 0.500 | 0.500 | 0.500 |",
    ]
    for name in (*MASKS, *SCORES):
        assert f"| {name} | " in text
    assert "Nothing here is for clinical use." in text


def test_an_interval_stands_behind_each_mean():
    text = report([outcome(n, 0.7 + v, 0.5) for n, v in enumerate(VARIED)])
    row = next(line for line in text.splitlines() if line.startswith("| U-Net, 16 px windows |"))
    mean, low, high = (float(part.strip("()")) for part in row.split("|")[2].replace(" to ", " ").split())
    assert low < mean == 0.7 < high
