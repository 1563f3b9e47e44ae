"""The labels that an object of ours must carry, by a job's record alone (promise 5).

PS3.3 C.12.1 SOP Common, C.8.6.1 SC Equipment, C.7.6.1 General Image, C.12.4 General Reference, 10.16 Algorithm
Identification:

    kind                 Synthetic Data  Conversion Type  Image Type          own equipment item  source images  frame of reference  patient
    generated            YES             SYN              DERIVED\\SECONDARY  109100 synthesizing  none           new                 fictitious
    generated-from-real  YES             SYN              DERIVED\\SECONDARY  109100 synthesizing  121322         the record's        the source's
    segmentation         as the source   -                DERIVED\\PRIMARY    109102 processing    121322/113076  the source's        the source's
    capture              as the source   WSD              DERIVED\\SECONDARY  109102 processing    121322         with planes only    the source's
    parametric-map       as the source   -                DERIVED\\PRIMARY*   109102 processing    121322/113076  the source's        the source's
    report               as the source   -                -                   109102 processing    evidence       -                   the source's
    presentation-state   as the source   -                -                   109102 processing    its series     -                   the source's

* followed by VOLUME\\QUANTITY (C.8.32.2); of a saliency, 112187 stands for 113076. A report names its algorithm by TID
4019, and its sources as evidence (C.17.2); a presentation state has them in its Referenced Series Sequence (C.11.11).
What is no image has no Derivation Description: the words stand in the Contribution Description of our equipment item.

A generated object in a modality's own SOP class (`dicom_io.look_alike`) passes only if its record says so; it has
neither Conversion Type nor border strip, which are no part of such classes, and the Image Type that its class allows.

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

from collections.abc import Mapping
from dataclasses import dataclass

from pydicom.datadict import add_private_dict_entries

from dicom_io.errors import Unlabelled
from dicom_io.provenance import FICTITIOUS_PATIENT_PREFIX, MANUFACTURER, LabelRecord, name_based_uid

SEGMENTATION_STORAGE = "1.2.840.10008.5.1.4.1.1.66.4"
LABEL_MAP_STORAGE = "1.2.840.10008.5.1.4.1.1.66.7"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
MULTI_FRAME_GRAYSCALE_WORD = "1.2.840.10008.5.1.4.1.1.7.3"
MULTI_FRAME_TRUE_COLOUR = "1.2.840.10008.5.1.4.1.1.7.4"
PARAMETRIC_MAP_STORAGE = "1.2.840.10008.5.1.4.1.1.30"
COMPREHENSIVE_3D_SR = "1.2.840.10008.5.1.4.1.1.88.34"
GRAYSCALE_PRESENTATION_STATE = "1.2.840.10008.5.1.4.1.1.11.1"
_CAPTURES = (SECONDARY_CAPTURE, MULTI_FRAME_GRAYSCALE_WORD, MULTI_FRAME_TRUE_COLOUR)
# The SOP classes that each kind is written in.
_SOP_CLASSES = {
    "generated": _CAPTURES,
    "generated-from-real": _CAPTURES,
    "capture": _CAPTURES,
    "segmentation": (SEGMENTATION_STORAGE, LABEL_MAP_STORAGE),
    "parametric-map": (PARAMETRIC_MAP_STORAGE,),
    "report": (COMPREHENSIVE_3D_SR,),
    "presentation-state": (GRAYSCALE_PRESENTATION_STATE,),
}
# MR, PET and mammogram: what a generated object may pass for where its record says that it does.
MODALITY_CLASSES = {
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "PT": "1.2.840.10008.5.1.4.1.1.128",
    "MG": "1.2.840.10008.5.1.4.1.1.1.2",
}
# Their modules allow no other values than these (C.8.3.1.1.1, C.8.9.4.1.2).
_IMAGE_TYPES_OF_CLASSES = {
    MODALITY_CLASSES["MR"]: ("DERIVED", "SECONDARY", "OTHER"),
    MODALITY_CLASSES["PT"]: ("DERIVED", "PRIMARY"),
    MODALITY_CLASSES["MG"]: ("DERIVED", "SECONDARY"),
}
GENERATED = ("generated", "generated-from-real")
# Kinds whose frames lie on those of their sources.
ON_PLANES = ("segmentation", "parametric-map")
NO_IMAGE = ("report", "presentation-state")
_IMAGE_TYPES = {
    "generated": ("DERIVED", "SECONDARY"),
    "generated-from-real": ("DERIVED", "SECONDARY"),
    "capture": ("DERIVED", "SECONDARY"),
    "segmentation": ("DERIVED", "PRIMARY"),
    "parametric-map": ("DERIVED", "PRIMARY", "VOLUME", "QUANTITY"),
}

PRIVATE_CREATOR = "MIRALL"
PRIVATE_GROUP = 0x4D4D
KIND, MODEL, HASH, STATE, AUDIT, SEED, MARK_ROWS, DOMAIN, PARAMETERS, UNITS = range(1, 11)
PRIVATE_ELEMENTS = {
    KIND: ("LO", "Kind of Object"),
    MODEL: ("LO", "Model Version"),
    HASH: ("LO", "Model Content Hash"),
    STATE: ("LO", "Model State"),
    AUDIT: ("LO", "Audit ID"),
    SEED: ("LO", "Seed"),
    MARK_ROWS: ("US", "Mark Rows"),
    DOMAIN: ("LO", "Domain"),
    PARAMETERS: ("UT", "Parameters"),
    UNITS: ("LO", "Units of Pixel Values"),
}
# Without an entry in pydicom's dictionary the elements would turn into UN when an object is re-encoded as implicit VR.
add_private_dict_entries(
    PRIVATE_CREATOR,
    {PRIVATE_GROUP << 16 | 0x1000 | number: (vr, "1", name) for number, (vr, name) in PRIVATE_ELEMENTS.items()},
)

ISSUER = "MIRALL"
SYNTHESIZING = ("109100", "DCM", "Synthesizing Equipment")
ACQUISITION = ("109101", "DCM", "Acquisition Equipment")
PROCESSING = ("109102", "DCM", "Processing Equipment")
SOURCE_IMAGE = ("121322", "DCM", "Source image for image processing operation")
SEGMENTING = ("113076", "DCM", "Segmentation")
UNSPECIFIED = ("112187", "DCM", "Unspecified method of calculation")
DERIVATIONS = {"segmentation": (SEGMENTING,), "parametric-map": (SEGMENTING, UNSPECIFIED)}
ARTIFICIAL_INTELLIGENCE = ("123110", "DCM", "Artificial Intelligence")

# Most characters of a Long Text (PS3.5 6.2); the whole of the parameters stands in the private block.
LONG_TEXT = 10240


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
    generated = record.kind in GENERATED
    marked = record.mark_rows > 0
    conversion = "SYN" if generated else "WSD"
    return Labels(
        attributes={
            "SOPClassUID": record.sop_class_uid,
            "SOPInstanceUID": record.sop_instance_uid,
            "SeriesInstanceUID": record.series_instance_uid,
            "StudyInstanceUID": record.study_instance_uid,
            "SyntheticData": "YES" if record.is_synthetic else None,
            "ConversionType": conversion if marked else None,
            "ImageType": _IMAGE_TYPES_OF_CLASSES.get(record.sop_class_uid) or _IMAGE_TYPES.get(record.kind),
            "ContentQualification": "RESEARCH",
            "FrameOfReferenceUID": record.frame_of_reference_uid or None,
            "Manufacturer": MANUFACTURER,
            "ManufacturerModelName": record.model.name,
            "SoftwareVersions": record.model.version,
            "DeviceSerialNumber": record.model.content_hash[:16],
            # The mark identifies nobody, and nothing else is burned in (PS3.3 C.7.6.1).
            **({"BurnedInAnnotation": "NO"} if marked or record.look_alike or record.kind == "parametric-map" else {}),
            **({"IssuerOfPatientID": ISSUER} if record.kind == "generated" else {}),
        },
        equipment_code=SYNTHESIZING if generated else PROCESSING,
        series_words=_series_words(record),
        derivation_words=_derivation_words(record),
        private={
            KIND: record.kind,
            MODEL: record.model.address,
            HASH: record.model.content_hash,
            STATE: record.model.state.upper(),
            AUDIT: record.audit_id,
            SEED: "" if record.seed is None else str(record.seed),
            MARK_ROWS: record.mark_rows,
            DOMAIN: "OUTSIDE" if record.out_of_domain else "INSIDE",
            PARAMETERS: record.parameters,
        },
    )


def frame_of_reference_of(series_instance_uid: str) -> str:
    """The new Frame of Reference UID of a generated series: nothing else in the world shares its coordinates."""
    return name_based_uid("frame of reference", series_instance_uid)


def visible_mark(record: LabelRecord) -> str:
    """The words burned into the border strip, which copies without a header keep."""
    words = ["SYNTHETIC"] if record.is_synthetic else []
    if record.kind in GENERATED:
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

    allowed = _SOP_CLASSES.get(record.kind, ())
    if record.look_alike:
        allowed = tuple(MODALITY_CLASSES.values()) if record.kind in GENERATED else ()
    if not allowed:
        refuse("is of no known kind" if not record.look_alike else "cannot be in a modality's own SOP class")
    if record.sop_class_uid not in allowed:
        refuse(f"has SOP class {record.sop_class_uid}, not one of {' '.join(allowed)}")
    if record.sop_class_uid in _CAPTURES and record.mark_rows < 1:
        refuse("has no mark rows")
    if record.sop_class_uid not in _CAPTURES and record.mark_rows:
        refuse(f"has {record.mark_rows} mark rows, such an object none")
    if record.kind == "generated":
        if record.source_uids:
            refuse("names sources, but is generated from none")
        if not record.patient_id.startswith(FICTITIOUS_PATIENT_PREFIX):
            refuse("is filed under a patient who is not fictitious")
        if record.frame_of_reference_uid != frame_of_reference_of(record.series_instance_uid):
            refuse("does not have a frame of reference of its own")
    elif not record.source_uids:
        refuse("names no sources")
    elif record.kind in ON_PLANES and not record.frame_of_reference_uid:
        refuse("has no frame of reference")
    if record.kind in GENERATED and record.seed is None:
        refuse("has no seed")


def _series_words(record: LabelRecord) -> str:
    words = ["SYNTHETIC"] if record.is_synthetic else []
    words += [] if record.kind in GENERATED else ["AI"]
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
