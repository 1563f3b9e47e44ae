"""Whole slides: levels of a pyramid, tiles with tissue on them, a thumbnail (PS3.3 A.32.8, C.8.12).

A level is one Total Pixel Matrix, indexed (row, column). Its index becomes a place on the glass by Total Pixel Matrix
Origin (0048,0008), Image Orientation (Slide) (0048,0102) and Pixel Spacing (0028,0030): x and y in mm of the Slide
Coordinate System (PS3.3 C.8.12.2.1).

Magnification means 10 um divided by the spacing, so 40x is 0.25 um and 20x is 0.5 um; Objective Lens Power (0048,0112)
tells of the scan and is the same for all levels.

Tissue is coloured, glass is not. The colour of a pixel is the largest of red, green and blue less the smallest; tissue
lies above Otsu's threshold of it in the thumbnail, and never below `LEAST_COLOUR`. Grey borders of the scan, dust and
black ink thus count as glass, coloured ink counts as tissue.

Frames are found and decoded by wsidicom: TILED_FULL, TILED_SPARSE, concatenations, offset tables.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import numpy.typing as npt

from dicom_io import dataset
from dicom_io.errors import MissingAttribute, Rejected, UndecodablePixels
from dicom_io.magnetic_resonance import otsu
from dicom_io.series import files_below
from dicom_io.volume import Projection, Source

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

UInt8 = npt.NDArray[np.uint8]
Edges = Literal["keep", "fill", "drop"]

SOP_CLASS = "1.2.840.10008.5.1.4.1.1.77.1.6"  # VL Whole Slide Microscopy Image Storage
WHITE = 255
# Scanners' 40x lies between 0.22 and 0.27 um.
TOLERANCE = 0.15
# Noise and JPEG give bare glass a colour of up to 6 grey levels; without a floor, Otsu would split an empty slide.
LEAST_COLOUR = 8.0
# Share of a tile that is tissue, from which on it is learned from, and looked at.
LEAST_TISSUE = 0.3
_THUMBNAIL_PX = 1024
# A thumbnail is made of pieces about this large: larger than frames are, so that few are decoded twice.
_PIECE_PX = 2048
# PS3.16 CID 8123 "Microscopy Illumination Method": bright field and transmission. In the others glass is not white.
_WHITE_GLASS = ("111744", "111741")


@dataclass(frozen=True)
class Level:
    """One resolution of a slide.

    number: 0 for the finest, then one more for each halving. shape: (rows, columns) of the whole level.
    spacing_um: (down, across). origin_mm: (x, y) of pixel (0, 0) on the glass. down, across: unit vectors (x, y) of a
    step in row and column.
    """

    number: int
    shape: tuple[int, int]
    spacing_um: tuple[float, float]
    origin_mm: tuple[float, float]
    down: tuple[float, float]
    across: tuple[float, float]

    @property
    def magnification(self) -> float:
        """10 um by the geometric mean of the spacing."""
        return 10 / math.sqrt(self.spacing_um[0] * self.spacing_um[1])

    def position_mm(self, row: float, column: float) -> tuple[float, float]:
        """(x, y) in the Slide Coordinate System of a pixel of this level."""
        step_down, step_across = row * self.spacing_um[0] / 1000, column * self.spacing_um[1] / 1000
        x, y = (
            origin + step_down * down + step_across * across
            for origin, down, across in zip(self.origin_mm, self.down, self.across, strict=True)
        )
        return x, y


@dataclass(frozen=True, eq=False)
class Tile:
    """A piece of a level. projection: (3, rows, columns), red, green and blue of 0..255, units "1".

    row, column: of its first pixel in the level. inside: (rows, columns) that lie in the level; the rest is white.
    tissue: share of the pixels inside that are tissue. sources: the frames that the pixels came from, by row, then by
    column; frames that a sparse level does not hold are white and have none. `projection.source` is the first.
    """

    projection: Projection
    level: Level
    row: int
    column: int
    inside: tuple[int, int]
    tissue: float
    sources: tuple[Source, ...]

    @property
    def position_mm(self) -> tuple[float, float]:
        """(x, y) on the glass of the first pixel."""
        return self.level.position_mm(self.row, self.column)

    @property
    def picture(self) -> UInt8:
        """(rows, columns, 3)."""
        return np.moveaxis(self.projection.pixels, 0, -1).astype(np.uint8)


class Slide:
    """An open slide; close it, or use it in a `with` statement. levels: from fine to coarse.

    Nothing is held but headers and the frames that wsidicom keeps for the next reading.
    """

    def __init__(self, paths: Iterable[Path | str]) -> None:
        """Open the levels of one slide: files, or all files below folders.

        Label, overview, thumbnail and objects that are no slides are left aside.

        Raises:
            Rejected: there is no level, there are several slides, or a level is monochrome, fluorescence, or has
                several optical paths or focal planes, or levels do not fit each other.
            NotDicom: a file ends too early.
            MissingAttribute: a level has no Pixel Spacing (0028,0030), no origin or no orientation on the glass.
        """
        self._files = _levels_below(paths)
        self._wsi = _opened([path for path, _ in self._files.values()])
        self._hashes: dict[str, str] = {}
        _check_used(self._wsi, self._files)
        self.levels = tuple(self._level(level) for level in self._wsi.levels)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._wsi.close()

    def level_near(
        self, *, spacing_um: float | None = None, magnification: float | None = None, tolerance: float = TOLERANCE
    ) -> Level:
        """The level whose spacing is nearest to what is asked for. Give one of the two.

        Raises:
            Rejected: no level is within `tolerance` (a share) of it; nothing is resampled.
        """
        if (spacing_um is None) == (magnification is None):
            raise ValueError("give spacing_um or magnification, and not both")
        wanted = spacing_um if spacing_um is not None else 10 / float(magnification or math.nan)
        nearest = min(self.levels, key=lambda level: abs(math.log(_spacing(level) / wanted)))
        if abs(math.log(_spacing(nearest) / wanted)) > math.log1p(tolerance):
            held = ", ".join(f"{_spacing(level):.3g}" for level in self.levels)
            raise Rejected(
                f"the slide has no level within {tolerance:.0%} of {wanted:.3g} um per pixel ({10 / wanted:.3g}x), its "
                f"levels have {held} um; ask for one of these"
            )
        return nearest

    def region(self, level: Level, row: int, column: int, rows: int, columns: int) -> UInt8:
        """(rows, columns, 3): a block that lies inside the level. Raises UndecodablePixels."""
        try:
            read = self._wsi.read_region((column, row), level.number, (columns, rows), as_array=True)
        except Exception as error:  # decoders raise what they like
            raise UndecodablePixels(
                f"slide {self._named}: rows {row} to {row + rows} and columns {column} to {column + columns} of level "
                f"{level.number} cannot be decoded ({error}); send the slide again"
            ) from error
        return np.ascontiguousarray(read, np.uint8)

    def tiles(
        self,
        level: Level,
        size_px: tuple[int, int],
        *,
        stride_px: tuple[int, int] | None = None,
        least_tissue: float = 0.0,
        edges: Edges = "keep",
    ) -> Iterator[Tile]:
        """Tiles of (rows, columns) by row, then by column; each is read when it is asked for.

        stride_px: step (down, across); a smaller one than the size makes tiles overlap, None is the size.
        least_tissue: tiles with a smaller share of tissue are left out; 0 keeps all.
        edges: tiles that reach over the border are kept as small as they are, filled with white, or dropped.
        """
        stride = stride_px or size_px
        if min(*size_px, *stride) < 1:
            raise ValueError(f"tiles of {size_px} pixels in steps of {stride} cannot be cut")
        for row in _starts(level.shape[0], size_px[0], stride[0], edges):
            for column in _starts(level.shape[1], size_px[1], stride[1], edges):
                tile = self._tile(level, row, column, size_px, least_tissue, edges)
                if tile is not None:
                    yield tile

    def thumbnail(self, longest_px: int = _THUMBNAIL_PX) -> UInt8:
        """(rows, columns, 3): the whole slide with a longer side of at most `longest_px`.

        Each pixel is the mean of a square block of the coarsest level that has as many pixels; at the far borders, of
        what is there. Read piece by piece, so that no level is in memory.
        """
        level = self._enough_for(longest_px)
        factor = max(math.ceil(max(level.shape) / longest_px), 1)
        rows, columns = level.shape
        small = np.empty((math.ceil(rows / factor), math.ceil(columns / factor), 3), np.uint8)
        step = factor * math.ceil(_PIECE_PX / factor)
        for row in range(0, rows, step):
            for column in range(0, columns, step):
                piece = self.region(level, row, column, min(step, rows - row), min(step, columns - column))
                means = _block_means(piece, factor)
                top, left = row // factor, column // factor
                small[top : top + means.shape[0], left : left + means.shape[1]] = means
        return small

    @property
    def overview(self) -> Level:
        """The level that the thumbnail, and so the tissue threshold, are made of."""
        return self._enough_for(_THUMBNAIL_PX)

    @cached_property
    def tissue_threshold(self) -> float:
        """Colour above which a pixel is tissue, in grey levels."""
        return max(otsu(colour(self.thumbnail())), LEAST_COLOUR)

    def instances(self, level: Level) -> list[tuple[Dataset, Source]]:
        """Those that hold a level, one, or the parts of a concatenation in order: header, and what names it whole."""
        parts = sorted(self._wsi.levels.get(level.number).datasets, key=lambda part: int(part.frame_offset))
        return [
            (self._files[str(part.uids.instance)][1], self._source(level, int(part.frame_offset))) for part in parts
        ]

    def _enough_for(self, longest_px: int) -> Level:
        enough = [level for level in self.levels if max(level.shape) >= longest_px]
        return enough[-1] if enough else self.levels[0]

    def _tile(
        self, level: Level, row: int, column: int, size_px: tuple[int, int], least_tissue: float, edges: Edges
    ) -> Tile | None:
        rows, columns = (min(n, end - at) for n, end, at in zip(size_px, level.shape, (row, column), strict=True))
        picture = self.region(level, row, column, rows, columns)
        tissue = float((colour(picture) > self.tissue_threshold).mean())
        if tissue < least_tissue:
            return None
        if edges == "fill":
            beyond = ((0, size_px[0] - rows), (0, size_px[1] - columns), (0, 0))
            picture = np.pad(picture, beyond, constant_values=WHITE)
        sources = tuple(self._sources(level, row, column, rows, columns))
        projection = Projection(
            pixels=np.ascontiguousarray(np.moveaxis(picture, -1, 0), np.float32),
            units="1",
            source=sources[0] if sources else None,
            spacing_mm=(level.spacing_um[0] / 1000, level.spacing_um[1] / 1000),
            spacing_of="patient",
        )
        return Tile(projection, level, row, column, (rows, columns), tissue, sources)

    def _sources(self, level: Level, row: int, column: int, rows: int, columns: int) -> Iterator[Source]:
        """One per frame that the block touches."""
        from wsidicom.geometry import Point

        image = self._wsi.levels.get(level.number).default_instance.image_data
        high, wide = image.tile_size.height, image.tile_size.width
        for down in range(row // high, (row + rows - 1) // high + 1):
            for across in range(column // wide, (column + columns - 1) // wide + 1):
                frame = image.tiles.get_frame_index(Point(across, down), image.default_z, image.default_path)
                if frame >= 0:
                    yield self._source(level, frame)

    def _source(self, level: Level, frame: int) -> Source:
        """frame: 0-based, counted through a concatenation (PS3.3 C.7.6.16.2.2.4)."""
        part = max(
            (one for one in self._wsi.levels.get(level.number).datasets if one.frame_offset <= frame),
            key=lambda one: int(one.frame_offset),
        )
        uid = str(part.uids.instance)
        return Source(
            sop_class_uid=SOP_CLASS,
            sop_instance_uid=uid,
            dataset_hash=self._hash(uid),
            frame=frame - part.frame_offset + 1,
            synthetic=self._files[uid][1].get("SyntheticData") == "YES",
        )

    def _hash(self, uid: str) -> str:
        """Of the file's data set, page by page, once: slides have gigabytes."""
        if uid not in self._hashes:
            with (
                self._files[uid][0].open("rb") as file,
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
            ):
                self._hashes[uid] = dataset.dataset_hash(mapped)
        return self._hashes[uid]

    def _level(self, level: Any) -> Level:
        header = self._files[str(level.default_instance.dataset.uids.instance)][1]
        origin, orientation = _place(header)
        return Level(
            number=int(level.level),
            shape=(int(level.size.height), int(level.size.width)),
            spacing_um=(float(level.pixel_spacing.height) * 1000, float(level.pixel_spacing.width) * 1000),
            origin_mm=origin,
            across=(orientation[0], orientation[1]),
            down=(orientation[3], orientation[4]),
        )

    @property
    def _named(self) -> str:
        return str(next(iter(self._files.values()))[1].get("SeriesInstanceUID", "without a UID"))


