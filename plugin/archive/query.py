"""One query language over the index, for QIDO-RS and C-FIND (PS3.4 C.2.2.2, PS3.18 8.3.4 and 10.6).

A key is an attribute with a text:

    PatientName=*pháñtom*              wildcards * and ?; any one component group of a name may match
    PatientName=Yamada*=山田*           or each group that is given
    StudyDate=20260101-20260201        a range, open at either end; a shorter time stands for all that begin with it
    StudyInstanceUID=1.2,1.3           a list, by comma for UI, CS and IS, by backslash for all but long texts
    ModalitiesInStudy=CT,MR            any of them
    ProcedureCodeSequence.CodeValue=X  keys of one sequence hold together in one and the same item

An attribute with several values matches where one of them does. Names, and all text where `exact_case` is not asked
for, are compared without regard to case and to how accents are composed. An empty text, or * alone, matches anything.

    with index.read() as connection:
        uids = find(connection, query)                   every match, as UIDs: small, in order
        answers(connection, query, uids[:100])           DICOM JSON objects of some of them
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import orjson
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from sqlalchemy import Connection

from dicom_io.errors import Rejected
from plugin.archive.index import Index
from plugin.archive.levels import AS_WRITTEN, TAGS, Level, canonical, composed, is_multiple

QueryLevel = Literal["patient", "study", "series", "instance"]
Uids = tuple[str, ...]
"""A match: (study,) at patient and study level, (study, series), (SOP instance,)."""

STUDY_UID, SERIES_UID, SOP_INSTANCE_UID, SOP_CLASS_UID = "0020000D", "0020000E", "00080018", "00080016"
PATIENT_ID = "00100020"
_STUDY_DATE = "00080020"
MODALITIES_IN_STUDY = "00080061"
SOP_CLASSES_IN_STUDY = "00080062"
STUDIES_OF_PATIENT = "00201200"
SERIES_OF_PATIENT = "00201202"
INSTANCES_OF_PATIENT = "00201204"
SERIES_OF_STUDY = "00201206"
INSTANCES_OF_STUDY = "00201208"
INSTANCES_OF_SERIES = "00201209"
INSTANCE_AVAILABILITY = "00080056"
AVAILABLE_TRANSFER_SYNTAX = "00083002"
RETRIEVE_URL = "00081190"

BATCH = 500
"""How many matches to give `answers` at once."""

# Texts of attributes that were read last stay read; most have a few hundred letters.
_REMEMBERED, _REMEMBERED_LETTERS = 2048, 4096

_LEVELS: tuple[Level, ...] = ("study", "series", "instance")
_ALIAS: dict[Level, str] = {"study": "s", "series": "e", "instance": "i"}
_UID_COLUMNS = {
    STUDY_UID: "study_instance_uid",
    SERIES_UID: "series_instance_uid",
    SOP_INSTANCE_UID: "sop_instance_uid",
    SOP_CLASS_UID: "sop_class_uid",
}
_UIDS_OF: dict[Level, str] = {"study": STUDY_UID, "series": SERIES_UID, "instance": SOP_INSTANCE_UID}

# Of the study's attributes those that are the patient's (PS3.3 C.7.1.1), for the patient level of C-FIND.
_OF_PATIENT = frozenset(
    {"00100010", PATIENT_ID, "00100021", "00100030", "00100032", "00100040", "00101000", "00102160", "00104000"}
)
_KNOWN: dict[Level, frozenset[str]] = {level: frozenset(tags) for level, tags in TAGS.items()}
# What QIDO-RS returns unless more is asked for (PS3.18 10.6.3.3, and what viewers read).
_USUAL: dict[Level, frozenset[str]] = {
    "study": frozenset(
        {"00080020", "00080030", "00080050", "00080090", "00080201", "00081030", "00100010", "00100020", "00100021"}
        | {"00100030", "00100040", "0020000D", "00200010"}
    ),
    "series": frozenset(
        {"00080021", "00080031", "00080060", "0008103E", "00080201", "00180015", "0020000E", "00200011", "00400244"}
        | {"00400245", "00400275"}
    ),
    "instance": frozenset(
        {"00080016", "00080018", "00080201", "00200013", "00280008", "00280010", "00280011", "00280100"}
    ),
}
_USUAL_COMPUTED: dict[QueryLevel, frozenset[str]] = {
    "patient": frozenset(),
    "study": frozenset(
        {MODALITIES_IN_STUDY, SOP_CLASSES_IN_STUDY, SERIES_OF_STUDY, INSTANCES_OF_STUDY, INSTANCE_AVAILABILITY}
    ),
    "series": frozenset({INSTANCES_OF_SERIES, INSTANCE_AVAILABILITY}),
    "instance": frozenset({INSTANCE_AVAILABILITY, AVAILABLE_TRANSFER_SYNTAX}),
}
_OF_THE_PATIENT = (
    "(SELECT {what} FROM study p {join} WHERE p.patient_id = s.patient_id "
    "AND (p.patient_id <> '' OR p.study_instance_uid = s.study_instance_uid))"
)
_PATIENT_COUNTS = {
    STUDIES_OF_PATIENT: _OF_THE_PATIENT.format(what="count(*)", join=""),
    SERIES_OF_PATIENT: _OF_THE_PATIENT.format(what="count(*)", join="JOIN series USING (study_instance_uid)"),
    INSTANCES_OF_PATIENT: _OF_THE_PATIENT.format(
        what="sum(c.instances)", join="JOIN series_content c USING (study_instance_uid)"
    ),
}
_STUDY_COUNTS = {
    MODALITIES_IN_STUDY: "(SELECT json_group_array(DISTINCT modality) FROM (SELECT modality FROM series x "
    "WHERE x.study_instance_uid = s.study_instance_uid AND modality <> '' ORDER BY modality))",
    SOP_CLASSES_IN_STUDY: "(SELECT json_group_array(DISTINCT sop_class_uid) FROM (SELECT sop_class_uid "
    "FROM series_content c WHERE c.study_instance_uid = s.study_instance_uid ORDER BY sop_class_uid))",
    SERIES_OF_STUDY: "(SELECT count(*) FROM series x WHERE x.study_instance_uid = s.study_instance_uid)",
    INSTANCES_OF_STUDY: "(SELECT sum(c.instances) FROM series_content c "
    "WHERE c.study_instance_uid = s.study_instance_uid)",
}
# What is worked out for each answer: level -> tag -> SQL.
_COMPUTED: dict[QueryLevel, dict[str, str]] = {
    "patient": _PATIENT_COUNTS,
    "study": _PATIENT_COUNTS | _STUDY_COUNTS | {INSTANCE_AVAILABILITY: "'ONLINE'"},
    "series": {
        INSTANCES_OF_SERIES: "(SELECT sum(c.instances) FROM series_content c WHERE "
        "c.study_instance_uid = e.study_instance_uid AND c.series_instance_uid = e.series_instance_uid)",
        INSTANCE_AVAILABILITY: "'ONLINE'",
    },
    "instance": {INSTANCE_AVAILABILITY: "'ONLINE'", AVAILABLE_TRANSFER_SYNTAX: "i.transfer_syntax_uid"},
}
_LISTS = frozenset({MODALITIES_IN_STUDY, SOP_CLASSES_IN_STUDY})
_NUMBER_OF = {
    "series": "CAST(json_extract(e.search, '$.\"00200011\"') AS INTEGER)",
    "instance": "CAST(json_extract(i.search, '$.\"00200013\"') AS INTEGER)",
}
_NEWEST_FIRST = "s.study_date DESC, json_extract(s.search, '$.\"00080030\"') DESC, s.study_instance_uid"

# VRs whose values are compared as a point in time.
_TIMES = {
    "DA": re.compile(r"\d{4,8}"),
    "TM": re.compile(r"\d{2,6}(\.\d{1,6})?"),
    "DT": re.compile(r"\d{4,14}(\.\d{1,6})?"),
}
# In these a backslash is a letter like any other (PS3.5 6.2).
_LONG_TEXT = frozenset({"ST", "LT", "UT", "UR"})
_BY_COMMA = frozenset({"UI", "CS", "IS"})
# SQLite takes no expression that is deeper than 1000 (SQLITE_MAX_EXPR_DEPTH), and each term of a chain is one deeper.
_MAXIMUM_TERMS = 400
_MAXIMUM_DEPTH = 20


class BadQuery(Rejected):
    """The query names an unknown attribute or has a malformed value."""


class TooMany(Rejected):
    """The query finds more than is answered at once."""


@dataclass(frozen=True)
class Key:
    """One matching key: an attribute (8-digit tag) with a text, or a sequence with the keys of an item."""

    tag: str
    text: str = ""
    item: tuple[Key, ...] = ()

    @property
    def is_universal(self) -> bool:
        """Matches anything (PS3.4 C.2.2.2.3)."""
        if self.item:
            return all(key.is_universal for key in self.item)
        given = [part for part in self.text.split("\\") if part.strip(" \0")]
        return not given or any(not part.strip(" \0*") for part in given)


@dataclass(frozen=True)
class Query:
    """What to look for, and what to return.

    keys: all must hold. include: tags to return besides; "all" for every indexed one. usual: return the attributes
    that QIDO-RS does, too. within: UIDs of the path (tag -> UID). exact_case: text other than names is compared with
    regard to case, as C-FIND asks (PS3.4 C.2.2.2.1).
    """

    level: QueryLevel
    keys: tuple[Key, ...] = ()
    include: frozenset[str] = frozenset()
    limit: int | None = None
    offset: int = 0
    within: Mapping[str, str] = field(default_factory=dict)
    usual: bool = True
    exact_case: bool = False


# From text to a query (QIDO-RS)


def parse(level: Level, parameters: Sequence[tuple[str, str]], within: Mapping[str, str] | None = None) -> Query:
    """A query from decoded name and value pairs; names may repeat.

    within: UID conditions of the path (tag -> UID).

    Raises:
        BadQuery: an unknown attribute, or a limit or offset that is no number.
    """
    keys: list[Key] = []
    include: set[str] = set()
    numbers: dict[str, int | None] = {"limit": None, "offset": 0}
    for name, value in parameters:
        if name in numbers:
            numbers[name] = _whole_number(name, value)
        elif name == "includefield":
            include |= {"all" if part == "all" else _path(part)[0] for part in value.split(",") if part.strip()}
        elif name == "fuzzymatching":
            _check_flag(name, value)  # QIDO-RS makes wildcards of it
        elif name != "accept":
            _add_key(keys, _path(name), value)
    return Query(level, tuple(keys), frozenset(include), numbers["limit"], numbers["offset"] or 0, within or {})


def tag_of(name: str) -> str:
    """8-digit tag of a keyword or tag. Raises BadQuery for an unknown one."""
    name = name.strip()
    if re.fullmatch(r"[0-9A-Fa-f]{8}", name):
        return name.upper()
    tag = tag_for_keyword(name)
    if tag is None:
        raise BadQuery(f"{name!r} is neither a DICOM keyword nor an 8-digit tag; see PS3.6 for their spelling")
    return f"{tag:08X}"


def _path(name: str) -> list[str]:
    """Tags of an attribute, and of the sequences that it lies in, the outermost first (PS3.18 8.3.4.1)."""
    steps = name.split(".")
    if len(steps) > _MAXIMUM_DEPTH:
        raise BadQuery(f"{name[:64]!r} has {len(steps)} levels of sequences; at most {_MAXIMUM_DEPTH} are read")
    return [tag_of(step) for step in steps]


def _add_key(keys: list[Key], path: list[str], value: str) -> None:
    """Add a key; keys of one sequence become keys of one item."""
    first, *rest = path
    if not rest:
        keys.append(Key(first, value))
        return
    here = next((index for index, key in enumerate(keys) if key.tag == first and key.item), None)
    item = [] if here is None else list(keys[here].item)
    _add_key(item, rest, value)
    if here is None:
        keys.append(Key(first, item=tuple(item)))
    else:
        keys[here] = Key(first, item=tuple(item))


def _whole_number(name: str, value: str) -> int:
    if not re.fullmatch(r"[0-9]{1,12}", value):
        raise BadQuery(f"{name}={value!r} is no number; give how many results to return, or to skip")
    return int(value)


def _check_flag(name: str, value: str) -> None:
    if value.lower() not in ("true", "false"):
        raise BadQuery(f"{name}={value!r} is neither true nor false; give one of the two")


# What a query finds


def is_matched(level: QueryLevel, tag: str) -> bool:
    """Whether an attribute can be searched for at this level."""
    if level == "patient":
        return tag in _OF_PATIENT
    if tag in _UID_COLUMNS or tag in (MODALITIES_IN_STUDY, SOP_CLASSES_IN_STUDY):
        return True
    return any(tag in TAGS[each] for each in _upto(level))


def is_returned(level: QueryLevel, tag: str) -> bool:
    """Whether an attribute can be had in the answers of this level."""
    if tag in _COMPUTED[level]:
        return True
    return tag in _OF_PATIENT if level == "patient" else any(tag in TAGS[each] for each in _upto(level))


def is_name(key: Key) -> bool:
    """A name is looked for (VR PN), in an item, too."""
    return any(map(is_name, key.item)) or (not key.item and _vr(key.tag) == "PN")


def run(index: Index, query: Query) -> list[dict[str, Any]]:
    """The answers as DICOM JSON objects (PS3.18 F), the newest study first; Retrieve URL is the caller's to add.

    Raises:
        BadQuery: an attribute cannot be searched for at this level, or a value is malformed.
    """
    with index.read() as connection:
        found = find(connection, query)
        return [
            answer
            for start in range(0, len(found), BATCH)
            for answer in answers(connection, query, found[start : start + BATCH])
        ]


def find(connection: Connection, query: Query) -> list[Uids]:
    """UIDs of what matches, the newest study first, series and instances by their number; patients by their ID.

    Raises:
        BadQuery: an attribute cannot be searched for at this level, or a value is malformed.
    """
    conditions, used = _conditions(query)
    where = " AND ".join(condition.sql for condition in conditions) or "1"
    parameters = [value for condition in conditions for value in condition.parameters]
    if query.level == "patient":
        sql = _PATIENTS.format(where=where)
    else:
        order, ordered = _order(query)
        sql = f"SELECT {_found_columns(query.level)} FROM {_joined(query.level, used | ordered)} WHERE {where} {order}"
    limit = -1 if query.limit is None else query.limit
    rows = connection.exec_driver_sql(f"{sql} LIMIT ? OFFSET ?", (*parameters, limit, query.offset))
    return [tuple(row) for row in rows]


def count(connection: Connection, query: Query) -> int:
    """How many matches there are, whatever limit and offset say."""
    conditions, used = _conditions(query)
    where = " AND ".join(condition.sql for condition in conditions) or "1"
    assert query.level != "patient"
    sql = f"SELECT count(*) FROM {_joined(query.level, used)} WHERE {where}"
    parameters = tuple(value for condition in conditions for value in condition.parameters)
    return int(connection.exec_driver_sql(sql, parameters).scalar_one())


# The newest matching study stands for its patient. Studies without a Patient ID are of unknown patients, each its own.
_PATIENTS = """
    SELECT study_instance_uid FROM (
        SELECT s.study_instance_uid, s.patient_id, row_number() OVER (
            PARTITION BY s.patient_id, CASE s.patient_id WHEN '' THEN s.study_instance_uid END
            ORDER BY s.study_date DESC, s.study_instance_uid
        ) AS nth FROM study s WHERE {where}
    ) WHERE nth = 1 ORDER BY patient_id, study_instance_uid
