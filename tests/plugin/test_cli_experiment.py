"""`mirall experiment`: what can be asked of real data, and where the answer lies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dicom_io.errors import ImagingError
from plugin import cli
from samples import experiments
from samples.experiments import EXPERIMENTS, Experiment


def run(*arguments: object, code: int = 0, **variables: str) -> str:
    """Output of a command; an error that main() turns into a sentence counts as exit code 1."""
    environment = {"MIRALL_TEST_DATA": None} | variables
    result = CliRunner().invoke(cli.application(), [str(argument) for argument in arguments], env=environment)
    if isinstance(result.exception, ImagingError):
        assert code == 1, result.exception
        return str(result.exception)
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def asked(monkeypatch) -> list[tuple]:
    """What an experiment that takes no time was asked for."""
    calls: list[tuple] = []

    def answer(source: Path, out: Path, profile: str, say, workers: int) -> Path:
        calls.append((source, out, profile, workers))
        say("thinking")
        out.mkdir(parents=True)
        (out / "report.md").write_text("# Yes\n")
        return out / "report.md"

    monkeypatch.setitem(experiments.EXPERIMENTS, "toy", Experiment("toy", "Is it so?", "toys", answer))
    return calls


def test_list_names_each_experiment_with_its_question_and_its_data():
    rows = json.loads(run("experiment", "list", "--json"))
    assert [row["name"] for row in rows] == list(EXPERIMENTS)
    for row in rows:
        assert row["question"].endswith("?")
        assert EXPERIMENTS[row["name"]].name == row["name"]
    lines = run("experiment", "list").splitlines()
    reads = {row["name"]: f" Reads {row['data']}/." if row["data"] else "" for row in rows}
    assert lines == [f"{row['name']}: {row['question']}{reads[row['name']]}" for row in rows]


def test_run_gives_the_data_set_of_the_experiment_and_prints_the_report(asked, tmp_path):
    (tmp_path / "toys").mkdir()
    words = ("experiment", "run", "toy", "--out", tmp_path / "out")
    said = run(*words, "--profile", "quick", "--data-set", tmp_path)
    assert asked == [(tmp_path / "toys", tmp_path / "out" / "toy", "quick", 1)]
    assert said == f"thinking\n# Yes\n\nReport: {tmp_path / 'out' / 'toy' / 'report.md'}\n"


def test_the_data_folder_may_stand_in_the_environment_and_the_full_profile_is_the_default(asked, tmp_path):
    (tmp_path / "toys").mkdir()
    run("experiment", "run", "toy", "--out", tmp_path / "out", MIRALL_TEST_DATA=str(tmp_path))
    assert asked == [(tmp_path / "toys", tmp_path / "out" / "toy", "full", 1)]


def test_an_unknown_experiment_or_profile_or_data_that_are_not_there_are_named(asked, tmp_path):
    said = run("experiment", "run", "toys", "--data-set", tmp_path, code=1)
    assert said == f"there is no experiment 'toys'; there are {', '.join(EXPERIMENTS)}"
    said = run("experiment", "run", "toy", "--data-set", tmp_path, code=1)
    assert said == f"{tmp_path / 'toys'} is no folder; --data-set must name the folder that holds toys/"
    run("experiment", "run", "toy", "--data-set", tmp_path, "--profile", "huge", code=2)
    run("experiment", "run", "toy", code=2)
    assert asked == []


def test_pet_tumour_refuses_a_folder_of_another_data_set_and_an_earlier_run(tmp_path):
    (tmp_path / "pet-suv-sarcoma").mkdir()
    words = ("experiment", "run", "pet-tumour", "--data-set", tmp_path, "--profile", "quick", "--out", tmp_path / "out")
    assert "holds no PATIENT/PET/ beside PATIENT/PET_mask.nii.gz" in run(*words, code=1)
    (tmp_path / "out" / "pet-tumour" / "cohorts").mkdir(parents=True)
    assert "holds an earlier run; give another --out, so that no two runs mix" in run(*words, code=1)


def test_workers_reach_the_experiment_and_one_that_has_no_use_for_them_says_so(asked, tmp_path):
    (tmp_path / "toys").mkdir()
    run("experiment", "run", "toy", "--data-set", tmp_path, "--out", tmp_path / "out", "--workers", 2)
    assert asked == [(tmp_path / "toys", tmp_path / "out" / "toy", "full", 2)]
    (tmp_path / "pet-suv-sarcoma").mkdir()
    words = ("experiment", "run", "pet-tumour", "--data-set", tmp_path, "--out", tmp_path / "out", "--workers", 2)
    assert run(*words, code=1) == "pet-tumour runs in one process, not in 2; leave --workers out"


@pytest.mark.parametrize("name", ["generators-brain", "generators-pet", "generators-mammo"])
def test_a_line_of_generators_refuses_a_folder_of_another_data_set(name, tmp_path):
    (tmp_path / EXPERIMENTS[name].data).mkdir()
    words = ("experiment", "run", name, "--data-set", tmp_path, "--out", tmp_path / "out", "--profile", "quick")
    assert f"{tmp_path / EXPERIMENTS[name].data} holds n" in run(*words, code=1)
