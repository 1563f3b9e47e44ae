"""The web door: storing, searching, retrieving, and the rules that viewers turned out to need."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from email import message_from_bytes
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import pytest
import uvicorn
from archives import archive, bytes_of, generated, give
from dicom_objects import SERIES, STUDY, file_of, slice_of
from dicomweb_client.api import DICOMwebClient
from pydicom import Dataset, dcmread
from pydicom.encaps import get_frame
from pydicom.uid import JPEGLSLossless, RLELossless

import plugin.dicomweb
from dicom_io.provenance import name_based_uid
from plugin.archive.arrival import Arrival
from plugin.archive.ingest import Ingest
from plugin.dicomweb.app import create
from plugin.settings import Node, Settings

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
JLS = str(JPEGLSLossless)


@dataclass
class Door:
    """A running web door over one archive."""

    ingest: Ingest
    url: str
    http: httpx.Client

    def get(self, path: str, accept: str | None = None, **kwargs) -> httpx.Response:
        headers = {} if accept is None else {"Accept": accept}
        request = self.http.build_request("GET", f"{self.url}/dicom-web{path}", headers=headers, **kwargs)
        if accept is None:
            del request.headers["accept"]  # httpx adds */* by itself
        return self.http.send(request)

    def store(self, *files: bytes, path: str = "/studies", boundary: str = '"x y"', **headers: str) -> httpx.Response:
        mark = boundary.strip('"')
        body = b"".join(
            f"--{mark}\r\nContent-Type: application/dicom\r\n\r\n".encode() + raw + b"\r\n" for raw in files
        )
        kind = f'multipart/related; type="application/dicom"; boundary={boundary}'
        return self.http.post(
            f"{self.url}/dicom-web{path}",
            content=body + f"--{mark}--".encode(),
            headers={"Content-Type": kind, "Accept": "application/dicom+json"} | headers,
        )


def opened(ingest: Ingest, settings: Settings) -> Iterator[Door]:
    config = uvicorn.Config(create(settings, ingest), host="127.0.0.1", port=0, log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    with httpx.Client(trust_env=False, timeout=20) as http:
        yield Door(ingest, f"http://127.0.0.1:{port}", http)
    server.should_exit = True
    thread.join(10)
    ingest.index.close()


@pytest.fixture
def door(tmp_path) -> Iterator[Door]:
    yield from opened(archive(tmp_path), Settings(node=Node(data=tmp_path)))


def at(uid: str, study: str = STUDY, series: str = SERIES) -> str:
    return f"/studies/{study}/series/{series}/instances/{uid}"


def parts(response: httpx.Response) -> list[tuple[str, bytes]]:
    """(Content-Type, body) of each part, by an independent parser."""
    head = f"Content-Type: {response.headers['content-type']}\r\n\r\n".encode()
    message = message_from_bytes(head + response.content)
    assert message.is_multipart()
    return [(part["Content-Type"], part.get_payload(decode=True)) for part in message.get_payload()]


def problem(response: httpx.Response) -> tuple[int, str]:
    assert response.headers["content-type"] == "application/problem+json"
    return response.status_code, response.json()["detail"]


# STOW-RS


@pytest.mark.parametrize("boundary", ['"x y"', "plain-1"])
def test_what_is_stored_is_kept_and_given_back_byte_for_byte(door, boundary):
    raw = file_of(slice_of("1.2.3"))
    stored = door.store(raw, boundary=boundary)
    assert stored.status_code == 200
    assert stored.json()["00081199"]["Value"][0]["00081155"]["Value"] == ["1.2.3"]
    ((kind, body),) = parts(door.get(at("1.2.3"), 'multipart/related; type="application/dicom"'))
    assert body == raw
    assert kind == "application/dicom; transfer-syntax=1.2.840.10008.1.2.1"


def test_a_chunked_body_is_stored(door):
    """As Orthanc sends it: without Content-Length."""
    raw = file_of(slice_of("1.2.3"))
    body = b"--q\r\nContent-Type: application/dicom\r\n\r\n" + raw + b"\r\n--q--\r\n"
    blocks = (body[start : start + 100] for start in range(0, len(body), 100))
    kind = "multipart/related; type=application/dicom; boundary=q"
    answer = door.http.post(f"{door.url}/dicom-web/studies", content=blocks, headers={"Content-Type": kind})
    assert answer.status_code == 200
    assert door.ingest.index.instance("1.2.3").path.read_bytes() == raw


def test_one_object_may_come_alone(door):
    raw = file_of(slice_of("1.2.3"))
    answer = door.http.post(f"{door.url}/dicom-web/studies", content=raw, headers={"Content-Type": "application/dicom"})
    assert answer.status_code == 200
    assert door.ingest.index.instance("1.2.3").path.read_bytes() == raw


def test_what_fails_is_told_apart_from_what_does_not(door):
    answer = door.store(file_of(slice_of("1.2.3")), file_of(slice_of("1.2.4", PixelData=b"\0" * 24)), b"a letter")
    assert answer.status_code == 202
    document = answer.json()
    assert [item["00081155"]["Value"] for item in document["00081199"]["Value"]] == [["1.2.3"]]
    (named,) = document["00081198"]["Value"]
    assert (named["00081155"]["Value"], named["00081197"]["Value"]) == (["1.2.4"], [0xC000])
    (nameless,) = document["0008119A"]["Value"]
    assert nameless["00081197"]["Value"] == [0xC000]
    warnings = answer.headers.get_list("warning")
    assert warnings[0].startswith('299 mirall "PixelData (7FE0,0010) has 24 bytes, but 1 frame(s) of 5 x 3')
    assert len(door.ingest.quarantine.list()) == 2


def test_nothing_stored_is_a_conflict(door):
    answer = door.store(b"a letter")
    assert answer.status_code == 409
    assert "the object is no DICOM file" in answer.headers["warning"]


def test_no_space_is_507_with_its_reason(door):
    door.ingest.storage._minimum_free_mb, door.ingest.storage._free_bytes = 256, lambda folder: 0
    answer = door.store(file_of(slice_of("1.2.3")))
    assert answer.status_code == 507
    assert answer.json()["0008119A"]["Value"][0]["00081197"]["Value"] == [0xA700]
    assert "0 MB are free and archive.minimum_free_mb is 256" in answer.headers["warning"]
    assert problem(door.http.get(f"{door.url}/health/ready"))[0] == 507
    assert list(door.ingest.storage.incoming.iterdir()) == []


def test_an_object_of_another_study_than_the_path_says_is_refused(door):
    answer = door.store(file_of(slice_of("1.2.3")), path="/studies/2.25.77")
    assert answer.status_code == 409
    assert answer.json()["00081198"]["Value"][0]["00081197"]["Value"] == [0xA900]
    assert door.store(file_of(slice_of("1.2.3")), path=f"/studies/{STUDY}").status_code == 200


@pytest.mark.parametrize(
    ("kind", "body", "status", "sentence"),
    [
        ("text/plain", b"x", 415, "text/plain cannot be stored; send multipart/related of application/dicom"),
        ("multipart/related; type=application/dicom", b"x", 400, "the Content-Type names no boundary"),
        ("multipart/related; type=application/dicom; boundary=b", b"--b\r\n\r\nhal", 400, "ends before its closing"),
        ("multipart/related; type=application/dicom; boundary=b", b"--b--", 400, "the request holds no object"),
        ("multipart/related; boundary=b", b"--b\r\nContent-Type: text/html\r\n\r\nx\r\n--b--", 415, "type text/html"),
    ],
)
def test_a_malformed_request_is_a_sentence(door, kind, body, status, sentence):
    answer = door.http.post(f"{door.url}/dicom-web/studies", content=body, headers={"Content-Type": kind})
    found, detail = problem(answer)
    assert found == status
    assert sentence in detail
    assert list(door.ingest.storage.incoming.iterdir()) == []


def test_both_doors_end_in_the_same_archive(door):
    raw = file_of(slice_of("1.2.3"))
    give(door.ingest, raw)
    assert door.store(raw).status_code == 200
    assert door.ingest.index.counts()["instances"] == 1
    assert door.ingest.index.instance("1.2.3").door == "dimse"


# QIDO-RS


def test_a_study_list_as_a_viewer_asks_for_it(door):
    door.store(file_of(slice_of("1.2.3")))
    answer = door.get(
        "/studies?limit=101&offset=0&fuzzymatching=true&includefield=00081030,00080060,00080090,00100030"
        "&PatientName=*ph%C3%A1%C3%B1tom*&ModalitiesInStudy=CT,MR&StudyDate=20260101-20260201",
        "application/dicom+json",
    )
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/dicom+json")
    (study,) = answer.json()
    assert study["00201208"]["Value"] == [1]
    assert study["00081030"]["Value"] == ["Chest"]
    assert study["00081190"]["Value"] == [f"{door.url}/dicom-web/studies/{STUDY}"]


@pytest.mark.parametrize("path", ["/studies", "/series", "/instances", f"/studies/{STUDY}/series"])
def test_an_empty_search_is_an_empty_list(door, path):
    answer = door.get(path, "application/dicom+json")
    assert (answer.status_code, answer.json()) == (200, [])


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (None, "application/dicom+json"),
        ("*/*", "application/dicom+json"),
        ("application/json", "application/json"),
        ("application/dicom+json, application/json", "application/dicom+json"),
        (
            'application/dicom+json, multipart/related; type="application/octet-stream"; transfer-syntax="*"',
            "application/dicom+json",
        ),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "application/dicom+json"),
    ],
)
def test_searches_answer_every_way_of_asking(door, accept, kind):
    answer = door.get("/studies", accept)
    assert (answer.status_code, answer.headers["content-type"]) == (200, kind)


def test_an_unknown_attribute_is_a_sentence(door):
    assert problem(door.get("/studies?Pateint=x")) == (
        400,
        "'Pateint' is neither a DICOM keyword nor an 8-digit tag; see PS3.6 for their spelling",
    )


# WADO-RS


@pytest.fixture
def compressed(door) -> tuple[Door, Dataset, np.ndarray]:
    """One instance of two frames in JPEG-LS."""
    frames = np.arange(2 * 24 * 31, dtype=np.uint16).reshape(2, 24, 31)
    plain = slice_of("1.2.3", NumberOfFrames=2, Rows=24, Columns=31, PixelData=frames.tobytes())
    dataset = dcmread(BytesIO(file_of(plain)))
    dataset.compress(JPEGLSLossless, generate_instance_uid=False)
    assert door.store(bytes_of(dataset)).status_code == 200
    return door, dataset, frames


@pytest.mark.parametrize(
    ("accept", "kind", "part_kind"),
    [
        (
            'multipart/related; type="application/octet-stream"; transfer-syntax="*"',
            "application/octet-stream",
            f"application/octet-stream; transfer-syntax={JLS}",
        ),
        (
            "multipart/related; type=application/octet-stream; transfer-syntax=*",
            "application/octet-stream",
            f"application/octet-stream; transfer-syntax={JLS}",
        ),
        ('multipart/related; type="*/*"', "image/jls", f"image/jls; transfer-syntax={JLS}"),
        (
            f'multipart/related; type="image/jls"; transfer-syntax="{JLS}"',
            "image/jls",
            f"image/jls; transfer-syntax={JLS}",
        ),
        ("*/*", "image/jls", f"image/jls; transfer-syntax={JLS}"),
        (None, "image/jls", f"image/jls; transfer-syntax={JLS}"),
        (
            'multipart/related; type="image/jp2", multipart/related; type="image/jls"; q=0.5',
            "image/jls",
            f"image/jls; transfer-syntax={JLS}",
        ),
    ],
)
def test_frames_go_out_as_stored_and_say_their_syntax(compressed, accept, kind, part_kind):
    door, _dataset, _frames = compressed
    answer = door.get(f"{at('1.2.3')}/frames/2", accept)
    assert answer.status_code == 200
    assert f'type="{kind}"' in answer.headers["content-type"]
    assert int(answer.headers["content-length"]) == len(answer.content)
    ((found, body),) = parts(answer)
    assert found == part_kind
    assert b"\r\nContent-Type: " in answer.content
    assert body.startswith(b"\xff\xd8\xff\xf7")  # JPEG-LS: SOI, SOF55
    assert body.rstrip(b"\0").endswith(b"\xff\xd9")


@pytest.mark.parametrize(
    "accept",
    [
        'multipart/related; type="application/octet-stream"',
        'multipart/related; type="application/octet-stream"; transfer-syntax=1.2.840.10008.1.2.1',
    ],
)
def test_frames_are_decoded_for_who_asks(compressed, accept):
    door, _, frames = compressed
    answer = door.get(f"{at('1.2.3')}/frames/1,2", accept)
    found = [np.frombuffer(body, "<u2").reshape(24, 31) for _, body in parts(answer)]
    np.testing.assert_array_equal(found, frames)
    assert {kind for kind, _ in parts(answer)} == {"application/octet-stream; transfer-syntax=1.2.840.10008.1.2.1"}


def test_a_single_frame_may_come_alone(compressed):
    door, _, frames = compressed
    answer = door.get(f"{at('1.2.3')}/frames/2", "application/octet-stream")
    assert answer.headers["content-type"] == "application/octet-stream; transfer-syntax=1.2.840.10008.1.2.1"
    np.testing.assert_array_equal(np.frombuffer(answer.content, "<u2").reshape(24, 31), frames[1])
    stored = door.get(f"{at('1.2.3')}/frames/2?accept=image/jls", "*/*")
    assert stored.headers["content-type"] == f"image/jls; transfer-syntax={JLS}"


@pytest.mark.parametrize(
    ("path", "accept", "status", "sentence"),
    [
        ("/frames/1", "image/png", 406, f"frames are stored in {JLS} and cannot be given as image/png"),
        (
            "/frames/1",
            "multipart/related; type=application/octet-stream; transfer-syntax=1.2.840.10008.1.2.4.91",
            406,
            f"frames are stored in {JLS} and cannot be given as application/octet-stream 1.2.840.10008.1.2.4.91",
        ),
        ("/frames/3", "*/*", 404, "there is no frame 3; the instance has frames 1 to 2"),
        ("/frames/0", "*/*", 404, "there is no frame 0; the instance has frames 1 to 2"),
        ("/frames/one", "*/*", 400, "frames/one is no list of frame numbers; ask for frames/1 or frames/1,2,3"),
        (
            "",
            'multipart/related; type="application/dicom"; transfer-syntax=1.2.840.10008.1.2.4.91',
            406,
            "as stored (*)",
        ),
        ("", "image/jpeg", 406, "image/jpeg is not given here; accept multipart/related of application/dicom"),
        ("/bulkdata/00280010", "*/*", 404, "the instance has no binary attribute 00280010 in its header"),
    ],
)
def test_what_cannot_be_given_is_a_sentence(compressed, path, accept, status, sentence):
    found, detail = problem(compressed[0].get(at("1.2.3") + path, accept))
    assert found == status
    assert sentence in detail


def test_an_instance_is_transcoded_for_who_asks(compressed):
    door, dataset, frames = compressed
    accept = 'multipart/related; type="application/dicom"; transfer-syntax=1.2.840.10008.1.2.1'
    ((kind, body),) = parts(door.get(at("1.2.3"), accept))
    found = dcmread(BytesIO(body))
    assert (kind, found.file_meta.TransferSyntaxUID) == (
        "application/dicom; transfer-syntax=1.2.840.10008.1.2.1",
        "1.2.840.10008.1.2.1",
    )
    assert found.SOPInstanceUID == dataset.SOPInstanceUID
    np.testing.assert_array_equal(np.frombuffer(found.PixelData, "<u2").reshape(frames.shape), frames)


@pytest.mark.parametrize("accept", ["application/dicom", "application/dicom; transfer-syntax=*"])
def test_an_instance_may_come_alone(compressed, accept):
    door, _dataset, _ = compressed
    answer = door.get(at("1.2.3"), accept)
    assert answer.headers["content-type"] == f"application/dicom; transfer-syntax={JLS}"
    assert answer.content == door.ingest.index.instance("1.2.3").path.read_bytes()


def test_one_bit_frames_begin_at_a_byte_of_their_own(door):
    """5 x 3 = 15 bits a frame: in the file frame 2 begins in the middle of a byte (PS3.5 8.1.1)."""
    bits = np.random.default_rng(4).integers(0, 2, (3, 15)).astype(np.uint8)
    packed = np.packbits(bits.ravel(), bitorder="little").tobytes()
    attributes = {"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0, "NumberOfFrames": 3, "PixelData": packed}
    assert door.store(file_of(slice_of("1.2.3", **attributes))).status_code == 200
    answer = door.get(f"{at('1.2.3')}/frames/1,2,3", 'multipart/related; type="application/octet-stream"')
    found = [np.unpackbits(np.frombuffer(body, np.uint8), bitorder="little")[:15] for _, body in parts(answer)]
    np.testing.assert_array_equal(found, bits)


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"])
def test_native_frames_are_little_endian_however_they_are_stored(door, test_data, syntax):
    (path,) = (test_data / "transfer-syntaxes").glob(f"*Syntax_{syntax}.dcm")
    dataset = dcmread(path)
    assert door.store(path.read_bytes()).status_code == 200
    where = at(dataset.SOPInstanceUID, dataset.StudyInstanceUID, dataset.SeriesInstanceUID)
    ((kind, body),) = parts(door.get(f"{where}/frames/1", "*/*"))
    assert kind == "application/octet-stream; transfer-syntax=1.2.840.10008.1.2.1"
    np.testing.assert_array_equal(np.frombuffer(body, "<i2").reshape(512, 512), dataset.pixel_array)


def test_every_transfer_syntax_comes_back_byte_for_byte(door, test_data):
    seen = set()
    for path in sorted((test_data / "transfer-syntaxes").glob("*.dcm")):
        dataset = dcmread(path, stop_before_pixels=True)
        if dataset.SOPInstanceUID in seen:
            continue
        seen.add(dataset.SOPInstanceUID)
        assert door.store(path.read_bytes()).status_code == 200
        where = at(dataset.SOPInstanceUID, dataset.StudyInstanceUID, dataset.SeriesInstanceUID)
        assert door.get(where, "application/dicom").content == path.read_bytes()
    assert len(seen) == 7


def test_a_study_and_a_series_come_whole(door):
    files = {uid: file_of(slice_of(uid, series=f"2.25.{uid[-1]}", value=int(uid[-1]))) for uid in ("1.1", "1.2", "1.3")}
    door.store(*files.values())
    study = door.get(f"/studies/{STUDY}", 'multipart/related; type="application/dicom"; transfer-syntax=*')
    assert {body for _, body in parts(study)} == set(files.values())
    series = door.get(f"/studies/{STUDY}/series/2.25.2", 'multipart/related; type="application/dicom"')
    assert [body for _, body in parts(series)] == [files["1.2"]]


def test_metadata_hold_all_but_pixels_and_long_values_by_reference(door):
    private = slice_of("1.2.3", EncapsulatedDocument=b"\1\2" * 40_000, ICCProfile=b"\5" * 10)
    assert door.store(file_of(private)).status_code == 200
    ((header,), (of_series,), (of_study,)) = (
        door.get(f"{path}/metadata", "application/dicom+json").json()
        for path in (at("1.2.3"), f"/studies/{STUDY}/series/{SERIES}", f"/studies/{STUDY}")
    )
    assert header == of_series == of_study
    assert header["7FE00010"] == {"vr": "OW", "BulkDataURI": f"{door.url}/dicom-web{at('1.2.3')}/bulkdata/7FE00010"}
    assert header["00100010"]["Value"] == [{"Alphabetic": "Pháñtom^Ä"}]
    assert header["00083002"]["Value"] == ["1.2.840.10008.1.2.1"]
    assert header["00282000"]["InlineBinary"] == "BQUFBQUFBQUFBQ=="
    uri = header["00420011"]["BulkDataURI"]
    assert door.http.get(uri).content == b"\1\2" * 40_000
    ((kind, body),) = parts(door.http.get(uri, headers={"Accept": 'multipart/related; type="*/*"'}))
    assert (kind, body) == ("application/octet-stream", b"\1\2" * 40_000)


def test_nothing_there_is_a_sentence(door):
    assert problem(door.get("/studies/2.25.5/metadata")) == (
        404,
        "nothing is stored under /dicom-web/studies/2.25.5/metadata; search for what there is with QIDO-RS",
    )
    door.store(file_of(slice_of("1.2.3")))
    assert door.get(at("1.2.3", study="2.25.5")).status_code == 404


@pytest.mark.parametrize("ours", [False, True])
@pytest.mark.parametrize("rest", ["", "/metadata", "/frames/1", "/bulkdata/00091010"])
def test_an_instance_whose_file_is_missing_is_gone_and_says_so(door, rest, ours):
    dataset, record = generated()
    give(door.ingest, bytes_of(dataset), record if ours else None, Arrival("own" if ours else "stow"))
    door.ingest.index.instance(record.sop_instance_uid).path.unlink()
    where = at(record.sop_instance_uid, record.study_instance_uid, record.series_instance_uid)
    sentence = "is indexed but its file is missing on disk; send it again, or restore the file from a backup"
    assert problem(door.get(where + rest)) == (410, f"instance {record.sop_instance_uid} {sentence}")


def test_an_instance_whose_file_is_missing_is_left_out_of_a_study(door):
    whole = file_of(slice_of("1.2.4", value=2))
    door.store(file_of(slice_of("1.2.3")), whole)
    door.ingest.index.instance("1.2.3").path.unlink()
    answer = door.get(f"/studies/{STUDY}", 'multipart/related; type="application/dicom"')
    assert (answer.status_code, [body for _, body in parts(answer)]) == (206, [whole])
    answer = door.get(f"/studies/{STUDY}/metadata")
    assert (answer.status_code, [one["00080018"]["Value"] for one in answer.json()]) == (206, [["1.2.4"]])


# What we made, at this exit


def test_a_labelled_result_is_given_and_an_unprovable_one_is_not(door):
    dataset, record = generated()
    give(door.ingest, bytes_of(dataset), record, Arrival("own"))
    where = at(record.sop_instance_uid, record.study_instance_uid, record.series_instance_uid)
    assert door.get(where, "application/dicom").content == bytes_of(dataset)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = name_based_uid("renamed")
    give(door.ingest, bytes_of(dataset))
    other = at(str(dataset.SOPInstanceUID), record.study_instance_uid, record.series_instance_uid)
    for path in (other, f"{other}/metadata", f"{other}/frames/1"):
        status, sentence = problem(door.get(path))
        assert status == 403
        assert "its record is not here, so its labels cannot be checked" in sentence
    partial = door.get(f"/studies/{record.study_instance_uid}", 'multipart/related; type="application/dicom"')
    assert (partial.status_code, len(parts(partial))) == (206, 1)


def test_a_result_whose_label_was_lost_on_disk_does_not_leave(door):
    dataset, record = generated()
    give(door.ingest, bytes_of(dataset), record, Arrival("own"))
    dataset.SyntheticData = "NO"
    door.ingest.index.instance(record.sop_instance_uid).path.write_bytes(bytes_of(dataset))
    where = at(record.sop_instance_uid, record.study_instance_uid, record.series_instance_uid)
    status, sentence = problem(door.get(where))
    assert status == 403
    assert "SyntheticData" in sentence


# An independent client


def values(dataset: Dataset) -> dict[str, object]:
    """All values but group lengths, which the client's own writer drops."""
    return {tag: value for tag, value in dataset.to_json_dict().items() if not tag.endswith("0000")}


