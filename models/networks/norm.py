"""Normalisation layers as MONAI's factories name them."""

from __future__ import annotations

from typing import Any


def definition(name: str, smallest_channels: int) -> Any:
    """MONAI's form of "batch", "instance" or "group"; groups of eight where the smallest layer allows it."""
    if name == "group":
        return ["group", {"num_groups": 8 if smallest_channels % 8 == 0 else 1}]
    return [name, {"affine": True}]
