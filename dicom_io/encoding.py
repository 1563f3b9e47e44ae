"""One object in another transfer syntax: the same SOP Instance UID and pixels, never a lossy step (PS3.18 8.7.3.5).

What changes, and nothing else:

- VRs are added or left out and numbers turned from big endian, as the encoding demands (PS3.5 A.1 to A.4); group
  lengths (gggg,0000) are left out. Elements that no dictionary knows get UN in Explicit VR (PS3.5 6.2.2).
- Samples that come out of a decoder, or go into an encoder, are ordered by pixel: Planar Configuration (0028,0006)
  becomes 0 (PS3.3 C.7.6.3.1.3). A decoder of JPEG Baseline or Extended gives RGB for YBR_FULL and YBR_FULL_422, one of
  JPEG 2000 for YBR_RCT and YBR_ICT; Photometric Interpretation (0028,0004) says so then (PS3.5 8.2.1, 8.2.4). Other
  colours stay as they are: a conversion would round.
- Encapsulated frames get one fragment each and a Basic Offset Table (PS3.5 A.4), left empty where offsets could exceed
  its 32 bits; an Extended Offset Table (7FE0,0001) and (7FE0,0002) of the source is left out.
- An icon (PS3.3 C.7.6.1.1.6) that is encapsulated becomes native.

Lossy Image Compression (0028,2110) and its ratio and method stay: decoding brings nothing back (PS3.3 C.7.6.1.1.5).

Pixels go from file to file frame by frame, or in blocks where they are native on both sides; the memory that is needed
does not grow with the number of frames.
"""

from __future__ import annotations

import mmap
import os
import shutil
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedWriter, BytesIO
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.pixels import get_encoder
from pydicom.tag import Tag
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from dicom_io import pixels
from dicom_io.dataset import PIXEL_DATA, UNDEFINED, Walk, file_meta
from dicom_io.elements import ENCAPSULATED_PIXEL_DATA, NUMBER_BYTES, Element, Recoder, Surroundings, elements, swapped
from dicom_io.errors import NotDicom, Rejected, UndecodablePixels

NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian)
_ENCODERS = {JPEGLSLossless: "pyjpegls", JPEG2000Lossless: "pylibjpeg", RLELossless: "pylibjpeg"}
TARGETS: tuple[UID, ...] = (*NATIVE, *_ENCODERS)
"""Transfer syntaxes that `write` can write."""
SOURCES: tuple[UID, ...] = (
    *(*NATIVE, ExplicitVRBigEndian, RLELossless, JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1),
    *(JPEGLSLossless, JPEGLSNearLossless, JPEG2000Lossless, JPEG2000, HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K),
)
"""Transfer syntaxes that `write` can read."""

