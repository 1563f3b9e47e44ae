"""Slides made here, of several levels, full and sparse, whose frames are put together in the plainest way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RLELossless, VLWholeSlideMicroscopyImageStorage
from skimage import measure

from dicom_io import slide as slides
from dicom_io.dataset import dataset_hash
from dicom_io.errors import MissingAttribute, NotDicom, Rejected, UndecodablePixels
from dicom_io.pixels import stored
from dicom_io.slide import Level, Slide, assemble

ORIGIN_MM = (21.5, 44.25)
# Rows of the picture run to -y on the glass, columns to -x: as scanners lay slides.
ORIENTATION = [0.0, -1.0, 0.0, -1.0, 0.0, 0.0]
SPACING_MM = (0.0005, 0.00052)
TILE = (12, 16)  # rows, columns


def picture(rows: int = 61, columns: int = 83) -> np.ndarray:
    """Glass with noise, a dark grey border above, a pink piece of tissue off the middle."""
    rng = np.random.default_rng(3)
    whole = rng.integers(236, 241, (rows, columns, 1)).repeat(3, axis=2)
    whole[: rows // 8] = 40
    down, across = np.mgrid[:rows, :columns]
    tissue = ((down / rows - 0.6) / 0.25) ** 2 + ((across / columns - 0.35) / 0.2) ** 2 < 1
    whole[tissue] = rng.integers((190, 90, 140), (230, 130, 190), (int(tissue.sum()), 3))
    return whole.astype(np.uint8)


def item(**attributes: Any) -> Dataset:
    ds = Dataset()
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


def level(pixels: np.ndarray, *, halvings: int = 0, sparse: bool = False, missing: Sequence[int] = (), **attributes):
    """One level as a data set. missing: frames, counted by row from 0, that a sparse level does not hold."""
    rows, columns = pixels.shape[:2]
    high, wide = TILE
    places = [(row, column) for row in range(0, rows, high) for column in range(0, columns, wide)]
    if sparse:  # any order will do, as each frame says where it is
        places = [place for number, place in enumerate(places) if number not in missing][::-1]
    padded = np.pad(pixels, ((0, -rows % high), (0, -columns % wide), (0, 0)), constant_values=7)
    frames = np.stack([padded[row : row + high, column : column + wide] for row, column in places])

    ds = item(
        SOPClassUID=VLWholeSlideMicroscopyImageStorage,
        SOPInstanceUID=f"2.25.88{halvings}{int(sparse)}",
        StudyInstanceUID="2.25.881",
        SeriesInstanceUID="2.25.882",
        FrameOfReferenceUID="2.25.883",
        Modality="SM",
        ImageType=[
            "ORIGINAL" if halvings == 0 else "DERIVED",
            "PRIMARY",
            "VOLUME",
            "RESAMPLED" if halvings else "NONE",
        ],
        TotalPixelMatrixRows=rows,
        TotalPixelMatrixColumns=columns,
        TotalPixelMatrixFocalPlanes=1,
        TotalPixelMatrixOriginSequence=[
            item(XOffsetInSlideCoordinateSystem=ORIGIN_MM[0], YOffsetInSlideCoordinateSystem=ORIGIN_MM[1])
        ],
        ImageOrientationSlide=ORIENTATION,
        ImagedVolumeHeight=rows * SPACING_MM[0] * 2**halvings,
        ImagedVolumeWidth=columns * SPACING_MM[1] * 2**halvings,
        OpticalPathSequence=[item(OpticalPathIdentifier="1", IlluminationTypeCodeSequence=[item(CodeValue="111744")])],
        DimensionOrganizationType="TILED_SPARSE" if sparse else "TILED_FULL",
        Rows=high,
        Columns=wide,
        NumberOfFrames=len(frames),
        SamplesPerPixel=3,
        PhotometricInterpretation="RGB",
        PlanarConfiguration=0,
        BitsAllocated=8,
        BitsStored=8,
        HighBit=7,
        PixelRepresentation=0,
        SharedFunctionalGroupsSequence=[
            item(
                PixelMeasuresSequence=[
                    item(PixelSpacing=[spacing * 2**halvings for spacing in SPACING_MM], SliceThickness=0.001)
                ]
            )
        ],
    )
    if sparse:
        ds.PerFrameFunctionalGroupsSequence = [
            item(
                PlanePositionSlideSequence=[
                    item(
                        RowPositionInTotalImagePixelMatrix=row + 1,
                        ColumnPositionInTotalImagePixelMatrix=column + 1,
                        XOffsetInSlideCoordinateSystem=0,
                        YOffsetInSlideCoordinateSystem=0,
                        ZOffsetInSlideCoordinateSystem=0,
                    )
                ]
            )
            for row, column in places
        ]
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.PixelData = frames.tobytes()
    for keyword, value in attributes.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    return ds


def write(ds: Dataset, folder: Path, name: str) -> Path:
    ds.save_as(folder / name, enforce_file_format=True)
    return folder / name


PICTURES = {0: picture(), 2: picture(15, 21)}


@pytest.fixture(scope="module", params=["full", "sparse", "rle"])
def folder(request, tmp_path_factory) -> Path:
    """Two levels, 0.5 um and 2 um; the files' names put the coarse one first."""
    made = tmp_path_factory.mktemp(request.param)
    for halvings, pixels in PICTURES.items():
        ds = level(pixels, halvings=halvings, sparse=request.param == "sparse")
        if request.param == "rle":
            ds.compress(RLELossless, generate_instance_uid=False)
        write(ds, made, f"{9 - halvings}.dcm")
    return made


