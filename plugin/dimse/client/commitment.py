"""Storage commitment as its user (PS3.4 J, SCU): ask a peer to commit itself, and take its report.

The report may come on the association that asked, or on a new one to our node, which may be another process: both
roads end in `take_report`, and the Transaction UID says what it is about.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from pydicom import Dataset
from pynetdicom import build_context, evt
from pynetdicom.events import Event
from pynetdicom.sop_class import StorageCommitmentPushModel

from dicom_io.errors import Rejected
from plugin.dimse import commitment_data as data
from plugin.dimse.client.association import TIMEOUT_S, Peer, PeerUnreachable, associate, end
from plugin.dimse.status import answer, is_temporary
from plugin.jobs.commitments import Reference, Report

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.05


class NotOffered(Rejected):
    """The peer does not take the SOP class of storage commitment, or refuses the request: asking again is no use."""


def ask(
    peer: Peer,
    transaction_uid: str,
    references: Sequence[Reference],
    enter: Callable[[Report, str], bool],
    is_open: Callable[[], bool],
    *,
    wait_s: float,
    timeout_s: float = TIMEOUT_S,
) -> None:
    """N-ACTION; returns when the peer took the request and its report has come, or `wait_s` have passed.

    enter: what to do with a report that comes on this association, and whether it was asked for. is_open: whether the
    report is still to come; it may arrive elsewhere.

    Raises:
        PeerUnreachable: no association, or no answer; the peer may or may not have the request.
        NotOffered: it takes no such request.
    """
    context = build_context(StorageCommitmentPushModel)
    association = associate(peer, [context], timeout_s, [(evt.EVT_N_EVENT_REPORT, take_report, [enter])])
    try:
        if not association.is_established:
            raise NotOffered(f"{peer} does not take the SOP class Storage Commitment Push Model")
        reply, _ = association.send_n_action(
            data.request(transaction_uid, references), data.REQUEST, data.SOP_CLASS, data.SOP_INSTANCE
        )
        status = reply.get("Status")
        if status is None:
            raise PeerUnreachable(f"{peer} did not answer the request for storage commitment; look at its log")
        if status != data.SUCCESS:
            said = f"0x{status:04X} ({reply.get('ErrorComment') or 'no comment given'})"
            kind = PeerUnreachable if is_temporary(status) else NotOffered
            raise kind(f"{peer} refused the request for storage commitment: {said}")
        until = time.monotonic() + wait_s
        while association.is_established and is_open() and time.monotonic() < until:
            time.sleep(_LOOK_EVERY_S)
    finally:
        end(association)


def take_report(event: Event, enter: Callable[[Report, str], bool]) -> tuple[int | Dataset, None]:
    """The handler of N-EVENT-REPORT, on whichever association it comes."""
    association = event.assoc
    sender = (association.acceptor if association.is_requestor else association.requestor).ae_title.strip()
    if str(event.request.AffectedSOPInstanceUID) != data.SOP_INSTANCE:
        return answer(data.NO_SUCH_INSTANCE, f"the instance of this SOP class is {data.SOP_INSTANCE}"), None
    try:
        report = data.read_report(event.event_type, lambda: event.event_information)
    except data.Malformed as error:
        log.warning("%s sent a report on storage commitment that cannot be used: %s", sender, error)
        return answer(error.status, str(error)), None
    if not enter(report, sender):
        return answer(data.INVALID_VALUE, "we did not ask under this Transaction UID"), None
    return data.SUCCESS, None
