"""What tells the volumes of one series apart: time points, echoes, b-values, magnitude and phase, passes.

Slices at one place in the patient belong to different volumes. The attribute that has as many values as there are
slices at one place, each of them once there, is what the series was split by; two or three attributes together may be,
too (each b-value in each direction). Times differ from slice to slice as well, so their order at each place counts.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dicom_io import diffusion, magnetic_resonance
from dicom_io.errors import DuplicatePositions
from dicom_io.slices import Slice
from dicom_io.volume import Float64

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

SAME_POSITION_MM = 0.01

# What tells images apart by how they were made, most telling first: (keyword, what a part is called).
_PHYSICS = (
    ("TemporalPositionIdentifier", "time"),  # (0020,0100)
    ("TriggerTime", "trigger time"),  # (0018,1060)
    ("FrameReferenceTime", "frame"),  # (0054,1300), dynamic PET
    ("DiffusionBValue", "b-value"),  # (0018,9087) or the maker's own
    ("DiffusionGradientOrientation", "direction"),  # (0018,9089) or the maker's own
    ("EchoTime", "echo"),  # (0018,0081)
    ("EchoNumbers", "echo"),  # (0018,0086)
    ("InversionTime", "inversion"),  # (0018,0082)
    ("ComplexImageComponent", "component"),  # (0008,9208) or the maker's own: magnitude, phase, real, imaginary
    ("ImageType", "image type"),  # (0008,0008)
)
# When they were made, which every scanner stamps on every image: asked only where nothing of the above tells.
_CLOCKS = (
    ("AcquisitionNumber", "acquisition"),  # (0020,0012)
    ("AcquisitionDateTime", "time"),  # (0008,002A)
    ("AcquisitionTime", "time"),  # (0008,0032)
    ("ContentTime", "time"),  # (0008,0033)
)
SEPARATORS = (*_PHYSICS, *_CLOCKS)
# Attributes that together make at most this many parts' names; more would be found by chance.
_MOST_TOGETHER = 3
_OF_MAKERS: dict[str, Callable[[Dataset], Any]] = {
    "DiffusionBValue": diffusion.b_value,
    "DiffusionGradientOrientation": diffusion.direction,
    "ComplexImageComponent": magnetic_resonance.component,
}


@dataclass(frozen=True, eq=False)
class Part:
    """One volume's slices. words: "" where there is only one, "time 2 of 3".

    split_by: (keyword, value) of what tells it from the others; the value is "2 of 3" where the order at each place
    was used, because the values themselves differ from slice to slice.
    """

    words: str
    split_by: tuple[tuple[str, str], ...]
    slices: tuple[Slice, ...]


def parts(series_uid: str, slices: Sequence[Slice]) -> list[Part]:
    """The volumes of slices of one plane; one without words in the usual case.

    Raises:
        DuplicatePositions: several slices lie at one place, and nothing tells them apart.
    """
    positions = _by_position(slices)
    most = max(len(at) for at in positions)
    if most == 1:
        return [Part("", (), tuple(slices))]
    table = {
        keyword: found for keyword, _ in SEPARATORS if len(set(found := [_value(item, keyword) for item in slices])) > 1
    }
    places = {id(item): number for number, at in enumerate(positions) for item in at}
    at = np.array([places[id(item)] for item in slices])
    for separators, alone in ((_PHYSICS, True), (_PHYSICS, False), (_CLOCKS, True), (SEPARATORS, False)):
        differing = [one for one in separators if one[0] in table]
        for count in (1,) if alone else range(2, _MOST_TOGETHER + 1):
            for several in itertools.combinations(differing, count):
                keywords = [keyword for keyword, _ in several]
                if found := _by_value(slices, at, most, keywords, table):
                    return _named(" and ".join(noun for _, noun in several), found)
                if alone and (found := _by_rank(positions, most, keywords[0])):
                    return _named(several[0][1], found)
    passes = _by_rank(positions, most, "InstanceNumber")
    if passes and _follow_each_other(passes):
        # GE states how many time points there are (0020,0105), but not which one an image belongs to.
        noun = "time" if slices[0].get("NumberOfTemporalPositions") == most else "pass"
        return _named(noun, passes)
    raise _crowded(series_uid, positions)


def _crowded(series_uid: str, positions: Sequence[Sequence[Slice]]) -> DuplicatePositions:
    crowded = next(at for at in positions if len(at) > 1)
    place = crowded[0].position.tolist()
    uids = [
        item.text("SOPInstanceUID") + (f" frame {item.frame}" if item.instance is not None else "")
        for item in crowded[:2]
    ]
    return DuplicatePositions(
        f"series {series_uid}: {len(crowded)} slices lie at {place} mm and no attribute tells them apart (instances "
        f"{' and '.join(uids)}); send each slice once"
    )


_Found = list[tuple[tuple[tuple[str, str], ...], list[Slice]]]


def _named(noun: str, found: _Found) -> list[Part]:
    return [
        Part(f"{noun} {number} of {len(found)}", split_by, tuple(members))
        for number, (split_by, members) in enumerate(found, start=1)
    ]


def in_order(slices: Sequence[Slice]) -> list[Slice]:
    """Ascending along the normal of the first slice (row direction x column direction)."""
    normal = slices[0].normal
    along = np.array([item.position for item in slices]) @ normal
    return [slices[index] for index in np.argsort(along, kind="stable")]


def _by_position(slices: Sequence[Slice]) -> list[list[Slice]]:
    """Slices gathered by their place along the normal, and across it, within 0.01 mm."""
    positions: list[list[Slice]] = []
    last: Float64 | None = None
    for item in in_order(slices):
        if last is not None and np.abs(item.position - last).max() < SAME_POSITION_MM:
            positions[-1].append(item)
        else:
            positions.append([item])
            last = item.position
    return positions


def _value(item: Slice, keyword: str) -> Any:
    """A value that sorts, or None where the attribute is absent or empty."""
    value = _OF_MAKERS[keyword](item.dataset) if keyword in _OF_MAKERS else item.get(keyword)
    if value is None or value == "":
        return None
    if keyword == "ImageType":
        return tuple(magnetic_resonance.image_kinds(item.dataset))
    if keyword == "DiffusionGradientOrientation":
        return tuple(value)
    if keyword == "InversionTime" and not isinstance(value, (int, float, str)):
        return tuple(map(float, value))
    return float(value) if isinstance(value, (int, float)) else str(value)


def _by_value(
    slices: Sequence[Slice],
    at: npt.NDArray[np.int_],
    most: int,
    keywords: Sequence[str],
    table: Mapping[str, list[Any]],
) -> _Found:
    """Parts that share all values; only where there are as many as slices at one place, each there once at most.

    at: number of the place of each slice. table: the values of each slice, by keyword. Of several attributes one may be
    absent from a part (no direction at b = 0), never all.
    """
    values = list(zip(*(table[keyword] for keyword in keywords), strict=True))
    wanted = set(values)
    if len(wanted) != most or any(all(one is None for one in value) for value in wanted):
        return []
    if len(set(zip(at.tolist(), values, strict=True))) < len(slices):
        return []
    ordered = sorted(wanted, key=lambda value: [(one is not None, one) if one is not None else () for one in value])
    return [
        (
            tuple((keyword, _shown(one)) for keyword, one in zip(keywords, chosen, strict=True)),
            [item for item, value in zip(slices, values, strict=True) if value == chosen],
        )
        for chosen in ordered
    ]


def _shown(value: Any) -> str:
    if value is None:
        return "absent"
    if isinstance(value, tuple):
        return "\\".join(map(_shown, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _by_rank(positions: Sequence[Sequence[Slice]], most: int, keyword: str) -> _Found:
    """The n-th smallest value at each position makes part n: times that differ from slice to slice as well."""
    found: _Found = [(((keyword, f"{number} of {most}"),), []) for number in range(1, most + 1)]
    for at in positions:
        values = {id(item): _value(item, keyword) for item in at}
        if len(at) != most or None in values.values() or len(set(values.values())) < most:
            return []
        for (_, part), item in zip(found, sorted(at, key=lambda item: values[id(item)]), strict=True):
            part.append(item)
    return found


def _follow_each_other(passes: _Found) -> bool:
    """Whether Instance Numbers run over all positions once, then over all again: only so far are they trusted."""
    numbers = [[int(item.get("InstanceNumber")) for item in one] for _, one in passes]
    return all(max(one) < min(next_one) for one, next_one in itertools.pairwise(numbers))
