"""The header of a received object: its values, each in the forms that the index keeps.

The slices of a series say nearly the same of themselves; so what a value means is worked out once for each spelling
(VR, bytes, character set) and remembered. pydicom parses it; nothing here knows what a VR looks like.
"""

from __future__ import annotations

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
_LEVELS: dict[int, tuple[levels.Level, ...]] = {}
for _level, _tags in levels.TAGS.items():
    for _tag in _tags:
        _LEVELS[int(_tag, 16)] = (*_LEVELS.get(int(_tag, 16), ()), _level)


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
        character_set = self._value(CHARACTER_SET)
        self._encoding = Encoding(layout.is_little_endian, b"" if character_set is None else character_set.raw)

    def _value(self, tag: int) -> Value | None:
        place = self._places.get(tag)
        if place is None:
            return None
        raw = self._beyond.get(tag)
        if raw is None:
            raw = self._beginning[place.start - self._origin : place.end - self._origin]
        return values.as_value(place, self._is_implicit, raw)

    @cached_property
    def dataset(self) -> Dataset:
        """All of it, for who needs more than the index does."""
        found = [(tag, value) for tag in self._places if (value := self._value(tag)) is not None]
        return values.dataset(found, self._is_implicit, self._encoding)

    def __contains__(self, keyword: str) -> bool:
        return tag_for_keyword(keyword) in self._places

    def text(self, keyword: str) -> str:
        """`levels.text` of an attribute. Raises what pydicom raises on damaged values."""
        tag = tag_for_keyword(keyword)
        assert tag is not None, keyword
        value = self._value(tag)
        return "" if value is None else _text(tag, value, self._encoding)

    def columns(self, level: levels.Level) -> Columns:
        """`levels.attributes` and `levels.search_text` of one level."""
        return _columns(self._of_level[level], self._encoding)

    @cached_property
    def _of_level(self) -> dict[levels.Level, tuple[tuple[int, Value], ...]]:
        found: dict[levels.Level, list[tuple[int, Value]]] = {level: [] for level in levels.TAGS}
        for tag in self._places:
            for level in _LEVELS.get(tag, ()):
                value = self._value(tag)
                if value is not None:
                    found[level].append((tag, value))
        return {level: tuple(items) for level, items in found.items()}


class Columns(NamedTuple):
    """One level in the forms that the index keeps, as JSON text, and what is searched as objects, too."""

    attributes: str
    search: str
    searched: dict[str, Any]


@lru_cache(_REMEMBERED_LEVELS)
def _columns(items: tuple[tuple[int, Value], ...], encoding: Encoding) -> Columns:
    attributes: dict[str, Any] = {}
    searched: dict[str, Any] = {}
    for tag, value in items:
        meaning = _meaning if len(value.raw) <= _REMEMBERED_BYTES else _meaning.__wrapped__
        json, search = meaning(tag, value, encoding)
        if json is not None:
            attributes[f"{tag:08X}"] = json
            searched |= search
    return Columns(to_json(attributes), to_json(searched), searched)


@lru_cache(_REMEMBERED)
def _meaning(tag: int, value: Value, encoding: Encoding) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """One element in the DICOM JSON model, None where it cannot be said, and what searches compare."""
    json = levels.json_element(_alone(tag, value, encoding), keyword_for_tag(tag))
    return json, {} if json is None else levels.search_text({f"{tag:08X}": json})


@lru_cache(_REMEMBERED)
def _text(tag: int, value: Value, encoding: Encoding) -> str:
    return levels.text(_alone(tag, value, encoding), keyword_for_tag(tag))


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
