"""`mirall train`, `evaluate`, `models`: what a person types, and what comes back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from dicom_io.errors import Rejected
from models import recipe
from plugin.cli import learning


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    made = typer.Typer()
    learning.register(made)
    return made


@pytest.fixture
def run_command(app, monkeypatch):
    """Runs a command line and gives what it printed; errors come through as they are."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def run(*words: object) -> str:
        done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    return run


def test_train_release_list_show_and_evaluate(run_command, make_cohort, small_recipe, tmp_path):
    cohort = make_cohort("classification", (3, 1, 2))
    mine = tmp_path / "mine.yaml"
    mine.write_text(recipe.dump(small_recipe("classifier", total_images=64, report_images=32)))
    models = tmp_path / "models"

    said = run_command(
        "train", mine, "--cohort", cohort.folder, "--run", tmp_path / "run", "--seed", 4, "--device", "cpu"
    )
    assert "mirall models release" in said
    assert recipe.load(tmp_path / "run" / "recipe.yaml").seed == 4

    release = ("models", "release", tmp_path / "run", "--cohort", cohort.folder, "--models", models, "--name")
    said = run_command(*release, "slices", "--engine", "torch")
    assert said.startswith("released slices:1, unproven: 2 test patients are fewer than 5")
    assert "served by torch: asked for\n" in said
    of_onnx = json.loads(run_command(*release, "faster", "--version", "b", "--engine", "onnx", "--json"))
    assert (of_onnx["model"], of_onnx["engine"]) == ("faster:b", "onnx")

    _, row = json.loads(run_command("models", "list", "--models", models, "--json"))
    assert (row["model"], row["task"], row["state"]) == ("slices:1", "classification", "unproven")
    shown = json.loads(run_command("models", "show", "slices:1", "--models", models, "--json"))
    assert shown["content_hash"] == row["content_hash"]
    assert shown["metadata"]["mirall"]["saw"]["seed"] == 4
    assert "# slices:1" in run_command("models", "show", "slices", "--models", models)

    of_run = json.loads(run_command("evaluate", tmp_path / "run", "--cohort", cohort.folder, "--draws", 200, "--json"))
    of_version = json.loads(
        run_command("evaluate", "slices:1", "--cohort", cohort.folder, "--models", models, "--draws", 200, "--json")
    )
    assert of_run == of_version
    assert of_run["metrics"] == shown["evaluation"]["metrics"]
    assert of_run["trained_on_this_cohort"] is shown["evaluation"]["trained_on_this_cohort"] is True
    assert "Caution" not in run_command("models", "show", "slices", "--models", models)
    assert "| auroc |" in run_command("evaluate", "slices:1", "--cohort", cohort.folder, "--models", models)


@pytest.mark.parametrize("kind", ["classification", "segmentation", "generation"])
def test_another_cohort_is_measured_with_a_caution_that_its_patients_may_have_been_trained_on(
    kind, request, run_command, make_cohort
):
    """The other cohort holds the training patients of the first as test patients; only its split is another."""
    run, cohort, _ = request.getfixturevalue(f"{kind}_run")
    other = make_cohort(kind, (2, 1, 6))
    words = ("evaluate", run, "--draws", 100, "--cohort")

    report = json.loads(run_command(*words, other.folder, "--json"))
    assert report["trained_on_this_cohort"] is False
    assert f"trained on cohort 'toy-{kind}' with data hash {cohort.data_hash[:12]}" in report["caution"]
    said = run_command(*words, other.folder)
    assert said.startswith("**Caution**: test patients may have been trained on: ") and other.data_hash[:12] in said
    assert "Caution" not in run_command(*words, cohort.folder)


def test_an_empty_shelf_says_so(run_command, tmp_path):
    assert run_command("models", "list", "--models", tmp_path).strip() == "no models"
    assert json.loads(run_command("models", "list", "--models", tmp_path, "--json")) == []


