"""`mirall quarantine`, `reindex` and `send`: what is stored, what was refused, and sending it on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from plugin.archive.ingest import Ingest
    from plugin.destinations import Parcel
    from plugin.settings import Destination, Settings

Config = Annotated[Path | None, typer.Option("--config", help="mirall.toml; else the one in this folder.")]
Data = Annotated[Path | None, typer.Option("--data", help="Data folder, in place of the configured one.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Number = Annotated[int, typer.Argument(metavar="NUMBER", help="Number of an entry, as `quarantine list` shows it.")]

# Of many files that fail for one reason, the first few tell it.
_SENTENCES = 10

quarantine = typer.Typer(
    no_args_is_help=True, help="Objects that were refused; their bytes are kept.\n\nExample: mirall quarantine list"
)


def register(app: typer.Typer) -> None:
    app.command("send")(send)
    app.add_typer(quarantine, name="quarantine")
    app.command("reindex")(reindex)


@quarantine.command("list")
def list_entries(config: Config = None, data: Data = None, as_json: AsJson = False) -> None:
    """What was refused, and why.

    Example: mirall quarantine list --json
    """
    entries = _archive(config, data).quarantine.list()
    if as_json:
        print(json.dumps([entry.as_json() for entry in entries], indent=1))
        return
    for entry in entries:
        when = datetime.fromtimestamp(entry.arrived_at).isoformat(" ", "seconds")
        sender = " ".join(part for part in (entry.arrival.calling_aet, entry.arrival.address) if part)
        print(f"{entry.id}  {when}  {entry.arrival.door} {sender}\n    {entry.reason}")
    if not entries:
        print("the quarantine is empty")


@quarantine.command("show")
def show(number: Number, config: Config = None, data: Data = None) -> None:
    """One refused object: its reason, UIDs, sender and where its bytes lie.

    Example: mirall quarantine show 3
    """
    print(json.dumps(_archive(config, data).quarantine.get(number).as_json(), indent=1))


@quarantine.command("retry")
def retry(
    number: Number,
    replace: Annotated[
        bool, typer.Option("--replace", help="A held correction, or other pixels under a known UID, become current.")
    ] = False,
    config: Config = None,
    data: Data = None,
) -> None:
    """Try to store a refused object again, after its cause is gone or by a person's decision.

    Example: mirall quarantine retry 3 --replace
    """
    from dicom_io.errors import Rejected

    outcome = _archive(config, data).retry(number, "replace" if replace else None)
    if not outcome.accepted:
        raise Rejected(f"entry {number} stays in quarantine: {outcome.reason}")
    print(f"{outcome.state}: {outcome.sop_instance_uid} of study {outcome.study_instance_uid}")


def reindex(config: Config = None, data: Data = None, as_json: AsJson = False) -> None:
    """Take up what lies on disk and is not in the index; `mirall serve` does it at each start.

    After the loss of index.sqlite it builds the index anew from the stored files. Objects whose file is missing are
    counted, and named on stderr and in the JSON.

    Example: mirall reindex --data ./mirall-data
    """
    archive = _archive(config, data)
    found = archive.reindex()
    counts = archive.index.counts()
    if as_json:
        print(json.dumps({"found": found, "held": counts, "missing": archive.missing()}))
        return
    told = ", ".join(f"{number} {state}" for state, number in sorted(found.items())) or "nothing new"
    print(f"{told}; {counts['instances']} instances of {counts['studies']} studies are indexed")


def send(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="DICOM files, or folders of them.")],
    to: Annotated[
        str, typer.Option("--to", metavar="DEST", help="A configured name, AET@host:port, or a DICOMweb URL.")
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be sent; send nothing.")] = False,
    config: Config = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Send DICOM files by C-STORE or STOW-RS, as they are where the peer takes that.

    Files that Mirall made pass the label gate first. Exit code 1 where any file was not taken.

    Example: mirall send ./study --to ORTHANC@127.0.0.1:4242
    """
    from plugin import destinations, settings
    from plugin.cli.jobs import show_plan
    from plugin.dry_run import of_parcels

    loaded = settings.load(config, data=data)
    parcels = _parcels(loaded, _files(paths))
    peer = destinations.opened(destination_of(loaded, to), loaded.node.aet)
    if dry_run:
        show_plan(of_parcels(to, peer, parcels), as_json)
        return
    receipts = peer.send(parcels)
    rows = [
        {"path": str(parcel.path), "sop_instance_uid": parcel.sop_instance_uid, "outcome": receipt.outcome,
         "sentence": receipt.sentence}
        for parcel, receipt in zip(parcels, receipts, strict=True)
    ]  # fmt: skip
    taken = sum(row["outcome"] in ("sent", "confirmed") for row in rows)
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        told = [f"{row['path']}: {row['sentence']}" for row in rows if row["sentence"]]
        for line in told[:_SENTENCES]:
            print(line)
        if len(told) > _SENTENCES:
            print(f"... and {len(told) - _SENTENCES} more; --json lists them all")
        print(f"{taken} of {len(rows)} files were taken by {to}")
    if taken < len(rows):
        raise typer.Exit(1)


