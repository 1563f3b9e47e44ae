"""Toy images and cohorts: seeded blobs on noise, several patients, lopsided and oblique, written as any cohort is."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dicom_io import cohort as cohorts
from dicom_io.cohort import Channel, Cohort, Item, Task
from dicom_io.volume import Projection, Source, Volume

CHANNELS = (Channel("one", "PT", "g/ml{SUVbw}"), Channel("two", "PT", "g/ml{SUVbw}"))
SLICES, ROWS, COLUMNS = 5, 40, 29


def oblique_affine(slice_mm: float = 3.3, down_mm: float = 2.1, across_mm: float = 1.7) -> np.ndarray:
    """Turned about two axes, left-handed to the eye, far from the origin."""
    a, b = np.deg2rad(17), np.deg2rad(-9)
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = (about_z @ about_x)[:, [2, 1, 0]] * [slice_mm, down_mm, across_mm]
    affine[:3, 3] = [-81.5, 33.25, 402.0]
    return affine


def blob_volume(seed: int, *, channels: int = 2, units: str = "1", with_blob: bool = True) -> tuple[Volume, Volume]:
    """Noise with a bright ellipse in channel 0 (and a dark one in channel 1) on the middle slices, and its mask."""
    rng = np.random.default_rng(seed)
    s, r, c = np.mgrid[:SLICES, :ROWS, :COLUMNS]
    row, column = rng.uniform(10, ROWS - 10), rng.uniform(8, COLUMNS - 8)
    mask = ((r - row) / 6) ** 2 + ((c - column) / 4) ** 2 + ((s - 2) / 1.6) ** 2 < 1
    mask &= with_blob
    body = (((r - 20) / 18) ** 2 + ((c - 14) / 13) ** 2) < 1
    layers = [body * (2 + 0.3 * rng.standard_normal(body.shape)) + 3 * mask]
    if channels == 2:
        layers.append(body * (5 + 0.5 * rng.standard_normal(body.shape)) - 2 * mask)
    sources = tuple(Source("1.2.840.10008.5.1.4.1.1.128", f"2.25.{seed}{n}", f"{n:064x}") for n in range(SLICES))
    voxels = np.stack(layers).astype(np.float32)
    volume = Volume(voxels, oblique_affine(), "2.25.7", units, sources)
    return volume, volume.with_voxels(mask.astype(np.float32), units="1")


def projection(seed: int, *, positive: bool) -> Projection:
    """A picture of 48 x 36 with or without a bright spot."""
    rng = np.random.default_rng(seed)
    pixels = rng.normal(100, 10, (48, 36))
    if positive:
        r, c = np.mgrid[:48, :36]
        pixels += 90 * (((r - rng.uniform(12, 36)) ** 2 + (c - rng.uniform(10, 26)) ** 2) < 30)
    source = Source("1.2.840.10008.5.1.4.1.1.1.2", f"2.25.9{seed}", f"{seed:064x}")
    return Projection(pixels.astype(np.float32), "1", source, (0.5, 0.4), "imager", "L", "CC", "left")


def write_cohort(
    folder: Path, task: Task, patients: tuple[int, int, int] = (4, 2, 2), kind: str = "volume", **fields: object
) -> Cohort:
    """A cohort folder of blobs with so many patients for training, validation and test."""
    splits: dict[str, tuple[Item, ...]] = {}
    number = 0
    for split, count in zip(("training", "validation", "test"), patients, strict=True):
        items = []
        for _ in range(count):
            number += 1
            items += _items(folder, task, kind, number)
        splits[split] = tuple(items)
    channels = CHANNELS if kind == "volume" else (Channel("image", "MG", "1"),)
    labels = () if task == "generation" else ("background", "lesion")
    named = {"name": f"toy-{task}", "task": task, "labels": labels, "channels": channels, "splits": splits} | fields
    cohorts.save(Cohort(folder=folder, **named))  # type: ignore[arg-type]
    return cohorts.load(folder)


def _items(folder: Path, task: Task, kind: str, number: int) -> list[Item]:
    patient = f"p{number:02d}"
    if kind == "projection":
        return [
            cohorts.add_projection(
                folder,
                f"{patient}-{view}",
                projection(10 * number + view, positive=bool(view % 2)),
                patient,
                label=view % 2,
            )
            for view in range(4)
        ]
    volume, mask = blob_volume(number, units="g/ml{SUVbw}")
    layers = {channel.name: volume.with_voxels(volume.voxels[index]) for index, channel in enumerate(CHANNELS)}
    labels = tuple(int(mask.voxels[n].any()) for n in range(SLICES)) if task == "classification" else ()
    return [
        cohorts.add_volume(
            folder, patient, layers, patient, mask=mask if task == "segmentation" else None, slice_labels=labels
        )
    ]
