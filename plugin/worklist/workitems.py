"""Workitems: created, found, changed, claimed, ended (PS3.4 CC.2.1 to CC.2.8).

Each operation is one transaction, and what it changes is reported in it. A workitem that asks for work of ours
(`orders`) becomes a job in the transaction in which its input is ready; from then on it is what the job is (`mirror`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import merge
from itertools import islice
from typing import Any

from pydicom.uid import UID, generate_uid
from sqlalchemy import Connection, Row, delete, exists, insert, or_, select, update

from dicom_io.errors import Rejected
from plugin.archive.index import Index
from plugin.archive.tables import Study
from plugin.jobs.planning import CANCELLED, DONE, FAILED, RUNNING, WAITING
from plugin.jobs.port import Jobs
from plugin.jobs.tables import Job
from plugin.registry import Registry
from plugin.settings import Settings
from plugin.worklist import orders, reports, rules, subscriptions
from plugin.worklist.elements import Attributes, element, elements, items, moment, tag, text
from plugin.worklist.matching import Condition, meets
from plugin.worklist.mirror import UNSPECIFIED, Mirror, job_of, uid_of
from plugin.worklist.rules import CANCELED, COMPLETED, FINAL, IN_PROGRESS, SCHEDULED
from plugin.worklist.subscriptions import WHOLE, Interest
from plugin.worklist.tables import Event, Workitem

# Status codes of PS3.4 tables CC.2.1-2 to CC.2.6-1, and PS3.7 C.
DUPLICATE, INVALID, MISSING = 0x0111, 0x0106, 0x0120
NO_LONGER_UPDATED, WRONG_TRANSACTION, ALREADY_CLAIMED = 0xC300, 0xC301, 0xC302
NOT_TO_SCHEDULED, NOT_FINISHED, UNKNOWN = 0xC303, 0xC304, 0xC307
NOT_CLAIMED, ALREADY_COMPLETED, NOBODY_LISTENS = 0xC310, 0xC311, 0xC312

KEPT_DAYS = 30
"""After it has ended a workitem that nobody locked is deleted when others are created."""
_EVENTS_KEPT_S = 86400.0
_FORGOTTEN_AT_ONCE = 100
_PAGE = 200


class Refusal(Rejected):
    """The request cannot be done. status: of PS3.4 CC or PS3.7 C."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Gone(Refusal):
    """There was such a workitem, and it was deleted."""


@dataclass(frozen=True)
class _Known:
    """A workitem as it is in the tables: with a row, as a job, or both."""

    uid: str
    row: Row[Any] | None
    job: Row[Any] | None

    @property
    def created_at(self) -> float:
        source = self.row if self.row is not None else self.job
        assert source is not None
        return float(source.created_at)

    @property
    def is_ours(self) -> bool:
        """Mirall performs it."""
        return self.row is None or self.row.state is None


