"""Pictures in files of everyday formats (PNG, JPEG, TIFF, PGM) as arrays, and masks of pictures in a cohort."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from dicom_io import nifti
from dicom_io.cohort import Item
from dicom_io.errors import Rejected, UndecodablePixels
from dicom_io.volume import Float32, Volume

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".pgm", ".bmp")


def grey(path: Path) -> tuple[Float32, dict[str, Any]]:
    """((rows, columns) float32 in the file's own range, what the file is); colour becomes luma (ITU-R BT.601).

    What the file is: {"format", "width", "height", "mode"}, which a network can read from the picture's edges and size,
    and which tells classes apart that were collected in different places.

    Raises:
        UndecodablePixels: no picture that Pillow reads, or not all of it.
    """
    try:
        with Image.open(path) as image:
            file = {"format": image.format, "width": image.width, "height": image.height, "mode": image.mode}
            # 16-bit grey has modes of its own, which a conversion to L would cut at 255.
            flat = image if image.mode in ("L", "I;16", "I;16B", "I", "F") else image.convert("L")
            return np.asarray(flat, np.float32), file
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def colour(path: Path) -> npt.NDArray[np.uint8]:
    """(rows, columns, 3): red, green, blue. Raises UndecodablePixels as `grey` does."""
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def says_synthetic(path: Path) -> bool:
    """Whether a PNG says of itself that it is synthetic, as ours do (text Synthetic=YES). Raises UndecodablePixels."""
    try:
        with Image.open(path) as image:
            return image.info.get("Synthetic") == "YES"
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def add_mask(out: Path, item: Item, mask: npt.NDArray[Any]) -> Item:
    """The item with masks/NAME.nii.gz of one slice beside its picture. mask: (rows, columns) of label numbers.

    Raises:
        Rejected: the mask has another size than the picture.
    """
    if list(mask.shape) != list(item.geometry["shape"]):
        raise Rejected(f"a mask of {mask.shape} pixels does not fit a picture of {tuple(item.geometry['shape'])}")
    relative = item.images[0].replace("images/", "masks/", 1)
    down, across = item.geometry["spacing_mm"] or (1.0, 1.0)
    volume = Volume(
        voxels=np.asarray(mask, np.float32)[None],
        affine=np.diag([across, down, 1.0, 1.0])[:, [2, 1, 0, 3]],
        frame_of_reference_uid="",
        units="1",
    )
    nifti.write(volume, out / relative)
    return replace(item, mask=relative)


def provenance(data_set: str, **more: Any) -> dict[str, Any]:
    """What every item says of its origin: the data set's name here, what was done to the pixels, and more."""
    return {"data_set": data_set, "transforms": [], **more}


def _unreadable(path: Path, error: Exception) -> UndecodablePixels:
    return UndecodablePixels(f"{path.name} is no picture that can be read ({error}); copy it again, or take it out")
