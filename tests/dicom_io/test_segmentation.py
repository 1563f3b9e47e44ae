"""SEG: voxel for voxel back, by position in the patient; highdicom and ITK see the same."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from io import BytesIO
from pathlib import Path

import highdicom
import made_results as made
import numpy as np
import pytest
import SimpleITK
from highdicom.color import CIELabColor
from made_results import MADE_AT, MODEL, SEGMENTS, SHAPE
from pydicom import Dataset, dcmread

from dicom_io import labels, segmentation, series
from dicom_io.errors import GapInSeries, MissingAttribute, Rejected
from dicom_io.provenance import LabelRecord
from dicom_io.volume import Volume

Needs = Callable[[str], str]
ONE = SEGMENTS[:1]


def written(mask: Volume, datasets: list[Dataset], **changes: object) -> tuple[Dataset, LabelRecord]:
    arguments = {
        "sources": datasets,
        "segments": SEGMENTS,
        "model": MODEL,
        "parameters": {"threshold": 0.41},
        "description": "lesions",
        "made_at": MADE_AT,
    }
    return segmentation.segmentation(mask, **{**arguments, **changes})  # type: ignore[arg-type]


def decoded(made_object: tuple[Dataset, LabelRecord]) -> Dataset:
    return dcmread(BytesIO(labels.encode(*made_object)))


def voxels_of(*places: tuple[int, int, int]) -> np.ndarray:
    voxels = np.zeros(SHAPE, np.float32)
    for place in places:
        voxels[place] = 1
    return voxels


def test_a_mask_comes_back_voxel_for_voxel_on_its_grid() -> None:
    datasets = made.sources()
    mask = made.mask(datasets)
    back = segmentation.read(decoded(written(mask, datasets)), mask)
    np.testing.assert_array_equal(back.voxels, mask.voxels)
    assert back.same_grid_as(mask) and back.sources == mask.sources and back.units == "1"


@pytest.mark.parametrize(
    "voxels",
    [voxels_of((0, 0, 16)), voxels_of((5, 10, 0)), voxels_of((1, 3, 4), (4, 9, 2)), np.ones(SHAPE), np.zeros(SHAPE)],
    ids=["one corner", "the other corner", "two apart", "everything", "nothing"],
)
@pytest.mark.parametrize("segments", [ONE, SEGMENTS], ids=["one segment", "two segments"])
def test_any_mask_comes_back(voxels: np.ndarray, segments: tuple[segmentation.Segment, ...]) -> None:
    datasets = made.sources()
    mask = made.mask(datasets, voxels)
    back = segmentation.read(decoded(written(mask, datasets, segments=segments)), mask)
    np.testing.assert_array_equal(back.voxels, voxels)


def test_sources_in_falling_order_give_a_mask_in_their_order() -> None:
    datasets = made.sources()[::-1]
    upside_down = made.affine()
    upside_down[:3, 3] += 5 * upside_down[:3, 0]
    upside_down[:3, 0] *= -1
    voxels = made.mask(datasets).voxels[::-1].copy()
    mask = Volume(voxels, upside_down, "2.25.9903", "1", made.references(datasets))
    ds = decoded(written(mask, datasets))
    np.testing.assert_array_equal(segmentation.read(ds, mask).voxels, voxels)
    np.testing.assert_array_equal(segmentation.read(ds, made.mask(made.sources())).voxels, voxels[::-1])


def test_on_its_own_grid_each_label_is_where_it_was_in_the_patient() -> None:
    datasets = made.sources()
    mask = made.mask(datasets)
    own = segmentation.read(decoded(written(mask, datasets)))
    assert own.frame_of_reference_uid == mask.frame_of_reference_uid
    assert own.spatial_shape == (4, 11, 17)  # Slices 1 to 4; 3 was left out and is empty.
    for label in (1, 2):
        here = np.argwhere(mask.voxels == label)
        there = np.argwhere(own.voxels == label)
        np.testing.assert_allclose(
            [own.position_mm(index) for index in there], [mask.position_mm(index) for index in here], atol=1e-4
        )


def test_highdicom_reads_the_same_labels_at_the_same_places() -> None:
    datasets = made.sources()
    ds = decoded(written(made.mask(datasets), datasets))
    own = segmentation.read(ds)
    volume = highdicom.seg.Segmentation.from_dataset(ds).get_volume(combine_segments=True)
    theirs, affine = volume.array, volume.affine
    for label in (1, 2):
        there = np.argwhere(theirs == label)
        places = there @ affine[:3, :3].T + affine[:3, 3]
        ours = np.array([own.position_mm(index) for index in np.argwhere(own.voxels == label)])
        np.testing.assert_allclose(sorted(places.tolist()), sorted(ours.tolist()), atol=1e-3)


def test_itk_finds_the_labels_at_the_same_places(tmp_path: Path) -> None:
    datasets = made.sources()
    mask = made.mask(datasets, (made.mask(datasets).voxels > 0).astype(np.float32))
    path = tmp_path / "seg.dcm"
    path.write_bytes(labels.encode(*written(mask, datasets, segments=ONE)))
    image = SimpleITK.ReadImage(str(path))
    np.testing.assert_allclose(image.GetSpacing(), made.SPACING_MM[::-1], atol=1e-4)
    pixels = SimpleITK.GetArrayFromImage(image)
    # GDCM does not unpack the last byte where the pixels do not fill it; they are background here.
    pixels.reshape(-1)[pixels.size // 8 * 8 :] = 0
    there = np.argwhere(pixels > 0)
    places = [image.TransformIndexToPhysicalPoint([int(n) for n in index[::-1]]) for index in there]
    expected = [mask.position_mm(index) for index in np.argwhere(mask.voxels > 0)]
    np.testing.assert_allclose(sorted(places), sorted(np.array(expected).tolist()), atol=1e-3)


def test_other_programs_read_it(tmp_path: Path, needs: Needs) -> None:
    path = tmp_path / "seg.dcm"
    path.write_bytes(labels.encode(*made.seg()))
    said = subprocess.run([needs("gdcminfo"), str(path)], capture_output=True, text=True, check=True).stdout
    assert "Segmentation Storage" in said and "SINGLEBIT" in said
    dumped = subprocess.run([needs("dcmdump"), str(path)], capture_output=True, text=True, check=True).stdout
    assert "(0062,0001) CS [BINARY]" in dumped and "(0020,0052) UI [2.25.9903]" in dumped


@pytest.mark.parametrize(
    "make",
    [
        made.seg,
        lambda: made.seg(synthetic=True, out_of_domain=True),
        lambda: written(made.mask(made.sources(), np.zeros(SHAPE)), made.sources()),
        lambda: written(made.mask(made.sources(), np.ones(SHAPE)), made.sources(), segments=ONE),
        lambda: written(made.mask(made.sources()), made.sources(PatientSex="divers", StudyID="much too long, really")),
        lambda: written(made.mask(made.sources()), made.sources(AccessionNumber=None, StudyTime=None)),
    ],
    ids=["plain", "synthetic", "empty", "full", "faulty source header", "empty source header"],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_validator_finds_no_error(
    make: Callable[[], tuple[Dataset, LabelRecord]], tmp_path: Path, needs: Needs, request: pytest.FixtureRequest
) -> None:
    path = tmp_path / "seg.dcm"
    path.write_bytes(labels.encode(*make()))
    found = made.errors_of_dciodvfy(needs("dciodvfy"), path)
    if "faulty" in request.node.name:
        # Who the patient is is copied as it stands; what is wrong with it is not ours to mend.
        found = [line for line in found if "PatientSex" not in line]
    assert found == []


def test_the_same_input_gives_the_same_bytes() -> None:
    one, two = made.seg(), made.seg()
    assert labels.encode(*one) == labels.encode(*two)
    assert one[1] == two[1]


def test_what_changes_the_result_changes_its_uids_and_the_time_does_not() -> None:
    datasets = made.sources()
    mask = made.mask(datasets)
    corrected = replace(mask, sources=tuple(replace(source, dataset_hash="f" * 64) for source in mask.sources))
    others = [
        written(mask, datasets),
        written(mask, datasets, parameters={"threshold": 0.5}),
        written(mask, datasets, model=replace(MODEL, content_hash="00" * 32)),
        written(mask, datasets, out_of_domain=True),
        written(corrected, datasets),
    ]
    assert len({record.sop_instance_uid for _, record in others}) == len(others)
    _, later = written(mask, datasets, made_at=datetime(2031, 1, 1))
    assert later.sop_instance_uid == others[0][1].sop_instance_uid


def test_segments_have_their_names_codes_and_colours() -> None:
    ds = decoded(made.seg())
    assert [segment.SegmentLabel for segment in ds.SegmentSequence] == ["lesion", "core"]
    types = [segment.SegmentedPropertyTypeCodeSequence[0].CodeValue for segment in ds.SegmentSequence]
    assert types == ["52988006", "108369006"]
    for segment, wanted in zip(ds.SegmentSequence, SEGMENTS, strict=True):
        colour = CIELabColor.from_dicom_value(segment.RecommendedDisplayCIELabValue).to_rgb()
        np.testing.assert_allclose(colour, wanted.colour, atol=2)


def test_the_series_is_new_and_far_from_the_scanners_numbers() -> None:
    ds = decoded(made.seg())
    assert ds.SeriesInstanceUID != "2.25.9902" and ds.SeriesNumber >= 9000
    assert ds.SeriesDescription == "AI UNPROVEN lesions"
    assert (ds.ContentDate, ds.ContentTime, ds.InstanceCreationDate) == ("20240506", "070809.123000", "20240506")


def test_each_frame_names_the_slice_that_it_lies_on() -> None:
    datasets = made.sources()
    ds = decoded(written(made.mask(datasets), datasets))
    position = {str(source.SOPInstanceUID): source.ImagePositionPatient for source in datasets}
    for frame in ds.PerFrameFunctionalGroupsSequence:
        [source] = frame.DerivationImageSequence[0].SourceImageSequence
        lies_at = frame.PlanePositionSequence[0].ImagePositionPatient
        np.testing.assert_allclose(lies_at, position[source.ReferencedSOPInstanceUID])


def test_a_synthetic_source_makes_a_synthetic_mask() -> None:
    assert decoded(made.seg(synthetic=True)).SyntheticData == "YES"
    assert "SyntheticData" not in decoded(made.seg())
    datasets = made.sources()
    mask = made.mask(datasets)
    by_reference = replace(mask, sources=(replace(mask.sources[0], synthetic=True), *mask.sources[1:]))
    assert decoded(written(by_reference, datasets)).SyntheticData == "YES"


def test_other_channels_count_as_sources() -> None:
    datasets, further = made.sources(), made.sources(series="2.25.9909", synthetic=True)
    refs = (*made.references(datasets), *made.references(further))
    made_object = written(made.mask(datasets), datasets, source_refs=refs, further_sources=further)
    ds = decoded(made_object)
    assert len(ds.SourceImageSequence) == 12 and ds.SyntheticData == "YES"
    assert made_object[1].sop_instance_uid != written(made.mask(datasets), datasets)[1].sop_instance_uid


def test_parameters_that_are_too_long_for_the_algorithm_item_stand_whole_in_the_private_block() -> None:
    datasets = made.sources()
    ds = decoded(written(made.mask(datasets), datasets, parameters={"points": list(range(4000))}))
    whole = ds.private_block(labels.PRIVATE_GROUP, labels.PRIVATE_CREATOR)[9].value
    assert whole.endswith("3999]}")
    algorithm = ds.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0]
    assert algorithm.AlgorithmParameters == whole[:10240]


def test_lossy_sources_make_a_lossy_mask() -> None:
    datasets = made.sources()
    datasets[1].LossyImageCompression = "01"
    assert decoded(written(made.mask(datasets), datasets)).LossyImageCompression == "01"
    assert decoded(made.seg()).LossyImageCompression == "00"


def test_a_mask_beside_its_sources_is_refused() -> None:
    datasets = made.sources()
    mask = made.mask(datasets)
    moved = mask.affine.copy()
    moved[:3, 3] += 0.6 * mask.affine[:3, 2]
    for wrong in (replace(mask, affine=moved), replace(mask, affine=mask.affine @ np.diag([1, 1.1, 1, 1]))):
        with pytest.raises(Rejected, match="mm beside its source"):
            written(wrong, datasets)
    with pytest.raises(Rejected, match="beside its source"):
        written(mask, [*datasets[1:], datasets[0]])
    with pytest.raises(Rejected, match=r"2\.25\.1"):
        written(replace(mask, frame_of_reference_uid="2.25.1"), datasets)
    with pytest.raises(ValueError, match="5 source datasets"):
        written(mask, datasets[1:])


def test_labels_that_nobody_described_are_refused() -> None:
    datasets = made.sources()
    for value in (3, 0.5, -1, np.nan):
        voxels = made.mask(datasets).voxels.copy()
        voxels[0, 0, 0] = value
        with pytest.raises(Rejected, match="no segment describes"):
            written(made.mask(datasets, voxels), datasets)


def test_a_source_without_a_place_is_refused_by_name() -> None:
    datasets = made.sources()
    del datasets[3].ImagePositionPatient
    with pytest.raises(MissingAttribute, match=r"2\.25\.9902\.4 has no ImagePositionPatient"):
        written(made.mask(datasets), datasets)


def test_neither_mask_nor_sources_are_changed() -> None:
    datasets = made.sources()
    mask = made.mask(datasets)
    before = mask.voxels.copy(), mask.affine.copy(), [ds.to_json() for ds in datasets]
    written(mask, datasets)
    np.testing.assert_array_equal(mask.voxels, before[0])
    np.testing.assert_array_equal(mask.affine, before[1])
    assert [ds.to_json() for ds in datasets] == before[2]


def test_on_a_crop_of_the_grid_labels_keep_their_place() -> None:
    datasets = made.sources()
    mask = made.mask(datasets)
    crop = mask.crop((1, 3, 2), (6, 11, 16))
    ds = decoded(written(mask, datasets))
    np.testing.assert_array_equal(segmentation.read(ds, crop).voxels, crop.voxels)


def test_on_a_finer_grid_each_voxel_takes_the_nearest_label() -> None:
    datasets = made.sources()
    mask = made.mask(datasets)
    finer = mask.affine.copy()
    finer[:3, 1:3] /= 2  # Twice as fine in the plane.
    finer[:3, 3] -= (mask.affine[:3, 1] + mask.affine[:3, 2]) / 4
    grid = Volume(np.zeros((6, 22, 34), np.float32), finer, "2.25.9903", "1")
    back = segmentation.read(decoded(written(mask, datasets)), grid)
    np.testing.assert_array_equal(back.voxels, mask.voxels.repeat(2, axis=1).repeat(2, axis=2))


def test_another_frame_of_reference_is_no_place_to_read_into() -> None:
    datasets = made.sources()
    ds = decoded(made.seg())
    with pytest.raises(Rejected, match="not comparable"):
        segmentation.read(ds, replace(made.mask(datasets), frame_of_reference_uid="2.25.1"))


def test_fractional_masks_are_not_read_as_labels() -> None:
    ds = decoded(made.seg())
    ds.SegmentationType = "FRACTIONAL"
    with pytest.raises(Rejected, match="FRACTIONAL"):
        segmentation.read(ds)


def test_frames_off_a_regular_stack_have_no_grid_of_their_own() -> None:
    ds = decoded(made.seg())
    position = ds.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0]
    position.ImagePositionPatient = [
        f"{v:.6f}" for v in np.array(position.ImagePositionPatient) + 1.6 * made.AXES[:, 2]
    ]
    with pytest.raises(GapInSeries, match="regular stack"):
        segmentation.read(ds)


def test_label_maps_of_other_software_are_read() -> None:
    datasets = made.sources()
    mask = made.mask(datasets)
    theirs = highdicom.seg.Segmentation(
        source_images=datasets,
        pixel_array=mask.voxels.astype(np.uint8),
        segmentation_type="LABELMAP",
        segment_descriptions=[
            highdicom.seg.SegmentDescription(s.number, s.label, s.category, s.property_type, "MANUAL") for s in SEGMENTS
        ],
        series_instance_uid="2.25.1",
        series_number=99,
        sop_instance_uid="2.25.2",
        instance_number=1,
        manufacturer="Viewer",
        manufacturer_model_name="Viewer",
        software_versions="1",
        device_serial_number="1",
    )
    np.testing.assert_array_equal(segmentation.read(theirs, mask).voxels, mask.voxels)


@pytest.mark.acceptance
@pytest.mark.filterwarnings("ignore:The value length:UserWarning")
def test_a_mask_of_a_real_pet_comes_back(test_data: Path, tmp_path: Path, needs: Needs) -> None:
    [entry] = series.volumes(sorted((test_data / "pet-suv-sarcoma" / "STS_002" / "PET").iterdir())).volumes
    mask = entry.volume.with_voxels((entry.volume.voxels > 2.5).astype(np.float32), units="1")
    made_object = written(mask, list(entry.datasets), segments=ONE, parameters={"threshold": 2.5})
    path = tmp_path / "seg.dcm"
    path.write_bytes(labels.encode(*made_object))
    assert made.errors_of_dciodvfy(needs("dciodvfy"), path) == []
    np.testing.assert_array_equal(segmentation.read(dcmread(path), mask).voxels, mask.voxels)
    image = SimpleITK.ReadImage(str(path))
    found = SimpleITK.GetArrayFromImage(image)
    # GDCM takes the bits after the last whole byte from memory that nobody wrote; these lie outside the mask.
    found.reshape(-1)[found.size // 8 * 8 :] = 0
    there = np.argwhere(found > 0)
    places = [image.TransformIndexToPhysicalPoint([int(n) for n in index[::-1]]) for index in there]
    expected = [mask.position_mm(index) for index in np.argwhere(mask.voxels > 0)]
    assert len(places) > 100
    np.testing.assert_allclose(np.mean(places, axis=0), np.mean(expected, axis=0), atol=0.05)
    np.testing.assert_allclose(np.std(places, axis=0), np.std(expected, axis=0), atol=0.05)
