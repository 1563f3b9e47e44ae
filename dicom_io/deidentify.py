"""An object without what identifies the patient: PS3.15 Annex E, Basic Application Level Confidentiality Profile.

`deidentify` gives a new data set and a report; the one that it is given stays as it is. What is done to each attribute
stands in `protection`, from the tables of `profile`; options are codes 113101 to 113112 of CID 7050:

    patient       Patient ID and Name become a keyed pseudonym (`pseudonym`), the same in all objects of one key
    UIDs          mapped under the key (`uid_mapping`), but for Retain UIDs
    dates         dummies or nothing, as the table says; moved (`date_shift`) or kept with the options for dates
    text          removed, or kept with Clean Descriptors where each word is known (`descriptors`)
    private       removed, but for our own block, and the standard's list with Retain Safe Private (`private_elements`)
    reports       refused, but for Clean Structured Content (`structured_content`)
    pixels        text burned in is looked for where it is usual (`burned_in`), and refused or made black
    faces         kept, or emptied where a search of the whole series found them (`faces`)

In every object are written: Patient Identity Removed (0012,0062) YES, the method in words (0012,0063) and codes
(0012,0064; those of an earlier de-identification stay), Longitudinal Temporal Information Modified (0028,0303), and a
Contributing Equipment item 109104 (0018,A001). It bears no date, so that the same input gives the same bytes. File meta
information and preamble are new (E.1.1, 7). What a model made says so afterwards: Synthetic Data (0008,001C), Content
Qualification (0018,9004), the equipment items of our model versions and our private block stay; Device UID (0018,1002)
in these is mapped, as the table asks, so that only the content hash in the block names the version.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Literal

from pydicom.dataset import Dataset

from dicom_io.confidentiality import burned_in, date_shift, profile
from dicom_io.confidentiality.echoes import echoes
from dicom_io.confidentiality.faces import Search, emptied
from dicom_io.confidentiality.profile import BASIC_PROFILE, Option
from dicom_io.confidentiality.protection import Protector
from dicom_io.errors import Rejected
from dicom_io.labels import code_item, file_meta
from dicom_io.provenance import MANUFACTURER

DEIDENTIFYING = ("109104", "DCM", "De-identifying Equipment")
_EQUIPMENT_NAME = "mirall deidentify"
_Face = Literal["kept", "none", "removed"]
_KEY_BYTES = 16
_STANDARD_ROOT = "1.2.840.10008."
_DIRECTORY = "1.2.840.10008.1.3.10"
_ENCAPSULATED = "1.2.840.10008.5.1.4.1.1.104."


@dataclass(frozen=True)
class Policy:
    """What is to be done, the same for all objects that shall fit together.

    key: secret, of at least 16 bytes (`pseudonym.site_key`). options: of the Basic Profile, but for the two about
    pixels. shift_days: with Retain Modified Dates, a patient's dates move 1 to this many days into the past.
    safe_private: further private elements that are safe, (creator, group, element in its block), beside the standard's.
    on_burned_in: "refuse" an object with text in its pixels, or "blank" the text.
    """

    key: bytes
    options: frozenset[Option] = frozenset()
    shift_days: int = 3650
    safe_private: frozenset[tuple[str, int, int]] = frozenset()
    on_burned_in: Literal["refuse", "blank"] = "refuse"

    def __post_init__(self) -> None:
        if len(self.key) < _KEY_BYTES:
            raise Rejected(f"the key has {len(self.key)} bytes; it takes at least {_KEY_BYTES}, or it can be guessed")
        if {Option.RETAIN_FULL_DATES, Option.RETAIN_MODIFIED_DATES} <= self.options:
            raise Rejected("dates cannot be both kept and moved; choose one of 113106 and 113107")
        if self.shift_days < 1:
            raise Rejected(f"dates cannot move by up to {self.shift_days} days; give 1 or more")
        if Option.CLEAN_PIXEL_DATA in self.options:
            raise Rejected('113101 (Clean Pixel Data Option) is asked for with on_burned_in="blank", not as an option')
        if Option.CLEAN_VISUAL_FEATURES in self.options:
            raise Rejected(
                "113102 (Clean Recognizable Visual Features Option) is asked for with the faces that "
                "`faces.search` found, not as an option"
            )


@dataclass(frozen=True)
class Done:
    """What was done to one attribute, and in how many places.

    action: removed, emptied, replaced, mapped, kept, cleaned or moved.
    """

    tag: str
    keyword: str
    action: str
    count: int


@dataclass(frozen=True)
class Report:
    """What was done to one object; never a value of it. sop_instance_uid: the new one. options: codes of CID 7050.

    regions: rectangles of text that were made black. face: "kept" where none was looked for, "none" where the object
    shows no head, "removed"; face_pixels: how many were emptied, 0 also in a slice that the face does not reach.
    """

    sop_class_uid: str
    sop_instance_uid: str
    options: tuple[str, ...]
    done: tuple[Done, ...]
    regions: int = 0
    face: _Face = "kept"
    face_pixels: int = 0

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)


def deidentify(dataset: Dataset, policy: Policy, faces: Search | None = None) -> tuple[Dataset, Report]:
    """The object under the Basic Profile with the policy's options, ready to be written, and what was done to it.

    The transfer syntax stays, but for pixels that were made black or emptied: these become Explicit VR Little Endian.
    faces: of the files that the object is one of; its face is removed then (113102).

    Raises:
        Rejected: an encapsulated document, a directory, a private SOP class, a report without Clean Structured
            Content, a slide's label, text in the pixels and a policy that refuses it, a face that may be there and
            was not found, or a value that cannot be read.
        UndecodablePixels: text has to be looked for and the pixels cannot be decoded.
    """
    _refuse_kinds(dataset, policy)
    source, regions, is_clean = _without_text(dataset, policy)
    source, face, face_pixels = _without_face(source, faces)
    options = policy.options | ({Option.CLEAN_PIXEL_DATA} if is_clean else set())
    options |= {Option.CLEAN_VISUAL_FEATURES} if face == "removed" else set()
    protector = Protector(
        key=policy.key,
        options=policy.options,
        days=date_shift.days_for(policy.key, _patient(dataset), policy.shift_days),
        sop_class_uid=str(dataset.SOPClassUID),
        patient_id=str(dataset.get("PatientID") or "").strip(),
        echoes=echoes(dataset),
        safe_private=_safe_private(policy),
    )
    target = protector.dataset(source)
    _mark(target, source, options)
    target.file_meta = file_meta(str(target.SOPClassUID), str(target.SOPInstanceUID))
    target.file_meta.TransferSyntaxUID = source.file_meta.TransferSyntaxUID
    report = _report(target, protector, options, regions)
    return target, replace(report, face=face, face_pixels=face_pixels)


def _patient(dataset: Dataset) -> str:
    """Whose dates move together; a study of nobody's has its own."""
    return str(dataset.get("PatientID") or "").strip() or str(dataset.get("StudyInstanceUID") or "")


