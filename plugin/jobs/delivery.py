"""The outbox: what is owed to destinations, and the truth about how far it has come (promise 3).

    queued     will be sent at its time
    held       may not leave: the destination does not take it as long as the configuration stays as it is
    sent       the destination answered success; whether it has the object could not be asked, or is being asked
    delivered  the destination's answer or query lists the object
    committed  the destination has taken over responsibility for it (storage commitment, PS3.4 J)
    unknown    it left, but there was no answer, or the query does not list what was answered with success
    failed     refused, or given up; `mirall outbox retry` sends it again

A DICOM destination that offers storage commitment is asked for it after each send, many objects in one request; what
it does not commit itself to is queued again. One that never reports leaves its rows as they are, with a sentence.

Each row stands in the database before anything is sent and changes after the answer; a kill in between sends the same
object under the same UID once more, and a peer that has it says so or keeps it. What cannot be sent now waits 5 s,
10 s, 20 s ... up to an hour between attempts, for about three days.
"""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Row, null, select, update

from dicom_io.errors import TryAgain, Unlabelled
from dicom_io.provenance import LabelRecord
from plugin.archive.gate import Unproven, check_exit, check_proven
from plugin.archive.index import Index, InstanceRow
from plugin.destinations import Destination, Parcel, Receipt
from plugin.dimse.client.commitment import NotOffered
from plugin.jobs.commitments import Transactions
from plugin.jobs.patience import Patience
from plugin.jobs.tables import Delivery
from plugin.settings import Destination as Policy

log = logging.getLogger(__name__)

QUEUED, HELD, SENT, DELIVERED = "queued", "held", "sent", "delivered"
COMMITTED, UNKNOWN, FAILED = "committed", "unknown", "failed"
STATES = (QUEUED, HELD, SENT, DELIVERED, COMMITTED, UNKNOWN, FAILED)

# What a person, or a report that comes elsewhere, has not changed while a peer was spoken to.
_still_to_send = Delivery.state.in_((QUEUED, UNKNOWN))
_still_sent = Delivery.state == SENT

BATCH = 50  # objects per association
COMMITTED_TOGETHER = 500  # objects in one request for storage commitment
NOT_OFFERED_S = 3600.0  # how long a destination that offers no storage commitment is not asked again


@dataclass(frozen=True)
class Refusal:
    """Why an object may not leave now, and the state that its row gets."""

    state: str
    sentence: str


