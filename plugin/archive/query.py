"""One query language over the index, for QIDO-RS now and C-FIND later (PS3.4 C.2.2.2, PS3.18 8.3.4).

A condition is a keyword or an 8-digit tag with a text:

    PatientName=*pháñtom*          wildcards * and ?; names and text without regard to case
    StudyDate=20260101-20260201    a range, open at either end
    StudyInstanceUID=1.2,1.3       a list of UIDs, by comma or backslash
    ModalitiesInStudy=CT,MR        any of them
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from sqlalchemy import ColumnElement, Connection, Select, and_, distinct, func, or_, select

from dicom_io.errors import Rejected
from plugin.archive.index import Index
from plugin.archive.levels import TAGS, Level, folded
from plugin.archive.tables import Instance, Series, Study

MODALITIES_IN_STUDY = "00080061"
SOP_CLASSES_IN_STUDY = "00080062"
SERIES_OF_STUDY = "00201206"
INSTANCES_OF_STUDY = "00201208"
INSTANCES_OF_SERIES = "00201209"
INSTANCE_AVAILABILITY = "00080056"
AVAILABLE_TRANSFER_SYNTAX = "00083002"
RETRIEVE_URL = "00081190"

_LEVELS: tuple[Level, ...] = ("study", "series", "instance")
_TABLES: dict[Level, type[Study] | type[Series] | type[Instance]] = {
    "study": Study,
    "series": Series,
    "instance": Instance,
}
_UID_COLUMNS = {
    "0020000D": Study.study_instance_uid,
    "0020000E": Series.series_instance_uid,
    "00080018": Instance.sop_instance_uid,
    "00080016": Instance.sop_class_uid,
}
# What an answer holds unless more is asked for (PS3.18 10.6.3.3, and what viewers read).
_RETURNED: dict[Level, frozenset[str]] = {
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
# Below the number of variables that a statement of SQLite may have.
_BATCH = 10_000


class BadQuery(Rejected):
    """The query names an unknown attribute or has a malformed value."""


@dataclass(frozen=True)
class Query:
    """What to look for.

    conditions: (8-digit tag, text); all must hold. include: further tags to return; "all" for every indexed one.
    """

    level: Level
    conditions: tuple[tuple[str, str], ...] = ()
    include: frozenset[str] = frozenset()
    limit: int | None = None
    offset: int = 0
    within: Mapping[str, str] = field(default_factory=dict)


def parse(level: Level, parameters: Sequence[tuple[str, str]], within: Mapping[str, str] | None = None) -> Query:
    """A query from decoded name and value pairs; names may repeat.

    within: UID conditions of the path (tag -> UID).

    Raises:
        BadQuery: an unknown attribute, or a limit or offset that is no number.
    """
    conditions: list[tuple[str, str]] = []
    include: set[str] = set()
    numbers = {"limit": None, "offset": 0}
    for name, value in parameters:
        if name in numbers:
            if not value.isdigit():
                raise BadQuery(f"{name}={value!r} is no number; give how many results to return, or to skip")
            numbers[name] = int(value)
        elif name == "includefield":
            include |= {"all" if part == "all" else tag_of(part) for part in value.split(",") if part}
        elif name == "fuzzymatching" or name == "accept":
            continue  # matching is by wildcard and without regard to case in any event
        else:
            conditions.append((tag_of(name), value))
    return Query(level, tuple(conditions), frozenset(include), numbers["limit"], numbers["offset"] or 0, within or {})


def tag_of(name: str) -> str:
    """8-digit tag of a keyword or tag, of the last step where it is a path. Raises BadQuery for an unknown one."""
    last = name.rpartition(".")[2]
    if re.fullmatch(r"[0-9A-Fa-f]{8}", last):
        return last.upper()
    tag = tag_for_keyword(last)
    if tag is None:
        raise BadQuery(f"{name!r} is neither a DICOM keyword nor an 8-digit tag; see PS3.6 for their spelling")
    return f"{tag:08X}"


def run(index: Index, query: Query) -> list[dict[str, Any]]:
    """The answers as DICOM JSON objects (PS3.18 F), the newest study first; Retrieve URL is the caller's to add.

    Raises:
        BadQuery: an attribute cannot be searched for at this level.
    """
    with index.read() as connection:
        rows = list(connection.execute(_statement(query)))
        answers = [_answer(query, row._asdict()) for row in rows]
        for start in range(0, len(answers), _BATCH):
            if query.level == "study":
                _add_study_counts(connection, answers[start : start + _BATCH])
            elif query.level == "series":
                _add_series_counts(connection, answers[start : start + _BATCH])
    return answers


def _statement(query: Query) -> Select[Any]:
    levels = _LEVELS[: _LEVELS.index(query.level) + 1]
    columns: list[Any] = [_TABLES[level].attributes.label(f"{level}_attributes") for level in levels]
    order: list[Any] = [Study.study_date.desc(), Study.last_arrival_at.desc(), Study.study_instance_uid]
    if query.level == "instance":
        columns.append(Instance.transfer_syntax_uid)
    statement = select(*columns).select_from(Study)
    if "series" in levels:
        statement = statement.join(Series, Series.study_instance_uid == Study.study_instance_uid)
        order += [func.length(Series.search["00200011"].as_string()), Series.search["00200011"].as_string()]
        order.append(Series.series_instance_uid)
    if "instance" in levels:
        statement = statement.join(
            Instance,
            and_(
                Instance.study_instance_uid == Series.study_instance_uid,
                Instance.series_instance_uid == Series.series_instance_uid,
            ),
        )
        order += [func.length(Instance.search["00200013"].as_string()), Instance.search["00200013"].as_string()]
        order.append(Instance.sop_instance_uid)
    conditions = [_condition(levels, tag, text) for tag, text in (*query.within.items(), *query.conditions) if text]
    statement = statement.where(*conditions).order_by(*order)
    if query.limit is not None:
        statement = statement.limit(query.limit)
    return statement.offset(query.offset)


def _condition(levels: Sequence[Level], tag: str, text: str) -> ColumnElement[bool]:
    if tag in _UID_COLUMNS:
        return _uid_condition(levels, tag, re.split(r"[,\\]", text))
    if tag == MODALITIES_IN_STUDY:
        wanted = [part.strip().upper() for part in re.split(r"[,\\]", text) if part.strip()]
        return Study.study_instance_uid.in_(
            select(Series.study_instance_uid).where(or_(*(_like(Series.modality, part) for part in wanted)))
        )
    for level in levels:
        if tag in TAGS[level]:
            return _value_condition(_TABLES[level].search[tag].as_string(), _vr(tag), folded(text))
    name = keyword_for_tag(tag) or tag
    raise BadQuery(f"{name} cannot be searched for at the level of {levels[-1]}; leave it out")


def _uid_condition(levels: Sequence[Level], tag: str, uids: list[str]) -> ColumnElement[bool]:
    """A UID, or a list of them, by backslash (PS3.4 C.2.2.2.2) or comma."""
    column = _UID_COLUMNS[tag]
    wanted = [uid.strip() for uid in uids if uid.strip()]
    if tag == "0020000D" or ("series" in levels and tag == "0020000E") or "instance" in levels:
        return column.in_(wanted)
    # A study or series by what it contains.
    inner = Series if tag == "0020000E" else Instance
    return Study.study_instance_uid.in_(select(inner.study_instance_uid).where(column.in_(wanted)))


def _vr(tag: str) -> str:
    return dictionary_VR(int(tag, 16))


def _value_condition(column: ColumnElement[str], vr: str, text: str) -> ColumnElement[bool]:
    stored = func.coalesce(column, "")
    if vr in ("DA", "TM", "DT") and "-" in text:
        low, _, high = text.partition("-")
        # A given end includes everything that it begins: 20260201 and 20260201235959.
        bounds = ([stored >= low.strip()] if low.strip() else []) + (
            [stored < high.strip() + "~"] if high.strip() else []
        )
        return and_(stored != "", *bounds)
    if vr in ("CS", "UI", "IS") and ("," in text or "\\" in text):
        return or_(*(_like(stored, part.strip()) for part in re.split(r"[,\\]", text) if part.strip()))
    if vr == "PN":
        # Any one component group may match: alphabetic, ideographic or phonetic (PS3.5 6.2.1).
        return or_(*(_like(stored, form) for form in (text, f"{text}=*", f"*={text}", f"*={text}=*")))
    return or_(
        _like(stored, text), _like(stored, f"{text}\\*"), _like(stored, f"*\\{text}"), _like(stored, f"*\\{text}\\*")
    )


def _like(column: Any, pattern: str) -> ColumnElement[bool]:
    """Wildcard matching (PS3.4 C.2.2.2.4); the database's own signs in the pattern are escaped."""
    if not re.search(r"[*?]", pattern):
        return column == pattern
    escaped = re.sub(r"([%_|])", r"|\1", pattern)
    return column.like(escaped.replace("*", "%").replace("?", "_"), escape="|")


