"""The worklist: the rules of PS3.4 CC, and jobs as workitems."""

from __future__ import annotations

import math
import secrets
import uuid
from collections.abc import Iterator

import pytest
from small_service import MODEL, SmallService, instance_bytes, until
from sqlalchemy import event, update
from worklist_objects import generation, performed, prediction, workitem

from plugin.archive.query import BadQuery
from plugin.jobs.tables import Job
from plugin.worklist import workitems
from plugin.worklist.elements import code, element, elements, items, tag, text
from plugin.worklist.matching import condition, meets
from plugin.worklist.mirror import job_of, uid_of
from plugin.worklist.reports import Report
from plugin.worklist.rules import missing_at_end, wrong_at_creation
from plugin.worklist.subscriptions import FILTERED_WORKLIST, WORKLIST
from plugin.worklist.watch import Watch
from plugin.worklist.workitems import Gone, Refusal, Worklist

MINE = "2.25.77"
OTHERS = "2.25.78"


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def service(tmp_path) -> Iterator[SmallService]:
    running = SmallService(tmp_path)
    yield running
    running.close()


@pytest.fixture
def worklist(service, clock) -> Worklist:
    return Worklist(service.index, service.settings, clock)


def refused(status: int, act, *arguments, **named) -> str:
    with pytest.raises(Refusal) as caught:
        act(*arguments, **named)
    assert caught.value.status == status
    return str(caught.value)


def state(worklist: Worklist, uid: str) -> str:
    return text(worklist.get(uid), "ProcedureStepState")


def state_in(report: Report) -> str:
    return text(report.body, "ProcedureStepState")


def found(worklist: Worklist, **conditions: str) -> list[str]:
    wanted = [condition(name.replace("__", "."), value) for name, value in conditions.items()]
    return [text(each, "SOPInstanceUID") for each in worklist.search(wanted, limit=100)]


# Creation


def test_a_workitem_is_kept_as_it_was_created_without_what_locks_it(worklist):
    given = workitem(PatientName={"Alphabetic": "Pháñtom^Ä"}, PatientID="P1", StudyInstanceUID="1.2")
    assert worklist.create("1.2.3", given) == "1.2.3"
    kept = worklist.get("1.2.3")
    assert text(kept, "WorklistLabel") == "MIRALL"
    assert tag("TransactionUID") not in kept
    ours = {tag(name) for name in ("SOPClassUID", "SOPInstanceUID", "ScheduledProcedureStepModificationDateTime")}
    assert {name: one for name, one in kept.items() if name not in ours | {tag("WorklistLabel")}} == {
        name: one for name, one in given.items() if name not in {tag("TransactionUID"), tag("WorklistLabel")}
    }


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"ProcedureStepLabel": ""}, "ProcedureStepLabel must have a value"),
        ({"PatientName": None}, "PatientName must be there, with or without a value"),
        ({"TransactionUID": "1.2"}, "TransactionUID must be there and empty"),
        ({"ProcedureStepState": "IN PROGRESS"}, "a workitem begins as SCHEDULED"),
        ({"ScheduledProcedureStepPriority": "STAT"}, "ScheduledProcedureStepPriority must be one of HIGH, MEDIUM, LOW"),
        ({"ScheduledWorkitemCodeSequence": elements(CodeValue="1")}, "must have a Code Value and a Code Meaning"),
        ({"ScheduledHumanPerformersSequence": elements(HumanPerformerName="")}, "in ScheduledHumanPerformersSequence"),
        ({"ReferencedRequestSequence": elements(StudyInstanceUID="1.2")}, "AccessionNumber in ReferencedRequest"),
    ],
)
def test_what_the_table_asks_for_is_asked_for(worklist, change, sentence):
    assert sentence in refused(workitems.MISSING, worklist.create, "1.2.3", workitem(**change))
    refused(workitems.UNKNOWN, worklist.get, "1.2.3")


@pytest.mark.parametrize(
    ("attributes", "sentence"),
    [
        ([], "the payload is no DICOM JSON object"),
        ({"00741204": "label"}, "00741204 is no attribute of the DICOM JSON model"),
        ({"label": {"vr": "LO"}}, "'label' is no tag of 8 upper-case digits"),
        ({"00741204": {"vr": "LO", "Value": "label"}}, "Value of 00741204 is no list"),
        ({"00741004": {"vr": "DS", "Value": ["much"]}}, "cannot be read as a data set"),
    ],
)
def test_what_is_no_data_set_is_a_sentence(worklist, attributes, sentence):
    assert sentence in refused(workitems.INVALID, worklist.create, "1.2.3", attributes)


