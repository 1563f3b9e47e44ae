"""`mirall cohort`: training sets with their split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from dicom_io.errors import Rejected

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    cohort = typer.Typer(no_args_is_help=True, help="Training sets: import, list, show. Example: mirall cohort list")
    cohort.command("import")(import_cohort)
    cohort.command("layouts")(layouts)
    cohort.command("list")(list_cohorts)
    cohort.command("show")(show)
    app.add_typer(cohort, name="cohort")


def import_cohort(
    layout: Annotated[str, typer.Argument(help="Name of the layout; see `mirall cohort layouts`.")],
    source: Annotated[Path, typer.Argument(help="The data set's own folder.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the cohort; must not exist or be empty.")],
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Data folder, in place of the configured one; holds the pseudonyms' key."),
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", help="mirall.toml; else the one in this folder.")] = None,
) -> None:
    """A cohort from a public data set in its own layout, split by patient.

    Example: mirall cohort import pet-sarcoma pet-suv-sarcoma/ --out cohorts/pet-sarcoma
    """
    from dicom_io.pseudonym import site_key
    from plugin import settings
    from plugin.cli.progress import ProgressBar
    from samples.importers import IMPORTERS

    if layout not in IMPORTERS:
        raise Rejected(f"there is no layout {layout!r}; known are {', '.join(IMPORTERS)}; see `mirall cohort layouts`")
    if out.exists() and any(out.iterdir()):
        raise Rejected(f"{out} is not empty; give a new folder, so that no two cohorts mix")
    key = site_key((data or settings.load(config).data) / "cohort.key")
    out.mkdir(parents=True, exist_ok=True)
    with ProgressBar() as bar:
        made = IMPORTERS[layout].read(
            source,
            out,
            key,
            lambda done, total, what: bar({"stage": f"importing {what}", "done": done, "total": total}),
        )
    typer.echo(f"{made.name} in {out}: " + ", ".join(f"{n} {split}" for split, n in _counts(made).items() if n))


def layouts(as_json: AsJson = False) -> None:
    """Layouts of data sets that can be imported.

    Example: mirall cohort layouts
    """
    from samples.importers import IMPORTERS

    rows = {importer.name: importer.layout for importer in IMPORTERS.values()}
    typer.echo(json.dumps(rows, indent=1) if as_json else "\n".join(f"{name}: {what}" for name, what in rows.items()))


def list_cohorts(
    folder: Annotated[Path, typer.Argument(help="Folder below which to look.")] = Path(),
    as_json: AsJson = False,
) -> None:
    """Cohorts below a folder.

    Example: mirall cohort list cohorts/
    """
    found = [_summary(listing.parent) for listing in sorted(folder.rglob("datalist.json"))]
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    if not found:
        typer.echo(f"no cohorts below {folder}")
    for row in found:
        typer.echo(f"{row['folder']}: {row['name']}, {row['task']}, {row['patients']} patients, {row['items']} items")


def show(
    folder: Annotated[Path, typer.Argument(help="The cohort's folder.")],
    as_json: AsJson = False,
) -> None:
    """One cohort: channels, labels, patients and items per split.

    Example: mirall cohort show cohorts/pet-sarcoma
    """
    summary = _summary(folder)
    typer.echo(json.dumps(summary, indent=1) if as_json else "\n".join(f"{k}: {v}" for k, v in summary.items()))


def _summary(folder: Path) -> dict[str, Any]:
    from dicom_io import cohort as cohorts

    loaded = cohorts.load(folder)
    items = [item for split in cohorts.SPLITS for item in loaded.splits.get(split, ())]
    return {
        "folder": str(folder),
        "name": loaded.name,
        "description": loaded.description,
        "task": loaded.task,
        "labels": list(loaded.labels),
        "channels": [f"{channel.name} ({channel.modality}, {channel.units})" for channel in loaded.channels],
        "split_unit": loaded.split_unit,
        "patients": len({item.patient for item in items}),
        "items": len(items),
        "items_per_split": _counts(loaded),
        "synthetic": sum(item.synthetic for item in items),
        "left_out_because_deleted": loaded.buried,
        "data_hash": loaded.data_hash,
    }


def _counts(loaded: Any) -> dict[str, int]:
    from dicom_io import cohort as cohorts

    return {split: len(loaded.splits.get(split, ())) for split in cohorts.SPLITS}
