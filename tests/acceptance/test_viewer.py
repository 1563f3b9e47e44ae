"""What a person's programs see of the archive: OHIF in Chromium, Orthanc as a client, dicomweb-client, GDCM.

The kit's acceptance keeps the viewer that npm gave it in the user's cache folder (~/.cache/viewer-acceptance).
"""

from __future__ import annotations

import copy
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicomweb_client import DICOMwebClient
from peers import WEB, free_port
from PIL import Image
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from scipy import ndimage

from dicom_io import labels, picture, secondary_capture, segmentation, series
from dicom_io.provenance import LabelRecord, ModelIdentity
from dicom_io.segmentation import Segment
from dicom_io.series import SeriesVolume
from dicom_io.volume import Volume
from plugin import service
from plugin.archive.arrival import Arrival
from plugin.archive.ingest import open_archive
from plugin.service import Running
from samples import phantoms

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(600)]

MODEL = ModelIdentity("tissue-finder", "1", "5a" * 32, "unproven")
MADE_AT = datetime(2026, 3, 4, 5, 6, 7)
COLOURS = picture.PALETTE[:2]
SEGMENTS = (Segment(1, "bright tissue", COLOURS[0]), Segment(2, "grey tissue", COLOURS[1]))
# What must be true of the study below; of the kit's other kinds of objects none is written here.
REQUIRED = ("studyList", "filter", "pixels", "seg", "sc")
# 12 bits of JPEG Extended and the retired processes: neither pydicom nor GDCM's wheel decodes them here.
NOT_DECODED = ("1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.53", "1.2.840.10008.1.2.4.55")
LOSSY = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.81", "1.2.840.10008.1.2.4.91")
ORTHANCS_DICOMWEB = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
Objects = list[tuple[Dataset, LabelRecord]]


@dataclass(frozen=True)
class Served:
    """A service with one study of two MR series, and a SEG and a capture of ours on the T1.

    t1: as the archive gives it. mask: of `SEGMENTS`, on its grid.
    """

    running: Running
    t1: SeriesVolume
    mask: Volume

    @property
    def study(self) -> str:
        return self.t1.study_uid

    def store(self, raw: bytes) -> None:
        """By STOW-RS."""
        answer = WEB.post(
            f"{self.running.dicomweb_url}/studies", content=raw, headers={"Content-Type": "application/dicom"}
        )
        assert answer.status_code == 200, answer.text

    def keep(self, dataset: Dataset, record: LabelRecord) -> bytes:
        """Our own result, by the door that workers use; gives its bytes."""
        raw = labels.encode(dataset, record)
        ingest = open_archive(self.running.settings, upgrade=False)
        try:
            reception = ingest.storage.receive()
            reception.write(raw)
            outcome = ingest.accept(reception.finish(), Arrival("own"), record)
        finally:
            ingest.index.close()
        assert outcome.accepted, outcome.reason
        return raw

    def instance(self, dataset: Dataset, syntax: str = "*") -> bytes:
        """By WADO-RS: as stored, or in another transfer syntax."""
        url = f"{self.running.dicomweb_url}/studies/{dataset.StudyInstanceUID}/series/{dataset.SeriesInstanceUID}"
        accept = {"Accept": f"application/dicom; transfer-syntax={syntax}"}
        answer = WEB.get(f"{url}/instances/{dataset.SOPInstanceUID}", headers=accept)
        assert answer.status_code == 200, answer.text
        return answer.content


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    images = [_as_registered(pydicom.dcmread(path)) for path in _mr(folder / "phantom")]
    doors = {"http": f"127.0.0.1:{free_port()}", "dimse": f"127.0.0.1:{free_port()}"}
    with service.running(data=folder / "data", **doors) as running:
        DICOMwebClient(running.dicomweb_url).store_instances(images)
        # As a job does: the archive's own files are read, and what is made of them goes in with its record.
        volumes = series.volumes([running.settings.data / "archive" / "objects"]).volumes
        t1 = next(each for each in volumes if each.contrast == "T1")
        here = Served(running, t1, _mask(t1.volume))
        here.keep(*_seg(here.mask, t1.datasets))
        for made in _capture(_overlays(t1.volume, here.mask), t1.datasets, here.mask, zoom=1):
            here.keep(*made)
        yield here


