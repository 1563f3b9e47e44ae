"""Whether a workitem meets the conditions of a search (PS3.18 8.3.4, PS3.4 C.2.2.2), in memory.

    ProcedureStepState=SCHEDULED                              a value, with * and ? in text
    ScheduledWorkitemCodeSequence.CodeValue=predict           an attribute of some item of a sequence
    ScheduledProcedureStepStartDateTime=20261120-20261121     a range, open at either end

Workitems are few beside instances, and half of them are derived from jobs, so they are matched one by one; the store
narrows them down by what it has columns for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any

from pydicom.datadict import dictionary_VR

from plugin.archive.levels import folded
from plugin.archive.query import BadQuery, tag_of

Condition = tuple[tuple[str, ...], str]
"""Path of 8-digit tags, and what the last of them must be."""

_DT = re.compile(r"(\d{4,14})(\.\d{1,6})?(?:([+-])(\d\d)(\d\d))?")


def condition(name: str, value: str) -> Condition:
    """A condition of its name, keywords or 8-digit tags joined by dots, and its text.

    Raises BadQuery also of a malformed range: a condition may be stored, and judged long after its author has gone.
    """
    tags = tuple(tag_of(part) for part in name.split("."))
    if _is_range(tags, value.strip()):
        _bounds(value.strip())
    return tags, value


def path(name: str) -> tuple[str, ...]:
    """Tags of an `includefield`. Raises BadQuery."""
    return condition(name, "")[0]


def meets(attributes: Mapping[str, Any], conditions: Sequence[Condition]) -> bool:
    """All conditions hold; an empty one always does."""
    return all(not wanted.strip() or _holds(attributes, tags, wanted.strip()) for tags, wanted in conditions)


def _holds(attributes: Mapping[str, Any], tags: tuple[str, ...], wanted: str) -> bool:
    vr = _vr(tags[-1])
    if _is_range(tags, wanted):
        low, high = _bounds(wanted)
        return any(_within(_comparable(str(value)), low, high) for value in _values(attributes, tags))
    if vr == "UI":
        return bool(set(re.split(r"[,\\]", wanted)) & {str(value) for value in _values(attributes, tags)})
    patterns = re.split(r"[,\\]", wanted) if vr in ("CS", "IS", "DS") else [wanted]
    return any(
        _like(text, pattern) for value in _values(attributes, tags) for text in _texts(value) for pattern in patterns
    )


def _is_range(tags: tuple[str, ...], wanted: str) -> bool:
    return _vr(tags[-1]) in ("DA", "TM", "DT") and "-" in _without_offset(wanted)


def _values(attributes: Mapping[str, Any], tags: tuple[str, ...]) -> Iterator[Any]:
    values = attributes.get(tags[0], {}).get("Value") or []
    if len(tags) == 1:
        yield from values
        return
    for item in values:
        if isinstance(item, dict):
            yield from _values(item, tags[1:])


def _texts(value: Any) -> Iterator[str]:
    """A value as it may be matched: of a name each group, and all together."""
    if isinstance(value, dict):
        groups = [str(value.get(group, "")) for group in ("Alphabetic", "Ideographic", "Phonetic")]
        yield from groups
        yield "=".join(groups).rstrip("=")
    elif value is not None:
        yield f"{value:g}" if isinstance(value, float) else str(value)


def _like(text: str, pattern: str) -> bool:
    """DICOM wildcards are * and ? (PS3.4 C.2.2.2.4); the brackets that fnmatch knows too are plain text."""
    return fnmatchcase(folded(text), folded(pattern).replace("[", "[[]"))


def _vr(tag: str) -> str:
    try:
        return dictionary_VR(int(tag, 16))
    except KeyError:
        return "UN"


def _without_offset(text: str) -> str:
    """A single date and time may end in an offset from UTC, whose sign is no range."""
    found = _DT.fullmatch(text)
    return found[1] if found else text


def _bounds(text: str) -> tuple[str, str]:
    """Low and high end of a range as they are compared; "" where it is open. An end's offset may have a minus, too."""
    for at in (found.start() for found in re.finditer("-", text)):
        low, high = text[:at], text[at + 1 :]
        if (low or high) and all(not bound or _DT.fullmatch(bound) for bound in (low, high)):
            return _comparable(low) if low else "", _comparable(high) if high else ""
    raise BadQuery(f"{text!r} is no range of dates or times; write FROM-TO as in PS3.5 6.2")


def _within(value: str, low: str, high: str) -> bool:
    # A given end includes everything that it begins: 20261121 and 20261121235959.
    return bool(value) and value >= low and (not high or value[: len(high)] <= high)


def _comparable(text: str) -> str:
    """A date, time or both without offset, in this machine's time, so that it sorts as text."""
    found = _DT.fullmatch(text.strip())
    if found is None:
        return text.strip()
    digits, fraction, sign, hours, minutes = found.groups()
    if sign is None or len(digits) < 10:
        return digits + (fraction or "")
    offset = timedelta(hours=int(hours), minutes=int(minutes)) * (1 if sign == "+" else -1)
    try:
        at = datetime.strptime(digits.ljust(14, "0"), "%Y%m%d%H%M%S") - offset
        here = at.replace(tzinfo=UTC).astimezone()
    except (ValueError, OverflowError):  # no date, or one that its offset takes out of the years that there are
        return digits
    return here.strftime("%Y%m%d%H%M%S")[: len(digits)] + (fraction or "")
