"""Who is told of what happens to workitems (PS3.4 CC.2.3).

A subscription names one workitem, or the whole worklist by a well-known UID. Nothing is written for a workitem when it
is created: whether an application wants to hear of it follows from its few rows here, and so holds for jobs as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from plugin.worklist.matching import Condition, meets
from plugin.worklist.tables import Subscription

WORKLIST = "1.2.840.10008.5.1.4.34.5"
FILTERED_WORKLIST = "1.2.840.10008.5.1.4.34.5.1"
WHOLE = (WORKLIST, FILTERED_WORKLIST)


@dataclass(frozen=True)
class Interest:
    """The subscriptions of one application."""

    rows: Sequence[Row[Any]]

    def covers(self, uid: str, attributes: Mapping[str, Any], created_at: float) -> bool:
        """It is to be told of this workitem."""
        return any(_covers(row, uid, attributes, created_at) for row in self.rows) and not self._excludes(uid)

    def locks(self, uid: str, attributes: Mapping[str, Any], created_at: float) -> bool:
        """The workitem must stay after it has ended until this subscription is gone (deletion lock)."""
        locking = [row for row in self.rows if row.deletion_lock]
        return Interest(locking).covers(uid, attributes, created_at) and not self._excludes(uid)

    def _excludes(self, uid: str) -> bool:
        return any(row.target == uid and row.excluded for row in self.rows)


def _covers(row: Row[Any], uid: str, attributes: Mapping[str, Any], created_at: float) -> bool:
    if row.target not in WHOLE:
        return row.target == uid and not row.excluded
    in_time = row.suspended_at is None or created_at <= row.suspended_at
    return in_time and (row.target == WORKLIST or meets(attributes, _conditions(row)))


def _conditions(row: Row[Any]) -> list[Condition]:
    return [(tuple(path.split(".")), text) for path, text in row.filter]


def interest_of(connection: Connection, aetitle: str) -> Interest:
    """What one application has subscribed to."""
    found = select(Subscription.__table__).where(Subscription.aetitle == aetitle)
    return Interest(list(connection.execute(found)))


def interests(connection: Connection) -> list[Interest]:
    """Those of all applications."""
    by_title: dict[str, list[Row[Any]]] = {}
    for row in connection.execute(select(Subscription.__table__)):
        by_title.setdefault(row.aetitle, []).append(row)
    return [Interest(rows) for rows in by_title.values()]


def subscribe(
    connection: Connection,
    aetitle: str,
    target: str,
    *,
    deletion_lock: bool,
    conditions: Sequence[Condition] = (),
    now: float,
) -> None:
    """Begin to tell an application; a subscription that is there already takes the new lock and filter."""
    here = (Subscription.aetitle == aetitle, Subscription.target == target)
    connection.execute(delete(Subscription).where(*here))
    connection.execute(
        insert(Subscription).values(
            aetitle=aetitle,
            target=target,
            deletion_lock=deletion_lock,
            filter=[[".".join(path), text] for path, text in conditions],
            excluded=False,
            created_at=now,
        )
    )
    if target == WORKLIST:
        # All that there is, without exception.
        connection.execute(delete(Subscription).where(Subscription.aetitle == aetitle, Subscription.excluded.is_(True)))


def unsubscribe(connection: Connection, aetitle: str, target: str, *, covered: bool, now: float) -> bool:
    """Tell it no more; False where it was not told.

    Of the whole worklist: nothing more of any workitem. covered: a subscription to the whole worklist has this one in
    it, so that an exception is noted.
    """
    mine = Subscription.aetitle == aetitle
    here = (mine, Subscription.target == target, Subscription.excluded.is_(False))
    was_there = connection.execute(delete(Subscription).where(*here)).rowcount > 0
    if target in WHOLE:
        if was_there:
            connection.execute(delete(Subscription).where(mine, Subscription.target.not_in(WHOLE)))
        return was_there
    if covered:
        connection.execute(
            insert(Subscription).values(
                aetitle=aetitle, target=target, deletion_lock=False, filter=[], excluded=True, created_at=now
            )
        )
    return was_there or covered


def suspend(connection: Connection, aetitle: str, target: str, *, now: float) -> bool:
    """Workitems that are created from now on are no part of it; False where there is no such subscription."""
    found = connection.execute(
        update(Subscription)
        .where(Subscription.aetitle == aetitle, Subscription.target == target, Subscription.suspended_at.is_(None))
        .values(suspended_at=now)
    )
    return found.rowcount > 0
