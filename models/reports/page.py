"""A report as one HTML file that needs nothing else: no scripts, no fonts, no pictures from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import groupby
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, Template

from models.reports.parts import Part


def page(title: str, parts: Sequence[Part]) -> str:
    """Plots that follow each other stand side by side. Words are escaped; plots escape their own."""
    blocks = [(kind, [*found]) for kind, found in groupby(parts, key=lambda part: type(part).__name__)]
    return _template().render(title=title, blocks=blocks)


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html")
