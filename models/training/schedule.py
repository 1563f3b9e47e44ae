"""How far a training is, by images or by the clock, and the learning rate there."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from models.recipe_parts import Schedule


class Clock:
    """Progress as the larger of images seen over all images and minutes spent over the budget of this call.

    agreed: makes of a number that of the first process, where there are several.
    """

    def __init__(self, schedule: Schedule, minutes: float | None, agreed: Callable[[float], float] = float) -> None:
        self.schedule = schedule
        self._agreed, self._by_time = agreed, 0.0
        self._budget_s = None if minutes is None else max(minutes, 1e-3) * 60
        self._started = time.monotonic()
        self.part()

    @property
    def spent_s(self) -> float:
        return time.monotonic() - self._started

    def tick(self) -> None:
        """Once a step: how much of the budget is spent."""
        if self._budget_s:
            self._by_time = self._agreed(self.spent_s / self._budget_s)

    def fraction(self, images_seen: int) -> float:
        """At the last tick: 0 at the start, 1 when training ends."""
        by_images = images_seen / self.schedule.total_images
        return min(max(by_images, self._by_time), 1.0)

    def part(self, first: float = 0.0, last: float = 1.0, begun: int = 0) -> None:
        """Of the training, what lies between two fractions warms up and decays by itself. begun: images seen then."""
        self._first, self._last, self._begun = first, last, begun

    def within(self, images_seen: int) -> float:
        """0 at the start of the part, 1 at its end."""
        return min(max((self.fraction(images_seen) - self._first) / (self._last - self._first), 0.0), 1.0)

    def of_part(self, images_seen: int) -> int:
        """Images seen in the part."""
        return images_seen - self._begun

    def learning_rate(self, images_seen: int, peak: float) -> float:
        """Linear warm-up, then a half cosine down to 1 % of the peak, (1 - t) ** 0.9 of it, or the peak to the end."""
        warm_up = min((self.of_part(images_seen) + 1) / (self.schedule.warm_up_images + 1), 1.0)
        if self.schedule.decay == "none":
            return peak * warm_up
        if self.schedule.decay == "poly":
            return float(peak * warm_up * (1 - self.within(images_seen)) ** 0.9)
        return peak * warm_up * (0.01 + 0.99 * (1 + math.cos(math.pi * self.within(images_seen))) / 2)
