"""Data sets of volumes, in small copies of their layouts: WMH challenge, PET with regions, NIfTI folders; real PET."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from dicom_io import cohort as cohorts
from dicom_io import nifti
from dicom_io.cohort import Cohort, Item
from dicom_io.errors import NotDicom, Rejected
from dicom_io.pseudonym import pseudonym
from dicom_io.volume import Volume
from samples.importers import IMPORTERS, nifti_folders, pet_regions
from samples.phantoms import write_patients

KEY = b"a key that only these tests know"
SHAPE = (7, 9, 5)  # columns, rows, slices, as NIfTI has them


def imported(layout: str, source: Path, out: Path) -> Cohort:
    out.mkdir(exist_ok=True)
    IMPORTERS[layout].read(source, out, KEY, lambda *_: None)
    return cohorts.load(out)


def items(cohort: Cohort) -> list[Item]:
    return [item for split in cohorts.SPLITS for item in cohort.splits[split]]


def of(cohort: Cohort, patient: str) -> list[Item]:
    return [item for item in items(cohort) if item.patient == pseudonym(KEY, patient, prefix="P")]


def affine(origin: float = 0.0) -> np.ndarray:
    """Oblique and anisotropic, RAS."""
    turned = Rotation.from_euler("zyx", (12, -20, 33), degrees=True).as_matrix() @ np.diag([0.9, 1.4, 3.0])
    return np.block([[turned, np.array([[origin - 30], [12], [55]])], [np.zeros((1, 3)), np.ones((1, 1))]])


def write(voxels: np.ndarray, path: Path, place: np.ndarray | None = None) -> np.ndarray:
    """voxels: (columns, rows, slices)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels, affine() if place is None else place), path)
    return voxels


def image(seed: int, path: Path, place: np.ndarray | None = None) -> np.ndarray:
    return write(np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32), path, place)


def labels(seed: int, path: Path, highest: int = 1, place: np.ndarray | None = None) -> np.ndarray:
    found = np.random.default_rng(seed).integers(0, highest + 1, SHAPE).astype(np.int16)
    found[0, 0, 0] = highest
    return write(found, path, place)


def turned(voxels: np.ndarray) -> np.ndarray:
    """(slices, rows, columns)."""
    return np.asarray(voxels, np.float32).T


# WMH challenge


@pytest.fixture
def wmh(tmp_path) -> tuple[Path, dict[str, dict[str, np.ndarray]]]:
    """Subjects of three sites, one of them with a folder for its scanner."""
    source, truth = tmp_path / "wmh", {}
    for seed, subject in enumerate(["Utrecht/0", "Singapore/50", "Amsterdam/GE3T/100"]):
        home = source / subject
        truth[subject] = {
            "T1": image(seed, home / "pre" / "T1.nii.gz"),
            "FLAIR": image(seed + 10, home / "pre" / "FLAIR.nii.gz"),
            "mask": labels(seed, home / "wmh.nii.gz", 2),
        }
        image(seed, home / "orig" / "T1.nii.gz", affine(5))
    return source, truth


def test_t1_and_flair_of_pre_come_with_the_lesions_and_other_pathology_is_background(wmh, tmp_path):
    source, truth = wmh
    cohort = imported("wmh-challenge", source, tmp_path / "out")
    assert [channel.contrast for channel in cohort.channels] == ["T1", "FLAIR"]
    assert cohort.labels == ("background", "white-matter lesion")
    assert all(len(cohort.splits[split]) == 1 for split in cohorts.SPLITS)
    for subject, known in truth.items():
        (item,) = of(cohort, subject)
        stacked, mask = cohorts.load_image(cohort, item), cohorts.load_mask(cohort, item)
        np.testing.assert_array_equal(stacked.voxels, [turned(known["T1"]), turned(known["FLAIR"])])
        np.testing.assert_array_equal(mask.voxels, turned(known["mask"] == 1))
        assert mask.same_grid_as(stacked)
        assert item.provenance["other_pathology_voxels"] == (known["mask"] == 2).sum()
        assert item.provenance["site"] == str(Path(subject).parent)


