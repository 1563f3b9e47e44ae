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
        found = trivial.baselines(couples.given, couples.images, names, couples.factor)
        errors = [float((each(unseen.given) - unseen.images).abs().mean()) / 2 for each in found.values()]
        self._baseline = {"baseline_error": round(min(errors), 6)} if errors else {}

    def maker(self, network: nn.Module) -> Shown:
        assert isinstance(network, FromPicture)
        return Shown(network, self._unseen.given)

    def figures(self, images: Tensor) -> Mapping[str, float]:
        """Of a panel that the maker made."""
        found = agreement.figures(images, self._unseen.images[evenly(len(self._unseen.images), len(images))])
        return {f"validation_{name}": round(value, 6) for name, value in found.items()} | self._baseline


class Shown:
    """A `Sampler` of pictures of given ones, evenly chosen."""

    def __init__(self, network: FromPicture, given: Tensor) -> None:
        self._network, self._given = network, given

    def make_many(self, sources: Sequence[torch.Generator], labels: Tensor | None, on: torch.device) -> Tensor:
        return self._network.make_many_from(self._given[evenly(len(self._given), len(sources))], sources, on)


def evenly(count: int, chosen: int) -> Tensor:
    """Numbers of `chosen` of `count`, from the first to the last."""
    return torch.linspace(0, count - 1, chosen).round().long()
