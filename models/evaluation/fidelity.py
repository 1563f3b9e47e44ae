"""Kernel distance (KID, Binkowski 2018) between synthetic and real slices, over the distance of real from real.

Unbiased estimate of squared MMD with the kernel k(x, y) = (x . y / d + 1)^3. Its size means nothing by itself: the
floor is the same distance between two halves of the real patients. Controls that must be worse (blurred, noisy) say
whether the feature space can tell at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.evaluation import bootstrap, frechet, neighbours
from models.evaluation.subsets import AT_MOST, halvings, thinned


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def kid(x: Tensor, y: Tensor) -> float:
    """Unbiased squared MMD of two sets of features (n, d); may be slightly negative where they are alike."""
    ones = [torch.ones(len(features), dtype=torch.float64) for features in (x, y)]
    return _weighted(_kernel(x, x), _kernel(y, y), _kernel(x, y), *ones)


def _weighted(k_xx: Tensor, k_yy: Tensor, k_xy: Tensor, a: Tensor, b: Tensor) -> float:
    """With weights; a pair of one image with itself never counts, however often a bootstrap drew it."""

    def within(k: Tensor, w: Tensor) -> Tensor:
        return (w @ k @ w - (w**2) @ k.diagonal()) / (w.sum() ** 2 - (w**2).sum())

    return float(within(k_xx, a) + within(k_yy, b) - 2 * (a @ k_xy @ b) / (a.sum() * b.sum()))


def spread(made: Tensor, real: Tensor) -> float:
    """How much samples of one class differ among each other, beside how much its reals do: 1 is as much, 0 not at all.

    made, real: features (n, d). The median over features of the ratio of standard deviations; nan where the reals are
    fewer than two, or all the same. A generator that collapsed shows here, and in no loss.
    """
    if min(len(made), len(real)) < 2:
        return float("nan")
    deviation = real.std(0)
    known = deviation > 1e-9
    return float((made.std(0)[known] / deviation[known]).median()) if known.any() else float("nan")


def blurred(images: Tensor) -> Tensor:
    """Smoothed by a mean of 5 pixels along every axis, twice: what an under-trained generator makes."""
    dims = images.ndim - 2
    mean = F.avg_pool3d if dims == 3 else F.avg_pool2d
    for _ in range(2):
        images = mean(F.pad(images, [2] * 2 * dims, mode="replicate"), 5, stride=1)
    return images


def noisy(images: Tensor, share: float = 0.1) -> Tensor:
    """With white noise of this share of the range, which is -1 to 1."""
    source = torch.Generator().manual_seed(1)
    return images + 2 * share * torch.randn(images.shape, generator=source)


def evaluate(
    synthetic: Tensor,
    training: tuple[Tensor, Sequence[str]],
    held_out: tuple[Tensor, Sequence[str]],
    spaces: Sequence[Callable[[Tensor], Tensor]],
    *,
    draws: int,
) -> dict[str, Any]:
    """Per feature space: KID to training and to held-out patients, the real-vs-real floor, and the controls; the
    Frechet distance with its own (`frechet.evaluate`); precision, recall, density, coverage (`neighbours.evaluate`).

    Intervals resample patients (real) and samples (synthetic). `ratio`: KID to held-out patients over the
    upper end of the floor (its mean is about 0 where patients are alike); at most 1 is as close as real is to real.
    `usable`: the controls are told apart from real; where they are not, the space says nothing and has no ratio.
    """
    train_images, train_patients = thinned(*training)
    test_images, test_patients = thinned(*held_out)
    synthetic = synthetic[:AT_MOST]
    report: dict[str, Any] = {
        "synthetic_images": len(synthetic),
        "training_images": len(train_images),
        "held_out_images": len(test_images),
        "held_out_patients": len(set(test_patients)),
        "spaces": {},
    }
    for space in spaces:
        whole = torch.cat([space(train_images), space(test_images)])
        # One scale for all spaces, and for every term: that of the real images.
        scaled = _scaled(space, whole)
        made, seen, unseen = scaled(synthetic), scaled(train_images), scaled(test_images)
        whole = torch.cat([seen, unseen])
        owners = [*train_patients, *test_patients]
        floor = real_floor(whole, owners, min(draws, 200))
        to_held_out = kid_interval(made, unseen, test_patients, min(draws, 500))
        worse = {name: scaled(change(test_images)) for name, change in (("blurred", blurred), ("noisy", noisy))}
        controls = {name: kid(features, unseen) for name, features in worse.items()}
        usable = all(value > floor.high for value in controls.values())
        report["spaces"][getattr(space, "name", "features")] = {
            "kid_to_held_out": to_held_out.as_json(),
            "kid_to_training": round(kid(made, seen), 6),
            "floor": floor.as_json(),
            "ratio": round(to_held_out.value / floor.high, 3) if usable else None,
            "controls": {name: round(value, 6) for name, value in controls.items()},
            "usable": usable,
            "frechet": frechet.evaluate(made, seen, unseen, owners, worse, draws=draws),
            "neighbours": neighbours.evaluate(made, seen, unseen),
        }
    return report


def _scaled(space: Callable[[Tensor], Tensor], real: Tensor) -> Callable[[Tensor], Tensor]:
    """The space with each feature centred and scaled on the real images, so that texture counts beside brightness."""
    centre, scale = centre_and_scale(real)
    return lambda images: (space(images) - centre) / scale


def centre_and_scale(real: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation per feature; the deviation is at least a tenth of the typical one, or noise would rule."""
    deviation = real.std(0)
    return real.mean(0), deviation.clamp_min(float(deviation.square().mean().sqrt()) / 10 + 1e-9)


def kid_interval(made: Tensor, real: Tensor, patients: Sequence[str], draws: int) -> bootstrap.Interval:
    """KID with patients (real) and samples (synthetic) resampled."""
    kernels = _kernel(made, made), _kernel(real, real), _kernel(made, real)
    names, number = np.unique(np.asarray(patients), return_inverse=True)
    of_patients = bootstrap.counts(len(names), draws, 0)[:, number]
    of_samples = bootstrap.counts(len(made), draws, 1)
    drawn = [
        _weighted(*kernels, torch.from_numpy(a).double(), torch.from_numpy(b).double())
        for a, b in zip(of_samples, of_patients, strict=True)
    ]
    return bootstrap.interval(kid(made, real), np.array(drawn))


def real_floor(features: Tensor, patients: Sequence[str], draws: int) -> bootstrap.Interval:
    """KID between two halves of the patients, over random halvings; value: their mean. nan below two patients."""
    kernel = _kernel(features, features)
    halves = []
    for a, b in halvings(patients, draws):
        blocks = kernel[a][:, a], kernel[b][:, b], kernel[a][:, b]
        halves.append(_weighted(*blocks, *(torch.ones(len(x), dtype=torch.float64) for x in (a, b))))
    values = np.array(halves)
    return bootstrap.interval(float(values.mean()) if len(values) else np.nan, values)
