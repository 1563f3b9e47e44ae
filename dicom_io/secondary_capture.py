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

from dicom_io import capture_planes, filing, labels, references
from dicom_io.errors import Rejected
from dicom_io.labels import MULTI_FRAME_GRAYSCALE_WORD, MULTI_FRAME_TRUE_COLOUR, SECONDARY_CAPTURE
from dicom_io.picture import Ink, text_strip
from dicom_io.provenance import (
    FictitiousStudy,
    Kind,
    LabelRecord,
    ModelIdentity,
    canonical_json,
    result_uid,
    series_number,
)
from dicom_io.volume import Float32, Source, Volume

__all__ = [
    "FictitiousStudy",
    "dequantise",
    "generated",
    "generated_from_real",
    "generated_volume",
    "of_prediction",
    "quantise",
    "read_back",
    "read_volume",
]

Form = Literal["multi-frame", "single-frame"]
FRAMES_PER_INSTANCE = 64
_FULL = 65535
_PIECE = 1 << 16
# Changes whenever the same input would be written as other pixels: part of the results' UIDs.
_ENCODINGS = {"multi-frame": "capture 1", "single-frame": "capture 1 single frames"}
_PAGE_NUMBER_VECTOR = Tag(0x0018, 0x2001)


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
    values = np.asarray(frames)
    smallest, largest = float(values.min()), float(values.max())
    if not np.isfinite([smallest, largest]).all():
        raise Rejected(f"{np.count_nonzero(~np.isfinite(values))} pixels are not finite and cannot be stored")
    low, high = map(float, value_range or (smallest, largest))
    # A bound such as 1.2 is none of single precision: values that reach it lie a digit beyond, and are clipped.
    slack = 2 * float(np.spacing(np.float32(max(abs(low), abs(high)))))
    if smallest < low - slack or largest > high + slack:
        raise Rejected(f"pixels from {smallest:g} to {largest:g} do not fit the range {low:g} to {high:g}; widen it")
    # Decimal Strings have 16 characters: the numbers that are written, not those that were meant, do the scaling.
    slope = float(format_number_as_ds((high - low) / _FULL)) if high > low else 1.0
    intercept = float(format_number_as_ds(low))
    return Quantised(_steps(values, slope, intercept), slope, intercept)


def _steps(values: npt.NDArray[Any], slope: float, intercept: float) -> npt.NDArray[np.uint16]:
    """Values in whole steps; a piece at a time stays in the cache, and needs no second copy in double precision."""
    flat = np.ravel(values)
    stored = np.empty(flat.shape, np.uint16)
    for start in range(0, flat.size, _PIECE):
        piece = flat[start : start + _PIECE].astype(np.float64)
        piece -= intercept
        piece /= slope
        np.clip(np.rint(piece, out=piece), 0, _FULL, out=piece)
        stored[start : start + _PIECE] = piece
    return stored.reshape(values.shape)


def dequantise(quantised: Quantised) -> Float32:
    """Stored integers -> values."""
    return (quantised.stored * np.float64(quantised.slope) + quantised.intercept).astype(np.float32)


