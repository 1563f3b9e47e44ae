"""The sheet shows what the rows say: the right slice, its mask, and the mark of what is synthetic."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from dicom_io import contact_sheet
from dicom_io.cohort import Channel, Cohort, add_projection, add_volume, colour_channels
from dicom_io.errors import Rejected
from dicom_io.picture import PALETTE
from dicom_io.volume import Projection, Volume


def ramp(shape, brightest: float) -> np.ndarray:
    return np.linspace(0, brightest, int(np.prod(shape)), dtype=np.float32).reshape(shape)


def pictures(folder, count: int, **changes) -> tuple:
    return tuple(
        replace(
            add_projection(folder, f"p{n}", Projection(ramp((40, 25), 10.0**n), "1"), f"p{n}", label=n % 2), **changes
        )
        for n in range(count)
    )


def cohort_of(folder, **splits) -> Cohort:
    channels = (Channel("image", "MR", "1"),)
    return Cohort(folder, "made", "classification", ("normal", "lesion"), channels, splits)


def test_each_split_and_class_has_a_row_and_a_row_has_at_most_so_many_tiles(tmp_path):
    items = pictures(tmp_path, 6)
    cohort = cohort_of(tmp_path, training=items[:5], test=items[5:])

    tall, _ = contact_sheet.sheet_of(cohort, per_row=2)
    short, _ = contact_sheet.sheet_of(cohort_of(tmp_path, test=items[5:]), per_row=2)

    assert [row[:2] for row in contact_sheet._rows(cohort)] == [
        ("training", "normal"),
        ("training", "lesion"),
        ("test", "lesion"),
    ]
    assert tall.shape[1] == 2 * (contact_sheet.TILE_PX + 8) + 8
    assert 2.5 < tall.shape[0] / short.shape[0] < 3.5


def test_a_picture_in_colour_is_shown_in_its_colours(tmp_path):
    pixels = np.arange(3 * 40 * 25, dtype=np.float32).reshape(3, 40, 25) % 251
    item = add_projection(tmp_path, "t", Projection(pixels, "1"), "t", channel="colour", label=0)
    cohort = replace(cohort_of(tmp_path, training=(item,)), channels=colour_channels("SM"))

    shown = contact_sheet._tile(cohort, item, None).picture

    np.testing.assert_array_equal(shown[2::4, 2::4], np.moveaxis(pixels, 0, -1))


def test_pictures_of_any_brightness_are_shown_alike(tmp_path):
    tiles = [contact_sheet._tile(cohort_of(tmp_path), item, None) for item in pictures(tmp_path, 5)]

    for tile in tiles:
        assert tile.picture.shape == (160, 100)
        np.testing.assert_allclose(tile.picture.astype(int), tiles[0].picture, atol=1)
    assert (tiles[0].picture.min(), tiles[0].picture.max()) == (0, 255)
    assert tiles[3].caption == "p3 40x25"


def test_of_a_masked_volume_the_slice_with_most_of_the_mask_is_shown_and_outlined(tmp_path):
    voxels = np.stack([ramp((20, 30), 1 + n) for n in range(7)])
    mask = np.zeros_like(voxels)
    mask[2, 5:7, 5:7] = mask[4, 5:15, 5:20] = 1
    volume = Volume(voxels, np.diag([3.0, 1, 1, 1]), "2.25.1", "1")
    item = add_volume(
        tmp_path, "v", {"image": volume}, "v", mask=volume.with_voxels(mask), slice_labels=(0, 0, 1, 0, 1, 0, 0)
    )

    lesion = contact_sheet._tile(cohort_of(tmp_path), item, [2, 4])
    normal = contact_sheet._tile(cohort_of(tmp_path), item, [0, 1, 3, 5, 6])

    assert (lesion.caption, normal.caption) == ("v slice 5/7 20x30", "v slice 4/7 20x30")
    assert (lesion.picture == PALETTE[0]).all(axis=-1).sum() > 100
    assert normal.picture.ndim == 2


def test_a_synthetic_picture_carries_its_mark_on_the_sheet_and_in_the_file(tmp_path):
    items = pictures(tmp_path, 2)
    real = cohort_of(tmp_path, test=items)
    mixed = cohort_of(tmp_path, test=(items[0], replace(items[1], synthetic=True)))

    contact_sheet.write(real, tmp_path / "real.png")
    contact_sheet.write(mixed, tmp_path / "mixed.png")

    with Image.open(tmp_path / "real.png") as one, Image.open(tmp_path / "mixed.png") as other:
        assert (one.text["Synthetic"], other.text["Synthetic"]) == ("NO", "MIXED")
        assert other.height > one.height + 20  # the sheet's own mark at the bottom
        assert one.width == other.width
    marked = contact_sheet._tile(mixed, mixed.test[1], None).picture
    plain = contact_sheet._tile(mixed, mixed.test[0], None).picture
    np.testing.assert_array_equal(marked[:160], contact_sheet._tile(real, items[1], None).picture)
    assert marked.shape[0] > plain.shape[0] and (marked[160:] == 255).sum() > 30  # letters


def test_a_cohort_without_items_is_refused(tmp_path):
    with pytest.raises(Rejected, match="has no items to show"):
        contact_sheet.write(cohort_of(tmp_path), tmp_path / "sheet.png")
