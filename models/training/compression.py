"""The first stage of latent diffusion: an autoencoder, and the scale of its latents (Rombach 2022).

One step draws reals and asks for them back through a latent of fewer numbers:

    d = made - real    loss = mean(|d| + d^2) + kl_weight * nats of a number of the latent from N(0, 1)

|d| alone keeps edges and draws no masks: nothing is the median of a small outline, and so it stayed for long. The paper
adds a perceptual loss, whose weights are downloaded, and a critic; here pixels alone are compared. When the stage's
share of the training is over, the averaged autoencoder is kept, the mean and deviation of each plane of the training
latents are measured, and neither changes any more.
"""

# torch leaves Tensor.split without types.
# mypy: disallow-untyped-calls=False

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from models.cases import Squares
from models.diffusion_recipe import DiffusionRecipe, Latent
from models.draws import normal
from models.networks.autoencoder import Autoencoder, divergence, factor
from models.networks.diffusion import Diffusion
from models.networks.latent_diffusion import LatentDiffusion
from models.training import average, optimisers
from models.training.augmentation import augment_pictures
from models.training.judge import AT_MOST
from models.training.precision import autocast
from models.training.session import Session, Stateful
from models.training.transfer import Part

_BATCH = 32
# A plane that says nothing has the deviation of its noise, 1; without a kl_weight it may have none.
_FLATTEST = 1e-4


