"""Values -> pictures that a person looks at: windows, overlays, captions, contact sheets, PNG.

A picture is uint8, (rows, columns) gray or (rows, columns, 3) RGB, row 0 at the top, column 0 at the left: a slice is
shown as it is stored. Pixels in, pixels out: no function changes the array that it is given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from scipy import ndimage

Picture = npt.NDArray[np.uint8]
Ink = npt.NDArray[np.bool_]
Colour = tuple[int, int, int]

# Colours that stay apart on gray and for most colour-blind people (Okabe and Ito, 2008).
PALETTE: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (213, 94, 0),
    (204, 121, 167),
)
_SMALLEST_FONT_PX, _LARGEST_FONT_PX = 11, 28


def window(values: npt.ArrayLike, low: float, high: float) -> Picture:
    """Values -> gray of one byte: `low` and below is 0, `high` and above 255, linear between.

    Raises:
        ValueError: `high` is not above `low`.
    """
    if not high > low:
        raise ValueError(f"a window from {low} to {high} shows nothing; the upper end must be above the lower one")
    scaled = (np.asarray(values, np.float64) - low) * (255.0 / (high - low))
    return np.rint(np.clip(np.nan_to_num(scaled), 0.0, 255.0)).astype(np.uint8)


def rgb(picture: Picture) -> Picture:
    """(..., rows, columns) gray -> (..., rows, columns, 3); a colour picture as it is (last axis of 3 and 3 axes)."""
    if picture.ndim == 3 and picture.shape[-1] == 3:
        return picture
    return np.repeat(picture[..., np.newaxis], 3, axis=-1)


def enlarged(picture: Picture, zoom: int) -> Picture:
    """Each pixel of a (rows, columns[, 3]) picture or mask as a block of zoom x zoom: bigger, and nothing invented."""
    return np.repeat(np.repeat(picture, zoom, axis=0), zoom, axis=1)


def overlay(
    picture: Picture,
    mask: npt.NDArray[np.generic],
    colours: Mapping[int, Colour] | None = None,
    *,
    opacity: float = 0.25,
    outline_px: int = 1,
) -> Picture:
    """A picture with the labels of `mask` tinted and outlined in their colours.

    picture: gray or RGB. mask: (rows, columns) of integers, 0 nothing. colours: label -> RGB; None for `PALETTE`.
    outline_px: width of the outline, drawn inside the label, so that it never covers a pixel outside; 0 for none.

    Raises:
        ValueError: mask and picture differ in size, or a label has no colour.
    """
    shown = rgb(picture).astype(np.float64)
    if shown.shape[:2] != mask.shape:
        raise ValueError(f"a mask of {mask.shape} does not fit a picture of {shown.shape[:2]}")
    labels = [int(label) for label in np.unique(mask) if label != 0]
    colours = colours or {label: PALETTE[(label - 1) % len(PALETTE)] for label in labels}
    for label in labels:
        if label not in colours:
            raise ValueError(f"label {label} has no colour; colours are given for {sorted(colours)}")
        inside, colour = mask == label, np.array(colours[label], np.float64)
        shown[inside] = (1 - opacity) * shown[inside] + opacity * colour
        if outline_px:
            # Beyond the border counts as inside: a label that is cut by the border has no outline there.
            core = ndimage.binary_erosion(inside, ndimage.generate_binary_structure(2, 1), outline_px, border_value=1)
            shown[inside & ~core] = colour
    return np.rint(shown).astype(np.uint8)


def heat(picture: Picture, probability: npt.ArrayLike, *, opacity: float = 0.6) -> Picture:
    """A picture under a map of probabilities 0 to 1: nothing at 0, over red at 0.5 to yellow at 1.

    Raises:
        ValueError: map and picture differ in size.
    """
    chance = np.clip(np.asarray(probability, np.float64), 0.0, 1.0)[..., np.newaxis]
    shown = rgb(picture).astype(np.float64)
    if shown.shape[:2] != chance.shape[:2]:
        raise ValueError(f"a map of {chance.shape[:2]} does not fit a picture of {shown.shape[:2]}")
    colour = 255.0 * np.concatenate([np.clip(2 * chance, 0, 1), np.clip(2 * chance - 1, 0, 1), 0 * chance], axis=-1)
    share = opacity * np.clip(2 * chance, 0.0, 1.0)
    return np.rint((1 - share) * shown + share * colour).astype(np.uint8)


@cache
def _font(size_px: int) -> ImageFont.FreeTypeFont:
    # The scalable font that Pillow carries; its bitmap font is too small to read.
    font = ImageFont.load_default(size=size_px)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise ValueError("Pillow was built without FreeType and cannot draw text; install Pillow's own wheel")
    return font


def text_strip(text: str, columns: int) -> Ink:
    """Text as ink in a strip: (rows, columns), as many rows as it needs; words wrap, and break where they are too long.

    The size of the letters follows the width, from 11 to 28 pixels.
    """
    font = _font(int(np.clip(columns // 16, _SMALLEST_FONT_PX, _LARGEST_FONT_PX)))
    lines = _wrapped(text, font, columns - 4)
    ascent, descent = font.getmetrics()
    image = Image.new("L", (columns, len(lines) * (ascent + descent) + 4))
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        draw.text((2, 2 + number * (ascent + descent)), line, fill=255, font=font)
    return np.asarray(image) >= 96


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    lines: list[str] = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if lines[-1] and font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines


def with_caption(picture: Picture, text: str) -> Picture:
    """A picture with text in a black strip below it; the picture's own pixels are untouched, at the top left."""
    ink = text_strip(text, picture.shape[1])
    strip = np.where(ink, 255, 0).astype(np.uint8)
    return np.concatenate([picture, rgb(strip) if picture.ndim == 3 else strip])


