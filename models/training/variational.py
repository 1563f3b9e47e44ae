"""Generation: noise -> slice, by the decoder of a variational autoencoder.

Loss: `models.elbo`. Running average always; classes with balanced batches and a vector each, withheld now and then;
best and early stop by the distance of samples (not of reconstructions) to unseen patients. MONAI has no trainer for it.

With stages, a network learns all slices without labels first, then labels while its convolutions are frozen, then
everything. What was made before there were labels is never kept as the best.
"""

# torch leaves Tensor.backward and Tensor.split without types.
# mypy: disallow-untyped-calls=False

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dicom_io.cohort import Cohort
from models import elbo, networks
from models.cases import Squares
from models.generator import source_of
from models.networks.vae import VAE, ConvolutionalEncoder, Decoder, DenseEncoder, Law
from models.networks.variation import Variation
from models.training import average, optimisers
from models.training.alarms import WaysOut
from models.training.augmentation import augment_pictures
from models.training.batches import withheld
from models.training.judge import AT_MOST
from models.training.pictures import numbers_of
from models.training.precision import autocast
from models.training.session import Session, Stateful
from models.training.transfer import Part
from models.training.truth import Shown
from models.variational_recipe import ConvolutionalVAE, VariationalRecipe
from models.version import Given

UNUSED_NATS, NEARLY_ALL = 0.01, 0.95
_BATCH = 64
WAYS_OUT = WaysOut(
    not_finite="lower learning_rate, raise pixel_scale or train in float32, in a new run",
    exploding="lower learning_rate, or raise pixel_scale",
    collapse="lower pixel_scale or beta, lengthen beta_warm_up, raise free_bits, or take links: skip",
    dead="lower learning_rate, take fewer blocks or links: residual, or check pixel_range",
)


def train(recipe: VariationalRecipe, session: Session) -> None:
    """One training, from a session's slices to a run that samples. See `models.training.train`."""
    # Network, optimiser and running average.
    on, ranks = session.device, session.ranks
    classes, planes = len(session.names), session.reals.planes
    definition = decoder(recipe, classes, planes)
    vae = autoencoder(recipe, classes, planes).to(on)
    kept = average.start(vae)
    masks = session.reals.mask_planes
    rates, loss, schedule = recipe.optimiser, recipe.loss, recipe.schedule
    optimiser = torch.optim.AdamW(vae.parameters(), lr=rates.learning_rate, weight_decay=rates.weight_decay)
    alarms = session.watch(WAYS_OUT)

    # Resume from the newest checkpoint, or start from another model, if there is one.
    stateful: dict[str, Stateful] = {"network": vae, "average": kept, "optimiser": optimiser}
    session.begin(stateful, definition, parts_of(recipe, vae, kept, planes))
    sums = Sums(recipe.network.latent)

    while session.going:
        draw = session.draw()
        optimisers.set_rate(optimiser, session.learning_rate(rates.learning_rate))
        stage, beta = recipe.stage(session.fraction), recipe.beta(session.fraction)
        for weight in vae.convolutions():
            weight.requires_grad_(stage != "frozen")
        session.hold()

        # Draw slices and what the encoder is told of them: a noisy image, and a class that may be withheld.
        real, labels = session.batches.draw(schedule.batch_size, draw)
        real = augment_pictures(real.to(on), recipe.augmentation, draw, masks)
        told = withheld(labels, 1.0 if stage == "pretraining" else loss.label_dropout, classes, draw)
        told = None if told is None else ranks.share(told).to(on)
        noisy = real + loss.image_noise * torch.randn(real.shape, generator=draw).to(on) if loss.image_noise else real
        noise = ranks.share(vae.noise(schedule.batch_size, draw)).to(on)
        real, noisy = ranks.share(real), ranks.share(noisy)

        # There and back; what is lost on the way, and what it takes to say the latent.
        with autocast(on, schedule.precision):
            made, posterior, prior = vae(noisy, noise, told)
        lost = elbo.reconstruction(loss, real, made.float()).mean()
        diverged = ranks.gather(elbo.divergence(posterior, fixed(prior)))
        whole = lost + beta * elbo.charged(diverged, loss.free_bits)
        # Priors of classes follow in full: what is drawn from must fit, whatever beta is and nats are free.
        followed = elbo.divergence(fixed(posterior), prior).mean(0).sum()
        optimiser.zero_grad()
        ranks.backward(whole + followed, vae)
        optimiser.step()

        # Follow with the running average.
        whole, lost = ranks.told(whole, lost)
        session.took(schedule.batch_size, whole.item())
        average.follow(kept, vae, session.images_seen, schedule.batch_size, schedule.ema_half_life_images)
        alarms.losses(session.images_seen, whole=whole.item())
        sums.add(diverged)

        # Each `report_images`, and at the end: compare with unseen patients, keep the best, save panel and checkpoint.
        if session.due:
            nats = sums.mean()
            figures = {"loss": round(whole.item(), 3), "reconstruction": round(lost.item(), 3)}
            figures |= {"divergence": round(float(nats.sum()), 3)}
            figures |= {"used_dimensions": int((nats > UNUSED_NATS).sum()), "beta": round(beta, 5)}
            session.report(
                Shown(kept, session.unseen.images) if isinstance(kept, Variation) else kept.decoder,
                released(kept),
                figures | of_unseen(kept, recipe, session.unseen, on),
                # What was made before there were labels is none of them.
                may_be_best=recipe.stage(session.fraction) != "pretraining",
                beside=collapsed(nats) if beta >= loss.beta > 0 else {},
            )

    # Leave what sampling needs.
    session.leave(definition, **described(session.cohort, recipe))


