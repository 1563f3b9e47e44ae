"""The recipe of a segmenter: network, loss, optimiser, windows, schedule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from models.augmentation_recipe import Augmentation, of_preset
from models.predictor_parts import Norm, Optimiser, Shares
from models.recipe_parts import Evaluation, NotNegative, Positive, RecipeBase, Schedule, Settings, Share, require_grid

# One for each level or step, along (slice,) row and column.
Steps = tuple[tuple[Positive, ...], ...]
# As nnU-Net has them: features of the first level, and the most that a level has, by the number of axes.
BASE_FEATURES = 32
MOST_FEATURES = {2: 512, 3: 320}


class UNet(Norm):
    """MONAI UNet. channels: per level, each level halves the image.

    strides: of volumes, what each level but the first divides (slices, rows, columns) by; None halves rows and columns
    always, and slices where they lie less than two pixels apart (`models.networks.topology`).
    """

    kind: Literal["unet"] = "unet"
    channels: Annotated[tuple[Positive, ...], Field(min_length=2)] = (16, 32, 64, 128)
    residual_units: Annotated[int, Field(ge=0)] = 1
    dropout: Share = 0.0
    strides: Steps | None = None


class WmhUNet(Settings):
    """The net that won the white-matter challenge of 2017 (`models.networks.plain_unet`); a CPU wants half of it."""

    kind: Literal["wmh-unet"]
    channels: Annotated[tuple[Positive, ...], Field(min_length=2)] = (64, 96, 128, 256, 512)
    norm: Literal["none", "batch", "instance", "group"] = "none"
    first_kernel_px: Literal[3, 5, 7] = 5


class DynUNet(Settings):
    """MONAI DynUNet, the network of nnU-Net (Isensee 2021): planned from the training images, or as it says here.

    strides, kernels: of each level, the first with strides of 1; both or neither, None plans them
    (`models.networks.topology`). channels: of each level; None doubles base_features (None: 32) from level to level up
    to 320 of volumes, 512 of slices. deep_supervision: in training, the decoder's lower levels answer, too.
    feature_values: where the windows are planned, too, how many values the feature maps of one may have; nnU-Net's
    first version takes 520 million of volumes and 20 million of slices, for a GPU of 11 GB.
    """

    kind: Literal["dynunet"]
    strides: Steps | None = None
    kernels: Steps | None = None
    channels: Annotated[tuple[Positive, ...], Field(min_length=3)] | None = None
    base_features: Positive | None = None
    norm: Literal["batch", "instance", "group"] = "instance"
    dropout: Share = 0.0
    deep_supervision: bool = True
    feature_values: Positive | None = None

    @model_validator(mode="after")
    def _is_said_once(self) -> Self:
        if (self.strides is None) != (self.kernels is None):
            raise ValueError("strides, kernels: one is planned with the other; give both or neither")
        if self.strides is not None and self.kernels is not None:
            if len(self.strides) != len(self.kernels) or len(self.strides) < 3:
                raise ValueError("strides, kernels: give as many of both, for three levels or more")
            if any(step != 1 for step in self.strides[0]):
                raise ValueError(f"strides: the first level is as fine as the image; {list(self.strides[0])} is not")
            if any(size % 2 == 0 for kernel in self.kernels for size in kernel):
                raise ValueError("kernels: an even one shifts the mask by half a pixel; give odd ones")
            if self.channels is not None and len(self.channels) != len(self.strides):
                raise ValueError(f"channels: {len(self.channels)} for {len(self.strides)} levels; give one for each")
        if self.channels is not None and self.base_features is not None:
            raise ValueError("channels, base_features: give one of the two")
        return self

    def features(self, levels: int, dims: int) -> tuple[int, ...]:
        """Channels of so many levels."""
        first = self.base_features or BASE_FEATURES
        return self.channels or tuple(min(first * 2**level, MOST_FEATURES[dims]) for level in range(levels))


def _network_kind(value: Any) -> Any:
    """The kind that is named; recipes from before there was a choice name none."""
    return value.get("kind", "unet") if isinstance(value, dict) else getattr(value, "kind", None)


Networks = Annotated[
    Annotated[UNet, Tag("unet")] | Annotated[WmhUNet, Tag("wmh-unet")] | Annotated[DynUNet, Tag("dynunet")],
    Discriminator(
        _network_kind, custom_error_type="kind", custom_error_message="it is none of unet, wmh-unet, dynunet"
    ),
]


class DiceCrossEntropy(Settings):
    """Weights of the two terms of MONAI's DiceCELoss; Dice is pooled over the batch, so empty slices stay finite."""

    dice: NotNegative = 1.0
    cross_entropy: NotNegative = 1.0


class SegmentationEvaluation(Evaluation):
    """surface_tolerance_mm: how far surfaces may lie apart and still count as one; choose what readers differ by."""

    surface_tolerance_mm: Annotated[float, Field(gt=0)] = 2.0


class SegmentationOptimiser(Optimiser):
    """AdamW, or stochastic gradient descent with Nesterov momentum, where weight_decay is of the plain kind.

    momentum: of sgd; None is 0.99, as nnU-Net has it, with a rate of 0.01 and a weight_decay of 0.00003.
    """

    kind: Literal["adamw", "sgd"] = "adamw"
    momentum: Annotated[float, Field(gt=0, lt=1)] | None = None

    @model_validator(mode="after")
    def _has_momentum(self) -> Self:
        if self.kind == "adamw" and self.momentum is not None:
            raise ValueError("momentum is of sgd; leave it out, or set kind to sgd")
        return self


