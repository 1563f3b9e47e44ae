"""Stability of the three loops: over-fitting on purpose, repeatability, odd inputs, windows, averages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.losses import DiceCELoss
from toy_images import COLUMNS, ROWS, SLICES, blob_volume

from dicom_io.cohort import Item
from dicom_io.errors import Rejected
from models import calibration, networks, recipe, training
from models.augmentation_recipe import Augmentation
from models.cases import Case
from models.classification_recipe import ResNet
from models.evaluation.classification import expected_calibration_error
from models.evaluation.fidelity import kid
from models.networks import classifier as classifiers
from models.networks import unet
from models.networks.generator import Discriminator, minibatch_deviation
from models.predictor_parts import Windows
from models.recipe_parts import Schedule
from models.segmentation_recipe import UNet
from models.training import average
from models.training.augmentation import augment, translate_and_cut
from models.training.randomness import start_step
from models.training.schedule import Clock
from models.training.windows import Slices
from models.version import read_weights


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fit(network: torch.nn.Module, loss_of, steps: int) -> float:
    """Loss after so many steps on one batch."""
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(steps):
        loss = loss_of(network)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return loss.item()


def test_a_classifier_learns_one_batch_by_heart():
    torch.manual_seed(0)
    network = networks.build(classifiers.definition(ResNet(channels=(8, 8, 16, 16)), 1, 3))
    images, labels = torch.randn(6, 1, 24, 18), torch.tensor([0, 1, 2, 2, 1, 0])
    assert fit(network, lambda net: torch.nn.functional.cross_entropy(net(images), labels), 60) < 0.02


def test_a_segmenter_learns_one_batch_by_heart():
    torch.manual_seed(0)
    network = networks.build(unet.definition(UNet(channels=(8, 16, 32)), 2, 2))
    images, masks = torch.randn(3, 2, 24, 16), torch.zeros(3, 1, 24, 16)
    masks[:, :, 5:14, 3:9] = 1
    images[:, 1] += 2 * masks[:, 0]
    loss = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False, batch=True)
    assert fit(network, lambda net: loss(net(images), masks), 120) < 0.08


@pytest.mark.parametrize("norm", ["batch", "instance", "group"])
@pytest.mark.parametrize("full", [False, True])
def test_constant_images_and_empty_masks_keep_the_loss_finite(norm, full):
    torch.manual_seed(0)
    network = networks.build(unet.definition(UNet(channels=(8, 16, 32), norm=norm), 1, 2))
    loss_of = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False, batch=True)
    images, masks = torch.full((2, 1, 24, 16), 3.0), torch.full((2, 1, 24, 16), float(full))
    assert np.isfinite(fit(network, lambda net: loss_of(net(images), masks), 20))
    assert all(torch.isfinite(parameter).all() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("name", "task"), [("segmenter", "segmentation"), ("classifier", "classification"), ("generator", "generation")]
)
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(name, task, make_cohort, small_recipe, tmp_path):
    cohort = make_cohort(task, (2, 1, 1))
    chosen = small_recipe(name, total_images=32, report_images=32)
    weights = []
    for run, seed in (("a", 3), ("b", 3), ("c", 4)):
        training.train(chosen.model_copy(update={"seed": seed}), cohort, tmp_path / run, device="cpu")
        weights.append(read_weights(tmp_path / run / "models" / "model.pt"))
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert any(not torch.equal(weights[0][key], weights[2][key]) for key in weights[0])


def test_the_running_average_follows_the_closed_form_and_copies_norm_statistics():
    fast = torch.nn.BatchNorm1d(2)
    slow = average.start(fast)
    with torch.no_grad():
        fast.weight.fill_(5.0)
        fast.running_mean.fill_(7.0)
    average.follow(slow, fast, images_seen=10**9, batch=100, half_life_images=100)
    torch.testing.assert_close(slow.weight, torch.full((2,), 3.0))  # one half-life: half way from 1 to 5
    torch.testing.assert_close(slow.running_mean, torch.full((2,), 7.0))


def test_the_average_forgets_its_random_start():
    fast, slow = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    average.follow(slow, fast, images_seen=16, batch=16, half_life_images=10**6)
    torch.testing.assert_close(slow.weight, fast.weight, atol=1e-4, rtol=0)


def test_the_learning_rate_warms_up_and_ends_at_a_hundredth():
    clock = Clock(Schedule(total_images=1000, warm_up_images=99), None)
    assert clock.learning_rate(0, 1.0) == pytest.approx(0.01, rel=1e-3)
    assert clock.learning_rate(99, 1.0) > 0.95
    assert clock.learning_rate(1000, 1.0) == pytest.approx(0.01)


def test_the_learning_rate_stays_where_the_recipe_wants_no_decay():
    clock = Clock(Schedule(total_images=1000, warm_up_images=99, decay="none"), None)
    assert clock.learning_rate(0, 1.0) == pytest.approx(0.01, rel=1e-3)
    assert clock.learning_rate(99, 1.0) == clock.learning_rate(1000, 1.0) == 1.0


def test_the_learning_rate_falls_by_the_power_of_what_is_left_where_the_recipe_says_poly():
    clock = Clock(Schedule(total_images=1000, warm_up_images=0, decay="poly"), None)
    assert [clock.learning_rate(seen, 2.0) for seen in (0, 500, 1000)] == pytest.approx([2.0, 2 * 0.5**0.9, 0.0])


def test_a_budget_in_minutes_ends_the_training_and_still_leaves_a_model(make_cohort, small_recipe, tmp_path):
    cohort = make_cohort("classification", (2, 1, 1))
    seen = []
    endless = small_recipe("classifier", total_images=10**9, report_images=10**8)
    training.train(endless, cohort, tmp_path / "run", minutes=0.01, progress=seen.append, device="cpu")
    assert seen[-1]["kind"] == "done"
    assert (tmp_path / "run" / "models" / "model.pt").is_file()


def test_recipe_and_cohort_must_be_of_one_task(make_cohort, tmp_path):
    with pytest.raises(Rejected, match=r"for segmentation.*for classification"):
        training.train(recipe.load("segmenter"), make_cohort("classification", (1, 1, 1)), tmp_path / "run")


def test_a_cohort_without_validation_is_refused(make_cohort, small_recipe, tmp_path):
    with pytest.raises(Rejected, match="no validation images"):
        training.train(small_recipe("segmenter"), make_cohort("segmentation", (2, 0, 1)), tmp_path / "run")


@pytest.mark.parametrize("device", ["tpu", *([] if torch.cuda.is_available() else ["cuda"])])
def test_a_device_that_is_not_there_is_named(device, make_cohort, small_recipe, tmp_path):
    with pytest.raises(Rejected, match=f"device '{device}' is not there"):
        training.train(small_recipe("segmenter"), make_cohort("segmentation", (1, 1, 1)), tmp_path / "r", device=device)


def test_a_run_folder_is_not_overwritten_unless_resumed_and_only_by_its_own_recipe(segmentation_run, small_recipe):
    run, cohort, _ = segmentation_run
    with pytest.raises(Rejected, match="--resume"):
        training.train(small_recipe("segmenter"), cohort, run, device="cpu")
    with pytest.raises(Rejected, match="another recipe or cohort"):
        training.train(small_recipe("segmenter", total_images=48), cohort, run, resume=True, device="cpu")


def test_few_patients_for_a_generator_bring_a_warning(make_cohort, small_recipe, tmp_path):
    seen = []
    chosen = small_recipe("generator", total_images=16, report_images=16)
    training.train(chosen, make_cohort("generation", (2, 1, 1)), tmp_path / "run", progress=seen.append, device="cpu")
    assert next(event["message"] for event in seen if event["kind"] == "warning").startswith("2 training patients")


# Windows: what the segmenter is shown.


def toy_case(rows: int = ROWS, columns: int = COLUMNS) -> Case:
    """Every pixel tells its own row and column; one foreground pixel per slice."""
    volume, _ = blob_volume(1)
    place = (
        torch.arange(1, rows * columns + 1, dtype=torch.float32).reshape(1, 1, rows, columns).repeat(1, SLICES, 1, 1)
    )
    mask = torch.zeros(SLICES, rows, columns, dtype=torch.uint8)
    mask[:, rows // 3, columns // 4] = 1
    return Case(Item(("x",), "p"), volume, place, None, mask, (1.0, 1.0, 1.0))


def test_a_foreground_window_holds_foreground_anywhere_in_it():
    slices = Slices([toy_case()])
    _, masks = slices.windows(Windows(window_px=16, foreground_share=1.0), 200, draw())
    assert (masks.flatten(1).sum(1) == 1).all()
    places = {tuple(place[1:].tolist()) for place in torch.nonzero(masks)}
    assert len(places) > 60


def test_windows_inside_a_larger_slice_show_no_edge_and_cover_all_of_it():
    slices = Slices([toy_case()])
    images, _ = slices.windows(Windows(window_px=16, foreground_share=0.0), 3000, draw())
    assert (images > 0).all()
    assert {1.0, float(ROWS * COLUMNS)} <= set(images.flatten().tolist())


def test_a_small_slice_lies_anywhere_in_its_window_with_zeros_around():
    slices = Slices([toy_case(rows=10, columns=7)])
    images, masks = slices.windows(Windows(window_px=16, foreground_share=0.0), 100, draw())
    assert ((images > 0).flatten(1).sum(1) == 70).all()
    assert (masks.flatten(1).sum(1) == 1).all()
    first = torch.nonzero(images[:, 0] == 1)[:, 1:]
    assert len({tuple(place.tolist()) for place in first}) > 20


def test_a_blanked_border_blanks_the_mask_with_it():
    slices = Slices([toy_case()])
    images, masks = slices.windows(Windows(window_px=16, foreground_share=1.0, border_share=1.0), 100, draw())
    assert ((images == 0).flatten(1).any(1)).all()
    assert (masks[images[:, 0] == 0] == 0).all()
    assert 0 < masks.sum() < 100


# Augmentation.


def test_nothing_asked_for_changes_nothing():
    images = torch.randn(3, 2, 9, 13)
    same, _ = augment(images, None, Augmentation(), draw())
    assert torch.equal(same, images)


def test_a_mask_moves_with_its_image():
    mask = torch.zeros(8, 40, 28, dtype=torch.long)
    mask[:, 12:22, 6:17] = 1
    settings = Augmentation(flip_rows=True, flip_columns=True, rotation_degrees=40, scale=0.2, translation=0.1)
    moved, moved_mask = augment(mask[:, None].float(), mask, settings, draw(5))
    agree = ((moved[:, 0] > 0.5) == (moved_mask > 0)).float().mean()
    assert agree > 0.99
    assert not torch.equal(moved_mask, mask)


def test_a_rotation_of_a_lopsided_image_keeps_shapes_and_sizes():
    image = torch.zeros(20, 1, 60, 40)
    image[:, :, 25:35, 15:25] = 1
    turned, _ = augment(image, None, Augmentation(rotation_degrees=90), draw(1))
    torch.testing.assert_close(turned.flatten(1).sum(1), image.flatten(1).sum(1), rtol=0.02, atol=0)


def test_diffaugment_shifts_by_whole_pixels_cuts_and_lets_gradients_through():
    images = torch.rand(16, 1, 32, 32, requires_grad=True)
    shifted = translate_and_cut(images, 0.125, 0.0, draw())
    kept = shifted[shifted != -1]
    assert torch.isin(kept, images).all()
    cut = translate_and_cut(images, 0.0, 0.5, draw())
    assert (cut == -1).flatten(1).any(1).all()
    cut.sum().backward()
    assert images.grad is not None and 0 < images.grad.sum() < images.numel()


def test_a_step_draws_the_same_whenever_it_is_taken():
    first = torch.rand(3, generator=start_step(7, 12)), torch.rand(3)
    start_step(7, 13)
    again = torch.rand(3, generator=start_step(7, 12)), torch.rand(3)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])


# Adversarial parts.


def test_minibatch_deviation_sees_a_collapsed_batch():
    collapsed = torch.ones(8, 3, 4, 4)
    assert float(minibatch_deviation(collapsed).max()) < 1e-3
    assert float(minibatch_deviation(torch.randn(8, 3, 4, 4)).min()) > 0.3


def test_a_critic_gradient_reaches_every_weight():
    torch.manual_seed(0)
    critic = Discriminator(32, 16)
    critic(torch.randn(8, 1, 32, 32)).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in critic.parameters())


def test_a_gan_comes_nearer_to_its_training_images(generation_run):
    run, _, _ = generation_run
    lines = (run / "metrics.csv").read_text().splitlines()
    assert lines[0] == "images_seen,loss,critic_loss,validation_kid,spread"
    assert len(lines) == 3
    assert kid(torch.eye(4).double(), torch.eye(4).double()) < 0  # unbiased: identical sets lie below 0


# Calibration.


def test_temperature_scaling_finds_the_temperature_that_made_the_logits():
    torch.manual_seed(0)
    honest = torch.randn(4000, 3) * 1.5
    labels = torch.multinomial(torch.softmax(honest, 1), 1)[:, 0]
    assert calibration.fit_temperature(honest * 2.5, labels) == pytest.approx(2.5, rel=0.1)


def test_scaling_by_the_temperature_makes_boastful_probabilities_honest_on_other_images():
    torch.manual_seed(1)
    honest = torch.randn(4000, 2) * 1.5
    labels = torch.multinomial(torch.softmax(honest, 1), 1)[:, 0]
    boastful, one = honest * 3, np.ones((1, 2000))
    temperature = calibration.fit_temperature(boastful[:2000], labels[:2000])

    def error(logits: torch.Tensor) -> float:
        p = torch.softmax(logits[2000:], 1)[:, 1].double().numpy()
        return float(expected_calibration_error(p, labels[2000:].numpy() > 0, one)[0])

    assert error(boastful) > 0.1
    assert error(boastful / temperature) < 0.04


def test_a_handful_of_separable_images_does_not_make_certainty():
    logits = torch.tensor([[4.0, -4.0], [-4.0, 4.0]])
    assert calibration.fit_temperature(logits, torch.tensor([0, 1])) > 0.3


def test_the_threshold_lies_between_the_two_kinds():
    threshold = calibration.youden_threshold(np.array([0.1, 0.2, 0.7, 0.9]), np.array([False, False, True, True]))
    assert 0.2 < threshold < 0.7
    assert calibration.youden_threshold(np.array([0.1, 0.2]), np.array([False, False])) == 0.5


def test_the_temperature_is_part_of_the_released_weights():
    torch.manual_seed(0)
    definition = classifiers.definition(ResNet(channels=(8, 8, 8, 8)), 1, 2)
    plain, scaled = networks.build(definition).eval(), networks.build(definition).eval()
    scaled.load_state_dict(classifiers.calibrated(plain, 2.5))
    images = torch.randn(3, 1, 24, 18)
    torch.testing.assert_close(scaled(images), plain(images) / 2.5)


def test_samples_of_a_run_are_marked_as_synthetic(generation_run):
    from PIL import Image

    with Image.open(Path(generation_run[0]) / "samples.png") as picture:
        picture.load()
        assert picture.text["Synthetic"] == "YES"
        assert np.asarray(picture)[:14].max() > 200  # the mark on its face
