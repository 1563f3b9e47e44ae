"""A bundle of the MONAI Model Zoo, read: network, input chain, inferer and decision, each against its closed list.

configs/inference.json|yaml     network_def (or network), preprocessing, inferer, postprocessing; the rest is not read
configs/metadata.json           who made it, its channels and classes
models/model.pt                 tensors by name
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import ValidationError
from torch import Tensor

from dicom_io.cohort import Channel
from dicom_io.errors import Rejected
from models import networks, runner
from models.foreign import chain, decision, weights
from models.foreign.configuration import Configuration, Section, plain
from models.foreign.decision import Decision
from models.foreign.folder import Folder
from models.foreign.origin import Foreign, Origin
from models.networks import published

# What an inferer is told. The other arguments say where to compute, and what to show meanwhile.
_INFERERS: Mapping[str, tuple[str, ...]] = {
    "SimpleInferer": (),
    "SliceInferer": (
        "roi_size",
        "sw_batch_size",
        "overlap",
        "mode",
        "sigma_scale",
        "padding_mode",
        "cval",
        "spatial_dim",
    ),
    "SlidingWindowInferer": ("roi_size", "sw_batch_size", "overlap", "mode", "sigma_scale", "padding_mode", "cval"),
}
_WHERE_TO_COMPUTE = frozenset({"device", "sw_device", "progress", "cache_roi_weight_map", "cpu_thresh"})
_VOLUMETRIC = ("CT", "MR", "NM", "PT")
_LICENCES = ("LICENSE", "LICENSE.txt", "docs/LICENSE")
_MOST_CLAIMS = 20
_DEFAULT_WEIGHTS = "model.pt"


@dataclass(frozen=True)
class Told:
    """What the bundle does not say, or says wrongly. weights: a file in models/."""

    labels: tuple[str, ...] = ()
    channels: tuple[Channel, ...] = ()
    weights: str = ""


@dataclass(frozen=True, eq=False)
class Bundle:
    """What was read and found harmless. left_out: what of the bundle is not read, in words."""

    folder: Folder
    task: Literal["segmentation", "classification"]
    kind: Literal["volume", "projection"]
    labels: tuple[str, ...]
    channels: tuple[Channel, ...]
    network_definition: Mapping[str, Any]
    inferer: Mapping[str, Any]
    foreign: Foreign
    state: Mapping[str, Tensor]
    left_out: tuple[str, ...]


def read(root: Path, told: Told) -> Bundle:
    """Read and check a bundle; nothing of it is run.

    Raises:
        Rejected: it holds what is not on a list, or it does not fit together, or says too little; names the key.
    """
    try:
        return _Reader(root, told).bundle()
    except ValidationError as error:
        raise Rejected(f"{root}: {error.errors()[0]['msg']}") from error
    except ValueError as error:
        raise Rejected(f"{root}: {error}") from error


class _Reader:
    def __init__(self, root: Path, told: Told) -> None:
        self._folder = Folder(root)
        self._told = told
        self._metadata = self._folder.document(self._folder.named("configs/metadata"))
        document = self._folder.document(self._folder.named("configs/inference"))
        self._configuration = Configuration(self._folder, document, self._metadata)
        self._left_out: list[str] = []

    def bundle(self) -> Bundle:
        network = self._network()
        steps, files_first = self._chain()
        inferer = self._inferer()
        decided = self._decision()
        task = _task(network, inferer)
        channels = self._channels(_argument(network, "in_channels", "n_input_channels"))
        volumetric = all(channel.modality in _VOLUMETRIC for channel in channels)
        if task == "segmentation" and not volumetric:
            modalities = ", ".join(sorted({channel.modality for channel in channels}))
            raise ValueError(
                f"it segments pictures of {modalities}; volumes alone are segmented ({', '.join(_VOLUMETRIC)})"
            )
        labels = self._labels(task, _argument(network, "out_channels", "num_classes"), decided)
        name, state = self._weights(network)
        # Every key that is read has been asked for by now.
        self._left_out += [f"key {key}" for key in self._configuration.keys if key not in self._configuration.asked]
        self._left_out += [
            f"folder {each}" for each in self._folder.folders if each not in ("configs", "docs", "models")
        ]
        return Bundle(
            folder=self._folder,
            task=task,
            kind="volume" if volumetric else "projection",
            labels=labels,
            channels=channels,
            network_definition=network,
            inferer=inferer,
            foreign=Foreign(origin=self._origin(name), chain=steps, files_first=files_first, decision=decided),
            state=state,
            left_out=tuple(self._left_out),
        )

    def _network(self) -> dict[str, Any]:
        key = "network_def" if "network_def" in self._configuration.keys else "network"
        section = _component(self._configuration.get(key), key)
        target = section["_target_"]
        found = re.fullmatch(r"(?:monai\.networks\.nets\.(?:\w+\.)?)?(\w+)", str(target))
        name = f"{published.PREFIX}{found[1]}" if found else ""
        if name not in published.NETWORKS:
            known = ", ".join((*published.SEGMENTERS, *published.CLASSIFIERS))
            raise ValueError(f"{key}._target_: {target!r} is not one of {known}; it is not loaded")
        self._left_out += [f"argument {each} of {key}" for each in published.DOWNLOADS if each in section]
        return {"_target_": name, **_arguments(section, key, but=published.DOWNLOADS)}

    def _steps(self, key: str) -> list[Section]:
        section = _component(self._configuration.get(key), key)
        if chain.name_of(section["_target_"]) != "Compose":
            raise ValueError(f"{key}._target_: {section['_target_']!r} is not Compose; it is not loaded")
        for other in section:
            # "lazy" would take steps together, and interpolate once where the others do twice.
            if other not in ("_target_", "_desc_", "transforms") and section[other] not in (None, False):
                raise ValueError(f"{key}.{other}: {section[other]!r} is not read; steps are taken one by one")
        steps = section.get("transforms")
        if not isinstance(steps, list):
            raise ValueError(f"{key}.transforms: there is no list of transforms")
        return [_component(step, f"{key}.transforms[{number}]") for number, step in enumerate(steps)]

    def _chain(self) -> tuple[tuple[dict[str, Any], ...], bool]:
        kept: list[dict[str, Any]] = []
        names = []
        for number, step in enumerate(self._steps("preprocessing")):
            where, name = f"preprocessing.transforms[{number}]", chain.name_of(step["_target_"])
            names.append(name)
            if name in chain.DONE:
                chain.check_done(step, where)
                self._left_out.append(f"step {name} of preprocessing")
                continue
            chain.require_known(name, where)
            kept.append({"_target_": name, **_arguments(step, where)})
            chain.check_arguments(kept[-1], where)
            chain.build_step(kept[-1], where)
        return tuple(kept), chain.READER in names

    def _inferer(self) -> dict[str, Any]:
        section = _component(self._configuration.get("inferer"), "inferer")
        target = str(section["_target_"])
        name = target.removeprefix("monai.inferers.")
        if name not in _INFERERS:
            raise ValueError(f"inferer._target_: {target!r} is not one of {', '.join(_INFERERS)}; it is not loaded")
        aside = [key for key in section if key in _WHERE_TO_COMPUTE]
        self._left_out += [f"argument {key} of inferer" for key in aside]
        definition = {"_target_": name, **_arguments(section, "inferer", but=aside)}
        for key in definition:
            if key not in ("_target_", *_INFERERS[name]):
                raise ValueError(
                    f"inferer.{key}: {name} is read with {', '.join(_INFERERS[name]) or 'no argument'} alone"
                )
        runner.check_inferer(definition)
        _built(lambda: runner.build_inferer(definition), "inferer")
        return definition

    def _decision(self) -> Decision:
        found, left_out = decision.read(self._steps("postprocessing"), "postprocessing.transforms")
        self._left_out += [f"step {name} of postprocessing" for name in left_out]
        return found

    def _labels(self, task: str, outputs: int, decided: Decision) -> tuple[str, ...]:
        several = outputs > 1 and decided.activation == "sigmoid"
        if several and not decided.painted and (task == "segmentation" or decided.threshold is not None):
            raise ValueError(
                f"postprocessing: {outputs} channels may overlap, and nothing says which of them counts; a mask has "
                "one class for each voxel"
            )
        if task == "segmentation" and decided.activation == "sigmoid" and decided.threshold is None:
            raise ValueError("postprocessing: no AsDiscreted with a threshold says what a sigmoid's mask is")
        if any(channel >= outputs for channel, _ in decided.painted):
            raise ValueError(f"postprocessing: it paints channels that the network, which has {outputs}, does not have")
        names = _names(self._metadata, "outputs")
        if decided.painted:
            classes = sorted({number: channel for channel, number in decided.painted}.items())
            names = ["background", *(names[channel] for _, channel in classes if channel < len(names))]
            wanted = len(classes) + 1
        else:
            wanted = 2 if outputs == 1 else outputs
            names = ["background", *names] if outputs == 1 and len(names) == 1 else names
        labels = self._told.labels or tuple(names)
        # As DICOM takes them (LO, PS3.5 6.2).
        well = all(0 < len(each) <= 64 and "\\" not in each for each in labels)
        if not well or len(labels) != wanted or len(set(labels)) != wanted:
            said = ", ".join(labels) or "none"
            raise ValueError(
                f"its {wanted} classes need a name each, of at most 64 letters without a backslash, and the names are "
                f"{said}; give --label {wanted} times, the background or the class of nothing found first"
            )
        return labels

    def _channels(self, inputs: int) -> tuple[Channel, ...]:
        if self._told.channels:
            channels = self._told.channels
        else:
            image = _format(self._metadata, "inputs")
            if (image.get("modality"), image.get("format"), inputs) != ("CT", "hounsfield", 1):
                said = f"modality {image.get('modality')!r}, format {image.get('format')!r}"
                raise ValueError(
                    f"the metadata say too little of the {inputs} input channel{'' if inputs == 1 else 's'} ({said}); "
                    "give --channel NAME=MODALITY[/CONTRAST][:UNITS] for each, in the network's order"
                )
            channels = (Channel("image", "CT", "[hnsf'U]"),)
        if len(channels) != inputs:
            raise ValueError(
                f"network_def takes {inputs} channels, and {len(channels)} are given; give --channel for each"
            )
        return channels

    def _weights(self, network: Mapping[str, Any]) -> tuple[str, dict[str, Tensor]]:
        name = self._told.weights or self._loaded()
        path = self._folder.root / "models" / name
        if PurePosixPath(name).name != name or not self._folder.has(f"models/{name}"):
            fetch = "; large_files.yml names where its makers keep them" if self._folder.has("large_files.yml") else ""
            raise ValueError(
                f"models/{name}, its weights, is not there{fetch}; put it there, or name another by --weights"
            )
        state = weights.read(path)
        built = _built(lambda: networks.build(network), "network_def")
        weights.require_fit(state, built, path)
        return name, state

    def _loaded(self) -> str:
        """The file in models/ that the bundle's own loader of checkpoints would take."""
        for key in ("checkpointloader", "handlers", "val_handlers"):
            if key not in self._configuration.keys:
                continue
            try:
                found = self._configuration.get(key)
                for each in found if isinstance(found, list) else [found]:
                    if isinstance(each, Section) and each.get("_target_") == "CheckpointLoader" and "load_path" in each:
                        return _in_models(str(each["load_path"]))
            except Rejected as error:
                raise Rejected(f"{error}; or name the file of weights by --weights") from error
        return _DEFAULT_WEIGHTS

    def _origin(self, weights_name: str) -> Origin:
        said = {key: _words(self._metadata.get(key)) for key in _SAID}
        claims = self._metadata.get("eval_metrics")
        licence = _words(self._metadata.get("license")) or next(
            (_title(text) for text in map(self._folder.text, _LICENCES) if text.strip()), ""
        )
        return Origin(
            **said,
            license=licence,
            claims={
                str(key)[:64]: value if isinstance(value, int | float) else _words(value)
                for key, value in (list(claims.items())[:_MOST_CLAIMS] if isinstance(claims, Mapping) else ())
            },
            weights=weights_name,
            bundle_hash=self._folder.content_hash(),
        )


