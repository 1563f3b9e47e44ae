"""What figures can be told apart by: what a header states, and nothing that it does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from dicom_io import cohort as cohorts
from dicom_io import subgroups
from dicom_io.cohort import Channel, Cohort, Item


def header(**values: str) -> Dataset:
    ds = Dataset()
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


@pytest.mark.parametrize(
    ("age", "band"),
    [
        ("063Y", "60 to 69"),
        ("007Y", "0 to 9"),
        ("089Y", "80 to 89"),
        ("090Y", "90 and more"),
        ("104Y", "90 and more"),
        ("130M", "10 to 19"),
        ("030W", "0 to 9"),
        ("999D", "0 to 9"),
        ("", ""),
        ("63", ""),
        ("63 years", ""),
    ],
)
def test_an_age_is_kept_as_its_decade_and_those_from_ninety_on_as_one(age: str, band: str) -> None:
    assert subgroups.age_band(age) == band


def test_what_the_header_states_is_kept_and_nothing_is_worked_out_of_a_birth_date() -> None:
    whole = header(Manufacturer="Maker ", ManufacturerModelName="One", PatientSex="F", PatientAge="041Y")
    assert subgroups.provenance(whole) == {
        "scanner": {"manufacturer": "Maker", "model": "One"},
        "subject": {"sex": "F", "age": "40 to 49"},
    }
    assert subgroups.provenance(header(PatientBirthDate="19500101", StudyDate="20200101", PatientID="7")) == {}
    assert subgroups.provenance(header(PatientSex="M")) == {"subject": {"sex": "M"}}


def test_a_sex_that_the_standard_does_not_know_is_not_kept() -> None:
    """What people type into the field may name somebody."""
    assert subgroups.provenance(header(PatientSex="X")) == {}


def test_an_item_tells_its_groups_and_one_from_before_they_were_kept_tells_none() -> None:
    told = {"scanner": {"manufacturer": "", "model": "One"}, "subject": {"sex": "M"}, "site": "Utrecht"}
    assert Item(("a",), "p", provenance=told).groups == {"scanner": "One", "site": "Utrecht", "sex": "M"}
    assert Item(("a",), "p", provenance={"scanner": "a hash"}).groups == {"scanner": "a hash"}
    assert Item(("a",), "p", provenance={"scanner": None, "study": "x"}).groups == {}


def test_the_data_list_of_a_cohort_without_groups_has_the_bytes_that_it_had(tmp_path: Path) -> None:
    """And so the data hash that its models name."""
    item = Item(("images/a.nii.gz",), "p", label=1)
    cohorts.save(Cohort(tmp_path, "c", "classification", ("no", "yes"), (Channel("a", "MR", "1"),), {"test": (item,)}))
    [written] = json.loads((tmp_path / "datalist.json").read_text())["test"]
    assert set(written) == {
        "images", "patient", "mask", "label", "slice_labels", "geometry", "provenance", "synthetic", "split",
    }  # fmt: skip
    assert cohorts.load(tmp_path).test == (item,)


def test_a_body_part_is_kept_in_capitals_and_tells_nothing_apart() -> None:
    stated = subgroups.provenance(header(BodyPartExamined="Breast "))
    assert stated == {"body_part": "BREAST"}
    assert Item(("x",), "p", provenance=stated).groups == {}
