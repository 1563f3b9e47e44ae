"""WADO-RS: instances, metadata, frames, bulk data, pixel data, pictures and thumbnails (PS3.18 10.4).

Stored bytes go out as they are unless another transfer syntax is asked for. What we made ourselves passes the gate
first, on every route.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from fastapi import APIRouter, HTTPException
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless, RLELossless
from starlette.requests import Request
from starlette.responses import Response

from dicom_io import encoding
from dicom_io.encoding import CannotEncode
from dicom_io.errors import UndecodablePixels
from plugin.archive.gate import check_bytes
from plugin.dicomweb import bulk_data, frames, media, metadata, native_xml, rendered, resources
from plugin.dicomweb.compression import takes_gzip
from plugin.dicomweb.media import ANY_SYNTAX, ANYTHING, DICOM, OCTETS, NotAcceptable, Wanted
from plugin.dicomweb.multipart import Part, Writer
from plugin.dicomweb.rendered import FORMATS, Format, View
from plugin.dicomweb.resources import Found, Held
from plugin.dicomweb.routing import Direct, Endpoint, root
from plugin.dicomweb.sending import (
    Computed,
    Made,
    Opened,
    Piece,
    Placed,
    Sending,
    Stretch,
    in_worker,
    known,
    opened,
    size_of,
    tag_of,
    validators,
    whole_or_part,
)

router = APIRouter(tags=["WADO-RS"], route_class=Direct)

# Why one entry of Accept cannot be answered, and the next may.
_CANNOT = (NotAcceptable, CannotEncode, UndecodablePixels)
# What an image type means without a transfer-syntax parameter (PS3.18 table 8.7.3-5).
_DEFAULT_SYNTAX = {
    "image/jpeg": JPEGLosslessSV1,
    "image/jls": JPEGLSLossless,
    "image/jp2": JPEG2000Lossless,
    "image/dicom-rle": RLELossless,
}


# Whole instances


async def instances(request: Request) -> Response:
    """All instances of a study or series, or one: Part 10 files; 206 where some were held back or are missing."""
    found = await resources.every(request)
    reasons = []
    for entry in media.wanted(request):
        try:
            return await _instances_for(request, found, entry)
        except _CANNOT as error:
            reasons.append(str(error))
    raise NotAcceptable(f"{'; '.join(reasons)}; accept multipart/related of application/dicom")


async def _instances_for(request: Request, found: Found, entry: Wanted) -> Response:
    """The answer for one entry of Accept. Raises what `_CANNOT` holds."""
    if entry.media_type not in (DICOM, ANYTHING, "application/*"):
        raise NotAcceptable(f"{entry.media_type} is not given here")
    syntaxes = [instance_syntax(row, _alike(request, entry)) for row in found.cleared]
    if entry.multipart or entry.media_type == ANYTHING:
        return await _instances(request, found, syntaxes)
    if len(found.cleared) > 1:
        raise NotAcceptable("several instances need multipart/related")
    return await instance(request, found.cleared[0], syntaxes[0])


def _alike(request: Request, entry: Wanted) -> Sequence[str]:
    """The transfer syntaxes that the client takes as much as this entry's."""
    return [
        each.transfer_syntax
        for each in media.wanted(request)
        if (each.media_type, each.multipart, each.quality) == (entry.media_type, entry.multipart, entry.quality)
    ]


def instance_syntax(row: Held, acceptable: Sequence[str]) -> UID:
    """The transfer syntax to send in; none said, and "*", mean as stored. Raises NotAcceptable."""
    stored = UID(row.transfer_syntax_uid)
    if any(syntax in ("", ANY_SYNTAX) for syntax in acceptable):
        return stored
    chosen = encoding.choose(stored, [UID(syntax) for syntax in acceptable])
    if chosen is None:
        raise NotAcceptable(
            f"instance {row.sop_instance_uid} is stored in {stored} and cannot be given in {' or '.join(acceptable)}; "
            f"ask for it as stored (*) or in {ExplicitVRLittleEndian}"
        )
    return chosen


