"""What critics of patches, and those that want to get past them, are told: the mean over all sizes of the picture."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models import losses
from models.adversarial_recipe import AdversarialLoss
from models.networks.patch_critic import Verdict
from models.training.precision import autocast


def critic_loss(
    loss: AdversarialLoss, critic: nn.Module, real: Tensor, made: Tensor, draw: torch.Generator, precision: str
) -> Tensor:
    """True pictures up, made ones down. real, made: (B, planes, rows, columns)."""
    with autocast(real.device, precision):
        true, fake = critic(real), critic(made.detach())
    scores = [(up.scores.float(), down.scores.float()) for up, down in zip(true, fake, strict=True)]
    return torch.stack([losses.of_critic(loss, *each, draw) for each in scores]).mean()


def verdict(loss: AdversarialLoss, verdicts: Sequence[Verdict]) -> Tensor:
    """Made pictures up. verdicts: of one critic."""
    return torch.stack([losses.of_generator(loss, each.scores.float()) for each in verdicts]).mean()
