"""`mirall demo`: the whole loop on one machine, on computed patients, told as a short story."""

from __future__ import annotations

import json
import shutil
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dicom_io.errors import ImagingError, Rejected

if TYPE_CHECKING:
    from pydicom import Dataset

    from dicom_io.picture import Tile
    from plugin.service import Running
    from samples.phantoms import Kind, PhantomStudy

MARKER = ".mirall-demo"  # a folder without it is not ours to empty
SEED = 20261120
SYNTHETIC_PICTURES = 16
WAIT_S = 180.0
TILES = 5  # per row of the picture sheet


class DemoFailed(ImagingError):
    """The loop did not close; the message says where."""


@dataclass(frozen=True)
class Lesson:
    """What is learned from one kind of phantom. layout: its importer; minutes: of training, on two cores."""

    layout: str
    kind: Kind
    recipe: str
    model: str
    minutes: float
    what: str


PATIENTS: dict[Kind, int] = {"brain-mr": 10, "breast-pet": 18}
LESSONS = (
    Lesson("brain-mr-phantoms", "brain-mr", "segmenter", "white-matter-lesions", 0.6, "outlined on T1 and FLAIR"),
    Lesson("breast-pet-lesions", "breast-pet", "pet_slice_classifier", "pet-lesion", 0.6, "a lesion in a PET slice"),
    Lesson("breast-pet-phantoms", "breast-pet", "breast_pet_generator", "breast-pet", 1.2, "PET slices, generated"),
)

CONFIGURATION = """\
# Written by `mirall demo`; docs/quickstart.md says what each line means.
[node]
data = "data"
dimse = "127.0.0.1:{dimse}"
http = "127.0.0.1:{http}"

[study]
quiet_s = 2

[destinations.research]
kind = "stow"
url = "http://127.0.0.1:{research}/dicom-web"
allow_unproven = true # figures on phantoms prove nothing about patients

[destinations.research.profile]
reports = true

[[routes]]
name = "white-matter lesions"
match = {{ Modality = "MR" }}
run = ["white-matter-lesions:1"]
send_to = ["research"]

[[routes]]
name = "lesions on PET"
match = {{ Modality = "PT" }}
run = ["pet-lesion:1"]
send_to = ["research"]
"""


def register(app: typer.Typer) -> None:
    app.command("demo")(demo)


def demo(
    leave: Annotated[bool, typer.Option("--exit", help="End when the story is told, instead of staying up.")] = False,
    folder: Annotated[Path, typer.Option("--folder", help="Where everything is written.")] = Path("mirall-demo"),
) -> None:
    """The whole loop on computed patients: train, receive, predict, generate, deliver; then the service stays up.

    Example: mirall demo --exit
    """
    began = time.monotonic()
    _clear(folder)
    typer.echo(f"Mirall demo in {folder}. No person was imaged: every patient here is computed.\n")
    _learn(folder)
    with ExitStack() as stack:
        mirall, research = _start(folder, stack)
        sent = _send(folder, mirall)
        _wait_for_predictions(mirall, sent)
        generated = _generate(mirall)
        _tell_deliveries(mirall, research)
        _tell_files(folder, sent)
        sheet = _sheet(folder, sent, research, generated)
        typer.echo(f"\nPictures: {sheet}")
        typer.echo(f"Done in {time.monotonic() - began:.0f} s.")
        if not leave:
            typer.echo(f"\nThe service is up at {mirall.url}/ (DICOMweb at {mirall.dicomweb_url}). Ctrl-C ends it.")
            _stay(mirall)


def _clear(folder: Path) -> None:
    if folder.exists() and any(folder.iterdir()) and not (folder / MARKER).exists():
        raise Rejected(f"{folder} is not empty and was not made by a demo; give another --folder")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / MARKER).touch()


# Learning


