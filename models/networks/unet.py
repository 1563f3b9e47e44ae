"""Networks of segmenters as data."""

from __future__ import annotations

from typing import Any

from models.networks import norm
from models.segmentation_recipe import Networks, WmhUNet


def definition(settings: Networks, in_channels: int, classes: int) -> dict[str, Any]:
    """`network_def` of the bundle: (B, in_channels, rows, columns) -> logits (B, classes, rows, columns)."""
    if isinstance(settings, WmhUNet):
        chosen = settings.model_dump(mode="json", exclude={"kind"})
        target = "models.networks.plain_unet.PlainUNet"
        return {"_target_": target, "in_channels": in_channels, "classes": classes, **chosen}
    return {
        "_target_": "UNet",
        "spatial_dims": 2,
        "in_channels": in_channels,
        "out_channels": classes,
        "channels": list(settings.channels),
        "strides": [2] * (len(settings.channels) - 1),
        "num_res_units": settings.residual_units,
        "norm": norm.definition(settings.norm, (*settings.channels, classes)),
        "dropout": settings.dropout,
    }
