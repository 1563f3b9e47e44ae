"""The service as a process: it comes up, says where, survives kill -9, and ends cleanly."""

from __future__ import annotations

import os
import random
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from dicom_objects import file_of, slice_of

from dicom_io.dataset import dataset_hash
from dicom_io.errors import TryAgain
from plugin import service
from plugin.archive.ingest import open_archive
from plugin.dimse.client import echo, store
from plugin.dimse.client.association import Peer
from plugin.service import CannotServe, Running


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def told(tmp_path) -> dict[str, object]:
    """Options of a service of its own folder and ports."""
    return {
        "data": tmp_path / "data",
        "http": f"127.0.0.1:{free_port()}",
        "dimse": f"127.0.0.1:{free_port()}",
        "aet": "TESTED",
    }


def peer_of(running: Running) -> Peer:
    address = running.settings.node.dimse_address
    return Peer("TESTED", address.host, address.port, "SCANNER")


def files_to_send(folder: Path, sender: int, kill: int) -> dict[str, Path]:
    """120 slices of one study of its own, by SOP Instance UID."""
    study = f"2.25.7{kill}{sender}"
    files = {}
    for number in range(1, 121):
        uid = f"{study}.{number}"
        pixels = {"Rows": 160, "Columns": 128, "PixelData": bytes([number, sender]) * 160 * 128}
        files[uid] = folder / f"{uid}.dcm"
        files[uid].write_bytes(file_of(slice_of(uid, study=study, series=f"{study}.0", **pixels)))
    return files


def send_until_killed(running: Running, files: list[dict[str, Path]], moment_s: float) -> set[str]:
    """Send each set over an association of its own, kill -9 at the moment; which UIDs were answered with success."""
    acknowledged: set[str] = set()

    def send(paths: list[Path]) -> None:
        try:
            for sent in store.send(peer_of(running), paths, timeout_s=5):
                if sent.accepted:
                    acknowledged.add(sent.sop_instance_uid)
        except TryAgain:
            return  # killed before this association was made

    threads = [threading.Thread(target=send, args=(list(one.values()),)) for one in files]
    for thread in threads:
        thread.start()
    while not acknowledged:
        time.sleep(0.005)
    time.sleep(moment_s)
    running.kill()
    for thread in threads:
        thread.join(30)
    return acknowledged


def check_whole(running: Running, acknowledged: set[str], files: dict[str, Path]) -> None:
    """Everything acknowledged is found and equal; of the rest there may be some, but no half of any."""
    with httpx.Client(trust_env=False, timeout=20) as web:
        found = {
            answer["00080018"]["Value"][0]: answer["00081190"]["Value"][0]
            for answer in web.get(f"{running.dicomweb_url}/instances").json()
        }
        assert acknowledged <= found.keys()
        for uid, url in found.items():
            raw = web.get(url, headers={"Accept": "application/dicom"}).content
            assert dataset_hash(raw) == dataset_hash(files[uid].read_bytes())
        assert web.get(f"{running.url}/health/ready").json()["quarantined"] == 0
    assert list((running.settings.data / "archive" / "incoming").iterdir()) == []


def test_nothing_that_was_acknowledged_is_lost_by_kill_9(tmp_path, told):
    """Three kills at random moments of C-STORE over three associations at once."""
    moments = random.Random(20261120)
    acknowledged: set[str] = set()
    files: dict[str, Path] = {}
    for kill in range(3):
        new = [files_to_send(tmp_path, sender, kill) for sender in (1, 2, 3)]
        with service.running(**told) as running:
            check_whole(running, acknowledged, files)
            answered = send_until_killed(running, new, moments.uniform(0.02, 0.4))
        files |= {uid: path for one in new for uid, path in one.items()}
        assert 0 < len(answered) < 360
        acknowledged |= answered
    with service.running(**told) as running:
        check_whole(running, acknowledged, files)


