"""Figures of groups of patients: each of its own patients, and none where there are too few."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dicom_io import cohort as cohorts
from models.evaluate import evaluate
from models.evaluation import classification, groups, segmentation
from models.evaluation.segmentation import Pair

SCANNERS = ("A One", "B Two")


def test_a_model_that_fails_on_one_scanner_is_found_by_its_group_and_not_by_its_mean() -> None:
    rng = np.random.default_rng(1)
    patients = [f"p{n:02d}" for n in np.repeat(np.arange(16), 10)]
    stated = [{"scanner": SCANNERS[int(name[1:]) >= 10], "sex": "F"} for name in patients]
    bad = np.array([each["scanner"] == SCANNERS[1] for each in stated])
    y = rng.random(160) < 0.4
    p = np.where(bad, rng.random(160), 0.15 + 0.5 * y + 0.3 * rng.random(160))
    report = classification.evaluate(
        np.stack([1 - p, p], 1), y.astype(np.int64), patients, threshold=0.5, prevalence=0.4, draws=200, stated=stated
    )
    assert set(report["groups"]) == {"scanner"}
    good, poor = (report["groups"]["scanner"][name] for name in SCANNERS)
    assert (good["patients"], good["observations"], poor["patients"], poor["observations"]) == (10, 100, 6, 60)
    assert good["metrics"]["auroc"]["value"] == classification.auroc(p[~bad], y[~bad]) == 1.0
    assert poor["metrics"]["auroc"]["value"] == pytest.approx(classification.auroc(p[bad], y[bad]), abs=1e-6)
    assert poor["metrics"]["auroc"]["high"] < 0.8 < report["metrics"]["auroc"]["value"]


def test_groups_of_too_few_patients_are_counted_and_not_measured() -> None:
    patients = [f"p{n}" for n in range(9) for _ in range(3)]
    stated = [{"sex": "F"} if n < 5 else {"sex": "M"} if n < 8 else {} for n in range(9) for _ in range(3)]
    found = groups.evaluate(stated, patients, lambda chosen: {})
    assert list(found["sex"]) == ["F", "M", groups.NOT_STATED]
    assert found["sex"]["F"] == {"patients": 5, "observations": 15, "metrics": {}}
    assert found["sex"]["M"] == {"patients": 3, "observations": 9, "metrics": None}
    assert found["sex"][groups.NOT_STATED]["patients"] == 1


def test_where_nothing_is_stated_there_are_no_groups() -> None:
    assert groups.evaluate([], ["a", "b"], lambda chosen: {}) == {}
    assert groups.evaluate([{}, {}], ["a", "b"], lambda chosen: {}) == {}


def test_dice_of_a_group_is_the_mean_over_its_patients_of_the_cases_in_it() -> None:
    truth = np.zeros((3, 8, 6), bool)
    truth[1, 2:6, 1:5] = True
    half = truth.copy()
    half[1, 4:] = False
    whole = [Pair(f"p{n}", truth, truth, (3.0, 1.0, 1.0)) for n in range(5)]
    # Of the first patient a case on the other scanner, too.
    poor = [Pair(f"p{n}", half, truth, (3.0, 1.0, 1.0)) for n in (0, 7, 8, 9, 10)]
    stated = [{"scanner": "A"}] * 5 + [{"scanner": "B"}] * 5
    report = segmentation.evaluate([*whole, *poor], {}, threshold=0.5, draws=100, stated=stated)
    assert report["groups"]["scanner"]["A"]["metrics"]["dice"]["value"] == 1.0
    assert report["groups"]["scanner"]["B"]["metrics"]["dice"]["value"] == pytest.approx(2 / 3, abs=1e-6)
    assert (report["patients"], report["groups"]["scanner"]["A"]["patients"]) == (9, 5)


@pytest.mark.parametrize("kind", ["classification", "segmentation"])
def test_a_cohort_whose_items_state_groups_is_reported_by_them(kind, request, make_cohort) -> None:
    run, _, _ = request.getfixturevalue(f"{kind}_run")
    plain = make_cohort(kind, (3, 1, 10))
    test = tuple(
        replace(item, provenance={"subject": {"sex": "FM"[number % 2]}}) for number, item in enumerate(plain.test)
    )
    cohorts.save(replace(plain, splits={**plain.splits, "test": test}))
    report = evaluate(run, cohorts.load(plain.folder), draws=100)
    assert {name: each["patients"] for name, each in report["groups"]["sex"].items()} == {"F": 5, "M": 5}
    told = "auroc" if kind == "classification" else "dice"
    values = [each["metrics"][told]["value"] for each in report["groups"]["sex"].values()]
    assert min(values) <= report["primary"]["value"] + 0.1
    assert None not in values
