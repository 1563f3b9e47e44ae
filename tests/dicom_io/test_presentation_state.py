"""The mark as an annotation: over the right images, in words that other programs read."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from datetime import datetime
from io import BytesIO
from pathlib import Path

import made_results as made
import numpy as np
import pytest
from made_results import MADE_AT, MODEL
from pydicom import Dataset, dcmread

from dicom_io import labels, look_alike, secondary_capture
from dicom_io.errors import Rejected
from dicom_io.presentation_state import presentation_state
from dicom_io.provenance import LabelRecord
from dicom_io.volume import Volume

Needs = Callable[[str], str]
MARK = "SYNTHETIC - AI - research only - lesion-finder:2.1.0"


def series_of_mr() -> list[tuple[Dataset, LabelRecord]]:
    voxels = np.random.default_rng(4).uniform(0, 9, made.SHAPE).astype(np.float32)
    volume = Volume(voxels, made.affine(), "", "1")
    return look_alike.generated(volume, modality="MR", model=MODEL, seed=42, label="T1", made_at=MADE_AT)


def decoded(made_object: tuple[Dataset, LabelRecord]) -> Dataset:
    return dcmread(BytesIO(labels.encode(*made_object)))


def test_the_mark_lies_over_every_image_of_the_series() -> None:
    images = series_of_mr()
    ds = decoded(presentation_state(images, made_at=MADE_AT))
    [annotation] = ds.GraphicAnnotationSequence
    [text] = annotation.TextObjectSequence
    assert (text.UnformattedTextValue, text.BoundingBoxAnnotationUnits) == (MARK, "DISPLAY")
    uids = [record.sop_instance_uid for _, record in images]
    assert [item.ReferencedSOPInstanceUID for item in annotation.ReferencedImageSequence] == uids
    [series] = ds.ReferencedSeriesSequence
    assert [item.ReferencedSOPInstanceUID for item in series.ReferencedImageSequence] == uids
    assert series.SeriesInstanceUID == images[0][1].series_instance_uid


def test_it_is_filed_with_the_images_and_as_synthetic_as_they_are() -> None:
    images = series_of_mr()
    ds, image = decoded(presentation_state(images, made_at=MADE_AT)), images[0][0]
    assert (ds.StudyInstanceUID, ds.PatientID) == (image.StudyInstanceUID, image.PatientID)
    assert (ds.Modality, ds.SyntheticData, ds.SeriesInstanceUID != image.SeriesInstanceUID) == ("PR", "YES", True)


def test_multi_frame_captures_are_named_as_a_whole() -> None:
    images = secondary_capture.generated_volume(
        Volume(np.random.default_rng(1).random((70, 9, 40), np.float32), made.affine(), "", "1"),
        model=MODEL,
        seed=1,
        label="",
        made_at=MADE_AT,
    )
    ds = decoded(presentation_state(images, made_at=MADE_AT))
    items = ds.ReferencedSeriesSequence[0].ReferencedImageSequence
    assert len(items) == 2 and not any("ReferencedFrameNumber" in item for item in items)
    for named in (items, ds.GraphicAnnotationSequence[0].ReferencedImageSequence):
        assert {item.ReferencedSOPClassUID for item in named} == {"1.2.840.10008.5.1.4.1.1.7.3"}


def test_repeats_are_the_same_bytes_whenever_they_are_made() -> None:
    images = series_of_mr()
    assert labels.encode(*presentation_state(images, made_at=MADE_AT)) == labels.encode(
        *presentation_state(series_of_mr(), made_at=MADE_AT)
    )
    later = presentation_state(images, made_at=datetime(2031, 1, 1))
    assert later[1].sop_instance_uid == presentation_state(images, made_at=MADE_AT)[1].sop_instance_uid


def test_what_it_cannot_lie_on_is_refused() -> None:
    with pytest.raises(Rejected, match="is RGB"):
        presentation_state([made.capture()], made_at=MADE_AT)
    with pytest.raises(ValueError, match="or none"):
        presentation_state([], made_at=MADE_AT)
    with pytest.raises(ValueError, match="several series"):
        presentation_state([made.alike(), made.alike("PT")], made_at=MADE_AT)
    with pytest.raises(ValueError, match="no pixels"):
        presentation_state([made.reported()], made_at=MADE_AT)


def test_other_programs_find_no_error(tmp_path: Path, needs: Needs) -> None:
    path = tmp_path / "state.dcm"
    for images in (series_of_mr(), [made.alike("PT")], made.generated()):
        path.write_bytes(labels.encode(*presentation_state(images, made_at=MADE_AT)))
        assert made.errors_of_dciodvfy(needs("dciodvfy"), path) == []
    dumped = subprocess.run([needs("dcmdump"), str(path)], capture_output=True, text=True, check=True).stdout
    assert f"(0070,0006) ST [{MARK}" in dumped
