"""What becomes of an object at the one function behind every door."""

from __future__ import annotations

import resource
import sqlite3
from contextlib import closing
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from archives import PEER, archive, give
from dicom_objects import STUDY, file_of, slice_of
from pydicom import Dataset, dcmread
from pydicom.uid import RLELossless
from sqlalchemy import event

from dicom_io.errors import Rejected
from plugin.archive import deletion, tombstones
from plugin.archive import index as index_module
from plugin.archive.arrival import Arrival
from plugin.archive.index import NO_INPUT, Index
from plugin.archive.ingest import OUT_OF_RESOURCES, Announced, Ingest
from plugin.archive.storage import NoSpace, Storage

# The damaged values are the point; pydicom's remarks on them are not.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture
def here(tmp_path):
    ingest = archive(tmp_path / "data")
    yield ingest
    ingest.index.close()


def stored_bytes(ingest: Ingest, uid: str) -> bytes:
    row = ingest.index.instance(uid)
    assert row is not None
    return row.path.read_bytes()


def in_quarantine(ingest: Ingest) -> list[str]:
    return [entry.reason for entry in ingest.quarantine.list()]


# What is kept


def test_bytes_are_kept_as_they_came(here):
    raw = file_of(slice_of("1.2.3"))
    assert give(here, raw).state == "stored"
    assert stored_bytes(here, "1.2.3") == raw


def test_an_instance_is_indexed_with_how_it_came(here):
    give(here, slice_of("1.2.3"))
    row = here.index.instance("1.2.3")
    assert (row.door, row.calling_aet, row.called_aet, row.address) == ("dimse", "SCANNER", "MIRALL", "10.0.0.7")
    assert row.attributes["00100010"]["Value"] == [{"Alphabetic": "Pháñtom^Ä"}]
    assert row.attributes["00280010"]["Value"] == [5]


def test_the_same_object_again_is_already_held(here):
    raw = file_of(slice_of("1.2.3"))
    give(here, raw)
    before = here.index.study(STUDY)
    again = give(here, raw)
    assert (again.state, again.status) == ("held", 0)
    assert here.index.study(STUDY) == before


def test_a_private_storage_class_is_stored(here):
    private = slice_of("1.2.3", SOPClassUID="1.3.46.670589.11.0.0.12.1", PixelData=None, Rows=None, Columns=None)
    assert give(here, private).state == "stored"
    assert here.index.instance("1.2.3").sop_class_uid == "1.3.46.670589.11.0.0.12.1"


def test_no_uid_from_outside_becomes_a_path(here, tmp_path):
    """The name of a stored file is a function of its bytes: two digits, then 64."""
    give(here, slice_of("1.2.3"))
    give(here, slice_of("../../../outside"))
    names = [path.relative_to(here.storage.objects).as_posix() for path in here.storage.objects.rglob("*.dcm")]
    assert len(names) == 1
    assert len(names[0]) == len("ab/") + 64 + len(".dcm")
    assert "1.2.3" not in names[0]
    assert not list(tmp_path.rglob("*outside*"))


def test_the_input_hash_does_not_depend_on_order(tmp_path):
    slices = [slice_of(f"1.2.{number}", value=number) for number in range(1, 4)]
    forwards, backwards = archive(tmp_path / "a"), archive(tmp_path / "b")
    for one in slices:
        give(forwards, one)
    for one in reversed(slices):
        give(backwards, one)
    assert forwards.index.study(STUDY).input_hash == backwards.index.study(STUDY).input_hash != NO_INPUT


def test_an_arrival_makes_a_planned_study_due_again(tmp_path):
    times = iter(range(100, 200))
    here = archive(tmp_path, now=lambda: float(next(times)))
    give(here, slice_of("1.2.1"))
    first = here.index.study(STUDY)
    with here.index.write() as connection:
        here.index.mark_planned(connection, STUDY, first.input_hash)
    assert here.index.studies_due() == []
    give(here, slice_of("1.2.2"))
    (due,) = here.index.studies_due()
    assert due.first_arrival_at == due.last_arrival_at > first.last_arrival_at


# Corrections


def test_a_corrected_header_becomes_current_and_the_first_is_kept(here):
    first, second = (file_of(slice_of("1.2.3", StudyDescription=text)) for text in ("Chset", "Chest"))
    give(here, first)
    before = here.index.study(STUDY).input_hash
    assert give(here, second).state == "replaced"
    assert stored_bytes(here, "1.2.3") == second
    (version,) = here.index.versions("1.2.3")
    assert (version.state, here.storage.path(version.storage_key).read_bytes()) == ("superseded", first)
    assert here.index.study(STUDY).input_hash != before


