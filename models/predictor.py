"""Serving: a volume or projection in, a prediction on the source grid out. The tensor is made as in training."""

# torch leaves Tensor.backward and Tensor.split without types.
# mypy: disallow-untyped-calls=False

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dicom_io.cohort import Channel
from dicom_io.errors import Rejected
from dicom_io.provenance import ModelIdentity
from dicom_io.volume import Float32, Projection, Volume
from models import engine, preprocessing, runner, saliency, version
from models.foreign.origin import Foreign
from models.foreign.serving import Way
from models.networks.ensemble import Ensemble
from models.tensors import from_metatensor, on_source_grid, to_metatensor
from models.version import Description, ModelVersion


@dataclass(frozen=True, eq=False)
class Segmented:
    """mask: class numbers (0 background); probability: of any foreground class; (S, R, C) on the source grid.

    threshold: None where the most probable class was taken. disagreement: the standard deviation of that probability
    between the members of an ensemble, where it was asked for.
    """

    mask: Volume
    probability: Volume
    threshold: float | None
    disagreement: Volume | None = None


@dataclass(frozen=True, eq=False)
class Classified:
    """probabilities: (slices or 1, classes). threshold: on any class but the first; None where no class is that of
    nothing found, and the most probable one is told."""

    labels: tuple[str, ...]
    probabilities: Float32
    threshold: float | None

    @property
    def suspicions(self) -> Float32:
        """(slices or 1,): the probability of any class but the first."""
        return 1 - self.probabilities[:, 0]

    @property
    def positive(self) -> np.ndarray:
        """(slices or 1,) bool: any class but the first."""
        if self.threshold is None:
            return self.probabilities.argmax(1) > 0
        return self.suspicions >= self.threshold

    def words(self, number: int) -> str:
        """What is told of one image; of several classes how far it is from the first, and which it most likely is."""
        chances = self.probabilities[number]
        surest = f"{self.labels[int(chances.argmax())]} {chances.max():.2f}"
        if self.threshold is None:
            return surest
        if len(self.labels) == 2:
            return f"{self.labels[-1]} {chances[-1]:.2f} (threshold {self.threshold:.2f})"
        return f"not {self.labels[0]} {1 - chances[0]:.2f} (threshold {self.threshold:.2f}); {surest}"


# Slices that a classifier looks at together, where no release measured what suits it.
_TOGETHER = 32


class _Predictor:
    """A version with its network and input chain, on the CPU. served: the network by the engine that serves it; what
    needs gradients or members takes the network itself."""

    def __init__(self, model: ModelVersion) -> None:
        self.model = model
        self.network = model.network()
        serves = model.description.engine
        self.served: engine.Network = engine.serving(model.folder, serves, self.network)
        self._chain = preprocessing.chain(model.model_input)
        self._batch = None if serves is None else serves.batch
        self._inferer = runner.build_inferer(model.inferer, self._batch)
        if self.description.threshold is None:
            raise Rejected(f"{model.identity.address} has no threshold fixed on validation; train it again")
        self.threshold = self.description.threshold

    @property
    def description(self) -> Description:
        return self.model.description

    @property
    def identity(self) -> ModelIdentity:
        return self.model.identity

    @property
    def channels(self) -> tuple[Channel, ...]:
        """What the model needs, in channel order."""
        return self.description.channels

    @property
    def labels(self) -> tuple[str, ...]:
        return self.description.labels

    def check_domain(self, image: Volume | Projection, body_part: str = "") -> None:
        """Pass, or raise. body_part: Body Part Examined (0018,0015) of the image.

        Raises:
            OutOfDomain: one sentence: what the image is, what the card says, the way out.
        """
        self.description.domain.check(image, self.channels, self.identity.address, body_part.strip().upper())

    def input_tensor(self, image: Volume | Projection) -> Tensor:
        """What the network sees: (C, slices, rows, columns) or (C, rows, columns), after the chain."""
        return preprocessing.prepare(self._chain, to_metatensor(image))


class Segmenter(_Predictor):
    """A volume -> mask, slice by slice or in boxes."""

    def predict(self, volume: Volume, *, members: bool = False) -> Segmented:
        """Windows over each slice, or boxes, blended; the result lies on the volume's own grid. members: of an
        ensemble, say where they disagree, too."""
        image = self.input_tensor(volume)
        # By what serves, whatever is asked for beside it: a result is a function of its input.
        probabilities = self.probabilities(image)
        apart = None
        if members and isinstance(self.network, Ensemble):
            each = self._of_members(image, self.network)
            apart = from_metatensor(each.std(0, correction=0, keepdim=True).clamp_max(0.5), volume, units="1")
        return Segmented(
            mask=from_metatensor(self.decisions(probabilities)[None].float(), volume, units="1"),
            probability=from_metatensor(1 - probabilities[:1], volume, units="1"),
            threshold=self.threshold,
            disagreement=apart,
        )

    def decisions(self, probabilities: Tensor) -> Tensor:
        """(classes, S, R, K) -> (S, R, K) class numbers."""
        return (1 - probabilities[0] >= self.threshold) * (1 + probabilities[1:].argmax(0))

    @torch.inference_mode()
    def _of_members(self, image: Tensor, ensemble: Ensemble) -> Tensor:
        """(members, S, R, K): the probability of any foreground, by torch."""
        found: Tensor = self._inferer(torch.as_tensor(image).as_subclass(Tensor)[None], ensemble.foregrounds)[0]
        return found.clamp(0, 1)

    @torch.inference_mode()
    def probabilities(self, image: Tensor) -> Tensor:
        """(C, S, R, K) input -> (classes, S, R, K)."""
        logits = self._inferer(torch.as_tensor(image).as_subclass(Tensor)[None], self.served)
        return torch.softmax(logits[0], 0)


