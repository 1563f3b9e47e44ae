"""How an object came to us: the facts that are in no header, and that routes may match on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast, get_args

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

    def note(self) -> str:
        """As a short text, for `of_note`."""
        return "\n".join(vars(self).values())

    @classmethod
    def of_note(cls, text: str) -> Arrival:
        """The arrival that a note tells of; one found on disk where it tells of none."""
        door, *rest = text.split("\n")
        if len(rest) != 3 or door not in get_args(Door):
            return cls("")
        return cls(cast(Door, door), *rest)

    def as_json(self) -> dict[str, str]:
        # Of texts alone, so nothing has to be copied deeply.
        return dict(vars(self))
