"""Diffusion of pictures of masks: what is laid beside the noise, what is hidden, and what pictures come of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_diffusion_models import Stop, stirred, stop_at
from toy_pairs import BRIGHTNESS, painted, write

from dicom_io.cohort import Cohort
from dicom_io.errors import Rejected
from models import bundle, from_pictures, generator, recipe, training
from models.from_pictures import Painter
from models.generator import source_of
from models.networks.from_picture import FromPicture
from models.recipe import Recipe
from models.training import diffusion
from models.version import read_weights

PX, ON = 16, torch.device("cpu")


def small(**changes: Any) -> Recipe:
    plain = recipe.load("mask-diffusion").model_dump(mode="json")
    plain |= {"pixel_range": [0, 1], "minimum_signal": 0.0, "audit_samples": 32, "report_samples": 16}
    plain["network"] |= {"image_px": PX, "channels": [8, 16], "attention_levels": 0, "dropout": 0.0}
    plain["sampler"] |= {"steps": 6}
    plain["schedule"] |= {"total_images": 96, "report_images": 16, "batch_size": 8, "precision": "float32"}
    plain["schedule"] |= {"warm_up_images": 0, "ema_half_life_images": 200}
    plain["evaluation"] = {"bootstrap_draws": 100}
    for key, value in changes.items():
        plain[key] = plain[key] | value if isinstance(plain[key], dict) else value
    return recipe.parse(plain, "small")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """A bright ellipse in a grey box, each slice darker or brighter as a whole."""
    return write(tmp_path_factory.mktemp("drawn"), painted)


@pytest.fixture(scope="module")
def painter(drawn: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Painter:
    folder = tmp_path_factory.mktemp("painter")
    chosen = small(
        network={"channels": [16, 32]},
        optimiser={"learning_rate": 4e-3},
        schedule={"total_images": 2400, "report_images": 1200, "batch_size": 16},
    )
    training.train(chosen, drawn, folder / "run", device="cpu")
    made = bundle.release(folder / "run", drawn, "painter", models_dir=folder / "models")
    loaded = from_pictures.load(made.folder)
    assert isinstance(loaded, Painter)
    return loaded


def masks(count: int) -> np.ndarray:
    """(count, 28, 22) label numbers that training has not seen."""
    return np.stack([painted(900 + number)["mask"][0] for number in range(count)])


# The network.


def test_a_mask_changes_the_answer_and_zeros_say_that_there_is_none():
    network = stirred(given=2)
    source = torch.Generator().manual_seed(1)
    noisy, sigma = torch.randn((3, 1, PX, PX), generator=source), torch.tensor([0.1, 1.0, 9.0])
    mask = torch.randn((3, 2, PX, PX), generator=source).sign()
    with torch.inference_mode():
        without, of_mask = network(noisy, sigma), network(noisy, sigma, None, mask)
        assert not torch.allclose(of_mask, without, atol=1e-3)
        torch.testing.assert_close(network(noisy, sigma, None, torch.zeros_like(mask)), without)
        assert torch.equal(network.guided(noisy, sigma, None, mask), of_mask)
        network.guidance = 2.5
        expected = without + 2.5 * (of_mask - without)
        torch.testing.assert_close(network.guided(noisy, sigma, None, mask), expected)


def test_a_mask_of_more_pixels_is_shown_as_the_share_of_a_pixel_that_it_covers():
    network = stirred(given=1)
    noisy, sigma = torch.randn((1, 1, PX, PX), generator=torch.Generator().manual_seed(1)), torch.tensor([0.5])
    fine = torch.full((1, 1, 4 * PX, 4 * PX), -1.0)
    fine[..., 4:8, 8:10] = 1
    coarse = torch.full((1, 1, PX, PX), -1.0)
    coarse[..., 1, 2] = 0
    with torch.inference_mode():
        torch.testing.assert_close(network(noisy, sigma, None, fine), network(noisy, sigma, None, coarse))


def test_pictures_of_masks_made_in_batches_are_those_made_one_by_one():
    network = stirred(given=1, steps=8, guidance=1.5)
    assert isinstance(network, FromPicture)
    given = torch.randn((35, 1, PX, PX), generator=torch.Generator().manual_seed(1)).sign()
    many = network.make_many_from(given, [source_of(4, index) for index in range(35)], ON)
    for index in (0, 31, 32, 34):
        alone = network.make_from(given[index], source_of(4, index))
        torch.testing.assert_close(many[index], alone, atol=2e-3, rtol=0)


# Training.


def test_masks_are_drawn_with_their_pictures_and_hidden_in_their_share(drawn, tmp_path, monkeypatch):
    told, whole = [], []
    original = diffusion.drawn

    def watched(*arguments: Any) -> Any:
        clean, labels, given = original(*arguments)
        assert labels is None
        told.append(given)
        whole.append(clean)
        return clean, labels, given

    monkeypatch.setattr(diffusion, "drawn", watched)
    chosen = small(loss={"label_dropout": 0.3}, schedule={"total_images": 400, "report_images": 400, "batch_size": 40})
    training.train(chosen, drawn, tmp_path / "run", device="cpu")
    given, clean = torch.cat(told), torch.cat(whole)
    hidden = (given == 0).flatten(1).all(1)
    assert float(hidden.float().mean()) == pytest.approx(0.3, abs=0.07)
    # Label 1 is the bright one, label 2 the grey box around it: 0.9 and 0.5 on [0, 1] are 0.8 and 0 on [-1, 1].
    for plane, brightness in enumerate(BRIGHTNESS[1:]):
        inside = given[:, plane] > 0.99
        assert float(clean[:, 0][inside].mean()) == pytest.approx(2 * brightness - 1, abs=0.06)


@pytest.mark.parametrize("latent", [False, True], ids=["pixels", "latents"])
def test_a_stopped_and_resumed_run_ends_bit_equal(latent, drawn, tmp_path):
    first = recipe.load("latent-diffusion").model_dump(mode="json")["latent"] | {"widths": [8, 16], "share": 0.5}
    chosen = small(augmentation={"flip_rows": True}, latent=first if latent else None)
    training.train(chosen, drawn, tmp_path / "whole", device="cpu")
    with pytest.raises(Stop):
        training.train(chosen, drawn, tmp_path / "parts", progress=stop_at(80), device="cpu")
    training.train(chosen, drawn, tmp_path / "parts", resume=True, device="cpu")
    one, other = (read_weights(tmp_path / run / "models" / "model.pt") for run in ("whole", "parts"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    made = from_pictures.load(tmp_path / "whole")
    assert isinstance(made, Painter) and made.paint(masks(2), 3, [0, 1]).shape == (1, 2, 28, 22)


# What is made.


def test_a_picture_has_the_brightness_of_its_mask_s_labels(painter):
    numbers = masks(12)
    made = painter.paint(numbers, 5, list(range(12)))[0]
    assert made.shape == numbers.shape
    for label, brightness in enumerate(BRIGHTNESS):
        assert float(made[numbers == label].mean()) == pytest.approx(brightness, abs=0.12)


def test_another_draw_of_noise_is_another_picture_of_the_same_mask_and_the_same_is_the_same(painter):
    numbers = np.repeat(masks(1), 3, 0)
    first = painter.paint(numbers, 5, [0, 1, 0])[0]
    np.testing.assert_array_equal(first[0], first[2])
    assert np.abs(first[0] - first[1]).max() > 0.02
    np.testing.assert_array_equal(painter.paint(numbers[:1], 5, [1])[0, 0], first[1])


def test_its_version_says_that_it_is_given_masks_and_is_audited_on_them(painter):
    description = painter.model.description
    assert description.given.kind == "mask" and painter.labels == ("bright", "grey")
    inputs = painter.model.metadata["network_data_format"]["inputs"]
    assert inputs["image"]["channel_def"] == {"0": "mask of bright", "1": "mask of grey"}
    assert inputs["code"]["spatial_shape"] == [PX, PX]
    assert {"privacy", "privacy_of_training_masks", "style", "mask"} <= set(painter.model.evaluation)
    with pytest.raises(Rejected, match="makes pictures of a mask"):
        generator.load(painter.model.folder)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"mask": True}, "mask: masks are given here"),
        ({"conditional": True}, "conditional, only: what is given says what to make"),
        ({"augmentation": {"gain": 0.1}}, "augmentation.gain changes grey levels"),
        ({"source": None}, "sampler.guidance pulls towards a class or a mask"),
        ({"source": "coarse"}, "source"),
    ],
)
def test_a_recipe_that_does_not_fit_names_the_key(change: dict[str, Any], sentence: str):
    with pytest.raises(Rejected, match=sentence):
        small(**change)


def test_a_cohort_without_masks_is_refused(make_cohort: Callable[..., Cohort], tmp_path: Path):
    with pytest.raises(Rejected, match="source: cohort 'toy-generation' has no labels that a mask could show"):
        training.train(small(), make_cohort("generation", (2, 1, 1)), tmp_path / "run")
