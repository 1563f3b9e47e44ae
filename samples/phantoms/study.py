"""A phantom study on disk: the DICOM files, and beside them what is true about them.

folder/<patient>/dicom/*.dcm
folder/<patient>/truth/truth.json       what was put where; paths are relative to the truth folder
folder/<patient>/truth/mask.nii.gz      lesions on the images' grid (brain MR, breast PET)
folder/<patient>/truth/suv.nii.gz       SUVbw without noise (breast PET)
folder/<patient>/truth/segmentation.dcm carcinoma and other tissue, as SEG on the slide (histology)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dicom_io import nifti
from dicom_io.volume import Volume
from samples.phantoms.instance import Acquisition
from samples.phantoms.patient import Kind


@dataclass(frozen=True)
class PhantomStudy:
    """One study of one fictitious patient. truth: what truth.json holds; the module of each kind names its keys."""

    kind: Kind
    seed: int
    patient_id: str
    study_uid: str
    folder: Path
    files: tuple[Path, ...]
    truth: Mapping[str, Any]

    @property
    def dicom_folder(self) -> Path:
        return self.folder / "dicom"

    @property
    def truth_folder(self) -> Path:
        return self.folder / "truth"

    @property
    def mask_path(self) -> Path:
        """Lesion mask (1 inside) on the grid of the images; only where truth names a mask."""
        return self.truth_folder / str(self.truth["mask"])

    @property
    def segmentation_path(self) -> Path:
        """The truth as SEG; only where truth names a segmentation."""
        return self.truth_folder / str(self.truth["segmentation"])


def write(
    acquisition: Acquisition,
    folder: Path,
    files: Mapping[str, bytes],
    truth: Mapping[str, Any],
    volumes: Mapping[str, Volume],
    documents: Mapping[str, bytes] | None = None,
) -> PhantomStudy:
    """Write one study below `folder`. files: name -> bytes. volumes: name -> Volume, written as truth/<name>.nii.gz.

    documents: name -> bytes of other files of the truth, which names them by their stem.
    """
    home = folder / acquisition.patient.patient_id
    for part in ("dicom", "truth"):
        (home / part).mkdir(parents=True, exist_ok=True)
    paths = []
    for name, raw in files.items():
        paths.append(home / "dicom" / name)
        paths[-1].write_bytes(raw)
    whole = {
        "kind": acquisition.kind,
        "seed": acquisition.seed,
        "patient_id": acquisition.patient.patient_id,
        "study_uid": acquisition.study_uid,
        "synthetic": acquisition.synthetic,
        **truth,
        **{name: f"{name}.nii.gz" for name in volumes},
        **{Path(name).stem: name for name in documents or {}},
    }
    for name, raw in (documents or {}).items():
        (home / "truth" / name).write_bytes(raw)
    for name, volume in volumes.items():
        nifti.write(volume, home / "truth" / f"{name}.nii.gz")
    (home / "truth" / "truth.json").write_text(json.dumps(whole, indent=1, sort_keys=True) + "\n")
    return PhantomStudy(
        kind=acquisition.kind,
        seed=acquisition.seed,
        patient_id=acquisition.patient.patient_id,
        study_uid=acquisition.study_uid,
        folder=home,
        files=tuple(paths),
        truth=whole,
    )


def read(folder: Path) -> PhantomStudy:
    """The study that lies in a patient's folder, as it was written."""
    truth = json.loads((folder / "truth" / "truth.json").read_text())
    return PhantomStudy(
        kind=truth["kind"],
        seed=truth["seed"],
        patient_id=truth["patient_id"],
        study_uid=truth["study_uid"],
        folder=folder,
        files=tuple(sorted((folder / "dicom").glob("*.dcm"))),
        truth=truth,
    )
