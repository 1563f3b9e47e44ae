"""An instance of metadata and bulk data becomes a Part 10 file (PS3.18 10.5.1.1, PS3.10 7.1).

Pixel data are copied from file to file; only headers and the other long values pass through memory. The file is written
as Explicit VR Little Endian, or around compressed frames in the transfer syntax that these have.
"""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, BinaryIO
from urllib.parse import urljoin

import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import (
    HTJ2K,
    MPEG2MPML,
    MPEG4HP41,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)
from pydicom.values import convert_value

from dicom_io.dataset import ITEM, SEQUENCE_END, UNDEFINED
from dicom_io.errors import Rejected
from plugin.archive.storage import Reception, Storage
from plugin.dicomweb import codestream, media

# What a media type means where neither its parameter nor the picture tells (PS3.18 tables 8.7.3-2, -5 and -6).
_DEFAULT_SYNTAX = {
    "image/jpeg": JPEGLosslessSV1,
    "image/jls": JPEGLSLossless,
    "image/jp2": JPEG2000Lossless,
    "image/jphc": HTJ2K,
    "image/dicom-rle": RLELossless,
    "image/x-dicom-rle": RLELossless,
    "video/mpeg2": MPEG2MPML,
    "video/mpeg": MPEG2MPML,
    "video/mp4": MPEG4HP41,
}
_PIXEL_DATA = Tag(0x7FE00010)
_BINARY_VRS = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
_COPY_BYTES = 1 << 20
# What pydicom raises on values that do not follow their value representation.
_DAMAGE = (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    NotImplementedError,
    OverflowError,
    RecursionError,
    struct.error,
)


class CannotAssemble(Rejected):
    """Metadata and bulk data make no instance. The UIDs as far as the metadata have them."""

    def __init__(self, message: str, item: object) -> None:
        super().__init__(message)
        self.sop_class_uid, self.sop_instance_uid = _text(item, "00080016"), _text(item, "00080018")


@dataclass(frozen=True)
class Bulk:
    """One part of bulk data. location: its Content-Location; transfer_syntax: "" where not said."""

    location: str
    media_type: str
    transfer_syntax: str
    reception: Reception


@dataclass
class Assembly:
    """The bulk data of one request. url: of the request; relative locations are counted from it."""

    storage: Storage
    url: str
    _parts: dict[str, list[Bulk]] = field(default_factory=dict)

    def add(self, bulk: Bulk) -> None:
        """One more part; several of one location are the frames of one value, in order. Raises NoSpace."""
        self._parts.setdefault(self._resolved(bulk.location), []).append(bulk)
        bulk.reception.finish()

    def abandon(self) -> None:
        """Delete the files of all parts."""
        for parts in self._parts.values():
            for bulk in parts:
                bulk.reception.abandon()

    def file(self, item: object) -> Reception:
        """The Part 10 file of one data set in the DICOM JSON model.

        Raises:
            CannotAssemble: no data set, a value that its VR does not allow, or bulk data that no part brings.
        """
        if not isinstance(item, dict):
            raise CannotAssemble("the metadata hold something else than DICOM JSON objects; write them anew", item)
        pixels = self._pixels(item)
        syntax, described = _syntax(pixels)
        try:
            dataset = self._dataset(item)
            if described is not None:
                _complete(dataset, described)
            before, after = _halves(dataset, syntax, item)
        except (*_DAMAGE, OSError) as error:  # pydicom's writer says OSError of a value that does not fit
            raise CannotAssemble(
                f"the metadata cannot be read as a data set ({error}); write them anew", item
            ) from error
        reception = self.storage.receive()
        reception.write(before)
        if pixels:
            _write_pixels(reception, pixels, syntax, item, described)
        reception.write(after)
        return reception

    def _resolved(self, location: str) -> str:
        try:
            return urljoin(self.url, location)
        except ValueError:  # no URL at all; both sides may still write it alike
            return location

    def _pixels(self, item: dict[str, Any]) -> Sequence[Bulk]:
        element = item.get("7FE00010")
        uri = element.get("BulkDataURI") if isinstance(element, dict) else None
        return self._found(str(uri), item) if uri else ()

    def _found(self, uri: str, item: object) -> list[Bulk]:
        parts = self._parts.get(self._resolved(uri))
        if parts is None:
            raise CannotAssemble(
                f"the metadata name bulk data {uri!r}, and no part has that Content-Location; send it along", item
            )
        return parts

    def _dataset(self, item: dict[str, Any]) -> pydicom.Dataset:
        """All but what is pixel data by reference, file meta information, and Available Transfer Syntax UID."""
        by_reference = {"7FE00010"} if "BulkDataURI" in item.get("7FE00010", ()) else set()
        left_out = {"00083002"} | by_reference
        values = {tag: one for tag, one in item.items() if tag not in left_out and not tag.startswith("0002")}

        def value(tag: str, vr: str, uri: str) -> Any:
            raw = b"".join(bulk.reception.path.read_bytes() for bulk in self._found(uri, item))
            if vr in _BINARY_VRS:
                return raw
            return convert_value(vr, RawDataElement(Tag(tag), vr, len(raw), raw, 0, False, True), ["utf_8"])

        dataset = pydicom.Dataset.from_json(values, value)
        if not json.dumps(values, ensure_ascii=False).isascii():
            # JSON is Unicode, whatever the character set of the object was before.
            dataset.SpecificCharacterSet = "ISO_IR 192"
        return dataset


