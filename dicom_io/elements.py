"""Encoded elements into another encoding (PS3.5 7, A.1 to A.3), value by value, as bytes.

Values are never parsed: what a data set says, in whatever character set, and be it wrong, is the same afterwards. Only
what the encoding demands changes: VRs are added or left out, numbers turned from big endian.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from pydicom.datadict import dictionary_VR, private_dictionary_VR

from dicom_io.dataset import ITEM, ITEM_END, LONG_VRS, PIXEL_DATA, SEQUENCE_END, UNDEFINED, Walk

ENCAPSULATED_PIXEL_DATA = b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff"
PIXEL_REPRESENTATION, BITS_ALLOCATED = 0x00280103, 0x00280100
# Bytes of one number, for the VRs that hold binary numbers (PS3.5 7.3).
NUMBER_BYTES = (
    dict.fromkeys((b"US", b"SS", b"OW", b"AT"), 2)
    | dict.fromkeys((b"UL", b"SL", b"FL", b"OF", b"OL"), 4)
    | dict.fromkeys((b"FD", b"OD", b"UV", b"SV", b"OV"), 8)
)
_SHORT_VR_BYTES = 0xFFFE

DecodeNested = Callable[[bytes], bytes]


@dataclass(frozen=True)
class Element:
    """Where one element lies: [start, value) is its header, [value, end) its value with any delimiters.

    vr: b"" in Implicit VR. length: as encoded.
    """

    tag: int
    vr: bytes
    length: int
    start: int
    value: int
    end: int


def elements(walk: Walk, start: int, end: int, explicit: bool) -> Iterator[Element]:
    """The elements of one data set between two positions, up to an item's delimiter.

    Raises:
        NotDicom: the bytes end inside an element.
    """
    position = start
    while end - position >= 8:
        tag, vr, length, value = walk.header(position, explicit)
        if tag == ITEM_END or (tag == 0 and not any(walk.raw[position:end])):
            return
        if length != UNDEFINED:
            walk.inside(value, length, end, tag)
        element = Element(tag, vr, length, position, value, walk.after(tag, vr, length, value))
        yield element
        position = element.end


@dataclass
class Surroundings:
    """What an element's VR depends on: the data set that it stands in, and those around it.

    creators: first tag of each private block -> Private Creator (PS3.5 7.8.1).
    """

    is_signed: bool = False
    bits_allocated: int = 16
    creators: dict[int, str] = field(default_factory=dict)

    def note(self, tag: int, value: bytes) -> None:
        """Remember an element that later ones depend on. value: little endian."""
        if tag == PIXEL_REPRESENTATION and len(value) == 2:
            self.is_signed = value == b"\1\0"
        elif tag == BITS_ALLOCATED and len(value) == 2:
            (self.bits_allocated,) = struct.unpack("<H", value)
        elif tag >> 16 & 1 and 0x10 <= tag & 0xFFFF <= 0xFF:
            self.creators[tag & 0xFFFF0000 | (tag & 0xFF) << 8] = value.decode("ascii", "replace").strip(" \0")

    def vr(self, tag: int, length: int) -> bytes:
        """VR of an element that comes without one; UN for what the dictionaries do not know (PS3.5 6.2.2)."""
        known = self._known(tag)
        if known in ("US or SS", "US or SS or OW"):
            known = "SS" if self.is_signed else "US"
        elif tag == PIXEL_DATA:
            known = "OB" if self.bits_allocated <= 8 else "OW"
        elif " or " in known:  # OB or OW, US or OW: words in Implicit VR (PS3.5 A.1)
            known = "OW"
        vr = known.encode()
        if length == UNDEFINED:
            return vr if vr == b"SQ" or tag == PIXEL_DATA else b"UN"
        # A value that the VR cannot hold stays what it is under UN.
        too_long = vr not in LONG_VRS and length > _SHORT_VR_BYTES
        return b"UN" if too_long or length % NUMBER_BYTES.get(vr, 1) else vr

    def _known(self, tag: int) -> str:
        try:
            if not tag >> 16 & 1:
                return str(dictionary_VR(tag))
            if 0x10 <= tag & 0xFFFF <= 0xFF:
                return "LO"
            return str(private_dictionary_VR(tag, self.creators.get(tag & 0xFFFFFF00, "")))
        except KeyError:
            return "UN"

    def inner(self) -> Surroundings:
        """For an item: it inherits what it does not say itself, but for private creators (PS3.5 7.8.1)."""
        return replace(self, creators={})


@dataclass(frozen=True)
class Recoder:
    """Elements of one data set in another encoding, little endian.

    decode_nested: takes an item with encapsulated pixel data (an icon, PS3.3 C.7.6.1.1.6), in Explicit VR Little
    Endian, and gives it with native ones.
    """

    walk: Walk
    explicit_from: bool
    explicit_to: bool
    decode_nested: DecodeNested

    @property
    def _same(self) -> bool:
        return self.explicit_from == self.explicit_to and self.walk.endian == "<"

    def element(self, element: Element, around: Surroundings) -> bytes:
        """One element with its header. Group lengths, which would be wrong, become nothing (PS3.5 7.2)."""
        if element.tag & 0xFFFF == 0:
            return b""
        raw = bytes(self.walk.raw[element.value : element.end])
        vr = element.vr or around.vr(element.tag, element.length)
        if element.tag in (PIXEL_REPRESENTATION, BITS_ALLOCATED) or element.tag >> 16 & 1:
            around.note(element.tag, self._numbers(raw, vr))
        is_sequence = vr == b"SQ" or (element.length == UNDEFINED and vr != b"UN")
        if is_sequence and not (self._same and not _has_fragments(raw)):
            return self._sequence(element, vr, around)
        if self._same:
            return bytes(self.walk.raw[element.start : element.end])
        return self.header(element.tag, vr, element.length) + self._numbers(raw, vr)

    def header(self, tag: int, vr: bytes, length: int) -> bytes:
        """An element's header in the encoding that is written."""
        group, number = tag >> 16, tag & 0xFFFF
        if not self.explicit_to:
            return struct.pack("<HHI", group, number, length)
        if vr in LONG_VRS:
            return struct.pack("<HH2sHI", group, number, vr, 0, length)
        return struct.pack("<HH2sH", group, number, vr, length)

    def _numbers(self, raw: bytes, vr: bytes) -> bytes:
        size = NUMBER_BYTES.get(vr, 1)
        return raw if self.walk.endian == "<" or size == 1 else swapped(raw, size)

    def _sequence(self, element: Element, vr: bytes, around: Surroundings) -> bytes:
        """A sequence with all its items; lengths stay defined or undefined, as they were."""
        explicit = self.explicit_from and element.vr != b"UN"
        items = b"".join(self._items(element, explicit, around))
        if element.length == UNDEFINED:
            return self.header(element.tag, vr, UNDEFINED) + items + _item_header(SEQUENCE_END, 0)
        return self.header(element.tag, vr, len(items)) + items

    def _items(self, element: Element, explicit: bool, around: Surroundings) -> Iterator[bytes]:
        walk, position = self.walk, element.value
        while position < element.end:
            tag, _, length, value = walk.header(position, explicit)
            if tag != ITEM:
                return
            position = walk.item(value, explicit) if length == UNDEFINED else value + length
            body = self._item(value, position, explicit, around.inner())
            if length == UNDEFINED:
                yield _item_header(ITEM, UNDEFINED) + body + _item_header(ITEM_END, 0)
            else:
                yield _item_header(ITEM, len(body)) + body

    def _item(self, start: int, end: int, explicit: bool, around: Surroundings) -> bytes:
        inside = list(elements(self.walk, start, end, explicit))
        if any(element.tag == PIXEL_DATA and element.length == UNDEFINED for element in inside):
            native = self.decode_nested(bytes(self.walk.raw[start : inside[-1].end]))
            walk = Walk(native, "<", self.walk.name)
            return Recoder(walk, True, self.explicit_to, self.decode_nested)._item(0, len(native), True, around)
        item = replace(self, explicit_from=explicit)
        return b"".join(item.element(element, around) for element in inside)


def swapped(raw: bytes, size: int) -> bytes:
    """Numbers of `size` bytes with their bytes in reverse order; what is left over at the end stays as it is."""
    whole = len(raw) // size * size
    turned = bytearray(whole)
    for byte in range(size):
        turned[byte::size] = raw[size - 1 - byte : whole : size]
    return bytes(turned) + raw[whole:]


def _has_fragments(raw: bytes) -> bool:
    return ENCAPSULATED_PIXEL_DATA in raw


def _item_header(tag: int, length: int) -> bytes:
    return struct.pack("<HHI", tag >> 16, tag & 0xFFFF, length)
