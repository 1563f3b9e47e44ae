"""What the sarcoma experiment found, as figures with intervals and as a page that a person reads."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dicom_io.volume import Float64, Volume
from models.evaluation import bootstrap
from models.evaluation.segmentation import Mask
from samples.experiments import pet_baselines

DRAWS = 2000
MASKS: Mapping[str, Callable[[Volume], Mask]] = {
    "SUV of 2.5 and more": pet_baselines.above_fixed_suv,
    "41 % of SUVmax and more": pet_baselines.above_share_of_maximum,
    "geometry: the crop shrunk by 50 mm": pet_baselines.inside_margin,
    "geometry: the ellipsoid inside that": pet_baselines.inscribed_ellipsoid,
}
SCORES: Mapping[str, Callable[[Volume], Float64]] = {
    "SUVmax of the slice": pet_baselines.slice_maximum,
    "geometry: distance from the crop's end": pet_baselines.slice_distance_mm,
}


@dataclass(frozen=True)
class Plan:
    """How large a profile is. patients: in hash order; folds: how many of the deal are run."""

    patients: int
    deal: int
    folds: int
    seeds: int
    total_images: int


@dataclass(frozen=True)
class Outcome:
    """One held-out patient. Dice and sensitivity by method, slice AUROC by score; models: one value per seed."""

    patient: str
    fold: int
    dice: dict[str, float]
    sensitivity: dict[str, float]
    slice_auroc: dict[str, float]
    model_dice: tuple[float, ...]
    model_sensitivity: tuple[float, ...]
    model_slice_auroc: tuple[float, ...]
    model_slice_sensitivity: tuple[float, ...]
    model_slice_specificity: tuple[float, ...]


def figures_of(outcomes: Sequence[Outcome], plan: Plan) -> dict[str, Any]:
    """Means over held-out patients (each the mean over seeds) with intervals, and differences paired by patient."""

    def mean(values: Sequence[float]) -> dict[str, Any]:
        return dict(bootstrap.mean_interval(values, DRAWS).as_json())

    def paired(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
        return dict(bootstrap.difference(ours, theirs, DRAWS).as_json())

    ours = [float(np.mean(each.model_dice)) for each in outcomes]
    ranked = [float(np.mean(each.model_slice_auroc)) for each in outcomes]
    return {
        "patients": len(outcomes),
        "plan": asdict(plan),
        "bootstrap_draws": DRAWS,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "dice": {"model": mean(ours)} | {name: mean([each.dice[name] for each in outcomes]) for name in MASKS},
        "dice_by_seed": [
            round(float(np.mean([each.model_dice[seed] for each in outcomes])), 4) for seed in range(plan.seeds)
        ],
        "sensitivity": {"model": mean([float(np.mean(each.model_sensitivity)) for each in outcomes])}
        | {name: mean([each.sensitivity[name] for each in outcomes]) for name in MASKS},
        "dice_difference": {name: paired(ours, [each.dice[name] for each in outcomes]) for name in MASKS},
        "slice_auroc": {"model": mean(ranked)}
        | {name: mean([each.slice_auroc[name] for each in outcomes]) for name in SCORES},
        "slice_auroc_by_seed": [
            round(float(np.nanmean([each.model_slice_auroc[seed] for each in outcomes])), 4)
            for seed in range(plan.seeds)
        ],
        "slice_auroc_difference": {
            name: paired(ranked, [each.slice_auroc[name] for each in outcomes]) for name in SCORES
        },
        "slice_sensitivity": mean([float(np.mean(each.model_slice_sensitivity)) for each in outcomes]),
        "slice_specificity": mean([float(np.mean(each.model_slice_specificity)) for each in outcomes]),
    }


def report_of(figures: Mapping[str, Any], outcomes: Sequence[Outcome], plan: Plan, profile: str) -> str:
    lines = [
        "# Sarcomas on FDG PET",
        "",
        (
            f"Profile `{profile}`: {plan.patients} patients, {plan.folds} of {plan.deal} folds by patient, "
            f"{plan.seeds} seeds, {figures['patients']} held-out patients, each met once. CPU only "
            f"({figures['machine']}). Means over patients of the mean over seeds; 95 % intervals by a bootstrap of "
            f"patients ({DRAWS} draws); differences paired by patient."
        ),
        "",
        "## Segmentation",
        "",
        "| | Dice | sensitivity | model minus this, Dice |",
        "| --- | --- | --- | --- |",
        (
            f"| U-Net, 16 px windows | {text_of(figures['dice']['model'])} "
            f"| {text_of(figures['sensitivity']['model'])} | |"
        ),
        *(
            f"| {name} | {text_of(figures['dice'][name])} | {text_of(figures['sensitivity'][name])} "
            f"| {text_of(figures['dice_difference'][name])} |"
            for name in MASKS
        ),
        "",
        f"Dice by seed: {', '.join(map(str, figures['dice_by_seed']))}.",
        "",
        *(_verdict("Dice", name, figures["dice_difference"][name]) for name in MASKS),
        "",
        "## Slices: tumour or not",
        "",
        "| | AUROC within a patient | model minus this |",
        "| --- | --- | --- |",
        f"| ResNet, most suspicious 16 px window | {text_of(figures['slice_auroc']['model'])} | |",
        *(
            f"| {name} | {text_of(figures['slice_auroc'][name])} | {text_of(figures['slice_auroc_difference'][name])} |"
            for name in SCORES
        ),
        "",
        (
            f"AUROC by seed: {', '.join(map(str, figures['slice_auroc_by_seed']))}. At the threshold fixed on "
            f"validation: sensitivity {text_of(figures['slice_sensitivity'])}, "
            f"specificity {text_of(figures['slice_specificity'])}."
        ),
        "",
        *(_verdict("slice AUROC", name, figures["slice_auroc_difference"][name]) for name in SCORES),
        "",
        "## Each held-out patient (Dice, mean over seeds)",
        "",
        f"| patient | fold | model | {' | '.join(MASKS)} |",
        f"| --- | --- | --- | {' | '.join('---' for _ in MASKS)} |",
        *(
            f"| {each.patient} | {each.fold + 1} | {np.mean(each.model_dice):.3f} | "
            f"{' | '.join(f'{each.dice[name]:.3f}' for name in MASKS)} |"
            for each in sorted(outcomes, key=lambda each: each.patient)
        ),
        "",
        "The crops are their lesions plus 50 mm, so geometry knows what no scan of a new patient tells: it is a bar",
        "for suspicion, not for use. Nothing here is for clinical use.",
        "",
    ]
    return "\n".join(lines)


def text_of(interval: Mapping[str, float | None]) -> str:
    """A figure with its interval."""
    if interval["value"] is None:
        return "undefined"
    if interval["low"] is None or interval["high"] is None:
        return f"{interval['value']:.3f}"
    return f"{interval['value']:.3f} ({interval['low']:.3f} to {interval['high']:.3f})"


def _verdict(metric: str, name: str, interval: Mapping[str, float | None]) -> str:
    low, high = interval["low"], interval["high"]
    if low is None or high is None or low == high:
        words = "cannot be compared (too few patients) with"
    elif low > 0:
        words = "is better than"
    elif high < 0:
        words = "is worse than"
    else:
        words = "is not shown to differ from"
    return f"- In {metric} the model {words} *{name}*."
