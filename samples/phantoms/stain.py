"""Stain on glass in white light: how much is left of red, green and blue (Beer-Lambert, as in Ruifrok and Johnston).

Each stain has a vector: optical density in red, green and blue of a concentration of 1. Laboratories differ in dye,
time and thickness, so that each patient's slide has vectors, strengths and a white of its own, near published means
(Macenko et al., ISBI 2009).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dicom_io.volume import Float64
from samples.phantoms.texture import Field

_HAEMATOXYLIN, _EOSIN = (0.5626, 0.7201, 0.4062), (0.2159, 0.8012, 0.5581)


@dataclass(frozen=True, eq=False)
class Stain:
    """haematoxylin, eosin: (red, green, blue) optical density of a concentration of 1. white: of bare glass, 0..255."""

    haematoxylin: Float64
    eosin: Float64
    white: Float64

    def light(self, haematoxylin: Field, eosin: Field) -> Field:
        """(rows, columns, 3) of 0..255 for two concentrations of (rows, columns)."""
        vectors = (self.haematoxylin.astype(np.float32), self.eosin.astype(np.float32))
        density = haematoxylin[..., None] * vectors[0] + eosin[..., None] * vectors[1]
        return np.exp(-density) * self.white.astype(np.float32)


def drawn(rng: np.random.Generator) -> Stain:
    """The stain of one laboratory on one day."""
    haematoxylin, eosin = (
        (np.array(mean) + rng.normal(0, 0.028, 3)) * rng.uniform(low, high)
        for mean, low, high in ((_HAEMATOXYLIN, 0.82, 1.18), (_EOSIN, 0.8, 1.25))
    )
    return Stain(haematoxylin, eosin, rng.uniform(238, 247) + rng.normal(0, 0.8, 3))


def seen(rng: np.random.Generator, light: Field) -> npt.NDArray[np.uint8]:
    """The picture that a camera makes of it: (rows, columns, 3), with a little noise."""
    noise = rng.normal(0, 1.6, light.shape).astype(np.float32)
    return np.clip(np.rint(light + noise), 0, 255).astype(np.uint8)
