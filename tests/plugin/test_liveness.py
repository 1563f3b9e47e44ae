"""Who owns a job, and is it alive."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from plugin.jobs.liveness import OwnerLocks, new_owner_id

HOLDER = """
import subprocess, sys, time
from pathlib import Path
from plugin.jobs.liveness import OwnerLocks
locks = OwnerLocks(Path(sys.argv[1]))
assert locks.hold("other")
child = subprocess.Popen(["sleep", "60"])
print(child.pid, flush=True)
time.sleep(60)
"""


def holder(folder: Path) -> tuple[subprocess.Popen[str], int]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def test_an_owner_is_alive_until_its_process_ends_however_it_ends(tmp_path: Path) -> None:
    process, child = holder(tmp_path)
    locks = OwnerLocks(tmp_path)
    try:
        assert not locks.is_dead("other")
        assert not locks.hold("other")
        process.send_signal(signal.SIGSTOP)  # frozen is not dead
        assert not locks.is_dead("other")
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    # Its child lives on and has not inherited the lock.
    os.kill(child, 0)
    assert locks.is_dead("other")
    os.kill(child, signal.SIGKILL)


def test_a_lock_that_is_ours_is_never_dead_and_is_free_after_release(tmp_path: Path) -> None:
    mine = OwnerLocks(tmp_path)
    assert mine.hold("me")
    assert mine.hold("me")
    assert not mine.is_dead("me")
    mine.release()
    assert OwnerLocks(tmp_path).hold("me")


def test_a_lock_on_a_file_that_was_buried_meanwhile_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locks, lock = OwnerLocks(tmp_path), fcntl.flock

    def lock_and_bury(descriptor: int, operation: int) -> None:
        lock(descriptor, operation)
        locks.bury("late")

    monkeypatch.setattr(fcntl, "flock", lock_and_bury)
    assert not locks.hold("late"), "no other process could find this lock"
    monkeypatch.undo()
    assert locks.hold("late")
    assert not OwnerLocks(tmp_path).hold("late")


def test_owner_ids_are_never_used_twice() -> None:
    assert len({new_owner_id() for _ in range(100)}) == 100


def test_the_engine_still_has_the_private_name_that_recovery_needs() -> None:
    from dbos import DBOS

    assert callable(DBOS._recover_pending_workflows)
