"""Adversarial losses and what restrains a critic: closed forms, and eight Gaussians for every one of them."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from models import losses
from models.adversarial_recipe import AdversarialLoss, AdversarialOptimiser
from models.training import optimisers

LOSSES = {
    "non-saturating": AdversarialLoss(),
    "smoothed and flipped": AdversarialLoss(label_smoothing=0.1, label_flipping=0.05),
    "least-squares": AdversarialLoss(kind="least-squares"),
    "hinge": AdversarialLoss(kind="hinge"),
    "WGAN-GP": AdversarialLoss(kind="wasserstein", gradient_penalty=1.0),
    "WGAN with clipped weights": AdversarialLoss(kind="wasserstein", weight_clip=0.2),
}
OPTIMISERS = {
    "WGAN-GP": AdversarialOptimiser(learning_rate=1e-3, beta_2=0.9, critic_steps=3),
    "WGAN with clipped weights": AdversarialOptimiser(kind="rmsprop", learning_rate=1e-3, critic_steps=3),
}
USUAL = AdversarialOptimiser(learning_rate=1e-3)


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Closed forms: scores of reals are 2 and -1, of fakes 3 and -4.

REAL, FAKE = torch.tensor([2.0, -1.0], dtype=torch.float64), torch.tensor([3.0, -4.0], dtype=torch.float64)


def logistic(x: float) -> float:
    return math.log1p(math.exp(x))


@pytest.mark.parametrize(
    ("loss", "critic", "generator"),
    [
        (
            AdversarialLoss(),
            (logistic(-2) + logistic(1)) / 2 + (logistic(3) + logistic(-4)) / 2,
            (logistic(-3) + logistic(4)) / 2,
        ),
        (
            AdversarialLoss(kind="least-squares", fake_target=-1, real_target=1, generator_target=0.5),
            ((1 + 4) / 2 + (16 + 9) / 2) / 2,
            (2.5**2 + 4.5**2) / 2 / 2,
        ),
        (AdversarialLoss(kind="hinge"), (0 + 2) / 2 + (4 + 0) / 2, 0.5),
        (AdversarialLoss(kind="wasserstein", weight_clip=1), -0.5 - 0.5, 0.5),
        (
            AdversarialLoss(label_smoothing=0.1),
            0.9 * (logistic(-2) + logistic(1)) / 2
            + 0.1 * (logistic(2) + logistic(-1)) / 2
            + (logistic(3) + logistic(-4)) / 2,
            (logistic(-3) + logistic(4)) / 2,
        ),
        (
            AdversarialLoss(kind="least-squares", label_smoothing=0.25),
            ((1.25**2 + 1.75**2) / 2 + (9 + 16) / 2) / 2,
            (4 + 25) / 2 / 2,
        ),
    ],
)
def test_each_loss_is_its_closed_form(loss, critic, generator):
    assert float(losses.of_critic(loss, REAL, FAKE, draw())) == pytest.approx(critic)
    assert float(losses.of_generator(loss, FAKE)) == pytest.approx(generator)


def test_a_smoothed_critic_is_best_at_the_odds_of_its_labels():
    scores = torch.linspace(-5, 5, 2001, dtype=torch.float64)
    loss = AdversarialLoss(label_smoothing=0.1)
    costs = torch.stack([losses.of_critic(loss, score[None], torch.tensor([-9.0]), draw()) for score in scores])
    assert float(scores[costs.argmin()]) == pytest.approx(math.log(0.9 / 0.1), abs=0.01)


def test_flipping_changes_the_names_of_the_share_that_was_asked_for():
    real, fake = torch.ones(20_000), -torch.ones(20_000)
    shown_real, shown_fake = losses._flipped(real, fake, 0.2, draw())
    assert float((shown_real < 0).float().mean()) == pytest.approx(0.2, abs=0.01)
    assert torch.equal(shown_real, -shown_fake)


def test_nothing_is_drawn_where_no_label_is_flipped():
    used = draw(3)
    losses.of_critic(AdversarialLoss(), REAL, FAKE, used)
    assert torch.equal(used.get_state(), draw(3).get_state())


# Restraints.


class Linear(nn.Module):
    """A critic whose slope is |weight| everywhere."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(slope * torch.ones(16) / 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1) @ self.weight


