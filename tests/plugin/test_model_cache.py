"""Loaded models: kept while there is room, the longest unasked-for goes first, what changed on disk is loaded anew."""

from __future__ import annotations

import os
import shutil
from datetime import datetime
from pathlib import Path

import numpy as np
import oblique_studies as toy
import pytest
import torch
from pydicom import dcmread

from dicom_io import segmentation
from plugin import pipeline
from plugin.model_cache import ModelCache


def version_in(folder: Path, weights: int, text: str = "{}") -> Path:
    for name, content in (("configs/metadata.json", text), ("configs/inference.json", "{}")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    (folder / "models").mkdir(exist_ok=True)
    (folder / "models" / "model.pt").write_bytes(bytes(weights))
    return folder


@pytest.fixture
def asked() -> list[str]:
    return []


def test_a_model_is_loaded_once_for_all_who_ask_alike(tmp_path, asked):
    cache, folder = ModelCache(), version_in(tmp_path / "a", 10)
    first = cache.get(folder, lambda: asked.append("a") or object())
    assert cache.get(tmp_path / "b" / ".." / "a", lambda: asked.append("b") or object()) is first
    assert cache.get(folder, lambda: asked.append("half") or object(), "generator", 0.5) is not first
    assert asked == ["a", "half"]


def test_what_was_not_asked_for_longest_makes_room(tmp_path, asked):
    cache = ModelCache(most_bytes=250)
    a, b, c = (version_in(tmp_path / name, 80) for name in "abc")
    for folder in (a, b, a, c):
        cache.get(folder, lambda folder=folder: asked.append(folder.name) or object())
    assert asked == ["a", "b", "c"] and cache.folders == (a, c)
    cache.get(b, lambda: asked.append("b again") or object())
    assert asked[-1] == "b again" and cache.folders == (c, b)


def test_a_model_larger_than_all_room_is_kept_alone_until_another_is_asked_for(tmp_path, asked):
    cache = ModelCache(most_bytes=100)
    small, large = version_in(tmp_path / "small", 10), version_in(tmp_path / "large", 500)
    for folder in (small, large, large, small):
        cache.get(folder, lambda folder=folder: asked.append(folder.name) or object())
    assert asked == ["small", "large", "small"] and cache.folders == (small,)


def test_a_version_that_is_another_than_was_loaded_is_loaded_anew(tmp_path, asked):
    cache, folder = ModelCache(), version_in(tmp_path / "a", 10)
    cache.get(folder, lambda: asked.append("old") or object())
    version_in(folder, 10, '{"version": "2"}')
    os.utime(folder / "configs" / "metadata.json", ns=(1, 1))
    cache.get(folder, lambda: asked.append("new") or object())
    assert asked == ["old", "new"] and cache.folders == (folder,)


def test_a_load_that_fails_leaves_nothing_behind(tmp_path):
    cache, folder = ModelCache(), version_in(tmp_path / "a", 10)

    def broken() -> object:
        raise MemoryError

    with pytest.raises(MemoryError):
        cache.get(folder, broken)
    assert cache.folders == ()
    assert cache.get(folder, lambda: "mended") == "mended"


def test_new_weights_under_an_old_name_are_what_the_next_job_works_with(head_segmenter, tmp_path):
    """As an administrator has it who replaces a version in place: no restart, and no results under its old identity."""
    files = toy.write(tmp_path / "in", toy.mr("T1", 50), toy.mr("FLAIR", 50))
    folder = tmp_path / "version"
    shutil.copytree(head_segmenter.folder, folder)
    at = datetime(2026, 3, 4)
    before = pipeline.predict(files, folder, tmp_path / "before", made_at=at)
    path = folder / "models" / "model.pt"
    state = torch.load(path, weights_only=True)
    torch.save({name: torch.zeros_like(value) for name, value in state.items()}, path)
    after = pipeline.predict(files, folder, tmp_path / "after", made_at=at)
    assert before[0].record.model.content_hash != after[0].record.model.content_hash
    assert before[0].record.sop_instance_uid != after[0].record.sop_instance_uid
    masks = [np.asarray(segmentation.read(dcmread(made[0].path)).voxels) for made in (before, after)]
    assert not np.array_equal(*masks)
