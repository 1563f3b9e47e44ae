"""Release: the bundle form, the hash, the evidence, and what is never loaded."""

from __future__ import annotations

import csv
import json
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from toy_images import blob_volume

from dicom_io import cohort as cohorts
from dicom_io import nifti
from dicom_io.errors import Rejected
from models import bundle, predictor, version

ROOT = Path(__file__).parent.parent.parent


def monai(command: str, *arguments: object) -> None:
    """`python -m monai.bundle COMMAND` in a folder where neither our `models` nor the bundle's shadows the other."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "monai.bundle", command, *map(str, arguments)],
        env=os.environ | {"PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_version_has_the_files_of_a_monai_bundle(segmenter):
    files = {path.relative_to(segmenter.folder).as_posix() for path in segmenter.folder.rglob("*") if path.is_file()}
    assert files == {
        "configs/metadata.json",
        "configs/inference.json",
        "models/model.pt",
        "docs/README.md",
        "evaluation/evaluation.json",
        "evaluation/report.md",
        "evaluation/report.html",
        "recipe.yaml",
    }


@pytest.mark.parametrize("kind", ["segmenter", "classifier", "projection_classifier", "generator"])
def test_monai_verifies_the_metadata(kind, request):
    from monai.bundle import verify_metadata

    folder = request.getfixturevalue(kind).folder
    verify_metadata(
        meta_file=str(folder / "configs" / "metadata.json"), filepath=Path(__file__).parent / "metadata_schema.json"
    )


def test_monai_runs_a_released_segmenter_to_the_same_mask(segmenter, tmp_path):
    volume, _ = blob_volume(55, units="g/ml{SUVbw}")
    for index, name in enumerate(("one", "two")):
        nifti.write(volume.with_voxels(volume.voxels[index]), tmp_path / "in" / "case" / f"{name}.nii.gz")
    config = segmenter.folder / "configs" / "inference.json"
    monai(
        "run", "--config_file", config, "--meta_file", config.with_name("metadata.json"),
        "--bundle_root", segmenter.folder,
        "--dataset_dir", tmp_path / "in", "--output_dir", tmp_path / "out",
    )  # fmt: skip
    (written,) = (tmp_path / "out").rglob("*.nii.gz")
    theirs, ours = nibabel.load(written), predictor.load(segmenter.folder).predict(volume).mask
    assert ours.voxels.any()
    np.testing.assert_array_equal(np.asarray(theirs.dataobj).T, ours.voxels)
    np.testing.assert_allclose(theirs.affine, nibabel.load(tmp_path / "in" / "case" / "one.nii.gz").affine, atol=1e-4)


@pytest.mark.parametrize("kind", ["volume", "projection"])
def test_monai_runs_a_released_classifier_to_the_same_probabilities(kind, request, tmp_path):
    model = request.getfixturevalue("classifier" if kind == "volume" else "projection_classifier")
    cohort = request.getfixturevalue("classification_run" if kind == "volume" else "projection_run")[1]
    item = cohort.test[0]
    (tmp_path / "in" / "case").mkdir(parents=True)
    for path in item.images:
        shutil.copy(cohort.path(path), tmp_path / "in" / "case")
    monai(
        "run", "--config_file", model.folder / "configs" / "inference.json", "--bundle_root", model.folder,
        "--dataset_dir", tmp_path / "in", "--output_dir", tmp_path / "out",
    )  # fmt: skip
    with (tmp_path / "out" / "probabilities.csv").open() as file:
        theirs = np.array([[float(value) for value in row[1:]] for row in csv.reader(file)])
    ours = predictor.load(model.folder).predict(cohorts.load_image(cohort, item)).probabilities
    np.testing.assert_allclose(theirs, ours, atol=1e-6)


def test_the_metadata_name_what_is_needed_beside_monai(segmenter, generator):
    assert set(segmenter.metadata["required_packages_version"]) == {"nibabel"}
    assert set(generator.metadata["required_packages_version"]) == {"mirall"}


def test_a_released_version_predicts_as_its_run(segmentation_run, segmenter):
    volume, _ = blob_volume(56, units="g/ml{SUVbw}")
    run, version_ = predictor.load(segmentation_run[0]), predictor.load(segmenter.folder)
    np.testing.assert_array_equal(run.predict(volume).probability.voxels, version_.predict(volume).probability.voxels)


def test_the_content_hash_is_the_same_anywhere_and_another_after_any_change(segmenter, tmp_path):
    copy = tmp_path / "elsewhere"
    shutil.copytree(segmenter.folder, copy)
    assert version.load(copy).identity == segmenter.identity
    (copy / "docs" / "README.md").write_text("changed")
    assert version.content_hash(copy) != segmenter.identity.content_hash


def test_the_same_run_released_twice_has_the_same_hash(segmentation_run, segmenter, tmp_path):
    again = bundle.release(*segmentation_run[:2], "toy-lesions", models_dir=tmp_path, engine="torch")
    assert again.identity == segmenter.identity


def test_versions_count_up_and_never_change(classification_run, tmp_path):
    first = bundle.release(*classification_run[:2], "slices", models_dir=tmp_path, engine="torch")
    second = bundle.release(*classification_run[:2], "slices", models_dir=tmp_path, engine="torch")
    assert (first.identity.address, second.identity.address) == ("slices:1", "slices:2")
    with pytest.raises(Rejected, match="slices:2 exists already"):
        bundle.release(*classification_run[:2], "slices", "2", models_dir=tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("name", ["../evil", "Brain", "", "a:b"])
def test_a_name_that_is_no_plain_word_is_refused(name, classification_run, tmp_path):
    with pytest.raises(Rejected, match="no name for a model"):
        bundle.release(*classification_run[:2], name, models_dir=tmp_path)


def test_a_release_needs_the_cohort_that_was_trained_on(classification_run, make_cohort, tmp_path):
    with pytest.raises(Rejected, match="might have been trained on"):
        bundle.release(classification_run[0], make_cohort("classification", (6, 2, 5)), "slices", models_dir=tmp_path)


def test_there_is_no_release_without_test_images(make_cohort, small_recipe, tmp_path):
    from models import training

    cohort = make_cohort("classification", (2, 1, 0))
    training.train(
        small_recipe("classifier", total_images=16, report_images=16), cohort, tmp_path / "run", device="cpu"
    )
    with pytest.raises(Rejected, match="no test images"):
        bundle.release(tmp_path / "run", cohort, "slices", models_dir=tmp_path / "models")


def test_the_evaluation_and_the_card_stand_in_the_version(segmenter):
    report = segmenter.evaluation
    assert report["patients"] == 6 and report["split"] == "test"
    assert len(report["baselines"]) == 2
    assert report["audit_id"] == segmenter.description.audit_id != ""
    card = (segmenter.folder / "docs" / "README.md").read_text()
    for words in ("Research use only", "6 training", segmenter.description.saw.data_hash, "## Limits", report["state"]):
        assert words in card


def test_a_generator_is_released_unproven_with_fidelity_and_copy_test(generator):
    report = generator.evaluation
    assert generator.identity.state == "unproven"
    for space in report["fidelity"]["spaces"].values():
        assert {"kid_to_held_out", "floor", "ratio", "controls"} <= set(space)
    for space in report["privacy"]["spaces"].values():
        assert {"copy_rate", "planted_recall", "held_out_flagged"} <= set(space)


def test_less_than_a_patient_split_is_teaching(make_cohort, small_recipe, tmp_path):
    from models import training

    cohort = make_cohort("classification", (3, 1, 6), split_unit="none")
    training.train(
        small_recipe("classifier", total_images=32, report_images=32), cohort, tmp_path / "run", device="cpu"
    )
    assert bundle.release(tmp_path / "run", cohort, "slices", models_dir=tmp_path / "m").identity.state == "teaching"


# What is never loaded.


class Evil:
    def __reduce__(self):
        return (os.system, ("touch pwned",))


@pytest.fixture
def copy(segmenter, tmp_path) -> Path:
    shutil.copytree(segmenter.folder, tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_weights_that_would_run_code_are_refused(how, copy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    weights = copy / "models" / "model.pt"
    if how == "pickle":
        weights.write_bytes(pickle.dumps({"weight": Evil()}))
    else:
        torch.save({"weight": Evil()}, weights)
    with pytest.raises(Rejected, match="was not loaded"):
        predictor.load(copy)
    assert not (tmp_path / "pwned").exists()


def test_weights_of_another_network_or_with_other_things_are_refused(copy):
    weights = copy / "models" / "model.pt"
    torch.save({"stranger": torch.zeros(2)}, weights)
    with pytest.raises(Rejected, match="do not fit"):
        predictor.load(copy)
    torch.save({"epoch": 3}, weights)
    with pytest.raises(Rejected, match="more than tensors"):
        predictor.load(copy)
    weights.write_bytes(b"PK\x03\x04 half a zip")
    with pytest.raises(Rejected, match="damaged"):
        predictor.load(copy)
    weights.unlink()
    with pytest.raises(Rejected, match="is missing"):
        predictor.load(copy)


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("network_def", {"_target_": "os.system", "command": "touch pwned"}, r"network_def\._target_: 'os\.system'"),
        ("network_def", {"_target_": "UNet", "spatial_dims": "$__import__('os').system('touch pwned')"}, "expression"),
        (
            "model_input",
            [{"_target_": "Lambdad", "keys": "image", "func": "$print"}],
            r"model_input|preprocessing\[0\]",
        ),
        ("inferer", {"_target_": "builtins.eval"}, r"inferer\._target_"),
        ("inferer", {"_target_": "SliceInferer", "roi_size": "$[32, 32]"}, r"inferer\.roi_size"),
    ],
)
def test_a_configuration_that_names_anything_else_is_refused_by_key(copy, tmp_path, monkeypatch, key, value, sentence):
    monkeypatch.chdir(tmp_path)
    path = copy / "configs" / "inference.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(Rejected, match=sentence):
        predictor.load(copy)
    assert not (tmp_path / "pwned").exists()


def test_a_folder_that_is_no_model_says_so(tmp_path, copy):
    with pytest.raises(Rejected, match="is no model"):
        predictor.load(tmp_path)
    path = copy / "configs" / "metadata.json"
    document = json.loads(path.read_text())
    document["mirall"]["threshold"] = "high"
    path.write_text(json.dumps(document))
    with pytest.raises(Rejected, match=r"mirall\.threshold"):
        predictor.load(copy)


def test_synthetic_test_images_are_counted_and_prove_nothing(make_cohort, small_recipe, tmp_path):
    from models import training

    cohort = make_cohort("classification", (3, 1, 6))
    test = (replace(cohort.test[0], synthetic=True), *cohort.test[1:])
    cohorts.save(replace(cohort, splits={**cohort.splits, "test": test}))
    cohort = cohorts.load(cohort.folder)
    training.train(small_recipe("classifier", total_images=160), cohort, tmp_path / "run", device="cpu")
    made = bundle.release(tmp_path / "run", cohort, "slices", models_dir=tmp_path / "models")
    assert made.identity.state == "unproven"
    assert made.evaluation["synthetic_test_images"] == 1
    assert "1 of 6 test items are synthetic" in (made.folder / "docs" / "README.md").read_text()


def test_a_run_is_released_although_its_training_folder_was_taken_away(generation_run, tmp_path):
    run, cohort, _ = generation_run
    given_away = shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(given_away / "training")
    assert not (bundle.release(given_away, cohort, "bare", models_dir=tmp_path / "models").folder / "training").exists()
