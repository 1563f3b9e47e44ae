"""STOW-RS: storing instances (PS3.18 10.5), streamed part by part into incoming/ and through the same ingest."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, HTTPException, Request, Response
from starlette.concurrency import run_in_threadpool

from plugin.archive.arrival import Arrival
from plugin.archive.ingest import OUT_OF_RESOURCES, Announced, Ingest, Outcome
from plugin.archive.storage import NoSpace, Reception
from plugin.dicomweb import media
from plugin.dicomweb.multipart import Reader
from plugin.dicomweb.qido import root

router = APIRouter(tags=["STOW-RS"])

_PROCESSING_FAILURE = 0x0110


@router.post("/studies")
async def store(request: Request) -> Response:
    """Store instances of any studies."""
    return await _store(request, "")


@router.post("/studies/{study}")
async def store_in_study(request: Request, study: str) -> Response:
    """Store instances of one study; others are refused."""
    return await _store(request, study)


@dataclass
class _Stored:
    """What became of the objects of one request; `lacking`: how many there was no space for."""

    outcomes: list[Outcome] = field(default_factory=list)
    lacking: int = 0

    def answer(self, request: Request, study: str) -> Response:
        """200 all stored, 202 some, 409 none, 507 none for want of space (PS3.18 10.5.3)."""
        good = [outcome for outcome in self.outcomes if outcome.accepted]
        bad = [outcome for outcome in self.outcomes if not outcome.accepted]
        body: dict[str, Any] = {}
        if study or len({outcome.study_instance_uid for outcome in good}) == 1:
            url = f"{root(request)}/studies/{study or good[0].study_instance_uid}"
            body["00081190"] = {"vr": "UR", "Value": [url]}
        if good:
            body["00081199"] = {"vr": "SQ", "Value": [_referenced(request, outcome) for outcome in good]}
        named = [outcome for outcome in bad if outcome.sop_instance_uid]
        nameless = [outcome for outcome in bad if not outcome.sop_instance_uid]
        if named:
            body["00081198"] = {"vr": "SQ", "Value": [_failed(outcome) for outcome in named]}
        if nameless:
            body["0008119A"] = {"vr": "SQ", "Value": [_failed(outcome) for outcome in nameless]}
        if not bad:
            status = 200
        elif good:
            status = 202
        else:
            status = 507 if self.lacking else 409
        # PS3.18 has no place in the body for a sentence; RFC 7234's Warning header is where servers put it.
        headers = [f'299 mirall "{outcome.reason.translate(_UNQUOTABLE)}"' for outcome in bad[:10]]
        response = Response(json.dumps(body), status, media_type=media.DICOM_JSON)
        for line in headers:
            response.headers.append("Warning", line.encode("ascii", "replace").decode())
        return response


_UNQUOTABLE = str.maketrans({'"': "'", "\\": "/", "\r": " ", "\n": " "})


async def _store(request: Request, study: str) -> Response:
    ingest: Ingest = request.app.state.archive
    if media.accepts_json(request) is None:
        raise HTTPException(406, "storing is answered as application/dicom+json; accept that")
    stored = _Stored()
    arrival = Arrival("stow", address=request.client.host if request.client else "")
    async for reception in _receptions(request, ingest):
        outcome = await run_in_threadpool(_ingest, ingest, reception, arrival, Announced(study_instance_uid=study))
        stored.outcomes.append(outcome)
        stored.lacking += outcome.status == OUT_OF_RESOURCES
    if not stored.outcomes:
        raise HTTPException(400, "the request holds no object; send at least one part of type application/dicom")
    return stored.answer(request, study)


def _ingest(ingest: Ingest, reception: Reception, arrival: Arrival, announced: Announced) -> Outcome:
    try:
        return ingest.accept(reception.finish(), arrival, announced=announced)
    except NoSpace as error:
        return Outcome("quarantined", OUT_OF_RESOURCES, str(error))


async def _receptions(request: Request, ingest: Ingest) -> AsyncIterator[Reception]:
    """Whole objects, each as soon as its part has ended; parts of files that never end are discarded."""
    media_type, values = media.parameters(request.headers.get("content-type", ""))
    if media_type == media.DICOM:
        single = ingest.storage.receive()
        try:
            async for block in request.stream():
                single.write(block)
        except BaseException:  # the client went away, or the server is asked to stop
            single.abandon()
            raise
        yield single
        return
    if media_type != "multipart/related" or values.get("type", media.DICOM).lower() != media.DICOM:
        raise HTTPException(
            415, f"{media_type or 'no content type'} cannot be stored; send multipart/related of application/dicom"
        )
    if not values.get("boundary"):
        raise HTTPException(400, "the Content-Type names no boundary; add boundary=...")
    async for part in _parts(request, ingest, values["boundary"]):
        yield part


async def _parts(request: Request, ingest: Ingest, boundary: str) -> AsyncIterator[Reception]:
    whole: list[Reception] = []
    opened: list[Reception] = []

    def open_part(headers: dict[str, str]) -> Reception:
        kind, _ = media.parameters(headers.get("content-type", media.DICOM))
        if kind != media.DICOM:
            raise HTTPException(415, f"a part of type {kind} cannot be stored; send application/dicom")
        opened.append(ingest.storage.receive())
        return opened[-1]

    def close_part(part: Any) -> None:
        opened.remove(part)
        whole.append(part)

    reader = Reader(boundary, open_part, close_part)
    try:
        async for block in request.stream():
            reader.feed(block)
            while whole:
                yield whole.pop(0)
        reader.finish()
    finally:
        for reception in (*opened, *whole):
            reception.abandon()


def _referenced(request: Request, outcome: Outcome) -> dict[str, Any]:
    url = (
        f"{root(request)}/studies/{outcome.study_instance_uid}/series/{outcome.series_instance_uid}"
        f"/instances/{outcome.sop_instance_uid}"
    )
    return {
        "00081150": {"vr": "UI", "Value": [outcome.sop_class_uid]},
        "00081155": {"vr": "UI", "Value": [outcome.sop_instance_uid]},
        "00081190": {"vr": "UR", "Value": [url]},
    }


def _failed(outcome: Outcome) -> dict[str, Any]:
    item: dict[str, Any] = {"00081197": {"vr": "US", "Value": [outcome.status or _PROCESSING_FAILURE]}}
    for tag, uid in (("00081150", outcome.sop_class_uid), ("00081155", outcome.sop_instance_uid)):
        if uid:
            item[tag] = {"vr": "UI", "Value": [uid]}
    return item
