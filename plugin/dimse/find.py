"""C-FIND as a service (PS3.4 C.4.1): Patient Root and Study Root, PATIENT to IMAGE, by the language of archive.query.

Keys of the levels above are matched and returned wherever they are given. SERIES and IMAGE need a UID of their own
level or of one above it, unless relational queries were negotiated (C.4.1.2.2, C.5.1.1). A Patient ID is not asked for
at STUDY level, where the answer is that of the Study Root without it.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydicom import Dataset
from pydicom.charset import convert_encodings, custom_encoders, python_encoding
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.tag import BaseTag
from pydicom.uid import UID
from pydicom.valuerep import DS
from pynetdicom import _config, build_context, evt
from pynetdicom import sop_class as classes
from pynetdicom.events import Event, EventHandlerType
from pynetdicom.presentation import PresentationContext
from sqlalchemy.exc import DatabaseError

from dicom_io.errors import Rejected
from plugin.archive import query
from plugin.archive.index import Index
from plugin.archive.query import BadQuery, Key, Query, QueryLevel, Uids
from plugin.dimse.services import House
from plugin.dimse.status import CANCELLED, PENDING, answer
from plugin.settings import Verb

LOGGER = logging.getLogger(__name__)

VERB: Verb = "find"

# PS3.4 C.4.1.1.4; Cxxx is the implementation's.
OUT_OF_RESOURCES, DOES_NOT_MATCH, CANNOT_PROCESS = 0xA700, 0xA900, 0xC001

UTF_8 = "ISO_IR 192"

_PATIENT_ROOT: UID = classes.PatientRootQueryRetrieveInformationModelFind
_STUDY_ROOT: UID = classes.StudyRootQueryRetrieveInformationModelFind
# The classes whose first byte of extended negotiation asks for queries, or retrievals, that skip levels.
_RELATIONAL = frozenset(
    {
        _PATIENT_ROOT, _STUDY_ROOT,
        classes.PatientRootQueryRetrieveInformationModelMove, classes.StudyRootQueryRetrieveInformationModelMove,
        classes.PatientRootQueryRetrieveInformationModelGet, classes.StudyRootQueryRetrieveInformationModelGet,
    }
)  # fmt: skip

_LEVELS: dict[str, QueryLevel] = {"PATIENT": "patient", "STUDY": "study", "SERIES": "series", "IMAGE": "instance"}
_UNIQUE = {"PATIENT": query.PATIENT_ID, "STUDY": query.STUDY_UID, "SERIES": query.SERIES_UID,
           "IMAGE": query.SOP_INSTANCE_UID}  # fmt: skip

_CHARACTER_SET, _LEVEL, _RETRIEVE_AE, _TIMEZONE = "00080005", "00080052", "00080054", "00080201"
# What an identifier has that is no key.
_NO_KEYS = frozenset({_CHARACTER_SET, _LEVEL, _RETRIEVE_AE})
# VRs that Specific Character Set (0008,0005) governs.
_ENCODED = frozenset({"SH", "LO", "ST", "PN", "LT", "UC", "UT"})
# What pydicom raises on damaged values, which it parses when they are asked for.
_DAMAGE = (
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    NotImplementedError,
    OverflowError,
    RecursionError,
    EOFError,
    struct.error,
)


class BadIdentifier(Rejected):
    """The identifier of the request cannot be answered."""


def contexts() -> Sequence[PresentationContext]:
    return [build_context(_PATIENT_ROOT), build_context(_STUDY_ROOT)]


def handlers(house: House) -> Sequence[EventHandlerType]:
    # It would write every identifier, and so names of patients, into its log, and take its time for that.
    _config.LOG_REQUEST_IDENTIFIERS = _config.LOG_RESPONSE_IDENTIFIERS = False
    return [(evt.EVT_SOP_EXTENDED, _negotiate), (evt.EVT_C_FIND, _handle, [house])]


def _negotiate(event: Event) -> dict[UID, bytes]:
    """Relational queries are supported; combined date and time, fuzzy names and time zones are not (PS3.4 C.5.1.1)."""
    asked: dict[UID, bytes] = event.app_info
    return {uid: info[:1] + bytes(len(info) - 1) for uid, info in asked.items() if uid in _RELATIONAL and info}


def _handle(event: Event, house: House) -> Iterator[tuple[int | Dataset, Dataset | None]]:
    """Answer one C-FIND request: a pending response with each match, or one that says why not."""
    try:
        asked = _asked(event)
        for found in _answers(house.ingest.index, asked):
            if event.is_cancelled:
                yield CANCELLED, None
                return
            yield asked.pending, _dataset(asked, found, house.settings.node.aet)
    except (BadIdentifier, BadQuery) as why:
        yield answer(DOES_NOT_MATCH, str(why)), None
    except DatabaseError as error:
        LOGGER.error("C-FIND: the index cannot be read (%s)", error.orig)
        if "locked" in str(error.orig):
            yield answer(OUT_OF_RESOURCES, "the index is busy with something else; ask again later"), None
        else:
            yield answer(CANNOT_PROCESS, "the index cannot be read; see the log of this service"), None


# What is asked


@dataclass(frozen=True)
class Asked:
    """One request. query: its keys, and as `include` what to return. shown: of a sequence, the attributes of its items
    to return; none for all. character_set: of the request, "" where it names none. pending: status of each match."""

    level: str
    query: Query
    shown: dict[str, frozenset[str]]
    character_set: str | tuple[str, ...]
    pending: int


def _asked(event: Event) -> Asked:
    """Raises BadIdentifier."""
    root = UID(event.request.AffectedSOPClassUID)
    negotiated = event.assoc.requestor.sop_class_extended.get(root, b"")
    try:
        return asked(event.identifier, patient_root=root == _PATIENT_ROOT, relational=negotiated[:1] == b"\1")
    except _DAMAGE as error:
        raise BadIdentifier("the identifier cannot be parsed; write it anew") from error


def asked(identifier: Dataset, *, patient_root: bool, relational: bool = False) -> Asked:
    """What an identifier asks for; its texts are decoded by its own Specific Character Set.

    Raises:
        BadIdentifier: no level, one that the model lacks, or no unique key where one is needed.
    """
    level = str(identifier.get("QueryRetrieveLevel") or "").strip()
    levels = [each for each in _LEVELS if patient_root or each != "PATIENT"]
    if level not in levels:
        raise BadIdentifier(f"QueryRetrieveLevel is {level[:16]!r}; give {', '.join(levels)}")
    keys, returned, shown = [], set[str](), {}
    unsupported = False
    for tag in sorted(identifier.keys()):
        name = f"{int(tag):08X}"
        if name in _NO_KEYS or name.endswith("0000"):
            continue
        key = _key(identifier, tag)
        if query.is_returned(_LEVELS[level], name):
            returned.add(name)
            if key.item:
                shown[name] = frozenset(each.tag for each in key.item)
        else:
            unsupported = True
        # A time zone says how to read the request's times (PS3.3 C.12.1.1.8); it is no match.
        if key.is_universal or name == _TIMEZONE:
            continue
        if query.is_matched(_LEVELS[level], name):
            keys.append(key)
        else:
            unsupported = True
    _check_hierarchy(level, {key.tag for key in keys}, relational)
    above = [_UNIQUE[each] for each in levels[: levels.index(level) + 1]]
    return Asked(
        level,
        Query(_LEVELS[level], tuple(keys), frozenset({*returned, *above}), usual=False, exact_case=True),
        shown,
        _character_set(identifier),
        PENDING[1] if unsupported else PENDING[0],
    )


def _check_hierarchy(level: str, given: set[str], relational: bool) -> None:
    """The standard asks for all unique keys above; UIDs are unique, so one that bounds the query is enough."""
    above = {"SERIES": ["STUDY", "SERIES"], "IMAGE": ["STUDY", "SERIES", "IMAGE"]}.get(level, [])
    if above and not relational and not given & {_UNIQUE[each] for each in above}:
        names = " or ".join(keyword_for_tag(_UNIQUE[each]) for each in above[:-1])
        raise BadIdentifier(f"level {level} needs {names}")


def _key(identifier: Dataset, tag: BaseTag) -> Key:
    name = f"{int(tag):08X}"
    raw = identifier.get_item(tag)
    vr = raw.VR if raw is not None and raw.VR not in (None, "UN") else _vr(name)
    if vr in ("IS", "DS") and isinstance(raw, RawDataElement):
        # pydicom would make numbers of them, and a list or a wildcard is none.
        return Key(name, (raw.value or b"").decode("ascii", "replace").strip(" \0"))
    element = identifier[tag]
    if element.VR == "SQ":
        item = element.value[0] if element.value else Dataset()
        return Key(
            name, item=tuple(_key(item, each) for each in sorted(item.keys()) if not str(each).endswith("0000)"))
        )
    return Key(name, _text(element.value))


def _vr(name: str) -> str:
    try:
        return dictionary_VR(int(name, 16))
    except KeyError:
        return "UN"


def _text(value: Any) -> str:
    if value is None or isinstance(value, bytes):
        return ""
    if isinstance(value, str) or not hasattr(value, "__iter__") or hasattr(value, "components"):
        return str(value).strip(" \0")
    return "\\".join(str(one) for one in value)


def _character_set(identifier: Dataset) -> str | tuple[str, ...]:
    value = identifier.get("SpecificCharacterSet") or ""
    return value if isinstance(value, str) else tuple(value)


# What is answered


def _answers(index: Index, asked: Asked) -> Iterator[dict[str, Any]]:
    """Matches as DICOM JSON objects. Only their UIDs are held; no transaction stays open while a peer reads."""
    with index.read() as connection:
        found = query.find(connection, asked.query)
    for start in range(0, len(found), query.BATCH):
        yield from _batch(index, asked, found[start : start + query.BATCH])


def _batch(index: Index, asked: Asked, uids: Sequence[Uids]) -> list[dict[str, Any]]:
    with index.read() as connection:
        return query.answers(connection, asked.query, uids)


def _dataset(asked: Asked, answer: dict[str, Any], aet: str) -> Dataset:
    """The identifier of one pending response."""
    dataset = Dataset()
    dataset.QueryRetrieveLevel = asked.level
    dataset.RetrieveAETitle = aet
    dataset.InstanceAvailability = "ONLINE"
    for tag in asked.query.include:
        dataset.add(_element(tag, answer.get(tag) or {"vr": dictionary_VR(int(tag, 16))}, asked.shown.get(tag)))
    character_set = _chosen(asked.character_set, list(_texts(dataset)))
    if character_set:
        dataset.SpecificCharacterSet = character_set if isinstance(character_set, str) else list(character_set)
    return dataset


def _element(tag: str, element: dict[str, Any], shown: frozenset[str] | None = None) -> DataElement:
    """An element of the DICOM JSON model (PS3.18 F). shown: attributes of the items to keep, None or none for all."""
    vr, values = element["vr"], element.get("Value", [])
    if vr == "SQ":
        return DataElement(int(tag, 16), vr, [_item(item or {}, shown) for item in values])
    return DataElement(int(tag, 16), vr, [_plain(vr, value) for value in values] or None)


def _item(attributes: dict[str, Any], shown: frozenset[str] | None) -> Dataset:
    item = Dataset()
    for tag, element in attributes.items():
        if not shown or tag in shown:
            item.add(_element(tag, element))
    return item


def _plain(vr: str, value: Any) -> Any:
    if isinstance(value, dict):
        return "=".join(value.get(group, "") for group in ("Alphabetic", "Ideographic", "Phonetic")).rstrip("=")
    if vr == "DS" and value is not None:
        return DS(value, auto_format=True)
    if vr == "AT":
        return int(value, 16)
    return "" if value is None else value


def _texts(dataset: Dataset) -> Iterator[str]:
    """All text that a character set governs."""
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                yield from _texts(item)
        elif element.VR in _ENCODED and element.value:
            yield _text(element.value)


def _chosen(requested: str | tuple[str, ...], texts: Sequence[str]) -> str | tuple[str, ...]:
    """The request's character set where it can say all of it, else UTF-8 (PS3.3 C.12.1.1.2); "" for plain ASCII.

    So an old client that asks in its own set reads what it knows, and nothing is ever lost.
    """
    letters = {letter for text in texts for letter in text if not letter.isascii()}
    if not letters:
        return requested if _encodings(requested) else ""
    encodings = _encodings(requested)
    return requested if encodings and all(_says(encodings, letter) for letter in letters) else UTF_8


@lru_cache
def _encodings(character_set: str | tuple[str, ...]) -> tuple[str, ...]:
    """Python's names for a character set; none where there is none, or an unknown one."""
    if not character_set:
        return ()
    values = [character_set] if isinstance(character_set, str) else list(character_set)
    if not all(value in python_encoding for value in values):
        return ()
    return tuple(convert_encodings(values))


@lru_cache(1 << 14)
def _says(encodings: Sequence[str], letter: str) -> bool:
    """Whether a letter beyond ASCII can be written, in the encoding that pydicom will take: the first that has it."""
    for encoding in encodings:
        if encoding == "iso8859":
            # The default repertoire ends with ASCII, but pydicom would write Latin-1 for it.
            if ord(letter) < 0x100:
                return False
            continue
        try:
            if encoding in custom_encoders:
                custom_encoders[encoding](letter)
            else:
                letter.encode(encoding)
        except UnicodeError:
            continue
        return True
    return False
