"""C-FIND as a service: what peers ask, level by level and in their own character set, and what they read."""

from __future__ import annotations

import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pydicom.data
import pytest
from archives import archive, give
from dicom_objects import slice_of
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.dsutils import decode
from pynetdicom.pdu_primitives import SOPClassExtendedNegotiation
from pynetdicom.sop_class import (
    PatientRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelFind,
)
from sqlalchemy.exc import DatabaseError

from plugin import settings as configuration
from plugin.archive.ingest import Ingest
from plugin.dimse import find, node

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
PATIENT_ROOT, STUDY_ROOT = PatientRootQueryRetrieveInformationModelFind, StudyRootQueryRetrieveInformationModelFind
CHEST, BRAIN, OLD = "2.25.31", "2.25.32", "2.25.33"
REQUESTED = {"ScheduledProcedureStepID": "S1", "RequestedProcedureID": "R1"}


@dataclass
class Door:
    ingest: Ingest
    listener: node.Listener

    def find(
        self, level: str, root: str = STUDY_ROOT, *, relational: bool = False, **keys: object
    ) -> tuple[list[int], list[Dataset]]:
        """Statuses of all responses, and the identifiers of the pending ones."""
        return self.ask(identifier(QueryRetrieveLevel=level, **keys), root, relational=relational)

    def ask(
        self, query: Dataset, root: str = STUDY_ROOT, *, relational: bool = False
    ) -> tuple[list[int], list[Dataset]]:
        ae = AE("PEER")
        ae.add_requested_context(root)
        wish = SOPClassExtendedNegotiation()
        wish.sop_class_uid, wish.service_class_application_information = root, b"\1\1\1"
        association = ae.associate(*address(self), ae_title="MIRALL", ext_neg=[wish] if relational else None)
        assert association.is_established
        if relational:
            assert association.acceptor.sop_class_extended == {root: b"\1\0\0"}
        responses = list(association.send_c_find(query, root))
        association.release()
        comments.extend(status.ErrorComment for status, _ in responses if "ErrorComment" in status)
        return [status.Status for status, _ in responses], [answer for _, answer in responses if answer is not None]

    def uids(self, level: str, root: str = STUDY_ROOT, **keys: object) -> list[str]:
        own = {"STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}.get(
            level, "PatientID"
        )
        statuses, answers = self.find(level, root, **keys)
        assert statuses[-1] == 0, statuses
        return [str(answer[own].value) for answer in answers]


comments: list[str] = []


def address(door: Door) -> tuple[str, int]:
    return door.listener.address.host, door.listener.address.port


def identifier(**keys: object) -> Dataset:
    dataset = Dataset()
    for keyword, value in keys.items():
        setattr(dataset, keyword, value)
    return dataset


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    folder = tmp_path_factory.mktemp("find")
    ingest = archive(folder)
    give(ingest, slice_of("1.1", study=CHEST, series="2.25.311", patient="p1"))
    give(ingest, slice_of("1.2", study=CHEST, series="2.25.311", patient="p1", value=2, InstanceNumber=2))
    requested = identifier(**REQUESTED)
    give(
        ingest,
        slice_of(
            "1.3", study=CHEST, series="2.25.312", patient="p1", Modality="PT", RequestAttributesSequence=[requested]
        ),
    )
    give(ingest, slice_of("1.4", study=BRAIN, series="2.25.321", patient="P1", Modality="MR", StudyDate="20260210"))
    japanese = "Yamada^Tarou=山田^太郎=やまだ^たろう"
    give(
        ingest, slice_of("1.5", study=OLD, series="2.25.331", patient="P3", PatientName=japanese, StudyDate="19991231")
    )
    names = {"KO": "Hong^Gildong=洪^吉洞=홍^길동", "EL": "Διονυσιος", "AR": "قباني^لنزار", "FR": "Buc^Jérôme"}
    for number, (patient, name) in enumerate(names.items()):
        uid = f"2.25.4{number}"
        give(
            ingest,
            slice_of(
                f"1.6.{number}", study=uid, series=f"{uid}.1", patient=patient, PatientName=name, StudyDate="19800101"
            ),
        )
    settings = configuration.Settings(
        node=configuration.Node(data=folder, dimse="127.0.0.1:0", open=True)  # type: ignore[arg-type]
    )
    listener = node.start(settings, ingest)
    yield Door(ingest, listener)
    listener.stop()
    ingest.index.close()


