"""Transfer: a generator's training that starts from another model's weights, and layers that stay as they were.

Taken are the weights that a finished run or a released version left, of every network of the family: generator and
critic (of masks also style), decoder and encoder, denoiser (and autoencoder), there, back and critics. Optimisers
begin anew. Weights that belong to classes are taken only where the
classes are the very same. Freezing holds weights, not the running statistics of a batch norm, which follow the new
images. The first layers of the critic are what Freeze-D freezes (Mo 2020).

    run/ancestors.json   what the training started from, then what that had started from, and so on
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dicom_io.errors import Rejected
from models import generation_recipe, networks, version
from models.generation_recipe import GenerationBase
from models.training.journal import Journal
from models.version import Ancestor, ModelVersion

# What a definition says of a network beside its weights and the noise that it takes; of classes there is more below.
_FREE = {"classes", "dropout", "data_mean", "sigma_data", "latent_mean", "latent_deviation"}
_FREE |= {"sampler", "steps", "guidance", "sigma_least", "sigma_most", "rho"}
LAYERS = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.Conv3d, nn.ConvTranspose3d)


@dataclass(frozen=True, eq=False)
class Part:
    """A network of a training. networks: itself and, where there is one, its running average.

    build: the same with another number of classes. The first part of a training is what it releases.
    """

    name: str
    networks: tuple[nn.Module, ...]
    build: Callable[[int], nn.Module]

    def of_classes(self, numbers: Iterable[int]) -> frozenset[str]:
        """Names of the weights that belong to classes: they are others, or none, with another number of them."""
        others = [_shapes(self.build(classes)) for classes in numbers]
        here = _shapes(self.networks[0])
        return frozenset(name for name, shape in here.items() if any(each.get(name) != shape for each in others))


def _shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


class Transfer:
    """What a training takes from the model that it starts from. ancestors: the nearest first; none: fresh weights.

    model: folder of a run or a version, or None. A run that has a checkpoint takes nothing any more.

    Raises:
        Rejected: the run started from another model, or stopped before its first checkpoint and the model is not given
            again; or the recipe says what to take, and there is nothing to take it from.
    """

    def __init__(self, recipe: GenerationBase, journal: Journal, model: Path | None, resume: bool) -> None:
        self._settings = recipe.transfer or generation_recipe.Transfer()
        run, begun = journal.run, journal.resumed is not None
        self._recipe, self._data_hash, self._begun = recipe.name, journal.data_hash, begun
        self._model = None if model is None else _generator(model)
        given = () if self._model is None else lineage(self._model)
        noted = _noted(run) if resume else ()
        if noted and not begun and not given:
            raise Rejected(
                f"{run} was to start from {noted[0].words} and stopped before its first checkpoint; give it again "
                "(--start-from)"
            )
        if begun and given and given != noted:
            from_what = f"started from {noted[0].words}" if noted else "started from no model"
            raise Rejected(f"{run} {from_what}, not from {given[0].words}; resume it without --start-from")
        self.ancestors = noted if begun else given
        if recipe.transfer and not self.ancestors:
            raise Rejected(
                f"recipe {recipe.name!r} has `transfer`, which says what to take of another model and what to freeze: "
                "fresh weights are not worth freezing; name that model (--start-from), or leave `transfer` out"
            )
        if not begun and journal.writes:
            _note(run, self.ancestors)
        self._frozen: list[nn.Parameter] = []
        self._held = False

    def begin(self, definition: Mapping[str, Any], parts: Sequence[Part], classes: tuple[str, ...]) -> list[str]:
        """Take the weights, unless there is a checkpoint, and find what is frozen; sentences to warn with.

        definition: `network_def` of the first part. classes: names of those that the networks know.

        Raises:
            Rejected: the model has other networks, or the recipe names a part or a layer that there is not.
        """
        if not self.ancestors:
            return []
        self._require_parts(parts)
        nearest = self.ancestors[0]
        # One class more than here, too: the same number of classes may be others.
        numbers = () if nearest.labels == classes else (len(nearest.labels), len(classes) + 1)
        fresh = {part.name: part.of_classes(numbers) for part in parts}
        said = [] if self._begun else self._take(definition, parts, fresh)
        said += [
            f"{each.address} saw {each.patients} patients of cohort {each.cohort!r}: figures of test patients of "
            "this one count only where none is among them"
            for each in self.ancestors
            if each.data_hash != self._data_hash
        ]
        if numbers:
            then, now = (", ".join(names) or "no classes" for names in (nearest.labels, classes))
            said.append(f"{nearest.address} knows {then}, this training {now}: what belongs to classes begins anew")
        self._frozen = [
            part.networks[0].get_parameter(name)
            for part in parts
            for name in frozen(part, self._settings.freeze.get(part.name, ())) - fresh[part.name]
        ]
        return said

    def hold(self, fraction: float) -> None:
        """Before every step: frozen layers ask for no gradients, until their share of the training is over."""
        holds = fraction < self._settings.frozen_share
        for weight in self._frozen if holds or self._held else ():
            weight.requires_grad_(not holds)
        self._held = holds

    def _require_parts(self, parts: Sequence[Part]) -> None:
        names = [part.name for part in parts]
        for key, asked in (("fresh", self._settings.fresh), ("freeze", self._settings.freeze)):
            for name in asked:
                if name not in names:
                    raise Rejected(f"transfer.{key}: {name!r} is none of {', '.join(names)}")
        if set(names) <= set(self._settings.fresh):
            raise Rejected(f"transfer.fresh: {', '.join(names)} is all that could be taken; leave one out")

    def _take(
        self, definition: Mapping[str, Any], parts: Sequence[Part], fresh: Mapping[str, frozenset[str]]
    ) -> list[str]:
        model, said = self._model, []
        assert model is not None
        _require_alike(model, definition, self._recipe)
        for part in parts:
            if part.name in self._settings.fresh:
                continue
            weights = model.weights() if part is parts[0] else model.beside(part.name)
            if weights is not None:
                _load(part, weights, fresh[part.name], model.identity.address)
            elif part.name in self._settings.freeze:
                raise Rejected(f"transfer.freeze: {model.identity.address} left no {part.name} that could be frozen")
            else:
                said.append(f"{model.identity.address} left no {part.name}, which begins anew")
        return said


def _generator(folder: Path) -> ModelVersion:
    model = version.load(folder)
    if model.description.task != "generation":
        raise Rejected(f"{model.identity.address} is for {model.description.task}; start from a generator")
    return model


def lineage(model: ModelVersion) -> tuple[Ancestor, ...]:
    """The model, and what it started from, the nearest first."""
    known, saw = model.description, model.description.saw
    nearest = Ancestor(
        address=model.identity.address,
        content_hash=model.identity.content_hash,
        labels=known.labels if known.label_slices else (),
        **{name: getattr(saw, name) for name in ("cohort", "data_hash", "patients", "synthetic_images")},
    )
    return (nearest, *saw.ancestors)


def _noted(run: Path) -> tuple[Ancestor, ...]:
    path = run / "ancestors.json"
    listed = json.loads(path.read_text()) if path.is_file() else []
    return tuple(Ancestor.model_validate(each) for each in listed)


def _note(run: Path, ancestors: Sequence[Ancestor]) -> None:
    path = run / "ancestors.json"
    if not ancestors:
        path.unlink(missing_ok=True)
        return
    scratch = path.with_suffix(".partial")
    scratch.write_text(json.dumps([each.model_dump(mode="json") for each in ancestors], indent=1) + "\n")
    scratch.replace(path)


def _require_alike(model: ModelVersion, definition: Mapping[str, Any], recipe: str) -> None:
    """Raises Rejected where the model's network is another, or one of its settings is."""
    address, theirs = model.identity.address, model.network_definition
    there, here = (str(each["_target_"]).rpartition(".")[2] for each in (theirs, definition))
    if theirs["_target_"] != definition["_target_"]:
        raise Rejected(
            f"{address} cannot be started from: its network is {there}, and that of recipe {recipe!r} {here}; take a "
            "recipe of the same family and network, or another model"
        )
    then, now = networks.arguments(theirs), networks.arguments(definition)
    for key in sorted((then.keys() | now.keys()) - _FREE):
        if then.get(key) != now.get(key):
            raise Rejected(
                f"{address} cannot be started from: its network has {key} {then.get(key)}, and that of recipe "
                f"{recipe!r} {now.get(key)}; {_way_out(key, then.get(key))}, or start from another model"
            )


