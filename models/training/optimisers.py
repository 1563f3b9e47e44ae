"""The optimisers of generator and critic, as the recipe names them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.optim import Optimizer

from models.adversarial_recipe import AdversarialOptimiser


def build(weights: Iterable[nn.Parameter], settings: AdversarialOptimiser) -> Optimizer:
    """Adam, RMSprop or Adadelta; the learning rate is set before every step (`set_rate`)."""
    rate, decay, epsilon = settings.learning_rate, settings.decay_rate, settings.epsilon
    if settings.kind == "rmsprop":
        return torch.optim.RMSprop(weights, lr=rate, alpha=decay or 0.99, eps=epsilon or 1e-8)
    if settings.kind == "adadelta":
        return torch.optim.Adadelta(weights, lr=rate, rho=decay or 0.9, eps=epsilon or 1e-6)
    return torch.optim.Adam(weights, lr=rate, betas=(settings.beta_1, settings.beta_2), eps=epsilon or 1e-8)


def set_rate(optimiser: Optimizer, rate: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate


def step(optimiser: Optimizer, settings: AdversarialOptimiser) -> None:
    """One step along the gradients there are, each within the recipe's limit."""
    if settings.clip_gradient_value is not None:
        for group in optimiser.param_groups:
            nn.utils.clip_grad_value_(group["params"], settings.clip_gradient_value)
    optimiser.step()