def test_a_volume_from_nifti_lies_where_the_file_says_in_lps(wmh, tmp_path):
    cohort = imported("wmh-challenge", wmh[0], tmp_path / "out")
    for item in items(cohort):
        place = cohorts.load_image(cohort, item).position_mm([2, 3, 4])
        np.testing.assert_allclose(place, (np.diag([-1, -1, 1, 1]) @ affine() @ [4, 3, 2, 1])[:3], atol=1e-4)


def test_different_subjects_are_not_comparable(wmh, tmp_path):
    cohort = imported("wmh-challenge", wmh[0], tmp_path / "out")
    one, other, _ = (cohorts.load_image(cohort, item) for item in items(cohort))
    assert one.frame_of_reference_uid != other.frame_of_reference_uid


def test_t1_on_another_grid_is_refused_and_not_resampled(wmh, tmp_path):
    source, _ = wmh
    image(3, source / "Singapore" / "50" / "pre" / "T1.nii.gz", affine(1))
    with pytest.raises(Rejected, match=r"Singapore/50/pre/T1\.nii\.gz has \(5, 9, 7\) voxels and is not on the grid"):
        imported("wmh-challenge", source, tmp_path / "out")


def test_a_file_that_is_no_nifti_is_a_sentence(wmh, tmp_path):
    source, _ = wmh
    (source / "Utrecht" / "0" / "pre" / "FLAIR.nii.gz").write_bytes(b"no")
    with pytest.raises(Rejected, match=r"FLAIR\.nii\.gz is no NIfTI image that can be read"):
        imported("wmh-challenge", source, tmp_path / "out")


# PET with regions


@pytest.fixture(scope="module")
def breasts(tmp_path_factory) -> Path:
    source = tmp_path_factory.mktemp("pet")
    write_patients("breast-pet", 3, source, seed=4)
    return source


def box(grid: Volume, number: int, low: tuple[int, int], high: tuple[int, int]) -> list[float]:
    """Contour Data around the voxels [low, high) of a slice."""
    (top, left), (bottom, right) = np.subtract(low, 0.5), np.subtract(high, 0.5)
    corners = [(top, left), (top, right), (bottom, right), (bottom, left)]
    return [round(float(x), 6) for row, column in corners for x in grid.position_mm([number, row, column])]


def structure_set(grid: Volume, regions: dict[str, list[float]], path: Path) -> None:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = RTStructureSetStorage, "2.25.551", "RTSTRUCT"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "2.25.552", "2.25.553"
    ds.StructureSetROISequence, ds.ROIContourSequence = [], []
    for number, (name, points) in enumerate(regions.items(), start=1):
        region, drawn, contour = Dataset(), Dataset(), Dataset()
        region.ROINumber, region.ROIName = number, name
        region.ReferencedFrameOfReferenceUID = grid.frame_of_reference_uid
        contour.ContourGeometricType, contour.ContourData = "CLOSED_PLANAR", points
        drawn.ReferencedROINumber, drawn.ContourSequence = number, [contour]
        ds.StructureSetROISequence.append(region)
        ds.ROIContourSequence.append(drawn)
    path.parent.mkdir(exist_ok=True)
    ds.save_as(path, enforce_file_format=True)


@pytest.fixture
def drawn(breasts, tmp_path) -> Path:
    """The phantoms with a structure set in place of the truth: two tumours, oedema, the heart."""
    source = tmp_path / "drawn"
    for home in sorted(breasts.iterdir()):
        shutil.copytree(home / "dicom", source / home.name / "PT")
        grid = pet_regions.pet(source / home.name).volume
        regions = {
            "GTV_left": box(grid, 3, (10, 12), (20, 30)),
            "lesion 2": box(grid, 5, (11, 13), (14, 15)),
            "GTV_Edema": box(grid, 3, (2, 2), (40, 40)),
            "Heart": box(grid, 1, (2, 2), (9, 9)),
        }
        structure_set(grid, regions, source / home.name / "RT" / "rs.dcm")
    return source


