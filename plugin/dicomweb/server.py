"""The web process: DICOMweb, API and pages over one archive. Started by `plugin.service`.

    python -m plugin.dicomweb.server --socket FD --after FD [--config mirall.toml] [--reindex]

It brings the index up to date and prints `indexed`, waits for the service to open the doors, listens on the socket that
the service has bound, prints `ready`, and ends when it is told to (SIGTERM, SIGINT).
"""

from __future__ import annotations

import argparse
import logging
import os
import socket
import sys
import threading
from pathlib import Path

import uvicorn

from dicom_io.errors import ImagingError
from plugin import settings as configuration
from plugin.archive.ingest import Ingest, open_archive
from plugin.dicomweb.app import create
from plugin.security import tls

WRONG_USE = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--socket", type=int, required=True, help="number of the file that is the bound socket")
    parser.add_argument("--after", type=int, required=True, help="number of a pipe; wait until its other end is closed")
    parser.add_argument("--config", type=Path, help="mirall.toml")
    parser.add_argument("--reindex", action="store_true", help="first take up what lies on disk and is not indexed")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    # What it says of each step to a new form of the tables is nothing to act on.
    logging.getLogger("alembic").setLevel(logging.ERROR)
    try:
        settings = configuration.load(arguments.config)
        archive = open_archive(settings)
        found = archive.reindex() if arguments.reindex else {}
        if found:
            logging.getLogger(__name__).warning("taken up from disk: %s", found)
        print("indexed", flush=True)
        os.read(arguments.after, 1)
        _serve(settings, archive, socket.socket(fileno=arguments.socket))
    except ImagingError as error:
        print(error, file=sys.stderr)
        sys.exit(WRONG_USE)


def _serve(settings: configuration.Settings, archive: Ingest, bound: socket.socket) -> None:
    server = uvicorn.Server(_configuration(settings, archive))
    threading.Thread(target=_announce, args=(server,), daemon=True).start()
    try:
        server.run(sockets=[bound])
    finally:
        archive.index.close()


def _configuration(settings: configuration.Settings, archive: Ingest) -> uvicorn.Config:
    config = uvicorn.Config(
        create(settings, archive),
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=5,
        # A peer's address is what the socket says; headers of proxies are believed on loopback only.
        forwarded_allow_ips="127.0.0.1",
    )
    context = tls.server_context(settings.node.tls, "http")
    if context is not None:
        config.ssl_context_factory = lambda config, default: context
    return config


def _announce(server: uvicorn.Server) -> None:
    while not server.started:
        threading.Event().wait(0.02)
    print("ready", flush=True)


if __name__ == "__main__":
    main()
