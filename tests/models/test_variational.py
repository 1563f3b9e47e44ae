"""The variational loop: every choice trains and resumes to the bit, stages freeze what they say, failures are said."""

from __future__ import annotations

import csv
import inspect
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from stopping import Stop, same, stop_at

from dicom_io import cohort as cohorts
from dicom_io.cohort import Cohort
from dicom_io.errors import Rejected
from dicom_io.volume import Projection, Source
from models import bundle, elbo, generator, recipe, training
from models.networks.vae import VAE
from models.training import pictures, variational
from models.training.batches import withheld
from models.training.journal import Journal
from models.variational_recipe import VariationalRecipe
from models.version import read_weights
from plugin import pipeline

PX = 16
LABELS = ("left", "right", "never seen")


def small(**changes: Any) -> VariationalRecipe:
    """Of 16 px and 64 images, with a report at 32; keys of `changes` are merged into the recipe's parts."""
    plain = recipe.load("conditional-vae").model_dump(mode="json")
    plain["network"] = {"image_px": PX, "features": 8, "latent": 8, "blocks": 3}
    plain |= {"minimum_signal": 0.0, "audit_samples": 64, "evaluation": {"bootstrap_draws": 200}}
    plain["schedule"] |= {"total_images": 64, "report_images": 32, "batch_size": 8, "precision": "float32"}
    plain["schedule"] |= {"warm_up_images": 0}
    for key, value in changes.items():
        merged = isinstance(plain[key], dict) and key != "network"
        plain[key] = plain[key] | value if merged else value
    chosen = recipe.parse(plain, "small")
    assert isinstance(chosen, VariationalRecipe)
    return chosen


def picture(label: int, seed: int) -> np.ndarray:
    """(20, 16): a bright spot in the left or the right half of grey noise."""
    rng = np.random.default_rng(seed)
    row, column = np.mgrid[:20, :16]
    at = rng.uniform(5, 15), rng.uniform(2, 5) + 9 * label
    spot = np.exp(-((row - at[0]) ** 2 + (column - at[1]) ** 2) / 6)
    return (30 + 190 * spot + 5 * rng.standard_normal(spot.shape)).clip(0, 255).astype(np.float32)


def cohort_of(folder: Path, drawn: Callable[[int, int], np.ndarray], counts: tuple[int, int, int]) -> Cohort:
    """drawn: (label, number) -> pixels; one right for three lefts, eight pictures of both kinds to a patient."""
    splits: dict[str, tuple[cohorts.Item, ...]] = {}
    number = 0
    for split, count in zip(cohorts.SPLITS, counts, strict=True):
        items = []
        for _ in range(count):
            number += 1
            label = int(number % 4 == 0)
            source = Source("1.2.840.10008.5.1.4.1.1.7", f"2.25.{number}", f"{number:064x}")
            shown = Projection(drawn(label, number), "1", source, (1.0, 1.0), "", "", "", "")
            items.append(cohorts.add_projection(folder, f"i{number}", shown, f"p{split}{number // 8}", label=label))
        splits[split] = tuple(items)
    channels = (cohorts.Channel("image", "OT", "1"),)
    made = Cohort(folder, "spots", "classification", LABELS, channels, splits)
    cohorts.save(made)
    return cohorts.load(folder)


