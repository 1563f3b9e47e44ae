"""Which series of a study a route picks, and why not.

A route looks at one instance at a time: what its data set says, and by which door, from and to whom it came. All its
conditions must hold for the same instance. A series with one such instance is picked whole, since a volume with holes
helps nobody.

    match = { Modality = "PT", SeriesDescription = ["*WB*", "*body*"], calling_aet = "ORTHANC", time = "07:00-19:00" }

Keys are DICOM keywords (PS3.6) of attributes that the index keeps, or `calling_aet`, `called_aet`, `address`, `door`
("dimse", "stow", "pull", ...) and `time` (of arrival, this machine's clock; may pass midnight). Values are compared
without regard to case, with the wildcards * and ?; of several values one must hold, and of several values of a
multi-valued attribute one must. What Mirall made itself is picked by no route that does not say `allow_results = true`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, time
from fnmatch import fnmatchcase
from typing import Any, Protocol

_TIME_OF_DAY = re.compile(r"(\d\d):(\d\d)-(\d\d):(\d\d)")


class Rule(Protocol):
    """What of a route (`settings.Route`) matching looks at."""

    @property
    def match(self) -> Mapping[str, str | tuple[str, ...]]: ...

    @property
    def allow_results(self) -> bool: ...


@dataclass(frozen=True)
class Candidate:
    """One instance as a route sees it.

    attributes: DICOM JSON model (PS3.18 F) of study, series and instance level together.
    arrived_at: seconds since 1970.
    route: route whose job made it, "" for what others made; a route never picks its own results.
    """

    sop_instance_uid: str
    series_instance_uid: str
    dataset_hash: str
    attributes: Mapping[str, Any]
    door: str
    calling_aet: str
    called_aet: str
    address: str
    arrived_at: float
    made_by_us: bool = False
    route: str = ""


@dataclass(frozen=True)
class Verdict:
    """What a route makes of a study. why: a sentence, for people; picked: whole series, in the given order."""

    picked: tuple[Candidate, ...]
    why: str

    @property
    def matches(self) -> bool:
        return bool(self.picked)


def judge(rule: Rule, study: Sequence[Candidate]) -> Verdict:
    """What `rule` picks of one study."""
    problems = unusable(rule)
    if problems:
        return Verdict((), "; ".join(sentence for _, sentence in problems))
    eligible = [candidate for candidate in study if rule.allow_results or not candidate.made_by_us]
    if not eligible:
        ours = "all that it holds was made by Mirall, and the route does not set allow_results"
        return Verdict((), ours if study else "there is nothing in it that the route may see")
    conditions = [_condition(key, _several(wanted)) for key, wanted in rule.match.items()]
    hits = {each.series_instance_uid for each in eligible if all(holds(each) for holds, _ in conditions)}
    picked = tuple(each for each in eligible if each.series_instance_uid in hits)
    if picked:
        return Verdict(picked, f"picks {len(hits)} series with {len(picked)} instances")
    for holds, complaint in conditions:
        if not any(holds(each) for each in eligible):
            return Verdict((), complaint(eligible))
    return Verdict((), "each condition holds somewhere, but no instance meets all of them at once")


def unusable(rule: Rule) -> list[tuple[str, str]]:
    """Conditions that can never hold because they are misspelt: (key, sentence)."""
    # Settings are read by processes that have no other use for all of pydicom.
    from pydicom.datadict import tag_for_keyword

    problems = []
    for key, wanted in rule.match.items():
        if key == "time":
            problems += [(key, f"{text!r} is no HH:MM-HH:MM") for text in _several(wanted) if _interval(text) is None]
        elif key not in _ARRIVAL and tag_for_keyword(key) is None:
            problems.append((key, f"{key!r} is neither a DICOM keyword nor one of {', '.join((*_ARRIVAL, 'time'))}"))
    return problems


_ARRIVAL: dict[str, Callable[[Candidate], str]] = {
    "calling_aet": lambda candidate: candidate.calling_aet,
    "called_aet": lambda candidate: candidate.called_aet,
    "address": lambda candidate: candidate.address,
    "door": lambda candidate: candidate.door,
}

_Condition = tuple[Callable[[Candidate], bool], Callable[[Iterable[Candidate]], str]]


def _condition(key: str, wanted: tuple[str, ...]) -> _Condition:
    def seen(candidate: Candidate) -> list[str]:
        if key == "time":
            return [_clock(candidate).strftime("%H:%M")]
        return [_ARRIVAL[key](candidate)] if key in _ARRIVAL else _values(candidate.attributes, key)

    def holds(candidate: Candidate) -> bool:
        if key == "time":
            return any(_within(_clock(candidate), text) for text in wanted)
        return any(_like(value, text) for value in seen(candidate) for text in wanted)

    def complaint(candidates: Iterable[Candidate]) -> str:
        values = sorted({value for candidate in candidates for value in seen(candidate)})
        if values and key.startswith("Patient"):  # a sentence like this may land in a log
            return f"{key} is none of the wanted values"
        shown = ", ".join(values[:5]) + (", ..." if len(values) > 5 else "")
        return f"{key} is {shown or 'absent'}, not {' or '.join(wanted)}"

    return holds, complaint


def _several(wanted: str | tuple[str, ...]) -> tuple[str, ...]:
    return (wanted,) if isinstance(wanted, str) else tuple(wanted)


def _like(value: str, pattern: str) -> bool:
    """DICOM wildcards are * and ? (PS3.4 C.2.2.2.4); the brackets that fnmatch knows too are plain text."""
    return fnmatchcase(value.casefold(), pattern.casefold().replace("[", "[[]"))


def _values(attributes: Mapping[str, Any], keyword: str) -> list[str]:
    """Values of one attribute as text; of a person's name the alphabetic group."""
    from pydicom.datadict import tag_for_keyword

    tag = tag_for_keyword(keyword)
    values = attributes.get(f"{tag:08X}", {}).get("Value", [])
    return [str(value.get("Alphabetic", "")) if isinstance(value, Mapping) else str(value) for value in values]


def _clock(candidate: Candidate) -> time:
    return datetime.fromtimestamp(candidate.arrived_at).time()


def _interval(text: str) -> tuple[time, time] | None:
    found = _TIME_OF_DAY.fullmatch(text)
    try:
        return (time(int(found[1]), int(found[2])), time(int(found[3]), int(found[4]))) if found else None
    except ValueError:
        return None


def _within(clock: time, text: str) -> bool:
    interval = _interval(text)
    if interval is None:
        return False
    begin, end = interval
    return begin <= clock < end if begin <= end else clock >= begin or clock < end
