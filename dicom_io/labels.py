"""The labels of an object of ours: one function that sets them, one that writes it checked (promise 5).

What they are stands in `dicom_io.label_table`, which derives them from the job's record alone. `apply` sets them; every
writer of results ends in it. `check` (`dicom_io.label_check`) is the gate.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from io import BytesIO

from pydicom import DataElement, Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from dicom_io import references
from dicom_io.equipment import code_item, equipment_key, equipment_of, is_ours
from dicom_io.errors import Rejected
from dicom_io.label_check import check
from dicom_io.label_table import (
    ACQUISITION,
    ARTIFICIAL_INTELLIGENCE,
    COMPREHENSIVE_3D_SR,
    GRAYSCALE_PRESENTATION_STATE,
    ISSUER,
    LABEL_MAP_STORAGE,
    LONG_TEXT,
    MARK_ROWS,
    MODALITY_CLASSES,
    MULTI_FRAME_GRAYSCALE_WORD,
    MULTI_FRAME_TRUE_COLOUR,
    NO_IMAGE,
    PARAMETRIC_MAP_STORAGE,
    PRIVATE_CREATOR,
    PRIVATE_ELEMENTS,
    PRIVATE_GROUP,
    PROCESSING,
    SECONDARY_CAPTURE,
    SEGMENTATION_STORAGE,
    SEGMENTING,
    SOURCE_IMAGE,
    SYNTHESIZING,
    UNITS,
    UNSPECIFIED,
    Labels,
    expected,
    frame_of_reference_of,
    visible_mark,
)
from dicom_io.provenance import MANUFACTURER, LabelRecord, name_based_uid

__all__ = [
    "ACQUISITION",
    "ARTIFICIAL_INTELLIGENCE",
    "COMPREHENSIVE_3D_SR",
    "GRAYSCALE_PRESENTATION_STATE",
    "ISSUER",
    "LABEL_MAP_STORAGE",
    "MODALITY_CLASSES",
    "MULTI_FRAME_GRAYSCALE_WORD",
    "MULTI_FRAME_TRUE_COLOUR",
    "PARAMETRIC_MAP_STORAGE",
    "PRIVATE_CREATOR",
    "PRIVATE_GROUP",
    "PROCESSING",
    "SECONDARY_CAPTURE",
    "SEGMENTATION_STORAGE",
    "SEGMENTING",
    "SOURCE_IMAGE",
    "SYNTHESIZING",
    "UNSPECIFIED",
    "Labels",
    "apply",
    "check",
    "code_item",
    "encode",
    "equipment_key",
    "equipment_of",
    "expected",
    "file_meta",
    "frame_of_reference_of",
    "is_ours",
    "is_synthetic",
    "mark_rows",
    "units_of",
    "visible_mark",
]

# A name of ours for this implementation, PS3.7 D.3.3.2; below 2.25, so that it needs no registered root.
_IMPLEMENTATION_CLASS_UID = name_based_uid("implementation class")
_IMPLEMENTATION_VERSION = "MIRALL"


def is_synthetic(dataset: Dataset) -> bool:
    """Synthetic Data (0008,001C) is YES."""
    return str(dataset.get("SyntheticData") or "") == "YES"


def mark_rows(dataset: Dataset) -> int:
    """Height of the border strip with the visible mark, as recorded in our private block.

    Raises:
        Rejected: it is not recorded.
    """
    try:
        return int(dataset.private_block(PRIVATE_GROUP, PRIVATE_CREATOR)[MARK_ROWS].value)
    except KeyError as error:
        raise Rejected(
            f"{dataset.get('SOPInstanceUID')} has no Mark Rows (4D4D,xx07); only captures made here can be read back"
        ) from error


def units_of(dataset: Dataset) -> str:
    """Unit of the pixel values (UCUM), as recorded in our private block; "" where there is none."""
    try:
        return str(dataset.private_block(PRIVATE_GROUP, PRIVATE_CREATOR)[UNITS].value)
    except KeyError:
        return ""


def apply(
    dataset: Dataset,
    record: LabelRecord,
    sources: Sequence[Dataset],
    made_at: datetime,
    description: str,
    units: str = "",
) -> None:
    """Set every label of the record's row; the one function that does, and the last step of every writer.

    dataset: complete but for its labels; UIDs and patient are the writer's, the rest of `expected` is set here.
    sources: the datasets of `record.source_uids`, in that order; several may be of one instance.
    made_at: wall clock time of the plan step.
    description: free words, after those that the record demands; what does not fit is cut off.
    units: UCUM unit of the (rescaled) pixel values.

    Raises:
        ValueError: sources and record differ.
        Unlabelled: see `expected`.
    """
    labels = expected(record)
    originals = references.instances(sources)
    if references.instance_uids(originals) != record.source_uids:
        raise ValueError(
            f"{len(originals)} source datasets do not match the record's {len(record.source_uids)} source UIDs"
        )
    for keyword, value in labels.attributes.items():
        if value is None:
            if keyword in dataset:
                delattr(dataset, keyword)
        elif not keyword.endswith("InstanceUID") and keyword != "SOPClassUID":
            setattr(dataset, keyword, list(value) if isinstance(value, tuple) else value)
    if record.frame_of_reference_uid and "PositionReferenceIndicator" not in dataset:
        dataset.PositionReferenceIndicator = None
    dataset.SeriesDescription = f"{labels.series_words} {description}"[:64].strip()
    if record.kind not in NO_IMAGE:
        dataset.DerivationDescription = f"{labels.derivation_words} {description}"[:1024].strip()
    own = _own_equipment(record, labels, made_at)
    # A source that the same version made (the SEG of a report) names it already; it stands once, for this object.
    kept = [item for item in equipment_of(originals) if equipment_key(item) != equipment_key(own)]
    dataset.ContributingEquipmentSequence = [*kept, own]
    if originals and record.kind not in NO_IMAGE:
        # One element serves all: a long series has thousands of these items.
        purpose = DataElement("PurposeOfReferenceCodeSequence", "SQ", [code_item(SOURCE_IMAGE)])
        dataset.SourceImageSequence = [_source_item(source, record, purpose) for source in originals]
        dataset.ReferencedSeriesSequence = _referenced_series(originals)
    if "SegmentSequence" in dataset:
        for segment in dataset.SegmentSequence:
            segment.SegmentAlgorithmType = "AUTOMATIC"
            segment.SegmentAlgorithmName = record.model.address
            segment.SegmentationAlgorithmIdentificationSequence = [_algorithm(record)]
    block = dataset.private_block(PRIVATE_GROUP, PRIVATE_CREATOR, create=True)
    for number, element in {**labels.private, **({UNITS: units} if units else {})}.items():
        block.add_new(number, PRIVATE_ELEMENTS[number][0], element)


def _own_equipment(record: LabelRecord, labels: Labels, made_at: datetime) -> Dataset:
    # One item per algorithm with a Device UID of its own, as IHE AIR (6.5.3.1) asks.
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [code_item(labels.equipment_code)]
    item.Manufacturer = MANUFACTURER
    item.ManufacturerModelName = record.model.name
    item.SoftwareVersions = record.model.version
    item.DeviceSerialNumber = record.model.content_hash[:16]
    item.DeviceUID = record.model.device_uid
    item.ContributionDateTime = made_at.strftime("%Y%m%d%H%M%S.%f%z")
    item.ContributionDescription = labels.derivation_words
    return item


def _source_item(source: Dataset, record: LabelRecord, purpose: DataElement) -> Dataset:
    item = references.item(source)
    if frames := record.frames_of(str(source.SOPInstanceUID)):
        item.ReferencedFrameNumber = list(frames)
    item.add(purpose)
    return item


def _referenced_series(sources: Sequence[Dataset]) -> list[Dataset]:
    """Common Instance Reference (PS3.3 C.12.2): the sources by series, all of the result's own study."""
    series: dict[str, list[Dataset]] = {}
    for source in sources:
        series.setdefault(str(source.SeriesInstanceUID), []).append(references.item(source))
    return [_series_item(uid, items) for uid, items in series.items()]