def test_a_service_says_where_it_is_and_ends_cleanly_on_ctrl_c(told):
    with service.running(**told | {"dimse": "127.0.0.1:0"}) as running:
        end = time.monotonic() + 20
        # It is ready before it has said so.
        while "Ctrl-C ends the service" not in running.log.read_text() and time.monotonic() < end:
            time.sleep(0.05)
        port = int(re.search(r"^DICOM     TESTED at 127.0.0.1:(\d+)$", running.log.read_text(), re.MULTILINE)[1])
        echo.echo(Peer("TESTED", "127.0.0.1", port, "SCANNER"))
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(30) == 0
        said = running.log.read_text()
        assert f"DICOMweb  http://{told['http']}/dicom-web" in said
        assert "Research use only, not for diagnosis." in said
        assert "Traceback" not in said


def test_a_service_makes_its_data_folder_for_its_owner_alone(told):
    mask = os.umask(0o022)
    try:
        with service.running(**told):
            assert told["data"].stat().st_mode & 0o777 == 0o700
    finally:
        os.umask(mask)


def test_what_dies_is_started_again(told):
    with service.running(**told) as running:
        (web,) = children(running, "plugin.dicomweb.server")
        subprocess.run(["kill", "-9", str(web)], check=True)
        end = time.monotonic() + 30
        while children(running, "plugin.dicomweb.server") in ([], [web]):
            assert time.monotonic() < end
            time.sleep(0.1)
        # Its door stayed open meanwhile: a request waits, and is answered.
        assert httpx.get(f"{running.url}/health/ready", timeout=20, trust_env=False).status_code == 200
        assert "web ended with -9; it is started again in 0.2 s" in running.log.read_text()


def test_two_processes_answer_at_the_port_and_one_may_die_under_load(tmp_path, told):
    """What was acknowledged is there, the port stays open, and the dead one is started again."""
    files = [files_to_send(tmp_path, sender, 9) for sender in (1, 2, 3, 4)]
    acknowledged: set[str] = set()
    with service.running(**told) as running:

        def send(paths: list[Path]) -> None:
            for sent in store.send(peer_of(running), paths, timeout_s=20):
                if sent.accepted:
                    acknowledged.add(sent.sop_instance_uid)

        threads = [threading.Thread(target=send, args=(list(one.values()),)) for one in files]
        for thread in threads:
            thread.start()
        while len(acknowledged) < 20:
            time.sleep(0.005)
        busy = {pid: connections(pid) for pid in children(running, "plugin.dimse.listener")}
        assert len(busy) == 2
        assert all(count >= 1 for count in busy.values())
        subprocess.run(["kill", "-9", str(min(busy))], check=True)
        echo.echo(peer_of(running), timeout_s=20)
        for thread in threads:
            thread.join(60)
        assert 20 <= len(acknowledged) < 480
        end = time.monotonic() + 20
        while len(children(running, "plugin.dimse.listener")) < 2:
            assert time.monotonic() < end
            time.sleep(0.05)
        ingest = open_archive(running.settings, upgrade=False)
        uids = {uid: path for one in files for uid, path in one.items()}
        for uid in acknowledged:
            assert ingest.index.instance(uid).path.stat().st_size > 160 * 128
            assert ingest.index.instance(uid).dataset_hash == dataset_hash(uids[uid].read_bytes())
        assert ingest.missing() == []
        ingest.index.close()


def connections(pid: int) -> int:
    """Open sockets of a process beyond the one it accepts from."""
    files = [str(each.readlink()) for each in Path(f"/proc/{pid}/fd").iterdir() if each.is_symlink()]
    return sum(name.startswith("socket:") for name in files) - 1


