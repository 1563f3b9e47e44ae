"""Slices in pairs, what is given and what is to be made of it, each read by the one way to a tensor and its own chain.

Channels are read apart, so that no statistics of the truth (percentiles, mean) come into what is given: serving has
nothing else. Slices keep the cohort's own pixels, filled up with air to one size; those with a mask become squares, as
all pictures from noise do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dicom_io.cohort import Channel, Cohort
from dicom_io.errors import Rejected
from models import cases, coarse, domain, preprocessing
from models.augmentation_recipe import Augmentation
from models.cases import Case, Outline, Squares
from models.diffusion_recipe import DiffusionRecipe
from models.evaluation.agreement import coarsened
from models.paired_recipe import PairedRecipe, TranslatorSettings
from models.training import pictures
from models.training.augmentation import augment_pictures
from models.unpaired_recipe import UnpairedRecipe
from models.version import Given

Recipe = PairedRecipe | UnpairedRecipe | DiffusionRecipe


@dataclass(frozen=True, eq=False, kw_only=True)
class Couples(Squares):
    """Both of each slice, in [-1, 1].

    stored: (N, planes, rows, columns), what is to be made; given: (N, its planes, rows, columns), with a factor so many
    times fewer rows and columns. boxes: (N, 4), first row, last row, first column, last column of what is no air.
    """

    given: Tensor
    boxes: Tensor
    factor: int = 1

    def draw(
        self, count: int, window_px: int | None, changes: Augmentation, source: torch.Generator, on: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Given and wanted, moved alike; grey levels of what is given alone are changed.

        window_px: of windows around random places that are no air; None takes whole slices.
        """
        chosen = torch.randint(len(self), (count,), generator=source)
        coarse, planes = self.factor > 1, self.given.shape[1]
        pairs = self.images[chosen] if coarse else torch.cat([self.given[chosen], self.images[chosen]], 1)
        if window_px is not None:
            pairs = _windows(pairs, self.boxes[chosen], window_px, source)
        kept = pairs.shape[1] - (0 if coarse else planes)
        pairs = augment_pictures(pairs.to(on), changes, source, mask_planes=kept)
        return (coarsened(pairs, self.factor), pairs) if coarse else (pairs[:, :planes], pairs[:, planes:])


def halves(couples: Couples) -> tuple[Couples, Couples]:
    """The slices of every second patient, and those of the others: no patient is in both.

    Raises:
        Rejected: there is only one patient.
    """
    names = sorted(set(couples.patients))
    if len(names) < 2:
        raise Rejected("unpaired: the one training patient cannot be parted; it takes two or more")
    first = torch.tensor([patient in names[::2] for patient in couples.patients])
    one, other = (
        replace(
            couples,
            stored=couples.stored[part],
            given=couples.given[part],
            boxes=couples.boxes[part],
            patients=tuple(patient for patient, taken in zip(couples.patients, part.tolist(), strict=True) if taken),
        )
        for part in (first, ~first)
    )
    return one, other


