"""PET with regions that were drawn on it: PATIENT/ with one PT series and an RTSTRUCT, or a NIfTI mask on its grid.

Folders below PATIENT may have any names; images of other modalities are left aside. Regions count whose ROI Name
(3006,0026) matches a pattern; several of one patient are united. Where there is no structure set, the one NIfTI file
whose name holds "mask" or "seg" is the mask, and any label in it is the region.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dicom_io import cohort as cohorts
from dicom_io import dataset, nifti, series, structure_set, subgroups
from dicom_io.cohort import Channel, Cohort, Item
from dicom_io.errors import Rejected
from dicom_io.pseudonym import hidden_volume, pseudonym
from dicom_io.series import SeriesVolume
from dicom_io.volume import Volume
from samples.importers import pictures
from samples.importers.by_patient import Plan, Progress, gather, split

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

NAME = "pet-rtstruct"
CHANNEL = Channel(name="PET", modality="PT", units="g/ml{SUVbw}")
# Gross tumour volumes and lesions, and not what surrounds them.
ROIS = r"^(?!.*(edema|ring|margin)).*(GTV|tumou?r|lesion|mass)"


def regions(source: Path, out: Path, key: bytes, progress: Progress, *, rois: str = ROIS) -> Cohort:
    """PET in SUVbw with the regions whose name matches `rois` (anywhere, in any case), for segmenters."""
    plan = Plan(
        name=NAME,
        description=f"FDG PET in SUVbw with regions named {rois}",
        task="segmentation",
        labels=("background", "region"),
        channels=(CHANNEL,),
    )
    patients = patients_in(source)
    return gather(plan, out, split(patients, plan.name), partial(_items, source, out, key, rois), progress)


def patients_in(source: Path) -> list[str]:
    """Names of the folders that hold DICOM files and a structure set or a mask.

    Raises:
        Rejected: there is none.
    """
    found = [path.name for path in sorted(source.glob("*")) if path.is_dir() and _mask_files(path) != []]
    if not found:
        raise Rejected(
            f"{source} holds no PATIENT/ with PET and a structure set or a NIfTI mask; give the folder above"
        )
    return found


def region(folder: Path, grid: Volume, rois: str = ROIS) -> tuple[Volume, list[str]]:
    """(mask on the grid, names of the regions in it) of one patient's folder.

    Raises:
        Rejected: there are several structure sets or masks, no region of such a name, or another grid.
    """
    found = _mask_files(folder)
    if len(found) != 1:
        raise Rejected(f"{folder} holds {len(found)} structure sets or masks, and one is needed; take the others out")
    if isinstance(found[0], Path):
        mask = nifti.mask_on(found[0], grid)
        return mask.with_voxels((mask.voxels != 0).astype(np.float32)), []
    return _drawn(found[0], grid, rois)


def pet(folder: Path) -> SeriesVolume:
    """The one PET volume below a patient's folder, with its headers; other modalities are not looked at.

    Raises:
        Rejected: there is none, or more than one.
    """
    readout = series.volumes(_files(folder, ("PT",)))
    if len(readout.volumes) != 1:
        why = "; ".join(sentence for _, sentence in readout.refused) or f"{len(readout.volumes)} PET volumes"
        raise Rejected(f"{folder} must hold one PET volume, and it gave {why}")
    return readout.volumes[0]


def _items(source: Path, out: Path, key: bytes, rois: str, patient: str) -> list[Item]:
    found = pet(source / patient)
    volume = found.volume
    mask, names = region(source / patient, volume, rois)
    name = pseudonym(key, patient, prefix="P")
    item = cohorts.add_volume(
        out,
        name,
        {CHANNEL.name: hidden_volume(key, volume)},
        patient=name,
        mask=hidden_volume(key, mask),
        slice_labels=mask.voxels.any(axis=(1, 2)).astype(int).tolist(),
        provenance=pictures.provenance(NAME, regions=names, **subgroups.provenance(found.datasets[0])),
    )
    return [item]


def _drawn(rtstruct: Dataset, grid: Volume, rois: str) -> tuple[Volume, list[str]]:
    pattern = re.compile(rois, re.IGNORECASE)
    names = [name for name in structure_set.roi_names(rtstruct) if pattern.search(name)]
    if not names:
        held = ", ".join(structure_set.roi_names(rtstruct)) or "none"
        raise Rejected(f"structure set {rtstruct.SOPInstanceUID} has no region named {rois}; it has {held}")
    drawn = [structure_set.mask(rtstruct, name, grid).voxels > 0 for name in names]
    return grid.with_voxels(np.logical_or.reduce(drawn).astype(np.float32), units="1"), names


def _mask_files(folder: Path) -> Sequence[Dataset | Path]:
    """Structure sets; where there is none, NIfTI files that are named as masks."""
    structure_sets = [dataset.read(path) for path in _files(folder, ("RTSTRUCT",))]
    named = [path for path in sorted(folder.rglob("*.nii*")) if re.search("mask|seg", path.name, re.IGNORECASE)]
    return structure_sets or named


def _files(folder: Path, modalities: Sequence[str]) -> list[Path]:
    """Raises NotDicom for a DICOM file that ends too early: an image less at an end of the series leaves no gap."""
    return [
        path
        for path in series.files_below([folder])
        if _is_dicom(path) and dataset.read(path, stop_before_pixels=True).get("Modality") in modalities
    ]


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"
