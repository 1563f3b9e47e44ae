"""FDG PET of soft-tissue sarcomas, already SUVbw, cropped to the lesion plus 5 cm (IBSI's copy of a TCIA collection).

Every crop is its lesion plus a margin, so the position alone gives the answer away: recipes for this cohort hide it
(random off-centre windows of one size, no slice index), and results stand beside the geometry baseline of
`samples.experiments.pet_tumour`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from dicom_io import cohort as cohorts
from dicom_io import nifti, series, subgroups
from dicom_io.cohort import Channel, Cohort, Item, Task
from dicom_io.errors import Rejected
from dicom_io.pseudonym import hidden_volume, pseudonym
from dicom_io.series import SeriesVolume

CHANNEL = Channel(name="PET", modality="PT", units="g/ml{SUVbw}")
LABELS = ("background", "tumour")
COUNTS = {"test": 4, "validation": 3}
Progress = Callable[[int, int, str], None]


def patients_in(source: Path) -> list[str]:
    """Names of the patient folders.

    Raises:
        Rejected: no folder below `source` has PET and a mask.
    """
    found = sorted(path.parent.name for path in source.glob("*/PET_mask.nii.gz") if (path.parent / "PET").is_dir())
    if not found:
        raise Rejected(f"{source} holds no PATIENT/PET/ beside PATIENT/PET_mask.nii.gz; give the data set's own folder")
    return found


def masks(source: Path, out: Path, key: bytes, progress: Progress) -> Cohort:
    """The whole data set for segmenters, split by patient in hash order: 4 test, 3 validation, the rest training."""
    return cohort_of(source, out, key, _split(source), "segmentation", progress)


def slices(source: Path, out: Path, key: bytes, progress: Progress) -> Cohort:
    """The same patients in the same split for classifiers of slices: tumour or not."""
    return cohort_of(source, out, key, _split(source), "classification", progress)


def _split(source: Path) -> dict[str, str]:
    return cohorts.split_evenly(patients_in(source), "pet-sarcoma", COUNTS)


def cohort_of(source: Path, out: Path, key: bytes, splits: Mapping[str, str], task: Task, progress: Progress) -> Cohort:
    """A cohort of the patients that `splits` (patient folder -> split) names.

    Raises:
        Rejected: a series cannot be read as one SUV volume, or its mask is not on its grid.
    """
    items: dict[str, list[Item]] = {split: [] for split in cohorts.SPLITS}
    for done, (patient, split) in enumerate(sorted(splits.items())):
        progress(done, len(splits), "patients")
        items[split].append(_item(source / patient, out, key))
    progress(len(splits), len(splits), "patients")
    made = Cohort(
        folder=out,
        name="pet-sarcoma",
        description="Soft-tissue sarcoma on FDG PET, SUVbw, crops of the lesion plus 5 cm",
        task=task,
        labels=LABELS,
        channels=(CHANNEL,),
        splits={split: tuple(found) for split, found in items.items()},
    )
    cohorts.save(made)
    return made


def _item(folder: Path, out: Path, key: bytes) -> Item:
    pet = only_series(folder / "PET")
    volume = pet.volume
    mask = nifti.mask_on(folder / "PET_mask.nii.gz", volume)
    name = pseudonym(key, folder.name, prefix="P")
    return cohorts.add_volume(
        out,
        name,
        {CHANNEL.name: hidden_volume(key, volume)},
        patient=name,
        mask=hidden_volume(key, mask),
        slice_labels=mask.voxels.any(axis=(1, 2)).astype(int).tolist(),
        provenance={"data_set": "pet-sarcoma", "transforms": []} | subgroups.provenance(pet.datasets[0]),
    )


def only_series(folder: Path) -> SeriesVolume:
    """The one volume that a folder of DICOM files holds, with its headers.

    Raises:
        Rejected: there is none, or more than one.
    """
    readout = series.volumes([folder])
    if len(readout.volumes) != 1:
        why = "; ".join(sentence for _, sentence in readout.refused) or f"{len(readout.volumes)} volumes"
        raise Rejected(f"{folder} must hold one series of images, and it gave {why}")
    return readout.volumes[0]
