"""Our own phantoms as cohorts: PATIENT/dicom/*.dcm beside PATIENT/truth/ (see `samples.phantoms.study`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dicom_io import cohort as cohorts
from dicom_io import dataset, nifti, series, slide_segmentation, subgroups
from dicom_io.cohort import Channel, Cohort, Item, Task
from dicom_io.errors import Rejected
from dicom_io.pseudonym import hidden_projection, hidden_volume, pseudonym
from dicom_io.slide import Slide
from dicom_io.volume import Volume
from samples.importers import slides
from samples.importers.pet_sarcoma import only_series
from samples.phantoms.tissue import CARCINOMA

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

Progress = Callable[[int, int, str], None]
Items = Callable[[Path, Path, bytes], list[Item]]


def white_matter_lesions(source: Path, out: Path, key: bytes, progress: Progress) -> Cohort:
    """T1 and FLAIR of the brain with the lesion mask, for segmenters."""
    channels = (Channel("T1", "MR", "1", "T1"), Channel("FLAIR", "MR", "1", "FLAIR"))
    labels = ("background", "white-matter lesion")
    return _cohort("brain-mr-phantoms", "segmentation", labels, channels, _brain, source, out, key, progress)


def mammograms(source: Path, out: Path, key: bytes, progress: Progress) -> Cohort:
    """Single views, with or without a lesion (mass or calcifications), for image classifiers."""
    channels = (Channel("view", "MG", "1"),)
    return _cohort(
        "mammography-phantoms", "classification", ("normal", "lesion"), channels, _views, source, out, key, progress
    )


def breast_pet(source: Path, out: Path, key: bytes, progress: Progress) -> Cohort:
    """Whole-breast PET in SUVbw, for generators of slices."""
    channels = (Channel("PET", "PT", "g/ml{SUVbw}"),)
    return _cohort("breast-pet-phantoms", "generation", (), channels, _pet, source, out, key, progress)


def breast_pet_lesions(source: Path, out: Path, key: bytes, progress: Progress) -> Cohort:
    """The same with a label per slice, lesion or not, for classifiers of slices."""
    channels = (Channel("PET", "PT", "g/ml{SUVbw}"),)
    return _cohort(
        "breast-pet-lesions", "classification", ("normal", "lesion"), channels, _pet_slices, source, out, key, progress
    )


def histology(source: Path, out: Path, key: bytes, progress: Progress) -> Cohort:
    """Tiles of slides in colour with a label each, carcinoma or not, for image classifiers."""
    return _cohort(
        "histology-phantoms", "classification", slides.LABELS, slides.CHANNELS, _tiles, source, out, key, progress
    )


def _cohort(
    name: str,
    task: Task,
    labels: tuple[str, ...],
    channels: tuple[Channel, ...],
    items_of: Items,
    source: Path,
    out: Path,
    key: bytes,
    progress: Progress,
) -> Cohort:
    patients = sorted(path.parent.name for path in source.glob("*/dicom") if path.is_dir())
    if len(patients) < 3:
        raise Rejected(f"{source} holds {len(patients)} PATIENT/dicom/ folders; a split by patient needs at least 3")
    held_out = max(1, len(patients) // 5)
    splits = cohorts.split_evenly(patients, name, {"test": held_out, "validation": held_out})
    found: dict[str, list[Item]] = {split: [] for split in cohorts.SPLITS}
    for done, patient in enumerate(patients):
        progress(done, len(patients), "patients")
        found[splits[patient]] += items_of(source / patient, out, key)
    progress(len(patients), len(patients), "patients")
    made = Cohort(
        folder=out,
        name=name,
        description=f"{len(patients)} phantom patients; no person was imaged",
        task=task,
        labels=labels,
        channels=channels,
        splits={split: tuple(items) for split, items in found.items()},
    )
    cohorts.save(made)
    return made


def _brain(home: Path, out: Path, key: bytes) -> list[Item]:
    found = {entry.contrast: entry for entry in series.volumes([home / "dicom"]).volumes}
    volumes = {contrast: entry.volume for contrast, entry in found.items()}
    if not {"T1", "FLAIR"} <= volumes.keys():
        held = ", ".join(filter(None, volumes)) or "neither"
        raise Rejected(f"{home / 'dicom'} must hold T1 and FLAIR of the brain, and it holds {held}")
    mask = _mask(home, volumes["FLAIR"])
    name = pseudonym(key, home.name, prefix="P")
    channels = {contrast: hidden_volume(key, volumes[contrast]) for contrast in ("T1", "FLAIR")}
    provenance = _provenance(found["FLAIR"].datasets[0])
    return [cohorts.add_volume(out, name, channels, name, mask=hidden_volume(key, mask), provenance=provenance)]


def _pet(home: Path, out: Path, key: bytes, *, labelled: bool = False) -> list[Item]:
    pet = only_series(home / "dicom")
    volume = pet.volume
    name = pseudonym(key, home.name, prefix="P")
    lesion = _mask(home, volume).voxels.any(axis=(1, 2)) if labelled else np.zeros(0)
    channels = {"PET": hidden_volume(key, volume)}
    labels = lesion.astype(int).tolist()
    provenance = _provenance(pet.datasets[0])
    return [cohorts.add_volume(out, name, channels, name, slice_labels=labels, provenance=provenance)]


def _pet_slices(home: Path, out: Path, key: bytes) -> list[Item]:
    return _pet(home, out, key, labelled=True)


def _views(home: Path, out: Path, key: bytes) -> list[Item]:
    labels = {image["sop_instance_uid"]: image["label"] for image in _truth(home).get("images", ())}
    patient = pseudonym(key, home.name, prefix="P")
    return [
        cohorts.add_projection(
            out,
            f"{patient}_{entry.projection.laterality}{entry.projection.view}",
            hidden_projection(key, entry.projection),
            patient,
            channel="view",
            label=int(_label(labels, str(entry.dataset.SOPInstanceUID)) != "normal"),
            provenance=_provenance(entry.dataset),
        )
        for entry in series.volumes([home / "dicom"]).projections
    ]


def _tiles(home: Path, out: Path, key: bytes) -> list[Item]:
    path = home / "truth" / "segmentation.dcm"
    if not path.is_file():
        raise Rejected(f"{home} has no truth/segmentation.dcm; make phantoms with samples.phantoms")
    truth = slide_segmentation.read(dataset.read(path))
    patient = pseudonym(key, home.name, prefix="P")
    with Slide([home / "dicom"]) as slide:
        (level,) = slide.levels
        header = dataset.read(min((home / "dicom").rglob("*.dcm")), stop_before_pixels=True)
        provenance = _provenance(header)
        return slides.tiles_of(slide, level, truth == CARCINOMA, out, key, patient, patient, provenance)


def _label(labels: Mapping[str, str], sop_instance_uid: str) -> str:
    if sop_instance_uid not in labels:
        raise Rejected(f"truth.json says nothing about instance {sop_instance_uid}; make the phantoms anew")
    return labels[sop_instance_uid]


def _mask(home: Path, grid: Volume) -> Volume:
    path = home / "truth" / "mask.nii.gz"
    if not path.is_file():
        raise Rejected(f"{home} has no truth/mask.nii.gz; make phantoms with `mirall demo` or samples.phantoms")
    return nifti.mask_on(path, grid)


def _truth(home: Path) -> Mapping[str, Any]:
    path = home / "truth" / "truth.json"
    if not path.is_file():
        raise Rejected(f"{home} has no truth/truth.json; make phantoms with `mirall demo` or samples.phantoms")
    return json.loads(path.read_text())


def _provenance(ds: Dataset) -> dict[str, Any]:
    return {"data_set": "phantoms", "transforms": [], **subgroups.provenance(ds)}
