"""What this service answers to, told by itself (PS3.18 8.9 Retrieve Capabilities).

    OPTIONS on the base URI       every resource with its methods, parameters and media types
    OPTIONS on a resource         that of this resource, and Allow (RFC 9110 9.3.7)
    GET /conformance              as OPTIONS on the base URI, with what is taken and what the limits are

As a Web Application Description (WADL) or as JSON, whichever Accept prefers. The resources are those of the routers
themselves, so that what is told and what is served cannot differ.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any
from xml.etree import ElementTree

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute, APIWebSocketRoute

from plugin.dicomweb import media, native_xml
from plugin.dicomweb.routing import root

WADL = "application/vnd.sun.wadl+xml"
_JSON = "application/json"
_NAMESPACE = "http://wadl.dev.java.net/2009/02"
_CONFORMANCE = "/conformance"

_DATA_SETS = (media.DICOM_JSON, f'multipart/related; type="{native_xml.MEDIA_TYPE}"')
_ONE_DATA_SET = (media.DICOM_JSON, native_xml.MEDIA_TYPE)
_INSTANCES = (f'multipart/related; type="{media.DICOM}"', media.DICOM)
_OF_FRAMES = (media.OCTETS, *dict.fromkeys(media.FRAME_TYPES.values()))
_FRAMES = tuple(f'multipart/related; type="{kind}"' for kind in _OF_FRAMES)
_BULK = (media.OCTETS, f'multipart/related; type="{media.OCTETS}"')
_PICTURES = ("image/jpeg", "image/png", "image/gif")
_SEARCH = ("limit", "offset", "includefield", "fuzzymatching", "{attribute}")
_STORED = tuple(f'multipart/related; type="{kind}"' for kind in (media.DICOM, *_ONE_DATA_SET))


@dataclass(frozen=True)
class Exchange:
    """What a method takes and gives: media types, and names of query parameters."""

    gives: Sequence[str] = ()
    takes: Sequence[str] = ()
    query: Sequence[str] = ()


# (service, method, end of the path) -> exchange; the first that fits. Every route has one, and a test says so.
_EXCHANGES: Sequence[tuple[str, str, str, Exchange]] = (
    ("QIDO-RS", "GET", "", Exchange(_DATA_SETS, query=_SEARCH)),
    ("STOW-RS", "POST", "", Exchange(_ONE_DATA_SET, (*_STORED, media.DICOM))),
    ("WADO-RS", "GET", "/metadata", Exchange(_DATA_SETS)),
    (
        "WADO-RS",
        "GET",
        "/rendered",
        Exchange(_PICTURES, query=("window", "viewport", "quality", "annotation", "iccprofile")),
    ),
    ("WADO-RS", "GET", "/thumbnail", Exchange(_PICTURES, query=("viewport",))),
    ("WADO-RS", "GET", "/frames/[^/]+", Exchange(_FRAMES)),
    ("WADO-RS", "GET", "/(bulkdata|pixeldata)(/.+)?", Exchange(_BULK)),
    ("WADO-RS", "GET", "", Exchange(_INSTANCES)),
    ("UPS-RS", "GET", "/workitems", Exchange(_DATA_SETS, query=_SEARCH)),
    ("UPS-RS", "GET", "", Exchange(_ONE_DATA_SET)),
    ("UPS-RS", "POST", "/subscribers/[^/]+", Exchange(query=("deletionlock", "filter"))),
    ("UPS-RS", "POST", "/(suspend)", Exchange()),
    ("UPS-RS", "POST", "/cancelrequest", Exchange(takes=_ONE_DATA_SET, query=("requester",))),
    ("UPS-RS", "POST", "/workitems", Exchange(takes=_ONE_DATA_SET, query=("workitem",))),
    ("UPS-RS", "POST", "", Exchange(takes=_ONE_DATA_SET, query=("transaction",))),
    ("UPS-RS", "PUT", "/state", Exchange(takes=_ONE_DATA_SET)),
    ("UPS-RS", "DELETE", "", Exchange()),
    ("deletion", "DELETE", "", Exchange((_JSON,))),
    ("capabilities", "GET", "", Exchange((WADL, _JSON))),
)


@dataclass(frozen=True)
class Resource:
    """One path below the base URI, with what can be done there.

    path: as the router has it, where {name:path} stands for several segments. methods: method -> (service, a sentence,
    exchange).
    """

    path: str
    methods: Mapping[str, tuple[str, str, Exchange]]
    is_channel: bool = False

    @property
    def template(self) -> str:
        """The path as a URI template."""
        return re.sub(r":\w+}", "}", self.path)

    @property
    def allow(self) -> str:
        """Value of the Allow header."""
        return ", ".join(sorted({*self.methods, "OPTIONS"}))

    def to_json(self) -> dict[str, Any]:
        methods = [
            {
                "method": method,
                "service": service,
                "description": sentence,
                "query": list(exchange.query),
                "takes": list(exchange.takes),
                "gives": list(exchange.gives),
            }
            for method, (service, sentence, exchange) in sorted(self.methods.items())
        ]
        return {"path": self.template, "methods": methods} | ({"protocol": "WebSocket"} if self.is_channel else {})


def router_for(routers: Iterable[APIRouter]) -> APIRouter:
    """The router that tells what these routers, and it itself, answer to."""
    own = APIRouter(tags=["capabilities"])
    resources: list[Resource] = []

    def of_service(request: Request) -> Response:
        """All resources of this service."""
        return _described(request, resources)

    def conformance(request: Request) -> Response:
        """What this service offers, takes and is limited to."""
        if _kind(request) == WADL:
            return _described(request, resources)
        return JSONResponse(_document(request, resources) | _STATEMENT)

    own.add_api_route(_CONFORMANCE, conformance, methods=["GET"])
    resources += _resources([*routers, own])
    own.add_api_route("", of_service, methods=["OPTIONS"], include_in_schema=False)
    own.add_api_route("/", of_service, methods=["OPTIONS"], include_in_schema=False)
    for resource in resources:
        own.add_api_route(resource.path, _of(resource), methods=["OPTIONS"], include_in_schema=False)
    return own


def _of(resource: Resource) -> Any:
    def of_resource(request: Request) -> Response:
        answer = _described(request, [resource])
        answer.headers["Allow"] = resource.allow
        return answer

    return of_resource


def _resources(routers: Iterable[APIRouter]) -> list[Resource]:
    found: dict[str, dict[str, tuple[str, str, Exchange]]] = {}
    channels: list[Resource] = []
    for route in (route for router in routers for route in router.routes):
        if isinstance(route, APIRoute):
            for method in route.methods or ():
                service = str(route.tags[0])
                told = (service, _sentence(route.endpoint), exchange_of(service, method, route.path) or Exchange())
                found.setdefault(route.path, {})[method] = told
        elif isinstance(route, APIWebSocketRoute):
            told = ("UPS-RS", _sentence(route.endpoint), Exchange((media.DICOM_JSON,)))
            channels.append(Resource(route.path, {"GET": told}, is_channel=True))
    return [Resource(path, methods) for path, methods in sorted(found.items())] + channels


def exchange_of(service: str, method: str, path: str) -> Exchange | None:
    """What a route takes and gives, None where nobody wrote it down."""
    for known, wanted, end, exchange in _EXCHANGES:
        if (known, wanted) == (service, "GET" if method == "HEAD" else method) and re.search(f"{end}$", path):
            return exchange
    return None


def _sentence(endpoint: Any) -> str:
    return (endpoint.__doc__ or "").strip().partition("\n\n")[0].replace("\n    ", " ")


# Documents


def _described(request: Request, resources: Sequence[Resource]) -> Response:
    if _kind(request) == WADL:
        return Response(_wadl(request, resources), media_type=WADL)
    return JSONResponse(_document(request, resources))


def _kind(request: Request) -> str:
    """WADL or JSON. Raises 406."""
    for entry in media.wanted(request):
        if entry.media_type in (WADL, "application/xml", "text/xml"):
            return WADL
        if entry.media_type in (_JSON, media.DICOM_JSON, media.ANYTHING, "application/*"):
            return _JSON
    raise HTTPException(406, f"capabilities are given as {WADL} or {_JSON}; accept one of them")


def _document(request: Request, resources: Sequence[Resource]) -> dict[str, Any]:
    return {
        "software": "Mirall",
        "version": metadata.version("mirall"),
        "base": root(request),
        "resources": [resource.to_json() for resource in resources],
    }


def _wadl(request: Request, resources: Sequence[Resource]) -> bytes:
    application = ElementTree.Element("application", xmlns=_NAMESPACE)
    of_base = ElementTree.SubElement(application, "resources", base=root(request))
    for resource in resources:
        here = ElementTree.SubElement(of_base, "resource", path=resource.template.lstrip("/"))
        for name in re.findall(r"{(\w+)", resource.path):
            ElementTree.SubElement(here, "param", name=name, style="template", required="true")
        for method, (service, sentence, exchange) in sorted(resource.methods.items()):
            one = ElementTree.SubElement(here, "method", name=method)
            ElementTree.SubElement(one, "doc", title=service).text = sentence
            asked = ElementTree.SubElement(one, "request")
            for name in exchange.query:
                ElementTree.SubElement(asked, "param", name=name, style="query")
            for kind in exchange.takes:
                ElementTree.SubElement(asked, "representation", mediaType=kind)
            answered = ElementTree.SubElement(one, "response")
            for kind in exchange.gives:
                ElementTree.SubElement(answered, "representation", mediaType=kind)
    ElementTree.indent(application)
    return ElementTree.tostring(application, encoding="utf-8", xml_declaration=True)


_STATEMENT: dict[str, Any] = {
    "storage": {
        "sop_classes": "every storage class, private ones too",
        "transfer_syntaxes": "every one; objects are kept in the encoding that they come in",
        "failure_reasons": {
            "0110": "processing failure",
            "0122": "SOP class is none of storage",
            "A700": "out of space",
            "A900": "object is another than announced, or not of the study in the path",
            "C000": "cannot be understood",
            "C101": "study is held with another Patient ID",
            "C102": "SOP Instance UID is held with other pixels",
            "C103": "correction is held for a person to decide",
        },
        "warning_reasons": {"B000": "kept as a version; another header of the instance stays current"},
    },
    "worklist": {
        "sop_class": "1.2.840.10008.5.1.4.34.6.1",
        "coding_scheme": "99MIRALL",
        "performed_here": ["predict", "generate"],
        "filtered_worklist_subscriptions": True,
        "deletion_locks": True,
    },
    "character_set": "UTF-8",
    "conformance": "docs/conformance.md",
}
