"""Elements parsed now, not when somebody asks for their value: what cannot be parsed cannot be judged."""

from __future__ import annotations

from collections.abc import Iterator

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag

from dicom_io.dataset import UNPARSABLE
from dicom_io.errors import Rejected


def parsed(dataset: Dataset, tag: BaseTag) -> DataElement:
    """One element of a data set.

    Raises:
        Rejected: its value does not follow its value representation (PS3.5 6.2).
    """
    try:
        return dataset[tag]
    except UNPARSABLE as error:
        raise Rejected(
            f"instance {dataset.get('SOPInstanceUID', '(an item of a sequence)')}: {tag} cannot be read "
            f"({type(error).__name__}), so it cannot be judged; correct or remove it"
        ) from error


def elements(dataset: Dataset) -> Iterator[DataElement]:
    """All of a data set, in the order of their tags. Raises Rejected as `parsed` does."""
    for tag in sorted(dataset.keys()):
        yield parsed(dataset, tag)


def values(value: object) -> list[object]:
    """The values of an element, one or several; none where it is empty."""
    if value is None or value == "":
        return []
    if not isinstance(value, MultiValue | list | tuple):  # a PersonName has characters, not values
        return [value] if str(value) else []
    return [one for one in value if one is not None and str(one)]
