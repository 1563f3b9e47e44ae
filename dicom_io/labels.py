"""The labels that an object of ours must carry, one function that sets them, one that checks them (promise 5).

`expected` derives the labels from the job's record alone. `apply` sets them; every writer of results ends in it. `check`
knows only bytes and record and stands at the store and at each exit. The rows (PS3.3 C.12.1 SOP Common, C.8.6.1 SC
Equipment, C.7.6.1 General Image, C.12.4 General Reference, 10.16 Algorithm Identification):

    kind                 Synthetic Data  Conversion Type  Image Type          own equipment item  source images  frame of reference  patient
    generated            YES             SYN              DERIVED\\SECONDARY  109100 synthesizing  none           new                 fictitious
    generated-from-real  YES             SYN              DERIVED\\SECONDARY  109100 synthesizing  121322         the record's        the source's
    segmentation         as the source   -                DERIVED\\PRIMARY    109102 processing    121322/113076  the source's        the source's
    capture              as the source   WSD              DERIVED\\SECONDARY  109102 processing    121322         with planes only    the source's

All carry Content Qualification RESEARCH, keep the sources' equipment items, and say in words what made them. A group of
private elements holds what the standard has no place for; it is no second source of truth for the flag itself:

    (4D4D,0010) LO  creator "MIRALL"
    (4D4D,xx01) LO  kind of object                    (4D4D,xx06) LO  seed, "" where nothing was drawn
    (4D4D,xx02) LO  model name:version                (4D4D,xx07) US  rows of the border strip with the visible mark
    (4D4D,xx03) LO  SHA-256 of the model version      (4D4D,xx08) LO  INSIDE or OUTSIDE the domain of the model's card
    (4D4D,xx04) LO  state of the model version        (4D4D,xx09) UT  parameters that change pixels, as JSON
    (4D4D,xx05) LO  identifier of its evaluation      (4D4D,xx0A) LO  unit of the pixel values (UCUM), where there is one
"""  # noqa: E501 (a table)

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.datadict import add_private_dict_entries, dictionary_description, tag_for_keyword
from pydicom.dataset import FileMetaDataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRLittleEndian

from dicom_io.errors import Rejected, Unlabelled
from dicom_io.provenance import FICTITIOUS_PATIENT_PREFIX, MANUFACTURER, LabelRecord, name_based_uid
from dicom_io.volume import Source

SEGMENTATION_STORAGE = "1.2.840.10008.5.1.4.1.1.66.4"
LABEL_MAP_STORAGE = "1.2.840.10008.5.1.4.1.1.66.7"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
MULTI_FRAME_GRAYSCALE_WORD = "1.2.840.10008.5.1.4.1.1.7.3"
MULTI_FRAME_TRUE_COLOUR = "1.2.840.10008.5.1.4.1.1.7.4"
_SEGMENTATIONS = (SEGMENTATION_STORAGE, LABEL_MAP_STORAGE)
# Only these are written for pictures; generated objects in a modality's own SOP class are not let out.
_CAPTURES = (SECONDARY_CAPTURE, MULTI_FRAME_GRAYSCALE_WORD, MULTI_FRAME_TRUE_COLOUR)

PRIVATE_CREATOR = "MIRALL"
PRIVATE_GROUP = 0x4D4D
_KIND, _MODEL, _HASH, _STATE, _AUDIT, _SEED, _MARK_ROWS, _DOMAIN, _PARAMETERS, _UNITS = range(1, 11)
_PRIVATE_ELEMENTS = {
    _KIND: ("LO", "Kind of Object"),
    _MODEL: ("LO", "Model Version"),
    _HASH: ("LO", "Model Content Hash"),
    _STATE: ("LO", "Model State"),
    _AUDIT: ("LO", "Audit ID"),
    _SEED: ("LO", "Seed"),
    _MARK_ROWS: ("US", "Mark Rows"),
    _DOMAIN: ("LO", "Domain"),
    _PARAMETERS: ("UT", "Parameters"),
    _UNITS: ("LO", "Units of Pixel Values"),
}
# Without an entry in pydicom's dictionary the elements would turn into UN when an object is re-encoded as implicit VR.
add_private_dict_entries(
    PRIVATE_CREATOR,
    {PRIVATE_GROUP << 16 | 0x1000 | number: (vr, "1", name) for number, (vr, name) in _PRIVATE_ELEMENTS.items()},
)

