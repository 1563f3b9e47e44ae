"""Where in a picture a classifier's suspicion comes from, and whether that is worth showing.

Suspicion is the log-odds of any class but the first, s. Two ways to a map of it:

    grad-cam   maps a_k of the last layer that has any, weighted by the mean of ds/da_k over each, below 0 cut off, and
               drawn over the picture (Selvaraju 2017): of any unit, for networks with one such layer
    occlusion  by how much s falls where a square is replaced by the picture's mean, as a mean over the squares that
               cover a pixel (Zeiler and Fergus 2014): in log-odds, of either sign, for any network

A map that looks the same with random weights shows edges, not what was learned (Adebayo 2018): `sanity` measures it.

Own code: MONAI's GradCAM wants a layer's name and fails behind in-place activations; its OcclusionSensitivity takes one
picture at a time and gives probabilities, not what is lost.
"""

# torch leaves Tensor.split without types.
# mypy: disallow-untyped-calls=False

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import Tensor, nn

from models.evaluation.subsets import evenly
from models.networks.ensemble import Ensemble
from models.networks.windowed import WindowedResNet

Method = Literal["grad-cam", "occlusion"]
# Above it maps of random weights are too like those of the trained ones to be shown.
MOST_ALIKE = 0.5
_BATCH = 32
_SQUARES = 8


def method_of(network: nn.Module) -> Method:
    """What a network can be asked for: an ensemble and a network of windows have no one last layer of maps."""
    return "occlusion" if isinstance(network, Ensemble | WindowedResNet) else "grad-cam"


def maps(network: nn.Module, images: Tensor) -> Tensor:
    """(n, C, rows, columns) -> (n, rows, columns), by `method_of`."""
    one = {"grad-cam": grad_cam, "occlusion": occlusion}[method_of(network)]
    return torch.cat([one(network, batch) for batch in images.split(_BATCH)])


def grad_cam(network: nn.Module, images: Tensor) -> Tensor:
    """(n, rows, columns), 0 and above."""
    layer = _last_maps(network, images[:1])
    # One module may serve several places (EfficientNet's activation does stem and head): the last answer is the head's.
    kept: list[Tensor] = []
    hook = layer.register_forward_hook(lambda *passed: kept.append(passed[-1]))
    try:
        with torch.enable_grad():
            odds = log_odds(network(images))
            (slopes,) = torch.autograd.grad(odds.sum(), kept[-1])
    finally:
        hook.remove()
    weighted = (slopes.mean((2, 3), keepdim=True) * kept[-1].detach()).sum(1, keepdim=True).clamp_min(0)
    return F.interpolate(weighted, images.shape[2:], mode="bilinear", align_corners=False)[:, 0]


@torch.inference_mode()
def occlusion(network: nn.Module, images: Tensor) -> Tensor:
    """(n, rows, columns). Squares are an eighth of the shorter side, and overlap by half."""
    rows, columns = images.shape[2:]
    side = max(2, min(rows, columns) // _SQUARES)
    starts = [sorted({*range(0, size - side, max(1, side // 2)), size - side}) for size in (rows, columns)]
    places = [(row, column) for row in starts[0] for column in starts[1]]
    whole = log_odds(network(images))
    lost, covered = torch.zeros(len(images), rows, columns), torch.zeros(rows, columns)
    means = images.mean((2, 3), keepdim=True)
    for row, column in places:
        at = (..., slice(row, row + side), slice(column, column + side))
        hidden = images.clone()
        hidden[at] = means
        lost[at] += (whole - log_odds(network(hidden)))[:, None, None]
        covered[at] += 1
    return lost / covered


def log_odds(logits: Tensor) -> Tensor:
    """(n, classes) -> (n,): of any class but the first."""
    return torch.logsumexp(logits[:, 1:], 1) - logits[:, 0]


@torch.inference_mode()
def _last_maps(network: nn.Module, image: Tensor) -> nn.Module:
    """The layer that is the last to give maps of more than one pixel."""
    found: list[nn.Module] = []

    def look(layer: nn.Module, _: Any, given: Any) -> None:
        if isinstance(given, Tensor) and given.ndim == 4 and min(given.shape[2:]) > 1:
            found.append(layer)

    hooks = [layer.register_forward_hook(look) for layer in network.modules() if layer is not network]
    try:
        network(image)
    finally:
        for hook in hooks:
            hook.remove()
    return found[-1]


def sanity(
    network: nn.Module, fresh: Callable[[], nn.Module], images: Sequence[Tensor], pictures: int = 12, draws: int = 3
) -> Mapping[str, Any]:
    """How alike maps of these weights and of random ones are: the mean of Spearman's rank correlations, by their size.

    fresh: makes the network with random weights, others at every call. images: (C, rows, columns) each, of which
    `pictures` are looked at, evenly chosen; one whose map is the same everywhere shows nothing and is left out.

    Returns method, pictures, rank_correlation (None where every map is the same everywhere), and passed: it is below
    `MOST_ALIKE`.
    """
    chosen = [images[number] for number in evenly(len(images), min(pictures, len(images))).tolist()]
    shown = [(image, mine) for image in chosen if np.ptp(mine := _flat(network, image)) > 0]
    others = [_random(fresh, seed) for seed in range(draws)]
    alike = [abs(_ranks_alike(mine, _flat(other, image))) for other in others for image, mine in shown]
    value = float(np.mean(alike)) if alike else None
    return {
        "method": method_of(network),
        "pictures": len(shown),
        "rank_correlation": None if value is None else round(value, 4),
        "passed": value is not None and value < MOST_ALIKE,
    }


def _random(fresh: Callable[[], nn.Module], seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return fresh().eval()


def _flat(network: nn.Module, image: Tensor) -> np.ndarray:
    return maps(network, image[None])[0].flatten().numpy()


def _ranks_alike(mine: np.ndarray, theirs: np.ndarray) -> float:
    """0 where the other is the same everywhere: it says nothing of what this one says."""
    return float(spearmanr(mine, theirs).statistic) if np.ptp(theirs) > 0 else 0.0
