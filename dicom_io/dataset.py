"""Bytes to data sets: what is a whole DICOM file, and what its content hash is.

pydicom reads a file that ends too early without a word (it returns what it found). So the structure is walked first:
every element's length must lie inside the file, every sequence and encapsulated fragment must be closed (PS3.5 7).
"""

from __future__ import annotations

import hashlib
import io
import mmap
import struct
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pydicom
from pydicom.charset import convert_encodings, default_encoding
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement, convert_raw_data_element
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag, Tag
from pydicom.uid import (
    UID,
    AllTransferSyntaxes,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
)

from dicom_io.errors import NotDicom, Rejected

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pydicom.dataset import Dataset

Bytes = bytes | bytearray | memoryview | mmap.mmap

UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
PIXEL_DATA = 0x7FE00010
# VRs with two reserved bytes and a 32-bit length in explicit encodings (PS3.5 7.1.2).
LONG_VRS = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})

# What pydicom raises on bytes that do not follow the value representation they claim.
UNPARSABLE = (
    EOFError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    NotImplementedError,
    OverflowError,
    OSError,
    struct.error,
    pydicom.errors.BytesLengthException,
)


def read(source: Path | str | bytes, *, stop_before_pixels: bool = False) -> Dataset:
    """Read one DICOM file (PS3.10: preamble, `DICM`, file meta information, data set).

    Raises:
        NotDicom: no `DICM`, the file ends before its data set does, or SOP Class UID (0008,0016) or SOP Instance UID
            (0008,0018) is missing.
    """
    with _opened(source) as (raw, name):
        check_whole(raw, name)
        if isinstance(source, bytes):
            dataset = _parse(io.BytesIO(source), name, stop_before_pixels)
        else:
            with Path(source).open("rb") as file:
                dataset = _parse(file, name, stop_before_pixels)
    return dataset


def read_with_hash(source: Path | str | bytes) -> tuple[Dataset, str]:
    """Data set and `dataset_hash`; the file is read once. Raises NotDicom as `read` does.

    Native pixels are a memoryview of the file's bytes: to copy them takes as long as to read them. Who writes the data
    set, or copies it deeply, reads it with `read`.
    """
    raw = source if isinstance(source, bytes) else Path(source).read_bytes()
    name = "the object" if isinstance(source, bytes) else Path(source).name
    found = layout(raw, name)
    with memoryview(raw) as view, view[found.start :] as body:
        digest = hashlib.sha256(body).hexdigest()
    if _is_plain(found):
        return _identified(lambda: _laid_out(found), name), digest
    return _parse(io.BytesIO(raw), name, stop_before_pixels=False), digest


def dataset_hash(raw: Bytes) -> str:
    """SHA-256 (hex) of a DICOM file's bytes after the file meta group: the data set as it was received.

    The file meta information is left out because each receiver writes its own (PS3.10 7.1). Raises NotDicom where
    there is no `DICM`.
    """
    _, start = file_meta(raw, "the object")
    with memoryview(raw) as view, view[start:] as body:
        return hashlib.sha256(body).hexdigest()


def check_whole(raw: Bytes, name: str = "the object") -> None:
    """Walk the structure from the preamble to the last byte; values are not parsed.

    Raises:
        NotDicom: no `DICM`, or the bytes end inside an element, an item or a fragment.
    """
    layout(raw, name)


class Place(NamedTuple):
    """One element of a data set: [start, end) is its value with any delimiters. vr: b"" in Implicit VR.

    length: as encoded, 0xFFFFFFFF where it is undefined.
    """

    tag: int
    vr: bytes
    length: int
    start: int
    end: int


@dataclass(frozen=True)
class Layout:
    """What lies where in a whole file.

    start: of the data set in the file. raw: what `places` count in: the file, or its data set when it was deflated.
    meta: the elements of the file meta group, in `meta_raw`, which is the file.
    """

    transfer_syntax: str
    start: int
    raw: Bytes
    is_little_endian: bool
    is_explicit: bool
    places: tuple[Place, ...]
    meta: tuple[Place, ...]
    meta_raw: Bytes


