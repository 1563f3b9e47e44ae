"""The sarcoma experiment of volumes: the same patients and folds, and what is counted of a held-out one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dicom_io.errors import Rejected
from dicom_io.volume import Volume
from models import recipe as recipes
from models.predictor import Segmented
from models.segmentation_recipe import DynUNet
from samples.experiments import pet_tumour, pet_volumes
from samples.experiments.pet_report import MASKS
from samples.experiments.pet_volumes_report import COUNTED, Found, figures_of, report_of

# A smallest crop of these data has 47 slices, and 27 pixels along a side.
SMALLEST = (47, 27, 27)


@pytest.fixture
def source(tmp_path) -> Path:
    """Folders of 23 patients as far as the split looks at them."""
    for number in range(23):
        home = tmp_path / "data" / f"STS_{number:03d}"
        (home / "PET").mkdir(parents=True)
        (home / "PET_mask.nii.gz").touch()
    return tmp_path / "data"


def found(patient: str, fold: int, seeds: int) -> Found:
    """A patient whose figures are known: the first line is worse than the others by 0.1."""

    def figures(value: float) -> dict[str, float]:
        return dict.fromkeys(COUNTED, value) | {"h95_mm": float("nan")}

    value = 0.5 + 0.01 * fold
    lines = {line: [figures(value + 0.1 * bool(number))] * seeds for number, line in enumerate(pet_volumes.LINES)}
    return Found(patient, fold, {name: figures(0.4) for name in MASKS}, lines)


@pytest.fixture
def folds(monkeypatch) -> list[dict[str, str]]:
    """The split of each fold that was run, instead of running it."""
    seen: list[dict[str, str]] = []

    def fold(source, out, key, number, splits, plan):
        seen.append(dict(splits))
        return [found(patient, number, plan.seeds) for patient, split in splits.items() if split == "test"]

    monkeypatch.setattr(pet_volumes, "_fold", fold)
    return seen


def test_the_folds_are_those_of_the_experiment_of_slices(source, folds, tmp_path, monkeypatch):
    report = pet_volumes.run(source, tmp_path / "out", "full", lambda _: None)
    assert folds == [*pet_tumour.splits_of(source, 20, 5, 5)]
    held_out = [patient for splits in folds for patient, split in splits.items() if split == "test"]
    assert len(held_out) == len(set(held_out)) == 20
    figures = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert {each["patient"] for each in figures["held_out"]} == set(held_out)
    assert figures["figures"]["U-Net of slices"]["dice"]["value"] == pytest.approx(0.52)
    difference = figures["dice_difference"]["U-Net of volumes"]["U-Net of slices"]
    assert difference == {"value": 0.1, "low": 0.1, "high": 0.1}
    assert "| U-Net of slices | 0.520 (0." in report.read_text()
    assert "undefined" in report.read_text()
    # The same command goes on, another profile does not.
    assert pet_volumes.run(source, tmp_path / "out", "full", lambda _: None) == report
    with pytest.raises(Rejected, match="holds a run of another profile; give another --out"):
        pet_volumes.run(source, tmp_path / "out", "quick", lambda _: None)


class Says:
    """A model that gives what it is told to."""

    def __init__(self, suv: Volume, mask: np.ndarray) -> None:
        self._answer = Segmented(suv.with_voxels(mask.astype(np.float32)), suv, 0.5)

    def predict(self, volume: Volume) -> Segmented:
        return self._answer


def test_a_held_out_patient_is_counted_by_line_and_seed():
    suv = np.full((8, 6, 5), 0.5, np.float32)
    suv[2:4, 1:3, 1:3] = 6.0
    volume = Volume(suv, np.diag([3.0, 2.0, 1.5, 1.0]), "2.25.7", "g/ml{SUVbw}")
    truth = suv > 2.5
    truth[6, 4, 4] = True
    half = truth & (np.arange(8)[:, None, None] == 2)
    each = pet_volumes.found_in("STS_000", 1, volume, truth, {"a": [Says(volume, truth), Says(volume, half)]})
    assert [one["dice"] for one in each.lines["a"]] == pytest.approx([1.0, 8 / 13])
    assert [one["lesion_recall"] for one in each.lines["a"]] == [1.0, 0.5]
    assert each.mean("a", "sensitivity") == pytest.approx((1 + 4 / 9) / 2)
    assert each.rules["SUV of 2.5 and more"]["dice"] == pytest.approx(16 / 17)
    assert each.mean("SUV of 2.5 and more", "lesion_precision") == 1.0


def test_a_report_of_one_patient_has_a_row_for_every_method():
    plan = pet_volumes.PLANS["quick"]
    one = [found("STS_001", 0, plan.seeds)]
    text = report_of(figures_of(one, plan, [*pet_volumes.LINES]), one, plan, "quick", [*pet_volumes.LINES])
    for method in (*pet_volumes.LINES, *MASKS):
        assert sum(line.startswith(f"| {method} |") for line in text.splitlines()) == 2


@pytest.mark.parametrize("name", pet_volumes.LINES.values())
def test_the_recipes_show_windows_smaller_than_any_crop_and_never_a_place(name):
    recipe = recipes.load(Path(pet_volumes.__file__).parent / f"{name}.yaml")
    assert recipe.window is not None
    assert all(side < least for side, least in zip(recipe.window, SMALLEST[-len(recipe.window) :], strict=True))
    assert recipe.windows.border_share == 0.0
    # Absolute SUV: nothing is scaled by the image, in the chain or by a norm of single images.
    assert [step["_target_"] for step in recipe.preprocessing] == ["ScaleIntensityRanged"]
    assert recipe.network.norm == "batch"
    assert not isinstance(recipe.network, DynUNet) or recipe.network.deep_supervision
