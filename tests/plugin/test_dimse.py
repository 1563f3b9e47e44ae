"""The DICOM door: who may come in, what is taken, and that its bytes are those that were sent."""

from __future__ import annotations

import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import pytest
from archives import archive
from dicom_objects import file_of, slice_of
from pydicom import dcmread
from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom import AE, _config, build_context, evt
from pynetdicom.association import Association
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.sop_class import CTImageStorage, MRImageStorage, Verification

from dicom_io.dataset import dataset_hash, file_meta
from dicom_io.errors import TryAgain
from plugin import doors
from plugin.archive.ingest import Ingest
from plugin.archive.storage import Storage
from plugin.dimse import node
from plugin.dimse.client import echo, store
from plugin.dimse.client.association import Peer
from plugin.dimse.peers import Calling, Refusal, decide
from plugin.settings import BadSettings, HostPort, KnownPeer, Node, Settings

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
LOCAL = Node(dimse="127.0.0.1:0")


@pytest.fixture
def here(tmp_path) -> Iterator[Ingest]:
    ingest = archive(tmp_path / "data")
    yield ingest
    ingest.index.close()


@pytest.fixture
def peer(here) -> Iterator[Peer]:
    listener = node.start(Settings(node=LOCAL), here)
    yield Peer("MIRALL", "127.0.0.1", listener.address.port, "SCANNER")
    listener.stop()


def written(folder: Path, name: str, raw: bytes) -> Path:
    path = folder / name
    path.write_bytes(raw)
    return path


def test_echo_is_answered(peer):
    echo.echo(peer)


def test_a_slice_is_stored_with_the_titles_and_address_of_its_association(peer, here, tmp_path):
    path = written(tmp_path, "a.dcm", file_of(slice_of("1.2.3")))
    (sent,) = store.send(peer, [path])
    assert sent.accepted
    row = here.index.instance("1.2.3")
    assert (row.door, row.calling_aet, row.called_aet, row.address) == ("dimse", "SCANNER", "MIRALL", "127.0.0.1")
    assert dataset_hash(row.path.read_bytes()) == dataset_hash(path.read_bytes())
    assert list(here.storage.incoming.iterdir()) == []


def test_sixteen_encodings_of_one_slice_are_as_many_instances_as_they_have_uids(peer, here, test_data):
    """Lossless encodings share a UID and are the same pixels; lossy ones bear their own."""
    paths = sorted((test_data / "transfer-syntaxes").glob("*.dcm"))
    sent = list(store.send(peer, paths))
    assert all(one.accepted for one in sent)
    assert here.index.counts()["instances"] == len({one.sop_instance_uid for one in sent}) == 7
    assert here.quarantine.list() == []


SYNTAXES = [
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.5",
] + [f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 53, 55, 57, 70, 80, 81, 90, 91)]


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_an_encoding_is_stored_as_it_was_sent(here, peer, test_data, syntax):
    (path,) = (test_data / "transfer-syntaxes").glob(f"*Syntax_{syntax}.dcm")
    (sent,) = store.send(peer, [path])
    assert sent.accepted, sent.reason
    row = here.index.instance(sent.sop_instance_uid)
    assert row.transfer_syntax_uid == syntax
    assert row.dataset_hash == dataset_hash(row.path.read_bytes()) == dataset_hash(path.read_bytes())


def test_a_private_storage_class_is_taken(peer, here, tmp_path):
    private = "1.3.46.670589.11.0.0.12.1"
    path = written(tmp_path, "p.dcm", file_of(slice_of("1.2.3", SOPClassUID=private)))
    (sent,) = store.send(peer, [path])
    assert sent.accepted
    assert here.index.instance("1.2.3").sop_class_uid == private


def test_dcmtk_echoes_and_stores(peer, here, needs, test_data):
    port = str(peer.port)
    assert subprocess.run([needs("echoscu"), "-aec", "MIRALL", "127.0.0.1", port], check=False).returncode == 0
    folder = test_data / "mr-phantom" / "Siemens_Skyra_mosaic_mr_0003"
    jpeg = next((test_data / "transfer-syntaxes").glob("*1.2.840.10008.1.2.4.70.dcm"))
    storescu = [needs("storescu"), "-aec", "MIRALL", "-aet", "DCMTK", "127.0.0.1", port]
    subprocess.run([*storescu, "+sd", str(folder)], check=True, env={"TCP_NODELAY": "1"})
    subprocess.run([*storescu, "-xs", str(jpeg)], check=True, env={"TCP_NODELAY": "1"})
    for path in (*folder.glob("*.dcm"), jpeg):
        uid = str(dcmread(path, stop_before_pixels=True).SOPInstanceUID)
        assert here.index.instance(uid).dataset_hash == dataset_hash(path.read_bytes())
        assert here.index.instance(uid).calling_aet == "DCMTK"