def layout(raw: Bytes, name: str = "the object") -> Layout:
    """The elements of the data set, found as `check_whole` does; those inside sequences are walked, not listed.

    Raises NotDicom as `check_whole` does.
    """
    syntax, start, meta = _file_meta(raw, name)
    if start >= len(raw):
        raise NotDicom(f"{name} ends after its file meta information and holds no data set; send the whole file")
    first, file = start, raw
    if syntax == DeflatedExplicitVRLittleEndian:
        raw, first = _inflated(raw, start, name), 0
    walk = Walk(raw, ">" if syntax == ExplicitVRBigEndian else "<", name)
    explicit = walk.is_explicit(first)
    places = tuple(walk.places(first, explicit))
    return Layout(syntax, start, raw, walk.endian == "<", explicit, places, meta, file)


@contextmanager
def _opened(source: Path | str | bytes) -> Iterator[tuple[Bytes, str]]:
    """The bytes without reading them all: only the pages that hold element headers are touched."""
    if isinstance(source, bytes):
        yield source, "the object"
        return
    path = Path(source)
    if path.stat().st_size == 0:
        raise NotDicom(f"{path.name} is empty; send the whole file")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        yield mapped, path.name


def _is_plain(found: Layout) -> bool:
    """Whether the elements can be taken as they lie: little endian, explicit or not as the transfer syntax says.

    Of everything else (deflated data sets, sequences in UN, writers that contradict themselves) pydicom knows more.
    """
    syntax = UID(found.transfer_syntax)
    return (
        found.is_little_endian
        and syntax in AllTransferSyntaxes
        and syntax != DeflatedExplicitVRLittleEndian
        and found.is_explicit == (syntax != ImplicitVRLittleEndian)
        and all(place.length != UNDEFINED or _ends_with_delimiter(place) for place in found.places)
    )


def _ends_with_delimiter(place: Place) -> bool:
    """Of an element of undefined length: whether it is a sequence for certain, or encapsulated pixels."""
    if place.vr:
        return place.vr == b"SQ" or place.tag == PIXEL_DATA
    try:
        return dictionary_VR(place.tag) == "SQ"
    except KeyError:
        return False


def _laid_out(found: Layout) -> Dataset:
    """The data set from where its elements were found to lie, without a second walk; as pydicom reads it."""
    implicit = not found.is_explicit
    elements = _raw_elements(found.raw, found.places, implicit)
    meta = FileMetaDataset(_raw_elements(found.meta_raw, found.meta, False))
    dataset = FileDataset(io.BytesIO(), elements, bytes(found.meta_raw[:128]), meta, implicit, True)
    stated = elements.get(BaseTag(0x00080005))
    encoding = convert_encodings(convert_raw_data_element(stated).value) if stated else default_encoding
    dataset.set_original_encoding(implicit, True, encoding)
    meta.set_original_encoding(False, True, default_encoding)
    return dataset


# The slices of a study have the same tags: each is made once.
_base_tags: dict[int, BaseTag] = {}
_VRS: dict[bytes, str | None] = {b"": None}


def _raw_elements(raw: Bytes, places: Iterable[Place], implicit: bool) -> dict[BaseTag, RawDataElement]:
    made = {}
    for tag, vr, length, start, end in places:
        if length == UNDEFINED:  # the delimiter is no part of the value
            end -= 8
            length = UNDEFINED if tag == PIXEL_DATA else end - start
        key = _base_tags.get(tag) or _base_tags.setdefault(tag, BaseTag(tag))
        name = _VRS[vr] if vr in _VRS else _VRS.setdefault(vr, vr.decode())
        value = raw[start:end] if tag != PIXEL_DATA or length == UNDEFINED else memoryview(raw)[start:end]
        fields = (key, name, length, value if length else None, start, implicit, True, True, False)
        # As its own constructor does, which is called for each element of each slice.
        made[key] = tuple.__new__(RawDataElement, fields)
    return made


def _parse(file: io.BufferedIOBase | io.BytesIO, name: str, stop_before_pixels: bool) -> Dataset:
    return _identified(lambda: pydicom.dcmread(file, stop_before_pixels=stop_before_pixels), name)


