"""Metadata of instances (PS3.18 10.4.1.1.2): all attributes but the long binary values, which are a BulkDataURI.

What is answered for a set of instances is kept on disk, under a name that is a hash of the instances' UIDs and of the
names of their files, and these are hashes of the bytes. So an arrival, a correction or a deletion makes another name,
and what is found under a name is right, in every process and after each restart, or is not there.

What is not there yet is put together from members of JSON objects, of which each spelling of a value is made once.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import os
import struct
import tempfile
import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import cache, lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

import orjson
import pydicom
from pydicom import DataElement, Dataset
from pydicom.errors import BytesLengthException
from pydicom.tag import BaseTag

from dicom_io import dataset as whole_files
from dicom_io.dataset import Layout, Place
from plugin.archive import values
from plugin.archive.query import AVAILABLE_TRANSFER_SYNTAX
from plugin.archive.storage import make_private, mapped
from plugin.archive.values import CHARACTER_SET, Encoding, Value
from plugin.dicomweb import frames
from plugin.dicomweb.resources import Held

# Changed whenever the same instances give other bytes than before.
_FORM = f"4 pydicom {pydicom.__version__}"
# Binary values up to this length stand in the metadata itself; longer ones are a BulkDataURI.
INLINE_BYTES = 1 << 16
BINARY_VRS = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
# Stands for the URL of DICOMweb as the client reached it. JSON has no such byte: within a string it is escaped.
_ROOT = b"\x1f"
# Its escaped form where we wrote it, and nobody else: no value can hold a quotation mark that is not escaped.
_WRITTEN, _MARKED = rb'"BulkDataURI":"\u001f', b'"BulkDataURI":"' + _ROOT
# Where an instance's own binary values are, but for who it is.
_HERE = f"{_ROOT.decode()}/bulkdata"
_UTF_8 = b'"00080005":{"vr":"CS","Value":["ISO_IR 192"]}'
# From which the VR of others follows where none is written: Pixel Representation, LUT Descriptor (PS3.6, "US or SS").
_TELL_VR = (0x00280103, 0x00283002)
_REMEMBERED, _REMEMBERED_BYTES = 8192, 1024
_GZIP_LEVEL = 4
# After so much has been written the cache is measured, and cut down to so much of its limit where it is larger.
_MEASURED_EVERY, _KEPT = 0.1, 0.8
_OLD_S = 3600.0
# The answers that were given last stay in memory.
_HOT_BYTES = 16 << 20
_LOCK = ".lock"
# What pydicom raises on values that do not follow their value representation.
_DAMAGE = (
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    OverflowError,
    NotImplementedError,
    EOFError,
    struct.error,
    BytesLengthException,
)


class Cache:
    """Ready-made answers in a folder, those that were given last in memory, too.

    limit_mb: of the folder's size (MB, 10^6 bytes); 0 keeps nothing.
    """

    def __init__(self, folder: Path, limit_mb: float) -> None:
        self._folder = folder
        self._limit_bytes = limit_mb * 1e6
        self._written_bytes = 0.0
        self._hot: OrderedDict[str, bytes] = OrderedDict()
        self._hot_bytes = 0
        self._lock = threading.Lock()
        self._making: dict[str, threading.Lock] = {}
        make_private(folder)

    def at_hand(self, name: str) -> bytes | None:
        """An answer that is in memory: to ask for it costs next to nothing."""
        with self._lock:
            body = self._hot.get(name)
            if body is not None:
                self._hot.move_to_end(name)
            return body

    def get(self, name: str) -> bytes | None:
        body = self.at_hand(name)
        if body is None:
            body = self._read(name)
            if body is not None:
                self._keep_at_hand(name, body)
        return body

    def made(self, name: str, make: Callable[[], bytes]) -> bytes:
        """What is kept under a name, made first where it is not there; who else asks for it meanwhile waits for it."""
        body = self.get(name)
        if body is not None:
            return body
        with self._lock:
            turn = self._making.setdefault(name, threading.Lock())
        with turn:
            try:
                body = self.get(name)
                if body is None:
                    body = make()
                    self.put(name, body)
            finally:
                self._making.pop(name, None)
        return body

    def _keep_at_hand(self, name: str, body: bytes) -> None:
        # What one answer may take, so that a large one does not drive out all others; and no more than is kept on disk.
        limit = min(_HOT_BYTES, self._limit_bytes)
        if len(body) > limit / 8:
            return
        with self._lock:
            self._hot_bytes += len(body) - len(self._hot.pop(name, b""))
            self._hot[name] = body
            while self._hot_bytes > limit:
                self._hot_bytes -= len(self._hot.popitem(last=False)[1])

    def _read(self, name: str) -> bytes | None:
        try:
            with (self._folder / name).open("rb") as file:
                # The oldest go first, and what is read is not old.
                if time.time() - os.fstat(file.fileno()).st_mtime > _OLD_S:
                    os.utime(file.fileno())
                return file.read()
        except FileNotFoundError:
            return None

    def put(self, name: str, body: bytes) -> None:
        """Keep an answer; whole or not at all, whoever else writes the same."""
        if len(body) > self._limit_bytes * (1 - _KEPT):
            return
        descriptor, path = tempfile.mkstemp(dir=self._folder)
        with os.fdopen(descriptor, "wb") as file:
            file.write(body)
        Path(path).replace(self._folder / name)
        self._keep_at_hand(name, body)
        self._written_bytes += len(body)
        if self._written_bytes > self._limit_bytes * _MEASURED_EVERY:
            self._written_bytes = 0
            self._shrink()

    def _shrink(self) -> None:
        """Delete the oldest, where there is too much; one process at a time."""
        with (self._folder / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            files = sorted(_measured(self._folder))
            left = sum(size for _, size, _ in files)
            if left <= self._limit_bytes * (1 - _MEASURED_EVERY):
                return
            for _, size, path in files:
                if left <= self._limit_bytes * _KEPT:
                    return
                path.unlink(missing_ok=True)
                left -= size


def _measured(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """(time, bytes, path) of each file that is there when it is looked at."""
    for path in folder.iterdir():
        try:
            found = path.stat()
        except FileNotFoundError:
            continue
        if path.name != _LOCK:
            yield found.st_mtime, found.st_size, path


def identity(rows: Sequence[Held]) -> str:
    """A name for the metadata of just these instances with just these bytes."""
    named = hashlib.sha256(_FORM.encode())
    for row in rows:
        named.update(f"\n{row.sop_instance_uid} {row.storage_key}".encode())
    return named.hexdigest()


def json_at_hand(cache: Cache, identity_: str, root: str) -> bytes | None:
    """What `as_json` gives for instances of one series with this identity, where it is in memory."""
    body = cache.at_hand(_name_of_set(identity_))
    return None if body is None else body.replace(_ROOT, root.encode())


def gzip_at_hand(cache: Cache, identity_: str, root: str) -> bytes | None:
    """What `as_gzip` gives for instances with this identity, where it is in memory."""
    return cache.at_hand(_name_of_gzip(identity_, root))


def as_json(cache: Cache, rows: Sequence[Held], root: str) -> bytes:
    """A JSON array of the instances' data sets in the DICOM JSON model (PS3.18 F). root: URL of DICOMweb."""
    bodies = [_of_set(cache, list(of_series)) for _, of_series in groupby(rows, lambda row: row.series_instance_uid)]
    body = bodies[0] if len(bodies) == 1 else b"[" + b",".join(body[1:-1] for body in bodies) + b"]"
    return body.replace(_ROOT, root.encode())


