"""Small DICOM objects for tests of the archive and its doors: lopsided, valid, and damaged on purpose."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

STUDY = "2.25.1001"
SERIES = "2.25.1002"
ROWS, COLUMNS = 5, 3


def slice_of(
    uid: str = "", *, study: str = STUDY, series: str = SERIES, patient: str = "P1", value: int = 1, **attributes: Any
) -> Dataset:
    """A CT slice of 5 x 3 pixels. value: of the first pixel; attributes: by keyword, None removes one."""
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = uid or generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
    dataset.PatientID, dataset.PatientName = patient, "Pháñtom^Ä"
    dataset.PatientBirthDate, dataset.PatientSex = "", "O"
    dataset.StudyDate, dataset.StudyTime, dataset.StudyID = "20260115", "101112", "1"
    dataset.AccessionNumber, dataset.ReferringPhysicianName = "A7", ""
    dataset.StudyDescription, dataset.SeriesDescription = "Chest", "Lung"
    dataset.Modality, dataset.SeriesNumber, dataset.InstanceNumber = "CT", 2, 1
    dataset.Manufacturer = "Phantoms"
    dataset.Rows, dataset.Columns = ROWS, COLUMNS
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    pixels = np.arange(ROWS * COLUMNS, dtype="<u2")
    pixels[0] = value
    dataset.PixelData = pixels.tobytes()
    for keyword, wanted in attributes.items():
        if wanted is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, wanted)
    return dataset


def file_of(dataset: Dataset, change: Callable[[bytes], bytes] = bytes) -> bytes:
    """A DICOM file (PS3.10, Explicit VR Little Endian); `change` damages it afterwards.

    The file meta information names a class and instance even where the data set does not, as a C-STORE command would.
    """
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID") or CTImageStorage
    meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID") or "2.25.9"
    meta.ImplementationClassUID = "2.25.8"
    meta.FileMetaInformationVersion = b"\0\1"
    buffer = BytesIO()
    dcmwrite(buffer, _with_meta(dataset, meta), implicit_vr=False, little_endian=True)
    body = buffer.getvalue()
    return change(body)


def _with_meta(dataset: Dataset, meta: FileMetaDataset) -> Dataset:
    dataset.file_meta = meta
    dataset.preamble = b"\0" * 128
    return dataset
