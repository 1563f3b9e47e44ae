"""Whole slides in DICOM as tiles in colour: with a SEG of each slide a label per tile, carcinoma or not.

A tile is a projection of red, green and blue, whose place in the level stands in its provenance with the share of it
that the SEG calls carcinoma. Tiles do not overlap, none reaches over the border, and those with little tissue are left
out. All slides give tiles of one spacing: that of the first slide's level nearest to `SPACING_UM`; nothing is
resampled.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from dicom_io import cohort as cohorts
from dicom_io import dataset, segmentation, slide_segmentation, subgroups
from dicom_io.cohort import Cohort, Item, Task
from dicom_io.errors import Rejected
from dicom_io.pseudonym import hidden_projection, pseudonym
from dicom_io.series import files_below
from dicom_io.slide import LEAST_TISSUE, SOP_CLASS, Level, Slide, Tile
from samples.importers import pictures
from samples.importers.by_patient import Plan, Progress, gather, split

CHANNELS = cohorts.colour_channels("SM")
LABELS = ("no carcinoma", "invasive carcinoma")
SPACING_UM = 2.0  # 5x: a lumen with its cells fits into a tile
SIDE_PX = 64
# Share of a tile that has to be carcinoma for the tile to be called so.
LEAST_CARCINOMA = 0.5
_CARCINOMA = re.compile(r"carcinoma|cancer|tumou?r|malignan|neoplas", re.IGNORECASE)


@dataclass
class _Found:
    """A slide's files, by its series. header: of one of its levels. masks: SEG in its frame of reference."""

    header: Dataset
    files: list[Path] = field(default_factory=list)
    masks: list[Path] = field(default_factory=list)

    @property
    def patient(self) -> str:
        return str(self.header.get("PatientID") or "")

    @property
    def uid(self) -> str:
        return str(self.header.SeriesInstanceUID)


def tiles(source: Path, out: Path, key: bytes, progress: Progress) -> Cohort:
    """Tiles of all slides below a folder. Where no slide has a SEG, they are for generators and have no labels.

    A slide that cannot be used is left out with its reason: among others, one without a SEG where others have one, and
    one whose SEG a program drew.

    Raises:
        Rejected: no slide is there, or those of fewer than three patients.
    """
    found = _survey(source)
    left_out = [f"slide {pseudonym(key, each.uid)} has no Patient ID (0010,0020)" for each in found if not each.patient]
    found = [each for each in found if each.patient]
    task: Task = "classification" if any(each.masks for each in found) else "generation"
    spacing_um = _spacing(found)
    plan = Plan(
        name="slide-tiles",
        description=f"Tiles of {SIDE_PX} x {SIDE_PX} pixels of {spacing_um:.3g} um",
        task=task,
        labels=LABELS if task == "classification" else (),
        channels=CHANNELS,
    )
    splits = split((each.patient for each in found), plan.name)
    return gather(plan, out, splits, partial(_items, found, spacing_um, task, out, key, left_out), progress, left_out)


def tiles_of(
    slide: Slide,
    level: Level,
    mask: npt.NDArray[np.bool_] | None,
    out: Path,
    key: bytes,
    patient: str,
    name: str,
    provenance: Mapping[str, Any],
    *,
    side_px: int = SIDE_PX,
) -> list[Item]:
    """The tiles of a level as items NAME_rROW_cCOLUMN. mask: of carcinoma, over the whole slide at any resolution."""
    items = []
    for tile in slide.tiles(level, (side_px, side_px), least_tissue=LEAST_TISSUE, edges="drop"):
        place = {"row": tile.row, "column": tile.column, "tissue": round(tile.tissue, 4)}
        carcinoma = None if mask is None else round(share(mask, tile), 4)
        item = cohorts.add_projection(
            out,
            f"{name}_r{tile.row}_c{tile.column}",
            hidden_projection(key, tile.projection),
            patient,
            channel="colour",
            label=None if carcinoma is None else int(carcinoma >= LEAST_CARCINOMA),
            provenance={**provenance, **place, **({} if carcinoma is None else {"carcinoma": carcinoma})},
        )
        items.append(item)
    return items


