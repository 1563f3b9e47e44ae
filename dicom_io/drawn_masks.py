"""A mask that somebody drew, as label numbers: from a DICOM SEG, a NIfTI or a PNG, by whoever's tool it was.

SEG     segments by their label; one segment is the one label, whatever it is called; none of our generated pictures
NIfTI   label numbers; rows and columns are turned to run as they do in DICOM (to the left, the back, the feet)
PNG     label numbers, or grey levels evenly from black for none to white for the last label; without a place
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from nibabel.filebasedimages import ImageFileError
from PIL import Image, UnidentifiedImageError

from dicom_io import labels as labels_of_objects
from dicom_io import nifti, segmentation
from dicom_io.dataset import read as read_dataset
from dicom_io.errors import Rejected
from dicom_io.provenance import MANUFACTURER
from dicom_io.volume import Float64

Numbers = npt.NDArray[np.uint8]
_UNREADABLE = (ImageFileError, OSError, EOFError, ValueError)


@dataclass(frozen=True, eq=False)
class DrawnMask:
    """numbers: (slices, rows, columns), 0 for no label. affine: index -> LPS in mm, None where the file names no
    place."""

    numbers: Numbers
    affine: Float64 | None

    @property
    def digest(self) -> str:
        """Of numbers and place: the same mask gives the same names to what is made of it."""
        place = b"" if self.affine is None else np.round(self.affine, 6).tobytes()
        shape = str(self.numbers.shape).encode()
        return hashlib.sha256(shape + self.numbers.tobytes() + place).hexdigest()[:16]


def read(path: Path, labels: Sequence[str]) -> DrawnMask:
    """labels: names of label 1, 2, ...

    Raises:
        Rejected: the file cannot be read, holds a label that is none of these, or shows none at all.
    """
    name = path.name.lower()
    if name.endswith((".nii", ".nii.gz")):
        found = _nifti(path)
    elif name.endswith(".png"):
        found = _png(path, len(labels))
    else:
        found = _segments(path, labels)
    most = int(found.numbers.max(initial=0))
    if most > len(labels):
        raise Rejected(f"{path.name} holds label {most}; the model knows 1 to {len(labels)} ({', '.join(labels)})")
    return found


def _segments(path: Path, labels: Sequence[str]) -> DrawnMask:
    dataset = read_dataset(path)
    if dataset.get("Modality") != "SEG":
        raise Rejected(f"{path.name} is no SEG, and neither NIfTI nor PNG; give the mask as one of these")
    if labels_of_objects.is_synthetic(dataset) and dataset.get("Manufacturer") == MANUFACTURER:
        # Its frames are as high as the captures, and nothing in it says how much of that is their border strip.
        raise Rejected(
            f"{path.name} is a mask of generated pictures, with rows for the border strip below them; "
            "use --masks-of MODEL, or generate it as NIfTI"
        )
    described = segmentation.segments_of(dataset)
    known = {label: number for number, label in enumerate(labels, start=1)}
    if len(described) == len(labels) == 1:
        known = {described[0].label: 1}
    unknown = [segment.label for segment in described if segment.label not in known]
    if unknown:
        raise Rejected(
            f"{path.name} has a segment {unknown[0]!r}; the model knows {', '.join(labels)}: name its segments so"
        )
    volumes = segmentation.read_segments(dataset)
    grid = next(iter(volumes.values()))
    numbers = np.zeros(grid.spatial_shape, np.uint8)
    for segment in described:
        numbers[volumes[segment.number].voxels >= 0.5] = known[segment.label]
    return DrawnMask(numbers, grid.affine)


def _nifti(path: Path) -> DrawnMask:
    try:
        voxels, affine = nifti.foreign(path)
    except _UNREADABLE as error:
        raise Rejected(f"{path.name} is no NIfTI image that can be read ({error}); copy it again") from error
    if not np.array_equal(voxels, np.rint(voxels)) or voxels.min(initial=0) < 0 or voxels.max(initial=0) > 255:
        raise Rejected(f"{path.name} has values that are no label numbers; save it as a label map")
    return DrawnMask(*_as_in_dicom(voxels.astype(np.uint8), np.asarray(affine, np.float64)))


def _as_in_dicom(numbers: Numbers, affine: Float64) -> tuple[Numbers, Float64]:
    """Rows and columns towards the patient's left, back or feet; a network saw heads upright, not upside down."""
    affine = affine.copy()
    for axis in (1, 2):
        direction = affine[:3, axis]
        along = int(np.abs(direction).argmax())
        if (direction[along] > 0) == (along == 2):
            numbers = np.flip(numbers, axis)
            affine[:3, 3] += direction * (numbers.shape[axis] - 1)
            affine[:3, axis] = -direction
    return np.ascontiguousarray(numbers), affine


def _png(path: Path, labels: int) -> DrawnMask:
    try:
        with Image.open(path) as image:
            if image.mode not in ("1", "L", "P", "I;16"):
                raise Rejected(
                    f"{path.name} is a picture in {image.mode}; save the mask in grey levels or with a palette"
                )
            values = np.array(image.convert("L") if image.mode == "1" else image, np.int64)
    except (UnidentifiedImageError, OSError) as error:
        raise Rejected(f"{path.name} is no PNG that can be read ({error}); save it again") from error
    if values.max(initial=0) > labels:
        levels = np.rint(np.arange(labels + 1) * 255 / labels).astype(np.int64)
        if not np.isin(values, levels).all():
            odd = int(values[~np.isin(values, levels)][0])
            raise Rejected(
                f"{path.name} has grey level {odd}; masks hold numbers from 0 to {labels}, or the levels "
                f"{', '.join(map(str, levels))}"
            )
        values = np.searchsorted(levels, values)
    return DrawnMask(values[None].astype(np.uint8), None)
