"""What becomes of a whole, well-formed object: stored, held already, a correction, or refused.

Decided in a transaction that has the index's write lock, so that no two doors decide on one UID at once.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import update

from dicom_io import dataset as whole_files
from dicom_io import labels
from dicom_io.errors import UndecodablePixels
from dicom_io.provenance import LabelRecord
from plugin.archive import levels, tombstones
from plugin.archive.arrival import Arrival
from plugin.archive.commits import Transaction
from plugin.archive.index import NO_INPUT, Index, InstanceRow
from plugin.archive.received import Received, Refused, pixel_hash
from plugin.archive.storage import Storage, is_whole
from plugin.archive.tables import Instance
from plugin.settings import Correction

LOGGER = logging.getLogger(__name__)

SUCCESS = 0x0000
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
class Candidate:
    """One received object, and what is said of it outside of its bytes.

    record: of an object that we made. on_correction: a person's decision for this object, None where there is none.
    is_placed: it was given its name among the stored objects in advance (Storage.place). is_noted: its arrival is kept
    with the file (Storage.note).
    study, series, instance: the columns that follow from it alone, JSON as text.
    """

    received: Received
    arrival: Arrival
    record: LabelRecord | None
    on_correction: Correction | None
    is_placed: bool
    is_noted: bool
    study: dict[str, Any]
    series: dict[str, Any]
    instance: dict[str, Any]

    @classmethod
    def of(
        cls,
        received: Received,
        arrival: Arrival,
        record: LabelRecord | None,
        on_correction: Correction | None,
        is_placed: bool,
        is_noted: bool,
    ) -> Candidate:
        of_study, of_series, of_instance = (received.header.columns(level) for level in levels.KEYWORDS)
        study = {
            "study_instance_uid": received.study_instance_uid,
            "patient_id": received.patient_id,
            "study_date": of_study.searched.get("00080020", "")[:16],
            "attributes": of_study.attributes,
            "search": of_study.search,
        }
        series = {
            "series_instance_uid": received.series_instance_uid,
            "study_instance_uid": received.study_instance_uid,
            "modality": of_series.searched.get("00080060", "").upper()[:16],
            "attributes": of_series.attributes,
            "search": of_series.search,
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
            "record": None if record is None else record.to_json(),
            **arrival.as_json(),
            "attributes": of_instance.attributes,
            "search": of_instance.search,
        }
        return cls(received, arrival, record, on_correction, is_placed, is_noted, study, series, instance)


@dataclass(frozen=True)
class House:
    """What decisions of one archive have in common; see Ingest."""

    index: Index
    storage: Storage
    on_correction: Correction
    device_uids: Callable[[], frozenset[str]]
    now: Callable[[], float]


class Decision:
    """The decision on one candidate in one transaction."""

    def __init__(self, house: House, transaction: Transaction, candidate: Candidate) -> None:
        self._house = house
        self._index = house.index
        self._transaction = transaction
        self._connection = transaction.connection
        self._candidate = candidate
        self._received = candidate.received
        self._record = candidate.record
        self._policy = candidate.on_correction or house.on_correction

    def decide(self) -> Outcome:
        """Store it, note it or leave it. Raises Refused, before anything was changed; NoSpace."""
        try:
            outcome = self._decide()
        except Refused:
            self._take_back()
            raise
        if outcome.state == "held":
            self._take_back()
        return outcome

    def stands_in_files(self, outcome: Outcome) -> bool:
        """All that the index now says of the object would be taken up from disk as it is (`Ingest.reindex`).

        So it is for a new object of others, but where a deletion names its file and may still sweep it: only the index
        knows that it came afterwards.
        """
        if outcome.state != "stored" or self._record is not None or not self._candidate.is_noted:
            return False
        return not tombstones.may_sweep(self._connection, self._received.storage_key)

    def _take_back(self) -> None:
        """It was placed among the stored objects, and is none."""
        key = self._received.storage_key
        if self._candidate.is_placed and not self._index.knows(self._connection, key):
            self._house.storage.delete(key)

    def _decide(self) -> Outcome:
        uid = self._received.sop_instance_uid
        known = self._index.instance(uid, self._connection) if self._index.holds(self._connection, uid) else None
        if known is None:
            self._check_patient()
            self._store()
            return self._outcome("stored")
        # Where it was placed under the name that is known, there was no file.
        is_new = self._candidate.is_placed and known.storage_key == self._received.storage_key
        has_file = is_whole(known.path, known.size) and not is_new
        if self._record is not None and (known.record is None or not has_file):
            # It was sent back before we stored it ourselves, or its bytes were lost: with the record it can be checked.
            self._make_current(known)
            return self._outcome("replaced")
        return self._repeat(known) if has_file else self._replacement(known)

    def _repeat(self, known: InstanceRow) -> Outcome:
        """The UID is there, with its bytes."""
        if known.made_by_us or self._is_held(known):
            # Ours came back (its header perhaps coerced), our own job ran twice, or a sender repeats itself.
            self._complete_arrival(known)
            return self._outcome("held")
        return self._correction(known)

    def _replacement(self, known: InstanceRow) -> Outcome:
        """The UID is there, and its file is missing or cut off."""
        received = self._received
        if received.dataset_hash == known.dataset_hash:
            self._put_again(known)
            self._complete_arrival(known)
            return self._outcome("held")
        if self._candidate.on_correction != "replace" and (known.made_by_us or received.has_pixels or known.has_pixels):
            raise refused(
                received,
                OTHER_PIXELS,
                f"SOP Instance UID {received.sop_instance_uid} is indexed with another data set whose file is "
                "missing, so the two cannot be compared; restore the file, or a person can decide with "
                "`mirall quarantine retry ID --replace`",
            )
        return self._correction(known)

    def _correction(self, known: InstanceRow) -> Outcome:
        """Same UID, another header: keep the bytes of both, and follow the policy for which one is current."""
        received = self._received
        if self._candidate.on_correction != "replace" and not _same_pixels(received, known):
            raise refused(
                received,
                OTHER_PIXELS,
                f"an object with SOP Instance UID {received.sop_instance_uid} and other pixels is held already; the "
                "sender must give the new one its own UID, or a person can decide with "
                "`mirall quarantine retry ID --replace`",
            )
        if self._policy == "hold":
            raise refused(
                received,
                CORRECTION_HELD,
                f"a corrected header for SOP Instance UID {received.sop_instance_uid} is held, because "
                'archive.on_correction is "hold"; take it with `mirall quarantine retry ID --replace`',
            )
        if self._policy == "keep-first":
            now = self._house.now()
            self._put()
            aside = replace(
                known,
                storage_key=received.storage_key,
                dataset_hash=received.dataset_hash,
                size=received.size,
                arrived_at=now,
            )
            self._index.keep_version(self._connection, aside, "put aside", now)
            return self._outcome("put aside")
        self._make_current(known)
        return self._outcome("replaced")

    def _make_current(self, known: InstanceRow) -> None:
        """In place of what is current, whose bytes stay as a version where there are any."""
        received, connection, now = self._received, self._connection, self._house.now()
        if received.study_instance_uid != known.study_instance_uid:
            self._check_patient()
        if known.storage_key != received.storage_key and is_whole(known.path, known.size):
            self._index.keep_version(connection, known, "superseded", now)
        self._index.remove_instance(connection, known, now)
        # An earlier version that came back is one no longer.
        self._index.forget_version(connection, received.storage_key)
        self._store()

    def _store(self) -> None:
        """As the current object of its UID."""
        candidate, connection, now = self._candidate, self._connection, self._house.now()
        made_by_us = self._is_ours()
        study_uid = self._received.study_instance_uid
        study_is_new = self._index.patient_of(connection, study_uid) is None
        self._put(self._record)
        if self._record is not None:
            self._index.add_device(connection, self._record.model.device_uid, self._record.model.address)
        instance = candidate.instance | {"made_by_us": made_by_us, "arrived_at": now}
        self._index.add_instance(connection, study=candidate.study, series=candidate.series, instance=instance, at=now)
        if study_is_new and made_by_us:
            # Nothing is due for a study that holds only our own work.
            self._index.mark_planned(connection, study_uid, NO_INPUT)

    def _is_ours(self) -> bool:
        """It has a record, or one of our model versions is named in it."""
        if self._record is not None:
            return True
        if "ContributingEquipmentSequence" not in self._received.header:
            return False
        known = self._index.device_uids(self._connection) | self._house.device_uids()
        return labels.is_ours(self._received.dataset, known)

    def _put(self, record: LabelRecord | None = None) -> None:
        """Give the file its name among the stored objects, unless it has it already."""
        received, storage = self._received, self._house.storage
        is_there = self._candidate.is_placed and is_whole(storage.path(received.storage_key), received.size)
        if record is not None or not is_there:
            beside = None if record is None else {"record": record.to_json()}
            self._transaction.folders.add(storage.put(received.path, received.storage_key, beside))

    def _put_again(self, known: InstanceRow) -> None:
        """The data set of a known instance whose file is missing or cut off; only its file meta group may differ."""
        received = self._received
        self._put(None if known.record is None else LabelRecord.from_json(json.dumps(known.record)))
        self._index.move_instance(
            self._connection, known, received.storage_key, received.size, received.transfer_syntax_uid
        )
        LOGGER.warning("the missing file of instance %s was put again", known.sop_instance_uid)

    def _check_patient(self) -> None:
        """Raises Refused where the study is another patient's."""
        received = self._received
        if self._index.patient_of(self._connection, received.study_instance_uid) not in (None, received.patient_id):
            raise refused(
                received,
                TWO_PATIENTS,
                f"study {received.study_instance_uid} is already held with another Patient ID (0010,0020); one study "
                "belongs to one patient, so have the sender correct the one or the other",
            )

    def _is_held(self, known: InstanceRow) -> bool:
        """The current object, in whatever encoding, or, unless what comes last is to be current, an earlier version."""
        received = self._received
        if received.dataset_hash == known.dataset_hash:
            return True
        if self._policy != "replace" and self._is_held_version():
            return True
        return (
            received.transfer_syntax_uid != known.transfer_syntax_uid
            and _header_values(received.path) == _header_values(known.path)
            and _same_pixels(received, known)
        )

    def _is_held_version(self) -> bool:
        """An earlier version has this data set; where its file is missing it is put again."""
        received, storage = self._received, self._house.storage
        versions = [
            version
            for version in self._index.versions(received.sop_instance_uid, self._connection)
            if version.dataset_hash == received.dataset_hash
        ]
        if versions and not any(is_whole(storage.path(each.storage_key), each.size) for each in versions):
            keys = [version.storage_key for version in versions]
            old = received.storage_key if received.storage_key in keys else keys[0]
            self._put()
            self._index.move_version(self._connection, old, received.storage_key, received.size)
        return bool(versions)

    def _complete_arrival(self, known: InstanceRow) -> None:
        """Facts of the arrival that were lost with a kill between rename and commit; the sender's repeat has them."""
        arrival = self._candidate.arrival
        if not known.door and arrival.door:
            self._connection.execute(
                update(Instance).where(Instance.sop_instance_uid == known.sop_instance_uid).values(**arrival.as_json())
            )

    def _outcome(self, state: State) -> Outcome:
        received = self._received
        return Outcome(
            state,
            sop_class_uid=received.sop_class_uid,
            sop_instance_uid=received.sop_instance_uid,
            series_instance_uid=received.series_instance_uid,
            study_instance_uid=received.study_instance_uid,
        )


