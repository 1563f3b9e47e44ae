"""When a PET was injected, started and acquired, on the wall clock of its scanner.

Rules: PS3.3 C.8.9.1 (PET Series: Decay Correction), C.8.9.2 (PET Isotope), C.8.9.4.1.1 (Frame Reference Time), C.12.1
(Timezone Offset From UTC). The scan start follows the vendor-neutral pseudo-code of the QIBA FDG-PET profile, and
Siemens' conformance statements (Biograph TruePoint 6.7) for (0071,xx22). Symbols: T frame duration, lambda = ln 2 /
half-life, x = lambda T.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any

from pydicom.valuerep import DA, DT, TM

from dicom_io.errors import MissingAttribute, UnknownUnits
from dicom_io.pet_attributes import check_one, isotope, named, number, parsed, positive, private_text, value

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

# After ten half-lives a thousandth is left: nobody images that, so a date is wrong.
MOST_HALF_LIVES = 10
# Makers write the start of the injection twice, once to the minute and once to the second.
_SAME_CLOCK_S = 60
# Times of frames are often written in whole seconds; F-18 loses a thousandth in ten.
_SAME_START_S = 10
# (group, creator, element, name) of the makers' own statements.
_SIEMENS = (0x0071, "SIEMENS MED PT", 0x22, "Siemens' Decay Correction DateTime (0071,xx22)")
_GE = (0x0009, "GEMS_PETD_01", 0x0D, "GE's scan time (0009,xx0D)")
_DAY = timedelta(days=1)


def scan_start(series: Sequence[Dataset]) -> datetime:
    """The time that Decay Correction (0054,1102) START refers to. series: all slices of the series.

    1. Siemens says to when the images were corrected, (0071,xx22): their Series Time may be that of a reconstruction.
    2. Series Date and Time if not later than the earliest acquisition; a post-processed series has a later one.
    3. GE's own scan time (0009,xx0D), else acquisition time less Frame Reference Time (0054,1300): GE's counts from the
       scan start to the frame's start (in series of a Discovery ST the difference is the Series Time).
    4. Philips, Canon, United Imaging and all others: as the Standard has it, Frame Reference Time counts to the frame's
       average count rate time, which lies that much after the acquisition time.

    Raises:
        MissingAttribute: none of these can be told.
        UnknownUnits: slices contradict each other in a maker's statement, or lead to several starts.
    """
    siemens = _makers_time(series, *_SIEMENS)
    if siemens is not None:
        return siemens
    earliest = min(series, key=acquisition)
    series_start = _moment(earliest, "SeriesDate", "SeriesTime", "(0008,0021) and (0008,0031)")
    if series_start <= acquisition(earliest):
        return series_start
    ge = _makers_time(series, *_GE)
    return ge if ge is not None else _counted_back(series)


def _counted_back(series: Sequence[Dataset]) -> datetime:
    """All slices must lead to one start: some makers write the acquisition time of the first bed position in each."""
    starts = [_start_by_frame(ds) for ds in series]
    if (max(starts) - min(starts)).total_seconds() > _SAME_START_S:
        raise UnknownUnits(
            f"{named(series[0])}: Series Time (0008,0031) is later than the acquisition, and Acquisition Time "
            f"(0008,0032) with Frame Reference Time (0054,1300) puts the scan start at {min(starts):%H:%M:%S} in one "
            f"slice and at {max(starts):%H:%M:%S} in another; send the series with the times of its frames"
        )
    return min(starts)


def _start_by_frame(ds: Dataset) -> datetime:
    """Frame Reference Time counts to the frame's average count rate; GE's counts to the frame's start."""
    ge = str(value(ds, "Manufacturer") or "").upper().split()[:1] == ["GE"]
    reference_ms = number(ds, "FrameReferenceTime", "(0054,1300)")
    if not 0 <= reference_ms < math.inf or (reference_ms == 0 and not ge):
        raise MissingAttribute(
            f"{named(ds)}: FrameReferenceTime (0054,1300) is {reference_ms:g}, so the scan start is unknown; correct it"
        )
    reference = timedelta(milliseconds=reference_ms)
    return (acquisition(ds) if ge else average_count_rate_time(ds)) - reference


