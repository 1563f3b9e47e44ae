"""What a compressed picture says of itself: its transfer syntax, and the Image Pixel attributes that metadata may omit.

PS3.18 10.5.2 lets a client leave those attributes to the picture's own header, and most clients name no transfer syntax
either. Read here are JPEG and JPEG-LS (ISO 10918-1 B.2, ISO 14495-1 C.2) and JPEG 2000 (ISO 15444-1 A.5, A.6).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydicom.uid import (
    JPEG2000,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
)

HEAD_BYTES = 1 << 16
"""As much of a picture as `describe` needs."""

_START_OF_SCAN = 0xDA
# Markers of a frame header, as far as there is a transfer syntax for them; lossless ones depend on the scan.
_FRAMES = {0xC0: JPEGBaseline8Bit, 0xC1: JPEGExtended12Bit, 0xC3: JPEGLossless, 0xF7: JPEGLSLossless}
_JPEG2000_START = b"\xff\x4f\xff\x51"


@dataclass(frozen=True)
class Described:
    """syntax: transfer syntax UID. start: where the codestream begins (after the boxes of a JP2 file).
    attributes: Image Pixel attributes by keyword; those that the header does not tell are absent."""

    syntax: str
    start: int = 0
    attributes: Mapping[str, Any] = field(default_factory=dict)


def describe(head: bytes) -> Described | None:
    """What the first bytes of a picture say; None where they are none of the formats above."""
    if head.startswith(b"\xff\xd8"):
        return _jpeg(head)
    start = head.find(_JPEG2000_START)
    # Either a bare codestream, or one in the boxes of a JP2 file (ISO 15444-1 I.5.1).
    if start == 0 or (start > 0 and head[4:8] == b"jP  "):
        return _jpeg2000(head, start)
    return None


def _jpeg(head: bytes) -> Described | None:
    at, frame, found = 2, 0, b""
    while at + 4 <= len(head) and head[at] == 0xFF:
        marker, length = head[at + 1], int.from_bytes(head[at + 2 : at + 4], "big")
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        body = head[at + 4 : at + 2 + length]
        if marker in _FRAMES:
            frame, found = marker, body
        if marker == _START_OF_SCAN:
            return _jpeg_scan(frame, found, body)
        at += 2 + length
    return None


def _jpeg_scan(frame: int, header: bytes, scan: bytes) -> Described | None:
    if len(header) < 6 or not scan:
        return None
    syntax = _FRAMES[frame]
    # Ns components of two bytes each; then the predictor, or for JPEG-LS the allowed error.
    parameter = scan[1 + 2 * scan[0]] if len(scan) > 1 + 2 * scan[0] else 0
    if syntax == JPEGLossless and parameter == 1:
        syntax = JPEGLosslessSV1
    if syntax == JPEGLSLossless and parameter > 0:
        syntax = JPEGLSNearLossless
    bits, samples = header[0], header[5]
    rows, columns = int.from_bytes(header[1:3], "big"), int.from_bytes(header[3:5], "big")
    # A baseline picture of three components is YCbCr (JFIF); the lossless ones leave colours as they are.
    lossy = syntax in (JPEGBaseline8Bit, JPEGExtended12Bit)
    colour = "YBR_FULL_422" if lossy else "RGB"
    return Described(str(syntax), 0, _pixel_attributes(rows, columns, samples, bits, colour))


def _jpeg2000(head: bytes, start: int) -> Described | None:
    size = head[start + 4 : start + 4 + 50]  # Lsiz, Rsiz, Xsiz, Ysiz, XOsiz, YOsiz, four of the tiles, Csiz, Ssiz
    cod = head.find(b"\xff\x52", start)
    if len(size) < 39 or cod < 0 or len(head) < cod + 14:
        return None
    x, y, x0, y0 = (int.from_bytes(size[at : at + 4], "big") for at in (4, 8, 12, 16))
    samples, depth = int.from_bytes(size[36:38], "big"), size[38]
    mixed, reversible = head[cod + 8] == 1, head[cod + 13] == 1
    syntax = JPEG2000Lossless if reversible else JPEG2000
    colour = ("YBR_RCT" if reversible else "YBR_ICT") if mixed else "RGB"
    attributes = _pixel_attributes(y - y0, x - x0, samples, (depth & 0x7F) + 1, colour)
    return Described(str(syntax), start, attributes | {"PixelRepresentation": depth >> 7})


def _pixel_attributes(rows: int, columns: int, samples: int, bits: int, colour: str) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "SamplesPerPixel": samples,
        "PhotometricInterpretation": "MONOCHROME2" if samples == 1 else colour,
        "Rows": rows,
        "Columns": columns,
        "BitsAllocated": 8 if bits <= 8 else 16,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": 0,
    }
    return attributes | ({"PlanarConfiguration": 0} if samples > 1 else {})
