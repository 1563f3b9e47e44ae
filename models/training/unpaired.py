"""Generation: picture -> picture, where training has no pairs (CycleGAN: Zhu 2017).

Two generators, there: A -> B and back: B -> A, and a critic of each kind. The generators minimise

    adversarial * (verdicts on there(a) and back(b)) + cycle * (|back(there(a)) - a| + |there(back(b)) - b|)
    + identity * (|there(b) - b| + |back(a) - a|)

with |.| the mean absolute difference. Of a half of the training patients only A is shown, of the others only B.
Released is `there` alone. Kept is the best by KID, for unpaired data know no true picture of any slice; the error to
it, where validation has both, is only told. MONAI has no such trainer.
"""

from __future__ import annotations

import torch
from torch import nn

from models import networks
from models.adversarial_recipe import AdversarialLoss
from models.networks.patch_critic import PatchCritic
from models.training import average, optimisers, patches
from models.training.couples import Couples, channels_of, described, halves
from models.training.paired import WAYS_OUT
from models.training.pool import Pool
from models.training.precision import autocast
from models.training.session import Session, Stateful
from models.training.transfer import Part
from models.training.truth import Truth
from models.unpaired_recipe import UnpairedRecipe


def train(recipe: UnpairedRecipe, session: Session) -> None:
    """One training, from a session's slices to a run that translates. See `models.training.train`."""
    # Networks, optimisers, pools and running average.
    on, ranks, couples, unseen = session.device, session.ranks, session.reals, session.unseen
    assert isinstance(couples, Couples) and isinstance(unseen, Couples)
    rates, weights, schedule = recipe.optimiser, recipe.loss, recipe.schedule
    ours, theirs = halves(couples)
    planes = couples.given.shape[1], couples.planes
    target = {"_target_": "models.networks.translator.Translator", "factor": 1}
    chosen = recipe.network.model_dump(mode="json", exclude={"kind", "window_px"})
    definition = {**target, **chosen, "given": planes[0], "planes": planes[1]}
    there = networks.build(definition).to(on)
    backwards = definition | {"given": planes[1], "planes": planes[0]}
    back = networks.build(backwards).to(on)
    critic_a, critic_b = (_critic(recipe, count).to(on) for count in planes)
    makers, critics = nn.ModuleList([there, back]), nn.ModuleList([critic_a, critic_b])
    kept: nn.Module = average.start(there)
    betas = rates.beta_1, rates.beta_2
    for_generators = torch.optim.Adam(makers.parameters(), rates.learning_rate, betas)
    for_critics = torch.optim.Adam(critics.parameters(), rates.learning_rate, betas)
    pool_a, pool_b = Pool(recipe.pool_images), Pool(recipe.pool_images)
    told, window_px = AdversarialLoss(kind=weights.kind), recipe.network.window_px
    session.watch(WAYS_OUT)
    truth = Truth(couples, unseen, [channel.name for channel in channels_of(session.cohort, recipe)[0]])

    # Resume from the newest checkpoint, if there is one.
    stateful: dict[str, Stateful] = {"there": there, "back": back, "critics": critics, "average": kept}
    stateful |= {"generators' optimiser": for_generators, "critics' optimiser": for_critics}
    stateful |= {"pool of given": pool_a, "pool of wanted": pool_b}
    parts = [
        Part("there", (there, kept), lambda n: networks.build(definition)),
        Part("back", (back,), lambda n: networks.build(backwards)),
        Part("critics", (critics,), lambda n: nn.ModuleList(_critic(recipe, count) for count in planes)),
    ]
    session.begin(stateful, definition, parts)

    while session.going:
        draw = session.draw()
        optimisers.set_rate(for_generators, session.learning_rate(rates.learning_rate))
        optimisers.set_rate(for_critics, session.learning_rate(rates.critic_learning_rate or rates.learning_rate))
        session.hold()

        # Draw pictures of either kind, of other patients; go there, and back again.
        a, _ = ours.draw(schedule.batch_size, window_px, recipe.augmentation, draw, on)
        _, b = theirs.draw(schedule.batch_size, window_px, recipe.augmentation, draw, on)
        a, b = ranks.share(a), ranks.share(b)
        with autocast(on, schedule.precision):
            made_b, made_a = there(a), back(b)
            again_a, again_b = back(made_b), there(made_a)
            same = [there(b) - b, back(a) - a] if weights.identity else []

        # Generators: past the critics, whose weights need no gradients, and back to where they began.
        critics.requires_grad_(False)
        with autocast(on, schedule.precision):
            raised = [*critic_b(made_b), *critic_a(made_a)]
        cycle = (again_a - a).float().abs().mean() + (again_b - b).float().abs().mean()
        loss = weights.adversarial * 2 * patches.verdict(told, raised) + weights.cycle * cycle
        loss = loss + weights.identity * sum((each.float().abs().mean() for each in same), torch.zeros((), device=on))
        for_generators.zero_grad()
        ranks.backward(loss, makers)
        for_generators.step()

        # Critics: true pictures up, made ones down, some of them made earlier.
        critics.requires_grad_(True)
        session.hold()
        shown_b, shown_a = (
            ranks.share(pool.exchange(ranks.gather(made.detach().float()), draw))
            for pool, made in ((pool_b, made_b), (pool_a, made_a))
        )
        pairs = (critic_b, b, shown_b), (critic_a, a, shown_a)
        of_each = [patches.critic_loss(told, *each, draw, schedule.precision) for each in pairs]
        critic_loss = torch.stack(of_each).mean()
        for_critics.zero_grad()
        ranks.backward(critic_loss, critics)
        for_critics.step()

        # Follow with the running average.
        loss, critic_loss, cycle = ranks.told(loss, critic_loss, cycle)
        session.took(schedule.batch_size, loss.item())
        average.follow(kept, there, session.images_seen, schedule.batch_size, schedule.ema_half_life_images)
        session.alarms.losses(session.images_seen, generators=loss.item(), critics=critic_loss.item())

        # Each `report_images`, and at the end: compare with unseen patients, keep the best, save panel and checkpoint.
        if session.due:
            figures = {"loss": loss.item(), "critic_loss": critic_loss.item(), "cycle": cycle.item() / 2}
            figures = {name: round(value, 5) for name, value in figures.items()}
            session.report(truth.maker(kept), kept, figures, measure=truth.figures)

    # Leave what making needs.
    session.leave(definition, **described(session.cohort, recipe, session.training))


def _critic(recipe: UnpairedRecipe, planes: int) -> nn.Module:
    return PatchCritic(planes, **recipe.critic.model_dump())
