"""Orthanc as the PACS: it stores, finds, moves, asks for commitment and speaks DICOMweb, and we do the same to it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import corpus_of_bytes
import pytest
from corpus_item import Item
from dicom_sender import data_set
from peers import WEB, Orthanc, answers, free_port, wait_for

from plugin import service
from plugin.service import Running

_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


@dataclass(frozen=True)
class Hospital:
    """One Orthanc and one Mirall that know each other. config: mirall.toml."""

    orthanc: Orthanc
    mirall: Running
    config: Path

    def post(self, path: str, body: Any) -> Any:
        answer = WEB.post(f"{self.orthanc.url}{path}", json=body, timeout=120)
        assert answer.status_code == 200, f"{path}: {answer.text}"
        return answer.json() if answer.content else None

    def upload(self, items: list[Item]) -> None:
        for item in items:
            self.orthanc.upload(item.path)

    def study_of(self, items: list[Item]) -> str:
        """Orthanc's identifier of their study."""
        query = {"Level": "Study", "Query": {"StudyInstanceUID": items[0].study_instance_uid}}
        (identifier,) = self.post("/tools/find", query)
        return str(identifier)

    def empty_orthanc(self) -> None:
        for patient in self.orthanc.get("/patients"):
            WEB.delete(f"{self.orthanc.url}/patients/{patient}", timeout=60).raise_for_status()

    def in_orthanc(self, items: list[Item]) -> set[str]:
        """SOP Instance UIDs of these that Orthanc has, each with the bytes that were made."""
        found = set()
        for item in items:
            for identifier in self.orthanc.instances(SOPInstanceUID=item.sop_instance_uid):
                raw = self.orthanc.file(identifier)
                assert raw[144 + int.from_bytes(raw[140:144], "little") :] == data_set(item.path)
                found.add(item.sop_instance_uid)
        return found

    def in_mirall(self, items: list[Item]) -> set[str]:
        """As `in_orthanc`, of ours."""
        found = set()
        for item in items:
            url = f"{self.mirall.dicomweb_url}/studies/{item.study_instance_uid}/series/{item.series_instance_uid}"
            answer = WEB.get(
                f"{url}/instances/{item.sop_instance_uid}", headers={"Accept": "application/dicom"}, timeout=60
            )
            if answer.status_code == 200:
                raw = answer.content
                assert raw[144 + int.from_bytes(raw[140:144], "little") :] == data_set(item.path)
                found.add(item.sop_instance_uid)
        return found

    def command(self, *words: str) -> Any:
        """`mirall WORDS --json`, from where mirall.toml lies."""
        done = subprocess.run(
            [sys.executable, "-m", "plugin.cli", *words, "--config", str(self.config), "--json"],
            capture_output=True, text=True, timeout=180, cwd=self.config.parent,
        )  # fmt: skip
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory, needs: Callable[[str], str]) -> Iterator[Hospital]:
    program = needs("Orthanc")
    if not _PLUGIN.is_file():
        pytest.skip(f"Orthanc's DICOMweb plugin is not at {_PLUGIN}")
    folder = tmp_path_factory.mktemp("hospital")
    peer = Orthanc(free_port(), free_port(), free_port())
    http = free_port()
    (folder / "orthanc.json").write_text(json.dumps(_orthanc(folder, peer, http)), encoding="utf-8")
    config = folder / "mirall.toml"
    config.write_text(_mirall(peer, http), encoding="utf-8")
    with (folder / "orthanc.log").open("wb") as log:
        process = subprocess.Popen([program, str(folder / "orthanc.json")], stdout=log, stderr=log)
    try:
        wait_for(lambda: answers(f"{peer.url}/system"), "Orthanc to answer", timeout_s=30)
        with service.running(config) as running:
            yield Hospital(peer, running, config)
    finally:
        process.terminate()
        process.wait(20)