_SAID = ("name", "version", "task", "description", "authors", "copyright", "data_source", "intended_use")


def _component(value: Any, where: str) -> Section:
    """A map with a `_target_`.

    Raises:
        ValueError: it is none, or bears a key by which MONAI's parser would call it in another way or order.
    """
    if not isinstance(value, Section) or not isinstance(value.get("_target_"), str):
        what = "is missing" if value is None else "names no _target_ with its arguments"
        raise ValueError(f"{where} {what}; it is not loaded")
    for key in value:
        if key in ("_requires_", "_mode_"):
            raise ValueError(f"{where}.{key}: {value.raw(key)!r} asks for calls in another order, and is not read")
    return value


def _arguments(section: Section, where: str, *, but: Any = ()) -> dict[str, Any]:
    keys = [key for key in section if key not in ("_target_", "_desc_", "_comment_", "_disabled_", *but)]
    arguments = {key: plain(section[key], f"{where}.{key}") for key in keys}
    _require_no_target(arguments, where)
    return arguments


def _require_no_target(value: Any, where: str) -> None:
    if isinstance(value, Mapping):
        if "_target_" in value:
            raise ValueError(f"{where}._target_: {value['_target_']!r} inside an argument is not loaded")
        for key, element in value.items():
            _require_no_target(element, f"{where}.{key}")
    elif isinstance(value, list):
        for number, element in enumerate(value):
            _require_no_target(element, f"{where}[{number}]")


