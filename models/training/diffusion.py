"""Generation: noise -> slice, by a denoiser (EDM: Karras 2022; `models.networks.diffusion`).

One step draws reals, adds noise of a random level sigma to each, and asks for the clean images:

    ln sigma ~ N(-1.2, 1.2)    loss = mean of (sigma^2 + s^2) / (sigma s)^2 (D(y + sigma n, sigma) - y)^2

with s the deviation of the data. The weight makes every level count alike at the start. Mean and deviation of the
pixels are measured on the training reals and stored with the network. Running average always; the best by KID to unseen
patients is kept, for no loss says when a denoiser begins to copy. MONAI's trainers know neither these levels nor a
running average.
"""

# torch leaves Tensor.backward without types.
# mypy: disallow-untyped-calls=False

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dicom_io.cohort import Cohort
from models import networks, version
from models.diffusion_recipe import DiffusionLoss, DiffusionRecipe
from models.networks.diffusion import Diffusion
from models.training import average, optimisers, pictures, summary
from models.training.alarms import Alarms, WaysOut
from models.training.augmentation import augment
from models.training.batches import Batches, withheld
from models.training.journal import Journal
from models.training.judge import Judge
from models.training.precision import autocast
from models.training.randomness import seed_of, start_step
from models.training.schedule import Clock
from models.training.strip import Strip

# Images of one grey have no deviation, and a denoiser needs one: about a grey level of 256.
FLATTEST = 0.01
WAYS_OUT = WaysOut(
    not_finite="lower learning_rate, clip gradients (clip_gradient_norm), or train in float32, in a new run",
    exploding="lower learning_rate, or clip gradients (clip_gradient_norm: 1)",
    collapse="lower sampler.guidance, raise sampler.steps, show it changed images (augmentation), or train it longer",
    dead="check pixel_range, raise sampler.steps, or train it longer",
)


