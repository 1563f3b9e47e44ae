"""Our slides in the layout of the public IDC patches: PATIENT/{0,1}/PATIENT_idx5_xX_yY_classC.png, 50 x 50 pixels.

x and y count columns and rows of the slide from 1, as in the published set (`samples.importers.idc_patches`). Each
picture of a synthetic slide says so in its text chunks.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dicom_io import dataset, slide_segmentation
from dicom_io.slide import Slide
from samples.phantoms.study import PhantomStudy
from samples.phantoms.tissue import CARCINOMA

SIDE_PX = 50
LEAST_TISSUE = 0.2
LEAST_CARCINOMA = 0.5


def write_patches(study: PhantomStudy, folder: Path) -> int:
    """Cut one slide into patches below `folder`, and tell how many. Those with little tissue are left out.

    A patch is of class 1 where half of it or more is invasive carcinoma; at the far borders it is smaller.

    Raises:
        ValueError: the study is of another kind.
    """
    if study.kind != "histology":
        raise ValueError(f"{study.patient_id} is a phantom of {study.kind}, and patches are cut from histology")
    carcinoma = slide_segmentation.read(dataset.read(study.segmentation_path)) == CARCINOMA
    count = 0
    with Slide([study.dicom_folder]) as slide:
        (level,) = slide.levels
        for tile in slide.tiles(level, (SIDE_PX, SIDE_PX), least_tissue=LEAST_TISSUE):
            there = carcinoma[tile.row : tile.row + SIDE_PX, tile.column : tile.column + SIDE_PX]
            label = int(there.mean() >= LEAST_CARCINOMA)
            home = folder / study.patient_id / str(label)
            home.mkdir(parents=True, exist_ok=True)
            name = f"{study.patient_id}_idx5_x{tile.column + 1}_y{tile.row + 1}_class{label}.png"
            Image.fromarray(np.ascontiguousarray(tile.picture)).save(home / name, pnginfo=_said(study))
            count += 1
    return count


def _said(study: PhantomStudy) -> PngInfo:
    chunks = PngInfo()
    if study.truth["synthetic"]:
        for word, value in (("Synthetic", "YES"), ("Model", "phantoms histology"), ("Seed", str(study.seed))):
            chunks.add_text(word, value)
    return chunks
