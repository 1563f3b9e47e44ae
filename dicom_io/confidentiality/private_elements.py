"""Private elements under PS3.15 E.3.10: only what is known to be safe stays, and what this project says of its own
objects.

A private element is known by its Private Creator, group and element within the block, (gggg,xxee), wherever the block
lies (PS3.5 7.8). Our own block (`labels`) says that an object was made by a model; it must survive, or a synthetic
object could pass for a real one. Each of its elements is kept when it is what `labels` writes there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, get_args

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag, Tag

from dicom_io.confidentiality import uid_mapping
from dicom_io.confidentiality.parsing import parsed, values
from dicom_io.labels import PRIVATE_CREATOR, PRIVATE_GROUP
from dicom_io.provenance import Kind, State

if TYPE_CHECKING:
    from dicom_io.confidentiality.protection import Path, Protector

# Element in our block -> form of its value; see the table in `labels`. Parameters (09) are JSON.
_OURS = {
    0x01: re.compile("|".join(get_args(Kind))),
    0x02: re.compile(r"[\w.+-]{1,60}:[\w.+-]{1,60}"),
    0x03: re.compile(r"[0-9a-f]{1,64}"),
    0x04: re.compile("|".join(get_args(State)).upper()),
    0x05: re.compile(r"[0-9a-z-]{1,64}"),
    0x06: re.compile(r"-?\d{1,20}"),
    0x07: re.compile(r"\d{1,5}"),
    0x08: re.compile(r"INSIDE|OUTSIDE"),
    0x0A: re.compile(r"[\w.\[\]{}/*'%^-]{1,64}"),
}
_PARAMETERS = 0x09
# Values that can be judged where a reader did not know the VR (UN): binary numbers, and numbers as text.
_SAFE_AS_TEXT = re.compile(rb"[0-9eE+\-.\\ \0]*")


def kept(protector: Protector, source: Dataset, path: Path) -> Iterator[DataElement]:
    """The private elements of one data set that may stay, each block with its Private Creator; the rest is counted."""
    creators = {tag: _creator(protector, source, tag) for tag in source.keys() if _is_creator(tag)}  # noqa: SIM118
    used: set[BaseTag] = set()
    for tag in sorted(source.keys()):
        if not tag.is_private or tag in creators:
            continue
        reserved = Tag(tag.group, tag.element >> 8)
        element = parsed(source, tag)
        stays = _judged(protector, element, creators.get(reserved, ""), path, source)
        if stays is None:
            protector.note(element, "removed")
        else:
            used.add(reserved)
            yield stays
    for tag in sorted(used):
        yield DataElement(tag, "LO", creators[tag])
    for tag in sorted(creators.keys() - used):
        protector.note(parsed(source, tag), "removed")


def _is_creator(tag: BaseTag) -> bool:
    return tag.is_private and 0x10 <= tag.element <= 0xFF


def _creator(protector: Protector, source: Dataset, tag: BaseTag) -> str:
    return "\\".join(str(value) for value in values(parsed(source, tag).value)).strip(" \0")


def _judged(
    protector: Protector, element: DataElement, creator: str, path: Path, source: Dataset
) -> DataElement | None:
    number = element.tag.element & 0xFF
    if creator == PRIVATE_CREATOR and element.tag.group == PRIVATE_GROUP:
        return _ours(protector, element, number)
    if (creator, element.tag.group, number) not in protector.safe_private or element.tag.element < 0x1000:
        return None
    return _safe(protector, element, path, source)


def _ours(protector: Protector, element: DataElement, number: int) -> DataElement | None:
    text = str(element.value) if values(element.value) else ""
    form = _OURS.get(number)
    fits = bool(form.fullmatch(text)) if form else number == _PARAMETERS and _is_json(text)
    if (text and not fits) or protector.echoes.in_technique(text) or (form is None and number != _PARAMETERS):
        return None
    value = uid_mapping.mapped_in_text(protector.key, text) if number == _PARAMETERS else element.value
    return DataElement(element.tag, element.VR, value)


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def _safe(protector: Protector, element: DataElement, path: Path, source: Dataset) -> DataElement | None:
    """A listed element: numbers as they are, texts, UIDs and dates judged as anywhere else."""
    if element.VR == "SQ":
        items = [protector.dataset(item, (*path, "")) for item in element.value or ()]
        return DataElement(element.tag, "SQ", Sequence(items))
    if element.VR == "UN":
        raw = element.value if isinstance(element.value, bytes) else b""
        return element if _SAFE_AS_TEXT.fullmatch(raw) else None
    return protector.unlisted(element, (*path, ""), source)
