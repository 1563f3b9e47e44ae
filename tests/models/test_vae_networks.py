"""Variational autoencoders: shapes, classes, and the bound in closed form."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from monai.metrics.regression import MultiScaleSSIMMetric
from torch import nn
from torch.distributions import Normal, kl_divergence

from models import elbo, networks, recipe
from models.generator import source_of
from models.networks.vae import VAE, ClassVector, ConvolutionalEncoder, per_level
from models.training import variational
from models.variational_recipe import EvidenceBound, VariationalRecipe


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def recipe_of(**network: Any) -> VariationalRecipe:
    made = recipe.parse(
        {
            "name": "v",
            "task": "generation",
            "family": "variational",
            "network": network,
            "schedule": {"total_images": 64},
            "pixel_range": [0, 1],
        },
        "v",
    )
    assert isinstance(made, VariationalRecipe)
    return made


def vae(classes: int = 3, **network: Any) -> VAE:
    torch.manual_seed(0)
    chosen = recipe_of(**network)
    return VAE(variational.encoder(chosen, classes), variational.built(variational.decoder(chosen, classes)))


SMALL = {"image_px": 16, "features": 8, "latent": 5}
KINDS: dict[str, dict[str, Any]] = {
    **{
        f"{blocks} {links}": SMALL | {"blocks": blocks, "links": links}
        for blocks, links in [(3, "plain"), (6, "residual"), (13, "skip"), (16, "plain"), (19, "residual")]
    },
    "dense": {"kind": "dense", "image_px": 16, "latent": 5, "widths": [40, 24]},
    "dense of one layer": {"kind": "dense", "image_px": 20, "latent": 2, "widths": [24]},
}


@pytest.mark.parametrize("name", KINDS)
def test_images_go_in_and_images_come_out(name):
    made = vae(**KINDS[name])
    px, latent = KINDS[name]["image_px"], KINDS[name]["latent"]
    images, noise = torch.rand(4, 1, px, px) * 2 - 1, torch.randn(4, latent)
    back, (mean, log_variance), prior = made(images, noise, torch.tensor([0, 1, 2, 3]))
    assert back.shape == images.shape and bool((back.abs() <= 1).all())
    assert mean.shape == log_variance.shape == (4, latent)
    # Every weight has a part in it.
    (
        elbo.reconstruction(EvidenceBound(), images, back).sum() + elbo.divergence((mean, log_variance), prior).sum()
    ).backward()
    assert all(weight.grad is not None for weight in made.parameters())


@pytest.mark.parametrize(("px", "blocks"), [*itertools.product((16, 32, 64, 256), (3, 6, 13, 16, 19))])
def test_an_encoder_has_the_blocks_that_it_was_asked_for_and_stops_at_four_pixels(px, blocks):
    counts = per_level(px, blocks)
    assert sum(counts) == blocks and min(counts) >= 1 and sorted(counts) == counts
    assert px >> len(counts) >= 4
    if blocks == 19 and px == 64:
        encoder = ConvolutionalEncoder(px, 8, 4, blocks, "plain", 0)
        threes = [m for m in encoder.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
        assert len(threes) == 19 and counts == [4, 5, 5, 5]


def test_a_sample_is_a_function_of_its_source_and_label_and_not_of_its_batch():
    decoder = vae(**KINDS["6 residual"]).decoder.eval()
    nn.init.normal_(decoder.class_vector.table.weight)
    one = decoder.make(source_of(3, 1), 2).detach()
    assert one.shape == (1, 16, 16) and torch.equal(one, decoder.make(source_of(3, 1), 2))
    many = decoder.make_many([source_of(3, n) for n in range(3)], torch.tensor([0, 2, 1]), torch.device("cpu"))
    torch.testing.assert_close(many[1], one, atol=1e-5, rtol=0)
    assert not torch.allclose(one, decoder.make(source_of(3, 1), 0).detach(), atol=1e-3)
    assert not torch.allclose(one, decoder.make(source_of(3, 2), 2).detach(), atol=1e-3)


def flat(made: Any) -> list[torch.Tensor]:
    picture, posterior, prior = made
    return [picture, *posterior, *prior]


def test_labels_begin_at_nothing_and_a_withheld_label_stays_there():
    made = vae(**KINDS["6 residual"])
    images, noise = torch.rand(4, 1, 16, 16), torch.randn(4, 5)
    labels = torch.tensor([0, 1, 2, 0])
    before = made(images, noise, None)
    for known, unknown in zip(flat(made(images, noise, labels)), flat(before), strict=True):
        assert torch.equal(known, unknown)
    for law in before[2]:
        assert torch.equal(law, torch.zeros(4, 5))
    optimiser = torch.optim.AdamW(made.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        back, posterior, prior = made(images, noise, torch.tensor([0, 1, 2, 3]))
        (back.square().sum() + elbo.divergence(posterior, prior).sum()).backward()
        optimiser.step()
    for part in (made.encoder.class_vector, made.decoder.class_vector, made.decoder.class_prior):
        table = part.table.weight
        assert bool((table[:3] != 0).all()) and bool((table[3] == 0).all())
    for known, unknown in zip(flat(made(images, noise, labels)), flat(made(images, noise, None)), strict=True):
        assert not torch.allclose(known, unknown)
    withheld = made(images, noise, torch.full((4,), 3))
    assert all(map(torch.equal, flat(withheld), flat(made(images, noise, None))))


def test_without_classes_labels_are_nothing():
    assert torch.equal(ClassVector(0, 4)(None, torch.ones(3, 2)), torch.zeros(3, 4))


def test_noise_is_placed_in_the_prior_of_its_class_and_decoded_there():
    decoder = vae(**KINDS["6 residual"]).decoder
    noise = torch.randn(2, 5, generator=draw())
    with torch.no_grad():
        decoder.class_prior.table.weight[1] = torch.tensor([2.0, -1, 0, 0, 3] + [2 * math.log(0.5)] * 5)
        decoder.class_vector.table.weight[1] = 1.0
        labels = torch.tensor([1, 1])
        expected = decoder.decode(torch.tensor([2.0, -1, 0, 0, 3]) + 0.5 * noise, labels)
        torch.testing.assert_close(decoder(noise, labels), expected)


def test_skips_hand_the_latent_to_every_resolution():
    """With the projection cut, a latent still reaches the picture over them, and over nothing else."""
    for links, reaches in (("skip", True), ("plain", False)):
        decoder = vae(**SMALL, blocks=3, links=links).decoder
        nn.init.zeros_(decoder.project.weight)
        pictures = decoder(torch.randn(2, 5, generator=draw()) * 3)
        apart = (pictures[0] - pictures[1]).abs().mean().item()
        assert apart > 0.1 if reaches else apart == 0


def test_frozen_are_convolutions_and_norms_and_nothing_that_knows_a_label():
    made = vae(**KINDS["13 skip"])
    frozen = {id(weight) for weight in made.convolutions()}
    free = {name for name, weight in made.named_parameters() if id(weight) not in frozen}
    assert {name.split(".")[1] for name in free} == {"class_vector", "class_prior", "law", "project", "skips"}
    assert len(frozen) == 4 * 26 + 2  # weight and bias of 13 + 13 convolutions and of their norms; the picture's


def test_a_decoder_is_built_from_its_definition_and_a_wrong_one_is_refused():
    definition = variational.decoder(recipe_of(**SMALL), 3)
    assert networks.build(definition).classes == 3
    with pytest.raises(Exception, match="links 'loose' is none of plain, residual, skip"):
        networks.build(definition | {"links": "loose"})


# The bound.


def laws(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(6, 7, generator=draw(seed)), torch.randn(6, 7, generator=draw(seed + 1))


STANDARD = (torch.zeros(1), torch.zeros(1))


def test_the_divergence_is_that_of_two_normal_laws():
    posterior, prior = laws(0), laws(2)
    as_torch_has_them = [Normal(mean, (log_variance / 2).exp()) for mean, log_variance in (posterior, prior)]
    torch.testing.assert_close(elbo.divergence(posterior, prior), kl_divergence(*as_torch_has_them))
    torch.testing.assert_close(elbo.divergence(prior, prior), torch.zeros(6, 7), atol=1e-6, rtol=0)
    # Of a law of half the width about 1 from the standard one: (1 + 1/4 + ln 4 - 1) / 2.
    halved = elbo.divergence((torch.ones(1), torch.full((1,), -2 * math.log(2))), STANDARD)
    assert float(halved) == pytest.approx((0.25 + math.log(4)) / 2)


def test_the_divergence_agrees_with_a_count_of_draws():
    mean, log_variance = torch.tensor([0.7, -1.2]), torch.tensor([-0.5, 0.3])
    law = Normal(mean, (log_variance / 2).exp())
    torch.manual_seed(0)
    drawn = law.sample((200_000,))
    counted = (law.log_prob(drawn) - Normal(0.0, 1.0).log_prob(drawn)).mean(0)
    torch.testing.assert_close(elbo.divergence((mean, log_variance), STANDARD), counted, atol=0.01, rtol=0)


def test_free_bits_cost_nothing_and_give_no_gradient_dimension_by_dimension():
    diverged = torch.tensor([[0.0, 3.0, 0.1], [0.2, 1.0, 0.1]], requires_grad=True)
    charged = elbo.charged(diverged, 0.25)
    assert charged.item() == pytest.approx(0.25 + 2.0 + 0.25)
    charged.backward()
    assert torch.equal(diverged.grad, torch.tensor([[0.0, 0.5, 0.0], [0.0, 0.5, 0.0]]))
    assert elbo.charged(diverged, 0.0).item() == pytest.approx(0.1 + 2.0 + 0.1)


def test_the_error_of_a_pixel_is_its_distance_far_away_and_smooth_near_nothing():
    real = torch.zeros(2, 1, 6, 9)
    made = torch.stack([torch.full((1, 6, 9), 0.5), torch.zeros(1, 6, 9)]).requires_grad_()
    error = elbo.pixel_error(real, made)
    assert error[0].item() == pytest.approx(0.49, abs=0.001) and error[1].item() == pytest.approx(0, abs=1e-7)
    error.sum().backward()
    assert torch.isfinite(made.grad).all() and float(made.grad[1].abs().max()) == 0


def test_nats_of_an_image_are_those_of_laplace_noise():
    """The difference of two pictures' log densities, for errors well above where it is smooth."""
    loss = EvidenceBound(pixel_scale=0.2)
    real = torch.zeros(1, 1, 8, 8)
    near, far = (torch.full((1, 1, 8, 8), value) for value in (0.3, 0.8))
    law = torch.distributions.Laplace(real, 0.2)
    expected = (law.log_prob(near) - law.log_prob(far)).sum()
    found = elbo.reconstruction(loss, real, far) - elbo.reconstruction(loss, real, near)
    torch.testing.assert_close(found[0], expected, rtol=1e-3, atol=0)