def test_dicomweb_client_stores_searches_and_retrieves(door, test_data):
    client = DICOMwebClient(f"{door.url}/dicom-web")
    datasets = [dcmread(path) for path in sorted((test_data / "mr-phantom").rglob("*-0000[12].dcm"))]
    answer = client.store_instances(datasets)
    assert len(answer.ReferencedSOPSequence) == len(datasets)
    one = datasets[0]
    uids = (one.StudyInstanceUID, one.SeriesInstanceUID, one.SOPInstanceUID)
    (study,) = client.search_for_studies(search_filters={"StudyInstanceUID": uids[0]}, fields=["StudyDescription"])
    assert study["0020000D"]["Value"] == [uids[0]]
    assert len(client.search_for_series(uids[0])) == len(
        {each.SeriesInstanceUID for each in datasets if each.StudyInstanceUID == uids[0]}
    )
    assert uids[2] in {found["00080018"]["Value"][0] for found in client.search_for_instances(*uids[:2])}
    assert values(client.retrieve_instance(*uids)) == values(one)
    (frame,) = client.retrieve_instance_frames(*uids, frame_numbers=[1])
    np.testing.assert_array_equal(np.frombuffer(frame, "<i2").reshape(one.Rows, one.Columns), one.pixel_array)
    header = client.retrieve_instance_metadata(*uids)
    assert Dataset.from_json(json.dumps(header)).SOPInstanceUID == one.SOPInstanceUID
    series = client.retrieve_series(*uids[:2])
    assert {each.SOPInstanceUID for each in series} == {
        each.SOPInstanceUID for each in datasets if each.SeriesInstanceUID == uids[1]
    }


