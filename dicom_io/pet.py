"""Standardised uptake values (SUV) from the attributes of a PET series.

    SUV = activity [Bq/ml] * norm / dose [Bq], the dose decayed to when the image is corrected to

norm: body weight in g (SUVbw, g/ml), body surface area in cm2 (SUVbsa, cm2/ml), lean body mass in g (SUVlbm, g/ml);
`body_size` has the formulas, `pet_times` the times. Rules: PS3.3 C.8.9.1 (PET Series), C.8.9.2 (PET Isotope), C.8.9.4
(PET Image), PS3.16 CID 85 (units); the vendor-neutral pseudo-code of the QIBA FDG-PET profile for Philips' counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from dicom_io import body_size, pet_times
from dicom_io.errors import Rejected, UnknownUnits
from dicom_io.pet_attributes import check_agreement, isotope, named, parsed, positive, private_text, value

if TYPE_CHECKING:
    from datetime import datetime

    from pydicom.dataset import Dataset

SuvKind = Literal["BW", "BSA", "LBM"]
Float64 = npt.NDArray[np.float64]

_UNITS: dict[str, str] = {"BW": "g/ml{SUVbw}", "BSA": "cm2/ml{SUVbsa}", "LBM": "g/ml{SUVlbm(Janma)}"}
# SUV Type (0054,1006) of what is computed here too, and what the others are.
_KINDS: dict[str, SuvKind] = {"BW": "BW", "BSA": "BSA", "LBMJANMA": "LBM"}
_FOREIGN = {
    "LBM": "lean body mass by James's formula",
    "LBMJAMES128": "lean body mass by James's formula with 128 for 120",
    "IBW": "ideal body weight",
}
# The smallest dose that could be meant in Bq; numbers below are MBq or mCi by mistake.
_LEAST_DOSE_BQ = 1e5
_PHILIPS = (0x7053, "Philips PET Private Group")
_PHILIPS_SUV = (0x00, "SUV Scale Factor (7053,xx00)")
_PHILIPS_ACTIVITY = (0x09, "Activity Concentration Scale Factor (7053,xx09)")
# What must hold for all slices; the second group stands in the items of (0054,0016).
_OF_THE_SERIES = (
    ("Units", "(0054,1001)"),
    ("SUVType", "(0054,1006)"),
    ("DecayCorrection", "(0054,1102)"),
    ("PatientWeight", "(0010,1030)"),
    ("TimezoneOffsetFromUTC", "(0008,0201)"),
)
_OF_THE_DOSE = (
    ("RadionuclideTotalDose", "(0018,1074)"),
    ("RadionuclideHalfLife", "(0018,1075)"),
    ("RadiopharmaceuticalStartDateTime", "(0018,1078)"),
    ("RadiopharmaceuticalStartTime", "(0018,1072)"),
)
_SIZE, _SEX = ("PatientSize", "(0010,1020)"), ("PatientSex", "(0010,0040)")
_OF_THE_BODY: dict[str, tuple[tuple[str, str], ...]] = {"BW": (), "BSA": (_SIZE,), "LBM": (_SIZE, _SEX)}


def suv_factors(slices: Sequence[Dataset], *, series: Sequence[Dataset] | None = None, kind: SuvKind = "BW") -> Float64:
    """SUV of `kind` per unit of rescaled value: one factor for each of `slices`.

    series: all slices of the series where `slices` is a part of it: the scan start depends on the earliest acquisition.
    Units (0054,1001) and what they need:

    - BQML: Corrected Image (0028,0051) with ATTN, and DECY unless Decay Correction (0054,1102) is NONE. START decays
      the dose from injection to the scan start, ADMIN takes it as injected, NONE decays it to when each slice's frame
      had its mean activity, so that the factors differ.
    - CNTS: Philips' SUV Scale Factor (7053,xx00), else Activity Concentration Scale Factor (7053,xx09) and as BQML.
    - GML, CM2ML: taken as they are where SUV Type (0054,1006) is `kind`, else converted by the patient's size.

    Raises:
        UnknownUnits: other units, an SUV Type by another formula, a correction is missing or contradicts another,
            times, dose or body size are impossible, or slices contradict each other in any of these.
        MissingAttribute: weight, size, sex, dose, half-life or a time that is needed is absent, empty or zero.
        Rejected: `kind` is unknown.
    """
    whole = list(series or slices)
    units_of(kind)
    check_agreement(whole, _OF_THE_SERIES, _OF_THE_DOSE)
    units = value(whole[0], "Units") or ""
    if units in ("GML", "CM2ML"):
        return np.full(len(slices), _per_stored_suv(whole, kind))
    if units == "BQML":
        return _per_activity(slices, whole, kind)
    if units == "CNTS":
        return _per_count(slices, whole, kind)
    raise UnknownUnits(
        f"{named(whole[0])}: Units (0054,1001) are {units or 'absent'}, and only BQML, GML, CM2ML and Philips' CNTS "
        "give an SUV; reconstruct in BQML"
    )


def units_of(kind: SuvKind) -> str:
    """UCUM of an SUV. Raises Rejected for a kind that is not known here.

    PS3.16 CID 85; g/ml{SUVlbm} there is James's formula, which is not computed here.
    """
    if kind not in _UNITS:
        raise Rejected(f"SUV kind {kind} is unknown; ask for one of {', '.join(_UNITS)}")
    return _UNITS[kind]


# --- units of the stored values ---------------------------------------------------------------------------------------


def _per_stored_suv(series: Sequence[Dataset], kind: SuvKind) -> float:
    """A stored SUV times its own norm and divided by ours: dose and activity stay the same."""
    stored = _stored_kind(series[0])
    return 1.0 if stored == kind else _norm(series, kind) / _norm(series, stored)


def _stored_kind(ds: Dataset) -> SuvKind:
    """SUV Type (0054,1006); where it is absent GML is by body weight (PS3.3 C.8.9.1), and only surface is in cm2."""
    units = str(ds.Units)
    stated = str(value(ds, "SUVType") or ("BW" if units == "GML" else "BSA"))
    if stated not in _KINDS:
        meaning = f", {_FOREIGN[stated]}" if stated in _FOREIGN else ""
        raise UnknownUnits(
            f"{named(ds)}: SUV Type (0054,1006) is {stated}{meaning}, which is not computed here; send it in BQML or "
            "as BW, BSA or LBMJANMA"
        )
    if (units == "CM2ML") != (stated == "BSA"):
        raise UnknownUnits(
            f"{named(ds)}: SUV Type (0054,1006) {stated} contradicts Units (0054,1001) {units}; correct one of them"
        )
    return _KINDS[stated]


def _per_activity(slices: Sequence[Dataset], series: Sequence[Dataset], kind: SuvKind) -> Float64:
    _check_corrections(series)
    norm = _norm(series, kind)
    return norm / _doses_bq(slices, series)


def _per_count(slices: Sequence[Dataset], series: Sequence[Dataset], kind: SuvKind) -> Float64:
    """Philips' own factors, which its scanner computed for each slice; 0 means that it computed none."""
    suv_of_all = [_philips(ds, *_PHILIPS_SUV) for ds in series]
    if all(suv_of_all):
        _check_corrections(series)
        _check_corrected_for_decay(series[0])
        by_weight = np.array([_philips(ds, *_PHILIPS_SUV) for ds in slices], np.float64)
        return by_weight if kind == "BW" else by_weight * (_norm(series, kind) / _norm(series, "BW"))
    if any(suv_of_all) or not all(_philips(ds, *_PHILIPS_ACTIVITY) for ds in series):
        raise UnknownUnits(
            f"{named(series[0])}: Units (0054,1001) are CNTS, and neither Philips' {_PHILIPS_SUV[1]} nor its "
            f"{_PHILIPS_ACTIVITY[1]} is there, and above 0, in all slices; reconstruct in BQML"
        )
    return np.array([_philips(ds, *_PHILIPS_ACTIVITY) for ds in slices]) * _per_activity(slices, series, kind)