def as_gzip(cache: Cache, rows: Sequence[Held], root: str) -> bytes:
    """As `as_json`, compressed."""
    name = _name_of_gzip(identity(rows), root)
    return cache.made(name, lambda: gzip.compress(as_json(cache, rows, root), _GZIP_LEVEL, mtime=0))


def _name_of_set(identity_: str) -> str:
    return f"{identity_}.json"


def _name_of_gzip(identity_: str, root: str) -> str:
    return hashlib.sha256(f"{identity_} {root}".encode()).hexdigest() + ".json.gz"


def data_sets(rows: Sequence[Held], root: str) -> Iterator[dict[str, Any]]:
    """The instances' data sets in the DICOM JSON model, as Python values."""
    for row in rows:
        found: dict[str, Any] = orjson.loads(_of_instance(row).replace(_ROOT, root.encode()))
        yield found


def _of_set(cache: Cache, rows: Sequence[Held]) -> bytes:
    return cache.made(_name_of_set(identity(rows)), lambda: b"[" + b",".join(map(_of_instance, rows)) + b"]")


def _of_instance(row: Held) -> bytes:
    """One data set as JSON, with `_ROOT` where the URL of DICOMweb belongs."""
    with mapped(row.path) as raw, warnings.catch_warnings():
        # pydicom warns of each odd value; the bytes are kept as they came, and the archive is not their judge.
        warnings.simplefilter("ignore")
        found = {place.tag: member for place, member in _members(whole_files.layout(raw)) if member}
    if CHARACTER_SET in found:
        found[CHARACTER_SET] = _UTF_8  # JSON is
    syntax = orjson.dumps({"vr": "UI", "Value": [row.transfer_syntax_uid]})
    found[int(AVAILABLE_TRANSFER_SYNTAX, 16)] = f'"{AVAILABLE_TRANSFER_SYNTAX}":'.encode() + syntax
    body = b"{" + b",".join(found[tag] for tag in sorted(found)) + b"}"
    return body.replace(_WRITTEN, _MARKED + row.where.encode())