def test_a_uid_names_one_workitem(worklist):
    made = worklist.create(None, workitem())
    assert made.startswith("2.25.")
    assert worklist.create(None, workitem(SOPInstanceUID="1.2.4")) == "1.2.4"
    refused(workitems.DUPLICATE, worklist.create, "1.2.4", workitem())
    refused(workitems.INVALID, worklist.create, "1.2.5", workitem(SOPInstanceUID="1.2.4"))
    refused(workitems.INVALID, worklist.create, "1.2.x", workitem())
    refused(workitems.INVALID, worklist.create, WORKLIST, workitem())


# States (PS3.4 table CC.1.1-2)


def test_a_workitem_goes_from_scheduled_to_completed(worklist):
    worklist.create("1.2.3", workitem())
    worklist.update("1.2.3", elements(ScheduledProcedureStepPriority="LOW"))
    assert worklist.change_state("1.2.3", "IN PROGRESS", MINE) == ""
    lacking = refused(workitems.NOT_FINISHED, worklist.change_state, "1.2.3", "COMPLETED", MINE)
    assert "UnifiedProcedureStepPerformedProcedureSequence" in lacking
    worklist.update("1.2.3", performed(), MINE)
    assert worklist.change_state("1.2.3", "COMPLETED", MINE) == ""
    assert (state(worklist, "1.2.3"), text(worklist.get("1.2.3"), "ScheduledProcedureStepPriority")) == (
        "COMPLETED",
        "LOW",
    )
    assert worklist.change_state("1.2.3", "COMPLETED", MINE) == "COMPLETED"
    refused(workitems.NO_LONGER_UPDATED, worklist.change_state, "1.2.3", "CANCELED", MINE)
    refused(workitems.NO_LONGER_UPDATED, worklist.update, "1.2.3", performed(), MINE)


def test_a_claim_is_for_one_only(worklist):
    worklist.create("1.2.3", workitem())
    refused(workitems.NOT_CLAIMED, worklist.change_state, "1.2.3", "COMPLETED", MINE)
    refused(workitems.NOT_CLAIMED, worklist.update, "1.2.3", performed(), MINE)
    refused(workitems.WRONG_TRANSACTION, worklist.change_state, "1.2.3", "IN PROGRESS", "")
    refused(workitems.INVALID, worklist.change_state, "1.2.3", "IN PROGRESS", "not a uid")
    worklist.change_state("1.2.3", "IN PROGRESS", MINE)
    refused(workitems.ALREADY_CLAIMED, worklist.change_state, "1.2.3", "IN PROGRESS", MINE)
    for wrong in ("", OTHERS):
        refused(workitems.WRONG_TRANSACTION, worklist.change_state, "1.2.3", "CANCELED", wrong)
        refused(workitems.WRONG_TRANSACTION, worklist.update, "1.2.3", performed(), wrong)
    refused(workitems.NOT_TO_SCHEDULED, worklist.change_state, "1.2.3", "SCHEDULED", MINE)
    refused(workitems.INVALID, worklist.change_state, "1.2.3", "DONE", MINE)
    assert tag("TransactionUID") not in worklist.get("1.2.3")


def test_who_gives_up_says_why_and_need_not_say_when(worklist):
    worklist.create("1.2.3", workitem())
    worklist.change_state("1.2.3", "IN PROGRESS", MINE)
    refused(workitems.NOT_FINISHED, worklist.change_state, "1.2.3", "CANCELED", MINE)
    why = elements(ProcedureStepDiscontinuationReasonCodeSequence=code("110501", "DCM", "Equipment failure"))
    worklist.update("1.2.3", elements(ProcedureStepProgressInformationSequence=why), MINE)
    worklist.change_state("1.2.3", "CANCELED", MINE)
    (progress,) = items(worklist.get("1.2.3"), "ProcedureStepProgressInformationSequence")
    assert text(progress, "ProcedureStepCancellationDateTime").startswith("2027")
    assert worklist.change_state("1.2.3", "CANCELED", MINE) == "CANCELED"