def test_keep_first_puts_the_correction_aside(tmp_path):
    here = archive(tmp_path, "keep-first")
    first, second = (file_of(slice_of("1.2.3", StudyDescription=text)) for text in ("Chset", "Chest"))
    give(here, first)
    before = here.index.study(STUDY)
    assert give(here, second).state == "put aside"
    assert stored_bytes(here, "1.2.3") == first
    (version,) = here.index.versions("1.2.3")
    assert (version.state, here.storage.path(version.storage_key).read_bytes()) == ("put aside", second)
    assert here.index.study(STUDY) == before


def test_hold_asks_a_person_who_can_take_it(tmp_path):
    here = archive(tmp_path, "hold")
    first, second = (file_of(slice_of("1.2.3", StudyDescription=text)) for text in ("Chset", "Chest"))
    give(here, first)
    held = give(here, second)
    assert (held.state, held.status) == ("quarantined", 0xC103)
    (entry,) = here.quarantine.list()
    assert entry.reason == (
        'a corrected header for SOP Instance UID 1.2.3 is held, because archive.on_correction is "hold"; take it with '
        "`mirall quarantine retry ID --replace`"
    )
    assert here.retry(entry.id, "replace").state == "replaced"
    assert stored_bytes(here, "1.2.3") == second
    assert here.quarantine.list() == []


def packed(dataset: Dataset) -> bytes:
    """The same object with its pixels in RLE."""
    copy = dcmread(BytesIO(file_of(dataset)))
    copy.compress(RLELossless, generate_instance_uid=False)
    buffer = BytesIO()
    copy.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@pytest.mark.parametrize("encode", [file_of, packed])
def test_an_earlier_version_that_comes_again_is_current_again_whatever_its_encoding(here, encode):
    first, second = (slice_of("1.2.3", StudyDescription=text) for text in ("Chset", "Chest"))
    give(here, first)
    before = here.index.study(STUDY).input_hash
    give(here, second)
    again = encode(first)
    assert give(here, again).state == "replaced"
    assert stored_bytes(here, "1.2.3") == again
    kept = {here.storage.path(version.storage_key).read_bytes() for version in here.index.versions("1.2.3")}
    assert kept == {file_of(first), file_of(second)} - {again}
    assert (here.index.study(STUDY).input_hash == before) == (encode is file_of)
    assert give(here, second).state == "replaced"
    assert stored_bytes(here, "1.2.3") == file_of(second)


def test_a_correction_that_was_taken_back_stays_so_after_the_loss_of_the_index(here):
    first, second = (file_of(slice_of("1.2.3", StudyDescription=text)) for text in ("Chset", "Chest"))
    for raw in (first, second, first):
        give(here, raw)
    here.index.close()
    for part in here.index.data.glob("index.sqlite*"):
        part.unlink()
    again = archive(here.index.data)
    assert again.reindex() == {"stored": 1, "replaced": 1}
    assert stored_bytes(again, "1.2.3") == first


@pytest.mark.parametrize("policy", ["keep-first", "hold"])
def test_an_earlier_version_that_comes_again_changes_nothing_where_corrections_do_not_replace(tmp_path, policy):
    here = archive(tmp_path, policy)
    first, second = (file_of(slice_of("1.2.3", StudyDescription=text)) for text in ("Chset", "Chest"))
    give(here, first)
    give(here, second)
    if policy == "hold":
        here.retry(1, "replace")
    current, earlier = (second, first) if policy == "hold" else (first, second)
    (version,) = here.index.versions("1.2.3")
    here.storage.path(version.storage_key).unlink()
    assert give(here, earlier).state == "held"
    assert stored_bytes(here, "1.2.3") == current
    (version,) = here.index.versions("1.2.3")
    assert here.storage.path(version.storage_key).read_bytes() == earlier


def test_a_person_can_take_other_pixels_back(here):
    first, second = (slice_of("1.2.3", value=value) for value in (1, 2))
    give(here, first)
    give(here, second)
    here.retry(1, "replace")
    assert give(here, first).state == "quarantined"
    (entry,) = here.quarantine.list()
    assert here.retry(entry.id, "replace").state == "replaced"
    assert stored_bytes(here, "1.2.3") == file_of(first)