"""


def _upto(level: QueryLevel) -> tuple[Level, ...]:
    return ("study",) if level == "patient" else _LEVELS[: _LEVELS.index(level) + 1]


def _own(level: QueryLevel) -> str:
    """Alias of the level's own table."""
    return "s" if level == "patient" else _ALIAS[level]


def _found_columns(level: QueryLevel) -> str:
    if level == "series":
        return "e.study_instance_uid, e.series_instance_uid"
    return "i.sop_instance_uid" if level == "instance" else "s.study_instance_uid"


def _joined(level: Level, used: set[Level]) -> str:
    """The tables that the query speaks of, and its own."""
    tables = []
    if "study" in used or level == "study":
        tables.append(("study s", ""))
    if "series" in used or level == "series":
        tables.append(("series e", "e.study_instance_uid = s.study_instance_uid"))
    if level == "instance":
        above = _ALIAS["series"] if "series" in used else _ALIAS["study"]
        on = f"i.study_instance_uid = {above}.study_instance_uid"
        tables.append(
            ("instance i", on + (" AND i.series_instance_uid = e.series_instance_uid" if above == "e" else ""))
        )
    (first, _), *rest = tables
    return first + "".join(f" JOIN {table} ON {on}" for table, on in rest)


def _order(query: Query) -> tuple[str, set[Level]]:
    """ORDER BY without what the path fixes, and the levels that it speaks of."""
    terms: list[str] = []
    used: set[Level] = set()
    for level in _upto(query.level):
        if _UIDS_OF[level] in query.within and level != query.level:
            continue
        used.add(level)
        if level == "study":
            terms.append(_NEWEST_FIRST)
        else:
            terms += [_NUMBER_OF[level], f"{_ALIAS[level]}.{_UID_COLUMNS[_UIDS_OF[level]]}"]
    return f"ORDER BY {', '.join(terms)}", used


