"""SEG that a label map does not hold: probabilities, and segments that overlap; ours and those of other makers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import highdicom
import made_results as made
import numpy as np
import pytest
from made_results import MADE_AT, MODEL, SEGMENTS, SHAPE
from pydicom import Dataset, dcmread

from dicom_io import labels, segmentation, series
from dicom_io.errors import MissingAttribute, Rejected
from dicom_io.provenance import LabelRecord
from dicom_io.volume import Volume

Needs = Callable[[str], str]


def probabilities(channels: int = 2) -> np.ndarray:
    """Lopsided, with empty slices at both ends and values between two steps."""
    voxels = np.random.default_rng(3).random((channels, *SHAPE)).astype(np.float32)
    voxels[:, 0], voxels[:, 5] = 0, 0
    voxels[-1, 1], voxels[0, 4] = 0, 1
    return voxels


def fractional(voxels: np.ndarray, **more: Any) -> tuple[Dataset, LabelRecord]:
    datasets = made.sources()
    arguments: dict[str, Any] = {
        "sources": datasets,
        "segments": SEGMENTS[: len(voxels) if voxels.ndim == 4 else 1],
        "model": MODEL,
        "parameters": {},
        "description": "lesion probability",
        "made_at": MADE_AT,
        "form": "fractional",
    }
    return segmentation.segmentation(replace(made.mask(datasets), voxels=voxels), **{**arguments, **more})


def decoded(made_object: tuple[Dataset, LabelRecord]) -> Dataset:
    return dcmread(BytesIO(labels.encode(*made_object)))


@pytest.mark.parametrize("empty_frames", [False, True])
@pytest.mark.parametrize("channels", [1, 2])
def test_probabilities_come_back_half_a_step_off_at_most(channels: int, empty_frames: bool) -> None:
    voxels = probabilities(channels)
    ds = decoded(fractional(voxels, empty_frames=empty_frames))
    back = segmentation.read_fractional(ds, made.mask(made.sources()))
    assert back.voxels.shape == voxels.shape and back.units == "1"
    assert np.abs(back.voxels - voxels).max() <= 0.5 / 255 + 1e-6
    np.testing.assert_array_equal(np.rint(back.voxels * 255), np.rint(voxels * np.float32(255)))


def test_probabilities_of_one_segment_need_no_axis_of_segments() -> None:
    voxels = probabilities(1)
    assert labels.encode(*fractional(voxels[0])) == labels.encode(*fractional(voxels))


def test_probabilities_without_any_chance_are_a_result_with_every_frame() -> None:
    ds = decoded(fractional(np.full((2, *SHAPE), 0.001, np.float32)))
    assert ds.NumberOfFrames == 12 and not ds.pixel_array.any()
    np.testing.assert_array_equal(segmentation.read(ds, made.mask(made.sources()), threshold=0.5).voxels, 0)


def test_a_fractional_object_says_that_its_values_are_probabilities_and_is_one_of_its_own() -> None:
    made_object = fractional(probabilities())
    ds = decoded(made_object)
    assert (ds.SOPClassUID, ds.SegmentationType) == ("1.2.840.10008.5.1.4.1.1.66.4", "FRACTIONAL")
    assert (ds.SegmentationFractionalType, ds.MaximumFractionalValue, ds.BitsAllocated) == ("PROBABILITY", 255, 8)
    assert made_object[1].sop_instance_uid != fractional(probabilities(), empty_frames=True)[1].sop_instance_uid
    assert labels.encode(*made_object) == labels.encode(*fractional(probabilities()))


def test_highdicom_reads_the_same_probabilities() -> None:
    ds = decoded(fractional(probabilities()))
    volume = highdicom.seg.Segmentation.from_dataset(ds).get_volume(combine_segments=False)
    own = segmentation.read_fractional(ds)
    for number in range(len(volume.array)):  # It counts the slices from the other end.
        index = own.index_at((volume.affine @ [number, 0, 0, 1])[:3])
        np.testing.assert_allclose(index, [len(volume.array) - 1 - number, 0, 0], atol=1e-4)
        np.testing.assert_allclose(np.moveaxis(volume.array[number], -1, 0), own.voxels[:, -1 - number], atol=1e-6)


@pytest.mark.parametrize("threshold", [0.2, 0.5, 127 / 255, 1.0])
def test_a_threshold_makes_labels_of_probabilities(threshold: float) -> None:
    voxels = probabilities(1)
    ds = decoded(fractional(voxels))
    back = segmentation.read(ds, made.mask(made.sources()), threshold=threshold)
    stored = np.rint(voxels[0] * np.float32(255))
    np.testing.assert_array_equal(back.voxels, stored / 255 >= threshold - 1e-9)


def test_probabilities_have_no_labels_without_a_threshold() -> None:
    with pytest.raises(Rejected, match="FRACTIONAL and holds no labels; give a threshold"):
        segmentation.read(decoded(fractional(probabilities())))


@pytest.mark.parametrize("value", [-0.01, 1.01, np.nan, np.inf])
def test_what_is_no_probability_is_refused(value: float) -> None:
    voxels = probabilities()
    voxels[1, 2, 3, 4] = value
    with pytest.raises(Rejected, match="no probabilities"):
        fractional(voxels)


def test_fractions_without_a_full_scale_are_refused() -> None:
    ds = decoded(fractional(probabilities()))
    del ds.MaximumFractionalValue
    with pytest.raises(MissingAttribute, match="Maximum Fractional Value"):
        segmentation.read_fractional(ds)


def test_the_validator_finds_no_error(tmp_path: Path, needs: Needs) -> None:
    path = tmp_path / "seg.dcm"
    for voxels in (probabilities(1), probabilities(2)):
        path.write_bytes(labels.encode(*fractional(voxels)))
        assert made.errors_of_dciodvfy(needs("dciodvfy"), path) == []


@pytest.mark.parametrize("form", ["binary", "labelmap"])
def test_each_segment_of_our_own_masks_comes_back_by_itself(form: Any) -> None:
    datasets = made.sources()
    mask = made.mask(datasets)
    made_object = segmentation.segmentation(
        mask,
        sources=datasets,
        segments=SEGMENTS,
        model=MODEL,
        parameters={},
        description="",
        made_at=MADE_AT,
        form=form,
    )
    back = segmentation.read_segments(decoded(made_object), mask)
    assert list(back) == [1, 2]
    for number, volume in back.items():
        np.testing.assert_array_equal(volume.voxels, mask.voxels == number)


def test_the_segments_of_ours_are_described_as_they_were_made() -> None:
    first, second = segmentation.segments_of(decoded(made.seg()))
    assert (first.number, first.label, first.algorithm_type) == (1, "lesion", "AUTOMATIC")
    assert second.property_type == ("108369006", "SCT", "Neoplasm")
    assert first.colour is not None
    np.testing.assert_allclose(first.colour, SEGMENTS[0].colour, atol=2)


def test_an_object_without_segments_is_no_seg() -> None:
    with pytest.raises(Rejected, match="describes no segment"):
        segmentation.segments_of(made.sources()[0])
    with pytest.raises(Rejected, match=r"Segmentation Type \(0062,0001\) absent"):
        segmentation.read_segments(made.sources()[0])


def theirs(ds: Dataset) -> tuple[dict[int, np.ndarray], np.ndarray]:
    """What highdicom reads: segment -> voxels, and their affine."""
    seg = highdicom.seg.Segmentation.from_dataset(ds)
    volume = seg.get_volume(combine_segments=False, allow_missing_positions=True)
    return {number: volume.array[..., k] for k, number in enumerate(seg.segment_numbers)}, volume.affine


@pytest.mark.acceptance
@pytest.mark.parametrize("name", ["partial_overlaps.dcm", "liver.dcm", "highdicom/seg_image_ct_binary_overlap.dcm"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_overlapping_segments_of_other_makers_are_each_where_highdicom_finds_them(name: str, test_data: Path) -> None:
    ds = dcmread(test_data / "seg-sr" / name)
    if "overlap.dcm" in name:  # Its planes are 1.25 mm thick, 1.25 mm or 200 mm apart: no stack, but voxels of one.
        grid = covering(ds)
        back = segmentation.read_segments(ds, grid)
        stored = ds.pixel_array
        for index, frame in enumerate(ds.PerFrameFunctionalGroupsSequence):
            number = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
            place = np.rint(grid.index_at(frame.PlanePositionSequence[0].ImagePositionPatient)).astype(int)
            np.testing.assert_array_equal(back[number].voxels[place[0]], stored[index])
        return
    expected, affine = theirs(ds)
    back = segmentation.read_segments(ds)
    assert back.keys() == expected.keys()
    for number, volume in back.items():
        here = np.argwhere(volume.voxels > 0) @ volume.affine[:3, :3].T + volume.affine[:3, 3]
        there = np.argwhere(expected[number] > 0) @ affine[:3, :3].T + affine[:3, 3]
        assert len(here) > 50
        np.testing.assert_allclose(here[np.lexsort(here.round(2).T)], there[np.lexsort(there.round(2).T)], atol=1e-3)


def covering(ds: Dataset) -> Volume:
    positions = np.array(
        [frame.PlanePositionSequence[0].ImagePositionPatient for frame in ds.PerFrameFunctionalGroupsSequence], float
    )
    shared = ds.SharedFunctionalGroupsSequence[0]
    down, across = (float(step) for step in shared.PixelMeasuresSequence[0].PixelSpacing)
    affine = np.zeros((4, 4))
    affine[3, 3], affine[2, 0], affine[1, 1], affine[0, 2] = 1, 1.25, down, across
    affine[:3, 3] = positions[np.argmin(positions[:, 2])]
    slices = int(np.rint(np.ptp(positions[:, 2]) / 1.25)) + 1
    return Volume(np.zeros((slices, ds.Rows, ds.Columns), np.float32), affine, str(ds.FrameOfReferenceUID), "1")


@pytest.mark.acceptance
def test_segments_that_overlap_do_overlap(test_data: Path) -> None:
    ds = dcmread(test_data / "seg-sr" / "partial_overlaps.dcm")
    back = segmentation.read_segments(ds)
    assert [segment.label for segment in segmentation.segments_of(ds)] == [
        *("GREEN", "ORANGE", "PURPLE", "LIGHT_BLUE", "DARK_BLUE"),
    ]
    assert np.sum([volume.voxels for volume in back.values()], axis=0).max() >= 2
    labelled = segmentation.read(ds).voxels
    np.testing.assert_array_equal(labelled > 0, np.any([volume.voxels > 0 for volume in back.values()], axis=0))


@pytest.mark.acceptance
def test_a_fractional_seg_of_a_real_breast_lies_on_its_images(test_data: Path) -> None:
    folder = test_data / "mr-breast-dce" / "UCSF-BR-06"
    [path] = (folder / "mask").iterdir()
    ds = dcmread(path)
    entry = series.volumes([folder / "image_dce_3dfgre_orig"]).volumes[0]
    back = segmentation.read_fractional(ds, entry.volume)
    assert back.voxels.shape == (1, 60, 256, 256) and back.same_grid_as(entry.volume)
    stored = ds.pixel_array
    slices_with_frames = set()
    for index, frame in enumerate(ds.PerFrameFunctionalGroupsSequence):
        position = frame.PlanePositionSequence[0].ImagePositionPatient
        number = int(np.rint(entry.volume.index_at(position)[0]))
        slices_with_frames.add(number)
        np.testing.assert_allclose(back.voxels[0, number], stored[index] / 255, atol=1e-6)
    assert len(slices_with_frames) == 42
    others = [number for number in range(60) if number not in slices_with_frames]
    assert not back.voxels[0, others].any()
    np.testing.assert_array_equal(segmentation.read(ds, entry.volume, threshold=0.5).voxels, back.voxels[0] >= 0.5)
    # Breast tissue is brighter than what surrounds it.
    assert entry.volume.voxels[back.voxels[0] > 0].mean() > 2 * entry.volume.voxels[back.voxels[0] == 0].mean()


@pytest.mark.acceptance
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("form", ["binary", "fractional"])
@pytest.mark.parametrize(
    "folder",
    [
        "mr-t1-t2-pair/STS_001/MR_T1",
        "mr-t1-t2-pair/STS_001/MR_T2",
        "mr-breast-dce/UCSF-BR-06/image_dce_3dfgre_orig",
        "pet-fdg-raw/STS_001",
    ],
)
def test_a_seg_of_real_images_comes_back(folder: str, form: Any, test_data: Path, tmp_path: Path, needs: Needs) -> None:
    for entry in series.volumes([test_data / folder]).volumes[:2]:
        share = entry.volume.voxels / entry.volume.voxels.max()
        share[:3], share[-2:] = 0, 0
        voxels = share if form == "fractional" else (share > 0.3).astype(np.float32)
        made_object = segmentation.segmentation(
            entry.volume.with_voxels(voxels, units="1"),
            sources=entry.datasets,
            segments=SEGMENTS[:1],
            model=MODEL,
            parameters={},
            description="bright",
            made_at=MADE_AT,
            form=form,
        )
        path = tmp_path / "seg.dcm"
        path.write_bytes(labels.encode(*made_object))
        assert made.errors_of_dciodvfy(needs("dciodvfy"), path) == []
        back = segmentation.read_fractional(dcmread(path), entry.volume).voxels[0]
        assert np.abs(back - voxels).max() <= (0.501 / 255 if form == "fractional" else 0)


@pytest.mark.acceptance
def test_true_fractions_of_another_maker_are_read(test_data: Path) -> None:
    ds = dcmread(test_data / "seg-sr" / "highdicom" / "seg_image_ct_true_fractional.dcm")
    grid = covering(ds)
    back = segmentation.read_fractional(ds, grid)
    found = {round(float(value), 4) for value in np.unique(back.voxels)}
    assert found == {round(value / 255, 4) for value in np.unique(ds.pixel_array).tolist()} | {0.0}
