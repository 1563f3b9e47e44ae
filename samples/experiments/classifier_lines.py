"""Which classifiers are compared on which pictures: one entry per line, one row per arm, so that a further is small.

An arm is a network (a shipped recipe with the changes that are written here) or a baseline, and the view that it is
shown. Settings were fixed before a test picture was looked at; what was tried on validation stands in docs/results.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from models import recipe as recipes
from models.classification_recipe import ClassificationRecipe
from samples.experiments import classifier_pictures
from samples.experiments.documents import Changes, changed
from samples.importers.by_patient import Progress

ProfileName = Literal["quick", "full"]


@dataclass(frozen=True)
class Arm:
    """A row. view: folder of pictures. baseline: of `classifier_baselines`, "" for a network.

    network: of the recipe, `small` in its place in the quick profile. changes: to the rest of the shipped recipe.
    """

    name: str
    view: str
    baseline: str = ""
    total_images: int = 0
    network: Changes = field(default_factory=dict)
    small: Changes = field(default_factory=dict)
    changes: Changes = field(default_factory=dict)

    @property
    def slug(self) -> str:
        return re.sub("[^a-z0-9]+", "-", self.name.lower()).strip("-")


@dataclass(frozen=True)
class Line:
    """title: of the report. read: (data set, OUT, progress) writes the views. views: folder -> what is seen there.

    arms: the first is the one that the others are compared with. folds, seeds: of the full profile; every seed deals
    patients anew and trains anew. primary: the figure that the report begins with.
    least_sensitivity: see `ClassificationRecipe`; of baselines, too. subset: "which of the classes but the first" is
    asked, too, of the pictures that are of one. pairs: patients with pictures of both kinds rank them. shortcuts: what
    tells classes apart beside the disease is measured in each view.
    budget_cpu_minutes: of the full profile, all arms, seeds and folds, in one thread.
    caution: what a reader must know before the figures, in sentences.
    """

    title: str
    read: Callable[[Path, Path, Progress], None]
    views: Mapping[str, str]
    arms: tuple[Arm, ...]
    folds: int
    seeds: int
    primary: str
    caution: str
    least_sensitivity: float | None = None
    subset: bool = False
    pairs: bool = False
    shortcuts: bool = False
    budget_cpu_minutes: float = 30.0


@dataclass(frozen=True)
class Profile:
    """folds, seeds: None takes the line's. draws: of the bootstrap."""

    folds: int | None
    seeds: int | None
    draws: int


PROFILES: Mapping[ProfileName, Profile] = {
    "full": Profile(folds=None, seeds=None, draws=2000),
    # Small enough for a test; its networks have learnt nothing.
    "quick": Profile(folds=3, seeds=1, draws=200),
}
QUICK_IMAGES = 96


def folds_of(line: Line, profile: ProfileName) -> int:
    return PROFILES[profile].folds or line.folds


def seeds_of(line: Line, profile: ProfileName) -> int:
    return PROFILES[profile].seeds or line.seeds


def recipe_of(line: Line, arm: Arm, seed: int, profile: ProfileName) -> ClassificationRecipe:
    """What one run trains by. The last state is kept: it validates once, at the end, for temperature and threshold."""
    full = profile == "full"
    images = arm.total_images if full else QUICK_IMAGES
    own = {
        "name": arm.slug,
        "seed": seed,
        "preprocessing": _GREY,
        "least_sensitivity": line.least_sensitivity,
        "schedule": {"total_images": images, "report_images": images},
    }
    document = changed(changed(recipes.load("classifier").model_dump(mode="json"), arm.changes), own)
    # Another kind of network has other keys, so that it is no change of the shipped one.
    document["network"] = arm.network if full else arm.small
    recipe = recipes.parse(document, f"{arm.name} (classifier)")
    assert isinstance(recipe, ClassificationRecipe)
    return recipe


# Views come in one size and in grey levels of 0 to 255.
_GREY = [{"_target_": "ScaleIntensityRanged", "a_min": 0, "a_max": 255, "b_min": 0, "b_max": 1}]
_RESNET: Changes = {"kind": "resnet", "channels": [24, 48, 96, 192], "first_kernel_px": 5, "first_stride_px": 2}
_SMALL_RESNET: Changes = {"kind": "resnet", "channels": [4, 4, 8, 8]}
_HEADS: Changes = {
    "augmentation": {"flip_columns": True, "rotation_degrees": 20, "scale": 0.2, "gain": 0.2},
    "loss": {"mix": 0.3},
    "schedule": {"batch_size": 32},
}

LINES: Mapping[str, Line] = {
    "classes-brain": Line(
        title="Brain tumours on MR pictures, four classes",
        read=classifier_pictures.brain,
        views={
            "published": "the whole picture, squeezed to 64 x 64 pixels; margins, proportions, brightness still tell",
            "hidden": "the head cut out of its margins, 64 x 64 pixels whatever its sides, grey levels stretched",
        },
        arms=(
            Arm("ResNet, shortcut hidden", "hidden", "", 16_000, _RESNET, _SMALL_RESNET, _HEADS),
            Arm("ResNet, as published", "published", "", 16_000, _RESNET, _SMALL_RESNET, _HEADS),
            Arm("HOG and logistic regression, shortcut hidden", "hidden", "gradients"),
            Arm("HOG and logistic regression, as published", "published", "gradients"),
            Arm("file alone: width, height, colour mode", "published", "size"),
            Arm("file alone: these and its bytes", "published", "file"),
            Arm("shares of training", "published", "shares"),
        ),
        folds=5,
        seeds=3,
        primary="macro_f1",
        caution="Pictures without a tumour were collected elsewhere than those with one: their sizes tell, and so do "
        "sequences, which no crop hides. Which tumour it is, of pictures with one, is what remains. Labels of gliomas "
        "are known to be partly wrong.",
        least_sensitivity=0.95,
        subset=True,
        shortcuts=True,
    ),
    "classes-mammo": Line(
        title="Film mammograms, normal or abnormal",
        read=classifier_pictures.mammograms,
        views={"breast": "the breast alone, 128 x 64 pixels, its chest wall to the left, grey levels stretched"},
        arms=(
            Arm(
                "small CNN, whole breast",
                "breast",
                "",
                3_200,
                {"kind": "small-cnn", "channels": [16, 32, 64, 64], "hidden": 32, "norm": "group"},
                {"kind": "small-cnn", "channels": [16, 16], "norm": "group"},
                {
                    "optimiser": {"learning_rate": 0.001},
                    "schedule": {"batch_size": 8},
                    "batches": "balanced",
                },
            ),
            Arm("HOG and logistic regression, whole breast", "breast", "gradients"),
            Arm("brightness and dense share, logistic regression", "breast", "brightness"),
            Arm("shares of training", "breast", "shares"),
        ),
        folds=5,
        seeds=5,
        primary="auroc",
        caution="13 women are few: the interval is the result, and no setting was tried on them. Where a fold has more "
        "abnormal films, training has fewer, so that who says the shares of training alone has an AUROC below 0.5 once "
        "folds are pooled; pairs within a woman are free of that.",
        pairs=True,
    ),
}
