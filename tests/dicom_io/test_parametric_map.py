"""Parametric maps: float for float back, at the same places, with what the numbers mean; other readers see the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import highdicom
import made_results as made
import numpy as np
import pytest
from made_results import MADE_AT, MODEL, SHAPE
from pydicom import Dataset, dcmread
from scipy.spatial.transform import Rotation

from dicom_io import labels, parametric_map, series
from dicom_io.errors import GapInSeries, MissingAttribute, Rejected
from dicom_io.provenance import LabelRecord
from dicom_io.volume import Volume

Needs = Callable[[str], str]


def written(values: Volume, datasets: list[Dataset], **changes: Any) -> tuple[Dataset, LabelRecord]:
    arguments: dict[str, Any] = {
        "quantity": "probability",
        "sources": datasets,
        "model": MODEL,
        "parameters": {"threshold": 0.41},
        "description": "lesion probability",
        "made_at": MADE_AT,
    }
    return parametric_map.parametric_map(values, **{**arguments, **changes})


def decoded(made_object: tuple[Dataset, LabelRecord]) -> Dataset:
    return dcmread(BytesIO(labels.encode(*made_object)))


def probabilities() -> np.ndarray:
    return np.random.default_rng(5).random(SHAPE, np.float32)


def saliencies() -> np.ndarray:
    values = np.random.default_rng(6).normal(0, 3e-5, SHAPE).astype(np.float32)
    values[1] = 0
    return values


def lying(turn: np.ndarray, *, step_mm: float = 3.5) -> tuple[list[Dataset], np.ndarray]:
    """Sources whose columns of `turn` are across, down and normal, and the affine of their volume, slices in order."""
    datasets = made.sources()
    for number, ds in enumerate(datasets):
        ds.ImageOrientationPatient = [f"{value:.10f}" for value in (*turn[:, 0], *turn[:, 1])]
        ds.ImagePositionPatient = [f"{value:.9f}" for value in made.ORIGIN_MM + number * step_mm * turn[:, 2]]
    affine = np.eye(4)
    affine[:3] = np.c_[turn[:, 2] * step_mm, turn[:, 1] * 1.25, turn[:, 0] * 0.8, made.ORIGIN_MM]
    return datasets, affine


SAGITTAL = np.array([[0, 0, -1], [1, 0, 0], [0, -1, 0]], float)
TURNS = {
    "oblique": (made.AXES, 3.5),
    "sagittal": (SAGITTAL, 2.0),
    "reversed": (made.AXES, -3.5),
    "anisotropic": (Rotation.from_euler("x", 3, degrees=True).as_matrix(), 11.0),
}


@pytest.mark.parametrize("plane", TURNS)
@pytest.mark.parametrize("quantity", ["probability", "saliency"])
def test_a_map_comes_back_float_for_float(quantity: Any, plane: str) -> None:
    datasets, affine = lying(TURNS[plane][0], step_mm=TURNS[plane][1])
    voxels = probabilities() if quantity == "probability" else saliencies()
    values = Volume(voxels, affine, "2.25.9903", "1", made.references(datasets))
    ds = decoded(written(values, datasets, quantity=quantity))
    back = parametric_map.read(ds, values)
    np.testing.assert_array_equal(back.voxels, voxels)
    assert back.units == "1" and back.same_grid_as(values) and back.sources == values.sources
    own = parametric_map.read(ds)
    assert own.voxels.dtype == np.float32
    for number in range(SHAPE[0]):
        index = np.rint(own.index_at(values.position_mm((number, 0, 0)))).astype(int)
        np.testing.assert_allclose(own.position_mm(index), values.position_mm((number, 0, 0)), atol=1e-4)
        np.testing.assert_array_equal(own.voxels[index[0]], voxels[number])


def test_each_frame_names_its_slice_or_its_frame() -> None:
    for datasets, refs in (
        (made.sources(), made.references(made.sources())),
        (made.frames(), made.frame_references(made.frames())),
    ):
        values = replace(made.mask(datasets, probabilities()), sources=refs)
        ds = decoded(written(values, datasets))
        assert ds.NumberOfFrames == 6
        for frame in ds.PerFrameFunctionalGroupsSequence:
            [item] = frame.DerivationImageSequence[0].SourceImageSequence
            place = frame.PlanePositionSequence[0].ImagePositionPatient
            number = int(np.rint(values.index_at(place)[0]))
            assert item.ReferencedSOPInstanceUID == datasets[number].SOPInstanceUID
            assert item.get("ReferencedFrameNumber") == (
                refs[number].frame if "NumberOfFrames" in datasets[0] else None
            )


def test_a_map_says_what_its_numbers_mean() -> None:
    for quantity, code, derivation in (("probability", "110854", "113076"), ("saliency", "130404", "112187")):
        voxels = probabilities() if quantity == "probability" else saliencies()
        ds = decoded(written(made.mask(made.sources(), voxels), made.sources(), quantity=quantity))
        [mapping] = ds.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence
        [unit] = mapping.MeasurementUnitsCodeSequence
        [definition] = mapping.QuantityDefinitionSequence
        assert (unit.CodeValue, unit.CodingSchemeDesignator) == ("1", "UCUM")
        assert definition.ConceptCodeSequence[0].CodeValue == code
        assert mapping.DoubleFloatRealWorldValueFirstValueMapped <= voxels.min()
        assert mapping.DoubleFloatRealWorldValueLastValueMapped >= voxels.max()
        frame = ds.PerFrameFunctionalGroupsSequence[0]
        assert frame.DerivationImageSequence[0].DerivationCodeSequence[0].CodeValue == derivation
        assert ds.ContentQualification == "RESEARCH" and ds.FrameOfReferenceUID == "2.25.9903"


def test_highdicom_reads_the_same_values_at_the_same_places() -> None:
    values = made.mask(made.sources(), probabilities())
    theirs = highdicom.pm.ParametricMap.from_dataset(decoded(written(values, made.sources())))
    volume = highdicom.Image.from_dataset(theirs).get_volume(apply_real_world_transform=True)
    for number in range(SHAPE[0]):
        index = np.rint(values.index_at((volume.affine @ [number, 0, 0, 1])[:3])).astype(int)
        np.testing.assert_array_equal(volume.array[number], values.voxels[index[0]])


def test_the_same_input_gives_the_same_bytes_and_another_quantity_or_window_another_object() -> None:
    values = made.mask(made.sources(), probabilities())
    one, two = written(values, made.sources()), written(values, made.sources())
    assert labels.encode(*one) == labels.encode(*two)
    others = [
        one[1].sop_instance_uid,
        written(values, made.sources(), quantity="saliency")[1].sop_instance_uid,
        written(values, made.sources(), window=(0.2, 0.4))[1].sop_instance_uid,
        written(values, made.sources(), parameters={})[1].sop_instance_uid,
    ]
    assert len(set(others)) == 4
    assert written(values, made.sources(), made_at=datetime(2031, 1, 1))[1].sop_instance_uid == others[0]


@pytest.mark.parametrize("value", [-0.1, 1.5, np.nan])
def test_what_is_no_probability_is_refused(value: float) -> None:
    voxels = probabilities()
    voxels[2, 3, 4] = value
    with pytest.raises(Rejected, match=r"a probability lies between 0 and 1|not finite"):
        written(made.mask(made.sources(), voxels), made.sources())


def test_maps_with_channels_or_other_units_and_maps_beside_their_sources_are_refused() -> None:
    values = made.mask(made.sources(), probabilities())
    with pytest.raises(ValueError, match="axes"):
        written(replace(values, voxels=np.stack([values.voxels] * 2)), made.sources())
    with pytest.raises(ValueError, match="unit 1"):
        written(replace(values, units="g/ml{SUVbw}"), made.sources())
    with pytest.raises(Rejected, match="beside its source"):
        written(values, made.sources()[::-1])


def test_a_slope_of_another_maker_is_applied() -> None:
    ds = decoded(made.probability())
    mapping = ds.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
    mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept = 2.0, -1.0
    mapping.MeasurementUnitsCodeSequence[0].CodeValue = "g/ml{SUVbw}"
    plain = parametric_map.read(decoded(made.probability()))
    back = parametric_map.read(ds)
    np.testing.assert_allclose(back.voxels, 2 * plain.voxels - 1, atol=1e-6)
    assert back.units == "g/ml{SUVbw}"


def test_what_is_not_one_map_is_refused_by_name() -> None:
    ds = decoded(made.probability())
    frames = ds.PerFrameFunctionalGroupsSequence
    frames[1].PlanePositionSequence = frames[0].PlanePositionSequence
    with pytest.raises(Rejected, match="several frames at one place"):
        parametric_map.read(ds)
    ds = decoded(made.probability())
    position = ds.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0]
    position.ImagePositionPatient = list(np.array(position.ImagePositionPatient, float) + 1.6 * made.AXES[:, 2])
    with pytest.raises(GapInSeries, match="regular stack"):
        parametric_map.read(ds)
    with pytest.raises(Rejected, match="no map"):
        parametric_map.read(made.sources()[0])
    ds = decoded(made.probability())
    del ds.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence
    with pytest.raises(MissingAttribute, match="RealWorldValueMappingSequence"):
        parametric_map.read(ds)


def test_the_validator_finds_no_error(tmp_path: Path, needs: Needs) -> None:
    path = tmp_path / "map.dcm"
    saliency = written(made.mask(made.sources(), saliencies()), made.sources(), quantity="saliency")
    for made_object in (made.probability(), made.probability(synthetic=True), saliency):
        path.write_bytes(labels.encode(*made_object))
        assert made.errors_of_dciodvfy(needs("dciodvfy"), path) == []


@pytest.mark.acceptance
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "folder", ["mr-t1-t2-pair/STS_001/MR_T1", "mr-breast-dce/UCSF-BR-06/image_dce_3dfgre_orig", "pet-fdg-raw/STS_001"]
)
def test_a_map_of_real_images_comes_back(folder: str, test_data: Path, tmp_path: Path, needs: Needs) -> None:
    entry = series.volumes([test_data / folder]).volumes[0]
    voxels = np.random.default_rng(0).random(entry.volume.spatial_shape, np.float32)
    values = entry.volume.with_voxels(voxels, units="1")
    path = tmp_path / "map.dcm"
    path.write_bytes(labels.encode(*written(values, list(entry.datasets))))
    assert made.errors_of_dciodvfy(needs("dciodvfy"), path) == []
    np.testing.assert_array_equal(parametric_map.read(dcmread(path), values).voxels, voxels)


@pytest.mark.parametrize("plane", TURNS)
def test_frames_ascend_along_the_normal_as_ohif_lays_them_on_its_slices(plane: str) -> None:
    datasets, affine = lying(TURNS[plane][0], step_mm=TURNS[plane][1])
    ds = decoded(written(Volume(probabilities(), affine, "2.25.9903", "1", made.references(datasets)), datasets))
    places = [frame.PlanePositionSequence[0].ImagePositionPatient for frame in ds.PerFrameFunctionalGroupsSequence]
    orientation = np.array(datasets[0].ImageOrientationPatient, float)

    assert (np.diff(np.array(places, float) @ np.cross(orientation[:3], orientation[3:])) > 0).all()


def test_where_members_disagree_is_a_quantity_of_our_own_scheme_between_zero_and_a_half() -> None:
    datasets = made.sources()
    apart = made.mask(datasets, probabilities() / 2)
    dataset = decoded(written(apart, datasets, quantity="disagreement"))
    assert "DISAGREEMENT" in str(dataset.SharedFunctionalGroupsSequence[0])
    assert dataset.CodingSchemeIdentificationSequence[0].CodingSchemeDesignator == "99MIRALL"
    np.testing.assert_array_equal(parametric_map.read(dataset).voxels, apart.voxels)
    with pytest.raises(Rejected, match=r"a disagreement lies between 0 and 0\.5"):
        written(made.mask(datasets, probabilities()), datasets, quantity="disagreement")
