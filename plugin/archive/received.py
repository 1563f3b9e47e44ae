"""What a received file is: its identity, hashes and attributes, or the sentence that says why it cannot be kept.

The file is mapped, not read: only headers are parsed, pixels are hashed where they lie.
"""

from __future__ import annotations

import hashlib
import re
import struct
import warnings
from dataclasses import dataclass, field
from functools import cached_property
from math import ceil
from mmap import mmap
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.tag import BaseTag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from dicom_io import dataset as whole_files
from dicom_io.errors import Rejected
from plugin.archive import levels
from plugin.archive.storage import mapped

CANNOT_UNDERSTAND = 0xC000
DOES_NOT_MATCH = 0xA900

# Elements longer than this are left where they are in the file.
_DEFER_BYTES = 1 << 16
_UNDEFINED = 0xFFFFFFFF
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

    storage_key: from the hashes of its data set and its file meta information. pixel_hash: SHA-256 (hex) of the pixel
    data as encoded, "" where there are none. dataset: header; long values are deferred and must not be asked for.
    """

    path: Path
    size: int
    storage_key: str
    dataset_hash: str
    pixel_hash: str
    transfer_syntax_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str
    dataset: pydicom.Dataset = field(repr=False)

    @property
    def patient_id(self) -> str:
        return levels.text(self.dataset, "PatientID")

    @property
    def is_synthetic(self) -> bool:
        return levels.text(self.dataset, "SyntheticData") == "YES"

    @cached_property
    def _attributes(self) -> dict[levels.Level, dict[str, Any]]:
        return {level: levels.attributes(self.dataset, level) for level in levels.KEYWORDS}

    def attributes(self, level: levels.Level) -> dict[str, Any]:
        """DICOM JSON model of one level."""
        return self._attributes[level]

    def search(self, level: levels.Level) -> dict[str, Any]:
        """What queries compare of one level, by tag."""
        return levels.search_text(self._attributes[level])


def inspect(path: Path) -> Received:
    """Look at a received file.

    Raises:
        Refused: not DICOM, truncated, without or with malformed UIDs, no SOP class, or pixel data whose length
            contradicts the header (PS3.5 8.1.1, A.4).
    """
    with mapped(path) as raw:
        try:
            whole_files.check_whole(raw)
            hashed = whole_files.dataset_hash(raw)
            dataset = _header(path)
            identity = _identity(dataset)
        except Refused:
            raise
        except Rejected as error:
            raise Refused(str(error)) from error
        except _DAMAGE as error:
            raise Refused(f"the object cannot be parsed as DICOM ({error}); write it again") from error
        try:
            pixel_hash = _pixel_hash(dataset, raw)
        except Refused as error:
            error.sop_instance_uid = identity["sop_instance_uid"]
            error.study_instance_uid = identity["study_instance_uid"]
            raise
        whole = hashlib.sha256(raw).hexdigest()
        return Received(
            path=path,
            size=len(raw),
            storage_key=f"{whole[:2]}/{whole}.dcm",
            dataset_hash=hashed,
            pixel_hash=pixel_hash,
            transfer_syntax_uid=str(dataset.file_meta.TransferSyntaxUID),
            dataset=dataset,
            **identity,
        )


def _header(path: Path) -> pydicom.Dataset:
    with warnings.catch_warnings():
        # pydicom warns of each odd value; the bytes are kept as they came, and the archive is not their judge.
        warnings.simplefilter("ignore")
        meta = pydicom.filereader.read_file_meta_info(path)
        # A deflated data set is inflated in memory: its values have no place in the file to come back to.
        deflated = meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian
        return pydicom.dcmread(path, defer_size=None if deflated else _DEFER_BYTES)


_IDENTITY = {
    "sop_class_uid": ("SOPClassUID", "SOP Class UID (0008,0016)"),
    "sop_instance_uid": ("SOPInstanceUID", "SOP Instance UID (0008,0018)"),
    "study_instance_uid": ("StudyInstanceUID", "Study Instance UID (0020,000D)"),
    "series_instance_uid": ("SeriesInstanceUID", "Series Instance UID (0020,000E)"),
}


def _identity(dataset: pydicom.Dataset) -> dict[str, str]:
    """The four UIDs. Raises Refused where one is absent, malformed or longer than 64 characters (PS3.5 9)."""
    identity = {name: levels.text(dataset, keyword) for name, (keyword, _) in _IDENTITY.items()}

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


def _pixel_hash(dataset: pydicom.Dataset, raw: mmap | bytes) -> str:
    """SHA-256 (hex) of the pixel data as encoded, from where they start to the file's end; "" where there are none.

    Raises:
        Refused: native pixel data of another length than the header says.
    """
    for tag, bits in _PIXELS.items():
        if tag not in dataset:
            continue
        element = dataset.get_item(BaseTag(tag), keep_deferred=True)
        syntax = UID(dataset.file_meta.TransferSyntaxUID)
        # A private transfer syntax may encode pixels in any way.
        undefined = isinstance(element, RawDataElement) and element.length == _UNDEFINED
        encapsulated = undefined or (syntax.is_transfer_syntax and syntax.is_compressed)
        length = element.length if isinstance(element, RawDataElement) else len(element.value)
        if not encapsulated and (syntax.is_transfer_syntax or not syntax.is_private):
            _check_pixel_length(dataset, length, bits)
        if isinstance(element, RawDataElement) and element.value is None and element.length:
            start, end = element.value_tell, None if undefined else element.value_tell + length
            return hashlib.sha256(raw[start:end]).hexdigest()
        return hashlib.sha256(element.value or b"").hexdigest()
    return ""


def _check_pixel_length(dataset: pydicom.Dataset, length: int, bits: int | None) -> None:
    numbers = {
        keyword: levels.text(dataset, keyword) or default
        for keyword, default in (
            ("Rows", ""), ("Columns", ""), ("BitsAllocated", str(bits or "")),
            ("SamplesPerPixel", "1"), ("NumberOfFrames", "1"),
        )
    }  # fmt: skip
    for keyword, value in numbers.items():
        if not value.isdigit():
            raise Refused(f"the object has pixel data but {keyword} is {value!r}; have the sender correct the header")
    rows, columns, allocated, samples, frames = (int(value) for value in numbers.values())
    samples_stored = 2 if levels.text(dataset, "PhotometricInterpretation") == "YBR_FULL_422" else samples
    expected = ceil(rows * columns * samples_stored * frames * (bits or allocated) / 8)
    if length not in (expected, expected + expected % 2):
        raise Refused(
            f"PixelData (7FE0,0010) has {length} bytes, but {frames} frame(s) of {rows} x {columns} pixels with "
            f"{samples} sample(s) of {bits or allocated} bits need {expected}; have the sender send the whole object"
        )
