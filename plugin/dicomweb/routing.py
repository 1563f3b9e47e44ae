"""How a request of DICOMweb reaches what answers it, and by which address the client reached us."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

Endpoint = Callable[[Request], Coroutine[Any, Any, Response]]


class Direct(APIRoute):
    """A route whose endpoint takes the request and gives the answer, with nothing of FastAPI's in between."""

    def get_route_handler(self) -> Endpoint:
        endpoint: Endpoint = self.endpoint
        return endpoint


def root(request: Request) -> str:
    """URL of the DICOMweb service as this client reached it."""
    return f"{request.base_url}dicom-web"
