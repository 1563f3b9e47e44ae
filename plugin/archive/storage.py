"""Bytes on disk: written in a folder of our own, made durable, then named by their hash.

    <data>/archive/incoming/    files that are being received; what is left here at a start was never acknowledged
    <data>/archive/objects/     ab/<hash>.dcm, the stored objects; never changed, written once
    <data>/archive/quarantine/  <hash>.dcm and <hash>.json, what was refused and why

They hold names of patients, so what is made here is the owner's alone.

Durable means: the file's bytes are synced, it is renamed inside one file system, and the folder is synced. Names come
from hashes of the bytes alone, so nothing that a peer writes into a header can become a path.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import mmap
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from dicom_io.errors import TryAgain

# Names of files that are received: no other process, alive or dead, has the same.
_PROCESS, _NUMBERS = secrets.token_hex(8), itertools.count()
_SHORT_BYTES = 1 << 16
_NOTE = "user.mirall"
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class NoSpace(TryAgain):
    """The disk is full, or nearly so; answered as 0xA700 or HTTP 507."""


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


class Reception:
    """A file that is being received in incoming/. After a failed write it swallows the rest and keeps the failure.

    It has what pynetdicom and python-multipart need of a file: name, write, flush, close. Swallowing matters: an
    exception in the thread that reads the network would leave the peer without an answer.
    """

    def __init__(self, folder: Path, failure: NoSpace | None = None) -> None:
        self.name = f"{folder}/{os.getpid()}-{_PROCESS}-{next(_NUMBERS)}.part"
        descriptor = os.open(self.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self._file: BinaryIO = os.fdopen(descriptor, "wb", buffering=1 << 18)
        self.failure = failure

    @property
    def path(self) -> Path:
        return Path(self.name)

    @property
    def file(self) -> Reception:
        """pynetdicom flushes `.file` after each fragment; there is nothing that needs it before `finish`."""
        return self

    def write(self, block: bytes | bytearray | memoryview) -> int:
        if self.failure is None:
            with self._noting_failure():
                self._file.write(block)
        return len(block)

    def flush(self) -> None:
        """Nothing: see `file`."""

    def close(self) -> None:
        with self._noting_failure():
            self._file.close()

    def finish(self) -> Path:
        """Close; gives the path of the whole file. Raises NoSpace where a write had failed."""
        self.close()
        if self.failure is not None:
            self.abandon()
            raise self.failure
        return self.path

    def abandon(self) -> None:
        """Close and delete; nothing was acknowledged."""
        self.close()
        self.path.unlink(missing_ok=True)

    @contextmanager
    def _noting_failure(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.failure = self.failure or _no_space(error)


def _no_space(error: OSError) -> NoSpace:
    if error.errno not in _NO_SPACE:
        raise error
    return NoSpace(f"the object cannot be stored: {error.strerror}; free space on the disk that holds the data folder")


class Storage:
    """The folders of one data folder.

    minimum_free_mb: below it (MB, 10^6 bytes) nothing new is taken, so that index and jobs can still be written.
    """

    def __init__(self, data: Path, minimum_free_mb: int = 0, free_bytes: Callable[[Path], int] = _free_bytes) -> None:
        self.incoming = data / "archive" / "incoming"
        self.objects = data / "archive" / "objects"
        self.quarantine = data / "archive" / "quarantine"
        self._objects = str(self.objects)
        self._minimum_free_mb = minimum_free_mb
        self._free_bytes = free_bytes
        for folder in (data, data / "archive", self.incoming, self.objects, self.quarantine):
            make_private(folder)
        # All at once: made one by one, each would cost two more syncs while others wait for the index.
        if not (self.objects / "ff").is_dir():
            for number in range(256):
                (self.objects / f"{number:02x}").mkdir(exist_ok=True)
            sync_folder(self.objects)

    # Receiving

    def check_space(self) -> None:
        """Raises NoSpace where less than the minimum is free."""
        free = self._free_bytes(self.incoming)
        if free < self._minimum_free_mb * 1e6:
            raise NoSpace(
                f"{free / 1e6:.0f} MB are free and archive.minimum_free_mb is {self._minimum_free_mb}; "
                "free space on the disk that holds the data folder"
            )

    def receive(self) -> Reception:
        """A new file in incoming/; where space is short it is born with that failure and takes no bytes."""
        try:
            self.check_space()
        except NoSpace as failure:
            return Reception(self.incoming, failure)
        return Reception(self.incoming)

    def receive_file(self, path: Path) -> Path:
        """A copy of a file of this machine, in incoming/. Raises NoSpace."""
        reception = self.receive()
        with path.open("rb") as source:
            shutil.copyfileobj(source, reception, 1 << 20)
        return reception.finish()

    def clear_incoming(self) -> int:
        """Delete what an ended process left half-received; only for the one process that starts the service."""
        left = [path for path in self.incoming.iterdir() if path.is_file()]
        for path in left:
            path.unlink(missing_ok=True)
        return len(left)

    # Stored objects

    def note(self, received: Path, text: str) -> bool:
        """Keep a short text with a received file, not among its bytes; durable when the file is synced.

        Gives whether it is kept: not every file system has a place for it (xattr(7)), nor for much.
        """
        try:
            os.setxattr(received, _NOTE, text.encode())
        except (OSError, AttributeError):  # the system has none
            return False
        return True

    def noted(self, key: str) -> str:
        """What was noted with a stored object, "" where nothing was."""
        try:
            return os.getxattr(self.objects / key, _NOTE).decode("utf-8", "replace")
        except (OSError, AttributeError):
            return ""

    def place(self, received: Path, key: str) -> bool:
        """Give a received and synced file `key` as a second, durable name, where no file has it; whether it did so.

        For what most probably is new: `put` would have its folder synced under the index's lock. Raises NoSpace.
        """
        # Texts, not paths: this is done for each object, and to put paths together takes longer than to link.
        target = f"{self._objects}/{key}"
        try:
            os.link(received, target)
            placed = True
        except FileExistsError:
            placed = False
        except OSError as error:
            raise _no_space(error) from error
        sync_folder(target.rpartition("/")[0])
        return placed

    def put(self, received: Path, key: str, sidecar: Mapping[str, Any] | None = None) -> Path:
        """Give a received and synced file the name `key` (atomic; the same bytes twice are no harm).

        sidecar: what must be known again if the index is lost; it is there before the object is.
        Gives the folder that must be synced (`sync_folder`) before anything is acknowledged. Raises NoSpace.
        """
        return self._put(received, self.objects / key, sidecar)

    def path(self, key: str) -> Path:
        return self.objects / key

    def sidecar_text(self, key: str) -> str | None:
        """What `put` was given beside the object, as JSON; it may be damaged, None where there is none."""
        beside = (self.objects / key).with_suffix(".json")
        return beside.read_text(encoding="utf-8", errors="replace") if beside.is_file() else None

    def walk(self) -> Iterator[str]:
        """Keys of all stored objects."""
        for path in self.objects.glob("*/*.dcm"):
            yield f"{path.parent.name}/{path.name}"

    def age(self, key: str) -> tuple[int, str]:
        """Sorts stored objects by when their bytes were written."""
        return (self.objects / key).stat().st_mtime_ns, key

    def link_to_incoming(self, key: str) -> Path:
        """A second name for stored bytes, in incoming/."""
        twin = self.incoming / f"{Path(key).stem}.part"
        twin.unlink(missing_ok=True)
        twin.hardlink_to(self.objects / key)
        return twin

    def delete(self, key: str) -> None:
        """Delete a stored object with what lies beside it."""
        path = self.objects / key
        path.unlink(missing_ok=True)
        path.with_suffix(".json").unlink(missing_ok=True)
        sync_folder(path.parent)

    # Quarantine

    def put_aside(self, received: Path, key: str, sidecar: Mapping[str, Any]) -> None:
        """Make refused bytes durable in the quarantine, with the reason beside them. Raises NoSpace."""
        sync_folder(self._put(received, self.quarantine / key, sidecar))

    def quarantined(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """(key, sidecar) of everything in quarantine."""
        for path in self.quarantine.glob("*.dcm"):
            yield path.name, _sidecar(path) or {}

    def quarantined_sidecar(self, key: str) -> dict[str, Any]:
        """What `put_aside` was given beside the bytes; empty where it was lost."""
        return _sidecar(self.quarantine / key) or {}

    def forget_quarantined(self, key: str) -> None:
        """Delete bytes from quarantine, after they were stored as an instance."""
        path = self.quarantine / key
        path.unlink(missing_ok=True)
        path.with_suffix(".json").unlink(missing_ok=True)
        sync_folder(self.quarantine)

    def _put(self, received: Path, target: Path, sidecar: Mapping[str, Any] | None) -> Path:
        try:
            if not target.parent.is_dir():
                target.parent.mkdir(exist_ok=True)
                sync_folder(target.parent.parent)
            if sidecar is not None:
                beside = received.with_suffix(".json")
                beside.write_text(json.dumps(sidecar, sort_keys=True), encoding="utf-8")
                sync_file(beside)
                beside.replace(target.with_suffix(".json"))
            received.replace(target)
        except OSError as error:
            raise _no_space(error) from error
        return target.parent


def is_whole(path: Path, size: int) -> bool:
    """The file is there in its full length; stored files are written once, so no more is looked at."""
    try:
        return path.stat().st_size == size
    except FileNotFoundError:
        return False


def make_private(folder: Path) -> None:
    """Make a folder that only its owner may enter; one that is there already keeps what its owner gave it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def sync_file(path: Path) -> None:
    """Make a file's bytes durable. Raises NoSpace where the disk cannot hold them."""
    _sync(path, os.O_RDONLY, os.fsync)


