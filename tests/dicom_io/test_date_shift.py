"""Dates moved by whole days."""

from __future__ import annotations

import pytest

from dicom_io.confidentiality.date_shift import days_for, is_moment, moved


@pytest.mark.parametrize(
    ("text", "vr", "later"),
    [
        ("20190301", "DA", "20190228"),
        ("20200301", "DA", "20200229"),
        ("2019.03.01", "DA", "20190228"),
        ("20190101", "DA", "20181231"),
        ("20190301-20190302", "DA", "20190228-20190301"),
        ("-20190301", "DA", "-20190228"),
        ("201903", "DT", "201902"),
        ("2019", "DT", "2018"),
        ("20190301235959.123456+0530", "DT", "20190228235959.123456+0530"),
        ("235960", "TM", "235960"),
        ("10:15:30", "TM", "10:15:30"),
    ],
)
def test_a_day_earlier(text, vr, later):
    assert moved(text, vr, -1) == later


@pytest.mark.parametrize(
    ("text", "vr"), [("20190230", "DA"), ("", "DA"), ("-", "DA"), ("Doe", "DA"), ("2019030", "DT"), ("2561", "TM")]
)
def test_what_is_no_moment_is_not_moved(text, vr):
    assert moved(text, vr, -1) is None
    assert not is_moment(text, vr)


def test_the_calendar_ends():
    assert moved("00010101", "DA", -1) is None


def test_days_are_never_none_and_stay_within_the_range():
    days = {days_for(b"key", f"patient {number}", 7) for number in range(200)}
    assert days == set(range(-7, 0))
    assert days_for(b"key", "one", 3650) == days_for(b"key", "one", 3650)
