"""Pictures that show the same thing: copies encoded anew, resized, brightened, padded, a little cropped, or turned.

A patient, or a picture, that lies in training and in test makes every figure too good. Where the patient is not known,
the group of near-duplicates is the least that a split must keep together.

Two features per picture, each once of the whole picture and once without its constant border (padding and cropping of
the border change the first and not the second):

- a perceptual hash: signs of the 63 lowest cosine coefficients of a small square copy, the mean left out (as pHash of
  Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010, with 0 in place of the median).
  Mirroring turns the sign of odd coefficients and turning swaps their axes, so all eight positions cost one transform.
  It proposes pairs: Hamming distance d of at most `MOST_BITS`.
- a fine picture: `FINE` x `FINE`, without its low frequencies, divided by its local contrast. It confirms a pair by
  its normalised correlation r, after the second picture was laid onto the first by a scale and a shift per axis
  (Gauss-Newton on the squared difference, from blurred to sharp; Lucas and Kanade, IJCAI 1981). The low frequencies say
  "a head", the fine ones whose.

Where the numbers come from, measured on 640 slices of brain MR and copies of them: JPEG of quality 40, half and quarter
size, gamma 0.6 to 1.6, brightening with loss of the brightest, 3 % cut off each side, padding and turning leave r above
0.95 in 98 of 100; slices beside each other of one patient reach 0.93, two patients 0.88. Of copies
with up to 6 % cut off each side 93 of 100 are found, with up to 10 % 71. Consecutive slices of a volume of thin
slices can pass the threshold: there the patient is known, and is what a split keeps together. Not found: copies turned
by other angles, strongly cropped, or put together in one picture.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import fft, ndimage, sparse

from dicom_io import border
from dicom_io.cohort import SPLITS, Cohort, Item, load_image, split_of
from dicom_io.errors import Rejected
from dicom_io.volume import Float32, Float64, Projection

Picture = npt.NDArray[np.generic]
Hashes = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.intp]
# (done, total, what)
Progress = Callable[[int, int, str], None]
# Of one picture: hashes, blurred by four pixels, by two, fine.
_Parts = tuple[Hashes, Float32, Float32, Float32]

COARSE, FINE = 32, 64
# Of 63. Copies differ in up to 6 bits where nothing was cut off, in up to 12 where 3 % of a side were.
MOST_BITS = 12
# Between 98 of 100 copies (0.95 and more) and the likest slice beside a slice (0.93).
LEAST_CORRELATION = 0.945
# In pixels: less than this without the border says little.
_SMALLEST = 8
# Pairs whose smooth pictures agree less than this cannot be brought together by a small shift.
_WORTH_LAYING = 0.6
# The second picture may be this much larger or smaller, and lie this far off (of half a side).
_MOST_SCALE, _MOST_SHIFT = 0.2, 0.25
# Those that agree less than this once they are laid on each other, seen blurred, are not looked at closer.
_WORTH_A_CLOSER_LOOK = 0.85
# Steps on the picture blurred by 4 pixels, by 2, and on the fine one: a shift is found that is smaller than the blur.
_STEPS = (4, 4, 5)
# Keeps the equations solvable where a picture has no slope along an axis; slopes of content are a thousand and more.
_DAMPING, _MOST_STEP = 1e-3, 0.1
_NOTHING = np.float32(1e-6)
_BATCH = 256
_POSITIONS = 8  # four turns, mirrored or not


def _silent(done: int, total: int, what: str) -> None:
    """Tells nobody."""


@dataclass(frozen=True)
class Pair:
    """Two pictures (numbers in the order given, first < second) that show the same thing.

    bits: Hamming distance of their hashes, of 63. correlation: of their fine pictures, one laid on the other.
    turned: the second is mirrored or turned against the first.
    """

    first: int
    second: int
    bits: int
    correlation: float
    turned: bool


@dataclass(frozen=True)
class Leak:
    """Two items (by their first image) in different splits that show the same thing."""

    first: str
    first_split: str
    second: str
    second_split: str
    correlation: float
    turned: bool


@dataclass(frozen=True, eq=False)
class _Features:
    """hashes: (pictures, 8), one of each position. fine: (pictures, FINE, FINE). blurred: (pictures, COARSE, COARSE),
    by four pixels of the fine picture, and by two: on this grid that loses nothing.
    """

    hashes: Hashes
    blurred: tuple[Float32, Float32]
    fine: Float32


def groups(
    pictures: Iterable[Picture], *, flips: bool = True, least_correlation: float = LEAST_CORRELATION
) -> list[int]:
    """A group number for each (rows, columns) picture, counted from 0 in order of first appearance.

    Pictures of one pair share a group, and so do those that are joined by a chain of pairs. Arguments as for `find`.
    """
    features = _features(pictures)
    return grouped(len(features[0].fine), _pairs(features, flips, least_correlation))


def find(
    pictures: Iterable[Picture], *, flips: bool = True, least_correlation: float = LEAST_CORRELATION
) -> list[Pair]:
    """Pairs of (rows, columns) pictures of any values that show the same thing, in order.

    Pictures are taken one by one and not kept: about 50 kB of each stay. A picture without content matches nothing.
    flips: whether a mirrored or turned copy counts; not for paired organs, where left and right are two pictures.
    least_correlation: 0.8 also joins neighbouring slices of one patient.
    """
    return _pairs(_features(pictures), flips, least_correlation)


def grouped(count: int, pairs: Iterable[Pair]) -> list[int]:
    """Group numbers of `count` pictures from pairs: connected components, in order of first appearance."""
    return _components(count, [(pair.first, pair.second) for pair in pairs])


def _components(count: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    first, second = np.array(edges, int).reshape(-1, 2).T
    graph = sparse.coo_array((np.ones(len(edges)), (first, second)), shape=(count, count))
    _, found = sparse.csgraph.connected_components(graph, directed=False)
    number: dict[int, int] = {}
    return [number.setdefault(int(group), len(number)) for group in found]


# --- cohorts ------------------------------------------------------------------------------------------------------


def leaks(cohort: Cohort, *, flips: bool = True, progress: Progress = _silent) -> tuple[Leak, ...]:
    """Items in different splits that show the same thing.

    Of a volume the slices at a quarter, half and three quarters of its length are compared, first channel only: a copy
    of a volume is found, one that was cut along its length may not be.
    """
    owner, pairs = _pairs_of(cohort, flips, progress)
    found: dict[tuple[str, str], Leak] = {}
    for pair in pairs:
        (first, one), (second, other) = owner[pair.first], owner[pair.second]
        if first != second:
            leak = Leak(one.images[0], first, other.images[0], second, pair.correlation, pair.turned)
            key = (one.images[0], other.images[0])
            if key not in found or found[key].correlation < pair.correlation:
                found[key] = leak
    return tuple(found.values())


def refuse_leaks(cohort: Cohort, *, flips: bool = True, progress: Progress = _silent) -> None:
    """For cohorts that are about to be saved whose patients are not known.

    Raises:
        Rejected: near-duplicates lie in two splits; the message names how many, and one pair.
    """
    found = leaks(cohort, flips=flips, progress=progress)
    if found:
        worst = max(found, key=lambda leak: leak.correlation)
        raise Rejected(
            f"cohort {cohort.name!r}: {len(found)} pairs of pictures in different splits show the same thing, such as "
            f"{worst.first} in {worst.first_split} and {worst.second} in {worst.second_split}; "
            "take one of each pair out, or give both one patient"
        )


def regroup(
    cohort: Cohort, key: str, shares: Mapping[str, float], *, flips: bool = True, progress: Progress = _silent
) -> Cohort:
    """The cohort split anew, so that near-duplicates and all items of one patient stay in one split; not saved yet.

    A group is named by the smallest SHA-256 of its images' files, and its split follows from name and key alone, not
    from any order. Where patients were not known the group takes their place, and `split_unit` says so.
    shares: split -> share, as for `cohort.split_of`.
    """
    owner, pairs = _pairs_of(cohort, flips, progress)
    items = list(dict.fromkeys(item.images[0] for _, item in owner))
    number = {image: position for position, image in enumerate(items)}
    of_image = {item.images[0]: item for _, item in owner}
    same = [(number[owner[pair.first][1].images[0]], number[owner[pair.second][1].images[0]]) for pair in pairs]
    first_of: dict[str, int] = {}
    same += [(first_of.setdefault(of_image[image].patient, number[image]), number[image]) for image in items]
    names = _group_names(cohort, items, _components(len(items), same))
    unknown = cohort.split_unit in ("near-duplicate group", "none")
    splits: dict[str, list[Item]] = {split: [] for split in SPLITS}
    for image, name in zip(items, names, strict=True):
        item = replace(of_image[image], patient=f"D{name[:16]}") if unknown else of_image[image]
        splits[split_of(name, key, shares)].append(item)
    return replace(
        cohort,
        splits={split: tuple(found) for split, found in splits.items()},
        split_unit="near-duplicate group" if unknown else cohort.split_unit,
    )


def _group_names(cohort: Cohort, images: Sequence[str], numbers: Sequence[int]) -> list[str]:
    contents = [hashlib.sha256(cohort.path(image).read_bytes()).hexdigest() for image in images]
    smallest: dict[int, str] = {}
    for number, content in zip(numbers, contents, strict=True):
        smallest[number] = min(content, smallest.get(number, content))
    return [smallest[number] for number in numbers]


def _pairs_of(cohort: Cohort, flips: bool, progress: Progress) -> tuple[list[tuple[str, Item]], list[Pair]]:
    """((split, item) of each picture that was compared, pairs of pictures)."""
    listed = [(split, item) for split in SPLITS for item in cohort.splits.get(split, ())]
    owner: list[tuple[str, Item]] = []

    def pictures() -> Iterator[Float32]:
        for done, entry in enumerate(listed):
            progress(done, len(listed), "pictures to compare")
            for picture in _shown(cohort, entry[1]):
                owner.append(entry)
                yield picture
        progress(len(listed), len(listed), "pictures to compare")

    pairs = find(pictures(), flips=flips)
    return owner, pairs


def _shown(cohort: Cohort, item: Item) -> list[Float32]:
    image = load_image(cohort, item)
    if isinstance(image, Projection):
        return [image.pixels[0]]
    slices = image.voxels[0]
    return [slices[index] for index in sorted({len(slices) * quarter // 4 for quarter in (1, 2, 3)})]


# --- features -----------------------------------------------------------------------------------------------------


def _features(pictures: Iterable[Picture]) -> tuple[_Features, _Features]:
    """Of the whole pictures and of those without border."""
    whole: list[_Parts] = []
    inner: list[_Parts] = []
    for picture in pictures:
        values = np.nan_to_num(np.asarray(picture, np.float32))
        if values.ndim != 2:
            raise ValueError(f"a picture has the axes (row, column), not the shape {values.shape}")
        whole.append(_parts(values))
        inner.append(_parts(_without_border(values)))
    return _gathered(whole), _gathered(inner)


def _parts(picture: Float32) -> _Parts:
    thumb = _standardised(_resized(picture, FINE))
    return _hashes(picture), _halved(_blurred(thumb, 4)), _halved(_blurred(thumb, 2)), _fine(thumb)


def _gathered(parts: Sequence[_Parts]) -> _Features:
    hashes, blurred, sharper, fine = zip(*parts, strict=True) if parts else ((), (), (), ())
    shape = (-1, _POSITIONS)
    small, large = (-1, COARSE, COARSE), (-1, FINE, FINE)
    return _Features(
        np.array(hashes, np.uint64).reshape(shape),
        (np.array(blurred, np.float32).reshape(small), np.array(sharper, np.float32).reshape(small)),
        np.array(fine, np.float32).reshape(large),
    )


def _resized(picture: Float32, side: int) -> Float32:
    """(side, side), each pixel a weighted mean of what it covers: Pillow widens the triangle when it shrinks."""
    image = Image.fromarray(picture).resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(image, np.float32)


def _without_border(picture: Float32) -> Float32:
    """The picture without its constant border; all of it where little is left."""
    rows, columns = border.content(picture)
    inner = picture[rows, columns]
    return np.ascontiguousarray(inner) if min(inner.shape) >= _SMALLEST else picture


def _standardised(thumb: Float32) -> Float32:
    spread = float(thumb.std())
    return (thumb - thumb.mean()) / np.float32(spread) if spread > 0 else np.zeros_like(thumb)


def _hashes(picture: Float32) -> Hashes:
    """(8,) uint64: the hash of the picture in each position, in the order of `_turned`."""
    low = fft.dctn(_resized(picture, COARSE), norm="ortho")[:8, :8]
    odd = np.where(np.arange(8) % 2, -1.0, 1.0)
    positions = []
    for position in range(_POSITIONS):
        swap, down, across = position & 4, position & 2, position & 1
        signs = (odd[:, None] if down else 1.0) * (odd if across else 1.0)
        bits = ((low.T if swap else low) * signs > 0).ravel()
        bits[0] = False  # the mean
        positions.append(np.packbits(bits).view(np.uint64)[0])
    return np.array(positions, np.uint64)


def _turned(thumbs: Float32, position: int) -> Float32:
    """(..., rows, columns) in one of eight positions: transposed (4), upside down (2), mirrored (1)."""
    turned = np.swapaxes(thumbs, -1, -2) if position & 4 else thumbs
    turned = turned[..., ::-1, :] if position & 2 else turned
    return turned[..., ::-1] if position & 1 else turned


def _fine(thumbs: Float32) -> Float32:
    """(..., rows, columns) without low frequencies and with even local contrast."""
    high = thumbs - _blurred(thumbs, 4)
    contrast = np.sqrt(np.maximum(_blurred(high * high, 8), 0))
    return np.asarray(high / (contrast + 0.02), np.float32)


def _halved(thumb: Float32) -> Float32:
    rows, columns = thumb.shape
    return np.asarray(thumb.reshape(rows // 2, 2, columns // 2, 2).mean((1, 3)), np.float32)


def _blurred(thumbs: Float32, sigma_px: float) -> Float32:
    return ndimage.gaussian_filter(thumbs, sigma_px, axes=(-2, -1))


# --- pairs --------------------------------------------------------------------------------------------------------


def _pairs(features: Sequence[_Features], flips: bool, least_correlation: float) -> list[Pair]:
    best: dict[tuple[int, int], Pair] = {}
    for kind in features:
        for pair in _confirmed(kind, flips, least_correlation):
            known = best.get((pair.first, pair.second))
            if known is None or pair.correlation > known.correlation:
                best[pair.first, pair.second] = pair
    return [best[key] for key in sorted(best)]


def _confirmed(kind: _Features, flips: bool, least_correlation: float) -> Iterator[Pair]:
    for position in range(_POSITIONS if flips else 1):
        first, second, bits = _candidates(kind.hashes, position)
        for start in range(0, len(first), _BATCH):
            batch = slice(start, start + _BATCH)
            found = _correlations(kind, first[batch], second[batch], position, least_correlation)
            for i in np.flatnonzero(found >= least_correlation):
                at = start + i
                yield Pair(int(first[at]), int(second[at]), int(bits[at]), float(found[i]), turned=position > 0)


def _candidates(hashes: Hashes, position: int) -> tuple[Numbers, Numbers, Numbers]:
    """(first, second, distance) of all pairs first < second whose hashes are near when the second is turned."""
    first, second, bits = [], [], []
    for number, one in enumerate(hashes[:, 0]):
        distance = np.bitwise_count(hashes[number + 1 :, position] ^ one)
        near = np.flatnonzero(distance <= MOST_BITS)
        first.append(np.full(len(near), number))
        second.append(near + number + 1)
        bits.append(distance[near])
    empty = np.zeros(0, int)
    return np.concatenate([empty, *first]), np.concatenate([empty, *second]), np.concatenate([empty, *bits])


def _correlations(kind: _Features, first: Numbers, second: Numbers, position: int, enough: float) -> Float64:
    """(pairs,) correlation of the fine pictures; those that do not agree as they lie are laid on each other first."""

    def both(thumbs: Float32, chosen: Numbers) -> tuple[Float32, Float32]:
        return thumbs[first[chosen]], _turned(thumbs[second[chosen]], position)

    everything = np.arange(len(first))
    found = _correlation(*both(kind.fine, everything))
    near = _correlation(*both(kind.blurred[1], everything)) > _WORTH_LAYING
    todo = np.flatnonzero((found < enough) & near)
    place = np.tile([1.0, 0.0, 1.0, 0.0], (len(todo), 1))
    for thumbs, steps in zip((*kind.blurred, kind.fine), _STEPS, strict=True):
        if not todo.size:
            break
        one, other = both(thumbs, todo)
        place = _laid(one, other, place, steps)
        moved, seen = _moved(other, place)
        agreement = np.where(_plausible(place), _correlation(one, moved, seen), -1.0)
        if thumbs is kind.fine:
            found[todo] = np.maximum(found[todo], agreement)
        close = agreement > _WORTH_A_CLOSER_LOOK
        todo, place = todo[close], place[close]
    return found


def _correlation(one: Float32, other: Float32, seen: Float32 | None = None) -> Float64:
    """(pairs,) Pearson correlation of (pairs, rows, columns) where `seen` is 1; 0 where one has no contrast."""
    seen = np.ones_like(one) if seen is None else seen
    a, b = _centred(one, seen), _centred(other, seen)
    norm = np.sqrt((a * a).sum((1, 2)) * (b * b).sum((1, 2)))
    return np.asarray((a * b).sum((1, 2)) / np.maximum(norm, 1e-6), np.float64)


def _centred(values: Float32, seen: Float32) -> Float32:
    mean = (values * seen).sum((1, 2)) / np.maximum(seen.sum((1, 2)), 1)
    return (values - mean[:, None, None]) * seen


def _laid(one: Float32, other: Float32, place: Float64, steps: int) -> Float64:
    """place: (pairs, 4), scale and shift down and across, in half sides, that lay `other` on `one`; improved."""
    at = _centres(one.shape[-1])
    for _ in range(steps):
        moved, seen = _moved(other, place)
        wrong = (_standard(one, seen) - _standard(moved, seen)).reshape(len(one), -1, 1)
        steepness = seen / np.maximum(_spread(moved, seen), _NOTHING)[:, None, None]
        down, across = (slope * steepness for slope in np.gradient(moved, 2 / len(at), axis=(1, 2)))
        slopes = np.stack([down * at[:, None], down, across * at, across], axis=-1).reshape(len(one), -1, 4)
        turned = slopes.transpose(0, 2, 1)
        step = np.linalg.solve(turned @ slopes + _DAMPING * np.eye(4, dtype=np.float32), turned @ wrong)[..., 0]
        place = place + np.clip(step, -_MOST_STEP, _MOST_STEP)
    return place


def _centres(side: int) -> Float32:
    """(side,) positions of pixels along one axis, from -1 to 1 at the picture's edges."""
    return ((2 * np.arange(side, dtype=np.float32) + 1) / side - 1).astype(np.float32)


