"""/api: jobs, the outbox, and what a study waits for. Everything that it answers is a row that people may see.

The application keeps in `app.state` what the data folder is (`archive`: Ingest) and what is configured (`settings`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, HTTPException, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from dicom_io.errors import Rejected
from plugin.archive import tombstones
from plugin.archive.index import Index
from plugin.archive.ingest import Ingest
from plugin.jobs import reconcile
from plugin.jobs.planning import explain
from plugin.jobs.port import DeliveryView, Jobs, JobView, NoSuchJob
from plugin.registry import Registry, UnknownModel
from plugin.settings import Settings

router = APIRouter(prefix="/api", tags=["jobs"])

Limit = Query(100, ge=1, le=1000)


@router.get("/jobs")
def list_jobs(
    request: Request, state: str | None = None, study: str | None = None, limit: int = Limit
) -> list[dict[str, Any]]:
    """Jobs, the newest first."""
    return [job.to_json() for job in _jobs(request).list(state=state, study_instance_uid=study, limit=limit)]


class Generation(BaseModel):
    """What `POST /api/jobs` is told: `n` samples of a generator, seeds from `seed` on, and where they are to go.

    truncation, guidance: trade variety for typical pictures, as in `mirall generate`.
    """

    model_config = ConfigDict(extra="forbid")

    model: str
    n: int = Field(ge=1, le=10_000)
    seed: int = Field(0, ge=0)
    label: str | None = None
    truncation: float | None = Field(None, ge=0.1)
    guidance: float | None = Field(None, ge=0)
    send_to: tuple[str, ...] = ()


@router.post("/jobs", status_code=202)
def generate(request: Request, wanted: Generation) -> dict[str, Any]:
    """Make synthetic samples: a labelled study of a fictitious patient in the archive, sent to `send_to`."""
    settings: Settings = request.app.state.settings
    unknown = sorted(set(wanted.send_to) - set(settings.destinations))
    if unknown:
        raise HTTPException(400, f"there is no destination {unknown[0]!r}; configured are: {_names(settings)}")
    try:
        address = Registry(settings.models).resolve(wanted.model).identity.address
    except UnknownModel as error:
        raise HTTPException(404, str(error)) from error
    jobs = _jobs(request)
    job = jobs.enqueue_generation(address, **wanted.model_dump(exclude={"model"}))
    return jobs.get(job).to_json()


@router.get("/jobs/{job_id}")
def show_job(request: Request, job_id: str) -> dict[str, Any]:
    """One job with its results and where they went."""
    return _answer(lambda: _jobs(request).get(job_id))


@router.post("/jobs/{job_id}/cancel")
def cancel_job(request: Request, job_id: str) -> dict[str, Any]:
    """Stop a job that waits or runs. 409 where it has ended."""
    return _answer(lambda: _jobs(request).cancel(job_id))


@router.post("/jobs/{job_id}/retry")
def retry_job(request: Request, job_id: str) -> dict[str, Any]:
    """Run a failed or cancelled job again, with its route's present `force` and `send_to`. 409 where it is neither, or
    where a later job took its place."""
    settings: Settings = request.app.state.settings
    return _answer(lambda: _jobs(request).retry(job_id, settings.routes))


@router.post("/studies/{study}/complete", status_code=202)
def study_complete(request: Request, study: str) -> dict[str, Any]:
    """All of the study has come; the routes look at it now instead of after the quiet time, and once more where they
    have looked before: a route that was added since then gets its job, and the jobs that are there stay the same."""
    try:
        _jobs(request).study_complete(study)
    except NoSuchJob as error:
        raise HTTPException(404, str(error)) from error
    return {"study": study, "complete": True}


@router.get("/studies/{study}/senders")
def list_senders(request: Request, study: str) -> list[dict[str, Any]]:
    """What the senders of a study were asked about it (study.reconcile): their state, counts, and a sentence."""
    here = _index(request).study(study)
    if here is None:
        raise HTTPException(404, f"study {study} is not in the archive; send it first")
    return [note.to_json() for note in reconcile.notes(_index(request), here)]


@router.get("/outbox")
def list_deliveries(
    request: Request, state: str | None = None, destination: str | None = None, limit: int = Limit
) -> list[dict[str, Any]]:
    """What is owed or was delivered, the newest first."""
    return [row.to_json() for row in _jobs(request).deliveries(state=state, destination=destination, limit=limit)]


@router.post("/outbox/retry")
def retry_deliveries(request: Request, state: str = "failed", destination: str | None = None) -> dict[str, int]:
    """Send all again, now, that failed (or are unknown, or held), to one destination or to all; else 409."""
    try:
        return {"retried": _jobs(request).retry_deliveries(state=state, destination=destination)}
    except Rejected as error:
        raise HTTPException(409, str(error)) from error


@router.get("/commitments")
def list_reports(request: Request, limit: int = Limit) -> list[dict[str, Any]]:
    """Storage commitment that peers asked us for, and how far our reports have come; the newest first."""
    return [row.to_json() for row in _jobs(request).reports(limit=limit)]


@router.get("/outbox/{number}")
def show_delivery(request: Request, number: int) -> dict[str, Any]:
    """One row of the outbox."""
    return _answer(lambda: _jobs(request).delivery(number))


@router.post("/outbox/{number}/retry")
def retry_delivery(request: Request, number: int) -> dict[str, Any]:
    """Send again, now."""
    return _answer(lambda: _jobs(request).retry_delivery(number))


@router.post("/outbox/{number}/cancel")
def cancel_delivery(request: Request, number: int) -> dict[str, Any]:
    """Do not send what is still to be sent. 409 where it has been sent."""
    return _answer(lambda: _jobs(request).cancel_delivery(number))


@router.get("/deletions")
def list_deletions(request: Request, study: str | None = None, limit: int = Limit) -> list[dict[str, Any]]:
    """What was deleted, the latest first: when, by whom, why, and which model versions had seen it."""
    return [each.to_json() for each in tombstones.deletions(_index(request), study, limit)]


@router.get("/routes/test/{study}")
def test_routes(request: Request, study: str) -> list[dict[str, Any]]:
    """Which routes pick a study, and why the others do not. Nothing is run."""
    if _index(request).study(study) is None:
        raise HTTPException(404, f"study {study} is not in the archive; send it first")
    settings: Settings = request.app.state.settings
    return [answer.to_json() for answer in explain(_index(request), settings, study)]


def _names(settings: Settings) -> str:
    return ", ".join(sorted(settings.destinations)) or "none"


def _index(request: Request) -> Index:
    archive: Ingest = request.app.state.archive
    return archive.index


def _jobs(request: Request) -> Jobs:
    return Jobs(_index(request))


def _answer(act: Callable[[], JobView | DeliveryView]) -> dict[str, Any]:
    """404 for what is not there, 409 for what cannot be done in this state."""
    try:
        return act().to_json()
    except NoSuchJob as error:
        raise HTTPException(404, str(error)) from error
    except Rejected as error:
        raise HTTPException(409, str(error)) from error
