"""Training loops written down bare: the very networks, losses and optimisers of a recipe, on one resident batch.

No cohort, running average, alarm, journal or augmentation. Each function returns a step, which takes its number from 1
on. Networks are placed as ours are: the order of a kernel in memory is a property of the network, not of a loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import elbo, networks
from models.adversarial_recipe import AdversarialRecipe
from models.cases import Squares
from models.diffusion_recipe import DiffusionRecipe
from models.networks import classifier, pairs, unet
from models.networks.vae import VAE
from models.segmentation_recipe import SegmentationRecipe
from models.training import diffusion, segmentation, variational
from models.training.placement import ordered, placed
from models.variational_recipe import VariationalRecipe

Step = Callable[[int], None]
CPU = torch.device("cpu")
CLASSES = 3


def build(settings: Any) -> Step:
    """The step of a recipe's family; unlabelled but for the autoencoder, which knows `CLASSES` classes."""
    torch.manual_seed(0)
    if isinstance(settings, VariationalRecipe):
        return _variational(settings)
    return _diffusion(settings) if isinstance(settings, DiffusionRecipe) else _adversarial(settings)


def predictor(settings: Any, channels: int, classes: int = 2) -> Step:
    """The step of a classifier or a segmenter of images with so many channels."""
    torch.manual_seed(0)
    of_slices = isinstance(settings, SegmentationRecipe)
    defined = unet if of_slices else classifier
    network = ordered(networks.build(defined.definition(settings.network, channels, classes)), CPU)
    px, batch = settings.windows.window_px if of_slices else 50, settings.schedule.batch_size
    images = torch.randn(batch, channels, px, px)
    truth = torch.randint(0, classes, (batch, 1, px, px) if of_slices else (batch,))
    rates = settings.optimiser
    optimiser = torch.optim.AdamW(network.parameters(), lr=rates.learning_rate, weight_decay=rates.weight_decay)
    of_masks = segmentation.loss_in(settings) if of_slices else None

    def step(number: int) -> None:
        logits = network(images)
        loss = of_masks(logits, truth) if of_masks else F.cross_entropy(logits, truth, label_smoothing=0.05)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()

    return step


def _pictures(settings: Any) -> Tensor:
    px = settings.network.image_px
    return torch.rand(settings.schedule.batch_size, 1, px, px) * 2 - 1


def _adversarial(settings: AdversarialRecipe) -> Step:
    made = placed(networks.build(pairs.generator(settings.network, 0)), CPU)
    critic = placed(pairs.critic(settings.network, 0), CPU)
    rates, loss, batch = settings.optimiser, settings.loss, settings.schedule.batch_size
    for_generator, for_critic = (_adam(net, rates) for net in (made, critic))
    real = _pictures(settings)

    def restraint(step: int, fake: Tensor) -> Tensor | float:
        if loss.kind == "wasserstein":
            share = torch.rand(batch, 1, 1, 1)
            between = (share * real + (1 - share) * fake).requires_grad_()
            return loss.gradient_penalty * (slope(between).flatten(1).norm(dim=1) - 1).square().mean()
        if step % rates.r1_every_steps:
            return 0.0
        squares = slope(real.clone().requires_grad_()).square().sum((1, 2, 3))
        return rates.r1_every_steps * settings.r1_gamma / 2 * squares.mean()

    def slope(at: Tensor) -> Tensor:
        (gradient,) = torch.autograd.grad(critic(at).sum(), at, create_graph=True)
        return gradient

    def step(number: int) -> None:
        critic.requires_grad_(True)
        for _ in range(rates.critic_steps):
            fake = made(torch.randn(batch, settings.network.latent or 128))
            shown = fake.detach()
            if loss.kind == "wasserstein":
                told = critic(shown).mean() - critic(real).mean()
            else:
                told = F.softplus(-critic(real)).mean() + F.softplus(critic(shown)).mean()
            for_critic.zero_grad()
            (told + restraint(number, shown)).backward()
            for_critic.step()
        critic.requires_grad_(False)
        scores = critic(fake)
        raised = -scores.mean() if loss.kind == "wasserstein" else F.softplus(-scores).mean()
        for_generator.zero_grad()
        raised.backward()
        for_generator.step()

    return step


def _adam(network: nn.Module, rates: Any) -> torch.optim.Adam:
    return torch.optim.Adam(network.parameters(), lr=rates.learning_rate, betas=(rates.beta_1, rates.beta_2))


def _variational(settings: VariationalRecipe) -> Step:
    decoder = variational.built(variational.decoder(settings, CLASSES))
    vae = VAE(variational.encoder(settings, CLASSES), decoder)
    optimiser = torch.optim.AdamW(vae.parameters(), lr=settings.optimiser.learning_rate, weight_decay=0.0)
    loss, latent = settings.loss, settings.network.latent
    real = _pictures(settings)
    labels = torch.arange(len(real)) % CLASSES

    def step(number: int) -> None:
        made, posterior, prior = vae(real, torch.randn(len(real), latent), labels)
        lost = elbo.reconstruction(loss, real, made).mean()
        spent = elbo.charged(elbo.divergence(posterior, variational.fixed(prior)), loss.free_bits)
        followed = elbo.divergence(variational.fixed(posterior), prior).mean(0).sum()
        optimiser.zero_grad()
        (lost + loss.beta * spent + followed).backward()
        optimiser.step()

    return step


def _diffusion(settings: DiffusionRecipe) -> Step:
    clean = _pictures(settings)
    denoiser: Any = networks.build(diffusion.definition_of(settings, 0, Squares(clean, None, ())))
    optimiser = _adam(denoiser, settings.optimiser)
    loss, longest = settings.loss, settings.optimiser.clip_gradient_norm

    def step(number: int) -> None:
        sigma = (loss.mean_log_sigma + loss.deviation_log_sigma * torch.randn(len(clean), 1, 1, 1)).exp()
        denoised = denoiser(clean + sigma * torch.randn_like(clean), sigma.flatten(), None)
        lost = diffusion.weighted_error(denoised, clean, sigma.flatten(), denoiser.sigma_data)
        optimiser.zero_grad()
        lost.backward()
        if longest is not None:
            nn.utils.clip_grad_norm_(denoiser.parameters(), longest)
        optimiser.step()

    return step
