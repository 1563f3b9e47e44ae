"""A model version on disk: the MONAI bundle form, written and read by us (promise 7).

    configs/metadata.json     MONAI's fields, and ours under "mirall" (`Description`)
    configs/inference.json    "network_def", "model_input" (the chain), "inferer"; the rest is for `monai.bundle run`
    models/model.pt           tensors only
    models/model.onnx         the same network for ONNX Runtime, where that serves it (`models.engine`)
    docs/README.md            the card
    evaluation/               evaluation.json, report.md, report.html
    training/                 generators: networks that only a later training needs, tensors only. The identity covers
                              their hashes, so the folder may be left out of what is given away: unlike pictures, a
                              critic or an encoder answers questions about a given one

A finished run folder has the first three already, so one loader serves runs and versions.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any, Literal

import monai
import numpy as np
import torch
from pydantic import Field, ValidationError
from torch import nn

from dicom_io.cohort import Channel, SplitUnit, Task
from dicom_io.errors import Rejected
from dicom_io.provenance import ModelIdentity, State, content_hash
from models import networks, runner
from models.domain import Domain
from models.engine import Engine
from models.foreign.origin import Foreign
from models.preprocessing import check_steps
from models.recipe_parts import Settings
from models.study import Reading

# Where MONAI publishes the schema of metadata.json; verify_metadata reads it.
SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"


class Ancestor(Settings):
    """A model that a training started from, and what that had seen. labels: the classes that it knew."""

    address: str
    content_hash: str
    cohort: str
    data_hash: str
    patients: int
    synthetic_images: int
    labels: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        return f"{self.address} (content hash {self.content_hash[:12]})"


class Saw(Settings):
    """What training saw. data_hash: of the cohort's list and files; patients, images: of the training split.

    ancestors: what it started from, then what that had started from, and so on; what they saw, it saw. Of a model that
    was made elsewhere nothing is known: no hash, and zeros.
    """

    cohort: str
    data_hash: str
    split_unit: SplitUnit
    patients: int
    validation_patients: int
    images: int
    synthetic_images: int
    images_seen: int
    seed: int
    recipe: str
    ancestors: tuple[Ancestor, ...] = ()


class Given(Settings):
    """What a generator of pictures makes them of.

    kind: "mask", label numbers; "channels", a picture of other channels of the same slice; "coarse", the picture with
    pixels that are `factor` times as wide; "itself", the very picture, to be varied. channels: of the given picture, in
    its order; none of a mask.
    """

    kind: Literal["mask", "channels", "coarse", "itself"]
    channels: tuple[Channel, ...] = ()
    factor: int = 1


class Member(Settings):
    """A run that is part of an ensemble. content_hash: of its model."""

    content_hash: str
    seed: int


class Description(Settings):
    """What serving must know beside network, chain and inferer.

    threshold: on the probability of any class but the first, fixed on validation; None for generators. temperature:
    already divided into the weights; kept for the record. pixel_range, units, spacing_mm ((slice,) row, column): of a
    generator's samples; minimum_signal: what it was shown reaches this share of the range; audit_samples: how many
    samples its evaluation draws. label_slices: of a conditional generator, how many training slices each of `labels`
    had; a label of none cannot be asked for. mask_labels: what it draws beside the image, a plane for each after those
    of `channels`. only_label: the label of the slices that it saw, where it saw no others. served_px: the size of its
    samples, None where it is the network's. beside: networks that only a later training needs (critic, encoder), by
    name the SHA-256 (hex) of their file in training/. given: what it makes pictures of, None for noise.
    label_dropout: share of the classes that were hidden in training, None where it is not known. members: of an
    ensemble, the runs that it was made of; mirrored: the axes along which it looks at mirror images, too.
    least_sensitivity: that was wanted on validation, None where the threshold is that of the best sensitivity plus
    specificity. study: how the pictures of a study speak for it, None where every study of validation had one.
    made_embeddings: how many SMOTE made for the last layer of a classifier. picture_px: (rows, columns) of the
    projections that a classifier learned from, None where they had several sizes, or were none. engine: what serves a
    released predictor; None is torch, of runs, generators and earlier releases.
    foreign: where and how a model of elsewhere was made, of which `saw` knows nothing; its threshold is that of its
    makers, or a half.
    """

    name: str
    version: str = "0"
    state: State = "unproven"
    task: Task
    labels: tuple[str, ...]
    channels: tuple[Channel, ...]
    domain: Domain
    saw: Saw
    threshold: float | None = None
    temperature: float | None = None
    pixel_range: tuple[float, float] | None = None
    units: str = ""
    spacing_mm: tuple[float, ...] | None = None
    minimum_signal: float = 0.0
    audit_samples: int = 0
    label_slices: tuple[int, ...] = ()
    mask_labels: tuple[str, ...] = ()
    only_label: str | None = None
    served_px: int | None = None
    given: Given | None = None
    label_dropout: float | None = None
    audit_id: str = ""
    beside: dict[str, str] = Field(default_factory=dict)
    members: tuple[Member, ...] = ()
    mirrored: tuple[str, ...] = ()
    least_sensitivity: float | None = None
    study: Reading | None = None
    made_embeddings: int = 0
    picture_px: tuple[int, int] | None = None
    engine: Engine | None = None
    foreign: Foreign | None = None


@dataclass(frozen=True, eq=False)
class ModelVersion:
    """A version (or a finished run) that was read and found harmless; the network is built on demand."""

    folder: Path
    identity: ModelIdentity
    metadata: Mapping[str, Any]
    description: Description
    network_definition: Mapping[str, Any]
    model_input: tuple[Mapping[str, Any], ...]
    inferer: Mapping[str, Any]

    def network(self) -> nn.Module:
        """The network with its weights, in evaluation mode.

        Raises:
            Rejected: the weights file holds anything but tensors, or other tensors than the network has.
        """
        network = networks.build(self.network_definition)
        state = self.weights()
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            raise Rejected(
                f"{self.folder}: weights and network_def do not fit: {' '.join(str(error).split())}"
            ) from error
        return network.eval()

    def require_servable(self) -> None:
        """Pass, but for what may be measured alone.

        Raises:
            Rejected: it makes variations of pictures that it is given.
        """
        if self.description.given and self.description.given.kind == "itself":
            raise Rejected(
                f"{self.identity.address} makes variations of pictures that it is given, which repeat their patients; "
                "it can be evaluated, and is neither released nor served; train one from noise, without `source`"
            )

    def weights(self) -> dict[str, torch.Tensor]:
        """See `read_weights`."""
        return read_weights(self.folder / "models" / "model.pt")

    def beside(self, name: str) -> dict[str, torch.Tensor] | None:
        """The weights of a network that only a later training needs; None where they were not left, or taken away.

        Raises:
            Rejected: the file is another than training left.
        """
        path = self.folder / "training" / f"{name}.pt"
        if name not in self.description.beside or not path.is_file():
            return None
        if hashlib.sha256(path.read_bytes()).hexdigest() != self.description.beside[name]:
            raise Rejected(f"{path} is not what training left and was not loaded; restore it, or delete it")
        return read_weights(path)

    @property
    def evaluation(self) -> Mapping[str, Any] | None:
        """What `models release` measured; None for a run."""
        path = self.folder / "evaluation" / "evaluation.json"
        return json.loads(path.read_text()) if path.is_file() else None


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Tensors by name; nothing else is ever unpickled.

    Raises:
        Rejected: the file is absent, damaged, or would run code.
    """
    state = read_plain(path)
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise Rejected(
            f"{path} holds more than tensors and was not used; give a plain state dict, such as models/model.pt of a "
            "run"
        )
    return state


