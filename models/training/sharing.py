"""Which recipes several processes can train together, and end where one process ends."""

from __future__ import annotations

import math

from dicom_io.errors import Rejected
from models.adversarial_recipe import AdversarialRecipe
from models.generation_recipe import GenerationBase
from models.networks.generator import GROUP
from models.recipe import Recipe


def require(recipe: Recipe, processes: int) -> None:
    """Pass where every process gets as many images of a batch, and the critic compares those that one would.

    Raises:
        Rejected: the recipe trains no generator, or its batches cannot be shared so.
    """
    if processes == 1:
        return
    if not isinstance(recipe, GenerationBase):
        raise Rejected(f"recipe {recipe.name!r} is for {recipe.task}, which trains in one process; leave --nproc out")
    batch = recipe.schedule.batch_size
    if batch % processes:
        raise Rejected(
            f"schedule.batch_size: {batch} images cannot be shared evenly by {processes} processes; take "
            f"{processes * math.ceil(batch / processes)}, or other processes"
        )
    if isinstance(recipe, AdversarialRecipe) and getattr(recipe.network, "minibatch_deviation", False):
        seen = batch if recipe.loss.separate_batches else 2 * batch
        if batch // processes % math.gcd(GROUP, seen):
            raise Rejected(
                f"network.minibatch_deviation compares {math.gcd(GROUP, seen)} images of a batch, and {processes} "
                f"processes have {batch // processes} of {batch} each; set schedule.batch_size to "
                f"{GROUP * processes}, take fewer processes, or set it to false"
            )
