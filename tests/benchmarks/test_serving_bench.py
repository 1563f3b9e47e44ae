"""The benchmark of serving, small: that it runs, that its parts are what they say, and that it can fail."""

from __future__ import annotations

from pathlib import Path

import pytest
import serving
import torch

from dicom_io.cohort import Channel
from models.engine import Engine


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_every_engine_computes_the_network_of_the_version(tmp_path: Path) -> None:
    report = serving.network(tmp_path, 40, 1, compiled=False)
    assert set(report["batches"]) == {1, 16}
    for of in report["batches"].values():
        assert set(of["images_per_s"]) == {"served", "torch", "torch, channels last", "ONNX Runtime"}
        best = max(rate for name, rate in of["images_per_s"].items() if name != "served")
        assert of["of_best"] == pytest.approx(of["images_per_s"]["served"] / best)
    assert Engine.model_validate(report["served"]).largest_difference < 1e-5  # type: ignore[operator]
    images = torch.randn(2, 1, 40, 40)
    calls = serving.competitors(images, compiled=False)
    with torch.inference_mode():
        torch_, last, (onnx,) = (call() for call in calls.values())  # type: ignore[misc, assignment]
    torch.testing.assert_close(last, torch_, atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(torch.from_numpy(onnx), torch_, atol=1e-5, rtol=1e-3)


def test_a_study_is_read_predicted_written_and_stored(tmp_path: Path) -> None:
    (new,) = serving.write_patients("brain-mr", 1, tmp_path / "new", seed=8)
    model = tmp_path / "model"
    network = {"_target_": "models.networks.plain_unet.PlainUNet", "in_channels": 2, "classes": 2, "norm": "none"}
    network |= {"channels": [8, 12, 16], "first_kernel_px": 5}
    channels = tuple(Channel(name, "MR", "1", name) for name in ("T1", "FLAIR"))
    labels = ("background", "lesion")
    serving.untrained(model, network, (96, 96), task="segmentation", labels=labels, channels=channels)
    report = serving.study(new.files, model, tmp_path, 1)
    assert sorted(report["objects"]) == ["binary", "multi-frame", "report"]
    assert all(seconds > 0 for seconds in report["seconds"].values())
    rest = sum(report["seconds"].values()) - report["seconds"]["model"]
    assert report["overhead"] == pytest.approx(rest / report["seconds"]["model"])


def test_a_missed_bar_is_a_sentence() -> None:
    report = {
        "network": {"batches": {1: {"of_best": 0.96}, 16: {"of_best": 0.5}}},
        "study": {"small": {"overhead": 1.5}, "large": {"overhead": 0.2}},
    }
    assert serving.shortfalls(report) == [
        "network, 16 at once: 0.50 of the best engine is below 0.95",
        "study, small: all but the model take 1.50 times its time, above 1.0",
    ]
