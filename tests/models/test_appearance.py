"""Random changes of grey levels and colours, against closed forms and scikit-image, and presets of augmentation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from skimage import color

from dicom_io.errors import Rejected
from models import recipe
from models.augmentation_recipe import PRESETS, Augmentation, require_fits
from models.training.appearance import bias_fields, stained, truncated
from models.training.augmentation import augment, augment_pictures


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tissue(count: int = 5) -> torch.Tensor:
    """Colours that three dyes can make, (count, 3, 9, 14) between 0 and 1."""
    amounts = np.random.default_rng(3).uniform(0.02, 0.09, (count, 9, 14, 3))
    return torch.from_numpy(color.hed2rgb(amounts)).permute(0, 3, 1, 2).float()


def amounts_of(images: torch.Tensor) -> np.ndarray:
    """By scikit-image: (count, rows, columns, dyes)."""
    return color.rgb2hed(images.permute(0, 2, 3, 1).double().numpy())


def test_a_stain_changes_the_amount_of_each_dye_by_one_factor_and_one_shift_as_scikit_image_counts_them():
    before = tissue()
    after = stained(before, 0.1, (0.0, 1.0), draw())
    old, new = amounts_of(before), amounts_of(after)
    factors = []
    for image in range(len(before)):
        for dye in range(3):
            factor, shift = np.polyfit(old[image, ..., dye].ravel(), new[image, ..., dye].ravel(), 1)
            np.testing.assert_allclose(old[image, ..., dye] * factor + shift, new[image, ..., dye], atol=2e-4)
            # scikit-image counts in natural optical densities over ln 1e6.
            assert 0.9 <= factor <= 1.1 and abs(shift) <= 0.1 / np.log(1e6) + 1e-4
            factors.append(factor)
    assert np.std(factors) > 0.03


def test_colours_between_minus_one_and_one_are_stained_as_those_between_zero_and_one():
    zero_to_one = stained(tissue(), 0.2, (0.0, 1.0), draw(4))
    wider = stained(tissue() * 2 - 1, 0.2, (-1.0, 1.0), draw(4))
    torch.testing.assert_close(wider, zero_to_one * 2 - 1, rtol=0, atol=1e-5)


def test_colours_outside_the_range_are_refused_with_both_ranges():
    with pytest.raises(Rejected, match=r"stain: 3 channels from .* to 1\d\d are .* between 0 and 1; .* stain_range"):
        stained(tissue() * 255, 0.1, (0.0, 1.0), draw())


def test_a_bias_field_is_smooth_positive_and_one_for_all_channels():
    images = torch.ones(4, 2, 33, 21)
    fields = bias_fields(images, 0.3, draw(2))
    assert fields.shape == (4, 1, 33, 21) and (fields > 0).all()
    logarithms = fields[:, 0].log().double()
    # A polynomial of degree 3 has no fourth differences.
    assert logarithms.diff(n=4, dim=1).abs().max() < 1e-5
    assert logarithms.diff(n=4, dim=2).abs().max() < 1e-5
    torch.testing.assert_close(logarithms[:, 16, 10], torch.zeros(4).double(), rtol=0, atol=1e-6)
    assert logarithms.abs().amax((1, 2)).min() > 0.05


def test_a_smaller_matrix_cuts_high_frequencies_of_both_axes_alike_and_rings_beside_edges():
    images = torch.zeros(3, 1, 48, 32)
    images[:, :, 12:30, 8:20] = 1
    noise = torch.randn(3, 1, 48, 32, generator=draw(9))
    for spectrum in torch.fft.fft2(truncated(noise, 0.6, draw(1)))[:, 0].abs().numpy() > 1e-3:
        down = np.abs(np.fft.fftfreq(48))[spectrum.any(1)].max() * 2
        across = np.abs(np.fft.fftfreq(32))[spectrum.any(0)].max() * 2
        assert abs(down - across) < 2 / 32 and 0.35 < down < 1
    cut = truncated(images, 0.6, draw(1))
    assert cut.max() > 1.03 and cut.min() < -0.03
    torch.testing.assert_close(cut.mean((1, 2, 3)), images.mean((1, 2, 3)))


def test_air_in_pictures_for_generators_stays_air_under_gain_and_bias_and_nothing_leaves_their_range():
    pictures = torch.full((6, 2, 20, 26), -1.0)
    pictures[:, :, 5:12, 4:15] = 0.9
    changes = Augmentation(gain=0.3, bias_field=0.3)
    graded = augment_pictures(pictures, changes, draw(3), 1)
    assert (graded[:, :1][pictures[:, :1] == -1] == -1).all()
    assert graded.min() == -1 and graded.max() <= 1
    assert not torch.equal(graded[:, 0], pictures[:, 0])
    torch.testing.assert_close(graded[:, 1], pictures[:, 1])


def test_quarter_turns_move_masks_with_images_and_come_in_all_four():
    images = torch.arange(64.0).reshape(1, 1, 8, 8).repeat(60, 1, 1, 1)
    turned, masks = augment(images, images[:, 0].long(), Augmentation(quarter_turns=True), draw())
    assert masks is not None and torch.equal(turned[:, 0].long(), masks)
    corners = {int(image[0, 0, 0]) for image in turned}
    assert corners == {0, 7, 56, 63}
    with pytest.raises(Rejected, match="images of 8 x 6 are no squares"):
        augment(images[..., :6], None, Augmentation(quarter_turns=True), draw())


def test_a_shear_leans_columns_by_its_tangent_and_keeps_areas():
    image = torch.zeros(40, 1, 61, 41)
    image[:, :, 20:41, 17:24] = 1
    leant, _ = augment(image, None, Augmentation(shear=0.5), draw(1))
    torch.testing.assert_close(leant.sum((1, 2, 3)), image.sum((1, 2, 3)), rtol=0.02, atol=0)
    places = torch.arange(41.0)
    middles = (leant[:, 0] * places).sum(2) / leant[:, 0].sum(2).clamp_min(1e-6)
    tangents = (middles[:, 38] - middles[:, 22]) / 16
    assert tangents.abs().max() <= 0.5 + 0.02 and tangents.abs().max() > 0.4
    assert (leant[:, 0, 15] == 0).all()


@pytest.mark.parametrize(("outside", "least"), [("none", 0.0), ("edge", 1.0), ("mirror", 1.0)])
def test_what_moves_in_from_beyond_a_bright_tile_is_dark_only_where_none_is_asked_for(outside: str, least: float):
    tiles, masks = torch.ones(20, 3, 24, 24), torch.ones(20, 24, 24, dtype=torch.long)
    moved, moved_masks = augment(tiles, masks, Augmentation(rotation_degrees=45, outside=outside), draw())
    assert moved_masks is not None
    assert float(moved.min()) == pytest.approx(least) and int(moved_masks.min()) == int(least)


def test_a_preset_is_written_out_in_the_recipe_change_by_change(tmp_path: Path):
    document = {"name": "x", "task": "classification", "schedule": {"total_images": 10}, "augmentation": "histology"}
    chosen = recipe.parse(document, "x.yaml")
    assert chosen.augmentation == Augmentation(**PRESETS["histology"])
    (tmp_path / "again.yaml").write_text(recipe.dump(chosen))
    assert recipe.load(tmp_path / "again.yaml") == chosen
    with pytest.raises(Rejected, match="'augmentation': 'wild' is none of the presets histology-study"):
        recipe.parse(document | {"augmentation": "wild"}, "x.yaml")


@pytest.mark.parametrize(
    ("change", "label"),
    [
        ("flip_columns", "left breast"),
        ("flip_columns", "R_CC"),
        ("flip_rows", "Upper lobe"),
        ("quarter_turns", "right"),
    ],
)
def test_a_flip_is_refused_where_a_label_says_of_a_side(change: str, label: str):
    with pytest.raises(Rejected, match=f"{change} would make pictures for which the label '{label}'"):
        require_fits(Augmentation(**{change: True}), ("background", label), ("FLAIR",))
    require_fits(Augmentation(rotation_degrees=10), ("background", label), ("FLAIR",))
    require_fits(Augmentation(flip_columns=True), ("background", "cleft", "brightness", "upper lobe"), ("FLAIR",))


def test_a_rotation_that_swaps_sides_is_refused_where_a_label_says_of_one():
    with pytest.raises(Rejected, match=r"rotation_degrees would make .* 'left breast' .* to 45 or less"):
        require_fits(Augmentation(rotation_degrees=180), ("background", "left breast"), ("FLAIR",))
    require_fits(Augmentation(rotation_degrees=45), ("background", "left breast"), ("FLAIR",))


def test_a_stain_is_refused_where_channels_are_no_colours():
    with pytest.raises(Rejected, match="stain is for red, green, blue, and the channels are T1, FLAIR"):
        require_fits(Augmentation(stain=0.1), (), ("T1", "FLAIR"))
