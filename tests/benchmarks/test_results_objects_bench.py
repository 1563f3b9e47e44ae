"""The benchmark of result objects, small: that it runs, and that what it times is what it says."""

from __future__ import annotations

import sys

import pytest
import results_objects


def test_a_quick_run_times_both_writers_and_prints_their_ratio(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["results_objects.py", "--quick"])
    results_objects.main()
    said = capsys.readouterr().out
    figures = {line[:28].strip(): float(line[28:].split()[0]) for line in said.splitlines() if line.startswith("  ")}
    assert "40 x 512 x 512, 5 segments, 155 frames" in said
    assert figures["ratio"] == pytest.approx(figures["ours, labelled"] / figures["highdicom alone"], rel=0.2)
    assert 0 < figures["ours, labelled"] < figures["ours, to checked bytes"] < 10
    assert 0 < figures["labelled"] < 10


def test_both_writers_hold_the_same_labels() -> None:
    datasets = results_objects.sources(10)
    mask = results_objects.Volume(
        results_objects.balls(10),
        results_objects.made.affine(),
        "2.25.9903",
        "1",
        results_objects.made.references(datasets),
    )
    ours, theirs = results_objects.ours(mask, datasets)[0], results_objects.highdicom_alone(mask, datasets)
    assert ours.NumberOfFrames == theirs.NumberOfFrames > 30
    assert ours.PixelData == theirs.PixelData
