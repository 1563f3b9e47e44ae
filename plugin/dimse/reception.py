"""C-STORE requests from the socket to a file, and their answers, without detours.

pynetdicom hands each fragment of a message through two queues, a state machine and two threads, and decodes and encodes
command sets as data sets: several times what storing a small instance costs. Its provider of the upper layer is
replaced here by one that takes C-STORE requests apart itself, in the thread that reads the socket:

    PDU -> PDVs -> command set -> fragments of the data set, hashed and written as they come -> EVT_C_STORE -> response

Where a window of asynchronous operations was negotiated (`window`), the last two steps are done beside the reading of
the next request. What comes behind requests waits until they are answered.

Everything else, association control and all other messages, goes on to pynetdicom as before. So does a C-STORE request
to an application entity that is no ReceivingAE.
"""

from __future__ import annotations

import hashlib
import logging
import select
import ssl
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pydicom import Dataset
from pynetdicom import AE, PYNETDICOM_IMPLEMENTATION_UID, PYNETDICOM_IMPLEMENTATION_VERSION, _config, association, evt
from pynetdicom.dul import DULServiceProvider
from pynetdicom.fsm import InvalidEventError
from pynetdicom.pdu_primitives import P_DATA

from plugin.archive.storage import Reception, Storage

LOGGER = logging.getLogger(__name__)

# PS3.8 9.3: type of a P-DATA-TF PDU; types are 01H to 07H.
_P_DATA_TF = 4
_PDU_TYPES = range(1, 8)
# Ours says 128 KiB; larger ones are no reason to refuse a peer, as long as one association cannot fill the memory.
_LARGEST_PDU = 1 << 22
_LARGEST_IDENTIFIER = 1 << 24
_LARGEST_COMMAND = 1 << 16
# PS3.8 E.2, message control header.
_COMMAND, _LAST = 1, 2
# PS3.7 9.3.1 and E.1.
_C_STORE_RQ, _C_STORE_RSP, _NO_DATA_SET = 0x0001, 0x8001, 0x0101
_RESPONSE = 0x8000  # command fields from here on are those of responses
# How long to wait for the next request before the association's own thread has its turn again.
_LINGER_S = 0.2


class ReceivingAE(AE):
    """An application entity whose C-STORE requests are received into `storage`."""

    def __init__(self, ae_title: str, storage: Storage) -> None:
        super().__init__(ae_title)
        self.storage = storage


@dataclass
class StoreRequest:
    """A C-STORE request (PS3.7 9.3.1.1) while its data set comes in, and what EVT_C_STORE has as `event.request`."""

    context_id: int
    MessageID: int
    AffectedSOPClassUID: str
    AffectedSOPInstanceUID: str
    reception: Reception
    _hash: Any = field(default_factory=hashlib.sha256, repr=False)

    def write(self, fragment: memoryview) -> None:
        self._hash.update(fragment)
        self.reception.write(fragment)

    @property
    def dataset_hash(self) -> str:
        """SHA-256 (hex) of the data set, which is all that follows the file meta group."""
        return str(self._hash.hexdigest())


def install() -> None:
    """Receive C-STORE requests of every ReceivingAE, of any SOP class; in pynetdicom these are of the whole process."""
    if not issubclass(association.DULServiceProvider, ReceivingProvider):
        association.DULServiceProvider = ReceivingProvider
    _config.UNRESTRICTED_STORAGE_SERVICE = True
    # Its log handlers format each message whether or not anybody reads it.
    _config.LOG_HANDLER_LEVEL = "none"


class _Malformed(Exception):
    """The peer's bytes are no PDU or message that may come here; the association is aborted."""


@contextmanager
def _malformed_where_pydicom_fails() -> Iterator[None]:
    try:
        yield
    except (ValueError, LookupError, struct.error, TypeError, AttributeError, NotImplementedError) as error:
        raise _Malformed(f"what cannot be decoded ({type(error).__name__}: {error})") from error


