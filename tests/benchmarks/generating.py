"""How fast a run samples, and where the time goes on the way to labelled DICOM. Counted in CPU seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from dicom_io import labels, secondary_capture
from models import generator
from models.networks.diffusion import Diffusion
from plugin import pipeline

MADE_AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
REST = "the rest"


def measure(run: Path, out: Path, quick: bool) -> dict[str, Any]:
    """Rates of a run, and the shares of what `pipeline.generate` spends; pictures as many as take a few seconds."""
    slow = isinstance(generator.load(run).network, Diffusion)
    count = (4 if slow else 16) if quick else (16 if slow else 256)
    rate, shares = to_dicom(run, out, count)
    return {"sampling": sampling(run, count), "dicom_pictures_per_s": rate, "dicom_shares": shares}


def sampling(run: Path, count: int) -> dict[str, float]:
    """Pictures per CPU second: as we sample (one seed, one picture), the network alone in the same way, and in batches
    of up to 32."""
    maker = generator.load(run)
    network: Any = maker.network
    label = 0 if maker.labels else None
    draw = torch.Generator().manual_seed(0)
    batch = min(32, count)
    call = network.sample if isinstance(network, Diffusion) else network
    noises = [_noise(network, draw) for _ in range(batch)]

    def of(number: int) -> torch.Tensor | None:
        return None if label is None else torch.full((number,), label)

    def rate(work: Callable[[], object], made: int) -> float:
        began = time.process_time()
        work()
        return made / (time.process_time() - began)

    with torch.inference_mode():
        call(noises[0], of(1))
        return {
            "ours": rate(lambda: maker.sample(count, 0, maker.labels[0] if maker.labels else None), count),
            "bare, one at a time": rate(
                lambda: [call(noises[number % batch], of(1)) for number in range(count)], count
            ),
            f"bare, {batch} at a time": rate(
                lambda: [call(torch.cat(noises), of(batch)) for _ in range(count // batch)], count // batch * batch
            ),
        }


def _noise(network: Any, draw: torch.Generator) -> torch.Tensor:
    noise: torch.Tensor = network.noise(draw) if isinstance(network, Diffusion) else network.noise(1, draw)
    return noise


def to_dicom(run: Path, out: Path, count: int) -> tuple[float, dict[str, float]]:
    """Pictures per CPU second of `pipeline.generate`, and the share of each part."""
    maker = generator.load(run)
    label = maker.labels[0] if maker.labels else None
    # Loads, and warms up.
    pipeline.generate(run, out, n=1, seed=1, label=label, made_at=MADE_AT)
    clock = Clock()
    with ExitStack() as watched:
        for owner, name, part in (
            (type(maker.network), "make", "network"),
            (secondary_capture, "quantise", "16 bits and the mark"),
            (secondary_capture, "_marked_parts", "16 bits and the mark"),
            (secondary_capture, "_capture", "16 bits and the mark"),
            (labels, "apply", "labels"),
            (labels, "encode", "bytes and their check"),
            (Path, "write_bytes", "writing"),
            (Path, "write_text", "writing"),
        ):
            watched.enter_context(clock.watch(owner, name, part))
        began = time.process_time()
        pipeline.generate(run, out, n=count, seed=0, label=label, made_at=MADE_AT)
        spent = time.process_time() - began
    parts = clock.seconds | {REST: spent - sum(clock.seconds.values())}
    return count / spent, {part: seconds / spent for part, seconds in parts.items()}


class Clock:
    """CPU seconds by part; a call within another counts for its own part alone."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._inner = [0.0]

    @contextmanager
    def watch(self, owner: Any, name: str, part: str) -> Iterator[None]:
        """Count calls of `owner.name` for `part`."""
        real = getattr(owner, name)

        def counted(*given: Any, **named: Any) -> Any:
            self._inner.append(0.0)
            began = time.process_time()
            try:
                return real(*given, **named)
            finally:
                spent = time.process_time() - began
                self.seconds[part] = self.seconds.get(part, 0.0) + spent - self._inner.pop()
                self._inner[-1] += spent

        with mock.patch.object(owner, name, counted):
            yield
