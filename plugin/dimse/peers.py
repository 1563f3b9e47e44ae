"""Who may open an association with us, and what it may ask on it (promise 8).

What is decided when a peer asks for an association, in this order:

    our AE title is meant                      A-ASSOCIATE-RJ 1, 1, 7 (PS3.8 9.3.4)
    its AE title and address are known         1, 1, 3
    it gives the user name and passcode, where its entry has them (PS3.7 D.3.3.7)    1, 1, 1
    fewer than `maximum_associations` are open over all listeners                    2, 3, 2

A peer that comes in is offered the presentation contexts of its `verbs`; the others are answered "user-rejection". A
window of asynchronous operations (PS3.7 D.3.3.3) is given to who proposes one and only stores, or verifies: up to
`asynchronous_operations` invoked, 1 performed. All others work through one message at a time, 1 and 1.

A connection must ask within `artim_timeout_s`, TLS handshake included, and one on which nothing comes for
`idle_timeout_s` is aborted.
"""

from __future__ import annotations

import ipaddress
import logging
import secrets
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pynetdicom import evt
from pynetdicom.acse import ACSE
from pynetdicom.association import Association
from pynetdicom.events import Event, EventHandlerType
from pynetdicom.pdu_primitives import AsynchronousOperationsWindowNegotiation, UserIdentityNegotiation
from pynetdicom.presentation import PresentationContext
from pynetdicom.service_class import ServiceClass, StorageServiceClass
from pynetdicom.sop_class import uid_to_service_class

from plugin.dimse import chatter, silence
from plugin.dimse.services import House, Service
from plugin.dimse.slots import Slot, Slots
from plugin.security import tls
from plugin.settings import VERBS, KnownPeer, Node, Verb

LOGGER = logging.getLogger(__name__)

_ALL: frozenset[Verb] = frozenset(VERBS)
_USER_REJECTION, _NOT_SUPPORTED = 1, 3  # PS3.8 9.3.3.2
# A class that none of our services names is for storage, or one that pynetdicom does not know (private).
_OF_OBJECTS = (StorageServiceClass, ServiceClass)
_WITH_PASSCODE = 2  # User-Identity-Type of PS3.7 D.3.3.7


@dataclass(frozen=True)
class Calling:
    """What a peer says of itself, and where it is. address: its IP address.

    username, passcode: "" where it gives none.
    """

    aet: str
    called_aet: str
    address: str
    username: str = ""
    passcode: str = ""


@dataclass(frozen=True)
class Admission:
    """It may come in. verbs: what it may ask. identified: its user name was asked for, and is right."""

    verbs: frozenset[Verb]
    identified: bool = False


@dataclass(frozen=True)
class Refusal:
    """It may not. answer: (result, source, diagnostic) of A-ASSOCIATE-RJ (PS3.8 9.3.4)."""

    answer: tuple[int, int, int]
    sentence: str


def decide(node: Node, calling: Calling) -> Admission | Refusal:
    """Whether a peer may come in, by what stands in the settings."""
    if calling.called_aet != node.aet:
        return Refusal((1, 1, 7), "we have another AE title (node.aet)")
    if node.open:
        return Admission(_ALL)
    if not node.known_peers:
        if ipaddress.ip_address(calling.address).is_loopback:
            return Admission(_ALL)
        return Refusal((1, 1, 3), "only this machine's own programs may come in as long as node.known_peers is empty")
    entries = [each for each in node.known_peers if each.aet == calling.aet and _is_at(each, calling.address)]
    if not entries:
        return Refusal((1, 1, 3), "it is not among node.known_peers")
    fitting = [entry for entry in entries if _is_identified(entry, calling)]
    if not fitting:
        return Refusal((1, 1, 1), "it did not give the user name and passcode that node.known_peers asks of it")
    verbs: frozenset[Verb] = frozenset(verb for entry in fitting for verb in entry.verbs)
    return Admission(verbs, any(entry.username is not None for entry in fitting))


def _is_identified(entry: KnownPeer, calling: Calling) -> bool:
    if entry.username is None or entry.passcode is None:
        return True
    # Both are compared, in constant time, whatever the first comparison finds.
    name = secrets.compare_digest(entry.username.encode(), calling.username.encode())
    code = secrets.compare_digest(entry.passcode.encode(), calling.passcode.encode())
    return name and code


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


def handlers(house: House, services: Sequence[Service]) -> Sequence[EventHandlerType]:
    """The node's handlers that decide on a connection and on an association before any message is read."""
    chatter.quiet()
    doorman = _Doorman(house, services)
    return [
        (evt.EVT_CONN_OPEN, _greet, [house.settings.node]),
        (evt.EVT_REQUESTED, doorman.admit),
        (evt.EVT_CONN_CLOSE, doorman.close),
    ]


def may(association: Association, verb: Verb) -> bool:
    """Whether the peer of an association may ask this of us; on associations that we opened, what we asked for."""
    admitted = association.acse
    return bool(association.is_requestor or (isinstance(admitted, _Admitted) and verb in admitted.verbs))


def _greet(event: Event, node: Node) -> None:
    """The first moments of a connection, in a thread of its own: its limits of time, and TLS where it is spoken."""
    association = event.assoc
    association.dul.artim_timer.timeout = node.artim_timeout_s
    connection = association.dul.socket.socket
    try:
        tls.shake_hands(connection, node.artim_timeout_s)
    except OSError as error:
        LOGGER.warning("TLS with %s failed: %s", association.requestor.address, tls.why(error))
        association.dul.socket.close()
    else:
        silence.limit(connection, node.idle_timeout_s)


