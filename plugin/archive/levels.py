"""Which attributes belong to which level of the index, and their two forms: DICOM JSON and what searches compare.

The lists hold what QIDO-RS (PS3.18 10.6) asks of a server, what viewers ask beyond it, and what routes match on.
"""

from __future__ import annotations

import math
import re
import unicodedata
import warnings
from typing import Any, Literal

from pydicom import DataElement, Dataset
from pydicom.datadict import dictionary_VM, tag_for_keyword
from pydicom.multival import MultiValue

Level = Literal["study", "series", "instance"]

KEYWORDS: dict[Level, tuple[str, ...]] = {
    "study": (
        "StudyInstanceUID", "StudyID", "StudyDate", "StudyTime", "StudyDescription", "AccessionNumber",
        "IssuerOfAccessionNumberSequence", "ReferringPhysicianName", "TimezoneOffsetFromUTC", "InstitutionName",
        "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientBirthTime", "PatientSex",
        "PatientAge", "PatientSize", "PatientWeight", "OtherPatientIDs", "EthnicGroup", "PatientComments",
        "NameOfPhysiciansReadingStudy", "AdmittingDiagnosesDescription", "AdditionalPatientHistory",
        "PatientIdentityRemoved", "ProcedureCodeSequence",
    ),
    "series": (
        "SeriesInstanceUID", "SeriesNumber", "SeriesDate", "SeriesTime", "SeriesDescription", "Modality",
        "BodyPartExamined", "ProtocolName", "Laterality", "PatientPosition", "PerformingPhysicianName",
        "OperatorsName", "Manufacturer", "ManufacturerModelName", "StationName", "SoftwareVersions",
        "DeviceSerialNumber", "InstitutionalDepartmentName", "FrameOfReferenceUID",
        "PerformedProcedureStepStartDate", "PerformedProcedureStepStartTime", "PerformedProcedureStepDescription",
        "RequestAttributesSequence", "Units", "CorrectedImage", "DecayCorrection", "MagneticFieldStrength",
        "PresentationIntentType",
    ),
    "instance": (
        "SOPClassUID", "SOPInstanceUID", "InstanceNumber", "InstanceCreationDate", "InstanceCreationTime",
        "ContentDate", "ContentTime", "AcquisitionDate", "AcquisitionTime", "AcquisitionDateTime",
        "AcquisitionNumber", "TemporalPositionIdentifier", "ImageType", "ConversionType", "SyntheticData",
        "ContentQualification", "BurnedInAnnotation", "Rows", "Columns", "BitsAllocated", "BitsStored",
        "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "PixelSpacing", "ImagerPixelSpacing",
        "SliceThickness", "SpacingBetweenSlices", "ImagePositionPatient", "ImageOrientationPatient",
        "SliceLocation", "ImageLaterality", "ViewPosition", "EchoTime", "RepetitionTime", "InversionTime",
        "FlipAngle", "ScanningSequence", "SequenceVariant", "SequenceName", "ContrastBolusAgent",
        "ConvolutionKernel", "KVP", "ContentLabel", "ContentDescription", "CompletionFlag", "VerificationFlag",
        "ConceptNameCodeSequence", "DocumentTitle", "MIMETypeOfEncapsulatedDocument", "LossyImageCompression",
    ),
}  # fmt: skip


def _tags(level: Level) -> dict[str, str]:
    tags = {}
    for keyword in KEYWORDS[level]:
        tag = tag_for_keyword(keyword)
        assert tag is not None, keyword
        tags[f"{tag:08X}"] = keyword
    return tags


TAGS: dict[Level, dict[str, str]] = {level: _tags(level) for level in KEYWORDS}
"""Level -> 8-digit tag -> keyword."""


def attributes(dataset: Dataset, level: Level) -> dict[str, Any]:
    """DICOM JSON model (PS3.18 F) of the attributes of one level that the data set has; text is Unicode.

    A value that its VR does not allow is left out: it must not keep an instance out of the index.
    """
    found: dict[str, Any] = {}
    for tag, keyword in TAGS[level].items():
        element = json_element(dataset, keyword)
        if element is not None:
            found[tag] = element
    return found


def json_element(dataset: Dataset, keyword: str) -> dict[str, Any] | None:
    """One element in the DICOM JSON model, or None where it is absent or cannot be expressed."""
    if keyword not in dataset:
        return None
    try:
        # pydicom warns of each odd value; the bytes are kept as they came, and the archive is not their judge.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = dataset[keyword]
            # pydicom fails on a list of names of which one is empty (PS3.18 F.2.5).
            element: dict[str, Any] = _names(found) if found.VR == "PN" else found.to_json_dict(None, 1024)
    except (ValueError, TypeError, AttributeError, LookupError, OverflowError, NotImplementedError):
        return None
    return element


