"""One file of a corpus; apart from what writes it, so that a sender's process starts without numpy and pydicom."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Item:
    """One file of a corpus."""

    path: Path
    modality: str
    sop_class_uid: str
    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    size: int
