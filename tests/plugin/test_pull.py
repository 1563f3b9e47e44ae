"""Lists compared, what is missing fetched, and the truth about what has not come."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest
from archives import archive, give
from dicom_objects import file_of, slice_of
from picture_archive import PATIENT_ROOT, STUDY_ROOT, PictureArchive, study
from pydicom import Dataset

from dicom_io.errors import Rejected, TryAgain
from plugin.archive.ingest import Ingest
from plugin.destinations import Parcel
from plugin.dimse.client import find, retrieve
from plugin.dimse.client.association import Peer, PeerUnreachable
from plugin.dimse.client.find import CannotAsk, Listed
from plugin.dimse.client.retrieve import Request
from plugin.pull import DimseSource, How, Pulled, WebSource, pull

STUDY = "2.25.77"


@pytest.fixture
def ingest(tmp_path: Path) -> Ingest:
    return archive(tmp_path)


def fetched(pacs: PictureArchive, ingest: Ingest, how: How = "get", patient_id: str = "") -> Pulled:
    return pull(DimseSource(pacs.peer, ingest, how, patient_id=patient_id, retrieve_timeout_s=5), ingest, STUDY)


def uids(objects: Sequence[Dataset]) -> set[str]:
    return {each.SOPInstanceUID for each in objects}


def held(ingest: Ingest) -> set[str]:
    return {row.sop_instance_uid for row in ingest.index.instances(STUDY)}


# The list


def test_a_list_goes_series_by_series_and_names_classes() -> None:
    objects = [*study(2), *study(3, series="2.25.80")[2:]]
    with PictureArchive(objects) as pacs:
        listed = find.instances(pacs.peer, STUDY)
    assert set(listed) == {Listed(each.SeriesInstanceUID, each.SOPInstanceUID, each.SOPClassUID) for each in objects}
    assert pacs.asked == ["find SERIES", "find IMAGE", "find IMAGE"]


def test_a_peer_without_study_root_is_asked_in_patient_root(ingest: Ingest) -> None:
    with PictureArchive(study(3), offers=PATIENT_ROOT) as pacs:
        assert fetched(pacs, ingest).is_complete
        assert pacs.asked[0] == "find STUDY", "for the Patient ID"


def test_a_person_finds_a_study_by_patient_and_accession_number() -> None:
    with PictureArchive(study(2, AccessionNumber="Ä7")) as pacs:
        (found,) = find.studies(pacs.peer, {"PatientID": "P1", "AccessionNumber": "Ä7"})
        assert find.studies(pacs.peer, {"PatientID": "P2"}) == []
    assert (found.study_instance_uid, found.patient_id, found.description) == (STUDY, "P1", "Chest")
    assert found.patient_name == "Pháñtom^Ä"


def test_whether_a_peer_has_objects_is_asked_singly_where_it_knows_no_lists() -> None:
    objects = study(3)
    wanted = [
        Parcel(each.SOPInstanceUID, each.SOPClassUID, each.SeriesInstanceUID, STUDY, "1.2.840.10008.1.2.1", Path("x"))
        for each in [*objects, slice_of("2.25.5", study=STUDY, series=objects[0].SeriesInstanceUID)]
    ]
    for knows_lists, questions in ((True, 2), (False, 5)):
        with PictureArchive(objects, knows_lists=knows_lists) as pacs:
            assert find.has(pacs.peer, wanted) == [True, True, True, False]
            assert len(pacs.asked) == questions


def test_a_peer_that_cannot_be_asked_and_one_that_is_away_are_told_apart() -> None:
    with PictureArchive(study(1), offers=()) as pacs, pytest.raises(CannotAsk, match="offers no C-FIND"):
        find.instances(pacs.peer, STUDY)
    with PictureArchive(study(1), find_status=0xA900) as pacs, pytest.raises(CannotAsk, match="0xA900"):
        find.instances(pacs.peer, STUDY)
    with PictureArchive(study(1), find_status=0xA700) as pacs, pytest.raises(PeerUnreachable, match="0xA700"):
        find.instances(pacs.peer, STUDY)
    with PictureArchive(study(1), hangs_at="find") as pacs, pytest.raises(PeerUnreachable, match="does not answer"):
        find.instances(pacs.peer, STUDY, 0.5)
    with pytest.raises(PeerUnreachable, match="does not answer"):
        find.instances(Peer("PACS", "127.0.0.1", 1), STUDY, 0.5)


def test_what_is_no_uid_is_not_asked_for() -> None:
    with pytest.raises(Rejected, match=r"'\*' is no UID"):
        find.instances(Peer("PACS", "127.0.0.1", 1), "*")


# C-GET


def test_a_study_comes_whole_byte_for_byte_by_the_door_pull(ingest: Ingest) -> None:
    objects = study(5)
    with PictureArchive(objects) as pacs:
        pulled = fetched(pacs, ingest)
    assert (pulled.is_complete, pulled.listed, pulled.fetched, pulled.sentences) == (True, 5, 5, ())
    assert [each for each in pacs.asked if each.startswith("get")] == ["get STUDY"]
    rows = ingest.index.instances(STUDY)
    assert {(row.door, row.calling_aet, row.called_aet, row.address) for row in rows} == {
        ("pull", "PACS", "MIRALL", "127.0.0.1")
    }
    for row, each in zip(sorted(rows, key=lambda row: row.sop_instance_uid), objects, strict=True):
        meta_end = file_of(each).index(b"\x08\x00\x05\x00CS")
        assert row.path.read_bytes().endswith(file_of(each)[meta_end:])


def test_only_what_is_missing_is_fetched(ingest: Ingest) -> None:
    objects = study(6)
    for each in objects[:4]:
        give(ingest, each)
    with PictureArchive(objects) as pacs:
        pulled = fetched(pacs, ingest)
    assert (pulled.is_complete, pulled.fetched) == (True, 2)
    assert [each for each in pacs.asked if each.startswith("get")] == ["get IMAGE 2"]
    assert {row.sop_instance_uid for row in ingest.index.instances(STUDY) if row.door == "pull"} == uids(objects[4:])


def test_a_peer_that_claims_success_and_sends_less_is_asked_otherwise_and_then_told_of(ingest: Ingest) -> None:
    objects = study(5)
    with PictureArchive(objects, withheld={objects[3].SOPInstanceUID}) as pacs:
        pulled = fetched(pacs, ingest)
    assert not pulled.is_complete
    assert pulled.missing == (objects[3].SOPInstanceUID,)
    assert pulled.fetched == 4
    assert "1 of 5 instances are still missing, 4 were fetched" in pulled.sentence
    assert [each for each in pacs.asked if each.startswith("get")] == ["get STUDY", "get IMAGE 1", "get IMAGE 1"]


def test_what_the_archive_refuses_is_missing_with_its_reason_and_not_fetched_again(ingest: Ingest) -> None:
    objects = study(3)
    objects[1].PatientID = "P2"
    with PictureArchive(objects) as pacs:
        pulled = fetched(pacs, ingest)
    assert set(pulled.refused) == set(pulled.missing) != set()
    assert "refused; see `mirall quarantine list`" in pulled.sentence
    assert [each for each in pacs.asked if each.startswith("get")] == ["get STUDY"]


def test_objects_come_from_a_peer_that_names_no_sop_class(ingest: Ingest) -> None:
    with PictureArchive(study(3), names_classes=False) as pacs:
        assert fetched(pacs, ingest).is_complete


def test_a_sop_class_that_is_no_uid_counts_as_not_named(ingest: Ingest) -> None:
    (odd,) = study(1)
    odd.SOPClassUID = "1." * 40 + "1"
    with PictureArchive([odd]) as pacs:
        assert [each.sop_class_uid for each in find.instances(pacs.peer, STUDY)] == [""]
        assert not fetched(pacs, ingest).is_complete


def test_more_sop_classes_than_contexts_take_several_associations() -> None:
    requests = [Request("IMAGE", STUDY, (f"1.2.{number}",), "1.3", ("1.4",)) for number in range(8)]
    sizes = [len(classes) for classes, _ in retrieve._batches(requests)]
    assert sum(sizes) == 8
    assert all(size * len(retrieve._STORED_IN) + 2 <= 128 for size in sizes)


def test_a_cancelled_retrieval_tells_the_peer_and_says_what_is_left(ingest: Ingest) -> None:
    with PictureArchive(study(4), hangs_at="get") as pacs:
        stop = threading.Event()
        threading.Timer(0.5, stop.set).start()
        pulled = pull(DimseSource(pacs.peer, ingest, "get", stop=stop), ingest, STUDY, stop=stop)
        assert pacs.cancelled.wait(5), "by C-CANCEL"
    assert len(pulled.missing) == 4
    assert "was cancelled" in pulled.sentence


def test_a_peer_that_falls_silent_ends_the_attempt(ingest: Ingest) -> None:
    with PictureArchive(study(2), hangs_at="get") as pacs:
        begun = time.monotonic()
        pulled = pull(DimseSource(pacs.peer, ingest, "get", retrieve_timeout_s=0.5), ingest, STUDY)
        assert time.monotonic() - begun < 8
    assert "fell silent" in pulled.sentence
    assert len(pulled.missing) == 2


# C-MOVE


def test_without_c_get_objects_are_moved_to_our_own_title_and_nothing_is_believed(ingest: Ingest) -> None:
    with PictureArchive(study(2), offers=(STUDY_ROOT[0], STUDY_ROOT[2])) as pacs:
        pulled = fetched(pacs, ingest, "auto")
    assert set(pacs.moved_to) == {"MIRALL"}
    assert len(pulled.missing) == 2
    assert "0xA801" in pulled.sentence
    assert "make AE title MIRALL known to it" in pulled.sentence


def test_a_peer_that_does_not_send_in_the_way_asked_for_is_named(ingest: Ingest) -> None:
    with PictureArchive(study(2), offers=STUDY_ROOT[:1]) as pacs:
        assert "offers no C-GET" in fetched(pacs, ingest, "get").sentence
        assert "offers no C-MOVE" in fetched(pacs, ingest, "auto").sentence


# DICOMweb


class WebServer:
    """QIDO-RS in pages of `page`, WADO-RS of series and instances. withheld: SOP Instance UIDs not in a series."""

    def __init__(self, objects: Sequence[Dataset], page: int = 2, withheld: frozenset[str] = frozenset()) -> None:
        self.objects, self.page, self.withheld = objects, page, withheld
        self.asked: list[str] = []
        self.cut = False

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/dicom-web/")
        self.asked.append(path)
        if path == f"studies/{STUDY}/instances":
            start = int(request.url.params["offset"])
            listed = [
                {tag: {"vr": "UI", "Value": [each[key].value]} for tag, key in (
                    ("00080016", "SOPClassUID"), ("00080018", "SOPInstanceUID"), ("0020000E", "SeriesInstanceUID"))}
                for each in self.objects[start : start + self.page]
            ]  # fmt: skip
            return httpx.Response(200, json=listed) if listed else httpx.Response(204)
        *_, kind, uid = path.split("/")
        wanted = [
            each
            for each in self.objects
            if (kind == "series" and each.SOPInstanceUID not in self.withheld) or each.SOPInstanceUID == uid
        ]
        assert request.headers["Accept"].endswith("transfer-syntax=*")
        body = b"".join(b"--b\r\nContent-Type: application/dicom\r\n\r\n" + file_of(each) + b"\r\n" for each in wanted)
        body += b"--b--\r\n"
        head = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=b'}
        return httpx.Response(200, content=body[: len(body) // 2] if self.cut else body, headers=head)


def web(server: WebServer, ingest: Ingest) -> WebSource:
    return WebSource("http://pacs/dicom-web", ingest, transport=httpx.MockTransport(server))


def test_a_series_comes_from_a_web_server_with_the_bytes_that_it_has(ingest: Ingest) -> None:
    objects = study(5)
    server = WebServer(objects)
    pulled = pull(web(server, ingest), ingest, STUDY)
    assert (pulled.is_complete, pulled.fetched) == (True, 5)
    assert len([path for path in server.asked if "series" in path]) == 1
    for row in ingest.index.instances(STUDY):
        assert row.path.read_bytes() in {file_of(each) for each in objects}
        assert (row.door, row.address) == ("pull", "pacs")


def test_what_a_web_server_left_out_of_a_series_is_fetched_by_itself(ingest: Ingest) -> None:
    objects = study(4)
    server = WebServer(objects, withheld=frozenset({objects[2].SOPInstanceUID}))
    assert pull(web(server, ingest), ingest, STUDY).is_complete
    assert [path.split("/")[-1] for path in server.asked if "/instances/" in path] == [objects[2].SOPInstanceUID]


def test_an_answer_that_breaks_off_leaves_nothing_half(ingest: Ingest, tmp_path: Path) -> None:
    server = WebServer(study(2))
    server.cut = True
    pulled = pull(web(server, ingest), ingest, STUDY)
    assert not pulled.is_complete
    assert "ends before its closing boundary" in pulled.sentence
    assert list((tmp_path / "archive" / "incoming").iterdir()) == []


def test_a_web_server_that_is_away_or_forbids_is_told_apart(ingest: Ingest) -> None:
    def answering(status: int) -> WebSource:
        return WebSource("http://pacs", ingest, transport=httpx.MockTransport(lambda request: httpx.Response(status)))

    with pytest.raises(TryAgain, match="HTTP 503"):
        pull(answering(503), ingest, STUDY)
    with pytest.raises(CannotAsk, match="HTTP 401 and no list; check url and token"):
        pull(answering(401), ingest, STUDY)
    with pytest.raises(CannotAsk, match="lists nothing"):
        pull(answering(204), ingest, STUDY)


def test_what_is_not_wanted_does_not_come_with_the_rest(ingest: Ingest) -> None:
    objects = study(3)
    with PictureArchive(objects) as pacs:
        source = DimseSource(pacs.peer, ingest, "get")
        assert pull(source, ingest, STUDY, without={objects[0].SOPInstanceUID}).is_complete
    assert held(ingest) == uids(objects[1:])
