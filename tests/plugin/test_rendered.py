"""Pictures: windows, parts and sizes, the mark that they must bear, and what cannot be shown."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO

import httpx
import numpy as np
import pytest
from archives import archive, bytes_of, generated, give
from dicom_objects import SERIES, STUDY, slice_of
from PIL import Image
from pydicom import Dataset
from served import Served, served

from dicom_io import picture, pixels
from plugin.archive.arrival import Arrival
from plugin.dicomweb import rendered
from plugin.dicomweb.rendered import BadView
from plugin.settings import Node, Settings

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

ROWS, COLUMNS = 40, 60
RAMP = np.arange(ROWS * COLUMNS, dtype="<u2").reshape(ROWS, COLUMNS)


@pytest.fixture
def door(tmp_path) -> Iterator[Served]:
    with served(archive(tmp_path), Settings(node=Node(data=tmp_path))) as here:
        yield here


def image(uid: str, values: np.ndarray = RAMP, **attributes: object) -> Dataset:
    """A lopsided image of 40 x 60 pixels with a window over all its values."""
    shape = {"Rows": values.shape[-2], "Columns": values.shape[-1], "PixelData": values.tobytes()}
    return slice_of(uid, **(shape | {"WindowCenter": 1200, "WindowWidth": 2400} | attributes))


def where(uid: str) -> str:
    return f"/studies/{STUDY}/series/{SERIES}/instances/{uid}"


def get(door: Served, path: str, accept: str = "image/png") -> httpx.Response:
    return door.http.get(door.url + path, headers={"Accept": accept})


def seen(answer: httpx.Response) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(BytesIO(answer.content)))


def test_a_picture_is_what_the_window_of_the_object_makes_of_it(door):
    give(door.ingest, image("1.1"))
    expected = np.rint(255 * pixels.window(RAMP, 1200, 2400)).astype(np.uint8)
    np.testing.assert_array_equal(seen(get(door, f"{where('1.1')}/rendered")), expected)


@pytest.mark.parametrize(
    ("window", "function"), [("linear", "LINEAR"), ("LINEAR_EXACT", "LINEAR_EXACT"), ("sigmoid", "SIGMOID")]
)
def test_a_window_that_is_asked_for_takes_its_place(door, window, function):
    give(door.ingest, image("1.1"))
    expected = np.rint(255 * pixels.window(RAMP, 700.5, 300, function)).astype(np.uint8)
    shown = seen(get(door, f"{where('1.1')}/rendered?window=700.5,300,{window}"))
    np.testing.assert_array_equal(shown, expected)


def test_monochrome1_is_turned(door):
    give(door.ingest, image("1.1"), None)
    give(door.ingest, image("1.2", PhotometricInterpretation="MONOCHROME1"))
    one, other = (seen(get(door, f"{where(uid)}/rendered")).astype(int) for uid in ("1.1", "1.2"))
    assert np.abs(one + other - 255).max() <= 1


def test_padding_is_black_and_no_value(door):
    values = RAMP + np.uint16(100)
    values[:7] = 4000
    give(door.ingest, slice_of("1.1", Rows=ROWS, Columns=COLUMNS, PixelData=values.tobytes(), PixelPaddingValue=4000))
    shown = seen(get(door, f"{where('1.1')}/rendered"))
    assert (shown[:7] == 0).all()
    assert (shown[7, 0], shown[-1, -1]) == (0, 255)


def test_signed_values_below_zero_are_looked_up_right(door):
    values = (RAMP.astype("<i2") * 20 - 24000).astype("<i2")
    give(door.ingest, image("1.1", values, BitsStored=16, HighBit=15, PixelRepresentation=1, WindowWidth=40000))
    expected = np.rint(255 * pixels.window(values, 1200, 40000)).astype(np.uint8)
    np.testing.assert_array_equal(seen(get(door, f"{where('1.1')}/rendered")), expected)


def test_an_enhanced_frame_has_its_own_window_and_rescaling(door):
    item, groups = Dataset(), []
    for slope, centre in ((1, 1200), (2, 3000)):
        group, voi, transformation = Dataset(), Dataset(), Dataset()
        voi.WindowCenter, voi.WindowWidth = centre, 2000
        transformation.RescaleSlope, transformation.RescaleIntercept = slope, 10
        group.FrameVOILUTSequence, group.PixelValueTransformationSequence = [voi], [transformation]
        groups.append(group)
    two = np.stack([RAMP, RAMP[::-1]])
    give(
        door.ingest,
        image(
            "1.1", two, NumberOfFrames=2, PerFrameFunctionalGroupsSequence=groups, SharedFunctionalGroupsSequence=[item]
        ),
    )
    expected = np.rint(255 * pixels.window(RAMP[::-1] * 2.0 + 10, 3000, 2000)).astype(np.uint8)
    np.testing.assert_array_equal(seen(get(door, f"{where('1.1')}/frames/2/rendered")), expected)


def test_a_part_fits_into_the_viewport_and_may_be_mirrored(door):
    give(door.ingest, image("1.1"))
    whole = seen(get(door, f"{where('1.1')}/rendered"))
    part = seen(get(door, f"{where('1.1')}/rendered?viewport=20,10,30,5,20,10"))
    np.testing.assert_array_equal(part, whole[5:15, 30:50])
    mirrored = seen(get(door, f"{where('1.1')}/rendered?viewport=20,10,30,5,-20,-10"))
    np.testing.assert_array_equal(mirrored, whole[5:15, 30:50][::-1, ::-1])
    assert seen(get(door, f"{where('1.1')}/rendered?viewport=30,300")).shape == (20, 30)
    assert seen(get(door, f"{where('1.1')}/rendered?viewport=600,80,,,,")).shape == (80, 120)


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("window=40,400", "window=40,400 must be centre,width,function"),
        ("window=40,0,linear", "a LINEAR window cannot have a width of 0"),
        ("window=a,1,linear", "window must hold numbers, not a,1"),
        ("window=nan,1,linear", "window must hold numbers, not nan,1"),
        ("viewport=5", "viewport=5 must be vw,vh"),
        ("viewport=0,5", "viewport must be columns and rows from 1 to 8192, not 0,5"),
        ("viewport=9,9,50,0,20,20", "the part 50,0,20,20 is not inside the image of 60 columns and 40 rows"),
        ("quality=0", "quality=0 is no whole number from 1 to 100"),
        ("annotation=weather", "annotation=weather holds 'weather'"),
        ("iccprofile=mine", "iccprofile=mine is none of"),
    ],
)
def test_a_malformed_view_is_a_sentence(door, query, sentence):
    give(door.ingest, image("1.1"))
    answer = get(door, f"{where('1.1')}/rendered?{query}")
    assert answer.status_code == 400
    assert sentence in answer.json()["detail"]


def test_what_is_asked_for_and_not_done_is_a_warning(door):
    give(door.ingest, image("1.1"))
    answer = get(door, f"{where('1.1')}/rendered?annotation=patient,technique&iccprofile=srgb")
    assert answer.status_code == 200
    text = "The following annotation values are not supported: patient,technique"
    assert answer.headers["warning"].startswith(f'299 {door.url}: "{text}"')
    assert "iccprofile=srgb is not supported" in answer.headers["warning"]


@pytest.mark.parametrize("kind", ["image/jpeg", "image/png", "image/gif"])
def test_each_format_is_what_it_says(door, kind):
    give(door.ingest, image("1.1"))
    answer = get(door, f"{where('1.1')}/rendered", kind)
    assert answer.headers["content-type"] == kind
    assert Image.open(BytesIO(answer.content)).format == kind.removeprefix("image/").upper()
    assert get(door, f"{where('1.1')}/rendered", "image/webp").status_code == 406


def test_a_browser_sees_one_picture_and_parts_hold_all(door):
    for number in range(3):
        give(door.ingest, image(f"1.{number}", RAMP + np.uint16(number)))
    browser = "text/html,application/xhtml+xml,image/avif,*/*;q=0.8"
    answer = get(door, f"/studies/{STUDY}/rendered", browser)
    assert answer.headers["content-type"] == "image/jpeg"
    assert "one of 3 pictures; accept multipart/related for all" in answer.headers["warning"]
    every = get(door, f"/studies/{STUDY}/series/{SERIES}/rendered", 'multipart/related; type="image/png"')
    assert every.content.count(b"Content-Type: image/png\r\n") == 3
    small = seen(get(door, f"/studies/{STUDY}/thumbnail?viewport=30,30", "image/jpeg"))
    assert small.shape == (20, 30)


def test_a_picture_that_a_client_has_is_not_sent_again(door):
    give(door.ingest, image("1.1"))
    first = get(door, f"{where('1.1')}/rendered")
    again = door.http.get(
        f"{door.url}{where('1.1')}/rendered", headers={"Accept": "image/png", "If-None-Match": first.headers["etag"]}
    )
    assert (again.status_code, again.content) == (304, b"")
    assert get(door, f"{where('1.1')}/rendered?quality=20").headers["etag"] != first.headers["etag"]


def test_a_pdf_is_shown_as_it_is_and_in_ranges(door):
    pdf = b"%PDF-1.4 short\n%%EOF\n"
    document = slice_of(
        "1.1",
        SOPClassUID="1.2.840.10008.5.1.4.1.1.104.1",
        EncapsulatedDocument=pdf + b"\0",
        EncapsulatedDocumentLength=len(pdf),
        MIMETypeOfEncapsulatedDocument="application/pdf",
        PixelData=None,
    )
    give(door.ingest, document)
    answer = get(door, f"{where('1.1')}/rendered", "text/html,*/*;q=0.8")
    assert (answer.headers["content-type"], answer.content) == ("application/pdf", pdf)
    part = door.http.get(f"{door.url}{where('1.1')}/rendered", headers={"Range": "bytes=-6"})
    assert (part.status_code, part.content) == (206, b"%%EOF\n")
    assert get(door, f"{where('1.1')}/thumbnail", "*/*").status_code == 406


def test_what_is_no_image_is_a_sentence(door):
    give(door.ingest, slice_of("1.1", PixelData=None))
    answer = get(door, f"{where('1.1')}/rendered")
    assert answer.status_code == 406
    assert "is an image, so there is no picture of it" in answer.json()["detail"]


# The mark


def synthetic(uid: str) -> Dataset:
    return image(uid, np.tile(RAMP, (4, 5)), SyntheticData="YES")


def strip(text: str, columns: int) -> np.ndarray:
    return np.where(picture.text_strip(text, columns), 255, 0)


def test_a_synthetic_object_of_others_gets_the_mark_below(door):
    give(door.ingest, synthetic("1.1"))
    answer = get(door, f"{where('1.1')}/rendered")
    shown = seen(answer)
    mark = strip("SYNTHETIC - not for diagnosis", 300)
    np.testing.assert_array_equal(shown[160:], mark)
    assert Image.open(BytesIO(answer.content)).text == {"Synthetic": "YES"}
    jpeg = get(door, f"{where('1.1')}/rendered", "image/jpeg")
    assert Image.open(BytesIO(jpeg.content)).info["comment"] == b"Synthetic=YES"


def test_a_small_picture_has_room_for_the_mark_or_is_refused(door):
    give(door.ingest, synthetic("1.1"))
    shown = seen(get(door, f"{where('1.1')}/thumbnail?viewport=128,128"))
    mark = strip("SYNTHETIC - not for diagnosis", 128)
    assert shown.shape[0] <= 128
    np.testing.assert_array_equal(shown[-len(mark) :], mark)
    refused = get(door, f"{where('1.1')}/thumbnail?viewport=16,16")
    assert refused.status_code == 400
    assert "has no room for the mark 'SYNTHETIC - not for diagnosis'" in refused.json()["detail"]


def test_our_own_picture_keeps_its_strip_and_gets_another_where_a_part_is_asked_for(door):
    dataset, record = generated()
    give(door.ingest, bytes_of(dataset), record, Arrival("own"))
    path = (
        f"/studies/{record.study_instance_uid}/series/{record.series_instance_uid}"
        f"/instances/{record.sop_instance_uid}/frames/1/rendered"
    )
    answer = get(door, path)
    shown = seen(answer)
    assert shown.shape == (dataset.Rows, dataset.Columns)
    assert np.ptp(shown[-record.mark_rows :]) == 255
    facts = Image.open(BytesIO(answer.content)).text
    assert facts == {"Synthetic": "YES", "Model": "painter:1", "AuditID": "audit-1", "Seed": "3"}
    part = seen(get(door, f"{path}?viewport=300,300,0,0,31,24"))
    mark = strip("SYNTHETIC - painter:1 - not for diagnosis", 300)
    np.testing.assert_array_equal(part[-len(mark) :], mark)


def test_a_window_and_a_size_are_checked_before_anything_is_read():
    with pytest.raises(BadView, match="quality=ten is no whole number"):
        rendered.view({"quality": "ten"})
    assert rendered.view({"viewport": "30,20,,,-5,"}).region == (0.0, 0.0, -5.0, float("inf"))
