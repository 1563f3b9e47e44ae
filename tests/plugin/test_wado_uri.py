"""WADO-URI, as old viewers ask."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO

import httpx
import numpy as np
import pytest
from archives import archive, give
from dicom_objects import SERIES, STUDY, file_of, slice_of
from PIL import Image
from pydicom import dcmread
from pydicom.uid import RLELossless
from served import Served, served

from dicom_io import pixels
from plugin.settings import Node, Settings

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
FRAMES = (np.arange(2 * 40 * 60, dtype="<u2") // 2).reshape(2, 40, 60)


@pytest.fixture
def door(tmp_path) -> Iterator[Served]:
    with served(archive(tmp_path), Settings(node=Node(data=tmp_path))) as here:
        shape = {"NumberOfFrames": 2, "Rows": 40, "Columns": 60, "PixelData": FRAMES.tobytes()}
        give(here.ingest, slice_of("1.1", **shape, WindowCenter=2400, WindowWidth=4800))
        yield here


def ask(door: Served, accept: str = "*/*", **changes: str | None) -> httpx.Response:
    query = {"requestType": "WADO", "studyUID": STUDY, "seriesUID": SERIES, "objectUID": "1.1"} | changes
    root = door.url.removesuffix("/dicom-web")
    asked = {name: value for name, value in query.items() if value is not None}
    return door.http.get(f"{root}/wado", params=asked, headers={"Accept": accept})


def test_an_object_comes_as_it_is_stored_or_as_it_is_asked_for(door):
    raw = file_of(dcmread(door.ingest.index.instance("1.1").path))
    assert ask(door, contentType="application/dicom").content == raw
    rle = ask(door, contentType="application/dicom", transferSyntax=str(RLELossless))
    found = dcmread(BytesIO(rle.content))
    assert found.file_meta.TransferSyntaxUID == RLELossless
    np.testing.assert_array_equal(found.pixel_array, FRAMES)


def test_a_picture_is_that_of_the_frame_window_and_part(door):
    plain = ask(door)
    assert plain.headers["content-type"] == "image/jpeg"
    asked = {"windowCenter": "1800", "windowWidth": "900", "frameNumber": "2", "region": "0.5,0.25,1,0.75"}
    shown = np.asarray(Image.open(BytesIO(ask(door, contentType="image/png", **asked).content)))
    expected = np.rint(255 * pixels.window(FRAMES[1, 10:30, 30:], 1800, 900)).astype(np.uint8)
    np.testing.assert_array_equal(shown, expected)
    small = Image.open(BytesIO(ask(door, contentType="image/png", columns="30", rows="30").content))
    assert small.size == (30, 20)
    assert Image.open(BytesIO(ask(door, columns="120").content)).size == (120, 80)


def test_annotations_are_not_drawn_and_that_is_said(door):
    assert "annotation values are not supported: patient" in ask(door, annotation="patient").headers["warning"]


@pytest.mark.parametrize(
    ("changes", "status", "sentence"),
    [
        ({"anonymize": "yes"}, 400, "anonymize is not done here"),
        ({"presentationUID": "1.2"}, 400, "presentation states are not applied here"),
        ({"objectUID": None}, 400, "objectUID is missing; WADO-URI needs requestType, studyUID, seriesUID, objectUID"),
        ({"requestType": "wado"}, 400, "requestType=wado is not WADO"),
        ({"objectUID": "1.9"}, 404, "nothing is stored under"),
        ({"seriesUID": "1.9"}, 404, "nothing is stored under"),
        ({"frameNumber": "3"}, 404, "there is no frame 3"),
        ({"frameNumber": "x"}, 400, "frameNumber=x is no frame number"),
        ({"region": "0,0,1"}, 400, "region=0,0,1 must be xmin,ymin,xmax,ymax"),
        ({"region": "0.5,0,0.2,1"}, 400, "region=0.5,0,0.2,1 must be xmin,ymin,xmax,ymax"),
        ({"windowCenter": "40"}, 400, "windowCenter,windowWidth must hold numbers, not 40,"),
        ({"imageQuality": "101"}, 400, "imageQuality=101 is no whole number from 1 to 100"),
        ({"rows": "-1"}, 400, "columns,rows must be columns and rows from 1 to 8192"),
        ({"contentType": "text/plain"}, 406, "pictures are given as image/jpeg, image/png, image/gif"),
        ({"contentType": "application/dicom", "transferSyntax": "1.2.3"}, 406, "cannot be given in 1.2.3"),
    ],
)
def test_what_is_not_given_is_a_sentence(door, changes, status, sentence):
    answer = ask(door, **changes)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert sentence in answer.json()["detail"]
