"""Type 1 and 2 attributes of the modules that an IOD demands; the oracle is the table of PS3.3 that highdicom carries.

dciodvfy does not know Label Map Segmentation (66.7) in the releases that distributions have; so this is its test.
"""

from __future__ import annotations

import json
import pkgutil
from collections.abc import Callable, Iterator
from functools import cache
from io import BytesIO
from typing import Any

import made_results as made
import numpy as np
import pytest
from made_results import MADE_AT, MODEL, SEGMENTS
from pydicom import Dataset, dcmread

from dicom_io import labels, segmentation
from dicom_io.provenance import LabelRecord


@cache
def table(name: str) -> Any:
    raw = pkgutil.get_data("highdicom", f"_standard/{name}.json")
    assert raw is not None
    return json.loads(raw)


def demanded(sop_class_uid: str) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """(path of sequences, keyword, type) of the mandatory modules."""
    for module in table("iod_module_map")[table("sop_class_iod_map")[sop_class_uid]]:
        if module["usage"] == "M":
            for attribute in table("module_attribute_map")[module["key"]]:
                # Which functional groups an object needs, and where, is not in the table.
                is_group = attribute["path"] in (
                    ["SharedFunctionalGroupsSequence"],
                    ["PerFrameFunctionalGroupsSequence"],
                )
                if attribute["type"] in ("1", "2") and not is_group:
                    yield tuple(attribute["path"]), attribute["keyword"], attribute["type"]


def at(ds: Dataset, path: tuple[str, ...]) -> list[Dataset]:
    """All items at a path; none where a sequence is absent."""
    items = [ds]
    for keyword in path:
        items = [child for item in items for child in item.get(keyword) or []]
    return items


def missing(ds: Dataset) -> list[str]:
    """What an object lacks: a Type 1 attribute that is absent or empty, a Type 2 one that is absent."""
    found = []
    for path, keyword, kind in demanded(str(ds.SOPClassUID)):
        for item in at(ds, path):
            # A sequence of Type 1 has an item, other values are not empty.
            empty = keyword not in item or (kind == "1" and item[keyword].is_empty)
            if empty:
                found.append(" > ".join((*path, f"{keyword} ({kind})")))
    return sorted(set(found))


def label_map(*, empty: bool = False) -> tuple[Dataset, LabelRecord]:
    datasets = made.sources()
    return segmentation.segmentation(
        made.mask(datasets, np.zeros(made.SHAPE) if empty else None),
        sources=datasets,
        segments=SEGMENTS,
        model=MODEL,
        parameters={"threshold": 0.41},
        description="lesions",
        made_at=MADE_AT,
        form="labelmap",
    )


OBJECTS: dict[str, Callable[[], tuple[Dataset, LabelRecord]]] = {
    "label map": label_map,
    "label map of nothing": lambda: label_map(empty=True),
    "segmentation": made.seg,
    "parametric map": made.probability,
    "capture": made.capture,
    "generated": lambda: made.generated()[0],
    "MR": made.alike,
    "PT": lambda: made.alike("PT"),
    "presentation state": made.state,
}


def decoded(kind: str) -> Dataset:
    return dcmread(BytesIO(labels.encode(*OBJECTS[kind]())))


@pytest.mark.parametrize("kind", OBJECTS)
def test_an_object_has_what_its_iod_demands(kind: str) -> None:
    assert missing(decoded(kind)) == []


@pytest.mark.parametrize(
    "keyword",
    [
        *("SegmentationType", "SegmentSequence", "ContentLabel", "LossyImageCompression"),
        *("Manufacturer", "DeviceSerialNumber", "SoftwareVersions", "BitsStored", "NumberOfFrames", "ContentDate"),
        *("DimensionOrganizationSequence", "StudyID", "PatientBirthDate", "ReferringPhysicianName", "AccessionNumber"),
    ],
)
def test_the_table_tells_what_a_label_map_lacks(keyword: str) -> None:
    ds = decoded("label map")
    delattr(ds, keyword)
    assert any(keyword in name for name in missing(ds))


def test_a_label_map_has_the_values_that_its_modules_enumerate() -> None:
    ds = decoded("label map")
    assert (ds.Modality, ds.SegmentationType, list(ds.ImageType)) == ("SEG", "LABELMAP", ["DERIVED", "PRIMARY"])
    assert (ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation) == (1, "MONOCHROME2", 0)
    assert (ds.BitsAllocated, ds.BitsStored, ds.HighBit) == (8, 8, 7)
    # Of modules that the table does not hold as mandatory: frame of reference, dimensions, content identification.
    for keyword in ("FrameOfReferenceUID", "DimensionIndexSequence", "ContentLabel", "InstanceNumber"):
        assert ds[keyword].value
    assert "PositionReferenceIndicator" in ds and "ContentDescription" in ds and "ContentCreatorName" in ds
    assert ds.PixelPaddingValue == 0 and ds.SegmentsOverlap == "NO"
    numbers = {segment.SegmentNumber for segment in ds.SegmentSequence}
    assert {int(value) for value in np.unique(ds.pixel_array)} <= numbers
    shared = ds.SharedFunctionalGroupsSequence[0]
    assert shared.PixelMeasuresSequence[0].PixelSpacing and shared.PlaneOrientationSequence[0].ImageOrientationPatient
    assert len(ds.PerFrameFunctionalGroupsSequence) == ds.NumberOfFrames
    pointers = [item.DimensionIndexPointer for item in ds.DimensionIndexSequence]
    for frame in ds.PerFrameFunctionalGroupsSequence:
        values = frame.FrameContentSequence[0].DimensionIndexValues
        assert len([values] if isinstance(values, int) else values) == len(pointers)
        assert frame.PlanePositionSequence[0].ImagePositionPatient and "SegmentIdentificationSequence" not in frame
