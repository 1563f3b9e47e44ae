"""Generation: noise -> slice, by a generator against a critic.

Losses and restraints: `models.losses`. DiffAugment (Zhao 2020) and ADA (Karras 2020) on reals and fakes alike, running
average of the generator always, classes with balanced batches. MONAI's GanTrainer has no running average, no gradient
penalty, no labels, and re-uses one batch for several critic steps, so the loop is our own.

One step is `critic_steps` steps of the critic, each with fresh reals and noise, then one of the generator, on the noise
of the last. Images seen are those that the critic was shown.
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
from models import losses, networks, version
from models.adversarial_recipe import AdversarialRecipe
from models.networks import pairs
from models.networks.latent import FromNoise
from models.training import average, optimisers, pictures, summary
from models.training.adaptive import Adaptation
from models.training.alarms import Alarms
from models.training.augmentation import augment, translate_and_cut
from models.training.batches import Batches
from models.training.journal import Journal
from models.training.judge import Judge
from models.training.precision import autocast
from models.training.randomness import seed_of, start_step
from models.training.schedule import Clock
from models.training.strip import Strip


def train(
    recipe: AdversarialRecipe,
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

    # Networks, optimisers and running average.
    torch.manual_seed(seed_of(recipe.seed, "weights", 0))
    definition = pairs.generator(recipe.network, len(names))
    generator = networks.build(definition).to(on)
    assert isinstance(generator, FromNoise)
    critic = pairs.critic(recipe.network, len(names)).to(on)
    kept: FromNoise = average.start(generator)
    rates, loss = recipe.optimiser, recipe.loss
    for_generator = optimisers.build(generator.parameters(), rates)
    for_critic = optimisers.build(critic.parameters(), rates)
    adaptation = Adaptation(recipe.adaptive)
    batch_size, gamma = recipe.schedule.batch_size, recipe.r1_gamma

    # Resume from the newest checkpoint, if there is one.
    clock = Clock(recipe.schedule, minutes)
    journal = Journal(run, recipe, cohort, clock, progress, resume)
    strip = Strip(run, recipe.name, recipe.seed, len(batches.present))
    alarms = Alarms(
        journal.warn,
        stop=recipe.alarms == "stop",
        names=names,
        middle=None if loss.kind == "wasserstein" else losses.middle(loss),
        contrast=float(reals.images.flatten(1).std(1).mean()),
    )
    step, images_seen, best, since_best, reported = 0, 0, float("inf"), 0, 0
    stateful = {"generator": generator, "discriminator": critic, "average": kept}
    if journal.resumed:
        for name, net in stateful.items():
            net.load_state_dict(journal.resumed[name])
        for optimiser, state in zip((for_generator, for_critic), journal.resumed["optimisers"], strict=True):
            optimiser.load_state_dict(state)
        adaptation.resume(journal.resumed["adaptation"])
        alarms.resume(journal.resumed["alarms"])
        step, images_seen, best, since_best = (
            journal.resumed[key] for key in ("step", "images_seen", "best", "reports_since_best")
        )
        reported = images_seen
    for sentence in pictures.few_patients(reals, names):
        journal.warn(sentence)
    if recipe.network.critic_sees_batch and loss.gradient_penalty:
        journal.warn("batch norm in the critic mixes the images whose slopes gradient_penalty takes one by one")

    finished = recipe.schedule.is_over(images_seen, since_best)
    while not finished:
        draw = start_step(recipe.seed, step)
        optimisers.set_rate(for_generator, clock.learning_rate(images_seen, rates.learning_rate))
        optimisers.set_rate(
            for_critic, clock.learning_rate(images_seen, rates.critic_learning_rate or rates.learning_rate)
        )

        critic.requires_grad_(True)
        for turn in range(step * rates.critic_steps, (step + 1) * rates.critic_steps):
            # Draw reals and noise; the same augmentation policy for reals and fakes.
            real, labels = batches.draw(batch_size, draw)
            real, _ = augment(real.to(on), None, recipe.augmentation, draw)
            labels = None if labels is None else labels.to(on)
            latent = generator.noise(batch_size, draw).to(on)

            # Critic: reals up, fakes down, within its restraints; R1 now and then, with the weight of those between.
            with autocast(on, recipe.schedule.precision):
                fake = generator(latent, labels).float()
                shown_real, shown_fake = (show(each, recipe, adaptation, draw) for each in (real, fake.detach()))
                real_scores, fake_scores = scores(critic, shown_real, shown_fake, labels, loss.separate_batches)
            critic_loss = losses.of_critic(loss, real_scores, fake_scores, draw)
            told = critic_loss
            if loss.gradient_penalty:
                penalty = losses.gradient_penalty(critic, shown_real, shown_fake, draw, labels)
                told = told + loss.gradient_penalty * penalty
            if gamma and turn % rates.r1_every_steps == 0:
                slope = losses.slope(critic, show(real, recipe, adaptation, draw), labels)
                told = told + rates.r1_every_steps * gamma / 2 * slope
            for_critic.zero_grad()
            told.backward()
            optimisers.step(for_critic, rates)
            if loss.weight_clip:
                losses.clip_weights(critic.parameters(), loss.weight_clip)
            adaptation.learn(real_scores - losses.middle(loss), batch_size)
            images_seen += batch_size

        # Generator: fakes up. The critic's weights need no gradients.
        critic.requires_grad_(False)
        with autocast(on, recipe.schedule.precision):
            raised = critic(show(fake, recipe, adaptation, draw), labels)
        generator_loss = losses.of_generator(loss, raised.float())
        for_generator.zero_grad()
        generator_loss.backward()
        optimisers.step(for_generator, rates)

        # Follow with the running average.
        step += 1
        shown = batch_size * rates.critic_steps
        average.follow(kept, generator, images_seen, shown, recipe.schedule.ema_half_life_images)
        alarms.step(critic_loss.item(), generator_loss.item(), real_scores, fake_scores, images_seen)
        journal.progress(images_seen, generator_loss.item())
        finished = clock.fraction(images_seen) >= 1

        # Each `report_images`, and at the end: compare with unseen patients, keep the best, save panel and checkpoint.
        if finished or images_seen - reported >= recipe.schedule.report_images:
            reported = images_seen
            panel = judge.panel(kept, on)
            score, spread = judge.kid(panel), judge.spread(panel)
            since_best = 0 if score < best else since_best + 1
            if score < best:
                best = score
                journal.keep_best({"state": kept.state_dict()})
            strip.add(panel.images, images_seen, clock.fraction(images_seen))
            line = {"images_seen": images_seen, "loss": round(generator_loss.item(), 5)}
            line |= {"critic_loss": round(critic_loss.item(), 5), "validation_kid": round(score, 6)}
            line |= {"spread": round(min(spread.values(), default=float("nan")), 4)}
            journal.report(line | ({"augmentation_p": round(adaptation.p, 5)} if recipe.adaptive else {}))
            alarms.look(clock.fraction(images_seen), images_seen, panel.images, spread)
            journal.save(
                {name: net.state_dict() for name, net in stateful.items()}
                | {"optimisers": [optimiser.state_dict() for optimiser in (for_generator, for_critic)]}
                | {"adaptation": adaptation.state(), "alarms": alarms.state(), "step": step}
                | {"images_seen": images_seen, "best": best, "reports_since_best": since_best}
            )
            alarms.sound()
            finished = finished or recipe.schedule.is_over(images_seen, since_best)

    # Leave what sampling needs, with range, units and spacing of the slices.
    made = pictures.description(recipe, cohort, journal.data_hash, training, px, images_seen, batches.counts)
    version.write(run, made, definition, pictures.input_chain(recipe), None, 0.0, journal.best()["state"])
    journal.done(images_seen=images_seen, validation_kid=best, reports_since_best=since_best)


def show(images: Tensor, recipe: AdversarialRecipe, adaptation: Adaptation, draw: torch.Generator) -> Tensor:
    """What the critic is shown: DiffAugment, then ADA, as the recipe asks."""
    return adaptation.change(translate_and_cut(images, recipe.loss.translation, recipe.loss.cutout, draw), draw)


def scores(
    critic: nn.Module, real: Tensor, fake: Tensor, labels: Tensor | None, separate: bool
) -> tuple[Tensor, Tensor]:
    """(B,) scores of reals and of fakes, which are of the same classes; from two batches, or from one of both."""
    if separate:
        return critic(real, labels).float(), critic(fake, labels).float()
    both = critic(torch.cat([real, fake]), None if labels is None else torch.cat([labels, labels])).float()
    return both[: len(real)], both[len(real) :]
