"""The worker's end of the warm child: start it, hand it one job at a time, kill it when it must go."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

JOBS_PER_CHILD = 50  # libraries leak; a fresh process now and then costs 5 s
LINE_LIMIT_BYTES = 2**26  # a result line holds one label record per object made
OUT_OF_MEMORY_SIGNAL = signal.SIGKILL  # what the kernel's out-of-memory killer sends

OnProgress = Callable[[Mapping[str, Any]], Awaitable[None]]


class WarmChild:
    """One child process that does one job at a time and lives on between jobs.

    It is killed when its job is cancelled, after an out-of-memory, and after `jobs_per_child` jobs; the next job starts
    a new one. All coroutines run in one event loop.
    """

    def __init__(self, scratch: Path, pipeline: str = "plugin.pipeline", jobs_per_child: int = JOBS_PER_CHILD) -> None:
        self._scratch = scratch
        self._pipeline = pipeline
        self._jobs_per_child = jobs_per_child
        self._process: asyncio.subprocess.Process | None = None
        self._jobs = 0
        self._free = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process and self._process.returncode is None else None

    @property
    def is_busy(self) -> bool:
        """A job runs in it, or waits for it."""
        return self._free.locked()

    async def run(self, request: Mapping[str, Any], on_progress: OnProgress) -> dict[str, Any]:
        """Hand over one job and wait for its answer, `{"result": ...}` or `{"error": {"kind", "sentence"}}`.

        Cancelling this coroutine kills the child at once: it writes only into its job's scratch folder.
        """
        async with self._free:
            try:
                reply = await self._exchange(request, on_progress)
            except BaseException:
                self.kill()
                raise
            self._jobs += 1
            if self._jobs >= self._jobs_per_child or reply.get("error", {}).get("kind") in ("memory", "crashed"):
                self.kill()
            return reply

    def kill(self) -> None:
        """Take down the child and whatever it started; it has a process group of its own."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process, self._jobs = None, 0

    def end(self, timeout_s: float = 5.0) -> None:
        """Kill it for good, from another thread; its loop sees it out and closes its pipes before it ends itself."""
        if self._process is None or self._loop is None or not self._loop.is_running():
            self.kill()
            return
        ended = asyncio.run_coroutine_threadsafe(self._see_out(), self._loop)
        with contextlib.suppress(TimeoutError):
            ended.result(timeout_s)

    async def _see_out(self) -> None:
        process = self._process
        self.kill()
        if process is not None:
            if process.stdin is not None:
                process.stdin.close()
            await process.wait()

    async def _exchange(self, request: Mapping[str, Any], on_progress: OnProgress) -> dict[str, Any]:
        process = self._process
        if process is None or process.returncode is not None:
            process = self._process = await self._start()
            self._jobs = 0
        assert process.stdin is not None and process.stdout is not None
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it died: reading says so below
            process.stdin.write(json.dumps(request).encode() + b"\n")
            await process.stdin.drain()
        async for line in process.stdout:
            message = _parsed(line)
            if "progress" in message:
                await on_progress(message["progress"])
            elif "result" in message or "error" in message:
                return message
        return _ended(await process.wait())

    async def _start(self) -> asyncio.subprocess.Process:
        self._scratch.mkdir(parents=True, exist_ok=True)
        self._loop = asyncio.get_running_loop()
        command = [sys.executable, "-m", "plugin.jobs.child"]
        command += ["--pipeline", self._pipeline, "--parent", str(os.getpid())]
        return await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=self._scratch,
            # A MONAI bundle holds a `models/` folder that would shadow our package if the cwd were on the path.
            env={**os.environ, "PYTHONSAFEPATH": "1"},
            start_new_session=True,
            limit=LINE_LIMIT_BYTES,
        )


def _parsed(line: bytes) -> dict[str, Any]:
    """A line of ours, or {} for anything else that found its way into the pipe."""
    try:
        message = json.loads(line)
    except ValueError:
        return {}
    return message if isinstance(message, dict) else {}


def _ended(returncode: int) -> dict[str, Any]:
    if returncode == -OUT_OF_MEMORY_SIGNAL:
        sentence = (
            "the prediction process was killed (signal 9), most likely because memory ran out; "
            "give the machine more memory, or use a smaller patch"
        )
        return {"error": {"kind": "memory", "sentence": sentence}}
    how = f"signal {-returncode}" if returncode < 0 else f"exit code {returncode}"
    sentence = f"the prediction process ended without an answer ({how}); the worker's log has its last words"
    return {"error": {"kind": "crashed", "sentence": sentence}}
