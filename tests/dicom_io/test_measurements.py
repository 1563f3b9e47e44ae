"""Volumes, uptake and lesions, against closed forms and scikit-image."""

from __future__ import annotations

import made_results as made
import numpy as np
import pytest
import skimage.measure
from made_results import SHAPE, SPACING_MM

from dicom_io.errors import Rejected
from dicom_io.measurements import Measured, components, measure, voxel_ml
from dicom_io.volume import Volume

VOXEL_ML = float(np.prod(SPACING_MM)) / 1000


def volume(values: np.ndarray, units: str = "g/ml{SUVbw}") -> Volume:
    return Volume(values.astype(np.float32), made.affine(), "2.25.9903", units)


def test_uptake_and_volume_of_a_block_are_those_of_the_formula() -> None:
    values, mask = np.zeros(SHAPE), np.zeros(SHAPE)
    mask[1:3, 2:6, 3:8] = 1  # 2 x 4 x 5 voxels
    values[1, 2:6, 3:8], values[2, 2:6, 3:8] = 3.0, 5.0
    values[2, 5, 7] = 11.0
    values[5, 5, 5] = 99.0  # outside of the mask
    found = measure(volume(values), volume(mask, "1"))
    mean = (20 * 3.0 + 19 * 5.0 + 11.0) / 40
    assert found.volume_ml == pytest.approx(40 * VOXEL_ML)
    assert (found.maximum, found.lesions, found.units) == (11.0, 1, "g/ml{SUVbw}")
    assert found.mean == pytest.approx(mean)
    assert found.tlg_g == pytest.approx(mean * 40 * VOXEL_ML)


def test_a_slanted_stack_has_the_volume_of_its_parallelepipeds() -> None:
    slanted = volume(np.zeros(SHAPE))
    slanted.affine[:3, 0] += 2.0 * slanted.affine[:3, 2]  # Each slice lies two columns further across.
    assert voxel_ml(slanted) == pytest.approx(VOXEL_ML)


def test_each_label_is_measured_by_itself() -> None:
    mask = made.mask(made.sources())
    for number in (1, 2):
        found = measure(volume(mask.voxels), mask, number)
        assert found.volume_ml == pytest.approx((mask.voxels == number).sum() * VOXEL_ML)
        assert found.mean == found.maximum == number


def test_nothing_measures_nothing() -> None:
    found = measure(volume(np.ones(SHAPE)), volume(np.zeros(SHAPE), "1"))
    assert found == Measured(0.0, 0, 0.0, 0.0, 0.0, "g/ml{SUVbw}") and found.tlg_g == 0


def test_the_peak_of_a_constant_is_the_constant_at_the_border_too() -> None:
    mask = np.zeros(SHAPE)
    mask[0, 0, 0] = mask[5, 10, 16] = 1
    assert measure(volume(np.full(SHAPE, 7.0)), volume(mask, "1")).peak == pytest.approx(7.0, rel=1e-12)


def test_the_peak_is_the_mean_over_a_sphere_of_one_millilitre() -> None:
    shape, affine = (31, 33, 35), np.diag([1.0, 1.0, 1.0, 1.0])
    values, mask = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    values[15, 16, 17], mask[15, 16, 17] = 50.0, 1.0
    grid = np.stack(np.meshgrid(*(np.arange(n) - n // 2 for n in shape), indexing="ij"), axis=-1)
    inside = int((np.linalg.norm(grid, axis=-1) <= (3000 / (4 * np.pi)) ** (1 / 3)).sum())
    found = measure(Volume(values, affine, "2.25.1", "g/ml{SUVbw}"), Volume(mask, affine, "2.25.1", "1"))
    assert found.peak == pytest.approx(50.0 / inside)
    assert inside == pytest.approx(1000, rel=0.1)


def test_lesions_are_counted_as_scikit_image_counts_them() -> None:
    voxels = (np.random.default_rng(4).random((9, 20, 31)) > 0.93).astype(np.float32)
    mask = Volume(voxels, made.affine(), "2.25.9903", "1")
    parts = components(mask)
    expected = skimage.measure.label(voxels, connectivity=3)
    assert parts.voxels.max() == expected.max() == measure(mask, mask).lesions > 5
    pairs = {(int(ours), int(theirs)) for ours, theirs in zip(parts.voxels.flat, expected.flat, strict=True)}
    assert len(pairs) == expected.max() + 1
    sizes = np.bincount(parts.voxels.astype(int).ravel())[1:]
    assert (np.diff(sizes) <= 0).all()


def test_voxels_that_touch_by_a_corner_are_one_lesion_and_labels_do_not_join() -> None:
    voxels = np.zeros(SHAPE)
    voxels[1, 2, 3] = voxels[2, 3, 4] = 1
    voxels[3, 4, 5] = 2
    mask = volume(voxels, "1")
    assert components(mask).voxels.max() == 1
    assert components(mask, 1).voxels.sum() == 2
    assert measure(mask, mask, 2).lesions == 1


def test_other_grids_are_refused() -> None:
    with pytest.raises(Rejected, match="do not share one grid"):
        measure(volume(np.zeros(SHAPE)), Volume(np.zeros(SHAPE, np.float32), made.affine(), "2.25.1", "1"))
