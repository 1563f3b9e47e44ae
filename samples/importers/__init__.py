"""Public data sets and our phantoms, each read in its own layout, as cohorts split by patient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dicom_io.cohort import Cohort
from samples.importers import (
    brain_tumour,
    cbis_ddsm,
    ddsm,
    idc_patches,
    mini_mias,
    nifti_folders,
    pet_regions,
    pet_sarcoma,
    phantom_folders,
    slides,
    wmh_challenge,
)
from samples.importers.by_patient import Progress


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
        Importer(
            "histology-phantoms",
            "our slides: PATIENT/dicom/*.dcm, PATIENT/truth/segmentation.dcm; tiles at 5x, carcinoma or not",
            phantom_folders.histology,
        ),
        Importer(
            "slide-tiles",
            "whole slides in DICOM, any folders, patients by Patient ID; tiles of the level near 5x, with tiled SEG "
            "(segments named carcinoma or tumour) for classifiers, without for generators",
            slides.tiles,
        ),
        Importer(
            "idc-patches",
            "breast histology: PATIENT/{0,1}/PATIENT_idx5_xX_yY_classC.png; one stack of patches per patient",
            idc_patches.patches,
        ),
        Importer(
            "brain-tumour-folders",
            "{Training,Testing}/CLASS/*.jpg without patients; split anew by groups of near-duplicates",
            brain_tumour.folders,
        ),
        Importer(
            "brain-tumour-published",
            "the same, tested on Testing as published; refused where near-duplicates lie in both halves",
            brain_tumour.published,
        ),
        Importer("mini-mias", "mdbNNN.pgm beside Info.txt or labels.csv; normal, benign or malignant", mini_mias.films),
        Importer(
            "mini-mias-patches",
            "the same, for generators: squares of breast of 64 x 64 pixels of 0.4 mm, without labels",
            mini_mias.patches,
        ),
        Importer(
            "ddsm",
            "CASE/*.ics with *.VIEW.OVERLAY and pictures *.VIEW.png or .tif (the LJPEG originals cannot be decoded)",
            ddsm.views,
        ),
        Importer(
            "cbis-ddsm",
            "{mass,calc}_case_description_{train,test}_set.csv beside TCIA's DICOM folders; benign or malignant",
            cbis_ddsm.views,
        ),
        Importer("cbis-ddsm-masks", "the same, for segmenters: whole mammograms with the ROI masks", cbis_ddsm.masks),
        Importer(
            "wmh-challenge",
            "SITE/SUBJECT/pre/{T1,FLAIR}.nii.gz and SITE/SUBJECT/wmh.nii.gz, label 2 as background",
            wmh_challenge.lesions,
        ),
        Importer(
            "pet-rtstruct",
            "PATIENT/ with one PT series and an RTSTRUCT (regions named GTV, tumour, lesion or mass) or a NIfTI mask",
            pet_regions.regions,
        ),
        Importer(
            "nifti-folder",
            "images/*.nii.gz and, for segmenters, masks/ or labels/ of the same names; the patient is the first part "
            "of the name, cut at underscores, in which names differ",
            nifti_folders.folder,
        ),
        Importer(
            "nnunet",
            "nnU-Net raw data: imagesTr/NAME_0000.nii.gz, labelsTr/NAME.nii.gz, dataset.json; patients by name, as in "
            "nifti-folder",
            nifti_folders.nnunet,
        ),
        Importer(
            "monai-datalist",
            "a JSON file with training, validation and test of {image: path or list, label: path or number, patient}; "
            "patients by name where an entry has none, paths relative to the file",
            nifti_folders.datalist,
        ),
    )
}
