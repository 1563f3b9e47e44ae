"""What a classifier finds in studies, as DICOM objects: captures of every input, reports, and maps of saliency."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, get_args

import numpy as np

from dicom_io import picture, report, secondary_capture
from dicom_io.parametric_map import parametric_map
from dicom_io.volume import Float32, Projection, Source, Volume
from models.predictor import Classified, Classifier
from plugin import encodings, readings
from plugin.drawing import LARGEST_PX, Picture, last_channel, last_units, windowed, zoom_of
from plugin.model_input import Case
from plugin.outputs import Object, Progress, decided, forms

# Changes whenever the same network would give other maps: part of the results' UIDs.
SALIENCY_FORM = 2


@dataclass(frozen=True, eq=False)
class _Read:
    """An input, whether it is outside the card, and what was found in its pictures."""

    case: Case
    outside: bool
    found: Classified


def objects_of(
    model: Classifier,
    taken: Sequence[tuple[Case, bool]],
    made_at: datetime,
    wanted: Collection[str],
    progress: Progress,
) -> Iterator[Object]:
    """Captures of every input; reports of whole studies, where the version reads them, else of every input, too."""
    studies: dict[str, list[_Read]] = {}
    for number, (case, outside) in enumerate(taken):
        progress({"stage": "predicting", "done": number, "total": len(taken)})
        read = _Read(case, outside, model.predict(case.image))
        studies.setdefault(str(case.datasets[0].StudyInstanceUID), []).append(read)
    reported = any(each.startswith(encodings.REPORT) for each in wanted)
    for inputs in studies.values():
        whole = readings.whole(model, [each.found for each in inputs])
        told = f"; {whole[1]}" if whole else ""
        for each in inputs:
            common = _common(model, [each], made_at)
            finding = f"{_highest(each.found)}{each.case.note}{told}"
            if reported and not whole:
                report_of_input = report.report(classes=readings.classes(model, each.found), **common)
                yield *report_of_input, finding, encodings.REPORT
            shown, zoom = _shown(each.case.image, last_units(model, each.case.image))
            captioned = picture.with_captions(shown, _captions(each.found))
            for form in forms(wanted):
                captures = secondary_capture.of_prediction(
                    captioned, purpose="classification", zoom=zoom, form=form, **common
                )
                yield from ((dataset, record, finding, form) for dataset, record in captures)
            if model.saliency_is_shown and any(name.startswith(encodings.SALIENCY) for name in wanted):
                yield from _salient(model, each, shown, zoom, common, finding, wanted)
        if reported and whole:
            common = _common(model, inputs, made_at)
            common["parameters"] |= readings.rule(model)
            in_pictures = readings.classes(model, _joined([each.found for each in inputs]))
            study = report.report(classes=[whole[0], *in_pictures], **common)
            yield *study, whole[1], encodings.REPORT


def _salient(
    model: Classifier,
    read: _Read,
    shown: Sequence[Picture],
    zoom: int | None,
    common: dict[str, Any],
    finding: str,
    wanted: Collection[str],
) -> Iterator[Object]:
    """The map of a volume on its images, and captures of every input under it, from nothing to its highest value."""
    image, values = read.case.image, model.saliency(read.case.image)
    said = common | {
        "description": f"saliency of {readings.looked_for(model)} by {model.identity.address}",
        "parameters": common["parameters"] | {"saliency": model.saliency_method, "saliency_form": SALIENCY_FORM},
    }
    if isinstance(image, Volume) and encodings.SALIENCY in wanted:
        lying = read.case.sources[-len(read.case.datasets) :]
        drawn = replace(image.with_voxels(values, units="1"), sources=lying)
        yield *parametric_map(drawn, quantity="saliency", **said), finding, encodings.SALIENCY
    highest = max(float(values.max()), 1e-12)
    frames = [
        picture.heat(picture.rgb(gray), _like(slice_ / highest, gray))
        for gray, slice_ in zip(shown, values, strict=True)
    ]
    captioned = picture.with_captions(frames, [f"saliency, {text}" for text in _captions(read.found)])
    for form in get_args(secondary_capture.Form):
        if encodings.heat(form) in wanted:
            captures = secondary_capture.of_prediction(captioned, purpose="saliency", zoom=zoom, form=form, **said)
            yield from ((dataset, record, finding, encodings.heat(form)) for dataset, record in captures)


def _like(values: Float32, shown: Picture) -> Float32:
    """Values on the pixels of what is shown, which is the same picture enlarged or thinned by whole pixels."""
    if len(shown) > len(values):
        return np.kron(values, np.ones((len(shown) // len(values),) * 2, np.float32))
    step = -(-len(values) // len(shown))
    return values[::step, ::step]


def _common(model: Classifier, inputs: Sequence[_Read], made_at: datetime) -> dict[str, Any]:
    """What objects of these inputs say of their making."""
    cases = [each.case for each in inputs]
    threshold = inputs[0].found.threshold
    parameters = decided(threshold) | cases[0].resampling
    for case in cases[1:]:
        parameters |= case.resampling
    told = "class probabilities" if threshold is None else f"{readings.looked_for(model)} probability"
    if threshold is not None and len(model.labels) > 2:
        # Captions are pixels: they say more than they did once, under other UIDs.
        parameters["told"] = "any class but the first"
    return {
        "model": model.identity,
        "sources": [dataset for case in cases for dataset in case.datasets],
        "source_refs": _refs(cases),
        "further_sources": [dataset for case in cases for dataset in case.further],
        "description": f"{told} by {model.identity.address}",
        "parameters": parameters,
        "made_at": made_at,
        "out_of_domain": any(each.outside for each in inputs),
        "audit_id": model.description.audit_id,
    }


def _refs(cases: Sequence[Case]) -> list[Source]:
    """What all inputs were made from, further channels before the images that results refer to."""
    cut = [(case.sources[: -len(case.datasets)], case.sources[-len(case.datasets) :]) for case in cases]
    return [source for part in (0, 1) for sources in cut for source in sources[part]]


def _highest(found: Classified) -> str:
    """Of the most suspicious picture; where none is that of nothing found, of the surest."""
    of = found.probabilities.max(1) if found.threshold is None else found.suspicions
    return found.words(int(of.argmax()))


def _joined(found: Sequence[Classified]) -> Classified:
    """All pictures of a study as one."""
    return replace(found[0], probabilities=np.concatenate([each.probabilities for each in found]))


def _captions(found: Classified) -> list[str]:
    """Below each picture: its probability and the threshold."""
    return [found.words(number) for number in range(len(found.probabilities))]


def _shown(image: Volume | Projection, units: str) -> tuple[list[Picture], int | None]:
    """Each classified picture, (rows, columns, 3); the enlargement where they have a place in the patient. units: of
    what is shown, the last channel."""
    if isinstance(image, Volume):
        zoom = zoom_of(image.spatial_shape[2])
        shown = windowed(last_channel(image.voxels), units)
        return [picture.rgb(picture.enlarged(gray, zoom)) for gray in shown], zoom
    pixels = image.pixels if image.pixels.ndim == 2 else image.pixels[-1]
    step = -(-pixels.shape[0] // LARGEST_PX)
    return [picture.rgb(windowed(pixels[::step, ::step], units))], None