async def instance(request: Request, row: Held, syntax: UID) -> Response:
    """One instance alone, as a Part 10 file."""
    tag = tag_of("instance", row.storage_key, syntax)
    content_type = f"{DICOM}; transfer-syntax={syntax}"
    unchanged = known(request, tag, content_type)
    if unchanged is not None:
        return unchanged
    if syntax == row.transfer_syntax_uid:
        return whole_or_part(request, [Stretch(row.path, 0, row.size)], content_type, tag)
    file = await _transcoded(request, row, syntax)
    headers = {"Content-Type": content_type, "Content-Length": str(file.size), **validators(tag)}
    return Sending([file], headers=headers)


async def _instances(request: Request, found: Found, syntaxes: Sequence[UID]) -> Response:
    tag = tag_of("instances", metadata.identity(found.cleared), *syntaxes, found.status, weak=True)
    unchanged = known(request, tag)
    if unchanged is not None:
        return unchanged
    parts: list[Part[Piece]] = []
    first: Opened | None = None
    for row, syntax in zip(found.cleared, syntaxes, strict=True):
        content_type = f"{DICOM}; transfer-syntax={syntax}"
        if syntax == row.transfer_syntax_uid:
            parts.append(Part(content_type, partial(_of, Stretch(row.path, 0, row.size)), row.size))
        elif first is None:
            # It tells whether it can be done at all, while there is time to say so.
            first = await _transcoded(request, row, syntax)
            parts.append(Part(content_type, partial(_of, first), first.size))
        else:
            parts.append(Part(content_type, partial(_of, _to_make(request, row, syntax))))
    return _multipart(DICOM, parts, found.status, validators(tag))


def _of(piece: Piece) -> Iterable[Piece]:
    return (piece,)


async def _transcoded(request: Request, row: Held, syntax: UID) -> Opened:
    return await in_worker(partial(opened, _to_make(request, row, syntax)))


def _to_make(request: Request, row: Held, syntax: UID) -> Made:
    return Made(partial(_write, row, syntax), _scratch(request))


def _write(row: Held, syntax: UID, target: Path) -> None:
    encoding.write(row.path, target, syntax)
    if row.made_by_us:
        check_bytes(row, target.read_bytes())


def _scratch(request: Request) -> Path:
    """Where files lie that nobody needs after this answer; what is left by a killed process is cleared at a start."""
    folder: Path = request.app.state.archive.storage.incoming
    return folder


# Metadata


async def headers(request: Request) -> Response:
    """All attributes but long binary values, of a study, series or instance, as JSON or XML."""
    media_type = media.accepts_data_sets(request)
    if media_type is None:
        raise NotAcceptable(
            "metadata are given as application/dicom+json or multipart/related of application/dicom+xml"
        )
    found = await resources.every(request)
    here = root(request)
    identity = metadata.identity(found.cleared)
    tag = tag_of("metadata", identity, here, media_type, found.status, weak=True)
    unchanged = known(request, tag, None if media_type == native_xml.MEDIA_TYPE else media_type)
    if unchanged is not None:
        return unchanged
    shared = {**validators(tag), "Vary": "Accept, Accept-Encoding"}
    if media_type == native_xml.MEDIA_TYPE:
        writer = await in_worker(lambda: native_xml.writer(metadata.data_sets(found.cleared, here)))
        return _sent(writer, found.status, shared)
    cache: metadata.Cache = request.app.state.metadata
    if takes_gzip(request):
        body = metadata.gzip_at_hand(cache, identity, here)
        if body is None:
            body = await in_worker(partial(metadata.as_gzip, cache, found.cleared, here))
        shared["Content-Encoding"] = "gzip"
    else:
        body = metadata.json_at_hand(cache, identity, here)
        if body is None:
            body = await in_worker(partial(metadata.as_json, cache, found.cleared, here))
    return Response(body, found.status, headers=shared, media_type=media_type)


# Frames and pixel data


async def frames_of_instance(request: Request) -> Response:
    """Frames by number from 1, several by comma, in any order."""
    row = await resources.one(request)
    numbers = _numbers(request)
    return await _given(row, partial(_frames, request, row, numbers))