def autoencoder(recipe: VariationalRecipe, classes: int, planes: int) -> VAE | Variation:
    """As it trains, with fresh weights."""
    if recipe.source:
        made = networks.build(decoder(recipe, classes, planes))
        assert isinstance(made, Variation)
        return made
    return VAE(encoder(recipe, classes, planes), built(decoder(recipe, classes, planes)))


def parts_of(recipe: VariationalRecipe, vae: nn.Module, kept: nn.Module, planes: int) -> list[Part]:
    """What another model leaves for it (`models.training.transfer`)."""
    if not isinstance(vae, VAE) or not isinstance(kept, VAE):
        return [Part("variation", (vae, kept), lambda n: autoencoder(recipe, n, planes))]
    return [
        Part("decoder", (vae.decoder, kept.decoder), lambda n: built(decoder(recipe, n, planes))),
        Part("encoder", (vae.encoder, kept.encoder), lambda n: encoder(recipe, n, planes)),
    ]


def released(vae: VAE | Variation) -> nn.Module:
    """What a run keeps to make pictures with."""
    return vae.decoder if isinstance(vae, VAE) else vae


def described(cohort: Cohort, recipe: VariationalRecipe) -> dict[str, Any]:
    """What a run says otherwise than of pictures of noise: that a picture is given."""
    if not recipe.source:
        return {}
    channels = tuple(cohort.channels[number] for number in numbers_of(recipe.channels, cohort))
    return {"given": Given(kind="itself", channels=channels)}


def decoder(recipe: VariationalRecipe, classes: int, planes: int = 1) -> dict[str, Any]:
    """`network_def` of the bundle. classes: 0 is an unlabelled one."""
    settings = recipe.network.model_dump(mode="json", exclude={"kind"})
    several = {"planes": planes} if planes > 1 else {}
    if recipe.source:
        return {"_target_": "models.networks.variation.Variation", **settings, **several}
    name = "ConvolutionalDecoder" if isinstance(recipe.network, ConvolutionalVAE) else "DenseDecoder"
    return {"_target_": f"models.networks.vae.{name}", **settings, "classes": classes, **several}


def built(definition: dict[str, Any]) -> Decoder:
    made = networks.build(definition)
    assert isinstance(made, Decoder)
    return made


def fixed(law: Law) -> Law:
    """Without gradients."""
    return law[0].detach(), law[1].detach()


def encoder(recipe: VariationalRecipe, classes: int, planes: int = 1) -> nn.Module:
    """The half that is not released, with fresh weights."""
    chosen = recipe.network
    if isinstance(chosen, ConvolutionalVAE):
        return ConvolutionalEncoder(
            chosen.image_px, chosen.features, chosen.latent, chosen.blocks, chosen.links, classes, planes
        )
    return DenseEncoder(chosen.image_px, chosen.widths, chosen.latent, classes, planes)


class Sums:
    """The mean divergence of each dimension of the latent since the last report."""

    def __init__(self, latent: int) -> None:
        self._nats, self._steps = torch.zeros(latent), 0

    def add(self, diverged: Tensor) -> None:
        """diverged: (B, latent) nats."""
        self._nats += diverged.detach().mean(0).cpu()
        self._steps += 1

    def mean(self) -> Tensor:
        """(latent,) nats; begins anew."""
        mean = self._nats / max(self._steps, 1)
        self._nats, self._steps = torch.zeros_like(mean), 0
        return mean


def collapsed(nats: Tensor) -> dict[str, str]:
    """Posterior collapse: nearly no dimension of the latent says anything of the image (`Alarms.look`)."""
    unused = int((nats <= UNUSED_NATS).sum())
    if unused < NEARLY_ALL * len(nats):
        return {}
    return {
        "posterior": (
            f"{unused} of {len(nats)} dimensions of the latent say nothing of the image (posterior collapse: each less "
            f"than {UNUSED_NATS} nat from noise); {WAYS_OUT.collapse}"
        )
    }


@torch.inference_mode()
def of_unseen(vae: VAE | Variation, recipe: VariationalRecipe, unseen: Squares, on: torch.device) -> dict[str, float]:
    """Terms of the bound on at most 512 unseen slices (evenly spaced): nats per image, and the error of a pixel."""
    chosen = torch.linspace(0, len(unseen) - 1, min(AT_MOST, len(unseen))).long()
    told = unseen.labels[chosen] if recipe.conditional and unseen.labels is not None else None
    totals = torch.zeros(3, dtype=torch.float64)
    for start in range(0, len(chosen), _BATCH):
        real = unseen.take(chosen[start : start + _BATCH]).to(on)
        known = None if told is None else told[start : start + _BATCH].to(on)
        noise = vae.noise(len(real), source_of(0, start, "validation")).to(on)
        made, posterior, prior = vae(real, noise, known)
        terms = (
            elbo.reconstruction(recipe.loss, real, made),
            elbo.divergence(posterior, prior).sum(1),
            elbo.pixel_error(real, made),
        )
        totals += torch.stack([term.double().sum() for term in terms]).cpu()
    means = (totals / len(chosen)).tolist()
    names = ("validation_reconstruction", "validation_divergence", "validation_pixel_error")
    return {name: round(value, 4) for name, value in zip(names, means, strict=True)}
