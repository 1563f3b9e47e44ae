"""Hand-made images for the reading side: lopsided, oblique, anisotropic, and written to bytes before they are read."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, PositronEmissionTomographyImageStorage
from pydicom.uid import DigitalMammographyXRayImageStorageForPresentation as MammogramStorage
from scipy.spatial.transform import Rotation

from dicom_io.dataset import read_with_hash
from dicom_io.series import SeriesVolume, Slice, volumes

SOP_CLASSES = {
    "CT": CTImageStorage,
    "MR": MRImageStorage,
    "PT": PositronEmissionTomographyImageStorage,
    "MG": MammogramStorage,
}


class Maker:
    """Makes data sets whose UIDs count up from a number of its own."""

    # Row direction, column direction and normal of a plane that is oblique to every axis.
    turn = Rotation.from_euler("zyx", (25, -40, 15), degrees=True).as_matrix()
    origin_mm = np.array([-31.5, 12.25, 47.0])
    step_mm, down_mm, across_mm = 2.5, 0.75, 1.3
    shape = (5, 7, 4)  # slices, rows, columns

    def __init__(self) -> None:
        self.count = 0

    def uid(self) -> str:
        self.count += 1
        return f"2.25.77000{self.count}"

    @property
    def affine(self) -> np.ndarray:
        """Index (slice, row, column) -> LPS of `series()`, from the definition of PS3.3 C.7.6.2.1.1."""
        across, down, normal = self.turn.T
        affine = np.eye(4)
        affine[:3] = np.c_[normal * self.step_mm, down * self.down_mm, across * self.across_mm, self.origin_mm]
        return affine

    def voxels(self, seed: int = 0) -> np.ndarray:
        """Stored values of `series()`: (slices, rows, columns) int16."""
        return np.random.default_rng(seed).integers(-900, 1800, self.shape).astype(np.int16)

    def image(self, pixels: np.ndarray, modality: str = "MR", **attributes: Any) -> Dataset:
        """One image of int16 or uint16 `pixels`; attributes by keyword, None leaves one out."""
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.SOPClassUID, ds.SOPInstanceUID = SOP_CLASSES[modality], self.uid()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.Modality, ds.PatientID = modality, "MADE"
        ds.StudyInstanceUID, ds.SeriesInstanceUID = "2.25.771", "2.25.772"
        ds.Rows, ds.Columns = pixels.shape[:2]
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated = 8 * pixels.dtype.itemsize
        ds.BitsStored, ds.HighBit = ds.BitsAllocated, ds.BitsAllocated - 1
        ds.PixelRepresentation = int(pixels.dtype.kind == "i")
        ds.PixelData = np.ascontiguousarray(pixels).tobytes()
        for keyword, value in attributes.items():
            if value is None and keyword in ds:
                delattr(ds, keyword)
            elif value is not None:
                setattr(ds, keyword, value)
        return ds

    def series(self, modality: str = "MR", *, seed: int = 0, **attributes: Any) -> list[Dataset]:
        """Images of one oblique series, in slice order."""
        across, down, normal = self.turn.T
        placed = {
            "FrameOfReferenceUID": "2.25.773",
            "ImageOrientationPatient": [round(float(x), 10) for x in (*across, *down)],
            "PixelSpacing": [self.down_mm, self.across_mm],
            "SliceThickness": self.step_mm,
        }
        if modality == "CT":
            placed |= {"RescaleSlope": 2, "RescaleIntercept": -1024}
        return [
            self.image(pixels, modality, **placed | self._numbered(number, normal) | attributes)
            for number, pixels in enumerate(self.voxels(seed))
        ]

    def _numbered(self, number: int, normal: np.ndarray) -> dict[str, Any]:
        place = self.origin_mm + number * self.step_mm * normal
        return {"InstanceNumber": number + 1, "ImagePositionPatient": [round(float(x), 9) for x in place]}

    def bytes(self, ds: Dataset) -> bytes:
        buffer = io.BytesIO()
        ds.save_as(buffer, enforce_file_format=True)
        return buffer.getvalue()

    def slices(self, datasets: Sequence[Dataset]) -> list[Slice]:
        """Through bytes, as they would come in."""
        return [Slice(*read_with_hash(self.bytes(ds))) for ds in datasets]

    def folder(self, datasets: Sequence[Dataset], folder: Path) -> Path:
        """Files whose names say nothing about the order of slices."""
        folder.mkdir(parents=True, exist_ok=True)
        for ds in datasets:
            (folder / f"{hash(ds.SOPInstanceUID) & 0xFFFFFF:06x}.dcm").write_bytes(self.bytes(ds))
        return folder


@pytest.fixture(scope="session")
def sarcoma_pets(test_data: Path) -> dict[str, SeriesVolume]:
    """The PET of each of the twenty patients of pet-suv-sarcoma; read once, as it takes seconds."""
    folders = sorted((test_data / "pet-suv-sarcoma").glob("STS_*"))
    return {folder.name: volumes([folder / "PET"]).volumes[0] for folder in folders}


@pytest.fixture
def make() -> Maker:
    return Maker()
