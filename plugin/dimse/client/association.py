"""Associations that we open: whom we call, and what we propose."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass

from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.events import Event, EventHandlerType
from pynetdicom.presentation import PresentationContext

from dicom_io.errors import TryAgain

TIMEOUT_S = 30.0


class PeerUnreachable(TryAgain):
    """No association: nobody listens there, or it was refused or broken off."""


@dataclass(frozen=True)
class Peer:
    """Whom we call. calling_aet: the AE title that we give ourselves."""

    aet: str
    host: str
    port: int
    calling_aet: str = "MIRALL"

    def __str__(self) -> str:
        return f"{self.aet}@{self.host}:{self.port}"


def associate(
    peer: Peer,
    contexts: Sequence[PresentationContext],
    timeout_s: float = TIMEOUT_S,
    handlers: Sequence[EventHandlerType] = (),
) -> Association:
    """An association; not established, but with `rejected_contexts`, where the peer takes none of the contexts.

    timeout_s: for the connection, the association and each answer. handlers: of what the peer asks of us on it.

    Raises:
        PeerUnreachable: nobody answers there, or the peer rejected us.
    """
    ae = AE(peer.calling_aet)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = timeout_s
    association = ae.associate(
        peer.host,
        peer.port,
        contexts=list(contexts),
        ae_title=peer.aet,
        evt_handlers=[(evt.EVT_CONN_OPEN, _no_delay), *handlers],
    )
    if association.is_established or association.rejected_contexts:
        return association
    if association.is_rejected:
        answer = association.acceptor.primitive
        raise PeerUnreachable(
            f"{peer} rejected the association of {peer.calling_aet} ({answer.reason_str}); "
            "have it know our AE title and address"
        )
    raise PeerUnreachable(f"{peer} does not answer; is it running, and are host and port right?")


def end(association: Association) -> None:
    """Release it where it is still there."""
    if association.is_established:
        association.release()


def _no_delay(event: Event) -> None:
    # A request goes out in two pieces; without this each waits 40 ms for the peer's acknowledgement.
    event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
