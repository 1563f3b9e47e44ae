"""A corpus for load: DICOM files of the sizes that scanners send, made from a template in no time.

    mixed   4 studies of CT, MR, PT and MG series
    CT      512 x 512, 526 kB;  PT  128 x 128, 35 kB;  MG  3328 x 2560, 17 MB

Pixels are noise from a seed (nothing compresses them), UIDs are functions of the seed, all of one length, so that each
instance is the template with its UIDs and number put in place.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
from corpus_item import Item
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian


@dataclass(frozen=True)
class Kind:
    """One modality's images. bits: stored in 16 allocated ones."""

    modality: str
    sop_class_uid: str
    rows: int
    columns: int


CT = Kind("CT", "1.2.840.10008.5.1.4.1.1.2", 512, 512)
MR = Kind("MR", "1.2.840.10008.5.1.4.1.1.4", 512, 512)
PT = Kind("PT", "1.2.840.10008.5.1.4.1.1.128", 128, 128)
MG = Kind("MG", "1.2.840.10008.5.1.4.1.1.1.2", 3328, 2560)

# Instances of each kind in one study.
CORPORA: Mapping[str, Mapping[Kind, int]] = {
    "mixed": {CT: 40, MR: 20, PT: 20, MG: 2},
    "CT": {CT: 100},
    "PT": {PT: 200},
    "MG": {MG: 4},
}


def write(name: str, folder: Path, *, studies: int = 4, share: float = 1.0, seed: int = 1) -> list[Item]:
    """Write the corpus `name` below `folder`; share: of the instances of each series, for a small version of it."""
    return [
        item
        for study in range(studies)
        for kind, count in CORPORA[name].items()
        for item in _series(kind, max(1, round(count * share)), folder, f"{name} {seed} {study}")
    ]


def _series(kind: Kind, count: int, folder: Path, study: str) -> Iterator[Item]:
    study_uid, series_uid = uid_of(study), uid_of(study, kind.modality)
    template = _template(kind, study, study_uid, series_uid)
    into = folder / study.replace(" ", "-") / kind.modality
    into.mkdir(parents=True, exist_ok=True)
    for number in range(1, count + 1):
        uid = uid_of(study, kind.modality, number)
        raw = template.replace(_PLACE_OF_UID.encode(), uid.encode()).replace(_NUMBER % 999999, _NUMBER % number)
        path = into / f"{number:04d}.dcm"
        path.write_bytes(raw)
        yield Item(path, kind.modality, kind.sop_class_uid, study_uid, series_uid, uid, len(raw))


def uid_of(*parts: object) -> str:
    """A UID below 2.25 that is a function of its parts, always 44 characters long."""
    number = uuid.uuid5(uuid.NAMESPACE_OID, " ".join(map(str, parts))).int
    return f"2.25.{number:039d}".replace("2.25.0", "2.25.1")


_PLACE_OF_UID = uid_of("the place of SOP Instance UID")
# Instance Number with its VR and length: the digits alone may stand in a UID, too.
_NUMBER = b"IS\6\0%06d"


def _template(kind: Kind, study: str, study_uid: str, series_uid: str) -> bytes:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = kind.sop_class_uid, _PLACE_OF_UID
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study_uid, series_uid
    dataset.PatientName, dataset.PatientID = f"Load^{study}", f"LOAD {study}"
    dataset.PatientBirthDate, dataset.PatientSex = "19700101", "O"
    dataset.StudyDate, dataset.StudyTime, dataset.StudyID = "20260101", "120000", "1"
    dataset.AccessionNumber, dataset.ReferringPhysicianName = f"A{study_uid[-6:]}", ""
    dataset.StudyDescription, dataset.SeriesDescription = "load", f"{kind.modality} of noise"
    dataset.Modality, dataset.Manufacturer, dataset.SeriesNumber = kind.modality, "none", 1
    dataset.InstanceNumber = 999999
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.FrameOfReferenceUID = uid_of(study, "frame of reference")
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing, dataset.SliceThickness = [0.7, 0.7], 3
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = kind.rows, kind.columns
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.WindowCenter, dataset.WindowWidth = 2048, 4096
    noise = np.random.default_rng(list(study.encode())).integers(0, 4096, (kind.rows, kind.columns), dtype="<u2")
    dataset.PixelData = noise.tobytes()
    buffer = BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()
