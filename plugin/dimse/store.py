"""C-STORE as a service (PS3.4 B): received file -> ingest -> status."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from pydicom import Dataset
from pynetdicom import evt
from pynetdicom.events import Event, EventHandlerType
from pynetdicom.presentation import PresentationContext

from plugin.archive.arrival import Arrival
from plugin.archive.ingest import OUT_OF_RESOURCES, Announced, Ingest
from plugin.archive.storage import NoSpace
from plugin.dimse import peers
from plugin.dimse.reception import StoreRequest
from plugin.dimse.services import House
from plugin.dimse.status import answer
from plugin.settings import Verb

LOGGER = logging.getLogger(__name__)

VERB: Verb = "store"
NOT_AUTHORISED = 0x0124  # PS3.7 C.5.23


def contexts() -> Sequence[PresentationContext]:
    """None by name: `reception.install` has pynetdicom take every storage SOP class, private ones too."""
    return []


def handlers(house: House) -> Sequence[EventHandlerType]:
    return [(evt.EVT_C_STORE, _handle, [house.ingest])]


def _handle(event: Event, ingest: Ingest) -> int | Dataset:
    if not peers.may(event.assoc, VERB):
        # Its contexts were rejected, or accepted for C-GET, where it is the one that receives.
        return answer(NOT_AUTHORISED, "not among this peer's node.known_peers.verbs: store")
    requestor = event.assoc.requestor
    arrival = Arrival(
        "dimse",
        calling_aet=requestor.ae_title.strip(),
        called_aet=requestor.primitive.called_ae_title.strip(),
        address=requestor.address,
    )
    return take(event, ingest, arrival)


def take(event: Event, ingest: Ingest, arrival: Arrival) -> int | Dataset:
    """Answer one C-STORE request of a ReceivingAE; 0x0000 only after the object is on disk and indexed.

    Where it is refused, Error Comment (0000,0902) begins with the reason; the whole sentence stands in the quarantine.
    """
    request = event.request
    assert isinstance(request, StoreRequest)
    announced = Announced(request.AffectedSOPClassUID, request.AffectedSOPInstanceUID)
    try:
        received = request.reception.finish()
        outcome = ingest.accept(received, arrival, announced=announced, dataset_hash=request.dataset_hash)
    except NoSpace as error:
        LOGGER.error("no space: %s", error)
        return answer(OUT_OF_RESOURCES, str(error))
    return outcome.status if outcome.accepted else answer(outcome.status, outcome.reason)
