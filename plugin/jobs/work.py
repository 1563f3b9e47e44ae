"""What a job does: read its input from the archive, have the warm child make results, store them, owe them to
destinations.

    make    in the child: files of the archive -> labelled DICOM files in the job's scratch folder
    keep    each file through the one ingest function, as for every door; then results, outbox and state in one commit
    settle  how it ended, and the scratch folder away

Each part may run again after a kill. Result UIDs are functions of the input, made_at was fixed in the plan, and what
the archive holds already is "held", so that a repeat makes the same objects and the first stored bytes stay.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Row, func, insert, null, select, update

from dicom_io.errors import ImagingError, Rejected
from dicom_io.provenance import LabelRecord
from plugin import encodings
from plugin.archive.arrival import Arrival
from plugin.archive.ingest import Ingest
from plugin.archive.storage import NoSpace, sync_file
from plugin.jobs.planning import (
    DONE,
    FAILED,
    RUNNING,
    WAITING,
    add_to_outbox,
    plan_again_for_results,
)
from plugin.jobs.port import next_run
from plugin.jobs.tables import Job, Result
from plugin.jobs.warm_child import WarmChild
from plugin.registry import Registry
from plugin.settings import Profile, Settings

log = logging.getLogger(__name__)

PROGRESS_EVERY_S = 1.0
GONE = {"error": {"kind": "gone", "sentence": ""}}  # cancelled, or another run took over: nothing is left to do or say


@dataclass(frozen=True)
class Persistence:
    """How often a job is started before it counts as failed, by why it failed, and the waits in between.

    again: a peer or resource did not answer (TryAgain, no space); memory and crashed: the child died.
    """

    again: int = 8
    memory: int = 2
    crashed: int = 3
    first_s: float = 10.0
    longest_s: float = 3600.0

    def attempts(self, kind: str) -> int:
        return {"again": self.again, "memory": self.memory, "crashed": self.crashed}.get(kind, 1)

    def wait_s(self, attempts: int) -> float:
        return min(self.longest_s, self.first_s * 2.0 ** min(attempts - 1, 30))


@dataclass(frozen=True)
class Kept:
    """A result that is stored: its record, finding and encoding."""

    record: LabelRecord
    finding: str
    encoding: str

    @property
    def uid(self) -> str:
        return self.record.sop_instance_uid


class JobWork:
    """The steps of jobs on one data folder; what `engine.Engine` runs. clock: seconds since 1970."""

    def __init__(
        self,
        settings: Settings,
        ingest: Ingest,
        registry: Registry,
        child: WarmChild,
        *,
        persistence: Persistence = Persistence(),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._ingest = ingest
        self._index = ingest.index
        self._registry = registry
        self._child = child
        self._persistence = persistence
        self._clock = clock
        self._in_child: tuple[str, int] | None = None  # the engine runs one job at a time (worker_concurrency)

    async def make(self, job_id: str, run: int) -> dict[str, Any]:
        """Gives {"made": [{"path", "record", "finding", "encoding"}, ...]} or {"error": {"kind", "sentence"}}.

        Cancelling it kills the child.
        """
        row = await asyncio.to_thread(self._begin, job_id, run)
        if row is None:
            return GONE
        out = self._scratch(job_id, run)
        try:
            request = await asyncio.to_thread(self._request, row, out)
        except ImagingError as error:
            return {"error": {"kind": "rejected", "sentence": str(error)}}
        self._in_child = (job_id, run)
        try:
            answer = await self._child.run(request, self._reporter(job_id, run))
        finally:
            self._in_child = None
        if "error" in answer:
            return {"error": answer["error"]}
        try:
            await asyncio.to_thread(_make_durable, out, [Path(each["path"]) for each in answer["result"]])
        except NoSpace as error:
            return {"error": {"kind": "again", "sentence": str(error)}}
        return {"made": answer["result"]}

    def keep(self, job_id: str, run: int, made: Mapping[str, Any]) -> dict[str, Any]:
        """Store what was made. Gives {"kept": n} or {"error": ...}; then nothing is owed to anybody."""
        if self._current(job_id, run) is None:
            return GONE
        results = []
        try:
            for each in made["made"]:
                record = LabelRecord.from_json(each["record"])
                self._store(Path(each["path"]), record)
                # A step that an earlier version remembered knows no encoding.
                results.append(Kept(record, str(each["finding"]), str(each.get("encoding", ""))))
        except NoSpace as error:
            return {"error": {"kind": "again", "sentence": str(error)}}
        except (ImagingError, OSError) as error:
            return {"error": {"kind": "rejected", "sentence": str(error)}}
        return self._finish(job_id, run, results)

    def settle(self, job_id: str, run: int, kept: Mapping[str, Any]) -> None:
        """Enter how the run ended, and remove its scratch folder."""
        error = kept.get("error")
        if error is not None and error["kind"] != "gone":
            self._fail(job_id, run, error["kind"], error["sentence"])
        shutil.rmtree(self._scratch(job_id, run), ignore_errors=True)

    def give_back(self) -> list[tuple[str, int]]:
        """At an orderly end: the job in the child waits again, for the next worker, and the attempt is not counted.

        Gives (id, run) of the run to stop, if there is one.
        """
        mine = self._in_child
        if mine is None:
            return []
        with self._index.write() as connection:
            connection.execute(
                update(Job)
                .where(Job.id == mine[0], Job.run == mine[1], Job.state == RUNNING)
                .values(next_run(attempts=Job.attempts - 1))
            )
        return [mine]

    def clear_scratch(self) -> None:
        """Remove scratch folders of runs that no job has any more (a kill between `keep` and `settle`)."""
        with self._index.read() as connection:
            open_jobs = select(Job.id, Job.run).where(Job.state.in_((WAITING, RUNNING)))
            wanted = {self._scratch(row.id, row.run).name for row in connection.execute(open_jobs)}
        for folder in self.scratch.glob("*-*"):
            if folder.name not in wanted:
                shutil.rmtree(folder, ignore_errors=True)

    @property
    def scratch(self) -> Path:
        return self._settings.data / "scratch"

    def _scratch(self, job_id: str, run: int) -> Path:
        return self.scratch / f"{job_id}-{run}"

    def _begin(self, job_id: str, run: int) -> Row[Any] | None:
        """Enter that it runs; None where it was cancelled or this run is not the current one."""
        with self._index.write() as connection:
            connection.execute(
                update(Job)
                .where(Job.id == job_id, Job.run == run, Job.state.in_((WAITING, RUNNING)))
                .values(state=RUNNING, started_at=self._clock(), attempts=Job.attempts + 1, error="", progress=null())
            )
            return connection.execute(
                select(Job.__table__).where(Job.id == job_id, Job.run == run, Job.state == RUNNING)
            ).first()

    def _current(self, job_id: str, run: int) -> Row[Any] | None:
        with self._index.read() as connection:
            return connection.execute(
                select(Job.__table__).where(Job.id == job_id, Job.run == run, Job.state == RUNNING)
            ).first()

    def _request(self, row: Row[Any], out: Path) -> dict[str, Any]:
        """What the child is asked. Raises Rejected: the model version or some of the input is gone."""
        entry = self._registry.resolve(row.model)
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        made_at = datetime.fromtimestamp(row.made_at, UTC).astimezone().isoformat()
        common = {
            "kind": row.kind,
            "model": str(entry.folder),
            "out": str(out),
            "made_at": made_at,
            "encodings": encodings.needed(self._profiles(row.spec["send_to"]).values()),
        }
        if row.kind == "generate":
            asked = {name: row.spec[name] for name in ("n", "seed", "label")}
            return common | asked | {"settings": row.spec.get("settings", {})}
        files = self._files(row.spec["instances"], row.study_instance_uid)
        return common | {"files": files, "force": row.spec["force"]}

    def _profiles(self, names: Sequence[str]) -> dict[str, Profile]:
        """As configured now. A destination that is not there any more gets the default, and is held."""
        known = self._settings.destinations
        return {name: known[name].profile if name in known else Profile() for name in names}

    def _files(self, uids: Sequence[str], study_instance_uid: str) -> list[str]:
        instances = self._index.instances(study_instance_uid)
        wanted = set(uids)
        files = [str(each.path) for each in instances if each.sop_instance_uid in wanted and each.path.is_file()]
        if len(files) < len(wanted):
            # Fewer slices than were planned are another input, and it may well look like a whole one.
            raise Rejected(
                f"{len(wanted) - len(files)} of the {len(wanted)} instances of study {study_instance_uid} that the job "
                "was planned on are not in the archive any more; send them again"
            )
        return files

    def _reporter(self, job_id: str, run: int) -> Callable[[Mapping[str, Any]], Any]:
        last = 0.0

        async def report(progress: Mapping[str, Any]) -> None:
            nonlocal last
            if time.monotonic() - last >= PROGRESS_EVERY_S:
                last = time.monotonic()
                await asyncio.to_thread(self._note_progress, job_id, run, progress)

        return report

    def _note_progress(self, job_id: str, run: int, progress: Mapping[str, Any]) -> None:
        with self._index.write() as connection:
            connection.execute(
                update(Job)
                .where(Job.id == job_id, Job.run == run, Job.state == RUNNING)
                .values(progress=dict(progress))
            )

    def _store(self, made: Path, record: LabelRecord) -> None:
        """Through the same function as for every door; it checks the labels and raises Unlabelled."""
        if not made.exists():
            # A kill after the folder was removed and before the engine knew: then all of it is stored.
            if self._index.instance(record.sop_instance_uid) is None:
                raise Rejected(f"the result {record.sop_instance_uid} is gone from {made.parent}; run the job again")
            return
        received = self._ingest.storage.receive_file(made)
        outcome = self._ingest.accept(received, Arrival("own"), record)
        if not outcome.accepted:
            raise Rejected(f"the result {record.sop_instance_uid} was not stored: {outcome.reason}")

    def _finish(self, job_id: str, run: int, made: Sequence[Kept]) -> dict[str, Any]:
        """Results, what is owed, and the state, in one commit."""
        now = self._clock()
        studies = sorted({each.record.study_instance_uid for each in made})
        with self._index.write() as connection:
            row = connection.execute(
                update(Job)
                .where(Job.id == job_id, Job.run == run, Job.state == RUNNING)
                .values(
                    state=DONE,
                    ended_at=now,
                    error="",
                    progress=null(),
                    study_instance_uid=func.coalesce(Job.study_instance_uid, studies[0] if studies else None),
                )
                .returning(Job.spec)
            ).first()
            if row is None:
                return GONE
            known = set(connection.scalars(select(Result.sop_instance_uid).where(Result.job_id == job_id)))
            new = [
                {"job_id": job_id, "sop_instance_uid": each.uid, "finding": each.finding, "encoding": each.encoding}
                for each in made
                if each.uid not in known
            ]
            if new:
                connection.execute(insert(Result), new)
            written = {each.encoding for each in made}
            for study in studies:
                of_study = [each for each in made if each.record.study_instance_uid == study]
                for name, profile in self._profiles(row.spec["send_to"]).items():
                    uids = [each.uid for each in of_study if encodings.fits(each.encoding, profile, written)]
                    add_to_outbox(connection, study, uids, [name], now, job_id)
                plan_again_for_results(connection, self._settings, study)
        log.info("job %s: done, %d results", job_id, len(made))
        return {"kept": len(made)}

    def _fail(self, job_id: str, run: int, kind: str, sentence: str) -> None:
        now = self._clock()
        with self._index.write() as connection:
            attempts = connection.scalar(
                select(Job.attempts).where(Job.id == job_id, Job.run == run, Job.state == RUNNING)
            )
            if attempts is None:
                return
            if attempts < self._persistence.attempts(kind):
                changes = next_run(error=sentence, not_before=now + self._persistence.wait_s(attempts))
            else:
                changes = {"state": FAILED, "error": sentence, "ended_at": now, "progress": null()}
            connection.execute(update(Job).where(Job.id == job_id, Job.run == run).values(changes))
        log.warning("job %s, attempt %d: %s", job_id, attempts, sentence)


def _make_durable(folder: Path, files: Sequence[Path]) -> None:
    """The engine remembers this step as done: its files must outlive a loss of power, too."""
    for file in files:
        sync_file(file)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
