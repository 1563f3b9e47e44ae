"""Adaptive discriminator augmentation (ADA, Karras 2020), without its changes of colour: grey levels mean something.

p: the chance of each change. r_t: the mean sign of the critic's score of reals (section 3.1, equation 1); where the
critic knows its reals too well (r_t above the target) p grows, else it falls. The changes (section 2, appendix B):
pixels: mirrored, turned by quarters, shifted by whole pixels; geometry: scaled, turned, stretched, shifted; as one
affine map, so that images are sampled once. Own code: theirs may not be used in products.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from models.adversarial_recipe import Adaptive
from models.draws import below, normal, uniform

EVERY_STEPS = 4


class Adaptation:
    """p, and what it is learned from. Reals and fakes are both changed, in the critic's and the generator's step."""

    def __init__(self, settings: Adaptive | None) -> None:
        self._settings = settings
        self.p = 0.0
        self._signs: list[float] = []

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"p": self.p, "signs": list(self._signs)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.p, self._signs = state["p"], list(state["signs"])

    def change(self, images: Tensor, draw: torch.Generator) -> Tensor:
        """(B, planes, rows, columns), differentiable. Nothing is drawn where the recipe asks for no adaptation."""
        return images if self._settings is None else changed(images, self.p, draw)

    def learn(self, real_scores: Tensor, batch_size: int) -> None:
        """real_scores: above 0 where the critic says real. p moves every four steps, by `speed_images`."""
        if self._settings is None:
            return
        self._signs.append(float(real_scores.detach().sign().mean()))
        if len(self._signs) < EVERY_STEPS:
            return
        r_t = sum(self._signs) / len(self._signs)
        self._signs.clear()
        step = EVERY_STEPS * batch_size / self._settings.speed_images
        moved = self.p + math.copysign(step, r_t - self._settings.target)
        self.p = min(max(moved, 0.0), self._settings.limit)


def changed(images: Tensor, p: float, draw: torch.Generator) -> Tensor:
    """Every change with chance p, image by image. What comes from outside is -1, air."""
    moves = _moves(len(images), images.shape[-2:], p, draw).to(images.device)
    grid = F.affine_grid(moves[:, :2], list(images.shape), align_corners=False)
    return F.grid_sample(images + 1, grid, align_corners=False) - 1


def _moves(batch: int, size: torch.Size, p: float, draw: torch.Generator) -> Tensor:
    """(B, 3, 3): from places in the changed image to places in the given one, both from -1 to 1."""
    rows, columns = size

    def sometimes(values: Tensor, neutral: float) -> Tensor:
        return torch.where(uniform(batch, draw) < p, values, torch.tensor(neutral))

    def signed() -> Tensor:
        return uniform(batch, draw) * 2 - 1

    mirrored = sometimes(torch.where(signed() < 0, -1.0, 1.0), 1.0)
    quarters = sometimes(below(4, batch, draw).float(), 0.0) * math.pi / 2
    # Whole pixels, up to an eighth of the image; a pixel is 2 / size wide.
    across = sometimes((signed() * columns / 8).round() * 2 / columns, 0.0)
    down = sometimes((signed() * rows / 8).round() * 2 / rows, 0.0)
    size_factor = sometimes(torch.exp2(0.2 * normal(batch, draw)), 1.0)
    # Turned before and after the stretching, each with the chance that makes p together (appendix B).
    half = 1 - math.sqrt(1 - p)
    angles = [torch.where(uniform(batch, draw) < half, signed() * math.pi, torch.zeros(())) for _ in "ab"]
    stretch = sometimes(torch.exp2(0.2 * normal(batch, draw)), 1.0)
    drift_across, drift_down = sometimes(0.25 * normal(batch, draw), 0.0), sometimes(0.25 * normal(batch, draw), 0.0)
    ratio = rows / columns
    made = _shift(across + drift_across, down + drift_down)
    made = made @ _turn(quarters + angles[0], ratio) @ _scale(mirrored / (size_factor * stretch), stretch / size_factor)
    return made @ _turn(angles[1], ratio)


def _matrix(entries: list[list[Tensor]]) -> Tensor:
    return torch.stack([torch.stack(row, -1) for row in entries], -2)


def _shift(across: Tensor, down: Tensor) -> Tensor:
    zero, one = torch.zeros_like(across), torch.ones_like(across)
    return _matrix([[one, zero, across], [zero, one, down], [zero, zero, one]])


def _scale(across: Tensor, down: Tensor) -> Tensor:
    zero, one = torch.zeros_like(across), torch.ones_like(across)
    return _matrix([[across, zero, zero], [zero, down, zero], [zero, zero, one]])


def _turn(angle: Tensor, ratio: float) -> Tensor:
    """ratio: rows over columns; each axis counts from -1 to 1 whatever its length."""
    zero, one = torch.zeros_like(angle), torch.ones_like(angle)
    sine, cosine = torch.sin(angle), torch.cos(angle)
    return _matrix([[cosine, -sine * ratio, zero], [sine / ratio, cosine, zero], [zero, zero, one]])
