"""The recipe of a generator that is trained against a critic: networks, losses, restraints, optimisers, alarms.

Defaults are a DCGAN with the non-saturating loss, lazy R1 and DiffAugment. Which choices exclude each other is checked
here, before anything is read: every message begins with the key.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from models.generation_recipe import GenerationBase
from models.recipe_parts import NotNegative, Positive, Rate, Settings, Share

NormName = Literal["batch", "instance", "group", "none"]
Law = Literal["normal", "uniform"]


class DCGAN(Settings):
    """Resize-convolution generator, strided critic. features: channels at half resolution.

    norm, dropout: of the generator, critic_norm, critic_dropout: of the critic. Dropout in the generator acts in
    training alone. minibatch_deviation: a map for the critic that says how alike the images of its batch are.
    law: of the latent, N(0, 1) or U(-1, 1), in training and sampling alike.
    """

    kind: Literal["dcgan"] = "dcgan"
    image_px: Annotated[int, Field(ge=16)] = 64
    features: Annotated[int, Field(ge=16)] = 32
    latent: Positive = 128
    law: Law = "normal"
    norm: NormName = "group"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    critic_norm: NormName = "none"
    critic_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    spectral_norm: bool = False
    minibatch_deviation: bool = True

    @model_validator(mode="after")
    def _power_of_two(self) -> Self:
        if self.image_px & (self.image_px - 1) or self.features % 16:
            raise ValueError("image_px must be a power of two and features a multiple of 16")
        return self

    @property
    def critic_sees_batch(self) -> bool:
        """Whether the critic's verdict on an image depends on the others through batch norm."""
        return self.critic_norm == "batch"


class PetStudy(Settings):
    """The three networks of the PET and mammography study (`models.networks.faithful` has them layer by layer).

    profile: "faithful" keeps their quirks, "corrected" mends them. latent: None is what the study took (32; 128 for the
    WGAN-GP). law: None is the study's, too (uniform; normal for the WGAN-GP).
    """

    kind: Literal["pet-dense-gan", "pet-dcgan", "pet-wgan-gp"]
    profile: Literal["faithful", "corrected"] = "faithful"
    image_px: Annotated[int, Field(ge=32)] = 224
    latent: Positive | None = None
    law: Law | None = None
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.4

    @model_validator(mode="after")
    def _halves_five_times(self) -> Self:
        if self.image_px % 32:
            raise ValueError("image_px must be a multiple of 32")
        return self

    @property
    def critic_sees_batch(self) -> bool:
        return self.kind == "pet-dcgan" and self.profile == "faithful"


class BrainStudy(Settings):
    """The grid of the brain-tumour study: generators G1, G2, critics D1, D2 (`models.networks.labelled`)."""

    kind: Literal["brain-wcgan"]
    generator: Literal["G1", "G2"] = "G2"
    critic: Literal["D1", "D2"] = "D1"
    image_px: Annotated[int, Field(ge=16)] = 64
    features: Annotated[int, Field(ge=8)] = 32
    latent: Positive = 128
    law: Law = "normal"
    critic_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.3

    @model_validator(mode="after")
    def _power_of_two(self) -> Self:
        if self.image_px & (self.image_px - 1):
            raise ValueError("image_px must be a power of two")
        return self

    @property
    def critic_sees_batch(self) -> bool:
        return self.critic == "D2"


def _network_kind(value: Any) -> str | None:
    """The kind that is named; recipes from before there was a choice name none."""
    kind = value.get("kind", "dcgan") if isinstance(value, dict) else getattr(value, "kind", None)
    return "pet" if isinstance(kind, str) and kind.startswith("pet-") else kind


Networks = Annotated[
    Annotated[DCGAN, Tag("dcgan")] | Annotated[PetStudy, Tag("pet")] | Annotated[BrainStudy, Tag("brain-wcgan")],
    Discriminator(
        _network_kind,
        custom_error_type="kind",
        custom_error_message="it is none of dcgan, pet-dense-gan, pet-dcgan, pet-wgan-gp, brain-wcgan",
    ),
]


class AdversarialLoss(Settings):
    """What generator and critic are told (`models.losses`), and what the critic is shown.

    fake_target, real_target, generator_target: a, b, c of the least-squares loss.
    gradient_penalty: lambda of WGAN-GP; 0 is none. weight_clip: the critic's weights stay within plus and minus it.
    label_smoothing: reals are told to be real to 1 minus it (one-sided). label_flipping: share of the images that the
    critic is shown under the wrong name.
    separate_batches: the critic sees reals and fakes apart; otherwise in one batch, which batch norm then mixes.
    translation, cutout: DiffAugment (Zhao 2020) on real and fake alike, as shares of the image.
    """

    kind: Literal["non-saturating", "least-squares", "hinge", "wasserstein"] = "non-saturating"
    fake_target: float = 0.0
    real_target: float = 1.0
    generator_target: float = 1.0
    gradient_penalty: NotNegative = 0.0
    weight_clip: Rate | None = None
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    label_flipping: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    separate_batches: bool = True
    translation: Share = 0.125
    cutout: Share = 0.5

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        if self.kind in ("hinge", "wasserstein") and (self.label_smoothing or self.label_flipping):
            raise ValueError(f"label_smoothing and label_flipping need labels, and {self.kind} has none; set both to 0")
        if self.kind == "wasserstein" and not self.gradient_penalty and self.weight_clip is None:
            raise ValueError(
                "wasserstein needs gradient_penalty (10) or weight_clip (0.01), or the critic has no bound"
            )
        if self.kind == "least-squares" and self.fake_target >= self.real_target:
            raise ValueError(f"fake_target {self.fake_target} is not below real_target {self.real_target}")
        targets = (self.fake_target, self.real_target, self.generator_target)
        if self.kind != "least-squares" and targets != (0.0, 1.0, 1.0):
            raise ValueError(f"fake_target, real_target and generator_target are of least-squares, not of {self.kind}")
        return self


