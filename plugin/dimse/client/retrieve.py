"""C-GET and C-MOVE as a client (PS3.4 C.4.3, C.4.2): a peer sends us what it has.

By C-GET the objects come on our own association, into the store's incoming/ as at the listener, and are acknowledged
when they are durable. By C-MOVE the peer opens associations to our listener, so the service must run, and the peer must
know our AE title with host and port. What the peer says of its success is reported and not believed: whoever asks for
objects looks afterwards whether they are there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import ALL_TRANSFER_SYNTAXES, StoragePresentationContexts, build_context, build_role, evt
from pynetdicom.association import Association
from pynetdicom.events import Event
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import (
    PatientRootQueryRetrieveInformationModelGet,
    PatientRootQueryRetrieveInformationModelMove,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from dicom_io.errors import Rejected
from plugin.archive.arrival import Arrival
from plugin.archive.ingest import Ingest
from plugin.dimse import reception, store
from plugin.dimse.client.association import Peer, PeerUnreachable, associate, end
from plugin.dimse.status import CANCELLED, PENDING, SUCCESS, is_temporary

RETRIEVE_TIMEOUT_S = 300.0
"""Of silence, after which a peer counts as gone: it may read from tape, and a large object is one message."""

_CANCEL_WAIT_S = 5.0
_MAXIMUM_CONTEXTS = 128  # odd context IDs from 1 to 255 (PS3.8 9.3.2.2)
_MESSAGE_ID = 1
_GET = (str(StudyRootQueryRetrieveInformationModelGet), str(PatientRootQueryRetrieveInformationModelGet))
_MOVE = (str(StudyRootQueryRetrieveInformationModelMove), str(PatientRootQueryRetrieveInformationModelMove))
_SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
# Pixels that lie elsewhere (JPIP) and live video (SMPTE ST 2110) are in no archive.
_NOT_STORED = (
    "1.2.840.10008.1.2.4.94",
    "1.2.840.10008.1.2.4.95",
    "1.2.840.10008.1.2.4.204",
    "1.2.840.10008.1.2.4.205",
    "1.2.840.10008.1.2.7.",
)
# JPEG processes 6, 8 and 10, 12: retired, and in old archives.
_RETIRED = ("1.2.840.10008.1.2.4.53", "1.2.840.10008.1.2.4.55")
# A context for each, so that the peer finds the one in which it stores an object.
_STORED_IN = [*(str(uid) for uid in ALL_TRANSFER_SYNTAXES if not str(uid).startswith(_NOT_STORED)), *_RETIRED]
_CLASSES_IN_AN_ASSOCIATION = (_MAXIMUM_CONTEXTS - len(_GET)) // len(_STORED_IN)

UNNAMED = ""
Level = Literal["STUDY", "SERIES", "IMAGE"]


class CannotRetrieve(Rejected):
    """The peer does not offer this way of retrieval."""


@dataclass(frozen=True)
class Request:
    """One C-GET or C-MOVE. It asks for `level`: the study, one series of it, or single instances of one series.

    sop_classes: of the objects that will come, for the contexts of a C-GET; UNNAMED for what the peer did not say, as
    not every one does. patient_id: for a peer that knows only the
    Patient Root model.
    """

    level: Level
    study_instance_uid: str
    sop_classes: tuple[str, ...]
    series_instance_uid: str = ""
    sop_instance_uids: tuple[str, ...] = ()
    patient_id: str = ""

    def identifier(self, patient_root: bool) -> Dataset:
        """The unique keys of the level and those above it, and nothing else (PS3.4 C.4.2.2.1, C.4.3.2.1)."""
        query = Dataset()
        query.QueryRetrieveLevel = self.level
        query.StudyInstanceUID = self.study_instance_uid
        if patient_root:
            query.PatientID = self.patient_id
        if self.series_instance_uid:
            query.SeriesInstanceUID = self.series_instance_uid
        if self.sop_instance_uids:
            query.SOPInstanceUID = list(self.sop_instance_uids)
        return query


@dataclass(frozen=True)
class Answer:
    """What the peer said in the end of one request, or of several together.

    completed, warnings, failed: its sub-operations. failed_uids: those that it names (0008,0058), where it does.
    sentence: "" on success.
    """

    completed: int = 0
    warnings: int = 0
    failed: int = 0
    failed_uids: tuple[str, ...] = ()
    sentence: str = ""

    def __add__(self, other: Answer) -> Answer:
        return Answer(
            self.completed + other.completed,
            self.warnings + other.warnings,
            self.failed + other.failed,
            self.failed_uids + other.failed_uids,
            "; ".join(dict.fromkeys(each for each in (self.sentence, other.sentence) if each)),
        )


Received = Callable[[str, int | Dataset], None]
"""Told of each object that came by C-GET: its SOP Instance UID, and what we answered (see `store.take`)."""


def get(
    peer: Peer,
    requests: Sequence[Request],
    ingest: Ingest,
    *,
    received: Received = lambda uid, answer: None,
    stop: threading.Event | None = None,
    timeout_s: float = RETRIEVE_TIMEOUT_S,
) -> Answer:
    """C-GET each request; the objects are stored with door "pull", the peer as calling AE title.

    For each SOP class every transfer syntax is proposed in a context of its own, us as SCP of it (PS3.7 D.3.3.4); more
    classes than 128 contexts hold take several associations. stop: when set, the peer gets a C-CANCEL.

    Raises:
        PeerUnreachable: no association, or the peer fell silent; what came until then is stored.
        CannotRetrieve: the peer offers no C-GET, or none that sends to us.
    """
    reception.install()
    arrival = Arrival("pull", calling_aet=peer.aet, called_aet=peer.calling_aet, address=peer.host)

    pulse = _Pulse(timeout_s, stop)

    def take(event: Event) -> int | Dataset:
        answer = store.take(event, ingest, arrival)
        pulse.beat()
        received(str(event.request.AffectedSOPInstanceUID), answer)
        return answer

    total = Answer()
    for classes, batch in _batches(requests):
        entity = reception.ReceivingAE(peer.calling_aet, ingest.storage)
        storage = _storage_contexts(classes)
        contexts = [*(build_context(model, _SYNTAXES) for model in _GET), *storage]
        roles = [build_role(sop_class, scp_role=True) for sop_class in {each.abstract_syntax for each in storage}]
        association = associate(peer, contexts, timeout_s, [(evt.EVT_C_STORE, take)], entity=entity, negotiation=roles)
        total += _retrieve(peer, association, _GET, batch, association.send_c_get, pulse)
    return total


def move(
    peer: Peer,
    requests: Sequence[Request],
    *,
    stop: threading.Event | None = None,
    timeout_s: float = RETRIEVE_TIMEOUT_S,
) -> Answer:
    """C-MOVE each request to our own AE title (`peer.calling_aet`), where the listener stores the objects.

    Raises:
        PeerUnreachable: no association, or the peer fell silent.
        CannotRetrieve: the peer offers no C-MOVE.
    """
    association = associate(peer, [build_context(model, _SYNTAXES) for model in _MOVE], timeout_s)

    def send(query: Dataset, model: str, msg_id: int) -> Iterator[tuple[Dataset, Dataset | None]]:
        return association.send_c_move(query, peer.calling_aet, model, msg_id)

    return _retrieve(peer, association, _MOVE, requests, send, _Pulse(timeout_s, stop))


def _storage_contexts(sop_classes: Sequence[str]) -> list[PresentationContext]:
    """A context for each class and transfer syntax; where the peer named no class, one for each class that there is,
    in the uncompressed syntaxes."""
    if UNNAMED in sop_classes:
        return list(StoragePresentationContexts[: _MAXIMUM_CONTEXTS - len(_GET)])
    return [build_context(sop_class, syntax) for sop_class in sop_classes for syntax in _STORED_IN]


def _batches(requests: Sequence[Request]) -> list[tuple[tuple[str, ...], list[Request]]]:
    """Requests in order, as many together as the contexts of one association allow, with their SOP classes.

    A request with more classes than that stands alone with the first of them; the others come by narrower requests.
    """
    batches: list[tuple[tuple[str, ...], list[Request]]] = []
    for request in requests:
        classes = (UNNAMED,) if UNNAMED in request.sop_classes else request.sop_classes[:_CLASSES_IN_AN_ASSOCIATION]
        if batches:
            joined = tuple(dict.fromkeys((*batches[-1][0], *classes)))
            if joined == (UNNAMED,) or (UNNAMED not in joined and len(joined) <= _CLASSES_IN_AN_ASSOCIATION):
                batches[-1] = (joined, [*batches[-1][1], request])
                continue
        batches.append((classes, [request]))
    return batches


def fits_one_association(sop_classes: Sequence[str]) -> bool:
    """Whether objects of all these classes can come by one C-GET."""
    return UNNAMED in sop_classes or len(set(sop_classes)) <= _CLASSES_IN_AN_ASSOCIATION


def _retrieve(
    peer: Peer,
    association: Association,
    models: Sequence[str],
    requests: Sequence[Request],
    send: Callable[[Dataset, str, int], Iterator[tuple[Dataset, Dataset | None]]],
    pulse: _Pulse,
) -> Answer:
    verb = "C-GET" if models is _GET else "C-MOVE"
    try:
        model = _model(peer, association, models, verb)
        total = Answer()
        for request in requests:
            if pulse.is_stopped:
                break
            if not association.is_established:
                raise PeerUnreachable(f"{peer} ended the association between two {verb}; look at its log")
            with pulse.watching(association, model):
                responses = send(request.identifier(model == models[1]), model, _MESSAGE_ID)
                total += _last(peer, verb, responses, pulse)
        return total
    finally:
        end(association)


def _model(peer: Peer, association: Association, models: Sequence[str], verb: str) -> str:
    accepted: list[PresentationContext] = association.accepted_contexts
    offered = {str(context.abstract_syntax) for context in accepted}
    model = next((model for model in models if model in offered), None)
    if model is None:
        raise CannotRetrieve(f"{peer} offers no {verb}; have it allow that to {peer.calling_aet}")
    if models is _GET and not any(context.as_scp for context in accepted):
        raise CannotRetrieve(
            f"{peer} offers {verb} but would send us none of the SOP classes asked for; have it take the role of SCU"
        )
    return model


def _last(peer: Peer, verb: str, responses: Iterator[tuple[Dataset, Dataset | None]], pulse: _Pulse) -> Answer:
    """Follow the pending responses to the last one."""
    seen = Answer()
    for status, identifier in responses:
        pulse.beat()
        code = status.get("Status")
        if code is None:
            if pulse.is_stopped:
                return replace(seen, sentence=f"{verb} from {peer} was cancelled")
            raise PeerUnreachable(f"{peer} fell silent during {verb}, or ended the association; look at its log")
        seen = _counts(status)
        if code not in PENDING:
            return replace(seen, failed_uids=_failed(identifier), sentence=_sentence(peer, verb, code, seen, status))
    return seen


def _counts(status: Dataset) -> Answer:
    return Answer(
        int(status.get("NumberOfCompletedSuboperations") or 0),
        int(status.get("NumberOfWarningSuboperations") or 0),
        int(status.get("NumberOfFailedSuboperations") or 0),
    )


def _failed(identifier: Dataset | None) -> tuple[str, ...]:
    """Failed SOP Instance UID List (0008,0058)."""
    value: Any = None if identifier is None else identifier.get("FailedSOPInstanceUIDList")
    if not value:
        return ()
    return (value,) if isinstance(value, str) else tuple(map(str, value))


def _sentence(peer: Peer, verb: str, code: int, counts: Answer, status: Dataset) -> str:
    if code == SUCCESS and not counts.failed:
        return ""
    if code == CANCELLED:
        return f"{verb} from {peer} was cancelled"
    comment = str(status.get("ErrorComment") or "no comment given")
    failed = f", {counts.failed} objects failed" if counts.failed else ""
    ways = {
        0xA801: f"; make AE title {peer.calling_aet} known to it, with host and port",
        0xA702: "; it could not send, so look at its log and at ours",
    }
    again = "; try again later" if is_temporary(code) else ""
    return f"{peer} answered {verb} with 0x{code:04X} ({comment}){failed}{ways.get(code, again)}"


class _Pulse:
    """Ends what hangs: a peer that is silent for `timeout_s`, or that does not end after `stop` was set.

    pynetdicom's own timeout sees responses only, and a peer may send objects for an hour before its first one.
    """

    def __init__(self, timeout_s: float, stop: threading.Event | None) -> None:
        self._timeout_s, self._stop = timeout_s, stop
        self._last = time.monotonic()

    @property
    def is_stopped(self) -> bool:
        return self._stop is not None and self._stop.is_set()

    def beat(self) -> None:
        """The peer sent something."""
        self._last = time.monotonic()

    @contextmanager
    def watching(self, association: Association, model: str) -> Iterator[None]:
        association.dimse_timeout = None
        self.beat()
        done = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(association, model, done), name="retrieve", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()

    def _watch(self, association: Association, model: str, done: threading.Event) -> None:
        while not done.wait(0.1):
            if self.is_stopped:
                if association.is_established:
                    association.send_c_cancel(_MESSAGE_ID, query_model=model)
                if not done.wait(_CANCEL_WAIT_S):
                    _break_off(association)
                return
            if time.monotonic() - self._last > self._timeout_s:
                _break_off(association)
                return


def _break_off(association: Association) -> None:
    association.abort()
    # What pynetdicom puts there when the peer breaks off: whoever waits for a message wakes up.
    association.dimse.msg_queue.put((None, None))
