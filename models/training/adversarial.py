"""Generation: noise -> slice, by a generator against a critic.

Losses and restraints: `models.losses`. DiffAugment (Zhao 2020) and ADA (Karras 2020) on reals and fakes alike, running
average of the generator always, classes with balanced batches. MONAI's GanTrainer has no running average, no gradient
penalty, no labels, and re-uses one batch for several critic steps, so the loop is our own.

Where the recipe grows, networks and reals are small at first (`models.training.growth`), and no early best is kept.

One step is `critic_steps` steps of the critic, each with fresh reals and noise, then one of the generator, on the noise
of the last. Images seen are those that the critic was shown.
"""

# torch leaves Tensor.backward and Tensor.split without types.
# mypy: disallow-untyped-calls=False

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from models import losses, networks
from models.adversarial_recipe import AdversarialRecipe
from models.networks import pairs
from models.networks.latent import FromNoise
from models.training import average, optimisers
from models.training.adaptive import Adaptation
from models.training.augmentation import augment_pictures, translate_and_cut
from models.training.growth import Growth
from models.training.placement import placed
from models.training.precision import autocast
from models.training.session import Session, Stateful
from models.training.transfer import Part


def train(recipe: AdversarialRecipe, session: Session) -> None:
    """One training, from a session's slices to a run that samples. See `models.training.train`."""
    # Networks, optimisers and running average.
    on, ranks = session.device, session.ranks
    classes, planes, dims = len(session.names), session.reals.planes, session.reals.dims
    defined = partial(pairs.generator, recipe.network, planes=planes, dims=dims)
    definition = defined(classes)
    growth = Growth(recipe.growing, recipe.network.image_px)
    made = networks.build(definition)
    assert isinstance(made, FromNoise)
    both = growth.around(made, pairs.critic(recipe.network, classes, planes, dims))
    generator, critic = placed(both[0], on), placed(both[1], on)
    kept = average.start(generator)
    masks = session.reals.mask_planes
    rates, loss, schedule = recipe.optimiser, recipe.loss, recipe.schedule
    for_generator = optimisers.build(generator.parameters(), rates)
    for_critic = optimisers.build(critic.parameters(), rates)
    adaptation = Adaptation(recipe.adaptive)
    alarms = session.watch(middle=None if loss.kind == "wasserstein" else losses.middle(loss))

    # Resume from the newest checkpoint, or start from another model, if there is one.
    stateful: dict[str, Stateful] = {"generator": generator, "discriminator": critic, "average": kept}
    stateful |= {"generator optimiser": for_generator, "critic optimiser": for_critic, "adaptation": adaptation}
    stateful |= {"growth": growth}
    parts = [
        Part("generator", (growth.released(generator), growth.released(kept)), lambda n: networks.build(defined(n))),
        Part("critic", (growth.released(critic),), lambda n: pairs.critic(recipe.network, n, planes, dims)),
    ]
    session.begin(stateful, definition, parts)
    if recipe.network.critic_sees_batch and loss.gradient_penalty:
        session.journal.warn("batch norm in the critic mixes the images whose slopes gradient_penalty takes one by one")

    session.clock.part(growth.end, 1.0)

    while session.going:
        draw = session.draw()
        growth.move(session.fraction, generator, critic, kept)
        optimisers.set_rate(for_generator, session.learning_rate(rates.learning_rate))
        optimisers.set_rate(for_critic, session.learning_rate(rates.critic_learning_rate or rates.learning_rate))

        critic.requires_grad_(True)
        session.hold()
        for turn in range(session.step * rates.critic_steps, (session.step + 1) * rates.critic_steps):
            # Draw reals and noise; the same augmentation policy for reals and fakes.
            real, labels = session.batches.draw(schedule.batch_size, draw)
            real = augment_pictures(real.to(on), recipe.augmentation, draw, masks)
            labels = None if labels is None else ranks.share(labels).to(on)
            real, latent = (
                growth.shown(ranks.share(real)),
                ranks.share(generator.noise(schedule.batch_size, draw)).to(on),
            )

            # Critic: reals up, fakes down, within its restraints; R1 now and then, with the weight of those between.
            with autocast(on, schedule.precision):
                fake = generator(latent, labels).float()
                shown_real, shown_fake = (show(each, recipe, adaptation, draw) for each in (real, fake.detach()))
                real_scores, fake_scores = scores(critic, shown_real, shown_fake, labels, loss.separate_batches)
            critic_loss = losses.of_critic(loss, real_scores, fake_scores, draw)
            told = critic_loss
            if loss.gradient_penalty:
                penalty = losses.gradient_penalty(critic.forward, shown_real, shown_fake, draw, labels)
                told = told + loss.gradient_penalty * penalty
            if recipe.r1_gamma and turn % rates.r1_every_steps == 0:
                slope = losses.slope(critic.forward, show(real, recipe, adaptation, draw), labels)
                told = told + rates.r1_every_steps * recipe.r1_gamma / 2 * slope
            for_critic.zero_grad()
            ranks.backward(told, critic)
            optimisers.step(for_critic, rates)
            if loss.weight_clip:
                losses.clip_weights((each for each in critic.parameters() if each.requires_grad), loss.weight_clip)
            real_scores, fake_scores = ranks.gather(real_scores.detach()), ranks.gather(fake_scores.detach())
            adaptation.learn(real_scores - losses.middle(loss), schedule.batch_size)

        # Generator: fakes up. The critic's weights need no gradients.
        critic.requires_grad_(False)
        with autocast(on, schedule.precision):
            raised = critic(show(fake, recipe, adaptation, draw), labels)
        generator_loss = losses.of_generator(loss, raised.float())
        for_generator.zero_grad()
        ranks.backward(generator_loss, generator)
        optimisers.step(for_generator, rates)

        # Follow with the running average.
        critic_loss, generator_loss = ranks.told(critic_loss, generator_loss)
        shown = schedule.batch_size * rates.critic_steps
        session.took(shown, generator_loss.item())
        average.follow(kept, generator, session.images_seen, shown, schedule.ema_half_life_images)
        alarms.step(critic_loss.item(), generator_loss.item(), real_scores, fake_scores, session.images_seen)

        # Each `report_images`, and at the end: compare with unseen patients, keep the best, save panel and checkpoint.
        if session.due:
            told_losses = {"loss": generator_loss.item(), "critic_loss": critic_loss.item()}
            session.report(
                kept,
                growth.released(kept),
                {name: round(value, 5) for name, value in told_losses.items()},
                may_be_best=growth.whole,
                after=({"augmentation_p": round(adaptation.p, 5)} if recipe.adaptive else {}) | growth.told,
            )

    # Leave what sampling needs.
    session.leave(definition)


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