class Compression:
    """An autoencoder as it trains, and what it has found when it is over.

    images: how many were seen then, 0 before. figures: of unseen patients. moments: `latent_mean` and
    `latent_deviation` of each plane.
    """

    def __init__(self, settings: Latent, reals: Squares, on: torch.device, precision: str) -> None:
        sizes = settings.channels, settings.widths, settings.residual_blocks
        self._build = partial(Autoencoder, reals.planes, *sizes, reals.dims)
        self.network = self._build().to(on)
        self.average = average.start(self.network)
        self.optimiser = torch.optim.Adam(self.network.parameters(), settings.learning_rate)
        self.images = 0
        self.figures: dict[str, float] = {}
        self.moments: dict[str, list[float]] = {}
        self._channels, self._factor = settings.channels, factor(settings.widths)
        self._precision = precision
        self._scaled: Callable[[Tensor], Tensor] | None = None

    @property
    def stateful(self) -> dict[str, Stateful]:
        """For the checkpoint."""
        return {
            "autoencoder": self.network,
            "autoencoder average": self.average,
            "autoencoder optimiser": self.optimiser,
            "compression": self,
        }

    @property
    def part(self) -> Part:
        """What another model leaves for it (`models.training.transfer`)."""
        return Part("autoencoder", (self.network, self.average), lambda classes: self._build())

    def state_dict(self) -> dict[str, Any]:
        """What it has found; the networks are stored beside it."""
        return {"images": self.images, "figures": self.figures, "moments": self.moments}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.images, self.figures, self.moments = state["images"], state["figures"], state["moments"]

    def noise(self, pictures: Tensor, source: torch.Generator) -> Tensor:
        """N(0, 1), as large as the latents of these pictures."""
        size = [side // self._factor for side in pictures.shape[2:]]
        return normal(len(pictures), source, self._channels, *size).to(pictures.device)

    @torch.no_grad()
    def latents(self, pictures: Tensor, source: torch.Generator) -> Tensor:
        """One of each picture's posterior, as the denoiser sees them."""
        assert self._scaled is not None
        with autocast(pictures.device, self._precision):
            mean, deviation = self.average.encode(pictures)
        return self._scaled(mean + deviation * self.noise(pictures, source))

    def finish(self, reals: Squares, images_seen: int) -> None:
        """Measure the latents of all training slices; from here on they stay."""
        self.images = images_seen
        total, squares = torch.zeros(2, self._channels, dtype=torch.float64)
        for batch in reals.blocks():
            mean, deviation = self._law(batch)
            mean, variance = (each.double().flatten(2) for each in (mean, deviation.square()))
            total += mean.mean(2).sum(0).cpu()
            squares += (mean.square() + variance).mean(2).sum(0).cpu()
        mean = total / len(reals)
        deviation = (squares / len(reals) - mean.square()).clamp_min(0).sqrt().clamp_min(_FLATTEST)
        self.moments = {
            "latent_mean": [float(f"{value:.5g}") for value in mean.tolist()],
            "latent_deviation": [float(f"{value:.5g}") for value in deviation.tolist()],
        }

    @torch.inference_mode()
    def _law(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        return self.average.encode(pictures.to(next(self.average.parameters()).device))

    def hand_over(self, *networks: Diffusion) -> dict[str, Any]:
        """Decoder and scale to those that make pictures; the scale, for their definition."""
        for network in networks:
            assert isinstance(network, LatentDiffusion)
            network.decoder.load_state_dict(self.average.decoder().state_dict())
            network.scale_by(self.moments["latent_mean"], self.moments["latent_deviation"])
            self._scaled = network.scaled
        return self.moments


def part_of_definition(settings: Latent, planes: int) -> dict[str, Any]:
    """Of `network_def`, as it is before the latents are measured."""
    latent = settings.model_dump(mode="json", include={"channels", "widths", "residual_blocks"})
    scale = {"latent_mean": [0.0] * settings.channels, "latent_deviation": [1.0] * settings.channels}
    return {"planes": planes, "latent": latent, **scale}


def train(first: Compression, recipe: DiffusionRecipe, session: Session) -> None:
    """The autoencoder's share of a training; at once where that is over already."""
    settings, schedule, on, ranks = recipe.latent, recipe.schedule, session.device, session.ranks
    assert settings is not None
    masks, network = session.reals.mask_planes, first.network
    session.clock.part(0.0, settings.share)
    since_report: list[float] = []

    while not first.images:
        draw = session.draw()
        optimisers.set_rate(first.optimiser, session.learning_rate(settings.learning_rate))
        session.hold()

        # There and back.
        real, _ = session.batches.draw(schedule.batch_size, draw)
        real = ranks.share(augment_pictures(real.to(on), recipe.augmentation, draw, masks))
        with autocast(on, schedule.precision):
            made, mean, deviation = network(real, first.noise(real, draw))
        apart = made.float() - real
        loss = (apart.abs() + apart.square()).mean() + settings.kl_weight * divergence(mean, deviation)
        first.optimiser.zero_grad()
        ranks.backward(loss, network)
        first.optimiser.step()

        # Follow with the running average.
        (loss,) = ranks.told(loss)
        session.took(schedule.batch_size, loss.item())
        average.follow(
            first.average, network, session.images_of_part, schedule.batch_size, schedule.ema_half_life_images
        )
        since_report.append(loss.item())
        session.alarms.losses(session.images_seen, autoencoder=loss.item())

        # Each `report_images`, and at the end of the share: how near unseen patients come back.
        over = session.fraction >= settings.share
        if session.due or over:
            first.figures = of_unseen(first.average, session.unseen, on) if ranks.first else {}
            if over:
                first.finish(session.reals, session.images_seen)
            told = {"stage": "compression"} | first.figures
            session.note(told | {"loss": round(sum(since_report) / len(since_report), 5)})
            since_report = []

    session.clock.part(settings.share, 1.0, first.images)


@torch.inference_mode()
def of_unseen(network: Autoencoder, unseen: Squares, on: torch.device) -> dict[str, float]:
    """Of at most 512 unseen slices (evenly spaced), there and back by the posterior's mean: the absolute error of a
    pixel on the scale [-1, 1], and the peak signal-to-noise ratio in dB."""
    chosen = torch.linspace(0, len(unseen) - 1, min(AT_MOST, len(unseen))).long()
    absolute, squared = 0.0, 0.0
    for numbers in chosen.split(_BATCH):
        real = unseen.take(numbers).to(on)
        apart = network(real, torch.zeros(()).to(on))[0].float().clamp(-1, 1) - real
        absolute += float(apart.abs().flatten(1).mean(1).double().sum())
        squared += float(apart.square().flatten(1).mean(1).double().sum())
    peak = 4.0 * len(chosen) / max(squared, 1e-12)
    return {
        "validation_pixel_error": round(absolute / len(chosen), 5),
        "validation_psnr_db": round(10 * math.log10(peak), 2),
    }
