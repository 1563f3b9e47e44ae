"""Several predictors on the same test patients, in pairs: which is better, and whether that is more than chance.

Differences have patient-cluster intervals from the same draws. Beside them stand the tests that readers ask for,
corrected for as many pairs as there are (Holm 1979): McNemar's exact one on images that one model calls right and the
other wrong (1947), which takes images as independent and is too sure where patients have several, and Wilcoxon's signed
ranks on the Dice of patients (1945).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from dicom_io.cohort import Cohort
from dicom_io.errors import Rejected
from models import answers, predictor
from models.evaluate import caution_of, require_fit
from models.evaluation import bootstrap, classification, segmentation
from models.evaluation.bootstrap import Array
from models.predictor import Classifier, Segmenter
from models.reports import plots
from models.reports.document import Document
from models.reports.parts import Part, Table, Text, interval_text

RANKED = ("auroc", "average_precision", "brier", "balanced_accuracy")


def compare(folders: Sequence[Path], names: Sequence[str], cohort: Cohort, *, draws: int = 2000) -> dict[str, Any]:
    """Every pair of the models; names: of each, as they were asked for.

    Raises:
        Rejected: fewer than two models, one of them is no predictor or does not fit the cohort.
    """
    if len(folders) < 2 or len(set(names)) < len(names):
        raise Rejected("compare needs two models or more, each once; name others beside it")
    saw = [require_fit(folder, cohort).description.saw for folder in folders]
    cautions = {name: caution_of(each, cohort) for name, each in zip(names, saw, strict=True)}
    models = [predictor.load(folder) for folder in folders]
    first = models[0]
    report: dict[str, Any] = {"cohort": cohort.name, "data_hash": cohort.data_hash, "split_unit": cohort.split_unit}
    report |= {"task": cohort.task, "models": list(names), "bootstrap_draws": draws}
    report["cautions"] = {name: sentence for name, sentence in cautions.items() if sentence}
    if isinstance(first, Classifier):
        return report | _classifiers([each for each in models if isinstance(each, Classifier)], names, cohort, draws)
    return report | _segmenters([each for each in models if isinstance(each, Segmenter)], names, cohort, draws)


def _classifiers(models: Sequence[Classifier], names: Sequence[str], cohort: Cohort, draws: int) -> dict[str, Any]:
    seen = [answers.on_images(model, cohort) for model in models]
    rows = [each.suspicions for each in seen]
    patients, positive = seen[0].patients, seen[0].labels > 0
    thresholds = [model.threshold for model in models]

    def figures(w: Array) -> dict[str, Array]:
        of_all = [classification.metrics(row, positive, cut, w) for row, cut in zip(rows, thresholds, strict=True)]
        alone = {f"{number}.{name}": each[name] for number, each in enumerate(of_all) for name in RANKED}
        apart = {
            f"{one}-{other}.{name}": of_all[one][name] - of_all[other][name]
            for one, other in combinations(range(len(models)), 2)
            for name in RANKED
        }
        return alone | apart

    found = bootstrap.intervals(figures, patients, draws)
    right = [(row >= cut) == positive for row, cut in zip(rows, thresholds, strict=True)]
    pairs = []
    for one, other in combinations(range(len(models)), 2):
        better, worse = int((right[one] & ~right[other]).sum()), int((right[other] & ~right[one]).sum())
        pairs.append(
            {
                "models": [names[one], names[other]],
                "difference": {name: found[f"{one}-{other}.{name}"].as_json() for name in RANKED},
                "only_first_right": better,
                "only_second_right": worse,
                "test": "McNemar, exact, images as independent",
                "p": mcnemar(better, worse),
            }
        )
    alone = [{name: found[f"{number}.{name}"].as_json() for name in RANKED} for number in range(len(models))]
    sizes = {"images": len(positive), "patients": len(set(patients))}
    return sizes | {"metrics": dict(zip(names, alone, strict=True)), "pairs": _corrected(pairs)}


def _segmenters(models: Sequence[Segmenter], names: Sequence[str], cohort: Cohort, draws: int) -> dict[str, Any]:
    patients = [segmentation.per_patient(answers.on_volumes(model, cohort)) for model in models]
    dices = [np.array([line["dice"] for line in each.values()]) for each in patients]
    pairs = []
    for one, other in combinations(range(len(models)), 2):
        apart = dices[one] - dices[other]
        pairs.append(
            {
                "models": [names[one], names[other]],
                "difference": {"dice": bootstrap.mean_interval(apart, draws).as_json()},
                "test": "Wilcoxon, signed ranks of patients",
                "p": 1.0 if not apart.any() else float(stats.wilcoxon(apart).pvalue),
            }
        )
    alone = [{"dice": bootstrap.mean_interval(each, draws).as_json()} for each in dices]
    sizes = {"patients": len(dices[0])}
    return sizes | {"metrics": dict(zip(names, alone, strict=True)), "pairs": _corrected(pairs)}


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided exact p that as many or more of the images that one alone calls right would be of one model."""
    apart = only_first + only_second
    return 1.0 if not apart else float(stats.binomtest(only_first, apart, 0.5).pvalue)


def holm(values: Sequence[float]) -> list[float]:
    """p values corrected for their number, in the order given (Holm 1979)."""
    corrected, largest = [0.0] * len(values), 0.0
    for rank, number in enumerate(np.argsort(values, kind="stable").tolist()):
        largest = max(largest, min(1.0, (len(values) - rank) * values[number]))
        corrected[number] = largest
    return corrected


def _corrected(pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for pair, corrected in zip(pairs, holm([pair["p"] for pair in pairs]), strict=True):
        pair["p_holm"] = corrected
    return pairs


def document(report: Mapping[str, Any]) -> Document:
    """Of what `compare` gives."""
    return Document(f"Comparison on {report['cohort']}", tuple(parts(report)))


def parts(report: Mapping[str, Any]) -> list[Part]:
    of = f"{report['images']} images of {report['patients']}" if "images" in report else f"{report['patients']}"
    figures = list(next(iter(report["metrics"].values())))
    words = f"{of} test patients of {report['cohort']}, split by {report['split_unit']}; 95 % intervals in brackets."
    alone = tuple(
        (name, *(interval_text(found[each]) for each in figures)) for name, found in report["metrics"].items()
    )
    apart = tuple(
        (
            " - ".join(pair["models"]),
            *(interval_text(pair["difference"][each]) for each in figures),
            f"{pair['p']:.3g}",
            f"{pair['p_holm']:.3g}",
        )
        for pair in report["pairs"]
    )
    tests = f"p: {report['pairs'][0]['test']}; Holm: corrected for {len(report['pairs'])} pair(s)."
    return [
        *(Text(f"{sentence}.", f"Caution, {name}") for name, sentence in report["cautions"].items()),
        Text(words),
        Table(("", *figures), alone),
        Table(("first minus second", *figures, "p", "p, Holm"), apart),
        Text(tests),
        *_plots(report, figures[0]),
    ]


def _plots(report: Mapping[str, Any], figure: str) -> list[Part]:
    alone = {name: found[figure] for name, found in report["metrics"].items()}
    apart = {" - ".join(pair["models"]): pair["difference"][figure] for pair in report["pairs"]}
    says = "First minus second, from the same draws of patients; where the line holds 0, nothing was shown."
    return [
        plots.intervals(f"{figure} of each", "With its interval.", figure, alone),
        plots.intervals(f"Difference in {figure}", says, f"difference in {figure}", apart, 0.0),
    ]
