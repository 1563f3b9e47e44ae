"""Series to volumes: order, place, and what is split or refused. Oracle for real series: SimpleITK (ITK and GDCM)."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from scipy.spatial.transform import Rotation

from dicom_io.dataset import read, read_with_hash
from dicom_io.errors import (
    DuplicatePositions,
    GapInSeries,
    MissingAttribute,
    NotDicom,
    Rejected,
    UndecodablePixels,
    UnevenSlices,
    UnknownUnits,
)
from dicom_io.series import Slice, group, read_files, stack, volumes


def _moved(ds: Dataset, normal: np.ndarray, by_mm: float) -> Dataset:
    ds.ImagePositionPatient = [
        float(x) + by_mm * float(n) for x, n in zip(ds.ImagePositionPatient, normal, strict=True)
    ]
    return ds


def _read_by_itk(files: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """(voxels (slice, row, column), affine of that index -> LPS)."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(files)
    image = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image), affine[:, [2, 1, 0, 3]]


# --- order and place ----------------------------------------------------------------------------------------------


def test_an_oblique_series_lies_where_its_attributes_say(make):
    volume = stack(make.slices(make.series()))

    np.testing.assert_allclose(volume.affine, make.affine, atol=1e-7)
    np.testing.assert_array_equal(volume.voxels, make.voxels())
    assert volume.voxels.dtype == np.float32
    assert volume.frame_of_reference_uid == "2.25.773"
    assert volume.spacing_mm == pytest.approx((2.5, 0.75, 1.3))


def test_slices_in_any_order_give_the_same_volume(make):
    slices = make.slices(make.series())

    shuffled = stack([slices[n] for n in (3, 0, 4, 2, 1)])

    np.testing.assert_array_equal(shuffled.voxels, stack(slices).voxels)
    np.testing.assert_array_equal(shuffled.affine, stack(slices).affine)
    assert shuffled.sources == tuple(item.source for item in slices)


def test_instance_number_is_not_trusted(make):
    datasets = make.series()
    for number, ds in enumerate(reversed(datasets)):
        ds.InstanceNumber = number

    np.testing.assert_array_equal(stack(make.slices(datasets)).voxels, make.voxels())


def test_the_same_oblique_series_is_read_by_itk_with_the_same_affine(make, tmp_path):
    files = []
    for number, ds in enumerate(make.series("CT")):
        files.append(str(tmp_path / f"{number}.dcm"))
        (tmp_path / f"{number}.dcm").write_bytes(make.bytes(ds))

    voxels, affine = _read_by_itk(files)
    volume = stack(read_files([tmp_path]))

    np.testing.assert_allclose(volume.affine, affine, atol=1e-5)
    np.testing.assert_array_equal(volume.voxels, voxels)


def test_each_slice_is_rescaled_with_its_own_slope(make):
    datasets = make.series("CT")
    for number, ds in enumerate(datasets):
        ds.RescaleSlope = 1 + number / 4

    volume = stack(make.slices(datasets))

    for number, stored in enumerate(make.voxels()):
        np.testing.assert_array_equal(volume.voxels[number], stored * (1 + number / 4) - 1024)
    assert volume.units == "[hnsf'U]"


def test_every_slice_names_its_source(make):
    datasets = make.series()
    datasets[2].SyntheticData = "YES"
    slices = make.slices(datasets)

    volume = stack(slices)

    assert [source.sop_instance_uid for source in volume.sources] == [ds.SOPInstanceUID for ds in datasets]
    assert [source.dataset_hash for source in volume.sources] == [item.dataset_hash for item in slices]
    assert [source.synthetic for source in volume.sources] == [False, False, True, False, False]
    assert volume.is_synthetic


def test_a_single_slice_is_as_thick_as_it_says(make):
    volume = stack(make.slices(make.series()[1:2]))

    assert volume.spacing_mm[0] == pytest.approx(2.5)
    np.testing.assert_allclose(volume.affine[:3, :3], make.affine[:3, :3], atol=1e-7)


def test_a_single_slice_without_thickness_is_refused(make):
    with pytest.raises(MissingAttribute, match=r"SliceThickness \(0018,0050\)"):
        stack(make.slices(make.series(SliceThickness=None)[:1]))


def test_a_tilted_gantry_gives_a_sheared_affine_and_no_refusal(make):
    datasets = make.series("CT")
    for number, ds in enumerate(datasets):
        _moved(ds, make.turn[:, 1], 0.6 * number)

    volume = stack(make.slices(datasets))

    np.testing.assert_allclose(volume.affine[:3, 0], make.affine[:3, 0] + 0.6 * make.turn[:, 1], atol=1e-6)


