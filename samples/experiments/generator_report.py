"""What a line of generators found, as figures over seeds and as a page that a person reads."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import permutations
from statistics import median
from typing import Any

from dicom_io.cohort import SPLITS, Cohort
from samples.experiments.generator_lines import PROFILES, Line, ProfileName, recipe_of

Figures = Mapping[str, Any]
_NEIGHBOURS = ("precision", "recall", "density", "coverage")
_AUDIT = ("copy_rate", "planted_recall", "held_out_flagged")
_UNITS = {
    "patient": "patients",
    "slide": "slides",
    "near-duplicate group": "groups of near-duplicates (patients are not known: slices of one may lie in two splits)",
    "none": "images (nothing keeps those of one patient together)",
}
# By name: the part of a space's figures that has value, floor and controls, and where the value stands in it.
_DISTANCES: Mapping[str, tuple[Callable[[Figures], Figures], Callable[[Figures], float]]] = {
    "KID": (lambda space: space, lambda found: found["kid_to_held_out"]["value"]),
    "FD": (lambda space: space["frechet"], lambda found: found["to_held_out"]),
}


def figures_of(
    outcomes: Sequence[Figures], name: str, line: Line, profile: ProfileName, cohort: Cohort
) -> dict[str, Any]:
    """Everything that the report says, and every outcome beneath it; a figure over seeds is `_over`."""
    names: dict[str, str] = {model.slug: model.name for model in line.models}
    rows: dict[str, list[Figures]] = {}
    for outcome in outcomes:
        row = str(outcome["row"])
        rows.setdefault(names.get(row, row), []).append(outcome)
    return {
        "experiment": name,
        "title": line.title,
        "profile": profile,
        "seeds": PROFILES[profile].seeds,
        "image_px": recipe_of(line, line.models[0], 0, profile).network.image_px,  # type: ignore[union-attr]
        "samples": PROFILES[profile].samples,
        "bootstrap_draws": PROFILES[profile].draws,
        "budget_cpu_minutes": line.budget_cpu_minutes,
        "spent_cpu_minutes": round(
            sum(each.get("training_cpu_s", 0) + each["evaluation_cpu_s"] for each in outcomes) / 60, 1
        ),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "cohort": {
            "name": cohort.name,
            "description": cohort.description,
            "split_unit": cohort.split_unit,
            "units": {split: len({item.patient for item in cohort.splits[split]}) for split in SPLITS},
        },
        "rows": [_row(row, found) for row, found in rows.items()],
        "outcomes": list(outcomes),
    }


def _row(name: str, found: Sequence[Figures]) -> dict[str, Any]:
    reports = [outcome["evaluation"] for outcome in found]
    spaces, audits = ([report[part]["spaces"] for report in reports] for part in ("fidelity", "privacy"))
    return {
        "name": name,
        "trained": "images_seen" in found[0],
        "images_seen": found[0].get("images_seen"),
        "parameters": found[0].get("parameters"),
        "training_cpu_s": _over([outcome.get("training_cpu_s") for outcome in found]),
        "evaluation_cpu_s": _over([outcome["evaluation_cpu_s"] for outcome in found]),
        "warnings": sorted({warning for outcome in found for warning in outcome.get("warnings", ())}),
        "spread": {key: _over([report["spread"].get(key) for report in reports]) for key in reports[0]["spread"]},
        "spaces": {
            space: {
                key: _distance([part(each[space]) for each in spaces], of) for key, (part, of) in _DISTANCES.items()
            }
            | {key: _over([each[space]["neighbours"]["samples"][key] for each in spaces]) for key in _NEIGHBOURS}
            | {key: spaces[0][space]["frechet"][key] for key in ("covariance", "images_each")}
            for space in spaces[0]
        },
        "privacy": {
            space: {
                "copy_rate": _over([each[space]["copy_rate"]["value"] for each in audits]),
                "planted_recall": _over([each[space]["planted_recall"] for each in audits]),
                "held_out_flagged": _over([each[space]["held_out_flagged"] for each in audits]),
            }
            for space in audits[0]
        },
        "masks": _masks_of(reports),
        "passed_audit": sum(report["privacy"]["passed"] for report in reports),
        "seeds": len(reports),
    }


def _masks_of(reports: Sequence[Figures]) -> dict[str, Any]:
    """Of each label that is drawn, by whose it is: the share of pictures that show it, and its pixels there."""
    found = [report["masks"] for report in reports if "masks" in report]
    return {
        name: {
            whose: {key: _over([each[name][whose][key] for each in found]) for key in ("share", "pixels")}
            for whose in ("samples", "real")
        }
        for name in (found[0] if found else ())
    }


def _distance(found: Sequence[Figures], value_of: Callable[[Figures], float]) -> dict[str, Any]:
    """Over seeds. Floor and controls are those of the reals, the same for every seed."""
    first = found[0]
    return {
        "value": _over([value_of(each) for each in found]),
        "ratio": _over([each["ratio"] for each in found]),
        **{key: first[key] for key in ("floor", "controls", "usable")},
    }


def _over(values: Sequence[float | None]) -> dict[str, float] | None:
    """Median and range over seeds; None where a seed has no value."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    return {"median": round(median(known), 4), "low": min(known), "high": max(known)}


