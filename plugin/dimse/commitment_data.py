"""The data sets of storage commitment (PS3.4 J.3): what an N-ACTION asks, what an N-EVENT-REPORT says; both ways."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

from pydicom import Dataset
from pydicom.errors import BytesLengthException
from pydicom.uid import UID
from pynetdicom.sop_class import StorageCommitmentPushModel

from dicom_io.errors import Rejected
from plugin.jobs.commitments import Reference, Report

SOP_CLASS = str(StorageCommitmentPushModel)
SOP_INSTANCE = "1.2.840.10008.1.20.1.1"  # well known, PS3.4 J.3.5
REQUEST = 1  # the only action (PS3.4 J.3.2), N-ACTION Action Type ID (0000,1008)
ALL_COMMITTED, SOME_FAILED = 1, 2  # Event Type ID (0000,1002), PS3.4 J.3.3

# Statuses of N-ACTION and N-EVENT-REPORT, PS3.7 10.1 and C
SUCCESS = 0x0000
NO_SUCH_INSTANCE = 0x0112
NO_SUCH_EVENT = 0x0113
INVALID_VALUE = 0x0115
NO_SUCH_ACTION = 0x0123
MISTYPED_ARGUMENT = 0x0212
RESOURCE_LIMITATION = 0x0213

# What pydicom raises on bytes that are no data set, as their elements are looked at.
_UNDECODABLE = (
    BytesLengthException,
    EOFError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RecursionError,
    OverflowError,
    OSError,
    struct.error,
)


class Malformed(Rejected):
    """The peer's data set is not what PS3.4 J asks for. status: of the answer; the sentence fits Error Comment."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def request(transaction_uid: str, references: Sequence[Reference]) -> Dataset:
    """Action Information (PS3.4 table J.3-1)."""
    dataset = Dataset()
    dataset.TransactionUID = transaction_uid
    dataset.ReferencedSOPSequence = [_item(each) for each in references]
    return dataset


def read_request(dataset_of: Callable[[], Dataset]) -> tuple[str, list[Reference]]:
    """Transaction UID and instances of an N-ACTION. dataset_of: decodes the Action Information.

    Raises:
        Malformed: no data set, no UID, or no instance.
    """
    try:
        dataset = dataset_of()
        return _transaction(dataset), _references(dataset, "ReferencedSOPSequence", needed=True)
    except _UNDECODABLE as error:
        raise Malformed(MISTYPED_ARGUMENT, "the Action Information cannot be decoded") from error


def report(what: Report, retrieve_aet: str) -> Dataset:
    """Event Information (PS3.4 tables J.3-2, J.3-3). retrieve_aet: who gives out what is committed, by C-MOVE."""
    dataset = Dataset()
    dataset.TransactionUID = what.transaction_uid
    if what.committed:
        dataset.RetrieveAETitle = retrieve_aet
        dataset.ReferencedSOPSequence = [_item(each) for each in what.committed]
    if what.failed:
        dataset.FailedSOPSequence = [_item(each, reason) for each, reason in what.failed]
    return dataset


def read_report(event: int, dataset_of: Callable[[], Dataset]) -> Report:
    """What an N-EVENT-REPORT of event type 1 or 2 says. dataset_of: decodes the Event Information.

    Raises:
        Malformed: another event type, no data set, no UID, or nothing named.
    """
    if event not in (ALL_COMMITTED, SOME_FAILED):
        raise Malformed(NO_SUCH_EVENT, f"storage commitment has the events 1 and 2, not {event}")
    try:
        dataset = dataset_of()
        committed = _references(dataset, "ReferencedSOPSequence", needed=event == ALL_COMMITTED)
        failed = []
        # A sequence that says failed is believed, whatever the event type says.
        for each, item in zip(
            _references(dataset, "FailedSOPSequence", needed=event == SOME_FAILED),
            dataset.get("FailedSOPSequence") or [],
            strict=True,
        ):
            failed.append((each, int(item.get("FailureReason") or 0x0110)))
        return Report(_transaction(dataset), tuple(committed), tuple(failed))
    except _UNDECODABLE as error:
        raise Malformed(MISTYPED_ARGUMENT, "the Event Information cannot be decoded") from error


def _item(reference: Reference, reason: int | None = None) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = reference.sop_class_uid
    item.ReferencedSOPInstanceUID = reference.sop_instance_uid
    if reason is not None:
        item.FailureReason = reason
    return item


def _transaction(dataset: Dataset) -> str:
    uid = str(dataset.get("TransactionUID") or "")
    if not UID(uid).is_valid:
        raise Malformed(INVALID_VALUE, f"Transaction UID (0008,1195) {uid[:20]!r} is no UID")
    return uid


def _references(dataset: Dataset, keyword: str, *, needed: bool) -> list[Reference]:
    found = []
    for item in dataset.get(keyword) or []:
        reference = Reference(
            str(item.get("ReferencedSOPClassUID") or ""), str(item.get("ReferencedSOPInstanceUID") or "")
        )
        if not (UID(reference.sop_class_uid).is_valid and UID(reference.sop_instance_uid).is_valid):
            raise Malformed(INVALID_VALUE, f"an item of {keyword} names no SOP class and instance")
        found.append(reference)
    if needed and not found:
        raise Malformed(INVALID_VALUE, f"{keyword} is empty")
    return found