def _learn(folder: Path) -> None:
    from concurrent.futures import ProcessPoolExecutor

    from dicom_io.pseudonym import site_key
    from samples.importers import IMPORTERS

    key = site_key(folder / "data" / "cohort.key")
    typer.echo("Samples and cohorts, split by patient:")
    with ProcessPoolExecutor(2) as pool:
        written = pool.map(_phantoms, PATIENTS, PATIENTS.values(), [folder] * len(PATIENTS))
        for (kind, patients), files in zip(PATIENTS.items(), written, strict=True):
            typer.echo(f"  {kind}: {patients} patients, {files} instances")
    for lesson in LESSONS:
        out = folder / "cohorts" / lesson.layout
        out.mkdir(parents=True)
        cohort = IMPORTERS[lesson.layout].read(folder / "samples" / lesson.kind, out, key, _quiet)
        shares = ", ".join(f"{len({item.patient for item in items})} {name}" for name, items in cohort.splits.items())
        typer.echo(f"  {lesson.layout}: patients {shares}")
    typer.echo("\nTraining and release, each evaluated on its test patients:")
    for lesson in LESSONS:
        typer.echo(f"  {lesson.model}:1, {lesson.what}: {_train(lesson, folder)}")


def _phantoms(kind: Kind, patients: int, folder: Path) -> int:
    from samples.phantoms import write_patients

    made = write_patients(kind, patients, folder / "samples" / kind, SEED)
    return sum(len(study.files) for study in made)


def _quiet(done: int, total: int, what: str) -> None:
    """Phantoms are imported in a second or two; no bar is needed."""


def _train(lesson: Lesson, folder: Path) -> str:
    from dicom_io import cohort as cohorts
    from models import bundle, training
    from models import recipe as recipes
    from plugin.cli.progress import ProgressBar

    shipped = Path(__file__).parents[2] / "samples" / "recipes" / f"{lesson.recipe}.yaml"
    recipe = recipes.load(shipped if shipped.is_file() else lesson.recipe)
    cohort = cohorts.load(folder / "cohorts" / lesson.layout)
    run = folder / "runs" / lesson.model
    with ProgressBar() as bar:
        training.train(
            recipe, cohort, run, minutes=lesson.minutes, progress=lambda event: _show(bar, lesson.model, event)
        )
    version = bundle.release(run, cohort, lesson.model, models_dir=folder / "data" / "models")
    return f"{_figures(version.evaluation or {})}; state {version.identity.state}"


def _show(bar: Any, what: str, event: Mapping[str, Any]) -> None:
    if event["kind"] == "progress":
        bar({"stage": f"training {what}", "done": round(100 * event["fraction"]), "total": 100})


def _figures(evaluation: Mapping[str, Any]) -> str:
    """The headline figure beside its baseline, as the evaluation gives them."""
    if evaluation["task"] == "generation":
        return _generator_figures(evaluation)
    primary = evaluation["primary"]
    if evaluation["task"] == "segmentation":
        baseline = max(each["dice"]["value"] for each in evaluation["baselines"].values())
    else:
        baseline = evaluation["baseline"]["metrics"]["auroc"]["value"]
    return (
        f"{primary['metric']} {primary['value']:.2f} ({primary['low']:.2f} to {primary['high']:.2f}), "
        f"baseline {baseline:.2f}, {evaluation['patients']} test patients"
    )


def _generator_figures(evaluation: Mapping[str, Any]) -> str:
    spaces = [
        f"KID {space['kid_to_held_out']['value']:.2f}, real against real up to {space['floor']['high']:.2f}, "
        f"FD {space['frechet']['to_held_out']:.1f}, real against real {space['frechet']['floor']['value']:.1f} ({name})"
        for name, space in evaluation["fidelity"]["spaces"].items()
    ]
    copies = max(space["copy_rate"]["value"] for space in evaluation["privacy"]["spaces"].values())
    found = min(space["planted_recall"] for space in evaluation["privacy"]["spaces"].values())
    return f"{'; '.join(spaces)}; {100 * copies:.0f} % copies, planted copies found {100 * found:.0f} %"


# The service


def _start(folder: Path, stack: ExitStack) -> tuple[Running, Running]:
    from plugin import service

    ports = {"dimse": _free(11112), "http": _free(8080), "research": _free(0)}
    config = folder / "mirall.toml"
    config.write_text(CONFIGURATION.format(**ports))
    research = stack.enter_context(
        service.running(
            data=folder / "research",
            dimse=f"127.0.0.1:{_free(0)}",
            http=f"127.0.0.1:{ports['research']}",
            aet="RESEARCH",
        )
    )
    mirall = stack.enter_context(service.running(config))
    typer.echo(f"\nServices: MIRALL at {mirall.settings.node.dimse} and {mirall.url}/,")
    typer.echo(f"          RESEARCH, a second node standing for the research archive, at {research.url}/")
    return mirall, research


