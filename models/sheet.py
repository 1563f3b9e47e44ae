"""Sheets of generated pictures, as PNG and animated GIF, which say so in their text and on their face (promise 5)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, PngImagePlugin

from dicom_io.volume import Float32

_STRIP_PX = 14
_FRAME_MS, _LAST_MS = 250, 2000


def save(
    samples: Float32,
    value_range: tuple[float, float],
    path: Path,
    *,
    model: str,
    seed: int,
    colour: bool = False,
    across: int | None = None,
    progress: float | None = None,
) -> None:
    """samples: (n, planes, rows, columns); three planes that are `colour` are one picture, others lie side by side. A
    strip above the pictures bears the mark; PNG text Synthetic=YES, Model, Seed.

    across: pictures in a row; about as many as rows where not given. progress: 0 to 1, a line below the mark.
    """
    low, high = value_range
    shown = frames(samples, colour)
    count, rows, columns = shown.shape[:3]
    across = across or math.ceil(math.sqrt(count))
    down = math.ceil(count / across)
    sheet = np.zeros((_STRIP_PX + down * rows, across * columns, *shown.shape[3:]), np.uint8)
    for number, sample in enumerate(shown):
        top, left = _STRIP_PX + number // across * rows, number % across * columns
        sheet[top : top + rows, left : left + columns] = np.clip((sample - low) / (high - low) * 255 + 0.5, 0, 255)
    if progress is not None:
        sheet[_STRIP_PX - 1, : round(progress * sheet.shape[1])] = 255
    picture = Image.fromarray(sheet)
    ImageDraw.Draw(picture).text((2, 1), "SYNTHETIC", fill=(255, 255, 255) if colour else 255)
    text = PngImagePlugin.PngInfo()
    for key, value in (("Synthetic", "YES"), ("Model", model), ("Seed", str(seed))):
        text.add_text(key, value)
    picture.save(path, pnginfo=text)


def frames(samples: Float32, colour: bool) -> Float32:
    """(n, planes, rows, columns) -> (n, rows, planes * columns), or (n, rows, columns, 3) where they are colours."""
    count, _, rows, _ = samples.shape
    return np.moveaxis(samples, 1, -1) if colour else np.moveaxis(samples, 1, 2).reshape(count, rows, -1)


def middle_slices(samples: Float32) -> Float32:
    """Of volumes (n, planes, px, px, px) the middle slice along each axis, as planes (n, 3 * planes, px, px); slices as
    they are."""
    if samples.ndim == 4:
        return samples
    return np.concatenate([np.take(samples, samples.shape[axis] // 2, axis) for axis in (2, 3, 4)], 1)


def animate(sheets: Sequence[Path], path: Path, *, most: int = 60) -> None:
    """Sheets that `save` wrote as one GIF, in their order, thinned evenly to `most`; every frame bears the mark, and
    the comment says Synthetic=YES with model and seed."""
    chosen = np.unique(np.linspace(0, len(sheets) - 1, min(most, len(sheets))).round().astype(int))
    frames = []
    for index in chosen:
        with Image.open(sheets[index]) as sheet:
            sheet.load()
            text = sheet.text
            frames.append(sheet.copy())
    comment = "; ".join(f"{key}={value}" for key, value in text.items())
    frames[0].save(
        path,
        save_all=True,
        append_images=frames[1:],
        duration=[_FRAME_MS] * (len(frames) - 1) + [_LAST_MS],
        loop=0,
        comment=comment.encode(),
    )
