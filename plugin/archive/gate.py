"""The gate at the exits: nothing of ours leaves unless its bytes still carry the labels that its record asks for.

Every exit calls it (WADO-RS and -URI, C-GET, C-MOVE, C-STORE and STOW-RS as a client); it knows only the index's row
and the bytes, and what it cannot check does not pass (promise 5).
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any, Protocol

from pydicom import Dataset

from dicom_io import labels
from dicom_io.errors import Rejected, Unlabelled
from dicom_io.provenance import MANUFACTURER, LabelRecord
from plugin.archive.index import Index
from plugin.archive.received import Received, inspect


class FileMissing(Rejected):
    """The instance is indexed, and its file is not on disk any more."""


class Leaving(Protocol):
    """What the gate must know of an instance; an InstanceRow has it, and so has a row of fewer columns."""

    @property
    def sop_instance_uid(self) -> str: ...
    @property
    def storage_key(self) -> str: ...
    @property
    def path(self) -> Path: ...
    @property
    def made_by_us(self) -> bool: ...
    @property
    def record(self) -> dict[str, Any] | None: ...


class Unproven(Rejected):
    """The instance is by a model version whose evaluation proves nothing, and this destination takes no such work."""


def check_exit(row: Leaving) -> None:
    """Raises Unlabelled where the instance is ours and its labels cannot be shown to be right."""
    if row.made_by_us:
        check_bytes(row, row.path.read_bytes())


def check_bytes(row: Leaving, raw: bytes) -> None:
    """`check_exit` for the bytes that really leave, e.g. in another encoding than the stored one."""
    if not row.made_by_us:
        return
    if row.record is None:
        raise Unlabelled(
            f"instance {row.sop_instance_uid} was made by one of our model versions but its record is not here, so its "
            "labels cannot be checked; make it anew, or take it from the archive that it came from"
        )
    labels.check(raw, LabelRecord.from_json(json.dumps(row.record)))


class Gate:
    """`check_exit` for a server that is asked for one object again and again (frame by frame).

    An object that passed passes again while its record and its file's time and size are the same.
    """

    def __init__(self) -> None:
        self._passed: set[tuple[str, str, int, int]] = set()

    def check(self, row: Leaving) -> None:
        """Raises Unlabelled; FileMissing where there is nothing that could leave, whoever made it."""
        try:
            state = row.path.stat()
        except FileNotFoundError as error:
            raise FileMissing(
                f"instance {row.sop_instance_uid} is indexed but its file is missing on disk; send it again, or "
                "restore the file from a backup"
            ) from error
        if not row.made_by_us:
            return
        key = (row.storage_key, json.dumps(row.record, sort_keys=True), state.st_mtime_ns, state.st_size)
        if key not in self._passed:
            check_exit(row)
            self._passed.add(key)

    def check_file_of(self, row: Leaving, path: Path) -> None:
        """As `check` for a file that is the instance, its own one or one in another encoding."""
        if path == row.path:
            self.check(row)
        elif row.made_by_us:
            check_bytes(row, path.read_bytes())


def check_proven(row: Leaving, destination: str, allow_unproven: bool) -> None:
    """Raises Unproven where a destination must not get the instance (promise 6).

    destination: its name in the settings; allow_unproven: what they say of it.
    """
    if row.record is None or allow_unproven:
        return
    model = LabelRecord.from_json(json.dumps(row.record)).model
    if model.state != "proven":
        raise Unproven(
            f"model version {model.address} is {model.state}: its evaluation proves nothing yet; set "
            f"allow_unproven = true in [destinations.{destination}] if it is to get such results"
        )


def check_file(path: Path, index: Index | None, device_uids: Collection[str] = ()) -> Received:
    """The gate for a file from outside the archive, as `mirall send PATH` takes it.

    A file that one of our model versions wrote passes with its record: that of the same bytes in the archive, or the
    one that lies beside the file (NAME.record.json, as `mirall predict` and `mirall generate` write it).
    device_uids: of the model versions in the registry. What says of itself that Mirall made it needs no list to be
    known, so a node that never saw the model version holds it back, too; what lost its marks on the way is known by its
    SOP Instance UID where the archive has it.
    Gives what the file is.

    Raises:
        Unlabelled: it is ours, and has no record or not the labels that its record asks for.
        Refused: it is no whole DICOM object.
    """
    received = inspect(path)
    known = None if index is None else index.instance(received.sop_instance_uid)
    devices = frozenset(device_uids) | (frozenset() if index is None else index.device_uids())
    beside = path.with_suffix(".record.json")
    is_known = known is not None and known.made_by_us
    if known is not None and is_known and known.dataset_hash == received.dataset_hash:
        check_bytes(known, path.read_bytes())
    elif beside.is_file():
        labels.check(path.read_bytes(), LabelRecord.from_json(beside.read_text(encoding="utf-8")))
    elif is_known or _bears_our_mark(received.dataset) or labels.is_ours(received.dataset, devices):
        raise Unlabelled(
            f"{path.name} was made by one of our model versions but neither the archive nor {beside.name} has its "
            "record, so its labels cannot be checked; send it from the archive, or keep the record beside it"
        )
    return received


def record_of(path: Path, received: Received, index: Index | None) -> LabelRecord | None:
    """The record that `check_file` checked a file by; None for others' work."""
    known = None if index is None else index.instance(received.sop_instance_uid)
    if known is not None and known.record is not None and known.dataset_hash == received.dataset_hash:
        return LabelRecord.from_json(json.dumps(known.record))
    beside = path.with_suffix(".record.json")
    return LabelRecord.from_json(beside.read_text(encoding="utf-8")) if beside.is_file() else None


# What our equipment items say that it did: made the image, or worked on it (CID 7005).
_OUR_PURPOSES = frozenset({labels.SYNTHESIZING[:2], labels.PROCESSING[:2]})


def _bears_our_mark(dataset: Dataset) -> bool:
    """Our private block, or a Contributing Equipment item (PS3.3 C.12.1) as only a model version of ours writes it.

    Phantoms have another manufacturer and no Device UID; they are inputs.
    """
    if dataset.private_creators(labels.PRIVATE_GROUP).count(labels.PRIVATE_CREATOR):
        return True
    return any(
        str(item.get("Manufacturer") or "") == MANUFACTURER and item.get("DeviceUID") and _is_of_our_purpose(item)
        for item in dataset.get("ContributingEquipmentSequence") or []
    )


def _is_of_our_purpose(item: Dataset) -> bool:
    return any(
        (str(code.get("CodeValue") or ""), str(code.get("CodingSchemeDesignator") or "")) in _OUR_PURPOSES
        for code in item.get("PurposeOfReferenceCodeSequence") or []
    )