def _way_out(key: str, there: object) -> str:
    """What the recipe can change; planes and dimensions are no settings of the network itself."""
    if key == "latent" and isinstance(there, Mapping):
        return f"set latent to {dict(there)}"
    asked = {
        "planes": "ask for as many channels and masks",
        "dims": "set spatial_dims as there",
        "given": "give as many channels or masks (source)",
        "labels": "give masks of as many labels (source: mask)",
        "factor": f"set factor to {there}",
    }
    return asked.get(key, f"set network.{key} to {there}")


def _load(part: Part, weights: Mapping[str, Tensor], fresh: frozenset[str], address: str) -> None:
    """Raises Rejected where they are other weights than the part has."""
    here = _shapes(part.networks[0])
    for name in sorted(here.keys() - fresh):
        there = tuple(weights[name].shape) if name in weights else None
        if there != here[name]:
            raise Rejected(
                f"{address} cannot be started from: {name} of its {part.name} is {there or 'not there'}, and "
                f"{here[name]} here; take the `network` of its recipe.yaml, or let the {part.name} begin anew "
                f"(transfer.fresh: [{part.name}])"
            )
    taken = {name: weights[name] for name in here.keys() - fresh}
    for network in part.networks:
        network.load_state_dict(part.networks[0].state_dict() | taken)


