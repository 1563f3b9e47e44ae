"""Alarms: what fails is seen and said, what is well is left alone."""

from __future__ import annotations

import math

import pytest
import torch

from dicom_io.errors import Rejected
from models.cases import Squares
from models.evaluation.fidelity import spread
from models.training.alarms import Alarms
from models.training.judge import Judge, Panel


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def discs(count: int, source: torch.Generator, bright: float | torch.Tensor = 0.4) -> torch.Tensor:
    """(count, 1, 32, 32) in [-1, 1]: discs of any place and size on noise."""
    row, column = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    place = 8 + 16 * torch.rand(count, 2, 1, 1, generator=source)
    radius = 3 + 5 * torch.rand(count, 1, 1, generator=source)
    inside = ((row - place[:, 0]) ** 2 + (column - place[:, 1]) ** 2).sqrt() < radius
    images = -0.8 + (bright + 0.8) * inside + 0.05 * torch.randn(count, 32, 32, generator=source)
    return images.clamp(-1, 1)[:, None]


def alarms(told: list[str] | None = None, **changes: object) -> Alarms:
    settings = {"stop": told is None, "names": ("thin", "thick"), "middle": 0.0, "contrast": 0.5} | changes
    return Alarms((told if told is not None else []).append, **settings)  # type: ignore[arg-type]


def report(watch: Alarms, *, fraction: float = 0.5, samples: torch.Tensor | None = None, **spreads: float) -> None:
    """One report with the spread of classes 0, 1 as `of_0`, `of_1`; -1, without classes, as `whole`."""
    numbers = {"of_0": 0, "of_1": 1, "whole": -1}
    watch.look(
        fraction,
        640,
        discs(32, draw()) if samples is None else samples,
        {numbers[name]: value for name, value in spreads.items()},
    )
    watch.sound()


def steps(watch: Alarms, real: float, fake: float, loss: float = 1.0) -> None:
    for _ in range(5):
        watch.step(loss, loss, torch.full((8,), real), torch.full((8,), fake), 8)


# The measure.


@pytest.fixture(scope="module")
def two_classes() -> Judge:
    """Class 0 holds dim discs, class 1 bright ones."""

    def squares(seed: int) -> Squares:
        images = torch.cat([discs(120, draw(seed), 0.0), discs(120, draw(seed + 1), 0.9)])
        labels = torch.tensor([0] * 120 + [1] * 120)
        return Squares(images, labels, tuple(f"p{n}" for n in range(240)))

    return Judge(squares(1), squares(11), [0, 1])


def test_a_healthy_generator_spreads_as_reals_do_and_a_collapsed_one_does_not(two_classes):
    healthy = torch.cat([discs(60, draw(5), 0.0), discs(60, draw(6), 0.9)])
    labels = torch.tensor([0] * 60 + [1] * 60)
    ratios = two_classes.spread(Panel(healthy, labels))
    assert ratios[0] == pytest.approx(1, abs=0.15) and ratios[1] == pytest.approx(1, abs=0.15)

    # Class 1 makes one disc over and over, with a little noise on it.
    same = discs(1, draw(7), 0.9) + 0.01 * torch.randn(60, 1, 32, 32, generator=draw(8))
    ratios = two_classes.spread(Panel(torch.cat([healthy[:60], same]), labels))
    assert ratios[0] == pytest.approx(1, abs=0.15)
    assert ratios[1] < 0.1


def test_the_spread_over_all_classes_would_not_have_shown_it(two_classes):
    """One picture for each class: the whole looks varied, each class is collapsed."""
    one_each = torch.cat([discs(1, draw(5), 0.0).repeat(60, 1, 1, 1), discs(1, draw(6), 0.9).repeat(60, 1, 1, 1)])
    labels = torch.tensor([0] * 60 + [1] * 60)
    assert max(two_classes.spread(Panel(one_each, labels)).values()) < 0.01
    features = two_classes._features
    reals = torch.cat([discs(120, draw(1), 0.0), discs(120, draw(2), 0.9)])
    assert spread(features(one_each), features(reals)) > 0.3


