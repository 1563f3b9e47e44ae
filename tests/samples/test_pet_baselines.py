"""The rules that find a tumour without learning, on crops small enough to count by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dicom_io.volume import Volume
from samples.experiments import pet_baselines as baselines


def crop(
    shape: tuple[int, int, int], spacing_mm: tuple[float, float, float], values: np.ndarray | None = None
) -> Volume:
    """Oblique to every axis, so that no rule may take a row of the affine for a step."""
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("zyx", (25, -40, 15), degrees=True).as_matrix() * spacing_mm
    affine[:3, 3] = [-31.5, 12.25, 47.0]
    voxels = np.zeros(shape) if values is None else values
    return Volume(voxels.astype(np.float32), affine, "2.25.7", "g/ml{SUVbw}")


def test_the_fixed_threshold_takes_2_5_itself():
    values = np.array([2.4999, 2.5, 2.5001, 40.0, 0, -1]).reshape(3, 2, 1)
    assert baselines.above_fixed_suv(crop((3, 2, 1), (3, 2, 1), values)).ravel().tolist() == [0, 1, 1, 1, 0, 0]


def test_the_relative_threshold_is_41_percent_of_the_hottest_voxel_of_the_whole_crop():
    values = np.zeros((2, 3, 2))
    values[1, 2, 0], values[0, 0, 1], values[0, 1, 1] = 20.0, 8.25, 8.15  # 41 % are 8.2
    found = baselines.above_share_of_maximum(crop((2, 3, 2), (3, 2, 1), values))
    assert np.argwhere(found).tolist() == [[0, 0, 1], [1, 2, 0]]


def test_the_margin_is_50_mm_along_each_axis_by_its_own_step():
    # 50 mm are 12.5, 10 and 25 steps: the first voxel inside is 13, 10 and 25.
    found = baselines.inside_margin(crop((31, 24, 55), (4.0, 5.0, 2.0)))
    assert found.shape == (31, 24, 55)
    expected = np.zeros_like(found)
    expected[13:18, 10:14, 25:30] = True
    np.testing.assert_array_equal(found, expected)


def test_the_box_of_a_crop_that_is_a_lesion_plus_its_margin_is_the_lesion():
    lesion = (6, 9, 4)
    margins = (13, 10, 25)  # 52, 50 and 50 mm
    shape = tuple(size + 2 * margin for size, margin in zip(lesion, margins, strict=True))
    found = np.argwhere(baselines.inside_margin(crop(shape, (4.0, 5.0, 2.0))))
    assert found.min(0).tolist() == [13, 10, 25]
    assert (found.max(0) - found.min(0) + 1).tolist() == list(lesion)


def test_the_ellipsoid_touches_the_box_and_has_the_volume_of_an_ellipsoid():
    # A box of 41 x 21 x 31 voxels.
    suv = crop((41 + 40, 21 + 40, 31 + 40), (2.5, 2.5, 2.5))
    box, found = baselines.inside_margin(suv), baselines.inscribed_ellipsoid(suv)
    assert box.sum() == 41 * 21 * 31
    assert not (found & ~box).any()
    reach = np.argwhere(found)
    assert (reach.max(0) - reach.min(0) + 1).tolist() == [41, 21, 31]
    assert found.sum() == pytest.approx(np.pi / 6 * 41 * 21 * 31, rel=0.01)
    np.testing.assert_array_equal(found, found[::-1, ::-1, ::-1])


def test_of_a_box_of_one_voxel_the_ellipsoid_is_that_voxel():
    found = baselines.inscribed_ellipsoid(crop((27, 21, 51), (4.0, 5.0, 2.0)))
    assert np.argwhere(found).tolist() == [[13, 10, 25]]


def test_geometry_looks_at_no_voxel():
    empty, full = (crop((30, 23, 52), (4.0, 5.0, 2.0), np.full((30, 23, 52), value)) for value in (0.0, 9.0))
    for rule in (baselines.inside_margin, baselines.inscribed_ellipsoid, baselines.slice_distance_mm):
        np.testing.assert_array_equal(rule(empty), rule(full))


def test_a_crop_smaller_than_its_margins_holds_no_box_and_no_ellipsoid():
    small = crop((10, 23, 52), (4.0, 5.0, 2.0))
    assert not baselines.inside_margin(small).any()
    assert not baselines.inscribed_ellipsoid(small).any()
    assert baselines.inscribed_ellipsoid(small).shape == (10, 23, 52)


@pytest.mark.parametrize(
    ("count", "expected"), [(5, [0, 3.5, 7, 3.5, 0]), (4, [0, 3.5, 3.5, 0]), (2, [0, 0]), (1, [0])]
)
def test_the_distance_of_a_slice_is_that_from_the_nearer_end(count, expected):
    suv = crop((count, 2, 3), (3.5, 9.0, 0.5))
    np.testing.assert_allclose(baselines.slice_distance_mm(suv), expected)
    np.testing.assert_allclose(baselines.distance_from_end_mm(count, 3.5), expected)


def test_the_hottest_voxel_scores_its_slice():
    values = np.zeros((3, 2, 4))
    values[0, 1, 3], values[1, 0, 0], values[2] = 4.5, 7.25, -1
    assert baselines.slice_maximum(crop((3, 2, 4), (3, 2, 1), values)).tolist() == [4.5, 7.25, -1]
