"""The web application: DICOMweb below /dicom-web, the API below /api, health, and a page of what is going on."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse
from jinja2 import Environment, PackageLoader, select_autoescape

from plugin.api import router as api_router
from plugin.archive.gate import Gate
from plugin.archive.ingest import Ingest
from plugin.archive.query import parse, run
from plugin.archive.tombstones import ready_made
from plugin.dicomweb import capabilities, delete, problems, qido, stow, ups, wado, wado_uri
from plugin.dicomweb.doorkeeper import Cors, Doorkeeper
from plugin.dicomweb.metadata import Cache
from plugin.dicomweb.resources import Sets
from plugin.jobs.port import Jobs
from plugin.settings import Settings
from plugin.worklist.workitems import Worklist

_PAGE_ROWS = 50


def create(settings: Settings, ingest: Ingest) -> FastAPI:
    """The application over one archive. `app.state` holds settings, archive (Ingest) and gate for the routes."""
    # No /docs: FastAPI's page loads its script from another host. The description itself is at /api/openapi.json.
    app = FastAPI(
        title="Mirall",
        version=metadata.version("mirall"),
        description="Research use only, not for diagnosis.",
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
    )
    app.state.settings = settings
    app.state.archive = ingest
    app.state.gate = Gate()
    app.state.sets = Sets(ingest.index)
    app.state.metadata = Cache(ready_made(settings.node.data), settings.archive.metadata_cache_mb)
    app.state.worklist = Worklist(ingest.index, settings)
    app.state.channels = ups.Channels(ingest.index, app.state.worklist, settings.node.aet)
    # The first that fits answers, and each that is tried before it takes time: what viewers ask most stands first.
    dicomweb = (wado.router, qido.router, stow.router, delete.router, ups.router)
    for router in (*dicomweb, capabilities.router_for(dicomweb)):
        app.include_router(router, prefix="/dicom-web")
    app.include_router(wado_uri.router)
    app.include_router(api_router)
    app.include_router(pages)
    problems.install(app)
    app.add_middleware(Doorkeeper, node=settings.node)
    if settings.node.cors_origins:
        # Outermost: a browser asks before it shows a token, and must be able to read a refusal.
        app.add_middleware(Cors, node=settings.node)
    return app


# Health and the status page

pages = APIRouter(include_in_schema=False)
_templates = Environment(loader=PackageLoader("plugin.dicomweb"), autoescape=select_autoescape())


@pages.get("/health/live")
def live() -> dict[str, str]:
    """The process answers."""
    return {"status": "live"}


@pages.get("/health/ready")
def ready(request: Request) -> JSONResponse:
    """The index can be read and objects can be stored; 503, or 507 where space is short, with a sentence otherwise."""
    ingest: Ingest = request.app.state.archive
    ingest.storage.check_space()
    return JSONResponse({"status": "ready", **ingest.index.counts()})


@pages.get("/")
def status(request: Request) -> HTMLResponse:
    """What was received, what is done with it, what is owed, and what was refused. No patient is named."""
    ingest: Ingest = request.app.state.archive
    settings: Settings = request.app.state.settings
    jobs = Jobs(ingest.index)
    return HTMLResponse(
        _templates.get_template("status.html").render(
            node=settings.node,
            version=request.app.version,
            counts=ingest.index.counts(),
            free_gb=shutil.disk_usage(settings.data).free / 1e9,
            studies=_studies(ingest),
            jobs=jobs.list(limit=_PAGE_ROWS),
            deliveries=jobs.deliveries()[:_PAGE_ROWS],
            undelivered=jobs.delivery_counts().get("failed", 0),
            quarantine=ingest.quarantine.list()[-_PAGE_ROWS:][::-1],
            when=_when,
        )
    )


def _studies(ingest: Ingest) -> Sequence[Mapping[str, Any]]:
    query = parse("study", [("limit", str(_PAGE_ROWS))])
    rows = []
    for answer in run(ingest.index, query):
        values = {tag: element.get("Value", [""]) for tag, element in answer.items()}
        rows.append(
            {
                "uid": values["0020000D"][0],
                "date": values["00080020"][0],
                "description": values["00081030"][0],
                "modalities": ", ".join(values["00080061"]),
                "series": values["00201206"][0],
                "instances": values["00201208"][0],
            }
        )
    return rows


def _when(at: float | None) -> str:
    """Seconds since 1970 as a date and time (UTC)."""
    return "" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")
