"""Folders of DICOM into volumes, projections, masks and slices as files, series by series.

    out/
      volumes/NAME.nii.gz, NAME.json       one for each volume of a series (`dicom_io.nifti`)
      projections/NAME.nii.gz, NAME.json   mammograms
      masks/NAME_LABEL.nii.gz, .json       segments (SEG) and regions (RTSTRUCT) of the volume, on its grid
      slices/NAME.npy                      where asked for: (slices, rows, columns) float32, for np.load(mmap_mode="r")
      datalist.json                        MONAI's data-list form: {"training": [{"image": ..., ...}, ...]}, unsplit
      report.json                          what was converted, split, refused and left aside, and why
      .done/SERIES.json                    what is there already; a run that was stopped goes on after these

NAME is modality and a digest of the Series Instance UID. Sidecars hold the UIDs of the sources. What people wrote into
Series Description and names of regions stands in report and file names as it is. A series is converted anew when its
files or the options have changed.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import multiprocessing
import os
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing import forkserver
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dicom_io import dataset, nifti, resampling, series, structure_set
from dicom_io.errors import Rejected
from dicom_io.pet import SuvKind
from dicom_io.scaling import Scaling
from dicom_io.series import SeriesProjection, SeriesVolume, unforeseen
from dicom_io.volume import Float64, Volume

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

Status = Literal["converted", "split", "mask", "refused", "left aside"]
Progress = Callable[[int, int], None]
# Changes whenever the same files would be written otherwise.
_FORM = 2
_MASKS = ("SEG", "RTSTRUCT")
_DIRECTORY_RECORDS = 0x00041220
_TAGS = {0x00080060: "modality", 0x0020000E: "series", 0x00200052: "frame_of_reference"}
_FOLDERS = ("volumes", "projections", "masks", "slices")
# Of a volume, where there is none after resampling: air in Hounsfield units, else nothing.
_OUTSIDE = {"[hnsf'U]": -1024.0}


@dataclass(frozen=True)
class Options:
    """suv, scaled_by: as in `series.volumes`. slices: write memory-mapped arrays, too.

    onto: Series Instance UID of the volume whose grid all others are resampled to; "" for none. register: those in
    another frame of reference are registered rigidly (`resampling.registered`), not refused. upright: volumes of a
    tilted gantry are resampled to right angles, without which many readers of NIfTI refuse them.
    """

    suv: SuvKind = "BW"
    scaled_by: Scaling = "rescale"
    slices: bool = False
    onto: str = ""
    register: bool = False
    upright: bool = False

    @property
    def of_values(self) -> dict[str, Any]:
        """What makes the numbers, and must be one thing in a folder."""
        return {name: value for name, value in asdict(self).items() if name != "slices"}


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
    """rows: of the series of this run, in order of their UIDs. resumed: series that were there already."""

    rows: tuple[Row, ...]
    resumed: int

    def count(self, status: Status) -> int:
        return sum(row.status == status for row in self.rows)


@dataclass(frozen=True)
class _Job:
    """One series to convert, and the files of objects whose masks may lie on it."""

    series_uid: str
    files: tuple[Path, ...]
    masks: tuple[Path, ...]
    fingerprint: str


@dataclass(frozen=True)
class Survey:
    """files: Series Instance UID -> its files. frames_of_reference: Series Instance UID -> UIDs (0020,0052).

    masks: files of SEG and RTSTRUCT objects. left_aside: (file, sentence).
    """

    files: Mapping[str, tuple[Path, ...]]
    frames_of_reference: Mapping[str, frozenset[str]]
    masks: tuple[Path, ...]
    left_aside: tuple[tuple[Path, str], ...]


def survey(paths: Iterable[Path], *, but_not: Path | None = None) -> Survey:
    """Which series lie in files and folders; only headers are walked. but_not: a folder that is passed over.

    Raises:
        Rejected: a path does not exist.
    """
    by_series = defaultdict[str, list[Path]](list)
    frames = defaultdict[str, set[str]](set)
    masks: list[Path] = []
    left_aside: list[tuple[Path, str]] = []
    own = but_not.resolve() if but_not is not None and but_not.exists() else None
    for path in series.files_below(paths):
        if own is not None and path.resolve().is_relative_to(own):
            continue
        try:
            found = _identity(path)
        except Rejected as error:
            left_aside.append((path, str(error)))
        except OSError as error:
            left_aside.append((path, f"{path.name} cannot be read ({error.strerror}); give the right to read it"))
        except RecursionError:
            left_aside.append(
                (path, f"{path.name} has sequences that are nested too deep to be read; send another one")
            )
        else:
            if found["modality"] in _MASKS:
                masks.append(path)
            else:
                by_series[found["series"]].append(path)
                frames[found["series"]].add(found.get("frame_of_reference", ""))
    return Survey(
        files={uid: tuple(files) for uid, files in sorted(by_series.items())},
        frames_of_reference={uid: frozenset(found) for uid, found in frames.items()},
        masks=tuple(masks),
        left_aside=tuple(left_aside),
    )


def _identity(path: Path) -> dict[str, str]:
    """Modality, series and frame of reference; Rejected where there is no series."""
    if path.stat().st_size == 0:
        raise Rejected(f"{path.name} is empty; send the whole file")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        laid_out = dataset.layout(mapped, path.name)
        found = {
            _TAGS[place.tag]: bytes(laid_out.raw[place.start : place.end]).decode("ascii", "replace").strip("\0 ")
            for place in laid_out.places
            if place.tag in _TAGS
        }
        is_index = any(place.tag == _DIRECTORY_RECORDS for place in laid_out.places)
    if is_index:
        raise Rejected(f"{path.name} is a DICOMDIR, an index of other files; they are read by themselves")
    if not found.get("series"):
        raise Rejected(f"{path.name} has no SeriesInstanceUID (0020,000E), so it belongs to no series; add it")
    return {"modality": ""} | found


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
        Rejected: a path does not exist; `options.onto` is none of the series, or not one volume; `out` holds series
            that were converted with other options, or is being written to; or a process was killed.
    """
    context = _context() if processes > 1 else None
    found = survey(paths, but_not=out)
    if options.onto and options.onto not in found.files:
        raise Rejected(
            f"series {options.onto} is not among the {len(found.files)} series that were found; name one of them"
        )
    target = found.files[options.onto] if options.onto else ()
    if target:
        _target(target, options)
    jobs, unused = _jobs(found, options, target)
    (out / ".done").mkdir(parents=True, exist_ok=True)
    with _alone(out):
        _require_same_options(out, options, {job.series_uid for job in jobs})
        waiting = [job for job in jobs if not _is_done(out, job)]
        already = len(jobs) - len(waiting)
        progress(already, len(jobs))
        for number, _ in enumerate(_converted(waiting, out, options, target, processes, context), start=1):
            progress(already + number, len(jobs))
        rows = [row for job in jobs for row in _rows(_done_path(out, job.series_uid))]
        rows.sort(key=lambda row: (row.series_uid, row.image))
        report = Report((*rows, *unused, *_aside(found)), already)
        _write_lists(out, report)
    return report


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Nobody else writes to the folder meanwhile; where a system has no such locks, the user sees to that."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with (out / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Rejected(f"{out} is being written to by another run; wait for it, or give another folder") from None
        yield


