"""NIfTI images in three layouts that need no reader of their own: plain folders, nnU-Net, and MONAI's data lists.

    images/NAME.nii.gz  [masks/NAME.nii.gz or labels/NAME.nii.gz]
    imagesTr/NAME_0000.nii.gz ...  labelsTr/NAME.nii.gz  dataset.json       (nnU-Net; imagesTs has no labels, not read)
    datalist.json with "training", "validation", "test" of {"image": path or list of paths, "label": path or number}

NIfTI does not say who was imaged. The patient is the first part of the file's name, cut at underscores, in which names
differ: BRATS_001 and BRATS_002 are "001" and "002", P01_scan1 and P01_scan2 are both "P01". In a data list an entry's
own "patient" counts before that.

Nor does it say what the numbers mean: CT by name is in Hounsfield units, everything else has the units "1".
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dicom_io import cohort as cohorts
from dicom_io import nifti
from dicom_io.cohort import Channel, Cohort, Item, Task
from dicom_io.errors import Rejected
from dicom_io.pseudonym import hidden_volume, pseudonym
from dicom_io.volume import Volume
from samples.importers import pictures
from samples.importers.by_patient import Plan, Progress, gather, split
from samples.importers.foreign import SUFFIXES, label_numbers, stem, volume

_MR = ("T1", "T2", "FLAIR", "PD", "ADC", "DWI")


@dataclass(frozen=True)
class Example:
    """images: one file per channel, all on one grid. mask: a file; label: a class number; or neither.

    split: that the data set states, "" where it states none.
    """

    name: str
    patient: str
    images: tuple[Path, ...]
    mask: Path | None = None
    label: int | None = None
    split: str = ""


def folder(source: Path, out: Path, key: bytes, progress: Progress) -> Cohort:
    """images/ and, where there are any, masks/ or labels/ of the same names: for segmenters, else for generators.

    Raises:
        Rejected: there are no images, or some have a mask and others have none.
    """
    images = _named(source / "images")
    if not images:
        raise Rejected(
            f"{source} holds no images/*.nii.gz; give the folder that holds images/, and masks/ if there are"
        )
    masks = _named(source / "masks") or _named(source / "labels")
    if masks and masks.keys() != images.keys():
        odd = sorted(masks.keys() ^ images.keys())
        raise Rejected(f"{len(odd)} names, {odd[0]} the first, have an image or a mask and not both; give both or none")
    who = patients(images)
    examples = [Example(name, who[name], (path,), masks.get(name)) for name, path in images.items()]
    return _cohort("nifti-folder", examples, (_channel("image"),), {}, out, key, progress)


def nnunet(source: Path, out: Path, key: bytes, progress: Progress) -> Cohort:
    """imagesTr/ and labelsTr/ with channels and labels as dataset.json names them, version 1 or 2, for segmenters.

    Raises:
        Rejected: no dataset.json, labels that are regions, a case without all channels or without labels.
    """
    about = _json(source / "dataset.json")
    channels = about.get("channel_names") or about.get("modality")
    if not isinstance(channels, Mapping) or not isinstance(about.get("labels"), Mapping):
        raise Rejected(f"{source / 'dataset.json'} names no channels and labels as nnU-Net does; give a raw data set")
    numbers = sorted(channels, key=int)
    images = _named(source / "imagesTr")
    masks = _named(source / "labelsTr")
    if not masks:
        raise Rejected(f"{source} holds no labelsTr/*.nii.gz; give a raw data set of nnU-Net")
    who = patients(masks)
    examples = [
        Example(case, who[case], tuple(_channel_of(images, case, int(number)) for number in numbers), mask)
        for case, mask in masks.items()
    ]
    made = tuple(_channel(str(channels[number])) for number in numbers)
    return _cohort("nnunet", examples, made, _label_names(about["labels"]), out, key, progress)


def datalist(source: Path, out: Path, key: bytes, progress: Progress) -> Cohort:
    """A data list, or the folder of a datalist.json or dataset.json; paths are relative to it.

    Its own split is kept where it has examples with labels in "training" and in another list. A label that is a file
    is a mask, one that is a number a class; without labels the cohort is for generators.

    Raises:
        Rejected: no list, an entry without image, labels of different kinds, or one patient in two lists.
    """
    listing = _listing(source)
    about = _json(listing)
    examples = _examples(listing.parent, about)
    names = about.get("channel_names") or about.get("modality") or {}
    count = len(examples[0].images)
    channels = tuple(
        _channel(str(names.get(str(number), f"image {number + 1}" if count > 1 else "image")))
        for number in range(count)
    )
    labels = about.get("labels")
    return _cohort(
        "monai-datalist",
        examples,
        channels,
        _label_names(labels) if isinstance(labels, Mapping) else {},
        out,
        key,
        progress,
    )


def patients(names: Iterable[str]) -> dict[str, str]:
    """Name -> the first part, cut at underscores, in which the names differ; the whole name where none is left."""
    parts = {name: name.split("_") for name in names}
    common = 0
    while len({tuple(words[: common + 1]) for words in parts.values()}) == 1 and len(parts) > 1:
        common += 1
    return {name: words[common] if len(words) > common else name for name, words in parts.items()}


# --- what the layouts share ---------------------------------------------------------------------------------------


def _cohort(
    name: str,
    examples: Sequence[Example],
    channels: tuple[Channel, ...],
    label_names: Mapping[int, str],
    out: Path,
    key: bytes,
    progress: Progress,
) -> Cohort:
    task = _task(examples)
    by_patient = defaultdict[str, list[Example]](list)
    for example in examples:
        by_patient[example.patient].append(example)
    plan = Plan(
        name=name,
        description=f"{len(examples)} NIfTI images; patients by file name, or as the data list names them",
        task=task,
        labels=_labels(examples, task, label_names),
        channels=channels,
        guessed=True,
    )

    def items(patient: str) -> list[Item]:
        return [_item(example, name, channels, len(plan.labels), out, key) for example in by_patient[patient]]

    return gather(plan, out, _splits(by_patient, name), items, progress)


def _task(examples: Sequence[Example]) -> Task:
    kinds = {"mask" if e.mask else "class" if e.label is not None else "nothing" for e in examples}
    if len(kinds) > 1:
        raise Rejected(f"the examples are labelled with {' and '.join(sorted(kinds))}; give all of them one kind")
    return {"mask": "segmentation", "class": "classification", "nothing": "generation"}[kinds.pop()]  # type: ignore[return-value]


def _labels(examples: Sequence[Example], task: Task, named: Mapping[int, str]) -> tuple[str, ...]:
    """Names by number, from 0; numbers without a name are called by their number."""
    if task == "generation":
        return ()
    highest = max(_highest(example) for example in examples)
    return tuple(
        named.get(number, "background" if number == 0 and task == "segmentation" else f"label {number}")
        for number in range(max(highest, *named, 0) + 1)
    )


def _highest(example: Example) -> int:
    """The largest label number of an example."""
    if example.mask is None:
        return example.label or 0
    return label_numbers(example.mask)[-1]


def _splits(by_patient: Mapping[str, Sequence[Example]], name: str) -> dict[str, str]:
    stated: dict[str, str] = {}
    for patient, examples in by_patient.items():
        lists = sorted({example.split for example in examples})
        if len(lists) > 1:
            raise Rejected(f"one patient lies in the lists {' and '.join(lists)}; split by patient, or name patients")
        stated[patient] = lists[0]
    return stated if len(set(stated.values())) > 1 else split(by_patient, name)


def _item(example: Example, data_set: str, channels: Sequence[Channel], classes: int, out: Path, key: bytes) -> Item:
    patient = pseudonym(key, example.patient, prefix="P")
    images = [
        volume(path, units=channel.units, frame=example.name)
        for path, channel in zip(example.images, channels, strict=True)
    ]
    mask = nifti.mask_on(example.mask, images[0]) if example.mask else None
    return cohorts.add_volume(
        out,
        f"{patient}_{pseudonym(key, example.name)[:8]}",
        {
            channel.name: hidden_volume(key, _on_first(images, one))
            for channel, one in zip(channels, images, strict=True)
        },
        patient,
        mask=mask and hidden_volume(key, mask),
        label=example.label,
        provenance=pictures.provenance(data_set, published_split=example.split),
    )


def _on_first(images: Sequence[Volume], one: Volume) -> Volume:
    """Headers of channels differ by a rounding; those that differ by more are refused when they are stacked."""
    return images[0].with_voxels(one.voxels, units=one.units) if one.same_grid_as(images[0], 0.1) else one


def _channel(name: str) -> Channel:
    upper = name.upper()
    if upper == "CT":
        return Channel(name, "CT", "[hnsf'U]")
    contrast = next((known for known in _MR if known in upper), "")
    return Channel(name, "MR" if contrast or upper in ("MR", "MRI") else "OT", "1", contrast)


# --- reading the layouts ------------------------------------------------------------------------------------------


def _named(folder: Path) -> dict[str, Path]:
    return {stem(path): path for path in sorted(folder.glob("*")) if path.name.endswith(SUFFIXES)}


def _channel_of(images: Mapping[str, Path], case: str, number: int) -> Path:
    name = f"{case}_{number:04d}"
    if name not in images:
        raise Rejected(f"imagesTr holds no {name}.nii.gz, and labelsTr has {case}; give every case all its channels")
    return images[name]


def _label_names(labels: Mapping[str, Any]) -> dict[int, str]:
    """{"background": 0, "tumour": 1} (version 2) or {"0": "background", "1": "tumour"} (version 1, MONAI)."""
    found = {}
    for one, other in labels.items():
        number, name = (one, other) if str(one).isdigit() else (other, one)
        if isinstance(number, list):
            raise Rejected(f"label {name!r} is a region of several numbers; give a data set with one number per label")
        found[int(number)] = str(name)
    return found


def _json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text())
    except FileNotFoundError:
        raise Rejected(f"there is no {path}; give the data set's own folder") from None
    except json.JSONDecodeError as error:
        raise Rejected(f"{path} is no JSON ({error}); correct it") from error
    if not isinstance(document, dict):
        raise Rejected(f"{path} is a list, not an object with lists named training, validation and test; name them")
    return document


def _listing(source: Path) -> Path:
    found = [path for path in (source, source / "datalist.json", source / "dataset.json") if path.is_file()]
    if not found:
        raise Rejected(f"{source} is no data list and holds no datalist.json or dataset.json; give the JSON file")
    return found[0]


def _examples(home: Path, about: Mapping[str, Any]) -> list[Example]:
    """Entries without label are left out where others have one, as the test lists of challenges."""
    entries = [(name, entry) for name in cohorts.SPLITS for entry in about.get(name) or ()]
    labelled = [(name, entry) for name, entry in entries if isinstance(entry, Mapping) and "label" in entry]
    chosen = labelled or entries
    if not chosen:
        raise Rejected("the data list has no entries in training, validation or test; add some")
    images = [_images(home, entry) for _, entry in chosen]
    names = [stem(paths[0]) for paths in images]
    if len(set(names)) < len(names):  # same file name in a folder per subject
        names = [paths[0].as_posix() for paths in images]
    who = patients(names)
    return [
        Example(
            name,
            str(entry.get("patient", who[name])) if isinstance(entry, Mapping) else who[name],
            paths,
            *_label(home, entry),
            split=list_name,
        )
        for (list_name, entry), paths, name in zip(chosen, images, names, strict=True)
    ]


def _images(home: Path, entry: Any) -> tuple[Path, ...]:
    image = entry.get("image") if isinstance(entry, Mapping) else entry
    named = [image] if isinstance(image, str) else image
    if not isinstance(named, list) or not named or not all(isinstance(one, str) for one in named):
        raise Rejected(f"an entry of the data list has the image {image!r}, and not a path or a list of paths")
    return tuple(home / one for one in named)


def _label(home: Path, entry: Any) -> tuple[Path | None, int | None]:
    label = entry.get("label") if isinstance(entry, Mapping) else None
    if isinstance(label, str):
        return home / label, None
    if label is None or (isinstance(label, int) and label >= 0):
        return None, label
    raise Rejected(f"an entry of the data list has the label {label!r}, and not a path or a number from 0 up")
