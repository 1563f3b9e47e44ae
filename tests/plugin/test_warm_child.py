"""The child that predicts: warm between jobs, gone when it must be."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from small_service import SmallService, instance_bytes, until

from plugin import encodings
from plugin.jobs.child import is_out_of_memory
from plugin.jobs.warm_child import WarmChild


@pytest.fixture
def request_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A prediction that a child can do; the fake pipeline is importable there."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    service = SmallService(tmp_path)
    source = tmp_path / "slice.dcm"
    source.write_bytes(instance_bytes("1.2.3"))
    (tmp_path / "out").mkdir()
    model = service.release("fake:1")
    service.close()
    made_at = datetime(2026, 1, 2, tzinfo=UTC).isoformat()
    common = {"kind": "predict", "model": str(model), "out": str(tmp_path / "out"), "made_at": made_at, "force": False}
    return common | {"files": [str(source)], "encodings": encodings.needed([])}


async def ignore(progress: Mapping[str, Any]) -> None:
    assert progress["stage"] == "predicting", "what a library prints is no progress"


def test_a_child_serves_several_jobs_and_is_renewed_after_so_many(tmp_path: Path, request_to: dict[str, Any]) -> None:
    child = WarmChild(tmp_path / "scratch", "fake_pipeline", jobs_per_child=2)

    async def three() -> list[int | None]:
        pids = []
        for _ in range(3):
            answer = await child.run(request_to, ignore)
            assert answer["result"][0]["finding"] == "1 instances seen"
            pids.append(child.pid)
        child.kill()
        await asyncio.sleep(0.2)  # the loop sees it end
        return pids

    first, after_two, third = asyncio.run(three())
    assert first is not None
    assert after_two is None, "killed after its second job"
    assert third not in (None, first)


def test_a_child_that_the_system_kills_is_told_as_lack_of_memory(tmp_path: Path, request_to: dict[str, Any]) -> None:
    Path(request_to["model"], "behaviour.json").write_text('{"seconds": 30}')
    child = WarmChild(tmp_path / "scratch", "fake_pipeline")
    seen = asyncio.Event()

    async def killed() -> dict[str, Any]:
        async def note(progress: Mapping[str, Any]) -> None:
            seen.set()

        job = asyncio.create_task(child.run(request_to, note))
        await seen.wait()
        assert child.is_busy
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        return await job

    answer = asyncio.run(killed())
    assert answer["error"]["kind"] == "memory"
    assert "memory ran out" in answer["error"]["sentence"]


def test_cancelling_a_job_kills_its_child_at_once(tmp_path: Path, request_to: dict[str, Any]) -> None:
    Path(request_to["model"], "behaviour.json").write_text('{"seconds": 30}')
    child = WarmChild(tmp_path / "scratch", "fake_pipeline")

    async def cancelled() -> int:
        seen = asyncio.Event()

        async def note(progress: Mapping[str, Any]) -> None:
            seen.set()

        job = asyncio.create_task(child.run(request_to, note))
        await seen.wait()
        pid = child.pid
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
        assert child.pid is None
        assert pid is not None
        await asyncio.sleep(0.2)  # the loop sees it end
        return pid

    pid = asyncio.run(cancelled())
    until(lambda: not Path(f"/proc/{pid}").exists(), 2)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory"), True),
        (RuntimeError("shape mismatch"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_lack_of_memory_is_recognised_on_cpu_and_gpu(error: BaseException, expected: bool) -> None:
    assert is_out_of_memory(error) is expected
