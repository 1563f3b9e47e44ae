"""Pictures: the right way up, words beside and not on them, and PNG that says what it is."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dicom_io import picture
from dicom_io.picture import SyntheticMark, Tile


def gray(rows: int = 9, columns: int = 40) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (rows, columns)).astype(np.uint8)


def test_a_window_maps_its_ends_to_black_and_white_and_the_middle_to_the_middle() -> None:
    shown = picture.window([[-9.0, 2.0, 4.5], [7.0, 99.0, 3.25]], 2.0, 7.0)
    np.testing.assert_array_equal(shown, [[0, 0, 128], [255, 255, 64]])
    assert shown.dtype == np.uint8


def test_a_window_without_width_is_refused() -> None:
    with pytest.raises(ValueError, match="shows nothing"):
        picture.window([[1.0]], 3.0, 3.0)


def test_an_overlay_marks_the_labelled_pixels_and_no_others() -> None:
    mask = np.zeros((9, 40), np.uint8)
    mask[1:6, 2:12] = 1
    mask[0, 39] = 2
    image = gray()
    shown = picture.overlay(image, mask, {1: (255, 0, 0), 2: (0, 0, 255)}, opacity=0.0)
    outline = (mask == 1) & ~np.pad(np.ones((3, 8), bool), ((2, 4), (3, 29)))
    expected = np.repeat(image[..., None], 3, axis=-1)
    expected[outline] = (255, 0, 0)
    np.testing.assert_array_equal(shown[mask != 2], expected[mask != 2])
    # A label of one pixel in the corner is all outline; where the picture ends there is none.
    np.testing.assert_array_equal(shown[0, 39], (0, 0, 255))


def test_an_overlay_tints_what_is_inside() -> None:
    mask = np.zeros((9, 40), np.uint8)
    mask[1:6, 2:12] = 1
    shown = picture.overlay(np.full((9, 40), 100, np.uint8), mask, {1: (200, 0, 40)}, opacity=0.25)
    np.testing.assert_array_equal(shown[3, 6], (125, 75, 85))
    np.testing.assert_array_equal(shown[7, 6], (100, 100, 100))


def test_an_overlay_changes_neither_picture_nor_mask() -> None:
    image, mask = gray(), np.ones((9, 40), np.uint8)
    before = image.copy(), mask.copy()
    picture.overlay(image, mask)
    picture.heat(image, mask * 0.5)
    picture.with_caption(image, "words")
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(mask, before[1])


def test_a_mask_of_another_size_and_a_label_without_colour_are_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        picture.overlay(gray(), np.zeros((40, 9)))
    with pytest.raises(ValueError, match="label 3 has no colour"):
        picture.overlay(gray(), np.full((9, 40), 3), {1: (1, 2, 3)})
    with pytest.raises(ValueError, match="does not fit"):
        picture.heat(gray(), np.zeros((40, 9)))


def test_heat_leaves_zero_untouched_and_turns_yellow_at_one() -> None:
    image = np.full((1, 3), 50, np.uint8)
    shown = picture.heat(image, [[0.0, 0.5, 1.0]], opacity=1.0)
    np.testing.assert_array_equal(shown[0], [(50, 50, 50), (255, 0, 0), (255, 255, 0)])


@pytest.mark.parametrize("columns", [12, 90, 256, 900])
def test_a_caption_lies_below_the_picture_and_leaves_it_alone(columns: int) -> None:
    image = gray(13, columns)
    shown = picture.with_caption(image, "tumour 0.87 (threshold 0.41)")
    np.testing.assert_array_equal(shown[:13], image)
    assert (shown[13:] == 255).any() and set(np.unique(shown[13:])) == {0, 255}
    # No letter is cut at the edges.
    assert not shown[13:, :2].any() and not shown[-1].any()


def test_longer_text_needs_more_rows_and_none_of_it_is_lost() -> None:
    short = picture.text_strip("SYNTHETIC", 60)
    long = picture.text_strip("SYNTHETIC SYNTHETIC SYNTHETIC", 60)
    assert len(long) > len(short)
    assert long.sum() == 3 * short.sum()


def test_captions_of_a_series_have_one_height() -> None:
    frames = picture.with_captions([gray(), gray()], ["short", "a text that needs several lines in this width"])
    assert frames.shape[0] == 2 and frames.shape[1] > 9 + 30
    np.testing.assert_array_equal(frames[0, :9], gray())
    assert (frames[0, 9:] == 255).any() and (frames[1, 9:] == 255).sum() > (frames[0, 9:] == 255).sum()


def test_a_contact_sheet_shows_each_tile_at_its_place_the_right_way_up() -> None:
    corner = np.zeros((10, 20), np.uint8)
    corner[:3, :4] = 255  # Bright at the top left.
    dark = np.zeros((20, 10), np.uint8)
    sheet = picture.contact_sheet([("", [Tile(corner), Tile(dark)])], tile_px=100)
    assert sheet.shape[1] == 2 * (100 + 8) + 8
    # 20 columns grow five times to 100, 10 rows to 50, in the middle of the square: from row 25.
    np.testing.assert_array_equal(sheet[25 : 25 + 15, 8 : 8 + 20], 255)
    assert not sheet[25 + 16 : 75, 8 : 8 + 100].any() and not sheet[25:75, 8 + 21 : 8 + 100].any()
    assert not sheet[:100, 8 + 108 + 25 : 8 + 108 + 75].any()


def test_large_pictures_shrink_into_their_tile() -> None:
    sheet = picture.contact_sheet([("rows", [Tile(np.full((900, 300), 7, np.uint8), "tall")])], tile_px=120)
    assert (sheet == 7).all(axis=-1).sum() == 120 * 40


def test_an_empty_contact_sheet_is_refused() -> None:
    with pytest.raises(ValueError, match="without tiles"):
        picture.contact_sheet([("heading", [])])


def test_a_synthetic_png_says_so_in_text_and_on_its_face(tmp_path: Path) -> None:
    image = gray(30, 200)
    picture.save_png(image, tmp_path / "a.png", synthetic=SyntheticMark("dcgan:1.0", 42, "audit-7"))
    with Image.open(tmp_path / "a.png") as read:
        text, pixels = dict(read.text), np.asarray(read)
    assert text == {"Synthetic": "YES", "Model": "dcgan:1.0", "Seed": "42", "AuditID": "audit-7"}
    np.testing.assert_array_equal(pixels[:30], image)
    ink = picture.text_strip("SYNTHETIC - dcgan:1.0 - not for diagnosis", 200)
    np.testing.assert_array_equal(pixels[30:] == 255, ink)


def test_a_png_of_real_pixels_claims_nothing() -> None:
    image = picture.rgb(gray())
    with Image.open(BytesIO(picture.png(image, description="Größe"))) as read:
        assert dict(read.text) == {"Description": "Größe"}
        np.testing.assert_array_equal(np.asarray(read), image)


def test_enlarging_invents_nothing() -> None:
    np.testing.assert_array_equal(picture.enlarged(np.array([[1, 2]]), 2), [[1, 1, 2, 2], [1, 1, 2, 2]])
    assert picture.enlarged(picture.rgb(gray()), 3).shape == (27, 120, 3)
