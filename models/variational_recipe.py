"""The recipe of a variational autoencoder, with or without classes: networks, evidence bound, stages.

Defaults are those that a small data set asks for: a warm-up of beta, free bits, labels withheld now and then. Which
choices exclude each other is checked here, before anything is read.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from models.generation_recipe import GenerationBase
from models.recipe_parts import NotNegative, Positive, Rate, Settings, Share

Latent = Annotated[int, Field(ge=2, le=512)]
Stage = Literal["pretraining", "frozen", "all"]


class ConvolutionalVAE(Settings):
    """Blocks of convolution, norm and SiLU, spread over the halvings of the image (`models.networks.vae`).

    features: channels at full resolution. blocks: in the encoder; the decoder has as many. links: "residual" gives
    every block a way around it; "skip" hands the latent to every resolution of the decoder (Dieng 2019).
    """

    kind: Literal["convolutional"] = "convolutional"
    image_px: Annotated[int, Field(ge=16)] = 64
    features: Annotated[int, Field(ge=8)] = 16
    latent: Latent = 64
    blocks: Literal[3, 6, 13, 16, 19] = 6
    links: Literal["plain", "residual", "skip"] = "residual"

    @model_validator(mode="after")
    def _power_of_two(self) -> Self:
        if self.image_px & (self.image_px - 1) or self.features % 8:
            raise ValueError("image_px must be a power of two and features a multiple of 8")
        return self


class DenseVAE(Settings):
    """Layers that see every pixel at once. widths: of the encoder's layers; the decoder has them in reverse."""

    kind: Literal["dense"]
    image_px: Annotated[int, Field(ge=16)] = 64
    latent: Latent = 32
    widths: Annotated[tuple[Positive, ...], Field(min_length=1)] = (512, 256)


def _network_kind(value: Any) -> Any:
    return value.get("kind", "convolutional") if isinstance(value, dict) else getattr(value, "kind", None)


Networks = Annotated[
    Annotated[ConvolutionalVAE, Tag("convolutional")] | Annotated[DenseVAE, Tag("dense")],
    Discriminator(
        _network_kind,
        custom_error_type="kind",
        custom_error_message="it is none of convolutional, dense",
    ),
]


class EvidenceBound(Settings):
    """What is minimised, in nats per image (`models.elbo`).

    pixel_scale: of the error of one pixel, where pixels are in [-1, 1]; smaller asks for sharper pictures and pays with
    a latent that is further from what samples are drawn from. structure: weight of MS-SSIM beside the error of the
    pixels; 0 is none.
    beta: of the divergence; beta_warm_up: share of the training over which it rises from 0. free_bits: nats that every
    dimension of the latent has for nothing (Kingma 2016).
    label_dropout: share of the images whose class is withheld; the latent then learns to say it, and at times overrules
    the label that a sample is asked for. image_noise: deviation of noise on what the encoder
    sees, but not on what is to be made of it (denoising: Im 2017).
    """

    pixel_scale: Rate = 0.3
    structure: NotNegative = 0.0
    beta: NotNegative = 1.0
    beta_warm_up: Share = 0.2
    free_bits: NotNegative = 0.25
    label_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    image_noise: NotNegative = 0.0


class Stages(Settings):
    """Shares of the training: first without labels, then with them while convolutions stay as they are; the rest of it
    trains everything."""

    pretraining: Annotated[float, Field(gt=0, lt=1)] = 0.9
    frozen: Annotated[float, Field(ge=0, lt=1)] = 0.07

    @model_validator(mode="after")
    def _something_is_left(self) -> Self:
        if self.pretraining + self.frozen >= 1:
            raise ValueError(
                f"pretraining {self.pretraining} and frozen {self.frozen} leave nothing to train everything in"
            )
        return self


class VariationalOptimiser(Settings):
    """AdamW. learning_rate: at its peak. weight_decay: per step, decoupled."""

    learning_rate: Rate = 1e-3
    weight_decay: NotNegative = 0.0


class VariationalRecipe(GenerationBase):
    """Noise -> slice, by the decoder of a variational autoencoder. stages: None trains everything from the start.

    source: "image" gives the decoder the encoder's maps of a picture beside the noise, as the study did: it then makes
    variations of pictures that it is given, which repeat their patients. Such a run can be evaluated, and that is all.
    """

    family: Literal["variational"]
    source: Literal["image"] | None = None
    network: Networks = ConvolutionalVAE()
    loss: EvidenceBound = EvidenceBound()
    optimiser: VariationalOptimiser = VariationalOptimiser()
    stages: Stages | None = None

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.stages and not self.conditional:
            raise ValueError("stages: only labels come in later; set conditional: true, or leave it out")
        if self.stages and self.stages.frozen and self.network.kind == "dense":
            raise ValueError("stages.frozen: a dense network has no convolutions to freeze; set it to 0")
        if self.spatial_dims == 3:
            raise ValueError("spatial_dims: autoencoders make slices; take the adversarial or the diffusion family")
        if self.stages and self.transfer and self.transfer.freeze:
            raise ValueError("stages freezes convolutions by itself; leave it out, or transfer.freeze")
        if self.source and self.network.kind == "dense":
            raise ValueError("source: a dense network has no maps to lead around the latent; take convolutional")
        if self.source and getattr(self.network, "links", "") == "skip":
            raise ValueError("source: the encoder's maps go around the latent already; take links residual or plain")
        if self.source and (self.conditional or self.mask or self.served_px is not None):
            raise ValueError(
                "source: the picture that is given says what to make, and how large; leave conditional, mask and "
                "served_px out"
            )
        if self.loss.structure and self.network.image_px < 32:
            raise ValueError(f"loss.structure: MS-SSIM needs images of 32 px or more, not {self.network.image_px}")
        return self

    def stage(self, fraction: float) -> Stage:
        """What trains after this fraction of the training."""
        if self.stages and fraction < self.stages.pretraining:
            return "pretraining"
        if self.stages and fraction < self.stages.pretraining + self.stages.frozen:
            return "frozen"
        return "all"

    def beta(self, fraction: float) -> float:
        """The weight of the divergence there."""
        warm_up = self.loss.beta_warm_up
        return self.loss.beta * (min(fraction / warm_up, 1.0) if warm_up else 1.0)