# --- steps --------------------------------------------------------------------------------------------------------


def test_a_missing_slice_is_a_gap_and_is_named_with_its_place(make):
    datasets = make.series()
    first = np.array(datasets[0].ImagePositionPatient, float) @ make.turn[:, 2]

    with pytest.raises(
        GapInSeries, match=rf"2\.25\.772: slices at {first + 5:.1f} and {first + 10:.1f} mm leave a gap"
    ):
        stack(make.slices([ds for number, ds in enumerate(datasets) if number != 3]))


@pytest.mark.parametrize(("off_mm", "refused"), [(0.06, False), (-0.06, False), (0.2, True), (-0.2, True)])
def test_steps_may_differ_by_rounding_and_not_by_more(make, off_mm, refused):
    """Steps are 2.5 mm: 5 % are 0.125 mm."""
    datasets = make.series()
    _moved(datasets[-1], make.turn[:, 2], off_mm)

    if refused:
        with pytest.raises(UnevenSlices, match="resample it to even steps first"):
            stack(make.slices(datasets))
    else:
        assert stack(make.slices(datasets)).spatial_shape == make.shape


def test_a_slice_beside_the_line_of_the_others_is_refused(make):
    datasets = make.series()
    _moved(datasets[2], make.turn[:, 0], 3.0)

    with pytest.raises(UnevenSlices, match=r"lies 3\.00 mm beside an even grid"):
        stack(make.slices(datasets))


def test_two_slices_at_one_position_are_refused_by_stack(make):
    datasets = make.series()
    _moved(datasets[2], make.turn[:, 2], -2.5)

    with pytest.raises(DuplicatePositions, match="two slices lie at"):
        stack(make.slices(datasets))


# --- several volumes in one series --------------------------------------------------------------------------------


def _time_points(make, **per_point):
    """Datasets of len(values) passes over the same positions, each with its value of one attribute."""
    ((keyword, values),) = per_point.items()
    return [
        ds for seed, value in enumerate(values) for ds in make.series(seed=seed, InstanceNumber=1, **{keyword: value})
    ]


@pytest.mark.parametrize(
    ("keyword", "values", "part"),
    [
        ("TemporalPositionIdentifier", [1, 2, 10], "time 3 of 3"),
        ("TriggerTime", [0, 85.5, 171], "trigger time 3 of 3"),
        ("AcquisitionTime", ["090000", "090130.5", "100000"], "time 3 of 3"),
        ("AcquisitionNumber", [1, 2, 10], "acquisition 3 of 3"),
        ("EchoTime", [2.3, 4.6, 11.5], "echo 3 of 3"),
        ("DiffusionBValue", [0.0, 50.0, 1000.0], "b-value 3 of 3"),
        ("ImageType", [["ORIGINAL", "PRIMARY", kind] for kind in "MPR"], "component 3 of 3"),
        ("ImageType", [["ORIGINAL", "PRIMARY", kind] for kind in ("IN", "OUT", "WATER")], "image type 3 of 3"),
    ],
)
def test_volumes_of_one_series_are_told_apart_by_what_differs(make, keyword, values, part):
    datasets = _time_points(make, **{keyword: values})

    groups = group(make.slices(datasets[::2] + datasets[1::2]))

    last = next(one for one in groups if one.part == part)
    seed = sorted(range(3), key=lambda n: values[n])[-1]
    np.testing.assert_array_equal(stack(last.slices).voxels, make.voxels(seed))
    assert [len(one.slices) for one in groups] == [5, 5, 5]


def test_times_that_differ_from_slice_to_slice_tell_volumes_apart_by_their_rank(make):
    datasets = [
        ds
        for seed in range(2)
        for number, ds in enumerate(make.series(seed=seed))
        if not setattr(ds, "AcquisitionTime", f"0900{20 * seed + 3 * number:02d}")
    ]

    groups = group(make.slices(datasets))

    assert [one.part for one in groups] == ["time 1 of 2", "time 2 of 2"]
    np.testing.assert_array_equal(stack(groups[1].slices).voxels, make.voxels(1))


def test_echoes_at_several_times_are_told_apart_by_both(make):
    datasets = [
        ds
        for seed, (time, echo) in enumerate([(1, 5.0), (1, 9.0), (2, 5.0), (2, 9.0)])
        for ds in make.series(seed=seed, InstanceNumber=1, TemporalPositionIdentifier=time, EchoTime=echo)
    ]

    groups = group(make.slices(datasets))

    assert len(groups) == 4
    np.testing.assert_array_equal(stack(groups[2].slices).voxels, make.voxels(2))


