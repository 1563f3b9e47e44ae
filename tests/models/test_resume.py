"""Killed at any moment and resumed, a training ends in the very weights of one that was left alone."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from stopping import Stop, same, stop_at

from dicom_io import cohort as cohorts
from dicom_io.errors import Rejected
from models import recipe, training
from models.training import checkpoint

KINDS = [("segmenter", "segmentation"), ("classifier", "classification"), ("generator", "generation")]


@pytest.mark.parametrize(("name", "task"), KINDS)
def test_a_stopped_and_resumed_run_ends_bit_equal(name, task, make_cohort, small_recipe, tmp_path):
    cohort = make_cohort(task, (3, 1, 1))
    chosen = small_recipe(name, total_images=128, report_images=32)
    training.train(chosen, cohort, tmp_path / "whole", device="cpu")
    # The report at 64 is written, its checkpoint is not: the run goes on from 32.
    with pytest.raises(Stop):
        training.train(chosen, cohort, tmp_path / "parts", progress=stop_at(64), device="cpu")
    assert checkpoint.load(tmp_path / "parts" / "checkpoint.pt", _fingerprint(tmp_path / "parts"))["images_seen"] == 32
    training.train(chosen, cohort, tmp_path / "parts", resume=True, device="cpu")
    assert same(tmp_path / "whole", tmp_path / "parts")
    assert (tmp_path / "whole" / "metrics.csv").read_text() == (tmp_path / "parts" / "metrics.csv").read_text()
    assert (tmp_path / "whole" / "configs" / "metadata.json").read_bytes() == (
        tmp_path / "parts" / "configs" / "metadata.json"
    ).read_bytes()


def _fingerprint(run: Path) -> str:
    return torch.load(run / "checkpoint.pt", weights_only=True)["fingerprint"]


def test_a_run_killed_with_signal_9_and_resumed_ends_bit_equal(make_cohort, small_recipe, tmp_path):
    cohort = make_cohort("segmentation", (3, 1, 1))
    chosen = small_recipe("segmenter", total_images=640, report_images=32)
    file = tmp_path / "recipe.yaml"
    file.write_text(recipe.dump(chosen))
    training.train(chosen, cohort, tmp_path / "whole", device="cpu")

    code = (
        "import sys, torch; torch.set_num_threads(1)\n"
        "from pathlib import Path\nfrom dicom_io import cohort\nfrom models import recipe, training\n"
        "training.train(recipe.load(sys.argv[1]), cohort.load(Path(sys.argv[2])), Path(sys.argv[3]), device='cpu')"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(file), str(cohort.folder), str(tmp_path / "killed")],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent.parent.parent)},
    )
    metrics = tmp_path / "killed" / "metrics.csv"
    deadline = time.monotonic() + 60
    while not (metrics.exists() and metrics.read_text().count("\n") > 3) and time.monotonic() < deadline:
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "models").exists()

    training.train(chosen, cohort, tmp_path / "killed", resume=True, device="cpu")
    assert same(tmp_path / "whole", tmp_path / "killed")
    assert metrics.read_text() == (tmp_path / "whole" / "metrics.csv").read_text()


def test_resuming_a_finished_run_trains_no_further(segmentation_run):
    run, cohort, chosen = segmentation_run
    before = (run / "models" / "model.pt").read_bytes()
    training.train(chosen, cohort, run, resume=True, device="cpu")
    assert (run / "models" / "model.pt").read_bytes() == before


def test_a_checkpoint_is_the_old_one_or_the_new_one(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, {"fingerprint": "f", "step": 1})

    def break_off(content, file):
        file.write(b"half a checkpo")
        raise Stop

    monkeypatch.setattr(torch, "save", break_off)
    with pytest.raises(Stop):
        checkpoint.save(path, {"fingerprint": "f", "step": 2})
    assert checkpoint.load(path, "f")["step"] == 1


def test_metrics_name_every_report_once(segmentation_run):
    with (segmentation_run[0] / "metrics.csv").open() as file:
        seen = [int(line["images_seen"]) for line in csv.DictReader(file)]
    assert seen == sorted(set(seen)) == [800, 1600]


def test_data_that_changed_since_the_checkpoint_are_refused(make_cohort, small_recipe, tmp_path):
    cohort = make_cohort("segmentation", (2, 1, 1))
    chosen = small_recipe("segmenter", total_images=32, report_images=16)
    with pytest.raises(Stop):
        training.train(chosen, cohort, tmp_path / "run", progress=stop_at(32), device="cpu")
    listing = cohort.folder / "datalist.json"
    listing.write_text(listing.read_text().replace("toy-segmentation", "another"))
    with pytest.raises(Rejected, match="another recipe or cohort"):
        training.train(chosen, cohorts.load(cohort.folder), tmp_path / "run", resume=True, device="cpu")