def _series_item(series_instance_uid: str, instances: Sequence[Dataset]) -> Dataset:
    item = Dataset()
    item.SeriesInstanceUID = series_instance_uid
    item.ReferencedInstanceSequence = instances
    return item


def _algorithm(record: LabelRecord) -> Dataset:
    item = Dataset()
    item.AlgorithmFamilyCodeSequence = [code_item(ARTIFICIAL_INTELLIGENCE)]
    item.AlgorithmName = record.model.name
    item.AlgorithmVersion = record.model.version
    item.AlgorithmSource = MANUFACTURER
    if record.parameters:
        item.AlgorithmParameters = record.parameters[:LONG_TEXT]
    return item


def file_meta(sop_class_uid: str, sop_instance_uid: str) -> FileMetaDataset:
    """File meta information of what we write: explicit VR, because old receivers drop unknown tags of implicit ones."""
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\0\1"
    meta.MediaStorageSOPClassUID = UID(sop_class_uid)
    meta.MediaStorageSOPInstanceUID = UID(sop_instance_uid)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(_IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = _IMPLEMENTATION_VERSION
    return meta


def encode(dataset: Dataset, record: LabelRecord) -> bytes:
    """The object as a DICOM file (PS3.10), checked: the bytes that are stored and sent.

    Raises:
        Unlabelled: `check` refuses the bytes.
    """
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    check(buffer.getvalue(), record)
    return buffer.getvalue()
