"""Text burned into pixels: found on drawn phantoms, not in tissue, and made black in every frame."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, RLELossless, SecondaryCaptureImageStorage
from scipy import ndimage

from dicom_io import pixels
from dicom_io.confidentiality import burned_in
from dicom_io.deidentify import Policy, deidentify
from dicom_io.errors import Rejected

KEY = bytes(range(32))
BLANK = Policy(KEY, on_burned_in="blank")
TEXTS = ("DOE^JANE 12.03.1960", "ID 4471 LMU", "St. Mary Hospital", "14:22:07", "MI 1.1 TIs 0.4", "F 055Y")


def speckle(rng: np.random.Generator, shape: tuple[int, int] = (480, 640)) -> np.ndarray:
    """A sector of ultrasound: Rayleigh speckle with a point spread of 1.3 pixels, 50 dB, brightest value 220."""
    real, imaginary = (ndimage.gaussian_filter(rng.normal(size=shape), 1.3) for _ in range(2))
    tissue = np.clip(ndimage.gaussian_filter(rng.normal(size=shape), 25) * 40 + 0.5, 0.05, 1)
    envelope = np.hypot(real, imaginary)
    decibels = 20 * np.log10(envelope / envelope.max() * tissue + 1e-3)
    picture = np.clip((decibels + 50) / 50, 0, 1) * 220
    row, column = np.mgrid[: shape[0], : shape[1]]
    angle = np.arctan2(column - shape[1] / 2, row + 40)
    depth = np.hypot(column - shape[1] / 2, row + 40)
    picture[(abs(angle) > 0.6) | (depth > shape[0] - 20) | (depth < 60)] = 0
    return picture.astype(np.uint8)


def drawn(
    picture: np.ndarray, rng: np.random.Generator, size_px: int, value: int
) -> tuple[np.ndarray, list[np.ndarray]]:
    """The picture with five texts at places of their own, and the pixels of each."""
    font = ImageFont.load_default(size=size_px)
    inks: list[np.ndarray] = []
    result = picture.astype(np.float64)
    while len(inks) < 5:
        mask = Image.new("L", picture.shape[::-1], 0)
        place = (int(rng.integers(0, picture.shape[1] // 2)), int(rng.integers(0, picture.shape[0] - 2 * size_px)))
        ImageDraw.Draw(mask).text(place, TEXTS[len(inks)], font=font, fill=255)
        cover = np.asarray(mask) / 255
        ink = cover > 0.5
        near = ndimage.binary_dilation(ink, iterations=4)
        if ink[:, -1].any() or any((near & other).any() for other in inks):
            continue
        result = result * (1 - cover) + value * cover
        inks.append(ink)
    return result.astype(picture.dtype), inks


def found_of(picture: np.ndarray, inks: list[np.ndarray]) -> tuple[float, int]:
    """Share of the texts of which nine tenths are found, and how many rectangles hold no text."""
    regions = burned_in.text_regions(picture)
    mask = burned_in.mask_of(regions, *picture.shape[:2])
    recall = np.mean([mask[ink].mean() > 0.9 for ink in inks])
    anything = np.any(inks, axis=0)
    wrong = [one for one in regions if not anything[one.top : one.bottom, one.left : one.right].any()]
    return float(recall), len(wrong)


@pytest.mark.parametrize("size_px", [10, 14, 20, 32, 48])
def test_text_on_black_is_found_at_every_size(size_px):
    rng = np.random.default_rng(size_px)
    results = [found_of(*drawn(np.zeros((480, 640), np.uint8), rng, size_px, value)) for value in (255, 150)]
    assert results == [(1.0, 0), (1.0, 0)]


def test_dark_text_on_a_bright_ground_is_found():
    picture, inks = drawn(np.full((400, 500), 200, np.uint8), np.random.default_rng(3), 16, 10)
    assert found_of(picture, inks) == (1.0, 0)


def test_coloured_text_is_found():
    rng = np.random.default_rng(4)
    grey, inks = drawn(np.zeros((300, 640), np.uint8), rng, 16, 220)
    picture = np.stack([grey, grey, np.zeros_like(grey)], axis=-1)
    assert found_of(picture, inks)[0] == 1.0


def test_white_text_of_sixteen_pixels_and_more_is_found_over_speckle():
    rng = np.random.default_rng(1)
    results = [found_of(*drawn(speckle(rng), rng, size_px, 255)) for size_px in (16, 24, 40) for _ in range(2)]
    assert np.mean([recall for recall, _ in results]) >= 0.95


def test_of_small_white_text_over_speckle_more_than_half_is_found():
    """What falls short, as a figure: thin strokes of ten to twelve pixels' height are lost in bright speckle."""
    rng = np.random.default_rng(8)
    results = [found_of(*drawn(speckle(rng), rng, size_px, 255)) for size_px in (10, 12) for _ in range(3)]
    assert np.mean([recall for recall, _ in results]) >= 0.5


def test_speckle_without_text_has_hardly_a_rectangle():
    rng = np.random.default_rng(2)
    counts = [len(burned_in.text_regions(speckle(rng))) for _ in range(8)]
    assert np.mean(counts) <= 0.5