def test_regions_of_the_pattern_are_united_and_others_are_not_in_the_mask(drawn, tmp_path):
    cohort = imported("pet-rtstruct", drawn, tmp_path / "out")
    assert cohort.channels[0].units == "g/ml{SUVbw}"
    assert all(len(cohort.splits[split]) == 1 for split in cohorts.SPLITS)
    for item in items(cohort):
        pet, mask = cohorts.load_image(cohort, item), cohorts.load_mask(cohort, item)
        expected = np.zeros(pet.spatial_shape)
        expected[3, 10:20, 12:30] = expected[5, 11:14, 13:15] = 1
        np.testing.assert_array_equal(mask.voxels, expected)
        assert item.provenance["regions"] == ["GTV_left", "lesion 2"]
        assert np.flatnonzero(item.slice_labels).tolist() == [3, 5]


def test_another_pattern_takes_other_regions(drawn, tmp_path):
    home = next(iter(sorted(drawn.iterdir())))
    mask, names = pet_regions.region(home, pet_regions.pet(home).volume, "^heart$")
    assert (names, mask.voxels.sum()) == (["Heart"], 49)
    with pytest.raises(Rejected, match=r"has no region named liver; it has GTV_left, lesion 2, GTV_Edema, Heart"):
        pet_regions.region(home, pet_regions.pet(home).volume, "liver")


def test_without_a_structure_set_a_nifti_mask_is_the_region(breasts, tmp_path):
    cohort = imported("pet-rtstruct", breasts, tmp_path / "out")
    for home in sorted(breasts.iterdir()):
        (item,) = of(cohort, home.name)
        truth = nifti.read(home / "truth" / "mask.nii.gz")
        np.testing.assert_array_equal(cohorts.load_mask(cohort, item).voxels, truth.voxels)


def test_two_masks_of_one_patient_and_pet_without_any_are_sentences(breasts, tmp_path):
    source = shutil.copytree(breasts, tmp_path / "in")
    home = next(iter(sorted(source.iterdir())))
    shutil.copy(home / "truth" / "mask.nii.gz", home / "seg.nii.gz")
    with pytest.raises(Rejected, match="holds 2 structure sets or masks, and one is needed"):
        imported("pet-rtstruct", source, tmp_path / "out")
    for path in source.rglob("*.nii.gz"):
        path.unlink()
    with pytest.raises(Rejected, match=r"holds no PATIENT/ with PET and a structure set or a NIfTI mask"):
        imported("pet-rtstruct", source, tmp_path / "out")


def test_a_patient_without_pet_is_a_sentence(breasts, tmp_path):
    source = shutil.copytree(breasts, tmp_path / "in")
    shutil.rmtree(next(iter(sorted(source.iterdir()))) / "dicom")
    with pytest.raises(Rejected, match="must hold one PET volume, and it gave 0 PET volumes"):
        imported("pet-rtstruct", source, tmp_path / "out")


def test_an_image_that_ends_too_early_is_not_left_out_in_silence(drawn, tmp_path):
    path = sorted((next(iter(sorted(drawn.iterdir()))) / "PT").glob("*.dcm"))[0]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(NotDicom, match=path.name):
        imported("pet-rtstruct", drawn, tmp_path / "out")


def test_structure_sets_of_real_sarcomas_give_the_masks_that_were_published(test_data):
    for name in ("STS_003", "STS_011", "STS_020"):
        home = test_data / "pet-suv-sarcoma" / name
        volume = pet_regions.pet(home).volume
        mask, names = pet_regions.region(home, volume)
        published = nifti.mask_on(home / "PET_mask.nii.gz", volume)
        assert names == ["GTV_Mass_PET"]
        np.testing.assert_array_equal(mask.voxels, published.voxels)


def test_the_oedema_of_a_real_sarcoma_is_not_taken_for_the_tumour(test_data):
    home = test_data / "pet-fdg-raw" / "STS_001"
    mask, names = pet_regions.region(home, pet_regions.pet(home).volume)
    assert names == ["GTV_Mass"]
    assert mask.voxels.sum() > 100


# NIfTI folders


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["BRATS_001", "BRATS_002", "BRATS_010"], ["001", "002", "010"]),
        (["P01_scan1", "P01_scan2", "P02_scan1"], ["P01", "P01", "P02"]),
        (["case_7_a", "case_7_b", "case_8_a"], ["7", "7", "8"]),
        (["one", "two"], ["one", "two"]),
        (["one", "one_more"], ["one", "more"]),
    ],
)
def test_the_patient_is_the_first_part_of_the_name_in_which_names_differ(names, expected):
    assert [nifti_folders.patients(names)[name] for name in names] == expected


