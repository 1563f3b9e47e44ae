"""Several predictors as one: the mean of their probabilities, of the image as it is and of its mirror images."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

_AXES = {"slices": -3, "rows": -2, "columns": -1}
# Below it a probability counts as nothing, and its logarithm stays a number.
_LEAST = 1e-12


class Ensemble(nn.Module):
    """(B, C, (slices,) rows, columns) -> logits whose softmax is the mean of the members' probabilities.

    members: networks that give logits, (B, classes) or (B, classes, (slices,) rows, columns). mirrored: axes along
    which images are mirrored, "rows" (up and down), "columns" (left and right), of volumes "slices" (first to last), or
    several, each of which doubles the passes of one; answers are mirrored back. temperature: logits are divided by it
    (Guo 2017).

    Raises:
        ValueError: no members, or another axis; when it is called, slices of images that have none.
    """

    def __init__(self, members: Sequence[nn.Module], mirrored: Sequence[str] = (), temperature: float = 1.0) -> None:
        super().__init__()
        unknown = [axis for axis in mirrored if axis not in _AXES]
        if not members or unknown or len(set(mirrored)) < len(mirrored):
            raise ValueError(
                f"members {len(members)}, mirrored {list(mirrored)}: give members, and slices, rows, columns, each once"
            )
        self.members = nn.ModuleList(members)
        self.mirrored = tuple(mirrored)
        self.temperature = temperature
        axes = [_AXES[axis] for axis in mirrored]
        self._flips = [[*some] for count in range(len(axes) + 1) for some in itertools.combinations(axes, count)]

    def forward(self, images: Tensor) -> Tensor:
        return self.each(images).mean(0).clamp_min(_LEAST).log() / self.temperature

    def each(self, images: Tensor) -> Tensor:
        """(members, B, classes, ...): the probabilities of each, a mean over mirror images."""
        if "slices" in self.mirrored and images.ndim < 5:
            raise ValueError("mirrored: images of one slice cannot be mirrored along slices; leave it out")
        return torch.stack([self._of(member, images) for member in self.members])

    def foregrounds(self, images: Tensor) -> Tensor:
        """(B, members, ...): of each the probability of any class but the first."""
        return (1 - self.each(images)[:, :, 0]).transpose(0, 1)

    def _of(self, member: nn.Module, images: Tensor) -> Tensor:
        answers = []
        for axes in self._flips:
            # Nothing is asked to be mirrored along no axis: ONNX cannot say it.
            answer = torch.softmax(member(images.flip(axes) if axes else images), 1)
            answers.append(answer.flip(axes) if axes and answer.ndim == images.ndim else answer)
        return torch.stack(answers).mean(0)
