"""Storage commitment both ways: what is answered, what is stored before, and what becomes of it after a kill."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from archives import archive, give
from dicom_objects import slice_of
from pydicom import Dataset
from pydicom.uid import CTImageStorage, MRImageStorage
from pynetdicom import AE, _config, build_context, build_role, evt
from pynetdicom.association import Association
from pynetdicom.events import Event
from pynetdicom.sop_class import StorageCommitmentPushModel
from small_service import SmallService, instance_bytes, until

from dicom_io.errors import TryAgain
from plugin.archive.ingest import Ingest
from plugin.destinations import opened
from plugin.dimse import commitment_data as data
from plugin.dimse import node
from plugin.dimse.client import commitment as client
from plugin.dimse.client.association import Peer
from plugin.dimse.commitment import Reporter
from plugin.jobs.commitments import NO_SUCH_INSTANCE, Reference, Report, Requests, Transactions
from plugin.jobs.delivery import Courier
from plugin.jobs.patience import Patience
from plugin.jobs.planning import add_to_outbox
from plugin.settings import Settings

TRANSACTION = "2.25.4711"


@pytest.fixture(autouse=True)
def peers_take_only_what_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_config, "UNRESTRICTED_STORAGE_SERVICE", False)


class House:
    """Our node over a small archive. destinations: as in mirall.toml."""

    def __init__(self, folder: Path, destinations: dict[str, Any] | None = None) -> None:
        self.settings = Settings.model_validate(
            {"node": {"data": folder, "dimse": "127.0.0.1:0", "open": True}, "destinations": destinations or {}}
        )
        self.ingest: Ingest = archive(folder)
        self.listener = node.start(self.settings, self.ingest)
        self.address = Peer("MIRALL", "127.0.0.1", self.listener.address.port, "PACS")

    def hold(self, count: int = 1) -> list[Reference]:
        return [Reference(str(CTImageStorage), give(self.ingest, slice_of()).sop_instance_uid) for _ in range(count)]

    def state(self) -> str:
        (row,) = self._requests().values()
        return row

    def _requests(self) -> dict[str, str]:
        with self.ingest.index.read() as connection:
            rows = connection.exec_driver_sql("SELECT transaction_uid, state FROM commitment_owed")
            return {row[0]: row[1] for row in rows}


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    made.listener.stop()
    made.ingest.index.close()


class Reported:
    """Reports that a peer took. answer: the status that it gives."""

    def __init__(self, answer: int = 0x0000) -> None:
        self.answer = answer
        self.reports: list[Report] = []

    def take(self, event: Event) -> tuple[int, None]:
        self.reports.append(data.read_report(event.event_type, lambda: event.event_information))
        return self.answer, None


def asked(house: House, references: Sequence[Reference], wait_s: float = 5.0) -> list[Report]:
    """The reports that come on the association that asked."""
    got: list[Report] = []

    def enter(report: Report, sender: str) -> bool:
        got.append(report)
        return True

    client.ask(house.address, TRANSACTION, references, enter, lambda: not got, wait_s=wait_s)
    return got


def test_what_we_hold_is_committed_on_the_association_that_asked(house: House) -> None:
    held = house.hold(3)
    (report,) = asked(house, held)
    assert (report.event, report.committed, report.failed) == (1, tuple(held), ())
    until(lambda: house.state() == "reported")


def test_what_we_do_not_hold_whole_fails_with_its_reason(house: House) -> None:
    held, lost, cut = house.hold(3)
    for reference, change in ((lost, Path.unlink), (cut, lambda path: os.truncate(path, 200))):
        row = house.ingest.index.instance(reference.sop_instance_uid)
        assert row is not None
        row.path.chmod(0o600)
        change(row.path)
    never = Reference(str(CTImageStorage), "2.25.1")
    other_class = Reference(str(MRImageStorage), held.sop_instance_uid)
    (report,) = asked(house, [held, lost, cut, never, other_class])
    assert (report.event, report.committed) == (2, (held,))
    assert dict(report.failed) == {lost: 0x0112, cut: 0x0110, never: 0x0112, other_class: 0x0119}


@contextmanager
def calling(house: House, reported: Reported) -> Iterator[Association]:
    entity = AE("PACS")
    entity.dimse_timeout = 5
    association = entity.associate(
        "127.0.0.1",
        house.listener.address.port,
        contexts=[build_context(StorageCommitmentPushModel), build_context("1.2.840.10008.1.1")],
        ae_title="MIRALL",
        evt_handlers=[(evt.EVT_N_EVENT_REPORT, reported.take)],
    )
    assert association.is_established
    yield association
    if association.is_established:
        association.release()


def request(uid: str = TRANSACTION, instances: Sequence[str] = ("2.25.1",)) -> Dataset:
    return data.request(uid, [Reference(str(CTImageStorage), each) for each in instances])


def without(keyword: str) -> Dataset:
    dataset = request()
    delattr(dataset, keyword)
    return dataset


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
@pytest.mark.parametrize(
    ("information", "action", "instance", "status"),
    [
        (request(), 1, data.SOP_INSTANCE, 0x0000),
        (request(), 2, data.SOP_INSTANCE, 0x0123),
        (request(), 1, "1.2.3", 0x0112),
        (request(uid="no UID"), 1, data.SOP_INSTANCE, 0x0115),
        (without("TransactionUID"), 1, data.SOP_INSTANCE, 0x0115),
        (without("ReferencedSOPSequence"), 1, data.SOP_INSTANCE, 0x0115),
        (request(instances=[""]), 1, data.SOP_INSTANCE, 0x0115),
        (None, 1, data.SOP_INSTANCE, 0x0115),
    ],
    ids=["right", "action", "instance", "bad UID", "no UID", "no sequence", "empty item", "no data set"],
)
def test_a_request_that_cannot_be_used_is_answered_with_its_status(
    house: House, information: Dataset | None, action: int, instance: str, status: int
) -> None:
    with calling(house, Reported()) as association:
        answer, _ = association.send_n_action(information, action, data.SOP_CLASS, instance)
    assert answer.Status == status
    assert len(house._requests()) == (status == 0)


def test_a_transaction_uid_stands_for_one_request_of_a_peer(house: House) -> None:
    reported = Reported()
    statuses = []
    with calling(house, reported) as association:
        for instances in (["2.25.1"], ["2.25.1"], ["2.25.2"]):
            answer, _ = association.send_n_action(request(instances=instances), 1, data.SOP_CLASS, data.SOP_INSTANCE)
            statuses.append(answer.Status)
        until(lambda: reported.reports)
    assert statuses == [0, 0, 0x0115], "the same once more is no harm, another under its name is"


def test_what_else_the_peer_asks_while_it_is_reported_to_is_answered(house: House) -> None:
    """pynetdicom's own way takes the next message, whatever it is, for the answer to the report, and aborts."""
    gate = threading.Event()

    class Slow(Reported):
        def take(self, event: Event) -> tuple[int, None]:
            gate.wait(3)
            return super().take(event)

    reported = Slow()
    with calling(house, reported) as association:
        for number in range(3):
            answer, _ = association.send_n_action(
                request(uid=f"2.25.{number + 9}"), 1, data.SOP_CLASS, data.SOP_INSTANCE
            )
            assert answer.Status == 0
        assert association.send_c_echo().Status == 0
        gate.set()
        until(lambda: len(reported.reports) == 3)
    until(lambda: set(house._requests().values()) == {"reported"})


