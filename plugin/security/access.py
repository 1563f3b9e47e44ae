"""Who may do what over HTTP: one table of roles, and the tokens that give them (promise 8).

    read    queries, retrieval, pages, lists of jobs       store   STOW-RS
    work    jobs, outbox, worklist                         delete  deletion

`node.http_token` has every role but delete, a token of `node.tokens` its own. Where no token is configured, whoever
reaches us (this machine's own programs on loopback, or anybody with --open) has every role but delete.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from plugin.settings import Node, Role

Methods = frozenset[str]
_READING: Methods = frozenset({"GET", "HEAD", "OPTIONS"})
_ANY: Methods = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "WEBSOCKET"})
_POST: Methods = frozenset({"POST"})
_BUT_DELETE: frozenset[Role] = frozenset({"read", "store", "work"})

# (methods, path, role); the first that fits holds, and what fits none is not served. `*` is one segment of a path, `**`
# any number of them. None: whoever asks.
_TABLE: Sequence[tuple[Methods, str, Role | None]] = (
    (_READING, "/health/*", None),
    # DICOMweb. A query or a request for objects is a GET; OPTIONS tells what is offered.
    (_READING, "/dicom-web/**", "read"),
    (_READING, "/wado/**", "read"),
    (_POST, "/dicom-web/studies", "store"),
    (_POST, "/dicom-web/studies/*", "store"),
    (frozenset({"DELETE"}), "/dicom-web/studies/**", "delete"),
    (_ANY, "/dicom-web/workitems/**", "work"),
    (_ANY, "/dicom-web/subscribers/**", "work"),
    # Our own API and pages.
    (_READING, "/api/**", "read"),
    (_POST, "/api/**", "work"),
    (_READING, "/", "read"),
)


@dataclass(frozen=True)
class Caller:
    """Who asks. name: of the token, for logs; never the token."""

    name: str
    roles: frozenset[Role]

    def has(self, role: Role | None) -> bool:
        return role is None or role in self.roles


class NotOffered(LookupError):
    """The table has no line for it. methods: those that it has for the path."""

    def __init__(self, methods: Methods) -> None:
        super().__init__(", ".join(sorted(methods)))
        self.methods = methods


def role_for(method: str, path: str) -> Role | None:
    """The role that a request needs; None where everybody may. method: "WEBSOCKET" for the handshake of one.

    Raises:
        NotOffered: nothing is served there.
    """
    # A slash at the end is the router's business: it answers with the path without it.
    path = path.rstrip("/") or "/"
    here = [(methods, role) for methods, pattern, role in _PATTERNS if pattern.fullmatch(path)]
    for methods, role in here:
        if method in methods:
            return role
    raise NotOffered(frozenset().union(*(methods for methods, _ in here)))


def _pattern(path: str) -> re.Pattern[str]:
    parts = [{"*": "/[^/]+", "**": "(/.*)?"}.get(part, f"/{re.escape(part)}") for part in path.strip("/").split("/")]
    return re.compile("".join(parts))


_PATTERNS = [(methods, _pattern(path), role) for methods, path, role in _TABLE]


class Access:
    """The tokens of one configuration. is_open: none is configured, so that nobody can be asked for one."""

    def __init__(self, node: Node) -> None:
        self._known = [(each.token.encode(), Caller(each.name, frozenset(each.roles))) for each in node.tokens]
        if node.http_token is not None:
            self._known.append((node.http_token.encode(), Caller("node.http_token", _BUT_DELETE)))
        self.is_open = not self._known

    def caller(self, authorization: str) -> Caller | None:
        """Who shows this Authorization header (RFC 6750); None for whom we do not know.

        Every token is compared, each in constant time: how long it takes tells nothing of any.
        """
        if self.is_open:
            return Caller("anybody", _BUT_DELETE)
        scheme, _, shown = authorization.partition(" ")
        found = None
        for token, caller in self._known:
            if secrets.compare_digest(shown.strip().encode(), token) and scheme.lower() == "bearer":
                found = caller
        return found