def test_r1_and_the_gradient_penalty_of_a_linear_critic_are_what_its_slope_says():
    images, others = torch.rand(5, 1, 4, 4), torch.rand(5, 1, 4, 4)
    assert float(losses.slope(Linear(3.0), images).detach()) == pytest.approx(9.0)
    assert float(losses.gradient_penalty(Linear(3.0), images, others, draw()).detach()) == pytest.approx(4.0)


def test_the_penalty_is_taken_between_reals_and_fakes_and_leaves_the_generator_alone():
    class Square(nn.Module):
        def forward(self, images):
            return images.flatten(1).square().sum(1) / 2  # the gradient at x is x

    real, fake = torch.full((4000, 1, 1, 1), 2.0), torch.full((4000, 1, 1, 1), 4.0, requires_grad=True)
    # (|x| - 1)^2 for x uniform between 2 and 4.
    penalty = losses.gradient_penalty(Square(), real, fake, draw())
    assert float(penalty.detach()) == pytest.approx((3**3 - 1) / 3 / 2, rel=0.03)
    penalty.backward()
    assert fake.grad is None


@pytest.mark.parametrize("start", [0.05, 8.0])
def test_the_gradient_penalty_drives_the_slope_of_a_critic_to_one(start):
    critic = Linear(start)
    optimiser = torch.optim.Adam(critic.parameters(), lr=0.02, betas=(0.0, 0.9))
    source = draw()
    for _ in range(600):
        real, fake = torch.randn(32, 1, 4, 4, generator=source) + 1, torch.randn(32, 1, 4, 4, generator=source)
        loss = losses.of_critic(LOSSES["WGAN-GP"], critic(real), critic(fake), source)
        loss = loss + 100 * losses.gradient_penalty(critic, real, fake, source)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert float(critic.weight.detach().norm()) == pytest.approx(1.0, abs=0.1)


def test_clipped_weights_stay_within_the_limit():
    critic = nn.Linear(40, 3)
    losses.clip_weights(critic.parameters(), 0.01)
    assert max(float(weight.detach().abs().max()) for weight in critic.parameters()) == pytest.approx(0.01)


@pytest.mark.parametrize("name", LOSSES)
def test_constant_images_keep_every_loss_and_gradient_finite(name):
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Conv2d(1, 4, 3), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(16, 1), nn.Flatten(0))
    flat = torch.full((4, 1, 4, 4), -1.0)
    loss = losses.of_critic(LOSSES[name], critic(flat), critic(flat), draw())
    loss = loss + losses.gradient_penalty(critic, flat, flat, draw()) + losses.slope(critic, flat)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(weight.grad).all() for weight in critic.parameters())


def test_a_critic_without_any_slope_has_a_finite_gradient_of_the_penalty():
    critic = Linear(0.0)
    losses.gradient_penalty(critic, torch.zeros(3, 1, 4, 4), torch.zeros(3, 1, 4, 4), draw()).backward()
    assert torch.isfinite(critic.weight.grad).all()


# Eight Gaussians on a circle.


def centres() -> torch.Tensor:
    angles = torch.arange(8) * math.pi / 4
    return torch.stack([angles.cos(), angles.sin()], 1)


SIGMA = 0.05


def covered(samples: torch.Tensor) -> int:
    """Modes that at least 2 of 100 samples lie on, within three standard deviations."""
    distance, nearest = torch.cdist(samples, centres()).min(1)
    counts = torch.bincount(nearest[distance < 3 * SIGMA], minlength=8)
    return int((counts >= 0.02 * len(samples)).sum())


