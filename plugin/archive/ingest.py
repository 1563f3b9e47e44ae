"""Bytes become an instance: the one function behind every door, for what others send and for what we make.

    received in incoming/ -> looked at -> synced -> named -> (one transaction: decided, indexed) -> acknowledged

The first steps run in the thread of each sender (`received`, `storage`), the transaction is shared by all that arrive
at the same time (`commits`), and what is decided in it stands in `decision`. What a door may answer follows from the
Outcome alone. A failure at any point before the commit leaves either nothing or whole bytes that `reindex` takes up at
the next start; they were not acknowledged, so either is right. What is acknowledged is on disk and in the index. For a
new object of others the index need not be synced, because all that it says stands in the file or is noted with it:
where the power fails, the next start takes it up again.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dicom_io import labels
from dicom_io.errors import Unlabelled
from dicom_io.provenance import LabelRecord
from plugin.archive import tombstones
from plugin.archive.arrival import Arrival
from plugin.archive.commits import Commits, Transaction
from plugin.archive.decision import Candidate, Decision, House, Outcome, State, refused
from plugin.archive.index import Index
from plugin.archive.quarantine import QuarantineList
from plugin.archive.received import DOES_NOT_MATCH, Received, Refused, inspect
from plugin.archive.storage import Storage, mapped, sync_file
from plugin.registry import Registry
from plugin.settings import Correction, Settings

LOGGER = logging.getLogger(__name__)

OUT_OF_RESOURCES = 0xA700


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
        self._commits = Commits(index)
        self._house = House(index, storage, on_correction, device_uids, now)
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
            arrival = Arrival("own") if record else Arrival.of_note(self.storage.noted(key))
            return self.accept(twin, arrival, record).state
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
        is_noted = record is None and self.storage.note(path, arrival.note())
        sync_file(path)
        # What stands beside a result of ours must be there before it.
        is_placed = record is None and self.storage.place(path, received.storage_key)
        candidate = Candidate.of(received, arrival, record, on_correction, is_placed, is_noted)

        def decide(transaction: Transaction) -> tuple[Outcome, bool]:
            decision = Decision(self._house, transaction, candidate)
            outcome = decision.decide()
            return outcome, decision.stands_in_files(outcome)

        outcome, _ = self._commits.run(decide, lambda result: not result[1])
        return outcome


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


def _check_announced(received: Received, announced: Announced) -> None:
    """Raises Refused where the object is another than the command around it says (PS3.4 B.2.3, A900)."""
    for title, said, found in (
        ("SOP Class UID (0008,0016)", announced.sop_class_uid, received.sop_class_uid),
        ("SOP Instance UID (0008,0018)", announced.sop_instance_uid, received.sop_instance_uid),
        ("Study Instance UID (0020,000D)", announced.study_instance_uid, received.study_instance_uid),
    ):
        if said and said != found:
            raise refused(
                received,
                DOES_NOT_MATCH,
                f"the sender announced {title} {said!r}, the object says {found!r}; have the sender correct the one "
                "or the other",
            )


def open_archive(settings: Settings, *, upgrade: bool = True) -> Ingest:
    """Ingest, index and storage of the data folder that the settings name.

    upgrade: bring the index up to date first; without it the caller knows that it is.
    """
    index = Index(settings.data)
    if upgrade:
        index.upgrade()
    storage = Storage(settings.data, settings.archive.minimum_free_mb)
    return Ingest(index, storage, settings.archive.on_correction, Registry(settings.models).known_device_uids)
