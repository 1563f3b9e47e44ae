"""C-MOVE and C-GET as services, and C-STORE as a client: what goes where, in which encoding, and what is said of it."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from archives import archive, generated, give
from dicom_objects import SERIES, STUDY, file_of, slice_of
from pydicom import Dataset, dcmread
from pydicom.filebase import DicomBytesIO
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
)
from pynetdicom import AE, _config, build_context, build_role, evt
from pynetdicom.association import Association
from pynetdicom.events import Event

from dicom_io import dataset, encoding, pixels
from dicom_io.errors import Rejected
from plugin.archive.ingest import Ingest
from plugin.dimse import move, node
from plugin.dimse.client import store
from plugin.dimse.client.association import Peer
from plugin.dimse.client.store import Kind, batches
from plugin.dimse.reception import implicit
from plugin.settings import Destination, Node, Settings

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

PATIENT_ROOT, STUDY_ROOT = "1.2.840.10008.5.1.4.1.2.1.{}", "1.2.840.10008.5.1.4.1.2.2.{}"
MOVE, GET = 2, 3
UIDS = [f"2.25.{number}" for number in range(1, 7)]


@dataclass
class Receiver:
    """A peer that takes objects. refused: SOP Instance UIDs; before: called when an object has come."""

    refused: tuple[str, ...] = ()
    before: Callable[[], None] = lambda: None
    objects: dict[str, bytes] = field(default_factory=dict)
    syntaxes: dict[str, str] = field(default_factory=dict)
    originators: set[tuple[str, int]] = field(default_factory=set)

    def store(self, event: Event) -> int:
        request = event.request
        uid = str(request.AffectedSOPInstanceUID)
        if uid in self.refused:
            return 0xC123
        self.objects[uid] = event.encoded_dataset(include_meta=False)
        self.syntaxes[uid] = str(event.context.transfer_syntax)
        self.originators.add((request.MoveOriginatorApplicationEntityTitle, request.MoveOriginatorMessageID))
        self.before()
        return 0x0000


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Ingest]:
    """Six slices: 2.25.1 to 2.25.4 in one series, two in another study of another patient."""
    ingest = archive(tmp_path / "data")
    for number, uid in enumerate(UIDS):
        other = {} if number < 4 else {"study": "2.25.2001", "series": "2.25.2002", "patient": "P2"}
        give(ingest, slice_of(uid, value=number, InstanceNumber=number, **other))
    yield ingest
    ingest.index.close()


@contextmanager
def listening(
    receiver: Receiver, classes: tuple[str, ...] = (CTImageStorage,), syntaxes: tuple[str, ...] = ()
) -> Iterator[int]:
    entity = AE("ELSEWHERE")
    for sop_class in classes:
        entity.add_supported_context(sop_class, list(syntaxes or (ExplicitVRLittleEndian, ImplicitVRLittleEndian)))
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, receiver.store)])
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()


@contextmanager
def serving(here: Ingest, port: int = 1, idle_timeout_s: float = 120.0, **destination: Any) -> Iterator[int]:
    section = Destination(kind="dimse", aet="ELSEWHERE", host="127.0.0.1", port=port, **destination)
    own = Node(dimse="127.0.0.1:0", idle_timeout_s=idle_timeout_s)
    settings = Settings(node=own, destinations={"elsewhere": section})
    listener = node.start(settings, here)
    try:
        yield listener.address.port
    finally:
        listener.stop()


@pytest.fixture
def peers_take_what_they_say(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Our node takes any storage class by a switch of the whole process; the peers of these tests do not."""
    return lambda: monkeypatch.setattr(_config, "UNRESTRICTED_STORAGE_SERVICE", False)


def identifier(level: str, **keys: str | list[str]) -> Dataset:
    query = Dataset()
    query.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(query, keyword, value)
    return query


