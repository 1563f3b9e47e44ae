"""The query language against a plain model in memory: random archives, random queries, the same answers.

The model is written from PS3.4 C.2.2.2 with regular expressions and whole numbers of microseconds; it shares no line
with the program.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from archives import archive
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.datadict import dictionary_VR, tag_for_keyword
from sqlalchemy import Connection, insert

from plugin.archive import levels
from plugin.archive.index import NO_INPUT, Index
from plugin.archive.query import Key, Query, answers, find
from plugin.archive.tables import Instance, Series, Study

# Letters of which several mean the same, signs that databases and patterns take for their own, two scripts.
LETTERS = "aAbBäÄéÉßσΣς山田%_|*?[]^'\"- \u0301"
SINGLE = {
    "study": ("PatientName", "PatientID", "StudyDate", "StudyTime", "StudyDescription", "AccessionNumber"),
    "series": ("Modality", "SeriesNumber", "SeriesDescription", "SeriesDate"),
    "instance": ("InstanceNumber", "AcquisitionDateTime", "ContentTime", "SliceThickness", "ContentLabel"),
}
MULTIPLE = {
    "study": ("NameOfPhysiciansReadingStudy", "OtherPatientIDs"),
    "series": ("OperatorsName", "SoftwareVersions"),
    "instance": ("ImageType", "PixelSpacing"),
}
SEQUENCES = {
    "study": ("ProcedureCodeSequence", ("CodeValue", "CodeMeaning")),
    "series": ("RequestAttributesSequence", ("ScheduledProcedureStepID", "RequestedProcedureDescription")),
}
LEVELS = ("study", "series", "instance")

words = st.text(LETTERS, max_size=4)
dates = st.builds("20{:02}{:02}{:02}".format, st.integers(24, 25), st.integers(1, 3), st.integers(1, 3))
times = st.builds(
    lambda hour, rest, digits, fraction: (f"{hour:02}{rest:04}"[:digits]) + (fraction if digits == 6 else ""),
    st.integers(9, 11), st.sampled_from([0, 1, 59, 100, 5959]), st.sampled_from([2, 4, 6]),
    st.sampled_from(["", ".5", ".50", ".000001"]),
)  # fmt: skip


def value_of(vr: str) -> st.SearchStrategy[str]:
    if vr == "PN":
        return st.lists(words.map(lambda text: text.replace("=", "")), max_size=3).map("=".join)
    return {
        "DA": dates,
        "TM": times,
        "DT": st.builds(
            lambda day, time, zone: day + time + zone, dates, times, st.sampled_from(["", "+0100", "-0500"])
        ),
        "IS": st.integers(-3, 12).map(str),
        "DS": st.sampled_from(["0.5", "1", "1.0", "2.50", "1e1"]),
        "CS": st.sampled_from(["CT", "MR", "PT", "ORIGINAL", "PRIMARY", "A_B"]),
    }.get(vr, words)


def vr_of(keyword: str) -> str:
    return dictionary_VR(tag_for_keyword(keyword))


@st.composite
def attributes(draw: st.DrawFn, level: str) -> dict[str, Any]:
    """Values of one entity by keyword: text, a list of texts, or a list of items."""
    found: dict[str, Any] = {}
    for keyword in SINGLE[level]:
        if draw(st.booleans()):
            found[keyword] = draw(value_of(vr_of(keyword)))
    for keyword in MULTIPLE[level]:
        if draw(st.booleans()):
            found[keyword] = draw(st.lists(value_of(vr_of(keyword)), max_size=3))
    if level in SEQUENCES and draw(st.booleans()):
        sequence, inner = SEQUENCES[level]
        item = st.fixed_dictionaries({}, optional={keyword: value_of(vr_of(keyword)) for keyword in inner})
        found[sequence] = draw(st.lists(item, max_size=3))
    return found


@dataclass
class Entity:
    """A study, series or instance of the model. above: UIDs of the levels over it, itself last."""

    level: str
    uids: tuple[str, ...]
    values: dict[str, Any]
    sop_class: str = ""
    below: list[Entity] = field(default_factory=list)

    def instances(self) -> Iterator[Entity]:
        if self.level == "instance":
            yield self
        for one in self.below:
            yield from one.instances()


@st.composite
def archives(draw: st.DrawFn) -> list[Entity]:
    studies = []
    for a in range(draw(st.integers(1, 3))):
        study = Entity("study", (f"1.{a}",), draw(attributes("study")))
        studies.append(study)
        for b in range(draw(st.integers(1, 2))):
            series = Entity("series", (*study.uids, f"2.{b}"), draw(attributes("series")))
            study.below.append(series)
            for c in range(draw(st.integers(1, 2))):
                sop_class = draw(st.sampled_from(["9.1", "9.2"]))
                values = draw(attributes("instance"))
                series.below.append(Entity("instance", (*series.uids, f"3.{a}.{b}.{c}"), values, sop_class))
    return studies


# The model: does a value match?


def fold(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip(" ").casefold()


def same_case(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip(" ")


def fits(pattern: str, value: str) -> bool:
    signs = {"*": ".*", "?": "."}
    return re.fullmatch("".join(signs.get(sign) or re.escape(sign) for sign in pattern), value, re.DOTALL) is not None


def instant(digits: str, pad: str) -> int:
    """A date, time or date-time with its fraction as one number, filled up with the sign `pad`."""
    whole, _, fraction = digits.partition(".")
    return int(whole + fraction.ljust(6, pad)) if fraction else int(whole + pad * 6)


def time_fits(vr: str, key: str, value: str) -> bool:
    if not value:
        return False
    whole = {"DA": 8, "TM": 6, "DT": 14}[vr]
    begin = {"DA": "", "TM": "000000", "DT": "00000101000000"}[vr]

    def bound(text: str, pad: str) -> int:
        text = re.sub(r"[+-]\d{4}$", "", text) if vr == "DT" else text
        digits, dot, fraction = text.partition(".")
        return instant(digits.ljust(whole, pad) + dot + fraction, pad)

    text = re.sub(r"[+-]\d{4}$", "", value) if vr == "DT" else value
    digits, dot, fraction = text.partition(".")
    here = instant(digits + begin[len(digits) :] + dot + fraction, "0")
    low, high = key.split("~") if "~" in key else (key, key)
    return (not low or bound(low, "0") <= here) and (not high or here <= bound(high, "9"))


def value_fits(vr: str, key: str, value: str, exact: bool) -> bool:
    """key: one value; a range is written with ~ here."""
    if not key.strip(" ").strip("*"):
        return True
    if vr in ("DA", "TM", "DT"):
        return time_fits(vr, key, value)
    if vr in ("IS", "DS"):
        return bool(value) and float(key) == float(value)
    if vr == "PN":
        groups, wanted = [*value.split("="), "", "", ""][:3], key.split("=")
        if len(wanted) == 1:
            return any(fits(fold(key), fold(group)) for group in groups)
        return all(
            not one.strip(" ").strip("*") or fits(fold(one), fold(group))
            for one, group in zip(wanted, groups, strict=False)
        )
    form = same_case if exact and vr in ("LO", "SH", "ST", "LT", "UC", "UT", "AE") else fold
    return fits(form(key), form(value))


def key_fits(values: dict[str, Any], key: Wanted, exact: bool) -> bool:
    if key.items is not None:
        return any(all(key_fits(item, one, exact) for one in key.items) for item in values.get(key.keyword, []))
    vr, held = vr_of(key.keyword), values.get(key.keyword, "")
    wanted = [one for one in key.values if one.strip(" ")]
    if any(not one.strip(" ").strip("*") for one in wanted) or not wanted:
        return True
    several = held if isinstance(held, list) else [held]
    return any(value_fits(vr, one, value, exact) for one in wanted for value in several)


@dataclass(frozen=True)
class Wanted:
    """A matching key of the model: its values, any of which may fit, or the keys of one item."""

    keyword: str
    values: tuple[str, ...] = ()
    items: tuple[Wanted, ...] | None = None

    @property
    def is_universal(self) -> bool:
        if self.items is not None:
            return all(one.is_universal for one in self.items)
        signs = "*=" if vr_of(self.keyword) == "PN" else "*"
        given = [one for one in self.values if one.strip(" ")]
        return not given or any(not one.strip(" " + signs) for one in given)

    def key(self) -> Key:
        """In the program's language."""
        tag = f"{tag_for_keyword(self.keyword):08X}"
        if self.items is not None:
            return Key(tag, item=tuple(one.key() for one in self.items))
        return Key(tag, "\\".join(self.values).replace("~", "-"))