# Conditions


@dataclass(frozen=True)
class _Condition:
    sql: str
    parameters: tuple[str, ...] = ()


_ALWAYS = _Condition("1")


def _any(conditions: Iterable[_Condition]) -> _Condition:
    return _combined(" OR ", conditions)


def _all(conditions: Iterable[_Condition]) -> _Condition:
    return _combined(" AND ", conditions)


def _combined(word: str, conditions: Iterable[_Condition]) -> _Condition:
    each = list(conditions)
    sql = word.join(condition.sql for condition in each)
    parameters = tuple(value for condition in each for value in condition.parameters)
    return _Condition(f"({sql})" if len(each) > 1 else sql, parameters)


def _conditions(query: Query) -> tuple[list[_Condition], set[Level]]:
    """SQL of the path and of all keys that say something, and the levels whose tables they speak of."""
    conditions = [_uid_condition(query.level, tag, [uid]) for tag, uid in query.within.items()]
    used: set[Level] = set()
    _check_terms(len(query.keys), "keys")
    for key in query.keys:
        if not is_matched(query.level, key.tag):
            name = keyword_for_tag(key.tag) or key.tag
            raise BadQuery(f"{name} cannot be searched for at the level of {query.level}; leave it out")
        if key.is_universal:
            continue
        if key.tag in _UID_COLUMNS:
            conditions.append(_uid_condition(query.level, key.tag, _uids(key.tag, key.text)))
        elif key.tag in (MODALITIES_IN_STUDY, SOP_CLASSES_IN_STUDY):
            conditions.append(_content_condition(query.level, key))
        else:
            level = next(each for each in _upto(query.level) if key.tag in TAGS[each])
            used.add(level)
            conditions.append(_key_condition(f"{_ALIAS[level]}.search", key, query.exact_case))
    return conditions, used