def _built(make: Any, where: str) -> Any:
    try:
        return make()
    except Rejected:
        raise
    except Exception as error:  # MONAI's own checks raise what they like.
        raise ValueError(f"{where}: {' '.join(str(error).split())}") from error


def _task(network: Mapping[str, Any], inferer: Mapping[str, Any]) -> Literal["segmentation", "classification"]:
    name, dims = network["_target_"].removeprefix(published.PREFIX), _argument(network, "spatial_dims")
    how = inferer["_target_"]
    if name in published.CLASSIFIERS:
        if dims != 2 or how != "SimpleInferer":
            raise ValueError(
                f"{name} of {dims} axes by {how}: slices and projections are classified, whole, one by one"
            )
        return "classification"
    if dims != (2 if how == "SliceInferer" else 3):
        raise ValueError(
            f"{name} of {dims} axes by {how}: volumes are segmented, by networks of 3 axes, or of 2 by a SliceInferer"
        )
    return "segmentation"


def _argument(network: Mapping[str, Any], *names: str) -> int:
    given = networks.arguments(network)
    for name in names:
        if type(given.get(name)) is int and given[name] > 0:
            return int(given[name])
    raise ValueError(f"network_def: {' or '.join(names)} is not given as a whole number")


def _format(metadata: Mapping[str, Any], side: str) -> Mapping[str, Any]:
    """Of the one input, or of the one output."""
    known = metadata.get("network_data_format")
    held = known.get(side) if isinstance(known, Mapping) else None
    found = list(held.values()) if isinstance(held, Mapping) else []
    return found[0] if len(found) == 1 and isinstance(found[0], Mapping) else {}


def _names(metadata: Mapping[str, Any], side: str) -> list[str]:
    """Of `channel_def`, where it counts from 0."""
    defined = _format(metadata, side).get("channel_def")
    defined = defined if isinstance(defined, Mapping) else {}
    named = {str(key): _words(value) for key, value in defined.items()}
    return [named[str(number)] for number in range(len(named))] if {*map(str, range(len(named)))} == {*named} else []


def _words(value: Any) -> str:
    """One line of plain letters."""
    text = " ".join(str(value).split()) if isinstance(value, str | int | float) else ""
    return "".join(letter for letter in text if letter.isprintable())[:1000]


def _in_models(path: str) -> str:
    found = PurePosixPath(path)
    if found.parent.name != "models":
        raise Rejected(f"the bundle loads its weights from {path!r}, which is not in models/")
    return found.name


def _title(text: str) -> str:
    """The first line of a licence that says something, and the next where it gives the version."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return _words(" ".join(lines[:2]))[:200]
