"""Metadata are put together from members that are remembered: they say what pydicom says of the whole data set."""

from __future__ import annotations

import json
import threading
import time
import tracemalloc
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from plugin.dicomweb import metadata
from plugin.dicomweb.metadata import Cache
from plugin.dicomweb.resources import Held

SYNTAXES = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
PIXELS = "7FE00010"


def object_with(*, signed: bool, character_set: str, name: str) -> Dataset:
    """An image whose smallest value has all bits set: 65535, or -1 where its pixels are signed."""
    dataset = Dataset()
    dataset.SpecificCharacterSet = character_set
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.2.3"
    dataset.PatientName = name
    dataset.StudyDate = ""
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.SliceThickness = "1.250"
    dataset.Rows, dataset.Columns, dataset.BitsAllocated, dataset.SamplesPerPixel = 2, 3, 16, 1
    dataset.PixelRepresentation = int(signed)
    vr = "SS" if signed else "US"
    dataset.add_new("SmallestImagePixelValue", vr, -1 if signed else 0xFFFF)
    table = Dataset()
    table.add_new("LUTDescriptor", vr, [3, -1 if signed else 0xFFFF, 16])
    table.ModalityLUTType, table.LUTData = "HU", b"\1\0\2\0\3\0"
    deep = Dataset()
    deep.CodeMeaning, deep.ModalityLUTSequence = name, Sequence([table])
    dataset.ModalityLUTSequence, dataset.RequestAttributesSequence = Sequence([table]), Sequence([deep, Dataset()])
    own = dataset.private_block(0x0019, "GEMS_ACQU_01", create=True)
    own.add_new(0x23, "DS", "1.5")
    other = dataset.private_block(0x0021, "NOBODY KNOWS", create=True)
    other.add_new(0x01, "UN", b"\1\2\3\4")
    dataset.PixelData = b"\0\1" * 6
    return dataset


def bare() -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.2.3"
    return dataset


def written(dataset: Dataset, syntax: str, path: Path) -> Path:
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    buffer = BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True, little_endian=syntax != ExplicitVRBigEndian)
    path.write_bytes(buffer.getvalue())
    return path


def held(path: Path, syntax: str) -> Held:
    return Held("1.2.3", "1.1", "1.2", "1.2.4", syntax, path.name, path.stat().st_size, False, False, None, path)


def seen(path: Path, syntax: str) -> dict[str, object]:
    (found,) = metadata.data_sets([held(path, syntax)], "http://here")
    return found


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.name)
def test_metadata_are_what_pydicom_reads_in_the_whole_data_set(tmp_path: Path, syntax: str) -> None:
    """Signed after unsigned, Greek after Latin: the same bytes mean another thing, and each is seen twice."""
    for number, (signed, character_set, name) in enumerate(
        [
            (False, "ISO_IR 100", "M\u00fcller^J"),
            (True, "ISO_IR 126", "\u0394\u03b9\u03bf\u03bd"),
            (False, "ISO_IR 100", "M\u00fcller^J"),
        ]
    ):
        path = written(
            object_with(signed=signed, character_set=character_set, name=name), syntax, tmp_path / f"{number}.dcm"
        )
        expected = pydicom.dcmread(path).to_json_dict()
        expected = json.loads(json.dumps(expected)) | {"00080005": {"vr": "CS", "Value": ["ISO_IR 192"]}}
        found = seen(path, syntax)
        assert (
            found.pop(PIXELS)["BulkDataURI"] == "http://here/studies/1.1/series/1.2/instances/1.2.3/bulkdata/7FE00010"
        )
        assert found.pop("00083002") == {"vr": "UI", "Value": [syntax]}
        expected.pop(PIXELS)
        assert found == expected
        assert seen(path, syntax)["00280106"]["Value"] == [-1 if signed else 0xFFFF]


def test_a_private_sequence_without_a_length_is_one_in_implicit_vr(tmp_path: Path) -> None:
    item = b"\xfe\xff\x00\xe0\xff\xff\xff\xff\x08\x00\x04\x01\x04\x00\x00\x00Deep\xfe\xff\x0d\xe0\x00\x00\x00\x00"
    private = (
        b"\x29\x00\x10\x00\x04\x00\x00\x00MINE\x29\x00\x01\x10\xff\xff\xff\xff"
        + item
        + b"\xfe\xff\xdd\xe0\x00\x00\x00\x00"
    )
    path = written(bare(), ImplicitVRLittleEndian, tmp_path / "a.dcm")
    path.write_bytes(path.read_bytes() + private)
    found = seen(path, ImplicitVRLittleEndian)
    assert found["00291001"] == {"vr": "SQ", "Value": [{"00080104": {"vr": "LO", "Value": ["Deep"]}}]}


def test_what_lies_behind_the_pixels_is_not_listed_since_nothing_gives_it_out(tmp_path: Path) -> None:
    dataset = object_with(signed=False, character_set="ISO_IR 100", name="A^B")
    dataset.add_new(0xFFFCFFFC, "OB", b"\0" * 100_000)
    path = written(dataset, ExplicitVRLittleEndian, tmp_path / "a.dcm")
    assert "FFFCFFFC" not in seen(path, ExplicitVRLittleEndian)


def test_what_a_value_hangs_on_does_not_fill_the_memory(tmp_path: Path) -> None:
    """A creator of two million letters, and many small values of its block."""
    dataset = bare()
    dataset.add_new(0x00290010, "LO", "x" * 2_000_000)
    for number in range(200):
        dataset.add_new(0x00291000 + number, "UN", number.to_bytes(2, "little"))
    path = written(dataset, ImplicitVRLittleEndian, tmp_path / "a.dcm")
    metadata._member.cache_clear()
    tracemalloc.start()
    seen(path, ImplicitVRLittleEndian)
    held_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held_bytes < 10e6


def test_the_order_of_attributes_is_that_of_their_tags(tmp_path: Path) -> None:
    path = written(
        object_with(signed=True, character_set="ISO_IR 100", name="A^B"), ExplicitVRLittleEndian, tmp_path / "a"
    )
    assert list(seen(path, ExplicitVRLittleEndian)) == sorted(seen(path, ExplicitVRLittleEndian))


def test_what_several_ask_for_at_once_is_made_once(tmp_path: Path) -> None:
    cache, made, found = Cache(tmp_path / "cache", limit_mb=1), [], []

    def make() -> bytes:
        made.append(1)
        time.sleep(0.05)
        return b"[]"

    threads = [threading.Thread(target=lambda: found.append(cache.made("a.json", make))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(made), found) == (1, [b"[]"] * 5)


def test_what_could_not_be_made_is_tried_again_by_the_next(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", limit_mb=1)
    with pytest.raises(ZeroDivisionError):
        cache.made("a.json", lambda: bytes(1 // 0))
    assert cache.made("a.json", lambda: b"[1]") == b"[1]"
