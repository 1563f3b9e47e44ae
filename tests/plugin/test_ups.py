"""UPS-RS: paths, codes, Warning texts and event reports as PS3.18 11 has them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from archives import archive
from served import Served, served
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from worklist_objects import performed, workitem

from plugin.dicomweb import native_xml, ups
from plugin.jobs.port import Jobs
from plugin.settings import Node, Settings
from plugin.worklist.elements import code, elements, text
from plugin.worklist.mirror import uid_of

JSON, XML = "application/dicom+json", "application/dicom+xml"
WORKLIST, FILTERED = "1.2.840.10008.5.1.4.34.5", "1.2.840.10008.5.1.4.34.5.1"


@pytest.fixture
def door(tmp_path) -> Iterator[Served]:
    with served(archive(tmp_path), Settings(node=Node(data=tmp_path))) as running:
        yield running


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Iterator[Served]:
    """One workitem that is SCHEDULED and one that is IN PROGRESS, for requests that change nothing."""
    folder = tmp_path_factory.mktemp("two")
    with served(archive(folder), Settings(node=Node(data=folder))) as running:
        create(running, "1.2.1")
        create(running, "1.2.2")
        send(running, "PUT", "/workitems/1.2.2/state", to("IN PROGRESS"))
        yield running


def send(door: Served, method: str, path: str, document: Any = None, kind: str = JSON) -> httpx.Response:
    raw = None if document is None else native_xml.document(document) if kind == XML else json.dumps(document)
    headers = {} if raw is None else {"Content-Type": kind}
    return door.http.request(method, f"{door.url}{path}", content=raw, headers=headers)


def create(door: Served, uid: str = "1.2.3", **changes: Any) -> httpx.Response:
    return send(door, "POST", f"/workitems?{uid}", workitem(**changes))


def to(state: str, transaction: str = "2.25.7") -> dict:
    return elements(ProcedureStepState=state, TransactionUID=transaction)


def said(door: Served, warning: str) -> str:
    return f"299 {door.url}: {warning}"


@contextmanager
def channel(door: Served, aetitle: str, **headers: str) -> Iterator[ClientConnection]:
    url = f"{door.url}/subscribers/{aetitle}".replace("http", "ws", 1)
    with connect(url, proxy=None, additional_headers=headers) as opened:
        yield opened


def report(opened: ClientConnection) -> tuple[str, int, str]:
    """UID, Event Type ID and state of the next report."""
    document = json.loads(opened.recv(timeout=10))
    return (
        text(document, "AffectedSOPInstanceUID"),
        document["00001002"]["Value"][0],
        text(document, "ProcedureStepState"),
    )


def test_a_workitem_is_created_found_claimed_and_completed(door):
    answer = create(door, WorklistLabel="chest")
    assert (answer.status_code, answer.headers["location"], answer.content) == (
        201,
        f"{door.url}/workitems/1.2.3",
        b"",
    )
    assert "warning" not in answer.headers
    (found,) = door.http.get(f"{door.url}/workitems?ProcedureStepState=SCHEDULED&WorklistLabel=ch*").json()
    assert text(found, "SOPInstanceUID") == "1.2.3"
    assert send(door, "PUT", "/workitems/1.2.3/state", to("IN PROGRESS")).status_code == 200
    assert send(door, "POST", "/workitems/1.2.3?2.25.7", performed()).status_code == 200
    assert send(door, "PUT", "/workitems/1.2.3/state", to("COMPLETED")).status_code == 200
    whole = door.http.get(f"{door.url}/workitems/1.2.3", headers={"Accept": JSON}).json()
    assert text(whole, "ProcedureStepState") == "COMPLETED"
    again = send(door, "PUT", "/workitems/1.2.3/state", to("COMPLETED"))
    assert (again.status_code, again.headers["warning"]) == (
        200,
        said(door, "The UPS is already in the requested state of COMPLETED."),
    )


def test_xml_goes_in_and_out(door):
    given = workitem(PatientName={"Alphabetic": "Pháñtom^Ä"})
    assert send(door, "POST", "/workitems?workitem=1.2.3", given, XML).status_code == 201
    headers = {"Accept": XML}
    one = native_xml.read(door.http.get(f"{door.url}/workitems/1.2.3", headers=headers).content)
    assert one == door.http.get(f"{door.url}/workitems/1.2.3").json()
    several = door.http.get(f"{door.url}/workitems", headers={"Accept": f'multipart/related; type="{XML}"'})
    assert several.headers["content-type"].startswith(f'multipart/related; type="{XML}"')
    assert "Pháñtom" in several.text


def test_what_we_fill_in_is_said(door):
    assert create(door).headers["warning"] == said(door, "The Workitem was created with modifications.")


def test_nothing_found_is_204_and_more_than_is_given_at_once_206(door, monkeypatch):
    assert door.http.get(f"{door.url}/workitems").status_code == 204
    for number in range(4):
        create(door, f"1.2.{number}")
    monkeypatch.setattr(ups, "_MAXIMUM_RESULTS", 3)
    answers = [door.http.get(f"{door.url}/workitems{query}") for query in ("", "?limit=3", "?limit=2&offset=3")]
    assert [(answer.status_code, len(answer.json())) for answer in answers] == [(206, 3), (200, 3), (200, 1)]


@pytest.mark.parametrize(
    ("method", "path", "document", "status", "warning"),
    [
        ("POST", "/workitems?1.2.1", workitem(), 409, None),
        ("POST", "/workitems?1.2.9", {}, 400, None),
        ("GET", "/workitems/1.2.9", None, 404, None),
        ("GET", "/workitems?Pateint=x", None, 400, None),
        ("GET", "/workitems?limit=x", None, 400, None),
        ("POST", "/workitems/1.2.9", {}, 404, None),
        ("POST", "/workitems/1.2.1?2.25.7", {}, 409, ups.NOT_CLAIMED),
        ("POST", "/workitems/1.2.2", {}, 400, ups.INCONSISTENT),
        ("POST", "/workitems/1.2.2?2.25.8", {}, 400, ups.INCONSISTENT),
        ("PUT", "/workitems/1.2.1/state", to("IN PROGRESS", ""), 400, ups.TRANSACTION_MISSING),
        ("PUT", "/workitems/1.2.2/state", to("CANCELED", "2.25.8"), 400, ups.TRANSACTION_INCORRECT),
        ("PUT", "/workitems/1.2.1/state", to("COMPLETED"), 409, ups.INCONSISTENT_INSTANCE),
        ("PUT", "/workitems/1.2.2/state", to("IN PROGRESS"), 409, ups.INCONSISTENT_INSTANCE),
        ("PUT", "/workitems/1.2.2/state", to("COMPLETED"), 409, ups.INCONSISTENT_INSTANCE),
        ("PUT", "/workitems/1.2.9/state", to("IN PROGRESS"), 404, None),
        ("POST", "/workitems/1.2.2/cancelrequest", None, 409, None),
        ("POST", "/workitems/1.2.9/cancelrequest", None, 404, None),
        ("POST", "/workitems/1.2.9/subscribers/A", None, 404, None),
        ("POST", "/workitems/1.2.1/subscribers/A23456789012345678", None, 400, None),
        ("POST", "/workitems/1.2.1/subscribers/A?deletionlock=perhaps", None, 400, None),
        ("POST", f"/workitems/{FILTERED}/subscribers/A", None, 400, None),
        ("DELETE", "/workitems/1.2.1/subscribers/A", None, 404, None),
        ("POST", "/workitems/1.2.1/subscribers/A/suspend", None, 400, None),
        ("POST", f"/workitems/{WORKLIST}/subscribers/A/suspend", None, 404, None),
    ],
)
def test_refusals_are_codes_of_the_standard_with_a_sentence(two, method, path, document, status, warning):
    answer = send(two, method, path, document)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert len(answer.json()["detail"]) > 20
    assert answer.headers.get("warning") == (said(two, warning) if warning else None)


@pytest.mark.parametrize(
    ("raw", "kind", "status"),
    [(b"{", JSON, 400), (b"<a/>", XML, 400), (b"x", "text/plain", 415), (b" " * (1 << 23), JSON, 413)],
)
def test_a_payload_that_cannot_be_read_is_a_sentence(two, raw, kind, status):
    answer = two.http.post(f"{two.url}/workitems", content=raw, headers={"Content-Type": kind})
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")


def test_a_final_workitem_is_not_updated(door):
    create(door)
    assert send(door, "POST", "/workitems/1.2.3/cancelrequest", elements(ReasonForCancellation="no")).status_code == 202
    answer = send(door, "POST", "/workitems/1.2.3", {})
    assert (answer.status_code, answer.headers["warning"]) == (400, said(door, ups.INCONSISTENT))
    again = send(door, "POST", "/workitems/1.2.3/cancelrequest")
    assert (again.status_code, again.headers["warning"]) == (202, said(door, ups.IS_CANCELED))


# The channel


def test_a_subscriber_is_told_over_the_channel(door):
    create(door)
    with channel(door, "WATCH") as opened:
        answer = send(door, "POST", "/workitems/1.2.3/subscribers/WATCH")
        assert (answer.status_code, answer.headers["content-location"]) == (
            201,
            f"{door.url}/subscribers/WATCH".replace("http", "ws", 1),
        )
        assert report(opened) == ("1.2.3", 1, "SCHEDULED")
        send(door, "PUT", "/workitems/1.2.3/state", to("IN PROGRESS"))
        assert report(opened) == ("1.2.3", 1, "IN PROGRESS")
        assert send(door, "POST", "/workitems/1.2.3/cancelrequest?requester=WS2").status_code == 202
        asked = json.loads(opened.recv(timeout=10))
        assert (asked["00001002"]["Value"], text(asked, "RequestingAE")) == ([2], "WS2")
        assert send(door, "DELETE", "/workitems/1.2.3/subscribers/WATCH").status_code == 200
        send(door, "POST", f"/workitems/{FILTERED}/subscribers/WATCH?filter=WorklistLabel=chest")
        create(door, "1.2.4")
        create(door, "1.2.5", WorklistLabel="chest")
        assert report(opened) == ("1.2.5", 1, "SCHEDULED")
        assert send(door, "POST", f"/workitems/{FILTERED}/subscribers/WATCH/suspend").status_code == 200
        create(door, "1.2.6", WorklistLabel="chest")
        send(door, "PUT", "/workitems/1.2.5/state", to("IN PROGRESS"))
        assert report(opened) == ("1.2.5", 1, "IN PROGRESS")


def test_a_channel_that_is_open_misses_nothing_however_long_its_first_look_takes(door, monkeypatch):
    class Slow(ups.Watch):
        def __init__(self, *given: Any) -> None:
            time.sleep(0.5)
            super().__init__(*given)

    monkeypatch.setattr(ups, "Watch", Slow)
    create(door)
    with channel(door, "WATCH") as opened:
        send(door, "POST", "/workitems/1.2.3/subscribers/WATCH")
        assert report(opened) == ("1.2.3", 1, "SCHEDULED")


def test_two_channels_hear_of_a_job_that_is_stopped(door):
    with channel(door, "ONE") as one, channel(door, "TWO") as two:
        for title in ("ONE", "TWO"):
            send(door, "POST", f"/workitems/{WORKLIST}/subscribers/{title}?deletionlock=true")
        uid = uid_of(Jobs(door.ingest.index).enqueue_generation("painter:1", n=2))
        assert report(one) == report(two) == (uid, 1, "IN PROGRESS")
        assert send(door, "POST", f"/workitems/{uid}/cancelrequest").status_code == 202
        assert report(one) == report(two) == (uid, 1, "CANCELED")
        assert door.http.get(f"{door.url}/workitems/{uid}").status_code == 200


def test_who_had_subscribed_before_we_were_restarted_is_told_so(tmp_path):
    settings = Settings(node=Node(data=tmp_path))
    with served(archive(tmp_path), settings) as door:
        create(door)
        send(door, "POST", "/workitems/1.2.3/subscribers/WATCH")
    with served(archive(tmp_path), settings) as door, channel(door, "WATCH") as opened:
        document = json.loads(opened.recv(timeout=10))
        assert (document["00001002"]["Value"], text(document, "SCPStatus")) == ([4], "RESTARTED")
        assert (text(document, "SubscriptionListStatus"), text(document, "AffectedSOPInstanceUID")) == (
            "WARM START",
            WORKLIST,
        )
        send(door, "PUT", "/workitems/1.2.3/state", to("IN PROGRESS"))
        assert report(opened) == ("1.2.3", 1, "IN PROGRESS")


def test_a_channel_that_takes_nothing_is_closed(door, monkeypatch):
    monkeypatch.setattr(ups, "_WAITING_REPORTS", 1)
    with channel(door, "WATCH") as opened:
        send(door, "POST", f"/workitems/{WORKLIST}/subscribers/WATCH")
        for number in range(3):
            create(door, f"1.2.{number}", ScheduledStationNameCodeSequence=code("A", "99TEST", "A"))
        while True:
            try:
                opened.recv(timeout=10)
            except ConnectionClosed as ended:
                assert "1013" in str(ended)
                break


@pytest.mark.parametrize(
    "element", [None, [], "x", {"vr": "UI", "Value": {"a": 1}}, {"vr": None}, {"vr": "SQ", "Value": [1]}]
)
@pytest.mark.parametrize("tag", ["00081195", "00741000", "00741002"])
def test_an_attribute_that_is_none_is_a_sentence_wherever_it_stands(two, tag, element):
    for method, path in (("PUT", "/state"), ("POST", ""), ("POST", "/cancelrequest")):
        answer = send(two, method, f"/workitems/1.2.1{path}", to("IN PROGRESS") | {tag: element})
        assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")


def test_a_filter_that_cannot_be_judged_is_refused_before_it_silences_everybody(door):
    wanted = "ScheduledProcedureStepStartDateTime=x-y"
    answer = send(door, "POST", f"/workitems/{FILTERED}/subscribers/WATCH?deletionlock=true&filter={wanted}")
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")
    assert "'x-y' is no range of dates or times" in answer.json()["detail"]


@pytest.mark.parametrize("levels", [300, 20_000])
def test_items_within_items_without_end_are_a_sentence(two, levels):
    nested = '{"0040A730":{"vr":"SQ","Value":[' * levels + "{}" + "]}}" * levels
    answer = two.http.post(f"{two.url}/workitems", content=nested, headers={"Content-Type": JSON})
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")