@pytest.fixture(scope="module")
def spots(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return cohort_of(tmp_path_factory.mktemp("spots"), picture, (96, 32, 32))


def lines(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


# The loop.


def test_the_loop_is_one_story_of_less_than_150_lines():
    assert len(inspect.getsource(variational.train).splitlines()) < 150


STAGES = {"pretraining": 0.4, "frozen": 0.3}
VARIANTS: dict[str, dict[str, Any]] = {
    "of classes": {},
    "of none": {"conditional": False},
    "dense": {"network": {"kind": "dense", "image_px": PX, "latent": 6, "widths": [48, 24]}},
    "13 blocks, skips, noisy images": {
        "network": {"image_px": PX, "features": 8, "latent": 8, "blocks": 13, "links": "skip"},
        "loss": {"image_noise": 0.3, "label_dropout": 0.5},
    },
    "similarity, augmentation, decay of weights": {
        "network": {"image_px": 32, "features": 8, "latent": 8, "blocks": 6, "links": "plain"},
        "loss": {"structure": 0.5},
        "augmentation": {"translation": 0.1, "noise": 0.1},
        "optimiser": {"weight_decay": 0.1},
    },
    "stages": {"stages": STAGES},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_stopped_and_resumed_training_equals_one_that_was_not_for_every_choice(name, spots, tmp_path):
    chosen = small(**VARIANTS[name])
    training.train(chosen, spots, tmp_path / "whole", device="cpu")
    with pytest.raises(Stop):
        training.train(chosen, spots, tmp_path / "parts", progress=stop_at(64), device="cpu")
    training.train(chosen, spots, tmp_path / "parts", resume=True, device="cpu")
    assert same(tmp_path / "whole", tmp_path / "parts")
    assert (tmp_path / "whole" / "metrics.csv").read_text() == (tmp_path / "parts" / "metrics.csv").read_text()
    ends = [torch.load(tmp_path / run / "checkpoint.pt", weights_only=True) for run in ("whole", "parts")]
    assert ends[0]["alarms"] == ends[1]["alarms"]
    assert all(torch.equal(ends[0]["network"][key], ends[1]["network"][key]) for key in ends[0]["network"])
    assert all(torch.isfinite(value).all() for value in ends[0]["network"].values())


def test_one_batch_is_learnt_by_heart():
    """Eight pictures, told apart by the latent alone."""
    network = {"image_px": PX, "features": 16, "latent": 16, "blocks": 6}
    chosen = small(conditional=False, network=network, loss={"pixel_scale": 0.1})
    torch.manual_seed(0)
    definition = variational.decoder(chosen, 0)
    vae = VAE(variational.encoder(chosen, 0), variational.built(definition))
    images = torch.stack([torch.from_numpy(picture(n % 2, n))[2:18] for n in range(8)])[:, None] / 127.5 - 1
    optimiser = torch.optim.AdamW(vae.parameters(), lr=3e-3, weight_decay=0)
    draw = torch.Generator().manual_seed(0)
    errors = []
    for _ in range(250):
        made, posterior, prior = vae(images, vae.decoder.noise(8, draw), None)
        lost = elbo.reconstruction(chosen.loss, images, made).mean()
        whole = lost + elbo.charged(elbo.divergence(posterior, prior), chosen.loss.free_bits)
        optimiser.zero_grad()
        whole.backward()
        optimiser.step()
        errors.append(elbo.pixel_error(images, made).mean().item())
    assert errors[-1] < 0.03 < 0.15 < errors[0]
    middle = vae.decoder(vae.encoder(images)[0])
    nearest = (middle[:, None] - images[None]).square().flatten(2).mean(2).argmin(1)
    assert nearest.tolist() == [*range(8)]


@pytest.mark.parametrize("name", ["of classes", "similarity, augmentation, decay of weights"])
def test_a_cohort_of_one_grey_value_trains_without_a_number_that_is_none(name, tmp_path):
    flat = cohort_of(tmp_path / "flat", lambda label, number: np.full((20, 16), 90, np.float32), (16, 8, 8))
    training.train(small(**VARIANTS[name] | {"augmentation": {}}), flat, tmp_path / "run", device="cpu")
    weights = read_weights(tmp_path / "run" / "models" / "model.pt")
    assert all(torch.isfinite(value).all() for value in weights.values())
    assert all(math.isfinite(float(line["loss"])) for line in lines(tmp_path / "run"))


def test_beta_rises_over_its_share_and_stays():
    chosen = small(loss={"beta": 2.0, "beta_warm_up": 0.25})
    assert [chosen.beta(fraction) for fraction in (0, 0.125, 0.25, 1)] == [0, 1, 2, 2]
    assert small(loss={"beta_warm_up": 0.0}).beta(0) == 1


def test_labels_are_withheld_in_the_share_that_the_recipe_says():
    labels = torch.arange(4000) % 2
    told = withheld(labels, 0.3, 3, torch.Generator().manual_seed(0))
    assert (told == 3).float().mean().item() == pytest.approx(0.3, abs=0.03)
    assert torch.equal(told[told != 3], labels[told != 3])
    assert torch.equal(withheld(labels, 0.0, 3, torch.Generator()), labels)
    assert bool((withheld(labels, 1.0, 3, torch.Generator()) == 3).all())
    assert withheld(None, 0.3, 3, torch.Generator()) is None


def test_patience_ends_a_training_that_gets_no_better(spots, tmp_path):
    chosen = small(
        optimiser={"learning_rate": 1e-12}, schedule={"total_images": 4000, "patience_reports": 2}, alarms="warn"
    )
    seen: list[dict[str, Any]] = []
    training.train(chosen, spots, tmp_path / "run", progress=seen.append, device="cpu")
    found = [float(line["validation_kid"]) for line in lines(tmp_path / "run")]
    # Weights that hardly move may still round to a distance that is a billionth less, once.
    assert len(found) < 10 and found[-3] == min(found)
    assert seen[-1]["kind"] == "done" and seen[-1]["reports_since_best"] == 2


# Stages.


@pytest.fixture
def states(monkeypatch: pytest.MonkeyPatch) -> dict[int, dict[str, torch.Tensor]]:
    """The network at every checkpoint, by images seen."""
    found: dict[int, dict[str, torch.Tensor]] = {}

    def watched(self: Journal, content: dict[str, Any]) -> None:
        found[content["images_seen"]] = {name: value.clone() for name, value in content["network"].items()}

    monkeypatch.setattr(Journal, "save", watched)
    return found


def moved(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in one if not torch.equal(one[name], other[name])}


def test_stages_learn_without_labels_then_labels_alone_then_everything(spots, tmp_path, states):
    chosen = small(
        stages={"pretraining": 0.5, "frozen": 0.25},
        optimiser={"weight_decay": 0.1},
        schedule={"total_images": 128, "report_images": 32},
    )
    training.train(chosen, spots, tmp_path / "run", device="cpu")
    tables = ("encoder.class_vector", "decoder.class_vector", "decoder.class_prior")
    labels = {f"{table}.table.weight" for table in tables}
    convolutions = {name for name in states[32] if ".levels." in name or name.startswith("decoder.picture")}
    everything = set(states[32])
    assert moved(states[32], states[64]) == everything - labels
    assert moved(states[64], states[96]) == everything - convolutions
    assert moved(states[96], states[128]) == everything
    assert all(bool((states[64][name] == 0).all()) for name in labels)


def test_without_stages_everything_learns_from_the_start(spots, tmp_path, states):
    training.train(small(), spots, tmp_path / "run", device="cpu")
    assert moved(states[32], states[64]) == set(states[32])


def test_what_was_made_before_there_were_labels_is_never_the_best(spots, tmp_path):
    chosen = small(
        stages={"pretraining": 0.6, "frozen": 0.2},
        optimiser={"learning_rate": 1e-12},
        schedule={"total_images": 160, "report_images": 32, "patience_reports": 9},
    )
    told: list[dict[str, Any]] = []
    training.train(chosen, spots, tmp_path / "run", progress=told.append, device="cpu")
    found = [float(line["validation_kid"]) for line in lines(tmp_path / "run")]
    assert len(found) == 5
    assert told[-1]["validation_kid"] == pytest.approx(min(found[2:]), abs=1e-6)


# Failures.


def test_collapse_is_seen_where_nearly_no_dimension_is_used_and_not_before():
    nats = torch.zeros(64)
    nats[:3] = 0.5
    (sentence,) = variational.collapsed(nats).values()
    assert "61 of 64 dimensions of the latent say nothing of the image (posterior collapse" in sentence
    assert "free_bits" in sentence
    nats[3] = 0.5
    assert not variational.collapsed(nats)


def test_a_collapsed_posterior_stops_the_run_at_the_third_report_and_a_healthy_one_goes_on(spots, tmp_path):
    schedule = {"total_images": 1600, "report_images": 200}
    # With so high a price for the latent nothing pays to be said.
    chosen = small(
        loss={"beta": 1000.0, "beta_warm_up": 0.0, "free_bits": 0.0},
        optimiser={"learning_rate": 1e-2},
        schedule=schedule,
    )
    with pytest.raises(Rejected, match=r"8 of 8 dimensions .*posterior collapse.*`alarms: warn`") as caught:
        training.train(chosen, spots, tmp_path / "collapsed", device="cpu")
    assert "2 reports before it" in str(caught.value)
    assert not (tmp_path / "collapsed" / "models").exists()
    healthy = small(schedule=schedule)
    training.train(healthy, spots, tmp_path / "healthy", device="cpu")
    last = lines(tmp_path / "healthy")[-1]
    assert last["used_dimensions"] == "8" and float(last["divergence"]) > 8 * 0.2


def test_while_beta_is_rising_nothing_is_called_collapsed(spots, tmp_path):
    chosen = small(
        loss={"beta": 1000.0, "beta_warm_up": 1.0, "free_bits": 0.0},
        optimiser={"learning_rate": 1e-2},
        schedule={"total_images": 800, "report_images": 100},
        alarms="warn",
    )
    told: list[dict[str, Any]] = []
    training.train(chosen, spots, tmp_path / "run", progress=told.append, device="cpu")
    assert not any("posterior" in event.get("message", "") for event in told)


def test_a_diverged_run_says_so(spots, tmp_path):
    chosen = small(optimiser={"learning_rate": 1e30}, schedule={"total_images": 512})
    with pytest.raises(Rejected, match=r"loss is not finite \(whole .*raise pixel_scale"):
        training.train(chosen, spots, tmp_path / "run", device="cpu")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"network": {"blocks": 7}}, r"network\.blocks"),
        ({"network": {"latent": 1}}, r"network\.latent"),
        ({"network": {"latent": 513}}, r"network\.latent"),
        ({"network": {"kind": "round"}}, r"network\.kind.*none of convolutional, dense"),
        ({"network": {"image_px": 48}}, "image_px must be a power of two"),
        ({"network": {"kind": "dense", "widths": []}}, r"network\.widths"),
        ({"stages": {}, "conditional": False}, "stages: only labels come in later"),
        ({"stages": {}, "network": {"kind": "dense"}}, "no convolutions to freeze"),
        ({"stages": {"pretraining": 0.8, "frozen": 0.2}}, "leave nothing to train everything in"),
        ({"loss": {"structure": 1.0}, "network": {"image_px": 16}}, "MS-SSIM needs images of 32 px"),
        ({"loss": {"label_dropout": 1.0}}, r"loss\.label_dropout"),
        ({"loss": {"pixel_scale": 0}}, r"loss\.pixel_scale"),
    ],
)
def test_an_error_of_the_recipe_names_the_key(change, said):
    with pytest.raises(Rejected, match=said):
        small(**change)