def generated(
    frames: Float32 | npt.NDArray[np.uint8],
    *,
    model: ModelIdentity,
    seed: int,
    label: str,
    channel: str = "",
    settings: Mapping[str, float] | None = None,
    spacing_mm: Sequence[float] | None,
    units: str,
    study: FictitiousStudy | None = None,
    made_at: datetime,
    audit_id: str = "",
    value_range: tuple[float, float] | None = None,
    out_of_domain: bool = False,
    form: Form = "multi-frame",
    first: int = 0,
    total: int | None = None,
) -> list[tuple[Dataset, LabelRecord]]:
    """Generated frames as one series of a fictitious patient.

    frames: (n, rows, columns) float32, or (n, rows, columns, 3) uint8, true colour. spacing_mm: (down, across) between
    pixels, or None. units: UCUM, of the values. label: what was asked for, "" for nothing. channel: which of several
    images of the same samples this series holds, "" where there is one. settings: what changes samples beside seed and
    label, such as {"truncation": 0.7}; it goes into UIDs and record. study: the one that the series joins; None makes
    the study of this model, seed and label.
    value_range: what the 16 bits of floats span (`quantise`), and the window; None is 0 to 1 for such values of unit
    "1", else the range of these frames. form: up to 64 frames in one instance, or one.
    first, total: the frames are those from `first` on of a series of `total`, so that a series of any length can be
    written in parts; `first` is a multiple of 64, and value_range is given, or frames of one series would differ in it.

    Raises:
        Rejected: a pixel is not finite or outside `value_range`.
        ValueError: the frames have not the axes above, or the part does not fit the series.
    """
    colour = frames.dtype == np.uint8 and frames.ndim == 4
    if frames.ndim != 3 and not colour:
        raise ValueError(f"generated frames have the axes (frame, row, column), not the shape {frames.shape}")
    total = len(frames) if total is None else total
    if first % FRAMES_PER_INSTANCE or first + len(frames) > total or (total > len(frames) and not value_range):
        raise ValueError(f"frames {first} to {first + len(frames)} of {total} are no part of a series of one range")
    study = study or FictitiousStudy.named(model, seed, label, made_at)
    if value_range is None and units == "1" and np.all((frames >= 0) & (frames <= 1)):
        # One range for all series of such a model: what else is drawn with a picture does not change its pixels.
        value_range = (0.0, 1.0)
    quantised = None if colour else quantise(frames, value_range)
    naming = {
        "seed": seed,
        "label": label,
        "shape": [total, *frames.shape[1:]],
        "units": units,
        "spacing_mm": [float(step) for step in spacing_mm or ()],
        "range": [quantised.slope, quantised.intercept] if quantised else [],
        "encoding": _ENCODINGS[form],
        **({"channel": channel} if channel else {}),
        **({"settings": dict(settings)} if settings else {}),
    }
    pixels = quantised.stored if quantised else frames
    of: dict[str, str | float] = {"label": label, "channel": channel, **(settings or {})}
    marked = _Generated(
        pixels, quantised, model, seed, of, study, made_at, audit_id, out_of_domain, form, naming, first, total
    )
    words = " ".join(word for word in (label, channel) if word)
    made = []
    for dataset, record in marked.captures():
        if spacing_mm is not None:
            dataset.PixelSpacing = [format_number_as_ds(float(step)) for step in spacing_mm]
        labels.apply(dataset, record, (), made_at, f"{words} by {model.address}".strip(), units)
        made.append((dataset, record))
    return made


@dataclass(frozen=True, eq=False)
class _Generated:
    """Frames of nobody, on their way into captures of one series. quantised: None for colours. of: what the series
    shows, by name; "" says nothing."""

    pixels: npt.NDArray[Any]
    quantised: Quantised | None
    model: ModelIdentity
    seed: int
    of: Mapping[str, str | float]
    study: FictitiousStudy
    made_at: datetime
    audit_id: str
    out_of_domain: bool
    form: Form
    naming: Mapping[str, Any]
    first: int
    total: int

    def captures(self) -> list[tuple[Dataset, LabelRecord]]:
        """Captures that lack nothing but what the caller adds, and the labels."""
        several = MULTI_FRAME_GRAYSCALE_WORD if self.quantised else MULTI_FRAME_TRUE_COLOUR
        sop_class = several if self.form == "multi-frame" else SECONDARY_CAPTURE
        record = self._record(sop_class)
        made = []
        before = self.first // _frames_per_instance(sop_class)
        paper_and_ink = (0, _FULL if self.quantised else 255)
        for number, (part, mark_rows) in enumerate(_marked_parts(self.pixels, record, paper_and_ink), start=before + 1):
            instance = result_uid(f"instance {number}", self.model, (), self.naming, sop_class)
            dataset = _capture(part, record, instance, number, self.made_at)
            filing.under_fictitious(dataset, self.study)
            if self.quantised:
                low = self.quantised.intercept
                _set_gray(dataset, self.quantised, (low, low + _FULL * self.quantised.slope))
            made.append((dataset, replace(record, sop_instance_uid=instance, mark_rows=mark_rows)))
        return made

    def _record(self, sop_class: str) -> LabelRecord:
        series_uid = result_uid("series", self.model, (), self.naming, sop_class)
        told = {name: word for name, word in self.of.items() if word} | {"samples": self.total}
        return LabelRecord(
            kind="generated",
            model=self.model,
            sop_class_uid=sop_class,
            sop_instance_uid="",
            series_instance_uid=series_uid,
            study_instance_uid=self.study.study_instance_uid,
            patient_id=self.study.patient_id,
            frame_of_reference_uid=labels.frame_of_reference_of(series_uid),
            out_of_domain=self.out_of_domain,
            audit_id=self.audit_id,
            seed=self.seed,
            parameters=canonical_json(told),
        )


