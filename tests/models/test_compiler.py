"""Compiled networks train to the weights of others, and leave the same files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import test_adversarial
import test_diffusion_models
import test_variational
import torch
import toy_pairs
from test_variational import cohort_of, picture
from torch import nn

from dicom_io.cohort import Cohort
from dicom_io.errors import Rejected
from models import recipe, training
from models.recipe import Recipe
from models.training import compiler
from models.version import read_weights

DENSE = {"kind": "dense", "image_px": 16, "latent": 4, "widths": [24, 12]}
RECIPES: dict[str, Recipe] = {
    "R1": test_adversarial.small(),
    "gradient penalty": test_adversarial.small(loss={"kind": "wasserstein", "gradient_penalty": 10}),
    "variational": test_variational.small(network=DENSE),
    "diffusion": test_diffusion_models.small(),
}


@pytest.fixture(scope="module")
def spots(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return cohort_of(tmp_path_factory.mktemp("spots"), picture, (96, 32, 32))


def both(chosen: Recipe, spots: Cohort, folder: Path) -> None:
    """Trained as it is, and compiled; the same names and, but for rounding, the same weights."""
    for compiled in (False, True):
        training.train(chosen, spots, folder / str(compiled), device="cpu", compiled=compiled)
    plain, made = (read_weights(folder / name / "models" / "model.pt") for name in ("False", "True"))
    assert plain.keys() == made.keys()
    assert all(torch.allclose(plain[name], made[name], atol=2e-4) for name in plain)
    kept, also = (torch.load(folder / name / "checkpoint.pt", weights_only=True) for name in ("False", "True"))
    networks = [name for name, held in kept.items() if isinstance(held, dict)]
    assert {name: kept[name].keys() for name in networks} == {name: also[name].keys() for name in networks}


@pytest.mark.parametrize("name", RECIPES)
def test_a_network_that_was_traced_ends_in_the_same_weights(name, spots, tmp_path, monkeypatch):
    """Traced, forward and backward, but run by torch: a compiler takes a minute for what a test says in seconds."""
    traced: list[nn.Module] = []
    compile_it = nn.Module.compile

    def trace(network: nn.Module, **_: Any) -> None:
        traced.append(network)
        compile_it(network, backend="aot_eager")

    monkeypatch.setattr(nn.Module, "compile", trace)
    monkeypatch.setattr(compiler, "require", lambda *_: None)
    both(RECIPES[name], spots, tmp_path)
    assert len(traced) == (1 if name in ("variational", "diffusion") else 2)


def test_all_four_networks_of_an_unpaired_training_are_compiled(tmp_path, monkeypatch):
    asked: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda network, **_: asked.append(network))
    monkeypatch.setattr(compiler, "require", lambda *_: None)
    cohort = toy_pairs.write(tmp_path / "c", toy_pairs.inverted, (2, 2, 1))
    chosen = toy_pairs.small("unpaired-translator", schedule={"total_images": 8})
    training.train(chosen, cohort, tmp_path / "run", device="cpu", compiled=True)
    assert sorted(type(each).__name__ for each in asked) == ["PatchCritic"] * 2 + ["Translator"] * 2


@pytest.mark.skipif(not shutil.which("g++"), reason="there is no g++")
def test_a_compiled_network_ends_in_the_same_weights(spots, tmp_path):
    both(RECIPES["variational"], spots, tmp_path)


def test_a_machine_without_a_compiler_is_told_so(spots, tmp_path, monkeypatch):
    def broken(*_: Any) -> Any:
        raise RuntimeError("Failed to find C++ compiler\nand so on")

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(Rejected, match=r"does not work here \(Failed to find C\+\+ compiler\); install"):
        training.train(RECIPES["R1"], spots, tmp_path / "run", device="cpu", compiled=True)


def test_only_generators_are_compiled():
    with pytest.raises(Rejected, match="--compile is for generators, and recipe 'segmenter' is for segmentation"):
        compiler.require(recipe.load("segmenter"), "cpu")
