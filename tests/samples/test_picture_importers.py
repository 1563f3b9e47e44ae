"""Data sets of pictures, in small copies of their layouts: histology patches, brain MR, mammograms; and real ones."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from dicom_io import cohort as cohorts
from dicom_io.cohort import Cohort, Item
from dicom_io.errors import Rejected, UndecodablePixels
from dicom_io.pseudonym import pseudonym
from dicom_io.slide import Slide
from dicom_io.volume import Projection, Volume
from samples.importers import IMPORTERS, brain_tumour, cbis_ddsm, ddsm, idc_patches, mini_mias

KEY = b"a key that only these tests know"


def imported(layout: str, source: Path, out: Path) -> Cohort:
    out.mkdir(exist_ok=True)
    IMPORTERS[layout].read(source, out, KEY, lambda *_: None)
    return cohorts.load(out)


def items(cohort: Cohort) -> list[Item]:
    return [item for split in cohorts.SPLITS for item in cohort.splits[split]]


def by_patient(cohort: Cohort) -> dict[str, list[Item]]:
    found = defaultdict(list)
    for item in items(cohort):
        found[item.patient].append(item)
    return found


def left_out(cohort: Cohort) -> list[str]:
    return json.loads((cohort.folder / "left_out.json").read_text())


def no_word_of(cohort: Cohort, words: list[str]) -> bool:
    names = " ".join(str(path.relative_to(cohort.folder)) for path in cohort.folder.rglob("*"))
    text = "".join(path.read_text() for path in cohort.folder.rglob("*.json"))
    return not any(word in names + text for word in words)


def save(pixels: np.ndarray, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


# Histology patches


def cut(slide: np.ndarray, labels: np.ndarray, folder: Path) -> Path:
    """Patches of 50 pixels in the layout, from a slide; where the label is -1 none is cut."""
    for row in range(0, slide.shape[0], 50):
        for column in range(0, slide.shape[1], 50):
            label = int(labels[row, column])
            if label >= 0:
                name = f"{folder.name}_idx5_x{column + 1}_y{row + 1}_class{label}.png"
                save(slide[row : row + 50, column : column + 50], folder / str(label) / name)
    return folder


@pytest.fixture(scope="module")
def histology(tmp_path_factory) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Four patients: patient -> (slide, label map); sizes are no multiples of 50, and corners hold no tissue."""
    rng = np.random.default_rng(1)
    made = {}
    for number, (rows, columns) in enumerate([(130, 210), (100, 250), (160, 70), (90, 120)]):
        labels = rng.integers(0, 2, (-(-rows // 50), -(-columns // 50)))
        labels[0, 0], labels[-1, -1] = -1, 1
        made[f"{10253 + number}"] = (
            rng.integers(0, 256, (rows, columns, 3)).astype(np.uint8),
            labels.repeat(50, 0).repeat(50, 1)[:rows, :columns].astype(np.int8),
        )
    return made


@pytest.fixture(scope="module")
def patches(histology, tmp_path_factory) -> Path:
    source = tmp_path_factory.mktemp("idc")
    for patient, (slide, labels) in histology.items():
        cut(slide, labels, source / patient)
    return source


@pytest.fixture(scope="module")
def patch_cohort(patches, tmp_path_factory) -> Cohort:
    return imported("idc-patches", patches, tmp_path_factory.mktemp("cohort"))


def test_patches_of_a_patient_are_a_stack_of_red_green_and_blue_in_one_split(patch_cohort, patches, histology):
    assert (patch_cohort.task, patch_cohort.split_unit) == ("classification", "patient")
    assert [channel.name for channel in patch_cohort.channels] == ["red", "green", "blue"]
    assert {item.patient for item in items(patch_cohort)} == {pseudonym(KEY, name, prefix="P") for name in histology}
    for patient, (slide, labels) in histology.items():
        (item,) = by_patient(patch_cohort)[pseudonym(KEY, patient, prefix="P")]
        image = cohorts.load_image(patch_cohort, item)
        assert isinstance(image, Volume)
        places = list(zip(item.provenance["rows"], item.provenance["columns"], strict=True))
        assert sorted(places) == places
        assert len(places) == image.spatial_shape[0] == len(list((patches / patient).rglob("*.png")))
        for number, (row, column) in enumerate(places):
            there = np.full((50, 50, 3), 255)
            piece = slide[row : row + 50, column : column + 50]
            there[: piece.shape[0], : piece.shape[1]] = piece
            np.testing.assert_array_equal(np.moveaxis(image.voxels[:, number], 0, -1), there)
            assert item.slice_labels[number] == labels[row, column]


def test_patches_that_were_filled_up_are_counted_and_no_spacing_is_made_up(patch_cohort):
    filled = {item.patient: item.provenance["filled_with_white"] for item in items(patch_cohort)}
    # 130 x 210 with the last column and row cut short: 2 + 5 patches; 100 x 250 has whole ones only.
    assert filled[pseudonym(KEY, "10253", prefix="P")] == 7
    assert filled[pseudonym(KEY, "10254", prefix="P")] == 0
    assert {item.geometry["spacing_mm"] for item in items(patch_cohort)} == {None}


def test_a_patch_cohort_has_six_files_per_patient_and_names_none(patch_cohort, histology):
    assert len(list((patch_cohort.folder / "images").iterdir())) == 6 * len(histology)
    assert no_word_of(patch_cohort, list(histology))


def test_a_slide_is_rebuilt_from_its_patches_with_its_label_map(patches, histology):
    for patient, (slide, labels) in histology.items():
        picture, found = idc_patches.rebuild(patches / patient)
        np.testing.assert_array_equal(found, labels)
        np.testing.assert_array_equal(picture[labels >= 0], slide[labels >= 0])
        assert (picture[labels < 0] == 255).all()


def test_a_rebuilt_slide_is_saved_with_its_labels_in_colour(patches, histology, tmp_path):
    slide, labels = histology["10254"]
    picture, coloured = (np.asarray(Image.open(path)) for path in idc_patches.save_rebuilt(patches / "10254", tmp_path))
    np.testing.assert_array_equal(picture[labels == 1], slide[labels == 1])
    assert {tuple(pixel) for pixel in coloured[labels == 1]} == {(220, 60, 60)}
    assert {tuple(pixel) for pixel in coloured[labels == 0]} == {(90, 160, 220)}
    assert (coloured[labels < 0] == 255).all()


def test_a_real_slide_cut_into_patches_is_rebuilt(test_data, tmp_path):
    with Slide([test_data / "wsi-breast"]) as slide:
        (level,) = slide.levels
        whole = slide.region(level, 0, 0, *level.shape)
        tissue = np.full(level.shape, -1, np.int8)
        for tile in slide.tiles(level, (50, 50), least_tissue=0.2):
            tissue[tile.row : tile.row + 50, tile.column : tile.column + 50] = int(tile.column > 900)
    picture, labels = idc_patches.rebuild(cut(whole, tissue, tmp_path / "8863"))
    rows, columns = labels.shape
    np.testing.assert_array_equal(labels, tissue[:rows, :columns])
    np.testing.assert_array_equal(picture[labels >= 0], whole[:rows, :columns][labels >= 0])
    assert (labels == 0).sum() > 100 * 2500 < (labels == 1).sum()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("0/10253_idx5_x51_y51_class1.png", "says class 1 and lies in folder 0; move it"),
        ("0/9999_idx5_x51_y51_class0.png", r"is not named 10253_\.\.\._xX_yY_classC\.png"),
        ("1/10253_idx5_class1.png", r"is not named 10253_\.\.\._xX_yY_classC\.png"),
        ("1/10253_idx5_x51_y1_class1.png", "patches at .* places; keep one of each"),
        ("1/10253_idx5_x901_y1_class1.png", "has 51 x 50 pixels, more than 50; it is no patch"),
    ],
)
def test_a_patch_of_another_form_is_a_sentence(patches, tmp_path, name, sentence):
    source = shutil.copytree(patches, tmp_path / "in")
    for twin in (source / "10253" / "0").glob("*_x51_y1_class0.png"):
        twin.rename(source / "10253" / "0" / "10253_idx6_x51_y1_class0.png")
    rows = 51 if "901" in name else 50
    save(np.zeros((rows, 50, 3), np.uint8), source / "10253" / name.replace("idx5_x51_y1_", "idx7_x51_y1_"))
    with pytest.raises(Rejected, match=sentence):
        imported("idc-patches", source, tmp_path / "out")


def test_a_patch_that_is_no_picture_is_a_sentence(patches, tmp_path):
    source = shutil.copytree(patches, tmp_path / "in")
    next((source / "10255").rglob("*.png")).write_bytes(b"PNG?")
    with pytest.raises(UndecodablePixels, match=r"class[01]\.png is no picture that can be read"):
        imported("idc-patches", source, tmp_path / "out")


# Brain tumours


def head(seed: int, rows: int = 140, columns: int = 120) -> np.ndarray:
    """A picture with structure of its own at all scales, dark around."""
    rng = np.random.default_rng(seed)
    field = sum(
        np.kron(rng.random((rows // size + 1, columns // size + 1)), np.ones((size, size)))[:rows, :columns] * size
        for size in (3, 7, 17, 40)
    )
    down, across = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    field = np.where(down**2 + across**2 < 0.85, field - field.min(), 0)
    return (255 * field / field.max()).astype(np.uint8)


@pytest.fixture(scope="module")
def brains(tmp_path_factory) -> Path:
    """24 pictures; two of Testing are those of Training again, one as JPEG of another quality and one mirrored."""
    source = tmp_path_factory.mktemp("brains")
    for seed in range(24):
        half = "Testing" if seed % 4 == 0 else "Training"
        label = ("glioma_tumor", "no_tumor", "pituitary_tumor")[seed % 3]
        save(head(seed), source / half / label / f"image({seed}).jpg")
    Image.fromarray(head(1)).save(source / "Testing" / "no_tumor" / "again.jpg", quality=60)
    save(np.repeat(head(2)[:, ::-1, None], 3, axis=2), source / "Testing" / "pituitary_tumor" / "turned.png")
    (source / "Testing" / "no_tumor" / "Thumbs.db").write_bytes(b"")
    return source


@pytest.fixture(scope="module")
def brain_cohort(brains, tmp_path_factory) -> Cohort:
    return imported("brain-tumour-folders", brains, tmp_path_factory.mktemp("cohort"))


def test_copies_of_a_picture_share_a_group_and_a_split_whatever_half_they_were_published_in(brain_cohort):
    assert brain_cohort.split_unit == "near-duplicate group"
    groups = by_patient(brain_cohort)
    assert (len(items(brain_cohort)), len(groups)) == (26, 24)
    doubles = [group for group in groups.values() if len(group) > 1]
    assert [{item.provenance["published_split"] for item in group} for group in doubles] == [
        {"Training", "Testing"}
    ] * 2
    splits = {item.patient: split for split in cohorts.SPLITS for item in brain_cohort.splits[split]}
    for split in cohorts.SPLITS:
        assert all(splits[item.patient] == split for item in brain_cohort.splits[split])


def test_the_leaks_of_the_published_split_are_told(brain_cohort):
    assert "24 groups of near-duplicates among 26 pictures, 2 of them in both published halves, 0 in several" in (
        brain_cohort.description
    )


def test_the_published_split_is_refused_with_the_number_of_its_leaks(brains, tmp_path):
    source = shutil.copytree(brains, tmp_path / "in")
    # One group more than the two of the fixture, with two pictures in Training: two pairs.
    shutil.copy(source / "Testing" / "glioma_tumor" / "image(0).jpg", source / "Training" / "glioma_tumor" / "copy.jpg")
    Image.fromarray(head(0)[::-1]).save(source / "Training" / "glioma_tumor" / "turned.jpg")
    with pytest.raises(Rejected) as refused:
        imported("brain-tumour-published", source, tmp_path / "out")
    sentence = str(refused.value)
    assert "3 groups of near-duplicates (4 pairs of pictures) lie in both halves, such as Training/" in sentence
    assert "so 3 of 8 test pictures would be known from training; import brain-tumour-folders" in sentence
    assert not (tmp_path / "out" / "datalist.json").exists()


def test_a_published_split_without_leaks_is_taken_as_it_is(brains, tmp_path):
    source = shutil.copytree(brains, tmp_path / "in")
    (source / "Testing" / "no_tumor" / "again.jpg").unlink()
    (source / "Testing" / "pituitary_tumor" / "turned.png").unlink()
    cohort = imported("brain-tumour-published", source, tmp_path / "out")
    assert {item.provenance["published_split"] for item in cohort.test} == {"Testing"}
    rest = [*cohort.training, *cohort.validation]
    assert {item.provenance["published_split"] for item in rest} == {"Training"}
    assert (len(cohort.test), len(rest)) == (6, 18) and cohort.training and cohort.validation
    assert "split as published; 24 groups of near-duplicates" in cohort.description


def test_a_picture_that_lies_in_two_classes_is_told(brains, tmp_path):
    source = shutil.copytree(brains, tmp_path / "in")
    shutil.copy(source / "Training" / "no_tumor" / "image(1).jpg", source / "Training" / "glioma_tumor" / "one.jpg")
    cohort = imported("brain-tumour-folders", source, tmp_path / "out")
    assert cohort.description.endswith(
        "24 groups of near-duplicates among 27 pictures, 2 of them in both published halves, 1 in several classes"
    )


def test_the_class_without_a_tumour_is_the_first_and_each_picture_keeps_its_own(brain_cohort, brains):
    assert brain_cohort.labels == ("no_tumor", "glioma_tumor", "pituitary_tumor")
    counted = Counter(brain_cohort.labels[item.label] for item in items(brain_cohort))
    assert counted == {"no_tumor": 9, "glioma_tumor": 8, "pituitary_tumor": 9}
    grey = {path.read_bytes(): np.asarray(Image.open(path).convert("L")) for path in brains.rglob("*.jpg")}
    stored = [cohorts.load_image(brain_cohort, item).pixels[0] for item in items(brain_cohort)]
    for picture in grey.values():
        assert any(picture.shape == one.shape and (picture == one).all() for one in stored)


def test_what_the_file_was_is_kept_where_a_shortcut_can_be_looked_for(brain_cohort):
    files = Counter(tuple(item.provenance["file"].values()) for item in items(brain_cohort))
    assert files == {("JPEG", 140, "L", 120): 25, ("PNG", 140, "RGB", 120): 1}
    assert list(items(brain_cohort)[0].provenance["file"]) == ["format", "height", "mode", "width"]


def test_a_groups_split_depends_on_its_pictures_and_not_on_names_or_company(brains, brain_cohort, tmp_path):
    fewer = shutil.copytree(brains, tmp_path / "in")
    for path in sorted(fewer.rglob("*.jpg"))[::3]:
        path.unlink()
    for path in fewer.rglob("*.jpg"):
        path.rename(path.with_name(f"other {path.name}"))
    again = imported("brain-tumour-folders", fewer, tmp_path / "out")
    before = {item.patient: split for split in cohorts.SPLITS for item in brain_cohort.splits[split]}
    after = {item.patient: split for split in cohorts.SPLITS for item in again.splits[split]}
    common = before.keys() & after.keys()
    assert len(common) >= 14  # a group whose smallest hash went is another one
    assert all(before[group] == after[group] for group in common)


@pytest.mark.parametrize("missing", ["Training", "Testing"])
def test_a_folder_without_both_halves_is_a_sentence(brains, tmp_path, missing):
    source = shutil.copytree(brains, tmp_path / "in")
    shutil.rmtree(source / missing)
    with pytest.raises(Rejected, match=r"holds no Training/CLASS/ and Testing/CLASS/ with pictures; give the folder"):
        imported("brain-tumour-folders", source, tmp_path / "out")


def test_real_brain_pictures_are_found_with_their_classes(test_data):
    found = brain_tumour.pictures_in(test_data / "brain-tumour-mri")
    assert Counter(picture.half for picture in found) == {"Training": 480, "Testing": 160}
    assert brain_tumour.classes(found)[0] == "no_tumor"
    assert set(Counter(picture.label for picture in found).values()) == {160}


# mini-MIAS

INFO = """This is the list of the films.

mdb001 G CIRC B 535 425 197
mdb002 G NORM
mdb003 D MISC B 30 20 5
mdb003 D SPIC M 60 20 7
mdb004 D NORM
mdb005 F CALC M *NOTE 3*
mdb006 F NORM
mdb099 F NORM

NOTES mdb
"""


@pytest.fixture
def films(tmp_path) -> Path:
    source = tmp_path / "mias"
    for number in range(1, 7):
        save(np.full((1024, 1024), 30 * number, np.uint8), source / f"mdb{number:03d}.pgm")
    (source / "Info.txt").write_text(INFO)
    return source


def test_squares_lie_wholly_in_the_breast_and_are_thinned_evenly():
    pixels = np.arange(512.0 * 300).reshape(512, 300).astype(np.float32)
    inside = np.zeros((512, 300), bool)
    inside[32:161, 64:300] = True
    found = mini_mias.squares_of(pixels, inside)
    # Corners at rows 32, 64 and 96, and columns 64, 96, ... 224.
    assert found.shape == (18, 64, 64)
    assert found[0, 0, 0] == pixels[32, 64] and found[-1, -1, -1] == pixels[96 + 63, 224 + 63]
    many = mini_mias.squares_of(pixels, np.ones_like(inside))
    assert len(many) == 40 and many[0, 0, 0] == 0 and many[-1, 0, 0] == pixels[448, 224]
    assert mini_mias.squares_of(pixels, np.zeros_like(inside)).shape == (0, 64, 64)


def test_patches_of_both_breasts_of_a_woman_stay_together_and_films_without_a_breast_are_told(films, tmp_path):
    rows, columns = np.mgrid[:1024, :1024]
    breast = ((rows - 500) / 420) ** 2 + (columns / 380) ** 2 < 1
    for number in range(1, 6):
        grey = np.where(breast, 90 + 20 * number + rows // 64, 3).astype(np.uint8)
        save(grey if number % 2 else grey[:, ::-1], films / f"mdb{number:03d}.pgm")
    cohort = imported("mini-mias-patches", films, tmp_path / "out")
    assert (cohort.task, cohort.labels, cohort.split_unit) == ("generation", (), "patient")
    assert sorted(len(found) for found in by_patient(cohort).values()) == [1, 2, 2]
    (told,) = left_out(cohort)
    assert told.startswith(pseudonym(KEY, "003", prefix="P")) and "no breast in it" in told
    for item in items(cohort):
        stack = cohorts.load_image(cohort, item)
        assert isinstance(stack, Volume) and 10 < stack.voxels.shape[1] <= 40 and stack.voxels.shape[2:] == (64, 64)
        assert stack.spacing_mm[1:] == pytest.approx((0.4, 0.4))
        assert stack.voxels.min() > 90


def test_two_films_in_a_row_are_of_one_woman_and_odd_ones_are_left(films, tmp_path):
    cohort = imported("mini-mias", films, tmp_path / "out")
    assert cohort.labels == ("normal", "benign", "malignant")
    assert {split: len(cohort.splits[split]) for split in cohorts.SPLITS} == dict.fromkeys(cohorts.SPLITS, 2)
    for woman, grey in (("001", 30), ("002", 90), ("003", 150)):
        left, right = by_patient(cohort)[pseudonym(KEY, woman, prefix="P")]
        for item, side, value in ((left, "L", grey), (right, "R", grey + 30)):
            view = cohorts.load_image(cohort, item)
            assert isinstance(view, Projection)
            assert (view.laterality, view.view, view.spacing_mm) == (side, "MLO", (0.2, 0.2))
            assert (view.pixels == value).all()


def test_the_gravest_finding_of_a_film_is_its_class_and_all_are_kept_with_rows_from_the_top(films, tmp_path):
    cohort = imported("mini-mias", films, tmp_path / "out")
    by_woman = {woman: by_patient(cohort)[pseudonym(KEY, woman, prefix="P")] for woman in ("001", "002", "003")}
    assert [[item.label for item in pair] for pair in by_woman.values()] == [[1, 0], [2, 0], [2, 0]]
    (circle,) = by_woman["001"][0].provenance["findings"]
    assert (circle["row"], circle["column"], circle["radius_px"]) == (1024 - 425, 535, 197)
    assert [finding["kind"] for finding in by_woman["002"][0].provenance["findings"]] == ["MISC", "SPIC"]
    (spread,) = by_woman["003"][0].provenance["findings"]
    assert (spread["kind"], spread["row"], spread["radius_px"]) == ("CALC", None, None)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, r"holds neither Info\.txt nor labels\.csv"),
        ("mdb001 G CIRC X 5 4 3\n", "film mdb001 has the finding CIRC of severity 'X', not B or M"),
        ("mdb001 G CIRC B a 4 3\n", "has a circle a 4 3 that is not three numbers"),
        ("mdb101 G NORM\n", r"holds no mdbNNN\.pgm of the 1 findings in its list"),
    ],
)
def test_a_list_of_films_of_another_form_is_a_sentence(films, tmp_path, text, sentence):
    (films / "Info.txt").unlink()
    if text:
        (films / "Info.txt").write_text(text)
    with pytest.raises(Rejected, match=sentence):
        imported("mini-mias", films, tmp_path / "out")


def test_real_films_have_the_classes_and_circles_of_their_table(test_data, tmp_path):
    source = test_data / "mammo-mias"
    cohort = imported("mini-mias", source, tmp_path / "out")
    assert Counter(cohort.labels[item.label] for item in items(cohort)) == {"normal": 16, "benign": 5, "malignant": 5}
    assert len(by_patient(cohort)) == 13
    with (source / "labels.csv").open() as table:
        rows = {row["file"]: row for row in csv.DictReader(table)}
    for film, findings in mini_mias.by_film(source).items():
        row = rows[f"{film}.pgm"]
        assert findings[0].circle == ((int(row["y_from_top"]), int(row["x"]), int(row["radius"])) if row["x"] else None)


# DDSM

ICS = """ics_version 1.0
filename {case}
DATE_OF_STUDY 2 7 1995
PATIENT_AGE 44
DENSITY 3
DIGITIZER LUMISYS LASER
SEQUENCE
LEFT_CC LINES 60 PIXELS_PER_LINE 40 BITS_PER_PIXEL 12 RESOLUTION 50 OVERLAY
RIGHT_MLO LINES 64 PIXELS_PER_LINE 44 BITS_PER_PIXEL 12 RESOLUTION 50 NON_OVERLAY
"""
OVERLAY = """TOTAL_ABNORMALITIES 1
ABNORMALITY 1
LESION_TYPE MASS SHAPE OVAL MARGINS CIRCUMSCRIBED
ASSESSMENT 4
SUBTLETY 3
PATHOLOGY {pathology}
TOTAL_OUTLINES 1
BOUNDARY
10 20 4 4 6 6 0 0 2 2 #
"""


@pytest.fixture
def cases(tmp_path) -> Path:
    """Three cases, cancers, benigns and one that was called back for nothing; 16-bit PNG of the originals."""
    source = tmp_path / "ddsm"
    pathologies = ("MALIGNANT", "BENIGN", "BENIGN_WITHOUT_CALLBACK")
    for number, pathology in enumerate(pathologies, start=1):
        folder = source / "cases" / f"case000{number}"
        save(np.full((60, 40), 1000 * number, np.uint16), folder / f"A_000{number}_1.LEFT_CC.png")
        save(np.full((32, 22), 7 * number, np.uint16), folder / f"A_000{number}_1.RIGHT_MLO.png")
        (folder / f"A_000{number}_1.LEFT_CC.LJPEG").write_bytes(b"\xff\xd8")
        (folder / f"A_000{number}_1.LEFT_CC.OVERLAY").write_text(OVERLAY.format(pathology=pathology))
        (folder / f"A-000{number}-1.ics").write_text(ICS.format(case=f"A-000{number}-1"))
    return source


def test_views_of_ddsm_have_the_class_of_their_overlay_and_normal_without_one(cases, tmp_path):
    cohort = imported("ddsm", cases, tmp_path / "out")
    for number, label in ((1, 2), (2, 1), (3, 1)):
        left, right = by_patient(cohort)[pseudonym(KEY, f"A-000{number}-1", prefix="P")]
        assert (left.label, right.label) == (label, 0)
        view = cohorts.load_image(cohort, left)
        assert (view.laterality, view.view) == ("L", "CC")
        assert (view.pixels == 1000 * number).all()


def test_a_ddsm_picture_has_the_scanners_spacing_only_in_the_scanners_size(cases, tmp_path):
    cohort = imported("ddsm", cases, tmp_path / "out")
    for left, right in by_patient(cohort).values():
        assert cohorts.load_image(cohort, left).spacing_mm == (0.05, 0.05)
        assert cohorts.load_image(cohort, right).spacing_mm is None


def test_ddsm_views_without_class_or_picture_are_left_out_and_named(cases, tmp_path):
    (cases / "cases" / "case0001" / "A_0001_1.LEFT_CC.OVERLAY").unlink()
    (cases / "cases" / "case0002" / "A_0002_1.LEFT_CC.OVERLAY").write_text(OVERLAY.format(pathology="UNPROVEN"))
    (cases / "cases" / "case0003" / "A_0003_1.LEFT_CC.png").unlink()
    cohort = imported("ddsm", cases, tmp_path / "out")
    assert len(items(cohort)) == 3
    assert "3 left out, see left_out.json" in cohort.description
    names = [pseudonym(KEY, f"A-000{number}-1", prefix="P") for number in (1, 2, 3)]
    assert left_out(cohort) == [
        f"{names[0]} LEFT_CC: its overlay is missing, so it has no class",
        f"{names[1]} LEFT_CC: its overlay tells the pathology UNPROVEN, so it has no class",
        f"{names[2]} LEFT_CC: it has no picture that can be read",
    ]


def test_originals_alone_are_refused_with_the_way_out(cases, tmp_path):
    for path in cases.rglob("*.png"):
        path.unlink()
    with pytest.raises(Rejected, match=r"holds 3 cases \(\.ics\), 3 LJPEG originals, which cannot be decoded, and no"):
        imported("ddsm", cases, tmp_path / "out")


def test_an_ics_line_without_its_numbers_is_a_sentence(cases, tmp_path):
    path = cases / "cases" / "case0002" / "A-0002-1.ics"
    path.write_text(path.read_text().replace("LINES 60", "LINES"))
    with pytest.raises(Rejected, match=r"A-0002-1\.ics: LEFT_CC LINES .* lacks LINES, PIXELS_PER_LINE or RESOLUTION"):
        ddsm.views_of(path)


# CBIS-DDSM

COLUMNS = (
    *("patient_id", "breast_density", "left or right breast", "image view", "abnormality id", "abnormality type"),
    *("assessment", "pathology", "subtlety", "image file path", "cropped image file path", "ROI mask file path"),
)


def dicom(pixels: np.ndarray, path: Path) -> Path:
    """As CBIS-DDSM has them: Secondary Capture of modality MG, without spacing."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = SecondaryCaptureImageStorage
    ds.SOPInstanceUID = f"2.25.{abs(hash(str(path))) % 10**20}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "2.25.661", "2.25.662"
    ds.Modality, ds.PatientID, ds.PatientOrientation = "MG", path.parts[-4], "CC"
    ds.Rows, ds.Columns = pixels.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.BitsAllocated = ds.BitsStored = 8 * pixels.dtype.itemsize
    ds.HighBit = ds.BitsStored - 1
    ds.PixelData = pixels.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    return path


def mammogram(seed: int, shape: tuple[int, int] = (90, 60)) -> np.ndarray:
    """Bright on the left, where the chest wall is."""
    rng = np.random.default_rng(seed)
    breast = np.linspace(40000, 0, shape[1])[None, :] * np.ones((shape[0], 1))
    return (breast + rng.integers(0, 500, shape)).astype(np.uint16)


def box(shape: tuple[int, int], row: int, column: int, side: int = 12) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    mask[row : row + side, column : column + side // 2] = 255
    return mask


class Cbis:
    """A data set under construction: findings are added, then the tables are written."""

    def __init__(self, root: Path) -> None:
        self.root, self.rows = root, defaultdict(list)

    def finding(
        self, number: int, *, kind: str = "Mass", half: str = "Training", view: str = "CC", lesion: int = 1,
        pathology: str = "BENIGN", mask: np.ndarray, swapped: bool = False, side: str = "LEFT",
    ) -> None:  # fmt: skip
        patient = f"P_{number:05d}"
        name = f"{kind}-{half}_{patient}_{side}_{view}"
        image = self.root / name / "07-20-2016-DDSM" / "1.000000-full mammogram images" / "1-1.dcm"
        if not image.exists():
            dicom(mammogram(number), image)
        files = ["1-1.dcm", "1-2.dcm"][:: -1 if swapped else 1]
        finding = self.root / f"{name}_{lesion}" / "07-21-2016-DDSM" / "1.000000-ROI mask images"
        dicom(mask, finding / files[0])
        dicom(mammogram(number)[20:44, 5:30], finding / files[1])
        uids = "1.3.6.1.4.1.9590.100.1.2.1/1.3.6.1.4.1.9590.100.1.2.2"  # of no file that is there, as in the tables
        row: dict[str, Any] = dict.fromkeys(COLUMNS, "3") | {
            "patient_id": patient,
            "left or right breast": side,
            "image view": view,
            "abnormality id": lesion,
            "pathology": pathology,
            "image file path": f"{name}/{uids}/000000.dcm",
            "cropped image file path": f"{name}_{lesion}/{uids}/000000.dcm",
            "ROI mask file path": f"{name}_{lesion}/{uids}/000001.dcm\n",
        }
        self.rows[f"{kind.lower()}_case_description_{'train' if half == 'Training' else 'test'}_set.csv"].append(row)

    def write(self) -> Path:
        for name, rows in self.rows.items():
            with (self.root / name).open("w", newline="") as file:
                table = csv.DictWriter(file, COLUMNS)
                table.writeheader()
                table.writerows(rows)
        return self.root


@pytest.fixture
def cbis(tmp_path) -> Cbis:
    """Four women: 1 has two findings in one view and one in another, 2 has files exchanged, 3 lies in both halves."""
    made = Cbis(tmp_path / "cbis")
    made.root.mkdir()
    full = (90, 60)
    made.finding(1, mask=box(full, 20, 5), pathology="BENIGN")
    made.finding(1, mask=box(full, 50, 30), lesion=2, pathology="MALIGNANT")
    made.finding(1, mask=box(full, 33, 8), view="MLO", pathology="MALIGNANT")
    made.finding(2, mask=box(full, 20, 8), swapped=True, pathology="BENIGN_WITHOUT_CALLBACK", side="RIGHT")
    made.finding(3, mask=box(full, 20, 8), kind="Mass", half="Training", pathology="BENIGN")
    made.finding(3, mask=box(full, 60, 40), kind="Calc", half="Test", pathology="MALIGNANT")
    made.finding(4, mask=box((180, 120), 40, 16, 24), pathology="MALIGNANT")
    return made


def test_views_of_cbis_are_classified_by_their_gravest_finding_and_split_by_woman(cbis, tmp_path):
    cohort = imported("cbis-ddsm", cbis.write(), tmp_path / "out")
    assert cohort.labels == ("benign", "malignant")
    women = {number: by_patient(cohort)[pseudonym(KEY, f"P_{number:05d}", prefix="P")] for number in (1, 2, 3, 4)}
    assert {number: [item.label for item in found] for number, found in women.items()} == {
        1: [1, 1],
        2: [0],
        3: [1],
        4: [1],
    }
    assert women[3][0].provenance["published_split"] == "test and train"
    assert all(len(cohort.splits[split]) for split in cohorts.SPLITS)
    view = cohorts.load_image(cohort, women[2][0])
    assert (view.laterality, view.view, view.breast_side) == ("R", "CC", "left")
    np.testing.assert_array_equal(view.pixels[0], mammogram(2))
    assert no_word_of(cohort, ["P_0000", "9590", "2.25."])


def test_masks_of_all_findings_of_a_view_lie_on_the_whole_mammogram(cbis, tmp_path):
    cohort = imported("cbis-ddsm-masks", cbis.write(), tmp_path / "out")
    assert (cohort.task, cohort.labels) == ("segmentation", ("background", "finding"))
    full = (90, 60)
    expected = {
        1: [box(full, 20, 5) | box(full, 50, 30), box(full, 33, 8)],
        2: [box(full, 20, 8)],  # though mask and cut-out were exchanged
        3: [box(full, 20, 8) | box(full, 60, 40)],  # from the tables of masses and of calcifications
        4: [box(full, 20, 8)],  # from a mask twice as large
    }
    for number, masks in expected.items():
        found = by_patient(cohort)[pseudonym(KEY, f"P_{number:05d}", prefix="P")]
        for item, mask in zip(found, masks, strict=True):
            np.testing.assert_array_equal(cohorts.load_mask(cohort, item).voxels, (mask > 0)[None])
    scaled = [item.provenance["transforms"] for item in items(cohort)]
    assert sorted(scaled)[-1] == ["mask scaled from 180 x 120 to 90 x 60"]
    assert sum(map(len, scaled)) == 1


def test_both_cbis_cohorts_have_the_same_women_in_the_same_splits(cbis, tmp_path):
    source = cbis.write()
    one, other = (imported(name, source, tmp_path / name) for name in ("cbis-ddsm", "cbis-ddsm-masks"))
    for split in cohorts.SPLITS:
        assert {item.patient for item in one.splits[split]} == {item.patient for item in other.splits[split]}


def test_a_view_with_a_mask_of_other_proportions_is_left_out_whole_and_named(cbis, tmp_path):
    cbis.finding(1, mask=box((91, 60), 20, 5), lesion=3)
    cohort = imported("cbis-ddsm-masks", cbis.write(), tmp_path / "out")
    (sentence,) = left_out(cohort)
    assert sentence == (
        f"{pseudonym(KEY, 'P_00001', prefix='P')} L CC: finding 3 has a mask of (91, 60) pixels, which has other "
        "proportions than the mammogram of (90, 60)"
    )
    (item,) = by_patient(cohort)[pseudonym(KEY, "P_00001", prefix="P")]
    assert cohorts.load_image(cohort, item).view == "MLO"
    assert no_word_of(cohort, ["P_0000"])
    assert len(items(imported("cbis-ddsm", cbis.root, tmp_path / "classes"))) == 5  # its class is known all the same


def test_a_data_set_of_which_nothing_can_be_used_is_a_sentence(cbis, tmp_path):
    source = cbis.write()
    for folder in source.glob("*_CC_1"):
        shutil.rmtree(folder)
    shutil.rmtree(source / "Mass-Training_P_00001_LEFT_MLO_1")
    with pytest.raises(Rejected, match=r"no image of 4 patients could be used; the first: P\w+ L CC: finding 1 has no"):
        imported("cbis-ddsm-masks", source, tmp_path / "out")


def test_a_finding_without_its_folder_and_one_with_two_masks_are_left_out(cbis, tmp_path):
    source = cbis.write()
    shutil.rmtree(source / "Mass-Training_P_00002_RIGHT_CC_1")
    dicom(box((90, 60), 1, 1), source / "Mass-Training_P_00004_LEFT_CC_1" / "x" / "y" / "1-3.dcm")
    told = left_out(imported("cbis-ddsm-masks", source, tmp_path / "out"))
    names = [pseudonym(KEY, f"P_0000{number}", prefix="P") for number in (2, 4)]
    assert told == [
        f"{names[0]} R CC: finding 1 has no folder, so the view's mask would lack it",
        f"{names[1]} L CC: finding 1 has 3 images, of which 2 have two values as a mask has",
    ]


def test_tables_without_images_and_images_without_tables_are_sentences(cbis, tmp_path):
    with pytest.raises(Rejected, match=r"holds no \*_case_description_\*_set\.csv; put the tables of CBIS-DDSM beside"):
        imported("cbis-ddsm", cbis.root, tmp_path / "out")
    source = cbis.write()
    for folder in source.glob("*_P_*"):
        shutil.rmtree(folder)
    with pytest.raises(Rejected, match="nor any other that its tables name; add images"):
        imported("cbis-ddsm", source, tmp_path / "out")


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("pathology", "truth", "has a row without pathology; give the table as TCIA has it"),
        ("MALIGNANT", "MAYBE", "has the pathology 'MAYBE'; known are BENIGN, BENIGN_WITHOUT_CALLBACK, MALIGNANT"),
    ],
)
def test_a_table_of_another_form_is_a_sentence(cbis, old, new, sentence):
    for table in cbis.write().glob("*.csv"):
        table.write_text(table.read_text().replace(old, new))
    with pytest.raises(Rejected, match=sentence):
        cbis_ddsm.findings_in(cbis.root)


# All of them


@pytest.mark.parametrize(
    "layout",
    [
        "idc-patches",
        "brain-tumour-folders",
        "brain-tumour-published",
        "mini-mias",
        "mini-mias-patches",
        "ddsm",
        "cbis-ddsm",
        "cbis-ddsm-masks",
    ],
)
def test_an_empty_folder_is_a_sentence(layout, tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(Rejected, match=r"in hold|in names"):
        imported(layout, tmp_path / "in", tmp_path / "out")


def test_fewer_than_three_patients_cannot_be_split(films, tmp_path):
    (films / "mdb005.pgm").unlink()
    (films / "mdb006.pgm").unlink()
    with pytest.raises(Rejected, match=r"images of 2 patient\(s\) were found; a split by patient needs at least 3"):
        imported("mini-mias", films, tmp_path / "out")