def test_patients_are_found_once_each_and_by_their_exact_id(door):
    assert door.uids("PATIENT", PATIENT_ROOT, PatientID="P*") == ["P1", "P3"]
    assert door.uids("PATIENT", PATIENT_ROOT, PatientID="p1") == ["p1"]


def test_a_patient_has_all_that_is_asked_and_is_the_patients(door):
    statuses, (answer,) = door.find(
        "PATIENT", PATIENT_ROOT, PatientID="p1", PatientName="", PatientBirthDate="",
        NumberOfPatientRelatedStudies=None, NumberOfPatientRelatedSeries=None, NumberOfPatientRelatedInstances=None,
    )  # fmt: skip
    assert statuses == [0xFF00, 0x0000]
    assert (answer.PatientName, answer.PatientSex if "PatientSex" in answer else None) == ("Pháñtom^Ä", None)
    assert answer.PatientBirthDate == ""
    assert answer.NumberOfPatientRelatedStudies == 1
    assert answer.NumberOfPatientRelatedSeries == 2
    assert answer.NumberOfPatientRelatedInstances == 3
    assert answer.RetrieveAETitle == "MIRALL"
    assert answer.QueryRetrieveLevel == "PATIENT"


@pytest.mark.parametrize("root", [PATIENT_ROOT, STUDY_ROOT])
def test_each_level_is_reached_by_the_key_of_the_one_above(door, root):
    above = {"PatientID": "p1"} if root == PATIENT_ROOT else {}
    assert door.uids("STUDY", root, **above, StudyDate="20260101-20260201") == [CHEST]
    assert door.uids("SERIES", root, **above, StudyInstanceUID=CHEST) == ["2.25.311", "2.25.312"]
    assert door.uids("IMAGE", root, **above, StudyInstanceUID=CHEST, SeriesInstanceUID="2.25.311") == ["1.1", "1.2"]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"StudyInstanceUID": [CHEST, OLD]}, [CHEST, OLD]),
        ({"ModalitiesInStudy": ["PT", "MR"]}, [BRAIN, CHEST]),
        ({"ModalitiesInStudy": "M?"}, [BRAIN]),
        ({"PatientName": "*PHÁÑTOM*", "StudyDate": "20260101-"}, [BRAIN, CHEST]),
        ({"PatientName": "山田*"}, [OLD]),
        ({"PatientName": "yamada*=山田*"}, [OLD]),
        ({"PatientName": "yamada*=吉洞*"}, []),
        ({"StudyDescription": "chest", "StudyDate": "2026-"}, []),
        ({"StudyDescription": "Ch*", "StudyDate": "20260101-"}, [BRAIN, CHEST]),
        ({"StudyTime": "101112", "StudyDate": "19991231"}, [OLD]),
        ({"SOPClassesInStudy": "1.2.3", "StudyDate": ""}, []),
    ],
)
def test_studies_are_matched_as_part_4_says(door, keys, expected):
    assert door.uids("STUDY", **({"SpecificCharacterSet": "ISO_IR 192", "StudyInstanceUID": ""} | keys)) == expected


def test_a_uid_that_bounds_the_query_stands_for_those_above_it(door):
    assert door.uids("IMAGE", StudyInstanceUID=CHEST, SOPInstanceUID="") == ["1.1", "1.2", "1.3"]
    assert door.uids("SERIES", SeriesInstanceUID="2.25.321") == ["2.25.321"]


def test_a_sequence_is_matched_by_its_item_and_returns_what_is_asked_of_it(door):
    asked = identifier(ScheduledProcedureStepID="S1", RequestedProcedureDescription="")
    _, (answer,) = door.find("SERIES", StudyInstanceUID=CHEST, RequestAttributesSequence=[asked])
    assert answer.SeriesInstanceUID == "2.25.312"
    (item,) = answer.RequestAttributesSequence
    assert item.ScheduledProcedureStepID == "S1"
    assert "RequestedProcedureID" not in item
    other = identifier(ScheduledProcedureStepID="S2")
    assert door.uids("SERIES", StudyInstanceUID=CHEST, RequestAttributesSequence=[other]) == []


