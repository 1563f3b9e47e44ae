"""Segmentation: overlap, volume and surface per patient, beside masks that anyone could draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from models.evaluation import bootstrap, groups, lesions

Mask = npt.NDArray[np.bool_]
# How far surfaces may lie apart and still count as one, where nobody says; no measure of how readers differ.
TOLERANCE_MM = 2.0
FIGURES = (
    "dice",
    "sensitivity",
    "precision",
    "volume_error",
    "h95_mm",
    "surface_dice",
    "absolute_volume_difference",
    "lesion_recall",
    "lesion_precision",
    "lesion_f1",
    "h95_in_plane_mm",
)


def dice(ours: Mask, truth: Mask) -> float:
    """2 |A and B| / (|A| + |B|); 1 where both are empty."""
    total = int(ours.sum()) + int(truth.sum())
    return 2 * int((ours & truth).sum()) / total if total else 1.0


def surfaces(
    ours: Mask, truth: Mask, spacing_mm: Sequence[float], tolerance_mm: float = TOLERANCE_MM
) -> dict[str, float]:
    """h95_mm: 95th percentile of surface distances, the larger of both directions; nan where a mask is empty.

    surface_dice: share of both surfaces that lies within the tolerance of the other (Nikolov 2018, section 4.3, where
    it is the normalised surface Dice; voxels of the surface counted alike, as MONAI does); nan where both masks are
    empty, 0 where one is.

    Own code: MONAI 1.6's metrics pass themselves an argument that they deprecate, and warn at every call.
    """
    if not (ours.any() and truth.any()):
        return {"h95_mm": float("nan"), "surface_dice": 0.0 if ours.any() or truth.any() else float("nan")}
    of_ours, of_truth = (mask & ~ndimage.binary_erosion(mask) for mask in (ours, truth))
    found = lesions.distances_mm(of_ours, of_truth, spacing_mm)
    return {
        "h95_mm": max(float(np.percentile(distances, 95)) for distances in found),
        "surface_dice": float((np.concatenate(found) <= tolerance_mm).mean()),
    }


@dataclass(frozen=True, eq=False)
class Pair:
    """Our mask and the truth of one case, (slices, rows, columns); spacing_mm (slice, row, column)."""

    patient: str
    ours: Mask
    truth: Mask
    spacing_mm: tuple[float, float, float]


def figures(pair: Pair, tolerance_mm: float = TOLERANCE_MM) -> dict[str, float]:
    """dice, sensitivity, precision, volume_error (signed share of the true volume), volumes in ml, and those of
    `surfaces` and of `models.evaluation.lesions`."""
    ours, truth = int(pair.ours.sum()), int(pair.truth.sum())
    both = int((pair.ours & pair.truth).sum())
    voxel_ml = float(np.prod(pair.spacing_mm)) / 1000
    return {
        "dice": dice(pair.ours, pair.truth),
        "sensitivity": both / truth if truth else float("nan"),
        "precision": both / ours if ours else float("nan"),
        "volume_error": (ours - truth) / truth if truth else float("nan"),
        "volume_ml": ours * voxel_ml,
        "true_volume_ml": truth * voxel_ml,
        **surfaces(pair.ours, pair.truth, pair.spacing_mm, tolerance_mm),
        **lesions.figures(pair.ours, pair.truth, pair.spacing_mm),
    }


def per_patient(pairs: Sequence[Pair], tolerance_mm: float = TOLERANCE_MM) -> dict[str, dict[str, float]]:
    """Mean over a patient's cases, by patient in sorted order."""
    by_patient: dict[str, list[dict[str, float]]] = {}
    for pair in sorted(pairs, key=lambda pair: pair.patient):
        by_patient.setdefault(pair.patient, []).append(figures(pair, tolerance_mm))
    return {
        patient: {name: float(np.mean([line[name] for line in lines])) for name in lines[0]}
        for patient, lines in by_patient.items()
    }


