"""The Native DICOM Model (PS3.19 A.1): the DICOM JSON model (PS3.18 F) of a data set, written as XML and read from it.

    {"00100010": {"vr": "PN", "Value": [{"Alphabetic": "Pháñtom^Ä"}]}}
    <DicomAttribute tag="00100010" vr="PN" keyword="PatientName"><PersonName number="1"><Alphabetic>...

Both models hold the same; values that lie elsewhere are a BulkDataURI there and a BulkData element here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from xml.etree import ElementTree

from pydicom.datadict import keyword_for_tag

from plugin.dicomweb.multipart import Part, Writer

MEDIA_TYPE = "application/dicom+xml"

_HEAD = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    '<NativeDicomModel xmlns="http://dicom.nema.org/PS3.19/models/NativeDICOM" xml:space="preserve">'
)
_TAIL = "</NativeDicomModel>"
# The parts of a name in the order that PS3.5 6.2.1.1 has them, and the names that PS3.19 A.1.5 gives them.
_NAME_PARTS = ("FamilyName", "GivenName", "MiddleName", "NamePrefix", "NameSuffix")
_NAME_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")
_ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "\r": "&#13;"}
_TAG = re.compile(r"[0-9A-Fa-f]{8}")
# Values that are left out as empty take memory, too; a number alone must not ask for more than its document is long.
_MAXIMUM_GAP = 64
# VRs whose values are numbers in the JSON model (PS3.18 table F.2.3-1).
_INTEGER_VRS = frozenset({"SL", "SS", "SV", "UL", "US", "UV", "IS"})
_REAL_VRS = frozenset({"DS", "FD", "FL"})
# What XML 1.0 has no way to write is left out: control characters, lone surrogates.
_SPECIAL = re.compile('[&<>"\r\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]')


def document(dataset: Mapping[str, Any]) -> bytes:
    """One data set in the DICOM JSON model as a whole XML document (UTF-8)."""
    return f"{_HEAD}{''.join(_attributes(dataset))}{_TAIL}".encode()


def writer(datasets: Iterable[Mapping[str, Any]]) -> Writer[bytes]:
    """Several data sets as the parts of a multipart/related body, one document each (PS3.18 8.7.3.2)."""
    return Writer(MEDIA_TYPE, [_part(document(dataset)) for dataset in datasets])


def read(raw: bytes) -> dict[str, Any]:
    """The data set of one document in the DICOM JSON model; BulkData becomes a BulkDataURI.

    Raises ValueError where it is no document of this model, is not in UTF-8, or declares a document type.
    """
    if b"<!DOCTYPE" in raw:
        raise ValueError("a document type declaration is not taken")
    try:
        root = ElementTree.fromstring(raw.decode("utf-8-sig"))
    except ElementTree.ParseError as error:
        raise ValueError(str(error)) from error
    if _local(root) != "NativeDicomModel":
        raise ValueError(f"the root element is {_local(root)}, not NativeDicomModel")
    return _read_attributes(root)


def _read_attributes(parent: ElementTree.Element) -> dict[str, Any]:
    found = {}
    for child in parent:
        if _local(child) == "DicomAttribute":
            tag, vr = child.get("tag", ""), child.get("vr", "")
            if not _TAG.fullmatch(tag) or not vr:
                raise ValueError(f"a DicomAttribute has the tag {tag!r} and the vr {vr!r}")
            found[tag.upper()] = {"vr": vr} | _read_content(child, vr)
    return found


def _read_content(element: ElementTree.Element, vr: str) -> dict[str, Any]:
    values: dict[int, Any] = {}
    for child in element:
        kind = _local(child)
        if kind == "BulkData":
            return {"BulkDataURI": child.get("uri") or child.get("uuid") or ""}
        if kind == "InlineBinary":
            return {"InlineBinary": (child.text or "").strip()}
        number = int(child.get("number", len(values) + 1))
        if kind == "Item":
            values[number] = _read_attributes(child)
        elif kind == "PersonName":
            values[number] = _read_person(child)
        elif kind == "Value":
            values[number] = _read_value(child.text or "", vr)
    if values and not (min(values) > 0 and max(values) <= len(values) + _MAXIMUM_GAP):
        raise ValueError(f"a value has the number {min(values) if min(values) < 1 else max(values)} of {len(values)}")
    # Values that are not written are empty ones.
    return {"Value": [values.get(number) for number in range(1, max(values) + 1)]} if values else {}


def _read_value(text: str, vr: str) -> Any:
    if vr in _INTEGER_VRS:
        return int(text)
    return float(text) if vr in _REAL_VRS else text


def _read_person(element: ElementTree.Element) -> dict[str, str]:
    name = {}
    for group in element:
        parts = {_local(part): part.text or "" for part in group}
        name[_local(group)] = "^".join(parts.get(part, "") for part in _NAME_PARTS).rstrip("^")
    return name


def _local(element: ElementTree.Element) -> str:
    """Its name without the namespace, which some clients leave out."""
    return element.tag.rpartition("}")[2]


def _part(body: bytes) -> Part[bytes]:
    return Part(MEDIA_TYPE, lambda: iter([body]), len(body))


def _attributes(dataset: Mapping[str, Any]) -> Iterator[str]:
    for tag in sorted(dataset):
        element = dataset[tag]
        yield f'<DicomAttribute tag="{tag}" vr="{_escaped(element["vr"])}"{_name(dataset, tag)}>'
        yield from _content(element)
        yield "</DicomAttribute>"


def _name(dataset: Mapping[str, Any], tag: str) -> str:
    """The keyword of a standard attribute, or the private creator (PS3.5 7.8.1) of a private one."""
    if int(tag[3], 16) % 2 == 0:
        keyword = keyword_for_tag(int(tag, 16))
        return f' keyword="{keyword}"' if keyword else ""
    creator = dataset.get(f"{tag[:4]}00{tag[4:6]}", {}).get("Value", [""])[0]
    return f' privateCreator="{_escaped(creator)}"' if creator else ""


def _content(element: Mapping[str, Any]) -> Iterator[str]:
    if "BulkDataURI" in element:
        yield f'<BulkData uri="{_escaped(element["BulkDataURI"])}"/>'
    elif "InlineBinary" in element:
        yield f"<InlineBinary>{element['InlineBinary']}</InlineBinary>"
    for number, value in enumerate(element.get("Value", ()), start=1):
        if element["vr"] == "SQ":
            yield f'<Item number="{number}">{"".join(_attributes(value or {}))}</Item>'
        elif element["vr"] == "PN":
            yield f'<PersonName number="{number}">{"".join(_person(value or {}))}</PersonName>'
        elif value is not None and value != "":
            yield f'<Value number="{number}">{_escaped(value)}</Value>'


def _person(name: Mapping[str, str]) -> Iterator[str]:
    for group in _NAME_GROUPS:
        if name.get(group):
            parts = zip(_NAME_PARTS, name[group].split("^"), strict=False)
            inner = "".join(f"<{part}>{_escaped(text)}</{part}>" for part, text in parts if text)
            yield f"<{group}>{inner}</{group}>"


def _escaped(value: Any) -> str:
    return _SPECIAL.sub(lambda found: _ESCAPES.get(found[0], ""), str(value))
