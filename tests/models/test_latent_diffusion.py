"""Latent diffusion: an autoencoder that gives pictures back, latents of a known scale, two stages that resume."""

from __future__ import annotations

import csv
import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stopping import Stop, stop_at
from torch import nn

from dicom_io import cohort as cohorts
from dicom_io.cohort import Channel, Cohort, Item
from dicom_io.errors import Rejected
from dicom_io.volume import Source, Volume
from models import bundle, generator, networks, recipe, training
from models.generator import source_of
from models.networks.autoencoder import Autoencoder, divergence
from models.networks.latent_diffusion import LatentDiffusion
from models.recipe import Recipe
from models.training import compression, diffusion, pictures
from models.training.schedule import Clock
from models.version import read_weights

PX, LABELS = 16, ("background", "left", "right")
ON = torch.device("cpu")
LATENT = {"channels": 2, "widths": [8, 16], "residual_blocks": 1}


def small(**changes: Any) -> Recipe:
    """Of 16 px, latents of 8 px and 96 images; keys of `changes` are merged into the recipe's parts."""
    plain = recipe.load("latent-diffusion").model_dump(mode="json")
    plain["network"] |= {"image_px": PX, "channels": [8, 16], "attention_levels": 0}
    plain["latent"] |= LATENT | {"share": 0.5}
    plain["sampler"] |= {"steps": 6}
    plain |= {"minimum_signal": 0.0, "audit_samples": 32, "report_samples": 16, "mask": True, "pixel_range": [0, 8]}
    plain["evaluation"] = {"bootstrap_draws": 100}
    plain["schedule"] |= {"total_images": 96, "report_images": 16, "batch_size": 8, "precision": "float32"}
    plain["schedule"] |= {"warm_up_images": 0, "ema_half_life_images": 200}
    for key, value in changes.items():
        plain[key] = plain[key] | value if isinstance(plain[key], dict) else value
    return recipe.parse(plain, "small")


def study(seed: int) -> tuple[Volume, Volume, list[int]]:
    """8 slices of 20 x 16: a spot in the left or the right half, its outline as a label, and the side of each."""
    rng = np.random.default_rng(seed)
    row, column = np.mgrid[:20, :16]
    sides = rng.integers(0, 2, 8)
    at = [(rng.uniform(6, 14), rng.uniform(3, 4) + 8 * side) for side in sides]
    far = np.stack([(row - down) ** 2 + (column - across) ** 2 for down, across in at])
    voxels = (1 + 6 * np.exp(-far / 8) + 0.1 * rng.standard_normal(far.shape)).astype(np.float32)
    sources = tuple(Source("1.2.840.10008.5.1.4.1.1.4", f"2.25.{seed}{n}", f"{n:064x}") for n in range(8))
    shown = Volume(voxels, np.diag([3.0, 2.0, 1.5, 1.0]), "2.25.7", "1", sources)
    mask = (far < 8) * (1 + sides[:, None, None])
    return shown, shown.with_voxels(mask.astype(np.float32)), (1 + sides).tolist()


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    folder = tmp_path_factory.mktemp("sides")
    splits: dict[str, tuple[Item, ...]] = {}
    for split, owners in {"training": range(12), "validation": range(12, 16), "test": range(16, 20)}.items():
        items = []
        for owner in owners:
            shown, mask, labels = study(owner)
            items.append(
                cohorts.add_volume(folder, f"p{owner}", {"MR": shown}, f"p{owner}", mask=mask, slice_labels=labels)
            )
        splits[split] = tuple(items)
    cohorts.save(Cohort(folder, "sides", "segmentation", LABELS, (Channel("MR", "MR", "1"),), splits))
    return cohorts.load(folder)