def test_an_unfinished_last_time_point_stays_a_shorter_volume(make):
    datasets = _time_points(make, TemporalPositionIdentifier=[1, 2, 3])[:-2]

    assert [len(one.slices) for one in group(make.slices(datasets))] == [5, 5, 3]


def test_whole_passes_over_the_positions_are_told_apart_by_instance_number_at_last(make):
    datasets = [
        ds
        for seed in range(2)
        for number, ds in enumerate(make.series(seed=seed))
        if not setattr(ds, "InstanceNumber", 1 + number + 5 * seed)
    ]

    groups = group(make.slices(datasets))

    assert [one.part for one in groups] == ["pass 1 of 2", "pass 2 of 2"]
    np.testing.assert_array_equal(stack(groups[1].slices).voxels, make.voxels(1))


def test_slices_that_nothing_tells_apart_are_refused_and_named(make):
    datasets = make.series() + make.series(seed=1)

    with pytest.raises(DuplicatePositions, match=r"series 2\.25\.772: 2 slices lie at .* no attribute tells"):
        group(make.slices(datasets))


def test_one_slice_sent_twice_under_another_uid_is_refused(make):
    datasets = make.series() + make.series(InstanceNumber=99)[2:3]

    with pytest.raises(DuplicatePositions):
        group(make.slices(datasets))


def test_localizers_of_several_planes_become_one_volume_each(make):
    datasets = make.series()
    across, down, normal = make.turn.T
    turned = make.series(seed=1, ImageOrientationPatient=[float(x) for x in (*down, *normal)])
    for number, ds in enumerate(turned):
        ds.ImagePositionPatient = [float(x) for x in make.origin_mm + 6.0 * number * across]

    groups = group(make.slices([*turned[:2], *datasets, *turned[2:]]))

    assert [one.part for one in groups] == ["plane 1 of 2", "plane 2 of 2"]
    np.testing.assert_allclose(stack(groups[0].slices).affine[:3, 0], 6 * across, atol=1e-6)
    np.testing.assert_array_equal(stack(groups[1].slices).voxels, make.voxels())


def test_slices_of_two_matrices_are_split(make):
    small = make.image(make.voxels()[0][:3], **{e.keyword: e.value for e in make.series()[0] if e.tag.group == 0x20})
    small.PixelSpacing, small.SliceThickness = [0.75, 1.3], 2.5

    assert [len(one.slices) for one in group(make.slices([*make.series(), small]))] == [5, 1]


def test_stack_refuses_what_group_would_split(make):
    datasets = make.series()
    datasets[1].FrameOfReferenceUID = "2.25.1"

    with pytest.raises(Rejected, match="make no single volume; group them first"):
        stack(make.slices(datasets))


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keyword", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"])
def test_slices_without_a_place_are_refused_by_name(make, keyword):
    with pytest.raises(MissingAttribute, match=f"no usable {keyword}"):
        stack(make.slices(make.series(**{keyword: None})))


def test_an_orientation_that_is_no_right_angle_is_refused(make):
    with pytest.raises(Rejected, match="not two unit vectors at a right angle"):
        stack(make.slices(make.series(ImageOrientationPatient=[1, 0, 0, 0.5, 0.8, 0])))


def test_a_number_that_is_none_is_refused_with_its_text(make):
    raw = make.bytes(make.series()[0]).replace(b"0.75\\1.3", b"0.75\\l.3")

    with pytest.raises(Rejected, match=r"PixelSpacing cannot be read \(its value is 0\.75\\l\.3\)"):
        stack([Slice(*read_with_hash(raw))])


def test_frames_without_functional_groups_are_refused_by_the_name_of_their_class(make):
    ds = make.series()[0]
    ds.NumberOfFrames = 2
    ds.PixelData *= 2

    with pytest.raises(Rejected, match="MR Image Storage holds 2 frames and no functional groups"):
        group(make.slices([ds]))


def test_ct_in_other_units_than_hounsfield_is_refused(make):
    with pytest.raises(UnknownUnits, match=r"Rescale Type \(0028,1054\) Z_EFF"):
        stack(make.slices(make.series("CT", RescaleType="Z_EFF")))


