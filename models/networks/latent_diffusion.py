"""A denoiser of latents, its sampler, and the decoder that makes pictures of what it leaves (Rombach 2022).

Latents come in any scale; how far apart they lie is the autoencoder's choice. Here every plane of them is centred and
scaled to the deviation that EDM's levels were chosen for, by numbers that the definition holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from models.networks.autoencoder import Autoencoder, factor
from models.networks.diffusion import Diffusion

# Karras 2022, table 1: sigma_data, of pictures in [-1, 1].
SIGMA_DATA = 0.5


class LatentDiffusion(Diffusion):
    """Noise and class number -> picture (`models.networks.maker`); as a module, D of noisy latents, scaled.

    image_px: of the pictures; planes: how many one has. latent: of the autoencoder, `channels`, `widths` and
    `residual_blocks`. latent_mean, latent_deviation: of each plane of the training latents. The other arguments are
    those of `Diffusion`; a mask that is given is made as small as the latents.

    Raises:
        ValueError: as for `Diffusion`, or the latent's numbers do not fit each other.
    """

    latent_mean: Tensor
    latent_deviation: Tensor

    def __init__(
        self,
        image_px: int,
        planes: int,
        latent: Mapping[str, Any],
        latent_mean: Sequence[float],
        latent_deviation: Sequence[float],
        **of_denoiser: Any,
    ) -> None:
        count = latent["channels"]
        if not len(latent_mean) == len(latent_deviation) == count or min(latent_deviation) <= 0:
            raise ValueError(f"latent_deviation {latent_deviation} is not above 0, or not of {count} channels")
        super().__init__(
            image_px=image_px // factor(latent["widths"]),
            data_mean=[0.0] * count,
            sigma_data=[SIGMA_DATA] * count,
            **of_denoiser,
        )
        self.register_buffer("latent_mean", torch.zeros_like(self.data_mean), persistent=False)
        self.register_buffer("latent_deviation", torch.ones_like(self.data_mean), persistent=False)
        self.scale_by(latent_mean, latent_deviation)
        # Trained before the denoiser, and never with it.
        self.decoder = Autoencoder(planes, **latent, dims=len(self.size)).decoder().requires_grad_(False)

    @staticmethod
    def noise_shape(definition: Mapping[str, Any]) -> tuple[int, list[int]]:
        """Channels and pixels of the noise: a latent of it."""
        latent = definition["latent"]
        return latent["channels"], [definition["image_px"] // factor(latent["widths"])] * definition.get("dims", 2)

    def scale_by(self, mean: Sequence[float], deviation: Sequence[float]) -> None:
        """Of each plane of the training latents."""
        for held, given in ((self.latent_mean, mean), (self.latent_deviation, deviation)):
            held.copy_(torch.tensor(given).reshape(held.shape))

    def scaled(self, latents: Tensor) -> Tensor:
        """As the denoiser sees them: of mean 0 and deviation `SIGMA_DATA`."""
        return (latents - self.latent_mean) / self.latent_deviation * SIGMA_DATA

    def picture(self, clean: Tensor) -> Tensor:
        """Scaled latents -> pictures in [-1, 1]."""
        return super().picture(self.decoder(clean / SIGMA_DATA * self.latent_deviation + self.latent_mean))
