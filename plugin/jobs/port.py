"""What doors, pages and commands may do with jobs and the outbox. The engine behind it is not imported here.

Everything is a row in the index's database. The worker, when it runs, sees new and changed rows within a second;
when it does not run, nothing is lost, and nothing needs it to be asked.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, func, insert, null, select, update

from dicom_io.errors import Rejected
from plugin.archive.index import NO_INPUT, Index, hash_of_input
from plugin.archive.tables import Study
from plugin.jobs.planning import CANCELLED, DONE, FAILED, RUNNING, WAITING, new_job
from plugin.jobs.tables import Delivery, Job, OwedReport, Result
from plugin.settings import Route

STATES = (WAITING, RUNNING, DONE, FAILED, CANCELLED)
RETRIED = ("failed", "unknown", "held")
"""States of deliveries that are sent again together."""


@dataclass(frozen=True)
class JobResult:
    """An object that a job made, and a few words on what was found."""

    sop_instance_uid: str
    finding: str


@dataclass(frozen=True)
class JobView:
    """A job as people see it. Times are seconds since 1970 (UTC).

    error: a sentence, also while it waits for another attempt. incomplete: the study still grew when it was planned.
    superseded_by: id of the job on a later state of the study. results: what it made.
    deliveries: number of results times destinations by state of delivery; empty where nothing is to be sent.
    delivery: the same in words, the worst first, such as "1 of 4 failed, 3 committed". A job that is done has made its
        results; whether they have arrived is told here, never by its state.
    """

    id: str
    kind: str
    state: str
    study_instance_uid: str | None
    route: str
    model: str
    attempts: int
    progress: Mapping[str, Any]
    error: str
    incomplete: bool
    superseded_by: str | None
    results: tuple[JobResult, ...]
    deliveries: Mapping[str, int]
    delivery: str
    created_at: float
    started_at: float | None
    ended_at: float | None
    not_before: float | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class DeliveryView:
    """One instance owed to one destination; `plugin.jobs.delivery` says what the states mean."""

    id: int
    state: str
    destination: str
    sop_instance_uid: str
    study_instance_uid: str
    job_id: str | None
    attempts: int
    next_attempt_at: float | None
    last_error: str
    created_at: float
    updated_at: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class ReportView:
    """A storage commitment that a peer asked us for. state: owed, held, reported or given up; instances: how many."""

    id: int
    transaction_uid: str
    peer: str
    instances: int
    state: str
    attempts: int
    next_attempt_at: float | None
    last_error: str
    asked_at: float
    updated_at: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class NoSuchJob(Rejected):
    """No job, delivery or study has this id."""


class Jobs:
    """Jobs and deliveries of one data folder. clock: seconds since 1970."""

    def __init__(self, index: Index, clock: Callable[[], float] = time.time) -> None:
        self._index = index
        self._clock = clock

    # New work

    def enqueue_generation(
        self,
        model: str,
        *,
        n: int,
        seed: int = 0,
        label: str | None = None,
        truncation: float | None = None,
        guidance: float | None = None,
        send_to: Sequence[str] = (),
        connection: Connection | None = None,
    ) -> str:
        """Ask for `n` synthetic samples of a model version; gives the job's id. Each call is a job of its own.

        truncation, guidance: see `models.generator.Generator`. connection: of a transaction that the job is to be part
        of.
        """
        spec: dict[str, Any] = {"n": n, "seed": seed, "label": label, "send_to": list(send_to)}
        settings = {"truncation": truncation, "guidance": guidance}
        given = {name: value for name, value in settings.items() if value is not None}
        spec |= {"settings": given} if given else {}
        return self._enqueue(connection, kind="generate", model=model, spec=spec)

    def enqueue_prediction(
        self,
        study_instance_uid: str,
        model: str,
        *,
        series: Sequence[str] = (),
        force: bool = False,
        send_to: Sequence[str] = (),
        connection: Connection | None = None,
    ) -> str:
        """Ask for a model version to be run on a study, or on some of its series; gives the job's id.

        What we made ourselves is input only where its series is named. Each call is a job of its own.

        Raises:
            NoSuchJob: nothing that may be input is in the archive.
        """
        rows = self._index.instances(study_instance_uid, include_ours=bool(series), connection=connection)
        picked = [row for row in rows if not series or row.series_instance_uid in series]
        missing = set(series) - {row.series_instance_uid for row in picked}
        if missing or not picked:
            what = f"series {min(missing)} of study {study_instance_uid}" if missing else f"study {study_instance_uid}"
            raise NoSuchJob(f"{what} is not in the archive; send it first")
        input_hash = NO_INPUT
        for row in picked:
            input_hash = hash_of_input(input_hash, add=(row.sop_instance_uid, row.dataset_hash))
        spec = {"instances": [row.sop_instance_uid for row in picked], "force": force, "send_to": list(send_to)}
        return self._enqueue(
            connection,
            kind="predict",
            model=model,
            spec=spec,
            study_instance_uid=study_instance_uid,
            input_hash=input_hash,
        )

    def _enqueue(self, connection: Connection | None, **columns: Any) -> str:
        """A job that no route asked for."""
        identifier = uuid.uuid4().hex[:16]
        with self._index.write() if connection is None else nullcontext(connection) as writing:
            writing.execute(insert(Job).values(new_job(self._clock(), id=identifier, route="", **columns)))
        return identifier

    def study_complete(self, study_instance_uid: str) -> None:
        """Somebody says that all of the study has come; it is planned within about a second, under today's routes.

        A study that was planned before is planned again: a route that came later sees it, and jobs that are there
        already stay the same ones.

        Raises:
            NoSuchJob: no such study has arrived.
        """
        with self._index.write() as connection:
            if self._index.study(study_instance_uid, connection) is None:
                raise NoSuchJob(f"study {study_instance_uid} is not in the archive; send it first")
            self._index.mark_told_complete(connection, study_instance_uid, self._clock())
            connection.execute(
                update(Study).where(Study.study_instance_uid == study_instance_uid).values(planned_hash=null())
            )

    # Jobs

    def list(
        self, *, state: str | None = None, study_instance_uid: str | None = None, limit: int = 100
    ) -> Sequence[JobView]:
        """The newest first."""
        query = select(Job.__table__).order_by(Job.created_at.desc(), Job.id).limit(limit)
        if state is not None:
            query = query.where(Job.state == state)
        if study_instance_uid is not None:
            query = query.where(Job.study_instance_uid == study_instance_uid)
        return self._views(query)

    def _views(self, query: Select[Any]) -> Sequence[JobView]:
        with self._index.read() as connection:
            rows = list(connection.execute(query))
            ids = [row.id for row in rows]
            results = list(
                connection.execute(
                    select(Result.__table__).where(Result.job_id.in_(ids)).order_by(Result.sop_instance_uid)
                )
            )
            # Over the results, not over outbox.job_id: an object that two jobs made is owed once, and to both.
            deliveries = list(
                connection.execute(
                    select(Result.job_id, Delivery.state, func.count())
                    .join(Delivery, Delivery.sop_instance_uid == Result.sop_instance_uid)
                    .where(Result.job_id.in_(ids))
                    .group_by(Result.job_id, Delivery.state)
                )
            )
        made: dict[str, list[JobResult]] = {}
        for each in results:
            made.setdefault(each.job_id, []).append(JobResult(each.sop_instance_uid, each.finding))
        sent: dict[str, dict[str, int]] = {}
        for job, state, count in deliveries:
            sent.setdefault(job, {})[state] = count
        return [_view(row, tuple(made.get(row.id, ())), sent.get(row.id, {})) for row in rows]

    def get(self, job_id: str) -> JobView:
        """One job, by its id or the beginning of it.

        Raises:
            NoSuchJob: none, or several jobs begin with this.
        """
        found = self._views(select(Job.__table__).where(Job.id.startswith(job_id, autoescape=True)).limit(2))
        if len(found) != 1 or not job_id:
            what = "several jobs begin" if found else "no job begins"
            raise NoSuchJob(f"{what} with {job_id!r}; `mirall jobs list` shows the ids")
        return found[0]

    def progress(self, job_id: str) -> Mapping[str, Any]:
        """What the running job said last, such as {"stage": "predict", "done": 12, "of": 40}."""
        return self.get(job_id).progress

    def cancel(self, job_id: str) -> JobView:
        """Stop a job that waits or runs; its child process dies within about two seconds.

        Raises:
            Rejected: it has ended already.
        """
        job = self.get(job_id)
        with self._index.write() as connection:
            changed = connection.execute(
                update(Job)
                .where(Job.id == job.id, Job.state.in_((WAITING, RUNNING)))
                .values(state=CANCELLED, error="cancelled on request", ended_at=self._clock(), handed_over=False)
            )
        if not changed.rowcount:
            raise Rejected(f"job {job.id} is {self.get(job.id).state} and cannot be cancelled any more")
        return self.get(job.id)

    def retry(self, job_id: str, routes: Sequence[Route] = ()) -> JobView:
        """Run a failed or cancelled job again, on the same input and with the same result UIDs.

        routes: as configured now. A job of one of them takes its present `force` and `send_to`; one whose route is gone
        keeps those that it was planned with.

        Raises:
            Rejected: it waits, runs or is done, or a later job took its place.
        """
        job = self.get(job_id)
        now = {route.name: {"force": route.force, "send_to": list(route.send_to)} for route in routes}
        with self._index.write() as connection:
            row = connection.execute(
                update(Job)
                .where(Job.id == job.id, Job.state.in_((FAILED, CANCELLED)), Job.superseded_by.is_(None))
                .values(next_run(error="", attempts=0, not_before=null(), ended_at=null()))
                .returning(Job.spec)
            ).first()
            if row is not None and job.route in now:
                connection.execute(update(Job).where(Job.id == job.id).values(spec=row.spec | now[job.route]))
        if row is None:
            newer = self.get(job.id).superseded_by
            if newer is not None:
                raise Rejected(
                    f"job {job.id} works on an earlier state of the study, and job {newer} took its place; "
                    f"see `mirall jobs show {newer}`"
                )
            raise Rejected(f"job {job.id} is {self.get(job.id).state}; only a failed or cancelled one is run again")
        return self.get(job.id)

    # The outbox

    def reports(self, *, limit: int = 100) -> Sequence[ReportView]:
        """Storage commitment that peers asked us for, the newest first."""
        query = select(OwedReport.__table__).order_by(OwedReport.id.desc()).limit(limit)
        with self._index.read() as connection:
            rows = list(connection.execute(query))
        return [
            ReportView(
                **{name: row._mapping[name] for name in ReportView.__dataclass_fields__ if name != "instances"},
                instances=len(row.asked_for),
            )
            for row in rows
        ]

    def deliveries(
        self, *, state: str | None = None, destination: str | None = None, limit: int = 100
    ) -> Sequence[DeliveryView]:
        """The newest first."""
        query = select(Delivery.__table__).order_by(Delivery.id.desc()).limit(limit)
        if state is not None:
            query = query.where(Delivery.state == state)
        if destination is not None:
            query = query.where(Delivery.destination == destination)
        with self._index.read() as connection:
            return [_delivery(row) for row in connection.execute(query)]

    def delivery_counts(self) -> dict[str, int]:
        """How many rows of the outbox have each state."""
        with self._index.read() as connection:
            query = select(Delivery.state, func.count()).group_by(Delivery.state)
            return {row[0]: row[1] for row in connection.execute(query)}

    def delivery(self, delivery_id: int) -> DeliveryView:
        """One row of the outbox.

        Raises:
            NoSuchJob: there is none with this number.
        """
        with self._index.read() as connection:
            row = connection.execute(select(Delivery.__table__).where(Delivery.id == delivery_id)).first()
        if row is None:
            raise NoSuchJob(f"the outbox has no row {delivery_id}; `mirall outbox list` shows the numbers")
        return _delivery(row)

    def retry_delivery(self, delivery_id: int) -> DeliveryView:
        """Send again, now; the destination sees the same object under the same UID."""
        self.delivery(delivery_id)
        self._retry(Delivery.id == delivery_id)
        return self.delivery(delivery_id)

    def retry_deliveries(self, *, state: str = "failed", destination: str | None = None) -> int:
        """Send all again, now, that have this state (and go to this destination); gives how many.

        Raises:
            Rejected: the state is one in which nothing went wrong.
        """
        if state not in RETRIED:
            raise Rejected(f"rows that are {state} are not sent again together; give one of {', '.join(RETRIED)}")
        conditions = [Delivery.state == state]
        if destination is not None:
            conditions.append(Delivery.destination == destination)
        return self._retry(*conditions)

    def _retry(self, *conditions: ColumnElement[bool]) -> int:
        now = self._clock()
        fresh = {"state": "queued", "attempts": 0, "checks": 0, "last_error": "", "commitment": ""}
        with self._index.write() as connection:
            changed = connection.execute(
                update(Delivery)
                .where(*conditions)
                .values(**fresh, transaction_uid=null(), next_attempt_at=now, updated_at=now)
            )
        return changed.rowcount

    def cancel_delivery(self, delivery_id: int) -> DeliveryView:
        """Do not send what is still to be sent; it counts as failed and can be sent with a retry.

        Raises:
            Rejected: it has been sent already.
        """
        with self._index.write() as connection:
            changed = connection.execute(
                update(Delivery)
                .where(Delivery.id == delivery_id, Delivery.state.in_(("queued", "held", "unknown")))
                .values(
                    state="failed",
                    last_error="cancelled on request",
                    next_attempt_at=null(),
                    commitment="",
                    transaction_uid=null(),
                    updated_at=self._clock(),
                )
            )
        row = self.delivery(delivery_id)
        if not changed.rowcount:
            raise Rejected(f"row {delivery_id} of the outbox is {row.state}; there is nothing left to cancel")
        return row


def next_run(**columns: Any) -> dict[str, Any]:
    """The columns that make a job wait for a run that the engine has not seen."""
    return {"state": WAITING, "run": Job.run + 1, "handed_over": False, "progress": null()} | columns


def _view(row: Row[Any], results: tuple[JobResult, ...], deliveries: Mapping[str, int]) -> JobView:
    fields = {name: row._mapping[name] for name in JobView.__dataclass_fields__ if name in row._mapping}
    said = {"progress": row.progress or {}, "results": results, "deliveries": deliveries, "delivery": told(deliveries)}
    return JobView(**fields | said)


# What a person must see first stands first.
_WORST_FIRST = ("failed", "unknown", "held", "queued", "sent", "delivered", "committed")


def told(deliveries: Mapping[str, int]) -> str:
    """Numbers of deliveries by state in words, the worst first; "" where nothing is owed."""
    total = sum(deliveries.values())
    states = sorted(deliveries, key=_WORST_FIRST.index)
    if len(states) == 1:
        return f"all {total} {states[0]}" if total > 1 else f"1 {states[0]}"
    return ", ".join(f"{deliveries[state]} of {total} {state}" for state in states)


def _delivery(row: Row[Any]) -> DeliveryView:
    return DeliveryView(**{name: row._mapping[name] for name in DeliveryView.__dataclass_fields__})