def train(
    recipe: DiffusionRecipe,
    cohort: Cohort,
    run: Path,
    *,
    resume: bool = False,
    minutes: float | None = None,
    progress: Callable[[dict[str, Any]], None] | None = None,
    device: str = "auto",
) -> None:
    """One training, from cohort to a run that samples. See `models.training.train`."""
    # Patients are split already; read them once. Only the training split reaches the network.
    summary.require_splits(cohort)
    on = summary.device_named(device)
    px = recipe.network.image_px
    training, reals = pictures.read(cohort, "training", recipe, px)
    _, unseen = pictures.read(cohort, "validation", recipe, px)
    names = cohort.labels if recipe.conditional else ()
    batches = Batches(reals, names)
    judge = Judge(reals, unseen, batches.present, recipe.report_samples)

    # Network, optimiser and running average.
    torch.manual_seed(seed_of(recipe.seed, "weights", 0))
    definition = definition_of(recipe, len(names), reals.images)
    denoiser = networks.build(definition).to(on)
    assert isinstance(denoiser, Diffusion)
    kept: Diffusion = average.start(denoiser)
    rates = recipe.optimiser
    optimiser = torch.optim.Adam(denoiser.parameters(), rates.learning_rate, (rates.beta_1, rates.beta_2))
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
    step, images_seen, best, since_best = 0, 0, float("inf"), 0
    stateful: dict[str, Any] = {"denoiser": denoiser, "average": kept, "optimiser": optimiser}
    if journal.resumed:
        for name, each in stateful.items():
            each.load_state_dict(journal.resumed[name])
        alarms.resume(journal.resumed["alarms"])
        step, images_seen, best, since_best = (
            journal.resumed[key] for key in ("step", "images_seen", "best", "reports_since_best")
        )
    reported, since_report = images_seen, []
    for sentence in pictures.few_patients(reals, names):
        journal.warn(sentence)

    finished = recipe.schedule.is_over(images_seen, since_best)
    while not finished:
        draw = start_step(recipe.seed, step)
        optimisers.set_rate(optimiser, clock.learning_rate(images_seen, rates.learning_rate))

        # Draw reals, hide some of their classes, add noise of a random level to each.
        clean, labels = batches.draw(batch_size, draw)
        clean, _ = augment(clean.to(on), None, recipe.augmentation, draw)
        labels = withheld(labels, recipe.loss.label_dropout, len(names), draw)
        sigma = noise_levels(batch_size, recipe.loss, draw).to(on)
        noisy = clean + sigma[:, None, None, None] * torch.randn(clean.shape, generator=draw).to(on)

        # Take it off again.
        with autocast(on, recipe.schedule.precision):
            denoised = denoiser(noisy, sigma, None if labels is None else labels.to(on))
        loss = weighted_error(denoised, clean, sigma, denoiser.sigma_data)
        optimiser.zero_grad()
        loss.backward()
        if rates.clip_gradient_norm is not None:
            nn.utils.clip_grad_norm_(denoiser.parameters(), rates.clip_gradient_norm)
        optimiser.step()

        # Follow with the running average.
        step += 1
        average.follow(kept, denoiser, images_seen, batch_size, recipe.schedule.ema_half_life_images)
        images_seen += batch_size
        since_report.append(loss.item())
        alarms.losses(images_seen, denoiser=loss.item())
        journal.progress(images_seen, loss.item())
        finished = clock.fraction(images_seen) >= 1

        # Each `report_images`, and at the end: compare with unseen patients, keep the best, save panel and checkpoint.
        if finished or images_seen - reported >= recipe.schedule.report_images:
            panel = judge.panel(kept, on)
            score, spread = judge.kid(panel), judge.spread(panel)
            since_best = 0 if score < best else since_best + 1
            if score < best:
                best = score
                journal.keep_best({"state": kept.state_dict()})
            strip.add(panel.images, images_seen, clock.fraction(images_seen))
            # Levels differ from step to step, and the loss with them: only a mean can be compared.
            line = {"images_seen": images_seen, "loss": round(sum(since_report) / len(since_report), 5)}
            line |= {"validation_kid": round(score, 6)}
            journal.report(line | {"spread": round(min(spread.values(), default=float("nan")), 4)})
            alarms.look(clock.fraction(images_seen), images_seen, panel.images, spread)
            journal.save(
                {name: each.state_dict() for name, each in stateful.items()}
                | {"alarms": alarms.state(), "step": step, "images_seen": images_seen}
                | {"best": best, "reports_since_best": since_best}
            )
            alarms.sound()
            reported, since_report = images_seen, []
            finished = finished or recipe.schedule.is_over(images_seen, since_best)

    # Leave what sampling needs, with range, units and spacing of the slices.
    made = pictures.description(recipe, cohort, journal.data_hash, training, px, images_seen, batches.counts)
    version.write(run, made, definition, pictures.input_chain(recipe), None, 0.0, journal.best()["state"])
    journal.done(images_seen=images_seen, validation_kid=best, reports_since_best=since_best)


def definition_of(recipe: DiffusionRecipe, classes: int, reals: Tensor) -> dict[str, Any]:
    """`network_def` of the bundle: denoiser, sampler, and the mean and deviation of the training reals' pixels."""
    pixels = reals.double()
    chosen = recipe.sampler.model_dump(exclude={"kind"})
    return {
        "_target_": "models.networks.diffusion.Diffusion",
        **recipe.network.model_dump(mode="json"),
        "classes": classes,
        "data_mean": round(float(pixels.mean()), 4),
        "sigma_data": max(round(float(pixels.std()), 4), FLATTEST),
        "sampler": recipe.sampler.kind,
        **chosen,
    }


def noise_levels(count: int, loss: DiffusionLoss, source: torch.Generator) -> Tensor:
    """(count,) sigma, by the recipe's law."""
    return (loss.mean_log_sigma + loss.deviation_log_sigma * torch.randn(count, generator=source)).exp()


def weighted_error(denoised: Tensor, clean: Tensor, sigma: Tensor, sigma_data: float) -> Tensor:
    """The mean over images (B, 1, rows, columns), each weighted by its level (B,): Karras 2022, table 1."""
    weight = (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2
    return (weight * (denoised - clean).square().flatten(1).mean(1)).mean()