class AdversarialOptimiser(Settings):
    """One optimiser for the generator, one for the critic.

    beta_1, beta_2: Adam's. decay_rate: of the squared gradients, RMSprop's alpha and Adadelta's rho; None: 0.99, 0.9.
    epsilon: None is torch's own: 1e-8, Adadelta's 1e-6. critic_learning_rate: None is learning_rate (another is TTUR:
    Heusel 2017). clip_gradient_value: every gradient stays within plus and minus it. critic_steps: for each step of the
    generator.
    r1_gamma: None takes 0.0002 * px^2 / batch (StyleGAN2-ADA), or 0 where gradient_penalty, weight_clip or
    spectral_norm restrain the critic already.
    """

    kind: Literal["adam", "rmsprop", "adadelta"] = "adam"
    learning_rate: Rate = 2e-4
    critic_learning_rate: Rate | None = None
    beta_1: Share = 0.0
    beta_2: Share = 0.99
    decay_rate: Annotated[float, Field(gt=0, lt=1)] | None = None
    epsilon: Rate | None = None
    clip_gradient_value: Rate | None = None
    critic_steps: Positive = 1
    r1_gamma: NotNegative | None = None
    r1_every_steps: Positive = 16

    @model_validator(mode="after")
    def _is_of_its_kind(self) -> Self:
        if self.kind == "adam" and self.decay_rate is not None:
            raise ValueError("decay_rate is of rmsprop and adadelta; adam has beta_2")
        if (
            self.kind != "adam"
            and {"beta_1", "beta_2"} & self.model_fields_set
            and ((self.beta_1, self.beta_2) != (0.0, 0.99))
        ):
            raise ValueError(f"beta_1 and beta_2 are of adam; {self.kind} has decay_rate")
        return self


class Adaptive(Settings):
    """Adaptive discriminator augmentation (Karras 2020): turns, flips, shifts and scales, no colours.

    target: of r_t, the mean sign of the critic's verdict on reals. speed_images: over which the probability could go
    from 0 to 1. limit: of the probability; below 1 a generator can tell what is only augmented.
    """

    target: Annotated[float, Field(gt=0, lt=1)] = 0.6
    speed_images: Positive = 500_000
    limit: Annotated[float, Field(gt=0, lt=1)] = 0.8


class Growing(Settings):
    """Progressive growing (Karras 2018, section 2): training begins with small pictures, and doubles their size.

    first_px: side of the first pictures. share: of the training, after which all is of full size; each size takes an
    even part of it, and new layers are faded in over the first half of theirs. Until then the learning rate stays at
    its peak.
    """

    first_px: Annotated[int, Field(ge=4)] = 8
    share: Annotated[float, Field(gt=0, lt=1)] = 0.6


class AdversarialRecipe(GenerationBase):
    """Noise -> slice, against a critic. adaptive: None is no adaptive augmentation. growing: None trains pictures of
    full size from the start."""

    family: Literal["adversarial"] = "adversarial"
    network: Networks = DCGAN()
    loss: AdversarialLoss = AdversarialLoss()
    optimiser: AdversarialOptimiser = AdversarialOptimiser()
    adaptive: Adaptive | None = None
    growing: Growing | None = None

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.adaptive and self.loss.kind == "wasserstein":
            raise ValueError("adaptive: a Wasserstein critic has no zero that r_t could count from; leave it out")
        if isinstance(self.network, BrainStudy) and not self.conditional:
            raise ValueError("network.kind: brain-wcgan makes one class at a time; set conditional: true")
        if self.spatial_dims == 3 and self.adaptive:
            raise ValueError("adaptive: its changes are for slices; leave it out, or set spatial_dims to 2")
        if isinstance(self.network, PetStudy) and self.conditional:
            raise ValueError(f"conditional: {self.network.kind} has no place for a label; take dcgan or brain-wcgan")
        return self

    @model_validator(mode="after")
    def _can_grow(self) -> Self:
        if self.growing is None:
            return self
        first, full = self.growing.first_px, self.network.image_px
        if not isinstance(self.network, DCGAN):
            raise ValueError(f"growing: {self.network.kind} is made in one size; take dcgan, or leave it out")
        if first & (first - 1) or first >= full:
            raise ValueError(f"growing.first_px: {first} is no power of two below network.image_px, {full}")
        return self

    @property
    def r1_gamma(self) -> float:
        """The weight of R1; 0 is none."""
        chosen = self.optimiser.r1_gamma
        if chosen is not None:
            return chosen
        restrained = (
            self.loss.gradient_penalty or self.loss.weight_clip or getattr(self.network, "spectral_norm", False)
        )
        return 0.0 if restrained else 0.0002 * self.network.image_px**2 / self.schedule.batch_size
