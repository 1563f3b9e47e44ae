"""Values in makers' private elements (PS3.5 7.8), also where the VR was lost on the way (UN) and bytes are left."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_BINARY = {"FD": "d", "FL": "f", "US": "H", "SS": "h", "UL": "I", "SL": "i"}


def raw(ds: Dataset, group: int, creator: str, element: int) -> Any:
    """The value as it is there: parsed, or bytes; None where the block or the element is absent."""
    try:
        return ds.private_block(group, creator)[element].value
    except (KeyError, ValueError, NotImplementedError):
        return None


def numbers(ds: Dataset, group: int, creator: str, element: int, vr: str) -> tuple[float, ...]:
    """The numbers of an element of this VR; none where it is absent or cannot be read as that."""
    value = raw(ds, group, creator, element)
    if value is None or value == "":
        return ()
    try:
        if not isinstance(value, bytes):
            several = value if isinstance(value, (list, tuple)) or hasattr(value, "__iter__") else [value]
            several = [value] if isinstance(value, str) else several
            return tuple(float(one) for one in several)
        if vr in _BINARY:
            code = _BINARY[vr]
            return tuple(map(float, struct.unpack(f"<{len(value) // struct.calcsize(code)}{code}", value)))
        return tuple(float(part) for part in value.decode("ascii").strip("\0 ").split("\\"))
    except (ValueError, TypeError, struct.error):
        return ()
