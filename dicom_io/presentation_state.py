"""The visible mark as a text annotation: Grayscale Softcopy Presentation State (PS3.3 A.33.1) over images of ours.

For destinations that prefer an annotation over pixels, and for images in a modality's own class, which have no border
strip. It is an addition, never a substitute: a viewer may leave it out, and a copy of the pixels does not have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from datetime import datetime

import highdicom as hd
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from dicom_io import filing, labels, references
from dicom_io.dataset import read_with_hash
from dicom_io.errors import Rejected
from dicom_io.labels import GRAYSCALE_PRESENTATION_STATE
from dicom_io.provenance import MANUFACTURER, LabelRecord, series_number
from dicom_io.volume import Source

# Left, top, right and bottom of the text, as shares of the displayed area: a line along the upper edge.
_BOX = (0.02, 0.02, 0.98, 0.07)
_LAYER = "MARK"
# Changes whenever the same input would be written in another form: part of the results' UIDs.
_ENCODING = "mark 1"


def presentation_state(
    images: Sequence[tuple[Dataset, LabelRecord]], *, made_at: datetime, description: str = "mark"
) -> tuple[Dataset, LabelRecord]:
    """The mark over all images of one series of ours, in their study.

    images: gray ones, as their writer returned them. It inherits whose they are, that they are synthetic, and the model
    version, its state and evaluation.

    Raises:
        Rejected: an image is in colour.
        ValueError: there are none, they are no images, or of several series or model versions.
    """
    datasets, records = [dataset for dataset, _ in images], [record for _, record in images]
    _require_gray(datasets, records)
    first = records[0]
    record = filing.record_of_result(
        "presentation-state",
        model=first.model,
        sop_class_uid=GRAYSCALE_PRESENTATION_STATE,
        naming={"encoding": _ENCODING},
        sources=datasets,
        refs=[_reference_to(*each) for each in images],
        frame_numbers=[0] * len(datasets),
        parameters={},
        out_of_domain=any(each.out_of_domain for each in records),
        audit_id=first.audit_id,
    )
    dataset = Dataset(_state([_stand_in(each) for each in datasets], record, description))
    _name_class(dataset, first.sop_class_uid)
    dataset.file_meta = labels.file_meta(GRAYSCALE_PRESENTATION_STATE, record.sop_instance_uid)
    filing.under_sources(dataset, datasets)
    dataset.ReferencedSeriesSequence = [_series(datasets)]
    dataset.Laterality = datasets[0].get("Laterality")
    filing.stamp(dataset, made_at)
    dataset.PresentationCreationDate, dataset.PresentationCreationTime = dataset.ContentDate, dataset.ContentTime
    labels.apply(dataset, record, datasets, made_at, description)
    return dataset, record


def _require_gray(datasets: Sequence[Dataset], records: Sequence[LabelRecord]) -> None:
    if not datasets or len({(record.model, record.series_instance_uid) for record in records}) > 1:
        raise ValueError(f"{len(datasets)} images of several series or model versions, or none, share no mark")
    for dataset in datasets:
        if "PixelData" not in dataset:
            raise ValueError(f"{dataset.SOPInstanceUID} has no pixels that a mark could lie on")
        if dataset.PhotometricInterpretation != "MONOCHROME2":
            raise Rejected(
                f"{dataset.SOPInstanceUID} is {dataset.PhotometricInterpretation}; a grayscale presentation state "
                "shows MONOCHROME2, and captures in colour bear the mark in their border strip"
            )


def _reference_to(dataset: Dataset, record: LabelRecord) -> Source:
    _, digest = read_with_hash(labels.encode(dataset, record))
    return Source(record.sop_class_uid, record.sop_instance_uid, digest, 1, record.is_synthetic)


def _stand_in(image: Dataset) -> Dataset:
    """The image as one of a single frame: of multi-frame ones highdicom wants functional groups, and takes only one.

    Elements are copies: highdicom takes some over, and what is set later changes them in place.
    """
    unlike = ("PixelData", "NumberOfFrames", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
    dataset = Dataset({element.tag: copy(element) for element in image if element.keyword not in unlike})
    dataset.SOPClassUID = MRImageStorage
    return dataset


def _name_class(item: Dataset, sop_class_uid: str) -> None:
    """Put the images' SOP class where the stand-ins' is named."""
    if "ReferencedSOPClassUID" in item:
        item.ReferencedSOPClassUID = sop_class_uid
    for element in item:
        for child in element.value if element.VR == "SQ" else ():
            _name_class(child, sop_class_uid)


def _state(datasets: Sequence[Dataset], record: LabelRecord, description: str) -> Dataset:
    layer = hd.pr.GraphicLayer(_LAYER, 1, "Visible mark")
    text = hd.pr.TextObject(
        labels.visible_mark(record), units="DISPLAY", bounding_box=_BOX, text_justification="CENTER"
    )
    found: Dataset = hd.pr.GrayscaleSoftcopyPresentationState(
        referenced_images=datasets,
        series_instance_uid=record.series_instance_uid,
        series_number=series_number(record.series_instance_uid),
        sop_instance_uid=record.sop_instance_uid,
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=record.model.name,
        software_versions=record.model.version,
        device_serial_number=record.model.content_hash[:16],
        content_label="MARK",
        content_description=description[:64],
        content_creator_name=f"{MANUFACTURER}^{record.model.name}"[:64],
        graphic_annotations=[hd.pr.GraphicAnnotation(datasets, layer, text_objects=[text])],
        graphic_layers=[layer],
        transfer_syntax_uid=ExplicitVRLittleEndian,
        specific_character_set="ISO_IR 192",
    )
    return found


def _series(datasets: Sequence[Dataset]) -> Dataset:
    item = Dataset()
    item.SeriesInstanceUID = datasets[0].SeriesInstanceUID
    item.ReferencedImageSequence = [references.item(dataset) for dataset in datasets]
    return item
