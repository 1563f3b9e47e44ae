"""QIDO-RS over HTTP: media types, warnings, limits, compression; what matches is proved in test_query_model."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from email import message_from_bytes
from xml.etree import ElementTree

import httpx
import pytest
from archives import archive, give
from dicom_objects import slice_of
from dicomweb_client.api import DICOMwebClient
from pydicom import Dataset
from served import Served, served
from sqlalchemy.exc import OperationalError

from plugin.dicomweb import qido
from plugin.settings import Settings

CHEST, BRAIN = "2.25.31", "2.25.32"
XML = 'multipart/related; type="application/dicom+xml"'


@pytest.fixture(scope="module")
def door(tmp_path_factory) -> Iterator[Served]:
    ingest = archive(tmp_path_factory.mktemp("qido"))
    step = Dataset()
    step.ScheduledProcedureStepID, step.RequestedProcedureID, step.RequestingPhysician = "S1", "R<1>", "Ray^Ada"
    for number in range(1, 13):
        slices = slice_of(
            f"1.1.{number}", study=CHEST, series="2.25.311", InstanceNumber=number, RequestAttributesSequence=[step]
        )
        give(ingest, slices)
    give(ingest, slice_of("1.2.1", study=CHEST, series="2.25.312", Modality="PT", SeriesNumber=10))
    give(
        ingest, slice_of("1.3.1", study=BRAIN, series="2.25.321", patient="P2", StudyDate="20260210", PatientName="A^B")
    )
    with served(ingest, Settings()) as door:
        yield door


def get(door: Served, path: str, accept: str = "application/dicom+json", **headers: str) -> httpx.Response:
    return door.http.get(door.url + path, headers={"Accept": accept, "Accept-Encoding": "identity"} | headers)


def found(door: Served, path: str, tag: str = "00080018") -> list[str]:
    answer = get(door, path)
    assert answer.status_code == 200, answer.text
    return [one[tag]["Value"][0] for one in answer.json()]


@pytest.mark.parametrize(
    ("path", "tag", "expected"),
    [
        ("/studies", "0020000D", [BRAIN, CHEST]),
        ("/series", "0020000E", ["2.25.321", "2.25.311", "2.25.312"]),
        (f"/studies/{CHEST}/series", "0020000E", ["2.25.311", "2.25.312"]),
        (f"/studies/{CHEST}/instances?limit=3&offset=10", "00080018", ["1.1.11", "1.1.12", "1.2.1"]),
        (f"/studies/{CHEST}/series/2.25.311/instances?limit=2", "00080018", ["1.1.1", "1.1.2"]),
        ("/instances?Modality=PT,MR", "00080018", ["1.2.1"]),
        (f"/studies/{BRAIN}/series/2.25.311/instances", "00080018", []),
    ],
)
def test_every_path_lists_its_level_in_order(door, path, tag, expected):
    assert found(door, path, tag) == expected


def test_attributes_come_sorted_by_tag_and_say_where_to_retrieve(door):
    (study,) = get(door, f"/studies?StudyInstanceUID={CHEST}").json()
    assert list(study) == sorted(study)
    assert study["00081190"]["Value"] == [f"{door.url}/studies/{CHEST}"]
    first = get(door, f"/studies/{CHEST}/instances?limit=1").json()[0]
    assert first["00081190"]["Value"] == [f"{door.url}/studies/{CHEST}/series/2.25.311/instances/1.1.1"]


def test_instances_of_a_study_bring_their_series_and_not_the_study_again(door):
    first = get(door, f"/studies/{CHEST}/instances?limit=1").json()[0]
    assert (first["00080060"]["Value"], first["0020000D"]["Value"]) == (["CT"], [CHEST])
    assert "00100010" not in first
    named = get(door, f"/studies/{CHEST}/instances?limit=1&includefield=PatientName").json()[0]
    assert named["00100010"]["Value"] == [{"Alphabetic": "Pháñtom^Ä"}]


def test_a_sequence_is_searched_by_its_path_and_included_by_it(door):
    path = f"/studies/{CHEST}/series?RequestAttributesSequence.ScheduledProcedureStepID=s1"
    (series,) = get(door, path).json()
    assert series["0020000E"]["Value"] == ["2.25.311"]
    assert series["00400275"]["Value"][0]["00401001"]["Value"] == ["R<1>"]
    path += "&RequestAttributesSequence.RequestedProcedureID=other"
    assert found(door, path) == []


def test_names_of_the_path_are_no_patterns_and_no_lists(door):
    answer = get(door, f"/studies/{CHEST},{BRAIN}/series")
    assert (answer.status_code, answer.json()) == (200, [])


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ("StudyDate=yesterday", "'yesterday' is neither a DA value nor a range of two"),
        ("StudyDate=2026-01-01", "'2026-01-01' is neither a DA value nor a range of two"),
        ("StudyInstanceUID=1.2.*", "StudyInstanceUID has '1.2.*', and wildcards are not for UIDs"),
        ("SliceLocation=3", "SliceLocation cannot be searched for at the level of study; leave it out"),
        ("ProcedureCodeSequence=3", "ProcedureCodeSequence is a sequence; say which attribute of its items"),
        ("Pateint=x", "'Pateint' is neither a DICOM keyword nor an 8-digit tag"),
        ("limit=-1", "limit='-1' is no number"),
        ("offset=%C2%B2", "offset='²' is no number"),
        ("limit=" + "9" * 30, "limit='999999999999999999999999999999' is no number"),
        ("fuzzymatching=perhaps", "fuzzymatching='perhaps' is neither true nor false"),
        ("includefield=Nonsense", "'Nonsense' is neither a DICOM keyword nor an 8-digit tag"),
        pytest.param("PatientID=" + "1%5C" * 1000, "1001 values are more than the 400", id="many values"),
        pytest.param("&".join(["PatientID=1"] * 1000), "1000 keys are more than the 400", id="many keys"),
        pytest.param(".".join(["00081140"] * 1000) + "=1", "'00081140.00081140.", id="many levels"),
    ],
)
def test_a_query_that_cannot_be_answered_is_400_and_a_sentence(door, parameters, sentence):
    answer = get(door, f"/studies?{parameters}")
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")
    assert answer.json()["detail"].startswith(sentence)


@pytest.mark.parametrize(
    ("name", "literally", "fuzzily"),
    [
        ("Pháñtom", [], [CHEST]),
        ("pháñ", [], [CHEST]),
        ("ä, PHÁÑTOM", [], [CHEST]),
        ("Pháñtom^Ä", [CHEST], [CHEST]),
        ("Pháñtom^B", [], []),
        ("ñtom", [], []),
        ("ph*", [CHEST], [CHEST]),
        ("*ñtom*", [CHEST], [CHEST]),
        ("ñtom*", [], []),
        ("a^b\\pháñtom^ä", [BRAIN, CHEST], [BRAIN, CHEST]),
        ("Nobody", [], []),
        ("^", [], []),
    ],
)
def test_fuzzy_matching_takes_each_word_for_the_beginning_of_one_in_the_name(door, name, literally, fuzzily):
    for fuzzy, expected in (("false", literally), ("true", fuzzily), ("TRUE", fuzzily)):
        answer = door.http.get(f"{door.url}/studies", params={"PatientName": name, "fuzzymatching": fuzzy})
        assert [one["0020000D"]["Value"][0] for one in answer.json()] == expected
        assert "warning" not in answer.headers


def test_fuzzy_matching_is_for_names_alone_those_of_items_among_them(door):
    assert found(door, "/studies?fuzzymatching=true&PatientID=P", "0020000D") == []
    path = f"/studies/{CHEST}/series?fuzzymatching=true&RequestAttributesSequence"
    assert found(door, f"{path}.ScheduledProcedureStepID=S", "0020000E") == []
    assert found(door, f"{path}.RequestingPhysician=ada", "0020000E") == ["2.25.311"]
    assert found(door, f"{path}.RequestingPhysician=ada bob", "0020000E") == []


def test_more_than_the_maximum_is_413_and_with_a_limit_a_warning(door, monkeypatch):
    monkeypatch.setattr(qido, "MAXIMUM_RESULTS", 5)
    answer = get(door, "/instances")
    assert answer.status_code == 413
    assert answer.json()["detail"] == "more than 5 instance results; narrow the search, or give limit and offset"
    answer = get(door, "/instances?limit=100&offset=2")
    assert (answer.status_code, len(answer.json())) == (200, 5)
    assert answer.headers["warning"] == f'299 {door.url}: "There are 7 additional results that can be requested"'
    assert "warning" not in get(door, "/instances?limit=5").headers


def test_json_is_compressed_for_who_takes_it(door):
    plain = get(door, f"/studies/{CHEST}/instances")
    packed = get(door, f"/studies/{CHEST}/instances", **{"Accept-Encoding": "br, gzip;q=0.5"})
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert int(packed.headers["content-length"]) < len(plain.content) / 4
    assert packed.json() == plain.json()
    refused = get(door, f"/studies/{CHEST}/instances", **{"Accept-Encoding": "gzip;q=0"})
    assert "content-encoding" not in refused.headers


def test_answers_come_as_xml_one_part_each(door):
    answer = get(door, f"/studies/{CHEST}/series", XML)
    assert answer.status_code == 200
    message = message_from_bytes(
        b"Content-Type: " + answer.headers["content-type"].encode() + b"\r\n\r\n" + answer.content
    )
    parts = [part for part in message.walk() if not part.is_multipart()]
    assert {part.get_content_type() for part in parts} == {"application/dicom+xml"}
    first, second = (ElementTree.fromstring(part.get_payload(decode=True)) for part in parts)
    space = {"n": "http://dicom.nema.org/PS3.19/models/NativeDICOM"}
    assert first.find("n:DicomAttribute[@keyword='SeriesInstanceUID']/n:Value", space).text == "2.25.311"
    assert first.find(".//n:Item/n:DicomAttribute[@keyword='RequestedProcedureID']/n:Value", space).text == "R<1>"
    assert second.find("n:DicomAttribute[@tag='00080060']/n:Value", space).text == "PT"


def test_nothing_found_is_an_empty_list_and_in_xml_no_content(door):
    assert get(door, "/studies?PatientID=nobody").json() == []
    answer = get(door, "/studies?PatientID=nobody", XML)
    assert (answer.status_code, answer.content) == (204, b"")


def test_another_media_type_is_406(door):
    answer = get(door, "/studies", "image/png")
    assert (answer.status_code, answer.json()["detail"]) == (
        406,
        'a search is answered as application/dicom+json or multipart/related; type="application/dicom+xml"',
    )


def test_an_index_that_cannot_be_read_is_503_and_a_sentence(door, monkeypatch):
    def locked(*_args):
        raise OperationalError("SELECT", {}, sqlite3.OperationalError("database is locked"))

    monkeypatch.setattr(qido.query, "find", locked)
    answer = get(door, "/studies")
    assert answer.status_code == 503
    assert answer.json()["detail"].startswith("the index cannot be read now")


def test_dicomweb_client_searches_every_level(door):
    client = DICOMwebClient(door.url)
    studies = client.search_for_studies(
        search_filters={"PatientName": "*ph\u00e1\u00f1tom*"}, fields=["StudyDescription"]
    )
    assert [study["00081030"]["Value"] for study in studies] == [["Chest"]]
    assert len(client.search_for_series(CHEST)) == 2
    assert len(client.search_for_instances(CHEST, "2.25.311", limit=5)) == 5
    assert len(client.search_for_instances()) == 14


def test_as_many_values_as_are_allowed_are_searched(door):
    assert found(door, "/studies?PatientName=" + "%5C".join(["Z*=Z"] * 400)) == []
    assert found(door, "/studies?" + "&".join(["OtherPatientIDs=Z"] * 400)) == []