@pytest.fixture
def opened(folder):
    with Slide([folder]) as slide:
        yield slide


def refused(tmp_path: Path, **attributes: Any) -> str:
    write(level(PICTURES[0], **attributes), tmp_path, "a.dcm")
    with pytest.raises(Rejected) as caught, Slide([tmp_path]):
        pass
    return str(caught.value)


# Levels


def test_levels_come_from_fine_to_coarse_with_their_sizes_and_steps(opened):
    assert [(one.number, one.shape) for one in opened.levels] == [(0, (61, 83)), (2, (15, 21))]
    np.testing.assert_allclose([one.spacing_um for one in opened.levels], [(0.5, 0.52), (2, 2.08)])
    assert opened.levels[0].magnification == pytest.approx(10 / math.sqrt(0.5 * 0.52))


def test_a_level_is_found_by_magnification_or_by_spacing(opened):
    fine, coarse = opened.levels
    assert opened.level_near(magnification=20) == fine
    assert opened.level_near(spacing_um=2.2) == coarse
    assert opened.level_near(magnification=4.5, tolerance=0.2) == coarse


@pytest.mark.parametrize("asked", [{"magnification": 10}, {"spacing_um": 1.0}, {"spacing_um": 2.4}])
def test_no_level_near_what_is_asked_for_is_a_sentence_that_lists_them(opened, asked):
    with pytest.raises(Rejected, match=r"no level within 15% of .* um per pixel .* levels have 0\.51, 2\.04 um; ask"):
        opened.level_near(**asked)


def test_a_pixels_place_on_the_glass_follows_from_origin_orientation_and_spacing(opened):
    fine, coarse = opened.levels
    # Down the rows x falls, along them y falls.
    np.testing.assert_allclose(fine.position_mm(10, 30), (21.5 - 10 * 0.0005, 44.25 - 30 * 0.00052))
    np.testing.assert_allclose(coarse.position_mm(2.5, 7.5), fine.position_mm(10, 30))


# Tiles


@pytest.mark.parametrize("number", [0, 1])
def test_any_block_is_what_the_frames_give_when_laid_side_by_side(opened, number):
    one = opened.levels[number]
    pixels = PICTURES[one.number]
    np.testing.assert_array_equal(opened.region(one, 0, 0, *one.shape), pixels)
    np.testing.assert_array_equal(opened.region(one, 3, 5, 9, 14), pixels[3:12, 5:19])


