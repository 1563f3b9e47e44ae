"""C-MOVE as a service (PS3.4 C.4.2): objects go to a third party, or to the one who asks, on an association of ours.

The Move Destination (0000,0600) is the AE title of one of [destinations.NAME] of kind "dimse": where it listens must be
known, and a known peer has no port.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Sequence
from pathlib import Path

from pynetdicom import build_context, evt
from pynetdicom.events import Event, EventHandlerType
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import (
    PatientRootQueryRetrieveInformationModelMove,
    StudyRootQueryRetrieveInformationModelMove,
)

from dicom_io.errors import TryAgain
from plugin.archive import gate
from plugin.archive.gate import Leaving
from plugin.dimse import retrieval
from plugin.dimse.client.association import Peer, associate, end
from plugin.dimse.client.store import Carrier, Originator, Sent, batches
from plugin.dimse.retrieval import Answering, Tally, Wanted
from plugin.dimse.services import House
from plugin.settings import BadSettings, Destination, Settings, Verb

log = logging.getLogger(__name__)

VERB: Verb = "move"

_PATIENT_ROOT = PatientRootQueryRetrieveInformationModelMove
_TIMEOUT_S = 60.0  # for the destination: a PACS may write to slow disks before it answers
# A peer that waits for responses counts those seconds, too, and one object can take longer.
_PENDING_EVERY_S = 5.0


def contexts() -> Sequence[PresentationContext]:
    return [build_context(_PATIENT_ROOT), build_context(StudyRootQueryRetrieveInformationModelMove)]


def handlers(house: House) -> Sequence[EventHandlerType]:
    retrieval.install()
    return [(evt.EVT_C_MOVE, _handle, [house])]


def destination(settings: Settings, aet: str) -> tuple[str, Destination] | None:
    """Name and section of the destination with this AE title, the first where several have it."""
    for name, section in settings.destinations.items():
        if section.kind == "dimse" and str(section.aet).strip() == aet:
            return name, section
    return None


def _handle(event: Event, house: House) -> None:
    """Answer one C-MOVE request."""
    answering, objects = retrieval.begin(event, house.ingest.index, _PATIENT_ROOT)
    if objects is None:
        return
    aet = (event.move_destination or "").strip()
    found = destination(house.settings, aet)
    if found is None:
        log.warning("a C-MOVE to %r was refused: no destination of kind dimse in mirall.toml has that AE title", aet)
        answering.refused(retrieval.UNKNOWN_DESTINATION, f"{aet} is no AE title of a [destinations.NAME]")
        return
    originator = (event.assoc.requestor.ae_title.strip(), int(event.request.MessageID))
    _Move(house, *found, originator, objects).answer(answering)


class _Move:
    """One request on its way. The objects go in a thread of their own, so that responses and C-CANCEL need not wait."""

    def __init__(
        self, house: House, name: str, section: Destination, originator: Originator, objects: Sequence[Wanted]
    ) -> None:
        self._house, self._name, self._section = house, name, section
        self._originator, self._objects = originator, objects
        self._peer = Peer.of(section, house.settings.node.aet)
        self._results: queue.SimpleQueue[Sent | str] = queue.SimpleQueue()
        self._stop = threading.Event()

    def answer(self, answering: Answering) -> None:
        tally = Tally(len(self._objects))
        sender = threading.Thread(target=self._work, name="move", daemon=True)
        sender.start()
        comment = self._follow(answering, tally)
        self._stop.set()
        sender.join()
        self._catch_up(tally)
        if not answering.is_open:
            log.warning("%s left a C-MOVE with %d objects still to go", self._originator[0], tally.remaining)
        elif comment is None:
            answering.cancelled(tally)
        else:
            answering.done(tally, comment)

    def _catch_up(self, tally: Tally) -> None:
        """Count what was under way when the peer had enough."""
        while not self._results.empty():
            result = self._results.get()
            if isinstance(result, Sent):
                tally.note(result)

    def _follow(self, answering: Answering, tally: Tally) -> str | None:
        """Count what was sent, and say so; gives the last word of the sender, or None where the peer wants no more."""
        while answering.is_open and not answering.is_cancelled:
            try:
                result = self._results.get(timeout=_PENDING_EVERY_S)
            except queue.Empty:
                answering.pending(tally)
                continue
            if isinstance(result, str):
                return result
            tally.note(result)
            if tally.remaining:
                answering.pending(tally)
        return None

    def _work(self) -> None:
        """Send everything; the last result is a comment for the final response, "" where there is none."""
        comment = ""
        try:
            for kinds, proposed in batches(
                (each.kind for each in self._objects), self._section.profile.transfer_syntaxes
            ):
                comment = self._send([each for each in self._objects if each.kind in kinds], proposed) or comment
        finally:
            self._results.put(comment)

    def _send(self, objects: Sequence[Wanted], proposed: Sequence[PresentationContext]) -> str:
        """Send some of the objects over one association; why there is none, "" where there was one."""
        try:
            association = associate(self._peer, proposed, _TIMEOUT_S)
        except (TryAgain, BadSettings) as error:
            for each in objects:
                self._results.put(Sent(Path(), each.sop_instance_uid, None, str(error), can_retry=True))
            return str(error)
        try:
            self._carry(Carrier(str(self._peer), association, self._section.profile.transfer_syntaxes), objects)
        finally:
            end(association)
        return ""

    def _carry(self, carrier: Carrier, objects: Sequence[Wanted]) -> None:
        with carrier.at_work():
            for sent in retrieval.carry(carrier, self._may_leave, objects, self._originator):
                self._results.put(sent)
                if self._stop.is_set():
                    return

    def _may_leave(self, row: Leaving, path: Path) -> None:
        gate.check_proven(row, self._name, self._section.allow_unproven)
        self._house.gate.check_file_of(row, path)