def test_counts_modalities_and_availability_come_with_a_study(door):
    _, (answer,) = door.find(
        "STUDY", StudyInstanceUID=CHEST, ModalitiesInStudy="", NumberOfStudyRelatedSeries=None,
        NumberOfStudyRelatedInstances=None, InstanceAvailability="",
    )  # fmt: skip
    assert list(answer.ModalitiesInStudy) == ["CT", "PT"]
    assert (answer.NumberOfStudyRelatedSeries, answer.NumberOfStudyRelatedInstances) == (2, 3)
    assert answer.InstanceAvailability == "ONLINE"


def test_an_instance_says_in_which_syntax_it_can_be_had(door):
    _, (answer,) = door.find("IMAGE", SOPInstanceUID="1.4", AvailableTransferSyntaxUID="", Rows=None)
    assert (answer.AvailableTransferSyntaxUID, answer.Rows) == (ExplicitVRLittleEndian, 5)


def test_an_optional_key_that_is_not_kept_is_a_warning_with_each_match(door):
    statuses, (answer,) = door.find("STUDY", StudyInstanceUID=CHEST, SliceLocation="3")
    assert statuses == [0xFF01, 0x0000]
    assert "SliceLocation" not in answer


@pytest.mark.parametrize(
    ("root", "keys", "why"),
    [
        (STUDY_ROOT, {"QueryRetrieveLevel": "SERIES"}, "level SERIES needs StudyInstanceUID"),
        (
            STUDY_ROOT,
            {"QueryRetrieveLevel": "IMAGE", "StudyInstanceUID": ""},
            "level IMAGE needs StudyInstanceUID or Ser",
        ),
        (STUDY_ROOT, {"QueryRetrieveLevel": "PATIENT"}, "QueryRetrieveLevel is 'PATIENT'; give STUDY, SERIES, IMAGE"),
        (PATIENT_ROOT, {"PatientID": "P1"}, "QueryRetrieveLevel is ''; give PATIENT"),
        (STUDY_ROOT, {"QueryRetrieveLevel": "STUDY", "StudyDate": "yesterday"}, "'yesterday' is neither a DA value"),
        (
            STUDY_ROOT,
            {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "1.*"},
            "StudyInstanceUID has '1.*', and wild",
        ),
    ],
)
def test_an_identifier_that_cannot_be_answered_is_a_sentence(door, root, keys, why):
    statuses, _ = door.ask(identifier(**keys), root)
    assert statuses == [0xA900]
    assert comments[-1].startswith(why)


def test_levels_may_be_skipped_where_that_was_negotiated(door):
    statuses, answers = door.find("IMAGE", relational=True, Modality="PT", SOPInstanceUID="")
    assert statuses == [0xFF00, 0x0000]
    assert answers[0].SOPInstanceUID == "1.3"


CHARACTER_SETS = [
    (["", "ISO 2022 IR 87"], "P3", "*=山田^太郎"),
    (["", "ISO 2022 IR 149"], "KO", "*=*=홍^길동"),
    ("ISO_IR 126", "EL", "Διονυσιος"),
    ("ISO_IR 127", "AR", "قباني^لنزار"),
    ("ISO_IR 100", "FR", "Buc^Jérôme"),
    ("ISO_IR 192", "P3", "*=山田*"),
    ("GB18030", "P3", "*=山田*"),
]


@pytest.mark.parametrize(("character_set", "patient", "name"), CHARACTER_SETS)
def test_a_peer_asks_and_is_answered_in_its_own_character_set(door, character_set, patient, name):
    _, (answer,) = door.find(
        "PATIENT", PATIENT_ROOT, SpecificCharacterSet=character_set, PatientName=name, PatientID=""
    )
    said = answer.SpecificCharacterSet
    assert (said if isinstance(said, str) else [str(one or "") for one in said]) == character_set
    assert answer.PatientID == patient
    (held,) = door.find("PATIENT", PATIENT_ROOT, PatientID=patient, PatientName="")[1]
    assert answer.PatientName == held.PatientName


@pytest.mark.parametrize("character_set", [None, "ISO_IR 100", ["", "ISO 2022 IR 149"], "ISO_IR 126"])
def test_what_a_peers_character_set_cannot_say_comes_in_utf_8(door, character_set):
    keys = {} if character_set is None else {"SpecificCharacterSet": character_set}
    _, (answer,) = door.find("PATIENT", PATIENT_ROOT, **keys, PatientID="AR", PatientName="")
    assert answer.SpecificCharacterSet == "ISO_IR 192"
    assert answer.PatientName == "قباني^لنزار"


