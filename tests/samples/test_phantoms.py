"""Phantoms are valid DICOM, a function of their seed, and hold what their truth says."""

from __future__ import annotations

import hashlib
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from scipy import ndimage

from dicom_io import magnetic_resonance, nifti, series, slide_segmentation
from dicom_io.mammography import projection
from dicom_io.slide import Slide
from samples.phantoms import (
    KINDS,
    Kind,
    PhantomStudy,
    brain_mr,
    breast_pet,
    histology,
    idc_layout,
    mammography,
    read,
    stain,
    tissue,
    write_patients,
)

# dciodvfy of 2022 is older than Synthetic Data (0008,001C), which came with CP-2024; it knows no later attribute.
UNKNOWN_TO_DCIODVFY = "recognized standard attribute - (0x0008,0x001c)"


@pytest.fixture(scope="module")
def patients(tmp_path_factory: pytest.TempPathFactory) -> dict[Kind, list[PhantomStudy]]:
    """Three patients of each kind."""
    folder = tmp_path_factory.mktemp("phantoms")
    return {kind: write_patients(kind, 3, folder, seed=7) for kind in KINDS}


@pytest.fixture(scope="module")
def without_noise(tmp_path_factory: pytest.TempPathFactory) -> PhantomStudy:
    return breast_pet.study(11, tmp_path_factory.mktemp("pet"), lesions=True, noise=False)


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def of_series(study: PhantomStudy, name: str) -> list[Dataset]:
    """One series, ordered along the normal of its slices."""
    found = [dcmread(path) for path in study.files if path.name.startswith(name)]
    return sorted(found, key=lambda ds: float(np.dot(ds.ImagePositionPatient, normal(ds))))


def normal(ds: Dataset) -> np.ndarray:
    return np.cross(ds.ImageOrientationPatient[:3], ds.ImageOrientationPatient[3:])


def errors(program: str, path: Path) -> list[str]:
    said = subprocess.run([program, str(path)], capture_output=True, text=True, check=False)
    return [line for line in (said.stdout + said.stderr).splitlines() if line.startswith("Error")]


@pytest.mark.parametrize("kind", KINDS)
def test_a_validator_finds_no_error_in_any_object(
    kind: Kind, patients: dict[Kind, list[PhantomStudy]], needs: Callable[[str], str]
) -> None:
    program = needs("dciodvfy")
    for study in patients[kind]:
        for path in study.files:
            assert [line for line in errors(program, path) if UNKNOWN_TO_DCIODVFY not in line] == [], path.name


