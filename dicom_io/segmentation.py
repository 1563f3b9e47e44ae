"""Label maps <-> DICOM Segmentation (PS3.3 A.51) on the geometry of the images that they were made from.

BINARY where nothing else is asked for, because every viewer opens it in the right colours; LABELMAP (a SOP class of its
own) holds one frame for each slice, whatever the number of segments, for peers that want it. Its Segment Sequence has
an item for the background, number 0, as the label map's pixels do; OHIF up to 3.13 counts that one with the others and
shows the colours shifted by one. The probability behind a mask is another object's matter.

Written through highdicom, with UIDs that are functions of the input: the same call gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import highdicom as hd
import numpy as np
import numpy.typing as npt
from highdicom.color import CIELabColor
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import ExplicitVRLittleEndian

from dicom_io import filing, labels
from dicom_io.errors import GapInSeries, MissingAttribute, Rejected
from dicom_io.labels import LABEL_MAP_STORAGE, SEGMENTATION_STORAGE
from dicom_io.provenance import (
    MANUFACTURER,
    LabelRecord,
    ModelIdentity,
    canonical_json,
    name_based_uid,
    result_uid,
    series_number,
)
from dicom_io.volume import Float64, Source, Volume

ABNORMALITY: Code = codes.SCT.MorphologicallyAbnormalStructure
NEOPLASM: Code = codes.SCT.Neoplasm
LESION: Code = codes.SCT.Lesion
MASS: Code = codes.SCT.Mass

Form = Literal["binary", "labelmap"]

# Changes whenever the same input would be written in another form: part of the results' UIDs.
_ENCODINGS = {
    ("binary", False): "binary 1",
    ("binary", True): "binary 1 with empty frames",
    ("labelmap", False): "labelmap 1",
    ("labelmap", True): "labelmap 1 with empty frames",
}
# What the stand-ins below hold: what highdicom reads from a source that says where the pixels lie.
_GEOMETRY = (
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "StudyInstanceUID",
    "Modality",
    "FrameOfReferenceUID",
    "Rows",
    "Columns",
    "PixelSpacing",
    "SliceThickness",
    "SpacingBetweenSlices",
    "ImagePositionPatient",
    "ImageOrientationPatient",
)


@dataclass(frozen=True)
class Segment:
    """One label of a mask, and what it is.

    number: its value in the mask, from 1 without gaps. colour: RGB, 0 to 255; viewers show the segment in it.
    category, property_type: codes from CID 7150 and CID 7151, or their siblings.
    """

    number: int
    label: str
    colour: tuple[int, int, int]
    category: Code = ABNORMALITY
    property_type: Code = LESION


def segmentation(
    mask: Volume,
    *,
    sources: Sequence[Dataset],
    segments: Sequence[Segment],
    model: ModelIdentity,
    parameters: Mapping[str, Any],
    description: str,
    made_at: datetime,
    out_of_domain: bool = False,
    audit_id: str = "",
    source_refs: Sequence[Source] = (),
    further_sources: Sequence[Dataset] = (),
    form: Form = "binary",
    empty_frames: bool = False,
) -> tuple[Dataset, LabelRecord]:
    """A mask as SEG on the planes of its source images, in their study, and the record that the gate needs.

    mask: (slices, rows, columns) of whole numbers, 0 background.
    sources: the datasets of its slices, in slice order. segments: what each number means.
    parameters: what changes pixels (threshold, ...), JSON-serialisable. made_at: wall clock time of the plan step.
    source_refs: all images that it was made from, other channels too, as `Source`; `mask.sources` where none are given.
    Their data-set hashes go into the UIDs, their synthetic flag is inherited. further_sources: datasets of the other
    channels; referenced, but no frame's plane.

    form: "binary" is Segmentation Storage, one bit for each voxel and segment; "labelmap" is Label Map Segmentation
    Storage, whose pixels are the segments' numbers. empty_frames: write those without a labelled pixel, too.

    One segment, or a label map, has a frame for each slice from the first to the last that is labelled, so that readers
    that take frames for a regular stack (GDCM, ITK) find the right geometry; of several in binary form, frames without
    a labelled pixel are left out. A mask without any is written with every frame, because an object without frames is
    no SEG, and "nothing found" is a result.

    Raises:
        Rejected: the mask holds values that are no segment's, or does not lie on the planes of the sources.
        MissingAttribute: a source does not say where it lies.
    """
    values = _label_map(mask, segments)
    _require_planes(mask, sources)
    refs = tuple(source_refs) or mask.sources
    all_sources = [*sources, *further_sources]
    source_uids = tuple(str(source.SOPInstanceUID) for source in all_sources)
    labels.require_named(source_uids, refs)
    naming = {
        "parameters": dict(parameters),
        "segments": [[segment.number, segment.label] for segment in segments],
        "out_of_domain": out_of_domain,
        "encoding": _ENCODINGS[form, empty_frames],
    }
    sop_class = SEGMENTATION_STORAGE if form == "binary" else LABEL_MAP_STORAGE
    record = LabelRecord(
        kind="segmentation",
        model=model,
        sop_class_uid=sop_class,
        sop_instance_uid=result_uid("instance 1", model, refs, naming, sop_class),
        series_instance_uid=result_uid("series", model, refs, naming, sop_class),
        study_instance_uid=str(sources[0].StudyInstanceUID),
        patient_id=str(sources[0].get("PatientID") or ""),
        frame_of_reference_uid=mask.frame_of_reference_uid,
        source_uids=source_uids,
        synthetic_input=any(ref.synthetic for ref in refs) or any(map(labels.is_synthetic, all_sources)),
        out_of_domain=out_of_domain,
        audit_id=audit_id,
        parameters=canonical_json(parameters),
        source_equipment=tuple(labels.equipment_key(item) for item in labels.equipment_of(all_sources)),
    )
    scattered = form == "binary" and len(segments) > 1
    written = _frames_to_write(values, all_slices=empty_frames or scattered)
    dataset = hd.seg.Segmentation(
        source_images=[_stand_in(source) for source in sources[written]],
        pixel_array=values[written],
        segmentation_type=hd.seg.SegmentationTypeValues[form.upper()],
        segment_descriptions=[_described(segment, record) for segment in segments],
        series_instance_uid=record.series_instance_uid,
        series_number=series_number(record.series_instance_uid),
        sop_instance_uid=record.sop_instance_uid,
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=model.name,
        software_versions=model.version,
        device_serial_number=model.content_hash[:16],
        transfer_syntax_uid=ExplicitVRLittleEndian,
        omit_empty_frames=bool(values.any()) and scattered and not empty_frames,
        content_label="OUT_OF_DOMAIN" if out_of_domain else "SEGMENTATION",
        content_description=description[:64],
        content_creator_name=f"{MANUFACTURER}^{model.name}"[:64],
        specific_character_set="ISO_IR 192",
    )
    dataset.file_meta = labels.file_meta(sop_class, record.sop_instance_uid)
    filing.under_sources(dataset, all_sources)
    filing.stamp(dataset, made_at)
    _name_dimensions(dataset)
    lossy = any(str(source.get("LossyImageCompression") or "") == "01" for source in all_sources)
    dataset.LossyImageCompression = "01" if lossy else "00"
    labels.apply(dataset, record, all_sources, made_at, description)
    return dataset, record


def _label_map(mask: Volume, segments: Sequence[Segment]) -> npt.NDArray[np.uint8]:
    if [segment.number for segment in segments] != list(range(1, len(segments) + 1)) or not segments:
        raise ValueError(f"segments are numbered {[segment.number for segment in segments]}, not 1, 2, ... in order")
    if mask.voxels.ndim != 3:
        raise ValueError(f"a mask has the axes (slice, row, column), not the shape {mask.voxels.shape}")
    known = {0, *(segment.number for segment in segments)}
    unknown = sorted(set(np.unique(mask.voxels).tolist()) - known)
    if unknown:
        raise Rejected(f"the mask holds {unknown[:5]}, which no segment describes; segments are {sorted(known)[1:]}")
    return mask.voxels.astype(np.uint8)


def _frames_to_write(values: npt.NDArray[np.uint8], *, all_slices: bool) -> slice:
    labelled = np.flatnonzero(values.any(axis=(1, 2)))
    if all_slices or not labelled.size:
        return slice(0, len(values))
    return slice(int(labelled[0]), int(labelled[-1]) + 1)


def _require_planes(mask: Volume, sources: Sequence[Dataset]) -> None:
    """Slice i of the mask is the plane of source i: same image, same place."""
    if len(sources) != mask.spatial_shape[0]:
        raise ValueError(f"{len(sources)} source datasets for {mask.spatial_shape[0]} slices")
    for index, source in enumerate(sources):
        for keyword in ("FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
            if not source.get(keyword):
                raise MissingAttribute(f"source {source.SOPInstanceUID} has no {keyword}, so a mask has no place on it")
        if str(source.FrameOfReferenceUID) != mask.frame_of_reference_uid:
            raise Rejected(
                f"source {source.SOPInstanceUID} lies in frame of reference {source.FrameOfReferenceUID}, the mask in "
                f"{mask.frame_of_reference_uid}; register them first"
            )
        if (int(source.Rows), int(source.Columns)) != mask.spatial_shape[1:]:
            raise Rejected(
                f"source {source.SOPInstanceUID} has {source.Rows} x {source.Columns} pixels, the mask "
                f"{mask.spatial_shape[1:]}; bring the mask back to the grid of its source"
            )
        # A regular grid is laid through slices whose steps may be uneven by a few percent; a quarter of a step off is
        # still the same slice.
        rows, columns = int(source.Rows), int(source.Columns)
        for corner in ((0, 0), (rows - 1, columns - 1), (rows - 1, 0)):
            off_mm = np.linalg.norm(_pixel_position(source, *corner) - mask.position_mm((index, *corner)))
            if off_mm > 0.25 * min(mask.spacing_mm):
                raise Rejected(
                    f"slice {index} of the mask lies {off_mm:.2f} mm beside its source {source.SOPInstanceUID}; "
                    "bring the mask back to the grid of its source"
                )


def _pixel_position(source: Dataset, row: int, column: int) -> Float64:
    """Patient LPS position of a pixel (PS3.3 equation C.7.6.2.1-1)."""
    right, down = np.array(source.ImageOrientationPatient, np.float64).reshape(2, 3)
    step_down, step_right = (float(step) for step in source.PixelSpacing)
    corner = np.array(source.ImagePositionPatient, np.float64)
    return corner + row * step_down * down + column * step_right * right


def _stand_in(source: Dataset) -> Dataset:
    """What highdicom needs of a source; patient and study are filed later, so that a faulty header cannot stop it."""
    dataset = Dataset()
    for keyword in _GEOMETRY:
        if source.get(keyword) not in (None, ""):
            setattr(dataset, keyword, source[keyword].value)
    for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID"):
        setattr(dataset, keyword, None)
    dataset.StudyDate, dataset.StudyTime = None, None
    dataset.PositionReferenceIndicator = source.get("PositionReferenceIndicator")
    return dataset


def _described(segment: Segment, record: LabelRecord) -> hd.seg.SegmentDescription:
    algorithm = hd.AlgorithmIdentificationSequence(
        name=record.model.name,
        family=codes.DCM.ArtificialIntelligence,
        version=record.model.version,
        source=MANUFACTURER,
    )
    return hd.seg.SegmentDescription(
        segment_number=segment.number,
        segment_label=segment.label,
        segmented_property_category=segment.category,
        segmented_property_type=segment.property_type,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
        display_color=CIELabColor.from_rgb(*segment.colour),
    )


def _name_dimensions(dataset: Dataset) -> None:
    # highdicom draws a random UID here; a repeat must give the same bytes.
    uid = name_based_uid("dimension organization", str(dataset.SOPInstanceUID))
    for item in (*dataset.DimensionOrganizationSequence, *dataset.DimensionIndexSequence):
        item.DimensionOrganizationUID = uid


@dataclass(frozen=True, eq=False)
class _Frame:
    """Where one frame lies and which segment it shows; None for a label map, whose pixels are the segments."""

    position: Float64
    pixels: npt.NDArray[Any]
    segment: int | None


def read(dataset: Dataset, grid: Volume | None = None) -> Volume:
    """The label map of a BINARY or LABELMAP SEG; frames are placed by their position in the patient, never by order.

    grid: the volume on whose grid the labels are wanted, usually the source's; labels are taken from the nearest voxel.
    Without it the grid is the SEG's own planes: from the first frame to the last along the normal, 0 where a frame
    was left out as empty. Where segments overlap, the higher number stays.

    Returns a (slices, rows, columns) volume of units "1".

    Raises:
        Rejected: FRACTIONAL, frames that are not parallel, or another frame of reference than the grid's.
        MissingAttribute: the geometry is not in the object.
        GapInSeries: frames do not lie on one regular stack, so that the SEG has no grid of its own.
    """
    uid = dataset.get("SOPInstanceUID")
    if dataset.get("SegmentationType") not in ("BINARY", "LABELMAP"):
        raise Rejected(
            f"SEG {uid} is {dataset.get('SegmentationType')}, only BINARY and LABELMAP are read as label maps"
        )
    reference = str(dataset.get("FrameOfReferenceUID") or "")
    if grid is not None and grid.frame_of_reference_uid != reference:
        raise Rejected(
            f"SEG {uid} lies in frame of reference {reference or 'none'}, the grid in {grid.frame_of_reference_uid}; "
            "they are not comparable"
        )
    frames, in_plane = _frames(dataset)
    if grid is not None and (placed := _placed(frames, in_plane, grid)) is not None:
        return grid.with_voxels(placed, units="1")
    own = _own_grid(dataset, frames, in_plane, reference)
    return own if grid is None else _nearest(own, grid)


def _group(dataset: Dataset, frame: Dataset, macro: str) -> Dataset:
    """A functional group's item, per frame or shared (PS3.3 C.7.6.16)."""
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    items = frame.get(macro) or shared.get(macro)
    if not items:
        raise MissingAttribute(f"SEG {dataset.get('SOPInstanceUID')} has no {macro}, so its frames have no place")
    found: Dataset = items[0]
    return found


