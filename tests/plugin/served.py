"""A web door over one archive, in a thread of the test's own process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import uvicorn

from plugin.archive.ingest import Ingest
from plugin.dicomweb.app import create
from plugin.settings import Settings


@dataclass
class Served:
    """url: of DICOMweb. http: a client that goes through no proxy."""

    ingest: Ingest
    url: str
    http: httpx.Client

    @property
    def host_port(self) -> tuple[str, int]:
        host, _, port = self.url.split("/")[2].partition(":")
        return host, int(port)


@contextmanager
def served(ingest: Ingest, settings: Settings) -> Iterator[Served]:
    server = uvicorn.Server(uvicorn.Config(create(settings, ingest), host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    with httpx.Client(trust_env=False, timeout=20) as http:
        yield Served(ingest, f"http://127.0.0.1:{port}/dicom-web", http)
    server.should_exit = True
    thread.join(10)
    ingest.index.close()