def test_images_and_masks_of_one_name_are_one_item_and_scans_of_one_patient_stay_together(tmp_path):
    truth = {}
    for seed, name in enumerate(["P1_a", "P1_b", "P2_a", "P3_a"]):
        truth[name] = (
            image(seed, tmp_path / "in" / "images" / f"{name}.nii.gz"),
            labels(seed, tmp_path / "in" / "masks" / f"{name}.nii.gz", 2),
        )
    cohort = imported("nifti-folder", tmp_path / "in", tmp_path / "out")
    assert (cohort.task, cohort.labels) == ("segmentation", ("background", "label 1", "label 2"))
    assert len(of(cohort, "P1")) == 2
    for voxels, mask in truth.values():
        (item,) = (
            item for item in items(cohort) if (cohorts.load_image(cohort, item).voxels[0] == turned(voxels)).all()
        )
        np.testing.assert_array_equal(cohorts.load_mask(cohort, item).voxels, turned(mask))


def test_images_alone_are_for_generators(tmp_path):
    for seed in range(3):
        image(seed, tmp_path / "in" / "images" / f"{seed}.nii")
    cohort = imported("nifti-folder", tmp_path / "in", tmp_path / "out")
    assert (cohort.task, cohort.labels, len(items(cohort))) == ("generation", (), 3)


def test_a_mask_that_is_turned_over_comes_back_on_the_images_voxels(tmp_path):
    flipped = affine() @ np.array([[-1, 0, 0, SHAPE[0] - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    masks = {}
    for seed in range(3):
        image(seed, tmp_path / "in" / "images" / f"{seed}.nii.gz")
        masks[str(seed)] = labels(seed, tmp_path / "in" / "labels" / f"{seed}.nii.gz", 1, flipped)
    cohort = imported("nifti-folder", tmp_path / "in", tmp_path / "out")
    for name, mask in masks.items():
        (item,) = of(cohort, name)
        np.testing.assert_array_equal(cohorts.load_mask(cohort, item).voxels, turned(mask[::-1]))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda at: (at / "masks" / "1.nii.gz").unlink(), "1 names, 1 the first, have an image or a mask and not both"),
        (
            lambda at: write(np.full(SHAPE, 0.5), at / "masks" / "1.nii.gz"),
            r"that are no label numbers, e\.g\. 0",
        ),
        (lambda at: labels(0, at / "masks" / "1.nii.gz", 1, affine(9)), r"the image \(5, 9, 7\) from .*; resample it"),
        (lambda at: write(np.zeros((*SHAPE, 2)), at / "images" / "1.nii.gz"), "has 4 axes, not 3"),
        (lambda at: shutil.rmtree(at / "images"), r"holds no images/\*\.nii\.gz; give the folder that holds images/"),
    ],
)
def test_a_folder_that_does_not_fit_together_is_a_sentence(tmp_path, change, sentence):
    for seed in range(3):
        image(seed, tmp_path / "in" / "images" / f"{seed}.nii.gz")
        labels(seed, tmp_path / "in" / "masks" / f"{seed}.nii.gz")
    change(tmp_path / "in")
    with pytest.raises(Rejected, match=sentence):
        imported("nifti-folder", tmp_path / "in", tmp_path / "out")


# nnU-Net

VERSION_2 = {"channel_names": {"0": "CT", "1": "FLAIR"}, "labels": {"background": 0, "liver": 1, "tumour": 2}}
VERSION_1 = {"modality": {"0": "CT", "1": "FLAIR"}, "labels": {"0": "background", "1": "liver", "2": "tumour"}}


def raw(folder: Path, about: dict[str, Any]) -> dict[str, tuple[np.ndarray, ...]]:
    truth = {}
    for seed in range(3):
        case = f"liver_{seed}"
        truth[str(seed)] = (
            image(seed, folder / "imagesTr" / f"{case}_0000.nii.gz"),
            image(seed + 9, folder / "imagesTr" / f"{case}_0001.nii.gz"),
            labels(seed, folder / "labelsTr" / f"{case}.nii.gz"),
        )
    (folder / "dataset.json").write_text(json.dumps(about))
    return truth


