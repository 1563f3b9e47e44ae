"""Small oblique studies, a model version, and one result of each kind: what the tests of the writing side share."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
from pydicom import Dataset
from scipy.spatial.transform import Rotation

from dicom_io import filing, labels, secondary_capture, segmentation
from dicom_io.provenance import FictitiousStudy, LabelRecord, ModelIdentity, result_uid
from dicom_io.segmentation import Segment
from dicom_io.volume import Source, Volume

MODEL = ModelIdentity("lesion-finder", "2.1.0", "5a" * 32, "unproven")
MADE_AT = datetime(2024, 5, 6, 7, 8, 9, 123000)
SHAPE = (6, 11, 17)  # slices, rows, columns: nothing square
SPACING_MM = (3.5, 1.25, 0.8)  # between slices, down, across
ORIGIN_MM = np.array([-31.5, 12.25, 47.0])
# Columns: directions of a growing column, row and slice index.
AXES = Rotation.from_euler("zyx", (25, -40, 15), degrees=True).as_matrix()
SEGMENTS = (
    Segment(1, "lesion", (230, 159, 0)),
    Segment(2, "core", (86, 180, 233), property_type=segmentation.NEOPLASM),
)


def affine() -> np.ndarray:
    """(slice, row, column) -> LPS, from PS3.3 C.7.6.2.1.1."""
    across, down, normal = AXES.T
    matrix = np.eye(4)
    matrix[:3] = np.c_[normal * SPACING_MM[0], down * SPACING_MM[1], across * SPACING_MM[2], ORIGIN_MM]
    return matrix


def sources(*, synthetic: bool = False, series: str = "2.25.9902", **attributes: object) -> list[Dataset]:
    """An oblique MR series, in slice order, with a patient whose name needs ISO_IR 100."""
    made = []
    for number in range(SHAPE[0]):
        ds = Dataset()
        ds.SpecificCharacterSet = "ISO_IR 100"
        ds.SOPClassUID, ds.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.4", f"{series}.{number + 1}"
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = "2.25.9901", series, "2.25.9903"
        ds.PatientID, ds.PatientName, ds.PatientBirthDate, ds.PatientSex = "P-17", "Müller^Jörg", "19511231", "O"
        ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber = "20240102", "101112", "S1", "A-3"
        ds.ReferringPhysicianName, ds.StudyDescription = "", "Schädel"
        ds.Modality, ds.Manufacturer, ds.ManufacturerModelName = "MR", "Scanners Ltd", "Größe 3"
        ds.SeriesNumber, ds.InstanceNumber = 4, number + 1
        ds.Rows, ds.Columns = SHAPE[1:]
        ds.PixelSpacing, ds.SliceThickness = list(SPACING_MM[1:]), 3.0
        ds.ImageOrientationPatient = [f"{value:.10f}" for value in (*AXES[:, 0], *AXES[:, 1])]
        ds.ImagePositionPatient = [f"{value:.9f}" for value in ORIGIN_MM + number * SPACING_MM[0] * AXES[:, 2]]
        if synthetic:
            ds.SyntheticData = "YES"
        for keyword, value in attributes.items():
            setattr(ds, keyword, value)
        made.append(ds)
    return made


def references(datasets: Sequence[Dataset]) -> tuple[Source, ...]:
    return tuple(
        Source(str(ds.SOPClassUID), str(ds.SOPInstanceUID), f"{number:064x}", 1, labels.is_synthetic(ds))
        for number, ds in enumerate(datasets)
    )


def mask(datasets: Sequence[Dataset], voxels: np.ndarray | None = None) -> Volume:
    """A lopsided mask of labels 1 and 2, touching one corner, on the grid of `sources()`."""
    if voxels is None:
        voxels = np.zeros(SHAPE, np.float32)
        voxels[1:3, 2:9, 3:15] = 1
        voxels[2, 4:6, 5:7] = 2
        voxels[4, 0, 0] = 1
        voxels[4, 10, 12:17] = 2
    return Volume(voxels.astype(np.float32), affine(), "2.25.9903", "1", references(datasets))


def seg(*, synthetic: bool = False, out_of_domain: bool = False) -> tuple[Dataset, LabelRecord]:
    datasets = sources(synthetic=synthetic)
    return segmentation.segmentation(
        mask(datasets),
        sources=datasets,
        segments=SEGMENTS,
        model=MODEL,
        parameters={"threshold": 0.41},
        description="lesions",
        made_at=MADE_AT,
        out_of_domain=out_of_domain,
        audit_id="audit-7",
    )


def generated(count: int = 3) -> list[tuple[Dataset, LabelRecord]]:
    frames = np.random.default_rng(1).random((count, 13, 90), np.float32)
    return secondary_capture.generated(
        frames,
        model=MODEL,
        seed=42,
        label="T1",
        spacing_mm=(0.9, 1.1),
        units="1",
        study=FictitiousStudy.named(MODEL, 42, "T1", MADE_AT),
        made_at=MADE_AT,
        audit_id="audit-7",
    )


def capture(*, synthetic: bool = False, out_of_domain: bool = False) -> tuple[Dataset, LabelRecord]:
    datasets = sources(synthetic=synthetic)
    frames = np.random.default_rng(2).integers(0, 256, (SHAPE[0], 4 * SHAPE[1], 4 * SHAPE[2], 3)).astype(np.uint8)
    [made] = secondary_capture.of_prediction(
        frames,
        model=MODEL,
        sources=datasets,
        source_refs=references(datasets),
        description="lesions outlined",
        purpose="overlay",
        parameters={"threshold": 0.41},
        made_at=MADE_AT,
        out_of_domain=out_of_domain,
        audit_id="audit-7",
        zoom=4,
    )
    return made


def from_real() -> tuple[Dataset, LabelRecord]:
    """An image generated from a real one: no model of ours does that yet, the row of the table stands all the same."""
    datasets = sources()
    dataset, record = capture()
    record = replace(
        record,
        kind="generated-from-real",
        sop_instance_uid=result_uid("translation", MODEL, references(datasets), {}, record.sop_class_uid),
        seed=5,
    )
    dataset.SOPInstanceUID = record.sop_instance_uid
    dataset.file_meta = labels.file_meta(record.sop_class_uid, record.sop_instance_uid)
    filing.under_sources(dataset, datasets)
    labels.apply(dataset, record, datasets, MADE_AT, "T2 from T1")
    return dataset, record


def errors_of_dciodvfy(program: str, path: Path) -> list[str]:
    """What the validator calls an error; but for Synthetic Data (0008,001C), which is younger than its dictionary."""
    said = subprocess.run([program, "-new", str(path)], capture_output=True, text=True, check=False).stderr
    assert "Image" in said or "Segmentation" in said, said  # It names the object that it recognised.
    return [
        line
        for line in said.splitlines()
        if line.startswith("Error")
        and line
        != "Error - </(0008,001c)> - Attribute with an even group number is not a recognized standard attribute"
    ]
