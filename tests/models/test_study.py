"""From pictures to studies: rules in closed form, calibration against known odds, the way through a training."""

from __future__ import annotations

import numpy as np
import pytest

from dicom_io.cohort import Item
from models import study, version
from models.evaluate import evaluate
from models.reports import figures
from models.reports.parts import markdown
from models.study import Reading, StudyRule, fixed_on, score, study_of


def rule(name: str, share: float = 0.1) -> StudyRule:
    return StudyRule(rule=name, share=share)


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (rule("highest"), 0.9),
        (rule("mean"), 0.32),
        (rule("upper mean", 0.4), 0.65),
        (rule("upper mean", 0.01), 0.9),
        (rule("upper mean", 1.0), 0.32),
    ],
)
def test_each_rule_counts_the_pictures_that_it_says(chosen, expected):
    assert score(chosen, [0.1, 0.4, 0.9, 0.2, 0.0]) == pytest.approx(expected)


def drawn(studies: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Pictures of studies, of which the highest suspicion overstates: true odds are those of the score, by 2, less."""
    rng = np.random.default_rng(seed)
    suspicions, positive, names = [], [], []
    for number in range(studies):
        pictures = int(rng.integers(2, 9))
        values = rng.uniform(0.02, 0.98, pictures)
        odds = 0.5 * np.log(values.max() / (1 - values.max())) - 1.0
        ill = rng.random() < 1 / (1 + np.exp(-odds))
        suspicions += values.tolist()
        positive += [bool(ill and value == values.max()) for value in values]
        names += [f"study {number}"] * pictures
    return np.array(suspicions), np.array(positive), names


def test_many_studies_calibrate_a_score_to_the_frequencies_that_made_them():
    reading = fixed_on(rule("highest"), *drawn(20000), None)
    assert reading is not None and reading.studies == 20000
    assert reading.slope == pytest.approx(0.5, abs=0.08)
    assert reading.intercept == pytest.approx(-1.0, abs=0.15)
    assert reading.probability([0.1, 0.5]) == pytest.approx(1 / (1 + np.e), abs=0.03)


def test_a_handful_of_studies_that_can_be_told_apart_claims_no_certainty():
    suspicions = np.array([0.99, 0.2, 0.98, 0.3, 0.01, 0.02, 0.03, 0.01])
    names = [f"study {number // 2}" for number in range(8)]
    reading = fixed_on(rule("highest"), suspicions, suspicions > 0.9, names, None)
    assert reading is not None
    assert 0.8 < reading.probability([0.99, 0.2]) < 0.999
    assert reading.probability([0.03, 0.01]) < reading.threshold < reading.probability([0.98, 0.3])


def test_the_threshold_reaches_the_wanted_share_of_positive_studies():
    suspicions, positive, names = drawn(300, seed=4)
    reading = fixed_on(rule("highest"), suspicions, positive, names, 0.9)
    assert reading is not None
    found = [
        reading.probability(each) >= reading.threshold
        for each, truth in zip(
            study.in_studies(suspicions, names).values(),
            study.in_studies(positive.astype(float), names).values(),
            strict=True,
        )
        if truth.any()
    ]
    assert 0.9 <= np.mean(found) < 0.94


def test_studies_of_one_picture_need_no_rule():
    assert fixed_on(rule("mean"), np.array([0.2, 0.7]), np.array([False, True]), ["a", "b"], None) is None


def test_where_a_cohort_does_not_tell_studies_apart_the_patient_is_one():
    at = {"study": "S1"}
    assert study_of(Item(("x",), "p", provenance=at)) != study_of(Item(("x",), "p", provenance={"study": "S2"}))
    assert study_of(Item(("x",), "p")) == study_of(Item(("y",), "p")) != study_of(Item(("y",), "q"))


def test_a_training_leaves_how_studies_are_read_and_the_evaluation_measures_them(classification_run):
    run, cohort, _ = classification_run
    reading = version.load(run).description.study
    assert isinstance(reading, Reading) and reading.rule == "highest"
    assert reading.studies == len(cohort.validation)
    report = evaluate(run, cohort, draws=200)
    whole = report["by_study"]
    assert whole["images"] == len(cohort.test) < report["images"]
    assert whole["threshold"] == reading.threshold
    told = "\n".join(markdown(figures.parts(report)))
    assert "Studies, each by the highest of its pictures, calibrated on 2 studies of validation:" in told
    assert f"{len(cohort.test)} studies of {len(cohort.test)} test patients" in told
