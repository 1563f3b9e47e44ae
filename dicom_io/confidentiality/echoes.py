"""What names the patient and others in one object, found again elsewhere in it.

Identity leaks into attributes that no table lists: a name in a series' label, a patient's number in a device's text.
The words of the identifying attributes are collected before these are removed, and any text that repeats one is not
kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from pydicom.dataset import Dataset

from dicom_io.confidentiality.descriptors import vocabulary
from dicom_io.confidentiality.parsing import elements, values
from dicom_io.provenance import FICTITIOUS_PATIENT_PREFIX, MANUFACTURER

# Beside everything of VR PN. Institution names are left out: makers give the same word to scanners and sites.
IDENTIFYING = frozenset(
    [
        "PatientID",
        "OtherPatientIDs",
        "IssuerOfPatientID",
        "AccessionNumber",
        "AdmissionID",
        "RequestedProcedureID",
        "MedicalRecordLocator",
        "PatientAddress",
        "PatientTelephoneNumbers",
        "PatientBirthDate",
        "InsurancePlanIdentification",
        "MilitaryRank",
    ]
)
# As creator of a content our writers name the model ("Mirall^lesion-finder"), which must stay.
_MODELS = f"{MANUFACTURER}^"
_WORD = re.compile(r"[^\W_]+")
# Shorter ones are found inside other words by chance: they must be words of their own.
_CERTAIN_LENGTH = 6


@dataclass(frozen=True)
class Echoes:
    """The words, in lower case, that identify somebody in one object."""

    words: frozenset[str]

    def in_free_text(self, text: str) -> bool:
        """Whether a text that people write repeats one, be it a word of anatomy, too ("Foot")."""
        return _repeats(text, self.words)

    def in_technique(self, text: str) -> bool:
        """Whether a text that machines write repeats one; words of the vocabulary ("AXIAL") are no evidence here."""
        return _repeats(text, self.words - vocabulary())


def echoes(dataset: Dataset) -> Echoes:
    """Of a whole object. A fictitious patient (`provenance`) has nobody to hide, and gives none."""
    if str(dataset.get("PatientID") or "").startswith(FICTITIOUS_PATIENT_PREFIX):
        return Echoes(frozenset())
    return Echoes(frozenset(word for value in _identifying(dataset) for word in _words(value)))


def _identifying(dataset: Dataset) -> Iterator[str]:
    for element in elements(dataset):
        if element.VR == "SQ":
            for item in element.value or ():
                yield from _identifying(item)
        elif element.VR == "PN" or element.keyword in IDENTIFYING:
            yield from (text for text in map(str, values(element.value)) if not text.startswith(_MODELS))


def _words(value: str) -> Iterator[str]:
    whole = value.casefold().strip(" \0^")
    if len(whole) >= _CERTAIN_LENGTH:
        yield whole
    for word in _WORD.findall(value.casefold()):
        if len(word) >= (5 if word.isdigit() else 3):
            yield word


def _repeats(text: str, words: frozenset[str]) -> bool:
    text = text.casefold()
    own_words = set(_WORD.findall(text))
    return any(word in own_words or (len(word) >= _CERTAIN_LENGTH and word in text) for word in words)
