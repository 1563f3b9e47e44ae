"""Histology patches of breast carcinoma: PATIENT/{0,1}/PATIENT_idx5_xX_yY_classC.png, 50 x 50 pixels in colour.

The layout of A. Janowczyk's set (Janowczyk and Madabhushi, J. Pathol. Inform. 7:29, 2016; slides of Cruz-Roa et al.,
Proc. SPIE 9041, 2014). x and y count columns and rows of the slide from 1. Class 1 is invasive ductal carcinoma. The
files do not say how large a pixel is.

A cohort holds one stack per patient and colour, a patch in each slice, because 277,524 patches in files of their own
would be 1.7 million files. So the items are volumes whose slices are what is classified; steps between slices and
pixels are 1 and mean nothing, and positions on the slide stand in the item's provenance.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from dicom_io import cohort as cohorts
from dicom_io.cohort import Cohort, Item
from dicom_io.errors import Rejected
from dicom_io.pseudonym import pseudonym
from dicom_io.volume import Source, Volume
from samples.importers import pictures
from samples.importers.by_patient import Plan, Progress, gather, split

UInt8 = npt.NDArray[np.uint8]

SIDE = 50
WHITE = 255
CHANNELS = cohorts.colour_channels("SM")
# Of a label map: where no patch was.
NO_PATCH = -1
# Of labels 0, 1 and -1, red, green and blue.
_COLOURS = np.array([(90, 160, 220), (220, 60, 60), (WHITE, WHITE, WHITE)], np.uint8)
# A picture that says it is synthetic is no DICOM object, and has no UID.
_SYNTHETIC = Source("", "", "", synthetic=True)
_NAME = re.compile(r"(?P<slide>.+)_x(?P<x>\d+)_y(?P<y>\d+)_class(?P<label>[01])\.png")


@dataclass(frozen=True)
class Patch:
    """row, column: of the first pixel in the slide, from 0. label: 1 for carcinoma."""

    path: Path
    row: int
    column: int
    label: int


def patches(source: Path, out: Path, key: bytes, progress: Progress) -> Cohort:
    """Patches of all patients, for classifiers of slices: carcinoma or not."""
    plan = Plan(
        name="idc-patches",
        description="Breast histology, patches of 50 x 50 pixels in stacks, one per patient",
        task="classification",
        labels=("no carcinoma", "invasive ductal carcinoma"),
        channels=CHANNELS,
    )
    patients = patients_in(source)
    return gather(plan, out, split(patients, plan.name), partial(_items, source, out, key), progress)


def patients_in(source: Path) -> list[str]:
    """Names of the patient folders.

    Raises:
        Rejected: no folder below `source` has a folder 0 or 1.
    """
    found = sorted({path.parent.name for path in source.glob("*/[01]") if path.is_dir()})
    if not found:
        raise Rejected(f"{source} holds no PATIENT/0/ or PATIENT/1/ with patches; give the folder that holds patients")
    return found


def patches_of(folder: Path) -> list[Patch]:
    """The patches of one patient, by row, then by column.

    Raises:
        Rejected: there is none, a name is of another form, names another patient or another class than its folder,
            or two patches lie at one place.
    """
    found = [_patch(path, folder.name) for path in sorted(folder.glob("[01]/*.png"))]
    if not found:
        raise Rejected(f"{folder.name}/0 and {folder.name}/1 hold no PNG; copy the data set again")
    ordered = sorted(found, key=lambda patch: (patch.row, patch.column))
    places = {(patch.row, patch.column) for patch in ordered}
    if len(places) < len(ordered):
        raise Rejected(f"{folder.name} holds {len(ordered)} patches at {len(places)} places; keep one of each")
    return ordered


def rebuild(folder: Path) -> tuple[UInt8, npt.NDArray[np.int8]]:
    """One patient's slide from its patches: picture (rows, columns, 3), white where none was cut, and label map
    (rows, columns): 0, 1, or -1 where none was cut. Both begin at the first pixel of the slide.

    Raises as `patches_of` does.
    """
    found = patches_of(folder)
    read = [pictures.colour(patch.path) for patch in found]
    rows = max(patch.row + pixels.shape[0] for patch, pixels in zip(found, read, strict=True))
    columns = max(patch.column + pixels.shape[1] for patch, pixels in zip(found, read, strict=True))
    picture = np.full((rows, columns, 3), WHITE, np.uint8)
    labels = np.full((rows, columns), NO_PATCH, np.int8)
    for patch, pixels in zip(found, read, strict=True):
        at = (
            slice(patch.row, patch.row + pixels.shape[0]),
            slice(patch.column, patch.column + pixels.shape[1]),
        )
        picture[at], labels[at] = pixels, patch.label
    return picture, labels


def save_rebuilt(folder: Path, out: Path) -> tuple[Path, Path]:
    """Write PATIENT.png, the slide, and PATIENT_labels.png, its labels in colour: blue for 0, red for 1, else white."""
    picture, labels = rebuild(folder)
    paths = out / f"{folder.name}.png", out / f"{folder.name}_labels.png"
    for path, pixels in zip(paths, (picture, _COLOURS[labels]), strict=True):
        Image.fromarray(pixels).save(path)
    return paths


def _patch(path: Path, patient: str) -> Patch:
    name = _NAME.fullmatch(path.name)
    if name is None or not name["slide"].startswith(patient):
        raise Rejected(f"{path.name} is not named {patient}_..._xX_yY_classC.png; take it out of the folder")
    if name["label"] != path.parent.name:
        raise Rejected(f"{path.name} says class {name['label']} and lies in folder {path.parent.name}; move it")
    return Patch(path, int(name["y"]) - 1, int(name["x"]) - 1, int(name["label"]))


def _items(source: Path, out: Path, key: bytes, patient: str) -> list[Item]:
    found = patches_of(source / patient)
    pixels, filled = _stack(found)
    name = pseudonym(key, patient, prefix="P")
    made_from = (_SYNTHETIC,) if any(pictures.says_synthetic(patch.path) for patch in found) else ()
    volumes = {
        channel.name: Volume(
            np.ascontiguousarray(pixels[..., number], np.float32), np.eye(4), "", "1", made_from=made_from
        )
        for number, channel in enumerate(CHANNELS)
    }
    item = cohorts.add_volume(
        out,
        name,
        volumes,
        name,
        slice_labels=[patch.label for patch in found],
        provenance=pictures.provenance(
            "idc-patches",
            rows=[patch.row for patch in found],
            columns=[patch.column for patch in found],
            filled_with_white=filled,
        ),
    )
    return [replace(item, geometry={**item.geometry, "spacing_mm": None})]


def _stack(found: Sequence[Patch]) -> tuple[UInt8, int]:
    """((patches, 50, 50, 3), how many were smaller); at the far borders of a slide patches are, and get white there."""
    stack = np.full((len(found), SIDE, SIDE, 3), WHITE, np.uint8)
    filled = 0
    for number, patch in enumerate(found):
        pixels = pictures.colour(patch.path)
        rows, columns = pixels.shape[:2]
        if max(rows, columns) > SIDE:
            raise Rejected(f"{patch.path.name} has {rows} x {columns} pixels, more than {SIDE}; it is no patch")
        stack[number, :rows, :columns] = pixels
        filled += min(rows, columns) < SIDE
    return stack, filled
