"""Public data sets and our phantoms, each read in its own layout, as cohorts split by patient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dicom_io.cohort import Cohort
from samples.importers import pet_sarcoma, phantom_folders

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Importer:
    """name: as on the command line. layout: what the source folder must look like, one sentence."""

    name: str
    layout: str
    read: Callable[[Path, Path, bytes, Progress], Cohort]


IMPORTERS = {
    importer.name: importer
    for importer in (
        Importer(
            "pet-sarcoma",
            "IBSI validation copy of TCIA Soft-tissue-Sarcoma: PATIENT/PET/*.dcm in SUV and PATIENT/PET_mask.nii.gz",
            pet_sarcoma.masks,
        ),
        Importer("pet-sarcoma-slices", "the same, for classifiers of slices: tumour or not", pet_sarcoma.slices),
        Importer(
            "brain-mr-phantoms",
            "our brain phantoms: PATIENT/dicom/*.dcm with T1 and FLAIR, PATIENT/truth/mask.nii.gz",
            phantom_folders.white_matter_lesions,
        ),
        Importer(
            "mammography-phantoms",
            "our mammograms: PATIENT/dicom/*.dcm, PATIENT/truth/truth.json with the class of each view",
            phantom_folders.mammograms,
        ),
        Importer(
            "breast-pet-phantoms",
            "our breast PET: PATIENT/dicom/*.dcm; for generators, so masks are not read",
            phantom_folders.breast_pet,
        ),
        Importer(
            "breast-pet-lesions",
            "our breast PET: PATIENT/dicom/*.dcm, PATIENT/truth/mask.nii.gz; one label per slice, lesion or not",
            phantom_folders.breast_pet_lesions,
        ),
    )
}
