"""`mirall pull`: fetch a study from a PACS or a DICOMweb server, and say whether all of it has come."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from plugin.cli.archive import AsJson, Config, Data, destination_of
from plugin.cli.progress import ProgressBar

if TYPE_CHECKING:
    from plugin.dimse.client.find import FoundStudy
    from plugin.pull import DimseSource, Pulled, WebSource


def register(app: typer.Typer) -> None:
    app.command("pull")(pull)


def pull(
    source: Annotated[
        str, typer.Option("--from", metavar="DEST", help="A configured name, AET@host:port, or a DICOMweb URL.")
    ],
    study: Annotated[str | None, typer.Option("--study", metavar="UID", help="Study Instance UID.")] = None,
    series: Annotated[str, typer.Option("--series", metavar="UID", help="Only this series.")] = "",
    patient: Annotated[
        str | None, typer.Option("--patient", metavar="ID", help="Search by Patient ID, and ask which study.")
    ] = None,
    accession: Annotated[
        str | None, typer.Option("--accession", metavar="NUMBER", help="Search by Accession Number.")
    ] = None,
    how: Annotated[
        Literal["auto", "get", "move"] | None,
        typer.Option("--how", help="C-GET, C-MOVE, or `auto`; else as the destination says."),
    ] = None,
    config: Config = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Fetch what the archive lacks of a study: list of the source, fetch, list again.

    Works without a running service, and beside one; C-MOVE needs one, since the objects then come to its listener. A
    whole study that has come is looked at by the routes at once. Exit code 1 where something is still missing.

    Example: mirall pull --from ORTHANC@127.0.0.1:4242 --study 1.2.840.113619.2.1
    """
    from plugin import settings
    from plugin.archive.ingest import open_archive
    from plugin.jobs.port import Jobs
    from plugin.pull import pull as fetch
    from plugin.pull import source_of

    if (study is None) == (patient is None and accession is None):
        raise typer.BadParameter("give --study, or --patient and --accession to search for it", param_hint="--study")
    loaded = settings.load(config, data=data)
    archive = open_archive(loaded)
    with _interruptible() as stop:
        peer = source_of(destination_of(loaded, source), loaded.node.aet, archive, how=how, stop=stop)
        uid = study or _chosen(peer, patient, accession, as_json)
        with ProgressBar() as bar:
            pulled = fetch(peer, archive, uid, series=series, progress=bar, stop=stop)
    if pulled.is_complete and not series:
        Jobs(archive.index).study_complete(uid)
    _tell(pulled, source, as_json)
    if not pulled.is_complete:
        raise typer.Exit(1)


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """The first Ctrl-C sets the event, so that the peer is told and what came is counted; the second ends us."""
    stop = threading.Event()

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def _chosen(peer: DimseSource | WebSource, patient: str | None, accession: str | None, as_json: bool) -> str:
    """Search, show what was found, and ask; one that is alone is taken. Raises Rejected where nobody can be asked."""
    from dicom_io.errors import Rejected

    wanted = {"PatientID": patient, "AccessionNumber": accession}
    found = peer.studies({keyword: value for keyword, value in wanted.items() if value is not None})
    if not found:
        raise Rejected(f"{peer} lists no study with that --patient and --accession; look at their spelling")
    if len(found) == 1:
        return found[0].study_instance_uid
    for number, each in enumerate(found, 1):
        print(f"{number}  {_line(each)}", file=sys.stderr)
    if as_json or not sys.stdin.isatty():
        raise Rejected(f"{peer} lists {len(found)} such studies; choose one with --study")
    choice: int = typer.prompt("Which one?", type=int, err=True)
    if not 1 <= choice <= len(found):
        raise Rejected(f"{choice} is none of the {len(found)} studies; nothing was fetched")
    return found[choice - 1].study_instance_uid


def _line(study: FoundStudy) -> str:
    count = "" if study.instances is None else f"{study.instances} instances"
    told = (study.study_date, "/".join(study.modalities), study.description, study.accession_number, count)
    return "  ".join([*(part for part in told if part), study.study_instance_uid])


def _tell(pulled: Pulled, source: str, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(pulled) | {"complete": pulled.is_complete, "sentence": pulled.sentence}, indent=1))
        return
    print(f"study {pulled.study_instance_uid} from {source}: {pulled.sentence}")
    for uid in pulled.missing[:10]:
        print(f"    missing: {uid}" + (f" ({pulled.refused[uid]})" if uid in pulled.refused else ""))
    if len(pulled.missing) > 10:
        print(f"    ... and {len(pulled.missing) - 10} more; --json lists them all")
