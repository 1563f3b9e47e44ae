"""The autoencoder that is given a patient's picture beside noise: it repeats it, is found out, and goes nowhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from stopping import Stop, same, stop_at
from test_variational import cohort_of, picture, small

from dicom_io.cohort import Cohort
from dicom_io.errors import Rejected
from models import bundle, from_pictures, generator, training, version
from models.evaluate import evaluate, verdict
from models.generator import source_of
from models.networks.variation import Variation
from models.recipe import Recipe
from models.reports import figures
from models.reports.parts import markdown

NETWORK = {"image_px": 16, "features": 8, "latent": 6, "blocks": 3}


def varying(**changes: Any) -> Recipe:
    plain = {"source": "image", "conditional": False, "network": NETWORK, "audit_samples": 48, "alarms": "warn"}
    return small(**plain | changes)


@pytest.fixture(scope="module")
def spots(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return cohort_of(tmp_path_factory.mktemp("spots"), picture, (96, 32, 32))


@pytest.fixture(scope="module")
def run(spots: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("varying") / "run"
    schedule = {"total_images": 3200, "report_images": 1600}
    chosen = varying(schedule=schedule, loss={"pixel_scale": 0.05}, optimiser={"learning_rate": 3e-3})
    training.train(chosen, spots, folder, device="cpu")
    return folder


def test_maps_of_every_level_reach_the_picture_and_so_does_the_noise():
    torch.manual_seed(3)
    network = Variation(16, 8, 6, 3, "residual", 2)
    given = torch.rand(3, 2, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    noise = torch.randn(3, 6, generator=torch.Generator().manual_seed(2))
    made, (mean, log_variance), prior = network(given, noise)
    assert made.shape == given.shape and mean.shape == log_variance.shape == (3, 6)
    assert not any(law.any() for law in prior)
    assert not torch.equal(made, network(given, -noise)[0])
    made.square().sum().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in network.parameters())


def test_a_picture_is_a_function_of_what_is_given_and_its_source(run):
    network = version.load(run).network()
    given = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    many = network.make_many_from(given, [source_of(1, index) for index in range(4)], torch.device("cpu"))
    for index in range(4):
        torch.testing.assert_close(network.make_from(given[index], source_of(1, index)), many[index], atol=1e-5, rtol=0)


def test_the_copy_audit_finds_the_patients_in_it(run, spots):
    report = evaluate(run, spots, draws=100)
    audit = report["privacy"]["spaces"]["small_pixels"]
    assert audit["copy_rate"]["value"] > 0.8 and not report["privacy"]["passed"]
    assert "| small pixels |" in "\n".join(markdown(figures.parts(report)))
    assert verdict(report) == ("unproven", "pictures are variations of patients' own, which repeat them")


@pytest.mark.parametrize("serve", [generator.load, from_pictures.load], ids=["of noise", "of pictures"])
def test_it_is_not_served(run, serve):
    with pytest.raises(Rejected, match=r"variations of pictures .* neither released nor served; train one from noise"):
        serve(run)


def test_it_is_not_released(run, spots, tmp_path):
    with pytest.raises(Rejected, match="neither released nor served"):
        bundle.release(run, spots, "varying", models_dir=tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_a_stopped_and_resumed_training_ends_bit_equal(spots, tmp_path):
    training.train(varying(), spots, tmp_path / "whole", device="cpu")
    with pytest.raises(Stop):
        training.train(varying(), spots, tmp_path / "parts", progress=stop_at(32), device="cpu")
    training.train(varying(), spots, tmp_path / "parts", resume=True, device="cpu")
    assert same(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"served_px": 12}, "leave conditional, mask and served_px out"),
        ({"conditional": True}, "source: the picture that is given says what to make"),
        ({"network": {"kind": "dense", "image_px": 16}}, "source: a dense network has no maps"),
        ({"network": NETWORK | {"links": "skip"}}, "source: the encoder's maps go around the latent already"),
        ({"source": "mask"}, "source"),
    ],
)
def test_what_it_cannot_be_is_refused(changes, reason):
    with pytest.raises(Rejected, match=reason):
        varying(**changes)
