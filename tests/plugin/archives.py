"""An archive in a folder, and the ways that tests put objects into it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from io import BytesIO
from pathlib import Path

import numpy as np
from dicom_objects import file_of
from pydicom import Dataset

from dicom_io import secondary_capture
from dicom_io.provenance import LabelRecord, ModelIdentity
from plugin.archive.arrival import Arrival
from plugin.archive.decision import Outcome
from plugin.archive.index import Index
from plugin.archive.ingest import Ingest
from plugin.archive.storage import Storage
from plugin.settings import Correction

PEER = Arrival("dimse", "SCANNER", "MIRALL", "10.0.0.7")


def archive(folder: Path, on_correction: Correction = "replace", now: Callable[[], float] = lambda: 1000.0) -> Ingest:
    index = Index(folder)
    index.upgrade()
    return Ingest(index, Storage(folder), on_correction, now=now)


def give(ingest: Ingest, what: Dataset | bytes, record: LabelRecord | None = None, arrival: Arrival = PEER) -> Outcome:
    """Through incoming/, as a door does."""
    reception = ingest.storage.receive()
    reception.write(what if isinstance(what, bytes) else file_of(what))
    return ingest.accept(reception.finish(), arrival, record)


MODEL = ModelIdentity("painter", "1", "5a" * 32, "unproven")


def generated(seed: int = 3) -> tuple[Dataset, LabelRecord]:
    """A synthetic picture of ours with its record."""
    frames = np.linspace(0, 1, 2 * 24 * 31, dtype=np.float32).reshape(2, 24, 31)
    ((dataset, record),) = secondary_capture.generated(
        frames,
        model=MODEL,
        seed=seed,
        label="lesion",
        spacing_mm=(1.0, 1.0),
        units="1",
        made_at=datetime(2026, 1, 2, 3, 4, 5),
        audit_id="audit-1",
    )
    return dataset, record


def bytes_of(dataset: Dataset) -> bytes:
    """The file that `dataset` makes, with its own file meta information."""
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