@st.composite
def wanted_values(draw: st.DrawFn, keyword: str, held: list[str]) -> tuple[str, ...]:
    """Something random, or something that is there in another spelling, with wildcards or within a range."""
    vr = vr_of(keyword)
    one = draw(st.sampled_from(held) if held and draw(st.booleans()) else value_of(vr))
    if vr in ("DA", "TM", "DT"):
        other = draw(value_of(vr))
        zoneless = re.sub(r"[+-]\d{4}$", "", other)
        return (draw(st.sampled_from([one, f"{one}~", f"~{one}", f"{one}~{zoneless}"])) if one else "",)
    if vr not in ("IS", "DS", "CS"):
        change = draw(st.sampled_from(["", "swap", "compose", "begin", "end", "middle", "one"]))
        one = {
            "swap": one.swapcase(),
            "compose": unicodedata.normalize("NFD", one),
            "begin": one[:2] + "*",
            "end": "*" + one[-2:],
            "middle": "*" + one[1:3] + "*",
            "one": re.sub(r"[ab]", "?", one, count=1),
        }.get(change, one)
    more = (draw(value_of(vr)),) if draw(st.integers(0, 4)) == 0 else ()
    return (one, *more)


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[Entity], str, list[Wanted], bool]:
    studies = draw(archives())
    level = draw(st.sampled_from(LEVELS))
    reached = LEVELS[: LEVELS.index(level) + 1]
    entities = [one for study in studies for one in (study, *study.below, *study.instances())]
    keys: list[Wanted] = []
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.sampled_from(reached))
        held = [one.values for one in entities if one.level == at]
        if at in SEQUENCES and draw(st.integers(0, 3)) == 0:
            sequence, inner = SEQUENCES[at]
            items = [item for values in held for item in values.get(sequence, [])]
            chosen = draw(st.lists(st.sampled_from(inner), min_size=1, max_size=2, unique=True))
            inside = [
                Wanted(keyword, draw(wanted_values(keyword, [item[keyword] for item in items if keyword in item])))
                for keyword in chosen
            ]
            keys.append(Wanted(sequence, items=tuple(inside)))
            continue
        keyword = draw(st.sampled_from(SINGLE[at] + MULTIPLE[at]))
        texts = [values[keyword] for values in held if keyword in values]
        flat = [text for value in texts for text in (value if isinstance(value, list) else [value])]
        keys.append(Wanted(keyword, draw(wanted_values(keyword, flat))))
    return studies, level, keys, draw(st.booleans())