class _Doorman:
    """Lets associations in, and counts them."""

    def __init__(self, house: House, services: Sequence[Service]) -> None:
        self._node = house.settings.node
        # Beside the index: all listeners of one archive share it.
        self._slots = Slots(house.ingest.index.data / "associations", self._node.maximum_associations)
        self._taken: dict[Association, Slot] = {}
        self._verbs: dict[str, Verb] = {
            str(context.abstract_syntax): service.VERB for service in services for context in service.contexts()
        }

    def admit(self, event: Event) -> None:
        """Let an association in, or reject it; one that we fail to decide on is rejected, too."""
        association = event.assoc
        decision: Admission | Refusal = Refusal((2, 1, 1), "it could not be decided on; the lines before say why")
        try:
            found = self._decide(association)
            if isinstance(found, Admission):
                window = self._node.asynchronous_operations
                association.acse = _Admitted(association, found.verbs, self._verbs, window)
                if found.identified:
                    _confirm_identity(association)
            decision = found
        finally:
            if isinstance(decision, Refusal):
                _reject(association, decision)

    def _decide(self, association: Association) -> Admission | Refusal:
        decision = decide(self._node, _calling(association))
        if isinstance(decision, Refusal):
            return decision
        # Where a connection died without a word to us.
        for dead in [one for one in list(self._taken) if not one.is_alive()]:
            self._release(dead)
        slot = self._slots.take()
        if slot is None:
            limit = self._node.maximum_associations
            return Refusal((2, 3, 2), f"{limit} associations are open, and node.maximum_associations allows no more")
        self._taken[association] = slot
        return decision

    def close(self, event: Event) -> None:
        association = event.assoc
        self._release(association)
        if association.requestor.primitive is None:
            # It left without asking; pynetdicom's thread would wait for its question until the timeout.
            association.dul.to_user_queue.put(None)

    def _release(self, association: Association) -> None:
        slot = self._taken.pop(association, None)
        if slot is not None:
            slot.release()


class _Admitted(ACSE):
    """Association control of a peer that came in: contexts outside its verbs are rejected when we accept.

    window: the most operations that a peer may invoke before the first is answered.
    """

    def __init__(
        self, association: Association, verbs: frozenset[Verb], verb_of: Mapping[str, Verb], window: int
    ) -> None:
        super().__init__(association)
        self.verbs = verbs
        self._verb_of = verb_of
        self._window = window

    def _check_async_ops(self) -> AsynchronousOperationsWindowNegotiation:
        """The answer to a proposed window, where pynetdicom would always say 1 and 1. A proposed 0 is any number."""
        proposed, _ = self.requestor.asynchronous_operations
        asked = {self._verb(context) for context in self.requestor.requested_contexts}
        granted = min(proposed or self._window, self._window) if asked <= {"store", "echo"} else 1
        self.assoc.dul.window = granted
        item = AsynchronousOperationsWindowNegotiation()
        item.maximum_number_operations_invoked = granted
        item.maximum_number_operations_performed = 1
        return item

    def send_accept(self) -> None:
        association = self.assoc
        for number, context in list(association._accepted_cx.items()):
            verb = self._verb(context)
            if verb is None or not self._is_allowed(verb, context):
                context.result = _NOT_SUPPORTED if verb is None else _USER_REJECTION
                association._rejected_cx.append(association._accepted_cx.pop(number))
        super().send_accept()

    def _verb(self, context: PresentationContext) -> Verb | None:
        """Of the service that names the class, else "store" for objects; None for services that we do not have.

        pynetdicom's unrestricted storage lets in every class that it does not take for another of *its* storage
        services, and worklist and palette queries with them.
        """
        named = self._verb_of.get(str(context.abstract_syntax))
        if named is not None:
            return named
        return "store" if uid_to_service_class(context.abstract_syntax) in _OF_OBJECTS else None

    def _is_allowed(self, verb: Verb, context: PresentationContext) -> bool:
        if verb in self.verbs:
            return True
        # By C-GET it receives: it proposes storage classes with itself as the provider (PS3.4 C.4.3.3, role selection).
        role = self.requestor.role_selection.get(context.abstract_syntax)
        return verb == "store" and "get" in self.verbs and role is not None and bool(role.scp_role)


def _calling(association: Association) -> Calling:
    request = association.requestor.primitive
    who = Calling(request.calling_ae_title.strip(), request.called_ae_title.strip(), str(association.requestor.address))
    identity = association.requestor.user_identity
    if identity is None or identity.user_identity_type != _WITH_PASSCODE:
        return who
    return Calling(who.aet, who.called_aet, who.address, _text(identity.primary_field), _text(identity.secondary_field))


def _text(field: bytes | None) -> str:
    """UTF-8 (PS3.7 D.3.3.7.1); bytes that are none fit no user name."""
    return (field or b"").decode("utf-8", "replace")


def _confirm_identity(association: Association) -> None:
    """The positive response, where it was asked for: empty for user name and passcode (PS3.7 D.3.3.7.2)."""
    if association.requestor.user_identity.positive_response_requested:
        item = UserIdentityNegotiation()
        item.server_response = b""
        association.acceptor.add_negotiation_item(item)


def _reject(association: Association, refusal: Refusal) -> None:
    LOGGER.warning(
        "refused an association from %r at %s to %r: %s",
        association.requestor.primitive.calling_ae_title.strip(),
        association.requestor.address,
        association.requestor.primitive.called_ae_title.strip(),
        refusal.sentence,
    )
    association.acse.send_reject(*refusal.answer)
    association.kill()