@contextmanager
def pacs(handlers: list[Any], *, roles: bool = True, stores: bool = False) -> Iterator[int]:
    """A PACS that listens. roles: it takes the role of the one who is reported to."""
    entity = AE("PACS")
    entity.add_supported_context(StorageCommitmentPushModel, scu_role=True if roles else None, scp_role=roles or None)
    if stores:
        entity.add_supported_context(MRImageStorage)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    yield int(server.server_address[1])
    server.shutdown()


def destination(port: int, **more: Any) -> dict[str, Any]:
    return {"pacs": {"kind": "dimse", "aet": "PACS", "host": "127.0.0.1", "port": port, **more}}


def test_a_peer_that_hung_up_is_reported_to_on_a_new_association_with_our_role(tmp_path: Path) -> None:
    reported, roles = Reported(), []

    def requested(event: Event) -> None:
        items = event.assoc.requestor.role_selection
        roles.extend((items[uid].scu_role, items[uid].scp_role) for uid in items)

    with pacs([(evt.EVT_N_EVENT_REPORT, reported.take), (evt.EVT_REQUESTED, requested)]) as port:
        house = House(tmp_path, destination(port))
        held = house.hold()
        asked(house, held, wait_s=0.0)  # released as soon as the request is answered
        now = time.time()
        Reporter(house.settings, house.ingest.index, clock=lambda: now + 60).report_due()
        house.listener.stop()
    assert [(report.event, report.committed) for report in reported.reports] == [(1, tuple(held))]
    assert roles == [(False, True)]
    assert house.state() == "reported"


