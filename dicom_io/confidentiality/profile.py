"""What PS3.15 Annex E says of each attribute, as data, and how its compound actions are resolved.

Three tables of the standard lie beside this module, each with its edition and source in the first line:

    confidentiality_profile.csv  Table E.1-1: action of the Basic Profile and of each option, for 621 attributes
    safe_private.csv             Table E.3.10-1: private elements that are known to be safe
    structured_content.csv       Table E.3.4-1: content items of structured reports

Actions (PS3.15 E.1.1): X remove, Z zero length or dummy, D dummy, U another UID, K keep, C clean. Compound ones depend
on the attribute's Type in the IOD (PS3.3), and a simple one must not break the IOD ("dummy values may be necessary for
Type 1 attributes", E.1.1 note): `resolved` holds the whole rule. Types are highdicom's tables of PS3.3, by SOP class
and by the sequences that an attribute stands in; of several modules that have the attribute the strictest counts:

    Type 1, 1C   D           (1C: it is there, so its condition is taken to hold)
    Type 2, 2C   Z where the table names it or X, else D
    either, with U*          U: emptied, the references of a frame would contradict those of its instance (C.12.2)
    Type 3, or not in the IOD          the first of X, Z, D that the table names
    SOP class or surrounding sequence unknown here     the last, D before Z before X: it keeps the object conformant
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache, lru_cache
from pathlib import Path
from typing import Literal

from highdicom import _standard_utils as standard

Action = Literal["X", "Z", "D", "U", "K", "C"]
Need = Literal["1", "2", "3"]

_HERE = Path(__file__).parent
BASIC_PROFILE = ("113100", "DCM", "Basic Application Confidentiality Profile")


class Option(Enum):
    """Options of the Basic Profile: Code Value of CID 7050 and Code Meaning (PS3.16)."""

    CLEAN_PIXEL_DATA = ("113101", "Clean Pixel Data Option")
    CLEAN_VISUAL_FEATURES = ("113102", "Clean Recognizable Visual Features Option")
    CLEAN_GRAPHICS = ("113103", "Clean Graphics Option")
    CLEAN_STRUCTURED_CONTENT = ("113104", "Clean Structured Content Option")
    CLEAN_DESCRIPTORS = ("113105", "Clean Descriptors Option")
    RETAIN_FULL_DATES = ("113106", "Retain Longitudinal Temporal Information Full Dates Option")
    RETAIN_MODIFIED_DATES = ("113107", "Retain Longitudinal Temporal Information Modified Dates Option")
    RETAIN_PATIENT_CHARACTERISTICS = ("113108", "Retain Patient Characteristics Option")
    RETAIN_DEVICE_IDENTITY = ("113109", "Retain Device Identity Option")
    RETAIN_UIDS = ("113110", "Retain UIDs Option")
    RETAIN_SAFE_PRIVATE = ("113111", "Retain Safe Private Option")
    RETAIN_INSTITUTION_IDENTITY = ("113112", "Retain Institution Identity Option")

    @property
    def code(self) -> tuple[str, str, str]:
        """Code Value, Coding Scheme Designator, Code Meaning."""
        return self.value[0], "DCM", self.value[1]


# The table's columns, by the heading they have in our files. Clean Pixel Data and Visual Features have none.
COLUMNS = {
    "safe_private": Option.RETAIN_SAFE_PRIVATE,
    "uids": Option.RETAIN_UIDS,
    "device": Option.RETAIN_DEVICE_IDENTITY,
    "institution": Option.RETAIN_INSTITUTION_IDENTITY,
    "patient": Option.RETAIN_PATIENT_CHARACTERISTICS,
    "full_dates": Option.RETAIN_FULL_DATES,
    "modified_dates": Option.RETAIN_MODIFIED_DATES,
    "descriptors": Option.CLEAN_DESCRIPTORS,
    "structured_content": Option.CLEAN_STRUCTURED_CONTENT,
    "graphics": Option.CLEAN_GRAPHICS,
}


@dataclass(frozen=True)
class Row:
    """One row of a table. basic: its actions, "X/Z/D" as ("X", "Z", "D"); options: those with an entry, K or C."""

    name: str
    basic: tuple[str, ...]
    options: Mapping[Option, Action]

    def by_option(self, chosen: Collection[Option]) -> Action | None:
        """What the chosen options ask; they override the Basic Profile, and keeping overrides cleaning."""
        asked = {action for option, action in self.options.items() if option in chosen}
        return "K" if "K" in asked else "C" if "C" in asked else None


def row(tag: int) -> Row | None:
    """The row of Table E.1-1 for a tag, those of patterns (50xx, 60xx, odd groups) included; None where it has none."""
    group, element = tag >> 16, tag & 0xFFFF
    if group & 1:
        return _attributes()["private"]
    if group >> 8 == 0x50:
        return _attributes()["50xxxxxx"]
    repeating = f"60xx{element:04x}" if group >> 8 == 0x60 else ""
    return _attributes().get(repeating) or _attributes().get(f"{tag:08x}")


def content_row(scheme: str, code: str, value_type: str) -> Row | None:
    """The row of Table E.3.4-1 for a content item's concept name and Value Type (0040,A040)."""
    return _content_items().get((scheme, code, value_type))


