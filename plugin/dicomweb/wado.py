"""WADO-RS: retrieving instances, their metadata, frames and long binary values (PS3.18 10.4).

Stored bytes go out as they are unless another transfer syntax is asked for; the only other one that we write is
Explicit VR Little Endian. What we made ourselves passes the gate first, on every route.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import StreamingResponse
from pydicom.uid import ExplicitVRLittleEndian

from dicom_io import dataset as whole_files
from dicom_io.errors import Rejected, UndecodablePixels, Unlabelled
from plugin.archive.gate import FileMissing, Gate, check_bytes
from plugin.archive.index import Index, InstanceRow
from plugin.archive.query import AVAILABLE_TRANSFER_SYNTAX
from plugin.dicomweb import frames, media
from plugin.dicomweb.media import ANY_SYNTAX, ANYTHING, DICOM, OCTETS, Wanted
from plugin.dicomweb.multipart import Part, Writer
from plugin.dicomweb.qido import root

router = APIRouter(tags=["WADO-RS"])

_BLOCK_BYTES = 1 << 18
# Binary values up to this length stand in the metadata itself; longer ones are a BulkDataURI.
_INLINE_BYTES = 1 << 16
_BINARY_VRS = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})


class NotAcceptable(Rejected):
    """None of the media types or transfer syntaxes that the client takes can be given."""


@router.get("/studies/{study}")
def study(request: Request, study: str) -> Response:
    """All instances of a study."""
    return _instances(request, _rows(request, study))


@router.get("/studies/{study}/series/{series}")
def series(request: Request, study: str, series: str) -> Response:
    """All instances of a series."""
    return _instances(request, _rows(request, study, series))


@router.get("/studies/{study}/series/{series}/instances/{instance}")
def instance(request: Request, study: str, series: str, instance: str) -> Response:
    """One instance."""
    return _instances(request, _rows(request, study, series, instance))


@router.get("/studies/{study}/metadata")
def study_metadata(request: Request, study: str) -> Response:
    """Headers of a study as JSON."""
    return _metadata(request, _rows(request, study))


@router.get("/studies/{study}/series/{series}/metadata")
def series_metadata(request: Request, study: str, series: str) -> Response:
    """Headers of a series as JSON."""
    return _metadata(request, _rows(request, study, series))


@router.get("/studies/{study}/series/{series}/instances/{instance}/metadata")
def instance_metadata(request: Request, study: str, series: str, instance: str) -> Response:
    """Header of an instance as JSON."""
    return _metadata(request, _rows(request, study, series, instance))


@router.get("/studies/{study}/series/{series}/instances/{instance}/frames/{numbers}")
def frames_of_instance(request: Request, study: str, series: str, instance: str, numbers: str) -> Response:
    """Frames by number from 1, several by comma."""
    (row,) = _cleared(request, _rows(request, study, series, instance))
    if not all(number.isdigit() for number in numbers.split(",")):
        raise HTTPException(400, f"frames/{numbers} is no list of frame numbers; ask for frames/1 or frames/1,2,3")
    try:
        return _frames(request, row, [int(number) for number in numbers.split(",")])
    except frames.NoSuchFrame as error:
        raise HTTPException(404, str(error)) from error
    except NotAcceptable as error:
        raise HTTPException(406, str(error)) from error


@router.get("/studies/{study}/series/{series}/instances/{instance}/bulkdata/{tag}")
def bulk_data(request: Request, study: str, series: str, instance: str, tag: str) -> Response:
    """A long binary value of the header, by its 8-digit tag, as the metadata's BulkDataURI names it."""
    (row,) = _cleared(request, _rows(request, study, series, instance))
    header = whole_files.read(row.path, stop_before_pixels=True)
    is_tag = len(tag) == 8 and all(digit in "0123456789ABCDEFabcdef" for digit in tag)
    element = header.get(int(tag, 16)) if is_tag else None
    if element is None or element.VR not in _BINARY_VRS:
        raise HTTPException(404, f"the instance has no binary attribute {tag} in its header")
    body = bytes(element.value or b"")
    if any(entry.media_type in (OCTETS, ANYTHING) and not entry.multipart for entry in media.wanted(request)):
        return Response(body, media_type=OCTETS)
    return _multipart(OCTETS, [Part(OCTETS, lambda: iter([body]), len(body))])


