"""A sheet of generated pictures as PNG, which says so in its text and on its face (promise 5)."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, PngImagePlugin

from dicom_io.volume import Float32

_STRIP_PX = 14


def save(samples: Float32, value_range: tuple[float, float], path: Path, *, model: str, seed: int) -> None:
    """samples: (n, rows, columns). A strip above the pictures bears the mark; PNG text Synthetic=YES, Model, Seed."""
    low, high = value_range
    count, rows, columns = samples.shape
    across = math.ceil(math.sqrt(count))
    down = math.ceil(count / across)
    sheet = np.zeros((_STRIP_PX + down * rows, across * columns), np.uint8)
    for number, sample in enumerate(samples):
        top, left = _STRIP_PX + number // across * rows, number % across * columns
        sheet[top : top + rows, left : left + columns] = np.clip((sample - low) / (high - low) * 255 + 0.5, 0, 255)
    picture = Image.fromarray(sheet)
    ImageDraw.Draw(picture).text((2, 1), "SYNTHETIC", fill=255)
    text = PngImagePlugin.PngInfo()
    for key, value in (("Synthetic", "YES"), ("Model", model), ("Seed", str(seed))):
        text.add_text(key, value)
    picture.save(path, pnginfo=text)
