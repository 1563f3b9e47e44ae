"""C-ECHO as a service (PS3.7 9.1.5)."""

from __future__ import annotations

from collections.abc import Sequence

from pynetdicom import build_context, evt
from pynetdicom.events import Event, EventHandlerType
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import Verification

from plugin.dimse.services import House
from plugin.settings import Verb

VERB: Verb = "echo"


def contexts() -> Sequence[PresentationContext]:
    return [build_context(Verification)]


def handlers(house: House) -> Sequence[EventHandlerType]:
    return [(evt.EVT_C_ECHO, _handle)]


def _handle(event: Event) -> int:
    """A peer asks whether we are there: Success."""
    return 0x0000