def test_text_of_any_size_is_found_on_a_mammogram_and_nothing_else(test_data):
    image = pixels.stored(dcmread(test_data / "mammo-dicom" / "GE_SenographeEssential_RMLO.dcm"))[::2, ::2]
    assert burned_in.text_regions(image) == []
    rng = np.random.default_rng(5)
    for size_px in (14, 40):
        assert found_of(*drawn(image, rng, size_px, 4095)) == (1.0, 0)


@pytest.mark.parametrize("name", ["mdb011", "mdb091"])
def test_the_markers_on_films_are_found(test_data, name):
    image = np.asarray(Image.open(test_data / "mammo-mias" / f"{name}.pgm"))
    regions = burned_in.text_regions(image)
    assert len(regions) == 1 and regions[0].top < 200  # beside the breast, in the upper corner


# Whole objects


@pytest.fixture
def capture(make) -> Dataset:
    """Three frames of a colour capture with a name in the second one only."""
    black = np.zeros((120, 200), np.uint8)
    mask = Image.new("L", (200, 120), 0)
    ImageDraw.Draw(mask).text((12, 30), "DOE JANE 4471", font=ImageFont.load_default(size=16), fill=255)
    frames = np.stack([black, np.asarray(mask), black])
    frames[:, 100:, 150:] = np.arange(50, dtype=np.uint8) * 2 + 20
    ds = make.image(black, "MR", NumberOfFrames=3, PatientName="Doe^Jane")
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    ds.Modality, ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = "OT", 3, "RGB", 0
    ds.PixelData = np.repeat(frames[..., None], 3, axis=-1).tobytes()
    return ds


def test_a_capture_with_text_is_refused_and_the_sentence_counts_the_regions(capture):
    with pytest.raises(Rejected, match="has 1 regions that look like text"):
        deidentify(capture, Policy(KEY))


def test_text_is_made_black_in_all_frames_and_the_rest_stays(capture):
    before = pixels.stored(capture)
    new, report = deidentify(capture, BLANK)
    after = pixels.stored(new)
    assert not after[:, :80].any()
    np.testing.assert_array_equal(after[:, 100:], before[:, 100:])
    assert new.BurnedInAnnotation == "NO" and "113101" in report.options and report.regions == 1
    np.testing.assert_array_equal(pixels.stored(capture), before)  # the given object is as it was


def test_compressed_pixels_come_out_uncompressed(capture):
    capture.compress(RLELossless)
    new, _ = deidentify(capture, BLANK)
    assert new.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert capture.file_meta.TransferSyntaxUID == RLELossless
    assert not pixels.stored(new)[:, :80].any()


def test_a_capture_without_text_is_called_clean_and_stays_as_it_is_encoded(make):
    ds = make.image(np.full((64, 64), 7, np.uint8), Modality="OT")
    ds.compress(RLELossless)
    new, report = deidentify(ds, BLANK)
    assert new.file_meta.TransferSyntaxUID == RLELossless and new.PixelData == ds.PixelData
    assert new.BurnedInAnnotation == "NO" and "113101" in report.options and report.regions == 0


def test_an_object_that_says_it_has_text_and_shows_none_is_left_to_people(make):
    for chosen, said in ((Policy(KEY), "0 regions"), (BLANK, "no text was found")):
        with pytest.raises(Rejected, match=said):
            deidentify(make.image(np.zeros((64, 64), np.uint8), BurnedInAnnotation="YES"), chosen)


def test_images_that_are_not_looked_at_get_no_mark(make):
    new, report = deidentify(make.series()[0], BLANK)
    assert "BurnedInAnnotation" not in new and report.options == ("113100",)


def test_what_lies_outside_the_regions_of_ultrasound_is_black(make):
    rng = np.random.default_rng(6)
    picture = (speckle(rng, (240, 320)) // 2 + 60).astype(np.uint8)
    ds = make.image(picture, "MR", Modality="US")
    region = Dataset()
    region.RegionLocationMinX0, region.RegionLocationMinY0 = 40, 30
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = 279, 209
    ds.SequenceOfUltrasoundRegions = [region]
    after = pixels.stored(deidentify(ds, BLANK)[0])
    inside = np.zeros_like(picture, bool)
    inside[30:210, 40:280] = True
    assert (after[~inside] == picture.min()).all()
    assert (after[inside] == picture[inside]).mean() > 0.9


def test_black_of_monochrome1_is_the_largest_value(make):
    picture, inks = drawn(np.full((200, 480), 4000, np.uint16), np.random.default_rng(7), 18, 100)
    ds = make.image(picture, "MG", PhotometricInterpretation="MONOCHROME1")
    after = pixels.stored(deidentify(ds, BLANK)[0])
    assert all((after[ink] == 4000).all() for ink in inks)


def test_pixels_of_one_bit_cannot_be_made_black(make):
    ds = make.image(np.zeros((64, 64), np.uint8))
    ds.BitsAllocated = 1
    with pytest.raises(Rejected, match="1 bits"):
        burned_in.blanked(ds, np.ones((64, 64), bool))
