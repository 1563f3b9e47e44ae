"""The engine under the job table: one run is one workflow, and what ended may be forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from small_service import until

from plugin.jobs.engine import Engine


class Recorder:
    """Work that does nothing and notes what was asked of it."""

    def __init__(self) -> None:
        self.done: list[tuple[str, str]] = []

    async def make(self, job_id: str, run: int) -> dict[str, Any]:
        self.done.append(("make", f"{job_id}-{run}"))
        return {"error": {"kind": "failed"}} if job_id == "bad" else {"made": []}

    def keep(self, job_id: str, run: int, made: dict[str, Any]) -> dict[str, Any]:
        self.done.append(("keep", f"{job_id}-{run}"))
        if job_id == "raises":
            raise RuntimeError("the database or disk is full\n[parameters: Phantom^One]")
        return {"kept": len(made["made"])}

    def settle(self, job_id: str, run: int, kept: dict[str, Any]) -> None:
        self.done.append(("settle", f"{job_id}-{run}"))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, Recorder]]:
    work = Recorder()
    launched = Engine(tmp_path_factory.mktemp("engine") / "jobs.sqlite", work)
    launched.launch(polling_s=0.05)
    yield launched, work
    launched.stop()


def test_the_same_run_enqueued_twice_is_done_once_and_another_run_again(engine: tuple[Engine, Recorder]) -> None:
    launched, work = engine
    for run in (1, 1, 2):
        launched.enqueue("job", run)
    until(lambda: ("settle", "job-2") in work.done)
    steps = [(step, name) for step, name in work.done if name.startswith("job-")]
    assert sorted(steps) == sorted((step, f"job-{run}") for run in (1, 2) for step in ("make", "keep", "settle"))


def test_what_failed_is_settled_and_nothing_of_it_is_kept(engine: tuple[Engine, Recorder]) -> None:
    launched, work = engine
    launched.enqueue("bad", 1)
    until(lambda: ("settle", "bad-1") in work.done)
    assert ("keep", "bad-1") not in work.done


def test_a_run_that_broke_off_gives_what_it_raised(engine: tuple[Engine, Recorder]) -> None:
    launched, _ = engine
    launched.enqueue("raises", 1)
    until(lambda: launched.dead(["raises-1"]))
    sentence = launched.dead(["raises-1"])["raises-1"]
    assert sentence.startswith("the job broke off: RuntimeError: the database or disk is full; "), sentence


def test_an_ended_run_may_be_forgotten_and_an_unknown_one_is_told(engine: tuple[Engine, Recorder]) -> None:
    launched, work = engine
    launched.enqueue("old", 1)
    until(lambda: ("settle", "old-1") in work.done)
    assert launched.dead(["old-1", "never-1"]) == {"never-1": ""}

    def forgotten(before: datetime) -> bool:
        launched.forget_ended(before)
        return launched.dead(["old-1"]) == {"old-1": ""}

    assert not forgotten(datetime.now(UTC) - timedelta(days=1))
    until(lambda: forgotten(datetime.now(UTC) + timedelta(seconds=1)))


def test_files_of_owners_that_are_gone_are_buried(engine: tuple[Engine, Recorder]) -> None:
    launched, _ = engine
    assert launched.leads()
    launched.locks.is_dead("gone-1-abc")
    launched.recover_dead()
    assert launched.locks.names() == {launched.owner, "leader"}