class SegmentationAugmentation(Augmentation):
    """Of volumes, the slices of a box turn, grow and shift alike, and have one bias field. flip_slices: of volumes."""

    flip_slices: bool = False


class SegmentationWindows(Shares):
    """Random windows of one size: of slices squares, of volumes boxes of window_slices slices.

    None is planned with a dynunet, by its `feature_values`: window_px of both, window_slices of volumes.
    """

    window_px: Positive | None = 96
    window_slices: Positive | None = None


class SegmentationRecipe(RecipeBase):
    """Volumes -> mask, one window at a time: of single slices, or boxes of them (spatial_dims: 3)."""

    task: Literal["segmentation"]
    spatial_dims: Literal[2, 3] = 2
    network: Networks = UNet()
    loss: DiceCrossEntropy = DiceCrossEntropy()
    optimiser: SegmentationOptimiser = SegmentationOptimiser()
    augmentation: Annotated[SegmentationAugmentation, BeforeValidator(of_preset)] = SegmentationAugmentation()
    windows: SegmentationWindows = SegmentationWindows()
    schedule: Schedule
    evaluation: SegmentationEvaluation = SegmentationEvaluation()

    @property
    def window(self) -> tuple[int, ...] | None:
        """((slices,) px, px) of a window; None where it is still to be planned."""
        slices, px = self.windows.window_slices, self.windows.window_px
        if px is None or (self.spatial_dims == 3 and slices is None):
            return None
        return (px, px) if slices is None else (slices, px, px)

    @model_validator(mode="after")
    def _grid_is_kept(self) -> Self:
        require_grid(self.preprocessing, "a segmenter must keep it")
        if self.spatial_dims == 2:
            self._require_of_slices()
        else:
            self._require_of_volumes()
        self._require_windows()
        for name in ("strides", "kernels"):
            for step in getattr(self.network, name, None) or ():
                if len(step) != self.spatial_dims:
                    raise ValueError(f"network.{name}: {list(step)} is not of {self.spatial_dims} axes")
        if self.window is not None:
            require_multiples(self.window, _factors(self.network, self.spatial_dims))
        return self

    def _require_of_slices(self) -> None:
        """What is made for volumes alone, and asked for."""
        if self.windows.window_slices is not None:
            raise ValueError("windows.window_slices is of volumes; leave it out, or set spatial_dims to 3")
        if self.augmentation.flip_slices:
            raise ValueError("augmentation.flip_slices is of volumes; set it to false, or spatial_dims to 3")
        if isinstance(self.network, UNet) and self.network.strides is not None:
            raise ValueError("network.strides: slices are halved by all levels; leave it out, or set spatial_dims to 3")

    def _require_of_volumes(self) -> None:
        if self.augmentation.stain:
            raise ValueError("augmentation.stain is of slices in colour; set it to 0, or spatial_dims to 2")
        if isinstance(self.network, WmhUNet):
            raise ValueError("network.kind: wmh-unet is of slices; set spatial_dims to 2, or take unet or dynunet")
        strides = self.network.strides
        if isinstance(self.network, UNet) and strides is not None and len(strides) != len(self.network.channels) - 1:
            raise ValueError(
                f"network.strides: {len(strides)} for {len(self.network.channels)} levels; give one less than channels"
            )

    def _require_windows(self) -> None:
        planned = self.window is None
        if not isinstance(self.network, DynUNet):
            if planned:
                raise ValueError(f"windows: only a dynunet's are planned; give {self._named()}")
            return
        if planned and self.network.feature_values is None:
            raise ValueError(f"windows: give {self._named()}, or network.feature_values to have windows planned")
        if planned and (self.windows.window_px is not None or self.windows.window_slices is not None):
            raise ValueError(f"windows: {self._named()} are planned together; set both to null, or give both")
        if planned and (self.network.strides or self.network.channels):
            raise ValueError("network.strides, kernels, channels are of windows of one size; give the windows, too")
        if not planned and self.network.feature_values is not None:
            raise ValueError("network.feature_values: the windows are given; set window_px to null, or leave it out")

    def _named(self) -> str:
        return "window_px" if self.spatial_dims == 2 else "window_px and window_slices"


def _factors(network: UNet | WmhUNet | DynUNet, dims: int) -> tuple[int, ...]:
    """What windows must be multiples of, as far as the recipe tells."""
    if isinstance(network, UNet) and dims == 3 and network.strides is None:
        return (1, *[2 ** (len(network.channels) - 1)] * 2)
    if isinstance(network, UNet | WmhUNet) and getattr(network, "strides", None) is None:
        return (2 ** (len(network.channels) - 1),) * dims
    strides = network.strides if isinstance(network, UNet | DynUNet) else None
    return tuple(math.prod(steps) for steps in zip(*strides, strict=True)) if strides else (1,) * dims


def require_multiples(window: Sequence[int], factors: Sequence[int]) -> None:
    """Raises ValueError where a window cannot be halved as often as the network does."""
    names = ("window_slices", "window_px", "window_px")[-len(window) :]
    for name, size, factor in zip(names, window, factors, strict=True):
        if size % factor:
            raise ValueError(f"windows.{name}: {size} is no multiple of {factor} (network.channels or strides)")
