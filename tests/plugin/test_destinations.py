"""What is said of a send, to a DICOM node and to a DICOMweb server."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from email.parser import BytesParser
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydicom import Dataset
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    MRImageStorage,
    generate_uid,
)
from pynetdicom import AE, _config, evt
from pynetdicom.events import Event
from small_service import instance_bytes

from dicom_io.errors import TryAgain
from plugin.destinations import Parcel, StowDestination, opened
from plugin.settings import Destination

FIND = "1.2.840.10008.5.1.4.1.2.2.1"


@pytest.fixture(autouse=True)
def peers_take_only_what_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own node switches this on for the whole process; the peers here are others."""
    monkeypatch.setattr(_config, "UNRESTRICTED_STORAGE_SERVICE", False)


@pytest.fixture
def parcel(tmp_path: Path) -> Parcel:
    study, series, uid = generate_uid(), generate_uid(), generate_uid()
    path = tmp_path / "object.dcm"
    path.write_bytes(instance_bytes(study, series=series, uid=uid))
    return Parcel(uid, MRImageStorage, series, study, ExplicitVRLittleEndian, path)


class Node:
    """A DICOM node that answers as a test wants. status: for C-STORE; None breaks the association instead."""

    def __init__(self) -> None:
        self.status: int | None = 0x0000
        self.objects: dict[str, bytes] = {}

    def store(self, event: Event) -> int:
        if self.status is None:
            event.assoc.abort()
            return 0
        if self.status == 0x0000:
            self.objects[event.request.AffectedSOPInstanceUID] = event.request.DataSet.getvalue()
        return self.status

    def find(self, event: Event) -> Iterator[tuple[int, Dataset | None]]:
        if event.identifier.SOPInstanceUID in self.objects:
            yield 0xFF00, event.identifier


@contextmanager
def listening(
    node: Node, *, finds: bool = True, syntaxes: tuple[str, ...] = (ExplicitVRLittleEndian,)
) -> Iterator[int]:
    entity = AE("PACS")
    entity.require_called_aet = True
    entity.add_supported_context(MRImageStorage, list(syntaxes))
    entity.add_supported_context("1.2.840.10008.1.1")
    if finds:
        entity.add_supported_context(FIND, ImplicitVRLittleEndian)
    handlers = [(evt.EVT_C_STORE, node.store), (evt.EVT_C_FIND, node.find), (evt.EVT_C_ECHO, lambda event: 0x0000)]
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    try:
        yield server.socket.getsockname()[1]
    finally:
        server.shutdown()


@pytest.fixture(scope="module")
def usual() -> Iterator[tuple[Node, int]]:
    """A node that takes MR images and answers C-FIND, and its port."""
    node = Node()
    with listening(node) as port:
        yield node, port


def dimse(port: int, aet: str = "PACS") -> Any:
    return opened(Destination(kind="dimse", aet=aet, host="127.0.0.1", port=port), "MIRALL")


def test_a_dicom_node_gets_the_bytes_of_the_data_set_and_is_asked_for_them(parcel: Parcel) -> None:
    node = Node()
    with listening(node) as port:
        peer = dimse(port)
        assert peer.has([parcel]) == [False]
        assert [receipt.outcome for receipt in peer.send([parcel])] == ["sent"]
        assert peer.has([parcel]) == [True]
        assert peer.echo() == f"PACS@127.0.0.1:{port} answers C-ECHO"
    assert parcel.path.read_bytes().endswith(node.objects[parcel.sop_instance_uid])


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (0x0000, "sent"),
        (0xB000, "sent"),
        (0x0111, "sent"),  # it has the object already
        (0xA700, "again"),
        (0xA702, "again"),
        (0x0110, "again"),
        (0xA900, "refused"),
        (0xC000, "refused"),
        (0x0124, "refused"),
        (None, "unknown"),
    ],
)
def test_the_status_of_a_c_store_decides_what_is_done_next(
    usual: tuple[Node, int], parcel: Parcel, status: int | None, outcome: str
) -> None:
    node, port = usual
    node.status = status
    (receipt,) = dimse(port).send([parcel])
    assert receipt.outcome == outcome
    if outcome in ("again", "refused"):
        assert f"0x{status:04X}" in receipt.sentence


