"""A job as a workitem. Nothing of it is stored: whoever asks is told what the job's row says at that moment.

A job is Mirall's own from when it is made, so as a workitem it is IN PROGRESS while it waits or runs, and nobody else
can claim it. It ends as COMPLETED or CANCELED; a job that a person runs again is IN PROGRESS again, which the state
table of PS3.4 CC.1.1 does not know, and which is how it is.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, select

from plugin.archive.tables import Instance, Study
from plugin.jobs.planning import CANCELLED, DONE, FAILED, RUNNING
from plugin.jobs.tables import Result
from plugin.worklist import orders
from plugin.worklist.elements import Attributes, code, elements, moment
from plugin.worklist.rules import CANCELED, COMPLETED, IN_PROGRESS, UPS_PUSH

# PS3.16 CID 9300.
UNSPECIFIED = code("110513", "DCM", "Discontinued for unspecified reason")
EQUIPMENT_FAILURE = code("110501", "DCM", "Equipment failure")

_STATES = {DONE: COMPLETED, FAILED: CANCELED, CANCELLED: CANCELED}
_MARK = int.from_bytes(b"MIRALL", "big")


def uid_of(job_id: str) -> str:
    """UID of the workitem that mirrors a job: 2.25 and a UUID of version 8 (RFC 9562 5.8) that holds the job's id."""
    number = int(job_id, 16)
    bits = _MARK << 80 | 8 << 76 | (number >> 52) << 64 | 0b10 << 62 | number & ((1 << 52) - 1)
    return f"2.25.{uuid.UUID(int=bits).int}"


def job_of(uid: str) -> str | None:
    """Id of the job that a UID mirrors; None for every other UID."""
    root, _, number = uid.rpartition(".")
    if root != "2.25" or not number.isdigit() or int(number) >> 128:
        return None
    bits = int(number)
    job_id = f"{(bits >> 64 & 0xFFF) << 52 | bits & ((1 << 52) - 1):016x}"
    return job_id if uid_of(job_id) == uid else None


def state_of(job_state: str) -> str:
    """Procedure Step State (0074,1000) of a job in this state."""
    return _STATES.get(job_state, IN_PROGRESS)


def changed_at(job: Row[Any]) -> float:
    """When the job was last entered into, as far as its row tells."""
    return max(filter(None, (job.created_at, job.started_at, job.ended_at)))


