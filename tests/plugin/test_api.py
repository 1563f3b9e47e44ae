"""/api: what doors, pages and scripts may ask of jobs and the outbox."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from small_service import ROUTE, SmallService

from plugin.dicomweb.app import create
from plugin.jobs.planning import add_to_outbox, sweep


@pytest.fixture
def service(tmp_path: Path) -> Iterator[SmallService]:
    small = SmallService(tmp_path, ROUTE + '[destinations.pacs]\nkind = "stow"\nurl = "http://127.0.0.1:1"\n')
    yield small
    small.close()


@pytest.fixture
def client(service: SmallService) -> TestClient:
    return TestClient(create(service.settings, service.ingest), base_url="http://localhost")


def planned(service: SmallService, client: TestClient) -> tuple[str, str]:
    """(study, job) after the study was told complete."""
    study = service.study()
    assert client.post(f"/api/studies/{study}/complete").status_code == 202
    (job,) = sweep(service.index, service.settings, 0.0)
    return study, job


def test_a_job_can_be_listed_shown_cancelled_and_run_again(service: SmallService, client: TestClient) -> None:
    study, job = planned(service, client)
    (listed,) = client.get("/api/jobs", params={"study": study}).json()
    assert (listed["id"], listed["state"], listed["model"]) == (job, "waiting", "fake:1")
    assert client.get(f"/api/jobs/{job[:6]}").json() == listed
    assert client.post(f"/api/jobs/{job}/retry").status_code == 409
    assert client.post(f"/api/jobs/{job}/cancel").json()["state"] == "cancelled"
    again = client.post(f"/api/jobs/{job}/cancel")
    assert again.status_code == 409
    assert "cannot be cancelled any more" in again.text
    assert client.post(f"/api/jobs/{job}/retry").json()["state"] == "waiting"


def test_what_is_not_there_is_404_with_a_sentence(client: TestClient) -> None:
    for method, path in (
        ("GET", "/api/jobs/abc"),
        ("POST", "/api/jobs/abc/cancel"),
        ("GET", "/api/outbox/7"),
        ("POST", "/api/outbox/7/retry"),
        ("POST", "/api/studies/1.2.3/complete"),
        ("GET", "/api/routes/test/1.2.3"),
    ):
        answer = client.request(method, path)
        assert answer.status_code == 404, path
        assert "abc" in answer.text or "7" in answer.text or "1.2.3" in answer.text


def test_the_outbox_can_be_listed_stopped_and_sent_again(service: SmallService, client: TestClient) -> None:
    study, _ = planned(service, client)
    uid = service.index.instances(study)[0].sop_instance_uid
    with service.index.write() as connection:
        add_to_outbox(connection, study, [uid], ["pacs"], 0.0)
    (row,) = client.get("/api/outbox", params={"state": "queued", "destination": "pacs"}).json()
    assert row["sop_instance_uid"] == uid
    assert client.post(f"/api/outbox/{row['id']}/cancel").json()["state"] == "failed"
    assert client.post(f"/api/outbox/{row['id']}/cancel").status_code == 409
    assert client.post(f"/api/outbox/{row['id']}/retry").json()["state"] == "queued"
    assert client.get("/api/outbox", params={"state": "delivered"}).json() == []


def test_routes_can_be_tested(service: SmallService, client: TestClient) -> None:
    study = service.study()
    (answer,) = client.get(f"/api/routes/test/{study}").json()
    assert (answer["route"], answer["matches"], len(answer["series"])) == ("mr", True, 1)


def test_a_generation_can_be_asked_for(service: SmallService, client: TestClient) -> None:
    answer = client.post("/api/jobs", json={"model": "fake", "n": 4, "seed": 2, "send_to": ["pacs"]})
    assert answer.status_code == 202
    assert (answer.json()["kind"], answer.json()["model"], answer.json()["state"]) == ("generate", "fake:1", "waiting")
    refused = client.post("/api/jobs", json={"model": "fake", "n": 4, "send_to": ["nowhere"]})
    assert (refused.status_code, "configured are: pacs" in refused.text) == (400, True)
    unknown = client.post("/api/jobs", json={"model": "none:1", "n": 4})
    assert (unknown.status_code, "there are: fake:1" in unknown.text) == (404, True)
    assert client.post("/api/jobs", json={"model": "fake", "n": 0}).status_code == 400