def test_bad_objects_are_refused_with_the_beginning_of_the_sentence(peer, here, tmp_path):
    path = written(tmp_path, "bad.dcm", file_of(slice_of("1.2.3", PixelData=b"\0" * 24)))
    (sent,) = store.send(peer, [path])
    assert (sent.status, sent.can_retry) == (0xC000, False)
    (entry,) = here.quarantine.list()
    assert entry.reason.startswith("PixelData (7FE0,0010) has 24 bytes, but 1 frame(s)")
    assert entry.reason[:64] in sent.reason


def test_a_full_disk_is_answered_out_of_resources_and_may_be_tried_again(peer, here, tmp_path):
    full = Storage(here.index.data, minimum_free_mb=256, free_bytes=lambda folder: 0)
    here.storage._minimum_free_mb, here.storage._free_bytes = full._minimum_free_mb, full._free_bytes
    (sent,) = store.send(peer, [written(tmp_path, "a.dcm", file_of(slice_of("1.2.3")))])
    assert (sent.status, sent.can_retry) == (0xA700, True)
    assert "0 MB are free and archive.minimum_free_mb is 256" in sent.reason
    assert here.index.counts()["instances"] == 0
    assert list(here.storage.incoming.iterdir()) == []


def test_what_is_received_is_born_in_our_own_folder(peer, here, tmp_path, monkeypatch):
    """Never in the system's temporary folder, from where a rename would be a copy."""
    seen: list[Path] = []
    accept = here.accept

    def watch(received, *args, **kwargs):
        seen.append(received)
        return accept(received, *args, **kwargs)

    monkeypatch.setattr(here, "accept", watch)
    (sent,) = store.send(peer, [written(tmp_path, "a.dcm", file_of(slice_of("1.2.3")))])
    assert sent.accepted
    assert [path.parent for path in seen] == [here.storage.incoming]


def test_an_association_that_breaks_off_leaves_nothing(peer, here):
    """An abort in the middle of a C-STORE: half a data set on the wire, nothing acknowledged."""
    ae = AE("SCANNER")
    association = ae.associate(
        peer.host, peer.port, contexts=[build_context(CTImageStorage, "1.2.840.10008.1.2.1")], ae_title="MIRALL"
    )
    assert association.is_established
    raw = association.dul.socket.socket
    _send_half_a_store(association, raw)
    raw.close()
    _until(lambda: list(here.storage.incoming.iterdir()) == [] and not association.is_established)
    assert here.index.counts() == {"studies": 0, "series": 0, "instances": 0, "quarantined": 0}


def _send_half_a_store(association: Association, raw: socket.socket) -> None:
    (context,) = association.accepted_contexts
    for piece in _values(context.context_id, bytes(5000), 1000)[:4]:
        raw.sendall(_pdu(piece))


def _values(context_id: int, data_set: bytes, size: int) -> list[bytes]:
    """The presentation data values (PS3.8 9.3.5.1) of a C-STORE request, each up to `size` bytes."""
    request = C_STORE()
    request.MessageID, request.Priority = 1, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = CTImageStorage, "1.2.3"
    request.DataSet = BytesIO(data_set)
    message = C_STORE_RQ()
    message.primitive_to_message(request)
    values = []
    for piece in message.encode_msg(context_id, size):
        pdu = P_DATA_TF()
        pdu.from_primitive(piece)
        values.append(pdu.encode()[6:])
    return values


def _pdu(*values: bytes) -> bytes:
    body = b"".join(values)
    return struct.pack(">BxI", 4, len(body)) + body


@contextmanager
def _by_hand(peer: Peer) -> Iterator[tuple[socket.socket, int]]:
    """The socket of an association, for PDUs of our own making, and the ID of its presentation context."""
    contexts = [build_context(CTImageStorage, "1.2.840.10008.1.2.1")]
    association = AE("SCANNER").associate(peer.host, peer.port, contexts=contexts, ae_title="MIRALL")
    assert association.is_established
    association._reactor_checkpoint.clear()
    association.dul._kill_thread = True
    association.dul.join()
    (context,) = association.accepted_contexts
    raw = association.dul.socket.socket
    raw.settimeout(10)
    try:
        yield raw, context.context_id
    finally:
        association._kill = True
        association._reactor_checkpoint.set()
        raw.close()


def _answer(raw: socket.socket) -> bytes:
    """One PDU; b"" where the peer has closed the connection."""
    head = raw.recv(6, socket.MSG_WAITALL)
    return head + raw.recv(struct.unpack(">BxI", head)[1], socket.MSG_WAITALL) if len(head) == 6 else b""


def _status(answer: bytes) -> int:
    return int(struct.unpack_from("<H", answer, answer.index(struct.pack("<HHI", 0, 0x0900, 2)) + 8)[0])


