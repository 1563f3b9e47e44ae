"""Results that lie on the planes of their sources: what the writers through highdicom share.

highdicom takes the place of each frame from a source image. It is given stand-ins, which hold the geometry and nothing
else; then the real sources, and the frames that they are, are put where the stand-ins are named.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import numpy as np
from pydicom import Dataset
from pydicom.uid import MRImageStorage

from dicom_io import references
from dicom_io.errors import MissingAttribute, Rejected
from dicom_io.provenance import name_based_uid
from dicom_io.volume import Float64, Volume

# What the stand-ins below hold of the first source, but for its UIDs: what highdicom reads to know where pixels lie.
_GEOMETRY = (
    "SeriesInstanceUID",
    "StudyInstanceUID",
    "Modality",
    "FrameOfReferenceUID",
    "PositionReferenceIndicator",
    "Rows",
    "Columns",
    "PixelSpacing",
    "SliceThickness",
    "SpacingBetweenSlices",
    "ImageOrientationPatient",
)


def require(mask: Volume, sources: Sequence[Dataset]) -> None:
    """Slice i of the mask (or of a map) is the plane of source i: same image, same place.

    Raises:
        Rejected: it is another size, frame of reference, or more than a quarter of a step away.
        MissingAttribute: a source does not say where it lies.
        ValueError: there are not as many sources as slices.
    """
    if len(sources) != mask.spatial_shape[0]:
        raise ValueError(f"{len(sources)} source datasets for {mask.spatial_shape[0]} slices")
    for source in sources:
        for keyword in ("FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
            if not source.get(keyword):
                raise MissingAttribute(f"source {source.SOPInstanceUID} has no {keyword}, so a mask has no place on it")
        if str(source.FrameOfReferenceUID) != mask.frame_of_reference_uid:
            raise Rejected(
                f"source {source.SOPInstanceUID} lies in frame of reference {source.FrameOfReferenceUID}, the mask in "
                f"{mask.frame_of_reference_uid}; register them first"
            )
        if (int(source.Rows), int(source.Columns)) != mask.spatial_shape[1:]:
            raise Rejected(
                f"source {source.SOPInstanceUID} has {source.Rows} x {source.Columns} pixels, the mask "
                f"{mask.spatial_shape[1:]}; bring the mask back to the grid of its source"
            )
    # A regular grid is laid through slices whose steps may be uneven by a few percent; a quarter of a step off is
    # still the same slice.
    off_mm = _beside_mm(mask, sources)
    index = int(np.argmax(off_mm > 0.25 * min(mask.spacing_mm)))
    if off_mm[index] > 0.25 * min(mask.spacing_mm):
        raise Rejected(
            f"slice {index} of the mask lies {off_mm[index]:.2f} mm beside its source {sources[index].SOPInstanceUID}; "
            "bring the mask back to the grid of its source"
        )


def _beside_mm(mask: Volume, sources: Sequence[Dataset]) -> Float64:
    """How far the corners of each slice of the mask lie from those of its source, at most (PS3.3 C.7.6.2.1-1)."""
    places = np.array([list(source.ImagePositionPatient) for source in sources], np.float64)
    turns = np.array([list(source.ImageOrientationPatient) for source in sources], np.float64)
    steps = np.array([list(source.PixelSpacing) for source in sources], np.float64)
    _, rows, columns = mask.spatial_shape
    numbers = np.arange(len(sources))[:, np.newaxis] * mask.affine[:3, 0]
    worst = np.zeros(len(sources))
    for row, column in ((0, 0), (rows - 1, columns - 1), (rows - 1, 0)):
        theirs = places + row * steps[:, :1] * turns[:, 3:] + column * steps[:, 1:] * turns[:, :3]
        ours = numbers + mask.position_mm((0, row, column))
        worst = np.maximum(worst, np.linalg.norm(theirs - ours, axis=1))
    return worst


def stand_ins(sources: Sequence[Dataset]) -> list[Dataset]:
    """What highdicom needs of each source; patient and study are filed later, so that a faulty header cannot stop it.

    Each passes for a single-frame image with a UID of its own, so that frames of one instance can be told apart, and
    all have the orientation of the first: highdicom refuses one that differs in the last digit, as makers' do.
    """
    common = Dataset()
    for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID"):
        setattr(common, keyword, None)
    common.SOPClassUID, common.StudyDate, common.StudyTime = MRImageStorage, None, None
    common.PositionReferenceIndicator = None
    for keyword in _GEOMETRY:
        if sources[0].get(keyword) not in (None, ""):
            # A copy: highdicom takes elements over, and what is filed later changes them in place.
            common.add(copy(sources[0][keyword]))
    return [_stand_in(source, number, common) for number, source in enumerate(sources)]


def _stand_in(source: Dataset, number: int, common: Dataset) -> Dataset:
    dataset = Dataset(dict(common.items()))
    dataset.SOPInstanceUID = _stand_in_uid(number)
    dataset.ImagePositionPatient = source.ImagePositionPatient
    return dataset


def _stand_in_uid(number: int) -> str:
    return f"2.25.{number + 1}"


def name_sources(dataset: Dataset, sources: Sequence[Dataset], frame_numbers: Sequence[int]) -> None:
    """Put the sources, and the frames that they are, where the stand-ins are named."""
    numbers = {_stand_in_uid(number): number for number in range(len(sources))}
    # One item serves the frames of all segments on a plane.
    items = {
        id(item): item
        for frame in dataset.PerFrameFunctionalGroupsSequence
        for item in frame.DerivationImageSequence[0].SourceImageSequence
    }
    for item in items.values():
        number = numbers[item.ReferencedSOPInstanceUID]
        item.update(references.item(sources[number]))
        if frame_numbers[number]:
            item.ReferencedFrameNumber = frame_numbers[number]


def name_dimensions(dataset: Dataset) -> None:
    """Give the dimensions a UID that is a function of the object's; the same call gives the same bytes."""
    # highdicom draws a random UID here.
    uid = name_based_uid("dimension organization", str(dataset.SOPInstanceUID))
    for item in (*dataset.DimensionOrganizationSequence, *dataset.DimensionIndexSequence):
        item.DimensionOrganizationUID = uid
