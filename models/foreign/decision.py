"""From what a foreign network says to classes: activation, decision, tidying, read from the bundle's post-processing.

Activationsd, AsDiscreted               softmax and the most probable class, or sigmoid and a threshold
Lambdad, of one form                    overlapping channels, painted over one another to one class for each voxel
KeepLargestConnectedComponentd, ...     on the mask
Invertd                                 back to the source; by its place the mask is resampled, or what it comes from
SaveImaged and others                   ours are other objects; left out
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from monai import transforms
from torch import Tensor

from models.foreign.chain import name_of
from models.preprocessing import check_plain
from models.recipe_parts import Settings

# Changes nothing of the numbers, or writes files.
_LEFT_OUT = frozenset(
    {
        *("CastToTyped", "DeleteItemsd", "EnsureTyped", "FromMetaTensord", "SaveClassificationd", "SaveImaged"),
        *("ToDeviced", "ToNumpyd", "ToTensord"),
    }
)
TIDY: Mapping[str, Any] = {
    "KeepLargestConnectedComponentd": transforms.KeepLargestConnectedComponent,
    "FillHolesd": transforms.FillHoles,
}
_KNOWN = ("Activationsd", "AsDiscreted", "Invertd", "Lambdad", *TIDY)


class Tidy(Settings):
    """A step on the mask. name: one of `TIDY`; arguments: plain values."""

    name: Literal["KeepLargestConnectedComponentd", "FillHolesd"]
    arguments: dict[str, Any]


class Decision(Settings):
    """activation: of the network's outputs. threshold: on a sigmoid; None where the most probable class is taken.

    painted: (channel, class) of overlapping channels, the uppermost first; a voxel has the class of the first whose
    probability reaches the threshold. mask_is_resampled: the decision is made on the network's own grid, and the mask
    returns by nearest neighbours; else probabilities return linearly, and the decision is made on the source's grid.
    """

    activation: Literal["softmax", "sigmoid"]
    threshold: float | None = None
    painted: tuple[tuple[int, int], ...] = ()
    tidied: tuple[Tidy, ...] = ()
    mask_is_resampled: bool = False

    def probabilities(self, logits: Tensor) -> Tensor:
        """(outputs, ...) -> the same, from 0 to 1."""
        return torch.softmax(logits, 0) if self.activation == "softmax" else torch.sigmoid(logits)

    def foreground(self, probabilities: Tensor) -> Tensor:
        """(outputs, ...) -> (1, ...): of any class but the background."""
        if self.activation == "softmax":
            return probabilities[1:].sum(0, keepdim=True).clamp(0, 1)
        return probabilities.amax(0, keepdim=True)

    def mask(self, probabilities: Tensor) -> Tensor:
        """(outputs, ...) -> (1, ...) class numbers, tidied. Where all are 0, outside a crop, there is background."""
        if self.activation == "softmax":
            background = 1 - probabilities[1:].sum(0, keepdim=True)
            mask = torch.cat([background, probabilities[1:]]).argmax(0, keepdim=True)
        else:
            assert self.threshold is not None, "a mask of a sigmoid needs one; models.foreign.zoo looks"
            mask = torch.zeros_like(probabilities[:1], dtype=torch.int64)
            for channel, number in reversed(self.painted or ((0, 1),)):
                mask[probabilities[channel : channel + 1] >= self.threshold] = number
        for step in self.tidied:
            mask = torch.as_tensor(TIDY[step.name](**step.arguments)(mask)).as_subclass(Tensor).long()
        return mask


def read(steps: Sequence[Mapping[str, Any]], where: str) -> tuple[Decision, tuple[str, ...]]:
    """The decision, and the names of the steps that are left out. Only the arguments that count are asked for.

    Raises:
        ValueError: a step is not on the list, or in a place or form that is not read; names the key.
    """
    said: dict[str, Any] = {}
    tidied: list[Tidy] = []
    left_out: list[str] = []
    returned = False
    for number, step in enumerate(steps):
        here, name = f"{where}[{number}]", name_of(step.get("_target_"))
        if name in _LEFT_OUT or (name in _KNOWN and "pred" not in _keys(step, here)):
            left_out.append(name)
        elif name == "Invertd":
            returned = True
            said["mask_is_resampled"] = "decided" in said
        elif name == "Activationsd":
            said["activation"] = _activation(step, here)
        elif name == "AsDiscreted":
            said |= _discrete(step, here) | {"decided": True}
        elif name == "Lambdad":
            said["painted"] = _painted(step, here)
        elif name in TIDY:
            if "decided" not in said or (returned and said["mask_is_resampled"]):
                raise ValueError(f"{here}: {name} is read after AsDiscreted, on the same grid, alone")
            tidied.append(Tidy.model_validate({"name": name, "arguments": _arguments(step, here)}))
        else:
            raise ValueError(f"{here}._target_: {name!r} is not one of {', '.join(sorted({*_KNOWN, *_LEFT_OUT}))}")
    return _agreed(said, tuple(tidied), where), tuple(left_out)


def _agreed(said: Mapping[str, Any], tidied: tuple[Tidy, ...], where: str) -> Decision:
    threshold, argmax = said.get("threshold"), bool(said.get("argmax"))
    activation = said.get("activation", "softmax" if argmax else None)
    if activation is None:
        raise ValueError(f"{where}: neither Activationsd nor an argmax says what the network's outputs are")
    if argmax and (activation != "softmax" or threshold is not None):
        raise ValueError(f"{where}: the most probable class is read of a softmax alone, without a threshold")
    if threshold is not None and activation != "sigmoid":
        raise ValueError(f"{where}: a threshold is read of a sigmoid alone")
    if said.get("painted") and threshold is None:
        raise ValueError(f"{where}: overlapping channels are painted after AsDiscreted with a threshold")
    return Decision(
        activation=activation,
        threshold=threshold,
        painted=said.get("painted", ()),
        tidied=tidied,
        mask_is_resampled=said.get("mask_is_resampled", False),
    )


def _keys(step: Mapping[str, Any], where: str) -> list[str]:
    keys = step.get("keys")
    keys = list(keys) if isinstance(keys, list | tuple) else [keys]
    if not all(isinstance(key, str) for key in keys):
        raise ValueError(f"{where}.keys: {keys!r} are no names")
    return keys


def _first(step: Mapping[str, Any], key: str, where: str) -> Any:
    """An argument, that of "pred" where each of several keys has its own."""
    value, place = step.get(key), _keys(step, where).index("pred")
    if not isinstance(value, list | tuple):
        return value
    if place >= len(value):
        raise ValueError(f"{where}.{key}: {len(value)} values are too few for its keys")
    return value[place]


def _activation(step: Mapping[str, Any], where: str) -> str:
    chosen = [name for name in ("softmax", "sigmoid") if _first(step, name, where) is True]
    if len(chosen) != 1 or _first(step, "other", where) is not None:
        raise ValueError(f"{where}: Activationsd is read with softmax or with sigmoid, and no other")
    return chosen[0]


def _discrete(step: Mapping[str, Any], where: str) -> dict[str, Any]:
    threshold, argmax = _first(step, "threshold", where), _first(step, "argmax", where) is True
    if _first(step, "rounding", where) is not None or argmax == (threshold is not None):
        raise ValueError(f"{where}: AsDiscreted is read with argmax or with a threshold")
    if threshold is not None and not (isinstance(threshold, int | float) and 0 < threshold < 1):
        raise ValueError(f"{where}.threshold: {threshold!r} lies not between 0 and 1")
    return {"argmax": argmax, "threshold": threshold}


def _arguments(step: Mapping[str, Any], where: str) -> dict[str, Any]:
    arguments = {key: step[key] for key in step if key not in ("_target_", "keys")}
    check_plain(arguments, where)
    try:
        TIDY[name_of(step["_target_"])](**arguments)
    except TypeError as error:
        raise ValueError(f"{where}: {error}") from error
    return arguments


def _painted(step: Any, where: str) -> tuple[tuple[int, int], ...]:
    """`lambda x: torch.where(x[[2]] > 0, 4, torch.where(x[[0]] > 0, 1, 0))`, by exact syntax: classes are numbered from
    1 in the order of the numbers that it gives."""
    text = step.raw("func") if "func" in step else None
    try:
        if not isinstance(text, str) or not text.startswith("$") or len(text) > 600:
            raise ValueError(text)
        function = ast.parse(text[1:].strip(), mode="eval").body
        if not isinstance(function, ast.Lambda) or ast.unparse(function.args) != "x":
            raise ValueError(text)
        layers = _layers(function.body)
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(
            f"{where}.func: {text!r} is not called; the one function that is read is "
            "$lambda x: torch.where(x[[CHANNEL]] > 0, CLASS, ... 0)"
        ) from error
    ranks = {number: rank for rank, number in enumerate(sorted({number for _, number in layers}), start=1)}
    return tuple((channel, ranks[number]) for channel, number in layers)


def _layers(node: ast.expr) -> list[tuple[int, int]]:
    if isinstance(node, ast.Constant) and type(node.value) is int and node.value == 0:
        return []
    if (
        not isinstance(node, ast.Call)
        or ast.unparse(node.func) != "torch.where"
        or len(node.args) != 3
        or node.keywords
    ):
        raise ValueError(ast.unparse(node))
    condition, value, below = node.args
    channel = ast.unparse(condition).removeprefix("x[[").removesuffix("]] > 0")
    if ast.unparse(condition) != f"x[[{channel}]] > 0" or not channel.isdecimal():
        raise ValueError(channel)
    if not isinstance(value, ast.Constant) or type(value.value) is not int or value.value < 1:
        raise ValueError(ast.unparse(value))
    return [(int(channel), value.value), *_layers(below)]
