"""Names that stand for patients and UIDs in cohorts: the same for the same key, not to be turned back without it."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
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
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
    key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise Rejected(
            f"{path} holds {len(key)} bytes and a key has {KEY_BYTES}; restore it from a backup, or remove it"
        )
    return key


def hidden_volume(key: bytes, volume: Volume) -> Volume:
    """The volume with pseudonyms for the UIDs of its sources and its frame of reference, as cohorts keep it."""
    return replace(
        volume,
        sources=tuple(_hidden(key, source) for source in volume.sources),
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