ISSUER = "MIRALL"
SYNTHESIZING = ("109100", "DCM", "Synthesizing Equipment")
ACQUISITION = ("109101", "DCM", "Acquisition Equipment")
PROCESSING = ("109102", "DCM", "Processing Equipment")
SOURCE_IMAGE = ("121322", "DCM", "Source image for image processing operation")
SEGMENTING = ("113076", "DCM", "Segmentation")
ARTIFICIAL_INTELLIGENCE = ("123110", "DCM", "Artificial Intelligence")

# Most characters of a Long Text (PS3.5 6.2); the whole of the parameters stands in the private block.
_LONG_TEXT = 10240

# A name of ours for this implementation, PS3.7 D.3.3.2; below 2.25, so that it needs no registered root.
_IMPLEMENTATION_CLASS_UID = name_based_uid("implementation class")
_IMPLEMENTATION_VERSION = "MIRALL"

# What pydicom and NumPy raise on bytes that are no DICOM, or DICOM with damage inside.
_UNDECODABLE = (
    InvalidDicomError,
    BytesLengthException,
    EOFError,
    OSError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RecursionError,
    RuntimeError,
    OverflowError,
    struct.error,
)


@dataclass(frozen=True)
class Labels:
    """What an object must carry, by a job's record alone.

    attributes: keyword -> value (a tuple for several); None: the attribute must be absent.
    equipment_code: purpose code of our own Contributing Equipment item.
    series_words, derivation_words: what Series Description and Derivation Description begin with.
    private: element number in our block -> value.
    """

    attributes: Mapping[str, str | tuple[str, ...] | None]
    equipment_code: tuple[str, str, str]
    series_words: str
    derivation_words: str
    private: Mapping[int, str | int]


def expected(record: LabelRecord) -> Labels:
    """The labels that an object of this record must carry: its row of the table, filled in.

    Raises:
        Unlabelled: the record contradicts itself, so that no row fits (a segmentation without sources, ...).
    """
    _require_sound(record)
    generated = record.kind in ("generated", "generated-from-real")
    segmentation = record.kind == "segmentation"
    conversion = "SYN" if generated else "WSD"
    return Labels(
        attributes={
            "SOPClassUID": record.sop_class_uid,
            "SOPInstanceUID": record.sop_instance_uid,
            "SeriesInstanceUID": record.series_instance_uid,
            "StudyInstanceUID": record.study_instance_uid,
            "SyntheticData": "YES" if record.is_synthetic else None,
            "ConversionType": None if segmentation else conversion,
            "ImageType": ("DERIVED", "PRIMARY") if segmentation else ("DERIVED", "SECONDARY"),
            "ContentQualification": "RESEARCH",
            "FrameOfReferenceUID": record.frame_of_reference_uid or None,
            "Manufacturer": MANUFACTURER,
            "ManufacturerModelName": record.model.name,
            "SoftwareVersions": record.model.version,
            "DeviceSerialNumber": record.model.content_hash[:16],
            # The mark identifies nobody, and nothing else is burned in (PS3.3 C.7.6.1).
            **({} if segmentation else {"BurnedInAnnotation": "NO"}),
            **({"IssuerOfPatientID": ISSUER} if record.kind == "generated" else {}),
        },
        equipment_code=SYNTHESIZING if generated else PROCESSING,
        series_words=_series_words(record),
        derivation_words=_derivation_words(record),
        private={
            _KIND: record.kind,
            _MODEL: record.model.address,
            _HASH: record.model.content_hash,
            _STATE: record.model.state.upper(),
            _AUDIT: record.audit_id,
            _SEED: "" if record.seed is None else str(record.seed),
            _MARK_ROWS: record.mark_rows,
            _DOMAIN: "OUTSIDE" if record.out_of_domain else "INSIDE",
            _PARAMETERS: record.parameters,
        },
    )


def frame_of_reference_of(series_instance_uid: str) -> str:
    """The new Frame of Reference UID of a generated series: nothing else in the world shares its coordinates."""
    return name_based_uid("frame of reference", series_instance_uid)


