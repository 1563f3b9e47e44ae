"""What a cohort holds, counted: items, slices and patients of each class and split, and histograms of its intensities.

Classes are those of the items, or of the slices where slices are labelled; what has neither is "unlabelled". Synthetic
items are counted beside the real ones, never among them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from dicom_io.cohort import SPLITS, Cohort, Item, load_image
from dicom_io.volume import Float32, Float64, Volume

UNLABELLED = "unlabelled"
BINS = 64
# The ends of a histogram: a single bright pixel must not press all others into one bin.
_ENDS = (0.1, 99.9)
Progress = Callable[[int, int, str], None]


def _silent(done: int, total: int, what: str) -> None:
    """Tells nobody."""


def classes_of(cohort: Cohort, item: Item) -> list[tuple[str, list[int] | None]]:
    """(class name, the slices that are of it; None for the whole item), in the order of the label numbers."""
    if item.slice_labels:
        found = defaultdict[int, list[int]](list)
        for index, label in enumerate(item.slice_labels):
            found[label].append(index)
        return [(cohort.labels[label], found[label]) for label in sorted(found)]
    return [(UNLABELLED if item.label is None else cohort.labels[item.label], None)]


def counts(cohort: Cohort) -> dict[str, Any]:
    """{split: {"real" | "synthetic": {class: {"items", "patients"[, "slices"]}}}}; what does not occur is left out."""
    table: dict[str, Any] = {}
    for split in SPLITS:
        items: dict[tuple[str, str], list[tuple[Item, list[int] | None]]] = defaultdict(list)
        for item in cohort.splits.get(split, ()):
            for name, slices in classes_of(cohort, item):
                items["synthetic" if item.synthetic else "real", name].append((item, slices))
        table[split] = {}
        for (kind, name), members in sorted(items.items()):
            row = {"items": len(members), "patients": len({item.patient for item, _ in members})}
            if members[0][1] is not None:
                row["slices"] = sum(len(slices or ()) for _, slices in members)
            table[split].setdefault(kind, {})[name] = row
    return table


def histograms(cohort: Cohort, *, bins: int = BINS, progress: Progress = _silent) -> list[dict[str, Any]]:
    """Per channel {"channel", "units", "edges", "shares": {class: [...]}}, over all splits.

    edges: `bins` + 1 values in the channel's units, from the least 0.1st to the greatest 99.9th percentile of an image.
    shares: part of the class's voxels in each bin, the first and the last one with all that lies beyond. Each image
    counts as much as another of its class, however many voxels it has. Synthetic items have a class of their own.
    """
    listed = [item for split in SPLITS for item in cohort.splits.get(split, ())]
    edges = _edges(cohort, listed, bins, progress)
    sums: list[dict[str, Float64]] = [defaultdict(lambda: np.zeros(bins)) for _ in cohort.channels]
    for done, item in enumerate(listed):
        progress(done, len(listed), "histograms")
        for name, values in _values(cohort, item):
            for channel, each in enumerate(values):
                inside = np.clip(each, edges[channel][0], edges[channel][-1])
                found = np.histogram(inside, edges[channel])[0]
                sums[channel][name] += found / found.sum()
    progress(len(listed), len(listed), "histograms")
    return [
        {
            "channel": channel.name,
            "units": channel.units,
            "edges": edges[number].tolist(),
            "shares": {name: (total / total.sum()).round(6).tolist() for name, total in sorted(sums[number].items())},
        }
        for number, channel in enumerate(cohort.channels)
    ]


def _edges(cohort: Cohort, items: list[Item], bins: int, progress: Progress) -> Float64:
    """(channels, bins + 1); one unit wide where an image has one value only."""
    low, high = np.full(len(cohort.channels), np.inf), np.full(len(cohort.channels), -np.inf)
    for done, item in enumerate(items):
        progress(done, len(items), "ranges")
        for channel, values in enumerate(_voxels(cohort, item)):
            ends = np.percentile(values, _ENDS)
            low[channel], high[channel] = min(low[channel], ends[0]), max(high[channel], ends[1])
    low, high = np.where(np.isfinite(low), low, 0), np.where(np.isfinite(high), high, 1)
    return np.linspace(low, np.where(high > low, high, low + 1), bins + 1, axis=1)


def _values(cohort: Cohort, item: Item) -> Iterator[tuple[str, Float32]]:
    """(class, (channels, ...) values) of an item."""
    voxels = _voxels(cohort, item)
    for name, slices in classes_of(cohort, item):
        yield f"{name} (synthetic)" if item.synthetic else name, voxels if slices is None else voxels[:, slices]


def _voxels(cohort: Cohort, item: Item) -> Float32:
    """(channels, ...)."""
    image = load_image(cohort, item)
    return image.voxels if isinstance(image, Volume) else image.pixels
