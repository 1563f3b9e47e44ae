"""Dates moved by a whole number of days (PS3.15 E.3.6, Retain Longitudinal Temporal Information with Modified Dates).

DA is YYYYMMDD, DT is YYYYMMDDHHMMSS.FFFFFF&ZZXX cut at any component after the year, TM is HHMMSS.FFFFFF (PS3.5 6.2).
All dates of one patient move by the same days d, so intervals between them stay. d is whole, so times of day stay what
they are, a scan over midnight stays one, and what is computed from times (decay of a tracer, wash-in) is the same. d is
a keyed function of Patient ID (0010,0020): the same for all objects of a patient, never 0, always into the past.
"""

from __future__ import annotations

import re
from datetime import date, timedelta

from dicom_io.pseudonym import pseudonym

# Any moment of PS3.5 6.2; ACR-NEMA's YYYY.MM.DD is still met. A leap second is 60.
_DATE = re.compile(r"(\d{4})\.?(\d\d)\.?(\d\d)")
_MOMENT = re.compile(r"(\d{4})(\d\d)?(\d\d)?((?:\d\d){0,3}(?:\.\d{1,6})?)([+-]\d{4})?")
_TIME = re.compile(r"([01]\d|2[0-3])(:?[0-5]\d(:?([0-5]\d|60)(\.\d{1,6})?)?)?")


def days_for(key: bytes, patient_id: str, most: int) -> int:
    """How many days this patient's dates move: -most to -1, evenly spread."""
    return -(1 + int(pseudonym(key, f"\0date shift\0{patient_id}"), 16) % most)


def is_moment(text: str, vr: str) -> bool:
    """Whether a single value follows its value representation, DA, DT or TM; a day that no calendar has is none."""
    return bool(_TIME.fullmatch(text.strip())) if vr == "TM" else moved(text, vr, 0) is not None


def moved(text: str, vr: str, days: int) -> str | None:
    """A single value of DA, DT or TM that many days later; None where it is none, or the calendar ends.

    A part of a date (DT "201907") is moved from its first day and keeps its precision. Ranges of queries (DA
    "20190101-20190201") are moved at both ends. Times of day stay.
    """
    text = text.strip(" \0")
    if vr == "TM":
        return text if _TIME.fullmatch(text) else None
    if vr == "DA" and "-" in text:
        ends = [moved(end, vr, days) if end else "" for end in text.split("-", 1)]
        return None if None in ends or ends == ["", ""] else "-".join(map(str, ends))
    found = (_DATE if vr == "DA" else _MOMENT).fullmatch(text)
    if not found:
        return None
    year, month, day = found[1], found[2], found[3]
    later = _later(int(year), int(month or 1), int(day or 1), days)
    if later is None:
        return None
    whole = f"{later:%Y%m%d}".rjust(8, "0")
    if vr == "DA":
        return whole
    return whole[: len(year + (month or "") + (day or ""))] + (found[4] or "") + (found[5] or "")


def _later(year: int, month: int, day: int, days: int) -> date | None:
    try:
        return date(year, month, day) + timedelta(days)
    except (ValueError, OverflowError):
        return None