def _uid_condition(level: QueryLevel, tag: str, uids: Sequence[str]) -> _Condition:
    """Any of these UIDs; above the level that has it, by what a study or series contains."""
    own, column = _own(level), _UID_COLUMNS[tag]
    wanted = (orjson.dumps(uids).decode(),)
    among = "IN (SELECT value FROM json_each(?))"
    here = {"study": (STUDY_UID,), "series": (STUDY_UID, SERIES_UID)}.get(level, tuple(_UID_COLUMNS))
    if tag in here:
        return _Condition(f"{own}.{column} {among}", wanted)
    inner = {SERIES_UID: "series", SOP_INSTANCE_UID: "instance", SOP_CLASS_UID: "series_content"}[tag]
    if level == "series":
        return _Condition(
            f"({own}.study_instance_uid, {own}.series_instance_uid) IN "
            f"(SELECT study_instance_uid, series_instance_uid FROM {inner} WHERE {column} {among})",
            wanted,
        )
    return _Condition(
        f"{own}.study_instance_uid IN (SELECT study_instance_uid FROM {inner} WHERE {column} {among})", wanted
    )


def _uids(tag: str, text: str) -> list[str]:
    uids = [uid for part in re.split(r"[,\\]", text) if (uid := part.strip(" \0"))]
    for uid in uids:
        if re.search(r"[*?]", uid):
            name = keyword_for_tag(tag) or tag
            raise BadQuery(f"{name} has {uid!r}, and wildcards are not for UIDs (PS3.4 C.2.2.2.4); give whole UIDs")
    return uids


