"""Translation without pairs: no patient is shown of both kinds, and cycles find the way that pairs would show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import toy_pairs
from stopping import Stop, stop_at

from dicom_io.cohort import Cohort
from dicom_io.errors import Rejected
from models import training, version
from models.evaluate import evaluate
from models.training import couples
from models.training.pool import Pool
from models.version import read_weights


def small(**changes: Any) -> Any:
    return toy_pairs.small("unpaired-translator", **changes)


@pytest.fixture(scope="session")
def negatives(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return toy_pairs.write(tmp_path_factory.mktemp("negatives"), toy_pairs.inverted)


@pytest.fixture(scope="session")
def inverting(negatives: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("inverting") / "run"
    chosen = small(
        network={"norm": "none", "residual_blocks": 1},
        optimiser={"learning_rate": 2e-3},
        loss={"identity": 0.0, "cycle": 5.0},
        schedule={"total_images": 2400, "report_images": 400, "batch_size": 8},
    )
    training.train(chosen, negatives, run, device="cpu")
    return run


def test_an_inversion_is_found_without_a_pair(inverting, negatives):
    report = evaluate(inverting, negatives, draws=200)
    error = report["metrics"]["absolute_error"]["value"]
    assert error < 0.3 * report["baselines"]["still as it is"]["absolute_error"]["value"]


def test_of_no_patient_both_kinds_are_shown(negatives):
    _, pairs = couples.read(negatives, "training", small(), 16)
    ours, theirs = couples.halves(pairs)
    assert set(ours.patients).isdisjoint(theirs.patients)
    assert {*ours.patients, *theirs.patients} == {item.patient for item in negatives.training}
    assert len(ours.images) == len(ours.given) == len(ours.boxes) == len(ours.patients)


def test_a_single_patient_cannot_be_parted(tmp_path):
    cohort = toy_pairs.write(tmp_path, toy_pairs.inverted, (1, 1, 1))
    with pytest.raises(Rejected, match="takes two or more"):
        training.train(small(), cohort, tmp_path / "run", device="cpu")


def test_a_stopped_and_resumed_run_ends_bit_equal(negatives, tmp_path):
    """With pools that are full, so that what they hold and draw counts."""
    chosen = small(pool_images=6, schedule={"total_images": 96})
    training.train(chosen, negatives, tmp_path / "whole", device="cpu")
    with pytest.raises(Stop):
        training.train(chosen, negatives, tmp_path / "parts", progress=stop_at(64), device="cpu")
    training.train(chosen, negatives, tmp_path / "parts", resume=True, device="cpu")
    first, second = (read_weights(tmp_path / run / "models" / "model.pt") for run in ("whole", "parts"))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert (tmp_path / "whole" / "metrics.csv").read_text() == (tmp_path / "parts" / "metrics.csv").read_text()


def test_the_way_there_is_released_alone(inverting):
    described = version.load(inverting)
    given = described.description.given
    assert given is not None and given.kind == "channels"
    assert [channel.name for channel in given.channels] == ["still"]
    assert [channel.name for channel in described.description.channels] == ["moved"]


def test_a_pool_gives_back_what_it_is_given_until_it_is_full_and_half_of_it_then():
    pool, draw = Pool(20), torch.Generator().manual_seed(0)
    numbered = torch.arange(400.0)[:, None, None, None]
    first = pool.exchange(numbered[:20], draw)
    assert torch.equal(first, numbered[:20])
    shown = torch.cat([pool.exchange(part, draw) for part in numbered[20:].split(20)])
    earlier = (shown != numbered[20:]).float().mean()
    assert 0.4 < float(earlier) < 0.6
    assert float((shown - numbered[20:]).max()) <= 0
    again = Pool(20)
    again.load_state_dict(pool.state_dict())
    assert torch.equal(again.state_dict()["held"], pool.state_dict()["held"])


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"source": ["still", "moved"], "loss": {"identity": 1.0}}, "loss.identity"),
        ({"network": {"window_px": 17}}, "window_px"),
        ({"mask": True}, "mask"),
    ],
)
def test_what_does_not_fit_is_named(changes, key):
    with pytest.raises(Rejected, match=key):
        small(**changes)
