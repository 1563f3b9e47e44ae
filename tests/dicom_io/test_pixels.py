"""Decoding, modality units and pictures, against pydicom's own functions and the formulas of PS3.3 C.11."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.pixels import apply_windowing
from pydicom.sequence import Sequence

from dicom_io.dataset import read
from dicom_io.errors import UndecodablePixels
from dicom_io.pixels import modality, picture, stored, window
from dicom_io.scaling import used

LOSSLESS = [".1.2.2", ".1.2.1.99", ".4.90", ".4.80", ".4.70", ".4.57", ".1.2.1", ".10008.1.2", ".1.2.5"]


def _encoded(test_data, ending: str):
    return read(next((test_data / "transfer-syntaxes").glob(f"*{ending}.dcm")))


@pytest.mark.parametrize("ending", LOSSLESS)
def test_lossless_encodings_of_one_slice_decode_to_identical_pixels(test_data, ending):
    reference = stored(read(test_data / "transfer-syntaxes/CTImage.dcm"))
    assert (reference.min(), reference.max()) == (-2000, 2402)

    np.testing.assert_array_equal(stored(_encoded(test_data, ending)), reference)


@pytest.mark.parametrize(("ending", "furthest"), [(".4.91", 5), (".4.81", 2)])
def test_lossy_encodings_decode_to_nearly_the_same_pixels(test_data, ending, furthest):
    reference = stored(read(test_data / "transfer-syntaxes/CTImage.dcm")).astype(int)

    difference = np.abs(stored(_encoded(test_data, ending)) - reference)

    assert 0 < difference.max() <= furthest


@pytest.mark.parametrize(("ending", "name"), [(".4.53", "Process 6 and 8"), (".4.55", "Process 10 and 12")])
def test_a_syntax_without_decoder_is_refused_by_name(test_data, ending, name):
    with pytest.raises(UndecodablePixels, match=rf"1\.2\.840\.10008\.1\.2{ending} .*{name}.*send it uncompressed"):
        stored(_encoded(test_data, ending))


@pytest.mark.parametrize("change", [-1, -2, 2, 56])
def test_pixel_data_of_another_length_than_the_header_says_is_refused(make, change):
    ds = make.image(make.voxels()[0])
    ds.PixelData = ds.PixelData[:change] if change < 0 else ds.PixelData + bytes(change)

    with pytest.raises(UndecodablePixels, match=f"Pixel Data has {56 + change} bytes, but 7 rows, 4 columns.* need 56"):
        stored(ds)


def test_one_byte_of_padding_is_no_wrong_length(make):
    values = np.arange(15, dtype=np.uint8).reshape(5, 3)
    ds = make.image(values)
    ds.PixelData += b"\0"

    np.testing.assert_array_equal(stored(ds), values)


def test_an_object_without_pixels_says_so(make):
    ds = make.image(make.voxels()[0], PixelData=None)

    with pytest.raises(UndecodablePixels, match="has no Pixel Data"):
        stored(ds)


def test_a_missing_size_is_named(make):
    with pytest.raises(UndecodablePixels, match="has no BitsAllocated"):
        stored(make.image(make.voxels()[0], BitsAllocated=None))


def test_slope_and_intercept_give_modality_units(make):
    values = make.voxels()[0]
    ds = make.image(values, RescaleSlope=1.7141, RescaleIntercept=-3.5)

    np.testing.assert_array_equal(modality(ds), (values * 1.7141 - 3.5).astype(np.float32))
    assert "Rescale Slope (0028,1053)" in used(ds)


def test_without_slope_the_stored_values_are_the_units_and_real_world_values_are_named_as_unused(make):
    ds = make.image(make.voxels()[0])
    ds.RealWorldValueMappingSequence = Sequence([Dataset()])

    np.testing.assert_array_equal(modality(ds), make.voxels()[0])
    assert used(ds) == "stored values; Real World Value Mapping (0040,9096) is present and not used"


def test_one_frame_of_many_is_the_one_asked_for(make):
    frames = np.random.default_rng(5).integers(0, 4000, (3, 5, 2)).astype(np.uint16)
    ds = make.image(frames[0], NumberOfFrames=3)
    ds.PixelData = frames.tobytes()

    np.testing.assert_array_equal(stored(ds), frames)
    np.testing.assert_array_equal(modality(ds, frame=2), frames[2])


@given(
    centre=st.floats(-500, 2000, allow_subnormal=False),
    width=st.floats(2, 3000, allow_subnormal=False),
    function=st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"]),
)
def test_windows_follow_the_standard_as_pydicom_does(centre, width, function):
    values = np.linspace(-1000, 3000, 401, dtype=np.float64)
    ds = Dataset()
    ds.PhotometricInterpretation, ds.BitsStored, ds.PixelRepresentation = "MONOCHROME2", 12, 0
    ds.WindowCenter, ds.WindowWidth, ds.VOILUTFunction = f"{centre:.4f}", f"{width:.4f}", function
    expected = apply_windowing(values, ds) / (2**12 - 1)

    shown = window(values, float(ds.WindowCenter), float(ds.WindowWidth), function)

    np.testing.assert_allclose(shown, expected, atol=1e-5)


def test_a_window_one_wide_is_a_step_at_half_below_its_centre():
    np.testing.assert_array_equal(window([39.4, 39.5, 39.6], 40, 1), [0, 0, 1])


@pytest.mark.parametrize(("function", "width"), [("LINEAR", 0.5), ("LINEAR_EXACT", 0), ("SIGMOID", -4)])
def test_impossible_windows_are_refused(function, width):
    with pytest.raises(UndecodablePixels, match=f"{function} window cannot have a width of {width}"):
        window([0.0], 40, width, function)


def test_a_picture_uses_the_window_that_is_asked_for(make):
    values = make.voxels()[0]
    ds = make.image(values, WindowCenter=[40, 600], WindowWidth=[400, 2000], RescaleSlope=2, RescaleIntercept=-1024)

    np.testing.assert_array_equal(picture(ds, which_window=1), window(values * 2.0 - 1024, 600, 2000))


def test_a_picture_without_window_runs_from_its_smallest_to_its_largest_value(make):
    shown = picture(make.image(make.voxels()[0]))

    assert (shown.min(), shown.max()) == (0, 1)


def test_monochrome1_pictures_are_turned(make):
    values = make.voxels()[0]
    plain = picture(make.image(values))

    np.testing.assert_allclose(
        picture(make.image(values, PhotometricInterpretation="MONOCHROME1")), 1 - plain, atol=1e-6
    )


def test_luminance_and_chrominance_become_red_green_and_blue(make):
    rgb = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [90, 120, 200]], [[255, 255, 255], [0, 0, 0]]], float)
    # PS3.3 C.7.6.3.1.2, YBR_FULL.
    matrix = np.array([[0.2990, 0.5870, 0.1140], [-0.1687, -0.3313, 0.5000], [0.5000, -0.4187, -0.0813]])
    ybr = np.clip(np.rint(rgb @ matrix.T + [0, 128, 128]), 0, 255).astype(np.uint8)
    ds = make.image(ybr, SamplesPerPixel=3, PhotometricInterpretation="YBR_FULL", PlanarConfiguration=0)

    assert np.abs(picture(ds).astype(int) - rgb).max() <= 2


def test_palette_indices_become_their_colours(make):
    palette = np.random.default_rng(3).integers(0, 2**16, (3, 256)).astype(np.uint16)
    indices = np.array([[0, 7, 255], [31, 32, 33]], np.uint8)
    ds = make.image(indices, PhotometricInterpretation="PALETTE COLOR")
    for colour, table in zip(("Red", "Green", "Blue"), palette, strict=True):
        setattr(ds, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(ds, f"{colour}PaletteColorLookupTableData", table.tobytes())

    np.testing.assert_array_equal(picture(ds), (palette[:, indices] >> 8).transpose(1, 2, 0))
    np.testing.assert_array_equal(stored(ds), indices)


def test_the_mammograms_look_up_table_and_its_sigmoid_show_the_same_picture(test_data):
    """The maker gives each look both ways; they agree to a hundredth of grey on average."""
    ds = read(test_data / "mammo-dicom/GE_SenographeEssential_RMLO.dcm")
    by_table = picture(ds)
    del ds.VOILUTSequence

    assert np.abs(picture(ds) - by_table).mean() < 0.01


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32])
@pytest.mark.parametrize("unused", [0, 4])
def test_plain_samples_are_those_that_pydicom_decodes_whatever_lies_in_unused_bits(make, dtype, unused):
    information = np.iinfo(dtype)
    pixels = np.random.default_rng(3).integers(information.min, information.max, (5, 7), dtype, endpoint=True)
    ds = make.image(pixels)
    ds.BitsStored -= unused
    ds.HighBit -= unused
    expected = ds.pixel_array

    found = stored(ds)

    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_whole_numbers_are_rescaled_as_exactly_as_in_64_bits(make):
    pixels = np.random.default_rng(4).integers(-(2**15), 2**15, (9, 11)).astype(np.int16)
    for slope, intercept in ((1, -1024), (200, 7), (255, 60000), (0.1, -3), (3.7e-5, 2e5)):
        ds = make.image(pixels, RescaleSlope=slope, RescaleIntercept=intercept)
        expected = (pixels * np.float64(slope) + np.float64(intercept)).astype(np.float32)
        np.testing.assert_array_equal(modality(ds), expected)
