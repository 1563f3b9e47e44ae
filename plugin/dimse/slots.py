"""How many associations are open over all listener processes, counted by the kernel.

An association holds a lock on one byte of a file that the processes share. The kernel drops it with the process,
however that ends, so a count that a `kill -9` left behind cannot exist.
"""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path


class Slot:
    """One open association's place. `release` may be called twice."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


class Slots:
    """`number` places, shared by all who name the same file."""

    def __init__(self, path: Path, number: int) -> None:
        self._path = path
        self._number = number

    def take(self) -> Slot | None:
        """A free place; None where all are taken."""
        # A lock belongs to the opening of the file, not to the process: each place needs an opening of its own.
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        for place in range(self._number):
            try:
                fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _lock_of(place))
                return Slot(descriptor)
            except BlockingIOError:
                continue  # somebody's
        os.close(descriptor)
        return None


def _lock_of(byte: int) -> bytes:
    """struct flock of Linux: type, whence, start, length, and a process id that must be 0 here (fcntl(2))."""
    return struct.pack("hhqqi0q", fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