def test_what_did_not_leave_before_the_association_ended_is_not_unknown(
    usual: tuple[Node, int], parcel: Parcel, tmp_path: Path
) -> None:
    node, port = usual
    node.status = None
    uid, path = generate_uid(), tmp_path / "second.dcm"
    path.write_bytes(instance_bytes(parcel.study_instance_uid, series=parcel.series_instance_uid, uid=uid))
    receipts = dimse(port).send([parcel, replace(parcel, sop_instance_uid=uid, path=path)])
    assert [receipt.outcome for receipt in receipts] == ["unknown", "again"]
    assert "ended before this object was sent" in receipts[1].sentence


def test_a_node_without_c_find_cannot_be_asked_and_the_log_is_spared(
    parcel: Parcel, caplog: pytest.LogCaptureFixture
) -> None:
    with listening(Node(), finds=False) as port, caplog.at_level("ERROR", "pynetdicom"):
        assert dimse(port).has([parcel]) == [None]
    assert caplog.messages == []


def test_a_node_that_is_away_is_tried_again(parcel: Parcel) -> None:
    with listening(Node()) as port:
        pass
    peer = dimse(port)
    (receipt,) = peer.send([parcel])
    assert receipt.outcome == "again"
    assert "does not answer" in receipt.sentence
    with pytest.raises(TryAgain):
        peer.has([parcel])
    with pytest.raises(TryAgain):
        peer.echo()


def test_a_node_that_does_not_know_the_title_says_so(usual: tuple[Node, int], parcel: Parcel) -> None:
    (receipt,) = dimse(usual[1], "OTHER").send([parcel])
    assert receipt.outcome == "again"
    assert "rejected" in receipt.sentence


def test_a_node_that_takes_nothing_of_ours_is_told_from_one_that_is_away(parcel: Parcel) -> None:
    with listening(Node(), syntaxes=(JPEG2000Lossless,)) as port:
        (receipt,) = dimse(port).send([parcel])
    assert receipt.outcome == "refused"
    assert "does not take SOP class MR Image Storage in Explicit VR Little Endian" in receipt.sentence


def test_a_file_that_cannot_be_read_holds_up_no_other(usual: tuple[Node, int], parcel: Parcel, tmp_path: Path) -> None:
    node, port = usual
    node.status = 0x0000
    gone = replace(parcel, sop_instance_uid=generate_uid(), path=tmp_path / "gone.dcm")
    text = replace(parcel, sop_instance_uid=generate_uid(), path=tmp_path / "text.dcm")
    text.path.write_text("no DICOM")
    receipts = dimse(port).send([gone, parcel, text])
    assert [receipt.outcome for receipt in receipts] == ["again", "sent", "refused"]
    assert "the object cannot be read" in receipts[0].sentence
    assert "is no DICOM file" in receipts[2].sentence
    assert parcel.sop_instance_uid in node.objects
    (receipt,) = stow(lambda request: httpx.Response(200)).send([gone])
    assert (receipt.outcome, "the object cannot be read" in receipt.sentence) == ("again", True)


def stow(answer: Callable[[httpx.Request], httpx.Response]) -> StowDestination:
    return StowDestination("http://pacs/dicom-web/", "secret", transport=httpx.MockTransport(answer))