@pytest.mark.parametrize("kind", KINDS)
def test_a_validator_finds_no_error_at_all_in_a_phantom_that_stands_for_an_acquired_study(
    kind: Kind, tmp_path: Path, needs: Callable[[str], str]
) -> None:
    program = needs("dciodvfy")
    (study,) = write_patients(kind, 1, tmp_path, seed=2, synthetic=False)
    for path in study.files[:: max(1, len(study.files) // 8)]:
        assert errors(program, path) == [], path.name


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_bytes(
    kind: Kind, patients: dict[Kind, list[PhantomStudy]], tmp_path: Path
) -> None:
    (again,) = write_patients(kind, 1, tmp_path, seed=7)
    assert contents(again.folder) == contents(patients[kind][0].folder)


@pytest.mark.parametrize("kind", KINDS)
def test_patients_share_no_uid_and_no_pixels(kind: Kind, patients: dict[Kind, list[PhantomStudy]]) -> None:
    datasets = [dcmread(path) for study in patients[kind] for path in study.files]
    assert max(Counter(ds.SOPInstanceUID for ds in datasets).values()) == 1
    assert len({ds.StudyInstanceUID for ds in datasets}) == len({ds.PatientID for ds in datasets}) == 3
    assert max(Counter(hashlib.sha256(ds.PixelData).hexdigest() for ds in datasets).values()) == 1
    assert all(ds.SOPInstanceUID.startswith("2.25.") and len(ds.SOPInstanceUID) <= 64 for ds in datasets)


@pytest.mark.parametrize("kind", KINDS)
def test_patients_differ_in_size_and_no_picture_is_square(kind: Kind, patients: dict[Kind, list[PhantomStudy]]) -> None:
    headers = [dcmread(study.files[0], stop_before_pixels=True) for study in patients[kind]]
    # Rows and columns of a slide are those of its tiles.
    whole = "TotalPixelMatrix" if kind == "histology" else ""
    sizes = [(ds[f"{whole}Rows"].value, ds[f"{whole}Columns"].value) for ds in headers]
    assert len(set(sizes)) > 1
    assert all(rows != columns for rows, columns in sizes)


@pytest.mark.parametrize("kind", KINDS)
def test_phantoms_say_that_they_are_synthetic_unless_asked_not_to(
    kind: Kind, patients: dict[Kind, list[PhantomStudy]], tmp_path: Path
) -> None:
    (silent,) = write_patients(kind, 1, tmp_path, seed=7, synthetic=False)
    says, says_not = dcmread(patients[kind][0].files[0]), dcmread(silent.files[0])
    assert says.SyntheticData == "YES"
    assert says.ContributingEquipmentSequence[0].PurposeOfReferenceCodeSequence[0].CodeValue == "109100"
    assert "SyntheticData" not in says_not
    assert "ContributingEquipmentSequence" not in says_not
    assert says_not.PatientID.startswith("PHANTOM-")
    assert says_not.SOPInstanceUID != says.SOPInstanceUID
    assert says_not.PixelData == says.PixelData


@pytest.mark.parametrize("kind", KINDS)
def test_a_study_read_back_is_the_study_that_was_written(kind: Kind, patients: dict[Kind, list[PhantomStudy]]) -> None:
    written = patients[kind][1]
    found = read(written.folder)
    assert found.truth == written.truth
    assert (found.kind, found.seed, found.study_uid) == (written.kind, written.seed, written.study_uid)
    assert set(found.files) == set(written.files)


def test_a_wrong_request_says_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="brain-mr, breast-pet, mammography, histology"):
        write_patients("knee-ct", 1, tmp_path)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="1001 patients"):
        write_patients("mammography", 1001, tmp_path)
    with pytest.raises(ValueError, match="seed -1 is negative"):
        brain_mr.study(-1, tmp_path)
    assert list(tmp_path.iterdir()) == []


# Geometry


@pytest.mark.parametrize("kind", ["brain-mr", "breast-pet"])
def test_the_mask_lies_on_the_grid_of_the_images_as_a_reader_finds_it(
    kind: Kind, patients: dict[Kind, list[PhantomStudy]]
) -> None:
    for study in patients[kind]:
        mask = nifti.read(study.mask_path)
        readout = series.volumes([study.dicom_folder])
        assert readout.refused == ()
        assert len(readout.volumes) == (2 if kind == "brain-mr" else 1)
        assert all(found.volume.same_grid_as(mask, tolerance_mm=1e-3) for found in readout.volumes)
        assert mask.sources in [found.volume.sources for found in readout.volumes]
        assert mask.is_synthetic
        assert np.flatnonzero(mask.voxels.any(axis=(1, 2))).tolist() == study.truth["slices_with_lesion"]


def test_brain_slices_are_oblique_about_two_axes_and_anisotropic(patients: dict[Kind, list[PhantomStudy]]) -> None:
    for study in patients["brain-mr"]:
        ds = dcmread(study.files[0])
        row, column = np.array(ds.ImageOrientationPatient).reshape(2, 3)
        assert abs(row @ column) < 1e-6
        np.testing.assert_allclose([row @ row, column @ column], 1, atol=1e-6)
        assert np.degrees(np.arccos(normal(ds)[2])) > 3
        assert np.abs(normal(ds)[:2]).min() > 0.01
        down, across = ds.PixelSpacing
        assert len({round(float(step), 2) for step in (down, across, ds.SpacingBetweenSlices)}) == 3