def _names(element: DataElement) -> dict[str, Any]:
    values = element.value if element.VM > 1 else [element.value]
    groups = ("Alphabetic", "Ideographic", "Phonetic")
    names = [
        {group: part for group, part in zip(groups, str(value or "").split("="), strict=False) if part} or None
        for value in values
    ]
    return {"vr": "PN", "Value": names} if any(names) else {"vr": "PN"}


def text(dataset: Dataset, keyword: str) -> str:
    """An attribute as plain text, "" where it is absent; several values are joined by a backslash."""
    if keyword not in dataset:
        return ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value = dataset[keyword].value
    if value is None:
        return ""
    if isinstance(value, MultiValue | list):
        return "\\".join(str(one) for one in value)
    return str(value).strip(" \0")


def search_text(attributes: dict[str, Any]) -> dict[str, Any]:
    """What queries compare (plugin.archive.query), by tag, made from the DICOM JSON model of one level.

    tag: the value, `canonical`: one text, a list of texts where the dictionary allows several values (PS3.6 VM), for a
    name the list of its component groups (alphabetic, ideographic, phonetic), for a sequence the list of its items.
    tag with "=": the same as it was written, where the two differ and case has a meaning (`AS_WRITTEN`).
    """
    found: dict[str, Any] = {}
    for tag, element in attributes.items():
        vr, values = element["vr"], element.get("Value", [])
        if vr == "SQ":
            found[tag] = [search_text(item) for item in values if item]
            continue
        texts = [_value_text(value) for value in values]
        found[tag] = _of_values(tag, [_parts(vr, text) for text in texts])
        if vr in AS_WRITTEN:
            written = _of_values(tag, [composed(text) for text in texts])
            if written != found[tag]:
                found[f"{tag}="] = written
    return found


AS_WRITTEN = frozenset({"SH", "LO", "ST", "LT", "UC", "UT", "AE"})
"""VRs of text in which two values that differ in case only may be two things, such as two Patient IDs."""

NUMBERS = frozenset({"IS", "DS", "US", "SS", "UL", "SL", "UV", "SV", "FL", "FD"})


def folded(value: str) -> str:
    """Text as searches compare it: without regard to case, and to how accents are composed."""
    return composed(value).casefold()


def composed(value: str) -> str:
    """Text with each accent on its letter (NFC), without the spaces around it that mean nothing (PS3.5 6.2)."""
    return unicodedata.normalize("NFC", value).strip(" \0")


def canonical(vr: str, value: str) -> str:
    """One value, or one component group of a name, in the one spelling that stands for all that mean the same.

    Dates and times without the signs of ACR-NEMA, times to the second and date-times with all their digits, without an
    offset from UTC; numbers without signs that add nothing; all else `folded`.
    """
    text = composed(value)
    if vr == "DA":
        return text.replace(".", "")
    if vr == "TM":
        return _filled(text.replace(":", ""), "000000")
    if vr == "DT":
        return _filled(re.sub(r"[+-]\d{4}$", "", text), "00000101000000")
    if vr in NUMBERS:
        return _number(text)
    return text.casefold()


def is_multiple(tag: str) -> bool:
    """The dictionary allows several values (PS3.6 VM); so for an attribute that it does not know."""
    try:
        return dictionary_VM(int(tag, 16)) != "1"
    except KeyError:
        return True


def _filled(digits: str, rest: str) -> str:
    """With what is not said: the first month, day, hour, minute, second."""
    return digits + rest[len(digits) :] if digits.isdigit() else digits


def _number(text: str) -> str:
    try:
        value = float(text)
    except ValueError:
        return text.casefold()
    if not math.isfinite(value):
        return text.casefold()
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else f"{value:.15g}"


def _of_values(tag: str, values: list[Any]) -> Any:
    if is_multiple(tag):
        return values
    if not values:
        return ""
    # A value too many, against the dictionary; together they are the text that the object has.
    return values[0] if len(values) == 1 or isinstance(values[0], list) else "\\".join(values)


def _parts(vr: str, text: str) -> str | list[str]:
    return [canonical(vr, group) for group in text.split("=")] if vr == "PN" else canonical(vr, text)


def _value_text(value: Any) -> str:
    if isinstance(value, dict):
        return "=".join(value.get(group, "") for group in ("Alphabetic", "Ideographic", "Phonetic")).rstrip("=")
    return "" if value is None else str(value)