def _content_condition(level: QueryLevel, key: Key) -> _Condition:
    """ModalitiesInStudy and SOPClassesInStudy: any series of the study."""
    column = f"{_own(level)}.study_instance_uid"
    if key.tag == SOP_CLASSES_IN_STUDY:
        inner = "SELECT study_instance_uid FROM series_content WHERE sop_class_uid IN (SELECT value FROM json_each(?))"
        return _Condition(f"{column} IN ({inner})", (orjson.dumps(_uids(key.tag, key.text)).decode(),))
    wanted = _any(_like("modality", part.upper()) for part in _values("CS", key.text))
    inner = f"SELECT study_instance_uid FROM series WHERE {wanted.sql}"
    return _Condition(f"{column} IN ({inner})", wanted.parameters)


def _key_condition(holder: str, key: Key, exact_case: bool, depth: int = 0) -> _Condition:
    """holder: SQL of the JSON object that has the attribute (levels.search_text)."""
    path = f"'$.\"{key.tag}\"'"
    if key.item:
        inner = _all(
            _key_condition(f"q{depth}.value", one, exact_case, depth + 1) for one in key.item if not one.is_universal
        )
        return _Condition(
            f"EXISTS (SELECT 1 FROM json_each({holder}, {path}) q{depth} WHERE {inner.sql})", inner.parameters
        )
    vr = _vr(key.tag)
    if vr == "SQ":
        name = keyword_for_tag(key.tag) or key.tag
        raise BadQuery(f"{name} is a sequence; say which attribute of its items, as in {name}.CodeValue=...")
    values = _values(vr, key.text)
    if vr == "PN":
        return _name_condition(holder, key.tag, values)
    exact = exact_case and vr in AS_WRITTEN
    written = f"coalesce(json_extract({holder}, '$.\"{key.tag}=\"'), json_extract({holder}, {path}))"
    if is_multiple(key.tag):
        source = f"json_each({written})" if exact else f"json_each({holder}, {path})"
        inner = _any(_value_condition("v.value", vr, value, exact) for value in values)
        return _Condition(f"EXISTS (SELECT 1 FROM {source} v WHERE {inner.sql})", inner.parameters)
    # First the form that has an index.
    held = "s.study_date" if (holder, key.tag) == ("s.search", _STUDY_DATE) else f"json_extract({holder}, {path})"
    folded = _any(_value_condition(held, vr, value) for value in values)
    if not exact:
        return folded
    return _all((folded, _any(_value_condition(written, vr, value, exact=True) for value in values)))


