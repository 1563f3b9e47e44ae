"""What numbers are made of: rescale, real world values, Philips' scale slope."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from made_frames import item
from pydicom.dataset import Dataset

from dicom_io import scaling
from dicom_io.errors import UnknownUnits
from dicom_io.series import stack, volumes


def philips(make, scale_slope: float | bytes = 0.0125) -> list[Dataset]:
    images = make.series("MR", RescaleSlope=2.5, RescaleIntercept=10)
    for image in images:
        block = image.private_block(0x2005, "Philips MR Imaging DD 001", create=True)
        block.add_new(0x0E, "UN" if isinstance(scale_slope, bytes) else "FL", scale_slope)
    return images


@pytest.mark.parametrize("scale_slope", [0.0125, struct.pack("<f", 0.0125)])
def test_philips_floating_point_values_are_displayed_values_over_both_slopes(make, scale_slope):
    images = philips(make, scale_slope)

    displayed = stack(make.slices(images)).voxels
    floating = stack(make.slices(images), scaled_by="philips").voxels

    np.testing.assert_array_equal(displayed, make.voxels() * np.float32(2.5) + 10)
    np.testing.assert_allclose(floating, displayed / (2.5 * np.float32(0.0125)), rtol=1e-6)


def test_real_world_values_come_with_their_unit(make):
    units = item(CodeValue="um2/s", CodingSchemeDesignator="UCUM", CodeMeaning="um2/s")
    mapping = item(RealWorldValueSlope=0.25, RealWorldValueIntercept=-3.0, MeasurementUnitsCodeSequence=[units])
    volume = stack(make.slices(make.series("MR", RealWorldValueMappingSequence=[mapping])), scaled_by="real-world")

    assert volume.units == "um2/s"
    np.testing.assert_array_equal(volume.voxels, (make.voxels() * 0.25 - 3).astype(np.float32))


def test_what_was_used_and_what_else_is_there_is_said(make, tmp_path):
    (one,) = volumes([make.folder(philips(make), tmp_path)]).volumes

    assert one.scaling == (
        "Rescale Slope (0028,1053) and Intercept (0028,1052); Philips' Scale Slope (2005,xx0E) is present and not used"
    )


def test_a_scaling_that_is_not_there_is_refused_with_those_that_are(make):
    with pytest.raises(UnknownUnits, match=r"not state Philips' Scale Slope .* states Rescale Slope .* ask for that"):
        stack(make.slices(make.series("CT")), scaled_by="philips")
    with pytest.raises(UnknownUnits, match="it states no scaling"):
        scaling.linear(make.series("MR")[0], "real-world")


def test_a_mapping_that_is_a_table_is_refused(make):
    mapping = item(RealWorldValueLUTData=[1.0, 2.0], RealWorldValueFirstValueMapped=0)
    with pytest.raises(UnknownUnits, match="is a table and no line"):
        stack(make.slices(make.series("MR", RealWorldValueMappingSequence=[mapping])), scaled_by="real-world")
