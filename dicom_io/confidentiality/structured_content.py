"""Content items of structured reports under PS3.15 E.3.4, the Clean Structured Content Option.

An item (PS3.3 C.17.3) is a Value Type (0040,A040), a concept name and a value, with items below it. Table E.3.4-1 gives
an action for a concept name and Value Type: X removes the item with all below it; D, and X/D too, as templates (PS3.16)
are not followed here, leaves it with a dummy. Items that the table does not list are treated by their Value Type: PNAME
gets a dummy, TEXT stays where each word is in the closed vocabulary and gets a dummy otherwise, UIDREF is mapped, DATE,
TIME and DATETIME follow the options for dates, and numbers, codes, coordinates and references (with UIDs mapped) stay.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pydicom.dataset import Dataset

from dicom_io.confidentiality import profile
from dicom_io.confidentiality.parsing import parsed

if TYPE_CHECKING:
    from dicom_io.confidentiality.protection import Path, Protector

# Value Type -> the attribute that holds its value.
_VALUES = {
    "TEXT": "TextValue",
    "PNAME": "PersonName",
    "UIDREF": "UID",
    "DATE": "Date",
    "TIME": "Time",
    "DATETIME": "DateTime",
}


def cleaned(protector: Protector, items: Iterable[Dataset], path: Path) -> list[Dataset]:
    """The items that may stay, with what may stay of them; path: keywords up to the sequence that holds them."""
    judged = (_item(protector, item, path) for item in items)
    return [item for item in judged if item is not None]


def _item(protector: Protector, item: Dataset, path: Path) -> Dataset | None:
    row = _row(item)
    if row is None:
        return protector.dataset(item, path)
    asked = row.by_option(protector.options)
    keyword = _VALUES.get(str(item.get("ValueType") or ""))
    if keyword is None or keyword not in item:
        return protector.dataset(item, path) if asked or row.basic != ("X",) else None
    element = parsed(item, item[keyword].tag)
    value = element if asked == "K" else protector.cleaned(element) if asked == "C" else None
    if value is None:
        if row.basic == ("X",):
            protector.note(element, "removed")
            return None
        value = protector.carried_out("D", element)
    rest = protector.dataset(_without(item, keyword), path)
    if value is not None:
        rest.add(value)
    return rest


def _row(item: Dataset) -> profile.Row | None:
    names = item.get("ConceptNameCodeSequence") or []
    if not names:
        return None
    scheme, code = names[0].get("CodingSchemeDesignator"), names[0].get("CodeValue")
    return profile.content_row(str(scheme), str(code), str(item.get("ValueType") or ""))


def _without(item: Dataset, keyword: str) -> Dataset:
    rest = Dataset()
    for tag in item.keys():  # noqa: SIM118 (iterating a data set gives elements)
        if tag != item[keyword].tag:
            rest.add(item[tag])
    return rest