def assemble(tiles: Iterable[Tile], level: Level) -> UInt8:
    """(rows, columns, 3): the tiles in their places in the level, white where there is none; all of it in memory."""
    whole = np.full((*level.shape, 3), WHITE, np.uint8)
    for tile in tiles:
        rows, columns = tile.inside
        whole[tile.row : tile.row + rows, tile.column : tile.column + columns] = tile.picture[:rows, :columns]
    return whole


def colour(picture: UInt8) -> npt.NDArray[np.float32]:
    """(rows, columns): the largest of red, green and blue less the smallest, 0 for any grey."""
    return np.asarray(picture.max(axis=-1) - picture.min(axis=-1), np.float32)


def _spacing(level: Level) -> float:
    return 10 / level.magnification


def _starts(length: int, size: int, stride: int, edges: Edges) -> range:
    """First pixels of tiles along one axis: until one reaches the border, so that none lies inside another."""
    if edges == "drop":
        return range(0, length - size + 1, stride)
    last = max(math.ceil((length - size) / stride), 0) * stride
    return range(0, min(last + 1, length), stride)


def _block_means(piece: UInt8, factor: int) -> UInt8:
    """Means of blocks of `factor` pixels in both axes, to whole numbers; the last ones may be smaller."""
    rows, columns = (np.arange(0, length, factor) for length in piece.shape[:2])
    heights, widths = np.diff([*rows, piece.shape[0]]), np.diff([*columns, piece.shape[1]])
    bands = np.stack([piece[row : row + factor].sum(axis=0, dtype=np.int64) for row in rows])
    sums = np.add.reduceat(bands, columns, axis=1)
    return np.rint(sums / (heights[:, None] * widths)[..., None]).astype(np.uint8)