def _philips(ds: Dataset, element: int, name: str) -> float:
    """A factor of Philips' private block, 0 where it is absent or empty."""
    text = private_text(ds, *_PHILIPS, element)
    factor = parsed(ds, f"Philips' {name}", text, float) if text else 0.0
    if not 0 <= factor < math.inf:
        raise UnknownUnits(f"{named(ds)}: Philips' {name} is {factor:g}, which gives no SUV; correct it")
    return factor


# --- body and dose ----------------------------------------------------------------------------------------------------


def _norm(series: Sequence[Dataset], kind: SuvKind) -> float:
    """g, cm2 or g."""
    check_agreement(series, _OF_THE_BODY[kind])
    if kind == "BSA":
        return body_size.body_surface_area_cm2(series[0])
    if kind == "LBM":
        return body_size.lean_body_mass_g(series[0])
    return 1000 * positive(series[0], "PatientWeight", "(0010,1030)")


def _check_corrections(series: Sequence[Dataset]) -> None:
    undecayed = value(series[0], "DecayCorrection") == "NONE"
    for ds in series:
        done = value(ds, "CorrectedImage") or ()
        done = (done,) if isinstance(done, str) else tuple(done)
        lacking = [name for name in (("ATTN",) if undecayed else ("ATTN", "DECY")) if name not in done]
        if lacking:
            raise UnknownUnits(
                f"{named(ds)}: Corrected Image (0028,0051) is {list(done)} and lacks {' and '.join(lacking)}, so "
                f"{ds.Units} are not activities in the patient; send the corrected series"
            )
        if undecayed and "DECY" in done:
            raise UnknownUnits(
                f"{named(ds)}: Corrected Image (0028,0051) is {list(done)} with DECY, but Decay Correction (0054,1102) "
                "is NONE; correct one of them"
            )


