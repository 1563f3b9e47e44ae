"""Networks, named in data and built from a closed list: no class is imported because a file says so (promise 7)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from monai.networks import nets
from torch import nn

from dicom_io.errors import Rejected
from models.networks import classifier, faithful, published
from models.networks.diffusion import Diffusion
from models.networks.ensemble import Ensemble
from models.networks.generator import Generator
from models.networks.labelled import LabelledGenerator
from models.networks.latent_diffusion import LatentDiffusion
from models.networks.plain_unet import PlainUNet
from models.networks.spade import Spade
from models.networks.translator import Translator
from models.networks.vae import ConvolutionalDecoder, DenseDecoder
from models.networks.variation import Variation
from models.networks.windowed import WindowedResNet
from models.preprocessing import check_plain

_KNOWN: Mapping[str, Callable[..., nn.Module]] = {
    "DenseNet169": classifier.densenet,
    "DynUNet": nets.DynUNet,
    "EfficientNetBN": classifier.efficientnet,
    "UNet": nets.UNet,
    "ResNet": nets.ResNet,
    "models.networks.classifier.ConvolutionalClassifier": classifier.ConvolutionalClassifier,
    "models.networks.classifier.DroppedResNet": classifier.DroppedResNet,
    "models.networks.diffusion.Diffusion": Diffusion,
    "models.networks.ensemble.Ensemble": lambda members, **how: Ensemble([*map(build, members)], **how),
    "models.networks.faithful.DCGANGenerator": faithful.DCGANGenerator,
    "models.networks.faithful.DenseGenerator": faithful.DenseGenerator,
    "models.networks.faithful.WGANGenerator": faithful.WGANGenerator,
    "models.networks.generator.Generator": Generator,
    "models.networks.labelled.LabelledGenerator": LabelledGenerator,
    "models.networks.latent_diffusion.LatentDiffusion": LatentDiffusion,
    "models.networks.plain_unet.PlainUNet": PlainUNet,
    "models.networks.spade.Spade": Spade,
    "models.networks.translator.Translator": Translator,
    "models.networks.vae.ConvolutionalDecoder": ConvolutionalDecoder,
    "models.networks.vae.DenseDecoder": DenseDecoder,
    "models.networks.variation.Variation": Variation,
    "models.networks.windowed.WindowedResNet": WindowedResNet,
    **published.NETWORKS,
}


def build(definition: Mapping[str, Any]) -> nn.Module:
    """The network that `{"_target_": NAME, argument: value, ...}` names, with fresh weights.

    Raises:
        Rejected: the name is not on the list, or an argument is unknown or no plain value.
    """
    if not isinstance(definition, Mapping):
        raise Rejected(f"network_def: {definition!r} is no network with its arguments; it is not loaded")
    target = definition.get("_target_")
    if not isinstance(target, str) or target not in _KNOWN:
        raise Rejected(f"network_def._target_: {target!r} is not one of {', '.join(sorted(_KNOWN))}; it is not loaded")
    arguments = {key: value for key, value in definition.items() if key != "_target_"}
    try:
        check_plain(arguments, "network_def")
        return _KNOWN[target](**arguments)
    except (TypeError, ValueError) as error:
        raise Rejected(f"network_def of {target}: {error}") from error


def arguments(definition: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the network that a definition names, with the defaults of those that it leaves out; nothing is built."""
    taken = inspect.signature(_KNOWN[definition["_target_"]]).parameters.values()
    defaults = {each.name: each.default for each in taken if each.default is not each.empty}
    return defaults | {key: value for key, value in definition.items() if key != "_target_"}


def noise_shape(definition: Mapping[str, Any]) -> tuple[int, list[int]]:
    """Channels and (rows, columns), or [], of the noise that a generator makes one picture of; nothing is built."""
    made: Any = _KNOWN[definition["_target_"]]
    shape: tuple[int, list[int]] = made.noise_shape(definition)
    return shape
