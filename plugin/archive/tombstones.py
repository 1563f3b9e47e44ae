"""What was deleted: who, when, why, and which bytes must not come back by themselves.

A deletion is one transaction: the rows go, a tombstone for each file stays. The files go after it. A kill in between
leaves files that no row knows; a tombstone tells `reindex` to delete them instead of taking them up. Bytes that a
sender sends anew are newer than their tombstone: they are stored as anything that arrives, and the tombstone stays as
a record.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import (
    JSON,
    Boolean,
    Connection,
    Float,
    ForeignKey,
    Integer,
    Row,
    String,
    Text,
    bindparam,
    func,
    insert,
    select,
    text,
    update,
)
from sqlalchemy import Index as TableIndex
from sqlalchemy.orm import Mapped, mapped_column

from plugin.archive.index import Index
from plugin.archive.prepared import Prepared
from plugin.archive.storage import Storage
from plugin.archive.tables import Base, Instance

# Under one hold of the write lock; each costs about a sync of a folder.
_BATCH = 16


class Deletion(Base):
    """One deletion. level: "study", "series" or "instance"; series and instance UID are "" above their level.

    by: name of the token or of the machine's user. models: addresses of the model versions that had seen it.
    """

    __tablename__ = "deletion"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    level: Mapped[str] = mapped_column(String(16))
    study_instance_uid: Mapped[str] = mapped_column(String(64), index=True)
    series_instance_uid: Mapped[str] = mapped_column(String(64))
    sop_instance_uid: Mapped[str] = mapped_column(String(64))
    at: Mapped[float] = mapped_column(Float)
    by: Mapped[str] = mapped_column(String(256))
    why: Mapped[str] = mapped_column(Text)
    models: Mapped[list[str]] = mapped_column(JSON)


class Tombstone(Base):
    """One file of a deletion, current bytes or an earlier version's. is_swept: it is gone from disk."""

    __tablename__ = "tombstone"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    deletion_id: Mapped[int] = mapped_column(ForeignKey("deletion.id", ondelete="CASCADE"), index=True)
    storage_key: Mapped[str] = mapped_column(String(128), index=True)
    sop_instance_uid: Mapped[str] = mapped_column(String(64), index=True)
    is_swept: Mapped[bool] = mapped_column(Boolean)

    __table_args__ = (TableIndex("tombstone_unswept", "id", sqlite_where=text("is_swept = 0")),)


@dataclass(frozen=True)
class DeletionView:
    """A deletion as people see it. instances: how many it took; back: how many of them were sent anew since."""

    id: int
    level: str
    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    at: float
    by: str
    why: str
    models: tuple[str, ...]
    instances: int
    back: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def add(connection: Connection, files: Sequence[tuple[str, str]], **columns: Any) -> int:
    """Put tombstones for files, (storage key, SOP Instance UID) each; columns: of Deletion. Gives its id."""
    number = int(connection.execute(insert(Deletion).values(columns).returning(Deletion.id)).scalar_one())
    rows = [
        {"deletion_id": number, "storage_key": key, "sop_instance_uid": uid, "is_swept": False} for key, uid in files
    ]
    if rows:
        connection.execute(insert(Tombstone), rows)
    return number


def ready_made(data: Path) -> Path:
    """The folder of answers made from headers in advance (`dicomweb.metadata`); they go with any deletion."""
    return data / "cache" / "metadata"


def sweep(index: Index, storage: Storage) -> int:
    """Delete the files of deletions that are not swept yet, and answers made from any; gives how many files there were.

    In a few at a time under the write lock, and only what was written before its deletion: bytes that have come anew
    under the same key stay.
    """
    query = (
        select(Tombstone.id, Tombstone.storage_key, Deletion.at)
        .join(Deletion, Deletion.id == Tombstone.deletion_id)
        .where(text("is_swept = 0"))
    )
    with index.read() as connection:
        rows = list(connection.execute(query))
    if rows:
        # Which of them hold something of the deleted objects their names do not tell.
        for path in ready_made(index.data).glob("*.json*"):
            path.unlink(missing_ok=True)
    for start in range(0, len(rows), _BATCH):
        some = rows[start : start + _BATCH]
        with index.write() as connection:
            for row in some:
                if storage.path(row.storage_key).is_file() and not _is_new(
                    index, storage, connection, row.storage_key, row.at
                ):
                    storage.delete(row.storage_key)
            connection.execute(
                update(Tombstone).where(Tombstone.id.in_([row.id for row in some])).values(is_swept=True)
            )
    return len(rows)


_UNSWEPT = Prepared(select(Tombstone.id).where(Tombstone.storage_key == bindparam("key"), text("is_swept = 0")))


def may_sweep(connection: Connection, storage_key: str) -> bool:
    """Whether a deletion names this file and is not swept yet."""
    return bool(_UNSWEPT(connection, key=storage_key))


def _is_new(index: Index, storage: Storage, connection: Connection, key: str, deleted_at: float) -> bool:
    return storage.path(key).stat().st_mtime > deleted_at or index.knows(connection, key)


def newest(index: Index) -> int:
    """Id of the latest deletion, 0 before the first one; they go up."""
    with index.read() as connection:
        return connection.scalar(select(func.max(Deletion.id))) or 0


def deletions(index: Index, study_instance_uid: str | None = None, limit: int = 100) -> Sequence[DeletionView]:
    """What was deleted, the latest first."""
    query = select(Deletion.__table__).order_by(Deletion.id.desc()).limit(limit)
    if study_instance_uid is not None:
        query = query.where(Deletion.study_instance_uid == study_instance_uid)
    with index.read() as connection:
        rows = list(connection.execute(query))
        return [_view(connection, row) for row in rows]


def _view(connection: Connection, row: Row[Any]) -> DeletionView:
    uids = select(Tombstone.sop_instance_uid).where(Tombstone.deletion_id == row.id).distinct()
    back = select(Instance.sop_instance_uid).where(Instance.sop_instance_uid.in_(uids))
    counts = {"instances": len(list(connection.scalars(uids))), "back": len(list(connection.scalars(back)))}
    return DeletionView(**dict(row._mapping) | {"models": tuple(row.models)} | counts)


def deleted_uids(index: Index) -> frozenset[str]:
    """SOP Instance UIDs that were deleted and have not come back."""
    here = select(Instance.sop_instance_uid).where(Instance.sop_instance_uid == Tombstone.sop_instance_uid)
    with index.read() as connection:
        return frozenset(connection.scalars(select(Tombstone.sop_instance_uid).where(~here.exists())))
