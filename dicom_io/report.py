"""What a model found, in numbers -> DICOM Structured Report: TID 1500 Measurement Report in Comprehensive 3D SR.

    TID 1500 Measurement Report
      TID 1001 Observation Context: the model version as a device, with its Device UID
      TID 1501 group for each class: (122157, DCM, "Probability"), with (122411, DCM, "Threshold Value") where there is
               one, whether it is calibrated, and the images that it was made from
      TID 1411 group for each region: the SEG's segment and its source images; volume, number of lesions and, on PET,
               SUVbw maximum, mean and peak, metabolic volume, total lesion glycolysis
      TID 4019 in each group: name, version and parameters of the algorithm
      (121106, DCM, "Comment"): the words of the visible mark

Codes that the standard lacks have the scheme 99MIRALL: CALIBRATED, and the name of a class that nobody coded.

The title is one that OHIF shows as text: its viewport of (126000, DCM) stays black where no region is drawn as
coordinates; and all containers are SEPARATE, so that it prints a concept's name with its value.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import highdicom as hd
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import ExplicitVRLittleEndian

from dicom_io import filing, labels, own_codes, references
from dicom_io.errors import Rejected
from dicom_io.labels import COMPREHENSIVE_3D_SR
from dicom_io.measurements import Measured
from dicom_io.own_codes import CALIBRATED, SCHEME
from dicom_io.provenance import MANUFACTURER, LabelRecord, ModelIdentity, name_based_uid, series_number
from dicom_io.segmentation import segments_of
from dicom_io.volume import Source

_IMAGING = Code("363679005", "SCT", "Imaging")
_MILLILITRE, _GRAM = Code("ml", "UCUM", "milliliter"), Code("g", "UCUM", "gram")
_SUV, _SUV_UNIT = Code("126401", "DCM", "SUVbw"), codes.UCUM.StandardizedUptakeValueBodyWeight
# Units of a PET volume in SUV by body weight; other SUVs are not called by this code.
_SUVBW = "g/ml{SUVbw}"
_TITLES = {True: codes.DCM.PETMeasurementReport, False: codes.DCM.OncologyMeasurementReport}
# Changes whenever the same input would be written in another form: part of the results' UIDs.
_ENCODING = "report 1"


@dataclass(frozen=True)
class ClassProbability:
    """How probable a model holds a class to be.

    probability: 0 to 1. threshold: from which on the class is called, or None. calibrated: whether the model's
    probabilities were calibrated, so that they can be read as frequencies. finding: a code for the class; None names it
    by its label. images: which of the sources (their places in the sequence) it is about; none means all. highest:
    whether it is the highest of all sources' probabilities, found on `images`; the report then derives it as maximum.
    """

    label: str
    probability: float
    threshold: float | None = None
    calibrated: bool = False
    finding: Code | None = None
    images: tuple[int, ...] = ()
    highest: bool = False


@dataclass(frozen=True)
class Region:
    """Numbers of one segment of the SEG that the report refers to. segment: its number."""

    segment: int
    measured: Measured


def report(
    *,
    sources: Sequence[Dataset],
    source_refs: Sequence[Source],
    model: ModelIdentity,
    parameters: Mapping[str, Any],
    description: str,
    made_at: datetime,
    classes: Sequence[ClassProbability] = (),
    regions: Sequence[Region] = (),
    segmentation: Dataset | None = None,
    out_of_domain: bool = False,
    audit_id: str = "",
    further_sources: Sequence[Dataset] = (),
) -> tuple[Dataset, LabelRecord]:
    """Class probabilities and measured regions as one report in the study of its sources, and the gate's record.

    sources, source_refs, further_sources: as for `dicom_io.secondary_capture.of_prediction`. segmentation: the SEG,
    of the same study, that `regions` measure; it is evidence as the images are. The report is complete, preliminary and
    not verified: no person has seen it.

    Raises:
        Rejected: a probability outside 0 to 1, a segment that the SEG does not describe, several studies or patients.
        ValueError: nothing to report, regions without a SEG, or sources and source_refs do not fit.
    """
    if not classes and not regions:
        raise ValueError("a report without classes and regions says nothing; give at least one")
    if regions and segmentation is None:
        raise ValueError("regions are segments of a SEG; give it, too")
    for each in classes:
        _require_probability(each)
    images, refs = [*sources, *further_sources], list(source_refs)
    frame_numbers = list(references.frame_numbers(sources, further_sources, refs))
    record = filing.record_of_result(
        "report",
        model=model,
        sop_class_uid=COMPREHENSIVE_3D_SR,
        naming={
            "parameters": dict(parameters),
            "classes": [_named(each) for each in classes],
            "regions": [asdict(each) for each in regions],
            "segmentation": "" if segmentation is None else str(segmentation.SOPInstanceUID),
            "out_of_domain": out_of_domain,
            "encoding": _ENCODING,
        },
        sources=[*images, *([] if segmentation is None else [segmentation])],
        refs=[*refs, *([] if segmentation is None else [_reference_to(segmentation)])],
        frame_numbers=[*frame_numbers, *([] if segmentation is None else [0])],
        parameters=parameters,
        out_of_domain=out_of_domain,
        audit_id=audit_id,
    )
    groups = [_class_group(each, sources, frame_numbers, record) for each in classes]
    if segmentation is not None:
        groups += [_region_group(each, segmentation, str(sources[0].SeriesInstanceUID), record) for each in regions]
    evidence = [*images, *([] if segmentation is None else [segmentation])]
    dataset = _document(groups, evidence, record, pet=any(each.measured.units == _SUVBW for each in regions))
    dataset.file_meta = labels.file_meta(COMPREHENSIVE_3D_SR, record.sop_instance_uid)
    filing.under_sources(dataset, evidence)
    filing.stamp(dataset, made_at)
    labels.apply(dataset, record, evidence, made_at, description)
    return dataset, record


def _require_probability(found: ClassProbability) -> None:
    for name, value in (("probability", found.probability), ("threshold", found.threshold)):
        if value is not None and not 0 <= value <= 1:
            raise Rejected(f"the {name} of {found.label} is {value:g}, which is none from 0 to 1")


def _named(found: ClassProbability) -> dict[str, Any]:
    return {**asdict(found), "finding": None if found.finding is None else list(found.finding[:3])}


def _reference_to(segmentation: Dataset) -> Source:
    # Its UID is a function of all that it was made from: it stands for its content.
    uid = str(segmentation.SOPInstanceUID)
    return Source(str(segmentation.SOPClassUID), uid, "", 1, labels.is_synthetic(segmentation))


def _document(groups: Sequence[Any], evidence: Sequence[Dataset], record: LabelRecord, *, pet: bool) -> Dataset:
    content = hd.sr.MeasurementReport(
        observation_context=_context(record.model),
        procedure_reported=_IMAGING,
        imaging_measurements=groups,
        title=_TITLES[pet],
    )
    content[0].ContentSequence.append(_mark(record))
    originals = references.instances(evidence)
    dataset = Dataset(
        hd.sr.Comprehensive3DSR(
            evidence=[_stand_in(source) for source in originals],
            content=content[0],
            series_instance_uid=record.series_instance_uid,
            series_number=series_number(record.series_instance_uid),
            sop_instance_uid=record.sop_instance_uid,
            instance_number=1,
            manufacturer=MANUFACTURER,
            is_complete=True,
            is_final=False,
            transfer_syntax_uid=ExplicitVRLittleEndian,
            specific_character_set="ISO_IR 192",
        )
    )
    _separate(dataset)
    own_codes.identify(dataset)
    return dataset


def _mark(record: LabelRecord) -> hd.sr.TextContentItem:
    """The words of the visible mark, for those who see the text and not the header (TID 1500 is extensible)."""
    return hd.sr.TextContentItem(codes.DCM.Comment, labels.visible_mark(record), relationship_type="CONTAINS")


def _stand_in(source: Dataset) -> Dataset:
    """What highdicom needs of evidence; patient and study are filed later, so that a faulty header cannot stop it."""
    dataset = Dataset()
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID"):
        setattr(dataset, keyword, source[keyword].value)
    for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID"):
        setattr(dataset, keyword, None)
    dataset.StudyDate, dataset.StudyTime = None, None
    return dataset


def _separate(item: Dataset) -> None:
    if item.get("ValueType") == "CONTAINER":
        item.ContinuityOfContent = "SEPARATE"
    for child in item.get("ContentSequence") or []:
        _separate(child)


def _context(model: ModelIdentity) -> hd.sr.ObservationContext:
    device = hd.sr.DeviceObserverIdentifyingAttributes(
        uid=model.device_uid,
        name=model.address,
        manufacturer_name=MANUFACTURER,
        model_name=model.name,
        serial_number=model.content_hash[:16],
    )
    return hd.sr.ObservationContext(observer_device_context=hd.sr.ObserverContext(codes.DCM.Device, device))


def _algorithm(record: LabelRecord) -> hd.sr.AlgorithmIdentification:
    return hd.sr.AlgorithmIdentification(
        name=record.model.name,
        version=record.model.version,
        parameters=[record.parameters] if record.parameters else None,
    )


def _tracking(record: LabelRecord, *name: str) -> hd.sr.TrackingIdentifier:
    uid = name_based_uid("tracking", record.sop_instance_uid, *name)
    return hd.sr.TrackingIdentifier(uid=uid, identifier=" ".join(name))


def _finding(found: ClassProbability) -> Code:
    if found.finding is not None:
        return found.finding
    # A code value has 16 characters: longer names keep apart by what they hash to.
    value = found.label if len(found.label) <= 16 else hashlib.sha256(found.label.encode()).hexdigest()[:16]
    return Code(value, SCHEME, found.label[:64])


def _class_group(
    found: ClassProbability, sources: Sequence[Dataset], frame_numbers: Sequence[int], record: LabelRecord
) -> hd.sr.MeasurementsAndQualitativeEvaluations:
    how = codes.SCT.Maximum if found.highest else None
    measurements = [hd.sr.Measurement(codes.DCM.Probability, found.probability, codes.UCUM.NoUnits, derivation=how)]
    if found.threshold is not None:
        measurements.append(hd.sr.Measurement(codes.DCM.ThresholdValue, found.threshold, codes.UCUM.NoUnits))
    shown = found.images or range(len(sources))
    chosen = [sources[number] for number in shown]
    frames = references.frames_by_instance(chosen, [frame_numbers[number] for number in shown])
    instances = references.instances(chosen)
    return hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(record, found.label, *map(str, found.images)),
        finding_type=_finding(found),
        algorithm_id=_algorithm(record),
        measurements=measurements,
        qualitative_evaluations=[
            hd.sr.QualitativeEvaluation(CALIBRATED, codes.SCT.Yes if found.calibrated else codes.SCT.No)
        ],
        source_images=[
            hd.sr.SourceImageForMeasurementGroup(
                str(source.SOPClassUID), str(source.SOPInstanceUID), list(frames[number]) if frames else None
            )
            for number, source in enumerate(instances)
        ],
    )


def _region_group(
    region: Region, segmentation: Dataset, series_uid: str, record: LabelRecord
) -> hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
    described = {segment.number: segment for segment in segments_of(segmentation)}
    if region.segment not in described:
        raise Rejected(
            f"SEG {segmentation.SOPInstanceUID} describes the segments {sorted(described)}, not {region.segment}"
        )
    segment = described[region.segment]
    images = _images_of_segment(segmentation, segment.number)
    return hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(record, f"segment {segment.number}", segment.label),
        referenced_segment=hd.sr.ReferencedSegment(
            str(segmentation.SOPClassUID),
            str(segmentation.SOPInstanceUID),
            segment.number,
            source_images=images or None,
            source_series=None if images else hd.sr.SourceSeriesForSegmentation(series_uid),
        ),
        finding_category=Code(*segment.category),
        finding_type=Code(*segment.property_type),
        algorithm_id=_algorithm(record),
        measurements=_measurements(region.measured),
    )


def _images_of_segment(segmentation: Dataset, number: int) -> list[hd.sr.SourceImageForSegmentation]:
    """The images whose planes the segment's frames lie on, each instance once with its frames."""
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    frames: dict[tuple[str, str], set[int]] = {}
    for frame in segmentation.PerFrameFunctionalGroupsSequence:
        shown = frame.get("SegmentIdentificationSequence") or shared.get("SegmentIdentificationSequence")
        if shown and int(shown[0].ReferencedSegmentNumber) != number:
            continue
        derivations = frame.get("DerivationImageSequence") or shared.get("DerivationImageSequence") or [Dataset()]
        for item in derivations[0].get("SourceImageSequence") or []:
            key = (str(item.ReferencedSOPClassUID), str(item.ReferencedSOPInstanceUID))
            frames.setdefault(key, set()).update(references.frames_named(item))
    return [
        hd.sr.SourceImageForSegmentation(sop_class, uid, sorted(numbers) or None)
        for (sop_class, uid), numbers in frames.items()
    ]


def _measurements(found: Measured) -> list[hd.sr.Measurement]:
    numbers = [
        hd.sr.Measurement(codes.SCT.Volume, found.volume_ml, _MILLILITRE),
        hd.sr.Measurement(codes.SCT.NumberOfLesions, found.lesions, codes.UCUM.NoUnits),
    ]
    if found.units == _SUVBW:
        for derivation, value in (
            (codes.SCT.Maximum, found.maximum),
            (codes.SCT.Mean, found.mean),
            (codes.DCM.PeakValueWithinROI, found.peak),
        ):
            numbers.append(hd.sr.Measurement(_SUV, value, _SUV_UNIT, derivation=derivation))
        numbers.append(hd.sr.Measurement(codes.DCM.MetabolicVolume, found.volume_ml, _MILLILITRE))
        numbers.append(hd.sr.Measurement(codes.DCM.TotalLesionGlycolysis, found.tlg_g, _GRAM))
    return numbers
