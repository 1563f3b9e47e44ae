"""What a classifier of tiles finds on whole slides, as DICOM objects: suspicious tiles as SEG on the level, the whole
slide under its map as a capture, the study as a report.

A slide is looked at as cohorts of tiles are cut: on the level whose pixels are nearest to those of training, in tiles
of one size side by side, without those that hold little tissue or reach over the border.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from dicom_io import dataset, picture, report, secondary_capture
from dicom_io.cohort import is_colour
from dicom_io.errors import OutOfDomain, Rejected
from dicom_io.series import files_below
from dicom_io.slide import LEAST_TISSUE, SOP_CLASS, Level, Slide, Tile
from dicom_io.slide_segmentation import slide_segmentation
from dicom_io.volume import Source
from models.from_pictures import Translator
from models.predictor import Classified, Classifier, Segmenter
from plugin import encodings, readings
from plugin.drawing import Picture
from plugin.outputs import Object, Progress, forms, segments_of

MODALITY = "SM"
# The mask of a level is held in memory, and copied on its way.
MOST_PX = 400_000_000
_BATCH = 64


@dataclass(frozen=True, eq=False)
class _Looked:
    """A slide that was looked at.

    instances: of its level, with what they are named by. refs: these, and those of the level that tells tissue and is
    shown, so that a change in either gives other UIDs. tiles: (n, 2), row and column of the first pixel of each, and
    `found` in them. thumbnail: (rows, columns, 3) of the whole slide.
    """

    instances: Sequence[tuple[Dataset, Source]]
    refs: Sequence[Source]
    level: Level
    size_px: tuple[int, int]
    tiles: npt.NDArray[np.int64]
    found: Classified
    thumbnail: Picture
    outside: bool

    @property
    def study_uid(self) -> str:
        return str(self.instances[0][0].StudyInstanceUID)

    def laid(self, values: npt.NDArray[Any], shape: tuple[int, int]) -> npt.NDArray[Any]:
        """Of each tile its value on the whole level, brought to `shape`; 0 where no tile is."""
        drawn = np.zeros(shape, values.dtype)
        scale = np.array(shape) / self.level.shape
        for (row, column), value in zip(self.tiles, values, strict=True):
            top, left = np.rint(np.array([row, column]) * scale).astype(int)
            bottom, right = np.rint(np.array([row + self.size_px[0], column + self.size_px[1]]) * scale).astype(int)
            drawn[top : max(bottom, top + 1), left : max(right, left + 1)] = value
        return drawn


def takes(model: Classifier | Segmenter | Translator) -> bool:
    """Whether it is for tiles of slides: a classifier of microscopy in colour."""
    channels = model.channels
    ours = isinstance(model, Classifier) and model.description.foreign is None
    return ours and is_colour(channels) and channels[0].modality == MODALITY


def objects_of(
    model: Classifier,
    files: Sequence[Path],
    made_at: datetime,
    wanted: Collection[str],
    force: bool,
    progress: Progress,
) -> Iterator[Object]:
    """In the encodings that are wanted (`plugin.encodings`).

    Raises:
        Rejected: no slide is there, one cannot be opened, has no level of the right pixels, or shows no tissue.
        OutOfDomain: tiles are outside the model's card, and `force` is not set.
    """
    studies: dict[str, list[_Looked]] = {}
    for paths in _by_slide(files):
        looked = _look(model, paths, force, progress)
        studies.setdefault(looked.study_uid, []).append(looked)
    for slides in studies.values():
        joined = replace(slides[0].found, probabilities=np.concatenate([each.found.probabilities for each in slides]))
        whole = readings.whole(model, [joined])
        for each in slides:
            yield from _of_slide(model, each, "" if whole is None else f"; {whole[1]}", made_at, wanted)
        if any(name.startswith(encodings.REPORT) for name in wanted):
            in_tiles = [replace(one, images=()) for one in readings.classes(model, joined)]
            classes = [whole[0], *in_tiles] if whole else in_tiles
            told = report.report(classes=classes, **_common(model, slides, made_at, readings.rule(model)))
            yield *told, whole[1] if whole else _counted(model, joined), encodings.REPORT


def _by_slide(files: Sequence[Path]) -> list[list[Path]]:
    """The files of each slide, by its series."""
    found: dict[str, list[Path]] = {}
    for path in files_below(files):
        with path.open("rb") as file:
            if file.read(132)[128:] != b"DICM":
                continue
        header = dataset.read(path, stop_before_pixels=True)
        if header.get("SOPClassUID") == SOP_CLASS:
            found.setdefault(str(header.SeriesInstanceUID), []).append(path)
    if not found:
        raise Rejected(f"the model needs {MODALITY} in colour, and no whole slide ({SOP_CLASS}) is among the files")
    return [found[uid] for uid in sorted(found)]


def _look(model: Classifier, paths: Sequence[Path], force: bool, progress: Progress) -> _Looked:
    described = model.description
    if described.picture_px is None or not described.domain.spacing_mm:
        raise Rejected(
            f"{model.identity.address} does not know the size of the tiles that it learned from; train it again"
        )
    outside = False
    places: list[tuple[int, int]] = []
    found: list[Classified] = []
    with Slide(paths) as slide:
        # The middle of a range whose ends have one tolerance.
        level = slide.level_near(spacing_um=1000 * float(np.sqrt(np.prod(described.domain.spacing_mm[0]))))
        tiles = slide.tiles(level, described.picture_px, least_tissue=LEAST_TISSUE, edges="drop")
        while batch := list(islice(tiles, _BATCH)):
            progress({"stage": "predicting", "done": batch[-1].row, "total": level.shape[0]})
            outside = outside or _is_outside(model, batch[0], force)
            found.append(model.of_pictures([tile.projection for tile in batch]))
            places += [(tile.row, tile.column) for tile in batch]
        if not found:
            raise Rejected(f"no tile of the slide is tissue to {LEAST_TISSUE:.0%} or more; there is nothing to look at")
        looked_at, shown = slide.instances(level), slide.instances(slide.overview)
        both = {source.sop_instance_uid: source for _, source in (*looked_at, *shown)}
        return _Looked(
            instances=looked_at,
            refs=list(both.values()),
            level=level,
            size_px=described.picture_px,
            tiles=np.array(places),
            found=replace(found[0], probabilities=np.concatenate([each.probabilities for each in found])),
            thumbnail=slide.thumbnail(),
            outside=outside,
        )


def _is_outside(model: Classifier, tile: Tile, force: bool) -> bool:
    """Whether a tile is outside the card; raises OutOfDomain where that is not forced."""
    try:
        model.check_domain(tile.projection)
    except OutOfDomain:
        if not force:
            raise
        return True
    return False


def _of_slide(
    model: Classifier, looked: _Looked, told: str, made_at: datetime, wanted: Collection[str]
) -> Iterator[Object]:
    finding = f"{_finding(model, looked)}{told}"
    common = _common(model, [looked], made_at, {})
    if encodings.DEFAULT_SEGMENTATION in wanted and _can_have_mask(looked):
        numbers = np.where(looked.found.positive, 1 + looked.found.probabilities[:, 1:].argmax(1), 0).astype(np.uint8)
        header, _ = looked.instances[0]
        described = {name: value for name, value in common.items() if name not in ("sources", "source_refs")}
        seg = slide_segmentation(
            looked.laid(numbers, looked.level.shape),
            source=header,
            source_refs=looked.refs,
            segments=segments_of(model.labels),
            **described,
        )
        yield *seg, finding, encodings.DEFAULT_SEGMENTATION
    shown = picture.heat(looked.thumbnail, looked.laid(looked.found.suspicions, looked.thumbnail.shape[:2]))
    captioned = picture.with_captions([shown], [_finding(model, looked)])
    for form in forms(wanted):
        captures = secondary_capture.of_prediction(captioned, purpose="slide", form=form, **common)
        yield from ((ds, record, finding, form) for ds, record in captures)


def _can_have_mask(looked: _Looked) -> bool:
    """A SEG lies on one instance, and its mask fits into memory."""
    return len(looked.instances) == 1 and int(np.prod(looked.level.shape)) <= MOST_PX


def _finding(model: Classifier, looked: _Looked) -> str:
    missing = "" if _can_have_mask(looked) else "; no SEG, since the level is too large, or in several instances"
    return f"{_counted(model, looked.found)}{missing}"


def _counted(model: Classifier, found: Classified) -> str:
    counted = f"{int(found.positive.sum())} of {len(found.probabilities)} tiles with tissue"
    return f"{counted} are {readings.looked_for(model)} (threshold {found.threshold:.2f})"


def _common(model: Classifier, slides: Sequence[_Looked], made_at: datetime, rule: Mapping[str, Any]) -> dict[str, Any]:
    """What objects of these slides say of their making."""
    instances = [instance for each in slides for instance in each.instances]
    return {
        "model": model.identity,
        "sources": [_as_a_whole(header) for header, _ in instances],
        "source_refs": [source for each in slides for source in each.refs],
        "description": f"{' or '.join(model.labels[1:])} by {model.identity.address}",
        "parameters": {"threshold": model.threshold, "tile_px": list(slides[0].size_px), **rule},
        "made_at": made_at,
        "out_of_domain": any(each.outside for each in slides),
        "audit_id": model.description.audit_id,
    }


def _as_a_whole(header: Dataset) -> Dataset:
    """The header of an instance that is referenced with all its frames (`dicom_io.references`)."""
    whole = Dataset({element.tag: element for element in header})
    if "NumberOfFrames" in whole:
        del whole.NumberOfFrames
    return whole
