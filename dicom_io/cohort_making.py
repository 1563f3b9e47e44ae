"""DICOM files -> a cohort: images with their labels and masks, split by patient, under pseudonyms.

Files are listed by their headers first, and read study by study. Whatever cannot be taken is named with its reason and
stops nothing else. A patient is Patient ID (0010,0020) with its issuer (0010,0021): without one, nothing tells which
split an image may lie in, and it is left out. Synthetic objects stay out unless they are asked for.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dicom_io import cohort as cohorts
from dicom_io import dataset, labels, mask_sources, series, subgroups
from dicom_io.cohort import Channel, Cohort, Item, Task
from dicom_io.errors import Rejected
from dicom_io.label_sources import Example, LabelSource
from dicom_io.mask_sources import MaskSource
from dicom_io.pseudonym import hidden_projection, hidden_volume, pseudonym
from dicom_io.volume import Projection, Volume

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

SHARES: Mapping[str, float] = {"training": 0.7, "validation": 0.15, "test": 0.15}
# Of patients in a split: fewer say nothing.
_FEW_PATIENTS = 3
# Modalities of objects that are no images and no masks here.
_OTHER = ("SR", "PR", "KO", "REG", "RWV", "DOC", "AU", "ECG", "RTPLAN", "RTDOSE", "RTRECORD")
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Wanted:
    """An input channel: images of this modality, and contrast where one is named ("T1", "T2", "FLAIR")."""

    modality: str
    contrast: str = ""

    @property
    def name(self) -> str:
        return self.contrast or self.modality

    def is_met_by(self, example: Example) -> bool:
        return example.modality == self.modality and self.contrast in ("", example.contrast)


@dataclass(frozen=True, eq=False)
class Plan:
    """What to make. labels: names of the classes in order; empty to take those that occur, sorted.

    channels: empty where all images are of one modality. Of several, each study must hold one image of each, on one
    grid. masks: sources in the order of their numbers in the mask.
    """

    name: str
    task: Task
    labels: tuple[str, ...] = ()
    channels: tuple[Wanted, ...] = ()
    label_from: LabelSource | None = None
    masks: tuple[MaskSource, ...] = ()
    split_key: str = ""
    shares: Mapping[str, float] = field(default_factory=lambda: SHARES)
    with_synthetic: bool = False

    @property
    def beside(self) -> tuple[str, ...]:
        """Modalities of the objects that say more of the images: SEG, RTSTRUCT, SR."""
        reports = ("SR",) if self.label_from is not None and self.label_from.reads_reports else ()
        return (*sorted({source.kind for source in self.masks}), *reports)

    def __post_init__(self) -> None:
        if self.task == "classification" and self.label_from is None and not self.masks:
            raise Rejected("a classification cohort needs labels, or masks that label its slices; say where from")
        if self.task == "segmentation" and not self.masks:
            raise Rejected("a segmentation cohort needs masks; say which objects they come from")
        if self.label_from is not None and self.masks:
            raise Rejected("labels and masks have one list of numbers between them; give labels or masks, not both")
        if self.task == "classification" and len(self.masks) > 1:
            raise Rejected(f"slices are of two classes, in a mask or not, and {len(self.masks)} were given; give one")
        if self.masks and self.labels and len(self.labels) != len(self.masks) + 1:
            raise Rejected(
                f"{len(self.labels)} labels for {len(self.masks)} masks; name the background and one for each mask"
            )
        if abs(sum(self.shares.values()) - 1) > 1e-6 or not set(self.shares) <= set(cohorts.SPLITS):
            raise Rejected(f"shares {dict(self.shares)} must be of {', '.join(cohorts.SPLITS)} and add up to 1")


@dataclass(frozen=True)
class Refused:
    """What was not taken, and why. what: a series or instance by its UID, or a file by its name."""

    what: str
    why: str


@dataclass(frozen=True, eq=False)
class Made:
    """The cohort as it was saved, and what did not get into it. notes: sentences on what a person should look at."""

    cohort: Cohort
    refused: tuple[Refused, ...]
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """{"items": [{"images", "split", "patient", "label", ...}], "refused": [...], "notes": [...]}"""
        items = [
            {
                "image": item.images[0],
                "split": split,
                "patient": item.patient,
                "label": None if item.label is None else self.cohort.labels[item.label],
                "labelled_slices": len(item.slice_labels),
                "mask": item.mask is not None,
                "synthetic": item.synthetic,
            }
            for split in cohorts.SPLITS
            for item in self.cohort.splits.get(split, ())
        ]
        refused = [{"what": each.what, "why": each.why} for each in self.refused]
        return {"name": self.cohort.name, "items": items, "refused": refused, "notes": list(self.notes)}


@dataclass(frozen=True)
class _File:
    """One DICOM file by its header. root: the path given that it was found below."""

    path: Path
    root: Path | None
    sop_uid: str
    series_uid: str
    study_uid: str
    modality: str
    patient_id: str
    synthetic: bool


@dataclass(frozen=True, eq=False)
class _Labelled:
    """An item whose label is still a word, or a word for each slice. units: of each channel."""

    item: Item
    label: str | tuple[str, ...] | None
    units: tuple[str, ...]


def make(
    paths: Iterable[Path], plan: Plan, out: Path, key: bytes, *, in_archive: bool = False, progress: Progress
) -> Made:
    """Write the cohort's folder and say what got into it.

    key: of the site's pseudonyms. in_archive: files come from an archive, whose folders name nothing.

    Raises:
        Rejected: a path does not exist, images of several modalities without channels, or nothing that can be taken.
    """
    files, refused = _listed(paths, in_archive, progress)
    files = _without_synthetic(files, plan, refused)
    wanted = plan.channels or _only_modality(files)
    studies = defaultdict[str, list[_File]](list)
    for file in files:
        studies[file.study_uid].append(file)
    work = _Work(plan, wanted, out, key, refused)
    made: list[_Labelled] = []
    for done, (_, members) in enumerate(sorted(studies.items())):
        progress(done, len(studies), "studies")
        made += work.study(members)
    progress(len(studies), len(studies), "studies")
    if not made:
        raise Rejected(f"no image could be taken, so no cohort was made; {_most_frequent(refused)}")
    return _saved(made, wanted, plan, out, refused)


def _most_frequent(refused: Sequence[Refused], count: int = 3) -> str:
    """The reasons of images first, as text that is no DICOM fails for another reason."""
    of_images = [each.why for each in refused if each.what.startswith(("series", "study"))]
    reasons = Counter(of_images or [each.why for each in refused]).most_common(count)
    return "; ".join(f"{number} times: {why}" for why, number in reasons) or "there was nothing to take"


# --- files --------------------------------------------------------------------------------------------------------


def _listed(paths: Iterable[Path], in_archive: bool, progress: Progress) -> tuple[list[_File], list[Refused]]:
    found: list[_File] = []
    refused: list[Refused] = []
    given = [(file, None if in_archive else path) for path in paths for file in series.files_below([path])]
    for done, (path, root) in enumerate(given):
        progress(done, len(given), "headers")
        try:
            found.append(_file(path, root))
        except Rejected as error:
            refused.append(Refused(str(path), str(error).removeprefix(f"{path.name} ").removeprefix(f"{path.name}: ")))
    progress(len(given), len(given), "headers")
    return found, refused


def _file(path: Path, root: Path | None) -> _File:
    ds = dataset.read(path, stop_before_pixels=True)
    patient = str(ds.get("PatientID") or "").strip()
    if not patient:
        raise Rejected(f"instance {ds.SOPInstanceUID} has no Patient ID (0010,0020), so its split is unknown; add one")
    return _File(
        path=path,
        root=root,
        sop_uid=str(ds.SOPInstanceUID),
        series_uid=str(ds.get("SeriesInstanceUID") or ""),
        study_uid=str(ds.get("StudyInstanceUID") or ""),
        modality=str(ds.get("Modality") or ""),
        patient_id="\0".join(filter(None, (patient, str(ds.get("IssuerOfPatientID") or "").strip()))),
        synthetic=labels.is_synthetic(ds),
    )


def _without_synthetic(files: Sequence[_File], plan: Plan, refused: list[Refused]) -> list[_File]:
    if plan.with_synthetic:
        return list(files)
    synthetic = defaultdict[str, list[_File]](list)
    for file in files:
        if file.synthetic:
            synthetic[file.series_uid].append(file)
    for uid, members in synthetic.items():
        refused.append(Refused(f"series {uid}", f"its {len(members)} instances are synthetic; ask for them by name"))
    return [file for file in files if not file.synthetic]


def _only_modality(files: Sequence[_File]) -> tuple[Wanted, ...]:
    found = sorted({file.modality for file in files if _is_image(file)})
    if len(found) != 1:
        held = " and ".join(found) or "no images"
        raise Rejected(f"the files hold {held}; say which modality the cohort is of")
    return (Wanted(found[0]),)


def _is_image(file: _File) -> bool:
    return file.modality not in (*_OTHER, *mask_sources.MODALITIES)


# --- studies ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Work:
    """What all studies have in common. units: of each channel, as the first image had them."""

    plan: Plan
    wanted: Sequence[Wanted]
    out: Path
    key: bytes
    refused: list[Refused]
    units: dict[str, str] = field(default_factory=dict)

    def study(self, files: Sequence[_File]) -> list[_Labelled]:
        """Items of one study, written; what cannot be taken is noted."""
        name = f"study {files[0].study_uid}"
        if len({file.patient_id for file in files}) > 1:
            self.refused.append(Refused(name, "belongs to several patients; correct its Patient IDs"))
            return []
        modalities = {each.modality for each in self.wanted}
        images = [file for file in files if file.modality in modalities]
        _refuse_other(files, modalities, self.refused)
        readout = series.volumes([file.path for file in images])
        self.refused.extend(Refused(f"series {uid}", why) for uid, why in readout.refused)
        self.refused.extend(Refused(name, why) for why in readout.left_aside)
        objects = self._objects(files)
        reports = tuple(ds for ds in objects if ds.Modality == "SR")
        own = {file.sop_uid: file for file in images}
        examples = [replace(example, reports=reports) for example in _examples(readout, own)]
        numbered = enumerate(_grouped(examples, self.wanted, self.refused))
        return [made for number, channels in numbered if (made := self._tried(channels, number, objects))]

    def _objects(self, files: Sequence[_File]) -> list[Dataset]:
        """What says more of the study's images, where that is wanted."""
        return [dataset.read(file.path) for file in files if file.modality in self.plan.beside]

    def _tried(self, channels: Sequence[Example], number: int, objects: Sequence[Dataset]) -> _Labelled | None:
        try:
            return self._item(channels, number, objects)
        except Rejected as error:
            first = channels[0]
            self.refused.append(Refused(f"series {first.series_uid}{first.part and ', '}{first.part}", str(error)))
            return None

    def _item(self, channels: Sequence[Example], number: int, objects: Sequence[Dataset]) -> _Labelled:
        first = channels[0]
        units = tuple(example.image.units for example in channels)
        for each, unit in zip(self.wanted, units, strict=True):
            if self.units.get(each.name, unit) != unit:
                raise Rejected(f"is in {unit}, and others are in {self.units[each.name]}; make cohorts of their own")
        mask, mask_uids = _mask(first, self.plan.masks, objects)
        label = self.plan.label_from.of(first) if self.plan.label_from else None
        unknown = {label} if isinstance(label, str) else set(label or ())
        if self.plan.labels and self.plan.label_from and unknown - {*self.plan.labels}:
            odd = sorted(unknown - {*self.plan.labels})[0]
            raise Rejected(f"its label {odd!r} is none of {', '.join(self.plan.labels)}")
        item = self._written(channels, number, mask, _provenance(first, mask_uids, self.key))
        if mask is not None and len(self.plan.masks) == 1:
            item = replace(item, slice_labels=tuple(mask.voxels.any(axis=(1, 2)).astype(int).tolist()))
        self.units.update((each.name, unit) for each, unit in zip(self.wanted, units, strict=True))
        return _Labelled(item, label, units)

    def _written(
        self, channels: Sequence[Example], number: int, mask: Volume | None, provenance: Mapping[str, Any]
    ) -> Item:
        first, key = channels[0], self.key
        patient = pseudonym(key, first.patient_id, prefix="P")
        name = f"{patient}_{pseudonym(key, first.series_uid)[:8]}_{number}"
        if isinstance(first.image, Projection):
            hidden, channel = hidden_projection(key, first.image), self.wanted[0].name
            return cohorts.add_projection(self.out, name, hidden, patient, channel=channel, provenance=provenance)
        volumes = {
            each.name: hidden_volume(key, example.image)
            for each, example in zip(self.wanted, channels, strict=True)
            if isinstance(example.image, Volume)
        }
        hidden_mask = hidden_volume(key, mask) if mask is not None else None
        return cohorts.add_volume(self.out, name, volumes, patient, mask=hidden_mask, provenance=provenance)


