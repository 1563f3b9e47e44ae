"""Frechet distance against closed forms; precision, recall, density, coverage against counting and planted faults."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch

from models.evaluation import fidelity, frechet, neighbours
from models.evaluation.features import RandomFeatures
from models.evaluation.subsets import evenly, halvings
from models.reports import figures
from models.reports.parts import markdown


def normal(count: int, mean: list[float], root: np.ndarray, seed: int) -> torch.Tensor:
    """(count, d) draws of N(mean, root root^T)."""
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(count, len(mean))) @ root.T + mean)


# Frechet distance.

ROOT_A = np.array([[2.0, 0.0, 0.0], [0.7, 1.0, 0.0], [-0.3, 0.4, 0.5]])
ROOT_B = np.array([[1.0, 0.0, 0.0], [-0.9, 1.5, 0.0], [0.2, 0.1, 0.25]])


def test_the_distance_of_two_samples_nears_that_of_the_two_gaussians():
    a, b = ROOT_A @ ROOT_A.T, ROOT_B @ ROOT_B.T
    means = [1.0, -2.0, 0.5], [0.0, 0.5, 0.5]
    closed = np.sum(np.subtract(*means) ** 2) + np.trace(a + b - 2 * scipy.linalg.sqrtm(a @ b).real)
    found = frechet.distance(normal(60_000, means[0], ROOT_A, 1), normal(50_000, means[1], ROOT_B, 2), "full")
    assert found == pytest.approx(closed, rel=0.02)


def test_the_distance_is_what_scipy_makes_of_the_same_moments():
    x, y = normal(17, [0.0, 1.0, 2.0], ROOT_A, 3), normal(11, [1.0, 1.0, 0.0], ROOT_B, 4)
    a, b = np.cov(x.numpy(), rowvar=False), np.cov(y.numpy(), rowvar=False)
    apart = (x.mean(0) - y.mean(0)).square().sum().item()
    expected = apart + np.trace(a + b - 2 * scipy.linalg.sqrtm(a @ b).real)
    assert frechet.distance(x, y, "full") == pytest.approx(expected, rel=1e-9)
    assert frechet.distance(x, x, "full") == pytest.approx(0, abs=1e-9)


def test_the_diagonal_distance_is_the_sum_over_features_alone():
    x, y = normal(17, [0.0, 1.0, 2.0], ROOT_A, 3), normal(11, [1.0, 1.0, 0.0], ROOT_B, 4)
    alone = [frechet.distance(x[:, [column]], y[:, [column]], "full") for column in range(3)]
    assert frechet.distance(x, y, "diagonal") == pytest.approx(sum(alone))
    assert frechet.distance(x, y, "diagonal") != pytest.approx(frechet.distance(x, y, "full"), rel=0.05)


def test_a_full_covariance_needs_two_images_per_feature():
    assert [frechet.covariance_of(images, 5) for images in (9, 10)] == ["diagonal", "full"]
    with pytest.raises(ValueError, match="9 images are too few for a covariance of 5 features"):
        frechet.distance(torch.randn(30, 5), torch.randn(9, 5), "full")


def test_features_in_single_precision_are_counted_in_double():
    x, y = (normal(40, [3e4, -3e4, 0.0], root, 5) for root in (ROOT_A, ROOT_B))
    exact = frechet.distance(x.float().double(), y.float().double(), "full")
    assert frechet.distance(x.float(), y.float(), "full") == exact


def cohort(patients: int, each: int, seed: int) -> tuple[torch.Tensor, list[str]]:
    """Features (patients x each, 4): a patient has a mean of its own."""
    rng = np.random.default_rng(seed)
    rows = [rng.normal(rng.normal(0, 0.5, 4), 1, (each, 4)) for _ in range(patients)]
    return torch.from_numpy(np.concatenate(rows)), [
        f"{seed}-{number}" for number in range(patients) for _ in range(each)
    ]


def test_other_patients_lie_near_the_floor_and_a_shift_lies_above_it():
    (seen, owners), (unseen, others) = cohort(30, 7, 1), cohort(20, 5, 2)
    worse = {"shifted": unseen + 2}
    found = [
        frechet.evaluate(made, seen, unseen, [*owners, *others], worse, draws=100)
        for made in (cohort(40, 4, 3)[0], cohort(40, 4, 3)[0] + 1.5)
    ]
    assert found[0]["covariance"] == "full" and found[0]["usable"]
    # As many as there are held-out images, or in the smaller half: 25 of 50 patients, of 5 to 7 images.
    assert found[0]["images_each"] == 100
    assert found[0]["ratio"] < 3 < 10 < found[1]["ratio"]
    assert found[1]["to_held_out"] == pytest.approx(4 * 1.5**2, rel=0.4)


def test_a_space_whose_controls_lie_on_the_floor_has_no_ratio():
    (seen, owners), (unseen, others) = cohort(30, 7, 1), cohort(20, 5, 2)
    found = frechet.evaluate(seen + 9, seen, unseen, [*owners, *others], {"the same": unseen}, draws=50)
    assert not found["usable"] and found["ratio"] is None


def test_one_patient_gives_no_floor_and_no_ratio():
    seen, unseen = cohort(1, 7, 1)[0], cohort(1, 5, 2)[0]
    found = frechet.evaluate(seen, seen, unseen, ["p"] * 12, {"far": unseen + 9}, draws=50)
    assert found["floor"]["value"] is None and found["ratio"] is None


# Neighbours.


def test_the_four_figures_are_those_of_counting():
    rng = np.random.default_rng(6)
    real, made = rng.normal(0, 1, (13, 2)), rng.normal(0.8, 1.3, (9, 2))
    apart = lambda a, b: float(np.linalg.norm(a - b))  # noqa: E731
    ball = lambda own, i: sorted(apart(own[i], other) for other in own)[2]  # noqa: E731
    inside = [[apart(x, real[i]) <= ball(real, i) for i in range(13)] for x in made]
    covered = [any(apart(x, made[i]) <= ball(made, i) for i in range(9)) for x in real]
    tensors = torch.from_numpy(real), torch.from_numpy(made)
    assert neighbours.precision(*tensors, k=2) == pytest.approx(np.mean([any(row) for row in inside]))
    assert neighbours.recall(*tensors, k=2) == pytest.approx(np.mean(covered))
    assert neighbours.density(*tensors, k=2) == pytest.approx(np.sum(inside) / (2 * 9))
    assert neighbours.coverage(*tensors, k=2) == pytest.approx(np.mean(np.any(inside, axis=0)))


def test_a_collapsed_generator_is_precise_and_recalls_little_and_a_broad_one_the_reverse():
    source = torch.Generator().manual_seed(7)
    seen, unseen, made = (torch.randn(400, 3, generator=source).double() for _ in range(3))
    collapsed, broad = (neighbours.evaluate(made * width, seen, unseen)["samples"] for width in (0.1, 4.0))
    assert collapsed["precision"] > 0.95 and collapsed["recall"] < 0.1 and collapsed["coverage"] < 0.2
    assert broad["precision"] < 0.5 and broad["recall"] > 0.9 and broad["density"] < 0.5
    honest = neighbours.evaluate(made, seen, unseen)
    for name in neighbours.FIGURES:
        assert honest["samples"][name] == pytest.approx(honest["training"][name], abs=0.12), name
        assert honest["samples"][name] > 0.85, name


def test_both_sides_have_the_same_number_of_images():
    found = neighbours.evaluate(torch.randn(50, 2), torch.randn(30, 2), torch.randn(20, 2))
    assert (found["k"], found["images_each"]) == (5, 20)


def test_too_few_images_for_five_neighbours_have_no_figures():
    few = neighbours.evaluate(torch.randn(50, 2), torch.randn(30, 2), torch.randn(5, 2))
    assert set(few["samples"].values()) == set(few["training"].values()) == {None}
    assert (
        None not in neighbours.evaluate(torch.randn(50, 2), torch.randn(30, 2), torch.randn(6, 2))["samples"].values()
    )


# Which images.


def test_halves_share_no_patient_and_hold_every_image():
    patients = ["a", "b", "a", "c", "c", "c", "d", "e"]
    found = list(halvings(patients, 20))
    assert len({tuple(a.tolist()) for a, _ in found}) > 3
    for a, b in found:
        assert not {patients[i] for i in a} & {patients[i] for i in b}
        assert sorted([*a.tolist(), *b.tolist()]) == list(range(8))


def test_thinning_takes_both_ends_and_even_steps():
    assert evenly(9, 3).tolist() == [0, 4, 8] and evenly(2, 5).tolist() == [0, 1]


# The report.


def colour(count: int, seed: int) -> tuple[torch.Tensor, list[str]]:
    """Pictures (count, 2, 16, 24): a brightness of its own for each and for each channel, and fine texture."""
    source = torch.Generator().manual_seed(seed)
    brightness = torch.rand(count, 2, 1, 1, generator=source) - 0.5
    images = brightness + 0.1 * torch.randn(count, 2, 16, 24, generator=source)
    return images, [f"{seed}-{number // 3}" for number in range(count)]


def test_images_of_two_channels_are_measured_in_a_space_that_takes_them():
    def moments(images: torch.Tensor) -> torch.Tensor:
        return torch.cat([images.mean((2, 3)), images.std((2, 3))], 1).double()

    space = fidelity.evaluate(colour(90, 3)[0], colour(120, 1), colour(90, 2), [moments], draws=40)["spaces"][
        "features"
    ]
    assert space["frechet"]["covariance"] == "full" and space["frechet"]["images_each"] == 90
    assert space["frechet"]["ratio"] < 2 and space["ratio"] < 2
    assert space["neighbours"]["samples"]["precision"] > 0.7


def test_the_card_shows_the_figures_and_reads_evaluations_from_before_there_were_any():
    images, owners = colour(60, 1)
    report = {
        "task": "generation",
        "trained_on_this_cohort": True,
        "samples": 60,
        "seed": 1,
        "fidelity": fidelity.evaluate(
            images[:, :1], (images[:, :1], owners), (colour(60, 2)[0][:, :1], owners), [RandomFeatures()], draws=20
        ),
        "privacy": {"spaces": {}},
    }
    text = "\n".join(markdown(figures.parts(report)))
    found = report["fidelity"]["spaces"][RandomFeatures.name]
    assert f"| {RandomFeatures.name} | {found['frechet']['to_held_out']:.3f} |" in text and "| diagonal | 60 |" in text
    assert f"| samples | {found['neighbours']['samples']['precision']:.2f} |" in text
    del found["frechet"], found["neighbours"]
    old = "\n".join(markdown(figures.parts(report)))
    assert "KID to held-out" in old and "FD" not in old and "precision" not in old
