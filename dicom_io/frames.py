"""Multi-frame objects taken apart into slices, whose headers read as those of single-frame images.

An enhanced object (CT, MR, PET, breast tomosynthesis, and the legacy converted ones) says in functional groups what
differs from frame to frame (PS3.3 C.7.6.16). Each frame's header is that of the instance with the attributes of its
groups, shared ones first, in the outermost data set; where an enhanced attribute has another keyword than the one of
single-frame images, it stands under both.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dicom_io import mosaic, pixels
from dicom_io.dataset import header_of, put
from dicom_io.errors import Rejected
from dicom_io.slices import Slice

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

# Enhanced keyword -> keyword of single-frame images.
_CLASSIC = {
    "EffectiveEchoTime": "EchoTime",  # (0018,9082) -> (0018,0081)
    "FrameType": "ImageType",  # (0008,9007) -> (0008,0008)
    "FrameAcquisitionDateTime": "AcquisitionDateTime",  # (0018,9074) -> (0008,002A)
    "NominalCardiacTriggerDelayTime": "TriggerTime",  # (0020,9153) -> (0018,1060)
    "TemporalPositionIndex": "TemporalPositionIdentifier",  # (0020,9128) -> (0020,0100)
    "InversionTimes": "InversionTime",  # (0018,9079) -> (0018,0082)
    "FrameLaterality": "ImageLaterality",  # (0020,9072) -> (0020,0062)
}
# Groups that name other objects and say nothing of the frame itself.
_REFERENCES = frozenset(("ReferencedImageSequence", "DerivationImageSequence", "SourceImageSequence"))
# What a header must say of the instance itself, whatever stands in a group.
_OF_THE_INSTANCE = frozenset(
    (
        *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "PatientID", "PatientName"),
        *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration"),
        *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelData", "SyntheticData"),
    )
)
# Groups that are used as the sequences that they are.
_WHOLE = frozenset(("RealWorldValueMappingSequence",))
# Sequences inside groups whose items' attributes are the frame's, too.
_NESTED = frozenset(("DiffusionGradientDirectionSequence",))


def taken_apart(slices: Sequence[Slice]) -> list[Slice]:
    """Slices of single-frame objects as they are, the frames and tiles of others in place of these.

    Raises:
        Rejected: several frames of which nothing says where they lie, or a mosaic that does not say how it is laid out.
    """
    _require_whole_concatenations(slices)
    made: list[Slice] = []
    for item in slices:
        if item.instance is not None:
            made.append(item)
        elif mosaic.is_mosaic(item) and "SharedFunctionalGroupsSequence" not in item.dataset:
            made += mosaic.tiles(item)
        elif "PerFrameFunctionalGroupsSequence" in item.dataset:
            made += _frames(item)
        elif item.number_of_frames > 1:
            raise Rejected(
                f"series {item.text('SeriesInstanceUID')}: {item.dataset.SOPClassUID.name} holds "
                f"{item.number_of_frames} frames and no functional groups for each, so their places are unknown; "
                "export it as enhanced or as single-frame images"
            )
        else:
            made.append(item)
    return made


def _require_whole_concatenations(slices: Sequence[Slice]) -> None:
    """A multi-frame object may be cut into several instances (PS3.3 C.7.6.16.2.2.4); all must be there."""
    parts: dict[str, set[str]] = defaultdict(set)
    totals: dict[str, int] = {}
    for item in slices:
        if uid := item.text("ConcatenationUID"):
            parts[uid].add(item.text("SOPInstanceUID"))
            totals[uid] = int(item.get("InConcatenationTotalNumber") or 0)
    for uid, there in parts.items():
        if len(there) < totals[uid]:
            raise Rejected(
                f"series {slices[0].text('SeriesInstanceUID')}: {len(there)} of {totals[uid]} instances of "
                f"concatenation {uid} are there; send the others"
            )


def is_tomosynthesis(item: Slice) -> bool:
    """A mammogram of several frames with functional groups, which say where each lies."""
    return item.instance is not None or "PerFrameFunctionalGroupsSequence" in item.dataset


def _frames(item: Slice) -> list[Slice]:
    instance = item.dataset
    groups = instance.PerFrameFunctionalGroupsSequence
    if len(groups) != pixels.number_of_frames(instance):
        raise Rejected(
            f"instance {item.text('SOPInstanceUID')} has {len(groups)} items of Per-Frame Functional Groups "
            f"(5200,9230) for {pixels.number_of_frames(instance)} frames; send it whole"
        )
    common = header_of(instance)
    for shared in instance.get("SharedFunctionalGroupsSequence") or ():
        _lift(shared, common)
    return [_frame(item, common, group, number) for number, group in enumerate(groups, start=1)]


def _frame(item: Slice, common: Dataset, group: Dataset, number: int) -> Slice:
    header = header_of(common)
    _lift(group, header)
    return Slice(header, item.dataset_hash, number, item.dataset)


def _lift(group: Dataset, header: Dataset) -> None:
    """Attributes of each functional group's item become the header's own."""
    for macro in group:
        if macro.keyword in _WHOLE:
            header[macro.tag] = macro
        elif macro.VR == "SQ" and macro.keyword not in _REFERENCES:
            for attributes in macro.value[:1]:
                _take(attributes, header)


def _take(attributes: Dataset, header: Dataset) -> None:
    for element in attributes:
        if element.keyword in _NESTED:
            for item in element.value[:1]:
                _take(item, header)
            continue
        if element.keyword in _OF_THE_INSTANCE:
            continue
        header[element.tag] = element
        if element.keyword in _CLASSIC:
            put(header, _CLASSIC[element.keyword], element.value)
