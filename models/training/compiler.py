"""`torch.compile`, where this machine has what it needs."""

from __future__ import annotations

import torch

from dicom_io.errors import Rejected
from models.generation_recipe import GenerationBase
from models.recipe import Recipe
from models.training.summary import device_named


def require(recipe: Recipe, device: str) -> None:
    """Compile and run one small thing: that a compiler is installed does not yet say that it works.

    Raises:
        Rejected: it does not, or the recipe trains no generator.
    """
    if not isinstance(recipe, GenerationBase):
        raise Rejected(f"--compile is for generators, and recipe {recipe.name!r} is for {recipe.task}; leave it out")
    try:
        torch.compile(_small)(torch.ones(3, device=device_named(device)))
    except Exception as error:  # torch has no common class for what may go wrong here
        reason = str(error).strip().split("\n")[0]
        raise Rejected(
            f"--compile: torch.compile does not work here ({reason}); install a C++ compiler (g++), on a GPU Triton as "
            "well, or leave it out"
        ) from error


def _small(values: torch.Tensor) -> torch.Tensor:
    return values.sin() + 1
