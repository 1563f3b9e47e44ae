"""What goes wrong in hospitals: power, cables, disks. Nothing that was acknowledged may be lost, nothing half may stay.

MIRALL_TEST_ROUNDS kills (4 in the suite; 50 take about ten minutes).
"""

from __future__ import annotations

import http.client
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import corpus_of_bytes
import httpx
import pytest
from corpus_item import Item
from dicom_sender import Association, data_set
from peers import free_port, wait_for

from plugin import service
from plugin.service import Running

ROUNDS = int(os.environ.get("MIRALL_TEST_ROUNDS", "4"))
SEED = 20261120


@pytest.fixture
def told(tmp_path: Path) -> dict[str, Any]:
    return {
        "data": tmp_path / "data",
        "http": f"127.0.0.1:{free_port()}",
        "dimse": f"127.0.0.1:{free_port()}",
        "open": True,
    }


class Load:
    """Two C-STORE senders and one STOW-RS client that go on until they are cut off or have sent everything."""

    def __init__(self, running: Running, items: list[Item]) -> None:
        self.acknowledged: set[str] = set()
        address = running.settings.node.dimse_address
        self._dimse = (address.host, address.port)
        self._http = running.settings.node.http_address
        third = len(items) // 3
        self._threads = [
            threading.Thread(target=self._store, args=(items[:third],)),
            threading.Thread(target=self._store, args=(items[third : 2 * third],)),
            threading.Thread(target=self._stow, args=(items[2 * third :],)),
        ]
        for thread in self._threads:
            thread.start()

    def wait(self) -> None:
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a sender hangs although the service is gone"

    def _store(self, items: list[Item]) -> None:
        try:
            with Association(self._dimse, "MIRALL", sorted({item.sop_class_uid for item in items})) as association:
                for number, item in enumerate(items, 1):
                    if association.store(item, number) == 0:
                        self.acknowledged.add(item.sop_instance_uid)
        except OSError:
            return  # the service was killed

    def _stow(self, items: list[Item]) -> None:
        connection = http.client.HTTPConnection(self._http.host, self._http.port, timeout=20)
        kind = 'multipart/related; type="application/dicom"; boundary=fault'
        try:
            for start in range(0, len(items), 5):
                batch = items[start : start + 5]
                head = b"--fault\r\nContent-Type: application/dicom\r\n\r\n"
                body = b"".join(head + item.path.read_bytes() + b"\r\n" for item in batch) + b"--fault--\r\n"
                connection.request("POST", "/dicom-web/studies", body, {"Content-Type": kind})
                answer = connection.getresponse()
                answer.read()
                if answer.status == 200:
                    self.acknowledged |= {item.sop_instance_uid for item in batch}
        except (OSError, http.client.HTTPException):
            return  # the service was killed
        finally:
            connection.close()


