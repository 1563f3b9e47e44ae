"""Failures of a generator's training that no loss shows, or that go on for hours after they did: seen, named, stopped.

    not finite   a loss is nan or infinite                                                     at once
    exploding    a loss is a hundred times the median of its earlier reports (and of 1)        at once
    collapse     the samples of a class keep less than a fifth of its reals' spread            three reports in a row
    dead         samples are flat: pixels differ less than a hundredth of what reals' do       three reports in a row
    no mask      a label is on less than a fifth as many samples as reals                      three reports in a row
    dominated    the critic is right on 99 of 100 reals and fakes; or fakes fool it in 95      three reports in a row

The last four, and what a family looks for beside them, are judged after a quarter of the training: every generator
begins with pictures that are much alike. A Wasserstein critic has no right and wrong, so it is not judged; families
without a critic give losses alone. `alarms: warn` in the recipe says what was seen, once, and goes on; a loss that is
not finite stops in any case.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from dicom_io.errors import Rejected

COLLAPSED, DEAD, RIGHT, FOOLED = 0.2, 0.01, 0.99, 0.05
# Samples that should show a label, below which their share of a panel says too little.
EXPECTED = 5
EXPLODED = 100.0
STRIKES, NOT_BEFORE = 3, 0.25
GO_ON = "; `alarms: warn` in the recipe goes on regardless"


@dataclass(frozen=True)
class WaysOut:
    """What a family's recipe can change, as the second half of each sentence."""

    not_finite: str
    exploding: str
    collapse: str
    dead: str
    unmasked: str = (
        "a small label comes late: give it more steps (total_images, smaller batches), or larger pictures (image_px)"
    )


OF_A_CRITIC = WaysOut(
    not_finite=(
        "lower learning_rate, restrain the critic (r1_gamma, gradient_penalty) or train in float32, in a new run"
    ),
    exploding="lower learning_rate, or restrain the critic more (gradient_penalty, r1_gamma, spectral_norm)",
    collapse=(
        "let the critic compare (minibatch_deviation: true), change what it sees (translation, cutout, adaptive), "
        "restrain it (r1_gamma, gradient_penalty), or lower learning_rate"
    ),
    dead="lower learning_rate, take another norm or loss, or check pixel_range",
)


