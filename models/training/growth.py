"""Where a training by progressive growing is, and reals of the size that its networks are at (Karras 2018).

Every size but the first takes an even part of the growing: half of it to fade in, half to settle. Reals are faded as
the generator's pictures are, so that the critic cannot tell by sharpness what the generator is not yet asked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor, nn

from models.adversarial_recipe import Growing
from models.networks.generator import Discriminator, Generator
from models.networks.growing import SMALLEST_PX, GrowingCritic, GrowingGenerator, Stage, doubled, halved
from models.networks.latent import FromNoise


class Growth:
    """settings: None leaves networks and reals as they are. image_px: the full size."""

    def __init__(self, settings: Growing | None, image_px: int) -> None:
        self._settings, self._px = settings, image_px
        self._stages: list[Stage] = []
        self._furthest = 0.0

    def state_dict(self) -> dict[str, float]:
        """For the checkpoint."""
        return {"furthest": self._furthest}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        self._furthest = state["furthest"]

    @property
    def end(self) -> float:
        """The share of the training at which pictures have had their full size for a while."""
        return self._settings.share if self._settings else 0.0

    @property
    def whole(self) -> bool:
        """Whether pictures have their full size, and nothing of a smaller one in them."""
        return all(stage.whole for stage in self._stages)

    @property
    def told(self) -> dict[str, int]:
        """Of a report: the side of the pictures; nothing where they do not grow."""
        return {"picture_px": SMALLEST_PX * 2 ** self._stages[0].doublings} if self._stages else {}

    def around(self, generator: FromNoise, critic: nn.Module) -> tuple[FromNoise, nn.Module]:
        """The networks as they train."""
        if self._settings is None:
            return generator, critic
        assert isinstance(generator, Generator) and isinstance(critic, Discriminator)
        first = _doublings(self._settings.first_px)
        return GrowingGenerator(generator, first), GrowingCritic(critic, self._px, first)

    @staticmethod
    def released(network: nn.Module) -> nn.Module:
        """What there will be of it when training is over."""
        return network.whole if isinstance(network, GrowingGenerator | GrowingCritic) else network

    def move(self, fraction: float, *networks: nn.Module) -> None:
        """Bring all networks to where they are after this fraction of the training; never back to smaller pictures,
        wherever a new budget of minutes begins."""
        if self._settings is None:
            return
        self._stages = [each.stage for each in networks if isinstance(each, GrowingGenerator | GrowingCritic)]
        self._furthest = max(self._furthest, fraction)
        doublings, faded = place(self._settings, self._px, self._furthest)
        for stage in self._stages:
            stage.set(doublings, faded)

    def shown(self, real: Tensor) -> Tensor:
        """Reals (B, planes, *size), of full size, as large as the networks are, and faded as they are."""
        if not self._stages:
            return real
        stage = self._stages[0]
        for _ in range(stage.last - stage.doublings):
            real = halved(real)
        return real if stage.whole else doubled(halved(real)).lerp(real, stage.faded.to(real))


def place(settings: Growing, image_px: int, fraction: float) -> tuple[int, float]:
    """Doublings of 4 px, and the share of the newest size, after this fraction of the training."""
    first, last = _doublings(settings.first_px), _doublings(image_px)
    sizes = last - first + 1
    at = fraction / settings.share * sizes
    number = min(int(at), sizes - 1)
    faded = 1.0 if number == 0 else min(2 * (at - number), 1.0)
    return first + number, faded


def _doublings(px: int) -> int:
    return int(math.log2(px // SMALLEST_PX))
