"""STOW-RS: what becomes of the instances of one request, and how it is told (PS3.18 10.5)."""

from __future__ import annotations

import base64
import json
import resource
import socket
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from archives import archive, bytes_of
from dicom_objects import SERIES, STUDY, file_of, slice_of
from dicomweb_client.api import DICOMwebClient
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.encaps import generate_frames
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless
from served import Served, served
from sqlalchemy.exc import OperationalError

from plugin.dicomweb import intake, native_xml
from plugin.dicomweb.codestream import describe
from plugin.dicomweb.stow import is_storable
from plugin.settings import Node, Settings

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
JSON, XML = "application/dicom+json", "application/dicom+xml"


@pytest.fixture
def door(tmp_path) -> Iterator[Served]:
    with served(archive(tmp_path), Settings(node=Node(data=tmp_path))) as running:
        yield running


def body_of(*parts: tuple[dict[str, str], bytes], end: bytes = b"--x--") -> bytes:
    body = b""
    for headers, raw in parts:
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        body += b"--x\r\n" + head.encode() + b"\r\n" + raw + b"\r\n"
    return body + end


def post(door: Served, body: bytes, kind: str = "application/dicom", accept: str = JSON, path: str = "/studies"):
    headers = {"Content-Type": f'multipart/related; type="{kind}"; boundary=x', "Accept": accept}
    return door.http.post(f"{door.url}{path}", content=body, headers=headers)


def files(*raws: bytes) -> list[tuple[dict[str, str], bytes]]:
    return [({"Content-Type": "application/dicom"}, raw) for raw in raws]


def uids(document: dict, tag: str = "00081199") -> list[str]:
    return [item["00081155"]["Value"][0] for item in document.get(tag, {}).get("Value", [])]


def reasons(document: dict, tag: str) -> list[int]:
    return [item["00081197"]["Value"][0] for item in document[tag]["Value"]]


def is_tidy(door: Served) -> bool:
    return list(door.ingest.storage.incoming.iterdir()) == []


# Part 10


def test_hundreds_of_instances_in_one_request_are_told_in_their_order(door):
    names = [f"1.2.{number}" for number in range(1, 201)]
    answer = post(door, body_of(*files(*(file_of(slice_of(name)) for name in names))))
    assert (answer.status_code, uids(answer.json())) == (200, names)
    assert door.ingest.index.counts()["instances"] == 200
    assert is_tidy(door)


def test_an_independent_client_stores_a_series_at_once(door):
    datasets = [dcmread(BytesIO(file_of(slice_of(f"1.2.{number}")))) for number in range(1, 31)]
    answer = DICOMwebClient(door.url).store_instances(datasets)
    assert {str(item.ReferencedSOPInstanceUID) for item in answer.ReferencedSOPSequence} == {
        dataset.SOPInstanceUID for dataset in datasets
    }


def test_the_answer_comes_as_xml_for_who_prefers_it(door):
    answer = post(door, body_of(*files(file_of(slice_of("1.2.3")), b"a letter")), accept=f"{JSON}; q=0.5, {XML}")
    document = native_xml.read(answer.content)
    assert (answer.status_code, answer.headers["content-type"], uids(document)) == (202, XML, ["1.2.3"])
    assert reasons(document, "0008119A") == [0xC000]
    assert post(door, b"", accept="text/html").status_code == 406


def test_an_object_of_another_service_is_set_aside_with_its_reason(door):
    workitem = slice_of("1.2.3", SOPClassUID="1.2.840.10008.5.1.4.34.6.1")
    private = slice_of("1.2.4", SOPClassUID="1.2.826.0.1.3680043.9.9")
    answer = post(door, body_of(*files(file_of(workitem), file_of(private))))
    document = answer.json()
    assert (answer.status_code, uids(document), reasons(document, "00081198")) == (202, ["1.2.4"], [0x0122])
    assert uids(document, "00081198") == ["1.2.3"]
    (kept,) = door.ingest.quarantine.list()
    assert "is none of storage; send instances of storage classes" in kept.reason


@pytest.mark.parametrize(
    ("sop_class", "storable"),
    [
        ("1.2.840.10008.5.1.4.1.1.66.7", True),
        ("1.2.840.10008.5.1.1.29", True),  # Hardcopy Grayscale Image Storage (retired)
        ("1.2.840.10008.5.1.4.38.1", True),  # Hanging Protocol Storage
        ("1.2.3.4", True),
        ("", True),  # ingest says what is wrong with it
        ("1.2.840.10008.1.1", False),
        ("1.2.840.10008.1.20.1", False),  # Storage Commitment
        ("1.2.840.10008.1.3.10", False),  # a directory
        ("1.2.840.10008.3.1.2.3.3", False),
    ],
)
def test_every_class_of_storage_is_taken_and_no_other(sop_class, storable):
    assert is_storable(sop_class) is storable


