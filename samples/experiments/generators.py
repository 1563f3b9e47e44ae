"""Lines of generators: every model of a line, three seeds, each evaluated once on the held-out test images.

Validation chooses the checkpoint of a run; the test split is met once, by the evaluation that goes with the run. Beside
the models stand three rows that show what the figures mean: real images of the validation split (what a perfect
generator would get), copies of training images (as good, and caught by the copy audit), and the mean image of each
class with noise (a generator that collapsed).

    OUT/cohort, OUT/cohort.key    the images, pseudonymised
    OUT/plan.json                 what was asked for; another plan is refused
    OUT/runs/MODEL-seedN/         a training, and outcome.json once it was evaluated
    OUT/ancestor/                 where models start from another one: its cohort, and a run for each seed
    OUT/references/NAME.json      the rows beside the models
    OUT/samples/MODEL-seedN.png   synthetic pictures, marked
    OUT/report.md, figures.json

A run without its outcome.json is resumed from its last checkpoint; one that has it is kept. Every run has one thread,
so that figures depend on neither the number of workers nor of cores.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from dicom_io import cohort as cohorts
from dicom_io.cohort import Cohort
from dicom_io.pseudonym import site_key
from models import generator, sheet, version
from models import recipe as recipes
from models.cases import Squares
from models.evaluate import AUDIT_SEED, evaluate, measured
from models.evaluation.fidelity import noisy
from models.evaluation.subsets import evenly
from models.generation_recipe import GenerationBase
from models.recipe import Recipe
from models.training import pictures
from samples.experiments import attempts, documents
from samples.experiments.generator_lines import LINES, PROFILES, Import, Line, ProfileName, recipe_of
from samples.experiments.generator_report import figures_of, report_of
from samples.experiments.workers import performed

SHEET_SEED = 1
SHEET_PICTURES = 16
Say = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """One row of one seed. recipe: as YAML. reference: "" trains; else which row beside the models is measured.

    start_from: a run, or None. measured: whether it is evaluated; an ancestor is not.
    """

    recipe: str
    cohort: Path
    target: Path
    draws: int
    reference: str = ""
    start_from: Path | None = None
    measured: bool = True

    @property
    def outcome(self) -> Path:
        return self.target / "outcome.json" if not self.reference else self.target

    @property
    def name(self) -> str:
        return self.reference or self.target.name


def run(name: str, source: Path, out: Path, profile: ProfileName, say: Say, workers: int = 1) -> Path:
    """Do what is not done yet, and give the path of the report.

    Raises:
        Rejected: `source` is not the data set, or `out` holds a run of another plan.
    """
    line = LINES[name]
    out.mkdir(parents=True, exist_ok=True)
    cohort = _cohort(line.cohort, source, out, say)
    trained = {
        (model.name, seed): recipe_of(line, model, seed, profile)
        for model in line.models
        for seed in range(PROFILES[profile].seeds)
    }
    documents.keep_plan(out / "plan.json", _plan(name, profile, cohort, trained))
    ancestors = _ancestors(out / "ancestor", line, source, profile, say)
    jobs = _jobs(out, line, profile, trained)
    for stage in (ancestors, jobs):
        left = [job for job in stage if not job.outcome.exists()]
        for done, finished in enumerate(performed(left, perform, workers), len(stage) - len(left) + 1):
            say(f"{finished.name}: done ({done} of {len(stage)})")
    outcomes = [json.loads(job.outcome.read_text()) for job in jobs]
    figures = figures_of(outcomes, name, line, profile, cohort)
    documents.write(out / "figures.json", figures)
    report = out / "report.md"
    report.write_text(report_of(figures))
    return report


def _cohort(read: Import, source: Path, out: Path, say: Say) -> Cohort:
    folder, beside = out / "cohort", out / "cohort.partial"
    if not folder.exists():
        say("reading the data set")
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir()
        read(source, beside, site_key(out / "cohort.key"), lambda *_: None)
        beside.rename(folder)
    return cohorts.load(folder)


# What was asked for


def _plan(
    name: str, profile: ProfileName, cohort: Cohort, trained: Mapping[tuple[str, int], Recipe]
) -> Mapping[str, Any]:
    return {
        "experiment": name,
        "profile": profile,
        "data_hash": cohort.data_hash,
        "draws": PROFILES[profile].draws,
        "recipes": {
            f"{model} seed {seed}": recipe.model_dump(mode="json") for (model, seed), recipe in trained.items()
        },
    }


def _ancestors(out: Path, line: Line, source: Path, profile: ProfileName, say: Say) -> list[Job]:
    """One for each seed; none where all models begin by themselves."""
    if line.ancestor is None:
        return []
    out.mkdir(exist_ok=True)
    _cohort(line.ancestor.cohort, source, out, say)
    return [
        Job(
            recipes.dump(recipe_of(line, line.ancestor.model, seed, profile)),
            out / "cohort",
            out / f"{line.ancestor.model.slug}-seed{seed}",
            PROFILES[profile].draws,
            measured=False,
        )
        for seed in range(PROFILES[profile].seeds)
    ]


def _jobs(out: Path, line: Line, profile: ProfileName, trained: Mapping[tuple[str, int], Recipe]) -> list[Job]:
    draws, models = PROFILES[profile].draws, {model.name: model for model in line.models}
    starts = {
        seed: out / "ancestor" / f"{line.ancestor.model.slug}-seed{seed}" if line.ancestor else None
        for seed in range(PROFILES[profile].seeds)
    }
    runs = [
        Job(
            recipes.dump(recipe),
            out / "cohort",
            out / "runs" / f"{models[name].slug}-seed{seed}",
            draws,
            start_from=starts[seed] if models[name].starts else None,
        )
        for (name, seed), recipe in trained.items()
    ]
    # Size and range are those of all models of the line.
    beside = [
        Job(runs[0].recipe, out / "cohort", out / "references" / f"{name.replace(' ', '-')}.json", draws, name)
        for name in REFERENCES
    ]
    return [*beside, *runs]


# Doing it


def perform(job: Job) -> Job:
    """Train and evaluate, or measure a reference; the outcome is written last, so that it means that all is done."""
    recipe = recipes.parse(yaml.safe_load(job.recipe), job.name)
    assert isinstance(recipe, GenerationBase)
    cohort = cohorts.load(job.cohort)
    job.outcome.parent.mkdir(parents=True, exist_ok=True)
    if job.reference:
        started_s = time.process_time()
        measured_ = _reference(job.reference, recipe, cohort, job.draws)
        spent_s = round(time.process_time() - started_s, 1)
        documents.write(job.outcome, {"row": job.reference, "evaluation": measured_, "evaluation_cpu_s": spent_s})
        return job
    training_cpu_s, warnings = attempts.train(recipe, cohort, job.target, job.start_from)
    if not job.measured:
        documents.write(
            job.outcome, {"row": recipe.name, "training_cpu_s": round(training_cpu_s, 1), "warnings": warnings}
        )
        return job
    started_s = time.process_time()
    report = evaluate(job.target, cohort, draws=job.draws)
    model = generator.load(job.target)
    _save_sheet(model, job.target)
    found: dict[str, Any] = {
        "row": recipe.name,
        "seed": recipe.seed,
        "images_seen": model.model.description.saw.images_seen,
        "parameters": sum(
            weights.numel() for weights in version.read_weights(job.target / "models" / "model.pt").values()
        ),
        "training_cpu_s": round(training_cpu_s, 1),
        "warnings": warnings,
        "evaluation": report,
        "evaluation_cpu_s": round(time.process_time() - started_s, 1),
    }
    documents.write(job.outcome, found)
    return job


def _save_sheet(model: generator.Generator, run: Path) -> None:
    """Pictures of a seed of their own, channels and mask side by side; with classes, a column is a class."""
    if model.labels:
        rows = max(2, SHEET_PICTURES // len(model.labels))
        columns = [np.stack([*model.pictures(rows, SHEET_SEED, label)]) for label in model.labels]
        shown, across = np.stack(columns, 1).reshape(-1, *columns[0].shape[1:]), len(columns)
    else:
        shown, across = np.stack([*model.pictures(SHEET_PICTURES, SHEET_SEED)]), 4
    folder = run.parent.parent / "samples"
    folder.mkdir(exist_ok=True)
    sheet.save(
        shown,
        (-1.0, 1.0),
        folder / f"{run.name}.png",
        model=model.identity.address,
        seed=SHEET_SEED,
        colour=model.colour,
        across=across,
    )


# The rows beside the models


def _reference(name: str, recipe: GenerationBase, cohort: Cohort, draws: int) -> dict[str, Any]:
    px = int(recipe.network.image_px)  # type: ignore[attr-defined]
    seen, chosen, unseen = (pictures.read(cohort, split, recipe, px)[1] for split in cohorts.SPLITS)
    shown = REFERENCES[name](seen, chosen, recipe.audit_samples)
    numbers = [None] * len(shown) if shown.labels is None else shown.labels.tolist()
    return {"seed": AUDIT_SEED, "samples": len(shown)} | measured(
        shown.images, numbers, seen, unseen, cohort.labels, draws, cohort.labels[1:] if seen.mask_planes else ()
    )


def _some(squares: Squares, count: int) -> Squares:
    which = evenly(len(squares), count)
    labels = None if squares.labels is None else squares.labels[which]
    patients = tuple(squares.patients[index] for index in which.tolist())
    return replace(squares, stored=squares.stored[which], labels=labels, patients=patients)


def _validation(training: Squares, validation: Squares, count: int) -> Squares:
    return _some(validation, count)


def _copies(training: Squares, validation: Squares, count: int) -> Squares:
    return _some(training, count)


def _means(training: Squares, validation: Squares, count: int) -> Squares:
    """The mean training image of each one's class, with noise of 2 % of the range."""
    shown = _some(training, count)
    images = shown.images.mean(0, keepdim=True).repeat(len(shown), 1, 1, 1)
    if training.labels is not None and shown.labels is not None:
        for label in set(training.labels.tolist()):
            images[shown.labels == label] = training.images[training.labels == label].mean(0)
    return replace(shown, stored=noisy(images, 0.02))


REFERENCES: Mapping[str, Callable[[Squares, Squares, int], Squares]] = {
    "real images of validation": _validation,
    "copies of training images": _copies,
    "class means with noise": _means,
}