def _require_same_options(out: Path, options: Options, now: set[str]) -> None:
    """What stays in the folder and what comes must be comparable."""
    for path in (out / ".done").glob("*.json"):
        document = _noted(path)
        if document and document["series"] not in now and document["options"] != options.of_values:
            other = {key: value for key, value in document["options"].items() if value != options.of_values.get(key)}
            raise Rejected(
                f"{out} holds series that were converted with {other}; give a new folder, or the same options"
            )


def _aside(found: Survey) -> list[Row]:
    return [Row("left aside", "", file=_printable(path), why=sentence) for path, sentence in found.left_aside]


def _printable(path: Path) -> str:
    """A name in other than UTF-8 is told with its bytes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _jobs(found: Survey, options: Options, target: tuple[Path, ...]) -> tuple[list[_Job], list[Row]]:
    """The jobs, and a row for each SEG and RTSTRUCT that belongs to none of the series."""
    of_series = defaultdict[str, list[Path]](list)
    unused: list[Row] = []
    known: set[str] = set()
    for path in found.masks:
        try:
            ds = dataset.read(path, stop_before_pixels=True)
            if str(ds.SOPInstanceUID) in known:
                continue  # the same object in two folders
            known.add(str(ds.SOPInstanceUID))
            owners, named = _owners(ds, found)
        except Rejected as error:
            unused.append(Row("refused", "", file=_printable(path), why=str(error)))
        except Exception as error:
            unused.append(Row("refused", "", file=_printable(path), why=f"{path.name} {unforeseen(error)}"))
        else:
            for uid in owners:
                of_series[uid].append(path)
            if not owners:
                why = f"{ds.Modality} {ds.SOPInstanceUID} refers to {named}, of which nothing is here; give it, too"
                unused.append(Row("left aside", str(ds.get("SeriesInstanceUID", "")), str(ds.Modality), why=why))
    jobs = [
        _Job(uid, files, tuple(of_series[uid]), _fingerprint((*files, *of_series[uid], *target), options))
        for uid, files in found.files.items()
    ]
    return jobs, unused


def _owners(ds: Dataset, found: Survey) -> tuple[list[str], str]:
    """Series that a SEG or RTSTRUCT may lie on: those it names, or, where it names none, those of its frame of
    reference. And in words what it names."""
    named = {str(item.get("SeriesInstanceUID", "")) for item in ds.get("ReferencedSeriesSequence") or ()}
    frames = {str(ds.get("FrameOfReferenceUID") or "")}
    for frame in ds.get("ReferencedFrameOfReferenceSequence") or ():
        frames.add(str(frame.get("FrameOfReferenceUID") or ""))
        for study in frame.get("RTReferencedStudySequence") or ():
            named |= {str(item.get("SeriesInstanceUID", "")) for item in study.get("RTReferencedSeriesSequence") or ()}
    named.discard("")
    frames.discard("")
    if named:
        return sorted(named & found.files.keys()), f"series {' and '.join(sorted(named))}"
    inside = [uid for uid, others in found.frames_of_reference.items() if frames & others]
    return sorted(inside), f"frame of reference {' and '.join(sorted(frames)) or 'none'}"


def _fingerprint(files: Sequence[Path], options: Options) -> str:
    stats = [(_printable(Path(path.name)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(json.dumps([_FORM, asdict(options), sorted(stats)]).encode()).hexdigest()


def _converted(
    jobs: Sequence[_Job], out: Path, options: Options, target: tuple[Path, ...], processes: int, context: Any
) -> Iterator[None]:
    if context is None or len(jobs) < 2:
        for job in jobs:
            _convert_one(job, out, options, target)
            yield
        return
    with ProcessPoolExecutor(min(processes, len(jobs)), mp_context=context, initializer=_end_with_parent) as pool:
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


def _context() -> Any:
    """Processes that start without this one's threads; where the system can, from one that has imported all of this."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", __name__])
    forkserver.ensure_running()  # it imports while we look at headers
    return context


