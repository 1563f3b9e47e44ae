"""What we made: how it gets into the archive, comes back from a PACS, and leaves."""

from __future__ import annotations

from pathlib import Path

import pytest
from archives import MODEL, archive, bytes_of, generated, give
from dicom_objects import STUDY, file_of, slice_of
from pydicom import Dataset

from dicom_io.errors import Unlabelled
from dicom_io.provenance import name_based_uid
from plugin.archive.arrival import Arrival
from plugin.archive.gate import Gate, check_bytes, check_exit, check_file
from plugin.archive.index import NO_INPUT
from samples.phantoms import breast_pet

OWN = Arrival("own")


@pytest.fixture
def here(tmp_path):
    ingest = archive(tmp_path / "data")
    yield ingest
    ingest.index.close()


def test_a_result_is_stored_with_its_record_and_nothing_is_due_for_it(here):
    dataset, record = generated()
    assert give(here, bytes_of(dataset), record, OWN).state == "stored"
    row = here.index.instance(record.sop_instance_uid)
    assert (row.made_by_us, row.synthetic, row.record["kind"]) == (True, True, "generated")
    study = here.index.study(record.study_instance_uid)
    assert (study.input_hash, study.is_due) == (NO_INPUT, False)
    assert here.index.studies_due() == []
    assert here.index.instances(record.study_instance_uid, include_ours=False) == []


def test_a_result_without_a_label_is_not_stored(here):
    dataset, record = generated()
    del dataset.SyntheticData
    with pytest.raises(Unlabelled, match="SyntheticData"):
        give(here, bytes_of(dataset), record, OWN)
    assert here.index.counts() == {"studies": 0, "series": 0, "instances": 0, "quarantined": 0}
    assert list(here.storage.walk()) == []


def test_a_result_in_a_study_of_others_is_no_arrival(tmp_path):
    times = iter(range(100, 200))
    here = archive(tmp_path, now=lambda: float(next(times)))
    dataset, record = generated()
    give(here, slice_of("1.2.3", study=record.study_instance_uid, patient=record.patient_id))
    before = here.index.study(record.study_instance_uid)
    give(here, bytes_of(dataset), record, OWN)
    assert here.index.study(record.study_instance_uid) == before


def test_a_real_instance_makes_a_study_of_results_due(here):
    dataset, record = generated()
    give(here, bytes_of(dataset), record, OWN)
    give(here, slice_of("1.2.3", study=record.study_instance_uid, patient=record.patient_id))
    assert [study.study_instance_uid for study in here.index.studies_due()] == [record.study_instance_uid]


def test_a_result_made_twice_keeps_its_first_bytes(here):
    dataset, record = generated()
    first = bytes_of(dataset)
    give(here, first, record, OWN)
    dataset.ContentTime = "235959"
    assert give(here, bytes_of(dataset), record, OWN).state == "held"
    assert here.index.instance(record.sop_instance_uid).path.read_bytes() == first


def test_what_comes_back_from_the_pacs_is_already_held_and_changes_nothing(here):
    """Even with a header that the PACS coerced."""
    dataset, record = generated()
    give(here, bytes_of(dataset), record, OWN)
    before = (here.index.study(record.study_instance_uid), here.index.instance(record.sop_instance_uid))
    dataset.PatientName = "Coerced^By^PACS"
    assert give(here, bytes_of(dataset)).state == "held"
    assert (here.index.study(record.study_instance_uid), here.index.instance(record.sop_instance_uid)) == before
    assert here.index.versions(record.sop_instance_uid) == []


@pytest.mark.parametrize("known_device", [True, False])
def test_a_result_that_came_back_before_we_stored_it_gets_its_record(here, known_device):
    """Its job was killed after it had sent, and runs again; meanwhile the PACS sent it back with a coerced header."""
    if known_device:
        give(here, *(bytes_of(generated(4)[0]), generated(4)[1], OWN))
    dataset, record = generated()
    dataset.PatientName = "Coerced^By^PACS"
    coerced = bytes_of(dataset)
    assert give(here, coerced).state == "stored"
    assert here.index.instance(record.sop_instance_uid).record is None
    ours = bytes_of(generated()[0])
    assert give(here, ours, record, OWN).state == "replaced"
    row = here.index.instance(record.sop_instance_uid)
    assert (row.made_by_us, row.path.read_bytes()) == (True, ours)
    check_exit(row)
    (version,) = here.index.versions(record.sop_instance_uid)
    assert here.storage.path(version.storage_key).read_bytes() == coerced
    assert here.index.studies_due() == []