def data_set_of(raw: bytes) -> bytes:
    """The bytes of a file after its file meta group."""
    return raw[file_meta(raw, "a file")[1] :]


@pytest.mark.parametrize(
    "cut",
    [
        lambda values: [_pdu(*values)],  # the whole request in one PDU
        lambda values: [_pdu(value) for value in values],
        lambda values: [_pdu(*values[:2]), _pdu(*values[2:])],
        lambda values: [bytes([byte]) for byte in _pdu(*values)],  # as a slow line would deliver it
    ],
)
@pytest.mark.parametrize("size", [20, 200, 100_000])
def test_fragments_make_the_same_object_however_they_are_cut(peer, here, cut, size):
    raw = file_of(slice_of("1.2.3"))
    with _by_hand(peer) as (connection, context_id):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in cut(_values(context_id, data_set_of(raw), size)):
            connection.sendall(piece)
        assert _status(_answer(connection)) == 0x0000
    assert here.index.instance("1.2.3").dataset_hash == dataset_hash(raw)


def test_requests_that_come_without_waiting_for_answers_are_answered_in_order(peer, here):
    with _by_hand(peer) as (connection, context_id):
        files = [data_set_of(file_of(slice_of("1.2.3", value=value))) for value in (1, 2)]
        both = [value for data_set in files for value in _values(context_id, data_set, 300)]
        connection.sendall(_pdu(*both))
        assert [_status(_answer(connection)) for _ in files] == [0x0000, 0xC102]


_DATA, _COMMAND, _LAST = 0, 1, 2


def _value(context_id: int, control: int, content: bytes) -> bytes:
    return struct.pack(">IBB", len(content) + 2, context_id, control) + content


@pytest.mark.parametrize(
    "malformed",
    [
        lambda context_id: _pdu(_value(context_id, _DATA | _LAST, b"x" * 10)),  # a data set without a command
        lambda context_id: _pdu(_value(context_id, _COMMAND | _LAST, b"no command set at all")),
        lambda context_id: _pdu(_value(context_id, _COMMAND, b"\0" * 70_000)),  # a command without end
        lambda context_id: _pdu(struct.pack(">IBB", 4000, context_id, 0)),  # longer than its PDU
        lambda context_id: _pdu(b"\0\0"),
        lambda context_id: struct.pack(">BxI", 4, 1 << 31),  # a PDU that no memory should hold
        lambda context_id: struct.pack(">BxI", 0x99, 4) + b"1234",
        lambda context_id: _pdu(
            *_values(context_id, bytes(500), 400)[:2], _value(context_id, _COMMAND | _LAST, b"\0" * 12)
        ),
    ],
)
def test_a_malformed_message_ends_its_association_and_nothing_else(peer, here, malformed):
    with _by_hand(peer) as (connection, context_id):
        connection.sendall(malformed(context_id))
        assert _answer(connection)[:1] in (b"\x07", b"")  # A-ABORT, or the connection is gone
    _until(lambda: list(here.storage.incoming.iterdir()) == [])
    assert here.index.counts()["instances"] == 0
    echo.echo(peer)


def test_a_handler_that_fails_acknowledges_nothing_and_leaves_nothing(peer, here, monkeypatch):
    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(here, "accept", broken)
    with _by_hand(peer) as (connection, context_id):
        connection.sendall(_pdu(*_values(context_id, data_set_of(file_of(slice_of("1.2.3"))), 500)))
        assert _answer(connection)[:1] in (b"\x07", b"")
    _until(lambda: list(here.storage.incoming.iterdir()) == [])


def test_two_listeners_share_a_socket_and_one_may_stop(here, tmp_path):
    shared = doors.bind("node.dimse", "--dimse", HostPort("127.0.0.1", 0))
    doors.listen(shared)
    one, other = (node.start(Settings(node=LOCAL), here, shared.dup()) for _ in range(2))
    try:
        peer = Peer("MIRALL", "127.0.0.1", doors.address_of(shared).port, "SCANNER")
        assert one.address == other.address
        one.stop()
        for number in range(3):
            echo.echo(peer)
            path = written(tmp_path, f"{number}.dcm", file_of(slice_of(f"1.2.{number}")))
            assert [sent.accepted for sent in store.send(peer, [path])] == [True]
    finally:
        other.stop()
        shared.close()


def _until(seen: Callable[[], bool], timeout_s: float = 10.0) -> None:
    end = time.monotonic() + timeout_s
    while not seen():
        assert time.monotonic() < end
        time.sleep(0.02)


# Who may come in


def test_another_called_title_is_rejected(peer):
    with pytest.raises(TryAgain, match="rejected the association of SCANNER"):
        echo.echo(Peer("ORTHANC", peer.host, peer.port, "SCANNER"))


def test_nobody_there_is_a_sentence():
    with pytest.raises(TryAgain, match=r"X@127\.0\.0\.1:1 does not answer; is it running, and are host and port right"):
        echo.echo(Peer("X", "127.0.0.1", 1))


