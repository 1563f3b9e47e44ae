"""Errors as problem+json (RFC 9457): a status and one sentence."""

from __future__ import annotations

import logging
import sqlite3
from http import HTTPStatus

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException as StarletteHTTPException

from dicom_io.encoding import CannotEncode
from dicom_io.errors import ImagingError, TryAgain, UndecodablePixels, Unlabelled
from plugin.archive.deletion import NothingThere
from plugin.archive.gate import FileMissing
from plugin.archive.query import BadQuery, TooMany
from plugin.archive.storage import NoSpace
from plugin.dicomweb.bulk_data import NoBulkData
from plugin.dicomweb.frames import NoSuchFrame
from plugin.dicomweb.media import NotAcceptable
from plugin.dicomweb.multipart import BadMultipart
from plugin.dicomweb.rendered import BadView

LOGGER = logging.getLogger(__name__)

_STATUS: dict[type[ImagingError], int] = {
    BadQuery: 400,
    TooMany: 413,
    BadMultipart: 400,
    BadView: 400,
    NoSuchFrame: 404,
    NoBulkData: 404,
    NotAcceptable: 406,
    UndecodablePixels: 406,
    CannotEncode: 406,
    Unlabelled: 403,
    NothingThere: 404,
    FileMissing: 410,
    NoSpace: 507,
    TryAgain: 503,
    ImagingError: 409,
}


def problem(status: int, sentence: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """An answer of one sentence."""
    return JSONResponse(
        {"status": status, "detail": sentence}, status, headers=headers, media_type="application/problem+json"
    )


def install(app: FastAPI) -> None:
    """Turn what handlers raise on purpose into answers."""

    @app.exception_handler(ImagingError)
    async def _ours(request: Request, error: ImagingError) -> JSONResponse:
        return problem(next(_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS), str(error))

    @app.exception_handler(StarletteHTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        return problem(error.status_code, _sentence(request, error), dict(error.headers or {}))

    @app.exception_handler(OperationalError)
    @app.exception_handler(sqlite3.OperationalError)
    async def _busy(request: Request, error: OperationalError | sqlite3.OperationalError) -> JSONResponse:
        cause = getattr(error, "orig", error)
        LOGGER.error("%s %s: the index cannot be used (%s)", request.method, request.url.path, cause)
        return problem(503, "the index cannot be read now; ask again later, or see the log of this service")

    @app.exception_handler(Exception)
    async def _ours_to_mend(request: Request, error: Exception) -> JSONResponse:
        # The framework logs the error with its trace; the peer needs to know no more than that it is our fault.
        return problem(500, f"{request.method} {request.url.path} failed here; the service's log says why")

    @app.exception_handler(RequestValidationError)
    async def _malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        where = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        return problem(400, f"the request is malformed ({where}); see /api/openapi.json")


def _sentence(request: Request, error: HTTPException) -> str:
    """What the framework raises by itself says no more than the status does."""
    detail = str(error.detail)
    if detail != HTTPStatus(error.status_code).phrase:
        return detail
    match error.status_code:
        case 404:
            return f"there is nothing at {request.url.path}; see /api/openapi.json"
        case 405:
            return f"{request.method} is not possible at {request.url.path}; see /api/openapi.json"
        case _:
            return f"{request.method} {request.url.path} is refused: {detail}; see /api/openapi.json"