# The archive


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    ingest = archive(tmp_path_factory.mktemp("model"))
    yield ingest.index
    ingest.index.close()


def dataset_of(values: dict[str, Any]) -> Dataset:
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    for keyword, value in values.items():
        is_sequence = isinstance(value, list) and any(isinstance(one, dict) for one in value)
        setattr(dataset, keyword, [dataset_of(item) for item in value] if is_sequence else value)
    return dataset


def insert_all(connection: Connection, studies: list[Entity]) -> None:
    for study in studies:
        (uid,) = study.uids
        state = {"first_arrival_at": 1.0, "last_arrival_at": 1.0, "input_hash": NO_INPUT}
        held = columns(study.values, "study", StudyInstanceUID=uid)
        connection.execute(
            insert(Study).values(
                study_instance_uid=uid, patient_id="", study_date=study.values.get("StudyDate", ""), **held, **state
            )
        )
        for series in study.below:
            own = f"{series.uids[-1]}.{uid}"
            held = columns(series.values, "series", SeriesInstanceUID=own)
            modality = series.values.get("Modality", "")
            connection.execute(
                insert(Series).values(study_instance_uid=uid, series_instance_uid=own, modality=modality, **held)
            )
            for instance in series.below:
                connection.execute(insert(Instance).values(**instance_row(instance, uid, own)))


