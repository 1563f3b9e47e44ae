"""Random changes of grey levels and colours, image by image different: brightness, noise, coils, matrices, stains.

What lies where does not change. Every draw comes from the generator that is handed in, and one that is not asked for is
not drawn.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dicom_io.errors import Rejected
from models.augmentation_recipe import Augmentation

# Optical densities of red, green and blue of haematoxylin, eosin and diaminobenzidine (Ruifrok and Johnston 2001).
_DYES = torch.tensor([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
_BLACKEST = 1e-3
_DEGREE = 3


def regraded(
    images: Tensor,
    settings: Augmentation,
    generator: torch.Generator,
    span: tuple[float, float],
    nothing: float = 0.0,
) -> Tensor:
    """images: (B, C, rows, columns), or of volumes. span: black and white of colours. nothing: the value of no signal,
    about which gain and bias field multiply.

    Raises:
        Rejected: stain is asked for, and these are no colours between black and white.
    """
    one_each = (len(images), *[1] * (images.ndim - 1))
    if settings.stain:
        images = stained(images, settings.stain, span, generator)
    if settings.bias_field:
        images = (images - nothing) * bias_fields(images, settings.bias_field, generator) + nothing
    if settings.gibbs:
        images = truncated(images, settings.gibbs, generator)
    if settings.gain:
        images = (images - nothing) * (1 + settings.gain * signed(one_each, generator, images.device)) + nothing
    if settings.offset:
        images = images + settings.offset * signed(one_each, generator, images.device)
    if settings.noise:
        amount = settings.noise * torch.rand(one_each, generator=generator).to(images.device)
        images = images + amount * torch.randn(images.shape, generator=generator).to(images.device)
    return images


def signed(shape: tuple[int, ...], generator: torch.Generator, device: torch.device) -> Tensor:
    """Uniform in [-1, 1)."""
    return (torch.rand(shape, generator=generator) * 2 - 1).to(device)


def stained(images: Tensor, share: float, span: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Other amounts of haematoxylin, eosin and what is neither: optical densities of each are multiplied by 1 ± `share`
    and raised by ± `share` (Tellez 2018; there 0.05 is light, 0.2 strong).

    images: (B, 3, rows, columns), red, green and blue. span: black and white.

    Raises:
        Rejected: not three channels, or values outside the span.
    """
    black, white = span
    slack = 1e-3 * (white - black)
    low, high = float(images.min()), float(images.max())
    if images.shape[1] != 3 or low < black - slack or high > white + slack:
        raise Rejected(
            f"augmentation.stain: {images.shape[1]} channels from {low:.3g} to {high:.3g} are no red, green and blue "
            f"between {black:g} and {white:g}; set stain to 0, or stain_range to what black and white are after the "
            "input chain"
        )
    dyes = _DYES.to(images)
    densities = -((images - black) / (white - black)).clamp_min(_BLACKEST).log()
    amounts = torch.einsum("bchw,cd->bdhw", densities, torch.linalg.inv(dyes))
    factors = 1 + share * signed((len(images), 3, 1, 1), generator, images.device)
    amounts = amounts * factors + share * signed((len(images), 3, 1, 1), generator, images.device)
    shown = torch.exp(-torch.einsum("bdhw,dc->bchw", amounts, dyes)).clamp(0, 1)
    return black + shown * (white - black)


def bias_fields(images: Tensor, largest: float, generator: torch.Generator) -> Tensor:
    """(B, 1, rows, columns): exp of a polynomial of degree 3, whose coefficients lie within ± `largest` (Van Leemput
    1999). One for all channels of an image, as one coil receives them."""
    rows, columns = (torch.linspace(-1, 1, side) for side in images.shape[-2:])
    powers = [(i, j) for i in range(_DEGREE + 1) for j in range(_DEGREE + 1 - i) if i + j]
    terms = torch.stack([rows[:, None] ** i * columns**j for i, j in powers])
    coefficients = largest * signed((len(images), len(powers)), generator, torch.device("cpu"))
    return torch.einsum("bk,khw->bhw", coefficients, terms).exp()[:, None].to(images)


def truncated(images: Tensor, largest: float, generator: torch.Generator) -> Tensor:
    """A smaller acquired matrix: of each image the same share, up to `largest`, of the frequencies of both axes is cut
    off, which rings beside edges (Gibbs; Czervionke 1988)."""
    cut = largest * torch.rand(len(images), generator=generator)
    down, across = ((torch.fft.fftfreq(side).abs() * 2)[None] <= 1 - cut[:, None] for side in images.shape[-2:])
    passed = down[:, None, :, None] & across[:, None, None, :]
    spectrum = torch.fft.fft2(images.float()) * passed.to(images.device)
    return torch.fft.ifft2(spectrum).real.to(images.dtype)