def test_rle_frames_come_with_their_own_type(door):
    dataset = dcmread(BytesIO(file_of(slice_of("1.2.3"))))
    dataset.compress(RLELossless, generate_instance_uid=False)
    door.store(bytes_of(dataset))
    (frame,) = DICOMwebClient(f"{door.url}/dicom-web").retrieve_instance_frames(STUDY, SERIES, "1.2.3", [1])
    assert bytes(frame) == get_frame(dataset.PixelData, 0)


# Who may come in


def test_another_host_name_is_refused_on_loopback(door):
    answer = door.http.get(f"{door.url}/", headers={"Host": "evil.example"})
    assert problem(answer) == (
        421,
        "this service does not answer as 'evil.example'; call it by the address that it listens on",
    )
    port = door.url.rpartition(":")[2]
    assert door.http.get(f"{door.url}/health/live", headers={"Host": f"localhost:{port}"}).status_code == 200


def test_scripts_of_other_sites_change_nothing(door):
    status, sentence = problem(door.store(file_of(slice_of("1.2.3")), Origin="http://evil.example"))
    assert (status, sentence) == (
        403,
        "pages of http://evil.example may not change anything here; use this service's own",
    )
    assert door.ingest.index.counts()["instances"] == 0
    assert door.store(file_of(slice_of("1.2.3")), Origin=door.url).status_code == 200