def visible_mark(record: LabelRecord) -> str:
    """The words burned into the border strip, which copies without a header keep."""
    words = ["SYNTHETIC"] if record.is_synthetic else []
    if record.kind in ("generated", "generated-from-real"):
        words += [record.model.address, "not for diagnosis"]
    else:
        words += ["AI", "research only", record.model.address]
    return " - ".join([*words, *(["OUT OF DOMAIN"] if record.out_of_domain else [])])


def _require_sound(record: LabelRecord) -> None:
    def refuse(what: str) -> None:
        raise Unlabelled(
            f"the record of {record.sop_instance_uid} ({record.kind}) {what}; "
            "no row of labels fits, make the object anew"
        )

    if record.kind == "segmentation":
        if record.sop_class_uid not in _SEGMENTATIONS:
            refuse(f"has SOP class {record.sop_class_uid}, not one of {' '.join(_SEGMENTATIONS)}")
        if record.mark_rows:
            refuse(f"has {record.mark_rows} mark rows, a segmentation none")
    elif record.kind in ("generated", "generated-from-real", "capture"):
        if record.sop_class_uid not in _CAPTURES:
            refuse(f"has SOP class {record.sop_class_uid}, not one of {' '.join(_CAPTURES)}")
        if record.mark_rows < 1:
            refuse("has no mark rows")
    else:
        refuse("is of no known kind")
    if record.kind == "generated":
        if record.source_uids:
            refuse("names sources, but is generated from none")
        if not record.patient_id.startswith(FICTITIOUS_PATIENT_PREFIX):
            refuse("is filed under a patient who is not fictitious")
        if record.frame_of_reference_uid != frame_of_reference_of(record.series_instance_uid):
            refuse("does not have a frame of reference of its own")
    elif not record.source_uids:
        refuse("names no sources")
    elif record.kind == "segmentation" and not record.frame_of_reference_uid:
        refuse("has no frame of reference")
    if record.kind in ("generated", "generated-from-real") and record.seed is None:
        refuse("has no seed")


def _series_words(record: LabelRecord) -> str:
    words = ["SYNTHETIC"] if record.is_synthetic else []
    words += [] if record.kind in ("generated", "generated-from-real") else ["AI"]
    words += ["OUT OF DOMAIN"] if record.out_of_domain else []
    words += [] if record.model.state == "proven" else [record.model.state.upper()]
    return " ".join(words)


def _derivation_words(record: LabelRecord) -> str:
    # Short Text holds 1024 characters; the whole of the parameters stands in the private block.
    parameters = record.parameters if len(record.parameters) <= 400 else f"{record.parameters[:397]}..."
    seed = "" if record.seed is None else f", seed {record.seed}"
    return (
        f"{_series_words(record)}: not for diagnosis. Made by {record.model.address} "
        f"(state {record.model.state}, SHA-256 {record.model.content_hash[:16]}{seed}"
        f"{f', evaluation {record.audit_id}' if record.audit_id else ''})"
        f"{f' with {parameters}' if parameters else ''}."
    )


