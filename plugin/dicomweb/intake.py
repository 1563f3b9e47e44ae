"""The body of a STOW-RS request as it arrives (PS3.18 10.5.1, 8.6.1): each part a file in incoming/, none in memory.

application/dicom                      one instance
multipart/related; application/dicom   one instance a part; each goes on as soon as its part has ended
multipart/related; application/dicom+json | application/dicom+xml
                                       metadata first, then bulk data by Content-Location; assembled at the end
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from fastapi import HTTPException, Request
from starlette.concurrency import run_in_threadpool

from dicom_io.errors import Rejected
from plugin.archive.storage import NoSpace, Reception, Storage
from plugin.dicomweb import media, native_xml
from plugin.dicomweb.assembly import Assembly, Bulk, CannotAssemble
from plugin.dicomweb.multipart import BadMultipart, Reader, Sink

# Writing to a disk can take long, so it is done in a thread; handing over each block of the network costs more than
# the writing, so they are handed over in lots.
_LOT_BYTES = 1 << 19
_METADATA_TYPES = (media.DICOM_JSON, native_xml.MEDIA_TYPE)
_MAXIMUM_METADATA_BYTES = 1 << 27


class UnsupportedPart(Rejected):
    """A part has a media type that is none of an instance."""


class Arrived(Protocol):
    """One instance that has come whole."""

    def take(self) -> Path:
        """Its Part 10 file in incoming/; once, in a thread that may wait.

        Raises NoSpace, CannotAssemble, UnsupportedPart.
        """
        ...


@dataclass(frozen=True)
class _File:
    reception: Reception

    def take(self) -> Path:
        return self.reception.finish()


@dataclass(frozen=True)
class _Unmade:
    error: CannotAssemble | NoSpace | UnsupportedPart

    def take(self) -> Path:
        raise self.error


@dataclass(frozen=True)
class _Unread:
    """A part that is none of an instance: its bytes go nowhere."""

    kind: str

    def write(self, block: bytes | bytearray | memoryview) -> int:
        return len(block)

    def close(self) -> None:
        """Nothing was opened for it."""

    def abandon(self) -> None:
        """Nothing is kept of it."""


async def objects(request: Request, storage: Storage) -> AsyncIterator[Arrived]:
    """The instances of a request, each as soon as it is whole; what never gets whole is deleted.

    Raises:
        HTTPException: 415, 400 or 413 where the request as such is none that can be stored.
        BadMultipart: the body does not follow its boundary; what came before it was given.
        ClientDisconnect: the sender went away.
    """
    media_type, values = media.parameters(request.headers.get("content-type", ""))
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding != "identity":
        raise HTTPException(415, f"a body in Content-Encoding {coding} cannot be stored; send it without")
    if media_type == media.DICOM:
        async for arrived in _single(request, storage):
            yield arrived
        return
    root_type = values.get("type", media.DICOM).lower()
    if media_type != "multipart/related" or root_type not in (media.DICOM, *_METADATA_TYPES):
        raise HTTPException(
            415,
            f"{media_type or 'no content type'} {values.get('type', '')}".rstrip() + " cannot be stored; send "
            "multipart/related of application/dicom, application/dicom+json or application/dicom+xml",
        )
    if not values.get("boundary"):
        raise HTTPException(400, "the Content-Type names no boundary; add boundary=...")
    if root_type == media.DICOM:
        files = _Files(storage)
        try:
            async for _ in _fed(request, Reader(values["boundary"], files.open, files.close)):
                for arrived in files.whole():
                    yield arrived
        except BadMultipart:
            for arrived in files.whole():
                yield arrived
            raise
        finally:
            files.abandon()
        return
    separate = _Separate(storage, root_type, str(request.url))
    try:
        async for _ in _fed(request, Reader(values["boundary"], separate.open, separate.close)):
            pass  # bulk data come in any order, so nothing is whole before the body has ended
        for item in separate.items():
            yield await run_in_threadpool(separate.made, item)
    finally:
        separate.abandon()


async def _single(request: Request, storage: Storage) -> AsyncIterator[Arrived]:
    reception = storage.receive()
    try:
        async for lot in _lots(request):
            for block in lot:
                await run_in_threadpool(reception.write, block)
    except BaseException:  # the client went away, or the server is asked to stop
        reception.abandon()
        raise
    yield _File(reception)


async def _fed(request: Request, reader: Reader) -> AsyncIterator[None]:
    """Feeds the reader; gives control back after each lot, and at the end."""
    async for lot in _lots(request):
        await run_in_threadpool(_feed, reader, lot)
        yield
    reader.finish()


def _feed(reader: Reader, lot: list[bytes]) -> None:
    for block in lot:
        reader.feed(block)


async def _lots(request: Request) -> AsyncIterator[list[bytes]]:
    """The blocks of the body, several at a time."""
    lot: list[bytes] = []
    size = 0
    async for block in request.stream():
        lot.append(block)
        size += len(block)
        if size >= _LOT_BYTES:
            yield lot
            lot, size = [], 0
    yield lot


@dataclass
class _Files:
    """Parts that are Part 10 files."""

    storage: Storage
    _open: list[Reception | _Unread] = field(default_factory=list)
    _whole: list[Reception | _Unread] = field(default_factory=list)

    def open(self, headers: dict[str, str]) -> Sink:
        kind, _ = media.parameters(headers.get("content-type", media.DICOM))
        self._open.append(self.storage.receive() if kind == media.DICOM else _Unread(kind))
        return self._open[-1]

    def close(self, part: Sink) -> None:
        assert isinstance(part, Reception | _Unread)
        part.close()  # thousands of small parts fit into one lot, and a process has no descriptors for as many files
        self._open.remove(part)
        self._whole.append(part)

    def whole(self) -> Iterator[Arrived]:
        while self._whole:
            part = self._whole.pop(0)
            if isinstance(part, Reception):
                yield _File(part)
            else:
                yield _Unmade(UnsupportedPart(f"a part of type {part.kind} cannot be stored; send application/dicom"))

    def abandon(self) -> None:
        for reception in (*self._open, *self._whole):
            reception.abandon()


@dataclass
class _Metadata:
    """A part of metadata, in memory. room: bytes that it may yet have."""

    room: int
    raw: bytearray = field(default_factory=bytearray)

    def write(self, block: bytes | bytearray | memoryview) -> int:
        self.raw += block
        if len(self.raw) > self.room:
            raise HTTPException(
                413, f"the metadata exceed {_MAXIMUM_METADATA_BYTES >> 20} MiB; send long values as bulk data"
            )
        return len(block)


class _Separate:
    """Parts that are metadata, and parts that are the bulk data which these name."""

    def __init__(self, storage: Storage, root_type: str, url: str) -> None:
        self._storage, self._root_type = storage, root_type
        self._open: Bulk | None = None
        self._metadata: list[_Metadata] = []
        self._assembly = Assembly(storage, url)

    def open(self, headers: dict[str, str]) -> Sink:
        kind, values = media.parameters(headers.get("content-type", self._root_type))
        if kind in _METADATA_TYPES:
            if kind != self._root_type:
                raise HTTPException(415, f"a part of type {kind} cannot be stored beside {self._root_type}; use one")
            # The limit is that of all parts together: bulk data have no place in them.
            self._metadata.append(_Metadata(_MAXIMUM_METADATA_BYTES - sum(len(part.raw) for part in self._metadata)))
            return self._metadata[-1]
        location = headers.get("content-location", "")
        if not location:
            raise BadMultipart("a part of bulk data has no Content-Location; give it that of its BulkDataURI")
        self._open = Bulk(location, kind, values.get("transfer-syntax", "").strip(), self._storage.receive())
        return self._open.reception

    def close(self, part: Sink) -> None:
        if self._open is not None and part is self._open.reception:
            self._assembly.add(self._open)
            self._open = None

    def items(self) -> list[object]:
        """The data sets of all metadata parts, in the DICOM JSON model. Raises BadMultipart."""
        return [item for part in self._metadata for item in self._parsed(part)]

    def _parsed(self, part: _Metadata) -> list[object]:
        try:
            if self._root_type == native_xml.MEDIA_TYPE:
                return [native_xml.read(bytes(part.raw))]
            found = json.loads(part.raw)
        except (ValueError, RecursionError) as error:
            raise BadMultipart(f"the metadata are no {self._root_type} ({error}); write them anew") from error
        return found if isinstance(found, list) else [found]

    def made(self, item: object) -> Arrived:
        """The instance of one data set, with its bulk data."""
        try:
            return _File(self._assembly.file(item))
        except (CannotAssemble, NoSpace) as error:
            return _Unmade(error)

    def abandon(self) -> None:
        if self._open is not None:
            self._open.reception.abandon()
        self._assembly.abandon()
