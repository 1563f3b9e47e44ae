"""One slice: the header of a single-frame image, where its pixels are, and where it lies in the patient.

A slice is a single-frame object, a frame of a multi-frame one, or a tile of a mosaic; `dicom_io.frames` takes the last
two apart, and who works with slices need not know.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dicom_io import dataset, pixels
from dicom_io.errors import MissingAttribute, Rejected
from dicom_io.volume import Float64, Source

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


# Cosine between rows and columns (0.06 degrees); makers' rounding gives 1e-5.
_RIGHT_ANGLE = 1e-3


@lru_cache(maxsize=256)
def _right_angle(cosines: tuple[float, ...]) -> tuple[Float64, Float64] | None:
    """The two directions as unit vectors at a right angle, or None where they are none; a series writes one a slice."""
    across, down = np.array(cosines[:3]), np.array(cosines[3:])
    lengths = np.linalg.norm(across), np.linalg.norm(down)
    if max(abs(length - 1) for length in lengths) > 1e-2 or abs(across @ down) >= _RIGHT_ANGLE:
        return None
    across = across / lengths[0]
    # What rounding took from the right angle; other readers want it exact.
    down = down - across * (across @ down)
    down = down / np.linalg.norm(down)
    across.flags.writeable = down.flags.writeable = False
    return across, down


@dataclass(frozen=True, eq=False)
class Slice:
    """dataset: a header as single-frame images have it; it holds the pixels, too, unless `instance` does.

    dataset_hash: of the instance's bytes (`dataset.dataset_hash`). frame: 1-based, of the instance's frames or tiles.
    tile: (rows, columns) of the instance's picture that are this slice.
    """

    dataset: Dataset
    dataset_hash: str
    frame: int = 1
    instance: Dataset | None = None
    tile: tuple[slice, slice] | None = None
    _values: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def source(self) -> Source:
        return Source(
            sop_class_uid=str(self.get("SOPClassUID")),
            sop_instance_uid=str(self.get("SOPInstanceUID")),
            dataset_hash=self.dataset_hash,
            frame=self.frame,
            synthetic=self.get("SyntheticData") == "YES",
        )

    def get(self, keyword: str) -> Any:
        """A value of the header, None where it is absent or empty. Raises Rejected where it cannot be parsed."""
        if keyword not in self._values:
            found = dataset.value(self.dataset, keyword)
            self._values[keyword] = None if found is None or found == "" else found
        return self._values[keyword]

    def text(self, keyword: str) -> str:
        """The value as text, "" where it is absent."""
        found = self.get(keyword)
        return "" if found is None else str(found)

    @property
    def number_of_frames(self) -> int:
        """Of the instance that it is a part of."""
        return pixels.number_of_frames(self.dataset if self.instance is None else self.instance)

    @property
    def is_compressed(self) -> bool:
        """Whether the pixels are encapsulated (PS3.5 A.4)."""
        return pixels.is_compressed(self.dataset if self.instance is None else self.instance)

    def stored(self) -> npt.NDArray[Any]:
        """(rows, columns) as encoded. Raises UndecodablePixels."""
        if self.instance is None:
            return pixels.stored(self.dataset)
        if self.tile is None:
            return pixels.stored(self.instance, self.frame - 1)
        return pixels.stored(self.instance)[self.tile]

    def _vector(self, keyword: str, tag: str, length: int) -> Float64:
        value = self.get(keyword)
        if value is None or isinstance(value, (str, float, int)) or len(value) != length or "" in list(value):
            raise MissingAttribute(
                f"series {self.text('SeriesInstanceUID')}: instance {self.text('SOPInstanceUID')} has no usable "
                f"{keyword} {tag}, so its place in the patient is unknown; send an image that has it"
            )
        found = np.array([float(number) for number in value], np.float64)
        if not np.isfinite(found).all():
            raise Rejected(
                f"series {self.text('SeriesInstanceUID')}: {keyword} {tag} of instance {self.text('SOPInstanceUID')} "
                f"is {found.tolist()}, which is no place; correct it"
            )
        return found

    @cached_property
    def position(self) -> Float64:
        """Image Position (Patient) (0020,0032), LPS mm. Raises MissingAttribute."""
        return self._vector("ImagePositionPatient", "(0020,0032)", 3)

    @cached_property
    def spacing(self) -> Float64:
        """Pixel Spacing (0028,0030): (between rows, between columns) in mm.

        Raises MissingAttribute where it is absent, and Rejected where it is not above 0.
        """
        found = self._vector("PixelSpacing", "(0028,0030)", 2)
        if not (found > 0).all():
            raise Rejected(
                f"series {self.text('SeriesInstanceUID')}: PixelSpacing (0028,0030) of instance "
                f"{self.text('SOPInstanceUID')} is {found.tolist()} mm, which is no spacing; correct it"
            )
        return found

    @cached_property
    def orientation(self) -> tuple[Float64, Float64]:
        """(direction of increasing column index, direction of increasing row index), unit vectors in LPS.

        Raises:
            MissingAttribute: no Image Orientation (Patient) (0020,0037).
            Rejected: it is not two unit vectors at a right angle.
        """
        cosines = self._vector("ImageOrientationPatient", "(0020,0037)", 6)
        found = _right_angle(tuple(cosines.tolist()))
        if found is None:
            raise Rejected(
                f"series {self.text('SeriesInstanceUID')}: Image Orientation (Patient) {cosines.tolist()} is not two "
                "unit vectors at a right angle; correct it"
            )
        return found

    @cached_property
    def normal(self) -> Float64:
        """Row direction x column direction, in LPS."""
        across, down = self.orientation
        return np.cross(across, down)