def report_of(figures: Figures) -> str:
    cohort, seeds = figures["cohort"], figures["seeds"]
    units = cohort["units"]
    px, spent = figures["image_px"], figures["spent_cpu_minutes"]
    lines = [
        f"# {figures['title']}",
        "",
        f"`mirall experiment run {figures['experiment']} --profile {figures['profile']}`.",
        f"{cohort['description']}; here {px} x {px} pixels. Split by {_UNITS[cohort['split_unit']]}:",
        f"{units['training']} train, {units['validation']} choose the checkpoint, {units['test']} are held out and met",
        f"once by each run. {seeds} seed(s) of every model, {figures['samples']} samples each; figures are the",
        "median over seeds, and their range in brackets.",
        "",
        f"Budget of the full profile: {figures['budget_cpu_minutes']:g} CPU minutes for training and evaluation, as",
        f"images of each model. Spent here: {spent:g}. CPU only, one thread to a run ({figures['machine']}).",
        "",
        "The first three rows are no generators. *Real images of validation* are what a perfect generator would make,",
        "*copies of training images* are as real and must be caught by the copy audit, *class means with noise* are",
        "what a collapsed generator makes. A ratio of about 1 is as near as real to real (KID: over the upper end of",
        "its floor, FD: over the mean). FD and its floor have as many images on each side as is shown.",
        "",
    ]
    for space in figures["rows"][0]["spaces"]:
        lines += _fidelity(figures["rows"], space)
    lines += [
        *_order(figures),
        "",
        *_privacy(figures["rows"]),
        "",
        *_masks(figures["rows"]),
        *_cost(figures["rows"]),
        "",
    ]
    lines += _warnings(figures["rows"])
    lines += [
        "Distances are in feature spaces of our own and compare with no published figure. Samples, all synthetic and",
        "marked so, lie in `samples/`. Nothing here is for clinical use.",
        "",
    ]
    return "\n".join(lines)


def _fidelity(rows: Sequence[Figures], space: str) -> list[str]:
    # The first row that has as many images as the models have.
    usual = next(row["spaces"][space] for row in rows if row["trained"])
    cells = [_cells(row["spaces"][space]) for row in rows]
    return [
        f"## To held-out images, feature space: {space}",
        "",
        *(_controls(key, usual[key]) for key in _DISTANCES),
        "",
        f"| | KID | KID / floor | FD | FD / floor | {' | '.join(_NEIGHBOURS)} | FD covariance, images |",
        f"| --- |{' --- |' * (len(_NEIGHBOURS) + 5)}",
        *(f"| {row['name']} | {' | '.join(told)} |" for row, told in zip(rows, cells, strict=True)),
        "",
    ]


def _cells(found: Figures) -> list[str]:
    return [
        *(_text(found[key][part]) for key in _DISTANCES for part in ("value", "ratio")),
        *(_text(found[key]) for key in _NEIGHBOURS),
        f"{found['covariance']}, {found['images_each']}",
    ]


def _controls(key: str, found: Figures) -> str:
    floor = found["floor"]
    real = (
        "undefined" if floor["value"] is None else f"{floor['value']:.2f} ({floor['low']:.2f} to {floor['high']:.2f})"
    )
    worse = ", ".join(f"{name} {value:.2f}" for name, value in found["controls"].items())
    verdict = "tells them from real" if found["usable"] else "does not tell them from real, so it has no ratio"
    return f"- {key}: real against real {real}; held-out images made worse: {worse}; it {verdict}."