def _syntax(pixels: Sequence[Bulk]) -> tuple[UID, codestream.Described | None]:
    """Transfer syntax of the file, and what the first frame says of itself."""
    if not pixels:
        return ExplicitVRLittleEndian, None
    first = pixels[0]
    with first.reception.path.open("rb") as file:
        described = None if first.media_type == media.OCTETS else codestream.describe(file.read(codestream.HEAD_BYTES))
    if first.transfer_syntax:
        said = UID(first.transfer_syntax)
        # Native values are the same in each of them.
        native = said in (ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian)
        return (ExplicitVRLittleEndian if native else said), described
    if described is not None:
        return UID(described.syntax), described
    return UID(_DEFAULT_SYNTAX.get(first.media_type, ExplicitVRLittleEndian)), None


def _complete(dataset: pydicom.Dataset, described: codestream.Described) -> None:
    """Image Pixel attributes that the client left to the picture (PS3.18 10.5.2)."""
    if not all(keyword in dataset for keyword in ("Rows", "Columns", "BitsAllocated")):
        for keyword, value in described.attributes.items():
            if keyword not in dataset:
                setattr(dataset, keyword, value)


def _halves(dataset: pydicom.Dataset, syntax: UID, item: object) -> tuple[bytes, bytes]:
    """What of the file comes before Pixel Data (7FE0,0010), and what after, encoded."""
    if syntax.is_private or not syntax.is_transfer_syntax or syntax.is_implicit_VR or not syntax.is_little_endian:
        raise CannotAssemble(f"bulk data in transfer syntax {syntax} cannot be stored; send little endian values", item)
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID", "")
    meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID", "")
    if not meta.MediaStorageSOPClassUID or not meta.MediaStorageSOPInstanceUID:
        raise CannotAssemble("the metadata have no SOP Class UID or no SOP Instance UID; fill both in", item)
    behind = pydicom.Dataset({tag: dataset[tag] for tag in dataset.keys() if tag > _PIXEL_DATA})  # noqa: SIM118
    for tag in behind.keys():  # noqa: SIM118
        del dataset[tag]
    dataset.file_meta = meta
    before, after = BytesIO(), BytesIO()
    pydicom.dcmwrite(before, dataset, enforce_file_format=True)
    pydicom.dcmwrite(after, behind, implicit_vr=False, little_endian=True)
    return before.getvalue(), after.getvalue()


def _write_pixels(
    target: Reception, pixels: Sequence[Bulk], syntax: UID, item: object, described: codestream.Described | None
) -> None:
    sizes = [bulk.reception.path.stat().st_size for bulk in pixels]
    if not syntax.is_compressed:
        size = sum(sizes)
        if size + size % 2 >= UNDEFINED:
            raise CannotAssemble("Pixel Data (7FE0,0010) exceed 4 GiB; send them compressed", item)
        target.write(struct.pack("<HH2sHL", 0x7FE0, 0x10, b"OW", 0, size + size % 2))
        for bulk in pixels:
            _copy(bulk, target)
        target.write(b"\0" * (size % 2))
        return
    # Encapsulated, PS3.5 A.4: an empty offset table, one fragment a frame.
    target.write(struct.pack("<HH2sHL", 0x7FE0, 0x10, b"OB", 0, UNDEFINED) + _item(0))
    start = 0 if described is None else described.start
    for bulk, size in zip(pixels, sizes, strict=True):
        length = size - start
        target.write(_item(length + length % 2))
        _copy(bulk, target, start)
        target.write(b"\0" * (length % 2))
    target.write(struct.pack("<HHL", SEQUENCE_END >> 16, SEQUENCE_END & 0xFFFF, 0))


def _item(length: int) -> bytes:
    return struct.pack("<HHL", ITEM >> 16, ITEM & 0xFFFF, length)


def _copy(bulk: Bulk, target: Reception, start: int = 0) -> None:
    source: BinaryIO
    with bulk.reception.path.open("rb") as source:
        source.seek(start)
        shutil.copyfileobj(source, target, _COPY_BYTES)


def _text(item: object, tag: str) -> str:
    element = item.get(tag) if isinstance(item, dict) else None
    values = element.get("Value") if isinstance(element, dict) else None
    return str(values[0]) if isinstance(values, list) and values else ""
