"""The weights of a foreign bundle: tensors by name, that fit the network."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dicom_io.errors import Rejected
from models.version import read_plain

# Under which checkpoints keep a network's tensors, beside those of an optimiser.
_WITHIN = ("model", "state_dict", "network", "net")
# Before each name, where the network was wrapped for several GPUs.
_WRAPPED = "module."


def read(path: Path) -> dict[str, Tensor]:
    """Tensors by name.

    Raises:
        Rejected: the file is absent, is TorchScript, which is code, or holds more than tensors.
    """
    if _is_torchscript(path):
        raise Rejected(f"{path} is TorchScript, which holds code, and was not loaded; give the file of tensors by name")
    state = read_plain(path)
    if isinstance(state, Mapping):
        state = next((state[key] for key in _WITHIN if isinstance(state.get(key), Mapping)), state)
    if not isinstance(state, Mapping) or not state or not all(_is_tensor(*each) for each in state.items()):
        raise Rejected(f"{path} is no file of tensors by name, nor holds one under {', '.join(_WITHIN)}")
    if all(name.startswith(_WRAPPED) for name in state):
        return {name.removeprefix(_WRAPPED): tensor for name, tensor in state.items()}
    return dict(state)


def require_fit(state: Mapping[str, Tensor], network: nn.Module, path: Path) -> None:
    """Pass where the network has these tensors and no others.

    Raises:
        Rejected: names the first that does not fit.
    """
    wanted = network.state_dict()
    for name, tensor in wanted.items():
        if name not in state:
            raise Rejected(f"{path} does not fit network_def: the network has {name!r}, the file has not")
        if state[name].shape != tensor.shape:
            raise Rejected(
                f"{path} does not fit network_def: {name!r} has the shape {tuple(state[name].shape)} in the file and "
                f"{tuple(tensor.shape)} in the network"
            )
    for name in state:
        if name not in wanted:
            raise Rejected(f"{path} does not fit network_def: the file has {name!r}, the network has not")


def _is_tensor(name: Any, value: Any) -> bool:
    return isinstance(name, str) and isinstance(value, Tensor)


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())
