"""The tables of the index. Times are seconds since 1970 (UTC); hashes are SHA-256 in hex.

Attributes are kept as the DICOM JSON model (PS3.18 F) of the attributes that belong to the level; `search` holds the
same values as queries compare them (levels.search_text), so that a search needs no function of the database's own.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, Boolean, Float, ForeignKey, Index, Integer, String, Text, false
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """All tables of Mirall's own database, the archive's and the jobs'."""


class Study(Base):
    """One study, and the state from which it follows what must still be done for it.

    input_hash: order-independent hash of the instances that others made (index.hash_of_input).
    planned_hash: the input_hash that was last planned; where the two differ, work is due.
    first_arrival_at: first arrival since the last plan. told_complete_at: when somebody said that all has come.
    """

    __tablename__ = "study"

    study_instance_uid: Mapped[str] = mapped_column(String(64), primary_key=True)
    patient_id: Mapped[str] = mapped_column(String(256), index=True)
    study_date: Mapped[str] = mapped_column(String(16), index=True)
    attributes: Mapped[dict[str, Any]] = mapped_column(JSON)
    search: Mapped[dict[str, Any]] = mapped_column(JSON)
    first_arrival_at: Mapped[float] = mapped_column(Float)
    last_arrival_at: Mapped[float] = mapped_column(Float)
    input_hash: Mapped[str] = mapped_column(String(64))
    planned_hash: Mapped[str | None] = mapped_column(String(64))
    told_complete_at: Mapped[float | None] = mapped_column(Float)


class Series(Base):
    """One series."""

    __tablename__ = "series"

    series_instance_uid: Mapped[str] = mapped_column(String(64), primary_key=True)
    study_instance_uid: Mapped[str] = mapped_column(
        ForeignKey("study.study_instance_uid", ondelete="CASCADE"), primary_key=True
    )
    modality: Mapped[str] = mapped_column(String(16), index=True)
    attributes: Mapped[dict[str, Any]] = mapped_column(JSON)
    search: Mapped[dict[str, Any]] = mapped_column(JSON)

    __table_args__ = (Index("series_of_study", "study_instance_uid", "series_instance_uid", "modality"),)


class Instance(Base):
    """One instance, its current bytes, and by which door it came.

    dataset_hash: of the bytes after the file meta group. has_pixels: it has (Float, Double Float) Pixel Data.
    record: the LabelRecord (JSON) of an object that we made.
    """

    __tablename__ = "instance"

    sop_instance_uid: Mapped[str] = mapped_column(String(64), primary_key=True)
    study_instance_uid: Mapped[str] = mapped_column(String(64))
    series_instance_uid: Mapped[str] = mapped_column(String(64))
    sop_class_uid: Mapped[str] = mapped_column(String(64))
    transfer_syntax_uid: Mapped[str] = mapped_column(String(64))
    storage_key: Mapped[str] = mapped_column(String(128), unique=True)
    size: Mapped[int] = mapped_column(Integer)
    dataset_hash: Mapped[str] = mapped_column(String(64))
    has_pixels: Mapped[bool] = mapped_column(Boolean, server_default=false())
    synthetic: Mapped[bool] = mapped_column(Boolean)
    made_by_us: Mapped[bool] = mapped_column(Boolean)
    record: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    arrived_at: Mapped[float] = mapped_column(Float)
    door: Mapped[str] = mapped_column(String(16))
    calling_aet: Mapped[str] = mapped_column(String(16))
    called_aet: Mapped[str] = mapped_column(String(16))
    address: Mapped[str] = mapped_column(String(64))
    attributes: Mapped[dict[str, Any]] = mapped_column(JSON)
    search: Mapped[dict[str, Any]] = mapped_column(JSON)

    __table_args__ = (Index("instance_of_series", "study_instance_uid", "series_instance_uid"),)


class SeriesContent(Base):
    """How many instances of one SOP class a series holds; triggers of the database keep it in step with `instance`."""

    __tablename__ = "series_content"

    study_instance_uid: Mapped[str] = mapped_column(String(64), primary_key=True)
    series_instance_uid: Mapped[str] = mapped_column(String(64), primary_key=True)
    sop_class_uid: Mapped[str] = mapped_column(String(64), primary_key=True)
    instances: Mapped[int] = mapped_column(Integer)

    __table_args__ = ({"sqlite_with_rowid": False},)


class InstanceVersion(Base):
    """Bytes that came under a UID and are not the current ones: superseded by, or put aside for, another header."""

    __tablename__ = "instance_version"

    storage_key: Mapped[str] = mapped_column(String(128), primary_key=True)
    sop_instance_uid: Mapped[str] = mapped_column(String(64), index=True)
    dataset_hash: Mapped[str] = mapped_column(String(64))
    size: Mapped[int] = mapped_column(Integer)
    state: Mapped[str] = mapped_column(String(16))  # "superseded" | "put aside"
    arrived_at: Mapped[float] = mapped_column(Float)
    replaced_at: Mapped[float] = mapped_column(Float)


class Device(Base):
    """Device UID (0018,1002) of a model version that made an object of ours; by it we know our own work again."""

    __tablename__ = "device"

    device_uid: Mapped[str] = mapped_column(String(64), primary_key=True)
    model: Mapped[str] = mapped_column(String(256))


class Quarantine(Base):
    """What was refused and why; its bytes lie in the quarantine folder under `storage_key`."""

    __tablename__ = "quarantine"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    storage_key: Mapped[str] = mapped_column(String(128), unique=True)
    reason: Mapped[str] = mapped_column(Text)
    sop_instance_uid: Mapped[str] = mapped_column(String(256))
    study_instance_uid: Mapped[str] = mapped_column(String(256))
    size: Mapped[int] = mapped_column(Integer)
    arrived_at: Mapped[float] = mapped_column(Float)
    attempts: Mapped[int] = mapped_column(Integer)
    door: Mapped[str] = mapped_column(String(16))
    calling_aet: Mapped[str] = mapped_column(String(16))
    called_aet: Mapped[str] = mapped_column(String(16))
    address: Mapped[str] = mapped_column(String(64))
