"""What recipes of all families of generators share: what they learn of, what they make, what they start from."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from dicom_io.cohort import COLOURS
from models.augmentation_recipe import APPEARANCE, Augmentation, Augmentations
from models.recipe_parts import PatientSchedule, RecipeBase, Settings, Share, require_grid


def _layers(asked: Any) -> int | tuple[str, ...]:
    if isinstance(asked, int) and not isinstance(asked, bool) and asked > 0:
        return asked
    if isinstance(asked, list | tuple) and asked and all(isinstance(name, str) for name in asked):
        return tuple(asked)
    raise ValueError("give a number of layers above 0, or a list of their names")


Layers = Annotated[int | tuple[str, ...], BeforeValidator(_layers)]


class Transfer(Settings):
    """What a training takes of the model that it starts from (`mirall train --start-from`), and what of it stays.

    A family's parts are generator and critic, of masks with style, decoder and encoder, the denoiser, with the
    autoencoder of its latents, or there, back and critics.
    fresh: parts that begin anew all the same. freeze: of a part, how many layers from its input on
    (`critic: 3` is Freeze-D, Mo 2020), or their names; a wrong name is answered with those that there are.
    frozen_share: of the training; then all layers train.
    """

    fresh: tuple[str, ...] = ()
    freeze: dict[str, Layers] = Field(default_factory=dict)
    frozen_share: Annotated[float, Field(gt=0, le=1)] = 1.0

    @model_validator(mode="after")
    def _is_there_to_freeze(self) -> Self:
        both = sorted({*self.fresh} & {*self.freeze})
        if both:
            raise ValueError(f"fresh and freeze: {both[0]} cannot begin anew and stay as it was")
        if self.frozen_share != 1 and not self.freeze:
            raise ValueError("frozen_share: nothing is frozen; name layers in freeze, or leave it out")
        return self


class GenerationBase(RecipeBase):
    """What every family of generators has: slices of the cohort, after `preprocessing`, scaled from pixel_range to
    [-1, 1].

    channels: names of the cohort's channels that one picture has, such as [T1, FLAIR] or [red, green, blue]; None takes
    the first. mask: the labels that are drawn on the slices are made with them, a plane for each.
    only: a label; slices of others are left out, so that this is the generator of one class. served_px: samples are
    brought to this size, by the mean of the area of a pixel; None leaves them as the network makes them.

    spatial_dims: 3 makes volumes, cubes of image_px, of the cohort's volumes; 2 makes slices.
    pixel_range: in the units that the chain leaves; values outside are clipped and samples come back inside it.
    minimum_signal: slices whose 99th percentile lies below this share of the range are left out (air).
    conditional: one generator for all labels of the cohort (of slices, or of items), and batches balanced over them.
    report_samples: how many samples (of each class at least 16) a report compares with unseen patients. audit_samples:
    how many the evaluation of a release draws. alarms: whether a run that fails stops or goes on
    with a warning. transfer: of a training that starts from another model; None takes all and freezes nothing.
    """

    task: Literal["generation"]
    spatial_dims: Literal[2, 3] = 2
    channels: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    mask: bool = False
    only: str | None = None
    served_px: Annotated[int, Field(ge=8)] | None = None
    conditional: bool = False
    augmentation: Augmentations = Augmentation()
    schedule: PatientSchedule
    pixel_range: tuple[float, float]
    minimum_signal: Share = 0.02
    report_samples: Annotated[int, Field(ge=16)] = 256
    audit_samples: Annotated[int, Field(ge=16)] = 256
    alarms: Literal["stop", "warn"] = "stop"
    transfer: Transfer | None = None

    @model_validator(mode="after")
    def _pictures_can_be_written(self) -> Self:
        if self.pixel_range[0] >= self.pixel_range[1]:
            raise ValueError(f"pixel_range: {self.pixel_range[0]} is not below {self.pixel_range[1]}")
        if self.channels and len(set(self.channels)) < len(self.channels):
            raise ValueError(f"channels: {', '.join(self.channels)} names one twice")
        if self.spatial_dims == 3:
            self._require_of_slices()
        if self.only is not None and self.conditional:
            raise ValueError(f"only: {self.only!r} alone leaves nothing to be conditional on; set one of the two")
        if self.mask and self.channels == COLOURS:
            raise ValueError("mask: masks of colour pictures are not written; set it to false, or take one channel")
        return self

    def _require_of_slices(self) -> None:
        """What is made for slices alone, and asked for."""
        changed = self.augmentation.in_plane
        if changed:
            raise ValueError(f"augmentation.{changed[0]} is for slices; set it to 0, or spatial_dims to 2")
        if self.served_px is not None:
            raise ValueError("served_px: volumes are served as they are made; leave it out")
        if self.channels == COLOURS:
            raise ValueError("channels: volumes are not made in colour; set spatial_dims to 2")


def require_apart(source: tuple[str, ...], channels: tuple[str, ...] | None) -> None:
    """Raises ValueError where a channel is given twice, or is given and made."""
    for number, name in enumerate(source):
        if name in source[:number] or name in (channels or ()):
            raise ValueError(f"source: {name!r} is named twice, or in channels, too; name each channel once")


def require_given(recipe: GenerationBase, *, grey_levels: bool) -> None:
    """Raises ValueError where a recipe that makes pictures of given ones asks for what only noise can give.

    grey_levels: whether those of what is given may be changed; masks have none.
    """
    changed = recipe.augmentation.changes(APPEARANCE)
    if changed and not grey_levels:
        raise ValueError(f"augmentation.{changed[0]} changes grey levels of given channels; set it to 0")
    if recipe.mask:
        raise ValueError("mask: masks are given here (source: mask), not made; set it to false")
    if recipe.conditional or recipe.only is not None:
        raise ValueError("conditional, only: what is given says what to make; leave both out")
    if recipe.served_px is not None:
        raise ValueError("served_px: pictures come in the size of what is given; leave it out")
    if recipe.spatial_dims == 3:
        raise ValueError("spatial_dims: pictures of pictures are slices; set it to 2")
    require_grid(recipe.preprocessing, "pictures lie where what is given does")
