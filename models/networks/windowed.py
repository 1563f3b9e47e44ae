"""A classifier of slices that sees windows only: own code, because MONAI has no network that ranks windows."""

from __future__ import annotations

from typing import Any

import torch
from monai.networks import nets
from torch import Tensor, nn


class WindowedResNet(nets.ResNet):
    """MONAI's ResNet on every window of an image; the image has the logits of its most suspicious window.

    window_px: side of the windows. overlap: share of a window that neighbours have in common; the last window of a row
    ends at the image's end. Suspicious: the log-odds of any class but the first (multiple instances, Dietterich 1997).
    """

    def __init__(self, window_px: int, overlap: float, **resnet: Any) -> None:
        super().__init__(**resnet)
        self.window_px = window_px
        self.step_px = max(1, round(window_px * (1 - overlap)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, rows, columns) of any size -> logits (B, classes); smaller images are padded with 0."""
        windows = self._windows(x)
        count, images = windows.shape[:2]
        logits = super().forward(windows.flatten(0, 1)).unflatten(0, (count, images))
        odds = torch.logsumexp(logits[..., 1:], -1) - logits[..., 0]
        return logits[odds.argmax(0), torch.arange(images, device=x.device)]

    def _windows(self, x: Tensor) -> Tensor:
        """(windows, B, C, window, window)."""
        px = self.window_px
        x = nn.functional.pad(x, [0, max(0, px - x.shape[-1]), 0, max(0, px - x.shape[-2])])
        rows, columns = (_starts(size, px, self.step_px) for size in x.shape[-2:])
        return torch.stack([x[..., row : row + px, column : column + px] for row in rows for column in columns])


def _starts(size: int, px: int, step: int) -> list[int]:
    return sorted({*range(0, size - px, step), size - px})
