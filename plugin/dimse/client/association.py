"""Associations that we open: whom we call, and what we propose."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.events import Event, EventHandlerType
from pynetdicom.pdu_primitives import UserIdentityNegotiation
from pynetdicom.presentation import PresentationContext

from dicom_io.errors import TryAgain
from plugin.dimse import chatter, silence
from plugin.security import tls
from plugin.settings import BadSettings, Destination

TIMEOUT_S = 30.0
PDU_BYTES = 1 << 17  # what we take; larger than the customary 16 kB: fewer rounds of the interpreter for each object


class PeerUnreachable(TryAgain):
    """No association: nobody listens there, or it was refused or broken off."""


class PeerRejected(PeerUnreachable):
    """The peer rejected the association for good (result 1, PS3.8 9.3.4): it must first be told who we are."""


@dataclass(frozen=True)
class Peer:
    """Whom we call. calling_aet: the AE title that we give ourselves. tls: how we encrypt; None in the clear.

    username, passcode: who we say that we are (PS3.7 D.3.3.7); both or neither.
    """

    aet: str
    host: str
    port: int
    calling_aet: str = "MIRALL"
    tls: tls.Client | None = None
    username: str | None = None
    passcode: str | None = field(default=None, repr=False)

    @classmethod
    def of(cls, destination: Destination, calling_aet: str) -> Peer:
        """The peer that a section [destinations.NAME] of kind "dimse" describes."""
        return cls(
            aet=str(destination.aet),
            host=str(destination.host),
            port=int(destination.port or 0),
            calling_aet=calling_aet,
            tls=tls.Client.of(destination) if destination.tls else None,
            username=destination.username,
            passcode=destination.passcode,
        )

    def __str__(self) -> str:
        return f"{self.aet}@{self.host}:{self.port}"


def associate(
    peer: Peer,
    contexts: Sequence[PresentationContext],
    timeout_s: float = TIMEOUT_S,
    handlers: Sequence[EventHandlerType] = (),
    *,
    entity: AE | None = None,
    negotiation: Sequence[Any] = (),
) -> Association:
    """An association; not established, but with `rejected_contexts`, where the peer takes none of the contexts.

    timeout_s: for each answer, and for silence inside of one; at most TIMEOUT_S of it for the connection and the
    association. handlers: of what the peer asks of us on it. entity: who calls, where it must be able to receive
    (`reception.ReceivingAE`). negotiation: items of the user information (PS3.7 D.3.3) to propose, such as roles.

    Raises:
        PeerUnreachable: nobody answers there, TLS with it fails (a file of the destination's `ca`, `certificate` or
            `key` that cannot be used is one way), or the peer rejected us.
    """
    association, context = _attempt(peer, contexts, timeout_s, handlers, entity, negotiation)
    if association.is_established or association.rejected_contexts:
        return association
    if association.is_rejected:
        answer = association.acceptor.primitive
        # Result 1 is permanent, 2 is transient (PS3.8 9.3.4).
        kind = PeerRejected if answer.result == 1 else PeerUnreachable
        raise kind(
            f"{peer} rejected the association of {peer.calling_aet} ({answer.reason_str}); "
            "have it know our AE title and address"
        )
    if context is not None and context.failure is not None:
        raise PeerUnreachable(f"TLS with {peer} failed: {tls.why(context.failure)}; look at both ends' certificates")
    raise PeerUnreachable(f"{peer} does not answer; is it running, and are host and port right?")


def _attempt(
    peer: Peer,
    contexts: Sequence[PresentationContext],
    timeout_s: float,
    handlers: Sequence[EventHandlerType] = (),
    entity: AE | None = None,
    negotiation: Sequence[Any] = (),
) -> tuple[Association, tls.DimseContext | None]:
    chatter.quiet()
    context = _context(peer)
    ae = entity or AE(peer.calling_aet)
    # Whoever waits long for objects need not wait so long for a host that is not there.
    ae.acse_timeout = ae.connection_timeout = min(timeout_s, TIMEOUT_S)
    ae.dimse_timeout = ae.network_timeout = timeout_s
    association = ae.associate(
        peer.host,
        peer.port,
        contexts=list(contexts),
        ae_title=peer.aet,
        max_pdu=PDU_BYTES,
        evt_handlers=[(evt.EVT_CONN_OPEN, _connected, [timeout_s]), *handlers],
        tls_args=None if context is None else (context, peer.host),
        ext_neg=[*_identity(peer), *negotiation],
    )
    return association, context


def _context(peer: Peer) -> tls.DimseContext | None:
    """Its files are read for each association: what a person puts right holds from then on."""
    try:
        return None if peer.tls is None else tls.dimse_context(peer.tls, peer.host)
    except BadSettings as error:
        raise PeerUnreachable(f"{peer} is not called: {error}") from error


def _identity(peer: Peer) -> list[UserIdentityNegotiation]:
    """User name and passcode as a negotiation item (PS3.7 D.3.3.7, type 2); no answer is asked for."""
    if peer.username is None or peer.passcode is None:
        return []
    item = UserIdentityNegotiation()
    item.user_identity_type = 2
    item.primary_field, item.secondary_field = peer.username.encode(), peer.passcode.encode()
    return [item]


def end(association: Association) -> None:
    """Release it where it is still there."""
    if association.is_established:
        association.release()


def _connected(event: Event, timeout_s: float) -> None:
    connection = event.assoc.dul.socket.socket
    # A request goes out in two pieces; without this each waits 40 ms for the peer's acknowledgement.
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    silence.limit(connection, timeout_s)