def test_ct_without_rescale_intercept_is_refused(make):
    with pytest.raises(UnknownUnits, match="Rescale Intercept absent"):
        stack(make.slices(make.series("CT", RescaleIntercept=None)))


def test_wrong_pixel_length_is_refused_by_stack(make):
    datasets = make.series()
    datasets[3].PixelData = datasets[3].PixelData[:-2]

    with pytest.raises(UndecodablePixels, match=datasets[3].SOPInstanceUID):
        stack(make.slices(datasets))


# --- folders ------------------------------------------------------------------------------------------------------


def test_one_bad_series_stops_no_other(make, tmp_path):
    make.folder(make.series("CT", SeriesDescription="good"), tmp_path / "a")
    make.folder([ds for n, ds in enumerate(make.series(SeriesInstanceUID="2.25.5")) if n != 2], tmp_path / "b")
    report = make.image(make.voxels()[0], Modality="SR", SOPClassUID="1.2.840.10008.5.1.4.1.1.88.33")
    make.folder([report], tmp_path / "c")
    (tmp_path / "README.txt").write_text("no image\n" * 30)

    readout = volumes([tmp_path])

    assert [(one.modality, one.description, one.part) for one in readout.volumes] == [("CT", "good", "")]
    assert [ds.SOPInstanceUID for ds in readout.volumes[0].datasets] == [
        source.sop_instance_uid for source in readout.volumes[0].volume.sources
    ]
    ((series_uid, sentence),) = readout.refused
    assert series_uid == "2.25.5"
    assert "leave a gap" in sentence
    assert sorted("SR" in sentence or "README.txt" in sentence for sentence in readout.left_aside) == [True, True]


def test_a_file_that_is_there_twice_is_read_once(make, tmp_path):
    datasets = make.series()
    make.folder(datasets, tmp_path / "a")
    make.folder(datasets, tmp_path / "b")

    assert len(read_files([tmp_path])) == 5
    assert len(volumes([tmp_path]).volumes) == 1


def test_one_uid_with_two_contents_is_refused(make, tmp_path):
    datasets = make.series()
    make.folder(datasets, tmp_path / "a")
    datasets[1].PixelData = bytes(len(datasets[1].PixelData))
    make.folder(datasets[1:2], tmp_path / "b")

    with pytest.raises(Rejected, match="is there with two contents"):
        read_files([tmp_path])
    readout = volumes([tmp_path])
    assert readout.volumes == ()
    assert readout.refused == (
        ("2.25.772", f"instance {datasets[1].SOPInstanceUID} is there with two contents; keep the one that is right"),
    )


def test_a_named_file_that_is_no_dicom_stops_read_files(tmp_path):
    (tmp_path / "a.dcm").write_text("text" * 99)

    with pytest.raises(NotDicom, match=r"a\.dcm"):
        read_files([tmp_path / "a.dcm"])


def test_a_path_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(Rejected, match="does not exist"):
        volumes([tmp_path / "nothing"])


def test_captures_and_unknown_modalities_are_left_aside_with_a_sentence(make, tmp_path):
    capture = make.image(make.voxels()[0], SOPClassUID="1.2.840.10008.5.1.4.1.1.7.3")
    slide = make.image(make.voxels()[0], SOPClassUID="1.2.840.10008.5.1.4.1.1.77.1.6", Modality="SM")

    readout = volumes([make.folder([capture, slide], tmp_path / "a")])

    assert any("Secondary Capture" in sentence for sentence in readout.left_aside)
    assert any("SM; CT, MR, PT and MG are read" in sentence for sentence in readout.left_aside)


# --- real series --------------------------------------------------------------------------------------------------

REAL = [
    "mr-t1-t2-pair/STS_001/MR_T1",
    "mr-t1-t2-pair/STS_001/MR_T2",
    "pet-suv-sarcoma/STS_003/CT",
    "pet-suv-sarcoma/STS_003/MR_T1",
    "pet-suv-sarcoma/STS_002/MR_T1",
    "pet-suv-sarcoma/STS_014/PET",
    "pet-fdg-raw/STS_001/FDG_PET",
    "mr-breast-dce/UCSF-BR-06/image_dce_pe1",
]


@pytest.mark.parametrize("folder", REAL)
def test_real_series_lie_where_itk_sees_them_and_hold_its_values(test_data, folder):
    (one,) = volumes([test_data / folder]).volumes
    by_uid = {read(path, stop_before_pixels=True).SOPInstanceUID: path for path in (test_data / folder).glob("*.dcm")}

    voxels, affine = _read_by_itk([str(by_uid[ds.SOPInstanceUID]) for ds in one.datasets])

    np.testing.assert_allclose(one.volume.affine, affine, atol=1e-3)
    if one.modality in ("CT", "MR"):
        np.testing.assert_array_equal(one.volume.voxels, voxels)
    elif one.datasets[0].Units == "GML":
        np.testing.assert_allclose(one.volume.voxels, voxels, rtol=1e-6, atol=1e-6)


