"""Siemens mosaics: all slices of one time point as tiles of a single picture.

The picture's Image Position (Patient) (0020,0032) is that of a slice as large as the whole mosaic around the same
centre, so the first tile's corner lies further in (dcm2niix, nibabel). How many tiles there are and which way they go
is in private elements: Number Of Images In Mosaic (0019,xx0A), and the normal of the slices in the "CSA header"
(0029,xx10), which nibabel reads.
"""

from __future__ import annotations

import math
import struct
import warnings
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from dicom_io import private
from dicom_io.dataset import header_of, put
from dicom_io.errors import MissingAttribute, Rejected
from dicom_io.slices import Slice
from dicom_io.volume import Float64


def is_mosaic(item: Slice) -> bool:
    """Image Type (0008,0008) says MOSAIC."""
    return "MOSAIC" in (item.get("ImageType") or ())


def tiles(item: Slice) -> list[Slice]:
    """The slices of a mosaic, in the order of acquisition's normal; sources say the tile's number as `frame`.

    Raises:
        MissingAttribute: the number of tiles, the direction or the step of the slices is not stated.
        Rejected: the tiles do not fit the picture.
    """
    csa = _csa_header(item.dataset)
    number = _number(item, csa)
    across_tiles = math.ceil(math.sqrt(number))
    rows, columns = int(item.get("Rows") or 0), int(item.get("Columns") or 0)
    if number < 1 or rows % across_tiles or columns % across_tiles:
        raise Rejected(
            f"{_named(item)}: {number} tiles do not fit a picture of {rows} x {columns}; export it as single slices"
        )
    height, width = rows // across_tiles, columns // across_tiles
    across, down = item.orientation
    step_down, step_across = item.spacing
    corner = item.position + down * step_down * (rows - height) / 2 + across * step_across * (columns - width) / 2
    step = _direction(item, csa) * _step_mm(item)
    made = []
    for index in range(number):
        row, column = divmod(index, across_tiles)
        header = header_of(item.dataset)
        put(header, "Rows", height)
        put(header, "Columns", width)
        put(header, "ImagePositionPatient", [round(float(value), 6) for value in corner + index * step])
        tile = (slice(row * height, (row + 1) * height), slice(column * width, (column + 1) * width))
        made.append(Slice(header, item.dataset_hash, index + 1, item.dataset, tile))
    return made


def _number(item: Slice, csa: Any) -> int:
    stated = private.numbers(item.dataset, 0x0019, "SIEMENS MR HEADER", 0x0A, "US")
    found = stated[0] if stated else _of_csa(csa, "NumberOfImagesInMosaic")
    if not found:
        raise MissingAttribute(
            f"{_named(item)} is a mosaic and does not say of how many tiles (0019,xx0A); export it as enhanced MR "
            "or as single slices"
        )
    return int(found)


def _direction(item: Slice, csa: Any) -> Float64:
    """Which way the tiles go: along the slices' normal or against it."""
    stated = csa and csa["tags"].get("SliceNormalVector", {}).get("items")
    if not stated or len(stated) != 3:
        raise MissingAttribute(
            f"{_named(item)} is a mosaic without its CSA header (0029,xx10), so which way its slices go is unknown; "
            "export it as enhanced MR or as single slices"
        )
    along = float(np.dot(item.normal, np.array(stated, np.float64)))
    if abs(along) < 0.9:
        raise Rejected(
            f"{_named(item)}: the normal in its CSA header {stated} is none of its Image Orientation (Patient); "
            "export it as single slices"
        )
    return item.normal * math.copysign(1, along)


def _step_mm(item: Slice) -> float:
    found = item.get("SpacingBetweenSlices") or item.get("SliceThickness")
    if not found:
        raise MissingAttribute(f"{_named(item)} is a mosaic without Spacing Between Slices (0018,0088); add it")
    return abs(float(found))


def _csa_header(ds: Dataset) -> Any:
    value = private.raw(ds, 0x0029, "SIEMENS CSA HEADER", 0x10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says of itself, when it is imported, that it is experimental
        from nibabel.nicom import csareader
    try:
        return csareader.read(value) if isinstance(value, bytes) else None
    except (csareader.CSAReadError, ValueError, KeyError, AssertionError, IndexError, struct.error):
        return None


def _of_csa(csa: Any, name: str) -> Any:
    items = csa["tags"].get(name, {}).get("items") if csa else None
    return items[0] if items else None


def _named(item: Slice) -> str:
    return f"series {item.text('SeriesInstanceUID')}: instance {item.text('SOPInstanceUID')}"