def test_a_correction_that_is_put_aside_is_a_warning(tmp_path):
    with served(archive(tmp_path, "keep-first"), Settings(node=Node(data=tmp_path))) as door:
        post(door, body_of(*files(file_of(slice_of("1.2.3")))))
        answer = post(door, body_of(*files(file_of(slice_of("1.2.3", StudyDescription="other")))))
    assert answer.status_code == 202
    (item,) = answer.json()["00081199"]["Value"]
    assert item["00081196"]["Value"] == [0xB000]
    assert "was put aside as a version" in answer.headers["warning"]


def test_a_body_that_breaks_off_tells_what_was_stored_before(door):
    answer = post(door, body_of(*files(file_of(slice_of("1.2.3")), file_of(slice_of("1.2.4"))[:300]), end=b""))
    document = answer.json()
    assert (answer.status_code, uids(document), reasons(document, "0008119A")) == (202, ["1.2.3"], [0xC000])
    assert "ends before its closing boundary" in answer.headers["warning"]
    assert is_tidy(door)


def test_a_sender_that_goes_away_leaves_what_was_whole_and_nothing_else(door):
    whole = body_of(*files(file_of(slice_of("1.2.3")), b"\0" * 700_000), end=b"")
    with socket.create_connection(door.host_port) as sender:
        sender.sendall(
            b"POST /dicom-web/studies HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000000\r\n"
            b'Content-Type: multipart/related; type="application/dicom"; boundary=x\r\n\r\n' + whole
        )
        end = time.monotonic() + 10
        while door.ingest.index.instance("1.2.3") is None and time.monotonic() < end:
            time.sleep(0.02)
    while not is_tidy(door) and time.monotonic() < end:
        time.sleep(0.02)
    assert is_tidy(door)
    assert door.ingest.index.instance("1.2.3") is not None


def test_a_part_that_is_no_object_does_not_hide_the_others(door):
    page = ({"Content-Type": "text/html"}, b"<p>")
    first, second = files(file_of(slice_of("1.2.3")), file_of(slice_of("1.2.4")))
    answer = post(door, body_of(first, page, second))
    assert (answer.status_code, uids(answer.json())) == (202, ["1.2.3", "1.2.4"])
    assert reasons(answer.json(), "0008119A") == [0xC000]
    assert "a part of type text/html cannot be stored" in answer.headers["warning"]


def test_what_the_index_cannot_take_is_a_processing_failure(door, monkeypatch):
    def locked(*args, **kwargs):
        raise OperationalError("insert", {}, Exception("database is locked"))

    monkeypatch.setattr(door.ingest, "accept", locked)
    answer = post(door, body_of(*files(file_of(slice_of("1.2.3")))))
    assert (answer.status_code, reasons(answer.json(), "0008119A")) == (409, [0x0110])


def test_a_body_in_a_content_coding_is_a_sentence(door):
    headers = {"Content-Type": "application/dicom", "Content-Encoding": "gzip"}
    answer = door.http.post(f"{door.url}/studies", content=b"x", headers=headers)
    assert (answer.status_code, answer.json()["detail"]) == (
        415,
        "a body in Content-Encoding gzip cannot be stored; send it without",
    )


# Metadata and bulk data


def separated(dataset: Dataset, uri: str = "bulk/1") -> tuple[dict, bytes]:
    document = dataset.to_json_dict()
    document["7FE00010"] = {"vr": "OW", "BulkDataURI": uri}
    return document, dataset.PixelData


def post_separate(door: Served, documents: list[dict], *bulk: tuple[str, str, bytes], kind: str = JSON):
    if kind == JSON:
        parts = [({"Content-Type": JSON}, json.dumps(documents).encode())]
    else:
        parts = [({"Content-Type": XML}, native_xml.document(document)) for document in documents]
    parts += [({"Content-Type": what, "Content-Location": where}, raw) for where, what, raw in bulk]
    return post(door, body_of(*parts), kind)


