"""Cohorts in which what is to be made is a known function of what is given: lopsided, oblique, from a seed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage
from toy_images import oblique_affine

from dicom_io import cohort as cohorts
from dicom_io.cohort import Channel, Cohort
from dicom_io.volume import Source, Volume
from models import recipe
from models.recipe import Recipe

SLICES, ROWS, COLUMNS = 5, 28, 22
LABELS = ("background", "bright", "grey")
BRIGHTNESS = (0.1, 0.9, 0.5)
SHIFT = (1, 2)  # rows down, columns to the right
Layers = dict[str, np.ndarray]


def shifted(seed: int) -> Layers:
    """ "moved" is "still" one row further down and two columns further right: no map of grey levels can tell."""
    rng = np.random.default_rng(seed)
    still = ndimage.gaussian_filter(rng.standard_normal((SLICES, ROWS, COLUMNS)), (0, 1.2, 1.2))
    still = np.clip(0.5 + still, 0, 1)
    return {"still": still, "moved": np.roll(still, SHIFT, (1, 2))}


def waves(seed: int) -> Layers:
    """Sums of waves no shorter than five pixels: twice as wide pixels still carry them all."""
    rng = np.random.default_rng(seed)
    row, column = np.mgrid[:ROWS, :COLUMNS]
    picture = np.zeros((SLICES, ROWS, COLUMNS))
    for plane in picture:
        for _ in range(12):
            turn, cycles, phase = rng.uniform(0, np.pi), rng.uniform(0.05, 0.2), rng.uniform(0, 2 * np.pi)
            plane += np.sin(2 * np.pi * cycles * (np.cos(turn) * row + np.sin(turn) * column) + phase)
    return {"waves": np.clip(0.5 + 0.09 * picture, 0, 1)}


def painted(seed: int) -> Layers:
    """An ellipse in a box as mask, and pictures of the label's grey, each slice darker or brighter as a whole."""
    rng = np.random.default_rng(seed)
    slices, row, column = np.mgrid[:SLICES, :ROWS, :COLUMNS]
    mask = np.zeros((SLICES, ROWS, COLUMNS), np.uint8)
    top, left = rng.integers(2, 8), rng.integers(2, 6)
    mask[:, top : top + 16, left : left + 13] = 2
    centre = top + rng.uniform(5, 10), left + rng.uniform(4, 8)
    mask[((row - centre[0]) / 4) ** 2 + ((column - centre[1]) / 3) ** 2 + 0 * slices < 1] = 1
    shade = rng.uniform(-0.1, 0.1, (SLICES, 1, 1))
    noise = 0.01 * rng.standard_normal(mask.shape)
    return {"shade": np.clip(np.array(BRIGHTNESS)[mask] + shade * (mask > 0) + noise, 0, 1), "mask": mask}


def write(folder: Path, layers: Callable[[int], Layers], counts: tuple[int, int, int] = (8, 2, 6)) -> Cohort:
    """One volume for each patient; a layer "mask" becomes the mask."""
    splits, number = {}, 0
    names = [name for name in layers(0) if name != "mask"]
    for split, count in zip(cohorts.SPLITS, counts, strict=True):
        items = []
        for _ in range(count):
            number += 1
            volumes = {name: volume(values, number) for name, values in layers(number).items()}
            mask = volumes.pop("mask", None)
            patient = f"p{number:02d}"
            items.append(cohorts.add_volume(folder, patient, volumes, patient, mask=mask))
        splits[split] = tuple(items)
    masked = "mask" in layers(0)
    channels = tuple(Channel(name, "MR", "1", name) for name in names)
    task: Any = "segmentation" if masked else "generation"
    cohorts.save(Cohort(folder, "pairs", task, LABELS if masked else (), channels, splits))
    return cohorts.load(folder)


def volume(values: np.ndarray, number: int) -> Volume:
    sources = tuple(Source("1.2.840.10008.5.1.4.1.1.4", f"2.25.{number}{n}", f"{n:064x}") for n in range(SLICES))
    return Volume(values.astype(np.float32), oblique_affine(), f"2.25.{number}", "1", sources)


def small(name: str, **changes: Any) -> Recipe:
    """A shipped recipe for toys; keys of `changes` are merged into the recipe's parts."""
    plain = recipe.load(name).model_dump(mode="json")
    plain |= {"preprocessing": [], "pixel_range": [0, 1], "minimum_signal": 0.0, "audit_samples": 32}
    plain |= {"report_samples": 16, "augmentation": {}, "evaluation": {"bootstrap_draws": 200}}
    plain["schedule"] |= {"total_images": 64, "report_images": 32, "batch_size": 8, "precision": "float32"}
    plain["schedule"] |= {"warm_up_images": 0, "ema_half_life_images": 100}
    if name == "mask-to-image":
        plain["network"] |= {"image_px": 16, "features": 8, "hidden": 8, "latent": 4}
        plain["critic"] = {"features": 8, "layers": 1, "scales": 1}
        plain["channels"] = ["shade"]
    else:
        plain["network"] |= {"window_px": 16, "channels": [8, 16]}
        if name != "super-resolution":
            plain["critic"] = {"features": 8, "layers": 1, "scales": 1}
        plain |= {"channels": ["waves"]} if name == "super-resolution" else {"source": ["still"], "channels": ["moved"]}
    for key, value in changes.items():
        plain[key] = plain[key] | value if isinstance(plain[key], dict) else value
    return recipe.parse(plain, name)


KINDS: dict[str, Callable[[int], Layers]] = {"translator": shifted, "super-resolution": waves, "mask-to-image": painted}


def inverted(seed: int) -> Layers:
    """Few bright blobs on dark, and the same slices inverted: their histograms tell which is which, without pairs."""
    rng = np.random.default_rng(seed)
    bright = ndimage.gaussian_filter(rng.standard_normal((SLICES, ROWS, COLUMNS)), (0, 1.5, 1.5))
    still = 0.1 + 0.8 * np.clip(4 * bright - 0.6, 0, 1)
    return {"still": still, "moved": 1 - still}
