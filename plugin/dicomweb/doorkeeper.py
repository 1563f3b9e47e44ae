"""The web door's keeper: our own host names, no other site's scripts, and the role that each request needs.

A page of another site that a browser on this machine shows could otherwise reach a service on loopback: by a name that
turns into 127.0.0.1 (hence the Host header), or by posting a form or opening a WebSocket (hence Origin). Where tokens
are asked for, such a page has none, and Host is what a proxy in front of us was called by.
"""

from __future__ import annotations

import logging
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from plugin.dicomweb import problems
from plugin.security.access import Access, Caller, NotOffered, role_for
from plugin.settings import Node

LOGGER = logging.getLogger(__name__)

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_DICOMWEB = ("/dicom-web/", "/wado")


class Doorkeeper:
    """Lets through whom the settings know; `request.state.caller` (access.Caller) says afterwards who it is."""

    def __init__(self, app: ASGIApp, node: Node) -> None:
        self._app = app
        self._access = Access(node)
        self._origins = frozenset(node.cors_origins)
        address = node.http_address
        checks_host = address.is_loopback and self._access.is_open
        self._hosts = {"localhost", "127.0.0.1", "::1", address.host} if checks_host else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        refused = self._refusal(scope)
        if refused is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket" and "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": 1008, "reason": "refused"})
        else:
            await refused(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        method = "WEBSOCKET" if scope["type"] == "websocket" else scope["method"]
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        return self._wrong_place(headers, method, path) or self._wrong_caller(scope, headers, method, path)

    def _wrong_place(self, headers: Headers, method: str, path: str) -> Response | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if self._hosts is not None and _name_in(host) not in self._hosts:
            return problems.problem(
                421, f"this service does not answer as {host!r}; call it by the address that it listens on"
            )
        if origin is None or method in _SAFE_METHODS or self._is_our_page(origin, host, path):
            return None
        return problems.problem(403, f"pages of {origin} may not change anything here; use this service's own")

    def _is_our_page(self, origin: str, host: str, path: str) -> bool:
        if origin.partition("://")[2] == host:
            return True
        if not path.startswith(_DICOMWEB):
            return False
        # Any site's page may write only where it must show a token.
        return origin.lower() in self._origins or ("*" in self._origins and not self._access.is_open)

    def _wrong_caller(self, scope: Scope, headers: Headers, method: str, path: str) -> Response | None:
        caller = self._access.caller(headers.get("authorization", ""))
        try:
            role = role_for(method, path)
            if role is None:
                return None
            if caller is None:
                return _unauthorised()
        except NotOffered as error:
            return _unauthorised() if caller is None else _not_offered(method, path, error)
        scope.setdefault("state", {})["caller"] = caller
        if caller.has(role):
            return None
        LOGGER.warning("refused %s %r: %s has not the role %r", method, path, _named(caller), role)
        return problems.problem(403, f"{_named(caller)} has not the role {role!r}; see node.tokens in mirall.toml")


class Cors(CORSMiddleware):
    """Lets pages of the origins in `node.cors_origins` use DICOMweb (Fetch Standard, CORS protocol)."""

    def __init__(self, app: ASGIApp, node: Node) -> None:
        super().__init__(
            app,
            allow_origins=node.cors_origins,
            allow_methods=("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"),
            allow_headers=("*",),
            expose_headers=("Content-Location", "Content-Range", "ETag", "Location", "Warning", "WWW-Authenticate"),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_ours = scope["type"] == "http" and scope["path"].startswith(_DICOMWEB)
        await (super().__call__ if is_ours else self.app)(scope, receive, send)

    def preflight_response(self, request_headers: Headers) -> Response:
        answer = super().preflight_response(request_headers)
        if answer.status_code < 400:
            return answer
        return problems.problem(
            403,
            f"pages of {request_headers['origin']} may not send {request_headers['access-control-request-method']} "
            "here; see node.cors_origins in mirall.toml",
        )


def _named(caller: Caller) -> str:
    return "who shows no token" if caller.name == "anybody" else f"the token {caller.name!r}"


def _name_in(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:  # brackets that hold no address
        return ""


def _unauthorised() -> Response:
    return problems.problem(401, "a token is needed; send Authorization: Bearer ...", {"WWW-Authenticate": "Bearer"})


def _not_offered(method: str, path: str, error: NotOffered) -> Response:
    if not error.methods:
        return problems.problem(404, f"there is nothing at {path}; see /api/openapi.json")
    return problems.problem(
        405, f"{method} is not possible at {path}; use {error}", {"Allow": str(error).replace(", WEBSOCKET", "")}
    )
