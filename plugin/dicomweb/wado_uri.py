"""WADO-URI, for viewers from before DICOMweb: one instance or picture by query parameters (PS3.18 9).

    GET /wado?requestType=WADO&studyUID=...&seriesUID=...&objectUID=...[&contentType=...]

The answers are those of WADO-RS: the same gate, windows, marks and encodings.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from fastapi import APIRouter, HTTPException
from starlette.requests import Request
from starlette.responses import Response

from plugin.dicomweb import media, rendered, resources, wado
from plugin.dicomweb.media import DICOM, Wanted
from plugin.dicomweb.rendered import BadView, View
from plugin.dicomweb.resources import Held
from plugin.dicomweb.routing import Direct
from plugin.dicomweb.sending import in_worker

router = APIRouter(tags=["WADO-URI"], route_class=Direct)

_NEEDED = ("requestType", "studyUID", "seriesUID", "objectUID")


async def retrieve(request: Request) -> Response:
    """One instance, or one of its frames as a picture."""
    asked = request.query_params
    _check(asked)
    row = await resources.instance(request, asked["studyUID"], asked["seriesUID"], asked["objectUID"])
    # Both ways to say it are as old as each other; the parameter is the one of this service.
    wanted = media.entries(asked["contentType"].replace(" ", "+")) if "contentType" in asked else media.wanted(request)
    if wanted[0].media_type == DICOM:
        return await _instance(request, row, wanted[0], asked)
    if rendered.is_document(row):
        return wado.document(request, row, *await in_worker(partial(rendered.document, row)), wanted)
    kind, _ = wado.picture_format(wanted)
    view = _view(asked)
    number = asked.get("frameNumber", "1")
    if not number.isdecimal():
        raise BadView(f"frameNumber={number} is no frame number; give 1 or more")
    return await in_worker(partial(wado.picture, request, row, int(number), view, kind, view.warnings))


def _check(asked: Mapping[str, str]) -> None:
    """Raises 400 where something is missing, or asked for that we do not do."""
    for name in _NEEDED:
        if not asked.get(name):
            raise HTTPException(400, f"{name} is missing; WADO-URI needs {', '.join(_NEEDED)}")
    if asked["requestType"] != "WADO":
        raise HTTPException(400, f"requestType={asked['requestType']} is not WADO; there is no other")
    if asked.get("anonymize", "no") != "no":
        raise HTTPException(400, "objects are given as they are: anonymize is not done here; leave it out")
    if "presentationUID" in asked:
        raise HTTPException(400, "presentation states are not applied here; leave presentationUID out")


async def _instance(request: Request, row: Held, wanted: Wanted, asked: Mapping[str, str]) -> Response:
    syntax = asked.get("transferSyntax") or wanted.transfer_syntax
    return await wado.instance(request, row, wado.instance_syntax(row, [syntax]))


def _view(asked: Mapping[str, str]) -> View:
    """What of the picture is asked for (PS3.18 9.5.1.2). Raises BadView."""
    window = None
    if "windowCenter" in asked or "windowWidth" in asked:
        centre, width = asked.get("windowCenter", ""), asked.get("windowWidth", "")
        window = rendered.window(centre, width, "LINEAR", "windowCenter,windowWidth")
    viewport = None
    if "rows" in asked or "columns" in asked:
        largest = str(rendered.LARGEST_PX)
        viewport = rendered.size(asked.get("columns", largest), asked.get("rows", largest), "columns,rows")
    common = {name: asked[name] for name in ("annotation",) if name in asked}
    return View(
        viewport=viewport,
        region=_region(asked.get("region")),
        in_shares=True,
        window=window,
        quality=rendered.quality(asked.get("imageQuality"), "imageQuality"),
        warnings=rendered.view(common).warnings,
    )


def _region(text: str | None) -> tuple[float, float, float, float] | None:
    """(left, top, width, height) in shares of the image, from xmin,ymin,xmax,ymax. Raises BadView."""
    if text is None:
        return None
    try:
        left, top, right, bottom = (float(part) for part in text.split(","))
    except ValueError as error:
        raise BadView(f"region={text} must be xmin,ymin,xmax,ymax, each from 0 to 1") from error
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise BadView(f"region={text} must be xmin,ymin,xmax,ymax, each from 0 to 1, the first two the smaller")
    return left, top, right - left, bottom - top


router.add_api_route("/wado", retrieve, methods=["GET"], response_model=None)