# Decoders of these turn YBR into RGB; every other one gives the samples that were encoded, or undoes its own transform.
_RGB_WHEN_DECODED = (JPEGBaseline8Bit, JPEGExtended12Bit)
_FLOAT_PIXELS = (0x7FE00008, 0x7FE00009)
_OFFSET_TABLES = (0x7FE00001, 0x7FE00002, 0x7FE00003)
_PHOTOMETRIC, _PLANAR = 0x00280004, 0x00280006
_IMAGE = (
    *("SOPInstanceUID", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames"),
    *("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
)
# What pydicom raises on damaged values, which it parses when they are asked for.
_DAMAGE = (ValueError, TypeError, AttributeError, LookupError, NotImplementedError, OverflowError, struct.error)
_BLOCK_BYTES = 1 << 20
_ITEM, _SEQUENCE_END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0\0\0\0\0"


class CannotEncode(Rejected):
    """The object cannot be written in this transfer syntax without loss, or not by us."""


def can_write(source: UID, target: UID) -> bool:
    """Whether an object that is stored in one transfer syntax can be given in another; an object may still resist."""
    return source == target or (source in SOURCES and target in TARGETS)


def choose(stored: UID, acceptable: Sequence[UID]) -> UID | None:
    """The transfer syntax to send in: the stored one where it is acceptable, else the first that we can write.

    acceptable: in the peer's order. None where there is none; a lossy one is never chosen.
    """
    return next(iter(candidates(stored, acceptable)), None)


def candidates(stored: UID, acceptable: Sequence[UID]) -> list[UID]:
    """As `choose`, all of them, the best first: where an object resists one, the next may do."""
    if stored in acceptable:
        return [stored, *(syntax for syntax in acceptable if syntax != stored and can_write(stored, syntax))]
    return [UID(syntax) for syntax in acceptable if can_write(stored, syntax)]


def write(source: Path, target: Path, syntax: UID) -> None:
    """Write `source` (a DICOM file, PS3.10) to `target` in the transfer syntax `syntax`, its own or one of TARGETS.

    Raises:
        CannotEncode: the syntax is none of TARGETS, or the format cannot hold these pixels unchanged.
        UndecodablePixels: the pixels cannot be decoded, or contradict the header.
        NotDicom: the file ends before its data set does.
    """
    with _opened(source) as stored:
        if stored.syntax == syntax:
            shutil.copyfile(source, target)
            return
        try:
            with target.open("wb") as file:
                _write(stored, file, UID(syntax))
        except _DAMAGE as error:
            target.unlink(missing_ok=True)
            raise UndecodablePixels(
                f"{source.name}: what its header says of the pixels cannot be read ({error}); use it as stored"
            ) from error
        except BaseException:
            target.unlink(missing_ok=True)
            raise


# The source


@dataclass(frozen=True)
class _Stored:
    """A source as memory pages and as a file. start: of the data set, inflated where it is deflated in the source.

    syntax: as the file meta group says; explicit: as the bytes say.
    """

    raw: mmap.mmap
    file: BinaryIO
    name: str
    start: int
    syntax: UID

    @property
    def walk(self) -> Walk:
        return Walk(self.raw, ">" if self.syntax == ExplicitVRBigEndian else "<", self.name)

    @property
    def explicit(self) -> bool:
        return self.walk.is_explicit(self.start)

    def read(self, start: int, end: int) -> bytes:
        """Bytes of the file; pixels are read like this, since pages of a map count as memory of the process."""
        return os.pread(self.file.fileno(), end - start, start)

    def image(self) -> Dataset:
        """What describes the pixels (PS3.3 C.7.6.3)."""
        self.file.seek(self.start)
        little = self.syntax != ExplicitVRBigEndian
        return read_dataset(
            self.file,
            not self.explicit,
            little,
            stop_when=lambda tag, vr, length: tag >= _OFFSET_TABLES[0],
            specific_tags=[Tag(keyword) for keyword in _IMAGE],
        )


@contextmanager
def _opened(source: Path) -> Iterator[_Stored]:
    if source.stat().st_size == 0:
        raise NotDicom(f"{source.name} is empty; send the whole file")
    with source.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
        syntax, start = file_meta(raw, source.name)
        if syntax != DeflatedExplicitVRLittleEndian:
            yield _Stored(raw, file, source.name, start, UID(syntax))
            return
        with tempfile.TemporaryFile() as plain:
            _inflate(raw, start, plain, source.name)
            with mmap.mmap(plain.fileno(), 0, access=mmap.ACCESS_READ) as inflated:
                yield _Stored(inflated, plain, source.name, start, UID(syntax))


def _inflate(raw: mmap.mmap, start: int, plain: BinaryIO, name: str) -> None:
    """File meta group as it is, then the data set, inflated."""
    plain.write(raw[:start])
    stream = zlib.decompressobj(-zlib.MAX_WBITS)  # no zlib header (PS3.5 A.5)
    try:
        for position in range(start, len(raw), _BLOCK_BYTES):
            block = raw[position : position + _BLOCK_BYTES]
            while block and not stream.eof:
                plain.write(stream.decompress(block, _BLOCK_BYTES))
                block = stream.unconsumed_tail
        plain.write(stream.flush())
    except zlib.error as error:
        raise NotDicom(f"{name}: its deflated data set is damaged ({error}); send the file again") from error
    if not stream.eof:
        raise NotDicom(f"{name} ends inside its deflated data set; send the whole file")
    plain.flush()


# The target


class _Sink(Protocol):
    def write(self, raw: bytes, /) -> object: ...


class _Deflating:
    """Writes deflated (PS3.5 A.5)."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._stream = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        self._written = 0

    def write(self, raw: bytes, /) -> None:
        self._put(self._stream.compress(raw))

    def close(self) -> None:
        """Write what is left, and the byte that makes the length even."""
        self._put(self._stream.flush())
        self._put(b"\0" * (self._written % 2))

    def _put(self, raw: bytes) -> None:
        self._written += self._file.write(raw)


def _write(stored: _Stored, file: BinaryIO, syntax: UID) -> None:
    if not can_write(stored.syntax, syntax):
        raise CannotEncode(
            f"{stored.name} is stored in {stored.syntax} ({stored.syntax.name}) and cannot be written in {syntax} "
            f"({syntax.name}); ask for it as stored, or for one of {', '.join(TARGETS)}"
        )
    found = list(elements(stored.walk, stored.start, len(stored.raw), stored.explicit))
    pixel_data = _pixel_data(stored, found, syntax)
    file.write(_meta(stored, syntax))
    if syntax != DeflatedExplicitVRLittleEndian:
        _data_set(stored, found, pixel_data, file, syntax)
        return
    sink = _Deflating(file)
    _data_set(stored, found, pixel_data, sink, syntax)
    sink.close()


def _data_set(
    stored: _Stored, found: Sequence[Element], pixel_data: _PixelData | None, sink: _Sink, syntax: UID
) -> None:
    """Every element in order; those that describe the pixels as these come out, and the pixels."""
    explicit = syntax != ImplicitVRLittleEndian
    recoder = Recoder(stored.walk, stored.explicit, explicit, lambda raw: _native_item(raw, stored.syntax))
    around = Surroundings()
    changed = {} if pixel_data is None else dict(pixel_data.changed)
    for element in found:
        for tag in [tag for tag in changed if tag <= element.tag]:
            vr, value = changed.pop(tag)
            sink.write(recoder.header(tag, vr, len(value)) + value)
        if pixel_data is not None and element.tag == pixel_data.element.tag:
            pixel_data.write(recoder, sink)
        elif pixel_data is None or element.tag not in (*pixel_data.changed, *_OFFSET_TABLES):
            sink.write(recoder.element(element, around))


def _meta(stored: _Stored, syntax: UID) -> bytes:
    """Preamble and file meta group (PS3.10 7.1) with another Transfer Syntax UID (0002,0010)."""
    walk = Walk(stored.raw, "<", stored.name)
    group = b""
    for element in elements(walk, 132, stored.start, explicit=True):
        if element.tag == 0x00020010:
            value = syntax.encode() + b"\0" * (len(syntax) % 2)
            group += struct.pack("<HH2sH", 2, 0x10, b"UI", len(value)) + value
        elif element.tag != 0x00020000:
            group += stored.raw[element.start : element.end]
    return stored.raw[:132] + struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(group)) + group


# The pixels


@dataclass
class _PixelData:
    """Pixel data on their way. changed: tag -> (VR, value) of what the header must say of them afterwards."""

    element: Element
    changed: dict[int, tuple[bytes, bytes]]
    write: Callable[[Recoder, _Sink], None]


def _pixel_data(stored: _Stored, found: Sequence[Element], syntax: UID) -> _PixelData | None:
    element = next((one for one in found if one.tag in (PIXEL_DATA, *_FLOAT_PIXELS)), None)
    if element is None:
        if syntax in NATIVE:
            return None
        raise CannotEncode(f"{stored.name} has no pixels that {syntax.name} could hold; send it uncompressed")
    image = stored.image()
    source: _Source
    if element.length == UNDEFINED:
        source = _Fragments(stored, element, image, found)
    else:
        source = _Values(stored, element, image)
        if syntax in NATIVE:
            return _PixelData(element, {}, source.copy)
    if int(image.get("BitsAllocated") or 0) == 1:
        raise CannotEncode(f"{_named(image)} has pixels of one bit, which only uncompressed syntaxes hold; use one")
    first, photometric = next(frames := source.frames())
    changed: dict[int, tuple[bytes, bytes]] = {}
    if photometric != image.PhotometricInterpretation:
        changed[_PHOTOMETRIC] = b"CS", photometric.encode() + b" " * (len(photometric) % 2)
    if first.ndim == 3 and image.get("PlanarConfiguration") != 0:
        changed[_PLANAR] = b"US", b"\0\0"
    every = chain([(first, photometric)], frames)
    if syntax in NATIVE:
        return _PixelData(element, changed, lambda recoder, sink: _native(image, every, photometric, recoder, sink))
    return _PixelData(element, changed, lambda recoder, sink: _encapsulated(image, every, photometric, syntax, sink))


Frame = tuple[npt.NDArray[Any], str]
"""Samples, (rows, columns) or (rows, columns, samples), and their Photometric Interpretation."""


class _Source(Protocol):
    def frames(self) -> Iterator[Frame]: ...


@dataclass(frozen=True)
class _Values:
    """Native pixel data (PS3.5 8.1)."""

    stored: _Stored
    element: Element
    image: Dataset

    def copy(self, recoder: Recoder, sink: _Sink) -> None:
        """All of it, little endian, block by block."""
        element = self.element
        around = Surroundings(bits_allocated=int(self.image.get("BitsAllocated") or 16))
        vr = element.vr or around.vr(element.tag, element.length)
        sink.write(recoder.header(element.tag, vr, element.length))
        for start in range(element.value, element.end, _BLOCK_BYTES):
            sink.write(self._little_endian(start, min(start + _BLOCK_BYTES, element.end)))

    def frames(self) -> Iterator[Frame]:
        image = self.image
        if self.element.tag != PIXEL_DATA:
            raise CannotEncode(
                f"{_named(image)} has floating point pixels, which cannot be compressed; send them as is"
            )
        if image.get("PhotometricInterpretation") == "YBR_FULL_422":
            raise CannotEncode(f"{_named(image)} has subsampled colours, which would change; send it uncompressed")
        _check_layout(image)
        dtype, shape = _dtype(image), _shape(image)
        size = dtype.itemsize * int(np.prod(shape))
        for number in range(pixels.number_of_frames(image)):
            start = self.element.value + number * size
            if start + size > self.element.end:
                raise UndecodablePixels(
                    f"{_named(image)}: Pixel Data has {self.element.length} bytes, which is less than "
                    f"{pixels.number_of_frames(image)} frames of {size} need; send it again"
                )
            yield (
                self._frame(self._little_endian(start, start + size), dtype, shape),
                str(image.PhotometricInterpretation),
            )

    def _frame(self, raw: bytes, dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
        values = np.frombuffer(raw, dtype)
        if len(shape) == 3 and self.image.get("PlanarConfiguration") == 1:
            return values.reshape(shape[2], *shape[:2]).transpose(1, 2, 0)
        return values.reshape(shape)

    def _little_endian(self, start: int, end: int) -> bytes:
        unit = self._swapped_bytes()
        if unit == 1:
            return self.stored.read(start, end)
        # Whole numbers only: a frame of an odd number of bytes shares a word with its neighbour.
        origin = self.element.value
        low, high = start - (start - origin) % unit, end + -(end - origin) % unit
        return swapped(self.stored.read(low, high), unit)[start - low : end - low]

    def _swapped_bytes(self) -> int:
        """Bytes of a number that stand in reverse order: of a pixel, or of the words that smaller pixels come in."""
        if self.stored.syntax != ExplicitVRBigEndian:
            return 1
        pixel = int(self.image.get("BitsAllocated") or 8) // 8
        return max(pixel, NUMBER_BYTES.get(self.element.vr, 1))


@dataclass(frozen=True)
class _Fragments:
    """Encapsulated pixel data (PS3.5 A.4)."""

    stored: _Stored
    element: Element
    image: Dataset
    found: Sequence[Element]

    def frames(self) -> Iterator[Frame]:
        _check_layout(self.image)
        number = pixels.number_of_frames(self.image)
        colour = {"raw": self.stored.syntax not in _RGB_WHEN_DECODED}
        # Overlays may lie in bits that the pixels do not use (PS3.3 C.9.2); RLE carries all bits.
        bits = {"correct_unused_bits": False} if self.stored.syntax == RLELossless else {}
        given = 0
        for encoded in self._encoded(number):
            yield pixels.decoded(self._single(encoded), 0, **colour, **bits)
            given += 1
            if given == number:
                return
        raise UndecodablePixels(
            f"{_named(self.image)}: Number of Frames (0028,0008) is {number} but there are {given}; send it again"
        )

    def _encoded(self, number: int) -> Iterator[bytes]:
        self.stored.file.seek(self.element.value)
        try:
            yield from generate_frames(self.stored.file, number_of_frames=number, extended_offsets=self._extended())
        except (ValueError, EOFError, struct.error) as error:
            raise UndecodablePixels(
                f"{_named(self.image)}: its pixel data cannot be cut into {number} frames ({error}); send it again"
            ) from error

    def _extended(self) -> tuple[bytes, bytes] | None:
        tables = {one.tag: self.stored.raw[one.value : one.end] for one in self.found if one.tag in _OFFSET_TABLES}
        offsets, lengths = (tables.get(tag, b"") for tag in _OFFSET_TABLES[:2])
        return (offsets, lengths) if offsets and len(offsets) == len(lengths) else None

    def _single(self, encoded: bytes) -> Dataset:
        """The frame as an image of its own."""
        alone = Dataset({element.tag: element for element in self.image if element.keyword != "NumberOfFrames"})
        alone.PixelData = encapsulate([encoded], has_bot=False)
        alone["PixelData"].is_undefined_length = True
        alone.file_meta = FileMetaDataset()
        alone.file_meta.TransferSyntaxUID = self.stored.syntax
        return alone


def _native(image: Dataset, frames: Iterator[Frame], photometric: str, recoder: Recoder, sink: _Sink) -> None:
    size = int(np.prod(_shape(image))) * _dtype(image).itemsize * pixels.number_of_frames(image)
    padded = size + size % 2
    if padded >= UNDEFINED:
        raise CannotEncode(f"{_named(image)} has {size} bytes of pixels, more than 32 bits can say; use it as stored")
    sink.write(recoder.header(PIXEL_DATA, b"OB" if image.BitsAllocated <= 8 else b"OW", padded))
    for values in _alike(image, frames, photometric):
        sink.write(values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes())
    sink.write(b"\0" * (padded - size))


def _encapsulated(image: Dataset, frames: Iterator[Frame], photometric: str, syntax: UID, sink: _Sink) -> None:
    assert isinstance(sink, BufferedWriter)  # the table is filled in afterwards
    number = pixels.number_of_frames(image)
    native = int(np.prod(_shape(image))) * _dtype(image).itemsize * number
    # Noise can grow when it is compressed, but not to twice its size.
    has_table = 2 * native + 64 * number < UNDEFINED
    sink.write(ENCAPSULATED_PIXEL_DATA)
    sink.write(_ITEM + struct.pack("<I", 4 * number * has_table))
    table = sink.tell()
    sink.write(b"\0" * (4 * number * has_table))
    first = sink.tell()
    offsets = []
    for values in _alike(image, frames, photometric):
        offsets.append(sink.tell() - first)
        encoded = _encoded(image, values, photometric, syntax)
        padding = b"\0" * (len(encoded) % 2)
        sink.write(_ITEM + struct.pack("<I", len(encoded) + len(padding)) + encoded + padding)
    sink.write(_SEQUENCE_END)
    if has_table:
        end = sink.tell()
        sink.seek(table)
        sink.write(struct.pack(f"<{number}I", *offsets))
        sink.seek(end)


def _alike(image: Dataset, frames: Iterator[Frame], photometric: str) -> Iterator[npt.NDArray[Any]]:
    """The frames' samples, as long as they are what the header says of all of them."""
    for values, own in frames:
        if own != photometric or values.shape != _shape(image):
            raise UndecodablePixels(
                f"{_named(image)}: a frame is {own} of {values.shape} but another is {photometric} of "
                f"{_shape(image)}; use it as stored"
            )
        yield values


def _encoded(image: Dataset, values: npt.NDArray[Any], photometric: str, syntax: UID) -> bytes:
    if syntax != RLELossless:
        _check_bits(image, values, syntax)
    try:
        return bytes(
            get_encoder(syntax).encode(
                values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes(),
                encoding_plugin=_ENCODERS[syntax],
                rows=int(image.Rows),
                columns=int(image.Columns),
                number_of_frames=1,
                samples_per_pixel=int(image.SamplesPerPixel),
                bits_allocated=int(image.BitsAllocated),
                # RLE knows bytes only, and so keeps what lies in bits that the pixels do not use.
                bits_stored=int(image.BitsAllocated if syntax == RLELossless else image.BitsStored),
                pixel_representation=int(image.get("PixelRepresentation") or 0),
                photometric_interpretation=photometric,
                planar_configuration=0,
            )
        )
    except (ValueError, RuntimeError) as error:
        why = str(error).splitlines()[0].rstrip(":.")
        raise CannotEncode(
            f"{_named(image)} with {image.BitsAllocated} bits allocated, {image.BitsStored} stored and {photometric} "
            f"cannot be written in {syntax.name} ({why}); use it as stored or uncompressed"
        ) from error


def _check_bits(image: Dataset, values: npt.NDArray[Any], syntax: UID) -> None:
    """JPEG-LS and JPEG 2000 carry Bits Stored (0028,0101) bits: nothing else may lie in the others."""
    bits = int(image.BitsStored)
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if values.dtype.kind == "i" else (0, (1 << bits) - 1)
    if values.min() < low or values.max() > high or int(image.get("HighBit") or bits - 1) != bits - 1:
        raise CannotEncode(
            f"{_named(image)} has values outside its {bits} stored bits, which {syntax.name} would lose; use it as "
            "stored, uncompressed, or as RLE Lossless"
        )


def _check_layout(image: Dataset) -> None:
    for keyword in ("Rows", "Columns", "BitsAllocated", "BitsStored", "SamplesPerPixel", "PhotometricInterpretation"):
        if not image.get(keyword):
            raise UndecodablePixels(f"{_named(image)} has no {keyword}, so its pixels cannot be laid out; add it")


def _shape(image: Dataset) -> tuple[int, ...]:
    samples = int(image.SamplesPerPixel)
    return (int(image.Rows), int(image.Columns)) + ((samples,) if samples > 1 else ())


def _dtype(image: Dataset) -> np.dtype[Any]:
    bits = int(image.BitsAllocated)
    if bits not in (8, 16, 32, 64):
        raise CannotEncode(
            f"{_named(image)} has {bits} bits allocated for a sample, which we do not handle; use it as is"
        )
    return np.dtype(f"<{'iu'[not image.get('PixelRepresentation')]}{bits // 8}")


def _native_item(raw: bytes, syntax: UID) -> bytes:
    """A sequence item with encapsulated pixel data as one with native ones, both in Explicit VR Little Endian."""
    item = read_dataset(BytesIO(raw), False, True)
    item.file_meta = FileMetaDataset()
    item.file_meta.TransferSyntaxUID = syntax
    values, photometric = pixels.decoded(item, None, raw=syntax not in _RGB_WHEN_DECODED)
    body = values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
    item.PixelData = body + b"\0" * (len(body) % 2)
    item["PixelData"].is_undefined_length = False
    item["PixelData"].VR = "OB" if item.BitsAllocated <= 8 else "OW"
    item.PhotometricInterpretation = photometric
    if item.SamplesPerPixel > 1:
        item.PlanarConfiguration = 0
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, item)
    return buffer.getvalue()


def _named(image: Dataset) -> str:
    return f"instance {image.get('SOPInstanceUID', 'without a UID')}"
