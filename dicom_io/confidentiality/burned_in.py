"""Text burned into pixels: where it is looked for, how it is found, and how it is made black (PS3.15 E.3.1).

Characters are thin strokes of one brightness that stand out from what is around them, about as high as their
neighbours, and in a row with them. For each polarity and at each of several scales (pixels averaged 1, 2, 4, 8 at a
time, so that a stroke is at most `_STROKE` pixels wide at one of them):

    1  h(x) = f(x) - opening of f(x)      what is narrower than the structuring element (white top hat; Serra 1982)
    2  h > threshold                      from the noise of h around x (its median) and the range of the image
    3  connected components with the size, fill and even brightness of characters
    4  chains of at least `_FEWEST` of them: alike in height, on one line, close to each other

Text that is drawn in one value shows in the histogram, too, and is looked for by that value, however uneven the ground.
It errs towards finding too much, and on an uneven ground takes a line to go on at both ends. It reads nothing: a name
and a side marker are both text. Handwriting, single letters and text along a slope are not found; small text over
bright speckle, and text no brighter than it, are found in part only (figures in the tests), so that a person must look
at such images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian
from scipy import ndimage

from dicom_io import labels, pixels
from dicom_io.confidentiality.parsing import values as values_of
from dicom_io.errors import Rejected

Float32 = npt.NDArray[np.float32]

# Picture elements. _STROKE: widest stroke at one scale. _HEIGHTS: of characters at one scale. _BLOCK: side of the areas
# of which the noise is taken. Averaged pictures smaller than _SMALLEST are no longer looked at: no text is that large.
_STROKE = 7
_SCALES = (1, 2, 4, 8)
_HEIGHTS = (4, 40)
_BLOCK = 32
_SMALLEST = 160
_FEWEST = 3  # characters in a line; one more in noise
_UNSEEN = 6  # heights of a line that may go on unseen at its ends, in noise
# Shares of the picture's range: least contrast, noise below which a place is quiet, differences within a line, soft
# edges.
_CONTRAST, _QUIET, _ALIKE, _SOFT_EDGE = 0.2, 0.03, 0.12, 0.2
# A character in noise: this share of it lies within so much of its height above the surroundings.
_PLATEAU, _PLATEAU_SHARE = 0.15, 0.3
# A brightness that is drawn: so many times the median count of this many brightnesses around it, and at least so many
# pixels.
_SPIKE, _AROUND, _FEWEST_PIXELS, _MOST_VALUES = 12, 17, 40, 4

_SECONDARY_CAPTURES = "1.2.840.10008.5.1.4.1.1.7"
_ULTRASOUND = ("1.2.840.10008.5.1.4.1.1.6", "1.2.840.10008.5.1.4.1.1.3")
_MAMMOGRAMS = ("1.2.840.10008.5.1.4.1.1.1.2", "1.2.840.10008.5.1.4.1.1.13.1.3")
_MODALITIES = ("US", "IVUS", "MG", "SC", "OT")


@dataclass(frozen=True)
class Region:
    """A rectangle of pixels: rows [top, bottom), columns [left, right)."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def centre(self) -> float:
        return (self.top + self.bottom) / 2

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def width(self) -> int:
        return self.right - self.left

    def grown(self, by: int, rows: int, columns: int) -> Region:
        return Region(
            max(self.top - by, 0), max(self.left - by, 0), min(self.bottom + by, rows), min(self.right + by, columns)
        )


def is_suspect(dataset: Dataset) -> bool:
    """Whether text is looked for: captures, ultrasound, mammograms, saved screens, and what says that it has some."""
    sop_class, modality = str(dataset.get("SOPClassUID") or ""), str(dataset.get("Modality") or "")
    kinds = (_SECONDARY_CAPTURES, *_ULTRASOUND, *_MAMMOGRAMS)
    if "PixelData" not in dataset:
        return False
    return (
        any(sop_class == kind or sop_class.startswith(f"{kind}.") for kind in kinds)
        or modality in _MODALITIES
        or dataset.get("BurnedInAnnotation") == "YES"
        or "SCREEN SAVE" in _image_type(dataset)
    )


