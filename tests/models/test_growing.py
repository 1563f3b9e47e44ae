"""Progressive growing: sizes fade into each other without a jump, what is released is the plain network."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from stopping import Stop, same, stop_at
from test_adversarial import small
from test_variational import cohort_of, picture

from dicom_io.cohort import Cohort
from dicom_io.errors import Rejected
from models import networks, recipe, training, version
from models.adversarial_recipe import Growing
from models.generator import source_of
from models.networks.generator import Discriminator, Generator
from models.networks.growing import GrowingCritic, GrowingGenerator, doubled, halved
from models.training.growth import Growth, place

NETWORK = {"image_px": 32, "features": 16, "latent": 8}
DIMS = pytest.mark.parametrize("dims", [2, 3])


def noise(count: int = 6) -> torch.Tensor:
    return torch.randn(count, 8, generator=torch.Generator().manual_seed(3))


def grown(dims: int, classes: int = 0) -> tuple[GrowingGenerator, GrowingCritic]:
    """From 8 to 32 px, of two planes."""
    torch.manual_seed(1)
    generator = Generator(32, 16, 8, classes=classes, planes=2, dims=dims)
    critic = Discriminator(32, 16, classes=classes, planes=2, dims=dims)
    return GrowingGenerator(generator, 1), GrowingCritic(critic, 32, 1)


@DIMS
def test_what_begins_to_fade_in_changes_nothing_yet(dims):
    generator, critic = grown(dims)
    pictures = torch.tanh(torch.randn(4, 2, *[16] * dims, generator=torch.Generator().manual_seed(5)))
    for network in (generator, critic):
        network.stage.set(1, 1.0)
    small_pictures, small_scores = generator(noise()), critic(halved(pictures))
    for network in (generator, critic):
        network.stage.set(2, 0.0)
    assert small_pictures.shape == (6, 2, *[8] * dims)
    torch.testing.assert_close(generator(noise()), doubled(small_pictures))
    torch.testing.assert_close(critic(pictures), small_scores)


@DIMS
def test_at_full_size_it_is_the_plain_network(dims):
    generator, critic = grown(dims, classes=3)
    labels = torch.tensor([0, 2, 1, 1, 0, 2])
    assert generator.stage.whole and critic.stage.whole
    made = generator(noise(), labels)
    torch.testing.assert_close(made, generator.whole(noise(), labels), rtol=0, atol=0)
    torch.testing.assert_close(critic(made, labels), critic.whole(made, labels))


@DIMS
def test_at_every_stage_gradients_reach_the_layers_of_that_size_and_no_larger_ones(dims):
    generator, critic = grown(dims)
    for doublings in (1, 2, 3):
        for network in (generator, critic):
            network.stage.set(doublings, 0.5)
            network.zero_grad()
        critic(generator(noise())).square().sum().backward()
        reached = [number for number, block in enumerate(generator.whole.blocks) if block[1].weight.grad is not None]
        assert reached == [*range(doublings)]
        of_critic = [name for name, weight in critic.whole.blocks.named_parameters() if weight.grad is not None]
        assert len(of_critic) == 2 * doublings
        used = {str(doublings), str(doublings - 1)} & set(generator.smaller)
        assert {name for name, layer in generator.smaller.items() if layer.weight.grad is not None} == used


def test_samples_come_in_full_size_at_every_stage():
    generator, _ = grown(2)
    generator.stage.set(1, 1.0)
    made = generator.make_many([source_of(0, index) for index in range(3)], None, torch.device("cpu"))
    assert made.shape == (3, 2, 32, 32)
    assert torch.equal(made, doubled(doubled(made[..., ::4, ::4])))


def test_each_size_has_an_even_part_and_fades_in_over_half_of_it():
    settings = Growing(first_px=8, share=0.6)
    found = [place(settings, 32, fraction) for fraction in (0.0, 0.19, 0.2, 0.25, 0.3, 0.39, 0.4, 0.45, 0.5, 0.6, 1.0)]
    doublings = [1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 3]
    assert [number for number, _ in found] == doublings
    assert [faded for _, faded in found] == pytest.approx([1, 1, 0, 0.5, 1, 1, 0, 0.5, 1, 1, 1], abs=1e-6)


def test_pictures_do_not_become_small_again_where_a_new_budget_begins():
    growth = Growth(Growing(first_px=8, share=0.6), 32)
    generator, critic = grown(2)
    growth.move(0.8, generator, critic)
    again = Growth(Growing(first_px=8, share=0.6), 32)
    again.load_state_dict(growth.state_dict())
    again.move(0.05, generator, critic)
    assert again.whole


def test_spectral_norm_bounds_the_critic_at_every_size():
    critic = GrowingCritic(Discriminator(32, 16, spectral_norm=True), 32, 1)
    critic.eval()
    for layer in critic.smaller.values():
        largest = torch.linalg.svdvals(layer.weight.flatten(1).detach())[0]
        assert largest == pytest.approx(1, abs=0.05)


def test_reals_are_as_large_and_as_faded_as_the_networks_are():
    growth = Growth(Growing(first_px=8, share=0.6), 32)
    generator, critic = grown(2)
    real = torch.rand(3, 2, 32, 32, generator=torch.Generator().manual_seed(2)) * 2 - 1
    growth.move(0.1, generator, critic)
    assert torch.allclose(growth.shown(real), halved(halved(real))) and not growth.whole
    growth.move(0.45, generator, critic)
    torch.testing.assert_close(growth.shown(real), (doubled(halved(real)) + real) / 2)
    growth.move(0.6, generator, critic)
    assert growth.shown(real) is real and growth.whole


def test_without_growing_networks_and_reals_are_as_they_were():
    growth, real = Growth(None, 32), torch.zeros(1, 1, 32, 32)
    generator, critic = grown(2)
    assert growth.around(generator.whole, critic.whole) == (generator.whole, critic.whole)
    assert growth.shown(real) is real and growth.whole and growth.end == 0


@pytest.fixture(scope="module")
def spots(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return cohort_of(tmp_path_factory.mktemp("spots"), picture, (96, 32, 32))


def growing(**changes: object) -> recipe.Recipe:
    schedule = {"total_images": 160, "report_images": 32}
    return small(network=NETWORK, growing={"first_px": 8, "share": 0.5}, schedule=schedule, **changes)


@pytest.mark.parametrize(
    "changes",
    [{}, {"conditional": True, "loss": {"kind": "wasserstein", "gradient_penalty": 10}}],
    ids=["R1", "classes, gradient penalty"],
)
def test_a_stopped_and_resumed_run_ends_bit_equal_and_leaves_a_plain_generator(spots: Cohort, tmp_path: Path, changes):
    chosen = growing(**changes)
    training.train(chosen, spots, tmp_path / "whole", device="cpu")
    with pytest.raises(Stop):
        training.train(chosen, spots, tmp_path / "parts", progress=stop_at(64), device="cpu")
    training.train(chosen, spots, tmp_path / "parts", resume=True, device="cpu")
    assert same(tmp_path / "whole", tmp_path / "parts")

    model = version.load(tmp_path / "whole")
    assert isinstance(model.network(), Generator)
    # The best is one of full size: with others the weights of the last layers would be those of the start.
    torch.manual_seed(0)
    fresh = networks.build(model.network_definition)
    assert model.network().state_dict().keys() == fresh.state_dict().keys()
    with (tmp_path / "whole" / "metrics.csv").open() as file:
        told = [(int(line["images_seen"]), int(line["picture_px"])) for line in csv.DictReader(file)]
    assert told == [(32, 8), (64, 32), (96, 32), (128, 32), (160, 32)]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"growing": {"first_px": 32}}, r"growing\.first_px: 32 is no power of two below network\.image_px, 32"),
        ({"growing": {"first_px": 12}}, r"growing\.first_px: 12 is no power of two"),
        ({"network": {"kind": "pet-dcgan", "image_px": 32}}, "growing: pet-dcgan is made in one size"),
    ],
)
def test_what_cannot_grow_is_refused(changes, reason):
    with pytest.raises(Rejected, match=reason):
        small(**{"network": NETWORK, "growing": {"first_px": 8}} | changes)
