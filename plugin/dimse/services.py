"""What a service of our node is given, and what it gives the node: one module per service.

Each service module has

    VERB            its name in `known_peers.verbs`
    contexts()      the presentation contexts that it takes; a peer without the verb is not offered them
    handlers(house) its handlers of pynetdicom events
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pynetdicom.events import EventHandlerType
from pynetdicom.presentation import PresentationContext

from plugin.archive.gate import Gate
from plugin.archive.ingest import Ingest
from plugin.settings import Settings, Verb


@dataclass(frozen=True)
class House:
    """What services work on. gate: what all exits of this process have in common."""

    settings: Settings
    ingest: Ingest
    gate: Gate


class Service(Protocol):
    """A service module."""

    VERB: Verb

    def contexts(self) -> Sequence[PresentationContext]: ...

    def handlers(self, house: House) -> Sequence[EventHandlerType]: ...
