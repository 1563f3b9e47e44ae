"""When a study is complete, and what is then planned, once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import generate_uid
from small_service import ROUTE, SmallService, instance_bytes
from sqlalchemy import select, update

from dicom_io.errors import Rejected
from plugin.archive.index import StudyRow
from plugin.archive.tables import Study
from plugin.jobs.planning import completeness, explain, plan, sweep
from plugin.jobs.port import NoSuchJob
from plugin.jobs.tables import Job

HOUR = 3600.0
PASS_ON = """
[destinations.pacs]
kind = "stow"
url = "http://127.0.0.1:1"

[[routes]]
name = "pass on"
match = { Modality = "MR" }
send_to = ["pacs"]
"""


@pytest.fixture
def service(tmp_path: Path) -> Iterator[SmallService]:
    small = SmallService(tmp_path)
    yield small
    small.close()


def study_row(service: SmallService, study: str) -> StudyRow:
    row = service.index.study(study)
    assert row is not None
    return row


def later(service: SmallService, study: str, seconds: float = HOUR) -> float:
    return study_row(service, study).last_arrival_at + seconds


def test_a_study_is_complete_when_quiet_or_told_or_waited_for_long_enough(service: SmallService) -> None:
    service.configure("[study]\nquiet_s = 30\nmaximum_wait_s = 900")
    row = replace(study_row(service, service.study()), first_arrival_at=1000, last_arrival_at=1500)
    at = lambda now, row=row: completeness(row, service.settings, now)  # noqa: E731
    assert not at(1529).ready
    assert at(1530).ready
    assert not at(1530).incomplete
    assert at(1501, replace(row, told_complete_at=1500.0)).ready
    assert not at(1501, replace(row, told_complete_at=1499.0)).ready, "more came after it was told"
    growing = replace(row, last_arrival_at=1899)
    assert not at(1899, growing).ready
    assert at(1900, growing).incomplete
    assert at(1400).ready, "a clock that was set back must not stop the study for ever"


def test_a_complete_study_becomes_one_job_however_often_it_is_swept(service: SmallService) -> None:
    study = service.study()
    now = later(service, study)
    assert len(sweep(service.index, service.settings, now)) == 1
    assert sweep(service.index, service.settings, now) == []
    assert plan(service.index, service.settings, study, now) == [], "planning twice is one job"
    (job,) = service.jobs_of(study)
    assert (job.state, job.route, job.model) == ("waiting", "mr", "fake:1")


def test_a_study_that_is_still_arriving_is_not_planned(service: SmallService) -> None:
    study = service.study()
    assert sweep(service.index, service.settings, study_row(service, study).last_arrival_at + 0.1) == []


def test_a_study_that_was_told_complete_is_planned_at_once(service: SmallService) -> None:
    study = service.study()
    service.jobs.study_complete(study)
    assert len(sweep(service.index, service.settings, study_row(service, study).last_arrival_at + 0.01)) == 1
    with pytest.raises(NoSuchJob, match=r"1\.2\.3 is not in the archive"):
        service.jobs.study_complete("1.2.3")


def test_a_planned_study_that_is_told_complete_is_planned_again_under_todays_routes(service: SmallService) -> None:
    service.configure(ROUTE + PASS_ON)
    study = service.study()
    now = later(service, study)
    (first,) = sweep(service.index, service.settings, now)
    owed = [row.id for row in service.jobs.deliveries()]
    service.configure(ROUTE + PASS_ON + ROUTE.replace('"mr"\n', '"added"\n', 1))
    assert sweep(service.index, service.settings, now) == [], "by itself nothing looks at it again"
    service.jobs.study_complete(study)
    (second,) = sweep(service.index, service.settings, now)
    assert {job.id: (job.route, job.superseded_by) for job in service.jobs_of(study)} == {
        first: ("mr", None),
        second: ("added", None),
    }
    assert [row.id for row in service.jobs.deliveries()] == owed != [], "what was passed on is not passed on again"
    service.jobs.study_complete(study)
    assert sweep(service.index, service.settings, now) == []
    assert study_row(service, study).planned_hash == study_row(service, study).input_hash


def test_a_superseded_job_is_not_run_again(service: SmallService) -> None:
    study = service.study()
    (first,) = sweep(service.index, service.settings, later(service, study))
    service.arrive(instance_bytes(study))
    (second,) = sweep(service.index, service.settings, later(service, study))
    with pytest.raises(Rejected, match=f"job {second} took its place"):
        service.jobs.retry(first)
    assert service.jobs.get(first).state == "cancelled"


def test_a_job_that_is_run_again_takes_its_route_s_present_settings(service: SmallService) -> None:
    study = service.study()
    (job,) = sweep(service.index, service.settings, later(service, study))
    picked = spec(service, job)["instances"]
    service.configure(PASS_ON + ROUTE + 'force = true\nsend_to = ["pacs"]\n')
    service.jobs.cancel(job)
    service.jobs.retry(job, service.settings.routes)
    assert spec(service, job) == {"instances": picked, "force": True, "send_to": ["pacs"]}
    service.jobs.cancel(job)
    service.jobs.retry(job, ())
    assert spec(service, job)["send_to"] == ["pacs"], "the route is gone"


def spec(service: SmallService, job: str) -> dict[str, Any]:
    with service.index.read() as connection:
        return dict(connection.execute(select(Job.spec).where(Job.id == job)).scalar_one())


def test_a_late_instance_plans_again_and_supersedes_the_earlier_job(service: SmallService) -> None:
    study = service.study()
    (first,) = sweep(service.index, service.settings, later(service, study))
    service.arrive(instance_bytes(study))
    (second,) = sweep(service.index, service.settings, later(service, study))
    assert first != second
    assert service.jobs.get(first).superseded_by == second
    assert service.jobs.get(first).state == "cancelled", "what had not begun on the old input is not worth beginning"
    assert service.jobs.get(second).superseded_by is None


def test_a_late_instance_of_another_series_changes_nothing_for_the_route(service: SmallService) -> None:
    study = service.study()
    (first,) = sweep(service.index, service.settings, later(service, study))
    service.arrive(instance_bytes(study, modality="CT", description="CT"))
    assert sweep(service.index, service.settings, later(service, study)) == []
    assert service.jobs.get(first).superseded_by is None
    assert study_row(service, study).planned_hash == study_row(service, study).input_hash


def test_a_correction_that_is_undone_makes_the_first_job_the_current_one_again(service: SmallService) -> None:
    study = generate_uid()
    original = instance_bytes(study, uid=generate_uid())
    service.arrive(original)
    (first,) = sweep(service.index, service.settings, later(service, study))
    late = instance_bytes(study)
    uid = service.arrive(late).sop_instance_uid
    (second,) = sweep(service.index, service.settings, later(service, study))
    row = service.index.instance(uid)
    assert row is not None
    with service.index.write() as connection:
        service.index.remove_instance(connection, row, 0.0)
    assert sweep(service.index, service.settings, later(service, study, 2 * HOUR)) == []
    assert service.jobs.get(first).superseded_by is None
    assert service.jobs.get(second).superseded_by == first


def test_a_study_that_grows_too_long_runs_as_incomplete_and_then_again(service: SmallService) -> None:
    service.configure("[study]\nquiet_s = 30\nmaximum_wait_s = 60\n" + ROUTE)
    study = service.study()
    with service.index.write() as connection:
        connection.execute(update(Study).values(first_arrival_at=0.0, last_arrival_at=61.0))
    (first,) = sweep(service.index, service.settings, 61.0)
    assert service.jobs.get(first).incomplete
    service.arrive(instance_bytes(study))
    assert sweep(service.index, service.settings, study_row(service, study).last_arrival_at + 1) == []
    (second,) = sweep(service.index, service.settings, later(service, study))
    assert not service.jobs.get(second).incomplete
    assert service.jobs.get(first).superseded_by == second


def test_a_route_with_two_models_gives_two_jobs_and_two_routes_give_one_each(service: SmallService) -> None:
    service.release("other:2")
    service.configure(ROUTE.replace('["fake:1"]', '["fake:1", "other:2"]') + ROUTE.replace('"mr"\n', '"again"\n', 1))
    study = service.study()
    sweep(service.index, service.settings, later(service, study))
    found = sorted((job.route, job.model) for job in service.jobs_of(study))
    assert found == [("again", "fake:1"), ("mr", "fake:1"), ("mr", "other:2")]


def test_a_route_without_a_model_passes_on_what_it_picks(service: SmallService) -> None:
    service.configure(PASS_ON)
    study = service.study(slices=2)
    assert sweep(service.index, service.settings, later(service, study)) == []
    owed = {row.sop_instance_uid for row in service.jobs.deliveries()}
    assert owed == {each.sop_instance_uid for each in service.index.instances(study)}


def test_what_a_correction_moved_into_another_study_is_not_owed_twice(service: SmallService) -> None:
    service.configure(PASS_ON)
    uid, studies = generate_uid(), [generate_uid(), generate_uid()]
    for study in studies:
        service.arrive(instance_bytes(study, uid=uid))
        sweep(service.index, service.settings, later(service, study))
    assert [each.sop_instance_uid for each in service.index.instances(studies[1])] == [uid]
    assert [row.sop_instance_uid for row in service.jobs.deliveries()] == [uid]


def test_a_study_of_nothing_but_our_own_work_is_planned_to_nothing(service: SmallService) -> None:
    study = service.study()
    with service.index.write() as connection:
        connection.execute(update(Study).values(input_hash="0" * 64))
    sweep(service.index, service.settings, study_row(service, study).last_arrival_at)
    assert study_row(service, study).planned_hash == "0" * 64


def test_routes_test_explains_each_route(service: SmallService) -> None:
    service.configure(ROUTE + ROUTE.replace('"mr"\n', '"pt"\n', 1).replace('"MR"', '"PT"'))
    study = service.study()
    yes, no = explain(service.index, service.settings, study)
    assert (yes.matches, yes.why) == (True, "picks 1 series with 3 instances")
    assert (no.matches, no.why) == (False, "Modality is MR, not PT")
