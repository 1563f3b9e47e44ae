"""Which worker owns a running job, and whether that worker still lives.

DBOS (the open core) has no heartbeat: a workflow that a dead process left behind stays PENDING for ever. So each worker
holds an flock on a file named after its executor id for as long as it lives; the kernel frees it when the process ends,
however it ends. Who can take the lock of an owner has proof that the owner is gone. Ids are never used twice.

A frozen (SIGSTOP) worker keeps its lock, and nothing is taken from it. Local disk only: flock over NFS proves nothing.
"""

from __future__ import annotations

import fcntl
import os
import socket
import uuid
from pathlib import Path


def new_owner_id() -> str:
    """An executor id that no process had before."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


class OwnerLocks:
    """Locks in one folder, one file per name. Descriptors are close-on-exec: children never inherit a lock."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self._held: dict[str, int] = {}

    def hold(self, name: str) -> bool:
        """Take the lock and keep it until this process ends; True if it is ours, now or already."""
        if name not in self._held and (descriptor := self._taken(name)) is not None:
            self._held[name] = descriptor
        return name in self._held

    def is_dead(self, name: str) -> bool:
        """Nobody holds the lock of this name (and we do not either)."""
        if name in self._held or (descriptor := self._taken(name)) is None:
            return False
        os.close(descriptor)
        return True

    def names(self) -> set[str]:
        """All names that somebody held and nobody has buried."""
        return {path.name for path in self._folder.iterdir()}

    def bury(self, name: str) -> None:
        """Remove the file of a dead owner; its id never comes back."""
        (self._folder / name).unlink(missing_ok=True)

    def release(self) -> None:
        """Give up all locks; their files stay."""
        for descriptor in self._held.values():
            os.close(descriptor)
        self._held.clear()

    def _taken(self, name: str) -> int | None:
        path = self._folder / name
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Buried between the two lines above, the lock would be on a file that no other process can find.
            if path.stat().st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        except (BlockingIOError, FileNotFoundError):
            pass
        os.close(descriptor)
        return None
