"""Our node on the DICOM network: one listener, and who may speak to it."""

from __future__ import annotations

import errno
import logging
import socket

from pynetdicom import evt
from pynetdicom.events import Event
from pynetdicom.sop_class import Verification
from pynetdicom.transport import ThreadedAssociationServer

from plugin.archive.ingest import Ingest
from plugin.dimse import echo, peers, reception, store
from plugin.settings import BadSettings, HostPort, Node

LOGGER = logging.getLogger(__name__)

# Larger than the customary 16 kB: fewer rounds of the interpreter for each object.
_PDU_BYTES = 1 << 17
_MAXIMUM_ASSOCIATIONS = 64
_IDLE_TIMEOUT_S = 120.0


class Listener:
    """A running listener. address: where it listens, with the port that port 0 turned into."""

    def __init__(self, server: ThreadedAssociationServer) -> None:
        self._server = server
        host, port = server.server_address[:2]
        self.address = HostPort(str(host), int(port))

    def stop(self) -> None:
        """Take no more associations and end the open ones; what was acknowledged is stored."""
        self._server.shutdown()


def start(node: Node, ingest: Ingest) -> Listener:
    """Listen for associations in threads of this process.

    All storage SOP classes, private ones too, are accepted in the first transfer syntax that the peer proposes, and
    the data sets kept in it.

    Raises:
        BadSettings: the address is in use or not ours.
    """
    reception.install()
    ae = reception.ReceivingAE(node.aet, ingest.storage)
    ae.maximum_pdu_size = _PDU_BYTES
    ae.maximum_associations = _MAXIMUM_ASSOCIATIONS
    ae.network_timeout = _IDLE_TIMEOUT_S
    ae.add_supported_context(Verification)
    address = node.dimse_address
    try:
        server = ae.start_server(
            (address.host, address.port),
            block=False,
            evt_handlers=[
                (evt.EVT_CONN_OPEN, _no_delay),
                (evt.EVT_CONN_CLOSE, store.discard_unfinished),
                (evt.EVT_REQUESTED, _admit, [node]),
                (evt.EVT_C_ECHO, echo.handle),
                (evt.EVT_C_STORE, store.handle, [ingest]),
            ],
        )
    except OSError as error:
        raise cannot_listen("node.dimse", "--dimse", address, error) from error
    return Listener(server)


def cannot_listen(key: str, option: str, address: HostPort, error: OSError) -> BadSettings:
    """The sentence for an address that cannot be bound."""
    if error.errno == errno.EADDRINUSE:
        why = "another program listens there; end it, or choose another port"
    else:
        why = f"{error.strerror or error}; choose another address"
    return BadSettings(f"{key} is {address}, which cannot be used: {why} with {option} HOST:PORT")


def _no_delay(event: Event) -> None:
    # pynetdicom sends an answer in two pieces; without this each one waits 40 ms for the peer's acknowledgement.
    event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _admit(event: Event, node: Node) -> None:
    """Reject an association by its AE titles and address before any message is read."""
    association = event.assoc
    request = association.requestor.primitive
    calling, called = request.calling_ae_title.strip(), request.called_ae_title.strip()
    reason = peers.refusal(node, calling, called, association.requestor.address)
    if reason is None:
        return
    LOGGER.warning(
        "refused an association from %r at %s to %r: %s",
        calling,
        association.requestor.address,
        called,
        "we have another AE title (node.aet)" if reason[2] == 7 else "it is not among node.known_peers",
    )
    association.acse.send_reject(*reason)
    association.kill()