# Brain MR


def test_both_contrasts_are_recognised_and_share_one_grid(patients: dict[Kind, list[PhantomStudy]]) -> None:
    for study in patients["brain-mr"]:
        t1, flair = of_series(study, "t1"), of_series(study, "flair")
        assert {magnetic_resonance.contrast(ds) for ds in t1} == {"T1"}
        assert {magnetic_resonance.contrast(ds) for ds in flair} == {"FLAIR"}
        assert [ds.ImagePositionPatient for ds in t1] == [ds.ImagePositionPatient for ds in flair]
        assert t1[0].FrameOfReferenceUID == flair[0].FrameOfReferenceUID


def test_instance_numbers_of_flair_run_against_the_normal(patients: dict[Kind, list[PhantomStudy]]) -> None:
    numbers = [int(ds.InstanceNumber) for ds in of_series(patients["brain-mr"][0], "flair")]
    assert numbers == sorted(numbers, reverse=True)


def test_lesions_are_bright_on_flair_and_dark_on_t1_where_the_mask_says(
    patients: dict[Kind, list[PhantomStudy]],
) -> None:
    for study in patients["brain-mr"]:
        inside = nifti.read(study.mask_path).voxels > 0
        around = ndimage.binary_dilation(inside, np.ones((1, 5, 5)), iterations=2)
        around &= ~ndimage.binary_dilation(inside, np.ones((3, 3, 3)))
        flair = np.stack([ds.pixel_array for ds in of_series(study, "flair")])
        t1 = np.stack([ds.pixel_array for ds in of_series(study, "t1")])
        assert inside.sum() > 50
        assert np.median(flair[inside]) > 1.35 * np.median(flair[around])
        assert np.median(t1[inside]) < 0.95 * np.median(t1[around])


def test_lesion_volumes_of_the_truth_add_up_to_at_least_the_mask(patients: dict[Kind, list[PhantomStudy]]) -> None:
    for study in patients["brain-mr"]:
        mask = nifti.read(study.mask_path)
        masked_ml = float(mask.voxels.sum() * np.prod(mask.spacing_mm) / 1000)
        # Lesions that grew together are counted in each.
        listed_ml = sum(lesion["volume_ml"] for lesion in study.truth["lesions"])
        assert masked_ml * 0.98 <= listed_ml < masked_ml * 1.6
        for lesion in study.truth["lesions"]:
            nearest = np.round(mask.index_at(lesion["centre_mm"])).astype(int)
            assert mask.voxels[tuple(slice(max(0, i - 2), i + 3) for i in nearest)].any()


# Breast PET


def seconds(time: str) -> int:
    return 3600 * int(time[:2]) + 60 * int(time[2:4]) + int(time[4:6])


def suv_per_bq_ml(ds: Dataset, *, decayed: bool = True) -> float:
    """Weight in g / dose in Bq, decayed from injection to the start of the series: the closed formula, by hand."""
    isotope = ds.RadiopharmaceuticalInformationSequence[0]
    waited_s = seconds(ds.SeriesTime) - seconds(isotope.RadiopharmaceuticalStartTime) if decayed else 0
    dose_bq = isotope.RadionuclideTotalDose * 2 ** (-waited_s / isotope.RadionuclideHalfLife)
    return float(ds.PatientWeight) * 1000 / float(dose_bq)


def test_known_suv_comes_back_from_the_stored_values_within_rounding(without_noise: PhantomStudy) -> None:
    known = nifti.read(without_noise.truth_folder / "suv.nii.gz")
    assert known.units == "g/ml{SUVbw}"
    for ds, expected in zip(of_series(without_noise, "pt"), known.voxels, strict=True):
        half_a_step = 0.5 * float(ds.RescaleSlope) * suv_per_bq_ml(ds)
        suv = ds.pixel_array * float(ds.RescaleSlope) * suv_per_bq_ml(ds)
        assert np.abs(suv - expected).max() <= half_a_step * 1.001


