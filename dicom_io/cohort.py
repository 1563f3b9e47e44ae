"""A cohort: a folder of images with `datalist.json`, MONAI's data-list form with what an honest split needs.

    cohort/
      datalist.json            {"name", "task", "split_unit", "labels", "channels",
                                "training": [item, ...], "validation": [...], "test": [...],
                                "split_rule": {"key", "shares": [[split, share], ...]} where `split_of` made it}
      images/*.nii.gz          one file per channel and item (a projection is a NIfTI of one slice; one in colour is
                               one file with all its channels)
      masks/*.nii.gz           on the grid of the item's image
      tombstones.json          items whose sources were deleted (`bury`); where there are any

Paths in an item are relative to the folder. Patients are pseudonyms. An item's split is the list that it stands in.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dicom_io import nifti
from dicom_io.errors import Rejected
from dicom_io.volume import Float32, Projection, Volume, stack_channels

Task = Literal["classification", "segmentation", "generation"]
SplitUnit = Literal["patient", "slide", "near-duplicate group", "none"]
SPLITS = ("training", "validation", "test")
# Names of the channels of a colour picture, in this order.
COLOURS = ("red", "green", "blue")
_TOMBSTONES = "tombstones.json"


@dataclass(frozen=True)
class Channel:
    """What one input channel is. modality: DICOM Modality (0008,0060); units: as in `Volume.units`.

    contrast: "T1", "T2", "FLAIR" for MR; view names for mammograms; "" where it does not matter.
    """

    name: str
    modality: str
    units: str
    contrast: str = ""


def colour_channels(modality: str) -> tuple[Channel, ...]:
    """Red, green and blue, in this order, of 0 to 255."""
    return tuple(Channel(name, modality, "1") for name in COLOURS)


def is_colour(channels: Sequence[Channel]) -> bool:
    """Whether the channels are those of a picture in colour, which people are to see as one."""
    return tuple(channel.name for channel in channels) == COLOURS


@dataclass(frozen=True)
class Item:
    """One training example: a volume (all channels on one grid) or a projection.

    images: one path per channel, in the cohort's channel order; of a projection with several, one path to all of them.
    label: index into `Cohort.labels`, or None.
    patient: a pseudonym, or the name of the item's group of near-duplicates where patients are not known.
    slice_labels: one label per slice where slices are what is classified, else empty.
    geometry: {"kind": "volume" | "projection", "shape": [...], "spacing_mm": [...]}.
    provenance: source UIDs hashed with the cohort's key, transforms, versions; and, where they are known, what a
    network could tell classes by without looking at the disease (`dicom_io.shortcuts` measures it):
        "file"     {"format", "width", "height", "mode"} of the file before import, such as {"format": "JPEG", "width":
                   512, "height": 512, "mode": "L"}
        "scanner"  {"manufacturer", "model"}: Manufacturer (0008,0070) and Manufacturer's Model Name (0008,1090), plain,
                   or one word that stands for both
    and by what figures are told apart beside the scanner (`dicom_io.subgroups`):
        "subject"  {"sex", "age"}: Patient's Sex (0010,0040), and the decade of Patient's Age (0010,1010)
        "site"     one word
        "body_part"  Body Part Examined (0018,0015), which the card of a predictor names
    """

    images: tuple[str, ...]
    patient: str
    mask: str | None = None
    label: int | None = None
    slice_labels: tuple[int, ...] = ()
    geometry: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    synthetic: bool = False

    @property
    def groups(self) -> dict[str, str]:
        """By what its figures can be told apart: "scanner", "site", "sex", "age"; only what is stated."""
        scanner, subject = self.provenance.get("scanner"), self.provenance.get("subject") or {}
        words = " ".join(filter(None, scanner.values())) if isinstance(scanner, Mapping) else str(scanner or "")
        stated = {"scanner": words, "site": str(self.provenance.get("site") or "")}
        stated |= {kind: str(subject.get(kind) or "") for kind in ("sex", "age")}
        return {kind: word for kind, word in stated.items() if word}


@dataclass(frozen=True)
class Cohort:
    """A training set with its split. labels: class names, in the order of the label numbers (0 = background).

    buried: items of the data list whose sources were deleted; they are in no split any more.
    split_key, split_shares: what `split_of` was given; with them the same patient falls into the same split again,
    and so does one who comes later. Empty where the split was made otherwise.
    """

    folder: Path
    name: str
    task: Task
    labels: tuple[str, ...]
    channels: tuple[Channel, ...]
    splits: Mapping[str, tuple[Item, ...]]
    split_unit: SplitUnit = "patient"
    description: str = ""
    buried: int = 0
    split_key: str = ""
    split_shares: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        owners: dict[str, str] = {}
        for split in SPLITS:
            for patient in {item.patient for item in self.splits.get(split, ())}:
                # Where patients are not known, `patient` names the group of near-duplicates.
                if owners.setdefault(patient, split) != split and self.split_unit in (
                    "patient",
                    "near-duplicate group",
                ):
                    raise Rejected(
                        f"cohort {self.name!r}: one {self.split_unit} lies in {owners[patient]} and in {split}; "
                        f"split by {self.split_unit}, or state another split_unit"
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
    if cohort.split_key:
        # Pairs and no object: `split_of` goes through the shares in order, and keys are sorted below.
        document["split_rule"] = {"key": cohort.split_key, "shares": [*map(list, cohort.split_shares.items())]}
    for split in SPLITS:
        document[split] = [asdict(item) | {"split": split} for item in cohort.splits.get(split, ())]
    (cohort.folder / "datalist.json").write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")


def load(folder: Path) -> Cohort:
    """Read a cohort; items whose sources were deleted are left out.

    Raises:
        Rejected: no `datalist.json`, a key is missing or unknown, or a patient lies in two splits.
    """
    listing = folder / "datalist.json"
    if not listing.is_file():
        raise Rejected(f"{folder} is no cohort: it has no datalist.json; make one with `mirall cohort import`")
    try:
        document = json.loads(listing.read_text())
        listed = {split: tuple(_item(entry) for entry in document.get(split, [])) for split in SPLITS}
        gone = set(_tombstones(folder)["items"])
        splits = {
            split: tuple(item for item in items if gone.isdisjoint(item.images)) for split, items in listed.items()
        }
        return Cohort(
            folder=folder,
            name=document["name"],
            task=document["task"],
            labels=tuple(document["labels"]),
            channels=tuple(Channel(**channel) for channel in document["channels"]),
            splits=splits,
            split_unit=document["split_unit"],
            description=document.get("description", ""),
            buried=sum(len(listed[split]) - len(splits[split]) for split in SPLITS),
            split_key=document.get("split_rule", {}).get("key", ""),
            split_shares=dict(document.get("split_rule", {}).get("shares", [])),
        )
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise Rejected(f"{listing} does not follow the data-list form: {error}; see docs/scientist.md") from error


@dataclass(frozen=True)
class Grave:
    """Items of a cohort that were made from certain sources. items: by first image; splits: that they stand in.

    data_hashes: of the cohort as it is, and as it was before earlier items were buried; a model version that was
    trained on one of them saw the items.
    """

    cohort: str
    items: tuple[str, ...]
    splits: tuple[str, ...]
    data_hashes: tuple[str, ...]


def made_from(folder: Path, source_uids: Collection[str]) -> Grave:
    """The items of a cohort that were made from any of these sources; items that are buried already do not count.

    source_uids: pseudonyms (`dicom_io.pseudonym`) of SOP Instance UIDs, as the sidecars of the images have them.
    """
    cohort = load(folder)
    found = {
        item.images[0]: split
        for split in SPLITS
        for item in cohort.splits.get(split, ())
        if any(not nifti.source_uids(_existing(cohort, path)).isdisjoint(source_uids) for path in item.images)
    }
    hashes = dict.fromkeys([cohort.data_hash, *_tombstones(folder)["data_hashes"]])
    return Grave(cohort.name, tuple(found), tuple(sorted(set(found.values()))), tuple(hashes))


def bury(folder: Path, grave: Grave, why: str) -> None:
    """Note in the folder that these items are not to be used any more. Their files stay, for a person to remove."""
    if not grave.items:
        return
    noted = _tombstones(folder)
    noted["items"] |= dict.fromkeys(grave.items, why)
    noted["data_hashes"] = list(dict.fromkeys([*noted["data_hashes"], *grave.data_hashes]))
    scratch = folder / f".{_TOMBSTONES}"
    scratch.write_text(json.dumps(noted, indent=1, sort_keys=True) + "\n")
    scratch.replace(folder / _TOMBSTONES)


def _tombstones(folder: Path) -> dict[str, Any]:
    """{"items": {first image: why}, "data_hashes": [of the cohort before a burial, ...]}"""
    path = folder / _TOMBSTONES
    noted: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"items": {}, "data_hashes": []}
    return noted


def load_image(cohort: Cohort, item: Item) -> Volume | Projection:
    """An item's channels, stacked in the cohort's order: a volume of (channels, slices, rows, columns), or a projection
    of (channels, rows, columns).

    Raises:
        Rejected: a file or its sidecar is missing, or the channels do not share one grid.
    """
    paths = [_existing(cohort, relative) for relative in item.images]
    if nifti.kind(paths[0]) == "volume":
        return stack_channels([nifti.read(path) for path in paths])
    projections = [nifti.read_projection(path) for path in paths]
    if len({projection.pixels.shape[-2:] for projection in projections}) > 1:
        raise Rejected(f"cohort {cohort.name!r}: the channels of {item.images[0]} differ in size; give them one size")
    return replace(projections[0], pixels=np.concatenate([_with_channel_axis(each) for each in projections]))


def _with_channel_axis(projection: Projection) -> Float32:
    """A projection in colour has the axis already: (channels, rows, columns)."""
    return projection.pixels.reshape(-1, *projection.pixels.shape[-2:])


def load_mask(cohort: Cohort, item: Item) -> Volume:
    """An item's mask: (slices, rows, columns), label numbers as float32, on the grid of its image.

    Raises:
        Rejected: the item has no mask, or its file is missing.
    """
    if item.mask is None:
        raise Rejected(f"cohort {cohort.name!r}: {item.images[0]} has no mask; a segmentation cohort needs one each")
    return nifti.read(_existing(cohort, item.mask))


def add_volume(
    folder: Path,
    name: str,
    channels: Mapping[str, Volume],
    patient: str,
    *,
    mask: Volume | None = None,
    label: int | None = None,
    slice_labels: Sequence[int] = (),
    provenance: Mapping[str, Any] | None = None,
) -> Item:
    """Write images/NAME_CHANNEL.nii.gz and masks/NAME.nii.gz; the item still has to be put in a split and saved.

    channels: channel name -> volume of (slices, rows, columns), in the cohort's channel order.

    Raises:
        Rejected: channels or mask are not on one grid, or the slice labels are not one per slice.
    """
    stacked = stack_channels([*channels.values()])
    if mask is not None and not mask.same_grid_as(stacked):
        raise Rejected(f"{name}: the mask of {mask.spatial_shape} voxels is not on the image's grid; resample it first")
    if slice_labels and len(slice_labels) != stacked.spatial_shape[0]:
        raise Rejected(f"{name}: {len(slice_labels)} slice labels for {stacked.spatial_shape[0]} slices")
    for channel, volume in channels.items():
        nifti.write(volume, folder / _image(name, channel))
    if mask is not None:
        nifti.write(mask, folder / f"masks/{name}.nii.gz")
    return Item(
        images=tuple(_image(name, channel) for channel in channels),
        patient=patient,
        mask=f"masks/{name}.nii.gz" if mask is not None else None,
        label=label,
        slice_labels=tuple(slice_labels),
        geometry={"kind": "volume", "shape": [*stacked.spatial_shape], "spacing_mm": [*stacked.spacing_mm]},
        provenance=dict(provenance or {}),
        synthetic=any(volume.is_synthetic for volume in channels.values()),
    )


def add_projection(
    folder: Path,
    name: str,
    projection: Projection,
    patient: str,
    *,
    channel: str = "image",
    label: int | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Item:
    """Write images/NAME_CHANNEL.nii.gz of one slice; the item still has to be put in a split and saved.

    channel: its name, or a word for all of them where the projection has several.
    """
    nifti.write_projection(projection, folder / _image(name, channel))
    return Item(
        images=(_image(name, channel),),
        patient=patient,
        label=label,
        geometry={
            "kind": "projection",
            "shape": [*projection.pixels.shape[-2:]],
            "spacing_mm": [*projection.spacing_mm] if projection.spacing_mm else None,
        },
        provenance=dict(provenance or {}),
        synthetic=projection.is_synthetic,
    )


def _image(name: str, channel: str) -> str:
    return f"images/{name}_{channel}.nii.gz"


def _existing(cohort: Cohort, relative: str) -> Path:
    path = cohort.path(relative)
    if not path.is_file():
        raise Rejected(f"cohort {cohort.name!r}: {relative} is in datalist.json but not in the folder; import it again")
    return path


def _item(entry: Mapping[str, Any]) -> Item:
    fields = {name: value for name, value in entry.items() if name != "split"}
    fields["images"] = tuple(fields["images"])
    fields["slice_labels"] = tuple(fields.get("slice_labels", ()))
    return Item(**fields)
