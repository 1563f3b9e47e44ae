"""The command line: its help, and the commands of the archive and the configuration."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
import typer
from archives import MODEL, archive, bytes_of, generated, give
from dicom_objects import STUDY, file_of, slice_of
from typer.testing import CliRunner

from dicom_io.dataset import dataset_hash
from dicom_io.errors import ImagingError
from plugin import cli
from plugin.dimse import node
from plugin.registry import Registry
from plugin.settings import Node, Settings

COMMANDS = typer.main.get_command(cli.application())


def leaves(command: click.Command, name: str = "mirall") -> list[tuple[str, click.Command]]:
    """Every command and group with its full name."""
    below = getattr(command, "commands", {})
    found = [(name, command)]
    for part, inner in below.items():
        found += leaves(inner, f"{name} {part}")
    return found


@pytest.mark.parametrize(
    ("name", "command"), leaves(COMMANDS), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_command_shows_an_example(name, command):
    assert f"Example: {name.split()[0]} " in (command.help or "")


def run(*arguments: object, code: int = 0) -> str:
    """Output of a command; an error that main() turns into a sentence counts as exit code 1."""
    result = CliRunner().invoke(cli.application(), [str(argument) for argument in arguments])
    if isinstance(result.exception, ImagingError):
        assert code == 1
        return str(result.exception)
    assert result.exit_code == code, result.output
    return result.output


def test_help_loads_nothing_heavy():
    heavy = "{'torch', 'monai', 'fastapi', 'pynetdicom', 'sqlalchemy', 'pydicom', 'numpy'}"
    code = f"import sys, plugin.cli; plugin.cli.application(); print(sorted({heavy} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout == "[]\n"


def test_an_error_is_one_sentence_on_stderr_and_exit_code_one(tmp_path):
    command = [sys.executable, "-m", "plugin.cli", "quarantine", "show", "7", "--data", str(tmp_path)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stdout) == (1, "")
    assert answer.stderr == "mirall: there is no entry 7 in quarantine; see `mirall quarantine list`\n"


def test_wrong_use_is_exit_code_two():
    run("quarantine", "show", "seven", code=2)
    run("no-such-command", code=2)


# config


def test_config_check_names_file_line_and_key(tmp_path):
    path = tmp_path / "mirall.toml"
    path.write_text('[node]\naet = "A"\nquiet = 3\n')
    assert run("config", "check", "--config", path, code=1) == f"{path}:3: node.quiet: no such setting"


def test_config_check_names_models_that_are_not_there(tmp_path):
    path = tmp_path / "mirall.toml"
    path.write_text('[[routes]]\nname = "all"\nrun = ["nothing:1"]\n')
    said = run("config", "check", "--config", path, code=1)
    assert said.startswith(f"{path}:3: routes[0].run: route 'all' runs 'nothing:1', which is not in ")


def test_a_good_configuration_is_said_to_be_one(tmp_path):
    path = tmp_path / "mirall.toml"
    path.write_text(
        '[destinations.pacs]\nkind = "stow"\nurl = "http://pacs"\n[[routes]]\nname = "all"\nsend_to = ["pacs"]\n'
    )
    assert run("config", "check", "--config", path) == f"{path}: no problems; 1 route(s), 1 destination(s)\n"


# quarantine, reindex


@pytest.fixture
def data(tmp_path) -> Path:
    folder = tmp_path / "data"
    ingest = archive(folder, "hold")
    give(ingest, slice_of("1.2.3", StudyDescription="Chset"))
    give(ingest, slice_of("1.2.3"))
    give(ingest, b"a letter")
    ingest.index.close()
    return folder


def test_quarantine_lists_sentences(data):
    listing = run("quarantine", "list", "--data", data)
    assert "dimse SCANNER 10.0.0.7" in listing
    assert "a corrected header for SOP Instance UID 1.2.3 is held" in listing
    (held, letter) = json.loads(run("quarantine", "list", "--json", "--data", data))
    assert (held["id"], held["study_instance_uid"], letter["size"]) == (1, STUDY, len(b"a letter"))


def test_quarantine_shows_where_the_bytes_lie(data):
    shown = json.loads(run("quarantine", "show", 2, "--data", data))
    assert Path(shown["path"]).read_bytes() == b"a letter"


def test_quarantine_retry_says_why_it_stays_or_what_became_of_it(data):
    said = run("quarantine", "retry", 2, "--data", data, code=1)
    assert said.startswith("entry 2 stays in quarantine: the object is no DICOM file")
    assert run("quarantine", "retry", 1, "--replace", "--data", data) == f"replaced: 1.2.3 of study {STUDY}\n"
    assert len(json.loads(run("quarantine", "list", "--json", "--data", data))) == 1


def test_quarantine_retry_says_its_reason_once(data):
    command = [sys.executable, "-m", "plugin.cli", "quarantine", "retry", "2", "--data", str(data)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stdout) == (1, "")
    assert answer.stderr.startswith("mirall: entry 2 stays in quarantine: the object is no DICOM file")
    assert answer.stderr.count("the object is no DICOM file") == len(answer.stderr.splitlines()) == 1


def test_reindex_names_objects_whose_file_is_missing(data):
    ingest = archive(data)
    ingest.index.instance("1.2.3").path.unlink()
    ingest.index.close()
    assert json.loads(run("reindex", "--json", "--data", data))["missing"] == ["1.2.3"]
    assert run("reindex", "--data", data) == "1 missing; 1 instances of 1 studies are indexed\n"


def test_reindex_builds_a_lost_index_anew(data):
    for part in data.glob("index.sqlite*"):
        part.unlink()
    document = json.loads(run("reindex", "--json", "--data", data))
    assert document["found"] == {"stored": 1, "listed again": 2}
    assert run("reindex", "--data", data) == "nothing new; 1 instances of 1 studies are indexed\n"


# send


@pytest.fixture
def listener(tmp_path):
    ingest = archive(tmp_path / "peer")
    running = node.start(Settings(node=Node(aet="PEER", dimse="127.0.0.1:0")), ingest)
    yield ingest, f"PEER@{running.address}"
    running.stop()
    ingest.index.close()


def test_files_and_folders_are_sent_as_they_are(tmp_path, listener):
    ingest, to = listener
    folder = tmp_path / "study"
    folder.mkdir()
    (folder / "a.dcm").write_bytes(file_of(slice_of("1.2.1")))
    (folder / "b").write_bytes(file_of(slice_of("1.2.2", value=2)))
    (folder / "notes.txt").write_text("not DICOM")
    assert run("send", folder, "--to", to, "--data", tmp_path) == f"2 of 2 files were taken by {to}\n"
    for name, uid in (("a.dcm", "1.2.1"), ("b", "1.2.2")):
        assert ingest.index.instance(uid).dataset_hash == dataset_hash((folder / name).read_bytes())


def test_a_destination_of_the_configuration_is_known_by_name(tmp_path, listener):
    ingest, to = listener
    aet, _, address = to.partition("@")
    host, _, port = address.rpartition(":")
    path = tmp_path / "mirall.toml"
    path.write_text(f'[destinations.pacs]\nkind = "dimse"\naet = "{aet}"\nhost = "{host}"\nport = {port}\n')
    (tmp_path / "a.dcm").write_bytes(file_of(slice_of("1.2.1")))
    (row,) = json.loads(run("send", tmp_path / "a.dcm", "--to", "pacs", "--json", "--config", path))
    assert row["outcome"] in ("sent", "confirmed")
    assert ingest.index.instance("1.2.1") is not None


def test_what_the_peer_refuses_is_said_and_is_a_failure(tmp_path, listener):
    _, to = listener
    raw = file_of(slice_of("1.2.1")) + b"\0" * 3
    (tmp_path / "a.dcm").write_bytes(raw)
    ingest, _ = listener
    give(ingest, slice_of("1.2.1", value=9))
    said = run("send", tmp_path / "a.dcm", "--to", to, "--data", tmp_path, code=1)
    assert "an object with SOP Instance UID 1.2.1 and other pixels is held" in said
    assert said.endswith(f"0 of 1 files were taken by {to}\n")


def test_a_destination_that_is_none_is_a_sentence(tmp_path):
    (tmp_path / "a.dcm").write_bytes(file_of(slice_of("1.2.1")))
    assert run("send", tmp_path / "a.dcm", "--to", "pacs", "--data", tmp_path, code=1) == (
        "'pacs' is no destination: give AET@host:port, a DICOMweb URL, or a configured name (none)"
    )


def test_nothing_to_send_is_a_sentence(tmp_path):
    assert run("send", tmp_path, "--to", "A@b:1", "--data", tmp_path, code=1) == f"no DICOM file lies in {tmp_path}"
    assert "does not exist; give DICOM files" in run("send", tmp_path / "x", "--to", "A@b:1", code=1)


def test_a_file_that_cannot_be_sent_is_named(tmp_path):
    (tmp_path / "whole.dcm").write_bytes(file_of(slice_of("1.2.3")))
    cut = tmp_path / "worn.dcm"
    cut.write_bytes(file_of(slice_of("1.2.4"), lambda raw: raw[:-9]))
    assert f"{cut} cannot be sent: the object ends too early" in run("send", tmp_path, "--to", "A@127.0.0.1:9", code=1)


def test_a_synthetic_file_without_its_record_is_not_sent(tmp_path, listener):
    ingest, to = listener
    dataset, record = generated()
    path = tmp_path / "picture.dcm"
    path.write_bytes(bytes_of(dataset))
    said = run("send", path, "--to", to, "--data", tmp_path, code=1)
    assert said.startswith("picture.dcm was made by one of our model versions")
    assert ingest.index.counts()["instances"] == 0
    path.with_suffix(".record.json").write_text(record.to_json())
    assert run("send", path, "--to", to, "--data", tmp_path) == f"1 of 1 files were taken by {to}\n"


def test_a_synthetic_file_that_lost_its_own_marks_is_known_by_the_registry(tmp_path, listener, monkeypatch):
    ingest, to = listener
    dataset, _ = generated()
    dataset.remove_private_tags()
    del dataset.SyntheticData
    dataset.ContributingEquipmentSequence[-1].Manufacturer = "Somebody"
    path = tmp_path / "picture.dcm"
    path.write_bytes(bytes_of(dataset))
    monkeypatch.setattr(Registry, "known_device_uids", lambda registry: frozenset({MODEL.device_uid}))
    said = run("send", path, "--to", to, "--data", tmp_path, code=1)
    assert said.startswith("picture.dcm was made by one of our model versions")
    assert ingest.index.counts()["instances"] == 0
