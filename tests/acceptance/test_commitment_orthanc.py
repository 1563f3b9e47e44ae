"""Storage commitment with Orthanc, in both directions."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from peers import Orthanc, wait_for
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from plugin import settings
from plugin.archive.arrival import Arrival
from plugin.archive.ingest import Ingest, Outcome, open_archive
from plugin.destinations import opened
from plugin.dimse import node
from plugin.dimse.commitment import Reporter
from plugin.jobs.delivery import Courier
from plugin.jobs.planning import add_to_outbox
from plugin.jobs.port import Jobs

pytestmark = pytest.mark.acceptance


def image(path: Path, study: str) -> Path:
    """A CT slice of 4 x 3 pixels."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, generate_uid(entropy_srcs=[study])
    dataset.PatientID, dataset.PatientName, dataset.Modality = "P1", "Phantom^One", "CT"
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = 4, 3, 1
    dataset.PhotometricInterpretation, dataset.PixelRepresentation = "MONOCHROME2", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelData = bytes(range(24))
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path.parent.mkdir(parents=True, exist_ok=True)
    dcmwrite(path, dataset, enforce_file_format=True)
    return path


def arrive(ingest: Ingest, path: Path) -> Outcome:
    outcome = ingest.accept(ingest.storage.receive_file(path), Arrival("dimse", "CT1", "MIRALL", "127.0.0.1"))
    assert outcome.accepted
    return outcome


@pytest.fixture
def configured(orthanc: Orthanc, tmp_path: Path) -> settings.Settings:
    config = tmp_path / "mirall.toml"
    config.write_text(f"""
[node]
dimse = "127.0.0.1:{orthanc.mirall_port}"

[destinations.pacs]
kind = "dimse"
aet = "ORTHANC"
host = "127.0.0.1"
port = {orthanc.dicom_port}
""")
    return settings.load(config)


def test_orthanc_commits_itself_to_what_we_sent(
    orthanc: Orthanc, configured: settings.Settings, tmp_path: Path
) -> None:
    ingest = open_archive(configured)
    study = generate_uid()
    uids = [arrive(ingest, image(tmp_path / "in" / f"{n}.dcm", study)).sop_instance_uid for n in range(3)]
    with ingest.index.write() as connection:
        add_to_outbox(connection, study, uids, ("pacs",), time.time())
    courier = Courier(
        ingest.index, configured.destinations, {"pacs": opened(configured.destinations["pacs"], "MIRALL")}
    )
    listener = node.start(configured, ingest)
    try:
        courier.serve("pacs")
        wait_for(
            lambda: {row.state for row in Jobs(ingest.index).deliveries()} == {"committed"}, "the report", timeout_s=15
        )
    finally:
        listener.stop()
        ingest.index.close()


def test_we_commit_ourselves_to_what_orthanc_sent(
    orthanc: Orthanc, configured: settings.Settings, tmp_path: Path, needs: Callable[[str], str]
) -> None:
    ingest = open_archive(configured)
    listener = node.start(configured, ingest)
    reporter = Reporter(configured, ingest.index, clock=lambda: time.time() + 60)
    study = generate_uid()
    try:
        held = arrive(ingest, image(tmp_path / "in" / "held.dcm", study))
        never = generate_uid()
        for uids, status in (([held.sop_instance_uid], "Success"), ([held.sop_instance_uid, never], "Failure")):
            asked = httpx.post(
                f"{orthanc.url}/modalities/mirall/storage-commitment",
                json={"DicomInstances": [{"SOPClassUID": CTImageStorage, "SOPInstanceUID": uid} for uid in uids]},
                timeout=30,
            )
            asked.raise_for_status()
            path = asked.json()["Path"]
            assert orthanc.get(path)["Status"] == "Pending"
            reporter.report_due()
            wait_for(lambda: orthanc.get(path)["Status"] != "Pending", "Orthanc to note the report", timeout_s=10)  # noqa: B023
            said = orthanc.get(path)
            assert said["Status"] == status
            assert [each["SOPInstanceUID"] for each in said["Success"]] == [held.sop_instance_uid]
            assert [each["SOPInstanceUID"] for each in said.get("Failures", [])] == uids[1:]
        assert {view.state for view in Jobs(ingest.index).reports()} == {"reported"}
    finally:
        listener.stop()
        ingest.index.close()