def _order(figures: Figures) -> list[str]:
    """Which model is nearer to real than which: only where no seed says otherwise, in any distance that can tell."""
    trained = [row for row in figures["rows"] if row["trained"]]
    if figures["seeds"] < 2:
        return ["One seed shows no order of the models."]
    if not any(_telling(trained[0]["spaces"])):
        return ["No distance tells blurred and noisy images from real ones here, so the models have no order."]
    words = "with all seeds, by each distance with a ratio"
    found = [
        f"- *{a['name']}* is nearer to held-out images than *{b['name']}*, {words}."
        for a, b in permutations(trained, 2)
        if all(
            a["spaces"][space][key]["value"]["high"] < b["spaces"][space][key]["value"]["low"]
            for space, key in _telling(a["spaces"])
        )
    ]
    return found or [f"No model is nearer to held-out images than another {words}."]


def _telling(spaces: Figures) -> Iterator[tuple[str, str]]:
    """(space, distance) of those whose controls hold."""
    return ((space, key) for space in spaces for key in _DISTANCES if spaces[space][key]["usable"])


def _privacy(rows: Sequence[Figures]) -> list[str]:
    spaces = [space.replace("_", " ") for space in rows[0]["privacy"]]
    heads = " | ".join(f"copy rate, {space} | planted found | held-out flagged" for space in spaces)
    lines = [
        "## Copies, and spread within classes",
        "",
        "Copy rate: share of samples nearer to a training image than 99 of 100 held-out images are. Controls: planted",
        "copies found (95 % at least), held-out images flagged (5 % at most); where they fail, the rate says nothing.",
        "Spread: 1 is as varied as the training images of a class, 0 is one picture; the least of the classes.",
        "",
        f"| | {heads} | audits passed | least spread |",
        f"| --- |{' --- |' * (3 * len(spaces) + 2)}",
    ]
    for row in rows:
        told = [_text(audit[key], 3) for audit in row["privacy"].values() for key in _AUDIT]
        spreads = [each for each in row["spread"].values() if each is not None]
        least = min(spreads, key=lambda each: each["median"]) if spreads else None
        lines.append(
            f"| {row['name']} | {' | '.join(told)} | {row['passed_audit']} of {row['seeds']} | {_text(least)} |"
        )
    return lines


def _masks(rows: Sequence[Figures]) -> list[str]:
    told = [
        f"| {row['name']} | {name} | {_text(found['samples']['share'])} | {_text(found['real']['share'])} | "
        f"{_text(found['samples']['pixels'], 0)} | {_text(found['real']['pixels'], 0)} |"
        for row in rows
        for name, found in row["masks"].items()
    ]
    if not told:
        return []
    return [
        "## Masks",
        "",
        "Share of the pictures that show a label, and its median size in pixels on those that do (undefined where a",
        "seed draws none).",
        "",
        "| | label | share of samples | share of held-out | pixels, samples | pixels, held-out |",
        "| --- | --- | --- | --- | --- | --- |",
        *told,
        "",
    ]


def _cost(rows: Sequence[Figures]) -> list[str]:
    return [
        "## Cost of a run",
        "",
        "| | parameters | images shown | images per CPU second | training, CPU s | evaluation, CPU s |",
        "| --- | --- | --- | --- | --- | --- |",
        *(
            f"| {row['name']} | {row['parameters']:,} | {row['images_seen']:,} | "
            f"{row['images_seen'] / max(row['training_cpu_s']['median'], 0.1):.0f} | "
            f"{_text(row['training_cpu_s'], 0)} | {_text(row['evaluation_cpu_s'], 0)} |"
            for row in rows
            if row["trained"]
        ),
    ]


def _warnings(rows: Sequence[Figures]) -> list[str]:
    told = [f"- {row['name']}: {warning}" for row in rows for warning in row["warnings"]]
    return ["## Told in training", "", *told, ""] if told else []


def _text(over: Figures | None, digits: int = 2) -> str:
    if over is None:
        return "undefined"
    if over["low"] == over["high"]:
        return f"{over['median']:.{digits}f}"
    return f"{over['median']:.{digits}f} ({over['low']:.{digits}f} to {over['high']:.{digits}f})"
