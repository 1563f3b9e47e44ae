"""What every family of generators trains on, and what it leaves: slices in, a description of what it makes out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dicom_io.cohort import Channel, Cohort, Item
from dicom_io.errors import Rejected
from models import cases, domain
from models.cases import Case, Outline, Squares
from models.generation_recipe import GenerationBase
from models.shelf import Shelf
from models.training import summary
from models.version import Description

FEW_PATIENTS = 20


def input_chain(recipe: GenerationBase) -> tuple[dict[str, Any], ...]:
    """The recipe's chain, then pixel_range to [-1, 1]."""
    low, high = recipe.pixel_range
    return (
        *recipe.preprocessing,
        {
            "_target_": "ScaleIntensityRanged",
            "keys": "image",
            "a_min": low,
            "a_max": high,
            "b_min": -1.0,
            "b_max": 1.0,
            "clip": True,
        },
    )


def read(
    cohort: Cohort, split: str, recipe: GenerationBase, image_px: int, folder: Path | None = None
) -> tuple[list[Outline], Squares]:
    """What is remembered of a split's cases, and its slices as the networks see them, with labels where the recipe is
    conditional. folder: where a shelf holds them (`models.shelf`); None keeps them in memory.

    Raises:
        Rejected: the recipe is conditional and the cohort has no labels, asks for channels or masks that the cohort has
            not, channels differ in units, so that one pixel_range cannot fit them, or no slice is left.
    """
    if recipe.mask and len(cohort.labels) < 2:
        raise Rejected(f"mask: cohort {cohort.name!r} has no labels that a mask could show; set it to false")
    if recipe.conditional and not cohort.labels:
        raise Rejected(f"conditional: cohort {cohort.name!r} has no labels; set it to false, or import it with labels")
    units_of(recipe, [cohort.channels[number] for number in numbers_of(recipe.channels, cohort)])
    drawn = cohort.labels[1:] if recipe.mask else ()
    wanted = View(recipe.channels, drawn, recipe.only, recipe.conditional, recipe.spatial_dims)
    shelf = None if folder is None else Shelf(folder)
    return wanted.read(cohort, cohort.splits[split], input_chain(recipe), image_px, recipe.minimum_signal, shelf)


@dataclass(frozen=True)
class View:
    """What of a cohort's slices is looked at, in training as in evaluation.

    channels: by name, the first for None. mask_labels: that are drawn beside them. only: slices of this label.
    labelled: slices with their class numbers. dims: 3 looks at whole volumes.
    """

    channels: tuple[str, ...] | None
    mask_labels: tuple[str, ...]
    only: str | None
    labelled: bool
    dims: int = 2

    def read(
        self,
        cohort: Cohort,
        items: Sequence[Item],
        chain: Sequence[Mapping[str, Any]],
        image_px: int,
        minimum_signal: float,
        shelf: Shelf | None = None,
    ) -> tuple[list[Outline], Squares]:
        """What is remembered of the cases, and their slices of `image_px` as the networks see them. Cases are read and
        let go one by one.

        Raises:
            Rejected: the cohort has no such channel, label or mask, or no slice is left.
        """
        if self.mask_labels and self.mask_labels != cohort.labels[1:]:
            raise Rejected(
                f"masks of cohort {cohort.name!r} show {', '.join(cohort.labels[1:]) or 'nothing'}, not "
                f"{', '.join(self.mask_labels)}; take one with the same labels"
            )
        if self.only is not None and self.only not in cohort.labels:
            raise Rejected(
                f"only: cohort {cohort.name!r} has no label {self.only!r}, only {', '.join(cohort.labels) or 'none'}"
            )
        number = None if self.only is None else cohort.labels.index(self.only)
        labelled = self.labelled or number is not None
        numbers = numbers_of(self.channels, cohort)
        outlines: list[Outline] = []

        def remembered() -> Iterator[Case]:
            for case in cases.each(cohort, items, chain, masks=bool(self.mask_labels), labels=labelled):
                outlines.append(Outline.of(case, numbers))
                yield case

        squares = cases.squares(
            remembered(),
            image_px,
            minimum_signal,
            channels=numbers,
            mask_planes=len(self.mask_labels),
            only=number,
            dims=self.dims,
            shelf=shelf,
        )
        return outlines, squares


def numbers_of(names: Sequence[str] | None, cohort: Cohort) -> list[int]:
    """The cohort's channels of these names; the first for None.

    Raises:
        Rejected: the cohort has no such channel.
    """
    known = [channel.name for channel in cohort.channels]
    if names is None:
        return [0]
    for name in names:
        if name not in known:
            raise Rejected(f"channels: cohort {cohort.name!r} has no {name!r}, only {', '.join(known)}")
    return [known.index(name) for name in names]


def units_of(recipe: GenerationBase, chosen: Sequence[Channel]) -> str:
    """Of what is made; pictures are scaled by one range, so that all channels have the same.

    Raises:
        Rejected: they have not.
    """
    units = {channel.units for channel in chosen}
    if recipe.preprocessing:
        return "1"
    if len(units) > 1:
        names = ", ".join(f"{channel.name} in {channel.units}" for channel in chosen)
        raise Rejected(f"channels: {names} have no pixel_range in common; bring them onto one scale by preprocessing")
    return chosen[0].units


def few_patients(reals: Squares, names: Sequence[str]) -> list[str]:
    """A sentence for every class (or for all together) of which fewer than 20 patients have slices."""
    owners = {"": set(reals.patients)}
    if names and reals.labels is not None:
        pairs = list(zip(reals.labels.tolist(), reals.patients, strict=True))
        owners = {
            f" of {name!r}": {who for label, who in pairs if label == number} for number, name in enumerate(names)
        }
    return [
        f"{len(who)} training patients{of} are fewer than {FEW_PATIENTS}: the generator will repeat what it saw"
        for of, who in owners.items()
        if 0 < len(who) < FEW_PATIENTS
    ]


def description(
    recipe: GenerationBase,
    cohort: Cohort,
    data_hash: str,
    training: Sequence[Outline],
    owners: Sequence[str],
    image_px: int,
    images_seen: int,
    label_slices: tuple[int, ...],
) -> Description:
    """What sampling needs beside the network: range, units, spacing, what its planes are, and which labels there were
    slices of."""
    chosen = tuple(cohort.channels[number] for number in numbers_of(recipe.channels, cohort))
    return Description(
        name=recipe.name,
        task="generation",
        labels=cohort.labels,
        channels=chosen,
        domain=domain.observed([case.seen for case in training], chosen),
        saw=summary.saw(recipe, cohort, data_hash, owners, images_seen),
        pixel_range=recipe.pixel_range,
        units=units_of(recipe, chosen),
        spacing_mm=cases.square_spacing_mm(training, recipe.served_px or image_px, recipe.spatial_dims),
        minimum_signal=recipe.minimum_signal,
        audit_samples=recipe.audit_samples,
        label_slices=label_slices,
        only_label=recipe.only,
        served_px=recipe.served_px,
        mask_labels=cohort.labels[1:] if recipe.mask else (),
    )
