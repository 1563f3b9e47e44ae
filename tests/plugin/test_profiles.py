"""Destinations' profiles: each gets results in its own encoding and transfer syntax, and a dry run says so before."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from email.parser import BytesParser
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer
from archives import generated
from pydicom import dcmread
from pydicom.uid import (
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    MRImageStorage,
    RLELossless,
    generate_uid,
)
from pynetdicom import AE, _config, evt
from small_service import SmallService, instance_bytes, until
from typer.testing import CliRunner

from dicom_io import labels
from plugin import encodings, probing, settings
from plugin.cli import archive as archive_commands
from plugin.cli import jobs as job_commands
from plugin.destinations import Parcel, StowDestination, opened
from plugin.jobs.planning import add_to_outbox
from plugin.jobs.port import told
from plugin.settings import Destination, Profile

MULTI, SINGLE = "1.2.840.10008.5.1.4.1.1.7.4", "1.2.840.10008.5.1.4.1.1.7"
CONFIGURATION = """
[study]
quiet_s = 0.3
[destinations.usual]
kind = "stow"
url = "http://127.0.0.1:1"
[destinations.old]
kind = "stow"
url = "http://127.0.0.1:2"
[destinations.old.profile]
captures = "single-frame"
[[routes]]
name = "mr"
match = { Modality = "MR" }
run = ["fake:1"]
send_to = ["usual", "old"]
"""


@pytest.fixture(autouse=True)
def peers_take_only_what_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_config, "UNRESTRICTED_STORAGE_SERVICE", False)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[SmallService]:
    small = SmallService(tmp_path, CONFIGURATION)
    yield small
    small.close()


def owed(service: SmallService) -> dict[str, set[str]]:
    """Destination -> SOP classes that it is owed."""
    found: dict[str, set[str]] = {}
    for row in service.jobs.deliveries():
        instance = service.index.instance(row.sop_instance_uid)
        assert instance is not None
        found.setdefault(row.destination, set()).add(instance.sop_class_uid)
    return found


def test_results_are_written_for_each_profile_and_each_destination_is_owed_its_own(service: SmallService) -> None:
    study = service.study()
    service.start()
    until(lambda: service.ended(study), 40)
    assert {row.sop_class_uid for row in service.results(study)} == {MULTI, SINGLE}, "the archive keeps all"
    assert owed(service) == {"usual": {MULTI}, "old": {SINGLE}}


def test_a_job_that_is_run_again_makes_the_encoding_of_the_profile_as_it_is_now(service: SmallService) -> None:
    service.configure(CONFIGURATION.replace("single-frame", "multi-frame"))
    service.behave(error="rejected", times=1)
    study = service.study()
    worker = service.start()
    until(lambda: service.ended(study, "failed"), 40)
    worker.terminate()
    worker.wait(20)
    service.configure(CONFIGURATION)
    (job,) = service.jobs_of(study)
    service.jobs.retry(job.id, service.settings.routes)
    service.start()
    until(lambda: service.ended(study), 40)
    assert owed(service) == {"usual": {MULTI}, "old": {SINGLE}}


def test_encodings_are_named_by_profile_and_the_default_is_always_written() -> None:
    assert encodings.needed([]) == ["binary", "multi-frame"]
    assert encodings.needed([Profile(segmentation="labelmap", empty_frames=True)]) == [
        "binary",
        "labelmap, empty frames",
        "multi-frame",
    ]
    labelmap = Profile(segmentation="labelmap")
    written = ["binary", "labelmap", "multi-frame"]
    assert [each for each in written if encodings.fits(each, labelmap, written)] == ["labelmap", "multi-frame"]
    before = ["binary", "multi-frame"]
    assert [each for each in before if encodings.fits(each, labelmap, before)] == before, "better that than nothing"
    both = [*written, "map", "report"]
    assert [each for each in both if encodings.fits(each, labelmap, both)] == ["labelmap", "multi-frame"]
    assert encodings.of(Profile()) == encodings.DEFAULT
    numbers = Profile(reports=True, maps=True)
    assert encodings.needed([numbers]) == ["binary", "map", "map of disagreement", "multi-frame", "report"]
    assert [each for each in both if encodings.fits(each, numbers, both)] == ["binary", "multi-frame", "map", "report"]
    told = Profile(segmentation="labelmap", reports=True)
    all_of_it = encodings.needed([told, numbers])
    more = ["binary", "labelmap", "map", "map of disagreement", "multi-frame", "report", "report on labelmap"]
    assert all_of_it == more
    sent = [each for each in all_of_it if encodings.fits(each, told, all_of_it)]
    assert sent == ["labelmap", "multi-frame", "report on labelmap"], "a report refers to the SEG that comes with it"
    assert encodings.fits("report", told, ["multi-frame", "report"]), "a classifier's report refers to none"
    shown = Profile(saliency=True, captures="single-frame")
    asked = encodings.needed([shown])
    assert asked == ["binary", "multi-frame", "saliency", "saliency, single-frame", "single-frame"]
    sent = [each for each in asked if encodings.fits(each, shown, asked)]
    assert sent == ["binary", "saliency", "saliency, single-frame", "single-frame"]
    assert [each for each in asked if encodings.fits(each, Profile(), asked)] == ["binary", "multi-frame"]
    assert encodings.fits("", labelmap, written), "a result of before encodings were told apart"


# Transfer syntaxes


def parcel_of(path: Path, raw: bytes) -> Parcel:
    path.write_bytes(raw)
    ds = dcmread(BytesIO(raw))
    return Parcel(
        str(ds.SOPInstanceUID),
        str(ds.SOPClassUID),
        str(ds.SeriesInstanceUID),
        str(ds.StudyInstanceUID),
        str(ds.file_meta.TransferSyntaxUID),
        path,
    )


@contextmanager
def node(syntaxes: list[str], got: list[Any], classes: tuple[str, ...] = (MRImageStorage,)) -> Iterator[Destination]:
    entity = AE("PACS")
    for each in classes:
        entity.add_supported_context(each, syntaxes)
    entity.add_supported_context("1.2.840.10008.1.1")

    def store(event: Any) -> int:
        got.append((str(event.context.transfer_syntax), event.dataset))
        return 0

    handlers = [(evt.EVT_C_STORE, store), (evt.EVT_C_ECHO, lambda event: 0)]
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    port = int(server.server_address[1])
    yield Destination(kind="dimse", aet="PACS", host="127.0.0.1", port=port)
    server.shutdown()


def test_a_node_gets_the_first_syntax_of_its_profile_that_it_takes(tmp_path: Path) -> None:
    parcel = parcel_of(tmp_path / "image.dcm", instance_bytes(generate_uid()))
    got: list[Any] = []
    with node([RLELossless], got) as address:
        profile = Profile(transfer_syntaxes=(JPEG2000Lossless, RLELossless))
        peer = opened(address.model_copy(update={"profile": profile}), "MIRALL")
        assert peer.negotiate([parcel]) == [RLELossless]
        assert [receipt.outcome for receipt in peer.send([parcel])] == ["sent"]
        assert opened(address, "MIRALL").negotiate([parcel]) == [None]
    ((syntax, dataset),) = got
    assert (syntax, dataset.SOPInstanceUID) == (RLELossless, parcel.sop_instance_uid)


def test_stow_sends_the_syntax_of_the_profile_past_the_gate_and_holds_what_lost_its_labels(tmp_path: Path) -> None:
    dataset, record = generated()
    parcel = replace(parcel_of(tmp_path / "made.dcm", labels.encode(dataset, record)), record=record)
    bodies: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        head = f"Content-Type: {request.headers['Content-Type']}\r\n\r\n".encode()
        (part,) = BytesParser().parsebytes(head + request.content).get_payload()  # type: ignore[misc]
        bodies.append(part.get_payload(decode=True))  # type: ignore[union-attr, arg-type]
        return httpx.Response(200)

    peer = StowDestination("http://pacs", transport=httpx.MockTransport(answer), prefer=(RLELossless,))
    assert [receipt.outcome for receipt in peer.send([parcel])] == ["sent"]
    sent = dcmread(BytesIO(bodies[0]))
    assert sent.file_meta.TransferSyntaxUID == RLELossless
    assert (sent.pixel_array == dataset.pixel_array).all()
    other = replace(parcel, record=replace(record, seed=4))
    (receipt,) = peer.send([other])
    assert (receipt.outcome, len(bodies)) == ("refused", 1)
    assert "it must be" in receipt.sentence


# Dry run, probe, and what commands say


def call(service: SmallService, *words: str) -> Any:
    app = typer.Typer()
    job_commands.register(app)
    archive_commands.register(app)
    result = CliRunner().invoke(app, [*words, "--config", str(service.config)])
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.output) if "--json" in words else result.output


def test_a_dry_run_says_of_each_object_what_would_leave_and_sends_nothing(tmp_path: Path) -> None:
    got: list[Any] = []
    with node([ImplicitVRLittleEndian], got) as address:
        service = SmallService(tmp_path)
        service.configure(
            f'[destinations.pacs]\nkind = "dimse"\naet = "PACS"\nhost = "127.0.0.1"\nport = {address.port}\n'
            '[destinations.away]\nkind = "dimse"\naet = "PACS"\nhost = "127.0.0.1"\nport = 1\n'
            '[[routes]]\nname = "on"\nmatch = { Modality = "MR" }\nsend_to = ["pacs", "away"]\n'
        )
        study = service.study(slices=2)
        rows = call(service, "outbox", "plan", study, "--json")
        assert len(rows) == 4
        here = [row for row in rows if row["destination"] == "pacs"]
        assert {(row["stored"], row["leaves"], row["verdict"]) for row in here} == {
            ("Explicit VR Little Endian", "Implicit VR Little Endian", "leaves")
        }
        away = [row for row in rows if row["destination"] == "away"]
        assert all(row["leaves"] == "" and "does not answer" in row["why"] for row in away)
        instance = service.index.instances(study)[0]
        instance.path.unlink()
        table = call(service, "routes", "test", study, "--dry-run")
        assert f"the file of the object, {instance.storage_key}, is gone" in table
        path = tmp_path / "file.dcm"
        path.write_bytes(instance_bytes(study))
        assert "Implicit VR Little Endian" in call(service, "send", str(path), "--to", "pacs", "--dry-run")
        service.close()
    assert got == []


def test_a_probe_proposes_a_profile_that_the_peer_takes(tmp_path: Path) -> None:
    label_map = "1.2.840.10008.5.1.4.1.1.66.7"
    got: list[Any] = []
    with node([ImplicitVRLittleEndian, RLELossless], got, (label_map, SINGLE)) as address:
        found = probing.probe("pacs", address, "MIRALL")
    assert found.services["C-ECHO"] == "yes" and found.services["storage commitment"] == "no"
    assert found.storage["Label Map Segmentation"] == ["implicit", "RLE"]
    assert found.storage["Segmentation"] == []
    text = '[destinations.pacs]\nkind = "dimse"\naet = "PACS"\nhost = "h"\nport = 4\n' + found.profile
    (tmp_path / "mirall.toml").write_text(text)
    profile = settings.load(tmp_path / "mirall.toml").destinations["pacs"].profile
    assert (profile.segmentation, profile.captures) == ("labelmap", "single-frame")
    assert profile.transfer_syntaxes == (ImplicitVRLittleEndian, RLELossless)


def test_a_probe_of_a_web_server_says_what_cannot_be_known() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(204, headers={"Allow": "GET, POST"})

    address = Destination(kind="stow", url="http://pacs/dicom-web")
    found = probing.probe_web("web", address, ssl.create_default_context(), httpx.MockTransport(answer))
    assert (found.services["QIDO-RS"], found.services["STOW-RS"]) == ("yes", "POST is allowed")
    assert found.profile == "" and "no question before the deed" in found.unknown[0]


def test_everything_that_failed_for_one_destination_is_sent_again_together(service: SmallService) -> None:
    study = service.study(slices=2)
    uids = [row.sop_instance_uid for row in service.index.instances(study)]
    with service.index.write() as connection:
        add_to_outbox(connection, study, uids, ["usual", "old"], 0.0)
    for row in service.jobs.deliveries():
        service.jobs.cancel_delivery(row.id)
    assert call(service, "outbox", "retry", "--all", "--destination", "old", "--json") == {"retried": 2}
    assert {(row.destination, row.state) for row in service.jobs.deliveries()} == {
        ("old", "queued"),
        ("usual", "failed"),
    }
    assert "2 rows are sent again" in call(service, "outbox", "retry", "--all")


def test_deliveries_are_told_with_the_worst_first() -> None:
    assert told({"delivered": 3, "failed": 1}) == "1 of 4 failed, 3 of 4 delivered"
    assert (told({"committed": 4}), told({"sent": 1}), told({})) == ("all 4 committed", "1 sent", "")
