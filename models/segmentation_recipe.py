"""The recipe of a segmenter: network, loss, optimiser, windows, schedule."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from models.augmentation_recipe import Augmentation, Augmentations
from models.predictor_parts import Norm, Optimiser, Windows
from models.recipe_parts import Evaluation, NotNegative, Positive, RecipeBase, Schedule, Settings, Share, require_grid


class UNet(Norm):
    """MONAI UNet, two-dimensional. channels: per level, each level halves the image."""

    kind: Literal["unet"] = "unet"
    channels: Annotated[tuple[Positive, ...], Field(min_length=2)] = (16, 32, 64, 128)
    residual_units: Annotated[int, Field(ge=0)] = 1
    dropout: Share = 0.0


class WmhUNet(Settings):
    """The net that won the white-matter challenge of 2017 (`models.networks.plain_unet`); a CPU wants half of it."""

    kind: Literal["wmh-unet"]
    channels: Annotated[tuple[Positive, ...], Field(min_length=2)] = (64, 96, 128, 256, 512)
    norm: Literal["none", "batch", "instance", "group"] = "none"
    first_kernel_px: Literal[3, 5, 7] = 5


def _network_kind(value: Any) -> Any:
    """The kind that is named; recipes from before there was a choice name none."""
    return value.get("kind", "unet") if isinstance(value, dict) else getattr(value, "kind", None)


Networks = Annotated[
    Annotated[UNet, Tag("unet")] | Annotated[WmhUNet, Tag("wmh-unet")],
    Discriminator(_network_kind, custom_error_type="kind", custom_error_message="it is none of unet, wmh-unet"),
]


class DiceCrossEntropy(Settings):
    """Weights of the two terms of MONAI's DiceCELoss; Dice is pooled over the batch, so empty slices stay finite."""

    dice: NotNegative = 1.0
    cross_entropy: NotNegative = 1.0


class SegmentationEvaluation(Evaluation):
    """surface_tolerance_mm: how far surfaces may lie apart and still count as one; choose what readers differ by."""

    surface_tolerance_mm: Annotated[float, Field(gt=0)] = 2.0


class SegmentationRecipe(RecipeBase):
    """Slices of a volume -> mask, one window at a time."""

    task: Literal["segmentation"]
    network: Networks = UNet()
    loss: DiceCrossEntropy = DiceCrossEntropy()
    optimiser: Optimiser = Optimiser()
    augmentation: Augmentations = Augmentation()
    windows: Windows = Windows()
    schedule: Schedule
    evaluation: SegmentationEvaluation = SegmentationEvaluation()

    @model_validator(mode="after")
    def _grid_is_kept(self) -> Self:
        require_grid(self.preprocessing, "a segmenter must keep it")
        smallest = 2 ** (len(self.network.channels) - 1)
        if self.windows.window_px % smallest:
            raise ValueError(
                f"windows.window_px: {self.windows.window_px} is no multiple of {smallest} (network.channels)"
            )
        return self
