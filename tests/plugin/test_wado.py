"""Retrieval: other encodings, values in sequences, ranges, entity tags, metadata from a cache, clients that leave."""

from __future__ import annotations

import asyncio
import gzip
import os
import socket
import time
from collections.abc import Iterator
from email import message_from_bytes
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import pytest
from archives import archive, bytes_of, generated, give
from dicom_objects import SERIES, STUDY, file_of, slice_of
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, JPEGLSLossless, RLELossless
from served import Served, served

from plugin.archive.arrival import Arrival
from plugin.archive.index import Index
from plugin.dicomweb.metadata import Cache
from plugin.dicomweb.resources import Sets
from plugin.dicomweb.sending import Computed, Made, Piece, Sending, Stretch
from plugin.settings import Archive, Node, Settings

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

ROWS, COLUMNS = 64, 48
FRAMES = np.random.default_rng(5).integers(0, 4096, (3, ROWS, COLUMNS)).astype("<u2")
FRAMES[:, :, : COLUMNS // 2] //= 64  # so that it shrinks
OCTETS = 'multipart/related; type="application/octet-stream"'
WHERE = f"/studies/{STUDY}/series/{SERIES}/instances/1.1"


@pytest.fixture
def door(tmp_path) -> Iterator[Served]:
    with served(archive(tmp_path), Settings(node=Node(data=tmp_path))) as here:
        yield here


def frames_of(uid: str = "1.1", **attributes: object) -> Dataset:
    shape = {"NumberOfFrames": len(FRAMES), "Rows": ROWS, "Columns": COLUMNS, "PixelData": FRAMES.tobytes()}
    return slice_of(uid, **(shape | attributes))


def encoded(syntax: str) -> Dataset:
    dataset = dcmread(BytesIO(file_of(frames_of())))
    dataset.compress(syntax, generate_instance_uid=False)
    return dataset


def get(door: Served, path: str = "", accept: str = "*/*", **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return door.http.get(door.url + WHERE + path, headers={"Accept": accept, "Accept-Encoding": "identity"} | named)


def parts(response: httpx.Response) -> list[tuple[str, bytes]]:
    assert response.status_code in (200, 206), response.text
    head = f"Content-Type: {response.headers['content-type']}\r\n\r\n".encode()
    message = message_from_bytes(head + response.content)
    return [(part["Content-Type"], part.get_payload(decode=True)) for part in message.get_payload()]


# Frames


@pytest.mark.parametrize("numbers", ["3,1,3,2", "3%2C1%2C3%2C2"])
@pytest.mark.parametrize("syntax", [None, JPEGLSLossless, RLELossless])
def test_frames_come_in_the_order_that_they_are_asked_for(door, numbers, syntax):
    give(door.ingest, frames_of() if syntax is None else bytes_of(encoded(syntax)))
    found = parts(get(door, f"/frames/{numbers}", OCTETS))
    values = [np.frombuffer(body, "<u2").reshape(ROWS, COLUMNS) for _, body in found]
    np.testing.assert_array_equal(values, FRAMES[[2, 0, 2, 1]])


@pytest.mark.parametrize("table", ["basic", "extended", "none"])
def test_a_frame_in_several_fragments_is_found_by_its_offset_table(door, table):
    dataset = encoded(JPEGLSLossless)
    wanted = [get_frame(dataset.PixelData, number, number_of_frames=3) for number in range(3)]
    split = [bytes(frame) for frame in wanted]
    if table == "extended":
        offsets = np.cumsum([0, *(len(frame) + len(frame) % 2 + 8 for frame in split)])[:-1]
        dataset.ExtendedOffsetTable = offsets.astype("<u8").tobytes()
        dataset.ExtendedOffsetTableLengths = np.array([len(frame) for frame in split], "<u8").tobytes()
        dataset.PixelData = encapsulate(split, has_bot=False)
    else:
        dataset.PixelData = encapsulate(
            split, fragments_per_frame=2 if table == "basic" else 1, has_bot=table == "basic"
        )
    give(door.ingest, bytes_of(dataset))
    for number in (3, 1):
        ((_, body),) = parts(get(door, f"/frames/{number}", f'{OCTETS}; transfer-syntax="*"'))
        assert body.rstrip(b"\0") == split[number - 1].rstrip(b"\0")


def test_a_frame_is_encoded_for_who_asks(door):
    give(door.ingest, frames_of())
    ((kind, body),) = parts(
        get(door, "/frames/2", f'multipart/related; type="image/jls"; transfer-syntax={JPEGLSLossless}')
    )
    assert kind == f"image/jls; transfer-syntax={JPEGLSLossless}"
    whole = slice_of("1.9", Rows=ROWS, Columns=COLUMNS, PixelData=encapsulate([body]))
    whole["PixelData"].is_undefined_length = True
    raw = BytesIO()
    whole.file_meta = dcmread(BytesIO(bytes_of(encoded(JPEGLSLossless)))).file_meta
    whole.save_as(raw, enforce_file_format=True)
    np.testing.assert_array_equal(dcmread(BytesIO(raw.getvalue())).pixel_array, FRAMES[1])
    assert list(door.ingest.storage.incoming.iterdir()) == []


# Instances in another transfer syntax


def test_a_series_is_transcoded_one_instance_at_a_time_and_leaves_nothing_behind(door):
    for number in range(4):
        give(door.ingest, frames_of(f"1.{number}", InstanceNumber=number))
    accept = f'multipart/related; type="application/dicom"; transfer-syntax={JPEGLSLossless}'
    answer = door.http.get(f"{door.url}/studies/{STUDY}", headers={"Accept": accept})
    found = [dcmread(BytesIO(body)) for _, body in parts(answer)]
    assert {each.SOPInstanceUID for each in found} == {"1.0", "1.1", "1.2", "1.3"}
    for each in found:
        assert each.file_meta.TransferSyntaxUID == JPEGLSLossless
        np.testing.assert_array_equal(each.pixel_array, FRAMES)
    assert list(door.ingest.storage.incoming.iterdir()) == []


def test_what_is_stored_is_sent_where_it_is_as_welcome_as_another(door):
    raw = bytes_of(encoded(RLELossless))
    give(door.ingest, raw)
    accept = (
        f"application/dicom; transfer-syntax={ImplicitVRLittleEndian}, application/dicom; transfer-syntax={RLELossless}"
    )
    assert get(door, "", accept).content == raw
    plain = get(door, "", accept.replace(f"={RLELossless}", f"={RLELossless}; q=0.3"))
    assert dcmread(BytesIO(plain.content)).file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
    assert int(plain.headers["content-length"]) == len(plain.content)


def test_one_of_ours_is_checked_again_in_its_other_encoding(door):
    dataset, record = generated()
    give(door.ingest, bytes_of(dataset), record, Arrival("own"))
    path = (
        f"/studies/{record.study_instance_uid}/series/{record.series_instance_uid}/instances/{record.sop_instance_uid}"
    )
    accept = f"application/dicom; transfer-syntax={RLELossless}"
    answer = door.http.get(door.url + path, headers={"Accept": accept})
    np.testing.assert_array_equal(dcmread(BytesIO(answer.content)).pixel_array, dataset.pixel_array)


# Ranges and entity tags


@pytest.mark.parametrize(
    ("asked", "status", "start", "stop"),
    [
        ("bytes=0-9", 206, 0, 10),
        ("bytes=100-", 206, 100, None),
        ("bytes=-7", 206, -7, None),
        ("bytes=10-999999999", 206, 10, None),
        ("bytes=0-1,5-6", 200, 0, None),
        ("bytes=9-3", 200, 0, None),
        ("items=0-3", 200, 0, None),
    ],
)
def test_a_part_of_an_instance_is_what_its_range_says(door, asked, status, start, stop):
    raw = file_of(frames_of())
    give(door.ingest, raw)
    answer = get(door, "", "application/dicom", Range=asked)
    assert (answer.status_code, answer.content) == (status, raw[start:stop])
    assert int(answer.headers["content-length"]) == len(answer.content)


def test_a_range_outside_is_refused_and_one_of_other_bytes_gets_all(door):
    raw = file_of(frames_of())
    give(door.ingest, raw)
    refused = get(door, "", "application/dicom", Range=f"bytes={len(raw)}-")
    assert (refused.status_code, refused.headers["content-range"]) == (416, f"bytes */{len(raw)}")
    other = get(door, "", "application/dicom", Range="bytes=0-9", If_Range='"older"')
    assert (other.status_code, other.content) == (200, raw)


@pytest.mark.parametrize(
    ("path", "accept"),
    [
        ("", "application/dicom"),
        ("", "*/*"),
        ("/metadata", "*/*"),
        ("/frames/1,2", OCTETS),
        ("/bulkdata/7FE00010", "*/*"),
    ],
)
def test_what_a_client_has_is_not_sent_again_until_it_changes(door, path, accept):
    give(door.ingest, frames_of())
    tag = get(door, path, accept).headers["etag"]
    assert get(door, path, accept, If_None_Match=f'"other", {tag}').status_code == 304
    give(door.ingest, frames_of(PatientComments="corrected"))
    assert get(door, path, accept, If_None_Match=tag).status_code == 200


# Bulk data


def test_a_value_inside_a_sequence_has_a_uri_of_its_own(door):
    long, other = os.urandom(70_000), os.urandom(70_000)
    inner, outer = Dataset(), Dataset()
    inner.add_new(0x00431029, "OB", long)
    outer.add_new(0x00420011, "OB", other)
    outer.add_new(0x00081140, "SQ", [Dataset(), inner])
    give(door.ingest, frames_of(ReferencedSeriesSequence=[outer]))
    (header,) = get(door, "/metadata").json()
    item = header["00081115"]["Value"][0]
    nested = item["00081140"]["Value"][1]["00431029"]["BulkDataURI"]
    assert nested == f"{door.url}{WHERE}/bulkdata/00081115/1/00081140/2/00431029"
    assert door.http.get(nested).content == long
    assert door.http.get(item["00420011"]["BulkDataURI"], headers={"Range": "bytes=5-9"}).content == other[5:10]
    every = get(door, "/bulkdata", OCTETS)
    assert [body for _, body in parts(every)] == [long, other] or [body for _, body in parts(every)] == [other, long]
    assert f"Content-Location: {nested}\r\n".encode() in every.content


@pytest.mark.parametrize(
    "reference", ["00281201", "zz", "00081115", "00081115/1", "00081115/3/00420011", "00081115/x/00420011", "00100010"]
)
def test_a_reference_to_nothing_is_a_sentence(door, reference):
    give(door.ingest, frames_of(ReferencedSeriesSequence=[Dataset()]))
    answer = get(door, f"/bulkdata/{reference}")
    assert answer.status_code == 404
    assert f"no binary attribute {reference} in its header" in answer.json()["detail"]


def test_pixel_data_are_bulk_data_too(door):
    give(door.ingest, frames_of())
    (header,) = get(door, "/metadata").json()
    uri = header["7FE00010"]["BulkDataURI"]
    assert door.http.get(uri).content == FRAMES.tobytes()
    ((_, body),) = parts(get(door, "/pixeldata", OCTETS))
    assert body == FRAMES.tobytes()
    assert f"Content-Location: {uri}\r\n".encode() in get(door, "/pixeldata", OCTETS).content


def test_encoded_pixel_data_come_frame_by_frame_or_decoded(door):
    dataset = encoded(JPEGLSLossless)
    give(door.ingest, bytes_of(dataset))
    found = parts(get(door, "/pixeldata", 'multipart/related; type="image/jls"'))
    assert [body.rstrip(b"\0") for _, body in found] == [
        bytes(get_frame(dataset.PixelData, number, number_of_frames=3)).rstrip(b"\0") for number in range(3)
    ]
    ((_, plain),) = parts(get(door, "/bulkdata/7FE00010", OCTETS))
    assert plain == FRAMES.tobytes()


def test_big_endian_values_are_given_little_endian(door):
    table = np.arange(40_000, dtype=">u2").tobytes()
    dataset = frames_of(PixelData=FRAMES.astype(">u2").tobytes(), RedPaletteColorLookupTableData=table)
    dataset["PixelData"].VR = dataset["RedPaletteColorLookupTableData"].VR = "OW"
    dataset.file_meta = dcmread(BytesIO(file_of(frames_of()))).file_meta
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    raw = BytesIO()
    dcmwrite(raw, dataset, implicit_vr=False, little_endian=False, enforce_file_format=True)
    give(door.ingest, raw.getvalue())
    ((_, body),) = parts(get(door, "/frames/2", OCTETS))
    np.testing.assert_array_equal(np.frombuffer(body, "<u2").reshape(ROWS, COLUMNS), FRAMES[1])
    table = get(door, "/bulkdata/00281201").content
    np.testing.assert_array_equal(np.frombuffer(table, "<u2"), np.arange(40_000) % 65536)


# Metadata


def cached(door: Served) -> set[str]:
    return {path.name for path in (door.ingest.index.data / "cache" / "metadata").glob("*.json*")}


def series(door: Served, **headers: str) -> httpx.Response:
    return door.http.get(f"{door.url}/studies/{STUDY}/series/{SERIES}/metadata", headers=headers)


def test_series_metadata_follow_each_arrival_correction_and_loss(door):
    """The second answer of each state comes from the cache."""

    def seen() -> list[tuple[str, str]]:
        first, second = series(door), series(door)
        assert first.content == second.content
        return [(each["00080018"]["Value"][0], each["00081030"]["Value"][0]) for each in first.json()]

    give(door.ingest, frames_of("1.1"))
    assert seen() == [("1.1", "Chest")]
    give(door.ingest, frames_of("1.2"))
    assert seen() == [("1.1", "Chest"), ("1.2", "Chest")]
    give(door.ingest, frames_of("1.1", StudyDescription="Corrected"))
    assert ("1.1", "Corrected") in seen()
    give(door.ingest, frames_of("1.1"))
    assert ("1.1", "Chest") in seen()
    assert len([name for name in cached(door) if name.endswith(".json")]) == 3
    door.ingest.index.instance("1.2").path.unlink()
    assert (series(door).status_code, len(series(door).json())) == (206, 1)


def test_metadata_name_the_address_that_the_client_used(door):
    give(door.ingest, frames_of())
    port = door.host_port[1]
    for host in (f"127.0.0.1:{port}", f"localhost:{port}"):
        for encoding in ("identity", "gzip"):
            (header,) = series(door, Host=host, **{"Accept-Encoding": encoding}).json()
            assert header["7FE00010"]["BulkDataURI"].startswith(f"http://{host}/dicom-web/studies/")


def test_no_value_can_pass_for_an_address(door):
    forged = '\x1f/studies "BulkDataURI":"\x1f/studies'
    give(door.ingest, frames_of(PatientComments=forged))
    (header,) = get(door, "/metadata").json()
    assert header["00104000"]["Value"] == [forged]


def test_compressed_metadata_are_the_same(door):
    give(door.ingest, frames_of())
    plain = series(door, **{"Accept-Encoding": "identity"})
    with door.http.stream("GET", f"{door.url}/studies/{STUDY}/metadata", headers={"Accept-Encoding": "gzip"}) as answer:
        assert gzip.decompress(b"".join(answer.iter_raw())) == plain.content
    assert "content-encoding" not in get(door, "/frames/1", OCTETS, Accept_Encoding="gzip").headers


def test_the_cache_keeps_to_its_limit_and_forgets_the_oldest(tmp_path):
    cache = Cache(tmp_path / "cache", limit_mb=0.1)
    for number in range(60):
        cache.put(f"{number}.json", b"x" * 5000)
        os.utime(tmp_path / "cache" / f"{number}.json", (number, number))
    kept = sum(path.stat().st_size for path in (tmp_path / "cache").iterdir())
    assert kept <= 100_000
    again = Cache(tmp_path / "cache", limit_mb=0.1)
    for each in (cache, again):
        assert each.get("0.json") is None
        assert each.get("59.json") == b"x" * 5000
    assert cache.at_hand("59.json") is not None


def test_rows_in_memory_hold_only_while_nothing_changes_in_any_process(tmp_path):
    ingest = archive(tmp_path)
    give(ingest, frames_of())
    sets = Sets(ingest.index)
    assert sets.at_hand((STUDY, SERIES)) is None
    first = sets.read((STUDY, SERIES))
    assert sets.at_hand((STUDY, SERIES)) is first
    give(ingest, frames_of("1.2"))
    assert sets.at_hand((STUDY, SERIES)) is None
    assert [row.sop_instance_uid for row in sets.read((STUDY, SERIES))] == ["1.1", "1.2"]
    # By connections of its own, as another process has them.
    other = Index(tmp_path)
    with other.write() as connection:
        other.remove_instance(connection, other.instance("1.1"), 0.0)
    other.close()
    assert sets.at_hand((STUDY, SERIES)) is None
    assert [row.sop_instance_uid for row in sets.read((STUDY, SERIES))] == ["1.2"]


def test_a_file_that_is_lost_is_missed_although_its_metadata_are_in_memory(door):
    give(door.ingest, frames_of())
    assert series(door).status_code == series(door).status_code == 200
    door.ingest.index.instance("1.1").path.unlink()
    assert series(door).status_code == 410


def test_without_room_for_a_cache_the_answers_are_the_same(tmp_path):
    settings = Settings(node=Node(data=tmp_path), archive=Archive(metadata_cache_mb=0))
    with served(archive(tmp_path), settings) as door:
        give(door.ingest, frames_of())
        assert series(door).json()[0]["00080018"]["Value"] == ["1.1"]
        assert cached(door) == set()


def test_values_that_are_not_as_they_should_be_leave_the_rest_to_be_seen(door):
    raw = file_of(frames_of(SliceThickness="1.5", PatientWeight="70")).replace(b"DS\x04\x001.5 ", b"DS\x04\x00half")
    give(door.ingest, raw)
    (header,) = get(door, "/metadata").json()
    assert header["00101030"]["Value"] == [70]
    assert header["00080005"]["Value"] == ["ISO_IR 192"]


# Streams


def test_a_client_that_leaves_takes_nothing_with_it(door):
    """The answer is made as it is sent: what is not read is not transcoded, and no file stays open."""
    big = np.zeros((20, 512, 512), "<u2")
    for number in range(4):
        give(door.ingest, frames_of(f"1.{number}", Rows=512, Columns=512, NumberOfFrames=20, PixelData=big.tobytes()))
    before = held()
    with socket.create_connection(door.host_port) as client:
        client.sendall(
            f"GET /dicom-web/studies/{STUDY} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            'Accept: multipart/related; type="application/dicom"\r\n\r\n'.encode()
        )
        assert client.recv(1000).startswith(b"HTTP/1.1 200")
    end = time.monotonic() + 10
    while held() - before and time.monotonic() < end:
        time.sleep(0.02)
    assert held() - before == set()
    assert door.http.get(f"{door.url}/studies/{STUDY}/metadata").status_code == 200


def held() -> set[str]:
    """Stored objects and files of ours that this process has open."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = str(entry.readlink())
        except OSError:
            continue
        if ".dcm" in target or ".part" in target:
            found.add(target)
    return found


def sent_to(client_leaves_after: int | None, pieces: list[Piece]) -> list[int]:
    """Sizes of the blocks that an answer was sent in, to a client that leaves after so many."""
    sizes: list[int] = []
    gone = asyncio.Event()

    async def receive() -> dict[str, object]:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, object]) -> None:
        sizes.append(len(message.get("body", b"")))
        if client_leaves_after is not None and len(sizes) > client_leaves_after:
            gone.set()
            await asyncio.sleep(0.01)

    asyncio.run(Sending(pieces)({"type": "http", "method": "GET"}, receive, send))
    return [size for size in sizes if size]


def test_a_long_file_goes_out_block_by_block_and_stops_when_nobody_listens(tmp_path):
    path = tmp_path / "long"
    path.write_bytes(b"x" * 9_000_001)
    whole = sent_to(None, [b"head", Stretch(path, 1, 9_000_000)])
    assert (sum(whole), max(whole)) == (9_000_004, 1 << 20)
    assert len(sent_to(2, [Stretch(path, 0, 9_000_001)])) == 3 - 1
    made: list[int] = []
    sent_to(1, [Computed(lambda: b"1"), Computed(lambda: made.append(1) or b"2")])
    assert made == [1]  # it was under way; the answer ends with it


def test_a_file_that_is_made_has_no_name_while_it_is_sent(tmp_path):
    seen: list[list[Path]] = []

    def late() -> bytes:
        seen.append(list(tmp_path.iterdir()))
        return b""

    sizes = sent_to(None, [Made(lambda path: path.write_bytes(b"x" * 10) and None, tmp_path), Computed(late)])
    assert (sizes, seen) == ([10], [[]])


def test_a_file_that_cannot_be_made_leaves_no_half_of_it(tmp_path):
    def half(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        sent_to(None, [Made(half, tmp_path)])
    assert list(tmp_path.iterdir()) == []
