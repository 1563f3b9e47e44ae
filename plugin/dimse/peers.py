"""Who may open an association with us (promise 8)."""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import Sequence

from pynetdicom import evt
from pynetdicom.events import Event, EventHandlerType

from plugin.settings import KnownPeer, Node, Settings

LOGGER = logging.getLogger(__name__)


def handlers(settings: Settings) -> Sequence[EventHandlerType]:
    """The node's handlers that decide on an association before any message is read."""
    return [(evt.EVT_REQUESTED, _admit, [settings.node])]


def refusal(node: Node, calling_aet: str, called_aet: str, address: str) -> tuple[int, int, int] | None:
    """(result, source, diagnostic) of an A-ASSOCIATE-RJ (PS3.8 9.3.4), or None where the peer may come in.

    address: the peer's IP address.
    """
    if called_aet != node.aet:
        return 1, 1, 7  # called AE title not recognised
    if node.open or _is_known(node, calling_aet, address):
        return None
    return 1, 1, 3  # calling AE title not recognised


def _is_known(node: Node, calling_aet: str, address: str) -> bool:
    if not node.known_peers:
        return ipaddress.ip_address(address).is_loopback
    return any(peer.aet == calling_aet and _is_at(peer, address) for peer in node.known_peers)


def _is_at(peer: KnownPeer, address: str) -> bool:
    here = ipaddress.ip_address(address)
    if isinstance(here, ipaddress.IPv6Address) and here.ipv4_mapped:
        here = here.ipv4_mapped
    try:
        return here in ipaddress.ip_network(peer.address, strict=False)
    except ValueError:
        return str(here) in _addresses(peer.address)


def _addresses(host: str) -> set[str]:
    """All addresses of a host name; none where it is not known now."""
    try:
        return {str(info[4][0]) for info in socket.getaddrinfo(host, None)}
    except socket.gaierror:
        return set()


def _admit(event: Event, node: Node) -> None:
    """Reject an association by its AE titles and address."""
    association = event.assoc
    request = association.requestor.primitive
    calling, called = request.calling_ae_title.strip(), request.called_ae_title.strip()
    reason = refusal(node, calling, called, association.requestor.address)
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
