"""Workitems for tests: as a scheduler creates them, as a performer ends them, and those that ask for work of ours."""

from __future__ import annotations

from typing import Any

from plugin.worklist import orders
from plugin.worklist.elements import Attributes, code, elements

_EMPTY = (
    "TransactionUID", "WorklistLabel", "ScheduledProcessingParametersSequence", "ScheduledStationNameCodeSequence",
    "ScheduledStationClassCodeSequence", "ScheduledStationGeographicLocationCodeSequence",
    "ScheduledWorkitemCodeSequence", "CommentsOnTheScheduledProcedureStep", "InputInformationSequence", "PatientName",
    "IssuerOfPatientID", "IssuerOfPatientIDQualifiersSequence", "OtherPatientIDsSequence", "PatientBirthDate",
    "PatientSex", "AdmissionID", "IssuerOfAdmissionIDSequence", "AdmittingDiagnosesDescription",
    "AdmittingDiagnosesCodeSequence", "ReferencedRequestSequence", "ProcedureStepProgressInformationSequence",
    "UnifiedProcedureStepPerformedProcedureSequence",
)  # fmt: skip


def workitem(**changes: Any) -> Attributes:
    """All that PS3.4 table CC.2.5-3 asks for; changes: by keyword, None takes one out."""
    whole = elements(
        ScheduledProcedureStepPriority="HIGH",
        ProcedureStepLabel="Read a chest",
        ScheduledProcedureStepStartDateTime="20261120120000",
        InputReadinessState="READY",
        ProcedureStepState="SCHEDULED",
        **dict.fromkeys(_EMPTY, ""),
    )
    for keyword, value in changes.items():
        tag = next(iter(elements(**{keyword: ""})))
        whole.pop(tag, None)
        whole |= {} if value is None else elements(**{keyword: value})
    return whole


def performed() -> Attributes:
    """What a performer says before it completes a workitem."""
    item = elements(
        PerformedStationNameCodeSequence=code("WS1", "99TEST", "Workstation 1"),
        PerformedProcedureStepStartDateTime="20261120120000",
        PerformedWorkitemCodeSequence=code("110005", "DCM", "Interpretation"),
        PerformedProcedureStepEndDateTime="20261120121000",
        OutputInformationSequence="",
    )
    return elements(UnifiedProcedureStepPerformedProcedureSequence=item)


def generation(model: str, samples: int = 2, **changes: Any) -> Attributes:
    """Asks for synthetic samples."""
    wanted = orders.parameters_of([(orders.MODEL, model), (orders.SAMPLES, samples), (orders.SEED, 7)])
    return workitem(
        ScheduledWorkitemCodeSequence=orders.GENERATE, ScheduledProcessingParametersSequence=wanted, **changes
    )


def prediction(model: str, study: str, *series: str, **changes: Any) -> Attributes:
    """Asks for a model version to be run on a study, or on some of its series."""
    named: list[Attributes] = [elements(StudyInstanceUID=study, SeriesInstanceUID=uid) for uid in series or ("",)]
    return workitem(
        ScheduledWorkitemCodeSequence=orders.PREDICT,
        ScheduledProcessingParametersSequence=orders.parameters_of([(orders.MODEL, model)]),
        InputInformationSequence=named,
        **changes,
    )
