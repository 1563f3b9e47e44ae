"""Models that a process has loaded, kept for the next job: loading one takes longer than most predictions.

A version whose files are others than those that were loaded is loaded anew, so that what is on the shelf is what works.
Those that were not asked for longest make room where all together are larger than `MOST_BYTES`. After an out-of-memory,
of a GPU too, the whole process is replaced (`plugin.jobs.warm_child`), and all its memory with it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, TypeVar

MOST_BYTES = 4 * 2**30
_FILES = ("configs/metadata.json", "configs/inference.json", "models/model.pt", "models/model.onnx")

Model = TypeVar("Model")
# When each file was written, and how long it is; None where there is none.
_Stamp = tuple[tuple[int, int] | None, ...]


class ModelCache:
    """most_bytes: of the files of all models together; the model that was asked for last stays, however large."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._kept: OrderedDict[tuple[Path, Hashable], tuple[_Stamp, Any, int]] = OrderedDict()

    def get(self, folder: Path, load: Callable[[], Model], *asked: Hashable) -> Model:
        """The model of a version's folder. asked: with what settings it is loaded; other settings are another model."""
        folder = folder.resolve()
        key, stamp = (folder, asked), _stamp(folder)
        known = self._kept.pop(key, None)
        if known is None or known[0] != stamp:
            # Room is made before it is needed: the old one of this folder is gone already.
            del known
            known = stamp, load(), sum(file[1] for file in stamp if file)
        self._kept[key] = known
        self._make_room()
        kept: Model = known[1]
        return kept

    @property
    def folders(self) -> tuple[Path, ...]:
        """Of those that are kept, the one that was asked for last at the end."""
        return tuple(folder for folder, _ in self._kept)

    def _make_room(self) -> None:
        while len(self._kept) > 1 and sum(size for _, _, size in self._kept.values()) > self._most_bytes:
            self._kept.popitem(last=False)


def _stamp(folder: Path) -> _Stamp:
    found = [folder / name for name in _FILES]
    return tuple((path.stat().st_mtime_ns, path.stat().st_size) if path.is_file() else None for path in found)


LOADED = ModelCache()
