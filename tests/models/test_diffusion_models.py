"""Diffusion: samplers against closed forms, preconditioning against its identities, a loop that resumes to the bit."""

from __future__ import annotations

import csv
import inspect
import itertools
import json
import math
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
import typer
from pydicom import dcmread
from stopping import Stop, stop_at
from torch import Tensor, nn
from typer.testing import CliRunner

from dicom_io import cohort as cohorts
from dicom_io import secondary_capture
from dicom_io.cohort import Cohort
from dicom_io.errors import Rejected
from dicom_io.volume import Projection, Source
from models import bundle, generator, networks, recipe, training
from models.generator import Generator, source_of
from models.networks.diffusion import Diffusion
from models.networks.samplers import SAMPLERS, levels
from models.recipe import Recipe
from models.training import diffusion
from models.training.batches import withheld
from models.version import read_weights
from plugin import pipeline
from plugin.cli import learning, results

PX = 16
LABELS = ("left", "right", "never seen")
ON = torch.device("cpu")


def small(**changes: Any) -> Recipe:
    """Of 16 px and 64 images, with a report at 32; keys of `changes` are merged into the recipe's parts."""
    plain = recipe.load("diffusion").model_dump(mode="json")
    plain["network"] |= {"image_px": PX, "channels": [8, 16], "residual_blocks": 1, "attention_levels": 0}
    plain["sampler"] |= {"steps": 6}
    plain |= {"minimum_signal": 0.0, "audit_samples": 32, "report_samples": 16, "conditional": True}
    plain["evaluation"] = {"bootstrap_draws": 100}
    plain["schedule"] |= {"total_images": 64, "report_images": 32, "batch_size": 8, "precision": "float32"}
    plain["schedule"] |= {"warm_up_images": 0}
    for key, value in changes.items():
        plain[key] = plain[key] | value if isinstance(plain[key], dict) else value
    return recipe.parse(plain, "small")


def made(**changes: Any) -> Diffusion:
    """A small network with its first weights: F is 0, and D the best denoiser of white Gaussian data."""
    arguments: dict[str, Any] = {
        "image_px": PX,
        "channels": [8, 16],
        "residual_blocks": 1,
        "attention_levels": 1,
        "dropout": 0.1,
        "classes": 0,
        "data_mean": 0.3,
        "sigma_data": 0.12,
        "sampler": "heun",
        "steps": 32,
        "guidance": 1.0,
        "sigma_least": 0.002,
        "sigma_most": 80.0,
        "rho": 7.0,
    }
    torch.manual_seed(5)
    built = networks.build({"_target_": "models.networks.diffusion.Diffusion"} | arguments | changes)
    assert isinstance(built, Diffusion)
    return built.eval()


def stirred(**changes: Any) -> Diffusion:
    """The same with random weights everywhere, so that class and level tell."""
    network = made(**changes)
    source = torch.Generator().manual_seed(3)
    for weight in network.parameters():
        weight.data += 0.1 * torch.randn(weight.shape, generator=source)
    return network


def spots_on(label: int, seed: int) -> np.ndarray:
    """(20, 16): a bright spot in the left or the right half of grey noise."""
    rng = np.random.default_rng(seed)
    row, column = np.mgrid[:20, :16]
    at = rng.uniform(5, 15), rng.uniform(2, 5) + 9 * label
    spot = np.exp(-((row - at[0]) ** 2 + (column - at[1]) ** 2) / 6)
    return (30 + 190 * spot + 5 * rng.standard_normal(spot.shape)).clip(0, 255).astype(np.float32)


def cohort_of(folder: Path, counts: tuple[int, int, int], picture: Callable[[int, int], np.ndarray]) -> Cohort:
    """Three lefts for each right, and a third label that no picture has."""
    splits: dict[str, tuple[cohorts.Item, ...]] = {}
    number = 0
    for split, count in zip(cohorts.SPLITS, counts, strict=True):
        items = []
        for _ in range(count):
            number += 1
            label = int(number % 4 == 0)
            source = Source("1.2.840.10008.5.1.4.1.1.7", f"2.25.{number}", f"{number:064x}")
            shown = Projection(picture(label, number), "1", source, (1.0, 1.0), "", "", "", "")
            items.append(cohorts.add_projection(folder, f"i{number}", shown, f"p{split}{number // 8}", label=label))
        splits[split] = tuple(items)
    channels = (cohorts.Channel("image", "OT", "1"),)
    cohorts.save(Cohort(folder, "sides", "classification", LABELS, channels, splits))
    return cohorts.load(folder)