def _vr(tag: str) -> str:
    try:
        return dictionary_VR(int(tag, 16))
    except KeyError as error:
        raise BadQuery(
            f"{tag} is in no dictionary (PS3.6), so it is not known how to compare it; leave it out"
        ) from error


def _values(vr: str, text: str) -> list[str]:
    """The values of a key that is more than universal; any may match. Without those that are empty."""
    signs = r"[,\\]" if vr in _BY_COMMA else r"\\"
    parts = [text] if vr in _LONG_TEXT else re.split(signs, text)
    _check_terms(len(parts), "values")
    return [part for part in map(composed, parts) if part]


def _check_terms(number: int, what: str) -> None:
    if number > _MAXIMUM_TERMS:
        raise BadQuery(f"{number} {what} are more than the {_MAXIMUM_TERMS} that one query may have; ask several times")


def _name_condition(holder: str, tag: str, values: Sequence[str]) -> _Condition:
    """PN (PS3.5 6.2.1): a value without "=" may be in any component group, else each group has its own."""
    if any(not value.strip("*= ") for value in values):
        return _ALWAYS
    if is_multiple(tag):
        inner = _any(_one_name("json_extract(n.value, '$[{}]')", value) for value in values)
        return _Condition(
            f"EXISTS (SELECT 1 FROM json_each({holder}, '$.\"{tag}\"') n WHERE {inner.sql})", inner.parameters
        )
    return _any(_one_name(f"json_extract({holder}, '$.\"{tag}\"[{{}}]')", value) for value in values)