def shows_a_label(dataset: Dataset) -> bool:
    """Whether a whole slide image shows the slide's label, which bears handwriting and bar codes."""
    return dataset.get("SpecimenLabelInImage") == "YES" or "LABEL" in _image_type(dataset)


def _image_type(dataset: Dataset) -> list[str]:
    return [str(value) for value in values_of(dataset.get("ImageType"))]


def regions(dataset: Dataset) -> list[Region]:
    """What looks like text in any frame of an image; not the visible mark of our own objects, which must stay.

    Raises UndecodablePixels as `pixels.stored` does.
    """
    found: list[Region] = []
    kept_rows = _mark_rows(dataset)
    for frame in range(pixels.number_of_frames(dataset)):
        picture = _picture(dataset, frame)
        found += text_regions(picture[: picture.shape[0] - kept_rows])
    return joined(found)


def _mark_rows(dataset: Dataset) -> int:
    try:
        return labels.mark_rows(dataset)
    except Rejected:  # Not recorded: no capture of ours.
        return 0


def _picture(dataset: Dataset, frame: int) -> npt.NDArray[Any]:
    values, photometric = pixels.decoded(dataset, frame)
    return np.asarray(apply_color_lut(values, dataset)) if photometric == "PALETTE COLOR" else values


def outside_ultrasound(dataset: Dataset) -> npt.NDArray[np.bool_] | None:
    """(rows, columns): what lies outside the Sequence of Ultrasound Regions (0018,6011); None where there is none."""
    if not dataset.get("SequenceOfUltrasoundRegions"):
        return None
    outside = np.ones((int(dataset.Rows), int(dataset.Columns)), bool)
    for region in dataset.SequenceOfUltrasoundRegions:
        left, top, right, bottom = (
            region.get(f"RegionLocation{corner}") for corner in ("MinX0", "MinY0", "MaxX1", "MaxY1")
        )
        if None in (left, top, right, bottom):
            raise Rejected(
                f"instance {dataset.get('SOPInstanceUID')}: an item of SequenceOfUltrasoundRegions (0018,6011) lacks "
                "a corner, so what lies outside cannot be made black; correct it"
            )
        outside[top : bottom + 1, left : right + 1] = False
    return outside


def blanked(dataset: Dataset, mask: npt.NDArray[np.bool_]) -> Dataset:
    """The image with these pixels black in all frames, uncompressed (Explicit VR Little Endian); `dataset` stays as it
    is.

    mask: (rows, columns) for all frames alike, or (frames, rows, columns). Black is the smallest stored value of a
    frame, the largest for MONOCHROME1, and the palette's darkest entry. Other attributes are shared with `dataset`.

    Raises:
        UndecodablePixels: see `pixels.stored`.
        Rejected: single-bit or floating-point pixels.
    """
    if "PixelData" not in dataset or int(dataset.get("BitsAllocated") or 0) not in (8, 16, 32):
        raise Rejected(
            f"instance {dataset.get('SOPInstanceUID')} has {dataset.get('BitsAllocated')} bits for each pixel; "
            "only whole numbers of 8, 16 or 32 bits can be made black here, do it with another tool"
        )
    frames, photometric = [], ""
    for frame in range(pixels.number_of_frames(dataset)):
        values, photometric = pixels.decoded(dataset, frame)
        values = values.copy()
        here = mask[frame] if mask.ndim == 3 else mask
        values[here] = _black(dataset, values, photometric)
        frames.append(values)
    return _with_pixels(dataset, np.stack(frames), photometric)


def _black(dataset: Dataset, values: npt.NDArray[Any], photometric: str) -> Any:
    if photometric == "MONOCHROME1":
        return values.max()
    if photometric == "PALETTE COLOR":
        entries = np.arange(int(values.min()), int(values.max()) + 1, dtype=values.dtype)
        return entries[apply_color_lut(entries[None], dataset).sum(axis=-1)[0].argmin()]
    return values.min() if values.ndim == 2 else 0


