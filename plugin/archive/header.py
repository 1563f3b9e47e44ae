"""The header of a received object: its values, each in the forms that the index keeps.

The slices of a series say nearly the same of themselves; so what a value means is worked out once for each spelling
(VR, bytes, character set) and remembered. pydicom parses it; nothing here knows what a VR looks like, but for UIDs, of
which each instance has its own.
"""

from __future__ import annotations

import re
from functools import cached_property, lru_cache
from typing import Any, NamedTuple, cast

from pydicom import Dataset
from pydicom.datadict import keyword_for_tag, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement, convert_raw_data_element

from dicom_io.dataset import Layout
from plugin.archive import levels, values
from plugin.archive.prepared import to_json
from plugin.archive.values import CHARACTER_SET, Encoding, Value, python_encodings, raw_element

# Longer values are no matter of the index; they stay in the file.
_LONGEST_BYTES = 1 << 16
_REMEMBERED, _REMEMBERED_BYTES, _REMEMBERED_LEVELS = 8192, 256, 256
_ONE_UID = re.compile(rb"([0-9.]+)\0?")
_OF_LEVEL: dict[levels.Level, tuple[int, ...]] = {
    level: tuple(sorted(int(tag, 16) for tag in tags)) for level, tags in levels.TAGS.items()
}


class Header:
    """The elements of a data set that are not longer than 64 KiB, in bytes copied out of the layout."""

    def __init__(self, layout: Layout) -> None:
        raw = layout.raw
        self._is_implicit = not layout.is_explicit
        self._places = {place.tag: place for place in layout.places if place.end - place.start <= _LONGEST_BYTES}
        # Nearly all of them lie in the beginning, which is copied at once; values are cut out when they are asked for.
        self._origin = layout.places[0].start if layout.places else 0
        self._beginning = bytes(raw[self._origin : self._origin + _LONGEST_BYTES])
        end = self._origin + _LONGEST_BYTES
        self._beyond = {tag: bytes(raw[at.start : at.end]) for tag, at in self._places.items() if at.end > end}
        self._encoding = Encoding(layout.is_little_endian, b"")
        if CHARACTER_SET in self._places:
            self._encoding = Encoding(layout.is_little_endian, self._value(CHARACTER_SET)[2])

    def _value(self, tag: int) -> Value:
        """Raises KeyError where it is absent, or too long."""
        place = self._places[tag]
        raw = self._beyond.get(tag) if self._beyond else None
        if raw is None:
            raw = self._beginning[place.start - self._origin : place.end - self._origin]
        return values.as_value(place, self._is_implicit, raw)

    @cached_property
    def dataset(self) -> Dataset:
        """All of it, for who needs more than the index does."""
        found = [(tag, self._value(tag)) for tag in self._places]
        return values.dataset(found, self._is_implicit, self._encoding)

    def __contains__(self, keyword: str) -> bool:
        return tag_for_keyword(keyword) in self._places

    def text(self, keyword: str) -> str:
        """`levels.text` of an attribute. Raises what pydicom raises on damaged values."""
        tag = tag_for_keyword(keyword)
        assert tag is not None, keyword
        return _text(tag, self._value(tag), self._encoding) if tag in self._places else ""

    def columns(self, level: levels.Level) -> Columns:
        """`levels.attributes` and `levels.search_text` of one level."""
        places = self._places
        items = tuple([(tag, self._value(tag)) for tag in _OF_LEVEL[level] if tag in places])
        # All instances of a series say the same of the series, and no two of them the same of themselves.
        return _columns(items, self._encoding) if level != "instance" else _columns.__wrapped__(items, self._encoding)


class Columns(NamedTuple):
    """One level in the forms that the index keeps, as JSON text, and what is searched as objects, too."""

    attributes: str
    search: str
    searched: dict[str, Any]


class _Meaning(NamedTuple):
    """One element as members of the JSON objects that `Columns` has, "" where there is none; and as an object."""

    attribute: str
    search: str
    searched: dict[str, Any]


@lru_cache(_REMEMBERED_LEVELS)
def _columns(items: tuple[tuple[int, Value], ...], encoding: Encoding) -> Columns:
    found = []
    for tag, value in items:
        meaning = _meaning if len(value[2]) <= _REMEMBERED_BYTES else _meaning.__wrapped__
        found.append(meaning(tag, value, encoding))
    return Columns(
        f"{{{','.join(each.attribute for each in found if each.attribute)}}}",
        f"{{{','.join(each.search for each in found if each.search)}}}",
        {name: value for each in found for name, value in each.searched.items()},
    )


@lru_cache(_REMEMBERED)
def _meaning(tag: int, value: Value, encoding: Encoding) -> _Meaning:
    """What an element says, and what searches compare; nothing where its VR does not allow the value."""
    name = f"{tag:08X}"
    uid = _uid(value)
    if uid is None:
        json = levels.json_element(_alone(tag, value, encoding), keyword_for_tag(tag))
    else:
        json = {"vr": "UI", "Value": [uid]}
    if json is None:
        return _Meaning("", "", {})
    searched = levels.search_text({name: json})
    # Of each object the members, without its braces.
    return _Meaning(to_json({name: json})[1:-1], to_json(searched)[1:-1], searched)


@lru_cache(_REMEMBERED)
def _text(tag: int, value: Value, encoding: Encoding) -> str:
    uid = _uid(value)
    return levels.text(_alone(tag, value, encoding), keyword_for_tag(tag)) if uid is None else uid


def _uid(value: Value) -> str | None:
    """A value that is one UID, as nearly all of them are; None for what pydicom must look at."""
    vr, _, raw = value
    found = _ONE_UID.fullmatch(raw) if vr == b"UI" else None
    return None if found is None else found[1].decode()


class _Alone:
    """What `levels` needs of a data set, for one element: a Dataset takes longer to make than its value to parse."""

    def __init__(self, element: RawDataElement, character_set: bytes) -> None:
        self._element, self._character_set = element, character_set

    def __contains__(self, keyword: str) -> bool:
        return True

    def __getitem__(self, keyword: str) -> DataElement:
        return convert_raw_data_element(self._element, encoding=python_encodings(self._character_set))


def _alone(tag: int, value: Value, encoding: Encoding) -> Dataset:
    return cast(Dataset, _Alone(raw_element(tag, value, encoding), encoding.character_set))
