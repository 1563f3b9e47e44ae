"""Deletion: what goes with an object, what stays as a record, and that nothing deleted comes back by itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from archives import archive, give
from dicom_objects import SERIES, STUDY, file_of, slice_of
from fastapi.testclient import TestClient
from pydicom import Dataset
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import CTImageStorage, StudyRootQueryRetrieveInformationModelGet
from small_service import SmallService, until
from sqlalchemy import select, update

from plugin.archive import deletion, tombstones
from plugin.archive.deletion import NothingThere, Target
from plugin.archive.ingest import Ingest
from plugin.archive.storage import Storage
from plugin.dicomweb.app import create
from plugin.dimse import node
from plugin.jobs.planning import add_to_outbox
from plugin.jobs.tables import Delivery
from plugin.settings import Node, Settings

OTHER_SERIES = "2.25.1003"


@pytest.fixture
def here(tmp_path) -> Ingest:
    """Three slices in two series, one of them with an earlier header."""
    ingest = archive(tmp_path)
    give(ingest, slice_of("1.2.1", value=1))
    give(ingest, slice_of("1.2.1", value=1, SeriesDescription="corrected"))
    give(ingest, slice_of("1.2.2", value=2))
    give(ingest, slice_of("1.2.3", value=3, series=OTHER_SERIES))
    return ingest


def on_disk(ingest: Ingest) -> set[str]:
    return set(ingest.storage.walk())


def remove(ingest: Ingest, target: Target, **more) -> deletion.Extent:
    return deletion.remove(ingest, target, by="tester", **more)


def test_a_deleted_study_leaves_neither_rows_nor_files(here):
    extent = remove(here, Target(STUDY), why="consent withdrawn")
    assert (extent.instances, extent.versions) == (3, 1)
    assert here.index.counts() == {"studies": 0, "series": 0, "instances": 0, "quarantined": 0}
    assert on_disk(here) == set()
    (told,) = tombstones.deletions(here.index)
    assert (told.level, told.by, told.why, told.instances, told.back) == ("study", "tester", "consent withdrawn", 3, 0)


def test_a_dry_run_says_what_would_go_and_changes_nothing(here):
    before = on_disk(here), here.index.counts()
    assert deletion.survey(here, Target(STUDY, SERIES)).instances == 2
    assert (on_disk(here), here.index.counts()) == before


@pytest.mark.parametrize(
    ("target", "left"),
    [
        (Target(STUDY, SERIES), {"1.2.3"}),
        (Target(STUDY, OTHER_SERIES), {"1.2.1", "1.2.2"}),
        (Target(STUDY, SERIES, "1.2.1"), {"1.2.2", "1.2.3"}),
        (Target(STUDY, "", "1.2.1"), {"1.2.2", "1.2.3"}),
    ],
)
def test_a_series_or_an_instance_goes_alone_and_the_study_becomes_due(here, target, left):
    with here.index.write() as connection:
        here.index.mark_planned(connection, STUDY, here.index.study(STUDY).input_hash)
    remove(here, target)
    assert {row.sop_instance_uid for row in here.index.instances(STUDY)} == left
    assert len(on_disk(here)) == len(left) + len(here.index.versions("1.2.1"))
    assert here.index.study(STUDY).is_due


@pytest.mark.parametrize(
    "target", [Target("2.25.9"), Target(STUDY, "2.25.9"), Target(STUDY, OTHER_SERIES, "1.2.1"), Target(STUDY, "", "9")]
)
def test_what_is_not_there_is_a_sentence(here, target):
    with pytest.raises(NothingThere, match="is not in the archive"):
        remove(here, target)
    assert here.index.counts()["instances"] == 3


class Killed(Exception):
    pass


def test_files_that_a_kill_left_are_deleted_and_not_taken_up(here, monkeypatch):
    def die(*_):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Storage, "delete", die)
        remove(here, Target(STUDY))
    assert len(on_disk(here)) == 4
    assert here.reindex() == {"deleted": 4}
    assert on_disk(here) == set()
    assert here.index.counts()["instances"] == 0
    assert here.reindex() == {}


def test_what_is_sent_again_is_stored_and_the_tombstone_says_that_it_is_back(here):
    remove(here, Target(STUDY))
    assert give(here, slice_of("1.2.2", value=2)).state == "stored"
    assert here.reindex() == {}
    assert {row.sop_instance_uid for row in here.index.instances(STUDY)} == {"1.2.2"}
    assert tombstones.deletions(here.index)[0].back == 1
    assert tombstones.deleted_uids(here.index) == {"1.2.1", "1.2.3"}


def test_bytes_sent_again_before_the_files_were_swept_are_kept(here, monkeypatch):
    """The same bytes lie under the same key: neither the sweep nor a later start may take them for the old ones."""
    with monkeypatch.context() as patch:
        patch.setattr(tombstones, "sweep", lambda *_: 0)
        remove(here, Target(STUDY))
    give(here, slice_of("1.2.2", value=2))
    assert here.reindex() == {"deleted": 4}
    (row,) = here.index.instances(STUDY)
    assert on_disk(here) == {row.storage_key}


def test_refused_copies_of_a_deleted_study_go_too(here):
    other_patient = slice_of("1.2.4", patient="P2")
    assert give(here, other_patient).state == "quarantined"
    assert remove(here, Target(STUDY)).quarantined == 1
    assert list(here.storage.quarantine.iterdir()) == []


@pytest.mark.parametrize("target", [Target(STUDY), Target(STUDY, SERIES, "1.2.2")])
def test_refused_copies_that_a_kill_left_go_with_the_same_deletion_asked_for_again(here, monkeypatch, target):
    assert not give(here, slice_of("1.2.2", value=9)).accepted  # other pixels under a known UID
    with monkeypatch.context() as killed:
        killed.setattr(type(here.quarantine), "forget", _killed)
        with pytest.raises(KeyboardInterrupt):
            remove(here, target)
    assert here.index.counts()["quarantined"] == 1
    assert remove(here, target).quarantined == 1
    assert here.index.counts()["quarantined"] == 0
    with pytest.raises(NothingThere):
        remove(here, target)


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


def test_answers_made_from_deleted_headers_go_with_them(here):
    web = TestClient(create(Settings(node=Node(data=here.index.data)), here), base_url="http://localhost")
    assert web.get(f"/dicom-web/studies/{STUDY}/metadata").status_code == 200
    kept = here.index.data / "cache" / "metadata"
    assert any("00100010" in path.read_text() for path in kept.glob("*.json"))
    remove(here, Target(STUDY))
    assert list(kept.glob("*.json*")) == []


def test_a_deletion_can_be_repeated_after_its_study_came_again(here):
    remove(here, Target(STUDY))
    give(here, file_of(slice_of("1.2.2", value=2)))
    remove(here, Target(STUDY))
    assert [told.instances for told in tombstones.deletions(here.index)] == [1, 3]
    assert on_disk(here) == set()
    with here.index.read() as connection:
        assert not list(connection.scalars(select(tombstones.Tombstone.id).where(~tombstones.Tombstone.is_swept)))


# While others work with it


@pytest.fixture
def service(tmp_path) -> Iterator[SmallService]:
    made = SmallService(tmp_path)
    yield made
    made.close()


def test_a_deletion_under_a_running_job_ends_the_job_and_the_study_sent_again_is_worked_on_anew(service: SmallService):
    service.behave(seconds=60)
    service.start()
    study = service.study()
    slices = [row.path.read_bytes() for row in service.index.instances(study)]
    until(lambda: [job for job in service.jobs_of(study) if job.state == "running"])
    extent = deletion.remove(service.ingest, Target(study), by="tester")
    assert len(extent.jobs) == 1
    assert extent.predicted_by == ("fake:1",)
    (job,) = service.jobs_of(study)
    assert (job.state, job.error) == ("cancelled", "its input was deleted from the archive")
    service.behave()
    for raw in slices:
        assert service.arrive(raw).state == "stored"
    until(lambda: service.ended(study))
    assert len(service.jobs_of(study)) == 1
    assert service.results(study)


def test_what_is_owed_of_a_deleted_study_is_not_sent_any_more(service: SmallService):
    study = service.study(slices=2)
    uids = [row.sop_instance_uid for row in service.index.instances(study)]
    with service.index.write() as connection:
        add_to_outbox(connection, study, uids, ["PACS"], 1000.0)
        connection.execute(update(Delivery).where(Delivery.sop_instance_uid == uids[0]).values(state="delivered"))
    assert deletion.remove(service.ingest, Target(study), by="tester").deliveries == 1
    told = {row.sop_instance_uid: (row.state, row.last_error) for row in service.jobs.deliveries()}
    assert told == {uids[0]: ("delivered", ""), uids[1]: ("failed", "the object was deleted from the archive")}


def test_a_deletion_in_the_middle_of_a_c_get_is_counted_as_failed_objects(here):
    listener = node.start(Settings(node=Node(dimse="127.0.0.1:0")), here)
    got: list[str] = []

    def take(event: evt.Event) -> int:
        got.append(str(event.request.AffectedSOPInstanceUID))
        if len(got) == 1:
            remove(here, Target(STUDY))
        return 0

    entity = AE("SCANNER")
    entity.dimse_timeout = 20
    entity.add_requested_context(StudyRootQueryRetrieveInformationModelGet)
    entity.add_requested_context(CTImageStorage)
    role = build_role(CTImageStorage, scp_role=True)
    association = entity.associate(
        "127.0.0.1", listener.address.port, ae_title="MIRALL", ext_neg=[role], evt_handlers=[(evt.EVT_C_STORE, take)]
    )
    query = Dataset()
    query.QueryRetrieveLevel, query.StudyInstanceUID = "STUDY", STUDY
    statuses = [status for status, _ in association.send_c_get(query, StudyRootQueryRetrieveInformationModelGet)]
    association.release()
    listener.stop()
    final = statuses[-1]
    assert final.Status == 0xB000
    assert final.NumberOfCompletedSuboperations == len(got)
    assert final.NumberOfCompletedSuboperations + final.NumberOfFailedSuboperations == 3