def _with_pixels(dataset: Dataset, values: npt.NDArray[Any], photometric: str) -> Dataset:
    # Elements are shared with `dataset`: none may be changed, only put in another's place.
    new = Dataset()
    new.update(dataset)
    new.file_meta = deepcopy(dataset.file_meta)
    new.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()
    new.add_new("PixelData", "OW" if values.dtype.itemsize > 1 else "OB", little + b"\0" * (len(little) % 2))
    new.add_new("PhotometricInterpretation", "CS", photometric)
    if "PlanarConfiguration" in dataset:
        new.add_new("PlanarConfiguration", "US", 0)
    for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
        if keyword in new:
            delattr(new, keyword)
    return new


def without_overlay_bits(dataset: Dataset) -> Dataset:
    """The image with the bits of a pixel that lie outside Bits Stored (0028,0101) zero, where an overlay lies in them.

    Overlay Bit Position (60xx,0102) may put overlays there (PS3.3 C.9.2, retired). The same object where there is none;
    encapsulated pixels hold the stored bits only.
    """
    embedded = [
        group
        for group in range(0x6000, 0x6020, 2)
        if (group << 16 | 0x0100) in dataset and (group << 16 | 0x3000) not in dataset
    ]
    is_native = "PixelData" in dataset and not dataset.file_meta.TransferSyntaxUID.is_encapsulated
    if not embedded or not is_native or int(dataset.BitsAllocated) < 8:
        return dataset
    big = dataset.file_meta.TransferSyntaxUID == ExplicitVRBigEndian
    raw = np.frombuffer(dataset.PixelData, f"{'>' if big else '<'}u{int(dataset.BitsAllocated) // 8}")
    high, stored = int(dataset.HighBit), int(dataset.BitsStored)
    new = Dataset()
    new.update(dataset)
    new.file_meta = dataset.file_meta
    new.add_new("PixelData", dataset["PixelData"].VR, (raw & _stored_bits(raw.dtype, high, stored)).tobytes())
    return new


def _stored_bits(dtype: np.dtype[Any], high: int, stored: int) -> Any:
    return dtype.type(((1 << stored) - 1) << (high + 1 - stored))


def mask_of(found: Sequence[Region], rows: int, columns: int) -> npt.NDArray[np.bool_]:
    """(rows, columns): True in these rectangles."""
    mask = np.zeros((rows, columns), bool)
    for region in found:
        mask[region.top : region.bottom, region.left : region.right] = True
    return mask