@pytest.mark.parametrize(
    ("size", "stride", "edges"),
    [((12, 16), None, "keep"), ((10, 17), None, "fill"), ((20, 11), (7, 5), "keep"), ((100, 100), None, "fill")],
)
def test_tiles_put_together_are_the_level_again(opened, size, stride, edges):
    one = opened.levels[0]
    tiles = list(opened.tiles(one, size, stride_px=stride, edges=edges))
    np.testing.assert_array_equal(assemble(tiles, one), PICTURES[0])
    if edges == "fill":
        assert {tile.projection.pixels.shape for tile in tiles} == {(3, *size)}
    assert all(
        (tile.projection.pixels[:, tile.inside[0] :] == 255).all()
        and (tile.projection.pixels[:, :, tile.inside[1] :] == 255).all()
        for tile in tiles
    )


def test_tiles_in_small_steps_overlap_and_none_lies_inside_another(opened):
    one = opened.levels[0]
    tiles = list(opened.tiles(one, (20, 30), stride_px=(10, 15)))
    assert [tile.row for tile in tiles[::5]] == [0, 10, 20, 30, 40, 50]
    assert sorted({tile.column for tile in tiles}) == [0, 15, 30, 45, 60]
    assert tiles[-1].inside == (11, 23)
    for before, after in pairwise([tile for tile in tiles if tile.row == 0]):
        assert before.column + before.inside[1] < after.column + after.inside[1]


def test_tiles_that_reach_over_the_border_can_be_dropped(opened):
    one = opened.levels[0]
    tiles = list(opened.tiles(one, (30, 40), edges="drop"))
    assert [(tile.row, tile.column) for tile in tiles] == [(0, 0), (0, 40), (30, 0), (30, 40)]
    assert {tile.inside for tile in tiles} == {(30, 40)}
    assert not list(opened.tiles(one, (62, 10), edges="drop"))


@pytest.mark.parametrize(("size", "stride"), [((5, 8), (9, 25)), ((7, 3), (57, 40)), ((61, 83), (61, 83))])
def test_tiles_in_steps_larger_than_they_are_leave_gaps_and_none_lies_outside(opened, size, stride):
    one = opened.levels[0]
    tiles = list(opened.tiles(one, size, stride_px=stride))
    expected = [(row, column) for row in range(0, 61, stride[0]) for column in range(0, 83, stride[1])]
    assert [(tile.row, tile.column) for tile in tiles] == expected
    for tile in tiles:
        piece = PICTURES[0][tile.row : tile.row + size[0], tile.column : tile.column + size[1]]
        np.testing.assert_array_equal(tile.picture, piece)


def test_a_tile_is_a_picture_of_red_green_and_blue_with_its_spacing_and_place(opened):
    tile = list(opened.tiles(opened.levels[0], (10, 17)))[6]
    assert (tile.row, tile.column) == (10, 17)
    np.testing.assert_array_equal(tile.projection.pixels, np.moveaxis(PICTURES[0][10:20, 17:34], -1, 0))
    assert (tile.projection.pixels.dtype, tile.projection.units) == (np.float32, "1")
    np.testing.assert_allclose(tile.projection.spacing_mm, SPACING_MM)
    np.testing.assert_allclose(tile.position_mm, (21.5 - 10 * 0.0005, 44.25 - 17 * 0.00052))


def test_the_sources_of_a_tile_are_the_frames_that_hold_its_pixels(opened, folder):
    path = folder / "9.dcm"
    ds = dcmread(path)
    frames = stored(ds)
    tile = next(tile for tile in opened.tiles(opened.levels[0], (15, 20)) if (tile.row, tile.column) == (15, 40))
    # Rows 15 to 29 lie in frame rows 1 and 2 of 12, columns 40 to 59 in frame columns 2 and 3 of 16.
    assert len(tile.sources) == 4
    assert tile.projection.source == tile.sources[0]
    pieces = [frames[source.frame - 1] for source in tile.sources]
    around = np.concatenate([np.concatenate(pieces[:2], 1), np.concatenate(pieces[2:], 1)])
    np.testing.assert_array_equal(tile.picture, around[15 - 12 : 30 - 12, 40 - 32 : 60 - 32])
    assert {source.sop_instance_uid for source in tile.sources} == {ds.SOPInstanceUID}
    assert {source.dataset_hash for source in tile.sources} == {dataset_hash(path.read_bytes())}


