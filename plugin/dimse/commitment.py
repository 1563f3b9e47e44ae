"""Storage commitment as a service (PS3.4 J, SCP): N-ACTION in, N-EVENT-REPORT out; reports on our own requests in.

A request is stored before it is answered. Its report goes out on the association that asked, while that is open, else
on one of ours to the destination with the peer's AE title, again and again until the peer takes it or it is given up.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from io import BytesIO

from pydicom import Dataset
from pynetdicom import build_context, build_role, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import N_EVENT_REPORT
from pynetdicom.dsutils import encode
from pynetdicom.events import Event, EventHandlerType
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import StorageCommitmentPushModel

from dicom_io.errors import TryAgain
from plugin.archive.index import Index
from plugin.archive.storage import NoSpace
from plugin.dimse import commitment_data as data
from plugin.dimse.client.association import Peer, associate, end
from plugin.dimse.client.commitment import take_report
from plugin.dimse.services import House
from plugin.dimse.status import answer
from plugin.jobs.commitments import SAME_ASSOCIATION_S, Owed, Requests, Transactions
from plugin.jobs.patience import Patience
from plugin.settings import BadSettings, Settings, Verb

log = logging.getLogger(__name__)

VERB: Verb = "commit"

# A peer that wants its report on another association releases this one as soon as its request is answered.
_GRACE_S = 0.3
_LOOK_EVERY_S = 0.002


def contexts() -> Sequence[PresentationContext]:
    """Storage Commitment Push Model in both roles: a peer that reports on a request of ours is its SCP."""
    context = build_context(StorageCommitmentPushModel)
    context.scu_role = context.scp_role = True
    return [context]


def handlers(house: House) -> Sequence[EventHandlerType]:
    requests, transactions = Requests(house.ingest.index), Transactions(house.ingest.index)
    return [
        (evt.EVT_N_ACTION, _requested, [requests, house.settings.node.aet]),
        (evt.EVT_N_EVENT_REPORT, take_report, [transactions.enter]),
    ]


def _requested(event: Event, requests: Requests, aet: str) -> tuple[int | Dataset, None]:
    """Answer an N-ACTION; 0x0000 only after the request is stored."""
    peer = event.assoc.requestor.ae_title.strip()
    if str(event.request.RequestedSOPInstanceUID) != data.SOP_INSTANCE:
        return answer(data.NO_SUCH_INSTANCE, f"the instance of this SOP class is {data.SOP_INSTANCE}"), None
    if event.action_type != data.REQUEST:
        return answer(data.NO_SUCH_ACTION, f"storage commitment has the action 1, not {event.action_type}"), None
    try:
        transaction_uid, asked_for = data.read_request(lambda: event.action_information)
        number = requests.accept(peer, transaction_uid, asked_for)
    except data.Malformed as error:
        log.warning("%s asked for storage commitment in a way that cannot be used: %s", peer, error)
        return answer(error.status, str(error)), None
    except NoSpace as error:
        log.error("no space: %s", error)
        return answer(data.RESOURCE_LIMITATION, str(error)), None
    if number is None:
        return answer(data.INVALID_VALUE, "Transaction UID stands for another request of yours"), None
    accepted = number
    _after_this_message(event.assoc, lambda: _Carrier(event.assoc, requests, aet).carry(accepted))
    return data.SUCCESS, None


class _Tasks(threading.Event):
    """Work for the thread that serves an association, done between two messages.

    pynetdicom has no hook after an answer. Its loop passes this event, which others clear to hold it, before it looks
    for the next message; nothing else is then on its way through the association.
    """

    def __init__(self) -> None:
        super().__init__()
        self.set()
        self._tasks: list[Callable[[], None]] = []

    def add(self, task: Callable[[], None]) -> None:
        self._tasks.append(task)

    def wait(self, timeout: float | None = None) -> bool:
        while self._tasks:
            self._tasks.pop(0)()
        return super().wait(timeout)


def _after_this_message(association: Association, task: Callable[[], None]) -> None:
    """Called in the thread that serves the association: do `task` there once the message in hand is answered."""
    if not isinstance(association._reactor_checkpoint, _Tasks):
        association._reactor_checkpoint = _Tasks()
    association._reactor_checkpoint.add(task)


class _Carrier:
    """Sends a report on the association that asked for it; what else the peer asks meanwhile is answered.

    Not by pynetdicom's `send_n_event_report`, which takes the next message of the peer, whatever it is, for the answer.
    """

    def __init__(self, association: Association, requests: Requests, aet: str) -> None:
        self._association = association
        self._requests = requests
        self._aet = aet

    def carry(self, number: int) -> None:
        """What does not succeed here is left to `Reporter`."""
        if self._next_answer(_GRACE_S) is None and not self._is_ending():
            wait_s = self._association.dimse_timeout or 30.0
            owed = self._requests.take(number, wait_s + SAME_ASSOCIATION_S)
            if owed is None:
                return
            self._send(owed)
            reply = self._next_answer(wait_s)
            if reply is not None and reply.Status == data.SUCCESS:
                self._requests.reported(number)

    def _send(self, owed: Owed) -> None:
        context = next(
            each for each in self._association.accepted_contexts if each.abstract_syntax == StorageCommitmentPushModel
        )
        syntax = context.transfer_syntax[0]
        message = N_EVENT_REPORT()
        message.MessageID = owed.id % 0xFFFF + 1
        message.AffectedSOPClassUID, message.AffectedSOPInstanceUID = data.SOP_CLASS, data.SOP_INSTANCE
        message.EventTypeID = owed.report.event
        encoded = encode(
            data.report(owed.report, self._aet), syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated
        )
        assert encoded is not None  # of our own making: UIDs and numbers
        message.EventInformation = BytesIO(encoded)
        self._association.dimse.send_msg(message, context.context_id)

    def _next_answer(self, wait_s: float) -> N_EVENT_REPORT | None:
        """The peer's answer to our message; None where the time is over or the association ends."""
        until = time.monotonic() + wait_s
        while not self._is_ending() and time.monotonic() < until:
            context_id, message = self._association.dimse.get_msg(block=False)
            if message is None:
                time.sleep(_LOOK_EVERY_S)
            elif isinstance(message, N_EVENT_REPORT) and message.is_valid_response:
                return message
            else:
                self._association._serve_request(message, context_id)
        return None

    def _is_ending(self) -> bool:
        """The peer released or aborted, which the association's own thread deals with when it is back."""
        association = self._association
        return (
            not association.is_established
            or not association.dul.is_alive()
            or association.dul.peek_next_pdu() is not None
        )