def _end_with_parent() -> None:
    """A process whose parent was killed must not go on writing where the next run writes."""

    def wait() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


# --- one series ---------------------------------------------------------------------------------------------------


def _convert_one(job: _Job, out: Path, options: Options, target: tuple[Path, ...]) -> None:
    for folder in _FOLDERS:  # of an earlier run, be it that it was stopped or had other files or options
        for path in (out / folder).glob(f"*_{_digest(job.series_uid)}*"):
            path.unlink()
    try:
        rows = _all_rows(job, out, options, target)
    except OSError:
        raise  # no room, no right: of the folder, not of the series
    except Exception as error:
        rows = [Row("refused", job.series_uid, why=f"series {job.series_uid} {unforeseen(error)}")]
    _write(
        _done_path(out, job.series_uid),
        {
            "series": job.series_uid,
            "fingerprint": job.fingerprint,
            "options": options.of_values,
            "rows": [asdict(row) for row in rows],
        },
    )


def _all_rows(job: _Job, out: Path, options: Options, target: tuple[Path, ...]) -> list[Row]:
    readout = series.volumes(job.files, suv=options.suv, scaled_by=options.scaled_by)
    grid = _target(target, options) if target and job.series_uid != options.onto else None
    rows: list[Row] = []
    for number, one in enumerate(readout.volumes, start=1):
        name = _name(one.modality, job.series_uid, number if len(readout.volumes) > 1 else 0)
        rows += _volume_rows(one, name, job, out, options, grid)
    for number, projected in enumerate(readout.projections, start=1):
        name = _name(projected.modality, job.series_uid, number if len(readout.projections) > 1 else 0)
        rows.append(_projection_row(projected, name, out))
    rows += [Row("refused", uid, why=why) for uid, why in readout.refused]
    rows += [Row("left aside", job.series_uid, why=why) for why in readout.left_aside]
    if job.masks and not readout.volumes:
        why = f"the volume that {len(job.masks)} SEG or RTSTRUCT objects lie on was not converted; see its reason"
        rows.append(Row("refused", job.series_uid, "mask", why=why))
    return rows


