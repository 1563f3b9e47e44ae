"""MONAI's own networks, as bundles of its Model Zoo name them. Weights come from the bundle: nothing is downloaded."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from monai.networks import nets
from torch import nn

# Those whose prediction is one tensor of one image, and which need no package beside MONAI.
SEGMENTERS = ("AttentionUnet", "BasicUNet", "DynUNet", "FlexibleUNet", "HighResNet", "SegResNet", "UNet", "VNet")
CLASSIFIERS = (
    *("DenseNet", "DenseNet121", "DenseNet169", "DenseNet201", "DenseNet264", "EfficientNetBN", "ResNet"),
    *("resnet18", "resnet34", "resnet50", "resnet101", "SEResNet50", "SEResNet101", "SENet154"),
)
# Arguments that ask for weights from elsewhere.
DOWNLOADS = ("pretrained", "progress")


def _without_download(net: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """`pretrained` is True where EfficientNetBN is not told otherwise."""

    @functools.wraps(net)
    def build(**arguments: Any) -> nn.Module:
        if any(arguments.get(name) for name in DOWNLOADS):
            raise ValueError("weights are not downloaded; leave `pretrained` out")
        return net(**arguments, **({"pretrained": False} if net is nets.EfficientNetBN else {}))

    return build


PREFIX = "monai.networks.nets."
NETWORKS: Mapping[str, Callable[..., nn.Module]] = {
    f"{PREFIX}{name}": _without_download(getattr(nets, name)) for name in (*SEGMENTERS, *CLASSIFIERS)
}