def _standard(values: Float32, seen: Float32) -> Float32:
    return np.asarray(_centred(values, seen) / np.maximum(_spread(values, seen), _NOTHING)[:, None, None], np.float32)


def _spread(values: Float32, seen: Float32) -> Float32:
    """(pairs,) standard deviation where `seen` is 1."""
    variance = (_centred(values, seen) ** 2).sum((1, 2)) / np.maximum(seen.sum((1, 2)), 1)
    return np.asarray(np.sqrt(variance), np.float32)


def _moved(thumbs: Float32, place: Float64) -> tuple[Float32, Float32]:
    """(pairs, rows, columns) resampled linearly, and 1 where the sample lay inside."""
    down, seen_down = _weights(place[:, 0], place[:, 1], thumbs.shape[-1])
    across, seen_across = _weights(place[:, 2], place[:, 3], thumbs.shape[-1])
    moved = np.asarray(down @ thumbs @ across.transpose(0, 2, 1), np.float32)
    return moved, np.asarray(seen_down[:, :, None] * seen_across[:, None, :], np.float32)


def _weights(scale: Float64, shift: Float64, side: int) -> tuple[Float32, Float32]:
    """(pairs, side, side) weights of linear interpolation along one axis, and (pairs, side) 1 where inside."""
    at = scale[:, None] * _centres(side) + shift[:, None]
    index = (((at + 1) * side - 1) / 2).astype(np.float32)
    weights = np.maximum(0, 1 - np.abs(index[:, :, None] - np.arange(side, dtype=np.float32)))
    return weights.astype(np.float32), ((index >= 0) & (index <= side - 1)).astype(np.float32)


def _plausible(place: Float64) -> npt.NDArray[np.bool_]:
    scales, shifts = place[:, ::2], place[:, 1::2]
    return np.asarray((np.abs(scales - 1) <= _MOST_SCALE).all(1) & (np.abs(shifts) <= _MOST_SHIFT).all(1), np.bool_)