def _identified(parse: Callable[[], Dataset], name: str) -> Dataset:
    try:
        dataset = parse()
        identity = {keyword: value(dataset, keyword) for keyword in ("SOPClassUID", "SOPInstanceUID")}
    except (pydicom.errors.InvalidDicomError, Rejected, *UNPARSABLE) as error:
        raise NotDicom(f"{name} cannot be parsed as DICOM ({error}); write it again with a conformant tool") from error
    for keyword, uid in identity.items():
        if not uid or not isinstance(uid, str):
            raise NotDicom(f"{name} has no single {keyword}, so it cannot be told from other objects; add it")
    return dataset


def check_values(dataset: Dataset, keywords: Iterable[str]) -> None:
    """Parse these values now; pydicom parses a value when it is first asked for, which may be deep in a calculation.

    Raises:
        Rejected: a value does not follow its value representation (PS3.5 6.2), e.g. letters in a decimal string.
    """
    for keyword in keywords:
        value(dataset, keyword)


# What values of one series repeat in each slice: parsed once. VRs whose values do not depend on the character set.
_REPEATED = frozenset(("AE", "AS", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "SL", "SS", "TM", "UI", "UL", "US"))
_LONGEST_REPEATED, _MOST_REPEATED = 256, 1 << 16
_parsed: dict[tuple[int, str | None, bool, bytes], Any] = {}


def value(dataset: Dataset, keyword: str) -> Any:
    """The value, None where the attribute is absent. The same bytes are parsed once, so what is given is shared: read
    it only.

    Raises:
        Rejected: as `check_values`.
    """
    tag = _tag(keyword)
    element = dataset.get_item(tag)
    if not isinstance(element, RawDataElement):
        return None if element is None else _checked(dataset, keyword, lambda: element.value)
    vr = element.VR or dictionary_VR(tag)
    if vr not in _REPEATED or not element.value or len(element.value) > _LONGEST_REPEATED:
        return _checked(dataset, keyword, lambda: dataset[tag].value)
    key = (tag, element.VR, element.is_little_endian, element.value)
    found = _parsed.get(key)  # threads may clear it at any moment
    if found is None:
        found = _checked(dataset, keyword, lambda: dataset[tag].value)
        if len(_parsed) >= _MOST_REPEATED:
            _parsed.clear()
        _parsed[key] = found
    return found


# Pixels, and what describes frames one by one.
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_NOT_OF_A_HEADER = (
    *_PIXELS,
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
)


def header_of(dataset: Dataset) -> Dataset:
    """A data set of its own with the same elements, but for pixels and functional groups.

    The elements themselves are shared: `put` replaces one, an assignment to a keyword would change it in both.
    """
    left_out = {_tag(keyword) for keyword in _NOT_OF_A_HEADER}
    tags = [tag for tag in dataset.keys() if tag not in left_out]  # noqa: SIM118 (a data set iterates over elements)
    header = pydicom.Dataset({tag: dataset.get_item(tag, keep_deferred=True) for tag in tags})
    header.set_original_encoding(*dataset.original_encoding, dataset.original_character_set)
    if "file_meta" in dataset.__dict__:
        header.file_meta = dataset.file_meta
    return header


def without_pixels(dataset: Dataset) -> Dataset:
    """The same data set, its pixels let go."""
    for keyword in _PIXELS:
        dataset.pop(_tag(keyword), None)
    return dataset


def put(header: Dataset, keyword: str, value: Any) -> None:
    """Set an attribute without touching an element that is shared with another data set (`header_of`)."""
    tag = _tag(keyword)
    header[tag] = DataElement(tag, dictionary_VR(tag), value)


@cache
def _tag(keyword: str) -> BaseTag:
    return Tag(keyword)


