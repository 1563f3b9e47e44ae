"""Folders of DICOM into volumes, projections, masks and slices as files, series by series.

    out/
      volumes/NAME.nii.gz, NAME.json       one for each volume of a series (`dicom_io.nifti`)
      projections/NAME.nii.gz, NAME.json   mammograms
      masks/NAME_LABEL.nii.gz, .json       segments (SEG) and regions (RTSTRUCT) that refer to the series, on its grid
      slices/NAME.npy                      where asked for: (slices, rows, columns) float32, for np.load(mmap_mode="r")
      datalist.json                        MONAI's data-list form: {"training": [{"image": ..., ...}, ...]}, unsplit
      report.json                          what was converted, split, refused and left aside, and why
      .done/SERIES.json                    what is there already; a run that was stopped goes on after these

NAME is modality and a digest of the Series Instance UID; nothing of the patient is in it. Sidecars hold the UIDs of the
sources. A series is converted anew when its files or the options have changed.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dicom_io import dataset, nifti, resampling, series, structure_set
from dicom_io.errors import Rejected
from dicom_io.pet import SuvKind
from dicom_io.scaling import Scaling
from dicom_io.series import SeriesProjection, SeriesVolume
from dicom_io.volume import Volume

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

Status = Literal["converted", "split", "mask", "refused", "left aside"]
Progress = Callable[[int, int], None]
# Changes whenever the same files would be written otherwise.
_FORM = 1
_MASKS = ("SEG", "RTSTRUCT")
_TAGS = {0x00080018: "instance", 0x00080060: "modality", 0x0020000E: "series"}


@dataclass(frozen=True)
class Options:
    """suv, scaled_by: as in `series.volumes`. slices: write memory-mapped arrays, too.

    onto: Series Instance UID of the volume whose grid all others are resampled to; "" for none. register: those in
    another frame of reference are registered rigidly (`resampling.registered`), not refused.
    """

    suv: SuvKind = "BW"
    scaled_by: Scaling = "rescale"
    slices: bool = False
    onto: str = ""
    register: bool = False


@dataclass(frozen=True)
class Row:
    """One line of the report.

    status: "split" is a volume that is one of several of its series; split_by says by which attributes and values.
    image: path in the output folder, "" where there is none. file: what could not be read, where no series is known.
    why: of what is refused or left aside. details: shape, spacing_mm, units, contrast, evidence, ... where they apply.
    """

    status: Status
    series_uid: str
    modality: str = ""
    description: str = ""
    part: str = ""
    image: str = ""
    why: str = ""
    file: str = ""
    split_by: tuple[tuple[str, str], ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """rows: of all series, in order of their UIDs. resumed: series that were there already."""

    rows: tuple[Row, ...]
    resumed: int

    def count(self, status: Status) -> int:
        return sum(row.status == status for row in self.rows)


@dataclass(frozen=True)
class _Job:
    """One series to convert, and the objects whose masks refer to it."""

    series_uid: str
    files: tuple[Path, ...]
    masks: tuple[Path, ...]
    fingerprint: str


@dataclass(frozen=True)
class Survey:
    """files: Series Instance UID -> its files. masks: files of SEG and RTSTRUCT objects. left_aside: file, sentence."""

    files: Mapping[str, tuple[Path, ...]]
    masks: tuple[Path, ...]
    left_aside: tuple[tuple[Path, str], ...]


def survey(paths: Iterable[Path]) -> Survey:
    """Which series lie in files and folders; only headers are walked. Raises Rejected where a path does not exist."""
    by_series = defaultdict[str, list[Path]](list)
    masks: list[Path] = []
    left_aside: list[tuple[Path, str]] = []
    for path in series.files_below(paths):
        try:
            found = _identity(path)
        except Rejected as error:
            left_aside.append((path, str(error)))
            continue
        if found.get("modality") in _MASKS:
            masks.append(path)
        else:
            by_series[found.get("series", "")].append(path)
    return Survey({uid: tuple(files) for uid, files in sorted(by_series.items())}, tuple(masks), tuple(left_aside))


def _identity(path: Path) -> dict[str, str]:
    if path.stat().st_size == 0:
        raise Rejected(f"{path.name} is empty; send the whole file")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        found = dataset.layout(mapped, path.name)
        return {
            _TAGS[place.tag]: bytes(found.raw[place.start : place.end]).decode("ascii", "replace").strip("\0 ")
            for place in found.places
            if place.tag in _TAGS
        }


def convert(
    paths: Iterable[Path],
    out: Path,
    options: Options = Options(),
    *,
    processes: int = 1,
    progress: Progress = lambda done, total: None,
) -> Report:
    """Convert every series that can be; what cannot is a row with its reason, and stops nothing else.

    processes: how many series at a time, each in a process of its own. progress: (series done, series in all).

    Raises:
        Rejected: a path does not exist, `options.onto` is none of the series, or a process was killed.
    """
    found = survey(paths)
    if options.onto and options.onto not in found.files:
        raise Rejected(
            f"series {options.onto} is not among the {len(found.files)} series that were found; name one of them"
        )
    target = found.files.get(options.onto, ())
    jobs = _jobs(found, options)
    (out / ".done").mkdir(parents=True, exist_ok=True)
    waiting = [job for job in jobs if _done(out, job) is None]
    progress(len(jobs) - len(waiting), len(jobs))
    for number, _ in enumerate(_converted(waiting, out, options, target, processes), start=1):
        progress(len(jobs) - len(waiting) + number, len(jobs))
    report = Report((*_all_rows(out), *_aside(found)), len(jobs) - len(waiting))
    _write_lists(out, report)
    return report


def _all_rows(out: Path) -> list[Row]:
    """Of all series that were ever converted into this folder."""
    rows = [row for path in (out / ".done").glob("*.json") for row in _rows(path)]
    return sorted(rows, key=lambda row: (row.series_uid, row.image))


def _aside(found: Survey) -> list[Row]:
    return [Row("left aside", "", file=str(path), why=sentence) for path, sentence in found.left_aside]


def _jobs(found: Survey, options: Options) -> list[_Job]:
    of_series = defaultdict[str, list[Path]](list)
    for path in found.masks:
        for uid in _referred(dataset.read(path, stop_before_pixels=True)):
            of_series[uid].append(path)
    return [
        _Job(uid, files, tuple(of_series[uid]), _fingerprint((*files, *of_series[uid]), options))
        for uid, files in found.files.items()
    ]


def _referred(ds: Dataset) -> set[str]:
    """Series Instance UIDs of the images that a SEG or an RTSTRUCT is about."""
    referenced = {str(item.get("SeriesInstanceUID", "")) for item in ds.get("ReferencedSeriesSequence") or ()}
    for frame in ds.get("ReferencedFrameOfReferenceSequence") or ():
        for study in frame.get("RTReferencedStudySequence") or ():
            referenced |= {
                str(item.get("SeriesInstanceUID", "")) for item in study.get("RTReferencedSeriesSequence") or ()
            }
    return referenced


def _fingerprint(files: Sequence[Path], options: Options) -> str:
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(json.dumps([_FORM, asdict(options), sorted(stats)]).encode()).hexdigest()


def _converted(
    jobs: Sequence[_Job], out: Path, options: Options, target: tuple[Path, ...], processes: int
) -> Iterable[None]:
    if processes == 1 or len(jobs) < 2:
        for job in jobs:
            _convert_one(job, out, options, target)
            yield
        return
    with ProcessPoolExecutor(min(processes, len(jobs)), mp_context=get_context("spawn")) as pool:
        # The largest first: at the end no process waits long for another one's.
        ordered = sorted(jobs, key=lambda job: -sum(path.stat().st_size for path in job.files))
        pending = [pool.submit(_convert_one, job, out, options, target) for job in ordered]
        try:
            for future in as_completed(pending):
                future.result()
                yield
        except BrokenProcessPool as error:
            raise Rejected(
                f"a process that converted was killed, perhaps for its memory, with {processes} at a time; run it "
                "again with fewer --processes, what is done is kept"
            ) from error
        finally:
            for future in pending:
                future.cancel()


# --- one series ---------------------------------------------------------------------------------------------------


def _convert_one(job: _Job, out: Path, options: Options, target: tuple[Path, ...]) -> None:
    for row in _rows(_done_path(out, job.series_uid)):
        _remove(out, row)  # of an earlier run with other files or options
    readout = series.volumes(job.files, suv=options.suv, scaled_by=options.scaled_by)
    rows: list[Row] = []
    grid = _target(target, options) if target and job.series_uid != options.onto else None
    for number, one in enumerate(readout.volumes, start=1):
        name = _name(one.modality, job.series_uid, number if len(readout.volumes) > 1 else 0)
        rows += _volume_rows(one, name, job, out, options, grid, several=len(readout.volumes) > 1)
    for number, projected in enumerate(readout.projections, start=1):
        name = _name(projected.modality, job.series_uid, number if len(readout.projections) > 1 else 0)
        rows.append(_projection_row(projected, name, out))
    rows += [Row("refused", uid, why=why) for uid, why in readout.refused]
    rows += [Row("left aside", job.series_uid, why=why) for why in readout.left_aside]
    document = {"fingerprint": job.fingerprint, "rows": [asdict(row) for row in rows]}
    _write(_done_path(out, job.series_uid), json.dumps(document, indent=1) + "\n")


def _target(files: tuple[Path, ...], options: Options) -> Volume:
    readout = series.volumes(files, suv=options.suv, scaled_by=options.scaled_by)
    if len(readout.volumes) != 1:
        why = "; ".join(sentence for _, sentence in readout.refused) or f"{len(readout.volumes)} volumes"
        raise Rejected(f"series {options.onto} must be one volume for others to come onto its grid, and it is {why}")
    return readout.volumes[0].volume


def _volume_rows(
    one: SeriesVolume, name: str, job: _Job, out: Path, options: Options, grid: Volume | None, *, several: bool
) -> list[Row]:
    details: dict[str, Any] = {"contrast": one.contrast, "evidence": one.evidence, "scaling": one.scaling}
    volume = one.volume
    if grid is not None:
        try:
            volume, moved = _onto(volume, grid, options)
        except Rejected as error:
            return [Row("refused", one.series_uid, one.modality, one.description, one.part, why=str(error))]
        details |= moved
    path = f"volumes/{name}.nii.gz"
    nifti.write(volume, out / path)
    if options.slices:
        details["slices"] = f"slices/{name}.npy"
        _write_array(volume, out / details["slices"])
    details |= {
        "shape": list(volume.spatial_shape),
        "spacing_mm": [round(step, 6) for step in volume.spacing_mm],
        "units": volume.units,
        "study_uid": one.study_uid,
        "synthetic": one.volume.is_synthetic,
    }
    row = Row(
        "split" if several else "converted",
        *(one.series_uid, one.modality, one.description, one.part, path),
        split_by=one.split_by,
        details=details,
    )
    return [row, *(mask for path in job.masks for mask in _mask_rows(path, one, volume, name, out))]


def _onto(volume: Volume, grid: Volume, options: Options) -> tuple[Volume, dict[str, Any]]:
    if options.register and volume.frame_of_reference_uid != grid.frame_of_reference_uid:
        found = resampling.registered(resampling.upright(volume), grid)
        return found.volume, {
            "registered_onto": options.onto,
            "transform_lps_mm": found.transform.tolist(),
            "mutual_information": [found.similarity_before, found.similarity],
        }
    return resampling.onto(volume, grid), {"resampled_onto": options.onto}


def _projection_row(one: SeriesProjection, name: str, out: Path) -> Row:
    path = f"projections/{name}.nii.gz"
    nifti.write_projection(one.projection, out / path)
    details = {
        "shape": list(one.projection.pixels.shape),
        "spacing_mm": one.projection.spacing_mm,
        "spacing_of": one.projection.spacing_of,
        "laterality": one.projection.laterality,
        "view": one.projection.view,
        "units": one.projection.units,
        "study_uid": one.study_uid,
        "synthetic": one.projection.is_synthetic,
    }
    return Row("converted", one.series_uid, one.modality, one.description, image=path, details=details)


def _mask_rows(path: Path, one: SeriesVolume, volume: Volume, name: str, out: Path) -> list[Row]:
    """Each segment or region on the volume's grid; of a whole object that cannot be placed, one sentence."""
    rows: list[Row] = []
    try:
        ds = dataset.read(path)
        for label, mask in _masks(ds, volume):
            image = f"masks/{name}_{_slug(label)}.nii.gz"
            if any(row.image == image for row in rows) or (out / image).exists():
                image = f"masks/{name}_{_slug(label)}-{_digest(f'{ds.SOPInstanceUID} {label} {len(rows)}')}.nii.gz"
            nifti.write(mask, out / image)
            details = {"of": f"volumes/{name}.nii.gz", "label": label, "voxels": int(np.count_nonzero(mask.voxels))}
            rows.append(Row("mask", one.series_uid, str(ds.Modality), label, one.part, image, details=details))
    except Rejected as error:
        rows.append(Row("refused", one.series_uid, "mask", part=one.part, why=str(error)))
    return rows


