"""The index: a database over the stored bytes, and the truth about what must still be done.

    with index.write() as connection: ...   one transaction; it holds the only write lock from its first line
    with index.read() as connection: ...    a steady view

SQLite is used with a write-ahead log, synchronous=FULL (a commit is on disk when it returns) and BEGIN IMMEDIATE (a
writer waits for its turn instead of failing half way). Who has many commits may leave out their syncs and make one of
its own behind them, beside the next writer's work: the log is one file, and what stands earlier in it comes with it.
The tables of other parts (jobs, outbox) share the file, so that one transaction can span both.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import sqlite3
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    Connection,
    Engine,
    Row,
    Select,
    bindparam,
    create_engine,
    delete,
    event,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import ConnectionPoolEntry

from plugin.archive.prepared import Prepared, driver_of, from_json, inserting, to_json
from plugin.archive.reading import Readers
from plugin.archive.storage import NoSpace, make_private, sync_data
from plugin.archive.tables import Base, Device, Instance, InstanceVersion, Quarantine, Series, Study

if TYPE_CHECKING:
    from alembic.config import Config

NO_INPUT = "0" * 64
"""Input hash of a study without an instance of others; nothing is due for it."""

_LOCK_WAIT_S = 60
# SQLite takes 32766 values in one statement at most.
_VALUES = 10_000


def hash_of_input(input_hash: str, *, add: tuple[str, str] | None = None, remove: tuple[str, str] | None = None) -> str:
    """A study's input hash after one (SOP Instance UID, data-set hash) joined or left it.

    The sum modulo 2**256 of SHA-256("uid|hash") over the instances: independent of order, and one step per arrival.
    """
    total = int(input_hash, 16)
    if add:
        total += _term(add)
    if remove:
        total -= _term(remove)
    return f"{total % 2**256:064x}"


def _term(instance: tuple[str, str]) -> int:
    return int(hashlib.sha256("|".join(instance).encode()).hexdigest(), 16)


@dataclass(frozen=True)
class StudyRow:
    """A study as indexed; see tables.Study. attributes: DICOM JSON model, by 8-digit tag."""

    study_instance_uid: str
    patient_id: str
    attributes: dict[str, Any]
    first_arrival_at: float
    last_arrival_at: float
    input_hash: str
    planned_hash: str | None
    told_complete_at: float | None

    @property
    def is_due(self) -> bool:
        """Something arrived that no plan has seen."""
        return self.input_hash not in (NO_INPUT, self.planned_hash)


@dataclass(frozen=True)
class InstanceRow:
    """An instance as indexed, with where its bytes lie.

    attributes: DICOM JSON model of its study, series and instance level together, by 8-digit tag.
    record: the LabelRecord (as JSON object) of an object that we made.
    """

    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    storage_key: str
    path: Path
    size: int
    dataset_hash: str
    has_pixels: bool
    synthetic: bool
    made_by_us: bool
    record: dict[str, Any] | None
    arrived_at: float
    door: str
    calling_aet: str
    called_aet: str
    address: str
    attributes: dict[str, Any] = field(repr=False)


class Index:
    """The database of one data folder. Safe to use from several threads and processes.

    data: the data folder; the database is <data>/index.sqlite, the bytes lie below <data>/archive/objects.
    """

    def __init__(self, data: Path) -> None:
        self.data = data
        self.objects = data / "archive" / "objects"
        self.engine = _engine(data / "index.sqlite")
        self.readers = Readers(data / "index.sqlite", _LOCK_WAIT_S)
        self._writers = threading.Lock()
        self._writing: Connection | None = None
        self._is_synced = True
        self._lock_file: int | None = None

    def upgrade(self) -> None:
        """Bring the tables to this release's form; several processes may call it at once."""
        # Only here: the processes that receive start on tables that are up to date.
        from alembic import command
        from alembic.runtime.migration import MigrationContext
        from alembic.script import ScriptDirectory

        make_private(self.data)
        # SQLite gives its -wal and -shm the mode of the database; it holds names of patients. Only where there is none
        # yet: to close any descriptor of a database drops all locks of this process on it (POSIX), under its users.
        with suppress(FileExistsError):
            os.close(os.open(self.data / "index.sqlite", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        with (self.data / "index.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            config = _alembic()
            with self.engine.connect() as connection:
                here = MigrationContext.configure(connection).get_current_revision()
            if here != ScriptDirectory.from_config(config).get_current_head():
                with self.engine.begin() as connection:
                    config.attributes["connection"] = connection
                    command.upgrade(config, "head")

    @contextmanager
    def write(self, *, synced: bool = True) -> Iterator[Connection]:
        """One transaction that has the write lock from its start; committed at the end, rolled back on an exception.

        synced: it is on disk when this ends; otherwise it is seen by all, and on disk after `sync`, or after whatever
        is committed with a sync behind it. Raises NoSpace where the disk is full.
        """
        try:
            with self._turn_to_write():
                # One at a time, so one connection will do; to take one from the pool costs more than to write.
                if self._writing is None:
                    self._writing = self.engine.connect().execution_options(mirall_write=True)
                if synced != self._is_synced:
                    # Either way the log is synced before its pages go to their places, and at each new beginning.
                    driver_of(self._writing).execute(f"PRAGMA synchronous={'FULL' if synced else 'NORMAL'}")
                    self._is_synced = synced
                with self._writing.begin():
                    yield self._writing
        except (OperationalError, sqlite3.OperationalError) as error:
            cause = getattr(error, "orig", error)
            name = getattr(cause, "sqlite_errorname", "")
            if name == "SQLITE_FULL" or name.startswith("SQLITE_IOERR"):
                raise NoSpace(
                    f"the index cannot be written ({cause}); free space on the disk that holds {self.data}"
                ) from error
            raise

    def sync(self) -> None:
        """All that was committed until now, by whomever, is on disk when this returns. Raises NoSpace."""
        try:
            sync_data(self.data / "index.sqlite-wal")
        except (NoSpace, OSError):
            self._begin_log_anew()
            raise

    def _begin_log_anew(self) -> None:
        """Have what stands in the log put in its place: where a part of it was lost, all behind that would be, too, and
        the system tells of a failed sync once only."""
        with (
            suppress(sqlite3.Error),
            self._turn_to_write(),
            closing(sqlite3.connect(self.data / "index.sqlite")) as own,
        ):
            own.execute("PRAGMA wal_checkpoint(RESTART)")

    @contextmanager
    def _turn_to_write(self) -> Iterator[None]:
        """One writer after the other, over threads and processes.

        SQLite sees to that, too, but those who wait for its lock look for it in growing intervals of milliseconds.
        """
        with self._writers:
            if self._lock_file is None:
                self._lock_file = os.open(self.data / "index.lock", os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._lock_file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._lock_file, fcntl.LOCK_UN)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        with self.engine.connect() as connection, connection.begin():
            yield connection

    def close(self) -> None:
        with self._writers:
            if self._writing is not None:
                self._writing.close()
                self._writing = None
            self.readers.close()
            self.engine.dispose()
            if self._lock_file is not None:
                os.close(self._lock_file)
                self._lock_file = None

    # What is there

    def study(self, study_instance_uid: str, connection: Connection | None = None) -> StudyRow | None:
        query = select(Study.__table__).where(Study.study_instance_uid == study_instance_uid)
        rows = self._rows(query, connection)
        return _study(rows[0]) if rows else None

    def studies(self, connection: Connection | None = None) -> list[StudyRow]:
        """All studies, the latest arrival first."""
        query = select(Study.__table__).order_by(Study.last_arrival_at.desc())
        return [_study(row) for row in self._rows(query, connection)]

    def studies_due(self, connection: Connection | None = None) -> list[StudyRow]:
        """Studies whose input differs from what was last planned, in order of their last arrival."""
        query = (
            select(Study.__table__)
            .where(Study.input_hash != NO_INPUT, Study.input_hash != func.coalesce(Study.planned_hash, ""))
            .order_by(Study.last_arrival_at)
        )
        return [_study(row) for row in self._rows(query, connection)]

    def instances(
        self,
        study_instance_uid: str,
        *,
        series_instance_uid: str | None = None,
        include_ours: bool = True,
        connection: Connection | None = None,
    ) -> list[InstanceRow]:
        """The instances of a study or series, by series and arrival. `include_ours=False`: only others' work."""
        query = _instances().where(Instance.study_instance_uid == study_instance_uid)
        if series_instance_uid is not None:
            query = query.where(Instance.series_instance_uid == series_instance_uid)
        if not include_ours:
            query = query.where(Instance.made_by_us.is_(False))
        query = query.order_by(Instance.series_instance_uid, Instance.arrived_at, Instance.sop_instance_uid)
        return [self._instance(row) for row in self._rows(query, connection)]

    def instance(self, sop_instance_uid: str, connection: Connection | None = None) -> InstanceRow | None:
        rows = self._rows(_instances().where(Instance.sop_instance_uid == sop_instance_uid), connection)
        return self._instance(rows[0]) if rows else None

    def counts(self, connection: Connection | None = None) -> dict[str, int]:
        """How many studies, series, instances and quarantined objects there are."""
        tables = {"studies": Study, "series": Series, "instances": Instance, "quarantined": Quarantine}
        return {
            name: self._rows(select(func.count()).select_from(table), connection)[0][0]
            for name, table in tables.items()
        }

    def device_uids(self, connection: Connection | None = None) -> frozenset[str]:
        """Device UIDs of the model versions whose work we have stored."""
        return frozenset(row.device_uid for row in self._rows(select(Device.device_uid), connection))

    # What is still to be done

    def mark_planned(self, connection: Connection, study_instance_uid: str, input_hash: str) -> None:
        """State, in the transaction that also enqueues the work, that this input set has been planned."""
        connection.execute(
            update(Study).where(Study.study_instance_uid == study_instance_uid).values(planned_hash=input_hash)
        )

    def mark_told_complete(self, connection: Connection, study_instance_uid: str, at: float) -> None:
        """Somebody said that all instances of the study have come."""
        connection.execute(
            update(Study).where(Study.study_instance_uid == study_instance_uid).values(told_complete_at=at)
        )

    # Changes; used by plugin.archive.ingest inside one transaction

    def add_device(self, connection: Connection, device_uid: str, model: str) -> None:
        if not self._rows(select(Device.device_uid).where(Device.device_uid == device_uid), connection):
            connection.execute(insert(Device).values(device_uid=device_uid, model=model))

    def holds(self, connection: Connection, sop_instance_uid: str) -> bool:
        """Whether there is such an instance."""
        return bool(_HOLDS(connection, uid=sop_instance_uid))

    def patient_of(self, connection: Connection, study_instance_uid: str) -> str | None:
        """Patient ID (0010,0020) of a study; None where there is no such study."""
        rows = _PATIENT(connection, uid=study_instance_uid)
        return str(rows[0][0]) if rows else None

    def add_instance(
        self,
        connection: Connection,
        *,
        study: dict[str, Any],
        series: dict[str, Any],
        instance: dict[str, Any],
        at: float,
    ) -> None:
        """Add one instance, with its series and study where they are new, and follow with the study's state.

        study, series, instance: the columns of the tables but for the study's state, JSON as text. What we made
        ourselves neither counts as an arrival nor changes the input hash.
        """
        uid = instance["study_instance_uid"]
        others = not instance["made_by_us"]
        rows = _STUDY(connection, uid=uid)
        if not rows:
            state = {"first_arrival_at": at, "last_arrival_at": at, "input_hash": NO_INPUT, "planned_hash": None}
            _insert(connection, Study, study | state)
            rows = _STUDY(connection, uid=uid)
        elif others and rows[0][:4] != tuple(study[name] for name in _OF_STUDY):
            connection.execute(update(Study).where(Study.study_instance_uid == uid).values(**_parsed(study)))
        if others:
            *_, input_hash, planned_hash, first_arrival_at = rows[0]
            is_due = input_hash not in (NO_INPUT, planned_hash)
            term = (instance["sop_instance_uid"], instance["dataset_hash"])
            _ARRIVED(
                connection,
                uid=uid,
                hash=hash_of_input(input_hash, add=term),
                first=first_arrival_at if is_due else at,
                last=at,
            )
        here = _SERIES(connection, study=uid, series=series["series_instance_uid"])
        if not here:
            _insert(connection, Series, series)
        elif here[0] != tuple(series[name] for name in _OF_SERIES):
            where = (
                Series.study_instance_uid == uid,
                Series.series_instance_uid == series["series_instance_uid"],
            )
            connection.execute(update(Series).where(*where).values(**_parsed(series)))
        _insert(connection, Instance, instance)

    def remove_instance(self, connection: Connection, row: InstanceRow, at: float) -> None:
        """Take an instance out; a series and study that are left empty go, too. The bytes stay where they are."""
        self.remove_instances(connection, [row], at)

    def remove_instances(self, connection: Connection, rows: Sequence[InstanceRow], at: float) -> None:
        """`remove_instance` for instances of one study, in a few statements however many they are."""
        uid = rows[0].study_instance_uid
        for start in range(0, len(rows), _VALUES):
            uids = [row.sop_instance_uid for row in rows[start : start + _VALUES]]
            connection.execute(delete(Instance).where(Instance.sop_instance_uid.in_(uids)))
        left = select(Instance.sop_instance_uid).where(Instance.study_instance_uid == uid)
        for series in {row.series_instance_uid for row in rows}:
            if not self._rows(left.where(Instance.series_instance_uid == series).limit(1), connection):
                connection.execute(
                    delete(Series).where(Series.study_instance_uid == uid, Series.series_instance_uid == series)
                )
        study = self.study(uid, connection)
        if study is None:
            return
        if not self._rows(left.limit(1), connection):
            connection.execute(delete(Study).where(Study.study_instance_uid == uid))
            return
        terms = [(row.sop_instance_uid, row.dataset_hash) for row in rows if not row.made_by_us]
        if not terms:
            return
        input_hash = study.input_hash
        for term in terms:
            input_hash = hash_of_input(input_hash, remove=term)
        connection.execute(
            update(Study)
            .where(Study.study_instance_uid == uid)
            .values(
                input_hash=input_hash,
                last_arrival_at=at,
                first_arrival_at=study.first_arrival_at if study.is_due else at,
            )
        )

    def keep_version(self, connection: Connection, row: InstanceRow, state: str, at: float) -> None:
        """Note bytes that are not, or no longer, the current ones of their UID. state: "superseded" | "put aside"."""
        connection.execute(
            insert(InstanceVersion).values(
                storage_key=row.storage_key,
                sop_instance_uid=row.sop_instance_uid,
                dataset_hash=row.dataset_hash,
                size=row.size,
                state=state,
                arrived_at=row.arrived_at,
                replaced_at=at,
            )
        )

    def forget_version(self, connection: Connection, storage_key: str) -> None:
        """The bytes under this key are, or are about to be, the current ones; nothing where they were no version."""
        connection.execute(delete(InstanceVersion).where(InstanceVersion.storage_key == storage_key))

    def move_instance(
        self, connection: Connection, row: InstanceRow, storage_key: str, size: int, transfer_syntax_uid: str
    ) -> None:
        """The bytes of an instance lie under another key from now on, behind another file meta group."""
        connection.execute(
            update(Instance)
            .where(Instance.sop_instance_uid == row.sop_instance_uid)
            .values(storage_key=storage_key, size=size, transfer_syntax_uid=transfer_syntax_uid)
        )

    def move_version(self, connection: Connection, old_key: str, storage_key: str, size: int) -> None:
        """As `move_instance`, for the bytes of an earlier version."""
        connection.execute(
            update(InstanceVersion)
            .where(InstanceVersion.storage_key == old_key)
            .values(storage_key=storage_key, size=size)
        )

    def versions(self, sop_instance_uid: str, connection: Connection | None = None) -> list[Row[Any]]:
        """Bytes other than the current ones that came under this UID, oldest first (columns of InstanceVersion)."""
        query = (
            select(InstanceVersion.__table__)
            .where(InstanceVersion.sop_instance_uid == sop_instance_uid)
            .order_by(InstanceVersion.arrived_at)
        )
        return self._rows(query, connection)

    def storage_keys(self) -> frozenset[str]:
        """Keys of all bytes that the index knows, earlier versions included."""
        query = select(Instance.storage_key).union_all(select(InstanceVersion.storage_key))
        return frozenset(row[0] for row in self._rows(query, None))

    def uids_under(self, storage_keys: Collection[str]) -> list[str]:
        """SOP Instance UIDs of the instances, and of earlier versions, whose bytes are known under these keys."""
        if not storage_keys:
            return []
        current = select(Instance.storage_key, Instance.sop_instance_uid)
        earlier = select(InstanceVersion.storage_key, InstanceVersion.sop_instance_uid)
        rows = self._rows(current.union_all(earlier), None)
        return sorted({row.sop_instance_uid for row in rows if row.storage_key in storage_keys})

    def knows(self, connection: Connection, storage_key: str) -> bool:
        """Whether some instance, or an earlier version of one, has its bytes under this key."""
        current = select(Instance.storage_key).where(Instance.storage_key == storage_key)
        earlier = select(InstanceVersion.storage_key).where(InstanceVersion.storage_key == storage_key)
        return bool(self._rows(current.union_all(earlier), connection))

    def _rows(self, query: Any, connection: Connection | None) -> list[Row[Any]]:
        if connection is not None:
            return list(connection.execute(query))
        with self.read() as own:
            return list(own.execute(query))

    def _instance(self, row: Row[Any]) -> InstanceRow:
        fields = dict(row._mapping)
        attributes = fields.pop("study_attributes") | fields.pop("series_attributes") | fields.pop("attributes")
        fields.pop("search")
        return InstanceRow(**fields, attributes=attributes, path=self.objects / fields["storage_key"])


def _instances() -> Select[Any]:
    return (
        select(
            Instance.__table__,
            Study.attributes.label("study_attributes"),
            Series.attributes.label("series_attributes"),
        )
        .join(Study, Study.study_instance_uid == Instance.study_instance_uid)
        .join(
            Series,
            (Series.study_instance_uid == Instance.study_instance_uid)
            & (Series.series_instance_uid == Instance.series_instance_uid),
        )
    )


# What is asked and written for each instance that arrives.

_HOLDS = Prepared(select(Instance.sop_instance_uid).where(Instance.sop_instance_uid == bindparam("uid")))
_PATIENT = Prepared(select(Study.patient_id).where(Study.study_instance_uid == bindparam("uid")))
_OF_STUDY = ("patient_id", "study_date", "attributes", "search")
_STUDY = Prepared(
    select(
        *(Study.__table__.c[name] for name in _OF_STUDY), Study.input_hash, Study.planned_hash, Study.first_arrival_at
    ).where(Study.study_instance_uid == bindparam("uid"))
)
_ARRIVED = Prepared(
    update(Study)
    .where(Study.study_instance_uid == bindparam("uid"))
    .values(input_hash=bindparam("hash"), first_arrival_at=bindparam("first"), last_arrival_at=bindparam("last"))
)
_OF_SERIES = ("modality", "attributes", "search")
_SERIES = Prepared(
    select(*(Series.__table__.c[name] for name in _OF_SERIES)).where(
        Series.study_instance_uid == bindparam("study"), Series.series_instance_uid == bindparam("series")
    )
)


def _insert(connection: Connection, table: type[Study | Series | Instance], values: dict[str, Any]) -> None:
    inserting(Base.metadata.tables[table.__tablename__], tuple(values))(connection, **values)


def _parsed(values: dict[str, Any]) -> dict[str, Any]:
    """Columns as SQLAlchemy wants them."""
    return values | {name: from_json(values[name]) for name in ("attributes", "search")}


def _study(row: Row[Any]) -> StudyRow:
    fields = dict(row._mapping)
    del fields["search"], fields["study_date"]
    return StudyRow(**fields)


def _alembic() -> Config:
    from alembic.config import Config

    config = Config()
    # The folder of the installed package; % is Alembic's own sign for interpolation.
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    return config


def _engine(path: Path) -> Engine:
    make_private(path.parent)
    engine = create_engine(
        f"sqlite:///{path}",
        connect_args={"timeout": _LOCK_WAIT_S, "check_same_thread": False},
        pool_size=32,
        max_overflow=64,
        json_serializer=to_json,
        json_deserializer=from_json,
    )

    @event.listens_for(engine, "connect")
    def _pragmas(connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
        # The driver must not open transactions by itself: BEGIN is ours (below).
        connection.isolation_level = None
        cursor = connection.cursor()
        # wal_autocheckpoint: pages of 4 KiB; most are written again by the next instances, so later is cheaper.
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "wal_autocheckpoint=4000"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("mirall_write", False)
        driver_of(connection).execute("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine
