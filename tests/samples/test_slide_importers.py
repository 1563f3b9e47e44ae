"""Slides become tiles in colour: from phantoms, from any DICOM, and by way of the public layout of patches."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread

from dicom_io import cohort as cohorts
from dicom_io import slide_segmentation
from dicom_io.cohort import Cohort, Item
from dicom_io.errors import Rejected
from dicom_io.pseudonym import pseudonym
from dicom_io.slide import Level, Slide, Tile
from dicom_io.volume import Projection
from models.tensors import to_metatensor
from samples.importers import IMPORTERS, idc_patches, slides
from samples.phantoms import PhantomStudy, write_patients
from samples.phantoms.idc_layout import write_patches
from samples.phantoms.tissue import CARCINOMA

KEY = b"a key that only these tests know"


@pytest.fixture(scope="module")
def studies(tmp_path_factory) -> list[PhantomStudy]:
    """Four patients, the last one without carcinoma; they stand for acquired slides."""
    return write_patients("histology", 4, tmp_path_factory.mktemp("slides"), seed=9, synthetic=False)


@pytest.fixture(scope="module")
def by_hand(studies, tmp_path_factory) -> Path:
    """The slides in folders of no particular form, each with its truth as if a person had drawn it."""
    source = tmp_path_factory.mktemp("archive")
    for number, study in enumerate(studies):
        shutil.copy(study.files[0], source / f"{number}.dcm")
        drawn_by_hand(study, source / f"drawn-{number}.dcm")
    return source


def drawn_by_hand(study: PhantomStudy, path: Path) -> None:
    ds = dcmread(study.segmentation_path)
    for segment in ds.SegmentSequence:
        segment.SegmentAlgorithmType = "MANUAL"
    ds.save_as(path)


def imported(layout: str, source: Path, out: Path) -> Cohort:
    IMPORTERS[layout].read(source, out, KEY, lambda *_: None)
    return cohorts.load(out)


def items(cohort: Cohort) -> list[Item]:
    return [item for split in cohorts.SPLITS for item in cohort.splits[split]]


def of(cohort: Cohort, study: PhantomStudy) -> list[Item]:
    return [item for item in items(cohort) if item.patient == pseudonym(KEY, study.patient_id, prefix="P")]


def whole(study: PhantomStudy) -> tuple[np.ndarray, np.ndarray]:
    """Picture (rows, columns, 3), and where carcinoma is."""
    with Slide([study.dicom_folder]) as slide:
        (level,) = slide.levels
        picture = slide.region(level, 0, 0, *level.shape)
    return picture, slide_segmentation.read(dcmread(study.segmentation_path)) == CARCINOMA


def test_each_fourth_slide_has_no_carcinoma(studies):
    assert [study.truth["carcinoma"] for study in studies] == [True, True, True, False]


@pytest.mark.parametrize("layout", ["histology-phantoms", "slide-tiles"])
def test_tiles_are_cut_where_they_say_and_labelled_by_what_they_show(layout, studies, by_hand, tmp_path):
    source = studies[0].folder.parent if layout == "histology-phantoms" else by_hand
    cohort = imported(layout, source, tmp_path)

    assert (cohort.task, cohort.split_unit, cohort.labels) == ("classification", "patient", slides.LABELS)
    assert cohorts.is_colour(cohort.channels)
    assert {len({item.patient for item in cohort.splits[split]}) for split in cohorts.SPLITS} == {1, 2}
    for study in studies:
        picture, carcinoma = whole(study)
        tiles = of(cohort, study)
        assert len(tiles) > 80
        for item in tiles:
            row, column = item.provenance["row"], item.provenance["column"]
            at = slice(row, row + 64), slice(column, column + 64)
            assert item.provenance["carcinoma"] == pytest.approx(carcinoma[at].mean(), abs=1e-4)
            assert item.label == (carcinoma[at].mean() >= 0.5)
        image = cohorts.load_image(cohort, item)
        np.testing.assert_array_equal(image.pixels, np.moveaxis(picture[at], -1, 0))
        assert to_metatensor(image).shape == (3, 64, 64)
        assert not item.synthetic and image.spacing_mm == (0.002, 0.002)
        assert {item.label for item in tiles} == ({0, 1} if study.truth["carcinoma"] else {0})


def test_no_name_of_a_patient_and_no_uid_is_left_in_a_cohort_of_tiles(studies, by_hand, tmp_path):
    cohort = imported("slide-tiles", by_hand, tmp_path)
    texts = [str(path) + path.read_text() for path in cohort.folder.rglob("*.json")]
    for study in studies:
        header = dcmread(study.files[0], stop_before_pixels=True)
        for word in (study.patient_id, header.SOPInstanceUID, header.SeriesInstanceUID, header.FrameOfReferenceUID):
            assert not [text for text in texts if word in text]


def test_slides_without_segmentation_are_for_generators_and_have_no_labels(studies, tmp_path):
    for number, study in enumerate(studies[:3]):
        shutil.copytree(study.dicom_folder, tmp_path / "in" / str(number))
    (tmp_path / "out").mkdir()
    cohort = imported("slide-tiles", tmp_path / "in", tmp_path / "out")
    assert (cohort.task, cohort.labels) == ("generation", ())
    assert {item.label for item in items(cohort)} == {None}


def test_a_slide_whose_truth_is_not_known_or_was_drawn_by_a_program_is_left_out(studies, by_hand, tmp_path):
    source, out = shutil.copytree(by_hand, tmp_path / "in"), tmp_path / "out"
    out.mkdir()
    (source / "drawn-1.dcm").unlink()
    shutil.copy(studies[2].segmentation_path, source / "drawn-2.dcm")
    cohort = imported("slide-tiles", source, out)
    assert [bool(of(cohort, study)) for study in studies] == [True, False, False, True]
    told = " ".join(json.loads((out / "left_out.json").read_text()))
    assert "no SEG lies in its frame of reference" in told
    assert "drawn by a program (AUTOMATIC)" in told


def test_tiles_of_a_real_slide_show_what_it_shows(test_data, tmp_path):
    with Slide([test_data / "wsi-breast"]) as slide:
        (level,) = slide.levels
        tiles = slides.tiles_of(slide, level, None, tmp_path, KEY, "P1", "P1", {})
        picture = slide.region(level, 0, 0, *level.shape)
    cohort = Cohort(tmp_path, "real", "generation", (), slides.CHANNELS, {"training": tuple(tiles)})
    assert 60 < len(tiles) < 200
    for item in tiles[::10]:
        row, column = item.provenance["row"], item.provenance["column"]
        shown = cohorts.load_image(cohort, item).pixels
        np.testing.assert_array_equal(shown, np.moveaxis(picture[row : row + 64, column : column + 64], -1, 0))
        assert not item.synthetic and item.label is None and item.provenance["tissue"] >= 0.3


def test_a_folder_without_slides_is_a_sentence(tmp_path):
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(Rejected, match="give the folder that holds the slides"):
        imported("slide-tiles", tmp_path, tmp_path / "out")


def test_a_mask_of_a_coarser_level_covers_the_same_share_of_a_tile():
    level = Level(0, (120, 180), (2.0, 2.0), (0.0, 0.0), (-1.0, 0.0), (0.0, -1.0))
    tile = Tile(Projection(np.zeros((3, 40, 60), np.float32), "1"), level, 40, 60, (40, 60), 1.0, ())
    mask = np.zeros((12, 18), bool)
    mask[4:6, 6:9] = True
    assert slides.share(mask, tile) == pytest.approx(6 / 24)
    assert slides.share(mask.repeat(10, 0).repeat(10, 1), tile) == pytest.approx(6 / 24)


def test_slides_in_the_public_layout_of_patches_are_rebuilt_and_their_classes_are_those_of_the_truth(studies, tmp_path):
    for study in studies[::3]:
        count = write_patches(study, tmp_path)
        picture, carcinoma = whole(study)
        rebuilt, labels = idc_patches.rebuild(tmp_path / study.patient_id)
        rows, columns = labels.shape
        cut = labels >= 0
        np.testing.assert_array_equal(rebuilt[cut], picture[:rows, :columns][cut])
        found = idc_patches.patches_of(tmp_path / study.patient_id)
        assert len(found) == count > 150
        for patch in found:
            there = carcinoma[patch.row : patch.row + 50, patch.column : patch.column + 50]
            assert patch.label == (there.mean() >= 0.5)


def test_patches_of_synthetic_slides_say_so_and_so_does_the_cohort_that_is_made_of_them(tmp_path):
    for study in write_patients("histology", 3, tmp_path / "phantoms", seed=3):
        write_patches(study, tmp_path / "patches")
    (tmp_path / "cohort").mkdir()
    cohort = imported("idc-patches", tmp_path / "patches", tmp_path / "cohort")
    with Image.open(next((tmp_path / "patches").rglob("*.png"))) as png:
        assert (png.text["Synthetic"], png.size) == ("YES", (50, 50))
    assert {len(cohort.splits[split]) for split in cohorts.SPLITS} == {1}
    for item in items(cohort):
        assert item.synthetic and cohorts.load_image(cohort, item).is_synthetic
        assert 0 < sum(item.slice_labels) < len(item.slice_labels)
