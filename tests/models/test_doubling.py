"""One transposed convolution is the two layers that it stands for, with their weights."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from models.networks.doubling import doubling

SIZES = {2: (5, 7), 3: (3, 4, 6)}


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_doubling_is_repeating_pixels_and_then_a_convolution(dims, bias):
    torch.manual_seed(2)
    layer = doubling(dims, 6, 4, bias=bias).double()
    maps = torch.randn(3, 6, *SIZES[dims], dtype=torch.float64, requires_grad=True)
    plain = F.conv2d if dims == 2 else F.conv3d
    written_out = plain(F.interpolate(maps, scale_factor=2, mode="nearest"), layer.weight, layer.bias, padding=1)
    made = layer(maps)
    torch.testing.assert_close(made, written_out)

    slopes = [torch.autograd.grad(each.square().sum(), [maps, *layer.parameters()]) for each in (made, written_out)]
    torch.testing.assert_close(*slopes)


@pytest.mark.parametrize("dims", [2, 3])
def test_weights_begin_and_are_named_as_those_of_a_convolution(dims):
    torch.manual_seed(4)
    layer = doubling(dims, 6, 4)
    torch.manual_seed(4)
    plain = (torch.nn.Conv2d if dims == 2 else torch.nn.Conv3d)(6, 4, 3, padding=1)
    assert {name: weight.tolist() for name, weight in layer.state_dict().items()} == {
        name: weight.tolist() for name, weight in plain.state_dict().items()
    }
