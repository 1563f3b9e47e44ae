"""Attributes in the DICOM JSON model (PS3.18 F): written by keyword, read by keyword."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pydicom.datadict import dictionary_VR, tag_for_keyword

Attributes = dict[str, Any]
"""8-digit tag -> {"vr", "Value"}."""


def tag(keyword: str) -> str:
    """8-digit tag of a keyword of PS3.6."""
    number = tag_for_keyword(keyword)
    assert number is not None, keyword
    return f"{number:08X}"


def element(keyword: str, *values: Any) -> Attributes:
    """One attribute; without values, or with one that is "", an empty one."""
    here = tag(keyword)
    kept = [value for value in values if value != ""]
    return {here: {"vr": dictionary_VR(int(here, 16))} | ({"Value": kept} if kept else {})}


def elements(**values: Any) -> Attributes:
    """Several attributes of one value each; a list gives several."""
    found: Attributes = {}
    for keyword, value in values.items():
        found |= element(keyword, *(value if isinstance(value, list) else [value]))
    return found


def items(attributes: Mapping[str, Any], keyword: str) -> list[Attributes]:
    """Items of a sequence, [] where it is absent or empty."""
    found = attributes.get(tag(keyword), {}).get("Value") or []
    return [item for item in found if isinstance(item, dict)]


def text(attributes: Mapping[str, Any], keyword: str) -> str:
    """First value as text, "" where there is none."""
    values = attributes.get(tag(keyword), {}).get("Value") or [""]
    return str(values[0]) if values[0] is not None else ""


def code(value: str, scheme: str, meaning: str) -> Attributes:
    """An item of a code sequence (PS3.3 8.8)."""
    return elements(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def moment(at: float) -> str:
    """Seconds since 1970 as DT (PS3.5 6.2), in UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y%m%d%H%M%S.%f+0000")
