"""Who trains, who validates and who is tested: patients (or groups of near-duplicates) dealt into folds."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from dicom_io import cohort as cohorts
from dicom_io.cohort import Cohort, Item


def dealt(items: Sequence[Item], folds: int, name: str) -> dict[str, int]:
    """Patient (or group) -> number of its fold: in hash order, one by one, kind by kind, so that folds are much alike.

    A kind is the set of classes that a patient's pictures have. name: another name deals in another order.
    """
    kinds: dict[str, set[int]] = {}
    for item in items:
        kinds.setdefault(item.patient, set()).add(item.label or 0)

    def place(patient: str) -> tuple[list[int], bytes]:
        return sorted(kinds[patient]), hashlib.sha256(f"{name}\0{patient}".encode()).digest()

    return {patient: number % folds for number, patient in enumerate(sorted(kinds, key=place))}


def fold_of(view: Cohort, deal: Mapping[str, int], fold: int, folder: Path) -> Cohort:
    """One fold is the test, the next one validates, the others train. FOLDER gets a data list alone, which names the
    view's pictures; saved."""
    folds = max(deal.values()) + 1
    names = {fold: "test", (fold + 1) % folds: "validation"}
    splits: dict[str, list[Item]] = {split: [] for split in cohorts.SPLITS}
    for item in view.training:
        splits[names.get(deal[item.patient], "training")].append(_seen_from(folder, view.folder, item))
    folder.mkdir(parents=True, exist_ok=True)
    made = Cohort(
        folder=folder,
        name=folder.name,
        task="classification",
        labels=view.labels,
        channels=view.channels,
        splits={split: tuple(found) for split, found in splits.items()},
        split_unit=view.split_unit,
        description=view.description,
    )
    cohorts.save(made)
    return made


def _seen_from(folder: Path, view: Path, item: Item) -> Item:
    return replace(item, images=tuple(os.path.relpath(view / path, folder) for path in item.images))
