"""A cohort: a folder of images with `datalist.json`, MONAI's data-list form with what an honest split needs.

    cohort/
      datalist.json            {"name", "task", "split_unit", "labels", "channels",
                                "training": [item, ...], "validation": [...], "test": [...]}
      images/*.nii.gz          one file per channel and item (a projection is a NIfTI of one slice)
      masks/*.nii.gz           on the grid of the item's image

Paths in an item are relative to the folder. Patients are pseudonyms. An item's split is the list that it stands in.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from dicom_io.errors import Rejected

Task = Literal["classification", "segmentation", "generation"]
SplitUnit = Literal["patient", "slide", "near-duplicate group", "none"]
SPLITS = ("training", "validation", "test")


@dataclass(frozen=True)
class Channel:
    """What one input channel is. modality: DICOM Modality (0008,0060); units: as in `Volume.units`.

    contrast: "T1", "T2", "FLAIR" for MR; view names for mammograms; "" where it does not matter.
    """

    name: str
    modality: str
    units: str
    contrast: str = ""


@dataclass(frozen=True)
class Item:
    """One training example: a volume (all channels on one grid) or a projection.

    images: one path per channel, in the cohort's channel order. label: index into `Cohort.labels`, or None.
    slice_labels: one label per slice where slices are what is classified, else empty.
    geometry: {"kind": "volume" | "projection", "shape": [...], "spacing_mm": [...]}.
    provenance: source UIDs hashed with the cohort's key, transforms, versions.
    """

    images: tuple[str, ...]
    patient: str
    mask: str | None = None
    label: int | None = None
    slice_labels: tuple[int, ...] = ()
    geometry: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    synthetic: bool = False


@dataclass(frozen=True)
class Cohort:
    """A training set with its split. labels: class names, in the order of the label numbers (0 = background)."""

    folder: Path
    name: str
    task: Task
    labels: tuple[str, ...]
    channels: tuple[Channel, ...]
    splits: Mapping[str, tuple[Item, ...]]
    split_unit: SplitUnit = "patient"
    description: str = ""

    def __post_init__(self) -> None:
        owners: dict[str, str] = {}
        for split in SPLITS:
            for patient in {item.patient for item in self.splits.get(split, ())}:
                if owners.setdefault(patient, split) != split and self.split_unit == "patient":
                    raise Rejected(
                        f"cohort {self.name!r}: one patient lies in {owners[patient]} and in {split}; "
                        "split by patient, or state another split_unit"
                    )

    @property
    def training(self) -> tuple[Item, ...]:
        return self.splits.get("training", ())

    @property
    def validation(self) -> tuple[Item, ...]:
        return self.splits.get("validation", ())

    @property
    def test(self) -> tuple[Item, ...]:
        return self.splits.get("test", ())

    def path(self, relative: str) -> Path:
        return self.folder / relative

    @property
    def data_hash(self) -> str:
        """SHA-256 over the data list and every file that it names; changes when any pixel or split does."""
        digest = hashlib.sha256((self.folder / "datalist.json").read_bytes())
        for split in SPLITS:
            for item in self.splits.get(split, ()):
                for relative in (*item.images, *((item.mask,) if item.mask else ())):
                    digest.update(self.path(relative).read_bytes())
        return digest.hexdigest()


def split_of(patient: str, key: str, shares: Mapping[str, float]) -> str:
    """The split a patient falls into: a function of patient and key alone, not of file order (shares sum to 1)."""
    point = int.from_bytes(hashlib.sha256(f"{key}\0{patient}".encode()).digest()[:8], "big") / 2**64
    for split, share in shares.items():
        point -= share
        if point < 0:
            return split
    return next(iter(shares))


def split_evenly(patients: Iterable[str], key: str, counts: Mapping[str, int]) -> dict[str, str]:
    """Exactly `counts` patients per split, in hash order; what is left over trains. For small cohorts."""
    ordered = sorted(set(patients), key=lambda patient: hashlib.sha256(f"{key}\0{patient}".encode()).digest())
    if sum(counts.values()) > len(ordered):
        raise Rejected(f"{len(ordered)} patients are too few for a split of {dict(counts)}")
    where: dict[str, str] = {}
    for split, count in counts.items():
        for patient in [patient for patient in ordered if patient not in where][:count]:
            where[patient] = split
    return {patient: where.get(patient, "training") for patient in ordered}


def save(cohort: Cohort) -> None:
    """Write `datalist.json`; the images lie in the folder already."""
    document: dict[str, Any] = {
        "name": cohort.name,
        "description": cohort.description,
        "task": cohort.task,
        "split_unit": cohort.split_unit,
        "labels": list(cohort.labels),
        "channels": [asdict(channel) for channel in cohort.channels],
    }
    for split in SPLITS:
        document[split] = [asdict(item) | {"split": split} for item in cohort.splits.get(split, ())]
    (cohort.folder / "datalist.json").write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")


def load(folder: Path) -> Cohort:
    """Read a cohort.

    Raises:
        Rejected: no `datalist.json`, a key is missing or unknown, or a patient lies in two splits.
    """
    listing = folder / "datalist.json"
    if not listing.is_file():
        raise Rejected(f"{folder} is no cohort: it has no datalist.json; make one with `mirall cohort import`")
    try:
        document = json.loads(listing.read_text())
        splits = {split: tuple(_item(entry) for entry in document.get(split, [])) for split in SPLITS}
        return Cohort(
            folder=folder,
            name=document["name"],
            task=document["task"],
            labels=tuple(document["labels"]),
            channels=tuple(Channel(**channel) for channel in document["channels"]),
            splits=splits,
            split_unit=document["split_unit"],
            description=document.get("description", ""),
        )
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise Rejected(f"{listing} does not follow the data-list form: {error}; see docs/scientist.md") from error


def _item(entry: Mapping[str, Any]) -> Item:
    fields = {name: value for name, value in entry.items() if name != "split"}
    fields["images"] = tuple(fields["images"])
    fields["slice_labels"] = tuple(fields.get("slice_labels", ()))
    return Item(**fields)
