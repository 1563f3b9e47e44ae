"""One value of a data set as it is encoded, for who works out what it means once for each spelling.

pydicom parses it; nothing here knows what a VR looks like. Both kinds of tuple can be keys of a memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from pydicom import Dataset
from pydicom.charset import convert_encodings, default_encoding
from pydicom.dataelem import RawDataElement
from pydicom.tag import BaseTag

from dicom_io.dataset import UNDEFINED, Place

_ENCODINGS = 256
CHARACTER_SET = 0x00080005


class Encoding(NamedTuple):
    """How the values of one data set are encoded. character_set: value of (0008,0005) as it stands there."""

    is_little_endian: bool
    character_set: bytes


Value = tuple[bytes, bool, bytes]
"""One value as encoded: VR, b"" in Implicit VR; whether it is in Implicit VR; its bytes. As plain as can be, since one
is made for each element of each object that arrives."""


def as_value(place: Place, is_implicit: bool, raw: bytes) -> Value:
    """The value of an element of a data set in this encoding. raw: what lies at the place."""
    if place.length == UNDEFINED and place.vr in (b"", b"UN"):  # a sequence in Implicit VR (PS3.5 6.2.2, A.1)
        return b"SQ", True, raw
    return place.vr, is_implicit, raw


def raw_element(tag: int, value: Value, encoding: Encoding) -> RawDataElement:
    vr, is_implicit, raw = value
    name = vr.decode("ascii", "replace") or None
    return RawDataElement(BaseTag(tag), name, len(raw), raw, 0, is_implicit, encoding.is_little_endian)


@lru_cache(_ENCODINGS)
def python_encodings(character_set: bytes) -> list[str]:
    """What Python calls the values of Specific Character Set (0008,0005)."""
    names = character_set.decode("ascii", "replace").strip(" \0")
    return convert_encodings([name.strip() for name in names.split("\\")]) if names else [default_encoding]


def dataset(values: Iterable[tuple[int, Value]], is_implicit: bool, encoding: Encoding) -> Dataset:
    """As pydicom reads it from a file, each value still to be parsed."""
    found = Dataset({BaseTag(tag): raw_element(tag, value, encoding) for tag, value in values})
    found.set_original_encoding(is_implicit, encoding.is_little_endian, python_encodings(encoding.character_set))
    return found
