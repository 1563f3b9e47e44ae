"""Long binary values by their URI (PS3.18 10.4.1.1.5): .../bulkdata/TAG, or .../bulkdata/TAG/ITEM/TAG in a sequence.

TAG is 8 digits, ITEM counts from 1. Values of the top level are sent from where they lie in the file. Numbers of more
than one byte are little endian, however they are stored.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
from pydicom import DataElement, Dataset
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRBigEndian

from dicom_io.elements import NUMBER_BYTES
from dicom_io.errors import Rejected
from plugin.dicomweb import frames
from plugin.dicomweb.frames import Layout
from plugin.dicomweb.metadata import BINARY_VRS
from plugin.dicomweb.resources import Held
from plugin.dicomweb.sending import Placed, Stretch


class NoBulkData(Rejected):
    """The instance has no binary value there."""


def is_pixel_data(reference: str) -> bool:
    """The reference names the instance's own pixel data."""
    return reference.upper() in {f"{tag:08X}" for tag in frames.PIXEL_TAGS}


def value(row: Held, reference: str) -> Sequence[Placed]:
    """The value that TAG or TAG/ITEM/TAG names. Raises NoBulkData."""
    found = frames.parse(row.path)
    *steps, name = reference.split("/")
    dataset, last = found.header, _tag(reference, name)
    for sequence, item in zip(steps[::2], steps[1::2], strict=False):
        dataset = _item(reference, dataset, _tag(reference, sequence), item)
    if len(steps) % 2 or last not in dataset:
        raise _none(reference)
    stretch = _in_file(found, dataset, last)
    if stretch is not None:
        return [stretch]
    element = dataset[last]
    if element.VR not in BINARY_VRS:
        raise _none(reference)
    return [_little_endian(element, found.header.file_meta.TransferSyntaxUID == ExplicitVRBigEndian)]


def references(row: Held, least_bytes: int) -> Iterator[str]:
    """The references of all binary values of more than so many bytes, but pixel data."""
    yield from _references(frames.parse(row.path).header, least_bytes, "")


def _references(dataset: Dataset, least_bytes: int, before: str) -> Iterator[str]:
    for element in dataset:
        name = f"{before}{int(element.tag):08X}"
        if element.VR == "SQ":
            for number, item in enumerate(element.value, start=1):
                yield from _references(item, least_bytes, f"{name}/{number}/")
        elif element.VR in BINARY_VRS and len(element.value or b"") > least_bytes:
            yield name


def _in_file(found: Layout, dataset: Dataset, tag: int) -> Stretch | None:
    """Where a long value of the top level lies, if it can be sent from there as it is."""
    if dataset is not found.header:
        return None
    element = dataset.get_item(Tag(tag), keep_deferred=True)
    if not isinstance(element, RawDataElement) or element.value is not None or not element.is_little_endian:
        return None
    vr = element.VR or dataset[tag].VR
    return Stretch(found.path, element.value_tell, element.length) if vr in BINARY_VRS else None


def _little_endian(element: DataElement, is_big_endian: bool) -> bytes:
    raw = bytes(element.value or b"")
    unit = NUMBER_BYTES.get(element.VR.encode(), 1)
    if not is_big_endian or unit == 1 or len(raw) % unit:
        return raw
    return np.frombuffer(raw, f">u{unit}").astype(f"<u{unit}").tobytes()


def _item(reference: str, dataset: Dataset, sequence: int, number: str) -> Dataset:
    element = dataset.get(Tag(sequence))
    if element is None or element.VR != "SQ" or not number.isdecimal():
        raise _none(reference)
    if not 1 <= int(number) <= len(element.value):
        raise _none(reference)
    found: Dataset = element.value[int(number) - 1]
    return found


def _tag(reference: str, name: str) -> int:
    if not re.fullmatch(r"[0-9A-Fa-f]{8}", name):
        raise _none(reference)
    return int(name, 16)


def _none(reference: str) -> NoBulkData:
    return NoBulkData(
        f"the instance has no binary attribute {reference} in its header; take the BulkDataURI from its metadata"
    )
