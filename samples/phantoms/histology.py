"""Histology: one slide of breast tissue in haematoxylin and eosin, scanned at 5x, and where invasive carcinoma lies.

The slide is one level of a VL Whole Slide Microscopy Image (PS3.3 A.32.8), TILED_FULL, RGB without compression, and
lies on the glass as scanners lay it: the column index grows to -y, the row index to -x. What is painted is
`samples.phantoms.tissue`'s, in colours of `samples.phantoms.stain`, which differ from patient to patient.

truth.json: "carcinoma": whether there is any, "shares": {name: share of the slide's pixels}, and "segmentation": the
label map as a tiled SEG of the slide, with a segment for each of `tissue.NAMES`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import ImageCms
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import VLWholeSlideMicroscopyImageStorage

from dicom_io import labels
from dicom_io.provenance import ModelIdentity
from dicom_io.segmentation import Segment
from dicom_io.slide_segmentation import slide_segmentation
from dicom_io.volume import Source
from samples.phantoms import stain, tissue
from samples.phantoms.instance import (
    MANUFACTURER,
    SOFTWARE_VERSION,
    Acquisition,
    begin,
    code,
    encode,
    number,
    stamp,
)
from samples.phantoms.patient import fictitious, stream
from samples.phantoms.study import PhantomStudy, write

UInt8 = npt.NDArray[np.uint8]

MAGNIFICATION = 10 / tissue.PIXEL_UM
TILE = (192, 256)  # rows, columns of a frame
# The anatomy makes the truth: it is exact, and nobody drew it.
_TRUTH = ModelIdentity("phantom-truth", SOFTWARE_VERSION, sha256(MANUFACTURER.encode()).hexdigest(), "unproven")
SEGMENTS = (
    Segment(1, tissue.NAMES[1], (213, 94, 0), property_type=codes.SCT.InfiltratingDuctCarcinoma),
    Segment(2, tissue.NAMES[2], (0, 158, 115), codes.SCT.AnatomicalStructure, codes.SCT.BreastStructure),
    Segment(3, tissue.NAMES[3], (240, 228, 66), codes.SCT.Tissue, codes.SCT.AdiposeTissue),
)


def study(seed: int, folder: Path, *, carcinoma: bool | None = None, synthetic: bool = True) -> PhantomStudy:
    """Write the slide of one patient, and its truth.

    carcinoma: None lets the seed decide, three in four have it. synthetic=False leaves out Synthetic Data and the
    synthesising equipment, to stand for an acquired slide. Each variant has UIDs of its own.

    Raises:
        ValueError: the seed is negative.
    """
    rng = stream("histology", seed, 1)
    drawn = bool(rng.random() < 0.75)  # drawn in any case, so that the choice changes nothing else
    wanted = drawn if carcinoma is None else carcinoma
    acquisition = Acquisition(
        "histology", seed, fictitious("histology", seed), synthetic, "carcinoma" if wanted else "normal"
    )
    shape = int(rng.integers(860, 1080)), int(rng.integers(1110, 1380))
    section = tissue.section(stream("histology", seed, 2), shape, carcinoma=wanted)
    light = stain.drawn(stream("histology", seed, 3)).light(section.haematoxylin, section.eosin)
    dataset = _instance(acquisition, stain.seen(stream("histology", seed, 4), light), rng)
    raw, source = encode(dataset)
    counted = np.bincount(section.truth.ravel(), minlength=len(tissue.NAMES) + 1) / section.truth.size
    truth = {
        "carcinoma": wanted,
        "shares": {name: round(float(counted[value]), 4) for value, name in tissue.NAMES.items()},
    }
    documents = {"segmentation.dcm": _segmentation(section.truth, dataset, source, acquisition)}
    return write(acquisition, folder, {"he.dcm": raw}, truth, {}, documents)


def _segmentation(truth: UInt8, dataset: Dataset, source: Source, acquisition: Acquisition) -> bytes:
    return labels.encode(
        *slide_segmentation(
            truth,
            source=dataset,
            source_refs=[source],
            segments=SEGMENTS,
            model=_TRUTH,
            parameters={"seed": acquisition.seed},
            description="truth of a phantom",
            made_at=acquisition.patient.study_start + timedelta(hours=2),
        )
    )


def _instance(acquisition: Acquisition, picture: UInt8, rng: np.random.Generator) -> Dataset:
    """The slide as an instance. picture: (rows, columns, 3)."""
    scanned = acquisition.patient.study_start + timedelta(minutes=55)
    ds = begin(
        acquisition,
        sop_class_uid=VLWholeSlideMicroscopyImageStorage,
        modality="SM",
        series="he",
        series_number=1,
        instance_number=1,
        description="HE",
        study_description="Breast biopsy",
        body_part="BREAST",
        series_start=scanned,
    )
    stamp(ds, "Acquisition", scanned)
    ds.AcquisitionDateTime = scanned.strftime("%Y%m%d%H%M%S")
    ds.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    ds.VolumetricProperties, ds.PatientOrientation = "VOLUME", None
    ds.FrameOfReferenceUID = acquisition.uid("frame of reference")
    ds.PositionReferenceIndicator = "SLIDE_CORNER"
    ds.AcquisitionContextSequence = []
    _place(ds, acquisition.uid("dimensions"), picture.shape[:2], rng)
    _set_tiles(ds, picture)
    _describe_specimen(ds, acquisition)
    _describe_light(ds)
    return ds


def _place(ds: Dataset, dimensions_uid: str, shape: Sequence[int], rng: np.random.Generator) -> None:
    """Whole Slide Microscopy Image (PS3.3 C.8.12.4) with its dimensions and functional groups: where on the glass."""
    step_mm = tissue.PIXEL_UM / 1000
    ds.TotalPixelMatrixRows, ds.TotalPixelMatrixColumns = shape
    ds.TotalPixelMatrixFocalPlanes, ds.NumberOfOpticalPaths = 1, 1
    ds.ImagedVolumeHeight, ds.ImagedVolumeWidth = (length * step_mm for length in shape)
    ds.ImagedVolumeDepth = 4.0  # um: the thickness of a section
    origin = Dataset()
    origin.XOffsetInSlideCoordinateSystem = number(round(float(rng.uniform(12, 20)), 3))
    origin.YOffsetInSlideCoordinateSystem = number(round(float(rng.uniform(25, 55)), 3))
    ds.TotalPixelMatrixOriginSequence = [origin]
    ds.ImageOrientationSlide = ["0", "-1", "0", "-1", "0", "0"]
    ds.FocusMethod, ds.ExtendedDepthOfField, ds.SpecimenLabelInImage = "AUTO", "NO", "NO"
    measures, kind, shared = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [number(step_mm)] * 2, number(0.004)
    kind.FrameType = ds.ImageType
    shared.PixelMeasuresSequence, shared.WholeSlideMicroscopyImageFrameTypeSequence = [measures], [kind]
    ds.SharedFunctionalGroupsSequence = [shared]
    organisation = Dataset()
    organisation.DimensionOrganizationUID = dimensions_uid
    ds.DimensionOrganizationSequence, ds.DimensionOrganizationType = [organisation], "TILED_FULL"


def _set_tiles(ds: Dataset, picture: UInt8) -> None:
    """Image Pixel module of frames by row, then by column; what reaches over the border is white."""
    (height, width), (rows, columns) = TILE, picture.shape[:2]
    padded = np.pad(picture, ((0, -rows % height), (0, -columns % width), (0, 0)), constant_values=255)
    frames = padded.reshape(-1, height, padded.shape[1] // width, width, 3).swapaxes(1, 2)
    ds.NumberOfFrames = frames.shape[0] * frames.shape[1]
    ds.Rows, ds.Columns = TILE
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    ds.PixelData = frames.tobytes()


def _describe_specimen(ds: Dataset, acquisition: Acquisition) -> None:
    """Specimen module (PS3.3 C.7.6.22): one section on one glass, and what it was stained with (TID 8001)."""
    identifier = f"{acquisition.patient.patient_id}-1"
    ds.ContainerIdentifier, ds.IssuerOfTheContainerIdentifierSequence = identifier, []
    ds.ContainerTypeCodeSequence = [code("433466003", "SCT", "Microscope slide")]
    step = Dataset()
    step.SpecimenPreparationStepContentItemSequence = [
        _said("TEXT", ("121041", "DCM", "Specimen Identifier"), identifier),
        _said("CODE", ("111701", "DCM", "Processing type"), code("127790008", "SCT", "Staining")),
        _said("CODE", ("424361007", "SCT", "Using substance"), code("12710003", "SCT", "hematoxylin stain")),
        _said("CODE", ("424361007", "SCT", "Using substance"), code("36879007", "SCT", "water soluble eosin stain")),
    ]
    specimen = Dataset()
    specimen.SpecimenIdentifier, specimen.SpecimenUID = identifier, acquisition.uid("specimen")
    specimen.IssuerOfTheSpecimenIdentifierSequence, specimen.SpecimenPreparationSequence = [], [step]
    specimen.PrimaryAnatomicStructureSequence = [code("76752008", "SCT", "Breast")]
    ds.SpecimenDescriptionSequence = [specimen]


def _said(kind: str, name: tuple[str, str, str], value: str | Dataset) -> Dataset:
    item = Dataset()
    item.ValueType, item.ConceptNameCodeSequence = kind, [code(*name)]
    if isinstance(value, str):
        item.TextValue = value
    else:
        item.ConceptCodeSequence = [value]
    return item


def _describe_light(ds: Dataset) -> None:
    """Optical Path module (PS3.3 C.8.12.5): white light through the slide, colours of sRGB."""
    path = Dataset()
    path.OpticalPathIdentifier = "1"
    path.IlluminationTypeCodeSequence = [code("111744", "DCM", "Brightfield illumination")]
    path.IlluminationColorCodeSequence = [code("414298005", "SCT", "Full Spectrum")]
    path.ObjectiveLensPower = number(MAGNIFICATION)
    path.ICCProfile = _srgb()
    ds.OpticalPathSequence = [path]


def _srgb() -> bytes:
    """An sRGB profile without the time at which it was made (ICC.1, bytes 24 to 35 of the header)."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[24:36] = bytes((7, 233, 0, 1, 0, 1)) + bytes(6)  # 1 January 2025, 0:00
    return bytes(profile) + bytes(len(profile) % 2)
