"""`mirall jobs`, `outbox`, `routes` and `destinations`: what is done, what is owed, and why.

They read and write the data folder of a service that runs or not; a running worker sees a change within a second.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dicom_io.errors import Rejected

if TYPE_CHECKING:
    from plugin.archive.index import Index
    from plugin.dry_run import Planned
    from plugin.jobs.port import DeliveryView, Jobs, JobView
    from plugin.settings import Settings

Config = Annotated[Path | None, typer.Option("--config", help="mirall.toml; else the one in this folder.")]
Data = Annotated[Path | None, typer.Option("--data", help="Data folder, in place of the configured one.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=1000, help="At most so many, the newest first.")]
JobId = Annotated[str, typer.Argument(metavar="ID", help="Id of a job, or its beginning.")]
RowNumber = Annotated[int, typer.Argument(metavar="NUMBER", help="Number of a row of the outbox.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of a configured destination.")]

jobs = typer.Typer(no_args_is_help=True, help="Jobs: what the routes asked for.\n\nExample: mirall jobs list")
outbox = typer.Typer(
    no_args_is_help=True, help="The outbox: what is owed to destinations.\n\nExample: mirall outbox list --state failed"
)
routes = typer.Typer(
    no_args_is_help=True, help="Routes: which studies they pick.\n\nExample: mirall routes test 1.2.840.1"
)
destinations = typer.Typer(
    no_args_is_help=True, help="Destinations: peers that results go to.\n\nExample: mirall destinations echo pacs"
)


def register(app: typer.Typer) -> None:
    app.add_typer(jobs, name="jobs")
    app.add_typer(outbox, name="outbox")
    app.add_typer(routes, name="routes")
    app.add_typer(destinations, name="destinations")


@jobs.command("list")
def list_jobs(
    state: Annotated[str | None, typer.Option("--state", help="waiting, running, done, failed or cancelled.")] = None,
    study: Annotated[str | None, typer.Option("--study", help="Study Instance UID.")] = None,
    limit: Limit = 50,
    config: Config = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Jobs, the newest first.

    Example: mirall jobs list --state failed
    """
    from plugin.jobs.port import STATES

    _one_of("--state", state, STATES)
    found = _jobs(config, data).list(state=state, study_instance_uid=study, limit=limit)
    rows = [
        (job.id, _state(job), job.model, job.route, job.study_instance_uid or "", _when(job), _words(job))
        for job in found
    ]
    _table(("id", "state", "model", "route", "study", "when", ""), rows, [job.to_json() for job in found], as_json)


@jobs.command("show")
def show_job(job_id: JobId, config: Config = None, data: Data = None, as_json: AsJson = False) -> None:
    """One job with its results and where they went.

    Example: mirall jobs show 3f2a
    """
    _print(_jobs(config, data).get(job_id).to_json(), as_json)


@jobs.command("cancel")
def cancel_job(job_id: JobId, config: Config = None, data: Data = None, as_json: AsJson = False) -> None:
    """Stop a job that waits or runs.

    Example: mirall jobs cancel 3f2a
    """
    _print(_jobs(config, data).cancel(job_id).to_json(), as_json)


@jobs.command("retry")
def retry_job(job_id: JobId, config: Config = None, data: Data = None, as_json: AsJson = False) -> None:
    """Run a failed or cancelled job again, on the same input, with its route's present `force` and `send_to`.

    Example: mirall jobs retry 3f2a
    """
    from plugin.jobs.port import Jobs

    configuration, index = _opened(config, data)
    _print(Jobs(index).retry(job_id, configuration.routes).to_json(), as_json)


