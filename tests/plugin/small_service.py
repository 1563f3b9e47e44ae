"""A data folder with a fake model version, small studies that arrive in it, and workers that can be killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import IO, TypeVar

from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from plugin import settings
from plugin.archive.arrival import Arrival
from plugin.archive.decision import Outcome
from plugin.archive.index import InstanceRow
from plugin.archive.ingest import open_archive
from plugin.jobs.port import Jobs, JobView

Seen = TypeVar("Seen")
MODEL = "fake:1"


def instance_bytes(
    study: str, *, series: str = "", uid: str = "", modality: str = "MR", description: str = "T1", value: int = 7
) -> bytes:
    """A slice of 6 x 4 pixels as a DICOM file."""
    dataset = Dataset()
    dataset.SOPClassUID = MRImageStorage
    dataset.SOPInstanceUID = uid or generate_uid()
    dataset.StudyInstanceUID = study
    dataset.SeriesInstanceUID = series or generate_uid(entropy_srcs=[study, modality, description])
    dataset.PatientID, dataset.PatientName = "P1", "Phantom^One"
    dataset.StudyDate, dataset.StudyTime, dataset.StudyID = "20260102", "101112", "1"
    dataset.AccessionNumber, dataset.ReferringPhysicianName = "", ""
    dataset.PatientBirthDate, dataset.PatientSex = "", "O"
    dataset.Modality, dataset.SeriesDescription = modality, description
    dataset.Manufacturer = "Phantoms"
    dataset.Rows, dataset.Columns = 6, 4
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
    dataset.PixelData = value.to_bytes(2, "little") * 24
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def until(seen: Callable[[], Seen], timeout_s: float = 20) -> Seen:
    """Wait for something true."""
    end = time.monotonic() + timeout_s
    while not (value := seen()):
        if time.monotonic() > end:
            raise TimeoutError(f"not seen within {timeout_s} s")
        time.sleep(0.02)
    return value


ROUTE = """
[[routes]]
name = "mr"
match = { Modality = "MR" }
run = ["fake:1"]
"""


@dataclass
class SmallService:
    """One data folder and its configuration; nothing runs until a worker is started."""

    folder: Path
    text: str = "[study]\nquiet_s = 0.3\n" + ROUTE
    workers: list[subprocess.Popen[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.release(MODEL)
        self.configure(self.text)

    def configure(self, text: str) -> None:
        self.config = self.folder / "mirall.toml"
        self.config.write_text(text)
        self.settings = settings.load(self.config)
        self.ingest = open_archive(self.settings)
        self.index = self.ingest.index
        self.jobs = Jobs(self.index)

    def release(self, address: str, state: str = "proven", **behaviour: object) -> Path:
        """A model version that the fake pipeline understands; gives its folder."""
        name, version = address.split(":")
        folder = self.folder / "mirall-data" / "models" / name / version
        (folder / "configs").mkdir(parents=True, exist_ok=True)
        ours = {"name": name, "version": version, "state": state, "task": "segmentation", "labels": ["background", "x"]}
        (folder / "configs" / "metadata.json").write_text(json.dumps({"mirall": ours}))
        (folder / "behaviour.json").write_text(json.dumps(behaviour))
        return folder

    def behave(self, **behaviour: object) -> None:
        self.release(MODEL, **behaviour)

    def calls(self, address: str = MODEL) -> list[int]:
        """Process ids of the children that were asked to run this model version, in order."""
        log = self.folder.joinpath("mirall-data", "models", *address.split(":"), "calls.log")
        return [int(line) for line in log.read_text().splitlines()] if log.exists() else []

    def arrive(self, raw: bytes, *, door: str = "dimse", calling_aet: str = "ORTHANC") -> Outcome:
        """As a door takes it."""
        reception = self.ingest.storage.receive()
        reception.write(raw)
        return self.ingest.accept(reception.finish(), Arrival(door, calling_aet, "MIRALL", "127.0.0.1"))  # type: ignore[arg-type]

    def study(self, *, slices: int = 3, **attributes: object) -> str:
        """A study that has just arrived; gives its UID."""
        uid = generate_uid()
        for _ in range(slices):
            assert self.arrive(instance_bytes(uid, **attributes)).accepted  # type: ignore[arg-type]
        return uid

    def results(self, study: str) -> list[InstanceRow]:
        return [each for each in self.index.instances(study) if each.made_by_us]

    def jobs_of(self, study: str) -> Sequence[JobView]:
        return self.jobs.list(study_instance_uid=study)

    def ended(self, study: str, state: str = "done", count: int = 1) -> bool:
        jobs = self.jobs_of(study)
        return len([job for job in jobs if job.state == state]) >= count

    def start(self) -> subprocess.Popen[str]:
        """A worker, ready."""
        command = ["--config", str(self.config), "--pipeline", "fake_pipeline", "--hasty"]
        log: IO[str] = (self.folder / "worker.log").open("a")
        worker = subprocess.Popen(
            [sys.executable, "-m", "plugin.jobs.worker", *command],
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        log.close()
        self.workers.append(worker)
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n", (self.folder / "worker.log").read_text()
        return worker

    def close(self) -> None:
        for worker in self.workers:
            if worker.poll() is None:
                worker.kill()
            worker.wait()
            assert worker.stdout is not None
            worker.stdout.close()
        self.index.close()
