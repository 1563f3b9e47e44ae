"""Other UIDs in place of real ones: 2.25. and a UUID (PS3.5 B.2) from HMAC-SHA-256 of the UID under the site's key.

The same UID becomes the same one in every object and on every repeat, so that references hold; without the key it
cannot be turned back, nor tested for a guess. UIDs that the standard defines (SOP classes, transfer syntaxes,
well-known frames of reference, context groups) lie below its own root and are not mapped, and neither are coding
schemes registered with HL7.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import uuid

_STANDARD_ROOT = "1.2.840.10008."
_HL7_CODE_SYSTEMS = "2.16.840.1.113883.6."
# Five dots and twenty characters: versions of software are shorter.
_IN_TEXT = re.compile(r"(?<![\d.])[0-2](?:\.\d+){5,}(?![\d.]*\d)")
_SHORTEST = 20


def mapped(key: bytes, uid: str) -> str:
    """The UID that stands for this one; one of the standard's, or none (""), stays."""
    uid = uid.strip(" \0")
    if not uid or uid.startswith((_STANDARD_ROOT, _HL7_CODE_SYSTEMS)):
        return uid
    digest = hmac.new(key, f"\0uid\0{uid}".encode(), hashlib.sha256).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}"


def mapped_in_text(key: bytes, text: str) -> str:
    """The text with each UID in it mapped."""
    return _IN_TEXT.sub(lambda found: mapped(key, found[0]) if len(found[0]) >= _SHORTEST else found[0], text)