def check_frame_times(series: Sequence[Dataset]) -> None:
    """Frames of one acquisition time have one Frame Reference Time (0054,1300), where they have any.

    Raises:
        UnknownUnits: they have several, so that the acquisition times are not those of the frames.
    """
    found: dict[datetime, list[float]] = {}
    for ds in series:
        reference_ms = value(ds, "FrameReferenceTime")
        if reference_ms not in (None, ""):
            found.setdefault(acquisition(ds), []).append(float(reference_ms))
    for at, references_ms in found.items():
        if max(references_ms) - min(references_ms) > 1000 * _SAME_START_S:
            raise UnknownUnits(
                f"{named(series[0])}: slices of Acquisition Time (0008,0032) {at:%H:%M:%S} have Frame Reference Times "
                f"(0054,1300) from {min(references_ms):.0f} to {max(references_ms):.0f} ms, so the acquisition time is "
                "not that of each frame; send the series with the times of its frames"
            )


def _makers_time(series: Sequence[Dataset], group: int, creator: str, element: int, name: str) -> datetime | None:
    texts = {private_text(ds, group, creator, element) for ds in series}
    check_one(series[0], name, {text or "absent" for text in texts})
    (text,) = texts
    return local(series[0], name, text) if text else None


def acquisition(ds: Dataset) -> datetime:
    """Start of the frame: Acquisition Date (0008,0022), or Series Date where that is empty, and Time (0008,0032)."""
    day = "AcquisitionDate" if value(ds, "AcquisitionDate") else "SeriesDate"
    return _moment(ds, day, "AcquisitionTime", "(0008,0022) and (0008,0032)")


def average_count_rate_time(ds: Dataset) -> datetime:
    """When the decaying activity had the mean that it had over the frame."""
    return acquisition(ds) + timedelta(seconds=average_count_rate_time_s(ds))


def average_count_rate_time_s(ds: Dataset) -> float:
    """Seconds after the frame's start at which the decaying count rate has its average: ln(x / (1 - exp(-x))) / lambda.

    T is Actual Frame Duration (0018,1242); PS3.3 C.8.9.4.1.1.
    """
    duration_s = positive(ds, "ActualFrameDuration", "(0018,1242)") / 1000
    rate = math.log(2) / half_life_s(ds)
    x = rate * duration_s
    return math.log(x / -math.expm1(-x)) / rate


def half_life_s(ds: Dataset) -> float:
    """Radionuclide Half Life (0018,1075)."""
    return positive(isotope(ds), "RadionuclideHalfLife", "(0018,1075)", ds)


def injection(ds: Dataset, start: datetime) -> datetime:
    """Radiopharmaceutical Start DateTime (0018,1078), else Start Time (0018,1072) on the day that fits the scan.

    A start time later than the scan's was the day before: the scan crossed midnight. Of a long-lived isotope the start
    time alone fits several days, and the day is not guessed.

    Raises:
        MissingAttribute: neither is there, or one cannot be read.
        UnknownUnits: the two contradict each other by more than a minute, or the day cannot be told.
    """
    item = isotope(ds)
    stated, clock = (
        value(item, keyword, ds) for keyword in ("RadiopharmaceuticalStartDateTime", "RadiopharmaceuticalStartTime")
    )
    if not stated and not clock:
        raise MissingAttribute(
            f"{named(ds)} has neither RadiopharmaceuticalStartDateTime (0018,1078) nor RadiopharmaceuticalStartTime "
            "(0018,1072), so the dose at the scan is unknown; add one"
        )
    at = parsed(ds, "RadiopharmaceuticalStartTime", clock, _clock) if clock else None
    if stated:
        moment = local(ds, "RadiopharmaceuticalStartDateTime", stated)
        _check_clocks(ds, moment, at)
        return moment
    assert at is not None
    return _latest_before(ds, at, start)


