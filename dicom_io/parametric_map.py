"""Maps of numbers <-> DICOM Parametric Map (PS3.3 A.75) on the planes of the images that they were made from.

The values are Float Pixel Data (7FE0,0008) of 32 bits, so that they come back float for float. A Real World Value
Mapping with slope 1 says what they are: the unit "1" of UCUM, and the quantity, of CID 7180:

    probability  (110854, DCM, "Fractional Probabilistic Segmentation"), derived by (113076, DCM, "Segmentation")
    saliency     (130404, DCM, "Saliency"), derived by (112187, DCM, "Unspecified method of calculation"), since CID
                 7203 has no code for what a network's gradients or activations show
    disagreement (DISAGREEMENT, 99MIRALL, "Standard deviation of members' probabilities"), derived as saliency is

Written through highdicom, with UIDs that are functions of the input: the same call gives the same bytes.

Frames ascend along the normal, row direction x column direction, as the slices of a volume do, whatever the order of
the sources. OHIF 3.13 does not look at the frames' positions: it lays frame i on slice i of the source's series, in
this order. It therefore shows a map right only where the map has one frame for each image of that series.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import highdicom as hd
import numpy as np
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import ExplicitVRLittleEndian

from dicom_io import filing, labels, own_codes, placement, references, source_planes
from dicom_io.errors import MissingAttribute, Rejected
from dicom_io.labels import PARAMETRIC_MAP_STORAGE
from dicom_io.provenance import MANUFACTURER, LabelRecord, ModelIdentity, series_number
from dicom_io.volume import Float32, Source, Volume

Quantity = Literal["probability", "saliency", "disagreement"]
# Between which values a quantity lies; one that has no bounds is not here. A standard deviation of numbers from 0 to 1
# is a half at most.
_BOUNDS: Mapping[str, tuple[float, float]] = {"probability": (0.0, 1.0), "disagreement": (0.0, 0.5)}
# Changes whenever the same input would be written in another form: part of the results' UIDs.
_ENCODING = "parametric map 2"


@dataclass(frozen=True)
class _Meaning:
    quantity: Code
    derivation: Code
    label: str


_MEANINGS: dict[str, _Meaning] = {
    "probability": _Meaning(
        Code("110854", "DCM", "Fractional Probabilistic Segmentation"), Code(*labels.SEGMENTING), "PROBABILITY"
    ),
    "saliency": _Meaning(Code("130404", "DCM", "Saliency"), Code(*labels.UNSPECIFIED), "SALIENCY"),
    "disagreement": _Meaning(own_codes.DISAGREEMENT, Code(*labels.UNSPECIFIED), "DISAGREEMENT"),
}


def parametric_map(
    values: Volume,
    *,
    quantity: Quantity,
    sources: Sequence[Dataset],
    model: ModelIdentity,
    parameters: Mapping[str, Any],
    description: str,
    made_at: datetime,
    out_of_domain: bool = False,
    audit_id: str = "",
    source_refs: Sequence[Source] = (),
    further_sources: Sequence[Dataset] = (),
    window: tuple[float, float] | None = None,
) -> tuple[Dataset, LabelRecord]:
    """A map as Parametric Map on the planes of its source images, in their study, and the record that the gate needs.

    values: (slices, rows, columns) float32, of unit "1"; one frame for each slice, as viewers want it.
    quantity: "probability", from 0 to 1, "disagreement" of an ensemble, from 0 to 0.5, or "saliency", of any sign.
    window: (low, high) to look through; None is these bounds, and the map's own range for a saliency.
    Everything else as for `dicom_io.segmentation.segmentation`.

    Raises:
        Rejected: a value is not finite, or out of bounds; the map does not lie on the planes of the sources.
        MissingAttribute: a source does not say where it lies.
        ValueError: the map has channels (write one map for each), or another unit than "1".
    """
    if values.voxels.ndim != 3:
        raise ValueError(f"a map has the axes (slice, row, column), not the shape {values.voxels.shape}")
    if values.units != "1":
        raise ValueError(f"a {quantity} has the unit 1, not {values.units}")
    low, high = _range(values.voxels, quantity)
    source_planes.require(values, sources)
    refs = tuple(source_refs) or values.sources
    all_sources = [*sources, *further_sources]
    frame_numbers = references.frame_numbers(sources, further_sources, refs, values.sources)
    shown = window or (low, high if high > low else low + 1.0)
    record = filing.record_of_result(
        "parametric-map",
        model=model,
        sop_class_uid=PARAMETRIC_MAP_STORAGE,
        naming={
            "parameters": dict(parameters),
            "quantity": quantity,
            "window": list(shown),
            "out_of_domain": out_of_domain,
            "encoding": _ENCODING,
        },
        sources=all_sources,
        refs=refs,
        frame_numbers=frame_numbers,
        parameters=parameters,
        frame_of_reference_uid=values.frame_of_reference_uid,
        out_of_domain=out_of_domain,
        audit_id=audit_id,
    )
    meaning = _MEANINGS[quantity]
    dataset = Dataset(
        _Writer(
            source_images=source_planes.stand_ins(sources),
            pixel_array=np.ascontiguousarray(values.voxels, np.float32),
            series_instance_uid=record.series_instance_uid,
            series_number=series_number(record.series_instance_uid),
            sop_instance_uid=record.sop_instance_uid,
            instance_number=1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=model.name,
            software_versions=model.version,
            device_serial_number=model.content_hash[:16],
            contains_recognizable_visual_features=False,
            real_world_value_mappings=[_mapping(meaning, (low, high))],
            voi_lut_transformations=[_window(shown)],
            transfer_syntax_uid=ExplicitVRLittleEndian,
            content_description=description[:64],
            content_creator_name=f"{MANUFACTURER}^{model.name}"[:64],
            content_label="OUT_OF_DOMAIN" if out_of_domain else meaning.label,
            content_qualification="RESEARCH",
            image_flavor="VOLUME",
            derived_pixel_contrast="QUANTITY",
            derivation=meaning.derivation,
            specific_character_set="ISO_IR 192",
        )
    )
    _turn_frames(dataset)
    dataset.file_meta = labels.file_meta(PARAMETRIC_MAP_STORAGE, record.sop_instance_uid)
    filing.under_sources(dataset, all_sources)
    filing.stamp(dataset, made_at)
    source_planes.name_dimensions(dataset)
    source_planes.name_sources(dataset, sources, frame_numbers)
    dataset.LossyImageCompression = filing.lossy(all_sources)
    dataset.Laterality = sources[0].get("Laterality")
    if meaning.quantity.scheme_designator == own_codes.SCHEME:
        own_codes.identify(dataset)
    labels.apply(dataset, record, all_sources, made_at, description, values.units)
    return dataset, record


class _Writer(hd.pm.ParametricMap):
    """highdicom's map without the references to the stand-ins, which `labels.apply` writes for the real sources, and
    without the tables that its own reading methods look frames up in."""

    def _build_luts(self) -> None:
        pass

    def _add_source_image_references(self, **_: object) -> None:
        pass


def _turn_frames(dataset: Dataset) -> None:
    """Frames that ascend along the normal; highdicom writes all stacks in the order of descending positions."""
    frames = list(reversed(dataset.PerFrameFunctionalGroupsSequence))
    for number, frame in enumerate(frames, start=1):
        frame.FrameContentSequence[0].DimensionIndexValues = number
    dataset.PerFrameFunctionalGroupsSequence = frames
    pixels = np.frombuffer(dataset.FloatPixelData, "<f4").reshape(len(frames), -1)
    dataset.FloatPixelData = pixels[::-1].tobytes()


def _range(values: Float32, quantity: Quantity) -> tuple[float, float]:
    """The bounds of the quantity, or the lowest and the highest value; the mapping is valid between them."""
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise Rejected(f"{np.count_nonzero(~np.isfinite(values))} values of the map are not finite; correct them")
    bounds = _BOUNDS.get(quantity, (low, high))
    if low < bounds[0] or high > bounds[1]:
        raise Rejected(
            f"the map holds values from {low:g} to {high:g}, and a {quantity} lies between {bounds[0]:g} and "
            f"{bounds[1]:g}; correct them"
        )
    return bounds


def _mapping(meaning: _Meaning, value_range: tuple[float, float]) -> hd.pm.RealWorldValueMapping:
    return hd.pm.RealWorldValueMapping(
        lut_label=meaning.label,
        lut_explanation=meaning.quantity.meaning,
        unit=codes.UCUM.NoUnits,
        value_range=value_range,
        slope=1.0,
        intercept=0.0,
        quantity_definition=meaning.quantity,
    )


def _window(shown: tuple[float, float]) -> hd.VOILUTTransformation:
    # LINEAR_EXACT maps center -+ width / 2 onto black and white (PS3.3 C.11.2.1.3.2).
    return hd.VOILUTTransformation(
        window_center=(shown[0] + shown[1]) / 2, window_width=shown[1] - shown[0], voi_lut_function="LINEAR_EXACT"
    )


def read(dataset: Dataset, grid: Volume | None = None) -> Volume:
    """The values of a Parametric Map of any maker, in real-world units; frames are placed by their position.

    grid: the volume on whose grid the values are wanted, usually the source's; elsewhere than on its planes they are
    taken from the nearest voxel. Without it the grid is the map's own planes, 0 where a frame is missing.

    Returns a (slices, rows, columns) volume; its units are the UCUM code of the mapping.

    Raises:
        Rejected: no map, several maps in one object, a mapping by table, or frames that are no volume.
        MissingAttribute: the geometry or the mapping is not in the object.
        GapInSeries: frames do not lie on one regular stack, so that the map has no grid of its own.
    """
    named = f"parametric map {dataset.get('SOPInstanceUID')}"
    if dataset.get("SOPClassUID") != PARAMETRIC_MAP_STORAGE:
        raise Rejected(f"{dataset.get('SOPInstanceUID')} has SOP class {dataset.get('SOPClassUID')}, so it is no map")
    at = placement.places(dataset, named)
    if len(np.unique(at.positions.round(3), axis=0)) < len(at.positions):
        raise Rejected(f"{named} has several frames at one place, more than one quantity, and is not read as one map")
    pixels = np.asarray(dataset.pixel_array)
    pixels = pixels[np.newaxis] if pixels.ndim == 2 else pixels
    mappings = [_mapping_of(dataset, frame, named) for frame in dataset.PerFrameFunctionalGroupsSequence]
    if len({units for _, _, units in mappings}) > 1:
        raise Rejected(f"{named} has frames in {sorted({units for _, _, units in mappings})}, which are no one map")

    def shown(number: int) -> Float32:
        slope, intercept, _ = mappings[number]
        plane: Float32 = pixels[number]
        return plane if (slope, intercept) == (1, 0) else (plane * slope + intercept).astype(np.float32)

    laid = placement.lay(at, range(len(pixels)), shown, grid, merge=placement.latest)
    return laid.with_voxels(laid.voxels, units=mappings[0][2])


def _mapping_of(dataset: Dataset, frame: Dataset, named: str) -> tuple[float, float, str]:
    """Slope, intercept and UCUM unit of a frame (PS3.3 C.7.6.16.2.11)."""
    item = placement.group(dataset, frame, "RealWorldValueMappingSequence", named)
    if "RealWorldValueSlope" not in item or "RealWorldValueIntercept" not in item:
        raise Rejected(f"{named} maps its values by a table (0040,9212); only slope and intercept are read")
    units = item.get("MeasurementUnitsCodeSequence")
    if not units:
        raise MissingAttribute(f"{named} has no Measurement Units Code Sequence (0040,08EA)")
    return float(item.RealWorldValueSlope), float(item.RealWorldValueIntercept), str(units[0].CodeValue)