def layers(*widths: int) -> nn.Sequential:
    parts = [part for a, b in itertools.pairwise(widths) for part in (nn.Linear(a, b), nn.LeakyReLU(0.2))]
    return nn.Sequential(*parts[:-1])


def learned(loss: AdversarialLoss, settings: AdversarialOptimiser, steps: int = 800) -> torch.Tensor:
    """2000 samples of a small generator (its running average), trained as the loop does."""
    torch.manual_seed(0)
    source, batch = draw(), 128
    generator, critic = layers(8, 64, 64, 2), nn.Sequential(layers(2, 64, 64, 1), nn.Flatten(0))
    for_generator = optimisers.build(generator.parameters(), settings)
    for_critic = optimisers.build(critic.parameters(), settings)
    average = [weight.detach().clone() for weight in generator.parameters()]
    restrained = loss.gradient_penalty or loss.weight_clip
    for _ in range(steps):
        for _ in range(settings.critic_steps):
            real = centres()[torch.randint(8, (batch,), generator=source)]
            real = real + SIGMA * torch.randn(batch, 2, generator=source)
            fake = generator(torch.randn(batch, 8, generator=source))
            told = losses.of_critic(loss, critic(real), critic(fake.detach()), source)
            if loss.gradient_penalty:
                told = told + loss.gradient_penalty * losses.gradient_penalty(critic, real, fake.detach(), source)
            if not restrained:
                told = told + 0.05 * losses.slope(critic, real)
            for_critic.zero_grad()
            told.backward()
            optimisers.step(for_critic, settings)
            if loss.weight_clip:
                losses.clip_weights(critic.parameters(), loss.weight_clip)
        raised = losses.of_generator(loss, critic(fake))
        for_generator.zero_grad()
        raised.backward()
        optimisers.step(for_generator, settings)
        for slow, fast in zip(average, generator.parameters(), strict=True):
            slow.lerp_(fast.detach(), 0.02)
    with torch.no_grad():
        for slow, fast in zip(average, generator.parameters(), strict=True):
            fast.copy_(slow)
        return generator(torch.randn(2000, 8, generator=source))


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_finds_at_least_seven_of_eight_gaussians(name):
    steps = 1500 if LOSSES[name].weight_clip else 800
    assert covered(learned(LOSSES[name], OPTIMISERS.get(name, USUAL), steps)) >= 7


def test_the_count_of_gaussians_sees_a_generator_that_found_one_or_none():
    assert covered(centres()[:1].repeat(500, 1)) == 1
    assert covered(learned(LOSSES["non-saturating"], USUAL, steps=0)) == 0


# Optimisers.


@pytest.mark.parametrize(
    ("settings", "kind", "expected"),
    [
        (AdversarialOptimiser(), torch.optim.Adam, {"betas": (0.0, 0.99), "eps": 1e-8}),
        (AdversarialOptimiser(beta_1=0.5, epsilon=1e-7), torch.optim.Adam, {"betas": (0.5, 0.99), "eps": 1e-7}),
        (AdversarialOptimiser(kind="rmsprop", decay_rate=0.9), torch.optim.RMSprop, {"alpha": 0.9, "eps": 1e-8}),
        (AdversarialOptimiser(kind="adadelta", epsilon=1e-7), torch.optim.Adadelta, {"rho": 0.9, "eps": 1e-7}),
    ],
)
def test_an_optimiser_is_the_one_that_the_recipe_names(settings, kind, expected):
    optimiser = optimisers.build(nn.Linear(2, 2).parameters(), settings)
    assert type(optimiser) is kind
    assert {key: optimiser.param_groups[0][key] for key in expected} == expected


def test_gradients_are_clipped_by_value_before_the_step():
    weight = nn.Parameter(torch.tensor([1.0, 1.0]))
    settings = AdversarialOptimiser(kind="rmsprop", clip_gradient_value=0.5)
    weight.grad = torch.tensor([3.0, -0.25])
    optimisers.step(optimisers.build([weight], settings), settings)
    assert weight.grad.tolist() == [0.5, -0.25]
