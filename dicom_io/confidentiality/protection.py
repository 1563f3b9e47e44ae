"""One data set, attribute by attribute: each action of PS3.15 Table E.1-1 carried out, in sequences to any depth.

Attributes that the table does not list are treated by their value representation, as E.1.1 notes 1 and 4 ask:

    UI              mapped (`uid_mapping`), kept with Retain UIDs
    PN, AE, AS, UR  as X/Z/D
    DA, DT, TM      as X/Z/D; kept or moved with the options for dates
    CS              kept where it is a code string (PS3.5 6.2: capitals, digits, underscore)
    DS, IS          kept where they are numbers
    LO LT SH ST UC UT   kept where machines write them (`MACHINE_TEXT`), or where each word is in the closed vocabulary
                        (`descriptors`); else as X/Z/D
    binary          kept, but for signatures and what is encrypted; UN and what the data dictionary does not know is
    removed

No text is kept that repeats a name or number that identifies somebody in the same object (`echoes`). Where a sequence
is to be replaced by a dummy (D), its items stay with dummies for every text, date and UID in them. A dummy is
"ANONYMIZED", 1900-01-01, 00:00, or bytes of zeros. Overlays (60xx) and curves (50xx) are removed whole.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence as Several
from copy import copy
from dataclasses import dataclass, field

from pydicom.charset import python_encoding
from pydicom.datadict import dictionary_has_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from dicom_io.confidentiality import date_shift, descriptors, private_elements, profile, structured_content, uid_mapping
from dicom_io.confidentiality.echoes import Echoes
from dicom_io.confidentiality.parsing import parsed, values
from dicom_io.confidentiality.profile import Action, Option, Row
from dicom_io.provenance import FICTITIOUS_PATIENT_PREFIX
from dicom_io.pseudonym import pseudonym

Path = tuple[str, ...]

# Texts that equipment writes, or that structure an object; identity is not expected in them (but see `echoes`).
MACHINE_TEXT = frozenset(
    [
        "Manufacturer",
        "ManufacturerModelName",
        "ManufacturerModelVersion",
        "ManufacturerRelatedModelGroup",
        "SoftwareVersions",
        "SecondaryCaptureDeviceManufacturer",
        "SecondaryCaptureDeviceManufacturerModelName",
        "SecondaryCaptureDeviceSoftwareVersions",
        "DetectorManufacturerName",
        "DetectorManufacturerModelName",
        "ReceiveCoilManufacturerName",
        "TransmitCoilManufacturerName",
        "ReceiveCoilName",
        "TransmitCoilName",
        "MultiCoilElementName",
        "MultiCoilConfiguration",
        "ApplicationName",
        "ApplicationVersion",
        "ApplicationManufacturer",
        "SequenceName",
        "PulseSequenceName",
        "ImagedNucleus",
        "ConvolutionKernel",
        "FilterType",
        "TypeOfFilters",
        "CollimatorGridName",
        "ReconstructionMethod",
        "AttenuationCorrectionMethod",
        "ScatterCorrectionMethod",
        "DetectorLinesOfResponseUsed",
        "PVCRejection",
        "CardiacFramingType",
        "TriggerSourceOrType",
        "Radiopharmaceutical",
        "RadiopharmaceuticalRoute",
        "ContrastBolusRoute",
        "EnergyWindowName",
        "DoseModeName",
        "PhosphorType",
        "PlateType",
        "AcquisitionMode",
        "ProcessingFunction",
        "AcquisitionDeviceProcessingCode",
        "RescaleType",
        "ModalityLUTType",
        "WindowCenterWidthExplanation",
        "LUTExplanation",
        "LUTLabel",
        "PixelValueMappingExplanation",
        "PositionReferenceIndicator",
        "TargetPositionReferenceIndicator",
        "StackID",
        "OpticalPathIdentifier",
        "ReferencedOpticalPathIdentifier",
        "PartialViewDescription",
        "PixelSpacingCalibrationDescription",
        "ImageDisplayFormat",
        "CodeValue",
        "LongCodeValue",
        "URNCodeValue",
        "CodeMeaning",
        "CodingSchemeDesignator",
        "CodingSchemeVersion",
        "CodingSchemeRegistry",
        "CodingSchemeName",
        "CodingSchemeURL",
        "CodingSchemeExternalID",
        "MappingResourceName",
        "AlgorithmName",
        "AlgorithmVersion",
        "AlgorithmSource",
        "AlgorithmParameters",
        "SegmentAlgorithmName",
        "DimensionDescriptionLabel",
        "DimensionIndexPrivateCreator",
        "FunctionalGroupPrivateCreator",
        "SelectorAttributePrivateCreator",
    ]
)
# Coding schemes with public tables (PS3.16 8): what their codes mean is known. Meanings of local codes are free text.
PUBLIC_SCHEMES = frozenset(
    [
        "DCM",
        "SCT",
        "SRT",
        "SNM3",
        "99SDM",
        "UCUM",
        "LN",
        "FMA",
        "MA",
        "NCIt",
        "UMLS",
        "RADLEX",
        "RADELEMENT",
        "MDC",
        "BI",
        "ACR",
        "ICD-11",
        "I10",
        "I10P",
        "I9",
        "I9C",
        "ICDO3",
        "C4",
        "NEU",
        "UBERON",
        "ITIS_TSN",
        "CD8",
        "IBSI",
        "CVX",
        "RXNORM",
        "NCDR",
        "UNS",
        "NICIP",
    ]
)
# Beyond the table: signatures of what is no longer there, and what can be read by others than us.
_UNREADABLE = frozenset(
    [
        "EncryptedAttributesSequence",
        "ModifiedAttributesSequence",
        "EncryptedContent",
        "MACParametersSequence",
        "Signature",
        "HPGLDocument",
        "RecordKey",
        "PriorRecordKey",
        "ObjectBinaryIdentifierTrial",
        "ObjectDirectoryBinaryIdentifierTrial",
    ]
)
# What says that an object was de-identified is written anew, see `deidentify`.
_WRITTEN_ANEW = frozenset(
    {
        "PatientIdentityRemoved",
        "DeidentificationMethod",
        "DeidentificationMethodCodeSequence",
        "LongitudinalTemporalInformationModified",
    }
)
_CONTENT = frozenset({"ContentSequence", "AcquisitionContextSequence", "SpecimenPreparationSequence"})
_FREE_TEXT = frozenset({"LO", "LT", "SH", "ST", "UC", "UT"})
_MOMENTS = frozenset({"DA", "DT", "TM"})
_TEXTS = _FREE_TEXT | _MOMENTS | {"AE", "AS", "CS", "DS", "IS", "PN", "UI", "UR"}
_CODE_STRING = re.compile(r"[A-Z0-9_ ]*")
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")
_TIMEZONE = re.compile(r"[+-](0\d|1[0-4])[0-5]\d")
_AE_LENGTH = 16
_UNICODE = "ISO_IR 192"

ANONYMIZED = "ANONYMIZED"
_DUMMIES: dict[str, object] = {
    **dict.fromkeys(("AE", "CS", "LO", "LT", "SH", "ST", "UC", "UT"), ANONYMIZED),
    **dict.fromkeys(("DS", "IS"), "0"),
    "PN": "Anonymized",
    "AS": "000Y",
    "UR": "https://anonymized.invalid/",
    "DA": "19000101",
    "DT": "19000101000000",
    "TM": "000000",
    **dict.fromkeys(("US", "SS", "UL", "SL", "UV", "SV", "FL", "FD"), 0),
}
_ZEROS = b"\0" * 8
# A dummy code is of no scheme of anybody's.
_NO_SCHEME = "99ANONYMIZED"

# Unlisted attributes, as if the table had a row for their VR.
_DATES = Row("date or time", ("X", "Z", "D"), {Option.RETAIN_FULL_DATES: "K", Option.RETAIN_MODIFIED_DATES: "C"})
_UIDS = Row("UID", ("U",), {Option.RETAIN_UIDS: "K"})
_TEXT = Row("text", ("X", "Z", "D"), {})


@dataclass
class Protector:
    """Carries out the profile on one object, and counts what it did.

    options: those chosen. days: how far dates move with Retain Modified Dates. patient_id: of the object, "" where it
    has none. echoes: what no kept text may repeat. safe_private: (creator, group, element in its block) to keep.
    done: (tag, keyword, action) -> how often; action: removed, emptied, replaced, mapped, kept, cleaned or moved.
    """

    key: bytes
    options: frozenset[Option]
    days: int
    sop_class_uid: str
    patient_id: str
    echoes: Echoes
    safe_private: frozenset[tuple[str, int, int]] = frozenset()
    done: Counter[tuple[int, str, str]] = field(default_factory=Counter)

    def dataset(self, source: Dataset, path: Path = (), *, dummies: bool = False) -> Dataset:
        """A new data set with what may stay; `source` is not changed. path: keywords of the sequences around it.

        Raises:
            Rejected: a value does not follow its value representation, so that what it holds cannot be judged.
        """
        target = Dataset()
        for tag in sorted(source.keys()):
            if not tag.is_private:
                kept = self.element(parsed(source, tag), path, source, dummies)
                if kept is not None:
                    target.add(kept)
        for kept in private_elements.kept(self, source, path):
            target.add(kept)
        return target

    def note(self, element: DataElement, action: str) -> None:
        self.done[int(element.tag), element.keyword, action] += 1

    # One element

    def element(self, element: DataElement, path: Path, source: Dataset, dummies: bool) -> DataElement | None:
        path = (*path, element.keyword)
        if element.tag.element == 0 or element.keyword in _WRITTEN_ANEW:  # 0: a group's length, which is no longer true
            return None
        if element.keyword == "SpecificCharacterSet":
            known = all(str(value) in python_encoding for value in values(element.value))
            return copy(element) if known else DataElement(element.tag, "CS", _UNICODE)
        if element.tag.group >> 8 in (0x50, 0x60) or element.keyword in _UNREADABLE:
            return self._removed(element)
        if not dictionary_has_tag(element.tag):
            return self._removed(element)
        if element.VR == "SQ":
            return self._sequence(element, path, dummies)
        if dummies:
            return self._dummied(element, path)
        row = profile.row(int(element.tag))
        return self.unlisted(element, path, source) if row is None else self.listed(element, row, path)

    def listed(self, element: DataElement, row: Row, path: Path) -> DataElement | None:
        asked = row.by_option(self.options)
        if asked == "K" and self._can_be_kept(element):
            self.note(element, "kept")
            return copy(element)
        cleaned = self.cleaned(element) if asked else None
        return self._basic(element, row, path) if cleaned is None else cleaned

    def _can_be_kept(self, element: DataElement) -> bool:
        """A value that is what it should be: a date in a date's place. UN may hold anything."""
        if element.VR in _MOMENTS:
            return all(date_shift.is_moment(str(value), element.VR) for value in values(element.value))
        return bool(element.VR != "UN")

    def cleaned(self, element: DataElement) -> DataElement | None:
        """What C means for this VR; None where nothing can be kept."""
        found = values(element.value)
        if element.VR in _MOMENTS:
            later = [date_shift.moved(str(value), element.VR, self.days) for value in found]
            return None if None in later else self._changed(element, later, "moved")
        if element.keyword == "TimezoneOffsetFromUTC":
            return self._changed(element, found, "kept") if all(_TIMEZONE.fullmatch(str(v)) for v in found) else None
        if element.VR in _FREE_TEXT:
            return self._changed(element, found, "cleaned") if all(self.is_clean(str(v)) for v in found) else None
        if element.VR == "CS":
            return self._changed(element, found, "cleaned") if self._are_codes(found) else None
        if element.VR == "AE":
            names = [pseudonym(self.key, f"\0AE\0{value}").upper()[:_AE_LENGTH] for value in found]
            return self._changed(element, names, "replaced")
        return None

    def is_clean(self, text: str) -> bool:
        """Whether a free text may stay: each of its words is known, and none of them names somebody."""
        return descriptors.is_safe(text) and not self.echoes.in_free_text(text)

    def _basic(self, element: DataElement, row: Row, path: Path) -> DataElement | None:
        return self.carried_out(profile.resolved(row.basic, profile.need(self.sop_class_uid, path)), element, path)

    def carried_out(self, action: Action, element: DataElement, path: Path = ()) -> DataElement | None:
        """An action of the Basic Profile on an element that is no sequence."""
        if action == "X":
            return self._removed(element)
        if not values(element.value):
            return copy(element)  # Nothing is there to be replaced, and no dummy may feign that it was.
        if element.keyword in ("PatientID", "PatientName"):
            # The name follows the number: spelt in two ways it is still one patient's.
            identifier = self.patient_id if len(path) == 1 and self.patient_id else str(element.value)
            return self._changed(element, [self.patient(identifier)], "replaced")
        if element.VR == "UI":
            found = [str(uid) for uid in values(element.value)]
            others = [uid_mapping.mapped(self.key, uid) for uid in found]
            return self._changed(element, others, "" if others == found else "mapped")
        if action == "Z":
            return self._changed(element, [], "emptied")
        return self._changed(element, [self._dummy(element)], "replaced")

    def patient(self, identifier: str) -> str:
        """The name that stands for a patient: it says still that a fictitious one is fictitious."""
        fictitious = identifier.startswith(FICTITIOUS_PATIENT_PREFIX)
        return pseudonym(self.key, identifier, prefix=FICTITIOUS_PATIENT_PREFIX if fictitious else "")

    def _dummy(self, element: DataElement) -> object:
        if element.keyword == "CodingSchemeDesignator":
            return _NO_SCHEME
        return _DUMMIES.get(element.VR, _ZEROS)

    def _dummied(self, element: DataElement, path: Path) -> DataElement | None:
        """Inside a sequence that is to be a dummy: texts, dates and UIDs are replaced, what is measured stays."""
        row = profile.row(int(element.tag))
        if row is not None and "X" in row.basic and profile.need(self.sop_class_uid, path) == "3":
            return self._removed(element)
        if element.VR == "UN" or element.VR in ("OB", "OW") or (element.VR == "OB or OW"):
            return self._removed(element)
        is_number = element.VR in ("DS", "IS") and self._are_numbers(values(element.value))
        is_code = element.VR == "CS" and self._are_codes(values(element.value))
        if is_number or is_code or element.VR not in _TEXTS:
            return copy(element)
        return self.carried_out("D", element)

    # Attributes that no row speaks of

    def unlisted(self, element: DataElement, path: Path, source: Dataset) -> DataElement | None:
        """See the module's table."""
        vr, found = element.VR, values(element.value)
        if not found:
            return copy(element)
        if vr == "UN":
            return self._removed(element)
        if vr == "UI":
            return self.listed(element, _UIDS, path)
        if vr in _MOMENTS:
            return self.listed(element, _DATES, path)
        if self._is_harmless(element, found, source):
            return (
                self._changed(element, [uid_mapping.mapped_in_text(self.key, str(v)) for v in found], "")
                if vr in _FREE_TEXT
                else copy(element)
            )
        return self._basic(element, _TEXT, path)

    def _is_harmless(self, element: DataElement, found: Several[object], source: Dataset) -> bool:
        vr = element.VR
        if vr == "CS":
            return self._are_codes(found)
        if vr in ("DS", "IS"):
            return self._are_numbers(found)
        if vr in _FREE_TEXT or vr == "UR":
            texts = [str(value) for value in found]
            if element.keyword in MACHINE_TEXT and self._is_public(element, source):
                return not any(self.echoes.in_technique(text) for text in texts)
            return all(self.is_clean(text) for text in texts)
        return vr not in ("PN", "AE", "AS")

    def _is_public(self, element: DataElement, source: Dataset) -> bool:
        return element.keyword != "CodeMeaning" or str(source.get("CodingSchemeDesignator") or "") in PUBLIC_SCHEMES

    def _are_codes(self, found: Several[object]) -> bool:
        texts = [str(value) for value in found]
        return all(_CODE_STRING.fullmatch(text) for text in texts) and not any(map(self.echoes.in_technique, texts))

    def _are_numbers(self, found: Several[object]) -> bool:
        return all(_NUMBER.fullmatch(str(value)) for value in found)

    # Sequences

    def _sequence(self, element: DataElement, path: Path, dummies: bool) -> DataElement | None:
        row = profile.row(int(element.tag))
        if row is None or dummies:
            return self._items(element, path, dummies=dummies)
        asked = row.by_option(self.options)
        if asked == "C" and element.keyword in _CONTENT:
            return self._of(element, structured_content.cleaned(self, element.value, path), "cleaned")
        if asked == "C" and element.keyword == "GraphicAnnotationSequence":
            self.note(element, "cleaned")
            return self._items(element, path, dummies=True)
        if asked:
            self.note(element, "kept" if asked == "K" else "cleaned")
            return self._items(element, path, dummies=False)
        return self._basic_sequence(element, profile.resolved(row.basic, profile.need(self.sop_class_uid, path)), path)

    def _basic_sequence(self, element: DataElement, action: Action, path: Path) -> DataElement | None:
        if action == "X":
            return self._removed(element)
        if action == "Z":
            return self._of(element, [], "emptied")
        self.note(element, "mapped" if action == "U" else "replaced")
        return self._items(element, path, dummies=action == "D")

    def _items(self, element: DataElement, path: Path, *, dummies: bool) -> DataElement:
        return self._of(element, [self.dataset(item, path, dummies=dummies) for item in element.value or ()], "")

    # New elements

    def _of(self, element: DataElement, items: list[Dataset], action: str) -> DataElement:
        if action:
            self.note(element, action)
        return DataElement(element.tag, "SQ", Sequence(items))

    def _changed(self, element: DataElement, new: Several[object], action: str) -> DataElement:
        """The element with these values. It is noted where an action is named."""
        if action:
            self.note(element, action)
        value = None if not new else new[0] if len(new) == 1 else list(new)
        return DataElement(element.tag, element.VR, value, already_converted=element.VR == "UN")

    def _removed(self, element: DataElement) -> DataElement | None:
        self.note(element, "removed")
        return None
