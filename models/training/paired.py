"""Generation: picture -> picture, where training has both of the same slice (pix2pix: Isola 2017; SPADE: Park 2019).

Given a mask, another channel or coarser pixels, the generator minimises

    adversarial * (verdict of a critic of patches that sees both) + absolute_error * mean |made - true|
    + feature_matching * mean |maps of made - maps of true| + code * divergence of the code from N(0, 1)

MONAI's GanTrainer feeds the critic no condition, and its PatchAdversarialLoss has another least-squares loss for each
activation; the losses are those of `models.losses`. The critic is known to win here (Isola, section 3): what it is sure
of still says where the picture is wrong, and pixels beside the truth keep the generator going. So that is no alarm.

Kept is the best on validation: by the absolute error where what is given leaves one truth, because there what is made
up is wrong, however real it looks; by KID for masks, where one mask has many true pictures, and the error to the one
that was taken rewards their blurred mean.
"""

from __future__ import annotations

import torch
from torch import nn

from models import networks
from models.adversarial_recipe import AdversarialLoss
from models.networks.spade import Style
from models.networks.translator import enlarged
from models.paired_recipe import PairedRecipe, SpadeSettings
from models.training import average, optimisers, patches
from models.training.alarms import WaysOut
from models.training.couples import Couples, channels_of, described
from models.training.paired_parts import coded, critic_of, definition_of, matching, style_of
from models.training.precision import autocast
from models.training.session import Session, Stateful
from models.training.transfer import Part
from models.training.truth import Truth

WAYS_OUT = WaysOut(
    not_finite="lower learning_rate, or train in float32, in a new run",
    exploding="lower learning_rate or loss.adversarial",
    collapse="raise loss.absolute_error or loss.feature_matching, lower learning_rate, or train it longer",
    dead="lower learning_rate, or check pixel_range",
)


def train(recipe: PairedRecipe, session: Session) -> None:
    """One training, from a session's pairs to a run that makes pictures of pictures. See `models.training.train`."""
    # Networks, optimisers and running average; the style's encoder and the critic are for training alone.
    on, ranks, couples, unseen = session.device, session.ranks, session.reals, session.unseen
    assert isinstance(couples, Couples) and isinstance(unseen, Couples)
    rates, weights, schedule = recipe.optimiser, recipe.loss, recipe.schedule
    definition = definition_of(recipe, couples)
    generator = networks.build(definition).to(on)
    style = style_of(recipe, couples.planes).to(on)
    critic = critic_of(recipe, couples).to(on)
    makers = nn.ModuleList([generator, style])
    kept: nn.Module = average.start(generator)
    betas = rates.beta_1, rates.beta_2
    for_generator = torch.optim.Adam(makers.parameters(), rates.learning_rate, betas)
    for_critic = torch.optim.Adam(critic.parameters(), rates.learning_rate, betas)
    told = AdversarialLoss(kind=weights.kind)
    session.watch(WAYS_OUT)
    window_px = None if isinstance(recipe.network, SpadeSettings) else recipe.network.window_px
    names = [channel.name for channel in channels_of(session.cohort, recipe)[0]]
    truth = Truth(couples, unseen, names)
    session.best_by = "validation_kid" if recipe.source == "mask" else "validation_absolute_error"

    # Resume from the newest checkpoint, if there is one.
    stateful: dict[str, Stateful] = {"generator": generator, "style": style, "average": kept}
    stateful |= {"generator optimiser": for_generator}
    parts = [
        Part("generator", (generator, kept), lambda n: networks.build(definition)),
    ]
    if weights.adversarial:
        stateful |= {"critic": critic, "critic optimiser": for_critic}
        parts.append(Part("critic", (critic,), lambda n: critic_of(recipe, couples)))
    parts += [Part("style", (style,), lambda n: style_of(recipe, couples.planes))] if isinstance(style, Style) else []
    session.begin(stateful, definition, parts)

    while session.going:
        draw = session.draw()
        optimisers.set_rate(for_generator, session.learning_rate(rates.learning_rate))
        optimisers.set_rate(for_critic, session.learning_rate(rates.critic_learning_rate or rates.learning_rate))
        critic.requires_grad_(True)
        session.hold()

        # Draw pairs, and make pictures of what is given; of a mask, in the style of the true one.
        pairs = couples.draw(schedule.batch_size, window_px, recipe.augmentation, draw, on)
        given, wanted = map(ranks.share, pairs)
        with autocast(on, schedule.precision):
            code, divergence = coded(style, wanted, draw)
            made = (generator(given) if code is None else generator(given, code)).float()
        beside = enlarged(given, couples.factor)
        true_pair, made_pair = torch.cat([beside, wanted], 1), torch.cat([beside, made], 1)

        # Critic: true pairs up, made pairs down.
        critic_loss = torch.zeros((), device=on)
        if weights.adversarial:
            critic_loss = patches.critic_loss(told, critic, true_pair, made_pair, draw, schedule.precision)
            for_critic.zero_grad()
            ranks.backward(critic_loss, critic)
            for_critic.step()

        # Generator: near the truth, and past the critic, whose weights need no gradients.
        error = (made - wanted).abs().mean()
        loss = weights.absolute_error * error + weights.code * divergence
        if weights.adversarial:
            critic.requires_grad_(False)
            with autocast(on, schedule.precision):
                raised = critic(made_pair)
                true = critic(true_pair) if weights.feature_matching else []
            loss = loss + weights.adversarial * patches.verdict(told, raised)
            loss = loss + weights.feature_matching * matching(true, raised)
        for_generator.zero_grad()
        ranks.backward(loss, makers)
        for_generator.step()

        # Follow with the running average.
        loss, critic_loss, error = ranks.told(loss, critic_loss, error)
        session.took(schedule.batch_size, loss.item())
        average.follow(kept, generator, session.images_seen, schedule.batch_size, schedule.ema_half_life_images)
        session.alarms.losses(session.images_seen, generator=loss.item(), critic=critic_loss.item())

        # Each `report_images`, and at the end: compare with unseen patients, keep the best, save panel and checkpoint.
        if session.due:
            figures = {"loss": loss.item(), "critic_loss": critic_loss.item(), "error": error.item() / 2}
            figures = {name: round(value, 5) for name, value in figures.items()}
            session.report(truth.maker(kept), kept, figures, measure=truth.figures)

    # Leave what making needs.
    session.leave(definition, **described(session.cohort, recipe, session.training))
