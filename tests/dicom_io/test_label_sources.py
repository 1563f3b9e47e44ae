"""Labels come from where they were said to come from, or there is a sentence on what is missing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import made_results
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset

from dicom_io import label_sources
from dicom_io.errors import Rejected
from dicom_io.label_sources import Example, parse
from dicom_io.volume import Projection, Volume


def example(root: Path | None = None, *, slices: int = 3, places: tuple[str, ...] = (), **attributes) -> Example:
    """An image of three slices of patient P1; attributes may be lists with a value for each slice."""
    datasets = []
    for number in range(slices):
        ds = Dataset()
        ds.SOPInstanceUID = f"2.25.{number + 1}"
        for keyword, value in attributes.items():
            setattr(ds, keyword, value[number] if isinstance(value, list) else value)
        datasets.append(ds)
    home = root or Path("/nowhere")
    paths = tuple(home / (places[n] if places else f"{n}.dcm") for n in range(slices))
    volume = Volume(np.zeros((slices, 2, 3), np.float32), np.eye(4), "2.25.9", "1")
    return Example(volume, tuple(datasets), paths, root, "P1", "2.25.10", "2.25.20", "MR")


def table(folder: Path, text: str):
    (folder / "labels.csv").write_text(text, encoding="utf-8")
    return parse(f"csv:{folder / 'labels.csv'}")


def test_an_attribute_is_the_label_also_within_a_sequence():
    code = Dataset()
    code.CodeMeaning = "Breast"

    assert parse("attribute:PatientSex").of(example(PatientSex="F")) == "F"
    assert (
        parse("attribute:AnatomicRegionSequence.CodeMeaning").of(example(AnatomicRegionSequence=[[code]] * 3))
        == "Breast"
    )
    assert parse("attribute:ScanningSequence").of(example(ScanningSequence=[["SE", "IR"]] * 3)) == "SE\\IR"


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({}, "PatientSex is absent or empty"),
        ({"PatientSex": ["F", "F", "M"]}, "PatientSex has 2 values within one image"),
    ],
)
def test_an_attribute_that_says_nothing_or_two_things_is_refused(attributes, said):
    with pytest.raises(Rejected, match=said):
        parse("attribute:PatientSex").of(example(**attributes))


@pytest.mark.parametrize(
    "keyword", ["PatientName", "PatientID", "PatientBirthDate", "StudyInstanceUID", "AccessionNumber"]
)
def test_what_identifies_a_person_is_no_label(keyword):
    with pytest.raises(Rejected, match=f"{keyword} identifies a person"):
        parse(f"attribute:{keyword}")


@pytest.mark.parametrize("text", ["attribute:PatientSexx", "tarot", "folder:x", "csv", "csv:missing.csv"])
def test_a_source_that_is_none_is_refused(text):
    with pytest.raises(Rejected):
        parse(text)


@pytest.mark.parametrize(
    ("column", "key"),
    [("patient", "P1"), ("PatientID", "P1"), ("Study Instance UID", "2.25.10"), ("series", "2.25.20")],
)
def test_a_table_is_looked_up_by_its_key_column(tmp_path, column, key):
    labels = table(tmp_path, f"note,{column},Label\nx,other,benign\ny,{key},malignant\n")

    assert labels.of(example()) == "malignant"
    assert labels.unused() == ["1 of 2 rows of labels.csv belong to no image that was taken"]


def test_a_table_of_instances_labels_each_slice(tmp_path):
    rows = "sop_instance_uid,label\n2.25.3,lesion\n2.25.1,normal\n2.25.2,normal\n"

    assert table(tmp_path, rows).of(example()) == ("normal", "normal", "lesion")
    with pytest.raises(Rejected, match="no row for 1 of its 4 instances"):
        table(tmp_path, rows).of(example(slices=4))


def test_a_table_of_instances_gives_a_projection_one_label(tmp_path):
    single = example(slices=1)
    mammogram = Example(
        Projection(np.zeros((2, 3), np.float32), "1"), single.datasets, single.paths, None, "P1", "1", "2", "MG"
    )

    assert table(tmp_path, "sop uid,label\n2.25.1,lesion\n").of(mammogram) == "lesion"


def test_a_table_of_paths_is_relative_to_itself_and_the_closest_folder_counts(tmp_path):
    for place in ("a/x", "a/y"):
        (tmp_path / place).mkdir(parents=True)
    labels = table(tmp_path, "path,label\na,normal\na/y,lesion\n")

    assert labels.of(example(tmp_path, places=("a/x/1", "a/x/2", "a/x/3"))) == "normal"
    assert labels.of(example(tmp_path, places=("a/y/1", "a/y/2", "a/y/3"))) == "lesion"
    with pytest.raises(Rejected, match="2 labels for files of one image"):
        labels.of(example(tmp_path, places=("a/x/1", "a/y/2", "a/y/3")))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("patient,class\nP1,x\n", "needs `label`"),
        ("label\nx\n", "one of patient, study"),
        ("patient,study,label\nP1,1,x\n", "one of patient, study"),
        ("patient,label\n", "has no rows"),
        ("patient,label\nP1,x\nP1,y\n", "row 3 of labels.csv gives another label"),
        ("patient,label\nP1,\n", "row 2 of labels.csv lacks"),
    ],
)
def test_a_table_that_says_nothing_clear_is_refused_without_naming_a_patient(tmp_path, text, said):
    with pytest.raises(Rejected, match=said) as refusal:
        table(tmp_path, text)
    assert "P1" not in str(refusal.value)


def test_a_patient_without_row_is_refused_without_being_named(tmp_path):
    with pytest.raises(Rejected, match="has no row for its patient") as refusal:
        table(tmp_path, "patient,label\nP2,x\n").of(example())
    assert "P1" not in str(refusal.value)


def test_the_first_folder_below_the_given_one_is_the_class(tmp_path):
    assert parse("folder").of(example(tmp_path, places=("benign/p/1", "benign/p/2", "benign/q/3"))) == "benign"
    with pytest.raises(Rejected, match="does not lie in one folder"):
        parse("folder").of(example(tmp_path, places=("benign/1", "malignant/2", "benign/3")))
    with pytest.raises(Rejected, match="does not lie in one folder"):
        parse("folder").of(example(tmp_path))
    with pytest.raises(Rejected, match="lie in no folders with names"):
        parse("folder").of(example())


# --- reports ------------------------------------------------------------------------------------------------------


def coded(value_type: str, concept: tuple[str, str], value: str = "", *below: Dataset, image: str = "") -> Dataset:
    """A content item."""
    item, name = Dataset(), Dataset()
    name.CodeValue, name.CodingSchemeDesignator, name.CodeMeaning = *concept, "concept"
    item.ValueType, item.ConceptNameCodeSequence = value_type, [name]
    if value:
        code = Dataset()
        code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value.upper(), "99TEST", value
        item.ConceptCodeSequence = [code]
    if image:
        reference = Dataset()
        reference.ReferencedSOPInstanceUID = image
        item.ReferencedSOPSequence = [reference]
    if below:
        item.ContentSequence = list(below)
    return item


FINDING, GROUP, REGION, OBSERVER = ("121071", "DCM"), ("125007", "DCM"), ("111030", "DCM"), ("121005", "DCM")


def report(*content: Dataset, evidence: str = "2.25.2", observer: str = "121006") -> Dataset:
    ds, study, series, instance, who = (Dataset() for _ in range(5))
    instance.ReferencedSOPInstanceUID = evidence
    series.ReferencedSOPSequence, study.ReferencedSeriesSequence = [instance], [series]
    who = coded("CODE", OBSERVER, "observer")
    who.ConceptCodeSequence[0].CodeValue = observer
    who.ConceptCodeSequence[0].CodingSchemeDesignator = "DCM"
    ds.SOPInstanceUID, ds.CurrentRequestedProcedureEvidenceSequence = "2.25.99", [study]
    ds.ContentSequence = [who, *content]
    return ds


def of_group(value: str, image: str) -> Dataset:
    region = coded("SCOORD", REGION, "", coded("IMAGE", ("121324", "DCM"), image=image))
    return coded("CONTAINER", GROUP, "", coded("CODE", FINDING, value), region)


def test_a_group_states_its_finding_of_the_image_that_it_refers_to():
    written = report(of_group("lesion", "2.25.1"), of_group("other", "2.25.1000"))

    assert parse("sr").of(replace(example(), reports=(written,))) == "lesion"


def test_a_finding_without_an_image_is_about_all_of_the_report():
    plain = coded("CONTAINER", GROUP, "", coded("CODE", FINDING, "lesion"))

    assert parse("sr").of(replace(example(), reports=(report(plain),))) == "lesion"
    with pytest.raises(Rejected, match="state no value of"):
        parse("sr").of(replace(example(), reports=(report(plain, evidence="2.25.777"),)))


def test_another_concept_can_be_asked_for_and_two_values_are_refused():
    concept = ("121402", "DCM")
    written = report(coded("CODE", concept, "normal"), of_group("a", "2.25.1"), of_group("b", "2.25.3"))

    assert parse("sr:121402^DCM").of(replace(example(), reports=(written,))) == "normal"
    with pytest.raises(Rejected, match=r"state a, b of \(121071, DCM\) for it; one is needed"):
        parse("sr").of(replace(example(), reports=(written,)))
    with pytest.raises(Rejected, match="is no coded concept"):
        parse("sr:121402")


def test_what_a_program_reported_is_no_truth_unless_that_is_wanted():
    own = replace(example(), reports=(report(of_group("lesion", "2.25.1"), observer="121007"),))

    with pytest.raises(Rejected, match=r"SR 2\.25\.99 was written by a program alone"):
        parse("sr").of(own)
    assert parse("sr", with_automatic=True).of(own) == "lesion"


def test_our_own_reports_count_as_a_programs():
    written, _ = made_results.reported()
    images = tuple(made_results.sources())
    own = replace(example(), datasets=images, reports=(written,))

    assert label_sources._is_by_program(written)
    stated = label_sources.Reported("121071", "DCM", True)
    said = list(stated._stated(written, set()))
    assert said and all(not about.isdisjoint(own.sop_uids) for _, about in said)


def test_a_report_by_highdicom_labels_the_image_that_it_was_made_of(test_data):
    image = dcmread(get_testdata_file("CT_small.dcm"))
    written = dcmread(test_data / "seg-sr" / "highdicom" / "sr_document.dcm")

    labelled = replace(example(), datasets=(image,), reports=(written,))

    assert parse("sr").of(labelled) == "Spinal cord"
    assert parse("sr:G-C0E3^SRT").of(labelled) == "Cervico-thoracic spine"
