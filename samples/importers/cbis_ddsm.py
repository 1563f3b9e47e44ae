"""CBIS-DDSM: mammograms of DDSM as DICOM with a mask for each finding, as TCIA gives them out.

R. S. Lee et al., "A curated mammography data set for use in computer-aided detection and diagnosis research", Sci. Data
4:170177, 2017. Four tables, {mass,calc}_case_description_{train,test}_set.csv, have a row for each finding; the first
part of their paths is the Patient ID (0010,0020), which is also the name of the folder below which the files lie:

    Mass-Training_P_00001_LEFT_CC/.../*.dcm      the whole mammogram
    Mass-Training_P_00001_LEFT_CC_1/.../*.dcm    the finding: a mask on the whole mammogram, and a cut-out

The rest of the paths is not that of the files as they are downloaded. Mask and cut-out are exchanged in many rows, so
they are told apart by their pixels: a mask has two values. Some masks were made on a scan of another size. One with the
mammogram's own proportions is brought to its size; others do not fit, and nobody knows how they lie (see
github.com/fjeg/ddsm_tools, issue 5).

Views of a film that stand in the mass and in the calcification tables are one item. The published halves were drawn for
masses and calcifications apart, so one woman can lie in both; they are kept as provenance.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from dicom_io import cohort as cohorts
from dicom_io import dataset, mammography, pixels, subgroups
from dicom_io.cohort import Channel, Cohort, Item, Task
from dicom_io.errors import Rejected
from dicom_io.pseudonym import hidden_projection, pseudonym
from samples.importers import pictures
from samples.importers.by_patient import Plan, Progress, gather, split

Mask = npt.NDArray[np.uint8]

NAME = "cbis-ddsm"
LABELS = ("benign", "malignant")
_PATHOLOGIES = {"BENIGN": 0, "BENIGN_WITHOUT_CALLBACK": 0, "MALIGNANT": 1}
_COLUMNS = ("patient_id", "left or right breast", "image view", "pathology", "image file path", "ROI mask file path")
_TABLES = "*_case_description_*_set.csv"
# Sizes are rounded to whole pixels, of which there are thousands.
_SAME_PROPORTIONS = 1e-3


@dataclass(frozen=True)
class Finding:
    """A row of a table. image, lesion: folders of the mammogram and of the finding, by name. half: train or test."""

    patient: str
    side: str
    view: str
    label: int
    half: str
    image: str
    lesion: str


View = tuple[str, str, str]  # patient, side, view
Folders = Mapping[str, Path]


def views(source: Path, out: Path, key: bytes, progress: Progress) -> Cohort:
    """Whole mammograms, for classifiers: benign or malignant by the gravest finding of the view."""
    return _cohort(source, out, key, "classification", LABELS, progress)


def masks(source: Path, out: Path, key: bytes, progress: Progress) -> Cohort:
    """Whole mammograms with the masks of all findings of the view, benign or malignant alike, for segmenters."""
    return _cohort(source, out, key, "segmentation", ("background", "finding"), progress)


def findings_in(source: Path) -> list[Finding]:
    """The rows of all tables.

    Raises:
        Rejected: there is no table, a column is missing, or a pathology is not known.
    """
    tables = sorted(source.rglob(_TABLES))
    if not tables:
        raise Rejected(f"{source} holds no {_TABLES}; put the tables of CBIS-DDSM beside its images")
    found = []
    for path in tables:
        with path.open(newline="") as table:
            found += [_finding(path, row) for row in csv.DictReader(table)]
    return found


def mask_of(folder: Path, shape: tuple[int, int]) -> tuple[Mask, str]:
    """((rows, columns) of 0 and 1 on the mammogram, "" or how it was scaled) of a finding's folder.

    Raises:
        Rejected: not exactly one file of the folder has two values, or it does not have the mammogram's proportions.
    """
    read = [pixels.stored(dataset.read(path)) for path in sorted(folder.rglob("*.dcm"))]
    found = [values for values in read if _has_two_values(values)]
    if len(found) != 1:
        raise Rejected(
            f"{_named(folder.name)} has {len(read)} images, of which {len(found)} have two values as a mask has"
        )
    mask = np.asarray(found[0] > found[0].min(), np.uint8)
    if mask.shape == shape:
        return mask, ""
    stretch = (shape[0] / mask.shape[0]) / (shape[1] / mask.shape[1])
    if abs(stretch - 1) > _SAME_PROPORTIONS:
        raise Rejected(
            f"{_named(folder.name)} has a mask of {mask.shape} pixels, which has other proportions than the mammogram "
            f"of {shape}"
        )
    scaled = Image.fromarray(mask).resize(shape[::-1], Image.Resampling.NEAREST)
    return np.asarray(scaled), f"mask scaled from {mask.shape[0]} x {mask.shape[1]} to {shape[0]} x {shape[1]}"


def _cohort(source: Path, out: Path, key: bytes, task: Task, labels: tuple[str, ...], progress: Progress) -> Cohort:
    findings = findings_in(source)
    folders = _folders(source, {name for finding in findings for name in (finding.image, finding.lesion)})
    by_view = defaultdict[View, list[Finding]](list)
    for finding in findings:
        if finding.image in folders:
            by_view[finding.patient, finding.side, finding.view].append(finding)
    if not by_view:
        raise Rejected(f"{source} holds no folder {findings[0].image} nor any other that its tables name; add images")
    left_out: list[str] = []
    plan = Plan(
        name=NAME if task == "classification" else f"{NAME}-masks",
        description="Digitised film mammograms of CBIS-DDSM with findings that were proven",
        task=task,
        labels=labels,
        channels=(Channel("view", "MG", "1"),),
    )
    # The same women in the same halves for both tasks.
    splits = split((patient for patient, _, _ in by_view), NAME)
    read = partial(_items, by_view, folders, out, key, task, left_out)
    return gather(plan, out, splits, read, progress, left_out)


def _finding(table: Path, row: Mapping[str, str]) -> Finding:
    missing = [column for column in _COLUMNS if not row.get(column)]
    if missing:
        raise Rejected(f"{table.name} has a row without {', '.join(missing)}; give the table as TCIA has it")
    if row["pathology"] not in _PATHOLOGIES:
        raise Rejected(f"{table.name} has the pathology {row['pathology']!r}; known are {', '.join(_PATHOLOGIES)}")
    return Finding(
        patient=row["patient_id"],
        side=row["left or right breast"][0],
        view=row["image view"],
        label=_PATHOLOGIES[row["pathology"]],
        half="test" if "_test_" in table.name else "train",
        image=_first_part(row["image file path"]),
        lesion=_first_part(row["ROI mask file path"]),
    )


def _first_part(path: str) -> str:
    return path.strip().split("/")[0]


def _folders(source: Path, names: set[str]) -> Folders:
    return {path.name: path for path in sorted(source.rglob("*")) if path.name in names and path.is_dir()}


def _items(
    by_view: Mapping[View, Sequence[Finding]],
    folders: Folders,
    out: Path,
    key: bytes,
    task: Task,
    left_out: list[str],
    patient: str,
) -> list[Item]:
    found = []
    for view in sorted(view for view in by_view if view[0] == patient):
        try:
            found.append(_item(by_view[view], folders, out, key, task))
        except Rejected as error:
            left_out.append(f"{pseudonym(key, patient, prefix='P')} {view[1]} {view[2]}: {error}")
    return found


def _item(findings: Sequence[Finding], folders: Folders, out: Path, key: bytes, task: Task) -> Item:
    first = findings[0]
    files = sorted(folders[first.image].rglob("*.dcm"))
    if len(files) != 1:
        raise Rejected(f"its folder holds {len(files)} files, not one mammogram")
    ds, digest = dataset.read_with_hash(files[0])
    view = mammography.projection(ds, digest)
    view = replace(hidden_projection(key, view), laterality=first.side, view=first.view)
    size = view.pixels.shape[0], view.pixels.shape[1]
    mask, scaled = _union(findings, folders, size) if task == "segmentation" else (None, [])
    patient = pseudonym(key, first.patient, prefix="P")
    item = cohorts.add_projection(
        out,
        f"{patient}_{first.side}{first.view}",
        view,
        patient,
        channel="view",
        label=max(finding.label for finding in findings) if mask is None else None,
        provenance=pictures.provenance(NAME, published_split=_halves(findings), **subgroups.provenance(ds))
        | {"transforms": scaled},
    )
    return item if mask is None else pictures.add_mask(out, item, mask)


def _union(findings: Iterable[Finding], folders: Folders, shape: tuple[int, int]) -> tuple[Mask, list[str]]:
    """All findings' masks in one. A view of which one mask is unusable is not used: part of a truth is none."""
    whole, scaled = np.zeros(shape, np.uint8), []
    for name in sorted({finding.lesion for finding in findings}):
        if name not in folders:
            raise Rejected(f"{_named(name)} has no folder, so the view's mask would lack it")
        mask, how = mask_of(folders[name], shape)
        whole |= mask
        scaled += [how] if how else []
    return whole, scaled


def _named(lesion: str) -> str:
    """Folders end in the abnormality id: what comes before names the woman."""
    return f"finding {lesion.rsplit('_', 1)[-1]}"


def _has_two_values(values: npt.NDArray[Any]) -> bool:
    low, high = values.min(), values.max()
    return bool(low < high and ((values == low) | (values == high)).all())


def _halves(findings: Iterable[Finding]) -> str:
    return " and ".join(sorted({finding.half for finding in findings}))