async def pixel_data(request: Request) -> Response:
    """The pixel data of all instances that the path names: native ones whole, encoded ones frame by frame."""
    found = await resources.every(request)
    return await in_worker(partial(_pixel_data, request, found))


def _numbers(request: Request) -> Sequence[int]:
    text: str = request.path_params["numbers"]
    if not all(number.isdecimal() for number in text.split(",")):
        raise HTTPException(400, f"frames/{text} is no list of frame numbers; ask for frames/1 or frames/1,2,3")
    return [int(number) for number in text.split(",")]


async def _given(row: Held, work: Callable[[], Response]) -> Response:
    """Here, where the header is in memory and nothing is decoded; in another thread otherwise."""
    if frames.is_at_hand(row.path) and frames.parse_cached(row.path).in_place:
        return work()
    return await in_worker(work)


def _frames(request: Request, row: Held, numbers: Sequence[int]) -> Response:
    for number in numbers:
        frames.check(row.path, number)
    reasons = []
    for entry in media.wanted(request):
        try:
            return _frames_for(request, row, numbers, entry)
        except _CANNOT as error:
            reasons.append(str(error))
    raise NotAcceptable(f"{'; '.join(reasons)}; accept multipart/related of application/octet-stream")


def _frames_for(request: Request, row: Held, numbers: Sequence[int], entry: Wanted) -> Response:
    """The answer for one entry of Accept. Raises what `_CANNOT` holds."""
    kind, syntax = _frame_encoding(row, entry)
    # One frame may come alone where the client does not insist on multipart.
    alone = not entry.multipart and entry.media_type != ANYTHING and len(numbers) == 1
    content_type = f"{kind}; transfer-syntax={syntax}"
    tag = tag_of("frames", row.storage_key, content_type, *numbers, weak=not alone)
    unchanged = known(request, tag, content_type if alone else None)
    if unchanged is not None:
        return unchanged
    if alone:
        return whole_or_part(request, _frame(request, row, numbers[0], syntax), content_type, tag)
    return _multipart(kind, _frame_parts(request, row, numbers, content_type, syntax), 200, validators(tag))


def _frame_encoding(row: Held, entry: Wanted) -> tuple[str, UID]:
    """(media type, transfer syntax) of the frames for one entry of Accept. Raises NotAcceptable.

    Octets without a transfer syntax are Explicit VR Little Endian (PS3.18 8.7.3.5.2); "*" is as stored.
    """
    stored = frames.layout(row.path).syntax
    stored_type = media.FRAME_TYPES.get(stored, OCTETS)
    asked = entry.transfer_syntax
    if entry.media_type == OCTETS:
        syntax = stored if asked == ANY_SYNTAX else UID(asked or ExplicitVRLittleEndian)
        kind = OCTETS
    elif asked == ANY_SYNTAX or (not asked and entry.media_type in (ANYTHING, "image/*", stored_type)):
        syntax, kind = stored, stored_type
    else:
        syntax = UID(asked or _DEFAULT_SYNTAX.get(entry.media_type, ""))
        kind = media.FRAME_TYPES.get(syntax, OCTETS)
    fits = entry.media_type in (ANYTHING, kind) or (entry.media_type == "image/*" and kind.startswith("image/"))
    if not fits or not _can_give(stored, syntax):
        raise NotAcceptable(
            f"frames are stored in {stored} and cannot be given as {entry.media_type} {entry.transfer_syntax}".rstrip()
        )
    return kind, syntax


def _can_give(stored: UID, syntax: UID) -> bool:
    """As stored, decoded, or encoded anew."""
    if syntax in (stored, ExplicitVRLittleEndian):
        return True
    return syntax not in encoding.NATIVE and encoding.can_write(stored, syntax)


def _frame(request: Request, row: Held, number: int, syntax: UID) -> Sequence[Placed]:
    stored = frames.layout(row.path).syntax
    if syntax == stored:
        return frames.pieces(row.path, number)
    if syntax == ExplicitVRLittleEndian:
        return [frames.decoded(row.path, number)]
    return [frames.transcoded(row.path, number, syntax, _scratch(request))]


