"""The servers that are measured: ours, and Orthanc where it is installed, both on one disk, both with TCP_NODELAY."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from plugin import service

_ORTHANC_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass
class Server:
    """A server that runs. pid: of its first process; its children count with it."""

    name: str
    dimse: tuple[str, int]
    aet: str
    url: str
    pid: int
    peak_mb: float = field(default=0.0)

    def cpu_s(self) -> float:
        """Processor time of all its processes until now, ended children included."""
        return sum(_cpu_s(pid) for pid in _tree(self.pid))


@contextmanager
def mirall(folder: Path) -> Iterator[Server]:
    config = folder / "mirall.toml"
    config.write_text('[node]\nopen = true\ndimse = "127.0.0.1:0"\n', encoding="utf-8")
    dimse, http = _free_port(), _free_port()
    with service.running(
        config, data=folder / "data", dimse=f"127.0.0.1:{dimse}", http=f"127.0.0.1:{http}", log=folder / "log"
    ) as running:
        yield _at_rest(Server("mirall", ("127.0.0.1", dimse), "MIRALL", running.dicomweb_url, running.process.pid))


@contextmanager
def orthanc(folder: Path) -> Iterator[Server]:
    dimse, http = _free_port(), _free_port()
    (folder / "orthanc.json").write_text(
        json.dumps(
            {
                "StorageDirectory": "storage", "IndexDirectory": "index", "HttpPort": http, "DicomPort": dimse,
                "DicomAet": "ORTHANC", "RemoteAccessAllowed": False, "AuthenticationEnabled": False,
                "SyncStorageArea": True, "DicomCheckCalledAet": False, "DicomAlwaysAllowStore": True,
                "DicomAlwaysAllowFind": True, "Plugins": [str(_ORTHANC_PLUGIN)],
                "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
            }
        ),
        encoding="utf-8",
    )  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ["Orthanc", "orthanc.json"], cwd=folder, stdout=log, stderr=log, env={**os.environ, "TCP_NODELAY": "1"}
        )
    try:
        for port in (dimse, http):
            _wait_listening(port, process)
        url = f"http://127.0.0.1:{http}/dicom-web"
        yield _at_rest(Server("orthanc", ("127.0.0.1", dimse), "ORTHANC", url, process.pid))
    finally:
        process.terminate()
        process.wait(60)


def installed() -> Mapping[str, Callable[[Path], contextmanager[Server]]]:  # type: ignore[valid-type]
    """The servers of this machine by name, ours first."""
    found = {"mirall": mirall}
    if shutil.which("Orthanc") and _ORTHANC_PLUGIN.is_file():
        found["orthanc"] = orthanc
    return found


def _at_rest(server: Server) -> Server:
    """When it has started: what it does for itself then is not measured."""
    for _ in range(40):
        before = server.cpu_s()
        time.sleep(0.25)
        if server.cpu_s() - before < 0.05:
            break
    return server


@contextmanager
def watched(server: Server, every_s: float = 0.2) -> Iterator[None]:
    """Note the most memory that its processes hold together (proportional set size, MB of 10^6 bytes)."""
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(every_s):
            server.peak_mb = max(server.peak_mb, sum(map(_memory_mb, _tree(server.pid))))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _tree(pid: int) -> list[int]:
    """A process and all below it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            stat = _stat(int(entry.name))
            if stat:
                children.setdefault(int(stat[1]), []).append(int(entry.name))
    found, todo = [], [pid]
    while todo:
        found.append(todo.pop())
        todo += children.get(found[-1], [])
    return found


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the third on (state, parent, ...); none where it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _cpu_s(pid: int) -> float:
    stat = _stat(pid)
    # utime, stime, cutime, cstime: fields 14 to 17 of proc(5).
    return sum(map(int, stat[11:15])) / _TICKS_PER_S if stat else 0.0


def _memory_mb(pid: int) -> float:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")) * 1024 / 1e6


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_listening(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        try:
            socket.create_connection(("127.0.0.1", port), 0.2).close()
            return
        except OSError:
            if process.poll() is not None:
                raise RuntimeError(f"the server ended with {process.returncode}; see its log") from None
            time.sleep(0.05)
    raise RuntimeError(f"nothing listens on port {port} after 30 s")
