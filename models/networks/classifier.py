"""Networks of classifiers as data, and how a temperature becomes part of their weights."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from monai.networks import nets
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from models.classification_recipe import DenseNet169, EfficientNetB0, HistologyStudy, Networks, ResNet, SmallCNN
from models.networks import norm
from models.predictor_parts import Windows

State = dict[str, torch.Tensor]


def definition(settings: Networks, in_channels: int, classes: int, windows: Windows | None = None) -> dict[str, Any]:
    """`network_def` of the bundle: (B, in_channels, rows, columns) -> logits (B, classes)."""
    if isinstance(settings, HistologyStudy):
        settings = settings.sizes
    if isinstance(settings, DenseNet169):
        sizes = {"spatial_dims": 2, "in_channels": in_channels, "out_channels": classes}
        return {"_target_": "DenseNet169", **sizes, "dropout_prob": settings.dropout}
    if isinstance(settings, EfficientNetB0):
        sizes = {"spatial_dims": 2, "in_channels": in_channels, "num_classes": classes}
        return {"_target_": "EfficientNetBN", "model_name": settings.kind, "pretrained": False, **sizes}
    if isinstance(settings, SmallCNN):
        chosen = settings.model_dump(mode="json", exclude={"kind"})
        target = "models.networks.classifier.ConvolutionalClassifier"
        return {"_target_": target, **chosen, "in_channels": in_channels, "classes": classes}
    return _resnet(settings, in_channels, classes, windows)


def _resnet(settings: ResNet, in_channels: int, classes: int, windows: Windows | None) -> dict[str, Any]:
    target: dict[str, Any] = {"_target_": "ResNet"}
    if settings.dropout:
        target = {"_target_": "models.networks.classifier.DroppedResNet", "dropout": settings.dropout}
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


def efficientnet(
    model_name: str, spatial_dims: int, in_channels: int, num_classes: int, pretrained: bool = False
) -> nn.Module:
    """MONAI's EfficientNetBN, B0 alone, without its download.

    Its norms move their running statistics by 1 % a step, for trainings of hundreds of thousands; from random weights
    it then says the same of every picture for hundreds of steps, whatever it has learned. Here they move by a tenth,
    as torch has it.

    Raises:
        ValueError: another model, or `pretrained`.
    """
    if pretrained or model_name != "efficientnet-b0":
        raise ValueError(f"{model_name!r}, pretrained {pretrained}: only efficientnet-b0 without a download is built")
    network = nets.EfficientNetBN(
        model_name, pretrained=False, spatial_dims=spatial_dims, in_channels=in_channels, num_classes=num_classes
    )
    for layer in network.modules():
        if isinstance(layer, _BatchNorm):
            layer.momentum = 0.1
    return network


def densenet(
    spatial_dims: int, in_channels: int, out_channels: int, dropout_prob: float = 0.0, pretrained: bool = False
) -> nn.Module:
    """MONAI's DenseNet169, without its download.

    Raises:
        ValueError: `pretrained`.
    """
    if pretrained:
        raise ValueError("pretrained True: only densenet169 without a download is built")
    return nets.DenseNet169(
        spatial_dims=spatial_dims, in_channels=in_channels, out_channels=out_channels, dropout_prob=dropout_prob
    )


class Dropped(nn.Linear):
    """A layer with dropout before it, whose weights have no other names than without."""

    def __init__(self, before: int, after: int, dropout: float) -> None:
        super().__init__(before, after)
        self.dropout = dropout

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(F.dropout(features, self.dropout, self.training))


class DroppedResNet(nets.ResNet):
    """MONAI's ResNet with dropout before its last layer, which MONAI's has nowhere."""

    def __init__(self, dropout: float, **resnet: Any) -> None:
        super().__init__(**resnet)
        classes, features = self.state_dict()["fc.weight"].shape
        self.fc = Dropped(features, classes, dropout)


class ConvolutionalClassifier(nn.Module):
    """(B, in_channels, rows, columns) -> logits (B, classes): see `models.classification_recipe.SmallCNN`."""

    def __init__(
        self, in_channels: int, classes: int, channels: list[int], hidden: int, norm: str, dropout: float
    ) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        for before, after in zip([in_channels, *channels], channels, strict=False):
            parts += [nn.Conv2d(before, after, 3, padding=1), _norm(norm, after), nn.ReLU(), nn.MaxPool2d(2)]
        self.features = nn.Sequential(*parts)
        self.hidden = nn.Linear(channels[-1], hidden)
        self.last = Dropped(hidden, classes, dropout)

    def forward(self, images: Tensor) -> Tensor:
        means = self.features(images).mean((2, 3))
        logits: Tensor = self.last(F.relu(self.hidden(means)))
        return logits


def _norm(name: str, channels: int) -> nn.Module:
    return norm.layer(name, channels)


def last_layer(network: nn.Module) -> str:
    """The name of the layer that makes the logits: the last dense one."""
    return [name for name, layer in network.named_modules() if isinstance(layer, nn.Linear)][-1]


def calibrated(network: nn.Module, temperature: float) -> State:
    """Weights whose logits are divided by the temperature (Guo 2017): the last layer is linear, so it can carry it.

    Every user of the weights, MONAI's runner too, then gets calibrated probabilities without another step.
    """
    scaled = {f"{last_layer(network)}.{part}" for part in ("weight", "bias")}
    state = network.state_dict()
    return {name: value / temperature if name in scaled else value for name, value in state.items()}
