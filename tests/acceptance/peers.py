"""Peers that nobody here wrote, as tests speak to them."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

# One for all: making a client reads the machine's certificates, which takes longer than most questions.
WEB = httpx.Client(trust_env=False, timeout=120)


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
        WEB.post(f"{self.url}/instances", content=path.read_bytes(), timeout=60).raise_for_status()

    def get(self, path: str) -> Any:
        answer = WEB.get(f"{self.url}{path}", timeout=60)
        answer.raise_for_status()
        return answer.json()

    def instances(self, **query: str) -> list[str]:
        """Identifiers of the instances that match DICOM keywords."""
        body = {"Level": "Instance", "Query": query}
        answer = WEB.post(f"{self.url}/tools/find", json=body, timeout=60)
        answer.raise_for_status()
        return list(answer.json())

    def file(self, identifier: str) -> bytes:
        answer = WEB.get(f"{self.url}/instances/{identifier}/file", timeout=60)
        answer.raise_for_status()
        return answer.content


def answers(url: str) -> bool:
    try:
        return WEB.get(url, timeout=2).status_code == 200
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