# Which instances


def _rows(request: Request, study: str, series: str | None = None, instance: str | None = None) -> list[InstanceRow]:
    """The instances that a path names. Raises 404 where there are none."""
    index: Index = request.app.state.archive.index
    if instance is not None:
        row = index.instance(instance)
        found = [row] if row and (row.study_instance_uid, row.series_instance_uid) == (study, series) else []
    else:
        found = index.instances(study, series_instance_uid=series)
    if not found:
        raise HTTPException(404, f"nothing is stored under {request.url.path}; search for what there is with QIDO-RS")
    return found


def _cleared(request: Request, rows: list[InstanceRow]) -> list[InstanceRow]:
    """The instances that may and can leave. Raises Unlabelled or FileMissing where none does."""
    gate: Gate = request.app.state.gate
    cleared: list[InstanceRow] = []
    stopped: Unlabelled | FileMissing | None = None
    for row in rows:
        try:
            gate.check(row)
            cleared.append(row)
        except (Unlabelled, FileMissing) as error:
            stopped = error
    if stopped is not None and not cleared:
        raise stopped
    return cleared


# Whole instances


def _instances(request: Request, rows: list[InstanceRow]) -> Response:
    """Part 10 files, as stored or as Explicit VR Little Endian; 206 where some were held back or are missing."""
    cleared = _cleared(request, rows)
    status = 200 if len(cleared) == len(rows) else 206
    reasons = []
    for entry in media.wanted(request):
        if entry.media_type not in (DICOM, ANYTHING, "application/*"):
            reasons.append(f"{entry.media_type} is not given here")
            continue
        try:
            parts = [_part(row, entry.transfer_syntax) for row in cleared]
        except NotAcceptable as error:
            reasons.append(str(error))
            continue
        if entry.media_type == DICOM and not entry.multipart and len(parts) == 1:
            return _single(parts[0])
        if entry.media_type == DICOM and not entry.multipart:
            reasons.append("several instances need multipart/related")
            continue
        return _multipart(DICOM, parts, status)
    raise HTTPException(406, f"{'; '.join(reasons)}; accept multipart/related of application/dicom")


def _part(row: InstanceRow, transfer_syntax: str) -> Part:
    """One instance in the syntax that is asked for; "" and "*" mean as stored."""
    if transfer_syntax in ("", ANY_SYNTAX, row.transfer_syntax_uid):
        kind = f"{DICOM}; transfer-syntax={row.transfer_syntax_uid}"
        return Part(kind, lambda: _blocks(row.path), row.size)
    if transfer_syntax != ExplicitVRLittleEndian:
        raise NotAcceptable(
            f"instance {row.sop_instance_uid} is stored in {row.transfer_syntax_uid} and cannot be given in "
            f"{transfer_syntax}; ask for it as stored (*) or in {ExplicitVRLittleEndian}"
        )
    _check_decodable(row)
    return Part(f"{DICOM}; transfer-syntax={ExplicitVRLittleEndian}", lambda: iter([_transcoded(row)]))


def _check_decodable(row: InstanceRow) -> None:
    """Before the first byte has left: decode one frame. Raises NotAcceptable."""
    try:
        if row.has_pixels:
            frames.decoded(row.path, 1)
    except UndecodablePixels as error:
        raise NotAcceptable(f"instance {row.sop_instance_uid} cannot be decoded: {error}") from error


def _transcoded(row: InstanceRow) -> bytes:
    dataset = whole_files.read(row.path)
    if dataset.file_meta.TransferSyntaxUID.is_compressed:
        # The object stays the same one, PS3.18 8.7.3.5: it is only carried in another encoding.
        dataset.decompress(generate_instance_uid=False)
    buffer = BytesIO()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    pydicom.dcmwrite(buffer, dataset, implicit_vr=False, little_endian=True, enforce_file_format=True)
    raw = buffer.getvalue()
    check_bytes(row, raw)
    return raw


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            yield block


# Metadata


def _metadata(request: Request, rows: list[InstanceRow]) -> Response:
    media_type = media.accepts_json(request)
    if media_type is None:
        raise HTTPException(406, "metadata are given as application/dicom+json; accept that")
    cleared = _cleared(request, rows)
    body = json.dumps([_header(request, row) for row in cleared], ensure_ascii=False)
    return Response(body, 200 if len(cleared) == len(rows) else 206, media_type=media_type)


