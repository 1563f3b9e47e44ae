"""A window of asynchronous operations (PS3.7 D.3.3.3): several C-STORE requests of one association at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import corpus_of_bytes
import pytest
from archives import archive
from corpus_item import Item
from dicom_sender import Association, data_set

from dicom_io.dataset import file_meta
from plugin.archive.ingest import Ingest
from plugin.dimse import node
from plugin.settings import Node, Settings


@contextmanager
def listening(ingest: Ingest) -> Iterator[tuple[str, int]]:
    listener = node.start(Settings(node=Node(dimse="127.0.0.1:0")), ingest)
    yield "127.0.0.1", listener.address.port
    listener.stop()


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Ingest]:
    ingest = archive(tmp_path / "data")
    yield ingest
    ingest.index.close()


@pytest.fixture
def items(tmp_path: Path) -> list[Item]:
    return corpus_of_bytes.write("PT", tmp_path / "corpus", studies=1, share=0.06)


def until_nothing_comes_in(ingest: Ingest) -> None:
    end = time.monotonic() + 10
    while list(ingest.storage.incoming.iterdir()):
        assert time.monotonic() < end, "something is left in incoming/"
        time.sleep(0.02)


class Meeting(Ingest):
    """Takes an object only when as many as the barrier waits for are there."""

    barrier = threading.Barrier(3, timeout=10)

    def accept(self, *arguments, **more):
        self.barrier.wait()
        return super().accept(*arguments, **more)


def test_requests_are_worked_on_side_by_side_and_each_has_its_own_answer(here, items):
    meeting = Meeting(here.index, here.storage)
    with (
        listening(meeting) as address,
        Association(address, "MIRALL", [items[0].sop_class_uid], window=3) as association,
    ):
        assert association.window == 3
        answers = list(association.store_all(items))
    assert {item.sop_instance_uid: status for item, status, _ in answers} == {
        item.sop_instance_uid: 0x0000 for item in items
    }
    for item in items:
        raw = here.index.instance(item.sop_instance_uid).path.read_bytes()
        assert raw[file_meta(raw, "it")[1] :] == data_set(item.path)
    assert list(here.storage.incoming.iterdir()) == []


def test_what_comes_behind_requests_waits_until_they_are_answered(here, items):
    """The release follows without waiting for the answers, which come before its own."""
    with listening(here) as address:
        association = Association(address, "MIRALL", [items[0].sop_class_uid], window=4)
        for number, item in enumerate(items[:4], 1):
            association.begin(item, number)
        association._socket.sendall(b"\5\0\0\0\0\4" + bytes(4))
        assert {association.answer() for _ in items[:4]} == {(number, 0x0000) for number in (1, 2, 3, 4)}
        assert association._read()[0] == 6  # A-RELEASE-RP
        association._file.close()
        association._socket.close()
    assert here.index.counts()["instances"] == 4


def test_a_sender_that_is_cut_off_leaves_nothing_half_and_keeps_what_was_whole(here, items):
    with listening(here) as address:
        association = Association(address, "MIRALL", [items[0].sop_class_uid], window=4)
        association.begin(items[0], 1)
        association.answer()
        association.begin(items[1], 2)
        association.begin(items[2], 3, share=0.5)
        association.reset()
        with Association(address, "MIRALL", [items[0].sop_class_uid]) as next_one:
            assert next_one.window == 1
            assert next_one.store(items[3], 1) == 0x0000
    until_nothing_comes_in(here)
    stored = {item.sop_instance_uid for item in items if here.index.instance(item.sop_instance_uid)}
    # Whether the second, which nobody waited for, was whole when the line was cut, the network knows.
    assert stored - {items[1].sop_instance_uid} == {items[0].sop_instance_uid, items[3].sop_instance_uid}


def test_a_failure_of_ours_ends_an_association_that_goes_on_sending(here, items, monkeypatch):
    accept, failed = here.accept, threading.Event()

    def first_fails(*arguments, **more):
        if not failed.is_set():
            failed.set()
            raise RuntimeError("a bug")
        return accept(*arguments, **more)

    monkeypatch.setattr(here, "accept", first_fails)
    many = items * 20
    with listening(here) as address:
        association = Association(address, "MIRALL", [items[0].sop_class_uid], window=2)
        answers = []
        with pytest.raises(OSError):
            for answer in association.store_all(many):
                answers.append(answer)
        association.reset()
    assert len(answers) < len(many) / 2


def test_a_failure_of_ours_ends_the_association_and_acknowledges_nothing(here, items, monkeypatch):
    def broken(*arguments: object, **more: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(here, "accept", broken)
    with listening(here) as address:
        association = Association(address, "MIRALL", [items[0].sop_class_uid], window=2)
        association.begin(items[0], 1)
        with pytest.raises(ConnectionError, match="ended"):
            association.answer()
        association.reset()
    until_nothing_comes_in(here)
    assert here.index.counts()["instances"] == 0
