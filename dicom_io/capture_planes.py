"""Where the frames of a capture lie: written from the planes of their sources or of a volume, and read again.

Pixel Measures, Plane Orientation and Plane Position (PS3.3 C.7.6.16.2) of a multi-frame capture, Image Plane (C.7.6.2)
of a single one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydicom import Dataset
from pydicom.tag import Tag
from pydicom.valuerep import format_number_as_ds

from dicom_io import placement
from dicom_io.errors import MissingAttribute, Rejected
from dicom_io.labels import SECONDARY_CAPTURE
from dicom_io.volume import Float64, Volume

_PER_FRAME_GROUPS = Tag(0x5200, 0x9230)
# Groups of the elements that no header of a frame has.
_PIXELS_AND_GROUPS = (0x5200, 0x7FE0)


def common_frame_of_reference(sources: Sequence[Dataset]) -> str:
    """The one frame of reference of all sources.

    Raises:
        Rejected: they have several, or one has none.
    """
    uids = {str(source.get("FrameOfReferenceUID") or "") for source in sources}
    if len(uids) != 1 or not all(uids):
        raise Rejected(
            f"the sources have {len(uids)} frames of reference ({' '.join(sorted(uids)) or 'none'}); "
            "frames with planes need one, leave the planes out"
        )
    return uids.pop()


def set_planes(dataset: Dataset, sources: Sequence[Dataset], zoom: int) -> None:
    """Frame i lies where source i does, and shows each of its pixels as `zoom` x `zoom`, from the top left corner.

    Raises:
        Rejected: a source does not say where it lies, or is not parallel to the others.
    """
    for source in sources:
        if not all(
            source.get(keyword) for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
        ):
            raise Rejected(f"source {source.SOPInstanceUID} does not say where it lies; leave the planes out")
    orientation = np.array(sources[0].ImageOrientationPatient, np.float64)
    spacing = np.array(sources[0].PixelSpacing, np.float64)
    measures, plane = Dataset(), Dataset()
    measures.PixelSpacing = [format_number_as_ds(float(step) / zoom) for step in spacing]
    if sources[0].get("SliceThickness"):
        measures.SliceThickness = sources[0].SliceThickness
    plane.ImageOrientationPatient = list(sources[0].ImageOrientationPatient)
    corners = []
    for source in sources:
        if (
            np.abs(np.array(source.ImageOrientationPatient, np.float64) - orientation).max() > 1e-3
            or np.abs(np.array(source.PixelSpacing, np.float64) - spacing).max() > 1e-3
        ):
            raise Rejected(f"source {source.SOPInstanceUID} is not parallel to the others; leave the planes out")
        # Positions are those of pixel centres: the first small pixel's centre lies off the first big one's.
        shift = 0.5 / zoom - 0.5
        right, down = orientation[:3] * spacing[1], orientation[3:] * spacing[0]
        corners.append(np.array(source.ImagePositionPatient, np.float64) + shift * (right + down))
    _put_planes(dataset, measures, plane, corners)


def set_places(dataset: Dataset, volume: Volume, first: int, count: int) -> None:
    """Where `count` slices of a volume lie, from slice `first` on."""
    between, down, across = volume.spacing_mm
    measures, plane = Dataset(), Dataset()
    measures.PixelSpacing = [format_number_as_ds(down), format_number_as_ds(across)]
    measures.SliceThickness = measures.SpacingBetweenSlices = format_number_as_ds(between)
    cosines = (*(volume.affine[:3, 2] / across), *(volume.affine[:3, 1] / down))
    plane.ImageOrientationPatient = [format_number_as_ds(float(value)) for value in cosines]
    corners = [volume.position_mm((number, 0, 0)) for number in range(first, first + count)]
    _put_planes(dataset, measures, plane, corners)


def _put_planes(dataset: Dataset, measures: Dataset, plane: Dataset, corners: Sequence[Float64]) -> None:
    places = []
    for corner in corners:
        place = Dataset()
        place.ImagePositionPatient = [format_number_as_ds(float(value)) for value in corner]
        places.append(place)
    if dataset.SOPClassUID == SECONDARY_CAPTURE:
        if "SliceThickness" not in measures:
            measures.SliceThickness = None  # Type 2 of the Image Plane module
        for attributes in (measures, plane, places[0]):
            dataset.update(attributes)
        return
    shared = Dataset()
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [plane]
    dataset.SharedFunctionalGroupsSequence = [shared]
    dataset.PerFrameFunctionalGroupsSequence = [_with_position(place) for place in places]
    if "FrameIncrementPointer" in dataset:
        dataset.FrameIncrementPointer = _PER_FRAME_GROUPS
        del dataset.PageNumberVector


def _with_position(place: Dataset) -> Dataset:
    frame = Dataset()
    frame.PlanePositionSequence = [place]
    return frame


def headers(capture: Dataset) -> list[Dataset]:
    """A header data set for each frame of a capture with planes, as of single-frame images: what lies on it refers to
    these (`dicom_io.references`). Rows (0028,0010) count the border strip, which belongs to the picture that is shown.

    Raises:
        MissingAttribute: the capture does not say where its frames lie.
    """
    common = Dataset({element.tag: element for element in capture if element.tag.group not in _PIXELS_AND_GROUPS})
    if "PerFrameFunctionalGroupsSequence" not in capture:
        return [common]
    named = f"capture {capture.SOPInstanceUID}"
    found = []
    for frame in capture.PerFrameFunctionalGroupsSequence:
        header = Dataset(dict(common.items()))
        for macro in ("PixelMeasuresSequence", "PlaneOrientationSequence", "PlanePositionSequence"):
            header.update(placement.group(capture, frame, macro, named))
        found.append(header)
    return found


def affine_of(of_frames: Sequence[Dataset]) -> Float64:
    """(4, 4), index (slice, row, column) -> LPS in mm, of the frames' `headers` in slice order.

    Raises:
        MissingAttribute: one does not say where it lies.
        Rejected: they are no even stack.
    """
    for header in of_frames:
        for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
            if not header.get(keyword):
                raise MissingAttribute(f"capture {header.SOPInstanceUID} has no {keyword}, so it has no place")
    across, down = np.array(of_frames[0].ImageOrientationPatient, np.float64).reshape(2, 3)
    step_down, step_across = (float(step) for step in of_frames[0].PixelSpacing)
    corners = np.array([list(header.ImagePositionPatient) for header in of_frames], np.float64)
    between = np.cross(across, down) * float(of_frames[0].get("SliceThickness") or 1.0)
    if len(corners) > 1:
        between = (corners[-1] - corners[0]) / (len(corners) - 1)
    off = np.linalg.norm(corners - corners[0] - np.arange(len(corners))[:, np.newaxis] * between, axis=1)
    if off.max() > 0.01:
        raise Rejected(f"the frames of {of_frames[0].SeriesInstanceUID} are no even stack ({off.max():.2f} mm off)")
    affine = np.eye(4)
    affine[:3] = np.column_stack([between, down * step_down, across * step_across, corners[0]])
    return affine
