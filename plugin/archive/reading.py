"""Short questions to the index that need no transaction of their own, straight through the driver.

What a viewer asks for, frame by frame, costs SQLAlchemy several times what it costs the database.
"""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path
from typing import Any

from plugin.archive.prepared import Prepared


class Readers:
    """Connections that only read, opened when they are needed. Safe to use from several threads.

    path: of the database. wait_s: for a lock on it.
    """

    def __init__(self, path: Path, wait_s: float) -> None:
        self._path, self._wait_s = path, wait_s
        self._idle: list[sqlite3.Connection] = []
        self._watch: sqlite3.Connection | None = None
        self._watching = threading.Lock()

    def rows(self, statement: Prepared, **values: Any) -> list[tuple[Any, ...]]:
        """All rows, as they are at this moment; JSON is text."""
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._connect()
        try:
            return statement.run(connection, values)
        finally:
            self._idle.append(connection)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, self._wait_s, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA query_only = ON")
        return connection

    def state(self) -> int:
        """A number that changes whenever something was committed, by whomever.

        What was read after the number was taken still holds while it is the same: see SQLite's PRAGMA data_version,
        whose values can be compared on one connection only.
        """
        with self._watching:
            if self._watch is None:
                self._watch = self._connect()
            (number,) = self._watch.execute("PRAGMA data_version").fetchone()
            return int(number)

    def close(self) -> None:
        with self._watching:
            if self._watch is not None:
                self._watch.close()
                self._watch = None
        while self._idle:
            self._idle.pop().close()
