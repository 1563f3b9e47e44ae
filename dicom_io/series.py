"""Files to series, series to ordered slices, slices to volumes.

What one Series Instance UID (0020,000E) holds is often more than one volume: localizers of three planes, time points,
echoes, b-values. They are told apart here by attributes, and a series whose slices cannot be told apart is refused.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dicom_io import dataset, magnetic_resonance, mammography, pet, pixels
from dicom_io.errors import (
    DuplicatePositions,
    GapInSeries,
    MissingAttribute,
    Rejected,
    UnevenSlices,
    UnknownUnits,
)
from dicom_io.volume import Float32, Float64, Projection, Source, Volume

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

STACKED = ("CT", "MR", "PT")
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7."
# Modalities of objects that describe images and are none (PS3.3 C.7.3.1.1.1).
_NOT_IMAGES = ("SEG", "SR", "RTSTRUCT", "RTPLAN", "RTDOSE", "RTRECORD", "PR", "KO", "REG", "RWV", "DOC", "AU", "ECG")

GAP_FACTOR = 1.5
UNEVEN_SHARE, UNEVEN_MM = 0.05, 0.05
_SAME_POSITION_MM = 0.01
# Of direction cosines (0.06 degrees); makers' rounding gives 1e-5.
_SAME_ORIENTATION = 1e-3

# What tells volumes of one series apart, most telling first: (keyword, what a part is called).
_SEPARATORS = (
    ("TemporalPositionIdentifier", "time"),  # (0020,0100)
    ("TriggerTime", "trigger time"),  # (0018,1060)
    ("FrameReferenceTime", "frame"),  # (0054,1300), dynamic PET
    ("DiffusionBValue", "b-value"),  # (0018,9087)
    ("EchoTime", "echo"),  # (0018,0081)
    ("EchoNumbers", "echo"),  # (0018,0086)
    ("InversionTime", "inversion"),  # (0018,0082)
    ("ImageType", "image type"),  # (0008,0008): magnitude, phase, ...
    ("AcquisitionNumber", "acquisition"),  # (0020,0012)
    ("AcquisitionDateTime", "time"),  # (0008,002A)
    ("AcquisitionTime", "time"),  # (0008,0032)
    ("ContentTime", "time"),  # (0008,0033)
)
# Values that this module computes with; one that cannot be parsed refuses its series with a sentence.
_NEEDED = (
    *("Modality", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID", "SeriesDescription", "SyntheticData"),
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("ImageType", "InstanceNumber", "NumberOfTemporalPositions"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    *("RescaleSlope", "RescaleIntercept", "RescaleType", "ModalityLUTSequence", "ProtocolName", "ScanningSequence"),
    *("RepetitionTime", "ImagerPixelSpacing", "PatientOrientation", "ImageLaterality", "Laterality", "ViewPosition"),
    *("ViewCodeSequence", "AnatomicRegionSequence", "SharedFunctionalGroupsSequence"),
    *(keyword for keyword, _ in _SEPARATORS),
)


@dataclass(frozen=True, eq=False)
class Slice:
    """A data set with the hash of its bytes (`dataset.dataset_hash`)."""

    dataset: Dataset
    dataset_hash: str

    @property
    def source(self) -> Source:
        return Source(
            sop_class_uid=str(self.dataset.SOPClassUID),
            sop_instance_uid=str(self.dataset.SOPInstanceUID),
            dataset_hash=self.dataset_hash,
            synthetic=self.dataset.get("SyntheticData") == "YES",
        )


@dataclass(frozen=True, eq=False)
class SeriesGroup:
    """Slices of one series that can make one volume. part: "" or what tells it from the others, "time 2 of 3"."""

    series_uid: str
    part: str
    slices: tuple[Slice, ...]


@dataclass(frozen=True, eq=False)
class SeriesVolume:
    """A volume and the series it came from. datasets: in slice order, the same order as `volume.sources`.

    contrast: "T1", "T2", "FLAIR" for MR, else "". part: "" or which of several volumes of this series.
    """

    series_uid: str
    study_uid: str
    modality: str
    description: str
    contrast: str
    part: str
    datasets: tuple[Dataset, ...]
    volume: Volume


@dataclass(frozen=True, eq=False)
class SeriesProjection:
    """A projection (mammogram) and the data set it came from."""

    series_uid: str
    study_uid: str
    modality: str
    description: str
    dataset: Dataset
    projection: Projection


@dataclass(frozen=True)
class Readout:
    """All that could be read from some files, and a sentence for each thing that could not.

    refused: (Series Instance UID, sentence). left_aside: sentences on files that are no images of a kind read here.
    """

    volumes: tuple[SeriesVolume, ...]
    projections: tuple[SeriesProjection, ...]
    refused: tuple[tuple[str, str], ...]
    left_aside: tuple[str, ...]


def read_files(paths: Iterable[Path]) -> list[Slice]:
    """Read files, and all files below folders; a file that is there twice is read once.

    Raises:
        NotDicom: a file is no DICOM object or ends too early.
        Rejected: one SOP Instance UID with two contents.
    """
    slices = [Slice(*dataset.read_with_hash(path)) for path in files_below(paths)]
    for uid in _with_two_contents(slices):
        raise Rejected(f"instance {uid} is there with two contents; keep the one that is right")
    return _once(slices)


def files_below(paths: Iterable[Path]) -> list[Path]:
    """The files themselves and those in folders, sorted; hidden ones left out."""
    found: set[Path] = set()
    for path in map(Path, paths):
        below = path.rglob("*") if path.is_dir() else [path]
        found.update(file for file in below if file.is_file() and (not file.name.startswith(".") or file == path))
        if not path.exists():
            raise Rejected(f"{path} does not exist; give files or folders that do")
    return sorted(found)


def volumes(paths: Iterable[Path]) -> Readout:
    """Read everything that can be read; what cannot is named with its reason, and stops nothing else."""
    slices, left_aside = _readable(paths)
    by_series, refused = _one_content_each(slices)
    stacked: list[SeriesVolume] = []
    projected: list[SeriesProjection] = []
    for series_uid, members in sorted(by_series.items()):
        try:
            if members[0].dataset.Modality == "MG":
                pieces: Sequence[Slice | SeriesGroup] = members
            else:
                pieces = group(members)
        except Rejected as error:
            refused.append((series_uid, str(error)))
            continue
        for piece in pieces:
            try:
                if isinstance(piece, SeriesGroup):
                    stacked.append(_series_volume(piece, members))
                else:
                    projected.append(_series_projection(piece))
            except Rejected as error:
                refused.append((series_uid, str(error)))
    return Readout(tuple(stacked), tuple(projected), tuple(refused), tuple(left_aside))


def group(slices: Sequence[Slice]) -> list[SeriesGroup]:
    """Cut into groups that can each be stacked: by series, plane, matrix, and what tells slices at one position apart.

    Raises:
        DuplicatePositions: several slices lie at one position, and no attribute tells them apart.
        MissingAttribute: a slice has no position, orientation or spacing.
        Rejected: a Siemens mosaic, an enhanced multi-frame object or a colour picture.
    """
    by_series = defaultdict[str, list[Slice]](list)
    for item in slices:
        _refuse_unstackable(item.dataset)
        by_series[str(item.dataset.SeriesInstanceUID)].append(item)
    groups = []
    for series_uid, members in by_series.items():
        planes = _planes(members)
        for number, plane in enumerate(planes, start=1):
            prefix = [f"plane {number} of {len(planes)}"] if len(planes) > 1 else []
            for part, chosen in _told_apart(series_uid, plane):
                groups.append(SeriesGroup(series_uid, ", ".join([*prefix, *part]), tuple(in_order(chosen))))
    return groups


def stack(slices: Sequence[Slice], *, series: Sequence[Slice] = ()) -> Volume:
    """Stack the slices of one volume: CT in "[hnsf'U]", PT in "g/ml{SUVbw}", MR in "1".

    Order follows Image Position (Patient) (0020,0032) along the normal of Image Orientation (Patient) (0020,0037),
    ascending; Instance Number is not trusted. Stored values become modality units slice by slice: Rescale Slope
    (0028,1053), Intercept (0028,1052), PS3.3 C.11.1. series: all slices of the series where `slices` is one part of it
    (the scan start of a PET is a matter of the whole series).

    Raises:
        GapInSeries: a step is more than 1.5 times the median step.
        UnevenSlices: steps differ by more than 5 % and 0.05 mm.
        DuplicatePositions: two slices lie at one position.
        MissingAttribute, UnknownUnits: what the units need is not there (`pet.suvbw_factor`).
        Rejected: slices of several series, planes, matrices or frames of reference.
    """
    if not slices:
        raise Rejected("there are no slices to stack; send at least one image")
    for item in slices:
        _refuse_unstackable(item.dataset)
    series_uids = {str(item.dataset.SeriesInstanceUID) for item in slices}
    if len(series_uids) > 1 or len(_planes(slices)) > 1:
        raise Rejected(
            f"series {', '.join(sorted(series_uids))}: the slices differ in series, plane, matrix, pixel spacing or "
            "frame of reference and make no single volume; group them first"
        )
    ordered = in_order(slices)
    affine = _affine(ordered)
    return Volume(
        voxels=_voxels(ordered, [item.dataset for item in series or slices]),
        affine=affine,
        frame_of_reference_uid=str(ordered[0].dataset.get("FrameOfReferenceUID", "")),
        units=_units(ordered[0].dataset),
        sources=tuple(item.source for item in ordered),
    )


def in_order(slices: Sequence[Slice]) -> list[Slice]:
    """Ascending along the normal of the first slice (row direction x column direction)."""
    normal = _normal(slices[0].dataset)
    return sorted(slices, key=lambda item: float(_position(item.dataset) @ normal))


# --- what is read and what is not ---------------------------------------------------------------------------------


def _readable(paths: Iterable[Path]) -> tuple[list[Slice], list[str]]:
    """Images of the kinds that are read here, and a sentence on everything else."""
    slices: list[Slice] = []
    left_aside: list[str] = []
    for path in files_below(paths):
        try:
            item = Slice(*dataset.read_with_hash(path))
            dataset.check_values(item.dataset, ("Modality", "SeriesInstanceUID"))
        except Rejected as error:
            left_aside.append(str(error))
            continue
        reason = _why_left_aside(item.dataset)
        if reason:
            left_aside.append(reason)
        else:
            slices.append(item)
    return slices, left_aside


def _one_content_each(slices: Sequence[Slice]) -> tuple[dict[str, list[Slice]], list[tuple[str, str]]]:
    """Slices by Series Instance UID, and what is refused: series in which one UID stands for two contents.

    Without such a slice the series would have a gap, with it nobody knows which content is right.
    """
    doubtful = set(_with_two_contents(slices))
    by_series = defaultdict[str, list[Slice]](list)
    refused: dict[str, str] = {}
    for item in _once(slices):
        uid, series_uid = str(item.dataset.SOPInstanceUID), str(item.dataset.get("SeriesInstanceUID", ""))
        by_series[series_uid].append(item)
        if uid in doubtful:
            refused[series_uid] = f"instance {uid} is there with two contents; keep the one that is right"
    return {uid: members for uid, members in by_series.items() if uid not in refused}, list(refused.items())


def _once(slices: Iterable[Slice]) -> list[Slice]:
    """One per content: the same file in two folders is one object."""
    return list({item.dataset_hash: item for item in slices}.values())


def _with_two_contents(slices: Iterable[Slice]) -> list[str]:
    """SOP Instance UIDs that stand for different bytes."""
    hashes = defaultdict[str, set[str]](set)
    for item in slices:
        hashes[str(item.dataset.SOPInstanceUID)].add(item.dataset_hash)
    return sorted(uid for uid, contents in hashes.items() if len(contents) > 1)


def _why_left_aside(ds: Dataset) -> str:
    """ "" for what is stacked or projected, else a sentence that names the object and its kind."""
    modality, named = ds.get("Modality", ""), f"instance {ds.SOPInstanceUID}"
    if modality in _NOT_IMAGES:
        return f"{named} of series {ds.get('SeriesInstanceUID', '')} is {modality}, not an image; left aside"
    if f"{ds.SOPClassUID}.".startswith(_SECONDARY_CAPTURE):
        return f"{named} is a Secondary Capture without a place in the patient; left aside"
    if modality not in (*STACKED, "MG"):
        return f"{named} has Modality (0008,0060) {modality or 'empty'}; CT, MR, PT and MG are read; left aside"
    return ""


def _refuse_unstackable(ds: Dataset) -> None:
    dataset.check_values(ds, _NEEDED)
    named = f"series {ds.get('SeriesInstanceUID', 'without a UID')}"
    if not ds.get("SeriesInstanceUID"):
        raise MissingAttribute(f"instance {ds.SOPInstanceUID} has no SeriesInstanceUID (0020,000E); add it")
    if "MOSAIC" in (ds.get("ImageType") or ()):
        raise Rejected(
            f"{named}: Image Type (0008,0008) says MOSAIC, many slices tiled in one picture by Siemens; "
            "export it as enhanced MR or as single slices"
        )
    if "SharedFunctionalGroupsSequence" in ds or pixels.number_of_frames(ds) > 1:
        raise Rejected(
            f"{named}: {ds.SOPClassUID.name} holds {pixels.number_of_frames(ds)} frames in one object, which is not "
            "read yet; export it as single-frame images"
        )
    if ds.get("SamplesPerPixel", 1) != 1:
        raise Rejected(f"{named}: Photometric Interpretation {ds.get('PhotometricInterpretation')} is a colour picture")


def _series_volume(one: SeriesGroup, members: Sequence[Slice]) -> SeriesVolume:
    first = one.slices[0].dataset
    return SeriesVolume(
        series_uid=one.series_uid,
        study_uid=str(first.get("StudyInstanceUID", "")),
        modality=str(first.Modality),
        description=str(first.get("SeriesDescription", "")),
        contrast=magnetic_resonance.contrast(first) if first.Modality == "MR" else "",
        part=one.part,
        datasets=tuple(item.dataset for item in one.slices),
        volume=stack(one.slices, series=members),
    )


def _series_projection(item: Slice) -> SeriesProjection:
    ds = item.dataset
    dataset.check_values(ds, _NEEDED)
    return SeriesProjection(
        series_uid=str(ds.get("SeriesInstanceUID", "")),
        study_uid=str(ds.get("StudyInstanceUID", "")),
        modality=str(ds.Modality),
        description=str(ds.get("SeriesDescription", "")),
        dataset=ds,
        projection=mammography.projection(ds, item.dataset_hash),
    )


# --- geometry -----------------------------------------------------------------------------------------------------


def _vector(ds: Dataset, keyword: str, tag: str, length: int) -> Float64:
    value = ds.get(keyword)
    if value is None or value == "" or len(value) != length:
        raise MissingAttribute(
            f"series {ds.get('SeriesInstanceUID')}: instance {ds.SOPInstanceUID} has no usable {keyword} {tag}, so its "
            "place in the patient is unknown; send an image that has it"
        )
    return np.array([float(number) for number in value], np.float64)


def _position(ds: Dataset) -> Float64:
    return _vector(ds, "ImagePositionPatient", "(0020,0032)", 3)


def _orientation(ds: Dataset) -> tuple[Float64, Float64]:
    """(direction of increasing column index, direction of increasing row index), unit vectors in LPS."""
    cosines = _vector(ds, "ImageOrientationPatient", "(0020,0037)", 6)
    across, down = cosines[:3], cosines[3:]
    if not (np.allclose(np.linalg.norm(cosines.reshape(2, 3), axis=1), 1, atol=1e-2) and abs(across @ down) < 1e-2):
        raise Rejected(
            f"series {ds.get('SeriesInstanceUID')}: Image Orientation (Patient) {cosines.tolist()} is not two unit "
            "vectors at a right angle; correct it"
        )
    return across / np.linalg.norm(across), down / np.linalg.norm(down)


def _normal(ds: Dataset) -> Float64:
    across, down = _orientation(ds)
    return np.cross(across, down)


def _planes(slices: Sequence[Slice]) -> list[list[Slice]]:
    """Slices of one frame of reference, matrix, pixel spacing and orientation each, in order of first appearance."""
    planes: list[tuple[Hashable, Float64, list[Slice]]] = []
    for item in slices:
        ds = item.dataset
        spacing = _vector(ds, "PixelSpacing", "(0028,0030)", 2)
        key = (str(ds.SeriesInstanceUID), str(ds.get("FrameOfReferenceUID", "")), ds.get("Rows"), ds.get("Columns"))
        shape = np.concatenate([*_orientation(ds), spacing / 10])
        for known, of_first, members in planes:
            if known == key and np.abs(of_first - shape).max() < _SAME_ORIENTATION:
                members.append(item)
                break
        else:
            planes.append((key, shape, [item]))
    return [members for _, _, members in planes]


def _affine(ordered: Sequence[Slice]) -> Float64:
    """Index (slice, row, column) -> LPS mm. Columns: slice step, row step (down), column step (across)."""
    first = ordered[0].dataset
    across, down = _orientation(first)
    spacing_down, spacing_across = _vector(first, "PixelSpacing", "(0028,0030)", 2)
    affine = np.eye(4)
    affine[:3, 0] = _slice_step(ordered)
    affine[:3, 1] = down * spacing_down
    affine[:3, 2] = across * spacing_across
    affine[:3, 3] = _position(first)
    return affine


def _slice_step(ordered: Sequence[Slice]) -> Float64:
    first = ordered[0].dataset
    if len(ordered) == 1:
        thickness = first.get("SpacingBetweenSlices") or first.get("SliceThickness")
        if not thickness:
            raise MissingAttribute(
                f"series {first.SeriesInstanceUID}: its only slice has neither SliceThickness (0018,0050) nor "
                "SpacingBetweenSlices (0018,0088); add one"
            )
        return _normal(first) * abs(float(thickness))
    positions = np.array([_position(item.dataset) for item in ordered])
    _check_steps(str(first.SeriesInstanceUID), positions, _normal(first))
    return np.asarray((positions[-1] - positions[0]) / (len(ordered) - 1), np.float64)


def _check_steps(series_uid: str, positions: Float64, normal: Float64) -> None:
    """positions: (slices, 3) in order along the normal."""
    along = positions @ normal
    steps = np.diff(along)
    usual = float(np.median(steps))
    closest, widest = int(np.argmin(steps)), int(np.argmax(steps))
    if steps[closest] < _SAME_POSITION_MM:
        raise DuplicatePositions(
            f"series {series_uid}: two slices lie at {along[closest]:.2f} mm along the normal and nothing tells them "
            "apart; send each slice once"
        )
    if steps[widest] > GAP_FACTOR * usual:
        raise GapInSeries(
            f"series {series_uid}: slices at {along[widest]:.1f} and {along[widest + 1]:.1f} mm leave a gap, other "
            f"steps are {usual:.1f} mm; send the missing slices, or ask for single images"
        )
    worst = int(np.argmax(np.abs(steps - usual)))
    if abs(steps[worst] - usual) > max(UNEVEN_SHARE * usual, UNEVEN_MM):
        raise UnevenSlices(
            f"series {series_uid}: the step at {along[worst]:.1f} mm is {steps[worst]:.2f} mm, others are "
            f"{usual:.2f} mm; resample it to even steps first"
        )
    even = positions[0] + np.arange(len(along))[:, None] * (positions[-1] - positions[0]) / (len(along) - 1)
    off = np.linalg.norm(positions - even, axis=1)
    if off.max() > max(0.25 * usual, UNEVEN_MM):  # small steps in one direction add up, or a slice lies sideways
        raise UnevenSlices(
            f"series {series_uid}: the slice at {along[int(off.argmax())]:.1f} mm lies {off.max():.2f} mm beside an "
            f"even grid of {usual:.2f} mm steps; resample it first"
        )


# --- several volumes in one series --------------------------------------------------------------------------------


def _told_apart(series_uid: str, slices: list[Slice]) -> list[tuple[list[str], list[Slice]]]:
    """(how this part is called, its slices) for slices of one plane; one part without a name in the usual case."""
    positions = _by_position(slices)
    most = max(len(at) for at in positions)
    if most == 1:
        return [([], slices)]
    for keyword, noun in _SEPARATORS:
        parts = _by_value(slices, positions, most, keyword) or _by_rank(positions, most, keyword)
        if parts:
            return _numbered(noun, parts)
    for (one, noun), (two, other) in itertools.combinations(_SEPARATORS, 2):
        parts = _by_value(slices, positions, most, one, two)
        if parts:
            return _numbered(f"{noun} and {other}", parts)
    passes = _by_rank(positions, most, "InstanceNumber")
    if passes and _follow_each_other(passes):
        # GE states how many time points there are (0020,0105), but not which one an image belongs to.
        noun = "time" if slices[0].dataset.get("NumberOfTemporalPositions") == most else "pass"
        return _numbered(noun, passes)
    crowded = next(at for at in positions if len(at) > 1)
    place, uids = _position(crowded[0].dataset).tolist(), [str(item.dataset.SOPInstanceUID) for item in crowded[:2]]
    raise DuplicatePositions(
        f"series {series_uid}: {len(crowded)} slices lie at {place} mm and no attribute tells them apart (instances "
        f"{' and '.join(uids)}); send each slice once"
    )


def _numbered(noun: str, parts: Sequence[list[Slice]]) -> list[tuple[list[str], list[Slice]]]:
    return [([f"{noun} {number} of {len(parts)}"], part) for number, part in enumerate(parts, start=1)]


def _by_position(slices: Sequence[Slice]) -> list[list[Slice]]:
    """Slices gathered by their place along the normal, and across it, within 0.01 mm."""
    positions: list[list[Slice]] = []
    last: Float64 | None = None
    for item in in_order(slices):
        here = _position(item.dataset)
        if last is not None and np.linalg.norm(here - last) < _SAME_POSITION_MM:
            positions[-1].append(item)
        else:
            positions.append([item])
            last = here
    return positions


def _value(item: Slice, keyword: str) -> Any:
    """A value that sorts, or None where the attribute is absent or empty."""
    value = item.dataset.get(keyword)
    if value is None or value == "":
        return None
    if keyword == "ImageType":
        return tuple(map(str, value))
    return float(value) if isinstance(value, (int, float)) else str(value)


def _by_value(
    slices: Sequence[Slice], positions: Sequence[Sequence[Slice]], most: int, *keywords: str
) -> list[list[Slice]]:
    """Parts that share all values; only where there are as many as slices at one position, each there once at most."""
    values = {id(item): tuple(_value(item, keyword) for keyword in keywords) for item in slices}
    wanted = set(values.values())
    if len(wanted) != most or any(None in value for value in wanted):
        return []
    if any(len({values[id(item)] for item in at}) < len(at) for at in positions):
        return []
    return [[item for item in slices if values[id(item)] == one] for one in sorted(wanted)]


def _by_rank(positions: Sequence[Sequence[Slice]], most: int, keyword: str) -> list[list[Slice]]:
    """The n-th smallest value at each position makes part n: times that differ from slice to slice as well."""
    parts: list[list[Slice]] = [[] for _ in range(most)]
    for at in positions:
        values = [_value(item, keyword) for item in at]
        if len(at) != most or None in values or len(set(values)) < most:
            return []
        for part, item in zip(parts, sorted(at, key=lambda item: _value(item, keyword)), strict=True):
            part.append(item)
    return parts


def _follow_each_other(passes: Sequence[Sequence[Slice]]) -> bool:
    """Whether Instance Numbers run over all positions once, then over all again: only so far are they trusted."""
    numbers = [[int(item.dataset.InstanceNumber) for item in one] for one in passes]
    return all(max(one) < min(next_one) for one, next_one in itertools.pairwise(numbers))


# --- values -------------------------------------------------------------------------------------------------------


def _voxels(ordered: Sequence[Slice], series: Sequence[Dataset]) -> Float32:
    values = np.stack([pixels.modality(item.dataset) for item in ordered])
    if ordered[0].dataset.Modality == "PT":
        values *= np.float32(pet.suvbw_factor(series))
    return values


def _units(ds: Dataset) -> str:
    if ds.Modality == "PT":
        return pet.SUVBW
    if ds.Modality == "MR":
        return "1"
    if ds.Modality == "CT" and (ds.get("RescaleType") or "HU") == "HU" and "RescaleIntercept" in ds:
        return "[hnsf'U]"
    raise UnknownUnits(
        f"series {ds.SeriesInstanceUID}: Modality {ds.get('Modality')} with Rescale Type (0028,1054) "
        f"{ds.get('RescaleType') or 'absent'} and Rescale Intercept {ds.get('RescaleIntercept', 'absent')} has no "
        "units that are known here; CT in HU, MR and PT are stacked"
    )