def _frame_parts(
    request: Request, row: Held, numbers: Sequence[int], content_type: str, syntax: UID, location: str = ""
) -> list[Part[Piece]]:
    parts: list[Part[Piece]] = []
    found = frames.layout(row.path)
    lie_in_file = syntax == found.syntax and (found.in_place if not found.is_encapsulated else bool(found.fragments))
    for number in numbers:
        if lie_in_file or not parts:
            # The first tells whether it can be done at all, while there is time to say so.
            placed = _frame(request, row, number, syntax)
            parts.append(Part(content_type, partial(iter, placed), size_of(placed), location))
        else:
            later = Computed(partial(_read_frame, request, row, number, syntax))
            parts.append(Part(content_type, partial(_of, later), None, location))
    return parts


def _read_frame(request: Request, row: Held, number: int, syntax: UID) -> bytes:
    return frames.read(_frame(request, row, number, syntax))


def _pixel_data(request: Request, found: Found) -> Response:
    rows = [row for row in found.cleared if frames.parse_cached(row.path).tag]
    if not rows:
        raise HTTPException(404, f"nothing under {request.url.path} has pixel data")
    reasons = []
    for entry in media.wanted(request):
        try:
            return _pixel_data_for(request, rows, found.status, entry)
        except _CANNOT as error:
            reasons.append(str(error))
    raise NotAcceptable(f"{'; '.join(reasons)}; accept multipart/related of application/octet-stream")


def _pixel_data_for(request: Request, rows: Sequence[Held], status: int, entry: Wanted) -> Response:
    """The answer for one entry of Accept. Raises what `_CANNOT` holds."""
    encodings = [_frame_encoding(row, entry) for row in rows]
    tag = tag_of("pixel data", metadata.identity(rows), *encodings, status, weak=True)
    unchanged = known(request, tag)
    if unchanged is not None:
        return unchanged
    parts = [
        part
        for row, (kind, syntax) in zip(rows, encodings, strict=True)
        for part in _pixel_parts(request, row, kind, syntax)
    ]
    if not entry.multipart and len(parts) == 1 and parts[0].size is not None:
        placed = [piece for piece in parts[0].body() if isinstance(piece, bytes | Stretch)]
        strong = tag_of("pixel data", rows[0].storage_key, *encodings)
        return _unless_known(request, placed, parts[0].content_type, strong)
    return _multipart(encodings[0][0], parts, status, validators(tag))


def _pixel_parts(request: Request, row: Held, kind: str, syntax: UID) -> list[Part[Piece]]:
    """Native values as one part, however many frames; encoded frames one part each (PS3.18 8.7.3.3)."""
    found = frames.layout(row.path)
    content_type = f"{kind}; transfer-syntax={syntax}"
    location = f"{root(request)}{row.where}/bulkdata/{found.tag:08X}"
    if syntax == found.syntax and found.in_place:
        whole = Stretch(row.path, found.start, found.length)
        return [Part(content_type, partial(_of, whole), found.length, location)]
    numbers = range(1, found.count + 1)
    parts = _frame_parts(request, row, numbers, content_type, syntax, location)
    if syntax != ExplicitVRLittleEndian:
        return parts
    size = parts[0].size if len(parts) == 1 else None
    return [Part(content_type, lambda: [piece for part in parts for piece in part.body()], size, location)]


# Bulk data


async def bulk_value(request: Request) -> Response:
    """A long binary value, as the metadata's BulkDataURI names it."""
    row = await resources.one(request)
    reference: str = request.path_params["reference"]
    if bulk_data.is_pixel_data(reference):
        return await in_worker(partial(_pixel_data, request, Found([row])))
    placed = await in_worker(partial(bulk_data.value, row, reference))
    entry = _octets(request)
    if not entry.multipart:
        return _unless_known(request, placed, OCTETS, tag_of("bulk data", row.storage_key, reference.upper()))
    parts: list[Part[Piece]] = [Part(OCTETS, partial(iter, placed), size_of(placed))]
    return _multipart(OCTETS, parts, 200, {})


