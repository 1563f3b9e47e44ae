"""Stored values into numbers that mean something: which attributes say how, and which of them was used.

One image may state three scalings. The Modality LUT (Rescale Slope and Intercept; PS3.3 C.11.1) is the one that
every viewer uses, and the default. A Real World Value Mapping (0040,9096) (PS3.3 C.7.6.16.2.11) gives a quantity with
its unit. Philips' MR states in private elements how displayed values become the scanner's own floating point numbers,
which can be compared between series:

    DV = SV * RS + RI                 displayed value: stored value, Rescale Slope, Intercept
    FP = (SV + RI / RS) / SS = DV / (RS * SS)      SS: Scale Slope (2005,xx0E) of "Philips MR Imaging DD 001"
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from pydicom.pixels import apply_modality_lut

from dicom_io import pixels, private
from dicom_io.errors import UnknownUnits
from dicom_io.volume import Float32

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

Scaling = Literal["rescale", "real-world", "philips"]
SCALINGS: tuple[Scaling, ...] = ("rescale", "real-world", "philips")
_WORDS = {
    "rescale": "Rescale Slope (0028,1053) and Intercept (0028,1052)",
    "real-world": "Real World Value Mapping (0040,9096)",
    "philips": "Philips' Scale Slope (2005,xx0E)",
}


@dataclass(frozen=True)
class Linear:
    """value = stored * slope + intercept. units: UCUM, "" where the attributes do not say."""

    slope: float
    intercept: float
    units: str = ""


def apply(ds: Dataset, scaling: Scaling, stored: npt.NDArray[Any], out: Float32, factor: float = 1.0) -> None:
    """Stored values of one image in the units of a scaling, times `factor`, into `out` of the same shape.

    Raises:
        UnknownUnits: the image does not state this scaling, or states it as a table of more than a line.
    """
    if scaling == "rescale" and ds.get("ModalityLUTSequence"):
        out[...] = _looked_up(ds, stored) * factor
        return
    line = linear(ds, scaling)
    pixels.linear(stored, line.slope * factor, line.intercept * factor, out)


def _looked_up(ds: Dataset, stored: npt.NDArray[Any]) -> npt.NDArray[Any]:
    try:
        return np.asarray(apply_modality_lut(stored, ds))
    except (AttributeError, ValueError, IndexError, TypeError, NotImplementedError) as error:
        raise UnknownUnits(
            f"instance {ds.get('SOPInstanceUID')}: its Modality LUT Sequence (0028,3000) cannot be used ({error}); "
            "correct it, or send the image with Rescale Slope and Intercept"
        ) from error


def linear(ds: Dataset, scaling: Scaling) -> Linear:
    """The line of a scaling. Raises UnknownUnits as `apply` does."""
    found = {"rescale": _rescale, "real-world": _real_world, "philips": _philips}[scaling](ds)
    if found is None:
        there = " and ".join(_WORDS[one] for one in stated(ds))
        raise UnknownUnits(
            f"instance {ds.get('SOPInstanceUID')} does not state {_WORDS[scaling]}; "
            + (f"it states {there}, ask for that" if there else "it states no scaling, ask for rescale, which is none")
        )
    return found


def stated(ds: Dataset) -> tuple[Scaling, ...]:
    """The scalings that an image states."""
    there = {
        "rescale": "RescaleSlope" in ds or "ModalityLUTSequence" in ds,
        "real-world": bool(ds.get("RealWorldValueMappingSequence")),
        "philips": _scale_slope(ds) is not None,
    }
    return tuple(one for one in SCALINGS if there[one])


def used(ds: Dataset, scaling: Scaling = "rescale") -> str:
    """Which attributes made the numbers, and which others are there and were not used, in words."""
    there = stated(ds)
    if scaling == "rescale" and "ModalityLUTSequence" in ds:
        words = "Modality LUT Sequence (0028,3000)"
    else:
        words = _WORDS[scaling] if scaling in there else "stored values"
    return "; ".join([words, *(f"{_WORDS[one]} is present and not used" for one in there if one != scaling)])


def _rescale(ds: Dataset) -> Linear:
    return Linear(*pixels.rescale(ds))


def _real_world(ds: Dataset) -> Linear | None:
    """The first item; several give the same pixels in other quantities (PS3.3 C.7.6.16.2.11.1)."""
    for item in ds.get("RealWorldValueMappingSequence") or ():
        slope, intercept = item.get("RealWorldValueSlope"), item.get("RealWorldValueIntercept")
        if slope is None or intercept is None:
            raise UnknownUnits(
                f"instance {ds.get('SOPInstanceUID')}: its Real World Value Mapping (0040,9096) is a table and no "
                "line, which is not used here; ask for another scaling"
            )
        units = item.get("MeasurementUnitsCodeSequence") or ()
        return Linear(float(slope), float(intercept), str(units[0].get("CodeValue", "")) if units else "")
    return None


def _philips(ds: Dataset) -> Linear | None:
    scale_slope = _scale_slope(ds)
    if not scale_slope:
        return None
    slope, intercept = pixels.rescale(ds)
    return Linear(1 / scale_slope, intercept / (slope * scale_slope), "1")


def _scale_slope(ds: Dataset) -> float | None:
    """(2005,xx0E); None where it is absent, 0 or no number."""
    found = private.numbers(ds, 0x2005, "Philips MR Imaging DD 001", 0x0E, "FL")
    return found[0] if found and np.isfinite(found[0]) and found[0] else None