def test_plain_ascii_names_no_character_set(door):
    _, (answer,) = door.find("STUDY", StudyInstanceUID=CHEST, StudyDescription="")
    assert "SpecificCharacterSet" not in answer


def test_a_cancelled_query_stops_and_says_so(door, monkeypatch):
    """A peer reads one answer and cancels; of the many others most are never sent."""
    ae = AE("PEER")
    ae.add_requested_context(STUDY_ROOT)
    association = ae.associate(*address(door), ae_title="MIRALL")
    read = threading.Event()
    real, sent = find._dataset, []

    def slowly(asked, answer, aet):
        if sent:
            read.wait(5)
            time.sleep(0.2)
        sent.append(answer)
        return real(asked, answer, aet)

    monkeypatch.setattr(find, "_dataset", slowly)
    query = identifier(QueryRetrieveLevel="STUDY", StudyInstanceUID="")
    responses = association.send_c_find(query, STUDY_ROOT, msg_id=7)
    assert next(responses)[0].Status == 0xFF00
    association.send_c_cancel(7, query_model=STUDY_ROOT)
    read.set()
    statuses = [status.Status for status, _ in responses]
    association.release()
    assert statuses[-1] == 0xFE00
    assert len(statuses) < 4


def test_a_busy_or_broken_index_is_a_status_and_a_sentence(door, monkeypatch):
    def locked(*_args):
        raise DatabaseError("SELECT", {}, sqlite3.OperationalError("database is locked"))

    def broken(*_args):
        raise DatabaseError("SELECT", {}, sqlite3.DatabaseError("database disk image is malformed"))

    monkeypatch.setattr(find.query, "find", locked)
    assert door.find("STUDY", StudyInstanceUID="")[0] == [0xA700]
    monkeypatch.setattr(find.query, "find", broken)
    assert door.find("STUDY", StudyInstanceUID="")[0] == [0xC001]
    assert comments[-2:] == [
        "the index is busy with something else; ask again later",
        "the index cannot be read; see the log of this service",
    ]


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_as_identifier_are_a_request_or_a_sentence(raw):
    query = decode(BytesIO(raw), True, True)
    try:
        find.asked(query, patient_root=True)
    except (find.BadIdentifier, *find._DAMAGE):
        return


def test_findscu_reads_every_level(door, needs):
    host, port = address(door)
    for root, level, keys, expected in (
        ("-P", "PATIENT", ["PatientID=P3", "PatientName"], "PatientName"),
        ("-P", "STUDY", ["PatientID=P3", "StudyInstanceUID"], OLD),
        ("-S", "SERIES", [f"StudyInstanceUID={CHEST}", "SeriesInstanceUID", "Modality=PT"], "2.25.312"),
        ("-S", "IMAGE", [f"StudyInstanceUID={CHEST}", "SeriesInstanceUID=2.25.311", "SOPInstanceUID"], "1.2"),
    ):
        asked = [word for key in (f"QueryRetrieveLevel={level}", *keys) for word in ("-k", key)]
        ran = subprocess.run(
            [needs("findscu"), "-v", root, "-aec", "MIRALL", host, str(port), *asked],
            capture_output=True, text=True, timeout=20,
        )  # fmt: skip
        assert ran.returncode == 0
        assert "Received Final Find Response (Success)" in ran.stderr + ran.stdout
        assert expected in ran.stderr + ran.stdout


def test_files_of_all_character_sets_are_found_by_their_names(tmp_path: Path) -> None:
    """pydicom's own samples: stored in one character set, asked for in Unicode."""
    ingest = archive(tmp_path)
    folder = Path(pydicom.data.__file__).parent / "charset_files"
    for number, path in enumerate(sorted(folder.glob("chr[ABFGHJKRX]*.dcm"))):
        sample = dcmread(path, force=True)
        sample.decode()
        there = slice_of(
            f"1.7.{number}",
            study=f"1.8.{number}",
            series=f"1.9.{number}",
            patient=path.stem,
            PatientName=sample.PatientName,
        )
        there.SpecificCharacterSet = sample.SpecificCharacterSet
        give(ingest, there)
        asked = find.asked(
            identifier(
                QueryRetrieveLevel="STUDY", SpecificCharacterSet="ISO_IR 192", PatientName=str(sample.PatientName)
            ),
            patient_root=False,
        )
        found = [answer["0020000D"]["Value"][0] for answer in find._answers(ingest.index, asked)]
        assert f"1.8.{number}" in found, path
    ingest.index.close()
