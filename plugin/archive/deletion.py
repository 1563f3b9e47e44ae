"""Deleting a study, a series or an instance, with all that is owed or waits because of it.

    rows of the index, jobs, outbox and tombstones (one transaction) -> files -> quarantined copies

A kill before the last step leaves refused copies in quarantine; the same deletion, asked for again, takes them. What is
deleted may be sent again and is stored then as anything that arrives; the tombstone stays as a record.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from sqlalchemy import Connection, Select, delete, null, select, update

from dicom_io.errors import Rejected
from plugin.archive import tombstones
from plugin.archive.index import InstanceRow
from plugin.archive.ingest import Ingest
from plugin.archive.tables import InstanceVersion
from plugin.jobs.planning import CANCELLED, DONE, FAILED, INPUT_DELETED, RUNNING, WAITING
from plugin.jobs.tables import Delivery, Job, Result

LOGGER = logging.getLogger(__name__)

Level = Literal["study", "series", "instance"]
# States of the outbox in which something would still leave.
_STILL_TO_SEND = ("queued", "held", "unknown")
# SQLite takes 32766 values in one statement at most.
_VALUES = 10_000


class NothingThere(Rejected):
    """What is to be deleted is not in the archive."""


@dataclass(frozen=True)
class Target:
    """What is to go. series_instance_uid, sop_instance_uid: "" above their level."""

    study_instance_uid: str
    series_instance_uid: str = ""
    sop_instance_uid: str = ""

    @property
    def level(self) -> Level:
        if self.sop_instance_uid:
            return "instance"
        return "series" if self.series_instance_uid else "study"

    def __contains__(self, other: Target) -> bool:
        """Whether `other` is this, or a part of it."""
        mine, its = (
            (each.study_instance_uid, each.series_instance_uid, each.sop_instance_uid) for each in (self, other)
        )
        return all(ours in ("", theirs) for ours, theirs in zip(mine, its, strict=True))

    def __str__(self) -> str:
        return f"{self.level} {self.sop_instance_uid or self.series_instance_uid or self.study_instance_uid}"


@dataclass(frozen=True)
class Extent:
    """What a deletion takes, or would take.

    sop_instance_uids: of all that goes; its number stands in the JSON. versions: files of earlier headers. size: bytes
    of all files. quarantined: refused copies. jobs: that wait or run and are cancelled. deliveries: rows of the outbox
    that are not sent any more. results_left: SOP Instance UIDs of objects of ours that were made from it and stay,
    being in another series. predicted_by: model versions that ran on it.
    """

    target: Target
    sop_instance_uids: tuple[str, ...]
    versions: int
    size: int
    quarantined: int
    jobs: tuple[str, ...]
    deliveries: int
    results_left: tuple[str, ...]
    predicted_by: tuple[str, ...]

    @property
    def instances(self) -> int:
        return len(self.sop_instance_uids)

    def to_json(self) -> dict[str, Any]:
        fields = {name: value for name, value in asdict(self).items() if name not in ("target", "sop_instance_uids")}
        return {"level": self.target.level, **asdict(self.target), "instances": self.instances, **fields}


def survey(archive: Ingest, target: Target) -> Extent:
    """What a deletion would take; nothing is changed.

    Raises:
        NothingThere: no such study, series or instance.
    """
    with archive.index.read() as connection:
        return _Doomed(archive, target, connection).extent(connection)


def remove(
    archive: Ingest,
    target: Target,
    *,
    by: str,
    why: str = "",
    models: Sequence[str] = (),
    now: Callable[[], float] = time.time,
) -> Extent:
    """Delete it. by: who, for the tombstone. models: addresses of the model versions that were trained on it.

    Raises:
        NothingThere: no such study, series or instance; nothing is changed.
        NoSpace: the index cannot be written; nothing is changed.
    """
    with archive.index.write() as connection:
        doomed = _Doomed(archive, target, connection)
        extent = doomed.extent(connection)
        at = now()
        number = tombstones.add(
            connection,
            doomed.files,
            level=target.level,
            **asdict(target),
            at=at,
            by=by,
            why=why,
            models=sorted({*models, *extent.predicted_by}),
        )
        doomed.cancel(connection, at)
        doomed.take_out(connection, at)
    tombstones.sweep(archive.index, archive.storage)
    for entry in doomed.quarantined:
        archive.quarantine.forget(entry)
    LOGGER.warning("%s deleted %s: %d instance(s), deletion %d", by, target, extent.instances, number)
    return extent


class _Doomed:
    """The rows that go. Everything is read on one connection, so that it is one state of the archive."""

    def __init__(self, archive: Ingest, target: Target, connection: Connection) -> None:
        self._archive = archive
        self._target = target
        self._rows = self._instances(connection)
        self._uids = [row.sop_instance_uid for row in self._rows]
        here = set(self._uids)
        self.quarantined = [
            entry
            for entry in archive.quarantine.list()
            if entry.sop_instance_uid in here or self._is_named(entry.study_instance_uid, entry.sop_instance_uid)
        ]
        if not self._rows and not self.quarantined:
            raise NothingThere(f"{target} is not in the archive; see GET /dicom-web/studies for what is")
        self._versions = _in_parts(
            connection,
            self._uids,
            lambda uids: select(InstanceVersion.__table__).where(InstanceVersion.sop_instance_uid.in_(uids)),
        )
        self._jobs = [row for row in self._jobs_of_study(connection) if self._concerns(row)]

    def _is_named(self, study_instance_uid: str, sop_instance_uid: str) -> bool:
        """Whether the target names a refused copy, the series of which is not known."""
        target = self._target
        if target.level == "series" or study_instance_uid != target.study_instance_uid:
            return False
        return target.level == "study" or sop_instance_uid == target.sop_instance_uid

    @property
    def files(self) -> list[tuple[str, str]]:
        """(storage key, SOP Instance UID) of everything on disk."""
        rows: list[Any] = [*self._rows, *self._versions]
        return [(row.storage_key, row.sop_instance_uid) for row in rows]

    def extent(self, connection: Connection) -> Extent:
        here = set(self._uids)
        results = _in_parts(
            connection,
            [job.id for job in self._jobs],
            lambda ids: select(Result.__table__).where(Result.job_id.in_(ids)),
        )
        owed = _in_parts(
            connection,
            self._uids,
            lambda uids: select(Delivery.id).where(
                Delivery.sop_instance_uid.in_(uids), Delivery.state.in_(_STILL_TO_SEND)
            ),
        )
        return Extent(
            target=self._target,
            sop_instance_uids=tuple(self._uids),
            versions=len(self._versions),
            size=sum(row.size for row in self._rows) + sum(row.size for row in self._versions),
            quarantined=len(self.quarantined),
            jobs=tuple(job.id for job in self._jobs if job.state in (WAITING, RUNNING)),
            deliveries=len(owed),
            results_left=tuple(sorted({row.sop_instance_uid for row in results} - here)),
            predicted_by=tuple(sorted({job.model for job in self._jobs if job.state in (DONE, RUNNING)})),
        )

    def cancel(self, connection: Connection, at: float) -> None:
        """What waits for it, runs on it, or would send it."""
        # The jobs of a whole study go with their results, and run anew when it is sent again.
        states = (WAITING, RUNNING, DONE, FAILED) if self._target.level == "study" else (WAITING, RUNNING)
        for part in _parts([job.id for job in self._jobs if job.state in states]):
            connection.execute(
                update(Job)
                .where(Job.id.in_(part))
                .values(state=CANCELLED, error=INPUT_DELETED, ended_at=at, handed_over=False)
            )
        for part in _parts(self._uids):
            connection.execute(
                update(Delivery)
                .where(Delivery.sop_instance_uid.in_(part), Delivery.state.in_(_STILL_TO_SEND))
                .values(
                    state="failed",
                    last_error="the object was deleted from the archive",
                    next_attempt_at=null(),
                    updated_at=at,
                )
            )

    def take_out(self, connection: Connection, at: float) -> None:
        if self._rows:
            self._archive.index.remove_instances(connection, self._rows, at)
        for part in _parts(self._uids):
            connection.execute(delete(InstanceVersion).where(InstanceVersion.sop_instance_uid.in_(part)))

    def _instances(self, connection: Connection) -> list[InstanceRow]:
        target, index = self._target, self._archive.index
        if target.level != "instance":
            return index.instances(
                target.study_instance_uid,
                series_instance_uid=target.series_instance_uid or None,
                connection=connection,
            )
        row = index.instance(target.sop_instance_uid, connection)
        named = (target.study_instance_uid, target.series_instance_uid)
        is_it = row is not None and named in (
            (row.study_instance_uid, row.series_instance_uid),
            (row.study_instance_uid, ""),
        )
        return [row] if row is not None and is_it else []

    def _jobs_of_study(self, connection: Connection) -> list[Any]:
        return list(
            connection.execute(select(Job.__table__).where(Job.study_instance_uid == self._target.study_instance_uid))
        )

    def _concerns(self, job: Any) -> bool:
        return self._target.level == "study" or not set(self._uids).isdisjoint(job.spec.get("instances", ()))


def _in_parts(
    connection: Connection, values: Sequence[str], query: Callable[[Sequence[str]], Select[Any]]
) -> list[Any]:
    return [row for part in _parts(values) for row in connection.execute(query(part))]


def _parts(values: Sequence[str]) -> list[Sequence[str]]:
    return [values[start : start + _VALUES] for start in range(0, len(values), _VALUES)]