def children(running: Running, module: str) -> list[int]:
    """Process ids of the service's children that run a module."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().split(b"\0")
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it has ended meanwhile
        if parent == running.process.pid and module.encode() in command:
            found.append(int(entry.name))
    return found


def test_the_worker_begins_when_what_lies_on_disk_is_indexed(tmp_path):
    """Before, it would take a study of which a part is missing in the index for whole."""
    after, closed = os.pipe()
    command = [sys.executable, "-m", "plugin.jobs.worker", "--data", str(tmp_path), f"--after={after}"]
    worker = subprocess.Popen(command, stdout=subprocess.PIPE, pass_fds=[after])
    try:
        assert worker.stdout is not None
        assert select.select([worker.stdout], [], [], 4)[0] == []
        os.close(closed)
        assert worker.stdout.readline() == b"ready\n"
    finally:
        worker.terminate()
        worker.wait(20)
        os.close(after)


def test_children_end_with_a_service_that_is_killed(told):
    with service.running(**told) as running:
        modules = ("plugin.dicomweb.server", "plugin.dimse.listener", "plugin.jobs.worker")
        pids = [pid for module in modules for pid in children(running, module)]
        assert len(pids) == 4
        running.kill()
        end = time.monotonic() + 10
        while any(is_alive(pid) for pid in pids):
            assert time.monotonic() < end
            time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def busy() -> Iterator[int]:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield int(taken.getsockname()[1])


@pytest.mark.parametrize("door", ["http", "dimse"])
def test_a_busy_port_ends_the_start_with_a_sentence(told, busy, door):
    with pytest.raises(CannotServe) as caught, service.running(**told | {door: f"127.0.0.1:{busy}"}):
        pass
    assert (
        f"node.{door} is 127.0.0.1:{busy}, which cannot be used: another program listens there; end it, or choose "
        f"another port with --{door} HOST:PORT"
    ) in str(caught.value)


def test_a_service_beyond_loopback_is_refused(told):
    with pytest.raises(CannotServe) as caught, service.running(**told | {"http": "0.0.0.0:0"}):
        pass
    assert "0.0.0.0:0 can be reached from other machines but node.http_token or [[node.tokens]] is not set" in str(
        caught.value
    )


def test_two_services_on_one_folder_are_refused(told, monkeypatch, tmp_path):
    monkeypatch.setattr(service, "_LOCK_WAIT_S", 0.2)
    with service.running(**told), pytest.raises(service.BadSettings, match="another service works on"):
        service.serve(None, told)


def served(*options: object) -> tuple[int, str]:
    """Exit code and errors of a `mirall serve` that is expected not to start."""
    command = [sys.executable, "-m", "plugin.cli", "serve", *(str(option) for option in options)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return ended.returncode, ended.stderr


def test_serve_that_may_not_start_ends_with_exit_code_two_whatever_the_reason(told, busy, tmp_path):
    own = ("--data", tmp_path / "other")
    unsafe, why_unsafe = served(*own, "--http", "0.0.0.0:0")
    assert why_unsafe.startswith("mirall: 0.0.0.0:0 can be reached") and "Traceback" not in why_unsafe
    taken, why_taken = served(*own, "--http", told["http"], "--dimse", f"127.0.0.1:{busy}")
    assert "another program listens there" in why_taken
    (tmp_path / "wrong.toml").write_text("[nodes]\n")
    wrong, why_wrong = served("--config", tmp_path / "wrong.toml")
    assert "nodes: no such setting" in why_wrong
    assert (unsafe, taken, wrong) == (2, 2, 2)


def test_a_second_service_on_a_folder_ends_with_exit_code_two(told):
    with service.running(**told):
        code, why = served("--data", told["data"], "--http", "127.0.0.1:0", "--dimse", "127.0.0.1:0")
    assert (code, why.startswith(f"mirall: another service works on {told['data']}; end it")) == (2, True)


def test_where_there_is_no_linux_the_sentence_names_the_commands_that_run(told, monkeypatch):
    monkeypatch.setattr(service.sys, "platform", "darwin")
    with pytest.raises(CannotServe) as caught:
        service.serve(None, told)
    assert str(caught.value) == (
        "mirall serve needs Linux, this is darwin; `mirall train`, `predict` and `generate` run here"
    )


def test_effective_settings_reach_the_doors(told):
    """The AE title of the command line is what the listener answers to."""
    with service.running(**told) as running, pytest.raises(TryAgain, match="rejected"):
        echo.echo(Peer("MIRALL", "127.0.0.1", running.settings.node.dimse_address.port))


def test_the_doors_load_neither_torch_nor_monai():
    code = (
        "import sys, plugin.dicomweb.server, plugin.dimse.listener, plugin.cli;"
        "print(sorted({'torch', 'monai'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