def test_an_unknown_peer_is_rejected_and_a_known_one_let_in(here):
    known = Node(dimse="127.0.0.1:0", known_peers=(KnownPeer(aet="SCANNER", address="127.0.0.1"),))
    listener = node.start(Settings(node=known), here)
    try:
        echo.echo(Peer("MIRALL", "127.0.0.1", listener.address.port, "SCANNER"))
        with pytest.raises(TryAgain, match="have it know our AE title and address"):
            echo.echo(Peer("MIRALL", "127.0.0.1", listener.address.port, "STRANGER"))
    finally:
        listener.stop()


@pytest.mark.parametrize(
    ("settings", "calling", "address", "diagnostic"),
    [
        ({}, "ANY", "127.0.0.1", None),
        ({}, "ANY", "10.0.0.7", 3),
        ({"open": True}, "ANY", "10.0.0.7", None),
        ({"known": {"A": "10.0.0.0/8"}}, "A", "10.0.0.7", None),
        ({"known": {"A": "10.0.0.0/8"}}, "A", "11.0.0.7", 3),
        ({"known": {"A": "10.0.0.0/8"}}, "B", "10.0.0.7", 3),
        ({"known": {"A": "10.0.0.0/8"}}, "A", "127.0.0.1", 3),
        ({"known": {"A": "10.0.0.7"}}, "A", "::ffff:10.0.0.7", None),
        ({"known": {"A": "localhost"}}, "A", "127.0.0.1", None),
        ({"known": {"A": "no-such-host.invalid"}}, "A", "127.0.0.1", 3),
    ],
)
def test_titles_and_addresses_decide_together(settings, calling, address, diagnostic):
    known = tuple(KnownPeer(aet=aet, address=where) for aet, where in settings.get("known", {}).items())
    answer = decide(Node(open=settings.get("open", False), known_peers=known), Calling(calling, "MIRALL", address))
    assert (answer.answer[2] if isinstance(answer, Refusal) else None) == diagnostic


def test_a_busy_port_is_a_sentence(here, peer):
    with pytest.raises(BadSettings) as caught:
        node.start(Settings(node=Node(dimse=f"127.0.0.1:{peer.port}")), here)
    assert str(caught.value) == (
        f"node.dimse is 127.0.0.1:{peer.port}, which cannot be used: another program listens there; end it, or choose "
        "another port with --dimse HOST:PORT"
    )


# As the client


@pytest.fixture
def restricted(monkeypatch) -> None:
    """pynetdicom's own SCP as it is without our node in the process."""
    monkeypatch.setattr(_config, "UNRESTRICTED_STORAGE_SERVICE", False)
    monkeypatch.setattr(_config, "STORE_RECV_CHUNKED_DATASET", False)


@pytest.mark.parametrize("taken", [(MRImageStorage, ImplicitVRLittleEndian), (Verification, ImplicitVRLittleEndian)])
def test_a_class_that_the_peer_does_not_take_is_said_by_file(restricted, tmp_path, taken):
    ae = AE("PICKY")
    ae.add_supported_context(*taken)
    server = ae.start_server(("127.0.0.1", 0), block=False)
    peer = Peer("PICKY", "127.0.0.1", server.server_address[1])
    try:
        (sent,) = store.send(peer, [written(tmp_path, "a.dcm", file_of(slice_of("1.2.3")))])
    finally:
        server.shutdown()
    assert (sent.status, sent.can_retry) == (0x0122, False)
    assert sent.reason == (
        f"{peer} does not take SOP class CT Image Storage in Explicit VR Little Endian; have it accept them"
    )


def test_a_peer_of_implicit_vr_alone_gets_implicit_vr(restricted, tmp_path):
    got = []

    def keep(event):
        got.append(event.dataset)
        return 0x0000

    ae = AE("OLD")
    ae.add_supported_context(CTImageStorage, ImplicitVRLittleEndian)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, keep)])
    ours = slice_of("1.2.3")
    try:
        path = written(tmp_path, "a.dcm", file_of(ours))
        (sent,) = store.send(Peer("OLD", "127.0.0.1", server.server_address[1]), [path])
    finally:
        server.shutdown()
    assert sent.accepted
    assert got[0].to_json_dict() == ours.to_json_dict()


def test_more_kinds_than_contexts_take_several_associations(peer, here, tmp_path):
    paths = [
        written(tmp_path, f"{number}.dcm", file_of(slice_of(f"1.2.{number}", SOPClassUID=f"1.3.6.1.4.1.{number}")))
        for number in range(1, 140)
    ]
    sent = list(store.send(peer, paths))
    assert [one.path for one in sent] == paths
    assert all(one.accepted for one in sent)
    assert here.index.counts()["instances"] == 139
