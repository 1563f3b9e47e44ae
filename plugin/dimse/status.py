"""Status codes of DIMSE answers that several services share (PS3.7 C, PS3.4 annexes)."""

from __future__ import annotations

from pydicom import Dataset

SUCCESS = 0x0000
CANCELLED = 0xFE00
PENDING = (0xFF00, 0xFF01)
PROCESSING_FAILURE = 0x0110
RESOURCE_LIMITATION = 0x0213


def is_temporary(status: int) -> bool:
    """Out of Resources (A7xx, PS3.4 B.2.3, C.4), Resource Limitation, Processing Failure (PS3.7 C.5): may pass."""
    return status & 0xFF00 == 0xA700 or status in (PROCESSING_FAILURE, RESOURCE_LIMITATION)


def comment(sentence: str) -> str:
    """Error Comment (0000,0902) of a sentence.

    LO: at most 64 characters, no backslash (PS3.5 6.2), ASCII because a command set names no character set.
    """
    return sentence.encode("ascii", "replace").decode()[:64].replace("\\", "/")


def answer(status: int, sentence: str) -> Dataset:
    """A status with the sentence as its Error Comment, as pynetdicom takes it from handlers."""
    dataset = Dataset()
    dataset.Status = status
    dataset.ErrorComment = comment(sentence)
    return dataset
