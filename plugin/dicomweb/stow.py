"""STOW-RS: storing instances (PS3.18 10.5), streamed part by part into incoming/ and through the same ingest.

What a part is, and how an instance is made of metadata and bulk data, is `intake`'s business; here is what becomes of
each instance, and how it is told.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import APIRouter, HTTPException, Request, Response
from pydicom.uid import UID
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import ClientDisconnect

from plugin.archive.arrival import Arrival
from plugin.archive.decision import Outcome
from plugin.archive.ingest import OUT_OF_RESOURCES, Announced, Ingest
from plugin.archive.received import CANNOT_UNDERSTAND, Refused
from plugin.archive.storage import NoSpace
from plugin.dicomweb import media, native_xml
from plugin.dicomweb.assembly import CannotAssemble
from plugin.dicomweb.intake import Arrived, UnsupportedPart, objects
from plugin.dicomweb.multipart import BadMultipart
from plugin.dicomweb.problems import problem
from plugin.dicomweb.routing import root

LOGGER = logging.getLogger(__name__)
router = APIRouter(tags=["STOW-RS"])

# PS3.18 I.2.2, table I.2-2; ingest's own (A700, A900, C000, C1xx) come as they are.
PROCESSING_FAILURE, CLASS_NOT_SUPPORTED = 0x0110, 0x0122
# PS3.18 table I.2-1: the instance was stored, and its attributes are not (all) what the archive answers with.
COERCED = 0xB000

# Instances that are looked at, synced and indexed at once, over all requests. Ingest commits in groups: whoever waits
# for the disk shares one sync with the others, so more threads than processors are of use.
_INGESTING = ThreadPoolExecutor(8, thread_name_prefix="stow")
# Of one request; what lies whole in incoming/ beyond it keeps the body waiting.
_AT_ONCE = 16
_SENTENCES = 10


@router.post("/studies")
async def store(request: Request) -> Response:
    """Store instances of any studies."""
    return await _store(request, "")


@router.post("/studies/{study}")
async def store_in_study(request: Request, study: str) -> Response:
    """Store instances of one study; others are refused."""
    return await _store(request, study)


async def _store(request: Request, study: str) -> Response:
    kind = _answer_type(request)
    ingest: Ingest = request.app.state.archive
    arrival = Arrival("stow", address=request.client.host if request.client else "")
    work = _Work(ingest, arrival, Announced(study_instance_uid=study))
    stored = _Stored()
    try:
        async for arrived in objects(request, ingest.storage):
            await work.add(arrived)
    except BadMultipart as error:
        stored.broken = error
    except ClientDisconnect:
        # Nobody reads an answer. What was whole is stored; the rest was abandoned.
        done = await work.finished()
        LOGGER.warning("STOW-RS: a sender went away; %d of its instances had come whole", len(done))
        return problem(400, "the request ended before its body did; send it again")
    finally:
        # Also where the request is given up: what was handed to a thread is stored, and nothing is left behind.
        stored.outcomes = await asyncio.shield(work.finished())
        stored.unsupported = work.unsupported
    return stored.answer(request, study, kind)


class _Work:
    """The instances of one request on their way through ingest, several at once."""

    def __init__(self, ingest: Ingest, arrival: Arrival, announced: Announced) -> None:
        self._ingest, self._arrival, self._announced = ingest, arrival, announced
        self._begun: list[asyncio.Future[Outcome]] = []
        # Sentences, not errors: each error would keep the frames that it came through.
        self.unsupported: list[str] = []

    async def add(self, arrived: Arrived) -> None:
        """Begin with one more; waits while too many are on their way."""
        loop = asyncio.get_running_loop()
        self._begun.append(loop.run_in_executor(_INGESTING, self._ingested, arrived))
        if len(self._begun) > _AT_ONCE:
            await asyncio.wait([self._begun[-_AT_ONCE - 1]])

    async def finished(self) -> list[Outcome]:
        """The outcomes in the order of the parts, when all are there."""
        return list(await asyncio.gather(*self._begun))

    def _ingested(self, arrived: Arrived) -> Outcome:
        try:
            path = arrived.take()
            sop_class, sop_instance = announced_uids(path)
            if not is_storable(sop_class):
                return self._set_aside(path, sop_class, sop_instance)
            return self._ingest.accept(path, self._arrival, announced=self._announced)
        except NoSpace as error:
            return _refused(OUT_OF_RESOURCES, str(error))
        except CannotAssemble as error:
            return _refused(CANNOT_UNDERSTAND, str(error), error.sop_class_uid, error.sop_instance_uid)
        except UnsupportedPart as error:
            self.unsupported.append(str(error))
            return _refused(CANNOT_UNDERSTAND, str(error))
        except (OSError, SQLAlchemyError) as error:
            LOGGER.exception("STOW-RS: an instance could not be processed")
            return _refused(PROCESSING_FAILURE, f"the instance could not be processed ({type(error).__name__})")

    def _set_aside(self, path: Path, sop_class: str, sop_instance: str) -> Outcome:
        """Into quarantine, as all that is refused."""
        why = Refused(
            f"SOP class {sop_class} ({UID(sop_class).name}) is none of storage; send instances of storage classes",
            status=CLASS_NOT_SUPPORTED,
        )
        self._ingest.quarantine.add(path, self._arrival, why, time.time())
        return _refused(why.status, str(why), sop_class, sop_instance)


def _refused(status: int, reason: str, sop_class: str = "", sop_instance: str = "") -> Outcome:
    return Outcome("quarantined", status, reason, sop_class_uid=sop_class, sop_instance_uid=sop_instance)


def announced_uids(path: Path) -> tuple[str, str]:
    """Media Storage SOP Class and SOP Instance UID (0002,0002), (0002,0003) of a file, "" where it does not begin as
    PS3.10 7.1 says."""
    with path.open("rb") as file:
        head = file.read(1024)
    return _meta_uid(head, b"\x02\x00\x02\x00UI"), _meta_uid(head, b"\x02\x00\x03\x00UI")


def _meta_uid(head: bytes, element: bytes) -> str:
    at = head.find(element, 132)
    if head[128:132] != b"DICM" or at < 0:
        return ""
    length = int.from_bytes(head[at + 6 : at + 8], "little")
    return head[at + 8 : at + 8 + length].decode("ascii", "replace").strip("\0 ")


def is_storable(sop_class_uid: str) -> bool:
    """Storage classes, private and unknown ones; not what the standard registers as another service's class."""
    uid = UID(sop_class_uid)
    if uid.type not in ("SOP Class", "Meta SOP Class"):
        return True
    # A directory (PS3.3 F) is a file of its own kind, and no instance of a study.
    return "Storage" in uid.name and not uid.name.startswith(("Storage Commitment", "Media Storage Directory"))


