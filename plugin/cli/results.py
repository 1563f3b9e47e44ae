"""`mirall predict` and `mirall generate`: a model version at work without the service."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dicom_io.errors import Rejected
from plugin.cli.shelf import Config, Models, models_folder

if TYPE_CHECKING:
    from plugin.outputs import Made

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class Beside(StrEnum):
    """See `plugin.encodings.BESIDE`."""

    report = "report"
    map = "map"
    saliency = "saliency"


_ONLY = {
    "map": "maps are of what segmenters find, and this model finds none",
    "saliency": "it is of classifiers whose evaluation found that their maps show what was learned",
}


def register(app: typer.Typer) -> None:
    app.command("predict")(predict)
    app.command("generate")(generate)


def predict(
    model: Annotated[str, typer.Argument(help="NAME or NAME:VERSION of a released model, or its folder.")],
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="DICOM files or folders of one study.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the results.")],
    models: Models = None,
    config: Config = None,
    also: Annotated[
        list[Beside] | None, typer.Option("--also", help="Beside SEG and captures; repeat for several.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Run outside the model's card; results are marked.")] = False,
    as_json: AsJson = False,
) -> None:
    """DICOM in, DICOM out: SEG and Secondary Capture, labelled, into a folder.

    --also report writes a Structured Report with the numbers, --also map the probability of what is segmented (of an
    ensemble where its members disagree, too), --also saliency where a classifier's suspicion comes from.

    Example: mirall predict pet-tumour:1 study/ --out results/ --also report
    """
    from plugin.registry import folder_of

    # Before torch is loaded: a wrong name is answered at once.
    folder = folder_of(models_folder(models, config), model)

    from plugin import encodings, pipeline
    from plugin.cli.progress import ProgressBar

    with ProgressBar() as bar:
        asked = encodings.DEFAULT.union(*(encodings.beside(each.value) for each in also or ()))
        now = datetime.now().astimezone()
        made = pipeline.predict(paths, folder, out, made_at=now, force=force, encodings=asked, progress=bar)
    for each, why in _ONLY.items():
        if each in asked and not any(one.encoding.startswith(each) for one in made):
            typer.echo(f"no {each} is written: {why}", err=True)
    _print(made, as_json)


def generate(
    model: Annotated[str, typer.Argument(help="NAME or NAME:VERSION of a released generator, or its folder.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the results.")],
    n: Annotated[int | None, typer.Option("-n", min=1, help="How many pictures; 16, of a volume's mask 1.")] = None,
    label: Annotated[str | None, typer.Option("--label", help="Class to make, where the model has classes.")] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="The same seed gives the same pictures; 0 where none is given.")
    ] = None,
    given: Annotated[
        Path | None, typer.Option("--from", help="What to make pictures of: a mask (SEG, NIfTI, PNG), or DICOM files.")
    ] = None,
    masks_of: Annotated[
        str | None, typer.Option("--masks-of", metavar="MODEL", help="A generator whose masks to make pictures of.")
    ] = None,
    form: Annotated[Literal["dicom", "png", "nifti"], typer.Option("--format", help="What to write.")] = "dicom",
    truncation: Annotated[
        float | None, typer.Option("--truncation", help="Of noise vectors: 0.5 to 1 gives more typical pictures.")
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option("--guidance", help="Of diffusion: how far the class pulls, instead of the version's."),
    ] = None,
    models: Models = None,
    config: Config = None,
    force: Annotated[bool, typer.Option("--force", help="Run outside the model's card; results are marked.")] = False,
    as_json: AsJson = False,
) -> None:
    """Synthetic pictures, labelled as such in every format, of a fictitious patient.

    A model of several classes makes one at a time: name it with --label. Picture 3 of a seed is made of the same noise
    in every class. A model that makes pictures of masks is given one with --from, or another model's with --masks-of;
    its pictures come with their SEG. With --from and DICOM files it is `mirall predict`.

    Example: mirall generate breast-pet:1 -n 16 --seed 7 --out synthetic/
    """
    from plugin.registry import folder_of

    shelf = models_folder(models, config)
    folder = folder_of(shelf, model)
    drawing = folder_of(shelf, masks_of) if masks_of else None
    if given and drawing:
        raise typer.BadParameter("masks come from a file or from a model; give --from or --masks-of")
    of_something = given is not None or drawing is not None
    if of_something and (form != "dicom" or any(each is not None for each in (label, truncation, guidance))):
        raise typer.BadParameter(
            "pictures of masks or of DICOM files are DICOM, without --label, --truncation or --guidance; leave them out"
        )
    if force and not of_something:
        raise typer.BadParameter("pictures of noise are outside no card; leave --force out")
    if of_something:
        _print(_of_given(folder, out, given, drawing, n, seed, force), as_json)
        return
    _of_noise(
        folder, out, form, as_json, n=n or 16, seed=seed or 0, label=label, truncation=truncation, guidance=guidance
    )


def _of_given(
    folder: Path, out: Path, given: Path | None, drawing: Path | None, n: int | None, seed: int | None, force: bool
) -> list[Made]:
    """Pictures of masks, or of DICOM files. given: the file; drawing: else the folder of the model that draws masks."""
    from plugin import painting, pipeline
    from plugin.cli.progress import ProgressBar

    made_at = datetime.now().astimezone()
    if given is None or painting.takes_masks(folder):
        with ProgressBar() as bar:
            return painting.paint(
                folder,
                out,
                mask=given,
                masks_of=drawing,
                n=n,
                seed=seed or 0,
                made_at=made_at,
                force=force,
                progress=bar,
            )
    if n is not None or seed is not None:
        raise typer.BadParameter("nothing is drawn for pictures of DICOM files; leave -n and --seed out")
    with ProgressBar() as bar:
        return pipeline.predict([given], folder, out, made_at=made_at, force=force, progress=bar)


def _of_noise(
    folder: Path, out: Path, form: Literal["dicom", "png", "nifti"], as_json: bool, *, seed: int, **asked: Any
) -> None:
    """asked: n, label, truncation and guidance of `plugin.pipeline.generate`."""
    from plugin import pipeline
    from plugin.cli.progress import ProgressBar

    if form == "dicom":
        with ProgressBar() as bar:
            made_at = datetime.now().astimezone()
            made = pipeline.generate(folder, out, seed=seed, made_at=made_at, progress=bar, **asked)
        _print(made, as_json)
        return
    written = pipeline.generate_files(folder, out, seed=seed, form=form, **asked)
    finding = f"{asked['label']}, seed {seed}" if asked["label"] else f"seed {seed}"
    _print_rows([{"path": str(path), "finding": finding} for path in written], as_json)


def _print(made: list[Made], as_json: bool) -> None:
    if not made:
        raise Rejected("nothing was made: the files hold no input for this model")
    _print_rows(
        [
            {
                "path": str(each.path),
                "kind": each.record.kind,
                "sop_class_uid": each.record.sop_class_uid,
                "sop_instance_uid": each.record.sop_instance_uid,
                "synthetic": each.record.is_synthetic,
                "out_of_domain": each.record.out_of_domain,
                "finding": each.finding,
            }
            for each in made
        ],
        as_json,
    )


def _print_rows(rows: list[dict[str, Any]], as_json: bool) -> None:
    import json

    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    for row in rows:
        marks = " OUT OF DOMAIN" if row.get("out_of_domain") else ""
        typer.echo(f"{row['path']}: {row.get('kind', 'synthetic')}, {row['finding']}{marks}")
