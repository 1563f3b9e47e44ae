"""From a cohort to a released model version, without the service: `mirall train`, `compare`, `models` and others."""

from __future__ import annotations

import json
import os
import re
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from plugin.cli.cores import cores
from plugin.cli.shelf import Config, Models, models_folder

if TYPE_CHECKING:
    from dicom_io.cohort import Channel, Cohort
    from dicom_io.provenance import ModelIdentity
    from models.recipe import Recipe

CohortFolder = Annotated[Path, typer.Option("--cohort", help="Cohort folder, with its datalist.json.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Draws = Annotated[int, typer.Option("--draws", min=100, help="Bootstrap draws behind each interval.")]
Out = Annotated[Path | None, typer.Option("--out", help="Write JSON, Markdown and a page with plots into this folder.")]
Model = Annotated[str, typer.Argument(metavar="MODEL", help="NAME or NAME:VERSION.")]

# Of channels, where no others are named: as `dicom_io.series` reads these modalities.
UNITS = {"CT": "[hnsf'U]", "MR": "1", "MG": "1"}


class Engine(StrEnum):
    """What computes a network when it is served; auto chooses."""

    auto = "auto"
    torch = "torch"
    onnx = "onnx"


class Axis(StrEnum):
    """Along which images are mirrored."""

    slices = "slices"
    rows = "rows"
    columns = "columns"


models = typer.Typer(no_args_is_help=True, help="Released model versions.\n\nExample: mirall models list")


def register(app: typer.Typer) -> None:
    app.command("train")(train)
    app.command("compare")(compare)
    app.command("ensemble")(ensemble)
    app.command("evaluate")(evaluate)
    app.add_typer(models, name="models")


def train(
    recipe: Annotated[str, typer.Argument(help="YAML file, or a shipped name, such as segmenter; docs/scientist.md.")],
    cohort: CohortFolder,
    run: Annotated[Path, typer.Option("--run", help="Folder for the run; new, or one to resume.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the run stopped.")] = False,
    minutes: Annotated[float | None, typer.Option("--minutes", min=0.01, help="Budget; the schedule fits in.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="In place of the recipe's seed.")] = None,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda or auto.")] = "auto",
    start_from: Annotated[
        str | None,
        typer.Option("--start-from", metavar="RUN|MODEL", help="A generator, as for evaluate, to begin with."),
    ] = None,
    models_dir: Models = None,
    config: Config = None,
    nproc: Annotated[int, typer.Option("--nproc", min=1, help="Processes, or GPUs, that share a generator.")] = 1,
    compiled: Annotated[bool, typer.Option("--compile", help="Generators: compile the networks first.")] = False,
) -> None:
    """Train a model on a cohort; leaves metrics, checkpoints and a finished run.

    Example: mirall train segmenter --cohort cohorts/brain --run runs/brain --minutes 5
    """
    from dicom_io import cohort as cohorts
    from dicom_io.errors import Rejected
    from models import recipe as recipes
    from models.training import launcher, ranks, sharing
    from plugin.registry import folder_of

    chosen = recipes.load(recipe)
    if seed is not None:
        chosen = chosen.model_copy(update={"seed": seed})
    loaded = cohorts.load(cohort)
    if loaded.buried:
        typer.echo(f"{loaded.buried} items of {cohort} are left out, because their sources were deleted", err=True)
    ancestor = None if start_from is None else folder_of(models_folder(models_dir, config), start_from)
    options = {"resume": resume, "minutes": minutes, "device": device, "compiled": compiled, "start_from": ancestor}
    if nproc == 1:
        learn(chosen, loaded, run, options)
    elif ranks.told_to_meet():
        raise Rejected(f"--nproc {nproc}: torchrun has started the processes already; leave --nproc out")
    else:
        sharing.require(chosen, nproc)
        launcher.start(nproc, learn, chosen, loaded, run, options)
    if ranks.is_first():
        told = f"mirall models release {run} --cohort {cohort} --name {chosen.name}"
        if getattr(chosen, "source", None) == "image":
            # What repeats its patients is measured, and never released.
            told = f"mirall evaluate {run} --cohort {cohort}"
        typer.echo(f"finished: {run}; next: {told}")


def learn(recipe: Recipe, cohort: Cohort, run: Path, options: dict[str, Any]) -> None:
    """What each process of a training does. options: of `models.training.train`."""
    import torch

    from models import training
    from models.training import ranks

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    if not ranks.is_first():
        training.train(recipe, cohort, run, **options)
        return
    with TrainingBar() as bar:
        training.train(recipe, cohort, run, progress=bar, **options)


def evaluate(
    model: Annotated[str, typer.Argument(metavar="RUN|MODEL", help="Folder of a run, or NAME or NAME:VERSION.")],
    cohort: CohortFolder,
    models_dir: Models = None,
    config: Config = None,
    draws: Draws = 2000,
    tolerance_mm: Annotated[
        float | None,
        typer.Option("--tolerance-mm", min=0.01, help="Segmenters: between surfaces that count as one; 2."),
    ] = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Measure a run or a version on the test patients of a cohort, beside trivial baselines.

    With --out the figures are written as evaluation.json, report.md and report.html, a page with plots in one file.

    Example: mirall evaluate runs/brain --cohort cohorts/brain --out evaluations/brain
    """
    from dicom_io import cohort as cohorts
    from models.evaluate import evaluate as measure
    from models.reports import document, figures
    from models.reports.parts import markdown
    from plugin.registry import folder_of

    folder = folder_of(models_folder(models_dir, config), model)
    report = measure(folder, cohorts.load(cohort), draws=draws, tolerance_mm=tolerance_mm)
    if out is not None:
        document.write(out, "evaluation", report, document.of_evaluation(model, report))
        typer.echo(f"written: {out / 'report.html'}", err=True)
    typer.echo(json.dumps(report, indent=1) if as_json else "\n".join(markdown(figures.parts(report))))


def compare(
    several: Annotated[list[str], typer.Argument(metavar="RUN|MODEL...", help="Two predictors or more.")],
    cohort: CohortFolder,
    models_dir: Models = None,
    config: Config = None,
    draws: Draws = 2000,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Predictors in pairs on the same test patients: differences with intervals, and tests corrected for their number.

    With --out they are written as comparison.json, report.md and report.html.

    Example: mirall compare runs/small runs/large --cohort cohorts/brain
    """
    from dicom_io import cohort as cohorts
    from models import compare as comparison
    from models.reports.document import write
    from models.reports.parts import markdown
    from plugin.registry import folder_of

    folders = [folder_of(models_folder(models_dir, config), each) for each in several]
    report = comparison.compare(folders, several, cohorts.load(cohort), draws=draws)
    if out is not None:
        write(out, "comparison", report, comparison.document(report))
        typer.echo(f"written: {out / 'report.html'}", err=True)
    typer.echo(json.dumps(report, indent=1) if as_json else "\n".join(markdown(comparison.parts(report))))


def ensemble(
    runs: Annotated[list[Path], typer.Argument(help="Finished runs with one input chain, such as seeds of a recipe.")],
    cohort: CohortFolder,
    run: Annotated[Path, typer.Option("--run", help="Folder for the ensemble, a finished run; new.")],
    mirror: Annotated[
        list[Axis] | None,
        typer.Option("--mirror", help="Look at mirror images, too; repeat for several (slices: of volumes alone)."),
    ] = None,
) -> None:
    """Put finished runs of predictors together: one run, whose probabilities are the mean of theirs.

    Threshold and temperature are fixed on validation once more.

    Example: mirall ensemble runs/seed0 runs/seed1 runs/seed2 --cohort cohorts/brain --run runs/ensemble
    """
    from dicom_io import cohort as cohorts
    from models.ensemble import merge

    made = merge(runs, cohorts.load(cohort), run, list(dict.fromkeys(axis.value for axis in mirror or ())))
    typer.echo(f"finished: {made}; next: mirall evaluate {made} --cohort {cohort}")


@models.command("release")
def release(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    cohort: CohortFolder,
    name: Annotated[str, typer.Option("--name", help="Name of the model.")],
    version: Annotated[str | None, typer.Option("--version", help="Else the next whole number.")] = None,
    engine: Annotated[
        Engine, typer.Option("--engine", help="Serves a predictor; auto measures which is faster.")
    ] = Engine.auto,
    models_dir: Models = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate a finished run on the cohort's test patients and release it as a model version.

    Example: mirall models release runs/brain --cohort cohorts/brain --name brain-lesions
    """
    from dicom_io import cohort as cohorts
    from models import bundle

    shelf = models_folder(models_dir, config)
    made = bundle.release(run, cohorts.load(cohort), name, version, shelf, engine.value)
    evaluation, serves = made.evaluation or {}, made.description.engine
    row = _row(made.identity, made.folder) | {"reason": evaluation.get("reason", "")}
    row |= {"engine": serves.name, "engine_reason": serves.reason} if serves else {}
    if as_json:
        typer.echo(json.dumps(row, indent=1))
        return
    typer.echo(f"released {made.identity.address}, {row['state']}: {row['reason']}")
    if serves:
        typer.echo(f"served by {serves.name}: {serves.reason}")
    typer.echo(made.folder / "docs" / "README.md")


@models.command("import")
def import_model(
    bundle: Annotated[Path, typer.Argument(help="Folder of a MONAI bundle, with configs/ and models/.")],
    name: Annotated[str, typer.Option("--name", help="Name of the model.")] = "",
    version: Annotated[str | None, typer.Option("--version", help="Else the next whole number.")] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", help="A class, the background first; where the bundle does not say.")
    ] = None,
    channel: Annotated[
        list[str] | None,
        typer.Option("--channel", metavar="NAME=MODALITY[/CONTRAST][:UNITS]", help="An input, in the network's order."),
    ] = None,
    weights: Annotated[str, typer.Option("--weights", help="A file in its models/, else the one that it loads.")] = "",
    sha256: Annotated[str | None, typer.Option("--sha256", help="Hash of the bundle, as --check prints it.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Read and check alone; nothing is written.")] = False,
    models_dir: Models = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Bring a predictor of the MONAI Model Zoo on the shelf, unproven. Nothing in the bundle is run.

    Example: mirall models import spleen_ct_segmentation --name spleen --check
    """
    from dicom_io.errors import Rejected
    from models.foreign import importing
    from models.foreign.zoo import Told

    told = Told(tuple(label or ()), tuple(map(channel_of, channel or ())), weights)
    read = importing.check(bundle, told, sha256)
    planned = importing.plan(read)
    if check:
        typer.echo(json.dumps(planned, indent=1) if as_json else "\n".join(importing.lines_of(planned)))
        return
    if not name:
        raise Rejected("a model on the shelf needs a name; give --name, or --check to look alone")
    made = importing.import_bundle(read, name, version, models_folder(models_dir, config))
    row = _row(made.identity, made.folder) | {"bundle_hash": planned["bundle_hash"], "left_out": planned["left_out"]}
    if as_json:
        typer.echo(json.dumps(row, indent=1))
        return
    typer.echo(
        f"imported {made.identity.address}, unproven: it was made elsewhere, and not measured here\n"
        f"bundle hash {row['bundle_hash']}; to pin it elsewhere: --sha256\n{made.folder / 'docs' / 'README.md'}"
    )


def channel_of(text: str) -> Channel:
    """NAME=MODALITY[/CONTRAST][:UNITS].

    Raises:
        Rejected: it is written in another way, or needs units.
    """
    from dicom_io.cohort import Channel
    from dicom_io.errors import Rejected

    found = re.fullmatch(r"([^=/:]{1,64})=([A-Z]{2})(?:/([^:]+))?(?::(.+))?", text)
    units = (found[4] or UNITS.get(found[2])) if found else None
    if found is None or units is None:
        raise Rejected(
            f"--channel {text!r} is not NAME=MODALITY[/CONTRAST][:UNITS], such as flair=MR/FLAIR or "
            f"pet=PT:g/ml{{SUVbw}}; only {', '.join(UNITS)} need no units"
        )
    return Channel(found[1], found[2], units, found[3] or "")


@models.command("list")
def list_models(models_dir: Models = None, config: Config = None, as_json: AsJson = False) -> None:
    """Released versions with their state.

    Example: mirall models list --json
    """
    from plugin.registry import Registry

    rows = [
        _row(entry.identity, entry.folder) | {"task": entry.task}
        for entry in Registry(models_folder(models_dir, config)).list()
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    for row in rows or [{}]:
        typer.echo(f"{row['model']}  {row['task']}  {row['state']}  {row['content_hash'][:12]}" if row else "no models")


@models.command("show")
def show(model: Model, models_dir: Models = None, config: Config = None, as_json: AsJson = False) -> None:
    """The card of a version; with --json its metadata and evaluation.

    Example: mirall models show brain-lesions:1
    """
    from plugin.registry import Registry

    found = Registry(models_folder(models_dir, config)).resolve(model)
    if as_json:
        files = {"metadata": "configs/metadata.json", "evaluation": "evaluation/evaluation.json"}
        there = {key: found.folder / path for key, path in files.items()}
        # What was made elsewhere has no evaluation of ours.
        whole = {key: json.loads(path.read_text()) if path.is_file() else None for key, path in there.items()}
        typer.echo(json.dumps(_row(found.identity, found.folder) | whole, indent=1))
    else:
        typer.echo((found.folder / "docs" / "README.md").read_text())


def _row(identity: ModelIdentity, folder: Path) -> dict[str, Any]:
    return {
        "model": identity.address,
        "state": identity.state,
        "content_hash": identity.content_hash,
        "device_uid": identity.device_uid,
        "folder": str(folder),
    }


class TrainingBar:
    """Takes the events of `models.training.journal`: a bar on a terminal, a line per report anywhere."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("reading", total=1.0)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._bar.stop()

    def __call__(self, event: dict[str, Any]) -> None:
        if event["kind"] == "progress":
            words = f"loss {event['loss']:.3f}, {event['images_per_s']:.0f} images/s"
            self._bar.update(self._task, description=words, completed=event["fraction"])
        elif event["kind"] == "warning":
            self._console.print(f"warning: {event['message']}", style="yellow", highlight=False)
        elif event["kind"] == "report":
            figures = ", ".join(
                f"{name} {value}"
                for name, value in event.items()
                if name not in ("kind", "images_seen") and value != ""
            )
            self._console.print(f"{event['images_seen']} images: {figures}", highlight=False)
        else:
            self._bar.update(self._task, completed=1.0)
