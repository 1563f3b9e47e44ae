"""Generators and critics that a recipe can name: sizes, labels, norms, and the networks of the source studies."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dicom_io.errors import Rejected
from models import networks
from models.adversarial_recipe import DCGAN, BrainStudy, PetStudy
from models.networks import faithful, pairs
from models.networks.generator import Discriminator, Generator
from models.networks.norm import ClassNorm


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


CHOICES = [
    (DCGAN(image_px=32, features=16, latent=24), 0),
    (DCGAN(image_px=32, features=16, latent=24, norm="batch", critic_norm="batch", dropout=0.2), 0),
    (DCGAN(image_px=32, features=16, latent=24, norm="instance", critic_norm="instance", critic_dropout=0.3), 0),
    (DCGAN(image_px=32, features=16, latent=24, norm="none", critic_norm="group", minibatch_deviation=False), 0),
    (DCGAN(image_px=32, features=16, latent=24, spectral_norm=True, law="uniform"), 0),
    (DCGAN(image_px=32, features=16, latent=24), 3),
    (DCGAN(image_px=32, features=16, latent=24, norm="batch", spectral_norm=True), 3),
    *[
        (BrainStudy(kind="brain-wcgan", generator=g, critic=d, latent=latent, image_px=32, features=8), 3)
        for g, d, latent in (("G1", "D1", 64), ("G1", "D2", 128), ("G2", "D1", 128), ("G2", "D2", 64))
    ],
    *[
        (PetStudy(kind=kind, profile=profile, image_px=64), 0)
        for kind in ("pet-dense-gan", "pet-dcgan", "pet-wgan-gp")
        for profile in ("faithful", "corrected")
    ],
]


@pytest.mark.parametrize(("settings", "classes"), CHOICES, ids=[f"{s.kind}-{n}" for n, (s, _) in enumerate(CHOICES)])
def test_every_pair_makes_and_judges_and_every_weight_is_reached(settings, classes):
    torch.manual_seed(0)
    generator, critic = networks.build(pairs.generator(settings, classes)), pairs.critic(settings, classes)
    labels = torch.tensor([0, 2, 1, 1, 0, 2, 2, 1]) if classes else None
    images = generator(generator.noise(8, draw()), labels)
    assert images.shape == (8, 1, settings.image_px, settings.image_px)
    assert images.min() >= -3 and images.max() <= 1
    scores = critic(images, labels)
    assert scores.shape == (8,)
    scores.square().sum().backward()
    for network in (generator, critic):
        still = [name for name, weight in network.named_parameters() if weight.grad is None or not weight.grad.any()]
        assert not still


@pytest.mark.parametrize(("settings", "classes"), CHOICES, ids=[f"{s.kind}-{n}" for n, (s, _) in enumerate(CHOICES)])
def test_a_picture_is_a_function_of_seed_and_label_and_not_of_its_batch(settings, classes):
    torch.manual_seed(0)
    generator = networks.build(pairs.generator(settings, classes)).eval()
    label = 1 if classes else None
    one = generator.make(draw(4), label)
    assert torch.equal(one, generator.make(draw(4), label)) and not torch.equal(one, generator.make(draw(5), label))
    assert one.min() >= -1 and one.max() <= 1
    sources = [draw(seed) for seed in (7, 4, *range(40))]
    labels = torch.tensor([2, 1] + 40 * [0]) if classes else None
    batch = generator.make_many(sources, labels, torch.device("cpu"))
    assert batch.shape == (42, 1, settings.image_px, settings.image_px)
    torch.testing.assert_close(batch[1], one, atol=1e-5, rtol=1e-4)


# DCGAN.


def test_a_generator_of_today_is_built_of_three_numbers_and_its_weights_have_the_names_they_always_had():
    definition = {"_target_": "models.networks.generator.Generator", "image_px": 16, "features": 16, "latent": 5}
    assert pairs.generator(DCGAN(image_px=16, features=16, latent=5), 0) == definition
    network = networks.build(definition)
    assert {name: tuple(value.shape) for name, value in network.state_dict().items()} == {
        "project.weight": (512, 5),
        "project.bias": (512,),
        "first_norm.weight": (32,),
        "first_norm.bias": (32,),
        "blocks.0.1.weight": (16, 32, 3, 3),
        "blocks.0.2.weight": (16,),
        "blocks.0.2.bias": (16,),
        "blocks.1.1.weight": (8, 16, 3, 3),
        "blocks.1.2.weight": (8,),
        "blocks.1.2.bias": (8,),
        "picture.weight": (1, 8, 3, 3),
        "picture.bias": (1,),
    }


def test_a_generator_of_today_computes_what_its_weights_always_meant():
    torch.manual_seed(1)
    network = Generator(16, 16, 5)
    weights = network.state_dict()
    noise = torch.randn(3, 5)
    image = F.linear(noise, weights["project.weight"], weights["project.bias"]).reshape(3, 32, 4, 4)
    image = F.relu(F.group_norm(image, 8, weights["first_norm.weight"], weights["first_norm.bias"]))
    for block in ("blocks.0", "blocks.1"):
        image = F.conv2d(F.interpolate(image, scale_factor=2), weights[f"{block}.1.weight"], padding=1)
        image = F.relu(F.group_norm(image, 8, weights[f"{block}.2.weight"], weights[f"{block}.2.bias"]))
    expected = torch.tanh(F.conv2d(image, weights["picture.weight"], weights["picture.bias"], padding=1))
    torch.testing.assert_close(network(noise), expected)
    assert torch.equal(network.noise(1, draw(3))[0], torch.randn(5, generator=draw(3)))


def test_a_uniform_latent_lies_between_minus_one_and_one():
    noise = Generator(16, 16, 5, law="uniform").noise(4000, draw())
    assert -1 <= noise.min() < -0.99 and 0.99 < noise.max() <= 1
    assert float(noise.std()) == pytest.approx(3**-0.5, rel=0.02)


def test_a_class_has_its_own_gain_and_bias_and_a_new_network_treats_all_alike():
    torch.manual_seed(0)
    network = Generator(16, 16, 5, classes=2)
    noise = network.noise(1, draw())
    first, second = torch.tensor([0]), torch.tensor([1])
    assert torch.equal(network(noise, first), network(noise, second))
    norm = network.blocks[1][2]
    assert isinstance(norm, ClassNorm)
    with torch.no_grad():
        norm.bias.weight[1] += 1
    assert not torch.equal(network(noise, first), network(noise, second))
    with pytest.raises(ValueError, match="no image without"):
        network(noise)


def test_a_projection_critic_adds_the_inner_product_of_features_and_class():
    torch.manual_seed(0)
    critic = Discriminator(16, 16, classes=3, minibatch=False)
    images, labels = torch.randn(5, 1, 16, 16), torch.tensor([0, 1, 2, 2, 1])
    maps = F.leaky_relu(critic.mix(critic.blocks(images)), 0.2)
    added = torch.stack([critic.class_vectors.weight[y] @ maps[i].sum((1, 2)) for i, y in enumerate(labels)])
    torch.testing.assert_close(critic(images, labels) - critic(images), added, atol=1e-5, rtol=1e-4)


def test_spectral_norm_bounds_the_gain_of_every_layer():
    torch.manual_seed(0)
    critic = Discriminator(32, 16, spectral_norm=True)
    with torch.no_grad():
        for weight in critic.parameters():
            weight *= 50
    for _ in range(30):
        critic(torch.randn(4, 1, 32, 32))
    critic.eval()
    linear = [module for module in critic.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert len(linear) == 5
    for module in linear:
        assert float(torch.linalg.matrix_norm(module.weight.detach().flatten(1), 2)) == pytest.approx(1.0, rel=0.05)


# The PET and mammography study.


@pytest.mark.parametrize(
    ("kind", "generator", "critic", "trainable"),
    [
        ("pet-dense-gan", 52_102_912, 25_822_209, (52_099_328, 25_822_209)),
        ("pet-dcgan", 184_853, 4_407_553, (178_453, 4_405_633)),
        ("pet-wgan-gp", 453_569, 1_951_233, (453_569, 1_951_233)),
    ],
)
def test_the_networks_of_the_pet_study_have_its_numbers_of_parameters(kind, generator, critic, trainable):
    settings = PetStudy(kind=kind)
    pair = networks.build(pairs.generator(settings, 0)), pairs.critic(settings, 0)
    assert tuple(faithful.parameters(network) for network in pair) == (generator, critic)
    assert tuple(sum(weight.numel() for weight in network.parameters()) for network in pair) == trainable


def test_padding_is_that_of_keras_one_more_below_and_on_the_right():
    image = torch.zeros(1, 1, 8, 8)
    image[0, 0, 7, 7] = 1
    same, convolution = faithful._convolution(1, 1, 5, 2)
    with torch.no_grad():
        convolution.weight.copy_(torch.arange(25.0).reshape(1, 1, 5, 5))
        convolution.bias.zero_()
    # Output i begins at row 2 i - 1, so pixel 7 meets row and column 4 of the kernel at output 2, and 2 at output 3.
    made = convolution(same(image)).detach()
    expected = torch.zeros(4, 4)
    expected[2:, 2:] = torch.tensor([[24.0, 22.0], [14.0, 12.0]])
    torch.testing.assert_close(made[0, 0], expected)

    grown, trimmed = faithful._transposed(1, 1, 4)
    with torch.no_grad():
        grown.weight.copy_(torch.arange(1.0, 17.0).reshape(1, 1, 4, 4))
        grown.bias.zero_()
    centre = torch.zeros(1, 1, 6, 6)
    centre[0, 0, 2, 2] = 1
    made = trimmed(grown(centre)).detach()
    assert made.shape[-2:] == (6, 6)
    # The kernel begins one pixel above and to the left of its place.
    torch.testing.assert_close(made[0, 0, 1:5, 1:5], torch.arange(1.0, 17.0).reshape(4, 4))


def test_faithful_networks_work_on_zero_to_one_and_corrected_ones_on_minus_one_to_one():
    torch.manual_seed(0)
    images = torch.rand(3, 1, 64, 64) * 2 - 1
    for make in (faithful.DenseDiscriminator, faithful.DCGANDiscriminator):
        old, new = make(64, 0.0, "faithful").eval(), make(64, 0.0, "corrected").eval()
        torch.testing.assert_close(old(images), old.layers((images + 1) / 2).squeeze(1))
        torch.testing.assert_close(new(images), new.layers(images).squeeze(1))
    dense = faithful.DenseGenerator(64, 32, "uniform", 0.0, "faithful")
    with torch.no_grad():
        dense.layers[-2].bias.fill_(-100)
    assert float(dense(dense.noise(4, draw())).detach().min()) == pytest.approx(-3.0)  # tanh, read as [0, 1]


def test_the_dead_relu_is_there_in_the_faithful_profile_alone():
    """Behind a ReLU no map is negative, so a LeakyReLU changes nothing."""
    for profile, dead in (("faithful", True), ("corrected", False)):
        layers = list(faithful.DCGANDiscriminator(64, 0.0, profile).layers)
        kinds = [type(layer) for layer in layers]
        assert (nn.ReLU in kinds) is dead
        assert kinds.count(nn.LeakyReLU) == 4
        assert any(isinstance(layer, nn.GroupNorm) for layer in layers) is not dead


# What is refused.


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"profile": "mended"}, "profile 'mended' is neither"),
        ({"law": "cauchy"}, "law 'cauchy' is neither"),
        ({"dropout": "$open('x')"}, "expression"),
        ({"depth": 3}, "unexpected keyword argument 'depth'"),
    ],
)
def test_a_definition_with_another_word_is_refused_by_name(change, said):
    definition = pairs.generator(PetStudy(kind="pet-dcgan", image_px=32), 0)
    with pytest.raises(Rejected, match=said):
        networks.build(definition | change)
