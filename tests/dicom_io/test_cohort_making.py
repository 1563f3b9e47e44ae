"""From DICOM files to a cohort: what is taken, under which names, and a reason for all that is not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from dicom_io import cohort as cohorts
from dicom_io import label_sources, mask_sources, nifti, segmentation
from dicom_io.cohort import SPLITS, Cohort, load, load_image, load_mask, split_of
from dicom_io.cohort_making import Made, Plan, Wanted, make
from dicom_io.errors import Rejected
from dicom_io.provenance import ModelIdentity
from dicom_io.pseudonym import pseudonym
from dicom_io.segmentation import Segment
from dicom_io.series import stack

KEY = b"k" * 32
PATIENTS = tuple(f"Secret{number}" for number in range(12))


def patient(make, folder: Path, name: str, number: int, modality: str = "MR", **attributes: Any) -> list[Dataset]:
    """A series of a patient on disk: 5 slices, oblique."""
    own = {"PatientID": name, "PatientName": f"{name}^Name", "StudyInstanceUID": f"2.25.9{number}"}
    own |= {"SeriesInstanceUID": f"2.25.8{number}", "Manufacturer": "Maker", "ManufacturerModelName": "One"}
    datasets = make.series(modality, seed=number, **own | attributes)
    make.folder(datasets, folder)
    return datasets


def run(paths: Sequence[Path], out: Path, **plan: Any) -> Made:
    plan = {"name": "made", "task": "generation"} | plan
    return make_cohort(paths, Plan(**plan), out)


def make_cohort(paths: Sequence[Path], plan: Plan, out: Path) -> Made:
    return make(paths, plan, out, KEY, progress=lambda done, total, what: None)


def items(cohort: Cohort) -> list[cohorts.Item]:
    return [item for split in SPLITS for item in cohort.splits[split]]


def write(ds: Dataset, path: Path) -> None:
    if not getattr(ds, "file_meta", None):
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.save_as(path, enforce_file_format=True)


def structure_set(datasets: Sequence[Dataset], affine: np.ndarray, name: str, rows: slice, columns: slice) -> Dataset:
    """A rectangle in slice 2 of the series, drawn half a pixel outside its first and last pixels."""
    corners = [(r, c) for r in (rows.start - 0.5, rows.stop - 0.5) for c in (columns.start - 0.5, columns.stop - 0.5)]
    outline = [corners[index] for index in (0, 1, 3, 2)]
    ds = header_of(datasets[0], "1.2.840.10008.5.1.4.1.1.481.3", "RTSTRUCT")
    region, drawn, contour = Dataset(), Dataset(), Dataset()
    region.ROINumber, region.ROIName, region.ReferencedFrameOfReferenceUID = 1, name, "2.25.773"
    contour.ContourGeometricType = "CLOSED_PLANAR"
    contour.ContourData = [f"{x:.6f}" for r, c in outline for x in (affine @ [2, r, c, 1])[:3]]
    drawn.ReferencedROINumber, drawn.ContourSequence = 1, [contour]
    named, study, frame = Dataset(), Dataset(), Dataset()
    named.SeriesInstanceUID = datasets[0].SeriesInstanceUID
    study.RTReferencedSeriesSequence, frame.RTReferencedStudySequence = [named], [study]
    frame.FrameOfReferenceUID = "2.25.773"
    ds.ReferencedFrameOfReferenceSequence, ds.StructureSetROISequence, ds.ROIContourSequence = (
        [frame],
        [region],
        [drawn],
    )
    return ds


def header_of(image: Dataset, sop_class: str, modality: str) -> Dataset:
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = sop_class, f"{image.SOPInstanceUID}.7", modality
    ds.PatientID, ds.StudyInstanceUID, ds.SeriesInstanceUID = image.PatientID, image.StudyInstanceUID, "2.25.55"
    return ds


def seg_of(make, datasets: Sequence[Dataset], voxels: np.ndarray, *labels: str, by: str = "MANUAL") -> Dataset:
    volume = stack(make.slices(datasets))
    ds, _ = segmentation.segmentation(
        volume.with_voxels(voxels.astype(np.float32), units="1"),
        sources=datasets,
        segments=[Segment(number, label, (200, 0, 0)) for number, label in enumerate(labels, start=1)],
        model=ModelIdentity("m", "1", "5a" * 32, "unproven"),
        parameters={},
        description="",
        made_at=datetime(2026, 1, 2),
    )
    for item in ds.SegmentSequence:
        item.SegmentAlgorithmType = by
    return ds


@pytest.fixture
def labelled(make, tmp_path) -> Path:
    """Twelve patients, the odd ones M."""
    for number, name in enumerate(PATIENTS):
        patient(make, tmp_path / "in" / name, name, number, PatientSex="FM"[number % 2])
    return tmp_path / "in"


def test_each_image_is_an_item_with_its_label_split_by_patient_with_the_stored_key(labelled, tmp_path):
    plan = {"task": "classification", "label_from": label_sources.parse("attribute:PatientSex"), "split_key": "s"}
    made = run([labelled], tmp_path / "out", **plan)

    cohort = load(tmp_path / "out")

    assert (made.refused, cohort.labels, len(items(cohort))) == ((), ("F", "M"), 12)
    assert cohort == made.cohort
    assert (cohort.split_key, cohort.split_shares["test"]) == ("s", 0.15)
    for split in SPLITS:
        for item in cohort.splits[split]:
            assert split_of(item.patient, cohort.split_key, cohort.split_shares) == split
    sexes = {pseudonym(KEY, name, prefix="P"): number % 2 for number, name in enumerate(PATIENTS)}
    assert {item.patient: item.label for item in items(cohort)} == sexes


def test_the_voxels_are_those_of_the_series_and_the_origin_is_told_under_pseudonyms(make, tmp_path):
    datasets = patient(make, tmp_path / "in", "Secret", 3, PatientSex="F", PatientAge="063Y")

    run([tmp_path / "in"], tmp_path / "out")

    cohort = load(tmp_path / "out")
    (item,) = items(cohort)
    image, expected = load_image(cohort, item), stack(make.slices(datasets))
    np.testing.assert_array_equal(image.voxels[0], expected.voxels)
    np.testing.assert_array_equal(image.affine, expected.affine)
    assert item.groups == {"scanner": "Maker One", "sex": "F", "age": "60 to 69"}
    assert item.provenance["series"] == pseudonym(KEY, "2.25.83")
    assert set(item.provenance["versions"]) == {"mirall", "pydicom"}
    assert (cohort.channels[0].modality, cohort.channels[0].units) == ("MR", "1")


def test_no_name_no_patient_id_and_no_uid_gets_into_the_folder(labelled, tmp_path):
    run([labelled], tmp_path / "out")

    for path in (tmp_path / "out").rglob("*"):
        content = b"" if path.is_dir() or path.suffix == ".gz" else path.read_bytes()
        assert "Secret" not in path.name and b"Secret" not in content and b"2.25." not in content


def test_the_same_files_in_another_place_make_the_same_cohort(labelled, tmp_path):
    run([labelled], tmp_path / "out")
    for folder in sorted(labelled.iterdir()):
        folder.rename(labelled / f"x{hash(folder.name) % 97}{folder.name}")

    run([*sorted(labelled.iterdir())][::-1], tmp_path / "again")

    assert load(tmp_path / "out").data_hash == load(tmp_path / "again").data_hash


def test_a_structure_set_becomes_the_mask_of_its_image(make, tmp_path):
    datasets = patient(make, tmp_path / "in", "Secret", 3, PatientSex="F", PatientAge="063Y")
    write(structure_set(datasets, make.affine, "GTV", slice(1, 5), slice(2, 4)), tmp_path / "in" / "rt.dcm")

    run([tmp_path / "in"], tmp_path / "out", task="segmentation", masks=(mask_sources.parse("rtstruct:GTV"),))

    cohort = load(tmp_path / "out")
    (item,) = items(cohort)
    expected = np.zeros(make.shape, np.float32)
    expected[2, 1:5, 2:4] = 1
    np.testing.assert_array_equal(load_mask(cohort, item).voxels, expected)
    assert (cohort.labels, item.slice_labels) == (("background", "GTV"), (0, 0, 1, 0, 0))
    assert len(item.provenance["masks"]) == 1


def test_segments_become_numbers_in_the_order_that_they_were_asked_for(make, tmp_path):
    datasets = patient(make, tmp_path / "in", "Secret", 3, PatientSex="F", PatientAge="063Y")
    voxels = np.random.default_rng(0).integers(0, 4, make.shape)
    write(seg_of(make, datasets, voxels, "liver", "spleen", "lesion"), tmp_path / "in" / "seg.dcm")
    masks = tuple(mask_sources.parse(text) for text in ("seg:lesion", "seg:liver"))

    run([tmp_path / "in"], tmp_path / "out", task="segmentation", masks=masks)
    run([tmp_path / "in"], tmp_path / "all", task="segmentation", masks=(mask_sources.parse("seg"),))

    cohort = load(tmp_path / "out")
    np.testing.assert_array_equal(
        load_mask(cohort, items(cohort)[0]).voxels, np.select([voxels == 3, voxels == 1], [1, 2])
    )
    assert cohort.labels == ("background", "lesion", "liver")
    together = load(tmp_path / "all")
    np.testing.assert_array_equal(load_mask(together, items(together)[0]).voxels, voxels > 0)
    assert together.labels == ("background", "segmented")


def test_what_a_program_drew_is_no_truth_unless_that_is_wanted(make, tmp_path):
    datasets = patient(make, tmp_path / "in", "Secret", 3, PatientSex="F", PatientAge="063Y")
    write(seg_of(make, datasets, np.ones(make.shape), "lesion", by="AUTOMATIC"), tmp_path / "in" / "seg.dcm")

    with pytest.raises(Rejected, match=r"was drawn by a program \(AUTOMATIC\)"):
        run([tmp_path / "in"], tmp_path / "out", task="segmentation", masks=(mask_sources.parse("seg:lesion"),))
    source = mask_sources.parse("seg:lesion", with_automatic=True)
    made = run([tmp_path / "in"], tmp_path / "out", task="segmentation", masks=(source,))

    assert load_mask(made.cohort, items(made.cohort)[0]).voxels.all()


def test_a_mask_that_refers_to_another_series_or_is_there_twice_is_refused(make, tmp_path):
    datasets = patient(make, tmp_path / "in", "Secret", 3, PatientSex="F", PatientAge="063Y")
    first = structure_set(datasets, make.affine, "GTV", slice(1, 5), slice(2, 4))
    write(first, tmp_path / "in" / "a.dcm")
    second = structure_set(datasets, make.affine, "GTV", slice(1, 5), slice(2, 4))
    second.SOPInstanceUID = "2.25.4321"
    write(second, tmp_path / "in" / "b.dcm")
    masks = {"task": "segmentation", "masks": (mask_sources.parse("rtstruct:GTV"),)}

    with pytest.raises(Rejected, match="2 RTSTRUCT objects with 'GTV' of its study refer to it and one is needed"):
        run([tmp_path / "in"], tmp_path / "out", **masks)
    (tmp_path / "in" / "b.dcm").unlink()
    study = first.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
    study.RTReferencedSeriesSequence[0].SeriesInstanceUID = "2.25.1"
    write(first, tmp_path / "in" / "a.dcm")
    with pytest.raises(Rejected, match="0 RTSTRUCT objects with 'GTV' of its study refer to it"):
        run([tmp_path / "in"], tmp_path / "out", **masks)


def test_masks_alone_label_the_slices_of_a_classification_cohort(make, tmp_path):
    datasets = patient(make, tmp_path / "in", "Secret", 3, PatientSex="F", PatientAge="063Y")
    write(structure_set(datasets, make.affine, "GTV", slice(1, 5), slice(2, 4)), tmp_path / "in" / "rt.dcm")
    masks = (mask_sources.parse("rtstruct:GTV"),)

    made = run([tmp_path / "in"], tmp_path / "out", task="classification", masks=masks, labels=("normal", "tumour"))

    assert made.cohort.labels == ("normal", "tumour")
    assert items(made.cohort)[0].slice_labels == (0, 0, 1, 0, 0)


def test_a_report_in_the_study_labels_its_images(make, tmp_path):
    for number, name in enumerate(PATIENTS[:3]):
        datasets = patient(make, tmp_path / "in", name, number)
        finding, concept, value = Dataset(), Dataset(), Dataset()
        concept.CodeValue, concept.CodingSchemeDesignator, concept.CodeMeaning = "121071", "DCM", "Finding"
        value.CodeValue, value.CodingSchemeDesignator, value.CodeMeaning = "1", "99TEST", ("normal", "ill")[number % 2]
        finding.ValueType, finding.RelationshipType = "CODE", "CONTAINS"
        finding.ConceptNameCodeSequence, finding.ConceptCodeSequence = [concept], [value]
        image = Dataset()
        image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = (
            datasets[1].SOPClassUID,
            datasets[1].SOPInstanceUID,
        )
        series, study = Dataset(), Dataset()
        series.SeriesInstanceUID, series.ReferencedSOPSequence = datasets[0].SeriesInstanceUID, [image]
        study.StudyInstanceUID, study.ReferencedSeriesSequence = datasets[0].StudyInstanceUID, [series]
        report = header_of(datasets[0], "1.2.840.10008.5.1.4.1.1.88.33", "SR")
        report.ContentSequence, report.CurrentRequestedProcedureEvidenceSequence = [finding], [study]
        write(report, tmp_path / "in" / f"sr{number}.dcm")

    made = run([tmp_path / "in"], tmp_path / "out", task="classification", label_from=label_sources.parse("sr"))

    assert made.refused == ()
    assert made.cohort.labels == ("ill", "normal")
    assert sorted(item.label for item in items(made.cohort)) == [0, 1, 1]


def test_two_channels_are_the_two_contrasts_of_one_study_on_one_grid(make, tmp_path):
    for number, name in enumerate(PATIENTS[:3]):
        patient(make, tmp_path / "in", name, number, SeriesDescription="T1 axial")
        if number:
            patient(make, tmp_path / "in", name, number, SeriesInstanceUID=f"2.25.7{number}", SeriesDescription="FLAIR")

    made = run([tmp_path / "in"], tmp_path / "out", channels=(Wanted("MR", "FLAIR"), Wanted("MR", "T1")))

    assert [channel.name for channel in made.cohort.channels] == ["FLAIR", "T1"]
    assert [load_image(made.cohort, item).voxels.shape for item in items(made.cohort)] == [(2, *make.shape)] * 2
    (refused,) = made.refused
    assert (refused.what, refused.why) == ("study 2.25.90", "holds 0 of FLAIR, 1 of T1; one of each is needed")


def test_whatever_is_not_taken_has_its_reason(make, tmp_path):
    home = tmp_path / "in"
    patient(make, home, "Secret0", 0)
    patient(make, home, "Secret1", 1, SyntheticData="YES")
    patient(make, home, "", 2)
    patient(make, home, "Secret3", 3, "CT")
    patient(make, home, "Secret4", 4, StudyInstanceUID="2.25.666")
    patient(make, home, "Secret5", 5, StudyInstanceUID="2.25.666")
    for ds in patient(make, home, "Secret6", 6)[2:3]:
        next(path for path in home.glob("*.dcm") if str(ds.SOPInstanceUID).encode() in path.read_bytes()).unlink()
    (home / "notes.txt").write_text("no image")

    made = run([home], tmp_path / "out", channels=(Wanted("MR"),))

    why = {each.what: each.why for each in made.refused}
    assert len(items(made.cohort)) == 1
    assert why["series 2.25.81"] == "its 5 instances are synthetic; ask for them by name"
    assert why["series 2.25.83"] == "is of modality CT"
    assert why["study 2.25.666"] == "belongs to several patients; correct its Patient IDs"
    assert "leave a gap" in why["series 2.25.86"]
    assert "is no DICOM file" in why[str(home / "notes.txt")]
    assert sum("has no Patient ID (0010,0020)" in reason for reason in why.values()) == 5
    assert "Secret" not in json.dumps(made.as_json())


def test_synthetic_images_are_taken_where_they_are_asked_for_and_stay_marked(make, tmp_path):
    patient(make, tmp_path / "in", "Secret", 1, SyntheticData="YES")

    made = run([tmp_path / "in"], tmp_path / "out", with_synthetic=True)

    assert [item.synthetic for item in items(made.cohort)] == [True]


def test_a_label_that_is_no_class_is_refused_and_the_classes_keep_their_order(labelled, tmp_path):
    plan = {"task": "classification", "label_from": label_sources.parse("attribute:PatientSex")}

    made = run([labelled], tmp_path / "out", labels=("M", "X"), **plan)

    assert made.cohort.labels == ("M", "X")
    assert {item.label for item in items(made.cohort)} == {0}
    assert {each.why for each in made.refused} == {"its label 'F' is none of M, X"}
    assert "no image is of class X" in made.notes


def test_images_of_two_modalities_must_be_chosen_between(make, tmp_path):
    patient(make, tmp_path / "in", "a", 1)
    patient(make, tmp_path / "in", "b", 2, "CT")

    with pytest.raises(Rejected, match="the files hold CT and MR; say which modality"):
        run([tmp_path / "in"], tmp_path / "out")


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ({"task": "classification"}, "needs labels"),
        ({"task": "segmentation"}, "needs masks"),
        ({"shares": {"training": 0.5, "test": 0.2}}, "add up to 1"),
        ({"masks": (mask_sources.parse("seg:a"),), "labels": ("a",)}, "1 labels for 1 masks"),
        ({"masks": (mask_sources.parse("seg"),), "label_from": label_sources.parse("folder")}, "not both"),
    ],
)
def test_a_plan_that_cannot_be_followed_is_refused(plan, said):
    with pytest.raises(Rejected, match=said):
        Plan(**{"name": "made", "task": "generation"} | plan)


@pytest.mark.parametrize("text", ["rtstruct", "rtstruct:", "mask.nii", "segs:a"])
def test_a_mask_source_that_is_none_is_refused(text):
    with pytest.raises(Rejected, match="masks cannot come from"):
        mask_sources.parse(text)


def test_sarcoma_masks_from_structure_sets_are_those_that_their_makers_give_as_nifti(test_data, tmp_path):
    sources = [test_data / "pet-suv-sarcoma" / name for name in ("STS_002", "STS_006")]
    plan = {
        "task": "segmentation",
        "masks": (mask_sources.parse("rtstruct:GTV_Mass_PET"),),
        "channels": (Wanted("PT"),),
    }

    made = run(sources, tmp_path / "out", **plan)

    found = items(made.cohort)
    assert len(found) == 2
    volumes = {item.geometry["shape"][0]: item for item in found}
    for source in sources:
        slices = len(list((source / "PET").glob("*.dcm")))
        item = volumes[slices]
        image = load_image(made.cohort, item)
        grid = replace(image, voxels=image.voxels[0])
        expected = nifti.mask_on(source / "PET_mask.nii.gz", grid)
        np.testing.assert_array_equal(load_mask(made.cohort, item).voxels, expected.voxels > 0)
