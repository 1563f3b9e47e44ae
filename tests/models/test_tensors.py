"""The one way to a tensor."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_images import blob_volume, projection

from dicom_io import cohort as cohorts
from dicom_io.cohort import Cohort
from dicom_io.errors import Rejected
from dicom_io.volume import Projection
from models.tensors import from_metatensor, to_metatensor


def test_a_tensor_is_channel_first_with_axes_slice_row_column():
    volume, mask = blob_volume(1)
    assert tuple(to_metatensor(volume).shape) == volume.voxels.shape
    assert tuple(to_metatensor(mask).shape) == (1, *mask.voxels.shape)
    np.testing.assert_array_equal(to_metatensor(volume).numpy(), volume.voxels)


def test_a_projection_in_colour_from_a_cohort_is_a_tensor_of_three_channels(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 9, 5)).astype(np.float32)
    tile = Projection(pixels, "1", spacing_mm=(0.002, 0.003))
    item = cohorts.add_projection(tmp_path, "t", tile, "p", channel="colour")
    made = Cohort(tmp_path, "made", "generation", (), cohorts.colour_channels("SM"), {"training": (item,)})

    tensor = to_metatensor(cohorts.load_image(made, item))

    np.testing.assert_array_equal(tensor.numpy(), pixels)
    assert len(made.channels) == len(tensor)
    np.testing.assert_allclose(np.diag(tensor.affine), [0.002, 0.003, 1, 1])


def test_the_affine_of_a_tensor_is_ras_where_the_volume_is_lps():
    volume, _ = blob_volume(1)
    left, back, up = volume.position_mm((3, 31, 7))
    ras = to_metatensor(volume).affine.numpy() @ [3, 31, 7, 1]
    np.testing.assert_allclose(ras[:3], [-left, -back, up], atol=1e-9)


def test_there_and_back_restores_grid_sources_and_frame_of_reference():
    volume, _ = blob_volume(2)
    again = from_metatensor(to_metatensor(volume), volume)
    np.testing.assert_array_equal(again.voxels, volume.voxels)
    np.testing.assert_array_equal(again.affine, volume.affine)
    assert (again.sources, again.frame_of_reference_uid, again.units) == (
        volume.sources,
        volume.frame_of_reference_uid,
        volume.units,
    )


def test_one_channel_comes_back_without_a_channel_axis_in_the_units_that_were_given():
    volume, _ = blob_volume(2, units="g/ml{SUVbw}")
    again = from_metatensor(to_metatensor(volume)[:1], volume, units="1")
    assert again.voxels.shape == volume.spatial_shape
    assert again.units == "1"


def test_a_tensor_on_another_grid_does_not_come_back():
    volume, _ = blob_volume(2)
    with pytest.raises(Rejected, match="undo"):
        from_metatensor(torch.zeros(1, 5, 29, 40), volume)
    moved = replace(volume, affine=volume.affine @ np.diag([1, 1, -1, 1.0]))
    with pytest.raises(Rejected, match="away from the volume"):
        from_metatensor(to_metatensor(moved), volume)


def test_changing_the_tensor_leaves_the_volume_alone():
    volume, _ = blob_volume(3)
    before = volume.voxels.copy()
    to_metatensor(volume).mul_(0)
    np.testing.assert_array_equal(volume.voxels, before)


def test_a_projection_has_rows_and_columns_and_its_pixel_spacing():
    picture = projection(4, positive=True)
    tensor = to_metatensor(picture)
    assert tuple(tensor.shape) == (1, 48, 36)
    np.testing.assert_array_equal(tensor.affine.numpy(), np.diag([0.5, 0.4, 1, 1]))
