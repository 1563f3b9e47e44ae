"""`mirall experiment`: questions put to real data, with their baselines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from dicom_io.errors import Rejected


def register(app: typer.Typer) -> None:
    experiment = typer.Typer(no_args_is_help=True, help="Experiments on real data. Example: mirall experiment list")
    experiment.command("list")(list_experiments)
    experiment.command("run")(run)
    app.add_typer(experiment, name="experiment")


def list_experiments(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """What can be run, and the question that it answers.

    Example: mirall experiment list
    """
    from samples.experiments import EXPERIMENTS

    rows = [{"name": each.name, "question": each.question, "data": each.data} for each in EXPERIMENTS.values()]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    for row in rows:
        reads = f" Reads {row['data']}/." if row["data"] else ""
        typer.echo(f"{row['name']}: {row['question']}{reads}")


def run(
    name: Annotated[str, typer.Argument(help="As `mirall experiment list` names it.")],
    data: Annotated[
        Path, typer.Option("--data-set", envvar="MIRALL_TEST_DATA", help="Folder that holds the data sets.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for runs, models and the report.")] = Path("experiments"),
    profile: Annotated[
        Literal["quick", "full"], typer.Option("--profile", help="quick: a small version, minutes; full: the figures.")
    ] = "full",
    workers: Annotated[
        int, typer.Option("--workers", min=1, help="Trainings at a time, in processes of one thread; not pet-tumour.")
    ] = 1,
) -> None:
    """Run an experiment; its report and its figures lie in OUT/NAME.

    A line (of generators, of classifiers) that was stopped goes on with the same --out.

    Example: mirall experiment run pet-tumour --data-set /data --profile quick
    """
    from samples.experiments import EXPERIMENTS

    if name not in EXPERIMENTS:
        raise Rejected(f"there is no experiment {name!r}; there are {', '.join(EXPERIMENTS)}")
    source = data / EXPERIMENTS[name].data
    if not source.is_dir():
        raise Rejected(f"{source} is no folder; --data-set must name the folder that holds {EXPERIMENTS[name].data}/")
    report = EXPERIMENTS[name].run(source, out / name, profile, typer.echo, workers)
    typer.echo(report.read_text())
    typer.echo(f"Report: {report}")
