"""Where commands look for released model versions: `--models`, else the data folder of the settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Models = Annotated[
    Path | None, typer.Option("--models", help="Folder of released model versions; else models/ in the data folder.")
]
Config = Annotated[Path | None, typer.Option("--config", help="mirall.toml; else the one in this folder.")]


def models_folder(models: Path | None, config: Path | None) -> Path:
    """`models` where it is given; else `settings.Settings.models`, where the service looks, too.

    Raises:
        BadSettings: mirall.toml is asked and cannot be used.
    """
    if models is not None:
        return models
    from plugin import settings

    return settings.load(config).models