def _archive(config: Path | None, data: Path | None) -> Ingest:
    from plugin import settings
    from plugin.archive.ingest import open_archive

    return open_archive(settings.load(config, data=data))


def _files(paths: Sequence[Path]) -> list[Path]:
    """Files as given, and DICOM files inside folders. Raises Rejected where there are none."""
    from pydicom.misc import is_dicom

    from dicom_io.errors import Rejected

    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(each for each in path.rglob("*") if each.is_file() and is_dicom(each))
        elif path.is_file():
            found.append(path)
        else:
            raise Rejected(f"{path} does not exist; give DICOM files, or folders of them")
    if not found:
        raise Rejected(f"no DICOM file lies in {', '.join(map(str, paths))}")
    return found


def _parcels(settings: Settings, files: Sequence[Path]) -> list[Parcel]:
    """The files as a destination takes them, past the gate. Raises Unlabelled, Rejected."""
    from dicom_io.errors import Rejected
    from plugin.archive.gate import check_file, record_of
    from plugin.archive.index import Index
    from plugin.archive.received import Refused
    from plugin.destinations import Parcel
    from plugin.registry import Registry

    device_uids = Registry(settings.models).known_device_uids()
    index = None
    if (settings.data / "index.sqlite").is_file():
        index = Index(settings.data)
        index.upgrade()
    parcels = []
    for path in files:
        try:
            received = check_file(path, index, device_uids)
        except Refused as why:
            # Of many files, the sentence says which.
            raise Rejected(f"{path} cannot be sent: {why}") from why
        parcels.append(
            Parcel(
                sop_instance_uid=received.sop_instance_uid,
                sop_class_uid=received.sop_class_uid,
                series_instance_uid=received.series_instance_uid,
                study_instance_uid=received.study_instance_uid,
                transfer_syntax_uid=received.transfer_syntax_uid,
                path=path,
                record=record_of(path, received, index),
            )
        )
    return parcels


def destination_of(settings: Settings, to: str) -> Destination:
    """The peer that `send --to` and `pull --from` name: configured, AET@host:port, or a URL. Raises Rejected."""
    from dicom_io.errors import Rejected
    from plugin.settings import Destination, host_port

    if to in settings.destinations:
        return settings.destinations[to]
    if to.startswith(("http://", "https://")):
        return Destination(kind="stow", url=to.rstrip("/"))
    aet, at, address = to.rpartition("@")
    try:
        where = host_port(address)
        if at and aet:
            return Destination(kind="dimse", aet=aet, host=where.host, port=where.port)
    except ValueError:
        pass  # said below, with all three ways
    known = ", ".join(sorted(settings.destinations)) or "none"
    raise Rejected(f"{to!r} is no destination: give AET@host:port, a DICOMweb URL, or a configured name ({known})")