def _one_name(group: str, value: str) -> _Condition:
    """group: SQL of the component group with the number that is to be put in."""
    groups = [canonical("PN", part) for part in value.split("=")]
    if len(groups) == 1:
        return _any(_like(group.format(number), groups[0]) for number in range(3))
    given = [_like(group.format(number), part) for number, part in enumerate(groups) if part.strip("*")]
    return _all(given)


def _value_condition(value: str, vr: str, wanted: str, exact: bool = False) -> _Condition:
    """value: SQL of the stored one, in the same spelling (levels.canonical)."""
    if not wanted.strip("*"):
        return _ALWAYS
    if vr in _TIMES and not re.search(r"[*?]", wanted):
        return _within_time(value, vr, wanted)
    return _like(value, wanted if exact else canonical(vr, wanted))


def _within_time(value: str, vr: str, wanted: str) -> _Condition:
    """A range, or a single value, which stands for all that it begins (PS3.4 C.2.2.2.5): 10 is 10:00:00 to 10:59:59."""
    low, high = _bounds(vr, wanted)
    conditions = [_Condition(f"{value} > ''")]
    if low:
        # 12.50 is not after 12.5.
        conditions.append(_Condition(f"{value} >= ?", (re.sub(r"\.?0*$", "", low) if "." in low else low,)))
    if high:
        conditions.append(_Condition(f"{value} < ?", (high + "~",)))
    return _all(conditions)


def _bounds(vr: str, wanted: str) -> tuple[str, str]:
    digits = {"DA": wanted.replace(".", ""), "TM": wanted.replace(":", "")}.get(vr, wanted)
    for low, high in _readings(vr, digits):
        if (low or high) and all(not bound or _TIMES[vr].fullmatch(bound) for bound in (low, high)):
            return low, high
    raise BadQuery(f"{wanted!r} is neither a {vr} value nor a range of two (PS3.4 C.2.2.2.5); give it as LOW-HIGH")


def _readings(vr: str, text: str) -> Iterable[tuple[str, str]]:
    """A value, or a range that each hyphen may divide; an offset from UTC is not compared (PS3.5 6.2, DT)."""
    whole = re.sub(r"[+-]\d{4}$", "", text) if vr == "DT" else text
    yield whole, whole
    for found in re.finditer("-", text):
        low, high = text[: found.start()], text[found.end() :]
        yield (re.sub(r"[+-]\d{4}$", "", low), re.sub(r"[+-]\d{4}$", "", high)) if vr == "DT" else (low, high)


def _like(value: str, pattern: str) -> _Condition:
    """Wildcard matching (PS3.4 C.2.2.2.4); GLOB has the same two signs, and brackets, which here mean themselves."""
    if not re.search(r"[*?]", pattern):
        return _Condition(f"{value} = ?", (pattern,))
    return _Condition(f"{value} GLOB ?", (pattern.replace("[", "[[]"),))


# Answers


def answers(connection: Connection, query: Query, found: Sequence[Uids]) -> list[dict[str, Any]]:
    """DICOM JSON objects of some of the matches, in their order; what was deleted meanwhile is left out.

    found: of `find`, BATCH at a time.
    """
    wanted = {level: _wanted(query, level) for level in _upto(query.level)}
    computed = _wanted_computed(query)
    own = _own(query.level)
    columns = [f"{own}.{_UID_COLUMNS[_UIDS_OF[level]]}" for level in _upto(query.level)]
    shown = [level for level in _upto(query.level) if wanted[level] is None or wanted[level]]
    columns += [f"{_ALIAS[level]}.attributes" for level in shown] + list(computed.values())
    sql = f"SELECT {', '.join(columns)} FROM {_by_uids(query.level, shown)} ORDER BY k.key"
    rows = connection.exec_driver_sql(sql, (orjson.dumps(found).decode(),))
    shape = _Shape(query, wanted, shown, tuple(computed))
    return [shape.answer(tuple(row)) for row in rows]


