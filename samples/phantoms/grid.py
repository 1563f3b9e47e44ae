"""The grid that a phantom's slices are acquired on: decimal strings in the header, the same numbers in the truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydicom import Dataset

from dicom_io.volume import Float64
from samples.phantoms.instance import number
from samples.phantoms.texture import Field


@dataclass(frozen=True, eq=False)
class Grid:
    """Parallel slices. shape: (slices, rows, columns); spacing_mm: the step along each.

    row_direction, column_direction: unit vectors in patient LPS in which the column and the row index grow, as in Image
    Orientation (Patient) (0020,0037). Slices follow each other along their cross product. centre_mm: of the whole grid.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    row_direction: Float64
    column_direction: Float64
    centre_mm: Float64

    @property
    def orientation(self) -> list[str]:
        """Image Orientation (Patient), as it is written."""
        return [number(cosine) for cosine in np.round([*self.row_direction, *self.column_direction], 9)]

    @property
    def affine(self) -> Float64:
        """(slice, row, column) -> patient LPS in mm, from the numbers as they are written."""
        cosines = np.array([float(cosine) for cosine in self.orientation])
        row_direction, column_direction = cosines[:3], cosines[3:]
        axes = np.stack([np.cross(row_direction, column_direction), column_direction, row_direction], axis=1)
        affine = np.eye(4)
        affine[:3, :3] = axes * np.array(self.spacing_mm)
        first = self.centre_mm - affine[:3, :3] @ ((np.array(self.shape) - 1) / 2)
        affine[:3, 3] = np.round(first, 4)
        return affine

    def positions(self, through: int) -> tuple[Field, Field, Field]:
        """Patient x, y, z in mm of points on the grid, `through` of them evenly spread through each slice.

        Each is (slices * through, rows, columns) float32.
        """
        slices, rows, columns = self.shape
        between = (np.arange(slices * through) + 0.5) / through - 0.5
        r, c = np.ogrid[0:rows, 0:columns]
        affine = self.affine
        across, down, along = affine[:3, 2], affine[:3, 1], affine[:3, 0]
        x, y, z = (
            (along[i] * between[:, None, None] + down[i] * r + across[i] * c + affine[i, 3]).astype(np.float32)
            for i in range(3)
        )
        return x, y, z

    def place(self, ds: Dataset, index: int, *, thickness_mm: float) -> None:
        """Image Plane module (PS3.3 C.7.6.2) of slice `index`."""
        position = np.round(self.affine @ [index, 0, 0, 1], 4)[:3]
        ds.ImagePositionPatient = [number(value) for value in position]
        ds.ImageOrientationPatient = self.orientation
        ds.PixelSpacing = [number(self.spacing_mm[1]), number(self.spacing_mm[2])]
        ds.SliceThickness = number(thickness_mm)
        normal = np.cross(self.row_direction, self.column_direction)
        ds.SliceLocation = number(round(float(position @ normal), 4))


def through_slices(fine: Field, through: int) -> Field:
    """The mean of each `through` neighbours along the first axis: what a slice of full thickness sees."""
    return fine.reshape(-1, through, *fine.shape[1:]).mean(axis=1)


def rotation(about_x_deg: float, about_y_deg: float, about_z_deg: float) -> Float64:
    """Rotate about x, then y, then z."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.radians([about_x_deg, about_y_deg, about_z_deg])):
        a, b = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[b, a], turn[a, b] = np.sin(angle), -np.sin(angle)
        matrix = turn @ matrix
    return matrix