def sync_data(path: Path) -> None:
    """As `sync_file`, without its times, which a file that is written again and again need not keep."""
    _sync(path, os.O_RDONLY, getattr(os, "fdatasync", os.fsync))


def sync_folder(folder: Path | str) -> None:
    """Make the names in a folder durable. Raises NoSpace where the disk cannot hold them."""
    _sync(folder, os.O_RDONLY | os.O_DIRECTORY, os.fsync)


def _sync(path: Path | str, flags: int, sync: Callable[[int], None]) -> None:
    descriptor = os.open(path, flags)
    try:
        sync(descriptor)
    except OSError as error:
        raise _no_space(error) from error
    finally:
        os.close(descriptor)


def file_hash(path: Path) -> str:
    """SHA-256 (hex) of all bytes of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def mapped(path: Path) -> Iterator[mmap.mmap | bytes]:
    """A file's bytes; of a long one only those that are looked at are read."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(descriptor).st_size
        if size <= _SHORT_BYTES:
            # Quicker than to map it; an empty file cannot be mapped at all.
            yield os.read(descriptor, size)
            return
        with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as view:
            yield view
    finally:
        os.close(descriptor)


def _sidecar(path: Path) -> dict[str, Any] | None:
    beside = path.with_suffix(".json")
    return json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else None
