"""At a release: torch and ONNX Runtime on the same test images of their real size; the faster one, if they agree."""

# torch leaves Tensor.split without types.
# mypy: disallow-untyped-calls=False

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version as installed
from itertools import islice

import torch
from torch import Tensor, nn

from dicom_io.cohort import Cohort
from dicom_io.errors import Rejected
from models import cases, predictor
from models.engine import Asked, Engine, Name, Network, is_installed
from models.evaluation.subsets import evenly
from models.onnx_network import OnnxNetwork, export
from models.version import ModelVersion

# What ONNX Runtime may change: a probability by so much, and of decisions (voxels, of a segmenter) such a share.
TOLERANCE = 1e-4
CHANGED = 1e-5
# A second engine has to be worth it.
LEAST_GAIN = 1.1
# Slices of test images that are compared, and how many images, or windows, are timed: at once, and a few at a time.
COMPARED = 64
BATCHES = (1, 4, 16)
# Rounds in which all take turns, so that whatever else the machine does meets all; fewer where they take so long.
ROUNDS = 5
ENOUGH_S = 30.0


@dataclass(frozen=True)
class _Agreement:
    """Beside torch: see `Engine`."""

    images: int
    largest_difference: float
    decisions: int
    changed: int

    def complaint(self) -> str:
        """Why ONNX Runtime must not serve; "" where it may."""
        if self.largest_difference > TOLERANCE:
            return f"probabilities by ONNX Runtime differ from torch's by up to {self.largest_difference:.1e}"
        if self.changed > CHANGED * self.decisions:
            return f"{self.changed} of {self.decisions} decisions by ONNX Runtime are not torch's"
        return ""


def choose(model: ModelVersion, cohort: Cohort, asked: Asked) -> tuple[Engine, bytes | None]:
    """How a release of a predictor is served, with the file for ONNX Runtime where that was chosen.

    asked: "torch" measures nothing; "onnx" takes it also where it is slower.

    Raises:
        Rejected: "onnx" was asked for, and it cannot be written, is not installed, or disagrees with torch.
    """
    versions = {"torch": torch.__version__.split("+")[0]}
    if asked == "torch":
        return Engine(name="torch", reason="asked for", threads=torch.get_num_threads(), versions=versions), None
    if not is_installed():
        return _torch_after_all("ONNX Runtime is not installed", asked, versions)
    versions["onnxruntime"] = installed("onnxruntime")
    asks = predictor.of(model)
    network, images = asks.network, [*_test_images(model, cohort)]
    asks.served = watched = _Watched(network)
    expected = [asks.probabilities(image) for image in images]
    try:
        file = export(network, watched.example())
        asks.served = onnx = OnnxNetwork(file, "the network as ONNX", network)
    except Rejected as error:
        return _torch_after_all(str(error), asked, versions)
    agreement = _agreement(asks, expected, [asks.probabilities(image) for image in images])
    if complaint := agreement.complaint():
        return _torch_after_all(complaint, asked, versions)
    rates = _race({"torch": network, "onnx": onnx}, watched)
    best = {name: max(of, key=lambda batch: of[batch]) for name, of in rates.items()}
    gain = rates["onnx"][best["onnx"]] / rates["torch"][best["torch"]]
    name: Name = "onnx" if asked == "onnx" or gain >= LEAST_GAIN else "torch"
    engine = Engine(
        name=name,
        reason="asked for" if asked == "onnx" else _faster(gain),
        batch=best[name],
        images_per_s={each: float(f"{rates[each][batch]:.3g}") for each, batch in best.items()},
        threads=torch.get_num_threads(),
        versions=versions,
        sha256=hashlib.sha256(file).hexdigest() if name == "onnx" else "",
        **vars(agreement),
    )
    return engine, file if name == "onnx" else None


def _faster(gain: float) -> str:
    if gain >= LEAST_GAIN:
        return f"{gain:.1f} times as fast as torch"
    return f"ONNX Runtime is {gain:.2f} times as fast, and {LEAST_GAIN:g} is asked of it"


def _torch_after_all(reason: str, asked: Asked, versions: dict[str, str]) -> tuple[Engine, None]:
    if asked == "onnx":
        raise Rejected(f"--engine onnx: {reason}; leave it out, or give --engine torch")
    return Engine(name="torch", reason=reason, threads=torch.get_num_threads(), versions=versions), None


def _test_images(model: ModelVersion, cohort: Cohort) -> Iterator[Tensor]:
    """(C, slices, rows, columns), as serving sees them: slices from the middle of up to `COMPARED` cases."""
    items = [cohort.test[number] for number in evenly(len(cohort.test), min(COMPARED, len(cohort.test)))]
    each = max(1, COMPARED // len(items))
    for case in cases.each(cohort, items, model.model_input, masks=False, labels=False):
        first = max(0, (case.slices - each) // 2)
        yield case.image[:, first : first + each].contiguous()


class _Watched:
    """A network that remembers what it was given: of which sizes, how many at once, and the first few."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self.sizes: set[tuple[int, ...]] = set()
        self.most = 0
        self._first: list[Tensor] = []

    def __call__(self, images: Tensor) -> Tensor:
        self.sizes.add(tuple(images.shape[1:]))
        self.most = max(self.most, len(images))
        if len(self.sizes) == 1:
            self._first += islice(images.clone(), max(0, max(BATCHES) - len(self._first)))
        logits: Tensor = self._network(images)
        return logits

    def example(self) -> Tensor:
        """Two of them, for a batch of one might be taken for a batch that is always one.

        Raises:
            Rejected: there are several sizes, and a file is for one.
        """
        if len(self.sizes) > 1:
            raise Rejected(f"test images come in {len(self.sizes)} sizes, and ONNX would be for one")
        return torch.stack([self._first[0], self._first[-1]]).clone()

    def batches(self) -> dict[int, tuple[Tensor, ...]]:
        """The first few, so many at a time; no more at once than serving has."""
        together = torch.stack(self._first)
        return {size: together.split(size) for size in BATCHES if size <= self.most}


def _agreement(
    asks: predictor.Classifier | predictor.Segmenter, expected: Sequence[Tensor], found: Sequence[Tensor]
) -> _Agreement:
    largest = max(float((ours - theirs).abs().max()) for ours, theirs in zip(found, expected, strict=True))
    both = [torch.cat([asks.decisions(each).flatten() for each in side]) for side in (found, expected)]
    images = sum(len(each) if each.ndim == 2 else each.shape[1] for each in expected)
    return _Agreement(images, largest, len(both[0]), int((both[0] != both[1]).sum()))


def _race(networks: dict[Name, Network], watched: _Watched) -> dict[Name, dict[int, float]]:
    """Images a second of each, by the size of batches: medians of rounds in which all take turns."""
    batches = watched.batches()
    times: dict[tuple[Name, int], list[float]] = {(name, size): [] for name in networks for size in batches}
    for number in range(ROUNDS):
        if number >= 2 and sum(sum(of) for of in times.values()) > ENOUGH_S:
            break
        for (name, size), of in times.items():
            of.append(seconds(networks[name], batches[size]))
    count = sum(len(batch) for batch in batches[1])
    return {name: {size: count / statistics.median(times[name, size]) for size in batches} for name in networks}


@torch.inference_mode()
def seconds(network: Network, batches: Sequence[Tensor]) -> float:
    """What the network takes for all batches."""
    began = time.perf_counter()
    for batch in batches:
        network(batch)
    return time.perf_counter() - began
