"""C-STORE requests from a file to the socket, without detours.

pynetdicom hands each piece of a message through a queue and a state machine, and looks for an answer each millisecond.
Here a whole message is one thing in that queue: the thread that owns the socket reads the file and writes it, no faster
than the peer reads, and then waits for the answer.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pynetdicom import association

from plugin.dimse.reception import ReceivingProvider, implicit

# PS3.8 9.3.5 and E.2; PS3.7 9.3.1.1 and E.1.
_P_DATA_TF, _COMMAND, _LAST = 4, 1, 2
_C_STORE_RQ, _MEDIUM, _HAS_DATA_SET = 0x0001, 0x0000, 0x0001
# The size of a piece where the peer sets no limit, and how much goes to the kernel at once.
_LARGEST_PDU = 1 << 17
_AT_ONCE_BYTES = 1 << 18
_ANSWER_SOON_S, _NEXT_SOON_S, _LOOK_EVERY_S = 1.0, 0.01, 0.05


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
    is_written: bool = False
    over: threading.Event = field(default_factory=threading.Event, repr=False)

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


class TransmittingProvider(ReceivingProvider):
    """The upper layer of one association (PS3.8) that also takes a `Message` from its queue."""

    def _process_recv_primitive(self) -> bool:
        sent = False
        while isinstance(self._next_primitive(), Message):
            self._transmit(self.to_provider_queue.get())
            self._wait_for_more()
            sent = True
        return super()._process_recv_primitive() or sent

    def _next_primitive(self) -> Any:
        waiting = self.to_provider_queue.queue
        return waiting[0] if waiting else None

    def _transmit(self, message: Message) -> None:
        """Write the message; where that fails, the connection is of no use any more."""
        connection = None if self.socket is None else self.socket.socket
        try:
            if self.state_machine.current_state == "Sta6" and connection is not None:
                for piece in message.pdus(self.assoc.dimse.maximum_pdu_size):
                    connection.sendall(piece)
                _acknowledge_at_once(connection)
                message.is_written = True
        except OSError:
            self.event_queue.put("Evt17")  # transport connection closed
        finally:
            message.over.set()

    def _wait_for_more(self) -> None:
        """Read the answer as soon as it comes, and leave time for what is to be sent after it."""
        for _ in range(int(_ANSWER_SOON_S / _LOOK_EVERY_S)):
            if self._kill_thread or self.to_provider_queue.queue or not self.event_queue.empty():
                break
            if self._is_readable():
                self._read_pdu_data()
                break
        while not self.event_queue.empty() and not self._kill_thread:
            self.state_machine.do_action(self.event_queue.get())
        with self.to_provider_queue.not_empty:
            if not self.to_provider_queue.queue:
                self.to_provider_queue.not_empty.wait(_NEXT_SOON_S)

    def _is_readable(self) -> bool:
        connection = None if self.socket is None else self.socket.socket
        if connection is None:
            return False
        if isinstance(connection, ssl.SSLSocket) and connection.pending():
            return True
        return bool(select.select([connection], [], [], _LOOK_EVERY_S)[0])


def install() -> None:
    """Have associations take a `Message`; a setting of the whole process in pynetdicom."""
    association.DULServiceProvider = TransmittingProvider


def _acknowledge_at_once(connection: socket.socket) -> None:
    # Many peers send an answer in two pieces and, without TCP_NODELAY, hold the second back until the first one is
    # acknowledged, which the kernel would do after 40 ms. It forgets the option with each thing that is sent.
    if hasattr(socket, "TCP_QUICKACK"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