def _frames(dataset: Dataset) -> tuple[list[_Frame], Float64]:
    """The frames, and the (3, 2) steps of a row and a column index in mm."""
    pixels = np.asarray(dataset.pixel_array)
    pixels = pixels[np.newaxis] if pixels.ndim == 2 else pixels
    steps, frames = [], []
    for plane, item in zip(pixels, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        orientation = _group(dataset, item, "PlaneOrientationSequence").ImageOrientationPatient
        right, down = np.array(orientation, np.float64).reshape(2, 3)
        step_down, step_right = (float(step) for step in _group(dataset, item, "PixelMeasuresSequence").PixelSpacing)
        steps.append(np.column_stack([down * step_down, right * step_right]))
        position = np.array(_group(dataset, item, "PlanePositionSequence").ImagePositionPatient, np.float64)
        segment = None
        if dataset.SegmentationType == "BINARY":
            segment = int(_group(dataset, item, "SegmentIdentificationSequence").ReferencedSegmentNumber)
        frames.append(_Frame(position, plane, segment))
    if np.abs(np.array(steps) - steps[0]).max() > 1e-3 * np.abs(steps[0]).max():
        raise Rejected(f"the frames of SEG {dataset.get('SOPInstanceUID')} are not parallel, so they are no volume")
    return frames, steps[0]


def _merge(plane: npt.NDArray[np.float32], frame: _Frame) -> None:
    found = frame.pixels if frame.segment is None else np.where(frame.pixels != 0, frame.segment, 0)
    np.maximum(plane, found.astype(np.float32), out=plane)


def _placed(frames: Sequence[_Frame], in_plane: Float64, grid: Volume) -> npt.NDArray[np.float32] | None:
    """The labels where the frames are planes of the grid, moved by whole pixels at most; None where they are not."""
    slices, rows, columns = grid.spatial_shape
    voxels = np.zeros(grid.spatial_shape, np.float32)
    if np.abs(in_plane - grid.affine[:3, 1:3]).max() > 1e-3 * min(grid.spacing_mm[1:]):
        return None
    for frame in frames:
        index = grid.index_at(frame.position.tolist())
        slice_index, row, column = (int(value) for value in np.rint(index))
        # A grid through uneven slices is off by up to a quarter step along the normal, by nothing in the plane.
        if (np.abs(index - np.rint(index)) > (0.25, 0.02, 0.02)).any():
            return None
        if not 0 <= slice_index < slices:
            continue
        height, width = frame.pixels.shape
        top, left, bottom, right = max(row, 0), max(column, 0), min(row + height, rows), min(column + width, columns)
        if top < bottom and left < right:
            window = frame.pixels[top - row : bottom - row, left - column : right - column]
            _merge(voxels[slice_index, top:bottom, left:right], _Frame(frame.position, window, frame.segment))
    return voxels


def _own_grid(dataset: Dataset, frames: Sequence[_Frame], in_plane: Float64, reference: str) -> Volume:
    normal = np.cross(in_plane[:, 1], in_plane[:, 0])
    normal /= np.linalg.norm(normal)
    heights = np.array([frame.position @ normal for frame in frames])
    first = frames[int(np.argmin(heights))].position
    different = np.unique(np.round(heights, 3))
    step = _slice_step(dataset, different)
    numbers = (heights - heights.min()) / step
    if np.abs(numbers - np.rint(numbers)).max() > 0.25:
        raise GapInSeries(
            f"the frames of SEG {dataset.get('SOPInstanceUID')} are no regular stack with steps of {step:.2f} mm; "
            "read it on the grid of its source"
        )
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1:3], affine[:3, 3] = normal * step, in_plane, first
    voxels = np.zeros((int(np.rint(numbers.max())) + 1, *frames[0].pixels.shape), np.float32)
    for frame, number in zip(frames, numbers, strict=True):
        _merge(voxels[int(np.rint(number))], frame)
    return Volume(voxels, affine, reference, "1")