def test_the_distance_to_unseen_patients_is_that_within_classes(two_classes):
    labels = torch.tensor([0] * 60 + [1] * 60)
    right = torch.cat([discs(60, draw(5), 0.0), discs(60, draw(6), 0.9)])
    swapped = torch.cat([right[60:], right[:60]])
    assert abs(two_classes.kid(Panel(right, labels))) < 0.1 * two_classes.kid(Panel(swapped, labels))


def test_a_feature_that_unseen_patients_happen_to_share_does_not_rule_the_distance():
    """Training patients have discs of any brightness, the two unseen ones dim discs alone."""
    brightness = torch.rand(200, 1, 1, generator=draw(3)) * 1.6 - 0.7
    reals = Squares(discs(200, draw(4), brightness), None, ("p",) * 200)
    judge = Judge(reals, Squares(discs(40, draw(5), -0.7), None, ("q",) * 40), [])
    alike = Panel(discs(200, draw(6), brightness), None)
    assert judge.kid(alike) < 100
    assert judge.kid(alike) < judge.kid(Panel(torch.randn(200, 1, 32, 32, generator=draw(7)).clamp(-1, 1), None))


def test_the_spread_of_reals_that_are_all_alike_is_unknown():
    assert math.isnan(spread(torch.rand(5, 3), torch.ones(5, 3)))
    assert math.isnan(spread(torch.rand(5, 3), torch.rand(1, 3)))


def test_a_validation_that_nothing_can_be_compared_with_is_refused():
    reals = Squares(discs(8, draw()), torch.tensor([0, 1] * 4), ("p",) * 8)
    alone = Squares(discs(2, draw(1)), torch.tensor([0, 1]), ("q",) * 2)
    with pytest.raises(Rejected, match="no class has two validation slices"):
        Judge(reals, alone, [0, 1])
    with pytest.raises(Rejected, match="fewer than two slices"):
        Judge(reals, Squares(alone.images[:1], None, ("q",)), [])


def masked(shares: tuple[float, float], count: int, seed: int) -> torch.Tensor:
    """Discs with two planes of masks, each drawn on a share of the pictures, a pixel of it on the lower edge."""
    planes = torch.full((count, 2, 32, 32), -1.0)
    for number, share in enumerate(shares):
        planes[: round(share * count), number, 31, 4] = 0.2 + 0.1 * number
        planes[round(share * count) :, number, 31, 4] = -0.2
    return torch.cat([discs(count, draw(seed)), planes], 1)


def test_the_share_of_pictures_with_a_label_is_told_of_samples_and_of_reals():
    squares = [Squares(masked((0.5, 0.25), 40, seed), None, tuple("pq" * 20), 2) for seed in (1, 2)]
    judge = Judge(*squares, [])
    # A pixel has one label: the first is drawn where the second is not more.
    assert judge.labels(Panel(masked((1.0, 0.0), 20, 3), None)) == [(1.0, 0.25), (0.0, 0.25)]
    assert (
        Judge(*(Squares(each.images[:, :1], None, each.patients) for each in squares), []).labels(
            Panel(discs(20, draw(3)), None)
        )
        == []
    )


# The alarms.


def test_collapse_stops_at_the_third_report_in_a_row_and_names_the_class_and_a_way_out():
    watch = alarms()
    for _ in range(2):
        report(watch, of_0=0.9, of_1=0.05)
    with pytest.raises(Rejected, match=r"640 images.*samples of 'thick' keep 5% of the spread.*minibatch_deviation"):
        report(watch, of_0=0.9, of_1=0.05)


def test_a_report_that_is_well_starts_the_count_anew():
    watch = alarms()
    for value in (0.05, 0.05, 0.6, 0.05, 0.05):
        report(watch, whole=value)


