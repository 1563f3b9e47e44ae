"""How an object came to us: the facts that are in no header, and that routes may match on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Door = Literal["dimse", "stow", "pull", "own", "file", ""]


@dataclass(frozen=True)
class Arrival:
    """door: "dimse", "stow", "pull" (fetched by us), "own" (a result of ours), "file" (a person), "" (found on disk).

    calling_aet, called_aet: titles of the association, "" at other doors; of what we fetched by C-GET the peer's and
    ours. address: the peer's, without port.
    """

    door: Door
    calling_aet: str = ""
    called_aet: str = ""
    address: str = ""

    def as_json(self) -> dict[str, str]:
        # Of texts alone, so nothing has to be copied deeply.
        return dict(vars(self))