def test_a_report_that_nobody_takes_is_tried_again_and_given_up_with_a_sentence(tmp_path: Path) -> None:
    house = House(tmp_path, destination(1))
    Requests(house.ingest.index).accept("PACS", TRANSACTION, house.hold())
    times = iter(time.time() + 60 * number for number in range(1, 100))
    patience = Patience(attempts=3)
    reporter = Reporter(house.settings, house.ingest.index, patience=patience, clock=lambda: next(times))
    for attempt in range(3):
        assert house.state() == "owed", attempt
        reporter.report_due()
    (view,) = _views(house)
    assert (view.state, view.next_attempt_at) == ("given up", None)
    assert view.last_error.startswith("given up after 3 attempts: PACS@127.0.0.1:1 does not answer")
    house.listener.stop()


def _views(house: House) -> Any:
    from plugin.jobs.port import Jobs

    return Jobs(house.ingest.index).reports()


def test_a_peer_that_is_no_destination_cannot_be_called_and_the_request_says_so(house: House) -> None:
    Requests(house.ingest.index).accept("STRANGER", TRANSACTION, house.hold())
    Reporter(house.settings, house.ingest.index, clock=lambda: time.time() + 60).report_due()
    (view,) = _views(house)
    assert view.state == "held"
    assert "no destination has this AE title" in view.last_error


def test_a_report_that_was_taken_elsewhere_meanwhile_stays_reported(house: House) -> None:
    requests = Requests(house.ingest.index, lambda: time.time() + 60)
    number = requests.accept("PACS", TRANSACTION, house.hold())
    assert number is not None
    (owed,) = requests.due() or (requests.take(number, 0.0),)
    assert owed is not None
    requests.reported(number)
    requests.later(owed, 5.0, "it answered 0x0115: it has this report")
    requests.hold(owed, "nobody knows where it listens")
    assert house.state() == "reported"


def test_nobody_else_sends_a_report_that_an_association_carries(house: House) -> None:
    now = time.time()
    requests = Requests(house.ingest.index, lambda: now)
    number = requests.accept("PACS", TRANSACTION, house.hold())
    assert number is not None
    assert requests.take(number, 40.0) is not None
    now += 30
    assert requests.due() == []
    now += 11
    assert [owed.id for owed in requests.due()] == [number]


def test_many_reports_to_one_peer_that_hangs_keep_none_from_another(tmp_path: Path) -> None:
    reported, stop = Reported(), threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as hung, pacs([(evt.EVT_N_EVENT_REPORT, reported.take)]) as port:
        there = destination(port) | {
            "slow": {"kind": "dimse", "aet": "SLOW", "host": "127.0.0.1", "port": hung.getsockname()[1]}
        }
        house = House(tmp_path, there)
        requests, held = Requests(house.ingest.index), house.hold()
        for number in range(21):
            requests.accept("SLOW", f"2.25.{number}", held)
        requests.accept("PACS", TRANSACTION, held)
        reporter = Reporter(house.settings, house.ingest.index, clock=lambda: time.time() + 60)
        reporter.run(stop, poll_s=0.02)
        until(lambda: [report.transaction_uid for report in reported.reports] == [TRANSACTION], timeout_s=5)
        stop.set()
        house.listener.stop()


SERVE = """
import sys, time, os, signal
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from archives import archive
from plugin.dimse import commitment, node
from plugin.settings import Settings
folder = Path(sys.argv[1])
commitment._GRACE_S = 60.0
ingest = archive(folder)
listener = node.start(Settings.model_validate({"node": {"data": folder, "dimse": "127.0.0.1:0", "open": True}}), ingest)
print(listener.address.port, flush=True)
time.sleep(60)
"""


