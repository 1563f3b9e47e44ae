"""Networks of segmenters as data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from models.networks import norm
from models.segmentation_recipe import DynUNet, Networks, UNet, WmhUNet

# Modules of DynUNet that answer in training alone, as a part of the names of their weights.
_SUPERVISION = ("deep_supervision_heads", "super_head")


def definition(settings: Networks, in_channels: int, classes: int, dims: int = 2) -> dict[str, Any]:
    """`network_def` of the bundle: (B, in_channels, (slices,) rows, columns) -> logits (B, classes, ...).

    settings: of volumes, and of a dynunet, as planned (`models.training.plan`).
    """
    if isinstance(settings, WmhUNet):
        chosen = settings.model_dump(mode="json", exclude={"kind"})
        target = "models.networks.plain_unet.PlainUNet"
        return {"_target_": target, "in_channels": in_channels, "classes": classes, **chosen}
    of = {"spatial_dims": dims, "in_channels": in_channels, "out_channels": classes}
    return _dynunet(settings, of) if isinstance(settings, DynUNet) else _unet(settings, of)


def _unet(settings: UNet, of: Mapping[str, int]) -> dict[str, Any]:
    steps = [2] * (len(settings.channels) - 1) if settings.strides is None else [*map(list, settings.strides)]
    return {
        "_target_": "UNet",
        **of,
        "channels": list(settings.channels),
        "strides": steps,
        "num_res_units": settings.residual_units,
        "norm": norm.definition(settings.norm, (*settings.channels, of["out_channels"])),
        "dropout": settings.dropout,
    }


def _dynunet(settings: DynUNet, of: Mapping[str, int]) -> dict[str, Any]:
    assert settings.strides and settings.kernels and settings.channels
    strides = [*map(list, settings.strides)]
    return {
        "_target_": "DynUNet",
        **of,
        "kernel_size": [*map(list, settings.kernels)],
        "strides": strides,
        "upsample_kernel_size": strides[1:],
        "filters": list(settings.channels),
        "dropout": settings.dropout or None,
        "norm_name": norm.definition(settings.norm, settings.channels),
    }


def supervised(definition: Mapping[str, Any], settings: Networks) -> dict[str, Any]:
    """The network that trains: a dynunet answers at lower levels, too, in a stack (B, answers, classes, ...).

    nnU-Net leaves out the two lowest levels; one answer beside the last stays, where there are no more.
    """
    if not isinstance(settings, DynUNet) or not settings.deep_supervision:
        return dict(definition)
    answers = max(1, len(definition["strides"]) - 3)
    return {**definition, "deep_supervision": True, "deep_supr_num": answers}


def served(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the network that serves, of those of the one that trained."""
    return {name: value for name, value in state.items() if not any(part in name for part in _SUPERVISION)}
