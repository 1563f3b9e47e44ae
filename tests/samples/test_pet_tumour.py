"""The sarcoma experiment: who trains and who is held out, and what is counted of a held-out patient."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from dicom_io.errors import Rejected
from dicom_io.volume import Volume
from models import recipe as recipes
from models.predictor import Classified, Segmented
from samples.experiments import pet_tumour
from samples.experiments.pet_report import MASKS, SCORES, Outcome
from samples.importers import pet_sarcoma

# A smallest crop of these data has 27 pixels along a side.
SMALLEST_CROP_PX = 27


@pytest.fixture
def source(tmp_path) -> Path:
    """Folders of 23 patients as far as the split looks at them."""
    for number in range(23):
        home = tmp_path / "data" / f"STS_{number:03d}"
        (home / "PET").mkdir(parents=True)
        (home / "PET_mask.nii.gz").touch()
    (tmp_path / "data" / "no-mask" / "PET").mkdir(parents=True)
    return tmp_path / "data"


@pytest.fixture
def folds(monkeypatch) -> list[dict[str, str]]:
    """The split of each fold that was run, instead of running it."""
    seen: list[dict[str, str]] = []

    def fold(source, out, key, number, splits, plan, say):
        seen.append(dict(splits))
        return [
            Outcome(
                patient,
                number,
                dict.fromkeys(MASKS, 0.5),
                dict.fromkeys(MASKS, 0.4),
                dict.fromkeys(SCORES, 0.7),
                *([0.6 + 0.01 * number] * plan.seeds for _ in range(5)),
            )
            for patient, split in splits.items()
            if split == "test"
        ]

    monkeypatch.setattr(pet_tumour, "_fold", fold)
    return seen


def test_in_the_full_profile_each_patient_is_held_out_once_and_never_trains_the_model_it_meets(source, folds, tmp_path):
    report = pet_tumour.run(source, tmp_path / "out", "full", lambda _: None)
    assert len(folds) == 5
    held_out = Counter(patient for splits in folds for patient, split in splits.items() if split == "test")
    assert len(held_out) == 20 and set(held_out.values()) == {1}
    for splits in folds:
        assert Counter(splits.values()) == {"training": 13, "test": 4, "validation": 3}
        assert set(splits) == set(held_out)
    # Different patients choose the checkpoint in different folds.
    assert len({frozenset(p for p, split in splits.items() if split == "validation") for splits in folds}) == 5
    figures = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert {each["patient"] for each in figures["held_out"]} == set(held_out)
    assert figures["dice"]["model"]["value"] == pytest.approx(0.62)
    assert report == tmp_path / "out" / "report.md"
    assert "20 held-out patients" in report.read_text()


def test_the_quick_profile_holds_one_of_six_out(source, folds, tmp_path):
    pet_tumour.run(source, tmp_path / "out", "quick", lambda _: None)
    (splits,) = folds
    assert Counter(splits.values()) == {"training": 4, "test": 1, "validation": 1}


@pytest.mark.parametrize("profile", ["full", "quick"])
def test_the_released_models_have_not_seen_the_patients_that_are_said_to_be_held_out(profile, source, folds, tmp_path):
    pet_tumour.run(source, tmp_path / "out", profile, lambda _: None)
    new = {patient for patient, split in folds[0].items() if split == "test"}
    assert set(pet_tumour.held_out_patients(source, profile)) == new


def test_folders_without_a_mask_are_no_patients(source):
    assert pet_sarcoma.patients_in(source) == [f"STS_{number:03d}" for number in range(23)]


def test_a_second_run_into_the_same_folder_is_refused(source, folds, tmp_path):
    (tmp_path / "out" / "cohorts").mkdir(parents=True)
    with pytest.raises(Rejected, match="holds an earlier run; give another --out"):
        pet_tumour.run(source, tmp_path / "out", "quick", lambda _: None)
    assert folds == []


# What is counted


class Says:
    """A model that gives what it is told to."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def predict(self, volume: Volume) -> object:
        return self.answer


