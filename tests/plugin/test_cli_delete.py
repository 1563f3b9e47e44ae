"""`mirall delete`: what it lists, asks and does, and what becomes of cohorts made from the study."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from archives import archive, give
from dicom_objects import STUDY, slice_of
from typer.testing import CliRunner

from dicom_io import cohort as cohorts
from dicom_io.cohort import Channel, Cohort
from dicom_io.errors import ImagingError
from dicom_io.pseudonym import hidden_volume, site_key
from dicom_io.volume import Source, Volume
from plugin import cli
from plugin.archive.ingest import Ingest


def run(*arguments: object, code: int = 0, typed: str = "") -> str:
    """Output of a command; an error that main() turns into a sentence counts as exit code 1."""
    result = CliRunner().invoke(cli.application(), [str(argument) for argument in arguments], input=typed)
    if isinstance(result.exception, ImagingError):
        assert code == 1, result.exception
        return str(result.exception)
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def here(tmp_path) -> Ingest:
    ingest = archive(tmp_path / "data")
    for uid in ("1.2.1", "1.2.2"):
        give(ingest, slice_of(uid))
    give(ingest, slice_of("1.3.1", study="2.25.7", patient="P7"))
    return ingest


@pytest.fixture
def cohort(tmp_path, here) -> Path:
    """One item of the study, one of another; a model version that was trained on it."""
    key = site_key(tmp_path / "data" / "cohort.key")
    folder = tmp_path / "cohort"
    items = []
    for name, uid in (("a", "1.2.1"), ("b", "1.3.1")):
        source = Source("1.2.840.10008.5.1.4.1.1.2", uid, "ab" * 32)
        volume = Volume(np.zeros((1, 4, 3), np.float32), np.eye(4), "2.25.5", "1", (source,))
        items.append(cohorts.add_volume(folder, name, {"ct": hidden_volume(key, volume)}, patient=name))
    made = Cohort(folder, "small", "generation", ("x",), (Channel("ct", "CT", "1"),), {"training": tuple(items)})
    cohorts.save(made)
    configs = tmp_path / "data" / "models" / "painter" / "1" / "configs"
    configs.mkdir(parents=True)
    ours = {"name": "painter", "version": "1", "state": "proven", "task": "generation", "labels": []}
    ours["saw"] = {"data_hash": cohorts.load(folder).data_hash}
    (configs / "metadata.json").write_text(json.dumps({"mirall": ours}))
    return folder


def test_versions_that_started_from_one_that_saw_it_are_listed_too(here, cohort):
    models = here.index.data / "models"
    ours = json.loads((models / "painter" / "1" / "configs" / "metadata.json").read_text())["mirall"]
    seen = ours["saw"]["data_hash"]
    for name, ancestors in (("heir", [{"data_hash": seen}]), ("stranger", [{"data_hash": "0" * 64}])):
        ours |= {"name": name, "saw": {"data_hash": "1" * 64, "ancestors": ancestors}}
        configs = models / name / "1" / "configs"
        configs.mkdir(parents=True)
        (configs / "metadata.json").write_text(json.dumps({"mirall": ours}))
    told = json.loads(run("delete", STUDY, "--cohort", cohort, "--dry-run", "--json", "--data", here.index.data))
    assert told["trained_on_it"] == ["heir:1", "painter:1"]


def test_nothing_is_deleted_without_a_yes(here):
    said = run("delete", STUDY, "--data", here.index.data, code=1, typed="n\n")
    assert f"study {STUDY}: 2 instances, 0 earlier versions, 0 refused copies" in said
    assert here.index.counts()["instances"] == 3
    run("delete", STUDY, "--data", here.index.data, typed="y\n")
    assert here.index.counts()["instances"] == 1


def test_a_dry_run_lists_cohort_items_and_the_versions_that_saw_them(here, cohort):
    told = json.loads(run("delete", STUDY, "--cohort", cohort, "--dry-run", "--json", "--data", here.index.data))
    assert told["instances"] == 2
    assert told["trained_on_it"] == ["painter:1"]
    assert told["cohorts"][0]["items"] == ["images/a_ct.nii.gz"]
    assert here.index.counts()["instances"] == 3
    assert cohorts.load(cohort).buried == 0


def test_items_made_from_a_deleted_study_are_left_out_and_the_cohort_says_so(here, cohort):
    before = cohorts.load(cohort).data_hash
    options = ("--cohort", cohort, "--why", "consent withdrawn", "--yes", "--data", here.index.data)
    assert "model version painter:1 was trained on it" in run("delete", STUDY, *options)
    left = cohorts.load(cohort)
    assert [item.patient for item in left.training] == ["b"]
    assert left.data_hash != before
    assert "left_out_because_deleted: 1" in run("cohort", "show", cohort)
    (told,) = json.loads(run("deletions", "--json", "--data", here.index.data))
    assert (told["models"], told["why"], told["instances"]) == (["painter:1"], "consent withdrawn", 2)
    # Of the version that was trained before, the next deletion still knows that it saw the other item.
    assert "painter:1 was trained on it" in run("delete", "2.25.7", *options)


def test_a_cohort_can_be_told_afterwards_of_what_was_deleted(here, cohort):
    run("delete", STUDY, "--yes", "--data", here.index.data)
    assert cohorts.load(cohort).buried == 0
    run("delete", "--cohort", cohort, "--yes", "--data", here.index.data)
    assert cohorts.load(cohort).buried == 1


def test_without_the_key_of_the_cohort_nothing_is_deleted(here, cohort):
    (here.index.data / "cohort.key").unlink()
    assert "cohort.key is not there" in run(
        "delete", STUDY, "--cohort", cohort, "--yes", "--data", here.index.data, code=1
    )
    assert here.index.counts()["instances"] == 3


@pytest.mark.parametrize("option", ["--series", "--instance"])
def test_an_empty_uid_is_wrong_use_and_not_the_whole_study(here, option):
    run("delete", STUDY, option, "", "--yes", "--data", here.index.data, code=2)
    assert len(here.index.instances(STUDY)) == 2


def test_a_series_without_its_study_is_wrong_use(here):
    assert "give the Study Instance UID" in run("delete", "--series", "1.2", "--data", here.index.data, code=2)
