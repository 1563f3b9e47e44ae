"""The tables of the worklist. Times are seconds since 1970 (UTC).

A job has no row here: what it is as a workitem is read from the job itself (`mirror`), so that the two cannot differ.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, Boolean, Float, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from plugin.archive.tables import Base


class Workitem(Base):
    """One workitem that somebody created.

    state: Procedure Step State (0074,1000); None for one that a job of ours performs, whose state is the job's.
    transaction_uid: of whoever claimed it; never given out (PS3.4 CC.2.7.3).
    attributes: DICOM JSON model (PS3.18 F) without Procedure Step State and Transaction UID; empty once it is deleted.
    ended_at: when it was completed or canceled. deleted_at: when it was deleted; the UID stays known (410).
    """

    __tablename__ = "workitem"

    uid: Mapped[str] = mapped_column(String(64), primary_key=True)
    state: Mapped[str | None] = mapped_column(String(16), index=True)
    transaction_uid: Mapped[str | None] = mapped_column(String(64))
    job_id: Mapped[str | None] = mapped_column(String(32), unique=True)
    attributes: Mapped[dict[str, Any]] = mapped_column(JSON)
    created_at: Mapped[float] = mapped_column(Float, index=True)
    updated_at: Mapped[float] = mapped_column(Float)
    ended_at: Mapped[float | None] = mapped_column(Float)
    deleted_at: Mapped[float | None] = mapped_column(Float)


class Subscription(Base):
    """That an application wants to be told of a workitem, or of the whole worklist (PS3.4 CC.2.3).

    target: UID of the workitem, or one of the two well-known UIDs (`subscriptions`).
    filter: conditions of a filtered subscription, [[path, text], ...].
    excluded: an exception from a subscription to the whole worklist.
    suspended_at: since when workitems that are new are no part of a subscription to the whole worklist.
    """

    __tablename__ = "workitem_subscription"

    aetitle: Mapped[str] = mapped_column(String(16), primary_key=True)
    target: Mapped[str] = mapped_column(String(64), primary_key=True)
    deletion_lock: Mapped[bool] = mapped_column(Boolean)
    filter: Mapped[list[list[str]]] = mapped_column(JSON)
    excluded: Mapped[bool] = mapped_column(Boolean)
    created_at: Mapped[float] = mapped_column(Float)
    suspended_at: Mapped[float | None] = mapped_column(Float)


class Event(Base):
    """Something that happened to a workitem with a row, for the processes that hold open channels to find.

    kind: Event Type ID (PS3.4 table CC.2.4-1). body: attributes of the report in the DICOM JSON model.
    receiver: the only application that it is for; "" for every subscriber.
    """

    __tablename__ = "workitem_event"
    __table_args__ = {"sqlite_autoincrement": True}  # noqa: RUF012  # numbers are not used again when rows are forgotten

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    uid: Mapped[str] = mapped_column(String(64))
    kind: Mapped[int] = mapped_column(Integer)
    body: Mapped[dict[str, Any]] = mapped_column(JSON)
    receiver: Mapped[str] = mapped_column(String(16))
    at: Mapped[float] = mapped_column(Float)
