"""`mirall predict` and `mirall generate`: what a person types, and what comes back."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import oblique_studies as toy
import pytest
from pydicom import dcmread
from rich.console import Console
from typer.testing import CliRunner

from dicom_io import labels
from dicom_io.errors import ImagingError
from dicom_io.provenance import LabelRecord
from plugin import cli
from plugin.cli import progress

NEW = 61  # a patient of no cohort


def run(*arguments: object, code: int = 0) -> str:
    """Output of a command; an error that main() turns into a sentence counts as exit code 1."""
    result = CliRunner().invoke(cli.application(), [str(argument) for argument in arguments])
    if isinstance(result.exception, ImagingError):
        assert code == 1, result.exception
        return str(result.exception)
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    toy.write(folder, toy.mr("T1", NEW), toy.mr("FLAIR", NEW))
    return folder


def test_predict_writes_labelled_objects_and_says_where_and_what(head_segmenter, study, tmp_path):
    said = run("predict", "toy-lesions:1", study, "--models", head_segmenter.shelf, "--out", tmp_path).splitlines()
    written = sorted(tmp_path.glob("*.dcm"))
    assert len(written) == len(said) == 2
    assert sorted(line.split(": ")[0] for line in said) == [str(path) for path in written]
    assert sorted(line.split(": ")[1].split(", ")[0] for line in said) == ["capture", "segmentation"]
    assert all(line.endswith(" ml of lesion") for line in said)
    for path in written:
        record = LabelRecord.from_json(path.with_suffix(".record.json").read_text())
        labels.check(path.read_bytes(), record)


def test_predict_as_json_names_what_was_made(head_segmenter, study, tmp_path):
    rows = json.loads(
        run("predict", "toy-lesions", study, "--models", head_segmenter.shelf, "--out", tmp_path, "--json")
    )
    assert [row["kind"] for row in rows] == ["segmentation", "capture"]
    for row in rows:
        dataset = dcmread(row["path"])
        assert (dataset.SOPInstanceUID, dataset.SOPClassUID) == (row["sop_instance_uid"], row["sop_class_uid"])
        assert (row["synthetic"], row["out_of_domain"]) == (False, False)


def test_a_model_may_be_given_as_its_folder(head_segmenter, study, tmp_path):
    run("predict", head_segmenter.folder, study, "--out", tmp_path)
    assert len(list(tmp_path.glob("*.dcm"))) == 2


def test_what_is_outside_the_card_is_refused_unless_forced_and_then_said(slice_classifier, tmp_path):
    toy.write(tmp_path / "in", toy.pet(NEW, shape=(9, *toy.SHAPE[1:])))
    words = ("predict", "toy-slices:1", tmp_path / "in", "--models", slice_classifier.shelf, "--out", tmp_path / "out")
    said = run(*words, code=1)
    assert "the card of toy-slices:1 says at most 25 mm" in said and "force the run" in said
    assert not (tmp_path / "out").exists()
    (line,) = run(*words, "--force").splitlines()
    assert line.endswith(" OUT OF DOMAIN")
    (row,) = json.loads(run(*words, "--force", "--json"))
    assert row["out_of_domain"] is True


def test_a_wrong_model_a_wrong_path_and_a_wrong_study_are_sentences(head_segmenter, study, tmp_path):
    models = ("--models", head_segmenter.shelf, "--out", tmp_path / "out")
    said = run("predict", "toy-lesion:1", study, *models, code=1)
    assert said.startswith("there is no model version 'toy-lesion:1' in ") and "toy-lesions:1" in said
    assert "does not exist" in run("predict", "toy-lesions:1", tmp_path / "nowhere", *models, code=1)
    toy.write(tmp_path / "pet", toy.pet(NEW))
    assert run("predict", "toy-lesions:1", tmp_path / "pet", *models, code=1) == (
        "the model needs MR T1 and MR FLAIR on one grid or in one frame of reference, and the study holds PT"
    )
    assert not (tmp_path / "out").exists()


def test_models_are_looked_for_in_the_data_folder_of_the_settings(head_segmenter, study, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "models").symlink_to(Path(head_segmenter.shelf).resolve())
    settings = tmp_path / "mirall.toml"
    settings.write_text('[node]\ndata = "kept"\n')
    run("predict", "toy-lesions:1", study, "--out", tmp_path / "out")
    assert len(list((tmp_path / "out").glob("*.dcm"))) == 2
    said = run("generate", "ghost", "--out", tmp_path / "out", code=1)
    # Other tests leave models on the same shelf.
    assert said.startswith(f"there is no model version 'ghost' in {tmp_path / 'kept' / 'models'}; there are: ")
    assert "toy-lesions:1" in said
    settings.rename(tmp_path / "other.toml")
    assert "mirall-data" in run("generate", "ghost", "--out", tmp_path / "out", code=1)
    assert "toy-lesions:1" in run("generate", "ghost", "--out", tmp_path, "--config", tmp_path / "other.toml", code=1)


@pytest.mark.parametrize("words", [("predict", "ghost:1", "x"), ("generate", "ghost:1")], ids=lambda words: words[0])
def test_a_wrong_name_is_answered_before_torch_is_loaded(words, tmp_path):
    code = (
        "import sys\nfrom plugin.cli import application\nfrom plugin.registry import UnknownModel\n"
        f"try: application()({[*words, '--out', 'y', '--models', str(tmp_path)]!r})\n"
        "except UnknownModel: print(sorted({'torch', 'monai'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout == "[]\n"


def test_the_whole_program_gives_one_sentence_and_exit_code_one(tmp_path):
    command = [sys.executable, "-m", "plugin.cli", "predict", "ghost:1", "x", "--out", "y", "--models", str(tmp_path)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stdout) == (1, "")
    assert answer.stderr == f"mirall: there is no model version 'ghost:1' in {tmp_path}; there are: none\n"


def test_generate_makes_a_synthetic_series(slice_generator, tmp_path):
    words = ("generate", "toy-maker:1", "-n", 3, "--seed", 9, "--models", slice_generator.shelf, "--out", tmp_path)
    (row,) = json.loads(run(*words, "--json"))
    assert (row["kind"], row["synthetic"], row["finding"]) == ("generated", True, "3 pictures, seed 9")
    dataset = dcmread(row["path"])
    assert (dataset.SyntheticData, int(dataset.NumberOfFrames)) == ("YES", 3)
    assert run(*words) == f"{row['path']}: generated, 3 pictures, seed 9\n"


@pytest.mark.parametrize(("form", "suffix"), [("png", ".png"), ("nifti", ".nii.gz")])
def test_generate_writes_other_formats_and_names_each_file(form, suffix, slice_generator, tmp_path):
    words = ("generate", "toy-maker:1", "-n", 2, "--seed", 9, "--models", slice_generator.shelf, "--out", tmp_path)
    rows = json.loads(run(*words, "--format", form, "--json"))
    assert [Path(row["path"]).name for row in rows] == [f"toy-maker-1-seed9-0000{n}{suffix}" for n in range(2)]
    assert all(Path(row["path"]).is_file() for row in rows)
    assert [line.split(": ")[0] for line in run(*words, "--format", form).splitlines()] == [r["path"] for r in rows]
    assert "synthetic, seed 9" in run(*words, "--format", form)


def test_wrong_wishes_to_a_generator_are_refused(slice_generator, slice_classifier, tmp_path):
    models = ("--models", slice_generator.shelf, "--out", tmp_path)
    assert run("generate", "toy-maker:1", "--label", "ill", *models, code=1) == (
        "toy-maker:1 makes unlabelled slices; ask without label 'ill'"
    )
    said = run("generate", "toy-slices:1", *models, code=1)
    assert said == "toy-slices:1 is a predictor; use `mirall predict`"
    said = run("predict", "toy-maker:1", tmp_path, *models, code=1)
    assert said == "toy-maker:1 is a generator; use `mirall generate`"
    run("generate", "toy-maker:1", "-n", 0, *models, code=2)
    assert "--seed" in run("generate", "toy-maker:1", "--seed", -1, *models, code=2)
    assert "leave --force out" in run("generate", "toy-maker:1", "--force", *models, code=2)
    run("generate", "toy-maker:1", "--format", "gif", *models, code=2)
    assert not list(tmp_path.iterdir())


# The progress bar


def test_a_progress_bar_shows_stage_and_count_on_a_terminal_and_nothing_elsewhere(monkeypatch):
    for terminal in (True, False):
        screen = io.StringIO()
        monkeypatch.setattr(
            progress,
            "Console",
            lambda screen=screen, terminal=terminal, **_: Console(file=screen, force_terminal=terminal, width=100),
        )
        with progress.ProgressBar() as bar:
            bar({"stage": "reading", "done": 0, "total": 7})
            bar({"stage": "predicting", "done": 3, "total": 7})
        assert ("predicting" in screen.getvalue() and "3/7" in screen.getvalue()) is terminal
        assert bool(screen.getvalue()) is terminal