def test_itk_puts_the_slices_in_the_same_order_by_itself(test_data):
    folder = test_data / "mr-t1-t2-pair/STS_001/MR_T1"
    (one,) = volumes([folder]).volumes

    voxels, _ = _read_by_itk(list(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))))

    np.testing.assert_array_equal(one.volume.voxels, voxels)


def test_the_real_pet_has_steps_that_round_and_no_gap(test_data):
    (one,) = volumes([test_data / "pet-fdg-raw/STS_001/FDG_PET"]).volumes
    along = [float(ds.ImagePositionPatient[2]) for ds in one.datasets]
    steps = np.diff(along)
    assert steps.max() - steps.min() > 0.09

    assert one.volume.spatial_shape == (267, 128, 128)
    assert one.volume.spacing_mm[0] == pytest.approx(3.27)


def test_the_real_pet_without_one_slice_has_a_gap(test_data):
    slices = read_files([test_data / "pet-fdg-raw/STS_001/FDG_PET"])

    with pytest.raises(GapInSeries, match=r"other steps are 3\.3 mm"):
        stack([item for item in slices if item.dataset.InstanceNumber != 130])


def test_breast_dce_is_three_time_points_in_one_series(test_data):
    readout = volumes([test_data / "mr-breast-dce/UCSF-BR-06/image_dce_3dfgre_orig"])

    assert [one.part for one in readout.volumes] == ["time 1 of 3", "time 2 of 3", "time 3 of 3"]
    assert {one.volume.spatial_shape for one in readout.volumes} == {(60, 256, 256)}
    assert [{ds.ContentTime for ds in one.datasets} for one in readout.volumes] == [{"102551"}, {"103238"}, {"103832"}]
    # Contrast agent arrives between the first and the second.
    assert readout.volumes[1].volume.voxels.mean() > 1.1 * readout.volumes[0].volume.voxels.mean()


def test_ges_four_dimensional_series_is_ten_time_points(test_data):
    """150 images: 15 positions x 10; GE states Number of Temporal Positions and numbers the images, no more."""
    readout = volumes([test_data / "mr-phantom/GE_MR750_epi_4d"])

    assert [one.part for one in readout.volumes] == [f"time {n} of 10" for n in range(1, 11)]
    assert {one.volume.spatial_shape for one in readout.volumes} == {(15, 64, 64)}
    for number, one in enumerate(readout.volumes):
        numbers = [ds.InstanceNumber for ds in one.datasets]
        assert numbers == list(range(1 + 15 * number, 16 + 15 * number))


def test_t1_and_t2_of_one_thigh_share_a_frame_of_reference_and_not_a_grid(test_data):
    one, other = volumes([test_data / "mr-t1-t2-pair"]).volumes

    assert {one.contrast, other.contrast} == {"T1", "T2"}
    assert one.volume.frame_of_reference_uid == other.volume.frame_of_reference_uid
    assert not one.volume.same_grid_as(other.volume)


def test_suv_maxima_of_twenty_patients_are_those_of_the_published_list(test_data, sarcoma_pets):
    published: dict[str, list[float]] = {}
    with (test_data / "pet-suv-sarcoma/slice_labels.csv").open() as listing:
        for row in csv.DictReader(listing):
            published.setdefault(row["patient"], []).append(float(row["suv_max_slice"]))
    assert len(published) == 20
    assert published.keys() == sarcoma_pets.keys()

    for patient, maxima in published.items():
        volume = sarcoma_pets[patient].volume
        np.testing.assert_allclose(volume.voxels.max(axis=(1, 2)), maxima, atol=6e-5)
        assert volume.units == "g/ml{SUVbw}"


# What holds for every series


