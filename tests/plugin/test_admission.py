"""Who may open an association, what it may ask on it, how many there may be, and how long one may be silent."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import pytest
from archives import archive
from dicom_objects import slice_of
from pynetdicom import AE, build_context, build_role
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import N_ACTION
from pynetdicom.pdu_primitives import AsynchronousOperationsWindowNegotiation, UserIdentityNegotiation
from pynetdicom.sop_class import (
    CTImageStorage,
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    Verification,
)

from plugin.archive.storage import Storage
from plugin.dimse import node, peers
from plugin.dimse.client import echo
from plugin.dimse.client.association import Peer, PeerUnreachable
from plugin.dimse.peers import Admission, Calling, Refusal, decide
from plugin.dimse.slots import Slots
from plugin.settings import Destination, KnownPeer, Node, Settings

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
HERE = "127.0.0.1"
NAME, CODE = "scanner", "a passcode of some length"


@contextmanager
def listening(folder: Path, **settings) -> Iterator[int]:
    """Our node with these settings of [node]; gives its port."""
    ingest = archive(folder / "data")
    listener = node.start(Settings(node=Node(dimse=f"{HERE}:0", **settings)), ingest)
    yield listener.address.port
    listener.stop()
    ingest.index.close()


def known(**more) -> tuple[KnownPeer, ...]:
    return (KnownPeer(aet="SCANNER", address=HERE, **more),)


def associate(port: int, *classes: str, ext_neg: Sequence[object] = ()) -> Association:
    entity = AE("SCANNER")
    entity.acse_timeout = entity.dimse_timeout = 5
    contexts = [build_context(each) for each in classes or (Verification,)]
    return entity.associate(HERE, port, contexts, ae_title="MIRALL", ext_neg=list(ext_neg))


def answer(association: Association) -> tuple[int, int, int]:
    assert association.is_rejected
    primitive = association.acceptor.primitive
    return primitive.result, primitive.result_source, primitive.diagnostic


def accepted(association: Association) -> set[str]:
    return {str(context.abstract_syntax) for context in association.accepted_contexts}


# Verbs


def test_a_peer_is_offered_the_contexts_of_its_verbs_alone(tmp_path):
    everything = (Verification, CTImageStorage, StudyRootQueryRetrieveInformationModelFind)
    with listening(tmp_path, known_peers=known(verbs=("echo", "find"))) as port:
        association = associate(port, *everything)
        assert accepted(association) == {Verification, StudyRootQueryRetrieveInformationModelFind}
        assert [context.result for context in association.rejected_contexts] == [1]
        association.release()
    with listening(tmp_path / "b", known_peers=known(verbs=("store",))) as port:
        association = associate(port, *everything, "1.3.46.670589.11.0.0.12.1")
        assert accepted(association) == {CTImageStorage, "1.3.46.670589.11.0.0.12.1"}
        association.release()


@pytest.mark.parametrize(
    "other",
    [
        "1.2.840.10008.5.1.4.31",  # Modality Worklist FIND
        "1.2.840.10008.5.1.4.39.2",  # Color Palette FIND
        "1.2.840.10008.5.1.4.39.4",  # Color Palette GET
        "1.2.840.10008.5.1.4.34.6.1",  # Unified Procedure Step Push
    ],
)
def test_services_that_we_do_not_have_are_no_way_to_query_for_who_may_store(tmp_path, other):
    with listening(tmp_path, known_peers=known(verbs=("store",))) as port:
        association = associate(port, CTImageStorage, other)
        assert accepted(association) == {CTImageStorage}
        assert [context.result for context in association.rejected_contexts] == [3]
        association.release()


def test_a_peer_that_may_get_receives_and_still_may_not_store(tmp_path):
    """Its storage contexts are accepted with itself as the provider; a C-STORE on one is not authorised."""
    with listening(tmp_path, known_peers=known(verbs=("get",))) as port:
        role = build_role(CTImageStorage, scu_role=True, scp_role=True)
        association = associate(port, StudyRootQueryRetrieveInformationModelGet, CTImageStorage, ext_neg=[role])
        assert CTImageStorage in accepted(association)
        sent = slice_of("1.2.3")
        sent.ensure_file_meta()
        sent.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2"
        assert association.send_c_store(sent).Status == 0x0124
        association.release()


def test_a_request_in_the_context_of_another_service_is_not_served(tmp_path, caplog):
    """pynetdicom goes by the SOP class that the request names, whatever its context is for."""
    with listening(tmp_path, known_peers=known(verbs=("echo",))) as port:
        association = associate(port)
        (context,) = association.accepted_contexts
        request = N_ACTION()
        request.MessageID, request.ActionTypeID = 1, 1
        request.RequestedSOPClassUID = StorageCommitmentPushModel
        request.RequestedSOPInstanceUID = StorageCommitmentPushModelInstance
        request.ActionInformation = BytesIO(bytes(8))
        association.dimse.send_msg(request, context.context_id)
        end = time.monotonic() + 5
        while association.is_established and time.monotonic() < end:
            time.sleep(0.02)
        assert association.is_aborted, "it was answered"
    assert f"of SOP class '{StorageCommitmentPushModel}' in a context of {Verification}" in caplog.text


# User identity


def identity(name: str, code: str | None, *, confirm: bool = False) -> UserIdentityNegotiation:
    item = UserIdentityNegotiation()
    item.user_identity_type = 1 if code is None else 2
    item.primary_field = name.encode()
    if code is not None:
        item.secondary_field = code.encode()
    item.positive_response_requested = confirm
    return item


def test_user_name_and_passcode_are_asked_for_and_confirmed(tmp_path):
    with listening(tmp_path, known_peers=known(username=NAME, passcode=CODE)) as port:
        for offered in ([], [identity(NAME, "wrong")], [identity(NAME, None)], [identity("other", CODE)]):
            assert answer(associate(port, ext_neg=offered)) == (1, 1, 1)
        association = associate(port, ext_neg=[identity(NAME, CODE)])
        assert association.is_established
        assert association.acceptor.user_identity is None
        association.release()
        association = associate(port, ext_neg=[identity(NAME, CODE, confirm=True)])
        assert association.acceptor.user_identity.server_response in (b"", None)
        association.release()


def test_our_own_client_gives_the_identity_of_its_destination(tmp_path):
    with listening(tmp_path, known_peers=known(username=NAME, passcode=CODE)) as port:
        there = Destination(kind="dimse", aet="MIRALL", host=HERE, port=port, username=NAME, passcode=CODE)
        echo.echo(Peer.of(there, "SCANNER"))
        with pytest.raises(PeerUnreachable, match="rejected"):
            echo.echo(Peer("MIRALL", HERE, port, "SCANNER"))
        assert CODE not in repr(Peer.of(there, "SCANNER"))


def test_entries_of_one_peer_add_up_by_what_it_proves():
    peers = (*known(verbs=("echo",)), *known(verbs=("store",), username=NAME, passcode=CODE))
    here = Node(known_peers=peers)
    assert decide(here, Calling("SCANNER", "MIRALL", HERE)) == Admission(frozenset({"echo"}))
    proven = decide(here, Calling("SCANNER", "MIRALL", HERE, NAME, CODE))
    assert proven == Admission(frozenset({"echo", "store"}), identified=True)
    other = decide(here, Calling("SCANNER", "OTHER", HERE))
    assert isinstance(other, Refusal)
    assert other.answer == (1, 1, 7)


# How many


def test_one_association_too_many_is_rejected_for_now_and_the_log_says_why(tmp_path, caplog):
    with listening(tmp_path, maximum_associations=2) as port:
        first, second = associate(port), associate(port)
        with caplog.at_level(logging.WARNING):
            assert answer(associate(port)) == (2, 3, 2)
        assert "2 associations are open, and node.maximum_associations allows no more" in caplog.text
        first.release()
        third = until_established(port)
        for association in (second, third):
            association.release()


def test_an_association_that_we_fail_to_let_in_is_rejected(tmp_path, monkeypatch):
    def fail(association: Association) -> None:
        raise OSError("an error of ours")

    monkeypatch.setattr(peers, "_confirm_identity", fail)
    with listening(tmp_path, known_peers=known(username=NAME, passcode=CODE), maximum_associations=1) as port:
        assert answer(associate(port, ext_neg=[identity(NAME, CODE)])) == (2, 1, 1)
        monkeypatch.undo()
        until_established(port, ext_neg=[identity(NAME, CODE)]).release()  # it left no place taken


def until_established(port: int, **more) -> Association:
    end = time.monotonic() + 5
    while not (association := associate(port, **more)).is_established:
        assert time.monotonic() < end
        time.sleep(0.02)
    return association


_TAKER = """
import sys
from pathlib import Path
from plugin.dimse.slots import Slots
slots = [Slots(Path(sys.argv[1]), 3).take() for _ in range(2)]
print(sum(slot is not None for slot in slots), flush=True)
sys.stdin.read()
"""


def test_places_are_counted_over_processes_and_come_back_after_kill_9(tmp_path):
    path = tmp_path / "associations"
    other = subprocess.Popen(
        [sys.executable, "-c", _TAKER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout.readline() == "2\n"
        here = Slots(path, 3)
        mine = here.take()
        assert mine is not None
        assert here.take() is None
        mine.release()
        mine.release()
        assert here.take() is not None
        assert here.take() is None
    finally:
        os.kill(other.pid, signal.SIGKILL)
        other.communicate()
    assert here.take() is not None
    assert here.take() is not None


# How long


def closed_after(connection: socket.socket, limit_s: float) -> float:
    """Seconds until the other end hangs up; whatever it says before is read."""
    began = time.monotonic()
    connection.settimeout(limit_s)
    while connection.recv(1000):
        pass
    return time.monotonic() - began


def test_a_connection_that_never_asks_is_closed(tmp_path):
    with listening(tmp_path, artim_timeout_s=0.4) as port, socket.create_connection((HERE, port)) as silent:
        assert 0.2 < closed_after(silent, 5) < 3


def test_an_association_on_which_nothing_comes_is_aborted(tmp_path):
    with listening(tmp_path, idle_timeout_s=0.4) as port:
        association = associate(port)
        end = time.monotonic() + 5
        while association.is_established and time.monotonic() < end:
            time.sleep(0.05)
        assert association.is_aborted


def test_a_peer_that_stops_inside_a_message_is_hung_up_on(tmp_path):
    with listening(tmp_path, idle_timeout_s=0.4) as port:
        association = associate(port)
        raw = association.dul.socket.socket
        raw.sendall(bytes.fromhex("0400000000ff"))  # a P-DATA-TF PDU of 255 bytes, none of which comes
        end = time.monotonic() + 5
        while association.is_established and time.monotonic() < end:
            time.sleep(0.05)
        assert not association.is_established
        echo.echo(Peer("MIRALL", HERE, port, "SCANNER"))


# The asynchronous operations window, and a full disk


@pytest.mark.parametrize(
    ("proposed", "contexts", "granted"),
    [
        (8, [CTImageStorage], 4),
        (3, [CTImageStorage, Verification], 3),
        (0, [CTImageStorage], 4),  # any number
        (8, [CTImageStorage, StudyRootQueryRetrieveInformationModelFind], 1),
    ],
)
def test_a_window_of_operations_is_for_who_only_stores(tmp_path, proposed, contexts, granted):
    with listening(tmp_path) as port:
        window = AsynchronousOperationsWindowNegotiation()
        window.maximum_number_operations_invoked, window.maximum_number_operations_performed = proposed, 0
        association = associate(port, *contexts, ext_neg=[window])
        assert association.acceptor.asynchronous_operations == (granted, 1)
        association.release()


def test_a_window_of_one_gives_one(tmp_path):
    with listening(tmp_path, asynchronous_operations=1) as port:
        window = AsynchronousOperationsWindowNegotiation()
        window.maximum_number_operations_invoked, window.maximum_number_operations_performed = 8, 8
        association = associate(port, CTImageStorage, ext_neg=[window])
        assert association.acceptor.asynchronous_operations == (1, 1)
        association.release()


def test_a_sender_that_goes_on_while_the_disk_is_short_fills_nothing_and_others_are_served(tmp_path, monkeypatch):
    with listening(tmp_path) as port:
        ingest_folder = tmp_path / "data" / "archive" / "incoming"
        monkeypatch.setattr(Storage, "check_space", _short)
        association = associate(port, CTImageStorage)
        for number in range(1, 6):
            sent = slice_of(f"1.2.{number}")
            sent.ensure_file_meta()
            sent.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2"
            assert association.send_c_store(sent, msg_id=number).Status == 0xA700
            assert sum(path.stat().st_size for path in ingest_folder.iterdir()) == 0
        find = associate(port, Verification, StudyRootQueryRetrieveInformationModelFind)
        assert find.send_c_echo().Status == 0
        query = slice_of("1.2.9", SOPInstanceUID=None)
        query.clear()
        query.QueryRetrieveLevel, query.StudyInstanceUID = "STUDY", ""
        (final,) = [status for status, _ in find.send_c_find(query, StudyRootQueryRetrieveInformationModelFind)]
        assert final.Status == 0
        for each in (association, find):
            each.release()


def _short(storage: Storage) -> None:
    from plugin.archive.storage import NoSpace

    raise NoSpace("no space in this test")
