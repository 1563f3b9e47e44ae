"""Adaptive augmentation: what it draws, that gradients pass, and how its chance moves."""

from __future__ import annotations

import math

import pytest
import torch

from models.adversarial_recipe import Adaptive
from models.training import adaptive
from models.training.adaptive import Adaptation, changed


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def lopsided() -> torch.Tensor:
    """(1, 1, 24, 36): air, with a bright rectangle away from the middle."""
    image = torch.full((1, 1, 24, 36), -1.0)
    image[..., 5:9, 20:30] = 0.7
    return image


def test_a_chance_of_nothing_changes_nothing():
    images = torch.rand(4, 1, 24, 36) * 2 - 1
    torch.testing.assert_close(changed(images, 0.0, draw()), images, atol=1e-5, rtol=0)


def test_what_comes_from_outside_is_air_and_no_grey_value_is_made_up():
    many = changed(lopsided().repeat(300, 1, 1, 1), 0.8, draw())
    assert many.min() >= -1 - 1e-5 and many.max() <= 0.7 + 1e-5
    kept = (many.flatten(1).amax(1) > 0.6).float().mean()
    assert 0.5 < kept <= 1  # now and then the rectangle leaves the image


def test_the_share_of_changed_images_is_what_eight_chances_make():
    images = lopsided().repeat(2000, 1, 1, 1)
    same = (changed(images, 0.1, draw()) - images).abs().flatten(1).amax(1) < 1e-3
    # Mirrored half the time, turned 3 of 4 times; whole-pixel shifts of 0 are rare. Eight chances of about 0.1.
    assert float(same.float().mean()) == pytest.approx(0.95 * 0.925 * 0.9**6, abs=0.04)


def test_a_quarter_turn_and_a_mirror_keep_the_shape_on_a_lopsided_image():
    half = torch.tensor([math.pi])
    turned = adaptive._turn(half, 24 / 36)
    grid = torch.nn.functional.affine_grid(turned[:, :2], [1, 1, 24, 36], align_corners=False)
    image = torch.nn.functional.grid_sample(lopsided() + 1, grid, align_corners=False) - 1
    torch.testing.assert_close(image, lopsided().flip(2, 3), atol=1e-4, rtol=0)

    quarter = adaptive._turn(torch.tensor([math.pi / 2]), 24 / 36)
    grid = torch.nn.functional.affine_grid(quarter[:, :2], [1, 1, 24, 36], align_corners=False)
    image = torch.nn.functional.grid_sample(lopsided() + 1, grid, align_corners=False) - 1
    bright = torch.nonzero(image[0, 0] > 0)
    rows, columns = (bright.amax(0) - bright.amin(0) + 1).tolist()
    assert (rows, columns) == (10, 4)  # 4 x 10 pixels, turned: no stretching by the image's own ratio


def test_gradients_pass_to_the_image():
    images = lopsided().requires_grad_()
    changed(images, 0.8, draw(2)).sum().backward()
    assert torch.isfinite(images.grad).all() and images.grad.abs().sum() > 0


def test_the_chance_grows_while_reals_are_known_too_well_and_falls_after():
    ada = Adaptation(Adaptive(target=0.6, speed_images=1000, limit=0.5))
    for _ in range(4):
        ada.learn(torch.ones(10), 10)
    assert ada.p == pytest.approx(4 * 10 / 1000)
    for _ in range(100):
        ada.learn(torch.ones(10), 10)
    assert ada.p == pytest.approx(0.5)  # the limit
    for _ in range(8):
        ada.learn(torch.tensor([1.0, -1.0]), 10)  # r_t = 0, below the target
    assert ada.p == pytest.approx(0.5 - 2 * 0.04)


def test_the_chance_and_what_it_is_learned_from_go_on_from_a_checkpoint():
    first, second = Adaptation(Adaptive(speed_images=100)), Adaptation(Adaptive(speed_images=100))
    for _ in range(6):
        first.learn(torch.ones(4), 4)
    second.load_state_dict(first.state_dict())
    for ada in (first, second):
        ada.learn(torch.ones(4), 4)
        ada.learn(torch.ones(4), 4)
    assert first.p == second.p == pytest.approx(0.32)


def test_without_adaptation_nothing_is_drawn_and_nothing_changes():
    used, images = draw(3), torch.rand(2, 1, 8, 8)
    ada = Adaptation(None)
    ada.learn(torch.ones(4), 4)
    assert ada.change(images, used) is images
    assert torch.equal(used.get_state(), draw(3).get_state()) and ada.p == 0