@pytest.mark.parametrize("kind", [JSON, XML])
def test_metadata_and_bulk_data_become_the_instance_that_they_came_from(door, kind):
    origin = slice_of("1.2.3", ICCProfile=b"\1" * 10, RescaleSlope=0.5, ImagePositionPatient=[1.5, -2, 3])
    other = slice_of("1.2.4", value=9)
    (one, pixels), (two, others) = separated(origin), separated(other, "http://elsewhere/2")
    one["00282000"] = {"vr": "OB", "BulkDataURI": "bulk/icc"}
    bulk = [
        ("http://elsewhere/2", "application/octet-stream", others),
        ("bulk/icc", "application/octet-stream", b"\1" * 10),
        ("bulk/1", "application/octet-stream; transfer-syntax=1.2.840.10008.1.2.1", pixels),
    ]
    answer = post_separate(door, [one, two], *bulk, kind=kind)
    assert (answer.status_code, uids(answer.json())) == (200, ["1.2.3", "1.2.4"])
    for dataset in (origin, other):
        stored = dcmread(door.ingest.index.instance(dataset.SOPInstanceUID).path)
        assert stored.to_json_dict() == dcmread(BytesIO(file_of(dataset))).to_json_dict()
    assert is_tidy(door)


@pytest.mark.parametrize(
    ("syntax", "media_type"),
    [
        (JPEGLSLossless, "image/jls"),
        (JPEG2000Lossless, "image/jp2"),
        (RLELossless, "image/dicom-rle"),
        (JPEGLSLossless, f"application/octet-stream; transfer-syntax={JPEGLSLossless}"),
    ],
)
def test_compressed_frames_are_kept_as_they_are(door, syntax, media_type):
    frames = np.arange(2 * 64 * 71, dtype=np.uint16).reshape(2, 64, 71) % 4096
    plain = slice_of("1.2.3", NumberOfFrames=2, Rows=64, Columns=71, PixelData=frames.tobytes())
    dataset = dcmread(BytesIO(file_of(plain)))
    dataset.compress(syntax, generate_instance_uid=False)
    document, _ = separated(dataset)
    encoded = list(generate_frames(dataset.PixelData, number_of_frames=2))
    answer = post_separate(door, [document], *(("bulk/1", media_type, frame) for frame in encoded))
    assert answer.status_code == 200
    stored = dcmread(door.ingest.index.instance("1.2.3").path)
    assert stored.file_meta.TransferSyntaxUID == syntax
    np.testing.assert_array_equal(stored.pixel_array, frames)


def photograph() -> bytes:
    buffer = BytesIO()
    Image.fromarray(np.full((12, 17, 3), 128, np.uint8)).save(buffer, "jpeg")
    return buffer.getvalue()


def test_a_photograph_tells_its_own_size_and_syntax(door):
    described = ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")
    gone = dict.fromkeys((*described, "SamplesPerPixel", "PhotometricInterpretation"))
    document, _ = separated(slice_of("1.2.3", **gone))
    assert post_separate(door, [document], ("bulk/1", "image/jpeg", photograph())).status_code == 200
    stored = dcmread(door.ingest.index.instance("1.2.3").path)
    assert stored.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.4.50"
    assert (stored.Rows, stored.Columns, stored.SamplesPerPixel, stored.BitsStored) == (12, 17, 3, 8)
    assert abs(int(stored.pixel_array[5, 5, 0]) - 128) < 3


@pytest.mark.parametrize("cut", range(0, 400, 7))
def test_a_picture_that_breaks_off_describes_nothing_or_itself(cut):
    whole = photograph()
    assert describe(whole[:cut]) in (None, describe(whole))


def test_values_inline_need_no_bulk_data(door):
    dataset = slice_of("1.2.3")
    document = dataset.to_json_dict() | {"00020010": {"vr": "UI", "Value": ["1.2.840.10008.1.2"]}}
    document["7FE00010"] = {"vr": "OW", "InlineBinary": base64.b64encode(dataset.PixelData).decode()}
    assert post_separate(door, [document]).status_code == 200
    assert dcmread(door.ingest.index.instance("1.2.3").path).PixelData == dataset.PixelData


@pytest.mark.parametrize(
    ("change", "status", "sentence"),
    [
        (lambda one: one | {"7FE00010": {"vr": "OW", "BulkDataURI": "bulk/9"}}, 409, "name bulk data 'bulk/9', and no"),
        (
            lambda one: one | {"00280010": {"vr": "US", "Value": ["many"]}},
            409,
            "the metadata cannot be read as a data set",
        ),
        (
            lambda one: {k: v for k, v in one.items() if k != "00080018"},
            409,
            "have no SOP Class UID or no SOP",
        ),
        (lambda one: one | {"0020000D": {"vr": "UI", "Value": []}}, 409, "no Study Instance UID (0020,000D)"),
        (lambda one: "text", 409, "something else than DICOM JSON objects"),
        (lambda one: one | {"7FE00010": "text"}, 409, "the metadata cannot be read as a data set"),
    ],
)
def test_metadata_that_make_no_instance_are_a_sentence_each(door, change, status, sentence):
    document, pixels = separated(slice_of("1.2.3"))
    whole = separated(slice_of("1.2.4"))[0]
    bulk = ("bulk/1", "application/octet-stream", pixels)
    answer = post_separate(door, [change(document)], bulk)
    assert answer.status_code == status
    assert sentence in answer.headers["warning"]
    assert uids(post_separate(door, [change(document), whole], bulk).json()) == ["1.2.4"]
    assert is_tidy(door)


