"""Single frames of stored pixel data: where they lie in the file, decoded, in another encoding, or as a small image.

A frame is found without reading the others: native ones by their size, encapsulated ones by the offset tables or by
their fragments (PS3.5 8.1.1, A.4).
"""

from __future__ import annotations

import struct
import threading
import warnings
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pydicom
from pydicom import Dataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.filewriter import dcmwrite
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ExplicitVRLittleEndian

from dicom_io import dataset as whole_files
from dicom_io import encoding, pixels
from dicom_io.dataset import PIXEL_DATA, UNDEFINED
from dicom_io.errors import Rejected, UndecodablePixels
from plugin.archive.storage import mapped
from plugin.dicomweb.sending import Made, Placed, Stretch, made

PIXEL_TAGS = (PIXEL_DATA, 0x7FE00008, 0x7FE00009)
"""Pixel Data, Float Pixel Data, Double Float Pixel Data."""
_NUMBER_OF_FRAMES, _BITS_ALLOCATED = 0x00280008, 0x00280100
# Of pixel data that say it by what they are.
_BITS = {0x7FE00008: 32, 0x7FE00009: 64}
_DEFER_BYTES = 1 << 12
# A viewer asks frame by frame, several at once. A parsed header takes about this many times its bytes in memory.
_HEADERS_BYTES, _GROWTH, _LEAST_BYTES = 64 << 20, 12, 1 << 14
# What describes pixels (PS3.3 C.7.6.3), and whose they are.
_IMAGE = (
    *("SOPClassUID", "SOPInstanceUID", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration"),
    *("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *(
        f"{colour}PaletteColorLookupTable{part}"
        for colour in ("Red", "Green", "Blue")
        for part in ("Data", "Descriptor")
    ),
)


class NoSuchFrame(Rejected):
    """The instance has no pixel data, or fewer frames."""


@dataclass(frozen=True, eq=False)
class Layout:
    """A stored file, and where its pixel data lie.

    tag, vr: of the pixel data, 0 and "" where there are none. start, length: of their value in the file; length is
    UNDEFINED where they are encapsulated. count: Number of Frames (0028,0008). bits_allocated: (0028,0100). value:
    where they have no place in the file (a deflated one).
    """

    path: Path
    transfer_syntax: UID
    tag: int = 0
    vr: str = ""
    start: int = 0
    length: int = 0
    count: int = 1
    bits_allocated: int = 16
    value: bytes | None = None

    @cached_property
    def header(self) -> Dataset:
        """All before the pixel data; long values are still in the file."""
        return _header(self.path, self.transfer_syntax)

    @property
    def syntax(self) -> UID:
        """Of the frames as `pieces` gives them: native ones are little endian, whatever the file is."""
        return self.transfer_syntax if self.is_encapsulated else ExplicitVRLittleEndian

    @property
    def is_encapsulated(self) -> bool:
        return self.length == UNDEFINED

    @property
    def in_place(self) -> bool:
        """The values lie in the file as they are sent."""
        big = self.transfer_syntax == ExplicitVRBigEndian
        return not self.is_encapsulated and self.value is None and not (big and self.bits_allocated > 8)

    @property
    def stream(self) -> Sequence[Stretch]:
        """All fragments, one after the other: a film (PS3.5 A.4.5 to A.4.7)."""
        with self.path.open("rb") as file:
            return _walk_fragments(file, self.start, self.path)[1]

    @cached_property
    def fragments(self) -> Sequence[tuple[Stretch, ...]] | None:
        """The fragments of each frame; None where neither a table nor their number tells which belong together."""
        with self.path.open("rb") as file:
            table, found = _walk_fragments(file, self.start, self.path)
        tags = [stretch.start - 8 for stretch in found]
        if self.count == 1:
            return [tuple(found)]
        offsets = self._extended_offsets() or table
        if len(offsets) == self.count and tags:
            starts = [tags[0] + offset for offset in offsets]
            ends = [*starts[1:], tags[-1] + 1]
            return [
                tuple(stretch for stretch, tag in zip(found, tags, strict=True) if start <= tag < end)
                for start, end in zip(starts, ends, strict=True)
            ]
        return [(stretch,) for stretch in found] if len(found) == self.count else None

    def _extended_offsets(self) -> Sequence[int]:
        raw = bytes(self.header.get("ExtendedOffsetTable") or b"")
        return struct.unpack(f"<{len(raw) // 8}Q", raw[: len(raw) // 8 * 8])


def layout(path: Path) -> Layout:
    """The layout of a file with pixel data. Raises NoSuchFrame where it has none."""
    found = parse_cached(path)
    if not found.tag:
        raise NoSuchFrame("the instance has no pixel data, so it has no frames")
    return found


def is_at_hand(path: Path) -> bool:
    """The layout is in memory: to ask for it costs next to nothing."""
    return path in _LAYOUTS


def parse_cached(path: Path) -> Layout:
    """The layout of a file, whether it has pixel data or not; those that were asked for last are at hand."""
    return _LAYOUTS.get(path)


def pieces(path: Path, number: int) -> Sequence[Placed]:
    """Frame `number` (from 1) as it is encoded; native pixels as little-endian values.

    Raises:
        NoSuchFrame: the number is out of range.
        UndecodablePixels: pixels that cannot be cut into frames.
    """
    return _pieces(_checked(path, number), number)


def _pieces(found: Layout, number: int) -> Sequence[Placed]:
    path = found.path
    if not found.is_encapsulated:
        if found.bits_allocated == 1:
            return [_bits(found, number)]
        if not found.in_place:
            return [_native(found, number)]
        size = found.length // found.count
        return [Stretch(path, found.start + (number - 1) * size, size)]
    if found.fragments is not None:
        return found.fragments[number - 1]
    try:
        with path.open("rb") as file:
            file.seek(found.start)
            return [get_frame(file, number - 1, number_of_frames=found.count)]
    except (ValueError, EOFError, struct.error) as error:
        raise UndecodablePixels(f"its pixel data cannot be cut into {found.count} frames ({error})") from error


def encoded(path: Path, number: int) -> bytes:
    """The bytes of `pieces`."""
    return read(pieces(path, number))


def read(placed: Iterable[Placed]) -> bytes:
    """The bytes of pieces."""
    return b"".join(piece if isinstance(piece, bytes) else _read(piece) for piece in placed)


def decoded(path: Path, number: int) -> bytes:
    """Frame `number` (from 1) as little-endian values, colour by pixel. Raises NoSuchFrame, UndecodablePixels."""
    found = _checked(path, number)
    if found.bits_allocated == 1 and not found.is_encapsulated:
        return _bits(found, number)
    values = pixels.stored(alone(path, number), 0)
    return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()


def transcoded(path: Path, number: int, syntax: UID, folder: Path) -> bytes:
    """Frame `number` (from 1) as it is encoded in `syntax`. folder: for what lies on disk meanwhile.

    Raises:
        NoSuchFrame: the number is out of range. CannotEncode, UndecodablePixels: see `encoding.write`.
    """
    whole = alone(path, number)
    image = Dataset()
    image.update({element.tag: element for element in map(whole.get, _IMAGE_TAGS) if element is not None})
    image[pydicom.tag.Tag(layout(path).tag)] = whole[layout(path).tag]
    image.file_meta = whole.file_meta

    with (
        made(Made(lambda path: dcmwrite(path, image, enforce_file_format=True), folder)) as source,
        made(Made(lambda path: encoding.write(source, path, syntax), folder)) as target,
    ):
        return read(_pieces(parse(target), 1))


def alone(path: Path, number: int) -> Dataset:
    """Frame `number` (from 1) as an image of one frame: the whole header, and the pixels of that frame.

    Per-frame Functional Groups (5200,9230) hold the item of this frame alone. Raises as `pieces` does.
    """
    found = _checked(path, number)
    header = found.header
    # A data set gives its elements when it is iterated over, parsed.
    image = Dataset({tag: header.get_item(tag, keep_deferred=True) for tag in header.keys()})  # noqa: SIM118
    image.filename, image.timestamp, image.fileobj_type = header.filename, header.timestamp, header.fileobj_type
    image.file_meta = header.file_meta
    image.set_original_encoding(*header.original_encoding, header.original_character_set)
    # The elements are the cached header's own: they are replaced, never changed.
    if "NumberOfFrames" in image:
        image.add_new("NumberOfFrames", "IS", 1)
    groups = image.get("PerFrameFunctionalGroupsSequence")
    if groups and number <= len(groups):
        image.add_new("PerFrameFunctionalGroupsSequence", "SQ", [groups[number - 1]])
    if found.is_encapsulated:
        image.PixelData = encapsulate([encoded(path, number)], has_bot=False)
        image["PixelData"].is_undefined_length = True
        return image
    # The values as they lie in the file: the transfer syntax, which says their order, stays.
    raw = _bits(found, number) if found.bits_allocated == 1 else _native(found, number, as_stored=True)
    image.add_new(found.tag, found.vr, raw + b"\0" * (len(raw) % 2))
    return image


_IMAGE_TAGS = tuple(pydicom.tag.Tag(keyword) for keyword in _IMAGE)


def check(path: Path, number: int) -> None:
    """Raises NoSuchFrame where there is no frame of this number (from 1)."""
    _checked(path, number)


def _checked(path: Path, number: int) -> Layout:
    found = layout(path)
    if not 1 <= number <= found.count:
        raise NoSuchFrame(f"there is no frame {number}; the instance has frames 1 to {found.count}")
    return found


def _native(found: Layout, number: int, *, as_stored: bool = False) -> bytes:
    """One native frame, little endian unless as stored."""
    size = found.length // found.count
    start = (number - 1) * size
    if found.value is not None:
        return found.value[start : start + size]
    raw = _read(Stretch(found.path, found.start + start, size))
    if as_stored or found.in_place:
        return raw
    return np.frombuffer(raw, f">u{found.bits_allocated // 8}").astype(f"<u{found.bits_allocated // 8}").tobytes()


def _bits(found: Layout, number: int) -> bytes:
    """A frame of one-bit pixels, beginning at a byte of its own (PS3.5 8.1.1: frames are packed without gaps)."""
    size = int(found.header.Rows) * int(found.header.Columns) * int(found.header.get("SamplesPerPixel") or 1)
    first, last = (number - 1) * size, number * size
    low, high = first // 8, min((last + 7) // 8, found.length)
    raw = (
        found.value[low:high] if found.value is not None else _read(Stretch(found.path, found.start + low, high - low))
    )
    bits = np.unpackbits(np.frombuffer(raw, np.uint8), bitorder="little")[first - 8 * low : last - 8 * low]
    return np.packbits(bits, bitorder="little").tobytes()


def _read(stretch: Stretch) -> bytes:
    with stretch.path.open("rb") as file:
        file.seek(stretch.start)
        return file.read(stretch.size)


def _walk_fragments(file: BinaryIO, start: int, path: Path) -> tuple[Sequence[int], list[Stretch]]:
    """Basic Offset Table, and the fragments behind it."""
    file.seek(start)
    table: Sequence[int] | None = None
    found: list[Stretch] = []
    while len(head := file.read(8)) == 8 and head[:4] == b"\xfe\xff\x00\xe0":
        (size,) = struct.unpack("<I", head[4:])
        if table is None:
            table = struct.unpack(f"<{size // 4}I", file.read(size)[: size // 4 * 4])
            continue
        found.append(Stretch(path, file.tell(), size))
        file.seek(size, 1)
    return table or (), found


# Headers


class _Layouts:
    """Layouts of the files that were asked for last, as many as fit in `_HEADERS_BYTES`; stored files never change."""

    def __init__(self) -> None:
        self._held: OrderedDict[Path, tuple[Layout, int]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def __contains__(self, path: Path) -> bool:
        return path in self._held

    def get(self, path: Path) -> Layout:
        with self._lock:
            if path in self._held:
                self._held.move_to_end(path)
                return self._held[path][0]
        found = parse(path)
        size = _GROWTH * min(found.start, 1 << 20) + len(found.value or b"") + _LEAST_BYTES
        with self._lock:
            if path in self._held:
                return self._held[path][0]  # another thread was as quick
            self._held[path] = (found, size)
            self._bytes += size
            while self._bytes > _HEADERS_BYTES and len(self._held) > 1:
                _, (_, weight) = self._held.popitem(last=False)
                self._bytes -= weight
        return found


_LAYOUTS = _Layouts()


def parse(path: Path) -> Layout:
    """The layout of a file, found anew."""
    with mapped(path) as raw:
        found = whole_files.layout(raw)
        syntax = UID(found.transfer_syntax)
        places = {place.tag: place for place in found.places}
        place = next((places[tag] for tag in PIXEL_TAGS if tag in places), None)
        if place is None:
            return Layout(path, syntax)

        def value(tag: int) -> bytes:
            return bytes(found.raw[places[tag].start : places[tag].end]) if tag in places else b""

        number = value(_NUMBER_OF_FRAMES).strip(b" \0")
        bits = int.from_bytes(value(_BITS_ALLOCATED)[:2], "little" if found.is_little_endian else "big")
        # A deflated file has been inflated to be walked: its values have no place in the file to come back to.
        is_there = syntax != DeflatedExplicitVRLittleEndian
        return Layout(
            path,
            syntax,
            place.tag,
            (place.vr or b"OW").decode("ascii", "replace"),
            place.start if is_there else 0,
            place.length,
            count=int(number) if number.isdigit() and int(number) else 1,
            bits_allocated=bits or _BITS.get(place.tag, 16),
            value=None if is_there else bytes(found.raw[place.start : place.end]),
        )


def _header(path: Path, syntax: UID) -> Dataset:
    with path.open("rb") as file, warnings.catch_warnings():
        # pydicom warns of each odd value; the bytes are kept as they came, and the archive is not their judge.
        warnings.simplefilter("ignore")
        if syntax != DeflatedExplicitVRLittleEndian:
            header = pydicom.dcmread(file, stop_before_pixels=True, defer_size=_DEFER_BYTES)
            header.filename, header.fileobj_type = str(path), open
            return header
        header = pydicom.dcmread(file)
        for tag in PIXEL_TAGS:
            if tag in header:
                del header[tag]
        return header
