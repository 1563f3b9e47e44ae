"""What C-MOVE and C-GET as services have in common (PS3.4 C.4.2, C.4.3): which objects are asked for, and the answers.

pynetdicom's own service reads and writes whole data sets and answers in its own order; here its requests go to one
handler that says everything itself, and stored bytes leave as they are.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom import Dataset
from pydicom.uid import UID
from pynetdicom import association, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_GET, C_MOVE
from pynetdicom.dsutils import encode
from pynetdicom.events import Event
from pynetdicom.presentation import PresentationContext
from pynetdicom.service_class import QueryRetrieveServiceClass, ServiceClass
from sqlalchemy import Connection, Row, select

from dicom_io.errors import Rejected
from plugin.archive import query
from plugin.archive.gate import Leaving
from plugin.archive.index import Index
from plugin.archive.query import Key, Query
from plugin.archive.tables import Instance
from plugin.dimse import transmission
from plugin.dimse.client.store import Carrier, Kind, Load, Originator, Sent, is_open
from plugin.dimse.reception import ReceivingAE
from plugin.dimse.status import CANCELLED, PENDING, SUCCESS, comment

log = logging.getLogger(__name__)

# PS3.4 C.4.2.1.5 and C.4.3.1.4.
TOO_MANY = 0xA701
CANNOT_SEND = 0xA702
UNKNOWN_DESTINATION = 0xA801
NO_SUCH_IDENTIFIER = 0xA900
SOME_FAILED = 0xB000
# Counts are US (PS3.7 E.1).
_MAXIMUM = 0xFFFF
_BATCH = 500
_COLUMNS = (
    *(Instance.sop_instance_uid, Instance.sop_class_uid, Instance.transfer_syntax_uid),
    *(Instance.storage_key, Instance.made_by_us, Instance.record),
)

_LEVELS = {
    "PATIENT": "PatientID",
    "STUDY": "StudyInstanceUID",
    "SERIES": "SeriesInstanceUID",
    "IMAGE": "SOPInstanceUID",
}


MayLeave = Callable[[Leaving, Path], None]
"""Raises Rejected where the file, which is the instance in some encoding, must not leave."""


class BadIdentifier(Rejected):
    """The identifier of the request says no level, or not which objects of it."""


@dataclass(frozen=True)
class Wanted:
    """One object that is asked for, as it is stored when the request comes. record: see `tables.Instance`."""

    sop_instance_uid: str
    kind: Kind
    storage_key: str
    path: Path
    made_by_us: bool
    record: dict[str, Any] | None


def wanted(index: Index, identifier: Dataset, *, patient_root: bool) -> list[Wanted]:
    """The objects that an identifier asks for: newest study first, series and instances by their number.

    The unique key of the Query/Retrieve Level (0008,0052) must be there; it may be a list of UIDs (PS3.4 C.2.2.2.2).
    Keys of the levels above narrow it down where they are given; where they are not, the object is found all the same,
    as with relational retrieval (C.4.2.2.2). Other attributes are not looked at.

    Raises:
        BadIdentifier: no level, one that the model does not have, no unique key, or a wildcard in one.
    """
    level = str(identifier.get("QueryRetrieveLevel") or "").strip()
    levels = list(_LEVELS) if patient_root else list(_LEVELS)[1:]
    if level not in levels:
        raise BadIdentifier(f"Query/Retrieve Level is {level or 'absent'}; give one of {', '.join(levels)}")
    keys = []
    for name in list(_LEVELS)[: list(_LEVELS).index(level) + 1]:
        text = _text(identifier, _LEVELS[name])
        if not text and name == level:
            raise BadIdentifier(f"{_LEVELS[name]} is empty; name what to retrieve at level {level}")
        if any(sign in text for sign in "*?"):
            raise BadIdentifier(f"{_LEVELS[name]} has a wildcard; a retrieval names its objects")
        if text:
            keys.append(Key(query.tag_of(_LEVELS[name]), text))
    with index.read() as connection:
        uids = [uid for (uid,) in query.find(connection, Query("instance", tuple(keys), exact_case=True))]
        rows = {row.sop_instance_uid: row for row in _rows(connection, uids)}
    return [_wanted(index, rows[uid]) for uid in uids]


def _rows(connection: Connection, uids: Sequence[str]) -> Iterator[Row[Any]]:
    for start in range(0, len(uids), _BATCH):
        yield from connection.execute(
            select(*_COLUMNS).where(Instance.sop_instance_uid.in_(uids[start : start + _BATCH]))
        )


def _wanted(index: Index, row: Row[Any]) -> Wanted:
    return Wanted(
        row.sop_instance_uid,
        Kind(row.sop_class_uid, row.transfer_syntax_uid),
        row.storage_key,
        index.objects / row.storage_key,
        row.made_by_us,
        row.record,
    )


def _text(identifier: Dataset, keyword: str) -> str:
    value: Any = identifier.get(keyword)
    if not value:
        return ""
    return value.strip() if isinstance(value, str) else "\\".join(str(one).strip() for one in value)


@dataclass
class Tally:
    """What became of the sub-operations so far (PS3.7 9.1.3.1, 9.1.4.1). failed_uids: in their order."""

    remaining: int
    completed: int = 0
    warnings: int = 0
    failed_uids: list[str] = field(default_factory=list)

    def note(self, sent: Sent) -> None:
        self.remaining -= 1
        if sent.status == SUCCESS:
            self.completed += 1
        elif sent.accepted:
            self.warnings += 1
        else:
            self.failed_uids.append(sent.sop_instance_uid)
            log.warning("instance %s was not retrieved: %s", sent.sop_instance_uid, sent.reason)

    @property
    def status(self) -> int:
        """Of the final response, where all sub-operations were tried."""
        if self.failed_uids and not self.completed and not self.warnings:
            return CANNOT_SEND
        return SOME_FAILED if self.failed_uids or self.warnings else SUCCESS


class Answering:
    """Responses to one C-MOVE or C-GET request, and its C-CANCEL (PS3.7 9.3.2.3)."""

    def __init__(self, event: Event) -> None:
        self._association: Association = event.assoc
        self._request = event.request
        self._is_cancelled: Callable[[int], bool] = event._is_cancelled
        self._context_id = event.context.context_id
        self._syntax = UID(event.context.transfer_syntax)

    @property
    def is_cancelled(self) -> bool:
        return self._is_cancelled(self._request.MessageID)

    @property
    def is_open(self) -> bool:
        """Whether the peer is still there."""
        return is_open(self._association)

    def pending(self, tally: Tally) -> None:
        self._send(PENDING[0], tally, remaining=True)

    def cancelled(self, tally: Tally) -> None:
        self._send(CANCELLED, tally, remaining=True)

    def done(self, tally: Tally, sentence: str = "") -> None:
        """The final response; objects that were not tried count as failed."""
        self._send(tally.status, tally, sentence=sentence)

    def refused(self, status: int, sentence: str) -> None:
        self._send(status, None, sentence=sentence)

    def _send(self, status: int, tally: Tally | None, *, remaining: bool = False, sentence: str = "") -> None:
        response = type(self._request)()
        response.MessageID = response.MessageIDBeingRespondedTo = self._request.MessageID
        response.AffectedSOPClassUID = self._request.AffectedSOPClassUID
        response.Status = status
        if sentence:
            response.ErrorComment = comment(sentence)
        if tally is not None:
            if remaining:
                response.NumberOfRemainingSuboperations = tally.remaining
            response.NumberOfCompletedSuboperations = tally.completed
            response.NumberOfWarningSuboperations = tally.warnings
            response.NumberOfFailedSuboperations = len(tally.failed_uids)
            if status not in (SUCCESS, *PENDING):
                response.Identifier = BytesIO(self._failed(tally))
        if self.is_open:
            self._association.dimse.send_msg(response, self._context_id)
            self._association.dul.look()

    def _failed(self, tally: Tally) -> bytes:
        """Failed SOP Instance UID List (0008,0058)."""
        identifier = Dataset()
        identifier.FailedSOPInstanceUIDList = tally.failed_uids
        syntax = self._syntax
        raw = encode(identifier, syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated)
        assert raw is not None
        return raw


class _Retrieval(QueryRetrieveServiceClass):
    """Hands C-MOVE and C-GET requests to the node's handler, which sends all the responses."""

    def SCP(self, req: Any, context: PresentationContext) -> None:  # noqa: N802
        kind = {C_MOVE: evt.EVT_C_MOVE, C_GET: evt.EVT_C_GET}.get(type(req))
        if kind is None:
            super().SCP(req, context)
            return
        attributes = {"request": req, "context": context.as_tuple, "_is_cancelled": self.is_cancelled}
        evt.trigger(self.assoc, kind, attributes)


