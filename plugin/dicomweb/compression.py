"""gzip for answers of text, where the client takes it (RFC 9110 12.5.3). Bulk data are never compressed.

Pixels hardly shrink and cost tens of milliseconds an instance; JSON of DICOM shrinks to a tenth.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response

# Below this a body fits into one packet either way.
_WORTH_IT_BYTES = 1200
# The quickest: levels above it take twice the time for a tenth less.
_LEVEL = 1


def json_response(
    request: Request, body: bytes, media_type: str, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """An answer with a body of text, compressed where the request's Accept-Encoding allows and it is worth it."""
    answer = Response(body, status, headers=dict(headers or {}), media_type=media_type)
    answer.headers["Vary"] = "Accept, Accept-Encoding"
    if len(body) >= _WORTH_IT_BYTES and takes_gzip(request):
        answer.body = gzip.compress(body, _LEVEL, mtime=0)
        answer.headers["Content-Length"] = str(len(answer.body))
        answer.headers["Content-Encoding"] = "gzip"
    return answer


def takes_gzip(request: Request) -> bool:
    """gzip, or any encoding, is accepted with a quality above 0."""
    accepted = {}
    for entry in request.headers.get("accept-encoding", "").lower().split(","):
        name, _, parameters = entry.partition(";")
        refused = re.search(r"\bq\s*=\s*0(\.0*)?\s*$", parameters)
        accepted[name.strip()] = refused is None
    return accepted.get("gzip", accepted.get("*", False))