def _slice_step(dataset: Dataset, heights: Float64) -> float:
    """Distance of neighbouring planes: what the object says, else the smallest between frames, else the thickness."""
    measures = _group(dataset, dataset.PerFrameFunctionalGroupsSequence[0], "PixelMeasuresSequence")
    smallest = float(np.diff(heights).min()) if len(heights) > 1 else 0.0
    for step in (measures.get("SpacingBetweenSlices"), smallest, measures.get("SliceThickness")):
        if step:
            return abs(float(step))
    return 1.0


def _nearest(own: Volume, grid: Volume) -> Volume:
    """Labels on another grid: each voxel takes the nearest of the SEG's, 0 outside of it."""
    to_own = np.linalg.solve(own.affine, grid.affine)
    voxels = np.zeros(grid.spatial_shape, np.float32)
    rows, columns = np.meshgrid(*(np.arange(n) for n in grid.spatial_shape[1:]), indexing="ij")
    limits = np.array(own.spatial_shape)[:, np.newaxis, np.newaxis]
    for number in range(grid.spatial_shape[0]):
        index = np.tensordot(to_own[:3, :3], np.stack([np.full_like(rows, number), rows, columns]), axes=1)
        nearest = np.rint(index + to_own[:3, 3, np.newaxis, np.newaxis]).astype(int)
        inside = ((nearest >= 0) & (nearest < limits)).all(axis=0)
        voxels[number][inside] = own.voxels[tuple(nearest[:, inside])]
    return grid.with_voxels(voxels, units="1")