@pytest.mark.parametrize("decay_correction", ["START", "ADMIN"])
def test_the_reader_finds_the_known_suv_whichever_moment_decay_is_corrected_to(
    decay_correction: str, tmp_path: Path
) -> None:
    study = breast_pet.study(4, tmp_path, lesions=True, noise=False, decay_correction=decay_correction)  # type: ignore[arg-type]
    known = nifti.read(study.truth_folder / "suv.nii.gz")
    (found,) = series.volumes([study.dicom_folder]).volumes
    assert found.volume.units == known.units
    np.testing.assert_allclose(found.volume.voxels, known.voxels, atol=2e-4)


def test_each_pet_slice_has_a_slope_of_its_own_and_uses_the_whole_range(
    patients: dict[Kind, list[PhantomStudy]],
) -> None:
    for study in patients["breast-pet"]:
        datasets = of_series(study, "pt")
        assert len({ds.RescaleSlope for ds in datasets}) == len(datasets)
        assert all(abs(int(ds.pixel_array.max()) - 32767) <= 1 for ds in datasets)


def test_a_large_lesion_shows_the_suv_that_was_put_in_and_a_small_one_less(tmp_path: Path) -> None:
    lesions = [
        lesion
        for seed in range(8)
        for lesion in breast_pet.study(seed, tmp_path, lesions=True, noise=False).truth["lesions"]
    ]
    large = [lesion["suv_max_seen"] / lesion["suv"] for lesion in lesions if lesion["diameter_mm"] > 19]
    small = [lesion["suv_max_seen"] / lesion["suv"] for lesion in lesions if lesion["diameter_mm"] < 12]
    assert len(large) >= 4
    assert len(small) >= 2
    assert 0.97 < min(large) <= max(large) < 1.03
    assert max(small) < 0.95


def test_counting_noise_leaves_the_mean_and_its_variance_grows_with_the_activity(tmp_path: Path) -> None:
    study = breast_pet.study(3, tmp_path, lesions=False)
    known = nifti.read(study.truth_folder / "suv.nii.gz").voxels
    (found,) = series.volumes([study.dicom_folder]).volumes
    error = found.volume.voxels - known
    low, high = (known > 0.3) & (known < 0.6), (known > 1.4) & (known < 2.6)
    assert abs(error[high].mean() / known[high].mean()) < 0.02
    assert 0.05 < error[high].std() / known[high].mean() < 0.4
    variances, means = (np.array([part[low].mean(), part[high].mean()]) for part in (error**2, known))
    assert variances[1] / variances[0] == pytest.approx(means[1] / means[0], rel=0.15)


def test_hot_lesions_stand_out_of_the_breast_they_are_said_to_be_in(patients: dict[Kind, list[PhantomStudy]]) -> None:
    with_lesions = [study for study in patients["breast-pet"] if study.truth["lesions"]]
    assert len(with_lesions) == 2
    for study in with_lesions:
        mask = nifti.read(study.mask_path)
        (found,) = series.volumes([study.dicom_folder]).volumes
        middle = found.volume.position_mm([0, 0, (mask.spatial_shape[2] - 1) / 2])[0]
        labels, count = ndimage.label(mask.voxels)
        assert count == len(study.truth["lesions"])
        for lesion in study.truth["lesions"]:
            x = lesion["centre_mm"][0]
            assert lesion["side"] == ("L" if x > middle else "R")
            index = tuple(np.round(mask.index_at(lesion["centre_mm"])).astype(int))
            assert labels[index] > 0
            assert found.volume.voxels[index] > 0.5 * lesion["suv"]


