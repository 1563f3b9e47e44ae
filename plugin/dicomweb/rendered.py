"""Pictures of stored objects for people: which part, in which window and size, in which format (PS3.18 8.3.5, 8.7.4).

What is synthetic, or was made by one of our model versions, bears its visible mark (promise 5). Our captures have it in
a strip inside the frame; where a part of the frame is asked for, or the frame shrinks, it is written anew below.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Literal

import numpy as np
import simplejpeg
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dicom_io import labels, picture, pixels
from dicom_io.errors import Rejected
from dicom_io.picture import Picture
from dicom_io.pixels import VoiFunction, Window
from dicom_io.provenance import LabelRecord
from plugin.dicomweb import bulk_data, frames
from plugin.dicomweb.media import NotAcceptable
from plugin.dicomweb.resources import Held
from plugin.dicomweb.sending import Placed, cut, size_of

Format = Literal["image/jpeg", "image/png", "image/gif"]
FORMATS: Sequence[Format] = ("image/jpeg", "image/png", "image/gif")
"""What pictures are given as; the first where the client does not say."""

_DEFAULT_QUALITY = 90
_THUMBNAIL_PX = 256
LARGEST_PX = 8192
_FUNCTIONS: Mapping[str, VoiFunction] = {"linear": "LINEAR", "linear-exact": "LINEAR_EXACT", "sigmoid": "SIGMOID"}
_ANNOTATIONS = frozenset({"patient", "technique"})
_PROFILES = frozenset({"no", "yes", "srgb", "adobergb", "rommrgb", "displayp3"})
_FOREIGN_MARK = "SYNTHETIC - not for diagnosis"
_ENCAPSULATED_PDF = "1.2.840.10008.5.1.4.1.1.104.1"
_VIDEO = {
    **dict.fromkeys(("1.2.840.10008.1.2.4.100", "1.2.840.10008.1.2.4.101"), "video/mpeg"),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{number}" for number in range(102, 109)), "video/mp4"),
}


class BadView(Rejected):
    """A rendering parameter is malformed, or asks for what the image does not have; answered with 400."""


@dataclass(frozen=True)
class View:
    """What of a picture is asked for.

    viewport: (columns, rows) that it must fit into, growing or shrinking. region: (left, top, columns, rows) of the
    source, in pixels, or in shares of it where `in_shares`; negative columns or rows: mirrored. warnings: what was
    asked for and is not done.
    """

    viewport: tuple[int, int] | None = None
    region: tuple[float, float, float, float] | None = None
    in_shares: bool = False
    window: Window | None = None
    quality: int = _DEFAULT_QUALITY
    warnings: tuple[str, ...] = field(default=(), compare=False)


# What is asked for


def view(parameters: Mapping[str, str]) -> View:
    """The view that the query parameters of a rendered resource name (PS3.18 8.3.5.1). Raises BadView."""
    viewport, region = _viewport(parameters.get("viewport"))
    return View(
        viewport=viewport,
        region=region,
        window=_window(parameters.get("window")),
        quality=quality(parameters.get("quality"), "quality"),
        warnings=(*_not_annotated(parameters.get("annotation")), *_without_profile(parameters.get("iccprofile"))),
    )


def thumbnail(parameters: Mapping[str, str]) -> View:
    """The view of a thumbnail: as large as `viewport` says (PS3.18 8.3.5.2), or 256 x 256. Raises BadView."""
    viewport, region = _viewport(parameters.get("viewport"))
    if region is not None:
        raise BadView(f"viewport={parameters['viewport']} names a part; of a thumbnail ask for columns and rows alone")
    return View(viewport=viewport or (_THUMBNAIL_PX, _THUMBNAIL_PX))


def quality(text: str | None, name: str) -> int:
    """1 to 100. Raises BadView."""
    if text is None:
        return _DEFAULT_QUALITY
    if not text.isdecimal() or not 1 <= int(text) <= 100:
        raise BadView(f"{name}={text} is no whole number from 1 to 100; give one")
    return int(text)


def window(centre: str, width: str, function: VoiFunction, name: str) -> Window:
    """A window from text. Raises BadView."""
    try:
        found = Window(float(centre), float(width), function)
    except ValueError:
        found = Window(math.nan, math.nan)
    if not math.isfinite(found.centre) or not math.isfinite(found.width):
        raise BadView(f"{name} must hold numbers, not {centre},{width}; give centre and width in modality units")
    if found.width < (1 if function == "LINEAR" else 1e-9):
        raise BadView(f"a {function} window cannot have a width of {width} (PS3.3 C.11.2.1.2); give a larger one")
    return found


def size(columns: str, rows: str, name: str) -> tuple[int, int]:
    """Columns and rows of the picture from text. Raises BadView."""
    if not all(text.isdecimal() and 1 <= int(text) <= LARGEST_PX for text in (columns, rows)):
        raise BadView(f"{name} must be columns and rows from 1 to {LARGEST_PX}, not {columns},{rows}")
    return int(columns), int(rows)


def _window(text: str | None) -> Window | None:
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    function = _FUNCTIONS.get(parts[-1].lower().replace("_", "-"))
    if len(parts) != 3 or function is None:
        raise BadView(f"window={text} must be centre,width,function with one of {', '.join(_FUNCTIONS)}")
    return window(parts[0], parts[1], function, "window")


def _viewport(
    text: str | None,
) -> tuple[tuple[int, int] | None, tuple[float, float, float, float] | None]:
    if text is None:
        return None, None
    parts = [part.strip() for part in text.split(",")]
    if len(parts) not in (2, 6):
        raise BadView(f"viewport={text} must be vw,vh or vw,vh,sx,sy,sw,sh")
    shown = size(parts[0], parts[1], "viewport")
    if len(parts) == 2 or not any(parts[2:]):
        return shown, None
    # An empty number is the default: from the first pixel, up to the last (marked by infinity here).
    defaults = (0.0, 0.0, math.inf, math.inf)
    try:
        left, top, columns, rows = (
            float(part) if part else default for part, default in zip(parts[2:], defaults, strict=True)
        )
    except ValueError as error:
        raise BadView(f"viewport={text} holds what is no number; give vw,vh,sx,sy,sw,sh") from error
    return shown, (left, top, columns, rows)


def _not_annotated(text: str | None) -> Sequence[str]:
    """Annotations are not drawn; PS3.18 8.3.5.1.1 has words for saying so."""
    if text is None:
        return ()
    asked = [part.strip() for part in text.split(",")]
    unknown = [part for part in asked if part not in _ANNOTATIONS]
    if unknown:
        raise BadView(f"annotation={text} holds {unknown[0]!r}; the Standard knows patient and technique")
    return (f"The following annotation values are not supported: {','.join(asked)}",)


def _without_profile(text: str | None) -> Sequence[str]:
    if text is None or text == "no":
        return ()
    if text not in _PROFILES:
        raise BadView(f"iccprofile={text} is none of {', '.join(sorted(_PROFILES))}")
    return (f"iccprofile={text} is not supported: colours are given as they are stored, without a profile",)


# What can be shown


def is_document(row: Held) -> bool:
    """It is shown as it is, as a PDF or a film."""
    return row.sop_class_uid == _ENCAPSULATED_PDF or row.transfer_syntax_uid in _VIDEO


def document(row: Held) -> tuple[str, Sequence[Placed]]:
    """Media type and bytes of a document.

    Raises:
        NotAcceptable: it is encapsulated, and no PDF.
    """
    if row.sop_class_uid == _ENCAPSULATED_PDF:
        return _pdf(row)
    stream = frames.layout(row.path).stream
    # Films are stored in MP4 or in a transport stream; what it is stands in its first bytes.
    is_mp4 = frames.read(cut(stream, 4, 8)) == b"ftyp"
    return ("video/mp4" if is_mp4 else _VIDEO[row.transfer_syntax_uid]), stream


def _pdf(row: Held) -> tuple[str, Sequence[Placed]]:
    header = frames.parse(row.path).header
    kind = str(header.get("MIMETypeOfEncapsulatedDocument") or "application/pdf").lower()
    if kind != "application/pdf":
        raise NotAcceptable(
            f"instance {row.sop_instance_uid} holds {kind}, which is not shown; take it by its bulk data"
        )
    value = bulk_data.value(row, "00420011")
    # The value has an even length; the document's own may be odd.
    length = header.get("EncapsulatedDocumentLength")
    return kind, list(cut(value, 0, min(int(length), size_of(value)) if length else size_of(value)))


def is_image(row: Held) -> bool:
    """It has frames that can be shown as pictures."""
    return frames.parse_cached(row.path).tag != 0 and row.transfer_syntax_uid not in _VIDEO


def count(row: Held) -> int:
    """Number of frames. Raises NoSuchFrame where it is no image."""
    return frames.layout(row.path).count


def render(row: Held, number: int, asked: View, kind: Format) -> bytes:
    """Frame `number` (from 1) as a picture.

    Raises:
        BadView: the part lies outside the image, or the picture is too small for the mark that it must bear.
        NoSuchFrame, UndecodablePixels: there is no such frame, or it cannot be decoded.
    """
    shown = pixels.eight_bits(frames.alone(row.path, number), window=asked.window)
    mark = _mark(row)
    if asked.region is not None:
        shown = _part(shown, asked)
    viewport = asked.viewport
    if mark is not None and not (mark.in_frame and _fits(shown, viewport) and asked.region is None):
        shown = _marked(shown, mark, viewport)
    elif viewport is not None:
        shown = _scaled(shown, viewport)
    return _encoded(shown, kind, asked.quality, mark)


def _fits(shown: Picture, viewport: tuple[int, int] | None) -> bool:
    """It is not made smaller."""
    return viewport is None or (shown.shape[1] <= viewport[0] and shown.shape[0] <= viewport[1])


def _part(shown: Picture, asked: View) -> Picture:
    assert asked.region is not None
    rows, columns = shown.shape[:2]
    across, down = (columns, rows) if asked.in_shares else (1, 1)
    left, width = asked.region[0] * across, asked.region[2] * across
    top, height = asked.region[1] * down, asked.region[3] * down
    width = columns - left if math.isinf(width) else width
    height = rows - top if math.isinf(height) else height
    first, last = math.floor(left), math.ceil(left + abs(width))
    upper, lower = math.floor(top), math.ceil(top + abs(height))
    if not (0 <= first < last <= columns and 0 <= upper < lower <= rows):
        raise BadView(
            f"the part {left:g},{top:g},{width:g},{height:g} is not inside the image of {columns} columns and "
            f"{rows} rows"
        )
    part = shown[upper:lower, first:last]
    part = part[:, ::-1] if width < 0 else part
    return part[::-1] if height < 0 else part


def _scaled(shown: Picture, viewport: tuple[int, int]) -> Picture:
    """As large as fits, with the same proportions (PS3.18 8.3.5.1.3)."""
    rows, columns = shown.shape[:2]
    scale = min(viewport[0] / columns, viewport[1] / rows)
    size_px = (max(round(columns * scale), 1), max(round(rows * scale), 1))
    image = Image.fromarray(np.ascontiguousarray(shown))
    return np.asarray(image.resize(size_px, Image.Resampling.BICUBIC, reducing_gap=3.0))


# The mark


@dataclass(frozen=True)
class _Mark:
    """in_frame: the frame has it in a strip of its own. facts: for the file's own text."""

    text: str
    in_frame: bool
    facts: Mapping[str, str]


