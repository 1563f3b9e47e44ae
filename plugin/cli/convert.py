"""`mirall convert`: DICOM into volumes, projections, masks and slices; no service needed."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dicom_io.errors import Rejected
from plugin.cli.cores import cores

if TYPE_CHECKING:
    from dicom_io.conversion import Report, Row

# Lines on what is no image; the report has them all.
_MOST_FILES = 5
_COLUMNS = ("status", "series", "modality", "description", "part", "file", "what")


def register(app: typer.Typer) -> None:
    app.command("convert")(convert)


def convert(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="DICOM files or folders.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the files; a run that was stopped goes on there.")],
    suv: Annotated[Literal["bw", "bsa", "lbm"], typer.Option("--suv", help="Which SUV PET comes in.")] = "bw",
    scaling: Annotated[
        Literal["rescale", "real-world", "philips"],
        typer.Option("--scaling", help="Which of the scalings that images state makes the numbers."),
    ] = "rescale",
    slices: Annotated[bool, typer.Option("--slices", help="Write memory-mapped arrays (.npy), too.")] = False,
    onto: Annotated[str, typer.Option("--onto", help="Series UID: resample all others onto its grid.")] = "",
    register_rigidly: Annotated[
        bool, typer.Option("--register", help="With --onto: register scans that share no coordinates.")
    ] = False,
    upright: Annotated[
        bool, typer.Option("--upright", help="Resample volumes of a tilted gantry to right angles.")
    ] = False,
    processes: Annotated[
        int | None, typer.Option("--processes", min=1, help="Series at a time; else all cores.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", help="Write the table here: .csv, .md or .json, by its ending.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Volumes as NIfTI with sidecars, datalist.json, and a report of what was converted, split, refused and why.

    Exit code 1 where nothing could be converted.

    Example: mirall convert study/ --out converted/ --report converted/report.md
    """
    if register_rigidly and not onto:
        raise typer.BadParameter("--register needs --onto SERIES_UID, the series that others are registered to")
    if report is not None and report.suffix not in _WRITERS:
        raise typer.BadParameter(f"--report {report.name}: write .csv, .md or .json")
    if report is not None and report.resolve() in (out.resolve() / name for name in ("report.json", "datalist.json")):
        raise typer.BadParameter(f"--report {report}: that file is written anyway, in its own form; give another name")
    if report is not None and not report.resolve().parent.is_dir() and report.resolve().parent != out.resolve():
        raise typer.BadParameter(f"--report {report}: its folder is not there; make it first")

    from dicom_io import conversion
    from plugin.cli.progress import ProgressBar

    options = conversion.Options(
        suv=suv.upper(),  # type: ignore[arg-type]
        scaled_by=scaling,
        slices=slices,
        onto=onto,
        register=register_rigidly,
        upright=upright,
    )
    with ProgressBar() as bar:
        made = conversion.convert(
            paths,
            out,
            options,
            processes=processes or cores(),
            progress=lambda done, total: bar({"stage": "series", "done": done, "total": total}),
        )
    if report is not None:
        report.write_text(_WRITERS[report.suffix](made).rstrip("\n") + "\n", encoding="utf-8")
    typer.echo(_as_json(made) if as_json else _summary(made, out))
    if not made.count("converted") + made.count("split"):
        raise Rejected(f"nothing was converted of {len(made.rows)} objects and series; {out / 'report.json'} says why")


def _summary(made: Report, out: Path) -> str:
    aside = [row for row in made.rows if row.status == "left aside"]
    lines = [_line(row) for row in made.rows if row.status != "left aside"]
    lines += [_line(row) for row in aside[:_MOST_FILES]]
    if len(aside) > _MOST_FILES:
        lines.append(f"... and {len(aside) - _MOST_FILES} more that are left aside")
    counts = ", ".join(
        f"{made.count(status)} {status}" for status in ("converted", "split", "mask", "refused", "left aside")
    )
    again = f", {made.resumed} series were there already" if made.resumed else ""
    return "\n".join([*lines, f"{counts}{again}: {out / 'report.json'}"])


def _line(row: Row) -> str:
    if row.file:
        return f"{row.status}: {row.file}: {row.why.removeprefix(Path(row.file).name).strip()}"
    return " ".join(filter(None, (f"{row.status}:", row.image or row.series_uid, row.part, _what(row))))


def _what(row: Row) -> str:
    """The reason, or what came out, in words."""
    if row.why:
        return row.why
    details = row.details
    shape = " x ".join(map(str, details.get("shape") or ()))
    spacing = " x ".join(f"{step:.4g}" for step in details.get("spacing_mm") or ())
    split = ", ".join(f"{keyword} {value}" for keyword, value in row.split_by)
    words = [
        f"{shape} voxels" if shape else "",
        f"of {spacing} mm" if spacing else "",
        f"in {details['units']}" if details.get("units") else "",
        f"({details['contrast']}: {details['evidence']})" if details.get("contrast") else "",
        f"told apart by {split}" if split else "",
        "sheared by a tilted gantry, which many readers refuse (--upright)" if details.get("sheared") else "",
        "made upright" if details.get("made_upright") else "",
        f"resampled onto {details['resampled_onto']}" if "resampled_onto" in details else "",
        _registered(details) if "registered_onto" in details else "",
        f"{details['voxels']} voxels of {row.description}" if "voxels" in details else "",
    ]
    return " ".join(filter(None, words))


def _registered(details: Mapping[str, Any]) -> str:
    before, after = details["mutual_information"]
    return (
        f"registered onto {details['registered_onto']} (mutual information {before:.3f} -> {after:.3f}): look at it "
        "before it is used"
    )


def _table(made: Report) -> list[tuple[str, ...]]:
    return [
        (row.status, row.series_uid, row.modality, row.description, row.part, row.image or row.file, _what(row))
        for row in made.rows
    ]


def _as_json(made: Report) -> str:
    from dataclasses import asdict

    rows: list[dict[str, Any]] = [asdict(row) for row in made.rows]
    return json.dumps({"resumed": made.resumed, "rows": rows}, indent=1)


def _csv(made: Report) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_COLUMNS, *_table(made)])
    return text.getvalue()


def _markdown(made: Report) -> str:
    def line(cells: tuple[str, ...]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    return "\n".join([line(_COLUMNS), line(("---",) * len(_COLUMNS)), *map(line, _table(made))]) + "\n"


_WRITERS: dict[str, Callable[[Report], str]] = {".csv": _csv, ".md": _markdown, ".json": _as_json}
