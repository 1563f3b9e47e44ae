"""The input chain and what the closed lists keep out."""

from __future__ import annotations

import numpy as np
import pytest
from toy_images import blob_volume

from dicom_io.errors import Rejected
from models import networks, preprocessing, runner
from models.tensors import to_metatensor


def test_the_z_score_of_the_brain_leaves_air_at_zero():
    volume, _ = blob_volume(5)
    chain = preprocessing.chain([{"_target_": "NormalizeIntensityd", "nonzero": True, "channel_wise": True}])
    out = preprocessing.prepare(chain, to_metatensor(volume)).numpy()
    for before, after in zip(volume.voxels, out, strict=True):
        assert (after[before == 0] == 0).all()
        np.testing.assert_allclose([after[before != 0].mean(), after[before != 0].std()], [0, 1], atol=1e-4)


def test_resizing_keeps_the_number_of_slices_and_tells_the_new_spacing():
    volume, _ = blob_volume(5)
    out = preprocessing.prepare(
        preprocessing.chain([{"_target_": "Resized", "spatial_size": [-1, 20, 58]}]), to_metatensor(volume)
    )
    assert tuple(out.shape) == (2, 5, 20, 58)
    spacing = np.linalg.norm(out.affine.numpy()[:3, :3], axis=0)
    np.testing.assert_allclose(spacing, [3.3, 2.1 * 2, 1.7 / 2], atol=1e-6)


@pytest.mark.parametrize(
    "step",
    [
        {"_target_": "Lambdad", "func": "$print"},
        {"_target_": "monai.transforms.ScaleIntensityd"},
        {"_target_": "ScaleIntensityd", "minv": "@other"},
        {"_target_": "ScaleIntensityd", "keys": "label"},
    ],
)
def test_a_step_that_is_not_plain_and_known_is_refused(step):
    with pytest.raises(ValueError, match=r"preprocessing\[0\]"):
        preprocessing.chain([step])


def test_an_argument_that_the_transform_does_not_know_is_named():
    with pytest.raises(ValueError, match="minimum"):
        preprocessing.chain([{"_target_": "ScaleIntensityd", "minimum": 0}])


def test_networks_and_inferers_come_from_closed_lists():
    with pytest.raises(Rejected, match=r"subprocess\.Popen"):
        networks.build({"_target_": "subprocess.Popen", "args": ["true"]})
    with pytest.raises(Rejected, match="channels"):
        networks.build({"_target_": "UNet", "spatial_dims": 2, "channels": "$__import__('os')"})
    with pytest.raises(ValueError, match=r"os\.system"):
        runner.check_inferer({"_target_": "os.system"})
