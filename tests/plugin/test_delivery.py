"""The outbox: what is sent, when again, and what is said of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid
from small_service import SmallService, instance_bytes
from sqlalchemy import null, update

from dicom_io import labels, secondary_capture
from dicom_io.errors import Rejected
from dicom_io.provenance import LabelRecord, ModelIdentity, State
from dicom_io.volume import Source
from plugin.archive.arrival import Arrival
from plugin.archive.tables import Instance
from plugin.destinations import InMemoryDestination, Parcel, Receipt
from plugin.jobs.commitments import Report, Transactions
from plugin.jobs.delivery import Courier, Patience
from plugin.jobs.planning import add_to_outbox
from plugin.jobs.port import DeliveryView
from plugin.jobs.tables import Delivery

CONFIGURATION = """
[destinations.pacs]
kind = "stow"
url = "http://127.0.0.1:1"

[destinations.research]
kind = "stow"
url = "http://127.0.0.1:2"
allow_unproven = true
"""


class Desk:
    """A courier with a clock that a test sets, and peers in memory."""

    def __init__(self, service: SmallService) -> None:
        self.service = service
        self.now = 1000.0
        self.pacs, self.research = InMemoryDestination(), InMemoryDestination()
        self.restart()

    def restart(self, patience: Patience | None = None) -> None:
        """As after a kill: nothing is remembered but what stands in the database."""
        self.courier = Courier(
            self.service.index,
            self.service.settings.destinations,
            {"pacs": self.pacs, "research": self.research},
            patience=patience or Patience(),
            clock=lambda: self.now,
            chance=lambda: 0.0,
        )
        self.courier.release_held()

    def result(self, state: State = "proven", *to: str) -> str:
        """A labelled result in the archive that is owed to `to`; gives its UID."""
        raw = instance_bytes(generate_uid())
        self.service.arrive(raw)
        path = self.service.folder / "source.dcm"
        path.write_bytes(raw)
        source = dcmread(path)
        ((dataset, record),) = secondary_capture.of_prediction(
            np.full((1, 64, 256, 3), 9, np.uint8),
            model=ModelIdentity("fake", "1", "c" * 64, state),
            sources=[source],
            source_refs=[Source(str(source.SOPClassUID), str(source.SOPInstanceUID), "d" * 64)],
            description="fake",
            purpose="fake",
            parameters={},
            made_at=datetime(2026, 1, 2, 3, 4, 5),
        )
        path.write_bytes(labels.encode(dataset, record))
        ingest = self.service.ingest
        assert ingest.accept(ingest.storage.receive_file(path), Arrival("own"), record).accepted
        self.owe(record.sop_instance_uid, record.study_instance_uid, *to)
        return record.sop_instance_uid

    def owe(self, uid: str, study: str, *to: str) -> None:
        with self.service.index.write() as connection:
            add_to_outbox(connection, study, [uid], to or ("pacs",), self.now)

    def row(self, destination: str = "pacs") -> DeliveryView:
        (row,) = self.service.jobs.deliveries(destination=destination)
        return row

    def pass_time(self, seconds: float, step_s: float = 30.0) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now = min(until, self.now + step_s)
            self.courier.serve("pacs")


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    service = SmallService(tmp_path, CONFIGURATION)
    yield Desk(service)
    service.close()


def test_a_result_is_sent_as_stored_and_delivered_when_the_peer_lists_it(desk: Desk) -> None:
    uid = desk.result()
    desk.courier.serve("pacs")
    assert (desk.row().state, desk.row().attempts, desk.row().next_attempt_at) == ("delivered", 1, None)
    instance = desk.service.index.instance(uid)
    assert instance is not None
    assert desk.pacs.objects == {uid: instance.path.read_bytes()}


def test_success_from_a_peer_that_answers_no_questions_is_sent_and_no_more(desk: Desk) -> None:
    desk.pacs.can_be_asked = False
    desk.result()
    desk.pass_time(3600)
    assert (desk.row().state, desk.row().next_attempt_at) == ("sent", None)


def test_success_without_the_object_in_the_peer_s_own_list_is_unknown_in_the_end(desk: Desk) -> None:
    desk.pacs.answers = [Receipt("sent")]
    desk.result()
    desk.courier.serve("pacs")
    assert desk.row().state == "sent"
    desk.pass_time(2 * 3600)
    assert desk.row().state == "unknown"
    assert "its query does not list the object" in desk.row().last_error
    assert desk.pacs.received == [], "what was answered with success is not pushed again by itself"


def test_a_peer_that_indexes_late_is_asked_again(desk: Desk) -> None:
    uid = desk.result()
    desk.pacs.answers = [Receipt("sent")]
    desk.courier.serve("pacs")
    desk.pacs.objects[uid] = b""
    desk.pass_time(60)
    assert desk.row().state == "delivered"


def test_a_destination_that_is_down_for_an_hour_gets_it_once_it_is_back(desk: Desk) -> None:
    desk.pacs.down = True
    uid = desk.result()
    desk.courier.serve("pacs")
    for _ in range(4):
        desk.pass_time(900)
        desk.restart()
        assert desk.row().state == "queued"
        assert "connection refused" in desk.row().last_error
    assert 8 <= desk.row().attempts <= 11, "5 s, 10 s, 20 s ... and not once a second"
    desk.pacs.down = False
    desk.pass_time(3600)
    assert desk.row().state == "delivered"
    assert desk.pacs.received == [uid]


def test_waits_double_up_to_an_hour_less_up_to_half_by_chance() -> None:
    patience = Patience()
    assert [patience.wait_s(n, 0.0) for n in (1, 2, 3, 10, 11, 70)] == [5, 10, 20, 2560, 3600, 3600]
    assert patience.wait_s(3, 1.0) == 10
    total_s = sum(patience.wait_s(n, 0.5) for n in range(1, patience.attempts))
    assert 2 < total_s / 86400 < 4


def test_what_is_given_up_is_failed_and_can_be_sent_again_by_a_person(desk: Desk) -> None:
    desk.restart(Patience(attempts=3))
    desk.pacs.down = True
    desk.result()
    desk.pass_time(600, step_s=5)
    assert (desk.row().state, desk.row().attempts, desk.row().next_attempt_at) == ("failed", 3, None)
    assert desk.row().last_error.startswith("given up after 3 attempts: ")
    desk.pacs.down = False
    desk.service.jobs._clock = lambda: desk.now
    desk.service.jobs.retry_delivery(desk.row().id)
    desk.courier.serve("pacs")
    assert desk.row().state == "delivered"


def test_a_refusal_is_failed_at_once_with_the_peer_s_words(desk: Desk) -> None:
    desk.pacs.answers = [Receipt("refused", "PACS answered 0xC000 (cannot understand)")]
    desk.result()
    desk.pass_time(3600)
    assert (desk.row().state, desk.row().attempts) == ("failed", 1)
    assert desk.row().last_error == "PACS answered 0xC000 (cannot understand)"


def test_no_answer_is_unknown_and_the_same_object_goes_again(desk: Desk) -> None:
    desk.pacs.answers = [Receipt("unknown", "PACS took the object but did not answer")]
    uid = desk.result()
    desk.courier.serve("pacs")
    assert desk.row().state == "unknown"
    desk.pass_time(30)
    assert desk.row().state == "delivered"
    assert desk.pacs.received == [uid]


@pytest.mark.parametrize("state", ["unproven", "teaching"])
def test_results_of_versions_that_prove_nothing_go_only_where_they_are_allowed(desk: Desk, state: State) -> None:
    uid = desk.result(state, "pacs", "research")
    desk.courier.serve("pacs")
    desk.courier.serve("research")
    assert desk.row("pacs").state == "held"
    assert "set allow_unproven = true in [destinations.pacs]" in desk.row("pacs").last_error
    assert desk.pacs.objects == {}
    assert desk.row("research").state == "delivered"
    desk.service.configure(CONFIGURATION.replace(':1"', ':1"\nallow_unproven = true'))
    desk.restart()
    desk.courier.serve("pacs")
    assert list(desk.pacs.objects) == [uid]


def test_an_object_that_lost_its_labels_on_disk_does_not_leave(desk: Desk) -> None:
    uid = desk.result()
    instance = desk.service.index.instance(uid)
    assert instance is not None
    dataset = dcmread(instance.path)
    dataset.ContentQualification = "PRODUCT"
    dataset.save_as(instance.path)
    desk.courier.serve("pacs")
    assert desk.row().state == "failed"
    assert "ContentQualification is 'PRODUCT'" in desk.row().last_error
    assert desk.pacs.objects == {}


def test_an_object_whose_file_is_gone_is_failed_and_the_others_leave(desk: Desk) -> None:
    study = generate_uid()
    lost, kept = (desk.service.arrive(instance_bytes(study)).sop_instance_uid for _ in range(2))
    desk.owe(lost, study)
    desk.owe(kept, study)
    instance = desk.service.index.instance(lost)
    assert instance is not None
    instance.path.unlink()
    desk.courier.serve("pacs")
    rows = {row.sop_instance_uid: row for row in desk.service.jobs.deliveries()}
    assert (rows[lost].state, rows[lost].next_attempt_at, rows[kept].state) == ("failed", None, "delivered")
    assert f"the file of the object, {instance.storage_key}, is gone" in rows[lost].last_error


def test_an_object_of_ours_without_a_record_does_not_leave(desk: Desk) -> None:
    uid = desk.result()
    with desk.service.index.write() as connection:
        connection.execute(update(Instance).where(Instance.sop_instance_uid == uid).values(record=None))
    desk.courier.serve("pacs")
    assert desk.row().state == "failed"
    assert desk.pacs.objects == {}


def test_a_record_that_claims_less_than_the_object_does_not_let_it_out(desk: Desk) -> None:
    uid = desk.result("unproven")
    instance = desk.service.index.instance(uid)
    assert instance is not None
    record = LabelRecord.from_json(json.dumps(instance.record))
    proven = replace(record, model=replace(record.model, state="proven"))
    with desk.service.index.write() as connection:
        connection.execute(
            update(Instance).where(Instance.sop_instance_uid == uid).values(record=json.loads(proven.to_json()))
        )
    desk.courier.serve("pacs")
    assert desk.row().state == "failed"
    assert desk.pacs.objects == {}


def test_what_others_made_is_passed_on_without_a_record(desk: Desk) -> None:
    study = generate_uid()
    uid = desk.service.arrive(instance_bytes(study)).sop_instance_uid
    desk.owe(uid, study)
    desk.courier.serve("pacs")
    assert list(desk.pacs.objects) == [uid]


def test_an_object_is_owed_once_to_each_destination(desk: Desk) -> None:
    uid = desk.result()
    desk.courier.serve("pacs")
    instance = desk.service.index.instance(uid)
    assert instance is not None
    desk.owe(uid, instance.study_instance_uid, "pacs", "research")
    assert desk.row("pacs").state == "delivered"
    assert desk.row("research").state == "queued"


def test_what_is_owed_to_a_destination_that_is_no_longer_configured_is_held(desk: Desk) -> None:
    desk.result("proven", "pacs", "research")
    desk.service.configure(CONFIGURATION.split("[destinations.research]")[0])
    desk.restart()
    assert desk.row("research").state == "held"
    assert "no destination 'research' any more" in desk.row("research").last_error


def test_what_was_sent_is_not_sent_again_because_its_destination_was_away_from_the_configuration(desk: Desk) -> None:
    desk.research.answers = [Receipt("sent")]
    uid = desk.result("proven", "research")
    desk.courier.serve("research")
    assert (desk.row("research").state, desk.row("research").next_attempt_at) == ("sent", desk.now + 5)
    desk.service.configure(CONFIGURATION.split("[destinations.research]")[0])
    desk.restart()
    assert desk.row("research").state == "sent"
    desk.service.configure(CONFIGURATION)
    desk.restart()
    desk.research.objects[uid] = b""
    desk.now += 60
    desk.courier.serve("research")
    assert (desk.row("research").state, desk.research.received) == ("delivered", [])


def test_a_person_can_stop_what_is_still_to_be_sent(desk: Desk) -> None:
    desk.pacs.down = True
    desk.result()
    desk.courier.serve("pacs")
    assert desk.service.jobs.cancel_delivery(desk.row().id).last_error == "cancelled on request"
    desk.pacs.down = False
    desk.pass_time(3600)
    assert desk.pacs.received == []
    with pytest.raises(Rejected, match="nothing left to cancel"):
        desk.service.jobs.cancel_delivery(desk.row().id)


def test_what_a_person_cancels_while_it_is_on_its_way_is_not_sent_again(desk: Desk) -> None:
    class Slow(InMemoryDestination):
        def send(self, parcels: Sequence[Parcel]) -> list[Receipt]:
            desk.service.jobs.cancel_delivery(desk.row().id)
            return [Receipt("again", "it does not answer")]

    desk.pacs = Slow()
    desk.restart()
    desk.result()
    desk.courier.serve("pacs")
    assert (desk.row().state, desk.row().last_error) == ("failed", "cancelled on request")


def test_a_report_that_comes_while_the_peer_is_asked_is_not_overwritten_by_its_list(desk: Desk) -> None:
    class Busy(InMemoryDestination):
        def has(self, parcels: Sequence[Parcel]) -> list[bool | None]:
            ((transaction, (reference,)),) = self.promised.items()
            Transactions(desk.service.index).enter(Report(transaction, (), ((reference, 0x0110),)), "PACS")
            return super().has(parcels)

    desk.pacs = Busy(commits=True)
    desk.restart()
    desk.result()
    desk.courier.serve("pacs")
    assert desk.row().state == "queued"
    assert "does not commit itself to the object: 0x0110" in desk.row().last_error


def test_a_late_report_does_not_send_what_a_person_cancelled(desk: Desk) -> None:
    desk.pacs.commits = True
    uid = desk.result()
    desk.courier.serve("pacs")
    with desk.service.index.write() as connection:
        connection.execute(update(Delivery).values(state="unknown"))
    desk.service.jobs.cancel_delivery(desk.row().id)
    ((transaction, references),) = desk.pacs.promised.items()
    assert [each.sop_instance_uid for each in references] == [uid]
    assert Transactions(desk.service.index).enter(Report(transaction, (), ((references[0], 0x0110),)), "PACS")
    assert (desk.row().state, desk.row().next_attempt_at) == ("failed", None)


def test_what_was_deleted_meanwhile_keeps_nothing_else_from_being_committed(desk: Desk) -> None:
    desk.pacs.commits = True
    desk.owe("1.2.3", "1.2")
    with desk.service.index.write() as connection:
        connection.execute(update(Delivery).values(state="sent", commitment="wanted", next_attempt_at=null()))
    desk.courier.serve("pacs")
    uid = desk.result()
    desk.courier.serve("pacs")
    assert [[each.sop_instance_uid for each in asked] for asked in desk.pacs.promised.values()] == [[uid]]
