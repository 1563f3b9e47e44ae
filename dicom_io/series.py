"""Files to series, series to ordered slices, slices to volumes.

What one Series Instance UID (0020,000E) holds is often more than one volume: localizers of three planes, time points,
echoes, b-values. `dicom_io.separation` tells them apart by attributes, and a series whose slices cannot be told apart
is refused. Multi-frame objects and mosaics are taken apart first (`dicom_io.frames`).
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dicom_io import dataset, frames, magnetic_resonance, mammography, pet, scaling
from dicom_io.errors import (
    DuplicatePositions,
    GapInSeries,
    MissingAttribute,
    NotDicom,
    Rejected,
    UndecodablePixels,
    UnevenSlices,
    UnknownUnits,
)
from dicom_io.pet import SuvKind
from dicom_io.scaling import Scaling
from dicom_io.separation import SAME_POSITION_MM, SEPARATORS, in_order, parts
from dicom_io.slices import Slice
from dicom_io.volume import Float32, Float64, Projection, Volume

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["Readout", "SeriesGroup", "SeriesProjection", "SeriesVolume", "Slice", "group", "stack", "volumes"]

STACKED = ("CT", "MR", "PT")
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7."
# Modalities of objects that describe images and are none (PS3.3 C.7.3.1.1.1).
_NOT_IMAGES = ("SEG", "SR", "RTSTRUCT", "RTPLAN", "RTDOSE", "RTRECORD", "PR", "KO", "REG", "RWV", "DOC", "AU", "ECG")
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")

GAP_FACTOR = 1.5
UNEVEN_SHARE, UNEVEN_MM = 0.05, 0.05
# Of direction cosines (0.06 degrees); makers' rounding gives 1e-5.
_SAME_ORIENTATION = 1e-3
_THREADS = min(os.cpu_count() or 1, 8)
_WORTH_A_THREAD_BYTES = 1 << 17

# Values that are asked for without `Slice.get`; one that cannot be parsed refuses its series with a sentence.
_NEEDED = (
    *("Modality", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID", "SeriesDescription", "SyntheticData"),
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("ImageType", "InstanceNumber", "NumberOfTemporalPositions", "StackID"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    *("RescaleSlope", "RescaleIntercept", "RescaleType", "ModalityLUTSequence", "ProtocolName", "ScanningSequence"),
    *("RepetitionTime", "ImagerPixelSpacing", "PatientOrientation", "ImageLaterality", "Laterality", "ViewPosition"),
    *("ViewCodeSequence", "AnatomicRegionSequence"),
    *(keyword for keyword, _ in SEPARATORS),
)


@dataclass(frozen=True, eq=False)
class SeriesGroup:
    """Slices of one series that can make one volume. part: "" or what tells it from the others, "time 2 of 3".

    split_by: (keyword, value) of the attributes that tell it from the others (`separation.Part`).
    """

    series_uid: str
    part: str
    slices: tuple[Slice, ...]
    split_by: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, eq=False)
class SeriesVolume:
    """A volume and the series it came from.

    contrast: "T1", "T2", "FLAIR" for MR, else "". part: "" or which of several volumes of this series.
    datasets: headers without pixels, in slice order, the same order as `volume.sources`; of a frame or a tile the
    header that a single-frame image of it would have, so that several share one SOP Instance UID. Number of Frames
    (0028,0008) is still the instance's; the frame's number is in `volume.sources`.
    evidence: what speaks for the contrast. split_by: as in `SeriesGroup`. scaling: which attributes made the numbers.
    """

    series_uid: str
    study_uid: str
    modality: str
    description: str
    contrast: str
    part: str
    datasets: tuple[Dataset, ...]
    volume: Volume
    evidence: str = ""
    split_by: tuple[tuple[str, str], ...] = ()
    scaling: str = ""


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
    slices = [_raised(found) for found in _read(files_below(paths))]
    for uid in _with_two_contents(slices):
        raise Rejected(f"instance {uid} is there with two contents; keep the one that is right")
    return _once(slices)


def files_below(paths: Iterable[Path]) -> list[Path]:
    """The files themselves and those in folders, linked ones too, sorted; hidden ones left out."""
    found: set[Path] = set()
    for path in map(Path, paths):
        if not path.exists():
            raise Rejected(f"{path} does not exist; give files or folders that do")
        found.update(_below(path) if path.is_dir() else [path])
    return sorted(found)


def _below(folder: Path) -> Iterator[Path]:
    seen = set()  # folders that were walked: links may lead in circles
    for root, folders, names in os.walk(folder, followlinks=True):
        here = Path(root)
        if here.resolve() in seen:
            folders.clear()
            continue
        seen.add(here.resolve())
        yield from (file for name in names if not name.startswith(".") and (file := here / name).is_file())


def volumes(paths: Iterable[Path], *, suv: SuvKind = "BW", scaled_by: Scaling = "rescale") -> Readout:
    """Read everything that can be read; what cannot is named with its reason, and stops nothing else.

    suv: which SUV PET comes in. scaled_by: which of the scalings that images state makes the numbers of MR and CT.
    """
    slices, left_aside = _readable(paths)
    by_series, refused = _one_content_each(slices)
    del slices
    stacked: list[SeriesVolume] = []
    projected: list[SeriesProjection] = []
    for series_uid in sorted(by_series):
        members = by_series.pop(series_uid)  # what has been stacked is let go
        views = [item for item in members if item.get("Modality") == "MG" and not frames.is_tomosynthesis(item)]
        others = [item for item in members if item not in views]
        pieces: list[Slice | SeriesGroup] = [*views]
        with _contained(series_uid, refused):
            others = taken_apart(others)
            pieces += _grouped(others)
        for piece in pieces:
            with _contained(series_uid, refused):
                if isinstance(piece, SeriesGroup):
                    stacked.append(_series_volume(piece, others, suv, scaled_by))
                else:
                    projected.append(_series_projection(piece))
    return Readout(tuple(stacked), tuple(projected), tuple(refused), tuple(left_aside))


@contextmanager
def _contained(series_uid: str, refused: list[tuple[str, str]]) -> Iterator[None]:
    """What goes wrong inside refuses this series, or this part of it, and stops nothing else.

    Headers of others hold values of every kind where one is allowed; what is not foreseen above is a sentence, too.
    """
    try:
        yield
    except Rejected as error:
        refused.append((series_uid, str(error)))
    except Exception as error:
        refused.append((series_uid, f"series {series_uid} {unforeseen(error)}"))


def unforeseen(error: Exception) -> str:
    """The end of a sentence on an object of which something is wrong that nobody thought of."""
    if isinstance(error, MemoryError):
        return "needs more memory than there is; convert it alone, or on a larger machine"
    what = (str(error).splitlines() or [""])[0].partition("To replace this error")[0].strip()
    return (
        f"has attributes or pixels that cannot be worked with ({type(error).__name__}: {what}); check it with "
        "dciodvfy, and write it again with a conformant tool"
    )


def taken_apart(slices: Sequence[Slice]) -> list[Slice]:
    """Frames and tiles in place of the objects that hold several (`frames.taken_apart`).

    Raises:
        Rejected: as there, or a value that is needed cannot be parsed, or a colour picture.
    """
    for item in slices:
        _refuse_unstackable(item)
    return frames.taken_apart(slices)


def group(slices: Sequence[Slice]) -> list[SeriesGroup]:
    """Cut into groups that can each be stacked: by series, plane, matrix, and what tells slices at one position apart.

    Raises:
        DuplicatePositions: several slices lie at one position, and no attribute tells them apart.
        MissingAttribute: a slice has no position, orientation or spacing.
        Rejected: a colour picture, or frames of which nothing says where they lie.
    """
    return _grouped(taken_apart(slices))


def _grouped(slices: Sequence[Slice]) -> list[SeriesGroup]:
    by_series = defaultdict[str, list[Slice]](list)
    for item in slices:
        by_series[item.text("SeriesInstanceUID")].append(item)
    groups = []
    for series_uid, members in by_series.items():
        planes = _planes(members)
        for number, plane in enumerate(planes, start=1):
            prefix = [f"plane {number} of {len(planes)}"] if len(planes) > 1 else []
            for part in parts(series_uid, plane):
                words = ", ".join(filter(None, [*prefix, part.words]))
                groups.append(SeriesGroup(series_uid, words, tuple(in_order(part.slices)), part.split_by))
    return groups


def stack(
    slices: Sequence[Slice], *, series: Sequence[Slice] = (), suv: SuvKind = "BW", scaled_by: Scaling = "rescale"
) -> Volume:
    """Stack the slices of one volume: CT in "[hnsf'U]", PT in "g/ml{SUVbw}" (or as `suv` says), MR and MG in "1".

    Order follows Image Position (Patient) (0020,0032) along the normal of Image Orientation (Patient) (0020,0037),
    ascending; Instance Number is not trusted. Stored values become modality units slice by slice: Rescale Slope
    (0028,1053), Intercept (0028,1052), PS3.3 C.11.1, or the scaling that is asked for (`dicom_io.scaling`). series: all
    slices of the series where `slices` is one part of it (the scan start of a PET is a matter of the whole series).

    Raises:
        GapInSeries: a step is more than 1.5 times the median step.
        UnevenSlices: steps differ by more than 5 % and 0.05 mm.
        DuplicatePositions: two slices lie at one position.
        MissingAttribute, UnknownUnits: what the units need is not there (`pet.suv_factors`, `scaling.linear`).
        Rejected: slices of several series, planes, matrices or frames of reference.
    """
    if not slices:
        raise Rejected("there are no slices to stack; send at least one image")
    return _stacked(taken_apart(slices), series or slices, suv, scaled_by)


def _stacked(slices: Sequence[Slice], series: Sequence[Slice], suv: SuvKind, scaled_by: Scaling) -> Volume:
    series_uids = {item.text("SeriesInstanceUID") for item in slices}
    if len(series_uids) > 1 or len(_planes(slices)) > 1:
        raise Rejected(
            f"series {', '.join(sorted(series_uids))}: the slices differ in series, plane, matrix, pixel spacing or "
            "frame of reference and make no single volume; group them first"
        )
    ordered = in_order(slices)
    affine = _affine(ordered)
    return Volume(
        affine=affine,
        frame_of_reference_uid=ordered[0].text("FrameOfReferenceUID"),
        units=_common_units(ordered, suv, scaled_by),
        voxels=_voxels(ordered, series, suv, scaled_by),
        sources=tuple(item.source for item in ordered),
    )


# --- what is read and what is not ---------------------------------------------------------------------------------


def _read(files: Sequence[Path]) -> Iterator[Slice | NotDicom]:
    """Each file as a slice, or why it is none, in order; side by side where files are large.

    To read and to hash bytes needs no interpreter; small files are sooner read than handed over to a thread.
    """
    if len(files) < 2 or max(path.stat().st_size for path in files[:8]) < _WORTH_A_THREAD_BYTES:
        yield from map(_slice_of, files)
        return
    with ThreadPoolExecutor(_THREADS) as pool:
        yield from pool.map(_slice_of, files)


def _slice_of(path: Path) -> Slice | NotDicom:
    try:
        return Slice(*dataset.read_with_hash(path))
    except NotDicom as error:
        return error


def _raised(found: Slice | NotDicom) -> Slice:
    if isinstance(found, NotDicom):
        raise found
    return found


def _readable(paths: Iterable[Path]) -> tuple[list[Slice], list[str]]:
    """Images of the kinds that are read here, and a sentence on everything else."""
    slices: list[Slice] = []
    left_aside: list[str] = []
    for found in _read(files_below(paths)):
        try:
            item = _raised(found)
            reason = _why_left_aside(item)
        except Rejected as error:
            left_aside.append(str(error))
            continue
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
        uid, series_uid = item.text("SOPInstanceUID"), item.text("SeriesInstanceUID")
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
        hashes[item.text("SOPInstanceUID")].add(item.dataset_hash)
    return sorted(uid for uid, contents in hashes.items() if len(contents) > 1)


def _why_left_aside(item: Slice) -> str:
    """ "" for what is stacked or projected, else a sentence that names the object and its kind."""
    modality, named = item.text("Modality"), f"instance {item.text('SOPInstanceUID')}"
    series_uid = item.text("SeriesInstanceUID")
    if modality in _NOT_IMAGES:
        return f"{named} of series {series_uid} is {modality}, not an image; left aside"
    if not any(keyword in item.dataset for keyword in _PIXELS):
        return (
            f"{named} of series {series_uid} is {item.dataset.SOPClassUID.name} without pixels (list mode, sinograms "
            "and other companions of images); left aside"
        )
    if f"{item.text('SOPClassUID')}.".startswith(_SECONDARY_CAPTURE):
        return f"{named} is a Secondary Capture without a place in the patient; left aside"
    if modality not in (*STACKED, "MG"):
        return f"{named} has Modality (0008,0060) {modality or 'empty'}; CT, MR, PT and MG are read; left aside"
    return ""


def _refuse_unstackable(item: Slice) -> None:
    if not item.get("SeriesInstanceUID"):
        raise MissingAttribute(f"instance {item.text('SOPInstanceUID')} has no SeriesInstanceUID (0020,000E); add it")
    if item.text("PhotometricInterpretation") not in ("MONOCHROME1", "MONOCHROME2", ""):
        raise Rejected(
            f"series {item.text('SeriesInstanceUID')}: Photometric Interpretation "
            f"{item.get('PhotometricInterpretation')} is a colour picture; send the grey original"
        )
    bits, high_bit = item.get("BitsStored"), item.get("HighBit")
    if bits is not None and high_bit is not None and high_bit != bits - 1:
        raise Rejected(
            f"series {item.text('SeriesInstanceUID')}: High Bit (0028,0102) is {high_bit} for {bits} stored bits, so "
            "pixels do not begin at bit 0, which is not read; write it again with a conformant tool"
        )


def _series_volume(one: SeriesGroup, members: Sequence[Slice], suv: SuvKind, scaled_by: Scaling) -> SeriesVolume:
    first = one.slices[0]
    dataset.check_values(first.dataset, _NEEDED)
    modality = first.text("Modality")
    found = magnetic_resonance.evidence(first.dataset) if modality == "MR" else magnetic_resonance.Evidence("", "")
    return SeriesVolume(
        series_uid=one.series_uid,
        study_uid=first.text("StudyInstanceUID"),
        modality=modality,
        description=first.text("SeriesDescription"),
        contrast=found.contrast,
        part=one.part,
        volume=_stacked(one.slices, members, suv, scaled_by),
        datasets=tuple(dataset.without_pixels(item.dataset) for item in one.slices),
        evidence=found.reason,
        split_by=one.split_by,
        scaling=scaling.used(first.dataset, scaled_by),
    )


def _series_projection(item: Slice) -> SeriesProjection:
    ds = item.dataset
    dataset.check_values(ds, _NEEDED)
    return SeriesProjection(
        series_uid=item.text("SeriesInstanceUID"),
        study_uid=item.text("StudyInstanceUID"),
        modality=item.text("Modality"),
        description=item.text("SeriesDescription"),
        dataset=dataset.header_of(ds),
        projection=mammography.projection(ds, item.dataset_hash),
    )


# --- geometry -----------------------------------------------------------------------------------------------------


def _planes(slices: Sequence[Slice]) -> list[list[Slice]]:
    """Slices of one frame of reference, matrix, pixel spacing and orientation each, in order of first appearance."""
    alike = defaultdict[Hashable, list[Slice]](list)
    for item in slices:
        alike[(*_matrix(item), *item.spacing, *np.ravel(item.orientation))].append(item)
    planes: list[tuple[Hashable, Float64, list[Slice]]] = []
    for members in alike.values():
        key, shape = _matrix(members[0]), np.concatenate([*members[0].orientation, members[0].spacing / 10])
        for known, of_first, others in planes:
            if known == key and np.abs(of_first - shape).max() < _SAME_ORIENTATION:
                others += members
                break
        else:
            planes.append((key, shape, members))
    return [members for _, _, members in planes]


def _matrix(item: Slice) -> tuple[Hashable, ...]:
    uids = item.text("SeriesInstanceUID"), item.text("FrameOfReferenceUID"), item.text("StackID")
    return (*uids, item.get("Rows"), item.get("Columns"))


def _affine(ordered: Sequence[Slice]) -> Float64:
    """Index (slice, row, column) -> LPS mm. Columns: slice step, row step (down), column step (across)."""
    first = ordered[0]
    across, down = first.orientation
    spacing_down, spacing_across = first.spacing
    affine = np.eye(4)
    affine[:3, 0] = _slice_step(ordered)
    affine[:3, 1] = down * spacing_down
    affine[:3, 2] = across * spacing_across
    affine[:3, 3] = first.position
    return affine


def _slice_step(ordered: Sequence[Slice]) -> Float64:
    first = ordered[0]
    if len(ordered) == 1:
        thickness = first.get("SpacingBetweenSlices") or first.get("SliceThickness")
        if not thickness:
            raise MissingAttribute(
                f"series {first.text('SeriesInstanceUID')}: its only slice has neither SliceThickness (0018,0050) nor "
                "SpacingBetweenSlices (0018,0088); add one"
            )
        return first.normal * abs(float(thickness))
    positions = np.array([item.position for item in ordered])
    _check_steps(first.text("SeriesInstanceUID"), positions, first.normal)
    return np.asarray((positions[-1] - positions[0]) / (len(ordered) - 1), np.float64)


def _check_steps(series_uid: str, positions: Float64, normal: Float64) -> None:
    """positions: (slices, 3) in order along the normal."""
    along = positions @ normal
    steps = np.diff(along)
    # The median of two steps is none of them.
    usual = float(np.median(steps) if len(steps) > 2 else steps.min())
    closest, widest = int(np.argmin(steps)), int(np.argmax(steps))
    if steps[closest] < SAME_POSITION_MM:
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


# --- values -------------------------------------------------------------------------------------------------------


def _voxels(ordered: Sequence[Slice], series: Sequence[Slice], suv: SuvKind, scaled_by: Scaling) -> Float32:
    """(slices, rows, columns); compressed ones are decoded side by side."""
    first = ordered[0].stored()  # before memory is taken for what a header says
    rows, columns = first.shape
    factors = np.ones(len(ordered))
    if ordered[0].get("Modality") == "PT" and scaled_by == "rescale":
        factors = pet.suv_factors(
            [item.dataset for item in ordered], series=[item.dataset for item in series], kind=suv
        )
    voxels = np.empty((len(ordered), rows, columns), np.float32)

    def fill(index: int) -> None:
        stored = ordered[index].stored() if index else first
        if stored.shape != (rows, columns):
            raise UndecodablePixels(
                f"instance {ordered[index].text('SOPInstanceUID')}: its pixels are {stored.shape}, others of its "
                f"series {rows} x {columns}; send it again"
            )
        scaling.apply(ordered[index].dataset, scaled_by, stored, voxels[index], factors[index])

    if not ordered[0].is_compressed and voxels[0].nbytes < _WORTH_A_THREAD_BYTES:
        for index in range(len(ordered)):
            fill(index)
        return voxels
    with ThreadPoolExecutor(_THREADS) as pool:  # decoders and sums of large arrays need no interpreter
        list(pool.map(fill, range(len(ordered))))
    return voxels


def _common_units(ordered: Sequence[Slice], suv: SuvKind, scaled_by: Scaling) -> str:
    units = {_units(item, suv, scaled_by) for item in (ordered if scaled_by != "rescale" else ordered[:1])}
    if len(units) > 1:
        raise UnknownUnits(
            f"series {ordered[0].text('SeriesInstanceUID')}: its slices are in {' and '.join(sorted(units))}; ask for "
            "another scaling, or send them as separate series"
        )
    return units.pop()


def _units(item: Slice, suv: SuvKind, scaled_by: Scaling) -> str:
    if scaled_by != "rescale":
        return scaling.linear(item.dataset, scaled_by).units or "1"
    modality = item.get("Modality")
    if modality == "PT":
        return pet.units_of(suv)
    if modality in ("MR", "MG"):
        return "1"
    if modality == "CT" and (item.get("RescaleType") or "HU") == "HU" and "RescaleIntercept" in item.dataset:
        return "[hnsf'U]"
    raise UnknownUnits(
        f"series {item.text('SeriesInstanceUID')}: Modality {modality} with Rescale Type (0028,1054) "
        f"{item.get('RescaleType') or 'absent'} and Rescale Intercept {item.dataset.get('RescaleIntercept', 'absent')} "
        "has no units that are known here; CT in HU, MR and PT are stacked"
    )
