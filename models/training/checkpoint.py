"""Checkpoints that survive kill -9: written beside, synced, renamed; tensors and plain numbers only.

What is random is a function of (seed, step) (`randomness`), so step and images seen are the state of sampler and
augmentation, and a run that is killed and resumed ends in the very weights of one that was not (bit by bit, on a CPU).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dicom_io.errors import Rejected


def save(path: Path, content: Mapping[str, Any]) -> None:
    """Write atomically: after a crash the file is the old one or the new one, never a part."""
    beside = path.with_suffix(".partial")
    with beside.open("wb") as file:
        torch.save(dict(content), file)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    if os.name != "posix":  # Windows opens no folders; there the rename is as durable as it gets
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def load(path: Path, fingerprint: str) -> dict[str, Any] | None:
    """What `save` wrote, or None where there is none yet.

    fingerprint: of recipe and data; a checkpoint of another training is refused.

    Raises:
        Rejected: the checkpoint belongs to another recipe or cohort.
    """
    if not path.is_file():
        return None
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if content["fingerprint"] != fingerprint:
        raise Rejected(
            f"{path} belongs to another recipe or cohort, or was begun by another release; choose another run folder, "
            "or resume with those"
        )
    return content