def _orthanc(folder: Path, peer: Orthanc, http: int) -> dict[str, Any]:
    return {
        "StorageDirectory": str(folder / "orthanc"), "IndexDirectory": str(folder / "orthanc"),
        "HttpPort": peer.http_port, "DicomPort": peer.dicom_port, "DicomAet": "ORTHANC", "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False, "DicomCheckCalledAet": True, "DicomAlwaysAllowStore": True,
        "DicomModalities": {"mirall": ["MIRALL", "127.0.0.1", peer.mirall_port]},
        "Plugins": [str(_PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "Servers": {"mirall": [f"http://127.0.0.1:{http}/dicom-web/"]}},
    }  # fmt: skip


def _mirall(peer: Orthanc, http: int) -> str:
    return f"""
        [node]
        dimse = "127.0.0.1:{peer.mirall_port}"
        http = "127.0.0.1:{http}"
        known_peers = [{{ aet = "ORTHANC", address = "127.0.0.1" }}]
        [study]
        quiet_s = 2
        [destinations.pacs]
        kind = "dimse"
        aet = "ORTHANC"
        host = "127.0.0.1"
        port = {peer.dicom_port}
        [destinations.web]
        kind = "stow"
        url = "{peer.url}/dicom-web"
        [[routes]]
        name = "pass on what came by the web"
        match = {{ door = "stow" }}
        send_to = ["pacs"]
        """


def corpus(tmp_path: Path, seed: int) -> list[Item]:
    """12 PET slices of one study that no other test has."""
    return corpus_of_bytes.write("PT", tmp_path / "corpus", studies=1, share=0.06, seed=seed)


def uids(items: list[Item]) -> set[str]:
    return {item.sop_instance_uid for item in items}


def test_orthanc_stores_asks_for_commitment_finds_and_moves(tmp_path: Path, hospital: Hospital) -> None:
    items = corpus(tmp_path, 301)
    study = items[0].study_instance_uid
    hospital.upload(items)
    there = hospital.study_of(items)
    hospital.post("/modalities/mirall/store", {"Resources": [there], "Timeout": 60})
    assert hospital.in_mirall(items) == uids(items)

    asked = hospital.post("/modalities/mirall/storage-commitment", {"Resources": [there]})
    answer = wait_for(
        lambda: (told := hospital.orthanc.get(asked["Path"]))["Status"] != "Pending" and told,
        "the commitment report", timeout_s=30,
    )  # fmt: skip
    assert answer["Status"] == "Success", answer
    assert {each["SOPInstanceUID"] for each in answer["Success"]} == uids(items)

    hospital.empty_orthanc()
    query = hospital.post("/modalities/mirall/query", {"Level": "Study", "Query": {"StudyInstanceUID": study}})
    (found,) = hospital.orthanc.get(f"/queries/{query['ID']}/answers")
    content = hospital.orthanc.get(f"/queries/{query['ID']}/answers/{found}/content?simplify")
    assert content["StudyInstanceUID"] == study and content["PatientID"] == "LOAD PT 301 0"
    hospital.post(f"/queries/{query['ID']}/retrieve", {"TargetAet": "ORTHANC", "Synchronous": True})
    wait_for(lambda: hospital.in_orthanc(items) == uids(items), "Orthanc to have them again", timeout_s=30)


def test_a_commitment_that_cannot_be_given_says_so(tmp_path: Path, hospital: Hospital) -> None:
    items = corpus(tmp_path, 302)[:2]
    hospital.upload(items)  # Orthanc has them, we do not
    there = hospital.study_of(items)
    asked = hospital.post("/modalities/mirall/storage-commitment", {"Resources": [there]})
    answer = wait_for(
        lambda: (told := hospital.orthanc.get(asked["Path"]))["Status"] != "Pending" and told,
        "the commitment report", timeout_s=30,
    )  # fmt: skip
    assert answer["Status"] == "Failure"
    assert {each["SOPInstanceUID"] for each in answer["Failures"]} == uids(items)


@pytest.mark.parametrize(("source", "how"), [("pacs", "get"), ("pacs", "move"), ("web", "auto")])
def test_we_pull_from_orthanc(tmp_path: Path, hospital: Hospital, source: str, how: str) -> None:
    items = corpus(tmp_path, {"get": 303, "move": 304, "auto": 305}[how])
    hospital.upload(items)
    words = ["pull", "--from", source, "--study", items[0].study_instance_uid, "--how", how]
    assert hospital.command(*words)["complete"] is True
    assert hospital.in_mirall(items) == uids(items)


def test_what_came_by_the_web_is_passed_on_and_committed(tmp_path: Path, hospital: Hospital) -> None:
    """Orthanc as STOW-RS client; a route sends on to Orthanc by C-STORE, which commits to each instance."""
    items = corpus(tmp_path, 306)
    hospital.upload(items)
    there = hospital.study_of(items)
    hospital.post("/dicom-web/servers/mirall/stow", {"Resources": [there], "Synchronous": True})
    assert hospital.in_mirall(items) == uids(items)
    hospital.empty_orthanc()

    def committed() -> bool:
        rows = WEB.get(f"{hospital.mirall.url}/api/outbox", params={"limit": "1000"}, timeout=30).json()
        return {row["sop_instance_uid"] for row in rows if row["state"] == "committed"} >= uids(items)

    wait_for(committed, "every instance to be committed", timeout_s=60)
    assert hospital.in_orthanc(items) == uids(items)


def test_orthanc_asks_and_retrieves_by_dicomweb(tmp_path: Path, hospital: Hospital) -> None:
    items = corpus(tmp_path, 307)
    study = items[0].study_instance_uid
    hospital.upload(items)
    there = hospital.study_of(items)
    hospital.post("/modalities/mirall/store", {"Resources": [there]})
    hospital.empty_orthanc()
    found = hospital.post(
        "/dicom-web/servers/mirall/qido", {"Uri": "/studies", "Arguments": {"StudyInstanceUID": study}}
    )
    assert len(found) == 1
    hospital.post("/dicom-web/servers/mirall/retrieve", {"Resources": [{"Study": study}], "Synchronous": True})
    assert hospital.in_orthanc(items) == uids(items)


def test_a_study_that_orthanc_sent_in_part_is_completed_from_its_own_list(tmp_path: Path, hospital: Hospital) -> None:
    items = corpus(tmp_path, 308)
    hospital.upload(items)
    sent = [
        identifier
        for item in items[:-3]
        for identifier in hospital.orthanc.instances(SOPInstanceUID=item.sop_instance_uid)
    ]
    hospital.post("/modalities/mirall/store", {"Resources": sent})
    wait_for(lambda: hospital.in_mirall(items) == uids(items), "the three that were not sent", timeout_s=60)
