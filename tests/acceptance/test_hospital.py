"""A PACS auto-routes real PET to Mirall, without a filter, and gets correct, labelled results back.

One model is trained for all of these tests, by the experiment's quick profile: six patients, one of them held out.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from dicomweb_client import DICOMwebClient
from peers import Orthanc, free_port, wait_for

from dicom_io import nifti, segmentation, series, structure_set
from plugin import service
from plugin.service import Running

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(600)]

# How long an unfiltered auto-route is watched for feedback; three minutes when it is done for the record.
WATCH_S = float(os.environ.get("MIRALL_TEST_WATCH_S", "30"))
SEG = "1.2.840.10008.5.1.4.1.1.66.4"
TRUE_COLOUR_SC = "1.2.840.10008.5.1.4.1.1.7.4"


@dataclass(frozen=True)
class Trained:
    """models: the registry with pet-tumour:1. patient: folder of a patient that it has not seen."""

    models: Path
    patient: Path


@pytest.fixture(scope="session")
def trained(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    from samples.experiments import pet_tumour

    source = test_data / "pet-suv-sarcoma"
    out = tmp_path_factory.mktemp("experiment")
    pet_tumour.run(source, out, "quick", print)
    (held_out,) = pet_tumour.held_out_patients(source, "quick")
    return Trained(out / "models", source / held_out)


@pytest.fixture
def mirall(tmp_path: Path, trained: Trained, orthanc: Orthanc) -> Iterator[Running]:
    """Mirall beside that Orthanc, with the released models."""
    config = tmp_path / "mirall.toml"
    config.write_text(
        f"""
        [node]
        data = "data"
        dimse = "127.0.0.1:{orthanc.mirall_port}"
        http = "127.0.0.1:{free_port()}"
        known_peers = [{{ aet = "ORTHANC", address = "127.0.0.1" }}]
        [study]
        quiet_s = 3
        [destinations.pacs]
        kind = "dimse"
        aet = "ORTHANC"
        host = "127.0.0.1"
        port = {orthanc.dicom_port}
        allow_unproven = true
        [[routes]]
        name = "tumour on PET"
        match = {{ Modality = "PT", calling_aet = "ORTHANC" }}
        run = ["pet-tumour:1"]
        send_to = ["pacs"]
        """
    )
    shutil.copytree(trained.models, tmp_path / "data" / "models")
    with service.running(config) as running:
        yield running


def jobs(mirall: Running) -> list[dict[str, Any]]:
    return list(httpx.get(f"{mirall.url}/api/jobs", timeout=30).json())


def delivered(mirall: Running) -> bool:
    """All jobs have ended, and all that they made is where it should go."""
    every = jobs(mirall)
    return bool(every) and all(
        job["state"] in ("done", "failed") and set(job["deliveries"]) <= {"committed"} for job in every
    )


def errors_of(dciodvfy: str, path: Path) -> list[str]:
    answer = subprocess.run([dciodvfy, str(path)], capture_output=True, text=True, check=False)
    return [line for line in (answer.stdout + answer.stderr).splitlines() if line.startswith("Error")]


def test_a_pet_that_the_pacs_auto_routes_comes_back_as_a_seg_on_the_tumour(
    mirall: Running, orthanc: Orthanc, trained: Trained, needs: Callable[[str], str], tmp_path: Path
) -> None:
    began = time.monotonic()
    for path in sorted((trained.patient / "PET").glob("*.dcm")):
        orthanc.upload(path)
    wait_for(lambda: delivered(mirall), "the job and its deliveries", timeout_s=120)
    (seg_id,) = orthanc.instances(SOPClassUID=SEG)
    captures = orthanc.instances(SOPClassUID=TRUE_COLOUR_SC)

    # The SEG sits on the tumour, voxel for voxel in patient coordinates, and no flip of it does.
    suv = series.volumes([trained.patient / "PET"]).volumes[0].volume
    truth = nifti.mask_on(trained.patient / "PET_mask.nii.gz", suv).voxels > 0
    seg_file = tmp_path / "seg.dcm"
    seg_file.write_bytes(orthanc.file(seg_id))
    found = segmentation.read(pydicom.dcmread(seg_file), suv).voxels > 0
    agreement = _dice(found, truth)
    print(f"Dice of the SEG with the mask: {agreement:.3f}")
    assert agreement > 0.6
    for axis in range(3):
        assert _dice(np.flip(found, axis), truth) < agreement

    # Another tool reads the same places.
    image = sitk.ReadImage(str(seg_file))
    for index in np.argwhere(sitk.GetArrayFromImage(image) > 0)[:: max(1, int(found.sum()) // 50)]:
        place = image.TransformIndexToPhysicalPoint([int(step) for step in index[::-1]])
        assert found[tuple(np.rint(suv.index_at(place)).astype(int))]

    # Every object that we wrote is valid, for tools of three makers.
    for number, identifier in enumerate([seg_id, *captures]):
        path = tmp_path / f"result{number}.dcm"
        path.write_bytes(orthanc.file(identifier))
        assert errors_of(needs("dciodvfy"), path) == []
        assert subprocess.run([needs("dcmdump"), "-q", str(path)], capture_output=True, check=False).returncode == 0
        assert subprocess.run([needs("gdcminfo"), str(path)], capture_output=True, check=False).returncode == 0

    # What we wrote and get back from the PACS changes nothing.
    time.sleep(max(0.0, WATCH_S - (time.monotonic() - began)))
    (job,) = jobs(mirall)
    assert job["state"] == "done"
    assert len(job["results"]) == 1 + len(captures) == 3  # 83 slices: captures of 64 and of 19 frames
    assert job["deliveries"] == {"committed": 1 + len(captures)}
    assert len(orthanc.instances(SOPClassUID=SEG)) == 1


def test_a_whole_body_pet_is_outside_the_card_and_is_refused_then_forced_and_marked(
    trained: Trained, test_data: Path, needs: Callable[[str], str], tmp_path: Path
) -> None:
    study = test_data / "pet-fdg-raw" / "STS_001"
    files = [path for path in study.rglob("*.dcm") if pydicom.dcmread(path, stop_before_pixels=True).Modality == "PT"]
    refused = _mirall("predict", "pet-tumour:1", *map(str, files), "--models", trained.models, "--out", tmp_path / "a")
    print(refused.stderr)
    assert refused.returncode == 1
    assert "mm" in refused.stderr and "pet-tumour:1" in refused.stderr and "Traceback" not in refused.stderr
    assert not list((tmp_path / "a").glob("*"))

    forced = _mirall(
        "predict", "pet-tumour:1", *map(str, files), "--models", trained.models, "--out", tmp_path / "b", "--force"
    )
    assert forced.returncode == 0, forced.stderr
    made = {path: pydicom.dcmread(path) for path in (tmp_path / "b").glob("*.dcm")}
    assert made
    for path, dataset in made.items():
        assert "OUT OF DOMAIN" in dataset.SeriesDescription
        assert errors_of(needs("dciodvfy"), path) == []
    suv = series.volumes(files).volumes[0].volume
    (contours,) = (
        dataset
        for dataset in (pydicom.dcmread(path) for path in study.rglob("*.dcm"))
        if dataset.Modality == "RTSTRUCT"
    )
    truth = structure_set.mask(contours, "GTV_Mass", suv).voxels > 0
    found = segmentation.read(next(d for d in made.values() if d.Modality == "SEG"), suv).voxels > 0
    millilitres = float(np.prod(suv.spacing_mm)) / 1000
    # No pass mark: the figure is what such a run is worth.
    print(
        f"forced: {found.sum() * millilitres:.0f} ml found, {(found & ~truth).sum() * millilitres:.0f} ml of it false, "
        f"GTV_Mass {truth.sum() * millilitres:.0f} ml, {(found & truth).sum() / truth.sum():.2f} of it found"
    )


def test_what_dicomweb_client_stores_is_retrieved_byte_for_byte(mirall: Running, trained: Trained) -> None:
    files = sorted((trained.patient / "PET").glob("*.dcm"))[:12]
    sent = {str(pydicom.dcmread(path).SOPInstanceUID): pydicom.dcmread(path) for path in files}
    client = DICOMwebClient(mirall.dicomweb_url)
    client.store_instances(list(sent.values()))
    study = str(next(iter(sent.values())).StudyInstanceUID)
    assert {str(dataset.SOPInstanceUID) for dataset in client.retrieve_study(study)} == set(sent)
    for path in files:
        original = pydicom.dcmread(path)
        url = f"{mirall.dicomweb_url}/studies/{study}/series/{original.SeriesInstanceUID}"
        answer = httpx.get(f"{url}/instances/{original.SOPInstanceUID}", timeout=30)
        assert _encoded(original) in answer.content


def _encoded(dataset: pydicom.Dataset) -> bytes:
    """The bytes that dicomweb-client sends for it."""
    from io import BytesIO

    buffer = BytesIO()
    pydicom.dcmwrite(buffer, dataset)
    return buffer.getvalue()


def _mirall(*arguments: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "plugin.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _dice(ours: np.ndarray, truth: np.ndarray) -> float:
    return float(2 * (ours & truth).sum() / (ours.sum() + truth.sum()))