def _header(request: Request, row: InstanceRow) -> dict[str, Any]:
    """All attributes but pixel data in the DICOM JSON model; long binary values by reference."""
    url = (
        f"{root(request)}/studies/{row.study_instance_uid}/series/{row.series_instance_uid}"
        f"/instances/{row.sop_instance_uid}"
    )
    header = whole_files.read(row.path, stop_before_pixels=True)
    by_reference = {}
    for element in header:
        if element.VR in _BINARY_VRS and len(element.value or b"") > _INLINE_BYTES:
            tag = f"{int(element.tag):08X}"
            by_reference[tag] = {"vr": element.VR, "BulkDataURI": f"{url}/bulkdata/{tag}"}
    for tag in by_reference:
        del header[int(tag, 16)]
    values: dict[str, Any] = header.to_json_dict(suppress_invalid_tags=True)
    values |= by_reference
    values[AVAILABLE_TRANSFER_SYNTAX] = {"vr": "UI", "Value": [row.transfer_syntax_uid]}
    return dict(sorted(values.items()))


# Frames


def _frames(request: Request, row: InstanceRow, numbers: list[int]) -> Response:
    reasons = []
    for entry in media.wanted(request):
        try:
            kind, parts = _frame_parts(row, numbers, entry)
        except NotAcceptable as error:
            reasons.append(str(error))
            continue
        # One frame may come alone where the client does not insist on multipart.
        if not entry.multipart and entry.media_type not in (ANYTHING, "multipart/*") and len(parts) == 1:
            return _single(parts[0])
        return _multipart(kind, parts)
    raise NotAcceptable(f"{'; '.join(reasons)}; accept multipart/related of application/octet-stream")


def _frame_parts(row: InstanceRow, numbers: list[int], entry: Wanted) -> tuple[str, list[Part]]:
    """(type, parts) of the frames for one entry of Accept.

    Octets without a transfer syntax are Explicit VR Little Endian (PS3.18 8.7.3.5.2); "*" is as stored.
    """
    stored = str(frames.stored_syntax(row.path))
    image_type = media.FRAME_TYPES.get(stored, OCTETS)
    if entry.media_type == OCTETS:
        as_stored = entry.transfer_syntax in (ANY_SYNTAX, stored) or stored == ExplicitVRLittleEndian
        if not as_stored and entry.transfer_syntax not in ("", ExplicitVRLittleEndian):
            raise NotAcceptable(f"frames are stored in {stored} and cannot be given in {entry.transfer_syntax}")
        if as_stored and entry.transfer_syntax not in ("", ANY_SYNTAX, stored):
            raise NotAcceptable(f"frames are stored in {stored} and cannot be given in {entry.transfer_syntax}")
        kind = OCTETS
    elif entry.media_type in (ANYTHING, "image/*", image_type) and entry.transfer_syntax in ("", ANY_SYNTAX, stored):
        as_stored, kind = True, image_type
    else:
        raise NotAcceptable(
            f"frames are stored in {stored} and cannot be given as {entry.media_type} {entry.transfer_syntax}".rstrip()
        )
    try:
        cut = frames.encoded if as_stored else frames.decoded
        bodies = [cut(row.path, number) for number in numbers]
    except UndecodablePixels as error:
        raise NotAcceptable(str(error)) from error
    content_type = f"{kind}; transfer-syntax={stored if as_stored else ExplicitVRLittleEndian}"
    return kind, [Part(content_type, lambda body=body: iter([body]), len(body)) for body in bodies]  # type: ignore[misc]


# Answers


def _single(part: Part) -> Response:
    headers = {} if part.size is None else {"Content-Length": str(part.size)}
    return StreamingResponse(part.body(), headers=headers, media_type=part.content_type)


def _multipart(kind: str, parts: list[Part], status: int = 200) -> Response:
    writer = Writer(kind, parts)
    length = writer.length()
    headers = {"Content-Type": writer.content_type} | ({} if length is None else {"Content-Length": str(length)})
    return StreamingResponse(iter(writer), status, headers=headers)
