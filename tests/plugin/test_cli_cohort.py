"""`mirall cohort`: importing, listing and showing training sets."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dicom_io import cohort as cohorts
from dicom_io.errors import ImagingError
from plugin import cli
from samples.importers import IMPORTERS
from samples.phantoms import write_patients


def run(*arguments: object, code: int = 0) -> str:
    """Output of a command; an error that main() turns into a sentence counts as exit code 1."""
    result = CliRunner().invoke(cli.application(), [str(argument) for argument in arguments])
    if isinstance(result.exception, ImagingError):
        assert code == 1, result.exception
        return str(result.exception)
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms")
    write_patients("breast-pet", 3, folder, seed=2)
    return folder


@pytest.fixture(scope="module")
def imported(phantoms, tmp_path_factory) -> Path:
    """The folder of a cohort that the command made."""
    home = tmp_path_factory.mktemp("cohorts")
    said = run("cohort", "import", "breast-pet-lesions", phantoms, "--out", home / "pet", "--data", home / "data")
    assert said == f"breast-pet-lesions in {home / 'pet'}: 1 training, 1 validation, 1 test\n"
    return home / "pet"


def test_import_makes_a_cohort_under_the_key_of_the_data_folder(imported, phantoms):
    cohort = cohorts.load(imported)
    assert {len(cohort.splits[split]) for split in cohorts.SPLITS} == {1}
    key = imported.parent / "data" / "cohort.key"
    assert len(key.read_bytes()) == 32
    # The same data folder gives the same pseudonyms, another gives others.
    run("cohort", "import", "breast-pet-lesions", phantoms, "--out", imported.parent / "b", "--data", key.parent)
    run("cohort", "import", "breast-pet-lesions", phantoms, "--out", imported.parent / "c", "--data", imported.parent)
    assert cohorts.load(imported.parent / "b").data_hash == cohort.data_hash
    assert cohorts.load(imported.parent / "c").data_hash != cohort.data_hash
    shutil.rmtree(imported.parent / "b")
    shutil.rmtree(imported.parent / "c")


def test_the_key_lies_in_the_data_folder_of_the_settings(phantoms, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mirall.toml").write_text('[node]\ndata = "kept"\n')
    run("cohort", "import", "breast-pet-lesions", phantoms, "--out", "cohort")
    assert len((tmp_path / "kept" / "cohort.key").read_bytes()) == 32
    assert not (tmp_path / "mirall-data").exists()


def test_two_cohorts_do_not_mix_in_one_folder(imported, phantoms):
    before = sorted(imported.rglob("*"))
    said = run("cohort", "import", "breast-pet-phantoms", phantoms, "--out", imported, code=1)
    assert said == f"{imported} is not empty; give a new folder, so that no two cohorts mix"
    assert sorted(imported.rglob("*")) == before


def test_an_unknown_layout_and_a_wrong_folder_are_sentences(phantoms, tmp_path):
    said = run("cohort", "import", "mammo", phantoms, "--out", tmp_path / "a", code=1)
    assert said.startswith("there is no layout 'mammo'; known are pet-sarcoma, ")
    assert not (tmp_path / "a").exists()
    said = run("cohort", "import", "brain-mr-phantoms", phantoms, "--out", tmp_path / "b", "--data", tmp_path, code=1)
    assert "must hold T1 and FLAIR of the brain" in said
    said = run("cohort", "import", "pet-sarcoma", tmp_path, "--out", tmp_path / "c", "--data", tmp_path, code=1)
    assert "holds no PATIENT/PET/ beside PATIENT/PET_mask.nii.gz" in said


def test_layouts_say_what_each_folder_must_look_like():
    rows = json.loads(run("cohort", "layouts", "--json"))
    assert rows == {name: importer.layout for name, importer in IMPORTERS.items()}
    lines = run("cohort", "layouts").splitlines()
    assert [line.split(": ")[0] for line in lines] == list(IMPORTERS)
    assert all(importer.name == name for name, importer in IMPORTERS.items())


def test_list_finds_cohorts_below_a_folder(imported, tmp_path):
    (row,) = json.loads(run("cohort", "list", imported.parent, "--json"))
    assert (row["folder"], row["name"], row["task"]) == (str(imported), "breast-pet-lesions", "classification")
    assert (row["patients"], row["items"]) == (3, 3)
    assert run("cohort", "list", imported.parent) == (
        f"{imported}: breast-pet-lesions, classification, 3 patients, 3 items\n"
    )
    assert json.loads(run("cohort", "list", tmp_path, "--json")) == []
    assert run("cohort", "list", tmp_path) == f"no cohorts below {tmp_path}\n"


def test_show_counts_patients_items_and_synthetic_ones_per_split(imported):
    shown = json.loads(run("cohort", "show", imported, "--json"))
    assert shown["items_per_split"] == {"training": 1, "validation": 1, "test": 1}
    assert shown["channels"] == ["PET (PT, g/ml{SUVbw})"]
    assert shown["labels"] == ["normal", "lesion"]
    assert (shown["split_unit"], shown["synthetic"]) == ("patient", 3)
    assert shown["data_hash"] == cohorts.load(imported).data_hash
    lines = run("cohort", "show", imported).splitlines()
    assert "patients: 3" in lines and f"data_hash: {shown['data_hash']}" in lines


def test_what_is_no_cohort_is_a_sentence(tmp_path):
    said = run("cohort", "show", tmp_path, code=1)
    assert said == f"{tmp_path} is no cohort: it has no datalist.json; make one with `mirall cohort import`"
    run("cohort", "import", code=2)
