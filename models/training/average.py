"""The running average of weights that is validated and released (EMA)."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def start(network: Network) -> Network:
    """A copy that follows; it needs no gradients."""
    return copy.deepcopy(network).eval().requires_grad_(False)


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, images_seen: int, batch: int, half_life_images: int) -> None:
    """average <- decay * average + (1 - decay) * network; buffers (norm statistics, counters) are copied.

    The half-life grows with the images seen (a twentieth of them at first: StyleGAN2-ADA's ramp-up), so that random
    first weights are forgotten soon.
    """
    half_life = min(half_life_images, max(images_seen / 20, 1e-8))
    decay = 0.5 ** (batch / half_life)
    for slow, fast in zip(average.parameters(), network.parameters(), strict=True):
        slow.lerp_(fast.to(slow.dtype), 1 - decay)
    for copied, current in zip(average.buffers(), network.buffers(), strict=True):
        copied.copy_(current)
