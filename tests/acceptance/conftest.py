"""Peers that nobody here wrote, started on free ports and empty."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).parent.parent.parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Orthanc:
    """Debian's Orthanc with deploy/peers/orthanc: it sends everything it stores on to MIRALL."""

    dicom_port: int
    http_port: int
    mirall_port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    def upload(self, path: Path) -> None:
        httpx.post(f"{self.url}/instances", content=path.read_bytes(), timeout=60).raise_for_status()

    def get(self, path: str) -> Any:
        answer = httpx.get(f"{self.url}{path}", timeout=60)
        answer.raise_for_status()
        return answer.json()

    def instances(self, **query: str) -> list[str]:
        """Identifiers of the instances that match DICOM keywords."""
        body = {"Level": "Instance", "Query": query}
        answer = httpx.post(f"{self.url}/tools/find", json=body, timeout=60)
        answer.raise_for_status()
        return list(answer.json())

    def file(self, identifier: str) -> bytes:
        answer = httpx.get(f"{self.url}/instances/{identifier}/file", timeout=60)
        answer.raise_for_status()
        return answer.content


@pytest.fixture
def orthanc(tmp_path: Path, needs: Callable[[str], str]) -> Iterator[Orthanc]:
    program = needs("Orthanc")
    peer = Orthanc(free_port(), free_port(), free_port())
    environment = os.environ | {
        "ORTHANC_DATA": str(tmp_path / "orthanc"),
        "ORTHANC_DICOM_PORT": str(peer.dicom_port),
        "ORTHANC_HTTP_PORT": str(peer.http_port),
        "MIRALL_HOST": "127.0.0.1",
        "MIRALL_PORT": str(peer.mirall_port),
    }
    with (tmp_path / "orthanc.log").open("wb") as log:
        process = subprocess.Popen(
            [program, str(ROOT / "deploy/peers/orthanc/orthanc.json")], env=environment, stdout=log, stderr=log
        )
    try:
        wait_for(lambda: _answers(f"{peer.url}/system"), "Orthanc to answer", timeout_s=30)
        yield peer
    finally:
        process.terminate()
        process.wait(20)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.TransportError:
        return False


def wait_for(probe: Callable[[], Any], what: str, *, timeout_s: float, every_s: float = 0.2) -> Any:
    """The first true answer of `probe`; fails by naming what never came."""
    end = time.monotonic() + timeout_s
    while not (answer := probe()):
        if time.monotonic() > end:
            pytest.fail(f"waited {timeout_s:.0f} s for {what}")
        time.sleep(every_s)
    return answer
