"""Sampling: a seed in, slices in units out. One seed per sample, so neither count nor batch changes a picture.

No family of generators is known here: a network makes one picture from a source of random numbers and a class number
(`models.networks.maker`), however many steps that takes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from dicom_io.cohort import is_colour
from dicom_io.errors import Rejected
from dicom_io.provenance import ModelIdentity
from dicom_io.volume import Float32
from models import version
from models.networks.diffusion import Diffusion
from models.networks.latent import FromNoise
from models.networks.maker import Maker
from models.version import ModelVersion

Labels = npt.NDArray[np.uint8]
# Below it nearly all numbers would be drawn many times over.
LEAST_TRUNCATION = 0.1


def source_of(seed: int, index: int, purpose: str = "sample") -> torch.Generator:
    """The random numbers of sample `index` of `seed`: a function of these alone."""
    digest = hashlib.sha256(f"{purpose}\0{seed}\0{index}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


@dataclass(frozen=True, eq=False)
class Sample:
    """One picture. image: (channels, rows, columns) float32, in the generator's units and inside its pixel_range.

    mask: (rows, columns) label numbers, 0 for none, where the generator draws one. Of a generator of volumes both have
    slices before rows.
    """

    image: Float32
    mask: Labels | None


class Generator:
    """A released generator, on the CPU. units, pixel_range, spacing_mm ((slice,) row, column): of what it makes.

    truncation: of networks that take a vector of noise, guidance: of diffusion with classes; both trade variety for
    typical pictures, None leaves them as they were trained and evaluated. settings: those that were given.

    Raises:
        Rejected: the network has no such thing, truncation is below 0.1, or one of them is no finite number.
    """

    def __init__(self, model: ModelVersion, *, truncation: float | None = None, guidance: float | None = None) -> None:
        self.model = model
        self.network: Maker = model.network()  # type: ignore[assignment]
        given = {"truncation": truncation, "guidance": guidance}
        self.settings = {name: value for name, value in given.items() if value is not None}
        self._set(truncation, guidance)
        if model.description.pixel_range is None:
            raise Rejected(f"{model.identity.address} has no pixel range; train it again")
        self.pixel_range = model.description.pixel_range

    def _set(self, truncation: float | None, guidance: float | None) -> None:
        address = self.model.identity.address
        if truncation is not None:
            if not isinstance(self.network, FromNoise):
                raise Rejected(f"{address} is no network that takes a vector of noise; leave truncation out")
            # So written that it refuses what is no number, too.
            if not LEAST_TRUNCATION <= truncation < math.inf:
                raise Rejected(f"truncation {truncation:g} is no number from {LEAST_TRUNCATION:g} on; take 0.5 to 1")
            self.network.truncation = truncation
        if guidance is not None:
            if not isinstance(self.network, Diffusion) or not self.network.classes:
                raise Rejected(f"{address} is no diffusion model with classes to be guided to; leave guidance out")
            if not 0 <= guidance < math.inf:
                raise Rejected(f"guidance {guidance:g} is no number from 0 on; 1 is the class as it was learned")
            if guidance != 1 and self.model.description.label_dropout == 0:
                raise Rejected(f"{address} never saw pictures without a class (label_dropout 0); leave guidance out")
            self.network.guidance = guidance

    @property
    def identity(self) -> ModelIdentity:
        return self.model.identity

    @property
    def units(self) -> str:
        return self.model.description.units

    @property
    def spacing_mm(self) -> tuple[float, ...] | None:
        return self.model.description.spacing_mm

    @property
    def dims(self) -> int:
        """2 for slices, 3 for volumes."""
        return int(self.model.network_definition.get("dims", 2))

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels of its images."""
        return tuple(channel.name for channel in self.model.description.channels)

    @property
    def colour(self) -> bool:
        """Whether the channels are red, green and blue."""
        return is_colour(self.model.description.channels)

    @property
    def mask_labels(self) -> tuple[str, ...]:
        """What label 1, 2, ... of its masks mean; empty where it draws none."""
        return self.model.description.mask_labels

    @property
    def audit_id(self) -> str:
        """Names the stored evaluation; "" for a run that was not released."""
        return self.model.description.audit_id

    @property
    def labels(self) -> tuple[str, ...]:
        """What can be asked for: the classes that training had slices of; empty where it knew none."""
        known = self.model.description
        return tuple(name for name, slices in zip(known.labels, known.label_slices, strict=False) if slices)

    def require(self, label: str | None) -> None:
        """Pass where pictures of this label, or of none, can be told from each other.

        Raises:
            Rejected: the label is unknown, or none is given and there are several.
        """
        self._number(label)
        if label is None and self.labels:
            raise Rejected(f"{self.identity.address} makes {', '.join(self.labels)}; say which with a label")

    def sample(self, n: int, seed: int, label: str | None = None) -> Float32:
        """(n, channels, (slices,) rows, columns) float32 in `units`, inside `pixel_range`: the images of `samples`.

        label: None draws the class of each sample with it, in the shares of the training slices, where there are any.

        Raises:
            Rejected: a label is asked for that this generator was not trained on.
        """
        return np.stack([sample.image for sample in self.samples(n, seed, label)])

    def samples(self, n: int, seed: int, label: str | None = None) -> Iterator[Sample]:
        """Image and mask one by one, for more of them than memory holds; of `served_px`, where the recipe says so."""
        low, high = self.pixel_range
        channels = len(self.channels)
        for made in self.pictures(n, seed, label):
            planes = _resized(made, self.model.description.served_px)
            image = (low + (planes[:channels] + 1) / 2 * (high - low)).astype(np.float32)
            yield Sample(image, _labels_of(planes[channels:]) if self.mask_labels else None)

    @torch.inference_mode()
    def pictures(self, n: int, seed: int, label: str | None = None) -> Iterator[Float32]:
        """The same as the network makes them: (planes, (slices,) rows, columns) in [-1, 1] (`models.cases.Squares`)."""
        number = self._number(label)
        for index in range(n):
            drawn = self.class_of(seed, index) if number is None else number
            # One at a time: convolution kernels are chosen by batch size, and their sums differ in the last bit.
            yield self.network.make(source_of(seed, index), drawn).numpy().astype(np.float32)

    def _number(self, label: str | None) -> int | None:
        if label is None:
            return None
        if not self.labels:
            raise Rejected(f"{self.identity.address} makes unlabelled slices; ask without label {label!r}")
        if label not in self.labels:
            raise Rejected(f"{self.identity.address} makes {', '.join(self.labels)}; it knows no label {label!r}")
        return self.model.description.labels.index(label)

    def class_of(self, seed: int, index: int) -> int | None:
        """The class number of sample `index` of `seed` where no label is asked for; None where there are no classes."""
        if not self.labels:
            return None
        shares = torch.tensor(self.model.description.label_slices, dtype=torch.float64)
        return int(torch.multinomial(shares, 1, generator=source_of(seed, index, "label")))


