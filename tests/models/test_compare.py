"""Predictors in pairs: tests against closed forms, differences against the figures of each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from dicom_io.cohort import Cohort
from dicom_io.errors import Rejected
from models import training
from models.compare import compare, document, holm, mcnemar
from models.evaluate import evaluate
from models.recipe import Recipe

Trained = tuple[Path, Cohort, Recipe]


def barely(trained: Trained, folder: Path, seed: int) -> Path:
    """The same training with another seed, and hardly any of it."""
    _, cohort, chosen = trained
    schedule = chosen.schedule.model_copy(update={"total_images": 32, "report_images": 32})
    training.train(chosen.model_copy(update={"seed": seed, "schedule": schedule}), cohort, folder, device="cpu")
    return folder


def test_mcnemar_is_the_binomial_of_those_that_differ():
    """2 of 12: twice the chance of two heads or fewer in twelve throws."""
    assert mcnemar(2, 10) == pytest.approx(2 * stats.binom.cdf(2, 12, 0.5))
    assert mcnemar(10, 2) == mcnemar(2, 10) and mcnemar(0, 0) == 1.0 and mcnemar(7, 7) == 1.0


def test_holm_multiplies_the_least_by_all_and_never_falls():
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.5, 0.6]) == [1.0, 1.0] and holm([0.02]) == [0.02]


def test_classifiers_are_compared_by_the_figures_that_each_is_evaluated_by(classification_run, tmp_path):
    run, cohort, _ = classification_run
    other = barely(classification_run, tmp_path / "other", 9)
    report = compare([run, other], ["long", "short"], cohort, draws=200)
    alone = {"long": evaluate(run, cohort, draws=200), "short": evaluate(other, cohort, draws=200)}
    for name, found in alone.items():
        for figure in ("auroc", "brier", "balanced_accuracy"):
            assert report["metrics"][name][figure] == found["metrics"][figure]
    [pair] = report["pairs"]
    apart = alone["long"]["metrics"]["auroc"]["value"] - alone["short"]["metrics"]["auroc"]["value"]
    assert pair["difference"]["auroc"]["value"] == pytest.approx(apart, abs=1e-6)
    right = {name: found["confusion"]["tp"] + found["confusion"]["tn"] for name, found in alone.items()}
    assert pair["only_first_right"] - pair["only_second_right"] == right["long"] - right["short"]
    assert pair["p_holm"] == pair["p"] == mcnemar(pair["only_first_right"], pair["only_second_right"])
    text = document(report).markdown()
    assert (
        "| long - short |" in text and "McNemar, exact, images as independent; Holm: corrected for 1 pair(s)." in text
    )


def test_segmenters_are_compared_patient_by_patient(segmentation_run, tmp_path):
    run, cohort, _ = segmentation_run
    others = [barely(segmentation_run, tmp_path / str(seed), seed) for seed in (8, 9)]
    report = compare([run, *others], ["a", "b", "c"], cohort, draws=200)
    dices = [
        np.array([line["dice"] for line in evaluate(each, cohort, draws=200)["per_patient"]]) for each in (run, *others)
    ]
    assert [pair["models"] for pair in report["pairs"]] == [["a", "b"], ["a", "c"], ["b", "c"]]
    for pair, (one, two) in zip(report["pairs"], ((0, 1), (0, 2), (1, 2)), strict=True):
        assert pair["difference"]["dice"]["value"] == pytest.approx((dices[one] - dices[two]).mean(), abs=1e-4)
    assert report["pairs"][0]["p"] == pytest.approx(stats.wilcoxon(dices[0] - dices[1]).pvalue)
    assert all(pair["p_holm"] >= pair["p"] for pair in report["pairs"])


def test_a_model_of_another_cohort_is_compared_with_a_caution(segmentation_run, make_cohort, tmp_path):
    run, _, _ = segmentation_run
    other = make_cohort("segmentation", (2, 1, 4))
    report = compare([run, barely(segmentation_run, tmp_path / "short", 8)], ["a", "b"], other, draws=200)
    assert set(report["cautions"]) == {"a", "b"}
    assert (
        document(report)
        .markdown()
        .splitlines()[2]
        .startswith("**Caution, a**: test patients may have been trained on: ")
    )


def test_what_cannot_be_compared_is_refused(segmentation_run, classification_run, generation_run):
    run, cohort, _ = segmentation_run
    with pytest.raises(Rejected, match="two models or more, each once"):
        compare([run], ["a"], cohort)
    with pytest.raises(Rejected, match="two models or more, each once"):
        compare([run, run], ["a", "a"], cohort)
    with pytest.raises(Rejected, match=r"is for classification, cohort .* for segmentation"):
        compare([run, classification_run[0]], ["a", "b"], cohort)