def _checked(dataset: Dataset, keyword: str, parse: Callable[[], Any]) -> Any:
    try:
        found = parse()
    except UNPARSABLE as error:
        raise _unreadable(dataset, keyword, str(error)) from error
    if found is None or dictionary_VR(keyword) not in ("DS", "IS"):
        return found
    components = list(found) if isinstance(found, MultiValue) else [found]
    # Where one of several is no number, pydicom leaves them all as text, and says nothing.
    if any(isinstance(component, str) and component for component in components):
        text = "\\".join(map(str, components))
        raise _unreadable(dataset, keyword, f"its value is {text}")
    return found


def _unreadable(dataset: Dataset, keyword: str, why: str) -> Rejected:
    why = why.partition("To replace this error")[0]  # pydicom's advice to programmers
    return Rejected(
        f"instance {dataset.get('SOPInstanceUID')}: {keyword} cannot be read ({why.strip().rstrip('.')}); correct it"
    )


def file_meta(raw: Bytes, name: str) -> tuple[str, int]:
    """Transfer Syntax UID (0002,0010), and where the data set starts; meta information is Explicit VR Little Endian.

    Raises NotDicom where there is no `DICM` or no transfer syntax.
    """
    syntax, start, _ = _file_meta(raw, name)
    return syntax, start


def _file_meta(raw: Bytes, name: str) -> tuple[str, int, tuple[Place, ...]]:
    if bytes(raw[128:132]) != b"DICM":
        raise NotDicom(f"{name} is no DICOM file: bytes 129 to 132 are not 'DICM'; send DICOM files (PS3.10) only")
    syntax, position = "", 132
    walk = Walk(raw, "<", name)
    places = []
    while position + 8 <= len(raw) and raw[position : position + 2] == b"\x02\x00":
        tag, vr, length, value = walk.header(position, explicit=True)
        walk.inside(value, length, len(raw), tag)
        position = value + length
        places.append(Place(tag, vr, length, value, position))
        if tag == 0x00020010:
            syntax = bytes(raw[value:position]).decode("ascii", "replace").rstrip("\0 ")
    if not syntax:
        raise NotDicom(f"{name} has no TransferSyntaxUID (0002,0010) in its file meta information; write it again")
    return syntax, position, tuple(places)


def _inflated(raw: Bytes, start: int, name: str) -> bytes:
    stream = zlib.decompressobj(-zlib.MAX_WBITS)  # no zlib header (PS3.5 A.5)
    try:
        body = stream.decompress(bytes(raw[start:])) + stream.flush()
    except zlib.error as error:
        raise NotDicom(f"{name}: its deflated data set is damaged ({error}); send the file again") from error
    if not stream.eof:
        raise NotDicom(f"{name} ends inside its deflated data set; send the whole file")
    return body