def _refuse_other(files: Sequence[_File], modalities: set[str], refused: list[Refused]) -> None:
    others = {file.series_uid: file.modality for file in files if _is_image(file) and file.modality not in modalities}
    refused += [Refused(f"series {uid}", f"is of modality {modality or 'none'}") for uid, modality in others.items()]


def _examples(readout: series.Readout, files: Mapping[str, _File]) -> Iterator[Example]:
    """In order of series and part, whatever the files' names."""
    for entry in sorted(readout.volumes, key=lambda entry: (entry.series_uid, entry.part)):
        yield _example(entry.volume, entry.datasets, entry.series_uid, files, entry.contrast, entry.part)
    for picture in sorted(readout.projections, key=lambda entry: (entry.series_uid, str(entry.dataset.SOPInstanceUID))):
        yield _example(picture.projection, (picture.dataset,), picture.series_uid, files, "", "")


def _example(
    image: Volume | Projection,
    datasets: tuple[Dataset, ...],
    series_uid: str,
    files: Mapping[str, _File],
    contrast: str,
    part: str,
) -> Example:
    own = [files[str(ds.SOPInstanceUID)] for ds in datasets]
    first = own[0]
    return Example(
        image=image,
        datasets=datasets,
        paths=tuple(file.path for file in own),
        root=first.root,
        patient_id=first.patient_id,
        study_uid=first.study_uid,
        series_uid=series_uid,
        modality=first.modality,
        contrast=contrast,
        part=part,
    )


