"""Figures against closed forms and other libraries; audits against planted faults."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from scipy import ndimage
from sklearn import metrics as sklearn_metrics

from models.evaluate import verdict
from models.evaluation import bootstrap, classification, fidelity, label_shares, privacy, segmentation
from models.evaluation.features import ContentFeatures, EncodedFeatures, RandomFeatures

RNG = np.random.default_rng(11)
ONE = np.ones((1, 1))


# Bootstrap.


def test_the_interval_of_a_mean_covers_the_closed_form():
    values = np.random.default_rng(0).normal(3, 2, 400)
    found = bootstrap.mean_interval(values, 4000)
    half = 1.96 * values.std() / 20
    assert found.value == pytest.approx(values.mean())
    assert [found.low, found.high] == pytest.approx([values.mean() - half, values.mean() + half], abs=0.02)


def test_intervals_cover_the_truth_as_often_as_they_claim():
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        found = bootstrap.mean_interval(rng.normal(0, 1, 40), 400)
        hits += found.low <= 0 <= found.high
    assert 0.89 <= hits / 200 <= 0.99


def test_slices_that_repeat_their_patient_make_the_interval_wider_not_narrower():
    p = np.random.default_rng(2).random(30)
    y = p + np.random.default_rng(3).normal(0, 0.4, 30) > 0.5

    def brier(p, y):
        return lambda w: {"brier": w @ ((p - y) ** 2) / w.sum(1)}

    alone = bootstrap.intervals(brier(p, y), [f"p{n}" for n in range(30)], 1000)["brier"]
    repeated = bootstrap.intervals(brier(p.repeat(50), y.repeat(50)), np.repeat(np.arange(30).astype(str), 50), 1000)
    assert repeated["brier"] == pytest.approx((alone.value, alone.low, alone.high)) or (
        [repeated["brier"].low, repeated["brier"].high] == pytest.approx([alone.low, alone.high])
    )


def test_a_paired_difference_is_tighter_than_two_intervals():
    hard = np.random.default_rng(4).normal(0, 1, 20)
    found = bootstrap.difference(hard + 0.2, hard + 0.1, 1000)
    assert [found.value, found.low, found.high] == pytest.approx([0.1, 0.1, 0.1])


def test_undefined_values_are_left_out_and_told():
    assert bootstrap.mean_interval([1.0, np.nan, 3.0], 500).value == 2.0
    nothing = bootstrap.mean_interval([np.nan, np.nan], 500)
    assert dict(nothing.as_json()) == {"value": None, "low": None, "high": None}


# Masks that are made.


def test_of_labels_the_share_of_pictures_and_their_size_are_told_beside_the_reals():
    made, real = torch.full((4, 2, 5, 3), -1.0), torch.full((5, 2, 5, 3), -1.0)
    made[1, 0, :2, 0], made[2, 0, :4, 2], made[3, 0] = 0.1, 1.0, -0.01
    real[:2, 1, 0, :] = 0.5
    real[0, 0, 0, 0] = 0.6
    found = label_shares.evaluate(made, real, ["lesion", "organ"])
    assert found == {
        "lesion": {"samples": {"share": 0.5, "pixels": 3.0}, "real": {"share": 0.2, "pixels": 1.0}},
        "organ": {"samples": {"share": 0.0, "pixels": None}, "real": {"share": 0.4, "pixels": 2.5}},
    }
    volumes = torch.full((2, 1, 3, 4, 5), -1.0)
    volumes[1, 0, 2, 1:3, 4] = 1.0
    assert label_shares.frequency(volumes) == [0.5]


# Classification.


@pytest.fixture(scope="module")
def ranked() -> tuple[np.ndarray, np.ndarray]:
    """Probabilities with ties, and truths that follow them loosely."""
    p = np.round(RNG.random(300), 2)
    return p, RNG.random(300) < p


def test_figures_agree_with_scikit_learn(ranked):
    p, y = ranked
    ours = {name: float(value[0]) for name, value in classification.metrics(p, y, 0.4, np.ones((1, 300))).items()}
    called = p >= 0.4
    assert ours["auroc"] == pytest.approx(sklearn_metrics.roc_auc_score(y, p))
    assert ours["average_precision"] == pytest.approx(sklearn_metrics.average_precision_score(y, p))
    assert ours["brier"] == pytest.approx(sklearn_metrics.brier_score_loss(y, p))
    assert ours["sensitivity"] == pytest.approx(sklearn_metrics.recall_score(y, called))
    assert ours["specificity"] == pytest.approx(sklearn_metrics.recall_score(~y, ~called))
    assert ours["precision"] == pytest.approx(sklearn_metrics.precision_score(y, called))
    assert ours["f1"] == pytest.approx(sklearn_metrics.f1_score(y, called))
    assert ours["macro_f1"] == pytest.approx(sklearn_metrics.f1_score(y, called, average="macro"))
    assert ours["accuracy"] == pytest.approx(sklearn_metrics.f1_score(y, called, average="micro"))
    assert ours["balanced_accuracy"] == pytest.approx(sklearn_metrics.balanced_accuracy_score(y, called))


def test_a_weight_of_two_is_the_image_twice(ranked):
    p, y = ranked
    weights = RNG.integers(0, 4, 300).astype(float)
    copies = np.repeat(np.arange(300), weights.astype(int))
    weighted = classification.metrics(p, y, 0.4, weights[None])
    copied = classification.metrics(p[copies], y[copies], 0.4, np.ones((1, len(copies))))
    for name in weighted:
        assert weighted[name][0] == pytest.approx(copied[name][0]), name


def test_calibration_error_of_honest_and_of_boastful_probabilities():
    p = np.random.default_rng(5).random(20_000)
    y = np.random.default_rng(6).random(20_000) < p
    one = np.ones((1, 20_000))
    assert classification.expected_calibration_error(p, y, one)[0] < 0.02
    boast = p**3 / (p**3 + (1 - p) ** 3)
    assert classification.expected_calibration_error(boast, y, one)[0] > 0.08


def test_every_figure_of_a_report_follows_from_its_one_confusion_matrix(ranked):
    p, y = ranked
    patients = [f"p{n // 10}" for n in range(300)]
    report = classification.evaluate(
        np.stack([1 - p, p], 1), y.astype(np.int64), patients, threshold=0.4, prevalence=0.3, draws=200
    )
    tp, fp, fn, tn = (report["confusion"][name] for name in ("tp", "fp", "fn", "tn"))
    assert tp + fp + fn + tn == 300
    assert report["metrics"]["sensitivity"]["value"] == pytest.approx(tp / (tp + fn), abs=1e-5)
    assert report["metrics"]["accuracy"]["value"] == pytest.approx((tp + tn) / 300, abs=1e-5)
    assert sum(line["tp"] for line in report["per_patient"]) == tp
    assert report["baseline"]["metrics"]["auroc"]["value"] == 0.5
    assert report["beats_baseline"]


def test_guessing_does_not_beat_the_prevalence():
    p, y = np.random.default_rng(7).random(200), np.random.default_rng(8).random(200) < 0.3
    report = classification.evaluate(
        np.stack([1 - p, p], 1), y.astype(np.int64), [str(n // 20) for n in range(200)],
        threshold=0.5, prevalence=0.3, draws=500,
    )  # fmt: skip
    assert not report["beats_baseline"]


def test_three_classes_get_a_table_too():
    probabilities = np.eye(3)[[0, 1, 2, 2]] * 0.8 + 0.2 / 3
    report = classification.evaluate(
        probabilities, np.array([0, 1, 2, 1]), ["a", "b", "c", "d"], threshold=0.5, prevalence=0.5, draws=100
    )
    assert report["confusion_by_class"] == [[1, 0, 0], [0, 1, 1], [0, 0, 1]]


# Segmentation.


@pytest.fixture(scope="module")
def masks() -> tuple[np.ndarray, np.ndarray]:
    s, r, c = np.mgrid[:9, :30, :22]
    truth = ((s - 4) / 3) ** 2 + ((r - 14) / 9) ** 2 + ((c - 9) / 5) ** 2 < 1
    return ndimage.shift(truth.astype(float), (1, 2, -1), order=0) > 0.5, truth


def test_the_surface_distance_agrees_with_monai(masks):
    spacing = (3.3, 2.1, 1.7)
    tensors = [torch.from_numpy(mask)[None, None] for mask in masks]
    theirs = compute_hausdorff_distance(*tensors, include_background=True, percentile=95, spacing=spacing)
    assert segmentation.surfaces(*masks, spacing)["h95_mm"] == pytest.approx(float(theirs), abs=0.5)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("spacing", [(3.3, 2.1, 1.7), (0.9, 1.1, 2.4), (5.0, 0.7, 0.6)])
def test_the_surface_dice_is_that_of_monai(masks, spacing):
    tensors = [torch.from_numpy(mask)[None, None] for mask in masks]
    for tolerance in (1.0, 2.0, 3.5):
        theirs = compute_surface_dice(*tensors, [tolerance], include_background=True, spacing=spacing)
        found = segmentation.surfaces(*masks, spacing, tolerance)["surface_dice"]
        assert found == pytest.approx(float(theirs), abs=1e-6) and found > 0.1, tolerance


def test_surfaces_within_the_tolerance_are_one_and_beyond_it_are_two(masks):
    _, truth = masks
    moved = np.roll(truth, 1, axis=2)
    assert segmentation.surfaces(moved, truth, (9.0, 9.0, 2.0))["surface_dice"] == 1.0
    assert segmentation.surfaces(moved, truth, (9.0, 9.0, 2.1))["surface_dice"] < 1.0
    empty = np.zeros_like(truth)
    assert segmentation.surfaces(empty, truth, (1, 1, 1))["surface_dice"] == 0.0
    assert np.isnan(segmentation.surfaces(empty, empty, (1, 1, 1))["surface_dice"])


def test_a_shift_by_one_slice_is_one_step_far(masks):
    _, truth = masks
    moved = np.roll(truth, 1, axis=0)
    assert segmentation.surfaces(moved, truth, (3.3, 0.5, 0.5))["h95_mm"] == pytest.approx(3.3, abs=0.5)
    assert np.isnan(segmentation.surfaces(np.zeros_like(truth), truth, (1, 1, 1))["h95_mm"])


def test_figures_of_a_mask_half_as_large():
    truth = np.zeros((4, 10, 6), bool)
    truth[1:3] = True
    ours = np.zeros_like(truth)
    ours[1] = True
    found = segmentation.figures(segmentation.Pair("p", ours, truth, (5.0, 2.0, 1.0)))
    assert found["dice"] == pytest.approx(2 / 3)
    assert found["sensitivity"] == 0.5
    assert found["precision"] == 1.0
    assert found["volume_error"] == -0.5
    assert found["volume_ml"] == pytest.approx(60 * 10 / 1000)


def test_two_empty_masks_agree():
    empty = np.zeros((2, 3, 4), bool)
    assert segmentation.dice(empty, empty) == 1.0


def test_the_rule_of_brightness_finds_channel_side_and_value(masks):
    _, truth = masks
    noise = np.random.default_rng(9).normal(0, 0.3, (2, *truth.shape))
    image = (noise + np.stack([np.zeros(truth.shape), -3.0 * truth])).astype(np.float32)
    rule = segmentation.brightness_rule([image], [truth])
    assert (rule.channel, rule.above) == (1, False)
    assert segmentation.dice(rule.mask(image), truth) > 0.95


def test_a_segmenter_is_compared_with_each_baseline_in_pairs(masks):
    ours, truth = masks
    pairs = [segmentation.Pair(f"p{n}", ours, truth, (1, 1, 1)) for n in range(6)]
    worse = [segmentation.Pair(f"p{n}", np.ones_like(truth), truth, (1, 1, 1)) for n in range(6)]
    report = segmentation.evaluate(pairs, {"all": worse}, threshold=0.5, draws=200)
    assert report["beats_baseline"] and report["difference"]["all"]["low"] > 0.3
    assert not segmentation.evaluate(worse, {"all": pairs}, threshold=0.5, draws=200)["beats_baseline"]


# Fidelity and privacy.


def pictures(patients: int, seed: int, each: int = 12) -> tuple[torch.Tensor, list[str]]:
    """Slices of 32 px with a patient's own blob, moving from slice to slice, and fine texture."""
    rng = np.random.default_rng(seed)
    r, c = np.mgrid[:32, :32]
    images, owners = [], []
    for patient in range(patients):
        row, column, size, lift = rng.uniform(9, 22), rng.uniform(9, 22), rng.uniform(3, 8), rng.uniform(0.8, 1.6)
        for _ in range(each):
            row, column = row + rng.normal(0, 0.7), column + rng.normal(0, 0.7)
            blob = lift * np.exp(-((r - row) ** 2 + (c - column) ** 2) / (2 * size**2))
            texture = ndimage.gaussian_filter(rng.normal(0, 1, (32, 32)), 0.8) * 0.25
            images.append(np.clip(blob + texture - 0.9, -1, 1))
            owners.append(f"{seed}-{patient}")
    return torch.from_numpy(np.array(images, np.float32))[:, None], owners


