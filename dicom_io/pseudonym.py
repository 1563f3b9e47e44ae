"""Names that stand for patients and UIDs in cohorts: the same for the same key, not to be turned back without it."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from dicom_io.errors import Rejected
from dicom_io.volume import Projection, Source, Volume

KEY_BYTES = 32


def pseudonym(key: bytes, identifier: str, *, prefix: str = "") -> str:
    """16 hexadecimal digits of HMAC-SHA-256 (RFC 2104) of an identifier such as Patient ID (0010,0020)."""
    return prefix + hmac.new(key, identifier.encode(), hashlib.sha256).hexdigest()[:16]


def site_key(path: Path) -> bytes:
    """The site's secret key; made on first use, readable by its owner only.

    Raises:
        Rejected: the file exists and does not hold a key of this length.
    """
    if not path.exists():
        _make_key(path)
    key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise Rejected(
            f"{path} holds {len(key)} bytes and a key has {KEY_BYTES}; restore it from a backup, or remove it"
        )
    return key


def _make_key(path: Path) -> None:
    """The file is there whole or not at all, and never replaced: of two makers the second keeps the first one's key."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)  # readable by its owner only
    scratch = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(scratch, path)
    finally:
        scratch.unlink()


def hidden_volume(key: bytes, volume: Volume) -> Volume:
    """The volume with pseudonyms for the UIDs of its sources and its frame of reference, as cohorts keep it."""
    return replace(
        volume,
        sources=tuple(_hidden(key, source) for source in volume.sources),
        made_from=tuple(_hidden(key, source) for source in volume.made_from),
        frame_of_reference_uid=pseudonym(key, volume.frame_of_reference_uid),
    )


def hidden_projection(key: bytes, projection: Projection) -> Projection:
    """The projection with a pseudonym for the UID of its source."""
    return replace(projection, source=projection.source and _hidden(key, projection.source))


def _hidden(key: bytes, source: Source) -> Source:
    return replace(
        source,
        sop_instance_uid=pseudonym(key, source.sop_instance_uid),
        dataset_hash=pseudonym(key, source.dataset_hash),
    )
