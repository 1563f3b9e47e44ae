"""The query language: what matches, what comes back."""

from __future__ import annotations

import pytest
from archives import archive, give
from dicom_objects import slice_of

from plugin.archive.query import BadQuery, parse, run

CHEST, BRAIN, OLD = "2.25.31", "2.25.32", "2.25.33"


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    ingest = archive(tmp_path_factory.mktemp("query"))
    give(ingest, slice_of("1.1", study=CHEST, series="2.25.311"))
    give(ingest, slice_of("1.2", study=CHEST, series="2.25.311", value=2, InstanceNumber=2))
    give(ingest, slice_of("1.3", study=CHEST, series="2.25.312", Modality="PT", SeriesNumber=10))
    brain = {"PatientName": "Öztürk^Ali", "StudyDate": "20260210", "StudyDescription": "Brain 100%", "patient": "P2"}
    give(ingest, slice_of("1.4", study=BRAIN, series="2.25.321", Modality="MR", AccessionNumber="A_8", **brain))
    japanese = "Yamada^Tarou=山田^太郎=やまだ^たろう"
    give(
        ingest, slice_of("1.5", study=OLD, series="2.25.331", patient="P3", PatientName=japanese, StudyDate="19991231")
    )
    yield ingest.index
    ingest.index.close()


def found(index, level, *parameters, within=None):
    key = {"study": "0020000D", "series": "0020000E", "instance": "00080018"}[level]
    return [answer[key]["Value"][0] for answer in run(index, parse(level, parameters, within))]


@pytest.mark.parametrize(
    ("parameter", "expected"),
    [
        (("PatientName", "*pháñtom*"), [CHEST]),
        (("PatientName", "*PHÁÑTOM*"), [CHEST]),
        (("PatientName", "öztürk^ali"), [BRAIN]),
        (("PatientName", "?ztürk^*"), [BRAIN]),
        (("PatientName", "山田*"), [OLD]),
        (("PatientName", "o\u0308ztu\u0308rk^ali"), [BRAIN]),
        (("PatientName", "öztürk"), []),
        (("00100020", "P2"), [BRAIN]),
        (("PatientID", "P"), []),
        (("StudyDescription", "*100%*"), [BRAIN]),
        (("StudyDescription", "*1%*"), []),
        (("AccessionNumber", "A_8"), [BRAIN]),
        (("AccessionNumber", "A?"), [CHEST, OLD]),
        (("AccessionNumber", "*_*"), [BRAIN]),
        (("StudyDate", "20260101-20260201"), [CHEST]),
        (("StudyDate", "20260115-20260115"), [CHEST]),
        (("StudyDate", "-20260101"), [OLD]),
        (("StudyDate", "20260116-"), [BRAIN]),
        (("StudyDate", "20260115"), [CHEST]),
        (("StudyTime", "10-11"), [BRAIN, CHEST, OLD]),
        (("StudyTime", "1012-"), []),
        (("ModalitiesInStudy", "PT"), [CHEST]),
        (("ModalitiesInStudy", "PT,MR"), [BRAIN, CHEST]),
        (("ModalitiesInStudy", "M*"), [BRAIN]),
        (("StudyInstanceUID", f"{CHEST},{OLD}"), [CHEST, OLD]),
        (("StudyInstanceUID", f"{CHEST}\\{OLD}"), [CHEST, OLD]),
        (("SOPInstanceUID", "1.4"), [BRAIN]),
        (("SeriesInstanceUID", "2.25.312"), [CHEST]),
        (("PatientName", ""), [BRAIN, CHEST, OLD]),
        (("fuzzymatching", "true"), [BRAIN, CHEST, OLD]),
    ],
)
def test_studies_match(index, parameter, expected):
    assert found(index, "study", parameter) == expected


def test_all_conditions_must_hold(index):
    assert found(index, "study", ("ModalitiesInStudy", "CT"), ("StudyDate", "2026-")) == [CHEST]


def test_an_underscore_and_a_percent_sign_stand_for_themselves(index):
    assert found(index, "study", ("AccessionNumber", "A_?")) == [BRAIN]


def test_limit_and_offset_walk_through_the_newest_first(index):
    assert found(index, "study", ("limit", "2")) == [BRAIN, CHEST]
    assert found(index, "study", ("limit", "2"), ("offset", "2")) == [OLD]


def test_counts_are_computed(index):
    (chest,) = run(index, parse("study", [("StudyInstanceUID", CHEST)]))
    assert chest["00080061"]["Value"] == ["CT", "PT"]
    assert chest["00201206"]["Value"] == [2]
    assert chest["00201208"]["Value"] == [3]
    (first, second) = run(index, parse("series", [], {"0020000D": CHEST}))
    assert (first["00201209"]["Value"], second["00201209"]["Value"]) == ([2], [1])


def test_series_come_in_order_of_their_number(index):
    assert found(index, "series", within={"0020000D": CHEST}) == ["2.25.311", "2.25.312"]


def test_instances_come_in_order_of_their_number(index):
    assert found(index, "instance", within={"0020000D": CHEST, "0020000E": "2.25.311"}) == ["1.1", "1.2"]


def test_series_and_instances_are_found_without_a_study(index):
    assert found(index, "series", ("Modality", "PT")) == ["2.25.312"]
    assert found(index, "instance", ("Modality", "MR"), ("PatientID", "P2")) == ["1.4"]


@pytest.mark.parametrize(
    "parameters",
    [
        [("includefield", "StudyDescription,00080080"), ("includefield", "PatientComments")],
        [("includefield", "all")],
    ],
)
def test_fields_are_included_by_comma_by_repetition_or_all(tmp_path, parameters):
    ingest = archive(tmp_path)
    give(ingest, slice_of("1.1", InstitutionName="Haus Ä", PatientComments="none"))
    (answer,) = run(ingest.index, parse("study", parameters))
    assert answer["00080080"]["Value"] == ["Haus Ä"]
    assert answer["00104000"]["Value"] == ["none"]
    ingest.index.close()


def test_numbers_are_numbers_and_names_are_objects(index):
    (answer,) = run(index, parse("instance", [("SOPInstanceUID", "1.2"), ("includefield", "all")]))
    assert answer["00200013"]["Value"] == [2]
    assert answer["00280010"]["Value"] == [5]
    assert answer["00100010"]["Value"] == [{"Alphabetic": "Pháñtom^Ä"}]


def test_an_unknown_attribute_is_named():
    with pytest.raises(BadQuery, match="'Pateint' is neither a DICOM keyword nor an 8-digit tag"):
        parse("study", [("Pateint", "x")])


def test_an_attribute_of_a_lower_level_is_refused_by_name(index):
    with pytest.raises(BadQuery, match="SliceLocation cannot be searched for at the level of study"):
        run(index, parse("study", [("SliceLocation", "3")]))


def test_a_limit_must_be_a_number():
    with pytest.raises(BadQuery, match="limit='many' is no number"):
        parse("study", [("limit", "many")])