def test_a_token_is_asked_for_where_one_is_set(tmp_path):
    token = "0123456789abcdef"
    for door in opened(archive(tmp_path), Settings(node=Node(data=tmp_path, http_token=token))):
        assert problem(door.get("/studies")) == (401, "a token is needed; send Authorization: Bearer ...")
        door.http.headers["Authorization"] = "Bearer wrong-wrong-wrong"
        assert door.get("/studies").status_code == 401
        assert door.http.get(f"{door.url}/health/ready").status_code == 200
        door.http.headers["Authorization"] = f"Bearer {token}"
        assert door.get("/studies").status_code == 200


# Pages


def test_the_status_page_shows_studies_and_quarantine_and_names_no_patient(door):
    door.store(file_of(slice_of("1.2.3")), b"a letter")
    page = door.http.get(f"{door.url}/").text
    assert "Research use only, not for diagnosis." in page
    assert STUDY in page
    assert "1 studies, 1 series, 1 instances" in page
    assert "the object is no DICOM file" in page
    assert "tom^" not in page
    assert "P1" not in page


def test_what_a_header_says_is_text_on_the_page(door):
    door.store(file_of(slice_of("1.2.3", StudyDescription="<script>alert(1)</script>")))
    assert "<script>" not in door.http.get(f"{door.url}/").text


def test_the_interface_describes_itself_without_another_host(door):
    document = door.http.get(f"{door.url}/api/openapi.json").json()
    assert "/dicom-web/studies" in document["paths"]
    assert door.http.get(f"{door.url}/docs").status_code == 404


def test_templates_are_in_the_package():
    assert (Path(plugin.dicomweb.__file__).parent / "templates" / "status.html").is_file()
