"""Which media type to answer with (PS3.18 8.7; RFC 9110 12.5.1), as viewers really ask."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from email.message import Message
from email.utils import collapse_rfc2231_value
from functools import lru_cache

from starlette.requests import Request

from dicom_io.errors import Rejected
from plugin.dicomweb import native_xml

DICOM_JSON = "application/dicom+json"
DICOM = "application/dicom"
OCTETS = "application/octet-stream"
ANYTHING = "*/*"
ANY_SYNTAX = "*"

# The types of a single frame by transfer syntax (PS3.18 8.7.3.3, table 8.7.3-5); others are octets.
FRAME_TYPES = {
    "1.2.840.10008.1.2.4.50": "image/jpeg",
    "1.2.840.10008.1.2.4.51": "image/jpeg",
    "1.2.840.10008.1.2.4.57": "image/jpeg",
    "1.2.840.10008.1.2.4.70": "image/jpeg",
    "1.2.840.10008.1.2.4.80": "image/jls",
    "1.2.840.10008.1.2.4.81": "image/jls",
    "1.2.840.10008.1.2.4.90": "image/jp2",
    "1.2.840.10008.1.2.4.91": "image/jp2",
    "1.2.840.10008.1.2.4.201": "image/jphc",
    "1.2.840.10008.1.2.4.202": "image/jphc",
    "1.2.840.10008.1.2.4.203": "image/jphc",
    "1.2.840.10008.1.2.5": "image/dicom-rle",
}


@dataclass(frozen=True)
class Wanted:
    """One entry of an Accept header.

    media_type: of the parts where `multipart`, else of the answer. transfer_syntax: UID, "*", or "" where not said.
    """

    media_type: str
    multipart: bool
    transfer_syntax: str = ""
    quality: float = field(default=1.0, compare=False)


class NotAcceptable(Rejected):
    """None of the media types or transfer syntaxes that the client takes can be given; answered with 406."""


def wanted(request: Request) -> Sequence[Wanted]:
    """What the client takes, the best first. `accept=` in the query outranks the header (PS3.18 8.3.3.1)."""
    in_query = request.query_params.getlist("accept")
    # A space in a query may have been a plus sign: application/dicom+json.
    texts = [text.replace("dicom json", "dicom+json") for text in in_query] or request.headers.getlist("accept")
    return entries(",".join(texts))


@lru_cache(256)
def entries(text: str) -> Sequence[Wanted]:
    """The entries of an Accept header, the best first; anything where there are none."""
    found = [_entry(part) for part in _split(text)]
    if not found:
        return [Wanted(ANYTHING, multipart=False)]
    return sorted((entry for entry in found if entry.quality > 0), key=lambda entry: -entry.quality)


def parameters(content_type: str) -> tuple[str, dict[str, str]]:
    """A Content-Type in type and parameters, quoted or not; names and the type in lower case."""
    message = Message()
    message["content-type"] = content_type
    pairs = message.get_params(failobj=[("", "")], unquote=True)
    # A value may come in an encoding of its own, boundary*=utf-8''x (RFC 2231), and is then a tuple.
    return pairs[0][0].strip().lower(), {name.lower(): collapse_rfc2231_value(value) for name, value in pairs[1:]}


def accepts_data_sets(request: Request) -> str | None:
    """How to write data sets without bulk data (PS3.18 8.7.3.2): a JSON type, or XML in parts; None where in no way."""
    for entry in wanted(request):
        if entry.multipart:
            if entry.media_type in (native_xml.MEDIA_TYPE, ANYTHING):
                return native_xml.MEDIA_TYPE
        elif entry.media_type in (DICOM_JSON, ANYTHING, "application/*"):
            return DICOM_JSON
        elif entry.media_type == "application/json":
            return "application/json"
    return None


def _entry(text: str) -> Wanted:
    media_type, values = parameters(text)
    multipart = media_type in ("multipart/related", "multipart/*")
    try:
        quality = float(values.get("q", "1"))
    except ValueError:
        quality = 1.0
    return Wanted(
        media_type=(values.get("type", ANYTHING).lower() if multipart else media_type),
        multipart=multipart,
        transfer_syntax=values.get("transfer-syntax", "").strip(),
        quality=quality,
    )


def _split(text: str) -> Sequence[str]:
    """At commas outside quotes."""
    return [part.strip() for part in re.findall(r'(?:[^,"]|"[^"]*")+', text) if part.strip()]