def _resized(planes: Float32, px: int | None) -> Float32:
    """By the mean of the area of each new pixel (Keras' reshape, which the study took, cuts lines and joins them)."""
    if px is None or planes.shape[-1] == px:
        return planes
    resized: Float32 = F.interpolate(torch.from_numpy(planes)[None], (px, px), mode="area")[0].numpy()
    return resized


def _labels_of(planes: Float32) -> Labels:
    """(labels, rows, columns) in [-1, 1] -> (rows, columns): the label that covers most of a pixel, and half of it."""
    most = planes.argmax(0)
    return np.where(planes.max(0) > 0, most + 1, 0).astype(np.uint8)


def load(folder: Path, *, truncation: float | None = None, guidance: float | None = None) -> Generator:
    """A generator from a version's (or a finished run's) folder; the rest as for `Generator`.

    Raises:
        Rejected: the folder is no model, or holds a predictor; or as for `Generator`.
    """
    model = version.load(folder)
    if model.description.task != "generation":
        raise Rejected(f"{model.identity.address} is a predictor; use `mirall predict`")
    model.require_servable()
    if model.description.given:
        what = "a mask" if model.description.given.kind == "mask" else "DICOM files"
        raise Rejected(f"{model.identity.address} makes pictures of {what}, not of noise alone; give some with --from")
    return Generator(model, truncation=truncation, guidance=guidance)
