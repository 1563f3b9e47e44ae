"""What has happened to workitems since one last looked, for whoever holds open channels.

Several processes may each have a watch of their own: the events of stored workitems are rows with growing numbers, and
those of jobs follow from comparing the jobs' rows with what they were. Nothing is marked as seen in the database.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, or_, select

from plugin.archive.index import Index
from plugin.jobs.planning import RUNNING, WAITING
from plugin.jobs.tables import Job
from plugin.worklist import subscriptions
from plugin.worklist.elements import Attributes
from plugin.worklist.mirror import Mirror, state_of, uid_of
from plugin.worklist.reports import Report, progress_report, restarted, state_report
from plugin.worklist.subscriptions import Interest
from plugin.worklist.tables import Event, Subscription, Workitem
from plugin.worklist.workitems import Refusal, Worklist

# Jobs that ended longer ago were seen, by this watch or by none; clocks of hosts may differ by less.
_ENDED_S = 60.0

# What is told of a job; not what it is to work on, which is long, and here is read every fraction of a second.
_TOLD = [column for column in Job.__table__.columns if column.name != "spec"]


@dataclass(frozen=True)
class _Seen:
    """What of a job is reported when it changes."""

    state: str
    progress: Any


class Watch:
    """One look after the other. aet: our AE title. clock: seconds since 1970."""

    def __init__(self, index: Index, worklist: Worklist, aet: str, clock: Callable[[], float] = time.time) -> None:
        self._index = index
        self._worklist = worklist
        self._mirror = Mirror(aet)
        self._clock = clock
        with index.read() as connection:
            self._last_event: int = connection.scalar(select(func.max(Event.id))) or 0
            self._jobs = self._seen(connection)

    def news(self, aetitles: Iterable[str]) -> list[tuple[str, Report]]:
        """(AE title, report) of what has happened since the last call, in order, for these applications."""
        with self._index.read() as connection:
            found = [*self._events(connection), *self._changed_jobs(connection)]
            if not found:
                return []
            interests = {title: subscriptions.interest_of(connection, title) for title in aetitles}
        return [(title, report) for report in found for title in self._receivers(report, interests)]

    def _receivers(self, report: Report, interests: dict[str, Interest]) -> list[str]:
        if report.receiver:
            return [title for title in interests if title == report.receiver]
        try:
            attributes, created_at = self._worklist.get_with_age(report.uid)
        except Refusal:  # deleted since
            return []
        return [title for title, interest in interests.items() if interest.covers(report.uid, attributes, created_at)]

    def _events(self, connection: Connection) -> list[Report]:
        rows = connection.execute(select(Event.__table__).where(Event.id > self._last_event).order_by(Event.id)).all()
        if rows:
            self._last_event = rows[-1].id
        return [Report(row.uid, row.kind, row.body, row.receiver) for row in rows]

    def _seen(self, connection: Connection) -> dict[str, tuple[str, _Seen, Any]]:
        """The jobs that wait, run or have just ended: id -> (UID of the workitem, what is reported, the row)."""
        recently = or_(Job.state.in_((WAITING, RUNNING)), Job.ended_at > self._clock() - _ENDED_S)
        rows = connection.execute(
            select(*_TOLD, Workitem.uid.label("workitem"))
            .outerjoin(Workitem, Workitem.job_id == Job.id)
            .where(recently)
            .order_by(Job.created_at)
        )
        return {row.id: (row.workitem or uid_of(row.id), _Seen(state_of(row.state), row.progress), row) for row in rows}

    def _changed_jobs(self, connection: Connection) -> list[Report]:
        before, self._jobs = self._jobs, self._seen(connection)
        found: list[Report] = []
        for job, (uid, now, row) in self._jobs.items():
            then = before[job][1] if job in before else None
            here: Attributes = {}
            if then != now:
                here = self._mirror.overlay(row, connection) | {"00404041": {"vr": "CS", "Value": ["READY"]}}
            if then is None or then.state != now.state:
                found.append(state_report(uid, here))
            elif then != now:
                found.append(progress_report(uid, here))
        return found

    def greeting(self, aetitle: str, since: float) -> list[Report]:
        """For an application that opens a channel: that we were away, where it had subscribed before `since`."""
        with self._index.read() as connection:
            earlier = connection.scalar(
                select(func.count())
                .select_from(Subscription)
                .where(Subscription.aetitle == aetitle, Subscription.created_at < since)
            )
        return [restarted(aetitle)] if earlier else []
