"""Patients of a data set become one cohort: how they are split, and what is told of things that could not be used."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from dicom_io import cohort as cohorts
from dicom_io import near_duplicates
from dicom_io.cohort import Channel, Cohort, Item, SplitUnit, Task
from dicom_io.errors import Rejected

Progress = Callable[[int, int, str], None]
LEFT_OUT = "left_out.json"


@dataclass(frozen=True)
class Plan:
    """What a cohort will be, before an image was read. unit: what `patient` of its items stands for.

    guessed: patients were told from names of files, so that pictures of one may lie in two splits.
    """

    name: str
    description: str
    task: Task
    labels: tuple[str, ...]
    channels: tuple[Channel, ...]
    unit: SplitUnit = "patient"
    guessed: bool = False


def split(patients: Iterable[str], name: str) -> dict[str, str]:
    """A fifth of the patients for test, a fifth for validation (one at least), in hash order; the rest trains.

    Raises:
        Rejected: there are fewer than three.
    """
    known = sorted(set(patients))
    if len(known) < 3:
        raise Rejected(f"images of {len(known)} patient(s) were found; a split by patient needs at least 3")
    held_out = max(1, len(known) // 5)
    return cohorts.split_evenly(known, name, {"test": held_out, "validation": held_out})


def gather(
    plan: Plan,
    out: Path,
    splits: Mapping[str, str],
    items_of: Callable[[str], list[Item]],
    progress: Progress,
    left_out: list[str] | None = None,
) -> Cohort:
    """Read patient by patient and save. splits: patient, as `items_of` takes it -> split.

    left_out: sentences on what was not used, which `items_of` may add to; their number is told in the description, and
    they themselves in `left_out.json` beside the data list, so they name patients by pseudonym only.

    Raises:
        Rejected: nothing could be used; or patients are guessed, and pictures of two splits show the same thing.
    """
    found: dict[str, list[Item]] = {split: [] for split in cohorts.SPLITS}
    for done, (patient, split_) in enumerate(sorted(splits.items())):
        progress(done, len(splits), f"{plan.unit}s")
        found[split_] += items_of(patient)
    progress(len(splits), len(splits), f"{plan.unit}s")
    if not any(found.values()):
        raise Rejected(f"no image of {len(splits)} {plan.unit}s could be used; the first: {(left_out or ['none'])[0]}")
    made = Cohort(
        folder=out,
        name=plan.name,
        description=plan.description,
        task=plan.task,
        labels=plan.labels,
        channels=plan.channels,
        splits={split: tuple(items) for split, items in found.items()},
        split_unit=plan.unit,
    )
    if left_out:
        made = replace(made, description=f"{plan.description}; {len(left_out)} left out, see {LEFT_OUT}")
        (out / LEFT_OUT).write_text(json.dumps(left_out, indent=1) + "\n")
    if plan.guessed:
        near_duplicates.refuse_leaks(made, progress=progress)
    cohorts.save(made)
    return made