class Courier:
    """Sends what is owed, one destination at a time; `serve` may run in one thread per destination.

    policies and destinations: by name, as configured.
    """

    def __init__(
        self,
        index: Index,
        policies: Mapping[str, Policy],
        destinations: Mapping[str, Destination],
        *,
        patience: Patience = Patience(),
        clock: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._index = index
        self._policies = policies
        self._destinations = destinations
        self._patience = patience
        self._clock = clock
        self._chance = chance
        self._transactions = Transactions(index, clock, patience=patience, chance=chance)
        self._refused_until: dict[str, float] = {}  # by destination: when to ask for commitment again
        self._refusals: dict[str, int] = {}  # by destination: requests in a row that found nobody

    def release_held(self) -> None:
        """At a start: what was held under another configuration is judged anew; what has no destination is held.

        What was sent stays sent: it is not to be sent again, and is asked about once the destination is back.
        """
        now = self._clock()
        self._transactions.release_unasked()
        with self._index.write() as connection:
            connection.execute(
                update(Delivery)
                .where(Delivery.state == HELD)
                .values(state=QUEUED, next_attempt_at=now, updated_at=now, last_error="")
            )
            for name in set(connection.scalars(select(Delivery.destination).distinct())) - set(self._policies):
                connection.execute(
                    update(Delivery)
                    .where(Delivery.destination == name, Delivery.next_attempt_at.is_not(None), Delivery.state != SENT)
                    .values(
                        state=HELD,
                        next_attempt_at=null(),
                        updated_at=now,
                        last_error=f"mirall.toml has no destination {name!r} any more; add [destinations.{name}]",
                    )
                )

    def serve(self, name: str) -> int:
        """Do what is due for one destination: send, then ask about what was sent; gives the number of rows touched."""
        return self._send_due(name) + self._commit_due(name) + self._ask_due(name)

    def run(self, stop: threading.Event, poll_s: float = 0.5) -> list[threading.Thread]:
        """Start one thread per destination, so that one that hangs holds up no other. They end after `stop` is set."""
        threads = [
            threading.Thread(target=self._run_one, args=(name, stop, poll_s), name=f"deliver-{name}", daemon=True)
            for name in self._policies
        ]
        for thread in threads:
            thread.start()
        return threads

    def _run_one(self, name: str, stop: threading.Event, poll_s: float) -> None:
        try:
            while not stop.is_set():
                if not self.serve(name):
                    stop.wait(poll_s)
        finally:
            stop.set()  # a thread that dies takes its worker down: it is started again, and nothing stands still unseen

    def _send_due(self, name: str) -> int:
        rows = self._due(name, (QUEUED, UNKNOWN))
        ready: list[tuple[Row[Any], Parcel]] = []
        for row in rows:
            instance = self._index.instance(row.sop_instance_uid)
            refusal = gate(instance, name, self._policies[name])
            if refusal is not None:
                self._note(row, _still_to_send, state=refusal.state, last_error=refusal.sentence, next_attempt_at=None)
            elif instance is not None:
                ready.append((row, parcel_of(instance)))
        if ready:
            receipts = self._destinations[name].send([parcel for _, parcel in ready])
            for (row, _), receipt in zip(ready, receipts, strict=True):
                self._enter(row, receipt)
        return len(rows)

    def _enter(self, row: Row[Any], receipt: Receipt) -> None:
        tried = row.attempts + 1
        changes: dict[str, Any] = {"attempts": tried, "checks": 0, "last_error": receipt.sentence}
        asks = receipt.outcome in ("confirmed", "sent") and self._policies[row.destination].commitment
        changes |= {"commitment": "wanted" if asks else "", "transaction_uid": null()}
        given_up = tried >= self._patience.attempts
        later = None if given_up else self._clock() + self._patience.wait_s(tried, self._chance())
        match receipt.outcome:
            case "confirmed":
                changes |= {"state": DELIVERED, "next_attempt_at": None}
            case "sent":
                changes |= {"state": SENT, "next_attempt_at": self._clock()}
            case "unknown":
                changes |= {"state": UNKNOWN, "next_attempt_at": later}
            case "refused":
                changes |= {"state": FAILED, "next_attempt_at": None}
            case "again":
                changes |= {"state": FAILED if given_up else QUEUED, "next_attempt_at": later}
                if given_up:
                    changes["last_error"] = f"given up after {tried} attempts: {receipt.sentence}"
        # How a send ended is true whatever a person did meanwhile; what was cancelled is not sent once more, though.
        is_over = receipt.outcome in ("confirmed", "sent", "refused")
        self._note(row, *([] if is_over else [_still_to_send]), **changes)

    def _commit_due(self, name: str) -> int:
        """Ask for storage commitment of what was sent, once nothing more is to be sent at the moment."""
        self._transactions.overdue(name, self._patience.report_s)
        wanted = (Delivery.destination == name, Delivery.commitment == "wanted")
        with self._index.read() as connection:
            rows = list(connection.execute(select(Delivery.__table__).where(*wanted).limit(COMMITTED_TOGETHER)))
        more_to_send = len(rows) < COMMITTED_TOGETHER and self._due(name, (QUEUED, UNKNOWN))
        if not rows or more_to_send or self._clock() < self._refused_until.get(name, 0.0):
            return 0
        uid = self._transactions.open(name, [row.id for row in rows])
        parcels = [parcel_of(each) for row in rows if (each := self._index.instance(row.sop_instance_uid))]
        if not parcels:  # all of it was deleted meanwhile
            self._transactions.drop(uid, ask_again=False)
            return len(rows)
        try:
            self._destinations[name].commit(
                uid, parcels, self._transactions.enter, lambda: self._transactions.is_open(uid)
            )
        except NotOffered as error:
            self._refused_until[name] = self._clock() + NOT_OFFERED_S
            self._transactions.drop(uid, ask_again=False)
            log.info("%s; what it has is asked by a query", error)
        except TryAgain as error:
            self._commit_later(name, uid, str(error))
        else:
            self._refusals[name] = 0
            self._transactions.asked(uid)
        return len(rows)

    def _commit_later(self, name: str, uid: str, sentence: str) -> None:
        tried = self._refusals[name] = self._refusals.get(name, 0) + 1
        if tried < self._patience.checks:
            self._refused_until[name] = self._clock() + self._patience.wait_s(tried, self._chance())
            self._transactions.drop(uid, ask_again=True)
        else:
            self._refusals[name] = 0
            self._transactions.drop(uid, ask_again=False, sentence=f"no storage commitment: {sentence}")

    def _ask_due(self, name: str) -> int:
        rows = self._due(name, (SENT,))
        asked = [(row, instance) for row in rows if (instance := self._index.instance(row.sop_instance_uid))]
        for row in rows:
            if row.sop_instance_uid not in {instance.sop_instance_uid for _, instance in asked}:
                self._note(row, _still_sent, next_attempt_at=None)
        if asked:
            try:
                answers = self._destinations[name].has([parcel_of(instance) for _, instance in asked])
            except TryAgain as error:
                self._ask_later([row for row, _ in asked], error)
                return len(rows)
            for (row, _), listed in zip(asked, answers, strict=True):
                self._enter_answer(row, listed)
        return len(rows)

    def _ask_later(self, rows: list[Row[Any]], error: TryAgain) -> None:
        for row in rows:
            checks = min(
                row.checks + 1, self._patience.checks - 1
            )  # silence is no evidence that the object is not there
            wait_s = self._patience.wait_s(checks, self._chance())
            self._note(row, _still_sent, next_attempt_at=self._clock() + wait_s, checks=checks, last_error=str(error))

    def _enter_answer(self, row: Row[Any], listed: bool | None) -> None:
        """What the query says, unless a report on storage commitment, which says more, came while it was asked."""
        checks = row.checks + 1
        if listed:
            self._note(row, _still_sent, state=DELIVERED, next_attempt_at=None, checks=checks, last_error="")
        elif listed is None:
            # It takes objects and answers no questions; success is all that it will ever say.
            self._note(row, _still_sent, next_attempt_at=None, checks=checks, last_error="")
        elif checks >= self._patience.checks:
            sentence = f"{row.destination} answered success, but its query does not list the object; look there"
            self._note(row, _still_sent, state=UNKNOWN, next_attempt_at=None, checks=checks, last_error=sentence)
        else:
            wait_s = self._patience.wait_s(checks, self._chance())
            self._note(row, _still_sent, next_attempt_at=self._clock() + wait_s, checks=checks)

    def _due(self, name: str, states: tuple[str, ...]) -> list[Row[Any]]:
        query = (
            select(Delivery.__table__)
            .where(Delivery.destination == name, Delivery.state.in_(states), Delivery.next_attempt_at <= self._clock())
            .order_by(Delivery.next_attempt_at)
            .limit(BATCH)
        )
        with self._index.read() as connection:
            return list(connection.execute(query))

    def _note(self, row: Row[Any], *conditions: ColumnElement[bool], **changes: Any) -> None:
        """Enter changes into a row, where it still meets the conditions."""
        if changes.get("next_attempt_at", 0) is None:
            changes["next_attempt_at"] = null()
        with self._index.write() as connection:
            entered = connection.execute(
                update(Delivery).where(Delivery.id == row.id, *conditions).values(updated_at=self._clock(), **changes)
            )
        state = changes.get("state", row.state)
        if entered.rowcount and state != row.state:
            log.info("%s to %s: %s %s", row.sop_instance_uid, row.destination, state, changes.get("last_error", ""))


def gate(instance: InstanceRow | None, name: str, policy: Policy) -> Refusal | None:
    """Why this object may not go to this destination. Knows only bytes and the job's record; it fails closed."""
    if instance is None:
        return Refusal(FAILED, "the object is not in the archive any more; nothing is left to send")
    try:
        instance.path.stat()
        check_exit(instance)
    except Unlabelled as error:
        return Refusal(FAILED, str(error))
    except FileNotFoundError:
        return Refusal(
            FAILED,
            f"the file of the object, {instance.storage_key}, is gone from the data folder; put it back, "
            "then `mirall outbox retry`",
        )
    except OSError as error:
        return Refusal(FAILED, f"the object cannot be read ({error.strerror}); look at the data folder's disk")
    try:
        check_proven(instance, name, policy.allow_unproven)
    except Unproven as error:
        return Refusal(HELD, str(error))
    return None


def parcel_of(instance: InstanceRow) -> Parcel:
    """The object as a destination takes it."""
    return Parcel(
        sop_instance_uid=instance.sop_instance_uid,
        sop_class_uid=instance.sop_class_uid,
        series_instance_uid=instance.series_instance_uid,
        study_instance_uid=instance.study_instance_uid,
        transfer_syntax_uid=instance.transfer_syntax_uid,
        path=instance.path,
        record=None if instance.record is None else LabelRecord.from_json(json.dumps(instance.record)),
    )
