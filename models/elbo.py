"""The evidence bound of a variational autoencoder (Kingma and Welling 2014), negated, in nats per image.

x: pictures (B, planes, px, px) in [-1, 1], planes * px * px = D pixels; y: the decoder's; m, v: the posterior's mean
and log variance, p, w: the prior's, (B, latent). Minimised is

    r + beta * sum over dimensions of max(free_bits, mean over the batch of d)

    r = D * (c + structure * (1 - MS-SSIM)) / pixel_scale     (B,), without the constants of the density
    c = mean over pixels of sqrt((x - y)^2 + e^2) - e         Charbonnier 1994: |x - y|, smooth within e of 0
    d = ((m - p)^2 / exp(w) + exp(v - w) - v + w - 1) / 2     (B, latent): appendix B there, where p = w = 0

so that r without structure is the log density of Laplace noise of scale `pixel_scale`. Free bits: Kingma 2016, appendix
C.8, with one dimension to a group. MONAI has no divergence of normal laws in its losses.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from monai.metrics.regression import compute_ssim_and_cs
from torch import Tensor

from models.networks.vae import Law
from models.variational_recipe import EvidenceBound

SMOOTH = 1e-2
# The first three scales of Wang 2003, and a window that fits the smallest image at the third.
_SCALES = (0.0448, 0.2856, 0.3001)
_WINDOW_PX, _WINDOW_DEVIATION_PX = 5, 1.0
_LEAST = 1e-3


def reconstruction(loss: EvidenceBound, real: Tensor, made: Tensor) -> Tensor:
    """r: (B,) nats."""
    error = pixel_error(real, made)
    if loss.structure:
        error = error + loss.structure * (1 - similarity(real, made))
    return error * real[0].numel() / loss.pixel_scale


def pixel_error(real: Tensor, made: Tensor) -> Tensor:
    """c: (B,), on the scale of the pixels."""
    return ((real - made).square() + SMOOTH**2).sqrt().flatten(1).mean(1) - SMOOTH


def similarity(real: Tensor, made: Tensor) -> Tensor:
    """MS-SSIM (Wang 2003) at three scales, (B,), 1 where both are equal.

    MONAI's own product sets negative factors to 0, where the gradient of their power is no number; here they end at a
    small one.
    """
    # SSIM is for light, which is not negative.
    real, made = real + 1, made + 1
    product = torch.ones(len(real), device=real.device)
    for number, weight in enumerate(_SCALES):
        whole, contrast = compute_ssim_and_cs(
            made, real, 2, [_WINDOW_PX] * 2, [_WINDOW_DEVIATION_PX] * 2, data_range=2.0
        )
        last = number == len(_SCALES) - 1
        factor = (whole if last else contrast).flatten(1).mean(1).clamp_min(_LEAST)
        product = product * factor ** (weight / sum(_SCALES))
        real, made = F.avg_pool2d(real, 2), F.avg_pool2d(made, 2)
    return product


def divergence(posterior: Law, prior: Law) -> Tensor:
    """d: (B, latent) nats."""
    (mean, log_variance), (centre, log_width) = posterior, prior
    apart = (mean - centre).square() * (-log_width).exp()
    return (apart + (log_variance - log_width).exp() - log_variance + log_width - 1) / 2


def charged(diverged: Tensor, free_bits: float) -> Tensor:
    """What of the divergence d of a batch counts, in nats per image: all that is above `free_bits` in a dimension, and
    these."""
    return diverged.mean(0).clamp_min(free_bits).sum()
