"""Answers with long bodies: sent in blocks from where they lie, never held whole (RFC 9110 13, 14).

A body is a row of pieces: bytes, a stretch of a file, something computed when its turn comes, or a file that is made
when its turn comes and deleted after it. One block is on its way at a time; the server lets no more be queued than its
own high-water mark. A client that leaves ends the work at the next block.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

_BLOCK_BYTES = 1 << 20
# Up to this length bytes are copied to go out with their neighbours; so much may follow a block without copying it.
_SMALL_BYTES, _ROOM_BYTES = 1 << 16, 1 << 8
# An answer of more than this is worth watching for a client that has left.
_WATCHED_BYTES = 4 * _BLOCK_BYTES
# Decoding and encoding take memory for whole pictures, and a core: no more than so many at a time, in own threads.
_WORKERS = ThreadPoolExecutor(min(4, max(2, os.cpu_count() or 1)), thread_name_prefix="retrieve")
# A file's pages that are in memory are read at once; what the disk must fetch is read by another thread.
_IN_MEMORY_ONLY = getattr(os, "RWF_NOWAIT", 0)


@dataclass(frozen=True)
class Stretch:
    """Bytes [start, start + size) of a stored file; stored files never change."""

    path: Path
    start: int
    size: int


@dataclass(frozen=True)
class Computed:
    """Bytes that are computed, in another thread, when it is their turn."""

    make: Callable[[], bytes]


@dataclass(frozen=True)
class Made:
    """A file that is made, in another thread, when it is its turn. make: writes it at the path that it is given.

    folder: where it lies meanwhile; it has no name any more while it is being sent.
    """

    make: Callable[[Path], None]
    folder: Path


@dataclass(frozen=True)
class Opened:
    """A file without a name; it is closed when it has been sent, or when nobody holds it any more."""

    file: BinaryIO
    size: int


Placed = bytes | Stretch
"""A piece of which parts can be sent."""
Piece = Placed | Computed | Made | Opened


T = TypeVar("T")


async def in_worker(work: Callable[[], T]) -> T:
    """Do heavy work beside the thread that serves everybody."""
    return await asyncio.get_running_loop().run_in_executor(_WORKERS, work)


def size_of(pieces: Iterable[Placed]) -> int:
    """Bytes of pieces together."""
    return sum(len(piece) if isinstance(piece, bytes) else piece.size for piece in pieces)


def cut(pieces: Iterable[Placed], start: int, stop: int) -> Iterator[Placed]:
    """Bytes [start, stop) of pieces that follow one another."""
    position = 0
    for piece in pieces:
        size = size_of([piece])
        first, last = max(start - position, 0), min(stop - position, size)
        position += size
        if first >= last:
            continue
        if isinstance(piece, bytes):
            yield piece[first:last]
        else:
            yield Stretch(piece.path, piece.start + first, last - first)


class Sending(Response):
    """An answer of pieces. Content-Length is the caller's to set, where it is known."""

    def __init__(self, pieces: Iterable[Piece], status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status_code=status, headers={"Content-Length": "", **(headers or {})})
        if not self.headers["Content-Length"]:
            del self.headers["Content-Length"]
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body"})
            return
        length = self.headers.get("Content-Length")
        if length is not None and int(length) <= _WATCHED_BYTES:
            await self._send(send, None)
        else:
            await self._send_watched(receive, send)

    async def _send(self, send: Send, gone: asyncio.Task[None] | None) -> None:
        async for block, is_last in _blocks(self._pieces):
            if gone is not None and gone.done():
                return
            await send({"type": "http.response.body", "body": block, "more_body": not is_last})

    async def _send_watched(self, receive: Receive, send: Send) -> None:
        """The server drops what is sent to a client that has left, and says so only to who asks."""
        gone = asyncio.create_task(_left(receive))
        try:
            await self._send(send, gone)
        finally:
            gone.cancel()


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _blocks(pieces: Iterable[Piece]) -> AsyncIterator[tuple[bytes | bytearray, bool]]:
    """The body in blocks, each with whether it is the last. What is small goes out together with what is beside it:
    each block costs the server and the client a turn."""
    block = bytearray()
    for piece in pieces:
        if isinstance(piece, bytes) and len(piece) <= _SMALL_BYTES:
            if len(block) + len(piece) > _BLOCK_BYTES:
                yield block, False
                block = bytearray()
            block += piece
        elif isinstance(piece, Stretch):
            with _descriptor(piece.path) as descriptor:
                position, stop = piece.start, piece.start + piece.size
                while position < stop:
                    if len(block) > _SMALL_BYTES:
                        yield block, False
                        block = bytearray()
                    before = len(block)
                    block = await _with(block, descriptor, position, min(stop - position, _BLOCK_BYTES - before))
                    position += len(block) - before
        else:
            # It is long, or has to be made first: what there is need not wait for it.
            if block:
                yield block, False
                block = bytearray()
            async for whole in _long(piece):
                yield whole, False
    yield block, True