def test_tiles_are_read_one_by_one_when_they_are_asked_for(opened, monkeypatch):
    read = []
    plain = Slide.region
    monkeypatch.setattr(Slide, "region", lambda self, *block: read.append(block) or plain(self, *block))
    _ = opened.tissue_threshold
    read.clear()
    tiles = opened.tiles(opened.levels[0], (10, 10))
    assert not read
    next(tiles)
    next(tiles)
    assert [block[1:] for block in read] == [(0, 0, 10, 10), (0, 10, 10, 10)]


def test_frames_that_a_sparse_level_does_not_hold_are_white_and_nobodys(tmp_path):
    write(level(PICTURES[0], sparse=True, missing=[0, 7]), tmp_path, "a.dcm")
    expected = PICTURES[0].copy()
    expected[:12, :16] = expected[12:24, 16:32] = 255  # six frames in a row
    with Slide([tmp_path]) as slide:
        (one,) = slide.levels
        tiles = list(slide.tiles(one, TILE))
        np.testing.assert_array_equal(assemble(tiles, one), expected)
        assert [len(tile.sources) for tile in tiles[:9]] == [0, 1, 1, 1, 1, 1, 1, 0, 1]
        assert tiles[0].projection.source is None


def test_a_concatenation_counts_frames_in_the_file_that_holds_them(tmp_path):
    whole = level(PICTURES[0])
    frames = np.frombuffer(whole.PixelData, np.uint8).reshape(-1, *TILE, 3)
    for number, (start, stop) in enumerate([(0, 20), (20, 36)], start=1):
        part = level(PICTURES[0], SOPInstanceUID=f"2.25.99{number}", NumberOfFrames=stop - start)
        part.PixelData = frames[start:stop].tobytes()
        part.SOPInstanceUIDOfConcatenationSource = "2.25.990"
        part.ConcatenationUID, part.InConcatenationNumber = "2.25.990", number
        part.ConcatenationFrameOffsetNumber = start
        write(part, tmp_path, f"{number}.dcm")
    with Slide([tmp_path]) as slide:
        (one,) = slide.levels
        tiles = list(slide.tiles(one, TILE))
        np.testing.assert_array_equal(assemble(tiles, one), PICTURES[0])
    found = [(tile.sources[0].sop_instance_uid, tile.sources[0].frame) for tile in tiles]
    assert found == [*(("2.25.991", n + 1) for n in range(20)), *(("2.25.992", n + 1) for n in range(16))]


def test_what_was_made_from_a_synthetic_slide_is_synthetic(tmp_path):
    write(level(PICTURES[0], SyntheticData="YES"), tmp_path, "a.dcm")
    with Slide([tmp_path]) as slide:
        assert next(slide.tiles(slide.levels[0], TILE)).projection.is_synthetic


# Tissue and thumbnail


def test_tissue_is_what_is_coloured_and_a_dark_grey_border_is_none(opened):
    tissue = slides.colour(PICTURES[0]) > 0
    for tile in opened.tiles(opened.levels[0], (9, 7)):
        at = slice(tile.row, tile.row + tile.inside[0]), slice(tile.column, tile.column + tile.inside[1])
        assert tile.tissue == pytest.approx(tissue[at].mean())


def test_tiles_with_less_tissue_than_asked_for_are_left_out(opened):
    everything = list(opened.tiles(opened.levels[0], (9, 7)))
    kept = list(opened.tiles(opened.levels[0], (9, 7), least_tissue=0.5))
    assert [(tile.row, tile.column) for tile in kept] == [
        (tile.row, tile.column) for tile in everything if tile.tissue >= 0.5
    ]
    assert 0 < len(kept) < len(everything) / 4


def test_an_empty_slide_has_no_tissue(tmp_path):
    glass = np.random.default_rng(0).integers(232, 239, (40, 50, 3)).astype(np.uint8)  # coloured noise of 6 levels
    write(level(glass), tmp_path, "a.dcm")
    with Slide([tmp_path]) as slide:
        assert slide.tissue_threshold == slides.LEAST_COLOUR
        assert not list(slide.tiles(slide.levels[0], (10, 10), least_tissue=0.01))


