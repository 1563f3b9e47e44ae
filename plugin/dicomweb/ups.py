"""UPS-RS: the worklist over HTTP (PS3.18 11), and its event reports over WebSocket (PS3.18 8.10)."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from urllib.parse import parse_qsl

from fastapi import APIRouter, HTTPException, Request, Response, WebSocket, WebSocketDisconnect
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from plugin.archive.index import Index
from plugin.archive.query import BadQuery
from plugin.dicomweb import media, native_xml
from plugin.dicomweb.problems import problem
from plugin.dicomweb.routing import root
from plugin.worklist import workitems
from plugin.worklist.elements import Attributes, text
from plugin.worklist.matching import Condition, condition
from plugin.worklist.reports import Report
from plugin.worklist.rules import CANCELED, COMPLETED, malformed
from plugin.worklist.subscriptions import FILTERED_WORKLIST, WHOLE
from plugin.worklist.watch import Watch
from plugin.worklist.workitems import Gone, Refusal, Worklist

LOGGER = logging.getLogger(__name__)
router = APIRouter(tags=["UPS-RS"])

_MAXIMUM_PAYLOAD_BYTES = 1 << 22
_MAXIMUM_RESULTS = 1000
_LOOK_EVERY_S = 0.3
_WAITING_REPORTS = 1000

# The texts of PS3.18 11.4 to 11.12, word for word; a sentence on the case at hand stands in the body.
CREATED_MODIFIED = "The Workitem was created with modifications."
INCONSISTENT = "The submitted request is inconsistent with the current state of the Workitem."
INCONSISTENT_INSTANCE = "The submitted request is inconsistent with the state of the UPS Instance."
NOT_CLAIMED = "The target URI did not reference a claimed Workitem."
TRANSACTION_MISSING = "The Transaction UID is missing."
TRANSACTION_INCORRECT = "The Transaction UID is incorrect."
IS_CANCELED = "The UPS is already in the requested state of CANCELED."
IS_COMPLETED = "The UPS is already in the requested state of COMPLETED."

# Status of PS3.4 CC -> HTTP (PS3.18 tables 11.4.3-1 to 11.12.3-1).
_HTTP = {
    workitems.INVALID: 400,
    workitems.MISSING: 400,
    workitems.DUPLICATE: 409,
    workitems.UNKNOWN: 404,
    workitems.NO_LONGER_UPDATED: 409,
    workitems.WRONG_TRANSACTION: 400,
    workitems.ALREADY_CLAIMED: 409,
    workitems.NOT_TO_SCHEDULED: 400,
    workitems.NOT_FINISHED: 409,
    workitems.NOT_CLAIMED: 409,
    workitems.ALREADY_COMPLETED: 409,
    workitems.NOBODY_LISTENS: 409,
}


# Workitems


@router.post("/workitems", status_code=201)
async def create(request: Request) -> Response:
    """Create a workitem; its UID stands in the query, or in the data set, or is made here."""
    attributes = await _payload(request)
    uid = _of_query(request, "workitem", "AffectedSOPInstanceUID", "00001000")
    try:
        created = await run_in_threadpool(_worklist(request).create, uid or None, attributes)
    except Refusal as error:
        return _refused(request, error, "")
    # The modification time is ours in any event; it is worth telling only what the client did not leave to us.
    headers = {"Location": f"{root(request)}/workitems/{created}"}
    if not text(attributes, "WorklistLabel"):
        headers["Warning"] = _warning(request, CREATED_MODIFIED)
    return Response(status_code=201, headers=headers)


@router.get("/workitems")
def search(request: Request) -> Response:
    """Search for workitems; 206 where there are more than are given at once."""
    conditions: list[Condition] = []
    include: set[str] = set()
    numbers: dict[str, int] = {}
    for name, value in request.query_params.multi_items():
        if name in ("limit", "offset"):
            if not value.isdigit() or len(value) > 12:
                raise BadQuery(f"{name}={value!r} is no number; give how many results to return, or to skip")
            numbers[name] = int(value)
        elif name == "includefield":
            include |= {part if part == "all" else condition(part, "")[0][0] for part in value.split(",") if part}
        elif name not in ("fuzzymatching", "accept"):
            conditions.append(condition(name, value))
    shown = min(numbers.get("limit", _MAXIMUM_RESULTS), _MAXIMUM_RESULTS)
    # One more than is shown tells whether there are more.
    found = _worklist(request).search(conditions, include=include, limit=shown + 1, offset=numbers.get("offset", 0))
    if not found:
        return Response(status_code=204)
    # Who asked for no more has all that was asked for.
    is_partial = len(found) > shown and numbers.get("limit") != shown
    return _answer(request, found[:shown], 206 if is_partial else 200)


@router.get("/workitems/{uid}")
def retrieve(request: Request, uid: str) -> Response:
    """One workitem; a job of ours is one, too."""
    try:
        found = _worklist(request).get(uid)
    except Refusal as error:
        return _refused(request, error, "")
    return _answer(request, found)


@router.post("/workitems/{uid}")
async def update(request: Request, uid: str) -> Response:
    """Change attributes; of a claimed workitem with its Transaction UID."""
    changes = await _payload(request)
    transaction = _of_query(request, "transaction", "transaction-uid", "TransactionUID", "00081195")
    try:
        await run_in_threadpool(_worklist(request).update, uid, changes, transaction)
    except Refusal as error:
        said = NOT_CLAIMED if error.status == workitems.NOT_CLAIMED else INCONSISTENT
        # A final state is 400 here (11.6.2), and 409 where the state itself is to be changed.
        status = 400 if error.status == workitems.NO_LONGER_UPDATED else None
        return _refused(request, error, said, status)
    return Response(status_code=200)


@router.put("/workitems/{uid}/state")
async def change_state(request: Request, uid: str) -> Response:
    """Claim, complete or cancel."""
    asked = await _payload(request)
    transaction = text(asked, "TransactionUID")
    # PS3.18 11.7.1.4 spells it with two L, the states themselves have one.
    wanted = text(asked, "ProcedureStepState").replace("CANCELLED", CANCELED)
    try:
        already = await run_in_threadpool(_worklist(request).change_state, uid, wanted, transaction)
    except Refusal as error:
        said = INCONSISTENT_INSTANCE
        if error.status == workitems.WRONG_TRANSACTION:
            said = TRANSACTION_INCORRECT if transaction else TRANSACTION_MISSING
        return _refused(request, error, said)
    return Response(status_code=200, headers=_already(request, already))


@router.post("/workitems/{uid}/cancelrequest", status_code=202)
async def request_cancel(request: Request, uid: str) -> Response:
    """Ask that a workitem be canceled; `requester=` is the AE title that its performer is told."""
    reasons = await _payload(request, may_be_empty=True)
    requester = request.query_params.get("requester", "UNKNOWN")[:16]
    try:
        already = await run_in_threadpool(_worklist(request).request_cancel, uid, reasons, requester)
    except Refusal as error:
        return _refused(request, error, "")
    return Response(status_code=202, headers=_already(request, already))


# Subscriptions


@router.post("/workitems/{uid}/subscribers/{aetitle}", status_code=201)
def subscribe(request: Request, uid: str, aetitle: str) -> Response:
    """Be told of a workitem, or of the worklist by its well-known UID."""
    lock = request.query_params.get("deletionlock", "false").lower()
    if lock not in ("true", "false"):
        raise HTTPException(400, f"deletionlock={lock!r} is neither true nor false; give one of the two")
    conditions = _filter(request) if uid == FILTERED_WORKLIST else []
    _check_title(aetitle)
    try:
        _worklist(request).subscribe(aetitle, uid, deletion_lock=lock == "true", conditions=conditions)
    except Refusal as error:
        return _refused(request, error, "")
    channel = f"{root(request)}/subscribers/{aetitle}".replace("http", "ws", 1)
    return Response(status_code=201, headers={"Content-Location": channel})


@router.delete("/workitems/{uid}/subscribers/{aetitle}")
def unsubscribe(request: Request, uid: str, aetitle: str) -> Response:
    """Be told no more."""
    try:
        _worklist(request).unsubscribe(aetitle, uid)
    except Refusal as error:
        return _refused(request, error, "")
    return Response(status_code=200)


@router.post("/workitems/{uid}/subscribers/{aetitle}/suspend")
def suspend(request: Request, uid: str, aetitle: str) -> Response:
    """Workitems to come are no part of the subscription any more; those that are there stay in it."""
    if uid not in WHOLE:
        raise HTTPException(400, f"{uid} is not the worklist; only subscriptions to {' or '.join(WHOLE)} are suspended")
    try:
        _worklist(request).suspend(aetitle, uid)
    except Refusal as error:
        return _refused(request, error, "")
    return Response(status_code=200)


def _filter(request: Request) -> list[Condition]:
    """`filter=attribute=value,...`; the values are as in a search."""
    text_of = request.query_params.get("filter", "")
    pairs = [part.partition("=") for part in text_of.split(",") if part.strip()]
    if not pairs or not all(equals for _, equals, _ in pairs):
        raise HTTPException(400, "a filtered subscription needs filter=ATTRIBUTE=VALUE, several by comma")
    return [condition(name.strip(), value.strip()) for name, _, value in pairs]


def _check_title(aetitle: str) -> None:
    if len(aetitle) > 16 or not aetitle.isascii() or not aetitle.isprintable() or "\\" in aetitle:
        raise HTTPException(400, f"{aetitle[:32]!r} is no AE title (PS3.5 6.2: at most 16 characters)")


# The channel


@router.websocket("/subscribers/{aetitle}")
async def channel(socket: WebSocket, aetitle: str) -> None:
    """Event reports for one application as DICOM JSON, one a message, for as long as it stays."""
    channels: Channels = socket.app.state.channels
    # Before it is accepted: whoever sees the channel open is told of whatever happens from then on.
    reports = await channels.open(aetitle)
    sending = None
    try:
        await socket.accept()
        sending = asyncio.create_task(_send(socket, reports))
        while (await socket.receive())["type"] != "websocket.disconnect":
            pass  # whatever a subscriber says, there is nothing to answer
    except WebSocketDisconnect:
        pass
    finally:
        if sending:
            sending.cancel()
        channels.close(aetitle, reports)


async def _send(socket: WebSocket, reports: asyncio.Queue[Report | None]) -> None:
    number = 0
    while (report := await reports.get()) is not None:
        number += 1
        await socket.send_text(json.dumps(report.message(number), ensure_ascii=False))
    # 1013: it did not take its reports as fast as there were new ones.
    await socket.close(1013)


class Channels:
    """The open channels of this process, and the one task that looks for news while there are any."""

    def __init__(self, index: Index, worklist: Worklist, aet: str) -> None:
        self._make_watch = lambda: Watch(index, worklist, aet)
        self._queues: dict[str, list[asyncio.Queue[Report | None]]] = {}
        self._looking: asyncio.Task[None] | None = None
        self._started_at = time.time()
        self._greeted: set[str] = set()
        self._opening = asyncio.Lock()

    async def open(self, aetitle: str) -> asyncio.Queue[Report | None]:
        """Where the reports for an application will be; None there means that it was too slow."""
        queue: asyncio.Queue[Report | None] = asyncio.Queue(_WAITING_REPORTS)
        async with self._opening:
            # From here on it is looked for, and nothing that happens from now on is missed.
            if self._looking is None or self._looking.done():
                self._watch = await run_in_threadpool(self._make_watch)
                self._looking = asyncio.create_task(self._look(self._watch))
            self._queues.setdefault(aetitle, []).append(queue)
            if aetitle not in self._greeted:
                self._greeted.add(aetitle)
                for report in await run_in_threadpool(self._watch.greeting, aetitle, self._started_at):
                    queue.put_nowait(report)
        return queue

    def close(self, aetitle: str, queue: asyncio.Queue[Report | None]) -> None:
        """The application has gone."""
        here = self._queues.get(aetitle, [])
        if queue in here:
            here.remove(queue)
        if not here:
            self._queues.pop(aetitle, None)

    async def _look(self, watch: Watch) -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            if not self._queues:
                return
            try:
                news = await run_in_threadpool(watch.news, list(self._queues))
            except SQLAlchemyError:
                LOGGER.exception("UPS-RS: the worklist cannot be read; the next look is in %s s", _LOOK_EVERY_S)
                continue
            for aetitle, report in news:
                for queue in list(self._queues.get(aetitle, [])):
                    self._deliver(aetitle, queue, report)

    def _deliver(self, aetitle: str, queue: asyncio.Queue[Report | None], report: Report) -> None:
        if queue.qsize() < _WAITING_REPORTS - 1:
            queue.put_nowait(report)
            return
        LOGGER.warning("UPS-RS: the channel of %s is closed, it does not take its reports", aetitle)
        queue.put_nowait(None)
        self.close(aetitle, queue)


# Bodies and answers


async def _payload(request: Request, *, may_be_empty: bool = False) -> Attributes:
    """One data set in the DICOM JSON model, from JSON or XML. Raises 400, 413 or 415."""
    kind, _ = media.parameters(request.headers.get("content-type", media.DICOM_JSON))
    raw = bytearray()
    async for block in request.stream():
        raw += block
        if len(raw) > _MAXIMUM_PAYLOAD_BYTES:
            raise HTTPException(413, f"the data set exceeds {_MAXIMUM_PAYLOAD_BYTES >> 20} MiB; a workitem is smaller")
    if may_be_empty and not raw.strip():
        return {}
    try:
        if kind not in (media.DICOM_JSON, native_xml.MEDIA_TYPE, "application/json"):
            raise HTTPException(415, f"{kind} is not read here; send application/dicom+json or application/dicom+xml")
        found = native_xml.read(bytes(raw)) if kind == native_xml.MEDIA_TYPE else json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"the payload is no {kind} ({error}); write it anew") from error
    # Some clients send an array of one, as other services have it.
    one: Attributes = found[0] if isinstance(found, list) and len(found) == 1 else found
    if wrong := malformed(one):
        raise HTTPException(400, wrong)
    return one


def _answer(request: Request, found: Attributes | list[Attributes], status: int = 200) -> Response:
    for entry in media.wanted(request):
        if entry.media_type in (media.DICOM_JSON, media.ANYTHING, "application/*", "application/json"):
            return Response(json.dumps(found, ensure_ascii=False), status, media_type=media.DICOM_JSON)
        if entry.media_type == native_xml.MEDIA_TYPE:
            if isinstance(found, dict):
                return Response(native_xml.document(found), status, media_type=native_xml.MEDIA_TYPE)
            writer = native_xml.writer(found)
            return Response(b"".join(writer), status, media_type=writer.content_type)
    raise HTTPException(406, "workitems are given as application/dicom+json or application/dicom+xml; accept one")


def _refused(request: Request, error: Refusal, said: str, status: int | None = None) -> Response:
    """said: the text of the standard for it, where it has one."""
    code = 410 if isinstance(error, Gone) else status or _HTTP[error.status]
    headers = {"Warning": _warning(request, said)} if said and code in (400, 409) else None
    return problem(code, str(error), headers)


def _already(request: Request, state: str) -> dict[str, str]:
    said = {CANCELED: IS_CANCELED, COMPLETED: IS_COMPLETED}.get(state)
    return {"Warning": _warning(request, said)} if said else {}


def _warning(request: Request, said: str) -> str:
    """PS3.18 11: `299 <service>: <text>`."""
    return f"299 {root(request)}: {said}"


def _of_query(request: Request, *names: str) -> str:
    """A UID that stands alone in the query (`?1.2.3`, as PS3.18 11.4.1 writes it), or under a name."""
    for name, value in parse_qsl(request.url.query, keep_blank_values=True):
        if name in names:
            return value.strip()
        if not value and name.replace(".", "").isdigit():
            return name
    return ""


def _worklist(request: Request) -> Worklist:
    found: Worklist = request.app.state.worklist
    return found