# --- what is opened and what is not -------------------------------------------------------------------------------


def _levels_below(paths: Iterable[Path | str]) -> dict[str, tuple[Path, Dataset]]:
    """SOP Instance UID -> file and header of each level of the one slide that is there."""
    found: dict[str, tuple[Path, Dataset]] = {}
    for path in files_below(Path(path) for path in paths):
        header = _header(path)
        if header is not None:
            _check(header)
            found[str(header.SOPInstanceUID)] = (path, header)
    if not found:
        raise Rejected(f"there is no {SOP_CLASS} (whole slide) with Image Type VOLUME in the files; give a slide's own")
    series, frames = (
        sorted({str(header.get(keyword)) for _, header in found.values()})
        for keyword in ("SeriesInstanceUID", "FrameOfReferenceUID")
    )
    if len(series) > 1:
        raise Rejected(f"the files are of {len(series)} slides, series {', '.join(series)}; open one slide at a time")
    if len(frames) > 1:
        raise Rejected(f"the levels lie in frames of reference {', '.join(frames)}; give those of one pyramid")
    return found


def _header(path: Path) -> Dataset | None:
    """None for what is no level. Image Type (0008,0008): VOLUME in its third value (PS3.3 C.8.12.4.1.1).

    Raises NotDicom for a DICOM file that ends too early: without one of its levels a slide would be another.
    """
    with path.open("rb") as file:
        if file.read(132)[128:] != b"DICM":
            return None
    header = dataset.read(path, stop_before_pixels=True)
    kind = [str(value) for value in header.get("ImageType") or ()]
    return header if header.SOPClassUID == SOP_CLASS and kind[2:3] == ["VOLUME"] else None