class Reporter:
    """Sends reports that are due on associations of ours; one thread for each peer, so that none waits for another."""

    def __init__(
        self,
        settings: Settings,
        index: Index,
        *,
        patience: Patience = Patience(),
        clock: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._peers = dict(_peers(settings))
        self._aet = settings.node.aet
        self._requests = Requests(index, clock)
        self._patience = patience
        self._chance = chance
        self._busy: dict[str, threading.Thread] = {}

    def run(self, stop: threading.Event, poll_s: float = 1.0) -> threading.Thread:
        """Start; it ends after `stop` is set, and sets it where it dies, so that its worker is started again."""
        self._requests.release_held()
        thread = threading.Thread(target=self._run, args=(stop, poll_s), name="report-commitment", daemon=True)
        thread.start()
        return thread

    def _run(self, stop: threading.Event, poll_s: float) -> None:
        try:
            while not stop.wait(poll_s):
                self._start_due(stop)
        finally:
            stop.set()

    def _start_due(self, stop: threading.Event) -> None:
        # Before it is asked what is due: a report that a thread has in hand is not read once more as it ends.
        self._busy = {peer: thread for peer, thread in self._busy.items() if thread.is_alive()}
        by_peer: dict[str, list[Owed]] = {}
        for owed in self._requests.due(but=tuple(self._busy)):
            by_peer.setdefault(owed.peer, []).append(owed)
        for peer, reports in by_peer.items():
            self._busy[peer] = threading.Thread(
                target=self._serve, args=(peer, reports, stop), name=f"report-{peer}", daemon=True
            )
            self._busy[peer].start()

    def _serve(self, peer: str, reports: Sequence[Owed], stop: threading.Event) -> None:
        finished = False
        try:
            self.report(peer, reports)
            finished = True
        finally:
            if not finished:
                stop.set()

    def report_due(self) -> None:
        """Send what is due, here and now."""
        for owed in self._requests.due():
            self.report(owed.peer, [owed])

    def report(self, aet: str, reports: Sequence[Owed]) -> None:
        """Send these reports to one peer, on one association."""
        peer = self._peers.get(aet)
        if peer is None:
            sentence = (
                f"{aet} asked for storage commitment, and no destination has this AE title, so that nobody knows where "
                "it listens for the report; add it to [destinations] with its host and port"
            )
            for owed in reports:
                self._requests.hold(owed, sentence)
            return
        try:
            role = build_role(StorageCommitmentPushModel, scp_role=True)
            association = associate(peer, [build_context(StorageCommitmentPushModel)], negotiation=[role])
        except (TryAgain, BadSettings) as error:
            self._all_later(reports, str(error))
            return
        try:
            if not association.is_established:
                self._all_later(reports, f"{peer} does not take the SOP class of storage commitment in our role")
                return
            for owed in reports:
                self._report_one(peer, association, owed)
        finally:
            end(association)

    def _report_one(self, peer: Peer, association: Association, owed: Owed) -> None:
        if not association.is_established:
            self._later(owed, f"{peer} ended the association before this report")
            return
        status, _ = association.send_n_event_report(
            data.report(owed.report, self._aet), owed.report.event, data.SOP_CLASS, data.SOP_INSTANCE
        )
        code = status.get("Status")
        if code == data.SUCCESS:
            self._requests.reported(owed.id)
        elif code is None:
            self._later(owed, f"{peer} did not answer the report")
        else:
            self._later(owed, f"{peer} answered the report with 0x{code:04X} ({status.get('ErrorComment') or ''})")

    def _all_later(self, reports: Iterable[Owed], sentence: str) -> None:
        for owed in reports:
            self._later(owed, sentence)

    def _later(self, owed: Owed, sentence: str) -> None:
        tried = owed.attempts + 1
        if tried >= self._patience.attempts:
            self._requests.later(owed, None, f"given up after {tried} attempts: {sentence}")
        else:
            self._requests.later(owed, self._patience.wait_s(tried, self._chance()), sentence)


def _peers(settings: Settings) -> Mapping[str, Peer]:
    """Whom we can call, by AE title."""
    return {
        str(each.aet): Peer.of(each, settings.node.aet)
        for each in settings.destinations.values()
        if each.kind == "dimse"
    }
