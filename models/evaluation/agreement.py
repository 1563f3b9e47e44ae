"""How near a picture comes to the one true picture of the same slice, and to what anyone could have given instead.

Pictures are in [-1, 1]; figures are in shares of that range, which is the recipe's pixel_range. x: made, y: true, n
pixels:

    absolute error    mean |x - y|
    psnr              -10 log10 of mean (x - y)^2, in dB
    ssim              Wang 2004: 11 x 11 Gaussian windows of 1.5 pixels, K1 = 0.01, K2 = 0.03, a mean over the picture

They are for pictures that have one truth. A blurred picture scores well on the first two.
"""

# torch leaves Tensor.split without types.
# mypy: disallow-untyped-calls=False

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.metrics.regression import compute_ssim_and_cs
from torch import Tensor

from models.evaluation import bootstrap

FIGURES = ("absolute_error", "psnr_db", "ssim")
_WINDOW_PX = 11


def figures(made: Tensor, true: Tensor) -> dict[str, float]:
    """made, true: (slices, planes, rows, columns) in [-1, 1], of one case."""
    apart = (made - true).double() / 2
    return {
        "absolute_error": float(apart.abs().mean()),
        "psnr_db": float(-10 * torch.log10(apart.square().mean().clamp_min(1e-12))),
        "ssim": ssim(made, true),
    }


def ssim(made: Tensor, true: Tensor) -> float:
    """The mean over pictures; nan where they are smaller than a window.

    MONAI's, whose windows stay inside the picture.
    """
    if min(true.shape[-2:]) < _WINDOW_PX:
        return float("nan")
    similar = [
        compute_ssim_and_cs((a + 1) / 2, (b + 1) / 2, 2, [_WINDOW_PX] * 2, [1.5] * 2)[0]
        for a, b in zip(made.split(32), true.split(32), strict=True)
    ]
    return float(torch.cat(similar).mean())


@dataclass(frozen=True, eq=False)
class Compared:
    """One case. made, true: (slices, planes, rows, columns) in [-1, 1]; baselines: the same by name."""

    patient: str
    made: Tensor
    true: Tensor
    baselines: Mapping[str, Tensor]


def evaluate(compared: Sequence[Compared], *, draws: int) -> dict[str, Any]:
    """Means over patients with intervals, of ours and of every baseline, and the paired difference in absolute error.

    difference: theirs minus ours, so that above 0 is better than the baseline.
    """
    ours = _per_patient([(each.patient, figures(each.made, each.true)) for each in compared])
    report: dict[str, Any] = {
        "patients": len(ours),
        "cases": len(compared),
        "metrics": _intervals(ours, draws),
        "per_patient": [{"patient": name} | _jsonable(line) for name, line in ours.items()],
        "baselines": {},
        "difference": {},
    }
    for name in compared[0].baselines:
        theirs = _per_patient([(each.patient, figures(each.baselines[name], each.true)) for each in compared])
        report["baselines"][name] = _intervals(theirs, draws)
        their_errors, our_errors = ([line["absolute_error"] for line in lines.values()] for lines in (theirs, ours))
        report["difference"][name] = bootstrap.difference(their_errors, our_errors, draws).as_json()
    lows = [apart["low"] for apart in report["difference"].values()]
    report["beats_baselines"] = bool(lows) and all(low is not None and low > 0 for low in lows)
    return report


def _per_patient(lines: Sequence[tuple[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    found: dict[str, list[dict[str, float]]] = {}
    for patient, line in lines:
        found.setdefault(patient, []).append(line)
    return {
        patient: {name: float(np.mean([line[name] for line in found[patient]])) for name in FIGURES}
        for patient in sorted(found)
    }


def _intervals(lines: Mapping[str, Mapping[str, float]], draws: int) -> dict[str, Any]:
    return {name: bootstrap.mean_interval([line[name] for line in lines.values()], draws).as_json() for name in FIGURES}


def _jsonable(line: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if np.isnan(value) else round(value, 5) for name, value in line.items()}


def coarsened(pictures: Tensor, factor: int) -> Tensor:
    """Pixels that are `factor` times as wide: each the mean of those that it covers."""
    return F.avg_pool2d(pictures, factor)
