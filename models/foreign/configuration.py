"""The configuration of a foreign bundle: references, macros and harmless expressions, resolved when asked for.

    "@window::size", "@window#size"     the value of another key; digits count the elements of a list
    "%configs/other.json::size"         the text of a key in another file of the bundle, put in its place; "%size": here
    "$..."                              `models.foreign.expressions`
    {"_disabled_": true, ...}           left out of its list

Keys that nobody asks for are not resolved: data loaders, handlers and savers may hold what they like.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from dicom_io.errors import Rejected
from models.foreign import expressions
from models.foreign.folder import Folder

_WHOLE_REFERENCE = re.compile(r"@(\w+(?:(?:::|#)\w+)*)")
_MACRO = re.compile(r"%(?:([\w./\\ -]+\.(?:json|yaml|yml))(?:(?:::|#)|$))?(\w+(?:(?:::|#)\w+)*)?")
# Values in all; a document of a few kilobytes cannot become one that fills the memory.
_MOST_VALUES = 200_000
# A map that holds a reference to itself has no end.
_DEEPEST = 30
_ABSENT = object()


class Configuration:
    """A document of a bundle, beside its metadata, to which "@_meta_" refers."""

    def __init__(self, folder: Folder, document: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
        self._folder = folder
        self._raw: dict[str, Any] = {**document, "_meta_": metadata}
        self._known: dict[str, Any] = {}
        self._open: list[str] = []
        self._values = 0

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(key for key in self._raw if key != "_meta_")

    @property
    def asked(self) -> frozenset[str]:
        """Those keys of the document that a value was asked of, or that one refers to."""
        return frozenset(identity.split("::")[0] for identity in self._known)

    def get(self, identity: str) -> Any:
        """The value of a key: maps are `Section`, whose keys are resolved when they are asked for; None where absent.

        Raises:
            Rejected: it names a key that is not there, or in a circle, or an expression that is not on the list.
        """
        return self._of(identity, identity) if identity.split("::")[0] in self._raw else None

    def _of(self, identity: str, where: str) -> Any:
        """Of a reference in the text of `where`."""
        parts = tuple(re.split("::|#", identity))
        identity = "::".join(parts)
        if identity in self._known:
            return self._known[identity]
        if identity in self._open:
            raise Rejected(f"{where}: {' -> '.join([*self._open, identity])} is a circle of references")
        self._open.append(identity)
        found: Any = Section(self, "", self._raw)
        for number, part in enumerate(parts):
            found = _inside(found, part)
            if found is _ABSENT:
                raise Rejected(f"{where}: '@{identity}': the bundle has no key '{'::'.join(parts[: number + 1])}'")
        self._open.pop()
        self._known[identity] = found
        return found

    def value(self, raw: Any, where: str, *, pasted: bool = False) -> Any:
        """What a raw value stands for. pasted: it came by a macro, and holds no other."""
        self._values += 1
        if self._values > _MOST_VALUES:
            raise Rejected(f"{where}: the configuration has more than {_MOST_VALUES} values")
        if isinstance(raw, Section):
            return raw
        if isinstance(raw, Mapping):
            return Section(self, where, raw, pasted)
        if isinstance(raw, list):
            each = (self.value(element, f"{where}[{number}]", pasted=pasted) for number, element in enumerate(raw))
            return [value for value in each if not (isinstance(value, Section) and value.disabled)]
        if isinstance(raw, str):
            return self._text(raw, where, pasted)
        if isinstance(raw, int | float | None):
            return raw
        raise Rejected(f"{where}: {raw!r} is no plain value")

    def _text(self, raw: str, where: str, pasted: bool) -> Any:
        if raw.startswith("$"):
            return expressions.evaluate(raw[1:], lambda identity: self._of(identity, where), where)
        if raw.startswith("%"):
            if pasted:
                raise Rejected(f"{where}: {raw!r} is a macro in what a macro put there; write its value")
            return self._pasted(raw, where)
        if raw.startswith("@"):
            found = _WHOLE_REFERENCE.fullmatch(raw)
            if not found:
                raise Rejected(f"{where}: {raw!r} is no reference that is read here; write it as @key::key")
            return self._of(found[1], where)
        return raw

    def _pasted(self, raw: str, where: str) -> Any:
        found = _MACRO.fullmatch(raw)
        if not found or not (found[1] or found[2]):
            raise Rejected(f"{where}: {raw!r} is no macro that is read here; write it as %configs/file.json::key")
        try:
            text: Any = self._folder.document(found[1]) if found[1] else self._raw
        except Rejected as error:
            raise Rejected(f"{where}: {error}") from error
        for part in re.split("::|#", found[2]) if found[2] else ():
            text = _raw_inside(text, part)
            if text is _ABSENT:
                raise Rejected(f"{where}: {raw!r}: there is no key {part!r}")
        return self.value(text, where, pasted=True)


class Section(Mapping[str, Any]):
    """A map of the configuration. `where`: the name of its key, for sentences."""

    def __init__(self, configuration: Configuration, where: str, raw: Mapping[str, Any], pasted: bool = False) -> None:
        self._configuration = configuration
        self._raw = raw
        self._pasted = pasted
        self.where = where

    def __getitem__(self, key: str) -> Any:
        raw = self._raw[key]
        return self._configuration.value(raw, f"{self.where}.{key}" if self.where else key, pasted=self._pasted)

    def __contains__(self, key: object) -> bool:
        return key in self._raw  # Mapping's own would ask for the value.

    def __iter__(self) -> Iterator[str]:
        return iter(self._raw)

    def __len__(self) -> int:
        return len(self._raw)

    def raw(self, key: str) -> Any:
        """As it stands in the file."""
        return self._raw[key]

    @property
    def disabled(self) -> bool:
        said = self["_disabled_"] if "_disabled_" in self._raw else False
        return said.lower() == "true" if isinstance(said, str) else bool(said)


def plain(value: Any, where: str) -> Any:
    """Everything in a value, resolved: maps, lists and plain values alone.

    Raises:
        Rejected: a part cannot be resolved, or is no plain value, or they are too many: lists of lists that refer to
            one another double with every line.
    """
    left = _MOST_VALUES

    def copied(value: Any, where: str, depth: int = 0) -> Any:
        nonlocal left
        left -= 1
        if left < 0 or depth > _DEEPEST:
            much = f"more than {_MOST_VALUES} values" if left < 0 else f"values that lie more than {_DEEPEST} deep"
            raise Rejected(f"{where[:120]}: the configuration has {much}")
        if isinstance(value, Mapping):
            return {str(key): copied(element, f"{where}.{key}", depth + 1) for key, element in value.items()}
        if isinstance(value, list | tuple | range):
            return [copied(element, f"{where}[{number}]", depth + 1) for number, element in enumerate(value)]
        if isinstance(value, str | int | float | None):
            return value
        raise Rejected(f"{where}: {value!r} is no plain value")

    return copied(value, where)


def _inside(of: Any, part: str) -> Any:
    if isinstance(of, Mapping):
        # Not `get`, which would hide a key error of what the value refers to.
        return of[part] if part in of else _ABSENT  # noqa: SIM401
    if isinstance(of, list | tuple) and part.isdecimal() and int(part) < len(of):
        return of[int(part)]
    return _ABSENT


def _raw_inside(of: Any, part: str) -> Any:
    if isinstance(of, Mapping):
        return of.get(part, _ABSENT)
    return _inside(of, part)
