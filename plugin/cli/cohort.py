"""`mirall cohort`: training sets with their split."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dicom_io.errors import Rejected

if TYPE_CHECKING:
    from dicom_io.cohort_making import Made, Plan, Wanted

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


# Of many files that are refused for one reason, the first few tell it.
_SENTENCES = 20


def register(app: typer.Typer) -> None:
    cohort = typer.Typer(
        no_args_is_help=True, help="Training sets: create, import, audit, list, show. Example: mirall cohort list"
    )
    cohort.command("create")(create)
    cohort.command("import")(import_cohort)
    cohort.command("audit")(audit)
    cohort.command("fold")(fold)
    cohort.command("layouts")(layouts)
    cohort.command("list")(list_cohorts)
    cohort.command("show")(show)
    app.add_typer(cohort, name="cohort")


def create(
    out: Annotated[Path, typer.Option("--out", help="Folder for the cohort; must not exist or be empty.")],
    task: Annotated[
        Literal["classification", "segmentation", "generation"], typer.Option("--task", help="What it is to teach.")
    ],
    source: Annotated[
        list[Path] | None, typer.Option("--from", metavar="PATH", help="DICOM files or folders; may be repeated.")
    ] = None,
    query: Annotated[
        str | None, typer.Option("--query", help="Series of the archive instead, as QIDO-RS asks for them.")
    ] = None,
    label_from: Annotated[
        str | None, typer.Option("--label-from", help="attribute:KEYWORD, csv:FILE, folder, sr or sr:CODE^SCHEME.")
    ] = None,
    mask_from: Annotated[
        list[str] | None,
        typer.Option("--mask-from", help="seg, seg:LABEL or rtstruct:REGION of the same study; may be repeated."),
    ] = None,
    class_names: Annotated[
        str | None,
        typer.Option("--labels", help="Names of the classes, by comma, in order; of masks: background first."),
    ] = None,
    channel: Annotated[
        list[str] | None,
        typer.Option("--channel", help="Modality, or MR:CONTRAST such as MR:FLAIR; repeated for several channels."),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the cohort; else that of its folder.")] = None,
    split: Annotated[
        str, typer.Option("--split", help="Shares of patients that train, validate and test.")
    ] = "0.7,0.15,0.15",
    split_key: Annotated[
        str | None, typer.Option("--split-key", help="Key of the split; one key gives one split. Else the name.")
    ] = None,
    with_synthetic: Annotated[bool, typer.Option("--with-synthetic", help="Take synthetic images, too.")] = False,
    with_automatic: Annotated[
        bool, typer.Option("--with-automatic", help="Take what a program drew or reported as the truth.")
    ] = False,
    data: Annotated[
        Path | None, typer.Option("--data", help="Data folder, in place of the configured one; holds archive and key.")
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", help="mirall.toml; else the one in this folder.")] = None,
    as_json: AsJson = False,
) -> None:
    """A cohort from DICOM files or from the archive, split by patient, under pseudonyms.

    Each image of the chosen modality is an item; what cannot be taken is listed with its reason. Synthetic images,
    results of our own, and images without Patient ID stay out.

    Example: mirall cohort create --query "Modality=PT" --task segmentation --mask-from rtstruct:GTV --out cohorts/pet
    """
    from dicom_io import cohort_making, label_sources, mask_sources
    from dicom_io.pseudonym import site_key
    from plugin import settings
    from plugin.cli.progress import ProgressBar

    loaded = settings.load(config, data=data)
    _require_empty(out)
    plan = cohort_making.Plan(
        name=name or out.resolve().name,
        task=task,
        labels=tuple(part.strip() for part in class_names.split(",")) if class_names else (),
        channels=tuple(_wanted(text) for text in channel or ()),
        label_from=label_sources.parse(label_from, with_automatic=with_automatic) if label_from else None,
        masks=tuple(mask_sources.parse(text, with_automatic=with_automatic) for text in mask_from or ()),
        split_key=split_key or "",
        shares=_shares(split),
        with_synthetic=with_synthetic,
    )
    paths = _paths(source or [], query, loaded.data, plan)
    with ProgressBar() as bar:
        made = cohort_making.make(
            paths,
            plan,
            out,
            site_key(loaded.data / "cohort.key"),
            in_archive=query is not None,
            progress=lambda done, total, what: bar({"stage": what, "done": done, "total": total}),
        )
    typer.echo(json.dumps(made.as_json(), indent=1) if as_json else "\n".join(_made_lines(made, out)))


def _paths(source: Sequence[Path], query: str | None, data: Path, plan: Plan) -> list[Path]:
    """What to read: the paths as given, or the archive's files."""
    from plugin.archive import selection
    from plugin.archive.index import Index

    if bool(source) == (query is not None):
        raise Rejected("a cohort is made of files or of what the archive holds; give --from or --query, not both")
    if query is None:
        return list(source)
    if not (data / "index.sqlite").is_file():
        raise Rejected(f"{data} holds no archive; give the service's data folder with --data")
    index = Index(data)
    index.upgrade()
    return selection.files(index, query, beside=plan.beside, with_synthetic=plan.with_synthetic)


