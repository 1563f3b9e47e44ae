"""DBOS Transact 3.4 on a SQLite file: the durable queue, claims, step memory, cancel and recovery under our jobs.

Only this module imports dbos, and only the worker imports this module. What a job is, who may see it and what it
makes stand in the `job` table of the index (`plugin.jobs.tables`); the engine knows an id and which run of it this is,
so that nothing but ids and small answers ever lies in its file.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from dbos import DBOS, DBOSPortableJSONSerializer, SetWorkflowID

from plugin.jobs.liveness import OwnerLocks, new_owner_id

APPLICATION = "mirall"
# Pinned: the default is a hash of the workflow's source, and an upgrade would orphan the jobs that wait or run.
# Raise it, after draining, when the order of steps in `job` changes.
APPLICATION_VERSION = "1"
QUEUE = "infer"
LEADER = "leader"  # a name among the owner locks
# A job that takes its worker down with it this many times ends as failed instead of taking it down for ever.
RECOVERY_ATTEMPTS = 5
BROKE_OFF = "ERROR"
DEAD = (BROKE_OFF, "MAX_RECOVERY_ATTEMPTS_EXCEEDED", "CANCELLED")
GAVE_UP = (
    "the job took its worker down with it {attempts} times or more (engine state {status}); "
    "see the worker's log, then `mirall jobs retry`"
)
RAISED = "the job broke off: {error}; see the worker's log, then `mirall jobs retry`"


class Work(Protocol):
    """What the engine runs. Each part may be repeated after a crash and must then change nothing.

    Answers are JSON. A step that may fail returns `{"error": ...}`: exceptions lose their class on replay.
    """

    async def make(self, job_id: str, run: int) -> dict[str, Any]: ...

    def keep(self, job_id: str, run: int, made: dict[str, Any]) -> dict[str, Any]: ...

    def settle(self, job_id: str, run: int, kept: dict[str, Any]) -> None: ...


class Engine:
    """The launched engine of one worker process. Make one per process (DBOS is a singleton)."""

    def __init__(self, database: Path, work: Work) -> None:
        self.owner = new_owner_id()
        self.locks = OwnerLocks(database.with_name(database.name + ".owners"))
        while not self.locks.hold(self.owner):  # before it may own any workflow; another may be probing it just now
            time.sleep(0.01)
        _prepare(database)
        self._job = _registered(work)
        DBOS(
            config={
                "name": APPLICATION,
                "system_database_url": f"sqlite:///{database}",
                "executor_id": self.owner,
                "application_version": APPLICATION_VERSION,
                "serializer": DBOSPortableJSONSerializer(),  # the default is pickle: code from data
                "log_level": "WARNING",  # on INFO it advertises at every start
            }
        )

    def launch(self, *, concurrency: int = 1, polling_s: float = 0.25) -> None:
        DBOS.listen_queues([QUEUE])
        DBOS.launch()
        DBOS.register_queue(QUEUE, worker_concurrency=concurrency, polling_interval_sec=polling_s)

    def workflow_id(self, job_id: str, run: int) -> str:
        """A repeat of an enqueue meets its own id and is one job; a retry by people or after a pause is a new run."""
        return f"{job_id}-{run}"

    def enqueue(self, job_id: str, run: int) -> None:
        """Idempotent: the same job and run is one workflow."""
        with SetWorkflowID(self.workflow_id(job_id, run)):
            DBOS.enqueue_workflow(QUEUE, self._job, job_id, run)

    def cancel(self, job_id: str, run: int) -> None:
        """The running step is interrupted within about a second, and its child process killed."""
        DBOS.cancel_workflow(self.workflow_id(job_id, run))

    def dead(self, ids: Iterable[str]) -> dict[str, str]:
        """Of these workflow ids those that will not go on by themselves, with the reason; "" for unknown ones."""
        wanted = list(ids)
        if not wanted:
            return {}
        known = {
            each.workflow_id: each
            for each in DBOS.list_workflows(workflow_ids=wanted, load_input=False, load_output=False)
        }
        lost = {each: "" for each in wanted if each not in known}
        dead = {
            name: GAVE_UP.format(attempts=RECOVERY_ATTEMPTS, status=each.status)
            for name, each in known.items()
            if each.status in DEAD
        }
        # What a step raised although it should have answered it: the error stands in the workflow's output.
        broken = [name for name in dead if known[name].status == BROKE_OFF]
        raised = DBOS.list_workflows(workflow_ids=broken, load_input=False) if broken else []
        return lost | dead | {each.workflow_id: RAISED.format(error=_in_words(each.error)) for each in raised}

    def recover_dead(self) -> list[str]:
        """Hand the jobs of workers that are gone back to the queue; gives the ids of those workers.

        The kernel has freed a dead owner's lock at once, and DBOS refuses what a superseded owner still writes, so no
        period of grace is needed on one machine.
        """
        pending = DBOS.list_workflows(status="PENDING", load_input=False, load_output=False)
        owners = {each.executor_id for each in pending if each.executor_id} - {self.owner}
        dead = [owner for owner in owners if self.locks.is_dead(owner)]
        if dead:
            # A private name, but the public resume_workflow() forgets how often a job was recovered, and a job that
            # kills its worker would loop for ever. A test holds that the name exists and works.
            DBOS._recover_pending_workflows(dead)
        for owner in self.locks.names() - {LEADER}:
            if self.locks.is_dead(owner):
                self.locks.bury(owner)
        return dead

    def leads(self) -> bool:
        """Whether this is the one worker that plans and delivers; once it is, it is so to its end."""
        return self.locks.hold(LEADER)

    def forget_ended(self, before: datetime) -> int:
        """Delete what the engine remembers of runs that ended before `before`; what people see stands in our tables."""
        ended = DBOS.list_workflows(
            status=["SUCCESS", *DEAD], completed_before=before.isoformat(), load_input=False, load_output=False
        )
        if ended:
            DBOS.delete_workflows([each.workflow_id for each in ended])
        return len(ended)

    def stop(self) -> None:
        """What still runs is left to the next worker."""
        DBOS.destroy()
        self.locks.bury(self.owner)
        self.locks.release()


def _in_words(error: Exception | None) -> str:
    """Class and first line of what a workflow raised; the further lines of SQLAlchemy show values of the statement.

    What comes out of the engine's file is a PortableWorkflowError that has the class's name beside it.
    """
    name = getattr(error, "name", None) or type(error).__name__
    first_line, _, _ = str(error).partition("\n")
    return f"{name}: {first_line}"


def _prepare(database: Path) -> None:
    """WAL before DBOS opens the file (it does not ask for it), and nobody else may read or write it: rows that claim
    to be pickled would be unpickled."""
    database.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(database, os.O_CREAT | os.O_RDWR, 0o600))
    database.chmod(0o600)
    with sqlite3.connect(database) as connection:
        connection.execute("pragma journal_mode=wal")
    connection.close()


def _registered(work: Work) -> Any:
    @DBOS.step(name="make", preemptible=True)
    async def make(job_id: str, run: int) -> dict[str, Any]:
        return await work.make(job_id, run)

    @DBOS.step(name="keep")
    def keep(job_id: str, run: int, made: dict[str, Any]) -> dict[str, Any]:
        return work.keep(job_id, run, made)

    @DBOS.step(name="settle")
    def settle(job_id: str, run: int, kept: dict[str, Any]) -> None:
        work.settle(job_id, run, kept)

    @DBOS.workflow(name="job", max_recovery_attempts=RECOVERY_ATTEMPTS)
    async def job(job_id: str, run: int) -> None:
        made = await make(job_id, run)
        kept = made if "error" in made else await asyncio.to_thread(keep, job_id, run, made)
        await asyncio.to_thread(settle, job_id, run, kept)

    return job
