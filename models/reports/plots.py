"""Plots of what an evaluation holds; none where it holds nothing to draw, as one from before it was kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from models.reports.parts import Plot, interval_text
from models.reports.svg import Axis, Frame, names, numbers, shares

Report = Mapping[str, Any]


def of_classifier(report: Report, of: str = "images") -> Iterator[Plot]:
    """report: of `models.evaluation.classification`, with "labels". of: what it counts."""
    curves = report.get("curves", {})
    if "roc" in curves:
        yield roc(report)
    if "precision_recall" in curves:
        yield precision_recall(report)
    if "reliability" in curves:
        yield reliability(report, of)
    yield confusion("Confusion at the threshold", *at_threshold(report))
    if "confusion_by_class" in report:
        yield confusion("Confusion of the most probable class", report["labels"], report["confusion_by_class"])
    if "highest_probability" in report["per_patient"][0]:
        yield strip(report, of)


def of_segmenter(report: Report) -> Iterator[Plot]:
    if "baseline_dice" in report:
        yield dice_of_patients(report)
    yield volumes(report)
    if "lesions_by_size" in report:
        yield lesions(report["lesions_by_size"])


def of_generator(report: Report) -> Iterator[Plot]:
    for name, space in report["fidelity"]["spaces"].items():
        rows = {"samples to held-out": space["kid_to_held_out"], "real to real (floor)": space["floor"]}
        says = f"Kernel distance in the feature space {name}: as near as real is to real where both overlap."
        yield intervals(f"KID, {name}", says, "KID", rows)


def at_threshold(report: Report) -> tuple[list[str], list[list[int]]]:
    """Names of the two kinds, and their table: a row per truth, a column per call."""
    cells, labels = report["confusion"], report.get("labels") or []
    kinds = (
        list(labels)
        if len(labels) == 2
        else [labels[0] if labels else "negative", "any other" if labels else "positive"]
    )
    return kinds, [[cells["tn"], cells["fp"]], [cells["fn"], cells["tp"]]]


def roc(report: Report) -> Plot:
    curve, told = report["curves"]["roc"], report["metrics"]
    frame = Frame(shares("1 - specificity"), shares("sensitivity"))
    frame.line([(0, 0), (1, 1)], "rule")
    frame.line(zip(curve["false_positive_rate"], curve["sensitivity"], strict=True), "model")
    frame.mark(1 - told["specificity"]["value"], told["sensitivity"]["value"], "point", "operating point")
    frame.key("point", _operating(report))
    frame.key("line rule", "chance")
    return frame.plot("ROC", f"AUROC {interval_text(told['auroc'])}.")


def precision_recall(report: Report) -> Plot:
    """As the steps that the average precision adds up: precision holds from the recall before to its own."""
    curve, told = report["curves"]["precision_recall"], report["metrics"]
    steps, before = [], 0.0
    for recall, precision in zip(curve["recall"], curve["precision"], strict=True):
        steps += [(before, precision), (recall, precision)]
        before = recall
    frame = Frame(shares("recall (sensitivity)"), shares("precision"))
    frame.line([(0, report["prevalence"]), (1, report["prevalence"])], "rule")
    frame.line(steps, "model")
    if told["precision"]["value"] is not None:
        frame.mark(told["sensitivity"]["value"], told["precision"]["value"], "point", "operating point")
    frame.key("point", _operating(report))
    frame.key("line rule", f"prevalence {report['prevalence']:.3f}")
    return frame.plot("Precision and recall", f"Average precision {interval_text(told['average_precision'])}.")


def _operating(report: Report) -> str:
    return f"threshold {report['threshold']:.3g}, fixed on validation"


def reliability(report: Report, of: str = "images") -> Plot:
    bins, told = report["curves"]["reliability"], report["metrics"]
    most = max(each["images"] for each in bins)
    frame = Frame(shares("probability, mean of a bin"), shares("share that is positive"))
    for each in bins:
        frame.box((each["low"] + 0.01, each["high"] - 0.01), (0, 0.25 * each["images"] / most), "pale")
    frame.line([(0, 0), (1, 1)], "rule")
    frame.line([(each["mean_probability"], each["frequency"]) for each in bins], "model")
    for each in bins:
        says = f"{each['low']:g} to {each['high']:g}: {each['images']} {of}"
        frame.mark(each["mean_probability"], each["frequency"], "model", says)
    frame.key("line rule", "as often as said")
    frame.key("box pale", f"{of} in a bin, {most} in the fullest")
    says = f"Calibration error {interval_text(told['ece'])}, Brier score {interval_text(told['brier'])}."
    return frame.plot("Reliability", says)


def confusion(title: str, labels: Sequence[str], table: Sequence[Sequence[int]]) -> Plot:
    """Shaded by the share of each truth."""
    height = 90 + max(44, min(64, 320 // len(labels))) * len(labels)
    frame = Frame(names("called", labels, 34 // len(labels)), names("truth", labels, 18), height, rows=True)
    for truth, row in enumerate(table):
        for called, count in enumerate(row):
            share = count / sum(row) if sum(row) else 0.0
            frame.box((called - 0.48, called + 0.48), (truth - 0.47, truth + 0.47), "full", 0.06 + 0.94 * share)
            frame.words(called, truth, str(count), "middle count on" if share > 0.55 else "middle count")
    return frame.plot(title, "Counts; darker is a larger share of the truth's row.")


def strip(report: Report, of: str = "images") -> Plot:
    """A mark per patient at the highest probability that it has, apart by whether anything of it is positive."""
    kinds = ("none positive", "some positive")
    frame = Frame(shares(f"highest probability of a patient's {of}"), names("patients", kinds), 190, rows=True)
    frame.line([(report["threshold"], -0.5), (report["threshold"], 1.5)], "rule")
    seen = [0, 0]
    for each in report["per_patient"]:
        row = int(each["tp"] + each["fn"] > 0)
        # Spread out over five places, so that equal ones are seen side by side.
        place = row + 0.13 * (seen[row] % 5 - 2)
        seen[row] += 1
        says = f"{each['patient']}: {each['tp'] + each['tn']} of {each['images']} {of} right"
        frame.mark(each["highest_probability"], place, "model" if row else "first", says)
    frame.key("line rule", _operating(report))
    return frame.plot("Patients", f"{seen[1]} patients with positive {of}, {seen[0]} without.")


def dice_of_patients(report: Report) -> Plot:
    ours = [each["dice"] for each in report["per_patient"]]
    order = sorted(range(len(ours)), key=lambda number: ours[number])
    frame = Frame(Axis("patients, by the model's Dice", -0.5, len(ours) - 0.5, ()), shares("Dice"))
    beside = list(zip(("first", "second"), report["baseline_dice"].items(), strict=False))
    for place, number in enumerate(order):
        patient = report["per_patient"][number]["patient"]
        for kind, (name, dices) in beside:
            frame.mark(place, dices[number], kind, f"{patient}, {name}: {dices[number]:.3f}")
        frame.mark(place, ours[number], "model", f"{patient}: {ours[number]:.3f}")
    frame.key("model", f"model, mean {interval_text(report['metrics']['dice'])}")
    for kind, (name, _) in beside:
        frame.key(kind, name)
    return frame.plot("Dice of each patient", f"{len(ours)} patients, beside what needs no network.")


def volumes(report: Report) -> Plot:
    known = [(each["true_volume_ml"], each["volume_ml"], each["patient"]) for each in report["per_patient"]]
    axis = numbers("true volume, ml", [value for pair in known for value in pair[:2]])
    frame = Frame(axis, Axis("volume of the mask, ml", axis.low, axis.high, axis.ticks))
    frame.line([(axis.low, axis.low), (axis.high, axis.high)], "rule")
    for true, found, patient in known:
        frame.mark(true, found, "model", f"{patient}: {found:.3g} ml of {true:.3g} ml")
    frame.key("line rule", "as large as the truth")
    told = interval_text(report["metrics"]["volume_error"])
    return frame.plot("Volume", f"A mark per patient. Mean signed error, as a share of the true volume: {told}.")


def lesions(sizes: Mapping[str, Mapping[str, int]]) -> Plot:
    counts = [each["lesions"] for each in sizes.values()]
    frame = Frame(numbers("lesions", counts), names("size", list(sizes)), 210, rows=True)
    for row, each in enumerate(sizes.values()):
        frame.box((0, each["lesions"]), (row - 0.3, row + 0.3), "pale")
        frame.box((0, each["found"]), (row - 0.3, row + 0.3), "full")
    frame.key("box full", "found")
    frame.key("box pale", "missed")
    told = "; ".join(f"{each['found']} of {each['lesions']} {size}" for size, each in sizes.items())
    return frame.plot("Lesions found, by size", f"{told}.")


def intervals(
    title: str, says: str, label: str, rows: Mapping[str, Mapping[str, float | None]], at: float | None = None
) -> Plot:
    """A mark and a line for each; what is undefined has none. at: where a line of comparison stands."""
    known = [value for row in rows.values() for value in row.values() if value is not None]
    unit = all(0 <= value <= 1 for value in known) and max(known, default=0) > 0.3
    axis = shares(label) if unit else numbers(label, known)
    frame = Frame(axis, names("", list(rows), 26), 80 + 30 * max(2, len(rows)), rows=True)
    if at is not None:
        frame.line([(at, -0.5), (at, len(rows) - 0.5)], "rule")
    for place, (name, row) in enumerate(rows.items()):
        if row["value"] is None:
            continue
        if row["low"] is not None and row["high"] is not None:
            frame.line([(row["low"], place), (row["high"], place)], "model")
        frame.mark(row["value"], place, "model", f"{name}: {interval_text(row)}")
    return frame.plot(title, says)