def columns(values: dict[str, Any], level: levels.Level, **uids: str) -> dict[str, Any]:
    attributes = levels.attributes(dataset_of(values | uids), level)
    return {"attributes": attributes, "search": levels.search_text(attributes)}


def instance_row(instance: Entity, study: str, series: str) -> dict[str, Any]:
    uid = instance.uids[-1]
    required = {
        column.name: 0 if column.type.python_type in (int, float, bool) else ""
        for column in Instance.__table__.columns
        if not column.nullable
    }
    return required | {
        "sop_instance_uid": uid,
        "study_instance_uid": study,
        "series_instance_uid": series,
        "sop_class_uid": instance.sop_class,
        "transfer_syntax_uid": "1.2.840.10008.1.2",
        "storage_key": uid,
        **columns(instance.values, "instance", SOPInstanceUID=uid),
    }


def found_by_the_model(studies: list[Entity], level: str, keys: list[Wanted], exact: bool) -> set[str]:
    found = set()
    for study in studies:
        for chain in chains(study, level):
            values = {keyword: value for entity in chain for keyword, value in entity.values.items()}
            if all(key.is_universal or key_fits(values, key, exact) for key in keys):
                uid = chain[-1].uids[-1]
                found.add(f"{uid}.{study.uids[0]}" if level == "series" else uid)
    return found


def chains(entity: Entity, level: str, above: tuple[Entity, ...] = ()) -> Iterator[tuple[Entity, ...]]:
    here = (*above, entity)
    if entity.level == level:
        yield here
    for one in entity.below:
        yield from chains(one, level, here)


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(cases())
def test_the_index_finds_what_the_model_finds(index: Index, case: tuple[list[Entity], str, list[Wanted], bool]) -> None:
    studies, level, keys, exact = case
    query = Query(level, tuple(key.key() for key in keys), exact_case=exact)  # type: ignore[arg-type]
    with index.engine.connect() as connection, connection.begin() as transaction:
        insert_all(connection, studies)
        found = find(connection, query)
        returned = answers(connection, query, found)
        transaction.rollback()
    assert {uids[-1] for uids in found} == found_by_the_model(studies, level, keys, exact)
    own = {"study": "0020000D", "series": "0020000E", "instance": "00080018"}[level]
    assert [answer[own]["Value"][0] for answer in returned] == [uids[-1] for uids in found]


@settings(max_examples=15, deadline=None)
@given(archives())
def test_the_index_counts_what_the_model_counts(index: Index, studies: list[Entity]) -> None:
    with index.engine.connect() as connection, connection.begin() as transaction:
        insert_all(connection, studies)
        query = Query("study")
        counted = {
            answer["0020000D"]["Value"][0]: answer for answer in answers(connection, query, find(connection, query))
        }
        transaction.rollback()
    for study in studies:
        answer = counted[study.uids[0]]
        modalities = {series.values.get("Modality", "") for series in study.below} - {""}
        assert answer["00080061"]["Value"] == sorted(modalities)
        assert answer["00080062"]["Value"] == sorted({one.sop_class for one in study.instances()})
        assert answer["00201206"]["Value"] == [len(study.below)]
        assert answer["00201208"]["Value"] == [len(list(study.instances()))]
