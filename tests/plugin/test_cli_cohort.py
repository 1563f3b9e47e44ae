"""`mirall cohort`: importing, listing and showing training sets."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import oblique_studies
import pytest
from archives import archive, give
from PIL import Image
from pydicom import dcmread
from scipy import ndimage
from typer.testing import CliRunner

from dicom_io import cohort as cohorts
from dicom_io.errors import ImagingError
from dicom_io.volume import Projection
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


# --- audit --------------------------------------------------------------------------------------------------------


def picture_cohort(folder: Path, *, leak: bool = False, labelled: bool = True) -> Path:
    """Forty small pictures, the larger ones lesions; where asked, the first one lies mirrored in test as well."""
    rng = np.random.default_rng(0)
    shapes = [(60, 50) if number % 2 else (52, 50) for number in range(40)]
    pictures = [ndimage.gaussian_filter(rng.normal(size=shape), 2) for shape in shapes]
    if leak:
        pictures[-2] = pictures[0][:, ::-1] * 3
    items = [
        cohorts.add_projection(
            folder, f"n{n}", Projection(picture.astype(np.float32), "1"), f"p{n}", label=n % 2 if labelled else None
        )
        for n, picture in enumerate(pictures)
    ]
    splits = {"training": tuple(items[:25]), "test": tuple(items[25:])}
    channels = (cohorts.Channel("image", "MG", "1"),)
    cohorts.save(
        cohorts.Cohort(folder, "made", "classification", ("normal", "lesion"), channels, splits, "near-duplicate group")
    )
    return folder


def test_audit_names_leaks_and_fails_for_them(tmp_path):
    folder = picture_cohort(tmp_path, leak=True)

    found = json.loads(run("cohort", "audit", folder, "--json", code=1))

    (leak,) = found["leaks"]
    assert (leak["first"], leak["first_split"]) == ("images/n0_image.nii.gz", "training")
    assert (leak["second"], leak["second_split"], leak["turned"]) == ("images/n38_image.nii.gz", "test", True)
    lines = run("cohort", "audit", folder, code=1).splitlines()
    assert "leaks: 1" in lines
    assert any(
        line.startswith("  images/n0_image.nii.gz (training) and images/n38_image.nii.gz (test)") for line in lines
    )


def test_audit_counts_measures_shortcuts_and_draws_a_sheet(tmp_path):
    folder = picture_cohort(tmp_path / "cohort")

    lines = run("cohort", "audit", folder, "--sheet", tmp_path / "sheet.png").splitlines()
    found = json.loads(run("cohort", "audit", folder, "--json"))

    assert lines[0] == "made, split by near-duplicate group"
    assert "  training, real, lesion: 12 items, 12 patients" in lines
    assert "leaks: none" in lines
    size = next(line for line in lines if line.startswith("  size: "))
    assert size.startswith("  size: balanced accuracy 1.00 [1.00, 1.00], AUROC 1.00 [1.00, 1.00]  SUSPICIOUS")
    assert "  scanner: nothing states it" in lines
    assert found["counts"]["training"]["real"]["lesion"] == {"items": 12, "patients": 12}
    assert [each["family"] for each in found["shortcuts"]["measured"] if each["suspicious"]] == ["size"]
    (histogram,) = found["histograms"]
    assert set(histogram["shares"]) == {"normal", "lesion"}
    assert found["data_hash"] == cohorts.load(folder).data_hash
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.format == "PNG" and sheet.width > 1000


def test_a_cohort_without_labels_is_audited_for_leaks_alone(tmp_path):
    folder = picture_cohort(tmp_path, labelled=False)

    lines = run("cohort", "audit", folder).splitlines()

    assert "leaks: none" in lines
    assert any(
        line.startswith("shortcuts: not measured; cohort 'made' has real items without a label") for line in lines
    )


# --- create -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> Path:
    """PET of six patients, in folders by class."""
    folder = tmp_path_factory.mktemp("scans")
    for seed in range(6):
        oblique_studies.write(folder / ("ill" if seed % 2 else "well") / str(seed), oblique_studies.pet(seed))
    return folder


def test_create_makes_a_cohort_of_folders_and_says_what_was_not_taken(scans, tmp_path):
    (scans / "ill" / "readme.txt").write_text("not an image")
    arguments = ("--from", scans, "--task", "classification", "--label-from", "folder", "--labels", "well,ill")

    lines = run(
        "cohort", "create", *arguments, "--split", "0.5,0.2,0.3", "--out", tmp_path / "c", "--data", tmp_path / "d"
    ).splitlines()

    cohort = cohorts.load(tmp_path / "c")
    items = [item for split in cohorts.SPLITS for item in cohort.splits[split]]
    assert (cohort.name, cohort.labels, [item.label for item in items].count(1)) == ("c", ("well", "ill"), 3)
    assert cohort.split_shares == {"training": 0.5, "validation": 0.2, "test": 0.3}
    assert lines[0].startswith(f"c in {tmp_path / 'c'}: ")
    assert "not taken: 1" in lines
    assert any(line.startswith(f"  {scans / 'ill' / 'readme.txt'}: is no DICOM file") for line in lines)
    assert len((tmp_path / "d" / "cohort.key").read_bytes()) == 32


def test_create_takes_series_of_the_archive_by_query(scans, tmp_path):
    ingest = archive(tmp_path / "data")
    for path in sorted(scans.rglob("*.dcm")):
        assert give(ingest, path.read_bytes()).accepted
    ingest.index.close()
    labels = tmp_path / "labels.csv"
    labels.write_text("patient,label\n" + "".join(f"{name},{n % 2}\n" for n, name in enumerate(patients(scans))))

    made = json.loads(
        run(
            *("cohort", "create", "--query", "Modality=PT", "--task", "classification", "--json"),
            *("--label-from", f"csv:{labels}", "--out", tmp_path / "c", "--data", tmp_path / "data"),
        )
    )

    assert len(made["items"]) == 6 and made["refused"] == []
    assert {item["label"] for item in made["items"]} == {"0", "1"}
    assert not any(name in json.dumps(made) for name in patients(scans))
    assert (cohorts.load(tmp_path / "c").channels[0].units) == "g/ml{SUVbw}"


def patients(scans: Path) -> list[str]:
    return sorted({str(dcmread(path, stop_before_pixels=True).PatientID) for path in scans.rglob("*.dcm")})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--task", "generation"), "give --from or --query, not both"),
        (("--task", "generation", "--query", "Modality=PT"), "holds no archive"),
        (("--task", "generation", "--from", "nowhere"), "nowhere does not exist"),
        (("--task", "classification", "--from", "."), "needs labels"),
        (("--task", "generation", "--from", ".", "--split", "0.5,0.5"), "is not three numbers"),
        (("--task", "generation", "--from", ".", "--split", "a,b,c"), "is not three numbers"),
    ],
)
def test_create_says_what_it_lacks(tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    assert said in run("cohort", "create", *arguments, "--out", "c", "--data", "d", code=1)
    assert not (tmp_path / "c").exists()


def test_a_fold_of_three_patients_is_refused_and_of_five_each_tests_one(tmp_path):
    def by_number(count: int) -> Path:
        folder = tmp_path / str(count)
        items = [
            cohorts.add_projection(
                folder, f"i{n}", Projection(np.full((4, 6), n, np.float32), "1"), f"p{n}", label=n % 2
            )
            for n in range(count)
        ]
        channels = (cohorts.Channel("x", "OT", "1"),)
        splits = {"training": tuple(items)}
        cohorts.save(cohorts.Cohort(folder, "toy", "classification", ("no", "yes"), channels, splits))
        return folder

    five, out = by_number(5), tmp_path / "folds"
    rows = json.loads(run("cohort", "fold", five, "--leave-one-out", "--out", out, "--json"))
    assert [(row["training"], row["validation"], row["test"]) for row in rows] == [(2, 2, 1)] * 5
    assert rows[0]["folder"] == str(out / "fold-1")
    assert "which are too few for 3 folds" in run("cohort", "fold", by_number(3), "--folds", 3, "--out", "o", code=1)
    assert "give --folds with their number" in run("cohort", "fold", five, "--out", "o", code=2)
