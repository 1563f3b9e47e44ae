"""The tables of jobs, their results, and what is owed to destinations. Times are seconds since 1970 (UTC).

They stand in the index's database, not in the engine's file: planning a study, its jobs and its `planned_hash` are one
commit, and whoever lists jobs needs no engine.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, Boolean, Float, ForeignKey, Index, Integer, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from plugin.archive.tables import Base, Study

# What the sweep asks for every second; without it each question reads the whole table.
study_is_due = Study.planned_hash.is_distinct_from(Study.input_hash)
Index("study_due", Study.study_instance_uid, sqlite_where=study_is_due, postgresql_where=study_is_due)


class Job(Base):
    """One piece of durable work: one model version on the series of one study that one route picked, or one generation.

    id: a function of study, input, route and model (`planning.job_id`), so that planning twice is one job.
    input_hash: order-independent hash of the instances that the route picked; "" for a generation.
    spec: what to do: {"instances": [...], "force": bool} or {"n", "seed", "label"}, with "send_to": [...].
    run: which run of it this is; raised by a retry and by a pause. A worker that finds another number stops.
    attempts: starts since the last retry by a person. not_before: earliest next start after a failure that may pass.
    handed_over: the engine has been told of this run (waiting), or of its cancel (cancelled).
    made_at: date and time that its results bear, fixed when it was planned (promise 2).
    superseded_by: id of the job on a later input of the same study, route and model; its results stay.
    """

    __tablename__ = "job"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))  # "predict" | "generate"
    study_instance_uid: Mapped[str | None] = mapped_column(String(64), index=True)
    route: Mapped[str] = mapped_column(String(256))
    model: Mapped[str] = mapped_column(String(256))
    input_hash: Mapped[str] = mapped_column(String(64))
    incomplete: Mapped[bool] = mapped_column(Boolean)
    spec: Mapped[dict[str, Any]] = mapped_column(JSON)
    state: Mapped[str] = mapped_column(String(16), index=True)
    progress: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    error: Mapped[str] = mapped_column(Text)
    run: Mapped[int] = mapped_column(Integer)
    attempts: Mapped[int] = mapped_column(Integer)
    not_before: Mapped[float | None] = mapped_column(Float)
    handed_over: Mapped[bool] = mapped_column(Boolean)
    made_at: Mapped[float] = mapped_column(Float)
    created_at: Mapped[float] = mapped_column(Float)
    started_at: Mapped[float | None] = mapped_column(Float)
    ended_at: Mapped[float | None] = mapped_column(Float)
    superseded_by: Mapped[str | None] = mapped_column(String(32))


class Result(Base):
    """An instance that a job made. Two jobs may make the same one: its UID is a function of what it was made from.

    finding: a few words on what was found, for people, such as "3.1 ml of tumour".
    encoding: how it is written (`plugin.encodings`), such as "labelmap"; "" for results of before they were told apart.
    """

    __tablename__ = "result"

    job_id: Mapped[str] = mapped_column(ForeignKey("job.id", ondelete="CASCADE"), primary_key=True)
    sop_instance_uid: Mapped[str] = mapped_column(String(64), primary_key=True, index=True)
    finding: Mapped[str] = mapped_column(Text)
    encoding: Mapped[str] = mapped_column(String(32), server_default="")


class Delivery(Base):
    """One instance owed to one destination (a row of the outbox).

    state: queued, held, sent, delivered, committed, unknown, failed (`plugin.jobs.delivery` says what each means).
    attempts: sends tried. checks: times the destination was asked whether it has the object.
    next_attempt_at: when to send, or to ask, again; None where nothing is left to do without a person.
    commitment: "wanted": the destination is still to be asked to commit itself to the object; "asked": it was, and
        `transaction_uid` names the request; "" where there is nothing to ask or to wait for.
    """

    __tablename__ = "outbox"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    sop_instance_uid: Mapped[str] = mapped_column(String(64))
    study_instance_uid: Mapped[str] = mapped_column(String(64), index=True)
    destination: Mapped[str] = mapped_column(String(256))
    job_id: Mapped[str | None] = mapped_column(String(32), index=True)
    state: Mapped[str] = mapped_column(String(16))
    attempts: Mapped[int] = mapped_column(Integer)
    checks: Mapped[int] = mapped_column(Integer)
    next_attempt_at: Mapped[float | None] = mapped_column(Float, index=True)
    last_error: Mapped[str] = mapped_column(Text)
    created_at: Mapped[float] = mapped_column(Float)
    updated_at: Mapped[float] = mapped_column(Float)
    commitment: Mapped[str] = mapped_column(String(16), server_default="")
    transaction_uid: Mapped[str | None] = mapped_column(String(64), index=True)

    __table_args__ = (UniqueConstraint("sop_instance_uid", "destination"),)


class Commitment(Base):
    """A storage commitment that we asked a destination for (PS3.4 J); rows of the outbox that name it are its items.

    state: "opened": the request is on its way; "asked": it was taken; "reported": its N-EVENT-REPORT has come;
        "overdue": none came in time (a late one still counts); "void": it was not taken, or nobody knows.
    """

    __tablename__ = "commitment"

    transaction_uid: Mapped[str] = mapped_column(String(64), primary_key=True)
    destination: Mapped[str] = mapped_column(String(256))
    state: Mapped[str] = mapped_column(String(16))
    asked_at: Mapped[float] = mapped_column(Float)
    reported_at: Mapped[float | None] = mapped_column(Float)

    __table_args__ = (Index("commitment_waiting", "destination", "state"),)


class OwedReport(Base):
    """A storage commitment that a peer asked us for, and how far our N-EVENT-REPORT has come.

    peer: its AE title. asked_for: [[SOP Class UID, SOP Instance UID], ...].
    state: "owed"; "held": no destination of this AE title is configured; "reported"; "given up".
    next_attempt_at: when to report on an association of our own; None where nothing is left to do.
    """

    __tablename__ = "commitment_owed"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    transaction_uid: Mapped[str] = mapped_column(String(64))
    peer: Mapped[str] = mapped_column(String(16))
    asked_for: Mapped[list[list[str]]] = mapped_column(JSON)
    state: Mapped[str] = mapped_column(String(16))
    attempts: Mapped[int] = mapped_column(Integer)
    next_attempt_at: Mapped[float | None] = mapped_column(Float, index=True)
    last_error: Mapped[str] = mapped_column(Text)
    asked_at: Mapped[float] = mapped_column(Float)
    updated_at: Mapped[float] = mapped_column(Float)

    __table_args__ = (UniqueConstraint("peer", "transaction_uid"),)
