"""Mammograms: density, side, view, spacing, implants, padding; the breast's mask, and the way there and back."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.pixels import apply_voi, apply_windowing
from pydicom.sr import codes

from dicom_io import breast, nifti, pixels
from dicom_io.breast import Placement
from dicom_io.dataset import read
from dicom_io.errors import Rejected
from dicom_io.mammography import projection, valid
from dicom_io.series import volumes
from dicom_io.volume import Projection

MAMMOGRAM = "mammo-dicom/GE_SenographeEssential_RMLO.dcm"


def _breast(chest_wall: str, rows: int = 60, columns: int = 44) -> np.ndarray:
    """12-bit values: half an ellipse of tissue on one border, brighter inside, on dark air."""
    row, column = np.mgrid[:rows, :columns]
    inside = ((row - rows / 2) / (0.4 * rows)) ** 2 + (column / (0.6 * columns)) ** 2 < 1
    picture = np.where(inside, 1500 + 9 * row + 5 * column, 20 + row % 3).astype(np.uint16)
    return picture[:, ::-1] if chest_wall == "right" else picture


@pytest.fixture
def mammogram(make):
    def image(chest_wall: str = "left", **attributes):
        return make.image(_breast(chest_wall), "MG", **{"BitsStored": 12, "HighBit": 11} | attributes)

    return image


def _code(value: str, scheme: str = "SCT") -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, "as coded"
    return item


def test_values_are_kept_and_the_source_is_named(mammogram):
    ds = mammogram(SyntheticData="YES")

    made = projection(ds, "ab12")

    np.testing.assert_array_equal(made.pixels, _breast("left"))
    assert made.pixels.dtype == np.float32
    assert (made.source.sop_instance_uid, made.source.dataset_hash) == (ds.SOPInstanceUID, "ab12")
    assert made.is_synthetic


def test_monochrome1_is_turned_in_the_range_of_bits_stored_so_that_bright_is_dense(make):
    dark_is_dense = (4095 - _breast("right")).astype(np.uint16)
    ds = make.image(dark_is_dense, "MG", BitsStored=12, HighBit=11, PhotometricInterpretation="MONOCHROME1")

    made = projection(ds, "")

    np.testing.assert_array_equal(made.pixels, _breast("right"))
    assert made.breast_side == "right"


def test_monochrome1_with_slope_and_sign_is_turned_too(make):
    stored = np.random.default_rng(4).integers(-2048, 2048, (6, 5)).astype(np.int16)
    ds = make.image(
        *(stored, "MG"), BitsStored=12, PhotometricInterpretation="MONOCHROME1", RescaleSlope=2, RescaleIntercept=100
    )

    np.testing.assert_array_equal(projection(ds, "").pixels, 2.0 * (-1 - stored) + 100)


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_chest_wall_is_where_the_breast_reaches_the_border(mammogram, side):
    assert projection(mammogram(side), "").breast_side == side


@pytest.mark.parametrize(("side", "orientation"), [("left", ["A", "R"]), ("right", ["P", "L"]), ("right", ["P", "FL"])])
def test_patient_orientation_agrees_with_the_picture(mammogram, side, orientation):
    assert projection(mammogram(side, PatientOrientation=orientation), "").breast_side == side


def test_a_picture_that_is_flipped_against_its_orientation_is_refused(mammogram):
    with pytest.raises(
        Rejected, match="puts the chest wall on the right of the picture, but the breast lies on the left"
    ):
        projection(mammogram("left", PatientOrientation=["P", "L"]), "")


def test_a_picture_that_does_not_say_takes_the_side_from_its_orientation(make):
    spot = make.image(np.random.default_rng(0).integers(900, 1100, (50, 40)).astype(np.uint16), "MG")
    flat = make.image(np.full((50, 40), 7, np.uint16), "MG")
    assert projection(spot, "").breast_side == projection(flat, "").breast_side == ""

    spot.PatientOrientation = ["A", "F"]
    assert projection(spot, "").breast_side == "left"


@pytest.mark.parametrize(
    ("attributes", "laterality"),
    [
        ({"ImageLaterality": "R"}, "R"),
        ({"Laterality": "L"}, "L"),
        ({"ImageLaterality": "L", "Laterality": "R"}, "L"),
        ({"ImageLaterality": "B"}, ""),
        ({}, ""),
    ],
)
def test_laterality_is_of_the_image_before_it_is_of_the_series(mammogram, attributes, laterality):
    assert projection(mammogram(**attributes), "").laterality == laterality


@pytest.mark.parametrize(
    ("code", "laterality"), [("24028007", "R"), ("7771000", "L"), ("G-A100", "R"), ("51440002", "")]
)
def test_laterality_may_be_a_modifier_of_the_region(mammogram, code, laterality):
    region = _code("76752008")
    region.AnatomicRegionModifierSequence = [_code(code)]

    assert projection(mammogram(AnatomicRegionSequence=[region]), "").laterality == laterality


@pytest.mark.parametrize(
    ("code", "scheme", "view"),
    [
        ("399162004", "SCT", "CC"),
        ("R-10242", "SNM3", "CC"),
        ("399368009", "SCT", "MLO"),
        ("R-10226", "SRT", "MLO"),
        ("399260004", "SCT", "ML"),
        ("399192008", "SCT", "XCCL"),
    ],
)
def test_the_view_is_coded(mammogram, code, scheme, view):
    assert projection(mammogram(ViewCodeSequence=[_code(code, scheme)], ViewPosition="XX"), "").view == view


def test_without_code_the_view_position_counts(mammogram):
    assert projection(mammogram(ViewPosition="MLO"), "").view == "MLO"
    assert projection(mammogram(ViewCodeSequence=[_code("12345")], ViewPosition="CC"), "").view == "CC"
    assert projection(mammogram(), "").view == ""


@pytest.mark.parametrize(
    ("imager", "patient", "expected"),
    [
        ([0.1, 0.07], None, ((0.1, 0.07), "imager")),
        ([0.1, 0.07], [0.1, 0.07], ((0.1, 0.07), "imager")),
        ([0.1, 0.07], [0.09, 0.063], ((0.09, 0.063), "patient")),
        (None, [0.09, 0.063], ((0.09, 0.063), "patient")),
        (None, None, (None, "")),
    ],
)
def test_spacing_says_which_plane_it_is_of(mammogram, imager, patient, expected):
    made = projection(mammogram(ImagerPixelSpacing=imager, PixelSpacing=patient), "")

    assert (made.spacing_mm, made.spacing_of) == expected


@pytest.mark.parametrize(
    ("imager", "patient", "magnification", "expected"),
    [
        ([0.1, 0.07], None, 1.0, (0.1, 0.07)),
        ([0.1, 0.07], None, 1.8, (0.1 / 1.8, 0.07 / 1.8)),
        ([0.1, 0.07], [0.1, 0.07], 1.25, (0.08, 0.056)),
        ([0.1, 0.07], [0.08, 0.056], 1.25, (0.08, 0.056)),
        ([0.1, 0.07], [0.08, 0.056], None, (0.08, 0.056)),
        ([0.1, 0.07], None, None, None),
        (None, None, 1.8, None),
    ],
)
def test_spacing_in_the_breast_is_that_of_the_imager_less_the_magnification(
    mammogram, imager, patient, magnification, expected
):
    """Only what is stated counts: a magnification that is absent is not taken for 1."""
    made = projection(
        mammogram(
            ImagerPixelSpacing=imager, PixelSpacing=patient, EstimatedRadiographicMagnificationFactor=magnification
        ),
        "",
    )

    assert made.magnification == magnification
    assert made.breast_spacing_mm == (expected and pytest.approx(expected, rel=1e-12))


@pytest.mark.parametrize("stated", [0, 0.93, -1.5])
def test_a_magnification_that_makes_smaller_is_refused(mammogram, stated):
    with pytest.raises(Rejected, match=rf"\(0018,1114\) is {stated}.*none is below 1"):
        projection(mammogram(EstimatedRadiographicMagnificationFactor=stated), "")


# --- what the picture was taken for -------------------------------------------------------------------------------


def _view(*modifiers: Dataset) -> Dataset:
    item = _code("399162004")
    item.ViewModifierCodeSequence = list(modifiers)
    return item


@pytest.mark.parametrize("concept", codes.CID4015.concepts.values(), ids=lambda concept: concept.meaning)
def test_each_view_modifier_of_the_standard_is_known(mammogram, concept):
    made = projection(mammogram(ViewCodeSequence=[_view(_code(concept.value))]), "")

    assert (made.view, made.view_modifiers) == ("CC", (concept.meaning.lower(),))


@pytest.mark.parametrize(
    ("modifiers", "expected"),
    [
        ((), ()),
        ((("R-102D5", "SNM3"),), ("implant displaced",)),
        ((("R-102D6", "SRT"), ("R-102D7", "SRT")), ("magnification", "spot compression")),
        ((("99X", "99MAKER"),), ("as coded",)),
    ],
)
def test_view_modifiers_are_named_in_their_order(mammogram, modifiers, expected):
    made = projection(mammogram(ViewCodeSequence=[_view(*(_code(*modifier) for modifier in modifiers))]), "")

    assert made.view_modifiers == expected


@pytest.mark.parametrize(("stated", "implant"), [("YES", True), ("NO", False), ("", None), (None, None)])
def test_an_implant_is_there_or_not_or_not_known(mammogram, stated, implant):
    assert projection(mammogram(BreastImplantPresent=stated), "").implant is implant


def test_an_implant_that_is_neither_is_refused(mammogram):
    with pytest.raises(Rejected, match=r"Breast Implant Present \(0028,1300\) is MAYBE"):
        projection(mammogram(BreastImplantPresent="MAYBE"), "")


@pytest.mark.parametrize("stated", ["FOR PRESENTATION", "FOR PROCESSING", None])
def test_the_presentation_is_what_the_object_says(mammogram, stated):
    assert projection(mammogram(PresentationIntentType=stated), "").presentation == (stated or "")


def test_a_projection_keeps_all_of_it_in_a_file(mammogram, tmp_path):
    made = projection(
        mammogram(
            ViewCodeSequence=[_view(_code("399209000"), _code("399163009"))],
            BreastImplantPresent="YES",
            PresentationIntentType="FOR PROCESSING",
            ImagerPixelSpacing=[0.1, 0.07],
            EstimatedRadiographicMagnificationFactor=1.8,
        ),
        "ab",
    )
    nifti.write_projection(made, tmp_path / "p.nii.gz")

    back = nifti.read_projection(tmp_path / "p.nii.gz")

    np.testing.assert_array_equal(back.pixels, made.pixels)
    assert replace(back, pixels=made.pixels).__dict__ == made.__dict__
    assert (back.implant, back.view_modifiers) == (True, ("implant displaced", "magnification"))


def test_a_file_from_before_these_were_kept_is_read(mammogram, tmp_path):
    nifti.write_projection(projection(mammogram(BreastImplantPresent="NO"), ""), tmp_path / "p.nii.gz")
    sidecar = json.loads((tmp_path / "p.json").read_text())
    for key in ("view_modifiers", "implant", "presentation", "magnification"):
        del sidecar[key]
    (tmp_path / "p.json").write_text(json.dumps(sidecar))

    back = nifti.read_projection(tmp_path / "p.nii.gz")

    assert (back.view_modifiers, back.implant, back.presentation, back.magnification) == ((), None, "", None)


# --- padding ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "limit", "padded"),
    [(None, None, []), (7, None, [7]), (7, 9, [7, 8, 9]), (9, 7, [7, 8, 9]), (-3, 0, [-3, -2, -1, 0])],
)
def test_padding_is_the_stored_values_from_value_to_limit(make, value, limit, padded):
    stored = np.arange(-5, 15, dtype=np.int16).reshape(4, 5)
    ds = make.image(stored, "MG", RescaleSlope=2, RescaleIntercept=-7)
    for keyword, number in (("PixelPaddingValue", value), ("PixelPaddingRangeLimit", limit)):
        if number is not None:
            ds[keyword] = DataElement(tag_for_keyword(keyword), "SS", number)

    np.testing.assert_array_equal(valid(ds), ~np.isin(stored, padded))
    if value is None or value >= 0:
        np.testing.assert_array_equal(projection(ds, "").pixels, 2.0 * stored - 7)


def test_padding_of_a_dark_is_dense_picture_is_judged_before_it_is_turned(make):
    stored = np.array([[0, 4095, 100], [4095, 4000, 0]], np.uint16)
    ds = make.image(stored, "MG", BitsStored=12, PhotometricInterpretation="MONOCHROME1", PixelPaddingValue=4095)

    np.testing.assert_array_equal(valid(ds), [[True, False, True], [False, True, True]])


# --- the breast's mask --------------------------------------------------------------------------------------------


@pytest.fixture
def film():
    """`film(side)`: (800 x 530 picture with labels and a cyst, what of it is breast)."""

    def picture(side: str = "left") -> tuple[np.ndarray, np.ndarray]:
        row, column = np.mgrid[:800, :530]
        tissue = ((row - 430) / 340) ** 2 + (column / 330) ** 2 < 1
        values = np.where(tissue, 1500.0 + row + 0.5 * column, 20.0 + (row + column) % 5)
        values[400:420, 120:150] = 25  # a cyst, as dark as air
        values[20:80, 400:500] = 4000  # a label
        values[700:712, 480:488] = 4000  # a letter
        flip = slice(None, None, -1 if side == "right" else 1)
        return values.astype(np.float32)[:, flip], tissue[:, flip]

    return picture


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_mask_is_the_breast_without_labels_and_with_its_cyst(film, side):
    values, tissue = film(side)

    np.testing.assert_array_equal(breast.mask(values), tissue)


def test_a_label_that_a_scratch_joins_to_the_breast_is_left_out(film):
    values, tissue = film()
    values[60:63, 100:420] = 3000
    values[60:400, 450:453] = 3000

    found = breast.mask(values)

    assert found[tissue].all() and not found[20:60, 400:500].any() and not found[100:400, 450].any()
    assert (found & ~tissue).sum() < 60


def test_a_label_larger_than_the_breast_is_none(film):
    values, tissue = film()
    values[20:780, 380:520] = 4000
    small = tissue & (np.mgrid[:800, :530][1] < 90)
    values = np.where(tissue & ~small, 20, values).astype(np.float32)

    np.testing.assert_array_equal(breast.mask(values), small)


def test_a_bright_rim_opposite_the_chest_wall_is_no_breast_where_the_side_is_known(film):
    values, tissue = film("right")
    tissue &= np.mgrid[:800, :530][1] >= 440
    values = np.where(tissue, values, 20 + np.mgrid[:800, :530][0] % 5).astype(np.float32)
    values[:, :120] = 4000

    np.testing.assert_array_equal(breast.mask(values, side="right"), tissue)
    with pytest.raises(Rejected, match="reaches the left edge"):
        breast.mask(np.where(tissue, values, 20 + np.mgrid[:800, :530][0] % 5).astype(np.float32), side="left")


@pytest.mark.parametrize("padding", [0.0, 4095.0])
def test_padding_is_no_breast_however_bright_it_is(film, padding):
    """A bar of padding between breast and picture's edge, and one on the other side."""
    values, tissue = film()
    padded = np.zeros((800, 700), np.bool_)
    padded[:, :90] = padded[:, 620:] = True
    whole = np.full((800, 700), padding, np.float32)
    whole[:, 90:620] = values

    np.testing.assert_array_equal(breast.mask(whole, ~padded)[:, 90:620], tissue)
    assert not breast.mask(whole, ~padded)[padded].any()


