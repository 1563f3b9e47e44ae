"""What routes pick and why not."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from pydicom.datadict import dictionary_VR, tag_for_keyword

from plugin.routes import Candidate, judge, unusable
from plugin.settings import Route


def candidate(
    series: str = "1.1", number: int = 1, *, at: str = "10:00", made_by_us: bool = False, **facts: Any
) -> Candidate:
    arrival = {"door": "dimse", "calling_aet": "ORTHANC", "called_aet": "MIRALL", "address": "10.0.0.7"}
    arrival |= {name: facts.pop(name) for name in arrival if name in facts}
    attributes = {
        f"{tag_for_keyword(keyword):08X}": {
            "vr": dictionary_VR(keyword),
            "Value": value if isinstance(value, list) else [value],
        }
        for keyword, value in ({"Modality": "MR"} | facts).items()
    }
    moment = datetime.fromisoformat(f"2026-01-02T{at}").timestamp()
    return Candidate(
        f"{series}.{number}", series, "hash", attributes, arrived_at=moment, made_by_us=made_by_us, **arrival
    )


def route(allow_results: bool = False, **match: Any) -> Route:
    return Route(name="r", match=match, allow_results=allow_results)


def test_a_route_without_conditions_picks_every_series_of_others() -> None:
    verdict = judge(route(), [candidate("1.1"), candidate("1.2", Modality="CT"), candidate("1.3", made_by_us=True)])
    assert {each.series_instance_uid for each in verdict.picked} == {"1.1", "1.2"}


@pytest.mark.parametrize(
    ("match", "facts", "picks"),
    [
        ({"Modality": "MR"}, {}, True),
        ({"Modality": "mr"}, {}, True),
        ({"Modality": "CT"}, {}, False),
        ({"Modality": ("CT", "MR")}, {}, True),
        ({"SeriesDescription": "*flair*"}, {"SeriesDescription": "AX FLAIR 3D"}, True),
        ({"SeriesDescription": "T?"}, {"SeriesDescription": "T1 post"}, False),
        ({"SeriesDescription": "PET [WB]"}, {"SeriesDescription": "PET [WB]"}, True),
        ({"SeriesDescription": "PET [WB]"}, {"SeriesDescription": "PET W"}, False),
        ({"ImageType": "PRIMARY"}, {"ImageType": ["ORIGINAL", "PRIMARY"]}, True),
        ({"PatientName": "phantom*"}, {"PatientName": {"Alphabetic": "Phantom^One"}}, True),
        ({"calling_aet": "ORTHANC"}, {}, True),
        ({"called_aet": "OTHER"}, {}, False),
        ({"address": "10.0.0.*"}, {}, True),
        ({"door": "stow"}, {}, False),
        ({"time": "09:00-10:01"}, {}, True),
        ({"time": "22:00-06:00"}, {"at": "23:59"}, True),
        ({"time": "22:00-06:00"}, {"at": "05:59"}, True),
        ({"time": "22:00-06:00"}, {"at": "06:00"}, False),
        ({"Modality": "MR", "door": "stow"}, {}, False),
    ],
)
def test_conditions_on_attributes_arrival_and_time(match: dict[str, Any], facts: dict[str, Any], picks: bool) -> None:
    assert judge(route(**match), [candidate(**facts)]).matches is picks


def test_a_series_is_picked_whole_when_one_instance_meets_the_conditions() -> None:
    study = [
        candidate("1.1", 1, calling_aet="A"),
        candidate("1.1", 2, calling_aet="B"),
        candidate("1.2", calling_aet="B"),
    ]
    picked = judge(route(calling_aet="A"), study).picked
    assert [each.sop_instance_uid for each in picked] == ["1.1.1", "1.1.2"]


def test_our_own_results_match_only_a_route_that_names_them() -> None:
    ours = [candidate(made_by_us=True)]
    assert "allow_results" in judge(route(), ours).why
    assert judge(route(allow_results=True), ours).matches


def test_the_reason_names_the_attribute_and_what_was_seen() -> None:
    assert (
        judge(route(Modality="PT"), [candidate(), candidate("1.2", Modality="CT")]).why == "Modality is CT, MR, not PT"
    )
    assert judge(route(BodyPartExamined="BREAST"), [candidate()]).why == "BodyPartExamined is absent, not BREAST"
    two = [candidate("1.1", Modality="PT"), candidate("1.2", door="stow")]
    assert "at once" in judge(route(Modality="PT", door="stow"), two).why


def test_the_reason_never_repeats_a_patient_attribute() -> None:
    why = judge(route(PatientID="X"), [candidate(PatientID="12345")]).why
    assert "12345" not in why
    assert "PatientID" in why


def test_a_misspelt_key_picks_nothing_and_says_so() -> None:
    assert not judge(route(Modlity="MR"), [candidate()]).matches
    assert "'Modlity' is neither a DICOM keyword" in unusable(route(Modlity="MR"))[0][1]
    assert "HH:MM-HH:MM" in unusable(route(time="25:00-26:00"))[0][1]