@outbox.command("list")
def list_deliveries(
    state: Annotated[
        str | None, typer.Option("--state", help="queued, held, sent, delivered, committed, unknown or failed.")
    ] = None,
    destination: Annotated[str | None, typer.Option("--to", help="Name of a destination.")] = None,
    limit: Limit = 50,
    config: Config = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """What is owed or was delivered, the newest first.

    Example: mirall outbox list --to pacs --state failed
    """
    from plugin.jobs.delivery import STATES

    _one_of("--state", state, STATES)
    found = _jobs(config, data).deliveries(state=state, destination=destination, limit=limit)
    rows = [
        (str(row.id), row.state, row.destination, row.sop_instance_uid, str(row.attempts), _next(row), row.last_error)
        for row in found
    ]
    titles = ("number", "state", "destination", "instance", "attempts", "next", "")
    _table(titles, rows, [row.to_json() for row in found], as_json)


@outbox.command("show")
def show_delivery(number: RowNumber, config: Config = None, data: Data = None, as_json: AsJson = False) -> None:
    """One row of the outbox.

    Example: mirall outbox show 12
    """
    _print(_jobs(config, data).delivery(number).to_json(), as_json)


@outbox.command("retry")
def retry_delivery(
    number: Annotated[int | None, typer.Argument(metavar="NUMBER", help="Number of a row of the outbox.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every row of `--state` (and `--destination`).")] = False,
    state: Annotated[str, typer.Option("--state", help="With --all: failed, unknown or held.")] = "failed",
    destination: Annotated[
        str | None, typer.Option("--destination", help="With --all: only what goes to this destination.")
    ] = None,
    config: Config = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Send again, now: one row, or all that failed.

    Example: mirall outbox retry --all --destination pacs
    """
    if (number is None) != every:
        raise typer.BadParameter("give the number of a row, or --all", param_hint="NUMBER")
    if number is not None:
        _print(_jobs(config, data).retry_delivery(number).to_json(), as_json)
        return
    from plugin.jobs.port import RETRIED

    _one_of("--state", state, RETRIED)
    count = _jobs(config, data).retry_deliveries(state=state, destination=destination)
    typer.echo(json.dumps({"retried": count}) if as_json else f"{count} rows are sent again")


@outbox.command("plan")
def plan_deliveries(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="Study Instance UID of a study in the archive.")],
    job: Annotated[str | None, typer.Option("--job", help="Only the results of this job.")] = None,
    config: Config = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """What would be sent of a study, to whom, in which encoding, and what would be held and why. Nothing is sent.

    Example: mirall outbox plan 1.2.840.113619.2.1
    """
    from plugin import dry_run

    configuration, index = _opened(config, data)
    wanted = None if job is None else _jobs(config, data).get(job).id
    show_plan(dry_run.of_study(index, configuration, study, wanted), as_json)


def show_plan(planned: Sequence[Planned], as_json: bool) -> None:
    """The table of a dry run."""
    rows = [
        (
            each.destination,
            each.sop_instance_uid,
            each.sop_class + (f" ({each.encoding})" if each.encoding else ""),
            f"{each.stored} -> {each.leaves or '?'}" if each.verdict == "leaves" else each.stored,
            f"{each.size / 1000:.0f} kB",
            each.verdict + (f", {each.owed} already" if each.owed else ""),
            each.why,
        )
        for each in planned
    ]
    titles = ("destination", "instance", "SOP class", "transfer syntax", "size", "verdict", "")
    _table(titles, rows, [each.to_json() for each in planned], as_json)


@outbox.command("commitments")
def list_commitments(limit: Limit = 50, config: Config = None, data: Data = None, as_json: AsJson = False) -> None:
    """Storage commitment that peers asked us for, and whether they took our reports; the newest first.

    Example: mirall outbox commitments
    """
    found = _jobs(config, data).reports(limit=limit)
    rows = [(each.peer, each.transaction_uid, str(each.instances), each.state, each.last_error) for each in found]
    _table(("peer", "transaction", "instances", "report", ""), rows, [each.to_json() for each in found], as_json)


@outbox.command("cancel")
def cancel_delivery(number: RowNumber, config: Config = None, data: Data = None, as_json: AsJson = False) -> None:
    """Do not send what is still to be sent.

    Example: mirall outbox cancel 12
    """
    _print(_jobs(config, data).cancel_delivery(number).to_json(), as_json)


@routes.command("test")
def test_routes(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="Study Instance UID of a study in the archive.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be sent, object by object.")] = False,
    config: Config = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Which routes pick a study, and why the others do not. Nothing is run, nothing is sent.

    On stderr: what its senders were asked about it (study.reconcile), and answered.

    Example: mirall routes test 1.2.840.113619.2.1
    """
    if dry_run:
        plan_deliveries(study, None, config, data, as_json)
        return
    from plugin.jobs import reconcile
    from plugin.jobs.planning import explain

    configuration, index = _opened(config, data)
    here = index.study(study)
    if here is None:
        raise Rejected(f"study {study} is not in the archive; send it first")
    found = explain(index, configuration, study)
    rows = [(each.route, "yes" if each.matches else "no", each.why, " ".join(each.run)) for each in found]
    _table(("route", "picks", "why", "runs"), rows, [each.to_json() for each in found], as_json)
    for note in reconcile.notes(index, here):
        asked = f"{note.destination}, its sender, was asked for its list: {note.state}"
        earlier = "" if note.is_current else " (something arrived since)"
        typer.echo(f"{asked}{earlier}" + (f"; {note.sentence}" if note.sentence else ""), err=True)


@destinations.command("echo")
def echo(name: Name, config: Config = None, data: Data = None) -> None:
    """Ask whether a destination answers: C-ECHO, or a search for STOW.

    Example: mirall destinations echo pacs
    """
    from plugin.destinations import opened

    configuration = _settings(config, data)
    typer.echo(opened(_destination(configuration, name), configuration.node.aet).echo())


@destinations.command("probe")
def probe(name: Name, config: Config = None, data: Data = None, as_json: AsJson = False) -> None:
    """What a destination takes and answers, and a profile to paste. Nothing is sent but C-ECHO, nothing is changed.

    Example: mirall destinations probe pacs
    """
    from plugin import probing

    configuration = _settings(config, data)
    found = probing.probe(name, _destination(configuration, name), configuration.node.aet)
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=1))
        return
    typer.echo(found.answers)
    _table(("question", "answer"), list(found.services.items()), [], False)
    if found.storage:
        rows = [(each, ", ".join(syntaxes) or "not taken") for each, syntaxes in found.storage.items()]
        _table(("SOP class", "taken in"), rows, [], False)
    for sentence in (*found.notes, *(f"not known: {each}" for each in found.unknown)):
        typer.echo(sentence)
    if found.profile:
        typer.echo(f"\nProposed; look, then paste it into mirall.toml:\n\n{found.profile}")


