"""Generation: noise -> slice, by the decoder of a variational autoencoder.

Loss: `models.elbo`. Running average always; classes with balanced batches and a vector each, withheld now and then;
best and early stop by the distance of samples (not of reconstructions) to unseen patients. MONAI has no trainer for it.

With stages, a network learns all slices without labels first, then labels while its convolutions are frozen, then
everything. What was made before there were labels is never kept as the best.
"""

# torch leaves Tensor.backward and Tensor.split without types.
# mypy: disallow-untyped-calls=False

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dicom_io.cohort import Cohort
from models import elbo, networks, version
from models.cases import Squares
from models.generator import source_of
from models.networks.vae import VAE, ConvolutionalEncoder, Decoder, DenseEncoder, Law
from models.training import average, optimisers, pictures, summary
from models.training.alarms import Alarms, WaysOut
from models.training.augmentation import augment
from models.training.batches import Batches, withheld
from models.training.journal import Journal
from models.training.judge import AT_MOST, Judge
from models.training.precision import autocast
from models.training.randomness import seed_of, start_step
from models.training.schedule import Clock
from models.training.strip import Strip
from models.variational_recipe import ConvolutionalVAE, VariationalRecipe

UNUSED_NATS, NEARLY_ALL = 0.01, 0.95
_BATCH = 64
WAYS_OUT = WaysOut(
    not_finite="lower learning_rate, raise pixel_scale or train in float32, in a new run",
    exploding="lower learning_rate, or raise pixel_scale",
    collapse="lower pixel_scale or beta, lengthen beta_warm_up, raise free_bits, or take links: skip",
    dead="lower learning_rate, take fewer blocks or links: residual, or check pixel_range",
)


def train(
    recipe: VariationalRecipe,
    cohort: Cohort,
    run: Path,
    *,
    resume: bool = False,
    minutes: float | None = None,
    progress: Callable[[dict[str, Any]], None] | None = None,
    device: str = "auto",
) -> None:
    """One training, from cohort to a run that samples. See `models.training.train`."""
    # Patients are split already; read them once. Only the training split reaches the networks.
    summary.require_splits(cohort)
    on = summary.device_named(device)
    px = recipe.network.image_px
    training, reals = pictures.read(cohort, "training", recipe, px)
    _, unseen = pictures.read(cohort, "validation", recipe, px)
    names = cohort.labels if recipe.conditional else ()
    batches = Batches(reals, names)
    judge = Judge(reals, unseen, batches.present)

    # Network, optimiser and running average.
    torch.manual_seed(seed_of(recipe.seed, "weights", 0))
    definition = decoder(recipe, len(names))
    vae = VAE(encoder(recipe, len(names)), built(definition)).to(on)
    kept = average.start(vae)
    rates, loss = recipe.optimiser, recipe.loss
    optimiser = torch.optim.AdamW(vae.parameters(), lr=rates.learning_rate, weight_decay=rates.weight_decay)
    batch_size = recipe.schedule.batch_size

    # Resume from the newest checkpoint, if there is one.
    clock = Clock(recipe.schedule, minutes)
    journal = Journal(run, recipe, cohort, clock, progress, resume)
    strip = Strip(run, recipe.name, recipe.seed, len(batches.present))
    alarms = Alarms(
        journal.warn,
        stop=recipe.alarms == "stop",
        names=names,
        contrast=float(reals.images.flatten(1).std(1).mean()),
        ways_out=WAYS_OUT,
    )
    step, images_seen, best, since_best, reported = 0, 0, float("inf"), 0, 0
    if journal.resumed:
        vae.load_state_dict(journal.resumed["network"])
        kept.load_state_dict(journal.resumed["average"])
        optimiser.load_state_dict(journal.resumed["optimiser"])
        alarms.resume(journal.resumed["alarms"])
        step, images_seen, best, since_best = (
            journal.resumed[key] for key in ("step", "images_seen", "best", "reports_since_best")
        )
        reported = images_seen
    for sentence in pictures.few_patients(reals, names):
        journal.warn(sentence)
    sums = Sums(recipe.network.latent)

    finished = recipe.schedule.is_over(images_seen, since_best)
    while not finished:
        draw = start_step(recipe.seed, step)
        optimisers.set_rate(optimiser, clock.learning_rate(images_seen, rates.learning_rate))
        fraction = clock.fraction(images_seen)
        stage, beta = recipe.stage(fraction), recipe.beta(fraction)
        for weight in vae.convolutions():
            weight.requires_grad_(stage != "frozen")

        # Draw slices and what the encoder is told of them: a noisy image, and a class that may be withheld.
        real, labels = batches.draw(batch_size, draw)
        real, _ = augment(real.to(on), None, recipe.augmentation, draw)
        told = withheld(labels, 1.0 if stage == "pretraining" else loss.label_dropout, len(names), draw)
        told = None if told is None else told.to(on)
        noisy = real + loss.image_noise * torch.randn(real.shape, generator=draw).to(on) if loss.image_noise else real
        noise = vae.decoder.noise(batch_size, draw).to(on)

        # There and back; what is lost on the way, and what it takes to say the latent.
        with autocast(on, recipe.schedule.precision):
            made, posterior, prior = vae(noisy, noise, told)
        lost = elbo.reconstruction(loss, real, made.float()).mean()
        diverged = elbo.divergence(posterior, fixed(prior))
        whole = lost + beta * elbo.charged(diverged, loss.free_bits)
        # Priors of classes follow in full: what is drawn from must fit, whatever beta is and nats are free.
        followed = elbo.divergence(fixed(posterior), prior).mean(0).sum()
        optimiser.zero_grad()
        (whole + followed).backward()
        optimiser.step()

        # Follow with the running average.
        step += 1
        images_seen += batch_size
        average.follow(kept, vae, images_seen, batch_size, recipe.schedule.ema_half_life_images)
        alarms.losses(images_seen, whole=whole.item())
        sums.add(diverged)
        journal.progress(images_seen, whole.item())
        finished = clock.fraction(images_seen) >= 1

        # Each `report_images`, and at the end: compare with unseen patients, keep the best, save panel and checkpoint.
        if finished or images_seen - reported >= recipe.schedule.report_images:
            reported = images_seen
            panel = judge.panel(kept.decoder, on)
            score, spread = judge.kid(panel), judge.spread(panel)
            if recipe.stage(clock.fraction(images_seen)) != "pretraining":
                since_best = 0 if score < best else since_best + 1
                if score < best:
                    best = score
                    journal.keep_best({"state": kept.decoder.state_dict()})
            strip.add(panel.images, images_seen, clock.fraction(images_seen))
            nats = sums.mean()
            line = {"images_seen": images_seen, "loss": round(whole.item(), 3)}
            line |= {"reconstruction": round(lost.item(), 3), "divergence": round(float(nats.sum()), 3)}
            line |= {"used_dimensions": int((nats > UNUSED_NATS).sum()), "beta": round(beta, 5)}
            line |= of_unseen(kept, recipe, unseen, on) | {"validation_kid": round(score, 6)}
            journal.report(line | {"spread": round(min(spread.values(), default=float("nan")), 4)})
            asked = beta >= loss.beta > 0
            beside = collapsed(nats) if asked else {}
            alarms.look(clock.fraction(images_seen), images_seen, panel.images, spread, beside)
            journal.save(
                {"network": vae.state_dict(), "average": kept.state_dict(), "optimiser": optimiser.state_dict()}
                | {"alarms": alarms.state(), "step": step, "images_seen": images_seen}
                | {"best": best, "reports_since_best": since_best}
            )
            alarms.sound()
            finished = finished or recipe.schedule.is_over(images_seen, since_best)

    # Leave what sampling needs, with range, units and spacing of the slices.
    described = pictures.description(recipe, cohort, journal.data_hash, training, px, images_seen, batches.counts)
    version.write(run, described, definition, pictures.input_chain(recipe), None, 0.0, journal.best()["state"])
    journal.done(images_seen=images_seen, validation_kid=best, reports_since_best=since_best)