def _free(preferred: int) -> int:
    """The preferred port where it is free on this machine, else one that the system gives."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise DemoFailed("no port is free on 127.0.0.1")


def _send(folder: Path, mirall: Running) -> list[PhantomStudy]:
    from plugin.dimse.client.association import Peer
    from plugin.dimse.client.store import send
    from samples.phantoms import write_patients

    address = mirall.settings.node.dimse_address
    studies = [
        study
        for kind in ("brain-mr", "mammography", "breast-pet")
        for study in write_patients(kind, 1, folder / "new-patients", SEED + 1)
    ]
    files = [path for study in studies for path in study.files]
    answers = list(send(Peer("MIRALL", address.host, address.port, "SCANNER"), files))
    refused = [answer.reason for answer in answers if not answer.accepted]
    if refused:
        raise DemoFailed(f"{len(refused)} of {len(files)} instances were refused: {refused[0]}")
    typer.echo(f"\nSent by C-STORE: {len(studies)} studies of new patients, {len(files)} instances, all acknowledged")
    return studies


def _wait_for_predictions(mirall: Running, sent: Sequence[PhantomStudy]) -> None:
    expected = {study.study_uid: study for study in sent if study.kind != "mammography"}
    with _patience("the routes to work") as tick:
        while True:
            jobs = [job for job in _get(mirall, "/api/jobs") if job["study_instance_uid"] in expected]
            failed = [job for job in jobs if job["state"] == "failed"]
            if failed:
                raise DemoFailed(f"job {failed[0]['id']} failed: {failed[0]['error']}")
            if len(jobs) == len(expected) and all(job["state"] == "done" for job in jobs):
                break
            tick()
    for job in jobs:
        kind = expected[job["study_instance_uid"]].kind
        found = "; ".join(sorted({result["finding"] for result in job["results"]}))
        typer.echo(f"  {kind}: route {job['route']!r} ran {job['model']}, {len(job['results'])} objects: {found}")
    typer.echo("  mammography: no route matches; stored, and nothing else")


def _generate(mirall: Running) -> str:
    """The Study Instance UID of a synthetic series, made by a job like any other."""
    from plugin.archive.index import Index
    from plugin.jobs.port import Jobs

    index = Index(mirall.settings.data)
    jobs = Jobs(index)
    identifier = jobs.enqueue_generation("breast-pet:1", n=SYNTHETIC_PICTURES, seed=7, send_to=["research"])
    with _patience("the generator") as tick:
        while (job := jobs.get(identifier)).state not in ("done", "failed"):
            tick()
    if job.state == "failed":
        raise DemoFailed(f"job {job.id} failed: {job.error}")
    row = index.instance(job.results[0].sop_instance_uid)
    if row is None:
        raise DemoFailed(f"job {job.id} is done but its result is not in the index")
    typer.echo(f"\nGenerated: {SYNTHETIC_PICTURES} slices of breast PET of a fictitious patient, Synthetic Data = YES")
    return row.study_instance_uid


def _tell_deliveries(mirall: Running, research: Running) -> None:
    with _patience("the outbox") as tick:
        while True:
            rows = _get(mirall, "/api/outbox")
            if rows and all(row["state"] in ("delivered", "committed", "sent", "failed", "held") for row in rows):
                break
            tick()
    typer.echo("\nResults to RESEARCH by STOW-RS, and what it answers by QIDO-RS:")
    for row in rows:
        uid = row["sop_instance_uid"]
        found = _get(research, f"/dicom-web/instances?SOPInstanceUID={uid}&includefield=SeriesDescription")
        what = found[0]["0008103E"]["Value"][0] if found else "not there"
        typer.echo(f"  {row['state']}: {what} (...{uid[-12:]})")
        if not found:
            raise DemoFailed(f"instance {uid} is {row['state']} but RESEARCH does not have it: {row['last_error']}")


def _tell_files(folder: Path, sent: Sequence[PhantomStudy]) -> None:
    """The same studies without the service: as volumes, and without what identifies the patient."""
    from dicom_io import conversion, deidentify
    from dicom_io.dataset import read
    from dicom_io.pseudonym import site_key

    report = conversion.convert([path for study in sent for path in study.files], folder / "converted")
    policy = deidentify.Policy(key=site_key(folder / "data" / "cohort.key"))
    shared = folder / "deidentified"
    shared.mkdir()
    for study in sent:
        deidentify.write(deidentify.deidentify(read(study.files[0]), policy)[0], shared)
    typer.echo("\nAs files, without the service:")
    typer.echo(f"  mirall convert: {report.count('converted')} volumes and pictures in {folder / 'converted'}")
    typer.echo(f"  mirall deidentify: the first image of each study, in {shared}")


def _stay(mirall: Running) -> None:
    try:
        mirall.process.wait()
    except KeyboardInterrupt:
        typer.echo("\nEnding the services.")


def _get(service: Running, path: str) -> list[dict[str, Any]]:
    import httpx

    answer = httpx.get(f"{service.url}{path}", timeout=30, trust_env=False)
    answer.raise_for_status()
    return json.loads(answer.content) if answer.content else []


@contextmanager
def _patience(what: str) -> Iterator[Any]:
    """Gives a `tick` that waits a little, and that gives up after `WAIT_S`."""
    end = time.monotonic() + WAIT_S

    def tick() -> None:
        if time.monotonic() > end:
            raise DemoFailed(f"waited {WAIT_S:.0f} s for {what}; service.log in the data folder says more")
        time.sleep(0.3)

    yield tick


# The picture sheet


def _sheet(folder: Path, sent: Sequence[PhantomStudy], research: Running, synthetic_study: str) -> Path:
    """Inputs, results as the research archive gives them back by WADO-RS, and synthetic beside real slices."""
    import numpy as np

    from dicom_io import picture, secondary_capture, series

    by_kind = {study.kind: study for study in sent}
    brain, breast = by_kind["brain-mr"], by_kind["breast-pet"]
    outlined = np.concatenate([d.pixel_array for d in _captures(research, brain.study_uid)])
    judged = np.concatenate([d.pixel_array for d in _captures(research, breast.study_uid)])
    generated = np.concatenate([secondary_capture.read_back(d) for d in _retrieved(research, synthetic_study)])
    (flair,) = (v.volume.voxels for v in series.volumes([brain.dicom_folder]).volumes if v.contrast == "FLAIR")
    (pet,) = (v.volume.voxels for v in series.volumes([breast.dicom_folder]).volumes)
    low, high = np.percentile(flair, (1, 99.5)).tolist()
    some = np.linspace(len(flair) * 0.35, len(flair) * 0.75, TILES).astype(int)
    # The slices around the hottest voxel, so that the lesion is among them.
    hottest = int(np.argmax(pet[5:-5].max(axis=(1, 2)))) + 5
    near = range(hottest - TILES // 2, hottest - TILES // 2 + TILES)
    rows = [
        ("FLAIR of a new patient", [_tile(picture.window(flair[i], low, high), f"slice {i + 1}") for i in some]),
        ("White-matter lesions, as RESEARCH has them", [_tile(outlined[i], f"slice {i + 1}") for i in some]),
        (
            "Breast PET of a new patient, SUV 0 to 6",
            [_tile(picture.window(pet[i], 0, 6), f"slice {i + 1}") for i in near],
        ),
        ("Calibrated probability of a lesion, as RESEARCH has it", [_tile(judged[i], f"slice {i + 1}") for i in near]),
        ("Breast PET, generated", [_tile(picture.window(frame, 0, 6), "synthetic") for frame in generated[:TILES]]),
    ]
    path = folder / "sheet.png"
    mark = picture.SyntheticMark("breast-pet:1", 7)
    picture.save_png(picture.contact_sheet(rows), path, synthetic=mark, description="Mirall demo: inputs and results")
    return path


def _captures(research: Running, study: str) -> list[Dataset]:
    return [dataset for dataset in _retrieved(research, study) if dataset.Modality not in ("SEG", "SR")]


def _retrieved(research: Running, study: str) -> list[Dataset]:
    """Every instance of a study in the research archive, by dicomweb-client."""
    from dicomweb_client import DICOMwebClient

    return list(DICOMwebClient(research.dicomweb_url).retrieve_study(study))


def _tile(shown: Any, caption: str) -> Tile:
    """Small pictures enlarged by whole pixels, so that all rows of the sheet look alike."""
    from dicom_io import picture
    from dicom_io.picture import Tile

    return Tile(picture.enlarged(shown, -(-220 // max(shown.shape[:2]))), caption)
