"""What a report of pictures of pictures compares: validation's own truth, and the best that needs no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from models.evaluation import agreement, trivial
from models.networks.from_picture import FromPicture
from models.training.couples import Couples


class Truth:
    """What a report compares: pictures of validation's given ones beside the true ones, and the best that needs no
    network. names: of the given channels."""

    def __init__(self, couples: Couples, unseen: Couples, names: Sequence[str]) -> None:
        self._unseen = unseen
        self._simple = trivial.baselines(couples.given, couples.images, names, couples.factor)

    def maker(self, network: nn.Module) -> Shown:
        assert isinstance(network, FromPicture)
        return Shown(network, self._unseen.given)

    def figures(self, images: Tensor) -> Mapping[str, float]:
        """Of a panel that the maker made, and of the baseline on the same slices."""
        chosen = evenly(len(self._unseen.images), len(images))
        given, true = self._unseen.given[chosen], self._unseen.images[chosen]
        found = {f"validation_{name}": value for name, value in agreement.figures(images, true).items()}
        errors = [float((each(given) - true).abs().mean()) / 2 for each in self._simple.values()]
        found |= {"baseline_error": min(errors)} if errors else {}
        return {name: round(value, 6) for name, value in found.items()}


class Shown:
    """A `Sampler` of pictures of given ones, evenly chosen."""

    def __init__(self, network: FromPicture, given: Tensor) -> None:
        self._network, self._given = network, given

    def make_many(self, sources: Sequence[torch.Generator], labels: Tensor | None, on: torch.device) -> Tensor:
        return self._network.make_many_from(self._given[evenly(len(self._given), len(sources))], sources, on)


def evenly(count: int, chosen: int) -> Tensor:
    """Numbers of `chosen` of `count`, from the first to the last."""
    return torch.linspace(0, count - 1, chosen).round().long()