def _mark(row: Held) -> _Mark | None:
    if row.made_by_us and row.record is not None:
        record = LabelRecord.from_json(json.dumps(row.record))
        facts = {"Synthetic": "YES"} if record.is_synthetic else {}
        facts |= {"Model": record.model.address, "AuditID": record.audit_id}
        facts |= {} if record.seed is None else {"Seed": str(record.seed)}
        return _Mark(labels.visible_mark(record), record.mark_rows > 0, facts)
    return _Mark(_FOREIGN_MARK, False, {"Synthetic": "YES"}) if row.synthetic else None


def _marked(shown: Picture, mark: _Mark, viewport: tuple[int, int] | None) -> Picture:
    """With the mark in a strip below; both together fit into the viewport."""
    if viewport is None:
        return picture.with_caption(shown, mark.text)
    columns, rows = viewport
    for text in (mark.text, mark.text.split()[0]):
        strip = len(picture.text_strip(text, columns))
        if strip <= rows / 2:
            break
    else:
        raise BadView(
            f"a picture of {columns} columns and {rows} rows has no room for the mark {mark.text!r} that it must bear; "
            "ask for a larger one"
        )
    fitted = _scaled(shown, (columns, rows - strip))
    room = columns - fitted.shape[1]
    sides = ((0, 0), (room // 2, room - room // 2), *((0, 0),) * (fitted.ndim - 2))
    return picture.with_caption(np.pad(fitted, sides), text)


# The file


def _encoded(shown: Picture, kind: Format, quality_: int, mark: _Mark | None) -> bytes:
    facts = {} if mark is None else mark.facts
    shown = np.ascontiguousarray(shown)
    if kind == "image/jpeg":
        return _commented(_jpeg(shown, quality_), facts)
    image, buffer = Image.fromarray(shown), BytesIO()
    if kind == "image/png":
        chunks = PngInfo()
        for name, value in facts.items():
            chunks.add_text(name, value)
        image.save(buffer, "PNG", pnginfo=chunks, compress_level=3)
    else:
        image.save(buffer, "GIF", **({"comment": _told(facts)} if facts else {}))
    return buffer.getvalue()


def _jpeg(shown: Picture, quality_: int) -> bytes:
    """Baseline JPEG in a JFIF file, colours at half the resolution. Several threads can do this side by side."""
    if shown.ndim == 2:
        return bytes(simplejpeg.encode_jpeg(shown[..., np.newaxis], quality_, "GRAY", "Gray"))
    return bytes(simplejpeg.encode_jpeg(shown, quality_, "RGB", "420"))


def _commented(jpeg: bytes, facts: Mapping[str, str]) -> bytes:
    """With a comment (ITU-T T.81 B.2.4.5) behind the header of JFIF, where there are facts to tell."""
    if not facts:
        return jpeg
    after = 4 + int.from_bytes(jpeg[4:6], "big")
    told = _told(facts)
    return jpeg[:after] + b"\xff\xfe" + (len(told) + 2).to_bytes(2, "big") + told + jpeg[after:]


def _told(facts: Mapping[str, str]) -> bytes:
    return "; ".join(f"{name}={value}" for name, value in facts.items()).encode("latin-1", "replace")


def representative(rows: Sequence[Held]) -> Held | None:
    """The instance that stands for all: an image near the middle, one that came from outside where there is one."""
    others = [row for row in rows if not row.made_by_us]
    for among in (others, rows):
        middle = len(among) // 2
        for at in sorted(range(len(among)), key=lambda number: abs(number - middle)):
            if is_image(among[at]):
                return among[at]
    return None
