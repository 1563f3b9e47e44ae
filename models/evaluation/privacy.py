"""Does the generator hand out its training patients? Nearest neighbours, with controls that show the test can tell.

Copy rate: the share of samples that lie closer to a training image than 99 of 100 held-out patients' images do. Each
sample is also tried turned and mirrored (8 ways) and shifted by two pixels, as augmentation would hide a copy. Held-out
images go through the same search, so that both sides have the same chances.

Positive control: planted copies of training images, plain, turned, shifted and with another contrast, must be found.
Negative control: held-out patients judged by the other held-out patients must pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from models.evaluation import bootstrap
from models.evaluation.subsets import thinned

PERCENTILE = 1.0
SHIFTS_PX = (-2, 0, 2)
_COMPARED_PX = 16
Space = Callable[[Tensor], Tensor]


def small_pixels(images: Tensor) -> Tensor:
    """(N, planes, px, px) -> (N, planes * 256): area-averaged to 16 px, each without its brightness and contrast; of
    volumes to 8 px, (N, planes * 512)."""
    if images.ndim == 5:
        pooled = F.adaptive_avg_pool3d(images, _COMPARED_PX // 2)
    else:
        pooled = F.adaptive_avg_pool2d(images, _COMPARED_PX)
    flat = pooled.flatten(1).double()
    flat = flat - flat.mean(1, keepdim=True)
    return flat / flat.norm(dim=1, keepdim=True).clamp_min(1e-6)


def views(images: Tensor) -> list[Tensor]:
    """The eight turns and mirrors, and small shifts of the plain one."""
    turned = [torch.rot90(side, turn, (-2, -1)) for side in (images, images.flip(-1)) for turn in range(4)]
    shifts = [(down, across) for down in SHIFTS_PX for across in SHIFTS_PX if down or across]
    moved = [torch.roll(images, shift, (-2, -1)) for shift in shifts]
    return turned + moved


def nearest(images: Tensor, training: Tensor, space: Space) -> npt.NDArray[np.float64]:
    """(N,) distance of each image, in its best view, to its nearest training image."""
    targets = space(training)
    best = torch.full((len(images),), float("inf"), dtype=torch.float64)
    for view in views(images):
        best = torch.minimum(best, torch.cdist(space(view), targets).min(1).values)
    return best.numpy()


def planted(training: Tensor) -> Tensor:
    """Copies as a leaking generator makes them: plain, turned, shifted, with another contrast, with a little noise."""
    source = torch.Generator().manual_seed(3)
    fifths = training.chunk(5)
    changes: list[Callable[[Tensor], Tensor]] = [
        lambda part: part,
        lambda part: torch.rot90(part, 1, (-2, -1)),
        lambda part: torch.roll(part, (2, -2), (-2, -1)),
        lambda part: part * 0.9 - 0.05,
        lambda part: part + 0.02 * torch.randn(part.shape, generator=source),
    ]
    return torch.cat([change(part) for part, change in zip(fifths, changes, strict=False)])


def evaluate(
    synthetic: Tensor, training: Tensor, held_out: tuple[Tensor, Sequence[str]], spaces: Sequence[Space], *, draws: int
) -> dict[str, Any]:
    """The audit, per feature space, and one verdict.

    `passed`: in every space copies are at most 1 % of the samples (value) and 5 % (upper bound), and the controls hold
    (recall of planted copies >= 0.95, held-out flagged <= 5 %); a space whose controls fail cannot pass anything.
    """
    unseen, patients = thinned(*held_out, most=400)
    copies = planted(training[torch.linspace(0, len(training) - 1, min(100, len(training))).long()])
    report: dict[str, Any] = {"synthetic_images": len(synthetic), "held_out_patients": len(set(patients)), "spaces": {}}
    verdicts = []
    for space in spaces:
        of_unseen = nearest(unseen, training, space)
        threshold = float(np.percentile(of_unseen, PERCENTILE))
        flagged = (nearest(synthetic, training, space) < threshold).astype(float)
        rate = bootstrap.mean_interval(flagged, draws)
        recall = float((nearest(copies, training, space) < threshold).mean())
        negative = _judged_by_others(of_unseen, np.asarray(patients))
        controls = recall >= 0.95 and (np.isnan(negative) or negative <= 0.05)
        verdicts.append(controls and rate.value <= 0.01 and rate.high <= 0.05)
        report["spaces"][getattr(space, "name", getattr(space, "__name__", "features"))] = {
            "threshold": round(threshold, 5),
            "copy_rate": rate.as_json(),
            "planted_recall": round(recall, 4),
            "held_out_flagged": None if np.isnan(negative) else round(negative, 4),
            "controls_hold": bool(controls),
            "passed": bool(verdicts[-1]),
        }
    report["passed"] = all(verdicts)
    return report


def _judged_by_others(distances: npt.NDArray[np.float64], patients: npt.NDArray[np.str_]) -> float:
    """Share of held-out images below the threshold that the other held-out patients set; nan for a single patient."""
    names = np.unique(patients)
    if len(names) < 2:
        return float("nan")
    flagged = [distances[patients == name] < np.percentile(distances[patients != name], PERCENTILE) for name in names]
    return float(np.concatenate(flagged).mean())