class _Answering:
    """Threads that answer up to `limit` requests of one association side by side."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._places = threading.Semaphore(limit)
        self._threads = ThreadPoolExecutor(limit, thread_name_prefix="C-STORE")

    def begin(self, work: Callable[[], None]) -> None:
        """Begin it as soon as there is a place; a peer that keeps to its window finds one at once."""
        self._places.acquire()
        self._threads.submit(self._do, work)

    def _do(self, work: Callable[[], None]) -> None:
        try:
            work()
        finally:
            self._places.release()

    def wait(self) -> None:
        for _ in range(self._limit):
            self._places.acquire()
        self._places.release(self._limit)

    def end(self) -> None:
        self._threads.shutdown()


class ReceivingProvider(DULServiceProvider):
    """The upper layer of one association (PS3.8), with C-STORE requests answered on the spot.

    window: how many requests the peer may have that are not answered (PS3.7 D.3.3.3); set before the first of them.
    """

    def __init__(self, assoc: association.Association) -> None:
        super().__init__(assoc)
        self.window = 1
        self._answering: _Answering | None = None
        self._buffer = bytearray(1 << 14)
        self._command = bytearray()
        self._request: StoreRequest | None = None
        # Bytes of a message that pynetdicom puts together; None between such messages.
        self._handed_on: int | None = None
        self._storing = False
        self._sending = threading.Lock()

    def run_reactor(self) -> None:
        try:
            super().run_reactor()
        except InvalidEventError:
            pass  # we aborted what had just ended, for which pynetdicom has no transition (Evt15 in Sta1, PS3.8 9.2)
        finally:
            # It ended inside a C-STORE: part of a file, and nothing of it was acknowledged.
            if self._request is not None:
                self._request.reception.abandon()
            if self._answering is not None:
                self._answering.end()

    def _read_pdu_data(self) -> None:
        """One PDU; where it belongs to a C-STORE request, all that follow until something else is to be done."""
        self._take_pdu()
        if self._storing:
            with self._alone():
                while self._storing and (self._request is not None or self._more_comes()):
                    self._take_pdu()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """The thread of an association that we accepted looks for work each millisecond; here there is none for it."""
        if not self.assoc.is_acceptor:
            yield
            return
        self.assoc._reactor_checkpoint.clear()
        try:
            yield
        finally:
            self.assoc._reactor_checkpoint.set()

    def _more_comes(self) -> bool:
        """Whether the peer sends more at once, and nobody here wants to send or to end the association."""
        assert self.socket is not None
        if self._kill_thread or self.socket.socket is None:
            return False
        if not self.to_provider_queue.empty() or not self.event_queue.empty():
            return False
        here = self.socket.socket
        if isinstance(here, ssl.SSLSocket) and here.pending():
            return True
        return bool(select.select([here], [], [], _LINGER_S)[0])

    def _send(self, pdu: Any) -> None:
        """What pynetdicom says comes between two answers, never into one."""
        with self._sending:
            super()._send(pdu)

    # PDUs

    def _take_pdu(self) -> None:
        self._storing = False
        try:
            pdu = self._next_pdu()
            if pdu is None:
                self.event_queue.put("Evt17")  # transport connection closed
            elif self._is_ours(pdu):
                for context_id, control, fragment in _values(pdu):
                    self._take_fragment(context_id, control, fragment)
            else:
                self._answer_all()
                with _malformed_where_pydicom_fails():
                    decoded, event = self._decode_pdu(bytearray(pdu))
                self.event_queue.put(event)
                self._recv_pdu.put(decoded)
        except _Malformed as why:
            LOGGER.warning("an association with %s is aborted: it sent %s", self.assoc.requestor.address, why)
            self._storing = False
            self.event_queue.put("Evt19")  # unrecognised or invalid PDU

    def _is_ours(self, pdu: memoryview) -> bool:
        """Data of an established association (state 6, PS3.8 9.2) that may hold C-STORE requests to us."""
        return (
            pdu[0] == _P_DATA_TF
            and self.state_machine.current_state == "Sta6"
            and isinstance(self.assoc.ae, ReceivingAE)
        )

    def _next_pdu(self) -> memoryview | None:
        """The next PDU, valid until the following one is read; None where the connection ends or stalls."""
        if not self._read(0, 6):
            return None
        kind, length = struct.unpack_from(">BxI", self._buffer)
        if kind not in _PDU_TYPES or length > _LARGEST_PDU:
            raise _Malformed(f"a PDU of type {kind:02X}H with {length} bytes")
        if len(self._buffer) < 6 + length:
            self._buffer = self._buffer[:6] + bytearray(length)
        return memoryview(self._buffer)[: 6 + length] if self._read(6, 6 + length) else None

    def _read(self, start: int, end: int) -> bool:
        assert self.socket is not None and self.socket.socket is not None
        with memoryview(self._buffer) as view:
            while start < end:
                try:
                    got = self.socket.socket.recv_into(view[start:end])
                except OSError:
                    return False
                if not got:
                    return False
                start += got
        return True

    # Messages

    def _take_fragment(self, context_id: int, control: int, fragment: memoryview) -> None:
        """One presentation data value (PS3.8 E.2) of the message that is being received."""
        self._storing = True
        if self._handed_on is not None:
            self._hand_on(context_id, control, fragment)
        elif control & _COMMAND:
            if self._request is not None or len(self._command) + len(fragment) > _LARGEST_COMMAND:
                raise _Malformed("a command inside a data set, or a command without end")
            self._command += fragment
            if control & _LAST:
                command, self._command = self._command, bytearray()
                self._request = self._begin(context_id, command)
                if self._request is None:
                    self._answer_all()
                    self._handed_on = 0
                    self._hand_on(context_id, control, memoryview(command))
        elif self._request is not None and self._request.context_id == context_id:
            self._request.write(fragment)
            if control & _LAST:
                request, self._request = self._request, None
                self._have_answered(request)
        else:
            raise _Malformed("a data set without a command")

    def _hand_on(self, context_id: int, control: int, fragment: memoryview) -> None:
        """Give a part of another message to pynetdicom; whoever waits for it may want to send at once."""
        assert self._handed_on is not None
        self._storing = False
        self._handed_on += len(fragment)
        if self._handed_on > _LARGEST_IDENTIFIER:
            raise _Malformed(f"a message of more than {_LARGEST_IDENTIFIER} bytes that is no C-STORE request")
        primitive = P_DATA()
        primitive.presentation_data_value_list = [[context_id, bytes([control]) + bytes(fragment)]]
        with _malformed_where_pydicom_fails():
            self.assoc.dimse.receive_primitive(primitive)
        if self.assoc.dimse.message is None:
            self._handed_on = None

    def _begin(self, context_id: int, command: bytes | bytearray) -> StoreRequest | None:
        """The request that a command set begins; None where it is another message, or not for an accepted context."""
        values = _elements(command)
        context = self.assoc._accepted_cx.get(context_id)
        kind = _number(values.get(0x0100))
        if context is None or kind != _C_STORE_RQ or _number(values.get(0x0800)) == _NO_DATA_SET:
            if context is not None and kind < _RESPONSE:
                _check_class(values, context.abstract_syntax)
            return None
        entity = self.assoc.ae
        assert isinstance(entity, ReceivingAE)
        sop_class, instance = _uid(values.get(0x0002)), _uid(values.get(0x1000))
        reception = entity.storage.receive()
        reception.write(_file_meta(sop_class, instance, context.transfer_syntax[0]))
        return StoreRequest(context_id, _number(values.get(0x0110)), sop_class, instance, reception)

    def _have_answered(self, request: StoreRequest) -> None:
        """Now, or, where the peer does not wait for it, beside what is read next."""
        assert self.socket is not None
        # Python's TLS cannot read and write one connection in two threads.
        if self.window == 1 or isinstance(self.socket.socket, ssl.SSLSocket):
            self._answer(request)
            return
        if self._answering is None:
            self._answering = _Answering(self.window)
        self._answering.begin(partial(self._answer_aside, request))

    def _answer_all(self) -> None:
        """Wait until nothing is unanswered."""
        if self._answering is not None:
            self._answering.wait()

    def _answer_aside(self, request: StoreRequest) -> None:
        try:
            self._answer(request)
        except Exception:
            LOGGER.exception("an association with %s is aborted", self.assoc.requestor.address)
            self.event_queue.put("Evt19")

    def _answer(self, request: StoreRequest) -> None:
        """Have the request handled, and send what came of it."""
        context = self.assoc._accepted_cx[request.context_id]
        try:
            result = evt.trigger(self.assoc, evt.EVT_C_STORE, {"request": request, "context": context.as_tuple})
        except BaseException:
            request.reception.abandon()
            raise  # pynetdicom aborts the association
        if isinstance(result, Dataset):
            response = _response(request, result.Status, result.get("ErrorComment", ""))
        else:
            response = _response(request, result, "")
        try:
            assert self.socket is not None and self.socket.socket is not None
            with self._sending:
                self.socket.socket.sendall(response)
        except OSError:
            self.event_queue.put("Evt17")
            self._storing = False


def _values(pdu: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """(presentation context ID, message control header, fragment) of each item of a P-DATA-TF PDU (PS3.8 9.3.5)."""
    position = 6
    while position < len(pdu):
        if len(pdu) - position < 6:
            raise _Malformed("a presentation data value without a header")
        length, context_id, control = struct.unpack_from(">IBB", pdu, position)
        end = position + 4 + length
        if length < 2 or end > len(pdu):
            raise _Malformed(f"a presentation data value of {length} bytes in a PDU of {len(pdu)}")
        yield context_id, control, pdu[position + 6 : end]
        position = end


# Command sets (PS3.7 6.3.1): group 0000H in Implicit VR Little Endian


def _elements(command: bytes | bytearray) -> dict[int, bytes]:
    """Element number -> value."""
    found, position = {}, 0
    while position + 8 <= len(command):
        group, number, length = struct.unpack_from("<HHI", command, position)
        position += 8
        if group or position + length > len(command):
            raise _Malformed("a command set that is none")
        found[number] = bytes(command[position : position + length])
        position += length
    return found


def _check_class(values: Mapping[int, bytes], abstract_syntax: str | None) -> None:
    """Affected (0000,0002) or Requested SOP Class UID (0000,0003) of a request is that of its context.

    pynetdicom serves a request by its SOP class alone: a peer that was granted one service could use them all.
    """
    named = _uid(values.get(0x0002)) or _uid(values.get(0x0003))
    if named and named != abstract_syntax:
        raise _Malformed(f"a request of SOP class {named[:64]!r} in a context of {abstract_syntax}")


def _number(value: bytes | None) -> int:
    return struct.unpack("<H", value)[0] if value is not None and len(value) == 2 else 0


def _uid(value: bytes | None) -> str:
    return "" if value is None else value.decode("ascii", "replace").rstrip("\0 ")


def _response(request: StoreRequest, status: int, comment: str) -> bytes:
    """A whole C-STORE response (PS3.7 9.3.1.2) as one PDU."""
    body = b"".join((
        implicit(0x0002, request.AffectedSOPClassUID.encode()),
        implicit(0x0100, struct.pack("<H", _C_STORE_RSP)),
        implicit(0x0120, struct.pack("<H", request.MessageID)),
        implicit(0x0800, struct.pack("<H", _NO_DATA_SET)),
        implicit(0x0900, struct.pack("<H", status)),
        implicit(0x0902, comment.encode("ascii", "replace"), b" ") if comment else b"",
        implicit(0x1000, request.AffectedSOPInstanceUID.encode()),
    ))  # fmt: skip
    command = implicit(0x0000, struct.pack("<I", len(body))) + body
    length = len(command) + 2
    return struct.pack(">BxIIBB", _P_DATA_TF, length + 4, length, request.context_id, _COMMAND | _LAST) + command


def implicit(number: int, value: bytes, padding: bytes = b"\0") -> bytes:
    """One element of a command set."""
    value += padding * (len(value) % 2)
    return struct.pack("<HHI", 0, number, len(value)) + value


# File meta information (PS3.10 7.1): group 0002H in Explicit VR Little Endian


def _file_meta(sop_class: str, instance: str, syntax: str) -> bytes:
    """Everything in front of the data set in a file."""
    body = struct.pack("<HH2sHI", 2, 1, b"OB", 0, 2) + b"\0\1" + b"".join((
        _explicit(0x0002, b"UI", sop_class.encode("ascii", "replace")),
        _explicit(0x0003, b"UI", instance.encode("ascii", "replace")),
        _explicit(0x0010, b"UI", syntax.encode()),
        _explicit(0x0012, b"UI", PYNETDICOM_IMPLEMENTATION_UID.encode()),
        _explicit(0x0013, b"SH", PYNETDICOM_IMPLEMENTATION_VERSION.encode(), b" "),
    ))  # fmt: skip
    return b"\0" * 128 + b"DICM" + _explicit(0x0000, b"UL", struct.pack("<I", len(body))) + body


def _explicit(number: int, vr: bytes, value: bytes, padding: bytes = b"\0") -> bytes:
    value += padding * (len(value) % 2)
    return struct.pack("<HH2sH", 2, number, vr, len(value)) + value
