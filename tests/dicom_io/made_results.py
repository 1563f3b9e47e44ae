"""Small oblique studies, a model version, and one result of each kind: what the tests of the writing side share."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Literal

import numpy as np
from pydicom import Dataset
from scipy.spatial.transform import Rotation

from dicom_io import (
    labels,
    look_alike,
    measurements,
    parametric_map,
    presentation_state,
    report,
    secondary_capture,
    segmentation,
)
from dicom_io.provenance import FictitiousStudy, LabelRecord, ModelIdentity
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


FRAMES = 2 * SHAPE[0] + 1
ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"


def frame_of_slice(number: int) -> int:
    """Slice 0 is frame 12 of 13, slice 1 frame 10, ...: neither in order nor without gaps."""
    return FRAMES - 1 - 2 * number


def enhanced(series: str = "2.25.9906") -> Dataset:
    """An enhanced MR whose even frames are the slices of `sources()`, upside down; odd ones lie 100 mm away."""
    classic = sources(series=series)
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID, ds.NumberOfFrames = ENHANCED_MR, f"{series}.1", FRAMES
    measures, orientation = Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = classic[0].PixelSpacing, classic[0].SliceThickness
    orientation.ImageOrientationPatient = classic[0].ImageOrientationPatient
    shared = Dataset()
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    ds.SharedFunctionalGroupsSequence = [shared]
    places = {frame_of_slice(number): source.ImagePositionPatient for number, source in enumerate(classic)}
    ds.PerFrameFunctionalGroupsSequence = []
    for number in range(1, FRAMES + 1):
        position, frame = Dataset(), Dataset()
        position.ImagePositionPatient = places.get(number, [100, 100, number])
        frame.PlanePositionSequence = [position]
        ds.PerFrameFunctionalGroupsSequence.append(frame)
    return ds


def frames(series: str = "2.25.9906") -> list[Dataset]:
    """Header data sets of the slices of `enhanced()`, one for each, as the reader gives them."""
    made = sources(series=series)
    for ds in made:
        ds.SOPClassUID, ds.SOPInstanceUID, ds.NumberOfFrames = ENHANCED_MR, f"{series}.1", FRAMES
    return made


def frame_references(datasets: Sequence[Dataset]) -> tuple[Source, ...]:
    return tuple(
        Source(str(ds.SOPClassUID), str(ds.SOPInstanceUID), "e" * 64, frame_of_slice(number))
        for number, ds in enumerate(datasets)
    )


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


def probability(*, synthetic: bool = False) -> tuple[Dataset, LabelRecord]:
    datasets = sources(synthetic=synthetic)
    return parametric_map.parametric_map(
        mask(datasets, np.random.default_rng(8).random(SHAPE)),
        quantity="probability",
        sources=datasets,
        model=MODEL,
        parameters={"threshold": 0.41},
        description="lesion probability",
        made_at=MADE_AT,
        audit_id="audit-7",
    )


def uptake(datasets: Sequence[Dataset]) -> Volume:
    """SUVbw on the grid of `sources()`, from 0 to 9."""
    values = np.random.default_rng(9).uniform(0, 9, SHAPE).astype(np.float32)
    return replace(mask(datasets, values), units="g/ml{SUVbw}")


def reported(*, synthetic: bool = False, out_of_domain: bool = False) -> tuple[Dataset, LabelRecord]:
    """Two classes, and both segments of `seg()`."""
    datasets, (segmented, _) = sources(synthetic=synthetic), seg(synthetic=synthetic)
    return report.report(
        sources=datasets,
        source_refs=references(datasets),
        model=MODEL,
        parameters={"threshold": 0.41},
        description="tumour",
        made_at=MADE_AT,
        classes=[
            report.ClassProbability("tumour", 0.83, 0.41, True, segmentation.NEOPLASM),
            report.ClassProbability("a class with a long name", 1 / 3, images=(2,)),
        ],
        regions=[
            report.Region(number, measurements.measure(uptake(datasets), mask(datasets), number)) for number in (1, 2)
        ],
        segmentation=segmented,
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
    """A picture of each slice, in its place, generated from the real ones."""
    datasets = sources()
    [made] = secondary_capture.generated_from_real(
        np.random.default_rng(3).random(SHAPE, np.float32),
        model=MODEL,
        sources=datasets,
        source_refs=references(datasets),
        seed=5,
        description="T2 from T1",
        purpose="translation",
        parameters={"threshold": 0.41},
        made_at=MADE_AT,
        units="1",
        value_range=(0.0, 1.0),
        audit_id="audit-7",
    )
    return made


def alike(modality: Literal["MR", "PT"] = "MR") -> tuple[Dataset, LabelRecord]:
    """The second slice of a generated volume, as an image of its modality."""
    voxels = np.random.default_rng(4).uniform(0, 9, SHAPE).astype(np.float32)
    volume = Volume(voxels, affine(), "", {"MR": "1", "PT": "g/ml{SUVbw}"}[modality])
    return look_alike.generated(
        volume, modality=modality, model=MODEL, seed=42, label="T1", made_at=MADE_AT, audit_id="audit-7"
    )[1]


def state() -> tuple[Dataset, LabelRecord]:
    """The mark over a generated slice."""
    return presentation_state.presentation_state([alike()], made_at=MADE_AT)


def errors_of_dciodvfy(program: str, path: Path) -> list[str]:
    """What the validator calls an error; but for Synthetic Data (0008,001C), which is younger than its dictionary."""
    said = subprocess.run([program, "-new", str(path)], capture_output=True, text=True, check=False).stderr
    # It names the object that it recognised, and says so where it does not know it.
    assert any(kind in said for kind in ("Image", "Segmentation", "ParametricMap", "SR", "Presentation")), said
    return [
        line
        for line in said.splitlines()
        if line.startswith("Error")
        and line
        != "Error - </(0008,001c)> - Attribute with an even group number is not a recognized standard attribute"
    ]
