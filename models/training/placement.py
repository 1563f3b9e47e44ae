"""Where the weights of a training lie: on which device, and in which order."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def placed(network: Network, on: torch.device) -> Network:
    """The network on its device, its kernels with channels last, so that convolutions need not turn maps and kernels
    around: 1.1 to 1.3 times as fast for DCGAN and WGAN-GP of 64 px.

    Not for networks of many group norms: in bfloat16 these take much longer in this order, and a denoiser trains at
    half the rate. A checkpoint keeps the order, so that a resumed run goes on bit by bit.
    """
    of_volumes = any(weight.ndim == 5 for weight in network.parameters())
    order = torch.channels_last_3d if of_volumes else torch.channels_last
    # torch's own annotation of `to` leaves memory_format out.
    network.to(device=on, memory_format=order)  # type: ignore[call-overload]
    return network


def ordered(network: Network, on: torch.device) -> Network:
    """`placed`, but for networks with group norms: a predictor's recipe may have some, and train in bfloat16. 1.1 times
    as fast for ResNet-18 and for the U-Net of the white-matter challenge."""
    if any(isinstance(layer, nn.GroupNorm) for layer in network.modules()):
        return network.to(on)
    return placed(network, on)