def test_a_request_that_was_answered_outlives_kill_9_and_is_reported_after_the_restart(tmp_path: Path) -> None:
    reported = Reported()
    ingest = archive(tmp_path)
    held = Reference(str(CTImageStorage), give(ingest, slice_of()).sop_instance_uid)
    ingest.index.close()
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(tmp_path), str(Path(__file__).parent)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    port = int(process.stdout.readline())
    entity = AE("PACS")
    entity.add_requested_context(StorageCommitmentPushModel)
    association = entity.associate("127.0.0.1", port, ae_title="MIRALL")
    answer, _ = association.send_n_action(data.request(TRANSACTION, [held]), 1, data.SOP_CLASS, data.SOP_INSTANCE)
    assert answer.Status == 0
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    process.stdout.close()
    association.abort()
    with pacs([(evt.EVT_N_EVENT_REPORT, reported.take)]) as port:
        house = House(tmp_path, destination(port))
        Reporter(house.settings, house.ingest.index, clock=lambda: time.time() + 60).report_due()
        house.listener.stop()
    assert [report.committed for report in reported.reports] == [(held,)]
    assert house.state() == "reported"


# As the one who asks


class Pacs:
    """A PACS that stores MR, and does with requests for commitment what a test says."""

    def __init__(self) -> None:
        self.stored: list[str] = []
        self.asked: list[tuple[str, list[Reference]]] = []
        self.then: Callable[[Event], int] = lambda event: 0

    def handlers(self) -> list[Any]:
        return [(evt.EVT_C_STORE, self._store), (evt.EVT_N_ACTION, self._action)]

    def _store(self, event: Event) -> int:
        self.stored.append(str(event.request.AffectedSOPInstanceUID))
        return 0

    def _action(self, event: Event) -> tuple[int, None]:
        self.asked.append(data.read_request(lambda: event.action_information))
        return self.then(event), None


class Desk:
    """An outbox with one DICOM destination, and a clock that a test sets."""

    def __init__(self, folder: Path, port: int, patience: Patience = Patience(), extra: str = "") -> None:
        self.service = SmallService(
            folder,
            f'[destinations.pacs]\nkind = "dimse"\naet = "PACS"\nhost = "127.0.0.1"\nport = {port}\n{extra}',
        )
        self.now = time.time()
        destinations = self.service.settings.destinations
        self.courier = Courier(
            self.service.index,
            destinations,
            {"pacs": opened(destinations["pacs"], "MIRALL")},
            patience=patience,
            clock=lambda: self.now,
            chance=lambda: 0.0,
        )

    def owe(self, count: int) -> list[str]:
        study = "2.25.88"
        uids = [self.service.arrive(instance_bytes(study)).sop_instance_uid for _ in range(count)]
        with self.service.index.write() as connection:
            add_to_outbox(connection, study, uids, ("pacs",), self.now)
        return uids

    def states(self) -> dict[str, str]:
        return {row.sop_instance_uid: row.state for row in self.service.jobs.deliveries()}


@contextmanager
def desk(folder: Path, peer: Pacs, **more: Any) -> Iterator[Desk]:
    with pacs(peer.handlers(), stores=True) as port:
        made = Desk(folder, port, **more)
        yield made
        made.service.close()


def report_later(peer: Pacs, to: Callable[[], Report], port: int) -> None:
    """A report on an association of the peer's own, in the role of the provider."""
    entity = AE("PACS")
    association = entity.associate(
        "127.0.0.1",
        port,
        contexts=[build_context(StorageCommitmentPushModel)],
        ae_title="MIRALL",
        ext_neg=[build_role(StorageCommitmentPushModel, scp_role=True)],
    )
    report = to()
    status, _ = association.send_n_event_report(
        data.report(report, "PACS"), report.event, data.SOP_CLASS, data.SOP_INSTANCE
    )
    assert status.Status == 0
    association.release()


def test_what_was_sent_is_asked_for_in_one_request_and_committed_by_a_report_at_our_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("plugin.destinations.REPORT_WAIT_S", 0.0)
    peer = Pacs()
    with desk(tmp_path, peer) as ours:
        uids = ours.owe(4)
        ours.courier.serve("pacs")
        ((transaction, references),) = peer.asked
        assert sorted(each.sop_instance_uid for each in references) == sorted(uids)
        assert set(ours.states().values()) == {"sent"}
        # Another process of ours listens, and knows only the table.
        listening = Settings.model_validate({"node": {"data": ours.service.settings.data, "dimse": "127.0.0.1:0"}})
        listener = node.start(listening, archive(ours.service.settings.data))
        bad = references[0]
        said = Report(transaction, tuple(references[1:]), ((bad, NO_SUCH_INSTANCE),))
        report_later(peer, lambda: said, listener.address.port)
        listener.stop()
        states = ours.states()
        assert states.pop(bad.sop_instance_uid) == "queued"
        assert set(states.values()) == {"committed"}
        row = next(row for row in ours.service.jobs.deliveries() if row.sop_instance_uid == bad.sop_instance_uid)
        assert "0x0112, no such object instance" in row.last_error
        ours.now += 60
        ours.courier.serve("pacs")
        assert peer.stored.count(bad.sop_instance_uid) == 2, "it is sent again"
        assert [each.sop_instance_uid for each in peer.asked[-1][1]] == [bad.sop_instance_uid]