def test_what_belongs_to_the_patient_is_not_changed_by_an_update(worklist):
    worklist.create("1.2.3", workitem())
    sentence = refused(workitems.INVALID, worklist.update, "1.2.3", elements(PatientID="P2", PatientSex="O"))
    assert "PatientID, PatientSex may not be changed" in sentence


def test_every_final_state_has_requirements():
    assert missing_at_end(workitem(), "CANCELED") == [
        "SOPClassUID",
        "SOPInstanceUID",
        "ScheduledProcedureStepModificationDateTime",
        "ProcedureStepProgressInformationSequence",
    ]
    without = performed()
    del items(without, "UnifiedProcedureStepPerformedProcedureSequence")[0][tag("OutputInformationSequence")]
    assert missing_at_end(workitem() | without, "COMPLETED")[-1].startswith(
        "OutputInformationSequence (it may be empty)"
    )
    assert wrong_at_creation(workitem()) == []


# Cancellation


def test_what_nobody_has_claimed_is_canceled_at_once(worklist):
    worklist.create("1.2.3", workitem())
    assert worklist.request_cancel("1.2.3", elements(ReasonForCancellation="not needed"), "WS2") == ""
    (progress,) = items(worklist.get("1.2.3"), "ProcedureStepProgressInformationSequence")
    assert (state(worklist, "1.2.3"), text(progress, "ReasonForCancellation")) == ("CANCELED", "not needed")
    assert missing_at_end(worklist.get("1.2.3"), "CANCELED") == []
    assert worklist.request_cancel("1.2.3", {}, "WS2") == "CANCELED"


def test_the_performer_of_a_claimed_one_is_told(worklist, service):
    worklist.create("1.2.3", workitem())
    worklist.change_state("1.2.3", "IN PROGRESS", MINE)
    refused(workitems.NOBODY_LISTENS, worklist.request_cancel, "1.2.3", {}, "WS2")
    worklist.subscribe("WS1", "1.2.3")
    watch = Watch(service.index, worklist, "MIRALL")
    worklist.request_cancel("1.2.3", elements(ReasonForCancellation="wrong side", ContactURI="tel:1"), "WS2")
    ((title, report),) = watch.news(["WS1", "WS3"])
    assert (title, report.kind, report.body) == (
        "WS1",
        2,
        elements(RequestingAE="WS2", ReasonForCancellation="wrong side", ContactURI="tel:1"),
    )
    assert state(worklist, "1.2.3") == "IN PROGRESS"
    worklist.update("1.2.3", performed(), MINE)
    worklist.change_state("1.2.3", "COMPLETED", MINE)
    refused(workitems.ALREADY_COMPLETED, worklist.request_cancel, "1.2.3", {}, "WS2")


# Searching


def test_a_search_finds_by_state_label_code_time_and_name(worklist, clock):
    worklist.create("1.2.1", workitem(PatientName={"Alphabetic": "Pháñtom^Ä"}, PatientID="P1"))
    clock.now += 1
    read = code("110005", "DCM", "Interpretation")
    worklist.create(
        "1.2.2",
        workitem(ScheduledWorkitemCodeSequence=read, ScheduledProcedureStepStartDateTime="20261121080000+0100"),
    )
    worklist.change_state("1.2.2", "IN PROGRESS", MINE)
    assert found(worklist) == ["1.2.2", "1.2.1"]
    assert found(worklist, ProcedureStepState="SCHEDULED") == ["1.2.1"]
    assert found(worklist, PatientName="phá*") == ["1.2.1"]
    assert found(worklist, PatientID="P1", SOPInstanceUID="1.2.1,1.2.9") == ["1.2.1"]
    assert found(worklist, ScheduledWorkitemCodeSequence__CodeValue="110005") == ["1.2.2"]
    assert found(worklist, ScheduledProcedureStepStartDateTime="20261120-20261120") == ["1.2.1"]
    assert found(worklist, ScheduledProcedureStepStartDateTime="20261121-") == ["1.2.2"]
    assert [len(worklist.search([], limit=limit, offset=offset)) for limit, offset in ((1, 0), (5, 1), (5, 2))] == [
        1,
        1,
        0,
    ]


def test_a_search_gives_what_the_table_says_and_what_was_asked_for(worklist):
    worklist.create("1.2.3", workitem(CommentsOnTheScheduledProcedureStep="soon"))
    (usual,) = worklist.search([], limit=1)
    assert tag("ProcedureStepLabel") in usual
    assert tag("CommentsOnTheScheduledProcedureStep") not in usual
    (more,) = worklist.search([], include=[tag("CommentsOnTheScheduledProcedureStep")], limit=1)
    assert text(more, "CommentsOnTheScheduledProcedureStep") == "soon"
    assert worklist.search([], include=["all"], limit=1) == [worklist.get("1.2.3")]


