"""QIDO-RS: searching studies, series and instances (PS3.18 10.6)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import orjson
from fastapi import APIRouter, HTTPException, Request, Response

from plugin.archive import query
from plugin.archive.index import Index
from plugin.archive.levels import Level
from plugin.archive.query import SERIES_UID, SOP_INSTANCE_UID, STUDY_UID, Key, Query, QueryLevel, TooMany, Uids
from plugin.dicomweb import media, native_xml
from plugin.dicomweb.compression import json_response
from plugin.dicomweb.multipart import Writer
from plugin.dicomweb.routing import Direct, Endpoint, root

_NAMED = {"study": STUDY_UID, "series": SERIES_UID}
MAXIMUM_RESULTS = 50_000
"""Answers of one search; for more, a client must ask page by page."""

# Threads that search: SQLite gives up the interpreter lock while it works.
_SEARCHERS = ThreadPoolExecutor(4, thread_name_prefix="qido")

router = APIRouter(tags=["QIDO-RS"], route_class=Direct)


async def studies(request: Request) -> Response:
    """Search for studies."""
    return await _search(request, "study")


async def series(request: Request) -> Response:
    """Search for series, of all studies or of one."""
    return await _search(request, "series")


async def instances(request: Request) -> Response:
    """Search for instances, of all studies, of one study or of one series."""
    return await _search(request, "instance")


async def _search(request: Request, level: Level) -> Response:
    """Search within what the path names: 200 with a JSON array, empty where nothing is found.

    206 is never sent, viewers take it for a failure.
    """
    accepted = media.accepts_data_sets(request)
    if accepted is None:
        raise HTTPException(
            406, f'a search is answered as {media.DICOM_JSON} or multipart/related; type="{native_xml.MEDIA_TYPE}"'
        )
    index: Index = request.app.state.archive.index
    parameters = request.query_params.multi_items()
    asked = query.parse(level, parameters, {_NAMED[name]: uid for name, uid in request.path_params.items()})
    if _is_fuzzy(parameters):
        asked = replace(asked, keys=_fuzzily(asked.keys))
    here = root(request)
    # In a thread: a search over many studies must not hold up the answers to others.
    loop = asyncio.get_running_loop()
    body, warnings = await loop.run_in_executor(_SEARCHERS, _found, index, asked, here, accepted)
    headers = {"Warning": ", ".join(f'299 {here}: "{text}"' for text in warnings)} if warnings else {}
    if isinstance(body, bytes):
        return json_response(request, body, accepted, headers=headers)
    if body is None:
        return Response(status_code=204, headers=headers)
    return Response(b"".join(body), headers=headers | {"Content-Type": body.content_type})


Found = tuple[bytes | Writer[bytes] | None, list[str]]
"""A body, None for none, and what to warn of."""


def _found(index: Index, asked: Query, here: str, media_type: str) -> Found:
    """Search and write the answer; runs in a thread. here: URL of the service."""
    with index.read() as connection:
        capped = replace(asked, limit=min(asked.limit or 0, MAXIMUM_RESULTS))
        if asked.limit is None:
            capped = replace(asked, limit=MAXIMUM_RESULTS + 1)
        uids = query.find(connection, capped)
        warnings = []
        if asked.limit is None and len(uids) > MAXIMUM_RESULTS:
            raise TooMany(
                f"more than {MAXIMUM_RESULTS} {asked.level} results; narrow the search, or give limit and offset"
            )
        if asked.limit is not None and asked.limit > MAXIMUM_RESULTS == len(uids):
            remaining = max(query.count(connection, asked) - asked.offset - len(uids), 0)
            warnings = [f"There are {remaining} additional results that can be requested"] if remaining else []
        answers = (answer for batch in _batches(uids) for answer in query.answers(connection, asked, batch))
        located = (_located(answer, asked.level, here) for answer in answers)
        if media_type == native_xml.MEDIA_TYPE:
            return (native_xml.writer(located) if uids else None), warnings
        return b"[" + b",".join(orjson.dumps(one, option=orjson.OPT_SORT_KEYS) for one in located) + b"]", warnings


def _batches(uids: Sequence[Uids]) -> Iterator[Sequence[Uids]]:
    for start in range(0, len(uids), query.BATCH):
        yield uids[start : start + query.BATCH]


def _located(answer: dict[str, Any], level: QueryLevel, here: str) -> dict[str, Any]:
    """With Retrieve URL (0008,1190)."""
    url = f"{here}/studies/{_value(answer, STUDY_UID)}"
    if level != "study":
        url += f"/series/{_value(answer, SERIES_UID)}"
    if level == "instance":
        url += f"/instances/{_value(answer, SOP_INSTANCE_UID)}"
    answer[query.RETRIEVE_URL] = {"vr": "UR", "Value": [url]}
    return answer


def _value(answer: Mapping[str, Any], tag: str) -> str:
    return str(answer[tag]["Value"][0])


def _is_fuzzy(parameters: Sequence[tuple[str, str]]) -> bool:
    return any(name == "fuzzymatching" and value.lower() == "true" for name, value in parameters)


def _fuzzily(keys: Sequence[Key]) -> tuple[Key, ...]:
    """Names as people type them: each word that is given begins a word of the name, in any order (PS3.18 8.3.4.2).

    What has wildcards, or names several persons, is meant as it is written.
    """
    return tuple(one for key in keys for one in _fuzzy(key))


def _fuzzy(key: Key) -> list[Key]:
    if key.item:
        return [replace(key, item=_fuzzily(key.item))]
    if not query.is_name(key) or re.search(r"[*?\\]", key.text):
        return [key]
    # At the beginning of the name or of a component, or behind a space or hyphen within one.
    before = ("", "*^", "* ", "*-")
    words = re.findall(r"[^\s^=,]+", key.text)
    if not words:
        return [key]
    return [replace(key, text="\\".join(f"{each}{word}*" for each in before)) for word in words]


# What viewers ask most stands first.
_ROUTES: Mapping[str, Endpoint] = {
    "/studies/{study}/series/{series}/instances": instances,
    "/studies/{study}/series": series,
    "/studies": studies,
    "/studies/{study}/instances": instances,
    "/series": series,
    "/instances": instances,
}
for _path, _endpoint in _ROUTES.items():
    router.add_api_route(_path, _endpoint, methods=["GET"], response_model=None)
