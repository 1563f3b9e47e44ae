"""Label maps and probabilities <-> DICOM Segmentation (PS3.3 A.51) on the geometry of the images they were made from.

BINARY where nothing else is asked for, because every viewer opens it in the right colours; LABELMAP (a SOP class of its
own) holds one frame for each slice, whatever the number of segments, for peers that want it. Its Segment Sequence has
an item for the background, number 0, as the label map's pixels do; OHIF up to 3.13 counts that one with the others and
shows the colours shifted by one. FRACTIONAL holds probabilities in steps of 1/255, for peers that read it (OHIF up to
3.13 does not); exact ones are a parametric map's (`dicom_io.parametric_map`).

Read from any maker's object: as a label map, or each segment by itself where they overlap.

Written through highdicom, with UIDs that are functions of the input: the same call gives the same bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

import highdicom as hd
import numpy as np
import numpy.typing as npt
from highdicom.color import CIELabColor
from pydicom import DataElement, Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian

from dicom_io import capture_planes, filing, labels, placement, references, source_planes
from dicom_io.errors import MissingAttribute, Rejected
from dicom_io.labels import LABEL_MAP_STORAGE, SEGMENTATION_STORAGE
from dicom_io.provenance import MANUFACTURER, LabelRecord, ModelIdentity, series_number
from dicom_io.volume import Source, Volume

ABNORMALITY: Code = codes.SCT.MorphologicallyAbnormalStructure
ANATOMY: Code = codes.SCT.AnatomicalStructure
NEOPLASM: Code = codes.SCT.Neoplasm
LESION: Code = codes.SCT.Lesion
MASS: Code = codes.SCT.Mass

Form = Literal["binary", "labelmap", "fractional"]
# Stored value of a probability of 1 (Maximum Fractional Value (0062,000E)).
FULL_SCALE = 255

_DIMENSION_INDEX_VALUES, _FRAME_CONTENT = Tag("DimensionIndexValues"), Tag("FrameContentSequence")
# Changes whenever the same input would be written in another form: part of the results' UIDs.
_ENCODINGS = {
    ("binary", False): "binary 1",
    ("binary", True): "binary 1 with empty frames",
    ("labelmap", False): "labelmap 1",
    ("labelmap", True): "labelmap 1 with empty frames",
    ("fractional", False): "fractional 1",
    ("fractional", True): "fractional 1 with empty frames",
}


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

    mask: (slices, rows, columns) of whole numbers, 0 background; for "fractional" the probabilities themselves, from 0
    to 1, (segments, slices, rows, columns), or (slices, rows, columns) of one segment.
    sources: the datasets of its slices, in slice order; a slice that is one frame of a multi-frame image has a header
    data set of its own, and its frame number stands in `mask.sources` or `source_refs` (`dicom_io.references`).
    segments: what each number means.
    parameters: what changes pixels (threshold, ...), JSON-serialisable. made_at: wall clock time of the plan step.
    source_refs: all images that it was made from, other channels too, as `Source`; `mask.sources` where none are given.
    Their data-set hashes go into the UIDs, their synthetic flag is inherited. further_sources: datasets of the other
    channels; referenced, but no frame's plane.

    form: "binary" is Segmentation Storage, one bit for each voxel and segment; "labelmap" is Label Map Segmentation
    Storage, whose pixels are the segments' numbers; "fractional" is Segmentation Storage with one byte for each voxel
    and segment, the probability in steps of 1/255. empty_frames: write those without a labelled pixel, too.

    One segment, or a label map, has a frame for each slice from the first to the last that is labelled, so that readers
    that take frames for a regular stack (GDCM, ITK) find the right geometry; of several in another form, frames without
    a labelled pixel are left out. A mask without any is written with every frame, because an object without frames is
    no SEG, and "nothing found" is a result.

    Raises:
        Rejected: the mask holds values that are no segment's or no probability, or does not lie on the planes of the
            sources.
        MissingAttribute: a source does not say where it lies.
    """
    values = _fractions(mask, segments) if form == "fractional" else label_map(mask.voxels, segments)
    source_planes.require(mask, sources)
    refs = tuple(source_refs) or mask.sources
    all_sources = [*sources, *further_sources]
    naming = {
        "parameters": dict(parameters),
        "segments": [[segment.number, segment.label] for segment in segments],
        "out_of_domain": out_of_domain,
        "encoding": _ENCODINGS[form, empty_frames],
    }
    sop_class = LABEL_MAP_STORAGE if form == "labelmap" else SEGMENTATION_STORAGE
    frame_numbers = references.frame_numbers(sources, further_sources, refs, mask.sources)
    record = filing.record_of_result(
        "segmentation",
        model=model,
        sop_class_uid=sop_class,
        naming=naming,
        sources=all_sources,
        refs=refs,
        frame_numbers=frame_numbers,
        parameters=parameters,
        frame_of_reference_uid=mask.frame_of_reference_uid,
        out_of_domain=out_of_domain,
        audit_id=audit_id,
    )
    scattered = form != "labelmap" and len(segments) > 1
    written = _frames_to_write(values, all_slices=empty_frames or scattered)
    written_by = Writer(
        source_images=source_planes.stand_ins(sources)[written],
        # highdicom multiplies fractions by the full scale and rounds: these come out as they went in.
        pixel_array=values[written] / np.float32(FULL_SCALE) if form == "fractional" else values[written],
        segmentation_type=hd.seg.SegmentationTypeValues[form.upper()],
        segment_descriptions=[described(segment, record) for segment in segments],
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
    dataset = Dataset(written_by)
    dataset.file_meta = labels.file_meta(sop_class, record.sop_instance_uid)
    filing.under_sources(dataset, all_sources)
    filing.stamp(dataset, made_at)
    source_planes.name_dimensions(dataset)
    source_planes.name_sources(dataset, sources, frame_numbers)
    dataset.LossyImageCompression = filing.lossy(all_sources)
    labels.apply(dataset, record, all_sources, made_at, description)
    return dataset, record


def of_generated(
    mask: Volume,
    *,
    captures: Sequence[tuple[Dataset, LabelRecord]],
    segments: Sequence[Segment],
    model: ModelIdentity,
    parameters: Mapping[str, Any],
    description: str,
    made_at: datetime,
    out_of_domain: bool = False,
    audit_id: str = "",
    form: Form = "binary",
    empty_frames: bool = False,
) -> tuple[Dataset, LabelRecord]:
    """The mask of a generated volume as SEG beside it, in its fictitious study, so that viewers lay one on the other.

    mask: on the grid of the volume that `secondary_capture.generated_volume` wrote; its frame of reference becomes that
    of the captures. captures: all of that series, as they were returned. Frames of the SEG are as high as those of the
    captures, with nothing on the border strip. Everything else as for `segmentation`.

    Raises: as `segmentation`.
    """
    datasets = [header for capture, _ in captures for header in capture_planes.headers(capture)]
    strip = np.zeros((*mask.voxels.shape[:-2], captures[0][1].mark_rows, mask.voxels.shape[-1]), np.float32)
    shown = replace(
        mask,
        voxels=np.concatenate([mask.voxels, strip], axis=-2),
        frame_of_reference_uid=captures[0][1].frame_of_reference_uid,
        sources=tuple(ref for each in captures for ref in _references_to(*each)),
    )
    return segmentation(
        shown,
        sources=datasets,
        segments=segments,
        model=model,
        parameters=parameters,
        description=description,
        made_at=made_at,
        out_of_domain=out_of_domain,
        audit_id=audit_id,
        form=form,
        empty_frames=empty_frames,
    )


def _references_to(capture: Dataset, record: LabelRecord) -> list[Source]:
    # Of the pixels, not of the encoded object, which bears a date: the SEG has the same UIDs on every repeat.
    digest = hashlib.sha256(capture.PixelData).hexdigest()
    count = int(capture.get("NumberOfFrames") or 1)
    return [
        Source(record.sop_class_uid, record.sop_instance_uid, digest, number, record.is_synthetic)
        for number in range(1, count + 1)
    ]


def _require_numbered(segments: Sequence[Segment]) -> None:
    if [segment.number for segment in segments] != list(range(1, len(segments) + 1)) or not segments:
        raise ValueError(f"segments are numbered {[segment.number for segment in segments]}, not 1, 2, ... in order")


def _fractions(mask: Volume, segments: Sequence[Segment]) -> npt.NDArray[np.uint8]:
    """Probabilities in steps of 1/255, (slices, rows, columns, segments)."""
    _require_numbered(segments)
    channels = mask.voxels if mask.voxels.ndim == 4 else mask.voxels[np.newaxis]
    if len(channels) != len(segments):
        raise ValueError(f"{len(channels)} channels of probability for {len(segments)} segments")
    low, high = float(channels.min()), float(channels.max())
    if not (low >= 0 and high <= 1):
        raise Rejected(f"the mask holds values from {low:g} to {high:g}, which are no probabilities from 0 to 1")
    return np.ascontiguousarray(np.rint(np.moveaxis(channels, 0, -1) * np.float32(FULL_SCALE)).astype(np.uint8))


def label_map(labels_of: npt.NDArray[Any], segments: Sequence[Segment]) -> npt.NDArray[Any]:
    """Whole numbers in as few bytes as the segments need.

    Raises:
        Rejected: a value is that of no segment, nor 0.
        ValueError: the array has not three axes (slice, row, column), or segments are not numbered from 1 on.
    """
    _require_numbered(segments)
    if labels_of.ndim != 3:
        raise ValueError(f"a mask has the axes (slice, row, column), not the shape {labels_of.shape}")
    values = np.empty(labels_of.shape, np.uint8 if len(segments) < 256 else np.uint16)
    all_known = True
    with np.errstate(invalid="ignore"):
        for plane, given in zip(values, labels_of, strict=True):  # One slice at a time stays in the cache.
            plane[:] = given
            all_known = all_known and int(plane.max()) <= len(segments) and np.array_equal(plane, given)
    if not all_known:
        known = list(range(len(segments) + 1))
        unknown = sorted(set(np.unique(labels_of).tolist()) - set(known))
        raise Rejected(f"the mask holds {unknown[:5]}, which no segment describes; segments are {known[1:]}")
    return values


def _frames_to_write(values: npt.NDArray[Any], *, all_slices: bool) -> slice:
    labelled = np.flatnonzero(values.reshape(len(values), -1).any(axis=1))
    if all_slices or not labelled.size:
        return slice(0, len(values))
    return slice(int(labelled[0]), int(labelled[-1]) + 1)


class Writer(hd.seg.Segmentation):
    """highdicom's SEG without what costs half of its time and is not used: the tables that its own reading methods look
    frames up in; the references to the stand-ins, which `labels.apply` writes for the real sources; and, for each
    segment anew, what all frames on one plane have in common.

    These are inner methods of highdicom; where it calls them otherwise, the object is the same and made more slowly.
    """

    def _build_luts(self) -> None:
        pass

    def _add_source_image_references(self, **_: object) -> None:
        pass

    def _get_pffg_item(self, dimension_index_values: list[int], plane_position: Any, **rest: Any) -> Dataset:
        of_planes = self.__dict__.setdefault("_of_planes", {})
        if id(plane_position) not in of_planes:
            item = super()._get_pffg_item(dimension_index_values, plane_position, **rest)
            of_planes[id(plane_position)] = [element for element in item if element.tag != _FRAME_CONTENT]
            return item
        content = Dataset()
        content.add_new(_DIMENSION_INDEX_VALUES, "UL", dimension_index_values)
        elements = [DataElement(_FRAME_CONTENT, "SQ", [content]), *of_planes[id(plane_position)]]
        return Dataset({element.tag: element for element in elements})


def described(segment: Segment, record: LabelRecord) -> hd.seg.SegmentDescription:
    """A segment as highdicom takes it, found by the model of the record."""
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


def read(dataset: Dataset, grid: Volume | None = None, *, threshold: float | None = None) -> Volume:
    """The label map of a SEG; frames are placed by their position in the patient, never by order.

    grid: the volume on whose grid the labels are wanted, usually the source's; labels are taken from the nearest voxel.
    Without it the grid is the SEG's own planes: from the first frame to the last along the normal, 0 where a frame
    was left out as empty. Where segments overlap, the higher number stays (`read_segments` keeps them apart).
    threshold: of a FRACTIONAL SEG; a voxel belongs to a segment from this fraction (0 to 1) on.

    Returns a (slices, rows, columns) volume of units "1".

    Raises:
        Rejected: FRACTIONAL without a threshold, no SEG, frames that are not parallel, or another frame of reference
            than the grid's.
        MissingAttribute: the geometry is not in the object.
        GapInSeries: frames do not lie on one regular stack, so that the SEG has no grid of its own.
    """
    kind = _kind(dataset)
    if kind == "FRACTIONAL" and threshold is None:
        raise Rejected(
            f"{_named(dataset)} is FRACTIONAL and holds no labels; give a threshold, or read it with read_fractional"
        )
    pixels = _pixels(dataset)
    at = placement.places(dataset, _named(dataset))
    if kind == "LABELMAP":
        return placement.lay(at, range(len(pixels)), lambda index: pixels[index], grid)
    # Stored fractions are whole numbers: a threshold between two of them means the upper one.
    least = 1 if threshold is None or kind == "BINARY" else max(threshold * _full_scale(dataset) - 1e-6, 1)
    numbers = _segment_of_each_frame(dataset)
    return placement.lay(
        at,
        range(len(pixels)),
        lambda index: np.multiply(pixels[index] >= least, np.float32(numbers[index]), dtype=np.float32),
        grid,
    )


def read_segments(dataset: Dataset, grid: Volume | None = None) -> dict[int, Volume]:
    """Each segment of a SEG, of whatever maker and type, as a volume of its own, by its number; they may overlap.

    Values are 0 and 1 of BINARY and LABELMAP, and fractions from 0 to 1 of FRACTIONAL. All lie on one grid (see
    `read`). A segment without frames is empty; the background of a label map, number 0, is no segment here.

    Raises: as `read`.
    """
    kind, pixels = _kind(dataset), _pixels(dataset)
    at, described_segments = placement.places(dataset, _named(dataset)), segments_of(dataset)
    if kind == "LABELMAP":
        return {
            segment.number: placement.lay(at, range(len(pixels)), _is(segment.number, pixels), grid)
            for segment in described_segments
        }
    full = np.float32(1 if kind == "BINARY" else _full_scale(dataset))
    frames: dict[int, list[int]] = {segment.number: [] for segment in described_segments}
    for index, number in enumerate(_segment_of_each_frame(dataset)):
        if number not in frames:
            raise Rejected(f"frame {index + 1} of {_named(dataset)} shows segment {number}, which is not described")
        frames[number].append(index)
    return {
        number: placement.lay(at, indices, lambda index: pixels[index].astype(np.float32) / full, grid)
        for number, indices in frames.items()
    }


def _is(number: int, pixels: npt.NDArray[Any]) -> placement.Shown:
    return lambda index: pixels[index] == number


def read_fractional(dataset: Dataset, grid: Volume | None = None) -> Volume:
    """The segments as channels, in the order of their numbers: (segments, slices, rows, columns), from 0 to 1.

    Raises: as `read`.
    """
    volumes = [volume for _, volume in sorted(read_segments(dataset, grid).items())]
    return replace(volumes[0], voxels=np.stack([volume.voxels for volume in volumes]))


@dataclass(frozen=True)
class Described:
    """What a SEG says of one of its segments.

    category, property_type: (value, scheme, meaning). algorithm_type: AUTOMATIC, SEMIAUTOMATIC or MANUAL.
    colour: RGB, 0 to 255, or None where none is recommended.
    """

    number: int
    label: str
    category: tuple[str, str, str]
    property_type: tuple[str, str, str]
    algorithm_type: str
    colour: tuple[int, int, int] | None


def segments_of(dataset: Dataset) -> tuple[Described, ...]:
    """The segments of a SEG of any maker, by number; without the background of a label map, number 0.

    Raises:
        Rejected: the object describes none.
    """
    described = [_description(item) for item in dataset.get("SegmentSequence") or []]
    described = [segment for segment in described if segment.number > 0]
    if not described:
        raise Rejected(f"{_named(dataset)} describes no segment in its Segment Sequence (0062,0002)")
    return tuple(sorted(described, key=lambda segment: segment.number))


def _description(item: Dataset) -> Described:
    colour = item.get("RecommendedDisplayCIELabValue")
    return Described(
        number=int(item.SegmentNumber),
        label=str(item.get("SegmentLabel") or ""),
        category=_code(item, "SegmentedPropertyCategoryCodeSequence"),
        property_type=_code(item, "SegmentedPropertyTypeCodeSequence"),
        algorithm_type=str(item.get("SegmentAlgorithmType") or ""),
        colour=CIELabColor.from_dicom_value(list(colour)).to_rgb() if colour else None,
    )


def _code(item: Dataset, keyword: str) -> tuple[str, str, str]:
    code = (item.get(keyword) or [Dataset()])[0]
    value = code.get("CodeValue") or code.get("LongCodeValue") or code.get("URNCodeValue") or ""
    return str(value), str(code.get("CodingSchemeDesignator") or ""), str(code.get("CodeMeaning") or "")


def _named(dataset: Dataset) -> str:
    return f"SEG {dataset.get('SOPInstanceUID')}"


def _kind(dataset: Dataset) -> str:
    kind = str(dataset.get("SegmentationType") or "")
    if kind not in ("BINARY", "LABELMAP", "FRACTIONAL"):
        raise Rejected(f"{_named(dataset)} has Segmentation Type (0062,0001) {kind or 'absent'}, so it is no SEG")
    return kind


def _full_scale(dataset: Dataset) -> int:
    """Maximum Fractional Value (0062,000E): the stored value of a voxel that belongs to the segment wholly."""
    full = int(dataset.get("MaximumFractionalValue") or 0)
    if full < 1:
        raise MissingAttribute(f"{_named(dataset)} is FRACTIONAL without a Maximum Fractional Value (0062,000E)")
    return full


def _pixels(dataset: Dataset) -> npt.NDArray[Any]:
    """(frames, rows, columns), as stored."""
    pixels = np.asarray(dataset.pixel_array)
    return pixels[np.newaxis] if pixels.ndim == 2 else pixels


def _segment_of_each_frame(dataset: Dataset) -> list[int]:
    named = _named(dataset)
    return [
        int(placement.group(dataset, frame, "SegmentIdentificationSequence", named).ReferencedSegmentNumber)
        for frame in dataset.get("PerFrameFunctionalGroupsSequence") or []
    ]
