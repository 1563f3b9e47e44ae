"""The adversarial loop: every choice trains, resumes to the bit, and says what it saw; classes come as asked for."""

from __future__ import annotations

import csv
import inspect
import itertools
import json
import weakref
from dataclasses import replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from pydicom import dcmread
from stopping import Stop, same, stop_at

from dicom_io import cohort as cohorts
from dicom_io import nifti, secondary_capture
from dicom_io.cohort import Cohort
from dicom_io.errors import Rejected
from dicom_io.volume import Projection, Source
from models import bundle, cases, generator, networks, recipe, training
from models.evaluate import evaluate
from models.networks.generator import Discriminator
from models.recipe import Recipe
from models.training import adversarial, average, pictures
from models.training.augmentation import translate_and_cut
from models.training.batches import Batches
from models.training.placement import placed
from models.training.randomness import seed_of, start_step
from models.training.schedule import Clock
from models.version import read_weights
from plugin import pipeline

PX = 16
LABELS = ("left", "right", "never seen")


def small(**changes: Any) -> Recipe:
    """Of 16 px and 64 images, with a report at 32; keys of `changes` are merged into the recipe's parts."""
    plain = recipe.load("generator").model_dump(mode="json")
    plain["network"] = {"image_px": PX, "features": 16, "latent": 8}
    plain |= {"pixel_range": [0, 255], "minimum_signal": 0.0, "audit_samples": 64}
    plain["evaluation"] = {"bootstrap_draws": 200}
    plain["schedule"] |= {"total_images": 64, "report_images": 32, "batch_size": 8, "precision": "float32"}
    for key, value in changes.items():
        plain[key] = plain[key] | value if isinstance(plain[key], dict) and key != "network" else value
    return recipe.parse(plain, "small")


def picture(label: int, seed: int) -> np.ndarray:
    """(20, 16): a bright spot in the left or the right half of grey noise."""
    rng = np.random.default_rng(seed)
    row, column = np.mgrid[:20, :16]
    at = rng.uniform(5, 15), rng.uniform(2, 5) + 9 * label
    spot = np.exp(-((row - at[0]) ** 2 + (column - at[1]) ** 2) / 6)
    return (30 + 190 * spot + 5 * rng.standard_normal(spot.shape)).clip(0, 255).astype(np.float32)