def _members(layout: Layout) -> Iterator[tuple[Place, bytes]]:
    """Each attribute as a member of the JSON object, `"GGGGEEEE":{...}`; b"" for what is none, or cannot be said."""
    raw, is_implicit = layout.raw, not layout.is_explicit
    places = {place.tag: place for place in layout.places}

    def value(place: Place) -> Value:
        return values.as_value(place, is_implicit, bytes(raw[place.start : place.end]))

    @cache
    def beside(*tags: int) -> tuple[tuple[int, Value], ...]:
        return tuple((tag, value(places[tag])) for tag in tags if tag in places)

    character_set = places.get(CHARACTER_SET)
    encoding = Encoding(layout.is_little_endian, b"" if character_set is None else value(character_set)[2])
    of_all = beside(*_TELL_VR) if is_implicit else ()
    for place in places.values():
        tag = place.tag
        if tag & 0xFFFF == 0:
            continue  # group lengths are no attributes
        if tag in frames.PIXEL_TAGS:
            yield place, _elsewhere(tag, (place.vr or b"OW").decode("ascii", "replace"))
            return  # what lies behind them is found by none of the other resources, either
        # A private one is what its creator says (PS3.5 7.8.1); in Implicit VR others tell what a few public ones are.
        others = beside(tag & 0xFFFF0000 | (tag & 0xFF00) >> 8) if tag & 0x10000 else of_all
        known_by = place.end - place.start + len(encoding.character_set) + sum(len(each[2]) for _, each in others)
        if known_by > _REMEMBERED_BYTES:
            yield place, _member.__wrapped__(tag, value(place), encoding, others)
        else:
            yield place, _member(tag, value(place), encoding, others)


@lru_cache(_REMEMBERED)
def _member(tag: int, value: Value, encoding: Encoding, beside: tuple[tuple[int, Value], ...]) -> bytes:
    """One attribute, worked out once for each spelling: the slices of a series say nearly the same of themselves.

    beside: other attributes of the data set from which its VR follows.
    """
    _, is_implicit, _ = value
    dataset = values.dataset([*beside, (tag, value)], is_implicit, encoding)
    try:
        model = _element(dataset[BaseTag(tag)], _HERE)
        raw = orjson.dumps(model, option=orjson.OPT_PASSTHROUGH_SUBCLASS, default=_plain)
    except _DAMAGE:
        return b""  # the rest of the object must be seen all the same
    return b'"%08X":%b' % (tag, raw)


def _elsewhere(tag: int, vr: str) -> bytes:
    """A value that is always told by its address."""
    return b'"%08X":%b' % (tag, orjson.dumps({"vr": vr, "BulkDataURI": f"{_HERE}/{tag:08X}"}))


def _model(dataset: Dataset, where: str) -> dict[str, Any]:
    """A data set in the DICOM JSON model. where: URL of its own binary values.

    A value that its VR does not allow is left out: the rest of the object must be seen all the same.
    """
    found: dict[str, Any] = {}
    for tag in sorted(dataset.keys()):
        if tag.element == 0 or tag in frames.PIXEL_TAGS:
            continue  # group lengths are no attributes; pixel data are always elsewhere
        try:
            found[f"{tag:08X}"] = _element(dataset[tag], where)
        except _DAMAGE:
            continue
    return found


def _element(element: DataElement, where: str) -> dict[str, Any]:
    name = f"{BaseTag(element.tag):08X}"
    if element.VR == "SQ":
        items = [_model(item, f"{where}/{name}/{number}") for number, item in enumerate(element.value, start=1)]
        return {"vr": "SQ", "Value": items} if items else {"vr": "SQ"}
    # In Implicit VR a few attributes have one of several VRs; as bytes they are words.
    vr = "OW" if " or " in element.VR and isinstance(element.value, bytes) else element.VR
    if vr in BINARY_VRS and len(element.value or b"") > INLINE_BYTES:
        return {"vr": vr, "BulkDataURI": f"{where}/{name}"}
    return element.to_json_dict(None, 0) | {"vr": "US" if " or " in vr else vr}


def _plain(value: object) -> object:
    """pydicom's values are kinds of text and numbers."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    return list(value) if isinstance(value, list) else str(value)