def test_a_film_in_a_black_frame_with_dust_has_its_breast(film):
    values, tissue = film("right")
    whole = np.zeros((800, 900), np.float32)
    whole[:, 200:730] = values
    whole[::97, ::83] = 60

    found = breast.mask(whole)

    assert (found[:, 200:730] ^ tissue).sum() < 20 and not found[:, 730:].any()


def test_a_large_picture_has_the_mask_of_its_every_pixel(film):
    """Shapes are judged in a smaller picture; the outline is still that of each pixel."""
    values, tissue = film()

    found = breast.mask(np.repeat(np.repeat(values, 3, axis=0), 3, axis=1)[:2399, :1588])

    np.testing.assert_array_equal(found, np.repeat(np.repeat(tissue, 3, axis=0), 3, axis=1)[:2399, :1588])


def test_where_there_is_no_breast_the_mask_is_refused(film):
    row, column = np.mgrid[:800, :530]
    specimen = np.where((row - 400) ** 2 + (column - 260) ** 2 < 150**2, 2000.0, row % 7).astype(np.float32)
    label = np.where((row < 40) & (column < 60), 2000.0, row % 7).astype(np.float32)

    for values in (specimen, label):
        with pytest.raises(Rejected, match="nothing of a breast's size reaches"):
            breast.mask(values)
    with pytest.raises(Rejected, match=r"all pixels .* have one value"):
        breast.mask(np.full((30, 20), 4, np.float32))
    with pytest.raises(Rejected, match=r"all pixels .* are padding"):
        breast.mask(film()[0], np.zeros((800, 530), np.bool_))