@cache
def safe_private() -> frozenset[tuple[str, int, int]]:
    """(Private Creator, group, element within its block) of Table E.3.10-1."""
    return frozenset(
        (line["creator"], int(line["group"], 16), int(line["element"], 16)) for line in _lines("safe_private.csv")
    )


def rows() -> Mapping[str, Row]:
    """All rows of Table E.1-1: "0010xxxx" tags in hexadecimal, patterns and "private" -> row."""
    return _attributes()


def edition() -> str:
    """The first line of the file of Table E.1-1: edition and source."""
    with (_HERE / "confidentiality_profile.csv").open(encoding="utf-8") as file:
        return file.readline().removeprefix("# ").strip()


@cache
def _attributes() -> dict[str, Row]:
    return {line["tag"]: _row(line) for line in _lines("confidentiality_profile.csv")}


@cache
def _content_items() -> dict[tuple[str, str, str], Row]:
    return {(line["scheme"], line["code"], line["value_type"]): _row(line) for line in _lines("structured_content.csv")}


def _lines(name: str) -> Iterator[dict[str, str]]:
    with (_HERE / name).open(encoding="utf-8", newline="") as file:
        next(file)  # edition and source
        yield from csv.DictReader(file)


def _row(line: Mapping[str, str]) -> Row:
    options: dict[Option, Action] = {
        option: "K" if line[column] == "K" else "C" for column, option in COLUMNS.items() if line.get(column)
    }
    name = line.get("name") or line["meaning"]
    return Row(name, tuple(line["basic"].split("/")), options)


def need(sop_class_uid: str, path: tuple[str, ...]) -> Need | None:
    """How much an IOD needs an attribute: by the strictest Type that it has there, "1" (also 1C), "2" (2C) or "3".

    path: keywords from the outermost sequence to the attribute. "3" where the IOD does not have it in this place, None
    where nothing is known: another SOP class, or a sequence that the IOD's tables do not follow.
    """
    types = _types(sop_class_uid)
    if types is None:
        return None
    if path in types:
        return types[path]
    return "3" if path[:-1] in types or len(path) == 1 else None


@lru_cache(maxsize=32)
def _types(sop_class_uid: str) -> dict[tuple[str, ...], Need] | None:
    iod = standard.get_sop_class_iod_map().get(sop_class_uid)
    if iod is None:
        return None
    strictest: dict[tuple[str, ...], Need] = {}
    for module in standard.get_iod_module_map()[iod]:
        for attribute in standard.get_module_attribute_map().get(module["key"], ()):
            path = (*attribute["path"], attribute["keyword"])
            kind = attribute["type"][0]
            found: Need = kind if kind in "12" else "3"
            strictest[path] = min(strictest.get(path, "3"), found)
    return strictest


def resolved(basic: tuple[str, ...], needed: Need | None) -> Action:
    """The one action of a Basic Profile entry for an attribute that an IOD needs so much; see the module's rule."""
    simple: list[Action] = [action for action in ("X", "Z", "D") if action in basic]
    references = "U" in basic or "U*" in basic
    if references and (not simple or needed != "3"):
        return "U"
    if needed == "1":
        return "D"
    if needed == "2":
        return "Z" if basic != ("D",) and {"X", "Z"} & set(basic) else "D"
    return simple[0] if needed == "3" else simple[-1]
