"""From noise to a picture along the probability flow of a denoiser, in few steps and without further randomness.

D(x, sigma) is the expected clean image of a noisy one x = y + sigma n, n ~ N(0, 1). Noise levels sigma_0 > ... >
sigma_N = 0; with sigma(t) = t the flow is dx/dsigma = (x - D(x, sigma)) / sigma (Karras 2022, equation 1).

Own code: MONAI has no EDM schedule, and its schedulers work on a grid of a thousand trained steps.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

Denoise = Callable[[Tensor, float], Tensor]


def levels(steps: int, least: float, most: float, rho: float) -> list[float]:
    """steps + 1 noise levels from most to least, and 0 (Karras 2022, equation 5)."""
    shares = torch.linspace(0, 1, steps, dtype=torch.float64)
    falling = (most ** (1 / rho) + shares * (least ** (1 / rho) - most ** (1 / rho))) ** rho
    return [*falling.tolist(), 0.0]


def heun(denoise: Denoise, image: Tensor, sigmas: list[float]) -> Tensor:
    """Second order, two calls for each step but the last (Karras 2022, algorithm 1). image: of noise sigmas[0]."""
    for now, following in itertools.pairwise(sigmas):
        slope = (image - denoise(image, now)) / now
        ahead = image + (following - now) * slope
        if following:
            slope = (slope + (ahead - denoise(ahead, following)) / following) / 2
            ahead = image + (following - now) * slope
        image = ahead
    return image


def dpm_solver(denoise: Denoise, image: Tensor, sigmas: list[float]) -> Tensor:
    """DPM-Solver++(2M), second order, one call a step (Lu 2022, arXiv 2211.01095, algorithm 2, with alpha = 1).

    In lambda = -ln sigma, a step h and the one before it give D = (1 + h / 2 h') D_now - h / 2 h' D_before. First and
    last step are of first order: there is none before, and the last one is infinitely long.
    """
    before: Tensor | None = None
    length_before = 0.0
    for now, following in itertools.pairwise(sigmas):
        clean = denoise(image, now)
        length = math.log(now / following) if following else math.inf
        aim = clean
        if before is not None and following:
            share = length / (2 * length_before)
            aim = (1 + share) * clean - share * before
        image = following / now * image - math.expm1(-length) * aim
        before, length_before = clean, length
    return image


SAMPLERS: dict[str, Callable[[Denoise, Tensor, list[float]], Tensor]] = {"heun": heun, "dpm-solver++": dpm_solver}
