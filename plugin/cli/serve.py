"""`mirall serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command("serve")(serve)


def serve(
    config: Annotated[Path | None, typer.Option("--config", help="mirall.toml; else the one in this folder.")] = None,
    data: Annotated[Path | None, typer.Option("--data", help="Folder of everything that is kept.")] = None,
    http: Annotated[
        str | None, typer.Option("--http", metavar="HOST:PORT", help="DICOMweb and pages [127.0.0.1:8080].")
    ] = None,
    dimse: Annotated[
        str | None, typer.Option("--dimse", metavar="HOST:PORT", help="DICOM associations [127.0.0.1:11112].")
    ] = None,
    aet: Annotated[str | None, typer.Option("--aet", help="Our AE title [MIRALL].")] = None,
    open_: Annotated[bool, typer.Option("--open", help="Let any peer in, from anywhere. It warns.")] = False,
) -> None:
    """Run the service: DICOM and DICOMweb doors, and the worker behind them.

    Ends cleanly on Ctrl-C or SIGTERM. Beyond loopback it listens only with known peers and a token, or with --open.
    Exit code 2: the settings are wrong or not safe, an address is in use, or another service works on the data folder.

    Example: mirall serve --data ./mirall-data --aet MIRALL
    """
    import logging
    import sys

    from plugin import service
    from plugin.settings import BadSettings

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    given = {"data": data, "http": http, "dimse": dimse, "aet": aet, "open": open_ or None}
    try:
        code = service.serve(config, given, say=lambda line: print(line, flush=True))
    except BadSettings as error:
        # As a busy port, which a child finds: what is wrong is how we were started, and a restart does not help.
        print(f"mirall: {error}", file=sys.stderr)
        code = service.WRONG_USE
    raise typer.Exit(code)