def layers(network: nn.Module) -> dict[str, list[str]]:
    """Layers of a network, from its input on: name -> names of its weights.

    A convolution or a dense layer is one, and so is a block of them; a norm belongs to the layer before it.
    """
    found: dict[str, list[str]] = {}
    for name, unit in _units(network, ""):
        weights = [f"{name}.{each}" for each, _ in unit.named_parameters()]
        if any(isinstance(each, LAYERS) for each in unit.modules()):
            found[name] = weights
        elif found:
            found[next(reversed(found))] += weights
    return found


def _units(network: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    # What never trains, such as the decoder of latents beside their denoiser, is no layer.
    children = [(name, child) for name, child in network.named_children() if not _fixed(child)]
    for name, child in children:
        # Lists are looked into, and a network around one other network is.
        if type(child) in (nn.Sequential, nn.ModuleList) or len(children) == 1:
            yield from _units(child, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", child


def _fixed(network: nn.Module) -> bool:
    weights = list(network.parameters())
    return bool(weights) and not any(weight.requires_grad for weight in weights)


def frozen(part: Part, asked: int | Sequence[str]) -> frozenset[str]:
    """Names of the weights of the first so many layers, or of those that are named.

    Raises:
        Rejected: there is no such layer, or none is left to train.
    """
    known = layers(part.networks[0])
    names = [*known][:asked] if isinstance(asked, int) else asked
    for name in names:
        if name not in known:
            raise Rejected(f"transfer.freeze.{part.name}: {name!r} is none of its layers, which are {', '.join(known)}")
    if set(names) == known.keys():
        raise Rejected(f"transfer.freeze.{part.name}: {asked} of {len(known)} layers leave none to train; freeze fewer")
    return frozenset(weight for name in names for weight in known[name])
