"""C-STORE load from processes that do nothing but read files and write to a socket.

The A-ASSOCIATE and C-STORE messages are put together from bytes (PS3.8 9.3, PS3.7 9.3.1), so that the sender takes as
little of the machine as it can from the receiver that is measured. Explicit VR Little Endian only, one SOP class per
presentation context, TCP_NODELAY set.
"""

from __future__ import annotations

import multiprocessing
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from corpus_item import Item

EXPLICIT_LITTLE_ENDIAN = b"1.2.840.10008.1.2.1"
_APPLICATION_CONTEXT = b"1.2.840.10008.3.1.1.1"
_IMPLEMENTATION = b"2.25.296424236221856133785724056213802965615"
_SUCCESS = 0
_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Sent:
    """acknowledged: SOP Instance UIDs answered with 0x0000. refused: UID -> status. seconds: of each C-STORE."""

    acknowledged: list[str]
    refused: dict[str, int]
    seconds: list[float]
    wall_s: float


def send(address: tuple[str, int], called: str, items: Sequence[Item], senders: int, window: int = 1) -> Sent:
    """Send whole series from `senders` processes at once; the clock starts when all are ready to connect.

    window: of asynchronous operations, that each proposes.
    """
    shares = [share for share in dealt_out(items, senders) if share]
    context = multiprocessing.get_context("spawn")
    ready, answers = context.Barrier(len(shares) + 1), context.Queue()
    workers = [context.Process(target=_work, args=(address, called, share, window, ready, answers)) for share in shares]
    for worker in workers:
        worker.start()
    ready.wait()
    start = time.perf_counter()
    parts = [answers.get() for _ in workers]
    wall_s = time.perf_counter() - start
    for worker in workers:
        worker.join()
    return Sent(
        acknowledged=[uid for part in parts for uid in part[0]],
        refused={uid: status for part in parts for uid, status in part[1].items()},
        seconds=[each for part in parts for each in part[2]],
        wall_s=wall_s,
    )


def dealt_out(items: Sequence[Item], senders: int) -> list[list[Item]]:
    """Whole series, the largest first to whoever has least, so that the bytes are even."""
    series: dict[str, list[Item]] = {}
    for item in items:
        series.setdefault(item.series_instance_uid, []).append(item)
    shares: list[list[Item]] = [[] for _ in range(senders)]
    for group in sorted(series.values(), key=lambda each: -sum(item.size for item in each)):
        min(shares, key=lambda share: sum(item.size for item in share)).extend(group)
    return shares


def _work(address: tuple[str, int], called: str, items: list[Item], window: int, ready: Barrier, answers: Any) -> None:
    acknowledged: list[str] = []
    refused: dict[str, int] = {}
    seconds: list[float] = []
    ready.wait()
    try:
        classes = sorted({item.sop_class_uid for item in items})
        with Association(address, called, classes, window=window) as association:
            for item, status, duration in association.store_all(items):
                seconds.append(duration)
                if status == _SUCCESS:
                    acknowledged.append(item.sop_instance_uid)
                else:
                    refused[item.sop_instance_uid] = status
    except OSError:
        pass  # cut off: what was acknowledged until then is what counts
    answers.put((acknowledged, refused, seconds))