@contextmanager
def _descriptor(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


async def _long(piece: bytes | Computed | Made | Opened) -> AsyncIterator[bytes | bytearray]:
    if isinstance(piece, bytes):
        yield piece
    elif isinstance(piece, Computed):
        yield await in_worker(piece.make)
    else:
        here = piece if isinstance(piece, Opened) else await in_worker(partial(opened, piece))
        with here.file:
            position = 0
            while position < here.size:
                size = min(here.size - position, _BLOCK_BYTES)
                block = await _with(bytearray(), here.file.fileno(), position, size)
                position += len(block)
                yield block


@contextmanager
def made(piece: Made) -> Iterator[Path]:
    """The file of a piece, for as long as it is needed."""
    path = piece.folder / f"{uuid.uuid4().hex}.part"
    try:
        piece.make(path)
        yield path
    finally:
        path.unlink(missing_ok=True)


def opened(piece: Made) -> Opened:
    """Make the file now, and take its name away: it is gone when it is closed, however this process ends."""
    with made(piece) as path:
        file = path.open("rb")
        return Opened(file, os.fstat(file.fileno()).st_size)


async def _with(block: bytearray, descriptor: int, position: int, size: int) -> bytearray:
    """The block, followed by at least one of `size` bytes of a file."""
    before = len(block)
    # What has been shortened can grow again without being copied.
    longer = bytearray(before + size + _ROOM_BYTES)
    longer[:before] = block
    with memoryview(longer) as view, view[before : before + size] as into:
        found = _in_memory(descriptor, into, position) or await run_in_threadpool(
            os.preadv, descriptor, [into], position
        )
    if not found:
        raise OSError(f"a stored file ends at byte {position}, before its indexed size")
    del longer[before + found :]
    return longer


def _in_memory(descriptor: int, into: memoryview, position: int) -> int:
    """Fill `into` with what of these bytes is in memory, from the first on; how many, 0: ask the disk."""
    if not _IN_MEMORY_ONLY:
        return 0
    try:
        return os.preadv(descriptor, [into], position, _IN_MEMORY_ONLY)
    except OSError:  # not there, or the file system cannot tell
        return 0


# What a client has already, and which part of it is asked for


def tag_of(*what: object, weak: bool = False) -> str:
    """An entity tag (RFC 9110 8.8.3) over whatever the answer's bytes follow from; weak where they may differ."""
    name = hashlib.sha256("\n".join(map(str, what)).encode()).hexdigest()[:32]
    return f'W/"{name}"' if weak else f'"{name}"'


def known(request: Request, tag: str, content_type: str | None = None) -> Response | None:
    """304 where If-None-Match names the tag.

    content_type: of an answer of one part. Of several none may be said: a cache would take over a new boundary.
    """
    given = request.headers.get("if-none-match")
    if given is None:
        return None
    tags = {entry.strip().removeprefix("W/") for entry in given.split(",")}
    if "*" in tags or tag.removeprefix("W/") in tags:
        return Response(status_code=304, headers=validators(tag), media_type=content_type)
    return None


def validators(tag: str) -> dict[str, str]:
    """Headers of an answer that a client may keep, and must ask about each time: objects can be corrected."""
    return {"ETag": tag, "Cache-Control": "private, no-cache"}


def whole_or_part(
    request: Request, pieces: Sequence[Placed], content_type: str, tag: str, headers: Mapping[str, str] | None = None
) -> Response:
    """200 with all, 206 with one range of bytes, 416 where the range lies outside; several ranges get all of it."""
    size = size_of(pieces)
    found = {"Content-Type": content_type, "Accept-Ranges": "bytes", **validators(tag), **(headers or {})}
    asked = _range(request, size, tag)
    if asked is None:
        return Sending(pieces, headers=found | {"Content-Length": str(size)})
    start, stop = asked
    if start >= stop:
        return Response(status_code=416, headers=found | {"Content-Range": f"bytes */{size}"})
    found |= {"Content-Range": f"bytes {start}-{stop - 1}/{size}", "Content-Length": str(stop - start)}
    return Sending(cut(pieces, start, stop), 206, found)


def _range(request: Request, size: int, tag: str) -> tuple[int, int] | None:
    """[start, stop) of the one range that is asked for; None where the whole is to be sent; empty where impossible."""
    match = re.fullmatch(r"\s*bytes\s*=\s*(\d*)\s*-\s*(\d*)\s*", request.headers.get("range", ""))
    if match is None or not any(match.groups()) or request.headers.get("if-range", tag) != tag:
        return None
    first, last = match.groups()
    if not first:
        return max(size - int(last), 0), size if int(last) else 0
    if last and int(last) < int(first):
        return None  # no range at all (RFC 9110 14.1.1)
    return int(first), min(int(last) + 1, size) if last else size