def children(pid: int) -> list[int]:
    """Processes that a process has started and that run."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def stored(running: Running, items: list[Item]) -> dict[str, bytes]:
    """UID -> data set of what the service gives out of these items."""
    found: dict[str, bytes] = {}
    with httpx.Client(trust_env=False, timeout=30) as web:
        for series in {(item.study_instance_uid, item.series_instance_uid) for item in items}:
            url = f"{running.dicomweb_url}/studies/{series[0]}/series/{series[1]}/instances"
            listed = web.get(url, headers={"Accept": "application/dicom+json"})
            for row in listed.json() if listed.status_code == 200 else []:
                uid = row["00080018"]["Value"][0]
                found[uid] = _data_set(web.get(f"{url}/{uid}", headers={"Accept": "application/dicom"}).content)
    return found


def _data_set(raw: bytes) -> bytes:
    return raw[144 + int.from_bytes(raw[140:144], "little") :]


def check(running: Running, acknowledged: set[str], items: list[Item]) -> None:
    """All that was acknowledged is there, and whatever is there is whole."""
    found = stored(running, items)
    by_uid = {item.sop_instance_uid: item for item in items}
    assert acknowledged <= found.keys(), f"{len(acknowledged - found.keys())} acknowledged instances are lost"
    wrong = [uid for uid, raw in found.items() if raw != data_set(by_uid[uid].path)]
    assert not wrong, f"{len(wrong)} instances have other bytes than were sent"
    assert httpx.get(f"{running.url}/health/ready", trust_env=False).json()["quarantined"] == 0
    incoming = running.settings.data / "archive" / "incoming"
    wait_for(lambda: not list(incoming.iterdir()), "incoming/ to be empty", timeout_s=10)


@pytest.mark.timeout(60 + 30 * ROUNDS)
def test_kill_9_of_the_service_or_of_one_of_its_processes_loses_nothing_that_was_acknowledged(
    tmp_path: Path, told: dict[str, Any]
) -> None:
    chance = random.Random(SEED)
    acknowledged: set[str] = set()
    items: list[Item] = []
    unchecked: list[Item] = []
    for number in range(ROUNDS):
        new = corpus_of_bytes.write("PT", tmp_path / f"round-{number}", studies=3, share=0.4, seed=number + 10)
        with service.running(**told) as running:
            check(running, acknowledged & {item.sop_instance_uid for item in unchecked}, unchecked)
            load = Load(running, new)
            time.sleep(chance.uniform(0.05, 0.6))
            if number % 2:
                os.kill(chance.choice(children(running.process.pid)), signal.SIGKILL)
                time.sleep(chance.uniform(0.0, 0.5))
            running.kill()
            load.wait()
        items += new
        unchecked = new
        acknowledged |= load.acknowledged
    with service.running(**told) as running:
        check(running, acknowledged, items)
    assert len(acknowledged) > 20 * ROUNDS, "the load was cut before it was a load"


def test_a_sender_that_is_cut_in_the_middle_of_an_object_leaves_nothing_of_it(
    tmp_path: Path, told: dict[str, Any]
) -> None:
    whole, part = corpus_of_bytes.write("CT", tmp_path / "corpus", studies=1, share=0.02)
    with service.running(**told) as running:
        address = running.settings.node.dimse_address
        with Association((address.host, address.port), "MIRALL", [whole.sop_class_uid]) as association:
            assert association.store(whole, 1) == 0
        cut = Association((address.host, address.port), "MIRALL", [part.sop_class_uid])
        cut.begin(part, 1, share=0.5)
        cut.reset()
        body = b"--cut\r\nContent-Type: application/dicom\r\n\r\n" + part.path.read_bytes()[:200_000]
        with socket.create_connection((address.host, running.settings.node.http_address.port)) as web:
            web.sendall(
                b"POST /dicom-web/studies HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 600000\r\n"
                b"Content-Type: multipart/related; type=application/dicom; boundary=cut\r\n\r\n" + body
            )
        check(running, {whole.sop_instance_uid}, [whole, part])
        assert set(stored(running, [whole, part])) == {whole.sop_instance_uid}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB of its own; mounting one needs root."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if os.geteuid() != 0 or mount is None:
        pytest.skip("mounting a small file system needs root")
    mounted = subprocess.run([mount, "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_an_answer_and_what_was_acknowledged_before_is_served(
    tmp_path: Path, small_disk: Path, told: dict[str, Any]
) -> None:
    config = tmp_path / "mirall.toml"
    config.write_text("[archive]\nminimum_free_mb = 0\n", encoding="utf-8")
    items = corpus_of_bytes.write("CT", tmp_path / "corpus", studies=1, share=0.6)
    paths = {item.sop_instance_uid: item.path for item in items}
    with service.running(config, **told | {"data": small_disk / "data"}, log=tmp_path / "log") as running:
        address = running.settings.node.dimse_address
        with Association((address.host, address.port), "MIRALL", [items[0].sop_class_uid]) as association:
            status = {item.sop_instance_uid: association.store(item, n) for n, item in enumerate(items, 1)}
        taken = {uid for uid, each in status.items() if each == 0}
        assert set(status.values()) == {0x0000, 0xA700}
        stow = httpx.post(
            f"{running.dicomweb_url}/studies", content=items[-1].path.read_bytes() , trust_env=False, timeout=30,
            headers={"Content-Type": "application/dicom"},
        )  # fmt: skip
        assert stow.status_code in (409, 507), stow.text
        found = stored(running, items)
        assert taken <= found.keys()
        assert all(found[uid] == data_set(path) for uid, path in paths.items() if uid in taken)
        assert list((small_disk / "data" / "archive" / "incoming").iterdir()) == []
        # With room again, the rest is taken, too, and nothing needs a restart.
        subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
        with Association((address.host, address.port), "MIRALL", [items[0].sop_class_uid]) as association:
            assert {association.store(item, number) for number, item in enumerate(items, 1)} == {0x0000}
        check(running, set(paths), items)


def test_an_index_that_was_deleted_is_rebuilt_from_the_stored_objects(tmp_path: Path, told: dict[str, Any]) -> None:
    items = corpus_of_bytes.write("mixed", tmp_path / "corpus", studies=1, share=0.2)
    with service.running(**told) as running:
        load = Load(running, items)
        load.wait()
        before = httpx.get(f"{running.dicomweb_url}/instances?includefield=all", trust_env=False, timeout=30).json()
    assert load.acknowledged == {item.sop_instance_uid for item in items}
    for path in told["data"].glob("index.sqlite*"):
        path.unlink()
    rebuilt = subprocess.run(
        [sys.executable, "-m", "plugin.cli", "reindex", "--data", str(told["data"])], capture_output=True, text=True
    )
    assert rebuilt.returncode == 0, rebuilt.stderr
    with service.running(**told) as running:
        check(running, load.acknowledged, items)
        after = httpx.get(f"{running.dicomweb_url}/instances?includefield=all", trust_env=False, timeout=30).json()

    def by_uid(rows: list[dict[str, Any]]) -> dict[str, Any]:
        return {row["00080018"]["Value"][0]: row for row in rows}

    assert by_uid(after) == by_uid(before)


def test_eight_senders_at_once_all_come_through(tmp_path: Path, told: dict[str, Any]) -> None:
    items = [
        item
        for number in range(8)
        for item in corpus_of_bytes.write("PT", tmp_path / "corpus", studies=1, share=0.15, seed=100 + number)
    ]
    with service.running(**told) as running:
        loads = [Load(running, items[start::4]) for start in range(4)]
        for load in loads:
            load.wait()
        acknowledged = set().union(*(load.acknowledged for load in loads))
        assert acknowledged == {item.sop_instance_uid for item in items}
        check(running, acknowledged, items)