@pytest.fixture(scope="module")
def trained(sides: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of image and mask, long enough to know left from right."""
    run = tmp_path_factory.mktemp("trained") / "run"
    chosen = small(
        conditional=True,
        latent={"learning_rate": 5e-3},
        sampler={"kind": "dpm-solver++", "steps": 8, "guidance": 2.0},
        optimiser={"learning_rate": 4e-3},
        network={"channels": [16, 32], "dropout": 0.0},
        schedule={"total_images": 4800, "report_images": 1200, "batch_size": 16},
    )
    training.train(chosen, sides, run, device="cpu")
    return run


@pytest.fixture(scope="module")
def released(trained: Path, sides: Cohort) -> generator.Generator:
    return generator.load(bundle.release(trained, sides, "sided", models_dir=trained.parent / "models").folder)


def lines_of(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def definition_of(run: Path) -> dict[str, Any]:
    definition: dict[str, Any] = json.loads((run / "configs" / "inference.json").read_text())["network_def"]
    return definition


def autoencoder_of(run: Path) -> Autoencoder:
    network = Autoencoder(3, **LATENT)
    network.load_state_dict(torch.load(run / "checkpoint.pt", weights_only=True)["autoencoder average"])
    return network.eval()


def made(**changes: Any) -> LatentDiffusion:
    """A small network with its first weights: F is 0, and D the best denoiser of white Gaussian latents."""
    arguments = {"image_px": 32, "planes": 1, "channels": [8, 16], "residual_blocks": 1, "attention_levels": 0}
    arguments |= {"latent": LATENT, "latent_mean": [0.3, -0.4], "latent_deviation": [0.12, 0.03], "classes": 0}
    arguments |= {"dropout": 0.0, "sampler": "heun", "steps": 40, "guidance": 1.0}
    arguments |= {"sigma_least": 0.002, "sigma_most": 80.0, "rho": 7.0}
    torch.manual_seed(5)
    built = networks.build({"_target_": "models.networks.latent_diffusion.LatentDiffusion"} | arguments | changes)
    assert isinstance(built, LatentDiffusion)
    return built.eval()


# The network.


@pytest.mark.parametrize("kind", ["heun", "dpm-solver++"])
def test_a_known_gaussian_of_latents_is_recovered_in_the_autoencoder_s_own_scale(kind):
    """Latents of N(0.3, 0.12^2) and N(-0.4, 0.03^2): four times apart, and both far from the 0.5 of the levels."""
    network = made(sampler=kind)
    network.decoder = nn.Identity()
    latents = network.make_many([source_of(1, index) for index in range(32)], None, ON)
    assert latents.shape == (32, 2, 16, 16)
    for plane, (mean, deviation) in enumerate([(0.3, 0.12), (-0.4, 0.03)]):
        assert float(latents[:, plane].mean()) == pytest.approx(mean, abs=0.05 * deviation)
        assert float(latents[:, plane].var()) == pytest.approx(deviation**2, rel=0.06)


def test_scaled_latents_are_what_pictures_are_made_of():
    network = made()
    network.decoder = nn.Identity()
    latents = torch.tensor([0.3 + 0.12, -0.4 - 0.06])[None, :, None, None].expand(1, 2, 16, 16)
    scaled = network.scaled(latents)
    torch.testing.assert_close(scaled[0, :, 3, 5], torch.tensor([0.5, -1.0]))
    torch.testing.assert_close(network.picture(scaled), latents)


def test_the_released_half_decodes_as_the_whole_does_and_cannot_encode():
    torch.manual_seed(2)
    whole, picture = Autoencoder(3, **LATENT), torch.rand(2, 3, 16, 24) * 2 - 1
    noise = torch.randn(2, 2, 8, 12)
    back, mean, deviation = whole(picture, noise)
    assert mean.shape == (2, 2, 8, 12) and back.shape == picture.shape
    torch.testing.assert_close(whole.decoder()(mean + deviation * noise), back)
    assert not any("encoder" in name or "quant_conv_mu" in name for name in made().state_dict())


def test_the_divergence_is_that_of_the_closed_form():
    mean, deviation = torch.tensor([[0.0, 1.5]]), torch.tensor([[1.0, 0.2]])
    laws = [torch.distributions.Normal(mean, deviation), torch.distributions.Normal(0.0, 1.0)]
    expected = torch.distributions.kl_divergence(*laws).mean()
    torch.testing.assert_close(divergence(mean, deviation), expected)
    assert torch.isfinite(divergence(mean, torch.zeros(1, 2)))


def test_a_definition_that_is_wrong_is_refused():
    with pytest.raises(Rejected, match=r"latent_deviation \[0.1, 0\] is not above 0"):
        made(latent_deviation=[0.1, 0])
    with pytest.raises(Rejected, match="is not above 0, or not of 2 channels"):
        made(latent_mean=[0.1])
    with pytest.raises(Rejected, match="data_mean"):
        made(data_mean=0.2)


# Two stages.


def test_both_loops_are_stories_of_less_than_150_lines():
    assert len(inspect.getsource(compression.train).splitlines()) < 150
    assert len(inspect.getsource(diffusion.train).splitlines()) < 150


def test_unseen_pictures_come_back_nearer_than_the_mean_picture(trained, sides):
    chosen = recipe.load(trained / "recipe.yaml")
    _, seen = pictures.read(sides, "training", chosen, PX)
    _, unseen = pictures.read(sides, "validation", chosen, PX)
    with torch.inference_mode():
        back, *_ = autoencoder_of(trained)(unseen.images, torch.zeros(()))
    apart = back.clamp(-1, 1) - unseen.images
    squared, of_mean = (float(each.square().mean()) for each in (apart, seen.images.mean(0) - unseen.images))
    assert squared < 0.3 * of_mean
    line = lines_of(trained)[-1]
    assert float(line["validation_pixel_error"]) == pytest.approx(float(apart.abs().mean()), abs=1e-4)
    psnr = 10 * np.log10(4 / squared)
    assert float(line["validation_psnr_db"]) == pytest.approx(psnr, abs=0.02)


def test_the_scale_of_the_latents_is_measured_and_stored(trained, sides):
    _, seen = pictures.read(sides, "training", recipe.load(trained / "recipe.yaml"), PX)
    with torch.inference_mode():
        mean, deviation = autoencoder_of(trained).encode(seen.images)
    drawn = mean + deviation * torch.randn(mean.shape, generator=torch.Generator().manual_seed(0))
    planes = drawn.transpose(0, 1).flatten(1)
    definition = definition_of(trained)
    assert definition["latent_mean"] == pytest.approx(planes.mean(1).tolist(), abs=0.02)
    assert definition["latent_deviation"] == pytest.approx(planes.std(1).tolist(), rel=0.02)
    network = generator.load(trained).network
    scaled = network.scaled(drawn).transpose(0, 1).flatten(1)
    torch.testing.assert_close(scaled.std(1), torch.full((2,), 0.5), atol=0.01, rtol=0)


def test_lines_say_which_stage_they_are_of_and_the_denoiser_follows(trained):
    lines = lines_of(trained)
    assert [line["stage"] for line in lines] == ["compression"] * 2 + ["denoising"] * 2
    assert [line["images_seen"] for line in lines] == ["1200", "2400", "3600", "4800"]
    assert [bool(line["validation_kid"]) for line in lines] == [False, False, True, True]
    assert float(lines[1]["loss"]) < 0.7 * float(lines[0]["loss"])
    assert float(lines[3]["loss"]) < float(lines[2]["loss"]) < 1
    # Nothing is shown of the first stage: it could only show patients.
    assert len([*(trained / "frames").iterdir()]) == 2


def test_the_autoencoder_stays_while_the_denoiser_trains(sides, tmp_path):
    kept = []

    def listen(event: dict[str, Any]) -> None:
        if event["kind"] == "report" and event["stage"] == "denoising":
            kept.append(torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True))

    training.train(small(), sides, tmp_path / "run", progress=listen, device="cpu")
    kept.append(torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True))
    first, last = kept[0]["autoencoder average"], kept[-1]["autoencoder average"]
    assert kept[0]["images_seen"] == 48 and kept[-1]["images_seen"] == 96
    assert all(torch.equal(first[name], last[name]) for name in first)
    weights = read_weights(tmp_path / "run" / "models" / "model.pt")
    torch.testing.assert_close(weights["decoder.0.conv.weight"], first["both.post_quant_conv.conv.weight"])
    assert not torch.equal(kept[1]["denoiser"]["unet.first.weight"], kept[-1]["denoiser"]["unet.first.weight"])


@pytest.mark.parametrize("stopped_at", [32, 48, 64, 80], ids=["first stage", "its end", "second begins", "second"])
def test_a_run_that_is_stopped_in_either_stage_and_resumed_ends_bit_equal(stopped_at, sides, tmp_path):
    chosen = small(conditional=True, augmentation={"flip_rows": True}, schedule={"warm_up_images": 24})
    training.train(chosen, sides, tmp_path / "whole", device="cpu")
    with pytest.raises(Stop):
        training.train(chosen, sides, tmp_path / "parts", progress=stop_at(stopped_at), device="cpu")
    left = torch.load(tmp_path / "parts" / "checkpoint.pt", weights_only=True)
    assert left["images_seen"] == stopped_at - 16
    training.train(chosen, sides, tmp_path / "parts", resume=True, device="cpu")
    one, other = (read_weights(tmp_path / run / "models" / "model.pt") for run in ("whole", "parts"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    for name in ("metrics.csv", "configs/metadata.json", "configs/inference.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()


def test_another_model_is_started_from_with_its_autoencoder_and_layers_are_frozen(trained, sides, tmp_path):
    plain = recipe.load(trained / "recipe.yaml").model_dump(mode="json")
    plain["schedule"] |= {"total_images": 64, "report_images": 32}
    plain["transfer"] = {"freeze": {"denoiser": ["unet.first"], "autoencoder": ["both.encoder"]}}
    training.train(recipe.parse(plain, "later"), sides, tmp_path / "run", start_from=trained, device="cpu")
    before = {"denoiser": read_weights(trained / "models" / "model.pt")} | {
        "autoencoder": read_weights(trained / "training" / "autoencoder.pt")
    }
    after = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    for name, frozen, moved in (
        ("denoiser", "unet.first.weight", "unet.last.2.weight"),
        ("autoencoder", "both.encoder.blocks.0.conv.weight", "both.decoder.blocks.0.conv.weight"),
    ):
        assert torch.equal(after[name][frozen], before[name][frozen])
        assert 0 < float((after[name][moved] - before[name][moved]).abs().mean()) < 0.05
    # Little moved, and so nearly as good as it was.
    assert float(lines_of(tmp_path / "run")[-1]["validation_psnr_db"]) > 16


def test_each_part_of_a_training_warms_up_and_decays_by_itself():
    schedule = small(schedule={"total_images": 1000, "warm_up_images": 99}).schedule
    clock = Clock(schedule, None)
    clock.part(0.0, 0.4)
    assert clock.learning_rate(0, 2.0) == pytest.approx(0.02, rel=1e-3)
    assert clock.learning_rate(200, 2.0) == pytest.approx(2 * (0.01 + 0.99 / 2))
    assert clock.learning_rate(400, 2.0) == pytest.approx(0.02)
    clock.part(0.4, 1.0, begun=400)
    assert clock.learning_rate(400, 2.0) == pytest.approx(0.02) and clock.within(400) == 0
    assert clock.learning_rate(700, 2.0) == pytest.approx(2 * (0.01 + 0.99 / 2))
    assert clock.within(1000) == 1 and clock.of_part(700) == 300


def test_an_autoencoder_that_diverges_says_what_was_seen(sides, tmp_path):
    chosen = small(latent={"learning_rate": 1e30})
    with pytest.raises(Rejected, match=r"the loss is not finite \(autoencoder (nan|inf)\); lower learning_rate"):
        training.train(chosen, sides, tmp_path / "run", device="cpu")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"network": {"image_px": 18}}, "network.image_px: 18 is no multiple of 4 "),
        ({"latent": {"widths": [8, 18]}}, "'latent': widths: .8, 18. are not all multiples of 4"),
        ({"latent": {"share": 1.0}}, "latent.share"),
        ({"latent": {"perceptual": 1.0}}, "latent.perceptual"),
    ],
)
def test_a_recipe_that_does_not_fit_names_the_key(change, sentence):
    with pytest.raises(Rejected, match=sentence):
        small(**change)


# What is made.


def test_a_picture_depends_on_nothing_but_seed_number_and_label(released):
    many = released.sample(4, 5, "right")
    assert many.shape == (4, 1, PX, PX)
    np.testing.assert_array_equal(many[:2], released.sample(2, 5, "right"))
    assert not np.array_equal(many, released.sample(4, 5, "left"))
    assert not np.array_equal(many[0], many[1])


def test_pictures_made_in_batches_are_those_made_one_by_one(released):
    network, labels = released.network, torch.arange(35) % 2 + 1
    many = network.make_many([source_of(4, index) for index in range(35)], labels, ON)
    for index in (0, 31, 32, 34):
        alone = network.make(source_of(4, index), int(labels[index]))
        torch.testing.assert_close(many[index], alone, atol=2e-3, rtol=0)


def test_image_and_mask_are_of_the_class_that_is_asked_for(released):
    for number, label in enumerate(("left", "right")):
        samples = [*released.samples(16, 3, label)]
        brighter = np.array([image[..., PX // 2 :].mean() > image[..., : PX // 2].mean() for image in images(samples)])
        assert (brighter == bool(number)).mean() > 0.85
        drawn = np.concatenate([sample.mask[sample.mask > 0] for sample in samples])
        assert len(drawn) > 16 * 5 and (drawn == number + 1).mean() > 0.85
        seen = [sample for sample in samples if sample.mask.any()]
        assert np.mean([each.image[0][each.mask > 0].mean() - each.image.mean() for each in seen]) > 1.5


def images(samples: list[generator.Sample]) -> list[np.ndarray]:
    return [sample.image for sample in samples]


def test_metadata_and_evaluation_know_the_noise_and_the_pictures(released):
    formats = released.model.metadata["network_data_format"]
    assert (formats["inputs"]["latent"]["num_channels"], formats["inputs"]["latent"]["spatial_shape"]) == (2, [8, 8])
    assert formats["outputs"]["pred"]["spatial_shape"] == [PX, PX] and formats["outputs"]["pred"]["num_channels"] == 3
    assert "privacy" in released.model.evaluation and set(released.model.evaluation["spread"]) == {"left", "right"}
