"""How deep networks are and how large their windows: nnU-Net's rules, worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from monai.networks.nets import DynUNet as MonaiDynUNet

from dicom_io.errors import Rejected
from models import networks, recipe
from models.networks import topology, unet
from models.segmentation_recipe import DynUNet, UNet


@pytest.mark.parametrize(
    ("spacing_mm", "size", "strides", "kernels"),
    [
        # Short-axis heart MR: slices of 5 mm are three pixels apart, then one and a half.
        (
            (5.0, 1.56, 1.56),
            (20, 256, 224),
            ["122", "222", "222", "122", "122"],
            ["133", "333", "333", "333", "333", "333"],
        ),
        # Prostate MR: six pixels, then three, then one and a half.
        (
            (3.6, 0.62, 0.62),
            (20, 320, 256),
            ["122", "122", "222", "222", "122", "122"],
            ["133", "133", "333", "333", "333", "333", "333"],
        ),
        # As good as isotropic, and halved until half of it would be less than 4.
        ((1.0, 0.77, 0.77), (128, 128, 128), ["222"] * 5, ["333"] * 6),
        # Slices closer than pixels: they alone are halved first.
        ((1.0, 2.5, 2.5), (32, 16, 16), ["211", "222", "222"], ["311", "333", "333", "333"]),
        # The last axis that could be halved stops at 12.
        ((1.0, 1.0), (8, 11), ["22"], ["33", "33"]),
        ((1.0, 1.0), (7, 24), ["12", "12"], ["33", "33", "33"]),
        # An axis that can be halved no more does not hold the others back.
        ((1.0, 1.0, 1.0), (4, 64, 64), ["122"] * 4, ["333"] * 5),
    ],
)
def test_axes_are_halved_while_they_are_long_and_their_steps_alike(spacing_mm, size, strides, kernels):
    found = topology.levels(spacing_mm, size)
    assert ["".join(map(str, step)) for step in found[0][1:]] == strides
    assert ["".join(map(str, kernel)) for kernel in found[1]] == kernels
    assert set(found[0][0]) == {1}


def test_a_u_net_halves_slices_where_they_lie_less_than_two_pixels_apart():
    assert topology.slices_halved((5.0, 1.5, 1.5), 16, 4) == ((1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2))
    assert topology.slices_halved((3.3, 5.0, 5.0), 16, 2) == ((2, 2, 2), (2, 2, 2))
    assert topology.slices_halved((3.3, 5.0, 5.0), 6, 2) == ((1, 2, 2), (1, 2, 2))


def test_values_of_feature_maps_are_those_that_a_network_of_these_levels_makes():
    """Counted in MONAI's network: what every convolution and every transposed one gives out."""
    strides, channels, size = [[1, 1, 1], [1, 2, 2], [2, 2, 2]], [5, 7, 11], [4, 8, 12]
    definition = unet.definition(
        DynUNet(kind="dynunet", strides=strides, kernels=[[3] * 3] * 3, channels=channels), 2, 3, 3
    )
    network, counted = networks.build(definition), []
    assert isinstance(network, MonaiDynUNet)
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv3d | torch.nn.ConvTranspose3d):
            layer.register_forward_hook(lambda _, given, output: counted.append(output.numel()))
    with torch.inference_mode():
        network.eval()(torch.zeros(1, 2, *size))
    image = 2 * math.prod(size)
    assert topology.feature_values(size, [tuple(step) for step in strides], channels, 2 + 3) == sum(counted) + image


def test_a_planned_window_is_the_median_image_made_smaller_until_its_feature_maps_fit():
    spacing, shape = (3.0, 1.0, 1.0), (40, 180, 150)

    def values(size):
        strides = topology.levels(spacing, size)[0]
        return topology.feature_values(size, strides, [8 * 2**level for level in range(len(strides))], 3)

    whole = topology.window(spacing, shape, 10**12, values)
    assert whole[1] == whole[2] >= 180 and whole[0] >= 40
    small = topology.window(spacing, shape, 4_000_000, values)
    assert values(small) <= 4_000_000 < values(whole)
    # Of each axis about the same share is left, and each is halved as often as it can be.
    assert 0.7 < (small[0] / whole[0]) / (small[1] / whole[1]) < 1.4
    steps = topology.factors(topology.levels(spacing, small)[0])
    assert all(length % step == 0 for length, step in zip(small, steps, strict=True))
    with pytest.raises(ValueError, match="too few for any window"):
        topology.window(spacing, shape, 10, values)


