"""One readable loop per family; `train` picks it by the recipe's task."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dicom_io.cohort import Cohort
from dicom_io.errors import Rejected
from models.diffusion_recipe import DiffusionRecipe
from models.paired_recipe import PairedRecipe
from models.recipe import ClassificationRecipe, Recipe, SegmentationRecipe
from models.training import adversarial, classification, couples, diffusion, paired, pictures, segmentation, variational
from models.training.judge import SAMPLES
from models.training.session import Reader, Session
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
) -> None:
    """Train and leave a finished run: recipe, metrics.csv, checkpoints, and what serving needs in bundle form.

    minutes: a budget for this call; the schedule is squeezed into it. progress: called with events as plain dicts, see
    `models.training.journal`. device: "cpu", "cuda" or "auto". start_from: folder of a run or a version whose weights a
    generator begins with; a run that is resumed remembers it.

    Raises:
        Rejected: recipe and cohort do not fit, or recipe and model; or the run folder holds another training.
    """
    # Generators need images, and labels where they are conditional: every cohort has the first.
    if recipe.task not in (cohort.task, "generation"):
        raise Rejected(f"recipe {recipe.name!r} is for {recipe.task}, cohort {cohort.name!r} for {cohort.task}")
    if start_from is not None and recipe.task != "generation":
        raise Rejected(f"recipe {recipe.name!r} is for {recipe.task}; only generators start from another model")
    if isinstance(recipe, ClassificationRecipe):
        classification.train(recipe, cohort, run, resume=resume, minutes=minutes, progress=progress, device=device)
    elif isinstance(recipe, SegmentationRecipe):
        segmentation.train(recipe, cohort, run, resume=resume, minutes=minutes, progress=progress, device=device)
    else:
        samples = recipe.report_samples if isinstance(recipe, DiffusionRecipe | PairedRecipe) else SAMPLES
        paired_up = isinstance(recipe, PairedRecipe) or (isinstance(recipe, DiffusionRecipe) and recipe.source)
        read: Reader = couples.read if paired_up else pictures.read
        session = Session(
            recipe,
            cohort,
            run,
            image_px=recipe.network.image_px,
            resume=resume,
            minutes=minutes,
            progress=progress,
            device=device,
            samples=samples,
            read=read,
            start_from=start_from,
        )
        if isinstance(recipe, VariationalRecipe):
            variational.train(recipe, session)
        elif isinstance(recipe, DiffusionRecipe):
            diffusion.train(recipe, session)
        elif isinstance(recipe, PairedRecipe):
            paired.train(recipe, session)
        else:
            adversarial.train(recipe, session)
