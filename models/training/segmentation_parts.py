"""What a segmenter is shown and told: windows or boxes, moved as one, and the loss of one answer or of several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from models.cases import Case
from models.predictor_parts import Windows
from models.segmentation_recipe import SegmentationAugmentation, SegmentationOptimiser, SegmentationRecipe
from models.training.augmentation import augment
from models.training.windows import Boxes, Slices

Draw = Callable[[int, torch.Generator], tuple[Tensor, Tensor]]
_MOMENTUM = 0.99


def drawn_from(recipe: SegmentationRecipe, training: Sequence[Case]) -> Draw:
    """(count, source) -> (count, C, *window) images and (count, *window) masks. recipe: as planned."""
    size, shares = recipe.window, recipe.windows
    assert size is not None
    if len(size) == 3:
        return Boxes(training, size, shares).draw
    plain = shares.model_dump(exclude={"window_slices"})
    return partial(Slices(training).windows, Windows(**plain))


def changed(
    images: Tensor, masks: Tensor, settings: SegmentationAugmentation, draw: torch.Generator
) -> tuple[Tensor, Tensor]:
    """`augment`, of slices or of boxes: the slices of a box turn, grow, shift and change their grey levels alike.

    images: (B, C, (slices,) rows, columns); masks: (B, (slices,) rows, columns).
    """
    if images.ndim == 5 and settings.flip_slices:
        chosen = (torch.rand(len(images), generator=draw) < 0.5).to(images.device)
        images = torch.where(chosen.reshape(-1, 1, 1, 1, 1), images.flip(2), images)
        masks = torch.where(chosen.reshape(-1, 1, 1, 1), masks.flip(1), masks)
    # The slices of a box stand where channels stood, so that the same draw moves them.
    flat, moved = augment(images.reshape(len(images), -1, *images.shape[-2:]), masks, settings, draw)
    assert moved is not None
    return flat.reshape(images.shape), moved


def optimiser_of(settings: SegmentationOptimiser, weights: Sequence[Tensor]) -> torch.optim.Optimizer:
    """See the recipe."""
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.kind == "sgd":
        momentum = settings.momentum or _MOMENTUM
        return torch.optim.SGD(weights, lr=rate, momentum=momentum, weight_decay=decay, nesterov=True)
    return torch.optim.AdamW(weights, lr=rate, weight_decay=decay)


def told(loss_of: Callable[[Tensor, Tensor], Tensor], logits: Tensor, masks: Tensor) -> Tensor:
    """The loss; of several answers (deep supervision) the mean, each lower one with half the weight (Isensee 2021).

    logits: (B, classes, ...), or (B, answers, classes, ...), all on the grid of the masks, as MONAI's DynUNet gives
    them. masks: (B, ...).
    """
    answers = logits.unbind(1) if logits.ndim == masks.ndim + 2 else (logits,)
    weights = [0.5**level for level in range(len(answers))]
    losses = [weight * loss_of(answer, masks[:, None]) for weight, answer in zip(weights, answers, strict=True)]
    return torch.stack(losses).sum() / sum(weights)
