"""`mirall deidentify`: DICOM files under the Basic Confidentiality Profile of PS3.15."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dicom_io.errors import Rejected

if TYPE_CHECKING:
    from dicom_io.confidentiality.faces import Search
    from dicom_io.confidentiality.profile import Option
    from dicom_io.deidentify import Policy, Report


class Retained(StrEnum):
    UIDS = "uids"
    DEVICE = "device"
    INSTITUTION = "institution"
    PATIENT = "patient"
    PRIVATE = "private"


class Cleaned(StrEnum):
    DESCRIPTORS = "descriptors"
    GRAPHICS = "graphics"
    STRUCTURED_CONTENT = "structured-content"


def register(app: typer.Typer) -> None:
    app.command("deidentify")(deidentify)


def deidentify(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="DICOM files or folders.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the new files, named by their new UIDs.")],
    retain_dates: Annotated[
        Literal["modified", "full"] | None,
        typer.Option("--retain-dates", help="Keep dates, moved by days of the patient's own, or as they are."),
    ] = None,
    retain: Annotated[
        list[Retained] | None, typer.Option("--retain", help="What else is kept; may be given several times.")
    ] = None,
    clean: Annotated[
        list[Cleaned] | None,
        typer.Option("--clean", help="What is cleaned and not removed; may be given several times."),
    ] = None,
    burned_in: Annotated[
        Literal["refuse", "blank"], typer.Option("--burned-in", help="What to do about text in pixels.")
    ] = "refuse",
    faces: Annotated[
        Literal["keep", "remove"],
        typer.Option("--faces", help="What to do about faces in MR, CT and PET; give whole series to remove them."),
    ] = "keep",
    shift_days: Annotated[
        int, typer.Option("--shift-days", min=1, help="Moved dates go back by 1 to this many days.")
    ] = 3650,
    key: Annotated[
        Path | None, typer.Option("--key", help="File of the key, made if it is missing; else the data folder's.")
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", help="mirall.toml; else the one in this folder.")] = None,
    report: Annotated[
        Path | None, typer.Option("--report", help="File for what was done to each object, JSON.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Files without what identifies the patient, by the Basic Profile of PS3.15 Annex E and its options.

    A file that cannot be de-identified is refused with a sentence, the others are written, and the exit code is 1.
    Whoever holds the key can tell which patient is which: keep it, and keep it from those who get the files. Sentences
    and --report name the old files, and are not for those either.

    Example: mirall deidentify study/ --out shared/ --retain-dates modified --clean descriptors
    """
    from dicom_io.deidentify import Policy
    from dicom_io.pseudonym import site_key
    from plugin import settings

    policy = Policy(
        key=site_key(key or settings.load(config).data / "cohort.key"),
        options=_options(retain_dates, retain or (), clean or ()),
        shift_days=shift_days,
        on_burned_in=burned_in,
    )
    files = _files(paths, out)
    out.mkdir(parents=True, exist_ok=True)
    outcome = _run(files, out, policy, _search(files) if faces == "remove" else None)
    if report is not None:
        report.write_text(json.dumps(outcome.in_full(), indent=1), encoding="utf-8")
    _print(outcome, out, as_json)
    if outcome.refused:
        raise typer.Exit(1)


@dataclass
class _Outcome:
    """written: (file, report) of each object; refused: (file, sentence)."""

    written: list[tuple[Path, Report]] = field(default_factory=list)
    refused: list[tuple[Path, str]] = field(default_factory=list)

    def faces(self) -> Counter[str]:
        """How many objects had a face to be removed, and how many show no head; empty where none was looked for."""
        return Counter(report.face for _, report in self.written if report.face != "kept")

    def in_full(self) -> dict[str, Any]:
        return {
            "written": [{"from": str(path)} | asdict(report) for path, report in self.written],
            "refused": [{"from": str(path), "why": why} for path, why in self.refused],
        }

    def in_short(self, out: Path) -> dict[str, Any]:
        return {
            "out": str(out),
            "written": [f"{report.sop_instance_uid}.dcm" for _, report in self.written],
            "refused": [{"file": str(path), "why": why} for path, why in self.refused],
        }


def _options(dates: str | None, retained: Iterable[str], cleaned: Iterable[str]) -> frozenset[Option]:
    from dicom_io.confidentiality.profile import Option

    named = {
        "modified": Option.RETAIN_MODIFIED_DATES,
        "full": Option.RETAIN_FULL_DATES,
        "uids": Option.RETAIN_UIDS,
        "device": Option.RETAIN_DEVICE_IDENTITY,
        "institution": Option.RETAIN_INSTITUTION_IDENTITY,
        "patient": Option.RETAIN_PATIENT_CHARACTERISTICS,
        "private": Option.RETAIN_SAFE_PRIVATE,
        "descriptors": Option.CLEAN_DESCRIPTORS,
        "graphics": Option.CLEAN_GRAPHICS,
        "structured-content": Option.CLEAN_STRUCTURED_CONTENT,
    }
    return frozenset(named[name] for name in (*([dates] if dates else ()), *retained, *cleaned))


def _files(paths: Iterable[Path], out: Path) -> list[Path]:
    from dicom_io.series import files_below

    files = files_below(paths)
    if not files:
        raise Rejected("there is no file in what was given; name DICOM files or folders that hold some")
    if any(out.resolve() in file.resolve().parents for file in files):
        raise Rejected(f"{out} holds files that are to be de-identified; give another folder for the new ones")
    return files


def _search(files: Iterable[Path]) -> Search:
    from dicom_io.confidentiality import faces

    return faces.search(files)


def _run(files: list[Path], out: Path, policy: Policy, faces: Search | None) -> _Outcome:
    from plugin.cli.progress import ProgressBar

    outcome = _Outcome()
    with ProgressBar() as bar:
        for done, (path, result) in enumerate(_each(files, out, policy, faces), 1):
            if isinstance(result, str):
                outcome.refused.append((path, result))
            else:
                outcome.written.append((path, result))
            bar({"stage": "de-identifying", "done": done, "total": len(files)})
    return outcome


def _each(
    files: Iterable[Path], out: Path, policy: Policy, faces: Search | None
) -> Iterator[tuple[Path, Report | str]]:
    """(file, report or the sentence why not), each as it is written."""
    from dicom_io import dataset as datasets
    from dicom_io import deidentify as deidentification

    written: set[str] = set()
    for path in files:
        try:
            new, report = deidentification.deidentify(datasets.read(path), policy, faces)
            if report.sop_instance_uid in written:
                raise Rejected("an object with this SOP Instance UID was written already; give each object once")
            deidentification.write(new, out)
        except Rejected as error:
            yield path, str(error)
            continue
        written.add(report.sop_instance_uid)
        yield path, report


def _print(outcome: _Outcome, out: Path, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(outcome.in_short(out), indent=1))
        return
    for path, why in outcome.refused:
        typer.echo(f"{path}: {why}", err=True)
    typer.echo(f"{len(outcome.written)} of {len(outcome.written) + len(outcome.refused)} objects written to {out}")
    if faces := outcome.faces():
        typer.echo(f"faces removed in {faces['removed']} objects; {faces['none']} show no head")
