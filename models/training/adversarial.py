"""Generation: noise -> slice, by a DCGAN.

Non-saturating logistic loss (Goodfellow 2014), lazy R1 on reals (Mescheder 2018; every 16th step, weight times 16:
Karras 2020), DiffAugment on reals and fakes alike (Zhao 2020), running average of the generator. MONAI's GanTrainer
has no running average, no gradient penalty, and re-uses one batch for several critic steps, so the loop is our own.
"""

# torch leaves Tensor.backward and Tensor.split without types.
# mypy: disallow-untyped-calls=False

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dicom_io.cohort import Cohort
from models import cases, domain, networks, sheet, version
from models.evaluation.features import RandomFeatures
from models.evaluation.fidelity import centre_and_scale, kid
from models.generator import noise
from models.networks.generator import Discriminator
from models.recipe import GenerationRecipe
from models.training import average, summary
from models.training.augmentation import augment, translate_and_cut
from models.training.journal import Journal
from models.training.precision import autocast
from models.training.randomness import seed_of, start_step
from models.training.schedule import Clock

FEW_PATIENTS = 20
PANEL = 16


def train(
    recipe: GenerationRecipe,
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
    steps = input_chain(recipe)
    training = cases.load(cohort, cohort.training, steps)
    images = cases.squares(training, recipe.network.image_px, recipe.minimum_signal)
    validation = cases.load(cohort, cohort.validation, steps)
    unseen = cases.squares(validation, recipe.network.image_px, recipe.minimum_signal)
    features = RandomFeatures()
    unseen_features = features(unseen[:512])
    centre, scale = centre_and_scale(unseen_features)

    # Networks, optimisers and running average.
    torch.manual_seed(seed_of(recipe.seed, "weights", 0))
    shape = recipe.network
    definition = {
        "_target_": "models.networks.generator.Generator",
        "image_px": shape.image_px,
        "features": shape.features,
        "latent": shape.latent,
    }
    generator = networks.build(definition).to(on)
    discriminator = Discriminator(shape.image_px, shape.features).to(on)
    kept = average.start(generator)
    rates = recipe.optimiser
    betas = (rates.beta_1, rates.beta_2)
    optimisers = [
        torch.optim.Adam(net.parameters(), lr=rates.learning_rate, betas=betas) for net in (generator, discriminator)
    ]
    for_generator, for_discriminator = optimisers
    batch_size = recipe.schedule.batch_size
    gamma = 0.0002 * shape.image_px**2 / batch_size if rates.r1_gamma is None else rates.r1_gamma

    # Resume from the newest checkpoint, if there is one.
    clock = Clock(recipe.schedule, minutes)
    journal = Journal(run, recipe, cohort, clock, progress, resume)
    step, images_seen, best, reported = 0, 0, float("inf"), 0
    if journal.resumed:
        for name, net in (("generator", generator), ("discriminator", discriminator), ("average", kept)):
            net.load_state_dict(journal.resumed[name])
        for optimiser, state in zip(optimisers, journal.resumed["optimisers"], strict=True):
            optimiser.load_state_dict(state)
        step, images_seen, best = (journal.resumed[key] for key in ("step", "images_seen", "best"))
        reported = images_seen
    patients = len({case.patient for case in training})
    if patients < FEW_PATIENTS:
        journal.warn(
            f"{patients} training patients are fewer than {FEW_PATIENTS}: the generator will repeat what it saw"
        )

    finished = images_seen >= recipe.schedule.total_images
    while not finished:
        # Draw reals and noise; the same augmentation policy for reals and fakes.
        draw = start_step(recipe.seed, step)
        chosen = torch.randint(len(images), (batch_size,), generator=draw)
        real, _ = augment(images[chosen].to(on), None, recipe.augmentation, draw)
        latent = torch.randn(batch_size, shape.latent, generator=draw).to(on)
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = clock.learning_rate(images_seen, rates.learning_rate)

        # Discriminator: reals up, fakes down; now and then the slope at reals (R1).
        with autocast(on, recipe.schedule.precision):
            fake = generator(latent).float()
            real_logits = discriminator(differ(real, recipe, draw))
            fake_logits = discriminator(differ(fake.detach(), recipe, draw))
        loss = F.softplus(-real_logits.float()).mean() + F.softplus(fake_logits.float()).mean()
        critic_loss = loss.item()
        if step % rates.r1_every_steps == 0:
            loss = loss + rates.r1_every_steps * gamma / 2 * slope(discriminator, differ(real, recipe, draw))
        for_discriminator.zero_grad()
        loss.backward()
        for_discriminator.step()

        # Generator: fakes up.
        with autocast(on, recipe.schedule.precision):
            fake_logits = discriminator(differ(fake, recipe, draw))
        generator_loss = F.softplus(-fake_logits.float()).mean()
        for_generator.zero_grad()
        generator_loss.backward()
        for_generator.step()

        # Follow with the running average.
        step, images_seen = step + 1, images_seen + batch_size
        average.follow(kept, generator, images_seen, batch_size, recipe.schedule.ema_half_life_images)
        journal.progress(images_seen, generator_loss.item())
        finished = clock.fraction(images_seen) >= 1

        # Each `report_images`, and at the end: compare with unseen patients, keep the best, save panel and checkpoint.
        if finished or images_seen - reported >= recipe.schedule.report_images:
            reported = images_seen
            samples = panel(kept, max(PANEL, min(len(unseen_features), 256)), shape.latent, on)
            score = kid((features(samples) - centre) / scale, (unseen_features - centre) / scale)
            if score < best:
                best = score
                journal.keep_best({"state": kept.state_dict()})
            sheet.save(
                samples[:PANEL, 0].numpy(), (-1.0, 1.0), run / "samples.png", model=recipe.name, seed=recipe.seed
            )
            line = {"images_seen": images_seen, "loss": round(generator_loss.item(), 5)}
            journal.report(line | {"critic_loss": round(critic_loss, 5), "validation_kid": round(score, 6)})
            journal.save(
                {
                    "generator": generator.state_dict(),
                    "discriminator": discriminator.state_dict(),
                    "average": kept.state_dict(),
                    "optimisers": [optimiser.state_dict() for optimiser in optimisers],
                    "step": step,
                    "images_seen": images_seen,
                    "best": best,
                }
            )

    # Leave what sampling needs, with range, units and spacing of the slices.
    description = version.Description(
        name=recipe.name,
        task="generation",
        labels=cohort.labels,
        channels=cohort.channels[:1],
        domain=domain.observed([case.source for case in training], cohort.channels),
        saw=summary.saw(recipe, cohort, journal.data_hash, training, images_seen),
        pixel_range=recipe.pixel_range,
        units="1" if recipe.preprocessing else cohort.channels[0].units,
        spacing_mm=cases.square_spacing_mm(training, shape.image_px),
        minimum_signal=recipe.minimum_signal,
        audit_samples=recipe.audit_samples,
    )
    version.write(run, description, definition, steps, None, 0.0, journal.best()["state"])
    journal.done(images_seen=images_seen, validation_kid=best)


def input_chain(recipe: GenerationRecipe) -> tuple[dict[str, Any], ...]:
    """The recipe's chain, then pixel_range to [-1, 1]."""
    low, high = recipe.pixel_range
    return (
        *recipe.preprocessing,
        {
            "_target_": "ScaleIntensityRanged",
            "keys": "image",
            "a_min": low,
            "a_max": high,
            "b_min": -1.0,
            "b_max": 1.0,
            "clip": True,
        },
    )


def differ(images: Tensor, recipe: GenerationRecipe, draw: torch.Generator) -> Tensor:
    """DiffAugment as the recipe asks."""
    return translate_and_cut(images, recipe.loss.translation, recipe.loss.cutout, draw)


def slope(discriminator: nn.Module, real: Tensor) -> Tensor:
    """R1: mean squared norm of the discriminator's gradient at reals."""
    real = real.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(real).sum(), real, create_graph=True)
    return gradient.square().flatten(1).sum(1).mean()


@torch.inference_mode()
def panel(network: nn.Module, count: int, latent: int, on: torch.device) -> Tensor:
    """Samples of fixed seeds, (count, 1, px, px) on the CPU."""
    z = torch.stack([noise(0, index, latent) for index in range(count)]).to(on)
    return torch.cat([network(batch).cpu() for batch in z.split(32)])
