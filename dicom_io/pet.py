"""Standardised uptake value by body weight (SUVbw) from the attributes of a PET series.

    SUVbw [g/ml] = activity [Bq/ml] * weight [g] / dose [Bq], the dose decayed to when the image is corrected to

Rules: PS3.3 C.8.9.1 (PET Series), C.8.9.2 (PET Isotope), C.8.9.4 (PET Image); the choice of times follows the QIBA
FDG-PET profile's vendor-neutral scheme. Symbols: T frame duration, lambda = ln 2 / half-life.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from pydicom.valuerep import DA, DT, TM

from dicom_io.errors import MissingAttribute, UnknownUnits

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

T = TypeVar("T")

SUVBW = "g/ml{SUVbw}"
# After ten half-lives a thousandth is left: nobody images that, so a date is wrong.
_MOST_HALF_LIVES = 10
# The smallest dose that could be meant in Bq; numbers below are MBq or mCi by mistake.
_LEAST_DOSE_BQ = 1e5
# What is read from one slice and must hold for all of them; the second group stands in the items of
# Radiopharmaceutical Information Sequence (0054,0016).
_OF_THE_SERIES = (
    ("Units", "(0054,1001)"),
    ("SUVType", "(0054,1006)"),
    ("DecayCorrection", "(0054,1102)"),
    ("PatientWeight", "(0010,1030)"),
)
_OF_THE_DOSE = (
    ("RadionuclideTotalDose", "(0018,1074)"),
    ("RadionuclideHalfLife", "(0018,1075)"),
    ("RadiopharmaceuticalStartDateTime", "(0018,1078)"),
    ("RadiopharmaceuticalStartTime", "(0018,1072)"),
)


def suvbw_factor(series: Sequence[Dataset]) -> float:
    """g/ml of SUVbw per unit of rescaled value, for all slices of one series.

    series: every slice, since the scan start depends on the earliest acquisition.
    Units (0054,1001) GML is taken as it is (1.0); BQML needs Corrected Image (0028,0051) with ATTN and DECY. Decay
    Correction (0054,1102) START decays the dose from injection to the scan start, ADMIN takes it as injected.

    Raises:
        UnknownUnits: other units, an SUV Type (0054,1006) other than BW, a correction is missing, Decay Correction is
            NONE, times and dose contradict each other, or slices contradict each other in any of these.
        MissingAttribute: weight, dose, half-life or a time is absent, empty or zero.
    """
    first = series[0]
    _check_agreement(series)
    units = first.get("Units") or ""
    if units == "GML":
        return _already_suv(first)
    if units != "BQML":
        raise UnknownUnits(
            f"{_named(first)}: Units (0054,1001) are {units or 'absent'}, and only BQML and GML give an SUV; "
            "reconstruct in BQML"
        )
    _check_corrections(series)
    weight_g = 1000 * _positive(first, "PatientWeight", "(0010,1030)")
    return weight_g / _dose_bq(series)


def _check_agreement(series: Sequence[Dataset]) -> None:
    """A series of which half was corrected would come out in two scales, or in the wrong one: nobody knows which."""
    for keyword, tag in (*_OF_THE_SERIES, *_OF_THE_DOSE):
        in_items = (keyword, tag) in _OF_THE_DOSE
        values = {_stated(ds, keyword, in_items) for ds in series}
        if len(values) > 1:
            raise UnknownUnits(
                f"{_named(series[0])}: {keyword} {tag} differs between slices ({', '.join(sorted(values))}), so no one "
                "SUV holds for all; send the whole series with the right value"
            )


def _stated(ds: Dataset, keyword: str, in_items: bool) -> str:
    """What a slice says of an attribute, or of one in the items of its Radiopharmaceutical Information Sequence."""
    owners = (ds.get("RadiopharmaceuticalInformationSequence") or ()) if in_items else (ds,)
    return " and ".join(_shown(_value(owner, keyword, ds)) for owner in owners) or "absent"


def _shown(value: Any) -> str:
    """Text that is the same for the same value: 70 and 70.0, 090000 and 090000.00."""
    if value is None or value == "":
        return "absent"
    if isinstance(value, float | int):
        return f"{value:.12g}"
    text = str(value)
    return text.rstrip("0").rstrip(".") if "." in text else text


def _already_suv(ds: Dataset) -> float:
    """SUV Type (0054,1006) is body weight where it is absent (PS3.3 C.8.9.1)."""
    if (ds.get("SUVType") or "BW") != "BW":
        raise UnknownUnits(f"{_named(ds)}: SUV Type (0054,1006) is {ds.SUVType}, not BW; send it in BQML or as SUVbw")
    return 1.0


def _check_corrections(series: Sequence[Dataset]) -> None:
    for ds in series:
        done = ds.get("CorrectedImage") or ()
        done = (done,) if isinstance(done, str) else tuple(done)
        lacking = [name for name in ("ATTN", "DECY") if name not in done]
        if lacking:
            raise UnknownUnits(
                f"{_named(ds)}: Corrected Image (0028,0051) is {list(done)} and lacks {' and '.join(lacking)}, so "
                "BQML are not activities in the patient; send the corrected series"
            )


def _dose_bq(series: Sequence[Dataset]) -> float:
    """The dose at the time that the images are decay-corrected to."""
    first = series[0]
    isotope = _isotope(first)
    dose = _positive(isotope, "RadionuclideTotalDose", "(0018,1074)", first)
    if dose < _LEAST_DOSE_BQ:
        raise UnknownUnits(
            f"{_named(first)}: RadionuclideTotalDose (0018,1074) is {dose:g}, too little for Bq; correct it if it is "
            "in MBq"
        )
    correction = first.get("DecayCorrection") or ""
    if correction == "ADMIN":
        return dose
    if correction != "START":
        raise UnknownUnits(
            f"{_named(first)}: Decay Correction (0054,1102) is {correction or 'absent'}; START or ADMIN give an SUV, "
            "reconstruct with one of them"
        )
    half_life_s = _positive(isotope, "RadionuclideHalfLife", "(0018,1075)", first)
    start = scan_start(series)
    elapsed_s = (start - injection(first, start)).total_seconds()
    if not 0 <= elapsed_s <= _MOST_HALF_LIVES * half_life_s:
        raise UnknownUnits(
            f"{_named(first)}: the injection lies {elapsed_s:.0f} s before the scan start at "
            f"{start:%Y-%m-%d %H:%M:%S}, which a half-life of {half_life_s:.0f} s makes impossible; correct "
            "Radiopharmaceutical Start DateTime (0018,1078) or Start Time (0018,1072)"
        )
    return dose * math.pow(2.0, -elapsed_s / half_life_s)


def scan_start(series: Sequence[Dataset]) -> datetime:
    """The time that Decay Correction START refers to.

    Series Date and Time if not later than the earliest acquisition; a post-processed series has a later one. Then GE's
    own scan time (0009,100D), else acquisition time less Frame Reference Time (0054,1300) plus the frame's average
    count rate time. Raises MissingAttribute where none of these can be told.
    """
    earliest = min(series, key=acquisition)
    series_start = _moment(earliest, "SeriesDate", "SeriesTime", "(0008,0021) and (0008,0031)")
    if series_start <= acquisition(earliest):
        return series_start
    stated = _ge_scan_time(earliest)
    if stated is not None:
        return stated
    reference_s = _number(earliest, "FrameReferenceTime", "(0054,1300)") / 1000
    return acquisition(earliest) - timedelta(seconds=reference_s - average_count_rate_time_s(earliest))


def average_count_rate_time_s(ds: Dataset) -> float:
    """Seconds after the frame's start at which the decaying count rate has its average: ln(x / (1 - exp(-x))) / lambda.

    x = lambda T, T = Actual Frame Duration (0018,1242); PS3.3 C.8.9.4.1.1.
    """
    duration_s = _positive(ds, "ActualFrameDuration", "(0018,1242)") / 1000
    rate = math.log(2) / _positive(_isotope(ds), "RadionuclideHalfLife", "(0018,1075)", ds)
    x = rate * duration_s
    return math.log(x / -math.expm1(-x)) / rate


def injection(ds: Dataset, start: datetime) -> datetime:
    """Radiopharmaceutical Start DateTime (0018,1078), else Start Time (0018,1072) on the day of `start`.

    A start time later than the scan's was the day before: the scan crossed midnight.
    """
    isotope = _isotope(ds)
    stated = _value(isotope, "RadiopharmaceuticalStartDateTime", ds)
    if stated:
        return _parsed(ds, "RadiopharmaceuticalStartDateTime", stated, _local)
    clock = _value(isotope, "RadiopharmaceuticalStartTime", ds)
    if not clock:
        raise MissingAttribute(
            f"{_named(ds)} has neither RadiopharmaceuticalStartDateTime (0018,1078) nor RadiopharmaceuticalStartTime "
            "(0018,1072), so the dose at the scan is unknown; add one"
        )
    same_day = datetime.combine(start.date(), _parsed(ds, "RadiopharmaceuticalStartTime", clock, _clock))
    return same_day if same_day <= start else same_day - timedelta(days=1)


def acquisition(ds: Dataset) -> datetime:
    """Acquisition Date (0008,0022), or Series Date where that is empty, and Acquisition Time (0008,0032)."""
    day = "AcquisitionDate" if _value(ds, "AcquisitionDate", ds) else "SeriesDate"
    return _moment(ds, day, "AcquisitionTime", "(0008,0022) and (0008,0032)")


def _ge_scan_time(ds: Dataset) -> datetime | None:
    """(0009,xx0D) of GE's block GEMS_PETD_01: the scan's date and time."""
    try:
        value = ds.private_block(0x0009, "GEMS_PETD_01")[0x0D].value
    except KeyError:
        return None
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)
    return _parsed(ds, "GE's scan time (0009,100D)", text.strip("\0 "), _local) if text.strip("\0 ") else None


def _isotope(ds: Dataset) -> Dataset:
    items = ds.get("RadiopharmaceuticalInformationSequence") or []
    if len(items) != 1:
        raise MissingAttribute(
            f"{_named(ds)}: Radiopharmaceutical Information Sequence (0054,0016) has {len(items)} items, so there is "
            "no one dose to divide by; send a series with exactly one"
        )
    return items[0]


def _number(ds: Dataset, keyword: str, tag: str, owner: Dataset | None = None) -> float:
    value = _value(ds, keyword, owner or ds)
    if value is None or value == "":
        raise MissingAttribute(f"{_named(owner or ds)} has no {keyword} {tag}, without which there is no SUV; add it")
    return _parsed(owner or ds, keyword, value, float)


def _value(ds: Dataset, keyword: str, owner: Dataset) -> Any:
    """pydicom parses a value when it is asked for; one that it cannot parse is worth no more than a missing one."""
    try:
        return ds.get(keyword)
    except (ValueError, NotImplementedError, OverflowError) as error:
        raise MissingAttribute(f"{_named(owner)}: {keyword} cannot be read ({error}); correct it") from error


def _parsed(ds: Dataset, name: str, value: Any, parse: Callable[[Any], T]) -> T:
    try:
        return parse(value)
    except (ValueError, TypeError, AttributeError) as error:
        raise MissingAttribute(f"{_named(ds)}: {name} is {str(value)!r}, which cannot be read; correct it") from error


def _positive(ds: Dataset, keyword: str, tag: str, owner: Dataset | None = None) -> float:
    value = _number(ds, keyword, tag, owner)
    if not value > 0:
        raise MissingAttribute(f"{_named(owner or ds)}: {keyword} {tag} is {value:g}, which gives no SUV; correct it")
    return value


def _moment(ds: Dataset, day: str, clock: str, tags: str) -> datetime:
    if not _value(ds, day, ds) or not _value(ds, clock, ds):
        raise MissingAttribute(
            f"{_named(ds)} has no {day} or no {clock} {tags}, so the dose at the scan is unknown; add it"
        )
    return datetime.combine(_parsed(ds, day, ds.get(day), _day), _parsed(ds, clock, ds.get(clock), _clock))


def _day(value: Any) -> date:
    parsed = DA(str(value))
    return date(parsed.year, parsed.month, parsed.day)


def _clock(value: Any) -> time:
    parsed = TM(str(value))
    return time(parsed.hour, parsed.minute, parsed.second, parsed.microsecond)


def _local(text: Any) -> datetime:
    """On the wall clock of the scanner: the other attributes have no time zone, so an offset is dropped."""
    value = DT(str(text))
    return datetime(value.year, value.month, value.day, value.hour, value.minute, value.second, value.microsecond)


def _named(ds: Dataset) -> str:
    return f"PET series {ds.get('SeriesInstanceUID', 'without a UID')}"
