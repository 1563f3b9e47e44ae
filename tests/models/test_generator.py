"""Sampling."""

from __future__ import annotations

import hashlib
import json
import shutil

import numpy as np
import pytest
import torch

from dicom_io.errors import Rejected
from models import generator as generators


@pytest.fixture(scope="module")
def maker(generator) -> generators.Generator:
    return generators.load(generator.folder)


def test_how_many_are_asked_for_changes_no_picture(maker):
    many, few = maker.sample(7, seed=5), maker.sample(3, seed=5)
    np.testing.assert_array_equal(many[:3], few)


def test_a_seed_names_its_pictures(maker):
    np.testing.assert_array_equal(maker.sample(2, seed=8), maker.sample(2, seed=8))
    one, other = maker.sample(2, seed=8), maker.sample(2, seed=9)
    assert not np.array_equal(one, other)
    assert not np.array_equal(one[0], one[1])


def test_values_come_in_the_units_and_range_that_were_trained_on(maker):
    samples = maker.sample(4, seed=1)
    assert samples.dtype == np.float32 and samples.shape == (4, 1, 16, 16)
    assert maker.units == "g/ml{SUVbw}" and maker.pixel_range == (0.0, 10.0)
    assert samples.min() >= 0 and samples.max() <= 10


def test_the_spacing_is_that_of_the_scaled_slices(maker):
    down, across = maker.spacing_mm
    assert down == pytest.approx(2.1 * 40 / 16, rel=1e-3)  # 40 x 29 pixels, padded to 40 x 40, scaled to 16 x 16
    assert across == pytest.approx(1.7 * 40 / 16, rel=1e-3)


def test_a_label_that_was_never_learned_is_refused(maker):
    with pytest.raises(Rejected, match="toy-maker:1 makes unlabelled slices"):
        maker.sample(1, seed=0, label="malignant")


def test_a_version_from_before_there_were_classes_makes_the_very_same_pictures(generator, maker, tmp_path):
    old = tmp_path / "toy-maker"
    shutil.copytree(generator.folder, old)
    path = old / "configs" / "metadata.json"
    metadata = json.loads(path.read_text())
    del metadata["mirall"]["label_slices"]
    path.write_text(json.dumps(metadata))
    definition = json.loads((old / "configs" / "inference.json").read_text())["network_def"]
    assert definition.keys() == {"_target_", "image_px", "features", "latent"}
    loaded = generators.load(old)
    assert loaded.labels == () and loaded.class_of(5, 0) is None
    np.testing.assert_array_equal(loaded.sample(3, seed=5), maker.sample(3, seed=5))


def test_a_picture_is_the_network_s_answer_to_the_noise_of_seed_and_number(maker):
    """The rule that names every picture ever made: SHA-256 of ("sample", seed, number) seeds the noise."""
    digest = hashlib.sha256(b"sample\x005\x002").digest()
    source = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    with torch.inference_mode():
        image = maker.network(torch.randn(16, generator=source)[None])[0, 0].numpy()
    np.testing.assert_array_equal(maker.sample(3, seed=5)[2, 0], ((image + 1) / 2 * 10).astype(np.float32))


def test_a_predictor_is_no_generator(segmenter):
    with pytest.raises(Rejected, match="toy-lesions:1 is a predictor"):
        generators.load(segmenter.folder)


# Settings of a request.


def test_truncated_noise_stays_within_and_is_otherwise_the_noise_of_the_seed(generator):
    made = generators.load(generator.folder, truncation=0.8)
    noise = made.network.noise(400, torch.Generator().manual_seed(3))
    plain = torch.randn(400, 16, generator=torch.Generator().manual_seed(3))
    inside = plain.abs() <= 0.8
    assert float(noise.abs().max()) <= 0.8 and torch.equal(noise[inside], plain[inside])
    # Of a normal law cut off at 0.8 the variance is 1 - 2 * 0.8 * density(0.8) / P(|z| < 0.8).
    assert float(noise.var()) == pytest.approx(1 - 2 * 0.8 * 0.28969 / 0.57629, abs=0.02)
    assert made.sample(1, seed=4).tolist() == generators.load(generator.folder, truncation=0.8).sample(1, 4).tolist()
    assert made.sample(1, seed=4).tolist() != generators.load(generator.folder).sample(1, 4).tolist()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"guidance": 2.0}, "toy-maker:1 is no diffusion model with classes"),
        ({"truncation": 0.01}, r"truncation 0.01 is no number from 0.1 on; take 0.5 to 1"),
        ({"truncation": float("nan")}, r"truncation nan is no number from 0.1 on"),
        ({"truncation": float("inf")}, r"truncation inf is no number from 0.1 on"),
    ],
)
def test_settings_that_a_network_has_not_are_refused(generator, settings, said):
    with pytest.raises(Rejected, match=said):
        generators.load(generator.folder, **settings)
