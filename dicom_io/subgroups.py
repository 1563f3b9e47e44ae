"""By what figures can be told apart: scanner, site, sex and decade of age, plain, as the images state them.

They stand in an item's provenance, and `groups` of `dicom_io.cohort.Item` reads them, so that cohorts from before they
were kept load as they are. Nothing is worked out: an age is Patient's Age (0010,1010) and never a birth date, which may
have been shifted or blanked. What the source does not state, or a de-identification has taken away, is not there.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

# HIPAA's safe harbour (45 CFR 164.514) calls ages from 90 on one category; decades keep the others from naming anybody.
OLDEST = 90
_SEXES = ("F", "M", "O")
_UNITS_A_YEAR = {"Y": 1, "M": 12, "W": 52, "D": 365}


def provenance(ds: Dataset) -> dict[str, Any]:
    """What an item's provenance says of these, from the header of one of its images; {} where nothing is stated.

    "scanner": {"manufacturer", "model"}, Manufacturer (0008,0070) and Manufacturer's Model Name (0008,1090). "subject":
    {"sex", "age"}, Patient's Sex (0010,0040) and the band of Patient's Age; of the two what is known. "body_part": Body
    Part Examined (0018,0015), by which nothing is told apart, but which a card names.
    """
    scanner = {"manufacturer": _text(ds, "Manufacturer"), "model": _text(ds, "ManufacturerModelName")}
    sex = _text(ds, "PatientSex")
    subject = {"sex": sex if sex in _SEXES else "", "age": age_band(_text(ds, "PatientAge"))}
    stated = {"scanner": scanner, "subject": {name: value for name, value in subject.items() if value}}
    body_part = {"body_part": _text(ds, "BodyPartExamined").upper()}
    known = {name: value for name, value in stated.items() if any(value.values())}
    return known | {name: value for name, value in body_part.items() if value}


def age_band(age: str) -> str:
    """Of an AS such as "063Y": "60 to 69"; "90 and more" from there on; "" of anything that is no age."""
    found = re.fullmatch(r"(\d{3})([DWMY])", age)
    if found is None:
        return ""
    years = int(found[1]) // _UNITS_A_YEAR[found[2]]
    decade = years // 10 * 10
    return f"{OLDEST} and more" if years >= OLDEST else f"{decade} to {decade + 9}"


def _text(ds: Dataset, keyword: str) -> str:
    return str(ds.get(keyword) or "").strip()
