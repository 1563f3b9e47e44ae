"""Experiments on real data: each answers one question, with baselines beside it and the command that repeats it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Profile = Literal["quick", "full"]
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Experiment:
    """name: as on the command line. question: one sentence. data: folder below the data folder that it reads.

    run: (folder of the data set, output folder, profile, says what it does) -> path of the report in Markdown.
    """

    name: str
    question: str
    data: str
    run: Callable[[Path, Path, Profile, Progress], Path]


def _pet_tumour(source: Path, out: Path, profile: Profile, say: Progress) -> Path:
    # Training imports torch and MONAI; `mirall experiment list` does not.
    from samples.experiments.pet_tumour import run

    return run(source, out, profile, say)


EXPERIMENTS = {
    experiment.name: experiment
    for experiment in (
        Experiment(
            "pet-tumour",
            "Does a small U-Net find sarcomas on FDG PET better than thresholds, and than the crop's geometry?",
            "pet-suv-sarcoma",
            _pet_tumour,
        ),
    )
}
