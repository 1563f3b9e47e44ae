"""Whether a study is complete by its sender's own list, and not by the timer alone.

A study that has been quiet, and came by DIMSE from a peer that is a destination, too, waits for the answer to one
question for each such peer: what of the study do you list? The question is a row of `reconciliation`; `senders.Asker`
asks, fetches what is missing and writes the answer into it. Nothing here waits: the sweep reads and writes rows.

    waiting     to be asked, or asked again after a failure, at next_attempt_at
    complete    everything that the peer lists is here
    incomplete  something that it lists could not be fetched; the study is worked on as incomplete
    unanswered  it could not be asked; the study counts as complete by the timer alone

An answer holds for the input hash beside it: what arrives later is asked about anew.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, Float, ForeignKey, Integer, String, Text, insert, null, select, update
from sqlalchemy.orm import Mapped, mapped_column

from plugin.archive.index import Index, StudyRow
from plugin.archive.tables import Base, Instance
from plugin.settings import Settings

WAITING, COMPLETE, INCOMPLETE, UNANSWERED = "waiting", "complete", "incomplete", "unanswered"


class Reconciliation(Base):
    """What one sender (destination, by name) was asked about one study. Times are seconds since 1970 (UTC).

    since: when it was first to be asked. attempts: questions that failed, or left something missing, since then.
    listed, fetched, missing: instances, in the last answer. sentence: the answer in words.
    """

    __tablename__ = "reconciliation"

    study_instance_uid: Mapped[str] = mapped_column(
        ForeignKey("study.study_instance_uid", ondelete="CASCADE"), primary_key=True
    )
    destination: Mapped[str] = mapped_column(String(256), primary_key=True)
    state: Mapped[str] = mapped_column(String(16))
    input_hash: Mapped[str] = mapped_column(String(64))
    since: Mapped[float] = mapped_column(Float)
    attempts: Mapped[int] = mapped_column(Integer)
    next_attempt_at: Mapped[float | None] = mapped_column(Float, index=True)
    listed: Mapped[int] = mapped_column(Integer)
    fetched: Mapped[int] = mapped_column(Integer)
    missing: Mapped[int] = mapped_column(Integer)
    sentence: Mapped[str] = mapped_column(Text)
    updated_at: Mapped[float] = mapped_column(Float)


@dataclass(frozen=True)
class Note:
    """A row of it, for people. is_current: the answer is about the study as it is now."""

    study_instance_uid: str
    destination: str
    state: str
    since: float
    attempts: int
    next_attempt_at: float | None
    listed: int
    fetched: int
    missing: int
    sentence: str
    updated_at: float
    is_current: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Answer:
    """What the senders' answers make of a study. must_wait: one is still to come.

    settled: a sender's list says what belongs to it, so the timer need not. incomplete: some of that is not here.
    """

    must_wait: bool = False
    settled: bool = False
    incomplete: bool = False


def answer(index: Index, study: StudyRow, connection: Connection | None = None) -> Answer:
    """From the rows that there are; nothing is asked."""
    current = [note for note in notes(index, study, connection) if note.is_current or note.state == WAITING]
    states = {note.state for note in current}
    must_wait = WAITING in states
    settled = not must_wait and bool(states & {COMPLETE, INCOMPLETE})
    return Answer(must_wait, settled, incomplete=INCOMPLETE in states)


def ask(index: Index, settings: Settings, study: StudyRow, now: float) -> Answer:
    """As `answer`, for a study that has been quiet: each sender that has not said anything of it as it is is asked.

    Whoever does not answer within `study.maximum_wait_s` is waited for no longer.
    """
    with index.read() as connection:
        if not _changes(connection, index, settings, study, now):
            return answer(index, study, connection)
    with index.write() as connection:
        for name, state, sentence in _changes(connection, index, settings, study, now):
            enter(connection, study, name, state, now, sentence=sentence)
        return answer(index, study, connection)


def _changes(
    connection: Connection, index: Index, settings: Settings, study: StudyRow, now: float
) -> list[tuple[str, str, str]]:
    """What to enter now: (destination, state, sentence)."""
    here = {note.destination: note for note in notes(index, study, connection)}
    names = senders(settings, study.study_instance_uid, connection)
    changes = [
        (name, WAITING, "")
        for name in names
        if name not in here or not (here[name].is_current or here[name].state == WAITING)
    ]
    for name, note in here.items():
        if note.state == WAITING and name not in names:
            changes.append((name, UNANSWERED, f"{name} is not asked any more: the configuration has changed"))
        elif note.state == WAITING and abs(now - note.since) >= settings.study.maximum_wait_s:
            waited = f"within {settings.study.maximum_wait_s:g} s (study.maximum_wait_s)"
            why = f": {note.sentence}" if note.sentence else ""
            changes.append((name, UNANSWERED, f"{name} has not answered {waited}{why}"))
    return changes


def senders(settings: Settings, study_instance_uid: str, connection: Connection) -> list[str]:
    """Names of the DIMSE destinations whose AE title sent something of the study to us."""
    if not settings.study.reconcile or not settings.destinations:
        return []
    titles = set(
        connection.scalars(
            select(Instance.calling_aet)
            .distinct()
            .where(
                Instance.study_instance_uid == study_instance_uid,
                Instance.door == "dimse",
                Instance.made_by_us.is_(False),
            )
        )
    )
    return [
        name
        for name, destination in settings.destinations.items()
        if destination.kind == "dimse" and str(destination.aet).strip() in titles
    ]


def notes(index: Index, study: StudyRow, connection: Connection | None = None) -> list[Note]:
    """What senders were asked about a study, and said."""
    query = (
        select(Reconciliation.__table__)
        .where(Reconciliation.study_instance_uid == study.study_instance_uid)
        .order_by(Reconciliation.destination)
    )
    if connection is None:
        with index.read() as own:
            rows = list(own.execute(query))
    else:
        rows = list(connection.execute(query))
    names = [name for name in Note.__dataclass_fields__ if name != "is_current"]
    return [
        Note(**{name: row._mapping[name] for name in names}, is_current=row.input_hash == study.input_hash)
        for row in rows
    ]


def enter(connection: Connection, study: StudyRow, destination: str, state: str, now: float, **columns: Any) -> None:
    """Write what is known of one sender and the study as it is in this transaction.

    columns: listed, fetched, missing, sentence; "waiting" begins the question from the start.
    """
    where = (
        Reconciliation.study_instance_uid == study.study_instance_uid,
        Reconciliation.destination == destination,
    )
    values = {"state": state, "input_hash": study.input_hash, "next_attempt_at": null(), "updated_at": now} | columns
    if state == WAITING:
        values |= _UNASKED | {"since": now, "next_attempt_at": now}
    if connection.scalar(select(Reconciliation.state).where(*where)) is None:
        key = {"study_instance_uid": study.study_instance_uid, "destination": destination, "since": now}
        connection.execute(insert(Reconciliation).values(key | _UNASKED | values))
    else:
        connection.execute(update(Reconciliation).where(*where).values(values))


_UNASKED = {"attempts": 0, "listed": 0, "fetched": 0, "missing": 0, "sentence": ""}
