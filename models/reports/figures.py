"""The figures of an evaluation, as `models.evaluate` gives it, in parts; the card shows them, too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from models.evaluation.bootstrap import FEWEST_PATIENTS
from models.reports import generators, plots
from models.reports.parts import Heading, Part, Table, Text, interval_text

Report = Mapping[str, Any]
_KINDS = {"scanner": "Scanner", "site": "Site", "sex": "Sex", "age": "Age, years"}


def parts(report: Report) -> list[Part]:
    """First, where there is one, the caution that goes with them."""
    caution: list[Part] = [Text(f"{report['caution']}.", "Caution")] if report.get("caution") else []
    if report.get("given") in ("channels", "coarse"):
        return caution + _of_translator(report)
    return caution + (generators.parts(report) if report["task"] == "generation" else _of_predictor(report))


def _of_predictor(report: Report, of: str = "images") -> list[Part]:
    """of: what a classifier's report counts."""
    classifier = report["task"] == "classification"
    if classifier:
        beside = {report["baseline"]["name"]: report["baseline"]["metrics"]}
        size = f"{report['images']} {of} of {report['patients']} test patients, prevalence {report['prevalence']:.3f}"
    else:
        beside = report["baselines"]
        size = f"{report['cases']} cases of {report['patients']} test patients"
    told: list[Part] = [
        Text(f"{size}, threshold {report['threshold']:.3g}. 95 % intervals in brackets."),
        _beside({name: name for name in report["metrics"]}, report["metrics"], beside),
    ]
    if "surface_tolerance_mm" in report:
        told.append(
            Text(f"surface_dice: share of the surfaces within {report['surface_tolerance_mm']:g} mm of each other.")
        )
    if classifier:
        kinds, table = plots.at_threshold(report)
        told += [Text("At the threshold:"), _confusion(kinds, table)]
    if "by_class" in report:
        told += _by_class(report)
    if "saliency" in report:
        told.append(_of_saliency(report["saliency"]))
    if "lesions_by_size" in report:
        counted = [f"{each['found']} of {each['lesions']} {size}" for size, each in report["lesions_by_size"].items()]
        told.append(Text(f"Lesions found: {', '.join(counted)}."))
    told += plots.of_classifier(report, of) if classifier else plots.of_segmenter(report)
    return told + _by_group(report) + _by_study(report)


def _beside(rows: Mapping[str, str], ours: Report, others: Mapping[str, Report]) -> Table:
    """rows: words of each figure."""
    return Table(
        ("", "model", *others),
        tuple(
            (words, interval_text(ours[name]), *(interval_text(figures[name]) for figures in others.values()))
            for name, words in rows.items()
        ),
    )


def _confusion(names: Sequence[str], table: Sequence[Sequence[int]]) -> Table:
    rows = tuple((f"is {name}", *map(str, row)) for name, row in zip(names, table, strict=True))
    return Table(("", *(f"called {name}" for name in names)), rows)


def _by_class(report: Report) -> list[Part]:
    told = {name: interval_text(value) for name, value in report["by_class"].items()}
    names = report["labels"]
    words = (
        f"Of the most probable class: macro F1 {told['macro_f1']}, micro F1 {told['micro_f1']}, balanced accuracy "
        f"{told['balanced_accuracy']}."
    )
    rows = tuple(
        (name, *(told[f"{figure}_{number}"] for figure in ("sensitivity", "precision", "f1")))
        for number, name in enumerate(names)
    )
    table = Table(("class", "sensitivity", "precision", "F1"), rows)
    return [Text(words), table, _confusion(names, report["confusion_by_class"])]


def _of_saliency(found: Report) -> Text:
    beside = f"Maps of saliency ({found['method']}) and those of random weights on {found['pictures']} test images:"
    if found["rank_correlation"] is None:
        return Text(f"{beside} they are the same everywhere. They say nothing, and are not made.")
    says = "they depend on what was learned" if found["passed"] else "any network draws them, and they are not made"
    return Text(f"{beside} rank correlation {found['rank_correlation']:.2f}; {says}.")


def _by_group(report: Report) -> list[Part]:
    """Nothing where all patients are of one group, or the cohort does not say."""
    told: list[Part] = []
    whole, size = report["primary"]["value"], "images" if report["task"] == "classification" else "cases"
    for kind, found in report.get("groups", {}).items():
        names = [name for each in found.values() for name in each["metrics"] or ()]
        figures = tuple(dict.fromkeys(names))
        rows = tuple(
            (
                name,
                str(each["patients"]),
                str(each["observations"]),
                *(interval_text(each["metrics"][figure]) if each["metrics"] else "too few" for figure in figures),
            )
            for name, each in found.items()
        )
        told.append(Table((_KINDS[kind], "patients", size, *figures), rows))
        main = report["primary"]["metric"]
        known = {name: each["metrics"][main] for name, each in found.items() if each["metrics"]}
        if len(known) > 1:
            says = "Each interval is of the group's own patients; the dashed line is the figure of all."
            told.append(plots.intervals(f"{_KINDS[kind]}: {main}", says, main, known, whole))
    if not told:
        return []
    words = (
        f"Intervals are of each group's own patients; groups of fewer than {FEWEST_PATIENTS} are counted alone. No "
        "test was made: of several groups some differ by chance."
    )
    return [Heading("By group"), Text(words), *told]


def _by_study(report: Report) -> list[Part]:
    """Of a classifier whose cohort has several pictures of a study."""
    if "by_study" not in report:
        return []
    whole = report["by_study"]
    words = f"Studies, each by {whole['rule']}, calibrated on {whole['fixed_on']} studies of validation:"
    return [Heading("By study"), Text(words), *_of_predictor({"task": "classification", **whole}, "studies")]


def _of_translator(report: Report) -> list[Part]:
    beside = report["baselines"]
    names = {"absolute_error": "absolute error, share of the range", "psnr_db": "PSNR, dB", "ssim": "SSIM"}
    nearer = "; ".join(f"{name} {interval_text(apart)}" for name, apart in report["difference"].items())
    words = (
        f"{report['cases']} cases of {report['patients']} test patients beside their true pictures, and beside what "
        "needs no network. 95 % intervals in brackets."
    )
    errors = {"model": report["metrics"], **beside}
    rows = {name: figures["absolute_error"] for name, figures in errors.items()}
    return [
        Text(words),
        _beside(names, report["metrics"], beside),
        Text(f"Absolute error below that of: {nearer}."),
        plots.intervals("Absolute error", "A share of the range of values; less is nearer.", "absolute error", rows),
    ]
