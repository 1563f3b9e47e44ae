"""What a workitem must hold, when it is created, when it is changed and when it ends (PS3.4 table CC.2.5-3).

Everything here is a function of attributes in the DICOM JSON model; nothing is stored.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydicom import Dataset
from pydicom.datadict import dictionary_VR

from plugin.worklist.elements import Attributes, items, tag, text

State = Literal["SCHEDULED", "IN PROGRESS", "COMPLETED", "CANCELED"]
SCHEDULED, IN_PROGRESS, COMPLETED, CANCELED = "SCHEDULED", "IN PROGRESS", "COMPLETED", "CANCELED"
FINAL = (COMPLETED, CANCELED)

UPS_PUSH = "1.2.840.10008.5.1.4.34.6.1"

# Keyword, at creation, in an update, at the end, in a search; ">" marks attributes of the items of a sequence above.
#   at creation   1 has a value, 2 is there, 0 is there and empty, 3 may be there, - may not
#   in an update  1 may be there and has a value, ! has a value in each item, 3 may be there, - may not
#   at the end    R always, P when completed, X when canceled, O optional
#   in a search   1, 2 are always returned (1C, 2C where they have a value), 3 when asked for
_TABLE = """
TransactionUID                                  0 3 O -
SpecificCharacterSet                            3 3 O 2C
SOPClassUID                                     3 - R 1
SOPInstanceUID                                  3 - R 1
ScheduledProcedureStepPriority                  1 1 R 1
ScheduledProcedureStepModificationDateTime      3 3 R 3
ProcedureStepLabel                              1 1 O 1
WorklistLabel                                   2 1 O 1
ScheduledProcessingParametersSequence           2 3 O 2
ScheduledStationNameCodeSequence                2 3 O 2
ScheduledStationClassCodeSequence               2 3 O 2
ScheduledStationGeographicLocationCodeSequence  2 3 O 2
ScheduledHumanPerformersSequence                3 3 O 2
>HumanPerformerCodeSequence                     1 ! O -
>HumanPerformerName                             1 ! O -
>HumanPerformerOrganization                     1 ! O -
ScheduledProcedureStepStartDateTime             1 1 R 1
ExpectedCompletionDateTime                      3 1 O 3
ScheduledProcedureStepExpirationDateTime        3 3 O 3
ScheduledWorkitemCodeSequence                   2 1 O 2
CommentsOnTheScheduledProcedureStep             2 1 O 3
InputReadinessState                             1 1 R 1
InputInformationSequence                        2 3 O 2
StudyInstanceUID                                3 3 O 2
OutputDestinationSequence                       3 3 O 3
PatientName                                     2 - O 2
PatientID                                       3 - O 2
IssuerOfPatientID                               2 - O 2
IssuerOfPatientIDQualifiersSequence             2 - O 2
OtherPatientIDsSequence                         2 3 O 2
>PatientID                                      1 ! O -
>IssuerOfPatientID                              2 - O -
>IssuerOfPatientIDQualifiersSequence            2 - O -
PatientBirthDate                                2 - O 2
PatientSex                                      2 - O 2
AdmissionID                                     2 - O 2
IssuerOfAdmissionIDSequence                     2 - O 2
AdmittingDiagnosesDescription                   2 - O 2
AdmittingDiagnosesCodeSequence                  2 - O 2
ReferencedRequestSequence                       2 - O 2
>StudyInstanceUID                               1 - O -
>AccessionNumber                                2 - O -
>IssuerOfAccessionNumberSequence                2 - O -
>OrderPlacerIdentifierSequence                  2 - O -
>OrderFillerIdentifierSequence                  2 - O -
>RequestedProcedureID                           2 - O -
>RequestedProcedureDescription                  2 - O -
>RequestedProcedureCodeSequence                 2 - O -
ReplacedProcedureStepSequence                   3 - O 3
MedicalAlerts                                   3 3 O 2C
PregnancyStatus                                 3 3 O 2C
SpecialNeeds                                    3 3 O 2C
ProcedureStepState                              1 - R 1
ProcedureStepProgressInformationSequence        0 3 X 2
>ProcedureStepProgress                          - 1 O -
>ProcedureStepProgressDescription               - 1 O -
>ProcedureStepCancellationDateTime              - 1 X -
>ReasonForCancellation                          - 1 O -
>ProcedureStepDiscontinuationReasonCodeSequence - 1 X -
UnifiedProcedureStepPerformedProcedureSequence  0 3 P -
>PerformedStationNameCodeSequence               - 3 P -
>PerformedProcedureStepStartDateTime            - 1 P -
>PerformedWorkitemCodeSequence                  - 1 P -
>PerformedProcedureStepEndDateTime              - 1 P -
>OutputInformationSequence                      - 3 E -
"""


@dataclass(frozen=True)
class _Rule:
    """One row of the table. parent: keyword of the sequence, "" at the top."""

    keyword: str
    parent: str
    created: str
    changed: str
    ended: str
    returned: str


def _rules() -> Iterator[_Rule]:
    parent = ""
    for line in _TABLE.split("\n")[1:-1]:
        name, *columns = line.split()
        if not name.startswith(">"):
            parent = name
        nested = name.startswith(">")
        yield _Rule(name.lstrip(">"), parent if nested else "", *columns)


_RULES = tuple(_rules())
RETURNED = frozenset(tag(rule.keyword) for rule in _RULES if not rule.parent and rule.returned in ("1", "2"))
"""Attributes that a search gives in any event."""
RETURNED_IF_SET = frozenset(tag(rule.keyword) for rule in _RULES if rule.returned in ("1C", "2C"))

_ENUMERATED = {
    "ScheduledProcedureStepPriority": ("HIGH", "MEDIUM", "LOW"),
    "InputReadinessState": ("INCOMPLETE", "UNAVAILABLE", "READY"),
}


def malformed(attributes: Any) -> str:
    """What is no data set in the DICOM JSON model, as a sentence; "" where it is one."""
    if not isinstance(attributes, dict):
        return "the payload is no DICOM JSON object; send one data set"
    for name, one in attributes.items():
        if not isinstance(one, dict) or not isinstance(one.get("vr"), str) or "BulkDataURI" in one:
            return f"{name} is no attribute of the DICOM JSON model, with vr and Value; write the payload anew"
        if len(name) != 8 or not name.isalnum() or name != name.upper():
            return f"{name!r} is no tag of 8 upper-case digits; write the payload anew"
        if not isinstance(one.get("Value", []), list):
            return f"Value of {name} is no list; write the payload anew"
    try:
        # What cannot be given out again (half a surrogate pair, NaN) would take every search down with it.
        json.dumps(attributes, ensure_ascii=False, allow_nan=False).encode()
        Dataset.from_json(attributes)
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError) as error:
        return f"the payload cannot be read as a data set ({error}); write it anew"
    return ""


def wrong_at_creation(attributes: Attributes) -> list[str]:
    """What keeps a data set from becoming a workitem, one clause each; [] where nothing does."""
    found = _grouped(_violations(attributes, "", created=True))
    state = text(attributes, "ProcedureStepState")
    if state and state != SCHEDULED:
        found.append(f"ProcedureStepState is {state!r}, and a workitem begins as SCHEDULED")
    return found


def wrong_in_update(attributes: Attributes) -> list[str]:
    """What keeps a data set from changing a workitem; [] where nothing does."""
    return _grouped(_violations(attributes, "", created=False))


def _grouped(violations: Iterator[tuple[str, str]]) -> list[str]:
    """One clause for all attributes of which the same is said."""
    named: dict[str, list[str]] = {}
    for keyword, complaint in violations:
        named.setdefault(complaint, []).append(keyword)
    return [f"{', '.join(dict.fromkeys(keywords))} {complaint}" for complaint, keywords in named.items()]


def _violations(attributes: Mapping[str, Any], parent: str, *, created: bool) -> Iterator[tuple[str, str]]:
    """(keyword, what is said of it)."""
    of = f" in {parent}" if parent else ""
    for rule in _RULES:
        if rule.parent != parent:
            continue
        kind = rule.created if created else rule.changed
        here = tag(rule.keyword)
        present, valued = here in attributes, _has_value(attributes, rule.keyword)
        if kind == "-" and present:
            yield f"{rule.keyword}{of}", f"may not be {'given' if created else 'changed'}"
        elif kind in ("1", "!") and not valued and (created or present or kind == "!"):
            yield f"{rule.keyword}{of}", "must have a value"
        elif kind == "2" and not present:
            yield f"{rule.keyword}{of}", "must be there, with or without a value"
        elif kind == "0" and (not present or valued):
            yield f"{rule.keyword}{of}", "must be there and empty"
        elif present and attributes[here]["vr"] != dictionary_VR(int(here, 16)):
            yield f"{rule.keyword}{of}", f"has the vr {attributes[here]['vr']}"
        if valued and rule.keyword in _ENUMERATED and text(attributes, rule.keyword) not in _ENUMERATED[rule.keyword]:
            yield rule.keyword, f"must be one of {', '.join(_ENUMERATED[rule.keyword])}"
        for item in items(attributes, rule.keyword) if not parent else ():
            yield from _violations(item, rule.keyword, created=created)
            if rule.keyword.endswith("CodeSequence"):
                yield from _not_a_code(item, rule.keyword)


def _not_a_code(item: Mapping[str, Any], keyword: str) -> Iterator[tuple[str, str]]:
    """The Code Sequence Macro (PS3.3 8.8)."""
    value = any(_has_value(item, name) for name in ("CodeValue", "LongCodeValue", "URNCodeValue"))
    if not value or not _has_value(item, "CodeMeaning"):
        yield keyword, "must have a Code Value and a Code Meaning in each item"


def missing_at_end(attributes: Attributes, state: str) -> list[str]:
    """Keywords of what a workitem lacks to be COMPLETED or CANCELED (Final State requirements)."""
    required = {"R", "P"} if state == COMPLETED else {"R", "X"}
    lacking = []
    for rule in _RULES:
        if rule.parent:
            # Only within items that there are; that there is one is the sequence's own requirement.
            for item in items(attributes, rule.parent):
                if rule.ended in required and not _has_value(item, rule.keyword):
                    lacking.append(f"{rule.keyword} in {rule.parent}")
                # Objects need not have come of it, but that must be said.
                elif rule.ended == "E" and state == COMPLETED and tag(rule.keyword) not in item:
                    lacking.append(f"{rule.keyword} (it may be empty) in {rule.parent}")
        elif rule.ended in required and not _has_value(attributes, rule.keyword):
            lacking.append(rule.keyword)
    return lacking


def _has_value(attributes: Mapping[str, Any], keyword: str) -> bool:
    values = attributes.get(tag(keyword), {}).get("Value") or []
    return any(value not in (None, "") for value in values)