@dataclass
class _Stored:
    """What became of the objects of one request.

    broken: the body did not follow its boundary to the end. unsupported: the parts among them that are no objects.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    broken: BadMultipart | None = None
    unsupported: list[str] = field(default_factory=list)

    def answer(self, request: Request, study: str, kind: str) -> Response:
        """The Store Instances Response (PS3.18 I.2) with its status."""
        if self.broken is not None and not self.outcomes:
            raise self.broken
        if not self.outcomes:
            raise HTTPException(400, "the request holds no object; send at least one part of type application/dicom")
        if len(self.unsupported) == len(self.outcomes):
            raise HTTPException(415, self.unsupported[0])
        refused = [outcome for outcome in self.outcomes if not outcome.accepted]
        if self.broken is not None:
            refused.append(_refused(CANNOT_UNDERSTAND, str(self.broken)))
        document = self._document(request, study, refused)
        if kind == native_xml.MEDIA_TYPE:
            response = Response(native_xml.document(document), self._status(refused), media_type=kind)
        else:
            response = Response(json.dumps(document), self._status(refused), media_type=kind)
        # PS3.18 has no place in the body for a sentence; RFC 7234's Warning header is where servers put it.
        for line in _sentences(refused, self._aside()):
            response.headers.append("Warning", line)
        return response

    def _good(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.accepted]

    def _aside(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.state == "put aside"]

    def _status(self, refused: list[Outcome]) -> int:
        """200 all stored, 202 some, or with a warning, 409 none, 507 none for want of space (PS3.18 10.5.3.1)."""
        if self._good():
            return 202 if refused or self._aside() else 200
        return 507 if any(outcome.status == OUT_OF_RESOURCES for outcome in refused) else 409

    def _document(self, request: Request, study: str, refused: list[Outcome]) -> dict[str, Any]:
        good = self._good()
        body: dict[str, Any] = {}
        if study or len({outcome.study_instance_uid for outcome in good}) == 1:
            url = f"{root(request)}/studies/{study or good[0].study_instance_uid}"
            body["00081190"] = {"vr": "UR", "Value": [url]}
        for tag, items in (
            ("00081198", [_failed(outcome) for outcome in refused if outcome.sop_instance_uid]),
            ("00081199", [_referenced(request, outcome) for outcome in good]),
            ("0008119A", [_failed(outcome) for outcome in refused if not outcome.sop_instance_uid]),
        ):
            if items:
                body[tag] = {"vr": "SQ", "Value": items}
        return body


def _answer_type(request: Request) -> str:
    """DICOM JSON or XML, whichever the client prefers. Raises 406."""
    for entry in media.wanted(request):
        if entry.media_type in (media.DICOM_JSON, media.ANYTHING, "application/*", "application/json"):
            return media.DICOM_JSON
        if entry.media_type == native_xml.MEDIA_TYPE:
            return native_xml.MEDIA_TYPE
    raise HTTPException(406, "storing is answered as application/dicom+json or application/dicom+xml; accept one")


_UNQUOTABLE = str.maketrans({'"': "'", "\\": "/", "\r": " ", "\n": " "})


def _sentences(refused: Iterable[Outcome], aside: Iterable[Outcome]) -> list[str]:
    told = [outcome.reason for outcome in refused] + [
        f"instance {outcome.sop_instance_uid} is kept with another header, and this one was put aside as a version"
        for outcome in aside
    ]
    lines = [f'299 mirall "{sentence.translate(_UNQUOTABLE)}"' for sentence in told[:_SENTENCES]]
    return [line.encode("ascii", "replace").decode() for line in lines]


def _referenced(request: Request, outcome: Outcome) -> dict[str, Any]:
    url = (
        f"{root(request)}/studies/{outcome.study_instance_uid}/series/{outcome.series_instance_uid}"
        f"/instances/{outcome.sop_instance_uid}"
    )
    item = {
        "00081150": {"vr": "UI", "Value": [outcome.sop_class_uid]},
        "00081155": {"vr": "UI", "Value": [outcome.sop_instance_uid]},
        "00081190": {"vr": "UR", "Value": [url]},
    }
    return item | ({"00081196": {"vr": "US", "Value": [COERCED]}} if outcome.state == "put aside" else {})


def _failed(outcome: Outcome) -> dict[str, Any]:
    item: dict[str, Any] = {"00081197": {"vr": "US", "Value": [outcome.status]}}
    for tag, uid in (("00081150", outcome.sop_class_uid), ("00081155", outcome.sop_instance_uid)):
        if uid:
            item[tag] = {"vr": "UI", "Value": [uid]}
    return item