def _check(header: Dataset) -> None:
    """Refuse what is no bright-field picture in colour with one plane, or has no place and size."""
    named = f"level {header.SOPInstanceUID}"
    dark = _other_illumination(header)
    if header.get("SamplesPerPixel") != 3 or header.get("BitsStored") != 8 or dark:
        raise Rejected(
            f"{named} has {header.get('SamplesPerPixel')} samples of {header.get('BitsStored')} bits per pixel "
            f"({header.get('PhotometricInterpretation')}{', ' * bool(dark)}{dark}); "
            "bright-field slides in colour of 8 bits are read"
        )
    paths, planes = len(header.get("OpticalPathSequence") or ()), header.get("TotalPixelMatrixFocalPlanes") or 1
    if paths > 1 or planes > 1:
        raise Rejected(f"{named} has {paths} optical paths and {planes} focal planes; export one path and one plane")
    if not _pixel_spacing(header):
        raise MissingAttribute(f"{named} has no Pixel Spacing (0028,0030), so its magnification is unknown; add it")
    if not (header.get("ImagedVolumeWidth") and header.get("ImagedVolumeHeight")):
        raise MissingAttribute(f"{named} has no Imaged Volume Width (0048,0001) or Height (0048,0002); add them")
    _place(header)


def _other_illumination(header: Dataset) -> str:
    """ "" for bright field, and where nothing is told; else what the first other method is called."""
    methods = [
        method
        for path in header.get("OpticalPathSequence") or ()
        for method in path.get("IlluminationTypeCodeSequence") or ()
        if str(method.get("CodeValue")) not in _WHITE_GLASS
    ]
    return str(methods[0].get("CodeMeaning") or methods[0].get("CodeValue")) if methods else ""


