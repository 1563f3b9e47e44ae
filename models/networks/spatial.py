"""Layers that exist for pictures and for volumes: dims is 2 or 3."""

from __future__ import annotations

from torch import Tensor, nn

_CONVOLUTION = {2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_DROPOUT = {2: nn.Dropout2d, 3: nn.Dropout3d}
_BATCH = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_INSTANCE = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}


def convolution(dims: int, before: int, after: int, kernel: int, **how: int | bool) -> nn.Module:
    return _CONVOLUTION[dims](before, after, kernel, **how)  # type: ignore[arg-type]


def transposed(dims: int, before: int, after: int, kernel: int, **how: int | bool) -> nn.Module:
    return _TRANSPOSED[dims](before, after, kernel, **how)  # type: ignore[arg-type]


def dropout(dims: int, share: float) -> nn.Module:
    """Whole maps at a time."""
    return _DROPOUT[dims](share)


def batch_norm(dims: int, channels: int, *, affine: bool = True) -> nn.Module:
    return _BATCH[dims](channels, affine=affine)


def instance_norm(dims: int, channels: int, *, affine: bool = True) -> nn.Module:
    return _INSTANCE[dims](channels, affine=affine)


def to_maps(vectors: Tensor, maps: Tensor) -> Tensor:
    """(B, C) -> (B, C, 1, ...), to be added to maps or multiplied with them."""
    return vectors.reshape(*vectors.shape, *[1] * (maps.ndim - 2))


def pixel_axes(maps: Tensor) -> tuple[int, ...]:
    """All axes but batch and channel."""
    return tuple(range(2, maps.ndim))