def stored(uid: str) -> dict[str, Any]:
    return {"00081199": {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": [uid]}}]}}


def failed(uid: str, reason: int) -> dict[str, Any]:
    item = {"00081155": {"vr": "UI", "Value": [uid]}, "00081197": {"vr": "US", "Value": [reason]}}
    return {"00081198": {"vr": "SQ", "Value": [item]}}


def test_stow_sends_the_stored_bytes_and_believes_the_list_in_the_answer(parcel: Parcel) -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json=stored(parcel.sop_instance_uid))

    assert [each.outcome for each in stow(answer).send([parcel])] == ["confirmed"]
    (request,) = seen
    assert (str(request.url), request.headers["Authorization"]) == ("http://pacs/dicom-web/studies", "Bearer secret")
    head = f"Content-Type: {request.headers['Content-Type']}\r\n\r\n".encode()
    (part,) = BytesParser().parsebytes(head + request.content).get_payload()  # type: ignore[misc]
    assert part.get_content_type() == "application/dicom"  # type: ignore[union-attr]
    assert parcel.path.read_bytes() in request.content


@pytest.mark.parametrize(
    ("status", "body", "outcome"),
    [
        (200, None, "sent"),
        (202, {}, "sent"),
        (409, 0x0111, "sent"),
        (409, 0xA700, "again"),
        (202, 0xC000, "refused"),
        (409, 0x0122, "refused"),
        (503, None, "again"),
        (507, None, "again"),
        (401, None, "again"),
        (400, None, "refused"),
    ],
)
def test_the_answer_to_stow_decides_what_is_done_next(
    parcel: Parcel, status: int, body: int | dict[str, Any] | None, outcome: str
) -> None:
    content = failed(parcel.sop_instance_uid, body) if isinstance(body, int) else body

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(status) if content is None else httpx.Response(status, json=[content])

    (receipt,) = stow(answer).send([parcel])
    assert receipt.outcome == outcome
    if outcome != "sent":
        assert (f"0x{body:04X}" if isinstance(body, int) else f"HTTP {status}") in receipt.sentence


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        ({"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": ["A700"]}}]}}, "again"),
        ({"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": ["49152"]}}]}}, "refused"),
        ({"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [None]}}]}}, "again"),
        ({"00081198": {"vr": "SQ", "Value": [{"00081155": {"Value": None}, "00081197": None}]}}, "again"),
        ({"00081198": {"vr": "SQ", "Value": None}}, "sent"),
        ({"00081199": {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": None}}]}}, "sent"),
        ({"00081199": {"vr": "SQ", "Value": ["1.2.3"]}}, "sent"),
        ({"00081199": "stored"}, "sent"),
        ({"00081198": ["1.2.3"]}, "sent"),
        ("thanks", "sent"),
        ([None], "sent"),
        (None, "sent"),
    ],
)
def test_an_odd_answer_to_stow_is_success_unless_it_lists_a_failure(parcel: Parcel, body: object, outcome: str) -> None:
    (receipt,) = stow(lambda request: httpx.Response(200, content=json.dumps(body))).send([parcel])
    assert receipt.outcome == outcome


@pytest.mark.parametrize(
    "body",
    [
        ["x"],
        [None],
        [{"00080018": None}],
        [{"00080018": {"vr": "UI", "Value": None}}],
        [{"00080018": {"vr": "UI"}}],
        {"00080018": {"vr": "UI", "Value": ["1.2"]}},
        "x",
    ],
)
def test_an_odd_answer_to_a_search_says_nothing_of_the_object(parcel: Parcel, body: object) -> None:
    assert stow(lambda request: httpx.Response(200, content=json.dumps(body))).has([parcel]) == [None]


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(httpx.ConnectError, "again"), (httpx.ConnectTimeout, "again"), (httpx.ReadTimeout, "unknown")],
)
def test_silence_before_or_after_the_bytes_left_is_told_apart(
    parcel: Parcel, error: type[httpx.TransportError], outcome: str
) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise error("nobody there")

    (receipt,) = stow(answer).send([parcel])
    assert receipt.outcome == outcome
    assert "nobody there" in receipt.sentence
    with pytest.raises(TryAgain, match="nobody there"):
        stow(answer).has([parcel])
    with pytest.raises(TryAgain, match="nobody there"):
        stow(answer).echo()


def test_a_dicomweb_server_is_asked_by_qido(parcel: Parcel) -> None:
    def lists(*uids: str) -> Callable[[httpx.Request], httpx.Response]:
        def answer(request: httpx.Request) -> httpx.Response:
            path = f"/dicom-web/studies/{parcel.study_instance_uid}/series/{parcel.series_instance_uid}/instances"
            assert request.url.path == path
            return httpx.Response(200, json=[{"00080018": {"vr": "UI", "Value": [uid]}} for uid in uids])

        return answer

    assert stow(lists("1.2", parcel.sop_instance_uid)).has([parcel]) == [True]
    assert stow(lists("1.2")).has([parcel]) == [False], "a server that ignores the key lists something else"
    assert stow(lambda request: httpx.Response(204)).has([parcel]) == [False]
    assert stow(lambda request: httpx.Response(405)).has([parcel]) == [None]
    with pytest.raises(TryAgain):
        stow(lambda request: httpx.Response(503)).has([parcel])


class Counting(httpx.BaseTransport):
    """A server that reads what is posted block by block."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        assert isinstance(request.stream, httpx.SyncByteStream)
        assert sum(map(len, request.stream)) == int(request.headers["content-length"])
        assert "transfer-encoding" not in request.headers
        return httpx.Response(200, json={})


def test_a_long_object_is_in_memory_once_while_it_is_posted(parcel: Parcel) -> None:
    parcel.path.write_bytes(parcel.path.read_bytes() + bytes(16 << 20))
    tracemalloc.start()
    try:
        (receipt,) = StowDestination("http://pacs/dicom-web", transport=Counting()).send([parcel])
        assert receipt.outcome == "sent"
        assert tracemalloc.get_traced_memory()[1] < 24 << 20
    finally:
        tracemalloc.stop()