def _pixel_spacing(header: Dataset) -> Sequence[float]:
    for shared in header.get("SharedFunctionalGroupsSequence") or ():
        for measures in shared.get("PixelMeasuresSequence") or ():
            if all(float(value) > 0 for value in measures.get("PixelSpacing") or ()):
                return measures.get("PixelSpacing") or ()
    return ()


def _place(header: Dataset) -> tuple[tuple[float, float], list[float]]:
    """Origin (x, y) in mm and the six cosines: of a step in column, then of one in row."""
    origin = (header.get("TotalPixelMatrixOriginSequence") or [None])[0]
    x, y = (None if origin is None else origin.get(f"{axis}OffsetInSlideCoordinateSystem") for axis in ("X", "Y"))
    cosines = [float(value) for value in header.get("ImageOrientationSlide") or ()]
    if x is None or y is None or len(cosines) != 6:
        raise MissingAttribute(
            f"level {header.SOPInstanceUID} has no Total Pixel Matrix Origin (0048,0008) or no Image Orientation "
            "(Slide) (0048,0102), so its place on the glass is unknown; add them"
        )
    return (float(x), float(y)), cosines


def _check_used(wsi: Any, files: Iterable[str]) -> None:
    """wsidicom leaves out what does not fit the finest level, and says so only in its log."""
    used = {str(part.uids.instance) for level in wsi.levels for part in level.datasets}
    unused = sorted(set(files) - used)
    if unused:
        wsi.close()
        raise Rejected(
            f"levels {', '.join(unused)} do not fit the slide's finest one (their place on the glass or their depth "
            "differs); give the levels of one pyramid"
        )


def _opened(paths: list[Path]) -> Any:
    from wsidicom import WsiDicom  # 0.4 s that a reader of volumes need not spend
    from wsidicom import errors as theirs

    try:
        return WsiDicom.open(paths)
    except (
        theirs.WsiDicomError,
        theirs.WsiDicomFileError,
        theirs.WsiDicomMatchError,
        theirs.WsiDicomNotFoundError,
        theirs.WsiDicomNotSupportedError,
        theirs.WsiDicomStrictRequirementError,
        theirs.WsiDicomUidDuplicateError,
        theirs.WsiDicomNoResolutionError,
        RuntimeError,
        ValueError,
        KeyError,
        AttributeError,
    ) as error:
        raise Rejected(f"the levels do not make one slide ({error}); send the whole series again") from error