_BY_UIDS: dict[QueryLevel, str] = {
    "patient": "study s ON s.study_instance_uid = json_extract(k.value, '$[0]')",
    "study": "study s ON s.study_instance_uid = json_extract(k.value, '$[0]')",
    "series": "series e ON e.study_instance_uid = json_extract(k.value, '$[0]') "
    "AND e.series_instance_uid = json_extract(k.value, '$[1]')",
    "instance": "instance i ON i.sop_instance_uid = json_extract(k.value, '$[0]')",
}


def _by_uids(level: QueryLevel, shown: Sequence[Level]) -> str:
    own = _own(level)
    tables = f"json_each(?) k CROSS JOIN {_BY_UIDS[level]}"
    if "study" in shown and own != "s":
        tables += f" CROSS JOIN study s ON s.study_instance_uid = {own}.study_instance_uid"
    if "series" in shown and own == "i":
        tables += (
            " CROSS JOIN series e ON e.series_instance_uid = i.series_instance_uid "
            "AND e.study_instance_uid = i.study_instance_uid"
        )
    return tables


def _wanted(query: Query, level: Level) -> frozenset[str] | None:
    """Tags of a level to return, None for all; its own UID is returned in any event, and not among them above."""
    if "all" in query.include:
        return None
    fixed = _UIDS_OF[level] in query.within and level != query.level
    usual = _USUAL[level] if query.usual and not fixed else frozenset[str]()
    named = {key.tag for key in query.keys} | query.include
    known = _OF_PATIENT if query.level == "patient" else _KNOWN[level]
    wanted = (usual | named) & known
    return wanted if level == query.level else wanted - {_UIDS_OF[level]}


def _wanted_computed(query: Query) -> dict[str, str]:
    named = {key.tag for key in query.keys} | query.include
    if query.usual:
        named |= _USUAL_COMPUTED[query.level]
    known = _COMPUTED[query.level]
    return {tag: sql for tag, sql in known.items() if tag in named or "all" in named}


class _Shape:
    """How rows of one query become answers."""

    def __init__(
        self,
        query: Query,
        wanted: Mapping[Level, frozenset[str] | None],
        shown: Sequence[Level],
        computed: Sequence[str],
    ) -> None:
        self._wanted = [wanted[level] for level in shown]
        self._uids = [] if query.level == "patient" else [_UIDS_OF[level] for level in _upto(query.level)]
        self._columns = len(_upto(query.level))
        self._computed = [(tag, _vr(tag), tag in _LISTS) for tag in computed]
        # An attribute that is asked for and not known has no value, and is there all the same.
        tags = {tag for level in shown for tag in (wanted[level] or ()) if level == query.level or not query.usual}
        if query.level == "patient":
            tags = set(wanted["study"] or ())
        self._empty = {tag: {"vr": _vr(tag)} for tag in tags}

    def answer(self, row: Sequence[Any]) -> dict[str, Any]:
        answer: dict[str, Any] = dict(self._empty)
        for wanted, text in zip(self._wanted, row[self._columns :], strict=False):
            selected = _selected if len(text) <= _REMEMBERED_LETTERS else _selected.__wrapped__
            answer |= selected(text, wanted)
        for tag, uid in zip(self._uids, row, strict=False):
            answer[tag] = {"vr": "UI", "Value": [uid]}
        for (tag, vr, is_list), value in zip(self._computed, row[self._columns + len(self._wanted) :], strict=True):
            answer[tag] = {"vr": vr, "Value": orjson.loads(value) if is_list else [value]}
        return answer


@lru_cache(_REMEMBERED)
def _selected(text: str, wanted: frozenset[str] | None) -> Mapping[str, Any]:
    """Attributes of one level, as the index has them, that are wanted; None for all. Who takes them changes nothing.

    Rows of one series share the text of its attributes, and who asks once asks again.
    """
    attributes: dict[str, Any] = orjson.loads(text)
    return attributes if wanted is None else {tag: attributes[tag] for tag in attributes.keys() & wanted}
