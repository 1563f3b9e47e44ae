"""`mirall config`: is the configuration right?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

config = typer.Typer(no_args_is_help=True, help="The configuration, mirall.toml.\n\nExample: mirall config check")


def register(app: typer.Typer) -> None:
    app.add_typer(config, name="config")


@config.command("check")
def check(
    path: Annotated[Path | None, typer.Option("--config", help="mirall.toml; else the one in this folder.")] = None,
    data: Annotated[Path | None, typer.Option("--data", help="Data folder, in place of the configured one.")] = None,
) -> None:
    """Say what is wrong with the configuration, by file, line and key.

    Unknown keys and bad values, routes to unknown destinations, models that are not in the registry, addresses that may
    not be listened on, and certificates that cannot be used.

    Example: mirall config check --config mirall.toml
    """
    from plugin import settings
    from plugin.security import tls
    from plugin.settings import FILE_NAME, BadSettings

    if path is None and Path(FILE_NAME).is_file():
        path = Path(FILE_NAME)
    loaded = settings.load(path, data=data)
    unknown = settings.unknown_models(loaded, path)
    if unknown:
        raise BadSettings("\n".join(unknown))
    for warning in [*settings.may_listen(loaded), *tls.check(loaded)]:
        print(f"warning: {warning}")
    routes, destinations = len(loaded.routes), len(loaded.destinations)
    print(f"{path or 'the defaults'}: no problems; {routes} route(s), {destinations} destination(s)")