def _windows(pictures: Tensor, boxes: Tensor, px: int, source: torch.Generator) -> Tensor:
    """One of each picture, inside it; the centre lies in the picture's box."""
    first, last = boxes[:, ::2], boxes[:, 1::2]
    centres = first + torch.rand((len(pictures), 2), generator=source) * (last - first)
    most = torch.tensor(pictures.shape[-2:]) - px
    corners = (centres.round().long() - px // 2).clamp(min=0).minimum(most).tolist()
    return torch.stack(
        [each[:, row : row + px, column : column + px] for each, (row, column) in zip(pictures, corners, strict=True)]
    )


def read(cohort: Cohort, split: str, recipe: Recipe, image_px: int) -> tuple[list[Outline], Couples]:
    """What is remembered of a split's cases of what is given (where that is a mask: of what is made), and its slices in
    pairs.

    Raises:
        Rejected: the cohort lacks a channel or masks, or no slice is left.
    """
    given_names, made_names = channels_of(cohort, recipe)
    pictures.units_of(recipe, (*made_names, *given_names))
    if not isinstance(recipe.network, TranslatorSettings):
        return _with_masks(cohort, split, recipe, image_px)
    wanted = load(cohort, split, recipe, made_names)
    factor = recipe.factor or 1
    if factor > 1:
        both = [_coarse(case, recipe, factor) for case in wanted]
        given, wanted = [wide for wide, _ in both], [fine for _, fine in both]
    else:
        given = load(cohort, split, recipe, given_names)
    step = 2 ** (len(recipe.network.channels) - 1) * factor
    sizes = torch.tensor([[image_px, image_px], *(list(case.image.shape[-2:]) for case in wanted)])
    rows, columns = (size + -size % step for size in sizes.amax(0).tolist())
    images = torch.cat([_filled(case, rows, columns) for case in wanted])
    sources = torch.cat([_filled(case, rows // factor, columns // factor) for case in given])
    kept = cases.shows(images, recipe.minimum_signal)
    if not kept.any():
        raise Rejected(f"no slice reaches minimum_signal {recipe.minimum_signal} of pixel_range; lower one of the two")
    images = images[kept].contiguous()
    owners = [case.patient for case in wanted for _ in range(case.image.shape[1])]
    outlines = [replace(Outline.of(case), spacing_mm=made.spacing_mm) for case, made in zip(given, wanted, strict=True)]
    return outlines, Couples(
        stored=images,
        labels=None,
        patients=tuple(owner for owner, keep in zip(owners, kept.tolist(), strict=True) if keep),
        given=sources[kept].contiguous(),
        boxes=_boxes(images, recipe.minimum_signal),
        factor=factor,
    )


def _coarse(case: Case, recipe: Recipe, factor: int) -> tuple[Case, Case]:
    """The case with wider pixels, by the way that serving goes, and itself on the same scale."""
    wide = coarse.coarser(case.source, factor)
    given = cases.of_picture(case.item, wide, preprocessing.chain(pictures.input_chain(recipe)))
    return given, replace(case, image=coarse.on_scale_of(given.image, wide, case.source, factor))


def _with_masks(cohort: Cohort, split: str, recipe: Recipe, image_px: int) -> tuple[list[Outline], Couples]:
    labels = len(cohort.labels) - 1
    if labels < 1:
        raise Rejected(f"source: cohort {cohort.name!r} has no labels that a mask could show; give channels instead")
    found = load(cohort, split, recipe, channels_of(cohort, recipe)[1], masks=True)
    channels = range(len(found[0].image))
    squares = cases.squares(found, image_px, recipe.minimum_signal, channels=channels, mask_planes=labels)
    images, given = squares.images[:, :-labels].contiguous(), squares.images[:, -labels:].contiguous()
    boxes = _boxes(images, recipe.minimum_signal)
    return [*map(Outline.of, found)], Couples(
        stored=images, labels=None, patients=squares.patients, given=given, boxes=boxes
    )


def channels_of(cohort: Cohort, recipe: Recipe) -> tuple[tuple[Channel, ...], tuple[Channel, ...]]:
    """What is given (nothing where that is a mask), and what is made.

    Raises:
        Rejected: the cohort has no such channel, or one is given and made.
    """
    made = tuple(cohort.channels[number] for number in pictures.numbers_of(recipe.channels, cohort))
    if isinstance(recipe.source, str):
        return (made if recipe.source == "coarse" else ()), made
    given = tuple(cohort.channels[number] for number in pictures.numbers_of(recipe.source, cohort))
    for channel in given:
        if channel in made:
            raise Rejected(f"source: {channel.name!r} is what is made, too; name another in source or in channels")
    return given, made


def load(cohort: Cohort, split: str, recipe: Recipe, channels: Sequence[Channel], *, masks: bool = False) -> list[Case]:
    """A split's cases with these channels alone, in [-1, 1]."""
    shown = view(cohort, channels)
    return cases.load(shown, shown.splits[split], pictures.input_chain(recipe), masks=masks, labels=False)


def view(cohort: Cohort, channels: Sequence[Channel]) -> Cohort:
    """The cohort as if it had these channels alone, in this order.

    Raises:
        Rejected: its pictures are in colour, all channels of one in a file.
    """
    if any(len(item.images) < len(cohort.channels) for items in cohort.splits.values() for item in items):
        raise Rejected(
            f"channels: pictures of cohort {cohort.name!r} hold several channels in one file, and pictures of pictures "
            "take each by itself; take a cohort with a file for each channel"
        )
    numbers = [cohort.channels.index(channel) for channel in channels]
    splits = {
        split: tuple(replace(item, images=tuple(item.images[number] for number in numbers)) for item in items)
        for split, items in cohort.splits.items()
    }
    return replace(cohort, channels=tuple(channels), splits=splits)


def _filled(case: Case, rows: int, columns: int) -> Tensor:
    """(slices, channels, rows, columns), with air below and to the right."""
    slices = case.image.transpose(0, 1)
    return F.pad(slices, [0, columns - slices.shape[-1], 0, rows - slices.shape[-2]], value=-1.0)


def _boxes(images: Tensor, minimum_signal: float) -> Tensor:
    """(N, 4) float: of the pixels that reach minimum_signal in any plane; the whole slice where none does."""
    lit = (images > -1 + 2 * minimum_signal).any(1)
    found = []
    for axis in (2, 1):
        line = lit.any(axis)
        line = line | ~line.any(1, keepdim=True)
        found += [line.int().argmax(1), line.shape[1] - 1 - line.flip(1).int().argmax(1)]
    return torch.stack(found, 1).float()


def described(cohort: Cohort, recipe: Recipe, training: Sequence[Outline]) -> dict[str, Any]:
    """What a version says otherwise than of pictures of noise: what is given, and where that holds.

    training: cases of what is given (of a mask: of what is made).
    """
    given, made = channels_of(cohort, recipe)
    kind: Any = recipe.source if isinstance(recipe.source, str) else "channels"
    said: dict[str, Any] = {"given": Given(kind=kind, channels=given, factor=recipe.factor or 1)}
    said["domain"] = domain.observed([case.seen for case in training], given or made)
    if recipe.source != "mask":
        down, across = np.median([case.spacing_mm[-2:] for case in training], axis=0).tolist()
        said["spacing_mm"] = round(down, 4), round(across, 4)
    return said
