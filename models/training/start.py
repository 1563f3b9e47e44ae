"""Weights that a classifier begins with, and which of its layers learn when (transfer in two phases)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dicom_io.errors import Rejected
from models import version
from models.classification_recipe import ClassificationRecipe, Phases, Start
from models.networks.classifier import last_layer
from models.training.transfer import lineage
from models.version import Ancestor, read_weights

# MONAI's EfficientNetBN counts the stack and the block of a layer, EfficientNet-PyTorch the block alone. Its DenseNet
# has layers in the layers of torchvision's, and calls the last one otherwise.
_PUBLIC_NAMES = (
    (re.compile(r"^(_blocks)\.\d+(\.\d+\..+)"), r"\1\2"),
    (re.compile(r"(\.denselayer\d+)\.layers(\..+)"), r"\1\2"),
    (re.compile(r"^class_layers\.out(\..+)"), r"classifier\1"),
)
_MADE_FOR_TRANSFER = ("densenet169", "efficientnet-b0")


def begin(network: nn.Module, recipe: ClassificationRecipe, warn: Callable[[str], None]) -> tuple[Ancestor, ...]:
    """Put the weights that the recipe names into the network, or say that a large network starts without.

    Returns what they are of, and what that had started from; of a file that lies in no run or version, its name and
    hash alone.

    Raises:
        Rejected: there is no such file, it is another one, or its weights are those of another network.
    """
    if recipe.start is not None:
        _load(network, recipe.start, warn)
        return _lineage(Path(recipe.start.weights), recipe.start.sha256)
    if recipe.network.kind in _MADE_FOR_TRANSFER:
        warn(
            f"network.kind: {recipe.network.kind} starts from random weights, and is made to start from others; so it "
            "takes many more images. Name a file of weights in start"
        )
    return ()


def _lineage(path: Path, sha256: str) -> tuple[Ancestor, ...]:
    folder = path.absolute().parent.parent
    if path.name == "model.pt" and (folder / "configs" / "metadata.json").is_file():
        return lineage(version.load(folder))
    unknown = {"cohort": "", "data_hash": "", "patients": 0, "synthetic_images": 0}
    return (Ancestor(address=path.name, content_hash=sha256, **unknown),)  # type: ignore[arg-type]


def _load(network: nn.Module, start: Start, warn: Callable[[str], None]) -> None:
    path = Path(start.weights)
    if not path.is_file():
        raise Rejected(
            f"start.weights: there is no file {path.absolute()}; give the path of a file of weights, which counts from "
            "the current folder where it is relative"
        )
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != start.sha256:
        raise Rejected(
            f"start.sha256: {start.weights} has {found}, the recipe names {start.sha256}; take the file that it means"
        )
    given = read_weights(path)
    ours, head = network.state_dict(), last_layer(network)
    taken: dict[str, Tensor] = {}
    used: set[str] = set()
    for name, here in ours.items():
        key = name if name in given else _public(name)
        used.add(key)
        there = given.get(key)
        if there is None and name.endswith("num_batches_tracked"):
            continue
        if name.startswith(f"{head}.") and (there is None or there.shape != here.shape):
            continue
        if there is not None and _is_stem(there, here):
            there = there.sum(1, keepdim=True)
        if there is None or there.shape != here.shape:
            size = "is not there" if there is None else f"has {list(there.shape)}"
            raise Rejected(
                f"start.weights: {key} {size} in {start.weights}, and the network has {list(here.shape)}; they are of "
                "another network, so take its kind and sizes in `network`, or other weights"
            )
        taken[name] = there
    _require_nothing_left(given, used, head, start.weights)
    network.load_state_dict(ours | taken)
    if f"{head}.weight" not in taken:
        warn(f"start.weights: {head}, the last layer, is of other classes in {start.weights}, and begins anew")


def _public(name: str) -> str:
    """As the public weights of the same network call it."""
    for ours, theirs in _PUBLIC_NAMES:
        name = ours.sub(theirs, name)
    return name


def _is_stem(there: Tensor, here: Tensor) -> bool:
    """A first convolution for three colours, where the images have one: grey is all three alike, so kernels add up."""
    return there.ndim == here.ndim == 4 and there.shape[1] == 3 and here.shape == (len(there), 1, *there.shape[2:])


def _require_nothing_left(given: Mapping[str, Tensor], used: set[str], head: str, path: str) -> None:
    left = [key for key in given if key not in used and not key.startswith(f"{head}.")]
    if left:
        raise Rejected(
            f"start.weights: the network has no {left[0]}, which is in {path}; they are of another network, so take "
            "its kind and sizes in `network`, or other weights"
        )


def _layers(network: nn.Module) -> dict[str, list[str]]:
    """Convolutions and dense layers, each by itself, from the input on: name -> names of its weights; a norm belongs to
    the layer before it."""
    found: dict[str, list[str]] = {}
    for name, unit in network.named_modules():
        weights = [f"{name}.{each}" for each, _ in unit.named_parameters(recurse=False)]
        if isinstance(unit, nn.Conv2d | nn.Linear):
            found[name] = weights
        elif found and weights:
            found[next(reversed(found))] += weights
    return found


class Holding:
    """Which weights learn now. phases: None lets all learn, at one rate.

    Raises:
        Rejected: the network has too few layers for the phases.
    """

    def __init__(self, network: nn.Module, phases: Phases | None) -> None:
        self._network, self._phases = network, phases
        head = last_layer(network)
        names = dict(network.named_parameters())
        self.head = [weight for name, weight in names.items() if name.startswith(f"{head}.")]
        of_head = {id(weight) for weight in self.head}
        self.base = [weight for weight in names.values() if id(weight) not in of_head]
        self._thawed: set[int] = set()
        self._furthest = 0.0
        if phases:
            before = {name: weights for name, weights in _layers(network).items() if name != head}
            if phases.thawed_layers > len(before):
                raise Rejected(
                    f"phases.thawed_layers: {phases.thawed_layers} is more than the {len(before)} layers before the "
                    "last; take fewer"
                )
            last = [*before][-phases.thawed_layers :]
            self._thawed = {id(names[weight]) for layer in last for weight in before[layer]}

    @property
    def slower(self) -> float:
        """By which the learning rate of all but the last layer is multiplied."""
        return self._phases.slower if self._phases else 1.0

    def state_dict(self) -> dict[str, float]:
        """For the checkpoint."""
        return {"furthest": self._furthest}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        self._furthest = state["furthest"]

    def hold(self, fraction: float) -> None:
        """Before every step. Norms of layers that stay keep their statistics, too. What has thawed stays so, wherever a
        new budget of minutes begins."""
        self._network.train()
        if not self._phases:
            return
        self._furthest = max(self._furthest, fraction)
        thawed = self._furthest >= self._phases.head_share
        for weight in self.base:
            weight.requires_grad_(thawed and id(weight) in self._thawed)
        for layer in self._network.modules():
            if isinstance(layer, _BatchNorm) and layer.weight is not None and not layer.weight.requires_grad:
                layer.eval()
