"""What computes a predictor's network when it is served: torch, or ONNX Runtime where a release found it faster."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from dicom_io.errors import Rejected
from models.onnx_network import OnnxNetwork
from models.recipe_parts import Settings

Name = Literal["torch", "onnx"]
Asked = Literal["auto", "torch", "onnx"]
Network = Callable[[Tensor], Tensor]
# Where the file of ONNX lies in a version; the identity covers it.
FILE = "models/model.onnx"

_log = logging.getLogger(__name__)


class Engine(Settings):
    """How a version is served, and what a release measured for it.

    reason: why this one. batch: how many images, or windows of them, go through at once; None where nothing was
    measured. images_per_s: of each that was measured, at the batch that suits it. images: how many were compared with
    torch; largest_difference: of a probability; decisions, changed: how many there are, and how many are not torch's.
    versions: of the packages; sha256: of `FILE` (hex), "" where there is none.
    """

    name: Name
    reason: str
    batch: int | None = None
    images_per_s: dict[Name, float] = Field(default_factory=dict)
    images: int = 0
    largest_difference: float | None = None
    decisions: int = 0
    changed: int = 0
    threads: int = 1
    versions: dict[str, str] = Field(default_factory=dict)
    sha256: str = ""

    @property
    def words(self) -> str:
        """For the card."""
        by = f"torch {self.versions['torch']}"
        if self.name == "onnx":
            by = f"ONNX Runtime {self.versions['onnxruntime']}, from `{FILE}`"
        lines = [f"By {by}: {self.reason}."]
        if self.images_per_s:
            rates = ", ".join(f"{name} {rate:g}" for name, rate in self.images_per_s.items())
            threads = "one thread" if self.threads == 1 else f"{self.threads} threads"
            lines.append(
                f"Images a second (windows, where it looks at windows), {threads}: {rates}; {self.batch} at a time."
            )
        if self.largest_difference is not None:
            lines.append(
                f"On {self.images} test images no probability by ONNX Runtime differs from torch's by more than "
                f"{self.largest_difference:.1e}, and {self.changed} of {self.decisions} decisions do."
            )
        return " ".join(lines)


def is_installed() -> bool:
    """ONNX Runtime, and what reads its files."""
    return all(find_spec(name) for name in ("onnx", "onnxruntime"))


def serving(folder: Path, engine: Engine | None, network: nn.Module) -> Network:
    """The network as the version in `folder` is served.

    Where ONNX Runtime is not installed, torch takes its place, for its weights are there and its answers alike; a
    warning says so.

    Raises:
        Rejected: the file for ONNX Runtime is missing, not what was released, or one that is never loaded.
    """
    if engine is None or engine.name == "torch":
        return network
    path = folder / FILE
    if not path.is_file():
        raise Rejected(f"{path} is missing, by which the version is served; release it again from its run")
    file = path.read_bytes()
    if hashlib.sha256(file).hexdigest() != engine.sha256:
        raise Rejected(f"{path} is not what was released and was not loaded; release the version again from its run")
    if not is_installed():
        _log.warning("%s: ONNX Runtime is not installed; torch serves in its place, more slowly", folder)
        return network
    return OnnxNetwork(file, str(path), network)