def _grouped(
    examples: Sequence[Example], wanted: Sequence[Wanted], refused: list[Refused]
) -> Iterator[tuple[Example, ...]]:
    """The images of each item: one, or one of each channel."""
    fitting = [[example for example in examples if each.is_met_by(example)] for each in wanted]
    taken = {id(example) for found in fitting for example in found}
    for example in examples:
        if id(example) not in taken:
            refused.append(Refused(f"series {example.series_uid}", f"is {example.contrast or 'of unknown contrast'}"))
    if len(wanted) == 1:
        yield from ((example,) for example in fitting[0])
    elif all(len(found) == 1 for found in fitting):
        yield tuple(found[0] for found in fitting)
    elif examples:
        held = ", ".join(f"{len(found)} of {each.name}" for found, each in zip(fitting, wanted, strict=True))
        refused.append(Refused(f"study {examples[0].study_uid}", f"holds {held}; one of each is needed"))


def _mask(
    example: Example, sources: Sequence[MaskSource], objects: Sequence[Dataset]
) -> tuple[Volume | None, list[str]]:
    mask: Volume | None = None
    uids = []
    for number, source in enumerate(sources, start=1):
        part, uid = source.of(example, objects)
        before = np.zeros_like(part.voxels) if mask is None else mask.voxels
        mask = part.with_voxels(np.where(part.voxels > 0, np.float32(number), before))
        uids.append(uid)
    return mask, uids


