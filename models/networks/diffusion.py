"""A denoiser and its sampler: EDM preconditioning (Karras 2022, equation 7 and table 1) around a U-Net.

    D(x, sigma) = c_skip x + c_out F(c_in x, c_noise),  all about the mean of the data, with s = sigma_data:
    c_skip = s^2 / (sigma^2 + s^2)    c_out = sigma s / sqrt(sigma^2 + s^2)
    c_in = 1 / sqrt(sigma^2 + s^2)    c_noise = ln(sigma) / 4

With F = 0, which the U-Net begins with, D is the best denoiser of white Gaussian data of that mean and deviation. The
paper's pictures have a mean near 0; slices on black do not, and without the mean F's input would not have variance 1.
Where a picture has several planes, each has its own mean and deviation: a mask is emptier than the image it lies on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from models.networks.denoiser import UNet
from models.networks.samplers import SAMPLERS, levels
from models.networks.spatial import to_maps

_BATCH = 32


class Diffusion(nn.Module):
    """Noise image and class number -> image (`models.networks.maker`); as a module, D of noisy images.

    data_mean, sigma_data: of the pixels of the training images, in [-1, 1], of each plane where there are several.
    classes: 0 where it knows no labels; number `classes` stands for "no class said". dims: 3 makes volumes. The other
    arguments are those of `models.diffusion_recipe`.

    Raises:
        ValueError: a sampler of another name, sigma_data is not positive, or not of as many planes as data_mean.
    """

    data_mean: Tensor
    sigma_data: Tensor

    def __init__(
        self,
        image_px: int,
        channels: Sequence[int],
        residual_blocks: int,
        attention_levels: int,
        dropout: float,
        classes: int,
        data_mean: float | Sequence[float],
        sigma_data: float | Sequence[float],
        sampler: str,
        steps: int,
        guidance: float,
        sigma_least: float,
        sigma_most: float,
        rho: float,
        dims: int = 2,
    ) -> None:
        super().__init__()
        if sampler not in SAMPLERS:
            raise ValueError(f"sampler {sampler!r} is none of {', '.join(SAMPLERS)}")
        means, deviations = (
            torch.tensor([given] if isinstance(given, float | int) else given) for given in (data_mean, sigma_data)
        )
        if len(means) != len(deviations) or float(deviations.min()) <= 0:
            raise ValueError(f"sigma_data {sigma_data} is not above 0, or not of the planes of data_mean {data_mean}")
        self.image_px, self.classes, self.planes = image_px, classes, len(means)
        self.size = (image_px,) * dims
        # (planes, 1, ...); not among the weights, since the definition has them.
        for name, values in (("data_mean", means), ("sigma_data", deviations)):
            self.register_buffer(name, values.reshape(-1, *[1] * dims), persistent=False)
        self.guidance = guidance
        self._sampler, self._levels = SAMPLERS[sampler], levels(steps, sigma_least, sigma_most, rho)
        # One more class number than there are classes stands for none.
        self.unet = UNet(
            channels, residual_blocks, attention_levels, dropout, classes + 1 if classes else 0, len(means), dims
        )

    @staticmethod
    def noise_shape(definition: Mapping[str, Any]) -> tuple[int, list[int]]:
        """Channels and pixels of the noise: a picture of it."""
        mean = definition["data_mean"]
        return len(mean) if isinstance(mean, list) else 1, [definition["image_px"]] * definition.get("dims", 2)

    def forward(self, noisy: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        """D. noisy: (B, planes, *size); sigma: (B,); labels: (B,), None says no class. float32 comes back."""
        level = to_maps(sigma[:, None], noisy)
        total = (level**2 + self.sigma_data**2).sqrt()
        centred = noisy - self.data_mean
        if self.classes and labels is None:
            labels = torch.full((len(noisy),), self.classes, device=noisy.device)
        found = self.unet(centred / total, sigma.log() / 4, labels if self.classes else None).float()
        clean = (self.sigma_data / total) ** 2 * centred + level * self.sigma_data / total * found
        return self.data_mean + clean

    def guided(self, noisy: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        """D of the class, pushed away from D of no class (classifier-free guidance: Ho 2022, equation 6).

        The weight is that of the class: D_none + guidance (D_class - D_none), so 1 is D of the class.
        """
        if not self.classes or labels is None or self.guidance == 1:
            return self(noisy, sigma, labels)
        without = self(noisy, sigma, None)
        return without + self.guidance * (self(noisy, sigma, labels) - without)

    def noise(self, source: torch.Generator) -> Tensor:
        """One picture of N(0, 1), (1, planes, *size)."""
        return torch.randn((1, self.planes, *self.size), generator=source)

    @torch.inference_mode()
    def sample(self, noise: Tensor, labels: Tensor | None) -> Tensor:
        """(B, planes, *size) of N(0, 1) -> pictures in [-1, 1]. The path is float64 on a CPU, calls float32."""
        wide = torch.float64 if noise.device.type in ("cpu", "cuda") else torch.float32

        def denoise(image: Tensor, sigma: float) -> Tensor:
            of_all = torch.full((len(image),), sigma, device=image.device)
            return self.guided(image.float(), of_all, labels).to(wide)

        first = self.data_mean + self._levels[0] * noise.to(wide)
        return self.picture(self._sampler(denoise, first, self._levels).float())

    def picture(self, clean: Tensor) -> Tensor:
        """What the sampler leaves -> pictures in [-1, 1]."""
        return clean.clamp(-1, 1)

    def make(self, source: torch.Generator, label: int | None = None) -> Tensor:
        """One picture (planes, *size) in [-1, 1]: a function of the source's state and the label alone."""
        return self.sample(self.noise(source), None if label is None else torch.tensor([label]))[0]

    def make_many(self, sources: Sequence[torch.Generator], labels: Tensor | None, on: torch.device) -> Tensor:
        """(n, planes, *size) in [-1, 1] on the CPU. labels: (n,), on the CPU."""
        made = []
        for start in range(0, len(sources), _BATCH):
            noise = torch.cat([self.noise(source) for source in sources[start : start + _BATCH]]).to(on)
            known = None if labels is None else labels[start : start + _BATCH].to(on)
            made.append(self.sample(noise, known).cpu())
        return torch.cat(made)
