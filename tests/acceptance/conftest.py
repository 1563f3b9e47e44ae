"""Peers started on free ports, empty, and ended after each test."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from peers import Orthanc, answers, free_port, wait_for

ROOT = Path(__file__).parent.parent.parent


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
        wait_for(lambda: answers(f"{peer.url}/system"), "Orthanc to answer", timeout_s=30)
        yield peer
    finally:
        process.terminate()
        process.wait(20)
