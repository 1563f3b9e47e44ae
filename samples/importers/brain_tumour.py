"""Brain tumours on MR as pictures: {Training,Testing}/CLASS/*.jpg, as published on Kaggle in several editions.

Nobody knows the patients, and the published split is no split by patient: slices of one scan, copies of one picture
among them, lie in both halves. So pictures that are near-duplicates of each other (`dicom_io.near_duplicates`) stay
together, the cohort is split anew by these groups, and the published half is kept as provenance only. Who asks for the
published split is told how many groups lie in both halves, and gets it only where none does. Different slices of one
patient may still be apart; results on this set are for teaching.
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
    groups = grouped(pictures_in(source), progress)
    splits = {group: cohorts.split_of(group, NAME, SHARES) for group in groups}
    return _gathered(groups, splits, "", out, key, progress)


def published(source: Path, out: Path, key: bytes, progress: Progress) -> Cohort:
    """The same, tested on what was published as Testing; 15 % of Training's groups validate, the others train.

    Raises:
        Rejected: near-duplicates lie in both halves, as they do in what was published.
    """
    groups = grouped(pictures_in(source), progress)
    refuse_leaks(groups)
    shares = {"training": 1 - SHARES["validation"], "validation": SHARES["validation"]}
    splits = {
        name: "test" if group[0].half == HALVES[1] else cohorts.split_of(name, NAME, shares)
        for name, group in groups.items()
    }
    return _gathered(groups, splits, ", split as published", out, key, progress)


def _gathered(
    groups: Mapping[str, Sequence[Picture]],
    splits: Mapping[str, str],
    how: str,
    out: Path,
    key: bytes,
    progress: Progress,
) -> Cohort:
    labels = classes([picture for group in groups.values() for picture in group])
    plan = Plan(
        name=NAME,
        description=f"Brain MR as pictures in grey{how}; {told(groups)}",
        task="classification",
        labels=labels,
        channels=(Channel("picture", "MR", "1"),),
        unit="near-duplicate group",
    )
    return gather(plan, out, splits, partial(_items, groups, labels, out, key), progress)


def told(groups: Mapping[str, Sequence[Picture]]) -> str:
    """How many pictures and groups there are, and what is wrong with the published halves."""
    count = sum(map(len, groups.values()))
    return (
        f"{len(groups)} groups of near-duplicates among {count} pictures, {len(leaks(groups))} of them in both "
        f"published halves, {len(conflicts(groups))} in several classes"
    )


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


def refuse_leaks(groups: Mapping[str, Sequence[Picture]]) -> None:
    """Raises Rejected where the published halves share groups: how many, how many pairs of pictures, and one pair."""
    leaking = [groups[name] for name in leaks(groups)]
    if not leaking:
        return
    learnt, tested = ([[picture for picture in group if picture.half == half] for group in leaking] for half in HALVES)
    pairs = sum(len(one) * len(other) for one, other in zip(learnt, tested, strict=True))
    first, second = ("/".join(half[0][0].path.parts[-3:]) for half in (learnt, tested))
    every = sum(picture.half == HALVES[1] for group in groups.values() for picture in group)
    raise Rejected(
        f"the published split leaks: {len(leaking)} groups of near-duplicates ({pairs} pairs of pictures) lie in both "
        f"halves, such as {first} and {second}, so {sum(map(len, tested))} of {every} test pictures would be known "
        "from training; import brain-tumour-folders, which splits anew by these groups"
    )


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
