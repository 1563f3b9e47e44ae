"""Brain tumours on MR as pictures: {Training,Testing}/CLASS/*.jpg, as published on Kaggle in several editions.

Nobody knows the patients, and the published split is no split by patient: slices of one scan, copies of one picture
among them, lie in both halves. So pictures that are near-duplicates of each other (`dicom_io.near_duplicates`) stay
together, the cohort is split anew by these groups, and the published half is kept as provenance only. Different slices
of one patient may still be apart; results on this set are for teaching.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dicom_io import cohort as cohorts
from dicom_io import near_duplicates
from dicom_io.cohort import Channel, Cohort, Item
from dicom_io.errors import Rejected
from dicom_io.pseudonym import pseudonym
from dicom_io.volume import Float32, Projection
from samples.importers import pictures
from samples.importers.by_patient import Plan, Progress, gather

HALVES = ("Training", "Testing")
SHARES = {"training": 0.7, "validation": 0.15, "test": 0.15}
NAME = "brain-tumour-folders"


@dataclass(frozen=True)
class Picture:
    """A file, the half that it was published in, its class, and SHA-256 (hex) of its bytes."""

    path: Path
    half: str
    label: str
    content: str


def folders(source: Path, out: Path, key: bytes, progress: Progress) -> Cohort:
    """All pictures in grey, for classifiers; 70 % of the near-duplicate groups train, 15 % validate, 15 % test."""
    found = pictures_in(source)
    groups = grouped(found, progress)
    labels = classes(found)
    splits = {group: cohorts.split_of(group, NAME, SHARES) for group in groups}
    plan = Plan(
        name=NAME,
        description=f"Brain MR as pictures in grey; {len(groups)} groups of near-duplicates among {len(found)} "
        f"pictures, {len(leaks(groups))} of them in both published halves, {len(conflicts(groups))} in several classes",
        task="classification",
        labels=labels,
        channels=(Channel("picture", "MR", "1"),),
        unit="near-duplicate group",
    )
    return gather(plan, out, splits, partial(_items, groups, labels, out, key), progress)


def pictures_in(source: Path) -> list[Picture]:
    """Every picture, by half, class and name.

    Raises:
        Rejected: a half is missing, or holds no class folders with pictures.
    """
    found = [
        Picture(path, half, path.parent.name, hashlib.sha256(path.read_bytes()).hexdigest())
        for half in HALVES
        for path in sorted((source / half).glob("*/*"))
        if path.suffix.lower() in pictures.SUFFIXES
    ]
    if {picture.half for picture in found} != set(HALVES):
        raise Rejected(
            f"{source} holds no Training/CLASS/ and Testing/CLASS/ with pictures; give the folder above them"
        )
    return found


def classes(found: Sequence[Picture]) -> tuple[str, ...]:
    """Class folders by name, the one without a tumour ("no_tumor", "notumor") first."""
    return tuple(sorted({picture.label for picture in found}, key=lambda name: (not name.startswith("no"), name)))


def grouped(found: Sequence[Picture], progress: Progress) -> dict[str, list[Picture]]:
    """Smallest content hash of a group -> its pictures: so its name and its split do not depend on the files' names."""
    numbers = near_duplicates.groups(_read(found, progress))
    members = defaultdict[int, list[Picture]](list)
    for number, picture in zip(numbers, found, strict=True):
        members[number].append(picture)
    return {min(picture.content for picture in group): group for group in members.values()}


def leaks(groups: Mapping[str, Sequence[Picture]]) -> list[str]:
    """Names of the groups that have a picture in each published half."""
    return [name for name, group in groups.items() if len({picture.half for picture in group}) > 1]


def conflicts(groups: Mapping[str, Sequence[Picture]]) -> list[str]:
    """Names of the groups that have pictures in several classes, of which one at most is right."""
    return [name for name, group in groups.items() if len({picture.label for picture in group}) > 1]


def _read(found: Sequence[Picture], progress: Progress) -> Iterator[Float32]:
    for done, picture in enumerate(found):
        progress(done, len(found), "pictures to compare")
        yield pictures.grey(picture.path)[0]


def _items(
    groups: Mapping[str, Sequence[Picture]], labels: Sequence[str], out: Path, key: bytes, group: str
) -> list[Item]:
    patient = pseudonym(key, group, prefix="D")
    return [
        _item(picture, f"{patient}_{number}", patient, labels.index(picture.label), out)
        for number, picture in enumerate(sorted(groups[group], key=lambda picture: (picture.content, picture.path)))
    ]


def _item(picture: Picture, name: str, patient: str, label: int, out: Path) -> Item:
    pixels, file = pictures.grey(picture.path)
    return cohorts.add_projection(
        out,
        name,
        Projection(pixels=pixels, units="1"),
        patient,
        channel="picture",
        label=label,
        provenance=pictures.provenance(NAME, published_split=picture.half, file=file),
    )
