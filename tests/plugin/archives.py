"""An archive in a folder, and the ways that tests put objects into it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dicom_objects import file_of
from pydicom import Dataset

from dicom_io.provenance import LabelRecord
from plugin.archive.arrival import Arrival
from plugin.archive.index import Index
from plugin.archive.ingest import Ingest, Outcome
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
