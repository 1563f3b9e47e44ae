"""A study counts as complete by its sender's list; what cannot be asked holds up nothing for long."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from dicom_objects import file_of
from fastapi.testclient import TestClient
from picture_archive import PictureArchive, study
from pydicom import Dataset
from small_service import ROUTE, SmallService, until
from sqlalchemy import update
from typer.testing import CliRunner

from dicom_io.errors import TryAgain
from plugin.archive.deletion import Target, remove
from plugin.archive.index import StudyRow
from plugin.cli import application
from plugin.dicomweb.app import create
from plugin.dimse.client.find import Listed
from plugin.jobs import reconcile
from plugin.jobs.planning import sweep
from plugin.jobs.senders import Asker, Tries
from plugin.pull import Came, Source, Wholes

STUDY = "2.25.77"
CT_ROUTE = ROUTE.replace('"MR"', '"CT"')
PACS = """
[destinations.pacs]
kind = "dimse"
aet = "PACS"
host = "127.0.0.1"
port = {port}
retrieve = "get"
"""


@pytest.fixture
def service(tmp_path: Path) -> Iterator[SmallService]:
    small = SmallService(tmp_path)
    yield small
    small.close()


def configure(service: SmallService, port: int, *, quiet_s: float = 30, maximum_wait_s: float = 900) -> None:
    times = f"[study]\nquiet_s = {quiet_s}\nmaximum_wait_s = {maximum_wait_s}\n"
    service.configure(times + PACS.format(port=port) + CT_ROUTE)


def arrive(service: SmallService, objects: Sequence[Dataset], calling_aet: str = "PACS") -> None:
    for each in objects:
        assert service.arrive(file_of(each), calling_aet=calling_aet).accepted


def row(service: SmallService) -> StudyRow:
    found = service.index.study(STUDY)
    assert found is not None
    return found


def later(service: SmallService, seconds: float = 31) -> float:
    return row(service).last_arrival_at + seconds


def note(service: SmallService) -> reconcile.Note:
    (found,) = reconcile.notes(service.index, row(service))
    return found


def answered(service: SmallService, asker: Asker) -> None:
    """One round of questions, to its end."""
    stop = threading.Event()
    for thread in asker.start_due(stop):
        thread.join(20)
    assert not stop.is_set()


class Unreachable:
    """A sender that is away, or has nothing to give of what it lists."""

    def __init__(self, listed: Sequence[Listed] = ()) -> None:
        self._listed = list(listed)
        self.asked = 0

    def listed(self, study: str) -> list[Listed]:
        self.asked += 1
        if not self._listed:
            raise TryAgain("the sender does not answer")
        return self._listed

    def fetch(self, study: str, wanted: Sequence[Listed], whole: Wholes, attempt: int, came: Came) -> str:
        return "it sent nothing"


def asker_of(service: SmallService, source: Source | None = None, attempts: int = 3) -> Asker:
    return Asker(
        service.settings,
        service.ingest,
        tries=Tries(first_s=0.0, attempts=attempts),
        make_source=None if source is None else lambda name, stop: source,
        clock=lambda: time.time() + 60,  # after the sweep, whose clock these tests set
    )


def test_a_study_that_lacks_three_of_forty_waits_and_exactly_those_are_fetched(service: SmallService) -> None:
    objects = study(40)
    arrive(service, [*objects[:10], *objects[13:]])
    with PictureArchive(objects) as pacs:
        configure(service, pacs.port)
        assert sweep(service.index, service.settings, later(service)) == [], "the sender is asked first"
        assert note(service).state == "waiting"
        answered(service, asker_of(service))
        assert [each for each in pacs.asked if each.startswith("get")] == ["get IMAGE 3"]
    assert (note(service).state, note(service).listed, note(service).fetched) == ("complete", 40, 3)
    (job,) = sweep(service.index, service.settings, later(service, 1))  # without another quiet time
    assert not service.jobs.get(job).incomplete
    assert sweep(service.index, service.settings, later(service)) == []


def test_a_study_of_which_nothing_is_missing_is_planned_after_one_question(service: SmallService) -> None:
    objects = study(3)
    arrive(service, objects)
    with PictureArchive(objects) as pacs:
        configure(service, pacs.port)
        sweep(service.index, service.settings, later(service))
        answered(service, asker_of(service))
        assert not [each for each in pacs.asked if each.startswith("get")]
    assert len(sweep(service.index, service.settings, later(service))) == 1


def test_a_sender_that_offers_no_search_leaves_it_to_the_timer_and_that_is_said(service: SmallService) -> None:
    arrive(service, study(2))
    with PictureArchive(offers=()) as pacs:
        configure(service, pacs.port)
        sweep(service.index, service.settings, later(service))
        answered(service, asker_of(service))
    assert note(service).state == "unanswered"
    assert "offers no C-FIND" in note(service).sentence
    (job,) = sweep(service.index, service.settings, later(service))
    assert not service.jobs.get(job).incomplete


def test_what_the_sender_said_is_shown_by_the_api_and_by_routes_test(service: SmallService) -> None:
    objects = study(3)
    arrive(service, objects[:2])
    with PictureArchive(objects) as pacs:
        configure(service, pacs.port)
        sweep(service.index, service.settings, later(service))
        answered(service, asker_of(service))
    web = TestClient(create(service.settings, service.ingest), base_url="http://localhost")
    (told,) = web.get(f"/api/studies/{STUDY}/senders").json()
    assert (told["destination"], told["state"], told["fetched"]) == ("pacs", "complete", 1)
    assert web.get("/api/studies/1.2.3/senders").status_code == 404
    shown = CliRunner().invoke(application(), ["routes", "test", STUDY, "--config", str(service.config)])
    assert "pacs, its sender, was asked for its list: complete; all 3 instances are here" in shown.stderr


def test_a_sender_that_is_away_is_asked_a_few_times(service: SmallService) -> None:
    arrive(service, study(2))
    configure(service, 1)
    sender = Unreachable()
    asker = asker_of(service, sender)
    sweep(service.index, service.settings, later(service))
    for attempt in range(3):
        assert (note(service).state, note(service).attempts) == ("waiting", attempt)
        assert sweep(service.index, service.settings, later(service)) == []
        answered(service, asker)
    assert (note(service).state, sender.asked) == ("unanswered", 3)
    assert "does not answer" in note(service).sentence
    assert len(sweep(service.index, service.settings, later(service))) == 1


def test_what_cannot_be_fetched_makes_the_study_incomplete_and_a_late_arrival_asks_again(service: SmallService) -> None:
    objects = study(4)
    arrive(service, objects[:3])
    configure(service, 1)
    listed = [Listed(each.SeriesInstanceUID, each.SOPInstanceUID, each.SOPClassUID) for each in objects]
    asker = asker_of(service, Unreachable(listed), attempts=1)
    sweep(service.index, service.settings, later(service))
    answered(service, asker)
    assert (note(service).state, note(service).missing) == ("incomplete", 1)
    (first,) = sweep(service.index, service.settings, later(service))
    assert service.jobs.get(first).incomplete
    arrive(service, objects[3:])
    assert not note(service).is_current
    assert sweep(service.index, service.settings, later(service)) == []
    answered(service, asker)
    (second,) = sweep(service.index, service.settings, later(service))
    assert not service.jobs.get(second).incomplete
    assert service.jobs.get(first).superseded_by == second


def test_nobody_waits_for_a_sender_longer_than_maximum_wait(service: SmallService) -> None:
    arrive(service, study(2))
    configure(service, 1, maximum_wait_s=60)
    asked_at = later(service)
    assert sweep(service.index, service.settings, asked_at) == []
    assert sweep(service.index, service.settings, asked_at + 59) == []
    assert len(sweep(service.index, service.settings, asked_at + 61)) == 1
    assert "has not answered within 60 s (study.maximum_wait_s)" in note(service).sentence


def test_a_person_s_word_outranks_the_question(service: SmallService) -> None:
    arrive(service, study(2))
    configure(service, 1)
    sweep(service.index, service.settings, later(service))
    service.jobs.study_complete(STUDY)
    (job,) = sweep(service.index, service.settings, time.time())
    assert not service.jobs.get(job).incomplete


@pytest.mark.parametrize("calling_aet", ["SCANNER", "PACS"])
def test_only_a_dimse_destination_that_sent_is_asked_and_only_if_wanted(
    service: SmallService, calling_aet: str
) -> None:
    arrive(service, study(2), calling_aet)
    text = PACS.format(port=1) + CT_ROUTE
    service.configure("[study]\nreconcile = false\n" + text if calling_aet == "PACS" else text)
    assert len(sweep(service.index, service.settings, later(service))) == 1
    assert reconcile.notes(service.index, row(service)) == []


def test_a_question_outlives_the_worker_and_a_broken_off_attempt_is_not_counted(service: SmallService) -> None:
    arrive(service, study(2))
    configure(service, 1)
    sweep(service.index, service.settings, later(service))
    stop = threading.Event()
    stop.set()
    for thread in asker_of(service, Unreachable()).start_due(stop):
        thread.join(20)
    assert (note(service).state, note(service).attempts) == ("waiting", 0)
    sender = Unreachable()
    answered(service, asker_of(service, sender))
    assert sender.asked == 1


def test_a_question_that_takes_its_worker_down_is_given_up_in_the_end(service: SmallService) -> None:
    arrive(service, study(2))
    configure(service, 1)
    sweep(service.index, service.settings, later(service))
    with service.index.write() as connection:  # as after three workers that died in it
        connection.execute(update(reconcile.Reconciliation).values(attempts=3))
    sender = Unreachable()
    answered(service, asker_of(service, sender, attempts=3))
    assert (note(service).state, sender.asked) == ("unanswered", 0)
    assert "failed here again and again" in note(service).sentence


def test_what_a_person_took_out_of_a_study_is_not_fetched_again(service: SmallService) -> None:
    objects = study(4)
    arrive(service, objects[:3])
    remove(service.ingest, Target(STUDY, objects[0].SeriesInstanceUID, objects[0].SOPInstanceUID), by="a person")
    with PictureArchive(objects) as pacs:
        configure(service, pacs.port)
        sweep(service.index, service.settings, later(service))
        answered(service, asker_of(service))
    assert (note(service).state, note(service).fetched) == ("complete", 1)
    assert service.index.instance(objects[0].SOPInstanceUID) is None


@pytest.mark.parametrize("level", ["study", "instance"])
def test_what_a_person_deletes_while_it_is_fetched_does_not_come_back(service: SmallService, level: str) -> None:
    objects = study(4)
    arrive(service, objects[:2])
    place = ("",) if level == "study" else (objects[0].SeriesInstanceUID, objects[0].SOPInstanceUID)
    listed = [Listed(each.SeriesInstanceUID, each.SOPInstanceUID, each.SOPClassUID) for each in objects]

    class Deleting(Unreachable):
        def fetch(self, study: str, wanted: Sequence[Listed], whole: Wholes, attempt: int, came: Came) -> str:
            remove(service.ingest, Target(STUDY, *place), by="a person", why="consent withdrawn")
            for each in objects if attempt == 0 else ():
                service.arrive(file_of(each), door="pull")
            return ""

    configure(service, 1)
    sweep(service.index, service.settings, later(service))
    answered(service, asker_of(service, Deleting(listed)))
    held = {each.sop_instance_uid for each in service.index.instances(STUDY)}
    assert held == (set() if level == "study" else {each.SOPInstanceUID for each in objects[1:]})


def test_a_hanging_sender_holds_up_no_other_study(service: SmallService) -> None:
    silent, prompt = study(2), study(3, study="2.25.90", series="2.25.91")
    for number, each in enumerate(prompt):
        each.SOPInstanceUID = f"2.25.92{number}"
    with PictureArchive(silent, hangs_at="find") as away, PictureArchive(prompt) as pacs:
        other = PACS.format(port=pacs.port).replace("destinations.pacs", "destinations.other").replace('"PACS"', '"B"')
        service.configure("[study]\nquiet_s = 0.2\n" + PACS.format(port=away.port) + other + CT_ROUTE)
        stop = threading.Event()
        asking = Asker(service.settings, service.ingest).run(stop, poll_s=0.05)
        arrive(service, silent)
        arrive(service, prompt[:2], "B")
        (job,) = until(lambda: sweep(service.index, service.settings, time.time()))
        assert service.jobs.get(job).study_instance_uid == "2.25.90"
        assert len(service.index.instances("2.25.90")) == 3
        assert note(service).state == "waiting", "the other sender has not answered"
        stop.set()
        asking.join(5)