class Association:
    """One association over a socket. window: of asynchronous operations, as proposed, and then as granted."""

    def __init__(
        self,
        address: tuple[str, int],
        called: str,
        sop_classes: Sequence[str],
        calling: str = "BENCH",
        window: int = 1,
    ) -> None:
        self._contexts = {uid: 2 * number + 1 for number, uid in enumerate(sop_classes)}
        self._socket = socket.create_connection(address, _TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self._socket.makefile("rb")
        self._socket.sendall(_associate(called, calling, self._contexts, window))
        kind, body = self._read()
        if kind != 2:
            raise ConnectionError(f"the association was not accepted (PDU type {kind})")
        self._maximum = _maximum_length(body) or 1 << 17
        self.window = _window(body)

    def __enter__(self) -> Association:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._socket.sendall(b"\5\0" + struct.pack(">I", 4) + bytes(4))
            self._read()
        finally:
            self._file.close()
            self._socket.close()

    def store(self, item: Item, message_id: int) -> int:
        """C-STORE of the file; gives the status."""
        self.begin(item, message_id)
        return self.answer()[1]

    def store_all(self, items: Sequence[Item]) -> Iterator[tuple[Item, int, float]]:
        """C-STORE of the files, as many at once as the window allows: (item, status, seconds) in order of answers."""
        waiting: dict[int, tuple[Item, float]] = {}
        left = iter(items)
        number = 0
        while True:
            while len(waiting) < self.window and (item := next(left, None)) is not None:
                number = number % 0xFFFF + 1
                waiting[number] = (item, time.perf_counter())
                self.begin(item, number)
            if not waiting:
                return
            answered, status = self.answer()
            item, start = waiting.pop(answered)
            yield item, status, time.perf_counter() - start

    def answer(self) -> tuple[int, int]:
        """The next answer to a C-STORE: the ID of its request, and the status."""
        while True:
            kind, body = self._read()
            if kind != 4:
                raise ConnectionError(f"the association ended (PDU type {kind})")
            if body[5] & 1:
                return _number(body[6:], 0x0120), _number(body[6:], 0x0900)

    def begin(self, item: Item, message_id: int, share: float = 1.0) -> None:
        """The request of a C-STORE, or only this share of its data set."""
        context = self._contexts[item.sop_class_uid]
        command = _c_store(item, message_id)
        whole = memoryview(data_set(item.path))
        data = whole[: round(len(whole) * share)]
        most = self._maximum - 6
        blocks: list[Any] = [_p_data_head(context, 3, len(command)), command]
        for start in range(0, len(data), most):
            block = data[start : start + most]
            is_last = start + most >= len(whole)
            blocks += [_p_data_head(context, 2 if is_last else 0, len(block)), block]
        self._send(blocks)

    def reset(self) -> None:
        """As when a cable is pulled: the connection is gone, and no release was asked for."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._file.close()
        self._socket.close()

    def _send(self, blocks: list[Any]) -> None:
        for start in range(0, len(blocks), 64):
            part = blocks[start : start + 64]
            sent, whole = self._socket.sendmsg(part), sum(len(block) for block in part)
            if sent < whole:
                self._socket.sendall(b"".join(part)[sent:])

    def _read(self) -> tuple[int, bytes]:
        head = self._file.read(6)
        if len(head) < 6:
            raise ConnectionError("the peer closed the connection")
        return head[0], self._file.read(struct.unpack(">I", head[2:])[0])


def data_set(path: Path) -> bytes:
    """What follows the file meta group, whose length stands in (0002,0000)."""
    raw = path.read_bytes()
    return raw[144 + int.from_bytes(raw[140:144], "little") :]


def _item(kind: int, body: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(body)) + body


def _associate(called: str, calling: str, contexts: dict[str, int], window: int) -> bytes:
    body = struct.pack(">HH16s16s32x", 1, 0, called.ljust(16).encode(), calling.ljust(16).encode())
    body += _item(0x10, _APPLICATION_CONTEXT)
    for uid, number in contexts.items():
        syntaxes = _item(0x30, uid.encode()) + _item(0x40, EXPLICIT_LITTLE_ENDIAN)
        body += _item(0x20, bytes([number, 0, 0, 0]) + syntaxes)
    user = _item(0x51, struct.pack(">I", 1 << 17)) + _item(0x52, _IMPLEMENTATION)
    user += _item(0x53, struct.pack(">HH", window, 1)) if window != 1 else b""
    body += _item(0x50, user)
    return b"\1\0" + struct.pack(">I", len(body)) + body


def _maximum_length(accept: bytes) -> int:
    """Maximum length of a P-DATA-TF that the peer takes, from its A-ASSOCIATE-AC (PS3.8 D.1); 0 for any."""
    at = accept.index(b"\x51\0\0\4", 68)
    return int(struct.unpack(">I", accept[at + 4 : at + 8])[0])


def _window(accept: bytes) -> int:
    """Operations that may be invoked at once, from A-ASSOCIATE-AC (PS3.7 D.3.3.3.2); 1 where it says nothing."""
    at = accept.find(b"\x53\0\0\4", 68)
    return 1 if at < 0 else int(struct.unpack(">H", accept[at + 4 : at + 6])[0])


def _p_data_head(context: int, control: int, length: int) -> bytes:
    return b"\4\0" + struct.pack(">IIBB", length + 6, length + 2, context, control)


def _element(group: int, number: int, value: bytes) -> bytes:
    return struct.pack("<HHI", group, number, len(value) + len(value) % 2) + value + b"\0" * (len(value) % 2)


def _c_store(item: Item, message_id: int) -> bytes:
    body = _element(0, 0x0002, item.sop_class_uid.encode()) + _element(0, 0x0100, struct.pack("<H", 1))
    body += _element(0, 0x0110, struct.pack("<H", message_id)) + _element(0, 0x0700, struct.pack("<H", 0))
    body += _element(0, 0x0800, struct.pack("<H", 1)) + _element(0, 0x1000, item.sop_instance_uid.encode())
    return _element(0, 0x0000, struct.pack("<I", len(body))) + body


def _number(command: bytes, wanted: int) -> int:
    at = 0
    while at < len(command):
        group, number, length = struct.unpack_from("<HHI", command, at)
        if (group, number) == (0, wanted):
            return int(struct.unpack_from("<H", command, at + 8)[0])
        at += 8 + length
    raise ConnectionError(f"the answer has no (0000,{wanted:04X})")
