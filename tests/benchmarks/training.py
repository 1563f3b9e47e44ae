"""How fast generators train and sample, beside bare PyTorch loops of the very same networks in the same process.

    python tests/benchmarks/training.py [--quick] [--only WORDS] [--json FILE]

Everything runs on one thread and is counted in CPU seconds, so that a shared machine changes little; ours and bare take
turns, and a figure is the median over the rounds. Training is in float32.

training    between the events that a progress bar gets, so reading the cohort and writing reports are left out, without
            augmentation. Beside it the bare loop (`bare_loops`). Bar: 0.97 of its images a second.
peak        FLOP of the bare loop's steps, counted by torch, at our rate, over those of a 3 x 3 convolution of 128
            channels at 32 x 32, batch 32, in the same rounds: the better of both orders of memory. Bar: 0.75 for DCGAN
            and WGAN-GP. They are those of the layers as they are defined, pixels repeated and then convolved; fewer are
            done (`models.networks.doubling`), and both are told.
input       the same training with every augmentation there is, drawn from a cohort, over the bare loop with its one
            random batch. Bar: 0.90.
sampling    one seed, one picture, as `mirall generate` does; beside it the network alone, one at a time and in batches.
to DICOM    pictures a second to labelled, checked files, and where the time goes (`generating`).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bare_loops
import generating
import numpy as np
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from dicom_io import cohort as cohorts
from dicom_io.cohort import Channel, Cohort
from dicom_io.volume import Projection, Source
from models import recipe, training
from models.networks.doubling import DoublingConv2d
from models.training import journal

BARS = {"ratio": 0.97, "of_peak": 0.75, "input": 0.90}
BATCH = 32
PLAIN = {"translation": 0.0, "cutout": 0.0}
AUGMENTED = {
    "flip_columns": True,
    "rotation_degrees": 10.0,
    "translation": 0.05,
    "scale": 0.1,
    "gain": 0.1,
    "offset": 0.05,
    "noise": 0.02,
}


@dataclass(frozen=True)
class Line:
    """One network. steps: to a round; quick: network settings and steps of a quick look. peak: whether it has a bar."""

    name: str
    recipe: str
    network: Mapping[str, Any]
    steps: int
    quick: Mapping[str, Any]
    quick_steps: int
    peak: bool = False
    loss: Mapping[str, Any] = field(default_factory=dict)

    def settings(self, quick: bool, augmentation: Mapping[str, Any]) -> Any:
        """The shipped recipe in float32, without alarms."""
        plain = recipe.load(self.recipe).model_dump(mode="json")
        plain["network"] |= dict(self.network) | (dict(self.quick) if quick else {})
        plain["loss"] |= dict(self.loss)
        images = self.images(self.quick_steps if quick else self.steps, plain)
        plain["schedule"] |= {"total_images": images, "report_images": images, "batch_size": BATCH}
        plain["schedule"] |= {"precision": "float32", "warm_up_images": 0}
        # No beta of 0 on the way: what is timed is the whole bound.
        plain["loss"] |= {"beta_warm_up": 0.0} if "beta_warm_up" in plain["loss"] else {}
        if quick and "sampler" in plain:
            plain["sampler"] |= {"steps": 3}
        return recipe.parse(
            plain | {"pixel_range": [0, 255], "alarms": "warn", "augmentation": augmentation}, self.name
        )

    @staticmethod
    def images(steps: int, plain: Mapping[str, Any]) -> int:
        return int(steps * BATCH * plain["optimiser"].get("critic_steps", 1))


GAN = {"image_px": 64, "features": 32}
LINES = (
    Line("DCGAN 64", "generator", GAN, 50, {"features": 16}, 10, True, PLAIN),
    Line("WGAN-GP 64", "wgan-gp", GAN, 10, {"features": 16}, 3, True, PLAIN),
    Line("CVAE 64", "conditional-vae", {}, 40, {"features": 8}, 6),
    Line("diffusion 32", "diffusion", {}, 30, {"channels": [16, 32, 32], "image_px": 16}, 4),
    Line("diffusion 64", "diffusion", {"image_px": 64}, 8, {"channels": [16, 16, 16], "image_px": 32}, 3),
)


def cohort_in(folder: Path, training_pictures: int, px: int = 64) -> Cohort:
    """Pictures of noise in three classes, 16 of them for validation."""
    splits = {}
    for split, count in (("training", training_pictures), ("validation", 16)):
        items = []
        for number in range(count):
            pixels = np.random.default_rng(number).uniform(0, 255, (px, px)).astype(np.float32)
            source = Source("1.2.840.10008.5.1.4.1.1.7", f"2.25.{number + 1}", f"{number:064x}")
            shown = Projection(pixels, "1", source, (1.0, 1.0), "", "", "", "")
            name, label = f"{split}{number}", number % bare_loops.CLASSES
            items.append(cohorts.add_projection(folder, name, shown, name, label=label))
        splits[split] = tuple(items)
    labels = tuple("abc"[: bare_loops.CLASSES])
    cohorts.save(Cohort(folder, "noise", "classification", labels, (Channel("image", "OT", "1"),), splits))
    return cohorts.load(folder)


def ours(settings: Any, cohort: Cohort, run: Path) -> float:
    """Images per CPU second, from the first to the last event of a training."""
    # Every step: a quick round is over before a second event would come.
    usual, journal.TELL_EVERY_S = journal.TELL_EVERY_S, 0.0
    seen: list[tuple[int, float]] = []

    def listen(event: dict[str, Any]) -> None:
        if event["kind"] == "progress":
            seen.append((event["images_seen"], time.process_time()))

    try:
        training.train(settings, cohort, run, progress=listen, device="cpu")
    finally:
        journal.TELL_EVERY_S = usual
    (first, began), (last, ended) = seen[0], seen[-1]
    return (last - first) / (ended - began)


def bare(settings: Any) -> float:
    """Images per CPU second of the same steps, written down and nothing else."""
    shown = Line.images(1, settings.model_dump())
    return rate(bare_loops.build(settings), settings.schedule.total_images // shown, shown)


def rate(step: bare_loops.Step, steps: int, shown: int) -> float:
    """Images per CPU second of so many steps, each of which is shown so many."""
    step(1)
    began = time.process_time()
    # As many as ours, whose first goes before its first event.
    for number in range(1, steps):
        step(number)
    return (steps - 1) * shown / (time.process_time() - began)


class Flop(TorchDispatchMode):
    """Counts by torch's own formulas; its FlopCounterMode cannot look into gradients of gradients."""

    total = 0

    def __torch_dispatch__(self, function: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        made = function(*given, **(named or {}))
        if counted := flop_registry.get(function._overloadpacket):
            self.total += counted(*given, **(named or {}), out_val=made)
        return made


@contextmanager
def as_defined() -> Iterator[None]:
    """Doubling layers take two steps: each pixel repeated, then the convolution."""

    def two_steps(layer: DoublingConv2d, maps: torch.Tensor) -> torch.Tensor:
        return F.conv2d(F.interpolate(maps, scale_factor=2, mode="nearest"), layer.weight, layer.bias, padding=1)

    usual, DoublingConv2d.forward = DoublingConv2d.forward, two_steps  # type: ignore[method-assign]
    try:
        yield
    finally:
        DoublingConv2d.forward = usual  # type: ignore[method-assign]


def flop_per_image(settings: Any) -> float:
    """Of a bare step, forwards and backwards, over its images; one in `r1_every_steps` has R1."""
    step, rates = bare_loops.build(settings), settings.optimiser
    every = getattr(rates, "r1_every_steps", 1) if getattr(settings, "r1_gamma", 0) else 1

    def flop(number: int) -> float:
        with Flop() as counter:
            step(number)
        return float(counter.total)

    usual = flop(1)
    return (usual + (flop(every) - usual) / every) / Line.images(1, settings.model_dump())


def peak(rounds: int = 8) -> float:
    """FLOP per CPU second of one convolution, forwards; the best of several, in both orders of memory."""
    flop, best = 2 * 32 * 32 * 32 * 128 * 128 * 9, 0.0
    with torch.inference_mode():
        for order in (torch.contiguous_format, torch.channels_last):
            layer = torch.nn.Conv2d(128, 128, 3, padding=1).to(memory_format=order)  # type: ignore[call-overload]
            maps = torch.randn(32, 128, 32, 32).contiguous(memory_format=order)
            for _ in range(rounds):
                began = time.process_time()
                layer(maps)
                best = max(best, flop / (time.process_time() - began))
    return best


def measure(line: Line, cohort: Cohort, scratch: Path, quick: bool, rounds: int) -> dict[str, Any]:
    """The figures of one network. The last run stays in `scratch`, to sample from."""
    plain, augmented = line.settings(quick, {}), line.settings(quick, AUGMENTED)
    rows = []
    for number in range(rounds):
        top, run = peak(2 if quick else 8), scratch / f"{line.name}-{number}"
        mine, theirs = ours(plain, cohort, run), bare(plain)
        whole = ours(augmented, cohort, scratch / f"{line.name}-{number}-augmented")
        rows.append((mine, theirs, whole, max(top, peak(2 if quick else 8))))
    done = flop_per_image(plain)
    with as_defined():
        cost = flop_per_image(plain)
    return {
        "ours": statistics.median(row[0] for row in rows),
        "bare": statistics.median(row[1] for row in rows),
        "ratio": statistics.median(row[0] / row[1] for row in rows),
        "input": statistics.median(row[2] / row[1] for row in rows),
        "of_peak": statistics.median(row[0] * cost / row[3] for row in rows),
        "bare_of_peak": statistics.median(row[1] * cost / row[3] for row in rows),
        "peak_gflop_per_s": statistics.median(row[3] for row in rows) / 1e9,
        "gflop_per_image": cost / 1e9,
        "gflop_done_per_image": done / 1e9,
        "has_peak_bar": line.peak,
    } | generating.measure(run, scratch / f"{line.name}-dicom", quick)


def shortfalls(report: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A sentence for every bar that is missed."""
    return [
        f"{name}: {bar} {figures[bar]:.3f} is below {least}"
        for name, figures in report.items()
        for bar, least in BARS.items()
        if figures[bar] < least and (bar != "of_peak" or figures["has_peak_bar"])
    ]


def told(name: str, figures: Mapping[str, Any]) -> str:
    sampled = ", ".join(f"{what} {rate:.1f}" for what, rate in figures["sampling"].items())
    shares = ", ".join(f"{part} {share:.0%}" for part, share in figures["dicom_shares"].items())
    return (
        f"{name}: {figures['ours']:.1f} images/s, bare {figures['bare']:.1f}, ratio {figures['ratio']:.3f}, "
        f"{figures['of_peak']:.2f} of the peak (bare {figures['bare_of_peak']:.2f}; {figures['gflop_per_image']:.2f} "
        f"GFLOP each, {figures['gflop_done_per_image']:.2f} done, peak {figures['peak_gflop_per_s']:.0f} GFLOP/s), "
        f"with augmentation {figures['input']:.3f} of bare\n"
        f"  sampling, pictures/s: {sampled}\n"
        f"  to DICOM: {figures['dicom_pictures_per_s']:.1f} pictures/s; {shares}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="one short round of small networks")
    parser.add_argument("--only", default="", help="lines whose names begin so, such as DCGAN")
    parser.add_argument("--json", type=Path, help="write the figures there")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        cohort = cohort_in(Path(scratch) / "cohort", 32 if given.quick else 512)
        for line in LINES:
            if line.name.startswith(given.only):
                report[line.name] = measure(line, cohort, Path(scratch), given.quick, 1 if given.quick else 3)
                print(told(line.name, report[line.name]), flush=True)
    if given.json:
        given.json.write_text(json.dumps(report, indent=1) + "\n")
    missed = shortfalls(report)
    print("\n".join(missed))
    sys.exit(bool(missed) and not given.quick)


if __name__ == "__main__":
    main()