def _wanted(text: str) -> Wanted:
    from dicom_io.cohort_making import Wanted

    modality, _, contrast = text.partition(":")
    return Wanted(modality.strip(), contrast.strip())


def _shares(text: str) -> dict[str, float]:
    from dicom_io.cohort import SPLITS

    try:
        shares = [float(part) for part in text.split(",")]
    except ValueError:
        shares = []
    if len(shares) != len(SPLITS):
        raise Rejected(f"--split {text} is not three numbers; give the shares that {', '.join(SPLITS)} get")
    return dict(zip(SPLITS, shares, strict=True))


def _require_empty(out: Path) -> None:
    if out.exists() and any(out.iterdir()):
        raise Rejected(f"{out} is not empty; give a new folder, so that no two cohorts mix")


def _made_lines(made: Made, out: Path) -> Iterator[str]:
    from dicom_io import tally

    yield f"{made.cohort.name} in {out}: " + ", ".join(f"{n} {split}" for split, n in _counts(made.cohort).items() if n)
    yield from _count_lines(tally.counts(made.cohort))
    if made.refused:
        yield f"not taken: {len(made.refused)}"
    reasons = defaultdict[str, list[str]](list)
    for each in made.refused:
        reasons[each.why].append(each.what)
    for why, what in sorted(reasons.items(), key=lambda reason: -len(reason[1]))[:_SENTENCES]:
        yield f"  {what[0]}{f' and {len(what) - 1} more' if len(what) > 1 else ''}: {why}"
    if len(reasons) > _SENTENCES:
        yield f"  ... and {len(reasons) - _SENTENCES} more reasons; --json lists them all"
    yield from (f"note: {note}" for note in made.notes)


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
    _require_empty(out)
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


