"""One grid to another: interpolation with SimpleITK, and rigid registration where two scans share no coordinates.

Grids may be sheared (a tilted gantry), which SimpleITK's images cannot say: values are looked up in index coordinates,
through the affine transform from one grid's index to the other's. Its axes are (column, row, slice), ours the reverse.

Registration maximises mutual information (Mattes et al. 2003) over rotation and translation, from coarse to fine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import SimpleITK

from dicom_io.errors import Rejected
from dicom_io.volume import Float32, Float64, Volume

Interpolation = Literal["linear", "nearest", "spline"]
_INTERPOLATORS = {
    "linear": SimpleITK.sitkLinear,
    "nearest": SimpleITK.sitkNearestNeighbor,
    "spline": SimpleITK.sitkBSpline,
}
# Cosine between axes; what is less upright than this is sheared (0.06 degrees).
_UPRIGHT = 1e-3
_SEED, _SAMPLED, _BINS = 1, 0.2, 50


def onto(volume: Volume, grid: Volume, interpolation: Interpolation = "linear", outside: float = 0.0) -> Volume:
    """The volume's values at the voxels of `grid`, in the same frame of reference; `outside` where it has none.

    A centre that lies outside the volume's outermost centres by up to half a voxel takes its border's value.
    A slice of the result has no one slice that it came from: sources become `made_from`. Units stay.

    Raises:
        Rejected: the frames of reference differ or are not stated, so that places cannot be compared.
    """
    require_one_frame_of_reference(volume, grid)
    return _at(volume, grid, _between(grid, volume), interpolation, outside)


def require_one_frame_of_reference(volume: Volume, grid: Volume) -> None:
    """Raises Rejected where places cannot be compared: the frames of reference differ, or are not stated."""
    if not volume.frame_of_reference_uid or volume.frame_of_reference_uid != grid.frame_of_reference_uid:
        raise Rejected(
            f"the volume lies in frame of reference {volume.frame_of_reference_uid or 'none'}, the grid in "
            f"{grid.frame_of_reference_uid or 'none'}; register them first"
        )


def coverage(volume: Volume, grid: Volume) -> float:
    """Share of the grid's voxels whose centres lie within the volume's outermost centres, or half a voxel beyond.

    0 where the frames of reference differ or are not stated.
    """
    if not volume.frame_of_reference_uid or volume.frame_of_reference_uid != grid.frame_of_reference_uid:
        return 0.0
    ones = volume.with_voxels(np.ones(volume.spatial_shape, np.float32))
    return float(onto(ones, grid, "nearest").voxels.mean())


def to_spacing(volume: Volume, spacing_mm: Sequence[float], interpolation: Interpolation = "linear") -> Volume:
    """Another step along (slice, row, column), the first voxel's centre and the directions kept.

    As many voxels as have their centre within the volume's outermost centres.
    """
    old, new = np.array(volume.spacing_mm), np.array(spacing_mm, np.float64)
    if new.shape != (3,) or not (new > 0).all():
        raise ValueError(f"a spacing is three positive numbers in mm, not {spacing_mm}")
    shape = np.floor((np.array(volume.spatial_shape) - 1) * old / new + 1e-6).astype(int) + 1
    affine = volume.affine.copy()
    affine[:3, :3] *= new / old
    return _on_own(volume, affine, shape, interpolation)


def is_sheared(volume: Volume) -> bool:
    """Whether slices are not stacked along their normal, as those of a tilted gantry are not."""
    directions = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    return bool(np.abs(directions.T @ directions - np.eye(3)).max() > _UPRIGHT)


def upright(volume: Volume, interpolation: Interpolation = "linear", outside: float = 0.0) -> Volume:
    """A sheared volume on a grid of right angles: slices keep their places along their normal, rows and columns their
    directions and steps; the grid is grown so that it holds every voxel. A volume that is upright comes back as it is.
    """
    if not is_sheared(volume):
        return volume
    down, across = volume.affine[:3, 1], volume.affine[:3, 2]
    normal = np.cross(across, down)
    normal /= np.linalg.norm(normal)
    step = volume.affine[:3, 0]
    straight = volume.affine.copy()
    straight[:3, 0] = normal * (step @ normal)
    corners = np.stack(np.meshgrid(*[(0, n - 1) for n in volume.spatial_shape], indexing="ij")).reshape(3, -1)
    places = volume.affine @ np.vstack([corners, np.ones(corners.shape[1])])
    index = np.linalg.solve(straight, places)[:3]
    first, last = np.floor(index.min(axis=1) + 1e-6), np.ceil(index.max(axis=1) - 1e-6)
    straight[:3, 3] = (straight @ np.append(first, 1))[:3]
    return _on_own(volume, straight, (last - first).astype(int) + 1, interpolation, outside)


@dataclass(frozen=True, eq=False)
class Registration:
    """volume: the moving volume on the fixed grid. transform: (4, 4) LPS mm, from fixed places to moving places.

    similarity: mutual information that was reached (nats, more is better), and before anything was moved.
    """

    volume: Volume
    transform: Float64
    similarity: float
    similarity_before: float


def moved(
    volume: Volume,
    grid: Volume,
    transform: Float64,
    interpolation: Interpolation = "linear",
    outside: float = 0.0,
) -> Volume:
    """The volume on the grid, with places moved on the way by a registration's `transform`; in the grid's frame of
    reference. For what lies on the volume that was registered, such as its masks."""
    return _at(volume, grid, _between(grid, volume, transform), interpolation, outside)


def registered(
    moving: Volume, fixed: Volume, interpolation: Interpolation = "linear", outside: float = 0.0
) -> Registration:
    """Turn and shift `moving` onto `fixed` and resample it there; the result lies in the fixed frame of reference.

    The same input gives the same result. That it is right is for a person to see; `similarity` says only that it is
    better than before.

    Raises:
        Rejected: a volume has channels, a single slice, is sheared or constant, or nothing better was found.
    """
    for name, volume in (("moving", moving), ("fixed", fixed)):
        _check(name, volume)
    method = _method()
    images = _image(fixed), _image(moving)
    start = SimpleITK.CenteredTransformInitializer(
        *images, SimpleITK.Euler3DTransform(), SimpleITK.CenteredTransformInitializerFilter.GEOMETRY
    )
    method.SetInitialTransform(SimpleITK.Euler3DTransform(start), inPlace=False)
    before = _similarity(images, start)
    found = method.Execute(*images)
    after = _similarity(images, found)
    if not after > before:
        raise Rejected(
            "no position was found in which the volumes fit better than centre on centre (mutual information "
            f"{after:.3f} against {before:.3f}); check that they show the same part of the body"
        )
    transform = _matrix(found)
    return Registration(moved(moving, fixed, transform, interpolation, outside), transform, after, before)


def _between(grid: Volume, volume: Volume, transform: Float64 | None = None) -> Float64:
    """(4, 4): index in `grid` -> index in `volume`, with places moved on the way by `transform`."""
    places = grid.affine if transform is None else transform @ grid.affine
    return np.asarray(np.linalg.solve(volume.affine, places), np.float64)


def _check(name: str, volume: Volume) -> None:
    why = ""
    if volume.voxels.ndim != 3:
        why = f"has the shape {volume.voxels.shape}; give one channel"
    elif min(volume.spatial_shape) < 4:
        why = f"has {volume.spatial_shape} voxels, too few to be turned; give a stack of slices"
    elif is_sheared(volume):
        why = "is sheared; make it upright first (`resampling.upright`)"
    elif float(volume.voxels.min()) == float(volume.voxels.max()):
        why = "has one value everywhere; give another series"
    if why:
        raise Rejected(f"the {name} volume {why}")


def _method() -> Any:
    method = SimpleITK.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(_BINS)
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(_SAMPLED, _SEED)
    method.SetInterpolator(SimpleITK.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-4, 200, 0.5)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([2, 1, 0])
    # Threads add up in another order each time; a result that cannot be had again is none.
    method.SetNumberOfThreads(1)
    return method


def _similarity(images: tuple[Any, Any], transform: Any) -> float:
    method = _method()
    method.SetInitialTransform(transform)
    return -float(method.MetricEvaluate(*images))


def _matrix(transform: Any) -> Float64:
    """(4, 4) of a rigid transform, from where it takes four points."""
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    axes = [np.array(transform.TransformPoint(tuple(map(float, unit)))) - origin for unit in np.eye(3)]
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = np.column_stack(axes), origin
    return np.round(matrix, 9)  # what lies below differs from run to run


def _image(volume: Volume) -> Any:
    """With its place in LPS mm, which ITK's coordinates are, too."""
    image = SimpleITK.GetImageFromArray(np.asarray(volume.voxels, np.float32))
    spacing = np.array(volume.spacing_mm)
    image.SetSpacing([float(step) for step in spacing[::-1]])
    image.SetOrigin([float(value) for value in volume.affine[:3, 3]])
    image.SetDirection((volume.affine[:3, :3] / spacing)[:, ::-1].ravel().tolist())
    return image