def _mr(folder: Path) -> list[Path]:
    """T1 and T2 of a thigh with a sarcoma from the test data; where they are absent, T1 and FLAIR of a phantom."""
    real = Path(os.environ.get("MIRALL_TEST_DATA") or folder) / "mr-t1-t2-pair"
    if not real.is_dir():
        phantoms.write_patients("brain-mr", 1, folder)
        return sorted(folder.rglob("*.dcm"))
    return sorted(real.rglob("*.dcm"))


def _as_registered(image: Dataset) -> Dataset:
    """With a name and a number as hospitals give them and viewers search by them; pseudonymised images have neither."""
    image.SpecificCharacterSet = "ISO_IR 192"
    image.PatientName, image.AccessionNumber = "Łuczak^Zoë", "A-2026-17"
    return image


def _mask(image: Volume) -> Volume:
    """Two labels that no mirror image and no shift by a slice leaves where they are: bright tissue in the upper left
    and grey tissue in the lower right of some slices. Off the border, where viewers write."""
    values = ndimage.gaussian_filter(image.voxels, (0, 3, 3))
    slices, rows, columns = image.spatial_shape
    s, r, c = np.mgrid[0 : 1 : slices * 1j, 0 : 1 : rows * 1j, 0 : 1 : columns * 1j]
    air, bright = np.percentile(values, [50, 85])
    some = (s > 0.2) & (s < 0.9)
    upper_left = some & (r > 0.15) & (r < 0.6) & (c > 0.15) & (c < 0.5)
    lower_right = some & (r > 0.5) & (r < 0.85) & (c > 0.6) & (c < 0.85)
    # Without what is too thin to be told from its outline on the screen.
    labelled = [
        ndimage.binary_opening(each, np.ones((1, 9, 9)))
        for each in (upper_left & (values > bright), lower_right & (values > air) & (values <= bright))
    ]
    return image.with_voxels(np.select(labelled, [1, 2]).astype(np.float32), units="1")


def _overlays(image: Volume, mask: Volume) -> np.ndarray:
    shown = picture.window(image.voxels, 0.0, float(np.percentile(image.voxels, 99.5)))
    return np.stack([picture.overlay(*both) for both in zip(shown, mask.voxels.astype(int), strict=True)])


def _seg(mask: Volume, sources: tuple[Dataset, ...], **options: Any) -> tuple[Dataset, LabelRecord]:
    return segmentation.segmentation(
        mask,
        sources=sources,
        segments=SEGMENTS,
        model=MODEL,
        parameters={},
        description="tissues",
        made_at=MADE_AT,
        **options,
    )


def _capture(frames: np.ndarray, sources: tuple[Dataset, ...], mask: Volume, **options: Any) -> Objects:
    return secondary_capture.of_prediction(
        frames,
        model=MODEL,
        sources=sources,
        source_refs=mask.sources,
        description="tissues, outlined",
        purpose="overlay",
        parameters={},
        made_at=MADE_AT,
        **options,
    )


# The viewer


def _answer_of(script: Path, *options: str) -> tuple[int, dict[str, Any]]:
    """Run a program of the kit; gives its exit status and the JSON that it printed."""
    command = [sys.executable, str(script), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=570, check=False)
    if "'npm', 'pack'" in done.stderr:
        pytest.skip("the viewer is not in the cache, and npm cannot fetch it")
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_ohif_shows_the_study_its_segmentation_and_its_capture(
    served: Served, test_kit: Path, needs: Callable[[str], str], tmp_path: Path
) -> None:
    if importlib.util.find_spec("playwright") is None:
        pytest.skip("the Python package playwright is not installed")
    needs("npm")
    status, result = _answer_of(
        test_kit / "viewer" / "accept.py",
        *("--dicomweb", served.running.dicomweb_url, "--study", served.study, "--require", ",".join(REQUIRED)),
        *("--chromium", needs("chromium"), "--out", str(tmp_path), "--timeout", "30"),
    )
    said = json.dumps({name: result[name] for name in (*REQUIRED, "failures", "tolerated", "warnings")}, indent=1)
    assert result["failures"] == [] and result["tolerated"] == [] and status == 0, said
    assert {kind: result[kind] for kind in REQUIRED} == dict.fromkeys(REQUIRED, True), said
    (seg,) = (each for each in result["series"] if each["kind"] == "seg")
    # Where the labels are seen is where they are, and no mirror image of it. OHIF may turn a tilted slice by its tilt.
    found, expected = _labels_on_screen(tmp_path, seg), _labels_of_the_slice(served, seg)
    for number in (1, 2):
        assert _overlap(found, expected, number) > 0.7
        for turned in (expected[::-1], expected[:, ::-1], expected[::-1, ::-1], np.rot90(expected)):
            assert _overlap(found, turned, number) < 0.5


