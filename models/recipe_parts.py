"""Parts that recipes of several tasks and families share. A key that is not listed is an error; names bear units."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from dicom_io.cohort import COLOURS
from models.preprocessing import INTENSITY, check_steps

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


class Settings(BaseModel):
    """Keys that are not listed here are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Schedule(Settings):
    """All counts are images, so that they mean the same at any batch size.

    report_images: between two validations with checkpoint. ema_half_life_images: of the running average that is kept.
    decay: of the learning rate after warm-up, a half cosine down to 1 %, or none at all.
    precision: "auto" takes bfloat16 where the machine has it; weights stay float32, but differ between machines.
    """

    total_images: Positive
    batch_size: Positive = 16
    report_images: Positive = 2000
    warm_up_images: Annotated[int, Field(ge=0)] = 500
    ema_half_life_images: Positive = 1000
    decay: Literal["cosine", "none"] = "cosine"
    precision: Literal["float32", "auto"] = "float32"


class PatientSchedule(Schedule):
    """patience_reports: stop when so many reports in a row bring no better validation; None goes on to the end."""

    patience_reports: Positive | None = None

    def is_over(self, images_seen: int, reports_since_best: int) -> bool:
        """All images were seen, or patience has run out."""
        impatient = self.patience_reports is not None and reports_since_best >= self.patience_reports
        return images_seen >= self.total_images or impatient


class Augmentation(Settings):
    """Drawn anew for every image. Flips only where left and right, up and down mean nothing.

    translation, scale: shares of the image size. gain: share by which values are multiplied; offset, noise: in the
    units of the network's input (after the input chain).
    """

    flip_rows: bool = False
    flip_columns: bool = False
    rotation_degrees: Annotated[float, Field(ge=0, le=180)] = 0.0
    translation: Share = 0.0
    scale: Share = 0.0
    gain: Share = 0.0
    offset: NotNegative = 0.0
    noise: NotNegative = 0.0


class Evaluation(Settings):
    """bootstrap_draws: patient-cluster resamples behind every 95 % interval."""

    bootstrap_draws: Annotated[int, Field(ge=100)] = 2000


class RecipeBase(Settings):
    """What every recipe has."""

    name: str
    seed: int = 0
    preprocessing: tuple[dict[str, Any], ...] = ()
    evaluation: Evaluation = Evaluation()

    @model_validator(mode="after")
    def _chain_is_harmless(self) -> Self:
        check_steps(self.preprocessing)
        return self


def require_grid(steps: tuple[dict[str, Any], ...], why: str) -> None:
    """Raises ValueError where a step changes the grid; why: it must not."""
    for step in steps:
        if step["_target_"] not in INTENSITY:
            raise ValueError(f"preprocessing: {step['_target_']} changes the grid; {why}")


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
    freeze: dict[str, Layers] = {}
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
    augmentation: Augmentation = Augmentation()
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
        changed = self.augmentation
        if changed.rotation_degrees or changed.translation or changed.scale:
            raise ValueError("augmentation: rotation_degrees, translation and scale are for slices; set them to 0")
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
    changed = [name for name in ("gain", "offset", "noise") if getattr(recipe.augmentation, name)]
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
