"""One readable loop per family; `train` picks it by the recipe's task."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from dicom_io.cohort import Cohort
from dicom_io.errors import Rejected
from models.augmentation_recipe import require_fits
from models.classification_recipe import ClassificationRecipe
from models.diffusion_recipe import DiffusionRecipe
from models.paired_recipe import PairedRecipe
from models.recipe import Recipe
from models.segmentation_recipe import SegmentationRecipe
from models.training import (
    adversarial,
    classification,
    compiler,
    couples,
    diffusion,
    paired,
    pictures,
    segmentation,
    sharing,
    summary,
    unpaired,
    variational,
)
from models.training.ranks import joined
from models.training.session import Session
from models.unpaired_recipe import UnpairedRecipe
from models.variational_recipe import VariationalRecipe

Progress = Callable[[dict[str, Any]], None]


def train(
    recipe: Recipe,
    cohort: Cohort,
    run: Path,
    *,
    resume: bool = False,
    minutes: float | None = None,
    progress: Progress | None = None,
    device: str = "auto",
    start_from: Path | None = None,
    compiled: bool = False,
) -> None:
    """Train and leave a finished run: recipe, metrics.csv, checkpoints, and what serving needs in bundle form.

    minutes: a budget for this call; the schedule is squeezed into it. progress: called with events as plain dicts, see
    `models.training.journal`. device: "cpu", "cuda" or "auto". start_from: folder of a run or a version whose weights a
    generator begins with; a run that is resumed remembers it. compiled: generators train through `torch.compile`.

    Called in several processes (`models.training.ranks`), it shares the work; the first alone writes and tells.

    Raises:
        Rejected: recipe and cohort do not fit, or recipe and model; the run folder holds another training; the recipe
            cannot be shared by so many processes, or nothing can be compiled here.
    """
    # Generators need images, and labels where they are conditional: every cohort has the first.
    if recipe.task not in (cohort.task, "generation"):
        raise Rejected(f"recipe {recipe.name!r} is for {recipe.task}, cohort {cohort.name!r} for {cohort.task}")
    if start_from is not None and recipe.task != "generation":
        raise Rejected(
            f"recipe {recipe.name!r} is for {recipe.task}; only generators start from another model; a classifier "
            "names weights in `start`"
        )
    _require_augmentation(recipe, cohort)
    with joined(summary.device_named(device)) as ranks:
        sharing.require(recipe, ranks.count)
        if compiled:
            compiler.require(recipe, device)
        if isinstance(recipe, ClassificationRecipe):
            classification.train(recipe, cohort, run, resume=resume, minutes=minutes, progress=progress, device=device)
        elif isinstance(recipe, SegmentationRecipe):
            segmentation.train(recipe, cohort, run, resume=resume, minutes=minutes, progress=progress, device=device)
        else:
            of_pictures = isinstance(recipe, PairedRecipe | UnpairedRecipe) or (
                isinstance(recipe, DiffusionRecipe) and recipe.source is not None
            )
            session = Session(
                recipe,
                cohort,
                run,
                image_px=recipe.network.image_px,
                resume=resume,
                minutes=minutes,
                progress=progress,
                device=device,
                start_from=start_from,
                read=couples.read if of_pictures else partial(pictures.read, folder=run),
                ranks=ranks,
                compiled=compiled,
            )
            if isinstance(recipe, VariationalRecipe):
                variational.train(recipe, session)
            elif isinstance(recipe, DiffusionRecipe):
                diffusion.train(recipe, session)
            elif isinstance(recipe, PairedRecipe):
                paired.train(recipe, session)
            elif isinstance(recipe, UnpairedRecipe):
                unpaired.train(recipe, session)
            else:
                adversarial.train(recipe, session)


def _require_augmentation(recipe: Recipe, cohort: Cohort) -> None:
    seen, learned = [channel.name for channel in cohort.channels], cohort.labels
    if not isinstance(recipe, ClassificationRecipe | SegmentationRecipe):
        seen = [*(recipe.channels or seen[:1])]
        learned = learned if recipe.conditional or recipe.mask or recipe.only else ()
    require_fits(recipe.augmentation, learned, seen)
