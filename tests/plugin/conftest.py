"""Model versions released from toy studies, once a session; the cohorts come from DICOM, as an importer's would."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import oblique_studies as toy
import pytest
from pydicom import Dataset

from dicom_io import cohort as cohorts
from dicom_io import series
from dicom_io.cohort import Channel, Cohort, Item
from dicom_io.pseudonym import hidden_projection, hidden_volume

KEY = b"a key that only these tests know"
T1, FLAIR = Channel("T1", "MR", "1", "T1"), Channel("FLAIR", "MR", "1", "FLAIR")
PET = Channel("PET", "PT", "g/ml{SUVbw}")
VIEW = Channel("view", "MG", "1")
SPLIT = {"training": range(1, 7), "validation": range(7, 9), "test": range(9, 12)}
SCHEDULE = {"batch_size": 8, "warm_up_images": 16, "precision": "float32"}


@dataclass(frozen=True)
class Released:
    """shelf: folder of all models. folder: of this version. cohort: what it was trained on."""

    shelf: Path
    folder: Path
    cohort: Cohort

    @property
    def address(self) -> str:
        return f"{self.folder.parent.name}:{self.folder.name}"


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def _release(
    shelf: Path, cohort: Cohort, name: str, recipe_name: str, schedule: dict[str, Any], **fields: Any
) -> Released:
    import torch

    from models import bundle, recipe, training

    torch.set_num_threads(1)
    plain = recipe.load(recipe_name).model_dump(mode="json")
    plain["schedule"] |= SCHEDULE | schedule
    plain["evaluation"] = {"bootstrap_draws": 200}
    for key, value in fields.items():
        plain[key] = plain[key] | value if key == "windows" else value
    if recipe_name in ("segmenter", "classifier"):
        plain["network"] = plain["network"] | {
            "channels": [8, 16, 32] if recipe_name == "segmenter" else [8, 16, 16, 16]
        }
    run = cohort.folder / f"run-{name}"
    training.train(recipe.parse(plain, name), cohort, run, device="cpu")
    version = bundle.release(run, cohort, name, models_dir=shelf, engine="torch")
    return Released(shelf, version.folder, cohort)


def _cohort(
    folder: Path,
    task: cohorts.Task,
    channels: tuple[Channel, ...],
    study: Callable[[int], list[Dataset]],
    item: Callable[[Path, series.Readout, int], list[Item]],
) -> Cohort:
    """Patients' studies are written and read as DICOM."""
    splits = {
        split: tuple(
            each
            for seed in seeds
            for each in item(folder, series.volumes(toy.write(folder / "dicom" / str(seed), study(seed))), seed)
        )
        for split, seeds in SPLIT.items()
    }
    labels = () if task == "generation" else ("background", "lesion")
    cohorts.save(Cohort(folder, f"toy-{task}", task, labels, channels, splits))
    return cohorts.load(folder)


def _head(folder: Path, readout: series.Readout, seed: int) -> list[Item]:
    volumes = {found.contrast: hidden_volume(KEY, found.volume) for found in readout.volumes}
    flair = volumes["FLAIR"]
    mask = flair.with_voxels(toy.blob(seed) & (toy.body(seed)[0] > 0))
    channels = {"T1": volumes["T1"], "FLAIR": flair}
    return [cohorts.add_volume(folder, f"p{seed}", channels, f"p{seed}", mask=mask)]


def _pet(folder: Path, readout: series.Readout, seed: int) -> list[Item]:
    (found,) = readout.volumes
    volume, labels = hidden_volume(KEY, found.volume), toy.blob(seed).any(axis=(1, 2)).astype(int).tolist()
    return [cohorts.add_volume(folder, f"p{seed}", {"PET": volume}, f"p{seed}", slice_labels=labels)]


def _views(folder: Path, readout: series.Readout, seed: int) -> list[Item]:
    return [
        cohorts.add_projection(
            folder,
            f"p{seed}-{found.projection.laterality}{found.projection.view}",
            hidden_projection(KEY, found.projection),
            f"p{seed}",
            channel="view",
            label=int(found.projection.laterality == "L"),
        )
        for found in readout.projections
    ]


@pytest.fixture(scope="session")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """T1, FLAIR and the mask of the blob."""
    return _cohort(
        tmp_path_factory.mktemp("heads"),
        "segmentation",
        (T1, FLAIR),
        lambda seed: [*toy.mr("T1", seed), *toy.mr("FLAIR", seed)],
        _head,
    )


@pytest.fixture(scope="session")
def head_segmenter(shelf: Path, heads: Cohort) -> Released:
    """toy-lesions:1, T1 and FLAIR -> mask."""
    schedule = {"total_images": 960, "report_images": 480}
    return _release(shelf, heads, "toy-lesions", "segmenter", schedule, windows={"window_px": 24})