@pytest.mark.parametrize(
    ("wanted", "value", "holds"),
    [
        ("20261120120000+0000-20261120130000+0000", "20261120133000+0100", True),
        ("20261120120000+0000-20261120130000+0000", "20261120113000+0000", False),
        ("-20261120", "20261120235959", True),
        ("20261120120000-0500", "20261120120000-0500", True),
        ("", "20261120", True),
    ],
)
def test_times_are_compared_as_moments(wanted, value, holds):
    at = condition("ScheduledProcedureStepStartDateTime", wanted)
    assert meets(element("ScheduledProcedureStepStartDateTime", value), [at]) is holds


# Jobs


def test_a_uid_holds_the_id_of_its_job():
    for _ in range(50):
        job = secrets.token_hex(8)
        uid = uid_of(job)
        assert job_of(uid) == job
        assert (uuid.UUID(int=int(uid[5:])).version, len(uid) <= 64) == (8, True)
    assert [job_of(uid) for uid in ("1.2.3", "2.25.1", f"2.25.{uuid.uuid4().int}", f"2.25.{1 << 130}")] == [None] * 4


def test_a_job_is_a_workitem_while_it_waits_runs_and_ends(service, worklist):
    study = service.study(slices=2)
    job = service.jobs.enqueue_prediction(study, MODEL)
    uid = uid_of(job)
    seen = worklist.get(uid)
    assert wrong_at_creation(seen | elements(TransactionUID="", ProcedureStepState="SCHEDULED") | _blank()) == []
    assert (text(seen, "PatientID"), text(seen, "ProcedureStepState")) == ("P1", "IN PROGRESS")
    (used,) = items(seen, "InputInformationSequence")
    assert len(items(used, "ReferencedSOPSequence")) == 2
    with service.index.write() as connection:
        running = {"stage": "predict", "done": 1, "of": 4}
        connection.execute(update(Job).values(state="running", started_at=5.0, progress=running))
    (progress,) = items(worklist.get(uid), "ProcedureStepProgressInformationSequence")
    assert (text(progress, "ProcedureStepProgress"), text(progress, "ProcedureStepProgressDescription")) == (
        "25",
        "predict",
    )
    assert "performed by Mirall" in refused(workitems.WRONG_TRANSACTION, worklist.change_state, uid, "COMPLETED", MINE)
    refused(workitems.WRONG_TRANSACTION, worklist.update, uid, performed(), MINE)
    assert worklist.request_cancel(uid, {}, "WS2") == ""
    ended = worklist.get(uid)
    assert (service.jobs.get(job).state, state(worklist, uid)) == ("cancelled", "CANCELED")
    assert missing_at_end(ended, "CANCELED") == []
    assert found(worklist, ProcedureStepState="CANCELED", StudyInstanceUID=study, PatientID="P1") == [uid]
    assert found(worklist, ProcedureStepState="SCHEDULED") == []


def _blank() -> dict:
    return elements(ProcedureStepProgressInformationSequence="", UnifiedProcedureStepPerformedProcedureSequence="")


def test_a_workitem_can_ask_for_a_generation(service, worklist):
    service.release("painter:2")
    worklist.create("1.2.3", generation("painter", samples=5))
    (job,) = service.jobs.list()
    assert (job.kind, job.model, state(worklist, "1.2.3")) == ("generate", "painter:2", "IN PROGRESS")
    assert found(worklist) == ["1.2.3"]
    refused(workitems.UNKNOWN, worklist.get, uid_of(job.id))
    refused(workitems.WRONG_TRANSACTION, worklist.change_state, "1.2.3", "CANCELED", MINE)