@pytest.mark.parametrize("about", [VERSION_1, VERSION_2], ids=["version 1", "version 2"])
def test_channels_and_labels_of_nnunet_keep_their_names(tmp_path, about):
    truth = raw(tmp_path / "in", about)
    cohort = imported("nnunet", tmp_path / "in", tmp_path / "out")
    assert cohort.labels == ("background", "liver", "tumour")  # though no mask holds 2
    assert [(channel.name, channel.modality, channel.units) for channel in cohort.channels] == [
        ("CT", "CT", "[hnsf'U]"),
        ("FLAIR", "MR", "1"),
    ]
    for patient, (ct, flair, mask) in truth.items():
        (item,) = of(cohort, patient)
        np.testing.assert_array_equal(cohorts.load_image(cohort, item).voxels, [turned(ct), turned(flair)])
        np.testing.assert_array_equal(cohorts.load_mask(cohort, item).voxels, turned(mask))


@pytest.mark.parametrize(
    ("about", "remove", "sentence"),
    [
        (VERSION_2, "dataset.json", r"there is no .*dataset\.json; give the data set's own folder"),
        ({"labels": {}}, "", "names no channels and labels as nnU-Net does"),
        (VERSION_2 | {"labels": {"whole": [1, 2]}}, "", "label 'whole' is a region of several numbers"),
        (
            VERSION_2,
            "imagesTr/liver_1_0001.nii.gz",
            r"imagesTr holds no liver_1_0001\.nii\.gz, and labelsTr has",
        ),
    ],
)
def test_an_nnunet_folder_of_another_form_is_a_sentence(tmp_path, about, remove, sentence):
    raw(tmp_path / "in", about)
    if remove:
        (tmp_path / "in" / remove).unlink()
    with pytest.raises(Rejected, match=sentence):
        imported("nnunet", tmp_path / "in", tmp_path / "out")


# MONAI data lists


def listed(folder: Path, document: Any, names: tuple[str, ...] = ("s_1", "s_2", "s_3", "s_4")) -> dict[str, np.ndarray]:
    truth = {name: image(seed, folder / "data" / f"{name}.nii.gz") for seed, name in enumerate(names)}
    for seed, name in enumerate(names):
        labels(seed, folder / "data" / f"{name}_seg.nii.gz")
    (folder / "datalist.json").write_text(json.dumps(document))
    return truth


def entry(name: str, label: Any = None, **more: Any) -> dict[str, Any]:
    return {"image": f"./data/{name}.nii.gz", "label": f"data/{name}_seg.nii.gz" if label is None else label, **more}


def test_a_data_list_with_one_labelled_list_is_split_by_patient_and_its_unlabelled_test_is_left(tmp_path):
    document = {"training": [entry("s_1"), entry("s_2"), entry("s_3")], "test": ["./data/s_4.nii.gz"]}
    truth = listed(tmp_path / "in", document)
    cohort = imported("monai-datalist", tmp_path / "in", tmp_path / "out")
    assert all(len(cohort.splits[split]) == 1 for split in cohorts.SPLITS)
    for number in "123":
        (item,) = of(cohort, number)
        np.testing.assert_array_equal(cohorts.load_image(cohort, item).voxels[0], turned(truth[f"s_{number}"]))
        assert cohorts.load_mask(cohort, item).voxels.max() == 1


