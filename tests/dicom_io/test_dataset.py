"""What counts as a whole DICOM file, and what its hash is of."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian, JPEGLSLossless

from dicom_io import dataset
from dicom_io.dataset import dataset_hash, read, read_with_hash
from dicom_io.errors import NotDicom


@pytest.fixture
def image(make):
    """An image with sequences of defined and undefined length before its pixels."""
    ds = make.image(make.voxels()[0])
    inner, outer = Dataset(), Dataset()
    inner.CodeValue = "T-04000"
    outer.AnatomicRegionModifierSequence = Sequence([inner])
    ds.AnatomicRegionSequence = Sequence([outer, outer])
    ds["AnatomicRegionSequence"].is_undefined_length = True
    outer.is_undefined_length_sequence_item = True
    return ds


def test_a_file_is_the_same_from_path_and_from_bytes(make, image, tmp_path):
    raw = make.bytes(image)
    (tmp_path / "a.dcm").write_bytes(raw)

    assert read(tmp_path / "a.dcm") == read(raw) == read_with_hash(tmp_path / "a.dcm")[0]


def test_the_header_alone_can_be_read(make, image, tmp_path):
    (tmp_path / "a.dcm").write_bytes(make.bytes(image))

    header = read(tmp_path / "a.dcm", stop_before_pixels=True)

    assert "PixelData" not in header
    assert header.Rows == image.Rows


def test_the_hash_is_of_the_bytes_after_the_file_meta_group(make, image):
    raw = make.bytes(image)
    body = raw[
        132 + 12 + pydicom.dcmread(pydicom.filebase.DicomBytesIO(raw)).file_meta.FileMetaInformationGroupLength :
    ]

    assert dataset_hash(raw) == hashlib.sha256(body).hexdigest() == read_with_hash(raw)[1]


def test_a_receivers_own_file_meta_does_not_change_the_hash_and_a_pixel_does(make, image):
    before = dataset_hash(make.bytes(image))

    image.file_meta.SourceApplicationEntityTitle = "ANOTHER"
    assert dataset_hash(make.bytes(image)) == before

    image.PixelData = b"\1" + image.PixelData[1:]
    assert dataset_hash(make.bytes(image)) != before


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_every_encoding_of_the_data_set_is_walked(make, image, syntax):
    image.set_original_encoding(syntax.is_implicit_VR, syntax.is_little_endian)
    image.file_meta.TransferSyntaxUID = syntax
    raw = make.bytes(image)

    assert read(raw).AnatomicRegionSequence[1].AnatomicRegionModifierSequence[0].CodeValue == "T-04000"
    with pytest.raises(NotDicom, match="send the whole file"):
        read(raw[:-3])


def test_a_cut_inside_any_value_is_refused_where_pydicom_says_nothing(make, image):
    raw = make.bytes(image)
    pixels = raw.rindex(image.PixelData)
    cuts = range(pixels + 1, len(raw))
    assert all(pydicom.dcmread(pydicom.filebase.DicomBytesIO(raw[:cut])) is not None for cut in list(cuts)[::9])

    for cut in cuts:
        with pytest.raises(NotDicom, match=r"\(7fe0,0010\) says 56 bytes"):
            read(raw[:cut])


def test_a_cut_inside_a_sequence_of_undefined_length_is_refused(make, image):
    raw = make.bytes(image)
    start, end = raw.index(b"\x08\x00\x18\x22SQ"), raw.index(b"\x08\x00\x18\x22SQ") + 60

    for cut in range(start + 1, end):
        with pytest.raises(NotDicom):
            read(raw[:cut])


def test_a_cut_inside_encapsulated_fragments_is_refused(make, image):
    image.file_meta.TransferSyntaxUID = JPEGLSLossless
    image.PixelData = encapsulate([b"\xff\xd8" + bytes(range(100)), b"\xff\xd8" + bytes(80)])
    image["PixelData"].is_undefined_length = True
    raw = make.bytes(image)
    assert read(raw)

    for cut in range(raw.index(b"\xe0\x7f\x10\x00") + 1, len(raw)):
        with pytest.raises(NotDicom):
            read(raw[:cut])


def test_a_renamed_text_file_is_named_and_refused(tmp_path):
    (tmp_path / "notes.dcm").write_text("not an image\n" * 50)

    with pytest.raises(NotDicom, match=r"notes\.dcm is no DICOM file: bytes 129 to 132 are not 'DICM'"):
        read(tmp_path / "notes.dcm")


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "empty.dcm").touch()

    with pytest.raises(NotDicom, match=r"empty\.dcm is empty"):
        read(tmp_path / "empty.dcm")


@pytest.mark.parametrize("keyword", ["SOPClassUID", "SOPInstanceUID"])
def test_an_object_without_its_identity_is_refused_by_name(make, image, keyword):
    raw = make.bytes(image)
    broken = pydicom.dcmread(pydicom.filebase.DicomBytesIO(raw))
    delattr(broken, keyword)
    buffer = pydicom.filebase.DicomBytesIO()
    pydicom.dcmwrite(buffer, broken, enforce_file_format=False)

    with pytest.raises(NotDicom, match=f"no single {keyword}"):
        read(buffer.getvalue())


def test_zeros_after_the_last_element_are_padding(make, image):
    read(make.bytes(image) + bytes(6))


@pytest.mark.parametrize("seed", range(3))
def test_damaged_bytes_give_a_sentence_and_nothing_else(make, image, seed):
    rng = np.random.default_rng(seed)
    raw = make.bytes(image)
    for _ in range(150):
        damaged = bytearray(raw)
        for place in rng.integers(132, len(raw), 4):
            damaged[place] = rng.integers(256)
        try:
            read(bytes(damaged))
        except NotDicom as error:
            assert str(error).count(". ") == 0


# Data sets as they lie, and headers


def test_real_files_are_read_as_pydicom_reads_them(test_data):
    """Without a second walk over the bytes; what that cannot do goes to pydicom, and is rare."""
    paths = sorted(test_data.rglob("*.dcm"))
    taken = 0
    for path in [*paths[::7], *test_data.glob("transfer-syntaxes/*"), *test_data.glob("mammo-dicom/*.dcm")]:
        raw = path.read_bytes()
        found = dataset.layout(raw)
        if not dataset._is_plain(found):
            continue
        ours, theirs = dataset._laid_out(found), pydicom.dcmread(io.BytesIO(raw))
        assert list(ours.keys()) == list(theirs.keys())
        assert (ours.file_meta, ours.preamble) == (theirs.file_meta, theirs.preamble)
        assert ours.original_encoding == theirs.original_encoding
        assert ours.original_character_set == theirs.original_character_set
        assert ours == theirs
        taken += 1
    assert taken > 300


def test_the_same_bytes_are_parsed_once_and_other_bytes_anew(make):
    first, second, other = (one.dataset for one in make.slices(make.series()[:3]))
    spacing = dataset.value(first, "PixelSpacing")

    assert dataset.value(second, "PixelSpacing") is spacing
    assert dataset.value(other, "ImagePositionPatient") != dataset.value(first, "ImagePositionPatient")
    assert dataset.value(first, "EchoTime") is None


def test_a_header_is_changed_without_its_origin(make):
    (one,) = make.slices(make.series()[:1])
    rows = one.dataset.Rows
    header = dataset.header_of(one.dataset)
    dataset.put(header, "Rows", 99)

    assert (header.Rows, one.dataset.Rows) == (99, rows)
    assert "PixelData" not in header and "PixelData" in one.dataset
    assert header.file_meta.TransferSyntaxUID == one.dataset.file_meta.TransferSyntaxUID
