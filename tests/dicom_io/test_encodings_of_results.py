"""Label maps, empty frames and single-frame captures: other objects than the default ones, with the same content."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import made_results as made
import numpy as np
import pytest
from made_results import MADE_AT, MODEL, SEGMENTS, SHAPE
from pydicom import Dataset, dcmread

from dicom_io import labels, secondary_capture, segmentation
from dicom_io.errors import Unlabelled
from dicom_io.provenance import LabelRecord

Needs = Callable[[str], str]
FORMS = [("binary", False), ("binary", True), ("labelmap", False), ("labelmap", True)]


def seg(form: Any, empty_frames: bool, voxels: np.ndarray | None = None, segments: int = 2) -> Any:
    datasets = made.sources()
    return segmentation.segmentation(
        made.mask(datasets, voxels),
        sources=datasets,
        segments=SEGMENTS[:segments],
        model=MODEL,
        parameters={"threshold": 0.41},
        description="lesions",
        made_at=MADE_AT,
        form=form,
        empty_frames=empty_frames,
    )


def decoded(made_object: tuple[Dataset, LabelRecord]) -> Dataset:
    return dcmread(BytesIO(labels.encode(*made_object)))


@pytest.mark.parametrize(("form", "empty_frames"), FORMS)
@pytest.mark.parametrize("content", ["two segments", "one segment", "nothing"])
def test_a_mask_comes_back_from_each_encoding(form: str, empty_frames: bool, content: str) -> None:
    mask = made.mask(made.sources())
    voxels = {
        "two segments": mask.voxels,
        "one segment": (mask.voxels > 0).astype(np.float32),
        "nothing": np.zeros(SHAPE),
    }[content]
    ds = decoded(seg(form, empty_frames, voxels, 1 if content == "one segment" else 2))
    np.testing.assert_array_equal(segmentation.read(ds, mask).voxels, voxels)


def test_frames_are_left_out_unless_they_are_asked_for() -> None:
    counts = {(form, empty): int(seg(form, empty)[0].NumberOfFrames) for form, empty in FORMS}
    # Labels lie in slices 1 to 4 of 6, in 3 slices the first, in 2 the second.
    assert counts == {
        ("binary", False): 5,
        ("binary", True): 12,
        ("labelmap", False): 4,
        ("labelmap", True): 6,
    }


def test_each_encoding_is_an_object_of_its_own_with_the_same_uid_on_every_repeat() -> None:
    uids = [seg(form, empty)[1].sop_instance_uid for form, empty in FORMS]
    assert len(set(uids)) == 4
    assert uids == [seg(form, empty)[1].sop_instance_uid for form, empty in FORMS]
    assert labels.encode(*seg("labelmap", False)) == labels.encode(*seg("labelmap", False))


def test_a_label_map_is_its_own_sop_class_and_names_its_background() -> None:
    ds = decoded(seg("labelmap", False))
    assert ds.SOPClassUID == ds.file_meta.MediaStorageSOPClassUID == "1.2.840.10008.5.1.4.1.1.66.7"
    assert [(item.SegmentNumber, item.SegmentAlgorithmType) for item in ds.SegmentSequence] == [
        (0, "AUTOMATIC"),
        (1, "AUTOMATIC"),
        (2, "AUTOMATIC"),
    ]
    assert set(np.unique(ds.pixel_array)) == {0, 1, 2}


def test_the_gate_holds_a_label_map_without_its_labels() -> None:
    dataset, record = seg("labelmap", False)
    dataset.ContentQualification = "PRODUCT"
    with pytest.raises(Unlabelled, match="ContentQualification"):
        labels.encode(dataset, record)


def test_the_validator_finds_no_error_but_that_it_does_not_know_label_maps(tmp_path: Path, needs: Needs) -> None:
    program, path = needs("dciodvfy"), tmp_path / "seg.dcm"
    path.write_bytes(labels.encode(*seg("binary", True)))
    assert made.errors_of_dciodvfy(program, path) == []
    path.write_bytes(labels.encode(*seg("labelmap", False)))
    said = subprocess.run([program, "-new", str(path)], capture_output=True, text=True, check=False).stderr
    errors = [line for line in said.splitlines() if line.startswith("Error")]
    assert len(errors) == 2, errors
    assert "SegmentNumber not monotonically increasing from one" in errors[0]  # of the background, number 0
    assert errors[1] == "Error - Information Object Not found"


def single(frames: np.ndarray, **more: Any) -> list[tuple[Dataset, LabelRecord]]:
    datasets = made.sources()
    arguments = {
        "model": MODEL,
        "sources": datasets,
        "source_refs": made.references(datasets),
        "description": "lesions",
        "purpose": "overlay",
        "parameters": {},
        "made_at": MADE_AT,
        "form": "single-frame",
    }
    return secondary_capture.of_prediction(frames, **{**arguments, **more})


def colour() -> np.ndarray:
    return np.random.default_rng(4).integers(0, 256, (SHAPE[0], 2 * SHAPE[1], 8 * SHAPE[2], 3)).astype(np.uint8)


def overlay() -> np.ndarray:
    return np.random.default_rng(4).integers(0, 256, (SHAPE[0], 4 * SHAPE[1], 4 * SHAPE[2], 3)).astype(np.uint8)


def test_single_frames_are_one_instance_each_in_one_series_and_come_back_byte_for_byte() -> None:
    frames = overlay()
    written = [decoded(each) for each in single(frames, zoom=4)]
    assert [int(ds.InstanceNumber) for ds in written] == [1, 2, 3, 4, 5, 6]
    assert {ds.SOPClassUID for ds in written} == {"1.2.840.10008.5.1.4.1.1.7"}
    assert len({ds.SeriesInstanceUID for ds in written}) == 1 and len({ds.SOPInstanceUID for ds in written}) == 6
    assert not any("NumberOfFrames" in ds or "PerFrameFunctionalGroupsSequence" in ds for ds in written)
    for number, ds in enumerate(written):
        np.testing.assert_array_equal(secondary_capture.read_back(ds), frames[number : number + 1])


def test_a_single_frame_lies_where_its_frame_of_the_multi_frame_capture_lies() -> None:
    datasets, frames = made.sources(), overlay()
    ((multi, _),) = single(frames, zoom=4, form="multi-frame")
    measures = multi.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    written = [dataset for dataset, _ in single(frames, zoom=4)]
    for ds, frame in zip(written, multi.PerFrameFunctionalGroupsSequence, strict=True):
        assert ds.ImagePositionPatient == frame.PlanePositionSequence[0].ImagePositionPatient
        assert ds.PixelSpacing == measures.PixelSpacing
        assert ds.ImageOrientationPatient == datasets[0].ImageOrientationPatient
        assert ds.FrameOfReferenceUID == "2.25.9903"


def test_a_single_gray_frame_keeps_its_values_its_window_and_its_mark() -> None:
    frames = np.random.default_rng(5).random((6, 11, 90), np.float32)
    for number, (dataset, record) in enumerate(single(frames)):
        ds = decoded((dataset, record))
        assert np.abs(secondary_capture.read_back(ds)[0] - frames[number]).max() <= ds.RescaleSlope / 2 * (1 + 1e-3)
        assert (ds.BitsStored, ds.WindowCenter - 0.5 - (ds.WindowWidth - 1) / 2) == (16, 0)
        assert record.mark_rows > 0 and ds.Rows == 11 + record.mark_rows
        assert "PresentationLUTShape" not in ds  # no attribute of this IOD


def test_generated_single_frames_are_labelled_and_of_the_fictitious_patient() -> None:
    frames = np.random.default_rng(1).random((3, 13, 90), np.float32)
    arguments: dict[str, Any] = {
        "model": MODEL, "seed": 42, "label": "", "spacing_mm": (0.9, 1.1), "units": "1", "made_at": MADE_AT
    }  # fmt: skip
    several = secondary_capture.generated(frames, **arguments)
    alone = [decoded(each) for each in secondary_capture.generated(frames, **arguments, form="single-frame")]
    assert (len(several), len(alone)) == (1, 3)
    assert {ds.SyntheticData for ds in alone} == {"YES"}
    assert {ds.StudyInstanceUID for ds in alone} == {several[0][0].StudyInstanceUID}
    assert alone[0].SeriesInstanceUID != several[0][0].SeriesInstanceUID
    theirs = np.concatenate([secondary_capture.read_back(ds) for ds in alone])
    np.testing.assert_array_equal(theirs, secondary_capture.read_back(several[0][0]))


def test_the_validator_finds_no_error_in_single_frames(tmp_path: Path, needs: Needs) -> None:
    program, path = needs("dciodvfy"), tmp_path / "capture.dcm"
    gray = np.random.default_rng(5).random((6, 11, 90), np.float32)
    for written in (single(overlay(), zoom=4), single(colour()), single(gray)):
        path.write_bytes(labels.encode(*written[1]))
        assert made.errors_of_dciodvfy(program, path) == []
