"""Sampling: a seed in, slices in units out. One seed per sample, so neither count nor batch changes a picture."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dicom_io.errors import Rejected
from dicom_io.provenance import ModelIdentity
from dicom_io.volume import Float32
from models import version
from models.version import ModelVersion


def noise(seed: int, index: int, latent: int) -> Tensor:
    """The (latent,) noise of sample `index` of `seed`: a function of the two alone."""
    digest = hashlib.sha256(f"sample\0{seed}\0{index}".encode()).digest()
    source = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.randn(latent, generator=source)


class Generator:
    """A released generator, on the CPU. units, pixel_range, spacing_mm (row, column): of what it makes."""

    def __init__(self, model: ModelVersion) -> None:
        self.model = model
        self.network = model.network()
        if model.description.pixel_range is None:
            raise Rejected(f"{model.identity.address} has no pixel range; train it again")
        self.pixel_range = model.description.pixel_range

    @property
    def identity(self) -> ModelIdentity:
        return self.model.identity

    @property
    def units(self) -> str:
        return self.model.description.units

    @property
    def spacing_mm(self) -> tuple[float, float] | None:
        return self.model.description.spacing_mm

    @property
    def audit_id(self) -> str:
        """Names the stored evaluation; "" for a run that was not released."""
        return self.model.description.audit_id

    @torch.inference_mode()
    def sample(self, n: int, seed: int, label: str | None = None) -> Float32:
        """(n, rows, columns) float32 in `units`, inside `pixel_range`.

        Raises:
            Rejected: a label is asked for; this generator knows none.
        """
        if label is not None:
            raise Rejected(f"{self.identity.address} makes unlabelled slices; ask without label {label!r}")
        latent = int(self.model.network_definition["latent"])
        # One at a time: convolution kernels are chosen by batch size, and their sums differ in the last bit.
        images = [self.network(noise(seed, index, latent)[None])[0, 0].numpy() for index in range(n)]
        low, high = self.pixel_range
        return (low + (np.array(images, np.float32).reshape(n, *images[0].shape) + 1) / 2 * (high - low)).astype(
            np.float32
        )


def load(folder: Path) -> Generator:
    """A generator from a version's (or a finished run's) folder.

    Raises:
        Rejected: the folder is no model, or holds a predictor.
    """
    model = version.load(folder)
    if model.description.task != "generation":
        raise Rejected(f"{model.identity.address} is a predictor; use `mirall predict`")
    return Generator(model)
