"""An index that an earlier release built comes up with searches, counts and orders right."""

from __future__ import annotations

import json

import pytest
from alembic import command
from archives import give
from dicom_objects import slice_of
from pydicom import Dataset

from plugin.archive import index as index_module
from plugin.archive.index import Index
from plugin.archive.ingest import Ingest
from plugin.archive.query import parse, run
from plugin.archive.storage import Storage

# As the release before wrote `search`: one text of all values, nothing of sequences.
_EARLIER = {
    "study": {"00100010": "yamada^tarou=山田^太郎", "00100020": "p1", "00080020": "20260115", "00081060": "a^b\\c^d"},
    "series": {"00080060": "ct"},
    "instance": {"00080008": "original\\primary", "00200013": "2"},
}


def _code(value: str) -> Dataset:
    item = Dataset()
    item.CodeValue = value
    return item


@pytest.fixture
def upgraded(tmp_path):
    """A folder of now, taken back to the tables and the contents of the release before, and opened again."""
    index = Index(tmp_path)
    index.upgrade()
    ingest = Ingest(index, Storage(tmp_path))
    for number in (1, 2):
        give(
            ingest,
            slice_of(
                f"1.{number}",
                value=number,
                PatientName="Yamada^Tarou=山田^太郎",
                NameOfPhysiciansReadingStudy=["A^B", "C^D"],
                ProcedureCodeSequence=[_code("X1")],
                ImageType=["ORIGINAL", "PRIMARY"],
                InstanceNumber=number,
            ),
        )
    config = index_module._alembic()
    with index.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "r0002")
        for table, search in _EARLIER.items():
            connection.exec_driver_sql(f"UPDATE {table} SET search = ?", (json.dumps(search),))
    index.close()
    index = Index(tmp_path)
    index.upgrade()
    yield index
    index.close()


@pytest.mark.parametrize(
    "parameter",
    [
        ("PatientName", "山田*"),
        ("NameOfPhysiciansReadingStudy", "C^*"),
        ("ProcedureCodeSequence.CodeValue", "x1"),
        ("StudyDate", "20260101-"),
    ],
)
def test_studies_of_before_are_found(upgraded, parameter):
    assert len(run(upgraded, parse("study", [parameter]))) == 1


def test_instances_of_before_are_found_and_counted(upgraded):
    (study,) = run(upgraded, parse("study", []))
    assert study["00201208"]["Value"] == [2]
    assert len(run(upgraded, parse("instance", [("ImageType", "PRIMARY")]))) == 2


def test_counts_follow_what_goes_after_the_upgrade(upgraded):
    row = upgraded.instance("1.1")
    with upgraded.write() as connection:
        upgraded.remove_instance(connection, row, 5.0)
    (study,) = run(upgraded, parse("study", []))
    assert study["00201208"]["Value"] == [1]
    with upgraded.write() as connection:
        upgraded.remove_instance(connection, upgraded.instance("1.2"), 6.0)
    assert run(upgraded, parse("study", [])) == []
    with upgraded.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM series_content").scalar() == 0
