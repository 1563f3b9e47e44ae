"""A sheet of thumbnails of a cohort, so that a person sees what a network will: a row for each split and class.

Each picture has a window of its own, from its 0.5th to its 99.5th percentile: sheets show content, not brightness. Of a
volume the middle slice is shown, of labelled slices the middle one of the row's class, and of a masked volume the slice
with most of the mask, outlined. A synthetic picture carries its mark below it, and the sheet says that there are some.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dicom_io import picture
from dicom_io.cohort import SPLITS, Cohort, Item, is_colour, load_image, load_mask
from dicom_io.errors import Rejected
from dicom_io.picture import Picture, Tile
from dicom_io.tally import classes_of
from dicom_io.volume import Float32, Volume

PER_ROW, TILE_PX = 8, 160
SYNTHETIC = "SYNTHETIC - not for diagnosis"
SHEET_MARK = "This sheet shows SYNTHETIC pictures, each marked below it. Not for diagnosis."
_UNITS = {"patient": "patients", "slide": "slides", "near-duplicate group": "groups", "none": "patients"}
_WINDOW = (0.5, 99.5)
Progress = Callable[[int, int, str], None]
# Slices of an item that a row is about, or None for all of it.
_Slices = list[int] | None


def _silent(done: int, total: int, what: str) -> None:
    """Tells nobody."""


def write(cohort: Cohort, path: Path, *, per_row: int = PER_ROW, progress: Progress = _silent) -> None:
    """Write the sheet as PNG.

    Raises:
        Rejected: the cohort has no items, or a file of it is missing.
    """
    sheet, synthetic = sheet_of(cohort, per_row=per_row, progress=progress)
    chunks = PngInfo()
    chunks.add_itxt("Description", f"Contact sheet of the cohort {cohort.name}")
    chunks.add_text("Synthetic", "MIXED" if synthetic else "NO")
    Image.fromarray(sheet).save(path, format="PNG", pnginfo=chunks)


def sheet_of(cohort: Cohort, *, per_row: int = PER_ROW, progress: Progress = _silent) -> tuple[Picture, bool]:
    """((rows, columns, 3) sheet, whether a synthetic picture is on it). Raises Rejected as `write` does."""
    rows = _rows(cohort)
    if not rows:
        raise Rejected(f"cohort {cohort.name!r} has no items to show; import some first")
    shown, synthetic = [], False
    for done, (split, name, members) in enumerate(rows):
        progress(done, len(rows), "rows of pictures")
        patients = len({item.patient for item, _ in members})
        heading = f"{split} - {name}: {len(members)} items of {patients} {_UNITS[cohort.split_unit]}"
        chosen = _spread(members, per_row)
        synthetic = synthetic or any(item.synthetic for item, _ in chosen)
        shown.append((heading, [_tile(cohort, item, slices) for item, slices in chosen]))
    progress(len(rows), len(rows), "rows of pictures")
    return picture.contact_sheet(shown, tile_px=TILE_PX, mark=SHEET_MARK if synthetic else ""), synthetic


def _rows(cohort: Cohort) -> list[tuple[str, str, list[tuple[Item, _Slices]]]]:
    rows = []
    for split in SPLITS:
        of_class: dict[str, list[tuple[Item, _Slices]]] = {}
        for item in cohort.splits.get(split, ()):
            for name, slices in classes_of(cohort, item):
                of_class.setdefault(name, []).append((item, slices))
        order = [name for name in cohort.labels if name in of_class]
        order += [name for name in of_class if name not in order]
        rows += [(split, name, of_class[name]) for name in order]
    return rows


def _spread(members: Sequence[tuple[Item, _Slices]], count: int) -> list[tuple[Item, _Slices]]:
    """`count` members at even distances: lists are often sorted by source, and the first few are of one place."""
    if len(members) <= count:
        return list(members)
    return [members[index] for index in np.linspace(0, len(members) - 1, count).round().astype(int)]


def _tile(cohort: Cohort, item: Item, slices: _Slices) -> Tile:
    image = load_image(cohort, item)
    if isinstance(image, Volume):
        mask = load_mask(cohort, item).voxels if item.mask else None
        index = _slice_to_show(image.spatial_shape[0], slices, mask)
        plane = _shown(cohort, image.voxels[:, index])
        if mask is not None and mask[index].any():
            plane = picture.overlay(plane, mask[index].astype(np.int64))
        where = f"{item.patient} slice {index + 1}/{image.spatial_shape[0]}"
    else:
        plane, where = _shown(cohort, image.pixels), item.patient
    rows, columns = plane.shape[:2]
    plane = _fitted(plane)
    if item.synthetic:
        plane = picture.with_caption(plane, SYNTHETIC)
    return Tile(plane, f"{where} {rows}x{columns}")


def _slice_to_show(count: int, slices: _Slices, mask: Float32 | None) -> int:
    among = np.array(slices if slices is not None else range(count))
    if mask is not None and mask[among].any():
        return int(among[(mask[among] > 0).sum((1, 2)).argmax()])
    return int(among[len(among) // 2])


def _shown(cohort: Cohort, planes: Float32) -> Picture:
    """The first channel of (channels, rows, columns) in gray; all three of a cohort in colour."""
    if is_colour(cohort.channels):
        return np.rint(np.clip(np.moveaxis(planes, 0, -1), 0, 255)).astype(np.uint8)
    return _gray(planes[0])


def _gray(plane: Float32) -> Picture:
    low, high = np.percentile(np.nan_to_num(plane), _WINDOW)
    return picture.window(plane, float(low), float(high) if high > low else float(low) + 1)


def _fitted(plane: Picture) -> Picture:
    """As large as a tile, so that the mark below it is not made smaller with a large picture."""
    scale = TILE_PX / max(plane.shape[:2])
    size = max(1, round(plane.shape[1] * scale)), max(1, round(plane.shape[0] * scale))
    return np.asarray(
        Image.fromarray(plane).resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BOX)
    )