@dataclass(frozen=True)
class Walk:
    """Steps over encoded elements without looking at values. endian: "<" or ">"; name: of the file, for messages.

    Every method raises NotDicom where the bytes end inside what it steps over.
    """

    raw: Bytes
    endian: str
    name: str

    def is_explicit(self, position: int) -> bool:
        """By the bytes, not by the transfer syntax: writers exist that name one and encode the other."""
        vr = bytes(self.raw[position + 4 : position + 6])
        return len(vr) == 2 and vr.isalpha() and vr.isupper()

    def header(self, position: int, explicit: bool) -> tuple[int, bytes, int, int]:
        """(tag, VR or b"", length, position of the value) of the element that starts here."""
        if position + 8 > len(self.raw):
            raise NotDicom(f"{self.name} ends at byte {len(self.raw)} inside an element's header; send the whole file")
        group, element = struct.unpack_from(f"{self.endian}HH", self.raw, position)
        tag = group << 16 | element
        if not explicit or group == 0xFFFE:
            return tag, b"", struct.unpack_from(f"{self.endian}I", self.raw, position + 4)[0], position + 8
        vr = bytes(self.raw[position + 4 : position + 6])
        if vr not in LONG_VRS:
            return tag, vr, struct.unpack_from(f"{self.endian}H", self.raw, position + 6)[0], position + 8
        if position + 12 > len(self.raw):
            raise NotDicom(f"{self.name} ends at byte {len(self.raw)} inside an element's header; send the whole file")
        return tag, vr, struct.unpack_from(f"{self.endian}I", self.raw, position + 8)[0], position + 12

    def inside(self, value: int, length: int, end: int, tag: int) -> None:
        if value + length > end:
            raise NotDicom(
                f"{self.name} ends too early: ({tag >> 16:04x},{tag & 0xFFFF:04x}) says {length} bytes and "
                f"{max(end - value, 0)} are there; send the whole file"
            )

    def data_set(self, position: int, end: int, explicit: bool) -> int:
        """Over the elements up to `end`, or, inside an item of undefined length, up to its delimiter."""
        while position < end:
            if end == len(self.raw) and end - position < 8 and not any(self.raw[position:end]):
                return end  # padding with zeros after the last element: seen in the wild, loses nothing
            tag, vr, length, value = self.header(position, explicit)
            if tag == ITEM_END:
                return value
            if length != UNDEFINED:
                self.inside(value, length, end, tag)
            position = self.after(tag, vr, length, value)
        return position

    def places(self, position: int, explicit: bool) -> Iterator[Place]:
        """The elements of the outermost data set; the steps of `data_set` and `header`, in one loop for its speed."""
        raw, end = self.raw, len(self.raw)
        short = struct.Struct(f"{self.endian}HH2sH" if explicit else f"{self.endian}HHI").unpack_from
        long = struct.Struct(f"{self.endian}I").unpack_from
        while position < end:
            if end - position < 12:
                if end - position < 8 and not any(raw[position:end]):
                    return  # padding with zeros after the last element: seen in the wild, loses nothing
                tag, vr, length, value = self.header(position, explicit)
            elif explicit:
                group, element, vr, length = short(raw, position)
                tag, value = group << 16 | element, position + 8
                if group == 0xFFFE:
                    vr, (length,) = b"", long(raw, position + 4)
                elif vr in LONG_VRS:
                    (length,), value = long(raw, position + 8), position + 12
            else:
                group, element, length = short(raw, position)
                tag, vr, value = group << 16 | element, b"", position + 8
            if tag == ITEM_END:
                return
            if length == UNDEFINED:
                position = self.after(tag, vr, length, value)
            else:
                position = value + length
                if position > end:
                    self.inside(value, length, end, tag)
            yield Place(tag, vr, length, value, position)

    def after(self, tag: int, vr: bytes, length: int, value: int) -> int:
        """Position behind the element with this header; vr: b"" in Implicit VR."""
        if length != UNDEFINED:
            return value + length
        if tag == PIXEL_DATA:
            return self.fragments(value)
        # UN of undefined length holds a sequence in Implicit VR Little Endian (PS3.5 6.2.2)
        return self.sequence(value, vr not in (b"", b"UN"))

    def sequence(self, position: int, explicit: bool) -> int:
        """Over the items of a sequence of undefined length, to after its delimiter."""
        while True:
            tag, _, length, value = self.header(position, explicit)
            if tag == SEQUENCE_END:
                return value
            if tag != ITEM:
                raise NotDicom(f"{self.name}: byte {position} should start a sequence item; the file is damaged")
            if length == UNDEFINED:
                position = self.item(value, explicit)
            else:
                self.inside(value, length, len(self.raw), tag)
                position = value + length

    def item(self, position: int, explicit: bool) -> int:
        """Over an item of undefined length; it must be closed before the bytes end."""
        after = self.data_set(position, len(self.raw), explicit)
        if after >= len(self.raw) and bytes(self.raw[-8:-4]) != struct.pack(f"{self.endian}HH", 0xFFFE, 0xE00D):
            raise NotDicom(f"{self.name} ends inside a sequence item; send the whole file")
        return after

    def fragments(self, position: int) -> int:
        """Over the fragments of encapsulated pixel data (PS3.5 A.4), to after the sequence delimiter."""
        while True:
            tag, _, length, value = self.header(position, explicit=False)
            if tag == SEQUENCE_END:
                return value
            if tag != ITEM:
                raise NotDicom(
                    f"{self.name}: byte {position} should start a fragment of pixel data; the file is damaged"
                )
            self.inside(value, length, len(self.raw), tag)
            position = value + length