def _settings(config: Path | None, data: Path | None) -> Settings:
    from plugin import settings

    return settings.load(config, data=data)


def _opened(config: Path | None, data: Path | None) -> tuple[Settings, Index]:
    from plugin.archive.index import Index

    configuration = _settings(config, data)
    if not (configuration.data / "index.sqlite").is_file():
        raise Rejected(f"{configuration.data} is no data folder: it has no index.sqlite; give --data or --config")
    index = Index(configuration.data)
    index.upgrade()
    return configuration, index


def _jobs(config: Path | None, data: Path | None) -> Jobs:
    from plugin.jobs.port import Jobs

    return Jobs(_opened(config, data)[1])


def _destination(configuration: Settings, name: str) -> Any:
    if name not in configuration.destinations:
        known = ", ".join(sorted(configuration.destinations)) or "none"
        raise Rejected(f"there is no destination {name!r}; configured are: {known}")
    return configuration.destinations[name]


def _one_of(option: str, value: str | None, allowed: Sequence[str]) -> None:
    if value is not None and value not in allowed:
        raise typer.BadParameter(f"{value!r} is none of {', '.join(allowed)}", param_hint=option)


def _state(job: JobView) -> str:
    marks = (" incomplete" if job.incomplete else "") + (" superseded" if job.superseded_by else "")
    undelivered = ", delivery failed" if "failed" in job.deliveries else ""
    return job.state + marks + undelivered


def _when(job: JobView) -> str:
    return datetime.fromtimestamp(job.ended_at or job.started_at or job.created_at).strftime("%m-%d %H:%M:%S")


def _words(job: JobView) -> str:
    """What to say of a job in a few words: its error, its progress, or what came of it."""
    if job.error:
        return job.error
    if job.state == "running" and job.progress:
        return f"{job.progress.get('stage', '')} {job.progress.get('done', '')}/{job.progress.get('total', '')}"
    made = "; ".join(dict.fromkeys(result.finding for result in job.results if result.finding))
    return "; ".join(part for part in (made, job.delivery) if part)


def _next(row: DeliveryView) -> str:
    return "" if row.next_attempt_at is None else f"in {max(0.0, row.next_attempt_at - time.time()):.0f} s"


def _print(fields: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(fields, indent=1))
        return
    for name, value in fields.items():
        if name.endswith(("_at", "_before")) and value is not None:
            shown = datetime.fromtimestamp(value).isoformat(sep=" ", timespec="seconds")
        else:
            shown = value if isinstance(value, str) else json.dumps(value)
        typer.echo(f"{name:18} {shown}")


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]], records: Sequence[Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(list(records), indent=1))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    if not console.is_terminal:  # for other programs: a line for each row, with tabs between what may hold spaces
        for line in (titles, *rows):
            typer.echo("\t".join(" ".join(field.split()) for field in line))
        return
    table = Table(box=None, pad_edge=False)
    for title in titles:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)
