"""What a version keeps of the bundle that it was made from: who made that, how it is pinned, and how it is run."""

from __future__ import annotations

from typing import Any

from pydantic import field_validator

from models.foreign import chain
from models.foreign.decision import Decision
from models.recipe_parts import Settings


class Origin(Settings):
    """As the bundle's metadata say it, "" where they do not. bundle_hash: SHA-256 (hex) over all its files; weights:
    the file that was taken; claims: figures that its makers give, which nobody here has measured."""

    name: str
    version: str
    task: str
    description: str
    authors: str
    copyright: str
    license: str
    data_source: str
    intended_use: str
    claims: dict[str, float | str]
    weights: str
    bundle_hash: str


class Foreign(Settings):
    """How a foreign model is run. chain: the input steps, as in `models.foreign.chain`. files_first: whether the bundle
    reads files, so that its axes are (column, row, slice)."""

    origin: Origin
    chain: tuple[dict[str, Any], ...]
    files_first: bool
    decision: Decision

    @field_validator("chain")
    @classmethod
    def _on_the_list(cls, steps: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        chain.check(steps)
        return steps