async def every_bulk_value(request: Request) -> Response:
    """All long binary values but pixel data of the instances that the path names."""
    found = await resources.every(request)
    if not _octets(request).multipart and not any(entry.media_type == ANYTHING for entry in media.wanted(request)):
        raise NotAcceptable("several values need multipart/related; accept that")
    parts = await in_worker(partial(_bulk_parts, root(request), found.cleared))
    if not parts:
        raise HTTPException(404, f"nothing under {request.url.path} has long binary values but pixel data")
    return _multipart(OCTETS, parts, found.status, {})


def _bulk_parts(here: str, rows: Sequence[Held]) -> list[Part[Piece]]:
    parts: list[Part[Piece]] = []
    for row in rows:
        for reference in bulk_data.references(row, metadata.INLINE_BYTES):
            placed = bulk_data.value(row, reference)
            location = f"{here}{row.where}/bulkdata/{reference}"
            parts.append(Part(OCTETS, partial(iter, placed), size_of(placed), location))
    return parts


def _octets(request: Request) -> Wanted:
    for entry in media.wanted(request):
        if entry.media_type in (OCTETS, ANYTHING, "application/*"):
            return entry
    raise NotAcceptable("bulk data are given as application/octet-stream, alone or in multipart/related; accept that")


# Pictures


async def pictures(request: Request) -> Response:
    """Pictures of a study, series, instance or frames: all of them in parts, or one that stands for them alone."""
    asked = rendered.view(request.query_params)
    found = await resources.every(request)
    if rendered.is_document(found.cleared[0]) and {"instance", "numbers"} & request.path_params.keys() == {"instance"}:
        shown = await in_worker(partial(rendered.document, found.cleared[0]))
        return document(request, found.cleared[0], *shown, media.wanted(request))
    kind, multipart = picture_format(media.wanted(request))
    if not multipart:
        return await in_worker(partial(_one_of, request, found.cleared, asked, kind))
    every = await in_worker(partial(_every_picture, request, found.cleared))
    tag = tag_of("pictures", metadata.identity(found.cleared), every, asked, kind, weak=True)
    unchanged = known(request, tag)
    if unchanged is not None:
        return unchanged
    # The first tells whether it can be done at all, while there is time to say so.
    first = await in_worker(partial(rendered.render, *every[0], asked, kind))
    parts: list[Part[Piece]] = [Part(kind, partial(_of, first), len(first))]
    parts += [
        Part(kind, partial(_of, Computed(partial(rendered.render, row, number, asked, kind))))
        for row, number in every[1:]
    ]
    return _multipart(kind, parts, found.status, validators(tag) | warned(request, asked.warnings))


async def thumbnail(request: Request) -> Response:
    """A small picture that stands for a study, series, instance or frame."""
    asked = rendered.thumbnail(request.query_params)
    found = await resources.every(request)
    kind, _ = picture_format(media.wanted(request))
    return await in_worker(partial(_thumbnail, request, found.cleared, asked, kind))


def _thumbnail(request: Request, rows: Sequence[Held], asked: View, kind: Format) -> Response:
    row, number, _ = _one_picture(request, rows)
    return picture(request, row, number, asked, kind, ())


def _one_of(request: Request, rows: Sequence[Held], asked: View, kind: Format) -> Response:
    """The picture that stands for all, and how many others there are."""
    row, number, others = _one_picture(request, rows)
    more = (f"one of {others + 1} pictures; accept multipart/related for all",) if others else ()
    return picture(request, row, number, asked, kind, (*asked.warnings, *more))


def picture(request: Request, row: Held, number: int, asked: View, kind: Format, warnings: Sequence[str]) -> Response:
    """One picture alone; the same request gives the same bytes. Work for another thread."""
    tag = tag_of("picture", row.storage_key, number, asked, kind)
    unchanged = known(request, tag, kind)
    if unchanged is not None:
        return unchanged
    body = rendered.render(row, number, asked, kind)
    return Response(body, headers=validators(tag) | warned(request, warnings), media_type=kind)


def warned(request: Request, warnings: Sequence[str]) -> dict[str, str]:
    """A Warning header (RFC 7234 5.5) in the form that PS3.18 gives it."""
    return {"Warning": ", ".join(f'299 {root(request)}: "{text}"' for text in warnings)} if warnings else {}


