"""The recipe of a translator that is learned without pairs (CycleGAN: Zhu 2017): two sets of pictures, and no slice of
which both are shown. Defaults are the paper's, in sizes that a CPU trains."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from models.generation_recipe import GenerationBase, require_apart
from models.networks.patch_critic import smallest_px
from models.paired_recipe import CriticSettings, PairedOptimiser, TranslatorSettings
from models.recipe_parts import NotNegative, Positive, Rate, Settings, require_grid


class UnpairedLoss(Settings):
    """Weights of what the two generators are told.

    adversarial: of the critics' verdicts, by the loss `kind`. cycle: of the mean absolute difference between a picture
    and itself, there and back. identity: of the same between a picture and what is made of it by the generator that
    makes its own kind (section 5.2).
    """

    kind: Literal["least-squares", "hinge"] = "least-squares"
    adversarial: Rate = 1.0
    cycle: NotNegative = 10.0
    identity: NotNegative = 5.0


class UnpairedRecipe(GenerationBase):
    """Given picture -> picture. source: names of the channels that are given; channels: what is made.

    The training patients are parted: of one half only the given channels are shown, of the other only those that are
    made. pool_images: made pictures that the critics are shown again (Shrivastava 2017). report_samples: as for paired
    ones.
    """

    family: Literal["unpaired"]
    source: Annotated[tuple[str, ...], Field(min_length=1)]
    network: TranslatorSettings
    critic: CriticSettings = CriticSettings()
    loss: UnpairedLoss = UnpairedLoss()
    optimiser: PairedOptimiser = PairedOptimiser()
    pool_images: Positive = 50
    report_samples: Annotated[int, Field(ge=16)] = 128

    @property
    def factor(self) -> None:
        """Pixels stay as they are."""

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.loss.identity and len(self.source) != len(self.channels or ("first",)):
            raise ValueError("loss.identity: what is given and what is made differ in number of channels; set it to 0")
        require_apart(self.source, self.channels)
        if self.conditional or self.only is not None or self.mask or self.served_px is not None:
            raise ValueError("conditional, only, mask, served_px: are of pictures of noise; leave them out")
        if self.spatial_dims == 3:
            raise ValueError("spatial_dims: pictures of pictures are slices; set it to 2")
        require_grid(self.preprocessing, "pictures lie where what is given does")
        step = 2 ** (len(self.network.channels) - 1)
        if self.network.window_px % step:
            raise ValueError(f"network.window_px: {self.network.window_px} is no multiple of {step} (channels)")
        least = smallest_px(self.critic.layers, self.critic.scales)
        if self.network.window_px < least:
            raise ValueError(f"critic: {self.critic.layers} layers and {self.critic.scales} scales need {least} pixels")
        return self
