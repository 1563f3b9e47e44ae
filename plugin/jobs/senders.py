"""Asks the senders of studies for their lists, and fetches what is missing (`reconcile` says what for).

Each question runs in a thread of its own, few at a time for one sender, so that one that hangs holds up no other and
never the sweep. The attempt is counted before it begins: a kill in the middle neither loses nor repeats for ever.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, func, select, update

from dicom_io.errors import Rejected, TryAgain
from plugin.archive import tombstones
from plugin.archive.deletion import Target, remove
from plugin.archive.index import StudyRow
from plugin.archive.ingest import Ingest
from plugin.archive.tables import Instance
from plugin.archive.tombstones import Deletion, Tombstone
from plugin.jobs import reconcile
from plugin.jobs.reconcile import COMPLETE, INCOMPLETE, UNANSWERED, WAITING, Reconciliation
from plugin.pull import Pulled, Source, pull, source_of
from plugin.settings import Settings

log = logging.getLogger(__name__)

AT_ONCE = 2
"""Questions to one sender at a time."""


@dataclass(frozen=True)
class Tries:
    """Seconds between attempts: first_s, doubled each time, less up to half by chance. attempts: then it is given up.

    The default gives up after about two minutes: until then the study waits.
    """

    first_s: float = 5.0
    attempts: int = 6

    def wait_s(self, tried: int, chance: float) -> float:
        return self.first_s * 2.0 ** (tried - 1) * (1 - chance / 2)


class Asker:
    """One for the worker that leads. make_source: the peer behind a destination's name."""

    def __init__(
        self,
        settings: Settings,
        ingest: Ingest,
        *,
        tries: Tries = Tries(),
        make_source: Callable[[str, threading.Event], Source] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings, self._ingest, self._index = settings, ingest, ingest.index
        self._tries, self._clock = tries, clock
        self._make_source = make_source or self._source
        self._lock = threading.Lock()
        self._busy: set[tuple[str, str]] = set()  # (destination, study)

    def run(self, stop: threading.Event, poll_s: float = 0.5) -> threading.Thread:
        """Start the thread that looks for what is to be asked; it ends after `stop` is set."""
        thread = threading.Thread(target=self._run, args=(stop, poll_s), name="ask-senders", daemon=True)
        thread.start()
        return thread

    def _run(self, stop: threading.Event, poll_s: float) -> None:
        try:
            while not stop.wait(poll_s):
                self.start_due(stop)
        finally:
            stop.set()  # as the courier's threads: one that dies takes its worker down, and it is started again

    def start_due(self, stop: threading.Event) -> list[threading.Thread]:
        """Start what is due; gives the new threads."""
        started = []
        for row in self._due():
            key = (row.destination, row.study_instance_uid)
            with self._lock:
                if key in self._busy or sum(name == row.destination for name, _ in self._busy) >= AT_ONCE:
                    continue
                self._busy.add(key)
            thread = threading.Thread(target=self._serve, args=(row, stop), name=f"ask-{row.destination}", daemon=True)
            thread.start()
            started.append(thread)
        return started

    def _due(self) -> list[Row[Any]]:
        query = (
            select(Reconciliation.__table__)
            .where(Reconciliation.state == WAITING, Reconciliation.next_attempt_at <= self._clock())
            .order_by(Reconciliation.next_attempt_at)
        )
        with self._index.read() as connection:
            return list(connection.execute(query))

    def _serve(self, row: Row[Any], stop: threading.Event) -> None:
        well = False
        try:
            study = self._index.study(row.study_instance_uid)
            if study is not None and row.destination in self._settings.destinations:
                self._ask(study, row.destination, stop)
            well = True
        finally:
            with self._lock:
                self._busy.discard((row.destination, row.study_instance_uid))
            if not well:
                stop.set()

    def _ask(self, study: StudyRow, name: str, stop: threading.Event) -> None:
        tried = self._begin(study, name)
        if tried is None:
            return
        uid = study.study_instance_uid
        if tried > self._tries.attempts:
            # The last attempt ended without a word: it took its worker down with it.
            self._enter(uid, name, UNANSWERED, sentence=f"asking {name} failed here again and again; see the log")
            return
        before = tombstones.newest(self._index)
        try:
            try:
                pulled = pull(self._make_source(name, stop), self._ingest, uid, without=self._deleted(uid), stop=stop)
            finally:
                self._delete_again(uid, before)
        except TryAgain as error:
            self._later(study, name, tried, UNANSWERED, stop, sentence=str(error))
        except Rejected as error:
            self._enter(uid, name, UNANSWERED, sentence=str(error))
        else:
            self._note(study, name, tried, pulled, stop)

    def _note(self, study: StudyRow, name: str, tried: int, pulled: Pulled, stop: threading.Event) -> None:
        counts = {"listed": pulled.listed, "fetched": pulled.fetched, "missing": len(pulled.missing)}
        uid = study.study_instance_uid
        if pulled.is_complete:
            self._enter(uid, name, COMPLETE, sentence=pulled.sentence, **counts)
        elif len(pulled.refused) == len(pulled.missing):  # they would be refused again
            self._enter(uid, name, INCOMPLETE, sentence=pulled.sentence, **counts)
        else:
            self._later(study, name, tried, INCOMPLETE, stop, sentence=pulled.sentence, **counts)

    def _begin(self, study: StudyRow, name: str) -> int | None:
        """Count the attempt; gives which one it is, None where the question is not open any more.

        Until it is answered it is due again at once: by a worker that takes over from one that was killed.
        """
        with self._index.write() as connection:
            return connection.scalar(
                update(Reconciliation)
                .where(*_row(study.study_instance_uid, name), Reconciliation.state == WAITING)
                .values(attempts=Reconciliation.attempts + 1, updated_at=self._clock())
                .returning(Reconciliation.attempts)
            )

    def _later(
        self, study: StudyRow, name: str, tried: int, given_up: str, stop: threading.Event, **columns: Any
    ) -> None:
        """Ask again after a while, or leave it in the state `given_up`."""
        if tried >= self._tries.attempts and not stop.is_set():
            self._enter(study.study_instance_uid, name, given_up, **columns)
            return
        # An attempt that our own end broke off does not count.
        count = {"attempts": tried - 1} if stop.is_set() else {}
        wait_s = 0.0 if stop.is_set() else self._tries.wait_s(tried, random.random())
        now = self._clock()
        with self._index.write() as connection:
            connection.execute(
                update(Reconciliation)
                .where(*_row(study.study_instance_uid, name), Reconciliation.state == WAITING)
                .values(next_attempt_at=now + wait_s, updated_at=now, **count, **columns)
            )
        log.info("study %s, asking %s, attempt %d: %s", study.study_instance_uid, name, tried, columns["sentence"])

    def _enter(self, study_instance_uid: str, name: str, state: str, **columns: Any) -> None:
        with self._index.write() as connection:
            # As it is now, with what was fetched.
            study = self._index.study(study_instance_uid, connection)
            if study is not None:
                reconcile.enter(connection, study, name, state, self._clock(), **columns)
        log.info("study %s, asked %s: %s; %s", study_instance_uid, name, state, columns["sentence"])

    def _deleted(self, study_instance_uid: str) -> frozenset[str]:
        """What a person took out of the study is not fetched again by itself; a study that came anew is a new one."""
        oldest = select(func.min(Instance.arrived_at)).where(Instance.study_instance_uid == study_instance_uid)
        deleted = (
            select(Tombstone.sop_instance_uid)
            .join(Deletion, Deletion.id == Tombstone.deletion_id)
            .where(Deletion.study_instance_uid == study_instance_uid, Deletion.at > oldest.scalar_subquery())
        )
        with self._index.read() as connection:
            return frozenset(connection.scalars(deleted))

    def _delete_again(self, study_instance_uid: str, before: int) -> None:
        """What a person deleted while it was fetched, and what came of it after that. before: the deletion before."""
        for deletion in tombstones.deletions(self._index, study_instance_uid):
            if deletion.id <= before:
                return  # the latest come first
            whole = Target(study_instance_uid, deletion.series_instance_uid, deletion.sop_instance_uid)
            for row in self._index.instances(study_instance_uid):
                each = Target(study_instance_uid, row.series_instance_uid, row.sop_instance_uid)
                if row.door == "pull" and each in whole:
                    remove(self._ingest, each, by=deletion.by, why=deletion.why)

    def _source(self, name: str, stop: threading.Event) -> Source:
        return source_of(self._settings.destinations[name], self._settings.node.aet, self._ingest, stop=stop)


def _row(study_instance_uid: str, name: str) -> tuple[Any, Any]:
    return Reconciliation.study_instance_uid == study_instance_uid, Reconciliation.destination == name
