"""What was refused: its bytes are kept, its reason is a sentence, it is listed and can be tried again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Row, delete, insert, select, update

from dicom_io.errors import Rejected
from plugin.archive.arrival import Arrival
from plugin.archive.index import Index
from plugin.archive.received import Refused
from plugin.archive.storage import Storage, file_hash, sync_file
from plugin.archive.tables import Quarantine

# In the sidecar of a refused object of ours only; the database has no need of it.
_RECORD = "record"


@dataclass(frozen=True)
class Entry:
    """One refused object. arrived_at: first arrival; attempts: how often it came or was tried again."""

    id: int
    reason: str
    sop_instance_uid: str
    study_instance_uid: str
    path: Path
    size: int
    arrived_at: float
    attempts: int
    arrival: Arrival

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "reason": self.reason,
            "sop_instance_uid": self.sop_instance_uid,
            "study_instance_uid": self.study_instance_uid,
            "path": str(self.path),
            "size": self.size,
            "arrived_at": self.arrived_at,
            "attempts": self.attempts,
            **self.arrival.as_json(),
        }


class QuarantineList:
    """The quarantine of one data folder."""

    def __init__(self, index: Index, storage: Storage) -> None:
        self._index = index
        self._storage = storage

    def add(self, received: Path, arrival: Arrival, why: Refused, at: float, record: str | None = None) -> None:
        """Keep refused bytes with their reason; the same bytes again count as another attempt. Raises NoSpace.

        record: what says of an object that it is ours; without it, it could come back as the work of others.
        """
        key = f"{file_hash(received)}.dcm"
        row: dict[str, Any] = {
            "reason": str(why),
            "sop_instance_uid": why.sop_instance_uid,
            "study_instance_uid": why.study_instance_uid,
            "size": received.stat().st_size,
            "arrived_at": at,
            **arrival.as_json(),
        }
        sync_file(received)
        self._storage.put_aside(received, key, row | ({} if record is None else {_RECORD: record}))
        self._note(key, row)

    def list(self) -> list[Entry]:
        """All entries, the oldest first."""
        with self._index.read() as connection:
            return [
                self._entry(row) for row in connection.execute(select(Quarantine.__table__).order_by(Quarantine.id))
            ]

    def get(self, entry_id: int) -> Entry:
        """Raises Rejected where there is no such entry."""
        with self._index.read() as connection:
            row = connection.execute(select(Quarantine.__table__).where(Quarantine.id == entry_id)).one_or_none()
        if row is None:
            raise Rejected(f"there is no entry {entry_id} in quarantine; see `mirall quarantine list`")
        return self._entry(row)

    def record(self, entry: Entry) -> str | None:
        """What `add` was given as the record of an object of ours."""
        text: str | None = self._storage.quarantined_sidecar(entry.path.name).get(_RECORD)
        return text

    def forget(self, entry: Entry) -> None:
        """Take an entry out, after its bytes were stored elsewhere."""
        with self._index.write() as connection:
            connection.execute(delete(Quarantine).where(Quarantine.id == entry.id))
        self._storage.forget_quarantined(entry.path.name)

    def reindex(self) -> int:
        """List again what lies in the folder and is not listed. Gives how many."""
        with self._index.read() as connection:
            known = {row.storage_key for row in connection.execute(select(Quarantine.storage_key))}
        found = [(key, row) for key, row in self._storage.quarantined() if key not in known]
        for key, beside in found:
            row = {name: value for name, value in beside.items() if name != _RECORD}
            # Bytes without their note: it is made durable first, so only a damaged disk gets here.
            size = (self._storage.quarantine / key).stat().st_size
            unknown = {"reason": "the reason was lost; try it again", "sop_instance_uid": "", "study_instance_uid": ""}
            self._note(key, {**unknown, "size": size, "arrived_at": 0.0, **Arrival("").as_json(), **row})
        return len(found)

    def _note(self, key: str, row: dict[str, Any]) -> None:
        with self._index.write() as connection:
            known = connection.execute(
                update(Quarantine)
                .where(Quarantine.storage_key == key)
                .values(reason=row["reason"], attempts=Quarantine.attempts + 1)
            )
            if known.rowcount == 0:
                connection.execute(insert(Quarantine).values(storage_key=key, attempts=1, **row))

    def _entry(self, row: Row[Any]) -> Entry:
        return Entry(
            id=row.id,
            reason=row.reason,
            sop_instance_uid=row.sop_instance_uid,
            study_instance_uid=row.study_instance_uid,
            path=self._storage.quarantine / row.storage_key,
            size=row.size,
            arrived_at=row.arrived_at,
            attempts=row.attempts,
            arrival=Arrival(row.door, row.calling_aet, row.called_aet, row.address),
        )
