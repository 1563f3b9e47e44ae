"""What a model finds in one input, as DICOM objects: SEG, captures, reports and maps, or the series that it makes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import numpy as np
from pydicom import Dataset

from dicom_io import measurements, picture, report, secondary_capture, segmentation
from dicom_io.parametric_map import parametric_map
from dicom_io.provenance import LabelRecord
from dicom_io.volume import Volume
from models.from_pictures import Translator
from models.predictor import Classifier, Segmented, Segmenter
from plugin import classified, encodings
from plugin.drawing import Picture, last_channel, last_units, windowed, zoom_of
from plugin.model_input import Case
from plugin.outputs import Object, Progress, decided, forms, segments_of, silent

MOST_NAMED = 4  # labels of a mask beyond which their number is told instead


def objects_of(
    model: Classifier | Segmenter | Translator,
    taken: Sequence[tuple[Case, bool]],
    made_at: datetime,
    wanted: Collection[str],
    progress: Progress = silent,
) -> Iterator[Object]:
    """In the encodings that are wanted (`plugin.encodings`). taken: inputs, each with whether it is outside the model's
    card."""
    if isinstance(model, Classifier):
        yield from classified.objects_of(model, taken, made_at, wanted, progress)
        return
    for number, (case, outside) in enumerate(taken):
        progress({"stage": "predicting", "done": number, "total": len(taken)})
        if isinstance(model, Segmenter):
            yield from _segmented(model, case, made_at, outside, wanted)
        else:
            yield from _translated(model, case, made_at, outside, wanted)


def _segmented(model: Segmenter, case: Case, made_at: datetime, outside: bool, wanted: Collection[str]) -> list[Object]:
    assert isinstance(case.image, Volume)
    found = model.predict(case.image, members=encodings.DISAGREEMENT in wanted)
    name = _joined(model.labels[1:])
    common: dict[str, Any] = {
        "model": model.identity,
        "sources": case.datasets,
        "source_refs": case.sources,
        "further_sources": case.further,
        "parameters": decided(found.threshold) | case.resampling,
        "made_at": made_at,
        "out_of_domain": outside,
        "audit_id": model.description.audit_id,
    }
    millilitres = float((found.mask.voxels > 0).sum() * np.prod(found.mask.spacing_mm) / 1000)
    finding = f"{millilitres:.1f} ml of {name}{case.note}"
    objects: list[Object] = []
    # Results refer to the last channel, and lie on its images.
    lying = case.sources[-len(case.datasets) :]
    for encoding, arguments in encodings.SEGMENTATIONS.items():
        if encoding in wanted:
            seg, seg_record = segmentation.segmentation(
                replace(found.mask, sources=lying),
                segments=segments_of(model.labels, organs=model.description.foreign is not None),
                description=f"{name} by {model.identity.address}",
                **common,
                **arguments,
            )
            objects.append((seg, seg_record, finding, encoding))
            named = encodings.report_on(encoding)
            if named in wanted:
                objects.append((*_measured(model, case, found, seg, common), finding, named))
    if encodings.MAP in wanted:
        described = f"probability of {name} by {model.identity.address}"
        probable = replace(found.probability, sources=lying)
        mapped = parametric_map(probable, quantity="probability", description=described, **common)
        objects.append((*mapped, finding, encodings.MAP))
    if found.disagreement is not None:
        described = f"disagreement on {name} of {model.identity.address}"
        apart = replace(found.disagreement, sources=lying)
        mapped = parametric_map(apart, quantity="disagreement", description=described, **common)
        objects.append((*mapped, finding, encodings.DISAGREEMENT))
    zoom = zoom_of(case.image.spatial_shape[2])
    overlays = _overlays(case.image, found, zoom, last_units(model, case.image))
    for form in forms(wanted):
        captures = secondary_capture.of_prediction(
            overlays,
            description=f"{name}, outlined, by {model.identity.address}",
            purpose="overlay",
            zoom=zoom,
            form=form,
            **common,
        )
        objects += [(dataset, record, finding, form) for dataset, record in captures]
    return objects


def _joined(labels: Sequence[str]) -> str:
    return " and ".join(labels) if len(labels) <= MOST_NAMED else f"{len(labels)} structures"


def _measured(
    model: Segmenter, case: Case, found: Segmented, seg: Dataset, common: Mapping[str, Any]
) -> tuple[Dataset, LabelRecord]:
    """Volume, number of parts and, on PET, uptake of every segment, as a report that refers to the SEG."""
    assert isinstance(case.image, Volume)
    image = case.image.with_voxels(last_channel(case.image.voxels), units=last_units(model, case.image))
    numbers = range(1, len(model.labels))
    regions = [report.Region(number, measurements.measure(image, found.mask, number)) for number in numbers]
    described = f"numbers of {_joined(model.labels[1:])} by {model.identity.address}"
    return report.report(regions=regions, segmentation=seg, description=described, **common)


def _translated(
    model: Translator, case: Case, made_at: datetime, outside: bool, wanted: Collection[str]
) -> list[Object]:
    """A series of each channel that is made, in the study of the sources and where they lie; finer pixels, too."""
    made = model.translate(case.image)
    volumetric = isinstance(made, Volume)
    channels = made.voxels if isinstance(made, Volume) else made.pixels[:, np.newaxis]
    given = " and ".join(channel.name for channel in model.channels)
    finer = f"{model.factor} times finer pixels" if model.factor > 1 else ""
    objects: list[Object] = []
    for name, frames in zip(model.made, channels, strict=True):
        what = f"{name}, {finer}" if finer else f"{name} of {given}"
        for form in forms(wanted):
            captures = secondary_capture.generated_from_real(
                frames,
                model=model.identity,
                sources=case.datasets,
                source_refs=case.sources,
                further_sources=case.further,
                # Nothing is drawn: the same input gives the same pictures.
                seed=0,
                description=f"{what} by {model.identity.address}",
                purpose=f"{name} made of {given}",
                parameters=case.resampling | ({"finer": model.factor} if finer else {}),
                made_at=made_at,
                units=model.description.units,
                value_range=model.pixel_range,
                out_of_domain=outside,
                audit_id=model.description.audit_id,
                zoom=model.factor if volumetric else None,
                spacing_mm=None if isinstance(made, Volume) else made.breast_spacing_mm,
                form=form,
            )
            objects += [(dataset, record, f"{what}{case.note}", form) for dataset, record in captures]
    return objects


def _overlays(image: Volume, found: Segmented, zoom: int, units: str) -> Picture:
    """(slices, rows, columns, 3): the last channel, which has these units, with the mask outlined."""
    shown = windowed(last_channel(image.voxels), units)
    frames = [
        picture.overlay(picture.enlarged(gray, zoom), picture.enlarged(mask, zoom))
        for gray, mask in zip(shown, found.mask.voxels.astype(np.uint8), strict=True)
    ]
    return np.stack(frames)