def test_versions_are_released_to_and_found_in_the_data_folder_of_the_settings(
    run_command, classification_run, tmp_path, monkeypatch
):
    run, cohort, _ = classification_run
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mirall.toml").write_text('[node]\ndata = "kept"\n')
    (tmp_path / "other.toml").write_text('[node]\ndata = "elsewhere"\n')

    run_command("models", "release", run.resolve(), "--cohort", cohort.folder.resolve(), "--name", "slices")
    (row,) = json.loads(run_command("models", "list", "--json"))
    assert row["folder"] == str(tmp_path / "kept" / "models" / "slices" / "1")
    assert "# slices:1" in run_command("models", "show", "slices")
    assert "| auroc |" in run_command("evaluate", "slices:1", "--cohort", cohort.folder, "--draws", 100)
    assert run_command("models", "list", "--config", tmp_path / "other.toml").strip() == "no models"
    (tmp_path / "mirall.toml").write_text("broken")
    assert "slices:1" in run_command("models", "list", "--models", tmp_path / "kept" / "models")
    assert not (tmp_path / "mirall-data").exists()


def test_the_tolerance_of_surfaces_is_said_for_segmenters_alone(run_command, segmentation_run, classification_run):
    run, cohort, _ = segmentation_run
    words = ("evaluate", run, "--cohort", cohort.folder, "--draws", 100, "--json")
    plain, wide = (json.loads(run_command(*words, *more)) for more in ((), ("--tolerance-mm", 6)))
    assert (plain["surface_tolerance_mm"], wide["surface_tolerance_mm"]) == (2.0, 6.0)
    assert plain["metrics"]["surface_dice"]["value"] < wide["metrics"]["surface_dice"]["value"]
    assert plain["metrics"]["h95_mm"] == wide["metrics"]["h95_mm"]
    run, cohort, _ = classification_run
    with pytest.raises(Rejected, match="is for classification, and a tolerance is of surfaces; leave it out"):
        run_command("evaluate", run, "--cohort", cohort.folder, "--tolerance-mm", 6)


def test_evaluate_refuses_a_cohort_of_another_task_by_name(run_command, segmentation_run, make_cohort):
    other = make_cohort("classification", (1, 1, 1))
    with pytest.raises(Rejected, match=r"is for segmentation, cohort 'toy-classification' for classification"):
        run_command("evaluate", segmentation_run[0], "--cohort", other.folder)


def test_resume_goes_on_from_the_command_line(run_command, make_cohort, small_recipe, tmp_path):
    cohort = make_cohort("segmentation", (2, 1, 1))
    mine = tmp_path / "mine.yaml"
    mine.write_text(recipe.dump(small_recipe("segmenter", total_images=32, report_images=16)))
    words = ("train", mine, "--cohort", cohort.folder, "--run", tmp_path / "run", "--device", "cpu")
    run_command(*words)
    with pytest.raises(Rejected, match="--resume"):
        run_command(*words)
    run_command(*words, "--resume")
    assert (tmp_path / "run" / "models" / "model.pt").is_file()


def test_a_training_starts_from_a_version_by_name_or_from_a_run_by_folder(
    run_command, generator, generation_run, small_recipe, tmp_path
):
    mine = tmp_path / "mine.yaml"
    mine.write_text(recipe.dump(small_recipe("generator", total_images=16, report_images=16)))
    words = ("train", mine, "--cohort", generation_run[1].folder, "--device", "cpu", "--run")
    shelf = generator.folder.parent.parent
    run_command(*words, tmp_path / "one", "--start-from", "toy-maker:1", "--models", shelf)
    run_command(*words, tmp_path / "other", "--start-from", generation_run[0])
    for name, address in (("one", "toy-maker:1"), ("other", "generator:0")):
        assert json.loads((tmp_path / name / "ancestors.json").read_text())[0]["address"] == address
    with pytest.raises(Rejected, match=r"no model version 'toy-taker'.*there are: toy-maker:1"):
        run_command(*words, tmp_path / "third", "--start-from", "toy-taker", "--models", shelf)


def _commands(app: typer.Typer) -> list[tuple[str, str]]:
    nested = [group.typer_instance for group in app.registered_groups]
    commands = [command for each in (app, *nested) for command in each.registered_commands]
    return [(command.name or "", (command.callback.__doc__ or "") if command.callback else "") for command in commands]


def test_every_command_shows_an_example(app):
    for name, help_text in _commands(app):
        assert "Example: mirall" in help_text, name
    assert {name for name, _ in _commands(app)} == {
        "train",
        "compare",
        "ensemble",
        "evaluate",
        "import",
        "release",
        "list",
        "show",
    }


def test_the_recipes_that_the_help_names_are_shipped():
    assert {"classifier", "generator", "segmenter"} <= set(recipe.shipped())
    assert all((Path(recipe.SHIPPED) / f"{name}.yaml").is_file() for name in recipe.shipped())
