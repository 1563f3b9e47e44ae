"""Group commit: one transaction for all that arrive together, and nothing acknowledged before it."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from archives import archive, give
from dicom_objects import file_of, slice_of
from sqlalchemy import event

from plugin.archive import commits
from plugin.archive.commits import Commits, Transaction
from plugin.archive.ingest import Ingest
from plugin.archive.storage import NoSpace


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Ingest]:
    ingest = archive(tmp_path)
    yield ingest
    ingest.index.close()


def together(shared: Commits, steps: list[Callable[[Transaction], object]]) -> list[object]:
    """Results, or exceptions, of steps that all wait while an earlier transaction is open."""
    began, go = threading.Event(), threading.Event()

    def hold(transaction: Transaction) -> bool:
        began.set()
        return go.wait(10)

    def outcome(step: Callable[[Transaction], object]) -> object:
        try:
            return shared.run(step)
        except (ValueError, NoSpace, sqlite3.Error) as error:
            return error

    with ThreadPoolExecutor(len(steps) + 1) as pool:
        first = pool.submit(shared.run, hold)
        assert began.wait(10)
        waiting = [pool.submit(outcome, step) for step in steps]
        while len(shared._waiting) < len(steps):
            go.wait(0.001)
        go.set()
        assert first.result()
        return [each.result() for each in waiting]


def noting(uid: str) -> Callable[[Transaction], str]:
    def step(transaction: Transaction) -> str:
        transaction.connection.exec_driver_sql("INSERT INTO device VALUES (?, ?)", (uid, "m:1"))
        return uid

    return step


def test_steps_that_wait_together_share_one_commit(here):
    ended: list[object] = []
    event.listen(here.index.engine, "commit", ended.append)
    assert together(Commits(here.index), [noting(f"1.{number}") for number in range(8)]) == [
        f"1.{number}" for number in range(8)
    ]
    assert len(ended) == 2  # the one that they waited for, and theirs
    assert len(here.index.device_uids()) == 8


def test_a_step_that_fails_undoes_what_it_did_and_nothing_else(here):
    def fails(transaction: Transaction) -> None:
        noting("2.1")(transaction)
        raise ValueError("no")

    one, none, other = together(Commits(here.index), [noting("1.1"), fails, noting("1.2")])
    assert (one, str(none), other) == ("1.1", "no", "1.2")
    assert here.index.device_uids() == {"1.1", "1.2"}


def test_a_transaction_that_fails_acknowledges_none_of_its_steps(here, monkeypatch):
    def broken(folder: Path) -> None:
        raise NoSpace("the disk is full")

    def touching(transaction: Transaction) -> str:
        transaction.folders.add(here.storage.objects)
        return noting("1.2")(transaction)

    monkeypatch.setattr(commits, "sync_folder", broken)
    outcomes = together(Commits(here.index), [noting("1.1"), touching, noting("1.3")])
    assert [str(each) for each in outcomes] == ["the disk is full"] * 3
    assert here.index.device_uids() == frozenset()


def test_a_failure_of_the_database_in_one_step_is_one_of_all(here):
    def wrong(transaction: Transaction) -> None:
        commits.driver_of(transaction.connection).execute("INSERT INTO nowhere VALUES (1)")

    outcomes = together(Commits(here.index), [noting("1.1"), wrong])
    assert [type(each) for each in outcomes] == [sqlite3.OperationalError] * 2
    assert here.index.device_uids() == frozenset()
    assert Commits(here.index).run(noting("1.2")) == "1.2"


def test_many_senders_of_one_study_at_once_lose_and_double_nothing(here):
    """Each slice comes from two senders; one of them finds it held."""
    raws = [file_of(slice_of(f"1.2.{number}", value=number)) for number in range(1, 13)] * 2
    with ThreadPoolExecutor(6) as pool:
        states = [outcome.state for outcome in pool.map(lambda raw: give(here, raw), raws)]
    assert sorted(states) == ["held"] * 12 + ["stored"] * 12
    assert here.index.counts()["instances"] == 12
    assert here.missing() == []
    assert here.reindex() == {}
    assert list(here.storage.incoming.iterdir()) == []
