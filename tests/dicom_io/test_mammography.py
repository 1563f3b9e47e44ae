"""Mammograms: density, side, view and spacing."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom.dataset import Dataset

from dicom_io.errors import Rejected
from dicom_io.mammography import projection
from dicom_io.series import volumes


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
    (one,) = volumes([test_data / "mammo-dicom"]).projections
    ds = one.dataset
    ds.decompress()
    ds.PixelData = np.ascontiguousarray(ds.pixel_array[:, ::-1]).tobytes()

    with pytest.raises(Rejected, match="flipped, correct it"):
        projection(ds, "")
