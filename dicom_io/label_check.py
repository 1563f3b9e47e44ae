"""The gate: an object passes only if it carries every label of its record's row (`dicom_io.label_table`).

It knows only bytes and record, and stands at the store and at each exit. It fails closed: what it cannot read does not
pass, and what is no image is looked at as closely as what is one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from io import BytesIO

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.datadict import dictionary_description, tag_for_keyword
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRLittleEndian

from dicom_io import references
from dicom_io.equipment import equipment_key, items_of
from dicom_io.errors import Unlabelled
from dicom_io.label_table import (
    ARTIFICIAL_INTELLIGENCE,
    DERIVATIONS,
    LONG_TEXT,
    NO_IMAGE,
    ON_PLANES,
    PRIVATE_CREATOR,
    PRIVATE_ELEMENTS,
    PRIVATE_GROUP,
    SOURCE_IMAGE,
    Labels,
    expected,
    visible_mark,
)
from dicom_io.provenance import LabelRecord

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
        if record.kind in NO_IMAGE:
            _check_evidence(dataset, record)
        else:
            _check_sources(dataset, record)
            _check_pixels(dataset, record)
        if record.kind in _ALGORITHMS:
            _ALGORITHMS[record.kind](dataset, record)
        _check_private(dataset, labels)
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


def _codes(dataset: Dataset, keyword: str) -> set[tuple[str, str]]:
    items = items_of(dataset, keyword)
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
    said = [("SeriesDescription", labels.series_words[:64]), ("DerivationDescription", labels.derivation_words[:1024])]
    for keyword, words in said[:1] if record.kind in NO_IMAGE else said:
        if not (text := str(_value(dataset, keyword) or "")).startswith(words.strip()):
            raise _refuse(uid, keyword, repr(text), f"text that begins with {words!r}")


def _check_equipment(dataset: Dataset, record: LabelRecord, labels: Labels) -> None:
    uid, keyword = record.sop_instance_uid, "ContributingEquipmentSequence"
    items = items_of(dataset, keyword)
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
    if record.kind in NO_IMAGE and _value(own[-1], "ContributionDescription") != labels.derivation_words[:1024]:
        said = repr(_value(own[-1], "ContributionDescription"))
        raise _refuse(uid, "ContributionDescription", said, f"{labels.derivation_words!r} in our {keyword} item")
    missing = set(record.source_equipment) - {equipment_key(item) for item in items}
    if missing:
        raise _refuse(uid, keyword, f"without {sorted(missing)}", "the sources' items and our own")


def _check_sources(dataset: Dataset, record: LabelRecord) -> None:
    uid, keyword = record.sop_instance_uid, "SourceImageSequence"
    _check_references(items_of(dataset, keyword), record, complete=True)
    by_series = {
        str(item.get("ReferencedSOPInstanceUID", ""))
        for series in items_of(dataset, "ReferencedSeriesSequence")
        for item in items_of(series, "ReferencedInstanceSequence")
    }
    if by_series != set(record.source_uids):
        how_many = f"{len(by_series)} references"
        raise _refuse(uid, "ReferencedSeriesSequence", how_many, f"to the record's {len(record.source_uids)} sources")
    if record.kind not in ON_PLANES:
        return
    groups = [
        *items_of(dataset, "SharedFunctionalGroupsSequence"),
        *items_of(dataset, "PerFrameFunctionalGroupsSequence"),
    ]
    shared = bool(groups) and bool(items_of(groups[0], "DerivationImageSequence"))
    for frame, group in enumerate(groups):
        derivations = items_of(group, "DerivationImageSequence")
        if frame > 0 and not shared and not derivations:
            raise _refuse(uid, "DerivationImageSequence", f"absent in frame {frame}", "there for each frame")
        for derivation in derivations:
            found, wanted = _codes(derivation, "DerivationCodeSequence"), DERIVATIONS[record.kind]
            if found.isdisjoint(code[:2] for code in wanted):
                raise _refuse(uid, "DerivationCodeSequence", f"{found} in frame {frame}", wanted[0][:2])
            if not items_of(derivation, keyword):
                raise _refuse(uid, keyword, f"empty in frame {frame}", "the frame's source")
            _check_references(items_of(derivation, keyword), record, complete=False)


def _check_evidence(dataset: Dataset, record: LabelRecord) -> None:
    """What is no image names its sources where its IOD has a place: as evidence (C.17.2), or by series (C.11.11)."""
    uid = record.sop_instance_uid
    if record.kind == "report":
        keyword, inner = "CurrentRequestedProcedureEvidenceSequence", "ReferencedSOPSequence"
        series = [one for study in items_of(dataset, keyword) for one in items_of(study, "ReferencedSeriesSequence")]
    else:
        keyword, inner = "ReferencedSeriesSequence", "ReferencedImageSequence"
        series = items_of(dataset, keyword)
    items = [item for one in series for item in items_of(one, inner)]
    named = [str(item.get("ReferencedSOPInstanceUID", "")) for item in items]
    if sorted(named) != sorted(record.source_uids):
        raise _refuse(uid, keyword, f"{len(named)} references", f"to the record's {len(record.source_uids)} sources")
    if record.kind == "presentation-state":
        for item in items:
            _check_frames(item, record, complete=True)
        _check_mark_of_state(dataset, record)


def _check_mark_of_state(dataset: Dataset, record: LabelRecord) -> None:
    """The words of the mark stand in annotations (C.10.5) of all images; one that names no image is of all."""
    uid, keyword = record.sop_instance_uid, "GraphicAnnotationSequence"
    marked: set[str] = set()
    for annotation in items_of(dataset, keyword):
        texts = {str(text.get("UnformattedTextValue", "")) for text in items_of(annotation, "TextObjectSequence")}
        images = {
            str(item.get("ReferencedSOPInstanceUID", "")) for item in items_of(annotation, "ReferencedImageSequence")
        }
        if visible_mark(record) in texts:
            marked |= images or set(record.source_uids)
    if marked != set(record.source_uids):
        raise _refuse(uid, keyword, "without the words of the visible mark", f"with {visible_mark(record)!r} on all")


def _check_references(items: Sequence[Dataset], record: LabelRecord, *, complete: bool) -> None:
    uid, keyword = record.sop_instance_uid, "SourceImageSequence"
    named = [str(item.get("ReferencedSOPInstanceUID", "")) for item in items]
    wanted = set(record.source_uids)
    if not set(named) <= wanted or (complete and (set(named) != wanted or len(named) != len(wanted))):
        raise _refuse(uid, keyword, f"{len(named)} references", f"to the record's {len(wanted)} sources, each once")
    for item in items:
        _check_frames(item, record, complete=complete)
        if SOURCE_IMAGE[:2] not in _codes(item, "PurposeOfReferenceCodeSequence"):
            found = _codes(item, "PurposeOfReferenceCodeSequence")
            raise _refuse(uid, "PurposeOfReferenceCodeSequence", f"{found or 'absent'} in {keyword}", SOURCE_IMAGE[:2])


def _check_frames(item: Dataset, record: LabelRecord, *, complete: bool) -> None:
    """A reference names the frames that the record does: all of them, or one or more where it is a frame's own."""
    wanted = set(record.frames_of(str(item.ReferencedSOPInstanceUID)))
    found = set(references.frames_named(item))
    if found == wanted or (not complete and found and found < wanted):
        return
    uid = record.sop_instance_uid
    shown = [", ".join(map(str, sorted(numbers)[:8])) or "absent" for numbers in (found, wanted)]
    raise _refuse(uid, "ReferencedFrameNumber", shown[0], f"{shown[1]} for {item.ReferencedSOPInstanceUID}")