@dataclass(frozen=True)
class Mirror:
    """What is the same for all jobs of one node. aet: our AE title, the performing station."""

    aet: str

    def whole(self, job: Row[Any], connection: Connection) -> Attributes:
        """The workitem of a job that nobody created as one."""
        generates = job.kind == "generate"
        wanted: list[tuple[Attributes, str | int]] = [(orders.MODEL, job.model)]
        if generates:
            wanted += [(orders.SAMPLES, job.spec["n"]), (orders.SEED, job.spec["seed"])]
            wanted += [(orders.LABEL, job.spec["label"])] if job.spec["label"] else []
        wanted += [(orders.DESTINATION, name) for name in job.spec["send_to"]]
        here = elements(
            SOPClassUID=UPS_PUSH,
            SOPInstanceUID=uid_of(job.id),
            SpecificCharacterSet="ISO_IR 192",
            ScheduledProcedureStepPriority="MEDIUM",
            ScheduledProcedureStepModificationDateTime=moment(changed_at(job)),
            ProcedureStepLabel=f"{'Generate' if generates else 'Predict'} with {job.model}"[:64],
            WorklistLabel="MIRALL",
            ScheduledProcessingParametersSequence=orders.parameters_of(wanted),
            ScheduledStationNameCodeSequence=self._station(),
            ScheduledStationClassCodeSequence="",
            ScheduledStationGeographicLocationCodeSequence="",
            ScheduledProcedureStepStartDateTime=moment(job.created_at),
            ScheduledWorkitemCodeSequence=orders.GENERATE if generates else orders.PREDICT,
            CommentsOnTheScheduledProcedureStep=f"asked for by route {job.route}" if job.route else "",
            InputReadinessState="READY",
            InputInformationSequence=[] if generates else _references(job.spec["instances"], connection),
            StudyInstanceUID=job.study_instance_uid or "",
            **dict.fromkeys(_EMPTY, ""),
        )
        return here | _patient(job.study_instance_uid, connection) | self.overlay(job, connection)

    def overlay(self, job: Row[Any], connection: Connection) -> Attributes:
        """What the job makes of a workitem: state, progress, what was performed."""
        state = state_of(job.state)
        here = elements(
            ProcedureStepState=state,
            ProcedureStepProgressInformationSequence=self.progress(job),
            UnifiedProcedureStepPerformedProcedureSequence="",
        )
        if job.started_at is not None:
            here |= elements(UnifiedProcedureStepPerformedProcedureSequence=self._performed(job, state, connection))
        return here

    def progress(self, job: Row[Any]) -> Attributes:
        """Item of Procedure Step Progress Information Sequence (0074,1002)."""
        state = state_of(job.state)
        if state == CANCELED:
            return elements(
                ProcedureStepCancellationDateTime=moment(job.ended_at or job.created_at),
                ReasonForCancellation=job.error[:10240],
                ProcedureStepDiscontinuationReasonCodeSequence=UNSPECIFIED
                if job.state == CANCELLED
                else EQUIPMENT_FAILURE,
            )
        if state == COMPLETED:
            return elements(ProcedureStepProgress=100, ProcedureStepProgressDescription="done")
        said = job.progress or {}
        done, of = said.get("done"), said.get("of")
        percent = round(100 * done / of) if isinstance(done, int | float) and isinstance(of, int | float) and of else 0
        waits = "waits for its turn" if not job.error else f"waits for another attempt: {job.error}"
        stage = str(said.get("stage", "begun")) if job.state == RUNNING else waits
        return elements(ProcedureStepProgress=percent, ProcedureStepProgressDescription=stage[:1024])

    def _performed(self, job: Row[Any], state: str, connection: Connection) -> Attributes:
        """Item of Unified Procedure Step Performed Procedure Sequence (0074,1216)."""
        made = connection.scalars(select(Result.sop_instance_uid).where(Result.job_id == job.id))
        return elements(
            PerformedStationNameCodeSequence=self._station(),
            PerformedProcedureStepStartDateTime=moment(job.started_at),
            PerformedWorkitemCodeSequence=orders.GENERATE if job.kind == "generate" else orders.PREDICT,
            PerformedProcessingParametersSequence=orders.parameters_of([(orders.MODEL, job.model)]),
            PerformedProcedureStepEndDateTime=moment(job.ended_at) if job.ended_at and state != IN_PROGRESS else "",
            OutputInformationSequence=_references(list(made), connection),
        )

    def _station(self) -> Attributes:
        return code(self.aet, orders.SCHEME, f"Mirall as {self.aet}")


# Type 2 of table CC.2.5-3 that a job has nothing to say about.
_EMPTY = (
    "IssuerOfPatientID", "IssuerOfPatientIDQualifiersSequence", "OtherPatientIDsSequence", "PatientName", "PatientID",
    "PatientBirthDate", "PatientSex", "AdmissionID", "IssuerOfAdmissionIDSequence", "AdmittingDiagnosesDescription",
    "AdmittingDiagnosesCodeSequence", "ReferencedRequestSequence",
)  # fmt: skip
_OF_PATIENT = ("00100010", "00100020", "00100021", "00100030", "00100040")
# Below the number of variables that a statement of SQLite may have.
_BATCH = 10_000


def _patient(study: str | None, connection: Connection) -> Attributes:
    known = connection.scalar(select(Study.attributes).where(Study.study_instance_uid == study)) or {}
    return {tag: known[tag] for tag in _OF_PATIENT if tag in known}


def _references(uids: Sequence[str], connection: Connection) -> list[Attributes]:
    """Items of the Referenced Instances and Access Macro (PS3.3 10.3), one a series; what is gone is left out."""
    series: dict[tuple[str, str], list[Attributes]] = {}
    for start in range(0, len(uids), _BATCH):
        rows = connection.execute(
            select(
                Instance.study_instance_uid,
                Instance.series_instance_uid,
                Instance.sop_class_uid,
                Instance.sop_instance_uid,
            )
            .where(Instance.sop_instance_uid.in_(uids[start : start + _BATCH]))
            .order_by(Instance.series_instance_uid, Instance.sop_instance_uid)
        )
        for row in rows:
            reference = elements(ReferencedSOPClassUID=row.sop_class_uid, ReferencedSOPInstanceUID=row.sop_instance_uid)
            series.setdefault((row.study_instance_uid, row.series_instance_uid), []).append(reference)
    return [
        elements(TypeOfInstances="DICOM", StudyInstanceUID=study, SeriesInstanceUID=uid, ReferencedSOPSequence=found)
        for (study, uid), found in series.items()
    ]