def _one_picture(request: Request, rows: Sequence[Held]) -> tuple[Held, int, int]:
    """(instance, frame number) of the picture that stands for all, and how many others there are at least."""
    if "numbers" in request.path_params:
        numbers = _numbers(request)
        return rows[0], numbers[0], len(numbers) - 1
    row = rendered.representative(rows)
    if row is None:
        raise NotAcceptable(f"nothing under {request.url.path} is an image, so there is no picture of it")
    count = rendered.count(row)
    return row, (count + 1) // 2, count - 1 + sum(each is not row and rendered.is_image(each) for each in rows)


def _every_picture(request: Request, rows: Sequence[Held]) -> Sequence[tuple[Held, int]]:
    if "numbers" in request.path_params:
        return [(rows[0], number) for number in _numbers(request)]
    every = [(row, number) for row in rows if rendered.is_image(row) for number in range(1, rendered.count(row) + 1)]
    if not every:
        raise NotAcceptable(f"nothing under {request.url.path} is an image, so there is no picture of it")
    return every


def picture_format(wanted: Sequence[Wanted]) -> tuple[Format, bool]:
    """What to write, and whether in parts: only where the client says multipart/related. Raises NotAcceptable."""
    for entry in wanted:
        if entry.media_type in (ANYTHING, "image/*"):
            return FORMATS[0], entry.multipart
        for kind in FORMATS:
            if entry.media_type == kind:
                return kind, entry.multipart
    raise NotAcceptable(f"pictures are given as {', '.join(FORMATS)}; accept one of them")


def document(request: Request, row: Held, kind: str, placed: Sequence[Placed], wanted: Sequence[Wanted]) -> Response:
    """A PDF or a film as it is stored."""
    group = kind.partition("/")[0] + "/*"
    for entry in wanted:
        if entry.media_type not in (kind, group, ANYTHING):
            continue
        if entry.multipart:
            parts: list[Part[Piece]] = [Part(kind, partial(iter, placed), size_of(placed))]
            return _multipart(kind, parts, 200, {})
        return _unless_known(request, placed, kind, tag_of("document", row.storage_key))
    raise NotAcceptable(f"instance {row.sop_instance_uid} is shown as {kind}; accept that")


# Answers


def _unless_known(request: Request, placed: Sequence[Placed], content_type: str, tag: str) -> Response:
    return known(request, tag, content_type) or whole_or_part(request, placed, content_type, tag)


def _multipart(kind: str, parts: list[Part[Piece]], status: int, extra: Mapping[str, str]) -> Response:
    return _sent(Writer(kind, parts), status, extra)


def _sent(writer: Writer[Piece] | Writer[bytes], status: int, extra: Mapping[str, str]) -> Response:
    length = writer.length()
    known_length = {} if length is None else {"Content-Length": str(length)}
    return Sending(writer, status, {"Content-Type": writer.content_type, **known_length, **extra})


_STUDY = "/studies/{study}"
_SERIES = f"{_STUDY}/series/{{series}}"
_INSTANCE = f"{_SERIES}/instances/{{instance}}"
_FRAMES = f"{_INSTANCE}/frames/{{numbers}}"
_ROUTES: Mapping[str, Endpoint] = {
    _INSTANCE: instances,
    _FRAMES: frames_of_instance,
    f"{_SERIES}/metadata": headers,
    **{f"{level}/rendered": pictures for level in (_INSTANCE, _FRAMES, _SERIES, _STUDY)},
    **{f"{level}/thumbnail": thumbnail for level in (_INSTANCE, _FRAMES, _SERIES, _STUDY)},
    f"{_INSTANCE}/metadata": headers,
    f"{_STUDY}/metadata": headers,
    _SERIES: instances,
    _STUDY: instances,
    **{f"{level}/bulkdata": every_bulk_value for level in (_INSTANCE, _SERIES, _STUDY)},
    **{f"{level}/pixeldata": pixel_data for level in (_INSTANCE, _SERIES, _STUDY)},
    f"{_INSTANCE}/bulkdata/{{reference:path}}": bulk_value,
}
for _path, _endpoint in _ROUTES.items():
    router.add_api_route(_path, _endpoint, methods=["GET"], response_model=None)