def asking(port: int, model: str, store_to: Receiver | None = None, syntaxes: tuple[str, ...] = ()) -> Association:
    """An association for one model; with a receiver, one that proposes CT and MR with us as their provider."""
    entity = AE("ASKER")
    contexts, roles, handlers = [build_context(model)], [], []
    if store_to is not None:
        for sop_class in (CTImageStorage, MRImageStorage):
            contexts.append(build_context(sop_class, list(syntaxes or (ExplicitVRLittleEndian,))))
            roles.append(build_role(sop_class, scp_role=True))
        handlers = [(evt.EVT_C_STORE, store_to.store)]
    association = entity.associate(
        "127.0.0.1", port, contexts=contexts, ae_title="MIRALL", ext_neg=roles, evt_handlers=handlers
    )
    assert association.is_established
    return association


def moved(port: int, query: Dataset, aet: str = "ELSEWHERE", root: str = STUDY_ROOT) -> list[tuple[Dataset, Any]]:
    association = asking(port, root.format(MOVE))
    answers = list(association.send_c_move(query, aet, root.format(MOVE), msg_id=77))
    association.release()
    return answers


def got(
    port: int, query: Dataset, receiver: Receiver, root: str = STUDY_ROOT, syntaxes: tuple[str, ...] = ()
) -> list[tuple[Dataset, Any]]:
    association = asking(port, root.format(GET), receiver, syntaxes)
    answers = list(association.send_c_get(query, root.format(GET)))
    association.release()
    return answers


def asked(association: Association, verb: str, query: Dataset, model: str) -> list[tuple[Dataset, Any]]:
    if verb == "get":
        return list(association.send_c_get(query, model))
    return list(association.send_c_move(query, "ELSEWHERE", model))


def counts(status: Dataset) -> tuple[int | None, int, int, int]:
    """Remaining, completed, warning, failed."""
    return (
        status.get("NumberOfRemainingSuboperations"),
        status.NumberOfCompletedSuboperations,
        status.NumberOfWarningSuboperations,
        status.NumberOfFailedSuboperations,
    )


WANTED = [
    (PATIENT_ROOT, identifier("PATIENT", PatientID="P1"), UIDS[:4]),
    (PATIENT_ROOT, identifier("STUDY", PatientID="P1", StudyInstanceUID=STUDY), UIDS[:4]),
    (PATIENT_ROOT, identifier("STUDY", PatientID="P2", StudyInstanceUID=STUDY), []),
    (STUDY_ROOT, identifier("STUDY", StudyInstanceUID=[STUDY, "2.25.2001"]), UIDS),
    (STUDY_ROOT, identifier("SERIES", StudyInstanceUID=STUDY, SeriesInstanceUID=SERIES), UIDS[:4]),
    (
        STUDY_ROOT,
        identifier("IMAGE", StudyInstanceUID=STUDY, SeriesInstanceUID=SERIES, SOPInstanceUID=UIDS[1:3] + UIDS[5:]),
        UIDS[1:3],
    ),
    (STUDY_ROOT, identifier("IMAGE", SOPInstanceUID=UIDS[5]), UIDS[5:]),
]


@pytest.mark.parametrize(("root", "query", "uids"), WANTED)
def test_each_level_of_both_models_gives_its_objects_byte_for_byte(here, root, query, uids):
    receiver, elsewhere = Receiver(), Receiver()
    with listening(elsewhere) as port, serving(here, port) as door:
        answers = got(door, query, receiver, root)
        answers_to_move = moved(door, query, root=root)
    for taken, said in ((receiver, answers), (elsewhere, answers_to_move)):
        assert [status.Status for status, _ in said] == [0xFF00] * max(len(uids) - 1, 0) + [0x0000]
        assert counts(said[-1][0]) == (None, len(uids), 0, 0)
        assert sorted(taken.objects) == uids
        for uid, raw in taken.objects.items():
            assert here.index.instance(uid).path.read_bytes().endswith(raw)
    assert elsewhere.originators == ({("ASKER", 77)} if uids else set())
    assert [counts(status)[0] for status, _ in answers[:-1]] == list(range(len(uids) - 1, 0, -1))


