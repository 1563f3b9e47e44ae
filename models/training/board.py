"""TensorBoard, where it is installed: the figures of every report, over images seen, in `run/tensorboard`."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any


class Board:
    """Scalars of one run; nothing at all where `tensorboard` cannot be imported.

    images_seen: of the checkpoint that the run goes on from; what was written after it is hidden.
    """

    def __init__(self, folder: Path, images_seen: int) -> None:
        self._writer: Any = None
        if find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder), purge_step=images_seen + 1 if images_seen else None)

    def write(self, line: Mapping[str, Any]) -> None:
        """line: of metrics.csv."""
        if self._writer is None:
            return
        for name, value in line.items():
            if name != "images_seen" and isinstance(value, int | float):
                self._writer.add_scalar(name, value, line["images_seen"])
        self._writer.flush()
