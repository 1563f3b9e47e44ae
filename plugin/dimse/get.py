"""C-GET as a service (PS3.4 C.4.3): objects go to the peer on the association on which it asks."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from pynetdicom import build_context, evt
from pynetdicom.events import Event, EventHandlerType
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import (
    PatientRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelGet,
)

from dicom_io import encoding
from plugin.dimse import retrieval
from plugin.dimse.client.store import Carrier
from plugin.dimse.retrieval import Tally
from plugin.dimse.services import House
from plugin.settings import Verb

log = logging.getLogger(__name__)

VERB: Verb = "get"

_PATIENT_ROOT = PatientRootQueryRetrieveInformationModelGet


def contexts() -> Sequence[PresentationContext]:
    """Both models. The storage classes are the peer's to propose, with itself as their provider (PS3.7 D.3.3.4)."""
    return [build_context(_PATIENT_ROOT), build_context(StudyRootQueryRetrieveInformationModelGet)]


def handlers(house: House) -> Sequence[EventHandlerType]:
    retrieval.install()
    return [(evt.EVT_REQUESTED, _prefer_what_we_write), (evt.EVT_C_GET, _handle, [house])]


def _prefer_what_we_write(event: Event) -> None:
    """Where the peer wants to receive, move what we could transcode into to the front of each proposed context.

    The first transfer syntax is the one that is accepted, and an object stored in another one must fit it.
    """
    requestor = event.assoc.requestor
    for context in requestor.primitive.presentation_context_definition_list:
        role = requestor.role_selection.get(context.abstract_syntax)
        if role is not None and role.scp_role:
            context.transfer_syntax = sorted(context.transfer_syntax, key=lambda uid: uid not in encoding.TARGETS)


def _handle(event: Event, house: House) -> None:
    """Answer one C-GET request: a C-STORE for each object, and a pending response after it."""
    answering, objects = retrieval.begin(event, house.ingest.index, _PATIENT_ROOT)
    if objects is None:
        return
    association = event.assoc
    carrier = Carrier(association.requestor.ae_title.strip(), association)
    tally = Tally(len(objects))
    with carrier.at_work():
        for sent in retrieval.carry(carrier, house.gate.check_file_of, objects):
            tally.note(sent)
            if carrier.is_given_up or not answering.is_open:
                log.warning("%s left a C-GET with %d objects still to come", carrier.peer, tally.remaining)
                return
            if answering.is_cancelled:
                answering.cancelled(tally)
                return
            if tally.remaining:
                answering.pending(tally)
        answering.done(tally)