def test_a_thumbnail_is_the_mean_of_blocks_and_of_what_is_there_at_the_far_borders(opened, monkeypatch):
    small = opened.thumbnail(25)
    padded = np.full((64, 84, 3), np.nan)
    padded[:61, :83] = PICTURES[0]
    expected = np.nanmean(padded.reshape(16, 4, 21, 4, 3), axis=(1, 3))
    assert np.abs(small - expected).max() <= 0.5
    # In pieces of which none is whole, too.
    monkeypatch.setattr(slides, "_PIECE_PX", 7)
    np.testing.assert_array_equal(opened.thumbnail(25), small)
    # 21 pixels are enough for 20: from the coarse level, in blocks of two.
    halved = measure.block_reduce(PICTURES[2], (2, 2, 1), np.mean)
    assert np.abs(opened.thumbnail(20)[:7, :10] - halved[:7, :10]).max() <= 0.5


# What is refused


def test_a_monochrome_slide_is_refused(tmp_path):
    grey = {"SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "PlanarConfiguration": None}
    sentence = refused(tmp_path, **grey, PixelData=bytes(36 * 12 * 16))
    assert "has 1 samples of 8 bits per pixel (MONOCHROME2); bright-field slides in colour" in sentence


@pytest.mark.parametrize(
    ("code", "meaning"), [("111743", "Epifluorescence illumination"), ("111745", "Darkfield illumination")]
)
def test_a_slide_on_dark_ground_is_refused_though_it_has_colours(tmp_path, code, meaning):
    method = item(CodeValue=code, CodeMeaning=meaning)
    path = item(OpticalPathIdentifier="1", IlluminationTypeCodeSequence=[method])
    assert f"(RGB, {meaning}); bright-field slides" in refused(tmp_path, OpticalPathSequence=[path])


def test_several_focal_planes_are_refused(tmp_path):
    assert "1 optical paths and 3 focal planes; export one" in refused(tmp_path, TotalPixelMatrixFocalPlanes=3)


@pytest.mark.parametrize(
    ("attributes", "sentence"),
    [
        ({"SharedFunctionalGroupsSequence": None}, "has no Pixel Spacing (0028,0030), so its magnification is unknown"),
        ({"TotalPixelMatrixOriginSequence": None}, "has no Total Pixel Matrix Origin (0048,0008)"),
        ({"ImagedVolumeWidth": None}, "has no Imaged Volume Width (0048,0001)"),
        ({"ImageOrientationSlide": None}, "or no Image Orientation (Slide) (0048,0102)"),
    ],
)
def test_a_level_without_spacing_or_place_is_refused(tmp_path, attributes, sentence):
    said = refused(tmp_path, **attributes)
    assert sentence in said
    with pytest.raises(MissingAttribute):
        Slide([tmp_path])


def test_files_without_a_level_are_refused(tmp_path):
    assert "no 1.2.840.10008.5.1.4.1.1.77.1.6 (whole slide) with Image Type VOLUME" in refused(
        tmp_path, ImageType=["ORIGINAL", "PRIMARY", "LABEL", "NONE"]
    )


def test_a_level_that_ends_too_early_is_not_left_out_in_silence(folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "7.dcm").write_bytes((folder / "7.dcm").read_bytes()[:-400])
    with pytest.raises(NotDicom, match=r"7\.dcm"):
        Slide([tmp_path])


def test_files_that_are_no_dicom_are_left_aside(folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "notes.txt").write_text("scanned on a Monday")
    with Slide([tmp_path]) as slide:
        assert len(slide.levels) == 2


def test_two_slides_at_once_are_refused(tmp_path):
    write(level(PICTURES[2], SeriesInstanceUID="2.25.1", SOPInstanceUID="2.25.2"), tmp_path, "b.dcm")
    assert "the files are of 2 slides, series 2.25.1, 2.25.882; open one slide at a time" in refused(tmp_path)


def test_a_level_in_another_frame_of_reference_is_refused(tmp_path):
    write(level(PICTURES[2], halvings=2, FrameOfReferenceUID="2.25.1"), tmp_path, "b.dcm")
    assert "the levels lie in frames of reference 2.25.1, 2.25.883" in refused(tmp_path)


def test_a_level_of_another_place_on_the_glass_is_not_left_out_in_silence(tmp_path):
    elsewhere = [item(XOffsetInSlideCoordinateSystem=9, YOffsetInSlideCoordinateSystem=12)]
    write(level(PICTURES[2], halvings=2, TotalPixelMatrixOriginSequence=elsewhere), tmp_path, "b.dcm")
    assert "levels 2.25.8820 do not fit the slide's finest one" in refused(tmp_path)


def test_levels_that_are_no_halvings_of_each_other_are_refused(tmp_path):
    odd = level(PICTURES[2], halvings=2)
    odd.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [0.0015, 0.00156]
    write(odd, tmp_path, "b.dcm")
    assert "the levels do not make one slide" in refused(tmp_path)


def test_a_damaged_frame_is_a_sentence_and_the_others_are_read(tmp_path):
    ds = level(PICTURES[0])
    ds.compress(RLELossless, generate_instance_uid=False)
    raw = write(ds, tmp_path, "a.dcm").read_bytes()
    (tmp_path / "a.dcm").write_bytes(
        raw[:-60] + bytes(52) + raw[-8:]
    )  # the last frame is the one in the lower right corner
    with Slide([tmp_path]) as slide:
        (one,) = slide.levels
        np.testing.assert_array_equal(slide.region(one, 0, 0, 48, 80), PICTURES[0][:48, :80])
        with pytest.raises(UndecodablePixels, match=r"slide 2\.25\.882: rows 50 to 61 and columns 70 to 83 of level 0"):
            slide.region(one, 50, 70, 11, 13)


def test_tiles_of_no_size_are_a_mistake_of_the_caller(opened):
    with pytest.raises(ValueError, match="cannot be cut"):
        next(opened.tiles(opened.levels[0], (0, 5)))
    with pytest.raises(ValueError, match="not both"):
        opened.level_near()


# A real slide


@pytest.fixture(scope="module")
def breast(test_data):
    with Slide([test_data / "wsi-breast"]) as slide:
        yield slide


def test_a_real_slide_is_what_wsidicom_reads_of_it_and_its_tiles_are_the_slide(breast):
    (one,) = breast.levels
    assert one.shape == (1547, 1680)
    assert one.magnification == pytest.approx(0.632, abs=1e-3)
    whole = np.asarray(breast._wsi.read_region((0, 0), 0, (1680, 1547)))
    np.testing.assert_array_equal(assemble(breast.tiles(one, (224, 301), stride_px=(200, 300)), one), whole)


def test_frames_of_a_real_slide_are_those_that_pydicom_decodes(breast, test_data):
    ds = dcmread(test_data / "wsi-breast" / "CPTAC-BRCA_15BR001_level.dcm")
    frames = stored(ds)
    for tile in list(breast.tiles(breast.levels[0], (240, 240)))[::9]:
        rows, columns = tile.inside
        (source,) = tile.sources
        apart = tile.picture.astype(int) - frames[source.frame - 1][:rows, :columns]
        assert np.abs(apart).max() <= 2  # two decoders of lossy JPEG


def test_a_real_slides_tissue_is_a_fifth_of_the_glass_and_its_grey_border_is_none(breast):
    tiles = list(breast.tiles(breast.levels[0], (60, 60), edges="drop"))
    assert 0.15 < np.mean([tile.tissue for tile in tiles]) < 0.3
    assert max(tile.tissue for tile in tiles if tile.row == 0) < 0.05


def test_the_places_of_a_real_slide_lie_on_the_glass(breast):
    one: Level = breast.levels[0]
    corners = [one.position_mm(row, column) for row in (0, one.shape[0]) for column in (0, one.shape[1])]
    assert all(-1 < x < 27 and -1 < y < 77 for x, y in corners)  # a slide has 26 x 76 mm
