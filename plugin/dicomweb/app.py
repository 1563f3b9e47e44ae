"""The web application: DICOMweb below /dicom-web, the API below /api, health, and a page of what is going on."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from typing import Any
from urllib.parse import urlsplit

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from jinja2 import Environment, PackageLoader, select_autoescape
from starlette.types import ASGIApp, Receive, Scope, Send

from plugin.api import router as api_router
from plugin.archive.gate import Gate
from plugin.archive.ingest import Ingest
from plugin.archive.query import parse, run
from plugin.dicomweb import problems, qido, stow, wado
from plugin.jobs.port import Jobs
from plugin.settings import Settings

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
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
    for router in (qido.router, stow.router, wado.router):
        app.include_router(router, prefix="/dicom-web")
    app.include_router(api_router)
    app.include_router(pages)
    problems.install(app)
    app.add_middleware(Doorkeeper, settings=settings)
    return app


class Doorkeeper:
    """Who may speak to us: the token where one is set, our own Host names on loopback, no other site's scripts.

    A page of another site that a browser on this machine shows could otherwise reach a service on loopback: by a name
    that turns into 127.0.0.1 (hence the Host header), or by posting a form (hence Origin).
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._token = settings.node.http_token
        address = settings.node.http_address
        self._hosts = {"localhost", "127.0.0.1", "::1", address.host} if address.is_loopback else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refused = self._refusal(Request(scope))
        await (refused or self._app)(scope, receive, send)

    def _refusal(self, request: Request) -> Response | None:
        host = request.headers.get("host", "")
        if self._hosts is not None and (urlsplit(f"//{host}").hostname or "") not in self._hosts:
            return problems.problem(
                421, f"this service does not answer as {host!r}; call it by the address that it listens on"
            )
        origin = request.headers.get("origin")
        if origin and request.method not in _SAFE_METHODS and urlsplit(origin).netloc != host:
            return problems.problem(403, f"pages of {origin} may not change anything here; use this service's own")
        if self._token is not None and not request.url.path.startswith("/health/"):
            scheme, _, token = request.headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not secrets.compare_digest(token.strip().encode(), self._token.encode()):
                return problems.problem(
                    401, "a token is needed; send Authorization: Bearer ...", {"WWW-Authenticate": "Bearer"}
                )
        return None


# Health and the status page

pages = APIRouter(include_in_schema=False)
_templates = Environment(loader=PackageLoader("plugin.dicomweb"), autoescape=select_autoescape())


@pages.get("/health/live")
def live() -> dict[str, str]:
    """The process answers."""
    return {"status": "live"}


@pages.get("/health/ready")
def ready(request: Request) -> JSONResponse:
    """The index can be read and objects can be stored; 503 with a sentence otherwise."""
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