def share(mask: npt.NDArray[np.bool_], tile: Tile) -> float:
    """Share of a tile that lies in a mask of the whole slide, whatever the mask's resolution."""
    first = np.array([tile.row, tile.column])
    scale = np.array(mask.shape) / tile.level.shape
    start = np.floor(first * scale).astype(int)
    stop = np.maximum(np.rint((first + tile.inside) * scale).astype(int), start + 1)
    return float(mask[start[0] : stop[0], start[1] : stop[1]].mean())


def _survey(source: Path) -> list[_Found]:
    """Slides in the order of their UIDs, with the SEG objects that lie in their frames of reference."""
    found: dict[str, _Found] = {}
    masks: list[tuple[str, Path]] = []
    for path in files_below([source]):
        with path.open("rb") as file:
            if file.read(132)[128:] != b"DICM":
                continue
        header = dataset.read(path, stop_before_pixels=True)
        if header.get("SOPClassUID") == SOP_CLASS:
            found.setdefault(str(header.SeriesInstanceUID), _Found(header)).files.append(path)
        elif header.get("Modality") == "SEG" and header.get("TotalPixelMatrixRows"):
            masks.append((str(header.get("FrameOfReferenceUID")), path))
    if not found:
        raise Rejected(f"{source} holds no {SOP_CLASS} (whole slide); give the folder that holds the slides")
    for slide in found.values():
        slide.masks = [path for frame, path in masks if frame == slide.header.get("FrameOfReferenceUID")]
    return [found[uid] for uid in sorted(found)]


def _spacing(found: list[_Found]) -> float:
    """Of the first slide that opens, in um."""
    for each in found:
        try:
            with Slide(each.files) as slide:
                steps = [10 / level.magnification for level in slide.levels]
        except Rejected:
            continue
        return min(steps, key=lambda step: abs(math.log(step / SPACING_UM)))
    raise Rejected(f"none of {len(found)} slides can be opened; try one with dicom_io.slide.Slide, which says why")


def _items(
    found: list[_Found], spacing_um: float, task: Task, out: Path, key: bytes, left_out: list[str], patient: str
) -> list[Item]:
    items: list[Item] = []
    for each in (each for each in found if each.patient == patient):
        try:
            items += _of_slide(each, spacing_um, task, out, key)
        except Rejected as reason:
            left_out.append(f"slide {pseudonym(key, each.uid)}: {_without_uids(str(reason))}")
    return items


def _of_slide(each: _Found, spacing_um: float, task: Task, out: Path, key: bytes) -> list[Item]:
    patient = pseudonym(key, each.patient, prefix="P")
    provenance = pictures.provenance("slide-tiles", **subgroups.provenance(each.header))
    with Slide(each.files) as slide:
        mask = _mask(each, slide) if task == "classification" else None
        level = slide.level_near(spacing_um=spacing_um)
        name = f"{patient}_{pseudonym(key, each.uid)[:6]}"
        return tiles_of(slide, level, mask, out, key, patient, name, provenance)


def _mask(each: _Found, slide: Slide) -> npt.NDArray[np.bool_]:
    """Where the SEG objects of a slide say carcinoma.

    Raises:
        Rejected: there is none, a program drew it, or it has no such segment or the size of no level.
    """
    if not each.masks:
        raise Rejected("no SEG lies in its frame of reference, so where it shows carcinoma is not known")
    shapes = {level.shape for level in slide.levels}
    found: list[npt.NDArray[np.bool_]] = []
    for path in each.masks:
        ds = dataset.read(path)
        wanted = [one for one in segmentation.segments_of(ds) if _CARCINOMA.search(one.label)]
        if any(one.algorithm_type == "AUTOMATIC" for one in wanted):
            raise Rejected("its SEG was drawn by a program (AUTOMATIC), which is no truth to learn from")
        labelled = slide_segmentation.read(ds)
        if labelled.shape not in shapes:
            raise Rejected(f"its SEG has {labelled.shape[0]} x {labelled.shape[1]} pixels, and none of its levels has")
        if wanted:
            found.append(np.isin(labelled, [one.number for one in wanted]))
    if not found or len({each.shape for each in found}) > 1:
        raise Rejected(
            f"its {len(each.masks)} SEG objects do not hold segments named carcinoma or tumour at one resolution"
        )
    return np.any(found, axis=0)


def _without_uids(sentence: str) -> str:
    return re.sub(r"\b\d+(\.\d+){3,}\b", "UID", sentence)