@pytest.mark.parametrize(
    ("root", "query"),
    [
        (STUDY_ROOT, identifier("PATIENT", PatientID="P1")),
        (STUDY_ROOT, identifier("STUDY")),
        (STUDY_ROOT, identifier("STUDY", StudyInstanceUID="2.25.*")),
        (STUDY_ROOT, identifier("SERIES", StudyInstanceUID=STUDY)),
        (PATIENT_ROOT, identifier("FRAME", SOPInstanceUID="1.2")),
    ],
)
def test_an_identifier_that_names_nothing_is_refused_with_a_reason(here, root, query):
    with serving(here) as door:
        for answers in (got(door, query, Receiver(), root), moved(door, query, root=root)):
            ((status, _),) = answers
            assert status.Status == 0xA900
            assert status.ErrorComment


def test_an_unknown_destination_is_said_to_be_unknown_and_a_dead_one_fails_each_object(here):
    with serving(here, port=1) as door:
        ((status, _),) = moved(door, identifier("STUDY", StudyInstanceUID=STUDY), aet="NOBODY")
        assert status.Status == 0xA801
        *_, (status, failed) = moved(door, identifier("STUDY", StudyInstanceUID=STUDY))
        assert status.Status == 0xA702
        assert "does not answer" in status.ErrorComment
        assert counts(status) == (None, 0, 0, 4)
        assert sorted(failed.FailedSOPInstanceUIDList) == UIDS[:4]


def test_what_is_refused_or_missing_is_listed_and_the_rest_goes(here):
    here.index.instance(UIDS[1]).path.unlink()
    receiver, elsewhere = Receiver(refused=(UIDS[2],)), Receiver(refused=(UIDS[2],))
    with listening(elsewhere) as port, serving(here, port) as door:
        query = identifier("STUDY", StudyInstanceUID=STUDY)
        for answers, taken in ((got(door, query, receiver), receiver), (moved(door, query), elsewhere)):
            status, failed = answers[-1]
            assert (status.Status, counts(status)) == (0xB000, (None, 2, 0, 2))
            assert list(failed.FailedSOPInstanceUIDList) == UIDS[1:3]
            assert sorted(taken.objects) == [UIDS[0], UIDS[3]]


def test_a_destination_that_does_not_take_a_class_gets_the_others(here, peers_take_what_they_say):
    give(here, slice_of("2.25.9", SOPClassUID=MRImageStorage, InstanceNumber=9))
    elsewhere = Receiver()
    with listening(elsewhere) as port, serving(here, port) as door:
        peers_take_what_they_say()
        status, failed = moved(door, identifier("STUDY", StudyInstanceUID=STUDY))[-1]
    assert (status.Status, counts(status)) == (0xB000, (None, 4, 0, 1))
    assert failed.FailedSOPInstanceUIDList == "2.25.9"


@pytest.mark.parametrize("stored", [JPEGLSLossless, RLELossless, JPEG2000Lossless], ids=lambda uid: uid.keyword)
def test_a_peer_that_knows_no_compression_gets_the_same_pixels(here, tmp_path, stored, peers_take_what_they_say):
    original, compressed = tmp_path / "original.dcm", tmp_path / "compressed.dcm"
    rng = np.random.default_rng(8)
    values = rng.integers(0, 4096, (40, 56), dtype="<u2")
    original.write_bytes(file_of(slice_of("2.25.7", study="2.25.70", Rows=40, Columns=56, PixelData=values.tobytes())))
    encoding.write(original, compressed, stored)
    give(here, compressed.read_bytes())
    query = identifier("STUDY", StudyInstanceUID="2.25.70")
    receiver, elsewhere = Receiver(), Receiver()
    with (
        listening(elsewhere, syntaxes=(ImplicitVRLittleEndian,)) as port,
        serving(here, port, profile={"transfer_syntaxes": (JPEGBaseline8Bit, ImplicitVRLittleEndian)}) as door,
    ):
        # The first syntax that it proposes would lose something.
        got(door, query, receiver, syntaxes=(JPEGBaseline8Bit, ImplicitVRLittleEndian))
        peers_take_what_they_say()
        moved(door, query)
    for taken in (receiver, elsewhere):
        assert taken.syntaxes == {"2.25.7": ImplicitVRLittleEndian}
        read = dcmread(DicomBytesIO(taken.objects["2.25.7"]), force=True)
        assert read.PixelData == values.tobytes()


