"""Values stay where they are in the patient, whatever grid they are looked at on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from dicom_io import resampling
from dicom_io.errors import Rejected
from dicom_io.series import volumes
from dicom_io.volume import Source, Volume


def oblique(shape=(9, 14, 11), spacing=(3.0, 0.9, 1.4), euler=(25, -40, 15), origin=(-31.5, 12.25, 47)) -> Volume:
    """A volume whose values are a linear function of the place, which linear interpolation gives back exactly."""
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("zyx", euler, degrees=True).as_matrix() * np.array(spacing)
    affine[:3, 3] = origin
    return field(affine, shape)


def field(affine: np.ndarray, shape: tuple[int, int, int]) -> Volume:
    index = np.indices(shape).reshape(3, -1)
    places = affine[:3, :3] @ index + affine[:3, 3:]
    values = (np.array([0.5, -0.25, 2.0]) @ places + 7).reshape(shape)
    return Volume(
        values.astype(np.float32), affine, "2.25.1", "1", tuple(Source("1", f"2.{n}", "") for n in range(shape[0]))
    )


def inside(volume: Volume, grid: Volume) -> np.ndarray:
    """Voxels of `grid` within the outermost centres of `volume`."""
    index = np.indices(grid.spatial_shape).reshape(3, -1)
    lookup = np.linalg.solve(volume.affine, grid.affine)
    at = lookup[:3, :3] @ index + lookup[:3, 3:]
    limits = np.array(volume.spatial_shape)[:, None] - 1
    return ((at >= 0) & (at <= limits)).all(axis=0).reshape(grid.spatial_shape)


def test_a_field_is_the_same_on_another_oblique_grid():
    volume = oblique()
    grid = oblique((6, 8, 10), (2.0, 1.7, 0.8), (20, -30, 5), (-29, 14, 49))

    moved = resampling.onto(volume, grid, outside=-99)

    there = inside(volume, grid)
    assert there.sum() > 100 and (~there).sum() > 100
    np.testing.assert_allclose(moved.voxels[there], grid.voxels[there], atol=2e-4)
    assert (moved.voxels == -99).any()
    assert moved.sources == () and moved.units == "1"
    np.testing.assert_array_equal(moved.affine, grid.affine)


def test_onto_its_own_grid_a_volume_is_itself():
    volume = oblique()
    for way in ("linear", "nearest"):
        np.testing.assert_array_equal(resampling.onto(volume, volume, way).voxels, volume.voxels)


def test_labels_are_never_mixed_by_nearest():
    volume = oblique()
    labels = volume.with_voxels(np.random.default_rng(0).choice([0, 3, 7], volume.spatial_shape).astype(np.float32))
    moved = resampling.to_spacing(labels, (1.1, 2.3, 0.7), "nearest")

    assert set(np.unique(moved.voxels)) == {0, 3, 7}


def test_channels_are_moved_one_by_one():
    volume = oblique()
    two = replace(volume, voxels=np.stack([volume.voxels, -volume.voxels]))
    moved = resampling.to_spacing(two, (1.5, 1.5, 1.5))

    np.testing.assert_allclose(moved.voxels[0], -moved.voxels[1])
    assert moved.voxels.shape[1:] == resampling.to_spacing(volume, (1.5, 1.5, 1.5)).voxels.shape


def test_another_spacing_keeps_the_field_and_the_first_voxel():
    volume = oblique()
    moved = resampling.to_spacing(volume, (1.5, 1.8, 0.5))

    assert moved.spacing_mm == pytest.approx((1.5, 1.8, 0.5))
    assert moved.spatial_shape == (17, 7, 29)
    np.testing.assert_allclose(moved.position_mm((0, 0, 0)), volume.position_mm((0, 0, 0)))
    np.testing.assert_allclose(moved.voxels, field(moved.affine, moved.spatial_shape).voxels, atol=2e-4)


def test_other_frames_of_reference_are_refused():
    volume = oblique()

    with pytest.raises(Rejected, match=r"frame of reference 2\.25\.1, the grid in 2\.25\.2; register them first"):
        resampling.onto(volume, replace(volume, frame_of_reference_uid="2.25.2"))


def test_a_tilted_gantry_comes_upright_and_nothing_is_cut_off():
    """Slices that are shifted down as they go: 20 degrees of tilt."""
    affine = np.diag([3.0, 0.9, 1.4, 1.0])[:, [2, 1, 0, 3]]
    affine[1, 0] = 3 * np.tan(np.radians(20))
    tilted = field(affine, (9, 14, 11))
    assert resampling.is_sheared(tilted) and not resampling.is_sheared(oblique())

    straight = resampling.upright(tilted, outside=-99)

    assert not resampling.is_sheared(straight)
    assert straight.spatial_shape == (9, 14 + 10, 11)
    there = inside(tilted, straight)
    assert there.sum() >= 9 * 13 * 11
    np.testing.assert_allclose(
        straight.voxels[there], field(straight.affine, straight.spatial_shape).voxels[there], atol=2e-4
    )
    assert resampling.upright(straight) is straight


# Registration


def blobs(seed: int = 0) -> np.ndarray:
    return gaussian_filter(np.random.default_rng(seed).normal(size=(24, 40, 36)), 3).astype(np.float32) * 100


def moved_head(angle: float, shift_mm: tuple[float, float, float]) -> tuple[Volume, Volume]:
    """One picture at two places, in two frames of reference; the second one's contrast is turned round."""
    affine = np.diag([2.5, 1.0, 1.2, 1.0])[:, [2, 1, 0, 3]]
    affine[:3, 3] = -20, -18, -28
    fixed = Volume(blobs(), affine, "2.25.1", "1")
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("z", angle, degrees=True).as_matrix()
    turn[:3, 3] = shift_mm
    return fixed, Volume(5 - fixed.voxels, turn @ affine, "2.25.2", "1")


