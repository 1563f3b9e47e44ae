"""Small studies as a scanner would send them, lopsided, oblique and anisotropic, with a blob to find and its mask.

Files are named so that their order says nothing about the order of slices, and instance numbers run against it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from dicom_objects import file_of
from pydicom import Dataset
from scipy.spatial.transform import Rotation

SHAPE = (6, 34, 25)  # slices, rows, columns
SPACING_MM = (3.3, 2.1, 1.7)  # between slices, down, across
ORIGIN_MM = np.array([-31.5, 12.25, 47.0])
# Columns: directions of a growing column, row and slice index; oblique to every axis.
AXES = Rotation.from_euler("zyx", (25, -40, 15), degrees=True).as_matrix()
STORAGE = {
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "PT": "1.2.840.10008.5.1.4.1.1.128",
    "MG": "1.2.840.10008.5.1.4.1.1.1.2",
}
TIMES = {
    "T1": {"ScanningSequence": "SE", "RepetitionTime": "560", "EchoTime": "12"},
    "FLAIR": {
        "ScanningSequence": ["SE", "IR"],
        "RepetitionTime": "9000",
        "EchoTime": "118",
        "InversionTime": "2500",
    },
}
SUV_PER_STEP = 1e-4  # Rescale Slope of slice 0; each further slice has a steeper one


def uid(*parts: object) -> str:
    """A UID that is a function of its parts."""
    return f"2.25.{int(hashlib.sha256(repr(parts).encode()).hexdigest()[:24], 16)}"


def blob(seed: int, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """(slices, rows, columns) bool: an ellipsoid off the middle of the body."""
    rng = np.random.default_rng([seed, 1])
    s, r, c = np.mgrid[: shape[0], : shape[1], : shape[2]]
    row, column = rng.uniform(11, shape[1] - 11), rng.uniform(8, shape[2] - 8)
    return ((r - row) / 6) ** 2 + ((c - column) / 4) ** 2 + ((s - rng.uniform(1.5, 3.5)) / 1.7) ** 2 < 1


def body(seed: int, shape: tuple[int, int, int] = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    """(slices, rows, columns) in 0..1, and the random numbers that go on: an ellipse with texture, air around it."""
    rng = np.random.default_rng([seed, 2])
    _, r, c = np.mgrid[: shape[0], : shape[1], : shape[2]]
    inside = ((r - 0.48 * shape[1]) / (0.44 * shape[1])) ** 2 + ((c - 0.53 * shape[2]) / (0.42 * shape[2])) ** 2 < 1
    return inside * (0.35 + 0.04 * rng.standard_normal(shape)).clip(0.1, 0.6), rng.standard_normal(shape)


def series(
    modality: str,
    values: np.ndarray,
    *,
    seed: int,
    name: str,
    study: str = "",
    shift_mm: float = 0.0,
    synthetic: bool = False,
    **attributes: object,
) -> list[Dataset]:
    """Images in slice order. values: (slices, rows, columns), stored values; shift_mm: along the normal."""
    made = []
    for number, picture in enumerate(values):
        ds = _image(modality, picture.astype("<u2"), seed, name, study, len(values) - number)
        ds.FrameOfReferenceUID = uid(seed, study, "frame of reference")
        ds.ImageOrientationPatient = [f"{x:.10f}" for x in (*AXES[:, 0], *AXES[:, 1])]
        place = ORIGIN_MM + (number * SPACING_MM[0] + shift_mm) * AXES[:, 2]
        ds.ImagePositionPatient = [f"{x:.9f}" for x in place]
        ds.PixelSpacing, ds.SliceThickness = list(SPACING_MM[1:]), "3"
        if modality == "PT":
            ds.Units, ds.RescaleIntercept, ds.RescaleSlope = "GML", "0", f"{SUV_PER_STEP * (1 + number / 10):.6g}"
        if synthetic:
            ds.SyntheticData = "YES"
        for keyword, value in attributes.items():
            setattr(ds, keyword, value)
        made.append(ds)
    return made


def _image(modality: str, pixels: np.ndarray, seed: int, name: str, study: str, number: int) -> Dataset:
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID, ds.SOPInstanceUID = STORAGE[modality], uid(seed, study, name, number)
    ds.StudyInstanceUID, ds.SeriesInstanceUID = uid(seed, study, "study"), uid(seed, study, name)
    ds.PatientID, ds.PatientName, ds.PatientBirthDate, ds.PatientSex = f"PAT-{seed}", "Müller^Jörg", "19511231", "O"
    ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber = "20240102", "101112", "S1", "A-3"
    ds.ReferringPhysicianName, ds.StudyDescription = "", "Toy"
    ds.Modality, ds.Manufacturer, ds.ManufacturerModelName = modality, "Scanners Ltd", "Größe 3"
    ds.SeriesNumber, ds.InstanceNumber = 4, number
    ds.Rows, ds.Columns = pixels.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
    ds.PixelData = pixels.tobytes()
    return ds


def mr(
    contrast: str, seed: int, *, shape: tuple[int, int, int] = SHAPE, name: str = "", **options: object
) -> list[Dataset]:
    """One contrast of a head; the blob is dark on T1 and bright on FLAIR."""
    tissue, noise = body(seed, shape)
    lesion = blob(seed, shape) & (tissue > 0)
    signal = tissue * 1000 + (noise * 6).clip(0) + lesion * (400 if contrast == "FLAIR" else -150)
    return series("MR", signal.clip(0), seed=seed, name=name or contrast, **TIMES[contrast], **options)  # type: ignore[arg-type]


def pet(
    seed: int, *, shape: tuple[int, int, int] = SHAPE, ill: bool = True, name: str = "PET", **options: object
) -> list[Dataset]:
    """SUVbw as it is (Units GML): 1 in the body, 6 and more in the blob; each slice has a slope of its own."""
    tissue, noise = body(seed, shape)
    suv = 3 * tissue + 0.05 * noise.clip(0) + 5 * (blob(seed, shape) & ill)
    slopes = SUV_PER_STEP * (1 + np.arange(shape[0])[:, None, None] / 10)
    return series("PT", np.rint(suv / slopes), seed=seed, name=name, **options)  # type: ignore[arg-type]


def mammogram(seed: int, laterality: str, view: str, *, ill: bool, shape: tuple[int, int] = (530, 310)) -> Dataset:
    """One view, the chest wall on the conventional side; a bright spot where ill."""
    rng = np.random.default_rng([seed, "LR".index(laterality), ("CC", "MLO").index(view)])
    r, c = np.mgrid[: shape[0], : shape[1]]
    from_wall = c if laterality == "L" else shape[1] - 1 - c
    breast = (from_wall / (0.7 * shape[1])) ** 2 + ((r - shape[0] / 2) / (0.4 * shape[0])) ** 2 < 1
    values = breast * (900 + rng.normal(0, 30, shape))
    if ill:
        values += 900 * ((r - rng.uniform(200, 330)) ** 2 + (from_wall - rng.uniform(50, 110)) ** 2 < 35**2)
    ds = _image("MG", values.clip(0).astype("<u2"), seed, f"{laterality}{view}", "", 1)
    ds.PresentationIntentType, ds.ImageType = "FOR PRESENTATION", ["DERIVED", "PRIMARY"]
    ds.ImageLaterality, ds.ViewPosition = laterality, view
    ds.PatientOrientation = ["A", "R"] if laterality == "L" else ["P", "L"]
    ds.ImagerPixelSpacing = ["0.2", "0.2"]
    ds.PresentationLUTShape, ds.BurnedInAnnotation = "IDENTITY", "NO"
    return ds


def write(folder: Path, *parts: Sequence[Dataset]) -> list[Path]:
    """Files of all parts, in an order that means nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for ds in (ds for part in parts for ds in part):
        name = hashlib.sha256(f"{ds.SeriesInstanceUID} {ds.SOPInstanceUID}".encode()).hexdigest()[:10]
        paths.append(folder / f"{name}.dcm")
        paths[-1].write_bytes(file_of(ds))
    return sorted(paths)
