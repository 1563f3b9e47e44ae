"""Experiments on real data: each answers one question, with baselines beside it and the command that repeats it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dicom_io.errors import Rejected

Profile = Literal["quick", "full"]
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Experiment:
    """name: as on the command line. question: one sentence. data: folder below the data folder that it reads; "" where
    it reads several, or makes phantoms.

    run: (folder of the data set, output folder, profile, says what it does, workers) -> path of the report in Markdown.
    """

    name: str
    question: str
    data: str
    run: Callable[[Path, Path, Profile, Progress, int], Path]


def _pet_tumour(source: Path, out: Path, profile: Profile, say: Progress, workers: int) -> Path:
    if workers > 1:
        raise Rejected(f"pet-tumour runs in one process, not in {workers}; leave --workers out")
    # Training imports torch and MONAI; `mirall experiment list` does not.
    from samples.experiments.pet_tumour import run

    return run(source, out, profile, say)


def _pet_volumes(source: Path, out: Path, profile: Profile, say: Progress, workers: int) -> Path:
    from samples.experiments.pet_volumes import run

    return run(source, out, profile, say, workers)


def _generators(name: str, question: str, data: str) -> Experiment:
    def run(source: Path, out: Path, profile: Profile, say: Progress, workers: int) -> Path:
        from samples.experiments import generators

        return generators.run(name, source, out, profile, say, workers)

    return Experiment(name, question, data, run)


def _classifiers(name: str, question: str, data: str) -> Experiment:
    def run(source: Path, out: Path, profile: Profile, say: Progress, workers: int) -> Path:
        from samples.experiments import classifiers

        return classifiers.run(name, source, out, profile, say, workers)

    return Experiment(name, question, data, run)


EXPERIMENTS = {
    experiment.name: experiment
    for experiment in (
        Experiment(
            "pet-tumour",
            "Does a small U-Net find sarcomas on FDG PET better than thresholds, and than the crop's geometry?",
            "pet-suv-sarcoma",
            _pet_tumour,
        ),
        Experiment(
            "pet-tumour-volumes",
            "Do U-Nets of volumes, or nnU-Net's network, find sarcomas on FDG PET better than a small U-Net of slices?",
            "pet-suv-sarcoma",
            _pet_volumes,
        ),
        _classifiers(
            "classes-brain",
            "Do networks tell brain tumours apart better than edges do, or a file's size? And where size is hidden?",
            "brain-tumour-mri",
        ),
        _classifiers(
            "classes-mammo",
            "Can anything tell normal from abnormal films of 13 women, and what do so few allow one to say?",
            "mammo-mias",
        ),
        _generators(
            "generators-brain",
            "Which of a GAN, a WGAN-GP, a CVAE and a diffusion model makes brain-tumour slices most like real ones?",
            "brain-tumour-mri",
        ),
        _generators(
            "generators-pet",
            "Which of a DCGAN, a WGAN-GP and a diffusion model makes FDG PET slices of sarcomas most like real ones?",
            "pet-suv-sarcoma",
        ),
        _generators(
            "generators-mammo",
            "Which of a DCGAN and a WGAN-GP makes patches of mammograms most like real ones?",
            "mammo-mias",
        ),
        _generators(
            "generators-joint",
            "Does a DCGAN or a diffusion model make T1, FLAIR and lesion mask together, as phantoms have them?",
            "",
        ),
        _generators(
            "generators-histology",
            "On phantom tiles: is it batch norm that failed in the histology study, and instance norm that worked?",
            "",
        ),
        _generators(
            "generators-transfer",
            "Does a generator of PET slices that starts from mammograms beat one from scratch? With a frozen critic?",
            "",
        ),
    )
}
