"""Where the mask of an image comes from: a SEG or an RT Structure Set of the same study that refers to its series.

    seg                 all segments of the SEG together
    seg:Liver           the segment with this label (0062,0005)
    rtstruct:GTV_Mass   the region with this name (3006,0026)

Of several sources the first becomes 1 in the mask, the second 2, and so on; where they overlap, the later one stays.
A segment that a program drew by itself (Segment Algorithm Type AUTOMATIC (0062,0008)) is a prediction and no truth, and
is not taken unless that is asked for: a network would learn another's mistakes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from dicom_io import segmentation, structure_set
from dicom_io.errors import Rejected
from dicom_io.label_sources import Example
from dicom_io.volume import Projection, Volume

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

MODALITIES = ("SEG", "RTSTRUCT")
# A voxel of a fractional segment belongs to it from this on.
THRESHOLD = 0.5


@dataclass(frozen=True)
class MaskSource:
    """kind: of the object. name: of the segment or region; "" for all segments together."""

    kind: Literal["SEG", "RTSTRUCT"]
    name: str
    with_automatic: bool = False

    @property
    def label(self) -> str:
        return self.name or "segmented"

    def of(self, example: Example, objects: Sequence[Dataset]) -> tuple[Volume, str]:
        """(mask of 0 and 1 on the grid of the image, SOP Instance UID of the object that it came from).

        objects: SEG and RTSTRUCT data sets of the image's study.

        Raises:
            Rejected: no object has it or several do, the segment is automatic, or it cannot be laid on the grid.
        """
        if isinstance(example.image, Projection):
            raise Rejected("it has no place in the patient, so no mask can be laid on it; take images with geometry")
        fitting = [ds for ds in objects if ds.get("Modality") == self.kind and self._has(ds) and _refers(ds, example)]
        if len(fitting) != 1:
            what = f"with {self.name!r} " if self.name else ""
            held = sorted({name for ds in objects if ds.get("Modality") == self.kind for name in _names(ds)})
            raise Rejected(
                f"{len(fitting)} {self.kind} objects {what}of its study refer to it and one is needed; "
                f"the study's hold {', '.join(map(repr, held)) or 'nothing'}"
            )
        (ds,) = fitting
        mask = self._segments(ds, example.image) if self.kind == "SEG" else self._region(ds, example.image)
        return mask, str(ds.SOPInstanceUID)

    def _has(self, ds: Dataset) -> bool:
        return not self.name or self.name in _names(ds)

    def _segments(self, ds: Dataset, grid: Volume) -> Volume:
        wanted = [segment for segment in segmentation.segments_of(ds) if self.name in ("", segment.label)]
        if not self.with_automatic and any(segment.algorithm_type == "AUTOMATIC" for segment in wanted):
            raise Rejected(
                f"SEG {ds.SOPInstanceUID} was drawn by a program (AUTOMATIC), which is no truth to learn from; "
                "allow that on purpose, or take another"
            )
        read = segmentation.read_segments(ds, grid)
        inside = np.any([read[segment.number].voxels >= THRESHOLD for segment in wanted], axis=0)
        return grid.with_voxels(inside.astype(np.float32), units="1")

    def _region(self, ds: Dataset, grid: Volume) -> Volume:
        return structure_set.mask(ds, self.name, grid)


def parse(text: str, *, with_automatic: bool = False) -> MaskSource:
    """A source from its name on the command line.

    Raises:
        Rejected: no such source, or a structure set without the region's name.
    """
    kind, _, name = text.partition(":")
    if kind == "seg":
        return MaskSource("SEG", name, with_automatic)
    if kind == "rtstruct" and name:
        return MaskSource("RTSTRUCT", name, with_automatic)
    raise Rejected(f"masks cannot come from {text!r}; give seg, seg:LABEL or rtstruct:REGION")


def _names(ds: Dataset) -> tuple[str, ...]:
    if ds.get("Modality") == "RTSTRUCT":
        return structure_set.roi_names(ds)
    return tuple(segment.label for segment in segmentation.segments_of(ds))


def _refers(ds: Dataset, example: Example) -> bool:
    """Whether the object names the image's series; one that names no series at all may belong to any of its frame."""
    named = set(_series_of(ds))
    return example.series_uid in named if named else True


def _series_of(ds: Dataset) -> Iterator[str]:
    """Series Instance UIDs that a SEG (PS3.3 C.12.1.1) or an RTSTRUCT (C.8.8.5) refers to."""
    for item in ds.get("ReferencedSeriesSequence") or ():
        yield str(item.get("SeriesInstanceUID", ""))
    for frame in ds.get("ReferencedFrameOfReferenceSequence") or ():
        for study in frame.get("RTReferencedStudySequence") or ():
            for series in study.get("RTReferencedSeriesSequence") or ():
                yield str(series.get("SeriesInstanceUID", ""))