def fold(
    folder: Annotated[Path, typer.Argument(help="The cohort's folder.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the folds; must not exist or be empty.")],
    folds: Annotated[int | None, typer.Option("--folds", min=3, help="How many.")] = None,
    leave_one_out: Annotated[
        bool, typer.Option("--leave-one-out", help="As many as there are patients; each tests once, alone.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Deal a cohort into folds, each a cohort of its own: every patient is a test patient in one of them.

    Train a run on each, and measure it on its own fold. Files are linked, not copied, where the disk can.

    Example: mirall cohort fold cohorts/brain --folds 5 --out cohorts/brain-folds
    """
    from dicom_io import cohort as cohorts
    from dicom_io import folds as dealing

    if (folds is None) != leave_one_out:
        raise typer.BadParameter("give --folds with their number, or --leave-one-out")
    made = dealing.fold(cohorts.load(folder), folds, out)
    rows = [
        {"folder": str(each.folder)}
        | {split: len({item.patient for item in each.splits[split]}) for split in cohorts.SPLITS}
        for each in made
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    for row in rows:
        typer.echo(f"{row['folder']}: " + ", ".join(f"{row[split]} patients {split}" for split in cohorts.SPLITS))


def audit(
    folder: Annotated[Path, typer.Argument(help="The cohort's folder.")],
    sheet: Annotated[
        Path | None, typer.Option("--sheet", help="Write a contact sheet (PNG): thumbnails of each split and class.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What is wrong with a cohort before anything learns from it: leaks, shortcuts, counts. Exit code 1 for a leak.

    A leak is a picture that lies in two splits, even resized, mirrored or a little cropped. A shortcut is something
    beside the disease that tells the classes apart: size, border, file format, scanner, place of the slice.

    Example: mirall cohort audit cohorts/pet-sarcoma --sheet pet-sarcoma.png
    """
    from dicom_io import cohort as cohorts
    from dicom_io import contact_sheet
    from plugin.cli.progress import ProgressBar

    loaded = cohorts.load(folder)
    with ProgressBar() as bar:

        def tell(done: int, total: int, what: str) -> None:
            bar({"stage": what, "done": done, "total": total})

        found = _audited(loaded, tell)
        if sheet is not None:
            contact_sheet.write(loaded, sheet, progress=tell)
    typer.echo(json.dumps(found, indent=1) if as_json else "\n".join(_audit_lines(found)))
    if found["leaks"]:
        raise typer.Exit(1)


def _audited(loaded: Any, tell: Callable[[int, int, str], None]) -> dict[str, Any]:
    from dicom_io import near_duplicates, shortcuts, tally

    found: dict[str, Any] = {
        "name": loaded.name,
        "split_unit": loaded.split_unit,
        "data_hash": loaded.data_hash,
        "counts": tally.counts(loaded),
        "leaks": [asdict(leak) for leak in near_duplicates.leaks(loaded, progress=tell)],
        "shortcuts": None,
        "no_shortcuts_because": "",
        "histograms": tally.histograms(loaded, progress=tell),
    }
    try:
        found["shortcuts"] = shortcuts.report(loaded, progress=tell).as_json()
    except Rejected as error:
        found["no_shortcuts_because"] = str(error)
    return found


def _audit_lines(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"{found['name']}, split by {found['split_unit']}"
    yield from _count_lines(found["counts"])
    yield f"leaks: {len(found['leaks']) or 'none'}"
    for leak in found["leaks"]:
        turned = ", turned or mirrored" if leak["turned"] else ""
        yield (
            f"  {leak['first']} ({leak['first_split']}) and {leak['second']} ({leak['second_split']}), "
            f"correlation {leak['correlation']:.3f}{turned}"
        )
    yield from _shortcut_lines(found["shortcuts"], found["no_shortcuts_because"])


def _count_lines(counts: Mapping[str, Any]) -> Iterator[str]:
    for split, kinds in counts.items():
        for kind, classes in kinds.items():
            for name, row in classes.items():
                yield f"  {split}, {kind}, {name}: " + ", ".join(f"{count} {what}" for what, count in row.items())


def _shortcut_lines(measured: Mapping[str, Any] | None, why_not: str) -> Iterator[str]:
    if measured is None:
        yield f"shortcuts: not measured; {why_not}"
        return
    yield (
        f"shortcuts: class of the {measured['unit']} from what is beside the disease; {measured['examples']} examples, "
        f"{measured['patients']} patients, {len(measured['classes'])} classes; "
        f"chance is {measured['chance']:.2f} (balanced accuracy) and 0.50 (AUROC)"
    )
    for each in measured["measured"]:
        figures = ", ".join(
            f"{what} {each[key]['value']:.2f} [{each[key]['low']:.2f}, {each[key]['high']:.2f}]"
            for what, key in (("balanced accuracy", "balanced_accuracy"), ("AUROC", "auroc"))
        )
        told = max(each["auroc_of"], key=lambda name: each["auroc_of"][name]["value"])
        of = f", most of all for {told}" if len(each["auroc_of"]) > 2 else ""
        flag = f"  SUSPICIOUS{of}" if each["suspicious"] else ""
        yield f"  {each['family']}: {figures}{flag}"
    for family, why in measured["not_measured"].items():
        yield f"  {family}: {why}"


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
