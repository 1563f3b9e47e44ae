"""Which generators are compared on which data: one entry per line, one row per model, so that a further one is small.

All models of a line have one cohort, one image size and one range of pixels; recipes are the shipped ones with the
changes that are written here. Their images are what their budget buys: see `Line`.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from dicom_io.cohort import Cohort
from models import recipe as recipes
from models.recipe import Recipe
from samples.experiments.documents import Changes, changed
from samples.importers import brain_tumour, mini_mias, pet_sarcoma, phantom_folders
from samples.importers.by_patient import Progress
from samples.phantoms import write_patients
from samples.phantoms.patient import Kind

Import = Callable[[Path, Path, bytes, Progress], Cohort]
ProfileName = Literal["quick", "full"]


@dataclass(frozen=True)
class Model:
    """A row. recipe: a shipped one, changed by `changes`; `small` changes it again in the quick profile.

    starts: from the line's ancestor of the same seed.
    """

    name: str
    recipe: str
    total_images: int
    changes: Changes
    small: Changes
    starts: bool = False

    @property
    def slug(self) -> str:
        return re.sub("[^a-z0-9]+", "-", self.name.lower())


@dataclass(frozen=True)
class Ancestor:
    """What models of a line may start from: one training per seed, on another cohort; it is not measured."""

    cohort: Import
    model: Model


@dataclass(frozen=True)
class Line:
    """title: of the report. cohort: as importers are called. common: changes to every recipe of the line.

    budget_cpu_minutes: of the full profile, training and evaluation of all models and seeds, in one thread each; the
    images of each model were set by its measured speed, so that together they stay below it.
    """

    title: str
    cohort: Import
    common: Changes
    models: tuple[Model, ...]
    budget_cpu_minutes: float = 24.0
    ancestor: Ancestor | None = None


@dataclass(frozen=True)
class Profile:
    """seeds: 0, 1, ... of training. samples: of every evaluation. draws: of its bootstraps. reports: of a training."""

    seeds: int
    samples: int
    draws: int
    reports: int


PROFILES: Mapping[ProfileName, Profile] = {
    "full": Profile(seeds=3, samples=256, draws=1000, reports=6),
    # Small enough for a test; its pictures are noise.
    "quick": Profile(seeds=1, samples=24, draws=100, reports=2),
}
QUICK_IMAGES = 320

# All runs repeat on other machines of the kind: no bfloat16. A run that fails is told of, and stays in the figures.
_EVERY: Changes = {"schedule": {"precision": "float32", "patience_reports": None}, "alarms": "warn"}
_QUICK: Changes = {"network": {"image_px": 16}, "schedule": {"batch_size": 16, "ema_half_life_images": 100}}


def recipe_of(line: Line, model: Model, seed: int, name: ProfileName) -> Recipe:
    """What one run trains by."""
    profile = PROFILES[name]
    images = model.total_images if name == "full" else QUICK_IMAGES
    document = recipes.load(model.recipe).model_dump(mode="json")
    changes = [_EVERY, line.common, model.changes, *((_QUICK, model.small) if name == "quick" else ())]
    for change in changes:
        document = changed(document, change)
    schedule = {"total_images": images, "report_images": images // profile.reports}
    own = {"name": model.slug, "seed": seed, "audit_samples": profile.samples, "schedule": schedule}
    return recipes.parse(changed(document, own), f"{model.name} ({model.recipe})")


def _phantoms(kind: Kind, count: int, read: Import) -> Import:
    """A cohort of phantoms, which are written first; the folder of data sets is not read."""

    def made(source: Path, out: Path, key: bytes, progress: Progress) -> Cohort:
        with tempfile.TemporaryDirectory() as scratch:
            write_patients(kind, count, Path(scratch), seed=7)
            return read(Path(scratch), out, key, progress)

    return made


def _below(folder: str, read: Import) -> Import:
    """Where a line reads several data sets: this one lies in a folder of the given one."""
    return lambda source, out, key, progress: read(source / folder, out, key, progress)


def _histology(name: str, **network: Any) -> Model:
    """A rung of the ladder: the study's failing and working nets differed in these settings alone."""
    return Model(name, "histology-dcgan", 20_000, {"network": network, **_SMALL_BATCHES}, {})


# The budget is few steps otherwise, and what is small in a picture, such as a lesion of a mask, comes late.
_SMALL_BATCHES: Changes = {"schedule": {"batch_size": 16}}