# --- crop and side, and back --------------------------------------------------------------------------------------


@pytest.fixture
def lopsided():
    """A projection of 9 x 7 pixels, all different, with its chest wall on the right, and a mask in it."""
    values = np.random.default_rng(5).permutation(63).reshape(9, 7).astype(np.float32)
    mask = np.zeros((9, 7), np.bool_)
    mask[2:5, 4:7] = mask[6, 5] = True
    return Projection(values, "1", spacing_mm=(0.1, 0.07), laterality="R", view="CC", breast_side="right"), mask


@pytest.mark.parametrize(
    ("margin", "rows", "columns"), [(0, (2, 7), (4, 7)), (1, (1, 8), (3, 7)), (50, (0, 9), (0, 7))]
)
def test_a_crop_holds_the_breast_and_its_margin(lopsided, margin, rows, columns):
    whole, mask = lopsided

    made, placement = breast.crop(whole, mask, margin)

    np.testing.assert_array_equal(made.pixels, whole.pixels[slice(*rows), slice(*columns)])
    assert placement.start == (rows[0], columns[0])
    assert (made.spacing_mm, made.breast_side, made.view) == ((0.1, 0.07), "right", "CC")


def test_a_picture_is_turned_to_a_side_and_left_alone_on_it(lopsided):
    whole, _ = lopsided

    left, turned = breast.to_side(whole, "left")
    right, same = breast.to_side(whole, "right")

    np.testing.assert_array_equal(left.pixels, whole.pixels[:, ::-1])
    np.testing.assert_array_equal(right.pixels, whole.pixels)
    assert (left.breast_side, turned.mirrored) == ("left", True) and (right.breast_side, same.mirrored) == (
        "right",
        False,
    )
    assert left.laterality == "R"


