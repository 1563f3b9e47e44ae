"""C-STORE requests from a file to the socket, and their answers, without detours.

pynetdicom hands each piece of a message, and each answer, from one thread to another through queues, and looks for them
each millisecond. Here the thread that owns the socket lends it to the one that sends objects:

    with provider.lent():
        answer = provider.exchange(message)     the file is read and written no faster than the peer reads

What else the peer says meanwhile, C-CANCEL or the end of the association, is taken as ever.
"""

from __future__ import annotations

import logging
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pynetdicom import association
from pynetdicom.fsm import InvalidEventError

from plugin.dimse.reception import ReceivingProvider, implicit

LOGGER = logging.getLogger(__name__)

# PS3.8 9.3.5 and E.2; PS3.7 9.3.1.1 and E.1.
_P_DATA_TF, _COMMAND, _LAST = 4, 1, 2
_C_STORE_RQ, _MEDIUM, _HAS_DATA_SET = 0x0001, 0x0000, 0x0001
# The size of a piece where the peer sets no limit, and how much goes to the kernel at once.
_LARGEST_PDU = 1 << 17
_AT_ONCE_BYTES = 1 << 18
_LOOK_EVERY_S = 0.05
_AT_ONCE_PDUS = 64


@dataclass
class Message:
    """A C-STORE request with the data set of a file. start: of the data set in it.

    originator: AE title and Message ID of the C-MOVE that it belongs to.
    """

    context_id: int
    message_id: int
    sop_class_uid: str
    sop_instance_uid: str
    path: Path
    start: int
    originator: tuple[str, int] | None = None

    def command(self) -> bytes:
        """The command set (PS3.7 9.3.1.1), Implicit VR Little Endian."""
        body = b"".join((
            implicit(0x0002, self.sop_class_uid.encode()),
            implicit(0x0100, struct.pack("<H", _C_STORE_RQ)),
            implicit(0x0110, struct.pack("<H", self.message_id)),
            implicit(0x0700, struct.pack("<H", _MEDIUM)),
            implicit(0x0800, struct.pack("<H", _HAS_DATA_SET)),
            implicit(0x1000, self.sop_instance_uid.encode()),
        ))  # fmt: skip
        if self.originator is not None:
            aet, number = self.originator
            body += implicit(0x1030, aet.encode("ascii", "replace"), b" ") + implicit(0x1031, struct.pack("<H", number))
        return implicit(0x0000, struct.pack("<I", len(body))) + body

    def pdus(self, maximum: int) -> Iterator[bytes]:
        """P-DATA-TF PDUs, several in a piece; maximum: their length as the peer limits it, 0 for no limit.

        Raises:
            OSError: the file cannot be read.
        """
        room = min(maximum or _LARGEST_PDU, _LARGEST_PDU) - 6
        together = max(_AT_ONCE_BYTES // (room + 12), 1)
        command = self.command()
        yield b"".join(
            self._pdu(command[at : at + room], _COMMAND | (_LAST if at + room >= len(command) else 0))
            for at in range(0, len(command), room)
        )
        with self.path.open("rb") as file:
            left = file.seek(0, 2) - file.seek(self.start)
            while left > 0:
                piece = []
                for _ in range(together):
                    fragment = file.read(min(room, left))
                    left -= len(fragment)
                    if not fragment:
                        raise OSError(f"{self.path.name} became shorter while it was sent")
                    piece.append(self._pdu(fragment, 0 if left else _LAST))
                    if not left:
                        break
                yield b"".join(piece)

    def _pdu(self, fragment: bytes, control: int) -> bytes:
        length = len(fragment) + 2
        return struct.pack(">BxIIBB", _P_DATA_TF, length + 4, length, self.context_id, control) + fragment


@dataclass
class _Loan:
    """Of the socket, from the thread that owns it."""

    given: threading.Event = field(default_factory=threading.Event)
    returned: threading.Event = field(default_factory=threading.Event)


class TransmittingProvider(ReceivingProvider):
    """The upper layer of one association (PS3.8) whose socket can be lent to the thread that sends objects."""

    def __init__(self, assoc: association.Association) -> None:
        super().__init__(assoc)
        self._borrower: threading.Thread | None = None

    # What the owner of the socket does

    def _process_recv_primitive(self) -> bool:
        lent = False
        while isinstance(self._next_primitive(), _Loan):
            loan = self.to_provider_queue.get()
            loan.given.set()
            loan.returned.wait()
            lent = True
        return super()._process_recv_primitive() or lent

    def _next_primitive(self) -> Any:
        waiting = self.to_provider_queue.queue
        return waiting[0] if waiting else None

    # What the borrower does

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Borrow the socket; where the association has ended there is none, and nothing that is sent arrives."""
        loan = _Loan()
        self.to_provider_queue.put(loan)
        while not loan.given.wait(_LOOK_EVERY_S) and self.is_alive() and not self._kill_thread:
            pass
        self._borrower = threading.current_thread() if loan.given.is_set() else None
        try:
            yield
        finally:
            self._borrower = None
            loan.returned.set()

    @property
    def _is_open(self) -> bool:
        here = self.socket is not None and self.socket.socket is not None
        return here and not self._kill_thread and self.state_machine.current_state == "Sta6"

    def exchange(self, message: Message, timeout_s: float | None) -> Any:
        """Send a request, and give the next message of the peer; None where none comes in time, or not all was sent."""
        if self._borrower is not threading.current_thread() or not self._is_open or not self._write(message):
            return None
        end = None if timeout_s is None else time.monotonic() + timeout_s
        while self.assoc.dimse.msg_queue.empty():
            # Whatever others want of the association, to abort it for one thing, is more urgent than the answer.
            if not self._is_open or not self.to_provider_queue.empty():
                return None
            if end is not None and time.monotonic() > end:
                return None
            if self._is_readable(_LOOK_EVERY_S):
                self._read_once()
        return self.assoc.dimse.get_msg(block=False)[1]

    def look(self) -> None:
        """Take what the peer has said, and send what is to be said to it, where this thread has the socket."""
        if self._borrower is not threading.current_thread():
            return
        # Where the association has ended, what is left to be said is for nobody.
        while self._is_open and not self.to_provider_queue.empty():
            super()._process_recv_primitive()
            self._settle()
        for _ in range(_AT_ONCE_PDUS):
            if not self._is_open or not self._is_readable(0):
                break
            self._read_once()

    def _write(self, message: Message) -> bool:
        """Whether all of it was written; where it was not, the connection is of no use any more."""
        assert self.socket is not None and self.socket.socket is not None
        try:
            for piece in message.pdus(self.assoc.dimse.maximum_pdu_size):
                self.socket.socket.sendall(piece)
            _acknowledge_at_once(self.socket.socket)
        except OSError:
            self.event_queue.put("Evt17")  # transport connection closed
            self._settle()
            return False
        return True

    def _read_once(self) -> None:
        self._take_pdu()
        self._idle_timer.restart()
        self._settle()

    def _settle(self) -> None:
        try:
            while not self.event_queue.empty():
                self.state_machine.do_action(self.event_queue.get())
        except InvalidEventError:
            pass  # as in `run_reactor`: what has just ended can end once more
        except Exception as error:
            # The peer's message cannot be decoded; pynetdicom has ended the association by then.
            LOGGER.warning("an answer to a C-STORE cannot be decoded (%s: %s)", type(error).__name__, error)

    def _is_readable(self, timeout_s: float) -> bool:
        assert self.socket is not None and self.socket.socket is not None
        connection = self.socket.socket
        if isinstance(connection, ssl.SSLSocket) and connection.pending():
            return True
        return bool(select.select([connection], [], [], timeout_s)[0])


def install() -> None:
    """Have associations lend their sockets; a setting of the whole process in pynetdicom."""
    association.DULServiceProvider = TransmittingProvider


def _acknowledge_at_once(connection: socket.socket) -> None:
    # Many peers send an answer in two pieces and, without TCP_NODELAY, hold the second back until the first one is
    # acknowledged, which the kernel would do after 40 ms. It forgets the option with each thing that is sent.
    if hasattr(socket, "TCP_QUICKACK"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
