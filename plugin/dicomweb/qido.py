"""QIDO-RS: searching studies, series and instances (PS3.18 10.6)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, HTTPException, Request, Response

from plugin.archive import query
from plugin.archive.index import Index
from plugin.archive.levels import Level
from plugin.dicomweb import media

router = APIRouter(tags=["QIDO-RS"])


@router.get("/studies")
def studies(request: Request) -> Response:
    """Search for studies."""
    return _search(request, "study", {})


@router.get("/series")
def series(request: Request) -> Response:
    """Search for series of all studies."""
    return _search(request, "series", {})


@router.get("/instances")
def instances(request: Request) -> Response:
    """Search for instances of all studies."""
    return _search(request, "instance", {})


@router.get("/studies/{study}/series")
def series_of_study(request: Request, study: str) -> Response:
    """Search for series of one study."""
    return _search(request, "series", {"0020000D": study})


@router.get("/studies/{study}/instances")
def instances_of_study(request: Request, study: str) -> Response:
    """Search for instances of one study."""
    return _search(request, "instance", {"0020000D": study})


@router.get("/studies/{study}/series/{series}/instances")
def instances_of_series(request: Request, study: str, series: str) -> Response:
    """Search for instances of one series."""
    return _search(request, "instance", {"0020000D": study, "0020000E": series})


def _search(request: Request, level: Level, within: Mapping[str, str]) -> Response:
    """200 with a JSON array, empty where nothing is found; 206 is never sent, viewers take it for a failure."""
    media_type = media.accepts_json(request)
    if media_type is None:
        raise HTTPException(406, "a search is answered as application/dicom+json; accept that")
    index: Index = request.app.state.archive.index
    asked = query.parse(level, request.query_params.multi_items(), within)
    answers = query.run(index, asked)
    for answer in answers:
        answer[query.RETRIEVE_URL] = {"vr": "UR", "Value": [_url(request, level, answer)]}
    return Response(json.dumps(answers, ensure_ascii=False), media_type=media_type)


def _url(request: Request, level: Level, answer: Mapping[str, Any]) -> str:
    url = f"{root(request)}/studies/{answer['0020000D']['Value'][0]}"
    if level != "study":
        url += f"/series/{answer['0020000E']['Value'][0]}"
    if level == "instance":
        url += f"/instances/{answer['00080018']['Value'][0]}"
    return url


def root(request: Request) -> str:
    """URL of the DICOMweb service as this client reached it."""
    return f"{request.base_url}dicom-web"
