"""Voxels and where they lie in the patient; pictures without a place in the patient.

One convention, decided here once: array axes are ((channel,) slice, row, column) and world coordinates are patient LPS
in mm (PS3.3 C.7.6.2.1.1: x to the patient's left, y to the back, z to the head). NIfTI and MONAI use RAS; the turn is
made in `dicom_io.nifti` and `models.tensors` and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from dicom_io.errors import Rejected

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Source:
    """Where the numbers of one slice (or one picture) came from.

    dataset_hash: SHA-256 (hex) of the data set's bytes as received, without file meta information.
    frame: 1-based frame number of a multi-frame instance, 1 for a single-frame one.
    synthetic: Synthetic Data (0008,001C) was YES, or what it was derived from was.
    """

    sop_class_uid: str
    sop_instance_uid: str
    dataset_hash: str
    frame: int = 1
    synthetic: bool = False


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels, and where they lie in the patient.

    voxels: (slices, rows, columns) or (channels, slices, rows, columns) float32, in `units`.
    affine: (4, 4) float64; index (slice, row, column) -> patient LPS, in mm.
    frame_of_reference_uid: (0020,0052); two volumes with different ones are not comparable.
    units: UCUM, with the SUV type: "[hnsf'U]" for CT, "g/ml{SUVbw}" for PET, "1" for MR and masks.
    sources: one per slice, in voxel order; empty for arrays that came from no DICOM object.
    made_from: what else the values came from, and no slice alone: of a resampled volume all it was made of.
    """

    voxels: Float32
    affine: Float64
    frame_of_reference_uid: str
    units: str
    sources: tuple[Source, ...] = ()
    made_from: tuple[Source, ...] = ()

    def __post_init__(self) -> None:
        if self.voxels.ndim not in (3, 4) or self.affine.shape != (4, 4):
            raise ValueError(
                f"a volume has 3 or 4 axes and a 4 x 4 affine, not {self.voxels.shape} and {self.affine.shape}"
            )
        if self.sources and len(self.sources) != self.spatial_shape[0]:
            raise ValueError(f"{len(self.sources)} sources for {self.spatial_shape[0]} slices")

    @property
    def spatial_shape(self) -> tuple[int, int, int]:
        """(slices, rows, columns)."""
        slices, rows, columns = self.voxels.shape[-3:]
        return slices, rows, columns

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Step along the slice, row and column index."""
        between_slices, down, across = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return between_slices, down, across

    @property
    def is_synthetic(self) -> bool:
        """Any slice came from synthetic data; the flag is inherited (PS3.3 C.12.1, Synthetic Data)."""
        return any(source.synthetic for source in (*self.sources, *self.made_from))

    def position_mm(self, index: Sequence[float]) -> Float64:
        """Patient LPS position of a (slice, row, column) index."""
        return (self.affine @ np.array([*index, 1.0]))[:3]

    def index_at(self, position_mm: Sequence[float]) -> Float64:
        """Continuous (slice, row, column) index of a patient LPS position."""
        return np.linalg.solve(self.affine, np.array([*position_mm, 1.0]))[:3]

    def with_voxels(self, voxels: Float32, *, units: str | None = None) -> Volume:
        """The same place and sources with other values, e.g. a mask or a probability on this grid."""
        if voxels.shape[-3:] != self.spatial_shape:
            raise ValueError(f"voxels of {voxels.shape} do not fit a grid of {self.spatial_shape}")
        return replace(self, voxels=np.asarray(voxels, np.float32), units=units or self.units)

    def crop(self, start: Sequence[int], stop: Sequence[int]) -> Volume:
        """The block [start, stop) of (slice, row, column) indices; positions and sources follow."""
        slices, rows, columns = (slice(low, high) for low, high in zip(start, stop, strict=True))
        affine = self.affine.copy()
        affine[:3, 3] = self.position_mm(start)
        return replace(
            self, voxels=self.voxels[..., slices, rows, columns].copy(), affine=affine, sources=self.sources[slices]
        )

    def crop_to(self, mask: Volume, margin_mm: float) -> Volume:
        """The smallest block that holds the mask's voxels above 0 and `margin_mm` more along each axis, where there is.

        Raises:
            Rejected: the mask is empty or on another grid, or the margin is negative or no number.
        """
        if not self.same_grid_as(mask):
            raise Rejected(
                f"a mask of {_size(mask)} voxels in frame of reference {mask.frame_of_reference_uid} is not on the "
                f"grid of the volume, {_size(self)} in {self.frame_of_reference_uid}; resample it first"
            )
        if not 0 <= margin_mm < np.inf:
            raise Rejected(f"a margin of {margin_mm} mm is no length; give one of 0 or more")
        first, last = _extent(mask)
        # Rounded, so that a margin of three whole steps is not four for the last digit of a step.
        more = np.minimum(np.ceil(np.round(margin_mm / np.array(self.spacing_mm), 6)), self.spatial_shape).astype(int)
        start, stop = np.maximum(first - more, 0), np.minimum(last + 1 + more, self.spatial_shape)
        return self.crop(start.tolist(), stop.tolist())

    def same_grid_as(self, other: Volume, tolerance_mm: float = 0.01) -> bool:
        """Whether index (s, r, c) is the same place in both; different frames of reference never are."""
        if self.spatial_shape != other.spatial_shape or self.frame_of_reference_uid != other.frame_of_reference_uid:
            return False
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in self.spatial_shape])).reshape(3, -1)
        homogeneous = np.vstack([corners, np.ones(corners.shape[1])])
        return bool(np.abs((self.affine - other.affine) @ homogeneous).max() <= tolerance_mm)


def _extent(mask: Volume) -> tuple[npt.NDArray[np.int_], npt.NDArray[np.int_]]:
    """First and last (slice, row, column) index of what is above 0, in any channel."""
    found = np.argwhere((mask.voxels > 0).reshape(-1, *mask.spatial_shape).any(axis=0))
    if not len(found):
        raise Rejected(
            f"the mask of {_size(mask)} voxels is empty, so there is nothing to crop to; give one with a region"
        )
    return found.min(axis=0), found.max(axis=0)


def _size(volume: Volume) -> str:
    return " x ".join(map(str, volume.spatial_shape))


def stack_channels(volumes: Sequence[Volume]) -> Volume:
    """Volumes on one grid as the channels of one, in the given order; sources are those of the first, the others'
    are what it was made from, too.

    Raises:
        Rejected: the grids or frames of reference differ (resample first, on purpose).
    """
    first = volumes[0]
    for other in volumes[1:]:
        if not first.same_grid_as(other):
            raise Rejected(
                f"volumes of {first.spatial_shape} and {other.spatial_shape} voxels in frames of reference "
                f"{first.frame_of_reference_uid} and {other.frame_of_reference_uid} do not share one grid; "
                "resample one onto the other first"
            )
    others = tuple(source for volume in volumes[1:] for source in (*volume.sources, *volume.made_from))
    return replace(first, voxels=np.stack([volume.voxels for volume in volumes]), made_from=(*first.made_from, *others))


@dataclass(frozen=True, eq=False)
class Projection:
    """A two-dimensional picture without patient geometry: a mammogram, a tile, a capture.

    pixels: (rows, columns) or (channels, rows, columns) float32; bright means dense (MONOCHROME1 is turned).
    spacing_mm: (down, across) in the plane named by `spacing_of`, or None where the object does not say.
    spacing_of: "imager" for (0018,1164), at the detector; "patient" for (0028,0030), calibrated to the patient; "" for
        none.
    laterality: "L", "R" or "". view: "CC", "MLO", ... or "".
    breast_side: side of the picture that the chest wall is on, "left" or "right", or "" where not known.
    view_modifiers: "spot compression", "implant displaced", ... in the object's order.
    implant: Breast Implant Present (0028,1300), None where the object does not say.
    presentation: Presentation Intent Type (0008,0068), "FOR PRESENTATION", "FOR PROCESSING" or "".
    magnification: of the breast on the detector, (0018,1114), None where the object does not say.
    """

    pixels: Float32
    units: str
    source: Source | None = None
    spacing_mm: tuple[float, float] | None = None
    spacing_of: str = ""
    laterality: str = ""
    view: str = ""
    breast_side: str = ""
    view_modifiers: tuple[str, ...] = ()
    implant: bool | None = None
    presentation: str = ""
    magnification: float | None = None

    @property
    def breast_spacing_mm(self) -> tuple[float, float] | None:
        """(down, across) in the breast, or None where only the detector's spacing is known.

        The beam spreads: what is 1 mm in the breast is `magnification` mm at the detector (PS3.3 10.7.1.3).
        """
        if self.spacing_mm is None or self.spacing_of == "patient":
            return self.spacing_mm
        if self.spacing_of != "imager" or self.magnification is None:
            return None
        return self.spacing_mm[0] / self.magnification, self.spacing_mm[1] / self.magnification

    @property
    def is_synthetic(self) -> bool:
        return self.source is not None and self.source.synthetic
