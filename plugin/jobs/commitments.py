"""What of storage commitment (PS3.4 J) must outlive a kill: what peers asked of us, and what we asked of destinations.

Asked of us: the request stands in the database before its N-ACTION is answered, and is owed a report until a peer took
one, or it is given up. What is there is looked up when the report goes out, in the index and on disk.

Asked by us: the Transaction UID stands in the database, and in the rows of the outbox that it is about, before the
request leaves, so that a report finds them in whichever process it arrives, at once or after a day.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydicom.uid import generate_uid
from sqlalchemy import ColumnElement, Row, insert, null, select, update

from plugin.archive.index import Index
from plugin.jobs.patience import Patience
from plugin.jobs.tables import Commitment, Delivery, OwedReport

log = logging.getLogger(__name__)

# Failure Reason (0008,1197), PS3.3 C.14
PROCESSING_FAILURE = 0x0110
NO_SUCH_INSTANCE = 0x0112
CLASS_CONFLICT = 0x0119
RESOURCE_LIMITATION = 0x0213
_REASONS = {
    PROCESSING_FAILURE: "processing failure",
    NO_SUCH_INSTANCE: "no such object instance",
    CLASS_CONFLICT: "the instance has another SOP class there",
    0x0122: "it does not support the SOP class",
    0x0131: "duplicate Transaction UID",
    RESOURCE_LIMITATION: "resource limitation",
}

SAME_ASSOCIATION_S = 10.0  # how long a report is left to the association that asked for it
OWED, HELD, REPORTED, GIVEN_UP = "owed", "held", "reported", "given up"
OPENED, ASKED, OVERDUE, VOID = "opened", "asked", "overdue", "void"


@dataclass(frozen=True)
class Reference:
    """An instance by its SOP Class UID (0008,1150) and SOP Instance UID (0008,1155)."""

    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True)
class Report:
    """What an N-EVENT-REPORT says: event 1 where nothing failed, else 2 (PS3.4 J.3.3). failed: with its reason."""

    transaction_uid: str
    committed: tuple[Reference, ...]
    failed: tuple[tuple[Reference, int], ...] = ()

    @property
    def event(self) -> int:
        return 2 if self.failed else 1


@dataclass(frozen=True)
class Owed:
    """A report that is due. peer: AE title of who asked."""

    id: int
    peer: str
    attempts: int
    report: Report


class Requests:
    """What peers asked of us. clock: seconds since 1970."""

    def __init__(self, index: Index, clock: Callable[[], float] = time.time) -> None:
        self._index = index
        self._clock = clock

    def accept(self, peer: str, transaction_uid: str, asked_for: Sequence[Reference]) -> int | None:
        """Store a request; gives its number, None where this peer's Transaction UID stands for another request.

        The same request once more (its answer was lost) is the same number, and is owed its report again. It is due
        for an association of ours after 10 s: until then the one that asked may carry it.

        Raises:
            NoSpace: it cannot be stored.
        """
        now = self._clock()
        pairs = [[each.sop_class_uid, each.sop_instance_uid] for each in asked_for]
        fresh = {"state": OWED, "attempts": 0, "next_attempt_at": now + SAME_ASSOCIATION_S, "updated_at": now}
        with self._index.write() as connection:
            known = connection.execute(
                select(OwedReport.id, OwedReport.asked_for).where(
                    OwedReport.peer == peer, OwedReport.transaction_uid == transaction_uid
                )
            ).first()
            if known is None:
                values = {"transaction_uid": transaction_uid, "peer": peer, "asked_for": pairs, "asked_at": now}
                return connection.execute(
                    insert(OwedReport).values(**values, **fresh, last_error="").returning(OwedReport.id)
                ).scalar_one()
            if known.asked_for != pairs:
                return None
            connection.execute(update(OwedReport).where(OwedReport.id == known.id).values(**fresh))
            return int(known.id)

    def take(self, number: int, for_s: float) -> Owed | None:
        """The report of a request as things are now, which nobody else sends for so long; None where it was taken."""
        with self._index.write() as connection:
            row = connection.execute(
                update(OwedReport)
                .where(OwedReport.id == number, OwedReport.state == OWED)
                .values(next_attempt_at=self._clock() + for_s)
                .returning(OwedReport.__table__)
            ).first()
        return None if row is None else self._owed(row)

    def due(self, limit: int = 20, *, but: Collection[str] = ()) -> list[Owed]:
        """Reports whose time has come, the longest waiting first. but: peers (AE titles) whose are left out."""
        query = (
            select(OwedReport.__table__)
            .where(OwedReport.state == OWED, OwedReport.next_attempt_at <= self._clock(), OwedReport.peer.not_in(but))
            .order_by(OwedReport.next_attempt_at)
            .limit(limit)
        )
        with self._index.read() as connection:
            rows = list(connection.execute(query))
        return [self._owed(row) for row in rows]

    def _owed(self, row: Row[Any]) -> Owed:
        asked_for = [Reference(*pair) for pair in row.asked_for]
        return Owed(row.id, row.peer, row.attempts, look_up(self._index, row.transaction_uid, asked_for))

    def reported(self, number: int) -> None:
        """The peer took the report."""
        self._note(number, state=REPORTED, next_attempt_at=null(), last_error="")

    def later(self, owed: Owed, wait_s: float | None, sentence: str) -> None:
        """It did not; try again in `wait_s`, or never (None). One that it took elsewhere meanwhile stays reported."""
        when = null() if wait_s is None else self._clock() + wait_s
        state = GIVEN_UP if wait_s is None else OWED
        self._note(
            owed.id,
            OwedReport.state == OWED,
            state=state,
            attempts=owed.attempts + 1,
            next_attempt_at=when,
            last_error=sentence,
        )
        log.warning("commitment %s of %s: %s: %s", owed.report.transaction_uid, owed.peer, state, sentence)

    def hold(self, owed: Owed, sentence: str) -> None:
        """Nobody knows where the peer listens; judged anew at the next start."""
        self._note(owed.id, OwedReport.state == OWED, state=HELD, next_attempt_at=null(), last_error=sentence)
        log.warning("commitment %s of %s: held: %s", owed.report.transaction_uid, owed.peer, sentence)

    def release_held(self) -> None:
        """At a start, perhaps under another configuration."""
        now = self._clock()
        with self._index.write() as connection:
            connection.execute(
                update(OwedReport)
                .where(OwedReport.state == HELD)
                .values(state=OWED, next_attempt_at=now, updated_at=now, last_error="")
            )

    def _note(self, number: int, *conditions: ColumnElement[bool], **changes: Any) -> None:
        with self._index.write() as connection:
            connection.execute(
                update(OwedReport)
                .where(OwedReport.id == number, *conditions)
                .values(updated_at=self._clock(), **changes)
            )


def look_up(index: Index, transaction_uid: str, asked_for: Sequence[Reference]) -> Report:
    """What we hold of what was asked for: indexed under that SOP class, its file on disk in full length."""
    committed, failed = [], []
    for each in asked_for:
        reason = _why_not(index, each)
        if reason is None:
            committed.append(each)
        else:
            failed.append((each, reason))
    return Report(transaction_uid, tuple(committed), tuple(failed))


def _why_not(index: Index, asked: Reference) -> int | None:
    row = index.instance(asked.sop_instance_uid)
    if row is None:
        return NO_SUCH_INSTANCE
    if row.sop_class_uid != asked.sop_class_uid:
        return CLASS_CONFLICT
    try:
        whole = row.path.stat().st_size == row.size
    except FileNotFoundError:
        return NO_SUCH_INSTANCE
    except OSError:
        return RESOURCE_LIMITATION  # the disk does not answer, which may pass
    return None if whole else PROCESSING_FAILURE


class Transactions:
    """What we asked of destinations. clock: seconds since 1970."""

    def __init__(
        self,
        index: Index,
        clock: Callable[[], float] = time.time,
        *,
        patience: Patience = Patience(),
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._index = index
        self._clock = clock
        self._patience = patience
        self._chance = chance

    def open(self, destination: str, rows: Sequence[int]) -> str:
        """A new Transaction UID for these rows of the outbox."""
        uid = str(generate_uid(prefix=None))
        now = self._clock()
        with self._index.write() as connection:
            connection.execute(
                insert(Commitment).values(transaction_uid=uid, destination=destination, state=OPENED, asked_at=now)
            )
            connection.execute(
                update(Delivery).where(Delivery.id.in_(rows)).values(commitment="asked", transaction_uid=uid)
            )
        return uid

    def asked(self, transaction_uid: str) -> None:
        """The destination took the request."""
        with self._index.write() as connection:
            connection.execute(
                update(Commitment)
                .where(Commitment.transaction_uid == transaction_uid, Commitment.state == OPENED)
                .values(state=ASKED)
            )

    def drop(self, transaction_uid: str, *, ask_again: bool, sentence: str = "") -> None:
        """The request was not taken, or nobody knows. ask_again: its rows are asked for later, under another UID.

        sentence: what its rows say of it.
        """
        with self._index.write() as connection:
            connection.execute(
                update(Commitment)
                .where(Commitment.transaction_uid == transaction_uid, Commitment.state != REPORTED)
                .values(state=VOID)
            )
            changes = {"commitment": "wanted" if ask_again else "", "transaction_uid": null()}
            connection.execute(
                update(Delivery)
                .where(Delivery.transaction_uid == transaction_uid)
                .values(changes | ({"last_error": sentence} if sentence else {}))
            )

    def release_unasked(self) -> None:
        """At a start: of a request that was on its way when the process died nobody knows whether it was taken."""
        with self._index.read() as connection:
            query = select(Commitment.transaction_uid).where(Commitment.state == OPENED)
            uids = list(connection.scalars(query))
        for uid in uids:
            self.drop(uid, ask_again=True)

    def is_open(self, transaction_uid: str) -> bool:
        """No report has come yet."""
        query = select(Commitment.state).where(Commitment.transaction_uid == transaction_uid)
        with self._index.read() as connection:
            return connection.scalar(query) in (OPENED, ASKED, OVERDUE)

    def enter(self, report: Report, sender: str) -> bool:
        """What a destination says of one of our requests; False where we asked nothing under that UID.

        A row whose object it holds is committed. One that failed is queued, to be sent again after a wait, or failed
        where patience is at its end. One that the report does not name stays as it is and says so. sender: AE title
        of who reported, for the log.
        """
        uid, now = report.transaction_uid, self._clock()
        failed = {each.sop_instance_uid: reason for each, reason in report.failed}
        committed = {each.sop_instance_uid for each in report.committed} - set(failed)
        with self._index.write() as connection:
            known = connection.execute(
                update(Commitment)
                .where(Commitment.transaction_uid == uid)
                .values(state=REPORTED, reported_at=now)
                .returning(Commitment.destination)
            ).first()
            if known is None:
                log.warning("%s reports on storage commitment %s, which we did not ask for", sender, uid)
                return False
            rows = list(connection.execute(select(Delivery.__table__).where(Delivery.transaction_uid == uid)))
            for row in rows:
                changes = self._after_report(row, committed, failed)
                connection.execute(update(Delivery).where(Delivery.id == row.id).values(updated_at=now, **changes))
        log.info("%s: storage commitment %s: %d committed, %d not", known[0], uid, len(committed), len(failed))
        return True

    def _after_report(self, row: Row[Any], committed: set[str], failed: Mapping[str, int]) -> dict[str, Any]:
        over = {"commitment": "", "transaction_uid": null()}
        if row.sop_instance_uid in committed:
            return over | {"state": "committed", "next_attempt_at": null(), "last_error": ""}
        if row.sop_instance_uid not in failed:
            sentence = f"the report of {row.destination} on storage commitment does not name the object"
            return over | {"last_error": sentence}
        reason = failed[row.sop_instance_uid]
        words = _REASONS.get(reason, "a reason of its own")
        sentence = f"{row.destination} does not commit itself to the object: 0x{reason:04X}, {words} (0008,1197)"
        if row.attempts >= self._patience.attempts:
            given_up = f"given up after {row.attempts} attempts: {sentence}"
            return over | {"state": "failed", "next_attempt_at": null(), "last_error": given_up}
        when = self._clock() + self._patience.wait_s(max(row.attempts, 1), self._chance())
        return over | {"state": "queued", "next_attempt_at": when, "checks": 0, "last_error": sentence}

    def overdue(self, destination: str, report_s: float) -> None:
        """Say of rows whose report has not come within `report_s` that it has not; they stay what they are."""
        late = self._clock() - report_s
        with self._index.read() as connection:
            uids = list(
                connection.scalars(
                    select(Commitment.transaction_uid).where(
                        Commitment.destination == destination, Commitment.state == ASKED, Commitment.asked_at <= late
                    )
                )
            )
        if not uids:
            return
        hours = f"{report_s / 3600:.0f} h" if report_s >= 3600 else f"{report_s:.0f} s"
        sentence = f"{destination} was asked for storage commitment and has sent no report in {hours}; look there"
        with self._index.write() as connection:
            connection.execute(
                update(Commitment)
                .where(Commitment.transaction_uid.in_(uids), Commitment.state == ASKED)
                .values(state=OVERDUE)
            )
            connection.execute(
                update(Delivery)
                .where(Delivery.transaction_uid.in_(uids), Delivery.commitment == "asked")
                .values(last_error=sentence, updated_at=self._clock())
            )
        log.warning("%s (%d requests)", sentence, len(uids))
