"""Between the job table, which people and plans change, and the engine, which runs.

The row is the promise. Telling the engine is repeated until it is noted that it was told, and the engine takes the same
run twice as one. So a kill anywhere in between loses nothing, and even the engine's whole file may be lost: what was
promised is handed over again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Protocol

from sqlalchemy import null, or_, select, update

from plugin.archive.index import Index
from plugin.jobs.planning import CANCELLED, FAILED, RUNNING, WAITING
from plugin.jobs.port import next_run
from plugin.jobs.tables import Job

log = logging.getLogger(__name__)


class Runs(Protocol):
    """What of the engine (`engine.Engine`) is needed here."""

    def workflow_id(self, job_id: str, run: int) -> str: ...

    def enqueue(self, job_id: str, run: int) -> None: ...

    def cancel(self, job_id: str, run: int) -> None: ...

    def dead(self, ids: Iterable[str]) -> Mapping[str, str]:
        """Of these workflow ids those that will not go on by themselves, with the reason; "" for unknown ones."""
        ...


def dispatch(index: Index, runs: Runs, now: float) -> int:
    """Hand over what waits and what was cancelled; gives how many jobs that was. Cheap: called twice a second."""
    with index.read() as connection:
        waiting = list(
            connection.execute(
                select(Job.id, Job.run)
                .where(Job.state == WAITING, Job.handed_over.is_(False))
                .where(or_(Job.not_before.is_(None), Job.not_before <= now))
                .order_by(Job.created_at)
            )
        )
        cancelled = list(
            connection.execute(select(Job.id, Job.run).where(Job.state == CANCELLED, Job.handed_over.is_(False)))
        )
    for row in waiting:
        runs.enqueue(row.id, row.run)
        _told(index, row.id, row.run, WAITING)
    for row in cancelled:
        runs.cancel(row.id, row.run)
        _told(index, row.id, row.run, CANCELLED)
    return len(waiting) + len(cancelled)


def reconcile(index: Index, runs: Runs, now: float) -> None:
    """Enter jobs that the engine gave up, and hand over again what it has never heard of."""
    with index.read() as connection:
        rows = list(
            connection.execute(
                select(Job.id, Job.run).where(Job.state.in_((WAITING, RUNNING)), Job.handed_over.is_(True))
            )
        )
    dead = runs.dead([runs.workflow_id(row.id, row.run) for row in rows])
    for row in rows:
        reason = dead.get(runs.workflow_id(row.id, row.run))
        if reason is None:
            continue
        changes = {"state": FAILED, "error": reason, "ended_at": now, "progress": null()} if reason else next_run()
        with index.write() as connection:
            connection.execute(
                update(Job)
                .where(Job.id == row.id, Job.run == row.run, Job.state.in_((WAITING, RUNNING)))
                .values(changes)
            )
        log.warning("job %s: %s", row.id, reason or "the engine does not know it; handed over again")


def _told(index: Index, job_id: str, run: int, state: str) -> None:
    # The state may have moved on; a cancel in between must still reach the engine.
    moved_on = (state, RUNNING) if state == WAITING else (state,)
    with index.write() as connection:
        connection.execute(
            update(Job).where(Job.id == job_id, Job.run == run, Job.state.in_(moved_on)).values(handed_over=True)
        )
