"""DELETE of a study, a series or an instance, below /dicom-web/studies. Who may: `plugin.security.access`.

PS3.18 has no transaction for it; the paths are those of its resources, and the answers what archives commonly give: 204
when it is gone, 404 where it is not there.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from plugin.archive.deletion import Target, remove
from plugin.archive.ingest import Ingest
from plugin.security.access import Caller

router = APIRouter(tags=["deletion"])

Why = Annotated[str, Query(max_length=1000, description="Kept with the tombstone; no names of patients.")]


@router.delete("/studies/{study}", status_code=204)
def delete_study(request: Request, study: str, why: Why = "") -> Response:
    """Delete a study: all versions of its files, what is owed of it, and the jobs on it."""
    return _remove(request, Target(study), why)


@router.delete("/studies/{study}/series/{series}", status_code=204)
def delete_series(request: Request, study: str, series: str, why: Why = "") -> Response:
    """Delete a series; the routes look anew at what is left of the study."""
    return _remove(request, Target(study, series), why)


@router.delete("/studies/{study}/series/{series}/instances/{instance}", status_code=204)
def delete_instance(request: Request, study: str, series: str, instance: str, why: Why = "") -> Response:
    """Delete an instance; the routes look anew at what is left of the study."""
    return _remove(request, Target(study, series, instance), why)


def _remove(request: Request, target: Target, why: str) -> Response:
    archive: Ingest = request.app.state.archive
    caller: Caller = request.state.caller
    remove(archive, target, by=caller.name, why=why)
    return Response(status_code=204)