def generated_volume(
    volume: Volume,
    *,
    model: ModelIdentity,
    seed: int,
    label: str,
    channel: str = "",
    settings: Mapping[str, float] | None = None,
    sample: int | None = None,
    made_of: str = "",
    study: FictitiousStudy | None = None,
    made_at: datetime,
    audit_id: str = "",
    value_range: tuple[float, float] | None = None,
    out_of_domain: bool = False,
    form: Form = "multi-frame",
) -> list[tuple[Dataset, LabelRecord]]:
    """A generated volume as one series of a fictitious patient, each frame with its place (`read_volume`).

    volume: (slices, rows, columns), its affine, and its units; it shares its coordinates with nothing, so that its
    frame of reference becomes a new one. Pictures that are no volume may be laid one behind the other, so that a mask
    of them (`segmentation.of_generated`) lies on them in every viewer. sample: its number among the volumes of this
    seed. made_of: names what it was made of beside the seed, such as a mask by its hash; another one gives other UIDs,
    and another study. Everything else as for `generated`.

    Raises:
        Rejected: a pixel is not finite or outside `value_range`.
        ValueError: the volume has channels; write one series for each.
    """
    if volume.voxels.ndim != 3:
        raise ValueError(f"a generated volume has the axes (slice, row, column), not the shape {volume.voxels.shape}")
    study = study or FictitiousStudy.named(model, seed, " of ".join(filter(None, (label, made_of))), made_at)
    if value_range is None and volume.units == "1" and np.all((volume.voxels >= 0) & (volume.voxels <= 1)):
        value_range = (0.0, 1.0)
    quantised = quantise(volume.voxels, value_range)
    naming = {
        "seed": seed,
        "label": label,
        "shape": list(volume.voxels.shape),
        "units": volume.units,
        "affine": volume.affine.round(9).tolist(),
        "range": [quantised.slope, quantised.intercept],
        "encoding": f"{_ENCODINGS[form]}, volume",
        **({"channel": channel} if channel else {}),
        **({} if sample is None else {"sample": sample}),
        **({"made_of": made_of} if made_of else {}),
        **({"settings": dict(settings)} if settings else {}),
    }
    number = "" if sample is None else f"sample {sample}"
    of: dict[str, str | float] = {"label": label, "channel": channel, "of": number, "made_of": made_of}
    of |= settings or {}
    total = len(volume.voxels)
    marked = _Generated(
        quantised.stored, quantised, model, seed, of, study, made_at, audit_id, out_of_domain, form, naming, 0, total
    )
    words = " ".join(word for word in (label, channel, number) if word)
    made, start = [], 0
    for dataset, record in marked.captures():
        frames = int(dataset.get("NumberOfFrames") or 1)
        capture_planes.set_places(dataset, volume, start, frames)
        labels.apply(dataset, record, (), made_at, f"{words} by {model.address}".strip(), volume.units)
        made.append((dataset, record))
        start += frames
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
    A frame of a multi-frame image is a header data set of its own that says where the frame lies; `references` says how
    it is named.
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
    return _on_sources(
        "capture",
        None,
        frames,
        model=model,
        sources=sources,
        source_refs=source_refs,
        description=description,
        purpose=purpose,
        parameters=parameters,
        made_at=made_at,
        out_of_domain=out_of_domain,
        audit_id=audit_id,
        window=window,
        units=units,
        zoom=zoom,
        further_sources=further_sources,
        form=form,
    )


def generated_from_real(
    frames: Float32,
    *,
    model: ModelIdentity,
    sources: Sequence[Dataset],
    source_refs: Sequence[Source],
    seed: int,
    description: str,
    purpose: str,
    parameters: Mapping[str, Any],
    made_at: datetime,
    units: str,
    value_range: tuple[float, float],
    out_of_domain: bool = False,
    audit_id: str = "",
    zoom: int | None = 1,
    spacing_mm: tuple[float, float] | None = None,
    further_sources: Sequence[Dataset] = (),
    form: Form = "multi-frame",
) -> list[tuple[Dataset, LabelRecord]]:
    """Pictures that a model generated from real ones (translation, in-painting), as one new series of their study.

    They are synthetic, and stay with the patient that they show. frames: (n, rows, columns) float32, in `units`.
    value_range: what the window spans, black to white; values beyond are kept. seed: of what was drawn.
    zoom: 1 where frame i is the anatomy of source i in its geometry, pixel for pixel (more: see `of_prediction`); None
    where it is not, so that the frames claim no place in the patient; spacing_mm: then (down, across) between pixels in
    the patient, where it is known. Everything else as for `of_prediction`.

    Raises: as `of_prediction`.
    """
    made = _on_sources(
        "generated-from-real",
        seed,
        frames,
        model=model,
        sources=sources,
        source_refs=source_refs,
        description=description,
        purpose=purpose,
        parameters=parameters,
        made_at=made_at,
        out_of_domain=out_of_domain,
        audit_id=audit_id,
        window=value_range,
        units=units,
        zoom=zoom,
        further_sources=further_sources,
        form=form,
    )
    if zoom is None and spacing_mm is not None:
        for dataset, _ in made:
            dataset.PixelSpacing = [format_number_as_ds(float(step)) for step in spacing_mm]
    return made


