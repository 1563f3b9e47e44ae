"""Errors as problem+json (RFC 9457): a status and one sentence."""

from __future__ import annotations

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from dicom_io.errors import ImagingError, TryAgain, Unlabelled
from plugin.archive.gate import FileMissing
from plugin.archive.query import BadQuery
from plugin.archive.storage import NoSpace
from plugin.dicomweb.multipart import BadMultipart

_STATUS: dict[type[ImagingError], int] = {
    BadQuery: 400,
    BadMultipart: 400,
    Unlabelled: 403,
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
        return problem(error.status_code, str(error.detail), dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def _malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        where = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        return problem(400, f"the request is malformed ({where}); see /api/openapi.json")