@pytest.mark.parametrize(
    ("kind", "parts", "status", "sentence"),
    [
        (JSON, [({"Content-Type": JSON}, b"[{")], 400, "the metadata are no application/dicom+json"),
        (XML, [({"Content-Type": XML}, b"<NativeDicomModel>")], 400, "the metadata are no application/dicom+xml"),
        (XML, [({"Content-Type": XML}, b"<!DOCTYPE a []><a/>")], 400, "a document type declaration is not taken"),
        (JSON, [({"Content-Type": XML}, b"<a/>")], 415, "cannot be stored beside application/dicom+json"),
        (JSON, [({"Content-Type": "image/jls"}, b"x")], 400, "a part of bulk data has no Content-Location"),
        (JSON, [({"Content-Type": JSON}, b"[]")], 400, "the request holds no object"),
    ],
)
def test_metadata_that_cannot_be_read_are_a_sentence(door, kind, parts, status, sentence):
    answer = post(door, body_of(*parts), kind)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert sentence in answer.json()["detail"]
    assert is_tidy(door)


def test_what_is_written_as_xml_is_read_again():
    dataset = slice_of(
        "1.2.3", OtherPatientNames=["Yamada^Tarou=山田^太郎=やまだ^たろう", "B^C"], ImageType=["A", "", "B"]
    )
    dataset.RequestAttributesSequence = [Dataset(), Dataset()]
    dataset.RequestAttributesSequence[0].RequestedProcedureID = "7"
    document = dataset.to_json_dict()
    assert Dataset.from_json(native_xml.read(native_xml.document(document))) == Dataset.from_json(document)


def test_both_forms_of_one_instance_are_one(door):
    """The second comes in another encoding, and is held already."""
    dataset = dcmread(BytesIO(file_of(slice_of("1.2.3"))))
    document, pixels = separated(dataset)
    post(door, body_of(*files(bytes_of(dataset))))
    assert post_separate(door, [document], ("bulk/1", "application/octet-stream", pixels)).status_code == 200
    assert door.ingest.index.counts() | {"instances": 1} == door.ingest.index.counts()
    assert door.ingest.index.versions("1.2.3") == []
    assert tuple(str(dataset[tag].value) for tag in ("StudyInstanceUID", "SeriesInstanceUID")) == (STUDY, SERIES)


def test_items_within_items_without_end_are_a_sentence(door):
    nested = '{"0040A730":{"vr":"SQ","Value":[' * 300 + "{}" + "]}}" * 300
    answer = post(door, body_of(({"Content-Type": JSON}, nested.encode())), JSON)
    assert (answer.status_code, reasons(answer.json(), "0008119A")) == (409, [0xC000])
    assert is_tidy(door)


def test_numbers_of_values_do_not_make_memory_of_nothing():
    far = '<DicomAttribute tag="00081030" vr="LO"><Value number="{}">x</Value></DicomAttribute>'
    with pytest.raises(ValueError, match="a value has the number 1000000 of 1"):
        native_xml.read(f"<NativeDicomModel>{far.format(1_000_000)}</NativeDicomModel>".encode())
    with pytest.raises(ValueError, match="a value has the number 0"):
        native_xml.read(f"<NativeDicomModel>{far.format(0)}</NativeDicomModel>".encode())
    read = native_xml.read(f"<NativeDicomModel>{far.format(3)}</NativeDicomModel>".encode())
    assert read == {"00081030": {"vr": "LO", "Value": [None, None, "x"]}}


def test_thousands_of_small_parts_do_not_need_as_many_open_files(door):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 100, hard))
    try:
        answer = post(door, body_of(*files(*[b"no DICOM"] * 200)))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (answer.status_code, set(reasons(answer.json(), "0008119A"))) == (409, {0xC000})
    assert is_tidy(door)


def test_the_limit_of_metadata_is_that_of_all_their_parts(door, monkeypatch):
    monkeypatch.setattr(intake, "_MAXIMUM_METADATA_BYTES", 100)
    part = ({"Content-Type": JSON}, b"[" + b" " * 60 + b"]")
    assert post(door, body_of(part), JSON).status_code == 400  # nothing in it
    assert post(door, body_of(part, part), JSON).status_code == 413
    assert is_tidy(door)