def test_a_result_that_came_back_unchanged_before_we_stored_it_gets_its_record(here):
    dataset, record = generated()
    give(here, bytes_of(dataset))
    assert give(here, bytes_of(dataset), record, OWN).state == "replaced"
    check_exit(here.index.instance(record.sop_instance_uid))
    assert here.index.versions(record.sop_instance_uid) == []
    assert give(here, bytes_of(dataset), record, OWN).state == "held"


def test_a_result_whose_file_is_missing_is_put_again_with_its_record(here):
    dataset, record = generated()
    give(here, bytes_of(dataset), record, OWN)
    here.index.instance(record.sop_instance_uid).path.unlink()
    dataset.PatientName = "Coerced^By^PACS"
    assert "whose file is missing" in give(here, bytes_of(dataset)).reason
    dataset.PatientName = generated()[0].PatientName
    assert give(here, bytes_of(dataset)).state == "held"
    check_exit(here.index.instance(record.sop_instance_uid))


def test_our_work_under_another_uid_is_known_by_its_device(here):
    dataset, record = generated()
    give(here, bytes_of(dataset), record, OWN)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = name_based_uid("renamed")
    assert give(here, bytes_of(dataset)).state == "stored"
    row = here.index.instance(str(dataset.SOPInstanceUID))
    assert (row.made_by_us, row.record) == (True, None)
    assert here.index.studies_due() == []


def test_a_synthetic_object_of_others_is_marked_and_counts_as_input(here):
    give(here, slice_of("1.2.3", SyntheticData="YES"))
    row = here.index.instance("1.2.3")
    assert (row.synthetic, row.made_by_us) == (True, False)
    assert len(here.index.studies_due()) == 1


def test_records_survive_the_loss_of_the_index(here):
    dataset, record = generated()
    give(here, bytes_of(dataset), record, OWN)
    here.index.close()
    for part in here.index.data.glob("index.sqlite*"):
        part.unlink()
    again = archive(here.index.data)
    assert again.reindex() == {"stored": 1}
    check_exit(again.index.instance(record.sop_instance_uid))
    assert again.index.device_uids() == {record.model.device_uid}


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def lose_the_flag(path: Path) -> None:
    dataset, _ = generated()
    dataset.SyntheticData = "NO"
    path.write_bytes(bytes_of(dataset))


def break_the_record(path: Path) -> None:
    path.with_suffix(".json").write_text('{"record": "{')


def garble_the_sidecar(path: Path) -> None:
    path.with_suffix(".json").write_bytes(b"\xff\0\0")


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (truncate, "a result of ours cannot be stored: the object ends too early"),
        (lose_the_flag, "SyntheticData is 'NO', it must be 'YES'"),
        (break_the_record, "the record beside a result of ours cannot be read (JSONDecodeError"),
        (garble_the_sidecar, "the record beside a result of ours cannot be read (JSONDecodeError"),
    ],
)
def test_one_damaged_result_does_not_keep_the_others_from_being_taken_up(here, damage, sentence):
    dataset, record = generated()
    give(here, bytes_of(dataset), record, OWN)
    give(here, bytes_of(generated(4)[0]), generated(4)[1], OWN)
    give(here, slice_of("1.2.3"))
    damage(here.index.instance(record.sop_instance_uid).path)
    here.index.close()
    for part in here.index.data.glob("index.sqlite*"):
        part.unlink()
    again = archive(here.index.data)
    assert again.reindex() == {"quarantined": 1, "stored": 2}
    assert again.reindex() == {}
    (entry,) = again.quarantine.list()
    assert sentence in entry.reason
    assert again.index.instance(record.sop_instance_uid) is None
    assert list(again.storage.incoming.iterdir()) == []
    # Nor does it come in later as the work of others, not even where the quarantine's list was lost as well.
    again.index.close()
    for part in again.index.data.glob("index.sqlite*"):
        part.unlink()
    once_more = archive(here.index.data)
    assert once_more.reindex() == {"stored": 2, "listed again": 1}
    with pytest.raises(Unlabelled):
        once_more.retry(1)
    assert len(once_more.quarantine.list()) == 1


# The gate at the exits


def test_a_labelled_result_may_leave(here):
    dataset, record = generated()
    give(here, bytes_of(dataset), record, OWN)
    Gate().check(here.index.instance(record.sop_instance_uid))


