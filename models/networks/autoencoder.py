"""Pictures <-> latents of fewer pixels: MONAI's AutoencoderKL (Rombach 2022), without attention.

Its attention wants the package einops, which MONAI does not bring. At the few levels of an autoencoder that a CPU
trains, convolutions see most of a picture as it is; what belongs together far apart is the denoiser's to learn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from monai.networks.nets import AutoencoderKL
from torch import Tensor, nn


class Autoencoder(nn.Module):
    """Pictures (B, planes, px, px) -> latents (B, channels, px / factor, px / factor), and back; so for volumes, where
    dims is 3.

    widths: maps per level; each level but the first halves the picture, so factor is 2 ** (levels - 1).
    residual_blocks: per level, on the way down and on the way up.
    """

    def __init__(self, planes: int, channels: int, widths: Sequence[int], residual_blocks: int, dims: int = 2) -> None:
        super().__init__()
        self.both = AutoencoderKL(
            spatial_dims=dims,
            in_channels=planes,
            out_channels=planes,
            num_res_blocks=residual_blocks,
            channels=list(widths),
            attention_levels=[False] * len(widths),
            latent_channels=channels,
            norm_num_groups=math.gcd(16, *widths),
            with_encoder_nonlocal_attn=False,
            with_decoder_nonlocal_attn=False,
        )

    def encode(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the posterior, as float32."""
        mean, deviation = self.both.encode(pictures)
        return mean.float(), deviation.float()

    def forward(self, pictures: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """noise: of N(0, 1), as large as the latents, which chooses in the posterior.

        Returns what the decoder makes of them, mean and deviation.
        """
        mean, deviation = self.encode(pictures)
        return self.both.decode(mean + deviation * noise), mean, deviation

    def decoder(self) -> nn.Module:
        """The half that is released."""
        return nn.Sequential(self.both.post_quant_conv, self.both.decoder)


def factor(widths: Sequence[int]) -> int:
    """How many pixels of a picture, across, are one of a latent."""
    return 2 ** (len(widths) - 1)


def divergence(mean: Tensor, deviation: Tensor) -> Tensor:
    """Of a posterior from N(0, 1), in nats: the mean over the numbers of a latent."""
    variance = deviation.square()
    nats: Tensor = (mean.square() + variance - 1 - variance.clamp_min(torch.finfo(torch.float32).tiny).log()).mean() / 2
    return nats