def test_nothing_is_judged_in_the_first_quarter():
    watch = alarms()
    for _ in range(5):
        report(watch, fraction=0.2, whole=0.0)


def test_a_warning_is_given_once_where_the_recipe_wants_no_stop():
    told: list[str] = []
    watch = alarms(told)
    for _ in range(6):
        report(watch, whole=0.1)
    (sentence,) = told
    assert sentence.startswith("after 640 images") and "samples keep 10% of the spread" in sentence


def test_flat_samples_are_dead_and_flat_reals_are_none_to_compare_with():
    flat = torch.full((16, 1, 32, 32), -0.97)
    watch = alarms()
    for _ in range(2):
        report(watch, samples=flat)
    with pytest.raises(Rejected, match=r"samples are flat \(grey value -0\.97.*pixel_range"):
        report(watch, samples=flat)
    watch = alarms(contrast=0.0)
    for _ in range(4):
        report(watch, samples=flat)


def unmasked(watch: Alarms, made: float, real: float, count: int = 32) -> None:
    for _ in range(3):
        watch.look(0.5, 640, discs(count, draw()), {-1: 0.9}, labels={"lesion": (made, real), "organ": (1.0, 1.0)})
        watch.sound()


def test_a_label_that_samples_do_not_show_is_named_with_both_shares():
    with pytest.raises(Rejected, match=r"'lesion' is drawn on 3% of the samples and on 46% of the reals; .*image_px"):
        unmasked(alarms(), 0.03, 0.46)


@pytest.mark.parametrize(
    ("made", "real", "count"), [(0.1, 0.46, 32), (0.0, 0.1, 32), (0.0, 0.0, 64)], ids=["often", "rare", "never"]
)
def test_a_label_that_is_shown_often_enough_or_too_rare_to_be_missed_is_well(made, real, count):
    unmasked(alarms(), made, real, count)


@pytest.mark.parametrize(
    ("real", "fake", "said"),
    [
        (5.0, -5.0, r"critic is right on 100.0% of the reals and 100.0% of the fakes.*critic_learning_rate"),
        (5.0, 5.0, r"critic takes 100% of the fakes for real.*critic_steps"),
    ],
)
def test_a_dominated_network_is_named(real, fake, said):
    watch = alarms()
    for _ in range(2):
        steps(watch, real, fake)
        report(watch, whole=0.9)
    steps(watch, real, fake)
    with pytest.raises(Rejected, match=said):
        report(watch, whole=0.9)


def test_a_wasserstein_critic_is_not_asked_for_right_and_wrong():
    watch = alarms(middle=None)
    for _ in range(5):
        steps(watch, 5.0, -5.0)
        report(watch, whole=0.9)


def test_a_critic_that_errs_now_and_then_is_well():
    watch = alarms()
    for _ in range(5):
        for turn in range(20):
            watch.step(1.0, 1.0, torch.tensor([3.0] * 8), torch.tensor([1.0 if turn == 0 else -3.0] * 8), 8)
        report(watch, whole=0.9)


def test_losses_that_explode_stop_at_once_and_large_but_steady_ones_do_not():
    watch = alarms(middle=None)
    for loss in (-1200.0, 900.0, 1500.0, -2400.0, 3000.0):
        steps(watch, 0.0, 0.0, loss)
        report(watch, whole=0.9)
    steps(watch, 0.0, 0.0, 2e5)
    with pytest.raises(Rejected, match=r"losses are at 2e\+05.*gradient_penalty"):
        report(watch, whole=0.9)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_stops_whatever_the_recipe_says(value):
    with pytest.raises(Rejected, match="the loss is not finite"):
        alarms([]).step(1.0, value, torch.zeros(2), torch.zeros(2), 8)


def test_a_count_goes_on_from_a_checkpoint():
    watch = alarms()
    for _ in range(2):
        report(watch, whole=0.1)
    later = alarms()
    later.load_state_dict(watch.state_dict())
    with pytest.raises(Rejected, match="mode collapse"):
        report(later, whole=0.1)