def _labels_of_the_slice(served: Served, seg: dict[str, Any]) -> np.ndarray:
    """The labels of the slice that the viewer shows, cut to what is labelled."""
    (shown,) = {re.search(r"/instances/([\d.]+)", view["imageId"])[1] for view in seg["views"]}
    number = [str(dataset.SOPInstanceUID) for dataset in served.t1.datasets].index(shown)
    return _cut(served.mask.voxels[number].astype(np.uint8))


def _labels_on_screen(folder: Path, seg: dict[str, Any]) -> np.ndarray:
    """The same from the picture of the screen, by hue."""
    (path,) = folder.glob(f"SEG-{seg['series'][-12:]}.png")
    # Of the page, 1400 x 900, the middle of the viewport: no panels, and no words along the edges.
    rgb = np.asarray(Image.open(path).convert("RGB"))[135:809, 370:1032].astype(int)
    coloured, warm = np.ptp(rgb, axis=2) > 40, rgb[..., 0] > rgb[..., 2]
    return _cut(np.select([coloured & warm, coloured], [1, 2]).astype(np.uint8))


def _cut(found: np.ndarray) -> np.ndarray:
    rows, columns = np.flatnonzero(found.any(axis=1)), np.flatnonzero(found.any(axis=0))
    return found[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _overlap(found: np.ndarray, expected: np.ndarray, number: int) -> float:
    """Dice of one label, after both were brought to one size."""
    size = (expected.shape[1], expected.shape[0])
    ours = np.asarray(Image.fromarray(found).resize(size, Image.Resampling.NEAREST)) == number
    theirs = expected == number
    return float(2 * (ours & theirs).sum() / (ours.sum() + theirs.sum()))


# Clients


def test_orthanc_as_a_client_and_dicomweb_client_find_and_retrieve_the_study(
    served: Served, test_kit: Path, needs: Callable[[str], str], tmp_path: Path
) -> None:
    needs("Orthanc")
    if not ORTHANCS_DICOMWEB.is_file():
        pytest.skip(f"Orthanc's DICOMweb plugin is not at {ORTHANCS_DICOMWEB}")
    new = pydicom.dcmread(io.BytesIO(served.instance(served.t1.datasets[0])))
    new.StudyInstanceUID, new.SeriesInstanceUID, new.SOPInstanceUID = generate_uid(), generate_uid(), generate_uid()
    new.file_meta.MediaStorageSOPInstanceUID = new.SOPInstanceUID
    new.save_as(tmp_path / "new.dcm")
    status, result = _answer_of(
        test_kit / "viewer" / "clients.py",
        *("--dicomweb", served.running.dicomweb_url, "--study", served.study, "--store", str(tmp_path / "new.dcm")),
    )
    checks = result["checks"]
    assert checks == dict.fromkeys(checks, True)
    assert result["failures"] == [] and status == 0
    assert {"orthanc QIDO", "orthanc WADO-RS study", "orthanc STOW-RS", "python command line"} <= checks.keys()


# GDCM and pydicom


def _by_gdcm(raw: bytes, folder: Path) -> np.ndarray:
    """The pixels as GDCM decodes them, in the axes of pydicom."""
    import gdcm  # never as the first library: it gives its own zlib to all that come later, and Pillow crashes with it

    path = folder / "read.dcm"
    path.write_bytes(raw)
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read(), "GDCM does not read it"
    image = reader.GetImage()
    name, size = image.GetPixelFormat().GetScalarTypeAsString(), image.GetDimensions()[::-1]
    values = np.frombuffer(image.GetBuffer().encode("utf-8", "surrogateescape"), np.uint8)
    if name == "SINGLEBIT":
        return np.unpackbits(values, bitorder="little")[: np.prod(size)].reshape(size)
    samples = (3,) if image.GetPixelFormat().GetSamplesPerPixel() == 3 else ()
    return values.view({"UINT8": "u1", "UINT16": "<u2", "INT16": "<i2"}[name]).reshape(*size, *samples)


@pytest.fixture(scope="module")
def part(served: Served) -> tuple[Volume, Volume, tuple[Dataset, ...]]:
    """Three slices of the T1, their labels and their data sets, as if in a study of their own."""
    start, stop = (5, 0, 0), (8, *served.mask.spatial_shape[1:])
    sources = copy.deepcopy(served.t1.datasets[start[0] : stop[0]])
    for dataset in sources:
        dataset.StudyInstanceUID = f"{served.study[:55]}.1"
    return served.t1.volume.crop(start, stop), served.mask.crop(start, stop), sources


@pytest.mark.parametrize("form", ["binary", "labelmap"])
def test_gdcm_and_pydicom_read_our_segmentations_as_they_were_made(
    served: Served, part: tuple[Volume, Volume, tuple[Dataset, ...]], form: str, tmp_path: Path
) -> None:
    _, mask, sources = part
    dataset, record = _seg(mask, sources, form=form)
    raw = served.keep(dataset, record)
    got = served.instance(dataset)
    assert got == raw
    read = pydicom.dcmread(BytesIO(got))
    np.testing.assert_array_equal(segmentation.read(read, mask).voxels, mask.voxels)
    if form == "binary":  # GDCM does not know Label Map Segmentation
        whole = read.pixel_array.size // 8 * 8  # it leaves the bits after the last whole byte to chance
        np.testing.assert_array_equal(_by_gdcm(got, tmp_path).ravel()[:whole], read.pixel_array.ravel()[:whole])


@pytest.mark.parametrize("form", ["multi-frame", "single-frame"])
@pytest.mark.parametrize("kind", ["colour", "grey", "generated"])
def test_gdcm_and_pydicom_read_our_captures_as_they_were_made(
    served: Served, part: tuple[Volume, Volume, tuple[Dataset, ...]], kind: str, form: str, tmp_path: Path
) -> None:
    image, mask, sources = part
    made: Objects
    if kind == "generated":
        frames: np.ndarray = np.random.default_rng(7).random((3, 37, 90), np.float32)
        made = secondary_capture.generated(
            frames, model=MODEL, seed=7, label="", spacing_mm=(0.9, 1.1), units="1", made_at=MADE_AT, form=form
        )
    else:
        frames = _overlays(image, mask) if kind == "colour" else image.voxels / image.voxels.max()
        made = _capture(frames, sources, mask, form=form)
    assert len(made) == (1 if form == "multi-frame" else 3)
    back = []
    for dataset, record in made:
        raw = served.keep(dataset, record)
        got = served.instance(dataset)
        assert got == raw
        read = pydicom.dcmread(BytesIO(got))
        back.append(secondary_capture.read_back(read))
        np.testing.assert_array_equal(_by_gdcm(got, tmp_path), read.pixel_array)
    half_a_step = 0.0 if kind == "colour" else 0.5001 * float(made[0][0].RescaleSlope)
    np.testing.assert_allclose(np.concatenate(back), frames, rtol=0, atol=half_a_step)


def test_gdcm_and_pydicom_read_an_image_in_every_encoding_as_it_was_stored(
    served: Served, test_data: Path, tmp_path: Path
) -> None:
    reference = pydicom.dcmread(test_data / "transfer-syntaxes" / "CTImage.dcm").pixel_array
    seen = set()
    for path in sorted((test_data / "transfer-syntaxes").glob("*.dcm")):
        # Several of the files bear one SOP Instance UID; each gets its own.
        dataset = pydicom.dcmread(path)
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[path.name])
        buffer = BytesIO()
        dataset.save_as(buffer)
        served.store(buffer.getvalue())
        got = served.instance(dataset)
        assert got == buffer.getvalue(), path.name
        syntax = str(dataset.file_meta.TransferSyntaxUID)
        seen.add(syntax)
        if syntax in NOT_DECODED:
            continue
        pixels = _by_gdcm(got, tmp_path)
        np.testing.assert_array_equal(pydicom.dcmread(BytesIO(got)).pixel_array, pixels, path.name)
        np.testing.assert_array_equal(
            _by_gdcm(served.instance(dataset, ExplicitVRLittleEndian), tmp_path), pixels, path.name
        )
        if syntax not in LOSSY:
            np.testing.assert_array_equal(pixels, reference, path.name)
    assert len(seen) == 15