def _check_corrected_for_decay(ds: Dataset) -> None:
    """A maker's SUV per count is meant for images that are corrected for decay."""
    correction = value(ds, "DecayCorrection") or "absent"
    if correction not in ("START", "ADMIN"):
        raise UnknownUnits(
            f"{named(ds)}: Decay Correction (0054,1102) is {correction}, and Philips' SUV Scale Factor needs START or "
            "ADMIN; reconstruct with one of them"
        )


def _doses_bq(slices: Sequence[Dataset], series: Sequence[Dataset]) -> Float64:
    """The dose at the time that each slice is decay-corrected to."""
    first = series[0]
    dose = _injected_bq(first)
    correction = value(first, "DecayCorrection") or ""
    if correction == "ADMIN":
        return np.full(len(slices), dose)
    if correction == "START":
        start = pet_times.scan_start(series)
        return np.full(len(slices), dose * _left(first, start, [start])[0])
    if correction == "NONE":
        pet_times.check_frame_times(series)
        start = min(pet_times.acquisition(ds) for ds in series)
        return dose * _left(first, start, [pet_times.average_count_rate_time(ds) for ds in slices])
    raise UnknownUnits(
        f"{named(first)}: Decay Correction (0054,1102) is {correction or 'absent'}; START, ADMIN or NONE give an SUV, "
        "reconstruct with one of them"
    )


def _injected_bq(ds: Dataset) -> float:
    dose = positive(isotope(ds), "RadionuclideTotalDose", "(0018,1074)", ds)
    if dose < _LEAST_DOSE_BQ:
        raise UnknownUnits(
            f"{named(ds)}: RadionuclideTotalDose (0018,1074) is {dose:g}, too little for Bq; correct it if it is in MBq"
        )
    return dose


def _left(ds: Dataset, start: datetime, times: Sequence[datetime]) -> Float64:
    """The share of the dose that is left at `times`. start: of the scan."""
    half_life_s = pet_times.half_life_s(ds)
    injected = pet_times.injection(ds, start)
    elapsed_s = (start - injected).total_seconds()
    if not 0 <= elapsed_s <= pet_times.MOST_HALF_LIVES * half_life_s:
        raise UnknownUnits(
            f"{named(ds)}: the injection lies {elapsed_s:.0f} s before the scan start at {start:%Y-%m-%d %H:%M:%S}, "
            f"which a half-life of {half_life_s:.0f} s makes impossible; correct Radiopharmaceutical Start DateTime "
            "(0018,1078) or Start Time (0018,1072)"
        )
    seconds = np.array([(at - injected).total_seconds() for at in times], np.float64)
    return np.asarray(np.exp2(-seconds / half_life_s), np.float64)
