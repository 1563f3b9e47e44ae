"""What a received file is: its identity, hashes and attributes, or the sentence that says why it cannot be kept.

The file is mapped, not read: its structure is walked once from end to end, and of the values only those are parsed that
the index holds, each spelling of a value once (`header`). Pixels are passed over, and hashed with all the rest.
"""

from __future__ import annotations

import hashlib
import re
import struct
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path

import pydicom
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.uid import UID

from dicom_io import dataset as whole_files
from dicom_io.dataset import Layout, Place
from dicom_io.errors import Rejected
from plugin.archive.header import Header
from plugin.archive.storage import mapped

CANNOT_UNDERSTAND = 0xC000
DOES_NOT_MATCH = 0xA900

# Bits of one sample where Bits Allocated (0028,0100) does not rule: Float and Double Float Pixel Data.
_PIXELS = {0x7FE00010: None, 0x7FE00008: 32, 0x7FE00009: 64}
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
# What pydicom raises on damaged values.
_DAMAGE = (
    InvalidDicomError,
    BytesLengthException,
    EOFError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    NotImplementedError,
    OverflowError,
    struct.error,
)


class Refused(Rejected):
    """The object goes to quarantine.

    status: DIMSE status (PS3.4 B.2.3), also the STOW-RS failure reason. The UIDs as far as they could be read.
    """

    def __init__(
        self, message: str, *, status: int = CANNOT_UNDERSTAND, sop_instance_uid: str = "", study_instance_uid: str = ""
    ) -> None:
        super().__init__(message)
        self.status = status
        self.sop_instance_uid = sop_instance_uid
        self.study_instance_uid = study_instance_uid


@dataclass(frozen=True)
class Received:
    """A file that can be kept.

    storage_key: from its file meta information and the hash of its data set. has_pixels: it has (Float, Double Float)
    Pixel Data.
    """

    path: Path
    size: int
    storage_key: str
    dataset_hash: str
    has_pixels: bool
    transfer_syntax_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str
    header: Header = field(repr=False)

    @property
    def dataset(self) -> pydicom.Dataset:
        """The header; values longer than 64 KiB are absent."""
        return self.header.dataset

    @property
    def patient_id(self) -> str:
        return self.header.text("PatientID")

    @property
    def is_synthetic(self) -> bool:
        return self.header.text("SyntheticData") == "YES"


def inspect(path: Path, dataset_hash: str | None = None) -> Received:
    """Look at a received file.

    dataset_hash: where the door has made it from the bytes as they came.

    Raises:
        Refused: not DICOM, truncated, without or with malformed UIDs, no SOP class, or pixel data whose length
            contradicts the header (PS3.5 8.1.1, A.4).
    """
    with mapped(path) as raw:
        try:
            layout = whole_files.layout(raw)
            header = Header(layout)
            identity = _identity(header)
        except Refused:
            raise
        except Rejected as error:
            raise Refused(str(error)) from error
        except _DAMAGE as error:
            raise Refused(f"the object cannot be parsed as DICOM ({error}); write it again") from error
        try:
            has_pixels = _check_pixels(header, layout)
        except Refused as error:
            error.sop_instance_uid = identity["sop_instance_uid"]
            error.study_instance_uid = identity["study_instance_uid"]
            raise
        hashed = dataset_hash or whole_files.dataset_hash(raw)
        return Received(
            path=path,
            size=len(raw),
            storage_key=_storage_key(bytes(raw[: layout.start]), hashed),
            dataset_hash=hashed,
            has_pixels=has_pixels,
            transfer_syntax_uid=layout.transfer_syntax,
            header=header,
            **identity,
        )


def _storage_key(file_meta: bytes, dataset_hash: str) -> str:
    """Two files have the same key where all their bytes are the same."""
    name = hashlib.sha256(file_meta + dataset_hash.encode()).hexdigest()
    return f"{name[:2]}/{name}.dcm"


