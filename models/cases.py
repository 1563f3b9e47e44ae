"""A cohort's images in memory, as the network will see them: read once, by the one way to a tensor, then the chain."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dicom_io import cohort as cohorts
from dicom_io.cohort import Cohort, Item
from dicom_io.errors import Rejected
from dicom_io.volume import Projection, Volume
from models import domain, preprocessing
from models.shelf import Shelf, as_float
from models.tensors import to_metatensor

_BLOCK = 32


@dataclass(frozen=True, eq=False)
class Case:
    """One item. image: (C, slices, rows, columns) after the chain; a projection is one slice.

    labels: (slices,) class numbers, where the task is classification, or where they were asked for.
    mask: (slices, rows, columns) class numbers, where it was asked for.
    spacing_mm: (slice, row, column) after the chain; (row, column) of a projection.
    """

    item: Item
    source: Volume | Projection
    image: Tensor
    labels: Tensor | None
    mask: Tensor | None
    spacing_mm: tuple[float, ...]

    @property
    def patient(self) -> str:
        return self.item.patient

    @property
    def slices(self) -> int:
        return self.image.shape[1]


@dataclass(frozen=True)
class Outline:
    """What is remembered of a case whose image was let go. spacing_mm: as of the case; side_px: the longer of the two
    sides of a slice after the chain; seen: of the channels that are looked at."""

    item: Item
    slices: int
    spacing_mm: tuple[float, ...]
    side_px: int
    seen: domain.Observation

    @classmethod
    def of(cls, case: Case, channels: Sequence[int] | None = None) -> Outline:
        """channels: numbers of those that are looked at, None for all."""
        seen = domain.observe(case.source)
        if channels is not None:
            seen = replace(seen, top_values=tuple(seen.top_values[number] for number in channels))
        return cls(case.item, case.slices, case.spacing_mm, max(case.image.shape[-2:]), seen)

    @property
    def patient(self) -> str:
        return self.item.patient


def load(
    cohort: Cohort,
    items: Sequence[Item],
    steps: Sequence[Mapping[str, Any]],
    *,
    masks: bool | None = None,
    labels: bool | None = None,
) -> list[Case]:
    """Read, make tensors, run the chain. Order follows `items`.

    masks, labels: read them; None does so for segmentation, and for classification, only.

    Raises:
        Rejected: an item lacks what the cohort's task needs, or its labels or mask do not fit the image.
    """
    masks = cohort.task == "segmentation" if masks is None else masks
    labels = cohort.task == "classification" if labels is None else labels
    return [*each(cohort, items, steps, masks=masks, labels=labels)]


def each(
    cohort: Cohort, items: Sequence[Item], steps: Sequence[Mapping[str, Any]], *, masks: bool, labels: bool
) -> Iterator[Case]:
    """`load`, one by one: a case that the caller lets go frees its memory before the next is read."""
    chain = preprocessing.chain(steps)
    return (_case(cohort, item, chain, masks, labels) for item in items)


def _case(cohort: Cohort, item: Item, chain: Any, masks: bool, labels: bool) -> Case:
    case = of_picture(item, cohorts.load_image(cohort, item), chain)
    return replace(
        case,
        labels=_labels(cohort, item, case.slices) if labels else None,
        mask=_mask(cohort, item, case.image) if masks else None,
    )


def of_picture(item: Item, source: Volume | Projection, chain: Any) -> Case:
    """A picture of an item after the chain, without labels and mask."""
    prepared = preprocessing.prepare(chain, to_metatensor(source))
    image = torch.as_tensor(prepared).as_subclass(Tensor).float().contiguous()
    volumetric = isinstance(source, Volume)
    axes = 3 if volumetric else 2
    if image.ndim != axes + 1:
        raise Rejected(
            f"preprocessing makes an image of {image.ndim - 1} axes of {item.images[0]}, which has {axes}; give its "
            f"steps {axes} sizes ({'-1 keeps the slices of a volume' if volumetric else 'without the -1 of slices'})"
        )
    image = image if volumetric else image[:, None]
    affine = prepared.affine.numpy()
    return Case(
        item=item,
        source=source,
        image=image,
        labels=None,
        mask=None,
        spacing_mm=tuple(np.linalg.norm(affine[:3, :axes], axis=0).tolist()),
    )


def _labels(cohort: Cohort, item: Item, slices: int) -> Tensor:
    labels = item.slice_labels or (() if item.label is None else (item.label,) * slices)
    if not labels:
        raise Rejected(
            f"cohort {cohort.name!r}: {item.images[0]} has no label; give every item a label or slice labels"
        )
    if len(labels) != slices:
        raise Rejected(f"cohort {cohort.name!r}: {item.images[0]} has {slices} slices and {len(labels)} labels")
    if max(labels) >= len(cohort.labels) or min(labels) < 0:
        raise Rejected(
            f"cohort {cohort.name!r}: {item.images[0]} has label {max(labels)} of {len(cohort.labels)} classes"
        )
    return torch.tensor(labels)


def _mask(cohort: Cohort, item: Item, image: Tensor) -> Tensor:
    if item.mask is None:
        raise Rejected(f"cohort {cohort.name!r}: {item.images[0]} has no mask; segmenters and windows need one")
    mask = cohorts.load_mask(cohort, item).voxels
    if mask.shape != tuple(image.shape[1:]):
        raise Rejected(f"cohort {cohort.name!r}: mask {item.mask} is {mask.shape}, its image {tuple(image.shape[1:])}")
    numbers = np.rint(mask).astype(np.uint8)
    if numbers.max(initial=0) >= len(cohort.labels):
        raise Rejected(f"cohort {cohort.name!r}: mask {item.mask} has class {numbers.max()} of {len(cohort.labels)}")
    return torch.from_numpy(numbers)


def one_size(cases: Sequence[Case]) -> tuple[Tensor, Tensor | None, list[str]]:
    """All slices as one batch: images (N, C, rows, columns), labels (N,), patient of each slice.

    Raises:
        Rejected: the chain left images of different sizes.
    """
    sizes = {tuple(case.image.shape[2:]) for case in cases}
    if len(sizes) > 1:
        raise Rejected(
            f"images come out of the chain in sizes {sorted(sizes)}; end `preprocessing` with Resized or "
            "ResizeWithPadOrCropd so that all have one size"
        )
    images = torch.cat([case.image.transpose(0, 1) for case in cases]).contiguous()
    labels = None if cases[0].labels is None else torch.cat([case.labels for case in cases if case.labels is not None])
    return images, labels, [case.patient for case in cases for _ in range(case.image.shape[1])]


@dataclass(frozen=True, eq=False)
class Squares:
    """Slices as generators see them, or whole volumes as cubes.

    stored: (N, planes, px, px), or (N, planes, px, px, px), in [-1, 1]: the channels of the image, then, of each label
    of the mask but the first, the share of a pixel that it covers, from -1 for nothing to 1; as float32, or as a shelf
    has them. labels: (N,), where the cases have them; patients: of each picture; mask_planes: how many of the planes
    are of the mask.
    """

    stored: Tensor
    labels: Tensor | None
    patients: tuple[str, ...]
    mask_planes: int = 0

    def __len__(self) -> int:
        return len(self.stored)

    @property
    def images(self) -> Tensor:
        """All, as float32."""
        return as_float(self.stored)

    def take(self, numbers: Tensor) -> Tensor:
        """Some of them, as float32."""
        return as_float(self.stored[numbers])

    def blocks(self) -> Iterator[Tensor]:
        """All of them, a few at a time, as float32."""
        return (as_float(block) for block in torch.split(self.stored, _BLOCK))

    @property
    def planes(self) -> int:
        return self.stored.shape[1]

    @property
    def dims(self) -> int:
        """2 for slices, 3 for volumes."""
        return self.stored.ndim - 2


def squares(
    cases: Iterable[Case],
    size_px: int,
    minimum_signal: float,
    *,
    channels: Sequence[int] = (0,),
    mask_planes: int = 0,
    only: int | None = None,
    dims: int = 2,
    shelf: Shelf | None = None,
) -> Squares:
    """Pictures of one size: padded with -1, scaled, no air. The label of a volume is the largest of its slices'. No
    case is needed after its turn.

    minimum_signal: those whose 99th percentile, in every channel, lies below this share of the range are left out.
    channels: numbers of those that are taken. mask_planes: how many labels beside the first the masks have. only: a
    class number; pictures of other classes are left out, and what is left is of no class. dims: 3 makes a cube of each
    volume. shelf: takes the pictures; None keeps them in memory.

    Raises:
        Rejected: nothing is left, or cubes are to be made of pictures that are no volumes.
    """
    images: list[Tensor] = []
    keep = images.append if shelf is None else shelf.add
    numbers: list[Tensor] = []
    patients: list[str] = []
    for case in cases:
        if dims == 3 and not isinstance(case.source, Volume):
            raise Rejected(f"spatial_dims: {case.item.images[0]} is a single picture, no volume; set it to 2")
        shown = _pictures_of(case, size_px, channels, mask_planes, dims)
        kept = shows(shown[:, : len(channels)], minimum_signal)
        labels = case.labels if case.labels is None or dims == 2 else case.labels.max()[None]
        if only is not None and labels is not None:
            kept &= labels == only
        keep(shown[kept])
        if only is None and labels is not None:
            numbers.append(labels[kept])
        patients += [case.patient] * int(kept.sum())
    if not patients:
        of = "" if only is None else " of the label that `only` names"
        raise Rejected(f"no slice{of} reaches minimum_signal {minimum_signal} of pixel_range; lower one of the two")
    stored = torch.cat(images) if shelf is None else shelf.mapped()
    return Squares(stored, torch.cat(numbers) if numbers else None, tuple(patients), mask_planes)


def shows(images: Tensor, minimum_signal: float) -> Tensor:
    """(N,) bool, of (N, channels, ...) in [-1, 1]: whether some channel shows more than air."""
    flat = images.flatten(2)
    tops = flat.kthvalue(max(1, round(0.99 * flat.shape[2])), dim=2).values.amax(1)
    return tops > -1 + 2 * minimum_signal


def _pictures_of(case: Case, size_px: int, channels: Sequence[int], drawn: int, dims: int) -> Tensor:
    """(slices, planes, px, px), or (1, planes, px, px, px). drawn: labels of the mask."""
    planes = case.image[list(channels)].transpose(0, 1)
    if drawn:
        assert case.mask is not None
        planes = torch.cat([planes, planes_of(case.mask, drawn)], 1)
    slices = square(planes, size_px)
    if dims == 2:
        return slices
    # The slices stand where rows stood, so that the same function scales along them.
    upright = slices.permute(1, 2, 0, 3)
    return _scaled(upright, size_px).transpose(1, 2)[None]


def planes_of(mask: Tensor, labels: int) -> Tensor:
    """(slices, rows, columns) -> (slices, labels, rows, columns): 1 where it has label 1, 2, ..., -1 elsewhere."""
    return torch.stack([(mask == number + 1).float() * 2 - 1 for number in range(labels)], 1)


def square(slices: Tensor, size_px: int) -> Tensor:
    """(N, planes, rows, columns), air around them where they are no squares -> (N, planes, size_px, size_px)."""
    rows, columns = slices.shape[-2:]
    side = max(rows, columns)
    above, left = (side - rows) // 2, (side - columns) // 2
    return _scaled(F.pad(slices, [left, side - columns - left, above, side - rows - above], value=-1.0), size_px)


def _scaled(pictures: Tensor, size_px: int) -> Tensor:
    return F.interpolate(pictures, (size_px, size_px), mode="bilinear", antialias=True, align_corners=False)


def square_spacing_mm(cases: Sequence[Outline], size_px: int, dims: int = 2) -> tuple[float, ...]:
    """Median (row, column) spacing after `squares`, or (slice, row, column)."""
    sides = [(case.slices, case.side_px, case.side_px)[-dims:] for case in cases]
    spacing = [np.array(case.spacing_mm[-dims:]) * side / size_px for case, side in zip(cases, sides, strict=True)]
    return tuple(round(step, 4) for step in np.median(spacing, axis=0).tolist())
