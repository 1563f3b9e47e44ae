"""The recipe of a generator that removes noise step by step: denoiser, noise in training, sampler, optimiser, alarms.

Noise levels sigma are standard deviations in the units of the network's images, [-1, 1]; of latents, in units in which
they have the deviation 0.5. Defaults are those of EDM
(Karras 2022, table 1) where it gives any; the sampler is stored with the network, so that a version is one sampler.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from models.generation_recipe import GenerationBase, require_given
from models.recipe_parts import NotNegative, Positive, Rate, Settings, Share


class Denoiser(Settings):
    """The U-Net of `models.networks.denoiser`. channels: per level, each level halves the image.

    residual_blocks: per level. attention_levels: so many of the coarsest levels attend over the whole image, beside the
    middle.
    dropout: within the residual blocks, in training alone; a small data set needs it.
    """

    image_px: Annotated[int, Field(ge=16)] = 32
    channels: Annotated[tuple[Positive, ...], Field(min_length=2)] = (32, 64, 64)
    residual_blocks: Positive = 2
    attention_levels: Annotated[int, Field(ge=0)] = 1
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1

    @model_validator(mode="after")
    def _levels_fit(self) -> Self:
        smallest = 2 ** (len(self.channels) - 1)
        if self.image_px % smallest:
            raise ValueError(f"image_px: {self.image_px} is no multiple of {smallest} (channels)")
        if self.attention_levels > len(self.channels):
            raise ValueError(f"attention_levels: {self.attention_levels} is more than channels has levels")
        if math.gcd(*self.channels) % 4:
            raise ValueError(f"channels: {list(self.channels)} are not all multiples of 4, which the group norm needs")
        return self


class Latent(Settings):
    """The autoencoder whose latents the denoiser is trained on, `models.networks.autoencoder`; it trains first.

    channels: planes of a latent. widths: maps per level, multiples of 4; each level but the first halves the picture.
    residual_blocks: per level. share: of the training that is the autoencoder's. learning_rate: Adam's, at its peak.
    kl_weight: of the divergence of latents from N(0, 1), in nats per number of a latent, beside the error of a
    pixel on the scale [-1, 1] (absolute and squared); a little keeps latents smooth, much blurs the pictures.
    """

    channels: Positive = 4
    widths: Annotated[tuple[Positive, ...], Field(min_length=2)] = (16, 32, 64)
    residual_blocks: Positive = 1
    share: Annotated[float, Field(gt=0, lt=1)] = 0.4
    kl_weight: NotNegative = 1e-3
    learning_rate: Rate = 1e-3

    @model_validator(mode="after")
    def _groups_fit(self) -> Self:
        if math.gcd(*self.widths) % 4:
            raise ValueError(f"widths: {list(self.widths)} are not all multiples of 4, which the group norm needs")
        return self


class Sampler(Settings):
    """From noise to a picture, without further randomness (`models.networks.samplers`).

    kind: "heun" calls the denoiser 2 * steps - 1 times, "dpm-solver++" steps times. guidance: how far class or mask
    pulls (Ho 2022): 1 is the class as it was learned, 0 ignores it, more is more typical and less varied, for twice the
    work.
    sigma_least, sigma_most, rho: first and last noise level, and how the steps lie between them.
    """

    kind: Literal["heun", "dpm-solver++"] = "heun"
    steps: Annotated[int, Field(ge=2)] = 18
    guidance: NotNegative = 1.0
    sigma_least: Rate = 0.002
    sigma_most: Rate = 80.0
    rho: Rate = 7.0

    @model_validator(mode="after")
    def _levels_fall(self) -> Self:
        if self.sigma_least >= self.sigma_most:
            raise ValueError(f"sigma_least: {self.sigma_least} is not below sigma_most {self.sigma_most}")
        return self


class DiffusionLoss(Settings):
    """The noise that training adds: ln sigma ~ N(mean_log_sigma, deviation_log_sigma).

    label_dropout: share of the images whose class or mask is hidden in training, so that guidance has something to pull
    from.
    """

    mean_log_sigma: float = -1.2
    deviation_log_sigma: Rate = 1.2
    label_dropout: Share = 0.1


class DiffusionOptimiser(Settings):
    """Adam. clip_gradient_norm: gradients longer than it are shortened to it; None leaves them."""

    learning_rate: Rate = 5e-4
    beta_1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta_2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    clip_gradient_norm: Rate | None = 1.0


class DiffusionRecipe(GenerationBase):
    """Noise -> slice, by a denoiser.

    source: "mask" gives the cohort's masks, and pictures are made of them (their planes are laid beside the noisy
    picture); None starts from noise alone.
    latent: None works on pixels; else on latents of fewer of them, which is the way from 128 px on (`network.image_px`
    is that of the picture all the same). report_samples: fewer than elsewhere, because a sample takes tens of calls of
    the network.
    """

    family: Literal["diffusion"]
    source: Literal["mask"] | None = None
    network: Denoiser = Denoiser()
    latent: Latent | None = None
    sampler: Sampler = Sampler()
    loss: DiffusionLoss = DiffusionLoss()
    optimiser: DiffusionOptimiser = DiffusionOptimiser()
    report_samples: Annotated[int, Field(ge=16)] = 64

    @property
    def factor(self) -> None:
        """Pixels stay as they are (`models.training.couples`)."""

    @model_validator(mode="after")
    def _latent_fits(self) -> Self:
        if self.latent:
            least = 2 ** (len(self.latent.widths) + len(self.network.channels) - 2)
            if self.network.image_px % least:
                raise ValueError(
                    f"network.image_px: {self.network.image_px} is no multiple of {least} (latent.widths, "
                    "network.channels)"
                )
        return self

    @model_validator(mode="after")
    def _guidance_has_a_class(self) -> Self:
        if self.sampler.guidance != 1 and not (self.conditional or self.source):
            raise ValueError(
                "sampler.guidance pulls towards a class or a mask; set conditional: true, or source: mask, or guidance "
                "to 1"
            )
        if self.sampler.guidance != 1 and not self.loss.label_dropout:
            raise ValueError("sampler.guidance needs images without a class in training; set loss.label_dropout (0.1)")
        if self.loss.label_dropout == 1 and (self.conditional or self.source):
            raise ValueError("loss.label_dropout: 1 hides every class or mask, and nothing is learned of them")
        return self

    @model_validator(mode="after")
    def _mask_can_be_given(self) -> Self:
        if self.source:
            require_given(self, grey_levels=False)
        return self