def test_a_data_lists_own_split_is_kept(tmp_path):
    document = {"training": [entry("s_1"), entry("s_2")], "validation": [entry("s_4")], "test": [entry("s_3")]}
    listed(tmp_path / "in", document)
    cohort = imported("monai-datalist", tmp_path / "in" / "datalist.json", tmp_path / "out")
    where = {split: sorted(item.patient for item in cohort.splits[split]) for split in cohorts.SPLITS}
    names = {"training": ["1", "2"], "validation": ["4"], "test": ["3"]}
    assert where == {split: sorted(pseudonym(KEY, n, prefix="P") for n in found) for split, found in names.items()}


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_split_in_which_one_image_lies_twice_is_refused_where_patients_are_told_from_names(mirrored, tmp_path):
    folder = tmp_path / "in/data"
    folder.mkdir(parents=True)
    for number in range(4):
        voxels = gaussian_filter(np.random.default_rng(number).normal(size=(40, 36, 5)), (2, 2, 0)).astype(np.float32)
        if number == 3:  # the first one again
            voxels = nibabel.load(folder / "s_0.nii.gz").get_fdata(dtype=np.float32)
            voxels = voxels[::-1] if mirrored else voxels
        nibabel.save(nibabel.Nifti1Image(voxels, np.diag([1.0, 1.0, 3.0, 1.0])), folder / f"s_{number}.nii.gz")
    lists = {"training": [entry("s_0", 0), entry("s_1", 1)], "validation": [entry("s_2", 1)], "test": [entry("s_3", 0)]}
    (tmp_path / "in/datalist.json").write_text(json.dumps(lists))

    with pytest.raises(Rejected, match=r"show the same thing, such as .* in t.*; take one of each pair out"):
        imported("monai-datalist", tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out/datalist.json").exists()


def test_numbers_are_classes_and_several_images_are_channels(tmp_path):
    both = [["data/s_1.nii.gz", "data/s_2.nii.gz"], ["data/s_2.nii.gz", "data/s_3.nii.gz"], ["data/s_3.nii.gz"] * 2]
    document = {
        "training": [{"image": paths, "label": n % 2, "patient": f"Q{n}"} for n, paths in enumerate(both)],
        "labels": {"0": "well", "1": "ill"},
        "modality": {"0": "T1", "1": "PET"},
    }
    truth = listed(tmp_path / "in", document)
    cohort = imported("monai-datalist", tmp_path / "in", tmp_path / "out")
    assert (cohort.task, cohort.labels) == ("classification", ("well", "ill"))
    assert [channel.name for channel in cohort.channels] == ["T1", "PET"]
    (item,) = of(cohort, "Q1")
    assert item.label == 1
    np.testing.assert_array_equal(cohorts.load_image(cohort, item).voxels, [turned(truth["s_2"]), turned(truth["s_3"])])


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ([], "is a list, not an object with lists named training"),
        ({"training": []}, "has no entries in training, validation or test"),
        ({"training": [{"label": 1}]}, "has the image None, and not a path or a list of paths"),
        ({"training": [entry("s_1", "x"), entry("s_2", -1)]}, "has the label -1, and not a path or a number"),
        ({"training": [entry("s_1"), entry("s_2", 1)]}, "labelled with class and mask; give all of them one kind"),
        (
            {"training": [entry("s_1", patient="a")], "test": [entry("s_2", patient="a")]},
            "one patient lies in the lists test and training; split by patient",
        ),
        (
            {"training": [entry("s_9", 1), entry("s_8", 1), entry("s_7", 1)]},
            r"s_\d\.nii\.gz is no NIfTI image that",
        ),
    ],
)
def test_a_data_list_of_another_form_is_a_sentence(tmp_path, document, sentence):
    listed(tmp_path / "in", document)
    with pytest.raises(Rejected, match=sentence):
        imported("monai-datalist", tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize("layout", ["wmh-challenge", "pet-rtstruct", "nifti-folder", "nnunet", "monai-datalist"])
def test_an_empty_folder_is_a_sentence(layout, tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(Rejected, match=r"; give"):
        imported(layout, tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize("layout", ["wmh-challenge", "pet-rtstruct", "nifti-folder"])
def test_no_file_or_name_in_the_cohort_tells_the_sources_names(layout, wmh, breasts, tmp_path):
    source, words = {
        "wmh-challenge": (wmh[0], ["GE3T/100", "Utrecht/0"]),
        "pet-rtstruct": (breasts, ["PHANTOM", "2.25."]),
        "nifti-folder": (tmp_path / "plain", ["Meier", "Huber"]),
    }[layout]
    for seed, name in enumerate(["Meier", "Huber", "Bauer"]):
        image(seed, tmp_path / "plain" / "images" / f"{name}.nii.gz")
    cohort = imported(layout, source, tmp_path / "out")
    names = " ".join(str(path.relative_to(cohort.folder)) for path in cohort.folder.rglob("*"))
    text = "".join(path.read_text() for path in cohort.folder.rglob("*.json"))
    assert len(list(cohort.folder.rglob("*.json"))) > 3
    assert not [word for word in words if word in names + text]