class Classifier(_Predictor):
    """Slice or projection -> calibrated class probabilities."""

    def predict(self, image: Volume | Projection) -> Classified:
        """One row of probabilities per slice of a volume, one row for a projection."""
        return Classified(self.labels, self.probabilities(self.input_tensor(image)).numpy(), self.threshold)

    def decisions(self, probabilities: Tensor) -> Tensor:
        """(slices, classes) -> (slices,) bool: any class but the first."""
        return 1 - probabilities[:, 0] >= self.threshold

    @torch.inference_mode()
    def probabilities(self, image: Tensor) -> Tensor:
        """(C, S, R, K) or (C, R, K) input -> (S or 1, classes), calibrated."""
        found = [self.served(batch) for batch in pictures_of(image).split(self._batch or _TOGETHER)]
        return torch.softmax(found[0] if len(found) == 1 else torch.cat(found), 1)

    @torch.inference_mode()
    def of_pictures(self, images: Sequence[Projection]) -> Classified:
        """One row of probabilities for each projection, such as the tiles of a slide, in one batch."""
        batch = torch.cat([pictures_of(self.input_tensor(image)) for image in images])
        return Classified(self.labels, torch.softmax(self.served(batch), 1).numpy(), self.threshold)

    @property
    def saliency_method(self) -> saliency.Method:
        """How its maps are made."""
        return saliency.method_of(self.network)

    @property
    def saliency_is_shown(self) -> bool:
        """Whether its evaluation, where there is one, found maps that show more than those of random weights."""
        found = (self.model.evaluation or {}).get("saliency")
        return found is None or bool(found["passed"])

    def saliency(self, image: Volume | Projection) -> Float32:
        """Where the suspicion of each picture comes from (`models.saliency`), on the source grid: (slices, rows,
        columns), one slice for a projection; 0 where the chain cut pixels off.

        Raises:
            Rejected: `saliency_is_shown` is false.
        """
        if not self.saliency_is_shown:
            raise Rejected(
                f"{self.identity.address}: its evaluation found maps of saliency that say nothing, for those of random "
                "weights are like them; ask for none, or train another network"
            )
        prepared = self.input_tensor(image)
        drawn = saliency.maps(self.network, pictures_of(prepared))
        return on_source_grid(drawn.numpy(), prepared, image)


def pictures_of(tensor: Tensor) -> Tensor:
    """(C, slices, rows, columns) or (C, rows, columns), after the chain -> (n, C, rows, columns)."""
    plain = torch.as_tensor(tensor).as_subclass(Tensor)
    return plain.transpose(0, 1) if plain.ndim == 4 else plain[None]


class ForeignSegmenter(Segmenter):
    """A model that was made elsewhere, run as its bundle says."""

    def __init__(self, model: ModelVersion) -> None:
        super().__init__(model)
        self._foreign, self._way = _way(self)

    def predict(self, volume: Volume, *, members: bool = False) -> Segmented:
        """members: nothing is known of them."""
        mask, probability = self._way.segmented(volume)
        return Segmented(
            mask=from_metatensor(mask, volume, units="1"),
            probability=from_metatensor(probability, volume, units="1"),
            threshold=self._foreign.decision.threshold,
        )


class ForeignClassifier(Classifier):
    """A model that was made elsewhere, run as its bundle says; nobody has calibrated its probabilities here."""

    def __init__(self, model: ModelVersion) -> None:
        super().__init__(model)
        self._foreign, self._way = _way(self)

    def predict(self, image: Volume | Projection) -> Classified:
        said = self._way.classified(image)
        if said.shape[1] == 1:
            said = torch.cat([1 - said, said], 1)
        return Classified(self.labels, said.numpy(), self._foreign.decision.threshold)

    @property
    def saliency_is_shown(self) -> bool:
        """Never: nobody has looked at what its maps show."""
        return False

    def saliency(self, image: Volume | Projection) -> Float32:
        raise Rejected(f"{self.identity.address} was made elsewhere; maps of saliency are of classifiers trained here")


def _way(predictor: _Predictor) -> tuple[Foreign, Way]:
    foreign = predictor.description.foreign
    assert foreign is not None
    return foreign, Way(foreign, predictor.network, runner.build_inferer(predictor.model.inferer))


def load(folder: Path) -> Classifier | Segmenter:
    """A predictor from a version's (or a finished run's) folder.

    Raises:
        Rejected: the folder is no model, or holds a generator.
    """
    return of(version.load(folder))


def of(model: ModelVersion) -> Classifier | Segmenter:
    """The predictor of a model that was read.

    Raises:
        Rejected: it is a generator.
    """
    if model.description.task == "segmentation":
        return ForeignSegmenter(model) if model.description.foreign else Segmenter(model)
    if model.description.task == "classification":
        return ForeignClassifier(model) if model.description.foreign else Classifier(model)
    of = " --from MASK" if model.description.given else ""
    raise Rejected(f"{model.identity.address} is a generator; use `mirall generate{of}`")
