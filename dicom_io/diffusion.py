"""Diffusion weighting of an MR image: b-value in s/mm2 and gradient direction, as each maker states them.

The standard's attributes come first (PS3.3 C.8.13.5.9). Makers put them elsewhere in single-frame images; the elements
are those of their published conformance statements and of dcm2niix.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dicom_io import private
from dicom_io.dataset import value

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

# (group, creator, element, VR)
_B_VALUES = (
    (0x0019, "SIEMENS MR HEADER", 0x0C, "IS"),
    (0x2001, "Philips Imaging DD 001", 0x03, "FL"),
    (0x0065, "Image Private Header", 0x09, "FD"),  # United Imaging
)
_DIRECTIONS = (
    (0x0019, "SIEMENS MR HEADER", 0x0E, "FD"),
    (0x0065, "Image Private Header", 0x37, "FD"),
)
# GE adds 10 ** 9 to the b-value of newer scanners' images.
_GE_OFFSET = 1e9


def b_value(ds: Dataset) -> float | None:
    """Diffusion b-value (0018,9087), or the maker's own; None where none is stated."""
    stated = value(ds, "DiffusionBValue")
    if stated is not None and stated != "":
        return float(stated)
    for place in _B_VALUES:
        if found := private.numbers(ds, *place):
            return found[0]
    if found := private.numbers(ds, 0x0043, "GEMS_PARM_01", 0x39, "IS"):
        return found[0] % _GE_OFFSET
    return None


def direction(ds: Dataset) -> tuple[float, ...] | None:
    """Diffusion Gradient Orientation (0018,9089), or the maker's own, in the maker's axes; rounded, to tell images
    apart and nothing else. None where none is stated (b = 0, isotropic)."""
    stated = value(ds, "DiffusionGradientOrientation")
    found = tuple(float(number) for number in stated) if stated else ()
    for place in _DIRECTIONS:
        found = found or private.numbers(ds, *place)
    if not found:  # GE: three elements of one number each
        parts = [private.numbers(ds, 0x0019, "GEMS_ACQU_01", element, "DS") for element in (0xBB, 0xBC, 0xBD)]
        found = tuple(part[0] for part in parts) if all(parts) else ()
    return tuple(round(number, 4) for number in found) if found else None