class Alarms:
    """tell: takes a warning. stop: raise instead of telling. names: of the classes; middle: see `losses.middle`, None
    where there is no right and wrong. contrast: of the reals, the mean deviation of the pixels of one."""

    def __init__(
        self,
        tell: Callable[[str], None],
        *,
        stop: bool,
        names: tuple[str, ...],
        contrast: float,
        middle: float | None = None,
        ways_out: WaysOut = OF_A_CRITIC,
    ) -> None:
        self._tell, self._stop, self._names, self._ways_out = tell, stop, names, ways_out
        self._middle, self._contrast = middle, contrast
        self._strikes: dict[str, int] = {}
        self._told: list[str] = []
        self._levels: list[float] = []
        self._sums = [0.0] * 4
        self._due: list[tuple[str, str]] = []

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"strikes": dict(self._strikes), "told": list(self._told), "levels": list(self._levels)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._strikes, self._told = dict(state["strikes"]), list(state["told"])
        self._levels = list(state["levels"])

    def step(self, critic_loss: float, generator_loss: float, real: Tensor, fake: Tensor, images_seen: int) -> None:
        """After every step against a critic; real, fake: its scores.

        Raises:
            Rejected: a loss is not finite.
        """
        self.losses(images_seen, critic=critic_loss, generator=generator_loss)
        self._verdicts(real, fake)

    def losses(self, images_seen: int, **named: float) -> None:
        """After every step; all that a family without a critic gives.

        Raises:
            Rejected: a loss is not finite.
        """
        if not all(math.isfinite(loss) for loss in named.values()):
            found = ", ".join(f"{name} {loss:g}" for name, loss in named.items())
            raise Rejected(f"after {images_seen} images the loss is not finite ({found}); {self._ways_out.not_finite}")
        self._sums[0] += 1
        self._sums[1] += max(abs(loss) for loss in named.values())

    def _verdicts(self, real: Tensor, fake: Tensor) -> None:
        if self._middle is not None:
            right = torch.stack([(real > self._middle).float().mean(), (fake < self._middle).float().mean()]).tolist()
            self._sums[2] += right[0]
            self._sums[3] += right[1]

    def look(
        self,
        fraction: float,
        images_seen: int,
        samples: Tensor | None,
        spread: Mapping[int, float],
        beside: Mapping[str, str] | None = None,
        labels: Mapping[str, tuple[float, float]] | None = None,
    ) -> None:
        """At every report, before its checkpoint; what is wrong, `sound` says after it.

        fraction: of the training; samples: (n, planes, px, px) in [-1, 1], None where there are none yet and losses are
        all that is judged; spread: see `judge`. beside: what the family found wrong by its own measures, as sentences
        by name; they are said after three reports in a row, too. labels: of the mask, by name:
        the share of samples and of reals that show it.
        """
        steps, level, right_real, right_fake = self._sums
        level, right_real, right_fake = (total / max(steps, 1) for total in (level, right_real, right_fake))
        self._sums = [0.0] * 4
        seen = self._exploding(level)
        if samples is not None and fraction >= NOT_BEFORE:
            lasting = dict(beside or {}) | self._collapsed(spread) | self._dead(samples)
            lasting |= self._unmasked(len(samples), labels or {})
            lasting |= self._dominated(right_real, right_fake) if self._middle is not None else {}
            self._strikes = {name: self._strikes.get(name, 0) + 1 for name in lasting}
            seen |= {
                name: f"and at {STRIKES - 1} reports before it {text}"
                for name, text in lasting.items()
                if self._strikes[name] >= STRIKES
            }
        self._due = [(name, f"after {images_seen} images {text}") for name, text in seen.items()]

    def sound(self) -> None:
        """After the checkpoint of the report.

        Raises:
            Rejected: something is wrong, and the recipe says to stop.
        """
        for name, sentence in self._due:
            if self._stop:
                raise Rejected(sentence + GO_ON)
            if name not in self._told:
                self._told.append(name)
                self._tell(sentence)

    def _exploding(self, level: float) -> dict[str, str]:
        usual = max(median(self._levels), 1.0) if len(self._levels) >= STRIKES else math.inf
        self._levels.append(level)
        if level <= EXPLODED * usual:
            return {}
        return {
            "exploding": (
                f"the losses are at {level:.3g}, a hundred times what they were ({usual:.3g}); "
                f"{self._ways_out.exploding}"
            )
        }

    def _collapsed(self, spread: Mapping[int, float]) -> dict[str, str]:
        return {
            f"collapse {label}": (
                f"samples{f' of {self._names[label]!r}' if label >= 0 else ''} keep {ratio:.0%} of the spread of real "
                f"images (mode collapse); {self._ways_out.collapse}"
            )
            for label, ratio in spread.items()
            if ratio < COLLAPSED
        }

    def _unmasked(self, count: int, labels: Mapping[str, tuple[float, float]]) -> dict[str, str]:
        return {
            f"mask {name}": (
                f"{name!r} is drawn on {made:.0%} of the samples and on {real:.0%} of the reals; "
                f"{self._ways_out.unmasked}"
            )
            for name, (made, real) in labels.items()
            if made < COLLAPSED * real and real * count >= EXPECTED
        }

    def _dead(self, samples: Tensor) -> dict[str, str]:
        contrast = float(samples.flatten(1).std(1).mean())
        if not self._contrast or contrast >= DEAD * self._contrast:
            return {}
        return {
            "dead": (
                f"samples are flat (grey value {float(samples.mean()):.2f} of -1 to 1, deviation {contrast:.2g}, reals "
                f"{self._contrast:.2g}); {self._ways_out.dead}"
            )
        }

    def _dominated(self, right_real: float, right_fake: float) -> dict[str, str]:
        if right_real >= RIGHT and right_fake >= RIGHT:
            return {
                "critic": (
                    f"the critic is right on {right_real:.1%} of the reals and {right_fake:.1%} of the fakes, so that "
                    "the generator learns nothing; restrain the critic (r1_gamma, critic_dropout, label_smoothing), "
                    "lower critic_learning_rate, or show it changed images (translation, cutout, adaptive)"
                )
            }
        if right_real >= 1 - FOOLED and right_fake <= FOOLED:
            return {
                "generator": (
                    f"the critic takes {1 - right_fake:.0%} of the fakes for real, so that the generator learns "
                    "nothing; raise critic_learning_rate or critic_steps, or restrain the critic less"
                )
            }
        return {}
