"""Lines of classifiers on made pictures: who is tested, what is kept, what is refused, and that a shortcut is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dicom_io import cohort as cohorts
from dicom_io import shortcuts
from dicom_io.cohort import Item
from dicom_io.errors import Rejected
from models import training
from samples.experiments import classifiers
from samples.experiments.classifier_baselines import BASELINES
from samples.experiments.classifier_folds import dealt, fold_of
from samples.experiments.classifier_lines import LINES, PROFILES, recipe_of
from samples.experiments.classifier_pictures import BREAST_PX, body, breast_of, squeezed

TUMOURS = ("glioma_tumor", "meningioma_tumor", "pituitary_tumor")


def head(seed: int, kind: int, sides: tuple[int, int]) -> np.ndarray:
    """An ellipse with noise that is its own in a black frame; a blob of a size and place by kind, 0 has none."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: sides[0], : sides[1]]
    down, across = rows / sides[0] * 2 - 1, columns / sides[1] * 2 - 1
    inside = (down / 0.8) ** 2 + (across / 0.7) ** 2 < 1
    texture = np.asarray(Image.fromarray(rng.normal(90, 30, (12, 11))).resize(sides[::-1], Image.Resampling.BICUBIC))
    place = ((-0.4, -0.3), (0.0, 0.35), (0.4, 0.0))[kind - 1]
    blob = np.exp(-((down - place[0]) ** 2 + (across - place[1]) ** 2) / 0.02) if kind else 0.0
    return np.clip(np.where(inside, texture + 120 * blob, 0), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def brains(tmp_path_factory) -> Path:
    """48 heads in four classes; those without a tumour are smaller files. One glioma lies there twice."""
    folder = tmp_path_factory.mktemp("brains")
    for number in range(48):
        kind = number % 4
        path = folder / ("Testing" if number % 12 < 4 else "Training") / ("no_tumor", *TUMOURS)[kind] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        sides = (96, 80 + number % 3) if kind == 0 else (128, 128)
        Image.fromarray(head(number, kind, sides)).save(path, quality=90)
    again = Image.open(folder / "Training" / "glioma_tumor" / "5.jpg")
    again.save(folder / "Training" / "glioma_tumor" / "again.jpg", quality=60)
    return folder


def film(seed: int, mirrored: bool, spot: bool) -> np.ndarray:
    """A half ellipse at the right edge of a black frame, 1024 pixels, and a bright spot in it."""
    rows, columns = np.mgrid[:1024, :1024]
    down, across = (rows - 500) / 380, (columns - 820) / 420
    breast = (down**2 + across**2 < 1) & (columns < 820)
    picture = np.where(breast, 90 + 60 * (1 - down**2 - across**2), 0.0)
    picture += np.random.default_rng(seed).normal(0, 4, picture.shape) * breast
    if spot:
        picture[(rows - 450) ** 2 + (columns - 650) ** 2 < 60**2] = 240
    picture[20:80, 40:160] = 200  # a label, which is no breast
    return np.clip(picture[:, ::-1] if mirrored else picture, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    """12 films of 6 women: in four of them one breast has a finding, in one both, in one none."""
    folder = tmp_path_factory.mktemp("films")
    lines = []
    for number in range(1, 13):
        woman, left = (number + 1) // 2, number % 2 == 1
        abnormal = woman == 1 or (woman < 6 and left)
        Image.fromarray(film(number, not left, abnormal)).save(folder / f"mdb{number:03d}.pgm")
        lines.append(f"mdb{number:03d} F {'CIRC B 650 574 60' if abnormal else 'NORM'}")
    (folder / "Info.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def finished(brains, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("line") / "classes-brain"
    classifiers.run("classes-brain", brains, out, "quick", lambda _: None)
    return out


def read(out: Path) -> dict[str, Any]:
    return json.loads((out / "figures.json").read_text())


# The whole line, in small.


def test_every_arm_tests_every_picture_once_and_has_every_figure(finished):
    figures = read(finished)
    assert [row["arm"] for row in figures["rows"]] == [arm.name for arm in LINES["classes-brain"].arms]
    assert (figures["pictures"], figures["patients"], figures["split_unit"]) == (49, 48, "near-duplicate group")
    assert figures["classes"] == {"no_tumor": 12, "glioma_tumor": 13, "meningioma_tumor": 12, "pituitary_tumor": 12}
    for row in figures["rows"]:
        assert {"macro_f1", "accuracy", "auroc", "ece", "sensitivity", "f1_3"} <= set(row["metrics"])
        assert np.shape(figures["tested"][row["arm"]]) == (1, 49, 4)
    assert figures["subset"]["pictures"] == 37
    report = (finished / "report.md").read_text()
    assert "3 folds by groups of near-duplicates (patients are not known: slices of one may lie in two folds)" in report
    assert "48 groups of near-duplicates among 49 pictures, 0 of them in both published halves" in report
    assert "95 % intervals by a bootstrap of 48 groups of near-duplicates" in report


def test_the_size_of_the_file_tells_no_tumour_and_nothing_of_which_tumour_it_is(finished):
    figures = read(finished)
    (whole,) = [row for row in figures["rows"] if row["arm"] == "file alone: width, height, colour mode"]
    (which,) = [row for row in figures["subset"]["rows"] if row["arm"] == whole["arm"]]
    assert whole["metrics"]["auroc"]["value"] == 1 and whole["metrics"]["f1_0"]["value"] == 1
    # One class of three for all: F1 of 0.5 and twice 0.
    assert which["metrics"]["macro_f1"]["value"] < 0.35
    measured = {
        view: {each["family"]: each for each in found["measured"]} for view, found in figures["shortcuts"].items()
    }
    assert measured["published"]["file"]["suspicious"] and "file" not in measured["hidden"]


def test_the_same_call_again_keeps_every_run_and_another_plan_is_refused(finished, brains, monkeypatch):
    outcomes = sorted(finished.glob("runs/*/outcome.json"))
    before = [path.stat().st_mtime_ns for path in outcomes]
    report = (finished / "report.md").read_text()
    classifiers.run("classes-brain", brains, finished, "quick", lambda _: None)
    assert len(outcomes) == 3 * len(LINES["classes-brain"].arms)
    assert [path.stat().st_mtime_ns for path in outcomes] == before
    assert (finished / "report.md").read_text() == report
    with pytest.raises(Rejected, match=r"holds a run of another plan: .*channels is \[4, 4, 8, 8\] there and \[24,"):
        classifiers.run("classes-brain", brains, finished, "full", lambda _: None)


def test_a_line_that_was_stopped_goes_on_to_the_same_figures_and_repeats_no_training(films, tmp_path, monkeypatch):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    classifiers.run("classes-mammo", films, whole, "quick", lambda _: None)
    train, trained = training.train, []

    def stopped(*arguments, **named):
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(1)
        train(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(training, "train", stopped)
        with pytest.raises(KeyboardInterrupt):
            classifiers.run("classes-mammo", films, cut, "quick", lambda _: None)
    monkeypatch.setattr(training, "train", lambda *a, **n: (trained.append(1), train(*a, **n)))
    classifiers.run("classes-mammo", films, cut, "quick", lambda _: None)
    assert len(trained) == 3
    assert read(cut)["tested"] == read(whole)["tested"]
    figures = read(cut)
    assert (figures["pictures"], figures["patients"], figures["split_unit"]) == (12, 6, "patient")
    assert [row["patients"] for row in figures["pairs"]] == [4] * 4
    by_arm = {row["arm"]: row for row in figures["pairs"]}
    # Shares of training are the same for both breasts: no pair is told apart.
    assert by_arm["shares of training"]["told_apart"] == 0
    report = (cut / "report.md").read_text()
    assert "With 4 pairs nothing can be told from chance, not even if all are right." in report
    assert "13 women are few" in report


# Who is tested.


def items(patients: dict[str, list[int]]) -> list[Item]:
    return [
        Item((f"images/{patient}_{number}.nii.gz",), patient, label=label)
        for patient, labels in patients.items()
        for number, label in enumerate(labels)
    ]


def test_patients_are_dealt_whole_kind_by_kind_and_anew_by_each_name():
    women = {f"P{number}": [0, 0] if number < 5 else [0, 1] for number in range(13)}
    deals = [dealt(items(women), 4, f"toy, seed {seed}") for seed in range(2)]
    assert deals[0] != deals[1] and deals[0] == dealt(items(women)[::-1], 4, "toy, seed 0")
    for deal in deals:
        assert set(deal) == set(women)
        for kind in (range(5), range(5, 13)):
            counts = np.bincount([deal[f"P{number}"] for number in kind], minlength=4)
            assert counts.max() - counts.min() <= 1


def test_no_patient_stands_in_two_splits_and_each_is_tested_in_one_fold(finished):
    view = cohorts.load(finished / "hidden")
    tested = []
    for fold in range(3):
        # Loading refuses a group in two splits.
        cohort = cohorts.load(finished / "folds" / f"hidden-seed0-fold{fold}")
        owners = [{item.patient for item in cohort.splits[split]} for split in cohorts.SPLITS]
        assert len(set.union(*owners)) == sum(map(len, owners)) == 48
        tested += [item.patient for item in cohort.test]
    assert sorted(tested) == sorted(item.patient for item in view.training)
    # The pictures lie in the view alone.
    assert not list((finished / "folds").rglob("*.nii.gz"))
    first = cohort.test[0]
    assert np.array_equal(
        cohorts.load_image(cohort, first).pixels,
        next(
            cohorts.load_image(view, item).pixels
            for item in view.training
            if Path(item.images[0]).name == Path(first.images[0]).name
        ),
    )


def test_views_deal_the_same_groups_to_the_same_folds(finished):
    for fold in range(3):
        one, other = (cohorts.load(finished / "folds" / f"{view}-seed0-fold{fold}") for view in ("hidden", "published"))
        assert [item.patient for item in one.test] == [item.patient for item in other.test]


# What is seen.


def test_the_body_is_the_same_however_wide_its_margins_and_however_bright_it_is():
    picture = head(3, 2, (200, 160)).astype(np.float32)
    wide = np.pad(picture, ((30, 5), (60, 20))) * 0.5
    assert np.abs(body(picture) - body(wide)).mean() < 1.5
    assert np.abs(squeezed(picture) - squeezed(wide)).mean() > 15
    assert (body(picture).min(), body(picture).max()) == (0, 255)


def test_hiding_leaves_no_border_that_tells(finished):
    found = {view: shortcuts.report(cohorts.load(finished / view)) for view in ("published", "hidden")}
    assert all("size" in report.not_measured for report in found.values())
    assert "file" in found["hidden"].not_measured


def test_a_breast_is_turned_to_one_side_and_its_label_left_out():
    left, right = (breast_of(film(4, mirrored, True).astype(np.float32)) for mirrored in (False, True))
    assert left[0].shape == BREAST_PX
    np.testing.assert_allclose(left[0], right[0], atol=2)
    # The chest wall is to the left, the nipple's side to the right.
    contact = [(left[0][:, column] > 0).sum() for column in (1, -2)]
    assert contact[0] > 2 * contact[1]
    assert left[1]["area"] == pytest.approx(np.pi / 2 * 380 * 420 / 1024**2, rel=0.03)


# Baselines.


def test_baselines_choose_on_validation_and_never_look_at_the_test_labels(finished, tmp_path):
    view = cohorts.load(finished / "published")
    cohort = fold_of(view, dealt(view.training, 3, "another"), 1, finished / "folds" / "another")
    swapped = cohort.splits | {
        "test": tuple(Item(**{**vars(item), "label": (item.label + 1) % 4}) for item in cohort.test)
    }
    other = cohorts.Cohort(**{**vars(cohort), "splits": swapped})
    for name in ("shares", "size", "file", "gradients"):
        one, two = BASELINES[name](cohort), BASELINES[name](other)
        np.testing.assert_array_equal(one.test, two.test)
        np.testing.assert_allclose(one.test.sum(1), 1)
        assert one.test.shape == (len(cohort.test), 4)


@pytest.mark.parametrize("name", LINES)
@pytest.mark.parametrize("profile", PROFILES)
def test_networks_keep_their_last_state_and_differ_by_seed_alone(name, profile):
    for arm in LINES[name].arms:
        if not arm.baseline:
            recipe, again = (recipe_of(LINES[name], arm, seed, profile) for seed in (0, 2))
            assert again.seed == 2 and again.model_copy(update={"seed": 0}) == recipe
            assert recipe.schedule.report_images == recipe.schedule.total_images
            assert recipe.schedule.precision == "float32" and recipe.schedule.patience_reports is None


def test_the_full_profiles_have_three_seeds_or_more():
    assert all(line.seeds >= 3 and line.budget_cpu_minutes <= 30 for line in LINES.values())
