"""How fast predictors train, beside bare PyTorch loops of the very same networks in the same process.

    python tests/benchmarks/training_predictors.py [--quick] [--only WORDS] [--json FILE]

As `training.py`: one thread, CPU seconds, medians of rounds in which ours, bare and the peak take turns, float32.

training    between the events that a progress bar gets, without augmentation. Bar: 0.97 of the bare loop's images a
            second.
peak        FLOP of the bare loop's steps at our rate, over those of one convolution. Bar: 0.75.
input       the same training with augmentation, over the bare loop. Bar: 0.90.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bare_loops
import numpy as np
import torch
import training

from dicom_io import cohort as cohorts
from dicom_io.cohort import Channel, Cohort
from dicom_io.volume import Projection, Source, Volume
from models import recipe

AUGMENTED = {"flip_columns": True, "rotation_degrees": 15.0, "scale": 0.1, "gain": 0.1, "noise": 0.05}


@dataclass(frozen=True)
class Line:
    """One network. changes: of a shipped recipe; quick: of its network, and steps, in a quick look."""

    name: str
    recipe: str
    cohort: Callable[[Path, int], Cohort]
    changes: Mapping[str, Any]
    batch: int
    steps: int
    quick: Mapping[str, Any]

    def settings(self, quick: bool, augmentation: Mapping[str, Any]) -> Any:
        plain = recipe.load(self.recipe).model_dump(mode="json") | dict(self.changes)
        plain["network"] = dict(self.changes["network"]) | (dict(self.quick) if quick else {})
        images = (3 if quick else self.steps) * self.batch
        plain["schedule"] |= {"total_images": images, "report_images": images, "batch_size": self.batch}
        plain["schedule"] |= {"precision": "float32", "warm_up_images": 0, "patience_reports": None}
        if self.recipe != "histology-classifier":
            del plain["schedule"]["patience_reports"]
        return recipe.parse(plain | {"augmentation": augmentation}, self.name)


def tiles(folder: Path, count: int) -> Cohort:
    """Tiles of 50 px in colour, of two classes, of noise."""
    splits = {}
    for split, number in (("training", count), ("validation", 8)):
        items = []
        for each in range(number):
            pixels = np.random.default_rng(each).uniform(0, 255, (3, 50, 50)).astype(np.float32)
            shown = Projection(
                pixels, "1", Source("1.2", f"2.25.{each + 1}", f"{each:064x}"), (0.002, 0.002), *[""] * 4
            )
            name = f"{split}{each}"
            items.append(cohorts.add_projection(folder, name, shown, name, channel="colour", label=each % 2))
        splits[split] = tuple(items)
    cohorts.save(Cohort(folder, "tiles", "classification", ("a", "b"), cohorts.colour_channels("SM"), splits))
    return cohorts.load(folder)


def heads(folder: Path, count: int) -> Cohort:
    """Volumes of 4 slices of 192 px with two channels, of noise, and masks of it."""
    splits = {}
    for split, number in (("training", max(1, count // 64)), ("validation", 1)):
        items = []
        for each in range(number):
            rng = np.random.default_rng(each)
            noise = rng.normal(size=(2, 4, 192, 192)).astype(np.float32)
            volumes = {
                name: Volume(voxels, np.eye(4), "1.2", "1") for name, voxels in zip(("T1", "FLAIR"), noise, strict=True)
            }
            mask = volumes["T1"].with_voxels((noise[0] > 2).astype(np.float32))
            items.append(cohorts.add_volume(folder, f"{split}{each}", volumes, f"{split}{each}", mask=mask))
        splits[split] = tuple(items)
    channels = tuple(Channel(name, "MR", "1", name) for name in ("T1", "FLAIR"))
    cohorts.save(Cohort(folder, "heads", "segmentation", ("background", "lesion"), channels, splits))
    return cohorts.load(folder)


RESNET_18 = {"kind": "resnet", "blocks": [2, 2, 2, 2], "channels": [64, 128, 256, 512], "norm": "batch"}
RESNET_18 |= {"first_kernel_px": 3, "first_stride_px": 1, "dropout": 0.0}
WINNER = {"kind": "wmh-unet", "channels": [64, 96, 128, 256, 512], "norm": "none", "first_kernel_px": 5}
LINES = (
    Line("ResNet-18", "histology-classifier", tiles, {"network": RESNET_18}, 32, 12, {"channels": [8, 8, 8, 8]}),
    Line("U-Net of the challenge", "wmh-unet", heads, {"network": WINNER}, 4, 8, {"channels": [8, 8, 8]}),
)


def measure(line: Line, scratch: Path, quick: bool, rounds: int) -> dict[str, Any]:
    cohort = line.cohort(scratch / f"{line.name}-cohort", 32 if quick else 256)
    plain, augmented = line.settings(quick, {}), line.settings(quick, AUGMENTED)
    rows = []
    for number in range(rounds):
        run = scratch / f"{line.name}-{number}"
        top, mine = training.peak(2 if quick else 8), training.ours(plain, cohort, run)
        step = bare_loops.predictor(plain, len(cohort.channels))
        theirs = training.rate(step, plain.schedule.total_images // line.batch, line.batch)
        whole = training.ours(augmented, cohort, scratch / f"{line.name}-{number}-augmented")
        rows.append((mine, theirs, whole, max(top, training.peak(2 if quick else 8))))
    with training.Flop() as counter:
        step(1)
    cost = counter.total / line.batch
    return {
        "ours": statistics.median(row[0] for row in rows),
        "bare": statistics.median(row[1] for row in rows),
        "ratio": statistics.median(row[0] / row[1] for row in rows),
        "input": statistics.median(row[2] / row[1] for row in rows),
        "of_peak": statistics.median(row[0] * cost / row[3] for row in rows),
        "peak_gflop_per_s": statistics.median(row[3] for row in rows) / 1e9,
        "gflop_per_image": cost / 1e9,
        "has_peak_bar": True,
    }


def told(name: str, figures: Mapping[str, Any]) -> str:
    return (
        f"{name}: {figures['ours']:.1f} images/s, bare {figures['bare']:.1f}, ratio {figures['ratio']:.3f}, "
        f"{figures['of_peak']:.2f} of the peak ({figures['gflop_per_image']:.2f} GFLOP each, peak "
        f"{figures['peak_gflop_per_s']:.0f} GFLOP/s), with augmentation {figures['input']:.3f} of bare"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="one short round of small networks")
    parser.add_argument("--only", default="", help="lines whose names begin so, such as ResNet")
    parser.add_argument("--json", type=Path, help="write the figures there")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for line in LINES:
            if line.name.startswith(given.only):
                report[line.name] = measure(line, Path(scratch), given.quick, 1 if given.quick else 3)
                print(told(line.name, report[line.name]), flush=True)
    if given.json:
        given.json.write_text(json.dumps(report, indent=1) + "\n")
    missed = training.shortfalls(report)
    print("\n".join(missed))
    sys.exit(bool(missed) and not given.quick)


if __name__ == "__main__":
    main()
