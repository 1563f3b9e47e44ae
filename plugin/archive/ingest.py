"""Bytes become an instance: the one function behind every door, for what others send and for what we make.

    received in incoming/ -> looked at -> synced -> (one transaction: decided, renamed, indexed) -> acknowledged

What a door may answer follows from the Outcome alone. A failure at any point before the commit leaves either nothing or
whole bytes that `reindex` takes up at the next start; they were not acknowledged, so either is right.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, update

from dicom_io import dataset as whole_files
from dicom_io import labels, pixels
from dicom_io.errors import UndecodablePixels, Unlabelled
from dicom_io.provenance import LabelRecord
from plugin.archive import tombstones
from plugin.archive.arrival import Arrival
from plugin.archive.index import NO_INPUT, Index, InstanceRow
from plugin.archive.quarantine import QuarantineList
from plugin.archive.received import DOES_NOT_MATCH, Received, Refused, inspect, pixel_hash
from plugin.archive.storage import Storage, mapped, sync_file
from plugin.archive.tables import Instance
from plugin.registry import Registry
from plugin.settings import Correction, Settings

LOGGER = logging.getLogger(__name__)

SUCCESS, OUT_OF_RESOURCES = 0x0000, 0xA700
# PS3.4 B.2.3 leaves Cxxx to the implementation; ours, so that a log of the sender tells them apart:
TWO_PATIENTS, OTHER_PIXELS, CORRECTION_HELD = 0xC101, 0xC102, 0xC103

State = Literal["stored", "held", "replaced", "put aside", "quarantined"]


@dataclass(frozen=True)
class Outcome:
    """What became of one object.

    state: "stored" (new), "held" (we have it already), "replaced" (now current in place of an earlier header),
    "put aside" (kept as a version; the first stays current), "quarantined" (kept, and refused with `reason`).
    status: DIMSE status, also the STOW-RS failure reason. UIDs: "" as far as they could not be read.
    """

    state: State
    status: int = SUCCESS
    reason: str = ""
    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    series_instance_uid: str = ""
    study_instance_uid: str = ""

    @property
    def accepted(self) -> bool:
        """May be acknowledged."""
        return self.status == SUCCESS


@dataclass(frozen=True)
class Announced:
    """What a sender says of an object outside of it, in the C-STORE command or the STOW-RS path; "" where nothing."""

    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    study_instance_uid: str = ""


class Ingest:
    """Ingest into one data folder; safe from several threads and processes.

    device_uids: gives Device UIDs of our model versions beyond those whose objects the index holds (the registry's).
    """

    def __init__(
        self,
        index: Index,
        storage: Storage,
        on_correction: Correction = "replace",
        device_uids: Callable[[], frozenset[str]] = frozenset,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.index = index
        self.storage = storage
        self.quarantine = QuarantineList(index, storage)
        self._on_correction = on_correction
        self._device_uids = device_uids
        self._now = now

    def accept(
        self,
        received: Path,
        arrival: Arrival,
        record: LabelRecord | None = None,
        *,
        announced: Announced | None = None,
        on_correction: Correction | None = None,
        dataset_hash: str | None = None,
    ) -> Outcome:
        """Take over a file that lies in incoming/; it is gone from there afterwards.

        record: what the job says of an object that we made; it must carry the labels that follow from it.
        announced: what the sender said outside the object; it must agree.
        on_correction: a person's decision for this object, in place of the setting; with it, "replace" also takes
            other pixels.
        dataset_hash: SHA-256 (hex) of the bytes after the file meta group, where the door has made it.

        Raises:
            NoSpace: nothing was kept, and nothing may be acknowledged.
            Unlabelled: a result of ours lacks a label; nothing was kept.
        """
        outcome = self._take(received, arrival, record, announced, on_correction, dataset_hash)
        if outcome.state == "quarantined":
            LOGGER.warning("refused (door %s): %s", arrival.door, outcome.reason)
        return outcome

    def _take(
        self,
        received: Path,
        arrival: Arrival,
        record: LabelRecord | None,
        announced: Announced | None = None,
        on_correction: Correction | None = None,
        dataset_hash: str | None = None,
    ) -> Outcome:
        """`accept`, for a caller who tells the outcome himself."""
        try:
            try:
                return self._accept(received, arrival, record, announced, on_correction, dataset_hash)
            except Refused as why:
                if record is not None:
                    raise Unlabelled(f"a result of ours cannot be stored: {why}") from why
                self.quarantine.add(received, arrival, why, self._now())
                return Outcome(
                    "quarantined",
                    why.status,
                    str(why),
                    sop_instance_uid=why.sop_instance_uid,
                    study_instance_uid=why.study_instance_uid,
                )
        finally:
            received.unlink(missing_ok=True)

    def retry(self, entry_id: int, on_correction: Correction | None = None) -> Outcome:
        """Try a quarantined object again; where it is accepted it leaves the quarantine.

        Raises Rejected (a damaged result of ours: Unlabelled), NoSpace.
        """
        entry = self.quarantine.get(entry_id)
        record = _record(self.quarantine.record(entry))
        received = self.storage.receive_file(entry.path)
        outcome = self._take(received, entry.arrival, record, on_correction=on_correction)
        if outcome.accepted:
            self.quarantine.forget(entry)
        return outcome

    def reindex(self) -> dict[str, int]:
        """Take up what lies on disk and is not in the index: at each start, and when an index was lost.

        Gives how many objects were found, by what became of them.
        """
        found: dict[str, int] = {}
        # First what was deleted: a kill may have left its files, and they must not be taken up.
        swept = tombstones.sweep(self.index, self.storage)
        known = self.index.storage_keys()
        on_disk = frozenset(self.storage.walk())
        # By age, so that a corrected header comes after the one that it corrects.
        for key in sorted(on_disk - known, key=self.storage.age):
            state = self._take_up(key)
            if state in ("quarantined", "held"):
                self._drop_unless_indexed(key)
            found[state] = found.get(state, 0) + 1
        listed = self.quarantine.reindex()
        missing = self.index.uids_under(known - on_disk)
        if missing:
            LOGGER.warning(
                "%d indexed object(s) have no file below %s; send them again, or restore the files from a backup: %s",
                len(missing), self.storage.objects, ", ".join(missing),
            )  # fmt: skip
        told = {"listed again": listed, "missing": len(missing), "deleted": swept}
        return found | {state: number for state, number in told.items() if number}

    def _take_up(self, key: str) -> State:
        """Take up one stored file; a damaged result of ours is put into quarantine with its record beside it."""
        beside = self.storage.sidecar_text(key)
        # A second name in incoming/ for the same bytes: it may then be renamed or discarded as for any door.
        twin = self.storage.link_to_incoming(key)
        try:
            record = _record(None if beside is None else _record_beside(beside))
            return self.accept(twin, Arrival("own" if record else ""), record).state
        except Unlabelled as why:
            LOGGER.warning("refused (from disk): %s", why)
            self.storage.link_to_incoming(key)
            self.quarantine.add(twin, Arrival("own"), Refused(str(why)), self._now(), _record_beside(beside or ""))
            return "quarantined"
        finally:
            twin.unlink(missing_ok=True)

    def missing(self) -> list[str]:
        """SOP Instance UIDs of what the index knows, earlier versions included, and no file is there for."""
        # In this order: whatever is indexed was renamed into place before.
        known = self.index.storage_keys()
        return self.index.uids_under(known - frozenset(self.storage.walk()))

    def _drop_unless_indexed(self, key: str) -> None:
        """Delete bytes that are safe elsewhere: in quarantine, or under the key that the index has for the object.

        Under the write lock: another process may have been between rename and commit of just these bytes.
        """
        with self.index.write() as connection:
            if not self.index.knows(connection, key):
                self.storage.delete(key)

    def _accept(
        self,
        path: Path,
        arrival: Arrival,
        record: LabelRecord | None,
        announced: Announced | None,
        on_correction: Correction | None,
        dataset_hash: str | None,
    ) -> Outcome:
        received = inspect(path, dataset_hash)
        if announced is not None:
            _check_announced(received, announced)
        if record is not None:
            with mapped(path) as raw:
                labels.check(bytes(raw), record)
        sync_file(path)
        with self.index.write() as connection:
            return self._decide(connection, received, arrival, record, on_correction)

    def _decide(
        self,
        connection: Connection,
        received: Received,
        arrival: Arrival,
        record: LabelRecord | None,
        on_correction: Correction | None,
    ) -> Outcome:
        """What to do with a whole, well-formed object; the caller holds the write lock."""
        known = self.index.instance(received.sop_instance_uid, connection)
        if known is None:
            self._check_patient(connection, received)
            self._store(connection, received, arrival, record)
            return _outcome("stored", received)
        if record is not None and (known.record is None or not _is_whole(known.path, known.size)):
            # It was sent back before we stored it ourselves, or its bytes were lost: with the record it can be checked.
            self._make_current(connection, received, known, arrival, record)
            return _outcome("replaced", received)
        policy = on_correction or self._on_correction
        if not _is_whole(known.path, known.size):
            if received.dataset_hash == known.dataset_hash:
                self._put_again(connection, received, known)
                self._complete_arrival(connection, known, arrival)
                return _outcome("held", received)
            if on_correction != "replace" and (known.made_by_us or received.has_pixels or known.has_pixels):
                raise _refused(
                    received,
                    OTHER_PIXELS,
                    f"SOP Instance UID {received.sop_instance_uid} is indexed with another data set whose file is "
                    "missing, so the two cannot be compared; restore the file, or a person can decide with "
                    "`mirall quarantine retry ID --replace`",
                )
        elif known.made_by_us or self._is_held(connection, received, known, policy):
            # Ours came back (its header perhaps coerced), our own job ran twice, or a sender repeats itself.
            self._complete_arrival(connection, known, arrival)
            return _outcome("held", received)
        if on_correction != "replace" and not _same_pixels(received, known):
            raise _refused(
                received,
                OTHER_PIXELS,
                f"an object with SOP Instance UID {received.sop_instance_uid} and other pixels is held already; the "
                "sender must give the new one its own UID, or a person can decide with "
                "`mirall quarantine retry ID --replace`",
            )
        return self._correct(connection, received, known, arrival, policy)

    def _correct(
        self, connection: Connection, received: Received, known: InstanceRow, arrival: Arrival, policy: Correction
    ) -> Outcome:
        """Same UID, another header: keep the bytes of both, and follow the policy for which one is current."""
        now = self._now()
        if policy == "hold":
            raise _refused(
                received,
                CORRECTION_HELD,
                f"a corrected header for SOP Instance UID {received.sop_instance_uid} is held, because "
                'archive.on_correction is "hold"; take it with `mirall quarantine retry ID --replace`',
            )
        if policy == "keep-first":
            self.storage.put(received.path, received.storage_key)
            aside = replace(
                known,
                storage_key=received.storage_key,
                dataset_hash=received.dataset_hash,
                size=received.size,
                arrived_at=now,
            )
            self.index.keep_version(connection, aside, "put aside", now)
            return _outcome("put aside", received)
        self._make_current(connection, received, known, arrival, None)
        return _outcome("replaced", received)

    def _make_current(
        self,
        connection: Connection,
        received: Received,
        known: InstanceRow,
        arrival: Arrival,
        record: LabelRecord | None,
    ) -> None:
        """In place of what is current, whose bytes stay as a version where there are any."""
        now = self._now()
        if received.study_instance_uid != known.study_instance_uid:
            self._check_patient(connection, received)
        if known.storage_key != received.storage_key and _is_whole(known.path, known.size):
            self.index.keep_version(connection, known, "superseded", now)
        self.index.remove_instance(connection, known, now)
        # An earlier version that came back is one no longer.
        self.index.forget_version(connection, received.storage_key)
        self._store(connection, received, arrival, record)

    def _put_again(self, connection: Connection, received: Received, known: InstanceRow) -> None:
        """The data set of a known instance whose file is missing or cut off; only its file meta group may differ."""
        record = None if known.record is None else LabelRecord.from_json(json.dumps(known.record))
        self.storage.put(received.path, received.storage_key, None if record is None else {"record": record.to_json()})
        self.index.move_instance(connection, known, received.storage_key, received.size, received.transfer_syntax_uid)
        LOGGER.warning("the missing file of instance %s was put again", known.sop_instance_uid)

    def _store(self, connection: Connection, received: Received, arrival: Arrival, record: LabelRecord | None) -> None:
        now = self._now()
        known_devices = self.index.device_uids(connection) | self._device_uids()
        made_by_us = record is not None or labels.is_ours(received.dataset, known_devices)
        study_is_new = self.index.study(received.study_instance_uid, connection) is None
        study = {
            "study_instance_uid": received.study_instance_uid,
            "patient_id": received.patient_id,
            "study_date": received.search("study").get("00080020", "")[:16],
            "attributes": received.attributes("study"),
            "search": received.search("study"),
        }
        series = {
            "series_instance_uid": received.series_instance_uid,
            "study_instance_uid": received.study_instance_uid,
            "modality": received.search("series").get("00080060", "").upper()[:16],
            "attributes": received.attributes("series"),
            "search": received.search("series"),
        }
        instance = {
            "sop_instance_uid": received.sop_instance_uid,
            "study_instance_uid": received.study_instance_uid,
            "series_instance_uid": received.series_instance_uid,
            "sop_class_uid": received.sop_class_uid,
            "transfer_syntax_uid": received.transfer_syntax_uid,
            "storage_key": received.storage_key,
            "size": received.size,
            "dataset_hash": received.dataset_hash,
            "has_pixels": received.has_pixels,
            "synthetic": received.is_synthetic,
            "made_by_us": made_by_us,
            "record": None if record is None else json.loads(record.to_json()),
            "arrived_at": now,
            **arrival.as_json(),
            "attributes": received.attributes("instance"),
            "search": received.search("instance"),
        }
        # The file is renamed last: until then its long values can still be read where they lie.
        self.storage.put(received.path, received.storage_key, None if record is None else {"record": record.to_json()})
        if record is not None:
            self.index.add_device(connection, record.model.device_uid, record.model.address)
        self.index.add_instance(connection, study=study, series=series, instance=instance, at=now)
        if study_is_new and made_by_us:
            # Nothing is due for a study that holds only our own work.
            self.index.mark_planned(connection, received.study_instance_uid, NO_INPUT)

    def _check_patient(self, connection: Connection, received: Received) -> None:
        study = self.index.study(received.study_instance_uid, connection)
        if study is not None and study.patient_id != received.patient_id:
            raise _refused(
                received,
                TWO_PATIENTS,
                f"study {received.study_instance_uid} is already held with another Patient ID (0010,0020); one study "
                "belongs to one patient, so have the sender correct the one or the other",
            )

    def _is_held(self, connection: Connection, received: Received, known: InstanceRow, policy: Correction) -> bool:
        """The current object, in whatever encoding, or, unless what comes last is to be current, an earlier version."""
        if received.dataset_hash == known.dataset_hash:
            return True
        if policy != "replace" and self._is_held_version(connection, received):
            return True
        return (
            received.transfer_syntax_uid != known.transfer_syntax_uid
            and _header_values(received.path) == _header_values(known.path)
            and _same_pixels(received, known)
        )

    def _is_held_version(self, connection: Connection, received: Received) -> bool:
        """An earlier version has this data set; where its file is missing it is put again."""
        versions = [
            version
            for version in self.index.versions(received.sop_instance_uid, connection)
            if version.dataset_hash == received.dataset_hash
        ]
        if versions and not any(_is_whole(self.storage.path(each.storage_key), each.size) for each in versions):
            keys = [version.storage_key for version in versions]
            old = received.storage_key if received.storage_key in keys else keys[0]
            self.storage.put(received.path, received.storage_key)
            self.index.move_version(connection, old, received.storage_key, received.size)
        return bool(versions)

    def _complete_arrival(self, connection: Connection, known: InstanceRow, arrival: Arrival) -> None:
        """Facts of the arrival that were lost with a kill between rename and commit; the sender's repeat has them."""
        if not known.door and arrival.door:
            connection.execute(
                update(Instance).where(Instance.sop_instance_uid == known.sop_instance_uid).values(**arrival.as_json())
            )


def _record_beside(text: str) -> str:
    """The record in what lies beside a stored result; the text itself where it cannot be read."""
    try:
        return str(json.loads(text)["record"])
    except (ValueError, KeyError, TypeError):
        return text


def _record(text: str | None) -> LabelRecord | None:
    """The record of a result of ours, None for what others made. Raises Unlabelled where it is damaged."""
    if text is None:
        return None
    try:
        return LabelRecord.from_json(text)
    except (ValueError, KeyError, TypeError) as error:
        raise Unlabelled(
            f"the record beside a result of ours cannot be read ({type(error).__name__}: {error}), so its labels "
            "cannot be checked; restore it from a backup, or run its job again"
        ) from error


def _is_whole(path: Path, size: int) -> bool:
    """The file is there in its full length; stored files are written once, so no more is looked at."""
    try:
        return path.stat().st_size == size
    except FileNotFoundError:
        return False


def _outcome(state: State, received: Received) -> Outcome:
    return Outcome(
        state,
        sop_class_uid=received.sop_class_uid,
        sop_instance_uid=received.sop_instance_uid,
        series_instance_uid=received.series_instance_uid,
        study_instance_uid=received.study_instance_uid,
    )


def _refused(received: Received, status: int, sentence: str) -> Refused:
    return Refused(
        sentence,
        status=status,
        sop_instance_uid=received.sop_instance_uid,
        study_instance_uid=received.study_instance_uid,
    )


def _check_announced(received: Received, announced: Announced) -> None:
    """Raises Refused where the object is another than the command around it says (PS3.4 B.2.3, A900)."""
    for title, said, found in (
        ("SOP Class UID (0008,0016)", announced.sop_class_uid, received.sop_class_uid),
        ("SOP Instance UID (0008,0018)", announced.sop_instance_uid, received.sop_instance_uid),
        ("Study Instance UID (0020,000D)", announced.study_instance_uid, received.study_instance_uid),
    ):
        if said and said != found:
            raise _refused(
                received,
                DOES_NOT_MATCH,
                f"the sender announced {title} {said!r}, the object says {found!r}; have the sender correct the one "
                "or the other",
            )


def _same_pixels(received: Received, known: InstanceRow) -> bool:
    """Equal as encoded, or, in two encodings, equal when decoded; what cannot be decoded is not equal."""
    if not received.has_pixels or not known.has_pixels:
        return received.has_pixels == known.has_pixels
    if pixel_hash(received.path) == pixel_hash(known.path):
        return True
    try:
        return np.array_equal(_stored(received.path), _stored(known.path))
    except UndecodablePixels:
        return False


def _stored(path: Path) -> npt.NDArray[Any]:
    return pixels.stored(whole_files.read(path))


# What a change of encoding may change beside Pixel Data: character set, photometric interpretation, planar order.
_OF_ENCODING = frozenset({"00080005", "00280004", "00280006"})


def _header_values(path: Path) -> dict[str, Any]:
    """Public attributes but pixel data, as values; independent of the transfer syntax."""
    header = whole_files.read(path, stop_before_pixels=True)
    header.remove_private_tags()
    values: dict[str, Any] = header.to_json_dict(suppress_invalid_tags=True)
    # Group lengths (gggg,0000) are of the encoding, too.
    return {tag: element for tag, element in values.items() if tag not in _OF_ENCODING and not tag.endswith("0000")}


def open_archive(settings: Settings) -> Ingest:
    """Ingest, index (brought up to date) and storage of the data folder that the settings name."""
    index = Index(settings.data)
    index.upgrade()
    storage = Storage(settings.data, settings.archive.minimum_free_mb)
    return Ingest(index, storage, settings.archive.on_correction, Registry(settings.models).known_device_uids)
