"""What the pipeline makes on its way out: data sets with their records, written as labelled files."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from dicom_io import labels, picture, secondary_capture, segmentation
from dicom_io.provenance import LabelRecord
from dicom_io.segmentation import Segment
from plugin import encodings

Progress = Callable[[Mapping[str, Any]], None]
# A data set, its record, its finding, and the name of its encoding.
Object = tuple[Dataset, LabelRecord, str, str]


@dataclass(frozen=True)
class Made:
    """A DICOM file that was written, what the job says of it, its finding in a few words, and the name of its encoding
    (`plugin.encodings`)."""

    path: Path
    record: LabelRecord
    finding: str = ""
    encoding: str = ""


def silent(state: Mapping[str, Any]) -> None:
    """The progress callback of those who do not watch."""


def forms(wanted: Collection[str]) -> list[secondary_capture.Form]:
    return [form for form in get_args(secondary_capture.Form) if form in wanted]


def form_under_masks(wanted: Collection[str]) -> secondary_capture.Form:
    """The captures that a SEG of generated masks lies on: the archive's own, where they are among those written."""
    return next(iter(forms(encodings.DEFAULT.intersection(wanted)) or forms(wanted)))


# What names of abnormal structures hold, among those of organs.
_ABNORMAL = (
    "tumor",
    "tumour",
    "lesion",
    "nodule",
    "metasta",
    "neoplasm",
    "cyst",
    "infarct",
    "haemorrhage",
    "hemorrhage",
)


def segments_of(names: Sequence[str], *, organs: bool = False) -> list[Segment]:
    """Segments for a model's labels (0 is background), coded by what the names say; where they say no more, a lesion.
    organs: what is called by no word for a lesion is an anatomical structure."""
    types = {"tumour": segmentation.NEOPLASM, "mass": segmentation.MASS}
    found = []
    for number, name in enumerate(names[1:], start=1):
        colour = picture.PALETTE[(number - 1) % len(picture.PALETTE)]
        if organs and not any(word in name.lower() for word in _ABNORMAL):
            found.append(Segment(number, name, colour, segmentation.ANATOMY, segmentation.ANATOMY))
        else:
            found.append(Segment(number, name, colour, property_type=types.get(name, segmentation.LESION)))
    return found


def decided(threshold: float | None) -> dict[str, Any]:
    """How classes were told apart, among the parameters of what is made; None: the most probable class was taken."""
    return {"decision": "most probable class"} if threshold is None else {"threshold": threshold}


def grid(spacing_mm: Sequence[float]) -> npt.NDArray[np.float64]:
    """The affine of these steps along (slice, row, column), index -> LPS in mm: rows down, columns to the left, slices
    upwards, as axial images lie."""
    slice_mm, down, across = spacing_mm
    return np.diag([across, down, slice_mm, 1.0])[:, [2, 1, 0, 3]]


def write(objects: Iterable[Object], out: Path) -> list[Made]:
    out.mkdir(parents=True, exist_ok=True)
    made = []
    for dataset, record, finding, encoding in objects:
        path = out / f"{record.sop_instance_uid}.dcm"
        path.write_bytes(labels.encode(dataset, record))
        # Beside the file, so that `mirall send` can check the labels of what never went through an archive.
        path.with_suffix(".record.json").write_text(record.to_json())
        made.append(Made(path, record, finding, encoding))
    return made
