"""What generator and critic are told: four adversarial losses, and what restrains a critic.

r, f: the critic's scores of reals and fakes, (B,). Critic and generator minimise

    non-saturating  softplus(-r) + softplus(f)             softplus(-f)          Goodfellow 2014, section 3
    least-squares   ((r - b)^2 + (f - a)^2) / 2            (f - c)^2 / 2         Mao 2017, equation 2
    hinge           max(0, 1 - r) + max(0, 1 + f)          -f                    Lim 2017; Miyato 2018, equations 16, 17
    wasserstein     f - r                                  -f                    Arjovsky 2017, equations 2, 3

each as a mean over the batch. MONAI's PatchAdversarialLoss has neither Wasserstein nor a penalty, so this is our own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.adversarial_recipe import AdversarialLoss
from models.draws import uniform

Critic = Callable[..., Tensor]


def of_critic(loss: AdversarialLoss, real: Tensor, fake: Tensor, draw: torch.Generator) -> Tensor:
    """real, fake: scores (B,). draw: of the images whose names are flipped; unused where none are."""
    if loss.label_flipping:
        real, fake = _flipped(real, fake, loss.label_flipping, draw)
    if loss.kind == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    if loss.kind == "wasserstein":
        return fake.mean() - real.mean()
    smooth = loss.label_smoothing
    if loss.kind == "least-squares":
        # A smoothed real lies that share of the way from b to a.
        wanted = loss.real_target - smooth * (loss.real_target - loss.fake_target)
        return ((real - wanted).square().mean() + (fake - loss.fake_target).square().mean()) / 2
    told_real = F.softplus(-real).mean()
    if smooth:
        told_real = (1 - smooth) * told_real + smooth * F.softplus(real).mean()
    return told_real + F.softplus(fake).mean()


def of_generator(loss: AdversarialLoss, fake: Tensor) -> Tensor:
    """fake: scores (B,) that the generator wants to raise."""
    if loss.kind == "non-saturating":
        return F.softplus(-fake).mean()
    if loss.kind == "least-squares":
        return (fake - loss.generator_target).square().mean() / 2
    return -fake.mean()


def _flipped(real: Tensor, fake: Tensor, share: float, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Scores of the images that are called real, and of those called fake: some pairs have changed places."""
    changed = (uniform(len(real), draw) < share).to(real.device)
    return torch.where(changed, fake, real), torch.where(changed, real, fake)


def middle(loss: AdversarialLoss) -> float:
    """The score that says neither real nor fake. A Wasserstein critic has none; 0 is as good as any."""
    return (loss.real_target + loss.fake_target) / 2 if loss.kind == "least-squares" else 0.0


def slope(critic: Critic, real: Tensor, labels: Tensor | None = None) -> Tensor:
    """R1 (Mescheder 2018): mean squared norm of the critic's gradient at reals."""
    real = real.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(_scores(critic, real, labels).sum(), real, create_graph=True)
    return gradient.square().flatten(1).sum(1).mean()


def gradient_penalty(
    critic: Critic, real: Tensor, fake: Tensor, draw: torch.Generator, labels: Tensor | None = None
) -> Tensor:
    """WGAN-GP (Gulrajani 2017, equation 3): (|gradient| - 1)^2 between reals and fakes, two-sided.

    Each pair's point is drawn uniformly. A small constant keeps the root's own gradient finite where the slope is 0.
    """
    share = uniform(len(real), draw, *[1] * (real.ndim - 1)).to(real.device)
    between = (share * real + (1 - share) * fake).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(_scores(critic, between, labels).sum(), between, create_graph=True)
    norm = (gradient.flatten(1).square().sum(1) + 1e-12).sqrt()
    return (norm - 1).square().mean()


def _scores(critic: Critic, images: Tensor, labels: Tensor | None) -> Tensor:
    return critic(images) if labels is None else critic(images, labels)


@torch.no_grad()
def clip_weights(weights: Iterable[nn.Parameter], limit: float) -> None:
    """WGAN (Arjovsky 2017, algorithm 1): every weight of the critic into [-limit, limit]."""
    for weight in weights:
        weight.clamp_(-limit, limit)
