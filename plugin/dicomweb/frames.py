"""Single frames of stored pixel data, as they are encoded or as plain little-endian values."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.encaps import get_frame
from pydicom.tag import BaseTag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ExplicitVRLittleEndian

from dicom_io import dataset as whole_files
from dicom_io import pixels
from dicom_io.errors import Rejected, UndecodablePixels
from plugin.archive import levels

_PIXEL_DATA = BaseTag(0x7FE00010)
_ENCAPSULATED = 0xFFFFFFFF
_DEFER_BYTES = 1 << 12
# A viewer asks frame by frame, several at once; each header is parsed once.
_HEADERS = 64


class NoSuchFrame(Rejected):
    """The instance has no pixel data, or fewer frames."""


def count(path: Path) -> int:
    """Number of frames. Raises NoSuchFrame where the object has no pixel data."""
    header = _header(path)
    if not any(tag in header for tag in (0x7FE00010, 0x7FE00008, 0x7FE00009)):
        raise NoSuchFrame("the instance has no pixel data, so it has no frames")
    return int(levels.text(header, "NumberOfFrames") or 1)


def stored_syntax(path: Path) -> UID:
    """Transfer syntax of what `encoded` gives: native pixels come out little endian, whatever they were."""
    element = _header(path).get_item(_PIXEL_DATA, keep_deferred=True)
    if isinstance(element, RawDataElement) and element.length == _ENCAPSULATED:
        return UID(_header(path).file_meta.TransferSyntaxUID)
    return ExplicitVRLittleEndian


def encoded(path: Path, number: int) -> bytes:
    """Frame `number` (from 1) as it is encoded; native pixels as little-endian values.

    Raises:
        NoSuchFrame: the number is out of range.
        UndecodablePixels: native pixels that cannot be cut into frames.
    """
    _check_number(path, number)
    header = _header(path)
    syntax = UID(header.file_meta.TransferSyntaxUID)
    element = header.get_item(_PIXEL_DATA, keep_deferred=True)
    if isinstance(element, RawDataElement) and element.length == _ENCAPSULATED:
        with path.open("rb") as file:
            file.seek(element.value_tell)
            return get_frame(file, number - 1, number_of_frames=count(path))
    if int(header.BitsAllocated) == 1:
        return _bits(path, number)
    in_place = isinstance(element, RawDataElement) and element.value is None
    if not in_place or syntax == ExplicitVRBigEndian:
        return decoded(path, number)
    size = element.length // count(path)
    with path.open("rb") as file:
        file.seek(element.value_tell + (number - 1) * size)
        return file.read(size)


def decoded(path: Path, number: int) -> bytes:
    """Frame `number` (from 1) as little-endian values, colour by pixel. Raises NoSuchFrame, UndecodablePixels."""
    _check_number(path, number)
    if int(_header(path).get("BitsAllocated", 8)) == 1:
        return _bits(path, number)
    values = pixels.stored(whole_files.read(path), number - 1)
    return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()


def _bits(path: Path, number: int) -> bytes:
    """A frame of one-bit pixels, beginning at a byte of its own (PS3.5 8.1.1: frames are packed without gaps)."""
    dataset = whole_files.read(path)
    if dataset["PixelData"].is_undefined_length:
        raise UndecodablePixels("one-bit pixels in a compressed syntax cannot be given out frame by frame")
    size = int(dataset.Rows) * int(dataset.Columns)
    start = (number - 1) * size
    bits = np.unpackbits(np.frombuffer(dataset.PixelData, np.uint8), bitorder="little")[start : start + size]
    return np.packbits(bits, bitorder="little").tobytes()


def _check_number(path: Path, number: int) -> None:
    frames = count(path)
    if not 1 <= number <= frames:
        raise NoSuchFrame(f"there is no frame {number}; the instance has frames 1 to {frames}")


@lru_cache(_HEADERS)
def _header(path: Path) -> pydicom.Dataset:
    """Header of a stored file; stored files never change. Small values are read, long ones stay in the file."""
    meta = pydicom.filereader.read_file_meta_info(path)
    deflated = meta.TransferSyntaxUID == DeflatedExplicitVRLittleEndian
    return pydicom.dcmread(path, defer_size=None if deflated else _DEFER_BYTES)
