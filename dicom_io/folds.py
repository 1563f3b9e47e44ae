"""A cohort dealt into folds: each a cohort of its own, in which other patients are the test patients, every one once.

Items of what the split keeps together (patients, slides, groups of near-duplicates) stay together. They are dealt in
the order of a hash, those with a positive item apart from those without, so that folds are alike, whatever the order
of files. The fold after a fold's own validates; the rest trains. Files are linked where the disk can, and copied where
not.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dicom_io import cohort as cohorts
from dicom_io import nifti
from dicom_io.cohort import SPLITS, Cohort, Item
from dicom_io.errors import Rejected

# A checkpoint and a threshold that hang on one patient are his.
FEWEST_VALIDATING = 2


def fold(cohort: Cohort, count: int | None, out: Path) -> list[Cohort]:
    """OUT/fold-1, OUT/fold-2, ...; count: how many, None for as many as there are patients (leave one out).

    Where a fold has fewer than `FEWEST_VALIDATING` patients, the next folds validate, too, until they are so many.

    Raises:
        Rejected: nothing is kept together, there are too few patients, or `out` is not empty.
    """
    if cohort.split_unit == "none":
        raise Rejected(
            f"cohort {cohort.name!r} keeps nothing together (split_unit none), so folds would share patients"
        )
    dealt = _dealt(cohort, count)
    if out.exists() and any(out.iterdir()):
        raise Rejected(f"{out} is not empty; give a new folder, so that no two deals mix")
    made = []
    for number, test in enumerate(dealt):
        others = [*dealt[number + 1 :], *dealt[:number]]
        validation: list[str] = []
        while len(validation) < FEWEST_VALIDATING:
            validation += others.pop(0)
        where = dict.fromkeys(test, "test") | dict.fromkeys(validation, "validation")
        made.append(_written(cohort, where, out / f"fold-{number + 1}", f"fold {number + 1} of {len(dealt)}"))
    return made


def _dealt(cohort: Cohort, count: int | None) -> list[list[str]]:
    """The patients of each fold."""
    positive: dict[str, bool] = {}
    for item in _items(cohort):
        positive[item.patient] = positive.get(item.patient, False) or _is_positive(item)
    folds = len(positive) if count is None else count
    if folds < 3 or len(positive) < max(folds, FEWEST_VALIDATING + 2):
        raise Rejected(
            f"cohort {cohort.name!r} has {len(positive)} patients, which are too few for {folds} folds: one tests, "
            "another validates, and the rest trains; take 3 folds or more, and no more than there are patients"
        )
    ordered = sorted(positive, key=lambda name: (not positive[name], _hash(cohort.name, name)))
    return [ordered[number::folds] for number in range(folds)]


def _is_positive(item: Item) -> bool:
    return max((*item.slice_labels, item.label or 0), default=0) > 0


def _hash(cohort: str, patient: str) -> bytes:
    return hashlib.sha256(f"fold\0{cohort}\0{patient}".encode()).digest()


def _items(cohort: Cohort) -> list[Item]:
    return [item for split in SPLITS for item in cohort.splits.get(split, ())]


def _written(cohort: Cohort, where: dict[str, str], folder: Path, named: str) -> Cohort:
    items = _items(cohort)
    for item in items:
        for relative in (*item.images, *((item.mask,) if item.mask else ())):
            _link(cohort.path(relative), folder / relative)
    splits = {split: tuple(each for each in items if where.get(each.patient, "training") == split) for split in SPLITS}
    made = replace(
        cohort,
        folder=folder,
        name=f"{cohort.name}, {named}",
        splits=splits,
        description=f"{cohort.description} Dealt anew: {named}.".strip(),
        buried=0,
        # Who comes later belongs to no fold.
        split_key="",
        split_shares={},
    )
    cohorts.save(made)
    return cohorts.load(folder)


def _link(path: Path, at: Path) -> None:
    for source, target in _with_sidecar(path, at):
        if target.exists() or not source.is_file():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)


def _with_sidecar(path: Path, at: Path) -> Sequence[tuple[Path, Path]]:
    return ((path, at), (nifti.sidecar_of(path), nifti.sidecar_of(at)))