def _on_sources(
    kind: Kind,
    seed: int | None,
    frames: npt.NDArray[np.uint8] | Float32,
    *,
    model: ModelIdentity,
    sources: Sequence[Dataset],
    source_refs: Sequence[Source],
    description: str,
    purpose: str,
    parameters: Mapping[str, Any],
    made_at: datetime,
    out_of_domain: bool,
    audit_id: str,
    window: tuple[float, float],
    units: str,
    zoom: int | None,
    further_sources: Sequence[Dataset],
    form: Form,
) -> list[tuple[Dataset, LabelRecord]]:
    colour = frames.ndim == 4 and frames.shape[3] == 3 and frames.dtype == np.uint8
    if not colour and not (frames.ndim == 3 and np.issubdtype(frames.dtype, np.floating)):
        raise ValueError(f"frames are (n, rows, columns, 3) uint8 or (n, rows, columns) float, not {frames.shape}")
    all_sources = [*sources, *further_sources]
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
        **({} if seed is None else {"kind": kind, "seed": seed}),
    }
    record = filing.record_of_result(
        kind,
        model=model,
        sop_class_uid=sop_class,
        naming=naming,
        sources=all_sources,
        refs=source_refs,
        frame_numbers=references.frame_numbers(sources, further_sources, source_refs),
        parameters=parameters,
        frame_of_reference_uid="" if zoom is None else capture_planes.common_frame_of_reference(sources),
        out_of_domain=out_of_domain,
        audit_id=audit_id,
    )
    record = replace(record, seed=seed)
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
        dataset.LossyImageCompression = filing.lossy(all_sources)
        if quantised is not None:
            _set_gray(dataset, quantised, window)
        if zoom is not None:
            start = (number - 1) * _frames_per_instance(sop_class)
            capture_planes.set_planes(dataset, sources[start : start + len(part)], zoom)
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


def read_volume(captures: Sequence[Dataset], hashes: Sequence[str]) -> Volume:
    """The volume of captures with planes, without the border strip, in the order in which it was written.

    captures: all instances of one series, by Instance Number. hashes: of their data sets
    (`dicom_io.dataset.read_with_hash`). Values are what `dequantise` gives.

    Raises:
        Rejected: no captures of ours, or of several series; their planes are no even stack.
        MissingAttribute: a capture does not say where its frames lie.
    """
    ordered = sorted(zip(captures, hashes, strict=True), key=lambda pair: int(pair[0].InstanceNumber))
    if len({str(capture.SeriesInstanceUID) for capture, _ in ordered}) != 1:
        raise Rejected("the captures are not of one series, so they are no volume; give those of one")
    voxels = np.concatenate([read_back(capture) for capture, _ in ordered]).astype(np.float32)
    of_frames = [header for capture, _ in ordered for header in capture_planes.headers(capture)]
    sources = [
        Source(str(capture.SOPClassUID), str(capture.SOPInstanceUID), digest, number, labels.is_synthetic(capture))
        for capture, digest in ordered
        for number in range(1, int(capture.get("NumberOfFrames") or 1) + 1)
    ]
    units = labels.units_of(ordered[0][0]) or "1"
    return Volume(
        voxels, capture_planes.affine_of(of_frames), str(of_frames[0].FrameOfReferenceUID), units, tuple(sources)
    )


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
    if len(pixels) > 1:  # Type 1C: not for a single frame (PS3.3 C.7.6.6, C.8.6.4).
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


def _require_pixels_of(frames: npt.NDArray[Any], sources: Sequence[Dataset], zoom: int) -> None:
    for source in sources:
        rows, columns = int(source.Rows) * zoom, int(source.Columns) * zoom
        if len(frames) != len(sources) or frames.shape[2] != columns or frames.shape[1] < rows:
            raise ValueError(
                f"frames of {frames.shape[:3]} do not show {len(sources)} sources of {source.Rows} x {source.Columns} "
                f"pixels at zoom {zoom}"
            )