def read_plain(path: Path) -> Any:
    """Tensors, numbers, words, and lists and maps of them; nothing else is ever unpickled.

    Raises:
        Rejected: the file is absent, damaged, or would run code.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise Rejected(f"{path} is missing; train or release the model again") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise Rejected(
            f"{path} is damaged or holds more than tensors, and was not loaded; give a file of tensors by name, such "
            "as models/model.pt of a run"
        ) from error


def write(
    folder: Path,
    description: Description,
    network_definition: Mapping[str, Any],
    model_input: tuple[Mapping[str, Any], ...],
    window: Sequence[int] | None,
    overlap: float,
    state: Mapping[str, torch.Tensor] | None,
) -> None:
    """Write configs (and weights, where given) into a folder. Same contents give the same bytes.

    window, overlap: see `runner.inference`.
    """
    (folder / "configs").mkdir(parents=True, exist_ok=True)
    inference = runner.inference(
        description.task,
        description.domain.kind,
        network_definition,
        model_input,
        window,
        overlap,
        description.threshold,
    )
    _write_json(folder / "configs" / "inference.json", inference)
    _write_json(folder / "configs" / "metadata.json", metadata(description, network_definition, window))
    if state is not None:
        write_weights(folder / "models" / "model.pt", state)


def write_beside(folder: Path, states: Mapping[str, Mapping[str, torch.Tensor]]) -> dict[str, str]:
    """Networks that only a later training needs; `Description.beside` of them."""
    paths = {name: folder / "training" / f"{name}.pt" for name in states}
    for name, path in paths.items():
        write_weights(path, states[name])
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in paths.items()}


def write_weights(path: Path, state: Mapping[str, torch.Tensor]) -> None:
    path.parent.mkdir(exist_ok=True)
    # Clones, so that a file never holds more of a storage than its tensor shows; in the usual order, in which networks
    # are built to serve. What a network has under two names (DynUNet) is one tensor here, too.
    clones: dict[Any, torch.Tensor] = {}
    plain: dict[str, torch.Tensor] = {}
    for name, value in state.items():
        place = value.data_ptr(), value.shape, value.stride()
        if place not in clones:
            clones[place] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        plain[name] = clones[place]
    torch.save(plain, path)


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=1) + "\n")


def metadata(
    description: Description, network: Mapping[str, Any], window: Sequence[int] | None = None
) -> dict[str, Any]:
    """MONAI's metadata.json (schema of 2024-07-25), with ours under "mirall"."""
    what = {
        "classification": "class probabilities of a slice or a projection",
        "segmentation": "mask of the slices of a volume",
        "generation": "synthetic slices",
    }[description.task]
    seen = description.saw
    # Networks of our own can only be built where we are installed; NIfTI is what MONAI's runner reads.
    own = str(network["_target_"]).startswith("models.")
    needed = (["mirall"] if own else []) + (["nibabel"] if description.task != "generation" else [])
    return {
        "schema": SCHEMA,
        "version": description.version,
        "changelog": {description.version: f"trained on cohort {seen.cohort}, data hash {seen.data_hash}"},
        "name": description.name,
        "monai_version": monai.__version__,
        "pytorch_version": torch.__version__.split("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {name: installed(name) for name in needed},
        "task": f"{description.name}: {what}",
        "description": f"{what}; labels {', '.join(description.labels) or 'none'}; docs/README.md is the card.",
        "authors": "The users of Mirall who trained it",
        "copyright": "Of those who trained it; the data's own terms hold",
        "data_type": "nifti",
        "intended_use": "Research only; not for diagnosis or treatment",
        "network_data_format": _data_format(description, network, window),
        "mirall": description.model_dump(mode="json"),
    }


def _data_format(description: Description, network: Mapping[str, Any], window: Sequence[int] | None) -> dict[str, Any]:
    image = {"type": "image", "format": "magnitude", "dtype": "float32", "is_patch_data": window is not None}
    names = {str(number): channel.name for number, channel in enumerate(description.channels)}
    classes = {str(number): label for number, label in enumerate(description.labels)}
    shape: list[int | str] = [*window] if window else ["*", "*"]
    if description.given:
        return _of_given(description, description.given, network, image)
    if description.task == "generation":
        channels, pixels = networks.noise_shape(network)
        noise = image | {
            "type": "noise",
            "num_channels": channels,
            "spatial_shape": pixels,
            "value_range": [-9, 9],
        }
        size = [network["image_px"]] * network.get("dims", 2)
        planes = [*names.values(), *(f"mask of {label}" for label in description.mask_labels)]
        made = image | {
            "num_channels": len(planes),
            "spatial_shape": size,
            "value_range": [-1, 1],
            "channel_def": {str(number): name for number, name in enumerate(planes)},
        }
        label = {"type": "label", "format": "labels", "num_channels": 1, "spatial_shape": [], "dtype": "int64"}
        numbers = {"value_range": [0, len(classes) - 1], "is_patch_data": False, "channel_def": {"0": "class number"}}
        return {
            "inputs": {"latent": noise | {"is_patch_data": False}}
            | ({"label": label | numbers} if description.label_slices else {}),
            "outputs": {"pred": made | {"is_patch_data": False}},
        }
    taken = image | {
        "num_channels": len(names),
        "spatial_shape": shape,
        "value_range": [],
        "channel_def": names,
    }
    kind = "segmentation" if description.task == "segmentation" else "probabilities"
    given = image | {
        "type": "image" if kind == "segmentation" else "probabilities",
        "format": kind,
        "num_channels": len(classes),
        "spatial_shape": shape if kind == "segmentation" else [],
        "value_range": [0, 1],
        "channel_def": classes,
    }
    return {"inputs": {"image": taken}, "outputs": {"pred": given}}


def _of_given(
    description: Description, given: Given, network: Mapping[str, Any], image: Mapping[str, Any]
) -> dict[str, Any]:
    names = [channel.name for channel in given.channels] or [f"mask of {label}" for label in description.labels[1:]]
    size: list[int | str] = [network["image_px"]] * 2 if given.kind in ("mask", "itself") else ["*", "*"]

    def planes(named: Sequence[str]) -> dict[str, Any]:
        of = {str(number): name for number, name in enumerate(named)}
        shape = {"num_channels": len(named), "spatial_shape": size, "value_range": [-1, 1], "channel_def": of}
        return {**image, **shape, "is_patch_data": False}

    inputs = {"image": planes(names)}
    if given.kind == "mask":
        channels, pixels = networks.noise_shape(network)
        noise = {"type": "noise", "num_channels": channels, "spatial_shape": pixels, "value_range": [-9, 9]}
        inputs["code"] = {**image, **noise, "is_patch_data": False}
    return {"inputs": inputs, "outputs": {"pred": planes([channel.name for channel in description.channels])}}


def load(folder: Path) -> ModelVersion:
    """Read a version or a finished run. Only plain data is read; MONAI's parser never sees the file.

    Raises:
        Rejected: a file is absent or no JSON, or names a network, a transform or a value that is not on our lists.
    """
    try:
        meta = json.loads((folder / "configs" / "metadata.json").read_text())
        inference = json.loads((folder / "configs" / "inference.json").read_text())
        description = Description.model_validate(meta["mirall"])
        model_input = tuple(inference["model_input"])
        check_steps(model_input)
        network_definition = inference["network_def"]
        inferer = inference["inferer"]
        runner.check_inferer(inferer)
    except FileNotFoundError as error:
        raise Rejected(
            f"{folder} is no model: {error.filename} is missing; train a run or release a version first"
        ) from error
    except KeyError as error:
        raise Rejected(f"{folder} is no model of ours: key {error} is missing in configs") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(key) for key in first["loc"])
        raise Rejected(f"{folder}/configs/metadata.json: key 'mirall.{where}': {first['msg']}") from error
    except ValueError as error:
        raise Rejected(f"{folder}/configs: {error}") from error
    identity = ModelIdentity(description.name, description.version, content_hash(folder), description.state)
    return ModelVersion(folder, identity, meta, description, network_definition, model_input, inferer)
