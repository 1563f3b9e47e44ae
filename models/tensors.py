"""The one way from a volume or projection to a tensor, and back (docs/design.md, "One way to a tensor").

Training and serving both come through here, so that a network never sees a case in two forms. `Volume` is patient LPS,
MONAI is RAS: the turn is `diag(-1, -1, 1, 1)` on the left of the affine; no voxel moves.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from monai.data import MetaTensor
from scipy import ndimage

from dicom_io.errors import Rejected
from dicom_io.volume import Float32, Float64, Projection, Volume

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def to_metatensor(image: Volume | Projection) -> MetaTensor:
    """Channel first float32: (C, slices, rows, columns) of a volume, (C, rows, columns) of a projection.

    The affine maps (slice, row, column, 1) to RAS in mm (float64). A projection has no place in the patient: its affine
    holds the pixel spacing only, 1 mm where the object does not say.
    """
    if isinstance(image, Projection):
        pixels = image.pixels if image.pixels.ndim == 3 else image.pixels[None]
        down, across = image.spacing_mm or (1.0, 1.0)
        return _metatensor(pixels, np.diag([down, across, 1.0, 1.0]))
    voxels = image.voxels if image.voxels.ndim == 4 else image.voxels[None]
    return _metatensor(voxels, _LPS_TO_RAS @ image.affine)


def _metatensor(array: np.ndarray, affine: Float64) -> MetaTensor:
    # A copy: transforms may work in place, and a Volume is frozen.
    values = torch.from_numpy(np.array(array, np.float32, order="C"))
    return MetaTensor(values, affine=torch.from_numpy(np.array(affine, np.float64)))


def on_source_grid(values: np.ndarray, prepared: MetaTensor, source: Volume | Projection) -> Float32:
    """(slices, rows, columns) on the grid that the input chain left -> on that of the source, between its values by
    lines; 0 where the chain cut pixels off. A projection is one slice.

    prepared: what the chain left, whose affine says where its pixels lie.
    """
    projection = isinstance(source, Projection)
    axes = 2 if projection else 3
    planes = values[0] if projection else values
    start = to_metatensor(source)
    there = np.linalg.inv(np.asarray(prepared.affine, np.float64)) @ np.asarray(start.affine, np.float64)
    at = {"matrix": there[:axes, :axes], "offset": there[:axes, -1], "output_shape": tuple(start.shape[1:])}
    drawn = ndimage.affine_transform(planes.astype(np.float32), order=1, mode="nearest", **at)
    # Pixels reach half a pixel beyond their middles; a border of nothing says where they end.
    at["offset"] = there[:axes, -1] + 1
    seen = ndimage.affine_transform(np.pad(np.ones(planes.shape, np.float32), 1), order=0, mode="nearest", **at)
    moved: Float32 = (drawn * (seen > 0)).astype(np.float32)
    return moved[None] if projection else moved


def from_metatensor(tensor: torch.Tensor, like: Volume, units: str | None = None) -> Volume:
    """The inverse: values on the grid of `like`, with its LPS affine, frame of reference and sources.

    tensor: (C, slices, rows, columns); one channel becomes a volume without a channel axis. units: of the values, those
    of `like` where not given.

    Raises:
        Rejected: the tensor does not lie on the grid of `like` (another shape, or a MetaTensor with another affine).
    """
    if tensor.ndim != 4 or tuple(tensor.shape[1:]) != like.spatial_shape:
        raise Rejected(
            f"a tensor of {tuple(tensor.shape)} is not on the grid of {like.spatial_shape}; undo resizing first"
        )
    if isinstance(tensor, MetaTensor):
        corner = np.array([*like.spatial_shape, 1.0])
        apart_mm = np.abs(
            (tensor.affine.numpy() - _LPS_TO_RAS @ like.affine) @ np.stack([corner, [0, 0, 0, 1]], 1)
        ).max()
        if apart_mm > 0.01:
            raise Rejected(
                f"the tensor lies {apart_mm:.2f} mm away from the volume it is to return to; undo flips first"
            )
    values = tensor.detach().cpu().numpy().astype(np.float32)
    voxels = np.array(values[0] if len(values) == 1 else values)
    return replace(like, voxels=voxels, units=units or like.units)
