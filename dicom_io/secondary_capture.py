"""Pictures -> Secondary Capture: multi-frame (PS3.3 A.8.4 grayscale word, A.8.5 true colour) or single (A.8.1); back.

Each frame gets a border strip below the image with the visible mark; its height is recorded, and `read_back` crops it.
What comes back is exactly what was stored: RGB byte for byte, and gray as `dequantise` gives it, which differs from the
floats that went in by half a step at most (step = Rescale Slope).

A multi-frame instance has at most 64 frames, because viewers take 90 and more for a video; more become consecutive
instances of one series. Single frames, for peers without the multi-frame classes, are instances of Secondary Capture
Image Storage, colour and gray alike: its image may have any depth, and Modality LUT and VOI LUT are modules of it, so
that 16 bits keep the slope that makes floats of them. `generated` files under a fictitious patient, `of_prediction`
under the patient of the sources.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.tag import Tag
from pydicom.valuerep import format_number_as_ds

from dicom_io import filing, labels
from dicom_io.errors import Rejected
from dicom_io.labels import MULTI_FRAME_GRAYSCALE_WORD, MULTI_FRAME_TRUE_COLOUR, SECONDARY_CAPTURE
from dicom_io.picture import Ink, text_strip
from dicom_io.provenance import (
    FictitiousStudy,
    LabelRecord,
    ModelIdentity,
    canonical_json,
    result_uid,
    series_number,
)
from dicom_io.volume import Float32, Source

__all__ = ["FictitiousStudy", "dequantise", "generated", "of_prediction", "quantise", "read_back"]

Form = Literal["multi-frame", "single-frame"]
FRAMES_PER_INSTANCE = 64
_FULL = 65535
# Changes whenever the same input would be written as other pixels: part of the results' UIDs.
_ENCODINGS = {"multi-frame": "capture 1", "single-frame": "capture 1 single frames"}
_PAGE_NUMBER_VECTOR = Tag(0x0018, 0x2001)
_PER_FRAME_GROUPS = Tag(0x5200, 0x9230)


@dataclass(frozen=True, eq=False)
class Quantised:
    """Floats as 16-bit integers: value = stored * slope + intercept, with the numbers as the object holds them."""

    stored: npt.NDArray[np.uint16]
    slope: float
    intercept: float


def quantise(frames: npt.ArrayLike, value_range: tuple[float, float] | None = None) -> Quantised:
    """Floats -> 16-bit integers that span `value_range`, or the values' own range, half a step off at most.

    Raises:
        Rejected: a value is not finite, or outside `value_range`.
    """
    values = np.asarray(frames, np.float64)
    if not np.isfinite(values).all():
        raise Rejected(f"{np.count_nonzero(~np.isfinite(values))} pixels are not finite and cannot be stored")
    smallest, largest = float(values.min()), float(values.max())
    low, high = value_range or (smallest, largest)
    if smallest < low or largest > high:
        raise Rejected(f"pixels from {smallest:g} to {largest:g} do not fit the range {low:g} to {high:g}; widen it")
    # Decimal Strings have 16 characters: the numbers that are written, not those that were meant, do the scaling.
    slope = float(format_number_as_ds((high - low) / _FULL)) if high > low else 1.0
    intercept = float(format_number_as_ds(low))
    stored = np.clip(np.rint((values - intercept) / slope), 0, _FULL).astype(np.uint16)
    return Quantised(stored, slope, intercept)


def dequantise(quantised: Quantised) -> Float32:
    """Stored integers -> values."""
    return (quantised.stored * np.float64(quantised.slope) + quantised.intercept).astype(np.float32)


def generated(
    frames: Float32,
    *,
    model: ModelIdentity,
    seed: int,
    label: str,
    spacing_mm: Sequence[float] | None,
    units: str,
    study: FictitiousStudy | None = None,
    made_at: datetime,
    audit_id: str = "",
    value_range: tuple[float, float] | None = None,
    out_of_domain: bool = False,
    form: Form = "multi-frame",
) -> list[tuple[Dataset, LabelRecord]]:
    """Generated frames (n, rows, columns) as one series of a fictitious patient.

    spacing_mm: (down, across) between pixels, or None. units: UCUM, of the values. label: what was asked for, "" for
    nothing. study: the one that the series joins; None makes the study of this model, seed and label.
    value_range: what the 16 bits span (`quantise`), and the window; None is 0 to 1 for such values of unit "1", else
    the range of these frames. form: up to 64 frames in one instance, or one.

    Raises:
        Rejected: a pixel is not finite or outside `value_range`.
        ValueError: the frames have not three axes.
    """
    if frames.ndim != 3:
        raise ValueError(f"generated frames have the axes (frame, row, column), not the shape {frames.shape}")
    study = study or FictitiousStudy.named(model, seed, label, made_at)
    if value_range is None and units == "1" and np.all((frames >= 0) & (frames <= 1)):
        # One range for all series of such a model: what else is drawn with a picture does not change its pixels.
        value_range = (0.0, 1.0)
    quantised = quantise(frames, value_range)
    naming = {
        "seed": seed,
        "label": label,
        "shape": list(frames.shape),
        "units": units,
        "spacing_mm": [float(step) for step in spacing_mm or ()],
        "range": [quantised.slope, quantised.intercept],
        "encoding": _ENCODINGS[form],
    }
    sop_class = MULTI_FRAME_GRAYSCALE_WORD if form == "multi-frame" else SECONDARY_CAPTURE
    series_uid = result_uid("series", model, (), naming, sop_class)
    record = LabelRecord(
        kind="generated",
        model=model,
        sop_class_uid=sop_class,
        sop_instance_uid="",
        series_instance_uid=series_uid,
        study_instance_uid=study.study_instance_uid,
        patient_id=study.patient_id,
        frame_of_reference_uid=labels.frame_of_reference_of(series_uid),
        out_of_domain=out_of_domain,
        audit_id=audit_id,
        seed=seed,
        parameters=canonical_json({"label": label, "samples": len(frames)} if label else {"samples": len(frames)}),
    )
    made = []
    for number, (part, mark_rows) in enumerate(_marked_parts(quantised.stored, record, (0, _FULL)), start=1):
        instance = result_uid(f"instance {number}", model, (), naming, sop_class)
        dataset = _capture(part, record, instance, number, made_at)
        filing.under_fictitious(dataset, study)
        _set_gray(dataset, quantised, (quantised.intercept, quantised.intercept + _FULL * quantised.slope))
        if spacing_mm is not None:
            dataset.PixelSpacing = [format_number_as_ds(float(step)) for step in spacing_mm]
        of_instance = replace(record, sop_instance_uid=instance, mark_rows=mark_rows)
        labels.apply(dataset, of_instance, (), made_at, f"{label} by {model.address}".strip(), units)
        made.append((dataset, of_instance))
    return made


def of_prediction(
    frames: npt.NDArray[np.uint8] | Float32,
    *,
    model: ModelIdentity,
    sources: Sequence[Dataset],
    source_refs: Sequence[Source],
    description: str,
    purpose: str,
    parameters: Mapping[str, Any],
    made_at: datetime,
    out_of_domain: bool = False,
    audit_id: str = "",
    window: tuple[float, float] = (0.0, 1.0),
    units: str = "1",
    zoom: int | None = None,
    further_sources: Sequence[Dataset] = (),
    form: Form = "multi-frame",
) -> list[tuple[Dataset, LabelRecord]]:
    """What a model saw in real images, as one new series of their study.

    frames: (n, rows, columns, 3) uint8, true colour; or (n, rows, columns) float32, stored as 16 bits with `window`
    (low, high) to look through. sources: the images that are shown, of one study. source_refs: all that it was made
    from, as `Source` (the data-set hashes go into the UIDs, the synthetic flag is inherited).
    purpose: tells results of one model and input apart ("tumour overlay"). parameters: what changes pixels.
    units: UCUM, of float32 frames.
    zoom: None, or how many pixels of frame i show one pixel of source i along a side, from the top left corner; then
    there are as many frames as sources, captions lie below, and the frames' places in the patient are written.
    further_sources: images of other series that the model looked at, too; referenced, but no frame's plane.
    form: up to 64 frames in one instance, or one.

    Raises:
        Rejected: several studies or patients; non-finite pixels; with `zoom`: sources without plane, or not parallel.
        ValueError: the shapes, or sources and source_refs, do not fit.
    """
    colour = frames.ndim == 4 and frames.shape[3] == 3 and frames.dtype == np.uint8
    if not colour and not (frames.ndim == 3 and np.issubdtype(frames.dtype, np.floating)):
        raise ValueError(f"frames are (n, rows, columns, 3) uint8 or (n, rows, columns) float, not {frames.shape}")
    all_sources = [*sources, *further_sources]
    source_uids = tuple(str(source.SOPInstanceUID) for source in all_sources)
    labels.require_named(source_uids, source_refs)
    if zoom is not None:
        _require_pixels_of(frames, sources, zoom)
    sop_class = MULTI_FRAME_TRUE_COLOUR if colour else MULTI_FRAME_GRAYSCALE_WORD
    if form == "single-frame":
        sop_class = SECONDARY_CAPTURE
    quantised = None if colour else quantise(frames, _covering(np.asarray(frames, np.float32), window))
    naming = {
        "purpose": purpose,
        "parameters": dict(parameters),
        "shape": list(frames.shape),
        "out_of_domain": out_of_domain,
        "zoom": zoom,
        "window": None if colour else [window[0], window[1]],
        "encoding": _ENCODINGS[form],
    }
    record = LabelRecord(
        kind="capture",
        model=model,
        sop_class_uid=sop_class,
        sop_instance_uid="",
        series_instance_uid=result_uid("series", model, source_refs, naming, sop_class),
        study_instance_uid=str(sources[0].StudyInstanceUID),
        patient_id=str(sources[0].get("PatientID") or ""),
        frame_of_reference_uid="" if zoom is None else _common_frame_of_reference(sources),
        source_uids=source_uids,
        synthetic_input=any(map(labels.is_synthetic, all_sources)) or any(ref.synthetic for ref in source_refs),
        out_of_domain=out_of_domain,
        audit_id=audit_id,
        parameters=canonical_json(parameters),
        source_equipment=tuple(labels.equipment_key(item) for item in labels.equipment_of(all_sources)),
    )
    if quantised is None:
        parts = _marked_parts(frames, record, (0, 255))
    else:
        parts = _marked_parts(quantised.stored, record, _stored(window, quantised))
    made = []
    for number, (part, mark_rows) in enumerate(parts, start=1):
        instance = result_uid(f"instance {number}", model, source_refs, naming, sop_class)
        dataset = _capture(part, record, instance, number, made_at)
        filing.under_sources(dataset, all_sources)
        dataset.Laterality = sources[0].get("Laterality")
        dataset.LossyImageCompression = (
            "01" if any(str(source.get("LossyImageCompression") or "") == "01" for source in all_sources) else "00"
        )
        if quantised is not None:
            _set_gray(dataset, quantised, window)
        if zoom is not None:
            start = (number - 1) * _frames_per_instance(sop_class)
            _set_planes(dataset, sources[start : start + len(part)], zoom)
        of_instance = replace(record, sop_instance_uid=instance, mark_rows=mark_rows)
        labels.apply(dataset, of_instance, all_sources, made_at, description, "" if colour else units)
        made.append((dataset, of_instance))
    return made


def read_back(dataset: Dataset) -> npt.NDArray[np.uint8] | Float32:
    """The frames of a capture of ours without the border strip: RGB as written, gray in units (`dequantise`).

    Returns (n, rows, columns, 3) uint8 or (n, rows, columns) float32.

    Raises:
        Rejected: the object does not record the height of a border strip, so it is no capture of ours.
    """
    rows = labels.mark_rows(dataset)
    pixels = np.asarray(dataset.pixel_array)
    gray = int(dataset.SamplesPerPixel) == 1
    if pixels.ndim == (2 if gray else 3):
        pixels = pixels[np.newaxis]
    pixels = pixels[:, : pixels.shape[1] - rows]
    if not gray:
        return pixels
    return dequantise(Quantised(pixels, float(dataset.RescaleSlope), float(dataset.RescaleIntercept)))


def _covering(frames: Float32, window: tuple[float, float]) -> tuple[float, float]:
    """The window, widened to hold every value."""
    if not window[1] > window[0]:
        raise ValueError(
            f"a window from {window[0]} to {window[1]} shows nothing; the upper end must be above the lower"
        )
    finite = frames[np.isfinite(frames)]
    return min(window[0], float(finite.min(initial=window[0]))), max(window[1], float(finite.max(initial=window[1])))


def _stored(window: tuple[float, float], quantised: Quantised) -> tuple[int, int]:
    low, high = np.clip(np.rint((np.array(window) - quantised.intercept) / quantised.slope), 0, _FULL).astype(int)
    return int(low), int(high)


def _marked_parts(
    pixels: npt.NDArray[Any], record: LabelRecord, paper_and_ink: tuple[int, int]
) -> list[tuple[npt.NDArray[Any], int]]:
    """The frames in parts of at most 64, or of 1, the visible mark below each, and the height of its strip."""
    ink: Ink = text_strip(labels.visible_mark(record), pixels.shape[2])
    strip = np.where(ink, paper_and_ink[1], paper_and_ink[0]).astype(pixels.dtype)
    if pixels.ndim == 4:
        strip = np.repeat(strip[..., np.newaxis], 3, axis=-1)
    parts, step = [], _frames_per_instance(record.sop_class_uid)
    for start in range(0, len(pixels), step):
        part = pixels[start : start + step]
        strips = np.broadcast_to(strip, (len(part), *strip.shape))
        parts.append((np.concatenate([part, strips], axis=1), len(strip)))
    return parts


def _frames_per_instance(sop_class_uid: str) -> int:
    return 1 if sop_class_uid == SECONDARY_CAPTURE else FRAMES_PER_INSTANCE


def _capture(
    pixels: npt.NDArray[Any], record: LabelRecord, instance_uid: str, number: int, made_at: datetime
) -> Dataset:
    """Image, series and pixel modules that all captures share (PS3.3 C.7.3.1, C.7.6.1, C.7.6.3, C.8.6.3).

    pixels: (frames, rows, columns) or (frames, rows, columns, 3).
    """
    colour = pixels.ndim == 4
    dataset = Dataset()
    dataset.file_meta = labels.file_meta(record.sop_class_uid, instance_uid)
    filing.stamp(dataset, made_at)
    dataset.SOPClassUID, dataset.SOPInstanceUID = record.sop_class_uid, instance_uid
    dataset.SeriesInstanceUID = record.series_instance_uid
    dataset.SeriesNumber = series_number(record.series_instance_uid)
    dataset.InstanceNumber = number
    dataset.Modality = "OT"
    dataset.PatientOrientation = None
    # Type 2C where a body part is paired (PS3.3 C.7.3.1): empty says that it is not known.
    dataset.Laterality = None
    dataset.LossyImageCompression = "00"
    dataset.Rows, dataset.Columns = pixels.shape[1:3]
    dataset.SamplesPerPixel = 3 if colour else 1
    dataset.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    bits = 8 * pixels.dtype.itemsize
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.PixelRepresentation = 0
    if colour:
        dataset.PlanarConfiguration = 0
    if record.sop_class_uid != SECONDARY_CAPTURE:
        dataset.NumberOfFrames = len(pixels)
        dataset.FrameIncrementPointer = _PAGE_NUMBER_VECTOR
        dataset.PageNumberVector = list(range(1, len(pixels) + 1))
    raw = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    dataset.add_new("PixelData", "OW" if bits == 16 else "OB", raw + b"\0" * (len(raw) % 2))
    return dataset


def _set_gray(dataset: Dataset, quantised: Quantised, window: tuple[float, float]) -> None:
    if dataset.SOPClassUID != SECONDARY_CAPTURE:  # of the multi-frame image's module (PS3.3 C.8.6.3)
        dataset.PresentationLUTShape = "IDENTITY"
    dataset.RescaleIntercept = format_number_as_ds(quantised.intercept)
    dataset.RescaleSlope = format_number_as_ds(quantised.slope)
    # The only type that the module allows (PS3.3 C.8.6.3); the unit stands in our private block.
    dataset.RescaleType = "US"
    # The default function LINEAR maps center - 0.5 -+ (width - 1) / 2 onto black and white (PS3.3 C.11.2.1.2.1).
    dataset.WindowCenter = format_number_as_ds((window[0] + window[1]) / 2 + 0.5)
    dataset.WindowWidth = format_number_as_ds(window[1] - window[0] + 1)


def _common_frame_of_reference(sources: Sequence[Dataset]) -> str:
    uids = {str(source.get("FrameOfReferenceUID") or "") for source in sources}
    if len(uids) != 1 or not all(uids):
        raise Rejected(
            f"the sources have {len(uids)} frames of reference ({' '.join(sorted(uids)) or 'none'}); "
            "frames with planes need one, leave the planes out"
        )
    return uids.pop()


def _require_pixels_of(frames: npt.NDArray[Any], sources: Sequence[Dataset], zoom: int) -> None:
    for source in sources:
        rows, columns = int(source.Rows) * zoom, int(source.Columns) * zoom
        if int(source.get("NumberOfFrames") or 1) > 1:
            raise Rejected(f"source {source.SOPInstanceUID} has several frames; leave the planes out")
        if len(frames) != len(sources) or frames.shape[2] != columns or frames.shape[1] < rows:
            raise ValueError(
                f"frames of {frames.shape[:3]} do not show {len(sources)} sources of {source.Rows} x {source.Columns} "
                f"pixels at zoom {zoom}"
            )


def _set_planes(dataset: Dataset, sources: Sequence[Dataset], zoom: int) -> None:
    """Where frames that show their sources lie: Pixel Measures, Plane Orientation and Plane Position (PS3.3 C.7.6.16.2)
    of a multi-frame capture, Image Plane (C.7.6.2) of a single one."""
    for source in sources:
        if not all(
            source.get(keyword) for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
        ):
            raise Rejected(f"source {source.SOPInstanceUID} does not say where it lies; leave the planes out")
    orientation = np.array(sources[0].ImageOrientationPatient, np.float64)
    spacing = np.array(sources[0].PixelSpacing, np.float64)
    shared = Dataset()
    measures, plane = Dataset(), Dataset()
    measures.PixelSpacing = [format_number_as_ds(float(step) / zoom) for step in spacing]
    single = dataset.SOPClassUID == SECONDARY_CAPTURE
    if sources[0].get("SliceThickness"):
        measures.SliceThickness = sources[0].SliceThickness
    elif single:
        measures.SliceThickness = None  # Type 2 of the Image Plane module
    plane.ImageOrientationPatient = list(sources[0].ImageOrientationPatient)
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [plane]
    frames = []
    for source in sources:
        if (
            np.abs(np.array(source.ImageOrientationPatient, np.float64) - orientation).max() > 1e-3
            or np.abs(np.array(source.PixelSpacing, np.float64) - spacing).max() > 1e-3
        ):
            raise Rejected(f"source {source.SOPInstanceUID} is not parallel to the others; leave the planes out")
        # Positions are those of pixel centres: the first small pixel's centre lies off the first big one's.
        shift = 0.5 / zoom - 0.5
        right, down = orientation[:3] * spacing[1], orientation[3:] * spacing[0]
        position, frame = Dataset(), Dataset()
        corner = np.array(source.ImagePositionPatient, np.float64) + shift * (right + down)
        position.ImagePositionPatient = [format_number_as_ds(float(value)) for value in corner]
        frame.PlanePositionSequence = [position]
        frames.append(frame)
    if single:
        dataset.update(measures)
        dataset.update(plane)
        dataset.update(frames[0].PlanePositionSequence[0])
        return
    dataset.SharedFunctionalGroupsSequence = [shared]
    dataset.PerFrameFunctionalGroupsSequence = frames
    dataset.FrameIncrementPointer = _PER_FRAME_GROUPS
    del dataset.PageNumberVector
