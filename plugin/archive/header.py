"""The header of a received object: its values, each in the forms that the index keeps.

The slices of a series say nearly the same of themselves; so what a value means is worked out once for each spelling
(VR, bytes, character set) and remembered. pydicom parses it; nothing here knows what a VR looks like.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

from pydicom import Dataset
from pydicom.charset import convert_encodings, default_encoding
from pydicom.datadict import keyword_for_tag, tag_for_keyword
from pydicom.dataelem import RawDataElement, convert_raw_data_element
from pydicom.tag import BaseTag

from dicom_io.dataset import UNDEFINED, Layout, Place
from plugin.archive import levels

# Longer values are no matter of the index; they stay in the file.
_LONGEST_BYTES = 1 << 16
_REMEMBERED, _REMEMBERED_BYTES = 8192, 256
_CHARACTER_SET = 0x00080005
_TAGS = {level: tuple((int(tag, 16), tag) for tag in tags) for level, tags in levels.TAGS.items()}


class _Encoding(NamedTuple):
    """How the values of one data set are encoded. character_set: value of (0008,0005) as it stands there."""

    is_little_endian: bool
    character_set: bytes


class _Value(NamedTuple):
    """One value as encoded. vr: b"" in Implicit VR."""

    vr: bytes
    is_implicit: bool
    raw: bytes


class Header:
    """The elements of a data set that are not longer than 64 KiB; their bytes are copied out of the layout."""

    def __init__(self, layout: Layout) -> None:
        self._is_implicit = not layout.is_explicit
        self._values = {
            place.tag: self._value(layout, place)
            for place in layout.places
            if place.end - place.start <= _LONGEST_BYTES
        }
        character_set = self._values.get(_CHARACTER_SET)
        self._encoding = _Encoding(layout.is_little_endian, b"" if character_set is None else character_set.raw)

    def _value(self, layout: Layout, place: Place) -> _Value:
        raw = bytes(layout.raw[place.start : place.end])
        if place.vr == b"UN" and place.length == UNDEFINED:  # a sequence in Implicit VR (PS3.5 6.2.2)
            return _Value(b"SQ", True, raw)
        return _Value(place.vr, self._is_implicit, raw)

    @cached_property
    def dataset(self) -> Dataset:
        """All of it, for who needs more than the index does."""
        return _dataset(self._values, self._is_implicit, self._encoding)

    def __contains__(self, keyword: str) -> bool:
        return tag_for_keyword(keyword) in self._values

    def text(self, keyword: str) -> str:
        """`levels.text` of an attribute. Raises what pydicom raises on damaged values."""
        tag = tag_for_keyword(keyword)
        assert tag is not None, keyword
        value = self._values.get(tag)
        return "" if value is None else _text(tag, value, self._encoding)

    def attributes(self, level: levels.Level) -> dict[str, Any]:
        """`levels.attributes` of one level."""
        found = {name: self._meaning(tag, value)[0] for tag, name, value in self._of(level)}
        return {name: json for name, json in found.items() if json is not None}

    def search(self, level: levels.Level) -> dict[str, Any]:
        """`levels.search_text` of one level."""
        found: dict[str, Any] = {}
        for tag, _, value in self._of(level):
            found |= self._meaning(tag, value)[1]
        return found

    def _of(self, level: levels.Level) -> Iterator[tuple[int, str, _Value]]:
        for tag, name in _TAGS[level]:
            value = self._values.get(tag)
            if value is not None:
                yield tag, name, value

    def _meaning(self, tag: int, value: _Value) -> tuple[dict[str, Any] | None, dict[str, Any]]:
        if len(value.raw) > _REMEMBERED_BYTES:
            return _meaning.__wrapped__(tag, value, self._encoding)
        return _meaning(tag, value, self._encoding)


@lru_cache(_REMEMBERED)
def _meaning(tag: int, value: _Value, encoding: _Encoding) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """One element in the DICOM JSON model, None where it cannot be said, and what searches compare."""
    json = levels.json_element(_alone(tag, value, encoding), keyword_for_tag(tag))
    return json, {} if json is None else levels.search_text({f"{tag:08X}": json})


@lru_cache(_REMEMBERED)
def _text(tag: int, value: _Value, encoding: _Encoding) -> str:
    return levels.text(_alone(tag, value, encoding), keyword_for_tag(tag))


def _alone(tag: int, value: _Value, encoding: _Encoding) -> Dataset:
    """A data set with this element, and its character set."""
    values = {tag: value}
    if encoding.character_set:
        values.setdefault(_CHARACTER_SET, _Value(b"CS", value.is_implicit, encoding.character_set))
    return _dataset(values, value.is_implicit, encoding)


def _dataset(values: Mapping[int, _Value], is_implicit: bool, encoding: _Encoding) -> Dataset:
    """As pydicom reads it from a file, each value still to be parsed."""
    elements = {}
    for number, value in values.items():
        tag, vr = BaseTag(number), value.vr.decode("ascii", "replace") or None
        elements[tag] = RawDataElement(
            tag, vr, len(value.raw), value.raw, 0, value.is_implicit, encoding.is_little_endian
        )
    dataset = Dataset(elements)
    named = elements.get(BaseTag(_CHARACTER_SET))
    dataset.set_original_encoding(
        is_implicit,
        encoding.is_little_endian,
        default_encoding if named is None else convert_encodings(convert_raw_data_element(named).value),
    )
    return dataset