def _masks(ds: Dataset, volume: Volume) -> Iterable[tuple[str, Volume]]:
    if ds.Modality == "SEG":
        from dicom_io import segmentation  # it imports highdicom, which takes longer than most series

        labels = {segment.number: segment.label for segment in segmentation.segments_of(ds)}
        for number, mask in segmentation.read_segments(ds, volume).items():
            yield labels.get(number, str(number)), mask
    else:
        for name in structure_set.roi_names(ds):
            yield name, structure_set.mask(ds, name, volume)


def _write_array(volume: Volume, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}")
    with scratch.open("wb") as file:
        np.save(file, volume.voxels)
    scratch.replace(path)


# --- names and lists ----------------------------------------------------------------------------------------------


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _name(modality: str, series_uid: str, number: int) -> str:
    return "_".join(filter(None, [modality or "OT", _digest(series_uid), f"{number:03d}" if number else ""]))


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")[:40] or "mask"


def _done_path(out: Path, series_uid: str) -> Path:
    return out / ".done" / f"{_digest(series_uid)}.json"


def _done(out: Path, job: _Job) -> dict[str, Any] | None:
    """What an earlier run noted of this series, if the same would be written again and all of it is still there."""
    path = _done_path(out, job.series_uid)
    document: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    if document.get("fingerprint") != job.fingerprint:
        return None
    return document if all((out / row.image).is_file() for row in _rows(path) if row.image) else None