def test_lesions_change_the_activity_only_around_them(tmp_path: Path) -> None:
    ill, well = (
        breast_pet.study(6, tmp_path / str(lesions), lesions=lesions, noise=False) for lesions in (True, False)
    )
    mask, with_lesions = nifti.read(ill.mask_path), nifti.read(ill.truth_folder / "suv.nii.gz")
    added = with_lesions.voxels - nifti.read(well.truth_folder / "suv.nii.gz").voxels
    # The scanner's resolution spreads them over three more voxels at most.
    near = ndimage.binary_dilation(mask.voxels > 0, np.ones((3, 3, 3)), iterations=4)
    assert added[mask.voxels > 0].min() > 0.3
    assert np.abs(added[~near]).max() < 0.02


def test_a_pet_patient_without_lesion_has_an_empty_mask(patients: dict[Kind, list[PhantomStudy]]) -> None:
    control = patients["breast-pet"][2]
    assert control.truth["lesions"] == control.truth["slices_with_lesion"] == []
    assert not nifti.read(control.mask_path).voxels.any()


def test_the_second_bed_position_starts_later_and_its_reference_time_says_so(without_noise: PhantomStudy) -> None:
    datasets = of_series(without_noise, "pt")
    starts = [seconds(ds.AcquisitionTime) - seconds(ds.SeriesTime) for ds in datasets]
    assert starts == sorted(starts)
    assert len(set(starts)) == 2
    for ds, start in zip(datasets, starts, strict=True):
        into_frame_s = float(ds.FrameReferenceTime) / 1000 - start
        # A little before the middle, since activity falls.
        assert 0.49 < into_frame_s / (float(ds.ActualFrameDuration) / 1000) < 0.5


# Mammography


def picture(study: PhantomStudy, image: dict[str, object]) -> Dataset:
    return dcmread(study.dicom_folder / str(image["file"]))


def test_four_views_have_their_chest_wall_where_convention_and_header_say(
    patients: dict[Kind, list[PhantomStudy]],
) -> None:
    for study in patients["mammography"]:
        assert [(image["laterality"], image["view"]) for image in study.truth["images"]] == list(mammography.VIEWS)
        for image in study.truth["images"]:
            ds = picture(study, image)
            found = projection(ds, "")
            assert (found.laterality, found.view) == (image["laterality"], image["view"])
            wall = {"R": "right", "L": "left"}[found.laterality]
            # Rows run to the back (P) where the chest wall is on the right, to the front (A) where it is on the left.
            assert ds.PatientOrientation[0] == {"right": "P", "left": "A"}[wall]
            towards = {"CC": "", "MLO": "F"}[found.view] + {"R": "L", "L": "R"}[found.laterality]
            assert ds.PatientOrientation[1] == towards
            assert found.breast_side == wall
            columns = found.pixels.mean(axis=0)
            at_wall, at_front = columns[:20].mean(), columns[-20:].mean()
            assert (at_wall > 5 * at_front) == (wall == "left")
            assert found.spacing_of == "imager"
            assert found.spacing_mm is not None
            assert 0.4 < found.spacing_mm[0] < 0.5


def test_monochrome1_is_the_same_picture_upside_down_in_brightness(tmp_path: Path) -> None:
    bright, dark = (
        mammography.study(5, tmp_path / kind, finding="mass", photometric=kind)
        for kind in ("MONOCHROME2", "MONOCHROME1")  # type: ignore[arg-type]
    )
    for one, other in zip(bright.files, dark.files, strict=True):
        a, b = dcmread(one), dcmread(other)
        assert (a.PhotometricInterpretation, a.PresentationLUTShape) == ("MONOCHROME2", "IDENTITY")
        assert (b.PhotometricInterpretation, b.PresentationLUTShape) == ("MONOCHROME1", "INVERSE")
        assert a.SOPInstanceUID != b.SOPInstanceUID
        np.testing.assert_array_equal(a.pixel_array.astype(int) + b.pixel_array, 4095)
        np.testing.assert_array_equal(projection(a, "").pixels, projection(b, "").pixels)