@pytest.fixture(scope="module")
def training():
    return pictures(24, 1)


@pytest.fixture(scope="module")
def held_out():
    return pictures(40, 2, each=6)


@pytest.fixture(scope="module")
def encoded(training):
    return EncodedFeatures(training[0], steps=120)


def test_kid_is_the_mean_over_distinct_pairs():
    x, y = torch.randn(5, 3).double(), torch.randn(4, 3).double() + 1
    kernel = lambda a, b: (float(a @ b) / 3 + 1) ** 3  # noqa: E731
    within = lambda z: np.mean([kernel(z[i], z[j]) for i in range(len(z)) for j in range(len(z)) if i != j])  # noqa: E731
    across = np.mean([kernel(a, b) for a in x for b in y])
    assert fidelity.kid(x, y) == pytest.approx(within(x) + within(y) - 2 * across)


def test_kid_of_two_samples_of_one_distribution_is_about_zero():
    rng = torch.Generator().manual_seed(0)
    values = [fidelity.kid(*torch.randn(2, 80, 8, generator=rng).double()) for _ in range(60)]
    assert abs(np.mean(values)) < 3 * np.std(values) / 60**0.5


def test_real_lies_on_the_floor_and_blurred_real_above_it(training, held_out, encoded):
    real, _ = pictures(20, 3)
    spaces = [RandomFeatures(), encoded]
    report = fidelity.evaluate(real, training, held_out, spaces, draws=100)
    blurred = fidelity.evaluate(fidelity.blurred(real), training, held_out, spaces, draws=100)
    for name in report["spaces"]:
        assert report["spaces"][name]["kid_to_held_out"]["value"] < 2 * report["spaces"][name]["floor"]["high"], name
    random = RandomFeatures.name
    assert blurred["spaces"][random]["ratio"] > 3 * max(report["spaces"][random]["ratio"], 1)
    assert report["spaces"][random]["usable"]


