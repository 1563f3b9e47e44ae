"""Runs and released versions that many tests look at, trained once a session on toy images."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from toy_images import write_cohort

from dicom_io.cohort import Cohort, Task
from models import bundle, recipe, training
from models.recipe import Recipe
from models.version import ModelVersion

torch.set_num_threads(1)

MakeCohort = Callable[..., Cohort]
Trained = tuple[Path, Cohort, Recipe]


@pytest.fixture(scope="session")
def make_cohort(tmp_path_factory: pytest.TempPathFactory) -> MakeCohort:
    """`make_cohort("segmentation", (4, 2, 2))`, see `toy_images.write_cohort`."""

    def make(task: Task, *arguments: object, **fields: object) -> Cohort:
        return write_cohort(tmp_path_factory.mktemp(f"cohort-{task}"), task, *arguments, **fields)  # type: ignore[arg-type]

    return make


def small(name: str, **schedule: object) -> Recipe:
    """A shipped recipe, made small enough for a test."""
    plain = recipe.load(name).model_dump(mode="json")
    plain["schedule"] |= {"total_images": 320, "report_images": 160, "batch_size": 8, "warm_up_images": 16}
    plain["schedule"] |= {"precision": "float32", **schedule}
    if name == "segmenter":
        plain["windows"]["window_px"] = 32
        plain["network"]["channels"] = [8, 16, 32]
    elif name == "classifier":
        plain["preprocessing"][-1]["spatial_size"] = [-1, 40, 32]
        plain["network"]["channels"] = [8, 16, 16, 16]
    else:
        plain["network"] = {"image_px": 16, "features": 16, "latent": 16}
        plain["audit_samples"] = 64
    plain["evaluation"] = {"bootstrap_draws": 200}
    return recipe.parse(plain, name)


@pytest.fixture(scope="session")
def small_recipe() -> Callable[..., Recipe]:
    return small


def _trained(
    make: MakeCohort, folder: Path, name: str, task: Task, kind: str = "volume", **schedule: object
) -> Trained:
    cohort = make(task, (6, 2, 6), kind)
    chosen = small(name, **schedule)
    if kind == "projection":
        plain = chosen.model_dump(mode="json")
        plain["preprocessing"][-1]["spatial_size"] = [40, 32]
        chosen = recipe.parse(plain, name)
    training.train(chosen, cohort, folder / "run", device="cpu")
    return folder / "run", cohort, chosen


@pytest.fixture(scope="session")
def segmentation_run(make_cohort: MakeCohort, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("segmentation")
    return _trained(make_cohort, folder, "segmenter", "segmentation", total_images=1600, report_images=800)


@pytest.fixture(scope="session")
def classification_run(make_cohort: MakeCohort, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return _trained(make_cohort, tmp_path_factory.mktemp("classification"), "classifier", "classification")


@pytest.fixture(scope="session")
def projection_run(make_cohort: MakeCohort, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("projection")
    return _trained(make_cohort, folder, "classifier", "classification", "projection")


@pytest.fixture(scope="session")
def generation_run(make_cohort: MakeCohort, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return _trained(make_cohort, tmp_path_factory.mktemp("generation"), "generator", "generation")


@pytest.fixture(scope="session")
def segmenter(segmentation_run: Trained, tmp_path_factory: pytest.TempPathFactory) -> ModelVersion:
    return bundle.release(
        *segmentation_run[:2], "toy-lesions", models_dir=tmp_path_factory.mktemp("models"), engine="torch"
    )


@pytest.fixture(scope="session")
def classifier(classification_run: Trained, tmp_path_factory: pytest.TempPathFactory) -> ModelVersion:
    return bundle.release(
        *classification_run[:2], "toy-slices", models_dir=tmp_path_factory.mktemp("models"), engine="torch"
    )


@pytest.fixture(scope="session")
def projection_classifier(projection_run: Trained, tmp_path_factory: pytest.TempPathFactory) -> ModelVersion:
    return bundle.release(
        *projection_run[:2], "toy-pictures", models_dir=tmp_path_factory.mktemp("models"), engine="torch"
    )


@pytest.fixture(scope="session")
def generator(generation_run: Trained, tmp_path_factory: pytest.TempPathFactory) -> ModelVersion:
    return bundle.release(*generation_run[:2], "toy-maker", models_dir=tmp_path_factory.mktemp("models"))