def text_regions(picture: npt.NDArray[Any]) -> list[Region]:
    """Rectangles around what looks like text in (rows, columns) or (rows, columns, 3) numbers of any type."""
    values = np.asarray(picture, np.float32)
    bright = values.max(axis=-1) if values.ndim == 3 else values
    dark = -values.min(axis=-1) if values.ndim == 3 else -values
    found = [region for one in (bright, dark) for scale in _SCALES for region in _at_scale(one, scale)]
    found += [region for value in _drawn_values(bright) for region in _of_value(bright, value)]
    widened = [_widened(region, bright) for region in found]
    return joined([region.grown(max(2, region.height // 4), *bright.shape) for region in widened])


def _widened(region: Region, picture: Float32) -> Region:
    """On an uneven ground letters are missed at the ends of a line, so that it is taken to go on for some more."""
    reach = _UNSEEN * region.height
    left, right = max(region.left - reach, 0), min(region.right + reach, picture.shape[1])
    band = picture[region.top : region.bottom, left:right]
    low, high = np.percentile(picture, (1, 99.9))
    uneven = float(np.median(np.abs(band - np.median(band)))) > _QUIET * max(float(high - low), 1e-6)
    return Region(region.top, left, region.bottom, right) if uneven else region


def _drawn_values(picture: Float32) -> list[int]:
    """Brightnesses of far more pixels than those next to them: what is drawn has one, what is measured spreads."""
    whole = np.rint(picture - picture.min()).astype(np.int64)
    if whole.max() > 1 << 16:
        return []
    counts = np.bincount(whole.ravel(), minlength=_AROUND)
    usual = ndimage.median_filter(counts, _AROUND, mode="mirror")
    drawn = np.flatnonzero((counts > _SPIKE * (usual + 1)) & (counts > _FEWEST_PIXELS) & (counts < counts.sum() / 8))
    most = drawn[np.argsort(counts[drawn])[::-1][:_MOST_VALUES]]
    return [int(value) + int(picture.min()) for value in most if value > 0]


def _of_value(picture: Float32, value: int) -> Iterator[Region]:
    exact = np.abs(picture - value) <= 1
    margin = _SOFT_EDGE * (float(np.percentile(picture, 99.9)) - float(picture.min()))
    labelled, many = ndimage.label((picture > value - margin) & (picture <= value + 1), structure=np.ones((3, 3)))
    drawn = ndimage.sum_labels(exact, labelled, np.arange(1, many + 1))
    labelled = np.where(np.concatenate([[0], drawn >= 1])[labelled], labelled, 0)
    strokes = []
    for number, place in enumerate(ndimage.find_objects(labelled), 1):
        if place is None:
            continue
        region = Region(place[0].start, place[1].start, place[0].stop, place[1].stop)
        one = labelled[place] == number
        strokes.append(_Stroke(region, 1, True, _has_form(one, 2 * _HEIGHTS[1])))
    for line in _lines([stroke for stroke in strokes if stroke.is_character]):
        yield _lengthened(line, strokes)


def _at_scale(picture: Float32, scale: int) -> Iterator[Region]:
    rows, columns = picture.shape[0] // scale, picture.shape[1] // scale
    if min(rows, columns) < (_SMALLEST if scale > 1 else 2 * _STROKE):
        return
    small = picture[: rows * scale, : columns * scale].reshape(rows, scale, columns, scale).mean(axis=(1, 3))
    strokes = _strokes(small)
    for line in _lines([stroke for stroke in strokes if stroke.is_character]):
        line = _lengthened(line, strokes)
        yield Region(line.top * scale, line.left * scale, line.bottom * scale, line.right * scale)


@dataclass(frozen=True)
class _Stroke:
    """A connected component. value: the brightness of its core, as a share of the picture's range."""

    place: Region
    value: float
    is_quiet: bool
    is_character: bool


def _strokes(picture: Float32) -> list[_Stroke]:
    hat = picture - ndimage.grey_opening(picture, size=(_STROKE + 2, _STROKE + 2))
    low, high = np.percentile(picture, (1, 99.9))
    extent = max(float(high - low), 1e-6)
    noise, around = _noise(hat)
    threshold = np.maximum(_CONTRAST * extent, 3 * noise)
    labelled, _ = ndimage.label(hat > threshold, structure=np.ones((3, 3)))
    found = []
    for number, place in enumerate(ndimage.find_objects(labelled), 1):
        region = Region(place[0].start, place[1].start, place[0].stop, place[1].stop)
        mask = labelled[place] == number
        value = (float(np.percentile(picture[place][mask], 90)) - float(low)) / extent
        quiet = float(around[place].max()) < _QUIET * extent
        found.append(_Stroke(region, value, quiet, _is_character(mask, picture[place], hat[place], quiet)))
    return found


def _noise(hat: Float32) -> tuple[Float32, Float32]:
    """The median of h around each pixel, and the largest near it. Characters cover less than half of a block."""
    rows, columns = (max(n // _BLOCK, 1) for n in hat.shape)
    blocks = [np.array_split(band, columns, axis=1) for band in np.array_split(hat, rows, axis=0)]
    medians = np.array([[np.median(block) for block in band] for band in blocks], np.float32)
    return _spread(medians, hat.shape), _spread(ndimage.maximum_filter(medians, 3), hat.shape)


def _spread(blocks: Float32, shape: tuple[int, ...]) -> Float32:
    """Each pixel has the value of its block, as `array_split` cuts them."""
    of_row, of_column = (
        np.repeat(np.arange(few), [len(part) for part in np.array_split(np.arange(many), few)])
        for few, many in zip(blocks.shape, shape, strict=True)
    )
    return np.asarray(blocks[np.ix_(of_row, of_column)], np.float32)


def _is_character(mask: npt.NDArray[np.bool_], picture: Float32, hat: Float32, quiet: bool) -> bool:
    """By its form, and in noise by its plateau: strokes are drawn in one value, speckle has peaks."""
    if not _has_form(mask, _HEIGHTS[1]):
        return False
    if quiet:
        return True
    strokes = picture[mask]
    top, depth = float(np.percentile(strokes, 95)), float(np.percentile(hat[mask], 95))
    return bool(np.mean(strokes > top - _PLATEAU * depth) > _PLATEAU_SHARE)


def _has_form(mask: npt.NDArray[np.bool_], highest: int) -> bool:
    """Height, width and filled share of a character, or of a few that touch."""
    height, width = mask.shape
    if not _HEIGHTS[0] <= height <= highest or width > 6 * height:
        return False
    return bool(0.12 <= mask.mean() <= (1 if width <= height / 2 else 0.85))


def _lines(characters: Sequence[_Stroke]) -> Iterator[Region]:
    """Chains of neighbours, each as one rectangle; several characters that touch count by their width."""
    chains: list[list[_Stroke]] = []
    for one in sorted(characters, key=lambda one: one.place.left):
        chain = next((chain for chain in chains if _follows(chain[-1], one)), None)
        if chain is None:
            chains.append([one])
        else:
            chain.append(one)
    for chain in chains:
        whole = [one.place for one in chain if one.place.height > _HEIGHTS[0] + 1]
        count = sum(max(1, round(one.width / one.height)) for one in whole)
        fewest = _FEWEST if all(one.is_quiet for one in chain) else _FEWEST + 1
        if count >= fewest and len(chain) >= 2:
            yield _around([one.place for one in chain])


def _follows(last: _Stroke, one: _Stroke) -> bool:
    before, after = last.place, one.place
    tall = max(before.height, after.height)
    alike = min(before.height, after.height) >= 0.5 * tall and abs(last.value - one.value) <= _ALIKE
    level = abs(before.bottom - after.bottom) <= 0.3 * tall or abs(before.centre - after.centre) <= 0.2 * tall
    return alike and level and -0.5 * tall <= after.left - before.right <= 1.3 * tall


def _lengthened(line: Region, strokes: Sequence[_Stroke]) -> Region:
    """The line with what stands in it at either end: single letters, points, what was too small or too wide."""
    reach, grown = round(1.5 * line.height), True
    inside = [
        one.place
        for one in strokes
        if (one.is_quiet or one.is_character)
        and one.place.top >= line.top - 0.3 * line.height
        and one.place.bottom <= line.bottom + 0.4 * line.height
    ]
    while grown:
        near = [one for one in inside if line.left - reach <= one.right and one.left <= line.right + reach]
        longer = _around([line, *near])
        grown = longer != line and (longer.left, longer.right) != (line.left, line.right)
        line = longer
    return line


def _around(several: Sequence[Region]) -> Region:
    return Region(
        min(one.top for one in several),
        min(one.left for one in several),
        max(one.bottom for one in several),
        max(one.right for one in several),
    )


def joined(regions: Sequence[Region]) -> list[Region]:
    """The rectangles, those that overlap as one, top to bottom."""
    left = list(regions)
    done: list[Region] = []
    while left:
        one = left.pop()
        touching = [other for other in left if _overlap(one, other)]
        if touching:
            left = [other for other in left if other not in touching] + [_around([one, *touching])]
        else:
            done.append(one)
    return sorted(done, key=lambda region: (region.top, region.left))


def _overlap(one: Region, other: Region) -> bool:
    return one.top < other.bottom and other.top < one.bottom and one.left < other.right and other.left < one.right