def test_a_report_on_the_same_association_commits_at_once(tmp_path: Path) -> None:
    peer = Pacs()

    def report_here(event: Event) -> int:
        transaction, references = peer.asked[-1]

        def say() -> None:
            time.sleep(0.1)
            said = data.report(Report(transaction, tuple(references)), "PACS")
            event.assoc.send_n_event_report(said, 1, data.SOP_CLASS, data.SOP_INSTANCE)

        threading.Thread(target=say).start()
        return 0

    peer.then = report_here
    with desk(tmp_path, peer) as ours:
        ours.owe(2)
        ours.courier.serve("pacs")
        assert set(ours.states().values()) == {"committed"}


def test_a_peer_that_never_reports_leaves_the_rows_as_they_are_and_they_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("plugin.destinations.REPORT_WAIT_S", 0.0)
    peer = Pacs()
    with desk(tmp_path, peer) as ours:
        ours.owe(1)
        ours.courier.serve("pacs")
        ours.now += 13 * 3600
        ours.courier.serve("pacs")
        (row,) = ours.service.jobs.deliveries()
        assert row.state == "sent"
        assert "has sent no report in 12 h" in row.last_error
        assert len(peer.asked) == 1
        late = Report(peer.asked[0][0], tuple(peer.asked[0][1]))
        assert Transactions(ours.service.index).enter(late, "PACS")
        assert set(ours.states().values()) == {"committed"}, "late is not never"


def test_an_abort_after_the_request_is_asked_again_later_under_another_uid(tmp_path: Path) -> None:
    peer = Pacs()

    def abort(event: Event) -> int:
        event.assoc.abort()
        return 0

    peer.then = abort
    with desk(tmp_path, peer) as ours:
        ours.owe(1)
        ours.courier.serve("pacs")
        assert set(ours.states().values()) == {"sent"}
        ours.courier.serve("pacs")
        assert len(peer.asked) == 1, "not at once"
        ours.now += 10
        ours.courier.serve("pacs")
        assert len({transaction for transaction, _ in peer.asked}) == 2
        assert len(peer.stored) == 1, "the object itself is not sent again"


def test_a_peer_without_the_service_and_one_that_is_not_to_be_asked_are_not_waited_for(tmp_path: Path) -> None:
    peer = Pacs()
    peer.then = lambda event: 0x0112
    with desk(tmp_path / "refuses", peer) as ours:
        ours.owe(1)
        ours.courier.serve("pacs")
        ours.now += 60
        ours.courier.serve("pacs")
        assert (set(ours.states().values()), len(peer.asked)) == ({"sent"}, 1)
    silent = Pacs()
    with desk(tmp_path / "off", silent, extra="commitment = false\n") as ours:
        ours.owe(1)
        ours.courier.serve("pacs")
        assert (set(ours.states().values()), silent.asked) == ({"sent"}, [])


def test_a_report_that_we_did_not_ask_for_is_refused(house: House) -> None:
    with calling(house, Reported()) as association:
        said = data.report(Report("2.25.999", (Reference(str(CTImageStorage), "2.25.1"),)), "PACS")
        status, _ = association.send_n_event_report(said, 1, data.SOP_CLASS, data.SOP_INSTANCE)
        assert status.Status == 0x0115
        status, _ = association.send_n_event_report(said, 3, data.SOP_CLASS, data.SOP_INSTANCE)
        assert status.Status == 0x0113


def test_a_peer_that_is_away_can_be_asked_later(tmp_path: Path) -> None:
    with pytest.raises(TryAgain, match="does not answer"):
        client.ask(Peer("PACS", "127.0.0.1", 1), TRANSACTION, [], lambda *_: True, lambda: True, wait_s=0.0)
