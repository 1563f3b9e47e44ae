"""`mirall jobs`, `outbox`, `routes`, `destinations` on a data folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from pynetdicom import AE, _config, evt
from small_service import ROUTE, SmallService
from typer.testing import CliRunner, Result

from dicom_io.errors import ImagingError, Rejected
from plugin.cli.jobs import register
from plugin.jobs.planning import add_to_outbox, sweep

COMMANDS = [
    *(f"jobs {verb}" for verb in ("list", "show", "cancel", "retry")),
    *(f"outbox {verb}" for verb in ("list", "show", "cancel", "retry", "plan", "commitments")),
    "routes test",
    "destinations echo",
    "destinations probe",
]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[SmallService]:
    small = SmallService(tmp_path, ROUTE + '[destinations.pacs]\nkind = "stow"\nurl = "http://127.0.0.1:1"\n')
    yield small
    small.close()


@pytest.fixture
def job(service: SmallService) -> str:
    service.jobs.study_complete(service.study())
    (identifier,) = sweep(service.index, service.settings, 0.0)
    return identifier


def call(service: SmallService, *words: str) -> Result:
    app = typer.Typer()
    register(app)
    result = CliRunner().invoke(app, [*words, "--config", str(service.config)])
    if isinstance(result.exception, ImagingError):
        raise result.exception
    return result


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_an_example(service: SmallService, command: str) -> None:
    app = typer.Typer(rich_markup_mode=None)
    register(app)
    shown = CliRunner().invoke(app, [*command.split(), "--help"]).output
    assert f"Example: mirall {command}" in shown


def test_jobs_are_listed_shown_cancelled_and_run_again(service: SmallService, job: str) -> None:
    assert job in call(service, "jobs", "list").output
    (listed,) = json.loads(call(service, "jobs", "list", "--json").output)
    assert listed["state"] == "waiting"
    assert json.loads(call(service, "jobs", "show", job[:5], "--json").output) == listed
    assert "cancelled on request" in call(service, "jobs", "cancel", job).output
    assert json.loads(call(service, "jobs", "list", "--state", "waiting", "--json").output) == []
    assert json.loads(call(service, "jobs", "retry", job, "--json").output)["state"] == "waiting"
    with pytest.raises(Rejected, match="no job begins with 'zz'"):
        call(service, "jobs", "show", "zz")
    assert call(service, "jobs", "list", "--state", "sleeping").exit_code == 2


def test_off_a_terminal_a_list_is_plain_lines_with_tabs(service: SmallService, job: str) -> None:
    call(service, "jobs", "cancel", job)
    titles, row = call(service, "jobs", "list").output.splitlines()
    study = service.jobs.get(job).study_instance_uid
    assert titles == "id\tstate\tmodel\troute\tstudy\twhen\t"
    fields = row.split("\t")
    assert [*fields[:5], fields[6]] == [job, "cancelled", "fake:1", "mr", study, "cancelled on request"]


def test_the_outbox_is_listed_stopped_and_sent_again(service: SmallService, job: str) -> None:
    study = service.jobs.get(job).study_instance_uid
    assert study is not None
    uid = service.index.instances(study)[0].sop_instance_uid
    with service.index.write() as connection:
        add_to_outbox(connection, study, [uid], ["pacs"], 0.0)
    assert uid in call(service, "outbox", "list").output
    (row,) = json.loads(call(service, "outbox", "list", "--to", "pacs", "--json").output)
    assert "queued" in call(service, "outbox", "show", str(row["id"])).output
    assert "cancelled on request" in call(service, "outbox", "cancel", str(row["id"])).output
    assert json.loads(call(service, "outbox", "retry", str(row["id"]), "--json").output)["state"] == "queued"


def test_routes_are_tested_in_words(service: SmallService) -> None:
    study = service.study()
    assert "picks 1 series with 3 instances" in call(service, "routes", "test", study).output
    with pytest.raises(Rejected, match=r"1\.2\.3 is not in the archive"):
        call(service, "routes", "test", "1.2.3")


def test_destinations_are_asked(service: SmallService, monkeypatch: pytest.MonkeyPatch) -> None:
    # Our own node switches this on for the whole process; the peer here is another's.
    monkeypatch.setattr(_config, "UNRESTRICTED_STORAGE_SERVICE", False)
    entity = AE("PACS")
    entity.add_supported_context("1.2.840.10008.1.1")
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_ECHO, lambda event: 0)])
    port = server.socket.getsockname()[1]
    service.configure(f'[destinations.pacs]\nkind = "dimse"\naet = "PACS"\nhost = "127.0.0.1"\nport = {port}\n')
    try:
        assert "answers C-ECHO" in call(service, "destinations", "echo", "pacs").output
        found = json.loads(call(service, "destinations", "probe", "pacs", "--json").output)
        assert (found["services"]["C-ECHO"], found["storage"]["Segmentation"]) == ("yes", [])
        shown = call(service, "destinations", "probe", "pacs").output
        assert "no kind of SEG is taken" in shown and "[destinations.pacs.profile]" in shown
        with pytest.raises(Rejected, match="no destination 'research'; configured are: pacs"):
            call(service, "destinations", "echo", "research")
    finally:
        server.shutdown()


def test_a_folder_that_is_no_data_folder_is_named(service: SmallService, tmp_path: Path) -> None:
    with pytest.raises(Rejected, match=r"is no data folder: it has no index\.sqlite"):
        call(service, "jobs", "list", "--data", str(tmp_path / "elsewhere"))