def test_a_peer_that_takes_what_is_stored_gets_it_undecoded(here, tmp_path):
    compressed = tmp_path / "compressed.dcm"
    encoding.write(written(tmp_path, "2.25.8", study="2.25.8001"), compressed, RLELossless)
    raw = compressed.read_bytes()
    give(here, raw)
    receiver = Receiver()
    with serving(here) as door:
        got(door, identifier("IMAGE", SOPInstanceUID="2.25.8"), receiver, syntaxes=(RLELossless,))
    assert raw.endswith(receiver.objects["2.25.8"])


def test_our_own_work_passes_the_gate_or_counts_as_failed(here, peers_take_what_they_say):
    """Unproven work goes where it may, in another encoding, too; with damaged labels it goes nowhere."""
    made, record = generated()
    give(here, made, record)
    row = here.index.instance(made.SOPInstanceUID)
    query = identifier("IMAGE", SOPInstanceUID=made.SOPInstanceUID)
    taken = Receiver()
    with listening(taken, (made.SOPClassUID,), (ImplicitVRLittleEndian,)) as port:
        with serving(here, port) as door:
            assert moved(door, query)[-1][0].Status == 0xA702
        with serving(here, port, allow_unproven=True) as door:
            assert moved(door, query)[-1][0].Status == 0x0000
            assert row.path.read_bytes().endswith(taken.objects.pop(made.SOPInstanceUID))
            peers_take_what_they_say()
            assert moved(door, query)[-1][0].Status == 0x0000
            assert taken.syntaxes[made.SOPInstanceUID] == ImplicitVRLittleEndian
            assert made.PixelData in taken.objects.pop(made.SOPInstanceUID)
            row.path.write_bytes(row.path.read_bytes().replace(b"SYNTHETIC", b"SYNTHETIK"))
            assert moved(door, query)[-1][0].Status == 0xA702
    assert taken.objects == {}


@pytest.mark.parametrize("verb", ["move", "get"])
def test_a_cancelled_retrieval_stops_and_says_what_is_left(here, verb):
    model = STUDY_ROOT.format(MOVE if verb == "move" else GET)
    receiver = Receiver()
    with listening(receiver) as port, serving(here, port) as door:
        association = asking(door, model, receiver if verb == "get" else None)
        cancelled = threading.Event()

        def wait_for_cancel() -> None:
            if len(receiver.objects) == 2:
                association.send_c_cancel(1, query_model=model)
                cancelled.set()
                time.sleep(0.1)

        receiver.before = wait_for_cancel
        query = identifier("STUDY", StudyInstanceUID=[STUDY, "2.25.2001"])
        answers = asked(association, verb, query, model)
        status, failed = answers[-1]
        association.release()
    assert cancelled.is_set()
    assert status.Status == 0xFE00
    remaining, completed, warnings, failures = counts(status)
    assert (completed, warnings, failures) == (len(receiver.objects), 0, 0)
    assert remaining == len(UIDS) - completed > 0
    assert not failed.get("FailedSOPInstanceUIDList")


def test_a_retrieval_that_takes_longer_than_the_idle_limit_is_not_idle(here):
    slow, model = Receiver(before=lambda: time.sleep(0.4)), STUDY_ROOT.format(GET)
    everything = identifier("STUDY", StudyInstanceUID=[STUDY, "2.25.2001"])
    with serving(here, idle_timeout_s=1) as port:
        association = asking(port, model, slow)
        for _ in range(2):
            answers = asked(association, "get", everything, model)
            assert [status.Status for status, _ in answers] == [0xFF00] * 5 + [0x0000]
        association.release()
    assert set(slow.objects) == set(UIDS)


@pytest.mark.parametrize("verb", ["move", "get"])
def test_a_peer_that_vanishes_ends_its_retrieval_and_nothing_else(here, verb):
    model = STUDY_ROOT.format(MOVE if verb == "move" else GET)
    receiver = Receiver()
    with listening(receiver) as port, serving(here, port) as door:
        association = asking(door, model, receiver if verb == "get" else None)

        def vanish() -> None:
            if len(receiver.objects) == 2:
                association.abort()
                association.dimse.msg_queue.put((None, None))  # as where the peer breaks off: nobody waits any more

        receiver.before = vanish
        query = identifier("STUDY", StudyInstanceUID=[STUDY, "2.25.2001"])
        answers = asked(association, verb, query, model)
        assert "Status" not in answers[-1][0]
        receiver.before = lambda: None
        assert moved(door, identifier("IMAGE", SOPInstanceUID=UIDS[0]))[-1][0].Status == 0x0000
    assert len(receiver.objects) < len(UIDS)


