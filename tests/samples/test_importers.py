"""Data sets in their own layout become cohorts: split by patient, without identifiers, with the truth in its place."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from pydicom import dcmread

from dicom_io import cohort as cohorts
from dicom_io import nifti, series
from dicom_io.cohort import Cohort, Item
from dicom_io.errors import Rejected
from dicom_io.pseudonym import pseudonym
from dicom_io.volume import Projection, Volume
from samples.importers import IMPORTERS, pet_sarcoma
from samples.phantoms import KINDS, PhantomStudy, write_patients

KEY = b"a key that only these tests know"
PHANTOMS = {
    "brain-mr-phantoms": "brain-mr",
    "mammography-phantoms": "mammography",
    "breast-pet-phantoms": "breast-pet",
    "breast-pet-lesions": "breast-pet",
    "histology-phantoms": "histology",
}
Import = Callable[[str], Cohort]


@pytest.fixture(scope="module")
def patients(tmp_path_factory) -> dict[str, tuple[Path, list[PhantomStudy]]]:
    """Three patients of each kind: the fewest that a split by patient takes."""
    made = {}
    for kind in KINDS:
        folder = tmp_path_factory.mktemp(kind)
        made[kind] = (folder, write_patients(kind, 3, folder, seed=4))
    return made


@pytest.fixture(scope="module")
def imported(patients, tmp_path_factory) -> Import:
    """`imported("brain-mr-phantoms")`: the cohort, read back from its folder."""
    done: dict[str, Cohort] = {}

    def read(layout: str) -> Cohort:
        if layout not in done:
            out = tmp_path_factory.mktemp(layout)
            IMPORTERS[layout].read(patients[PHANTOMS[layout]][0], out, KEY, lambda *_: None)
            done[layout] = cohorts.load(out)
        return done[layout]

    return read


def items(cohort: Cohort) -> list[Item]:
    return [item for split in cohorts.SPLITS for item in cohort.splits[split]]


def study_of(item: Item, studies: list[PhantomStudy]) -> PhantomStudy:
    (study,) = (study for study in studies if pseudonym(KEY, study.patient_id, prefix="P") == item.patient)
    return study


# Phantoms


@pytest.mark.parametrize("layout", PHANTOMS)
def test_each_patient_is_in_one_split_and_every_split_has_one(layout, imported, patients):
    cohort = imported(layout)
    where = {split: {item.patient for item in cohort.splits[split]} for split in cohorts.SPLITS}
    assert [len(found) for found in where.values()] == [1, 1, 1]
    studies = patients[PHANTOMS[layout]][1]
    assert set().union(*where.values()) == {pseudonym(KEY, study.patient_id, prefix="P") for study in studies}


@pytest.mark.parametrize("layout", PHANTOMS)
def test_no_identifier_of_a_patient_and_no_uid_is_left_in_any_file_or_name(layout, imported, patients):
    cohort = imported(layout)
    words = set()
    for study in patients[PHANTOMS[layout]][1]:
        words |= {study.patient_id, study.study_uid}
        for path in study.files:
            ds = dcmread(path, stop_before_pixels=True)
            words |= {str(ds.SOPInstanceUID), str(ds.SeriesInstanceUID), str(ds.get("FrameOfReferenceUID", "none"))}
    words -= {""}
    files = [path for path in cohort.folder.rglob("*") if path.is_file()]
    assert len(files) > len(items(cohort))
    for path in files:
        text = str(path.relative_to(cohort.folder))
        text += path.read_text() if path.suffix == ".json" else repr(bytes(nibabel.load(path).header.binaryblock))
        assert not [word for word in words if word in text], path.name


@pytest.mark.parametrize("layout", PHANTOMS)
def test_phantoms_are_still_synthetic_as_cohorts(layout, imported):
    cohort = imported(layout)
    assert all(item.synthetic for item in items(cohort))
    assert all(cohorts.load_image(cohort, item).is_synthetic for item in items(cohort))


@pytest.mark.parametrize("layout", PHANTOMS)
def test_items_state_what_the_headers_state_of_scanner_sex_and_decade_of_age(layout, imported):
    for item in items(imported(layout)):
        assert set(item.groups) == {"scanner", "sex", "age"}
        assert item.groups["sex"] in ("F", "M") and " to " in item.groups["age"]


def test_the_brain_cohort_holds_t1_and_flair_in_this_order_and_the_lesions_where_they_are(imported, patients):
    cohort = imported("brain-mr-phantoms")
    assert [channel.contrast for channel in cohort.channels] == ["T1", "FLAIR"]
    assert (cohort.task, cohort.labels) == ("segmentation", ("background", "white-matter lesion"))
    for item in items(cohort):
        study = study_of(item, patients["brain-mr"][1])
        image, mask = cohorts.load_image(cohort, item), cohorts.load_mask(cohort, item)
        assert isinstance(image, Volume)
        assert mask.same_grid_as(image)
        for channel, name in enumerate(("t1", "flair")):
            files = [dcmread(path) for path in study.files if path.name.startswith(name)]
            places = np.array([ds.ImagePositionPatient for ds in files], float)
            for number in range(image.spatial_shape[0]):
                apart_mm = np.abs(places - image.position_mm([number, 0, 0])).max(axis=1)
                assert apart_mm.min() < 2e-3
                np.testing.assert_array_equal(
                    image.voxels[channel, number], files[int(np.argmin(apart_mm))].pixel_array
                )
        truth = nifti.read(study.mask_path)
        np.testing.assert_array_equal(mask.voxels, truth.voxels)
        np.testing.assert_allclose(mask.affine, truth.affine, atol=1e-3)
        # The lesions that the truth lists, at their own places in the patient.
        assert study.truth["lesions"]
        for lesion in study.truth["lesions"]:
            nearest = np.round(mask.index_at(lesion["centre_mm"])).astype(int)
            assert mask.voxels[tuple(slice(max(0, i - 2), i + 3) for i in nearest)].any()


def test_slices_of_breast_pet_are_labelled_as_the_truth_says(imported, patients):
    cohort = imported("breast-pet-lesions")
    assert cohort.labels == ("normal", "lesion")
    seen = 0
    for item in items(cohort):
        truth = study_of(item, patients["breast-pet"][1]).truth["slices_with_lesion"]
        assert np.flatnonzero(item.slice_labels).tolist() == truth
        image = cohorts.load_image(cohort, item)
        assert len(item.slice_labels) == image.spatial_shape[0]
        seen += len(truth)
    assert seen > 0
    assert any(not any(item.slice_labels) for item in items(cohort))  # the third patient is well


def test_pet_comes_in_suv_as_the_truth_knows_it(imported, patients):
    cohort = imported("breast-pet-phantoms")
    assert (cohort.task, cohort.labels) == ("generation", ())
    for item in items(cohort):
        assert (item.mask, item.slice_labels) == (None, ())
        known = nifti.read(study_of(item, patients["breast-pet"][1]).truth_folder / "suv.nii.gz")
        image = cohorts.load_image(cohort, item)
        assert image.units == "g/ml{SUVbw}"
        np.testing.assert_allclose(image.affine, known.affine, atol=1e-3)
        # With noise, but about the same everywhere.
        assert np.corrcoef(image.voxels.ravel(), known.voxels.ravel())[0, 1] > 0.9


def test_each_mammographic_view_is_an_item_with_the_class_of_that_view(imported, patients):
    cohort = imported("mammography-phantoms")
    assert (cohort.task, cohort.labels) == ("classification", ("normal", "lesion"))
    assert len(items(cohort)) == 12
    for item in items(cohort):
        image = cohorts.load_image(cohort, item)
        assert isinstance(image, Projection)
        study = study_of(item, patients["mammography"][1])
        (truth,) = (
            each
            for each in study.truth["images"]
            if (each["laterality"], each["view"]) == (image.laterality, image.view)
        )
        assert item.label == int(truth["label"] != "normal")
        ds = dcmread(study.dicom_folder / truth["file"])
        shown = ds.pixel_array if ds.PhotometricInterpretation == "MONOCHROME2" else 4095 - ds.pixel_array
        np.testing.assert_array_equal(image.pixels[0], shown)
    assert {item.label for item in items(cohort)} == {0, 1}


def test_the_same_key_gives_the_same_cohort_and_another_key_other_names(imported, patients, tmp_path):
    source = patients["breast-pet"][0]
    for name, key in (("same", KEY), ("other", b"another")):
        (tmp_path / name).mkdir()
        IMPORTERS["breast-pet-lesions"].read(source, tmp_path / name, key, lambda *_: None)
    first, same, other = (
        imported("breast-pet-lesions"),
        cohorts.load(tmp_path / "same"),
        cohorts.load(tmp_path / "other"),
    )
    assert same.data_hash == first.data_hash
    assert not {item.patient for item in items(other)} & {item.patient for item in items(first)}


def test_progress_counts_patients(patients, tmp_path):
    told = []
    IMPORTERS["breast-pet-phantoms"].read(patients["breast-pet"][0], tmp_path, KEY, lambda *state: told.append(state))
    assert told == [(0, 3, "patients"), (1, 3, "patients"), (2, 3, "patients"), (3, 3, "patients")]


# What is refused


def test_fewer_than_three_patients_cannot_be_split(patients, tmp_path):
    source = patients["breast-pet"][0]
    for name in sorted(path.name for path in source.iterdir())[:2]:
        shutil.copytree(source / name, tmp_path / "in" / name)
    with pytest.raises(Rejected, match=r"holds 2 PATIENT/dicom/ folders; a split by patient needs at least 3"):
        IMPORTERS["breast-pet-phantoms"].read(tmp_path / "in", tmp_path, KEY, lambda *_: None)


@pytest.mark.parametrize(
    ("layout", "kind", "sentence"),
    [
        ("brain-mr-phantoms", "breast-pet", r"must hold T1 and FLAIR of the brain, and it holds neither"),
        ("breast-pet-phantoms", "brain-mr", r"must hold one series of images, and it gave 2 volumes"),
        ("mammography-phantoms", None, r"has no truth/truth\.json; make phantoms with"),
        ("breast-pet-lesions", None, r"has no truth/mask\.nii\.gz; make phantoms with"),
        ("pet-sarcoma", "breast-pet", r"holds no PATIENT/PET/ beside PATIENT/PET_mask\.nii\.gz; give the data set's"),
    ],
)
def test_a_folder_of_another_layout_is_a_sentence(layout, kind, sentence, patients, tmp_path):
    source = patients[kind or PHANTOMS[layout]][0]
    if kind is None:
        source = shutil.copytree(source, tmp_path / "in")
        for truth in source.glob("*/truth"):
            shutil.rmtree(truth)
    (tmp_path / "out").mkdir()
    with pytest.raises(Rejected, match=sentence):
        IMPORTERS[layout].read(source, tmp_path / "out", KEY, lambda *_: None)


def test_a_view_that_the_truth_does_not_know_is_a_sentence(patients, tmp_path):
    source = shutil.copytree(patients["mammography"][0], tmp_path / "in")
    for path in source.glob("*/truth/truth.json"):
        truth = json.loads(path.read_text())
        truth["images"] = truth["images"][:-1]
        path.write_text(json.dumps(truth))
    with pytest.raises(Rejected, match=r"truth\.json says nothing about instance 2\.25\.\d+; make the phantoms anew"):
        IMPORTERS["mammography-phantoms"].read(source, tmp_path, KEY, lambda *_: None)


# Real PET of sarcomas


@pytest.fixture(scope="module")
def sarcoma(test_data) -> Path:
    return test_data / "pet-suv-sarcoma"


@pytest.fixture(scope="module")
def whole(sarcoma, tmp_path_factory) -> Cohort:
    """All patients, as `mirall cohort import pet-sarcoma-slices` takes them."""
    out = tmp_path_factory.mktemp("sarcoma")
    IMPORTERS["pet-sarcoma-slices"].read(sarcoma, out, KEY, lambda *_: None)
    return cohorts.load(out)


def test_labels_of_real_slices_are_those_of_the_published_table(whole, sarcoma):
    with (sarcoma / "slice_labels.csv").open() as table:
        rows = list(csv.DictReader(table))
    patients = {row["patient"] for row in rows}
    assert {item.patient for item in items(whole)} == {pseudonym(KEY, patient, prefix="P") for patient in patients}
    for patient in patients:
        (item,) = (item for item in items(whole) if item.patient == pseudonym(KEY, patient, prefix="P"))
        image, mask = cohorts.load_image(whole, item), cohorts.load_mask(whole, item)
        mine = [row for row in rows if row["patient"] == patient]
        heights = np.array([float(row["z_mm"]) for row in mine])
        assert len(item.slice_labels) == len(mine) == image.spatial_shape[0]
        for number, label in enumerate(item.slice_labels):
            # By position: the table may count slices the other way, and its heights are rounded one by one.
            apart_mm = np.abs(heights - image.position_mm([number, 0, 0])[2])
            assert apart_mm.min() < 0.2 * image.spacing_mm[0]
            row = mine[int(np.argmin(apart_mm))]
            assert label == int(row["tumour"])
            assert int(mask.voxels[number].sum()) == int(row["tumour_voxels"])
            assert float(image.voxels[0, number].max()) == pytest.approx(float(row["suv_max_slice"]), abs=2e-3)
        assert 0 < sum(item.slice_labels) < len(mine)


def test_no_real_patient_is_named_in_the_cohort(whole):
    listing = (whole.folder / "datalist.json").read_text()
    names = "".join(path.name for path in whole.folder.rglob("*"))
    sidecars = "".join(path.read_text() for path in whole.folder.glob("images/*.json"))
    assert "STS_" not in listing + names + sidecars
    assert "1.3.6.1.4.1.14519" not in listing + sidecars  # the root of the archive's UIDs


def test_real_patients_are_split_four_three_and_the_rest_the_same_for_both_tasks(sarcoma, monkeypatch):
    named = []
    monkeypatch.setattr(
        pet_sarcoma, "cohort_of", lambda source, out, key, splits, task, progress: named.append((task, splits))
    )
    pet_sarcoma.masks(sarcoma, Path(), KEY, lambda *_: None)
    pet_sarcoma.slices(sarcoma, Path(), KEY, lambda *_: None)
    (first, splits), (second, same) = named
    assert (first, second) == ("segmentation", "classification")
    assert splits == same
    assert sorted(splits) == pet_sarcoma.patients_in(sarcoma)
    counted = [list(splits.values()).count(split) for split in ("test", "validation", "training")]
    assert counted == [4, 3, len(splits) - 7]


def test_a_folder_of_two_series_is_not_one_volume(patients):
    source = patients["brain-mr"][1][0].dicom_folder
    assert len(series.volumes([source]).volumes) == 2
    with pytest.raises(Rejected, match="must hold one series of images, and it gave 2 volumes"):
        pet_sarcoma.only_series(source)


def test_a_folder_without_images_says_why(tmp_path):
    (tmp_path / "notes.txt").write_text("no DICOM")
    with pytest.raises(Rejected, match="must hold one series of images, and it gave 0 volumes"):
        pet_sarcoma.only_series(tmp_path)
