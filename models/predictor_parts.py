"""Parts that recipes of classifiers and of segmenters share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from models.recipe_parts import NotNegative, Positive, Rate, Settings, Share


class Optimiser(Settings):
    """AdamW. learning_rate: at its peak, after warm-up. weight_decay: per step, decoupled."""

    learning_rate: Rate = 1e-3
    weight_decay: NotNegative = 1e-2


class Norm(Settings):
    """batch keeps absolute intensity (SUV!); instance and group normalise it away image by image."""

    norm: Literal["batch", "instance", "group"] = "batch"


class Shares(Settings):
    """How windows are drawn and laid, whatever their size.

    foreground_share: share of windows that must hold a foreground pixel (anywhere in the window). border_share: share
    in which a strip at a random side is blanked, so that the edge of a cropped image tells nothing about the lesion.
    overlap: of neighbouring windows when serving.
    """

    foreground_share: Share = 0.5
    border_share: Share = 0.0
    overlap: Annotated[float, Field(ge=0, lt=1)] = 0.5


class Windows(Shares):
    """What the network is shown: random in-plane windows of one size, so that the place in the image is hidden."""

    window_px: Positive = 96
