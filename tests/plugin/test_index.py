"""The index and the storage below it: what is durable, and what several processes may do at once."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import stat
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from archives import archive, give
from dicom_objects import STUDY, file_of, slice_of
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import inspect

import plugin.jobs.tables
import plugin.worklist.tables
from plugin.archive.index import NO_INPUT, Index, hash_of_input
from plugin.archive.storage import Storage
from plugin.archive.tables import Base

terms = st.lists(st.tuples(st.text("12.", min_size=1), st.text("ab", min_size=1)), unique=True)


@given(terms, st.randoms())
def test_the_input_hash_is_a_sum_that_any_order_gives(instances, order):
    forwards = NO_INPUT
    for one in instances:
        forwards = hash_of_input(forwards, add=one)
    shuffled = list(instances)
    order.shuffle(shuffled)
    backwards = NO_INPUT
    for one in shuffled:
        backwards = hash_of_input(backwards, add=one)
    assert forwards == backwards
    for one in instances:
        backwards = hash_of_input(backwards, remove=one)
    assert backwards == NO_INPUT


def test_migrations_make_the_tables_that_the_code_knows(tmp_path):
    assert plugin.jobs.tables.Job.metadata is plugin.worklist.tables.Workitem.metadata is Base.metadata
    index = Index(tmp_path)
    index.upgrade()
    with index.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    index.close()


def test_commits_are_on_disk_when_they_return(tmp_path):
    """synchronous=FULL is 2; a write-ahead log is synced with each commit only then."""
    index = Index(tmp_path)
    index.upgrade()
    with index.read() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    index.close()


def test_what_holds_names_of_patients_is_its_owner_s_alone(tmp_path):
    """Whatever the process's mask, and also inside a data folder that somebody else made first."""
    mask = os.umask(0o022)
    try:
        (tmp_path / "made-before").mkdir()
        for data in (tmp_path / "new", tmp_path / "made-before"):
            here = archive(data)
            give(here, slice_of("1.2.3"))
            give(here, b"a letter")
            modes = [stat.S_IMODE(path.stat().st_mode) for path in data.glob("index.sqlite*")]
            here.index.close()
            assert modes == [0o600] * 3
            assert stat.S_IMODE((data / "archive").stat().st_mode) == 0o700
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700


def test_a_failed_write_leaves_nothing(tmp_path):
    ingest = archive(tmp_path)
    give(ingest, slice_of("1.2.3"))
    with pytest.raises(ZeroDivisionError), ingest.index.write() as connection:
        ingest.index.mark_planned(connection, STUDY, "x")
        raise ZeroDivisionError
    assert ingest.index.study(STUDY).planned_hash is None
    ingest.index.close()


def upgrade(folder: Path) -> None:
    Index(folder).upgrade()


def test_several_processes_may_upgrade_at_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=upgrade, args=(tmp_path,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    index = Index(tmp_path)
    assert "instance" in inspect(index.engine).get_table_names()
    index.close()


def test_several_threads_store_one_study_and_lose_nothing(tmp_path):
    ingest = archive(tmp_path)
    files = [file_of(slice_of(f"1.2.{number}", value=number)) for number in range(40)]

    def send(part: int) -> None:
        for raw in files[part::4] + files[:3]:  # the first three from every side
            assert give(ingest, raw).accepted

    threads = [threading.Thread(target=send, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = ingest.index.instances(STUDY)
    assert len(rows) == 40
    expected = NO_INPUT
    for row in rows:
        expected = hash_of_input(expected, add=(row.sop_instance_uid, row.dataset_hash))
    assert ingest.index.study(STUDY).input_hash == expected
    ingest.index.close()


def test_what_is_stored_was_synced_before_it_had_its_name(tmp_path, needs):
    """In the order of the system calls: bytes synced, named, folder synced, index synced; and only then an answer."""
    code = (
        "import sys; sys.path.insert(0, 'tests/plugin')\n"
        "from pathlib import Path; from archives import archive, give; from dicom_objects import slice_of\n"
        f"here = archive(Path({str(tmp_path / 'data')!r})); give(here, slice_of('1.2.3'))\n"
    )
    log = tmp_path / "calls"
    command = [
        needs("strace"),
        "-f",
        "-y",
        "-o",
        str(log),
        "-e",
        "trace=fsync,fdatasync,link,linkat",
        sys.executable,
        "-c",
        code,
    ]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2])
    calls = log.read_text()
    steps = [
        calls.rindex(".part>)"),
        calls.rindex('.part", '),
        calls.rindex("objects/"),
        calls.rindex("index.sqlite-wal>)"),
    ]
    assert steps == sorted(steps)


def test_only_whole_receptions_are_left_when_a_service_starts(tmp_path):
    storage = Storage(tmp_path)
    storage.receive().write(b"half")
    assert storage.clear_incoming() == 1
    assert list(storage.incoming.iterdir()) == []


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    # Built from a copy: setuptools leaves a folder beside the sources, and takes files from it the next time.
    folder = tmp_path_factory.mktemp("wheel")
    repository, copy = Path(__file__).parents[2], folder / "sources"
    left_out = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__", "mirall-data*")
    shutil.copytree(repository, copy, ignore=left_out)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", str(folder), "."]
    built = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    if built.returncode:
        pytest.skip(f"no wheel can be built here: {built.stderr[-300:]}")
    return next(folder.glob("*.whl"))


def test_an_installed_wheel_can_upgrade_an_index_and_draw_its_page(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert "plugin/archive/migrations/env.py" in names
    assert "plugin/archive/migrations/versions/r0001_archive.py" in names
    assert "plugin/dicomweb/templates/status.html" in names
    assert not [name for name in names if name.startswith(("tests/", "deploy/"))]