@pytest.fixture(scope="session", params=["segmenter-3d", "dynunet-segmenter-3d"])
def head_boxes(request: pytest.FixtureRequest, heads: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Released:
    """T1 and FLAIR -> mask, in boxes: by a U-Net, and by a dynunet."""
    network: dict[str, Any] = {"kind": "unet", "channels": [8, 16, 16], "norm": "batch"}
    if request.param.startswith("dynunet"):
        network = {"kind": "dynunet", "base_features": 6, "norm": "batch"}
    windows = {"window_px": 16, "window_slices": 4, "foreground_share": 0.6}
    schedule = {"total_images": 400, "report_images": 200, "batch_size": 4}
    folder = tmp_path_factory.mktemp("boxes")
    return _release(folder, heads, request.param, request.param, schedule, network=network, windows=windows)


# Stored values of the toy heads reach about 1000.
_HEADS: dict[str, Any] = {"preprocessing": [], "pixel_range": [0, 1200], "audit_samples": 32, "augmentation": {}}
_BRIEF = {"total_images": 64, "report_images": 64}


@pytest.fixture(scope="session")
def head_translator(shelf: Path, heads: Cohort) -> Released:
    """toy-flair:1, T1 -> FLAIR."""
    network = {"kind": "translator", "window_px": 16, "channels": [8, 16]}
    critic = {"features": 8, "layers": 1, "scales": 1}
    return _release(shelf, heads, "toy-flair", "translator", _BRIEF, network=network, critic=critic, **_HEADS)


@pytest.fixture(scope="session")
def head_refiner(shelf: Path, heads: Cohort) -> Released:
    """toy-finer:1, T1 with pixels of half the width."""
    network = {"kind": "translator", "window_px": 16, "channels": [8, 16], "norm": "none"}
    return _release(shelf, heads, "toy-finer", "super-resolution", _BRIEF, network=network, **_HEADS)


@pytest.fixture(scope="session")
def head_painter(shelf: Path, heads: Cohort) -> Released:
    """toy-painter:1, mask -> FLAIR."""
    network = {"kind": "spade", "image_px": 16, "features": 8, "hidden": 8, "latent": 4}
    critic = {"features": 8, "layers": 1, "scales": 1}
    return _release(shelf, heads, "toy-painter", "mask-to-image", _BRIEF, network=network, critic=critic, **_HEADS)


@pytest.fixture(scope="session")
def head_drawer(shelf: Path, heads: Cohort) -> Released:
    """toy-drawer:1, noise -> FLAIR and mask."""
    network = {"image_px": 16, "features": 16, "latent": 16}
    return _release(
        shelf, heads, "toy-drawer", "generator", _BRIEF, network=network, channels=["FLAIR"], mask=True, **_HEADS
    )


@pytest.fixture(scope="session")
def slice_classifier(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> Released:
    """toy-slices:1, PET -> a lesion in each slice."""
    cohort = _cohort(tmp_path_factory.mktemp("pets"), "classification", (PET,), toy.pet, _pet)
    steps = [
        {"_target_": "ScaleIntensityRanged", "a_min": 0, "a_max": 10, "b_min": 0, "b_max": 1, "clip": True},
        {"_target_": "ResizeWithPadOrCropd", "spatial_size": [-1, 36, 28]},
    ]
    schedule = {"total_images": 320, "report_images": 160}
    return _release(shelf, cohort, "toy-slices", "classifier", schedule, preprocessing=steps)


@pytest.fixture(scope="session")
def view_classifier(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> Released:
    """toy-views:1, mammogram -> a lesion; in training the left breasts have one."""
    cohort = _cohort(tmp_path_factory.mktemp("breasts"), "classification", (VIEW,), views, _views)
    steps = [
        {"_target_": "ScaleIntensityRanged", "a_min": 0, "a_max": 2000, "b_min": 0, "b_max": 1, "clip": True},
        {"_target_": "Resized", "spatial_size": [40, 24], "mode": "area"},
    ]
    schedule = {"total_images": 160, "report_images": 80}
    return _release(shelf, cohort, "toy-views", "classifier", schedule, preprocessing=steps)


def views(seed: int) -> list[Dataset]:
    """Both breasts from above; the left one is ill."""
    return [toy.mammogram(seed, side, "CC", ill=side == "L") for side in "LR"]


@pytest.fixture(scope="session")
def slice_generator(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> Released:
    """toy-maker:1, noise -> a slice of PET."""
    cohort = _cohort(tmp_path_factory.mktemp("made"), "generation", (PET,), lambda seed: toy.pet(seed, ill=False), _pet)
    return _release(
        shelf,
        cohort,
        "toy-maker",
        "generator",
        {"total_images": 320, "report_images": 160},
        network={"image_px": 16, "features": 16, "latent": 16},
        audit_samples=64,
    )
