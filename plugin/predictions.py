"""What a model finds in one input, as DICOM objects: SEG, captures, reports and maps, or the series that it makes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from dicom_io import measurements, picture, report, secondary_capture, segmentation
from dicom_io.parametric_map import parametric_map
from dicom_io.provenance import LabelRecord
from dicom_io.volume import Projection, Source, Volume
from models.from_pictures import Translator
from models.predictor import Classified, Classifier, Segmented, Segmenter
from plugin import encodings
from plugin.model_input import Case
from plugin.outputs import Object, Progress, forms, segments_of, silent

Picture = npt.NDArray[np.uint8]

SHOWN_PX = 192  # small slices are enlarged by whole pixels to about this width, so that captions can be read
LARGEST_PX = 512  # mammograms are thinned to at most this many rows in a capture
# Windows of the captures: SUV as PET is usually read; others by the image's own percentiles.
SUV_WINDOW = (0.0, 7.0)
PERCENTILES = (1.0, 99.5)


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
        yield from _classified(model, taken, made_at, wanted, progress)
        return
    for number, (case, outside) in enumerate(taken):
        progress({"stage": "predicting", "done": number, "total": len(taken)})
        if isinstance(model, Segmenter):
            yield from _segmented(model, case, made_at, outside, wanted)
        else:
            yield from _translated(model, case, made_at, outside, wanted)


def _segmented(model: Segmenter, case: Case, made_at: datetime, outside: bool, wanted: Collection[str]) -> list[Object]:
    assert isinstance(case.image, Volume)
    found = model.predict(case.image)
    name = " and ".join(model.labels[1:])
    common: dict[str, Any] = {
        "model": model.identity,
        "sources": case.datasets,
        "source_refs": case.sources,
        "further_sources": case.further,
        "parameters": _parameters(case, found.threshold),
        "made_at": made_at,
        "out_of_domain": outside,
        "audit_id": model.description.audit_id,
    }
    millilitres = float((found.mask.voxels > 0).sum() * np.prod(found.mask.spacing_mm) / 1000)
    finding = f"{millilitres:.1f} ml of {name}{_resampled(case)}"
    objects: list[Object] = []
    # Results refer to the last channel, and lie on its images.
    lying = case.sources[-len(case.datasets) :]
    for encoding, arguments in encodings.SEGMENTATIONS.items():
        if encoding in wanted:
            seg, seg_record = segmentation.segmentation(
                replace(found.mask, sources=lying),
                segments=segments_of(model.labels),
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
    zoom = _zoom(case.image.spatial_shape[2])
    overlays = _overlays(case.image, found, zoom, _last_units(model, case.image))
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


def _measured(
    model: Segmenter, case: Case, found: Segmented, seg: Dataset, common: Mapping[str, Any]
) -> tuple[Dataset, LabelRecord]:
    """Volume, number of parts and, on PET, uptake of every segment, as a report that refers to the SEG."""
    assert isinstance(case.image, Volume)
    image = case.image.with_voxels(_last_channel(case.image.voxels), units=_last_units(model, case.image))
    numbers = range(1, len(model.labels))
    regions = [report.Region(number, measurements.measure(image, found.mask, number)) for number in numbers]
    described = f"numbers of {' and '.join(model.labels[1:])} by {model.identity.address}"
    return report.report(regions=regions, segmentation=seg, description=described, **common)


@dataclass(frozen=True, eq=False)
class _Read:
    """An input, whether it is outside the card, and what was found in its pictures."""

    case: Case
    outside: bool
    found: Classified


def _classified(
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
        whole = _whole(model, inputs)
        told = f"; {whole[1]}" if whole else ""
        for each in inputs:
            common = _common(model, [each], made_at)
            finding = f"{_highest(each.found)}{_resampled(each.case)}{told}"
            if reported and not whole:
                report_of_input = report.report(classes=_classes(model, each.found), **common)
                yield *report_of_input, finding, encodings.REPORT
            frames, zoom = _captioned(each.case.image, each.found, _last_units(model, each.case.image))
            for form in forms(wanted):
                captures = secondary_capture.of_prediction(
                    frames, purpose="classification", zoom=zoom, form=form, **common
                )
                yield from ((dataset, record, finding, form) for dataset, record in captures)
        if reported and whole:
            common = _common(model, inputs, made_at)
            common["parameters"] |= _rule(model)
            in_pictures = _classes(model, _joined([each.found for each in inputs]))
            study = report.report(classes=[whole[0], *in_pictures], **common)
            yield *study, whole[1], encodings.REPORT


def _common(model: Classifier, inputs: Sequence[_Read], made_at: datetime) -> dict[str, Any]:
    """What objects of these inputs say of their making."""
    cases = [each.case for each in inputs]
    parameters = _parameters(cases[0], inputs[0].found.threshold)
    for case in cases[1:]:
        parameters |= _resampling(case)
    return {
        "model": model.identity,
        "sources": [dataset for case in cases for dataset in case.datasets],
        "source_refs": _refs(cases),
        "further_sources": [dataset for case in cases for dataset in case.further],
        "description": f"{model.labels[-1]} probability by {model.identity.address}",
        "parameters": parameters,
        "made_at": made_at,
        "out_of_domain": any(each.outside for each in inputs),
        "audit_id": model.description.audit_id,
    }


def _refs(cases: Sequence[Case]) -> list[Source]:
    """What all inputs were made from, further channels before the images that results refer to."""
    cut = [(case.sources[: -len(case.datasets)], case.sources[-len(case.datasets) :]) for case in cases]
    return [source for part in (0, 1) for sources in cut for source in sources[part]]


def _whole(model: Classifier, inputs: Sequence[_Read]) -> tuple[report.ClassProbability, str] | None:
    """What the pictures of a study say together; None where there is one, or the version does not read studies."""
    reading = model.description.study
    suspicions = np.concatenate([each.found.suspicions for each in inputs])
    if reading is None or len(suspicions) < 2:
        return None
    name, chance = " or ".join(model.labels[1:]), reading.probability(suspicions)
    whole = report.ClassProbability(f"{name} in the study", chance, threshold=reading.threshold, calibrated=True)
    return whole, f"study: {name} {chance:.2f} (threshold {reading.threshold:.2f}), {reading.words}"


def _rule(model: Classifier) -> dict[str, Any]:
    reading = model.description.study
    assert reading is not None
    share = {"study_share": reading.share} if reading.rule == "upper mean" else {}
    return {"study_rule": reading.rule, "study_threshold": reading.threshold, **share}


def _highest(found: Classified) -> str:
    return f"{found.labels[-1]} {found.probabilities[:, -1].max():.2f} (threshold {found.threshold:.2f})"


def _joined(found: Sequence[Classified]) -> Classified:
    """All pictures of a study as one."""
    return replace(found[0], probabilities=np.concatenate([each.probabilities for each in found]))


def _classes(model: Classifier, found: Classified) -> list[report.ClassProbability]:
    """Every class but the first, which is that of nothing found, on the image where it is most probable: of a volume,
    its most suspicious slice. The threshold is of all of them together, so that it stands with a class where it is the
    only one."""
    several = len(found.probabilities) > 1
    return [
        report.ClassProbability(
            label,
            float(found.probabilities[:, number].max()),
            threshold=found.threshold if len(found.labels) == 2 else None,
            calibrated=model.description.temperature is not None,
            images=(int(found.probabilities[:, number].argmax()),) if several else (),
            highest=several,
        )
        for number, label in enumerate(found.labels)
        if number > 0
    ]


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
                parameters=_resampling(case) | ({"finer": model.factor} if finer else {}),
                made_at=made_at,
                units=model.description.units,
                value_range=model.pixel_range,
                out_of_domain=outside,
                audit_id=model.description.audit_id,
                zoom=model.factor if volumetric else None,
                spacing_mm=None if isinstance(made, Volume) else made.breast_spacing_mm,
                form=form,
            )
            objects += [(dataset, record, f"{what}{_resampled(case)}", form) for dataset, record in captures]
    return objects


def _parameters(case: Case, threshold: float) -> dict[str, Any]:
    return {"threshold": threshold} | _resampling(case)


def _resampling(case: Case) -> dict[str, Any]:
    return {"resampled": list(case.resampled)} if case.resampled else {}


def _resampled(case: Case) -> str:
    return f"; {' and '.join(case.resampled)} resampled onto the last channel's grid" if case.resampled else ""


def _zoom(columns: int) -> int:
    return max(1, SHOWN_PX // columns)


def _overlays(image: Volume, found: Segmented, zoom: int, units: str) -> Picture:
    """(slices, rows, columns, 3): the last channel, which has these units, with the mask outlined."""
    shown = _windowed(_last_channel(image.voxels), units)
    frames = [
        picture.overlay(picture.enlarged(gray, zoom), picture.enlarged(mask, zoom))
        for gray, mask in zip(shown, found.mask.voxels.astype(np.uint8), strict=True)
    ]
    return np.stack(frames)


def _captioned(image: Volume | Projection, found: Classified, units: str) -> tuple[Picture, int | None]:
    """(n, rows, columns, 3): each classified picture with its probability and the threshold below it; the enlargement
    where the frames have a place in the patient. units: of what is shown, the last channel."""
    texts = [
        f"{found.labels[-1]} {chance:.2f} (threshold {found.threshold:.2f})" for chance in found.probabilities[:, -1]
    ]
    if isinstance(image, Volume):
        zoom = _zoom(image.spatial_shape[2])
        shown = _windowed(_last_channel(image.voxels), units)
        return picture.with_captions([picture.rgb(picture.enlarged(gray, zoom)) for gray in shown], texts), zoom
    pixels = image.pixels if image.pixels.ndim == 2 else image.pixels[-1]
    thinned = pixels[:: -(-pixels.shape[0] // LARGEST_PX), :: -(-pixels.shape[0] // LARGEST_PX)]
    return picture.with_captions([picture.rgb(_windowed(thinned, units))], texts), None


def _last_units(model: Classifier | Segmenter, image: Volume | Projection) -> str:
    """Of the last channel: an image of several has the units of its first."""
    return model.channels[-1].units if len(model.channels) > 1 else image.units


def _last_channel(voxels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return voxels if voxels.ndim == 3 else voxels[-1]


def _windowed(values: npt.NDArray[np.float32], units: str) -> Picture:
    low, high = SUV_WINDOW if "SUV" in units else np.percentile(values, PERCENTILES).tolist()
    return picture.window(values, low, max(high, low + 1e-6))