def code_item(code: tuple[str, str, str]) -> Dataset:
    """An item of a code sequence (PS3.3 8.8): value, scheme designator, meaning."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code
    return item


def equipment_key(item: Dataset) -> str:
    """What tells one Contributing Equipment item from another: purpose | manufacturer | model | serial | device UID."""
    purposes = "+".join(str(code.get("CodeValue", "")) for code in _items(item, "PurposeOfReferenceCodeSequence"))
    rest = ("Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "DeviceUID")
    return "|".join([purposes, *(str(item.get(keyword) or "") for keyword in rest)])


def equipment_of(sources: Sequence[Dataset]) -> list[Dataset]:
    """The equipment items that a result of these sources must keep, each once, in order of first appearance.

    These are the sources' own Contributing Equipment items, and the scanner that a source's General Equipment names
    (as 109101), unless an item says already who acquired or synthesised it.
    """
    kept: dict[str, Dataset] = {}
    for source in sources:
        items = [_decoded_copy(item) for item in _items(source, "ContributingEquipmentSequence")]
        makers = {SYNTHESIZING[0], ACQUISITION[0]}
        if source.get("Manufacturer") and not any(equipment_key(item).split("|")[0] in makers for item in items):
            items.append(_acquisition_item(source))
        for item in items:
            kept.setdefault(equipment_key(item), item)
    return list(kept.values())


def _acquisition_item(source: Dataset) -> Dataset:
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [code_item(ACQUISITION)]
    keywords = ("Manufacturer", "ManufacturerModelName", "StationName", "DeviceSerialNumber", "SoftwareVersions")
    for keyword in (*keywords, "DeviceUID"):
        if source.get(keyword):
            setattr(item, keyword, deepcopy(source[keyword].value))
    return item


def _decoded_copy(item: Dataset) -> Dataset:
    """A copy without private elements, text decoded, so that it can be written in another character set."""
    copy = Dataset()
    for element in item:
        if element.tag.is_private:
            continue
        if element.VR == "SQ":
            setattr(copy, element.keyword, [_decoded_copy(child) for child in element.value])
        else:
            copy.add_new(element.tag, element.VR, deepcopy(element.value))
    return copy


def is_synthetic(dataset: Dataset) -> bool:
    """Synthetic Data (0008,001C) is YES."""
    return str(dataset.get("SyntheticData") or "") == "YES"


def is_ours(dataset: Dataset, known_device_uids: Collection[str]) -> bool:
    """Whether one of our model versions had a hand in this object: a Contributing Equipment item bears its Device UID.

    known_device_uids: `ModelIdentity.device_uid` of every model version that this node has or had. The caller knows the
    SOP Instance UIDs that it wrote; this finds what came back under another UID (promise 2).
    """
    return any(
        str(item.get("DeviceUID") or "") in known_device_uids
        for item in _items(dataset, "ContributingEquipmentSequence")
    )


def require_named(source_uids: Sequence[str], refs: Iterable[Source]) -> None:
    """Each source dataset once, and each among the references that the UIDs of a result are made from.

    Raises:
        ValueError: one is not, so that a change in it would not change the result's UIDs.
    """
    unnamed = sorted(set(source_uids) - {ref.sop_instance_uid for ref in refs})
    if unnamed or len(set(source_uids)) < len(source_uids) or not source_uids:
        raise ValueError(
            f"{len(source_uids)} source datasets are not each named once by the source references; "
            f"not named: {unnamed[:3] or 'none'}"
        )


def mark_rows(dataset: Dataset) -> int:
    """Height of the border strip with the visible mark, as recorded in our private block.

    Raises:
        Rejected: it is not recorded.
    """
    try:
        return int(dataset.private_block(PRIVATE_GROUP, PRIVATE_CREATOR)[_MARK_ROWS].value)
    except KeyError as error:
        raise Rejected(
            f"{dataset.get('SOPInstanceUID')} has no Mark Rows (4D4D,xx07); only captures made here can be read back"
        ) from error


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
    sources: the datasets of `record.source_uids`, in that order. made_at: wall clock time of the plan step.
    description: free words, after those that the record demands; what does not fit is cut off.
    units: UCUM unit of the (rescaled) pixel values.

    Raises:
        ValueError: sources and record differ.
        Unlabelled: see `expected`.
    """
    labels = expected(record)
    if tuple(str(source.SOPInstanceUID) for source in sources) != record.source_uids:
        raise ValueError(
            f"{len(sources)} source datasets do not match the record's {len(record.source_uids)} source UIDs"
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
    dataset.DerivationDescription = f"{labels.derivation_words} {description}"[:1024].strip()
    dataset.ContributingEquipmentSequence = [*equipment_of(sources), _own_equipment(record, labels, made_at)]
    if sources:
        dataset.SourceImageSequence = [_source_item(source) for source in sources]
        dataset.ReferencedSeriesSequence = _referenced_series(sources)
    if "SegmentSequence" in dataset:
        for segment in dataset.SegmentSequence:
            segment.SegmentAlgorithmType = "AUTOMATIC"
            segment.SegmentAlgorithmName = record.model.address
            segment.SegmentationAlgorithmIdentificationSequence = [_algorithm(record)]
    block = dataset.private_block(PRIVATE_GROUP, PRIVATE_CREATOR, create=True)
    for number, element in {**labels.private, **({_UNITS: units} if units else {})}.items():
        block.add_new(number, _PRIVATE_ELEMENTS[number][0], element)


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


def _source_item(source: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = source.SOPClassUID
    item.ReferencedSOPInstanceUID = source.SOPInstanceUID
    item.PurposeOfReferenceCodeSequence = [code_item(SOURCE_IMAGE)]
    return item


def _referenced_series(sources: Sequence[Dataset]) -> list[Dataset]:
    """Common Instance Reference (PS3.3 C.12.2): the sources by series, all of the result's own study."""
    series: dict[str, Dataset] = {}
    for source in sources:
        item = Dataset()
        item.ReferencedSOPClassUID = source.SOPClassUID
        item.ReferencedSOPInstanceUID = source.SOPInstanceUID
        of_series = series.setdefault(str(source.SeriesInstanceUID), Dataset())
        of_series.SeriesInstanceUID = source.SeriesInstanceUID
        of_series.ReferencedInstanceSequence = [*_items(of_series, "ReferencedInstanceSequence"), item]
    return list(series.values())


def _algorithm(record: LabelRecord) -> Dataset:
    item = Dataset()
    item.AlgorithmFamilyCodeSequence = [code_item(ARTIFICIAL_INTELLIGENCE)]
    item.AlgorithmName = record.model.name
    item.AlgorithmVersion = record.model.version
    item.AlgorithmSource = MANUFACTURER
    if record.parameters:
        item.AlgorithmParameters = record.parameters[:_LONG_TEXT]
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


def check(raw: bytes | Dataset, record: LabelRecord) -> None:
    """Let an object pass only if it carries every label of its record's row.

    raw: a DICOM file's bytes, or a dataset with its pixels. It fails closed: what cannot be decoded does not pass.

    Raises:
        Unlabelled: names the first attribute that is wrong, its value and what it should be.
    """
    labels = expected(record)
    try:
        dataset = dcmread(BytesIO(raw)) if isinstance(raw, bytes | bytearray | memoryview) else raw
        for _ in dataset.iterall():
            pass  # Elements are decoded when they are looked at; damage must show here, not at the receiver's.
        _check_attributes(dataset, record, labels)
        _check_equipment(dataset, record, labels)
        _check_sources(dataset, record)
        _check_algorithm(dataset, record)
        _check_private(dataset, labels)
        _check_pixels(dataset, record)
    except _UNDECODABLE as error:
        raise Unlabelled(
            f"result {record.sop_instance_uid} cannot be decoded ({type(error).__name__}: {error}); "
            "it is held back, make it anew"
        ) from error


def _refuse(record_uid: str, keyword: str, found: object, wanted: object) -> Unlabelled:
    tag = Tag(tag_for_keyword(keyword) or 0)
    return Unlabelled(
        f"result {record_uid}: {dictionary_description(tag)} {tag} {keyword} is {found}, it must be {wanted}; "
        "it is held back, write it with dicom_io.labels.apply"
    )


def _items(dataset: Dataset, keyword: str) -> list[Dataset]:
    return list(dataset.get(keyword) or [])


def _codes(dataset: Dataset, keyword: str) -> set[tuple[str, str]]:
    items = _items(dataset, keyword)
    return {(str(item.get("CodeValue", "")), str(item.get("CodingSchemeDesignator", ""))) for item in items}


def _value(dataset: Dataset, keyword: str) -> str | tuple[str, ...] | None:
    if keyword not in dataset:
        return None
    value = dataset[keyword].value
    if value is None:
        return ""
    return (
        str(value) if isinstance(value, str) or not isinstance(value, Iterable) else tuple(str(part) for part in value)
    )


def _check_attributes(dataset: Dataset, record: LabelRecord, labels: Labels) -> None:
    uid = record.sop_instance_uid
    for keyword, wanted in labels.attributes.items():
        if (found := _value(dataset, keyword)) != wanted:
            raise _refuse(uid, keyword, *("absent" if value is None else repr(value) for value in (found, wanted)))
    meta = getattr(dataset, "file_meta", None)
    if meta and str(meta.get("MediaStorageSOPInstanceUID", uid)) != uid:
        raise _refuse(uid, "MediaStorageSOPInstanceUID", meta.MediaStorageSOPInstanceUID, uid)
    if _value(dataset, "PatientID") != record.patient_id:
        # A message never holds a patient's ID.
        raise _refuse(uid, "PatientID", "another patient's", "the record's")
    for keyword, words in (
        ("SeriesDescription", labels.series_words[:64]),
        ("DerivationDescription", labels.derivation_words[:1024]),
    ):
        if not (text := str(_value(dataset, keyword) or "")).startswith(words.strip()):
            raise _refuse(uid, keyword, repr(text), f"text that begins with {words!r}")


def _check_equipment(dataset: Dataset, record: LabelRecord, labels: Labels) -> None:
    uid, keyword = record.sop_instance_uid, "ContributingEquipmentSequence"
    items = _items(dataset, keyword)
    own = [item for item in items if _value(item, "DeviceUID") == record.model.device_uid]
    own = [item for item in own if labels.equipment_code[:2] in _codes(item, "PurposeOfReferenceCodeSequence")]
    if not own:
        found = [equipment_key(item) for item in items]
        raise _refuse(
            uid, keyword, found, f"items with {labels.equipment_code[0]} and Device UID {record.model.device_uid}"
        )
    for part in ("Manufacturer", "ManufacturerModelName", "SoftwareVersions"):
        if _value(own[-1], part) != labels.attributes[part]:
            raise _refuse(uid, part, f"{_value(own[-1], part)!r} in our {keyword} item", repr(labels.attributes[part]))
    missing = set(record.source_equipment) - {equipment_key(item) for item in items}
    if missing:
        raise _refuse(uid, keyword, f"without {sorted(missing)}", "the sources' items and our own")


def _check_sources(dataset: Dataset, record: LabelRecord) -> None:
    uid, keyword = record.sop_instance_uid, "SourceImageSequence"
    _check_references(_items(dataset, keyword), record, complete=True)
    by_series = {
        str(item.get("ReferencedSOPInstanceUID", ""))
        for series in _items(dataset, "ReferencedSeriesSequence")
        for item in _items(series, "ReferencedInstanceSequence")
    }
    if by_series != set(record.source_uids):
        how_many = f"{len(by_series)} references"
        raise _refuse(uid, "ReferencedSeriesSequence", how_many, f"to the record's {len(record.source_uids)} sources")
    if record.kind != "segmentation":
        return
    groups = [
        *_items(dataset, "SharedFunctionalGroupsSequence"),
        *_items(dataset, "PerFrameFunctionalGroupsSequence"),
    ]
    shared = bool(groups) and bool(_items(groups[0], "DerivationImageSequence"))
    for frame, group in enumerate(groups):
        derivations = _items(group, "DerivationImageSequence")
        if frame > 0 and not shared and not derivations:
            raise _refuse(uid, "DerivationImageSequence", f"absent in frame {frame}", "there for each frame")
        for derivation in derivations:
            if SEGMENTING[:2] not in _codes(derivation, "DerivationCodeSequence"):
                found = _codes(derivation, "DerivationCodeSequence")
                raise _refuse(uid, "DerivationCodeSequence", f"{found} in frame {frame}", SEGMENTING[:2])
            if not _items(derivation, keyword):
                raise _refuse(uid, keyword, f"empty in frame {frame}", "the frame's source")
            _check_references(_items(derivation, keyword), record, complete=False)


def _check_references(items: Sequence[Dataset], record: LabelRecord, *, complete: bool) -> None:
    uid, keyword = record.sop_instance_uid, "SourceImageSequence"
    named = [str(item.get("ReferencedSOPInstanceUID", "")) for item in items]
    wanted = set(record.source_uids)
    if not set(named) <= wanted or (complete and (set(named) != wanted or len(named) != len(wanted))):
        raise _refuse(uid, keyword, f"{len(named)} references", f"to the record's {len(wanted)} sources, each once")
    for item in items:
        if SOURCE_IMAGE[:2] not in _codes(item, "PurposeOfReferenceCodeSequence"):
            found = _codes(item, "PurposeOfReferenceCodeSequence")
            raise _refuse(uid, "PurposeOfReferenceCodeSequence", f"{found or 'absent'} in {keyword}", SOURCE_IMAGE[:2])


def _check_algorithm(dataset: Dataset, record: LabelRecord) -> None:
    if record.kind != "segmentation":
        return
    uid, keyword = record.sop_instance_uid, "SegmentationAlgorithmIdentificationSequence"
    if not _items(dataset, "SegmentSequence"):
        raise _refuse(uid, "SegmentSequence", "empty", "one item per segment")
    for segment in _items(dataset, "SegmentSequence"):
        if _value(segment, "SegmentAlgorithmType") != "AUTOMATIC":
            raise _refuse(uid, "SegmentAlgorithmType", _value(segment, "SegmentAlgorithmType"), "AUTOMATIC")
        if _value(segment, "SegmentAlgorithmName") != record.model.address:
            raise _refuse(uid, "SegmentAlgorithmName", _value(segment, "SegmentAlgorithmName"), record.model.address)
        algorithms = _items(segment, keyword)
        if len(algorithms) != 1:
            raise _refuse(uid, keyword, f"{len(algorithms)} items", "one item in each segment")
        if ARTIFICIAL_INTELLIGENCE[:2] not in _codes(algorithms[0], "AlgorithmFamilyCodeSequence"):
            found = _codes(algorithms[0], "AlgorithmFamilyCodeSequence")
            raise _refuse(uid, "AlgorithmFamilyCodeSequence", found or "absent", ARTIFICIAL_INTELLIGENCE[:2])
        for part, wanted in (
            ("AlgorithmName", record.model.name),
            ("AlgorithmVersion", record.model.version),
            ("AlgorithmParameters", record.parameters[:_LONG_TEXT] or None),
        ):
            if _value(algorithms[0], part) != wanted:
                raise _refuse(uid, part, repr(_value(algorithms[0], part)), repr(wanted))


def _check_private(dataset: Dataset, labels: Labels) -> None:
    uid = labels.attributes["SOPInstanceUID"]
    try:
        block = dataset.private_block(PRIVATE_GROUP, PRIVATE_CREATOR)
    except KeyError as error:
        raise Unlabelled(
            f"result {uid}: the private block (4D4D,0010) {PRIVATE_CREATOR!r} is absent; "
            "it is held back, write it with dicom_io.labels.apply"
        ) from error
    for number, wanted in labels.private.items():
        name = f"{_PRIVATE_ELEMENTS[number][1]} (4D4D,xx{number:02X})"
        found = block[number].value if number in block else None
        if found is None or str(found) != str(wanted):
            shown = "absent" if found is None else repr(str(found))
            raise Unlabelled(
                f"result {uid}: {name} in the private block is {shown}, it must be {str(wanted)!r}; "
                "it is held back, write it with dicom_io.labels.apply"
            )


def _check_pixels(dataset: Dataset, record: LabelRecord) -> None:
    """Pixel Data are whole, and the border strip is not blank and alike in all frames."""
    uid = record.sop_instance_uid
    if "PixelData" not in dataset:
        raise _refuse(uid, "PixelData", "absent", "there: without pixels nothing shows that the mark is")
    frames, rows, columns = int(dataset.get("NumberOfFrames") or 1), int(dataset.Rows), int(dataset.Columns)
    syntax = getattr(getattr(dataset, "file_meta", None), "TransferSyntaxUID", ExplicitVRLittleEndian)
    if UID(syntax).is_compressed:
        pixels = np.asarray(dataset.pixel_array)
    else:
        samples = frames * rows * columns * int(dataset.SamplesPerPixel)
        needed = -(-samples * int(dataset.BitsAllocated) // 8)
        if len(dataset.PixelData) != needed + needed % 2:
            raise _refuse(uid, "PixelData", f"{len(dataset.PixelData)} bytes", f"{needed + needed % 2} bytes")
        if record.mark_rows == 0:
            return
        pixels = np.frombuffer(dataset.PixelData[:needed], f"<u{int(dataset.BitsAllocated) // 8}")
    if record.mark_rows == 0:
        return
    if record.mark_rows >= rows:
        raise _refuse(uid, "Rows", rows, f"more than the {record.mark_rows} rows of the mark")
    strips = pixels.reshape(frames, rows, -1)[:, -record.mark_rows :]
    if np.ptp(strips[0]) == 0 or (strips != strips[0]).any():
        raise _refuse(
            uid, "PixelData", "without the visible mark in its border strip", f"marked {visible_mark(record)!r}"
        )
