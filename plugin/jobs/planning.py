"""From a study that is complete to the jobs that the routes ask for.

The index is the truth about what must still be done: a study whose input_hash is not its planned_hash is owed a plan.
`sweep` asks for those; it is the only alarm clock. An engine's debouncer would be a second one that must be set after
each index commit, and a kill between the two would need this sweep anyway. A poke (`Jobs.study_complete`) only writes
a time that the next sweep, within a second, sees.

A plan is one transaction: the jobs, what they supersede, and the planned_hash. Planning twice changes nothing,
because a job's id is a function of study, picked input, route and model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, insert, null, select, update

from plugin import encodings
from plugin.archive.index import NO_INPUT, Index, InstanceRow, StudyRow, hash_of_input
from plugin.archive.tables import Study
from plugin.jobs import reconcile
from plugin.jobs.tables import Delivery, Job, Result, study_is_due
from plugin.registry import Registry, UnknownModel
from plugin.routes import Candidate, judge
from plugin.settings import Profile, Route, Settings

WAITING, RUNNING, DONE, FAILED, CANCELLED = "waiting", "running", "done", "failed", "cancelled"
# SQLite takes 32766 values in one statement at most.
_VALUES = 10_000
INPUT_DELETED = "its input was deleted from the archive"
"""Error of a job that a deletion cancelled; the same input, sent anew, lets it run anew."""


@dataclass(frozen=True)
class Completeness:
    """Whether a study may be planned now, as far as its arrivals say.

    incomplete: it still grows, but has done so for too long. is_quiet: it is ready because nothing came for a while,
    which its sender may know better. is_told: somebody has said so.
    """

    ready: bool
    incomplete: bool = False
    is_quiet: bool = False
    is_told: bool = False


def completeness(study: StudyRow, settings: Settings, now: float) -> Completeness:
    """Quiet for `quiet_s`, or told so since the last arrival, or growing for `maximum_wait_s`.

    A last arrival in the future (the clock was set back) counts as now, so that nothing waits for the clock.
    """
    # Nothing of others in it: there is nothing to wait for.
    if study.input_hash == NO_INPUT:
        return Completeness(ready=True)
    if study.told_complete_at is not None and study.told_complete_at >= study.last_arrival_at:
        return Completeness(ready=True, is_told=True)
    if abs(now - study.last_arrival_at) >= settings.study.quiet_s:
        return Completeness(ready=True, is_quiet=True)
    overdue = abs(now - study.first_arrival_at) >= settings.study.maximum_wait_s
    return Completeness(ready=overdue, incomplete=overdue)


def sweep(index: Index, settings: Settings, now: float) -> list[str]:
    """Plan every study that is due and complete; gives the ids of the jobs that are new.

    A quiet study first waits for its senders' lists, where they can be asked (`reconcile`).
    """
    with index.read() as connection:
        due = list(connection.scalars(select(Study.study_instance_uid).where(study_is_due)))
    created: list[str] = []
    for uid in due:
        study = index.study(uid)
        if study is not None and _may_plan(index, settings, study, now):
            created += plan(index, settings, uid, now)
    return created


def _may_plan(index: Index, settings: Settings, study: StudyRow, now: float) -> bool:
    seen = completeness(study, settings, now)
    if seen.is_quiet:
        return not reconcile.ask(index, settings, study, now).must_wait
    # What was fetched just now is an arrival; a sender's list says more than its age.
    return seen.ready or reconcile.answer(index, study).settled


def plan(index: Index, settings: Settings, study_instance_uid: str, now: float) -> list[str]:
    """Write the jobs that the routes ask for, in one transaction; gives the ids of the new ones."""
    with index.write() as connection:
        study = index.study(study_instance_uid, connection)
        if study is None:
            return []
        incomplete = _is_incomplete(index, settings, study, now, connection)
        candidates = study_candidates(index, study_instance_uid, connection)
        created: list[str] = []
        registry = Registry(settings.models)
        for route in settings.routes:
            picked = judge(route, _visible(route, candidates, settings.routes)).picked
            if not picked:
                continue
            for asked in route.run:
                created += _add_job(connection, registry, study_instance_uid, route, asked, picked, incomplete, now)
            if not route.run:  # a route without a model passes on what it picks
                uids = [each.sop_instance_uid for each in picked]
                for name in route.send_to:
                    fitting = of_encoding(connection, study_instance_uid, uids, settings.destinations[name].profile)
                    add_to_outbox(connection, study_instance_uid, fitting, [name], now)
        index.mark_planned(connection, study_instance_uid, study.input_hash)
    return created


def _version(registry: Registry, asked: str) -> str:
    """What a route runs now: a bare name is the version that was released last. One that is not there stays as it is
    written, and its job fails with a sentence."""
    try:
        return registry.whole_address(asked)
    except UnknownModel:
        return asked


def _is_incomplete(index: Index, settings: Settings, study: StudyRow, now: float, connection: Connection) -> bool:
    """A person's word before the sender's list, and that before the timer."""
    seen, said = completeness(study, settings, now), reconcile.answer(index, study, connection)
    if seen.is_told:
        return False
    return said.incomplete if said.settled else seen.incomplete


@dataclass(frozen=True)
class RouteAnswer:
    """What one route makes of a study. why: a sentence; series: those that it picks; run, send_to: what it would do."""

    route: str
    matches: bool
    why: str
    series: tuple[str, ...]
    run: tuple[str, ...]
    send_to: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def explain(index: Index, settings: Settings, study_instance_uid: str) -> list[RouteAnswer]:
    """What each route makes of a study as it is now; nothing is planned."""
    candidates = study_candidates(index, study_instance_uid)
    registry = Registry(settings.models)
    answers = []
    for route in settings.routes:
        verdict = judge(route, _visible(route, candidates, settings.routes))
        series = tuple(sorted({each.series_instance_uid for each in verdict.picked}))
        versions = tuple(_version(registry, asked) for asked in route.run)
        answers.append(RouteAnswer(route.name, verdict.matches, verdict.why, series, versions, route.send_to))
    return answers


def study_candidates(index: Index, study_instance_uid: str, connection: Connection | None = None) -> list[Candidate]:
    rows = index.instances(study_instance_uid, connection=connection)
    made_by = _routes_of_results(index, study_instance_uid, connection) if any(r.made_by_us for r in rows) else {}
    return [_candidate(row, made_by.get(row.sop_instance_uid, "")) for row in rows]


def job_id(study_instance_uid: str, input_hash: str, route: str, model: str) -> str:
    name = json.dumps([study_instance_uid, input_hash, route, model])
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def add_to_outbox(
    connection: Connection,
    study_instance_uid: str,
    sop_instance_uids: Iterable[str],
    destinations: Sequence[str],
    now: float,
    job: str | None = None,
) -> None:
    """Owe these instances to these destinations; what is owed or was delivered already is not owed again, also where a
    correction has moved it into this study since."""
    uids = list(sop_instance_uids)
    owed = {
        (destination, uid)
        for start in range(0, len(uids), _VALUES)
        for uid, destination in connection.execute(
            select(Delivery.sop_instance_uid, Delivery.destination).where(
                Delivery.sop_instance_uid.in_(uids[start : start + _VALUES])
            )
        )
    }
    rows = [
        {
            "sop_instance_uid": uid,
            "study_instance_uid": study_instance_uid,
            "destination": destination,
            "job_id": job,
            "state": "queued",
            "attempts": 0,
            "checks": 0,
            "next_attempt_at": now,
            "last_error": "",
            "created_at": now,
            "updated_at": now,
        }
        for destination in destinations
        for uid in uids
        if (destination, uid) not in owed
    ]
    if rows:
        connection.execute(insert(Delivery), rows)


def of_encoding(connection: Connection, study_instance_uid: str, uids: Sequence[str], profile: Profile) -> list[str]:
    """Of these instances of a study those to send to a destination of this profile: of results that were written in
    several encodings, one."""
    jobs: dict[str, dict[str, str]] = {}
    wanted = set(uids)
    rows = connection.execute(
        select(Result.job_id, Result.sop_instance_uid, Result.encoding)
        .join(Job, Job.id == Result.job_id)
        .where(Job.study_instance_uid == study_instance_uid)
    )
    for row in rows:
        jobs.setdefault(row.job_id, {})[row.sop_instance_uid] = row.encoding
    others = {
        uid
        for made in jobs.values()
        for uid, encoding in made.items()
        if uid in wanted and not encodings.fits(encoding, profile, made.values())
    }
    return [uid for uid in uids if uid not in others]


def new_job(now: float, **columns: Any) -> dict[str, Any]:
    """The columns of a job that waits for its first run."""
    return {
        "incomplete": False,
        "input_hash": "",
        "state": WAITING,
        "error": "",
        "run": 1,
        "attempts": 0,
        "handed_over": False,
        "made_at": now,
        "created_at": now,
    } | columns


def plan_again_for_results(connection: Connection, settings: Settings, study_instance_uid: str) -> None:
    """Our own results do not count as input; where a route takes results, their coming makes the study due all the
    same. Jobs that are planned already stay the same ones."""
    if any(route.allow_results for route in settings.routes):
        connection.execute(
            update(Study).where(Study.study_instance_uid == study_instance_uid).values(planned_hash=null())
        )


def _add_job(
    connection: Connection,
    registry: Registry,
    study_instance_uid: str,
    route: Route,
    asked: str,
    picked: Sequence[Candidate],
    incomplete: bool,
    now: float,
) -> list[str]:
    input_hash = NO_INPUT
    for each in picked:
        input_hash = hash_of_input(input_hash, add=(each.sop_instance_uid, each.dataset_hash))
    of_model = Job.model == asked
    if ":" not in asked:
        of_model = of_model | Job.model.startswith(f"{asked}:", autoescape=True)
    same_work = (Job.study_instance_uid == study_instance_uid, Job.route == route.name, of_model)
    # A version that is released later works on what comes later: input that was planned for stays with its version.
    planned = (
        select(Job.model)
        .where(*same_work, Job.input_hash == input_hash, Job.model != asked)
        .order_by(Job.created_at.desc())
    )
    model = connection.scalar(planned) or _version(registry, asked)
    identifier = job_id(study_instance_uid, input_hash, route.name, model)
    # An input set that was there before and is back (a correction was undone) makes its old job the current one.
    connection.execute(update(Job).where(*same_work, Job.id != identifier).values(superseded_by=identifier))
    connection.execute(update(Job).where(Job.id == identifier).values(superseded_by=null(), incomplete=incomplete))
    if connection.scalar(select(Job.id).where(Job.id == identifier)):
        return _run_anew(connection, identifier)
    # What has not begun on an older input is not worth beginning.
    connection.execute(
        update(Job)
        .where(*same_work, Job.id != identifier, Job.state == WAITING)
        .values(state=CANCELLED, ended_at=now, handed_over=False, error="a later state of the study took its place")
    )
    spec = {
        "instances": [each.sop_instance_uid for each in picked],
        "force": route.force,
        "send_to": list(route.send_to),
    }
    connection.execute(
        insert(Job).values(
            new_job(
                now,
                id=identifier,
                kind="predict",
                study_instance_uid=study_instance_uid,
                route=route.name,
                model=model,
                input_hash=input_hash,
                incomplete=incomplete,
                spec=spec,
            )
        )
    )
    return [identifier]


def _run_anew(connection: Connection, identifier: str) -> list[str]:
    """A job whose input was deleted and has come again."""
    revived = connection.execute(
        update(Job)
        .where(Job.id == identifier, Job.state == CANCELLED, Job.error == INPUT_DELETED)
        .values(
            state=WAITING, error="", run=Job.run + 1, attempts=0, handed_over=False, progress=null(), ended_at=null()
        )
    )
    return [identifier] if revived.rowcount else []


def _visible(route: Route, candidates: Sequence[Candidate], routes: Sequence[Route]) -> list[Candidate]:
    """What a route may see. A route that takes results takes those of routes that do not: no chain can feed itself."""
    chained = {each.name for each in routes if each.allow_results} | {route.name}
    return [each for each in candidates if each.route not in chained]


def _candidate(row: InstanceRow, route: str) -> Candidate:
    return Candidate(
        sop_instance_uid=row.sop_instance_uid,
        series_instance_uid=row.series_instance_uid,
        dataset_hash=row.dataset_hash,
        attributes=row.attributes,
        door=row.door,
        calling_aet=row.calling_aet,
        called_aet=row.called_aet,
        address=row.address,
        arrived_at=row.arrived_at,
        made_by_us=row.made_by_us,
        route=route,
    )


def _routes_of_results(index: Index, study_instance_uid: str, connection: Connection | None) -> Mapping[str, str]:
    query = (
        select(Result.sop_instance_uid, Job.route)
        .join(Job, Job.id == Result.job_id)
        .where(Job.study_instance_uid == study_instance_uid)
        # Of two routes that made the same object, the one that takes results must not see it: any will do.
        .order_by(Job.created_at)
    )
    if connection is not None:
        return {row.sop_instance_uid: row.route for row in connection.execute(query)}
    with index.read() as own:
        return {row.sop_instance_uid: row.route for row in own.execute(query)}