def hand_made() -> tuple[Volume, np.ndarray]:
    """A crop of 8 x 3 x 2 voxels, hot in 3 slices; the truth is 2 of these slices and one cold one."""
    suv = np.full((8, 3, 2), 0.5, np.float32)
    suv[2:5, 1] = [6.0, 3.0]
    truth = np.zeros(suv.shape, bool)
    truth[3:6, 1, 0] = True
    affine = np.diag([3.0, 2.0, 1.5, 1.0])
    return Volume(suv, affine, "2.25.7", "g/ml{SUVbw}"), truth


def judged(probabilities: list[float], threshold: float) -> Classified:
    rows = np.array([[1 - p, p] for p in probabilities], np.float32)
    return Classified(("background", "tumour"), rows, threshold)


def test_a_held_out_patient_is_counted_by_the_formulas():
    suv, truth = hand_made()
    half = truth.copy()
    half[5] = False
    masks = [Segmented(suv.with_voxels(mask.astype(np.float32)), suv, 0.5) for mask in (truth, half)]
    answers = [judged([0.1, 0.2, 0.6, 0.9, 0.8, 0.7, 0.3, 0.2], 0.5), judged([0.5] * 8, 0.4)]
    outcome = pet_tumour._outcome("STS_000", 3, suv, truth, [Says(mask) for mask in masks], [Says(a) for a in answers])
    assert (outcome.patient, outcome.fold) == ("STS_000", 3)
    # 2 * 2 / (2 + 3), and 2 of 3 voxels.
    assert outcome.model_dice == pytest.approx((1.0, 0.8))
    assert outcome.model_sensitivity == pytest.approx((1.0, 2 / 3))
    # 6 voxels of 2.5 and more, 2 of them true: 2 * 2 / (6 + 3); 41 % of 6 are 2.46, the same voxels.
    fixed, share, box, ellipsoid = (outcome.dice[name] for name in MASKS)
    assert (fixed, share, box, ellipsoid) == pytest.approx((4 / 9, 4 / 9, 0, 0))
    assert [outcome.sensitivity[name] for name in MASKS] == pytest.approx([2 / 3, 2 / 3, 0, 0])
    # Of 15 pairs: 3 and 4 beat four slices and tie with 2; 5 ties with those four and loses to 2.
    assert outcome.slice_auroc["SUVmax of the slice"] == pytest.approx((2 * (4 + 0.5) + 4 * 0.5) / 15)
    assert outcome.model_slice_auroc == pytest.approx((1.0, 0.5))
    assert outcome.model_slice_sensitivity == pytest.approx((1.0, 1.0))
    assert outcome.model_slice_specificity == pytest.approx((0.8, 0.0))


def test_a_share_of_nothing_is_undefined():
    nothing = np.zeros(3, bool)
    assert np.isnan(pet_tumour._share(~nothing, nothing))


# What hides the place


@pytest.mark.parametrize("name", ["pet_tumour_segmenter", "pet_tumour_slices"])
def test_the_recipes_show_windows_smaller_than_any_crop_and_never_a_place(name):
    recipe = recipes.load(Path(pet_tumour.__file__).parent / f"{name}.yaml")
    assert recipe.windows.window_px < SMALLEST_CROP_PX
    assert getattr(recipe.windows, "border_share", 0.0) == 0.0
    # Absolute SUV: nothing is scaled by the image, which would show how large the crop's lesion is.
    assert [step["_target_"] for step in recipe.preprocessing] == ["ScaleIntensityRanged"]


def test_no_real_crop_is_smaller_than_was_thought(test_data):
    import pydicom

    sides = [
        side
        for home in sorted((test_data / "pet-suv-sarcoma").glob("STS_*"))
        for header in [pydicom.dcmread(next((home / "PET").glob("*.dcm")), stop_before_pixels=True)]
        for side in (header.Rows, header.Columns)
    ]
    assert min(sides) >= SMALLEST_CROP_PX
