"""Contributing Equipment (PS3.3 C.12.1.1.5): the devices that had a hand in an object, and our versions among them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from copy import deepcopy

from pydicom import Dataset

from dicom_io.label_table import ACQUISITION, SYNTHESIZING


def items_of(dataset: Dataset, keyword: str) -> list[Dataset]:
    """The items of a sequence; none where it is absent."""
    return list(dataset.get(keyword) or [])


def code_item(code: tuple[str, str, str]) -> Dataset:
    """An item of a code sequence (PS3.3 8.8): value, scheme designator, meaning."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code
    return item


def equipment_key(item: Dataset) -> str:
    """What tells one Contributing Equipment item from another: purpose | manufacturer | model | serial | device UID."""
    purposes = "+".join(str(code.get("CodeValue", "")) for code in items_of(item, "PurposeOfReferenceCodeSequence"))
    rest = ("Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "DeviceUID")
    return "|".join([purposes, *(str(item.get(keyword) or "") for keyword in rest)])


def equipment_of(sources: Sequence[Dataset]) -> list[Dataset]:
    """The equipment items that a result of these sources must keep, each once, in order of first appearance.

    These are the sources' own Contributing Equipment items, and the scanner that a source's General Equipment names
    (as 109101), unless an item says already who acquired or synthesised it.
    """
    kept: dict[str, Dataset] = {}
    for source in _of_different_equipment(sources):
        items = items_of(source, "ContributingEquipmentSequence")
        makers = {SYNTHESIZING[0], ACQUISITION[0]}
        if source.get("Manufacturer") and not any(equipment_key(item).split("|")[0] in makers for item in items):
            items.append(_acquisition_item(source))
        for item in items:
            key = equipment_key(item)
            # Slices of a series say the same; only what is new is copied.
            if key not in kept:
                kept[key] = _decoded_copy(item)
    return list(kept.values())


_SCANNER = (
    "Manufacturer",
    "ManufacturerModelName",
    "StationName",
    "DeviceSerialNumber",
    "SoftwareVersions",
    "DeviceUID",
)


def _of_different_equipment(sources: Sequence[Dataset]) -> list[Dataset]:
    """The sources without those whose scanner an earlier one has named, and that say no more: most of a series."""
    told: set[tuple[str, ...]] = set()
    different = []
    for source in sources:
        scanner = tuple(str(source.get(keyword) or "") for keyword in _SCANNER)
        if scanner not in told or "ContributingEquipmentSequence" in source:
            different.append(source)
        if "ContributingEquipmentSequence" not in source:
            told.add(scanner)
    return different


def _acquisition_item(source: Dataset) -> Dataset:
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [code_item(ACQUISITION)]
    for keyword in _SCANNER:
        if source.get(keyword):
            setattr(item, keyword, deepcopy(source[keyword].value))
    return item


def _decoded_copy(item: Dataset) -> Dataset:
    """A copy without private elements, text decoded, so that it can be written in another character set."""
    copy = Dataset()
    for element in item:
        if element.tag.is_private:
            continue
        if element.VR == "SQ":
            setattr(copy, element.keyword, [_decoded_copy(child) for child in element.value])
        else:
            copy.add_new(element.tag, element.VR, deepcopy(element.value))
    return copy


def is_ours(dataset: Dataset, known_device_uids: Collection[str]) -> bool:
    """Whether one of our model versions had a hand in this object: a Contributing Equipment item bears its Device UID.

    known_device_uids: `ModelIdentity.device_uid` of every model version that this node has or had. The caller knows the
    SOP Instance UIDs that it wrote; this finds what came back under another UID (promise 2).
    """
    return any(
        str(item.get("DeviceUID") or "") in known_device_uids
        for item in items_of(dataset, "ContributingEquipmentSequence")
    )