def test_a_space_that_takes_blurred_for_real_has_no_ratio(training, held_out):
    def brightness(images):
        return images.mean(dim=(1, 2, 3), keepdim=True)[:, 0, 0].double()

    report = fidelity.evaluate(pictures(5, 3)[0], training, held_out, [brightness], draws=50)["spaces"]["features"]
    assert not report["usable"] and report["ratio"] is None


def test_the_floor_needs_two_patients():
    images, owners = pictures(1, 4)
    assert np.isnan(fidelity.real_floor(RandomFeatures()(images), owners, 10).value)


def test_features_are_the_same_every_time(training):
    assert torch.equal(RandomFeatures()(training[0][:9]), RandomFeatures()(training[0][:9]))
    torch.testing.assert_close(RandomFeatures()(training[0][:9])[4:5], RandomFeatures()(training[0][4:5]))


def test_a_generator_that_hands_out_copies_is_caught(training, held_out, encoded):
    honest, _ = pictures(100, 5, each=1)
    thief = torch.cat([honest[:80], torch.rot90(training[0][::15][:20], 2, (2, 3))])
    spaces = [privacy.small_pixels, encoded]
    caught = privacy.evaluate(thief, training[0], held_out, spaces, draws=200)
    innocent = privacy.evaluate(honest, training[0], held_out, spaces, draws=200)
    assert caught["spaces"]["small_pixels"]["copy_rate"]["value"] >= 0.19
    assert not caught["passed"]
    assert innocent["spaces"]["small_pixels"]["copy_rate"]["value"] <= 0.05


