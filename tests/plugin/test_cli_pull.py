"""`mirall pull`: what it prints, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from picture_archive import PictureArchive, study
from typer.testing import CliRunner, Result

from dicom_io.errors import Rejected
from plugin.archive.ingest import open_archive
from plugin.cli import application
from plugin.settings import load

STUDY = "2.25.77"


def pull(data: Path, pacs: PictureArchive, *arguments: str) -> Result:
    source = f"PACS@127.0.0.1:{pacs.port}"
    return CliRunner().invoke(application(), ["pull", "--from", source, "--data", str(data), *arguments])


def test_a_study_that_has_come_whole_is_told_complete(tmp_path: Path) -> None:
    with PictureArchive(study(3)) as pacs:
        result = pull(tmp_path, pacs, "--study", STUDY)
    assert result.exit_code == 0
    assert "all 3 instances are here, 3 of them fetched now" in result.output
    row = open_archive(load(data=tmp_path)).index.study(STUDY)
    assert row is not None
    assert row.told_complete_at is not None


def test_one_series_is_fetched_and_the_study_is_not_told_complete(tmp_path: Path) -> None:
    with PictureArchive([*study(2), *study(3, series="2.25.80")[2:]]) as pacs:
        assert pull(tmp_path, pacs, "--study", STUDY, "--series", "2.25.80").exit_code == 0
    index = open_archive(load(data=tmp_path)).index
    row = index.study(STUDY)
    assert row is not None
    assert row.told_complete_at is None
    assert {each.series_instance_uid for each in index.instances(STUDY)} == {"2.25.80"}


def test_what_is_missing_is_named_and_the_exit_code_is_1(tmp_path: Path) -> None:
    objects = study(3)
    with PictureArchive(objects, withheld={objects[1].SOPInstanceUID}) as pacs:
        result = pull(tmp_path, pacs, "--study", STUDY, "--how", "get")
        told = json.loads(pull(tmp_path, pacs, "--study", STUDY, "--how", "get", "--json").stdout)
    assert result.exit_code == 1
    assert f"missing: {objects[1].SOPInstanceUID}" in result.output
    assert (told["complete"], told["missing"], told["listed"]) == (False, [objects[1].SOPInstanceUID], 3)


def test_a_search_takes_the_only_study_and_of_several_asks_for_the_uid(tmp_path: Path) -> None:
    several = [*study(2), *study(1, study="2.25.90", series="2.25.91", AccessionNumber="B1")]
    several[-1].SOPInstanceUID = "2.25.92"
    with PictureArchive(several) as pacs:
        assert pull(tmp_path, pacs, "--accession", "B1").exit_code == 0
        result = pull(tmp_path, pacs, "--patient", "P1")
        assert isinstance(result.exception, Rejected)
        assert "lists 2 such studies; choose one with --study" in str(result.exception)
        assert STUDY in result.stderr
        assert pull(tmp_path, pacs).exit_code == 2, "neither a study nor a search"


@pytest.mark.parametrize(
    ("source", "sentence"), [("nowhere", "is no destination"), ("http://127.0.0.1:1/x", "knows no C-MOVE")]
)
def test_a_source_that_cannot_be_is_a_sentence(tmp_path: Path, source: str, sentence: str) -> None:
    arguments = ["pull", "--from", source, "--study", STUDY, "--how", "move", "--data", str(tmp_path)]
    result = CliRunner().invoke(application(), arguments)
    assert isinstance(result.exception, Rejected)
    assert sentence in str(result.exception)