def _latest_before(ds: Dataset, at: time, start: datetime) -> datetime:
    """The only day on which an injection at `at` could still be imaged at `start`."""
    same_day = datetime.combine(start.date(), at)
    latest = same_day if same_day <= start else same_day - _DAY
    oldest_s = MOST_HALF_LIVES * half_life_s(ds)
    if (start - (latest - _DAY)).total_seconds() <= oldest_s:
        raise UnknownUnits(
            f"{named(ds)}: RadiopharmaceuticalStartTime (0018,1072) {at:%H:%M:%S} has no date, and with a half-life of "
            f"{half_life_s(ds):.0f} s more than one day fits the scan at {start:%Y-%m-%d %H:%M:%S}; add "
            "RadiopharmaceuticalStartDateTime (0018,1078)"
        )
    return latest


def _check_clocks(ds: Dataset, moment: datetime, at: time | None) -> None:
    """Start DateTime and Start Time show one clock, whatever the day."""
    if at is None:
        return
    apart_s = (datetime.combine(moment.date(), at) - moment).total_seconds() % _DAY.total_seconds()
    if min(apart_s, _DAY.total_seconds() - apart_s) > _SAME_CLOCK_S:
        raise UnknownUnits(
            f"{named(ds)}: RadiopharmaceuticalStartDateTime (0018,1078) is {moment:%H:%M:%S} on the scanner's clock, "
            f"but RadiopharmaceuticalStartTime (0018,1072) is {at:%H:%M:%S}; correct one of them, or Timezone Offset "
            "From UTC (0008,0201)"
        )


def local(ds: Dataset, name: str, text: Any) -> datetime:
    """A DT on the wall clock of the scanner, as dates and times of the image are.

    An offset from UTC in `text` is converted where the image states its own, Timezone Offset From UTC (0008,0201);
    where it does not, the text's own clock is the only one known and is taken to be the scanner's.
    """
    moment = parsed(ds, name, text, _date_and_time)
    offset, own = moment.utcoffset(), _offset_from_utc(ds)
    wall = moment.replace(tzinfo=None)
    if offset is None or own is None:
        return wall
    if abs(offset - own) > _DAY:
        raise UnknownUnits(
            f"{named(ds)}: {name} {text} and Timezone Offset From UTC (0008,0201) {ds.TimezoneOffsetFromUTC} are more "
            "than 24 h apart; correct one of them"
        )
    return wall + (own - offset)


def _offset_from_utc(ds: Dataset) -> timedelta | None:
    text = value(ds, "TimezoneOffsetFromUTC")
    return parsed(ds, "TimezoneOffsetFromUTC (0008,0201)", text, _offset) if text else None


def _offset(text: Any) -> timedelta:
    """&ZZXX of PS3.5 table 6.2-1: -1200 to +1400."""
    found = re.fullmatch(r"([+-])(\d\d)([0-5]\d)", str(text).strip())
    if found is None or not -1200 <= int(str(text)) <= 1400:
        raise ValueError(text)
    return timedelta(hours=int(found[2]), minutes=int(found[3])) * (-1 if found[1] == "-" else 1)


def _moment(ds: Dataset, day: str, clock: str, tags: str) -> datetime:
    day_text, clock_text = value(ds, day), value(ds, clock)
    if not day_text or not clock_text:
        raise MissingAttribute(
            f"{named(ds)} has no {day} or no {clock} {tags}, so the dose at the scan is unknown; add it"
        )
    return datetime.combine(parsed(ds, day, day_text, _date), parsed(ds, clock, clock_text, _clock))


def _date(text: Any) -> date:
    found = DA(str(text))
    return date(found.year, found.month, found.day)


def _clock(text: Any) -> time:
    """A TM to the minute at least: one to the hour would shift the dose by up to a third (F-18)."""
    if len(str(text).split(".")[0].strip()) < 4:
        raise ValueError(text)
    found = TM(str(text))
    return time(found.hour, found.minute, found.second, found.microsecond)


def _date_and_time(text: Any) -> datetime:
    """A DT to the minute at least: one that is only a date is no time."""
    found = re.match(r"\d+", str(text))
    if found is None or len(found[0]) < 12:
        raise ValueError(text)
    written = re.search(r"[+-]\d*$", str(text).strip())
    if written is not None:
        _offset(written[0])
    moment = DT(str(text).strip())
    return datetime.combine(moment.date(), moment.timetz())