def test_a_peer_that_resets_the_connection_before_the_last_word_hangs_nothing(here):
    """The last word lists what failed, so it is two messages to nobody."""
    model = STUDY_ROOT.format(GET)
    with serving(here) as port:
        for _ in range(5):
            receiver = Receiver(refused={UIDS[0]})
            association = asking(port, model, receiver)

            sent: list[int] = []

            def after_the_last_answer(event: Any, sent: list[int] = sent) -> None:
                sent.append(1)
                if len(sent) == 2 + len(UIDS):  # the request with its identifier, and an answer to each object
                    raw = event.assoc.dul.socket.socket
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    raw.close()

            association.bind(evt.EVT_PDU_SENT, after_the_last_answer)
            asked(association, "get", identifier("STUDY", StudyInstanceUID=[STUDY, "2.25.2001"]), model)
            association.abort()
        before = time.monotonic()
    assert time.monotonic() - before < 5, "the listener waits for an association that is gone"


def test_an_answer_that_cannot_be_decoded_is_no_answer(tmp_path):
    """Command Field (0000,0100) is 7777H, which PS3.7 E.1 does not know."""

    def gibberish(event: Any) -> int:
        body = implicit(0x0100, b"\x77\x77") + implicit(0x0120, b"\1\0") + implicit(0x0800, b"\1\1")
        command = implicit(0x0000, struct.pack("<I", len(body))) + body
        value = struct.pack(">IBB", len(command) + 2, event.context.context_id, 3) + command
        event.assoc.dul.socket.socket.sendall(struct.pack(">BxI", 4, len(value)) + value)
        return 0x0000

    entity = AE("ELSEWHERE")
    entity.add_supported_context(CTImageStorage, [ExplicitVRLittleEndian])
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, gibberish)])
    try:
        peer = Peer("ELSEWHERE", "127.0.0.1", server.server_address[1])
        paths = [written(tmp_path, "2.25.1"), written(tmp_path, "2.25.2")]
        first, second = store.send(peer, paths, timeout_s=5)
    finally:
        server.shutdown()
    assert (first.status, first.can_retry) == (None, True)
    assert "whether it has the object is not known" in first.reason
    assert (second.status, second.transfer_syntax_uid) == (None, "")


def test_whoever_waits_for_a_slow_destination_hears_that_it_goes_on(here, monkeypatch):
    monkeypatch.setattr(move, "_PENDING_EVERY_S", 0.05)
    receiver = Receiver(before=lambda: time.sleep(0.3))
    with listening(receiver) as port, serving(here, port) as door:
        answers = moved(door, identifier("IMAGE", SOPInstanceUID=UIDS[0]))
    assert len(answers) > 3
    assert {status.Status for status, _ in answers[:-1]} == {0xFF00}
    assert counts(answers[0][0]) == (1, 0, 0, 0)


# The client


def written(folder: Path, uid: str, **attributes: Any) -> Path:
    path = folder / f"{uid}.dcm"
    path.write_bytes(file_of(slice_of(uid, **attributes)))
    return path