def refused(received: Received, status: int, sentence: str) -> Refused:
    """The refusal of an object whose UIDs are known."""
    return Refused(
        sentence,
        status=status,
        sop_instance_uid=received.sop_instance_uid,
        study_instance_uid=received.study_instance_uid,
    )


def _same_pixels(received: Received, known: InstanceRow) -> bool:
    """Equal as encoded, or, in two encodings, equal when decoded; what cannot be decoded is not equal."""
    if not received.has_pixels or not known.has_pixels:
        return received.has_pixels == known.has_pixels
    if pixel_hash(received.path) == pixel_hash(known.path):
        return True
    # Rare, and large: the processes that receive do without numpy until they need it.
    from dicom_io import pixels

    try:
        one, other = (pixels.stored(whole_files.read(path)) for path in (received.path, known.path))
    except UndecodablePixels:
        return False
    return bool(one.shape == other.shape and (one == other).all())


# What a change of encoding may change beside Pixel Data: character set, photometric interpretation, planar order.
_OF_ENCODING = frozenset({"00080005", "00280004", "00280006"})


def _header_values(path: Path) -> dict[str, Any]:
    """Public attributes but pixel data, as values; independent of the transfer syntax."""
    header = whole_files.read(path, stop_before_pixels=True)
    header.remove_private_tags()
    values: dict[str, Any] = header.to_json_dict(suppress_invalid_tags=True)
    # Group lengths (gggg,0000) are of the encoding, too.
    return {tag: element for tag, element in values.items() if tag not in _OF_ENCODING and not tag.endswith("0000")}