def test_a_prediction_waits_for_its_input_to_be_ready(service, worklist):
    study = "1.9.1"
    worklist.create("1.2.3", prediction(MODEL, study, InputReadinessState="INCOMPLETE"))
    assert (state(worklist, "1.2.3"), list(service.jobs.list())) == ("SCHEDULED", [])
    ready = elements(InputReadinessState="READY")
    assert "is not in the archive; send it first" in refused(workitems.INVALID, worklist.update, "1.2.3", ready)
    assert state(worklist, "1.2.3") == "SCHEDULED"
    service.arrive(instance_bytes(study, series="1.9.2"))
    worklist.update("1.2.3", ready)
    (job,) = service.jobs.list()
    assert (job.study_instance_uid, state(worklist, "1.2.3")) == (study, "IN PROGRESS")


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (generation("nobody"), "there is no model version 'nobody'"),
        (generation(MODEL, samples=0), "0 samples cannot be asked for"),
        (prediction(MODEL, ""), "names no study, or several, as its input"),
        (prediction(MODEL, "1.9.1"), "study 1.9.1 is not in the archive"),
        (prediction("", "1.9.1"), "names no model version"),
    ],
)
def test_an_order_that_cannot_be_done_is_refused_and_leaves_nothing(service, worklist, asked, sentence):
    assert sentence in refused(workitems.INVALID, worklist.create, "1.2.3", asked)
    assert (found(worklist), list(service.jobs.list())) == ([], [])


def test_an_ordered_prediction_is_done_and_says_what_came_of_it(service, worklist):
    study = "1.9.1"
    service.arrive(instance_bytes(study, series="1.9.2"))
    service.configure("[study]\nquiet_s = 300\n")
    worklist.create("1.2.3", prediction(MODEL, study, "1.9.2"))
    watch = Watch(service.index, worklist, "MIRALL")
    worklist.subscribe("WATCH", "1.2.3")
    service.start()
    until(lambda: {"COMPLETED", "CANCELED"} & {state_in(report) for _, report in watch.news(["WATCH"])}, 60)
    ended = worklist.get("1.2.3")
    assert missing_at_end(ended, "COMPLETED") == []
    (done,) = items(ended, "UnifiedProcedureStepPerformedProcedureSequence")
    made = {
        text(reference, "ReferencedSOPInstanceUID")
        for output in items(done, "OutputInformationSequence")
        for reference in items(output, "ReferencedSOPSequence")
    }
    assert made == {row.sop_instance_uid for row in service.results(study)} != set()


# Subscriptions


def test_subscribers_hear_what_they_have_subscribed_to(service, worklist, clock):
    worklist.create("1.2.1", workitem())
    watch = Watch(service.index, worklist, "MIRALL")
    worklist.subscribe("ONE", "1.2.1")
    worklist.subscribe("ALL", WORKLIST)
    label = condition("WorklistLabel", "chest")
    worklist.subscribe("SOME", FILTERED_WORKLIST, conditions=[label])
    everybody = ["ONE", "ALL", "SOME", "NONE"]
    assert {title for title, _ in watch.news(everybody)} == {"ONE", "ALL"}, "how things stand, once"
    worklist.create("1.2.2", workitem(WorklistLabel="chest"))
    assert [(title, report.uid) for title, report in watch.news(everybody)] == [("ALL", "1.2.2"), ("SOME", "1.2.2")]
    worklist.change_state("1.2.1", "IN PROGRESS", MINE)
    assert [title for title, _ in watch.news(everybody)] == ["ONE", "ALL"]
    worklist.unsubscribe("ALL", "1.2.1")
    worklist.unsubscribe("ONE", "1.2.1")
    worklist.update("1.2.1", performed(), MINE)
    worklist.change_state("1.2.1", "COMPLETED", MINE)
    assert watch.news(everybody) == []
    refused(workitems.UNKNOWN, worklist.unsubscribe, "ONE", "1.2.1")
    refused(workitems.UNKNOWN, worklist.subscribe, "ONE", "1.2.9")


def test_a_suspended_subscription_keeps_what_it_has_and_takes_nothing_new(service, worklist, clock):
    worklist.create("1.2.1", workitem())
    worklist.subscribe("ALL", WORKLIST)
    watch = Watch(service.index, worklist, "MIRALL")
    worklist.suspend("ALL", WORKLIST)
    clock.now += 1
    worklist.create("1.2.2", workitem())
    worklist.change_state("1.2.1", "IN PROGRESS", MINE)
    assert [report.uid for _, report in watch.news(["ALL"])] == ["1.2.1"]
    refused(workitems.UNKNOWN, worklist.suspend, "ALL", WORKLIST)
    worklist.unsubscribe("ALL", WORKLIST)
    refused(workitems.UNKNOWN, worklist.unsubscribe, "ALL", WORKLIST)


