"""Documents of a line: whole on the disk or not there at all, the plan, which must not change, and a recipe changed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dicom_io.errors import Rejected

Changes = Mapping[str, Any]


def write(path: Path, document: Any) -> None:
    """The whole file or none of it."""
    beside = path.with_suffix(".partial")
    beside.write_text(json.dumps(document, indent=1) + "\n")
    beside.replace(path)


def keep_plan(path: Path, plan: Mapping[str, Any]) -> None:
    """Write the plan, or find it as it was.

    Raises:
        Rejected: it was another; the sentence names the first difference.
    """
    if not path.exists():
        write(path, plan)
        return
    before, now = (dict(_leaves(each)) for each in (json.loads(path.read_text()), json.loads(json.dumps(plan))))
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            raise Rejected(
                f"{path.parent} holds a run of another plan: {key} is {before.get(key)} there and {now.get(key)} now; "
                "give another --out, or ask for what it was begun with"
            )


def _leaves(document: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(document, dict):
        yield at, document
        return
    for key, value in document.items():
        yield from _leaves(value, f"{at}.{key}" if at else key)


def changed(document: Changes, change: Changes) -> dict[str, Any]:
    """The document with the keys of `change`, at every depth."""
    return {**document} | {
        key: changed(document.get(key) or {}, value) if isinstance(value, Mapping) else value
        for key, value in change.items()
    }