def with_captions(pictures: Sequence[Picture], texts: Sequence[str]) -> npt.NDArray[np.uint8]:
    """Pictures of one size, each with its own text below, as one array; all strips are as high as the highest."""
    inks = [text_strip(text, picture.shape[1]) for picture, text in zip(pictures, texts, strict=True)]
    height = max(len(ink) for ink in inks)
    frames = []
    for picture, ink in zip(pictures, inks, strict=True):
        strip = np.zeros((height, picture.shape[1]), np.uint8)
        strip[: len(ink)][ink] = 255
        frames.append(np.concatenate([picture, rgb(strip) if picture.ndim == 3 else strip]))
    return np.stack(frames)


@dataclass(frozen=True, eq=False)
class Tile:
    """One picture of a contact sheet, and the words below it."""

    picture: Picture
    caption: str = ""


def contact_sheet(rows: Sequence[tuple[str, Sequence[Tile]]], *, tile_px: int = 220, mark: str = "") -> Picture:
    """Rows of tiles, each row under its heading, on white.

    tile_px: side of the square that each picture is fitted into; it grows by whole pixels and shrinks smoothly.
    mark: visible mark for sheets with synthetic pictures, in a strip at the bottom.

    Raises:
        ValueError: no tiles.
    """
    if not any(tiles for _, tiles in rows):
        raise ValueError("a contact sheet without tiles shows nothing; give at least one")
    columns = max(len(tiles) for _, tiles in rows)
    gap, width = 8, columns * (tile_px + 8) + 8
    bands = []
    for heading, tiles in rows:
        if heading:
            bands.append(_dark_on_white(text_strip(heading, width)))
        cells = [_cell(tile, tile_px, gap) for tile in tiles]
        cells += [np.full((gap, tile_px, 3), 255, np.uint8)] * (columns - len(cells))
        height = max(len(cell) for cell in cells)
        band = np.full((height, width, 3), 255, np.uint8)
        for number, cell in enumerate(cells):
            left = gap + number * (tile_px + gap)
            band[: len(cell), left : left + tile_px] = cell
        bands.append(band)
    if mark:
        bands.append(_dark_on_white(text_strip(mark, width)))
    return np.concatenate(bands)


def _dark_on_white(ink: Ink) -> Picture:
    return rgb(np.where(ink, 0, 255).astype(np.uint8))


def _cell(tile: Tile, tile_px: int, gap: int) -> Picture:
    image = Image.fromarray(np.ascontiguousarray(rgb(tile.picture)))
    scale = tile_px / max(image.size)
    if scale >= 1:
        size = (image.width * int(scale), image.height * int(scale))
        image = image.resize(size, Image.Resampling.NEAREST)
    else:
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.LANCZOS)
    square = Image.new("RGB", (tile_px, tile_px), (255, 255, 255))
    square.paste(image, ((tile_px - image.width) // 2, (tile_px - image.height) // 2))
    parts = [np.asarray(square)]
    if tile.caption:
        parts.append(_dark_on_white(text_strip(tile.caption, tile_px)))
    return np.concatenate([*parts, np.full((gap, tile_px, 3), 255, np.uint8)])


@dataclass(frozen=True)
class SyntheticMark:
    """What a picture with generated pixels says of itself (promise 5). model: name:version."""

    model: str
    seed: int
    audit_id: str = ""

    @property
    def text(self) -> str:
        return f"SYNTHETIC - {self.model} - not for diagnosis"


def png(picture: Picture, *, synthetic: SyntheticMark | None = None, description: str = "") -> bytes:
    """A picture as PNG; a synthetic one gets the visible mark in a strip below it, and says the same in text chunks."""
    chunks = PngInfo()
    if description:
        chunks.add_itxt("Description", description)
    if synthetic is not None:
        picture = with_caption(picture, synthetic.text)
        chunks.add_text("Synthetic", "YES")
        chunks.add_text("Model", synthetic.model)
        chunks.add_text("Seed", str(synthetic.seed))
        chunks.add_text("AuditID", synthetic.audit_id)
    buffer = BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, format="PNG", pnginfo=chunks)
    return buffer.getvalue()


def save_png(picture: Picture, path: Path, *, synthetic: SyntheticMark | None = None, description: str = "") -> None:
    """Write `png` to a file."""
    path.write_bytes(png(picture, synthetic=synthetic, description=description))
