"""From the series of a study to the inputs of a model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import oblique_studies as toy
import pytest

from dicom_io import series
from dicom_io.cohort import Channel
from dicom_io.errors import Rejected
from plugin.model_input import Case, cases

T1, FLAIR = Channel("T1", "MR", "1", "T1"), Channel("FLAIR", "MR", "1", "FLAIR")
PET = Channel("PET", "PT", "g/ml{SUVbw}")
VIEW = Channel("view", "MG", "1")


def found(folder: Path, *parts: list, channels: tuple[Channel, ...]) -> list[Case]:
    return cases(series.volumes(toy.write(folder, *parts)), channels)


def stored(dataset) -> np.ndarray:
    return np.frombuffer(dataset.PixelData, "<u2").reshape(dataset.Rows, dataset.Columns)


def uids(datasets) -> list[str]:
    return [str(dataset.SOPInstanceUID) for dataset in datasets]


def test_t1_and_flair_on_one_grid_become_the_channels_of_one_input_in_the_order_of_the_model(tmp_path):
    t1, flair = toy.mr("T1", 3), toy.mr("FLAIR", 3)
    (case,) = found(tmp_path, flair, t1, toy.pet(3), channels=(T1, FLAIR))
    for channel, datasets in enumerate((t1, flair)):
        np.testing.assert_array_equal(case.image.voxels[channel], np.stack([stored(ds) for ds in datasets]))
    (turned,) = found(tmp_path, t1, flair, channels=(FLAIR, T1))
    np.testing.assert_array_equal(turned.image.voxels, case.image.voxels[::-1])


def test_results_refer_to_the_last_channel_and_the_others_are_further_sources(tmp_path):
    t1, flair = toy.mr("T1", 3), toy.mr("FLAIR", 3)
    (case,) = found(tmp_path, t1, flair, channels=(T1, FLAIR))
    assert uids(case.datasets) == uids(flair)
    assert uids(case.further) == uids(t1)
    assert [source.sop_instance_uid for source in case.sources] == uids([*t1, *flair])
    assert len({source.dataset_hash for source in case.sources}) == 2 * toy.SHAPE[0]


def test_a_channel_on_another_grid_of_the_same_frame_of_reference_is_resampled(tmp_path):
    half_a_step = toy.SPACING_MM[1] / 2
    readout = series.volumes(toy.write(tmp_path, toy.mr("T1", 3, shift_mm=0.0), toy.mr("FLAIR", 3)))
    volumes = {entry.contrast: entry.volume for entry in readout.volumes}
    down = volumes["T1"].affine[:3, 1] / toy.SPACING_MM[1]
    affine = volumes["T1"].affine.copy()
    affine[:3, 3] += down * half_a_step
    entries = [
        replace(entry, volume=replace(entry.volume, affine=affine)) if entry.contrast == "T1" else entry
        for entry in readout.volumes
    ]

    (case,) = cases(replace(readout, volumes=tuple(entries)), (T1, FLAIR))

    assert case.resampled == ("T1",)
    np.testing.assert_array_equal(case.image.voxels[1], volumes["FLAIR"].voxels)
    before = volumes["T1"].voxels
    np.testing.assert_allclose(case.image.voxels[0, :, 1:], (before[:, 1:] + before[:, :-1]) / 2, rtol=1e-4, atol=1e-6)
    assert len(case.sources) == 2 * toy.SHAPE[0] and len(case.image.sources) == toy.SHAPE[0]


def test_series_of_other_frames_of_reference_or_that_leave_much_out_do_not_pair(tmp_path):
    readout = series.volumes(toy.write(tmp_path, toy.mr("T1", 3), toy.mr("FLAIR", 3, shift_mm=toy.SPACING_MM[0])))
    with pytest.raises(Rejected, match="MR T1 and MR FLAIR on one grid or in one frame of reference, and the study"):
        cases(readout, (T1, FLAIR))
    elsewhere = [
        replace(entry, volume=replace(entry.volume, frame_of_reference_uid=f"2.25.{number}"))
        for number, entry in enumerate(readout.volumes)
    ]
    with pytest.raises(Rejected, match="in one frame of reference"):
        cases(replace(readout, volumes=tuple(elsewhere)), (T1, FLAIR))


def test_of_two_flairs_only_the_one_on_the_grid_of_the_t1_is_taken(tmp_path):
    right, wrong = toy.mr("FLAIR", 3), toy.mr("FLAIR", 3, name="thick", shift_mm=1.0)
    (case,) = found(tmp_path, wrong, toy.mr("T1", 3), right, channels=(T1, FLAIR))
    assert uids(case.datasets) == uids(right)


def test_two_flairs_on_the_grid_of_the_t1_are_two_inputs(tmp_path):
    again = toy.mr("FLAIR", 3, name="again")
    both = found(tmp_path, toy.mr("FLAIR", 3), toy.mr("T1", 3), again, channels=(T1, FLAIR))
    assert len(both) == 2
    assert {case.datasets[0].SeriesInstanceUID for case in both} == {toy.uid(3, "", "FLAIR"), toy.uid(3, "", "again")}
    assert len({case.further[0].SeriesInstanceUID for case in both}) == 1


def test_one_series_does_not_stand_in_for_two_channels(tmp_path):
    either = (Channel("early", "PT", "g/ml{SUVbw}"), Channel("late", "PT", "g/ml{SUVbw}"))
    with pytest.raises(Rejected, match=r"PT and PT on one grid or in one frame of reference, and the study holds PT$"):
        found(tmp_path, toy.pet(3), channels=either)


def test_a_missing_channel_is_a_sentence_that_says_what_is_needed_and_what_is_held(tmp_path):
    with pytest.raises(Rejected) as caught:
        found(tmp_path, toy.mr("T1", 3), toy.pet(3), channels=(T1, FLAIR))
    said = str(caught.value)
    assert said.startswith(
        "the model needs MR T1 and MR FLAIR on one grid or in one frame of reference, and the study "
    )
    assert sorted(said.rpartition("holds ")[2].split(", ")) == ["MR T1", "PT"]


def test_a_series_that_cannot_be_read_is_named_with_its_reason(tmp_path):
    with_gap = [ds for number, ds in enumerate(toy.pet(3)) if number != 2]
    with pytest.raises(Rejected) as caught:
        found(tmp_path, with_gap, channels=(PET,))
    said = str(caught.value)
    assert said.startswith("the model needs PT, and the study holds no series that gives a volume or a projection; ")
    assert f"series {with_gap[0].SeriesInstanceUID} is not readable: " in said
    assert "leave a gap" in said


def test_a_model_of_one_channel_takes_each_series_that_suits(tmp_path):
    first, second = toy.pet(3), toy.pet(4, study="", name="late")
    each = found(tmp_path, first, second, toy.mr("T1", 3), channels=(PET,))
    assert {case.datasets[0].SeriesInstanceUID for case in each} == {
        first[0].SeriesInstanceUID,
        second[0].SeriesInstanceUID,
    }
    for case in each:
        assert case.further == ()
        assert case.image.voxels.shape == (1, *toy.SHAPE)
        assert [source.sop_instance_uid for source in case.sources] == uids(case.datasets)


def test_each_mammogram_is_an_input_of_its_own(tmp_path):
    pictures = [toy.mammogram(3, side, view, ill=False) for side in "LR" for view in ("CC", "MLO")]
    each = found(tmp_path, pictures, channels=(VIEW,))
    assert sorted(case.image.laterality + case.image.view for case in each) == ["LCC", "LMLO", "RCC", "RMLO"]
    for case in each:
        (dataset,), (source,) = case.datasets, case.sources
        assert source.sop_instance_uid == dataset.SOPInstanceUID
        assert (case.image.laterality, case.image.view) == (dataset.ImageLaterality, dataset.ViewPosition)


def test_a_model_of_one_view_takes_that_view_alone(tmp_path):
    pictures = [toy.mammogram(3, side, view, ill=False) for side in "LR" for view in ("CC", "MLO")]
    each = found(tmp_path, pictures, channels=(Channel("MLO", "MG", "1", "MLO"),))
    assert sorted(case.image.laterality + case.image.view for case in each) == ["LMLO", "RMLO"]
    with pytest.raises(Rejected, match=r"the model needs MG XCCL, and the study holds MG CC, MG MLO, "):
        found(tmp_path, pictures, channels=(Channel("x", "MG", "1", "XCCL"),))


def test_projections_do_not_become_channels_of_one_input(tmp_path):
    with pytest.raises(
        Rejected,
        match="MG and MG on one grid or in one frame of reference, and the study holds MG CC, MG CC",
    ):
        found(tmp_path, [toy.mammogram(3, side, "CC", ill=False) for side in "LR"], channels=(VIEW, VIEW))