def test_updates_are_reported_by_what_they_change(service, worklist):
    worklist.create("1.2.1", workitem(InputReadinessState="INCOMPLETE"))
    worklist.subscribe("ONE", "1.2.1")
    watch = Watch(service.index, worklist, "MIRALL")
    station = elements(ScheduledStationNameCodeSequence=code("WS1", "99TEST", "Workstation 1"))
    worklist.update("1.2.1", elements(InputReadinessState="READY") | station)
    progress = elements(ProcedureStepProgress=40)
    worklist.update("1.2.1", elements(ProcedureStepProgressInformationSequence=progress))
    worklist.update("1.2.1", elements(ProcedureStepLabel="another"))
    reports = [report for _, report in watch.news(["ONE"])]
    assert [report.kind for report in reports] == [1, 5, 3]
    assert reports[1].body == station
    assert reports[2].message(3) == {
        "00000002": {"vr": "UI", "Value": ["1.2.840.10008.5.1.4.34.6.4"]},
        "00000110": {"vr": "US", "Value": [3]},
        "00001000": {"vr": "UI", "Value": ["1.2.1"]},
        "00001002": {"vr": "US", "Value": [3]},
        **elements(ProcedureStepProgressInformationSequence=progress),
    }


def test_two_watches_see_the_same_jobs(service, worklist):
    study = service.study(slices=1)
    worklist.subscribe("ALL", WORKLIST)
    watches = [Watch(service.index, worklist, "MIRALL") for _ in range(2)]
    job = service.jobs.enqueue_prediction(study, MODEL)
    for watch in watches:
        ((_, report),) = watch.news(["ALL"])
        assert (report.uid, text(report.body, "ProcedureStepState")) == (uid_of(job), "IN PROGRESS")
        assert watch.news(["ALL"]) == []


def test_what_ended_long_ago_is_deleted_unless_somebody_locked_it(worklist, clock):
    for uid in ("1.2.1", "1.2.2"):
        worklist.create(uid, workitem())
        worklist.request_cancel(uid, {}, "WS2")
    worklist.subscribe("KEEPER", "1.2.2", deletion_lock=True)
    clock.now += 31 * 86400
    worklist.create("1.2.3", workitem())
    with pytest.raises(Gone, match="was deleted 30 days after it had ended"):
        worklist.get("1.2.1")
    assert found(worklist) == ["1.2.3", "1.2.2"]
    worklist.unsubscribe("KEEPER", "1.2.2")
    worklist.create("1.2.4", workitem())
    assert set(found(worklist)) == {"1.2.3", "1.2.4"}


def test_a_malformed_range_is_refused_at_once_and_not_when_it_is_judged(worklist):
    for malformed in ("x-y", "20261120-tomorrow", "-"):
        with pytest.raises(BadQuery, match="is no range of dates or times"):
            condition("ScheduledProcedureStepStartDateTime", malformed)
    assert condition("ScheduledProcedureStepStartDateTime", "20261120120000-0500")[1] == "20261120120000-0500"


def test_a_time_whose_offset_leads_out_of_the_years_there_are_is_searched(worklist):
    worklist.create("1.2.1", workitem(ScheduledProcedureStepStartDateTime="00010101000000+1200"))
    worklist.create("1.2.2", workitem(ScheduledProcedureStepStartDateTime="99991231235959-1200"))
    assert found(worklist, ScheduledProcedureStepStartDateTime="20260101-20261231") == []
    assert found(worklist, ScheduledProcedureStepStartDateTime="99991231-") == ["1.2.2"]


def test_a_watch_does_not_read_what_a_job_is_to_work_on(service, worklist):
    """It looks several times a second, and thousands of UIDs may stand there."""
    read: list[str] = []
    event.listen(service.index.engine, "before_cursor_execute", lambda *given: read.append(given[2]))
    Watch(service.index, worklist, "MIRALL").news(["ALL"])
    (jobs,) = {statement for statement in read if "FROM job" in statement}
    assert "job.spec" not in jobs


@pytest.mark.parametrize("attribute", [element("ProcedureStepLabel", "a\ud800b"), element("PatientWeight", math.nan)])
def test_what_could_not_be_given_out_again_is_not_taken(worklist, attribute):
    refused(workitems.INVALID, worklist.create, "1.2.3", workitem() | attribute)
    worklist.create("1.2.3", workitem())
    refused(workitems.INVALID, worklist.update, "1.2.3", attribute)