@pytest.mark.parametrize("finding", ["mass", "calcification"])
@pytest.mark.parametrize("seed", [3, 8])
def test_a_finding_changes_the_picture_only_where_the_truth_says(
    finding: mammography.Finding, seed: int, tmp_path: Path
) -> None:
    ill = mammography.study(seed, tmp_path / "ill", finding=finding)
    well = mammography.study(seed, tmp_path / "well", finding="normal")
    assert [image["label"] for image in ill.truth["images"]].count(finding) == 2
    for image, control in zip(ill.truth["images"], well.truth["images"], strict=True):
        added = picture(ill, image).pixel_array.astype(int) - picture(well, control).pixel_array
        if image["label"] == "normal":
            assert not added.any()
            continue
        row, column = image["centre_px"]
        rows, columns = np.indices(added.shape)
        distance = np.hypot(rows - row, columns - column) / image["radius_px"]
        assert added.min() >= 0
        assert not added[distance > 2.5].any()
        assert added[distance < 1].max() > 300
        weight = added / added.sum()
        assert np.hypot((weight * rows).sum() - row, (weight * columns).sum() - column) < 0.5 * image["radius_px"]


def test_a_finding_is_as_far_from_the_nipple_in_both_views(patients: dict[Kind, list[PhantomStudy]]) -> None:
    ill = patients["mammography"][0]
    shown = [image for image in ill.truth["images"] if image["label"] == "mass"]
    assert [image["view"] for image in shown] == ["CC", "MLO"]
    assert len({image["laterality"] for image in shown}) == 1
    assert shown[0]["centre_px"][1] == pytest.approx(shown[1]["centre_px"][1], abs=3)


def test_a_small_set_of_mammograms_holds_each_finding_and_both_photometric_interpretations(
    patients: dict[Kind, list[PhantomStudy]],
) -> None:
    assert {study.truth["finding"] for study in patients["mammography"]} == {"mass", "calcification", "normal"}
    headers = [dcmread(study.files[0], stop_before_pixels=True) for study in patients["mammography"]]
    assert {ds.PhotometricInterpretation for ds in headers} == {"MONOCHROME1", "MONOCHROME2"}


# Histology


def painted(study: PhantomStudy) -> tuple[np.ndarray, np.ndarray]:
    """The slide as the reader finds it (rows, columns, 3), and its truth."""
    with Slide([study.dicom_folder]) as slide:
        (level,) = slide.levels
        picture = slide.region(level, 0, 0, *level.shape)
    return picture, slide_segmentation.read(dcmread(study.segmentation_path))


def test_a_slide_is_one_level_at_5x_and_its_truth_lies_on_it(patients: dict[Kind, list[PhantomStudy]]) -> None:
    for study in patients["histology"]:
        header, truth = dcmread(study.files[0], stop_before_pixels=True), dcmread(study.segmentation_path)
        with Slide([study.dicom_folder]) as slide:
            (level,) = slide.levels
        assert level.magnification == pytest.approx(histology.MAGNIFICATION) == pytest.approx(5)
        assert (level.down, level.across) == ((-1, 0), (0, -1))
        assert level.shape == (truth.TotalPixelMatrixRows, truth.TotalPixelMatrixColumns)
        assert truth.FrameOfReferenceUID == header.FrameOfReferenceUID
        assert [item.ReferencedSOPInstanceUID for item in truth.SourceImageSequence] == [header.SOPInstanceUID]
        assert truth.SyntheticData == "YES"


def test_a_validator_finds_no_error_in_the_truth_of_a_slide(
    patients: dict[Kind, list[PhantomStudy]], needs: Callable[[str], str]
) -> None:
    found = errors(needs("dciodvfy"), patients["histology"][0].segmentation_path)
    assert [line for line in found if UNKNOWN_TO_DCIODVFY not in line] == []


