"""The benchmark of the doors, small: that it loads, checks, and can fail."""

from __future__ import annotations

from pathlib import Path

import corpus_of_bytes
import doors
import pydicom
import servers
import web_load


def test_a_small_run_stores_everything_and_asks_everything_of_it(tmp_path: Path) -> None:
    items = corpus_of_bytes.write("mixed", tmp_path / "corpus", studies=2, share=0.05)
    (tmp_path / "server").mkdir()
    with servers.mirall(tmp_path / "server") as server:
        stores = doors.measure_stores(server, doors.LINES[0], items)
        asked = {
            line.operation: doors.measure_web(server, line, items, requests=8)
            for line in doors.LINES
            if line.operation != "c-store"
        }
    assert (stores.lost, stores.failed) == (0, 0)
    assert stores.cpu_ms > 0 and stores.peak_mb > 50
    assert set(asked) == set(web_load.OPERATIONS)
    assert {name: (each.lost, each.failed) for name, each in asked.items()} == dict.fromkeys(asked, (0, 0))


def test_what_is_missing_afterwards_is_counted_as_lost(tmp_path: Path) -> None:
    sent = corpus_of_bytes.write("PT", tmp_path / "sent", studies=1, share=0.01)
    never = corpus_of_bytes.write("PT", tmp_path / "never", studies=1, share=0.01, seed=2)
    (tmp_path / "server").mkdir()
    with servers.mirall(tmp_path / "server") as server:
        web_load.load(server.url, web_load.STOW, sent, 0, 1)
        there = web_load.listed(server.url, [*sent, *never])
    assert there == {item.sop_instance_uid for item in sent}


def test_a_missed_bar_is_a_sentence() -> None:
    line = doors.LINES[0]
    slow, fast = doors.Figure(50, 9, 10, 700, 1, 0), doors.Figure(100, 5, 5, 100, 0, 0)
    summaries = doors.summarise([line], {"mirall": [{line.name: slow}], "orthanc": [{line.name: fast}]})
    assert doors.shortfalls(summaries) == [
        "C-STORE mixed, 4 senders: ratio 0.50 is below 1",
        "C-STORE mixed, 4 senders: 1 acknowledged and not found, 0 failed",
        "C-STORE mixed, 4 senders: 700 MB are above 600 MB",
    ]
    assert "| C-STORE mixed, 4 senders | mirall | 50 | 9.00 |" in doors.table(summaries)


def test_a_corpus_is_the_same_bytes_for_a_seed_and_whole_dicom(tmp_path: Path) -> None:
    first = corpus_of_bytes.write("mixed", tmp_path / "a", studies=1, share=0.05)
    again = corpus_of_bytes.write("mixed", tmp_path / "b", studies=1, share=0.05)
    assert [item.path.read_bytes() for item in first] == [item.path.read_bytes() for item in again]
    assert len({item.sop_instance_uid for item in first}) == len(first)
    for item in first:
        dataset = pydicom.dcmread(item.path)
        assert dataset.SOPInstanceUID == dataset.file_meta.MediaStorageSOPInstanceUID == item.sop_instance_uid
        assert dataset.pixel_array.shape == (dataset.Rows, dataset.Columns)


def test_every_instance_lies_in_the_study_and_series_that_its_item_names(tmp_path: Path) -> None:
    """Of seed 21 one UID holds the digits that stand for Instance Number in the template."""
    items = corpus_of_bytes.write("PT", tmp_path, studies=3, share=0.02, seed=21)
    for number, item in enumerate(items):
        dataset = pydicom.dcmread(item.path, stop_before_pixels=True)
        assert dataset.StudyInstanceUID == item.study_instance_uid
        assert dataset.SeriesInstanceUID == item.series_instance_uid
        assert dataset.InstanceNumber == number % 4 + 1