def evaluate(
    pairs: Sequence[Pair],
    baselines: Mapping[str, Sequence[Pair]],
    *,
    threshold: float,
    draws: int,
    stated: Sequence[Mapping[str, str]] = (),
    tolerance_mm: float = TOLERANCE_MM,
) -> dict[str, Any]:
    """The report of a segmenter on patients that it has not seen, beside the baselines' masks of the same cases.

    stated: of each pair its groups, by kind. `difference` per baseline: ours minus theirs in Dice, paired by patient;
    `baseline_dice`: theirs, in the order of `per_patient`.
    """
    ours = per_patient(pairs, tolerance_mm)
    dices = [line["dice"] for line in ours.values()]
    report: dict[str, Any] = {
        "patients": len(ours),
        "cases": len(pairs),
        "threshold": threshold,
        "surface_tolerance_mm": tolerance_mm,
        "metrics": _intervals(ours, draws),
        "per_patient": [{"patient": name} | _jsonable(line) for name, line in ours.items()],
        "lesions_by_size": _by_size(pairs),
        "groups": _by_group(pairs, stated, draws),
        "baselines": {},
        "baseline_dice": {},
        "difference": {},
    }
    beaten = []
    for name, masks in baselines.items():
        theirs = per_patient(masks, tolerance_mm)
        apart = bootstrap.difference(dices, [line["dice"] for line in theirs.values()], draws)
        report["baselines"][name] = _intervals(theirs, draws)
        report["baseline_dice"][name] = [round(line["dice"], 5) for line in theirs.values()]
        report["difference"][name] = apart.as_json()
        beaten.append(apart.low > 0)
    report["primary"] = {"metric": "dice"} | dict(report["metrics"]["dice"])
    report["beats_baseline"] = bool(beaten) and all(beaten)
    return report


def _by_group(pairs: Sequence[Pair], stated: Sequence[Mapping[str, str]], draws: int) -> dict[str, Any]:
    """Dice of groups; of a patient with cases in several of them, those of the group."""
    patients = np.array([pair.patient for pair in pairs])
    dices = np.array([dice(pair.ours, pair.truth) for pair in pairs])

    def measure(chosen: groups.Chosen) -> dict[str, bootstrap.Interval]:
        names = np.unique(patients[chosen])
        means = [float(dices[chosen & (patients == name)].mean()) for name in names]
        return {"dice": bootstrap.mean_interval(means, draws)}

    return groups.evaluate(stated, patients.tolist(), measure)


def _by_size(pairs: Sequence[Pair]) -> dict[str, dict[str, int]]:
    """Of all patients together: lesions that were found, and lesions that there are."""
    counts = [lesions.by_size(pair.ours, pair.truth, float(np.prod(pair.spacing_mm)) / 1000) for pair in pairs]
    return {
        name: {"found": sum(each[name][0] for each in counts), "lesions": sum(each[name][1] for each in counts)}
        for name in lesions.size_names()
    }


def _intervals(lines: Mapping[str, Mapping[str, float]], draws: int) -> dict[str, Any]:
    values = {name: [line[name] for line in lines.values()] for name in FIGURES}
    return {name: bootstrap.mean_interval(column, draws).as_json() for name, column in values.items()}


def _jsonable(line: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if np.isnan(value) else round(value, 5) for name, value in line.items()}


@dataclass(frozen=True)
class BrightnessRule:
    """The strongest rule without a network: one channel (after the chain) above (or below) one value."""

    channel: int
    cut: float
    above: bool

    def mask(self, image: npt.NDArray[np.float32]) -> Mask:
        """image: (C, slices, rows, columns)."""
        values = image[self.channel]
        return values >= self.cut if self.above else values <= self.cut


def brightness_rule(images: Sequence[npt.NDArray[np.float32]], truths: Sequence[Mask]) -> BrightnessRule:
    """The channel, side and value with the best mean Dice on the training cases (a supervised Otsu)."""
    best, best_score = BrightnessRule(0, float("inf"), True), -1.0
    for channel in range(len(images[0])):
        values = np.concatenate([image[channel].ravel()[::7] for image in images])
        for above in (True, False):
            shares = np.linspace(50, 99.9, 40) if above else np.linspace(0.1, 50, 40)
            for cut in np.unique(np.percentile(values, shares)).tolist():
                rule = BrightnessRule(channel, cut, above)
                score = float(
                    np.mean([dice(rule.mask(image), truth) for image, truth in zip(images, truths, strict=True)])
                )
                if score > best_score:
                    best, best_score = rule, score
    return best
