"""Random changes of a whole batch at once, image by image different.

Own code: MONAI's random transforms work on one image at a time and draw from NumPy's state, which a killed run would
have to restore. Every draw here comes from the generator that is handed in.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dicom_io.errors import Rejected
from models.augmentation_recipe import APPEARANCE, Augmentation
from models.draws import uniform
from models.training.appearance import regraded, signed

# What torch calls them.
_BEYOND = {"none": "zeros", "edge": "border", "mirror": "reflection"}


def augment(
    images: Tensor, masks: Tensor | None, settings: Augmentation, generator: torch.Generator
) -> tuple[Tensor, Tensor | None]:
    """images: (B, C, rows, columns) float; masks: (B, rows, columns) class numbers, moved with the images (nearest), or
    (B, planes, rows, columns) of several."""
    images, masks = _turned(*_flipped(images, masks, settings, generator), settings, generator)
    images, masks = _moved(images, masks, settings, generator)
    return regraded(images, settings, generator, settings.stain_range), masks


def augment_pictures(images: Tensor, settings: Augmentation, generator: torch.Generator, mask_planes: int) -> Tensor:
    """images: (B, planes, rows, columns), or of volumes, in [-1, 1], the last `mask_planes` of a mask: grey levels are
    none of its business, it only moves with the image. No signal is -1, air."""
    images, _ = _turned(*_flipped(images, None, settings, generator), settings, generator)
    images = _moved(images, None, settings, generator, outside=-1.0)[0]
    graded, drawn = images.tensor_split([images.shape[1] - mask_planes], dim=1)
    if settings.changes(APPEARANCE):
        # What a network makes has this range, and so has what it is compared with.
        graded = regraded(graded, settings, generator, (-1.0, 1.0), nothing=-1.0).clamp(-1, 1)
    return torch.cat([graded, drawn], 1)


def _flipped(
    images: Tensor, masks: Tensor | None, settings: Augmentation, generator: torch.Generator
) -> tuple[Tensor, Tensor | None]:
    for wanted, axis in ((settings.flip_rows, -2), (settings.flip_columns, -1)):
        if wanted:
            chosen = (torch.rand(len(images), generator=generator) < 0.5).to(images.device)
            images = torch.where(chosen.reshape(-1, *[1] * (images.ndim - 1)), images.flip(axis), images)
            if masks is not None:
                masks = torch.where(chosen.reshape(-1, *[1] * (masks.ndim - 1)), masks.flip(axis), masks)
    return images, masks


def _turned(
    images: Tensor, masks: Tensor | None, settings: Augmentation, generator: torch.Generator
) -> tuple[Tensor, Tensor | None]:
    """By none, one, two or three quarters."""
    if not settings.quarter_turns:
        return images, masks
    rows, columns = images.shape[-2:]
    if rows != columns:
        raise Rejected(f"augmentation.quarter_turns: images of {rows} x {columns} are no squares; set it to false")
    quarters = torch.randint(4, (len(images),), generator=generator).to(images.device)

    def turned(stack: Tensor) -> Tensor:
        several = torch.stack([torch.rot90(stack, number, (-2, -1)) for number in range(4)])
        return several[quarters, torch.arange(len(stack), device=stack.device)]

    return turned(images), None if masks is None else turned(masks)


def _moved(
    images: Tensor,
    masks: Tensor | None,
    settings: Augmentation,
    generator: torch.Generator,
    *,
    outside: float = 0.0,
) -> tuple[Tensor, Tensor | None]:
    """Rotate, shear, scale and shift about the centre. outside: no signal; in masks that is 0."""
    if not settings.changes(("rotation_degrees", "shear", "translation", "scale")):
        return images, masks
    batch, device = len(images), images.device
    angle = signed((batch,), generator, device) * math.radians(settings.rotation_degrees)
    size = 1 + settings.scale * signed((batch,), generator, device)
    shift = 2 * settings.translation * signed((batch, 2), generator, device)
    rows, columns = images.shape[-2:]
    # affine_grid counts each axis from -1 to 1, so a rotation of unequal sides needs the ratio of the sides.
    cosine, sine = torch.cos(angle) / size, torch.sin(angle) / size
    lean = settings.shear * signed((batch,), generator, device) if settings.shear else torch.zeros(batch, device=device)
    across = torch.stack([cosine, (lean * cosine - sine) * rows / columns, shift[:, 0]], 1)
    down = torch.stack([sine * columns / rows, lean * sine + cosine, shift[:, 1]], 1)
    grid = F.affine_grid(torch.stack([across, down], 1), list(images.shape), align_corners=False)
    beyond = _BEYOND[settings.outside]
    images = F.grid_sample(images - outside, grid, padding_mode=beyond, align_corners=False) + outside
    if masks is not None:
        planes = masks.reshape(batch, -1, rows, columns).float()
        numbers = F.grid_sample(planes, grid, mode="nearest", padding_mode=beyond, align_corners=False)
        masks = numbers.reshape(masks.shape).to(masks.dtype)
    return images, masks


def translate_and_cut(images: Tensor, translation: float, cutout: float, generator: torch.Generator) -> Tensor:
    """DiffAugment's "translation,cutout" (Zhao 2020), differentiable: shifts by whole pixels, blanks a square in each.

    images: (B, planes, rows, columns), or of volumes. translation, cutout: shares of the image size (1/8 and 1/2 in the
    paper). Blank is -1, air: the paper's mid-range grey suits photographs, and would draw a bright frame around a body
    on black.
    """
    batch, device, size = len(images), images.device, images.shape[2:]
    if translation:
        reach = torch.tensor([round(side * translation) for side in size])
        shift = torch.floor(uniform(batch, generator, len(size)) * (2 * reach + 1)).long() - reach
        for axis, side in enumerate(size):
            source = torch.arange(side) + shift[:, axis, None]
            images = _shifted(images, source.to(device), axis + 2)
    if cutout:
        half = torch.tensor([side * cutout / 2 for side in size])
        centre = uniform(batch, generator, len(size)) * torch.tensor(size)
        inside = torch.ones((), dtype=torch.bool, device=device)
        for axis, side in enumerate(size):
            near = (torch.arange(side) - centre[:, axis, None]).abs() < half[axis]
            inside = inside & _along(near.to(device), axis + 2, images.ndim)
        images = images.masked_fill(inside, -1.0)
    return images


def _shifted(images: Tensor, source: Tensor, axis: int) -> Tensor:
    """source: (B, side), the place along `axis` that each pixel comes from; -1 where it lies outside."""
    side = images.shape[axis]
    place = _along(source.clamp(0, side - 1), axis, images.ndim).expand(images.shape)
    inside = _along((source >= 0) & (source < side), axis, images.ndim)
    return torch.where(inside, images.gather(axis, place), -1.0)


def _along(values: Tensor, axis: int, axes: int) -> Tensor:
    """(B, side) -> (B, 1, ..., side, ..., 1), with the side at `axis`."""
    return values.reshape([len(values)] + [values.shape[1] if number == axis else 1 for number in range(1, axes)])
