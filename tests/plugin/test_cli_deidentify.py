"""`mirall deidentify`: files in, files out, and a sentence for each that is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydicom import dcmread
from typer.testing import CliRunner

from dicom_io.errors import ImagingError
from plugin import cli
from samples.phantoms import write_patients


def run(*arguments: object, code: int = 0) -> str:
    """Output of a command; an error that main() turns into a sentence counts as exit code 1."""
    result = CliRunner().invoke(cli.application(), ["deidentify", *(str(argument) for argument in arguments)])
    if isinstance(result.exception, ImagingError):
        assert code == 1, result.exception
        return str(result.exception)
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """The files of one real-looking patient: a phantom under a name that nobody calls fictitious."""
    folder = tmp_path_factory.mktemp("study")
    write_patients("breast-pet", 1, folder, seed=5)
    kept = folder / "files"
    kept.mkdir()
    for number, path in enumerate(sorted(folder.rglob("*.dcm"))[:4]):
        ds = dcmread(path)
        ds.PatientName, ds.PatientID = "Doe^Jane", "471147"
        ds.save_as(kept / f"{number}.dcm")
    return kept


def test_every_file_comes_out_under_its_new_uid(study, tmp_path):
    said = run(study, "--out", tmp_path / "out", "--key", tmp_path / "key", "--report", tmp_path / "report.json")
    assert said == f"4 of 4 objects written to {tmp_path / 'out'}\n"
    files = sorted((tmp_path / "out").iterdir())
    assert len((tmp_path / "key").read_bytes()) == 32
    for path in files:
        ds = dcmread(path)
        assert path.name == f"{ds.SOPInstanceUID}.dcm" and ds.PatientIdentityRemoved == "YES"
        assert b"Doe" not in path.read_bytes() and b"471147" not in path.read_bytes()
    report = json.loads((tmp_path / "report.json").read_text())
    assert {one["sop_instance_uid"] for one in report["written"]} == {path.stem for path in files}
    assert not report["refused"]


def test_what_cannot_be_done_is_refused_and_the_rest_is_written(study, tmp_path):
    (tmp_path / "note.txt").write_text("no DICOM")
    out = tmp_path / "out"
    answer = json.loads(
        run(study, study / "0.dcm", tmp_path / "note.txt", "--out", out, "--key", tmp_path / "k", "--json", code=1)
    )
    assert len(answer["written"]) == 4
    (refused,) = answer["refused"]
    assert "is no DICOM file" in refused["why"]


def test_the_same_object_twice_is_written_once(study, tmp_path):
    twice = tmp_path / "again.dcm"
    twice.write_bytes((study / "0.dcm").read_bytes())
    said = run(study, twice, "--out", tmp_path / "out", "--key", tmp_path / "key", code=1)
    assert "4 of 5 objects" in said and "give each object once" in said


def test_options_reach_the_objects(study, tmp_path):
    out = tmp_path / "out"
    run(
        *(study, "--out", out, "--key", tmp_path / "key", "--retain-dates", "modified", "--shift-days", 1),
        *("--retain", "patient", "--retain", "device", "--clean", "descriptors"),
    )
    ds = dcmread(next(out.iterdir()))
    codes = [item.CodeValue for item in ds.DeidentificationMethodCodeSequence]
    assert codes == ["113100", "113105", "113107", "113108", "113109"]
    original = dcmread(study / "0.dcm")
    assert ds.PatientWeight == original.PatientWeight
    assert int(original.StudyDate) - int(ds.StudyDate) >= 1


def test_the_key_lies_in_the_data_folder_of_the_settings_and_is_the_cohorts(study, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mirall.toml").write_text('[node]\ndata = "kept-here"\n')
    run(study / "0.dcm", "--out", tmp_path / "out")
    assert (tmp_path / "kept-here" / "cohort.key").exists()


def test_results_do_not_go_among_the_originals(study, tmp_path):
    assert "give another folder" in run(study, "--out", study, "--key", tmp_path / "key", code=1)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no file" in run(empty, "--out", tmp_path / "out", "--key", tmp_path / "key", code=1)


def test_faces_are_removed_on_request_and_what_shows_no_head_is_counted(study, tmp_path):
    write_patients("brain-mr", 1, tmp_path / "head", seed=2)
    files = sorted((tmp_path / "head").rglob("t1-*.dcm"))
    out, report = tmp_path / "out", tmp_path / "report.json"
    arguments = (*files, study, "--out", out, "--key", tmp_path / "key", "--faces", "remove", "--report", report)
    said = run(*arguments)
    assert f"faces removed in {len(files)} objects; 4 show no head" in said
    emptied = {one["from"]: one for one in json.loads(report.read_text())["written"] if one["face"] == "removed"}
    assert set(emptied) == {str(file) for file in files} and sum(one["face_pixels"] for one in emptied.values()) > 1000
    for one in emptied.values():
        new, old = dcmread(out / f"{one['sop_instance_uid']}.dcm"), dcmread(one["from"])
        changed = new.pixel_array != old.pixel_array
        assert new.RecognizableVisualFeatures == "NO" and changed.sum() <= one["face_pixels"]
        assert not new.pixel_array[changed].any()


def test_part_of_a_head_without_the_rest_is_refused(tmp_path):
    write_patients("brain-mr", 1, tmp_path / "head", seed=2)
    files = sorted((tmp_path / "head").rglob("t1-*.dcm"))[:2]
    said = run(*files, "--out", tmp_path / "out", "--key", tmp_path / "key", "--faces", "remove", code=1)
    assert said.count("its face is not found") == 2 and not list((tmp_path / "out").iterdir())
    assert "2 of 2" in run(*files, "--out", tmp_path / "out", "--key", tmp_path / "key")
