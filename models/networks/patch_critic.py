"""A critic of patches (Isola 2017) at several sizes of the picture (Wang 2018, section 3.2), with its maps.

Each is MONAI's PatchDiscriminator. MONAI's MultiScalePatchDiscriminator is not taken: it does not shrink the picture
for the second critic but doubles its depth, which leaves a single pixel of a window of 32.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from monai.networks.nets import PatchDiscriminator
from torch import Tensor, nn


class Verdict(NamedTuple):
    """Of one size. scores: (B, 1, rows, columns), one for each patch; maps: of the layers before."""

    scores: Tensor
    maps: list[Tensor]


class PatchCritic(nn.Module):
    """Pictures (B, planes, rows, columns), what they were made of beside what was made -> a verdict for each size.

    features: channels after the first layer. layers: more of them see larger patches (22 px with two, 46 with three).
    scales: the picture itself, then half of it, and so on.
    """

    def __init__(self, planes: int, features: int, layers: int, scales: int) -> None:
        super().__init__()
        self.critics = nn.ModuleList(
            PatchDiscriminator(2, features, planes, num_layers_d=layers, norm="INSTANCE") for _ in range(scales)
        )

    def forward(self, pictures: Tensor) -> list[Verdict]:
        verdicts = []
        for number, critic in enumerate(self.critics):
            pictures = F.avg_pool2d(pictures, 2) if number else pictures
            *maps, scores = critic(pictures)
            verdicts.append(Verdict(scores, maps))
        return verdicts


def smallest_px(layers: int, scales: int) -> int:
    """The smallest picture whose last norm still has pixels to compare."""
    return int(3 * 2**layers * 2 ** (scales - 1))