def _rows(path: Path) -> list[Row]:
    if not path.is_file():
        return []
    noted = json.loads(path.read_text())["rows"]
    return [Row(**row | {"split_by": tuple(map(tuple, row["split_by"]))}) for row in noted]


def _remove(out: Path, row: Row) -> None:
    for relative in filter(None, (row.image, str(row.details.get("slices", "")))):
        (out / relative).unlink(missing_ok=True)
        (out / relative.replace(".nii.gz", ".json")).unlink(missing_ok=True)


def _write_lists(out: Path, report: Report) -> None:
    masks = defaultdict[str, dict[str, str]](dict)
    for row in report.rows:
        if row.status == "mask":
            masks[row.details["of"]][row.description] = row.image
    entries = [
        {"image": row.image, "series_uid": row.series_uid, "modality": row.modality, "part": row.part, **row.details}
        | ({"masks": masks[row.image]} if row.image in masks else {})
        for row in report.rows
        if row.status in ("converted", "split")
    ]
    _write(out / "datalist.json", json.dumps({"kind": "converted", "training": entries}, indent=1) + "\n")
    rows = [asdict(row) for row in report.rows]
    _write(out / "report.json", json.dumps(rows, indent=1) + "\n")


def _write(path: Path, text: str) -> None:
    """Whole or not at all."""
    scratch = path.with_name(f".{path.name}.part")
    scratch.write_text(text)
    scratch.replace(path)
