"""Real series of several makers give the voxels, at the places, that dcm2niix and SimpleITK give.

dcm2niix turns the rows of its files round, so voxels are compared where they lie in the patient.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK

from dicom_io import series
from dicom_io.volume import Volume

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_SWAP = np.eye(4)[[2, 1, 0, 3]]
FOLDERS = (
    "mr-phantom/GE_MR750_epi_4d",
    "mr-phantom/Siemens_Skyra_mosaic_mr_0003",
    "mr-phantom/Siemens_Skyra_mosaic_mr_0005",
    "mr-t1-t2-pair/STS_001/MR_T1",
    "mr-t1-t2-pair/STS_001/MR_T2",
    "mr-breast-dce/UCSF-BR-06/image_dce_3dfgre_orig",
    "mr-breast-dce/UCSF-BR-06/image_dce_pe1",
    "mr-breast-dce/UCSF-BR-06/image_dce_ser",
    "pet-fdg-raw/STS_001",
    "pet-suv-sarcoma/STS_003/PET",
    "pet-suv-sarcoma/STS_016/PET",
)
# SimpleITK makes one volume of a folder: it knows no time points and no mosaics.
NOT_ONE_VOLUME = FOLDERS[:3] + FOLDERS[5:6]


def factors(one: series.SeriesVolume) -> float:
    """What SUV was made with; other readers give activities."""
    if one.modality != "PT":
        return 1.0
    from dicom_io import pet

    (factor,) = set(pet.suv_factors(list(one.datasets)).tolist())
    return factor


def largest_difference(volume: Volume, voxels: np.ndarray, affine: np.ndarray) -> float:
    """Largest difference at the same places; inf where the places are not the same. affine: index -> LPS."""
    if voxels.shape != volume.voxels.shape:
        return np.inf
    onto = np.linalg.solve(volume.affine, affine)
    places = onto[:3, :3] @ np.indices(voxels.shape).reshape(3, -1) + onto[:3, 3:]
    nearest = np.rint(places).astype(int)
    limits = np.array(voxels.shape)[:, None]
    if np.abs(places - nearest).max() > 0.02 or (nearest < 0).any() or (nearest >= limits).any():
        return np.inf
    return float(np.abs(volume.voxels[tuple(nearest)] - voxels.ravel()).max())


def images_of(folder: Path) -> list[Path]:
    def modality(path: Path) -> str:
        return pydicom.dcmread(path, stop_before_pixels=True).Modality

    return [path for path in sorted(folder.rglob("*.dcm")) if modality(path) in ("MR", "PT", "CT")]


@pytest.mark.skipif(shutil.which("dcm2niix") is None, reason="dcm2niix is not installed")
@pytest.mark.parametrize("name", FOLDERS)
def test_dcm2niix_reads_the_same_voxels_at_the_same_places(test_data, tmp_path, name):
    ours = series.volumes([test_data / name]).volumes
    subprocess.run(
        ["dcm2niix", "-b", "n", "-z", "n", "-o", tmp_path, test_data / name], check=True, capture_output=True
    )
    theirs = []
    for path in sorted(tmp_path.glob("*.nii")):
        image = nibabel.load(path)
        data = np.asarray(image.dataobj, np.float64)
        for voxels in np.moveaxis(data.reshape(*data.shape[:3], -1), -1, 0):
            theirs.append((voxels.transpose(2, 1, 0), _LPS_TO_RAS @ image.affine @ _SWAP))

    assert len(ours) == len(theirs)
    for one in ours:
        factor = factors(one)
        tolerance = 1e-6 * np.abs(one.volume.voxels).max()
        assert min(largest_difference(one.volume, voxels * factor, affine) for voxels, affine in theirs) <= tolerance


@pytest.mark.parametrize("name", [name for name in FOLDERS if name not in NOT_ONE_VOLUME])
def test_simpleitk_reads_the_same_voxels_at_the_same_places(test_data, name):
    (one,) = series.volumes([test_data / name]).volumes
    paths = {
        pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID: path for path in images_of(test_data / name)
    }
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames([str(paths[ds.SOPInstanceUID]) for ds in one.datasets])
    reader.SetOutputPixelType(SimpleITK.sitkFloat64)
    image = reader.Execute()
    affine = np.eye(4)
    direction = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, :3], affine[:3, 3] = direction[:, ::-1], image.GetOrigin()

    voxels = SimpleITK.GetArrayFromImage(image) * factors(one)
    assert largest_difference(one.volume, voxels, affine) <= 1e-6 * np.abs(one.volume.voxels).max()
