"""Feature spaces that need no download: a random network, and an autoencoder trained on the training patients alone.

Distances in either are no literature FID or KID (those use Inception features of photographs); reports name the space.
"""

# torch leaves Tensor.backward and Tensor.split without types.
# mypy: disallow-untyped-calls=False

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from monai.networks.nets import VarAutoEncoder
from torch import Tensor

_RANDOM_SEED = 20200622


class RandomFeatures:
    """Pictures (N, planes, px, px) in [-1, 1] -> (N, 224): means and deviations of the maps of a fixed-seed network.

    planes: of a picture; each number of them has a network of its own. Volumes (N, planes, px, px, px) are seen as nine
    slices, three along each axis: (N, 672), means over the three.
    Untrained features rank images that are far from photographs better than ImageNet's (Naeem 2020, section 5).
    """

    name = "random network"

    def __init__(self, planes: int = 1) -> None:
        source = torch.Generator().manual_seed(_RANDOM_SEED)
        self._kernels: list[Tensor] = []
        for before, after in ((planes, 16), (16, 32), (32, 64)):
            kernel = torch.randn(after, before, 4, 4, generator=source)
            # Kernels of zero mean answer to structure alone; half of the first layer's keep the brightness.
            structure = kernel - kernel.mean(dim=(1, 2, 3), keepdim=True)
            kernel = torch.cat([kernel[: after // 2], structure[after // 2 :]]) if not self._kernels else structure
            self._kernels.append(kernel * (2 / (16 * before)) ** 0.5)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        if images.ndim == 5:
            return torch.cat([torch.stack([*map(self, _three(images, axis))]).mean(0) for axis in (2, 3, 4)], 1)
        rows = []
        for maps in images.split(256):
            parts = []
            for kernel in self._kernels:
                maps = F.leaky_relu(F.conv2d(maps, kernel, stride=2, padding=1), 0.2)
                parts += [maps.mean(dim=(2, 3)), maps.std(dim=(2, 3))]
            rows.append(torch.cat(parts, 1))
        return torch.cat(rows).double()


def _three(volumes: Tensor, axis: int) -> list[Tensor]:
    """(N, planes, rows, columns): the slices at a quarter, a half and three quarters."""
    return [volumes.select(axis, volumes.shape[axis] * quarter // 4) for quarter in (1, 2, 3)]


class EncodedFeatures:
    """Images (N, planes, px, px), or volumes, -> (N, 32): the bottleneck of an autoencoder of the training patients.

    MONAI's VarAutoEncoder without its noise and its prior: mean squared error, features centred and scaled on training.
    """

    name = "autoencoder of the training patients"

    def __init__(self, training: Tensor, *, steps: int = 300, seed: int = 0) -> None:
        training = self._shown(training)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            planes, px = training.shape[1], training.shape[-1]
            levels = max(1, int(math.log2(px)) - 2)
            self._network = VarAutoEncoder(
                spatial_dims=training.ndim - 2,
                in_shape=(planes, *training.shape[2:]),
                out_channels=planes,
                latent_size=32,
                channels=tuple(8 * 2**level for level in range(levels)),
                strides=(2,) * levels,
                norm="batch",
                use_sigmoid=False,
            )
            optimiser = torch.optim.Adam(self._network.parameters(), lr=2e-3)
            for _ in range(steps):
                batch = training[torch.randint(len(training), (32,))]
                decoded = self._network.decode_forward(self._code(batch), use_sigmoid=False)
                loss = F.mse_loss(decoded, batch)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
        self._network.eval()
        self._centre, self._scale = torch.zeros(32), torch.ones(32)
        codes = self._codes(training).float()
        self._centre, self._scale = codes.mean(0), codes.std(0).clamp_min(1e-6)

    def _shown(self, images: Tensor) -> Tensor:
        """What the autoencoder is shown of images."""
        return images

    def _code(self, images: Tensor) -> Tensor:
        mean, _ = self._network.encode_forward(images)
        return mean

    def __call__(self, images: Tensor) -> Tensor:
        return self._codes(self._shown(images))

    @torch.inference_mode()
    def _codes(self, shown: Tensor) -> Tensor:
        return torch.cat([(self._code(batch) - self._centre) / self._scale for batch in shown.split(256)]).double()


class ContentFeatures(EncodedFeatures):
    """The same of images whose brightness and contrast were taken out, one by one: a copy in other grey levels lies on
    its original. For distances of distributions this would hide too much."""

    name = "autoencoder without brightness and contrast"

    def _shown(self, images: Tensor) -> Tensor:
        flat = images.flatten(1)
        one_each = [-1] + [1] * (images.ndim - 1)
        mean, deviation = flat.mean(1).reshape(one_each), flat.std(1).clamp_min(1e-6).reshape(one_each)
        # Within the range of the decoder's images, nearly all of them.
        return (images - mean) / (3 * deviation)