def _target(files: tuple[Path, ...], options: Options) -> Volume:
    readout = series.volumes(files, suv=options.suv, scaled_by=options.scaled_by)
    if len(readout.volumes) != 1:
        why = "; ".join(sentence for _, sentence in readout.refused) or f"it is {len(readout.volumes)} volumes"
        raise Rejected(
            f"series {options.onto} must be one volume for others to come onto its grid ({why}); name another"
        )
    volume = readout.volumes[0].volume
    return resampling.upright(volume, outside=_outside(volume)) if options.upright else volume


def _outside(volume: Volume) -> float:
    return _OUTSIDE.get(volume.units, 0.0)


@dataclass(frozen=True, eq=False)
class _Move:
    """How a volume, and what lies on it, came onto the grid that it is written on; neither where it stayed."""

    grid: Volume | None = None
    transform: Float64 | None = None

    def __call__(self, volume: Volume, interpolation: resampling.Interpolation, outside: float) -> Volume:
        if self.grid is None:
            return volume
        transform = np.eye(4) if self.transform is None else self.transform
        return resampling.moved(volume, self.grid, transform, interpolation, outside)


def _volume_rows(
    one: SeriesVolume, name: str, job: _Job, out: Path, options: Options, grid: Volume | None
) -> list[Row]:
    details: dict[str, Any] = {"contrast": one.contrast, "evidence": one.evidence, "scaling": one.scaling}
    try:
        move, how = _move(one.volume, grid, options)
    except Rejected as error:
        return [Row("refused", one.series_uid, one.modality, one.description, one.part, why=str(error))]
    volume = move(one.volume, "linear", _outside(one.volume))
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
        "synthetic": volume.is_synthetic,
        "sheared": resampling.is_sheared(volume),
    }
    row = Row(
        "split" if one.part else "converted",
        *(one.series_uid, one.modality, one.description, one.part, path),
        split_by=one.split_by,
        details=details | how,
    )
    return [row, *_mask_rows(job.masks, one, move, name, out)]


def _move(volume: Volume, grid: Volume | None, options: Options) -> tuple[_Move, dict[str, Any]]:
    """How the volume comes onto the grid, and what is to be told of it."""
    outside = {"outside": _outside(volume)}
    if grid is None:
        if not options.upright or not resampling.is_sheared(volume):
            return _Move(), {}
        return _Move(resampling.upright(volume)), {"made_upright": True} | outside
    if options.register and volume.frame_of_reference_uid != grid.frame_of_reference_uid:
        found = resampling.registered(volume, grid)
        return _Move(grid, found.transform), {
            "registered_onto": options.onto,
            "transform_lps_mm": found.transform.tolist(),
            "mutual_information": [found.similarity_before, found.similarity],
        } | outside
    resampling.require_one_frame_of_reference(volume, grid)
    return _Move(grid), {"resampled_onto": options.onto} | outside


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


# --- masks --------------------------------------------------------------------------------------------------------


