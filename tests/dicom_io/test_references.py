"""Results of multi-frame images: the right frame of the right instance, each instance once, and the same places."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import highdicom
import made_results as made
import numpy as np
import pytest
from made_results import MADE_AT, MODEL, SEGMENTS, SHAPE, frame_of_slice
from pydicom import Dataset, dcmread

from dicom_io import labels, references, secondary_capture, segmentation, series
from dicom_io.errors import Unlabelled
from dicom_io.provenance import LabelRecord
from dicom_io.volume import Source, Volume

Needs = Callable[[str], str]
USED = sorted(frame_of_slice(number) for number in range(SHAPE[0]))


def mask_of(datasets: list[Dataset]) -> Volume:
    return replace(made.mask(datasets), sources=made.frame_references(datasets))


def seg(datasets: list[Dataset], mask: Volume, **more: object) -> tuple[Dataset, LabelRecord]:
    arguments = {
        "segments": SEGMENTS,
        "model": MODEL,
        "parameters": {"threshold": 0.41},
        "description": "lesions",
        "made_at": MADE_AT,
    }
    return segmentation.segmentation(mask, sources=datasets, **{**arguments, **more})  # type: ignore[arg-type]


def decoded(made_object: tuple[Dataset, LabelRecord]) -> Dataset:
    return dcmread(BytesIO(labels.encode(*made_object)))


@pytest.mark.parametrize("form", ["binary", "labelmap"])
def test_each_frame_of_a_mask_names_the_frame_of_the_multi_frame_image_that_it_lies_on(form: str) -> None:
    datasets, image = made.frames(), made.enhanced()
    ds = decoded(seg(datasets, mask_of(datasets), form=form))
    assert len(ds.PerFrameFunctionalGroupsSequence) >= 4
    for frame in ds.PerFrameFunctionalGroupsSequence:
        [item] = frame.DerivationImageSequence[0].SourceImageSequence
        assert (item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID) == (image.SOPClassUID, image.SOPInstanceUID)
        shown = image.PerFrameFunctionalGroupsSequence[item.ReferencedFrameNumber - 1]
        np.testing.assert_allclose(
            frame.PlanePositionSequence[0].ImagePositionPatient, shown.PlanePositionSequence[0].ImagePositionPatient
        )


def test_a_mask_of_a_multi_frame_image_comes_back_on_the_same_voxels() -> None:
    datasets = made.frames()
    mask = mask_of(datasets)
    ds = decoded(seg(datasets, mask))
    np.testing.assert_array_equal(segmentation.read(ds, mask).voxels, mask.voxels)
    volume = highdicom.seg.Segmentation.from_dataset(ds).get_volume(combine_segments=True)
    for label in (1, 2):
        theirs = np.argwhere(volume.array == label) @ volume.affine[:3, :3].T + volume.affine[:3, 3]
        ours = [mask.position_mm(index) for index in np.argwhere(mask.voxels == label)]
        np.testing.assert_allclose(sorted(theirs.tolist()), sorted(np.array(ours).tolist()), atol=1e-3)


def test_the_instance_stands_once_in_each_list_with_the_frames_that_were_used() -> None:
    datasets = made.frames()
    made_object = seg(datasets, mask_of(datasets))
    ds, record = decoded(made_object), made_object[1]
    [source] = ds.SourceImageSequence
    assert source.ReferencedSOPInstanceUID == "2.25.9906.1" and list(source.ReferencedFrameNumber) == USED
    [of_series] = ds.ReferencedSeriesSequence
    assert [item.ReferencedSOPInstanceUID for item in of_series.ReferencedInstanceSequence] == ["2.25.9906.1"]
    assert record.source_uids == ("2.25.9906.1",) and record.source_frames == (tuple(USED),)
    assert LabelRecord.from_json(record.to_json()) == record


def test_tiles_of_a_mosaic_share_an_instance_that_is_named_as_a_whole() -> None:
    datasets = made.sources()
    for ds in datasets:
        ds.SOPInstanceUID = "2.25.9907"
    mask = made.mask(datasets)
    made_object = seg(datasets, mask)
    ds = decoded(made_object)
    [source] = ds.SourceImageSequence
    assert "ReferencedFrameNumber" not in source and made_object[1].source_frames == ()
    for frame in ds.PerFrameFunctionalGroupsSequence:
        [item] = frame.DerivationImageSequence[0].SourceImageSequence
        assert item.ReferencedSOPInstanceUID == "2.25.9907" and "ReferencedFrameNumber" not in item
    np.testing.assert_array_equal(segmentation.read(ds, mask).voxels, mask.voxels)


def test_single_frames_and_frames_mix_in_one_record() -> None:
    datasets, further = made.frames(), made.sources()
    refs = (*made.references(further), *made.frame_references(datasets))
    made_object = seg(datasets, replace(mask_of(datasets), sources=()), source_refs=refs, further_sources=further)
    ds, record = decoded(made_object), made_object[1]
    assert len(ds.SourceImageSequence) == 7
    assert [record.frames_of(uid) for uid in record.source_uids] == [tuple(USED), *[()] * 6]


def test_two_channels_that_are_frames_of_one_image_keep_their_own_frames() -> None:
    datasets = made.frames()
    own = made.frame_references(datasets)
    others = tuple(replace(ref, frame=ref.frame - 1) for ref in own)
    mask = replace(mask_of(datasets), sources=())
    ds = decoded(seg(datasets, mask, source_refs=(*others, *own), further_sources=datasets))
    assert list(ds.SourceImageSequence[0].ReferencedFrameNumber) == list(range(1, 13))
    named = {
        int(frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber)
        for frame in ds.PerFrameFunctionalGroupsSequence
    }
    assert named <= set(USED)


def test_a_capture_of_a_multi_frame_image_lies_on_its_frames() -> None:
    datasets = made.frames()
    pixels = np.random.default_rng(4).integers(0, 256, (6, 33, 51, 3)).astype(np.uint8)
    [made_object] = secondary_capture.of_prediction(
        pixels,
        model=MODEL,
        sources=datasets,
        source_refs=made.frame_references(datasets),
        description="lesions",
        purpose="overlay",
        parameters={},
        made_at=MADE_AT,
        zoom=3,
    )
    ds = decoded(made_object)
    [source] = ds.SourceImageSequence
    assert list(source.ReferencedFrameNumber) == USED
    grid = made.mask(made.sources())
    for number, frame in enumerate(ds.PerFrameFunctionalGroupsSequence):
        corner = grid.position_mm((number, 1 / 3 - 2 / 3, 1 / 3 - 2 / 3))
        np.testing.assert_allclose(frame.PlanePositionSequence[0].ImagePositionPatient, corner, atol=1e-5)


def two_echoes(folder: Path) -> None:
    """An enhanced MR file: the six oblique slices at two echo times, first the later one, from the last slice on."""
    classic = made.sources(series="2.25.9908")
    ds = Dataset()
    for element in classic[0]:
        if element.keyword not in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
            ds.add(element)
    ds.SOPClassUID, ds.SOPInstanceUID, ds.NumberOfFrames = made.ENHANCED_MR, "2.25.9908.99", 12
    ds.SharedFunctionalGroupsSequence = [made.enhanced().SharedFunctionalGroupsSequence[0]]
    ds.PerFrameFunctionalGroupsSequence = []
    for echo_ms in (80.0, 20.0):
        for source in classic[::-1]:
            position, echo, frame = Dataset(), Dataset(), Dataset()
            position.ImagePositionPatient, echo.EffectiveEchoTime = source.ImagePositionPatient, echo_ms
            frame.PlanePositionSequence, frame.MREchoSequence = [position], [echo]
            ds.PerFrameFunctionalGroupsSequence.append(frame)
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.PixelData = np.random.default_rng(0).integers(0, 999, (12, *SHAPE[1:])).astype("<u2").tobytes()
    ds.file_meta = labels.file_meta(ds.SOPClassUID, ds.SOPInstanceUID)
    ds.save_as(folder / "enhanced.dcm", enforce_file_format=True)


def test_what_the_reader_gives_of_an_enhanced_image_is_written_on_and_comes_back(tmp_path: Path) -> None:
    two_echoes(tmp_path)
    readout = series.volumes([tmp_path])
    assert readout.refused == () and len(readout.volumes) == 2
    for entry, frames in zip(readout.volumes, ([12, 11, 10, 9, 8, 7], [6, 5, 4, 3, 2, 1]), strict=True):
        mask = entry.volume.with_voxels(made.mask(made.sources()).voxels)
        made_object = seg(list(entry.datasets), mask)
        ds = decoded(made_object)
        np.testing.assert_array_equal(segmentation.read(ds, entry.volume).voxels, mask.voxels)
        assert list(ds.SourceImageSequence[0].ReferencedFrameNumber) == sorted(frames)
        for frame in ds.PerFrameFunctionalGroupsSequence:
            place = frame.PlanePositionSequence[0].ImagePositionPatient
            slice_index = int(np.rint(mask.index_at(place)[0]))
            [item] = frame.DerivationImageSequence[0].SourceImageSequence
            assert item.ReferencedFrameNumber == frames[slice_index]


def set_frames(value: object) -> Callable[[Dataset], None]:
    return lambda ds: setattr(ds.SourceImageSequence[0], "ReferencedFrameNumber", value)


def set_frame_of_last(value: object) -> Callable[[Dataset], None]:
    def harm(ds: Dataset) -> None:
        last = ds.PerFrameFunctionalGroupsSequence[-1].DerivationImageSequence[0].SourceImageSequence[0]
        if value is None:
            del last.ReferencedFrameNumber
        else:
            last.ReferencedFrameNumber = value

    return harm


@pytest.mark.parametrize(
    "harm",
    [set_frames(USED[:-1]), set_frames([*USED, 13]), set_frames(2), set_frame_of_last(None), set_frame_of_last(3)],
)
def test_the_gate_holds_an_object_that_names_other_frames(harm: Callable[[Dataset], None]) -> None:
    datasets = made.frames()
    made_object = seg(datasets, mask_of(datasets))
    ds = decoded(made_object)
    harm(ds)
    with pytest.raises(Unlabelled, match=r"ReferencedFrameNumber.*2\.25\.9906\.1"):
        labels.check(ds, made_object[1])


def test_the_gate_holds_a_frame_number_on_a_single_frame_source() -> None:
    made_object = made.seg()
    ds = decoded(made_object)
    ds.SourceImageSequence[2].ReferencedFrameNumber = 1
    with pytest.raises(Unlabelled, match="ReferencedFrameNumber"):
        labels.check(ds, made_object[1])


def test_records_from_before_frames_were_named_are_read() -> None:
    record = made.seg()[1]
    text = record.to_json().replace(', "source_frames": []', "")
    assert "source_frames" not in text
    assert LabelRecord.from_json(text) == record


@pytest.mark.parametrize("refs", [made.frame_references(made.frames())[1:], made.references(made.sources())])
def test_frames_that_no_reference_names_are_refused(refs: tuple[Source, ...]) -> None:
    datasets = made.frames()
    with pytest.raises(ValueError, match="references"):
        seg(datasets, replace(mask_of(datasets), sources=()), source_refs=refs)


def test_another_number_of_frames_than_of_references_is_refused() -> None:
    datasets = made.frames()
    refs = made.frame_references(datasets)
    with pytest.raises(ValueError, match=r"6 source datasets are frames of 2\.25\.9906\.1"):
        references.frame_numbers(datasets, (), (*refs, replace(refs[0], frame=1)))


def test_a_last_digit_of_the_orientation_stops_nothing() -> None:
    datasets = made.sources()
    datasets[3].ImageOrientationPatient = [float(value) + 1e-6 for value in datasets[3].ImageOrientationPatient]
    mask = made.mask(datasets)
    np.testing.assert_array_equal(segmentation.read(decoded(seg(datasets, mask)), mask).voxels, mask.voxels)


def test_the_validator_finds_no_error(tmp_path: Path, needs: Needs) -> None:
    datasets = made.frames()
    path = tmp_path / "seg.dcm"
    path.write_bytes(labels.encode(*seg(datasets, mask_of(datasets))))
    assert made.errors_of_dciodvfy(needs("dciodvfy"), path) == []
