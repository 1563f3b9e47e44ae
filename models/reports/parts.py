"""The parts of a report, whatever it is told in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Heading:
    words: str


@dataclass(frozen=True)
class Text:
    """A paragraph. label: stands before it, in bold."""

    words: str
    label: str = ""


@dataclass(frozen=True)
class Table:
    """rows: as many cells as `head` has; the first names the row."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Plot:
    """title, says: what it shows, for those who do not see it, too. svg: of `models.reports.svg`."""

    title: str
    says: str
    svg: str


Part = Heading | Text | Table | Plot


def interval_text(value: Mapping[str, float | None]) -> str:
    """Of an interval as evaluations hold it."""
    if value["value"] is None:
        return "undefined"
    if value["low"] is None:
        return f"{value['value']:.3f}"
    return f"{value['value']:.3f} ({value['low']:.3f} to {value['high']:.3f})"


def markdown(parts: Iterable[Part]) -> list[str]:
    """Lines, with an empty one between parts; plots are left out."""
    lines: list[str] = []
    for part in parts:
        told = _lines(part)
        lines += ["", *told] if lines and told else told
    return lines


def _lines(part: Part) -> Sequence[str]:
    if isinstance(part, Heading):
        return [f"### {plain(part.words)}"]
    if isinstance(part, Text):
        label = f"**{plain(part.label)}**: " if part.label else ""
        return [label + plain(part.words)]
    if isinstance(part, Table):
        return [_row(part.head), "| --- " * len(part.head) + "|", *map(_row, part.rows)]
    return []


def _row(cells: Iterable[str]) -> str:
    return "".join(f"| {plain(cell)} " if cell else "| " for cell in cells) + "|"


def plain(words: str) -> str:
    """Names of classes and models are what people typed: no cell ends in them, and no viewer takes them for HTML."""
    return words.replace("<", "&lt;").replace("|", r"\|")
