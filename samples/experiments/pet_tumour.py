"""Sarcomas on FDG PET: a segmenter and a classifier of slices, cross-validated by patient, beside simpler rules.

Patients are dealt into folds in hash order. In each fold a model trains on the rest, less three patients that choose
the checkpoint and the threshold, and meets its own patients once. The place in the crop is hidden from the models:
windows of one size at random places, no slice index (`samples.experiments.pet_baselines` says what the place alone is
worth). The models of the first fold and seed are released; that fold's patients are new to them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import numpy as np

from dicom_io import cohort as cohorts
from dicom_io.errors import Rejected
from dicom_io.pseudonym import pseudonym, site_key
from dicom_io.volume import Volume
from models import bundle, predictor, training
from models import recipe as recipes
from models.evaluation.classification import auroc
from models.evaluation.segmentation import Mask, dice
from models.predictor import Classifier, Segmenter
from samples.experiments.pet_report import MASKS, SCORES, Outcome, Plan, figures_of, report_of
from samples.importers import pet_sarcoma

VALIDATION_PATIENTS = 3
PLANS = {
    "full": Plan(patients=20, deal=5, folds=5, seeds=3, total_images=6000),
    # Small enough for a test: six patients, one of them held out.
    "quick": Plan(patients=6, deal=6, folds=1, seeds=1, total_images=4000),
}


def run(source: Path, out: Path, profile: Literal["quick", "full"], say: Callable[[str], None]) -> Path:
    """Do it all, and give the path of the report; the figures lie beside it as JSON, the models in OUT/models.

    Raises:
        Rejected: `source` is not the data set, or `out` holds an earlier run.
    """
    plan = PLANS[profile]
    if (out / "cohorts").exists():
        raise Rejected(f"{out} holds an earlier run; give another --out, so that no two runs mix")
    out.mkdir(parents=True, exist_ok=True)
    key = site_key(out / "cohort.key")
    outcomes: list[Outcome] = []
    for fold, splits in enumerate(splits_of(source, plan.patients, plan.deal, plan.folds)):
        held_out = [patient for patient, split in splits.items() if split == "test"]
        say(f"fold {fold + 1} of {plan.folds}: {len(held_out)} patients held out")
        outcomes += _fold(source, out, key, fold, splits, plan, say)
    figures = figures_of(outcomes, plan)
    (out / "figures.json").write_text(
        json.dumps(figures | {"held_out": [asdict(o) for o in outcomes]}, indent=1) + "\n"
    )
    report = out / "report.md"
    report.write_text(report_of(figures, outcomes, plan, profile))
    return report


def splits_of(source: Path, patients: int, deal: int, folds: int) -> Iterator[dict[str, str]]:
    """Of each fold: patient -> training, validation or test."""
    ordered = _in_hash_order(pet_sarcoma.patients_in(source))[:patients]
    dealt = [ordered[number::deal] for number in range(deal)]
    for fold in range(folds):
        held_out, rest = dealt[fold], [patient for each in (*dealt[fold + 1 :], *dealt[:fold]) for patient in each]
        splits = dict.fromkeys(rest, "training") | dict.fromkeys(held_out, "test")
        yield splits | dict.fromkeys(rest[: min(VALIDATION_PATIENTS, len(rest) // 3)], "validation")


def held_out_patients(source: Path, profile: Literal["quick", "full"]) -> list[str]:
    """Folders of the patients that the released models have not seen."""
    plan = PLANS[profile]
    return _in_hash_order(pet_sarcoma.patients_in(source))[: plan.patients][:: plan.deal]


def _in_hash_order(patients: Sequence[str]) -> list[str]:
    return sorted(patients, key=lambda patient: hashlib.sha256(f"pet-tumour\0{patient}".encode()).digest())


def _fold(
    source: Path, out: Path, key: bytes, fold: int, splits: Mapping[str, str], plan: Plan, say: Callable[[str], None]
) -> list[Outcome]:
    segmenters: list[Segmenter] = []
    classifiers: list[Classifier] = []
    held_out: cohorts.Cohort | None = None
    for task, name in (("segmentation", "pet-tumour"), ("classification", "pet-tumour-slices")):
        folder = out / "cohorts" / f"{name}-fold{fold}"
        folder.mkdir(parents=True)
        cohort = pet_sarcoma.cohort_of(source, folder, key, splits, task, lambda *_: None)  # type: ignore[arg-type]
        held_out = held_out or cohort
        for seed in range(plan.seeds):
            trained = _train(cohort, out / "runs" / f"{name}-fold{fold}-seed{seed}", name, seed, plan, say)
            if isinstance(trained, Segmenter):
                segmenters.append(trained)
            else:
                classifiers.append(trained)
            if fold == seed == 0:
                bundle.release(trained.model.folder, cohort, name, "1", out / "models")
    assert held_out is not None
    folders = {pseudonym(key, patient, prefix="P"): patient for patient in splits}
    return [
        _outcome(folders[patient], fold, suv, mask, segmenters, classifiers) for patient, suv, mask in _cases(held_out)
    ]


def _train(
    cohort: cohorts.Cohort, run: Path, name: str, seed: int, plan: Plan, say: Callable[[str], None]
) -> Segmenter | Classifier:
    shipped = Path(__file__).parent / ("pet_tumour_slices.yaml" if "slices" in name else "pet_tumour_segmenter.yaml")
    recipe = recipes.load(shipped)
    schedule = recipe.schedule.model_copy(update={"total_images": plan.total_images})
    training.train(recipe.model_copy(update={"seed": seed, "schedule": schedule}), cohort, run)
    say(f"  {name}, seed {seed}: trained")
    return predictor.load(run)


def _cases(cohort: cohorts.Cohort) -> Iterator[tuple[str, Volume, Mask]]:
    for item in cohort.test:
        image = cohorts.load_image(cohort, item)
        assert isinstance(image, Volume)
        suv = image.with_voxels(image.voxels[0])
        yield item.patient, suv, cohorts.load_mask(cohort, item).voxels > 0


def _outcome(
    patient: str,
    fold: int,
    suv: Volume,
    truth: Mask,
    segmenters: Sequence[Segmenter],
    classifiers: Sequence[Classifier],
) -> Outcome:
    tumour = np.asarray(truth.any(axis=(1, 2)))
    drawn = {name: rule(suv) for name, rule in MASKS.items()}
    found = [model.predict(suv).mask.voxels > 0 for model in segmenters]
    judged = [model.predict(suv) for model in classifiers]
    return Outcome(
        patient=patient,
        fold=fold,
        dice={name: dice(mask, truth) for name, mask in drawn.items()},
        sensitivity={name: _share(mask, truth) for name, mask in drawn.items()},
        slice_auroc={name: auroc(score(suv), tumour) for name, score in SCORES.items()},
        model_dice=tuple(dice(mask, truth) for mask in found),
        model_sensitivity=tuple(_share(mask, truth) for mask in found),
        model_slice_auroc=tuple(auroc(each.probabilities[:, 1].astype(np.float64), tumour) for each in judged),
        model_slice_sensitivity=tuple(_share(each.positive, tumour) for each in judged),
        model_slice_specificity=tuple(_share(~each.positive, ~tumour) for each in judged),
    )


def _share(found: Mask, truth: Mask) -> float:
    """Share of `truth` that is in `found`; nan where there is none."""
    return float((found & truth).sum() / truth.sum()) if truth.any() else float("nan")
