"""One object in another transfer syntax: the same pixels and header, whatever it was stored in."""

from __future__ import annotations

import struct
import subprocess
import tracemalloc
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.pixels import get_encoder
from pydicom.uid import (
    JPEG2000,
    MPEG2MPML,
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from dicom_io import dataset, pixels
from dicom_io.encoding import NATIVE, TARGETS, CannotEncode, can_write, choose, write
from dicom_io.errors import NotDicom, UndecodablePixels

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
FRAMES, ROWS, COLUMNS = 3, 5, 7
COMPRESSED = (RLELossless, JPEGLSLossless, JPEG2000Lossless)


def image(values: np.ndarray, **attributes: Any) -> Dataset:
    """An image of (frames, rows, columns[, samples]); rows and columns differ, and no two frames are alike."""
    made = Dataset()
    made.SpecificCharacterSet = "ISO_IR 100"
    made.SOPClassUID, made.SOPInstanceUID = CTImageStorage, generate_uid()
    made.StudyInstanceUID, made.SeriesInstanceUID = generate_uid(), generate_uid()
    made.PatientID, made.PatientName = "P", "Gr\xf6\xdfe^\xc4"
    made.NumberOfFrames, made.Rows, made.Columns = values.shape[:3]
    made.SamplesPerPixel = values.shape[3] if values.ndim == 4 else 1
    made.PhotometricInterpretation = "RGB" if values.ndim == 4 else "MONOCHROME2"
    if values.ndim == 4:
        made.PlanarConfiguration = 0
    bits = 8 * values.dtype.itemsize
    made.BitsAllocated, made.BitsStored, made.HighBit = bits, bits, bits - 1
    made.PixelRepresentation = int(values.dtype.kind == "i")
    made.PixelData = values.tobytes() + b"\0" * (values.nbytes % 2)
    made["PixelData"].VR = "OB" if bits == 8 else "OW"
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    return made


def stored(path: Path, made: Dataset, syntax: UID = ExplicitVRLittleEndian) -> Path:
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = syntax
    made.file_meta.MediaStorageSOPClassUID, made.file_meta.MediaStorageSOPInstanceUID = (
        made.SOPClassUID,
        made.SOPInstanceUID,
    )
    implicit, little = syntax.is_implicit_VR, syntax.is_little_endian
    pydicom.dcmwrite(path, made, implicit_vr=implicit, little_endian=little, enforce_file_format=True)
    return path


def grey(dtype: str, low: int, high: int) -> np.ndarray:
    rng = np.random.default_rng(5)
    return rng.integers(low, high, (FRAMES, ROWS * 8, COLUMNS * 8), endpoint=True).astype(dtype)


def colour() -> np.ndarray:
    return np.random.default_rng(6).integers(0, 256, (FRAMES, ROWS * 8, COLUMNS * 8 + 1, 3)).astype("u1")


KINDS: dict[str, Callable[[], Dataset]] = {
    "16 bit": lambda: image(grey("<u2", 0, 65535)),
    "12 bit signed": lambda: image(grey("<i2", -2048, 2047), BitsStored=12, HighBit=11),
    "8 bit, odd length": lambda: image(grey("u1", 0, 255)[:, :39, :55]),
    "palette": lambda: image(grey("u1", 0, 255), PhotometricInterpretation="PALETTE COLOR"),
    "colour by pixel": lambda: image(colour()),
    "colour by plane": lambda: image(
        colour(), PlanarConfiguration=1, PixelData=colour().transpose(0, 3, 1, 2).tobytes()
    ),
    "YBR_FULL": lambda: image(colour(), PhotometricInterpretation="YBR_FULL"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target", TARGETS, ids=lambda uid: uid.keyword)
def test_every_kind_of_pixels_survives_the_way_there_and_back(tmp_path: Path, kind: str, target: UID) -> None:
    source = stored(tmp_path / "source.dcm", KINDS[kind](), ExplicitVRLittleEndian)
    write(source, tmp_path / "there.dcm", target)
    write(tmp_path / "there.dcm", tmp_path / "back.dcm", ImplicitVRLittleEndian)
    before, there, back = (dataset.read(tmp_path / f"{name}.dcm") for name in ("source", "there", "back"))
    assert there.file_meta.TransferSyntaxUID == target
    assert there.PhotometricInterpretation == before.PhotometricInterpretation
    np.testing.assert_array_equal(pixels.stored(there), pixels.stored(before))
    np.testing.assert_array_equal(pixels.stored(back), pixels.stored(before))


def header() -> Dataset:
    """What encodings trip over: private blocks, UN, nested sequences, ambiguous VRs, text that is no text."""
    made = image(grey("<i2", -5, 5)[:1], SmallestImagePixelValue=-5)
    made["SmallestImagePixelValue"].VR = "SS"
    block = made.private_block(0x0029, "ACME 1.1", create=True)
    block.add_new(1, "DS", "1.50\\002")
    block.add_new(2, "UN", b"\1\2\3\4")
    inner = Dataset()
    inner.CodeValue, inner.CodeMeaning = "1", "x" * 63
    outer = Dataset()
    outer.PurposeOfReferenceCodeSequence = [inner, Dataset()]
    outer.private_block(0x0031, "NESTED", create=True).add_new(3, "FD", 0.1)
    made.ReferencedImageSequence = [outer, outer]
    made.RescaleSlope = "1.0000000000000"
    made.add_new(0x00280121, "SS", -7)
    return made


@pytest.mark.parametrize("stored_in", [*NATIVE, ExplicitVRBigEndian], ids=lambda uid: uid.keyword)
@pytest.mark.parametrize("target", TARGETS, ids=lambda uid: uid.keyword)
def test_the_header_says_the_same_value_by_value(tmp_path: Path, stored_in: UID, target: UID) -> None:
    source = stored(tmp_path / "source.dcm", header(), stored_in)
    write(source, tmp_path / "target.dcm", target)
    before, after = dataset.read(source), dataset.read(tmp_path / "target.dcm")
    for each in (before, after):
        del each[0x7FE00010]
    # Implicit VR says no VR, so private values come back as bytes there.
    private = ImplicitVRLittleEndian in (stored_in, target)
    for each in (before, after) if private else ():
        each.remove_private_tags()
    assert after == before


def test_values_are_copied_and_never_read(tmp_path: Path) -> None:
    """A decimal string with letters and a name in bytes that its character set does not have."""
    made = image(grey("<u2", 0, 9)[:1])
    raw = stored(tmp_path / "good.dcm", made).read_bytes()
    wrong = raw.replace("Gr\xf6\xdfe^\xc4".encode("latin1"), b"Gr\xff\x00\x1b^\x80")
    assert wrong != raw
    (tmp_path / "wrong.dcm").write_bytes(wrong)
    write(tmp_path / "wrong.dcm", tmp_path / "target.dcm", ImplicitVRLittleEndian)
    assert b"Gr\xff\x00\x1b^\x80" in (tmp_path / "target.dcm").read_bytes()


def encoded_frames(values: np.ndarray) -> list[bytes]:
    options = {"rows": values.shape[1], "columns": values.shape[2], "number_of_frames": 1, "samples_per_pixel": 1}
    options |= {"bits_allocated": 16, "bits_stored": 16, "pixel_representation": 0, "index": None}
    options |= {"photometric_interpretation": "MONOCHROME2"}
    return [get_encoder(JPEGLSLossless).encode(frame.tobytes(), **options) for frame in values]


@pytest.mark.parametrize("table", ["none", "basic", "extended", "fragments"])
def test_frames_are_found_with_and_without_a_table_of_offsets(tmp_path: Path, table: str) -> None:
    values = grey("<u2", 0, 65535)
    made, frames = image(values), encoded_frames(values)
    if table == "extended":
        made.PixelData, made.ExtendedOffsetTable, made.ExtendedOffsetTableLengths = encapsulate_extended(frames)
    else:
        pieces = 3 if table == "fragments" else 1
        made.PixelData = encapsulate(frames, pieces, has_bot=table == "basic")
    made["PixelData"].VR, made["PixelData"].is_undefined_length = "OB", True
    source = stored(tmp_path / "source.dcm", made, JPEGLSLossless)
    for target in (ExplicitVRLittleEndian, RLELossless):
        write(source, tmp_path / "target.dcm", target)
        after = dataset.read(tmp_path / "target.dcm")
        assert "ExtendedOffsetTable" not in after
        np.testing.assert_array_equal(pixels.stored(after), values)


def test_bits_pixels_of_floats_and_overlays_in_unused_bits_are_kept_or_refused(tmp_path: Path) -> None:
    bits = np.random.default_rng(7).integers(0, 2, FRAMES * ROWS * COLUMNS).astype("u1")
    seg = image(grey("u1", 0, 1), Rows=ROWS, Columns=COLUMNS, BitsAllocated=1, BitsStored=1, HighBit=0)
    seg.PixelData = np.packbits(bits, bitorder="little").tobytes()
    source = stored(tmp_path / "seg.dcm", seg)
    for target in NATIVE:
        write(source, tmp_path / "target.dcm", target)
        np.testing.assert_array_equal(pixels.stored(dataset.read(tmp_path / "target.dcm")).ravel(), bits)
    for target in COMPRESSED:
        with pytest.raises(CannotEncode, match="one bit"):
            write(source, tmp_path / "refused.dcm", target)
    floats = image(grey("<u2", 0, 1), BitsAllocated=32)
    del floats.PixelData
    floats.FloatPixelData = np.linspace(0, 1, FRAMES * 40 * 56, dtype="<f4").tobytes()
    source = stored(tmp_path / "float.dcm", floats, ExplicitVRBigEndian)
    write(source, tmp_path / "target.dcm", ImplicitVRLittleEndian)
    swapped = np.frombuffer(dataset.read(source).FloatPixelData, ">f4").astype("<f4").tobytes()
    assert dataset.read(tmp_path / "target.dcm").FloatPixelData == swapped
    with pytest.raises(CannotEncode, match="floating point"):
        write(source, tmp_path / "refused.dcm", RLELossless)
    assert not (tmp_path / "refused.dcm").exists()


def test_bits_beside_the_pixels_go_with_rle_and_are_never_lost(tmp_path: Path) -> None:
    """An overlay in the high bits (PS3.3 C.9.2), as old scanners wrote them."""
    source = stored(tmp_path / "source.dcm", image(grey("<u2", 0, 65535), BitsStored=12, HighBit=11))
    write(source, tmp_path / "rle.dcm", RLELossless)
    write(tmp_path / "rle.dcm", tmp_path / "back.dcm", ExplicitVRLittleEndian)
    assert dataset.read(tmp_path / "back.dcm").PixelData == dataset.read(source).PixelData
    for target in (JPEGLSLossless, JPEG2000Lossless):
        with pytest.raises(CannotEncode, match="12 stored bits"):
            write(source, tmp_path / "refused.dcm", target)


def test_jpeg_becomes_rgb_and_says_so_while_what_was_lost_stays_said(tmp_path: Path) -> None:
    buffer = BytesIO()
    Image.fromarray(colour()[0]).save(buffer, "JPEG", quality=90)
    made = image(colour()[:1], PhotometricInterpretation="YBR_FULL_422", LossyImageCompression="01")
    made.PixelData = encapsulate([buffer.getvalue()])
    made["PixelData"].VR, made["PixelData"].is_undefined_length = "OB", True
    source = stored(tmp_path / "source.dcm", made, JPEGBaseline8Bit)
    for target in (ExplicitVRLittleEndian, JPEG2000Lossless):
        write(source, tmp_path / "target.dcm", target)
        after = dataset.read(tmp_path / "target.dcm")
        assert (after.PhotometricInterpretation, after.PlanarConfiguration) == ("RGB", 0)
        assert (after.LossyImageCompression, after.SOPInstanceUID) == ("01", made.SOPInstanceUID)
        np.testing.assert_array_equal(pixels.stored(after), pixels.stored(dataset.read(source)))


def test_an_icon_is_carried_along(tmp_path: Path) -> None:
    values = grey("<u2", 0, 65535)
    made, icon = image(values), image(values[:1])
    del icon.SOPClassUID, icon.SOPInstanceUID
    for each, frames in ((made, encoded_frames(values)), (icon, encoded_frames(values[:1]))):
        each.PixelData = encapsulate(frames)
        each["PixelData"].VR, each["PixelData"].is_undefined_length = "OB", True
    made.IconImageSequence = [icon]
    source = stored(tmp_path / "source.dcm", made, JPEGLSLossless)
    for target in (ImplicitVRLittleEndian, ExplicitVRLittleEndian, RLELossless):
        write(source, tmp_path / "target.dcm", target)
        after = dataset.read(tmp_path / "target.dcm")
        assert after.IconImageSequence[0].PixelData == values[0].tobytes()
        np.testing.assert_array_equal(pixels.stored(after), values)


def test_sixteen_encodings_of_one_slice_give_one_picture(tmp_path: Path, test_data: Path) -> None:
    """A real scanner's slice with private elements; what cannot be decoded is refused with a sentence."""
    sources = sorted((test_data / "transfer-syntaxes").glob("*.dcm"))
    refused = set()
    for source in sources:
        try:
            write(source, tmp_path / "target.dcm", RLELossless)
        except (CannotEncode, UndecodablePixels) as error:
            refused.add(dataset.read(source).file_meta.TransferSyntaxUID)
            assert "1.2.840.10008.1.2.4" in str(error)
            continue
        if dataset.read(source).file_meta.TransferSyntaxUID != RLELossless:
            after = dataset.read(tmp_path / "target.dcm")
            np.testing.assert_array_equal(pixels.stored(after), pixels.stored(dataset.read(source)))
    assert {uid.rpartition(".")[2] for uid in refused} == {"51", "53", "55"}


@pytest.mark.parametrize("target", TARGETS, ids=lambda uid: uid.keyword)
def test_other_readers_read_what_is_written(
    tmp_path: Path, test_data: Path, needs: Callable[[str], str], target: UID
) -> None:
    (source,) = (test_data / "transfer-syntaxes").glob("*1.2.840.10008.1.2.1.dcm")
    written = tmp_path / "target.dcm"
    write(source, written, target)
    dump = subprocess.run([needs("dcmdump"), written], capture_output=True, text=True, check=True)
    assert dump.stderr == ""
    raw = tmp_path / "raw.dcm"
    subprocess.run([needs("gdcmconv"), "--raw", written, raw], check=True)
    np.testing.assert_array_equal(pixels.stored(dataset.read(raw)), pixels.stored(dataset.read(source)))
    found = [subprocess.run([needs("dciodvfy"), each], capture_output=True, text=True).stderr for each in (source, raw)]
    errors = [sorted({line for line in text.splitlines() if line.startswith("Error")}) for text in found]
    assert set(errors[1]) <= set(errors[0])


def test_memory_does_not_grow_with_the_number_of_frames(tmp_path: Path) -> None:
    frame = np.zeros((1, 256, 256), "<u2")
    few = stored(tmp_path / "few.dcm", image(frame))
    many = image(frame, NumberOfFrames=200)
    many.PixelData = bytes(200 * frame.nbytes)
    many_path = stored(tmp_path / "many.dcm", many)
    del many

    def peak(source: Path, target: UID) -> int:
        write(source, tmp_path / "warm.dcm", target)
        tracemalloc.start()
        write(source, tmp_path / "target.dcm", target)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    for target in (ImplicitVRLittleEndian, RLELossless, DeflatedExplicitVRLittleEndian):
        assert peak(many_path, target) < peak(few, target) + 4 * frame.nbytes + (1 << 21) < 200 * frame.nbytes / 4


def test_the_choice_is_what_is_stored_then_what_the_peer_likes_best_and_never_lossy() -> None:
    explicit, implicit = ExplicitVRLittleEndian, ImplicitVRLittleEndian
    assert choose(JPEGLSLossless, [implicit, JPEGLSLossless]) == JPEGLSLossless
    assert choose(JPEGLSLossless, [JPEGBaseline8Bit, implicit, explicit]) == implicit
    assert choose(explicit, [JPEG2000, JPEG2000Lossless, implicit]) == JPEG2000Lossless
    assert choose(explicit, [JPEGBaseline8Bit]) is None
    assert choose(JPEGBaseline8Bit, [JPEGBaseline8Bit]) == JPEGBaseline8Bit
    assert not can_write(MPEG2MPML, explicit)
    assert not can_write(explicit, ExplicitVRBigEndian)


def test_what_cannot_be_is_one_sentence_and_leaves_no_file(tmp_path: Path) -> None:
    source = stored(tmp_path / "source.dcm", image(grey("<u2", 0, 9)))
    target = tmp_path / "target.dcm"
    with pytest.raises(CannotEncode, match="cannot be written in"):
        write(source, target, JPEGBaseline8Bit)
    raw = source.read_bytes()
    (tmp_path / "short.dcm").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(NotDicom, match="ends too early"):
        write(tmp_path / "short.dcm", target, ImplicitVRLittleEndian)
    (tmp_path / "more.dcm").write_bytes(raw.replace(b"\x28\0\x08\0IS\x02\x003 ", b"\x28\0\x08\0IS\x02\x009 "))
    with pytest.raises(UndecodablePixels, match="9 frames"):
        write(tmp_path / "more.dcm", target, RLELossless)
    assert not target.exists()


def test_a_table_of_offsets_points_at_each_frame(tmp_path: Path) -> None:
    source = stored(tmp_path / "source.dcm", image(grey("<u2", 0, 65535)))
    write(source, tmp_path / "target.dcm", RLELossless)
    encapsulated = dataset.read(tmp_path / "target.dcm").PixelData
    length = struct.unpack_from("<I", encapsulated, 4)[0]
    offsets = struct.unpack_from(f"<{FRAMES}I", encapsulated, 8)
    assert length == 4 * FRAMES
    assert all(encapsulated[8 + length + offset :][:4] == b"\xfe\xff\x00\xe0" for offset in offsets)
    assert len(set(offsets)) == FRAMES


def test_damaged_frames_are_a_sentence_also_where_the_decoder_panics_over_them(tmp_path: Path) -> None:
    made = image(np.zeros((1, 4, 4), np.uint16))
    # Two segments (PS3.5 G.5), each with a run of 128 bytes, where the frame has 16 pixels.
    made.PixelData = encapsulate([struct.pack("<3I", 2, 64, 66) + bytes(52) + b"\x81\x07\x81\x07"], has_bot=False)
    made["PixelData"].is_undefined_length = True
    source = stored(tmp_path / "runs.dcm", made, RLELossless)
    with pytest.raises(UndecodablePixels, match="cannot be decoded"):
        write(source, tmp_path / "plain.dcm", ExplicitVRLittleEndian)
    assert not (tmp_path / "plain.dcm").exists()


def test_a_damaged_header_is_a_sentence_and_leaves_no_file(tmp_path: Path) -> None:
    source = stored(tmp_path / "image.dcm", image(grey("uint16", 0, 4000)))
    raw = source.read_bytes()
    source.write_bytes(raw.replace(b"\x28\x00\x10\x00US", b"\x28\x00\x10\x00JS"))
    with pytest.raises(UndecodablePixels, match="header"):
        write(source, tmp_path / "other.dcm", JPEG2000Lossless)
    assert not (tmp_path / "other.dcm").exists()