def _safe_private(policy: Policy) -> frozenset[tuple[str, int, int]]:
    safe = Option.RETAIN_SAFE_PRIVATE in policy.options
    return profile.safe_private() | policy.safe_private if safe else frozenset()


def _refuse_kinds(dataset: Dataset, policy: Policy) -> None:
    sop_class, uid = str(dataset.get("SOPClassUID") or ""), dataset.get("SOPInstanceUID")
    if not sop_class.startswith(_STANDARD_ROOT) or sop_class == _DIRECTORY:
        raise Rejected(f"instance {uid}: SOP class {sop_class or 'none'} is not de-identified here; leave it out")
    if sop_class.startswith(_ENCAPSULATED) or "EncapsulatedDocument" in dataset:
        raise Rejected(
            f"instance {uid} is an encapsulated document, Encapsulated Document (0042,0011), which is not looked into; "
            "leave it out"
        )
    if "ContentSequence" in dataset and Option.CLEAN_STRUCTURED_CONTENT not in policy.options:
        raise Rejected(
            f"instance {uid} has structured content, Content Sequence (0040,A730); "
            "allow it to be cleaned (113104, Clean Structured Content), or leave it out"
        )
    if burned_in.shows_a_label(dataset):
        raise Rejected(f"instance {uid} shows a slide's label, whose writing is not read here; leave it out")
    if getattr(dataset, "file_meta", None) is None or not dataset.file_meta.get("TransferSyntaxUID"):
        raise Rejected(f"instance {uid} has no TransferSyntaxUID (0002,0010); read it from a DICOM file")


def _without_text(dataset: Dataset, policy: Policy) -> tuple[Dataset, int, bool]:
    """The object without text in its pixels, how many rectangles are black now, and whether it may be called clean."""
    dataset = burned_in.without_overlay_bits(dataset)
    if not burned_in.is_suspect(dataset):
        return dataset, 0, False
    found, uid = burned_in.regions(dataset), dataset.get("SOPInstanceUID")
    outside = burned_in.outside_ultrasound(dataset)
    said = str(dataset.get("BurnedInAnnotation") or "") == "YES"
    if policy.on_burned_in == "refuse":
        if found or said:
            raise Rejected(
                f"instance {uid} has {len(found)} regions that look like text in its pixels"
                f"{' and Burned In Annotation (0028,0301) is YES' if said else ''}; "
                "allow them to be made black (113101, Clean Pixel Data), or leave it out"
            )
        return dataset, 0, False
    if said and not found and outside is None:
        raise Rejected(
            f"instance {uid}: Burned In Annotation (0028,0301) is YES, and no text was found in its pixels; "
            "look at it and clean it by hand"
        )
    mask = burned_in.mask_of(found, int(dataset.Rows), int(dataset.Columns))
    mask = mask if outside is None else mask | outside
    # Where nothing is to be made black, the pixels stay as they are encoded.
    return burned_in.blanked(dataset, mask) if mask.any() else dataset, len(found), True


