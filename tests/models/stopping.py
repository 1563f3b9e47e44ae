"""How tests stop a training where a kill would, and compare what two of them have left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from models.version import read_weights


class Stop(Exception):
    """What a test raises out of a training."""


def stop_at(images: int) -> Callable[[dict[str, Any]], None]:
    def listen(event: dict[str, Any]) -> None:
        if event["kind"] == "report" and event["images_seen"] >= images:
            raise Stop

    return listen


def same(one: Path, other: Path) -> bool:
    """Whether two runs have the very same weights."""
    first, second = (read_weights(run / "models" / "model.pt") for run in (one, other))
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
