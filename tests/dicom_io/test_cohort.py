"""A cohort's folder: what is written is what is read, on one grid, with its split."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dicom_io.cohort import (
    Channel,
    Cohort,
    Item,
    add_projection,
    add_volume,
    colour_channels,
    is_colour,
    load,
    load_image,
    load_mask,
    save,
    split_evenly,
    split_of,
)
from dicom_io.errors import Rejected
from dicom_io.series import stack
from dicom_io.volume import Projection


@pytest.fixture
def volume(make):
    return stack(make.slices(make.series()))


def _cohort(folder, **splits: tuple[Item, ...]) -> Cohort:
    channels = (Channel("t1", "MR", "1", "T1"), Channel("flair", "MR", "1", "FLAIR"))
    return Cohort(folder, "made", "segmentation", ("background", "lesion"), channels, splits)


def test_channels_come_back_stacked_in_the_cohorts_order_and_the_mask_on_their_grid(volume, tmp_path):
    flair = volume.with_voxels(volume.voxels * 2 + 1)
    lesion = volume.with_voxels((volume.voxels > 500).astype(np.float32))
    item = add_volume(tmp_path, "p1", {"t1": volume, "flair": flair}, "p1", mask=lesion, slice_labels=(0, 1, 1, 0, 1))
    save(_cohort(tmp_path, training=(item,)))

    cohort = load(tmp_path)
    image, mask = load_image(cohort, cohort.training[0]), load_mask(cohort, cohort.training[0])

    np.testing.assert_array_equal(image.voxels, np.stack([volume.voxels, flair.voxels]))
    np.testing.assert_array_equal(image.affine, volume.affine)
    assert image.sources == volume.sources
    np.testing.assert_array_equal(mask.voxels, lesion.voxels)
    assert mask.same_grid_as(image)
    assert cohort.training == (item,)
    assert item.geometry["shape"] == [5, 7, 4]
    assert item.geometry["spacing_mm"] == pytest.approx([2.5, 0.75, 1.3])


def test_one_channel_is_an_axis_too(volume, tmp_path):
    item = add_volume(tmp_path, "p1", {"t1": volume}, "p1", label=1)

    assert load_image(_cohort(tmp_path), item).voxels.shape == (1, 5, 7, 4)
    assert (item.label, item.synthetic) == (1, False)


def test_a_synthetic_source_makes_the_item_synthetic(volume, tmp_path):
    sources = (replace(volume.sources[0], synthetic=True), *volume.sources[1:])

    assert add_volume(tmp_path, "p1", {"t1": replace(volume, sources=sources)}, "p1").synthetic


def test_projections_come_back_with_a_channel_axis(tmp_path):
    projection = Projection(np.random.default_rng(0).random((9, 5), np.float32), "1", laterality="L", view="CC")
    item = add_projection(tmp_path, "m1", projection, "p1", label=0)

    back = load_image(_cohort(tmp_path), item)

    assert isinstance(back, Projection)
    np.testing.assert_array_equal(back.pixels, projection.pixels[None])
    assert (back.laterality, back.view, item.geometry["kind"]) == ("L", "CC", "projection")


def test_a_projection_in_colour_is_one_file_and_comes_back_with_its_colours_as_channels(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 9, 5)).astype(np.float32)
    item = add_projection(tmp_path, "t1", Projection(pixels, "1", spacing_mm=(0.002, 0.003)), "p1", channel="colour")
    cohort = replace(_cohort(tmp_path, training=(item,)), channels=colour_channels("SM"))
    save(cohort)

    read = load(tmp_path)
    back = load_image(read, read.training[0])

    assert item.images == ("images/t1_colour.nii.gz",)
    assert item.geometry == {"kind": "projection", "shape": [9, 5], "spacing_mm": [0.002, 0.003]}
    np.testing.assert_array_equal(back.pixels, pixels)
    assert [(channel.name, channel.modality) for channel in read.channels] == [
        ("red", "SM"),
        ("green", "SM"),
        ("blue", "SM"),
    ]
    assert is_colour(read.channels) and not is_colour(_cohort(tmp_path).channels)


def test_a_mask_on_another_grid_is_refused(volume, tmp_path):
    with pytest.raises(Rejected, match="is not on the image's grid"):
        add_volume(tmp_path, "p1", {"t1": volume}, "p1", mask=volume.crop((0, 0, 0), (5, 7, 3)))


def test_slice_labels_must_be_one_per_slice(volume, tmp_path):
    with pytest.raises(Rejected, match="2 slice labels for 5 slices"):
        add_volume(tmp_path, "p1", {"t1": volume}, "p1", slice_labels=(0, 1))


def test_channels_on_two_grids_are_refused(volume, tmp_path):
    moved = replace(volume, affine=volume.affine + np.eye(4, k=3))

    with pytest.raises(Rejected, match="resample one onto the other first"):
        add_volume(tmp_path, "p1", {"t1": volume, "flair": moved}, "p1")


def test_a_file_that_is_gone_is_named(volume, tmp_path):
    item = add_volume(tmp_path, "p1", {"t1": volume}, "p1")
    (tmp_path / item.images[0]).unlink()

    with pytest.raises(Rejected, match=r"images/p1_t1\.nii\.gz is in datalist\.json but not in the folder"):
        load_image(_cohort(tmp_path), item)


def test_an_item_without_mask_says_so(volume, tmp_path):
    item = add_volume(tmp_path, "p1", {"t1": volume}, "p1")

    with pytest.raises(Rejected, match="has no mask"):
        load_mask(_cohort(tmp_path), item)


def test_one_patient_in_two_splits_is_refused(tmp_path):
    item = Item(images=("images/a.nii.gz",), patient="p1")

    with pytest.raises(Rejected, match="one patient lies in training and in test"):
        _cohort(tmp_path, training=(item,), test=(item,))
    assert replace(_cohort(tmp_path), splits={"training": (item,), "test": (item,)}, split_unit="none").test == (item,)


def test_one_group_of_near_duplicates_in_two_splits_is_refused(tmp_path):
    item = Item(images=("images/a.nii.gz",), patient="D1")

    with pytest.raises(Rejected, match="one near-duplicate group lies in validation and in test"):
        replace(_cohort(tmp_path), splits={"validation": (item,), "test": (item,)}, split_unit="near-duplicate group")


@pytest.mark.parametrize("change", [{"task": None}, {"training": [{"picture": "a"}]}])
def test_a_data_list_that_does_not_follow_the_form_is_refused(tmp_path, change):
    import json

    save(_cohort(tmp_path))
    document = json.loads((tmp_path / "datalist.json").read_text()) | change
    document = {key: value for key, value in document.items() if value is not None}
    (tmp_path / "datalist.json").write_text(json.dumps(document))

    with pytest.raises(Rejected, match="does not follow the data-list form"):
        load(tmp_path)


def test_the_data_hash_changes_with_a_pixel_and_with_the_split(volume, tmp_path):
    def cohort_hash(scale: float, split: str) -> str:
        item = add_volume(tmp_path, "p1", {"t1": volume.with_voxels(volume.voxels * np.float32(scale))}, "p1")
        cohort = _cohort(tmp_path, **{split: (item,)})
        save(cohort)
        return cohort.data_hash

    hashes = [
        cohort_hash(1, "training"),
        cohort_hash(1, "training"),
        cohort_hash(1.5, "training"),
        cohort_hash(1, "test"),
    ]

    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3


def test_a_patients_split_does_not_depend_on_who_else_is_there():
    shares = {"training": 0.6, "validation": 0.2, "test": 0.2}
    patients = [f"p{number}" for number in range(3000)]

    splits = [split_of(patient, "key", shares) for patient in patients]

    for split, share in shares.items():
        assert splits.count(split) / 3000 == pytest.approx(share, abs=0.03)
    assert splits[1500:] == [split_of(patient, "key", shares) for patient in patients[1500:]]


def test_the_rule_of_a_split_is_read_as_it_was_written_in_its_order(tmp_path):
    shares = {"training": 0.6, "test": 0.3, "validation": 0.1}  # neither sorted nor in the order of SPLITS
    save(replace(_cohort(tmp_path), split_key="key", split_shares=shares))

    back = load(tmp_path)

    assert (back.split_key, list(back.split_shares.items())) == ("key", list(shares.items()))
    save(_cohort(tmp_path))
    assert "split_rule" not in (tmp_path / "datalist.json").read_text()
    assert load(tmp_path).split_key == ""


def test_even_splits_hold_as_many_patients_as_asked():
    patients = [f"p{number % 20}" for number in range(60)]

    where = split_evenly(patients, "key", {"test": 5, "validation": 3})

    assert sorted(map([*where.values()].count, ("test", "training", "validation"))) == [3, 5, 12]
    with pytest.raises(Rejected, match="20 patients are too few"):
        split_evenly(patients, "key", {"test": 21})
