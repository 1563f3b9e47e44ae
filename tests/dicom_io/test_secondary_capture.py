"""Captures: labelled, valid, whole again without their strip, and in the right place."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from io import BytesIO
from pathlib import Path

import made_results as made
import numpy as np
import pytest
import SimpleITK
from made_results import MADE_AT, MODEL
from pydicom import Dataset, dcmread

from dicom_io import labels, picture, secondary_capture, series
from dicom_io.errors import Rejected
from dicom_io.provenance import FictitiousStudy, LabelRecord
from dicom_io.secondary_capture import dequantise, quantise, read_back

Needs = Callable[[str], str]


def decoded(dataset: Dataset, record: LabelRecord) -> Dataset:
    return dcmread(BytesIO(labels.encode(dataset, record)))


def generated(frames: np.ndarray, **changes: object) -> list[tuple[Dataset, LabelRecord]]:
    arguments = {
        "model": MODEL,
        "seed": 3,
        "label": "",
        "spacing_mm": (0.9, 1.1),
        "units": "1",
        "study": FictitiousStudy.named(MODEL, 3, "", MADE_AT),
        "made_at": MADE_AT,
    }
    return secondary_capture.generated(frames, **{**arguments, **changes})  # type: ignore[arg-type]


def predicted(frames: np.ndarray, datasets: list[Dataset], **changes: object) -> list[tuple[Dataset, LabelRecord]]:
    arguments = {
        "model": MODEL,
        "sources": datasets,
        "source_refs": made.references(datasets),
        "description": "lesions",
        "purpose": "overlay",
        "parameters": {"threshold": 0.41},
        "made_at": MADE_AT,
    }
    return secondary_capture.of_prediction(frames, **{**arguments, **changes})  # type: ignore[arg-type]


def color_frames(count: int, rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(4).integers(0, 256, (count, rows, columns, 3)).astype(np.uint8)


def test_generated_pixels_come_back_without_the_strip_equal_to_their_quantised_values() -> None:
    frames = np.random.default_rng(0).random((5, 9, 40), np.float32)
    [(dataset, record)] = generated(frames)
    ds = decoded(dataset, record)
    np.testing.assert_array_equal(read_back(ds), dequantise(quantise(frames, (0.0, 1.0))))
    np.testing.assert_array_equal(ds.pixel_array[:, :9], quantise(frames, (0.0, 1.0)).stored)
    assert ds.Rows == 9 + record.mark_rows


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.1), (0.0, 1.2), (0.1, 0.7), (-0.3, 300.1)])
def test_a_range_holds_the_float32_that_reaches_its_bounds(low: float, high: float) -> None:
    frames = np.float32(low) + np.array([[[0.0, 0.5, 1.0]]], np.float32) * np.float32(high - low)
    assert quantise(frames, (low, high)).stored[0, 0, [0, 2]].tolist() == [0, 65535]
    with pytest.raises(Rejected, match="do not fit the range"):
        quantise(frames * np.float32(1.001), (low, high))


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1024.0, 3071.0), (0.0, 27.3), (1e-7, 3e-6), (-5.0, -4.0)])
def test_quantised_floats_are_half_a_step_off_at_most_and_quantise_to_the_same_again(low: float, high: float) -> None:
    frames = np.random.default_rng(1).uniform(low, high, (3, 40, 41)).astype(np.float32)
    frames[0, 0, :2] = low, high
    first = quantise(frames)
    off = np.abs(first.stored * first.slope + first.intercept - frames.astype(np.float64)).max()
    assert off <= first.slope / 2 * (1 + 1e-6)
    assert first.slope == pytest.approx((high - low) / 65535, rel=1e-6)
    again = np.rint((dequantise(first).astype(np.float64) - first.intercept) / first.slope)
    np.testing.assert_array_equal(again, first.stored)


def test_what_else_is_in_the_series_does_not_change_a_picture() -> None:
    frames = np.random.default_rng(2).random((4, 8, 50), np.float32) * 0.5
    [(alone, _)] = generated(frames[:1])
    [(among, _)] = generated(np.concatenate([frames, frames + 0.5]))
    np.testing.assert_array_equal(read_back(alone)[0], read_back(among)[0])


def test_a_constant_picture_comes_back() -> None:
    [(dataset, record)] = generated(np.full((2, 9, 40), 7.25, np.float32), units="g/ml{SUVbw}")
    np.testing.assert_array_equal(read_back(decoded(dataset, record)), np.full((2, 9, 40), 7.25, np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.5, 9.0])
def test_pixels_that_cannot_be_stored_are_refused(value: float) -> None:
    frames = np.full((1, 9, 40), 0.5, np.float32)
    frames[0, 2, 3] = value
    with pytest.raises(Rejected, match="pixels"):
        generated(frames, value_range=(0.0, 1.0))


def test_pixels_of_an_overlay_come_back_byte_for_byte() -> None:
    frames = color_frames(6, 45, 81)  # An odd number of bytes: padding is no pixel.
    [(dataset, record)] = predicted(frames, made.sources())
    ds = decoded(dataset, record)
    np.testing.assert_array_equal(read_back(ds), frames)
    assert (ds.SamplesPerPixel, ds.PhotometricInterpretation, len(ds.PixelData) % 2) == (3, "RGB", 0)


def test_a_probability_map_keeps_its_values_and_its_window() -> None:
    frames = np.random.default_rng(5).random((6, 11, 90), np.float32)
    [(dataset, record)] = predicted(frames, made.sources())
    ds = decoded(dataset, record)
    assert np.abs(read_back(ds) - frames).max() <= ds.RescaleSlope / 2 * (1 + 1e-3)
    # LINEAR, PS3.3 C.11.2.1.2.1: black at 0, white at 1.
    assert ds.WindowCenter - 0.5 - (ds.WindowWidth - 1) / 2 == 0
    assert ds.WindowCenter - 0.5 + (ds.WindowWidth - 1) / 2 == 1


def test_values_outside_the_window_are_kept() -> None:
    frames = np.linspace(-3, 40, 6 * 11 * 90, dtype=np.float32).reshape(6, 11, 90)
    [(dataset, record)] = predicted(frames, made.sources(), window=(0.0, 10.0), units="g/ml{SUVbw}")
    back = read_back(decoded(dataset, record))
    assert np.abs(back - frames).max() <= 43 / 65535
    strip = dataset.pixel_array[:, 11:] * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
    assert strip.max() == pytest.approx(10, abs=1e-3) and strip.min() == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize(("count", "parts"), [(1, [1]), (64, [64]), (65, [64, 1]), (150, [64, 64, 22])])
def test_more_than_64_frames_become_consecutive_instances_of_one_series(count: int, parts: list[int]) -> None:
    frames = np.random.default_rng(6).random((count, 5, 40), np.float32)
    objects = [decoded(dataset, record) for dataset, record in generated(frames)]
    assert [ds.NumberOfFrames for ds in objects] == parts
    assert [ds.InstanceNumber for ds in objects] == list(range(1, len(parts) + 1))
    assert len({ds.SeriesInstanceUID for ds in objects}) == 1
    assert len({ds.SOPInstanceUID for ds in objects}) == len(parts)
    np.testing.assert_array_equal(
        np.concatenate([read_back(ds) for ds in objects]), dequantise(quantise(frames, (0.0, 1.0)))
    )


def test_the_same_input_gives_the_same_bytes_and_any_other_gives_other_uids() -> None:
    frames = np.random.default_rng(7).random((3, 9, 40), np.float32)
    [one] = generated(frames)
    [two] = generated(frames.copy())
    assert labels.encode(*one) == labels.encode(*two)
    others = [
        generated(frames, seed=4),
        generated(frames, label="T2"),
        generated(frames[:2]),
        generated(frames, model=replace(MODEL, content_hash="00" * 32)),
    ]
    uids = [one[1].sop_instance_uid, *(record.sop_instance_uid for [(_, record)] in others)]
    assert len(set(uids)) == len(uids)


def test_predictions_repeat_byte_for_byte_and_follow_their_input() -> None:
    frames, datasets = color_frames(6, 45, 81), made.sources()
    [one] = predicted(frames, datasets)
    [two] = predicted(frames, made.sources())
    assert labels.encode(*one) == labels.encode(*two)
    corrected = [replace(ref, dataset_hash="f" * 64) for ref in made.references(datasets)]
    changes = [
        {"source_refs": corrected},
        {"purpose": "another"},
        {"parameters": {"threshold": 0.5}},
        {"out_of_domain": True},
    ]
    uids = [predicted(frames, datasets, **change)[0][1].sop_instance_uid for change in changes]
    assert len({one[1].sop_instance_uid, *uids}) == 5


def test_the_time_of_making_changes_no_uid() -> None:
    frames = np.zeros((1, 9, 40), np.float32)
    [(_, one)], [(_, two)] = generated(frames), generated(frames, made_at=datetime(2031, 1, 1))
    assert one.sop_instance_uid == two.sop_instance_uid


def test_the_strip_lies_below_the_image_and_reads_the_same_in_each_frame() -> None:
    frames = color_frames(6, 45, 240)
    [(dataset, record)] = predicted(frames, made.sources())
    pixels = dataset.pixel_array
    ink = picture.text_strip("AI - research only - lesion-finder:2.1.0", 240)
    assert record.mark_rows == len(ink) and pixels.shape[1] == 45 + len(ink)
    for shown, frame in zip(pixels, frames, strict=True):
        np.testing.assert_array_equal(shown[45:, :, 0] == 255, ink)
        np.testing.assert_array_equal(shown[:45], frame)


def test_a_narrow_picture_still_bears_the_whole_mark() -> None:
    [(dataset, record)] = generated(np.zeros((1, 16, 16), np.float32))
    assert record.mark_rows > 16
    labels.check(dataset, record)


def test_the_mark_of_a_synthetic_image_says_synthetic() -> None:
    _, record = made.generated()[0]
    assert labels.visible_mark(record) == "SYNTHETIC - lesion-finder:2.1.0 - not for diagnosis"
    _, record = made.capture(synthetic=True, out_of_domain=True)
    assert labels.visible_mark(record) == "SYNTHETIC - AI - research only - lesion-finder:2.1.0 - OUT OF DOMAIN"


def test_a_source_that_is_synthetic_by_its_reference_alone_makes_a_synthetic_capture() -> None:
    datasets = made.sources()
    refs = list(made.references(datasets))
    refs[3] = replace(refs[3], synthetic=True)
    [(dataset, record)] = predicted(color_frames(6, 45, 81), datasets, source_refs=refs)
    assert dataset.SyntheticData == "YES"
    labels.check(dataset, record)


def test_frames_that_show_their_sources_lie_where_these_lie(tmp_path: Path) -> None:
    datasets, zoom = made.sources(), 3
    frames = color_frames(6, 3 * 11 + 5, 3 * 17)  # Five rows of caption below.
    [(dataset, record)] = predicted(frames, datasets, zoom=zoom)
    (tmp_path / "capture.dcm").write_bytes(labels.encode(dataset, record))
    image = SimpleITK.ReadImage(str(tmp_path / "capture.dcm"))
    grid = made.mask(datasets)
    for slice_index, row, column in [(0, 0, 0), (5, 10, 16), (2, 7, 3)]:
        middle = (column * zoom + 1, row * zoom + 1, slice_index)  # The centre of a block of 3 x 3.
        expected = grid.position_mm((slice_index, row, column))
        np.testing.assert_allclose(image.TransformIndexToPhysicalPoint(middle), expected, atol=1e-4)
    assert dataset.FrameOfReferenceUID == "2.25.9903"


def test_frames_without_planes_claim_no_place() -> None:
    [(dataset, record)] = predicted(color_frames(6, 45, 81), made.sources())
    assert "FrameOfReferenceUID" not in dataset and record.frame_of_reference_uid == ""
    assert "SharedFunctionalGroupsSequence" not in dataset


def test_planes_are_split_with_their_frames() -> None:
    datasets = [
        ds for start in range(12) for ds in made.sources(series=f"2.25.99{start:02d}1")
    ]  # 72 images; their planes repeat, which a capture may.
    frames = color_frames(72, 11, 17)
    objects = predicted(frames, datasets, zoom=1)
    assert [len(ds.PerFrameFunctionalGroupsSequence) for ds, _ in objects] == [64, 8]
    last = objects[1][0].PerFrameFunctionalGroupsSequence[-1].PlanePositionSequence[0].ImagePositionPatient
    np.testing.assert_allclose(last, datasets[-1].ImagePositionPatient)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ImageOrientationPatient": None}, "where it lies"),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}, "parallel"),
        ({"FrameOfReferenceUID": "2.25.1"}, "frames of reference"),
        ({"StudyInstanceUID": "2.25.1"}, "studies"),
        ({"PatientID": "P-18"}, "patients"),
    ],
)
def test_sources_that_do_not_belong_together_are_refused(change: dict[str, object], message: str) -> None:
    datasets = made.sources()
    for keyword, value in change.items():
        setattr(datasets[2], keyword, value)
    with pytest.raises(Rejected, match=message) as refusal:
        predicted(color_frames(6, 11, 17), datasets, zoom=1)
    assert "P-1" not in str(refusal.value)


def test_frames_of_another_size_than_their_sources_have_no_planes() -> None:
    with pytest.raises(ValueError, match="do not show"):
        predicted(color_frames(6, 11, 16), made.sources(), zoom=1)
    with pytest.raises(ValueError, match="do not show"):
        predicted(color_frames(5, 11, 17), made.sources(), zoom=1)


def test_an_image_that_no_reference_names_is_refused() -> None:
    datasets = made.sources()
    with pytest.raises(ValueError, match="not named"):
        predicted(color_frames(6, 45, 81), datasets, source_refs=made.references(datasets[1:]))


def test_sources_of_other_channels_are_referenced_too() -> None:
    shown, further = made.sources(), made.sources(series="2.25.9909", synthetic=True)
    refs = (*made.references(shown), *made.references(further))
    [(dataset, record)] = predicted(color_frames(6, 11, 17), shown, source_refs=refs, further_sources=further, zoom=1)
    labels.check(dataset, record)
    assert len(dataset.SourceImageSequence) == 12 and dataset.SyntheticData == "YES"
    assert [item.SeriesInstanceUID for item in dataset.ReferencedSeriesSequence] == ["2.25.9902", "2.25.9909"]


def test_lossy_sources_make_a_lossy_result() -> None:
    datasets = made.sources()
    datasets[4].LossyImageCompression = "01"
    assert predicted(color_frames(6, 11, 40), datasets)[0][0].LossyImageCompression == "01"
    assert predicted(color_frames(6, 11, 40), made.sources())[0][0].LossyImageCompression == "00"


def test_only_captures_of_ours_are_read_back() -> None:
    with pytest.raises(Rejected, match="Mark Rows"):
        read_back(made.sources()[0])


def test_neither_frames_nor_sources_are_changed() -> None:
    frames, datasets = color_frames(6, 11, 17), made.sources()
    before = frames.copy(), [ds.to_json() for ds in datasets]
    predicted(frames, datasets, zoom=1)
    np.testing.assert_array_equal(frames, before[0])
    assert [ds.to_json() for ds in datasets] == before[1]


@pytest.mark.parametrize(
    "make",
    [
        lambda: made.generated()[0],
        lambda: generated(np.random.default_rng(0).random((70, 9, 40), np.float32), spacing_mm=None)[1],
        lambda: generated(np.random.default_rng(0).random((1, 9, 40), np.float32))[0],
        lambda: predicted(color_frames(1, 11, 17), made.sources()[:1], zoom=1)[0],
        made.from_real,
        made.capture,
        lambda: made.capture(synthetic=True, out_of_domain=True),
        lambda: predicted(color_frames(6, 45, 81), made.sources(StudyID="far too long for a study"))[0],
        lambda: predicted(np.random.default_rng(0).random((6, 11, 17), np.float32), made.sources(), zoom=1)[0],
        lambda: predicted(np.random.default_rng(0).random((6, 11, 17), np.float32), made.sources())[0],
    ],
)
@pytest.mark.filterwarnings("ignore:The value length:UserWarning")
def test_the_validator_finds_no_error(
    make: Callable[[], tuple[Dataset, LabelRecord]], tmp_path: Path, needs: Needs
) -> None:
    path = tmp_path / "capture.dcm"
    path.write_bytes(labels.encode(*make()))
    assert made.errors_of_dciodvfy(needs("dciodvfy"), path) == []


def test_other_readers_see_the_same_pixels(tmp_path: Path, needs: Needs) -> None:
    gray, color = tmp_path / "gray.dcm", tmp_path / "colour.dcm"
    gray.write_bytes(labels.encode(*made.generated()[0]))
    color.write_bytes(labels.encode(*made.capture()))
    frames = np.random.default_rng(1).random((3, 13, 90), np.float32)
    # SimpleITK applies slope and intercept by itself.
    seen = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(gray)))[:, :13]
    np.testing.assert_allclose(seen, frames, atol=1.01 / 65535)
    np.testing.assert_array_equal(
        SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(color))), dcmread(color).pixel_array
    )
    said = subprocess.run([needs("gdcminfo"), str(gray)], capture_output=True, text=True, check=True).stdout
    assert "Dimensions: (90," in said and ",3)" in said and "UINT16" in said
    dumped = subprocess.run([needs("dcmdump"), str(gray)], capture_output=True, text=True, check=True).stdout
    assert "(0008,001c) CS [YES]" in dumped


@pytest.mark.acceptance
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("form", ["multi-frame", "single-frame"])
def test_a_capture_of_a_real_mammogram_is_valid(form: str, test_data: Path, tmp_path: Path, needs: Needs) -> None:
    [entry] = series.volumes([test_data / "mammo-dicom"]).projections
    frame = picture.window(entry.projection.pixels[::4, ::4], 0, 4095)
    frames = picture.rgb(frame)[np.newaxis]
    [made_object] = predicted(frames, [entry.dataset], source_refs=[entry.projection.source], form=form)
    path = tmp_path / "capture.dcm"
    path.write_bytes(labels.encode(*made_object))
    # Its birth date is no date; who the patient is is copied as it stands.
    assert [line for line in made.errors_of_dciodvfy(needs("dciodvfy"), path) if "PatientBirthDate" not in line] == []
    np.testing.assert_array_equal(read_back(dcmread(path)), frames)


@pytest.mark.acceptance
@pytest.mark.filterwarnings("ignore:The value length:UserWarning")
def test_an_overlay_of_a_real_pet_lies_on_it(test_data: Path, tmp_path: Path, needs: Needs) -> None:
    readout = series.volumes(sorted((test_data / "pet-suv-sarcoma" / "STS_002" / "PET").iterdir()))
    [entry] = readout.volumes
    shown = picture.window(entry.volume.voxels, 0, 10)
    tumour = (entry.volume.voxels > 2.5).astype(np.uint8)
    frames = np.stack(
        [
            picture.overlay(picture.enlarged(gray, 7), picture.enlarged(mask, 7))
            for gray, mask in zip(shown, tumour, strict=True)
        ]
    )
    [(dataset, record)] = predicted(
        frames, list(entry.datasets), source_refs=entry.volume.sources, zoom=7, parameters={"threshold": 2.5}
    )
    path = tmp_path / "overlay.dcm"
    path.write_bytes(labels.encode(dataset, record))
    assert made.errors_of_dciodvfy(needs("dciodvfy"), path) == []
    image = SimpleITK.ReadImage(str(path))
    for index in [(0, 0, 0), (47, 26, 29), (20, 5, 11)]:
        middle = (index[2] * 7 + 3, index[1] * 7 + 3, index[0])
        expected = entry.volume.position_mm(index)
        np.testing.assert_allclose(image.TransformIndexToPhysicalPoint(middle), expected, atol=0.01)
    np.testing.assert_array_equal(read_back(dcmread(path)), frames)
