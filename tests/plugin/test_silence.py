"""Peers that stop in the middle of a PDU, at both ends of a connection, in the clear and under TLS."""

from __future__ import annotations

import os
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from archives import archive
from certificates import Authority
from dicom_objects import file_of, slice_of
from pynetdicom import AE, build_context, evt
from pynetdicom.events import Event
from pynetdicom.sop_class import (
    CTImageStorage,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    Verification,
)

from plugin.dimse import node
from plugin.dimse.client import echo, find, retrieve, store
from plugin.dimse.client.association import Peer, PeerUnreachable
from plugin.security import tls
from plugin.settings import Node, Settings, Tls

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
HERE = "127.0.0.1"
LIMIT_S = 0.4
# A P-DATA-TF PDU of 5000 bytes (PS3.8 9.3.5), of which 100 come.
BEGINNING = struct.pack(">BxI", 4, 5000) + bytes(100)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("papers"))


@pytest.fixture
def half_way() -> Iterator[Callable[..., int]]:
    """Starts a peer that begins an answer and never ends it; gives its port."""
    over, servers = threading.Event(), []

    def begin(event: Event) -> None:
        event.assoc.dul.socket.socket.sendall(BEGINNING)
        over.wait(20)

    def one(event: Event) -> int:
        begin(event)
        return 0xC000

    def several(event: Event) -> Iterator[int]:
        begin(event)
        yield 0

    def start(context: ssl.SSLContext | None = None) -> int:
        entity = AE("PEER")
        for sop_class in (
            Verification, StudyRootQueryRetrieveInformationModelFind, StudyRootQueryRetrieveInformationModelGet
        ):  # fmt: skip
            entity.add_supported_context(sop_class)
        entity.add_supported_context(CTImageStorage, scu_role=True, scp_role=True)
        handlers = [
            (evt.EVT_C_ECHO, one), (evt.EVT_C_STORE, one), (evt.EVT_C_FIND, several), (evt.EVT_C_GET, several)
        ]  # fmt: skip
        servers.append(entity.start_server((HERE, 0), block=False, evt_handlers=handlers, ssl_context=context))
        return int(servers[-1].server_address[1])

    yield start
    over.set()
    for server in servers:
        server.shutdown()


def ended(ask: Callable[[], object]) -> object:
    """What a question gives or raises; a question that hangs fails and does not hang the test."""
    said: list[object] = []

    def run() -> None:
        try:
            said.append(ask())
        except PeerUnreachable as error:
            said.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(5)
    assert said, "it hangs"
    return said[0]


@pytest.mark.parametrize("verb", ["find", "get", "store"])
def test_a_peer_that_stops_inside_its_answer_is_given_up(tmp_path, half_way, verb):
    peer = Peer("PEER", HERE, half_way())
    path = tmp_path / "slice.dcm"
    path.write_bytes(file_of(slice_of("1.2.3")))
    wanted = [retrieve.Request("STUDY", "1.2", (str(CTImageStorage),))]
    ask: dict[str, Callable[[], object]] = {
        "find": lambda: find.instances(peer, "1.2", LIMIT_S),
        "get": lambda: retrieve.get(peer, wanted, archive(tmp_path / "data"), timeout_s=LIMIT_S),
        "store": lambda: [sent.status for sent in store.send(peer, [path], LIMIT_S)],
    }
    said = ended(ask[verb])
    assert said == [None] if verb == "store" else isinstance(said, PeerUnreachable)


def test_a_peer_that_stops_inside_its_answer_is_given_up_under_tls_too(half_way, authority):
    ours = authority.paper("ours", HERE)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(ours.certificate, ours.key)
    peer = Peer("PEER", HERE, half_way(context), tls=tls.Client("d", authority.ca))
    assert isinstance(ended(lambda: echo.echo(peer, LIMIT_S)), PeerUnreachable)


def test_a_caller_that_stops_inside_a_message_is_hung_up_on_under_tls_too(tmp_path: Path, authority):
    ours = authority.paper("ours", HERE)
    ingest = archive(tmp_path / "data")
    ours_only = Tls(certificate=ours.certificate, key=ours.key)
    listener = node.start(Settings(node=Node(dimse=f"{HERE}:0", idle_timeout_s=LIMIT_S, tls=ours_only)), ingest)
    context = ssl.create_default_context(cafile=os.fspath(authority.ca))
    association = AE("SCANNER").associate(
        HERE, listener.address.port, [build_context(Verification)], ae_title="MIRALL", tls_args=(context, HERE)
    )
    assert association.is_established
    association.dul.socket.socket.sendall(BEGINNING)
    end = time.monotonic() + 5
    while association.is_established and time.monotonic() < end:
        time.sleep(0.02)
    assert not association.is_established
    listener.stop()
    ingest.index.close()