def _adversarial(name: str, recipe: str, total_images: int, changes: Changes | None = None) -> Model:
    return Model(name, recipe, total_images, {"network": {"features": 16}, **_SMALL_BATCHES, **(changes or {})}, {})


def _diffusion(total_images: int) -> Model:
    """A sampler of few calls, as samples are made one by one."""
    return Model(
        "diffusion",
        "diffusion",
        total_images,
        {
            "network": {"channels": [16, 32, 32, 32], "residual_blocks": 1},
            "sampler": {"kind": "dpm-solver++", "steps": 12},
            "optimiser": {"learning_rate": 0.001},
            "schedule": {"batch_size": 16, "warm_up_images": 500, "ema_half_life_images": 1000},
        },
        {"network": {"channels": [8, 8], "attention_levels": 0}, "sampler": {"steps": 4}, "report_samples": 16},
    )


LINES: Mapping[str, Line] = {
    "generators-brain": Line(
        title="Generators of brain-tumour MR slices, four classes",
        cohort=brain_tumour.folders,
        common={"conditional": True, "pixel_range": [0.0, 255.0], "network": {"image_px": 64}},
        models=(
            _adversarial("conditional GAN", "conditional-generator", 36_000),
            _adversarial("WCGAN-GP", "brain-wcgan-gp", 30_000),
            Model("CVAE", "conditional-vae", 12_000, {}, {"network": {"features": 8, "blocks": 3}}),
            _diffusion(9_000),
        ),
    ),
    "generators-pet": Line(
        title="Generators of FDG PET slices of sarcomas, tumour or not",
        cohort=pet_sarcoma.slices,
        common={"conditional": True, "pixel_range": [0.0, 10.0], "network": {"image_px": 32}},
        models=(
            _adversarial("DCGAN", "generator", 100_000),
            _adversarial("WGAN-GP", "wgan-gp", 100_000),
            _diffusion(36_000),
        ),
    ),
    "generators-mammo": Line(
        title="Generators of patches of film mammograms",
        cohort=mini_mias.patches,
        common={"conditional": False, "pixel_range": [0.0, 255.0], "network": {"image_px": 64}},
        models=(
            _adversarial("DCGAN", "generator", 60_000),
            _adversarial("WGAN-GP", "wgan-gp", 40_000),
        ),
    ),
    "generators-joint": Line(
        title="Generators of T1, FLAIR and lesion mask together, on phantoms",
        cohort=_phantoms("brain-mr", 32, phantom_folders.white_matter_lesions),
        common={
            "channels": ["T1", "FLAIR"],
            "mask": True,
            "preprocessing": recipes.load("joint-lesions").model_dump(mode="json")["preprocessing"],
            "pixel_range": [0.0, 1.0],
            "minimum_signal": 0.1,
            "network": {"image_px": 64},
        },
        models=(
            _adversarial("joint DCGAN", "joint-lesions", 80_000),
            _diffusion(9_000),
        ),
    ),
    "generators-histology": Line(
        title="The ladder of the histology study, on phantom tiles of invasive carcinoma",
        cohort=_phantoms("histology", 16, phantom_folders.histology),
        common={
            "network": {"image_px": 64, "features": 16, "dropout": 0.0},
            "served_px": None,
            "optimiser": {"learning_rate": 0.0005},
        },
        models=(
            _histology("batch norm, latent 100", latent=100, norm="batch", critic_norm="batch", critic_dropout=0.0),
            _histology("dropout and batch norm", norm="batch", critic_norm="batch", critic_dropout=0.3),
            _histology("dropout", norm="none", critic_norm="none", critic_dropout=0.3),
            _histology("instance norm", norm="instance", critic_norm="instance", critic_dropout=0.0),
        ),
    ),
    "generators-transfer": Line(
        title="PET slices from scratch, and from a generator of mammography patches",
        cohort=_below("pet-suv-sarcoma", pet_sarcoma.slices),
        common={"conditional": False, "pixel_range": [0.0, 10.0], "network": {"image_px": 32}},
        models=(
            _adversarial("scratch", "generator", 48_000),
            replace(_adversarial("transfer", "generator", 48_000), starts=True),
            replace(
                _adversarial("transfer, critic frozen", "generator", 48_000, {"transfer": {"freeze": {"critic": 2}}}),
                starts=True,
            ),
        ),
        ancestor=Ancestor(
            _below("mammo-mias", mini_mias.patches),
            Model(
                "mammography",
                "generator",
                60_000,
                {"network": {"features": 16}, "pixel_range": [0.0, 255.0]},
                {},
            ),
        ),
    ),
}
