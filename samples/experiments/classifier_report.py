"""What a line of classifiers found, as a page that a person reads; it claims no more than the intervals do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scipy import stats

from models.reports.parts import interval_text

Figures = Mapping[str, Any]
_UNITS = {
    "patient": "patients",
    "slide": "slides",
    "near-duplicate group": "groups of near-duplicates (patients are not known: slices of one may lie in two folds)",
    "none": "pictures (nothing keeps those of one patient together)",
}
_WORDS = {"macro_f1": "macro F1", "auroc": "AUROC"}
# Columns of the first table, by what it is that is called right.
_MAIN = {"macro_f1": "macro F1", "accuracy": "accuracy", "auroc": "AUROC"}
_AT = {"sensitivity": "sensitivity", "specificity": "specificity", "brier": "Brier", "ece": "ECE"}


def report_of(figures: Figures) -> str:
    """Markdown."""
    lines = [
        f"# {figures['title']}",
        "",
        f"`mirall experiment run {figures['experiment']} --profile {figures['profile']}`.",
        *_design(figures),
        "",
        *_main(figures),
        "",
        *_verdicts(figures["rows"], figures["primary"]),
        "",
        *_by_class(figures["rows"], list(figures["classes"])),
        "",
        *_operating(figures),
        "",
        *_tests(figures),
        "",
        *(_subset(figures["subset"]) if "subset" in figures else ()),
        *(_pairs(figures["pairs"]) if "pairs" in figures else ()),
        *(_shortcuts(figures["shortcuts"]) if figures["shortcuts"] else ()),
        *_cost(figures),
        "",
        "Nothing here is for clinical use.",
        "",
    ]
    return "\n".join(lines)


def _design(figures: Figures) -> list[str]:
    classes = ", ".join(f"{count} {name}" for name, count in figures["classes"].items())
    fewer = f"{figures['folds']} folds by {_UNITS[figures['split_unit']]}"
    return [
        f"{figures['pictures']} pictures ({classes}); {figures['description']}.",
        f"{fewer}. {figures['seeds']} seed(s), each deals anew and trains anew; every picture is tested once by each.",
        "One fold validates: it fixes temperature and threshold of all arms, and the settings of what is no network.",
        "Networks begin with random weights (none of ImageNet were at hand) and keep their last state.",
        f"Figures are means over seeds; 95 % intervals by a bootstrap of {figures['patients']} {_short(figures)}",
        f"({figures['bootstrap_draws']} draws, the models held as they were trained); differences are paired.",
        f"CPU only, one thread to a run ({figures['machine']}).",
        *([figures["caution"]] if figures["caution"] else []),
        "",
        *(f"- *{name}*: {words}." for name, words in figures["views"].items()),
    ]


def _short(figures: Figures) -> str:
    return _UNITS[figures["split_unit"]].split(" (")[0]


def _main(figures: Figures) -> list[str]:
    primary = figures["primary"]
    heads = [_MAIN[key] for key in _MAIN] + [f"{_WORDS[primary]} by seed", f"first minus this, {_WORDS[primary]}"]
    return [
        f"| | {' | '.join(heads)} |",
        f"| --- |{' --- |' * len(heads)}",
        *(_main_row(row, primary) for row in figures["rows"]),
        "",
        "AUROC: any class but the first against the first.",
    ]


def _main_row(row: Figures, primary: str) -> str:
    told = [interval_text(row["metrics"][key]) for key in _MAIN]
    seeds = ", ".join(f"{each[primary]:.3f}" for each in row["by_seed"])
    apart = interval_text(row["first_minus"][primary]) if row["first_minus"] else ""
    return f"| {row['arm']} | {' | '.join([*told, seeds, apart])} |"


def _verdicts(rows: Sequence[Figures], primary: str) -> list[str]:
    first, *others = rows
    return [_verdict(_WORDS[primary], first["arm"], row["arm"], row["first_minus"][primary]) for row in others]


def _verdict(metric: str, first: str, other: str, interval: Mapping[str, float | None]) -> str:
    low, high = interval["low"], interval["high"]
    if low is None or high is None:
        words = "cannot be compared with"
    elif low > 0:
        words = "is better than"
    elif high < 0:
        words = "is worse than"
    else:
        words = "is not shown to differ from"
    return f"- In {metric} *{first}* {words} *{other}*."


def _by_class(rows: Sequence[Figures], classes: Sequence[str]) -> list[str]:
    return [
        "## Each class",
        "",
        f"| F1 | {' | '.join(classes)} |",
        f"| --- |{' --- |' * len(classes)}",
        *(
            f"| {row['arm']} | "
            f"{' | '.join(interval_text(row['metrics'][f'f1_{number}']) for number in range(len(classes)))} |"
            for row in rows
        ),
    ]


def _operating(figures: Figures) -> list[str]:
    first, least = next(iter(figures["classes"])), figures["least_sensitivity"]
    rule = f"a sensitivity of {least:g}" if least else "the best sensitivity plus specificity"
    return [
        f"## Any class but {first}: at the threshold of the fold, and calibration",
        "",
        f"The threshold has {rule} on the fold's validation; test pictures did not choose it. Pictures drawn anew are",
        "less well calibrated than the pictures themselves, so that an ECE may lie below its interval.",
        "",
        f"| | {' | '.join(_AT.values())} |",
        f"| --- |{' --- |' * len(_AT)}",
        *(
            f"| {row['arm']} | {' | '.join(interval_text(row['metrics'][key]) for key in _AT)} |"
            for row in figures["rows"]
        ),
    ]


def _tests(figures: Figures) -> list[str]:
    return [
        "## McNemar's exact test, most probable class, seed 0, pictures as independent",
        "",
        f"| *{figures['rows'][0]['arm']}* against | only the first right | only this right | p | p, Holm |",
        "| --- | --- | --- | --- | --- |",
        *(
            f"| {each['arm']} | {each['only_first_right']} | {each['only_this_right']} | {each['p']:.2g} "
            f"| {each['p_holm']:.2g} |"
            for each in figures["tests"]
        ),
    ]


def _subset(found: Figures) -> list[str]:
    """What remains where nothing but the disease should tell."""
    classes = found["classes"]
    heads = ["macro F1", *(f"F1, {name}" for name in classes), "macro F1 by seed", "first minus this, macro F1"]
    return [
        f"## Which of {len(classes)}, of the {found['pictures']} pictures that are of one: {', '.join(classes)}",
        "",
        "The same networks and fits; the most probable of these classes counts.",
        "",
        f"| | {' | '.join(heads)} |",
        f"| --- |{' --- |' * len(heads)}",
        *(_subset_row(row, len(classes)) for row in found["rows"]),
        "",
        *_verdicts(found["rows"], "macro_f1"),
        "",
    ]


def _subset_row(row: Figures, classes: int) -> str:
    keys = ["macro_f1", *(f"f1_{number}" for number in range(classes))]
    seeds = ", ".join(f"{each['macro_f1']:.3f}" for each in row["by_seed"])
    apart = interval_text(row["first_minus"]["macro_f1"]) if row["first_minus"] else ""
    return f"| {row['arm']} | {' | '.join([*(interval_text(row['metrics'][key]) for key in keys), seeds, apart])} |"


def _pairs(found: Sequence[Figures]) -> list[str]:
    count = found[0]["patients"]
    return [
        f"## Within a patient: {count} have one picture of each kind",
        "",
        "In how many is the abnormal one called more suspicious? Both are tested by the same model, so nothing but",
        "the two pictures differs. p is exact, two-sided, against chance, of the mean of the seeds' probabilities;",
        "pairs that get one probability do not count.",
        "",
        "| | right, by seed | right, seeds together | p |",
        "| --- | --- | --- | --- |",
        *(
            f"| {row['arm']} | {', '.join(map(str, row['by_seed']))} | {row['right']} of {row['told_apart']} "
            f"| {'undefined' if row['p'] is None else format(row['p'], '.2g')} |"
            for row in found
        ),
        "",
        needed(count),
        "",
    ]


def needed(count: int) -> str:
    """How many of so many pairs must be right to be told from chance at 5 %, two-sided, and what that leaves open."""
    enough = [right for right in range(count + 1) if 2 * right > count and stats.binomtest(right, count).pvalue < 0.05]
    if not enough:
        return f"With {count} pairs nothing can be told from chance, not even if all are right."
    interval = stats.binomtest(enough[0], count).proportion_ci(0.95)
    return (
        f"With {count} pairs, {enough[0]} must be right to be told from chance (p < 0.05), and then the share among "
        f"other patients may still be anything from {interval.low:.2f} to {interval.high:.2f} (95 %, exact)."
    )


def _shortcuts(found: Mapping[str, Figures]) -> list[str]:
    families = list(dict.fromkeys(each["family"] for report in found.values() for each in report["measured"]))
    return [
        "## What tells the classes apart beside the disease",
        "",
        "A small tree that sees these features alone, cross-validated: mean AUROC of each class against the rest",
        "(`mirall cohort audit` measures the same). Intensity may be the disease, too.",
        "",
        f"| | {' | '.join(found)} |",
        f"| --- |{' --- |' * len(found)}",
        *(
            f"| {family} | {' | '.join(_shortcut(report, family) for report in found.values())} |"
            for family in families
        ),
        "",
    ]


def _shortcut(report: Figures, family: str) -> str:
    for each in report["measured"]:
        if each["family"] == family:
            return f"{interval_text(each['auroc'])}{', suspicious' if each['suspicious'] else ''}"
    return str(report["not_measured"].get(family, "not measured"))


def _cost(figures: Figures) -> list[str]:
    lines = [
        "## Cost",
        "",
        f"Budget of the full profile: {figures['budget_cpu_minutes']:g} CPU minutes, all arms, seeds and folds.",
        f"Spent here: {figures['spent_cpu_minutes']:g}.",
        "",
        "| | parameters | images shown | CPU s, all runs | chosen on validation (in so many folds) |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in figures["rows"]:
        chosen = ", ".join(f"{setting} ({count})" for setting, count in row["chosen"].items() if setting)
        weights = f"{row['parameters']:,}" if row["parameters"] else ""
        images = f"{row['images_seen']:,}" if row["images_seen"] else ""
        lines.append(f"| {row['arm']} | {weights} | {images} | {row['cpu_s']:.0f} | {chosen} |")
    told = [f"- {row['arm']}: {warning}" for row in figures["rows"] for warning in row["warnings"]]
    return [*lines, *(["", *told] if told else [])]
