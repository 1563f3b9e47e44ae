"""Normalisation layers as MONAI's factories name them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any


def definition(name: str, channels: Sequence[int]) -> Any:
    """MONAI's form of "batch", "instance" or "group"; channels: of every layer, cut into eight groups or fewer."""
    if name == "group":
        return ["group", {"num_groups": math.gcd(8, *channels)}]
    return [name, {"affine": True}]
