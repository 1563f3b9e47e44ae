"""Enhanced multi-frame objects made from the single-frame images of `conftest.Maker`."""

from __future__ import annotations

from collections.abc import Sequence

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    BreastTomosynthesisImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
)

_CLASSES = {"MR": EnhancedMRImageStorage, "CT": EnhancedCTImageStorage, "MG": BreastTomosynthesisImageStorage}


def item(**attributes: object) -> Dataset:
    made = Dataset()
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    return made


def enhanced(images: Sequence[Dataset], uid: str, **frames: Sequence[object]) -> Dataset:
    """One object of all images as frames, in their order.

    frames: macro__keyword=values, one value for each frame, e.g. MREchoSequence__EffectiveEchoTime=[4.6, 9.2].
    """
    first = images[0]
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = _CLASSES[first.Modality]
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = uid
    for keyword in (
        *("Modality", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Rows", "Columns"),
        *("SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit"),
        *("PixelRepresentation", "SeriesDescription"),
    ):
        if keyword in first:
            setattr(made, keyword, first[keyword].value)
    made.NumberOfFrames = len(images)
    made.SharedFunctionalGroupsSequence = [
        item(
            PixelMeasuresSequence=[item(PixelSpacing=first.PixelSpacing, SliceThickness=first.SliceThickness)],
            PlaneOrientationSequence=[item(ImageOrientationPatient=first.ImageOrientationPatient)],
        )
    ]
    made.PerFrameFunctionalGroupsSequence = [_group(image, number) for number, image in enumerate(images)]
    for name, values in frames.items():
        macro, _, keyword = name.partition("__")
        for group, value in zip(made.PerFrameFunctionalGroupsSequence, values, strict=True):
            if macro in group:
                setattr(group[macro].value[0], keyword, value)
            else:
                setattr(group, macro, [item(**{keyword: value})])
    made.PixelData = b"".join(image.PixelData for image in images)
    return made


def _group(image: Dataset, number: int) -> Dataset:
    return item(
        PlanePositionSequence=[item(ImagePositionPatient=image.ImagePositionPatient)],
        FrameContentSequence=[item(InStackPositionNumber=number + 1, FrameAcquisitionNumber=1)],
        PixelValueTransformationSequence=[
            item(
                RescaleIntercept=image.get("RescaleIntercept", 0),
                RescaleSlope=image.get("RescaleSlope", 1),
                RescaleType="HU" if image.Modality == "CT" else "US",
            )
        ],
    )
