"""Serving of networks that make pictures of pictures: a volume or projection in, or a mask; slices in units out.

Slices are made one by one: kernels are chosen by batch size, and their sums differ in the last bit. The tensor of what
is given is made as in training.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from monai.transforms import Compose
from torch import Tensor

from dicom_io.cohort import Channel
from dicom_io.errors import OutOfDomain, Rejected
from dicom_io.provenance import ModelIdentity
from dicom_io.volume import Float32, Projection, Volume
from models import cases, coarse, domain, preprocessing, version
from models.generator import source_of
from models.networks.from_picture import FromPicture
from models.tensors import to_metatensor
from models.version import Description, Given, ModelVersion


class _FromPictures:
    """A version with its network, on the CPU. pixel_range, units: of what it makes."""

    def __init__(self, model: ModelVersion, given: Given) -> None:
        self.model, self.given = model, given
        network = model.network()
        assert isinstance(network, FromPicture)
        self.network: FromPicture = network
        if model.description.pixel_range is None:
            raise Rejected(f"{model.identity.address} has no pixel range; train it again")
        self.pixel_range = model.description.pixel_range

    @property
    def identity(self) -> ModelIdentity:
        return self.model.identity

    @property
    def description(self) -> Description:
        return self.model.description

    @property
    def made(self) -> tuple[str, ...]:
        """Names of the channels that it makes."""
        return tuple(channel.name for channel in self.description.channels)

    def in_units(self, pictures: Tensor) -> Float32:
        """[-1, 1] -> the units of the model, inside pixel_range."""
        low, high = self.pixel_range
        return (low + (pictures.numpy().astype(np.float32) + 1) / 2 * (high - low)).astype(np.float32)


class Translator(_FromPictures):
    """Other channels, or finer pixels, of the slices of a volume or of a projection."""

    @property
    def channels(self) -> tuple[Channel, ...]:
        """What the model needs, in channel order."""
        return self.given.channels

    @property
    def factor(self) -> int:
        """How much finer pixels become; 1 is as they are."""
        return self.given.factor

    @cached_property
    def _chain(self) -> Compose:
        return preprocessing.chain(self.model.model_input)

    def check_domain(self, image: Volume | Projection) -> None:
        """Pass, or raise.

        Raises:
            OutOfDomain: one sentence: what the image is, what the card says, the way out.
        """
        self.description.domain.check(image, self.channels, self.identity.address)

    def slices(self, image: Volume | Projection) -> Tensor:
        """What the network is given: (slices, channels, rows, columns) in [-1, 1]."""
        tensor = torch.as_tensor(preprocessing.prepare(self._chain, to_metatensor(image))).as_subclass(Tensor)
        return tensor.transpose(0, 1) if tensor.ndim == 4 else tensor[None]

    def pictures(self, image: Volume | Projection) -> Tensor:
        """What it makes: (slices, channels, rows, columns) in [-1, 1]."""
        return torch.stack([self.network.make_from(each, source_of(0, 0)) for each in self.slices(image)])

    def translate(self, image: Volume | Projection) -> Volume | Projection:
        """The channels that it makes, (channels, [slices,] rows, columns), where the image lies.

        Finer pixels cover what the given ones did: the centre of the first lies off that of the given one.
        """
        made = self.in_units(self.pictures(image))
        if isinstance(image, Projection):
            spacing = image.spacing_mm and (image.spacing_mm[0] / self.factor, image.spacing_mm[1] / self.factor)
            return replace(image, pixels=made[0], units=self.description.units, spacing_mm=spacing)
        affine = coarse.rescaled(image.affine, 1 / self.factor)
        return replace(image, voxels=np.moveaxis(made, 1, 0), affine=affine, units=self.description.units)


class Painter(_FromPictures):
    """Pictures of masks. A code of random numbers, from seed and number, is the style of a picture."""

    @property
    def labels(self) -> tuple[str, ...]:
        """What label 1, 2, ... of a mask mean."""
        return self.description.labels[1:]

    @property
    def image_px(self) -> int:
        """Side of the squares that it makes; masks of another size are brought to it, and the picture back."""
        return int(self.model.network_definition["image_px"])

    def spacing_mm(self, rows: int, columns: int) -> tuple[float, float]:
        """(down, across) of a mask without a place, as if it showed what a training slice did."""
        down, across = self.field_mm
        return down / max(rows, columns), across / max(rows, columns)

    @property
    def field_mm(self) -> tuple[float, float]:
        """(down, across) that a square covered in training, in the median."""
        down, across = self.description.spacing_mm or (1.0, 1.0)
        return down * self.image_px, across * self.image_px

    def check_domain(self, rows: int, columns: int, spacing_mm: tuple[float, float]) -> None:
        """Pass where the mask, with what fills it up to a square, covers about what squares did in training.

        spacing_mm: (down, across). Its pixels may be of any size: they are brought to those of the network.

        Raises:
            OutOfDomain: one sentence: what the mask covers, what the card says, the way out.
        """
        least, most = domain.EXTENT
        for name, step, usual in zip(("down", "across"), spacing_mm, self.field_mm, strict=True):
            covered = step * max(rows, columns)
            if not least * usual <= covered <= most * usual:
                raise OutOfDomain(
                    f"the mask of {rows} x {columns} pixels of {step:.2f} mm covers {covered:.0f} mm {name} as a "
                    f"square; the card of {self.identity.address} says {least * usual:.0f} to {most * usual:.0f} mm; "
                    "choose another model, or force the run and have its results marked out-of-domain"
                )

    def squares(self, masks: npt.NDArray[np.uint8]) -> Tensor:
        """(slices, rows, columns) numbers -> (slices, labels, image_px, image_px) in [-1, 1], as training saw them."""
        planes = cases.planes_of(torch.from_numpy(np.ascontiguousarray(masks)), len(self.labels))
        return cases.square(planes, self.image_px)

    def pictures(self, masks: npt.NDArray[np.uint8], seed: int, codes: list[int]) -> Tensor:
        """(slices, channels, image_px, image_px) in [-1, 1]; slice i in the style of number codes[i] of the seed."""
        squares = zip(self.squares(masks), codes, strict=True)
        return torch.stack([self.network.make_from(each, source_of(seed, code)) for each, code in squares])

    def paint(self, masks: npt.NDArray[np.uint8], seed: int, codes: list[int]) -> Float32:
        """(channels, slices, rows, columns) in units, pixel for pixel on the masks.

        Detail is that of image_px: pictures of larger masks are enlarged.
        """
        rows, columns = masks.shape[1:]
        side = max(rows, columns)
        made = self.pictures(masks, seed, codes)
        if side != self.image_px:
            made = F.interpolate(made, (side, side), mode="bilinear", antialias=True, align_corners=False)
        above, left = (side - rows) // 2, (side - columns) // 2
        return np.moveaxis(self.in_units(made[..., above : above + rows, left : left + columns]), 1, 0)


def load(folder: Path) -> Translator | Painter:
    """A generator of pictures of pictures, from a version's (or a finished run's) folder.

    Raises:
        Rejected: the folder is no model, or holds one that starts from noise or predicts, or that repeats its patients.
    """
    model = version.load(folder)
    given = model.description.given
    if given is None:
        raise Rejected(f"{model.identity.address} makes no pictures of pictures; it takes no --from")
    model.require_servable()
    return Painter(model, given) if given.kind == "mask" else Translator(model, given)
