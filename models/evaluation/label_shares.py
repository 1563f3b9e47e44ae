"""Masks that are made beside pictures: how often a label is on one at all, and how much of it, beside the reals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def shown(planes: Tensor) -> Tensor:
    """(N, labels, *size) in [-1, 1] -> the same, bool: the label that covers most of a pixel, and half of it."""
    most, label = planes.max(1, keepdim=True)
    numbers = torch.arange(planes.shape[1], device=planes.device).reshape(1, -1, *[1] * (planes.ndim - 2))
    return (label == numbers) & (most > 0)


def frequency(planes: Tensor) -> list[float]:
    """Of each label: the share of the pictures (N, labels, *size) that show it."""
    shares: list[float] = shown(planes).flatten(2).any(2).float().mean(0).tolist()
    return shares


def evaluate(made: Tensor, real: Tensor, names: Sequence[str]) -> dict[str, Any]:
    """Of each label, of samples and of reals: `share` of the pictures that show it, and the median `pixels` of those
    that do (None where none does).

    made, real: (N, labels, *size) in [-1, 1]; names: of the labels.
    """
    return {
        name: {"samples": _of(shown(made)[:, number]), "real": _of(shown(real)[:, number])}
        for number, name in enumerate(names)
    }


def _of(label: Tensor) -> dict[str, float | None]:
    pixels = label.flatten(1).sum(1)
    some = pixels[pixels > 0].double()
    return {
        "share": round(len(some) / len(pixels), 4),
        "pixels": float(some.quantile(0.5)) if len(some) else None,
    }
