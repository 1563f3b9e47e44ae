"""The recipe of a generator that makes pictures of pictures: mask -> image, channel -> channel, coarse -> fine pixels.

Defaults are those of SPADE (Park 2019) for masks and of pix2pix (Isola 2017) elsewhere, where they give any, in sizes
that a CPU trains. Which choices exclude each other is checked here; every message begins with the key.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from models.adversarial_recipe import NormName
from models.generation_recipe import GenerationBase, require_apart, require_given
from models.networks.patch_critic import smallest_px
from models.recipe_parts import NotNegative, Positive, Rate, Settings, Share


class SpadeSettings(Settings):
    """`models.networks.spade`. features: channels at full size. hidden: channels between a mask and a norm's gain.

    latent: numbers of the code; each draw of it is another picture of the same mask.
    """

    kind: Literal["spade"] = "spade"
    image_px: Annotated[int, Field(ge=16)] = 64
    features: Annotated[int, Field(ge=4)] = 16
    hidden: Positive = 32
    latent: Positive = 32

    @field_validator("image_px")
    @classmethod
    def _power_of_two(cls, value: int) -> int:
        if value & (value - 1):
            raise ValueError(f"{value} is no power of two")
        return value


class TranslatorSettings(Settings):
    """`models.networks.translator`.

    window_px: side of the windows that it is trained on, of the cohort's own pixels (of the fine ones, where pixels
    become finer); serving takes whole slices. channels: per level, each halves the image. norm: "none" for finer pixels
    keeps sharpness; the others as for segmenters.
    """

    kind: Literal["translator"]
    window_px: Annotated[int, Field(ge=16)] = 64
    channels: Annotated[tuple[Positive, ...], Field(min_length=2)] = (32, 64, 96)
    residual_blocks: Positive = 1
    norm: NormName = "batch"

    @property
    def image_px(self) -> int:
        return self.window_px


class CriticSettings(Settings):
    """`models.networks.patch_critic`. No spectral norm, no penalty: the truth beside every picture restrains it."""

    features: Positive = 32
    layers: Annotated[int, Field(ge=1, le=4)] = 2
    scales: Annotated[int, Field(ge=1, le=3)] = 1


class PairedLoss(Settings):
    """Weights of what the generator is told.

    adversarial: of the critic's verdict, by the loss `kind`; 0 trains without a critic. absolute_error: of the mean
    absolute difference to the truth, in [-1, 1]. feature_matching: of the same between the critic's maps (Wang 2018).
    code: of the divergence of codes from N(0, 1), in nats a picture (spade alone).
    """

    kind: Literal["least-squares", "hinge"] = "least-squares"
    adversarial: NotNegative = 1.0
    absolute_error: NotNegative = 100.0
    feature_matching: NotNegative = 0.0
    code: NotNegative = 0.01

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.feature_matching and not self.adversarial:
            raise ValueError("feature_matching compares maps of the critic; give adversarial a weight, or set it to 0")
        if not self.adversarial and not self.absolute_error:
            raise ValueError("adversarial and absolute_error are both 0, so that nothing is learned")
        return self


class PairedOptimiser(Settings):
    """Adam for generator and critic. critic_learning_rate: None is learning_rate."""

    learning_rate: Rate = 2e-4
    critic_learning_rate: Rate | None = None
    beta_1: Share = 0.5
    beta_2: Share = 0.999


Networks = Annotated[
    Annotated[SpadeSettings, Tag("spade")] | Annotated[TranslatorSettings, Tag("translator")],
    Discriminator(
        lambda value: value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None),
        custom_error_type="kind",
        custom_error_message="it is none of spade, translator",
    ),
]


class PairedRecipe(GenerationBase):
    """Given picture -> picture, where training has both of the same slice.

    source: what is given: "mask", the cohort's masks; names of channels, such as [T1]; or "coarse", the picture itself
    with pixels that are `factor` times as wide, each the mean of those that it covers. channels: what is made.
    augmentation: moves both alike, and changes grey levels of what is given alone.
    report_samples: how many validation slices a report compares.
    """

    family: Literal["paired"]
    source: Literal["mask", "coarse"] | Annotated[tuple[str, ...], Field(min_length=1)]
    factor: Literal[2, 4] | None = None
    network: Networks
    critic: CriticSettings = CriticSettings()
    loss: PairedLoss = PairedLoss()
    optimiser: PairedOptimiser = PairedOptimiser()
    report_samples: Annotated[int, Field(ge=16)] = 128

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        wanted: Any = "spade" if self.source == "mask" else "translator"
        if self.network.kind != wanted:
            raise ValueError(f"network.kind: {self.network.kind} does not take source {self.source!r}; {wanted} does")
        if (self.source == "coarse") != (self.factor is not None):
            raise ValueError("factor: 2 or 4 with source coarse, and nothing with another source")
        if not isinstance(self.source, str):
            require_apart(self.source, self.channels)
        require_given(self, grey_levels=not isinstance(self.source, str))
        if isinstance(self.network, TranslatorSettings):
            step = 2 ** (len(self.network.channels) - 1) * (self.factor or 1)
            if self.network.window_px % step:
                raise ValueError(f"network.window_px: {self.network.window_px} is no multiple of {step} (channels)")
        self._require_used()
        least = smallest_px(self.critic.layers, self.critic.scales)
        if self.loss.adversarial and self.network.image_px < least:
            raise ValueError(f"critic: {self.critic.layers} layers and {self.critic.scales} scales need {least} pixels")
        return self

    def _require_used(self) -> None:
        """Raises ValueError where a key is set that would do nothing."""
        if self.network.kind == "translator" and self.loss.code != PairedLoss().code:
            raise ValueError("loss.code: a translator draws no code; leave it out")
        if self.loss.adversarial:
            return
        idle = {
            "critic": self.critic != CriticSettings(),
            "optimiser.critic_learning_rate": self.optimiser.critic_learning_rate is not None,
            "loss.kind": self.loss.kind != PairedLoss().kind,
            "transfer.freeze.critic": self.transfer is not None and "critic" in self.transfer.freeze,
        }
        for key, asked in idle.items():
            if asked:
                raise ValueError(f"{key}: there is no critic with loss.adversarial 0; leave it out")
