"""Our node on the DICOM network: one listener, its services, and who may speak to it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence
from typing import Any

from pynetdicom import evt
from pynetdicom.events import Event, EventHandlerType
from pynetdicom.transport import ThreadedAssociationServer

from plugin import doors
from plugin.archive.gate import Gate
from plugin.archive.ingest import Ingest
from plugin.dimse import commitment, echo, find, get, move, peers, reception, store
from plugin.dimse.services import House, Service
from plugin.security import tls
from plugin.settings import HostPort, Settings

# Larger than the customary 16 kB: fewer rounds of the interpreter for each object.
_PDU_BYTES = 1 << 17

_UNLIMITED = 1 << 30

SERVICES: Sequence[Service] = (echo, store, commitment, find, move, get)


# A listener that has associations leaves a new one to those with fewer, this long for each.
_DEFERENCE_S, _LONGEST_DEFERENCE_S = 0.01, 0.05
# Until then an accepted connection may be no association yet.
_FRESH_S = 0.5


class Listener:
    """A running listener. address: where it listens, with the port that port 0 turned into."""

    def __init__(self, server: ThreadedAssociationServer) -> None:
        self._server = server
        host, port = server.server_address[:2]
        self.address = HostPort(str(host), int(port))

    def stop(self) -> None:
        """Take no more associations and end the open ones; what was acknowledged is stored."""
        self._server.shutdown()
        for association in self._server.active_associations:
            if association.is_established:
                association.abort()


class _Server(ThreadedAssociationServer):
    """Accepts associations from a socket that is open already, and perhaps shared with other processes."""

    def __init__(self, *arguments: Any, listening: socket.socket, **options: Any) -> None:
        self._listening = listening
        self._fresh: list[float] = []
        self.socket: socket.socket
        super().__init__(*arguments, **options)

    def server_bind(self) -> None:
        """Take the open socket in place of the new one."""
        self.socket.close()
        self.socket = self._listening
        # Where several processes are woken for one connection, those that come too late go back to sleep.
        self.socket.setblocking(False)
        self.server_address = self.socket.getsockname()

    def server_activate(self) -> None:
        """Nothing: it listens."""

    def server_close(self) -> None:
        """Our own end only; a shutdown of the connection would be for all who share it."""
        self.socket.close()

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        now = time.monotonic()
        self._fresh = [at for at in self._fresh if now - at < _FRESH_S]
        busy = max(len(self.active_associations), len(self._fresh))
        if busy:
            time.sleep(min(busy * _DEFERENCE_S, _LONGEST_DEFERENCE_S))
        accepted = super().get_request()
        self._fresh.append(now)
        return accepted


def start(settings: Settings, ingest: Ingest, listening: socket.socket | None = None) -> Listener:
    """Listen for associations in threads of this process.

    All storage SOP classes, private ones too, are accepted in the first transfer syntax that the peer proposes, and
    the data sets kept in it. listening: a socket that listens already, in place of the address in the settings.

    Raises:
        BadSettings: the address is in use or not ours, or a file of node.tls cannot be used.
    """
    reception.install()
    node = settings.node
    house = House(settings, ingest, Gate())
    context = tls.server_context(node.tls, "dimse")
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
    if listening is None:
        listening = doors.bind("node.dimse", "--dimse", node.dimse_address)
        doors.listen(listening)
    server = ae.make_server(
        listening.getsockname(),
        ssl_context=context,
        evt_handlers=handlers,
        server_class=_Server,
        listening=listening,
    )
    ae._servers.append(server)
    threading.Thread(target=server.serve_forever, name="DICOM listener", daemon=True).start()
    return Listener(server)


def _no_delay(event: Event) -> None:
    # pynetdicom sends an answer in two pieces; without this each one waits 40 ms for the peer's acknowledgement.
    event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
