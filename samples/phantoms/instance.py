"""One DICOM instance of a phantom: the attributes that all kinds share, and its bytes.

Everything is a function of the seed: no clock, no host name, no random UID; the same seed gives the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from io import BytesIO

import numpy as np
import numpy.typing as npt
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from pydicom.valuerep import format_number_as_ds

from dicom_io.dataset import dataset_hash
from dicom_io.volume import Source
from samples.phantoms.patient import Kind, Patient, uid

MANUFACTURER = "Mirall phantoms"
SOFTWARE_VERSION = "1"
_IMPLEMENTATION = uid("implementation", SOFTWARE_VERSION)


@dataclass(frozen=True)
class Acquisition:
    """What all instances of one phantom study have in common.

    synthetic: write Synthetic Data (0008,001C) = YES and the synthesising equipment.
    variant: whatever else changes the bytes. Both are part of the UIDs, so that all forms of one seed fit one archive.
    """

    kind: Kind
    seed: int
    patient: Patient
    synthetic: bool
    variant: str = ""

    def uid(self, *purpose: str) -> str:
        origin = "synthetic" if self.synthetic else "acquired"
        return uid(self.kind, str(self.seed), origin, self.variant, *purpose)

    @property
    def study_uid(self) -> str:
        return self.uid("study")


def number(value: float) -> str:
    """A decimal string (VR DS) of at most 16 characters."""
    return format_number_as_ds(float(value) + 0.0)


def code(value: str, scheme: str, meaning: str) -> Dataset:
    """An item of the Code Sequence Macro (PS3.3 8.8)."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def stamp(dataset: Dataset, prefix: str, moment: datetime) -> None:
    """Set the pair of date and time attributes whose keywords start with `prefix`, e.g. "Series"."""
    setattr(dataset, f"{prefix}Date", moment.strftime("%Y%m%d"))
    setattr(dataset, f"{prefix}Time", moment.strftime("%H%M%S"))


def begin(
    acquisition: Acquisition,
    *,
    sop_class_uid: str,
    modality: str,
    series: str,
    series_number: int,
    instance_number: int,
    description: str,
    study_description: str,
    body_part: str,
    series_start: datetime,
) -> Dataset:
    """Patient, General Study, General Series, General Equipment, General Image and SOP Common (PS3.3 C.7 and C.12.1).

    series: a word that tells series of the study apart; with the instance number it makes the UIDs.
    """
    patient = acquisition.patient
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.SOPClassUID = sop_class_uid
    ds.SOPInstanceUID = acquisition.uid("instance", series, str(instance_number))
    ds.StudyInstanceUID = acquisition.study_uid
    ds.SeriesInstanceUID = acquisition.uid("series", series)
    ds.Modality = modality
    stamp(ds, "Study", patient.study_start)
    stamp(ds, "Series", series_start)
    stamp(ds, "Content", series_start)
    ds.StudyID = f"{acquisition.seed:06d}"
    ds.AccessionNumber = f"{patient.patient_id[-9:].replace('-', '')}"
    ds.StudyDescription, ds.SeriesDescription = study_description, description
    ds.ReferringPhysicianName = ""
    ds.SeriesNumber, ds.InstanceNumber = series_number, instance_number
    ds.BodyPartExamined = body_part
    ds.PatientName, ds.PatientID = patient.name, patient.patient_id
    ds.PatientBirthDate = patient.birth_date.strftime("%Y%m%d")
    ds.PatientSex, ds.PatientAge = patient.sex, f"{patient.age_years:03d}Y"
    ds.PatientWeight, ds.PatientSize = number(patient.weight_kg), number(patient.height_m)
    ds.Manufacturer, ds.ManufacturerModelName = MANUFACTURER, acquisition.kind
    ds.SoftwareVersions = SOFTWARE_VERSION
    ds.DeviceSerialNumber = "1"
    ds.ImageType = ["ORIGINAL", "PRIMARY"]
    ds.BurnedInAnnotation = "NO"
    ds.LossyImageCompression = "00"
    if acquisition.synthetic:
        _mark_as_synthetic(ds)
    return ds


def _mark_as_synthetic(ds: Dataset) -> None:
    """Synthetic Data and who made it (PS3.3 C.12.1; CID 7005, 109100)."""
    ds.SyntheticData = "YES"
    equipment = Dataset()
    equipment.PurposeOfReferenceCodeSequence = [code("109100", "DCM", "Synthesizing Equipment")]
    equipment.Manufacturer, equipment.ManufacturerModelName = MANUFACTURER, ds.ManufacturerModelName
    equipment.SoftwareVersions = SOFTWARE_VERSION
    equipment.ContributionDescription = "Image computed from a seed, without any acquisition"
    ds.ContributingEquipmentSequence = [equipment]


def set_pixels(ds: Dataset, stored: npt.NDArray[np.integer], *, bits_stored: int, photometric: str) -> None:
    """Image Pixel module (PS3.3 C.7.6.3) for one frame of 16-bit words; signed if the array is."""
    if stored.dtype not in (np.dtype(np.uint16), np.dtype(np.int16)):
        raise ValueError(f"pixels of type {stored.dtype} cannot be stored; make them uint16 or int16")
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, photometric
    ds.Rows, ds.Columns = stored.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, bits_stored, bits_stored - 1
    ds.PixelRepresentation = int(stored.dtype == np.int16)
    ds.PixelData = stored.astype(stored.dtype.newbyteorder("<")).tobytes()


def encode(ds: Dataset) -> tuple[bytes, Source]:
    """The instance in DICOM file form, Explicit VR Little Endian (PS3.10), and what results will say of it."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID, meta.ImplementationVersionName = _IMPLEMENTATION, "PHANTOMS_1"
    ds.file_meta = meta
    file = BytesIO()
    dcmwrite(file, ds, enforce_file_format=True)
    source = Source(
        sop_class_uid=str(ds.SOPClassUID),
        sop_instance_uid=str(ds.SOPInstanceUID),
        dataset_hash=dataset_hash(file.getvalue()),
        synthetic=ds.get("SyntheticData") == "YES",
    )
    return file.getvalue(), source