_service_of = association.uid_to_service_class


def _ours(uid: str) -> Callable[[Association], ServiceClass]:
    found = _service_of(uid)

    def service(assoc: Association) -> ServiceClass:
        is_here = found is QueryRetrieveServiceClass and isinstance(assoc.ae, ReceivingAE)
        return (_Retrieval if is_here else found)(assoc)

    return service


def install() -> None:
    """Have requests to every ReceivingAE served by its handlers alone; a setting of the whole process in pynetdicom."""
    transmission.install()
    association.uid_to_service_class = _ours


def begin(event: Event, index: Index, patient_root: str) -> tuple[Answering, list[Wanted] | None]:
    """The objects that a request asks for; None where it has been refused already."""
    answering = Answering(event)
    try:
        found = wanted(index, _identifier(event), patient_root=event.request.AffectedSOPClassUID == patient_root)
    except (BadIdentifier, query.BadQuery) as error:
        answering.refused(NO_SUCH_IDENTIFIER, str(error))
        return answering, None
    if len(found) > _MAXIMUM:
        answering.refused(TOO_MANY, f"{len(found)} objects are more than {_MAXIMUM}; ask for less at once")
        return answering, None
    return answering, found


def _identifier(event: Event) -> Dataset:
    """Raises BadIdentifier where the bytes are no data set in the syntax of their context."""
    try:
        identifier = event.identifier
        identifier.decode()
    except (ValueError, AttributeError, TypeError, LookupError, OSError, EOFError, struct.error) as error:
        raise BadIdentifier(f"the identifier cannot be read ({error}); send it in the accepted syntax") from error
    return identifier


def carry(
    carrier: Carrier, may_leave: MayLeave, objects: Sequence[Wanted], originator: Originator | None = None
) -> Iterator[Sent]:
    """Send each object through the gate; what was deleted meanwhile has no file any more, and fails."""
    for each in objects:
        load = Load(each.path, each.sop_instance_uid, each.kind)
        yield carrier.send(load, partial(may_leave, each), originator)
