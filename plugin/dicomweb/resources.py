"""Which stored instances a path names, and which of them may leave.

The lean row here is read for each frame that a viewer asks for; what searches need of an instance stays in the index.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from fastapi import HTTPException
from sqlalchemy import bindparam, select
from starlette.requests import Request

from dicom_io.errors import Unlabelled
from plugin.archive.gate import FileMissing, Gate
from plugin.archive.index import Index
from plugin.archive.prepared import Prepared, from_json
from plugin.archive.tables import Instance
from plugin.dicomweb.sending import in_worker

_COLUMNS = (
    Instance.sop_instance_uid,
    Instance.study_instance_uid,
    Instance.series_instance_uid,
    Instance.sop_class_uid,
    Instance.transfer_syntax_uid,
    Instance.storage_key,
    Instance.size,
    Instance.synthetic,
    Instance.made_by_us,
    Instance.record,
)
_BY_UID = Prepared(select(*_COLUMNS).where(Instance.sop_instance_uid == bindparam("instance")))
_IN_STUDY = (
    select(*_COLUMNS)
    .where(Instance.study_instance_uid == bindparam("study"))
    .order_by(Instance.series_instance_uid, Instance.arrived_at, Instance.sop_instance_uid)
)
_OF_STUDY = Prepared(_IN_STUDY)
_OF_SERIES = Prepared(_IN_STUDY.where(Instance.series_instance_uid == bindparam("series")))
# Rows of sets that were asked for last; a set of more rows is read each time.
_ROWS_HELD, _ROWS_OF_ONE = 10_000, 2_000


class Held(NamedTuple):
    """A stored instance: who it is, and where its bytes lie. record: the LabelRecord (as JSON) of one of ours."""

    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    storage_key: str
    size: int
    synthetic: bool
    made_by_us: bool
    record: dict[str, Any] | None
    path: Path

    @property
    def where(self) -> str:
        """Its path below the root of DICOMweb."""
        return f"/studies/{self.study_instance_uid}/series/{self.series_instance_uid}/instances/{self.sop_instance_uid}"


@dataclass(frozen=True)
class Found:
    """What a path names. cleared: what may and can leave; is_partial: something else may or can not."""

    cleared: Sequence[Held]
    is_partial: bool = False

    @property
    def status(self) -> int:
        return 206 if self.is_partial else 200


async def one(request: Request) -> Held:
    """The instance that the path names.

    Raises:
        HTTPException: 404, it is not here. Unlabelled, FileMissing: see `Gate.check`.
    """
    path = request.path_params
    return await instance(request, path["study"], path["series"], path["instance"])


async def instance(request: Request, study: str, series: str, uid: str) -> Held:
    """As `one`, by its three UIDs."""
    index: Index = request.app.state.archive.index
    # One row by its key takes less time than to hand it to another thread would.
    rows = _rows(index, _BY_UID, instance=uid)
    if not rows or (rows[0].study_instance_uid, rows[0].series_instance_uid) != (study, series):
        raise _nothing(request)
    if rows[0].made_by_us:
        await in_worker(partial(_gate(request).check, rows[0]))
    else:
        _gate(request).check(rows[0])
    return rows[0]


async def every(request: Request) -> Found:
    """The instances of the study, series or instance that the path names, by series and arrival.

    Raises:
        HTTPException: 404, there is none. Unlabelled, FileMissing: there are some, and none may or can leave.
    """
    if "instance" in request.path_params:
        return Found([await one(request)])
    sets: Sets = request.app.state.sets
    rows = sets.at_hand(_names(request))
    if rows is not None and not any(row.made_by_us for row in rows):
        return _cleared(_gate(request), rows)
    return await in_worker(partial(_every, request))


def _every(request: Request) -> Found:
    sets: Sets = request.app.state.sets
    rows = sets.read(_names(request))
    if not rows:
        raise _nothing(request)
    return _cleared(_gate(request), rows)


def _names(request: Request) -> tuple[str, ...]:
    path = request.path_params
    return (path["study"], path["series"]) if "series" in path else (path["study"],)


class Sets:
    """The rows of studies and series, by their UIDs; those that were asked for last are at hand while nothing at all
    has changed in the index, and at once no more when something has, in whatever process."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._held: OrderedDict[tuple[str, ...], tuple[int, Sequence[Held]]] = OrderedDict()
        self._rows = 0
        self._lock = threading.Lock()

    def at_hand(self, uids: tuple[str, ...]) -> Sequence[Held] | None:
        """The rows of a study or of (study, series), where they are known to be the current ones."""
        held = self._held.get(uids)
        return held[1] if held is not None and held[0] == self._index.readers.state() else None

    def read(self, uids: tuple[str, ...]) -> Sequence[Held]:
        """The rows, read anew; none where there is no such study or series."""
        # Before the rows: what is committed in between makes them be read again, and never passes for known.
        state = self._index.readers.state()
        if len(uids) == 1:
            rows = _rows(self._index, _OF_STUDY, study=uids[0])
        else:
            rows = _rows(self._index, _OF_SERIES, study=uids[0], series=uids[1])
        with self._lock:
            self._rows -= len(self._held.pop(uids, (0, ()))[1])
            if 0 < len(rows) <= _ROWS_OF_ONE:
                self._held[uids] = (state, rows)
                self._rows += len(rows)
            while self._rows > _ROWS_HELD:
                self._rows -= len(self._held.popitem(last=False)[1][1])
        return rows


def _cleared(gate: Gate, rows: Sequence[Held]) -> Found:
    cleared: list[Held] = []
    stopped: Unlabelled | FileMissing | None = None
    for row in rows:
        try:
            gate.check(row)
            cleared.append(row)
        except (Unlabelled, FileMissing) as error:
            stopped = error
    if stopped is not None and not cleared:
        raise stopped
    return Found(cleared, stopped is not None)


def _gate(request: Request) -> Gate:
    gate: Gate = request.app.state.gate
    return gate


def _nothing(request: Request) -> HTTPException:
    return HTTPException(404, f"nothing is stored under {request.url.path}; search for what there is with QIDO-RS")


def _rows(index: Index, query: Prepared, **values: str) -> list[Held]:
    return [_held(index, *columns) for columns in index.readers.rows(query, **values)]


def _held(index: Index, *columns: Any) -> Held:
    """One row of `_COLUMNS` as the driver gives it."""
    *names, key, size, synthetic, made_by_us, record = columns
    known = None if record is None else from_json(record)
    return Held._make((*names, key, size, bool(synthetic), bool(made_by_us), known, index.objects / key))
