"""Group commit: what arrives at the same time shares one transaction, and its syncs.

    thread -> run(step) -> waits for its turn
                the first to have its turn takes all that wait: BEGIN, each step, sync of folders, COMMIT
           -> sync of the index's log, where the result needs it, beside the next one's turn
           <- result of its own step

Syncs of the disk are what durable storage waits for, and one serves as many as there are. A step that refuses its
object undoes what it did itself; where the transaction fails, so does every step in it, and nothing is acknowledged.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from plugin.archive.index import Index
from plugin.archive.prepared import driver_of
from plugin.archive.storage import sync_folder

T = TypeVar("T")


@dataclass(frozen=True)
class Transaction:
    """What a step works with. folders: those that it changed; they are synced before the commit."""

    connection: Connection
    folders: set[Path] = field(default_factory=set)


@dataclass
class _Member:
    step: Callable[[Transaction], Any]
    result: Any = None
    failure: Exception | None = None
    is_done: bool = False


class Commits:
    """The shared transactions of one index in this process; other processes wait for the index's lock."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._waiting: deque[_Member] = deque()
        self._turn = threading.Lock()

    def run(self, step: Callable[[Transaction], T], needs_sync: Callable[[T], bool] = lambda result: True) -> T:
        """Run `step` in a transaction; its result, when that is on disk.

        needs_sync: says of a result whether the index is to be synced for it. Where what it says could be learned from
        other files, a loss of power may take it; what is seen of it meanwhile, and by whom, is the same.
        Raises what the step raises, or NoSpace and whatever else the transaction fails with.
        """
        member = _Member(step)
        self._waiting.append(member)
        with self._turn:
            if not member.is_done:
                self._commit()
        if member.failure is not None:
            raise member.failure
        result: T = member.result
        if needs_sync(result):
            # Here, where others have their turn meanwhile; one sync of the log is for all that stands in it.
            self._index.sync()
        return result

    def _commit(self) -> None:
        group: list[_Member] = []
        try:
            with self._index.write(synced=False) as connection:
                # Not before: while the lock was waited for, more have come.
                group = self._all_waiting()
                transaction = Transaction(connection)
                for member in group:
                    _run(member, transaction)
                for folder in transaction.folders:
                    sync_folder(folder)
        except Exception as error:
            # Whatever it is, it is for each of them to raise, in the thread that waits for it.
            group = group or self._all_waiting()
            for member in group:
                member.failure = member.failure or error
        finally:
            for member in group:
                member.is_done = True

    def _all_waiting(self) -> list[_Member]:
        return [self._waiting.popleft() for _ in range(len(self._waiting))]


def _run(member: _Member, transaction: Transaction) -> None:
    """One step, undone where it fails; what fails of the database itself is for the whole transaction."""
    execute = driver_of(transaction.connection).execute
    execute("SAVEPOINT step")
    try:
        member.result = member.step(transaction)
    except (DBAPIError, sqlite3.Error):
        raise
    except Exception as error:
        execute("ROLLBACK TO step")
        member.failure = error
    execute("RELEASE step")
