"""`mirall delete` and `mirall deletions`: what goes, who saw it, and what was deleted before."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from plugin.cli.archive import AsJson, Config, Data

if TYPE_CHECKING:
    from dicom_io.cohort import Grave
    from plugin.archive.deletion import Extent
    from plugin.settings import Settings


def register(app: typer.Typer) -> None:
    app.command("delete")(delete)
    app.command("deletions")(deletions)


def delete(
    study: Annotated[
        str | None,
        typer.Argument(metavar="[STUDY]", help="Study Instance UID; none: only --cohort, for what was deleted before."),
    ] = None,
    series: Annotated[str | None, typer.Option("--series", help="Only this series (UID).")] = None,
    instance: Annotated[str | None, typer.Option("--instance", help="Only this instance (SOP Instance UID).")] = None,
    cohort: Annotated[
        list[Path] | None, typer.Option("--cohort", help="A cohort that may hold items made from it; repeat for more.")
    ] = None,
    why: Annotated[str, typer.Option("--why", help="Kept with the tombstone; no names of patients.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and change nothing.")] = False,
    config: Config = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Delete a study, a series or an instance for good, and list the model versions that saw it.

    All versions of its files go, refused copies too; jobs on it are cancelled and nothing of it is sent any more. Items
    of the cohorts that are named are left out from then on; their files stay. What is sent again is stored again.

    Example: mirall delete 2.25.1001 --cohort cohorts/brain --why "consent withdrawn" --dry-run
    """
    from dicom_io import cohort as cohorts
    from plugin import settings
    from plugin.archive import deletion, tombstones
    from plugin.archive.ingest import open_archive
    from plugin.registry import Registry

    loaded = settings.load(config, data=data)
    archive = open_archive(loaded)
    target = _target(study, series, instance, cohort or [])
    extent = None if target is None else deletion.survey(archive, target)
    doomed = () if extent is None else extent.sop_instance_uids
    graves = _graves(loaded, cohort or [], {*doomed, *tombstones.deleted_uids(archive.index)})
    hashes = {each for _, grave in graves if grave.items for each in grave.data_hashes}
    models = Registry(loaded.models).trained_on(hashes)
    report = _report(extent, graves, models) | {"dry_run": dry_run}
    print(json.dumps(report, indent=1) if as_json else "\n".join(_lines(report)))
    if dry_run:
        return
    if not yes:
        typer.confirm("Delete it for good?", abort=True, err=True)
    if target is not None:
        deletion.remove(archive, target, by=_user(), why=why, models=models)
    for folder, grave in graves:
        cohorts.bury(folder, grave, why or "its source was deleted")


def deletions(
    study: Annotated[str | None, typer.Option("--study", help="Only of this study (UID).")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 100,
    config: Config = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """What was deleted: when, by whom, why, and which model versions had seen it.

    Example: mirall deletions --json
    """
    from plugin import settings
    from plugin.archive import tombstones
    from plugin.archive.ingest import open_archive

    found = tombstones.deletions(open_archive(settings.load(config, data=data)).index, study, limit)
    if as_json:
        print(json.dumps([each.to_json() for each in found], indent=1))
        return
    for each in found:
        uid = each.sop_instance_uid or each.series_instance_uid or each.study_instance_uid
        when = datetime.fromtimestamp(each.at).isoformat(" ", "seconds")
        back = f", {each.back} sent again since" if each.back else ""
        print(f"{each.id}  {when}  {each.level} {uid}: {each.instances} instances{back}; by {each.by}: {each.why}")
        if each.models:
            print(f"    seen by {', '.join(each.models)}")
    if not found:
        print("nothing was deleted")


def _target(study: str | None, series: str | None, instance: str | None, cohorts: Sequence[Path]) -> Any:
    """Raises BadParameter where it cannot be told what is meant."""
    from plugin.archive.deletion import Target

    if "" in (study, series, instance):
        # Most probably a variable of a script that is not set; without it, more than was meant would go.
        raise typer.BadParameter("a UID is empty; give it, or leave its option out")
    if study is not None:
        return Target(study, series or "", instance or "")
    if series or instance or not cohorts:
        raise typer.BadParameter("give the Study Instance UID, also of a series or an instance")
    return None


def _graves(settings: Settings, folders: Sequence[Path], uids: Collection[str]) -> list[tuple[Path, Grave]]:
    """What of these cohorts was made from these instances. Raises Rejected where that cannot be told."""
    from dicom_io import cohort as cohorts
    from dicom_io.errors import Rejected
    from dicom_io.pseudonym import pseudonym, site_key

    if not folders:
        return []
    path = settings.data / "cohort.key"
    if not path.is_file():
        raise Rejected(
            f"{path} is not there, so it cannot be told which items of {folders[0]} were made from the study; give the "
            "--data folder that the cohort was made with"
        )
    key = site_key(path)
    hidden = frozenset(pseudonym(key, uid) for uid in uids)
    return [(folder, cohorts.made_from(folder, hidden)) for folder in folders]


def _report(extent: Extent | None, graves: Sequence[tuple[Path, Grave]], models: Sequence[str]) -> dict[str, Any]:
    rows = [
        {"folder": str(folder), "name": grave.cohort, "items": list(grave.items), "splits": list(grave.splits)}
        for folder, grave in graves
    ]
    return (extent.to_json() if extent else {}) | {"cohorts": rows, "trained_on_it": list(models)}


def _lines(report: dict[str, Any]) -> list[str]:
    lines = []
    if "level" in report:
        uid = report["sop_instance_uid"] or report["series_instance_uid"] or report["study_instance_uid"]
        lines.append(
            f"{report['level']} {uid}: {report['instances']} instances, {report['versions']} earlier versions, "
            f"{report['quarantined']} refused copies, {report['size'] / 1e6:.1f} MB"
        )
        lines += [f"  job {job} is cancelled" for job in report["jobs"]]
        if report["deliveries"]:
            lines.append(f"  {report['deliveries']} deliveries are not sent any more")
        lines += [f"  result {uid}, made from it, stays" for uid in report["results_left"]]
        lines += [f"  model version {model} ran on it" for model in report["predicted_by"]]
    for row in report["cohorts"]:
        where = f" ({', '.join(row['splits'])})" if row["items"] else ""
        lines.append(f"cohort {row['folder']}: {len(row['items'])} items are left out from now on{where}")
    lines += [f"model version {model} was trained on it" for model in report["trained_on_it"]]
    return lines


def _user() -> str:
    import getpass

    return f"{getpass.getuser()} (command line)"