def _check_algorithm_of_segments(dataset: Dataset, record: LabelRecord) -> None:
    uid, keyword = record.sop_instance_uid, "SegmentationAlgorithmIdentificationSequence"
    if not items_of(dataset, "SegmentSequence"):
        raise _refuse(uid, "SegmentSequence", "empty", "one item per segment")
    for segment in items_of(dataset, "SegmentSequence"):
        if _value(segment, "SegmentAlgorithmType") != "AUTOMATIC":
            raise _refuse(uid, "SegmentAlgorithmType", _value(segment, "SegmentAlgorithmType"), "AUTOMATIC")
        if _value(segment, "SegmentAlgorithmName") != record.model.address:
            raise _refuse(uid, "SegmentAlgorithmName", _value(segment, "SegmentAlgorithmName"), record.model.address)
        algorithms = items_of(segment, keyword)
        if len(algorithms) != 1:
            raise _refuse(uid, keyword, f"{len(algorithms)} items", "one item in each segment")
        if ARTIFICIAL_INTELLIGENCE[:2] not in _codes(algorithms[0], "AlgorithmFamilyCodeSequence"):
            found = _codes(algorithms[0], "AlgorithmFamilyCodeSequence")
            raise _refuse(uid, "AlgorithmFamilyCodeSequence", found or "absent", ARTIFICIAL_INTELLIGENCE[:2])
        for part, wanted in (
            ("AlgorithmName", record.model.name),
            ("AlgorithmVersion", record.model.version),
            ("AlgorithmParameters", record.parameters[:LONG_TEXT] or None),
        ):
            if _value(algorithms[0], part) != wanted:
                raise _refuse(uid, part, repr(_value(algorithms[0], part)), repr(wanted))


