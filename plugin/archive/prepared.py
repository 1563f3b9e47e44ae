"""Statements that are compiled once and go straight to the driver.

SQLAlchemy builds, keys and compiles a statement anew at each call, which takes several times as long as the database
needs to run it. What is run for each instance that arrives is spared that; it remains SQLAlchemy's SQL.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import orjson
from sqlalchemy import Connection, Table, insert
from sqlalchemy.dialects import sqlite
from sqlalchemy.sql import ClauseElement

_DIALECT = sqlite.dialect(paramstyle="named")


class Prepared:
    """One statement with named parameters (`bindparam`); JSON in rows and parameters is text."""

    def __init__(self, statement: ClauseElement, columns: Iterable[str] | None = None) -> None:
        named = None if columns is None else list(columns)
        self._sql = str(statement.compile(dialect=_DIALECT, column_keys=named))

    def __call__(self, connection: Connection, **values: Any) -> list[tuple[Any, ...]]:
        """Run it in the connection's transaction; all rows."""
        return self.run(driver_of(connection), values)

    def run(self, driver: sqlite3.Connection, values: dict[str, Any]) -> list[tuple[Any, ...]]:
        """As a call, on the driver's own connection."""
        return driver.execute(self._sql, values).fetchall()


def driver_of(connection: Connection) -> sqlite3.Connection:
    """What SQLAlchemy's connection stands on."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    return driver


@lru_cache
def inserting(table: Table, columns: tuple[str, ...]) -> Prepared:
    """INSERT of one row with these columns."""
    return Prepared(insert(table), columns)


def to_json(value: Any) -> str:
    """JSON text, as all JSON columns have it."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # numbers beyond 64 bits, or halves of a surrogate pair; headers hold such things
        return json.dumps(value)


def from_json(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:  # as above
        return json.loads(text)
