"""C-ECHO as a client (PS3.7 9.1.5)."""

from __future__ import annotations

from pynetdicom import build_context
from pynetdicom.sop_class import Verification

from plugin.dimse.client.association import TIMEOUT_S, Peer, PeerUnreachable, associate, end

SUCCESS = 0x0000


def echo(peer: Peer, timeout_s: float = TIMEOUT_S) -> None:
    """C-ECHO. Raises PeerUnreachable."""
    association = associate(peer, [build_context(Verification)], timeout_s)
    try:
        if not association.is_established or association.send_c_echo().get("Status") != SUCCESS:
            raise PeerUnreachable(f"{peer} took the association but did not answer C-ECHO; look at its log")
    finally:
        end(association)
