"""Several processes of one training on this machine, which begin and end together.

They meet in a file, not at a port: nothing is opened to the network (gloo speaks over the loopback interface).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from dicom_io.errors import ImagingError, TryAgain
from models.training import ranks

# So long others have to see that one has ended; then they are ended.
GRACE_S = 5.0


def start(count: int, work: Callable[..., None], *arguments: Any) -> None:
    """Call `work(*arguments)` in so many processes; `ranks.joined` finds the others there.

    work, arguments: pickled. Ctrl-C, an error in one process or its death ends all; so does the death of this one.

    Raises:
        ImagingError, OSError: what the first process that failed had raised.
        TryAgain: one was killed.
        SystemExit: one failed by another error, whose traceback it has printed.
    """
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe(duplex=False) for _ in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        meeting = (Path(folder) / "meeting").as_uri()
        started = [
            context.Process(target=_one, args=(number, count, meeting, said, work, arguments))
            for number, (_, said) in enumerate(pipes)
        ]
        try:
            for each in started:
                each.start()
            _wait(started)
            codes = [each.exitcode for each in started]
        finally:
            _end(started)
    for heard, _ in pipes:
        if heard.poll():
            raise heard.recv()
    for number, code in enumerate(codes):
        if code is not None and code < 0:
            raise TryAgain(
                f"process {number} of {count} was killed ({signal.Signals(-code).name}); go on with --resume, and with "
                "fewer processes or smaller batches if memory ran out"
            )
    if any(codes):
        raise SystemExit(1)


def _wait(started: Sequence[BaseProcess]) -> None:
    """Until all have ended well, or one has not, and the others had time to see it."""
    while alive := [each for each in started if each.exitcode is None]:
        connection.wait([each.sentinel for each in alive])
        if any(each.exitcode for each in started):
            break
    deadline = time.monotonic() + GRACE_S
    for each in started:
        each.join(max(deadline - time.monotonic(), 0))


def _end(started: Sequence[BaseProcess]) -> None:
    running = [each for each in started if each.pid is not None]
    for each in running:
        each.terminate()
    for each in running:
        each.join(GRACE_S)
        each.kill()
        each.join()


def _one(number: int, count: int, meeting: str, said: Connection, work: Callable[..., None], arguments: Any) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number), ranks.MEETING: meeting}
    os.environ |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    try:
        work(*arguments)
    except (ImagingError, OSError) as error:
        said.send(error)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