def _random_series(maker, random: np.random.Generator) -> tuple[np.ndarray, list[Dataset]]:
    """Voxels, and the images of a series of any size, direction, spacing and sign of z, rescaled anew in each slice."""
    maker.turn = Rotation.random(random_state=random).as_matrix()
    maker.origin_mm = random.uniform(-300, 300, 3)
    maker.step_mm, maker.down_mm, maker.across_mm = random.uniform(0.3, 8, 3)
    maker.shape = tuple(int(n) for n in random.integers(2, 9, 3))
    images = maker.series("MR", seed=int(random.integers(1000)))
    slopes = random.uniform(0.01, 20, len(images)).round(6)
    for image, slope in zip(images, slopes, strict=True):
        image.RescaleSlope, image.RescaleIntercept = float(slope), 0
        image.InstanceNumber = int(random.integers(1, 1000))
    stored = np.stack([image.pixel_array for image in images])
    return stored * slopes[:, None, None], images


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_the_geometry_the_order_of_files_changes_nothing_and_every_voxel_keeps_its_place(make, seed):
    random = np.random.default_rng(seed)
    maker = type(make)()
    voxels, images = _random_series(maker, random)
    order = random.permutation(len(images))

    volume = stack(maker.slices([images[n] for n in order]))

    np.testing.assert_allclose(volume.voxels, voxels, rtol=1e-6)
    for number, image in enumerate(images):
        corner = np.array(image.ImagePositionPatient, float)
        down = np.array(image.ImageOrientationPatient[3:], float) * float(image.PixelSpacing[0])
        across = np.array(image.ImageOrientationPatient[:3], float) * float(image.PixelSpacing[1])
        np.testing.assert_allclose(volume.position_mm((number, 1, 1)), corner + down + across, atol=1e-4)
        assert volume.sources[number].sop_instance_uid == image.SOPInstanceUID


def test_diffusion_is_told_apart_by_weight_and_direction_though_clocks_differ_too(make):
    images = []
    for number, (b_value, direction) in enumerate([(0.0, None), (700.0, [1.0, 0, 0]), (700.0, [0, 0.6, 0.8])]):
        images += make.series(
            DiffusionBValue=b_value,
            DiffusionGradientOrientation=direction,
            AcquisitionTime=f"09{number:02d}00",
            seed=number,
        )

    groups = group(make.slices(images))

    assert [one.part for one in groups] == [f"b-value and direction {n} of 3" for n in (1, 2, 3)]
    assert dict(groups[0].split_by) == {"DiffusionBValue": "0", "DiffusionGradientOrientation": "absent"}


def test_a_one_word_image_type_is_one_value(make):
    from dicom_io import magnetic_resonance

    images = [image for kind in ("ORIGINAL", "DERIVED") for image in make.series(ImageType=kind)]

    assert magnetic_resonance.component(images[0]) is None
    assert [one.split_by for one in group(make.slices(images))] == [
        (("ImageType", "DERIVED"),),
        (("ImageType", "ORIGINAL"),),
    ]


def test_of_three_slices_one_missing_is_a_gap(make):
    slices = make.slices([make.series()[index] for index in (0, 1, 3)])

    with pytest.raises(GapInSeries, match=r"leave a gap, other steps are 2\.5 mm"):
        stack(slices)


@pytest.mark.parametrize(
    ("keyword", "value", "sentence"),
    [
        ("PixelSpacing", [0, 0], r"PixelSpacing \(0028,0030\) of instance .* is \[0.0, 0.0\] mm, which is no spacing"),
        ("ImagePositionPatient", [1, float("nan"), 3], "is no place; correct it"),
        ("RescaleSlope", 0, r"RescaleSlope \(0028,1053\) is 0"),
        ("RescaleSlope", [1, 2], "RescaleSlope is .*one number is needed"),
        ("PhotometricInterpretation", "PALETTE COLOR", "PALETTE COLOR is a colour picture"),
        ("HighBit", 14, r"High Bit \(0028,0102\) is 14 for 16 stored bits"),
        ("ImageOrientationPatient", [1, 0, 0, 0.008, 1, 0], "is not two unit vectors at a right angle"),
    ],
)
def test_values_that_would_pass_in_silence_are_refused(make, keyword, value, sentence):
    with pytest.raises(Rejected, match=sentence):
        stack(make.slices(make.series("CT", **{keyword: value})))


def test_whatever_else_is_wrong_with_a_series_is_a_sentence(make, tmp_path):
    images = make.series("MR")
    for image in images:
        image.BitsStored = [12, 12]
    make.folder(images, tmp_path / "bad")
    make.folder(make.series("CT", SeriesInstanceUID="2.25.779"), tmp_path / "good")

    readout = volumes([tmp_path])

    assert [one.modality for one in readout.volumes] == ["CT"]
    ((_, sentence),) = readout.refused
    assert sentence.startswith("series 2.25.772") or "instance" in sentence
