"""The classifier's network: MONAI's two-dimensional ResNet, and how its temperature becomes part of its weights."""

from __future__ import annotations

from typing import Any

import torch

from models.networks import norm
from models.recipe import ResNet, Windows

State = dict[str, torch.Tensor]


def definition(settings: ResNet, in_channels: int, classes: int, windows: Windows | None = None) -> dict[str, Any]:
    """`network_def` of the bundle: (B, in_channels, rows, columns) -> logits (B, classes)."""
    target: dict[str, Any] = {"_target_": "ResNet"}
    if windows:
        target = {
            "_target_": "models.networks.windowed.WindowedResNet",
            "window_px": windows.window_px,
            "overlap": windows.overlap,
        }
    return target | {
        "block": "basic",
        "layers": list(settings.blocks),
        "block_inplanes": list(settings.channels),
        "spatial_dims": 2,
        "n_input_channels": in_channels,
        "conv1_t_size": settings.first_kernel_px,
        "conv1_t_stride": settings.first_stride_px,
        "num_classes": classes,
        "norm": norm.definition(settings.norm, settings.channels),
    }


def calibrated(state: State, temperature: float) -> State:
    """Weights whose logits are divided by the temperature (Guo 2017): the last layer is linear, so it can carry it.

    Every user of the weights, MONAI's runner too, then gets calibrated probabilities without another step.
    """
    scaled = {"fc.weight", "fc.bias"}
    return {name: value / temperature if name in scaled else value for name, value in state.items()}
