"""Jobs from arrival to result, with a worker in a process of its own that is killed at bad moments."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_service import SmallService, instance_bytes, until
from sqlalchemy import insert, select

from dicom_io.errors import Rejected
from plugin.jobs.planning import new_job, sweep
from plugin.jobs.port import NoSuchJob
from plugin.jobs.tables import Job, Result


@pytest.fixture
def service(tmp_path: Path) -> Iterator[SmallService]:
    small = SmallService(tmp_path)
    yield small
    small.close()


def route(name: str, model: str) -> str:
    return f'\n[[routes]]\nname = "{name}"\nmatch = {{ SeriesDescription = "{name}" }}\nrun = ["{model}"]\n'


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallService]:
    """A service with a worker that nobody kills, and for each series description a model version that behaves so."""
    small = SmallService(tmp_path_factory.mktemp("running"))
    behaviours: dict[str, dict[str, object]] = {
        "well": {},
        "rejected": {"error": "rejected", "times": 1},
        "again": {"error": "again", "times": 1},
        "memory": {"error": "memory", "times": 1},
        "exit": {"error": "exit", "times": 1},
        "crashing": {"error": "exit"},
        "buggy": {"error": "failed"},
    }
    text = "[study]\nquiet_s = 0.3\n" + route("unreleased", "nowhere:1")
    for name, behaviour in behaviours.items():
        small.release(f"{name}:1", **behaviour)
        text += route(name, f"{name}:1")
    small.release("newest:1")
    text += route("newest", "newest")
    small.release("second:1")
    text += '\n[[routes]]\nname = "on results"\nmatch = { SeriesDescription = "AI *" }\nrun = ["second:1"]\n'
    text += "allow_results = true\n"
    small.configure(text)
    small.start()
    yield small
    small.close()


def runs(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    return False


def wait_for_child(service: SmallService, calls: int = 1) -> int:
    """Process id of the child, once it works on the `calls`-th request."""
    return until(lambda: service.calls()[calls - 1 : calls])[0]


def test_a_complete_study_becomes_one_job_and_one_labelled_result(running: SmallService) -> None:
    study = running.study(description="well")
    until(lambda: running.ended(study))
    (job,) = [job for job in running.jobs_of(study) if job.route == "well"]
    (made,) = job.results
    assert (job.attempts, job.error, made.finding) == (1, "", "3 instances seen")
    (result,) = [each for each in running.results(study) if each.sop_instance_uid == made.sop_instance_uid]
    assert result.record is not None
    assert (result.door, result.record["kind"], result.record["model"]["name"]) == ("own", "capture", "well")


def test_results_that_come_back_start_nothing(running: SmallService) -> None:
    study = running.study(description="well")
    until(lambda: running.ended(study, count=2))  # the second one is the route on results
    until(lambda: not running.index.study(study).is_due)  # its results made it due once more, for the route on results
    jobs, results, before = running.jobs_of(study), running.results(study), running.index.study(study)
    for result in results:
        assert running.arrive(result.path.read_bytes(), calling_aet="PACS").state == "held"
    assert running.index.study(study) == before
    time.sleep(1)  # more than the quiet time and several sweeps
    assert running.jobs_of(study) == jobs
    assert running.results(study) == results


def test_a_late_instance_makes_a_second_result_and_the_first_one_stays(running: SmallService) -> None:
    study = running.study(description="well")
    until(lambda: running.ended(study))
    (old,) = [job for job in running.jobs_of(study) if job.route == "well"]
    running.arrive(instance_bytes(study, description="well"))
    until(lambda: running.jobs.get(old.id).superseded_by)
    new = running.jobs.get(str(running.jobs.get(old.id).superseded_by))
    until(lambda: running.jobs.get(new.id).state == "done")
    first, second = running.jobs.get(old.id).results[0], running.jobs.get(new.id).results[0]
    assert first.sop_instance_uid != second.sop_instance_uid
    assert {first.sop_instance_uid, second.sop_instance_uid} <= {
        each.sop_instance_uid for each in running.results(study)
    }


def test_a_job_does_not_run_on_fewer_instances_than_it_was_planned_on(service: SmallService) -> None:
    study = service.study()
    service.jobs.study_complete(study)
    sweep(service.index, service.settings, time.time())
    lost = service.index.instances(study)[1]
    lost.path.unlink()
    service.start()
    until(lambda: service.ended(study, "failed"))
    (job,) = service.jobs_of(study)
    assert f"1 of the 3 instances of study {study} that the job was planned on are not in the archive" in job.error
    assert service.results(study) == [] and service.calls() == []


def test_a_worker_that_is_killed_in_the_middle_of_a_job_loses_and_doubles_nothing(service: SmallService) -> None:
    service.behave(seconds=1.5)
    worker = service.start()
    study = service.study()
    child = wait_for_child(service)
    worker.kill()
    until(lambda: not runs(child), 2)  # the child dies with its worker
    assert [job.state for job in service.jobs_of(study)] == ["running"]
    service.start()
    until(lambda: service.ended(study))
    (job,) = service.jobs_of(study)
    assert job.attempts == 2
    assert len(service.results(study)) == 1


def test_a_kill_between_index_commit_and_plan_is_healed_by_the_sweep(service: SmallService) -> None:
    study = service.study()  # committed while no worker lives
    service.start()
    until(lambda: service.ended(study))
    assert len(service.results(study)) == 1


def test_a_plan_that_the_engine_never_heard_of_is_handed_over(running: SmallService) -> None:
    waits = new_job(time.time(), id="a" * 16, kind="generate", route="", model="well:1", handed_over=True)
    waits["spec"] = {"n": 2, "seed": 3, "label": None, "send_to": []}
    with running.index.write() as connection:
        connection.execute(insert(Job).values(waits))
    until(lambda: running.jobs.get("a" * 16).state == "done")


def test_the_loss_of_the_engine_s_file_loses_no_job(service: SmallService) -> None:
    service.behave(seconds=1.0)
    worker = service.start()
    study = service.study()
    wait_for_child(service)
    worker.kill()
    worker.wait()
    for left in service.settings.data.glob("jobs.sqlite*"):
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    service.start()
    until(lambda: service.ended(study))
    assert len(service.results(study)) == 1


def test_sigterm_hands_a_long_job_to_the_next_worker(service: SmallService) -> None:
    service.behave(seconds=60)
    worker = service.start()
    study = service.study()
    child = wait_for_child(service)
    start = time.monotonic()
    worker.terminate()
    assert worker.wait(20) == 0
    assert time.monotonic() - start < 12
    assert not runs(child)
    (job,) = service.jobs_of(study)
    assert (job.state, job.attempts) == ("waiting", 0)
    service.behave()
    service.start()
    until(lambda: service.ended(study))


def test_a_second_worker_takes_over_from_a_dead_one(service: SmallService) -> None:
    service.behave(seconds=1.0)
    first = service.start()
    service.start()
    study = service.study()
    wait_for_child(service)
    owner = next(worker for worker in service.workers if worker is first)
    owner.kill()
    until(lambda: service.ended(study), 30)
    assert len(service.results(study)) == 1


def test_a_cancel_kills_the_child_and_frees_its_place(service: SmallService) -> None:
    service.behave(seconds=60)
    service.start()
    study = service.study()
    child = wait_for_child(service)
    (job,) = service.jobs_of(study)
    until(lambda: service.jobs.progress(job.id) == {"stage": "predicting", "done": 1, "total": 7})
    service.behave()
    start = time.monotonic()
    assert service.jobs.cancel(job.id).state == "cancelled"
    until(lambda: not runs(child), 5)
    assert time.monotonic() - start < 3
    other = service.study()
    until(lambda: service.ended(other))
    assert service.jobs.get(job.id).state == "cancelled"
    assert service.results(study) == []
    with pytest.raises(Rejected, match="cannot be cancelled any more"):
        service.jobs.cancel(job.id)
    service.jobs.retry(job.id)
    until(lambda: service.jobs.get(job.id).state == "done")
    with pytest.raises(Rejected, match="only a failed or cancelled one"):
        service.jobs.retry(job.id)


def test_a_rejected_input_fails_at_once_with_its_sentence_and_can_be_run_again(running: SmallService) -> None:
    study = running.study(description="rejected")
    until(lambda: running.ended(study, "failed"))
    (job,) = running.jobs_of(study)
    assert job.error == "slices at 10.0 and 30.0 mm leave a gap; send the missing slices"
    assert job.attempts == 1
    running.jobs.retry(job.id)
    until(lambda: running.jobs.get(job.id).state == "done")


@pytest.mark.parametrize("error", ["again", "memory", "exit"])
def test_what_may_pass_is_tried_again_with_a_pause(running: SmallService, error: str) -> None:
    study = running.study(description=error)
    until(lambda: running.ended(study))
    (job,) = [job for job in running.jobs_of(study) if job.route == error]
    assert job.attempts == 2
    first, second = running.calls(f"{error}:1")
    assert (first == second) is (error == "again"), "after a lack of memory the child is a new one, else it stays warm"


def test_a_job_that_goes_on_failing_is_given_up_with_a_sentence(running: SmallService) -> None:
    study = running.study(description="crashing")
    until(lambda: running.ended(study, "failed"))
    (job,) = running.jobs_of(study)
    assert job.attempts == 3
    assert "ended without an answer (exit code 3)" in job.error


def test_a_bug_is_a_failed_job_and_not_a_dead_worker(running: SmallService) -> None:
    study = running.study(description="buggy")
    until(lambda: running.ended(study, "failed"))
    assert running.jobs_of(study)[0].error == "ZeroDivisionError: a bug"
    assert running.workers[0].poll() is None


def test_a_route_by_name_runs_the_newest_version_without_a_restart(running: SmallService) -> None:
    first = running.study(description="newest")
    until(lambda: running.ended(first))
    assert {job.model for job in running.jobs_of(first) if job.route == "newest"} == {"newest:1"}
    running.release("newest:2")
    second = running.study(description="newest")
    until(lambda: running.ended(second))
    assert {job.model for job in running.jobs_of(second) if job.route == "newest"} == {"newest:2"}
    # What was planned before stays with the version that it was planned for.
    assert {job.model for job in running.jobs_of(first) if job.route == "newest"} == {"newest:1"}


def test_a_model_version_that_is_not_there_is_named(running: SmallService) -> None:
    study = running.study(description="unreleased")
    until(lambda: running.ended(study, "failed"))
    assert "no model version 'nowhere:1'" in running.jobs_of(study)[0].error
    assert "well:1" in running.jobs_of(study)[0].error


def test_a_generation_makes_a_labelled_study_of_its_own(running: SmallService) -> None:
    identifier = running.jobs.enqueue_generation("well:1", n=3, seed=5)
    until(lambda: running.jobs.get(identifier).state == "done")
    study = running.jobs.get(identifier).study_instance_uid
    assert study is not None
    assert [each.synthetic for each in running.results(study)] == [True]


def test_a_route_that_names_results_runs_once_on_them(running: SmallService) -> None:
    study = running.study(description="well")
    until(lambda: running.ended(study, count=2))
    time.sleep(1)
    assert sorted(job.route for job in running.jobs_of(study)) == ["on results", "well"]
    assert len(running.results(study)) == 2


def test_the_engine_s_file_is_ours_alone_and_holds_no_pickle(running: SmallService) -> None:
    study = running.study(description="well")
    until(lambda: running.ended(study))
    database = running.settings.data / "jobs.sqlite"
    assert database.stat().st_mode & 0o077 == 0
    with contextlib.closing(sqlite3.connect(database)) as connection:
        assert connection.execute("pragma journal_mode").fetchone() == ("wal",)
        stored = connection.execute("select inputs, serialization from workflow_status").fetchall()
    assert stored
    assert all("pickle" not in str(form) for _, form in stored)


def test_an_unknown_job_is_named(service: SmallService) -> None:
    with pytest.raises(NoSuchJob, match="no job begins with 'ab'"):
        service.jobs.get("ab")


def test_thirty_studies_under_four_kills_are_done_once_each(service: SmallService) -> None:
    service.behave(seconds=0.05)
    worker = service.start()
    chance = random.Random(5)
    studies = [service.study(slices=1) for _ in range(10)]
    for _ in range(4):
        time.sleep(chance.uniform(0.3, 2.0))
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait()
        studies += [service.study(slices=1) for _ in range(5)]
        worker = service.start()
    until(lambda: len(service.jobs.list(state="done", limit=1000)) == len(studies), 60)
    for study in studies:
        assert [job.state for job in service.jobs_of(study)] == ["done"]
        assert len(service.results(study)) == 1
    with service.index.read() as connection:
        assert len(list(connection.execute(select(Result.job_id)))) == len(studies)
    assert list((service.settings.data / "scratch").glob("*-*")) == []