@pytest.fixture(scope="session")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return cohort_of(tmp_path_factory.mktemp("sides"), (96, 32, 32), spots_on)


@pytest.fixture(scope="session")
def trained(sides: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run long enough to know left from right."""
    run = tmp_path_factory.mktemp("trained") / "run"
    chosen = small(
        name="sided",
        sampler={"guidance": 2.0, "kind": "dpm-solver++", "steps": 8},
        optimiser={"learning_rate": 5e-3},
        network={"channels": [12, 24]},
        schedule={"total_images": 2400, "report_images": 1200, "batch_size": 16, "ema_half_life_images": 200},
    )
    training.train(chosen, sides, run, device="cpu")
    return run


@pytest.fixture(scope="session")
def released(trained: Path, sides: Cohort) -> generator.Generator:
    return generator.load(bundle.release(trained, sides, "sided", models_dir=trained.parent / "models").folder)


def lines_of(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


# Samplers.


@pytest.mark.parametrize("kind", SAMPLERS)
def test_a_known_gaussian_is_recovered_by_the_whole_network(kind):
    """D of the first weights is exact for white N(0.3, 0.12^2) pixels; 32 pictures are 8,192 draws of one pixel."""
    pictures = made(sampler=kind, steps=40).make_many([source_of(1, index) for index in range(32)], None, ON)
    assert float(pictures.mean()) == pytest.approx(0.3, rel=0.05)
    assert float(pictures.var()) == pytest.approx(0.12**2, rel=0.05)


def gaussian(mean: Tensor, deviation: Tensor) -> Callable[[Tensor, float], Tensor]:
    """The exact denoiser of pixels of N(mean, deviation^2)."""
    return lambda image, sigma: mean + deviation**2 / (deviation**2 + sigma**2) * (image - mean)


@pytest.mark.parametrize("kind", SAMPLERS)
def test_more_steps_come_nearer_to_the_closed_form_by_the_second_order(kind):
    """The flow of a Gaussian is known: x(0) = mean + (x(T) - mean) s / sqrt(s^2 + T^2)."""
    mean, deviation = torch.tensor([-0.7, 0.1, 0.4]).double(), torch.tensor([0.9, 0.5, 0.2]).double()
    first = torch.tensor([95.0, -40.0, 61.0]).double()
    exact = mean + (first - mean) * deviation / (deviation**2 + 80**2).sqrt()
    errors = [
        (SAMPLERS[kind](gaussian(mean, deviation), first, levels(steps, 0.002, 80, 7)) - exact).abs().max()
        for steps in (32, 64, 128)
    ]
    assert errors[0] < 0.05 * (exact - mean).abs().max()
    for coarse, fine in itertools.pairwise(errors):
        assert float(coarse / fine) == pytest.approx(4, rel=0.15)


def test_eighteen_steps_spread_a_gaussian_by_a_few_per_cent_too_much():
    """What the default costs, as docs say: deviation 5.6 % (Heun) and 6.2 % (DPM-Solver++) above the truth."""
    exact = gaussian(torch.tensor(0.0).double(), torch.tensor(0.5).double())
    first = torch.tensor(80.0).double()
    spread = {kind: float(sample(exact, first, levels(18, 0.002, 80, 7))) for kind, sample in SAMPLERS.items()}
    assert spread["heun"] / 0.5 == pytest.approx(1.056, abs=2e-3)
    assert spread["dpm-solver++"] / 0.5 == pytest.approx(1.062, abs=2e-3)


def test_levels_fall_as_in_equation_5_and_end_at_zero():
    found = levels(5, 0.5, 32.0, 5)
    assert found[0] == pytest.approx(32) and found[-2] == pytest.approx(0.5) and found[-1] == 0 and len(found) == 6
    assert found[1] == pytest.approx((2 + 1 / 4 * (0.5**0.2 - 2)) ** 5)


@pytest.mark.parametrize(("kind", "calls"), [("heun", 35), ("dpm-solver++", 18)])
def test_a_denoiser_that_knows_the_picture_gives_it_in_the_promised_number_of_calls(kind, calls):
    asked, picture = [], torch.tensor([0.25, -0.5]).double()

    def know(image: Tensor, sigma: float) -> Tensor:
        asked.append(sigma)
        return picture

    found = SAMPLERS[kind](know, torch.tensor([70.0, -3.0]).double(), levels(18, 0.002, 80, 7))
    torch.testing.assert_close(found, picture)
    assert len(asked) == calls and min(asked) > 0


# Preconditioning.


class Spy(nn.Module):
    """In place of the U-Net: keeps what it is shown and answers with ones."""

    def forward(self, images: Tensor, number: Tensor, labels: Tensor | None = None) -> Tensor:
        self.images, self.number, self.labels = images, number, labels
        return torch.ones_like(images)


def coefficients(network: Diffusion, sigma: float) -> tuple[float, float, float, float]:
    """c_skip, c_out, c_in, c_noise, as three pictures show them."""
    spy = Spy()
    network.unet = spy
    mean = float(network.data_mean)
    level = torch.full((1,), sigma)
    at_mean = float(network(torch.full((1, 1, PX, PX), mean), level)[0, 0, 3, 5]) - mean
    above = float(network(torch.full((1, 1, PX, PX), mean + 1), level)[0, 0, 3, 5]) - mean
    return above - at_mean, at_mean, float(spy.images[0, 0, 3, 5]), float(spy.number)


@pytest.mark.parametrize("sigma", [0.002, 0.12, 0.7, 80.0])
def test_the_coefficients_are_those_of_table_1(sigma):
    s = 0.12
    skip, out, into, number = coefficients(made(), sigma)
    assert skip == pytest.approx(s**2 / (sigma**2 + s**2), rel=1e-3, abs=1e-6)
    assert out == pytest.approx(sigma * s / math.sqrt(sigma**2 + s**2), rel=1e-3, abs=1e-6)
    assert into == pytest.approx(1 / math.sqrt(sigma**2 + s**2), rel=1e-4)
    assert number == pytest.approx(math.log(sigma) / 4, rel=1e-4)
    # What F is shown has variance 1, and so has what it should answer; every level weighs alike.
    assert into**2 * (s**2 + sigma**2) == pytest.approx(1, rel=1e-3)
    assert ((1 - skip) ** 2 * s**2 + skip**2 * sigma**2) / out**2 == pytest.approx(1, rel=1e-2)
    zero, one = torch.zeros(1, 1, PX, PX), torch.ones(1, 1, PX, PX)
    weight = float(diffusion.weighted_error(one, zero, torch.tensor([sigma]), s))
    assert weight * out**2 == pytest.approx(1, rel=1e-3)


def test_without_noise_the_picture_stays_and_in_pure_noise_the_answer_is_the_network_s():
    little, much = coefficients(made(), 1e-5), coefficients(made(), 1e4)
    assert little[0] == pytest.approx(1, abs=1e-4) and little[1] == pytest.approx(0, abs=1e-4)
    assert much[0] == pytest.approx(0, abs=1e-4) and much[1] == pytest.approx(0.12, rel=1e-4)


def test_with_its_first_weights_the_loss_on_white_gaussian_data_is_one():
    source = torch.Generator().manual_seed(2)
    network, loss = made(), small().loss
    clean = 0.3 + 0.12 * torch.randn((512, 1, PX, PX), generator=source)
    sigma = diffusion.noise_levels(512, loss, source)
    assert float(sigma.log().mean()) == pytest.approx(-1.2, abs=0.15)
    assert float(sigma.log().std()) == pytest.approx(1.2, abs=0.15)
    noisy = clean + sigma[:, None, None, None] * torch.randn(clean.shape, generator=source)
    with torch.inference_mode():
        error = diffusion.weighted_error(network(noisy, sigma), clean, sigma, network.sigma_data)
    assert float(error) == pytest.approx(1, abs=0.02)


# Classes and guidance.


def test_guidance_is_refused_where_no_class_was_hidden():
    described = SimpleNamespace(label_dropout=0.0, pixel_range=(0.0, 1.0))
    model: Any = SimpleNamespace(
        network=lambda: stirred(classes=2), description=described, identity=SimpleNamespace(address="toy:1")
    )
    with pytest.raises(Rejected, match="never saw pictures without a class"):
        Generator(model, guidance=2.0)
    assert Generator(model, guidance=1.0).settings == {"guidance": 1.0}


def test_guidance_of_one_is_the_class_alone_and_other_weights_push_away_from_none():
    network = stirred(classes=3)
    source = torch.Generator().manual_seed(1)
    noisy, sigma = torch.randn((4, 1, PX, PX), generator=source), torch.tensor([0.1, 0.5, 2.0, 9.0])
    labels = torch.tensor([0, 1, 2, 1])
    with torch.inference_mode():
        of_class, of_none = network(noisy, sigma, labels), network(noisy, sigma, None)
        assert not torch.allclose(of_class, of_none, atol=1e-3)
        assert torch.equal(network.guided(noisy, sigma, labels), of_class)
        for weight in (0.0, 2.5):
            network.guidance = weight
            expected = of_none + weight * (of_class - of_none)
            torch.testing.assert_close(network.guided(noisy, sigma, labels), expected)
        torch.testing.assert_close(network(noisy, sigma, torch.full((4,), 3)), of_none)  # class 3 of 0..2 says none


def test_label_dropout_hides_its_share_behind_the_number_that_says_none():
    labels = torch.arange(5000) % 3
    told = withheld(labels, 0.2, 3, torch.Generator().manual_seed(0))
    gone = told == 3
    assert float(gone.float().mean()) == pytest.approx(0.2, abs=0.02)
    assert torch.equal(told[~gone], labels[~gone])
    assert withheld(None, 0.2, 0, torch.Generator()) is None


def test_training_tells_the_network_classes_and_now_and_then_none(sides, tmp_path, monkeypatch):
    told = []
    original = Diffusion.forward

    def watched(
        self: Diffusion, noisy: Tensor, sigma: Tensor, labels: Tensor | None = None, given: Tensor | None = None
    ) -> Tensor:
        if self.training:
            told.append(labels)
        return original(self, noisy, sigma, labels, given)

    monkeypatch.setattr(Diffusion, "forward", watched)
    training.train(small(loss={"label_dropout": 0.3}), sides, tmp_path / "run", device="cpu")
    assert set(torch.cat(told).tolist()) == {0, 1, len(LABELS)}


def test_a_conditional_run_makes_what_it_is_asked_for(released):
    def brighter_side(label: str) -> np.ndarray:
        samples = released.sample(20, 3, label)
        return samples[..., PX // 2 :].mean((1, 2, 3)) > samples[..., : PX // 2].mean((1, 2, 3))

    assert (~brighter_side("left")).mean() > 0.85
    assert brighter_side("right").mean() > 0.85


# One seed, one picture.


def test_a_picture_depends_on_nothing_but_seed_number_and_label(released):
    many = released.sample(4, 5, "right")
    np.testing.assert_array_equal(many[:2], released.sample(2, 5, "right"))
    np.testing.assert_array_equal(many[3], [*released.samples(4, 5, "right")][3].image)
    assert not np.array_equal(many, released.sample(4, 5, "left"))
    assert not np.array_equal(many[0], many[1])


def test_pictures_made_in_batches_are_those_made_one_by_one():
    network = stirred(classes=2, guidance=1.5, steps=8)
    labels = torch.arange(35) % 2  # more than one batch
    many = network.make_many([source_of(4, index) for index in range(35)], labels, ON)
    assert many.shape == (35, 1, PX, PX) and float(many.std()) > 0.05
    for index in (0, 1, 31, 32, 34):
        alone = network.make(source_of(4, index), int(labels[index]))
        torch.testing.assert_close(many[index], alone, atol=2e-3, rtol=0)


# The loop.


def test_the_loop_is_one_story_of_less_than_150_lines():
    assert len(inspect.getsource(diffusion.train).splitlines()) < 150


def test_the_loss_falls_on_a_toy_of_gaussian_pictures(tmp_path):
    """Pictures that are one grey each: a denoiser of white data has a loss of about 1, one that learned them less."""

    def grey(label: int, seed: int) -> np.ndarray:
        return np.full((PX, PX), np.random.default_rng(seed).normal(128, 30), np.float32)

    cohort = cohort_of(tmp_path / "grey", (64, 16, 8), grey)
    chosen = small(
        conditional=False,
        optimiser={"learning_rate": 2e-3},
        schedule={"total_images": 1600, "report_images": 400, "batch_size": 16},
        network={"dropout": 0.0},
    )
    training.train(chosen, cohort, tmp_path / "run", device="cpu")
    losses = [float(line["loss"]) for line in lines_of(tmp_path / "run")]
    assert len(losses) == 4 and losses[0] < 1.2
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize("conditional", [True, False])
def test_a_stopped_and_resumed_run_ends_bit_equal(conditional, sides, tmp_path):
    chosen = small(conditional=conditional, schedule={"total_images": 96}, augmentation={"flip_rows": True})
    training.train(chosen, sides, tmp_path / "whole", device="cpu")
    with pytest.raises(Stop):
        training.train(chosen, sides, tmp_path / "parts", progress=stop_at(64), device="cpu")
    assert torch.load(tmp_path / "parts" / "checkpoint.pt", weights_only=True)["images_seen"] == 32
    training.train(chosen, sides, tmp_path / "parts", resume=True, device="cpu")
    one, other = (read_weights(tmp_path / run / "models" / "model.pt") for run in ("whole", "parts"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    for left in ("metrics.csv", "configs/metadata.json", "configs/inference.json"):
        assert (tmp_path / "whole" / left).read_bytes() == (tmp_path / "parts" / left).read_bytes()
    ends = [torch.load(tmp_path / run / "checkpoint.pt", weights_only=True) for run in ("whole", "parts")]
    assert all(torch.equal(ends[0]["denoiser"][name], ends[1]["denoiser"][name]) for name in ends[0]["denoiser"])


def test_a_cohort_of_one_grey_value_trains_without_a_number_that_is_none(tmp_path):
    cohort = cohort_of(tmp_path / "flat", (6, 2, 2), lambda label, seed: np.full((20, 20), 90, np.float32))
    training.train(small(conditional=False), cohort, tmp_path / "run", device="cpu")
    assert all(math.isfinite(float(line["loss"])) for line in lines_of(tmp_path / "run"))
    assert all(torch.isfinite(value).all() for value in read_weights(tmp_path / "run" / "models" / "model.pt").values())
    definition = json.loads((tmp_path / "run" / "configs" / "inference.json").read_text())["network_def"]
    assert definition["sigma_data"] == diffusion.FLATTEST
    made_of_it = generator.load(tmp_path / "run").sample(2, 0)
    assert np.isfinite(made_of_it).all() and made_of_it.mean() == pytest.approx(90, abs=3)


def test_a_diverged_run_says_what_was_seen_and_what_to_change(sides, tmp_path):
    chosen = small(optimiser={"learning_rate": 1e30}, schedule={"total_images": 256, "report_images": 256})
    with pytest.raises(
        Rejected, match=r"the loss is not finite \(denoiser (nan|inf)\); lower learning_rate, clip gradients"
    ):
        training.train(chosen, sides, tmp_path / "run", device="cpu")


def test_patience_ends_a_training_that_gets_no_better_and_the_best_is_kept(sides, tmp_path):
    chosen = small(
        optimiser={"learning_rate": 1e-12}, schedule={"total_images": 4000, "patience_reports": 2}, alarms="warn"
    )
    told: list[dict[str, Any]] = []
    training.train(chosen, sides, tmp_path / "run", progress=told.append, device="cpu")
    distances = [float(line["validation_kid"]) for line in lines_of(tmp_path / "run")]
    assert len(distances) < 20 and distances[-3] == min(distances)
    assert told[-1]["kind"] == "done" and told[-1]["reports_since_best"] == 2
    assert told[-1]["validation_kid"] == pytest.approx(min(distances), rel=1e-4)


def test_a_run_measures_its_data_and_leaves_its_sheets(trained, sides):
    definition = json.loads((trained / "configs" / "inference.json").read_text())["network_def"]
    reals = np.stack([cohorts.load_image(sides, item).pixels for item in sides.training]) / 127.5 - 1
    # Padding to squares adds a fifth of black; scaling smooths the noise away.
    padded = np.pad(reals[:, 0], ((0, 0), (0, 0), (2, 2)), constant_values=-1)
    assert definition["data_mean"] == pytest.approx(padded.mean(), abs=5e-3)
    assert definition["sigma_data"] == pytest.approx(padded.std(), rel=0.1)
    assert (trained / "samples.png").is_file() and len([*(trained / "frames").iterdir()]) == 2
    losses = [float(line["loss"]) for line in lines_of(trained)]
    assert losses[-1] < losses[0]


# Recipe, version, commands.


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"conditional": False, "sampler": {"guidance": 2}}, "sampler.guidance pulls towards a class"),
        ({"loss": {"label_dropout": 0}, "sampler": {"guidance": 2}}, "set loss.label_dropout"),
        ({"loss": {"label_dropout": 1}}, "loss.label_dropout: 1 hides every class"),
        ({"network": {"image_px": 17}}, "'network': image_px: 17 is no multiple of 2"),
        ({"network": {"channels": [6, 8]}}, "channels: .6, 8. are not all multiples of 4"),
        ({"network": {"attention_levels": 3}}, "attention_levels: 3 is more than"),
        ({"sampler": {"sigma_least": 90}}, "sigma_least: 90.0 is not below sigma_most 80.0"),
        ({"sampler": {"steps": 1}}, "sampler.steps"),
        ({"sampler": {"kind": "euler"}}, "sampler.kind"),
        ({"sampler": {"speed": 3}}, "sampler.speed"),
    ],
)
def test_a_recipe_that_does_not_fit_names_the_key(change, sentence):
    with pytest.raises(Rejected, match=sentence):
        small(**change)


def test_a_definition_that_is_wrong_is_refused():
    with pytest.raises(Rejected, match="sampler 'euler' is none of heun"):
        made(sampler="euler")
    with pytest.raises(Rejected, match="sigma_data 0 is not above 0"):
        made(sigma_data=0)


def test_the_sampler_is_a_part_of_the_version(released, tmp_path):
    definition = released.model.network_definition
    assert (definition["sampler"], definition["steps"], definition["guidance"]) == ("dpm-solver++", 8, 2.0)
    folder = tmp_path / "sided"
    shutil.copytree(released.model.folder, folder)
    assert generator.load(folder).identity.content_hash == released.identity.content_hash
    path = folder / "configs" / "inference.json"
    document = json.loads(path.read_text())
    document["network_def"]["guidance"] = 3.0
    path.write_text(json.dumps(document))
    assert generator.load(folder).identity.content_hash != released.identity.content_hash


def test_metadata_says_that_the_input_is_an_image_of_noise_and_a_class(released):
    model = released.model
    jsonschema.validate(model.metadata, json.loads((Path(__file__).parent / "metadata_schema.json").read_text()))
    inputs = model.metadata["network_data_format"]["inputs"]
    assert (inputs["latent"]["num_channels"], inputs["latent"]["spatial_shape"]) == (1, [PX, PX])
    assert inputs["label"]["value_range"] == [0, 2]
    assert set(model.evaluation["spread"]) == {"left", "right"}


def test_generated_dicom_holds_the_very_samples_and_their_label(released, tmp_path):
    at = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
    (one,) = pipeline.generate(released.model.folder, tmp_path, n=2, seed=7, label="left", made_at=at)
    dataset = dcmread(one.path)
    assert dataset.SyntheticData == "YES" and "left" in dataset.SeriesDescription
    np.testing.assert_allclose(
        secondary_capture.read_back(dataset), released.sample(2, 7, "left")[:, 0], atol=255 / 65535
    )


def test_train_and_generate_from_the_command_line(sides, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    app = typer.Typer()
    learning.register(app)
    results.register(app)
    mine = tmp_path / "mine.yaml"
    mine.write_text(recipe.dump(small()))

    def say(*words: object) -> str:
        done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    run = tmp_path / "run"
    assert "mirall models release" in say("train", mine, "--cohort", sides.folder, "--run", run, "--device", "cpu")
    out = tmp_path / "out"
    say("generate", run, "--label", "right", "-n", 2, "--format", "png", "--out", out)
    assert len([*out.glob("*-right-seed0-*.png")]) == 2


def test_guidance_may_be_asked_for_and_stands_in_name_and_record(released, tmp_path):
    stronger = generator.load(released.model.folder, guidance=3.0)
    assert stronger.network.guidance == 3.0 and not np.array_equal(
        stronger.sample(1, 7, "left"), released.sample(1, 7, "left")
    )
    at = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
    common = {"n": 2, "seed": 7, "label": "left", "made_at": at}
    (plain,) = pipeline.generate(released.model.folder, tmp_path / "a", **common)
    (guided,) = pipeline.generate(released.model.folder, tmp_path / "b", guidance=3.0, **common)
    assert plain.record.sop_instance_uid != guided.record.sop_instance_uid
    assert '"guidance":3.0' in guided.record.parameters and "guidance" not in plain.record.parameters
    frames = secondary_capture.read_back(dcmread(guided.path))
    np.testing.assert_allclose(frames, stronger.sample(2, 7, "left")[:, 0], atol=255 / 65535)
    [path] = pipeline.generate_files(
        released.model.folder, tmp_path, n=1, seed=7, label="left", form="png", guidance=3.0
    )
    assert "guidance3" in path.name
    with pytest.raises(Rejected, match="no network that takes a vector of noise"):
        generator.load(released.model.folder, truncation=0.7)
