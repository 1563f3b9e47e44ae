"""Which attributes belong to which level of the index, and their two forms: DICOM JSON and case-folded text.

The lists hold what QIDO-RS (PS3.18 10.6) asks of a server, what viewers ask beyond it, and what routes match on.
"""

from __future__ import annotations

import unicodedata
import warnings
from typing import Any, Literal

from pydicom import Dataset
from pydicom.datadict import tag_for_keyword
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
            element: dict[str, Any] = dataset[keyword].to_json_dict(None, 1024)
    except (ValueError, TypeError, AttributeError, LookupError, OverflowError, NotImplementedError):
        return None
    return element


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


def search_text(attributes: dict[str, Any]) -> dict[str, str]:
    """Tag -> value as case-folded text, as queries compare it; several values are joined by a backslash."""
    return {tag: folded for tag, element in attributes.items() if (folded := _folded(element)) is not None}


def folded(value: str) -> str:
    """Text as searches compare it: without regard to case, and to how accents are composed."""
    return unicodedata.normalize("NFC", value).casefold()


def _folded(element: dict[str, Any]) -> str | None:
    if element["vr"] == "SQ":
        return None
    return folded("\\".join(_value_text(value) for value in element.get("Value", [])))


def _value_text(value: Any) -> str:
    if isinstance(value, dict):
        return "=".join(value.get(group, "") for group in ("Alphabetic", "Ideographic", "Phonetic")).rstrip("=")
    if value is None:
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value).strip()
