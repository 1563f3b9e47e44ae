"""Generated images in a modality's own SOP class: MR, PET, and mammograms (PS3.3 A.4, A.21, A.26).

Most software that reads MR, PET or mammograms does not look at Secondary Capture. Such objects are made only where a
caller asks for them, and pass the gate only because their record says `look_alike`. The header describes what is
simulated (C.12.1 allows it); that it is simulated stands in Synthetic Data, Image Type, the texts, and in our
Contributing Equipment item. There is no border strip, which would be anatomy to such software: a presentation state
(`dicom_io.presentation_state`) shows the mark.

    MR  16 bits, value = stored * slope + intercept; Scanning Sequence RM, "research mode", which is true of no scanner
    PT  16 bits in SUV by body weight: Units GML, SUV Type BW, Rescale Intercept 0
    MG  For Presentation, 12 bits without rescaling: 0 is the lower end of `value_range`, 4095 the upper
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.valuerep import format_number_as_ds

from dicom_io import filing, labels
from dicom_io.errors import Rejected
from dicom_io.labels import MODALITY_CLASSES, code_item
from dicom_io.provenance import (
    FictitiousStudy,
    LabelRecord,
    ModelIdentity,
    canonical_json,
    result_uid,
    series_number,
)
from dicom_io.secondary_capture import Quantised, quantise
from dicom_io.volume import Projection, Volume

Stacked = Literal["MR", "PT"]
SUVBW = "g/ml{SUVbw}"
_TWELVE_BITS = 4095
# Changes whenever the same input would be written in another form: part of the results' UIDs.
_ENCODING = "look-alike 2"
# CID 4014: view -> (code, meaning); CID 244 has the sides.
_VIEWS = {
    "CC": ("399162004", "SCT", "cranio-caudal"),
    "MLO": ("399368009", "SCT", "medio-lateral oblique"),
    "ML": ("399260004", "SCT", "medio-lateral"),
    "LM": ("399352003", "SCT", "latero-medial"),
}
# Rows run from the chest wall's side to the other, columns from head to foot: PS3.3 C.7.6.1.1.1 and C.8.11.7.1.3.
_ORIENTATIONS = {"left": ["A", "F"], "right": ["P", "F"]}


@dataclass(frozen=True)
class _Series:
    """Who made a series, for whom, and under which names."""

    modality: str
    model: ModelIdentity
    seed: int
    label: str
    study: FictitiousStudy
    made_at: datetime
    audit_id: str
    out_of_domain: bool
    naming: dict[str, Any]
    count: int

    @property
    def record(self) -> LabelRecord:
        sop_class = MODALITY_CLASSES[self.modality]
        series_uid = result_uid("series", self.model, (), self.naming, sop_class)
        samples = {"samples": self.count}
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
            parameters=canonical_json({"label": self.label, **samples} if self.label else samples),
            look_alike=True,
        )

    def instance(self, number: int, pixels: npt.NDArray[np.uint16], bits: int) -> tuple[Dataset, LabelRecord]:
        """An object that lacks what its modality demands, and its labels; number from 1."""
        record = self.record
        uid = result_uid(f"instance {number}", self.model, (), self.naming, record.sop_class_uid)
        dataset = Dataset()
        dataset.file_meta = labels.file_meta(record.sop_class_uid, uid)
        filing.stamp(dataset, self.made_at)
        filing.under_fictitious(dataset, self.study)
        dataset.SOPClassUID, dataset.SOPInstanceUID = record.sop_class_uid, uid
        dataset.SeriesInstanceUID = record.series_instance_uid
        dataset.SeriesNumber, dataset.InstanceNumber = series_number(record.series_instance_uid), number
        dataset.Modality = self.modality
        dataset.Laterality = None
        dataset.AcquisitionDate, dataset.AcquisitionTime = dataset.ContentDate, dataset.ContentTime
        dataset.LossyImageCompression = "00"
        dataset.Rows, dataset.Columns = pixels.shape
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, bits, bits - 1
        dataset.PixelRepresentation = 0
        dataset.add_new("PixelData", "OW", pixels.astype("<u2").tobytes())
        return dataset, replace(record, sop_instance_uid=uid)

    def labelled(self, dataset: Dataset, record: LabelRecord, units: str) -> tuple[Dataset, LabelRecord]:
        labels.apply(dataset, record, (), self.made_at, f"{self.label} by {self.model.address}".strip(), units)
        return dataset, record


def generated(
    volume: Volume,
    *,
    modality: Stacked,
    model: ModelIdentity,
    seed: int,
    label: str,
    study: FictitiousStudy | None = None,
    made_at: datetime,
    audit_id: str = "",
    value_range: tuple[float, float] | None = None,
    out_of_domain: bool = False,
) -> list[tuple[Dataset, LabelRecord]]:
    """A generated volume as single-frame MR or PET images of a fictitious patient, one for each slice.

    volume: (slices, rows, columns) in "1" for MR, "g/ml{SUVbw}" for PT. Values are stored in 16 bits that span
    `value_range`, or their own range; of a PET from 0. Everything else as for `secondary_capture.generated_volume`.

    Raises:
        Rejected: a value is not finite or outside `value_range`, or an uptake is negative.
        ValueError: the volume has channels or other units than its modality.
    """
    wanted = {"MR": "1", "PT": SUVBW}[modality]
    if volume.voxels.ndim != 3 or volume.units != wanted:
        raise ValueError(
            f"a generated {modality} has the axes (slice, row, column) and the unit {wanted}, not the shape "
            f"{volume.voxels.shape} and {volume.units}"
        )
    quantised = _uptake(volume, value_range) if modality == "PT" else quantise(volume.voxels, value_range)
    naming = {
        "seed": seed,
        "label": label,
        "shape": list(volume.voxels.shape),
        "affine": volume.affine.round(9).tolist(),
        "range": [quantised.slope, quantised.intercept],
        "encoding": _ENCODING,
    }
    study = study or FictitiousStudy.named(model, seed, label, made_at)
    count = len(volume.voxels)
    series = _Series(modality, model, seed, label, study, made_at, audit_id, out_of_domain, naming, count)
    made = []
    for number, pixels in enumerate(quantised.stored, start=1):
        dataset, record = series.instance(number, pixels, 16)
        dataset.RescaleSlope = format_number_as_ds(quantised.slope)
        dataset.RescaleIntercept = format_number_as_ds(quantised.intercept)
        _set_plane(dataset, volume, number - 1)
        if modality == "MR":
            _set_mr(dataset, quantised)
        else:
            _set_pet(dataset, count)
        made.append(series.labelled(dataset, record, volume.units))
    return made


def mammograms(
    pictures: Sequence[Projection],
    *,
    model: ModelIdentity,
    seed: int,
    label: str,
    value_range: tuple[float, float],
    study: FictitiousStudy | None = None,
    made_at: datetime,
    audit_id: str = "",
    out_of_domain: bool = False,
) -> list[tuple[Dataset, LabelRecord]]:
    """Generated mammograms For Presentation, of a fictitious patient, one image for each picture.

    pictures: (rows, columns), bright is dense, with laterality, view, the side of the chest wall, and the spacing at
    the imager. value_range: what 12 bits span; values in between are rounded to one of 4096.

    Raises:
        Rejected: a value is not finite or outside `value_range`; a side, view or spacing is not there.
    """
    for picture in pictures:
        _require_view(picture)
    stored = [_in_twelve_bits(picture, value_range) for picture in pictures]
    naming = {
        "seed": seed,
        "label": label,
        "views": [[each.laterality, each.view, list(each.pixels.shape), each.spacing_mm] for each in pictures],
        "range": list(value_range),
        "encoding": _ENCODING,
    }
    study = study or FictitiousStudy.named(model, seed, label, made_at)
    series = _Series("MG", model, seed, label, study, made_at, audit_id, out_of_domain, naming, len(pictures))
    made = []
    for number, (picture, pixels) in enumerate(zip(pictures, stored, strict=True), start=1):
        dataset, record = series.instance(number, pixels, 12)
        _set_mammogram(dataset, picture)
        made.append(series.labelled(dataset, record, "1"))
    return made


def _in_twelve_bits(picture: Projection, value_range: tuple[float, float]) -> npt.NDArray[np.uint16]:
    low, high = value_range
    values = picture.pixels.astype(np.float64)
    if values.ndim != 2 or not (np.isfinite(values).all() and values.min() >= low and values.max() <= high):
        raise Rejected(
            f"the pixels of a mammogram of shape {values.shape} are not finite, outside of {low:g} to {high:g}, or no "
            "gray picture; widen the range"
        )
    return np.rint((values - low) / (high - low) * _TWELVE_BITS).astype(np.uint16)


def _uptake(volume: Volume, value_range: tuple[float, float] | None) -> Quantised:
    """16 bits from 0: Rescale Intercept (0028,1052) of a PET is 0 (PS3.3 C.8.9.4)."""
    highest = float(volume.voxels.max())
    if not volume.voxels.min() >= 0 or (value_range and value_range[0] != 0):
        raise Rejected(f"an uptake from {float(volume.voxels.min()):g} on does not begin at 0, as that of a PET does")
    return quantise(volume.voxels, value_range or (0.0, highest if highest > 0 else 1.0))


def _set_plane(dataset: Dataset, volume: Volume, number: int) -> None:
    """Image Plane (PS3.3 C.7.6.2)."""
    between, down, across = volume.spacing_mm
    dataset.PixelSpacing = [format_number_as_ds(down), format_number_as_ds(across)]
    dataset.SliceThickness = format_number_as_ds(between)
    cosines = (*(volume.affine[:3, 2] / across), *(volume.affine[:3, 1] / down))
    dataset.ImageOrientationPatient = [format_number_as_ds(float(value)) for value in cosines]
    place = volume.position_mm((number, 0, 0))
    dataset.ImagePositionPatient = [format_number_as_ds(float(value)) for value in place]


def _set_mr(dataset: Dataset, quantised: Quantised) -> None:
    """MR Image (PS3.3 C.8.3.1): nothing was scanned, and what is of Type 2 is empty; a window, since readers of MR do
    not expect a slope. Without VOI LUT Function (0028,1056), which is then LINEAR: OHIF 3.13 shows others black."""
    low, high = (quantised.intercept + step * quantised.slope for step in (0, 65535))
    # LINEAR maps centre - 0.5 -+ (width - 1) / 2 onto black and white (PS3.3 C.11.2.1.2.1).
    dataset.WindowCenter = format_number_as_ds((low + high) / 2 + 0.5)
    dataset.WindowWidth = format_number_as_ds(high - low + 1)
    dataset.PatientPosition = None
    dataset.ScanningSequence, dataset.SequenceVariant = "RM", "NONE"
    for keyword in ("ScanOptions", "MRAcquisitionType", "EchoTime", "EchoTrainLength", "RepetitionTime"):
        setattr(dataset, keyword, None)


def _set_pet(dataset: Dataset, slices: int) -> None:
    """PET Series, Isotope and Image (PS3.3 C.8.9.1, C.8.9.2, C.8.9.4): uptake by body weight, of no tracer."""
    dataset.Units, dataset.SUVType, dataset.CountsSource = "GML", "BW", "EMISSION"
    dataset.SeriesType, dataset.NumberOfSlices = ["STATIC", "IMAGE"], slices
    dataset.DecayCorrection = "NONE"
    for keyword in ("CorrectedImage", "CollimatorType", "ActualFrameDuration"):
        setattr(dataset, keyword, None)
    for keyword in (
        "RadiopharmaceuticalInformationSequence",
        "PatientOrientationCodeSequence",
        "PatientGantryRelationshipCodeSequence",
    ):
        setattr(dataset, keyword, [])
    dataset.FrameReferenceTime, dataset.ImageIndex = 0, dataset.InstanceNumber


def _require_view(picture: Projection) -> None:
    if picture.laterality not in ("L", "R") or picture.view not in _VIEWS or picture.breast_side not in _ORIENTATIONS:
        raise Rejected(
            f"a mammogram of side {picture.laterality or 'unknown'}, view {picture.view or 'unknown'} with the chest "
            f"wall {picture.breast_side or 'unknown'} cannot be written; sides are L and R, views {', '.join(_VIEWS)}"
        )
    if picture.spacing_mm is None:
        raise Rejected("a mammogram without its spacing at the imager cannot be written; give it")


def _set_mammogram(dataset: Dataset, picture: Projection) -> None:
    """Digital mammogram For Presentation (PS3.3 C.8.11): what is of Type 2 is empty, for nothing was exposed."""
    assert picture.spacing_mm is not None
    dataset.PresentationIntentType, dataset.PixelIntensityRelationship = "FOR PRESENTATION", "LOG"
    dataset.PixelIntensityRelationshipSign, dataset.PresentationLUTShape = 1, "IDENTITY"
    dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = 1, 0, "US"
    dataset.WindowCenter, dataset.WindowWidth = 2048, 4096
    dataset.ImagerPixelSpacing = [format_number_as_ds(float(step)) for step in picture.spacing_mm]
    dataset.ImageLaterality = picture.laterality
    dataset.PatientOrientation = _ORIENTATIONS[picture.breast_side]
    dataset.ViewPosition = picture.view
    view = code_item(_VIEWS[picture.view])
    view.ViewModifierCodeSequence = []
    dataset.ViewCodeSequence = [view]
    breast = code_item(("76752008", "SCT", "Breast"))
    dataset.AnatomicRegionSequence = [breast]
    dataset.BodyPartExamined, dataset.OrganExposed = "BREAST", "BREAST"
    dataset.PositionerType, dataset.BreastImplantPresent = "MAMMOGRAPHIC", "NO"
    dataset.DetectorType, dataset.DetectorConfiguration = "DIRECT", "AREA"
    dataset.AcquisitionContextSequence = []
    del dataset.Laterality  # Image Laterality says it.