def test_what_others_made_may_leave(here):
    give(here, slice_of("1.2.3"))
    Gate().check(here.index.instance("1.2.3"))


def test_our_work_without_a_record_may_not_leave(here):
    dataset, record = generated()
    give(here, bytes_of(dataset), record, OWN)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = name_based_uid("renamed")
    give(here, bytes_of(dataset))
    with pytest.raises(Unlabelled, match="its record is not here, so its labels cannot be checked"):
        check_exit(here.index.instance(str(dataset.SOPInstanceUID)))


def test_stored_bytes_that_lost_a_label_may_not_leave(here):
    dataset, record = generated()
    give(here, bytes_of(dataset), record, OWN)
    row = here.index.instance(record.sop_instance_uid)
    once = Gate()
    once.check(row)
    dataset.SyntheticData = "NO"
    row.path.write_bytes(bytes_of(dataset))
    with pytest.raises(Unlabelled, match="SyntheticData"):
        once.check(row)


def test_the_bytes_that_leave_are_what_is_checked(here):
    dataset, record = generated()
    give(here, bytes_of(dataset), record, OWN)
    del dataset.ContributingEquipmentSequence
    with pytest.raises(Unlabelled):
        check_bytes(here.index.instance(record.sop_instance_uid), bytes_of(dataset))


def test_a_file_of_ours_leaves_only_with_its_record(here, tmp_path):
    dataset, record = generated()
    path = tmp_path / "picture.dcm"
    path.write_bytes(bytes_of(dataset))
    with pytest.raises(Unlabelled, match=r"picture\.dcm was made by one of our model versions"):
        check_file(path, None)
    (tmp_path / "picture.record.json").write_text(record.to_json())
    assert check_file(path, None).sop_instance_uid == record.sop_instance_uid
    dataset.SyntheticData = "NO"
    path.write_bytes(bytes_of(dataset))
    with pytest.raises(Unlabelled, match="SyntheticData"):
        check_file(path, None)


def test_a_file_of_ours_that_the_archive_holds_leaves_by_that_record(here, tmp_path):
    dataset, record = generated()
    give(here, bytes_of(dataset), record, OWN)
    path = tmp_path / "picture.dcm"
    path.write_bytes(bytes_of(dataset))
    check_file(path, here.index)
    dataset.PatientName = "Somebody^Else"
    path.write_bytes(bytes_of(dataset))
    with pytest.raises(Unlabelled):
        check_file(path, here.index)


def test_a_file_that_lost_all_marks_is_known_by_its_uid_where_the_archive_has_it(here, tmp_path):
    dataset, record = generated()
    give(here, bytes_of(dataset), record, OWN)
    path = tmp_path / "picture.dcm"
    bare = stripped(path)
    del bare.ContributingEquipmentSequence
    path.write_bytes(bytes_of(bare))
    check_file(path, None)  # nothing tells
    with pytest.raises(Unlabelled, match=r"picture\.dcm was made by one of our model versions"):
        check_file(path, here.index)


def stripped(path: Path) -> Dataset:
    """Our picture without the flag and without our private block, away from its record; written to `path`."""
    dataset, _ = generated()
    dataset.remove_private_tags()
    del dataset.SyntheticData
    path.write_bytes(bytes_of(dataset))
    return dataset


def test_a_file_that_lost_flag_and_private_block_is_known_by_its_equipment(tmp_path):
    """Without an index and without a registry: nothing but the object's own words."""
    path = tmp_path / "picture.dcm"
    stripped(path)
    with pytest.raises(Unlabelled, match=r"picture\.dcm was made by one of our model versions"):
        check_file(path, None)


def test_a_file_whose_manufacturer_was_changed_is_known_by_the_registry(tmp_path):
    path = tmp_path / "picture.dcm"
    dataset = stripped(path)
    dataset.ContributingEquipmentSequence[-1].Manufacturer = "Somebody"
    path.write_bytes(bytes_of(dataset))
    check_file(path, None)
    with pytest.raises(Unlabelled, match="was made by one of our model versions"):
        check_file(path, None, {MODEL.device_uid})


def test_a_phantom_leaves(tmp_path):
    """It is synthetic and says so, but no model version made it."""
    made = breast_pet.study(3, tmp_path)
    for path in made.files:
        check_file(path, None, {MODEL.device_uid})


def test_a_file_of_others_leaves(tmp_path):
    path = tmp_path / "slice.dcm"
    path.write_bytes(file_of(slice_of("1.2.3")))
    assert check_file(path, None).study_instance_uid == STUDY