_IDENTITY = {
    "sop_class_uid": ("SOPClassUID", "SOP Class UID (0008,0016)"),
    "sop_instance_uid": ("SOPInstanceUID", "SOP Instance UID (0008,0018)"),
    "study_instance_uid": ("StudyInstanceUID", "Study Instance UID (0020,000D)"),
    "series_instance_uid": ("SeriesInstanceUID", "Series Instance UID (0020,000E)"),
}


def _identity(header: Header) -> dict[str, str]:
    """The four UIDs. Raises Refused where one is absent, malformed or longer than 64 characters (PS3.5 9)."""
    identity = {name: header.text(keyword) for name, (keyword, _) in _IDENTITY.items()}

    def refused(message: str) -> Refused:
        uids = (identity["sop_instance_uid"][:256], identity["study_instance_uid"][:256])
        return Refused(message, sop_instance_uid=uids[0], study_instance_uid=uids[1])

    for name, (_, title) in _IDENTITY.items():
        uid = identity[name]
        if not uid:
            raise refused(f"the object has no {title}, so it cannot be filed; have the sender fill it in")
        if not _UID.fullmatch(uid) or len(uid) > 64:
            shown = uid if len(uid) <= 64 else f"{uid[:64]}..."
            raise refused(
                f"{title} is {shown!r}, which is no UID (digits and dots, at most 64 characters); "
                "have the sender correct it"
            )
    return identity


def _check_pixels(header: Header, layout: Layout) -> bool:
    """Whether there are pixels.

    Raises:
        Refused: native pixel data of another length than the header says.
    """
    for tag, bits in _PIXELS.items():
        place = _place(layout, tag)
        if place is None:
            continue
        syntax = UID(layout.transfer_syntax)
        # A private transfer syntax may encode pixels in any way.
        encapsulated = place.length == whole_files.UNDEFINED or (syntax.is_transfer_syntax and syntax.is_compressed)
        if not encapsulated and (syntax.is_transfer_syntax or not syntax.is_private):
            _check_pixel_length(header, place.length, bits)
        return True
    return False


def pixel_hash(path: Path) -> str:
    """SHA-256 (hex) of the pixel data of a whole file as encoded; "" where there are none."""
    with mapped(path) as raw:
        layout = whole_files.layout(raw)
        place = next((found for tag in _PIXELS if (found := _place(layout, tag))), None)
        if place is None:
            return ""
        with memoryview(layout.raw) as view, view[place.start : place.end] as pixels:
            return hashlib.sha256(pixels).hexdigest()


def _place(layout: Layout, tag: int) -> Place | None:
    """The element of the outermost data set with this tag; pixel data are near the end."""
    return next((place for place in reversed(layout.places) if place.tag == tag), None)


def _check_pixel_length(header: Header, length: int, bits: int | None) -> None:
    numbers = {
        keyword: header.text(keyword) or default
        for keyword, default in (
            ("Rows", ""), ("Columns", ""), ("BitsAllocated", str(bits or "")),
            ("SamplesPerPixel", "1"), ("NumberOfFrames", "1"),
        )
    }  # fmt: skip
    for keyword, value in numbers.items():
        if not value.isdigit():
            raise Refused(f"the object has pixel data but {keyword} is {value!r}; have the sender correct the header")
    rows, columns, allocated, samples, frames = (int(value) for value in numbers.values())
    samples_stored = 2 if header.text("PhotometricInterpretation") == "YBR_FULL_422" else samples
    expected = ceil(rows * columns * samples_stored * frames * (bits or allocated) / 8)
    if length not in (expected, expected + expected % 2):
        raise Refused(
            f"PixelData (7FE0,0010) has {length} bytes, but {frames} frame(s) of {rows} x {columns} pixels with "
            f"{samples} sample(s) of {bits or allocated} bits need {expected}; have the sender send the whole object"
        )
