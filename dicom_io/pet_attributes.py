"""Values of a PET image's attributes: each one is there and can be read, or a sentence says what is wrong with it.

Nothing is guessed: a value that is absent, empty, zero where it divides, or cannot be parsed refuses its series.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from pydicom.dataelem import RawDataElement

from dicom_io import dataset
from dicom_io.errors import MissingAttribute, Rejected, UnknownUnits

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

T = TypeVar("T")


def named(ds: Dataset) -> str:
    return f"PET series {ds.get('SeriesInstanceUID', 'without a UID')}"


def value(ds: Dataset, keyword: str, owner: Dataset | None = None) -> Any:
    """The value, or None. owner: the image, where `ds` is an item in it.

    pydicom parses a value when it is asked for; one that it cannot parse is worth no more than a missing one.
    """
    try:
        return dataset.value(ds, keyword)
    except Rejected:  # told below, with the image's name
        pass
    try:
        return ds.get(keyword)
    except (ValueError, NotImplementedError, OverflowError) as error:
        raise MissingAttribute(f"{named(owner or ds)}: {keyword} cannot be read ({error}); correct it") from error


def parsed(ds: Dataset, name: str, text: Any, parse: Callable[[Any], T]) -> T:
    """`parse(text)`, or MissingAttribute with the attribute's name and text."""
    try:
        return parse(text)
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise MissingAttribute(f"{named(ds)}: {name} is {str(text)!r}, which cannot be read; correct it") from error


def number(ds: Dataset, keyword: str, tag: str, owner: Dataset | None = None) -> float:
    found = value(ds, keyword, owner)
    if found is None or found == "":
        raise MissingAttribute(f"{named(owner or ds)} has no {keyword} {tag}, without which there is no SUV; add it")
    return parsed(owner or ds, keyword, found, float)


def positive(ds: Dataset, keyword: str, tag: str, owner: Dataset | None = None) -> float:
    """A number above 0 and below infinity."""
    found = number(ds, keyword, tag, owner)
    if not 0 < found < float("inf"):
        raise MissingAttribute(f"{named(owner or ds)}: {keyword} {tag} is {found:g}, which gives no SUV; correct it")
    return found


def isotope(ds: Dataset) -> Dataset:
    """The one item of Radiopharmaceutical Information Sequence (0054,0016)."""
    items = value(ds, "RadiopharmaceuticalInformationSequence") or []
    if len(items) != 1:
        raise MissingAttribute(
            f"{named(ds)}: Radiopharmaceutical Information Sequence (0054,0016) has {len(items)} items, so there is "
            "no one dose to divide by; send a series with exactly one"
        )
    found: Dataset = items[0]
    return found


def private_text(ds: Dataset, group: int, creator: str, element: int) -> str:
    """A maker's private value as text, "" where it is absent or empty.

    In Implicit VR, and where a proxy wrote VR UN, it comes as bytes.
    """
    try:
        found = ds.private_block(group, creator)[element].value
    except KeyError:
        return ""
    except (ValueError, OverflowError) as error:
        tag = f"({group:04X},xx{element:02X})"
        raise MissingAttribute(f"{named(ds)}: {tag} of {creator} cannot be read ({error}); correct it") from error
    text = found.decode("ascii", "replace") if isinstance(found, bytes) else "" if found is None else str(found)
    return text.strip("\0 ")


def check_agreement(
    series: Sequence[Dataset], of_images: Sequence[tuple[str, str]], of_items: Sequence[tuple[str, str]] = ()
) -> None:
    """All slices say the same of these (keyword, tag); `of_items` stand in the items of (0054,0016).

    A series of which half was corrected would come out in two scales, or in the wrong one: nobody knows which.
    """
    with_other_items = _that_differ(series, "RadiopharmaceuticalInformationSequence") if of_items else ()
    for keyword, tag in of_items:
        check_one(series[0], f"{keyword} {tag}", {_stated(ds, keyword, True) for ds in with_other_items})
    for keyword, tag in of_images:
        stated = {_stated(ds, keyword, False) for ds in _that_differ(series, keyword)}
        check_one(series[0], f"{keyword} {tag}", stated)


def _that_differ(series: Sequence[Dataset], keyword: str) -> list[Dataset]:
    """One slice for each encoding of an attribute: most series write the same bytes in all."""
    found: dict[Any, Dataset] = {}
    for ds in series:
        element = ds.get_item(keyword)
        encoded = element.value if isinstance(element, RawDataElement) else None
        found.setdefault(encoded if isinstance(encoded, bytes) else id(ds), ds)
    return list(found.values())


def check_one(first: Dataset, name: str, stated: set[str]) -> None:
    """Raises UnknownUnits where `stated` holds more than one value."""
    if len(stated) > 1:
        raise UnknownUnits(
            f"{named(first)}: {name} differs between slices ({', '.join(sorted(stated))}), so no one SUV holds for "
            "all; send the whole series with the right value"
        )


def _stated(ds: Dataset, keyword: str, in_items: bool) -> str:
    """What a slice says of an attribute, or of one in the items of its Radiopharmaceutical Information Sequence."""
    owners = (value(ds, "RadiopharmaceuticalInformationSequence") or ()) if in_items else (ds,)
    return " and ".join(_shown(value(owner, keyword, ds)) for owner in owners) or "absent"


def _shown(found: Any) -> str:
    """Text that is the same for the same value: 70 and 70.0, 090000 and 090000.00."""
    if found is None or found == "":
        return "absent"
    if isinstance(found, float | int):
        return f"{found:.12g}"
    text = str(found)
    return text.rstrip("0").rstrip(".") if "." in text else text
