"""NIfTI images that other tools wrote, as volumes."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError

from dicom_io import nifti
from dicom_io.errors import Rejected
from dicom_io.volume import Volume

SUFFIXES = (".nii.gz", ".nii")
_UNREADABLE = (ImageFileError, OSError, EOFError, ValueError)


def volume(path: Path, *, units: str, frame: str) -> Volume:
    """A volume of one channel. frame: stands for the frame of reference, which NIfTI does not name; images of one
    subject that lie on each other share it.

    Raises:
        Rejected: the file cannot be read, or has other than three axes.
    """
    try:
        voxels, affine = nifti.foreign(path)
    except _UNREADABLE as error:
        raise Rejected(f"{path.name} is no NIfTI image that can be read ({error}); copy it again") from error
    return Volume(np.ascontiguousarray(voxels), np.asarray(affine, np.float64), frame, units)


def label_numbers(path: Path) -> list[int]:
    """The label numbers that occur in a mask, ascending.

    Raises:
        Rejected: the file cannot be read, or has values that are no whole numbers from 0 up.
    """
    try:
        values = np.unique(np.asarray(nibabel.load(path).dataobj))
    except _UNREADABLE as error:
        raise Rejected(f"{path.name} is no NIfTI image that can be read ({error}); copy it again") from error
    odd = [float(value) for value in values if not (value >= 0 and value == np.rint(value))]
    if odd:
        raise Rejected(f"mask {path.name} has values that are no label numbers, e.g. {odd[0]:g}; correct it")
    return [int(value) for value in values]


def stem(path: Path) -> str:
    """The name without .nii.gz or .nii."""
    return path.name.removesuffix(".gz").removesuffix(".nii")
