"""Reading what other servers answer in the DICOM JSON model (PS3.18 F), whatever it looks like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def values(item: object, tag: str) -> list[Any]:
    """Values of an attribute (8-digit tag); empty for anything that does not look like it (PS3.18 F.2)."""
    attribute = item.get(tag) if isinstance(item, Mapping) else None
    found = attribute.get("Value") if isinstance(attribute, Mapping) else None
    return found if isinstance(found, list) else []