def test_similarity_is_monais_where_no_factor_of_it_is_negative():
    real = nn.functional.avg_pool2d(torch.rand(3, 1, 40, 32, generator=draw()) * 2 - 1, 5, 1, 2)
    made = 0.8 * real + 0.1 * torch.randn(real.shape, generator=draw(1))
    weights = torch.tensor([0.0448, 0.2856, 0.3001])
    metric = MultiScaleSSIMMetric(
        2, data_range=2.0, kernel_size=5, kernel_sigma=1.0, weights=(weights / weights.sum()).tolist()
    )
    expected = metric(made + 1, real + 1)[:, 0]
    torch.testing.assert_close(elbo.similarity(real, made), expected)
    assert bool((expected < 0.95).all()) and bool((expected > 0.05).all())
    torch.testing.assert_close(elbo.similarity(real, real), torch.ones(3))


@pytest.mark.parametrize("structure", [0.0, 1.0])
def test_constant_and_opposite_images_have_a_finite_loss_and_gradient(structure):
    loss = EvidenceBound(structure=structure)
    flat = torch.stack([torch.full((1, 32, 32), value) for value in (-1.0, 0.0, 1.0)])
    wave = torch.sin(torch.arange(32.0)).expand(3, 1, 32, 32)
    for real, other in ((flat, flat), (flat, flat.flip(0)), (wave, -wave), (flat, wave)):
        made = other.clone().requires_grad_()
        lost = elbo.reconstruction(loss, real, made)
        lost.sum().backward()
        assert torch.isfinite(lost).all() and torch.isfinite(made.grad).all() and bool((lost >= -1e-2).all())