def _on_own(
    volume: Volume, affine: Float64, shape: Sequence[int], interpolation: Interpolation, outside: float = 0.0
) -> Volume:
    """The volume on another grid of its own coordinates."""
    empty = np.broadcast_to(np.float32(0), tuple(int(n) for n in shape))
    grid = replace(volume, voxels=empty, affine=affine, sources=(), made_from=())
    return _at(volume, grid, _between(grid, volume), interpolation, outside)


def _at(volume: Volume, grid: Volume, lookup: Float64, interpolation: Interpolation, outside: float) -> Volume:
    """lookup: (4, 4), index in `grid` -> index in `volume`."""
    channels = volume.voxels if volume.voxels.ndim == 4 else volume.voxels[None]
    moved = np.stack([_looked_up(channel, grid.spatial_shape, lookup, interpolation, outside) for channel in channels])
    return Volume(
        voxels=moved if volume.voxels.ndim == 4 else moved[0],
        affine=grid.affine.copy(),
        frame_of_reference_uid=grid.frame_of_reference_uid,
        units=volume.units,
        made_from=(*volume.sources, *volume.made_from),
    )


def _looked_up(
    voxels: Float32, shape: tuple[int, int, int], lookup: Float64, interpolation: Interpolation, outside: float
) -> Float32:
    transform = SimpleITK.AffineTransform(3)
    transform.SetMatrix(lookup[:3, :3][::-1, ::-1].ravel().tolist())
    transform.SetTranslation(lookup[:3, 3][::-1].tolist())
    resample = SimpleITK.ResampleImageFilter()
    resample.SetSize([int(n) for n in shape[::-1]])
    resample.SetTransform(transform)
    resample.SetInterpolator(_INTERPOLATORS[interpolation])
    resample.SetDefaultPixelValue(outside)
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(voxels, np.float32))
    return np.asarray(SimpleITK.GetArrayFromImage(resample.Execute(image)), np.float32)