def test_planted_copies_are_found_and_held_out_patients_are_not(training, held_out):
    report = privacy.evaluate(pictures(10, 6)[0], training[0], held_out, [privacy.small_pixels], draws=100)
    space = report["spaces"]["small_pixels"]
    assert space["planted_recall"] >= 0.95
    assert space["held_out_flagged"] <= 0.05
    assert space["controls_hold"]


def test_a_space_that_cannot_find_planted_copies_passes_nothing(training, held_out):
    blind = lambda images: torch.randn(len(images), 4, generator=torch.Generator().manual_seed(len(images))).double()  # noqa: E731
    report = privacy.evaluate(pictures(10, 6)[0], training[0], held_out, [blind], draws=100)
    assert not report["passed"]


# The verdict.


def report_of(**changes: object) -> dict:
    return {
        "task": "segmentation",
        "split_unit": "patient",
        "synthetic_test_images": 0,
        "patients": 12,
        "beats_baseline": True,
    } | changes


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "proven"),
        ({"split_unit": "none"}, "teaching"),
        ({"split_unit": "slide", "task": "generation"}, "teaching"),
        ({"task": "generation"}, "unproven"),
        ({"synthetic_test_images": 1}, "unproven"),
        ({"patients": 4}, "unproven"),
        ({"beats_baseline": False}, "unproven"),
    ],
)
def test_only_evidence_on_real_separate_patients_proves(changes, state):
    found, reason = verdict(report_of(**changes))
    assert found == state
    assert len(reason) > 20


def test_copies_in_other_grey_levels_are_found_by_their_content():
    """Of an autoencoder that sees grey levels, such copies lie farther off than many held-out images do."""
    source = torch.Generator().manual_seed(7)
    coarse = torch.rand(160, 1, 4, 4, generator=source)
    images = torch.nn.functional.interpolate(coarse, (16, 16), mode="bilinear") * 1.6 - 0.8
    training, unseen = images[:120], images[120:]
    features = ContentFeatures(training)
    copies = training[:40] * 0.6 - 0.2
    torch.testing.assert_close(features(copies), features(training[:40]), atol=1e-3, rtol=0)
    report = privacy.evaluate(copies, training, (unseen, [f"p{n}" for n in range(40)]), [features], draws=100)
    found = report["spaces"]["autoencoder without brightness and contrast"]
    assert found["copy_rate"]["value"] == 1.0 and found["planted_recall"] >= 0.95 and found["controls_hold"]