def _answer(query: Query, row: Mapping[str, Any]) -> dict[str, Any]:
    levels = _LEVELS[: _LEVELS.index(query.level) + 1]
    everything = {level: row[f"{level}_attributes"] for level in levels}
    asked = {tag for tag, _ in query.conditions} | query.include
    fixed = set(query.within)
    answer: dict[str, Any] = {}
    for level, attributes in everything.items():
        # Attributes of an upper level belong in the answer where the path does not fix that level already.
        usual = _RETURNED[level] if level == query.level or not fixed else _RETURNED[level] & {"0020000D", "0020000E"}
        for tag, element in attributes.items():
            if "all" in query.include or tag in usual or tag in asked:
                answer[tag] = element
        for tag in _RETURNED[level] & TAGS[level].keys():
            # An attribute that is returned but not known has no value, and is there all the same.
            if level == query.level and tag not in answer:
                answer[tag] = {"vr": _vr(tag)}
    if query.level == "instance":
        answer[INSTANCE_AVAILABILITY] = {"vr": "CS", "Value": ["ONLINE"]}
        answer[AVAILABLE_TRANSFER_SYNTAX] = {"vr": "UI", "Value": [row["transfer_syntax_uid"]]}
    return answer


def _add_study_counts(connection: Connection, answers: list[dict[str, Any]]) -> None:
    by_uid = {answer["0020000D"]["Value"][0]: answer for answer in answers}
    series = (
        select(Series.study_instance_uid, Series.modality)
        .where(Series.study_instance_uid.in_(by_uid))
        .order_by(Series.modality)
    )
    modalities: dict[str, list[str]] = {uid: [] for uid in by_uid}
    for uid, modality in connection.execute(series):
        modalities[uid].append(modality)
    instances = (
        select(Instance.study_instance_uid, Instance.sop_class_uid, func.count())
        .where(Instance.study_instance_uid.in_(by_uid))
        .group_by(Instance.study_instance_uid, Instance.sop_class_uid)
    )
    classes: dict[str, dict[str, int]] = {uid: {} for uid in by_uid}
    for uid, sop_class, count in connection.execute(instances):
        classes[uid][sop_class] = count
    for uid, answer in by_uid.items():
        answer[MODALITIES_IN_STUDY] = {"vr": "CS", "Value": list(dict.fromkeys(modalities[uid]))}
        answer[SOP_CLASSES_IN_STUDY] = {"vr": "UI", "Value": sorted(classes[uid])}
        answer[SERIES_OF_STUDY] = {"vr": "IS", "Value": [len(modalities[uid])]}
        answer[INSTANCES_OF_STUDY] = {"vr": "IS", "Value": [sum(classes[uid].values())]}
        answer[INSTANCE_AVAILABILITY] = {"vr": "CS", "Value": ["ONLINE"]}


def _add_series_counts(connection: Connection, answers: list[dict[str, Any]]) -> None:
    uids = [answer["0020000E"]["Value"][0] for answer in answers]
    query = (
        select(
            Instance.study_instance_uid, Instance.series_instance_uid, func.count(distinct(Instance.sop_instance_uid))
        )
        .where(Instance.series_instance_uid.in_(uids))
        .group_by(Instance.study_instance_uid, Instance.series_instance_uid)
    )
    counts = {(study, series): count for study, series, count in connection.execute(query)}
    for answer in answers:
        key = (answer["0020000D"]["Value"][0], answer["0020000E"]["Value"][0])
        answer[INSTANCES_OF_SERIES] = {"vr": "IS", "Value": [counts[key]]}
        answer[INSTANCE_AVAILABILITY] = {"vr": "CS", "Value": ["ONLINE"]}