def _provenance(example: Example, mask_uids: Sequence[str], key: bytes) -> dict[str, Any]:
    return {
        "study": pseudonym(key, example.study_uid),
        "series": pseudonym(key, example.series_uid),
        "part": example.part,
        "masks": [pseudonym(key, uid) for uid in mask_uids],
        "transforms": ["mask laid on the image's grid"] if mask_uids else [],
        **subgroups.provenance(example.datasets[0]),
        "versions": {name: metadata.version(name) for name in ("mirall", "pydicom")},
    }


# --- the whole ----------------------------------------------------------------------------------------------------


def _saved(
    made: Sequence[_Labelled], wanted: Sequence[Wanted], plan: Plan, out: Path, refused: Sequence[Refused]
) -> Made:
    names = _label_names(made, plan)
    splits: dict[str, list[Item]] = {split: [] for split in cohorts.SPLITS}
    key = plan.split_key or plan.name
    for each in made:
        item = _numbered(each, names)
        splits[cohorts.split_of(item.patient, key, plan.shares)].append(item)
    cohort = Cohort(
        folder=out,
        name=plan.name,
        task=plan.task,
        labels=names,
        channels=tuple(
            Channel(each.name, each.modality, units, each.contrast)
            for each, units in zip(wanted, made[0].units, strict=True)
        ),
        splits={split: tuple(items) for split, items in splits.items()},
        description=f"Made from DICOM; {len({each.item.patient for each in made})} patients",
        split_key=key,
        split_shares=plan.shares,
    )
    cohorts.save(cohort)
    return Made(cohort, tuple(refused), tuple(_notes(cohort, plan)))


def _label_names(made: Sequence[_Labelled], plan: Plan) -> tuple[str, ...]:
    if plan.labels:
        return plan.labels
    if plan.label_from is None:
        return ("background", *(source.label for source in plan.masks)) if plan.masks else ()
    found = [each.label for each in made if each.label is not None]
    return tuple(sorted({name for label in found for name in ((label,) if isinstance(label, str) else label)}))


def _numbered(labelled: _Labelled, names: Sequence[str]) -> Item:
    if labelled.label is None:
        return labelled.item
    if isinstance(labelled.label, str):
        return replace(labelled.item, label=names.index(labelled.label))
    return replace(labelled.item, slice_labels=tuple(names.index(name) for name in labelled.label))


def _notes(cohort: Cohort, plan: Plan) -> Iterator[str]:
    for split, share in plan.shares.items():
        fell = len({item.patient for item in cohort.splits[split]})
        if share and fell < _FEW_PATIENTS:
            patients = {0: "no patient", 1: "one patient"}.get(fell, f"{fell} patients")
            yield f"{patients} fell into {split}; the cohort is small, so choose other shares or another split key"
    if plan.label_from is not None:
        yield from plan.label_from.unused()
    for number, name in enumerate(cohort.labels):
        items = [item for items in cohort.splits.values() for item in items]
        if not any(item.label == number or number in item.slice_labels or item.mask for item in items):
            yield f"no image is of class {name}"
