"""Pictures of a training on disk, mapped into memory: a data set may be larger than the memory, and pages that nobody
draws from are the system's to take back.

A pixel is kept in 16 bits, in steps of 1/32767, so that -1, 0 and 1 are exact; scanners store 12 to 16 bits.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

STEPS = 32767


class Shelf:
    """Takes pictures of one shape, a few at a time. folder: where the file lies, or would lie: it has no name, and is
    gone when nobody has it open. Where the folder is not there yet, the nearest above it takes it."""

    def __init__(self, folder: Path) -> None:
        there = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.is_dir())
        self._file = tempfile.TemporaryFile(dir=there)  # noqa: SIM115  # it is open while pictures come
        self._count, self._shape = 0, torch.Size()

    def add(self, pictures: Tensor) -> None:
        """pictures: (n, planes, *size) float32 in [-1, 1].

        Raises:
            OSError: the disk is full.
        """
        self._count, self._shape = self._count + len(pictures), pictures.shape[1:]
        (pictures * STEPS).round().short().contiguous().numpy().tofile(self._file)

    def mapped(self) -> Tensor:
        """(N, planes, *size) int16: all that were added, at least one. `as_float` makes pictures of some of them."""
        self._file.flush()
        with self._file:
            # Copy on write, which nobody does: torch has no tensors that are for reading alone.
            return torch.from_numpy(np.memmap(self._file, np.int16, "c", shape=(self._count, *self._shape)))


def as_float(pictures: Tensor) -> Tensor:
    """float32 in [-1, 1], of those of a shelf; of others, themselves."""
    return pictures if pictures.dtype == torch.float32 else pictures.float() / STEPS
