"""One of the processes that answer at the DICOM port. Started by `plugin.service`, `node.listeners` of them.

    python -m plugin.dimse.listener --socket FD --after FD [--config mirall.toml]

All accept from the one socket that the service has opened, so a peer notices nothing of them, nor of one that dies. It
prints one line, `ready`, when it accepts, and ends when it is told to (SIGTERM, SIGINT).
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
import threading
import warnings
from pathlib import Path

import pydicom

from dicom_io.errors import ImagingError
from plugin import settings as configuration
from plugin.archive.ingest import open_archive
from plugin.dimse import node

WRONG_USE = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--socket", type=int, required=True, help="number of the file that is the listening socket")
    parser.add_argument("--after", type=int, required=True, help="number of a pipe; wait until its other end is closed")
    parser.add_argument("--config", type=Path, help="mirall.toml")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    # Odd values in what peers send are kept as they came; nobody reads pydicom's remarks on them.
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    warnings.simplefilter("ignore")
    try:
        _listen(configuration.load(arguments.config), socket.socket(fileno=arguments.socket), arguments.after)
    except ImagingError as error:
        print(error, file=sys.stderr)
        sys.exit(WRONG_USE)


def _listen(settings: configuration.Settings, listening: socket.socket, after: int) -> None:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    # Whoever indexes first what lies on disk is done then, and the tables have the form that we know.
    os.read(after, 1)
    archive = open_archive(settings, upgrade=False)
    listener = node.start(settings, archive, listening)
    print("ready", flush=True)
    stop.wait()
    listener.stop()
    archive.index.close()


if __name__ == "__main__":
    main()
