"""Our node on the DICOM network: one listener, its services, and who may speak to it."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence

from pynetdicom import evt
from pynetdicom.events import Event, EventHandlerType
from pynetdicom.transport import ThreadedAssociationServer

from plugin.archive.gate import Gate
from plugin.archive.ingest import Ingest
from plugin.dimse import commitment, echo, find, get, move, peers, reception, store
from plugin.dimse.services import House, Service
from plugin.security import tls
from plugin.settings import BadSettings, HostPort, Settings

# Larger than the customary 16 kB: fewer rounds of the interpreter for each object.
_PDU_BYTES = 1 << 17

_UNLIMITED = 1 << 30

SERVICES: Sequence[Service] = (echo, store, commitment, find, move, get)


class Listener:
    """A running listener. address: where it listens, with the port that port 0 turned into."""

    def __init__(self, server: ThreadedAssociationServer) -> None:
        self._server = server
        host, port = server.server_address[:2]
        self.address = HostPort(str(host), int(port))

    def stop(self) -> None:
        """Take no more associations and end the open ones; what was acknowledged is stored."""
        self._server.shutdown()


def start(settings: Settings, ingest: Ingest) -> Listener:
    """Listen for associations in threads of this process.

    All storage SOP classes, private ones too, are accepted in the first transfer syntax that the peer proposes, and
    the data sets kept in it.

    Raises:
        BadSettings: the address is in use or not ours, or a file of node.tls cannot be used.
    """
    reception.install()
    node = settings.node
    house = House(settings, ingest, Gate())
    ae = reception.ReceivingAE(node.aet, ingest.storage)
    ae.maximum_pdu_size = _PDU_BYTES
    # `peers` counts, over all listeners; this count of one process must never come first.
    ae.maximum_associations = _UNLIMITED
    ae.network_timeout = node.idle_timeout_s
    ae.acse_timeout = node.artim_timeout_s
    handlers: list[EventHandlerType] = [(evt.EVT_CONN_OPEN, _no_delay), *peers.handlers(house, SERVICES)]
    for service in SERVICES:
        ae.supported_contexts = [*ae.supported_contexts, *service.contexts()]
        handlers += service.handlers(house)
    address = node.dimse_address
    try:
        server = ae.start_server(
            (address.host, address.port),
            block=False,
            ssl_context=tls.server_context(node.tls, "dimse"),
            evt_handlers=handlers,
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