def _without_face(dataset: Dataset, faces: Search | None) -> tuple[Dataset, _Face, int]:
    """The object without its face, what was done about one, and how many pixels are empty now."""
    if faces is None:
        return dataset, "kept", 0
    face = faces.of(dataset)
    if face is None:
        return dataset, "none", 0
    without, empty = emptied(dataset, face)
    return without, "removed", empty


def _mark(target: Dataset, source: Dataset, options: frozenset[Option]) -> None:
    """The attributes that say what was done (PS3.15 E.1.1, 6 and E.2 to E.3.6)."""
    chosen = [option.code for option in Option if option in options]
    target.PatientIdentityRemoved = "YES"
    target.DeidentificationMethod = f"PS3.15 {_edition()} Basic Profile; {_EQUIPMENT_NAME}"
    target.DeidentificationMethodCodeSequence = _codes(source, [BASIC_PROFILE, *chosen])
    target.LongitudinalTemporalInformationModified = _dates_are(source, options)
    if Option.CLEAN_PIXEL_DATA in options:
        target.BurnedInAnnotation = "NO"
    if Option.CLEAN_VISUAL_FEATURES in options:
        target.RecognizableVisualFeatures = "NO"
    target.ContributingEquipmentSequence = [*(target.get("ContributingEquipmentSequence") or []), _equipment()]


def _dates_are(source: Dataset, options: frozenset[Option]) -> str:
    """Dates that an earlier step moved are not unmodified because this one leaves them alone."""
    earlier = str(source.get("LongitudinalTemporalInformationModified") or "")
    if Option.RETAIN_FULL_DATES in options:
        return earlier if earlier in ("MODIFIED", "REMOVED") else "UNMODIFIED"
    return "MODIFIED" if Option.RETAIN_MODIFIED_DATES in options else "REMOVED"


def _edition() -> str:
    return profile.edition().split()[2].rstrip(",")


def _codes(source: Dataset, chosen: Sequence[tuple[str, str, str]]) -> list[Dataset]:
    """Those of earlier de-identifications, then ours that are not among them."""
    earlier = [
        (
            str(item.get("CodeValue") or ""),
            str(item.get("CodingSchemeDesignator") or ""),
            str(item.get("CodeMeaning") or ""),
        )
        for item in source.get("DeidentificationMethodCodeSequence") or []
    ]
    known = {option.code[:2]: option.code for option in Option} | {BASIC_PROFILE[:2]: BASIC_PROFILE}
    kept = [known[code[:2]] for code in earlier if code[:2] in known]
    return [code_item(code) for code in dict.fromkeys([*kept, *chosen])]


def _equipment() -> Dataset:
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [code_item(DEIDENTIFYING)]
    item.Manufacturer = MANUFACTURER
    item.ManufacturerModelName = _EQUIPMENT_NAME
    return item


def _report(target: Dataset, protector: Protector, options: frozenset[Option], regions: int) -> Report:
    done = tuple(
        Done(f"{tag >> 16:04X},{tag & 0xFFFF:04X}", keyword, action, count)
        for (tag, keyword, action), count in sorted(protector.done.items())
    )
    codes = (BASIC_PROFILE[0], *(option.code[0] for option in Option if option in options))
    return Report(str(target.SOPClassUID), str(target.SOPInstanceUID), codes, done, regions)


def write(dataset: Dataset, folder: Path) -> Path:
    """The object as a file of PS3.10 named by its (new) SOP Instance UID, with an empty preamble.

    Raises:
        Rejected: a value that was kept cannot be encoded; nothing is written then.
    """
    path, buffer = folder / f"{dataset.SOPInstanceUID}.dcm", BytesIO()
    try:
        dataset.save_as(buffer, enforce_file_format=True)
    except (ValueError, TypeError, AttributeError, OverflowError, OSError, struct.error) as error:
        raise Rejected(
            f"result {dataset.SOPInstanceUID} cannot be encoded ({type(error).__name__}): a value of the original "
            "does not follow its value representation; correct it there"
        ) from error
    path.write_bytes(buffer.getvalue())
    return path