# What a run leaves.


@pytest.fixture(scope="module")
def sided(spots: Cohort, tmp_path_factory: pytest.TempPathFactory) -> generator.Generator:
    """A released generator of both sides, trained long enough to know left from right."""
    folder = tmp_path_factory.mktemp("sided")
    chosen = small(
        network={"image_px": PX, "features": 8, "latent": 8, "blocks": 3},
        optimiser={"learning_rate": 3e-3},
        schedule={"total_images": 4800, "report_images": 2400, "batch_size": 16, "ema_half_life_images": 400},
    )
    training.train(chosen, spots, folder / "run", device="cpu")
    return generator.load(bundle.release(folder / "run", spots, "spots", models_dir=folder / "models").folder)


def brighter_side(samples: np.ndarray) -> np.ndarray:
    """1 where the right half is the brighter one."""
    return (samples[..., PX // 2 :].mean((1, 2, 3)) > samples[..., : PX // 2].mean((1, 2, 3))).astype(int)


def test_a_conditional_generator_makes_what_it_is_asked_for(sided):
    assert sided.labels == ("left", "right")
    assert (brighter_side(sided.sample(40, 3, "left")) == 0).mean() > 0.9
    assert (brighter_side(sided.sample(40, 3, "right")) == 1).mean() > 0.9


def test_a_sample_depends_on_nothing_but_seed_number_and_label(sided):
    many = sided.sample(6, 5, "right")
    np.testing.assert_array_equal(many[:2], sided.sample(2, 5, "right"))
    assert many.shape == (6, 1, PX, PX) and many.min() >= 0 and many.max() <= 255
    assert not np.array_equal(many, sided.sample(6, 5, "left"))


def test_only_the_decoder_is_released_and_the_metadata_say_what_it_takes(sided):
    model = sided.model
    assert model.network_definition["_target_"] == "models.networks.vae.ConvolutionalDecoder"
    assert not any("encoder" in name or "law" in name for name in model.network().state_dict())
    inputs = model.metadata["network_data_format"]["inputs"]
    assert inputs["latent"]["num_channels"] == 8 and inputs["label"]["value_range"] == [0, 2]
    jsonschema.validate(model.metadata, json.loads((Path(__file__).parent / "metadata_schema.json").read_text()))
    assert model.description.label_slices == (72, 24, 0)
    assert set(model.evaluation["spread"]) == {"left", "right"}


def test_files_are_generated_of_a_label(sided, tmp_path):
    written = pipeline.generate_files(sided.model.folder, n=2, seed=7, label="right", form="png", out=tmp_path)
    assert [path.name for path in written] == ["spots-1-right-seed7-00000.png", "spots-1-right-seed7-00001.png"]


def test_terms_on_unseen_patients_are_those_of_the_bound(spots, sided):
    """Two terms of 32 slices, counted one slice at a time."""
    chosen = small()
    _, unseen = pictures.read(spots, "validation", chosen, PX)
    vae = VAE(variational.encoder(chosen, 3), variational.built(variational.decoder(chosen, 3))).eval()
    with torch.no_grad():
        vae.decoder.class_prior.table.weight[:2] = torch.randn(2, 16, generator=torch.Generator().manual_seed(1))
        found = variational.of_unseen(vae, chosen, unseen, torch.device("cpu"))
        pairs = [(unseen.images[n : n + 1], unseen.labels[n : n + 1]) for n in range(32)]
        laws = [(vae.encoder(image, label), vae.decoder.prior(label, image)) for image, label in pairs]
        expected = sum(elbo.divergence(*both).sum().item() for both in laws) / 32
    assert found["validation_divergence"] == pytest.approx(expected, abs=1e-3)
    per_pixel = found["validation_reconstruction"] * chosen.loss.pixel_scale / PX**2
    assert found["validation_pixel_error"] == pytest.approx(per_pixel, abs=2e-4)
