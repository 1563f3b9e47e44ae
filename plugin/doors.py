"""The doors process: DICOM listener and web server over one archive. Started by `plugin.service`.

    python -m plugin.doors [--config mirall.toml] [--data DIR]

It prints one line, `ready`, when both doors are open, and ends when it is told to (SIGTERM, SIGINT).
"""

from __future__ import annotations

import argparse
import logging
import socket
import sys
import threading
from pathlib import Path

import uvicorn

from dicom_io.errors import ImagingError
from plugin import settings as configuration
from plugin.archive.ingest import Ingest, open_archive
from plugin.dicomweb.app import create
from plugin.dimse import node
from plugin.security import tls
from plugin.settings import HostPort

WRONG_USE = 2
_BACKLOG = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, help="mirall.toml")
    parser.add_argument("--data", type=Path, help="data folder, in place of the configured one")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    # Each association and each answer to a poll is a line of theirs; ours say what happened.
    for chatty in ("pynetdicom", "alembic"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    try:
        _serve(configuration.load(arguments.config, data=arguments.data))
    except ImagingError as error:
        print(error, file=sys.stderr)
        sys.exit(WRONG_USE)


def _serve(settings: configuration.Settings) -> None:
    archive = open_archive(settings)
    found = archive.reindex()
    if found:
        logging.getLogger(__name__).warning("taken up from disk: %s", found)
    # The web's socket is bound before anything listens, so that a busy port ends us before a peer was let in.
    web = _bound(settings.node.http_address)
    listener = node.start(settings, archive)
    server = uvicorn.Server(_web(settings, archive))
    threading.Thread(target=_announce, args=(server,), daemon=True).start()
    try:
        server.run(sockets=[web])
    finally:
        listener.stop()
        archive.index.close()


def _web(settings: configuration.Settings, archive: Ingest) -> uvicorn.Config:
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


def _bound(address: HostPort) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((address.host, address.port))
        opened.listen(_BACKLOG)
    except OSError as error:
        opened.close()
        raise node.cannot_listen("node.http", "--http", address, error) from error
    return opened


if __name__ == "__main__":
    main()
