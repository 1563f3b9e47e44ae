"""Label maps of whole slides <-> tiled DICOM Segmentation (PS3.3 A.51, C.8.12), BINARY, sparse.

The mask is a Total Pixel Matrix as large as that of the level that it was made from; it is written in tiles of the
level's size, and tiles without a labelled pixel are left out. A tile says where it lies by Column and Row Position in
Total Image Pixel Matrix (0048,021E) and (0048,021F). The level is one instance and is referenced as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from dicom_io import filing, labels, placement, references, source_planes
from dicom_io.errors import MissingAttribute, Rejected
from dicom_io.labels import SEGMENTATION_STORAGE, SEGMENTING, SOURCE_IMAGE, code_item
from dicom_io.provenance import MANUFACTURER, LabelRecord, ModelIdentity, series_number
from dicom_io.segmentation import Segment, Writer, described, label_map
from dicom_io.slide import SOP_CLASS
from dicom_io.volume import Source

# Changes whenever the same input would be written in another form: part of the results' UIDs.
_ENCODING = "slide 1"
_PATIENT = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID")


def slide_segmentation(
    mask: npt.NDArray[Any],
    *,
    source: Dataset,
    source_refs: Sequence[Source],
    segments: Sequence[Segment],
    model: ModelIdentity,
    parameters: Mapping[str, Any],
    description: str,
    made_at: datetime,
    out_of_domain: bool = False,
    audit_id: str = "",
) -> tuple[Dataset, LabelRecord]:
    """A mask of one level of a slide as SEG in its study, and the record that the gate needs.

    mask: (rows, columns) of whole numbers, 0 background, as large as the level's Total Pixel Matrix. source: the header
    of the level's instance. source_refs: the frames that it was made from, or the instance; their hashes go into the
    UIDs. A mask without a labelled pixel is written with every tile, since "nothing found" is a result.

    Raises:
        Rejected: the source is no slide, is one part of a concatenation, or has another size than the mask; the mask
            holds values that are no segment's.
        MissingAttribute: the source has no frame of reference.
        ValueError: the source is not named by its references.
    """
    values = label_map(mask[np.newaxis], segments)
    _require_level(mask, source)
    record = filing.record_of_result(
        "segmentation",
        model=model,
        sop_class_uid=SEGMENTATION_STORAGE,
        naming={
            "parameters": dict(parameters),
            "segments": [[segment.number, segment.label] for segment in segments],
            "out_of_domain": out_of_domain,
            "encoding": _ENCODING,
        },
        sources=[source],
        refs=source_refs,
        frame_numbers=[0],
        parameters=parameters,
        frame_of_reference_uid=str(source.FrameOfReferenceUID),
        out_of_domain=out_of_domain,
        audit_id=audit_id,
    )
    dataset = Dataset(
        Writer(
            source_images=[_stand_in(source)],
            pixel_array=values,
            segmentation_type="BINARY",
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
            omit_empty_frames=bool(values.any()),
            tile_pixel_array=True,
            content_label="OUT_OF_DOMAIN" if out_of_domain else "SEGMENTATION",
            content_description=description[:64],
            content_creator_name=f"{MANUFACTURER}^{model.name}"[:64],
            specific_character_set="ISO_IR 192",
        )
    )
    dataset.file_meta = labels.file_meta(SEGMENTATION_STORAGE, record.sop_instance_uid)
    filing.under_sources(dataset, [source])
    filing.stamp(dataset, made_at)
    source_planes.name_dimensions(dataset)
    _name_level(dataset, source)
    dataset.LossyImageCompression = filing.lossy([source])
    dataset.PatientOrientation = None
    labels.apply(dataset, record, [source], made_at, description)
    return dataset, record


def _require_level(mask: npt.NDArray[Any], source: Dataset) -> None:
    uid = source.SOPInstanceUID
    if source.SOPClassUID != SOP_CLASS:
        raise Rejected(f"source {uid} has SOP class {source.SOPClassUID}, not that of whole slides {SOP_CLASS}")
    if int(source.get("InConcatenationTotalNumber") or 1) > 1:
        raise Rejected(f"source {uid} is one part of a concatenation; send the level as one instance")
    if not source.get("FrameOfReferenceUID"):
        raise MissingAttribute(f"source {uid} has no FrameOfReferenceUID, so a mask has no place on it")
    size = (int(source.TotalPixelMatrixRows), int(source.TotalPixelMatrixColumns))
    if mask.shape != size:
        raise Rejected(f"source {uid} has {size[0]} x {size[1]} pixels, the mask {mask.shape}; bring it to its level")


def _stand_in(source: Dataset) -> Dataset:
    """The header without what is filed later, so that a fault in it cannot stop highdicom; copies of its elements."""
    dataset = Dataset({element.tag: copy(element) for element in source if element.tag.group != 0x7FE0})
    for keyword in _PATIENT:
        setattr(dataset, keyword, None)
    dataset.StudyDate, dataset.StudyTime = None, None
    return dataset


def _name_level(dataset: Dataset, source: Dataset) -> None:
    """One Derivation Image group for all frames, where highdicom leaves an empty one in each."""
    item = references.item(source)
    item.PurposeOfReferenceCodeSequence = [code_item(SOURCE_IMAGE)]
    item.SpatialLocationsPreserved = "YES"
    derivation = Dataset()
    derivation.SourceImageSequence, derivation.DerivationCodeSequence = [item], [code_item(SEGMENTING)]
    dataset.SharedFunctionalGroupsSequence[0].DerivationImageSequence = [derivation]
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        if "DerivationImageSequence" in frame:
            del frame.DerivationImageSequence


def read(dataset: Dataset) -> npt.NDArray[np.uint16]:
    """The label map of a tiled BINARY SEG of any maker: (rows, columns) of its Total Pixel Matrix, 0 where no tile is.

    Where segments overlap, the higher number stays.

    Raises:
        Rejected: not BINARY, not tiled, or of several focal planes.
        MissingAttribute: a tile does not say where it lies.
    """
    named = f"SEG {dataset.get('SOPInstanceUID')}"
    if dataset.get("SegmentationType") != "BINARY" or not dataset.get("TotalPixelMatrixRows"):
        raise Rejected(f"{named} is {dataset.get('SegmentationType')} or has no Total Pixel Matrix, so it is not tiled")
    rows, columns = int(dataset.TotalPixelMatrixRows), int(dataset.TotalPixelMatrixColumns)
    height, width = int(dataset.Rows), int(dataset.Columns)
    found = np.zeros((rows + height, columns + width), np.uint16)
    pixels = np.asarray(dataset.pixel_array).reshape(-1, height, width)
    for tile, (number, row, column) in zip(pixels, _tiles(dataset, named), strict=True):
        there = found[row : row + height, column : column + width]
        np.maximum(there, np.where(tile != 0, number, 0), out=there, casting="unsafe")
    return found[:rows, :columns]


def _tiles(dataset: Dataset, named: str) -> list[tuple[int, int, int]]:
    """(segment, row, column) of each frame, from 0; of TILED_FULL by C.7.6.17.3: segment by segment, row by row."""
    if dataset.get("DimensionOrganizationType") == "TILED_FULL":
        places = [
            (row, column)
            for row in range(0, int(dataset.TotalPixelMatrixRows), int(dataset.Rows))
            for column in range(0, int(dataset.TotalPixelMatrixColumns), int(dataset.Columns))
        ]
        if int(dataset.get("TotalPixelMatrixFocalPlanes") or 1) > 1:
            raise Rejected(f"{named} has several focal planes, which are no single label map")
        numbers = [int(segment.SegmentNumber) for segment in dataset.SegmentSequence]
        return [(number, row, column) for number in numbers for row, column in places]
    tiles, heights = [], set()
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        place = placement.group(dataset, frame, "PlanePositionSlideSequence", named)
        shown = placement.group(dataset, frame, "SegmentIdentificationSequence", named)
        heights.add(float(place.get("ZOffsetInSlideCoordinateSystem") or 0.0))
        row, column = place.RowPositionInTotalImagePixelMatrix, place.ColumnPositionInTotalImagePixelMatrix
        tiles.append((int(shown.ReferencedSegmentNumber), int(row) - 1, int(column) - 1))
    if len(heights) > 1:
        raise Rejected(f"{named} has several focal planes, which are no single label map")
    return tiles