def test_a_turned_and_shifted_scan_is_brought_back_within_half_a_voxel():
    fixed, moving = moved_head(4, (3, -2, 4))

    found = resampling.registered(moving, fixed)

    assert found.similarity > found.similarity_before
    corners = np.array([[x, y, z, 1] for x in (-15, 15) for y in (-15, 15) for z in (-20, 20)], float).T
    fixed_to_moving = moving.affine @ np.linalg.inv(fixed.affine)
    off = (found.transform @ corners - fixed_to_moving @ corners)[:3]
    assert np.linalg.norm(off, axis=0).max() < 0.5
    middle = (slice(6, -6), slice(8, -8), slice(8, -8))
    assert np.corrcoef(found.volume.voxels[middle].ravel(), fixed.voxels[middle].ravel())[0, 1] < -0.99
    assert found.volume.frame_of_reference_uid == "2.25.1"


def test_registration_gives_the_same_result_again():
    fixed, moving = moved_head(3, (2, 1, -3))

    one, again = resampling.registered(moving, fixed), resampling.registered(moving, fixed)

    np.testing.assert_array_equal(one.transform, again.transform)


def test_what_cannot_be_registered_is_refused():
    fixed, moving = moved_head(3, (2, 1, -3))

    with pytest.raises(Rejected, match="the moving volume has one value everywhere"):
        resampling.registered(moving.with_voxels(np.zeros(moving.spatial_shape, np.float32)), fixed)
    with pytest.raises(Rejected, match=r"the fixed volume has \(2, 40, 36\) voxels, too few to be turned"):
        resampling.registered(moving, fixed.crop((0, 0, 0), (2, 40, 36)))


def test_t1_and_t2_of_one_thigh_fit_on_one_grid(test_data):
    """Same frame of reference, other matrix: bone marrow and muscle lie where they do in the other."""
    found = {one.contrast: one.volume for one in volumes([test_data / "mr-t1-t2-pair"]).volumes}
    t1, t2 = found["T1"], found["T2"]
    assert t1.spatial_shape != t2.spatial_shape

    moved = resampling.onto(t2, t1)

    def shared_nats(one: np.ndarray, other: np.ndarray) -> float:
        counts, _, _ = np.histogram2d(one.ravel(), other.ravel(), 40)
        both = counts / counts.sum()
        alone = both.sum(axis=1, keepdims=True) * both.sum(axis=0, keepdims=True)
        return float((both[both > 0] * np.log(both[both > 0] / alone[both > 0])).sum())

    there = (slice(4, 14), slice(20, 470), slice(30, 480))
    best = shared_nats(t1.voxels[there], moved.voxels[there])
    for shift in ((4, 0), (-4, 0), (0, 4), (0, -4)):
        assert shared_nats(t1.voxels[there], np.roll(moved.voxels, shift, axis=(1, 2))[there]) < 0.97 * best


def test_the_same_comes_out_as_of_itk_in_patient_coordinates():
    """An oracle that is told origin, spacing and direction, and no index transform."""
    volume = oblique().with_voxels(np.random.default_rng(2).normal(size=(9, 14, 11)).astype(np.float32))
    grid = replace(oblique((6, 8, 10), (2.0, 1.7, 0.8), (10, 5, -30), (-28, 20, 52)), sources=())
    reference = SimpleITK.Resample(
        resampling._image(volume), resampling._image(grid), SimpleITK.Transform(), SimpleITK.sitkLinear, -5.0
    )

    found = resampling.onto(volume, grid, outside=-5.0).voxels

    np.testing.assert_allclose(found, SimpleITK.GetArrayFromImage(reference), atol=1e-4)


def test_coverage_is_the_share_of_the_grid_that_the_volume_reaches():
    volume = oblique()
    half = replace(volume.crop((0, 0, 0), (9, 7, 11)), sources=())

    assert resampling.coverage(half, volume) == 0.5
    assert resampling.coverage(volume, half) == 1
    assert resampling.coverage(volume, replace(half, frame_of_reference_uid="2.25.2")) == 0