@pytest.fixture(scope="session")
def spots(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """Spots on the left or on the right, 3 lefts for each right; a third label that no picture has."""
    folder = tmp_path_factory.mktemp("spots")
    splits: dict[str, tuple[cohorts.Item, ...]] = {}
    number = 0
    for split, count in (("training", 96), ("validation", 32), ("test", 32)):
        items = []
        for _ in range(count):
            number += 1
            label = int(number % 4 == 0)
            source = Source("1.2.840.10008.5.1.4.1.1.7", f"2.25.{number}", f"{number:064x}")
            shown = Projection(picture(label, number), "1", source, (1.0, 1.0), "", "", "", "")
            # Patients have pictures of both kinds.
            items.append(cohorts.add_projection(folder, f"i{number}", shown, f"p{split}{number // 8}", label=label))
        splits[split] = tuple(items)
    made = Cohort(
        folder=folder,
        name="spots",
        task="classification",
        labels=LABELS,
        channels=(cohorts.Channel("image", "OT", "1"),),
        splits=splits,
    )
    cohorts.save(made)
    return cohorts.load(folder)


# The loop.


def test_the_loop_is_one_story_of_less_than_150_lines():
    assert len(inspect.getsource(adversarial.train).splitlines()) < 150


def test_a_recipe_from_before_there_was_a_choice_trains_as_it_did(make_cohort, small_recipe, tmp_path):
    """The loop as it was, written out: logistic losses, lazy R1, DiffAugment, one reuse of the fakes."""
    cohort = make_cohort("generation", (3, 1, 1))
    chosen = small_recipe("generator", total_images=160, report_images=160)
    training.train(chosen, cohort, tmp_path / "run", device="cpu")

    _, reals = pictures.read(cohort, "training", chosen, 16, tmp_path)
    torch.manual_seed(seed_of(chosen.seed, "weights", 0))
    on = torch.device("cpu")
    made = placed(networks.build({"_target_": "models.networks.generator.Generator", **_numbers(chosen)}), on)
    critic = placed(Discriminator(16, 16), on)
    kept = average.start(made)
    betas = (chosen.optimiser.beta_1, chosen.optimiser.beta_2)
    optimisers = [torch.optim.Adam(net.parameters(), lr=1e-3, betas=betas) for net in (made, critic)]
    clock = Clock(chosen.schedule, None)
    gamma = 0.0002 * 16**2 / 8

    def shown(images: torch.Tensor) -> torch.Tensor:
        return translate_and_cut(images, chosen.loss.translation, chosen.loss.cutout, draw)

    for step in range(20):
        draw = start_step(chosen.seed, step)
        real = reals.images[torch.randint(len(reals.images), (8,), generator=draw)]
        fake = made(torch.randn(8, 16, generator=draw))
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = clock.learning_rate(8 * step, chosen.optimiser.learning_rate)
        loss = F.softplus(-critic(shown(real))).mean() + F.softplus(critic(shown(fake.detach()))).mean()
        if step % 16 == 0:
            at = shown(real).requires_grad_()
            (slope,) = torch.autograd.grad(critic(at).sum(), at, create_graph=True)
            loss = loss + 16 * gamma / 2 * slope.square().flatten(1).sum(1).mean()
        optimisers[1].zero_grad()
        loss.backward()
        optimisers[1].step()
        raised = F.softplus(-critic(shown(fake))).mean()
        optimisers[0].zero_grad()
        raised.backward()
        optimisers[0].step()
        average.follow(kept, made, 8 * (step + 1), 8, chosen.schedule.ema_half_life_images)

    trained = read_weights(tmp_path / "run" / "models" / "model.pt")
    assert all(torch.equal(trained[name], value) for name, value in kept.state_dict().items())


def _numbers(chosen: Any) -> dict[str, int]:
    return {name: getattr(chosen.network, name) for name in ("image_px", "features", "latent")}


VARIANTS: dict[str, dict[str, Any]] = {
    "least squares, smoothed and flipped, one batch": {
        "loss": {"kind": "least-squares", "label_smoothing": 0.1, "label_flipping": 0.1, "separate_batches": False}
    },
    "hinge, spectral norm, TTUR": {
        "loss": {"kind": "hinge"},
        "network": {"image_px": PX, "features": 16, "latent": 8, "spectral_norm": True},
        "optimiser": {"critic_learning_rate": 0.002},
    },
    "WGAN-GP, three critic steps": {
        "loss": {"kind": "wasserstein", "gradient_penalty": 10},
        "optimiser": {"critic_steps": 3, "beta_2": 0.9},
        "schedule": {"total_images": 192, "report_images": 96},
    },
    "WGAN, clipped, RMSprop": {
        "loss": {"kind": "wasserstein", "weight_clip": 0.01},
        "optimiser": {"kind": "rmsprop", "beta_2": 0.99, "critic_steps": 2, "clip_gradient_value": 1.0},
    },
    "Adadelta, batch norm, dropout": {
        "network": {
            "image_px": PX,
            "features": 16,
            "latent": 8,
            "norm": "batch",
            "critic_norm": "instance",
            "dropout": 0.3,
            "critic_dropout": 0.3,
        },
        "optimiser": {"kind": "adadelta", "learning_rate": 1.0},
    },
    "adaptive augmentation": {"adaptive": {"speed_images": 500}},
    "classes": {"conditional": True},
    "brain-wcgan G1 D2": {
        "conditional": True,
        "network": {
            "kind": "brain-wcgan",
            "generator": "G1",
            "critic": "D2",
            "image_px": PX,
            "features": 8,
            "latent": 64,
        },
        "loss": {"kind": "wasserstein", "gradient_penalty": 10},
        "alarms": "warn",
    },
    "pet-dcgan, faithful": {
        "network": {"kind": "pet-dcgan", "profile": "faithful", "image_px": 32},
        "loss": {"separate_batches": False, "translation": 0, "cutout": 0},
        "optimiser": {"kind": "rmsprop", "beta_2": 0.99, "r1_gamma": 0, "clip_gradient_value": 1.0},
        "schedule": {"ema_half_life_images": 1, "decay": "none", "total_images": 32, "report_images": 16},
    },
    "pet-dense-gan, corrected": {"network": {"kind": "pet-dense-gan", "profile": "corrected", "image_px": 32}},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_stopped_and_resumed_training_equals_one_that_was_not_for_every_choice(name, spots, tmp_path):
    chosen = small(**VARIANTS[name])
    training.train(chosen, spots, tmp_path / "whole", device="cpu")
    with pytest.raises(Stop):
        training.train(chosen, spots, tmp_path / "parts", progress=stop_at(chosen.schedule.total_images), device="cpu")
    training.train(chosen, spots, tmp_path / "parts", resume=True, device="cpu")
    assert same(tmp_path / "whole", tmp_path / "parts")
    assert (tmp_path / "whole" / "metrics.csv").read_text() == (tmp_path / "parts" / "metrics.csv").read_text()
    ends = [torch.load(tmp_path / run / "checkpoint.pt", weights_only=True) for run in ("whole", "parts")]
    assert ends[0]["adaptation"] == ends[1]["adaptation"] and ends[0]["alarms"] == ends[1]["alarms"]
    critics = [end["discriminator"] for end in ends]
    assert all(torch.equal(critics[0][key], critics[1][key]) for key in critics[0])
    assert all(
        torch.isfinite(value).all() for value in read_weights(tmp_path / "whole" / "models" / "model.pt").values()
    )


def test_every_step_of_the_critic_sees_fresh_reals(spots, tmp_path, monkeypatch):
    drawn = []

    def watched(self: Batches, count: int, source: torch.Generator) -> Any:
        images, labels = original(self, count, source)
        drawn.append(images)
        return images, labels

    original = Batches.draw
    monkeypatch.setattr(Batches, "draw", watched)
    chosen = small(**VARIANTS["WGAN-GP, three critic steps"])
    training.train(chosen, spots, tmp_path / "run", device="cpu")
    assert len(drawn) == 192 // 8  # images are those that the critic was shown
    assert not any(torch.equal(one, other) for one, other in itertools.pairwise(drawn))


def test_weights_of_a_clipped_critic_are_within_its_limit(spots, tmp_path):
    chosen = small(**VARIANTS["WGAN, clipped, RMSprop"])
    training.train(chosen, spots, tmp_path / "run", device="cpu")
    critic = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["discriminator"]
    assert max(float(weight.abs().max()) for weight in critic.values()) <= 0.01 + 1e-9


def test_a_cohort_of_one_grey_value_trains_without_a_number_that_is_none(spots, tmp_path):
    flat = tmp_path / "flat"
    splits = {}
    for split in cohorts.SPLITS:
        source = Source("1.2.840.10008.5.1.4.1.1.7", "2.25.1", "0" * 64)
        shown = Projection(np.full((20, 16), 90, np.float32), "1", source, (1.0, 1.0), "", "", "", "")
        splits[split] = tuple(
            cohorts.add_projection(flat, f"{split}{n}", shown, f"{split}{n}", label=0) for n in range(3)
        )
    made = Cohort(flat, "flat", "generation", (), (cohorts.Channel("image", "OT", "1"),), splits)
    cohorts.save(made)
    for name in ("WGAN-GP, three critic steps", "least squares, smoothed and flipped, one batch"):
        training.train(small(**VARIANTS[name]), cohorts.load(flat), tmp_path / name, device="cpu")
        weights = read_weights(tmp_path / name / "models" / "model.pt")
        assert all(torch.isfinite(value).all() for value in weights.values())


def test_patience_ends_a_training_that_gets_no_better(spots, tmp_path):
    """With a learning rate of next to nothing no report is better than the first."""
    chosen = small(
        optimiser={"learning_rate": 1e-12}, schedule={"total_images": 4000, "patience_reports": 2}, alarms="warn"
    )
    seen: list[dict[str, Any]] = []
    training.train(chosen, spots, tmp_path / "run", progress=seen.append, device="cpu")
    assert seen[-1]["kind"] == "done" and seen[-1]["images_seen"] < 1000
    with (tmp_path / "run" / "metrics.csv").open() as file:
        distances = [float(line["validation_kid"]) for line in csv.DictReader(file)]
    assert len(distances) == 3 and distances[0] == min(distances)
    assert seen[-1]["validation_kid"] == pytest.approx(min(distances), rel=1e-5)
    assert seen[-1]["reports_since_best"] == 2
    training.train(chosen, spots, tmp_path / "run", resume=True, device="cpu")  # it stays ended
    assert len((tmp_path / "run" / "metrics.csv").read_text().splitlines()) == len(distances) + 1


# Alarms.


def test_a_collapsed_generator_stops_the_run_and_a_healthy_one_does_not(spots, tmp_path):
    still = small(
        optimiser={"learning_rate": 1e-12}, schedule={"total_images": 256, "report_images": 32}, conditional=True
    )
    training.train(still, spots, tmp_path / "left alone", device="cpu")  # nothing to see

    run = tmp_path / "collapsed"
    with pytest.raises(Stop):
        training.train(still, spots, run, progress=stop_at(64), device="cpu")
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    for network in ("generator", "average"):
        state[network]["project.weight"] *= 0.001  # noise no longer reaches the picture
    torch.save(state, run / "checkpoint.pt")
    with pytest.raises(Rejected, match=r"samples of 'left' keep [01]% of the spread of real images.*`alarms: warn`"):
        training.train(still, spots, run, resume=True, device="cpu")
    assert not (run / "models").exists()
    with (run / "metrics.csv").open() as file:
        assert [float(line["spread"]) < 0.2 for line in csv.DictReader(file)][-3:] == [True] * 3


def test_a_run_that_is_to_go_on_is_warned_about_and_finishes(spots, tmp_path):
    # A critic without restraint that learns a thousand times faster is soon always right.
    chosen = small(
        optimiser={"learning_rate": 1e-9, "critic_learning_rate": 3e-3, "r1_gamma": 0},
        loss={"translation": 0, "cutout": 0},
        schedule={"total_images": 512},
        alarms="warn",
    )
    told = []
    training.train(chosen, spots, tmp_path / "run", progress=told.append, device="cpu")
    warnings = [event["message"] for event in told if event["kind"] == "warning"]
    assert any("the critic is right on" in sentence for sentence in warnings)
    assert (tmp_path / "run" / "models" / "model.pt").is_file()


def test_a_diverged_run_says_so(spots, tmp_path):
    chosen = small(optimiser={"learning_rate": 1e30, "kind": "rmsprop"}, schedule={"total_images": 512})
    with pytest.raises(Rejected, match="the loss is not finite"):
        training.train(chosen, spots, tmp_path / "run", device="cpu")


def test_batch_norm_under_a_gradient_penalty_is_warned_about(spots, tmp_path):
    told = []
    training.train(small(**VARIANTS["brain-wcgan G1 D2"]), spots, tmp_path / "run", progress=told.append, device="cpu")
    assert any("batch norm in the critic mixes" in event.get("message", "") for event in told)


# What a run leaves.


def test_the_sheets_of_all_reports_are_kept_as_frames_and_as_an_animation_marked_on_every_one(spots, tmp_path):
    chosen = small(schedule={"total_images": 128, "report_images": 32}, conditional=True)
    training.train(chosen, spots, tmp_path / "run", device="cpu")
    frames = sorted((tmp_path / "run" / "frames").iterdir())
    assert [int(frame.stem) for frame in frames] == [32, 64, 96, 128]
    with Image.open(frames[0]) as frame:
        assert frame.text["Synthetic"] == "YES"
        assert frame.size == (2 * PX, 14 + 8 * PX)  # a column for each of the two classes
    with Image.open(tmp_path / "run" / "training.gif") as animation:
        assert animation.n_frames == 4
        assert animation.info["comment"] == b"Synthetic=YES; Model=generator; Seed=0"
        for number in range(4):
            animation.seek(number)
            assert np.asarray(animation.convert("L"))[:12].max() > 200  # the mark on its face
            shown = np.asarray(animation.convert("L"))[13]
            assert (shown > 200).mean() == pytest.approx((number + 1) / 4, abs=0.05)  # how far the training was


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_tensorboard_shows_the_figures_of_metrics_csv_once_even_after_a_resume(spots, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    chosen, run = small(schedule={"total_images": 96}), tmp_path / "run"
    with pytest.raises(Stop):
        training.train(chosen, spots, run, progress=stop_at(64), device="cpu")
    training.train(chosen, spots, run, resume=True, device="cpu")
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    with (run / "metrics.csv").open() as file:
        lines = list(csv.DictReader(file))
    for name in ("loss", "critic_loss", "validation_kid", "spread"):
        shown = [(event.step, event.value) for event in events.Scalars(name)]
        assert shown == [(int(line["images_seen"]), pytest.approx(float(line[name]), rel=1e-5)) for line in lines]


def test_without_tensorboard_a_run_has_no_such_folder(spots, tmp_path, monkeypatch):
    monkeypatch.setattr("models.training.board.find_spec", lambda name: None)
    training.train(small(), spots, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run" / "tensorboard").exists()


# Classes.


@pytest.fixture(scope="session")
def sided(spots: Cohort, tmp_path_factory: pytest.TempPathFactory) -> generator.Generator:
    """A released generator of both sides, trained long enough to know left from right."""
    folder = tmp_path_factory.mktemp("sided")
    chosen = small(
        conditional=True,
        network={"image_px": PX, "features": 16, "latent": 8},
        loss={"cutout": 0},
        optimiser={"learning_rate": 2e-3},
        schedule={"total_images": 6400, "report_images": 1600, "batch_size": 16, "ema_half_life_images": 400},
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


def test_a_sample_of_a_label_depends_on_nothing_but_seed_number_and_label(sided):
    many = sided.sample(6, 5, "right")
    np.testing.assert_array_equal(many[:2], sided.sample(2, 5, "right"))
    np.testing.assert_array_equal(many, np.stack([each.image for each in sided.samples(6, 5, "right")]))
    assert not np.array_equal(many, sided.sample(6, 5, "left"))


def test_without_a_label_the_classes_come_in_the_shares_of_training_and_each_sample_keeps_its_own(sided):
    numbers = np.array([sided.class_of(9, index) for index in range(400)])
    assert numbers.mean() == pytest.approx(0.25, abs=0.06) and set(numbers) == {0, 1}
    mixed = sided.sample(12, 9)
    for index in range(12):
        label = LABELS[numbers[index]]
        np.testing.assert_array_equal(mixed[index], sided.sample(index + 1, 9, label)[index])


def test_labels_that_cannot_be_asked_for_are_refused_by_name(sided):
    with pytest.raises(Rejected, match=r"spots:1 makes left, right; it knows no label 'never seen'"):
        sided.sample(1, 0, "never seen")
    with pytest.raises(Rejected, match=r"spots:1 makes left, right; say which"):
        sided.require(None)
    sided.require("left")


def test_the_release_says_how_far_each_class_spreads_and_what_the_model_takes(sided):
    model = sided.model
    assert set(model.evaluation["spread"]) == {"left", "right"}
    assert all(0.2 < value < 3 for value in model.evaluation["spread"].values())
    assert model.description.label_slices == (72, 24, 0)
    assert model.metadata["network_data_format"]["inputs"]["label"]["value_range"] == [0, 2]
    assert model.network_definition["classes"] == 3
    jsonschema.validate(model.metadata, json.loads((Path(__file__).parent / "metadata_schema.json").read_text()))


def test_on_a_cohort_with_other_labels_the_spread_is_that_of_all_classes_together(sided, spots):
    renamed = replace(spots, labels=("a", "b", "c"))
    assert set(evaluate(sided.model.folder, renamed, draws=100)["spread"]) == {"all"}


def test_the_card_says_which_labels_can_be_asked_for_and_how_far_each_spreads(sided):
    card = (sided.model.folder / "docs" / "README.md").read_text()
    assert "Labels: left (72 training slices), right (24 training slices)." in card
    spread = sided.model.evaluation["spread"]
    assert f"left {spread['left']:.2f}, right {spread['right']:.2f}." in card


# `mirall generate --label`.

AT = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)


def test_generated_dicom_says_which_label_it_is_of(sided, tmp_path):
    made = pipeline.generate(sided.model.folder, tmp_path / "l", n=3, seed=7, label="left", made_at=AT)
    other = pipeline.generate(sided.model.folder, tmp_path / "r", n=3, seed=7, label="right", made_at=AT)
    assert made[0].finding == "3 pictures of left, seed 7"
    dataset = dcmread(made[0].path)
    assert dataset.SyntheticData == "YES" and "left" in dataset.SeriesDescription
    assert made[0].record.sop_instance_uid != other[0].record.sop_instance_uid
    frames = secondary_capture.read_back(dataset)
    np.testing.assert_allclose(frames, sided.sample(3, 7, "left")[:, 0], atol=255 / 65535)


def test_generated_files_bear_their_label_in_name_and_text(sided, tmp_path):
    common = {"n": 2, "seed": 7, "out": tmp_path}
    written = [
        path
        for label in ("left", "right")
        for path in pipeline.generate_files(sided.model.folder, label=label, form="png", **common)
    ]
    assert [path.name for path in written] == [
        f"spots-1-{label}-seed7-0000{n}.png" for label in ("left", "right") for n in (0, 1)
    ]
    with Image.open(written[2]) as shown:
        assert shown.text["Description"] == "right" and shown.text["Synthetic"] == "YES"
    volumes = [
        pipeline.generate_files(sided.model.folder, label=label, form="nifti", **common)[0]
        for label in ("left", "right")
    ]
    notes = [json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text())["note"] for path in volumes]
    assert [note["label"] for note in notes] == ["left", "right"]
    uids = [nifti.read_projection(path).source.sop_instance_uid for path in volumes]
    assert uids[0] != uids[1]


def test_a_model_of_classes_is_not_run_without_one_and_nothing_is_written(sided, tmp_path):
    with pytest.raises(Rejected, match="spots:1 makes left, right; say which"):
        pipeline.generate(sided.model.folder, tmp_path / "a", n=1, seed=0, made_at=AT)
    with pytest.raises(Rejected, match="it knows no label 'up'"):
        pipeline.generate_files(sided.model.folder, tmp_path / "b", n=1, seed=0, label="up", form="png")
    assert not list(tmp_path.iterdir())


def test_pictures_are_made_one_by_one_as_they_are_asked_for(sided):
    drawn = sided.samples(10**9, 3, "left")
    np.testing.assert_array_equal(next(drawn).image, sided.sample(1, 3, "left")[0])


def test_batches_hold_every_class_as_often(spots):
    chosen = small(conditional=True)
    _, reals = pictures.read(spots, "training", chosen, PX)
    batches = Batches(reals, LABELS)
    assert batches.counts == (72, 24, 0) and batches.present == [0, 1]
    source = torch.Generator().manual_seed(0)
    images, labels = batches.draw(4000, source)
    assert float((labels == 1).float().mean()) == pytest.approx(0.5, abs=0.03)
    assert (torch.from_numpy(brighter_side(images.numpy())) == labels).all()
    assert len(images.flatten(1).unique(dim=0)) == 96


def test_slices_have_their_own_labels(make_cohort):
    cohort = make_cohort("classification", (3, 1, 1))
    chosen = small(conditional=True, pixel_range=[0, 10], minimum_signal=0.02)
    read, squares = pictures.read(cohort, "training", chosen, PX)
    expected = torch.cat([case.labels for case in cases.load(cohort, cohort.training, ())])
    assert [outline.item for outline in read] == list(cohort.training)
    assert torch.equal(squares.labels, expected) and 0 < expected.sum() < len(expected)
    assert len(squares.patients) == len(squares.images)


def test_a_cohort_of_any_size_is_read_with_the_memory_of_two_cases_and_the_squares(make_cohort, monkeypatch):
    cohort = make_cohort("generation", (5, 1, 1))
    read, alive = [], []

    def watched(*given, real=cases.each, **named):
        for case in real(*given, **named):
            read.append(weakref.ref(case))
            alive.append(sum(each() is not None for each in read))
            yield case

    monkeypatch.setattr(cases, "each", watched)
    pictures.read(cohort, "training", small(), PX)
    assert len(read) == 5 and max(alive) == 2
    assert not any(each() for each in read)


def test_slices_that_are_left_out_take_their_labels_with_them(make_cohort):
    cohort = make_cohort("classification", (3, 1, 1))
    chosen = small(conditional=True, pixel_range=[0, 10])
    case = cases.load(cohort, cohort.training, pictures.input_chain(chosen))[0]
    dark = case.image.clone()
    dark[:, [0, 3]] = -1
    changed = cases.Case(case.item, case.source, dark, case.labels, None, case.spacing_mm)
    kept = cases.squares([changed], PX, 0.02)
    assert torch.equal(kept.labels, case.labels[[1, 2, 4]])
    torch.testing.assert_close(kept.images, cases.squares([case], PX, 0.0).images[[1, 2, 4]])


def test_a_conditional_recipe_needs_labels_and_more_than_one_class(make_cohort, spots, tmp_path):
    with pytest.raises(Rejected, match="conditional: cohort 'toy-generation' has no labels"):
        training.train(small(conditional=True), make_cohort("generation", (2, 1, 1)), tmp_path / "a", device="cpu")
    lefts = {split: tuple(item for item in items if item.label == 0) for split, items in spots.splits.items()}
    alone = Cohort(spots.folder, "lefts", "classification", LABELS, spots.channels, lefts)
    with pytest.raises(Rejected, match="training slices are of one class only"):
        training.train(small(conditional=True), alone, tmp_path / "b", device="cpu")
    unnamed = make_cohort("generation", (2, 1, 1), labels=("a", "b"))
    with pytest.raises(Rejected, match="has no label; give every item a label"):
        training.train(small(conditional=True), unnamed, tmp_path / "c", device="cpu")


def test_classes_with_few_patients_bring_a_warning_each(spots, tmp_path):
    told = []
    training.train(small(conditional=True), spots, tmp_path / "run", progress=told.append, device="cpu")
    warned = [event["message"] for event in told if event["kind"] == "warning"]
    assert [sentence.split(" are")[0] for sentence in warned] == [
        "12 training patients of 'left'",
        "13 training patients of 'right'",
    ]