def _mask_rows(paths: Sequence[Path], one: SeriesVolume, move: _Move, name: str, out: Path) -> list[Row]:
    """Each segment or region on the grid of the volume; one that cannot be placed is a row and stops no other."""
    rows: list[Row] = []
    taken: set[str] = set()
    for path in paths:
        with _told(rows, one, path.name):
            ds = dataset.read(path)
            for label, mask_of in _masks(ds, one.volume):
                with _told(rows, one, f"{ds.Modality} {ds.SOPInstanceUID}, {label!r}"):
                    mask = move(mask_of(), "nearest", 0.0)
                    image = _unused(f"masks/{name}_{_slug(label)}", taken)
                    nifti.write(mask, out / image)
                    voxels = int(np.count_nonzero(mask.voxels))
                    details = {"of": f"volumes/{name}.nii.gz", "label": label, "voxels": voxels}
                    details |= {"object": str(ds.SOPInstanceUID)}
                    rows.append(Row("mask", one.series_uid, str(ds.Modality), label, one.part, image, details=details))
    return rows


@contextmanager
def _told(rows: list[Row], one: SeriesVolume, what: str) -> Iterator[None]:
    try:
        yield
    except Rejected as error:
        rows.append(Row("refused", one.series_uid, "mask", part=one.part, why=str(error)))
    except OSError:
        raise
    except Exception as error:
        rows.append(Row("refused", one.series_uid, "mask", part=one.part, why=f"{what} {unforeseen(error)}"))


def _unused(stem: str, taken: set[str]) -> str:
    """A path that no other mask of this volume has."""
    image, number = f"{stem}.nii.gz", 1
    while image.lower() in taken:
        number += 1
        image = f"{stem}-{number}.nii.gz"
    taken.add(image.lower())
    return image


def _masks(ds: Dataset, volume: Volume) -> Iterator[tuple[str, Callable[[], Volume]]]:
    """(label, how to draw it) of each segment or region."""
    if ds.Modality == "SEG":
        from dicom_io import segmentation  # it imports highdicom, which takes longer than most series

        labels = {segment.number: segment.label for segment in segmentation.segments_of(ds)}
        for number, mask in segmentation.read_segments(ds, volume).items():
            yield labels.get(number, str(number)), lambda mask=mask: mask  # type: ignore[misc]
    else:
        for number, label in structure_set.regions(ds):
            yield label, lambda number=number: structure_set.mask(ds, number, volume)  # type: ignore[misc]


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


def _noted(path: Path) -> dict[str, Any]:
    """What was noted of a series; nothing where it was not noted whole."""
    try:
        document: dict[str, Any] = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return document if {"series", "fingerprint", "options", "rows"} <= document.keys() else {}


def _is_done(out: Path, job: _Job) -> bool:
    """Whether an earlier run made what this one would, and all of it is still there."""
    path = _done_path(out, job.series_uid)
    if _noted(path).get("fingerprint") != job.fingerprint:
        return False
    made = [relative for row in _rows(path) for relative in (row.image, str(row.details.get("slices", "")))]
    return all((out / relative).is_file() for relative in filter(None, made))


def _rows(path: Path) -> list[Row]:
    noted = _noted(path).get("rows", [])
    return [Row(**row | {"split_by": tuple(map(tuple, row["split_by"]))}) for row in noted]


def _write_lists(out: Path, report: Report) -> None:
    """The data list is of all that the folder holds, the report of this run."""
    held = [row for path in (out / ".done").glob("*.json") for row in _rows(path)]
    held.sort(key=lambda row: (row.series_uid, row.image))
    masks = defaultdict[str, list[dict[str, str]]](list)
    for row in held:
        if row.status == "mask":
            masks[row.details["of"]].append({"label": row.description, "image": row.image})
    entries = [
        {"image": row.image, "series_uid": row.series_uid, "modality": row.modality, "part": row.part, **row.details}
        | ({"masks": masks[row.image]} if row.image in masks else {})
        for row in held
        if row.status in ("converted", "split")
    ]
    _write(out / "datalist.json", {"kind": "converted", "training": entries})
    _write(out / "report.json", [asdict(row) for row in report.rows])


def _write(path: Path, document: Any) -> None:
    """Whole or not at all, also after a power cut."""
    scratch = path.with_name(f".{path.name}.part")
    with scratch.open("w", encoding="utf-8") as file:
        file.write(json.dumps(document, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)