# Files that are missing


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:200])])
def test_a_known_instance_whose_file_is_missing_or_cut_off_is_put_again_before_the_answer(here, damage):
    raw = file_of(slice_of("1.2.3"))
    give(here, raw)
    study = here.index.study(STUDY)
    damage(here.index.instance("1.2.3").path)
    assert give(here, raw).state == "held"
    assert stored_bytes(here, "1.2.3") == raw
    assert here.index.study(STUDY) == study


def test_a_missing_file_comes_back_behind_another_file_meta_group(here):
    raw = bytearray(file_of(slice_of("1.2.3")))
    give(here, bytes(raw))
    here.index.instance("1.2.3").path.unlink()
    raw[0] = 1  # the preamble is nobody's
    assert give(here, bytes(raw)).state == "held"
    assert stored_bytes(here, "1.2.3") == raw
    assert here.reindex() == {}


def test_a_corrected_header_without_pixels_takes_the_place_of_a_missing_file(here):
    def report(**attributes: object) -> Dataset:
        dataset = slice_of("1.2.3", **attributes)
        del dataset.PixelData
        return dataset

    give(here, report(StudyDescription="Chset"))
    here.index.instance("1.2.3").path.unlink()
    second = file_of(report())
    assert give(here, second).state == "replaced"
    assert stored_bytes(here, "1.2.3") == second
    assert here.index.versions("1.2.3") == []


def test_pixels_that_cannot_be_compared_with_those_of_a_missing_file_are_held_for_a_person(here):
    give(here, slice_of("1.2.3", value=1))
    here.index.instance("1.2.3").path.unlink()
    outcome = give(here, slice_of("1.2.3", value=2))
    assert (outcome.state, outcome.status) == ("quarantined", 0xC102)
    assert outcome.reason == (
        "SOP Instance UID 1.2.3 is indexed with another data set whose file is missing, so the two cannot be compared; "
        "restore the file, or a person can decide with `mirall quarantine retry ID --replace`"
    )
    assert here.retry(1, "replace").state == "replaced"
    assert stored_bytes(here, "1.2.3") == file_of(slice_of("1.2.3", value=2))


def test_a_start_counts_and_names_what_is_missing(here, caplog):
    for number in range(1, 4):
        give(here, slice_of(f"1.2.{number}", value=number))
    for uid in ("1.2.1", "1.2.3"):
        here.index.instance(uid).path.unlink()
    assert here.reindex() == {"missing": 2}
    assert here.missing() == ["1.2.1", "1.2.3"]
    assert "2 indexed object(s) have no file" in caplog.text
    assert caplog.text.rstrip().endswith("1.2.1, 1.2.3")


def test_a_corrected_patient_is_a_correction_and_not_a_second_patient(here):
    give(here, slice_of("1.2.3", patient="P1"))
    assert give(here, slice_of("1.2.3", patient="P2")).state == "replaced"
    assert here.index.study(STUDY).patient_id == "P2"


def test_the_same_object_in_another_encoding_is_already_held(here):
    native = slice_of("1.2.3")
    give(here, native)
    assert give(here, packed(native)).state == "held"


# What is refused, and the sentence for it