def test_the_picture_is_what_was_painted_through_the_stain_of_its_patient(tmp_path: Path) -> None:
    section = tissue.section(np.random.default_rng(5), (210, 330), carcinoma=True)
    glass = stain.Stain(np.array([0.6, 0.7, 0.4]), np.array([0.2, 0.8, 0.5]), np.array([240.0, 241.0, 242.0]))
    light = glass.light(section.haematoxylin, section.eosin)
    density = -np.log(light / glass.white)
    unmixed = density @ np.linalg.pinv(np.stack([glass.haematoxylin, glass.eosin]))
    np.testing.assert_allclose(unmixed[..., 0], section.haematoxylin, atol=1e-3)
    np.testing.assert_allclose(unmixed[..., 1], section.eosin, atol=1e-3)
    np.testing.assert_array_equal(light[(section.haematoxylin == 0) & (section.eosin == 0)][:1], [[240, 241, 242]])


def test_stroma_is_pink_and_carcinoma_violet_on_every_slide(patients: dict[Kind, list[PhantomStudy]]) -> None:
    for study in patients["histology"]:
        picture, truth = painted(study)
        coloured = picture.max(-1).astype(int) - picture.min(-1) > 12
        red, green, blue = np.median(picture[(truth == 0) & coloured], axis=0)
        assert red > blue + 10 > green + 20
        malignant = picture[truth == tissue.CARCINOMA].astype(int)
        brightness = malignant.sum(-1)
        red, green, blue = np.median(malignant[brightness < np.quantile(brightness, 0.2)], axis=0)
        assert blue > red > green
        assert (picture[truth == tissue.FAT].mean(-1) > 225).mean() > 0.6


def test_nuclei_of_carcinoma_are_larger_than_others_and_crowded() -> None:
    for seed in range(2):
        section = tissue.section(np.random.default_rng(seed), (700, 900), carcinoma=True)
        nuclei, count = ndimage.label(section.haematoxylin > 0.95)
        kinds = ndimage.maximum(section.truth, nuclei, np.arange(1, count + 1))
        areas_um2 = np.bincount(nuclei.ravel())[1:] * tissue.PIXEL_UM**2
        malignant, others = areas_um2[kinds == tissue.CARCINOMA], areas_um2[kinds == 0]
        # Where they touch they count as one, so the median says more about size than the mean.
        assert np.median(malignant) > 1.4 * np.median(others)
        density = [(section.haematoxylin > 0.95)[section.truth == value].mean() for value in (tissue.CARCINOMA, 0)]
        assert density[0] > 3 * density[1]


def test_each_laboratory_stains_differently_and_each_patient_has_other_tissue(
    patients: dict[Kind, list[PhantomStudy]],
) -> None:
    colours = []
    for study in patients["histology"]:
        picture, truth = painted(study)
        coloured = picture.max(-1).astype(int) - picture.min(-1) > 12
        colours.append(np.median(picture[(truth == 0) & coloured], axis=0))
    apart = [np.abs(one - other).max() for number, one in enumerate(colours) for other in colours[:number]]
    assert min(apart) >= 4
    assert len({tuple(study.truth["shares"].values()) for study in patients["histology"]}) == 3


def test_the_truth_says_how_much_there_is_and_a_slide_without_carcinoma_has_none(tmp_path: Path) -> None:
    for carcinoma in (True, False):
        study = histology.study(12, tmp_path / str(carcinoma), carcinoma=carcinoma)
        truth = painted(study)[1]
        for value, name in tissue.NAMES.items():
            assert (truth == value).mean() == pytest.approx(study.truth["shares"][name], abs=1e-4)
        assert (study.truth["shares"]["invasive carcinoma"] > 0.02) == carcinoma == study.truth["carcinoma"]


def test_patches_are_cut_from_slides_only(patients: dict[Kind, list[PhantomStudy]], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="PHANTOM-MG-007000 is a phantom of mammography"):
        idc_layout.write_patches(patients["mammography"][0], tmp_path)