class Worklist:
    """The worklist of one data folder. clock: seconds since 1970."""

    def __init__(self, index: Index, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        self._index = index
        self._registry = Registry(settings.models)
        self._destinations = tuple(settings.destinations)
        self._mirror = Mirror(settings.node.aet)
        self._jobs = Jobs(index, clock)
        self._clock = clock

    # Reading

    def get(self, uid: str) -> Attributes:
        """One workitem. Raises Refusal (UNKNOWN), Gone."""
        return self.get_with_age(uid)[0]

    def get_with_age(self, uid: str) -> tuple[Attributes, float]:
        """One workitem, and when it was created (seconds since 1970). Raises Refusal (UNKNOWN), Gone."""
        with self._index.read() as connection:
            known = self._known(uid, connection)
            return self._attributes(known, connection), known.created_at

    def search(
        self, conditions: Sequence[Condition], *, include: Collection[str] = (), limit: int, offset: int = 0
    ) -> list[Attributes]:
        """The workitems that meet all conditions, the newest first.

        include: 8-digit tags to return beyond the usual ones; "all" for every attribute.
        """
        with self._index.read() as connection:
            found = islice(self._matching(conditions, connection), offset, offset + limit)
            asked = {path[0] for path, _ in conditions} | set(include)
            return [_returned(attributes, asked) for attributes in found]

    def _matching(self, conditions: Sequence[Condition], connection: Connection) -> Iterator[Attributes]:
        known = merge(
            self._stored(conditions, connection),
            self._mirrored(conditions, connection),
            key=lambda one: -one.created_at,
        )
        for one in known:
            attributes = self._attributes(one, connection)
            if meets(attributes, conditions):
                yield attributes

    def _stored(self, conditions: Sequence[Condition], connection: Connection) -> Iterator[_Known]:
        narrowed: list[Any] = [Workitem.deleted_at.is_(None)]
        if states := _wanted(conditions, "ProcedureStepState"):
            narrowed.append(or_(Workitem.state.in_(states), Workitem.state.is_(None)))
        if uids := _wanted(conditions, "SOPInstanceUID"):
            narrowed.append(Workitem.uid.in_(uids))
        query = select(Workitem.__table__).where(*narrowed).order_by(Workitem.created_at.desc(), Workitem.uid)
        for row in _pages(query, connection):
            yield _Known(row.uid, row, self._job(row.job_id, connection) if row.state is None else None)

    def _mirrored(self, conditions: Sequence[Condition], connection: Connection) -> Iterator[_Known]:
        narrowed: list[Any] = [~exists().where(Workitem.job_id == Job.id)]
        if states := _wanted(conditions, "ProcedureStepState"):
            jobs = {IN_PROGRESS: (WAITING, RUNNING), COMPLETED: (DONE,), CANCELED: (FAILED, CANCELLED)}
            narrowed.append(Job.state.in_([name for state in states for name in jobs.get(state, ())]))
        if uids := _wanted(conditions, "SOPInstanceUID"):
            narrowed.append(Job.id.in_([job for uid in uids if (job := job_of(uid))]))
        if studies := _wanted(conditions, "StudyInstanceUID"):
            narrowed.append(Job.study_instance_uid.in_(studies))
        if patients := _wanted(conditions, "PatientID"):
            of_patient = select(Study.study_instance_uid).where(Study.patient_id.in_(patients))
            narrowed.append(Job.study_instance_uid.in_(of_patient))
        query = select(Job.__table__).where(*narrowed).order_by(Job.created_at.desc(), Job.id)
        for row in _pages(query, connection):
            yield _Known(uid_of(row.id), None, row)

    def _known(self, uid: str, connection: Connection) -> _Known:
        row = connection.execute(select(Workitem.__table__).where(Workitem.uid == uid)).one_or_none()
        if row is not None and row.deleted_at is not None:
            raise Gone(UNKNOWN, f"workitem {uid} was deleted {KEPT_DAYS} days after it had ended")
        if row is not None:
            return _Known(uid, row, self._job(row.job_id, connection) if row.state is None else None)
        job_id = job_of(uid)
        job = self._job(job_id, connection)
        taken = job is not None and connection.scalar(select(Workitem.uid).where(Workitem.job_id == job_id))
        if job is None or taken:
            raise Refusal(UNKNOWN, f"there is no workitem {uid}; search for what there is with GET /workitems")
        return _Known(uid, None, job)

    def _job(self, job_id: str | None, connection: Connection) -> Row[Any] | None:
        return connection.execute(select(Job.__table__).where(Job.id == job_id)).one_or_none()

    def _attributes(self, known: _Known, connection: Connection) -> Attributes:
        """All that there is to give of it, by tag; the Transaction UID is not (CC.2.7.3)."""
        if known.row is None:
            assert known.job is not None
            here = self._mirror.whole(known.job, connection)
        elif not known.is_ours:
            here = known.row.attributes | element("ProcedureStepState", known.row.state)
        elif known.job is not None:
            here = known.row.attributes | self._mirror.overlay(known.job, connection)
        else:
            here = known.row.attributes | element("ProcedureStepState", CANCELED)
            here |= _cancellation("its job was deleted", known.row.updated_at)
        return dict(sorted(here.items()))

    # Creating and changing

    def create(self, uid: str | None, attributes: Attributes) -> str:
        """A workitem in the state SCHEDULED (N-CREATE, CC.2.5); gives its UID, one of ours where none is given.

        Raises:
            Refusal: MISSING or INVALID attributes, DUPLICATE, or an order of ours that cannot be done.
        """
        wrong = rules.malformed(attributes)
        if wrong:
            raise Refusal(INVALID, wrong)
        uid = self._uid(uid, attributes)
        violations = rules.wrong_at_creation(attributes)
        if violations:
            raise Refusal(MISSING, f"the workitem cannot be created: {'; '.join(violations)} (PS3.4 table CC.2.5-3)")
        now = self._clock()
        kept = {name: one for name, one in attributes.items() if name not in _NOT_KEPT and not name.startswith("0000")}
        kept |= elements(
            SOPClassUID=rules.UPS_PUSH,
            SOPInstanceUID=uid,
            ScheduledProcedureStepModificationDateTime=moment(now),
            WorklistLabel=text(attributes, "WorklistLabel") or "MIRALL",
        )
        with self._index.write() as connection:
            taken = connection.scalar(select(Workitem.uid).where(Workitem.uid == uid))
            if taken or self._job(job_of(uid), connection) is not None:
                raise Refusal(DUPLICATE, f"there is a workitem {uid} already; create another under its own UID")
            connection.execute(
                insert(Workitem).values(
                    uid=uid, state=SCHEDULED, attributes=dict(sorted(kept.items())), created_at=now, updated_at=now
                )
            )
            reports.state_report(uid, kept | element("ProcedureStepState", SCHEDULED)).note(connection, now)
            if items(kept, "ScheduledStationNameCodeSequence") or items(kept, "ScheduledHumanPerformersSequence"):
                reports.assigned(uid, kept).note(connection, now)
            self._claim(uid, kept, connection)
            self._forget(connection, now)
        return uid

    def _uid(self, uid: str | None, attributes: Attributes) -> str:
        named = {each for each in (uid, text(attributes, "SOPInstanceUID"), _affected(attributes)) if each}
        if len(named) > 1:
            raise Refusal(INVALID, f"the workitem has several UIDs ({', '.join(sorted(named))}); give it one")
        found = named.pop() if named else str(generate_uid(prefix=None))
        if not UID(found).is_valid or found in WHOLE:
            raise Refusal(INVALID, f"{found[:80]!r} is no UID for a workitem (digits and dots, at most 64 characters)")
        return found

    def _claim(self, uid: str, attributes: Attributes, connection: Connection) -> None:
        """Make it a job, where it asks for work of ours and its input is ready. Raises Refusal where that cannot be."""
        if not orders.is_ours(attributes):
            return
        try:
            # Also before the input is ready, so that a bad one is refused while its author listens.
            order = orders.order_of(attributes, self._registry, self._destinations)
            if text(attributes, "InputReadinessState") != "READY":
                return
            job = order.enqueue(self._jobs, connection)
        except Refusal:
            raise
        except Rejected as error:
            raise Refusal(INVALID, str(error)) from error
        connection.execute(
            update(Workitem)
            .where(Workitem.uid == uid)
            .values(state=None, job_id=job, transaction_uid=str(generate_uid(prefix=None)))
        )

    def update(self, uid: str, changes: Attributes, transaction_uid: str = "") -> None:
        """Attributes in place of those that were there (N-SET, CC.2.6).

        Raises:
            Refusal: UNKNOWN, NO_LONGER_UPDATED, WRONG_TRANSACTION, NOT_CLAIMED, INVALID.
        """
        wrong = rules.malformed(changes)
        if wrong:
            raise Refusal(INVALID, wrong)
        given = transaction_uid or text(changes, "TransactionUID")
        changes = {name: one for name, one in changes.items() if name not in _NOT_KEPT}
        violations = rules.wrong_in_update(changes)
        if violations:
            raise Refusal(INVALID, f"the workitem cannot be changed: {'; '.join(violations)} (PS3.4 table CC.2.5-3)")
        now = self._clock()
        with self._index.write() as connection:
            known = self._known(uid, connection)
            before = self._attributes(known, connection)
            state = text(before, "ProcedureStepState")
            if state in FINAL:
                raise Refusal(NO_LONGER_UPDATED, f"workitem {uid} is {state} and cannot be changed any more")
            if known.is_ours:
                raise _performed_by_us(uid)
            assert known.row is not None
            if state == SCHEDULED and given:
                raise Refusal(
                    NOT_CLAIMED, f"workitem {uid} is SCHEDULED; claim it first, or leave the Transaction UID out"
                )
            if state == IN_PROGRESS:
                _check_transaction(known.row, given)
            modified = element("ScheduledProcedureStepModificationDateTime", moment(now))
            after = dict(sorted((known.row.attributes | changes | modified).items()))
            connection.execute(update(Workitem).where(Workitem.uid == uid).values(attributes=after, updated_at=now))
            self._report_changes(uid, before, after | element("ProcedureStepState", state), connection, now)
            if state == SCHEDULED:
                self._claim(uid, after, connection)

    def _report_changes(
        self, uid: str, before: Attributes, after: Attributes, connection: Connection, now: float
    ) -> None:
        def differs(*keywords: str) -> bool:
            return any(before.get(tag(keyword)) != after.get(tag(keyword)) for keyword in keywords)

        if differs("InputReadinessState"):
            reports.state_report(uid, after).note(connection, now)
        if differs("ProcedureStepProgressInformationSequence"):
            reports.progress_report(uid, after).note(connection, now)
        if differs("ScheduledStationNameCodeSequence", "ScheduledHumanPerformersSequence"):
            reports.assigned(uid, after).note(connection, now)

    def change_state(self, uid: str, wanted: str, transaction_uid: str) -> str:
        """Claim, complete or cancel (N-ACTION Change UPS State, CC.2.1 and table CC.1.1-2).

        Gives "" or, where it is in the wanted final state already, that state.

        Raises:
            Refusal: UNKNOWN, WRONG_TRANSACTION, ALREADY_CLAIMED, NOT_CLAIMED, NOT_TO_SCHEDULED, NO_LONGER_UPDATED,
                NOT_FINISHED, INVALID.
        """
        now = self._clock()
        with self._index.write() as connection:
            known = self._known(uid, connection)
            if wanted == SCHEDULED:
                raise Refusal(
                    NOT_TO_SCHEDULED, f"workitem {uid} cannot be made SCHEDULED; cancel it and create another"
                )
            if wanted not in (IN_PROGRESS, COMPLETED, CANCELED):
                raise Refusal(
                    INVALID, f"{wanted!r} is no state of a workitem; ask for {IN_PROGRESS}, {COMPLETED} or {CANCELED}"
                )
            if not transaction_uid:
                raise Refusal(WRONG_TRANSACTION, "the request has no Transaction UID (0008,1195); add it")
            if known.is_ours:
                raise _performed_by_us(uid)
            assert known.row is not None
            state = known.row.state
            if state != SCHEDULED:
                _check_transaction(known.row, transaction_uid)
            if state in FINAL and wanted == state:
                return wanted
            self._check_transition(uid, state, wanted, transaction_uid)
            after = known.row.attributes
            if wanted == CANCELED:
                after = _with_cancellation_time(after, now)
            if wanted in FINAL:
                lacking = rules.missing_at_end(after | element("ProcedureStepState", wanted), wanted)
                if lacking:
                    raise Refusal(
                        NOT_FINISHED,
                        f"workitem {uid} cannot be {wanted} yet: update it first with {', '.join(lacking)}",
                    )
            self._enter(uid, wanted, transaction_uid, after, connection, now)
        return ""

    def _check_transition(self, uid: str, state: str, wanted: str, transaction_uid: str) -> None:
        if state in FINAL:
            raise Refusal(NO_LONGER_UPDATED, f"workitem {uid} is {state} and stays so")
        if state == SCHEDULED and wanted != IN_PROGRESS:
            raise Refusal(NOT_CLAIMED, f"workitem {uid} is SCHEDULED; claim it as {IN_PROGRESS} before it is {wanted}")
        if state == IN_PROGRESS and wanted == IN_PROGRESS:
            raise Refusal(ALREADY_CLAIMED, f"workitem {uid} is {IN_PROGRESS} already")
        if not UID(transaction_uid).is_valid:
            raise Refusal(INVALID, "the Transaction UID (0008,1195) is no UID; make a valid one")

    def _enter(
        self, uid: str, state: str, transaction_uid: str, attributes: Attributes, connection: Connection, now: float
    ) -> None:
        """A new state, and its report."""
        connection.execute(
            update(Workitem)
            .where(Workitem.uid == uid)
            .values(
                state=state,
                transaction_uid=transaction_uid,
                attributes=attributes,
                updated_at=now,
                ended_at=now if state in FINAL else None,
            )
        )
        reports.state_report(uid, attributes | element("ProcedureStepState", state)).note(connection, now)

    def request_cancel(self, uid: str, reasons: Attributes, requester: str) -> str:
        """Ask that it be canceled (N-ACTION Request UPS Cancel, CC.2.2).

        What nobody has claimed is canceled at once, a job of ours is stopped, others are told. Gives "" or, where it is
        canceled already, that state.

        Raises:
            Refusal: UNKNOWN, ALREADY_COMPLETED, NOBODY_LISTENS, INVALID.
        """
        wrong = rules.malformed(reasons)
        if wrong:
            raise Refusal(INVALID, wrong)
        now = self._clock()
        with self._index.write() as connection:
            known = self._known(uid, connection)
            attributes = self._attributes(known, connection)
            state = text(attributes, "ProcedureStepState")
            if state == CANCELED:
                return CANCELED
            if state == COMPLETED:
                raise Refusal(ALREADY_COMPLETED, f"workitem {uid} is COMPLETED; there is nothing left to cancel")
            if state == SCHEDULED:
                self._cancel_unclaimed(uid, known, reasons, connection, now)
                return ""
            if not known.is_ours:
                self._tell_performer(known, attributes, reasons, requester, connection, now)
                return ""
        assert known.job is not None
        self._stop(uid, known.job.id)
        return ""

    def _stop(self, uid: str, job_id: str) -> None:
        try:
            self._jobs.cancel(job_id)
        except Rejected as error:
            raise Refusal(ALREADY_COMPLETED, f"workitem {uid} ended before it could be canceled") from error

    def _cancel_unclaimed(
        self, uid: str, known: _Known, reasons: Attributes, connection: Connection, now: float
    ) -> None:
        """First IN PROGRESS, then CANCELED (CC.2.2.3)."""
        assert known.row is not None
        why = text(reasons, "ReasonForCancellation") or "canceled on request before it was begun"
        coded = items(reasons, "ProcedureStepDiscontinuationReasonCodeSequence") or [UNSPECIFIED]
        transaction = str(generate_uid(prefix=None))
        self._enter(uid, IN_PROGRESS, transaction, known.row.attributes, connection, now)
        after = known.row.attributes | _cancellation(why, now, coded)
        self._enter(uid, CANCELED, transaction, after, connection, now)

    def _tell_performer(
        self,
        known: _Known,
        attributes: Attributes,
        reasons: Attributes,
        requester: str,
        connection: Connection,
        now: float,
    ) -> None:
        listens = any(
            each.covers(known.uid, attributes, known.created_at) for each in subscriptions.interests(connection)
        )
        if not listens:
            raise Refusal(
                NOBODY_LISTENS,
                f"nobody has subscribed to workitem {known.uid}, so its performer cannot be told; speak to them",
            )
        reports.cancel_requested(known.uid, requester, reasons).note(connection, now)

    # Subscriptions

    def subscribe(
        self, aetitle: str, target: str, *, deletion_lock: bool = False, conditions: Sequence[Condition] = ()
    ) -> None:
        """Tell an application of one workitem, or of the worklist (CC.2.3); it is told at once how things stand.

        conditions: of a subscription to the filtered worklist. Raises Refusal (UNKNOWN), Gone.
        """
        now = self._clock()
        with self._index.write() as connection:
            if target in WHOLE:
                states = [
                    each for state in (SCHEDULED, IN_PROGRESS) for each in self._of_state(state, conditions, connection)
                ]
            else:
                states = [self._attributes(self._known(target, connection), connection)]
            subscriptions.subscribe(
                connection, aetitle, target, deletion_lock=deletion_lock, conditions=conditions, now=now
            )
            for attributes in states:
                uid = text(attributes, "SOPInstanceUID")
                reports.state_report(uid, attributes, receiver=aetitle).note(connection, now)

    def _of_state(self, state: str, conditions: Sequence[Condition], connection: Connection) -> Iterator[Attributes]:
        return self._matching([*conditions, ((tag("ProcedureStepState"),), state)], connection)

    def unsubscribe(self, aetitle: str, target: str) -> None:
        """Tell it no more. Raises Refusal (UNKNOWN) where it was not told."""
        with self._index.write() as connection:
            covered = target not in WHOLE and self._covered(aetitle, target, connection)
            if not subscriptions.unsubscribe(connection, aetitle, target, covered=covered, now=self._clock()):
                raise Refusal(UNKNOWN, f"{aetitle} has no subscription to {target}")

    def _covered(self, aetitle: str, uid: str, connection: Connection) -> bool:
        """A subscription to the whole worklist has it in it."""
        mine = subscriptions.interest_of(connection, aetitle)
        whole = Interest([row for row in mine.rows if row.target in WHOLE or row.excluded])
        if not whole.rows:
            return False
        known = self._known(uid, connection)
        return whole.covers(uid, self._attributes(known, connection), known.created_at)

    def suspend(self, aetitle: str, target: str) -> None:
        """Workitems to come are no part of its subscription to the worklist. Raises Refusal (UNKNOWN)."""
        with self._index.write() as connection:
            if not subscriptions.suspend(connection, aetitle, target, now=self._clock()):
                raise Refusal(UNKNOWN, f"{aetitle} has no subscription to {target} that could be suspended")

    # Forgetting

    def _forget(self, connection: Connection, now: float) -> None:
        """Delete what ended long ago and nobody locked; of events what every open channel has seen."""
        connection.execute(delete(Event).where(Event.at < now - _EVENTS_KEPT_S))
        ended = select(Workitem.__table__).where(
            Workitem.ended_at < now - KEPT_DAYS * 86400.0, Workitem.deleted_at.is_(None)
        )
        everybody = subscriptions.interests(connection)
        for row in connection.execute(ended.limit(_FORGOTTEN_AT_ONCE)).all():
            if not any(each.locks(row.uid, row.attributes, row.created_at) for each in everybody):
                connection.execute(
                    update(Workitem).where(Workitem.uid == row.uid).values(attributes={}, deleted_at=now)
                )


# Not part of what is kept of a data set: it is kept beside it, or never.
_NOT_KEPT = frozenset({"00081195", "00741000"})


def _pages(query: Any, connection: Connection) -> Iterator[Row[Any]]:
    """The rows of a statement, a few at a time: who reads on pays, who stops early does not."""
    start = 0
    while page := connection.execute(query.limit(_PAGE).offset(start)).all():
        yield from page
        start += len(page)


def _wanted(conditions: Sequence[Condition], keyword: str) -> list[str]:
    """The values that a condition on one attribute allows, where these are plain ones; [] where it may be any."""
    for path, wanted in conditions:
        if path == (tag(keyword),) and wanted.strip() and not set("*?") & set(wanted):
            separator = "," if "," in wanted else "\\"
            return [part.strip() for part in wanted.split(separator)] if keyword != "PatientID" else [wanted.strip()]
    return []


def _returned(attributes: Attributes, asked: Collection[str]) -> Attributes:
    """What of a workitem a search gives."""
    if "all" in asked:
        return attributes
    usual = rules.RETURNED | {name for name in rules.RETURNED_IF_SET if attributes.get(name, {}).get("Value")}
    return {name: one for name, one in attributes.items() if name in usual or name in asked}


def _affected(attributes: Attributes) -> str:
    """Affected SOP Instance UID (0000,1000), where a client puts the command's element into the data set."""
    values: Sequence[Any] = attributes.get("00001000", {}).get("Value") or [""]
    return str(values[0])


def _cancellation(reason: str, at: float, coded: Sequence[Mapping[str, Any]] = (UNSPECIFIED,)) -> Attributes:
    progress = elements(
        ProcedureStepCancellationDateTime=moment(at),
        ReasonForCancellation=reason,
        ProcedureStepDiscontinuationReasonCodeSequence=list(coded),
    )
    return element("ProcedureStepProgressInformationSequence", progress)


def _with_cancellation_time(attributes: Attributes, now: float) -> Attributes:
    """The performer need not say when it gave up (remark in table CC.2.5-3)."""
    found = items(attributes, "ProcedureStepProgressInformationSequence")
    progress = dict(found[0]) if found else {}
    if not text(progress, "ProcedureStepCancellationDateTime"):
        progress |= element("ProcedureStepCancellationDateTime", moment(now))
    return attributes | element("ProcedureStepProgressInformationSequence", progress)


def _check_transaction(row: Row[Any], given: str) -> None:
    if given != row.transaction_uid:
        what = "is not the one that it was claimed with" if given else "is missing"
        raise Refusal(WRONG_TRANSACTION, f"workitem {row.uid} is claimed, and the Transaction UID (0008,1195) {what}")


def _performed_by_us(uid: str) -> Refusal:
    return Refusal(
        WRONG_TRANSACTION,
        f"workitem {uid} is performed by Mirall, which alone may change it; POST to its cancelrequest to stop it",
    )