def plain(name: str, **changes: object) -> dict[str, object]:
    """A shipped recipe with keys of its parts replaced."""
    document = recipe.load(name).model_dump(mode="json")
    for key, value in changes.items():
        document[key] = document[key] | value if isinstance(document[key], dict) else value
    return document


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("segmenter", {"windows": {"window_slices": 8}}, "window_slices is of volumes"),
        ("segmenter", {"augmentation": {"flip_slices": True}}, "flip_slices is of volumes"),
        ("segmenter", {"network": {"strides": [[2, 2]] * 3}}, "slices are halved by all levels"),
        ("segmenter", {"windows": {"window_px": None}}, "only a dynunet's are planned; give window_px"),
        ("segmenter", {"spatial_dims": 3}, "give window_px and window_slices"),
        ("wmh-unet", {"spatial_dims": 3, "windows": {"window_slices": 8}}, "wmh-unet is of slices"),
        ("segmenter-3d", {"windows": {"window_px": 30}}, "window_px: 30 is no multiple of 4"),
        ("segmenter-3d", {"network": {"strides": [[1, 2, 2]]}}, "1 for 3 levels; give one less"),
        ("segmenter-3d", {"network": {"strides": [[2, 2]] * 2}}, r"\[2, 2\] is not of 3 axes"),
        ("segmenter-3d", {"network": {"strides": [[4, 2, 2]] * 2}}, "window_slices: 8 is no multiple of 16"),
        ("segmenter-3d", {"augmentation": {"stain": 0.1}}, "stain is of slices in colour"),
        ("segmenter-3d", {"optimiser": {"momentum": 0.9}}, "momentum is of sgd"),
        ("dynunet-segmenter", {"network": {"kind": "nnunet"}}, "none of unet, wmh-unet, dynunet"),
        ("dynunet-segmenter", {"network": {"feature_values": None}}, "or network.feature_values"),
        ("dynunet-segmenter", {"network": {"channels": [8, 16, 32]}}, "give one of the two"),
        ("dynunet-segmenter", {"network": {"strides": [[1, 1]] * 3}}, "give both or neither"),
        ("dynunet-segmenter", {"windows": {"window_px": 32}}, "the windows are given; set window_px to null"),
        ("dynunet-segmenter-3d", {"windows": {"window_slices": 8}}, "are planned together"),
        (
            "dynunet-segmenter-3d",
            {"network": {"strides": [[1] * 3] * 3, "kernels": [[3] * 3] * 3}},
            "are of windows of one size",
        ),
    ],
)
def test_an_error_of_a_segmenter_s_recipe_names_the_key(name, changes, said):
    with pytest.raises(Rejected, match=said):
        recipe.parse(plain(name, **changes), "mine")


@pytest.mark.parametrize(
    ("strides", "kernels", "said"),
    [
        ([[1, 1], [2, 2]], [[3, 3]] * 2, "for three levels or more"),
        ([[2, 2]] * 3, [[3, 3]] * 3, r"as fine as the image; \[2, 2\] is not"),
        ([[1, 1], [2, 2], [2, 2]], [[3, 3], [3, 3], [2, 2]], "an even one shifts the mask"),
    ],
)
def test_levels_that_cannot_be_are_refused(strides, kernels, said):
    with pytest.raises(ValueError, match=said):
        DynUNet(kind="dynunet", strides=strides, kernels=kernels)


def test_features_double_up_to_the_most_that_nnu_net_has():
    assert DynUNet(kind="dynunet").features(6, 3) == (32, 64, 128, 256, 320, 320)
    assert DynUNet(kind="dynunet").features(6, 2) == (32, 64, 128, 256, 512, 512)


@pytest.mark.parametrize("norm", ["batch", "instance", "group"])
@pytest.mark.parametrize("residual_units", [0, 2])
def test_a_u_net_of_unequal_strides_gives_its_input_s_grid_back(norm, residual_units):
    settings = UNet(channels=(4, 8, 8), norm=norm, residual_units=residual_units, strides=((1, 2, 2), (2, 2, 2)))
    network = networks.build(unet.definition(settings, 2, 3, 3)).eval()
    assert network(torch.zeros(1, 2, 6, 8, 12)).shape == (1, 3, 6, 8, 12)


def test_the_network_that_trains_answers_at_lower_levels_and_the_one_that_serves_does_not():
    settings = DynUNet(kind="dynunet", strides=[[1, 1]] + [[2, 2]] * 4, kernels=[[3, 3]] * 5, channels=[4, 4, 8, 8, 8])
    definition = unet.definition(settings, 1, 2)
    trains, serves = networks.build(unet.supervised(definition, settings)), networks.build(definition)
    images = torch.randn(2, 1, 32, 48)
    # All but the two lowest of five levels.
    assert trains.train()(images).shape == (2, 3, 2, 32, 48)
    serves.load_state_dict(unet.served(trains.state_dict()))
    assert torch.equal(serves.eval()(images), trains.eval()(images))
    alone = settings.model_copy(update={"deep_supervision": False})
    assert unet.supervised(definition, alone) == definition
