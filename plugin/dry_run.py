"""What would be sent, to whom, how, and what would be held: the outbox's own rules, with nothing done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydicom.uid import UID
from sqlalchemy import select

from dicom_io.errors import Rejected, TryAgain
from plugin import encodings
from plugin.archive.index import Index
from plugin.destinations import Destination, Parcel, opened
from plugin.jobs.delivery import gate, parcel_of
from plugin.jobs.planning import explain, of_encoding
from plugin.jobs.tables import Delivery, Job, Result
from plugin.settings import Settings


@dataclass(frozen=True)
class Planned:
    """One object on its way to one destination.

    stored, leaves: transfer syntaxes by name; leaves is "" where nothing is known or nothing would leave.
    encoding: of a result (`plugin.encodings`). size: of the stored file in bytes. verdict: "leaves", "held", "failed"
    or "refused" (by the peer), with the sentence in why. owed: the state of its row in the outbox, "" where none is.
    """

    destination: str
    sop_instance_uid: str
    sop_class: str
    encoding: str
    stored: str
    leaves: str
    size: int
    verdict: str
    why: str
    owed: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def of_study(index: Index, settings: Settings, study: str, job: str | None = None) -> list[Planned]:
    """What routes and jobs send of a study, as it and the configuration are now. job: only the results of this one.

    Destinations that answer are asked by association negotiation; nothing is sent and nothing is written.

    Raises:
        Rejected: the study is not in the archive.
    """
    if index.study(study) is None:
        raise Rejected(f"study {study} is not in the archive; send it first")
    made, owed = _results(index, study), _owed(index, study)
    planned: list[Planned] = []
    for name, uids in _addressed(index, settings, study, job, made).items():
        planned += _to_one(index, settings, name, uids, {uid: encoding for _, uid, encoding in made}, owed)
    return planned


def of_parcels(name: str, destination: Destination, parcels: Sequence[Parcel]) -> list[Planned]:
    """What `mirall send` would do with files that have passed the gate."""
    syntaxes, why = _negotiated(destination, parcels)
    return [_planned(name, parcel, syntax, why) for parcel, syntax in zip(parcels, syntaxes, strict=True)]


def _addressed(
    index: Index, settings: Settings, study: str, job: str | None, made: Sequence[tuple[str, str, str]]
) -> dict[str, list[str]]:
    """Destination -> SOP Instance UIDs, each once."""
    found: dict[str, dict[str, None]] = {}
    with index.read() as connection:
        if job is None:
            for answer in explain(index, settings, study):
                if answer.matches and not answer.run:
                    picked = [
                        row.sop_instance_uid
                        for row in index.instances(study, connection=connection)
                        if row.series_instance_uid in answer.series
                    ]
                    for name in answer.send_to:
                        profile = settings.destinations[name].profile
                        found.setdefault(name, {}).update(
                            dict.fromkeys(of_encoding(connection, study, picked, profile))
                        )
        jobs = select(Job.id, Job.spec).where(Job.study_instance_uid == study, Job.superseded_by.is_(None))
        for row in connection.execute(jobs if job is None else jobs.where(Job.id == job)):
            mine = [(uid, encoding) for of_job, uid, encoding in made if of_job == row.id]
            for name in row.spec["send_to"]:
                if name in settings.destinations:
                    profile, written = settings.destinations[name].profile, {encoding for _, encoding in mine}
                    fitting = [uid for uid, encoding in mine if encodings.fits(encoding, profile, written)]
                    found.setdefault(name, {}).update(dict.fromkeys(fitting))
    return {name: list(uids) for name, uids in found.items() if uids}


def _to_one(
    index: Index,
    settings: Settings,
    name: str,
    uids: Sequence[str],
    encoding_of: Mapping[str, str],
    owed: Mapping[tuple[str, str], str],
) -> list[Planned]:
    policy = settings.destinations[name]
    rows = [row for uid in uids if (row := index.instance(uid)) is not None]
    verdicts = {row.sop_instance_uid: gate(row, name, policy) for row in rows}
    free = [parcel_of(row) for row in rows if verdicts[row.sop_instance_uid] is None]
    syntaxes, why = _negotiated(opened(policy, settings.node.aet), free)
    leaving = {parcel.sop_instance_uid: syntax for parcel, syntax in zip(free, syntaxes, strict=True)}
    planned = []
    for row in rows:
        uid, refusal = row.sop_instance_uid, verdicts[row.sop_instance_uid]
        extra = {"encoding": encoding_of.get(uid, ""), "owed": owed.get((name, uid), "")}
        if refusal is None:
            planned.append(_planned(name, parcel_of(row), leaving[uid], why, **extra))
        else:
            planned.append(_planned(name, parcel_of(row), None, refusal.sentence, verdict=refusal.state, **extra))
    return planned


def _negotiated(destination: Destination, parcels: Sequence[Parcel]) -> tuple[list[UID | None], str]:
    """The syntaxes, and why they are not known where the destination does not answer."""
    if not parcels:
        return [], ""
    try:
        return destination.negotiate(parcels), ""
    except TryAgain as error:
        return [None for _ in parcels], f"not asked: {error}"


def _planned(
    name: str, parcel: Parcel, syntax: UID | None, why: str, *, verdict: str = "", encoding: str = "", owed: str = ""
) -> Planned:
    if not verdict:
        verdict = "leaves" if syntax is not None or why else "refused"
        why = why or (
            "" if syntax is not None else "the destination takes its SOP class in no syntax that we can write"
        )
    try:
        size = parcel.path.stat().st_size
    except OSError:
        size = 0
    return Planned(
        destination=name,
        sop_instance_uid=parcel.sop_instance_uid,
        sop_class=UID(parcel.sop_class_uid).name,
        encoding=encoding,
        stored=UID(parcel.transfer_syntax_uid).name,
        leaves="" if syntax is None else syntax.name,
        size=size,
        verdict=verdict,
        why=why,
        owed=owed,
    )


def _results(index: Index, study: str) -> list[tuple[str, str, str]]:
    """(job, SOP Instance UID, encoding) of the results in a study."""
    query = (
        select(Result.job_id, Result.sop_instance_uid, Result.encoding)
        .join(Job, Job.id == Result.job_id)
        .where(Job.study_instance_uid == study)
    )
    with index.read() as connection:
        return [(row[0], row[1], row[2]) for row in connection.execute(query)]


def _owed(index: Index, study: str) -> dict[tuple[str, str], str]:
    query = select(Delivery.destination, Delivery.sop_instance_uid, Delivery.state).where(
        Delivery.study_instance_uid == study
    )
    with index.read() as connection:
        return {(row[0], row[1]): row[2] for row in connection.execute(query)}
