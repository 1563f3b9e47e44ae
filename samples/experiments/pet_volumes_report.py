"""What segmenters of slices and of volumes found of sarcomas, as figures with intervals and as a page."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from models.evaluation import bootstrap
from samples.experiments.pet_report import DRAWS, MASKS, text_of

COUNTED = ("dice", "sensitivity", "precision", "h95_mm", "lesion_recall", "lesion_precision")


@dataclass(frozen=True)
class Plan:
    """How large a profile is. patients: in hash order; folds: how many of the deal are run; share: of the images that
    the recipes say."""

    patients: int
    deal: int
    folds: int
    seeds: int
    share: float


@dataclass(frozen=True)
class Found:
    """One held-out patient: figures by rule, and by line, one for each seed."""

    patient: str
    fold: int
    rules: dict[str, dict[str, float]]
    lines: dict[str, list[dict[str, float]]]

    def mean(self, method: str, figure: str) -> float:
        """Of a rule, or of a line's seeds; nan where it is undefined for all of them."""
        each = self.lines.get(method) or [self.rules[method]]
        values = [one[figure] for one in each if not np.isnan(one[figure])]
        return float(np.mean(values)) if values else float("nan")


def as_json(found: Found) -> dict[str, Any]:
    """With null where a figure is undefined, and four digits."""

    def plain(each: Mapping[str, float]) -> dict[str, float | None]:
        return {name: None if np.isnan(value) else round(value, 4) for name, value in each.items()}

    return {
        "patient": found.patient,
        "fold": found.fold,
        "rules": {name: plain(each) for name, each in found.rules.items()},
        "lines": {name: [*map(plain, seeds)] for name, seeds in found.lines.items()},
    }


def figures_of(found: Sequence[Found], plan: Plan, lines: Sequence[str]) -> dict[str, Any]:
    """Means over held-out patients (each the mean over seeds) with intervals, and differences paired by patient."""
    methods = [*lines, *MASKS]
    by_patient = {
        figure: {method: [each.mean(method, figure) for each in found] for method in methods} for figure in COUNTED
    }
    return {
        "patients": len(found),
        "plan": asdict(plan),
        "bootstrap_draws": DRAWS,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "figures": {
            method: {
                figure: dict(bootstrap.mean_interval(by_patient[figure][method], DRAWS).as_json()) for figure in COUNTED
            }
            for method in methods
        },
        "dice_by_seed": {
            line: [
                round(float(np.mean([each.lines[line][seed]["dice"] for each in found])), 4)
                for seed in range(plan.seeds)
            ]
            for line in lines
        },
        "dice_difference": {
            line: {
                other: dict(bootstrap.difference(by_patient["dice"][line], by_patient["dice"][other], DRAWS).as_json())
                for other in methods
                if other != line
            }
            for line in lines
        },
    }


def report_of(
    figures: Mapping[str, Any], found: Sequence[Found], plan: Plan, profile: str, lines: Sequence[str]
) -> str:
    methods = [*lines, *MASKS]
    words = {"h95_mm": "H95, mm"}
    return "\n".join(
        [
            "# Sarcomas on FDG PET: slices and volumes",
            "",
            (
                f"Profile `{profile}`: {plan.patients} patients, {plan.folds} of {plan.deal} folds by patient, "
                f"{plan.seeds} seeds, {figures['patients']} held-out patients, each met once. CPU only "
                f"({figures['machine']}). Means over patients of the mean over seeds; 95 % intervals by a bootstrap of "
                f"patients ({DRAWS} draws); differences paired by patient."
            ),
            "",
            *_table(["", *(words.get(name, name.replace("_", " ")) for name in COUNTED)]),
            *(_row([method, *(text_of(figures["figures"][method][name]) for name in COUNTED)]) for method in methods),
            "",
            "## Dice: this line minus that",
            "",
            *_table(["", *lines]),
            *(
                _row([other, *(_difference(figures["dice_difference"][line], other) for line in lines)])
                for other in methods
            ),
            "",
            *(
                f"Dice of the {line} by seed: {', '.join(map(str, seeds))}."
                for line, seeds in figures["dice_by_seed"].items()
            ),
            "",
            "## Each held-out patient (Dice, mean over seeds)",
            "",
            *_table(["patient", "fold", *methods]),
            *(
                _row([each.patient, str(each.fold + 1), *(f"{each.mean(method, 'dice'):.3f}" for method in methods)])
                for each in sorted(found, key=lambda each: each.patient)
            ),
            "",
        ]
    )


def _difference(of: Mapping[str, Any], other: str) -> str:
    return text_of(of[other]) if other in of else ""


def _table(names: Sequence[str]) -> list[str]:
    return [_row(names), _row(["---"] * len(names))]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