BAD = {
    "a text file renamed": (
        lambda: b"Dear colleague, please find enclosed " * 20,
        0xC000,
        "the object is no DICOM file: bytes 129 to 132 are not 'DICM'; send DICOM files (PS3.10) only",
    ),
    "an empty file": (lambda: b"", 0xC000, "is no DICOM file"),
    "a truncated file": (
        lambda: file_of(slice_of("1.2.3"), lambda raw: raw[:-7]),
        0xC000,
        "the object ends too early: (7fe0,0010) says 30 bytes and 23 are there; send the whole file",
    ),
    "no SOP Instance UID": (
        lambda: file_of(slice_of(SOPInstanceUID=None)),
        0xC000,
        "the object has no SOP Instance UID (0008,0018), so it cannot be filed; have the sender fill it in",
    ),
    "no Study Instance UID": (
        lambda: file_of(slice_of("1.2.3", StudyInstanceUID="")),
        0xC000,
        "the object has no Study Instance UID (0020,000D), so it cannot be filed; have the sender fill it in",
    ),
    "no storage class at all": (
        lambda: file_of(slice_of("1.2.3", SOPClassUID=None)),
        0xC000,
        "the object has no SOP Class UID (0008,0016), so it cannot be filed; have the sender fill it in",
    ),
    "a path-like UID": (
        lambda: file_of(slice_of("1.2.3", SeriesInstanceUID="../../etc/passwd")),
        0xC000,
        (
            "Series Instance UID (0020,000E) is '../../etc/passwd', which is no UID (digits and dots, at most 64 "
            "characters); have the sender correct it"
        ),
    ),
    "a UID of 65 characters": (
        lambda: file_of(slice_of("1." + "2" * 63)),
        0xC000,
        "which is no UID (digits and dots, at most 64 characters)",
    ),
    "a wrong pixel length": (
        lambda: file_of(slice_of("1.2.3", PixelData=b"\0" * 24)),
        0xC000,
        (
            "PixelData (7FE0,0010) has 24 bytes, but 1 frame(s) of 5 x 3 pixels with 1 sample(s) of 16 bits need 30; "
            "have the sender send the whole object"
        ),
    ),
    "pixels without their size": (
        lambda: file_of(slice_of("1.2.3", Rows=None)),
        0xC000,
        "the object has pixel data but Rows is ''; have the sender correct the header",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_kept_with_a_sentence(here, case):
    make, status, sentence = BAD[case]
    raw = make()
    outcome = give(here, raw)
    assert (outcome.state, outcome.status, outcome.accepted) == ("quarantined", status, False)
    (entry,) = here.quarantine.list()
    assert sentence in entry.reason == outcome.reason
    assert entry.path.read_bytes() == raw
    assert here.index.counts()["instances"] == 0
    assert list(here.storage.incoming.iterdir()) == []


def test_one_uid_with_other_pixels_is_held(here):
    give(here, slice_of("1.2.3", value=1))
    outcome = give(here, slice_of("1.2.3", value=2))
    assert (outcome.state, outcome.status) == ("quarantined", 0xC102)
    assert outcome.reason == (
        "an object with SOP Instance UID 1.2.3 and other pixels is held already; the sender must give the new one its "
        "own UID, or a person can decide with `mirall quarantine retry ID --replace`"
    )
    assert np.frombuffer(dcmread(here.index.instance("1.2.3").path).PixelData, "<u2")[0] == 1


def test_a_person_can_decide_for_the_other_pixels(here):
    give(here, slice_of("1.2.3", value=1))
    give(here, slice_of("1.2.3", value=2))
    assert here.retry(1).state == "quarantined"
    assert here.quarantine.get(1).attempts == 2
    assert here.retry(1, "replace").state == "replaced"
    assert np.frombuffer(dcmread(here.index.instance("1.2.3").path).PixelData, "<u2")[0] == 2


def test_one_study_of_two_patients_is_held_and_names_neither(here):
    give(here, slice_of("1.2.3", patient="MILLER-77"))
    outcome = give(here, slice_of("1.2.4", patient="SMITH-42"))
    assert (outcome.state, outcome.status) == ("quarantined", 0xC101)
    assert outcome.reason == (
        f"study {STUDY} is already held with another Patient ID (0010,0020); one study belongs to one patient, so have "
        "the sender correct the one or the other"
    )


def test_an_object_other_than_announced_is_refused(here):
    reception = here.storage.receive()
    reception.write(file_of(slice_of("1.2.3")))
    outcome = here.accept(reception.finish(), PEER, announced=Announced(sop_instance_uid="1.2.4"))
    assert (outcome.status, outcome.reason) == (
        0xA900,
        (
            "the sender announced SOP Instance UID (0008,0018) '1.2.4', the object says '1.2.3'; have the sender "
            "correct the one or the other"
        ),
    )


def test_the_same_bad_bytes_again_are_one_entry(here):
    for _ in range(3):
        give(here, b"no dicom")
    (entry,) = here.quarantine.list()
    assert entry.attempts == 3


def test_an_entry_that_is_not_there_is_named(here):
    with pytest.raises(Rejected, match="there is no entry 5 in quarantine; see `mirall quarantine list`"):
        here.retry(5)


def test_a_quarantined_object_is_stored_once_its_cause_is_gone(here):
    give(here, slice_of("1.2.3", patient="P1"))
    give(here, slice_of("1.2.4", patient="P2"))
    give(here, slice_of("1.2.3", patient="P2"))
    assert here.retry(1).state == "stored"
    assert here.quarantine.list() == []
    assert here.index.counts()["instances"] == 2


# No space


def test_a_full_disk_is_said_and_nothing_is_kept(tmp_path):
    here = archive(tmp_path)
    here.storage = Storage(tmp_path, minimum_free_mb=256, free_bytes=lambda folder: 12_000_000)
    reception = here.storage.receive()
    reception.write(file_of(slice_of("1.2.3")))
    with pytest.raises(NoSpace) as caught:
        reception.finish()
    assert str(caught.value) == (
        "12 MB are free and archive.minimum_free_mb is 256; free space on the disk that holds the data folder"
    )
    assert list(here.storage.incoming.iterdir()) == []
    assert OUT_OF_RESOURCES == 0xA700


def test_a_disk_that_fills_up_while_receiving_is_no_space(here):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    reception = here.storage.receive()
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        for _ in range(3):
            reception.write(bytes(1 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with pytest.raises(NoSpace, match="cannot be stored: File too large; free space"):
        reception.finish()
    assert list(here.storage.incoming.iterdir()) == []


def test_an_index_that_cannot_grow_is_no_space_and_the_object_is_found_at_the_next_start(here):
    give(here, slice_of("1.2.1"))
    with here.index.read() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()

    @event.listens_for(here.index.engine, "connect")
    def limit(connection, record):
        connection.execute(f"PRAGMA max_page_count={pages}")

    here.index.close()
    with pytest.raises(NoSpace, match="the index cannot be written"):
        give(here, slice_of("1.2.2", PatientComments="x" * 60_000))
    assert here.index.instance("1.2.2") is None
    assert archive(here.index.data).reindex() == {"stored": 1}


# After a kill


def test_bytes_that_were_renamed_and_not_indexed_are_taken_up(here):
    raw = file_of(slice_of("1.2.3"))
    give(here, raw)
    here.index.close()
    for part in here.index.data.glob("index.sqlite*"):
        part.unlink()
    again = archive(here.index.data)
    assert again.reindex() == {"stored": 1}
    assert stored_bytes(again, "1.2.3") == raw
    assert list(again.storage.incoming.iterdir()) == []


def test_what_a_loss_of_power_takes_from_the_index_is_taken_up_from_disk_with_the_way_it_came(here):
    """The index of a moment ago stands for one whose last commits were not synced."""
    give(here, slice_of("1.2.3"))
    if not here.storage.note(here.index.instance("1.2.3").path, "x"):
        pytest.skip("this file system keeps no notes with files")
    here.index.close()
    before = {path: path.read_bytes() for path in here.index.data.glob("index.sqlite*")}
    arrival = Arrival("dimse", calling_aet="SCANNER", called_aet="MIRALL", address="fe80::1")
    late = archive(here.index.data)
    late.accept(late.storage.receive_file(part10(here.index.data / "new.dcm", slice_of("1.2.4"))), arrival)
    late.index.close()
    for path in here.index.data.glob("index.sqlite*"):
        path.unlink()
    for path, raw in before.items():
        path.write_bytes(raw)
    again = archive(here.index.data)
    assert again.index.instance("1.2.4") is None
    assert again.reindex() == {"stored": 1}
    found = again.index.instance("1.2.4")
    assert (found.door, found.calling_aet, found.called_aet, found.address) == tuple(vars(arrival).values())


def part10(path: Path, dataset: Dataset) -> Path:
    path.write_bytes(file_of(dataset))
    return path


@pytest.mark.parametrize("note", ["", "dimse", "carrier pigeon\na\nb\nc", "dimse\na\nb\nc\nd"])
def test_a_note_that_tells_of_no_arrival_is_none(note):
    assert Arrival.of_note(note) == Arrival("")


class Forgetful(Storage):
    """On a file system that keeps no notes."""

    def note(self, received: Path, text: str) -> bool:
        return False


class Watched(Index):
    syncs = 0

    def sync(self) -> None:
        self.syncs += 1
        super().sync()


@pytest.mark.parametrize(("kind", "expected"), [(Storage, [0, 1, 2]), (Forgetful, [1, 2, 3])])
def test_the_index_is_synced_for_what_no_file_tells(tmp_path, kind, expected):
    """A new object, its repeat, and a correction."""
    index = Watched(tmp_path)
    index.upgrade()
    ingest, found = Ingest(index, kind(tmp_path)), []
    if not (expected[0] or ingest.storage.note(ingest.storage.incoming, "x")):
        pytest.skip("this file system keeps no notes with files")
    for dataset in (slice_of("1.2.3"), slice_of("1.2.3"), slice_of("1.2.3", StudyDescription="Corrected")):
        assert give(ingest, dataset).accepted
        found.append(index.syncs)
    assert found == expected


def test_the_index_is_synced_for_what_a_deletion_may_still_sweep(tmp_path, monkeypatch):
    """Only the index knows that it came after the deletion: by its file it may have lain in incoming/ before."""
    index = Watched(tmp_path)
    index.upgrade()
    ingest = Ingest(index, Storage(tmp_path))
    give(ingest, slice_of("1.2.3"))
    with monkeypatch.context() as patch:
        patch.setattr(tombstones, "sweep", lambda *_: 0)
        deletion.remove(ingest, deletion.Target(STUDY), by="a person")
    before = index.syncs
    assert give(ingest, slice_of("1.2.3")).state == "stored"
    assert index.syncs == before + 1


def test_what_could_not_be_synced_is_put_in_its_place_so_that_nothing_behind_it_hangs_on_it(here, monkeypatch):
    give(here, slice_of("1.2.3"))

    def fails(path: Path) -> None:
        raise NoSpace("no space in this test")

    with monkeypatch.context() as patch, pytest.raises(NoSpace):
        patch.setattr(index_module, "sync_data", fails)
        give(here, slice_of("1.2.3", StudyDescription="Corrected"))
    database = here.index.data / "index.sqlite"
    with closing(sqlite3.connect(f"file:{database}?immutable=1", uri=True)) as alone:  # without its log
        assert alone.execute("SELECT state FROM instance_version").fetchall() == [("superseded",)]


def test_a_start_with_nothing_new_takes_up_nothing(here):
    give(here, slice_of("1.2.3"))
    give(here, b"no dicom")
    assert here.reindex() == {}


def test_a_reindex_beside_a_busy_archive_deletes_nothing_that_was_indexed_meanwhile(here, monkeypatch):
    """Its list of known keys is old by the time that it looks at a file."""
    raw = file_of(slice_of("1.2.3"))
    give(here, raw)
    monkeypatch.setattr(here.index, "storage_keys", frozenset)
    assert here.reindex() == {"held": 1}
    assert stored_bytes(here, "1.2.3") == raw


def test_whole_bytes_that_nobody_acknowledged_and_that_came_again_are_dropped(here):
    """The same data set behind another file meta group: a sender tried the other door after a kill."""
    raw = file_of(slice_of("1.2.3"))
    give(here, raw)
    twin = bytearray(raw)
    twin[0] = 1  # the preamble is nobody's
    left = here.storage.receive()
    left.write(twin)
    here.storage.put(left.finish(), "00/left.dcm")
    assert here.reindex() == {"held": 1}
    assert stored_bytes(here, "1.2.3") == raw
    assert not here.storage.path("00/left.dcm").exists()


def test_corrections_and_quarantine_survive_the_loss_of_the_index(here):
    first, second = (file_of(slice_of("1.2.3", StudyDescription=text)) for text in ("Chset", "Chest"))
    give(here, first)
    give(here, second)
    give(here, b"no dicom")
    reasons = in_quarantine(here)
    here.index.close()
    for part in here.index.data.glob("index.sqlite*"):
        part.unlink()
    again = archive(here.index.data)
    assert again.reindex() == {"stored": 1, "replaced": 1, "listed again": 1}
    assert stored_bytes(again, "1.2.3") == second
    assert in_quarantine(again) == reasons


def test_the_sender_who_repeats_completes_what_a_kill_lost(here):
    raw = file_of(slice_of("1.2.3"))
    give(here, raw, arrival=Arrival(""))
    assert give(here, raw).state == "held"
    assert here.index.instance("1.2.3").calling_aet == "SCANNER"


def test_what_bears_on_the_wrong_half_of_a_kill_is_never_half(here, monkeypatch):
    """The transaction breaks off after the rename: the index is as before, the bytes are whole and found again."""

    def breaks(*args, **kwargs):
        raise ZeroDivisionError

    monkeypatch.setattr(here.index, "add_instance", breaks)
    with pytest.raises(ZeroDivisionError):
        give(here, slice_of("1.2.3"))
    monkeypatch.undo()
    assert here.index.counts()["studies"] == 0
    assert here.reindex() == {"stored": 1}
    assert here.index.counts()["instances"] == 1