def test_the_gate_sees_the_bytes_that_leave_and_no_others(tmp_path, monkeypatch):
    monkeypatch.setattr(_config, "UNRESTRICTED_STORAGE_SERVICE", False)
    compressed = tmp_path / "compressed.dcm"
    encoding.write(written(tmp_path, "2.25.1"), compressed, RLELossless)
    paths = [compressed, written(tmp_path, "2.25.2"), written(tmp_path, "2.25.3")]
    seen = {}

    def check(path: Path) -> None:
        read = dataset.read(path)
        seen[str(read.SOPInstanceUID)] = path.read_bytes()
        if read.SOPInstanceUID == "2.25.3":
            raise Rejected("instance 2.25.3 must not leave")

    receiver = Receiver()
    with listening(receiver, syntaxes=(ExplicitVRLittleEndian,)) as port:
        sent = list(store.send(Peer("ELSEWHERE", "127.0.0.1", port), paths, check=check))
    assert [(one.sop_instance_uid, one.accepted) for one in sent] == [
        ("2.25.1", True),
        ("2.25.2", True),
        ("2.25.3", False),
    ]
    assert sent[2].reason == "instance 2.25.3 must not leave"
    assert sorted(receiver.objects) == ["2.25.1", "2.25.2"]
    assert all(seen[uid].endswith(raw) for uid, raw in receiver.objects.items())


def test_a_profile_says_in_what_a_peer_gets_it(tmp_path, monkeypatch):
    monkeypatch.setattr(_config, "UNRESTRICTED_STORAGE_SERVICE", False)
    path, receiver = written(tmp_path, "2.25.1"), Receiver()
    with listening(receiver, syntaxes=(JPEGLSLossless, RLELossless)) as port:
        (sent,) = store.send(Peer("ELSEWHERE", "127.0.0.1", port), [path], prefer=[RLELossless, JPEGLSLossless])
        assert (sent.accepted, sent.transfer_syntax_uid) == (True, RLELossless)
        (sent,) = store.send(Peer("ELSEWHERE", "127.0.0.1", port), [path])
        assert (sent.accepted, sent.status) == (False, store.SOP_CLASS_NOT_SUPPORTED)


def test_a_peer_that_takes_the_association_and_never_answers_is_given_up(tmp_path):
    halt = threading.Event()
    receiver = Receiver(before=lambda: halt.wait(10))
    with listening(receiver) as port:
        begun = time.monotonic()
        paths = [written(tmp_path, "2.25.1"), written(tmp_path, "2.25.2")]
        sent = list(store.send(Peer("ELSEWHERE", "127.0.0.1", port), paths, timeout_s=0.5))
        took = time.monotonic() - begun
        halt.set()
    assert [one.status for one in sent] == [None, None]
    assert took < 5


def test_contexts_are_what_the_data_need_and_at_most_128_in_an_association():
    syntaxes = [ExplicitVRLittleEndian, RLELossless, JPEGLSLossless]
    kinds = [Kind(f"1.2.3.{number}", syntax) for number in range(60) for syntax in syntaxes]
    found = list(batches(kinds))
    assert [len(contexts) for _, contexts in found] == [128, 112]
    assert frozenset().union(*(batch for batch, _ in found)) == frozenset(kinds)
    ((_, contexts),) = batches([Kind("1.2.3", RLELossless)])
    assert [context.transfer_syntax for context in contexts] == [
        [RLELossless],
        [ExplicitVRLittleEndian, ImplicitVRLittleEndian],
    ]
    ((_, contexts),) = batches([Kind("1.2.3", RLELossless)], [JPEGLSLossless])
    assert [context.transfer_syntax[0] for context in contexts] == [JPEGLSLossless, ExplicitVRLittleEndian]


def test_a_large_object_goes_out_in_pieces_of_the_size_that_the_peer_takes(tmp_path):
    values = np.random.default_rng(9).integers(0, 4096, (700, 900), dtype="<u2")
    path = written(tmp_path, "2.25.1", Rows=700, Columns=900, PixelData=values.tobytes())
    largest: list[int] = []
    receiver = Receiver()
    entity = AE("ELSEWHERE")
    entity.maximum_pdu_size = 4096
    entity.add_supported_context(CTImageStorage)
    handlers = [
        (evt.EVT_C_STORE, receiver.store),
        (evt.EVT_DATA_RECV, lambda event: largest.append(len(event.data))),
    ]
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    (sent,) = store.send(Peer("ELSEWHERE", "127.0.0.1", server.server_address[1]), [path])
    server.shutdown()
    assert sent.accepted
    assert max(largest) <= 4096 + 6
    assert path.read_bytes().endswith(receiver.objects["2.25.1"])
    assert pixels.stored(dataset.read(path)).shape == (700, 900)