def decoder(recipe: VariationalRecipe, classes: int) -> dict[str, Any]:
    """`network_def` of the bundle. classes: 0 is an unlabelled one."""
    settings = recipe.network.model_dump(mode="json", exclude={"kind"})
    name = "ConvolutionalDecoder" if isinstance(recipe.network, ConvolutionalVAE) else "DenseDecoder"
    return {"_target_": f"models.networks.vae.{name}", **settings, "classes": classes}


def built(definition: dict[str, Any]) -> Decoder:
    made = networks.build(definition)
    assert isinstance(made, Decoder)
    return made


def fixed(law: Law) -> Law:
    """Without gradients."""
    return law[0].detach(), law[1].detach()


def encoder(recipe: VariationalRecipe, classes: int) -> nn.Module:
    """The half that is not released, with fresh weights."""
    chosen = recipe.network
    if isinstance(chosen, ConvolutionalVAE):
        return ConvolutionalEncoder(
            chosen.image_px, chosen.features, chosen.latent, chosen.blocks, chosen.links, classes
        )
    return DenseEncoder(chosen.image_px, chosen.widths, chosen.latent, classes)


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
def of_unseen(vae: VAE, recipe: VariationalRecipe, unseen: Squares, on: torch.device) -> dict[str, float]:
    """Terms of the bound on at most 512 unseen slices (evenly spaced): nats per image, and the error of a pixel."""
    chosen = torch.linspace(0, len(unseen.images) - 1, min(AT_MOST, len(unseen.images))).long()
    told = unseen.labels[chosen] if recipe.conditional and unseen.labels is not None else None
    totals = torch.zeros(3, dtype=torch.float64)
    for start in range(0, len(chosen), _BATCH):
        real = unseen.images[chosen[start : start + _BATCH]].to(on)
        known = None if told is None else told[start : start + _BATCH].to(on)
        noise = vae.decoder.noise(len(real), source_of(0, start, "validation")).to(on)
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