# TID 4019 Algorithm Identification: concept -> what the text item says of a record.
_ALGORITHM_CONCEPTS = {"111001": "Algorithm Name", "111003": "Algorithm Version", "111002": "Algorithm Parameters"}


def _check_algorithm_of_report(dataset: Dataset, record: LabelRecord) -> None:
    """The report bears the words of the mark, and each measurement group its algorithm (PS3.16 TID 4019)."""
    uid, keyword = record.sop_instance_uid, "ContentSequence"
    wanted = {"111001": record.model.name, "111003": record.model.version}
    if record.parameters:
        wanted["111002"] = record.parameters[:LONG_TEXT]
    said_of_all = {str(item.get("TextValue", "")) for item in items_of(dataset, keyword)}
    if visible_mark(record) not in said_of_all:
        raise _refuse(uid, keyword, "without the words of the visible mark", f"with {visible_mark(record)!r}")
    groups = _groups_of(dataset)
    if not groups:
        raise _refuse(uid, keyword, "without measurement groups", "with one or more")
    for group in groups:
        said = {
            str(items_of(item, "ConceptNameCodeSequence")[0].CodeValue): str(item.get("TextValue", ""))
            for item in items_of(group, keyword)
            if item.get("ValueType") == "TEXT" and items_of(item, "ConceptNameCodeSequence")
        }
        for code, text in wanted.items():
            if said.get(code) != text:
                found = f"{said.get(code, 'absent')!r} for {_ALGORITHM_CONCEPTS[code]} ({code}, DCM)"
                raise _refuse(uid, keyword, found, repr(text))


def _groups_of(report: Dataset) -> list[Dataset]:
    """The Measurement Groups (125007, DCM) of a report, at any depth."""
    found, waiting = [], items_of(report, "ContentSequence")
    while waiting:
        item = waiting.pop()
        if ("125007", "DCM") in _codes(item, "ConceptNameCodeSequence"):
            found.append(item)
        waiting += items_of(item, "ContentSequence")
    return found


_ALGORITHMS = {"segmentation": _check_algorithm_of_segments, "report": _check_algorithm_of_report}


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
        name = f"{PRIVATE_ELEMENTS[number][1]} (4D4D,xx{number:02X})"
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
    keyword = "FloatPixelData" if record.kind == "parametric-map" else "PixelData"
    if keyword not in dataset:
        raise _refuse(uid, keyword, "absent", "there: without pixels nothing shows that the mark is")
    frames, rows, columns = int(dataset.get("NumberOfFrames") or 1), int(dataset.Rows), int(dataset.Columns)
    syntax = getattr(getattr(dataset, "file_meta", None), "TransferSyntaxUID", ExplicitVRLittleEndian)
    if UID(syntax).is_compressed:
        pixels = np.asarray(dataset.pixel_array)
    else:
        samples = frames * rows * columns * int(dataset.SamplesPerPixel)
        needed = -(-samples * int(dataset.BitsAllocated) // 8)
        if len(dataset[keyword].value) != needed + needed % 2:
            raise _refuse(uid, keyword, f"{len(dataset[keyword].value)} bytes", f"{needed + needed % 2} bytes")
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