def test_masks_and_positions_find_their_way_back_from_a_crop_that_was_turned(lopsided):
    whole, mask = lopsided
    cropped, first = breast.crop(whole, mask, 1)
    turned, second = breast.to_side(cropped, "left")
    placement = first.then(second)

    np.testing.assert_array_equal(placement.restore(placement.cut(mask)), mask)
    np.testing.assert_array_equal(first.restore(second.restore(turned.pixels)), placement.restore(turned.pixels))
    np.testing.assert_array_equal(placement.cut(whole.pixels), turned.pixels)
    for row, column in np.ndindex(turned.pixels.shape):
        there = placement.restore_positions((row, column))
        assert whole.pixels[tuple(there.astype(int))] == turned.pixels[row, column]
        np.testing.assert_array_equal(placement.cut_positions(there), (row, column))


def test_a_position_between_pixels_keeps_its_distance_from_the_chest_wall(lopsided):
    placement = breast.to_side(lopsided[0], "left")[1]

    np.testing.assert_allclose(placement.restore_positions([[3.25, 0.5], [0, 6]]), [[3.25, 5.5], [0, 0]])


@pytest.mark.parametrize("seed", range(8))
def test_any_chain_of_crops_and_turns_is_one_placement(seed):
    random = np.random.default_rng(seed)
    whole = random.permutation(2 * 23 * 17).reshape(2, 23, 17)
    part, chain = whole, Placement((23, 17), (23, 17))
    for _ in range(4):
        shape = part.shape[-2:]
        start = tuple(int(random.integers(0, max(n // 3, 1))) for n in shape)
        size = tuple(
            int(random.integers(1 + (n - first) // 2, n - first + 1)) for n, first in zip(shape, start, strict=True)
        )
        step = Placement(shape, size, start, bool(random.integers(2)))
        part, chain = step.cut(part), chain.then(step)

    np.testing.assert_array_equal(chain.cut(whole), part)
    restored = chain.restore(part)
    np.testing.assert_array_equal(restored[restored != 0], whole[restored != 0])
    assert np.count_nonzero(restored) == np.count_nonzero(part)


def test_what_was_placed_elsewhere_is_not_restored(lopsided):
    whole, mask = lopsided
    placement = breast.crop(whole, mask)[1]

    with pytest.raises(ValueError, match=r"\(9, 7\) is not of the \(5, 3\) pixels"):
        placement.restore(mask)
    with pytest.raises(ValueError, match=r"does not follow one of \(5, 3\)"):
        placement.then(placement)


def test_what_cannot_be_cropped_or_turned_is_refused(lopsided):
    whole, mask = lopsided

    with pytest.raises(Rejected, match="mask of the breast is empty"):
        breast.crop(whole, np.zeros_like(mask))
    with pytest.raises(Rejected, match=r"a mask of \(9, 6\) pixels is not of the mammogram's \(9, 7\)"):
        breast.crop(whole, mask[:, 1:])
    with pytest.raises(Rejected, match="margin of -1 pixels"):
        breast.crop(whole, mask, -1)
    with pytest.raises(Rejected, match="side of the chest wall is not known"):
        breast.to_side(replace(whole, breast_side=""), "left")


# --- refusals and real mammograms ---------------------------------------------------------------------------------


def test_tomosynthesis_is_refused(mammogram):
    with pytest.raises(Rejected, match="has 40 frames"):
        projection(mammogram(NumberOfFrames=40), "")


def test_the_real_mammogram_is_a_right_oblique_view_with_its_chest_wall_on_the_right(test_data):
    (one,) = volumes([test_data / "mammo-dicom"]).projections

    made = one.projection

    assert made.pixels.shape == (3062, 2394)
    assert (made.laterality, made.view, made.breast_side) == ("R", "MLO", "right")
    assert made.spacing_mm == pytest.approx((0.0940909, 0.0940909), rel=1e-5)
    assert made.spacing_of == "imager"
    # Air is dark and tissue bright: the maker's own limit for air is (0028,0121), 30.
    assert np.median(made.pixels[:, :1000]) <= 30 < 1000 < np.median(made.pixels[:1500, -200:])


def test_the_real_mammogram_flipped_is_refused(test_data):
    ds = read(test_data / MAMMOGRAM)
    ds.decompress()
    ds.PixelData = np.ascontiguousarray(ds.pixel_array[:, ::-1]).tobytes()

    with pytest.raises(Rejected, match="flipped, correct it"):
        projection(ds, "")


def test_the_real_mammogram_says_what_it_was_taken_for(test_data):
    (one,) = volumes([test_data / "mammo-dicom"]).projections

    made = one.projection

    assert (made.presentation, made.implant, made.view_modifiers) == ("FOR PRESENTATION", False, ())
    assert made.magnification == 1 and made.breast_spacing_mm == made.spacing_mm


def test_the_real_mammograms_breast_is_cropped_and_turned_and_comes_back(test_data):
    """The maker's own threshold for air (0028,0121) makes the same breast, and a fold of skin below it, cut here."""
    (one,) = volumes([test_data / "mammo-dicom"]).projections
    measured = valid(read(test_data / MAMMOGRAM))

    found = breast.mask(one.projection.pixels, measured)
    cropped, first = breast.crop(one.projection, found, 20)
    turned, second = breast.to_side(cropped, "left")
    placement = first.then(second)

    assert not found[~measured].any() and (found ^ measured)[:2200].mean() < 0.01
    assert measured[2400:, -1].all() and not found[2400:].any()
    assert turned.pixels.shape[1] < 0.6 * one.projection.pixels.shape[1]
    assert turned.pixels[:1500, 0].min() > 1000 > turned.pixels[:1500, -1].max()
    np.testing.assert_array_equal(placement.restore(placement.cut(found)), found)


def test_every_labelled_lesion_of_real_films_lies_in_the_breast_and_is_found_after_the_turn(test_data):
    folder = test_data / "mammo-mias"
    rows = list(csv.DictReader((folder / "labels.csv").open()))
    lesions = 0
    for row in rows:
        values = np.asarray(Image.open(folder / row["file"]), np.float32)
        found = breast.mask(values)
        # Right breasts have odd numbers, and their chest wall on the right of these films.
        side = "right" if int(row["file"][3:6]) % 2 else "left"
        film = Projection(values, "1", breast_side=side)
        cropped, first = breast.crop(film, found, 8)
        turned, second = breast.to_side(cropped, "left")

        assert 0.2 < found.mean() < 0.6
        assert turned.pixels[:, 8:16].mean() > 2 * turned.pixels[:, -16:].mean()
        if row["x"]:
            at = (int(row["y_from_top"]), int(row["x"]))
            assert found[at]
            there = first.then(second).cut_positions(at).astype(int)
            assert turned.pixels[tuple(there)] == values[at]
            lesions += 1
    assert (len(rows), lesions) == (26, 10)


@pytest.mark.parametrize("which", range(3))
@pytest.mark.parametrize("function", ["VOI LUT", "SIGMOID", "LINEAR_EXACT", "LINEAR"])
def test_the_real_mammograms_three_looks_are_those_of_pydicom(test_data, which, function):
    ds = read(test_data / MAMMOGRAM)
    measured, stored = valid(ds)[1::7, ::7], pixels.stored(ds)
    if function == "VOI LUT":
        expected = apply_voi(stored, ds, index=which) / (2**12 - 1)
    else:
        del ds.VOILUTSequence
        ds.VOILUTFunction = function
        expected = apply_windowing(stored, ds, index=which) / (2**12 - 1)

    shown = pixels.picture(ds, which_window=which)[1::7, ::7]

    np.testing.assert_allclose(shown[measured], expected[1::7, ::7][measured], atol=1e-6)
    assert not shown[~measured].any()
