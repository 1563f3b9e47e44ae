"""Sarcomas on FDG PET: segmenters of slices and of volumes side by side, on the patients and folds of `pet_tumour`.

Each line is one recipe; all see windows or boxes of one size at random places, so that the place in the crop is hidden,
and the same training patients, of whom the same three choose the checkpoint and the threshold. Each training has one
thread, so that figures do not depend on how many folds run side by side. The same command goes on where it was stopped.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import torch

from dicom_io import cohort as cohorts
from dicom_io.errors import Rejected
from dicom_io.pseudonym import pseudonym, site_key
from dicom_io.volume import Volume
from models import bundle, predictor, training
from models import recipe as recipes
from models.evaluation.segmentation import Mask, Pair, figures
from models.predictor import Segmenter
from samples.experiments import pet_tumour
from samples.experiments.pet_report import MASKS
from samples.experiments.pet_volumes_report import COUNTED, Found, Plan, as_json, figures_of, report_of
from samples.importers import pet_sarcoma

# Of the slices: images as `pet_tumour` draws them.
LINES: Mapping[str, str] = {
    "U-Net of slices": "pet_tumour_segmenter",
    "U-Net of volumes": "pet_unet_3d",
    "DynUNet of slices": "pet_dynunet",
    "DynUNet of volumes": "pet_dynunet_3d",
}
PLANS = {
    "full": Plan(patients=20, deal=5, folds=5, seeds=3, share=1.0),
    # Small enough for a test: six patients, one of them held out.
    "quick": Plan(patients=6, deal=6, folds=1, seeds=1, share=0.1),
}


Splits = Mapping[str, str]


def run(
    source: Path, out: Path, profile: Literal["quick", "full"], say: Callable[[str], None], workers: int = 1
) -> Path:
    """Do it all, and give the path of the report; the figures lie beside it as JSON, the models in OUT/models.

    Raises:
        Rejected: `source` is not the data set, or `out` holds a run of another profile, or by other recipes.
    """
    plan = PLANS[profile]
    out.mkdir(parents=True, exist_ok=True)
    begun, asked = out / "plan.json", json.dumps(asdict(plan)) + "\n"
    if begun.exists() and begun.read_text() != asked:
        raise Rejected(f"{out} holds a run of another profile; give another --out, so that no two runs mix")
    begun.write_text(asked)
    key = site_key(out / "cohort.key")
    folds = [*pet_tumour.splits_of(source, plan.patients, plan.deal, plan.folds)]
    found: list[Found] = []
    for number, held_out in enumerate(_folds(source, out, key, folds, plan, workers), 1):
        found += held_out
        say(f"fold {number} of {plan.folds}: {len(held_out)} patients met")
    summary = figures_of(found, plan, [*LINES])
    (out / "figures.json").write_text(json.dumps(summary | {"held_out": [*map(as_json, found)]}, indent=1) + "\n")
    report = out / "report.md"
    report.write_text(report_of(summary, found, plan, profile, [*LINES]))
    return report


def _folds(
    source: Path, out: Path, key: bytes, folds: Sequence[Splits], plan: Plan, workers: int
) -> Iterator[list[Found]]:
    """In order; in processes of their own where there are several workers."""
    if workers == 1:
        _begin_worker()
        yield from (_fold(source, out, key, fold, splits, plan) for fold, splits in enumerate(folds))
        return
    spawning = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawning, initializer=_begin_worker) as pool:
        begun = [pool.submit(_fold, source, out, key, fold, splits, plan) for fold, splits in enumerate(folds)]
        yield from (each.result() for each in begun)


def _begin_worker() -> None:
    torch.set_num_threads(1)


def _fold(source: Path, out: Path, key: bytes, fold: int, splits: Splits, plan: Plan) -> list[Found]:
    cohort = _cohort(source, out / "cohorts" / f"fold{fold}", key, splits)
    models: dict[str, list[Segmenter]] = {}
    for line, name in LINES.items():
        for seed in range(plan.seeds):
            model = _train(cohort, out / "runs" / f"{name}-fold{fold}-seed{seed}", name, seed, plan)
            models.setdefault(line, []).append(model)
            if fold == seed == 0 and not (out / "models" / recipes.load(_recipe(name)).name).exists():
                bundle.release(model.model.folder, cohort, recipes.load(_recipe(name)).name, "1", out / "models")
    folders = {pseudonym(key, patient, prefix="P"): patient for patient in splits}
    found = []
    for item in cohort.test:
        image = cohorts.load_image(cohort, item)
        assert isinstance(image, Volume)
        suv = image.with_voxels(image.voxels[0])
        found.append(found_in(folders[item.patient], fold, suv, cohorts.load_mask(cohort, item).voxels > 0, models))
    return found


def _cohort(source: Path, folder: Path, key: bytes, splits: Splits) -> cohorts.Cohort:
    """The one that is there; one that was not finished is made anew."""
    if (folder / "datalist.json").is_file():
        return cohorts.load(folder)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return pet_sarcoma.cohort_of(source, folder, key, splits, "segmentation", lambda *_: None)


def _recipe(name: str) -> Path:
    return Path(__file__).parent / f"{name}.yaml"


def _train(cohort: cohorts.Cohort, run: Path, name: str, seed: int, plan: Plan) -> Segmenter:
    recipe = recipes.load(_recipe(name))
    total = recipe.schedule.total_images
    # The line that was there first sees as many windows as it did there.
    total = pet_tumour.PLANS["full"].total_images if name == "pet_tumour_segmenter" else total
    schedule = recipe.schedule.model_copy(update={"total_images": round(plan.share * total)})
    chosen = recipe.model_copy(update={"seed": seed, "schedule": schedule})
    # One that is finished trains no further.
    training.train(chosen, cohort, run, resume=True, device="cpu")
    model = predictor.load(run)
    assert isinstance(model, Segmenter)
    return model


def found_in(patient: str, fold: int, suv: Volume, truth: Mask, models: Mapping[str, Sequence[Segmenter]]) -> Found:
    """The figures of every rule, and of every line's models, one for each seed."""

    def counted(mask: Mask) -> dict[str, float]:
        each = figures(Pair(patient, mask, truth, suv.spacing_mm))
        return {name: each[name] for name in COUNTED}

    return Found(
        patient,
        fold,
        rules={name: counted(rule(suv)) for name, rule in MASKS.items()},
        lines={
            line: [counted(model.predict(suv).mask.voxels > 0) for model in seeds] for line, seeds in models.items()
        },
    )
