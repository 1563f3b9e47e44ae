"""Lines of classifiers: every arm on the same pictures, cross-validated by patient (or group of near-duplicates).

Every seed deals the patients anew into folds and trains anew; each picture is tested once for each seed. In every fold
the next fold is validation: it fixes temperature and threshold of a network, and the setting of a baseline. Networks
keep their last state, so that nothing else is chosen.

    OUT/VIEW/                          the pictures in one view, as a cohort that is not split yet
    OUT/plan.json                      what was asked for; another plan is refused
    OUT/folds/VIEW-seedN-foldM/        a data list: who trains, validates and is tested
    OUT/runs/ARM-seedN-foldM/          a training or a fit, and outcome.json once it met its test pictures
    OUT/shortcuts-VIEW.json            what tells the classes apart beside the disease
    OUT/report.md, figures.json

What has its outcome is kept, the rest is done by the next call. Every run has one thread.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from dicom_io import cohort as cohorts
from dicom_io import shortcuts
from dicom_io.cohort import Cohort
from models import answers, predictor, version
from models import recipe as recipes
from models.calibration import fixed_on
from samples.experiments import Progress, attempts, documents
from samples.experiments.classifier_baselines import BASELINES
from samples.experiments.classifier_figures import figures_of
from samples.experiments.classifier_folds import dealt, fold_of
from samples.experiments.classifier_lines import LINES, Line, ProfileName, folds_of, recipe_of, seeds_of
from samples.experiments.classifier_report import report_of
from samples.experiments.workers import performed

# A baseline may be certain of what is wrong; its logits stay finite.
_LEAST = 1e-6


@dataclass(frozen=True)
class Job:
    """One arm in one fold of one seed. recipe: as YAML, "" for a baseline. cohort: folder of the fold."""

    arm: str
    seed: int
    fold: int
    recipe: str
    baseline: str
    least_sensitivity: float | None
    cohort: Path
    target: Path

    @property
    def outcome(self) -> Path:
        return self.target / "outcome.json"


def run(name: str, source: Path, out: Path, profile: ProfileName, say: Progress, workers: int = 1) -> Path:
    """Do what is not done yet, and give the path of the report.

    Raises:
        Rejected: `source` is not the data set, or `out` holds a run of another plan.
    """
    line = LINES[name]
    out.mkdir(parents=True, exist_ok=True)
    views = _views(line, source, out, say)
    documents.keep_plan(out / "plan.json", _plan(name, line, profile, views))
    jobs = _jobs(name, line, profile, views, out)
    left = [job for job in jobs if not job.outcome.exists()]
    for done, finished in enumerate(performed(left, perform, workers), len(jobs) - len(left) + 1):
        say(f"{finished.target.name}: done ({done} of {len(jobs)})")
    found = {view: _shortcuts(cohort, out, say) for view, cohort in views.items()} if line.shortcuts else {}
    outcomes = [json.loads(job.outcome.read_text()) for job in jobs]
    figures = figures_of(outcomes, name, line, profile, next(iter(views.values())), found)
    documents.write(out / "figures.json", figures)
    report = out / "report.md"
    report.write_text(report_of(figures))
    return report


def _views(line: Line, source: Path, out: Path, say: Progress) -> dict[str, Cohort]:
    """Read all views, or find them read: they are moved to their place once all are whole."""
    beside = out / "reading"
    if not all((out / view).exists() for view in line.views):
        say("reading the data set")
        shutil.rmtree(beside, ignore_errors=True)
        line.read(source, beside, lambda *_: None)
        for view in line.views:
            shutil.rmtree(out / view, ignore_errors=True)
            (beside / view).rename(out / view)
        beside.rmdir()
    return {view: cohorts.load(out / view) for view in line.views}


def _plan(name: str, line: Line, profile: ProfileName, views: Mapping[str, Cohort]) -> Mapping[str, Any]:
    return {
        "experiment": name,
        "profile": profile,
        "folds": folds_of(line, profile),
        "seeds": seeds_of(line, profile),
        "data_hashes": {view: cohort.data_hash for view, cohort in views.items()},
        "arms": {
            arm.slug: arm.baseline or recipe_of(line, arm, 0, profile).model_dump(mode="json") for arm in line.arms
        },
    }


def _jobs(name: str, line: Line, profile: ProfileName, views: Mapping[str, Cohort], out: Path) -> list[Job]:
    jobs = []
    for seed in range(seeds_of(line, profile)):
        for fold in range(folds_of(line, profile)):
            where = {view: out / "folds" / f"{view}-seed{seed}-fold{fold}" for view in views}
            for view, cohort in views.items():
                deal = dealt(cohort.training, folds_of(line, profile), f"{name}, seed {seed}")
                fold_of(cohort, deal, fold, where[view])
            jobs += [
                Job(
                    arm=arm.slug,
                    seed=seed,
                    fold=fold,
                    recipe="" if arm.baseline else recipes.dump(recipe_of(line, arm, seed, profile)),
                    baseline=arm.baseline,
                    least_sensitivity=line.least_sensitivity,
                    cohort=where[arm.view],
                    target=out / "runs" / f"{arm.slug}-seed{seed}-fold{fold}",
                )
                for arm in line.arms
            ]
    return jobs


def perform(job: Job) -> Job:
    """Train or fit, and meet the test pictures; the outcome is written last, so that it means that all is done."""
    cohort = cohorts.load(job.cohort)
    job.target.mkdir(parents=True, exist_ok=True)
    found = _fitted(job, cohort) if job.baseline else _trained(job, cohort)
    probabilities = found.pop("probabilities")
    documents.write(
        job.outcome,
        {
            "arm": job.arm,
            "seed": job.seed,
            "fold": job.fold,
            "pictures": [Path(item.images[0]).name for item in cohort.test],
            "patients": [item.patient for item in cohort.test],
            "labels": [item.label for item in cohort.test],
            "probabilities": np.asarray(probabilities, np.float64).round(6).tolist(),
        }
        | found,
    )
    return job


def _trained(job: Job, cohort: Cohort) -> dict[str, Any]:
    recipe = recipes.parse(yaml.safe_load(job.recipe), job.arm)
    training_cpu_s, warnings = attempts.train(recipe, cohort, job.target)
    model = predictor.load(job.target)
    assert isinstance(model, predictor.Classifier)
    probabilities = answers.on_images(model, cohort).probabilities
    weights = version.read_weights(job.target / "models" / "model.pt")
    return {
        "probabilities": probabilities,
        "threshold": model.threshold,
        "chosen": f"temperature {model.description.temperature:.2f}",
        "images_seen": model.description.saw.images_seen,
        "parameters": sum(each.numel() for each in weights.values()),
        "cpu_s": round(training_cpu_s, 2),
        "warnings": warnings,
    }


def _fitted(job: Job, cohort: Cohort) -> dict[str, Any]:
    """A baseline; temperature and threshold are fixed on validation, as a network's are."""
    started_s = time.process_time()
    said = BASELINES[job.baseline](cohort)
    validation, test = (torch.from_numpy(np.log(np.maximum(each, _LEAST))) for each in (said.validation, said.test))
    labels = torch.tensor([item.label for item in cohort.validation])
    temperature, threshold = fixed_on(validation, labels, job.least_sensitivity)
    return {
        "probabilities": torch.softmax(test / temperature, 1).numpy(),
        "threshold": threshold,
        "chosen": said.chosen,
        "images_seen": None,
        "parameters": None,
        "cpu_s": round(time.process_time() - started_s, 2),
        "warnings": [],
    }


def _shortcuts(cohort: Cohort, out: Path, say: Progress) -> dict[str, Any]:
    path = out / f"shortcuts-{cohort.name}.json"
    if not path.exists():
        say(f"what tells the classes apart beside the disease, {cohort.name}")
        documents.write(path, shortcuts.report(cohort).as_json())
    found: dict[str, Any] = json.loads(path.read_text())
    return found
