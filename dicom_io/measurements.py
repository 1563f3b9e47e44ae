"""What a mask says in numbers: volumes, uptake, and how many separate lesions there are.

    V_voxel  volume of a voxel, the determinant of the affine, mm3     N  number of voxels of the mask
    volume_ml = N V_voxel / 1000
    tlg_g = mean * volume_ml, total lesion glycolysis in g for SUVbw in g/ml (Larson et al. 1999, Clin Positron Imaging)
    peak = the highest mean over a sphere of 1 ml (radius 6.2 mm) whose centre is a voxel of the mask (Wahl et al. 2009,
           PERCIST, J Nucl Med 50 Suppl 1); a voxel belongs to the sphere if its centre does, those outside of the image
           do not count

Metabolic tumour volume (MTV) is the volume of a mask on PET; how the mask was made decides what it means.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.signal import fftconvolve

from dicom_io.errors import Rejected
from dicom_io.volume import Float64, Volume

_PEAK_RADIUS_MM = (3 / (4 * np.pi) * 1000) ** (1 / 3)
# Voxels that touch by a face, an edge or a corner are one lesion.
_NEIGHBOURS = np.ones((3, 3, 3), bool)


@dataclass(frozen=True)
class Measured:
    """Numbers of one region. units: of maximum, mean and peak (UCUM, of the volume). lesions: separate parts."""

    volume_ml: float
    lesions: int
    maximum: float
    mean: float
    peak: float
    units: str

    @property
    def tlg_g(self) -> float:
        """Total lesion glycolysis, where the values are SUVbw in g/ml."""
        return self.mean * self.volume_ml


def voxel_ml(volume: Volume) -> float:
    """Volume of one voxel, in ml; planes may be oblique and steps slanted."""
    return float(abs(np.linalg.det(volume.affine[:3, :3]))) / 1000


def components(mask: Volume, number: int | None = None) -> Volume:
    """The separate parts of a mask, as labels 1, 2, ... from the largest to the smallest; voxels that touch are one.

    number: the label whose parts are wanted; None for every voxel that is not 0. Of two parts of one size, the one that
    comes first in voxel order has the lower number.
    """
    chosen = mask.voxels != 0 if number is None else mask.voxels == number
    parts, count = ndimage.label(chosen, structure=_NEIGHBOURS)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
    rank = np.zeros(count + 1, np.float32)
    rank[1 + np.argsort(-sizes, kind="stable")] = np.arange(1, count + 1)
    return mask.with_voxels(rank[parts], units="1")


def measure(volume: Volume, mask: Volume, number: int | None = None) -> Measured:
    """Numbers of a (slices, rows, columns) volume in a mask on the same grid; all 0 where the mask is empty.

    number: the label that is measured; None for every voxel that is not 0.

    Raises:
        Rejected: volume and mask are not on one grid.
    """
    if not volume.same_grid_as(mask):
        raise Rejected(
            f"volume of {volume.spatial_shape} and mask of {mask.spatial_shape} voxels in frames of reference "
            f"{volume.frame_of_reference_uid} and {mask.frame_of_reference_uid} do not share one grid; resample one"
        )
    chosen = mask.voxels != 0 if number is None else mask.voxels == number
    if not chosen.any():
        return Measured(0.0, 0, 0.0, 0.0, 0.0, volume.units)
    values = volume.voxels[chosen].astype(np.float64)
    return Measured(
        volume_ml=float(chosen.sum()) * voxel_ml(volume),
        lesions=int(ndimage.label(chosen, structure=_NEIGHBOURS)[1]),
        maximum=float(values.max()),
        mean=float(values.mean()),
        peak=_peak(volume, chosen),
        units=volume.units,
    )


def _peak(volume: Volume, chosen: npt.NDArray[np.bool_]) -> float:
    sphere = _sphere(volume)
    reach = np.array(sphere.shape) // 2
    found = np.argwhere(chosen)
    start = np.maximum(found.min(axis=0) - reach, 0)
    stop = np.minimum(found.max(axis=0) + reach + 1, chosen.shape)
    block = tuple(slice(low, high) for low, high in zip(start, stop, strict=True))
    sums = fftconvolve(volume.voxels[block].astype(np.float64), sphere, mode="same")
    counts = np.rint(fftconvolve(np.ones(sums.shape), sphere, mode="same"))
    return float((sums / counts)[chosen[block]].max())


def _sphere(volume: Volume) -> Float64:
    """1 where a voxel's centre lies in the sphere around the middle one, else 0."""
    # Along an index the sphere reaches as far as its bounding box: row i of the inverse, times the radius.
    reach = np.ceil(_PEAK_RADIUS_MM * np.linalg.norm(np.linalg.inv(volume.affine[:3, :3]), axis=1)).astype(int)
    offsets = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij"), axis=-1)
    distances = np.linalg.norm(offsets @ volume.affine[:3, :3].T, axis=-1)
    return (distances <= _PEAK_RADIUS_MM).astype(np.float64)
